"""Anything may happen to a target, in any order: afterwards it holds the object's bytes, or an honest error
was told; never a wrong byte under the final name, never a false claim, never progress lost that was promised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

import fastxfer
from fastxfer._native.checksum import crc64nvme
from fastxfer.cli.status import read_status
from fastxfer.errors import CheckpointError, StorageError
from fastxfer.safekeeping import SMALL_BYTES
from tests.cli.command import claimed, wait_until
from tests.machine import SOAK, TEETH
from tests.machine.actors import Actors
from tests.machine.model import differ, left_of, overlaid
from tests.machine.stage import Stage
from tests.machine.world import SIZES, World, holding, look
from tests.servers.raw import RawServer

# How the server tells versions apart: by both, by one, by an ETag alone beside a date that stays, not at all.
VALIDATORS = ("both", "etag", "etag, same date", "date", "weak", "none")
MAY_STAY = {"out", "out.part", "out.part.ckpt", "out.fxsum"}
AFTER_A_KILL = {"out.part.new", "out.fxsum.new"}

OPTIONS = st.fixed_dictionaries(
    {
        "connections": st.sampled_from([1, 1, 3]),
        "exists": st.sampled_from(["update", "update", "update", "replace", "replace", "skip", "error"]),
        "on_change": st.sampled_from(["restart", "restart", "fail"]),
        "resume": st.sampled_from([True, True, True, False]),
        "durability": st.sampled_from(["chunk", "chunk", "chunk", "periodic", "none"]),
        "sink": st.sampled_from(["auto", "direct", "mmap", "pwrite"]),
        "chunk_size": st.sampled_from([65536, 100_000, 262144]),
        "keep_ledger": st.booleans(),
        "unpause": st.sampled_from([True, True, False]),
    }
)
# For the steps that have to come to something.
UNDISTURBED = {"exists": "replace", "resume": True, "unpause": True, "connections": 1, "durability": "chunk"}
DAMAGE = [
    "cut",
    "cut and grown",
    "edited",
    "edited",
    "edited",
    "longer",
    "copied",
    "copied and edited",
    "removed",
]
CHECKSUM = st.sampled_from(["", "", "sha256", "crc64nvme", "crc64nvme", "another's"])


class Machine(World):
    """The steps."""

    # ---- the server ----

    @initialize(
        validators=st.sampled_from(VALIDATORS), size=st.sampled_from(SIZES[:2]), ranges=st.integers(0, 9)
    )
    def begin(self, validators: str, size: int, ranges: int) -> None:
        self.validators = validators
        self.stage.ranges = ranges > 0
        self.stage.honour_if_range = ranges != 1
        self.stage.gone = False
        self.stage.lift()
        self.versions = []
        self.show(self.version(size, 0))

    @rule(how=st.sampled_from(["bytes", "bytes", "size", "small", "validator", "back"]))
    def change_the_remote(self, how: str) -> None:
        """Another version, or one that was there before."""
        self.show(self.another(how))

    @rule(gone=st.sampled_from([True, False, False]))
    def lose_the_remote(self, gone: bool) -> None:
        """404, or there again."""
        self.stage.gone = gone

    # ---- fetches ----

    @rule(options=OPTIONS, checksum=CHECKSUM)
    def fetch(self, options: dict[str, Any], checksum: str) -> None:
        """To the end, whatever that is."""
        expected = self.start(options, checksum, None)
        self.judge(expected, self.actors.end())

    @rule(options=OPTIONS, share=st.integers(3, 19))
    def fetch_a_part(self, options: dict[str, Any], share: int, checksum: str = "") -> None:
        """What most of the others need first: progress, claimed, and the process killed."""
        self.fetch_and_kill({**options, "exists": "replace", "unpause": True}, checksum, share, True)

    @rule(options=OPTIONS, checksum=CHECKSUM, share=st.integers(1, 20), settled=st.booleans())
    def fetch_and_kill(self, options: dict[str, Any], checksum: str, share: int, settled: bool) -> None:
        """SIGKILL when a share of what is missing was sent, at once or when it must have been claimed."""
        expected = self.start(options, checksum, share)
        outcome = self.actors.curtain_or_end()
        if outcome is None:
            if settled:
                self.settle(expected, options, share)
            self.actors.tell("kill")
            outcome = self.actors.end()
        self.judge(expected, outcome)

    @rule(
        options=OPTIONS,
        checksum=CHECKSUM,
        share=st.integers(1, 19),
        then=st.sampled_from(["resume", "kill", "exit", "cancel"]),
    )
    def fetch_and_pause(self, options: dict[str, Any], checksum: str, share: int, then: str) -> None:
        """The user pauses; meanwhile nobody else gets at the target; then it goes on, or ends in some way."""
        expected = self.start(options, checksum, share)
        outcome = self.actors.curtain_or_end()
        answered = not (expected.errors or expected.skipped or expected.refused or expected.restarts)
        if outcome is None and not answered:
            self.stage.lift()  # it ends by itself or asks again, perhaps before it hears of a pause
            outcome, then = self.actors.end(), "resume"
        elif outcome is None:
            self.actors.tell("pause")
            if len(self.remote.data) > SMALL_BYTES:
                complete = expected.left is not None and expected.left.complete
                wait_until(lambda: (complete and self.actors.ended) or self.is_paused())
                if not complete:
                    with pytest.raises(fastxfer.TargetBusyError):
                        fastxfer.fetch(self.server.url(), self.out, exists="replace")
            self.actors.tell(then)
            if then == "resume":
                self.stage.lift()
            outcome = self.actors.end()
            if then == "cancel" and outcome.result is None:
                assert outcome.error == "PausedError", outcome
        paused = then != "resume" and outcome.result is None
        self.judge(expected, outcome, ended={"PausedError", "InterruptedTransferError"} if paused else set())

    @precondition(lambda self: self.validators != "none")
    @rule(
        options=OPTIONS,
        checksum=CHECKSUM,
        share=st.integers(1, 20),
        how=st.sampled_from(["bytes", "size", "validator"]),
    )
    def fetch_while_it_changes(self, options: dict[str, Any], checksum: str, share: int, how: str) -> None:
        """The remote changes when a share was sent: all of the one version, or all of the other."""
        before = self.remote
        expected = self.start(options, checksum, share)
        outcome = self.actors.curtain_or_end()
        if outcome is None:
            after = self.another(how)
            self.show(after)
            wanted = holding(options | self.given)
            expected.errors |= {"RemoteChangedError"} if options["on_change"] == "fail" else set()
            expected.errors |= set() if wanted(before.data) and wanted(after.data) else {"ChecksumError"}
            expected.data += [after.data] if wanted(after.data) else []
            expected.restarts, expected.put = True, b""
            self.stage.lift()
            outcome = self.actors.end()
        self.judge(expected, outcome)

    # ---- damage ----

    @rule(
        how=st.sampled_from(DAMAGE),
        at=st.integers(0, 99),
        length=st.sampled_from([1, 5000, 300_000]),
    )
    def damage_the_part_file(self, how: str, at: int, length: int) -> None:
        size = self.part.stat().st_size if self.part.exists() else 0
        if not size:
            return
        start = size * at // 100 if how != "removed" else 0
        stop = min(size, start + length) if "edited" in how else size
        if how == "removed":
            self.part.unlink()
        elif "copied" in how:
            data = self.part.read_bytes()
            self.part.unlink()
            self.part.write_bytes(data)
            if "edited" in how:
                _flip(self.part, start, stop)
        elif how == "longer":
            os.truncate(self.part, size + length)
        elif how == "edited":
            _flip(self.part, start, stop)
        else:
            os.truncate(self.part, start)
            if how == "cut and grown":
                os.truncate(self.part, size)
        if how not in ("longer", "copied"):
            self.edits.append((start, stop))

    @rule(
        how=st.sampled_from(["edited", "slot", "cut", "removed"]),
        at=st.integers(0, 999),
        slot=st.integers(0, 1),
    )
    def damage_the_checkpoint(self, how: str, at: int, slot: int) -> None:
        if not self.checkpoint.exists():
            return
        half = self.checkpoint.stat().st_size // 2
        if how == "removed":
            self.checkpoint.unlink()
        elif how == "cut":
            os.truncate(self.checkpoint, 2 * half * at // 1000)
        elif how == "edited":
            _flip(self.checkpoint, slot * half + at, slot * half + at + 1)
        elif half:
            _flip(self.checkpoint, slot * half, (slot + 1) * half)

    @rule(
        how=st.sampled_from(["edited", "cut", "longer", "removed"]),
        at=st.integers(0, 99),
        keep_time=st.booleans(),
    )
    def damage_the_final_file(self, how: str, at: int, keep_time: bool) -> None:
        if self.final is None:
            return
        if how == "removed":
            self.out.unlink()
            self.final = self.final_of = None
            self.out.with_name("out.fxsum").unlink(missing_ok=True)
            return
        there = self.out.stat()
        start = there.st_size * at // 100
        if how == "edited":
            _flip(self.out, start, min(there.st_size, start + 5000))
        else:
            os.truncate(self.out, start if how == "cut" else there.st_size + 5000)
        if keep_time:
            os.utime(self.out, ns=(there.st_atime_ns, there.st_mtime_ns))
        else:
            os.utime(self.out, (1, 1))
            self.final_of = None
        self.final, self.edited = self.out.read_bytes(), True

    # ---- verification ----

    @rule(checksum=CHECKSUM)
    def verify(self, checksum: str) -> None:
        """Tells the truth, and changes nothing."""
        given, before = self.checksum(checksum), look(self.directory)
        self.actors.begin("verify", str(self.out), **given)
        outcome = self.actors.end()
        assert look(self.directory) == before
        if outcome.result is None:
            nothing = self.final is None and not self.part.exists()
            damaged = self.final is None and not nothing and outcome.error == "CheckpointError"
            assert damaged or (nothing and outcome.error == "StorageError"), outcome
        elif self.final is not None:
            ledger = self.ledger()
            right = crc64nvme(self.final) == ledger if ledger is not None else False
            assert outcome.result["ok"] == (holding(given)(self.final) if given else right), outcome
        else:
            self.part_verified(outcome.result, given)

    def part_verified(self, result: dict[str, Any], given: dict[str, Any]) -> None:
        left = left_of(self.out)
        if left is None:
            assert not result["ok"] or given
            return
        holding = [left.span(chunk) for chunk in left.claimed]
        right = next((each for each in self.versions if left.is_of(each)), None)
        if right is not None and self.validators != "none" and not given:
            assert result["ok"] or differ(left.data, right.data, holding) or result["bad"], result
            for start, stop in differ(left.data, right.data, holding):
                assert any(a < stop and start < b for a, b in result["bad"]), result

    @rule(checksum=CHECKSUM)
    def repair(self, checksum: str) -> None:
        """Mends it, or tells why not and leaves the final file alone."""
        given, had = self.checksum(checksum), self.final
        self.stage.fall_after(None)
        ledger = self.ledger()
        whole = had is not None and ledger == crc64nvme(had)
        self.actors.begin("verify", str(self.out), repair=self.server.url(), **given)
        outcome = self.actors.end()
        self.server.drop()
        there = self.out.read_bytes() if self.out.exists() else None
        if outcome.result is None:
            allowed = ("RemoteChangedError", "NotFoundError", "CannotResumeError", "CheckpointError",
                       "ChecksumError", "StorageError")  # fmt: skip
            assert outcome.error in allowed, outcome
            shorter = there is not None and had is not None and had.startswith(there)
            longer = shorter and self.ledger() == crc64nvme(there or b"")  # by what was no part of the object
            left = left_of(self.out) if there is None and had is not None else None
            goes_on = (
                outcome.error == "ChecksumError" and left is not None and left.checkpoint.crc64 == ledger
            )  # an interrupted transfer now
            assert there == had or longer or goes_on, "a repair that failed cost the final file"
            self.final, self.final_of = there, self.final_of if there is not None else None
        elif not outcome.result["ok"]:
            assert there == had and outcome.result["verified"] == "none"
        elif there != had or not (whole or given):
            assert there is not None
            right = holding(given)(there) if given else there == self.remote.data
            assert right, "a repair left wrong bytes"
            self.made(there, next(each for each in [self.remote, *self.versions] if each.data == there))
        self.edits = self.still_wrong()

    # ---- what seldom comes together by chance ----

    @rule(options=OPTIONS, shares=st.tuples(st.integers(5, 15), st.integers(5, 15)))
    def fetch_parts_of_two_versions(self, options: dict[str, Any], shares: tuple[int, int]) -> None:
        """With a checksum the second may be another node's of a CDN: only its end would tell."""
        options = {**options, **UNDISTURBED, "on_change": "restart", "chunk_size": 65536}
        self.undisturbed()
        self.fetch_a_part({**options, "resume": False}, shares[0])
        self.change_the_remote("bytes")
        expected = self.start(options, "sha256", shares[1])
        had, outcome = claimed(self.out), self.actors.curtain_or_end()
        if outcome is None:
            # What is not yet a chunk may wait in a buffer.
            enough = self.stage.sent > 2 * 65536
            if (
                enough
                and self.validators == "etag, same date"
                and self.stage.ranges
                and self.stage.honour_if_range
            ):
                wait_until(lambda: self.actors.ended or claimed(self.out) > had)
            self.actors.tell("kill")
            outcome = self.actors.end()
        self.judge(expected, outcome)
        self.fetch(options, "")

    @rule(
        options=OPTIONS,
        checksum=CHECKSUM,
        share=st.integers(5, 19),
        how=st.sampled_from(DAMAGE),
        at=st.integers(0, 40),
    )
    def go_on_over_damage(
        self, options: dict[str, Any], checksum: str, share: int, how: str, at: int
    ) -> None:
        """A part, damaged, and fetched to the end."""
        options = {**options, **UNDISTURBED}
        self.undisturbed()
        self.fetch_a_part({**options, "resume": False}, share)
        self.damage_the_part_file(how, at, 5000)
        self.fetch(options, checksum)

    @rule(options=OPTIONS, share=st.integers(5, 19), then=st.sampled_from(["kill", "exit", "cancel"]))
    def go_on_after_a_pause(self, options: dict[str, Any], share: int, then: str) -> None:
        """Paused by its user, ended, and fetched with and without `unpause`."""
        fresh = {**options, **UNDISTURBED, "resume": False}
        self.undisturbed()
        self.fetch_and_pause(fresh, "", share, then)
        self.fetch({**options, "resume": True}, "")

    @rule(options=OPTIONS, at=st.integers(0, 90), change=st.sampled_from(["", "bytes", "validator"]))
    def repair_what_was_kept(self, options: dict[str, Any], at: int, change: str) -> None:
        """A finished file with its ledger, damaged, and repaired from the same object or from another."""
        self.undisturbed()
        self.fetch({**options, **UNDISTURBED, "resume": False, "keep_ledger": True}, "")
        self.damage_the_final_file("edited", at, True)
        if change:
            self.change_the_remote(change)
        self.repair("")

    @rule(options=OPTIONS, change=st.sampled_from(["bytes", "validator", "size"]))
    def fetch_what_changed(self, options: dict[str, Any], change: str) -> None:
        """A finished file, and another version of it."""
        self.undisturbed()
        self.fetch({**options, **UNDISTURBED, "resume": False}, "")
        self.change_the_remote(change)
        self.fetch({**options, "exists": "update"}, "")

    def undisturbed(self) -> None:
        """The server has an object, and one that is large enough to go on with."""
        self.stage.gone = False
        if len(self.remote.data) <= SMALL_BYTES:
            self.change_the_remote("size")

    # ---- after each step ----

    @invariant()
    def the_final_file_is_what_it_should_be(self) -> None:
        there = self.out.read_bytes() if self.out.exists() else None
        assert there == self.final, "the final file changed"
        ledger = self.ledger()
        if ledger is not None and there is not None and not self.edited:
            assert ledger == crc64nvme(there), "a ledger of another file stands beside it"

    @invariant()
    def what_the_next_run_keeps_is_right(self) -> None:
        """And every claim holds, in a part file that has its size and that nobody else has changed."""
        with suppress(CheckpointError):
            left = left_of(self.out)
            if left is None:
                return
            whole = len(left.data) == left.size and not self.edits
            assert not whole or left.kept == left.claimed, "a claim does not hold"
            known = left.checkpoint.identity
            candidates = [each.data for each in self.versions if left.is_of(each)]
            for span in left.spans if known.has_validator else []:  # else a checksum has to tell
                right = any(
                    not differ(overlaid(left.data, data, self.edits), data, [span]) for data in candidates
                )
                assert right, f"{span} of {known} would be kept and is not the object's"

    @invariant()
    def status_tells_what_is_there(self) -> None:
        there = self.out.exists() or self.part.exists() or self.checkpoint.exists()
        try:
            status = read_status(str(self.out))
            assert status.state == "complete" or not status.claimed or self.part.exists()
        except StorageError as error:
            assert not there, error
        except CheckpointError:
            assert self.checkpoint.exists()

    @invariant()
    def nothing_else_is_there(self) -> None:
        names = {name for name in os.listdir(self.directory) if ".orphan" not in name}
        assert names <= MAY_STAY | AFTER_A_KILL, names


def _flip(path: Path, start: int, stop: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        old = file.read(stop - start)
        file.seek(start)
        file.write(bytes(byte ^ 0x55 for byte in old))


@pytest.fixture(scope="module")
def machine() -> Iterator[type[Machine]]:
    stage = Stage()
    with RawServer(stage) as server, Actors(stage.fallen) as actors:
        Machine.stage, Machine.server, Machine.actors = stage, server, actors
        yield Machine
        stage.lift()
    stage.close()


@pytest.mark.parametrize("seed", range(20 if SOAK else 1))
def test_whatever_happens_to_a_target_its_bytes_are_right(machine: type[Machine], seed: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=300 if SOAK or TEETH else 30,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate] if TEETH else list(Phase),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
