"""Signals that end a command ask it to stop; it then ends by itself, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue


def stop_on_signals(stop: Callable[[], object]) -> None:
    """Has Ctrl-C and signals that end a program call `stop`, but for those that it was started to ignore.

    It is called on a thread of its own: the handler interrupts the main one anywhere, also where that, or the
    handler of a signal just before, holds a lock that `stop` needs.
    """
    told: SimpleQueue[None] = SimpleQueue()  # whose `put` may interrupt itself

    def listen() -> None:
        while True:
            told.get()
            stop()

    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=listen, name="fastxfer-signals", daemon=True).start()
        on_signals(lambda: told.put(None))


def on_signals(call: Callable[[], object]) -> None:
    """Has the same signals call `call` within their handler, which may raise and must take no lock."""

    def caught(_number: int, _frame: object) -> None:
        call()

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, caught)
