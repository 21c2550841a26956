"""What asks for the bytes of an object that is read at positions: a thread, and what it shares with readers.

They come one at a time, and wait here for what they want. The thread sends requests, judges their ends and
sends them again; it is started by the first read that needs bytes, and ends with `close`.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from fastxfer.engine.loop import before_exit
from fastxfer.errors import FastxferError, InterruptedTransferError, RemoteChangedError
from fastxfer.plan.ranges import Span
from fastxfer.ranged_get import Get
from fastxfer.ranged_source import RangedSource, SourceChangedError

TICK_S = 0.1
CLOSED = "the file was closed"

Take = Callable[[int, memoryview], object]
"""Takes bytes, and where in the object they begin. The memory is its for the call only."""


class Reading(ABC):
    """See the module. `stop` ends what the source does; `_state` guards what both threads use."""

    def __init__(self, source: RangedSource, stop: threading.Event) -> None:
        self._source = source
        self._stop = stop
        self._state = threading.Condition()
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken: FastxferError | None = None
        _open.add(self)

    # ---- the reader's thread ----

    @property
    @abstractmethod
    def size(self) -> int | None:
        """The object's size; None until it is known."""

    @abstractmethod
    def read(self, spans: Sequence[Span], take: Take, *, follow: bool) -> None:
        """Calls `take` with the bytes of these ranges, in order; what lies behind the object's end is left
        out. `follow` says that a reader goes on from there. Raises FastxferError.
        """

    def stop(self) -> None:
        """Has all that is out end, and the thread, soon; waits for nothing. Any thread."""
        self._stop.set()
        self._events.put(None)
        if self._thread is None:
            self._source.close()

    def close(self) -> None:
        """Ends all that is out, and the thread, and lets go of the memory."""
        self.stop()
        with self._state:
            thread = self._thread
            self._state.notify_all()
        if thread is not None:
            thread.join()

    def _wake(self) -> None:
        """The state is held. Has the thread look what there is to do."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fastxfer-ahead", daemon=True)
            self._thread.start()
        self._events.put(None)

    def _check(self) -> None:
        """The state is held. Raises why nothing can be read any more."""
        if self._stop.is_set():
            raise InterruptedTransferError(CLOSED)
        if self._broken is not None:
            raise self._broken

    # ---- its own thread ----

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._take_events()
                self._go_on()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            self._break(FastxferError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            self._end()
            self._source.close()
            with self._state:
                self._state.notify_all()

    def _take_events(self) -> None:
        try:
            event = self._events.get(timeout=self._timeout_s())
            while True:
                if event is not None and not self._stop.is_set():
                    self._take(event)
                event = self._events.get_nowait()
        except Empty:
            pass

    def _break(self, error: FastxferError) -> None:
        with self._state:
            if isinstance(error, SourceChangedError):
                changed = f"{self._source.display} changed while it was read: {error.message}; open it again"
                error = RemoteChangedError(changed)
            self._broken = self._broken or error
            self._state.notify_all()

    def _end_all(self, gets: Sequence[Get]) -> None:
        """Ends requests, and waits until they are over: then nothing writes to their buffers any more."""
        for get in gets:
            self._source.abort(get, InterruptedTransferError(CLOSED))
        for get in gets:
            get.over.wait()
            self._source.release(get)

    @abstractmethod
    def _timeout_s(self) -> float | None:
        """Returns after how many seconds to go on where nothing happens, None for never."""

    @abstractmethod
    def _take(self, event: Any) -> None:
        """Takes what has happened."""

    @abstractmethod
    def _go_on(self) -> None:
        """Does what there is to do now."""

    @abstractmethod
    def _end(self) -> None:
        """Ends what is out."""


_open: weakref.WeakSet[Reading] = weakref.WeakSet()


def _close_all() -> None:
    for reading in list(_open):
        reading.close()


before_exit(_close_all)
os.register_at_fork(after_in_child=_open.clear)  # they are the parent's
