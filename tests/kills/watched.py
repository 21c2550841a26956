"""A fetch that tells on each line how far it is, for whoever is going to kill it:
`python -m tests.kills.watched URL OUT CONNECTIONS RATE DURABILITY SINK CHUNK`.

A line begins with the clock that all processes share. Then comes either how many bytes and how many whole
chunks there are, or the name of a call to the disk that begins, or `end` when it has returned.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import fastxfer

EVERY_S = 0.02
CALLS = ("pwrite", "fdatasync", "fsync")


def tell(*words: object) -> None:
    """Writes a line, at once and in one piece, though other threads write too."""
    os.write(1, f"{time.monotonic():.6f} {' '.join(map(str, words))}\n".encode())


def telling(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a call that tells when it begins and when it is over."""

    def call(*args: Any) -> Any:
        tell(name)
        try:
            return real(*args)
        finally:
            tell("end")

    return call


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
        tell(transfer.progress.done, ledger.done if ledger is not None else 0)
        pulse.wait(EVERY_S)
    transfer.wait(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
