"""A copy of an object that its server gives in one stream only, or whose size it does not tell: part by part
in order, over one request.

What has been sent cannot be gone on from in a later run, since nobody can ask for the rest. Within a run the
stream is begun anew where it breaks, and parts that come again are held against what was sent, not sent
again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from fastxfer._native.memory import PartBuffer
from fastxfer.buffers import Buffers
from fastxfer.copy_job import CopyJob
from fastxfer.copy_sending import CopySender, Prepared
from fastxfer.errors import BadResponseError, ChecksumError, FastxferError, OptionError, Retry
from fastxfer.plan.parts import MAX_PARTS, Pieces
from fastxfer.plan.retry import backoff_s
from fastxfer.ranged_get import Get
from fastxfer.ranged_source import Again, SourceChangedError
from fastxfer.store_calls import stopped
from fastxfer.upload_job import Moment

_FULL = "full"


class CopyStreamer(CopySender):
    """See the module. `size` is that of the object, None for unknown; `size_of` says how large a part is.

    At the end the job's grid has the parts that came. Where all of it is one part nothing is begun with the
    store: `only` has its bytes.
    """

    def __init__(
        self,
        job: CopyJob,
        pool: Executor,
        tell: Callable[[Moment], object],
        buffers: Buffers,
        *,
        size: int | None,
        size_of: Callable[[int], int],
    ) -> None:
        super().__init__(job, pool, tell, buffers)
        self._size = size
        self._size_of = size_of
        self._get: Get | None = None
        self._filled: PartBuffer | None = None
        self._number = 0  # of the part that is filled now
        self._came_bytes = 0  # in the parts before it
        self._at_end = False
        self._blocked = False  # a buffer is wanted
        self._failures = 0
        self._begin_at: float | None = 0.0
        self.only: PartBuffer | None = None

    @property
    def _complete(self) -> bool:
        return self._at_end and (self.only is not None or self._job.state.complete)

    def _hand_out(self) -> None:
        if self._begin_at is not None and not self._job.state.out and time.monotonic() >= self._begin_at:
            self._begin_stream()
        if self._blocked:
            self._fill_next()
        super()._hand_out()

    def _begin_stream(self) -> None:
        self._number, self._came_bytes, self._blocked = 1, 0, False
        self._filled = self._buffer()
        if self._filled is None:
            return
        self._begin_at = None
        self._get = self._job.source.get(None, self._filled, self._events.put, self._is_full)

    def _is_full(self) -> None:
        """Called inside libcurl."""
        self._events.put(_FULL)

    def _buffer(self) -> PartBuffer | None:
        room = self._size_of(self._number)
        if self._size is not None:
            room = min(room, self._size - self._came_bytes)
        return self._buffers.take(room)

    def _take(self, event: Any) -> None:
        if event is _FULL:
            if self._get is not None and not self._get.over.is_set():
                self._get.paused = True
                self._part_came()
                self._number += 1
                self._blocked = True
        elif isinstance(event, Get):
            if event is not self._get:
                return
            self._get = None
            try:
                self._stream_ended(event)
            finally:
                self._job.source.release(event)
        else:
            super()._take(event)

    def _fill_next(self) -> None:
        """Lets the stream go on, if there is room for its next part."""
        if self._number > MAX_PARTS:
            raise OptionError(
                f"the object is too large for {MAX_PARTS} parts that fit in memory: give more of it (memory=)"
            )
        if self._size is not None and self._came_bytes >= self._size:
            raise BadResponseError("the server sent more bytes than it said")
        if not self._job.upload_id:
            self._job.upload_id = self._job.store.begin()
        buffer = self._buffer()
        if buffer is None or self._get is None:
            return
        self._blocked = False
        self._filled = buffer
        self._job.source.go_on(self._get, buffer)

    def _part_came(self) -> None:
        """Has the part that is full now sent, or held against the same one of an earlier stream."""
        job, number, buffer = self._job, self._number, self._filled
        assert buffer is not None
        self._filled = None
        self._came_bytes += buffer.filled
        assert isinstance(job.grid, Pieces)
        if number <= job.grid.count:
            crc = self._held[number].crc if number in self._held else job.crcs[number]
            self._buffers.give_back(buffer)
            if (buffer.filled, buffer.crc) != (job.grid.length(number), crc):
                raise SourceChangedError("its bytes are others than before")
            return
        job.grid = job.grid.and_(buffer.filled)
        self._held[number] = buffer
        job.state = replace(job.state, count=number)

    def _room_for(self, number: int) -> PartBuffer:
        raise AssertionError("a part of a stream is there before it is sent")

    def _begin(self, number: int) -> None:
        self._pool.submit(self._prepare, number, self._held[number])

    def _stream_ended(self, get: Get) -> None:
        try:
            self._job.source.outcome(get)
            self._check_length(get)
        except FastxferError as error:
            if isinstance(error, SourceChangedError):
                raise
            self._stream_failed(get, error)
            return
        except Again:
            self._forget_stream(0.0)
            return
        self._failures = 0
        self._at_end = True
        assert self._filled is not None
        if not self._job.upload_id:
            self.only, self._filled = self._filled, None
        elif self._filled.filled:
            self._part_came()
        else:
            self._buffers.give_back(self._filled)

    def _check_length(self, get: Get) -> None:
        there = self._came_bytes + (self._filled.filled if self._filled is not None else 0)
        if self._size is not None and there != self._size:
            raise BadResponseError(f"the server sent {there} of {self._size} bytes")

    def _stream_failed(self, get: Get, error: FastxferError) -> None:
        error.message = f"cannot read {self._job.source.display}: {error.message}"
        self._failure = error
        self._failures += 1
        again = self._job.source.ask_at_first(get) or error.retry is Retry.SAME_SOURCE
        if not again or self._failures > self._job.source.options.retries or self._job.stop.is_set():
            raise error
        if self._came_bytes:
            self._job.note(f"{error.message}: it is read from its beginning again")
        self._forget_stream(time.monotonic() + backoff_s(self._failures, random.random()))

    def _forget_stream(self, begin_at: float) -> None:
        if self._filled is not None:
            self._buffers.give_back(self._filled)
            self._filled = None
        self._blocked = False
        self._begin_at = begin_at

    def _look_after(self) -> None:
        if self._get is not None:
            self._job.source.abort_if_stalled(self._get, time.monotonic())
        super()._look_after()

    def _take_prepared(self, prepared: Prepared) -> None:
        known = self._job.crcs.get(prepared.number)
        ours = prepared.sums.get(self._job.store.crc_name)
        if known is not None and known != ours:
            raise ChecksumError(
                "the bytes of a part have changed in memory; run it again",
                algorithm=self._job.store.crc_name,
                expected=f"{known:016x}",
                actual=f"{ours:016x}",
            )
        super()._take_prepared(prepared)

    def _end_all(self) -> None:
        get, self._get = self._get, None
        if get is not None:
            self._job.source.abort(get, stopped())
            get.over.wait()
            self._job.source.release(get)
        super()._end_all()
