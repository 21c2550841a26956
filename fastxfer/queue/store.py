"""The queue's database."""

from __future__ import annotations

from fastxfer.database import Database, Kind
from fastxfer.errors import QueueError

VERSION = 1

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


class Store(Database):
    """A connection to a queue, for one thread; see Database. Every commit is synced."""

    kind = Kind(
        name="queue",
        application_id=0x66786671,  # "fxfq"
        version=VERSION,
        schema=SCHEMA,
        error=QueueError,
        where_else="FASTXFER_QUEUE",
        harm="what is run",
        remedy="add its items again; the files, and what is kept of unfinished ones, are not touched by that",
    )
