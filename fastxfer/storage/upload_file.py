"""The checkpoint of an upload: what was begun with the store, and which parts it has confirmed; its file, and
the lock beside it. docs/checkpoint-format.md has its bytes.

`encode` and `decode` are pure. What is read back is outside input: its size is capped before it is read, its
checksum and every value are checked, and a version that is not known is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, StorageError, TargetBusyError, storage_error
from fastxfer.names import MAX_NAME_BYTES, UPLOAD, UPLOAD_LOCK, UPLOAD_NEW
from fastxfer.storage.directory import Directory
from fastxfer.storage.locks import BUSY, give_lock, lock_holder, take_lock

MAGIC = b"\x89FXPUT\r\n"
VERSION = 1
MAX_FILE = 4 << 20
MAX_PARTS = 10_000
MAX_ETAG = 256
MAX_MARK = 2300
_HEADER = struct.Struct("<8sIIQ")
_CRC = struct.Struct("<Q")
_HASH_DIGITS = 12
_Working = TypeVar("_Working", bound="WorkingFile")
_UPLOAD_ID = re.compile(r"[\x21-\x7e]{1,2048}")
_ETAG = re.compile(rf"[\x20-\x7e]{{1,{MAX_ETAG}}}")
_MARK = re.compile(rf"[\x20-\x7e]{{1,{MAX_MARK}}}")
"""What stands for an ETag where the upload goes to a tus server: the URL of one is in it."""
_HEX64 = re.compile(r"[0-9a-f]{16}")
_SALVAGE = re.compile(rb'\A\{"upload_id":("(?:[^"\\]|\\.){1,2048}"),"target":("(?:[^"\\]|\\.){1,8192}"),')


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a local file from what it was. Under the same of it the CRCs of the parts tell."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, there: os.stat_result) -> FileIdentity:
        """Returns that of a file that was looked at."""
        return cls(there.st_size, there.st_mtime_ns, there.st_ino, there.st_dev)


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the store confirmed: the CRC-64 of its bytes in hex, and the ETag that the store gave."""

    crc: str
    etag: str


@dataclass(frozen=True, slots=True)
class UploadState:
    """What a checkpoint says. `target` and `endpoint` are where the upload goes, without secrets; `crc` is
    the algorithm of the parts' checksums.
    """

    upload_id: str
    target: str
    endpoint: str
    part_size: int
    file: FileIdentity
    crc: str
    parts: dict[int, SentPart]


def encode(state: UploadState) -> bytes:
    """Returns the file's bytes."""
    payload = json.dumps(
        {
            "upload_id": state.upload_id,
            "target": state.target,
            "endpoint": state.endpoint,
            "part_size": state.part_size,
            "size": state.file.size,
            "mtime_ns": state.file.mtime_ns,
            "inode": state.file.inode,
            "device": state.file.device,
            "crc": state.crc,
            "parts": [[number, part.crc, part.etag] for number, part in sorted(state.parts.items())],
        },
        separators=(",", ":"),
    ).encode()
    return framed(MAGIC, VERSION, payload)


def framed(magic: bytes, version: int, payload: bytes) -> bytes:
    """Returns the bytes of a checkpoint of a kind and a version."""
    header = _HEADER.pack(magic, version, 0, len(payload))
    return header + _CRC.pack(crc64nvme(payload, crc64nvme(header))) + payload


