"""The direct sink: bytes go past the page cache, several writes at once; chunks are marked as these end."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import DirectSink, Writer
from tests.cli.command import wait_until
from tests.servers.objects import make_bytes

MIB = 1 << 20
DATA = make_bytes(5 * MIB, seed=7)
SLICE = 16384


class Part:
    """A file with a ledger and a sink."""

    def __init__(self, path: Path, size: int, chunk_size: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.posix_fallocate(self.fd, 0, size)
        self.ledger = ChunkLedger(size, chunk_size)
        self.sink = DirectSink(os.open(path, os.O_WRONLY | os.O_DIRECT), os.open(path, os.O_WRONLY))

    def writer(self) -> Writer:
        made = Writer()
        made.use_direct(self.ledger, self.sink)
        return made

    def content(self) -> bytes:
        return os.pread(self.fd, self.ledger.size, 0)

    def holds(self) -> None:
        """Every chunk that is marked is in the file, under its checksum."""
        content = self.content()
        for chunk in range(self.ledger.count):
            if chunk in self.ledger:
                start, stop = self.ledger.bounds(chunk)
                assert content[start:stop] == DATA[start:stop]
                assert self.ledger.crc(chunk) == crc64nvme(DATA[start:stop])


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    """3 MiB and 5 bytes, in chunks of 256 KiB."""
    made = Part(tmp_path / "part", 3 * MIB + 5, 256 * 1024)
    yield made
    os.close(made.fd)


def feed(writer: Writer, start: int, stop: int) -> None:
    for at in range(start, stop, SLICE):
        assert writer(DATA[at : min(stop, at + SLICE)]) is None


@st.composite
def cut_up(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Draws a size, a chunk size, and where runs begin and end, at chunks or inside them."""
    size = draw(st.integers(1, len(DATA)))
    chunk = draw(st.sampled_from([1000, 4096, 70_000, 262_144, MIB, 3 * MIB]))
    inner = draw(st.lists(st.integers(0, size), max_size=6))
    at_chunks = [at // chunk * chunk for at in draw(st.lists(st.integers(0, size), max_size=6))]
    return size, chunk, sorted({0, size, *inner, *at_chunks})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut_up(), st.randoms(use_true_random=False))
def test_any_runs_over_it_make_the_object(
    tmp_path: Path, case: tuple[int, int, list[int]], chance: random.Random
) -> None:
    size, chunk, cuts = case
    part = Part(tmp_path / "part", size, chunk)
    try:
        # A run that begins inside a chunk goes on from the checksum that the one before it ended with.
        chains: list[list[tuple[int, int]]] = []
        for start, stop in itertools.pairwise(cuts):
            if start % chunk:
                chains[-1].append((start, stop))
            else:
                chains.append([(start, stop)])
        going = [(part.writer(), chain, 0) for chain in chains]
        while going:
            writer, chain, crc = going.pop(chance.randrange(len(going)))
            start, stop = chain.pop(0)
            writer.begin(start, stop, crc)
            feed(writer, start, stop)
            if chance.random() < 0.3:
                marked = writer.mark()
                assert marked is not None and start <= marked[0] <= stop
                part.holds()
            pos, crc = writer.end()
            assert pos == stop
            if chain:
                going.append((writer, chain, crc))
        part.sink.settle()
        assert part.ledger.complete and part.sink.pending == 0
        assert part.content() == DATA[:size]
        part.holds()
    finally:
        os.close(part.fd)


def test_whole_blocks_of_it_are_not_in_the_page_cache(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB + 5)
    feed(writer, 0, 3 * MIB + 5)
    writer.end()
    part.sink.settle()
    # mincore(2): a byte a page, whose lowest bit says whether it is in memory.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    size = part.ledger.size
    with mmap.mmap(part.fd, size) as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        assert libc.mincore(address, size, pages) == 0
    there = [byte & 1 for byte in pages.raw]
    assert sum(there[:-1]) == 0
    assert part.ledger.complete


def test_a_chunk_is_marked_when_it_is_written_and_counts_before(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB)
    feed(writer, 0, 256 * 1024)
    assert (part.ledger.done, part.sink.pending) == (0, 256 * 1024)
    feed(writer, 256 * 1024, 2 * MIB)
    assert part.ledger.done_bytes + part.sink.pending == 2 * MIB
    assert writer.end() == (2 * MIB, 0)
    part.sink.settle()
    assert (part.ledger.present(), part.sink.pending) == ([(0, 2 * MIB)], 0)


def test_a_mark_has_what_is_written_and_the_next_one_the_rest(part: Part) -> None:
    writer, stop = part.writer(), MIB + 300_000
    writer.begin(0, 3 * MIB)
    feed(writer, 0, stop)

    def everything() -> bool:
        marked = writer.mark()
        assert marked is not None
        pos, crc = marked
        assert part.content()[:pos] == DATA[:pos]
        assert crc == crc64nvme(DATA[pos - pos % (256 * 1024) : pos])
        return pos == stop

    wait_until(everything)
    feed(writer, stop, 2 * MIB)
    writer.end()
    part.sink.settle()
    assert part.ledger.present() == [(0, 2 * MIB)]
    part.holds()


