"""The writer as libcurl uses it: slices of 16 KiB into a part file, per sink, against what it cannot beat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Mapping, Writer, reserve

SIZE = 64 * 1024**2
SLICE = 16 * 1024
CHUNK = 1024**2


@pytest.fixture
def part(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a file whose space is reserved."""
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    reserve(fd, SIZE)
    yield fd
    os.close(fd)


def feed(writer: Writer, data: memoryview) -> None:
    writer.begin(0, SIZE)
    for _ in range(SIZE // SLICE):
        writer(data)
    writer.end()


@pytest.mark.parametrize("sink", ["mmap", "pwrite"])
def test_slices_into_a_part_file(benchmark: BenchmarkFixture, part: int, sink: str) -> None:
    """64 MiB in slices of 16 KiB, copied and checksummed, into pages that are in the page cache already."""
    writer, ledger = Writer(), ChunkLedger(SIZE, CHUNK)
    if sink == "mmap":
        writer.use_mapping(ledger, Mapping(part, SIZE))
    else:
        writer.use_file(ledger, part, 256 * 1024)
    data = memoryview(os.urandom(SLICE))
    benchmark.extra_info["bytes"] = SIZE
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        feed, (writer, data), rounds=8, warmup_rounds=1
    )
    assert ledger.complete


def test_the_call_alone(benchmark: BenchmarkFixture) -> None:
    """The same number of calls with the body dropped: what the interpreter and the call cost."""
    writer = Writer()
    writer.collect()
    data = memoryview(os.urandom(SLICE))

    def drop() -> None:
        for _ in range(SIZE // SLICE):
            writer(data)

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        drop, rounds=8, warmup_rounds=1
    )


def test_pwrite_alone(benchmark: BenchmarkFixture, part: int) -> None:
    """64 MiB by pwrite in blocks of 256 KiB, without a checksum: the floor of the buffered sink."""
    block = os.urandom(256 * 1024)

    def write() -> None:
        for offset in range(0, SIZE, len(block)):
            os.pwrite(part, block, offset)

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        write, rounds=8, warmup_rounds=1
    )
