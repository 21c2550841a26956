"""Many small objects of a bucket into a folder: fastxfer and other clients of object stores.

    python -m bench.store_set --rounds 5 --count 5000 --size 8192 --dir DIRECTORY

The store is SeaweedFS on 127.0.0.1, without TLS, and shares the machine. Every contestant runs once a round,
in an order shuffled with the seed, and writes what is below a prefix, in folders of a thousand, into a new
directory. `sync` follows, outside the timed part. After a warm-up round, whose figures are dropped, all files
are compared with the objects, later counted. CPU is the user and system time of the whole process, an
interpreter's start included, and the store's not. Compare by minimum: noise only adds.

Requests at once are everybody's own default: s5cmd 256, rclone 4, fastxfer 16. On a disk a file costs more
for some minutes after many were removed there (see `bench.small`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.compare import RunFailedError, file_system_of, in_columns, machine, tell, version_of, watch
from bench.stores import PEERS, environment_of
from tests.servers.objects import make_bytes
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store

A_FOLDER = 1000
PREFIX = "set"
PROGRAMS = {peer.name: peer.program for peer in PEERS}


class Contestant(NamedTuple):
    """A command that has a folder have what is below the prefix: of the endpoint, the bucket, the folder."""

    name: str
    program: Callable[[], str | None]
    arguments: Callable[[str, str, str], list[str]]
    told: str  # the option that tells its version


def _rclone(endpoint: str, bucket: str, folder: str) -> list[str]:
    store = ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", endpoint]
    return ["copy", "--config", os.devnull, *store, f":s3:{bucket}/{PREFIX}", folder]


def _s5cmd(endpoint: str, bucket: str, folder: str) -> list[str]:
    return ["--endpoint-url", endpoint, "--log", "error", "cp", f"s3://{bucket}/{PREFIX}/*", f"{folder}/"]


def _fastxfer(*options: str) -> Callable[[str, str, str], list[str]]:
    return lambda endpoint, bucket, folder: [
        *("mirror", f"s3://{bucket}/{PREFIX}/", folder, "-q", "--endpoint", endpoint, *options)
    ]


CONTESTANTS = (
    Contestant("s5cmd", PROGRAMS["s5cmd"], _s5cmd, "version"),
    Contestant("rclone Debian", PROGRAMS["rclone Debian"], _rclone, "version"),
    Contestant("rclone", PROGRAMS["rclone"], _rclone, "version"),
    Contestant("fastxfer", PROGRAMS["fastxfer"], _fastxfer(), "--version"),
    Contestant("fastxfer none", PROGRAMS["fastxfer"], _fastxfer("--durability", "none"), "--version"),
)


class Run(NamedTuple):
    """One run's figures, in seconds."""

    wall_s: float
    cpu_s: float


def put_all(store: Store, count: int, size: int) -> dict[str, bytes]:
    """Puts the objects, all of them different; returns them by name."""
    data = make_bytes(count + size)
    objects = {f"{n // A_FOLDER:03}/{n:06}.bin": data[n : n + size] for n in range(count)}
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda each: store.put(f"{PREFIX}/{each[0]}", bytes(each[1])), objects.items()):
            pass
    return {name: bytes(each) for name, each in objects.items()}


def run_once(
    one: Contestant, store: Store, objects: dict[str, bytes], place: Path, home: Path, *, compare: bool
) -> Run:
    """Returns a run's figures. Raises RunFailedError, also where files are missing or wrong."""
    folder = Path(tempfile.mkdtemp(prefix="set-", dir=place))
    try:
        command = [one.program() or "", *one.arguments(store.endpoint, store.bucket, str(folder))]
        seen = watch(command, place, environment_of(store, home), 0)
        files = [path for path in folder.rglob("*.bin") if path.is_file()]
        if len(files) != len(objects):
            raise RunFailedError(f"exit 0, but there are {len(files)} files instead of {len(objects)}")
        for path in files if compare else ():
            if path.read_bytes() != objects[str(path.relative_to(folder))]:
                raise RunFailedError(f"exit 0, but {path.name} is another")
        return Run(seen.wall_s, seen.usage.ru_utime + seen.usage.ru_stime)
    finally:
        shutil.rmtree(folder)
        os.sync()


def table(runs: dict[str, list[Run]], count: int) -> list[str]:
    """Returns the lines of the table."""
    rows: list[tuple[str, ...]] = [("contestant", "objects/s", "median", "CPU us an object", "median")]
    for name, of_it in runs.items():
        if of_it:
            wall, cpu = [run.wall_s for run in of_it], [run.cpu_s / count * 1e6 for run in of_it]
            figures = (count / min(wall), count / statistics.median(wall), min(cpu), statistics.median(cpu))
            rows.append((name, *(f"{figure:.0f}" for figure in figures)))
    return in_columns(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(prog="bench.store_set", description="Compares clients of object stores.")
    parser.add_argument("--rounds", type=int, default=5, help="after the warm-up (default 5)")
    parser.add_argument("--count", type=int, default=5000, help="of objects (default 5000)")
    parser.add_argument("--size", type=int, default=8192, help="of each, in bytes (default 8192)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="of the files")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds (default 1)")
    options = parser.parse_args(arguments)
    present = [one for one in CONTESTANTS if one.program()]
    failures: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="set-home-") as home,
        tempfile.TemporaryDirectory(prefix="set-files-", dir=options.dir) as files,
        tempfile.TemporaryDirectory(prefix="set-store-", dir=options.dir) as data,
        SeaweedFs(Path(data)) as weed,
    ):
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
        for one in present:
            print(f"{one.name}: {version_of([one.program() or ''], one.told)}")
        print(
            f"{options.count} objects of {options.size} bytes from SeaweedFS, {options.rounds} rounds after "
            f"a warm-up, seed {options.seed}; files on {file_system_of(options.dir)}\n"
        )
        store = weed.store().make_bucket()
        objects = put_all(store, options.count, options.size)
        os.sync()
        runs: dict[str, list[Run]] = {one.name: [] for one in present}
        for number in range(options.rounds + 1):
            order = list(present)
            random.Random(f"{options.seed} {number}").shuffle(order)
            for one in order:
                tell(f"round {number}/{options.rounds}: {one.name}")
                try:
                    run = run_once(one, store, objects, Path(files), Path(home), compare=number == 0)
                except RunFailedError as error:
                    failures.append(f"FAILED: {one.name}: round {number}: {error}")
                    continue
                if number:
                    runs[one.name].append(run)
        tell("")
    print(*table(runs, options.count), *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
