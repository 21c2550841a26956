"""The memory that bytes pass through on their way from a server."""

from __future__ import annotations

from fastxfer._native.memory import PartBuffer


class Buffers:
    """Buffers of at most `budget` bytes in all, made when they are needed."""

    def __init__(self, budget: int, *, xz: bool = False) -> None:
        self._left = budget
        self._xz = xz
        self._free: list[PartBuffer] = []

    def take(self, room: int) -> PartBuffer | None:
        """Returns an empty buffer with so much room; None when that has to wait for others."""
        self._free.sort(key=lambda each: each.capacity)
        fits = next((each for each in self._free if each.capacity >= room), None)
        if fits is not None:
            self._free.remove(fits)
        else:
            while self._left < room and self._free:
                self._left += self._free.pop().capacity
            if self._left < room:
                return None
            self._left -= room
            fits = PartBuffer(max(1, room), self._xz)
        fits.begin(room)
        return fits

    def give_back(self, buffer: PartBuffer) -> None:
        """Takes a buffer that nobody needs any more."""
        self._free.append(buffer)
