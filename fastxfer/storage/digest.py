"""Whole-object digests that follow the finished front of a file, so that they are done soon after its last
byte.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from fastxfer._native.checksum import Crc32c, Crc64Nvme, Crc64Xz
from fastxfer.errors import OptionError, storage_error

BLOCK = 1024**2


class Hasher(Protocol):
    def update(self, data: Any, /) -> object: ...
    def hexdigest(self) -> str: ...


def _blake3() -> Hasher:
    try:
        from blake3 import blake3
    except ImportError as error:
        raise OptionError("checksum blake3 needs a library: pip install 'fastxfer[blake3]'") from error
    hasher: Hasher = blake3()
    return hasher


_MAKERS: dict[str, Callable[[], Hasher]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "blake3": _blake3,
    "crc32c": Crc32c,
    "crc64nvme": Crc64Nvme,
    "crc64xz": Crc64Xz,
}


def make_hasher(algorithm: str) -> Hasher:
    """Returns a fresh hasher. Raises OptionError when its library is missing."""
    return _MAKERS[algorithm]()


def digest_file(path: str | os.PathLike[str], algorithms: Iterable[str]) -> dict[str, str]:
    """Returns the digests (lower-case hex) of a file. Raises StorageError."""
    try:
        with open(path, "rb", buffering=0) as file:
            return digest_fd(file.fileno(), path, algorithms)
    except OSError as error:
        raise storage_error(f"read {os.fspath(path)}", error) from error


def digest_fd(fd: int, path: str | os.PathLike[str], algorithms: Iterable[str]) -> dict[str, str]:
    """Returns the digests (lower-case hex) of an open file, whose path is for messages. Raises
    StorageError.
    """
    hashers = {name: make_hasher(name) for name in algorithms}
    position = 0
    try:
        while block := os.pread(fd, BLOCK, position):
            position += len(block)
            for hasher in hashers.values():
                hasher.update(block)
    except OSError as error:
        raise storage_error(f"read {os.fspath(path)}", error) from error
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def digest_span(fd: int, path: str | os.PathLike[str], algorithm: str, span: tuple[int, int]) -> str:
    """Returns the digest (lower-case hex) of the bytes [start, stop) of a file. Raises StorageError."""
    hasher = make_hasher(algorithm)
    at, stop = span
    try:
        while at < stop and (block := os.pread(fd, min(BLOCK, stop - at), at)):
            hasher.update(block)
            at += len(block)
    except OSError as error:
        raise storage_error(f"read {os.fspath(path)}", error) from error
    return hasher.hexdigest()


class Follower:
    """Digests a growing file on its own thread. `advance(front)` says that all bytes before `front` are
    final; any thread may.
    """

    def __init__(self, fd: int, algorithms: Iterable[str]) -> None:
        self._fd = os.dup(fd)
        self._hashers = {name: make_hasher(name) for name in algorithms}
        self._front = 0
        self._position = 0
        self._end: int | None = None
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fastxfer-digest", daemon=True)
        self._thread.start()

    def advance(self, front: int) -> None:
        """Lets the digests follow to `front`, in bytes; it never goes back."""
        with self._changed:
            if front > self._front:
                self._front = front
                self._changed.notify()

    def finish(self, size: int) -> dict[str, str]:
        """Returns the digests of the first `size` bytes, once they are done. Raises StorageError."""
        with self._changed:
            self._front = self._end = size
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise storage_error("read the part file", self._error) from self._error
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def stop(self) -> None:
        """Ends the thread; its digests are dropped."""
        with self._changed:
            self._end = self._front = self._position
            self._changed.notify()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while self._position >= self._front and self._end is None:
                        self._changed.wait()
                    if self._end is not None and self._position >= self._end:
                        return
                    stop = min(self._front, self._position + BLOCK)
                block = os.pread(self._fd, stop - self._position, self._position)
                if not block:
                    raise OSError(5, os.strerror(5))
                for hasher in self._hashers.values():
                    hasher.update(block)
                with self._changed:
                    self._position += len(block)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._fd)
