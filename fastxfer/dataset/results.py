"""What comes of one entry, whoever fetches it: the value that destinations give and the run counts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from fastxfer.dataset.compare import Known, Local
from fastxfer.dataset.entries import Entry
from fastxfer.dataset.planning import Task
from fastxfer.errors import FastxferError


class Came(NamedTuple):
    """What came of an entry: what is `known` of it, or the `error`. `size` bytes were fetched; `skipped` says
    that it was there already. It took `seconds`.
    """

    entry: Entry
    known: Known | None = None
    error: FastxferError | None = None
    size: int = 0
    skipped: bool = False
    seconds: float = 0.0


class Destination(Protocol):
    """Where a set goes. All but `stop` and `moving` is called on the run's thread.

    `name` is what it is called, without secrets; `folder` is the local one with the ledger.
    """

    name: str
    folder: Path

    def prepare(self) -> None:
        """Gets ready, once the ledger is open. Raises FastxferError."""
        ...

    def look(self, path: str) -> Local | None:
        """Returns what stands at a path, None for nothing."""
        ...

    def fetch(self, tasks: Iterator[Task], synced: Callable[[], object]) -> Generator[Came, None, None]:
        """Gives what came of each task, in the order in which it is known. `synced` is called between two of
        them when no power cut can take away what was given before. Raises what ends it all.
        """
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing more is known at this moment."""
        ...

    @property
    def requests(self) -> int:
        """How many requests were sent for small objects."""
        ...

    def moving(self) -> list[tuple[str, float, int]]:
        """Any thread. Returns what is under way: path, seconds since it began, bytes that came."""
        ...

    def delete(self, path: str) -> None:
        """Deletes a file, and the folders that are empty then. Raises FastxferError."""
        ...

    def stop(self) -> None:
        """Any thread. Has `fetch` raise InterruptedTransferError soon."""
        ...

    def close(self) -> None:
        """Lets go of all."""
        ...
