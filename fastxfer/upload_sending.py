"""How the parts of an upload are sent: checksums are reckoned on a few threads, the engine's only moves
bytes, and the upload's own decides.
"""

from __future__ import annotations

import queue
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from fastxfer._native.reader import Reader
from fastxfer.errors import (
    ChecksumError,
    FastxferError,
    OverloadedError,
    Retry,
    StorageError,
    UploadGoneError,
)
from fastxfer.plan.parts import cells
from fastxfer.store_calls import Answer, Ask, Call, stopped
from fastxfer.upload_job import FileJob, Gone, Job, Moment

TICK_S = 0.1
REPORT_S = 0.2


@dataclass(slots=True)
class _Prepared:
    number: int
    crc: int = 0
    md5: bytes | None = None
    error: FastxferError | None = None


class Sender(ABC):
    """Sends the parts of a job. What a part is made of is known below; here is what becomes of it.

    `tell` is called often, with a Moment that is not to be kept.
    """

    def __init__(self, job: Job, tell: Callable[[Moment], object]) -> None:
        self._job = job
        self._tell = tell
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """Calls that are over, and what `_take` is for."""
        self._out: dict[int, Call] = {}
        self._failure: FastxferError | None = None
        self._looked_at = 0.0

    def send_all(self) -> None:
        """Sends what is missing. Raises what makes it impossible, after the progress was saved."""
        try:
            while not self._complete:
                self._hand_out()
                if self._job.state.lost and not self._out and not self._job.state.out:
                    raise self._failure or stopped()
                self._wait()
                if self._job.stop.is_set():
                    raise stopped()
                self._look_after()
        except BaseException:
            self._end_all()
            self._job.save_if_possible()
            raise
        finally:
            self._report()

    @abstractmethod
    def _begin(self, number: int) -> None:
        """Has a part made ready to be sent."""

    @abstractmethod
    def _take(self, event: Any) -> None:
        """Takes an event that is no call."""

    @abstractmethod
    def _confirmed(self, number: int, call: Call, answer: Answer) -> str:
        """Returns the ETag of a part that was taken. Raises FastxferError where it was not."""

    def _raise_if_ours(self, number: int, call: Call, error: FastxferError) -> None:  # noqa: B027
        """Raises what is neither the store's fault nor that of the way to it."""

    @property
    def _complete(self) -> bool:
        return self._job.state.complete

    def _hand_out(self) -> None:
        """Begins with the parts that may go now."""
        while True:
            self._job.state, number = self._job.state.next(time.monotonic())
            if number is None:
                return
            self._begin(number)

    def _wait(self) -> None:
        """Takes what has happened, or waits a moment for it."""
        due = self._job.state.due()
        wait_s = TICK_S if due is None else min(TICK_S, max(0.001, due - time.monotonic()))
        try:
            event = self._events.get(timeout=wait_s)
            while True:
                if isinstance(event, Call):
                    self._ended(event)
                else:
                    self._take(event)
                event = self._events.get_nowait()
        except queue.Empty:
            pass

    def _send(self, number: int, ask: Ask) -> None:
        self._out[number] = self._job.calls.send(ask, self._events.put)

    def _ended(self, call: Call) -> None:
        number = next((n for n, each in self._out.items() if each is call), 0)
        if not number:
            return
        del self._out[number]
        now = time.monotonic()
        self._job.now.transferred += call.given
        try:
            etag = self._confirmed(number, call, self._job.calls.outcome(call))
        except FastxferError as error:
            self._failed(number, call, error, now)
        else:
            self._job.took(number, etag)
        finally:
            self._job.calls.release(call)

    def _failed(self, number: int, call: Call, error: FastxferError, now: float) -> None:
        """Decides what becomes of a part that was not taken. Raises what ends the upload."""
        self._raise_if_ours(number, call, error)
        if isinstance(error, StorageError):
            raise error
        if isinstance(error, UploadGoneError):
            raise Gone(error)
        self._job.twice = self._job.twice or call.given > 0
        if self._job.calls.taught(call):
            self._job.calls.prepare()
            self._job.state = self._job.state.put_back(number, now)
            return
        if not error.message.startswith("cannot"):
            error.message = f"{call.ask.what}: {error.message}"
        self._try_again(number, error, now)

    def _try_again(self, number: int, error: FastxferError, now: float) -> None:
        """Puts a part back to be sent once more, where that may help."""
        self._failure = error
        self._job.now.waiting = True
        if isinstance(error, OverloadedError):
            self._job.state = self._job.state.refused(number, now, random.random(), error.retry_after_s)
        elif error.retry is Retry.SAME_SOURCE or isinstance(error, ChecksumError):
            self._job.state = self._job.state.failed(number, now, random.random())
        else:
            self._job.state = self._job.state.give_up(number)

    def _look_after(self) -> None:
        """Ends what has stalled, saves, tells; now and then only, since all parts are looked at for it."""
        now = time.monotonic()
        if now - self._looked_at < REPORT_S:
            return
        self._looked_at = now
        for call in self._out.values():
            self._job.calls.abort_if_stalled(call, now)
        self._job.save_in_time(now)
        self._report()

    def _report(self) -> None:
        """Tells how it stands."""
        moment, done = self._job.now, self._job.state.done
        sending = self._under_way()
        grid = self._job.grid
        there = sum(map(grid.length, done)) if len(done) < grid.count else grid.size
        moment.done = there + sum(sending.values())
        moment.connections = len(sending)
        moment.chunks = cells(grid, done, sending)
        moment.waiting = not sending and self._failure is not None
        self._tell(moment)

    def _under_way(self) -> dict[int, int]:
        """Returns the parts that are under way, with how much of each the store is getting."""
        return {number: _sent_of(call) for number, call in self._out.items()}

    def _end_all(self) -> None:
        """Ends the requests that are out, and waits until they are over: the file may be closed then."""
        for call in self._out.values():
            self._job.calls.abort(call, stopped())
        for call in self._out.values():
            call.over.wait()
            self._job.calls.release(call)
        self._out.clear()


