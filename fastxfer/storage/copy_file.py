"""The checkpoint of a copy from one server to another: what was begun with the store, of which object, and
which parts the store has confirmed. docs/checkpoint-format.md has its bytes.

`encode` and `decode` are pure; what is read back is outside input, as in upload_file.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastxfer.errors import CheckpointError
from fastxfer.names import MAX_NAME_BYTES, UPLOAD_LOCK
from fastxfer.storage.upload_file import (
    MAX_ETAG,
    MAX_PARTS,
    WorkingFile,
    framed,
    unframed,
)

MAGIC = b"\x89FXCPY\r\n"
VERSION = 1
_HASH_DIGITS = 24
_UPLOAD_ID = re.compile(r"[\x21-\x7e]{1,1024}")
_ETAG = re.compile(rf"[\x20-\x7e]{{1,{MAX_ETAG}}}")
_DIGITS = {"crc32c": 8, "crc64nvme": 16, "crc64xz": 16}
_MAX_TEXT = 8192


@dataclass(frozen=True, slots=True)
class Origin:
    """What tells the object that is copied from what it was; `url` is without secrets."""

    url: str
    size: int
    etag: str | None = None
    last_modified: str | None = None
    version: str | None = None

    @property
    def known(self) -> bool:
        """True where there is something by which to know it again."""
        return any(each is not None for each in (self.etag, self.last_modified, self.version))


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A part that the store confirmed: the ETag that it gave, and the CRCs of its bytes in hex, by name;
    none where the store copied them itself.
    """

    etag: str
    sums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyState:
    """What a checkpoint says. `by` is who moves the bytes: "relay" or "store"."""

    upload_id: str
    target: str
    endpoint: str
    origin: Origin
    by: str
    part_size: int
    parts: dict[int, CopiedPart]


def encode(state: CopyState) -> bytes:
    """Returns the file's bytes."""
    origin = state.origin
    payload = {
        "upload_id": state.upload_id,
        "target": state.target,
        "endpoint": state.endpoint,
        "source": origin.url,
        "size": origin.size,
        "etag": origin.etag,
        "last_modified": origin.last_modified,
        "version": origin.version,
        "by": state.by,
        "part_size": state.part_size,
        "parts": [[number, part.etag, part.sums] for number, part in sorted(state.parts.items())],
    }
    return framed(MAGIC, VERSION, json.dumps(payload, separators=(",", ":")).encode())


def decode(data: bytes) -> CopyState:
    """Returns what the bytes of a checkpoint say. Raises CheckpointError."""
    payload = unframed(MAGIC, VERSION, data)
    try:
        return _from_json(json.loads(payload.decode()))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint of the copy cannot be read ({type(error).__name__})"
        ) from error


def _from_json(value: Any) -> CopyState:
    size, part_size = _number(value["size"], 0, 2**63 - 1), _number(value["part_size"], 1, 5 << 30)
    count = max(1, -(-size // part_size))
    if count > MAX_PARTS or value["by"] not in ("relay", "store"):
        raise ValueError
    parts: dict[int, CopiedPart] = {}
    for number, etag, sums in value["parts"]:
        if _number(number, 1, count) in parts:
            raise ValueError
        parts[number] = CopiedPart(_matching(etag, _ETAG), _sums(sums))
    origin = Origin(
        _text(value["source"]),
        size,
        *(_text_or_none(value[name]) for name in ("etag", "last_modified", "version")),
    )
    upload_id = _matching(value["upload_id"], _UPLOAD_ID)
    target, endpoint = _text(value["target"]), _text(value["endpoint"])
    return CopyState(upload_id, target, endpoint, origin, value["by"], part_size, parts)


def _sums(value: Any) -> dict[str, str]:
    for name, digest in value.items():
        if not re.fullmatch(rf"[0-9a-f]{{{_DIGITS[name]}}}", digest):
            raise ValueError
    return dict(value)


def _number(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError
    value.encode()  # half of a surrogate pair is a UnicodeEncodeError, a ValueError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _matching(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError
    return value


class CopyFile(WorkingFile):
    """That of one copy, from one URL to another."""

    def __init__(self, source: str, target: str, directory: Path) -> None:
        super().__init__(_base(source, target), f"{source} to {target} is being copied", directory)

    @staticmethod
    def is_there(source: str, target: str, directory: Path) -> bool:
        """Returns whether there is a checkpoint of that copy."""
        return WorkingFile.holds(directory, _base(source, target))

    def save(self, state: CopyState) -> None:
        """Puts the checkpoint in place of the one before, durably. Raises StorageError."""
        self.write(encode(state))


def _base(source: str, target: str) -> str:
    digits = hashlib.sha256(f"{source}\0{target}".encode("utf-8", "surrogateescape")).hexdigest()
    base = f".copy.{digits[:_HASH_DIGITS]}"
    assert len(base + UPLOAD_LOCK) <= MAX_NAME_BYTES
    return base


def default_directory(environ: Mapping[str, str], home: Path) -> Path:
    """Returns where checkpoints are kept when nothing else is said: the user's state directory."""
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else home / ".local" / "state"
    return base / "fastxfer"
