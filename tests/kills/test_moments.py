"""SIGKILL at random moments: every claim that was seen is kept, no byte is wrong."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fastxfer
from tests.cli.command import claimed
from tests.faults.machine import mounted
from tests.kills import AT_ONCE, SOAK
from tests.kills.victims import SINKS, child_command
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

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
    """A child that fetches, watched: what it told, and what its checkpoint claimed, each with the time."""

    process: subprocess.Popen[str]
    out: Path
    told: list[tuple[float, int]] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)

    def run_until(self, moment_s: float) -> None:
        """Watches it until it is killed, so many seconds from now, or ends."""
        reader = threading.Thread(target=self._read)
        reader.start()
        deadline = time.monotonic() + moment_s
        while self.process.poll() is None and time.monotonic() < deadline:
            self.claims.append(claimed(self.out))
            try:
                self.process.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                pass
        self.process.kill()
        self.process.wait(DEADLINE_S)
        reader.join(DEADLINE_S)
        assert not reader.is_alive()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.strip().isdigit():
                    self.told.append((time.monotonic(), int(line)))

    def told_before(self, seconds: float) -> int:
        """Returns how far it told to be so long before it told the last time."""
        last = self.told[-1][0] if self.told else 0.0
        return max((done for at, done in self.told if at <= last - seconds), default=0)


def kill_once(url: str, thing: TestObject, directory: Path, number: int, sink: str) -> bool:
    """Kills a fetch, and runs it again; returns whether the kill came in time."""
    rng = random.Random(f"moment {sink} {number}")
    durability = rng.choice(["none", "periodic", "chunk"])
    moment_s = rng.uniform(0, START_S + SECONDS)
    directory.mkdir()
    out = directory / "out"
    command = child_command(
        url, out, connections=CONNECTIONS, rate=f"{RATE_MIB}M", durability=durability, sink=sink
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = Child(process, out)
        child.run_until(moment_s)
    finished = out.exists()
    if finished:
        assert out.read_bytes() == thing.path.read_bytes()
    left = claimed(out)
    assert finished or left >= max(child.claims, default=0), "a claim is never taken back"
    # A claim comes 0.75 s after the last one at the latest; a sync before it may take its time.
    assert finished or left >= child.told_before(3.0 if durability == "chunk" else 1.5) - CONNECTIONS * CHUNK
    result = fastxfer.fetch(url, out, CONNECTIONS, sink=sink, durability=durability)
    assert out.read_bytes() == thing.path.read_bytes()
    assert sorted(os.listdir(directory)) == ["out"]
    if not finished:
        assert (result.resumed, result.restarts) == (left, 0)
        assert result.transferred == SIZE - left
    shutil.rmtree(directory)
    return not finished


@pytest.mark.parametrize("sink", SINKS)
def test_killed_at_a_random_moment_it_goes_on(
    nginx: Nginx, objects: Objects, tmp_path: Path, sink: str
) -> None:
    kill_often(nginx, objects, tmp_path, sink, KILLS)


def test_killed_where_locks_prove_nothing_it_goes_on(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    for name in ("back", "shared"):
        (tmp_path / name).mkdir()
    with mounted(tmp_path / "back", tmp_path / "shared"):
        kill_often(nginx, objects, tmp_path / "shared", "pwrite", SHARED_KILLS)


def kill_often(nginx: Nginx, objects: Objects, directory: Path, sink: str, times: int) -> None:
    """Kills so many fetches, each in a directory of its own."""
    thing = objects.make(SIZE, seed=13)

    def kill(number: int) -> bool:
        try:
            return kill_once(nginx.url(thing.name), thing, directory / f"{number}", number, sink)
        except BaseException as error:
            raise AssertionError(f"kill {number} of sink {sink}: {error}") from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        in_time = sum(pool.map(kill, range(times)))
    assert in_time >= times * 3 // 4
