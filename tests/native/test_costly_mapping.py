"""A mapping whose pages are dear is left for the buffer, in the middle of a run, and no byte shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import Mapping, Writer, reserve
from tests.servers.objects import make_bytes

SIZE = 16 * 1024**2 + 12345
CHUNK = 1024**2


@pytest.mark.parametrize(
    ("limit_ns", "capacity", "costly", "buffered"),
    [
        (0, 0, False, False),
        (10**12, 65536, False, False),
        (1, 65536, True, True),
        (1, 0, True, False),  # without a buffer there is nothing to go over to
    ],
)
def test_the_writer_goes_over_to_its_buffer(
    tmp_path: Path, limit_ns: int, capacity: int, costly: bool, buffered: bool
) -> None:
    data = make_bytes(SIZE, seed=3)
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    reserve(fd, SIZE)
    mapping, ledger, writer = Mapping(fd, SIZE, limit_ns), ChunkLedger(SIZE, CHUNK), Writer()
    writer.use_mapping(ledger, mapping, capacity)
    writer.begin(0, SIZE)
    step = 16384 - 7
    for start in range(0, SIZE - step, step):
        assert writer(data[start : start + step]) is None
    assert writer(data[(SIZE - 1) // step * step :]) is None
    assert writer.end() == (SIZE, 0)
    assert mapping.costly == costly
    assert ledger.complete
    assert os.pread(fd, SIZE, 0) == data
    for chunk in range(ledger.count):
        start, stop = ledger.bounds(chunk)
        assert ledger.crc(chunk) == crc64nvme(data[start:stop])
    os.close(fd)
