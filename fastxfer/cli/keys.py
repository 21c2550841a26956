"""Single keys from the terminal, while something else is shown on it.

The terminal's modes are changed only while this process is in the foreground, and given back at the end, on
an exception and on Ctrl-Z; Ctrl-C and Ctrl-Z themselves stay the terminal's. A process in the background that
touches the modes or reads would be stopped by the kernel (termios(3), "job control"), so it does neither.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any


class Keyboard:
    """A context manager on the main thread. `present` is False where stdin is no terminal: nothing is read
    then.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._saved: list[Any] | None = None
        self._before: Any = None

    @property
    def present(self) -> bool:
        """True when there is a terminal to read keys from."""
        return self._fd >= 0

    def __enter__(self) -> Keyboard:
        if self.present:
            self._before = signal.getsignal(signal.SIGTSTP)
            if self._before is signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, self._stopped)
            self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.present:
            self._give_back()
            if self._before is signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def read(self, timeout_s: float) -> str | None:
        """Returns the key that is pressed within the time, "" if none is, and None at once if none can be."""
        if not self.present or not self._take():
            return None
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return ""
        if not self._in_foreground():
            return None
        try:
            data = os.read(self._fd, 1)
        except OSError:
            data = b""
        if not data:  # the terminal has gone
            self._fd = -1
            return None
        return data.decode("ascii", "replace").lower()

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def _take(self) -> bool:
        """Has the terminal pass single keys without echo; returns False in the background."""
        if not self._in_foreground():
            return False
        if self._saved is None:
            try:
                self._saved = termios.tcgetattr(self._fd)
                tty.setcbreak(self._fd, termios.TCSADRAIN)
            except termios.error:
                self._saved = None
                return False
        return True

    def _give_back(self) -> None:
        saved, self._saved = self._saved, None
        if saved is not None and self._in_foreground():
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, saved)
            except termios.error:
                pass  # the terminal has gone

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was. `read` takes it again after a SIGCONT."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
