"""The body writer: one suite for both sinks, and what each does alone."""

from __future__ import annotations

import errno
import mmap
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import (
    COLLECT_LIMIT,
    Mapping,
    Throttle,
    Writer,
    reserve,
    start_writeback,
)
from tests.servers.objects import make_bytes

PAUSE = 0x10000001  # CURL_WRITEFUNC_PAUSE
DATA = make_bytes(5 << 20, seed=1)


@dataclass
class Sink:
    """A file of a size with a writer on it, by mapping or by buffer."""

    kind: str
    fd: int
    ledger: ChunkLedger
    writer: Writer

    def attach(self, writer: Writer, capacity: int = 4096) -> None:
        if self.kind == "mmap":
            writer.use_mapping(self.ledger, Mapping(self.fd, self.ledger.size))
        else:
            writer.use_file(self.ledger, self.fd, capacity)

    def content(self) -> bytes:
        return os.pread(self.fd, self.ledger.size, 0)


def make_sink(path: Path, kind: str, size: int, chunk_size: int, capacity: int = 4096) -> Sink:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.ftruncate(fd, size)
    sink = Sink(kind, fd, ChunkLedger(size, chunk_size), Writer())
    sink.attach(sink.writer, capacity)
    return sink


@pytest.fixture(params=["mmap", "pwrite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sink(kind: str, tmp_path: Path) -> Iterator[Sink]:
    """A file of 1,000,000 bytes in chunks of 70,000."""
    made = make_sink(tmp_path / "part", kind, 1_000_000, 70_000)
    yield made
    os.close(made.fd)


def feed(writer: Writer, data: bytes, sizes: Iterator[int]) -> None:
    """Passes data in slices, as libcurl does, until the writer takes no more."""
    at = 0
    while at < len(data):
        size = next(sizes)
        took = writer(data[at : at + size])
        if took is not None:
            assert took < len(data[at : at + size])
            return
        at += size


def slices(seed: int) -> Iterator[int]:
    choose = random.Random(seed)
    while True:
        yield choose.choice([1, 7, 100, 1369, 4096, 16384, choose.randint(1, 16384)])


def assert_holds(sink: Sink, data: bytes) -> None:
    """Every chunk that is marked holds these bytes, under their checksum."""
    content, ledger = sink.content(), sink.ledger
    for chunk in range(ledger.count):
        if chunk in ledger:
            start, stop = ledger.bounds(chunk)
            assert content[start:stop] == data[start:stop]
            assert ledger.crc(chunk) == crc64nvme(data[start:stop])


# ---- both sinks ----


def test_a_run_over_everything_marks_every_chunk(sink: Sink) -> None:
    data = DATA[:1_000_000]
    sink.writer.begin(0, 1_000_000)
    feed(sink.writer, data, slices(1))
    assert sink.writer.end() == (1_000_000, 0)
    assert sink.ledger.complete
    assert sink.content() == data
    assert sink.writer.received == 1_000_000
    assert_holds(sink, data)


def test_a_chunk_is_not_marked_before_its_last_byte(sink: Sink) -> None:
    sink.writer.begin(0, 1_000_000)
    sink.writer(DATA[:69_999])
    assert sink.ledger.done == 0
    sink.writer(DATA[69_999:70_000])
    assert sink.ledger.present() == [(0, 70_000)]
    assert sink.writer.crc == 0


def test_a_run_goes_on_inside_a_chunk_from_a_checksum(sink: Sink) -> None:
    sink.writer.begin(70_000, 1_000_000)
    sink.writer(DATA[70_000:101_234])
    pos, crc = sink.writer.end()
    assert (pos, crc) == (101_234, crc64nvme(DATA[70_000:101_234]))
    assert sink.ledger.done == 0
    other = Writer()
    sink.attach(other)
    other.begin(pos, 140_000, crc)
    feed(other, DATA[pos:140_000], slices(2))
    other.end()
    assert sink.ledger.present() == [(70_000, 140_000)]
    assert_holds(sink, DATA)


def test_what_end_tells_is_in_the_file(sink: Sink) -> None:
    sink.writer.begin(140_000, 1_000_000)
    sink.writer(DATA[140_000:150_001])
    pos, crc = sink.writer.end()
    assert pos == 150_001
    assert sink.content()[140_000:pos] == DATA[140_000:pos]
    assert crc == crc64nvme(DATA[140_000:pos])


def test_bytes_past_the_run_are_refused_and_not_written(sink: Sink) -> None:
    sink.writer.begin(0, 70_000)
    assert sink.writer(DATA[:60_000]) is None
    assert sink.writer(DATA[60_000:80_000]) == 10_000
    assert sink.writer.overrun
    assert sink.writer(DATA[:1]) == 0
    assert sink.writer.end() == (70_000, 0)
    assert sink.content()[70_000:] == bytes(930_000)
    assert sink.writer.received == 70_000


def test_an_exact_run_is_no_overrun(sink: Sink) -> None:
    sink.writer.begin(0, 70_000)
    assert sink.writer(DATA[:70_000]) is None
    assert not sink.writer.overrun
    assert sink.writer(b"") is None
    assert not sink.writer.overrun


def test_a_lowered_end_stops_the_run_there(sink: Sink) -> None:
    sink.writer.begin(0, 1_000_000)
    sink.writer(DATA[:50_000])
    sink.writer.stop = 75_000
    assert sink.writer(DATA[50_000:100_000]) == 25_000
    assert sink.writer.overrun
    assert sink.writer.end() == (75_000, crc64nvme(DATA[70_000:75_000]))
    assert sink.content()[75_000:] == bytes(925_000)


def test_an_end_is_only_lowered_and_not_under_the_position(sink: Sink) -> None:
    sink.writer.begin(0, 500_000)
    sink.writer(DATA[:50_000])
    for stop in (500_001, 49_999):
        with pytest.raises(ValueError, match="only lowered"):
            sink.writer.stop = stop
    assert sink.writer.stop == 500_000
    sink.writer.stop = 50_000
    assert sink.writer(DATA[:1]) == 0


@pytest.mark.parametrize(
    ("pos", "stop", "crc"),
    [(10, 5, 1), (0, 1_000_001, 0), (1_000_001, 1_000_001, 1), (2**63, 2**63 + 1, 1), (1, 70_000, 0)],
)
def test_a_run_out_of_bounds_or_without_its_checksum_is_refused(
    sink: Sink, pos: int, stop: int, crc: int
) -> None:
    with pytest.raises(ValueError, match="run"):
        sink.writer.begin(pos, stop, crc)
    assert sink.writer(b"x") == 0
    assert sink.content() == bytes(1_000_000)


def test_the_last_short_chunk_is_marked_at_the_objects_end(sink: Sink) -> None:
    sink.writer.begin(980_000, 1_000_000)
    sink.writer(DATA[980_000:1_000_000])
    sink.writer.end()
    assert sink.ledger.present() == [(980_000, 1_000_000)]
    assert_holds(sink, DATA)


def test_a_chunk_fetched_twice_is_simply_there(sink: Sink) -> None:
    for _ in range(2):
        sink.writer.begin(0, 70_000)
        sink.writer(DATA[:70_000])
        sink.writer.end()
    assert sink.ledger.done == 1


def test_two_writers_write_their_runs_side_by_side(sink: Sink) -> None:
    first, second = sink.writer, Writer()
    sink.attach(second)
    first.begin(0, 490_000)
    second.begin(490_000, 1_000_000)
    for start in range(0, 510_000, 10_000):
        if start < 490_000:
            first(DATA[start : start + 10_000])
        second(DATA[490_000 + start : 500_000 + start])
    assert first.end()[0] == 490_000
    assert second.end()[0] == 1_000_000
    assert sink.ledger.complete
    assert_holds(sink, DATA)


def test_the_sink_cannot_be_changed_in_a_run(sink: Sink) -> None:
    sink.writer.begin(0, 70_000)
    with pytest.raises(ValueError, match="in a run"):
        sink.attach(sink.writer)
    sink.writer(DATA[:70_000])
    sink.writer.end()
    sink.attach(sink.writer)


def test_a_run_that_never_began_cannot_end(sink: Sink) -> None:
    with pytest.raises(ValueError, match="not in a run"):
        sink.writer.end()


def test_a_detached_writer_refuses_bytes_and_has_no_sink(sink: Sink) -> None:
    sink.writer.begin(0, 1_000_000)
    sink.writer(DATA[:100])
    sink.writer.detach()
    assert sink.writer(DATA[:1]) == 0
    with pytest.raises(ValueError, match="no sink"):
        sink.writer.begin(0, 1)
    sink.attach(sink.writer)
    sink.writer.begin(0, 70_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), chunk_size=st.sampled_from([1, 2, 3, 100, 4096, 10_000, 65_536, 10**9]))
def test_any_slices_and_cuts_leave_only_true_marks(
    kind: str, tmp_path: Path, seed: int, chunk_size: int
) -> None:
    choose = random.Random(seed)
    size = choose.randint(1, 3000 if chunk_size < 100 else 200_000)
    made = make_sink(tmp_path / "part", kind, size, chunk_size, choose.choice([1, 100, 4096, 65_536]))
    data = DATA[seed % 1000 : seed % 1000 + size]
    gaps = [(0, size, 0)]
    while gaps:
        pos, stop, crc = gaps.pop(choose.randrange(len(gaps)))
        if crc == 0 and stop - pos > chunk_size and choose.random() < 0.5:
            cut = pos + choose.randint(1, (stop - pos - 1) // chunk_size) * chunk_size
            gaps.append((cut, stop, 0))
            stop = cut
        made.writer.begin(pos, stop, crc)
        whole = choose.random() < 0.6
        comes = stop if whole else choose.randint(pos, stop)
        more = bytes(choose.choice([0, 10])) if whole else b""
        feed(made.writer, data[pos:comes] + more, slices(seed))
        assert made.writer.overrun is bool(more)
        reached, crc = made.writer.end()
        assert reached == comes
        assert crc == crc64nvme(data[reached - reached % chunk_size : reached]) or reached == size
        if reached < stop:
            gaps.append((reached, stop, crc))
    assert made.ledger.complete
    assert made.content() == data
    assert_holds(made, data)
    os.close(made.fd)


# ---- modes ----


def test_a_new_writer_refuses() -> None:
    writer = Writer()
    assert writer(b"abc") == 0
    assert writer(b"") is None
    assert writer.received == 0


def test_a_holding_writer_keeps_libcurl_waiting() -> None:
    writer = Writer()
    writer.hold()
    assert writer(b"abc") == PAUSE
    writer.refuse()
    assert writer(b"abc") == 0
    assert writer.received == 0


def test_a_dropping_writer_counts_and_keeps_nothing() -> None:
    writer = Writer()
    writer.drop()
    assert writer(memoryview(b"abc")) is None
    assert writer(memoryview(bytes(16384))) is None
    assert (writer.received, writer.body, writer.stashed) == (16387, b"", 0)
    writer.refuse()
    assert writer(memoryview(b"d")) == 0
    assert writer.received == 16387


def test_a_collecting_writer_keeps_the_first_bytes_and_drops_the_rest() -> None:
    writer = Writer()
    assert writer.body == b""
    writer.collect()
    for _ in range(10):
        assert writer(b"0123456789" * 1000) is None
    assert writer.body == (b"0123456789" * 10_000)[:COLLECT_LIMIT]
    writer.collect()
    assert writer.body == b""


def test_it_takes_any_buffer_of_bytes() -> None:
    writer = Writer()
    writer.collect()
    for data in (b"a", bytearray(b"b"), memoryview(b"xcx")[1:2]):
        assert writer(data) is None
    assert writer.body == b"abc"
    with pytest.raises(TypeError):
        writer("text")  # type: ignore[arg-type]


def test_the_count_of_received_bytes_goes_on_over_runs(sink: Sink) -> None:
    for start in (0, 70_000):
        sink.writer.begin(start, start + 70_000)
        sink.writer(DATA[:70_000])
        sink.writer.end()
    assert sink.writer.received == 140_000


# ---- marks ----


def test_a_mark_is_of_a_run_whose_bytes_are_in_the_file(sink: Sink) -> None:
    assert sink.writer.mark() is None
    sink.writer.begin(70_000, 1_000_000)
    sink.writer(DATA[:1234])
    assert sink.writer.mark() == (71_234, crc64nvme(DATA[:1234]))
    assert os.pread(sink.fd, 1234, 70_000) == DATA[:1234]
    sink.writer.end()
    assert sink.writer.mark() is None


def test_marks_on_the_way_change_no_byte_and_no_checksum(sink: Sink) -> None:
    data = DATA[:1_000_000]
    sink.writer.begin(0, 1_000_000)
    for number, start in enumerate(range(0, 1_000_000, 777)):
        assert sink.writer(data[start : start + 777]) is None
        if number % 3 == 0:
            at = min(start + 777, 1_000_000)
            assert at == 1_000_000 or sink.writer.mark() == (at, crc64nvme(data[at - at % 70_000 : at]))
            assert sink.content()[:at] == data[:at]
    assert sink.writer.end() == (1_000_000, 0)
    assert sink.ledger.complete
    assert_holds(sink, data)


def test_a_stream_has_no_marks_since_it_has_no_chunks(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        writer = Writer()
        writer.use_file(None, file.fileno(), 4096)
        writer.begin(0, 2**62)
        writer(DATA[:1234])
        assert writer.mark() is None
        assert writer.end() == (1234, crc64nvme(DATA[:1234]))


def test_what_cannot_be_written_gives_no_mark_and_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    ledger, writer = ChunkLedger(100_000, 10_000), Writer()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    writer.use_file(ledger, fd, 4096)
    writer.begin(0, 100_000)
    assert writer(DATA[:1234]) is None
    assert writer.mark() is None
    assert writer(DATA[1234:2000]) == 0
    assert writer.error == errno.EBADF
    assert writer.mark() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.end()
    assert ledger.done == 0
    os.close(fd)


# ---- the mapped sink ----


def test_a_mapping_of_another_size_is_refused(tmp_path: Path) -> None:
    made = make_sink(tmp_path / "part", "mmap", 100_000, 1000)
    with pytest.raises(ValueError, match="differ in size"):
        Writer().use_mapping(ChunkLedger(99_999, 1000), Mapping(made.fd, 100_000))
    os.close(made.fd)


def test_an_empty_mapping_is_refused_and_a_bad_descriptor_is_an_os_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        with pytest.raises(ValueError, match="at least one byte"):
            Mapping(file.fileno(), 0)
        assert len(Mapping(file.fileno(), 12345)) == 12345
    with (tmp_path / "file").open("rb") as file, pytest.raises(PermissionError):
        Mapping(file.fileno(), 100)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Mapping(-1, 100)


def test_a_mapping_of_absurd_size_is_an_os_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file, pytest.raises(OSError, match="memory"):
        Mapping(file.fileno(), 2**63)


def test_a_large_run_keeps_its_bytes_across_the_windows(tmp_path: Path) -> None:
    made = make_sink(tmp_path / "part", "mmap", len(DATA), 1 << 20)
    made.writer.begin(0, len(DATA))
    feed(made.writer, DATA, slices(3))
    assert made.writer.end() == (len(DATA), 0)
    assert made.content() == DATA
    assert_holds(made, DATA)
    os.close(made.fd)


def test_a_file_cut_under_the_mapping_is_an_error_and_no_crash(tmp_path: Path) -> None:
    script = f"""
import os, sys
from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Mapping, Writer
fd = os.open({str(tmp_path / "part")!r}, os.O_RDWR | os.O_CREAT)
size = 8 << 20
os.ftruncate(fd, size)
ledger, writer = ChunkLedger(size, 1 << 20), Writer()
writer.use_mapping(ledger, Mapping(fd, size))
os.ftruncate(fd, 0)
writer.begin(0, size)
took = writer(bytes(16384))
try:
    writer.end()
except OSError as error:
    print(took, ledger.done, error.errno)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["0", "0", str(errno.EFAULT)], run


# ---- the buffered sink ----


def full_disk_writer(ledger: ChunkLedger | None, capacity: int) -> Writer:
    writer = Writer()
    writer.use_file(ledger, os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC), capacity)
    return writer


def test_a_full_disk_fails_the_request_and_marks_nothing() -> None:
    ledger = ChunkLedger(100_000, 1000)
    writer = full_disk_writer(ledger, 4096)
    writer.begin(0, 100_000)
    assert writer(DATA[:999]) is None
    assert writer(DATA[999:2000]) == 0
    assert (writer.error, ledger.done, writer.overrun) == (errno.ENOSPC, 0, False)
    with pytest.raises(OSError, match="No space left") as caught:
        writer.end()
    assert caught.value.errno == errno.ENOSPC
    assert ledger.done == 0


def test_a_disk_that_is_full_at_the_end_only_is_told_by_end() -> None:
    ledger = ChunkLedger(100_000, 50_000)
    writer = full_disk_writer(ledger, 1 << 20)
    writer.begin(0, 100_000)
    assert writer(DATA[:30_000]) is None
    with pytest.raises(OSError, match="No space left"):
        writer.end()
    assert ledger.done == 0
    writer.begin(0, 100_000)
    assert writer.error == 0


def test_a_writer_that_failed_does_not_mark_what_comes_after() -> None:
    ledger = ChunkLedger(100_000, 1000)
    writer = full_disk_writer(ledger, 100)
    writer.begin(0, 100_000)
    for start in range(0, 5000, 500):
        assert writer(DATA[start : start + 500]) == 0
    assert ledger.done == 0


def test_a_limit_on_file_sizes_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = make_sink(tmp_path / "part", "pwrite", 0, 1)
    ledger = ChunkLedger(100_000, 1000)
    made.writer.use_file(ledger, made.fd, 1000)
    made.writer.begin(0, 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5500, hard))
    try:
        feed(made.writer, DATA[:10_000], iter(lambda: 1000, 0))
        with pytest.raises(OSError, match="File too large"):
            made.writer.end()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ledger.present() == [(0, 5000)]
    os.close(made.fd)


@pytest.mark.parametrize("capacity", [1, 1000, 1 << 20])
def test_without_a_ledger_the_checksum_is_of_all_bytes(tmp_path: Path, capacity: int) -> None:
    made = make_sink(tmp_path / "part", "pwrite", 0, 1)
    made.writer.use_file(None, made.fd, capacity)
    made.writer.begin(0, 2**62)
    feed(made.writer, DATA[:100_000], slices(4))
    assert made.writer.end() == (100_000, crc64nvme(DATA[:100_000]))
    assert os.pread(made.fd, 200_000, 0) == DATA[:100_000]
    os.close(made.fd)


def test_a_buffer_of_no_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        Writer().use_file(None, 0, 0)


# ---- the page calls ----


def test_reserving_takes_the_space(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        assert reserve(file.fileno(), 1 << 20)
        there = os.fstat(file.fileno())
        assert there.st_blocks * 512 >= 1 << 20
        assert there.st_size == 1 << 20


def test_reserving_in_a_pipe_or_a_closed_file_is_an_error() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match="seek"):
            reserve(write, 1000)
    finally:
        os.close(read)
        os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reserve(-1, 1000)


def test_writeback_is_started_on_files_only(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.write(DATA)
        file.flush()
        start_writeback(file.fileno(), 0, mmap.PAGESIZE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        start_writeback(-1, 0, 1)


# ---- bytes that are kept aside ----


def test_what_is_kept_aside_does_not_touch_the_sink_until_it_is_let_in(sink: Sink) -> None:
    size, start, pos = sink.ledger.size, 1000, 1234
    writer = sink.writer
    writer.begin(0, size)
    feed(writer, DATA[:pos], slices(1))
    assert writer.end() == (pos, crc64nvme(DATA[:pos]))
    before, received = sink.content(), writer.received
    writer.stash(size - start)
    feed(writer, DATA[start:size], slices(2))
    assert (writer.stashed, writer.received) == (size - start, received + size - start)
    assert sink.content() == before and sink.ledger.done == 0
    writer.unstash(pos, size, pos - start, crc64nvme(DATA[:pos]))
    assert writer.end()[0] == size
    assert_holds(sink, DATA[:size])
    assert writer.received == received + size - start, "nothing is counted twice"


def test_a_run_goes_on_after_what_was_kept_aside(sink: Sink) -> None:
    size, half = sink.ledger.size, sink.ledger.size // 2
    sink.writer.stash(size)
    feed(sink.writer, DATA[:half], slices(1))
    sink.writer.unstash(0, size, 0)
    assert sink.writer.pos == half and sink.writer.stashed == 0
    feed(sink.writer, DATA[half:size], slices(2))
    assert sink.writer.end()[0] == size
    assert_holds(sink, DATA[:size])


def test_no_more_is_kept_aside_than_there_is_room_for() -> None:
    writer = Writer()
    writer.stash(1000)
    assert writer(memoryview(DATA[:600])) is None
    assert writer(memoryview(DATA[600:1300])) == 400
    assert writer.overrun and writer.stashed == writer.received == 1000
    assert writer(memoryview(DATA[1000:1001])) == 0


def test_what_is_kept_aside_is_let_in_only_where_it_belongs(sink: Sink) -> None:
    size, chunk = sink.ledger.size, sink.ledger.chunk_size
    with pytest.raises(ValueError, match="kept aside"):
        sink.writer.unstash(0, size, 0)
    sink.writer.stash(size)
    feed(sink.writer, DATA[: chunk + 1], slices(1))
    for stop, skip in ((chunk, 0), (size, chunk + 2)):
        with pytest.raises(ValueError, match="kept aside"):
            sink.writer.unstash(0, stop, skip)
    with pytest.raises(ValueError, match="a run begins"):
        sink.writer.unstash(1, size, 0)
    assert sink.writer.stashed == chunk + 1 and sink.ledger.done == 0
    sink.writer.refuse()
    assert sink.writer.stashed == 0, "what is refused takes no memory"


def test_what_cannot_be_written_of_what_was_kept_aside_is_an_error(tmp_path: Path) -> None:
    sink = make_sink(tmp_path / "file", "pwrite", 65536, 16384)
    read_only = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        sink.writer.use_file(sink.ledger, read_only, 4096)
        sink.writer.stash(65536)
        feed(sink.writer, DATA[:65536], slices(1))
        with pytest.raises(OSError) as caught:
            sink.writer.unstash(0, 65536, 0)
        assert caught.value.errno == errno.EBADF
        assert sink.ledger.done == 0
    finally:
        os.close(read_only)
        os.close(sink.fd)


def test_a_rate_limit_holds_for_what_is_kept_aside_too() -> None:
    writer, throttle = Writer(), Throttle(10)
    writer.limit(throttle)
    writer.stash(1000)
    assert writer(memoryview(DATA[:100])) is None
    assert writer(memoryview(DATA[100:200])) == PAUSE
    assert writer.waiting and throttle.tokens == -90 and writer.stashed == 100


def test_what_was_kept_aside_is_taken_once() -> None:
    writer = Writer()
    writer.stash(10)
    assert (writer(b"01234"), writer(b"56789x")) == (None, 5)
    assert writer.overrun and writer.take() == bytearray(b"0123456789")
    assert writer.take() == bytearray()
    assert writer(b"more") == 0
