"""The runs that are recorded: real fetches from a real server, with saves as often as can be, and what may
happen to them.

A run is small (some dozens of chunks) and paced by its own saves: the server sends on when the checkpoint was
written again.
"""

from __future__ import annotations

import errno
import hashlib
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer import download, safekeeping
from fastxfer.names import LEDGER
from fastxfer.plan import scheduler
from fastxfer.storage import owner
from tests.crash.events import Promise, Trace
from tests.crash.trace import NAME, Recorder
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Content, Fault, RangeHandler, RawServer, Request

SIZE = 27 * 4096 + 1234
CHUNK = 4096  # so many that a slot of the checkpoint is more than a sector
PIECE = 5 * 1024
V1, V2 = '"v1"', '"v2"'
DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
DEADLINE_S = 60.0
CONTENT = {V1: make_bytes(SIZE, 1), V2: make_bytes(SIZE - 4096, 2), "old": make_bytes(SIZE, 3)}
# The third chunk is wrong, and the last byte, and some in between.
CONTENT["damaged"] = CONTENT[V1][: 2 * CHUNK] + CONTENT["old"][2 * CHUNK : 3 * CHUNK]
CONTENT["damaged"] += CONTENT[V1][3 * CHUNK : 20 * CHUNK] + bytes(8000)
CONTENT["damaged"] += CONTENT[V1][20 * CHUNK + 8000 : -1] + bytes([CONTENT[V1][-1] ^ 1])


def save_often(patches: pytest.MonkeyPatch) -> None:
    """Has a transfer of any size keep a checkpoint, claim every 10 ms and sync every 20, in runs of a few
    chunks.
    """
    patches.setattr(scheduler, "PROBE_BYTES", 4 * CHUNK)
    patches.setattr(scheduler, "MIN_RUN_BYTES", 8 * CHUNK)
    patches.setattr(safekeeping, "SMALL_BYTES", 0)
    patches.setattr(safekeeping, "CLAIM_S", 0.01)
    patches.setattr(safekeeping, "SYNC_S", 0.02)
    patches.setattr(download, "SAVE_TICK_S", 0.005)
    patches.setattr(download, "TICK_S", 0.01)


def share(patches: pytest.MonkeyPatch) -> None:
    """Has every file system be one whose locks prove nothing, and nobody wait for an owner that stands
    still.
    """
    patches.setattr(owner, "record_needed", lambda kind, lock: True)
    patches.setattr(owner, "RENEW_S", 0.02)
    patches.setattr(owner, "WATCH_S", 0.0)


class Paced(RangeHandler):
    """Serves in pieces; before each but the first, waits for the transfer to have saved again.

    With a `gate`, it sets `half` when half of the object has gone out, and waits for the gate.
    """

    def __init__(self, data: bytes, **options: Any) -> None:
        super().__init__(data, **options)
        self.recorder: Recorder | None = None
        self.told_length = True
        self.half = threading.Event()
        self.gate: threading.Event | None = None
        self._sent = 0

    def stop_half_way(self) -> threading.Event:
        """Has it wait when half of the object has gone out, counted from now; returns the gate."""
        self.half.clear()
        self._sent = 0
        self.gate = threading.Event()
        return self.gate

    def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
        """Leaves the length out when it is not to be told: the connection's end is the body's."""
        fields = super().head(content, status, wanted)
        if not self.told_length:
            del fields["Content-Length"]
        return fields

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        """Ends the connection where nothing else tells the end of the body."""
        super().body(connection, content, wanted, fault)
        if not self.told_length:
            connection.close()

    def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
        """Sends a piece after each save."""
        for at in range(start, stop, PIECE):
            if at > start and self.recorder is not None:
                self.recorder.wait_for_saves()
            connection.send(content.data[at : min(at + PIECE, stop)])
            self._sent += PIECE
            if self.gate is not None and self._sent > len(content.data) // 2:
                self.half.set()
                connection.stall(self.gate)


