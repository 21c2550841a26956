"""Signals that end a command ask it to stop; it then ends by itself, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def stop_on_signals(stop: Callable[[], object]) -> None:
    """Has Ctrl-C and signals that end a program call `stop`, but for those that it was started to ignore."""

    def caught(_number: int, _frame: object) -> None:
        stop()

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, caught)
