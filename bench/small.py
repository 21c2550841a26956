"""Many small objects: fastxfer's engine for them and its peers, from a local nginx.

    python -m bench.small --rounds 3 --count 20000 --dir DISK --json FILE

Every contestant gets the same list of URLs and names, in folders of a thousand, and writes into a new
directory; `sync` follows, outside the timed part. They take turns in an order shuffled with the seed. After
each run all files are counted and measured; of the first round they are read and compared. Compare by
minimum: noise only adds.

On a disk what was written stays until all are through: ext4 looks for a free inode past those that were freed
in the last minutes, one by one, and a file then costs up to a millisecond of CPU, whoever writes it. So begin
no run soon after many files were removed there, or use a file system that was just made.

The server's log goes to a file, in blocks, and is read after each run: a reader that each line awakens, as in
tests, would be a third of what the machine does.

CPU is the user and system time of the whole process, an interpreter's start included, and nginx not. None of
the peers syncs, renames or checks what it has written; `fastxfer small` does the last two, `periodic` all.
`fetch -i` is the command that has a download of its own for each object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.compare import RUN_DEADLINE_S, Memory, clean_environment, file_system_of, machine, tell, version_of
from tests.servers.nginx import LogEntry, Nginx
from tests.servers.objects import make_bytes

A_FOLDER = 1000
AT_ONCE = 16
SAMPLE_S = 0.05


class Logged(Nginx):
    """An nginx whose log is read when it is asked for."""

    def _write_config(self) -> None:
        super()._write_config()
        path = self.prefix / "nginx.conf"
        here = f"access_log {self.prefix / 'requests.log'} lines buffer=256k flush=100ms;"
        path.write_text(path.read_text().replace("access_log /dev/stdout lines;", here))

    def forget(self) -> None:
        """Empties the log; nothing is being asked."""
        os.truncate(self.prefix / "requests.log", 0)

    def connections(self, count: int) -> int:
        """Returns how many connections so many requests came on, as soon as they are logged."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lines = (self.prefix / "requests.log").read_bytes().splitlines()
            if len(lines) >= count:
                return len({LogEntry.parse(line).connection for line in lines})
            time.sleep(0.05)
        raise RuntimeError(f"{count} requests were to be logged")


@dataclass(frozen=True, slots=True)
class Lists:
    """The same objects in each contestant's own words."""

    curl: Path
    aria2: Path
    urls: Path


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command that fetches all of a list into its working directory."""

    name: str
    program: str
    command: Callable[[Lists], list[str]]
    note: str


def _small(durability: str) -> Callable[[Lists], list[str]]:
    return lambda lists: [sys.executable, "-m", "bench.small_client", str(lists.urls), durability]


CONTESTANTS = (
    Contestant(
        "curl -Z",
        "curl",
        lambda lists: [
            *("curl", "-q", "-s", "-f", "-Z", "--parallel-max", str(AT_ONCE), "--create-dirs"),
            *("-K", str(lists.curl)),
        ],
        "",
    ),
    Contestant(
        "aria2c -i",
        "aria2c",
        lambda lists: [
            *("aria2c", "--no-conf", "-q", f"-j{AT_ONCE}", "--file-allocation=none", "-i", str(lists.aria2)),
        ],
        "",
    ),
    Contestant(
        "wget2 -i",
        "wget2",
        lambda lists: [
            *("wget2", "--no-config", "--no-hsts", "-q", "-x", "-nH", f"--max-threads={AT_ONCE}"),
            *("-i", str(lists.urls)),
        ],
        "",
    ),
    Contestant("fastxfer small none", sys.executable, _small("none"), "one rename each"),
    Contestant("fastxfer small periodic", sys.executable, _small("periodic"), "power-safe: synced in groups"),
    Contestant(
        "fastxfer fetch -i none",
        sys.executable,
        lambda lists: [
            *(sys.executable, "-m", "fastxfer", "fetch", "-i", str(lists.aria2), "-j", str(AT_ONCE)),
            *("-q", "--durability", "none"),
        ],
        "a download each",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures."""

    wall_s: float
    cpu_user_s: float
    cpu_system_s: float
    max_rss_bytes: int
    connections: int

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.cpu_user_s + self.cpu_system_s


