"""Asks servers for the sizes of many objects, before any of them is fetched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from fastxfer.api import probe
from fastxfer.batch.jobs import Job
from fastxfer.errors import DNSError, FastxferError, NetworkError, TransferTimeoutError
from fastxfer.sources.http import origin

# No longer than this is an answer waited for, and not again for one of a server that gave none.
CONNECT_S = 5.0
STALL_S = 10.0
THREADS = 8

Events = SimpleQueue[Callable[[], None]]


class Sizes:
    """Asks servers for sizes, several at once, on threads of its own; the answers come as events."""

    def __init__(
        self,
        events: Events,
        answer: Callable[[Job, int | None], None],
    ) -> None:
        self.pending = 0
        self._events = events
        self._answer = answer
        self._asked: SimpleQueue[Job] = SimpleQueue()
        self._threads = 0
        self._silent: set[tuple[str, str, int]] = set()

    def ask(self, jobs: list[Job]) -> None:
        """Asks for the sizes of these jobs."""
        for job in jobs:
            self.pending += 1
            self._asked.put(job)
        while self._threads < min(THREADS, self.pending):
            self._threads += 1
            threading.Thread(target=self._run, name="fastxfer-sizes", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                job = self._asked.get_nowait()
            except Empty:
                self._events.put(self._gone)
                return
            size = self._size_of(job)
            self._events.put(lambda job=job, size=size: self._told(job, size))  # type: ignore[misc]

    def _gone(self) -> None:
        self._threads -= 1
        if not self._asked.empty():
            self.ask([])

    def _told(self, job: Job, size: int | None) -> None:
        self.pending -= 1
        self._answer(job, size)

    def _size_of(self, job: Job) -> int | None:
        """Returns the size, None where it cannot be learned: whether that is an error the transfer tells."""
        connect_s = min(CONNECT_S, float(job.options.get("connect_timeout", CONNECT_S)))
        stall_s = min(STALL_S, float(job.options.get("stall_timeout", STALL_S)))
        options = {**job.options, "connect_timeout": connect_s, "stall_timeout": stall_s, "retries": 0}
        try:
            asked = origin(job.url)
            if asked in self._silent:
                return None
            return probe(job.url, **options).size
        except (NetworkError, DNSError, TransferTimeoutError):
            self._silent.add(asked)
        except (FastxferError, ValueError):
            pass
        return None
