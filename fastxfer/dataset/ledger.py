"""The ledger of a mirrored set: one SQLite file, `.fastxfer/mirror.db` below the destination.

It has two halves. What the *source* has: `places` (an index's folders, a store's prefix, a manifest) with
how far each was listed, the `entries` found there, and what was `refused`. What is *kept* at the destination:
each file that was done, with the identity that it came with. A listing begins with an empty first half; the
second one stays. So what is there to do is one ordered walk over both (`steps`), what vanished another
(`vanished`), and neither needs memory that grows with the set.

Rows are written in transactions of a page of a listing, or a group of files that were done. A kill at any
moment leaves whole transactions. A listing goes on with the places that were not listed to their end, each
from its cursor. A file that was done, and of which the ledger was not told, is found at the destination and
asked for by one request.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from fastxfer.dataset.compare import Known
from fastxfer.dataset.entries import OWN_FOLDER, Entry
from fastxfer.dataset.ledger_file import (
    BY_SIZE,
    ENTRY,
    INSERT,
    KEEP,
    KNOWN,
    NAME,
    ROWS,
    LedgerFile,
    as_text,
    entry_of,
    known_of,
    known_row,
    locked,
    row_of,
    written,
)
from fastxfer.errors import LedgerError, StorageError
from fastxfer.inputs.entry import Fault
from fastxfer.names import folded
from fastxfer.storage.checkpoint import boot_id


class Place(NamedTuple):
    """What is still to be listed: a folder of an index, a prefix, a manifest; `cursor` is where to go on."""

    id: int
    name: str
    depth: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what a place has. Where `cursor` is not None a listing can go on from it, behind this page.

    `digest` is of all that the place has, on its last page: a place that repeats what is above it is a loop.
    """

    entries: Sequence[Entry] = ()
    refused: Sequence[Fault] = ()
    places: Sequence[str] = ()
    cursor: str | None = None
    digest: str | None = None


class Done(NamedTuple):
    """An object that was fetched, and what is known of it now."""

    entry: Entry
    known: Known


class Totals(NamedTuple):
    """How many entries there are, the bytes of those that tell their size, and how many do not."""

    entries: int
    bytes: int
    unsized: int


class Step(NamedTuple):
    """An entry of the source, and what is known of its file."""

    entry: Entry
    known: Known | None


