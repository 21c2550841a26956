"""Which mirror a request goes to: pure, the clock an argument.

A mirror is *waiting* until its bytes are known to be the object's, then *admitted*, or *banned* with a
reason, for good. An admitted one *rests* after a failure, longer after each in a row, and a while when it
is much slower than the others. A free request goes where the share is largest that is not used: a mirror's
share of the connections is that of its measured rate, and one whose rate is not known gets what the others
have on average.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import field

from fastxfer.plan.ranges import Span, length
from fastxfer.plan.rates import RateMeter
from fastxfer.plan.retry import backoff_s
from fastxfer.values import dataclass

COOL_DOWN_S = 60.0
RECOVERY_S = 5.0
# A request to a mirror this much slower than another's is worth less than the wait for its end.
SLOW_FACTOR = 16.0
SLOW_AFTER_S = 5.0
SLOW_REST_S = 30.0

SAMPLES = 4
# Beside the latency of a request, this much costs nothing.
SAMPLE_BYTES = 16 * 1024


@dataclass(slots=True)
class _Standing:
    admitted: bool = False
    banned: str | None = None
    failures: int = 0  # in a row
    rest_until: float = 0.0
    cap: int | None = None  # most requests at once, after it said that it is overloaded
    capped_at: float = 0.0
    meter: RateMeter = field(default_factory=RateMeter)
    clock: float = 0.0  # seconds in which it had requests
    looked_at: float | None = None
    per_request: float = 0.0  # bytes a second on each of its requests


class Shares:
    """The mirrors of one transfer, by number. `running` is how many requests each has now."""

    def __init__(self, count: int, connections: int, retries: int) -> None:
        self._all = [_Standing() for _ in range(count)]
        self._connections = connections
        self._retries = retries

    # ---- what is known of each ----

    def admit(self, index: int) -> None:
        """Its bytes are the object's: requests may go to it."""
        self._all[index].admitted = True
        self._all[index].banned = None

    def withdraw(self, index: int) -> None:
        """Its bytes have to be proven again."""
        self._all[index].admitted = False

    def ban(self, index: int, reason: str) -> None:
        """No request goes to it any more; the first reason stays."""
        each = self._all[index]
        each.banned = each.banned or reason

    def pardon(self, index: int) -> None:
        """A ban is taken back."""
        self._all[index].banned = None

    def reason(self, index: int) -> str | None:
        """Returns why it is banned, or None when it is not."""
        return self._all[index].banned

    def is_admitted(self, index: int) -> bool:
        """Returns whether requests may go to it, now or after a rest."""
        return self._all[index].admitted and self._all[index].banned is None

    def moved(self, index: int) -> None:
        """Bytes came from it."""
        self._all[index].failures = 0

    def failed(
        self, index: int, jitter: float, now: float, *, wait_s: float = 0.0, running: int | None = None
    ) -> float:
        """Lets it rest after a failure, at least `wait_s`; returns for how long.

        `running` is given when it said that it is overloaded: it then gets one request less than it had.
        """
        each = self._all[index]
        if now >= each.rest_until:  # those that were out together fail together, once
            each.failures += 1
        others = any(not other.banned and other.failures <= self._retries for other in self._all)
        # While another one serves there is no hurry to ask it again.
        rest_s = COOL_DOWN_S if self.is_down(index) and others else backoff_s(each.failures, jitter)
        rest_s = max(rest_s, wait_s)
        each.rest_until = max(each.rest_until, now + rest_s)
        if running is not None:
            each.cap, each.capped_at = max(1, running - 1), now
        return rest_s

    def rest_s(self, index: int, now: float) -> float:
        """Returns for how long it is to rest yet."""
        return max(0.0, self._all[index].rest_until - now)

    def rests(self, index: int, now: float) -> bool:
        """Returns whether it rests now."""
        return self._all[index].rest_until > now

    def is_down(self, index: int) -> bool:
        """Returns whether it failed so often in a row that nothing is to be expected of it."""
        return self._all[index].failures > self._retries

    def measured(self, index: int, total: int, running: int, now: float) -> None:
        """Takes how many bytes have come from it in all."""
        each = self._all[index]
        before, each.looked_at = each.looked_at, now
        if not running:
            each.looked_at = None  # a time without requests says nothing about its rate
            return
        if before is not None:
            each.clock += max(0.0, now - before)
        rate = each.meter.update(total, each.clock)
        if rate:
            each.per_request = rate / running

    # ---- where requests go ----

    def usable(self, now: float) -> list[int]:
        """Returns those that may get a request now."""
        return [
            index
            for index, each in enumerate(self._all)
            if each.admitted and each.banned is None and each.rest_until <= now
        ]

    def pick(self, running: Sequence[int], now: float, without: Collection[int] = ()) -> int | None:
        """Returns the one that a free request goes to, or None when all rest, are banned or have enough, or
        are among those to do `without`.
        """
        usable = [
            index
            for index in self.usable(now)
            if running[index] < self._cap(index, now) and index not in without
        ]
        if not usable:
            return None
        targets = self.targets(usable)
        fresh = [index for index in usable if not self._all[index].clock and not running[index]]
        return max(fresh or usable, key=lambda index: (targets[index] - running[index], -index))

    def targets(self, usable: Iterable[int]) -> dict[int, float]:
        """Returns how many of the connections each of `usable` is to have."""
        rates = {index: self._all[index].meter.rate for index in usable}
        known = [rate for rate in rates.values() if rate]
        typical = sum(known) / len(known) if known else 1.0
        weights = {index: rate or typical for index, rate in rates.items()}
        total = sum(weights.values())
        # One each, to know how fast it is.
        least = min(1.0, self._connections / (2 * len(weights))) if weights else 0.0
        spread = self._connections - least * len(weights)
        return {index: least + spread * weight / total for index, weight in weights.items()}

    def to_move(self, running: Sequence[int], now: float) -> dict[int, int]:
        """Returns how many requests to take from those that have more than their share, for those that have
        none at all.
        """
        usable = self.usable(now)
        targets = self.targets(usable)
        wanted = sum(int(targets[index]) for index in usable if not running[index])
        moves: dict[int, int] = {}
        for index in sorted(usable, key=lambda each: targets[each] - running[each]):
            over = min(wanted, running[index] - max(1, round(targets[index])))
            if over > 0:
                moves[index] = over
                wanted -= over
        return moves

    def too_slow(self, running: Sequence[int], now: float) -> list[int]:
        """Lets those rest whose requests are much slower than another's, and returns them."""
        usable = self.usable(now)
        best = max((self._all[index].per_request for index in usable), default=0.0)
        slow = []
        for index in usable:
            each = self._all[index]
            long_enough = each.clock >= SLOW_AFTER_S and running[index]
            if long_enough and each.per_request * SLOW_FACTOR < best:
                each.rest_until = now + SLOW_REST_S
                each.clock, each.per_request, each.meter = 0.0, 0.0, RateMeter()
                slow.append(index)
        return slow

    def _cap(self, index: int, now: float) -> float:
        each = self._all[index]
        if each.cap is None:
            return float("inf")
        steps = int((now - each.capped_at) / RECOVERY_S)
        if steps > 0:
            each.cap, each.capped_at = each.cap + steps, each.capped_at + steps * RECOVERY_S
        if each.cap >= self._connections:
            each.cap = None
            return float("inf")
        return each.cap


def sample_spans(within: Sequence[Span], fractions: Iterable[float]) -> list[Span]:
    """Returns ranges by which two copies of an object are compared: up to SAMPLES of SAMPLE_BYTES each, the
    last bytes of `within` among them, the others at `fractions` (in [0, 1)) of it. A little is taken whole.
    """
    total = length(list(within))
    if total <= SAMPLES * SAMPLE_BYTES:
        return [piece for span in within for piece in _cut(span)]
    start, stop = within[-1]
    spans = [(max(start, stop - SAMPLE_BYTES), stop)]
    for fraction in fractions:
        offset = int(fraction * total)
        for start, stop in within:
            if offset < stop - start:
                at = max(start, min(start + offset, stop - SAMPLE_BYTES))
                span = (at, min(at + SAMPLE_BYTES, stop))
                if not any(span[0] < end and begin < span[1] for begin, end in spans):
                    spans.append(span)
                break
            offset -= stop - start
        if len(spans) == SAMPLES:
            break
    return sorted(spans)


def _cut(span: Span) -> list[Span]:
    starts = range(span[0], span[1], SAMPLE_BYTES)
    return [(start, min(start + SAMPLE_BYTES, span[1])) for start in starts]
