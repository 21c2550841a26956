"""From what came over time to one sample of a rate, and the order in which mirrors are measured: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fastxfer.plan.ranges import Span

# Of the time or of the bytes of a slice, whichever is over first: connections open, windows grow, and what
# servers give in advance is used up.
WARM_UP = 0.25
# A shorter stretch says nothing.
LEAST_S = 0.0005
LEAST_RANGE = 64 * 1024
# Of what came before: the end of a burst trickles out of buffers.
NEARLY_NOTHING = 0.1
# Of the time that is looked at: what brings a twentieth of the bytes in more than a fifth of it.
LONG_SILENCE = 0.2

Point = tuple[float, int]
"""Seconds, and how many bytes had come by then."""
Turn = tuple[int, int]
"""Which mirror, over how many connections; 0 for a look at it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice: bytes a second after the warm-up, and over both halves of that. `at_s` since the beginning
    of all.
    """

    at_s: float
    rate: float
    first_half: float
    second_half: float


def sample_of(
    points: Sequence[Point],
    slice_s: float,
    slice_bytes: int,
    at_s: float = 0.0,
    *,
    silence_counts: bool = False,
) -> Sample:
    """Returns the sample of a slice; `points` begin with the first byte.

    Servers that limit a rate often send a second's bytes at once. So it is measured from one arrival to
    another, and what is silent after the last one is not counted, unless `silence_counts`: where requests
    failed there is a reason for it.
    """
    if len(points) < 2:
        return Sample(at_s, 0.0, 0.0, 0.0)
    last = len(points) - 1
    warm = _warm(points, slice_s, slice_bytes)
    ended_early = points[last][0] - points[0][0] < slice_s and points[last][1] == points[warm][1]
    mark = 0 if warm == last or ended_early else _last_arrival(points, 0, warm)
    if not silence_counts:
        last = _last_arrival(points, mark, last)
    if points[last][0] - points[mark][0] < LEAST_S:
        last = len(points) - 1
    middle = (points[mark][0] + points[last][0]) / 2
    half = max(i for i, (now, _) in enumerate(points) if now <= middle or i == mark)
    whole = _rate(points, mark, last)
    return Sample(at_s, whole, _rate(points, mark, half), _rate(points, half, last))


def _warm(points: Sequence[Point], slice_s: float, slice_bytes: int) -> int:
    """Returns which point is the first after the warm-up, or the last of all."""
    for place, (now, count) in enumerate(points):
        if now - points[0][0] >= WARM_UP * slice_s or count >= WARM_UP * slice_bytes:
            return place
    return len(points) - 1


def _arrival(points: Sequence[Point], place: int, slack: float) -> int:
    """Returns at which point what was there at another had come, but for a trickle of `slack` bytes."""
    wanted = points[place][1] - slack
    while place > 0 and points[place - 1][1] >= wanted:
        place -= 1
    return place


def _last_arrival(points: Sequence[Point], since: int, place: int) -> int:
    """Returns the last arrival before a point; a trickle after a long silence is none."""
    slack = NEARLY_NOTHING / 2 * (points[place][1] - points[since][1])
    nearly = _arrival(points, place, slack)
    quiet = points[place][0] - points[nearly][0] >= LONG_SILENCE * (points[place][0] - points[since][0])
    return max(since, nearly if quiet else _arrival(points, place, 0))


def still_silent(points: Sequence[Point], slice_s: float, slice_bytes: int) -> bool:
    """Returns whether nothing, or nearly so, has come since the warm-up."""
    if not points:
        return True
    before = points[_warm(points, slice_s, slice_bytes)][1]
    return points[-1][1] - before <= NEARLY_NOTHING * before


def quiet_s(points: Sequence[Point]) -> float:
    """Returns for how long nothing has come."""
    return points[-1][0] - points[_arrival(points, len(points) - 1, 0)][0] if points else 0.0


def _rate(points: Sequence[Point], start: int, stop: int) -> float:
    seconds = points[stop][0] - points[start][0]
    return (points[stop][1] - points[start][1]) / seconds if seconds > 0 else 0.0


def turns_of(mirrors: Sequence[int], counts: Sequence[int], rounds: int, random: Random) -> list[list[Turn]]:
    """Returns for each round what is measured in it, in an order that is shuffled anew: all mirrors at all
    numbers of connections, and one look at each mirror.
    """
    found = []
    for _ in range(rounds):
        turns = [(mirror, count) for mirror in mirrors for count in (0, *counts)]
        random.shuffle(turns)
        found.append(turns)
    return found


def random_span(size: int, room: int, random: Random) -> Span:
    """Returns a range of an object of `size` bytes, of `room` bytes or what there is, anywhere in it."""
    length = min(size, max(room, LEAST_RANGE))
    start = random.randrange(size - length + 1)
    return start, start + length