@dataclass(slots=True)
class Arena:
    """The server, its objects and where they go."""

    nginx: Logged
    names: list[str]
    size: int
    scratch: Path
    lists: Lists = field(init=False)

    def __post_init__(self) -> None:
        self.lists = Lists(*(self.scratch / name for name in ("curl.txt", "aria2.txt", "urls.txt")))
        urls = [(self.nginx.url(name), name) for name in self.names]
        self.lists.curl.write_text("".join(f'url = "{url}"\noutput = "{name}"\n' for url, name in urls))
        self.lists.aria2.write_text("".join(f"{url}\n  out={name}\n" for url, name in urls))
        self.lists.urls.write_text("".join(f"{url}\n" for url, _ in urls))

    def run(self, contestant: Contestant, directory: Path, *, compare: bool) -> Run:
        """Returns the figures of one run. Raises RuntimeError when something is missing or wrong."""
        place = Path(tempfile.mkdtemp(prefix="small-", dir=directory))
        try:
            self.nginx.forget()
            run = self._timed(contestant, place)
            self._check(place, compare=compare)
            return run
        finally:
            if file_system_of(directory) == "tmpfs":
                shutil.rmtree(place)
            os.sync()

    def _timed(self, contestant: Contestant, place: Path) -> Run:
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**clean_environment(self.scratch), "PYTHONPATH": root}
        began = time.perf_counter()
        with (self.scratch / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                contestant.command(self.lists),
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        memory, deadline = Memory(), began + RUN_DEADLINE_S
        pidfd = os.pidfd_open(process.pid)
        try:
            while not select.select([pidfd], [], [], SAMPLE_S)[0]:
                memory.sample(process.pid)
                if time.perf_counter() > deadline:
                    process.kill()
        finally:
            os.close(pidfd)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said = (self.scratch / "output.txt").read_bytes()[-500:].decode(errors="replace")
            raise RuntimeError(f"exit {process.returncode}: {said}")
        return Run(
            wall_s,
            usage.ru_utime,
            usage.ru_stime,
            memory.max_rss_bytes or 0,
            self.nginx.connections(len(self.names)),
        )

    def _check(self, place: Path, *, compare: bool) -> None:
        for name in self.names:
            path = place / name
            if not path.exists() or path.stat().st_size != self.size:
                raise RuntimeError(f"{name} is missing, or has another size")
            if compare and path.read_bytes() != (self.nginx.root / name).read_bytes():
                raise RuntimeError(f"{name} has other bytes")


def table(results: dict[str, list[Run]], count: int) -> list[str]:
    """Returns the lines of the table; `to curl` compares the best walls."""
    heads = (
        "objects/s",
        "median",
        "to curl -Z",
        "CPU us each",
        "user",
        "system",
        "max RSS MiB",
        "connections",
    )
    lines = [f"{'contestant':26}" + "".join(f"{head:>13}" for head in heads)]
    first = results.get("curl -Z")
    baseline = min(run.wall_s for run in first) if first else None
    for name, runs in results.items():
        wall_s = min(run.wall_s for run in runs)
        best = min(runs, key=lambda run: run.cpu_s)
        cells = (
            f"{count / wall_s:.0f}",
            f"{count / statistics.median(run.wall_s for run in runs):.0f}",
            f"{baseline / wall_s:.2f}" if baseline else "-",
            f"{best.cpu_s / count * 1e6:.0f}",
            f"{best.cpu_user_s / count * 1e6:.0f}",
            f"{best.cpu_system_s / count * 1e6:.0f}",
            f"{max(run.max_rss_bytes for run in runs) / 2**20:.0f}",
            f"{max(run.connections for run in runs)}",
        )
        lines.append(f"{name:26}" + "".join(f"{cell:>13}" for cell in cells))
    return lines


def make(nginx: Nginx, count: int, size: int) -> list[str]:
    """Makes the objects; returns their names."""
    names = [f"{number // A_FOLDER:03}/{number:06}.bin" for number in range(count)]
    data = make_bytes(count * size + size)
    for number, name in enumerate(names):
        path = nginx.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[number * size : (number + 1) * size])
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all; returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="contestants whose name begins so")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    asked = [one for one in CONTESTANTS if not options.only or one.name.startswith(tuple(options.only))]
    present = [one for one in asked if shutil.which(one.program)]
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for one in asked:
        here = one in present
        print(f"{one.name}: {version_of([one.program]) if here else 'MISSING'} {one.note}".rstrip())
    print(
        f"{options.count} objects of {options.size} bytes, {AT_ONCE} at once, {options.rounds} rounds, "
        f"{options.dir} on {file_system_of(options.dir)}"
    )
    results: dict[str, list[Run]] = {one.name: [] for one in present}
    failed = False
    with (
        tempfile.TemporaryDirectory(prefix="small-home-") as home,
        tempfile.TemporaryDirectory(prefix="small-", dir=options.dir) as place,
        Logged() as nginx,
    ):
        arena = Arena(nginx, make(nginx, options.count, options.size), options.size, Path(home))
        for number in range(options.rounds):
            order = list(present)
            random.Random(f"{options.seed} {number}").shuffle(order)
            for one in order:
                tell(f"round {number + 1}/{options.rounds}: {one.name}")
                try:
                    results[one.name].append(arena.run(one, Path(place), compare=number == 0))
                except RuntimeError as error:
                    print(f"FAILED: {one.name}: {error}")
                    failed = True
    tell("")
    results = {name: runs for name, runs in results.items() if runs}
    print(*table(results, options.count), sep="\n")
    if options.json:
        runs = {name: [asdict(run) for run in each] for name, each in results.items()}
        report = {"machine": machine(), "count": options.count, "size": options.size, "runs": runs}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
