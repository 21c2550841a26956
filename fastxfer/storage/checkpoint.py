"""The checkpoint file: two slots, checksummed; docs/checkpoint-format.md defines every byte.

`encode_slot` and `decode` are pure. What is read back is outside input: sizes are capped before anything is
allocated, unknown versions are refused, spare bits must be zero.
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from fastxfer._native.bitmap import MAX_CHUNKS
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, storage_error
from fastxfer.names import CHECKPOINT, NEW_CHECKPOINT
from fastxfer.plan.response import Identity
from fastxfer.storage.directory import Directory
from fastxfer.values import dataclass

MAGIC = b"\x89FXCKPT\n"
VERSION = 1
BLOCK = 4096
MAX_FILE = 1024**3
MAX_DESCRIPTION = 65536
MAX_FIELD = 3072
MAX_PARTIALS = 1024
_PARTIAL_BYTES = len('[18446744073709551615,"0123456789abcdef"],')
_HEX64 = re.compile(r"[0-9a-f]{16}")
_HEADER = struct.Struct("<8sII16sQQ8x")
_CRC = struct.Struct("<Q")
_HEADER_BYTES = _HEADER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a slot says. `durable` and `claimed` are bitmaps, `crcs` 8 little-endian bytes a chunk; all empty
    when the size is unknown.
    """

    url: str
    url_sha256: str
    identity: Identity
    chunk_size: int
    durable: bytes = b""
    claimed: bytes = b""
    crcs: bytes = b""
    boot_id: str = ""
    inode: int = 0
    device: int = 0
    born: int = 0
    partials: tuple[tuple[int, int], ...] = field(default=())
    paused: bool = False
    crc64: int | None = None
    """The CRC-64/NVME of the whole object, where it is known: what the bytes must come to."""

    @property
    def chunks(self) -> int:
        """The number of chunks of the grid; 0 when the size is unknown."""
        return -(-(self.identity.size or 0) // self.chunk_size)


def _description(checkpoint: Checkpoint) -> bytes:
    known = {} if checkpoint.crc64 is None else {"crc64nvme": f"{checkpoint.crc64:016x}"}
    if checkpoint.identity.version is not None:
        known["version_id"] = checkpoint.identity.version
    return json.dumps(
        {
            "url": checkpoint.url[:MAX_FIELD],
            "url_sha256": checkpoint.url_sha256,
            "size": checkpoint.identity.size,
            "etag": _short(checkpoint.identity.etag),
            "last_modified": _short(checkpoint.identity.last_modified),
            "chunk_size": checkpoint.chunk_size,
            "boot_id": checkpoint.boot_id,
            "inode": checkpoint.inode,
            "device": checkpoint.device,
            "born": checkpoint.born,
            "partials": [[pos, f"{crc:016x}"] for pos, crc in checkpoint.partials],
            "paused": checkpoint.paused,
            **known,
        },
        separators=(",", ":"),
    ).encode()


def _short(validator: str | None) -> str | None:
    # A validator of absurd length is not kept, so that the description always fits.
    return validator if validator is None or len(validator) <= MAX_FIELD else None


def slot_size_for(checkpoint: Checkpoint, partials: int = MAX_PARTIALS) -> int:
    """Returns a slot size in bytes that holds this checkpoint with any number of partials up to that one."""
    fixed = _HEADER_BYTES + 4 + 2 * len(checkpoint.claimed) + len(checkpoint.crcs)
    description = len(_description(_with_partials(checkpoint, ()))) + partials * _PARTIAL_BYTES
    return -(-(fixed + min(description, MAX_DESCRIPTION)) // BLOCK) * BLOCK


def encode_slot(checkpoint: Checkpoint, *, job_id: bytes, sequence: int, slot_size: int) -> bytes:
    """Returns the slot's bytes, without the zeros at its end. Partials that do not fit are left out, the
    last first.
    """
    bitmaps = checkpoint.durable + checkpoint.claimed + checkpoint.crcs
    room = min(MAX_DESCRIPTION, slot_size - _HEADER_BYTES - 4 - len(bitmaps))
    description = _description(checkpoint)
    if len(description) > room:
        left = room - len(_description(_with_partials(checkpoint, ())))
        sizes = accumulate(len(f'[{pos},"{crc:016x}"],') for pos, crc in checkpoint.partials)
        fitting = sum(size <= left for size in sizes)
        description = _description(_with_partials(checkpoint, checkpoint.partials[:fitting]))
    payload = struct.pack("<I", len(description)) + description + bitmaps
    header = _HEADER.pack(MAGIC, VERSION, slot_size // BLOCK, job_id, sequence, len(payload))
    return header + _CRC.pack(crc64nvme(payload, crc64nvme(header))) + payload


def _with_partials(checkpoint: Checkpoint, partials: tuple[tuple[int, int], ...]) -> Checkpoint:
    return replace(checkpoint, partials=partials)


def decode(data: bytes) -> tuple[Checkpoint, int, bytes, int]:
    """Returns (checkpoint, sequence, job id, index of its slot) of a whole file's bytes.

    Raises CheckpointError when no slot is valid, or one is of a version that is not known.
    """
    size = len(data)
    if size < 2 * BLOCK or size % (2 * BLOCK):
        raise CheckpointError(f"the checkpoint has an impossible length, {size} bytes")
    found: list[tuple[int, bytes, int, Checkpoint]] = []
    for index in range(2):
        slot = memoryview(data)[index * size // 2 : (index + 1) * size // 2]
        header = _valid_header(slot)
        if header is None:
            continue
        job_id, sequence, length = header
        found.append(
            (sequence, job_id, index, _decode_payload(bytes(slot[_HEADER_BYTES : _HEADER_BYTES + length])))
        )
    if not found:
        raise CheckpointError("the checkpoint is damaged: neither of its slots holds")
    sequence, job_id, index, checkpoint = max(found, key=lambda each: each[0])
    return checkpoint, sequence, job_id, index


def _only_begun(data: bytes) -> bool:
    """Returns whether a file is one of ours of which no slot holds: all of it is blank, or torn in its first
    write.
    """
    if len(data) % (2 * BLOCK):
        return False
    halves = [memoryview(data)[at : at + len(data) // 2] for at in (0, len(data) // 2)] if data else []
    blank = bytes(len(MAGIC))
    return all(half[: len(MAGIC)] in (MAGIC, blank) and _valid_header(half) is None for half in halves)


def _valid_header(slot: memoryview) -> tuple[bytes, int, int] | None:
    magic, version, blocks, job_id, sequence, length = _HEADER.unpack_from(slot)
    if magic != MAGIC or bytes(slot[48:56]) != bytes(8) or length > len(slot) - _HEADER_BYTES:
        return None
    crc = crc64nvme(slot[_HEADER_BYTES : _HEADER_BYTES + length], crc64nvme(slot[: _HEADER.size]))
    if _CRC.unpack_from(slot, _HEADER.size)[0] != crc:
        return None
    if version != VERSION:
        raise CheckpointError(
            f"the checkpoint is of version {version}; this fastxfer reads version {VERSION}"
        )
    if blocks * BLOCK != len(slot) or sequence < 1:
        return None
    return job_id, sequence, length


def _decode_payload(payload: bytes) -> Checkpoint:
    """A payload whose CRC holds was written by fastxfer or by someone who took pains: everything is checked
    all the same.
    """
    try:
        (length,) = struct.unpack_from("<I", payload)
        if length > min(MAX_DESCRIPTION, len(payload) - 4):
            raise ValueError("description length")
        checkpoint = _from_json(json.loads(payload[4 : 4 + length].decode()))
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be read ({error})") from error
    rest = payload[4 + length :]
    chunks = checkpoint["chunks"]
    width = -(-chunks // 8)
    if len(rest) != 2 * width + 8 * chunks:
        raise CheckpointError("the checkpoint's bitmaps are not of the object's size")
    durable, claimed = rest[:width], rest[width : 2 * width]
    spare = 0xFF << (chunks % 8) & 0xFF if chunks % 8 else 0
    if width and (claimed[-1] & spare or durable[-1] & spare):
        raise CheckpointError("the checkpoint has bits past the object's last chunk")
    if int.from_bytes(durable, "little") & ~int.from_bytes(claimed, "little"):
        raise CheckpointError("the checkpoint has durable chunks that are not claimed")
    fields = {name: value for name, value in checkpoint.items() if name != "chunks"}
    return Checkpoint(durable=durable, claimed=claimed, crcs=rest[2 * width :], **fields)


def _from_json(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    size = None if value["size"] is None else _number(value["size"], 0, 2**63 - 1)
    chunk_size = _number(value["chunk_size"], 1, 2**63 - 1)
    chunks = -(-(size or 0) // chunk_size)
    if chunks > MAX_CHUNKS:
        raise ValueError("too many chunks")
    partials = []
    for pos, crc in value["partials"]:
        partials.append((_number(pos, 1, size or 0), _hex64(crc)))
    return {
        "url": _text(value["url"]),
        "url_sha256": _text(value["url_sha256"]),
        "identity": Identity(
            size,
            _optional_text(value["etag"]),
            _optional_text(value["last_modified"]),
            _optional_text(value.get("version_id")),
        ),
        "chunk_size": chunk_size,
        "chunks": chunks,
        "boot_id": _text(value["boot_id"]),
        "inode": _number(value["inode"], 0, 2**64 - 1),
        "device": _number(value["device"], 0, 2**64 - 1),
        "born": _number(value.get("born", 0), -(2**63), 2**63 - 1),
        "partials": tuple(partials),
        "paused": value["paused"] is True,
        "crc64": _hex64(value["crc64nvme"]) if "crc64nvme" in value else None,
    }


def _number(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{repr(value)[:40]} is not a number from {least} to {most}")
    return value


def _hex64(value: Any) -> int:
    if not isinstance(value, str) or not _HEX64.fullmatch(value):
        raise ValueError("not a checksum in hex")
    return int(value, 16)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    value.encode()  # half of a surrogate pair is a UnicodeEncodeError, a ValueError
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


class CheckpointFile:
    """The file of a running transfer. One thread writes it; the checkpoint's grid and slot size are fixed
    when it is made.

    Raises StorageError and CheckpointError.
    """

    def __init__(
        self,
        directory: Directory,
        name: str,
        fd: int,
        *,
        job_id: bytes,
        sequence: int,
        slot_size: int,
        index: int,
    ) -> None:
        self._directory = directory
        self._name = name
        self._fd = fd
        self._job_id = job_id
        self._sequence = sequence
        self._slot_size = slot_size
        self._index = index  # of the slot written last
        self._durable_index: int | None = None
        self._unsure = b""  # the slot to keep, as long as it may be in the page cache only

    @classmethod
    def create(
        cls, directory: Directory, name: str, checkpoint: Checkpoint, *, durable: bool = False
    ) -> CheckpointFile:
        """Makes the file anew, with one slot filled, in place of what was there; with `durable` that slot is
        synced, and kept from claims.

        It gets its name when the slot is written, so that a kill leaves no empty one.
        """
        slot_size = slot_size_for(checkpoint)
        new = name.removesuffix(CHECKPOINT) + NEW_CHECKPOINT
        directory.look(name)  # what is no file is not replaced
        try:
            fd = directory.open_file(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            raise storage_error(f"create {directory.path / name}", error) from error
        made = cls(directory, name, fd, job_id=os.urandom(16), sequence=0, slot_size=slot_size, index=1)
        try:
            os.truncate(fd, 2 * slot_size)
            made.write(checkpoint, durable=durable)
            os.rename(new, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        except OSError as error:
            made.close()
            raise storage_error(f"create {directory.path / name}", error) from error
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def load(
        cls, directory: Directory, name: str, *, begun_counts: bool = True
    ) -> tuple[CheckpointFile, Checkpoint] | None:
        """Returns the file, ready for more writes, and what it says; None when there is no file, nor, unless
        `begun_counts`, one whose very first write was cut off: it has never said anything.
        """
        path = directory.path / name
        try:
            fd = directory.open_file(name, os.O_RDWR)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"open {path}", error) from error
        try:
            data = _read_all(fd, path)
            if not begun_counts and _only_begun(data):
                os.close(fd)
                return None
            checkpoint, sequence, job_id, index = decode(data)
        except BaseException:
            os.close(fd)
            raise
        size = len(data) // 2
        loaded = cls(directory, name, fd, job_id=job_id, sequence=sequence, slot_size=size, index=index)
        loaded._durable_index = index  # not to be overwritten by the next claim, whatever it was
        loaded._unsure = data[index * size : (index + 1) * size]
        return loaded, checkpoint

    def write(self, checkpoint: Checkpoint, *, durable: bool) -> None:
        """Writes the next slot. With `durable` the caller has synced the part file before; the slot is
        synced then, and kept from claims.
        """
        index = 1 - self._index if self._durable_index is None else 1 - self._durable_index
        slot = encode_slot(
            checkpoint, job_id=self._job_id, sequence=self._sequence + 1, slot_size=self._slot_size
        )
        try:
            if self._unsure:
                self._make_sure()
            written = os.pwrite(self._fd, slot, index * self._slot_size)
            if written != len(slot):
                raise OSError(28, os.strerror(28))
            if durable:
                os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(f"write {self._directory.path / self._name}", error) from error
        self._sequence += 1
        self._index = index
        if durable:
            self._durable_index = index

    def _make_sure(self) -> None:
        """Makes the slot that was loaded durable: the other one, which is to be overwritten, may be the only
        one that is. It is written again: after a sync that failed the cache may hold what the disk does not.
        """
        os.pwrite(self._fd, self._unsure, self._index * self._slot_size)
        os.fdatasync(self._fd)
        self._unsure = b""

    @property
    def owner_uid(self) -> int:
        """The user whose file it is."""
        return os.fstat(self._fd).st_uid

    @property
    def slot_size(self) -> int:
        """Bytes of a slot, the most that one write moves."""
        return self._slot_size

    def close(self) -> None:
        """Closes the file and leaves it where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _read_all(fd: int, path: Path) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_FILE:
        raise CheckpointError(f"the checkpoint {path} is too large to be one, {size} bytes")
    data = b""
    while len(data) < size:
        try:
            block = os.pread(fd, size - len(data), len(data))
        except OSError as error:
            raise storage_error(f"read {path}", error) from error
        if not block:
            break
        data += block
    return data


def read_checkpoint(directory: Directory, name: str) -> tuple[Checkpoint, float] | None:
    """Returns what a checkpoint says and when it was written (seconds since the epoch), or None when there is
    none. Asks for no right to write. Raises CheckpointError and StorageError.
    """
    path = directory.path / name
    try:
        with directory.reading(name) as fd:
            return decode(_read_all(fd, path))[0], os.fstat(fd).st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(f"open {path}", error) from error


def boot_id() -> str:
    """Returns what tells this boot of the machine from others, or "" where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
