"""A fetch that tells on each line how far it is, for whoever is going to kill it:
`python -m tests.kills.watched URL OUT CONNECTIONS RATE DURABILITY SINK CHUNK`.

A line begins with the clock that all processes share. Then comes either how many bytes and how many whole
chunks there are, and how long each other thread has waited for a CPU ("thread:nanoseconds"), or the name of a
call to the disk that begins, or `end` when it has returned. What processes tell each other of hosts is no
one's data, and not told.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastxfer
from fastxfer.neighbours import THREAD

EVERY_S = 0.02
CALLS = ("pwrite", "fdatasync", "fsync")


def tell(*words: object) -> None:
    """Writes a line, at once and in one piece, though other threads write too."""
    os.write(1, f"{time.monotonic():.6f} {' '.join(map(str, words))}\n".encode())


def telling(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a call that tells when it begins and when it is over."""

    def call(*args: Any) -> Any:
        if threading.current_thread().name == THREAD:
            return real(*args)
        tell(name)
        try:
            return real(*args)
        finally:
            tell("end")

    return call


def delays() -> list[str]:
    """Returns how long each thread but this one has been ready to run, and did not (proc(5), schedstat)."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            with contextlib.suppress(OSError):  # it has ended
                waited = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]
                found.append(f"{thread}:{waited}")
    return found


def main(url: str, out: str, connections: str, rate: str, durability: str, sink: str, chunk: str) -> None:
    """Fetches to the end."""
    for name in CALLS:
        setattr(os, name, telling(name, getattr(os, name)))
    transfer = fastxfer.start(
        url,
        out,
        int(connections),
        max_rate=rate,
        durability=durability,
        sink=sink,
        chunk_size=int(chunk),
    )
    pulse = threading.Event()
    while transfer.state not in ("done", "failed"):
        ledger = transfer._download._keeping.ledger
        tell(transfer.progress.done, ledger.done if ledger is not None else 0, *delays())
        pulse.wait(EVERY_S)
    transfer.wait(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
