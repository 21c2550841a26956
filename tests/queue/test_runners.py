"""Runners as processes: killed at random moments, several at once, told to pause and cancel from outside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastxfer import Queue
from fastxfer.cli.status import read_status
from tests.cli.command import COMMAND, WITH_SIGNALS, claimed, environment, fastxfer, wait_until
from tests.servers.nginx import LogEntry, Nginx
from tests.servers.objects import Objects, TestObject

DEADLINE_S = 240.0
MIB = 1024**2
ITEMS = 200
KILLS = 8


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "state" / "queue.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@contextmanager
def runner(queue: Queue, jobs: int = 4) -> Iterator[subprocess.Popen[str]]:
    """Gives a running `fastxfer queue run`; it is killed if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_SIGNALS, *COMMAND, "queue", "run", "-j", str(jobs), "-q"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"FASTXFER_QUEUE": str(queue.path)}),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def count(queue: Queue, state: str) -> int:
    return Counter(item.state for item in queue.items())[state]


def states(queue: Queue) -> dict[int, str]:
    return {item.id: item.state for item in queue.items()}


def wait_for_done(queue: Queue, least: int, process: subprocess.Popen[str]) -> None:
    """Returns when so many items are done, or the runner has ended."""
    wait_until(lambda: count(queue, "done") >= least or process.poll() is not None)


def begun_after(entries: list[LogEntry], moment: float) -> set[str]:
    """Returns the names of what was asked for after a moment."""
    return {
        entry.uri.rpartition("/")[2] for entry in entries if entry.finished_at - entry.request_time > moment
    }


def assert_whole(queue: Queue, things: dict[int, TestObject]) -> None:
    for item in queue.items("done"):
        assert Path(item.path).read_bytes() == things[item.id].path.read_bytes()


# ---- kills ----


def test_a_runner_killed_at_random_moments_loses_nothing_and_repeats_nothing(
    own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path
) -> None:
    dice = random.Random(20)
    things: dict[int, TestObject] = {}
    for number in range(ITEMS):
        thing = objects.make(20_000 + 997 * number, seed=number, name=f"kill-{number}")
        # Some come slowly, so that a kill finds them half way; some are not there at all.
        missing = number % 25 == 24
        prefix = "/slow64k" if number % 10 == 0 else "/status/404" if missing else ""
        url = own_nginx.url(thing.name, prefix=prefix)
        things[queue.add(url, folder / thing.name, retries=0, connections=2)] = thing
    resting = queue.pause([1, 50, 100])
    given_up = queue.cancel([2, 51, 101])
    kills = 0
    while kills < KILLS and count(queue, "queued"):
        before = count(queue, "done")
        more = dice.choice([0, 1, 5, 10])
        with runner(queue) as process:
            wait_for_done(queue, before + more, process)
            threading.Event().wait(dice.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_S)
        kills += 1
        moment, done = (
            time.time(),
            {things[id].name for id, state in states(queue).items() if state == "done"},
        )
        assert "running" not in states(queue).values()
        with runner(queue) as process:  # the next one takes over, and does not ask for what is done
            wait_for_done(queue, len(done) + 1, process)
            process.kill()
            process.wait(DEADLINE_S)
        assert done.isdisjoint(begun_after(own_nginx.requests(), moment))
    assert kills >= 3
    with runner(queue) as process:
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    found = states(queue)
    missing_ones = {id for id in things if id % 25 == 0} - set(resting) - set(given_up)
    assert {id for id, state in found.items() if state == "failed"} == missing_ones
    assert {id for id, state in found.items() if state == "paused"} == set(resting)
    assert {id for id, state in found.items() if state == "cancelled"} == set(given_up)
    assert count(queue, "done") == ITEMS - len(missing_ones) - 6
    assert_whole(queue, things)
    assert len(os.listdir(folder)) == count(queue, "done")


def test_what_a_killed_runner_had_is_gone_on_with(
    own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path
) -> None:
    thing = objects.make(4 * MIB, seed=3, name="go-on")
    id = queue.add(own_nginx.url(thing.name, prefix="/slow256k"), folder / "f", connections=4)
    with runner(queue) as process:
        wait_until(lambda: claimed(folder / "f") > MIB)
        assert states(queue) == {id: "running"}
        process.kill()
        process.wait(DEADLINE_S)
    assert states(queue) == {id: "queued"}
    result = queue.run()
    assert result.results[0].resumed > MIB
    assert queue.item(id).attempts == 2
    assert_whole(queue, {id: thing})