class Ledger:
    """The ledger of the destination `dest`, which is made. One process may have it; use it as a context
    manager, on one thread.

    Raises TargetBusyError when another process mirrors there, LedgerError, StorageError.
    """

    def __init__(self, dest: str | os.PathLike[str]) -> None:
        self._lock = locked(Path(dest))
        try:
            self.file = LedgerFile(Path(dest) / OWN_FOLDER / NAME)
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def existing(cls, dest: str | os.PathLike[str]) -> Ledger:
        """Opens the ledger that is there, and makes none. Raises StorageError where there is none, and as
        `Ledger` does.
        """
        if not os.path.lexists(Path(dest) / OWN_FOLDER / NAME):
            raise StorageError(
                f"nothing is there to verify: {os.fspath(dest)} is a directory without {OWN_FOLDER}/{NAME}, "
                "so that no set was mirrored to it"
            )
        return cls(dest)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, and lets others have it."""
        self.file.close()
        os.close(self._lock)

    # ---- the listing ----

    def begin_listing(
        self, source: str, root: str, terms: str = "", *, max_age_s: float = 86400.0, ended_age_s: float = 0.0
    ) -> bool:
        """Begins a listing of a source, at its place `root`, and returns False; or returns True where an
        unfinished one of the same source and terms (filters), not older than `max_age_s`, is to go on. So is
        one that was ended, if it is not older than `ended_age_s`.
        """
        rows = self.file.rows("SELECT source, terms, begun, ended FROM listing")
        same = bool(rows) and tuple(rows[0])[:2] == (source, terms)
        most_s = max_age_s if same and rows[0]["ended"] is None else ended_age_s
        if same and 0 <= time.time() - rows[0]["begun"] < most_s:
            with self.file.change() as db:  # what failed may have been a bad moment
                db.execute("UPDATE places SET state = 'waiting', error = NULL WHERE state = 'failed'")
            return True
        with self.file.change() as db:
            for table in ("listing", "places", "entries", "refused"):
                db.execute(f"DELETE FROM {table}")
            db.execute(
                "INSERT INTO listing (source, terms, begun) VALUES (?, ?, ?)", (source, terms, time.time())
            )
            db.execute("INSERT INTO places (name, depth) VALUES (?, 0)", (root,))
        return False

    def waiting(self, count: int, taken: Sequence[int] = ()) -> list[Place]:
        """Returns the next places to list, but for those that were taken already."""
        marks = ",".join("?" * len(taken))
        rows = self.file.rows(
            f"SELECT id, name, depth, cursor FROM places WHERE state = 'waiting' AND id NOT IN ({marks}) "
            "ORDER BY id LIMIT ?",
            *taken,
            count,
        )
        return [Place(*row) for row in rows]

    def record(self, place: Place, page: Page) -> None:
        """Writes down a page of a place, with where the listing can go on: all of it or nothing."""
        with self.file.change() as db:
            db.executemany(INSERT, [row_of(entry, place.id) for entry in page.entries])
            db.executemany(
                "INSERT OR IGNORE INTO refused (place, line, name, reason) VALUES (?, ?, ?, ?)",
                [(place.id, each.line, as_text(each.name), as_text(each.reason)) for each in page.refused],
            )
            db.executemany(
                "INSERT OR IGNORE INTO places (name, above, depth) VALUES (?, ?, ?)",
                [(name, place.id, place.depth + 1) for name in page.places],
            )
            db.execute(
                "UPDATE places SET cursor = ?, digest = coalesce(?, digest) WHERE id = ?",
                (page.cursor, page.digest, place.id),
            )

    def listed(self, place: Place) -> None:
        """Writes down that a place was listed to its end."""
        with self.file.change() as db:
            db.execute("UPDATE places SET state = 'listed' WHERE id = ?", (place.id,))

    def place_failed(self, place: Place, error: str) -> None:
        """Writes down that a place could not be listed: the listing is not complete."""
        with self.file.change() as db:
            db.execute("UPDATE places SET state = 'failed', error = ? WHERE id = ?", (error, place.id))

    def repeats(self, place: Place, digest: str) -> int:
        """Returns how many of the places above this one have the same in them."""
        rows = self.file.rows(
            "WITH RECURSIVE up (id, above, digest) AS ("
            "SELECT id, above, digest FROM places WHERE id = ? "
            "UNION ALL SELECT p.id, p.above, p.digest FROM places p JOIN up ON p.id = up.above) "
            "SELECT count(*) FROM up WHERE digest = ? AND id != ?",
            place.id,
            digest,
            place.id,
        )
        return int(rows[0][0])

    def end_listing(self) -> bool:
        """Returns whether all places were listed to their end; the listing is then complete, and ended."""
        rows = self.file.rows("SELECT count(*) FROM places WHERE state != 'listed'")
        if rows[0][0] != 0:
            return False
        with self.file.change() as db:
            db.execute("UPDATE listing SET ended = ? WHERE ended IS NULL", (time.time(),))
        return True

    @property
    def complete(self) -> bool:
        """Whether the entries are all that the source has."""
        rows = self.file.rows("SELECT ended FROM listing")
        return bool(rows) and rows[0]["ended"] is not None

    @property
    def source(self) -> str:
        """The source of the listing, "" before the first one."""
        rows = self.file.rows("SELECT source FROM listing")
        return str(rows[0]["source"]) if rows else ""

    # ---- what was refused or failed ----

    def unchecked(self) -> bool:
        """Returns whether the entries of a complete listing are still to be looked at for collisions."""
        return bool(self.file.rows("SELECT 1 FROM listing WHERE ended IS NOT NULL AND checked = 0"))

    def checked(self) -> None:
        """Writes down that all collisions among the entries were refused."""
        with self.file.change() as db:
            db.execute("UPDATE listing SET checked = 1")

    def names(self) -> Iterator[tuple[str, str]]:
        """Gives (folded path, path) of all entries, in this order."""
        for row in self._walk(
            "SELECT key, path FROM entries WHERE (key, path) > (?, ?) ORDER BY key, path LIMIT ?"
        ):
            yield row["key"], row["path"]

    def path_of(self, key: str) -> str | None:
        """Returns the path of an entry with this folded path, if there is one."""
        rows = self.file.rows("SELECT path FROM entries WHERE key = ? LIMIT 1", key)
        return str(rows[0]["path"]) if rows else None

    def path_below(self, key: str) -> str | None:
        """Returns the path of an entry in the folder of this folded path, if there is one."""
        rows = self.file.rows(
            "SELECT path FROM entries WHERE key > ? AND key < ? LIMIT 1", key + "/", key + "0"
        )
        return str(rows[0]["path"]) if rows else None

    def refuse(self, refusals: Iterable[tuple[str, str]]) -> None:
        """Refuses entries: (path, reason) each."""
        with self.file.change() as db:
            db.executemany(
                "UPDATE entries SET state = 'refused', error = ? WHERE key = ? AND path = ?",
                [(reason, folded(path), path) for path, reason in refusals],
            )

    def failed(self, failures: Iterable[tuple[str, str]]) -> None:
        """Writes down that entries could not be fetched: (path, error) each."""
        with self.file.change() as db:
            db.executemany(
                "UPDATE entries SET state = 'failed', error = ?, attempts = attempts + 1 "
                "WHERE key = ? AND path = ?",
                [(as_text(error), folded(path), path) for path, error in failures],
            )

    def refusals(self) -> Iterator[Fault]:
        """Gives all that was refused: what could not be an entry, and entries that collide."""
        last = 0
        while rows := self.file.rows(
            "SELECT id, name, reason, line FROM refused WHERE id > ? ORDER BY id LIMIT ?", last, ROWS
        ):
            last = rows[-1]["id"]
            yield from (Fault(row["name"], row["reason"], row["line"]) for row in rows)
        for row in self._of_state("refused"):
            yield Fault(row["path"], row["error"], row["line"])

    def places_failed(self) -> Iterator[tuple[str, str]]:
        """Gives (place, error) of what could not be listed."""
        for row in self.file.rows("SELECT name, error FROM places WHERE state = 'failed' ORDER BY id"):
            yield row["name"], row["error"]

    def failures(self) -> Iterator[tuple[str, str]]:
        """Gives (path or place, error) of what could not be listed or fetched."""
        yield from self.places_failed()
        for row in self._of_state("failed"):
            yield row["path"], row["error"]

    def _of_state(self, state: str) -> Iterator[Any]:
        return self._walk(
            "SELECT key, path, error, line FROM entries INDEXED BY entries_of_note "
            "WHERE state = ? AND state IN ('failed', 'refused') AND (key, path) > (?, ?) "
            "ORDER BY key, path LIMIT ?",
            state,
        )

    # ---- what is to be done ----

    def steps(self, *, failed: bool = False, largest: bool = False) -> Iterator[Step]:
        """Gives the entries that were neither done nor refused, each with what is known of its file: in the
        order of their keys, or the `largest` first, those of unknown size last. With `failed` only those that
        failed. Entries may be written to meanwhile.
        """
        known = ", ".join(f"k.{name}" for name in KNOWN.split(", "))
        listed = ", ".join(f"e.{name}" for name in ENTRY.split(", "))
        states = "('failed')" if failed else "('listed', 'failed')"
        size = "-coalesce(e.size, -1)" if largest else "0"
        if largest:
            with self.file.change() as db:
                db.execute(BY_SIZE.replace("INDEX", "INDEX IF NOT EXISTS"))
        statement = (
            f"SELECT e.key, e.path, {listed}, {known}, {size} FROM entries e "
            "LEFT JOIN kept k ON k.key = e.key AND k.path = e.path "
            f"WHERE e.state IN {states} AND {{after}} ORDER BY {f'{size}, ' if largest else ''}e.key, e.path "
            "LIMIT ?"
        )
        after = f"({size}, e.key, e.path) > (?, ?, ?)" if largest else "(e.key, e.path) > (?, ?)"
        last: tuple[Any, ...] = ("", "")
        if largest:
            last = (-(1 << 62), *last)
        while rows := self.file.rows(statement.format(after=after), *last, ROWS):
            last = (rows[-1]["key"], rows[-1]["path"])
            if largest:
                last = (rows[-1][len(rows[-1]) - 1], *last)
            for row in rows:
                known_row = tuple(row)[13:-1]
                yield Step(entry_of(tuple(row)), None if known_row[0] is None else known_of(known_row))

    def vanished(self) -> Iterator[tuple[str, Known]]:
        """Gives what is kept of this source and is no longer there, as (path, what is known of it). Where
        only the case differs from what is there now it may be the same file, and counts as that.

        Raises LedgerError when the listing is not complete: what was not seen is not gone.
        """
        if not self.complete:
            raise LedgerError("the listing is not complete, so that nobody can say what vanished")
        known = ", ".join(f"k.{name}" for name in KNOWN.split(", "))
        for row in self._walk(
            f"SELECT k.key, k.path, {known} FROM kept k WHERE k.source = ? AND (k.key, k.path) > (?, ?) "
            "AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.key = k.key) ORDER BY k.key, k.path LIMIT ?",
            self.source,
        ):
            yield row["path"], known_of(tuple(row)[2:])

    def counts(self) -> dict[str, int]:
        """Returns how many entries are in each state, and how many places wait or failed."""
        found = {
            row[0]: row[1] for row in self.file.rows("SELECT state, count(*) FROM entries GROUP BY state")
        }
        rows = self.file.rows("SELECT state, count(*) FROM places GROUP BY state")
        return {**found, **{f"places_{row[0]}": row[1] for row in rows}}

    def totals(self, states: Sequence[str]) -> Totals:
        """Returns how many entries are in these states, and what they come to."""
        rows = self.file.rows(
            "SELECT count(*), coalesce(sum(size), 0), count(*) - count(size) FROM entries "
            f"WHERE state IN ({','.join('?' * len(states))})",
            *states,
        )
        return Totals(*rows[0])

    # ---- what is kept ----

    def keep(self, done: Iterable[Done]) -> None:
        """Writes down files that were done, in one transaction. They count as synced only after `synced`."""
        source = self.source
        with self.file.change() as db:
            pairs = [(each, folded(each.entry.path)) for each in done]
            db.executemany(
                KEEP,
                [(key, each.entry.path, source, *known_row(*each), each.entry.url) for each, key in pairs],
            )
            db.executemany(
                "UPDATE entries SET state = 'done', error = NULL, attempts = attempts + 1 "
                "WHERE key = ? AND path = ?",
                [(key, each.entry.path) for each, key in pairs],
            )

    def forget(self, paths: Iterable[str]) -> None:
        """Takes files that were deleted out of what is kept."""
        with self.file.change() as db:
            db.executemany(
                "DELETE FROM kept WHERE key = ? AND path = ?", [(folded(path), path) for path in paths]
            )

    def synced(self) -> None:
        """Writes down that all files that this run has kept so far are on the disk: after a sync of their
        file system that began after the last `keep`. From then on they have their object's time.
        """
        with self.file.change() as db:
            db.execute(
                "UPDATE kept SET synced = 1, mtime_ns = coalesce(CAST(modified AS INTEGER) * 1000000000, "
                "mtime_ns) WHERE synced = 0"
            )

    def kept(self) -> Iterator[tuple[str, str, Known]]:
        """Gives (path, URL, what is known) of all files that are kept, in the order of their keys."""
        for row in self._walk(
            f"SELECT key, path, url, {KNOWN} FROM kept WHERE (key, path) > (?, ?) ORDER BY key, path LIMIT ?"
        ):
            yield row["path"], row["url"], known_of(tuple(row)[3:])

    def kept_totals(self) -> tuple[int, int]:
        """Returns how many files are kept, and their bytes."""
        (row,) = self.file.rows("SELECT count(*), coalesce(sum(size), 0) FROM kept")
        return int(row[0]), int(row[1])

    def doubt(self, paths: Iterable[str]) -> None:
        """Writes down that these files are damaged or missing: whatever stands there counts as changed, until
        it was fetched again, or `correct` says that it holds; also in the run that is going on.
        """
        rows = [(folded(path), path) for path in paths]
        with self.file.change() as db:
            db.executemany("UPDATE kept SET synced = -1 WHERE key = ? AND path = ?", rows)
            db.executemany(
                "UPDATE entries SET state = 'listed' WHERE key = ? AND path = ? AND state = 'done'", rows
            )

    def correct(self, files: Iterable[tuple[str, Known]]) -> None:
        """Writes down the time and checksums of files that were read, and that those are trusted again that
        are not `doubted` any more.
        """
        with self.file.change() as db:
            db.executemany(
                "UPDATE kept SET mtime_ns = ?, checksums = ?, "
                "synced = CASE WHEN synced < 0 AND NOT ? THEN 1 ELSE synced END WHERE key = ? AND path = ?",
                [
                    (known.mtime_ns, written(known.checksums), known.doubted, folded(path), path)
                    for path, known in files
                ],
            )

    # ---- runs ----

    def begin_run(self, source: str) -> int:
        """Writes down that a run begins; returns its number. What an earlier run under another boot of the
        machine has kept and not synced is doubted from now on: a power cut may have taken its bytes. What one
        under this boot has, which was killed, is set apart: its files are there, and no sync of this run has
        them dated.
        """
        boot = boot_id()
        with self.file.change() as db:
            before = db.execute("SELECT boot FROM runs ORDER BY id DESC LIMIT 1").fetchone()
            if before is not None and (before[0] != boot or not boot):
                db.execute("UPDATE kept SET synced = -1 WHERE synced IN (0, 2)")
            else:
                db.execute("UPDATE kept SET synced = 2 WHERE synced = 0")
            cursor = db.execute(
                "INSERT INTO runs (source, begun, boot) VALUES (?, ?, ?)", (source, time.time(), boot)
            )
            return int(cursor.lastrowid or 0)

    def stopped(self, source: str) -> bool:
        """Returns whether the last run was of this source, and was killed or stopped before its end."""
        rows = self.file.rows("SELECT source, ended FROM runs ORDER BY id DESC LIMIT 1")
        return bool(rows) and rows[0]["source"] == source and rows[0]["ended"] is None

    def end_run(self, run: int, report: dict[str, Any]) -> None:
        """Writes down what came of a run that came to its end."""
        with self.file.change() as db:
            db.execute(
                "UPDATE runs SET ended = ?, report = ? WHERE id = ?", (time.time(), json.dumps(report), run)
            )

    def _walk(self, statement: str, *values: Any) -> Iterator[Any]:
        """Gives the rows of a statement, a thousand at a time, each time from where the last ended: no
        statement stays open, so the tables may be written to meanwhile.
        """
        last = ("", "")
        while rows := self.file.rows(statement, *values, *last, ROWS):
            last = (rows[-1]["key"], rows[-1]["path"])
            yield from rows
