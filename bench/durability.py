"""What `durability="periodic"` costs over `"none"`, and how much of that is the disk's own.

    python -m bench.durability --size 1G --rounds 10 --dir DISK [--rate 20M]

How it is measured:

- Each round runs every case once, in an order shuffled with the seed, each in a process of its own and into a
  new directory; `sync` follows. The first round's figures are dropped.
- `process` is the CPU of the whole process while it fetches: user and system time, all threads, its start
  left out.
- `disk thread` is the CPU of the transfer's disk thread, which does all that makes it durable: `syncs` of it
  went to fsync, fdatasync and sync_file_range, that is to the kernel which writes pages back; `own` is the
  rest: checkpoint, names, bookkeeping. Both are counted by the thread's clock, so that the noise of the
  network's side is not in them.
- `kernel threads` is what the CPU clocks of all of them advanced, from before the process to after a `sync`:
  what was handed to them is seen here. Other processes' writes are in it. `together` is this and the process:
  what it takes until the object is on the disk, whoever it is charged to. With `none` the pages are written
  back as well, only later and by others.
- `plain` is a loop that writes as many bytes with pwrite(2), 256 KiB at a time, into a reserved file and
  calls fdatasync(2) once: the least that a sync of so many bytes can cost. `dirtied` are the bytes that
  became dirty in the page cache, to the object's size: over 1 means that pages were written twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastxfer
from bench.compare import GB, clean_environment, file_system_of, machine, parse_size, tell
from fastxfer._native.writer import reserve
from fastxfer.storage import disk, part_file
from tests.servers.nginx import Nginx
from tests.servers.objects import make_object

BLOCK = 256 * 1024
DEADLINE_S = 600.0
PLAIN = "plain pwrite + fdatasync"
SINKS = ("auto", "mmap")  # auto is pwrite
CASES = [PLAIN, *(f"{durability} {sink}" for sink in SINKS for durability in ("none", "periodic"))]
COLUMNS = ("process", "disk thread", "syncs", "own", "kernel threads", "together", "dirtied", "wall s")

Figures = dict[str, float]


def count_syncs(spent: Figures) -> None:
    """Has every sync of this process add its thread's CPU time to `spent`."""

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments)
            finally:
                spent["syncs"] += time.thread_time() - began

        return timed

    for module, name in ((os, "fsync"), (os, "fdatasync"), (part_file, "start_writeback")):
        setattr(module, name, counted(getattr(module, name)))


def count_disk_thread(spent: Figures) -> threading.Event:
    """Has the disk thread add its CPU time to `spent` at its end, which sets the event."""
    ended, run = threading.Event(), disk.DiskThread._run

    def timed(self: disk.DiskThread) -> None:
        run(self)
        spent["disk thread"] += time.thread_time()
        ended.set()

    disk.DiskThread._run = timed  # type: ignore[method-assign]
    return ended


def fetch(url: str, out: Path, durability: str, sink: str, rate: int | None) -> Figures:
    """Returns the figures of one fetch, in a process that has done nothing else."""
    spent: Figures = {"syncs": 0.0, "disk thread": 0.0}
    count_syncs(spent)
    ended = count_disk_thread(spent)
    cpu, wall = time.process_time(), time.perf_counter()
    fastxfer.fetch(url, out, connections=16, durability=durability, sink=sink, max_rate=rate)
    if not ended.wait(DEADLINE_S):
        raise RuntimeError("the disk thread has not ended")
    figures = {**spent, "process": time.process_time() - cpu, "wall s": time.perf_counter() - wall}
    return {**figures, "own": spent["disk thread"] - spent["syncs"]}


def plain(out: Path, size: int) -> Figures:
    """Returns the figures of a plain loop; its `syncs` are one fdatasync."""
    block = bytearray(os.urandom(BLOCK))
    cpu, wall = time.process_time(), time.perf_counter()
    fd = os.open(out, os.O_RDWR | os.O_CREAT)
    reserve(fd, size)
    for at in range(0, size, BLOCK):
        os.pwrite(fd, block, at)
    began = time.thread_time()
    os.fdatasync(fd)
    syncs = time.thread_time() - began
    os.close(fd)
    return {"process": time.process_time() - cpu, "wall s": time.perf_counter() - wall, "syncs": syncs}