# ---- several at once ----


def test_two_runners_share_the_items(own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path) -> None:
    things = {}
    for number in range(60):
        thing = objects.make(30_000 + number, seed=number, name=f"two-{number}")
        things[queue.add(own_nginx.url(thing.name), folder / thing.name)] = thing
    with runner(queue) as one, runner(queue) as other:
        assert [process.communicate(timeout=DEADLINE_S) for process in (one, other)] == [("", ""), ("", "")]
        assert (one.returncode, other.returncode) == (0, 0)
    assert set(states(queue).values()) == {"done"}
    assert {item.attempts for item in queue.items()} == {1}
    assert_whole(queue, things)
    whole = [
        entry.uri
        for entry in own_nginx.requests(body_bytes=sum(thing.size for thing in things.values()))
        if entry.body_bytes > 1
    ]
    assert sorted(whole) == sorted(f"/{thing.name}" for thing in things.values())


# ---- from another process ----


@pytest.mark.parametrize(("command", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_running_item_is_stopped_from_another_process(
    own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path, command: str, state: str
) -> None:
    thing = objects.make(8 * MIB, seed=4, name="stopped")
    small = objects.make(1000, seed=5, name="after")
    url = own_nginx.url(thing.name, prefix="/slow256k")
    id = queue.add(url, folder / "f", connections=4, priority=1)
    second = queue.add(own_nginx.url(small.name), folder / "g")
    env = {"FASTXFER_QUEUE": str(queue.path)}
    with runner(queue, jobs=1) as process:
        wait_until(lambda: claimed(folder / "f") > MIB)
        assert fastxfer("queue", command, str(id), env=env).returncode == 0
        assert process.communicate(timeout=DEADLINE_S) == ("", "")
    assert process.returncode == 0
    assert states(queue) == {id: state, second: "done"}
    assert read_status(str(folder / "f")).paused is (command == "pause")
    kept = claimed(folder / "f")
    assert MIB < kept < thing.size
    own_nginx.forget()
    assert fastxfer("queue", "run", env=env).returncode == 0
    assert own_nginx.requests() == []
    again = "resume" if command == "pause" else "retry"
    assert fastxfer("queue", again, str(id), env=env).returncode == 0
    result = queue.run()
    assert result.results[0].resumed >= kept
    assert_whole(queue, {id: thing, second: small})


def test_an_item_added_while_a_runner_runs_is_fetched(
    own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path
) -> None:
    slow = objects.make(2 * MIB, seed=6, name="slow")
    soon = objects.make(1000, seed=7, name="soon")
    first = queue.add(own_nginx.url(slow.name, prefix="/slow256k"), folder / "f", connections=2)
    with runner(queue) as process:
        wait_until(lambda: claimed(folder / "f") > 0)
        second = queue.add(own_nginx.url(soon.name), folder / "g")
        wait_until(lambda: queue.item(second).state == "done")
        process.communicate(timeout=DEADLINE_S)
    assert_whole(queue, {first: slow, second: soon})
    assert set(states(queue).values()) == {"done"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_puts_everything_back_in_line(
    own_nginx: Nginx, objects: Objects, queue: Queue, folder: Path, number: signal.Signals
) -> None:
    things = {}
    for i in range(3):
        thing = objects.make(4 * MIB, seed=10 + i, name=f"signal-{i}")
        url = own_nginx.url(thing.name, prefix="/slow256k")
        things[queue.add(url, folder / thing.name, connections=2)] = thing
    with runner(queue, jobs=2) as process:
        wait_until(lambda: sum(claimed(folder / f"signal-{i}") > 0 for i in range(3)) == 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (7, "")
    assert (
        err
        == "fastxfer: stopped; the same command goes on where it stopped (kept: 3 files are not finished)\n"
    )
    assert set(states(queue).values()) == {"queued"}
    kept = sum(claimed(folder / thing.name) for thing in things.values())
    assert kept > 0
    result = queue.run()
    assert sum(each.resumed for each in result.results) >= kept
    assert_whole(queue, things)
