"""A transfer to a server that runs on a thread of its own, and what others see of it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

from fastxfer.engine.loop import before_exit
from fastxfer.errors import FastxferError, InterruptedTransferError
from fastxfer.latch import Latch
from fastxfer.plan.rates import RateMeter
from fastxfer.progress.snapshot import Progress
from fastxfer.upload_job import Moment

Result = TypeVar("Result")
_running: set[Background[Any]] = set()


class Background(ABC, Generic[Result]):
    """See the module. All may be called from any thread; `over` is set at its end."""

    def __init__(self, shown: str) -> None:
        self._stop = threading.Event()
        self._meter = RateMeter()
        self._began = time.monotonic()
        self.over = Latch()
        self.result: Result | None = None
        self.error: FastxferError | None = None
        self.progress = Progress(url=shown)
        self._notes: list[str] = []
        self._thread = threading.Thread(target=self._run, name="fastxfer-upload", daemon=True)

    def begin(self) -> None:
        """Starts it."""
        self._thread.start()

    def run(self) -> Result:
        """Does it on the thread that calls, without one of its own. Raises as `wait`."""
        self._run()
        return self.wait()

    def cancel(self) -> None:
        """Ends it; what the server has is kept to go on from."""
        self._stop.set()

    @property
    def done(self) -> bool:
        """True when it is over."""
        return self.over.is_set()

    def wait(self) -> Result:
        """Waits for its end. Returns the result, or raises the error."""
        self.over.wait()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    # ---- its thread ----

    @abstractmethod
    def _work(self) -> Result:
        """Does it. Raises FastxferError."""

    def _run(self) -> None:
        _running.add(self)
        try:
            self.result = self._work()
            self.progress = replace(self.progress, eta=0.0, connections=0, state="done", note="")
        except FastxferError as error:
            self._end_with(error)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            self._end_with(FastxferError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            _running.discard(self)
            self.over.set()

    def _end_with(self, error: FastxferError) -> None:
        self.error = error
        state = "cancelled" if isinstance(error, InterruptedTransferError) else "failed"
        self.progress = replace(self.progress, eta=None, connections=0, state=state, note=str(error))

    def _tell(self, moment: Moment) -> None:
        rate = self._meter.update(moment.done, time.monotonic())
        size = self.progress.size
        self.progress = replace(
            self.progress,
            done=moment.done,
            transferred=moment.transferred,
            resumed=moment.resumed,
            rate=rate,
            eta=(size - moment.done) / rate if rate > 0 and size is not None else None,
            connections=moment.connections,
            state="waiting" if moment.waiting else "running",
            chunks=moment.chunks,
            note=moment.notes[-1] if moment.notes else "",
        )


def _stop_all() -> None:
    for running in list(_running):
        running.cancel()
    for running in list(_running):
        running.over.wait()


before_exit(_stop_all)
