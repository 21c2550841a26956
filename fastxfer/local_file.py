"""The local file of an upload: what it is now, and the checksums of its parts."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from fastxfer._native.checksum import crc64nvme, crc64xz
from fastxfer.errors import LocalChangedError, StorageError, storage_error
from fastxfer.storage.upload_file import FileIdentity

_BLOCK = 1 << 20
_CRC: dict[str, Callable[[memoryview, int], int]] = {"crc64nvme": crc64nvme, "crc64xz": crc64xz}


class LocalFile:
    """A regular file that is open to be read. Symbolic links to it are followed. Raises StorageError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(f"read {path}", error) from error
        there = os.fstat(self.fd)
        if not stat.S_ISREG(there.st_mode):
            self.close()
            raise StorageError(f"cannot upload {path}: it is not a regular file")
        self.identity = FileIdentity.of(there)

    @property
    def size(self) -> int:
        """Bytes that it had when it was opened."""
        return self.identity.size

    def check(self) -> None:
        """Raises LocalChangedError if it is not what it was when it was opened."""
        if FileIdentity.of(os.fstat(self.fd)) != self.identity:
            raise self.changed()

    def changed(self) -> LocalChangedError:
        """Returns the error of a file that changes under an upload."""
        return LocalChangedError(
            f"{self.path} was changed while it was uploaded, and nothing of it was put together; "
            "run it again when nobody writes to it"
        )

    def crc(self, algorithm: str, start: int, stop: int) -> int:
        """Returns the CRC-64 of a range. Raises StorageError, LocalChangedError where the file ends in it."""
        return self._digest(algorithm, start, stop, None)

    def crc_and_md5(self, algorithm: str, start: int, stop: int) -> tuple[int, bytes]:
        """Returns CRC-64 and MD5 of a range, in one reading. Raises as `crc`."""
        hasher = hashlib.md5(usedforsecurity=False)
        return self._digest(algorithm, start, stop, hasher.update), hasher.digest()

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes of a short range. Raises as `crc`."""
        try:
            data = os.pread(self.fd, stop - start, start)
        except OSError as error:
            raise storage_error(f"read {self.path}", error) from error
        if len(data) < stop - start:
            raise self.changed()
        return data

    def _digest(
        self, algorithm: str, start: int, stop: int, also: Callable[[memoryview], object] | None
    ) -> int:
        extend, crc = _CRC[algorithm], 0
        buffer = memoryview(bytearray(min(_BLOCK, max(1, stop - start))))
        while start < stop:
            try:
                got = os.preadv(self.fd, [buffer[: stop - start]], start)
            except OSError as error:
                raise storage_error(f"read {self.path}", error) from error
            if not got:
                raise self.changed()
            block = buffer[:got]
            crc = extend(block, crc)
            if also is not None:
                also(block)
            start += got
        return crc

    def close(self) -> None:
        """Closes it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