def one(case: str, url: str, out: Path, size: int, rate: int | None) -> Figures:
    """Runs a case in this process."""
    if case == PLAIN:
        figures = plain(out, size)
    else:
        durability, sink = case.split()
        figures = fetch(url, out, durability, sink, rate)
    dirtied = Path("/proc/self/io").read_text().split("\nwrite_bytes: ")[1].split()[0]
    return {**figures, "dirtied": int(dirtied) / size}


def kernel_threads() -> dict[str, float]:
    """Returns the CPU seconds of each kernel thread so far (children of kthreadd, proc(5))."""
    spent = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[1] == "2":
            spent[entry] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def measured(case: str, url: str, options: argparse.Namespace, home: Path) -> Figures:
    """Returns the figures of a case, run in a process of its own into a new directory."""
    place = Path(tempfile.mkdtemp(prefix="durability-", dir=options.dir))
    try:
        command = [sys.executable, "-m", "bench.durability", "--one", case, "--url", url, "--dir", str(place)]
        command += ["--size", str(options.size), *(["--rate", str(options.rate)] if options.rate else [])]
        before = kernel_threads()
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            env=clean_environment(home),
            stdout=subprocess.PIPE,
            timeout=DEADLINE_S,
            check=True,
        )
        os.sync()
        figures: Figures = json.loads(done.stdout)
        if (place / "object.bin").stat().st_size != options.size:
            raise RuntimeError(f"{case}: the file is not of the object's size")
        # One that has ended meanwhile takes its time along: idle workers do, after five minutes.
        kernel_s = sum(now - before.get(thread, 0.0) for thread, now in kernel_threads().items())
        return {**figures, "kernel threads": kernel_s, "together": figures["process"] + kernel_s}
    finally:
        shutil.rmtree(place)
        os.sync()


def table(results: dict[str, list[Figures]], size: int) -> list[str]:
    """Returns the lines of the table: minimum and median of each figure, CPU in ms a GB."""
    lines = ["".join(["CPU ms/GB, min median".ljust(26), *(name.rjust(17) for name in COLUMNS)])]
    for case, runs in results.items():
        cells = []
        for name in COLUMNS:
            values = [run[name] for run in runs if name in run]
            cpu = name not in ("dirtied", "wall s")
            scale, digits = (1000 / (size / GB), 1) if cpu else (1.0, 2)
            found = [f"{pick(values) * scale:.{digits}f}" for pick in (min, statistics.median) if values]
            cells.append((" ".join(found) or "-").rjust(17))
        lines.append("".join([case.ljust(26), *cells]))
    return lines


def verdict(results: dict[str, list[Figures]], sink: str) -> str:
    """Returns in words what the one durability costs over the other, by minimum."""
    none, periodic = results[f"none {sink}"], results[f"periodic {sink}"]
    base = min(run["process"] for run in none)

    def more(name: str, of: float = base) -> float:
        return (min(run[name] for run in periodic) - min(run[name] for run in none)) / of

    return (
        f"{sink}: periodic costs {more('disk thread'):+.1%} of the CPU of none on the disk thread: "
        f"{more('syncs'):+.1%} in syncs, {more('own'):+.1%} of its own; "
        f"the whole process: {more('process'):+.1%}; "
        f"all until it is on the disk: {more('together', min(run['together'] for run in none)):+.1%}"
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="bench.durability", description="What being power-safe costs.")
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="of the object (default 1G)")
    parser.add_argument("--rounds", type=int, default=10, help="after the warm-up (default 10)")
    parser.add_argument("--rate", type=parse_size, help="bytes a second at the most (default: no limit)")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to put the files"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds (default 1)")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the measurement."""
    options = parse_arguments(arguments)
    if options.one:
        figures = one(options.one, options.url, options.dir / "object.bin", options.size, options.rate)
        print(json.dumps(figures))
        return 0
    results: dict[str, list[Figures]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="durability-home-") as home, Nginx() as nginx:
        make_object(nginx.root / "object.bin", options.size)
        os.sync()
        for number in range(options.rounds + 1):
            order = list(CASES)
            random.Random(f"{options.seed} {number}").shuffle(order)
            for case in order:
                tell(f"round {number}/{options.rounds}: {case}")
                figures = measured(case, nginx.url("object.bin"), options, Path(home))
                if number > 0:
                    results[case].append(figures)
    tell("")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    limit = f" at {options.rate} bytes/s" if options.rate else ""
    print(f"{options.size} bytes{limit}, 16 connections, {options.rounds} rounds, {options.dir} ", end="")
    print(f"({file_system_of(options.dir)})", *table(results, options.size), sep="\n")
    print(*(verdict(results, sink) for sink in SINKS), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
