"""A part file that is cut under its mapping is an error of the writer; every other SIGBUS is what it was
without fastxfer.

What happens to other handlers is told in C in guard_check.c; here are the ones that Python brings.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import Mapping, Writer, reserve
from tests.servers.objects import make_bytes

SIZE = 4 * 1024**2
CHUNK = 64 * 1024
SLICE = 16 * 1024
WINDOW = 2 * 1024**2  # what the writer brings in at once
DATA = make_bytes(SIZE, seed=8)
DEADLINE_S = 60


class Part:
    """A mapped part file with a writer that has begun."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        reserve(self.fd, SIZE)
        self.ledger = ChunkLedger(SIZE, CHUNK)
        self.mapping = Mapping(self.fd, SIZE)
        self.writer = self.more()
        self.writer.begin(0, SIZE)

    def more(self) -> Writer:
        writer = Writer()
        writer.use_mapping(self.ledger, self.mapping)
        return writer

    def feed(self, start: int, stop: int) -> int | None:
        """Feeds [start, stop) in slices; returns where the writer refused, or None."""
        for at in range(start, stop, SLICE):
            if self.writer(DATA[at : min(at + SLICE, stop)]) is not None:
                return at
        return None


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path / "part")


@pytest.mark.parametrize("left", [0, 1, 12345, 4096 * 150, WINDOW - 8192])
def test_a_file_that_is_cut_between_two_slices_is_an_error(part: Part, left: int) -> None:
    already = 10 * SLICE
    assert part.feed(0, already) is None
    os.ftruncate(part.fd, left)
    refused = part.feed(already, SIZE)
    assert refused is not None
    assert max(already, left - SLICE) <= refused <= max(already, left + SLICE)
    assert part.writer.error == errno.EFAULT
    with pytest.raises(OSError, match="it was truncated by somebody else") as caught:
        part.writer.end()
    assert caught.value.errno == errno.EFAULT
    assert part.ledger.done == refused // CHUNK


def test_a_file_that_is_cut_in_a_later_window_is_an_error_at_its_beginning(part: Part) -> None:
    os.ftruncate(part.fd, SIZE - 8192)
    assert part.feed(0, SIZE) == WINDOW
    with pytest.raises(OSError, match="it was truncated by somebody else"):
        part.writer.end()
    assert part.ledger.present() == [(0, WINDOW)]


def test_after_a_fault_no_chunk_is_marked_even_if_the_file_grows_again(part: Part) -> None:
    assert part.feed(0, CHUNK + SLICE) is None
    os.ftruncate(part.fd, CHUNK)
    assert part.feed(CHUNK + SLICE, CHUNK + 2 * SLICE) == CHUNK + SLICE
    os.ftruncate(part.fd, SIZE)
    assert part.writer(DATA[CHUNK + 2 * SLICE : CHUNK + 3 * SLICE]) == 0
    assert part.feed(0, SIZE) == 0
    assert part.ledger.present() == [(0, CHUNK)]
    assert part.writer.mark() == (CHUNK + SLICE, crc64nvme(DATA[CHUNK : CHUNK + SLICE]))


def test_a_new_run_goes_on_once_the_file_is_whole_again(part: Part) -> None:
    os.ftruncate(part.fd, CHUNK)
    assert part.feed(0, SIZE) is not None
    with pytest.raises(OSError, match="truncated"):
        part.writer.end()
    os.ftruncate(part.fd, SIZE)
    part.writer.begin(0, SIZE)
    assert part.feed(0, SIZE) is None
    assert part.writer.end() == (SIZE, 0)
    assert os.pread(part.fd, SIZE, 0) == DATA


