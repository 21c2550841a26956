"""The server of the machine: an object, its version now, and a curtain that falls after so many bytes."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from fastxfer.plan.response import Identity
from tests.servers.raw import Connection, Content, Fault, RangeHandler, Request

PIECE_BYTES = 8192
GONE = Fault(status=404)


@dataclass(frozen=True, slots=True)
class Version:
    """What the server has at a time: the bytes, and what it tells of them."""

    data: bytes
    etag: str | None
    last_modified: str | None

    @property
    def identity(self) -> Identity:
        """What tells it from other versions."""
        return Identity(len(self.data), self.etag, self.last_modified)

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes {self.data[:2].hex()}.. {self.etag} {self.last_modified}>"


class Stage(RangeHandler):
    """A handler. `fall_after` has it send no more than so many bytes of body until `lift`; when it has sent
    them a byte comes out of `fallen`, a pipe. A whole object in place of a range, which no client takes, does
    not count.
    """

    def __init__(self) -> None:
        super().__init__(b"")
        self.gone = False
        self.sent = 0
        self.faults = lambda _: GONE if self.gone else None
        self.fallen, self._falls = os.pipe()
        self._limit: int | None = None
        self._told = False
        self._lifted = threading.Event()
        self._guard = threading.Lock()
        self._answer = threading.local()

    def close(self) -> None:
        """Closes the pipe."""
        os.close(self.fallen)
        os.close(self._falls)

    def show(self, version: Version) -> None:
        """Makes later answers serve this version."""
        self.content = Content(version.data, version.etag, version.last_modified)

    def fall_after(self, count: int | None) -> None:
        """Counts the bytes from 0 again, with this limit; no request is on its way."""
        with self._guard:
            self.sent, self._limit, self._told = 0, count, False
            self._lifted.clear()

    def lift(self) -> None:
        """Lets everything go on to the end."""
        with self._guard:
            self._limit = None
            self._lifted.set()

    def wanted(self, request: Request, content: Content) -> tuple[int, int] | None:
        """Notes whether the whole is sent in place of a range, which the client asked for on a condition."""
        wanted = super().wanted(request, content)
        self._answer.refused = wanted is None and self.ranges and bool(request.range)
        return wanted

    def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
        """Sends what the limit allows, and the rest when it is lifted."""
        if self._answer.refused:
            super().send(connection, content, start, stop)
            return
        while start < stop:
            count = self._take(min(PIECE_BYTES, stop - start))
            if count:
                try:
                    connection.send(memoryview(content.data)[start : start + count])
                finally:
                    self._tell()  # also when the client is gone: nothing more will come
                start += count
            else:
                connection.stall(self._lifted)

    def _take(self, most: int) -> int:
        with self._guard:
            count = most if self._limit is None else min(most, self._limit - self.sent)
            self.sent += count
            return count

    def _tell(self) -> None:
        with self._guard:
            if self.sent == self._limit and not self._told:
                self._told = True
                os.write(self._falls, b"!")
