"""SIGKILL at random moments: every claim that was seen is kept, no byte is wrong, and no more is lost than is
stated.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fastxfer
from fastxfer._native.bitmap import ChunkLedger
from fastxfer.plan.grid import prefix_bytes
from fastxfer.storage.left import stored_checkpoint
from fastxfer.storage.owner import current
from tests.cli.command import claimed
from tests.faults.machine import mounted
from tests.kills import AT_ONCE, SOAK
from tests.kills.losses import Loss, Telling, loss, right_bytes, table
from tests.kills.victims import SINKS, opened
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

pytestmark = pytest.mark.usefixtures("no_races")  # what comes is counted

KILLS = 1000 if SOAK else 50  # for each sink
SHARED_KILLS = 200 if SOAK else 12  # where locks prove nothing
SECONDS = 8 if SOAK else 2  # a sync every 5
RATE_MIB = 8
SIZE = SECONDS * RATE_MIB * 1024**2
START_S = 0.3
DEADLINE_S = 120.0
CONNECTIONS = 8
CHUNK = 262144


@dataclass(slots=True)
class Child:
    """A child that fetches, watched: what it told, and what its checkpoint claimed."""

    process: subprocess.Popen[str]
    out: Path
    lines: list[str] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)

    def run_until(self, moment_s: float) -> Telling:
        """Watches it until it is killed, so many seconds from now, or ends; returns what it told."""
        reader = threading.Thread(target=self._read)
        reader.start()
        deadline = time.monotonic() + moment_s
        while self.process.poll() is None and time.monotonic() < deadline:
            self.claims.append(claimed(self.out))
            try:
                self.process.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                pass
        killed_at = time.monotonic()
        self.process.kill()
        self.process.wait(DEADLINE_S)
        reader.join(DEADLINE_S)
        assert not reader.is_alive()
        return Telling.read(self.lines, killed_at)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(lines)


def holds(out: Path, content: bytes) -> tuple[int, int]:
    """Returns how many whole chunks, and how many bytes, the checkpoint claims; each of these is right."""
    with opened(out) as target:
        now = current(target)
        stored = stored_checkpoint(now)
    if stored is None or stored.identity.size is None:
        return 0, 0
    ledger = ChunkLedger(stored.identity.size, stored.chunk_size)
    ledger.load(stored.claimed, stored.crcs)
    # A chunk that was finished while the checkpoint was made may be there in both ways.
    begun = [pos for pos, _ in stored.partials if pos // stored.chunk_size not in ledger]
    parts = [(pos - pos % stored.chunk_size, pos) for pos in begun]
    with (out.parent / now.part_name).open("rb") as part:
        for start, stop in (*ledger.present(), *parts):
            wrong = os.pread(part.fileno(), stop - start, start) != content[start:stop]
            assert not wrong, f"{start}-{stop} is claimed, and not there"
    return ledger.done, ledger.done_bytes + prefix_bytes(begun, stored.chunk_size)


def kill_once(url: str, content: bytes, directory: Path, number: int, sink: str) -> tuple[str, Loss] | None:
    """Kills a fetch, and runs it again; returns its durability and what the kill cost, None when it came too
    late.
    """
    rng = random.Random(f"moment {sink} {number}")
    durability = rng.choice(["none", "periodic", "chunk"])
    moment_s = rng.uniform(0, START_S + SECONDS)
    directory.mkdir()
    out = directory / "out"
    arguments = (url, out, CONNECTIONS, f"{RATE_MIB}M", durability, sink, CHUNK)
    command = [sys.executable, "-m", "tests.kills.watched", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        child = Child(process, out)
        told = child.run_until(moment_s)
    finished = out.exists()
    if finished:
        assert out.read_bytes() == content
    left = claimed(out)
    assert finished or left >= max(child.claims, default=0), "a claim is never taken back"
    with opened(out) as target:
        there = right_bytes(out.parent / current(target).part_name, content)
    chunks, kept = holds(out, content) if not finished else (0, 0)
    result = fastxfer.fetch(url, out, CONNECTIONS, sink=sink, durability=durability)
    assert out.read_bytes() == content
    assert sorted(os.listdir(directory)) == ["out"]
    shutil.rmtree(directory)
    if finished:
        return None
    assert (result.resumed, result.restarts, kept) == (left, 0, left)
    assert result.transferred == SIZE - left
    return durability, loss(told, durability, there, left, chunks)


@pytest.mark.parametrize("sink", [*SINKS, "direct"])
def test_killed_at_a_random_moment_it_goes_on(
    nginx: Nginx, objects: Objects, tmp_path: Path, sink: str
) -> None:
    kill_often(nginx, objects, tmp_path, sink, KILLS)


def test_killed_where_locks_prove_nothing_it_goes_on(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    for name in ("back", "shared"):
        (tmp_path / name).mkdir()
    with mounted(tmp_path / "back", tmp_path / "shared"):
        kill_often(nginx, objects, tmp_path / "shared", "pwrite", SHARED_KILLS, at_once=4)


def kill_often(
    nginx: Nginx, objects: Objects, directory: Path, sink: str, times: int, at_once: int = AT_ONCE
) -> None:
    """Kills so many fetches, each in a directory of its own. Prints what it cost (`pytest -rP`)."""
    thing = objects.make(SIZE, seed=13)
    content = thing.path.read_bytes()

    def kill(number: int) -> tuple[str, Loss] | None:
        try:
            return kill_once(nginx.url(thing.name), content, directory / f"{number}", number, sink)
        except BaseException as error:
            raise AssertionError(f"kill {number} of sink {sink}: {error}") from error

    with ThreadPoolExecutor(at_once) as pool:
        costs = [cost for cost in pool.map(kill, range(times)) if cost is not None]
    print(f"{times} kills with sink={sink}, {len(costs)} in time\n{table(costs)}")
    assert not (over := [cost for _, cost in costs if cost.over]), over
    assert len(costs) >= times * 3 // 4
