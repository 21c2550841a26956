"""How much of an object that is read at positions is asked for, and how far ahead of its reader: a pure,
frozen value.

A read that goes on where the last one ended, or a little after it, is in a row. The longer the row the
further ahead is asked, four times as far as was read, up to the memory; a read elsewhere begins a new row,
with nothing ahead. What is asked for at once is shared out among the connections, in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fastxfer.plan.ranges import Span

LEAST = 128 << 10
"""A request for less takes as long: the way there and back is what it costs."""
AHEAD = 4


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """See the module. `memory` in bytes is for all blocks; without `ahead` no more is asked for than was."""

    size: int
    memory: int
    connections: int
    ahead: bool = True
    at: int = -1
    row: int = 0
    in_row: bool = False

    @property
    def most(self) -> int:
        """The largest block: each connection may have one, and as many may wait for the reader."""
        return min(self.memory, max(LEAST, self.memory // (2 * self.connections)))

    def read(self, start: int, stop: int) -> ReadAhead:
        """Returns what is to be done from a read of this range on."""
        in_row = self.at >= 0 and self.at <= start <= self.at + LEAST
        row = self.row + stop - start if in_row else stop - start
        return replace(self, at=stop, row=row, in_row=in_row)

    @property
    def window(self) -> Span:
        """What is to be there, or on its way, ahead of the reader."""
        far = min(self.memory, AHEAD * self.row) if self.ahead and self.in_row else 0
        return self.at, max(self.at, min(self.size, self.at + far))

    def blocks(self, gap: Span, free: Span) -> Iterator[Span]:
        """Yields the blocks to ask for, of a range that is wanted. `free` is what lies around it up to the
        next blocks: some of it may be asked for too.
        """
        start, stop = gap
        if self.ahead:
            if free[1] == self.size:  # archives and tables are read from their ends
                start = min(start, max(free[0], self.size - LEAST))
            stop = max(stop, min(start + LEAST, free[1]))
        yield from _cut(start, stop, self._block(stop - start))

    def blocks_ahead(self, gap: Span) -> Iterator[Span]:
        """Yields the blocks to ask for of what is ahead; only the object's last one is a small one."""
        start, stop = self.window
        block = self._block(stop - start)
        for piece in _cut(*gap, block):
            if piece[1] - piece[0] == block or piece[1] == self.size:
                yield piece

    def _block(self, length: int) -> int:
        """Returns the size of a block: no request is for less than LEAST where there is more to ask for."""
        count = max(1, min(self.connections, length // LEAST))
        return min(self.most, max(LEAST, -(-length // count)))


def _cut(start: int, stop: int, block: int) -> Iterator[Span]:
    for at in range(start, stop, block):
        yield at, min(at + block, stop)
