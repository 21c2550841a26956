"""What came of a mirror run, and how it stands at one moment: values, and the counting that leads to them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any, NamedTuple

from fastxfer.errors import FastxferError
from fastxfer.progress.snapshot import Progress
from fastxfer.units import format_duration, format_elapsed, format_size

MOST_NAMED = 1000
"""So many failed, refused or deleted paths are named in a report; all are counted, and are in the ledger."""
MOST_HOSTS = 1000
MOST_SAMPLES = 400
SLOWEST = 10
OVER = ("done", "failed", "cancelled")
SLOW_S = 5.0
"""An object that is under way for longer is named below the bar."""


class MirrorItem(NamedTuple):
    """What became of one path.

    Attributes:
        path: where it is, or would be, below the destination.
        state: "fetched", "skipped" (asked for, and the same), "failed", "deleted" or "left" (vanished at the
            source, but changed here); in a dry run "new", "changed", "unsure" or "vanished".
        size: in bytes, 0 where it is not known.
        message: why, where there is something to say.
        error: of one that failed; `url` is what was asked for, without secrets.
    """

    path: str
    state: str
    size: int = 0
    message: str = ""
    error: FastxferError | None = None
    url: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values; `url` is in `error`."""
        said: dict[str, Any] = {"path": self.path, "state": self.state, "size": self.size}
        said["message"] = self.message
        said["error"] = None if self.error is None else {**self.error.to_dict(), "url": self.url}
        return said

    def __str__(self) -> str:
        return f"{self.path}: {self.state}" + (f", {self.message}" if self.message else "")


class Failure(NamedTuple):
    """What could not be done: a path, or a place of the source; `error` is the type of the error, "refused"
    or "listing". `url` is what was asked for, without secrets, where something was.
    """

    path: str
    error: str
    message: str
    exit_code: int = 1
    url: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class HostCount(NamedTuple):
    """What one host (of a URL) gave: objects, bytes, and objects that it failed to give."""

    host: str
    objects: int
    bytes: int
    failed: int


class Sample(NamedTuple):
    """How far a run was `seconds` after its beginning."""

    seconds: float
    bytes: int
    objects: int


class Slow(NamedTuple):
    """One of the objects that took longest."""

    path: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class MirrorReport:
    """What came of a mirror run. Sizes in bytes, durations in seconds.

    Attributes:
        source, dest: from where to where, without secrets.
        complete: whether the source was listed to its end.
        listed: entries of the listing that were wanted; `refused` of them could not be used, or stand side by
            side (entries that were no entry count too).
        same: what was here already; `fetched` what came (`new` of them, `changed` of them, the rest was asked
            for because nothing told); `skipped` what was asked for and was the same.
        failed: objects and places that could not be got; the next run, or `retry_failed`, tries them again.
        deleted: files that had vanished at the source; `left` those of them that somebody had changed here.
        damaged: files that `verify` found damaged or missing.
        bytes: that were fetched; in a dry run those that would be, `unsized` entries not counted.
        requests: that were sent for the small objects.
        stopped: why the run ended early, or "".
        failures, refusals: the first thousand, named. deletions: the first thousand paths.
        hosts, slowest, samples, sizes: for the page; `sizes` maps powers of four to how many objects were not
            larger.
    """

    source: str
    dest: str
    dry_run: bool = False
    complete: bool = False
    listed: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    fetched: int = 0
    skipped: int = 0
    failed: int = 0
    refused: int = 0
    deleted: int = 0
    left: int = 0
    damaged: int = 0
    bytes: int = 0
    unsized: int = 0
    elapsed: float = 0.0
    requests: int = 0
    stopped: str = ""
    failures: tuple[Failure, ...] = ()
    refusals: tuple[Failure, ...] = ()
    deletions: tuple[str, ...] = ()
    hosts: tuple[HostCount, ...] = ()
    slowest: tuple[Slow, ...] = ()
    samples: tuple[Sample, ...] = ()
    sizes: Mapping[int, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the destination has all that the source lists."""
        return self.complete and not (self.failed or self.refused or self.stopped)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a page about the run, in HTML that needs nothing from elsewhere. Raises StorageError."""
        from fastxfer.dataset.page import page
        from fastxfer.page_file import write_page

        write_page(path, page(self))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        named = ("failures", "refusals", "hosts", "slowest", "samples")
        plain = {**asdict(self), "sizes": {str(size): count for size, count in self.sizes.items()}}
        rows = {name: [each._asdict() for each in getattr(self, name)] for name in named}
        return {**plain, **rows, "deletions": list(self.deletions), "ok": self.ok}

    def __str__(self) -> str:
        said = [f"{self.dest}: {self.listed} listed"]
        if self.dry_run:
            said.append(f"{self.new} new and {self.changed} changed to fetch, {format_size(self.bytes)}")
            unsure = self.listed - self.refused - self.new - self.changed - self.same
            if unsure > 0:
                said.append(f"{unsure} to ask for")
            said.append(f"{self.deleted} to delete")
        else:
            rate = f", {format_size(self.bytes / self.elapsed)}/s" if self.elapsed > 0 and self.bytes else ""
            took = format_elapsed(self.elapsed)
            said.append(f"{self.fetched} fetched ({format_size(self.bytes)} in {took}{rate})")
        said.append(f"{self.same + self.skipped} the same")
        counts = {"deleted": 0 if self.dry_run else self.deleted, "changed here and left": self.left}
        counts |= {"damaged": self.damaged, "refused": self.refused, "failed": self.failed}
        said += [f"{count} {name}" for name, count in counts.items() if count]
        if not self.complete:
            said.append("the listing is not complete")
        if self.stopped:
            said.append(f"stopped: {self.stopped}")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class MirrorProgress:
    """One moment of a mirror run.

    Attributes:
        phase: listing, checking, verifying, fetching, deleting, done, failed or cancelled.
        listed: entries found so far; `done` of them are dealt with: the same, fetched, or `failed`.
        size: bytes of all entries that tell theirs, None while the listing goes on; `bytes` of those that
            were dealt with.
        transferred: bytes that came in this run; `rate` of them a second; `eta` seconds to the end, or None.
        elapsed: seconds since the run began.
        slowest: the paths that are under way and for how many seconds, the longest first.
    """

    phase: str = "listing"
    listed: int = 0
    done: int = 0
    failed: int = 0
    size: int | None = None
    bytes: int = 0
    transferred: int = 0
    rate: float = 0.0
    eta: float | None = None
    elapsed: float = 0.0
    slowest: tuple[tuple[str, float], ...] = ()

    @property
    def title(self) -> str:
        """How it stands in words, for a bar."""
        if self.phase == "listing":
            return f"listing: {self.listed} found"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.phase}: {self.done} of {self.listed} objects{failed}"

    @property
    def figures(self) -> str:
        """The figures in words, for the second line of a bar, the slowest object under way with them."""
        if self.phase in ("listing", "checking"):
            return format_duration(self.elapsed)
        of = f" of {format_size(self.size)}" if self.size is not None else ""
        said = [f"{format_size(self.bytes)}{of}"]
        if self.phase in OVER:
            return "  ".join([*said, self.phase])
        said += [f"{format_size(self.rate)}/s", f"ETA {format_duration(self.eta)}"]
        if self.slowest and self.slowest[0][1] >= SLOW_S:
            path, seconds = self.slowest[0]
            said.append(f"{format_duration(seconds)} so far: {path}")
        return "  ".join(said)

    def as_progress(self) -> Progress:
        """Returns the bytes as those of one transfer; where not all sizes are told, the objects."""
        state = self.phase if self.phase in OVER else "running"
        if self.size is None and self.phase != "listing":
            return Progress(size=self.listed, done=self.done, eta=self.eta, state=state)
        return Progress(
            size=self.size,
            done=self.bytes,
            transferred=self.transferred,
            rate=self.rate,
            eta=self.eta,
            state=state,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**asdict(self), "slowest": [list(each) for each in self.slowest]}


