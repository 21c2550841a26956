"""The items of a queue: what is stored of one, and what is shown."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fastxfer.batch import Job
from fastxfer.errors import FastxferError, OptionError, QueueError
from fastxfer.options import TransferOptions
from fastxfer.sources.http import safe_url
from fastxfer.storage.paths import Below
from fastxfer.units import format_size

STATES = ("queued", "running", "paused", "done", "failed", "cancelled")
# What these say is stored, for it is needed, and never shown.
SECRET = frozenset({"headers", "auth", "proxy", "refresh", "mirrors", "credentials"})
MAX_PRIORITY = 1_000_000


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One item as it stands. Sizes in bytes, times in seconds since 1970; None where it is not known.

    `error` is what the last attempt failed of: type, message, exit_code, kept. `options` are those of the
    item without secrets, of which `secret_options` has the names alone. `url` is without secrets too.
    """

    id: int
    state: str
    priority: int
    url: str
    path: str
    size: int | None = None
    done: int = 0
    attempts: int = 0
    error: Mapping[str, Any] | None = None
    added: float | None = None
    begun: float | None = None
    ended: float | None = None
    mirrors: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    secret_options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**asdict(self), "mirrors": list(self.mirrors), "secret_options": list(self.secret_options)}

    def __str__(self) -> str:
        done = self.size if self.state == "done" and self.size is not None else self.done
        size = "?" if self.size is None else format_size(self.size)
        said = f"{self.id:>4}  {self.state:<9}  {self.priority:>8}  {format_size(done):>9} of {size:<9}  "
        message = (self.error or {}).get("message")
        return said + (f"{self.path}: {message}" if message and self.state == "failed" else self.path)


def stored_options(options: Mapping[str, Any]) -> str:
    """Returns options as the JSON that is stored, checked, with absolute paths. Raises OptionError."""
    given = {name: value for name, value in options.items() if value is not None}
    checked = TransferOptions.build(**given)
    if callable(checked.refresh):
        raise OptionError(
            "option refresh: a queue outlives its process, so it must be a command, not a callable"
        )
    if callable(checked.credentials):
        raise OptionError(
            "option credentials: a queue outlives its process, so they must be text or a mapping, not a "
            "callable"
        )
    plain: dict[str, Any] = {name: getattr(checked, name) for name in given}
    if checked.credentials is not None:
        plain["credentials"] = asdict(checked.credentials)
    if "checksum" in plain:
        plain["checksum"] = dict(plain["checksum"])
    for name in ("ca_bundle", "checkpoint_dir"):
        if plain.get(name):
            plain[name] = os.path.abspath(plain[name])
    if plain.get("client_cert"):
        plain["client_cert"] = [path and os.path.abspath(path) for path in plain["client_cert"]]
    return json.dumps(plain)


def job_of(row: sqlite3.Row) -> Job:
    """Returns the job that a row is. Raises QueueError when it cannot be one."""
    try:
        options = _object(row["options"])
        TransferOptions.build(**options)
        path, below = str(row["path"]), row["below"]
        out: str | Below = path
        if below is not None:
            root = path.removesuffix("/" + below)
            if root == path:
                raise ValueError("the name is not in the path")
            out = Below(root or "/", str(below))
        if not path.startswith("/"):
            raise ValueError("not absolute")
        key, url, sizes = (
            int(row["id"]),
            str(row["url"]),
            [_whole(row[name]) for name in ("size", "expected")],
        )
        return Job(key, url, out, options, sizes[0], sizes[1], f"item {key}", mirrors=_texts(row["mirrors"]))
    except (ValueError, TypeError, RecursionError, FastxferError) as error:
        raise QueueError(
            f"item {row['id']} of the queue cannot be read: remove it and add it again"
        ) from error


def item_of(row: sqlite3.Row, runners: Container[str]) -> QueueItem:
    """Returns what is shown of a row; what cannot be read of it is left out. What runs, but has none of these
    runners, is in line again.
    """
    options = _or_none(_object, row["options"]) or {}
    shown = {name: value for name, value in options.items() if name not in SECRET}
    return QueueItem(
        id=row["id"],
        state="queued" if row["state"] == "running" and row["owner"] not in runners else row["state"],
        priority=row["priority"],
        url=_or_none(safe_url, row["url"]) or "",
        path=str(row["path"]),
        size=_or_none(_whole, row["size"]),
        done=_or_none(_whole, row["done"]) or 0,
        attempts=row["attempts"],
        error=_or_none(_object, row["error"]) if row["error"] is not None else None,
        added=row["added"],
        begun=row["begun"],
        ended=row["ended"],
        mirrors=tuple(map(safe_url, _or_none(_texts, row["mirrors"]) or ())),
        options=shown,
        secret_options=tuple(sorted(SECRET & options.keys())),
    )


def _or_none(read: Any, value: Any) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _object(text: Any) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _texts(text: Any) -> tuple[str, ...]:
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("not a list of texts")
    return tuple(value)


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a size")
    return value
