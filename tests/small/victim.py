"""Fetches a list of small objects into a directory, in a process that the tests kill or measure.

    python -m tests.small.victim URLS DIRECTORY DURABILITY [REPEAT]

A line of URLS is "URL NAME". What is told as there is written to DIRECTORY.told, a name a line, at once. With
REPEAT the list is gone through so many times, under other names each time, and the resident memory is printed
at a quarter and at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fastxfer.options import TransferOptions
from fastxfer.small import Fetched, SmallObjects, Wanted


def wanted(path: Path, repeat: int) -> Iterator[Wanted]:
    """Gives the objects of a list."""
    lines = [line.split() for line in path.read_text().splitlines()]
    for turn in range(repeat):
        for url, name in lines:
            yield Wanted(url, f"{turn}/{name}" if repeat > 1 else name)


def resident_bytes() -> int:
    """Returns this process's resident memory that is its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise LookupError("the kernel does not tell RssAnon")


def main(urls: str, directory: str, durability: str, repeat: str = "1") -> int:
    """Returns 1 if an object was missed."""
    turns = int(repeat)
    total = len(Path(urls).read_text().splitlines()) * turns
    missed = 0
    told = os.open(directory + ".told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    small = SmallObjects(directory, TransferOptions.build(durability=durability))
    for number, outcome in enumerate(small.fetch(wanted(Path(urls), turns)), 1):
        if isinstance(outcome, Fetched):
            if turns == 1:
                os.write(told, f"{outcome.wanted.name}\n".encode())
        else:
            missed += 1
            print(outcome, file=sys.stderr)
        if turns > 1 and number in (total // 4, total):
            print(resident_bytes(), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
