"""A repair, and the keeping of a ledger, at each system call: killed before it, or refused it. No byte is
wrong that was right before, nothing that holds is lost, no ledger is of another file, and the next run goes
on.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fastxfer
from fastxfer.names import LEDGER, PART
from fastxfer.storage import kept
from tests.cli.command import COMMAND, wait_until
from tests.kills import AT_ONCE, SOAK
from tests.kills.calls import Call, record, run_with
from tests.kills.victims import CHUNK, CONNECTIONS, OLD, SINKS, Things, opened

RATE = "4M"
BEFORE = ("kept", "exchanged", "made", "repaired", "continued")
FLIPPED = (0, 5 * CHUNK + 77, 17 * CHUNK)
SAMPLE = 10  # kinds of calls, one of each; all calls in a soak
ERRORS = ("EIO", "ENOSPC", "EDQUOT") if SOAK else ("EIO",)


Ended = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Ledgered:
    """A target that has a ledger, or is to have one.

    kept       it is fetched, with a ledger
    exchanged  an older version that has one is replaced
    made       it is there, has lost its ledger, and gets a new one
    repaired   it has a ledger, and is damaged
    continued  that repair was killed once the target was a part file again
    """

    before: str
    sink: str
    directory: Path
    things: Things = field(repr=False)

    def __str__(self) -> str:
        return f"{self.before}-{self.sink}"

    @property
    def out(self) -> Path:
        """The target."""
        return self.directory / "out"

    @property
    def content(self) -> bytes:
        """The object."""
        return self.things.contents[self.things.large.name]

    @property
    def url(self) -> str:
        """The object's URL."""
        return self.things.nginx.url(self.things.large.name)

    @property
    def mends(self) -> bool:
        """True for a repair."""
        return self.before in ("repaired", "continued")

    @property
    def damaged(self) -> bytes:
        """The target with some bytes wrong."""
        data = bytearray(self.content)
        for at in FLIPPED:
            data[at] ^= 1
        return bytes(data)

    @property
    def right(self) -> list[bytes]:
        """What may stand under the final name; b"" is nothing."""
        return {
            "kept": [b"", self.content],
            "exchanged": [OLD, self.content],
            "made": [self.content],
            "repaired": [b"", self.damaged, self.content],
            "continued": [b"", self.content],
        }[self.before]

    def command(self) -> list[str]:
        """Returns the command line that does it."""
        options = {"-x": str(CONNECTIONS), "--durability": "chunk", "--sink": self.sink, "--max-rate": RATE}
        pairs = itertools.chain.from_iterable(options.items())
        if self.mends:
            return [*COMMAND, "verify", str(self.out), "--repair", self.url, "--json", *pairs]
        checksum = ["--checksum", f"sha256:{self.things.large.sha256}"] if self.before == "made" else []
        return [
            *[*COMMAND, "fetch", self.url, "-o", str(self.out), "--keep-ledger", "--json"],
            *["-k", str(CHUNK), *checksum, *pairs],
        ]

    def prepare(self) -> None:
        """Makes the directory, with what is there before."""
        self.directory.mkdir(parents=True)
        if self.before == "kept":
            return
        fastxfer.fetch(self.url, self.out, CONNECTIONS, chunk_size=CHUNK, keep_ledger=True)
        if self.before == "made":
            self.out.with_name(f"out{LEDGER}").unlink()
        elif self.mends:
            with self.out.open("r+b") as file:
                file.write(self.damaged)
            if self.before == "continued":
                mapped = Call("mmap", "part", 1) if self.sink == "mmap" else Call("pwrite64", "part", 1)
                _, killed = run_with("signal=SIGKILL", mapped, self.command(), self.out)
                assert killed and not self.out.exists()
        elif self.before == "exchanged":
            self.out.write_bytes(OLD)

    def at(self, directory: Path) -> Ledgered:
        """Returns the same in another directory."""
        return Ledgered(self.before, self.sink, directory, self.things)


def held(victim: Ledgered) -> None:
    """Nothing wrong stands there, what was right before is right, and what is a ledger is of its file."""
    there = victim.out.read_bytes() if victim.out.exists() else b""
    assert there in victim.right, "wrong bytes under the final name"
    part = victim.out.with_name(f"out{PART}")
    if victim.mends and not there:
        now = part.read_bytes()
        for start in range(0, len(victim.content), CHUNK):
            good = victim.content[start : start + CHUNK]
            if victim.damaged[start : start + CHUNK] == good:
                assert now[start : start + CHUNK] == good, f"the chunk at {start} was right, and is lost"
    if there != victim.content:
        return
    with opened(victim.out) as target, target.directory.reading(target.name) as fd:
        ledger = kept.beside(target, fd)
    assert ledger is None or fastxfer.verify(victim.out).ok, "a ledger of another file"