@dataclass(slots=True)
class Run:
    """A directory, a server and a recorder, for a scenario to use."""

    durability: str
    sink: str
    directory: Path
    server: RawServer
    handler: Paced
    recorder: Recorder

    @property
    def options(self) -> dict[str, Any]:
        """What every fetch of the run is given."""
        return {
            "connections": 2,
            "chunk_size": CHUNK,
            "durability": self.durability,
            "sink": self.sink,
            "retries": 0,
        }

    def fetch(self, **options: Any) -> fastxfer.FetchResult:
        """Fetches to the end."""
        return self.start(**options).wait(DEADLINE_S)

    def repair(self) -> fastxfer.VerifyResult:
        """Verifies, and fetches what does not hold."""
        options = {name: value for name, value in self.options.items() if name != "chunk_size"}
        return fastxfer.verify(self.directory / NAME, repair=self.server.url(), **options)

    def start(self, **options: Any) -> fastxfer.Transfer:
        """Starts a transfer."""
        return fastxfer.start(self.server.url(), self.directory / NAME, **{**self.options, **options})

    @contextmanager
    def half_way(self) -> Iterator[fastxfer.Transfer]:
        """Gives a transfer that is half way, and gets no more until the end of the context."""
        gate = self.handler.stop_half_way()
        transfer = self.start()
        assert self.handler.half.wait(DEADLINE_S)
        self.recorder.wait_for_saves(2)
        yield transfer
        self.handler.gate = None
        gate.set()

    def stop_half_way(self, *, keep: bool = True) -> None:
        """Fetches half of it, and cancels."""
        with self.half_way() as transfer:
            transfer.cancel(keep=keep)
            with pytest.raises(fastxfer.InterruptedTransferError):
                transfer.wait(DEADLINE_S)


Scenario = Callable[[Run], None]


def meets_a_sync_that_fails(run: Run) -> None:
    """A sync fails, as the recorder was told; the next run goes on, in the same boot."""
    with pytest.raises(fastxfer.StorageError) as caught:
        run.fetch()
    assert (caught.value.exit_code, caught.value.errno) == (17, errno.EIO)
    assert run.recorder.failed
    run.fetch()


def to_the_end(run: Run) -> None:
    """A fresh fetch; then the same again, which has nothing to do."""
    run.fetch()
    assert run.fetch().skipped


def fails_then_goes_on(run: Run) -> None:
    """The server says 404 half way; the next run goes on, is paused, and ends."""
    gone = Fault(status=404)
    run.handler.faults = lambda request: gone if request.number >= 2 else None
    with pytest.raises(fastxfer.NotFoundError):
        run.fetch()
    run.handler.faults = lambda request: None
    with run.half_way() as transfer:
        transfer.pause()
        run.recorder.wait_for_saves()
        transfer.resume()
    assert transfer.wait(DEADLINE_S).resumed > 0


def changes(run: Run) -> None:
    """Cancelled half way; then the object is another one, which replaces the older object at the target."""
    run.recorder.put_old(NAME, CONTENT["old"])
    run.stop_half_way()
    run.handler.replace(CONTENT[V2], etag=V2, last_modified=DATE)
    result = run.fetch(exists="replace")
    assert result.restarts == 1


def changes_mid_way(run: Run) -> None:
    """The object changes while it is fetched."""

    def change(request: Request) -> None:
        if request.number == 2:
            run.handler.replace(CONTENT[V2], etag=V2)

    run.handler.faults = change
    assert run.fetch().restarts == 1


def may_not_replace(run: Run) -> None:
    """Nothing may be there: the target is made by a link."""
    run.stop_half_way()
    run.fetch(exists="error")


def is_discarded(run: Run) -> None:
    """Cancelled and removed half way, at once and by a run that goes on; then fetched anew."""
    run.stop_half_way(keep=False)
    run.stop_half_way()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(safekeeping, "SYNC_S", DEADLINE_S)  # it has not synced yet
        run.stop_half_way(keep=False)
    run.fetch()


def keeps_its_ledger(run: Run) -> None:
    """A ledger is kept, of an object and then of another one; then it is made anew of the finished file."""
    run.fetch(keep_ledger=True)
    run.recorder.promise_ledger()
    run.handler.replace(CONTENT[V2], etag=V2, last_modified=DATE)
    run.fetch()  # it is replaced, asked for or not
    run.recorder.promise_ledger()
    run.recorder.remove(f"{NAME}{LEDGER}")
    right = hashlib.sha256(CONTENT[V2]).hexdigest()
    assert run.fetch(keep_ledger=True, checksum=f"sha256:{right}").skipped
    run.recorder.promise_ledger()


def is_repaired(run: Run) -> None:
    """A finished file is damaged. A first repair brings nothing, and gives it its name back; a second one is
    broken off half way, a third goes on.
    """
    run.fetch(keep_ledger=True)
    run.recorder.promise_ledger()
    run.recorder.damage(NAME, CONTENT["damaged"], synced=True)
    gone = Fault(status=404)
    run.handler.faults = lambda request: gone if run.recorder.reopened.is_set() else None
    with pytest.raises(fastxfer.NotFoundError):
        run.repair()
    run.handler.faults = lambda request: None
    run.recorder.reopened.clear()
    cut = Fault(cut_after=CHUNK + 100)
    run.handler.faults = lambda request: cut if run.recorder.reopened.is_set() else None
    with pytest.raises(fastxfer.FastxferError):
        run.repair()
    run.handler.faults = lambda request: None
    assert run.repair().ok
    run.recorder.promise_ledger()


