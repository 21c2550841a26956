"""What calls return: frozen values that print well and turn into plain JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.units import format_duration, format_size


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """What a server tells of an object. Sizes in bytes; None where it does not tell.

    `accepts_ranges` is what the server did when asked for a range, not what it claims. `url` is the final
    URL, without secrets.
    """

    url: str
    size: int | None
    etag: str | None
    last_modified: str | None
    accepts_ranges: bool
    http_version: str
    content_type: str | None = None
    redirects: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        size = "of unknown size" if self.size is None else f"{format_size(self.size)} ({self.size} bytes)"
        ranges = "ranges work" if self.accepts_ranges else "ranges do not work"
        return f"{self.url}: {size}, {ranges}, HTTP/{self.http_version}"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A finished fetch. Sizes in bytes, `elapsed` in seconds.

    `verified` says against what the bytes were held: "checksum" (one that the caller gave), "none" (there
    was nothing to verify against). `skipped` is True when the target was the object already. `transferred`
    counts body bytes of this run, `resumed` the bytes that were in place before it. `requests` and `retries`
    count requests; `restarts` how often progress was dropped because it could not be of the object as it is
    now. `sources` maps each URL (without secrets) to the bytes it gave. `checksums` holds what was computed,
    by name, in lower-case hex.
    """

    path: str
    url: str
    size: int
    etag: str | None = None
    last_modified: str | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    verified: str = "none"
    skipped: bool = False
    transferred: int = 0
    resumed: int = 0
    elapsed: float = 0.0
    requests: int = 0
    retries: int = 0
    restarts: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.path}: complete and unchanged, {format_size(self.size)}, nothing fetched"
        took = f"{self.elapsed:.2f} s" if self.elapsed < 10 else format_duration(self.elapsed)
        parts = [f"{self.path}: {format_size(self.size)} in {took}"]
        if self.elapsed > 0:
            parts.append(f"{format_size(self.transferred / self.elapsed)}/s")
        if self.resumed:
            parts.append(f"{format_size(self.resumed)} were there before")
        parts.append("checksum verified" if self.verified == "checksum" else "nothing to verify against")
        return ", ".join(parts)
