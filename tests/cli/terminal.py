"""A real pseudo-terminal around a command, and a screen (pyte) that shows what a user would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyte

from tests.cli.command import COMMAND, DEADLINE_S, WITH_SIGNALS, environment

# Makes the terminal on stdin the controlling one of the process, then becomes the command.
_BECOME = f"""
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
{WITH_SIGNALS}
"""


class Terminal:
    """A context manager: the command runs on a terminal of its own and is killed if it outlives the block."""

    def __init__(
        self,
        *arguments: str | Path,
        columns: int = 100,
        lines: int = 12,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.modes_before = termios.tcgetattr(self.slave)
        self.raw = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, *command, *map(str, arguments)],
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            env=environment(env),
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    @property
    def text(self) -> str:
        """What is on the screen, without the empty end of each line."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def modes(self) -> list[Any]:
        """The terminal's modes now, as termios has them."""
        return termios.tcgetattr(self.slave)

    def press(self, keys: bytes) -> None:
        """Types keys."""
        os.write(self._master, keys)

    def wait_for(self, *wanted: str | Callable[[str], bool]) -> str:
        """Returns the screen once it shows all that is wanted; an error with it after the deadline."""

        def shown() -> bool:
            return all(each in self.text if isinstance(each, str) else each(self.text) for each in wanted)

        deadline = time.monotonic() + DEADLINE_S
        while not shown():
            assert time.monotonic() < deadline, f"{wanted} does not come on the screen:\n{self.text}"
            self._read(0.1)
        return self.text

    def end(self) -> int:
        """Returns the exit status once the command has ended and all it wrote is on the screen."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.wait()

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        data = os.read(self._master, 65536)
        self.raw += data
        self._stream.feed(data)
        return True
