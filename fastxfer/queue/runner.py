"""A runner's side of the queue: what `Batch` asks of a Work, as transactions.

An item is claimed by writing the runner's token into its row, and every later word about it goes only where
the token still stands. The runner looks at the database's change counter four times a second; so a pause or
a cancel from anywhere reaches it. Items of a runner that has ended are put back.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import astuple, replace

from fastxfer.batch import Job, Outcome
from fastxfer.errors import FastxferError, QueueError
from fastxfer.progress.overall import Tally
from fastxfer.progress.snapshot import Progress
from fastxfer.queue.items import job_of
from fastxfer.queue.owners import HEARTBEAT_S, Owner
from fastxfer.queue.store import Store

SIZES_AT_ONCE = 100


class QueueWork:
    """The Work of one runner. `close` gives back whatever it still has."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.check()
        self._owner = Owner.here()
        self._asked: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._version = -1
        self._changed = True
        self._heartbeat_at = 0.0
        self._waiting: Tally | None = None
        with store.change() as db:
            db.execute("INSERT INTO runners VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(self._owner))
            release_the_dead(db)

    def close(self) -> None:
        """Ends the runner."""
        self._owner.retire()
        with self._store.change() as db:
            _release(db, self._owner.token)

    def unsized(self) -> list[Job]:
        """See Work."""
        if not self._changed:
            return []
        self._changed = False
        jobs = []
        for row in self._store.rows(
            "SELECT * FROM items WHERE state = 'queued' AND (size IS NULL OR expected IS NOT NULL) "
            "ORDER BY id"
        ):
            if row["id"] not in self._asked:
                self._asked.add(row["id"])
                try:
                    jobs.append(job_of(row))
                except QueueError:
                    pass  # told when it is its turn
        return jobs

    def sized(self, job: Job, size: int) -> None:
        """See Work. Sizes are written many at a time."""
        self._sizes[job.key] = size
        if len(self._sizes) >= SIZES_AT_ONCE:
            self._write_sizes()

    def _write_sizes(self) -> None:
        if self._sizes:
            sizes, self._sizes = self._sizes, {}
            self._waiting = None
            with self._store.change() as db:
                db.executemany(
                    "UPDATE items SET size = ? WHERE id = ?", [(s, key) for key, s in sizes.items()]
                )

    def claim(self) -> Job | None:
        """See Work."""
        self._write_sizes()
        self._waiting = None
        while True:
            with self._store.change() as db:
                row = db.execute(
                    "SELECT * FROM items WHERE state = 'queued' AND owner IS NULL "
                    "ORDER BY priority DESC, id LIMIT 1"
                ).fetchone()
                if row is None:
                    return None
                db.execute(
                    "UPDATE items SET state = 'running', owner = ?, attempts = attempts + 1, begun = ?, "
                    "ended = NULL, error = NULL WHERE id = ?",
                    (self._owner.token, time.time(), row["id"]),
                )
            try:
                job = job_of(row)
                # What is in line is to be fetched, also where its target was paused.
                return replace(job, options={**job.options, "unpause": True})
            except QueueError as error:
                self._failed(row["id"], error)

    def look(self, running: Mapping[int, Progress]) -> Mapping[int, str]:
        """See Work."""
        if time.monotonic() >= self._heartbeat_at:
            self._heartbeat_at = time.monotonic() + HEARTBEAT_S
            self._beat(running)
        version = self._store.version()
        if version == self._version:
            return {}
        self._version, self._changed, self._waiting = version, True, None
        rows = self._store.rows("SELECT id, state FROM items WHERE owner = ?", self._owner.token)
        states = {row["id"]: row["state"] for row in rows}
        again = [key for key in running if states.get(key) == "queued"]
        if again:  # paused and resumed before it was noticed
            with self._store.change() as db:
                db.executemany(
                    "UPDATE items SET state = 'running' WHERE id = ? AND owner = ? AND state = 'queued'",
                    [(key, self._owner.token) for key in again],
                )
        # One that is not ours any more, or is gone, is not ours to fetch.
        return {
            key: "paused" if states.get(key) == "paused" else "cancelled"
            for key in running
            if states.get(key) not in ("running", "queued")
        }

    def _beat(self, running: Mapping[int, Progress]) -> None:
        with self._store.change() as db:
            db.execute("UPDATE runners SET heartbeat = ? WHERE token = ?", (time.time(), self._owner.token))
            db.executemany(
                "UPDATE items SET done = ?, size = coalesce(?, size) WHERE id = ? AND owner = ?",
                [(each.done, each.size, key, self._owner.token) for key, each in running.items()],
            )
            if release_the_dead(db):
                self._waiting = None

    def ended(self, outcome: Outcome) -> None:
        """See Work."""
        self._waiting = None
        if outcome.state == "failed" and outcome.error is not None:
            self._failed(outcome.job.key, outcome.error, outcome.progress.done)
            return
        done = outcome.result.size if outcome.result is not None else outcome.progress.done
        size = outcome.result.size if outcome.result is not None else outcome.progress.size
        # What others have said meanwhile, paused or cancelled, stays.
        state = (
            "'done'" if outcome.state == "done" else "CASE state WHEN 'running' THEN 'queued' ELSE state END"
        )
        with self._store.change() as db:
            db.execute(
                f"UPDATE items SET state = {state}, owner = NULL, done = ?, size = coalesce(?, size), "
                "ended = ? WHERE id = ? AND owner = ?",
                (done, size, time.time(), outcome.job.key, self._owner.token),
            )

    def _failed(self, key: int, error: FastxferError, done: int = 0) -> None:
        with self._store.change() as db:
            db.execute(
                "UPDATE items SET state = CASE state WHEN 'cancelled' THEN state ELSE 'failed' END, "
                "owner = NULL, done = ?, ended = ?, error = ? WHERE id = ? AND owner = ?",
                (done, time.time(), json.dumps(error.to_dict()), key, self._owner.token),
            )

    def waiting(self) -> Tally:
        """See Work."""
        if self._waiting is None:
            ((items, size, unsized),) = self._store.rows(
                "SELECT count(*), coalesce(sum(size), 0), count(*) - count(size) FROM items "
                "WHERE state = 'queued' AND owner IS NULL"
            )
            self._waiting = Tally(items, size, unsized)
        return self._waiting


def living_runners(store: Store) -> set[str]:
    """Returns the tokens of the runners that have not ended."""
    now = time.time()
    owners = [Owner(**dict(row)) for row in store.rows("SELECT * FROM runners")]
    return {owner.token for owner in owners if not owner.is_gone(now)}


def release_the_dead(db: sqlite3.Connection) -> int:
    """Puts the items of runners that have ended back, within a transaction; returns how many."""
    now = time.time()
    owners = [Owner(**dict(row)) for row in db.execute("SELECT * FROM runners")]
    freed = sum(_release(db, owner.token) for owner in owners if owner.is_gone(now))
    freed += db.execute(
        "UPDATE items SET state = CASE state WHEN 'running' THEN 'queued' ELSE state END, owner = NULL "
        "WHERE owner IS NOT NULL AND owner NOT IN (SELECT token FROM runners)"
    ).rowcount
    freed += db.execute(
        "UPDATE items SET state = 'queued' WHERE state = 'running' AND owner IS NULL"
    ).rowcount
    return freed


def _release(db: sqlite3.Connection, token: str) -> int:
    db.execute("DELETE FROM runners WHERE token = ?", (token,))
    return db.execute(
        "UPDATE items SET state = CASE state WHEN 'running' THEN 'queued' ELSE state END, owner = NULL "
        "WHERE owner = ?",
        (token,),
    ).rowcount
