"""A large object that several workers fetch, each some ranges of it, into one file that they share.

    look -> ranges -> read back, where its CRC-64 is not enough -> its name

The file has all its bytes before it gets its name. Each range that is done is noted with its CRC-64, so that
a run that was killed goes on with the others; what an earlier run has noted is read back at the end, and held
against what was noted then.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastxfer._native.checksum import crc64nvme_combine
from fastxfer.dataset.compare import Known, Verdict
from fastxfer.dataset.entries import OWN_FOLDER
from fastxfer.dataset.planning import Task
from fastxfer.dataset.results import Came
from fastxfer.dataset.units import RANGES, Look, Looked, ReadBack, Stretch, Unit
from fastxfer.errors import ChecksumError, FastxferError, RemoteChangedError
from fastxfer.options import TransferOptions
from fastxfer.plan.dates import http_time
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity
from fastxfer.storage.checkpoint import boot_id
from fastxfer.storage.directory import Directory
from fastxfer.storage.shared_file import Note, SharedFile, target_at, unchanged_at

RANGE_BYTES = 32 << 20
MOST_RANGES = 4096
CRC = "crc64nvme"
CHANGES = 3
"""So often it is begun anew because the object has changed."""

Make = Callable[..., Unit]
"""Makes a unit: its kind, its entry, and its own fields by name."""


class CannotSplit(Exception):
    """The object is to be fetched as a whole."""


class Split:
    """See the module. All is called on the run's thread; `next_unit` gives what is to be run next, `ended`
    takes what came of one. It is over when `came` is set.
    """

    def __init__(self, task: Task, root: Path, options: TransferOptions, make: Make) -> None:
        self.task = task
        self.came: Came | None = None
        self.began_at = time.monotonic()
        self.fetched = 0
        """Bytes of the ranges that were fetched by this run."""
        self._root, self._options, self._make = root, options, make
        self._name = hashlib.sha256(task.entry.path.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._file: SharedFile | None = None
        self._identity = Identity()
        self._told: dict[str, str] = {}
        self._note: Note | None = None
        self._doubted = False
        self._waiting: list[int] = []
        self._out = 0
        self._changes = 0
        self._looks = True
        self._reads = False

    @property
    def path(self) -> str:
        """The path of its entry."""
        return self.task.entry.path

    # ---- what is to be run ----

    def next_unit(self) -> tuple[Unit, int] | None:
        """Returns a unit that can be run now, each once, with the number of its range or -1."""
        entry = self.task.entry
        url = entry.url
        if self.came is not None:
            return None
        if self._looks:
            self._looks = False
            return self._make(Look, entry, url=url), -1
        if self._waiting:
            number = self._waiting.pop()
            self._out += 1
            span = self._span(number)
            return self._make(
                Stretch, entry, url=url, name=self._name, span=span, identity=self._identity
            ), number
        if self._reads:
            self._reads = False
            algorithms = tuple(sorted({CRC, *self._held()}))
            return self._make(ReadBack, entry, name=self._name, algorithms=algorithms), -1
        return None

    def _span(self, number: int) -> Span:
        assert self._note is not None and self._identity.size is not None
        start = number * self._note.range_bytes
        return start, min(start + self._note.range_bytes, self._identity.size)

    def _held(self) -> dict[str, str]:
        """Returns the digests that its bytes must have."""
        return {**self._told, **dict(self.task.entry.checksums)}

    # ---- what came ----

    def ended(self, number: int, result: object) -> None:
        """Takes what came of a unit; `came` may be set then. Raises CannotSplit, FastxferError."""
        if self.came is not None:
            return
        if isinstance(result, Looked):
            self._looked(result)
        elif isinstance(result, dict):
            self._read_back(result)
        else:
            assert result is None or isinstance(result, int)
            self._out -= 1
            self._took(number, result)

    def fail(self, error: FastxferError) -> None:
        """Ends it; what came of it is kept for the next run."""
        self.came = self.came or Came(self.task.entry, error=error)

    def _looked(self, looked: Looked) -> None:
        entry, identity = self.task.entry, looked.identity
        if not looked.ranges:
            raise CannotSplit
        if identity.size != entry.size:
            raise RemoteChangedError(f"it has another object than was listed: {identity.size} bytes")
        always = self.task.finding.verdict is Verdict.CHANGED
        ignores = self._options.ignore_etag
        if not always and unchanged_at(self._root, entry.path, identity, ignore_etag=ignores):
            self._is_there(identity)
            return
        self._identity, self._told = identity, dict(looked.checksums)
        self._open(identity)

    def _is_there(self, identity: Identity) -> None:
        *folders, name = self.path.split("/")
        there = Directory.open(self._root).walk(folders).look(name)
        assert there is not None
        known = Known(there.st_size, there.st_mtime_ns, identity.etag, http_time(identity.last_modified))
        self.came = Came(self.task.entry, known, skipped=True)

    def _open(self, identity: Identity) -> None:
        """Makes the file, or takes up the one of an earlier run, and says what is missing."""
        size = identity.size
        assert size is not None
        own = Directory.open(self._root).walk([OWN_FOLDER, RANGES], create=True)
        self._file = SharedFile(own, self._name, size)
        left = self._file.note()
        synced = self._options.durability != "none"
        if left is not None and _is_of(left, self.path, identity, synced=synced):
            self._note, self._doubted = replace(left, boot=boot_id(), synced=synced), True
        else:
            self._note = Note(self.path, identity, _range_bytes(size), {}, boot_id(), synced)
        self._file.write_note(self._note)
        count = -(-size // self._note.range_bytes)
        self._waiting = [number for number in reversed(range(count)) if number not in self._note.done]
        if not self._waiting:
            self._finish()

    def _took(self, number: int, crc: int | None) -> None:
        """Writes a range down, and ends it all with the last one."""
        assert self._note is not None and self._file is not None
        if crc is None:
            self._waiting.clear()
            self._identity = Identity()
        elif self._identity.size is not None:
            self._note.done[number] = crc
            start, stop = self._span(number)
            self.fetched += stop - start
            self._file.write_note(self._note)
        if self._out or self._waiting:
            return
        if self._identity.size is None:
            self._begin_anew("the object has changed while it was fetched")
        else:
            self._finish()

    def _begin_anew(self, why: str) -> None:
        self._changes += 1
        if self._changes > CHANGES:
            raise RemoteChangedError(f"{why}, {self._changes} times; run it again")
        assert self._file is not None
        self._file.drop()
        self._file.close()
        self.fetched = 0
        self._doubted, self._looks = False, True

    def _finish(self) -> None:
        """Holds the CRCs against what is told, and has the file read back for what they do not answer."""
        crc = self._crc()
        held = self._held()
        if CRC in held and held[CRC] != crc:
            self._refuse(CRC, held[CRC], crc)
        elif self._doubted or held.keys() - {CRC}:
            self._reads = True
        else:
            self._publish()

    def _crc(self) -> str:
        assert self._note is not None
        crc = 0
        for number in range(len(self._note.done)):
            start, stop = self._span(number)
            crc = crc64nvme_combine(crc, self._note.done[number], stop - start)
        return f"{crc:016x}"

    def _read_back(self, found: dict[str, str]) -> None:
        if found[CRC] != self._crc():
            self._begin_anew("what an earlier run has left of it is damaged")
            return
        for name, expected in self._held().items():
            if found[name] != expected:
                self._refuse(name, expected, found[name])
                return
        self._publish()

    def _refuse(self, name: str, expected: str, actual: str) -> None:
        """The bytes are not those that it should have: nothing of them is kept."""
        assert self._file is not None
        self._file.drop()
        raise ChecksumError(
            f"the {name} of {self.path} is {actual}, not {expected}: the server has other bytes, or they "
            "were changed on the way",
            algorithm=name,
            expected=expected,
            actual=actual,
        )

    def _publish(self) -> None:
        assert self._file is not None
        target = target_at(self._root, self.path)
        self._file.publish(target, self._identity, durable=self._options.durability != "none")
        there = target.directory.look(target.name)
        assert there is not None
        identity = self._identity
        held = {**dict(self.task.entry.checksums), CRC: self._crc()}
        known = Known(
            there.st_size,
            there.st_mtime_ns,
            identity.etag,
            http_time(identity.last_modified),
            tuple(held.items()),
        )
        seconds = time.monotonic() - self.began_at
        self.came = Came(self.task.entry, known, None, self.fetched, False, seconds)

    def close(self) -> None:
        """Lets go of its file."""
        if self._file is not None:
            self._file.close()


def _range_bytes(size: int) -> int:
    """Returns how many bytes a range has: whole MiB, so that no two workers share a page."""
    return max(RANGE_BYTES, -(-size // MOST_RANGES) + (1 << 20) - 1 >> 20 << 20)


def _is_of(note: Note, path: str, identity: Identity, *, synced: bool) -> bool:
    """Returns whether a note is of this very object, and its bytes may be there."""
    same = (note.path, note.identity) == (path, identity)
    return same and (note.synced or note.boot == boot_id())