def decode(data: bytes) -> UploadState:
    """Returns what the bytes of a checkpoint say. Raises CheckpointError."""
    payload = unframed(MAGIC, VERSION, data)
    try:
        return _from_json(json.loads(payload.decode()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint of the upload cannot be read ({error})") from error


def unframed(magic: bytes, version: int, data: bytes) -> bytes:
    """Returns what `framed` was given. Raises CheckpointError."""
    start = _HEADER.size + _CRC.size
    if len(data) < start or data[: len(magic)] != magic:
        raise CheckpointError("the checkpoint of the upload is damaged, or none of fastxfer's")
    _, found, spare, length = _HEADER.unpack_from(data)
    crc = _CRC.unpack_from(data, _HEADER.size)[0]
    payload = data[start:]
    if len(payload) != length or crc != crc64nvme(payload, crc64nvme(data[: _HEADER.size])):
        raise CheckpointError("the checkpoint of the upload is damaged")
    if found != version or spare:
        raise NewerCheckpointError(
            f"the checkpoint of the upload is of version {found}; this fastxfer reads version {version}: "
            "use a newer one, or remove it to begin anew"
        )
    return payload


class NewerCheckpointError(CheckpointError):
    """A checkpoint of a version that is not known: whole, and somebody's progress."""


def salvage(data: bytes, magic: bytes = MAGIC) -> tuple[str, str] | None:
    """Returns (upload id, target) of a damaged checkpoint, if its beginning is still there, to abort by."""
    found = _SALVAGE.match(data[_HEADER.size + _CRC.size :])
    if found is None or data[: len(magic)] != magic:
        return None
    try:
        upload_id, target = (_text(json.loads(text.decode())) for text in found.groups())
    except (ValueError, RecursionError):
        return None
    return (upload_id, target) if _UPLOAD_ID.fullmatch(upload_id) else None


def _from_json(value: Any) -> UploadState:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    size = _number(value["size"], 0, 2**63 - 1)
    tus = _text(value["target"]).startswith("tus+")
    part_size = _number(value["part_size"], 1, 2**63 - 1 if tus else 5 << 30)
    count = max(1, -(-size // part_size))
    if count > MAX_PARTS:
        raise ValueError("too many parts")
    parts: dict[int, SentPart] = {}
    for number, crc, etag in value["parts"]:
        if _number(number, 1, count) in parts:
            raise ValueError("a part twice")
        parts[number] = SentPart(_matching(crc, _HEX64), _matching(etag, _MARK if tus else _ETAG))
    if value["crc"] not in ("crc64nvme", "crc64xz"):
        raise ValueError("an unknown checksum")
    identity = FileIdentity(
        size,
        _number(value["mtime_ns"], -(2**63), 2**63 - 1),
        _number(value["inode"], 0, 2**64 - 1),
        _number(value["device"], 0, 2**64 - 1),
    )
    return UploadState(
        _matching(value["upload_id"], _UPLOAD_ID),
        _text(value["target"]),
        _text(value["endpoint"]),
        part_size,
        identity,
        value["crc"],
        parts,
    )


def _number(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{repr(value)[:40]} is not a number from {least} to {most}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    value.encode()  # half of a surrogate pair is a UnicodeEncodeError, a ValueError
    return value


def _matching(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError("a text that cannot be")
    return value


def _base(source: Path, target: str) -> str:
    """Returns what the names begin with: the file's name, and what tells apart files and targets."""
    told = f"{source.absolute()}\0{target}".encode("utf-8", "surrogateescape")
    digits = hashlib.sha256(told).hexdigest()[:_HASH_DIGITS]
    room = MAX_NAME_BYTES - len(f"..{digits}{UPLOAD_LOCK}")
    return f".{os.fsdecode(os.fsencode(source.name)[:room])}.{digits}"


class WorkingFile:
    """The checkpoint file of what is under way, and the lock that says so; their names begin with `base`. A
    context manager: the checkpoint stays until it is removed. `what` reads as in "a to b is being uploaded".
    """

    @staticmethod
    def holds(directory: Path, base: str) -> bool:
        """Returns whether there is a checkpoint."""
        try:
            held = Directory.open(directory)
        except OSError:
            return False
        with contextlib.closing(held):
            return held.has(base + UPLOAD)

    def __init__(self, base: str, what: str, directory: Path) -> None:
        """Takes the lock. Raises TargetBusyError and StorageError."""
        self._name, self._new, self._lock = base + UPLOAD, base + UPLOAD_NEW, base + UPLOAD_LOCK
        try:
            self._directory = Directory.open(directory)
        except OSError as error:
            raise storage_error(f"open the directory {directory}", error) from error
        self.path = directory / self._name
        self._fd = self._locked(what)

    def _locked(self, what: str) -> int:
        while True:
            try:
                fd = self._directory.open_file(self._lock, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                failed = storage_error(f"create {self._directory.path / self._lock}", error)
                failed.message += " (checkpoint_dir= (--checkpoint-dir) names another directory)"
                raise failed from error
            try:
                if take_lock(fd) == BUSY:
                    raise TargetBusyError(f"{what} already, by {lock_holder(fd)}")
                if self._directory.holds(self._lock, fd):
                    return fd
            except OSError as error:
                os.close(fd)
                raise storage_error(f"lock {self._directory.path / self._lock}", error) from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its holder has finished and removed it between our two steps

    def load(self) -> bytes | None:
        """Returns the bytes of the checkpoint, None where there is none; of one that is too long to be one
        only its beginning. Raises StorageError.
        """
        try:
            with self._directory.reading(self._name) as fd:
                return os.pread(fd, MAX_FILE, 0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"read {self.path}", error) from error

    def write(self, data: bytes) -> None:
        """Puts the checkpoint in place of the one before, durably. Raises StorageError."""
        directory = self._directory
        try:
            fd = directory.open_file(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                while data:
                    data = data[os.write(fd, data) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(self._new, self._name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
            directory.sync()
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error

    def remove(self) -> None:
        """Removes the checkpoint. Raises StorageError."""
        self._directory.remove(self._new)
        self._directory.remove(self._name)

    def close(self) -> None:
        """Gives the lock back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                self._directory.remove(self._lock)
            except StorageError:
                pass  # it is taken again as it is
            give_lock(fd)
        self._directory.close()

    def __enter__(self: _Working) -> _Working:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UploadFile(WorkingFile):
    """That of one upload, of one local file to one target."""

    def __init__(self, source: Path, target: str, directory: Path) -> None:
        super().__init__(_base(source, target), f"{source} to {target} is being uploaded", directory)

    @staticmethod
    def is_there(source: Path, target: str, directory: Path) -> bool:
        """Returns whether there is a checkpoint of that upload."""
        return WorkingFile.holds(directory, _base(source, target))

    def state_for(self, target: str, endpoint: str) -> UploadState | None:
        """Returns what the checkpoint says, None where it cannot be read or is of another upload."""
        data = self.load()
        try:
            state = decode(data) if data is not None else None
        except CheckpointError:
            return None
        return state if state is not None and (state.target, state.endpoint) == (target, endpoint) else None

    def save(self, state: UploadState) -> None:
        """Puts the checkpoint in place of the one before, durably. Raises StorageError."""
        self.write(encode(state))
