"""What is said of mirrors: why one is slow, how they rank, and what to ask of each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from fastxfer.mirrorbench.report import BenchRow, ConnectionRate, shown_rate
from fastxfer.mirrorbench.sampling import Sample
from fastxfer.units import format_size

Finding = tuple[str, str]

# More connections bring no more where the most bring less than so much of what the fewest do ...
FLAT = 1.4
# ... and each brings its own where they bring at least so much of what that would be; either at those ends of
# the intervals that speak against it.
LINEAR = 0.6
# A mirror is far whose answer takes so many times as long as the nearest's, and so much longer.
FAR_TIMES = 3.0
FAR_MORE_S = 0.02
# A rate rises or falls within the rounds where one half brings so many times what the other does, in nearly
# all of them.
SLOPE = 1.5
MOST_ROUNDS = 0.8
LEAST_ROUNDS = 3
# While an answer is waited for nothing comes: a chunk is to take so many times as long.
WAITS_A_CHUNK = 16
LEAST_CHUNK, MOST_CHUNK = 256 << 10, 16 << 20


def interval_above(one: BenchRow | ConnectionRate, other: BenchRow | ConnectionRate) -> bool:
    """Returns whether one is shown to be faster than another: their intervals part."""
    if one.rate_low is None or other.rate_high is None:
        return False
    return one.rate_low > other.rate_high


def best_of(rates: Sequence[ConnectionRate]) -> ConnectionRate | None:
    """Returns the one with the highest rate."""
    return max(rates, key=lambda each: each.rate, default=None)


def advised(rates: Sequence[ConnectionRate]) -> ConnectionRate | None:
    """Returns the one with the fewest connections that is not shown to be slower than the best."""
    best = best_of(rates)
    if best is None or best.rate <= 0:
        return None
    enough = [each for each in rates if not interval_above(best, each)]
    return min(enough, key=lambda each: each.connections)


def chunk_size(rate: float, connections: int, wait_s: float) -> int:
    """Returns a chunk's size for a rate of so many connections, and answers that take so long to begin."""
    wanted = min(rate / connections * wait_s * WAITS_A_CHUNK, float(MOST_CHUNK))
    size = LEAST_CHUNK
    while size < wanted:
        size *= 2
    return size


def slope(samples: Sequence[Sample]) -> Finding | None:
    """Returns whether the rate rises, or falls, within nearly every round."""
    told = [each for each in samples if each.first_half > 0]
    if len(told) < LEAST_ROUNDS:
        return None
    rising = sum(each.second_half >= SLOPE * each.first_half for each in told)
    falling = sum(each.first_half >= SLOPE * each.second_half for each in told)
    if rising >= MOST_ROUNDS * len(told):
        return "rising", "its rate still rises when a round ends: a longer duration would show more"
    if falling >= MOST_ROUNDS * len(told):
        return "falling", "its rate falls after the first bytes of a request"
    return None


def beside_others(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Returns the rows with what only a look at all of them shows."""
    usable = [row for row in rows if row.usable]
    nearest = min((row.first_byte for row in usable if row.first_byte is not None), default=None)
    found = []
    for row in rows:
        more = []
        if row.error is None:
            far = _far(row, nearest)
            limit = _limit(row, [other for other in usable if other is not row])
            more = [each for each in (far, limit) if each is not None]
        found.append(
            replace(
                row,
                findings=(*row.findings, *(code for code, _ in more)),
                notes=(*row.notes, *(text for _, text in more)),
            )
        )
    return found


def _far(row: BenchRow, nearest: float | None) -> Finding | None:
    mine = row.first_byte
    if mine is None or nearest is None or row.first_byte_low is None:
        return None
    if row.first_byte_low <= FAR_TIMES * nearest + FAR_MORE_S:
        return None
    times = f"{1000 * mine:.0f} ms, from the nearest {1000 * nearest:.0f} ms"
    return "far", f"far: the first byte takes {times}"


def _limit(row: BenchRow, others: Sequence[BenchRow]) -> Finding | None:
    rates = [each for each in row.by_connections if each.rate > 0]
    if len(rates) < 2:
        return None
    few, many = rates[0], rates[-1]
    more = many.connections / few.connections
    if (many.rate_low or 0.0) >= LINEAR * more * (few.rate_high or math.inf):
        each = format_size(few.rate / few.connections)
        return "connection-limited", f"each connection brings about {each}/s: more of them bring more"
    flat = (many.rate_high or math.inf) < FLAT * (few.rate_low or 0.0)
    if flat and any(interval_above(other, row) for other in others):
        most = format_size(row.rate or 0.0)
        return "limited", f"limited to about {most}/s, over however many connections"
    return None


def ranked(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Returns the rows, the best first: by rate, what has none by latency; then those with another object,
    then those that do not answer.
    """

    def key(row: BenchRow) -> tuple[int, float, float]:
        group = 2 if row.error is not None else 1 if row.same_object is False else 0
        first_byte = row.first_byte if row.first_byte is not None else float("inf")
        return group, -(row.rate or 0.0), first_byte

    return sorted(rows, key=key)


def verdicts(rows: Sequence[BenchRow]) -> tuple[str, ...]:
    """Returns what is shown of each two neighbours in the ranking that may be used."""
    usable = [row for row in rows if row.usable]
    return tuple(_verdict(one, other) for one, other in pairwise(usable))


def _verdict(one: BenchRow, other: BenchRow) -> str:
    if interval_above(one, other):
        return f"{one.url} is faster than {other.url}: {shown_rate(one)} over {shown_rate(other)}"
    if one.rate is None and other.rate is None and _sooner(one, other):
        return f"{one.url} answers sooner than {other.url}"
    return f"no difference shown between {one.url} and {other.url}"


def _sooner(one: BenchRow, other: BenchRow) -> bool:
    if one.first_byte_high is None or other.first_byte_low is None:
        return False
    return one.first_byte_high < other.first_byte_low
