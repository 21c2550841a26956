"""What must hold when a fetch was ended by force or by its disk, and when it is run again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import fastxfer
from fastxfer.cli.status import read_status
from fastxfer.errors import CheckpointError, StorageError, TargetExistsError
from fastxfer.plan.dates import http_time
from fastxfer.storage.left import Left
from fastxfer.storage.part_file import PartFile, Source
from tests.cli.command import fastxfer as run_command
from tests.kills.victims import CONNECTIONS, OLD, Victim, opened


@dataclass(frozen=True, slots=True)
class Kept:
    """What was left of the object, partly filled chunks included; 0 when it is of another version."""

    bytes: int = 0
    chunks: int = 0


def check(victim: Victim, *, by_command: bool = False) -> Kept:
    """Looks at what is left, runs the fetch again, and looks at what came; returns what was kept."""
    nothing_wrong_stands(victim)
    claimed = status_works(victim)
    if by_command:
        told = run_command("status", victim.out)
        assert told.returncode in (0, StorageError.exit_code, CheckpointError.exit_code), told.stderr
        assert "internal error" not in told.stderr
    kept = what_is_kept_is_right(victim)
    assert kept.bytes in (0, claimed), "all that was claimed is there"
    result = goes_on(victim)
    if result is not None:
        assert result["resumed"] == kept.bytes
        assert result["restarts"] == (1 if _is_of_another_version(victim, result) else 0)
    return kept


def nothing_wrong_stands(victim: Victim) -> None:
    """Under the final name there is nothing, what was there before, or the object."""
    try:
        there = victim.out.read_bytes()
    except FileNotFoundError:
        assert victim.before != "replaces", "the older version is gone, and nothing is in its place"
        return
    right = [victim.content, OLD] if victim.before == "replaces" else [victim.content]
    assert there in right, "wrong bytes under the final name"


def status_works(victim: Victim) -> int:
    """`status` tells what is there, or that nothing is; returns what it says is claimed."""
    try:
        return read_status(str(victim.out)).claimed or 0
    except StorageError as error:
        assert str(error).startswith("nothing is there")
    except CheckpointError:
        # The first write of a checkpoint was cut off; it has never said anything.
        assert victim.part.stat().st_size == 0, "a checkpoint was damaged"
    return 0


def what_is_kept_is_right(victim: Victim) -> Kept:
    """Every chunk that the package's own reader keeps, and every partly filled one, is the object's."""
    part = victim.part
    if not (part.exists() and victim.checkpoint.exists()) or part.stat().st_nlink > 1:
        return Kept()
    with opened(victim.out) as target:
        file = PartFile.open(target, Source.of(victim.url, victim.url))
        try:
            left = file.read_left()
        finally:
            file.close()
    if left is None:
        return Kept()
    etag = left.checkpoint.identity.etag
    if etag != victim.identity.etag:
        _compare(left, part.read_bytes(), OLD)
        return Kept()
    assert left.dropped == 0, "a chunk was claimed that does not hold"
    _compare(left, part.read_bytes(), victim.content)
    return Kept(left.ledger.done_bytes + _prefixes(left), left.ledger.done)


def _compare(left: Left, there: bytes, right: bytes) -> None:
    for start, stop in left.ledger.present():
        assert there[start:stop] == right[start:stop], "a chunk that is kept is wrong"
    for pos in left.partials:
        start = pos - pos % left.ledger.chunk_size
        assert there[start:pos] == right[start:pos], "the beginning of a chunk that is kept is wrong"


def _prefixes(left: Left) -> int:
    longest: dict[int, int] = {}
    for pos in left.partials:
        chunk, length = divmod(pos, left.ledger.chunk_size)
        longest[chunk] = max(length, longest.get(chunk, 0))
    return sum(longest.values())


def goes_on(victim: Victim) -> dict[str, Any] | None:
    """Runs the fetch again: the right bytes, and nothing else, are there; returns its result.

    None when there was nothing to do, since the target was there already.
    """
    options: dict[str, Any] = {"durability": victim.durability, "sink": victim.sink}
    try:
        result = fastxfer.fetch(
            victim.url, victim.out, CONNECTIONS, chunk_size=65536, exists=victim.exists, **options
        )
    except TargetExistsError:
        assert victim.before == "links" and victim.out.read_bytes() == victim.content
        dated = int(victim.out.stat().st_mtime) == http_time(victim.identity.last_modified)
        result = fastxfer.fetch(victim.url, victim.out, CONNECTIONS, **options)
        assert result.skipped is dated
    assert hashlib.sha256(victim.out.read_bytes()).hexdigest() == victim.thing.sha256
    assert os.listdir(victim.directory) == ["out"]
    return None if result.skipped else result.to_dict()


def _is_of_another_version(victim: Victim, result: dict[str, Any]) -> bool:
    return victim.before == "changed" and any("started again" in note for note in result["notes"])
