"""A thread for what may block on a disk: one a transfer, so that no disk stops another transfer's network."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Then = Callable[[Any, BaseException | None], None]


class DiskThread:
    """Runs jobs in order, and between them a periodic one. `submit`, `every` and `stop` may be called from
    any thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Then | None] | None] = queue.SimpleQueue()
        self._interval_s: float | None = None
        self._periodic: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], then: Then | None = None) -> None:
        """Has `job` run, then `then(result, None)` or `then(None, error)`, both on this thread."""
        self._jobs.put((job, then))

    def every(self, interval_s: float, job: Callable[[], object] | None) -> None:
        """Has `job` run about every `interval_s` seconds from now on; None ends it. It must not raise."""

        def change() -> None:
            self._interval_s = interval_s if job is not None else None
            self._periodic = job

        self.submit(change)

    def stop(self, join: bool = False) -> None:
        """Ends the thread after the jobs handed in before."""
        self._jobs.put(None)
        if join and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                entry = self._jobs.get(timeout=self._interval_s)
            except queue.Empty:
                if self._periodic is not None:
                    self._periodic()
                continue
            if entry is None:
                return
            job, then = entry
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - handed on, whatever it is, to who asked
                if then is not None:
                    then(None, error)
                continue
            if then is not None:
                then(result, None)