class Counts:
    """Counts what becomes of the objects of a run. One thread writes; others may read numbers."""

    def __init__(self) -> None:
        self.new = self.changed = self.same = self.fetched = self.skipped = self.failed = 0
        self.bytes = self.passed = self.unsized = self.deleted = self.left = self.damaged = 0
        self.failures: list[Failure] = []
        self.deletions: list[str] = []
        self._hosts: dict[str, list[int]] = {}
        self._slowest: list[tuple[float, str, int]] = []
        self._samples = [Sample(0.0, 0, 0)]
        self._apart_s = 0.5
        self._sizes: dict[int, int] = {}

    @property
    def done(self) -> int:
        """Entries that were dealt with."""
        return self.same + self.fetched + self.skipped + self.failed

    def came(self, path: str, host: str, size: int, seconds: float) -> None:
        """Counts an object that was fetched."""
        self.fetched += 1
        self.bytes += size
        row = self._host(host)
        row[0] += 1
        row[1] += size
        step = 1 << (max(0, size - 1).bit_length() + 1) // 2 * 2
        self._sizes[step] = self._sizes.get(step, 0) + 1
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, (seconds, path, size))
        elif seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (seconds, path, size))

    def missed(self, failure: Failure, host: str) -> None:
        """Counts an object that failed."""
        self.failed += 1
        self._host(host)[2] += 1
        if len(self.failures) < MOST_NAMED:
            self.failures.append(failure)

    def sample_due(self, seconds: float) -> bool:
        """Whether a sample is due: where it takes long at longer and longer intervals."""
        return seconds - self._samples[-1].seconds >= self._apart_s

    def sample(self, seconds: float, under_way: int) -> None:
        """Notes how far it is, with the bytes that came of what is under way."""
        came = max(self.bytes + under_way, self._samples[-1].bytes)
        self._samples.append(Sample(round(seconds, 3), came, self.fetched))
        if len(self._samples) > MOST_SAMPLES:
            self._samples = self._samples[::2]
            self._apart_s *= 2

    def _host(self, host: str) -> list[int]:
        if host not in self._hosts and len(self._hosts) >= MOST_HOSTS:
            host = "others"
        return self._hosts.setdefault(host, [0, 0, 0])

    def report(self, seconds: float, **more: Any) -> MirrorReport:
        """Returns the report of it all."""
        hosts = [HostCount(host, *row) for host, row in self._hosts.items()]
        return MirrorReport(
            new=self.new,
            changed=self.changed,
            same=self.same,
            fetched=self.fetched,
            skipped=self.skipped,
            failed=self.failed,
            deleted=self.deleted,
            left=self.left,
            damaged=self.damaged,
            bytes=self.bytes,
            unsized=self.unsized,
            elapsed=seconds,
            failures=tuple(self.failures),
            deletions=tuple(self.deletions),
            hosts=tuple(sorted(hosts, key=lambda each: (-each.failed, -each.bytes, each.host))),
            slowest=tuple(Slow(path, round(s, 3), n) for s, path, n in sorted(self._slowest, reverse=True)),
            samples=(*self._samples, Sample(round(seconds, 3), self.bytes, self.fetched)),
            sizes=dict(sorted(self._sizes.items())),
            **more,
        )
