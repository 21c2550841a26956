"""Tells a callable, or a bar on the terminal, how a transfer stands: on a thread of its own, never the
engine's.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastxfer.progress.snapshot import Progress

if TYPE_CHECKING:
    from fastxfer.background import Background

Result = TypeVar("Result")

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


def wait_reported(running: Background[Result], to: bool | Callable[[Progress], object] | None) -> Result:
    """Waits for what runs in the background, and tells `to` meanwhile, unless that is None or False. Returns
    the result, or raises the error; Ctrl-C ends it first.
    """
    reporter = report(running, to) if to else None
    try:
        return running.wait()
    except KeyboardInterrupt:
        running.cancel()
        running.over.wait()
        raise
    finally:
        if reporter is not None:
            reporter.join()


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
