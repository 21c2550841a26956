"""The disk's side of one download: everything of it that may block, run on the transfer's disk thread.

`prepare` looks at the target and at what an earlier run left; `make_ready` gives the body a place;
`save_if_due` and `save` keep the checkpoint true while it runs; then one of `complete`, `keep` and `leave`
ends it. The engine's side is download.py. It reads `ledger` and `partials`, and adds to `partials` and
`notes`, only while no other method than `save_if_due` runs.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import field, replace

from fastxfer import ledgers
from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Writer
from fastxfer.description import Description
from fastxfer.errors import (
    ChecksumError,
    FastxferError,
    StorageError,
    TargetExistsError,
    storage_error,
)
from fastxfer.options import TransferOptions
from fastxfer.plan import ranges
from fastxfer.plan.dates import http_time
from fastxfer.plan.grid import chunk_size_for, prefix_bytes
from fastxfer.plan.response import Identity, agreed
from fastxfer.sources.opening import RemoteSource
from fastxfer.storage import kept
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.digest import Follower, digest_fd, digest_span
from fastxfer.storage.left import Left, stored_checkpoint
from fastxfer.storage.owner import current
from fastxfer.storage.part_file import PartFile, Partials, Source
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import is_unchanged, make_record
from fastxfer.storage.reading import COMBINE_CHUNKS, Reading, combined
from fastxfer.units import format_size
from fastxfer.values import dataclass

# Objects up to this size come in a request or a few: one buffered write, no mapping, no checkpoint.
SMALL_BYTES = 1024**2
CLAIM_S = 0.5
SYNC_S = 5.0
# A claim of a large ledger is megabytes: it is written rarely enough to keep under this rate.
CLAIM_BYTES_A_S = 4e6


@dataclass(frozen=True, slots=True)
class Found:
    """The whole object is in place: its identity, its digests, and against what they were held."""

    identity: Identity
    checksums: dict[str, str] = field(default_factory=dict)
    verified: str = "none"


@dataclass(frozen=True, slots=True)
class Wrong:
    """The whole is not what it should be, which can be mended; `spans` are known to be wrong."""

    reason: str
    spans: list[ranges.Span] = field(default_factory=list)


class Safekeeping:
    """See the module. `partials` maps offsets inside chunks to the CRC-64/NVME of the chunk's bytes before
    them.
    """

    def __init__(
        self,
        target: Target,
        source: RemoteSource,
        options: TransferOptions,
        mirrors: frozenset[str] = frozenset(),
        description: Description | None = None,
    ) -> None:
        self.target = target
        self.options = options
        self.partials: dict[int, int] = {}
        self.notes: list[str] = []
        self.left: Left | None = None
        self.candidate = False
        """The target is there and may be the object already: the remote's identity will tell."""
        self.given_up = threading.Event()
        """Set when nobody waits any more for another owner's sign of life."""
        self.restarts = 0
        self.paused = False
        """Paused by the user, which the checkpoint says from the next save on."""
        self.stream = (0, 0)
        """Length and CRC-64/NVME of an object whose size was not known, once it is whole."""
        self._source = Source.of(source.url, source.display)
        self._description = description or Description()
        self._mirrors = mirrors  # URLs, by their hashes, that are held against what was left
        self._part: PartFile | None = None
        self._follower: Follower | None = None
        self._saved_at = self._synced_at = 0.0
        self._saved_chunks = 0

    # ---- the beginning ----

    def prepare(self) -> Found | None:
        """Returns what there is when nothing is to be done; else locks the part file and reads what was left.

        Raises TargetExistsError, TargetBusyError, CheckpointError and StorageError; nothing is changed then.
        """
        if self.options.keep_ledger:
            kept.check_place(self.target)
        found = self._look_at_target()
        if found is not None:
            return found
        self._part = part = PartFile.open(self.target, self._source, self.given_up.is_set)
        if self.options.resume:
            trust = "crc64nvme" not in dict(self.options.checksum)
            self.left = self._provable(part, part.read_left(trust=trust))
        if part.note:
            self.notes.append(part.note)
        return None

    def _look_at_target(self) -> Found | None:
        target, options = self.target, self.options
        there = target.directory.look(target.name)
        if there is None:
            return None
        if options.exists == "error":
            raise TargetExistsError(f"{target.final} is there already; choose exists=update, skip or replace")
        if options.exists == "skip":
            self._see_to_ledger(None)
            return Found(Identity(there.st_size))
        if not os.access(target.name, os.W_OK, dir_fd=target.directory.fd):
            raise StorageError(
                f"cannot write {target.final}: it is there and not writable; change its permissions"
            )
        if options.exists == "update" and options.checksum:
            reading = self._read_target(there.st_size)
            if reading.digests == dict(options.checksum):
                self._see_to_ledger(reading.found if reading.found.complete else None)
                return Found(Identity(there.st_size), reading.digests, "checksum")
        else:
            self.candidate = options.exists == "update"
        return None

    def _read_target(self, size: int) -> Reading:
        target, options = self.target, self.options
        try:
            with target.directory.reading(target.name) as fd:
                chunk_size = chunk_size_for(size, options.chunk_size)
                reading = Reading(
                    fd, target.final, size, chunk_size, algorithms=[name for name, _ in options.checksum]
                )
                reading.run()
        except OSError as error:
            raise storage_error(f"read {target.final}", error) from error
        return reading

    def _see_to_ledger(self, proven: ChunkLedger | None) -> None:
        note = ledgers.see_to(self.target, self._source, self.options, part=self._part, proven=proven)
        if note:
            self.notes.append(note)

    def _provable(self, part: PartFile, left: Left | None) -> Left | None:
        """Returns what was left if it can be held against the remote object at all."""
        if left is None or provable(left.checkpoint, part.source, self.options):
            return left
        if left.checkpoint.url_sha256 in self._mirrors:
            return left
        other = left.checkpoint.url_sha256 != part.source.url_sha256
        reason = "it is of another URL" if other else "the server gave nothing to know the object by"
        self.drop_left(f"{reason}; give a checksum, or resume=force, to go on in such a case")
        return None

    def drop_left(self, reason: str) -> None:
        """Gives up what an earlier run left: the next `make_ready` starts over it."""
        self.notes.append(f"progress was not used: {reason}")
        self.restarts += 1
        self.left = None

    def make_ready(self, identity: Identity, told: dict[str, str] | None = None) -> bool:
        """Gives an object of this identity its place on disk; returns False when the target is the object
        already. `told` are those checksums of the whole that are known already: they are reckoned on the way.

        Raises DiskFullError and StorageError.
        """
        options = self.options
        if self.candidate and is_unchanged(self.target, identity, ignore_etag=options.ignore_etag):
            self._see_to_ledger(None)
            return False
        self.candidate = False
        part = self._open_part()
        if self.left is not None:
            known = self.left.checkpoint.identity
            part.adopt(
                self.left,
                identity if options.ignore_etag else agreed(known, identity),
                sink=options.sink,
            )
            self.partials = dict(self.left.partials)
        else:
            size = identity.size
            small = size is not None and size <= SMALL_BYTES
            part.allocate(
                identity,
                chunk_size_for(size or 0, options.chunk_size),
                sink=options.sink,
                small=small,
                durable=options.durability != "none",
            )
            self.partials = {}
        self._saved_chunks = part.ledger.done if part.ledger is not None else 0
        self._saved_at = self._synced_at = time.monotonic()
        follow = [name for name in (*dict(options.checksum), *(told or ())) if name != "crc64nvme"]
        if follow and self._follower is None:
            self._follower = Follower(part.fd, follow)
        return True

    def start_over(self) -> None:
        """Forgets all progress, which is of another object; the next `make_ready` empties the part file."""
        self.left, self.partials = None, {}
        self.restarts += 1
        if self._follower is not None:
            self._follower.stop()
            self._follower = None

    def comes_from(self, source: Source) -> None:
        """Says which URL the object's identity is of, before `make_ready`."""
        self._source = source
        if self._part is not None:
            self._part.source = source

    def peek(self, spans: list[ranges.Span]) -> list[bytes]:
        """Returns bytes that are in place. Raises StorageError."""
        fd = self._open_part().fd
        try:
            return [os.pread(fd, stop - start, start) for start, stop in spans]
        except OSError as error:
            raise storage_error(f"read {self.target.part}", error) from error

    def withdraw(self, spans: list[ranges.Span]) -> dict[int, int]:
        """Takes back the chunks that lie in `spans`, in part or as a whole, and says so in the checkpoint
        before they are written again; returns them with the CRCs that they had. Nothing is being written.
        """
        part = self._open_part()
        ledger = part.ledger
        if ledger is None:
            return {}
        taken = {}
        for start, stop in spans:
            for chunk in range(start // ledger.chunk_size, -(-stop // ledger.chunk_size)):
                if chunk in ledger:
                    taken[chunk] = ledger.crc(chunk)
                    ledger.clear(chunk)
        self.partials = {}
        part.claim()
        return taken

    # ---- what the engine's side asks, any thread ----

    def _open_part(self) -> PartFile:
        if self._part is None:
            raise StorageError(f"{self.target.part} is not open")
        return self._part

    @property
    def ledger(self) -> ChunkLedger | None:
        """The chunks that are in place; None before `make_ready` and for an object of unknown size."""
        return self._part.ledger if self._part is not None else None

    @property
    def checkpointed(self) -> bool:
        """True when there is a checkpoint to keep."""
        return self._part is not None and self._part.checkpointed

    @property
    def pending(self) -> int:
        """Bytes of whole chunks that are being written and not in the ledger yet."""
        return self._part.pending if self._part is not None else 0

    def doubt(self) -> None:
        """From now on bytes of two versions may come together, and only the checksum of the whole will tell:
        the checkpoint no longer says of which one they are.
        """
        if self._part is not None:
            self._part.identity = Identity(self._part.identity.size)

    def attach(self, writer: Writer) -> None:
        """Sets the sink of a writer that is not in a run."""
        self._open_part().attach(writer)

    def missing(self) -> list[ranges.Span]:
        """Returns the byte ranges that are to be fetched, of the ledger or of what was left."""
        ledger, partials = self.ledger, self.partials
        if ledger is None and self.left is not None:
            ledger, partials = self.left.ledger, self.left.partials
        if ledger is None:
            return []
        missing = ledger.missing()
        for pos in partials:
            missing = ranges.subtract(missing, (pos - pos % ledger.chunk_size, pos))
        return missing

    def in_place(self) -> list[ranges.Span]:
        """Returns the byte ranges that are in place, of the ledger or of what was left."""
        ledger, partials = self.ledger, self.partials
        if ledger is None and self.left is not None:
            ledger, partials = self.left.ledger, self.left.partials
        if ledger is None:
            return []
        spans = ledger.present()
        for pos in sorted(partials):
            start = pos - pos % ledger.chunk_size
            if pos // ledger.chunk_size not in ledger:
                spans = ranges.add(ranges.subtract(spans, (start, pos)), (start, pos))
        return spans

    def left_bytes(self) -> int:
        """Returns how many bytes of what was left are good."""
        if self.left is None:
            return 0
        ledger = self.left.ledger
        return ledger.done_bytes + prefix_bytes(self.left.partials, ledger.chunk_size)

    @property
    def left_paused(self) -> bool:
        """True when the user paused what was left, and not since said that it may go on."""
        return self.left is not None and self.left.checkpoint.paused and not self.options.unpause

    def follow(self, front: int) -> None:
        """Lets the digests follow to `front`: all bytes before it are in place."""
        if self._follower is not None:
            self._follower.advance(front)

    # ---- while it runs ----

    def save_if_due(self, marks: Partials) -> None:
        """Claims or syncs, as the intervals and the durability say. `marks` are (offset, CRC) of partial
        chunks.

        Raises StorageError.
        """
        part, ledger = self._part, self.ledger
        if part is None or ledger is None:
            return
        now, durability, done = time.monotonic(), self.options.durability, ledger.done
        if durability == "periodic":
            part.pace_writeback()
        due = now - self._synced_at >= SYNC_S if durability == "periodic" else done != self._saved_chunks
        if durability != "none" and due:
            part.sync(marks, paused=self.paused)
            self._saved_chunks = done
            self._synced_at = self._saved_at = time.monotonic()
        elif now - self._saved_at >= max(CLAIM_S, part.claim_bytes / CLAIM_BYTES_A_S):
            part.claim(marks, paused=self.paused)
            self._saved_at = time.monotonic()

    def unpause(self) -> None:
        """Has the next look at the intervals write down that the user goes on."""
        self.paused = False
        self._saved_at = 0.0

    def save(self, marks: Partials) -> None:
        """Writes everything that is in place to the checkpoint, durably unless `durability` is none."""
        if self._part is not None:
            self._part.settle()
            write = self._part.claim if self.options.durability == "none" else self._part.sync
            write(marks, paused=self.paused)

    # ---- the end ----

    def leave(self) -> None:
        """Ends a transfer that had nothing to do: an empty part file goes, one with progress stays."""
        if self._part is not None:
            self._part.discard_if_empty()
        self.close()

    def close(self) -> None:
        """Lets go of everything and leaves the files as they are."""
        if self._follower is not None:
            self._follower.stop()
        if self._part is not None:
            self._part.close()
        self.target.close()

    def discard(self) -> None:
        """Ends a transfer and removes its part file and checkpoint."""
        if self._part is not None:
            self._part.discard(durable=self.options.durability != "none")
        self.close()

    def keep(self, failure: FastxferError, marks: Partials) -> None:
        """Ends a transfer that is not complete: everything is written down and kept, and `failure` says
        what.
        """
        part = self._part
        if part is None:
            if isinstance(failure, StorageError):
                failure.kept = failure.kept or self._kept()
            self.close()
            return
        nothing = part.ledger is not None and not part.ledger.done and not marks and not self.paused
        small = part.ledger is not None and not part.checkpointed
        if nothing or small:
            self.discard()  # space that was reserved, or bytes that nothing can go on from
            return
        if not isinstance(failure, StorageError):  # a disk that failed is not asked to promise again
            try:
                self.save(marks)
            except StorageError as error:
                self.notes.append(str(error))  # what ended the transfer is told, not what came after it
        part.discard_if_empty()
        failure.kept = failure.kept or self._kept()
        self.close()

    def _kept(self) -> str | None:
        """Returns in words what the next run can go on from: what the checkpoint says, for it may not have
        been written when the disk failed.
        """
        try:
            there = current(self.target)
            stored = stored_checkpoint(there)
        except FastxferError:
            return None
        size = stored.identity.size if stored is not None else None
        if stored is None or not size or not there.directory.has(there.part_name):
            return None
        ledger = ChunkLedger(size, stored.chunk_size)
        ledger.load(stored.claimed, stored.crcs)
        begun = (pos for pos, _ in stored.partials if pos // stored.chunk_size not in ledger)
        done = ledger.done_bytes + prefix_bytes(begun, stored.chunk_size)
        return f"{format_size(done)} of {format_size(size)} in {self.target.part}" if done else None

    def complete(
        self,
        identity: Identity,
        *,
        resumed: bool,
        url: str,
        mend: bool = False,
        told: dict[str, str] | None = None,
    ) -> Found | Wrong:
        """Checks the whole object and makes it the target; returns what is wrong when what was resumed may be
        the cause, or when there is another way to put it together (`mend`). `told` are the checksums that the
        server says.

        Raises ChecksumError, TargetExistsError and StorageError; the part file and its checkpoint stay then.
        """
        part, options = self._open_part(), self.options
        part.settle()
        size = part.ledger.size if part.ledger is not None else self.stream[0]
        identity = replace(identity, size=size)
        wanted = self._wanted(part, told or {})
        checksums = self._digests(part, size, wanted)
        wrong = [name for name, expected in wanted.items() if checksums[name] != expected]
        pieces = self._description.piece_spans(size) if wrong or not wanted else []
        bad = self._bad_pieces(part, pieces)
        if wrong or bad:
            what = f"the {wrong[0]}" if wrong else f"the digest of {len(bad)} pieces"
            if mend or (resumed and options.on_change != "fail"):
                return Wrong(f"{what} of what was put together was wrong", [span for span, _ in bad])
            self.save(())
            if wrong:
                algorithm, expected, actual = wrong[0], wanted[wrong[0]], checksums[wrong[0]]
            else:
                assert self._description.pieces is not None
                (span, actual), algorithm = bad[0], self._description.pieces.algorithm
                expected = self._description.pieces.digests[pieces.index(span)]
            raise ChecksumError(
                f"{what} of {url} is {actual}, not {expected}: "
                "the server has other bytes, or they were changed on the way; "
                "to fetch it again use resume=False (--resume false)",
                algorithm=algorithm,
                expected=expected,
                actual=actual,
                kept=str(self.target.part),
            )
        modified = http_time(identity.last_modified)
        mtime = modified if modified is not None else time.time()
        crc64 = int(checksums["crc64nvme"], 16) if "crc64nvme" in checksums else None
        part.publish(
            size=size,
            mtime=mtime,
            durable=options.durability != "none",
            replace=options.exists in ("update", "replace"),
            record=make_record(identity, mtime),
            ledger=ledgers.of_finished(part, identity, options, stream=self.stream, crc64=crc64),
        )
        self.close()
        verified = "checksum" if options.checksum or pieces else "server" if told else "none"
        return Found(identity, checksums, verified)

    def _bad_pieces(self, part: PartFile, spans: list[ranges.Span]) -> list[tuple[ranges.Span, str]]:
        """Returns those pieces of the object whose digests are wrong, with what they are."""
        if self._description.pieces is None:
            return []
        algorithm, digests = self._description.pieces.algorithm, self._description.pieces.digests
        found = [(span, digest_span(part.fd, self.target.part, algorithm, span)) for span in spans]
        return [each for each, expected in zip(found, digests, strict=False) if each[1] != expected]

    def _wanted(self, part: PartFile, told: dict[str, str]) -> dict[str, str]:
        """Returns the digests that the object must have: the caller's, what the checkpoint knew, and what the
        server told.
        """
        wanted = {**told, **dict(self.options.checksum)}
        if part.expected_crc64 is not None:
            wanted.setdefault("crc64nvme", f"{part.expected_crc64:016x}")
        return wanted

    def _digests(self, part: PartFile, size: int, wanted: dict[str, str]) -> dict[str, str]:
        checksums: dict[str, str] = {}
        if self._follower is not None:
            follower, self._follower = self._follower, None
            checksums = follower.finish(size)
        late = [name for name in wanted if name not in checksums and name != "crc64nvme"]
        if late:
            checksums |= digest_fd(part.fd, self.target.part, late)
        if part.ledger is None:
            checksums["crc64nvme"] = f"{self.stream[1]:016x}"
        elif part.ledger.count <= COMBINE_CHUNKS:
            checksums["crc64nvme"] = f"{combined(part.ledger):016x}"
        elif "crc64nvme" in wanted:
            checksums |= digest_fd(part.fd, self.target.part, ["crc64nvme"])
        return checksums


def provable(checkpoint: Checkpoint, source: Source, options: TransferOptions) -> bool:
    """Returns whether what a checkpoint speaks of can be held against the object at `source` at all."""
    identity = checkpoint.identity
    etag = None if options.ignore_etag else identity.strong_etag
    same_url = checkpoint.url_sha256 == source.url_sha256
    decides = options.checksum or checkpoint.crc64 is not None or options.resume == "force"
    return bool(decides or etag or (same_url and identity.has_validator))
