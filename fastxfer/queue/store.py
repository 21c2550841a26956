"""The queue's database: an SQLite file in WAL mode, that only its owner may read.

Every change is one transaction that begins with the right to write (BEGIN IMMEDIATE), so that what it read is
still so when it writes; every commit is synced. What SQLite says is translated here, once. The file is not
trusted: its schema must be exactly this one, and a version that is not known is refused.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any
from urllib.parse import quote

from fastxfer.errors import DiskFullError, FastxferError, QueueError, StorageError, storage_error

APPLICATION_ID = 0x66786671  # "fxfq"
VERSION = 1
BUSY_S = 10.0

SCHEMA = {
    "items": """CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled')),
    priority INTEGER NOT NULL,
    url TEXT NOT NULL,
    mirrors TEXT NOT NULL,
    path TEXT NOT NULL,
    below TEXT,
    options TEXT NOT NULL,
    expected INTEGER,
    size INTEGER,
    done INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    added REAL NOT NULL,
    begun REAL,
    ended REAL,
    owner TEXT
)""",
    "runners": """CREATE TABLE runners (
    token TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    space TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    heartbeat REAL NOT NULL
)""",
    "items_in_order": "CREATE INDEX items_in_order ON items (state, priority DESC, id)",
    "items_owned": "CREATE INDEX items_owned ON items (owner) WHERE owner IS NOT NULL",
    "items_one_a_target": "CREATE UNIQUE INDEX items_one_a_target ON items (path) "
    "WHERE state IN ('queued', 'running', 'paused')",
}

# SQLite's primary result codes (sqlite.org/rescode.html).
_BUSY, _LOCKED, _READONLY, _IOERR, _FULL, _CANTOPEN, _PERM, _NOMEM = 5, 6, 8, 10, 13, 14, 3, 7
_SYSTEM = {
    _BUSY: "another process keeps it locked; end that process, or try again",
    _LOCKED: "another process keeps it locked; end that process, or try again",
    _READONLY: "it cannot be written: check its permissions, and whether the disk is mounted read-only, or "
    "name another queue (FASTXFER_QUEUE)",
    _PERM: "it cannot be written: check its permissions",
    _CANTOPEN: "it cannot be opened: check that its directory may be written to and is not mounted "
    "read-only, or name another queue (FASTXFER_QUEUE)",
    _IOERR: "the disk fails: look at the kernel's log, and run it again",
    _NOMEM: "there is not enough memory",
}


class Store:
    """A connection to the database at `path`, for one thread. Use it as a context manager.

    Raises StorageError for what the system refuses, QueueError for a file that is damaged, of another version
    or no queue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._translated():
            self._prepare_file()
            uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=rw"
            self._db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            with self._translated():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def rows(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """Returns the rows that a statement gives."""
        with self._translated():
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which is committed and on disk when the block has ended, or did not happen."""
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def version(self) -> int:
        """Returns a number that changes when another connection has changed the database."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def check(self) -> None:
        """Reads it all once. Raises QueueError when it is damaged."""
        if [row[0] for row in self.rows("PRAGMA quick_check(1)")] != ["ok"]:
            raise self._damaged()

    # ---- opening ----

    def _prepare_file(self) -> None:
        """Sees that only its owner may read the file, before there is anything in it."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass  # it is not opened here: closing it would take the locks of other connections away
        except OSError as error:
            raise storage_error(f"create the queue {self.path}", error) from error
        try:
            there = os.stat(self.path)
            if not stat.S_ISREG(there.st_mode):
                raise StorageError(
                    f"cannot use the queue {self.path}: it is no regular file; name another one"
                )
            if there.st_uid != os.geteuid():
                raise StorageError(
                    f"cannot use the queue {self.path}: it is another user's, and who writes a queue says "
                    "what is run; use one of your own"
                )
            for beside in ("", "-wal", "-shm"):
                _close_to_others(f"{self.path}{beside}")
        except OSError as error:
            raise storage_error(f"open the queue {self.path}", error) from error

    def _open(self) -> None:
        db = self._db
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA synchronous = FULL")
        if not self._schema():
            self._use_wal()
            with self.change():
                if not self._schema():
                    self._create()
        self._refuse_what_is_no_queue()
        self._use_wal()

    def _schema(self) -> dict[str, str]:
        found = self._db.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'"
        )
        return {str(name): str(sql) for name, sql in found}

    def _create(self) -> None:
        for statement in SCHEMA.values():
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _refuse_what_is_no_queue(self) -> None:
        (kind,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if kind != APPLICATION_ID:
            raise QueueError(f"{self.path} is a database of something else, not a queue; name another file")
        if version != VERSION:
            raise QueueError(
                f"the queue {self.path} is of version {version}, and this fastxfer knows {VERSION}: use the "
                "fastxfer that made it, or a newer one, or name another queue (FASTXFER_QUEUE)"
            )
        if self._schema() != SCHEMA:
            raise self._damaged()

    def _use_wal(self) -> None:
        """Switches to WAL, which a file then stays in. Where it cannot be (a network) it works without."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite does not wait for others here.
                if _code(error) not in (_BUSY, _LOCKED, 0) or time.monotonic() > until:
                    raise
            Event().wait(0.02)

    # ---- errors ----

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # whoever writes knows what it means
        except sqlite3.Error as error:
            raise self._typed(error) from error

    def _typed(self, error: sqlite3.Error) -> FastxferError:
        code = _code(error)
        if code == _FULL:
            return DiskFullError(f"cannot write the queue {self.path}: the disk is full; free some space")
        if code in _SYSTEM:
            return StorageError(f"cannot use the queue {self.path}: {_SYSTEM[code]}")
        if code == 0 and isinstance(error, sqlite3.OperationalError):  # Python 3.10 tells no code
            return StorageError(
                f"cannot use the queue {self.path}: it is locked, or cannot be read or written"
            )
        return self._damaged()

    def _damaged(self) -> QueueError:
        return QueueError(
            f"the queue {self.path} is damaged, or no queue: move it away, with its -wal and -shm, and add "
            "its items again; the files, and what is kept of unfinished ones, are not touched by that"
        )


def _close_to_others(path: str) -> None:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            os.chmod(path, mode & ~0o077)
    except FileNotFoundError:
        pass


def _code(error: sqlite3.Error) -> int:
    """Returns the primary result code; 0 before Python 3.11."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
