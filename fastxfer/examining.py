"""What is there of a file, and what of it holds: the reading side of `verify`.

A *exhibit* is what is read, and what is known of it: for a finished file its kept ledger, `OUT.fxsum`; for a
part file its checkpoint. Reading takes no lock on a finished file, which nobody writes to; of a part file it
is made sure that nobody writes it meanwhile, so that a running transfer is left alone. Nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.errors import CheckpointError, StorageError, TargetBusyError, storage_error
from fastxfer.plan.grid import chunk_size_for
from fastxfer.plan.ranges import Span, add
from fastxfer.storage import kept
from fastxfer.storage.checkpoint import Checkpoint, read_checkpoint
from fastxfer.storage.owner import current, open_part, open_to_read
from fastxfer.storage.paths import Target, target_of
from fastxfer.storage.reading import COMBINE_CHUNKS, Reading, combined, crc_of
from fastxfer.storage.reopening import same_bytes


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What is read, and what is known of it. `part` says that it is a part file, locked while it is open."""

    target: Target
    name: str
    fd: int
    seen: os.stat_result
    known: Checkpoint | None
    part: bool

    @property
    def path(self) -> Path:
        """The path of the file, for people."""
        return self.target.directory.path / self.name

    @property
    def size(self) -> int:
        """Bytes that it has to have; what it has, where that is not known."""
        size = self.known.identity.size if self.known is not None else None
        return self.seen.st_size if size is None else size


