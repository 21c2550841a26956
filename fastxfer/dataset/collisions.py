"""Entries that cannot stand side by side: found by one ordered walk over the ledger before a byte moves.

They cannot (`names.check_collisions`) if they are the same but for case or Unicode form, if one is a folder
of the other, or has the name of one of its working files. Who is refused does not depend on the order in
which they were listed:

- of names that differ by case or Unicode form only, all of them: nobody can say which is meant;
- a file that has the name of a folder of others, or whose working file has, that file;
- a file with the name of another's working file, that file.

The rest is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice

from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.ledger_file import ROWS
from fastxfer.names import ENDINGS

Collision = tuple[str, str]
"""A path that is refused, and why."""


def refuse_collisions(ledger: Ledger) -> None:
    """Refuses all entries of a complete listing that collide. What was looked at already is not again."""
    if not ledger.unchecked():
        return
    found = collisions(ledger)
    while some := list(islice(found, ROWS)):
        ledger.refuse(some)
    ledger.checked()


def collisions(ledger: Ledger) -> Iterator[Collision]:
    """Gives the paths that collide, in the order of their folded forms. Memory does not grow with the set."""
    before = ""
    for key, group in groupby(ledger.names(), key=lambda pair: pair[0]):
        paths = (path for _, path in group)
        first = next(paths)
        yield from _same_but_for_case(first, paths)
        if key.endswith(ENDINGS):
            yield from _working_file(ledger, key, first)
        folder = key.rpartition("/")[0]
        if folder != before:
            yield from _files_in_the_way(ledger, folder, before, first)
            before = folder


def _same_but_for_case(first: str, others: Iterator[str]) -> Iterator[Collision]:
    for at, other in enumerate(others):
        if at == 0:
            yield first, f"it differs from {other!r} by case or Unicode form only"
        yield other, f"it differs from {first!r} by case or Unicode form only"


def _working_file(ledger: Ledger, key: str, path: str) -> Iterator[Collision]:
    for mine in ENDINGS:
        if not key.endswith(mine):
            continue
        base = key.removesuffix(mine)
        for twin in ("", *(ending for ending in ENDINGS if ending != mine)):
            other = ledger.path_of(base + twin) or (ledger.path_below(base + twin) if twin else None)
            if other is not None:
                yield path, f"its name is that of a working file beside {other!r}"
                return


def _files_in_the_way(ledger: Ledger, folder: str, before: str, example: str) -> Iterator[Collision]:
    """Gives the entries that have the name of a folder, or of one above it; `before` was looked at."""
    while folder and not f"{before}/".startswith(f"{folder}/"):
        file = ledger.path_of(folder)
        if file is not None:
            yield file, f"it is a file where {example!r} needs a folder"
        for mine in ENDINGS:
            owner = ledger.path_of(folder.removesuffix(mine)) if folder.endswith(mine) else None
            if owner is not None:
                yield owner, f"{example!r} needs a folder with the name of its working file"
        folder = folder.rpartition("/")[0]
