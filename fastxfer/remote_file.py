"""An object at a URL as a file that is read: io.RawIOBase over what asks for its bytes.

The first answer tells what the object is, and each later one has to be of that very object: a changed one is
an error, never a mix. One reader at a time: a lock holds the others.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastxfer._native.memory import PartBuffer
from fastxfer.errors import RemoteChangedError
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.readahead import LEAST, ReadAhead
from fastxfer.plan.response import Identity
from fastxfer.ranged_source import Look, RangedSource
from fastxfer.remote_blocks import BlockReading
from fastxfer.remote_reading import CLOSED, Reading
from fastxfer.remote_stream import StreamReading

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

NEAR = 128 << 10
"""Ranges with no more between them are asked for as one."""
DEFAULT_AHEAD = 32 << 20
_END = sys.maxsize


@dataclass(frozen=True, slots=True)
class _Piece:
    """One of the ranges that were asked for, and where it goes."""

    start: int
    stop: int
    into: io.BytesIO


class RemoteFile(io.RawIOBase):
    """An object that is read over HTTP or from a store; made by `fastxfer.open`. `read` and `readinto` bring
    all that was asked for, or up to the end.

    Attributes:
        name: its URL, without secrets.
        etag, last_modified: what its server tells of it, or None.
    """

    mode = "rb"

    def __init__(self, url: str, options: TransferOptions, read_ahead: int) -> None:
        super().__init__()
        self._url, self._options, self._ahead = url, options, read_ahead
        self._lock = threading.Lock()
        self._at = 0
        self._reading: Reading | None = None
        first = PartBuffer(LEAST if read_ahead else 1)
        self._begin(first)

    def _begin(self, first: PartBuffer, told: Identity | None = None) -> None:
        """Looks what the object is; with `told` it has to be that one."""
        self._pid = os.getpid()
        stop = threading.Event()
        source = RangedSource(self._url, self._options, stop, CLOSED)
        try:
            look = source.look(first, sums=False)
            self.name, self._identity = source.display, look.identity
            if told is not None and (told.size, told.etag, told.last_modified) != (
                look.identity.size, look.identity.etag, look.identity.last_modified
            ):  # fmt: skip
                raise RemoteChangedError(f"{source.display} changed while it was open; open it again")
        except BaseException:
            source.close()
            raise
        self._reading = self._reading_of(source, stop, look, first)

    def _reading_of(
        self, source: RangedSource, stop: threading.Event, look: Look, first: PartBuffer
    ) -> Reading:
        size, memory = look.identity.size, self._ahead or DEFAULT_AHEAD
        if size is None or not look.ranges:
            return StreamReading(source, stop, size, ahead=self._ahead, memory=memory)
        policy = ReadAhead(size, memory, self._options.connections, ahead=bool(self._ahead))
        return BlockReading(source, stop, policy, first)

    # ---- what it is ----

    @property
    def size(self) -> int | None:
        """Bytes in all; None where the server does not tell, until its end was read."""
        return self._reading.size if self._reading is not None else self._identity.size

    @property
    def etag(self) -> str | None:
        """Its ETag."""
        return self._identity.etag

    @property
    def last_modified(self) -> str | None:
        """When it was last modified, as its server writes it."""
        return self._identity.last_modified

    def readable(self) -> bool:
        """True."""
        self._open_reading()
        return True

    def seekable(self) -> bool:
        """True."""
        self._open_reading()
        return True

    def write(self, _data: ReadableBuffer, /) -> int:
        """Raises io.UnsupportedOperation: it is read only."""
        raise io.UnsupportedOperation("not writable")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._at} of {self.size}"
        return f"<RemoteFile {self.name} {state}>"

    # ---- reading ----

    def _open_reading(self) -> Reading:
        if self.closed or self._reading is None:
            raise ValueError("I/O operation on a closed file")
        return self._reading

    def _ready(self) -> Reading:
        """The lock is held. Returns what reads; in a forked child another one, since the parent's threads
        and connections are not its own.
        """
        reading = self._open_reading()
        if self._pid != os.getpid():
            _of_parents.append(reading)
            self._begin(PartBuffer(LEAST if self._ahead else 1), self._identity)
            reading = self._open_reading()
        return reading

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills a buffer with what comes next; returns how much that was, less only at the end."""
        into = memoryview(buffer).cast("B")
        with self._held():
            began, came = self._at, 0

            def take(at: int, data: memoryview) -> None:
                nonlocal came
                into[at - began : at - began + len(data)] = data
                came += len(data)

            reading = self._ready()
            if len(into):
                reading.read([(began, began + len(into))], take, follow=True)
            self._at += came
            return came

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns the next `size` bytes, fewer only at the end; all that follow where it is -1 or None."""
        with self._held():
            stop = _END if size is None or size < 0 else self._at + size
            out = io.BytesIO()
            reading, began = self._ready(), self._at
            if began < stop:
                reading.read([(began, stop)], lambda _, data: out.write(data), follow=True)
            self._at = began + out.tell()
            return out.getvalue()

    def readall(self) -> bytes:
        """Returns all that follow."""
        return self.read(-1)

    def read_ranges(self, spans: Iterable[Span]) -> list[bytes]:
        """Returns the bytes of many half-open ranges, in the order of `spans`; they come concurrently, near
        ones in one request. What lies behind the end is left out. The position stays. Raises ValueError for
        a range that is none.
        """
        wanted = [(int(start), int(stop)) for start, stop in spans]
        for start, stop in wanted:
            if not 0 <= start <= stop:
                raise ValueError(f"({start}, {stop}) is not a range: write (start, stop)")
        pieces = [_Piece(start, stop, io.BytesIO()) for start, stop in wanted]
        line = sorted((piece for piece in pieces if piece.start < piece.stop), key=lambda piece: piece.start)
        groups = _joined(line, NEAR if self._ahead else 0)
        first = 0

        def take(at: int, data: memoryview) -> None:
            nonlocal first
            while line[first].stop <= at and first < len(line) - 1:
                first += 1
            end = at + len(data)
            for piece in line[first:]:
                if piece.start >= end:
                    break
                if piece.stop > at:
                    piece.into.write(data[max(0, piece.start - at) : min(end, piece.stop) - at])

        with self._held():
            self._ready().read(groups, take, follow=False)
        return [piece.into.getvalue() for piece in pieces]

    # ---- where it is ----

    def tell(self) -> int:
        """Returns the position."""
        self._open_reading()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Goes to a position and returns it. From the end of an object whose size is not told: reads to
        there.
        """
        with self._held():
            reading = self._ready()
            if whence == io.SEEK_CUR:
                offset += self._at
            elif whence == io.SEEK_END:
                if reading.size is None:
                    reading.read([(_END - 1, _END)], lambda at, data: None, follow=False)
                offset += reading.size or 0
            elif whence != io.SEEK_SET:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            if offset < 0:
                raise ValueError(f"negative seek position {offset}")
            self._at = offset
            return offset

    def _held(self) -> threading.Lock:
        if self._pid != os.getpid() and self._lock.locked():
            self._lock = threading.Lock()  # another thread of the parent's had it
        return self._lock

    # ---- its end ----

    def close(self) -> None:
        """Ends what is under way, and lets go of all. May be called by another thread than the reader's."""
        reading, self._reading = self._reading, None
        if reading is not None and self._pid == os.getpid():
            reading.close()
        super().close()

    def __del__(self) -> None:
        # Whichever thread collects it, the engine's too: nothing is waited for.
        reading = getattr(self, "_reading", None)
        if reading is not None and self._pid == os.getpid():
            reading.stop()


_of_parents: list[Reading] = []
"""Kept for ever: to let go of them would end connections of the parent's."""


def _joined(line: list[_Piece], near: int) -> list[Span]:
    """Returns ranges that have all of these, by their starts; those that are near are one."""
    groups: list[Span] = []
    for piece in line:
        if groups and piece.start <= groups[-1][1] + near:
            groups[-1] = groups[-1][0], max(groups[-1][1], piece.stop)
        else:
            groups.append((piece.start, piece.stop))
    return groups
