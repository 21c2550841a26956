"""Fetches a list of URLs into the working directory by `fastxfer.small`, for `bench.small`.

python -m bench.small_client URLS DURABILITY
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from fastxfer.options import TransferOptions
from fastxfer.small import Missed, SmallObjects, Wanted


def wanted(path: Path) -> Iterator[Wanted]:
    """Gives the objects of a list, named as their paths are."""
    with path.open() as lines:
        for line in lines:
            url = line.strip()
            yield Wanted(url, url.split("/", 3)[3])


def main(path: str, durability: str) -> int:
    """Returns 1 if an object was not fetched."""
    missed = 0
    for outcome in SmallObjects(".", TransferOptions.build(durability=durability)).fetch(wanted(Path(path))):
        if isinstance(outcome, Missed):
            missed += 1
            print(outcome.error, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
