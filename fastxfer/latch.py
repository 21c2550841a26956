"""An event that calls who wants to know, beside waking who waits."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Latch(threading.Event):
    """See the module. What is called runs once, on the thread that sets it, and must neither block nor
    raise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], object]] = []
        self._guard = threading.Lock()

    def then(self, call: Callable[[], object]) -> None:
        """Has it called when it is set; at once if it is."""
        with self._guard:
            if not self.is_set():
                self._calls.append(call)
                return
        call()

    def set(self) -> None:
        """Sets it."""
        with self._guard:
            super().set()
            calls, self._calls = self._calls, []
        for call in calls:
            call()