def is_repaired_in_the_cache(run: Run) -> None:
    """What holds of a damaged file was never synced by whoever wrote it."""
    run.fetch(keep_ledger=True)
    run.recorder.damage(NAME, CONTENT["damaged"], synced=False)
    assert run.repair().repaired > 0
    run.recorder.promise_ledger()


def loses_its_part_file(run: Run) -> None:
    """Somebody removes the part file; the next run begins with what the checkpoint says."""
    run.stop_half_way()
    run.recorder.remove(f"{NAME}.part")
    run.stop_half_way()
    run.fetch()


def is_small(run: Run) -> None:
    """An object without a checkpoint, over an older one, twice."""
    run.recorder.put_old(NAME, CONTENT["old"])
    run.handler.recorder = None  # there are no saves to wait for
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(safekeeping, "SMALL_BYTES", 1 << 20)
        run.fetch()
        run.handler.replace(CONTENT[V2], etag=V2)
        run.fetch()


def breaks_as_one_stream(run: Run) -> None:
    """A server without ranges breaks off half way: all of it is sent again, so no progress is promised."""
    run.handler.ranges = run.recorder.promises_progress = False
    cut = Fault(cut_after=SIZE // 2)
    run.handler.faults = lambda request: cut if request.number == 0 else None
    assert run.fetch(retries=2).requests > 1


def has_no_length(run: Run) -> None:
    """An object of unknown size, ended by the connection."""
    run.handler.ranges = run.handler.told_length = False
    run.handler.recorder = None
    run.fetch()


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        to_the_end,
        fails_then_goes_on,
        changes,
        changes_mid_way,
        may_not_replace,
        is_discarded,
        loses_its_part_file,
        is_repaired,
        is_repaired_in_the_cache,
        keeps_its_ledger,
        is_small,
        breaks_as_one_stream,
        has_no_length,
    )
}


SHARED = (to_the_end, fails_then_goes_on, changes, may_not_replace, is_discarded, is_small)
"""What is also recorded where locks prove nothing."""


@contextmanager
def running(
    directory: Path,
    name: str,
    durability: str,
    sink: str,
    trace: Trace | None = None,
    *,
    shared: bool = False,
    **recorder: Any,
) -> Iterator[Run]:
    """Gives a run in an empty directory, or in one that `trace` tells of, and records it."""
    trace = trace or Trace(f"{name}-{durability}-{sink}", {V1: CONTENT[V1], V2: CONTENT[V2]}, shared=shared)
    handler = Paced(CONTENT[V1], etag=V1, last_modified=DATE)
    with pytest.MonkeyPatch.context() as patches, RawServer(handler) as server:
        save_often(patches)
        if shared:
            share(patches)
            if trace.events:  # somebody else's: whether that one still lives cannot be told
                patches.setattr(owner, "lives", lambda record, here: None)
        trace.url = server.url()
        if not trace.events:
            trace.events.append(Promise((None,), readable=durability != "none"))
        with Recorder(directory, trace, **recorder) as handler.recorder:
            yield Run(durability, sink, directory, server, handler, handler.recorder)


def record(directory: Path, name: str, durability: str, sink: str, **recorder: Any) -> Trace:
    """Returns the trace of a scenario that was run in an empty directory."""
    directory.mkdir()
    with running(directory, name, durability, sink, **recorder) as run:
        {**SCENARIOS, "meets_a_sync_that_fails": meets_a_sync_that_fails}[name](run)
    return run.recorder.trace


# ---- a real kill, and the next run in the same boot ----


def record_killed(
    directory: Path,
    when: str,
    *,
    durability: tuple[str, str] = ("periodic", "periodic"),
    sink: str = "mmap",
    shared: bool = False,
    **recorder: Any,
) -> Trace:
    """Returns the trace of a run that is killed (see killed.py for `when`) and of the one that goes on after
    it, each with its own durability.
    """
    directory.mkdir()
    kept = directory.with_suffix(".trace")
    handler = Paced(CONTENT[V1], etag=V1, last_modified=DATE)
    with RawServer(handler) as server:
        command = [sys.executable, "-m", "tests.crash.killed", server.url(), str(directory)]
        ended = subprocess.run(
            [*command, durability[0], sink, when, str(kept), *(["shared"] if shared else [])],
            cwd=Path(__file__).parents[2],
            timeout=DEADLINE_S,
            check=False,
        )
    assert ended.returncode == -signal.SIGKILL
    trace: Trace = pickle.loads(kept.read_bytes())
    trace.name = f"killed-{when}-{'-'.join(durability)}-{sink}"
    with running(directory, trace.name, durability[1], sink, trace, shared=shared, **recorder) as run:
        run.fetch()
    return run.recorder.trace