def test_a_run_that_ends_inside_a_chunk_waits_until_it_is_written(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB)
    feed(writer, 0, 700_001)
    pos, crc = writer.end()
    assert (pos, crc) == (700_001, crc64nvme(DATA[512 * 1024 : 700_001]))
    assert part.content()[:pos] == DATA[:pos]
    assert part.ledger.present() == [(0, 512 * 1024)]


def test_what_an_earlier_run_had_under_way_says_nothing_of_the_next_one(part: Part) -> None:
    writer = part.writer()
    for _ in range(20):
        writer.begin(0, MIB)
        feed(writer, 0, MIB)
        writer.end()
        writer.begin(2 * MIB, 3 * MIB)
        assert writer.mark() == (2 * MIB, 0)
        writer.end()
    part.sink.settle()
    assert part.ledger.present() == [(0, MIB)]


def test_after_a_write_that_failed_nothing_is_marked(tmp_path: Path, part: Part) -> None:
    path = tmp_path / "part"
    sink = DirectSink(os.open(path, os.O_RDONLY | os.O_DIRECT), os.open(path, os.O_WRONLY))
    one, other = Writer(), Writer()
    for writer in (one, other):
        writer.use_direct(part.ledger, sink)
    one.begin(0, 3 * MIB)
    assert one(DATA[: MIB + 1]) == 0
    other.begin(2 * MIB, 3 * MIB)
    assert other(DATA[2 * MIB : 2 * MIB + SLICE]) is None, "it is only kept for now"
    for writer in (one, other):
        with pytest.raises(OSError) as caught:
            writer.end()
        assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught:
        sink.settle()
    assert caught.value.errno == errno.EBADF
    assert (part.ledger.done, part.content()) == (0, bytes(3 * MIB + 5))


def test_a_file_that_refuses_direct_writes_as_such_is_written_through_the_cache(
    tmp_path: Path, part: Part
) -> None:
    # It says "invalid argument" to bytes that are no number, as a file system does to writes it cannot make.
    refuses = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    sink, writer = DirectSink(refuses, os.open(tmp_path / "part", os.O_WRONLY)), Writer()
    writer.use_direct(part.ledger, sink)
    writer.begin(0, 3 * MIB + 5)
    feed(writer, 0, 3 * MIB + 5)
    writer.end()
    sink.settle()
    assert part.ledger.complete
    part.holds()


def test_writers_outlive_the_sink_that_they_were_given(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB + 5)
    feed(writer, 0, MIB + 1)
    del part.sink
    feed(writer, MIB + 1, 3 * MIB + 5)
    writer.end()
    writer.detach()
    assert part.ledger.complete
    part.holds()


def test_a_writer_that_goes_in_its_run_leaves_what_was_sent(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB)
    feed(writer, 0, 2 * MIB + 300_000)
    del writer
    assert part.ledger.present() == [(0, 2 * MIB)]
    assert part.sink.pending == 0
    part.holds()


def test_a_child_of_a_fork_leaves_what_is_under_way_to_its_parent(part: Part) -> None:
    writer = part.writer()
    writer.begin(0, 3 * MIB + 5)
    feed(writer, 0, 3 * MIB)
    child = os.fork()
    if child == 0:
        writer.detach()
        del part.sink
        os._exit(part.ledger.complete)
    watch = os.pidfd_open(child)
    ready, _, _ = select.select([watch], [], [], 60)
    os.close(watch)
    if not ready:
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == 0
    feed(writer, 3 * MIB, 3 * MIB + 5)
    writer.end()
    part.sink.settle()
    assert part.ledger.complete
    part.holds()


# Has the kernel's asynchronous writes used up, then writes.
WITHOUT_AIO = """
import ctypes, errno, os, sys
from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import DirectSink, Writer
libc, setup = ctypes.CDLL(None, use_errno=True), {setup}
context = ctypes.c_ulong(0)
count = 1 << 16
while count:
    context.value = 0
    if libc.syscall(setup, count, ctypes.byref(context)):
        assert ctypes.get_errno() == errno.EAGAIN, ctypes.get_errno()
        count //= 2
path, data = sys.argv[1], sys.stdin.buffer.read()
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, len(data))
ledger, writer = ChunkLedger(len(data), 262144), Writer()
sink = DirectSink(os.open(path, os.O_WRONLY | os.O_DIRECT), os.open(path, os.O_WRONLY))
writer.use_direct(ledger, sink)
writer.begin(0, len(data))
for at in range(0, len(data), 16384):
    assert writer(data[at : at + 16384]) is None
assert (ledger.done_bytes, sink.pending) == (len(data) // (1 << 20) * (1 << 20), len(data) % (1 << 20))
writer.end()
sink.settle()
assert ledger.complete
"""
IO_SETUP = {"x86_64": 206, "aarch64": 0}


def test_where_there_are_no_asynchronous_writes_each_is_waited_for(tmp_path: Path) -> None:
    data = DATA[: 3 * MIB + 5]
    program = WITHOUT_AIO.format(setup=IO_SETUP[os.uname().machine])
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "part")], input=data, check=True, timeout=120
    )
    assert (tmp_path / "part").read_bytes() == data
