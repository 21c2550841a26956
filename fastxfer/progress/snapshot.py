"""What a transfer looks like at one moment: a frozen value, made by the transfer and read by anyone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STATES = ("queued", "running", "waiting", "paused", "done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a transfer.

    Attributes:
        size: bytes of the whole object, or None while it is not known.
        done: bytes that are in place, from this run and from earlier ones.
        transferred: bytes of body received in this run, refetched ones included.
        resumed: bytes that were in place when this run began.
        rate: bytes a second, smoothed over about three seconds.
        eta: seconds to the end at this rate, or None.
        connections: requests that are receiving or waiting for their answer.
        state: queued, running, waiting (for a retry or the network), paused, done, failed or cancelled.
        chunks: a compact map of the object, at most 64 characters, each a stretch of it: "." missing, "+"
            partly there, "#" there.
        url: the source, without secrets.
        note: what is going on in words ("retrying in 2 s: connection refused"), or "".
    """

    size: int | None = None
    done: int = 0
    transferred: int = 0
    resumed: int = 0
    rate: float = 0.0
    eta: float | None = None
    connections: int = 0
    state: str = "queued"
    chunks: str = ""
    url: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return asdict(self)


def chunk_cells(done: list[int], widths: list[int]) -> str:
    """Returns the compact map for stretches of the object: `done[i]` of `widths[i]` chunks are there."""
    return "".join("#" if d >= w else "+" if d else "." for d, w in zip(done, widths, strict=True))
