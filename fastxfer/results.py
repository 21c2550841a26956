"""What a fetch returns: a frozen value that prints well and turns into plain JSON values, as do those of the
other calls (probe_result.py, verify_results.py, put_results.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.units import format_elapsed, format_size

_VERIFIED = {"checksum": "checksum verified", "server": "the store's checksum verified"}


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A finished fetch. Sizes in bytes, `elapsed` in seconds.

    `verified` says against what the bytes were held: "checksum" (one that the caller gave), "server" (one
    that the object store keeps), "none" (there was nothing to verify against). `skipped` is True when the
    target was the object already. `transferred` counts body bytes of this run, what races have fetched in
    vain too, `resumed` the bytes that were in place before it. `requests` and `retries` count requests;
    `restarts` how often progress was dropped because it could not be of the object as it is now. `sources`
    maps each URL (without secrets) to the bytes it gave. `checksums` holds what was computed, by name, in
    lower-case hex.
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
        took = format_elapsed(self.elapsed)
        parts = [f"{self.path}: {format_size(self.size)} in {took}"]
        if self.elapsed > 0:
            parts.append(f"{format_size(self.transferred / self.elapsed)}/s")
        if self.resumed:
            parts.append(f"{format_size(self.resumed)} were there before")
        parts.append(_VERIFIED.get(self.verified, "nothing to verify against"))
        return ", ".join(parts)
