"""What calls return that make an object: `put`, `copy`, and the list of uploads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.units import format_elapsed, format_size


@dataclass(frozen=True, slots=True)
class PutResult:
    """A finished upload. Sizes in bytes, `elapsed` in seconds.

    `url` is the object, without secrets; `etag` and `version_id` are what the store told, "" and None for
    nothing. `parts` is how many the object was sent in, `parts_sent` those of this run, `parts_resumed` those
    that the store had already; `upload_id` is "" for what went in one request.

    `verified` says by what the object was found to be what the file is: "server" (the store told the CRC-64
    of all its bytes), "etag" (its ETag is the MD5 of the bytes, or is made of those of the parts) or "none"
    (it tells nothing that could be compared; each part was checked on its way). `checksums` holds what was
    computed of the whole, by name, in lower-case hex.
    """

    url: str
    size: int
    etag: str = ""
    version_id: str | None = None
    parts: int = 1
    parts_sent: int = 1
    parts_resumed: int = 0
    upload_id: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    verified: str = "none"
    elapsed: float = 0.0
    requests: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}

    def __str__(self) -> str:
        return ", ".join([*_sent(self), _held_against(self.verified)])


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A finished copy. Sizes in bytes, `elapsed` in seconds.

    `url` is the object that was made, `source` what was copied, both without secrets. `by` says who moved the
    bytes: "relay" (ranges of the source, through here), "stream" (through here in one stream, since its
    server gives no ranges) or "store" (the store that holds both, by itself). `etag`, `version_id`, `parts`,
    `parts_sent`, `parts_resumed` and `upload_id` are as those of a PutResult.

    `checksums` holds the CRCs of the bytes that went through here, by name, in lower-case hex; a copy that
    the store makes has none. `source_verified` says by what these were found to be the source's: "checksum"
    (the caller's), "server" (the source told a CRC of all its bytes) or "none" (each answer was of one
    version of it, by its ETag or date). `verified` says by what the object was found to be what was read:
    "server" (the store told the CRC of all its bytes), "etag" or "none", as in a PutResult; of a copy by the
    store, that both objects have one CRC, or one ETag.
    """

    url: str
    source: str
    size: int
    etag: str = ""
    version_id: str | None = None
    by: str = "relay"
    parts: int = 1
    parts_sent: int = 1
    parts_resumed: int = 0
    upload_id: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    verified: str = "none"
    source_verified: str = "none"
    elapsed: float = 0.0
    requests: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}

    def __str__(self) -> str:
        parts = _sent(self)
        if self.by == "store":
            parts.append("copied by the store")
        if self.source_verified != "none":
            parts.append("the source's checksum holds")
        return ", ".join([*parts, _held_against(self.verified)])


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """An upload in parts that was begun and neither completed nor aborted. `url` is the object that it would
    become, `initiated` when it was begun, in the store's words.
    """

    url: str
    upload_id: str
    initiated: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.initiated or '-'}  {self.upload_id}  {self.url}"


def _sent(made: PutResult | CopyResult) -> list[str]:
    """Returns what is said of an object that was made in a store."""
    said = [f"{made.url}: {format_size(made.size)} in {format_elapsed(made.elapsed)}"]
    if made.parts > 1:
        resumed = f", {made.parts_resumed} of them before" if made.parts_resumed else ""
        said.append(f"{made.parts} parts{resumed}")
    return said


def _held_against(verified: str) -> str:
    how = {"server": "verified by the store's checksum", "etag": "verified by its ETag"}
    return how.get(verified, "nothing to verify against")
