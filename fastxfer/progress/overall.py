"""What many transfers look like at one moment, as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from fastxfer.progress.snapshot import Progress


@dataclass(frozen=True, slots=True)
class Tally:
    """Items and their bytes. `size` counts those whose size is known, `unsized` the others."""

    items: int = 0
    size: int = 0
    unsized: int = 0
    done: int = 0
    transferred: int = 0
    resumed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in _COUNTS))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) - getattr(other, name) for name in _COUNTS))


_COUNTS = tuple(each.name for each in fields(Tally))


@dataclass(frozen=True, slots=True)
class Overall:
    """One moment of many transfers.

    Attributes:
        items: how many there are; `finished`, `failed` and `running` of them are.
        size: bytes of all of them, or None while one's size is not known; `known` bytes of those that are
            known, `unsized` how many are not.
        done, transferred, resumed, rate, eta, connections: as in Progress, over all of them.
        state: running, done, failed (some did) or cancelled.
    """

    items: int = 0
    finished: int = 0
    failed: int = 0
    running: int = 0
    size: int | None = None
    known: int = 0
    unsized: int = 0
    done: int = 0
    transferred: int = 0
    resumed: int = 0
    rate: float = 0.0
    eta: float | None = None
    connections: int = 0
    state: str = "running"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return asdict(self)

    @property
    def title(self) -> str:
        """The items in words, for a bar."""
        failed = f", {self.failed} failed" if self.failed else ""
        unsized = f", {self.unsized} of unknown size" if self.unsized else ""
        return f"{self.finished} of {self.items} files{failed}{unsized}"

    def as_progress(self) -> Progress:
        """Returns the bytes as those of one transfer."""
        return Progress(
            size=self.size,
            done=self.done,
            transferred=self.transferred,
            resumed=self.resumed,
            rate=self.rate,
            eta=self.eta,
            connections=self.connections,
            state=self.state,
        )


def tally(running: Iterable[tuple[Progress, int | None]]) -> Tally:
    """Returns the tally of transfers that run; with each comes the size that was told before it began."""
    total = Tally()
    for progress, told in running:
        size = progress.size if progress.size is not None else told
        total += Tally(1, size or 0, int(size is None), progress.done, progress.transferred, progress.resumed)
    return total
