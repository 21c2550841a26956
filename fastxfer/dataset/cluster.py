"""A folder as the destination of a set that many workers fetch: processes of this machine, or machines that
share the folder.

The run's thread cuts what is to be done into units (units.py): batches of small objects of one host, ranges
of large ones (split.py). It hands a few more in than there are workers (crews.py), takes what came as they
end, and alone writes the ledger. A unit whose worker died is handed in again. An object that another process
seems to be writing, as one may that is being killed, is tried again at the end, when no other unit is under
way.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from fastxfer.dataset.compare import Local, Verdict
from fastxfer.dataset.crews import Crew, Gone
from fastxfer.dataset.entries import OWN_FOLDER, Entry
from fastxfer.dataset.folder import Folder
from fastxfer.dataset.planning import Task
from fastxfer.dataset.results import Came
from fastxfer.dataset.split import CannotSplit, Split
from fastxfer.dataset.units import Batch, Failed, Outcome, Place, Unit, host_of
from fastxfer.errors import (
    DiskFullError,
    FastxferError,
    InterruptedTransferError,
    StorageError,
    TargetBusyError,
    storage_error,
)
from fastxfer.names import PART
from fastxfer.options import TransferOptions, told_to_all
from fastxfer.plan.governor import USUAL_CAP
from fastxfer.storage.directory import Directory

SPLIT_BYTES = 64 << 20
BATCH_OBJECTS = 256
BATCH_BYTES = 32 << 20
FIRST_OBJECTS = 16
"""The first batches are small, so that all workers have one soon, and the last ones are many."""
OPEN_BATCHES = 64
LOOK_S = 1.0
TRIES = 4
BUSY_WAITS_S = (0.0, 1.0, 2.0, 4.0, 8.0)
MARK = "run-"


@dataclass(slots=True, eq=False)
class Job:
    """A unit that is to be handed in, or was: `number` is that of a range."""

    unit: Unit
    split: Split | None = None
    number: int = -1
    tries: int = 0


@dataclass(slots=True)
class _Open:
    """A batch that is not full."""

    tasks: list[Task] = field(default_factory=list)
    bytes: int = 0


class Spread:
    """A Destination: the folder `dest` on a file system that this process and all workers share."""

    def __init__(self, dest: str | os.PathLike[str], given: Mapping[str, Any], crew: Crew) -> None:
        self._here = Folder(dest, given, None)
        self.folder, self.name = self._here.folder, self._here.name
        self.requests = 0
        self._given = dict(given)
        self._options = TransferOptions.build(**given)
        self._cap = self._options.connections_per_host or max(USUAL_CAP, self._options.connections)
        self._crew = crew
        self._place = Place(str(self.folder), MARK + secrets.token_hex(8), self._given)
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._out: dict[Any, Job] = {}
        self._again: deque[Job] = deque()
        self._splits: list[Split] = []
        self._batches: dict[str, _Open] = {}
        self._busy: list[tuple[Task, Came]] = []
        self._turn: deque[Job] = deque()
        self._turns = 0
        self._handed_in = 0
        self._stopped = False
        self._looked_at = time.monotonic()

    # ---- as a folder of one machine ----

    def prepare(self) -> None:
        """See Destination."""
        self._here.prepare()
        self._leave_mark()

    def _leave_mark(self) -> None:
        own = Directory.open(self.folder).walk([OWN_FOLDER])
        try:
            for name in os.listdir(self.folder / OWN_FOLDER):
                if name.startswith(MARK):
                    own.remove(name)
            os.close(own.open_file(self._place.mark, os.O_WRONLY | os.O_CREAT))
        except OSError as error:
            raise storage_error(f"write below {own.path}", error) from error

    def look(self, path: str) -> Local | None:
        """See Destination."""
        return self._here.look(path)

    def delete(self, path: str) -> None:
        """See Destination."""
        self._here.delete(path)

    @property
    def idle(self) -> bool:
        """See Destination."""
        return self._ended.empty()

    def moving(self) -> list[tuple[str, float, int]]:
        """See Destination. Of large objects what came is counted a range at a time."""
        now = time.monotonic()
        return [(each.path, now - each.began_at, each.fetched) for each in list(self._splits)]

    def stop(self) -> None:
        """See Destination."""
        self._stopped = True
        self._ended.put(None)

    def close(self) -> None:
        """See Destination."""
        Directory.open(self.folder).walk([OWN_FOLDER]).remove(self._place.mark)
        self._crew.close(list(self._out))
        self._here.close()
        for each in self._splits:
            each.close()

    # ---- fetching ----

    def fetch(self, tasks: Iterator[Task], synced: Callable[[], object]) -> Generator[Came, None, None]:
        """See Destination. Where there is nothing to do no worker is asked for."""
        first = next(tasks, None)
        if first is None:
            return
        self._crew.begin(self._ended.put)
        tasks = chain([first], tasks)
        while True:
            while len(self._out) < self._crew.most(self._cap):
                job = self._next(tasks)
                if job is None:
                    break
                self._hand_in(job)
            if not self._out and not self._begin_turn():
                yield from (came for _, came in self._busy)
                return
            came = list(self._wait())
            yield from came
            if came and self._options.durability != "none":
                synced()

    def _next(self, tasks: Iterator[Task]) -> Job | None:
        """Returns what is to be handed in next, None where nothing can be now."""
        while self._again:
            job = self._again.popleft()
            if job.split is None or job.split.came is None:
                return job
        for split in self._splits:
            found = split.next_unit()
            if found is not None:
                return Job(found[0], split, found[1])
        for task in tasks:
            if self._can_split(task):
                split = Split(task, self.folder, self._options, self._make)
                self._splits.append(split)
                return self._next(iter(()))
            full = self._gather(task)
            if full is not None:
                return full
        for host in self._batches:
            return self._closed(host)
        if not self._out and self._turn:
            return self._turn.popleft()
        return None

    def _can_split(self, task: Task) -> bool:
        """Returns whether several workers may fetch an object: a large one of which no part is here from a
        run on one machine, and for which nothing is asked that only one process can keep.
        """
        entry = task.entry
        plain = not entry.mirrors and not entry.options and not any(self._options.rates)
        plain &= not (
            task.finding.verdict is Verdict.UNSURE and entry.checksums
        )  # the file here is read first
        large = entry.size is not None and entry.size >= SPLIT_BYTES
        return plain and large and self._here.look(entry.path + PART) is None

    def _make(self, kind: type[Unit], entry: Entry, /, **values: Any) -> Unit:
        """Returns a unit for an entry; who is asked for a large one may know no more than its server may."""
        known = kind is Batch or not entry.stranger
        place = self._place if known else replace(self._place, given=told_to_all(self._given))
        part = min(self._options.connections, self._crew.part(self._cap))
        host = host_of(entry.url, self._options.endpoint)
        return kind(place, host, self._cap, part, **values)

    # ---- batches ----

    def _gather(self, task: Task) -> Job | None:
        """Puts a task to those of its host; returns a batch that is full."""
        host = host_of(task.entry.url, self._options.endpoint)
        batch = self._batches.setdefault(host, _Open())
        batch.tasks.append(task)
        batch.bytes += task.entry.size or 0
        doubled = min(8, self._handed_in // (2 * self._crew.workers))
        if len(batch.tasks) >= min(BATCH_OBJECTS, FIRST_OBJECTS << doubled) or batch.bytes >= BATCH_BYTES:
            return self._closed(host)
        if len(self._batches) > OPEN_BATCHES:
            return self._closed(max(self._batches, key=lambda each: len(self._batches[each].tasks)))
        return None

    def _closed(self, host: str) -> Job:
        return self._job_of(self._batches.pop(host).tasks)

    def _job_of(self, tasks: Sequence[Task]) -> Job:
        return Job(self._make(Batch, tasks[0].entry, tasks=tuple(map(_for_a_unit, tasks))))

    def _begin_turn(self) -> bool:
        """Has what others seemed to be writing be tried again, a batch at a time; returns whether there is
        any that was not tried often enough.
        """
        if self._turn:
            return True
        if not self._busy or self._turns == len(BUSY_WAITS_S):
            return False
        self._pause(BUSY_WAITS_S[self._turns])
        self._turns += 1
        tasks = [task for task, _ in self._busy]
        self._busy = []
        starts = range(0, len(tasks), BATCH_OBJECTS)
        self._turn = deque(self._job_of(tasks[at : at + BATCH_OBJECTS]) for at in starts)
        return True

    def _pause(self, wait_s: float) -> None:
        """Waits while nothing is under way, unless it is stopped."""
        try:
            self._ended.get(timeout=wait_s or 0.001)
        except Empty:
            pass
        self._check_stop()

    # ---- under way ----

    def _hand_in(self, job: Job) -> None:
        self._check_stop()
        self._handed_in += 1
        name = f"fastxfer-{self._place.mark.removeprefix(MARK)}-{self._handed_in}"
        self._out[self._crew.submit(job.unit, name)] = job

    def _check_stop(self) -> None:
        if self._stopped:
            raise InterruptedTransferError("the run was stopped; run it again to go on")

    def _wait(self) -> Iterator[Came]:
        """Waits for the end of a unit, for a second at the most; gives what came of it."""
        if not self._out:
            return
        try:
            future = self._ended.get(timeout=LOOK_S)
        except Empty:
            future = None
        self._check_stop()
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            for lost in self._crew.look(list(self._out)):
                yield from self._lost(self._out.pop(lost))
        job = self._out.pop(future, None)
        if job is None:
            return
        try:
            result = self._crew.result(future)
        except Gone:
            yield from self._lost(job)
            return
        yield from self._took(job, result)

    def _lost(self, job: Job) -> Iterator[Came]:
        """Has a unit be run again whose worker is gone, unless it seems to be what kills them."""
        job.tries += 1
        if job.tries < TRIES:
            self._again.append(job)
            return
        error = FastxferError(f"{TRIES} workers in a row died or were stopped while they fetched it")
        yield from self._failed(job, error)

    def _failed(self, job: Job, error: FastxferError) -> Iterator[Came]:
        if job.split is None:
            assert isinstance(job.unit, Batch)
            yield from (Came(task.entry, error=error) for task in job.unit.tasks)
        else:
            job.split.fail(error)
            yield from self._over(job.split)

    def _took(self, job: Job, result: Any) -> Iterator[Came]:
        """Takes what came of a unit. Raises what ends it all: no worker could write, or none there."""
        if isinstance(result, Failed):
            if result.lost:
                yield from self._lost(job)
                return
            error = result.error
            if isinstance(error, StorageError):
                error.message = f"worker {result.where}: {error.message}" if result.where else error.message
                raise error
            yield from self._failed(job, error)
            return
        value, requests = result
        self.requests += requests
        if job.split is None:
            assert isinstance(job.unit, Batch)
            for outcome in value:
                yield from self._came(job.unit.tasks[outcome.number], outcome)
        else:
            yield from self._took_of(job.split, job.number, value)

    def _came(self, task: Task, outcome: Outcome) -> Iterator[Came]:
        skipped, size = outcome.skipped, outcome.size
        if skipped and outcome.known is not None and task.finding.verdict is Verdict.NEW:
            # Nothing was here when it was planned: a worker fetched it that died before it could say so.
            skipped, size = False, outcome.known.size or 0
        came = Came(task.entry, outcome.known, outcome.error, size, skipped, outcome.seconds)
        if isinstance(outcome.error, TargetBusyError):
            self._busy.append((task, came))
        else:
            yield came

    def _took_of(self, split: Split, number: int, value: Any) -> Iterator[Came]:
        if split.came is not None:
            return
        try:
            split.ended(number, value)
        except CannotSplit:
            self._splits.remove(split)
            self._again.append(self._job_of([split.task]))
            return
        except DiskFullError:
            raise
        except FastxferError as error:
            split.fail(error)
        yield from self._over(split)

    def _over(self, split: Split) -> Iterator[Came]:
        if split.came is not None and split in self._splits:
            self._splits.remove(split)
            split.close()
            yield split.came


def _for_a_unit(task: Task) -> Task:
    """Returns a task without what would have it open more connections than its unit may."""
    own = {name: value for name, value in task.entry.options.items() if name not in _NUMBERS}
    return task._replace(entry=replace(task.entry, options=own)) if task.entry.options else task


_NUMBERS = ("connections", "connections_per_host")
