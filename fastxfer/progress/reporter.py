"""Tells a callable, or a bar on the terminal, how a transfer stands: on a thread of its own, never the
engine's.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Protocol

from fastxfer.progress.snapshot import Progress

INTERVAL_S = 0.2


class Watched(Protocol):
    @property
    def progress(self) -> Progress: ...
    @property
    def done(self) -> bool: ...


def report(transfer: Watched, to: bool | Callable[[Progress], object]) -> threading.Thread:
    """Starts a thread that tells `to` (True: a bar on stderr) until the transfer is over, the end included;
    returns the thread.
    """
    thread = threading.Thread(target=_run, args=(transfer, to), name="fastxfer-progress", daemon=True)
    thread.start()
    return thread


def _run(transfer: Watched, to: bool | Callable[[Progress], object]) -> None:
    if callable(to):
        _tell(transfer, to)
        return
    from fastxfer.progress.bar import Bar

    with Bar() as bar:
        _tell(transfer, bar.show)


def _tell(transfer: Watched, to: Callable[[Progress], object]) -> None:
    pulse = threading.Event()
    while True:
        over = transfer.done
        try:
            to(transfer.progress)
        except Exception as error:  # noqa: BLE001 - a caller's callback must not decide over the transfer
            warnings.warn(f"the progress callable raised {error!r}; it is not called again", stacklevel=2)
            return
        if over:
            return
        pulse.wait(INTERVAL_S)
