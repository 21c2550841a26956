"""Which part of an upload is sent when: the sizes of parts, what goes next, what waits for another try, and
what a store's list of parts confirms.

Pure: `Parts` is a frozen value, and each event returns another one; the time and the jitter are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from fastxfer.errors import OptionError
from fastxfer.plan.retry import backoff_s

MAX_PARTS = 10_000
MIN_PART = 100 << 10
AMAZON_MIN_PART = 5 << 20
"""The least size of a part but the last. Other stores of S3's kind have limits of their own, and tell them
only at the end (EntityTooSmall).
"""
MAX_PART = 5 << 30
DEFAULT_PART = 8 << 20
_STEP = 1 << 20
_SAME_SIZE = 1000
_RISE = 4
"""So many parts must arrive before one more is sent at once, after the store asked to be asked less."""


@dataclass(frozen=True, slots=True)
class PartGrid:
    """How a file is cut: parts are numbered from 1, all but the last of `part_size` bytes."""

    size: int
    part_size: int

    @property
    def count(self) -> int:
        """The number of parts; an empty file has one."""
        return max(1, -(-self.size // self.part_size))

    def span(self, number: int) -> tuple[int, int]:
        """Returns the half-open range of bytes of a part."""
        if not 1 <= number <= self.count:
            raise ValueError(f"there is no part {number}")
        start = (number - 1) * self.part_size
        return start, min(self.size, start + self.part_size)

    def length(self, number: int) -> int:
        """Returns the bytes of a part."""
        start, stop = self.span(number)
        return stop - start


@dataclass(frozen=True, slots=True)
class Pieces(PartGrid):
    """How a stream was cut so far: parts of these lengths."""

    lengths: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """The number of parts so far."""
        return len(self.lengths)

    def span(self, number: int) -> tuple[int, int]:
        """Returns the half-open range of bytes of a part."""
        start = sum(self.lengths[: number - 1])
        return start, start + self.lengths[number - 1]

    def length(self, number: int) -> int:
        """Returns the bytes of a part."""
        return self.lengths[number - 1]

    def and_(self, length: int) -> Pieces:
        """Returns the same with one part more."""
        return Pieces(self.size + length, self.part_size, (*self.lengths, length))


def growing_part(number: int, first: int, most: int) -> int:
    """Returns the size of a part of an object whose size nobody knows: twice as large after each thousand
    parts, up to `most`, so that MAX_PARTS go far.
    """
    return int(max(first, min(most, first << min(40, (number - 1) // _SAME_SIZE))))


def grid_for(size: int, wanted: int | None, least: int = MIN_PART) -> PartGrid:
    """Returns how a file of `size` bytes is cut, into parts of `wanted` bytes or of the default; larger ones
    where MAX_PARTS would not do, in steps of 1 MiB. `least` is the least size that the store takes.

    Raises OptionError for a size that the store does not take, and for a file that no 10,000 parts hold.
    """
    part_size = DEFAULT_PART if wanted is None else wanted
    if not least <= part_size <= MAX_PART:
        raise OptionError(f"option part_size: must be {_shown(least)} to 5 GiB for this store")
    needed = -(-size // MAX_PARTS)
    if needed > part_size:
        part_size = -(-needed // _STEP) * _STEP
    if part_size > MAX_PART:
        raise OptionError(f"the file is too large: a store takes {MAX_PARTS} parts of 5 GiB at the most")
    return PartGrid(size, part_size)


def _shown(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


@dataclass(frozen=True, slots=True)
class Listed:
    """A part as the store lists it, or as we know it: its size, its ETag without quotes, and the CRC-64 in
    hex where that is known.
    """

    size: int
    etag: str
    crc: str = ""


def unquoted(etag: str) -> str:
    """Returns an ETag to compare: without quotes, and in lower case (OSS writes MD5s in capitals)."""
    return etag.strip().strip('"').lower()


def merged(parts: Iterable[tuple[int, Listed]]) -> dict[int, Listed | None]:
    """Returns what a store lists, by number. A part that it lists twice, in different words, is None: nobody
    can tell which of them counts.
    """
    found: dict[int, Listed | None] = {}
    for number, part in parts:
        found[number] = part if number not in found or found[number] == part else None
    return found


def is_confirmed(listed: Listed | None, ours: Listed, known_etag: str, md5: str) -> bool:
    """Returns whether a part that the store lists is the one that the file has now.

    `ours` is what the file has, `known_etag` what the store answered when a part with that very CRC was sent,
    "" for unknown, `md5` that of the file's bytes, "" where it was not reckoned.
    """
    if listed is None or listed.size != ours.size:
        return False
    if listed.crc:
        return listed.crc == ours.crc
    etag = unquoted(listed.etag)
    return bool(etag) and etag in (unquoted(known_etag), md5)


@dataclass(frozen=True, slots=True)
class Parts:
    """The state of an upload's parts.

    `done` and `out` (being sent) hold numbers; `waiting` those that failed, with when they go again;
    `failures` how often in a row each did. `allowed` is how many may be out at once now, `rest_until` when
    the store may be asked again. `lost` is the number of a part that failed too often, 0 for none.
    """

    count: int
    most: int
    retries: int
    allowed: int
    done: frozenset[int] = frozenset()
    out: frozenset[int] = frozenset()
    waiting: tuple[tuple[float, int], ...] = ()
    failures: tuple[tuple[int, int], ...] = ()
    fresh: int = 1
    """All numbers under it have been sent before, or were confirmed."""
    rest_until: float = 0.0
    strains: int = 0
    """How often in a row the store asked to be asked less."""
    arrived: int = 0
    """Parts since `allowed` changed."""
    lost: int = 0

    @classmethod
    def of(cls, count: int, connections: int, retries: int, confirmed: Iterable[int] = ()) -> Parts:
        """Returns the state at the beginning; `confirmed` parts are with the store already."""
        return cls(count, connections, retries, connections, frozenset(confirmed))

    @property
    def complete(self) -> bool:
        """True when the store has all of them."""
        return len(self.done) == self.count

    def next(self, now: float) -> tuple[Parts, int | None]:
        """Returns the state after a part was taken to be sent, and its number; None when none may go now.

        Those that failed go first, when their time has come: so the front gets whole.
        """
        if self.lost or now < self.rest_until or len(self.out) >= self.allowed:
            return self, None
        due = [entry for entry in self.waiting if entry[0] <= now]
        if due:
            number = min(entry[1] for entry in due)
            left = tuple(entry for entry in self.waiting if entry[1] != number)
            return replace(self, waiting=left, out=self.out | {number}), number
        held = {number for _, number in self.waiting}
        number = self.fresh
        while number <= self.count and (number in self.done or number in self.out or number in held):
            number += 1
        if number > self.count:
            return replace(self, fresh=number), None
        return replace(self, fresh=number + 1, out=self.out | {number}), number

    def due(self) -> float | None:
        """Returns when `next` may have another part, if nothing else happens; None for no such time."""
        if self.lost or len(self.out) >= self.allowed:
            return None
        if self.fresh <= self.count:
            return self.rest_until
        first = min((when for when, _ in self.waiting), default=None)
        return None if first is None else max(first, self.rest_until)

    def sent(self, number: int) -> Parts:
        """Returns the state after the store confirmed a part."""
        arrived, allowed = self.arrived + 1, self.allowed
        if allowed < self.most and arrived >= _RISE * allowed:
            arrived, allowed = 0, allowed + 1
        return replace(
            self,
            done=self.done | {number},
            out=self.out - {number},
            failures=_without(self.failures, number),
            arrived=arrived,
            allowed=allowed,
            strains=0,
        )

    def failed(self, number: int, now: float, jitter: float) -> Parts:
        """Returns the state after a part failed in a way that another try may mend."""
        count = dict(self.failures).get(number, 0) + 1
        after = self._given_back(number, now + backoff_s(count, jitter))
        failures = (*_without(self.failures, number), (number, count))
        return replace(after, failures=failures, lost=number if count > self.retries else self.lost)

    def refused(self, number: int, now: float, jitter: float, retry_after_s: float | None) -> Parts:
        """Returns the state after the store asked to be asked less: half as many at once, and none before it
        wants, or a back-off of ours is over. Refusals that come while it rests already count once.
        """
        after = self._given_back(number, now)
        if now < self.rest_until:
            return replace(after, rest_until=max(self.rest_until, now + (retry_after_s or 0.0)))
        strains = self.strains + 1
        rest_s = max(backoff_s(strains, jitter), retry_after_s or 0.0)
        return replace(
            after,
            allowed=max(1, self.allowed // 2),
            arrived=0,
            rest_until=now + rest_s,
            strains=strains,
            lost=number if strains > self.retries else self.lost,
        )

    def put_back(self, number: int, now: float) -> Parts:
        """Returns the state after a part was not sent for no fault of its own: it goes again at once."""
        return self._given_back(number, now)

    def give_up(self, number: int) -> Parts:
        """Returns the state after a part failed for good."""
        return replace(self._given_back(number, 0.0), lost=number)

    def _given_back(self, number: int, when: float) -> Parts:
        return replace(self, out=self.out - {number}, waiting=(*self.waiting, (when, number)))


def _without(failures: tuple[tuple[int, int], ...], number: int) -> tuple[tuple[int, int], ...]:
    return tuple(entry for entry in failures if entry[0] != number)


def cells(grid: PartGrid, done: frozenset[int], sent: Mapping[int, int], most: int = 64) -> str:
    """Returns the compact map of an upload: "." missing, "+" partly there, "#" there."""
    count = min(most, grid.count)
    edges = [index * grid.count // count for index in range(count + 1)] if count else []
    map_: list[str] = []
    for low, high in pairwise(edges):
        numbers = range(low + 1, high + 1)
        there = sum(number in done for number in numbers)
        begun = there or any(sent.get(number) for number in numbers)
        map_.append("#" if there == len(numbers) else "+" if begun else ".")
    return "".join(map_)
