"""What the tests share: a set of small objects, and a run over wanted ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastxfer.errors import FastxferError
from fastxfer.options import TransferOptions
from fastxfer.small import Fetched, Missed, SmallObjects, Wanted
from tests.servers.nginx import Nginx
from tests.servers.objects import make_bytes

SIZES = (0, 1, 100, 4096, 8192, 40_000)


def make_set(root: Path, folder: str, count: int) -> dict[str, bytes]:
    """Makes objects of many sizes below a document root; returns them by their names there."""
    data = make_bytes(count + max(SIZES))
    made = {}
    for number in range(count):
        name = f"{folder}/{number % 7}/{number}.bin"
        made[name] = bytes(data[number : number + SIZES[number % len(SIZES)]])
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[name])
    return made


def wanted_of(nginx: Nginx, names: Iterable[str], **how: Any) -> list[Wanted]:
    """Returns what asks an nginx for these names."""
    return [Wanted(nginx.url(name, **how), name) for name in names]


def fetch(
    root: Path, wanted: Iterable[Wanted], *, small_bytes: int = 1 << 20, **options: Any
) -> tuple[dict[str, Fetched], dict[str, FastxferError]]:
    """Returns what came and what failed, by name; nothing is told twice."""
    options = {"durability": "none", **options}
    came: dict[str, Fetched] = {}
    failed: dict[str, FastxferError] = {}
    small = SmallObjects(root, TransferOptions.build(**options), small_bytes=small_bytes)
    for outcome in small.fetch(wanted):
        name = outcome.wanted.name
        assert name not in came and name not in failed
        if isinstance(outcome, Missed):
            failed[name] = outcome.error
        else:
            came[name] = outcome
    return came, failed


def files_below(root: Path) -> dict[str, bytes]:
    """Returns all files below a directory with their bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
