"""Somebody cuts, replaces or removes the part file of a running transfer, or its disk fills up under it.

The fetch runs in a process of its own, which must live: a StorageError, nothing under the final name, and the
next fetch brings the right bytes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import crc64nvme
from tests.cli.command import DEADLINE_S, claimed, environment, events, running, wait_until
from tests.faults.scenarios import span_of
from tests.servers import find_program
from tests.servers.objects import make_bytes
from tests.servers.raw import Fault, RangeHandler, RawServer, Request

MIB = 1024**2
SIZE = 12 * MIB + 17
CHUNK = 64 * 1024
OBJECT = make_bytes(SIZE, seed=11)
KEPT = MIB
REPOSITORY = Path(__file__).parents[2]

sinks = pytest.mark.parametrize("sink", ["direct", "mmap", "auto", "pwrite"])
connections_of = pytest.mark.parametrize("connections", [1, 16])


class Halves:
    """Serves the object; every later request stops in its middle until `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.handler = RangeHandler(OBJECT, faults=self._fault)
        self.waiting = 0

    def _fault(self, request: Request) -> Fault | None:
        start, stop = span_of(request, SIZE)
        if request.number == 0 or self.gate.is_set():
            return None
        # Not at a chunk's border, and behind some whole chunks.
        return Fault(stall_at=max(start, (start + stop) // 2 - 1000), until=self.gate)

    def open(self) -> None:
        """Lets everything come."""
        self.gate.set()


@contextmanager
def half_way(out: Path, connections: int, sink: str) -> Iterator[tuple[subprocess.Popen[str], Halves, str]]:
    """Gives a process whose fetch has brought the first half of each run, and has claimed it."""
    halves = Halves()
    with RawServer(halves.handler) as server:
        url = server.url()
        options: list[str | Path] = [
            "-o",
            out,
            "-x",
            str(connections),
            "--sink",
            sink,
            "--json",
            "-k",
            str(CHUNK),
        ]
        with running("fetch", url, *options, "--stall-timeout", str(DEADLINE_S)) as process:
            wait_until(lambda: claimed(out) >= KEPT)
            yield process, halves, url


def ends_with(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    """Returns the error of a process, which has ended by itself and with this status."""
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, (process.returncode, stdout[-500:], stderr[-500:])
    return events(stdout)[-1]


def then_arrives(url: str, out: Path, sink: str) -> fastxfer.FetchResult:
    result = fastxfer.fetch(url, out, sink=sink)
    assert out.read_bytes() == OBJECT
    assert result.size == SIZE
    return result


def cut_to(size: int) -> Callable[[Path], None]:
    return lambda part: os.truncate(part, size)


def cut_and_grown(part: Path) -> None:
    os.truncate(part, 0)
    os.truncate(part, SIZE)


def made_anew(part: Path) -> None:
    part.unlink()
    part.write_bytes(b"somebody else's")


def made_anew_whole(part: Path) -> None:
    part.unlink()
    part.write_bytes(bytes(SIZE))


def renamed_over(part: Path) -> None:
    other = part.with_name("other")
    other.write_bytes(bytes(SIZE))
    os.rename(other, part)


@sinks
@connections_of
@pytest.mark.parametrize("size", [0, KEPT // 2])
def test_a_part_file_that_is_cut_is_an_error_and_the_next_fetch_repairs_it(
    tmp_path: Path, connections: int, sink: str, size: int
) -> None:
    is_repaired_after(tmp_path, connections, sink, cut_to(size), "truncated")


@sinks
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "removed"),
        (made_anew, "replaced"),
        (made_anew_whole, "replaced"),
        (renamed_over, "replaced"),
    ],
    ids=["removed", "made-anew", "made-anew-whole", "renamed-over"],
)
def test_another_file_in_its_place_is_an_error_and_is_not_published(
    tmp_path: Path, sink: str, harm: Callable[[Path], None], told: str
) -> None:
    is_repaired_after(tmp_path, 16, sink, harm, told)


@pytest.mark.parametrize(
    ("connections", "sink"), [(1, "mmap"), (1, "auto"), (1, "pwrite"), (16, "pwrite"), (16, "direct")]
)
def test_a_file_that_was_cut_and_grew_again_is_known_by_its_hole(
    tmp_path: Path, connections: int, sink: str
) -> None:
    is_repaired_after(tmp_path, connections, sink, cut_and_grown, "truncated")


def is_repaired_after(
    tmp_path: Path, connections: int, sink: str, harm: Callable[[Path], None], told: str
) -> None:
    out, part = tmp_path / "out", tmp_path / "out.part"
    with half_way(out, connections, sink) as (process, halves, url):
        harm(part)
        halves.open()
        error = ends_with(process, 17)
        assert error["type"] == "StorageError"
        assert told in error["message"]
        assert str(part) in error["message"]
        assert not out.exists()
        then_arrives(url, out, sink)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@sinks
@connections_of
def test_a_cut_that_takes_away_what_is_still_to_come_leaves_no_wrong_byte(
    tmp_path: Path, connections: int, sink: str
) -> None:
    out = tmp_path / "out"
    with half_way(out, connections, sink) as (process, halves, url):
        os.truncate(tmp_path / "out.part", SIZE - 1)
        halves.open()
        process.communicate(timeout=DEADLINE_S)
        # Without a mapping the last byte brings the file to its length again, if nobody looked before.
        assert process.returncode in ((17,) if sink == "mmap" else (0, 17))
        assert out.exists() == (process.returncode == 0)
        then_arrives(url, out, sink)


@connections_of
def test_a_part_file_cut_while_no_byte_comes_is_found_by_the_clock(tmp_path: Path, connections: int) -> None:
    out = tmp_path / "out"
    with half_way(out, connections, "auto") as (process, halves, _):
        os.truncate(tmp_path / "out.part", MIB)
        assert ends_with(process, 17)["type"] == "StorageError"
        assert not halves.gate.is_set()


ROUNDS = 12
# Fetches again and again, and tells how far it is; then once more, undisturbed.
AGAIN_AND_AGAIN = """
import sys, fastxfer
url, place, sink, rounds = sys.argv[1:]
def tell(progress):
    print("at", progress.done, flush=True)
for n in range(int(rounds)):
    out = f"{place}/out{n}"
    try:
        fastxfer.fetch(url, out, 16, sink=sink, max_rate="16M", progress=tell, chunk_size=65536)
        print("whole", flush=True)
    except fastxfer.StorageError as error:
        print("harmed", error.exit_code, flush=True)
    fastxfer.fetch(url, out, 16, sink=sink)
    print("over", flush=True)
"""


@pytest.mark.parametrize("sink", ["mmap", "auto"])
def test_cut_at_random_moments_one_process_lives_through_it_all(tmp_path: Path, sink: str) -> None:
    choose = random.Random(f"cuts {sink}")
    harmed = 0
    with (
        RawServer(RangeHandler(OBJECT)) as server,
        subprocess.Popen(
            [sys.executable, "-c", AGAIN_AND_AGAIN, server.url(), str(tmp_path), sink, str(ROUNDS)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process,
    ):
        watchdog = threading.Timer(2 * DEADLINE_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        for n in range(ROUNDS):
            moment, size = choose.randrange(SIZE * 8 // 10), choose.choice([0, choose.randrange(SIZE)])
            told = cut_when(process, moment, tmp_path / f"out{n}.part", size)
            assert told in ("harmed 17", "whole")
            harmed += told == "harmed 17"
            assert process.stdout.readline() == "over\n"
            assert (tmp_path / f"out{n}").read_bytes() == OBJECT
        assert process.wait(DEADLINE_S) == 0
        watchdog.cancel()
    assert harmed >= ROUNDS * 3 // 4


def cut_when(process: subprocess.Popen[str], moment: int, part: Path, size: int) -> str:
    """Cuts the part file once so many bytes are told to be there; returns how the fetch ended."""
    assert process.stdout is not None
    cut = False
    for line in process.stdout:
        word, _, number = line.partition(" ")
        if word != "at":
            return line.strip()
        if not cut and int(number) >= moment and part.exists():
            os.truncate(part, size)
            cut = True
    raise AssertionError(f"the process ended early: {process.wait(DEADLINE_S)}")


# On a disk of its own, whose space somebody takes away: the part file gets a hole, and the disk is filled.
DISK_FILLS_UP = """
import os, subprocess, sys, fastxfer
from pathlib import Path
from tests.cli.command import claimed
url, place, sink, fallocate = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], check=True)
out, part, filler = (f"{place}/{name}" for name in ("out", "out.part", "filler"))
def wait(progress):
    if claimed(Path(out)) >= 1 << 20 and not os.path.exists(filler):
        half, size = map(str, (progress.size // 2, progress.size))
        subprocess.run([fallocate, "-p", "-o", half, "-l", size, part], check=True)
        with open(filler, "wb", 0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                pass
        print("full", flush=True)
try:
    fastxfer.fetch(url, out, 2, sink=sink, progress=wait, chunk_size=65536, stall_timeout=60)
except fastxfer.DiskFullError as error:
    print(error.exit_code, os.path.exists(out), flush=True)
    print(error, file=sys.stderr)
os.unlink(filler)
result = fastxfer.fetch(url, out, 2, sink=sink)
print(result.resumed >= 1 << 20, result.size, result.checksums["crc64nvme"], flush=True)
"""


@sinks
def test_a_disk_that_fills_up_under_the_part_file_is_full_and_goes_on_once_there_is_space(
    tmp_path: Path, sink: str
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    halves = Halves()
    unshare = find_program("unshare", install="apt-get install util-linux")
    fallocate = find_program("fallocate", install="apt-get install util-linux")
    mounts = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    with (
        RawServer(halves.handler) as server,
        subprocess.Popen(
            [*mounts, sys.executable, "-c", DISK_FILLS_UP, server.url(), str(place), sink, fallocate],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=REPOSITORY,
        ) as process,
    ):
        watchdog = threading.Timer(DEADLINE_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        first = process.stdout.readline()
        halves.open()
        rest, stderr = process.communicate()
        watchdog.cancel()
    expected = f"{crc64nvme(OBJECT):016x}"
    assert (first, rest.split()) == ("full\n", ["9", "False", "True", str(SIZE), expected]), stderr
    assert "free some space" in stderr