@pytest.mark.parametrize("seed", range(5))
def test_threads_write_while_the_file_is_cut_and_grows(part: Part, seed: int) -> None:
    """Each marked chunk was whole in the file at some moment; nothing else is asked, or can be."""
    choose = random.Random(seed)
    failures: list[int] = []
    over = threading.Event()

    def work(first: int) -> None:
        writer = part.more()
        for chunk in range(first, SIZE // CHUNK, 4):
            writer.begin(chunk * CHUNK, (chunk + 1) * CHUNK)
            for at in range(chunk * CHUNK, (chunk + 1) * CHUNK, SLICE):
                writer(DATA[at : at + SLICE])
            try:
                writer.end()
            except OSError as error:
                failures.append(error.errno or 0)
                assert chunk not in part.ledger

    def cut() -> None:
        while not over.is_set():
            os.ftruncate(part.fd, choose.randrange(SIZE))
            os.ftruncate(part.fd, SIZE)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        for _ in range(5):
            threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
                assert not thread.is_alive()
            part.ledger.reset()
    finally:
        over.set()
        cutter.join(DEADLINE_S)
    assert set(failures) <= {errno.EFAULT, errno.EIO}


CHILD = """
import errno, faulthandler, mmap, os, signal, sys
from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Mapping, Writer
size = 1 << 20
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
def guarded():
    "A mapping whose file is cut under it; returns it alive."
    os.ftruncate(fd, size)
    mapping, ledger, writer = Mapping(fd, size), ChunkLedger(size, 1 << 16), Writer()
    writer.use_mapping(ledger, mapping)
    writer.begin(0, size)
    assert writer(bytes(16384)) is None
    os.ftruncate(fd, 0)
    assert writer(bytes(16384)) == 0 and writer.error == errno.EFAULT, writer.error
    print("guarded", flush=True)
    return mapping
def handled():
    "Tells whether there is any handler of SIGBUS."
    caught = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigCgt:"))
    return int(caught, 16) >> signal.SIGBUS - 1 & 1
def elsewhere():
    "A fault in a mapping of Python's."
    other = os.open(sys.argv[1] + ".other", os.O_RDWR | os.O_CREAT)
    os.ftruncate(other, 4096)
    view = mmap.mmap(other, 4096)
    os.ftruncate(other, 0)
    view[0]
"""


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs lines after the prelude above in a process of their own."""

    def run(*lines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "\n".join([CHILD, *lines]), str(tmp_path / "part")],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
            env={name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"},
        )

    return run


Child = Callable[..., subprocess.CompletedProcess[str]]
elsewhere_or_sent = pytest.mark.parametrize("what", ["elsewhere()", "os.kill(os.getpid(), signal.SIGBUS)"])


@elsewhere_or_sent
def test_a_signal_that_is_not_ours_still_kills(child: Child, what: str) -> None:
    run = child("mapping = guarded()", what, "print('alive')")
    assert (run.returncode, run.stdout.split(), run.stderr) == (-signal.SIGBUS, ["guarded"], "")


@elsewhere_or_sent
def test_and_does_so_when_no_mapping_is_left(child: Child, what: str) -> None:
    run = child("mapping = guarded()", "del mapping", what, "print('alive')")
    assert (run.returncode, run.stdout.split(), run.stderr) == (-signal.SIGBUS, ["guarded"], "")


@elsewhere_or_sent
def test_faulthandler_enabled_before_tells_of_what_is_not_ours_only(child: Child, what: str) -> None:
    run = child("faulthandler.enable()", "mapping = guarded()", "mapping = guarded()", what, "print('alive')")
    assert (run.returncode, run.stdout.split()) == (-signal.SIGBUS, ["guarded"] * 2)
    assert run.stderr.count("Fatal Python error: Bus error") == 1, run.stderr


@elsewhere_or_sent
def test_faulthandler_enabled_after_works_too(child: Child, what: str) -> None:
    run = child(
        "first = guarded()", "faulthandler.enable()", "mapping = guarded()", "mapping = guarded()", what
    )
    assert (run.returncode, run.stdout.split()) == (-signal.SIGBUS, ["guarded"] * 3)
    # It tells of the first fault that it sees, as it always does, and then steps aside.
    assert run.stderr.count("Fatal Python error: Bus error") == 1, run.stderr


def test_faulthandler_switched_off_meanwhile_leaves_the_next_mapping_guarded(child: Child) -> None:
    run = child(
        "faulthandler.enable()",
        "first = guarded()",
        "faulthandler.disable()",
        "second = guarded()",
        "faulthandler.enable()",
        "del first, second",
        "faulthandler.disable()",
        "third = guarded()",
        "assert handled()",
        "del third",
        "assert not handled()",
    )
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["guarded"] * 3, "")


def test_a_handler_of_pythons_own_from_before_is_called(child: Child) -> None:
    run = child(
        "signal.signal(signal.SIGBUS, lambda number, frame: print('handled', number.real, flush=True))",
        "mapping = guarded()",
        "signal.raise_signal(signal.SIGBUS)",
        "os.kill(os.getpid(), signal.SIGBUS)",
        "mapping = guarded()",
        "del mapping",
        "os.kill(os.getpid(), signal.SIGBUS)",
    )
    handled = ["handled", str(signal.SIGBUS.real)]
    assert run.stdout.split() == ["guarded", *handled, *handled, "guarded", *handled]
    assert (run.returncode, run.stderr) == (0, "")


def test_a_forked_child_is_guarded_and_dies_of_what_is_not_ours(child: Child) -> None:
    run = child(
        "mapping = guarded()",
        "pid = os.fork()",
        "if pid == 0:",
        "    mapping = guarded()",
        "    os.kill(os.getpid(), signal.SIGBUS)",
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS",
        "mapping = guarded()",
    )
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["guarded"] * 3, "")
