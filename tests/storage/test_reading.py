"""A reading of a file gives the CRC of each chunk and the digests of the whole, however it is cut."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import StorageError
from fastxfer.storage.reading import BLOCK, Reading, combined, crc_of, ledger_of
from tests.servers.objects import make_bytes

DATA = make_bytes(3 * BLOCK + 777, 12)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def crcs(data: bytes, chunk_size: int) -> list[int]:
    return [crc64nvme(data[at : at + chunk_size]) for at in range(0, len(data), chunk_size)]


def read(path: Path, size: int, chunk_size: int, **more: object) -> Reading:
    fd = os.open(path, os.O_RDONLY)
    try:
        reading = Reading(fd, path, size, chunk_size, **more)  # type: ignore[arg-type]
        reading.run()
        return reading
    finally:
        os.close(fd)


@pytest.mark.parametrize("algorithms", [(), ("sha256",), ("md5", "crc32c", "sha256")])
@pytest.mark.parametrize("chunk_size", [1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5, 2**40])
def test_chunks_and_digests_are_those_of_the_bytes(
    file: Path, chunk_size: int, algorithms: tuple[str, ...]
) -> None:
    size = len(DATA) if chunk_size > 1 else 5000
    if chunk_size == 1:
        file.write_bytes(DATA[:size])
    reading = read(file, size, chunk_size, algorithms=algorithms)
    assert reading.found.complete
    expected = crcs(DATA[:size], chunk_size)
    assert [reading.found.crc(i) for i in range(reading.found.count)] == expected
    assert combined(reading.found) == crc64nvme(DATA[:size])
    assert set(reading.digests) == set(algorithms)
    assert reading.digests.get("sha256") in (None, hashlib.sha256(DATA[:size]).hexdigest())
    assert reading.done == reading.to_read == size


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(0, 9000),
    size=st.integers(0, 9000),
    chunk_size=st.integers(1, 3000),
    hashed=st.booleans(),
)
def test_of_a_file_of_another_length_only_whole_chunks_are_found(
    file: Path, length: int, size: int, chunk_size: int, hashed: bool
) -> None:
    file.write_bytes(DATA[:length])
    reading = read(file, size, chunk_size, algorithms=("sha1",) if hashed else ())
    for chunk in range(reading.found.count):
        start, stop = reading.found.bounds(chunk)
        assert (chunk in reading.found) == (stop <= length)
        if stop <= length:
            assert reading.found.crc(chunk) == crc64nvme(DATA[start:stop])
    if hashed:
        assert reading.digests == {"sha1": hashlib.sha1(DATA[:length], usedforsecurity=False).hexdigest()}


def test_only_the_spans_are_read(file: Path) -> None:
    reading = read(
        file, len(DATA), 1000, spans=[(1000, 3000), (BLOCK // 1000 * 1000, 2 * BLOCK // 1000 * 1000)]
    )
    present = reading.found.present()
    assert present == [(1000, 3000), (BLOCK // 1000 * 1000, 2 * BLOCK // 1000 * 1000)]
    assert reading.done == reading.to_read == sum(stop - start for start, stop in present)


def test_a_file_that_is_too_short_has_no_ledger(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        assert ledger_of(fd, file, len(DATA), 4096).complete
        with pytest.raises(StorageError, match="shorter"):
            ledger_of(fd, file, len(DATA) + 1, 4096)
        assert crc_of(fd, file, 10, BLOCK + 20) == crc64nvme(DATA[10 : BLOCK + 20])
        assert crc_of(fd, file, 10, len(DATA) + 1) is None
    finally:
        os.close(fd)


def test_what_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    try:
        os.truncate(fd, 4096)
        with pytest.raises(StorageError, match="cannot read"):
            Reading(fd, tmp_path / "new", 4096, 4096).run()
    finally:
        os.close(fd)


def test_it_stops_when_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "huge", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 2**42)
    reading = Reading(fd, "huge", 2**42, 2**30)
    threads = threading.active_count()
    timer = threading.Timer(0.05, reading.stop)
    timer.start()
    reading.run()
    timer.join()
    assert reading.done < 2**42
    assert threading.active_count() == threads
    os.close(fd)
