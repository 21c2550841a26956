"""Which bytes came from which mirror, and whom to doubt when the whole is not what it should be: pure.

Sources are numbers; EARLIER is what an earlier run left, of which nobody knows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastxfer.plan import ranges
from fastxfer.plan.ranges import Span

EARLIER = -1


class Provenance:
    """The ranges of one object by the source that they came from. What two sources wrote is of both."""

    def __init__(self) -> None:
        self._spans: dict[int, list[Span]] = {}

    def took(self, source: int, start: int, stop: int) -> None:
        """The bytes [start, stop) came from a source."""
        if start < stop:
            own = ranges.subtract(self._spans.get(source, []), (start, stop))
            self._spans[source] = ranges.add(own, (start, stop))

    def dropped(self, spans: Iterable[Span]) -> None:
        """These bytes are given up."""
        for span in spans:
            for source, own in self._spans.items():
                self._spans[source] = ranges.subtract(own, span)

    def forget(self) -> None:
        """All bytes are given up."""
        self._spans.clear()

    def of(self, source: int, size: int) -> list[Span]:
        """Returns the ranges that a source gave of an object of `size` bytes that is complete."""
        if source != EARLIER:
            return list(self._spans.get(source, []))
        left = [(0, size)] if size else []
        for own in self._spans.values():
            for span in own:
                left = ranges.subtract(left, span)
        return left

    def sources(self, size: int) -> dict[int, int]:
        """Returns how many bytes each source gave, of those that gave any."""
        found = {source: ranges.length(own) for source, own in self._spans.items() if own}
        earlier = ranges.length(self.of(EARLIER, size))
        return {EARLIER: earlier, **found} if earlier else found

    def givers(self, spans: Iterable[Span], size: int) -> set[int]:
        """Returns the sources that gave any of these bytes."""
        wanted = list(spans)
        return {
            source
            for source in self.sources(size)
            if any(a < stop and start < b for start, stop in self.of(source, size) for a, b in wanted)
        }


def suspicions(given: dict[int, int], mirrors: Sequence[int]) -> list[frozenset[int]]:
    """Returns whom to doubt, one set after another, when the checksum of an object does not hold.

    `given` is how many bytes each source gave, `mirrors` are those that bytes can be had from. First each
    alone, from the one that gave least, and what an earlier run left before all; then all but one. A set that
    leaves no mirror to fetch from is left out.
    """
    by_share = sorted(given, key=lambda source: (source != EARLIER, given[source], -source))
    alone = [frozenset({source}) for source in by_share]
    all_but = [frozenset(set(given) - {trusted}) for trusted in reversed(by_share) if trusted != EARLIER]
    rest = [frozenset(given)]
    found: list[frozenset[int]] = []
    for each in [*alone, *all_but, *rest]:
        if each and each not in found and set(mirrors) - each:
            found.append(each)
    return found
