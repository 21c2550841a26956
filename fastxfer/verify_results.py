"""What `verify` returns, of a file and of a set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.plan.ranges import Span, length
from fastxfer.units import format_elapsed, format_size


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a file was found to be. Sizes in bytes, `elapsed` in seconds, ranges half-open (start, stop).

    `verified` says against what it was held: "checksum" (those that the caller gave, and its ledger if there
    is one), "ledger" (the CRCs of its chunks: the kept ledger, or the checkpoint of a part file) or "none"
    (there was neither). `ok` is True when all of that holds, and False with "none": nothing was proven.

    `path` is the file that was read, `size` what it has to have, where that is known, or has. `bad` are the
    ranges that do not hold, neighbours joined; `missing` those that a part file does not claim to have;
    `mended` those that were bad or missing and have been fetched. `chunks` counts those that were checked,
    `repaired` the bytes that were fetched. `checksums` holds what was computed, by name, in lower-case hex.
    """

    path: str
    size: int
    ok: bool
    verified: str = "none"
    bad: list[Span] = field(default_factory=list)
    missing: list[Span] = field(default_factory=list)
    mended: list[Span] = field(default_factory=list)
    chunks: int = 0
    checksums: dict[str, str] = field(default_factory=dict)
    repaired: int = 0
    elapsed: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True when nothing is missing: it is not, or not any more, a part file with holes."""
        return not self.missing

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        spans = {name: [list(span) for span in getattr(self, name)] for name in ("bad", "missing", "mended")}
        return {**asdict(self), **spans, "notes": list(self.notes), "complete": self.complete}

    def __str__(self) -> str:
        if self.verified == "none":
            return f"{self.path}: {format_size(self.size)}, nothing to verify against"
        took = format_elapsed(self.elapsed)
        against = "its checksum" if self.verified == "checksum" else "its ledger"
        if self.bad:
            ranges = f"{len(self.bad)} range{'s' if len(self.bad) > 1 else ''}"
            return (
                f"{self.path}: damaged, {format_size(length(self.bad))} of {format_size(self.size)} "
                f"in {ranges} does not hold against {against}"
            )
        if self.missing:
            there = self.size - length(self.missing)
            return (
                f"{self.path}: incomplete, {format_size(there)} of {format_size(self.size)}, "
                f"which holds against its checkpoint, in {took}"
            )
        mended = f", {format_size(self.repaired)} fetched to repair it" if self.mended else ""
        return f"{self.path}: verified against {against}{mended}, {format_size(self.size)} in {took}"


@dataclass(frozen=True, slots=True)
class SetVerifyResult:
    """What the files of a mirrored set were found to be. `bytes` were read, `elapsed` in seconds.

    `files` is how many the ledger has. Of those `good` have the checksum that is known of them; of `unproven`
    no checksum is known, and they have the right size. `damaged` are (path, reason), `missing` paths below
    `path`, at most a thousand each, in order; `damaged_count` and `missing_count` count them all. `marked`
    says that the ledger has them from now on as what is to be fetched again. `interrupted` says that it was
    stopped before all files were looked at.
    """

    path: str
    files: int
    bytes: int = 0
    good: int = 0
    unproven: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    damaged_count: int = 0
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    marked: bool = False
    interrupted: bool = False
    elapsed: float = 0.0

    @property
    def seen(self) -> int:
        """How many files were looked at."""
        return self.good + self.unproven + self.damaged_count + self.missing_count

    @property
    def ok(self) -> bool:
        """True when all files were looked at, and none is damaged or missing."""
        return not (self.damaged_count or self.missing_count or self.interrupted)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        damaged = [list(each) for each in self.damaged]
        lists = {"damaged": damaged, "missing": list(self.missing)}
        return {**asdict(self), **lists, "seen": self.seen, "ok": self.ok}

    def __str__(self) -> str:
        counts = {"damaged": self.damaged_count, "missing": self.missing_count}
        said = [f"{self.good} of {self.files} files proven"]
        said += [f"{count} {what}" for what, count in counts.items() if count]
        if self.unproven:
            said.append(f"{self.unproven} have their size, and no checksum is known of them")
        if self.interrupted:
            said.append(f"stopped with {self.files - self.seen} still to look at")
        read = f"{format_size(self.bytes)} read in {format_elapsed(self.elapsed)}"
        return f"{self.path}: {', '.join(said)}; {read}"
