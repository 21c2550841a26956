"""What is known of a target and its server, what a fetch has to come to, and whether it did."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError
from fastxfer.safekeeping import SMALL_BYTES
from fastxfer.storage import kept
from tests.cli.command import claimed, wait_until
from tests.kills.victims import opened
from tests.machine.actors import Actors, Outcome
from tests.machine.model import Left, Span, checkpoint_of, differ, left_of, overlaid
from tests.machine.stage import Stage, Version
from tests.servers.objects import make_bytes
from tests.servers.raw import RawServer

SIZES = (1_300_000, 1_200_001, 300_000)
DATE = "Wed, 01 Jan 2025 00:00:{:02} GMT"
BLOCK = 4096


@dataclass(slots=True)
class Expected:
    """What a fetch has to come to: an error of these, or these bytes; `put` is what it puts together."""

    errors: set[str] = field(default_factory=set)
    data: list[bytes] = field(default_factory=list)
    put: bytes = b""
    left: Left | None = None
    skipped: bool = False
    restarts: bool = False
    refused: bool = False
    """The first answer is asked for again: what was sent of it counts for nothing."""


class World(RuleBasedStateMachine):
    """What is known: the server's versions, the final file, and which of the part
    file's bytes somebody has changed.
    """

    actors: ClassVar[Actors]
    stage: ClassVar[Stage]
    server: ClassVar[RawServer]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="fastxfer-machine-"))
        self.out = self.directory / "out"
        self.part = self.directory / "out.part"
        self.checkpoint = self.directory / "out.part.ckpt"
        self.validators = ""
        self.remote = Version(b"", None, None)
        self.asked_for = self.remote
        self.versions: list[Version] = []
        self.given: dict[str, Any] = {}
        self.before: dict[str, tuple[bytes, int]] = {}
        self.kept_before = 0
        self.limit: int | None = None
        self.final: bytes | None = None
        self.final_of: Version | None = None
        """The version of which the final file is by its date and attribute."""
        self.edited = False
        """Somebody changed the final file since it was made."""
        self.edits: list[Span] = []

    def teardown(self) -> None:
        self.actors.clear()
        self.stage.lift()
        self.server.drop()
        shutil.rmtree(self.directory)

    # ---- the server's versions ----

    def version(self, size: int, seed: int) -> Version:
        """Returns a version that no earlier one can be taken for, where validators tell at all."""
        number = len(self.versions)
        tag = f'"{number}"' if self.validators != "weak" else f'W/"{number}"'
        has_date = self.validators in ("both", "date", "etag, same date")
        moves = self.validators in ("both", "date")
        return Version(
            make_bytes(size, seed),
            None if self.validators in ("date", "none") else tag,
            DATE.format(number if moves else 0) if has_date else None,
        )

    def show(self, version: Version) -> None:
        self.remote = version
        if version not in self.versions:
            self.versions.append(version)
        self.stage.show(version)

    def another(self, how: str) -> Version:
        size, number = len(self.remote.data), len(self.versions)
        if how == "back" or number > 30:
            return self.versions[(self.versions.index(self.remote) + 1) % number]
        if how == "validator":
            return replace(self.version(size, 0), data=self.remote.data)
        size = {"size": SIZES[size == SIZES[0]], "small": SIZES[2]}.get(how, size)
        return self.version(size, number)

    # ---- what is there ----

    def kept(self) -> int:
        """Returns how much the next run keeps, 0 where nothing can be told."""
        with suppress(CheckpointError):
            left = left_of(self.out)
            return left.bytes if left is not None else 0
        return 0

    def ledger(self) -> int | None:
        """Returns the CRC-64/NVME that the kept ledger says of the whole, None if there is none."""
        with opened(self.out) as target:
            if not self.out.exists():
                return None
            with target.directory.reading(target.name) as fd:
                found = kept.beside(target, fd)
        return found.crc64 if found is not None else None

    def is_paused(self) -> bool:
        with suppress(CheckpointError):
            found = checkpoint_of(self.out)
            return found is not None and found.paused
        return False

    def is_current(self) -> bool:
        """Returns whether the final file looks like the server's object."""
        if self.final is None or self.final_of is None or len(self.final) != len(self.remote.data):
            return False
        mine, remote = self.final_of, self.remote
        if mine.etag and remote.etag and mine.etag != remote.etag:
            return False
        if remote.last_modified:
            return mine.last_modified == remote.last_modified
        return mine.etag is not None and mine.etag == remote.etag

    def still_wrong(self) -> list[Span]:
        """Returns those of the changed bytes that are not yet right again, in blocks."""
        if not self.checkpoint.exists():
            return []
        there = self.part.read_bytes() if self.part.exists() else b""
        blocks = [(at, min(at + BLOCK, b)) for a, b in self.edits for at in range(a, b, BLOCK)]
        same = [each.data for each in self.versions]
        return [span for span in blocks if all(differ(there, data, [span]) for data in same)]

    # ---- what is to be expected ----

    def start(self, options: dict[str, Any], checksum: str, share: int | None) -> Expected:
        """Starts a fetch; the curtain falls when so many twentieths of what is missing were sent."""
        self.given = self.checksum(checksum)
        options = {**options, **self.given}
        self.before = look(self.directory)
        expected = self.expect(options)
        self.kept_before, self.asked_for = self.kept(), self.remote
        missing = len(self.remote.data)
        if expected.left is not None and (expected.refused or not expected.restarts):
            missing -= expected.left.bytes
        self.limit = None if share is None else max(1, missing * share // 20)
        self.stage.fall_after(self.limit)
        self.actors.begin("fetch", self.server.url(), str(self.out), **options)
        return expected

    def checksum(self, name: str) -> dict[str, Any]:
        data = self.remote.data
        if name == "another's":
            name, data = "sha256", self.versions[0].data if len(self.versions) > 1 else b"no version's"
        if not name:
            return {}
        hexed = hashlib.sha256(data).hexdigest() if name == "sha256" else f"{crc64nvme(data):016x}"
        return {"checksum": f"{name}:{hexed}"}

    def expect(self, options: dict[str, Any]) -> Expected:
        """Returns what the documents say that a fetch comes to now."""
        holds, has_checksum, data = holding(options), "checksum" in options, self.remote.data
        if self.final is not None:
            if options["exists"] == "error":
                return Expected({"TargetExistsError"})
            if options["exists"] == "skip" or (
                options["exists"] == "update" and has_checksum and holds(self.final)
            ):
                return Expected(data=[self.final], skipped=True)
        left = None
        if options["resume"]:
            try:
                trust = not options.get("checksum", "").startswith("crc64nvme")
                left = left_of(self.out, trust=trust)
            except CheckpointError:
                if self.part.exists() and self.part.stat().st_size:
                    return Expected({"CheckpointError"})
                return Expected({"CheckpointError", *self._errors(holds)}, [data] if holds(data) else [])
            checkpoint = checkpoint_of(self.out)
            if left and left.checkpoint.paused and not options["unpause"] and self.provable(left, options):
                return Expected({"PausedError"})
            if checkpoint is not None and checkpoint.paused and left is None and not options["unpause"]:
                return Expected({"PausedError"})  # of an object whose part file is missing
        refused = left is not None and not left.is_of(self.remote)
        dropped = left is not None and not self.provable(left, options)
        if dropped:
            left = None
        if left is not None and left.complete and has_checksum:
            put = overlaid(bytes(left.size), left.data, left.spans)
            if holds(put):
                return Expected(data=[put], put=put, left=left)
            if options["on_change"] == "fail":
                return Expected({"ChecksumError"})
            left, dropped = None, True
        if self.stage.gone:
            return Expected({"NotFoundError"}, left=left)
        if options["exists"] == "update" and not has_checksum and self.is_current():
            assert self.final is not None
            return Expected(data=[self.final], skipped=True)
        if left is not None and not left.is_of(self.remote):
            by_etag_only = replace(left.checkpoint.identity, etag=None) == replace(
                self.remote.identity, etag=None
            )
            decides = has_checksum and by_etag_only and self.remote.last_modified is not None
            if options["on_change"] == "fail":
                return Expected({"RemoteChangedError"}, left=left)
            if not decides:
                left, dropped = None, True
        if left is not None and not self.stage.ranges:
            left, dropped = None, True
        put = data if left is None else overlaid(data, left.data, left.spans)
        if left is not None and left.checkpoint.crc64 is not None:
            user, whole = holds, left.checkpoint.crc64
            holds = lambda made: user(made) and crc64nvme(made) == whole  # noqa: E731
        if left is not None and not has_checksum and left.checkpoint.crc64 is None:
            self.nothing_false(put, data)
            return Expected(data=[put], put=put, left=left, restarts=dropped, refused=refused)
        if holds(put):
            return Expected(data=[put], put=put, left=left, restarts=dropped, refused=refused)
        if left is not None and options["on_change"] == "restart":
            errors, arrives = ({"ChecksumError"}, []) if not holding(options)(data) else (set(), [data])
            return Expected(errors, arrives, put, left, restarts=True, refused=refused)
        return Expected({"ChecksumError"}, put=put, left=left, restarts=dropped)

    def _errors(self, holds: Callable[[bytes], bool]) -> set[str]:
        if self.stage.gone:
            return {"NotFoundError"}
        return set() if holds(self.remote.data) else {"ChecksumError"}

    def nothing_false(self, put: bytes, data: bytes) -> None:
        """What would be put together is the object, but for what somebody changed where nothing can tell."""
        assert overlaid(put, data, self.edits) == data, "a claim of other bytes than the object's is trusted"

    def provable(self, left: Left, options: dict[str, Any]) -> bool:
        """Returns whether what is left can be held against the server's object at all."""
        known = left.checkpoint
        return bool("checksum" in options or known.crc64 is not None or known.identity.has_validator)

    def settle(self, expected: Expected, options: dict[str, Any], share: int) -> None:
        """Waits until what was sent is claimed, where that can be told: one connection, nothing dropped."""
        simple = (
            options["connections"] == 1 and self.stage.ranges and not (expected.restarts or expected.refused)
        )
        if (
            simple
            and expected.data
            and not (expected.errors or expected.skipped)
            and share < 20
            and len(self.remote.data) > SMALL_BYTES
        ):
            had = expected.left.bytes if expected.left is not None else 0
            chunk = expected.left.checkpoint.chunk_size if expected.left else options["chunk_size"]
            bound = had + self.stage.sent - 2 * chunk
            wait_until(lambda: self.actors.ended or claimed(self.out) >= bound)

    # ---- what came of it ----

    def judge(self, expected: Expected, outcome: Outcome, ended: Set[str] = frozenset()) -> None:
        """Holds what happened against what was expected."""
        self.stage.lift()
        self.server.drop()
        if outcome.result is not None:
            self.arrived(expected, outcome.result)
        elif outcome.error and outcome.error not in ended:
            assert outcome.error in expected.errors, (outcome, expected.errors, len(expected.data))
            self.failed(expected, outcome.error)
        else:
            self.interrupted(expected)
        self.edits = self.still_wrong()

    def arrived(self, expected: Expected, result: dict[str, Any]) -> None:
        there = self.out.read_bytes()
        assert there in expected.data, ("wrong bytes under the final name", result, expected.errors)
        assert result["skipped"] is expected.skipped, result
        if result["skipped"]:
            return
        size = len(there)
        assert result["size"] == size
        assert expected.left is not None or result["resumed"] == 0, result
        if expected.left is not None and not expected.restarts:
            assert (result["resumed"], result["restarts"]) == (expected.left.bytes, 0), result
            assert result["transferred"] <= size - result["resumed"] + 1, result
        elif not expected.restarts:
            assert (result["resumed"], result["restarts"]) == (0, 0), result
            assert result["transferred"] == size or not self.stage.ranges, result
        assert not self.part.exists() and not self.checkpoint.exists()
        self.made(there, next(each for each in reversed(self.versions) if self._is_result(each, result)))

    def _is_result(self, version: Version, result: dict[str, Any]) -> bool:
        told = (result["size"], result["etag"], result["last_modified"])
        return told == (len(version.data), version.etag, version.last_modified)

    def made(self, there: bytes, version: Version) -> None:
        self.final, self.final_of, self.edited = there, version, there != version.data
        self.edits = []

    def failed(self, expected: Expected, error: str) -> None:
        """The final file is what it was; so is progress, unless it was found to be wrong."""
        if error in ("TargetExistsError", "CheckpointError", "PausedError"):
            if error == "CheckpointError" and not self.before.get("out.part", (b"", 0))[0]:
                return  # there was nothing that it could have told about
            now = look(self.directory)
            if "out.part" not in self.before and now.get("out.part", (b"x", 0))[0] == b"":
                del now["out.part"]  # it was removed, and made anew to be locked
            changed = {
                name for name in now.keys() | self.before.keys() if now.get(name) != self.before.get(name)
            }
            assert not changed, (error, changed)
        elif error == "ChecksumError":
            left = left_of(self.out)
            small = min(len(self.remote.data), len(self.asked_for.data)) <= SMALL_BYTES
            assert small or (left is not None and left.complete), "what was fetched was not kept"
        elif error in ("NotFoundError", "RemoteChangedError") and not expected.restarts:
            assert self.kept() >= self.kept_before, "an error cost progress"

    def interrupted(self, expected: Expected) -> None:
        """Killed, paused or left: what was kept is kept, and no more is claimed than was sent."""
        now = self.kept()
        if expected.left is not None and not expected.restarts:
            assert now >= self.kept_before or self.out_is(expected), "an interruption cost progress"
        assert now <= self.kept_before + self.stage.sent, "more is claimed than was sent"
        if self.limit is not None and self.out_is(expected):
            self.made(expected.put, self.remote)

    def out_is(self, expected: Expected) -> bool:
        """The kill came after the last byte, and after it got its name."""
        full = expected.data and self.stage.sent >= len(self.remote.data) - (
            expected.left.bytes if expected.left is not None else 0
        )
        if not full or self.part.exists() or not self.out.exists():
            return False
        return self.out.read_bytes() == expected.put


def holding(options: dict[str, Any]) -> Callable[[bytes], bool]:
    """Returns a function that tells whether bytes have the checksum that was given, if any."""
    name, _, wanted = options.get("checksum", "").partition(":")
    if name == "sha256":
        return lambda data: hashlib.sha256(data).hexdigest() == wanted
    if name == "crc64nvme":
        return lambda data: f"{crc64nvme(data):016x}" == wanted
    return lambda data: True


def look(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in directory.iterdir()}
