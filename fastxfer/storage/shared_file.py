"""A file in the making that several processes write to, on one machine or on many over a shared file system:
each a range of its own, by `pwrite`. One of them, who has it made, keeps a note beside it of the ranges that
are done, and gives it its name at the end.

Both stand in a folder of their own below the destination, so that a name at the destination is always of a
whole file. The note is outside input when it is read again: its size and every value are checked, and what it
says of the bytes is only as good as their CRC-64.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastxfer._native.checksum import Crc64Nvme
from fastxfer._native.writer import reserve
from fastxfer.errors import FastxferError, StorageError, storage_error
from fastxfer.plan.dates import http_time
from fastxfer.plan.response import Identity
from fastxfer.storage.digest import BLOCK, digest_fd
from fastxfer.storage.directory import Directory
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import is_unchanged, keep_record, make_record

MAX_NOTE = 4 << 20
_CRC = re.compile(r"[0-9a-f]{16}")
_BYTES, _NOTE, _NEW = ".bytes", ".note", ".new"


@dataclass(frozen=True, slots=True)
class Note:
    """What is done of an object: the CRC-64/NVME of each range by its number, each of `range_bytes` but the
    last. `boot` is the boot of who wrote it; bytes of another one may be lost where nothing was synced.
    """

    path: str
    identity: Identity
    range_bytes: int
    done: dict[int, int]
    boot: str
    synced: bool

    def encode(self) -> bytes:
        """Returns it as JSON."""
        identity = self.identity
        value = {
            "path": self.path,
            "identity": [identity.size, identity.etag, identity.last_modified, identity.version],
            "range_bytes": self.range_bytes,
            "done": {str(number): f"{crc:016x}" for number, crc in self.done.items()},
            "boot": self.boot,
            "synced": self.synced,
        }
        return json.dumps(value).encode()

    @classmethod
    def decode(cls, data: bytes) -> Note | None:
        """Returns what a note says, None for what is none."""
        try:
            value = json.loads(data)
            size, *texts = value["identity"]
            done = {int(number): int(crc, 16) for number, crc in value["done"].items() if _CRC.fullmatch(crc)}
            ranges = int(value["range_bytes"])
            fits = isinstance(size, int) and len(texts) == 3 and ranges > 0
            fits = fits and all(text is None or isinstance(text, str) for text in texts)
            if not fits or not all(0 <= number * ranges < size for number in done):
                return None
            note = (str(value["path"]), Identity(size, *texts), ranges, done, str(value["boot"]))
            return cls(*note, value["synced"] is True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


class SharedFile:
    """The file called `name` in a directory, open for writing. Raises StorageError; with a `size` it is made
    and has so many bytes.
    """

    def __init__(self, directory: Directory, name: str, size: int | None = None) -> None:
        self.directory, self.name = directory, name
        self.path = directory.path / (name + _BYTES)
        self._fd = -1
        flags = os.O_RDWR | (os.O_CREAT if size is not None else 0)
        try:
            self._fd = directory.open_file(name + _BYTES, flags)
        except OSError as error:
            raise storage_error(f"open {self.path}", error) from error
        if size is not None:
            self._make_room(size)

    def _make_room(self, size: int) -> None:
        try:
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)
            reserve(self._fd, size)
        except OSError as error:
            self.close()
            raise storage_error(f"make room for {size} bytes in {self.path}", error) from error

    def write(self, at: int, data: memoryview) -> None:
        """Writes bytes at an offset. Raises StorageError."""
        try:
            while data:
                written = os.pwrite(self._fd, data, at)
                at, data = at + written, data[written:]
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error

    def sync(self) -> None:
        """Makes its bytes durable. Raises StorageError."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(f"sync {self.path}", error) from error

    def digests(self, algorithms: Sequence[str]) -> dict[str, str]:
        """Returns digests (hex) of all its bytes, as they are read back. Raises StorageError."""
        return digest_fd(self._fd, self.path, algorithms)

    def crc(self, start: int, stop: int) -> int:
        """Returns the CRC-64/NVME of a range, as it is read back. Raises StorageError."""
        crc = Crc64Nvme()
        try:
            while start < stop and (block := os.pread(self._fd, min(BLOCK, stop - start), start)):
                crc.update(block)
                start += len(block)
        except OSError as error:
            raise storage_error(f"read {self.path}", error) from error
        return crc.value

    # ---- of who has it made ----

    def note(self) -> Note | None:
        """Returns what was noted of it, None for nothing."""
        try:
            with self.directory.reading(self.name + _NOTE) as fd:
                if os.fstat(fd).st_size > MAX_NOTE:
                    return None
                return Note.decode(os.read(fd, MAX_NOTE))
        except (OSError, StorageError):
            return None

    def write_note(self, note: Note) -> None:
        """Puts a note in the place of the last one. Raises StorageError."""
        new = self.name + _NOTE + _NEW
        try:
            fd = self.directory.open_file(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                data = memoryview(note.encode())
                while data:
                    data = data[os.write(fd, data) :]
                if note.synced:
                    os.fdatasync(fd)
            finally:
                os.close(fd)
            at = self.directory.fd
            os.rename(new, self.name + _NOTE, src_dir_fd=at, dst_dir_fd=at)
        except OSError as error:
            raise storage_error(f"write {self.directory.path / (self.name + _NOTE)}", error) from error

    def publish(self, target: Target, identity: Identity, *, durable: bool) -> None:
        """Gives it its name, in one rename, with the object's time. Raises StorageError."""
        mtime = http_time(identity.last_modified)
        record = make_record(identity, mtime)
        here, there = self.directory, target.directory
        try:
            if mtime is not None:
                os.utime(self._fd, (mtime, mtime))
            if record is not None:
                keep_record(self._fd, record)
            if durable:
                os.fsync(self._fd)
            if not here.holds(self.name + _BYTES, self._fd):
                raise StorageError(f"{self.path} was removed or replaced meanwhile; run it again")
            there.look(target.name)
            there.remove(target.new_ledger_name)
            there.remove(target.ledger_name)  # it is of what goes
            os.rename(self.name + _BYTES, target.name, src_dir_fd=here.fd, dst_dir_fd=there.fd)
            if durable:
                there.sync()
        except OSError as error:
            raise storage_error(f"finish {target.final}", error) from error
        here.remove(self.name + _NOTE)

    def drop(self) -> None:
        """Removes it, and its note. Raises StorageError."""
        self.directory.remove(self.name + _NOTE)
        self.directory.remove(self.name + _BYTES)

    def close(self) -> None:
        """Lets go of it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


def unchanged_at(root: Path, path: str, identity: Identity, *, ignore_etag: bool) -> bool:
    """Returns whether an object is what stands at a path below a root already. Raises StorageError."""
    *folders, name = path.split("/")
    try:
        directory = Directory.open(root).walk(folders)
    except FastxferError:
        return False
    return is_unchanged(Target(directory, name), identity, ignore_etag=ignore_etag)


def target_at(root: Path, path: str) -> Target:
    """Returns a path below a root as a target; its folders are made. Raises StorageError."""
    *folders, name = path.split("/")
    return Target(Directory.open(root).walk(folders, create=True), name)
