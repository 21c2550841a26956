"""Objects to serve: files of pseudo-random bytes that depend on their seed and on nothing else.

An object is a row of blocks of 4 MiB, each from a generator of its own that is seeded by (seed, number of the
block). So any block can be made without the ones before it, and an object is a prefix of every longer one
with the same seed. SHA-256 (2 GB/s) runs beside the generator (4 GB/s) and the write: 2 GiB take 1.8 s on
tmpfs, and on a disk as long as the page cache takes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 4 << 20

_digests: dict[tuple[int, int], str] = {}  # (size, seed) -> SHA-256, for this process


@dataclass(frozen=True, slots=True)
class TestObject:
    """An object in a document root: its name there, its file, size and SHA-256 in hex."""

    __test__ = False  # for pytest: not a class of tests

    name: str
    path: Path
    size: int
    sha256: str


class Objects:
    """Makes objects below a document root, each (name, size, seed) once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[str, tuple[int, int]] = {}

    def make(self, size: int, seed: int = 0, name: str | None = None) -> TestObject:
        """Returns the object, made now unless an earlier call has made the same; `name` may hold directories.

        The default name tells size and seed, so it is shared by all tests that ask for them: give a name of
        your own to an object that you change, or whose requests you count.
        """
        name = name if name is not None else f"object-{size}-{seed}.bin"
        path = self.root / name
        if self._made.get(name) != (size, seed) or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_object(path, size, seed)
            self._made[name] = (size, seed)
        return TestObject(name, path, size, sha256_of(size, seed))

    def put(self, name: str, data: bytes) -> TestObject:
        """Returns an object of these bytes, under a name that no other test has."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return TestObject(name, path, len(data), hashlib.sha256(data).hexdigest())


def make_object(path: Path, size: int, seed: int = 0) -> str:
    """Writes the object of this size and seed to `path`, over what is there; returns its SHA-256 in hex."""
    known = _digests.get((size, seed))
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1, "object-sha256") as hasher:
        last: Future[None] | None = None
        for block in blocks(size, seed):
            if known is None:
                if last is not None:
                    last.result()
                last = hasher.submit(digest.update, block)
            written = 0
            while written < len(block):
                written += file.write(block[written:])
    if known is None:
        _digests[size, seed] = known = digest.hexdigest()
    return known


def make_bytes(size: int, seed: int = 0) -> bytes:
    """Returns the object's content as bytes."""
    return b"".join(blocks(size, seed))


def sha256_of(size: int, seed: int = 0) -> str:
    """Returns the SHA-256 of an object in hex, at once if this process has computed it before."""
    if (size, seed) not in _digests:
        digest = hashlib.sha256()
        for block in blocks(size, seed):
            digest.update(block)
        _digests[size, seed] = digest.hexdigest()
    return _digests[size, seed]


def blocks(size: int, seed: int = 0) -> Iterator[memoryview]:
    """Yields the object's content in blocks of at most BLOCK_BYTES, each a buffer of its own."""
    for index, start in enumerate(range(0, size, BLOCK_BYTES)):
        length = min(BLOCK_BYTES, size - start)
        words: npt.NDArray[np.uint64] = np.random.SFC64([seed, index]).random_raw(-(-length // 8))
        yield words.astype("<u8", copy=False).data.cast("B")[:length]
