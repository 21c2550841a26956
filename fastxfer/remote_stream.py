"""Reads an object that its server gives in one stream only, or whose size it does not tell.

What has come of the stream is kept, in memory up to a bound and then in a temporary file without a name, so
that the reader may go back; where it goes forward the stream is read up to there. The stream waits inside
libcurl where nobody wants more. Where it breaks it begins anew, and what comes again is compared with what is
there, byte by byte.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from fastxfer._native.memory import PartBuffer
from fastxfer.errors import BadResponseError, FastxferError, Retry, storage_error
from fastxfer.plan.ranges import Span
from fastxfer.ranged_get import Get
from fastxfer.ranged_source import Again, RangedSource, SourceChangedError, pause_s
from fastxfer.remote_reading import TICK_S, Reading, Take

PIECE = 256 << 10
_FULL = "full"
_OTHERS = "its bytes are others than before"


class StreamReading(Reading):
    """See the module. `size` is None where the server does not tell it; `ahead` bytes are read before they
    are wanted, `memory` kept out of the temporary file.
    """

    def __init__(
        self, source: RangedSource, stop: threading.Event, size: int | None, *, ahead: int, memory: int
    ) -> None:
        super().__init__(source, stop)
        self._told_size = size
        self._size = 0 if size == 0 else None
        self._ahead = ahead
        self._memory = memory
        # Of the state.
        self._spool: IO[bytes] = io.BytesIO()
        self._there = 0
        self._wanted = 0
        self._error: FastxferError | None = None
        # Of the thread.
        self._buffer = PartBuffer(PIECE)
        self._get: Get | None = None
        self._at = 0  # how far the stream is that is read now
        self._full = False
        self._begin_at = 0.0
        self._best = 0  # how much was there at the last failure
        self._failures = 0

    @property
    def size(self) -> int | None:
        """See Reading: what came, once it is at its end."""
        return self._told_size if self._told_size is not None else self._size

    # ---- the reader's thread ----

    def read(self, spans: Sequence[Span], take: Take, *, follow: bool) -> None:
        """See Reading."""
        for start, stop in spans:
            at = start
            while at < stop:
                with self._state:
                    data = self._reach(at, stop)
                    if not data:
                        break
                    take(at, memoryview(data))
                    at += len(data)

    def _reach(self, at: int, stop: int) -> bytes:
        """Returns what there is at a position, once there is something; b"" behind the end."""
        while True:
            self._check()
            if at < self._there:
                self._spool.seek(at)
                return self._spool.read(min(stop, self._there, at + PIECE) - at)
            if self._size is not None or (self._told_size is not None and at >= self._told_size):
                return b""
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            self._wanted = stop
            self._wake()
            self._state.wait()

    # ---- its own thread ----

    def _timeout_s(self) -> float | None:
        with self._state:
            return TICK_S if self._get is not None or self._begins else None

    @property
    def _begins(self) -> bool:
        """The state is held. True when the stream is to be asked for."""
        ended = self._size is not None or self._error is not None
        return self._get is None and not ended and self._wanted > self._there

    def _go_on(self) -> None:
        now = time.monotonic()
        with self._state:
            begins = self._begins and now >= self._begin_at
            goes_on = self._full and self._at < max(self._there, self._wanted + self._ahead)
        if begins:
            self._at, self._full = 0, False
            self._buffer.begin(self._room())
            try:
                self._get = self._source.get(None, self._buffer, self._events.put, self._is_full)
            except FastxferError as error:
                self._fail(error)
        elif self._get is not None and goes_on:
            self._full = False
            self._source.go_on(self._get, self._buffer)
        if self._get is not None:
            self._source.abort_if_stalled(self._get, now)

    def _room(self) -> int:
        left = PIECE if self._told_size is None else self._told_size - self._at
        return min(PIECE, left)

    def _is_full(self) -> None:
        """Called inside libcurl."""
        self._events.put(_FULL)

    def _take(self, event: Any) -> None:
        get = self._get
        if get is None or event not in (_FULL, get):
            return  # of a request that was ended
        try:
            if event is _FULL:
                get.paused = True
                self._absorb()
                if not self._room():
                    raise BadResponseError("the server sent more bytes than it said")
                self._full = True
            else:
                self._get = None
                self._ended(get)
        except SourceChangedError as changed:
            self._break(changed)
            self._end()
        except FastxferError as error:
            self._fail(error)
        finally:
            if self._get is None:
                self._source.release(get)

    def _absorb(self) -> None:
        """Keeps what the buffer has, or compares it with what is there, and empties it."""
        data = memoryview(self._buffer)
        with self._state:
            known = min(len(data), max(0, self._there - self._at))
            try:
                self._spool.seek(self._at)
                if known and self._spool.read(known) != data[:known]:
                    raise SourceChangedError(_OTHERS)
                self._keep(data[known:])
            except OSError as error:
                raise storage_error(f"keep what was read in {tempfile.gettempdir()}", error) from error
            self._at += len(data)
            self._buffer.begin(self._room())
            self._there = max(self._there, self._at)
            self._state.notify_all()

    def _keep(self, data: memoryview) -> None:
        if isinstance(self._spool, io.BytesIO) and self._there + len(data) > self._memory:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
            file.write(self._spool.getbuffer())
            self._spool = file
        self._spool.seek(self._there)
        self._spool.write(data)

    def _ended(self, get: Get) -> None:
        if get.wanted:
            self._absorb()
        try:
            self._source.outcome(get)
            self._check_length()
        except Again:
            self._begin_at = 0.0
        except SourceChangedError as changed:
            reason = _OTHERS if changed.message == _OTHERS else self._source.still()
            if reason is not None:
                raise SourceChangedError(reason) from changed
            self._try_again(get, changed)
        except FastxferError as error:
            self._try_again(get, error)
        else:
            with self._state:
                self._size = self._at
                self._state.notify_all()

    def _check_length(self) -> None:
        if self._told_size is not None and self._at != self._told_size:
            raise BadResponseError(f"the server sent {self._at} of {self._told_size} bytes")
        if self._at < self._there:
            raise SourceChangedError(_OTHERS)

    def _try_again(self, get: Get, error: FastxferError) -> None:
        with self._state:
            moved, self._best = self._there > self._best, self._there
        self._failures = 1 if moved else self._failures + 1
        again = self._source.ask_at_first(get) or error.retry is Retry.SAME_SOURCE
        if not again or self._failures > self._source.options.retries:
            raise error
        self._begin_at = time.monotonic() + pause_s(self._failures, error)

    def _fail(self, error: FastxferError) -> None:
        """Hands an error to who reads further; the next one after that has it asked for anew."""
        self._end()
        error.message = f"cannot read {self._source.display}: {error.message}"
        with self._state:
            self._failures = 0
            self._error = error
            self._state.notify_all()

    def _end(self) -> None:
        get, self._get = self._get, None
        if get is not None:
            self._end_all([get])
        if self._stop.is_set():
            with self._state:
                self._spool.close()