@dataclass(slots=True)
class Findings:
    """What a reading came to. `good` are the chunks that hold, `claimed` those that should."""

    good: ChunkLedger
    claimed: ChunkLedger
    bad: list[Span] = field(default_factory=list)
    missing: list[Span] = field(default_factory=list)
    partials: tuple[Span, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_exhibit(path: str | os.PathLike[str], *, to_repair: bool) -> Iterator[Exhibit]:
    """Gives what `path` means: the finished file, or where there is none, or it was named, the part file.

    Raises StorageError when there is neither, TargetBusyError for a part file that is being written,
    CheckpointError for a ledger or checkpoint that cannot be read.
    """
    target = target_of(path)
    directory = target.directory
    named_part = Path(os.fspath(path)).name in target.working_names
    part = directory.look(target.name) is None or named_part
    name = current(target).part_name if part else target.name
    if directory.look(name) is None:
        neither = f"neither {target.final} nor {target.part}" if not named_part else f"no {target.part}"
        raise StorageError(f"nothing is there to verify: {neither}")
    with _part_file(target, to_repair=to_repair) if part else _finished_file(target) as (fd, there):
        if part:
            found = read_checkpoint(directory, there.checkpoint_name)
            known = found[0] if found is not None and found[0].identity.size is not None else None
        else:
            known = kept.beside(target, fd)
        yield Exhibit(there, there.part_name if part else target.name, fd, os.fstat(fd), known, part)


@contextmanager
def _finished_file(target: Target) -> Iterator[tuple[int, Target]]:
    try:
        fd = target.directory.open_file(target.name, os.O_RDONLY)
    except OSError as error:
        raise storage_error(f"read {target.final}", error) from error
    try:
        yield fd, target
    finally:
        os.close(fd)


@contextmanager
def _part_file(target: Target, *, to_repair: bool) -> Iterator[tuple[int, Target]]:
    """Gives the part file while nobody else writes it, and the names of what is beside it."""
    owner = None
    if to_repair:
        fd, owner = open_part(target)
    else:
        try:
            fd, target = open_to_read(target)
        except OSError as error:
            raise storage_error(f"read {target.part}", error) from error
    try:
        if owner is not None and owner.in_doubt:
            raise StorageError(
                f"cannot repair {target.part}: somebody may still write it, on another machine; "
                "run the fetch again, which goes on in a copy"
            )
        yield fd, target if owner is None else owner.target
    finally:
        os.close(fd)
        if owner is not None:
            owner.release()


def examine(exhibit: Exhibit, wanted: Sequence[str], begun: Callable[[Reading], object]) -> Findings:
    """Reads an exhibit once, and returns what of it holds, and the digests `wanted` of the whole.

    `begun` is called with the reading before it begins. Raises StorageError, TargetBusyError when the file
    changes meanwhile, and CheckpointError for a ledger that contradicts itself.
    """
    known, size = exhibit.known, exhibit.size
    ledger = _claimed(exhibit)
    findings = Findings(ChunkLedger(size, ledger.chunk_size), ledger)
    if exhibit.part and not (known is not None and ledger.complete):
        if wanted:
            findings.notes.append("a checksum is of the whole object: it was not held against a part of it")
        wanted = []
    if known is None and not wanted:
        return findings
    combines = ledger.count <= COMBINE_CHUNKS and exhibit.seen.st_size == size
    reading = Reading(
        exhibit.fd,
        exhibit.path,
        size,
        ledger.chunk_size,
        spans=ledger.present() if known is not None else None,
        algorithms=[name for name in wanted if name != "crc64nvme" or not combines],
    )
    begun(reading)
    reading.run()
    _look_again(exhibit)
    findings.digests = reading.digests
    if combines and reading.found.complete:
        findings.digests["crc64nvme"] = f"{combined(reading.found):016x}"
    if known is not None:
        _compare(findings, reading.found)
        if exhibit.part:
            _look_at_partials(exhibit, known, findings)
        else:
            _look_at_length(exhibit, findings)
            _look_at_whole(exhibit, known, findings)
    return findings


def _claimed(exhibit: Exhibit) -> ChunkLedger:
    """Returns the chunks that should be there, with the CRCs that they should have."""
    known, size = exhibit.known, exhibit.size
    if known is None:
        return ChunkLedger(size, chunk_size_for(size))
    ledger = kept.chunks_of(known)
    if exhibit.part and known.crc64 is not None:
        # It was a finished file before: what its ledger says of a chunk counts, whatever came since.
        old = kept.read(exhibit.target.directory, exhibit.target.ledger_name)
        if old is not None and (old.crc64, old.chunk_size) == (known.crc64, known.chunk_size):
            ledger.load(known.claimed, old.crcs)
    return ledger


def _look_again(exhibit: Exhibit) -> None:
    """Raises TargetBusyError when the file that was read is not what stands there now."""
    same = same_bytes(exhibit.seen, os.fstat(exhibit.fd))
    if not same or not exhibit.target.directory.holds(exhibit.name, exhibit.fd):
        raise TargetBusyError(f"{exhibit.path} was changed while it was read; run it again")


def _look_at_whole(exhibit: Exhibit, known: Checkpoint, findings: Findings) -> None:
    whole = findings.digests.get("crc64nvme")
    if not findings.bad and whole is not None and known.crc64 is not None and int(whole, 16) != known.crc64:
        raise CheckpointError(
            f"{exhibit.target.ledger} contradicts itself: all chunks hold, and not the whole; remove it"
        )


def _look_at_length(exhibit: Exhibit, findings: Findings) -> None:
    more = exhibit.seen.st_size - exhibit.size
    if more > 0:
        findings.bad = add(findings.bad, (exhibit.size, exhibit.seen.st_size))
        findings.notes.append(f"the file is {more} bytes longer than the object")
    elif more < 0:
        findings.notes.append(f"the file is {-more} bytes shorter than the object")


def _look_at_partials(exhibit: Exhibit, known: Checkpoint, findings: Findings) -> None:
    """Looks at the first bytes of chunks that are not complete."""
    holding = []
    for pos, crc in known.partials:
        start = pos - pos % known.chunk_size
        if pos == start or pos // known.chunk_size in findings.claimed:
            continue
        if crc_of(exhibit.fd, exhibit.path, start, pos) == crc:
            holding.append((pos, crc))
        elif not any(start < stop and begin < pos for begin, stop in findings.bad):
            findings.bad = add(findings.bad, (start, pos))
    findings.partials = tuple(holding)


def _compare(findings: Findings, found: ChunkLedger) -> None:
    """Fills in which of the claimed chunks hold, and which ranges do not, or are not claimed."""
    claimed, good = findings.claimed, findings.good
    bad = ChunkLedger(claimed.size, claimed.chunk_size)
    for chunk in range(claimed.count):
        if chunk in claimed:
            crc = claimed.crc(chunk)
            holds = chunk in found and found.crc(chunk) == crc
            (good if holds else bad).set(chunk, crc)
    findings.bad = bad.present()
    findings.missing = claimed.missing()