def goes_on(victim: Ledgered, *, by_fetch: bool) -> None:
    """Does it again: the right bytes are there, and nothing but a ledger that holds."""
    if victim.mends and not by_fetch:
        done = fastxfer.verify(victim.out, repair=victim.url, connections=CONNECTIONS)
        assert done.ok and (done.repaired or 0) <= len(FLIPPED) * CHUNK
    else:
        checksum = f"sha256:{victim.things.large.sha256}" if victim.before == "made" else None
        result = fastxfer.fetch(victim.url, victim.out, CONNECTIONS, keep_ledger=True, checksum=checksum)
        assert result.size == len(victim.content)
        if checksum is not None:  # one that has nothing to do, and looks no further than the target
            assert fastxfer.fetch(victim.url, victim.out, CONNECTIONS, keep_ledger=True).skipped
    assert victim.out.read_bytes() == victim.content
    assert set(os.listdir(victim.directory)) - {f"out{LEDGER}"} == {"out"}, os.listdir(victim.directory)
    if victim.out.with_name(f"out{LEDGER}").exists():
        assert fastxfer.verify(victim.out).ok


def undisturbed(act: Callable[[], object]) -> None:
    """Does something that takes a lock; again, while a process that another thread is about to start has the
    lock too, until it becomes another program.
    """

    def done() -> bool:
        try:
            act()
        except fastxfer.TargetBusyError:
            return False
        return True

    wait_until(done)


Cases = list[tuple[Ledgered, Call]]
Check = Callable[[Ledgered, Call, str, Ended, bool], None]


@pytest.fixture(scope="module")
def cases(things: Things, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Each call of each victim, which has run to its end once."""
    directory = tmp_path_factory.mktemp("ledgered")
    victims = [
        Ledgered(before, sink, directory / f"{before}-{sink}", things)
        for before, sink in itertools.product(BEFORE, SINKS)
        if SOAK or (before != "kept" and (before in ("repaired", "continued")) == (sink == "mmap"))
    ]

    def calls_of(victim: Ledgered) -> Cases:
        victim.prepare()
        calls = record(victim.command(), victim.out, directory / f"{victim}.log")
        assert victim.out.read_bytes() == victim.content
        return [(victim, call) for call in calls]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(itertools.chain.from_iterable(pool.map(calls_of, victims)))


def some(cases: Cases) -> Cases:
    """Returns all of them in a soak, else one of some kinds."""
    rng = random.Random("repairs")
    kinds: dict[tuple[str, str, str], Cases] = defaultdict(list)
    for victim, call in cases:
        kinds[str(victim), call.name, call.on].append((victim, call))
    if SOAK:
        return cases
    return [rng.choice(kinds[kind]) for kind in rng.sample(sorted(kinds), min(SAMPLE, len(kinds)))]


def all_of(cases: Cases, effects: Sequence[str], tmp_path: Path, check: Check) -> list[bool]:
    """Does each effect to each of the calls; returns which of them came to it."""

    def run(number: int) -> bool:
        (victim, call), effect = work[number]
        victim = victim.at(tmp_path / f"{number}")
        victim.prepare()
        ended, done = run_with(effect, call, victim.command(), victim.out)
        try:
            check(victim, call, effect, ended, done)
            undisturbed(lambda: held(victim))
            undisturbed(lambda: goes_on(victim, by_fetch=number % 2 == 1))
        except BaseException as error:
            raise AssertionError(f"{victim}, {effect} at {call}: {error}\n{ended}") from error
        shutil.rmtree(victim.directory)
        return done

    work = list(itertools.product(cases, effects))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(run, number) for number in range(len(work))]
        errors = [error for future in futures if (error := future.exception()) is not None]
    assert not errors, "\n".join(str(error)[:900] for error in errors)
    return [future.result() for future in futures]


def was_killed(victim: Ledgered, call: Call, effect: str, ended: Ended, done: bool) -> None:
    assert ended.returncode == (-signal.SIGKILL if done else 0), ended.stderr


def was_told(victim: Ledgered, call: Call, effect: str, ended: Ended, done: bool) -> None:
    """The error has the right type and number; before the rename the target is what it was."""
    gives_back = (call.name, call.on) == ("flock", "target")  # closing the file does that too
    assert ended.returncode or not done or gives_back, "nothing was said"
    if not ended.returncode:
        return
    name = effect.partition("=")[2]
    told = json.loads(ended.stdout.splitlines()[-1])
    full = name in ("ENOSPC", "EDQUOT")
    kind, code = ("DiskFullError", 9) if full else ("StorageError", 17)
    assert (told["type"], told["errno"], ended.returncode) == (kind, getattr(errno, name), code), told
    # What could not be removed is there; a ledger that got no name is whole, and known without it.
    if victim.before == "made" and call.name not in ("renameat", "unlinkat"):
        assert set(os.listdir(victim.directory)) - {f"out{LEDGER}"} == {"out"}, "half a ledger lies there"


def test_a_repair_that_is_killed_before_a_call_goes_on(cases: Cases, tmp_path: Path) -> None:
    repairs = some([(victim, call) for victim, call in cases if victim.mends])
    killed = all_of(repairs, ["signal=SIGKILL"], tmp_path, was_killed)
    assert sum(killed) >= len(killed) * 3 // 4


def test_each_refusal_of_a_call_that_a_ledger_takes_is_told(cases: Cases, tmp_path: Path) -> None:
    ledgers = [case for case in cases if case[1].on in ("ledger", "target")]
    names = some([case for case in cases if case[1].on == "dir"])
    refused = all_of([*ledgers, *names], [f"error={name}" for name in ERRORS], tmp_path, was_told)
    assert sum(refused) >= len(refused) * 9 // 10  # how often it saves is not the same each time
