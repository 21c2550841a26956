"""What every upload is, wherever it goes: a thread of its own, its progress, its end, and its way out when
the interpreter ends.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from fastxfer.engine.loop import before_exit
from fastxfer.errors import FastxferError, InterruptedTransferError
from fastxfer.plan.rates import RateMeter
from fastxfer.progress.snapshot import Progress
from fastxfer.put_options import PutOptions
from fastxfer.results import PutResult
from fastxfer.upload_job import Moment

_running: set[UploadThread] = set()


class UploadThread:
    """See the module; `_upload` is what a kind of upload does. All may be called from any thread; `over` is
    set at its end.
    """

    def __init__(self, path: str | os.PathLike[str], target: str, put: PutOptions) -> None:
        self.path = Path(os.fsdecode(path))
        self._put = put
        self._stop = threading.Event()
        self._meter = RateMeter()
        self._began = time.monotonic()
        self.over = threading.Event()
        self.result: PutResult | None = None
        self.error: FastxferError | None = None
        self.progress = Progress(url=target)
        self._notes: list[str] = []
        self._thread = threading.Thread(target=self._run, name="fastxfer-upload", daemon=True)

    def begin(self) -> None:
        """Starts it."""
        self._thread.start()

    def cancel(self) -> None:
        """Ends it; what the server has is kept to go on from."""
        self._stop.set()

    @property
    def done(self) -> bool:
        """True when it is over."""
        return self.over.is_set()

    def wait(self) -> PutResult:
        """Waits for its end. Returns the result, or raises the error."""
        self.over.wait()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    # ---- its thread ----

    def _upload(self) -> PutResult:
        """Uploads. Raises FastxferError."""
        raise NotImplementedError

    def _run(self) -> None:
        _running.add(self)
        try:
            self.result = self._upload()
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
        size = self.progress.size or 0
        self.progress = replace(
            self.progress,
            done=moment.done,
            transferred=moment.transferred,
            resumed=moment.resumed,
            rate=rate,
            eta=(size - moment.done) / rate if rate > 0 else None,
            connections=moment.connections,
            state="waiting" if moment.waiting else "running",
            chunks=moment.chunks,
            note=moment.notes[-1] if moment.notes else "",
        )


def _stop_all() -> None:
    for upload in list(_running):
        upload.cancel()
    for upload in list(_running):
        upload.over.wait()


before_exit(_stop_all)
