"""A persistent queue: items in an SQLite file, which any process may add to, look at and run.

    queue = fastxfer.Queue()
    queue.add("https://example.org/data.tar", "data.tar", checksum="sha256:...")
    queue.run(jobs=4)

Each call opens the database and closes it again, so a Queue may be used from any thread, and after a fork.
docs/queue.md has the states, the schema and what is guaranteed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

from fastxfer.api import Path
from fastxfer.batch import DEFAULT_JOBS, Batch, BatchResult, Job, Outcome, check_jobs
from fastxfer.errors import OptionError
from fastxfer.many import Item, jobs_of, overall_shown
from fastxfer.progress.overall import Overall
from fastxfer.queue.items import MAX_PRIORITY, STATES, QueueItem, item_of, stored_options
from fastxfer.queue.runner import QueueWork, living_runners, release_the_dead
from fastxfer.queue.store import Store
from fastxfer.storage.paths import Below

__all__ = ["Queue", "QueueItem", "default_path"]

Ids = int | Iterable[int] | None


def default_path() -> FilePath:
    """Returns where the queue is when nothing else is said: FASTXFER_QUEUE, or the user's state directory."""
    named = os.environ.get("FASTXFER_QUEUE")
    if named:
        return FilePath(named)
    state = os.environ.get("XDG_STATE_HOME", "")
    base = FilePath(state) if os.path.isabs(state) else FilePath.home() / ".local" / "state"
    return base / "fastxfer" / "queue.db"


