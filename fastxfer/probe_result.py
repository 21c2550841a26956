"""What `probe` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastxfer.units import format_size


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
