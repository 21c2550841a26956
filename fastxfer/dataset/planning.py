"""What there is to do for a data set, once it is listed: what to fetch, and what to delete.

Both are walks over the ledger in the order of the paths, with the files at the destination looked at on the
way, folder by folder. Nothing is kept in memory, and nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from fastxfer.dataset.compare import By, Finding, Local, compare
from fastxfer.dataset.entries import Entry
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Ledger
from fastxfer.errors import LedgerError, StorageError
from fastxfer.storage.directory import Directory


class Task(NamedTuple):
    """An entry, and whether it is to be fetched."""

    entry: Entry
    finding: Finding


class Deletion(NamedTuple):
    """A file that vanished at the source. `untouched`: it is here as it was fetched; else somebody changed
    it since, and it is not to be deleted. `gone`: it is not here any more.
    """

    path: str
    size: int
    untouched: bool
    gone: bool = False


class Here:
    """Looks at files below a destination, each through a descriptor of its folder: no symbolic link below
    the destination is followed. Of neighbours the folder is opened once.
    """

    def __init__(self, dest: str | os.PathLike[str]) -> None:
        self._root = Directory.open(Path(dest))
        self._folder = ""
        self._open: Directory | StorageError = self._root

    def look(self, path: str) -> Local | None:
        """Returns what stands there as a regular file, None for nothing and for anything else: what that is
        the transfer says when it comes to it.
        """
        try:
            folder, name = self.reach(path)
            there = folder.look(name)
        except StorageError:
            return None
        return None if there is None else Local(there.st_size, there.st_mtime_ns)

    def reach(self, path: str) -> tuple[Directory, str]:
        """Returns the folder of a file, and its name there. Raises StorageError."""
        above, _, name = path.rpartition("/")
        if above != self._folder:
            self._folder = above
            try:
                self._open = self._root.walk(above.split("/") if above else ())
            except StorageError as error:
                self._open = error
        if isinstance(self._open, StorageError):
            raise self._open.with_traceback(None)
        return self._open, name


class Looks(Protocol):
    """Looks at what is at a destination."""

    def look(self, path: str) -> Local | None:
        """Returns what stands there, None for nothing."""
        ...


def tasks(
    ledger: Ledger,
    here: Looks,
    *,
    by: By = By.AUTO,
    filters: Filters | None = None,
    failed: bool = False,
    largest: bool = False,
) -> Iterator[Task]:
    """Gives every entry that is wanted, with what is to become of it; those that are refused are left out.
    `failed` and `largest` are as in `Ledger.steps`.
    """
    for entry, known in ledger.steps(failed=failed, largest=largest):
        if filters is None or filters.wants(entry.path):
            yield Task(entry, compare(entry, known, here.look(entry.path), by))


def deletions(ledger: Ledger, here: Looks, *, filters: Filters | None = None) -> Iterator[Deletion]:
    """Gives the files that were fetched from this source and are not in its listing any more, but for those
    that the filters leave alone.

    Raises LedgerError when the listing is not complete, or has nothing at all: that is far more often a fault
    of the source than its wish.
    """
    vanished = ledger.vanished()
    first = next(vanished, None)
    if first is None:
        return
    if next(ledger.names(), None) is None:
        raise LedgerError("the source lists nothing at all: nothing is deleted on that ground")
    for path, known in chain([first], vanished):
        if filters is not None and not filters.wants(path):
            continue
        local = here.look(path)
        size = known.size if local is None else local.size
        yield Deletion(path, size, local == (known.size, known.mtime_ns), local is None)
