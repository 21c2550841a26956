"""The public calls that measure mirrors, imported when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastxfer.api import Path
from fastxfer.bench_options import NETWORK, BenchOptions
from fastxfer.errors import OptionError, storage_error
from fastxfer.inputs import MAX_INPUT_BYTES
from fastxfer.inputs.mirror_lists import parse_mirrors
from fastxfer.mirrorbench.report import BenchReport, BenchRow, ConnectionRate
from fastxfer.mirrorbench.run import Bench, BenchProgress
from fastxfer.options import MAX_MIRRORS, TransferOptions

__all__ = [
    "BenchProgress",
    "BenchReport",
    "BenchRow",
    "ConnectionRate",
    "append_report",
    "bench",
    "make_bench",
    "mirrors_for_fetch",
    "read_mirrors",
    "saved_reports",
]

BEST = 3
"""How many mirrors a fetch takes from a saved run."""


def bench(
    urls: Iterable[str],
    *,
    connections: Iterable[int] | int | str = (1, 4, 16),
    duration: float = 5,
    max_bytes: int | str = "512M",
    rounds: int = 5,
    seed: int | None = None,
    progress: bool | Callable[[BenchProgress], object] | None = None,
    **options: Any,
) -> BenchReport:
    """Measures mirrors, URLs of one object, and returns a BenchReport: its `rows` are the mirrors, the best
    first, and `fetch(..., mirrors=report.best(3))` uses the result.

    Mirrors take turns in rounds, in an order that is shuffled in each, never two at the same time; the first
    part of each turn is left out, and ranges are asked for at random places. An interval is a 95 % one, by
    bootstrap over the rounds. A mirror that does not answer, or has another object than most, is a row with
    the reason, not an error.

    Args:
        urls: of one object each, at most 1000. What is given for the first one's origin (auth, headers) is
            sent to no other.
        connections: numbers of connections to measure with.
        duration: seconds for each mirror and number of connections, shared out among the rounds.
        max_bytes: from each mirror at the most, over all numbers of connections.
        rounds: 4 to 100; from 8 on the intervals hold the truth in 95 % of cases, with 5 in 92 %. Turns of a
            second or more are better where mirrors limit rates.
        seed: of the order and of the ranges, for the same ones again; by default by chance.
        progress: True for a bar, or a callable that takes a BenchProgress before each turn, on this thread.
        options: those of `fetch` about the network, the host and object stores; a failure is counted, and not
            tried again.

    Raises:
        OptionError: a URL or an option cannot be used; nothing was asked.
    """
    own = {"connections": connections, "duration": duration, "max_bytes": max_bytes, "rounds": rounds}
    made = make_bench(urls, progress if callable(progress) else None, **own, seed=seed, **options)
    if progress is not True:
        return made.run()
    from fastxfer.mirrorbench.table import ProgressBar

    with ProgressBar() as bar:
        made.told = bar.show
        return made.run()


def make_bench(
    urls: Iterable[str], progress: Callable[[BenchProgress], object] | None = None, **options: Any
) -> Bench:
    """Returns a benchmark with the options of `bench`, not begun. Raises OptionError and TypeError."""
    own = {name: value for name, value in options.items() if name in BenchOptions.__dataclass_fields__}
    network = {name: value for name, value in options.items() if name not in own}
    for name in network:
        if name not in NETWORK:
            raise TypeError(f"there is no option {name!r} of a benchmark")
    return Bench(urls, BenchOptions.build(**own), TransferOptions.build(**network), progress)


def read_mirrors(
    path: Path, *, object_path: str | None = None, repo: str = "core", arch: str = "x86_64"
) -> list[str]:
    """Returns the URLs that a list of mirrors names: a plain list, a Metalink of one object, Arch's
    `mirrorlist`, Debian's `sources.list`, `.sources` or `Mirrors.masterlist`, or what `fastxfer bench --save`
    wrote, the best first.

    Lists of distributions have bases, where the mirror begins: `object_path` is the path of the object below
    it (by default a small file that each has); `repo` and `arch` are for Arch's $repo and $arch.

    Raises OptionError for what cannot be used, StorageError when the file cannot be read.
    """
    data = _stored(path)
    reports = _reports(data)
    if reports:
        return reports[-1].best()
    return list(parse_mirrors(data, object_path=object_path, repo=repo, arch=arch).urls)


def mirrors_for_fetch(path: Path, urls: Sequence[str]) -> list[str]:
    """Returns what a fetch takes from a file of mirrors beside the URLs it has: the best BEST of a saved run,
    all that a list names. Raises as `read_mirrors`, and OptionError where there is none.
    """
    data = _stored(path)
    reports = _reports(data)
    found = reports[-1].best(BEST) if reports else list(parse_mirrors(data).urls)
    if not found:
        raise OptionError(f"{os.fspath(path)} has no mirror that can be used")
    return [url for url in found if url not in urls][:MAX_MIRRORS]


def saved_reports(path: Path) -> list[BenchReport]:
    """Returns the reports that were saved in a file, the newest last. Raises OptionError where there is none,
    and StorageError.
    """
    reports = _reports(_stored(path))
    if not reports:
        raise OptionError(f"{os.fspath(path)} has no report of a benchmark in it")
    return reports


def append_report(report: BenchReport, path: Path) -> None:
    """Adds a report to a file of them, one on a line. Raises StorageError."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(report.to_json() + "\n")
    except OSError as error:
        raise storage_error(f"write {os.fspath(path)}", error) from error


def _reports(data: bytes) -> list[BenchReport]:
    if not data.lstrip().startswith(b'{"format"'):
        return []
    lines = data.decode("utf-8", "replace").split("\n")
    return [BenchReport.from_json(line) for line in lines if line.strip()]


def _stored(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise storage_error(f"read {os.fspath(path)}", error) from error