class Queue:
    """A queue at `path`, by default the user's own (see `default_path`).

    Methods that take `ids` take one, several, or None for all that the change can be made to. All raise
    StorageError when the system refuses the database, and QueueError when it is damaged, of an unknown
    version or no queue.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = FilePath(path).absolute() if path is not None else default_path().absolute()

    def __repr__(self) -> str:
        return f"Queue({str(self.path)!r})"

    # ---- what is in it ----

    def add(
        self,
        url: str,
        out: Path | None = None,
        *,
        mirrors: Iterable[str] = (),
        priority: int = 0,
        paused: bool = False,
        **options: Any,
    ) -> int:
        """Adds an object and returns the item's id. `out` is as in `fetch`; it is made absolute now. The
        options are those of `fetch`, and stored with the item.

        Raises OptionError, also when another unfinished item has the same target.
        """
        jobs = jobs_of([(url, out, tuple(mirrors))], None, options)
        return self._add(jobs, [paused], priority)[0]

    def add_many(
        self,
        items: Iterable[Item],
        directory: Path | None = None,
        *,
        priority: int = 0,
        paused: bool = False,
        **options: Any,
    ) -> list[int]:
        """Adds many objects, as `fetch_many` takes them, or none where one cannot be used; returns their
        ids.
        """
        given = list(items)
        rest = [paused or bool(getattr(item, "paused", False)) for item in given]
        return self._add(jobs_of(given, directory, options), rest, priority)

    def _add(self, jobs: Sequence[Job], paused: Sequence[bool], priority: int) -> list[int]:
        rows = [
            ("paused" if rest else "queued", _priority(priority), *_columns(job), time.time())
            for job, rest in zip(jobs, paused, strict=True)
        ]
        ids = []
        with self._store() as store, store.change() as db:
            for row, job in zip(rows, jobs, strict=True):
                try:
                    cursor = db.execute(
                        "INSERT INTO items (state, priority, url, mirrors, path, below, options, expected, "
                        "size, added) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        row,
                    )
                except sqlite3.IntegrityError as error:
                    where = f"{job.where}: " if job.where else ""
                    raise OptionError(
                        f"{where}another item of the queue that is not ended has the target {row[4]!r}"
                    ) from error
                ids.append(int(cursor.lastrowid or 0))
        return ids

    def items(self, *states: str) -> list[QueueItem]:
        """Returns the items, or those in these states, in the order in which they are run."""
        if set(states) - set(STATES):
            raise OptionError(f"a state must be one of {', '.join(STATES)}")
        if not self.path.exists():
            return []
        with self._store() as store:
            rows = store.rows("SELECT * FROM items ORDER BY priority DESC, id")
            living = living_runners(store)
        found = (item_of(row, living) for row in rows)
        return [item for item in found if not states or item.state in states]

    def item(self, id: int) -> QueueItem:
        """Returns one item. Raises OptionError when there is none with this id."""
        for item in self.items():
            if item.id == id:
                return item
        raise OptionError(f"there is no item {id} in the queue")

    # ---- changes ----

    def pause(self, ids: Ids = None) -> list[int]:
        """Has items rest until they are resumed, running ones too: their runner stops within a second, with
        all progress kept. Returns the ids of those that changed.
        """
        return self._move(ids, {"queued", "running"}, "paused", "paused")

    def resume(self, ids: Ids = None) -> list[int]:
        """Puts paused items back in line; returns their ids."""
        return self._move(ids, {"paused"}, "queued", "resumed")

    def cancel(self, ids: Ids = None) -> list[int]:
        """Gives items up, running ones too; returns their ids. What is kept of them on disk stays."""
        return self._move(ids, {"queued", "running", "paused", "failed"}, "cancelled", "cancelled")

    def retry(self, ids: Ids = None) -> list[int]:
        """Puts failed items back in line, with ids also cancelled ones; returns their ids."""
        return self._move(ids, {"failed"} if ids is None else {"failed", "cancelled"}, "queued", "retried")

    def set_priority(self, ids: Ids, priority: int) -> list[int]:
        """Gives items another priority, higher ones come first; returns their ids."""
        with self._store() as store, store.change() as db:
            chosen = _chosen(db, ids, set(STATES), "")
            db.executemany(
                "UPDATE items SET priority = ? WHERE id = ?", [(_priority(priority), id) for id in chosen]
            )
        return chosen

    def remove(self, ids: Ids = None) -> list[int]:
        """Takes items out of the queue, without ids those that are done; returns their ids. Files stay."""
        allowed = {"done"} if ids is None else set(STATES) - {"running"}
        with self._store() as store, store.change() as db:
            release_the_dead(db)
            chosen = _chosen(db, ids, allowed, "removed: cancel it first")
            db.executemany("DELETE FROM items WHERE id = ?", [(id,) for id in chosen])
        return chosen

    def _move(self, ids: Ids, states: set[str], to: str, change: str) -> list[int]:
        with self._store() as store, store.change() as db:
            release_the_dead(db)
            chosen = _chosen(db, ids, states, change, ignore=None if ids is None else to)
            for id in chosen:
                try:
                    db.execute(
                        "UPDATE items SET state = ?, error = CASE ? WHEN 'queued' THEN NULL ELSE error END "
                        "WHERE id = ?",
                        (to, to, id),
                    )
                except sqlite3.IntegrityError as error:
                    raise OptionError(
                        f"item {id} has the target of another item that is not ended: remove one of them"
                    ) from error
        return chosen

    # ---- running ----

    def run(
        self,
        jobs: int = DEFAULT_JOBS,
        *,
        progress: bool | Callable[[Overall], object] | None = None,
        told: Callable[[Outcome], object] | None = None,
    ) -> BatchResult:
        """Fetches the items, `jobs` at a time, until none is left in line; returns what became of them.

        Several runners, in any processes, share the items; what a killed one had begun is gone on with. An
        item that fails does not stop the others. `progress` and `told` are as in `fetch_many`.

        Raises:
            KeyboardInterrupt: after the progress of all was saved; the items are in line again.
        """
        with overall_shown(progress) as watch, self.runner(jobs, watch=watch, told=told) as batch:
            return batch.run()

    @contextmanager
    def runner(
        self,
        jobs: int = DEFAULT_JOBS,
        *,
        watch: Callable[[Overall], object] | None = None,
        told: Callable[[Outcome], object] | None = None,
    ) -> Iterator[Batch]:
        """Gives a Batch over the queue, for who wants to stop it: `run` and `stop`."""
        number = check_jobs(jobs)
        with self._store() as store:
            work = QueueWork(store)
            try:
                yield Batch(work, number, watch=watch, told=told)
            finally:
                work.close()

    def _store(self) -> Store:
        return Store(self.path)


def _columns(job: Job) -> tuple[Any, ...]:
    """Returns url, mirrors, path, below, options, expected and size of a job, as they are stored."""
    if isinstance(job.out, Below):
        below: str | None = job.out.name
        path = os.path.join(os.path.realpath(job.out.root), job.out.name)
    else:
        below = None
        folder, name = os.path.split(job.out)
        path = os.path.join(os.path.realpath(folder), os.fspath(name))
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise OptionError("a queue keeps names in UTF-8 only: give the target another one") from error
    options = stored_options(job.options)
    return job.url.strip(), json.dumps(job.mirrors), path, below, options, job.expected, job.size


def _priority(priority: Any) -> int:
    try:
        number = int(priority)
    except (ValueError, TypeError, OverflowError):
        number = MAX_PRIORITY + 1
    if abs(number) > MAX_PRIORITY:
        raise OptionError(f"a priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
    return number


def _chosen(
    db: sqlite3.Connection, ids: Ids, states: set[str], change: str, *, ignore: str | None = None
) -> list[int]:
    """Returns the ids of items in these states: all, or those given, of which each must be there and be in
    one of them. Those that are in the state `ignore` already are left out.
    """
    there: Mapping[int, str] = dict(db.execute("SELECT id, state FROM items ORDER BY id").fetchall())
    if ids is None:
        return [id for id, state in there.items() if state in states]
    given = [ids] if isinstance(ids, int) else list(dict.fromkeys(ids))
    for id in given:
        if id not in there:
            raise OptionError(f"there is no item {id} in the queue")
        if there[id] not in states and there[id] != ignore:
            raise OptionError(f"item {id} is {there[id]}: it cannot be {change}")
    return [id for id in given if there[id] != ignore]
