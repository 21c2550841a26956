"""Runs `fastxfer` as a process, with an environment that holds nothing of the tester's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastxfer.cli.status import read_status
from fastxfer.errors import CheckpointError, StorageError

DEADLINE_S = 60.0
COMMAND = (sys.executable, "-m", "fastxfer")
# Becomes another command, and undoes that a shell had the tests ignore signals (as `pytest &` does).
WITH_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns this process's environment without options, proxies and a terminal's size, and with `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (
            name.startswith("FASTXFER_") or name.lower().endswith("_proxy") or name in ("COLUMNS", "LINES")
        )
    }
    return {**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(more or {})}


def fastxfer(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end; nothing is a terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
        cwd=cwd,
        timeout=DEADLINE_S,
        check=False,
    )


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Gives the command while it runs; it is killed if it still does at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_SIGNALS, *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    try:
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        watchdog.cancel()
        watchdog.join()


def events(text: str) -> list[dict[str, Any]]:
    """Returns the JSON objects of an output, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def one_error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Returns the one line on stderr of a command that must have failed with this status and said no more."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stderr.startswith("fastxfer: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when the condition, of files that others write, holds; an error after the deadline."""
    pulse = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        if condition():
            return
        pulse.wait(0.02)
    raise AssertionError("the condition does not hold within the deadline")


def claimed(out: Path) -> int:
    """Returns how many bytes the checkpoint beside `out` claims; 0 while there is none."""
    try:
        return read_status(str(out)).claimed or 0
    except (StorageError, CheckpointError):
        return 0
