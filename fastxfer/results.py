"""What calls return: frozen values that print well and turn into plain JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.plan.ranges import Span, length
from fastxfer.units import format_elapsed, format_size

_VERIFIED = {"checksum": "checksum verified", "server": "the store's checksum verified"}


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
