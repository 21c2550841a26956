"""Six mirrors of one object, each of a known kind, by which a benchmark is judged.

with six_mirrors(tmp_path) as mirrors:
    report = fastxfer.bench(mirrors.urls(seed), seed=seed)
    assert mirrors.faults(report) == [] and mirrors.misses(report) == []
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastxfer.mirrorbench.report import BenchReport
from tests.servers import Authority
from tests.servers.nginx import Nginx
from tests.servers.objects import make_object
from tests.servers.shaping import Shaped

SIZE = 24 << 20
# From the best to the worst, each with what must be found of it. Each brings at least 1.6 times what the next
# does: 4 times 3 MB/s, 4 times 1 MB/s, 2.4 MB/s, 1 MB/s with a reset after every 80 KiB of a connection.
KINDS: dict[str, set[str]] = {
    "fast": set(),
    "far": {"far", "connection-limited"},
    "limited-a-connection": {"connection-limited"},
    "limited": {"limited"},
    "lossy": {"errors"},
    "stale": {"stale"},
}
JUDGED = {"far", "connection-limited", "limited", "errors", "stale", "differs", "unknown", "unreachable"}
BY_RATES = {"connection-limited", "limited"}
# What resets leave of a rate may well look like a limit, and is one: that is no fault.
ALLOWED = {"lossy": {"limited", "connection-limited", "falling", "rising"}}


@dataclass(frozen=True, slots=True)
class SixMirrors:
    """The URLs by kind; see the module."""

    by_kind: dict[str, str]

    def urls(self, seed: int) -> list[str]:
        """Returns the URLs in some order."""
        found = list(self.by_kind.values())
        random.Random(seed).shuffle(found)
        return found

    def faults(self, report: BenchReport) -> list[str]:
        """Returns in words what a report has wrong: the order, a finding that is not so, one that needs no
        rates and lacks.
        """
        kinds = {url: kind for kind, url in self.by_kind.items()}
        order = [kinds[row.url] for row in report.rows]
        faults = [] if order == list(KINDS) else [f"the order is {order}"]
        for row in report.rows:
            kind = kinds[row.url]
            found = set(row.findings) & JUDGED
            if KINDS[kind] - BY_RATES - found or found - KINDS[kind] - ALLOWED.get(kind, set()):
                faults.append(f"{kind} is said to be {sorted(found)}: {row.notes}")
            if row.same_object is not (kind != "stale"):
                faults.append(f"{kind}: same_object is {row.same_object}")
        return faults

    def misses(self, report: BenchReport) -> list[str]:
        """Returns what was not shown though it is so: kinds that rates tell, and neighbours. Where the
        machine is so busy that rates are anywhere, this is honest.
        """
        kinds = {url: kind for kind, url in self.by_kind.items()}
        missed = [
            f"{kinds[row.url]} is only said to be {sorted(row.findings)}"
            for row in report.rows
            if KINDS[kinds[row.url]] - set(row.findings)
        ]
        return [*missed, *(verdict for verdict in report.verdicts if " is faster than " not in verdict)]


@contextlib.contextmanager
def six_mirrors(directory: Path) -> Iterator[SixMirrors]:
    """Starts the mirrors."""
    root, keys = directory / "root", directory / "keys"
    for each in (root, keys):
        each.mkdir(mode=0o755)
    make_object(root / "data.bin", SIZE, 7)
    (root / "old").mkdir(mode=0o755)
    make_object(root / "old" / "data.bin", SIZE, 8)
    os.utime(root / "data.bin", (1_760_000_000, 1_760_000_000))
    os.utime(root / "old" / "data.bin", (1_750_000_000, 1_750_000_000))
    with contextlib.ExitStack() as stack:
        nginx = stack.enter_context(Nginx(root, Authority(keys)))
        port = nginx.ports["http"]
        far = stack.enter_context(Shaped(port, rate=3e6, rtt_s=0.1))
        slow_lanes = stack.enter_context(Shaped(port, rate=1e6))
        limited = stack.enter_context(Shaped(port, total_rate=2.4e6))
        lossy = stack.enter_context(Shaped(port, total_rate=1e6, reset_after=80 << 10))
        yield SixMirrors(
            {
                "fast": nginx.url("data.bin"),
                "far": far.url("data.bin"),
                "limited-a-connection": slow_lanes.url("data.bin"),
                "limited": limited.url("data.bin"),
                "lossy": lossy.url("data.bin"),
                "stale": nginx.url("old/data.bin"),
            }
        )