def _sent_of(call: Call) -> int:
    body = call.ask.body
    return body.pos - body.start if isinstance(body, Reader) else 0


class FileSender(Sender):
    """One that sends the parts of a file: their checksums are reckoned on the pool's threads."""

    def __init__(self, job: FileJob, pool: Executor, tell: Callable[[Moment], object]) -> None:
        super().__init__(job, tell)
        self._job: FileJob = job
        self._pool = pool

    def _begin(self, number: int) -> None:
        self._pool.submit(self._prepare, _Prepared(number))

    def _prepare(self, prepared: _Prepared) -> None:
        try:
            span = self._job.grid.span(prepared.number)
            if self._job.store.knows_crc:
                prepared.crc = self._job.file.crc(self._job.store.crc_name, *span)
            else:
                prepared.crc, prepared.md5 = self._job.file.crc_and_md5(self._job.store.crc_name, *span)
        except FastxferError as error:
            prepared.error = error
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            prepared.error = FastxferError(f"internal error: {type(error).__name__}: {error}")
        self._events.put(prepared)

    def _take(self, prepared: _Prepared) -> None:
        number = prepared.number
        if prepared.error is not None:
            raise prepared.error
        if self._job.state.lost:
            self._job.state = self._job.state.put_back(number, time.monotonic())
            return
        self._job.crcs[number] = prepared.crc
        job = self._job
        body = Reader(job.file.fd, *job.grid.span(number), xz=job.store.crc_name == "crc64xz")
        self._send(number, job.store.part(job.upload_id, number, body, prepared.crc, prepared.md5))

    def _confirmed(self, number: int, call: Call, answer: Answer) -> str:
        self._check_body(call.ask.body, number)
        return self._job.store.confirmed(answer, call.ask.what, self._job.crcs[number])

    def _raise_if_ours(self, number: int, call: Call, error: FastxferError) -> None:
        body = call.ask.body
        assert isinstance(body, Reader)
        if body.error:
            raise self._unreadable(body) from error
        self._check_body(body, number)

    def _check_body(self, body: object, number: int) -> None:
        """Raises LocalChangedError where the bytes that were sent are not those that were reckoned."""
        assert isinstance(body, Reader)
        if body.pos == body.stop and body.crc != self._job.crcs[number]:
            raise self._job.file.changed()

    def _unreadable(self, body: Reader) -> StorageError:
        try:
            self._job.file.check()
        except StorageError as changed:
            return changed
        return StorageError(f"cannot read {self._job.file.path}: {body.reason}", errno=body.error)
