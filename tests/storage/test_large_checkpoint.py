"""The checkpoint of a 1 TiB object: how long it takes to read, to go on from and to write.

The part file is sparse: no disk has a TiB for a test. That its space is reserved is the one thing that is
told otherwise, so that chunks are trusted as on a disk that has it; what is read and written is real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer.cli.status import read_status
from fastxfer.plan.grid import chunk_size_for
from fastxfer.plan.response import Identity
from fastxfer.safekeeping import CLAIM_BYTES_A_S, CLAIM_S
from fastxfer.storage import part_file as module
from fastxfer.storage.left import Left
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import Target, resolve_target

URL = "https://example.org/big.bin"
SOURCE = Source.of(URL, URL)
SIZE = 1024**4
CHUNK = chunk_size_for(SIZE)
CHUNKS = SIZE // CHUNK
IDENTITY = Identity(SIZE, '"v1"')
OPENS_IN_S = 0.3
OF_A_CORE = 0.05


class Reserved:
    """What fstat(2) says of a file, as if its space were reserved."""

    def __init__(self, real: os.stat_result) -> None:
        self._real = real
        self.st_blocks = max(real.st_blocks, -(-real.st_size // 512))

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The target of an object of which every other chunk is in place: no run of them is longer than one."""
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: Reserved(real(fd)))
    monkeypatch.setattr(module, "reserve", lambda fd, size: True)
    monkeypatch.setattr(PartFile, "_check_space", lambda self, size: None)
    made = resolve_target(URL, tmp_path / "big.bin")
    part = PartFile.open(made, SOURCE)
    part.allocate(IDENTITY, CHUNK, sink="pwrite")
    assert part.ledger is not None
    for chunk in range(0, CHUNKS, 2):
        part.ledger.set(chunk, crc_of(chunk))
    part.sync()
    part.close()
    return made


def crc_of(chunk: int) -> int:
    return chunk * 0x9E3779B97F4A7C15 % 2**64


def opened(target: Target) -> tuple[PartFile, Left]:
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    assert left is not None
    return part, left


def open_and_close(target: Target) -> None:
    part, _ = opened(target)
    part.close()


def best_s(work: Callable[[], object]) -> float:
    """Returns the least CPU time of three runs: what else runs on the machine does not count."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def test_it_is_read_and_gone_on_from_at_once(target: Target) -> None:
    status = read_status(str(target.final))
    assert status.durable == status.claimed == SIZE // 2
    part, left = opened(target)
    assert (left.verified, left.dropped, left.ledger.done) == (0, 0, CHUNKS // 2)
    assert [left.ledger.crc(chunk) for chunk in (0, 1, CHUNKS - 2)] == [0, 0, crc_of(CHUNKS - 2)]
    part.close()
    assert best_s(lambda: read_status(str(target.final))) < OPENS_IN_S
    assert best_s(lambda: open_and_close(target)) < OPENS_IN_S


def test_its_claims_take_little_of_a_core(target: Target) -> None:
    part, left = opened(target)
    part.adopt(left, IDENTITY, sink="pwrite")
    between_s = max(CLAIM_S, part.claim_bytes / CLAIM_BYTES_A_S)
    assert best_s(part.claim) < OF_A_CORE * between_s
    part.close()
