"""A folder as the destination of a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastxfer.dataset.compare import Known, Local, Verdict
from fastxfer.dataset.entries import Entry, options_of
from fastxfer.dataset.planning import Here, Task
from fastxfer.dataset.results import Came
from fastxfer.errors import FastxferError, InterruptedTransferError, storage_error
from fastxfer.options import TransferOptions
from fastxfer.plan.dates import http_time
from fastxfer.small import Fetched, SmallObjects, Wanted
from fastxfer.small.items import Outcome
from fastxfer.storage.digest import digest_fd
from fastxfer.storage.directory import Directory

LARGE_AT_ONCE = 2


class Folder:
    """A Destination: the folder `dest`, which the ledger has made. `given` are keywords of `fetch`. With 0
    `jobs` there are never more than `connections` requests: large objects come one by one, after the small
    ones.
    """

    def __init__(self, dest: str | os.PathLike[str], given: Mapping[str, Any], jobs: int | None) -> None:
        self.folder = Path(os.path.abspath(dest))
        self.name = str(self.folder)
        self._given = given
        self._jobs = LARGE_AT_ONCE if jobs is None else jobs
        self._options = TransferOptions.build(**given)
        self._small: SmallObjects | None = None
        self._stopped = False
        self._here: Here | None = None
        self._after: Here | None = None
        self._out: dict[str, Task] = {}

    def prepare(self) -> None:
        """See Destination."""
        try:
            self._here, self._after = Here(self.folder), Here(self.folder)
        except OSError as error:
            raise storage_error(f"open the directory {self.folder}", error) from error

    def look(self, path: str) -> Local | None:
        """See Destination."""
        assert self._here is not None
        return self._here.look(path)

    # ---- fetching ----

    def fetch(self, tasks: Iterator[Task], synced: Callable[[], object]) -> Generator[Came, None, None]:
        """See Destination."""
        self._small = small = SmallObjects(
            self.folder, self._options, synced=synced, large_at_once=self._jobs
        )
        if self._stopped:
            raise InterruptedTransferError("the run was stopped; run it again to go on")
        there: list[Came] = []
        for outcome in small.fetch(self._wanted(tasks, there)):
            yield from self._drained(there)
            yield self._came(outcome)
        yield from self._drained(there)

    def _drained(self, there: list[Came]) -> Iterator[Came]:
        while there:
            yield there.pop()

    def _wanted(self, tasks: Iterator[Task], there: list[Came]) -> Iterator[Wanted]:
        """Gives what is to be fetched; what turns out to be here goes to `there`, as does what fails."""
        for task in tasks:
            try:
                wanted = self._want(task)
            except FastxferError as error:
                there.append(Came(task.entry, error=error))
                continue
            if isinstance(wanted, Came):
                there.append(wanted)
                continue
            self._out[task.entry.path] = task
            yield wanted

    def _want(self, task: Task) -> Wanted | Came:
        entry, finding = task
        if finding.verdict is Verdict.UNSURE and entry.checksums:
            known = self._proven(entry)
            if known is not None:
                return Came(entry, known, skipped=True)
        own = None
        if entry.options or entry.stranger:
            own = TransferOptions.build(**options_of(entry, self._given))
        return Wanted(
            entry.url,
            entry.path,
            entry.size,
            entry.checksums,
            entry.mirrors,
            finding.verdict is Verdict.CHANGED,
            own,
        )

    def _proven(self, entry: Entry) -> Known | None:
        """Returns what is known of a file that was read and has the checksums of its entry, else None."""
        assert self._here is not None
        try:
            folder, name = self._here.reach(entry.path)
            with folder.reading(name) as fd:
                before = os.fstat(fd)
                if entry.size is not None and before.st_size != entry.size:
                    return None
                found = digest_fd(fd, self.folder / entry.path, [each for each, _ in entry.checksums])
                after = os.fstat(fd)
        except (FastxferError, OSError):
            return None
        if found != dict(entry.checksums) or after.st_mtime_ns != before.st_mtime_ns:
            return None
        return Known(after.st_size, after.st_mtime_ns, checksums=entry.checksums)

    def _came(self, outcome: Outcome) -> Came:
        entry = self._out.pop(outcome.wanted.name).entry
        if not isinstance(outcome, Fetched):
            return Came(entry, error=outcome.error)
        assert self._after is not None
        local = self._after.look(entry.path)
        if local is None or local.size != outcome.size:
            gone = FastxferError("its file was changed or removed by somebody else meanwhile; run it again")
            return Came(entry, error=gone)
        known = Known(
            local.size,
            local.mtime_ns,
            outcome.etag,
            http_time(outcome.last_modified),
            _checksums(entry, outcome),
        )
        return Came(
            entry, known, None, 0 if outcome.skipped else outcome.size, outcome.skipped, outcome.seconds
        )

    @property
    def idle(self) -> bool:
        """See Destination."""
        return self._small is not None and self._small.idle

    @property
    def requests(self) -> int:
        """See Destination."""
        return 0 if self._small is None else self._small.requests

    def moving(self) -> list[tuple[str, float, int]]:
        """See Destination."""
        return [] if self._small is None else self._small.moving()

    # ---- deleting ----

    def delete(self, path: str) -> None:
        """See Destination."""
        *folders, name = path.split("/")
        with_name = Directory.open(self.folder)
        above = [with_name]
        try:
            for folder in folders:
                above.append(above[-1].walk([folder]))
            above[-1].look(name)
            above[-1].remove(name)
            for at in range(len(folders), 0, -1):
                try:
                    os.rmdir(folders[at - 1], dir_fd=above[at - 1].fd)
                except OSError:
                    return  # it is not empty, or somebody else's
        finally:
            for each in above:
                each.close()

    def stop(self) -> None:
        """See Destination."""
        self._stopped = True
        if self._small is not None:
            self._small.stop()

    def close(self) -> None:
        """See Destination."""
        self._here = self._after = None


def _checksums(entry: Entry, outcome: Fetched) -> tuple[tuple[str, str], ...]:
    """Returns what is known of the bytes: the CRC of what came, and what they were held against."""
    held = dict(entry.checksums) if outcome.verified == "checksum" else {}
    if outcome.crc64 is not None:
        held["crc64nvme"] = f"{outcome.crc64:016x}"
    return tuple(held.items())
