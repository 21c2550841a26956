"""What a set costs that the workers of a Dask cluster fetch: CPU of the run, the scheduler and the workers.

    python -m bench.cluster --count 30000 --size 1024 --workers 2 --dir /dev/shm

A scheduler, workers and a local nginx, all on this machine; then one run of this process, from a manifest.
The CPU of each is the user and system time of its whole process, its start left out for the scheduler and the
workers. Against it stands the same set without a cluster, all in this one process. Compare CPU seconds: on
one machine the workers take the same cores as all else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastxfer
from bench.compare import file_system_of, machine
from bench.small import make
from tests.servers.nginx import Nginx

DEADLINE_S = 60.0
DURABILITY = "none"
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Returns the CPU time that a process and its children have used, those that run included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICKS
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return own + sum(cpu_s(int(child)) for child in children)


def own_cpu_s() -> float:
    """Returns the CPU time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, workers: int, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        common = ["--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", *common)
        dask = [
            "--nworkers",
            str(workers),
            "--nthreads",
            "1",
            "--local-directory",
            str(folder),
            "--no-dashboard",
        ]
        self.workers = self._start("worker", *common, *dask)
        deadline = time.monotonic() + DEADLINE_S
        while not self._file.exists() and time.monotonic() < deadline:
            self.scheduler.poll()
            time.sleep(0.05)
        self.address = str(json.loads(self._file.read_text())["address"])

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def used(self) -> tuple[float, float]:
        """Returns the CPU time of the scheduler and of the workers."""
        return cpu_s(self.scheduler.pid), cpu_s(self.workers.pid)

    def close(self) -> None:
        """Ends all."""
        for each in (self.workers, self.scheduler):
            each.terminate()
            each.wait(DEADLINE_S)


def timed(source: Path, dest: Path, **options: Any) -> tuple[float, float]:
    """Returns the wall and the CPU time that a run takes in this process. Raises where it is not complete."""
    wall, cpu = time.monotonic(), own_cpu_s()
    report = fastxfer.mirror(str(source), dest, durability=DURABILITY, **options)
    if not report.ok:
        raise RuntimeError(str(report))
    return time.monotonic() - wall, own_cpu_s() - cpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{given.count} objects of {given.size} bytes, {given.dir} on {file_system_of(given.dir)}")
    with tempfile.TemporaryDirectory(dir=given.dir) as scratch, Nginx() as nginx:
        folder, source = Path(scratch), Path(scratch) / "set.jsonl"
        with source.open("w") as file:
            for name in make(nginx, given.count, given.size):
                file.write(json.dumps({"url": nginx.url(name), "path": name, "size": given.size}) + "\n")
        listed_s, listed = timed(source, folder / "none", dry_run=True)
        cluster = Cluster(given.workers, folder)
        try:
            timed(source, folder / "warm", cluster=cluster.address, include="000/00000*")
            before = cluster.used()
            wall_s, cpu = timed(source, folder / "cluster", cluster=cluster.address)
            after = cluster.used()
        finally:
            cluster.close()
        alone_s, alone = timed(source, folder / "alone")
        ledger = (folder / "cluster" / ".fastxfer" / "mirror.db").stat().st_size
    million = 1e6 / given.count
    print(f"{'CPU s a million objects':34}{'CPU s':>9}{'wall s of this run':>22}")
    for name, used, took in (
        ("listing and comparing alone", listed, listed_s),
        (f"cluster of {given.workers}: the run's process", cpu, wall_s),
        (f"cluster of {given.workers}: the scheduler", after[0] - before[0], None),
        (f"cluster of {given.workers}: the workers", after[1] - before[1], None),
        ("without a cluster", alone, alone_s),
    ):
        print(f"{name:34}{used * million:9.0f}" + (f"{took:22.1f}" if took is not None else ""))
    print(f"ledger: {ledger * million / 1e6:.0f} MB a million objects")
    return 0


if __name__ == "__main__":
    sys.exit(main())
