"""A fetch that records itself and kills itself: `python -m tests.crash.killed URL DIRECTORY DURABILITY SINK
WHEN TRACE [shared]`.

WHEN is a number: after so many writes of the checkpoint, at the next one that is a claim and comes after a
sync that made more chunks durable; or `link`: when the target is made by a link, before the part file's own
name is removed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from tests.crash.events import Promise, Trace
from tests.crash.runs import CHUNK, CONTENT, V1, V2, save_often, share
from tests.crash.trace import NAME, Recorder, storage_calls


class Killing(Recorder):
    """Kills the process at its moment, once it has written its trace down."""

    when = ""
    trace_path = Path()

    def _pwrite(self, real: Any, fd: int, data: bytes, at: int) -> int:
        written = super()._pwrite(real, fd, data, at)
        due = self.when.isdigit() and self.saves >= int(self.when) and "claim" in storage_calls()
        if due and self._last_sync_added():
            self._kill()
        return written

    def _last_sync_added(self) -> bool:
        """Returns whether the newest of the durable slots says more than the other, if there are any."""
        syncs = [each for each in self.trace.events if isinstance(each, Promise) and each.progress]
        return not syncs or (len(syncs) > 1 and syncs[-1].chunks != syncs[-2].chunks)

    def _link(self, real: Any, source: str, name: str, **options: Any) -> None:
        super()._link(real, source, name, **options)
        if self.when == "link":
            self._kill()

    def _kill(self) -> None:
        with self._lock:
            self._look()
            self.trace_path.write_bytes(pickle.dumps(self.trace))
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()


def main(
    url: str, directory: str, durability: str, sink: str, when: str, trace_path: str, shared: str = ""
) -> None:
    """Fetches, and never returns."""
    patches = pytest.MonkeyPatch()
    save_often(patches)
    if shared:
        share(patches)
    trace = Trace("killed", {V1: CONTENT[V1], V2: CONTENT[V2]}, shared=bool(shared))
    trace.events.append(Promise((None,), readable=durability != "none"))
    with Killing(Path(directory), trace) as recorder:
        recorder.when, recorder.trace_path = when, Path(trace_path)
        # The server does not know of the saves: the rate is what makes them come in between.
        fastxfer.fetch(
            url,
            Path(directory) / NAME,
            2,
            chunk_size=CHUNK,
            durability=durability,
            sink=sink,
            max_rate="256K",
            exists="error" if when == "link" else "update",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
