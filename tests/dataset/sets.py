"""Listings and ledgers for the tests: made in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fastxfer.dataset.compare import Known
from fastxfer.dataset.entries import Entry
from fastxfer.dataset.ledger import Done, Ledger, Page
from fastxfer.inputs.entry import Fault

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
