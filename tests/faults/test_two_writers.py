"""Two machines with one target on a file system whose locks end at each machine: one writes, the other is
told so or takes over, and the bytes under the final name are always those of one version of the object.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError
from fastxfer.storage.checkpoint import decode
from tests.cli.command import claimed, wait_until
from tests.faults.machine import Machine, Run
from tests.servers.objects import make_bytes
from tests.servers.raw import Fault, RangeHandler, RawServer, Request

MIB = 1024**2
SIZE = 4 * MIB
CHUNK = 65536
ENOUGH = MIB
LONG_S = 3600.0
ROUNDS = 400 if os.environ.get("FASTXFER_SOAK") else 6  # make soak


class Site:
    """An object in several versions, all of one size, and the directory that the machines share."""

    def __init__(self, place: Path, *, size: int = SIZE, ranges: bool = True) -> None:
        self.place = place
        self.back = place / "back"
        self.back.mkdir(parents=True)
        self.versions = [make_bytes(size, seed=n) for n in range(4)]
        self.gate = threading.Event()
        """While it is clear, answers stop half-way."""
        self.handler = RangeHandler(self.versions[0], faults=self._fault, ranges=ranges, last_modified=None)
        self.server = RawServer(self.handler)

    def _fault(self, request: Request) -> Fault | None:
        return (
            None
            if self.gate.is_set()
            else Fault(stall_at=len(self.handler.content.data) // 2, until=self.gate)
        )

    def serve(self, version: int) -> None:
        """Replaces the object."""
        self.handler.replace(self.versions[version], etag=f'"v{version + 1}"')

    @property
    def out(self) -> Path:
        return self.back / "out"

    def arrived(self) -> int | None:
        """Returns which version is there; it must be one, whole. None when nothing is."""
        try:
            data = self.out.read_bytes()
        except FileNotFoundError:
            return None
        assert data in self.versions, "the file is no version of the object"
        return self.versions.index(data)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.back))


@contextmanager
def site(place: Path, **options: object) -> Iterator[Site]:
    made = Site(place, **options)  # type: ignore[arg-type]
    with made.server:
        try:
            yield made
        finally:
            made.gate.set()


def half_way(here: Site, machine: Machine) -> Run:
    """Starts a transfer and returns when a part of the object is in place, and the server has stopped."""
    run = machine.fetch(here.server.url(), "-x", "2")
    wait_until(lambda: claimed(here.out) >= ENOUGH or run.over)
    assert not run.over, run.said
    return run


def test_a_lock_does_not_reach_the_other_machine(tmp_path: Path) -> None:
    """What all of this is about: on this file system both get the lock."""
    with site(tmp_path) as here, Machine(tmp_path, here.back, "one") as one:
        (here.back / "file").touch()
        with open(here.back / "file", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert one.ask("lock", str(one.shared / "file")) is True


def test_the_second_machine_is_told_of_the_first(tmp_path: Path) -> None:
    with (
        site(tmp_path) as here,
        Machine(tmp_path, here.back, "one") as one,
        Machine(tmp_path, here.back, "two", watch_s=LONG_S) as two,
    ):
        first = half_way(here, one)
        for machine in (two, one):
            second = machine.fetch(here.server.url())
            assert second.wait() == 1
            assert second.said["type"] == "TargetBusyError"
            assert f"(process {first.pid} on one, writing since 20" in second.said["message"]
        here.gate.set()
        assert first.wait() == 0
        assert here.arrived() == 0
        assert here.names() == ["out"]


def test_after_a_kill_the_next_one_goes_on_at_once(tmp_path: Path) -> None:
    with site(tmp_path) as here, Machine(tmp_path, here.back, "one", watch_s=LONG_S) as one:
        first = half_way(here, one)
        first.signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        here.gate.set()
        second = one.fetch(here.server.url())
        assert second.wait() == 0
        assert second.said["resumed"] >= ENOUGH
        assert here.arrived() == 0
        assert here.names() == ["out"]


def test_after_a_reboot_the_machine_goes_on_at_once(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        with Machine(tmp_path, here.back, "one") as one:
            half_way(here, one)
            one.lose()
        here.gate.set()
        with Machine(tmp_path, here.back, "one", boot="second", watch_s=LONG_S) as one:
            second = one.fetch(here.server.url())
            assert second.wait() == 0
            assert second.said["resumed"] >= ENOUGH
        assert here.arrived() == 0
        assert here.names() == ["out"]


def test_after_the_loss_of_a_machine_another_takes_over(tmp_path: Path) -> None:
    with site(tmp_path) as here, Machine(tmp_path, here.back, "two") as two:
        with Machine(tmp_path, here.back, "one") as one:
            half_way(here, one)
            one.lose()
        here.gate.set()
        second = two.fetch(here.server.url())
        assert second.wait() == 0
        assert second.said["resumed"] >= ENOUGH
        assert "which did not move for 1 s" in second.said["notes"][0]
        assert here.arrived() == 0
        assert here.names() == ["out"]


@pytest.mark.parametrize("version", [0, 1], ids=["the same", "replaced"])
@pytest.mark.parametrize("wakes", ["before", "after"])
def test_an_owner_that_was_stopped_wakes_up_to_nothing(tmp_path: Path, version: int, wakes: str) -> None:
    with (
        site(tmp_path) as here,
        Machine(tmp_path, here.back, "one") as one,
        Machine(tmp_path, here.back, "two") as two,
    ):
        first = half_way(here, one)
        first.signal(signal.SIGSTOP)
        here.serve(version)
        second = two.fetch(here.server.url(), "--max-rate", "4M")
        if wakes == "before":
            here.gate.set()
            wait_until(lambda: f'"pid":{second.pid},' in (here.back / "out.part.lock").read_text())
        else:
            here.gate.set()
            assert second.wait() == 0
            assert here.names() == ["out"]
        first.signal(signal.SIGCONT)
        assert first.wait() in (0, 1)
        if first.code:
            assert first.said["type"] == "TargetBusyError"
            assert "taken over by another transfer" in first.said["message"] or wakes == "after"
        assert second.wait() == 0
        assert here.arrived() in ((version,) if wakes == "before" else (0, version))
        assert here.names() == ["out"]


@pytest.mark.parametrize(("size", "ranges"), [(MIB // 2, True), (SIZE, False)], ids=["small", "a stream"])
def test_objects_without_a_checkpoint_are_taken_over_too(tmp_path: Path, size: int, ranges: bool) -> None:
    with (
        site(tmp_path, size=size, ranges=ranges) as here,
        Machine(tmp_path, here.back, "one") as one,
        Machine(tmp_path, here.back, "two") as two,
    ):
        first = one.fetch(here.server.url())
        here.server.wait_for_requests(1)
        wait_until((here.back / "out.part.lock").exists)
        first.signal(signal.SIGSTOP)
        here.serve(1)
        here.gate.set()
        second = two.fetch(here.server.url())
        assert second.wait() == 0
        assert here.arrived() == 1
        first.signal(signal.SIGCONT)
        first.wait()
        assert here.arrived() is not None
        assert here.names() == ["out"]


# ---- at random ----


def check_part_files(here: Site) -> None:
    """Every chunk that would be trusted unread is a chunk of the version that the checkpoint names."""
    for name in here.names():
        if not name.endswith(".ckpt"):
            continue
        try:
            checkpoint, *_ = decode((here.back / name).read_bytes())
            data = (here.back / name.removesuffix(".ckpt")).read_bytes()
            inode = (here.back / name.removesuffix(".ckpt")).stat().st_ino
        except (FileNotFoundError, CheckpointError):
            continue  # nothing would be trusted
        if checkpoint.inode != inode or len(data) != checkpoint.identity.size:
            continue
        version = here.versions[int((checkpoint.identity.etag or "").strip('"v')) - 1]
        for chunk in range(checkpoint.chunks):
            span = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            if checkpoint.durable[chunk // 8] >> chunk % 8 & 1:
                crc = int.from_bytes(checkpoint.crcs[8 * chunk : 8 * chunk + 8], "little")
                assert crc64nvme(data[span]) == crc == crc64nvme(version[span]), (name, chunk)


def one_round(here: Site, machines: list[Machine], chance: random.Random) -> None:
    """Two machines fetch; each is stopped, woken and killed as chance has it, and the object is replaced."""
    pulse = threading.Event()
    runs: list[Run | None] = [None, None]
    for _ in range(chance.randint(4, 10)):
        which = chance.randrange(2)
        run = runs[which]
        if run is None or run.over:
            rate = f"{chance.choice([2, 4, 8, 32])}M"
            durability = chance.choice(["periodic", "chunk", "none"])
            options = ["--max-rate", rate, "--durability", durability, "-x", str(chance.randint(1, 4))]
            runs[which] = machines[which].fetch(here.server.url(), *options)
        else:
            run.signal(
                chance.choice([signal.SIGSTOP, signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL, signal.SIGINT])
            )
        if chance.random() < 0.3:
            here.serve(chance.randrange(len(here.versions)))
        pulse.wait(chance.random() * chance.choice([0.1, 1.0]))
        here.arrived()
    for each in runs:
        if each is not None:
            each.signal(signal.SIGCONT)
            assert each.wait() in (0, 1, 7, -signal.SIGKILL), each.said
            if each.code == 1:
                assert each.said["type"] == "TargetBusyError", each.said
    here.arrived()
    check_part_files(here)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_two_machines_do_the_file_is_one_version(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with site(tmp_path) as here, ExitStack() as stack:
        here.gate.set()
        machines = [
            stack.enter_context(Machine(tmp_path, here.back, name, watch_s=0.5)) for name in ("one", "two")
        ]
        for _ in range(ROUNDS // 4):
            one_round(here, machines, chance)
            last = chance.choice(machines).fetch(here.server.url(), "--exists", "replace")
            assert last.wait() == 0, last.said
            arrived = here.arrived()
            assert arrived is not None
            if last.said["requests"]:  # what was left whole gets its name, and the server is not asked again
                assert here.versions[arrived] == here.handler.content.data
            litter = [name for name in here.names() if name != "out" and not name.startswith(".fastxfer-")]
            assert not litter
            here.out.unlink()
