"""Listings and ledgers for the tests: made in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastxfer.dataset.compare import Known, Verdict
from fastxfer.dataset.entries import Entry
from fastxfer.dataset.ledger import Done, Ledger, Page, Place
from fastxfer.dataset.listing import Lister
from fastxfer.dataset.planning import Task
from fastxfer.errors import BadResponseError
from fastxfer.inputs.entry import Fault
from fastxfer.storage.digest import make_hasher

SOURCE = "http://127.0.0.1:9/set/"


def entry(path: str, size: int | None = 5, mtime: float | None = 1e9, line: int = 0) -> Entry:
    return Entry(path, SOURCE + path, size=size, mtime=mtime, line=line)


def listed(ledger: Ledger, entries: Iterable[Entry], refused: Iterable[Fault] = ()) -> None:
    """Lists these, all on one page, to the end."""
    assert not ledger.begin_listing(SOURCE, "root")
    (place,) = ledger.waiting(9)
    ledger.record(place, Page(tuple(entries), tuple(refused)))
    ledger.listed(place)
    assert ledger.end_listing()


def fetched(ledger: Ledger, dest: Path, entries: Iterable[Entry], data: bytes = b"bytes") -> None:
    """Has these files at the destination as if they had been fetched."""
    done = []
    for each in entries:
        path = dest / each.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (each.mtime or 0, each.mtime or 0))
        known = Known(len(data), path.stat().st_mtime_ns, '"v1"', each.mtime, each.checksums)
        done.append(Done(each, known))
    ledger.keep(done)
    ledger.synced()


def mirrored(
    dest: Path,
    files: Mapping[str, bytes],
    algorithms: Sequence[str] = ("crc64nvme",),
    told: Sequence[str] = (),
) -> None:
    """Has these files at the destination as a run leaves them: listed, kept, with checksums of `algorithms`;
    the listing tells those that are `told`.
    """
    with Ledger(dest) as ledger:
        entries = {}
        for path, data in files.items():
            sums = tuple((name, _digest(name, data)) for name in told)
            entries[path] = replace(entry(path, len(data)), checksums=sums)
        listed(ledger, entries.values())
        done = []
        for path, data in files.items():
            file = dest / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            os.utime(file, (1e9, 1e9))
            sums = tuple((name, _digest(name, data)) for name in algorithms)
            known = Known(len(data), file.stat().st_mtime_ns, '"v1"', 1e9, sums)
            done.append(Done(entries[path], known))
        ledger.keep(done)
        ledger.synced()


def flip(path: Path, at: int) -> None:
    """Flips a bit of a file, whose size and time stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _digest(algorithm: str, data: bytes) -> str:
    hasher = make_hasher(algorithm)
    hasher.update(data)
    return hasher.hexdigest()


@dataclass(slots=True)
class Tally:
    """How many entries, and bytes of those that tell their size."""

    new: int = 0
    changed: int = 0
    same: int = 0
    unsure: int = 0
    bytes: int = 0
    unsized: int = 0

    def add(self, task: Task) -> None:
        """Counts a task."""
        name = task.finding.verdict.value
        setattr(self, name, getattr(self, name) + 1)
        if task.finding.verdict in (Verdict.NEW, Verdict.CHANGED):
            self.bytes += task.entry.size or 0
            self.unsized += task.entry.size is None


class Cut:
    """A Lister that is left after some pages, as by who has enough."""

    def __init__(self, whole: Lister, after: int) -> None:
        self.source, self.root, self.terms = whole.source, whole.root, whole.terms
        self._whole, self._after = whole, after

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        given = self._whole.list(place)
        for _ in range(self._after):
            yield next(given)
        given.close()  # type: ignore[attr-defined]
        raise BadResponseError("enough")
