"""Digests of whole files, and of files that grow."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from fastxfer._native.checksum import crc32c, crc64nvme, crc64xz
from fastxfer.errors import OptionError, StorageError
from fastxfer.options import DIGEST_HEX_LENGTHS
from fastxfer.storage import digest
from fastxfer.storage.digest import Follower, digest_file, make_hasher
from tests.descriptors import held_open
from tests.servers.objects import make_bytes

DATA = make_bytes(3 * 1024**2 + 12345, seed=9)
ALGORITHMS = sorted(DIGEST_HEX_LENGTHS)


def expected(data: bytes) -> dict[str, str]:
    return {
        **{name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")},
        "blake3": blake3(data).hexdigest(),
        "crc32c": f"{crc32c(data):08x}",
        "crc64nvme": f"{crc64nvme(data):016x}",
        "crc64xz": f"{crc64xz(data):016x}",
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(DATA)
    return file


def test_every_algorithm_that_an_option_takes_has_a_hasher_of_its_length() -> None:
    assert sorted(expected(b"")) == ALGORITHMS
    for name in ALGORITHMS:
        assert len(make_hasher(name).hexdigest()) == DIGEST_HEX_LENGTHS[name]


def test_a_file_is_digested(path: Path) -> None:
    assert digest_file(path, ALGORITHMS) == expected(DATA)
    assert digest_file(path, []) == {}


def test_a_file_that_cannot_be_read_is_typed(tmp_path: Path) -> None:
    for bad in (tmp_path / "gone", tmp_path):
        with pytest.raises(StorageError):
            digest_file(bad, ["md5"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_follower_equals_the_library(path: Path, algorithm: str) -> None:
    with path.open("rb") as file:
        follower = Follower(file.fileno(), [algorithm])
        assert follower.finish(len(DATA)) == {algorithm: expected(DATA)[algorithm]}


@pytest.mark.parametrize("seed", range(5))
def test_a_follower_of_a_growing_front_equals_the_library(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    with (tmp_path / "growing").open("wb+", buffering=0) as file:
        follower = Follower(file.fileno(), ALGORITHMS)
        front = 0
        while front < len(DATA):
            after = min(len(DATA), front + choose.choice([1, 1000, 100_000, 2_000_000]))
            file.write(DATA[front:after])
            front = after
            follower.advance(front)
            follower.advance(choose.randrange(front + 1))  # a front that goes back says nothing
        assert follower.finish(len(DATA)) == expected(DATA)


def test_bytes_behind_the_front_are_not_looked_at(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+", buffering=0) as file:
        file.write(bytes(len(DATA)))
        follower = Follower(file.fileno(), ["sha256"])
        file.seek(0)
        file.write(DATA[:1_000_000])
        follower.advance(1_000_000)
        file.write(DATA[1_000_000:])
        assert follower.finish(len(DATA))["sha256"] == expected(DATA)["sha256"]


def test_only_the_objects_bytes_count(path: Path) -> None:
    with path.open("rb") as file:
        assert Follower(file.fileno(), ["sha256"]).finish(1000) == {
            "sha256": hashlib.sha256(DATA[:1000]).hexdigest()
        }
        assert Follower(file.fileno(), ["md5"]).finish(0) == {"md5": hashlib.md5(b"").hexdigest()}


def test_a_file_shorter_than_said_is_typed(path: Path) -> None:
    with path.open("rb") as file, pytest.raises(StorageError) as caught:
        Follower(file.fileno(), ["md5"]).finish(len(DATA) + 1)
    assert caught.value.errno == 5


def test_a_follower_has_a_descriptor_of_its_own_and_closes_it(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    follower = Follower(fd, ["md5"])
    os.close(fd)
    assert held_open(path) == 1
    assert follower.finish(len(DATA)) == {"md5": expected(DATA)["md5"]}
    assert held_open(path) == 0


def test_a_stopped_follower_ends_its_thread(path: Path) -> None:
    with path.open("rb") as file:
        follower = Follower(file.fileno(), ["sha256"])
        follower.advance(len(DATA))
        follower.stop()
        for thread in threading.enumerate():
            if thread.name == "fastxfer-digest":
                thread.join(10)
                assert not thread.is_alive()


def test_a_missing_library_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(OptionError, match="pip install"):
        digest.make_hasher("blake3")
