"""The database of a mirrored set's ledger: its tables, the lock that keeps others out, and what its rows
mean.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from fastxfer.database import Database, Kind
from fastxfer.dataset.compare import Known
from fastxfer.dataset.entries import OWN_FOLDER, Entry
from fastxfer.errors import LedgerError, TargetBusyError, storage_error
from fastxfer.names import folded
from fastxfer.storage.directory import Directory

NAME = "mirror.db"
ROWS = 1000
"""Rows that are read, or written, at once."""
_CACHE_KIB = 32 * 1024

ENTRY = "place, line, url, mirrors, size, mtime, mtime_exact, etag, checksums, shown, options"
KNOWN = (
    "size, mtime_ns, etag, modified, checksums, listed_size, listed_mtime, listed_etag, listed_shown, synced"
)

SCHEMA = {
    "listing": """CREATE TABLE listing (
    source TEXT NOT NULL,
    terms TEXT NOT NULL,
    begun REAL NOT NULL,
    ended REAL,
    checked INTEGER NOT NULL DEFAULT 0
)""",
    "places": """CREATE TABLE places (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    above INTEGER,
    depth INTEGER NOT NULL,
    cursor TEXT,
    digest TEXT,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'listed', 'failed')),
    error TEXT
)""",
    "entries": """CREATE TABLE entries (
    key TEXT NOT NULL,
    path TEXT NOT NULL,
    place INTEGER NOT NULL,
    line INTEGER NOT NULL,
    url TEXT NOT NULL,
    mirrors TEXT,
    size INTEGER,
    mtime REAL,
    mtime_exact INTEGER NOT NULL,
    etag TEXT,
    checksums TEXT,
    shown TEXT NOT NULL,
    options TEXT,
    state TEXT NOT NULL DEFAULT 'listed' CHECK (state IN ('listed', 'done', 'failed', 'refused')),
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key, path)
) WITHOUT ROWID""",
    "refused": """CREATE TABLE refused (
    id INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    line INTEGER NOT NULL,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    UNIQUE (place, line, name)
)""",
    # `synced`: 0 not yet, by the run that goes on; 1 on the disk; 2 not, by one that was killed; -1 doubted.
    "kept": """CREATE TABLE kept (
    key TEXT NOT NULL,
    path TEXT NOT NULL,
    source TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    etag TEXT,
    modified REAL,
    checksums TEXT,
    listed_size INTEGER,
    listed_mtime REAL,
    listed_etag TEXT,
    listed_shown TEXT NOT NULL,
    synced INTEGER NOT NULL,
    url TEXT NOT NULL,
    PRIMARY KEY (key, path)
) WITHOUT ROWID""",
    "runs": """CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    begun REAL NOT NULL,
    ended REAL,
    boot TEXT NOT NULL,
    report TEXT
)""",
    "entries_of_note": "CREATE INDEX entries_of_note ON entries (state) WHERE state IN ('failed', 'refused')",
    "kept_unsynced": "CREATE INDEX kept_unsynced ON kept (synced) WHERE synced = 0",
    "places_waiting": "CREATE INDEX places_waiting ON places (state, id)",
}


BY_SIZE = "CREATE INDEX entries_by_size ON entries (-coalesce(size, -1), key, path)"
"""An index that is there once a run has begun with the largest."""


class LedgerFile(Database):
    """The database below a ledger."""

    kind = Kind(
        name="ledger",
        application_id=0x66786D73,  # "fxms"
        version=1,
        schema=SCHEMA,
        error=LedgerError,
        where_else="",
        harm="what a run deletes",
        remedy="run it again: the files stay, and each is compared with the source once",
        # A commit is in the system's hands, as kills need it; checkpoints of the WAL are synced. What a power
        # cut takes from the ledger is compared with the source again.
        pragmas={"page_size": 8192, "synchronous": "NORMAL", "cache_size": -_CACHE_KIB},
    )

    def _schema(self) -> dict[str, str]:
        return {name: sql for name, sql in super()._schema().items() if sql != BY_SIZE}


INSERT = f"""INSERT INTO entries (key, path, {ENTRY}) VALUES ({",".join("?" * 13)})
ON CONFLICT (key, path) DO UPDATE SET
    state = CASE WHEN (place = excluded.place AND line = excluded.line) OR (url = excluded.url
        AND size IS excluded.size AND checksums IS excluded.checksums) THEN state ELSE 'refused' END,
    error = CASE WHEN (place = excluded.place AND line = excluded.line) OR (url = excluded.url
        AND size IS excluded.size AND checksums IS excluded.checksums) THEN error
        ELSE 'two different entries have this path' END,
    place = excluded.place, line = excluded.line, url = excluded.url, mirrors = excluded.mirrors,
    size = excluded.size, mtime = excluded.mtime, mtime_exact = excluded.mtime_exact, etag = excluded.etag,
    checksums = excluded.checksums, shown = excluded.shown, options = excluded.options"""

# A file that was found unchanged and not read keeps the checksums that are known of it.
_UNCHANGED = (
    "excluded.checksums IS NULL AND synced >= 0 AND (size, mtime_ns) = (excluded.size, excluded.mtime_ns)"
)
_NEW = ", ".join(
    f"{name} = excluded.{name}" for name in f"source, {KNOWN}, url".split(", ") if name != "checksums"
)
KEEP = f"""INSERT INTO kept (key, path, source, {KNOWN}, url) VALUES ({",".join("?" * 14)})
ON CONFLICT (key, path) DO UPDATE SET
    checksums = CASE WHEN {_UNCHANGED} THEN checksums ELSE excluded.checksums END, {_NEW}"""


def row_of(entry: Entry, place: int) -> tuple[Any, ...]:
    """Returns the values that INSERT takes."""
    return (
        folded(entry.path), entry.path, place, entry.line, entry.url,
        json.dumps(entry.mirrors) if entry.mirrors else None,
        entry.size, entry.mtime, entry.mtime_exact, entry.etag, written(entry.checksums), entry.shown,
        json.dumps(dict(entry.options)) if entry.options else None,
    )  # fmt: skip


def entry_of(row: tuple[Any, ...]) -> Entry:
    """Returns the entry of a row that begins with key, path, and the columns of ENTRY."""
    _, path, _, line, url, mirrors, size, mtime, exact, etag, checksums, shown, options = row[:13]
    return Entry(
        path,
        url,
        tuple(json.loads(mirrors)) if mirrors else (),
        size,
        mtime,
        bool(exact),
        etag,
        _read(checksums),
        shown,
        json.loads(options) if options else {},
        line,
    )


def known_row(entry: Entry, known: Known) -> tuple[Any, ...]:
    """Returns the columns of KNOWN for a file that was just done, as `entry` lists it."""
    return (
        known.size, known.mtime_ns, known.etag, known.modified, written(known.checksums),
        entry.size, entry.mtime, entry.etag, entry.shown, 0,
    )  # fmt: skip


def known_of(row: tuple[Any, ...]) -> Known:
    """Returns what the columns of KNOWN say."""
    size, mtime_ns, etag, modified, checksums, l_size, l_mtime, l_etag, l_shown, synced = row
    return Known(
        size, mtime_ns, etag, modified, _read(checksums), l_size, l_mtime, l_etag, l_shown, synced < 0
    )


def written(checksums: tuple[tuple[str, str], ...]) -> str | None:
    """Returns checksums as a column has them."""
    return " ".join(f"{name}:{digest}" for name, digest in checksums) or None


def _read(text: str | None) -> tuple[tuple[str, str], ...]:
    if not text:
        return ()
    return tuple((name, digest) for name, _, digest in (each.partition(":") for each in text.split(" ")))


def as_text(outside: str) -> str:
    """Returns a text that SQLite takes: what is not Unicode is escaped, and a long one cut."""
    return outside[:2048].encode("utf-8", "backslashreplace").decode()


def locked(dest: Path) -> int:
    """Returns a descriptor of the ledger's lock file, locked; the folders are made, and no symbolic link is
    followed below the destination. Raises StorageError and TargetBusyError.
    """
    try:
        dest.mkdir(parents=True, exist_ok=True)
        folder = Directory.open(dest).walk([OWN_FOLDER], create=True)
        folder.look(NAME)
        fd = folder.open_file("mirror.lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise storage_error(f"open the ledger in {dest / OWN_FOLDER}", error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise TargetBusyError(f"another process mirrors to {dest}; wait for its end, or stop it") from None
    except OSError as error:
        os.close(fd)
        raise storage_error(f"lock the ledger in {dest / OWN_FOLDER}", error) from error
    return fd
