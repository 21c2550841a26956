"""The reader of a body that is sent: the bytes of a stretch of a file, and their checksum on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme, crc64xz
from fastxfer._native.reader import Reader
from tests.servers.objects import make_bytes

DATA = make_bytes(100_000, 3)
ABORT = 0x10000000


@pytest.fixture(scope="module")
def fd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("reader") / "data"
    path.write_bytes(DATA)
    held = os.open(path, os.O_RDONLY)
    yield held
    os.close(held)


def read_all(reader: Reader, size: int) -> bytes:
    blocks: list[bytes] = []
    while True:
        block = reader(size)
        assert isinstance(block, bytes) and len(block) <= size
        if not block:
            return b"".join(blocks)
        blocks.append(block)


@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.integers(1, 70_000), st.booleans())
def test_it_gives_its_bytes_and_their_checksum(fd: int, one: int, other: int, size: int, xz: bool) -> None:
    start, stop = sorted((one, other))
    reader = Reader(fd, start, stop, xz)
    assert read_all(reader, size) == DATA[start:stop] and len(reader) == stop - start
    assert reader.crc == (crc64xz if xz else crc64nvme)(DATA[start:stop])
    assert (reader.pos, reader.given, reader.error, reader.reason) == (stop, stop - start, 0, "")


def test_it_begins_anew(fd: int) -> None:
    reader = Reader(fd, 10, 5000)
    reader(777)
    assert reader.seek(0) == 0
    assert read_all(reader, 1000) == DATA[10:5000] and reader.crc == crc64nvme(DATA[10:5000])
    assert reader.given == 777 + 4990
    assert reader.seek(5) != 0 and reader.seek(0, 2) != 0


def test_a_file_that_ends_too_early_aborts(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        reader = Reader(file.fileno(), 0, len(DATA))
        assert len(bytes(reader(60_000))) == 60_000
        os.truncate(path, 60_000)
        assert reader(1000) == ABORT and reader(1000) == ABORT
        assert reader.error == errno.EFAULT and reader.reason == "it was cut by somebody else"


def test_what_cannot_be_read_aborts(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "data", os.O_WRONLY | os.O_CREAT)
    reader = Reader(fd, 0, 10)
    assert reader(10) == ABORT and reader.error == errno.EBADF
    assert reader.reason == os.strerror(errno.EBADF)
    os.close(fd)


def test_a_stretch_does_not_end_before_it_starts(fd: int) -> None:
    with pytest.raises(ValueError, match="before it starts"):
        Reader(fd, 2, 1)
    with pytest.raises((OverflowError, TypeError)):
        Reader(fd, -1, 1)
