"""What stands below a prefix of a store, as it was listed once: looked up by path, and held on the disk, for
as long as a run takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from fastxfer.database import Database, Kind
from fastxfer.dataset.compare import Local
from fastxfer.dataset.entries import Entry
from fastxfer.errors import LedgerError
from fastxfer.plan.parts import unquoted

_CACHE_KIB = 8 * 1024


class Stands(NamedTuple):
    """An object that stands there; `etag` is without quotes, "" where the store tells none."""

    size: int
    etag: str

    @property
    def local(self) -> Local:
        """It as `compare` takes it."""
        return Local(self.size, stamp_of(self.etag))


def stamp_of(etag: str) -> int:
    """Returns 63 bits that stand for an ETag, where a file has its time: another object has others."""
    return int.from_bytes(sha256(unquoted(etag).encode()).digest()[:8], "big") >> 1


class Standing(Database):
    """See the module; `path` is made anew, and removed by `close`. For one thread. Raises as Database."""

    kind = Kind(
        name="list of the destination",
        application_id=0x66786473,  # "fxds"
        version=1,
        schema={
            "objects": "CREATE TABLE objects (path TEXT PRIMARY KEY, size INTEGER NOT NULL, "
            "etag TEXT NOT NULL) WITHOUT ROWID"
        },
        error=LedgerError,
        where_else="state_dir= (--state-dir)",
        harm="what a run copies",
        remedy="run it again: it is made anew each time",
        pragmas={"synchronous": "OFF", "cache_size": -_CACHE_KIB},
    )

    def __init__(self, path: Path) -> None:
        _remove(path)
        super().__init__(path)

    def add(self, entries: Iterable[Entry]) -> None:
        """Writes down what was listed."""
        rows: list[tuple[Any, ...]] = [
            (each.path, each.size or 0, unquoted(each.etag or "")) for each in entries
        ]
        with self.change() as db:
            db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", rows)

    def look(self, path: str) -> Stands | None:
        """Returns what stands at a path, None for nothing."""
        rows = self.rows("SELECT size, etag FROM objects WHERE path = ?", path)
        return Stands(*rows[0]) if rows else None

    def close(self) -> None:
        """See Database."""
        super().close()
        _remove(self.path)


def _remove(path: Path) -> None:
    for beside in ("", "-wal", "-shm"):
        with suppress(OSError):  # what may not be removed cannot be opened either, which is told then
            os.unlink(f"{path}{beside}")
