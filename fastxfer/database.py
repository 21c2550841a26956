"""A database of ours: an SQLite file in WAL mode, that only its owner may read.

Every change is one transaction that begins with the right to write (BEGIN IMMEDIATE), so that what it read is
still so when it writes. What SQLite says is translated here, once. The file is not trusted: its schema must
be exactly the one of its kind, and a version that is not known is refused. The queue and the ledger of a
mirrored set are such files.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from fastxfer.errors import DiskFullError, FastxferError, StorageError, storage_error

BUSY_S = 10.0
_D = TypeVar("_D", bound="Database")

# SQLite's primary result codes (sqlite.org/rescode.html).
_BUSY, _LOCKED, _READONLY, _IOERR, _FULL, _CANTOPEN, _PERM, _NOMEM = 5, 6, 8, 10, 13, 14, 3, 7
_SYSTEM = {
    _BUSY: "another process keeps it locked; end that process, or try again",
    _LOCKED: "another process keeps it locked; end that process, or try again",
    _READONLY: "it cannot be written: check its permissions, and whether the disk is mounted read-only",
    _PERM: "it cannot be written: check its permissions",
    _CANTOPEN: "it cannot be opened: check that its directory may be written to and is not mounted read-only",
    _IOERR: "the disk fails: look at the kernel's log, and run it again",
    _NOMEM: "there is not enough memory",
}
_NAMEABLE = {_READONLY, _CANTOPEN}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a database is of.

    Attributes:
        name: what it is called in messages.
        application_id, version: what SQLite keeps in its header, and what is refused if it differs.
        schema: the statement of each table and index, by its name.
        error: what is raised for a file that cannot be used, with exit code 8.
        where_else: how another file is named, "" if it cannot be.
        harm: what somebody could do who can write it.
        remedy: what helps where it is damaged.
        pragmas: settings of a connection; `page_size` counts only while the file is made.
    """

    name: str
    application_id: int
    version: int
    schema: Mapping[str, str]
    error: type[FastxferError]
    where_else: str
    harm: str
    remedy: str
    pragmas: Mapping[str, str | int] = field(default_factory=dict)


class Database:
    """A connection to the database at `path`, for one thread. Use it as a context manager.

    Raises StorageError for what the system refuses, its kind's error for a file that is damaged, of another
    version or of no such kind.
    """

    kind: ClassVar[Kind]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._called = f"{self.kind.name} {path}"
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

    def __enter__(self: _D) -> _D:
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
        """Reads it all once. Raises FastxferError when it is damaged."""
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
            raise storage_error(f"create the {self._called}", error) from error
        try:
            there = os.stat(self.path)
            if not stat.S_ISREG(there.st_mode):
                raise StorageError(f"cannot use the {self._called}: it is no regular file; name another one")
            if there.st_uid != os.geteuid():
                raise StorageError(
                    f"cannot use the {self._called}: it is another user's, and who writes a "
                    f"{self.kind.name} says {self.kind.harm}; use one of your own"
                )
            for beside in ("", "-wal", "-shm"):
                _close_to_others(f"{self.path}{beside}")
        except OSError as error:
            raise storage_error(f"open the {self._called}", error) from error

    def _open(self) -> None:
        db = self._db
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA synchronous = FULL")
        for name, value in self.kind.pragmas.items():
            db.execute(f"PRAGMA {name} = {value}")
        if not self._schema():
            self._use_wal()
            with self.change():
                if not self._schema():
                    self._create()
        self._refuse_other_kinds()
        self._use_wal()

    def _schema(self) -> dict[str, str]:
        found = self._db.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'"
        )
        return {str(name): str(sql) for name, sql in found}

    def _create(self) -> None:
        for statement in self.kind.schema.values():
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {self.kind.application_id}")
        self._db.execute(f"PRAGMA user_version = {self.kind.version}")

    def _refuse_other_kinds(self) -> None:
        (kind,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if kind != self.kind.application_id:
            raise self.kind.error(
                f"{self.path} is a database of something else, not a {self.kind.name}; name another file"
            )
        if version != self.kind.version:
            raise self.kind.error(
                f"the {self._called} is of version {version}, and this fastxfer knows {self.kind.version}: "
                f"use the fastxfer that made it, or a newer one{self._or_name_another}"
            )
        if self._schema() != self.kind.schema:
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
            return DiskFullError(f"cannot write the {self._called}: the disk is full; free some space")
        if code in _SYSTEM:
            else_where = self._or_name_another if code in _NAMEABLE else ""
            return StorageError(f"cannot use the {self._called}: {_SYSTEM[code]}{else_where}")
        if code == 0 and isinstance(error, sqlite3.OperationalError):  # Python 3.10 tells no code
            return StorageError(f"cannot use the {self._called}: it is locked, or cannot be read or written")
        return self._damaged()

    def _damaged(self) -> FastxferError:
        return self.kind.error(
            f"the {self._called} is damaged, or no {self.kind.name}: move it away, with its -wal and -shm, "
            f"and {self.kind.remedy}"
        )

    @property
    def _or_name_another(self) -> str:
        where = self.kind.where_else
        return f", or name another {self.kind.name} ({where})" if where else ""


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
