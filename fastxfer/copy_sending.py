"""How the parts of a copy come from the source and go to the store: a part is a ranged request into a buffer,
and then a request that sends what is there.

A part that is out holds one buffer from the first byte that comes to the store's word that it has it, so the
number of buffers bounds the memory. What has come of a part stays when its request fails: the next one asks
for the rest. A part that the store did not take keeps its bytes too, unless others need the room.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from fastxfer._native.memory import PartBuffer
from fastxfer._native.reader import MemoryReader
from fastxfer.buffers import Buffers
from fastxfer.copy_checks import CRC
from fastxfer.copy_job import CopyJob
from fastxfer.errors import (
    ChecksumError,
    FastxferError,
    RangeError,
)
from fastxfer.plan.parts import Listed, is_confirmed
from fastxfer.ranged_get import Get
from fastxfer.ranged_source import Again, SourceChangedError
from fastxfer.store_calls import Answer, Call, stopped
from fastxfer.upload_job import Moment
from fastxfer.upload_sending import Sender

PROGRESS = 64 << 10
"""A request that has brought so much has not failed in vain."""


@dataclass(slots=True)
class Prepared:
    """A part whose bytes are there, with their checksums."""

    number: int
    sums: dict[str, int] = field(default_factory=dict)
    md5: bytes | None = None
    error: FastxferError | None = None


class CopySender(Sender):
    """See the module. Raises SourceChangedError when the source is another object."""

    def __init__(
        self, job: CopyJob, pool: Executor, tell: Callable[[Moment], object], buffers: Buffers
    ) -> None:
        super().__init__(job, tell)
        self._job: CopyJob = job
        self._pool = pool
        self._buffers = buffers
        self._held: dict[int, PartBuffer] = {}
        """By number: what there is of the parts that are out, or wait for another try."""
        self._gets: dict[int, Get] = {}

    # ---- from the source ----

    def _begin(self, number: int) -> None:
        buffer = self._held.get(number) or self._room_for(number)
        self._held[number] = buffer
        if buffer.full:
            self._pool.submit(self._prepare, number, buffer)
            return
        start, stop = self._job.grid.span(number)
        span = start + buffer.filled, stop
        self._gets[number] = self._job.source.get(span, buffer, self._events.put)

    def _room_for(self, number: int) -> PartBuffer:
        room = self._job.grid.length(number)
        while (buffer := self._buffers.take(room)) is None:
            # Those that wait for another try: they are fetched again.
            idle = next(n for n in reversed(self._held) if n not in self._job.state.out)
            self._buffers.give_back(self._held.pop(idle))
        return buffer

    def _prepare(self, number: int, buffer: PartBuffer) -> None:
        prepared = Prepared(number)
        try:
            prepared.sums[self._job.store.crc_name] = buffer.crc
            for name in self._job.also:
                prepared.sums[name] = CRC[name](buffer)
            listed = self._job.maybe.get(number)
            if not self._job.store.knows_crc or (listed is not None and not listed.crc):
                prepared.md5 = hashlib.md5(buffer, usedforsecurity=False).digest()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            prepared.error = FastxferError(f"internal error: {type(error).__name__}: {error}")
        self._events.put(prepared)

    def _take(self, event: Get | Prepared) -> None:
        if isinstance(event, Prepared):
            self._take_prepared(event)
            return
        number = next((n for n, each in self._gets.items() if each is event), 0)
        if number:
            del self._gets[number]
            try:
                self._came(number, event)
            finally:
                self._job.source.release(event)

    def _came(self, number: int, get: Get) -> None:
        """Decides what becomes of a part when its request to the source is over."""
        now, buffer = time.monotonic(), self._held[number]
        try:
            self._job.source.outcome(get)
            if not buffer.full and get.received < PROGRESS:
                raise RangeError("the server sent less than it was asked for")
        except Again:
            self._job.state = self._job.state.put_back(number, now)
        except SourceChangedError as changed:
            self._judge_change(number, changed, now)
        except FastxferError as error:
            self._source_failed(number, get, error, now)
        else:
            if buffer.full:
                self._pool.submit(self._prepare, number, buffer)
            else:
                self._job.state = self._job.state.put_back(number, now)

    def _judge_change(self, number: int, changed: SourceChangedError, now: float) -> None:
        """Looks once more: one answer alone does not cost the progress."""
        reason = self._job.source.still()
        if reason is not None:
            raise SourceChangedError(reason) from changed
        what = f"cannot read part {number} of {self._job.source.display}"
        self._try_again(number, RangeError(f"{what}: its answer was of another object, {changed}"), now)

    def _source_failed(self, number: int, get: Get, error: FastxferError, now: float) -> None:
        error.message = f"cannot read part {number} of {self._job.source.display}: {error.message}"
        if get.received >= PROGRESS:
            fewer = tuple(each for each in self._job.state.failures if each[0] != number)
            self._job.state = replace(self._job.state, failures=fewer)
        if self._job.source.ask_at_first(get):
            self._job.state = self._job.state.failed(number, now, 0.0)
            self._failure = error
        else:
            self._try_again(number, error, now)

    # ---- to the store ----

    def _take_prepared(self, prepared: Prepared) -> None:
        number, job = prepared.number, self._job
        if prepared.error is not None:
            raise prepared.error
        if job.state.lost:
            job.state = job.state.put_back(number, time.monotonic())
            return
        job.reckoned(number, prepared.sums)
        if self._is_there(prepared):
            return
        body = MemoryReader(self._held[number], xz=job.store.crc_name == "crc64xz")
        self._send(number, job.store.part(job.upload_id, number, body, job.crcs[number], prepared.md5))

    def _is_there(self, prepared: Prepared) -> bool:
        """Takes a part for sent that the store has had from an earlier run; returns whether it has."""
        number, job = prepared.number, self._job
        listed = job.maybe.get(number)
        ours = Listed(job.grid.length(number), "", f"{job.crcs[number]:016x}")
        md5 = prepared.md5.hex() if prepared.md5 is not None else ""
        if listed is None or not is_confirmed(listed, ours, "", md5):
            return False
        job.took(number, f'"{listed.etag}"')
        job.sent -= 1
        job.resumed += 1
        self._let_go(number)
        return True

    def _confirmed(self, number: int, call: Call, answer: Answer) -> str:
        body = call.ask.body
        assert isinstance(body, MemoryReader)
        if body.pos == body.stop and body.crc != self._job.crcs[number]:
            raise ChecksumError(
                f"{call.ask.what}: its bytes have changed in memory; run it again",
                algorithm=self._job.store.crc_name,
                expected=f"{self._job.crcs[number]:016x}",
                actual=f"{body.crc:016x}",
            )
        return self._job.store.confirmed(answer, call.ask.what, self._job.crcs[number])

    def _ended(self, call: Call) -> None:
        number = next((n for n, each in self._out.items() if each is call), 0)
        super()._ended(call)
        if number in self._job.state.done:
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        buffer = self._held.pop(number, None)
        if buffer is not None:
            self._buffers.give_back(buffer)

    # ---- meanwhile, and at the end ----

    def _look_after(self) -> None:
        now = time.monotonic()
        for get in self._gets.values():
            self._job.source.abort_if_stalled(get, now)
        super()._look_after()

    def _under_way(self) -> dict[int, int]:
        """Returns the parts that come or go, with how much of each the store is getting."""
        return {**dict.fromkeys(self._gets, 0), **super()._under_way()}

    def _end_all(self) -> None:
        """Ends what is out, and waits until it is over: then nothing writes to the buffers any more."""
        for get in self._gets.values():
            self._job.source.abort(get, stopped())
        for get in self._gets.values():
            get.over.wait()
            self._job.source.release(get)
        self._gets.clear()
        super()._end_all()
        for number in list(self._held):
            self._let_go(number)
