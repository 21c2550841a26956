"""The part file of one transfer: its space, its mapping, its ledger and its checkpoint; it becomes the
target in one rename.

All methods may block on the disk and belong to the transfer's disk thread, but for `attach` (the engine's
thread, takes no time).

Order of a transfer: `open` becomes the only writer of `OUT.part` (owner.py) and reads what an earlier run
left; `allocate` makes it the object's size with space reserved, or `adopt` goes on with what was left;
`claim` and `sync` write the checkpoint (docs/checkpoint-format.md has the order and why); `publish` syncs,
renames and removes the checkpoint. `close` leaves everything where it is.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import DirectSink, Mapping, Writer, birth_ns, reserve, start_writeback
from fastxfer.errors import CheckpointError, DiskFullError, StorageError, storage_error
from fastxfer.names import PART
from fastxfer.plan.response import Identity
from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile, boot_id
from fastxfer.storage.left import Left, verify
from fastxfer.storage.locks import give_lock
from fastxfer.storage.owner import Owner, open_part, unless_taken_over
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import is_unfinished, mark_unfinished, publish
from fastxfer.values import dataclass

# One pwrite(2) of 256 KiB costs the same CPU a byte as larger ones, and 128 connections then hold 32 MiB of
# buffers.
BUFFER_BYTES = 256 * 1024
# Write-back is started for so much at a time, in whole huge pages of the mapping: a page that is written to
# after its write-back is dirty as a whole again. In smaller stretches 1.7 times the object was written at
# 100 MB/s, and it cost 2.3 times the CPU of the sync that it shortens.
PACE_BYTES = 64 * 1024**2
HUGE_PAGE_BYTES = 2 * 1024**2

Partials = tuple[tuple[int, int], ...]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """How a checkpoint names where the bytes come from: a URL without secrets, and the hash of the whole
    one.
    """

    url: str
    url_sha256: str

    @classmethod
    def of(cls, url: str, safe_url: str) -> Source:
        """Returns the source of a URL (without user info) whose presentable form is `safe_url`."""
        return cls(safe_url, hash_of(url))


def hash_of(url: str) -> str:
    """Returns how a checkpoint names a whole URL (without user info), secrets in its query included."""
    return hashlib.sha256(url.encode()).hexdigest()


def _as_owner(method: Callable[Concatenate[PartFile, P], T]) -> Callable[Concatenate[PartFile, P], T]:
    """Has a method fail with TargetBusyError where somebody else has taken the target over."""

    @functools.wraps(method)
    def checked(part: PartFile, /, *args: P.args, **options: P.kwargs) -> T:
        if part._owner is not None:
            part._owner.check()
        with unless_taken_over(part._owner, f"use {part.target.part}"):
            return method(part, *args, **options)

    return checked


class PartFile:
    """See the module. `ledger` is None until the object's size is known."""

    def __init__(self, target: Target, fd: int, source: Source, owner: Owner | None = None) -> None:
        self.target = target
        self.source = source
        self.identity = Identity()
        self.ledger: ChunkLedger | None = None
        self.note = ""
        self._fd = fd
        self._owner = owner
        self._mapping: Mapping | None = None
        self._direct: DirectSink | None = None
        self._checkpoint: CheckpointFile | None = None
        self._durable = b""
        self._on_disk = b""  # a superset: chunks that no failed sync can take, though they are verified again
        self._elsewhere = False  # the checkpoint was read from where it is not to be
        self._named = False  # the working files' names are durable
        self._broken = False  # a sync failed: nothing is promised any more
        self._chunk_size = 1
        self._written_back = 0  # a bitmap: the chunks whose write-back was started
        self._paced_bytes = 0  # what was in place at that time
        self._reserved = False
        self._stat = os.fstat(fd)
        self._born = birth_ns(fd)
        self.expected_crc64: int | None = None
        """What the whole object's CRC-64/NVME is known to be, of a checkpoint that says so."""
        _open.add(self)

    # ---- opening ----

    @classmethod
    def open(cls, target: Target, source: Source, give_up: Callable[[], bool] = bool) -> PartFile:
        """Opens or makes `OUT.part` and becomes its only writer (storage/owner.py says how; that may take
        some seconds on network file systems, unless `give_up` says True).

        Raises TargetBusyError, InterruptedTransferError and StorageError.
        """
        fd, owner = open_part(target, give_up=give_up)
        part = cls(target if owner is None else owner.target, fd, source, owner)
        part.note = "" if owner is None else owner.note
        if owner is not None and target.apart is not None:
            part._say("on this file system the checkpoint stays beside the part file: no lock would guard it")
        return part

    @_as_owner
    def read_left(self, *, trust: bool = True) -> Left | None:
        """Returns what an earlier run left of this target, or None when it left nothing.

        Bits that cannot be trusted are verified by their checksums; all are without `trust`, and where the
        whole is known by a CRC-64, which is reckoned from theirs and would say nothing of the bytes.

        Raises CheckpointError for a checkpoint that cannot be read (nothing is touched then) and
        StorageError; beside an empty part file one whose first write was cut off counts as none. A part file
        that no checkpoint speaks of is moved aside, not lost, unless it is marked as ours.
        """
        if self._owner is not None and self._owner.in_doubt:
            return self._copy_left(self._owner, trust)
        size_now = os.fstat(self._fd).st_size
        try:
            loaded = self._load(begun_counts=size_now > 0)
        except CheckpointError as error:
            raise self._unreadable(error) from error
        if loaded is None:
            if size_now and not is_unfinished(self._fd):
                self._move_aside(self.target.part_name)
                give_lock(self._fd)
                self._fd, _ = open_part(self.target, self._owner)
                self._stat, self._born = os.fstat(self._fd), birth_ns(self._fd)
            return None
        file, checkpoint = loaded
        if checkpoint.identity.size is None or not checkpoint.chunks:
            file.close()
            return None
        self._checkpoint = file
        return self._verify(checkpoint, trust)

    def _load(self, *, begun_counts: bool) -> tuple[CheckpointFile, Checkpoint] | None:
        """Returns the checkpoint, of this part file if there are two: a run that was told of another
        directory has left one beside the part file, or not.
        """
        found = []
        for directory, name in self.target.checkpoint_places:
            loaded = CheckpointFile.load(directory, name, begun_counts=begun_counts)
            if loaded is None:
                continue
            found.append((loaded, directory))
            if directory is not self.target.directory and loaded[0].owner_uid != os.geteuid():
                # Whoever may write there could claim bytes that are not in the part file.
                loaded[0].close()
                raise CheckpointError(f"the checkpoint {directory.path / name} belongs to another user")
        if not found:
            return None
        best = next((each for each in found if self._is_of_this_file(each[0][1])), found[0])
        for each in found:
            if each is not best:
                each[0][0].close()
        self._elsewhere = best[1] is not self.target.checkpoint_places[0][0]
        return best[0]

    def _is_of_this_file(self, checkpoint: Checkpoint) -> bool:
        stat = self._stat
        return (checkpoint.inode, checkpoint.device, checkpoint.born) == (
            stat.st_ino,
            stat.st_dev,
            self._born,
        )

    def _copy_left(self, owner: Owner, trust: bool) -> Left | None:
        """Copies what somebody left who may still be writing it, and verifies the copy."""
        try:
            checkpoint = owner.copy_left(self._fd)
        except CheckpointError as error:
            raise self._unreadable(error) from error
        if checkpoint is None and owner.record.before == "":
            usual = self.target.name + PART
            with self.target.directory.reading(usual) as fd:
                ours = is_unfinished(fd)
            if not ours:
                self._move_aside(usual)
        if checkpoint is None or not checkpoint.chunks:
            return None
        return self._verify(checkpoint, trust)

    def _unreadable(self, error: CheckpointError) -> CheckpointError:
        return CheckpointError(
            f"{error}; {self.target.part} is kept: to start over use resume=False (--resume false)",
            kept=str(self.target.part),
        )

    def _move_aside(self, name: str) -> None:
        usual, directory = self.target.name + PART, self.target.directory
        names = (f"{usual}.orphan{n or ''}" for n in itertools.count())
        aside = next(each for each in names if not directory.has(each))
        try:
            os.rename(name, aside, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        except OSError as error:
            raise storage_error(f"move {self.target.part} aside", error) from error
        self._say(f"{usual} had no checkpoint; it was moved to {aside}")

    def _say(self, note: str) -> None:
        self.note = f"{self.note}; {note}" if self.note else note

    def _verify(self, checkpoint: Checkpoint, trust: bool) -> Left:
        size_now = os.fstat(self._fd).st_size
        trust = trust and checkpoint.crc64 is None
        left = verify(checkpoint, self._fd, self.target.part, self._stat, self._born, size_now, trust=trust)
        if left.dropped:
            name = self.target.name + PART
            self._say(f"{left.dropped} chunks of {name} did not hold their checksums and are fetched again")
        return left

    # ---- space ----

    @_as_owner
    def adopt(self, left: Left, identity: Identity, *, sink: str) -> None:
        """Goes on with what was left. Raises StorageError, DiskFullError."""
        self.identity = identity
        self.ledger = left.ledger
        self.expected_crc64 = left.checkpoint.crc64
        self._chunk_size = left.ledger.chunk_size
        self._durable = left.checkpoint.durable
        self._on_disk = left.on_disk
        self._written_back = int.from_bytes(left.ledger.bits(), "little")
        self._paced_bytes = left.ledger.done_bytes
        if left.dropped or left.verified:
            self._durable = bytes(len(left.checkpoint.durable))
        if left.dropped:
            # Before the file looks like the one that was trusted.
            self._write_claim(self._snapshot(tuple(left.partials.items()), False, self._durable))
        if self._elsewhere and self._checkpoint is not None:
            beside, self._checkpoint = (
                self._checkpoint,
                self._new_checkpoint(tuple(left.partials.items()), durable=True),
            )
            beside.close()
            self._sync_names()
            self.target.directory.remove(self.target.checkpoint_name)
            self._elsewhere = False
        self._reserve(left.ledger.size, sink)
        if self._owner is not None and self.in_doubt:
            self._checkpoint = self._new_checkpoint(tuple(left.partials.items()), durable=False)
            self.sync(tuple(left.partials.items()))
            self._owner.settled()

    def _new_checkpoint(self, partials: Partials, *, durable: bool) -> CheckpointFile:
        directory, name = self.target.checkpoint_places[0]
        snapshot = self._snapshot(partials, False, self._durable)
        return CheckpointFile.create(directory, name, snapshot, durable=durable)

    @_as_owner
    def allocate(
        self, identity: Identity, chunk_size: int, *, sink: str, small: bool = False, durable: bool = True
    ) -> None:
        """Makes the file anew for an object of `identity.size` bytes (or unknown). `small` objects get
        neither mapping nor checkpoint. With `durable` the checkpoint is on the disk, and the names of both
        files are, before the part file has a byte: so a power cut leaves none that cannot be read.

        Raises DiskFullError before anything is written when there is not the space, and StorageError.
        """
        size = identity.size
        if size:
            self._check_space(size)
        self._empty(durable=durable)
        self._drop_progress()
        self._reserved = False
        self.expected_crc64 = None
        self.identity = identity
        self._chunk_size = chunk_size
        self.ledger = ChunkLedger(size, chunk_size) if size is not None else None
        self._durable = bytes(-(-self.ledger.count // 8)) if self.ledger is not None else b""
        self._on_disk = self._durable
        if small:
            mark_unfinished(self._fd)
            return
        self._checkpoint = self._new_checkpoint((), durable=durable)
        if durable:
            self._sync_names()
        if size:
            self._reserve(size, sink)

    def _empty(self, *, durable: bool) -> None:
        """Drops what is in the file, before the checkpoint that speaks of it: a crash between leaves nothing
        that has to be moved aside. What somebody else left goes too.
        """
        self._mapping = self._direct = None
        try:
            if os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, 0)
                if durable:
                    os.fsync(self._fd)
        except OSError as error:
            raise storage_error(f"empty {self.target.part}", error) from error
        if self._owner is not None:
            self._owner.settled()

    def _sync_names(self) -> None:
        try:
            for directory in {each for each, _ in self.target.checkpoint_places}:
                directory.sync()
        except OSError as error:
            raise storage_error(f"sync the directory of {self.target.part}", error) from error
        self._named = True

    def _reserve(self, size: int, sink: str) -> None:
        part = self.target.part
        self._check_space(size)
        try:
            reserved = reserve(self._fd, size)
            os.ftruncate(self._fd, size)
            # Some file systems say yes and reserve nothing.
            self._reserved = reserved = reserved and os.fstat(self._fd).st_blocks * 512 >= size
        except OSError as error:
            raise storage_error(f"reserve {size} bytes for {part}", error) from error
        if sink == "direct":
            self._direct = self._open_direct()
        if sink != "mmap":  # pwrite costs less on any kernel and file system that was measured
            return
        if not reserved:
            raise StorageError(
                f"cannot map {part}: its file system cannot reserve space; use sink=auto or pwrite",
                errno=errno.EOPNOTSUPP,
            )
        try:
            self._mapping = Mapping(self._fd, size)
        except OSError as error:
            raise storage_error(f"map {part} (sink=auto or pwrite can do without)", error) from error

    def _open_direct(self) -> DirectSink:
        part, directory, name = self.target.part, self.target.directory, self.target.part_name
        opened = []
        try:
            for flags in (os.O_WRONLY | os.O_DIRECT, os.O_WRONLY):
                opened.append(directory.open_file(name, flags))
            if not all(os.path.samestat(os.fstat(fd), self._stat) for fd in opened):
                raise StorageError(f"cannot use {part}: it is being changed by someone else")
            sink = DirectSink(*opened)
            opened.clear()
        except OSError as error:
            raise storage_error(
                f"write {part} past the page cache (sink=auto or pwrite can do without)", error
            ) from error
        finally:
            for fd in opened:
                os.close(fd)
        return sink

    def _check_space(self, size: int) -> None:
        try:
            info = os.fstatvfs(self._fd)
            blocks = os.fstat(self._fd).st_blocks * 512
        except OSError:
            return
        free = info.f_frsize * (info.f_bfree if os.geteuid() == 0 else info.f_bavail)
        if info.f_blocks and size > free + blocks:
            raise DiskFullError(
                f"cannot write {self.target.part}: it needs {size - blocks} bytes and {free} are free; "
                "free some space and run it again: what is kept is not fetched again",
                errno=errno.ENOSPC,
            )

    def attach(self, writer: Writer) -> None:
        """Sets the sink of a writer that is not in a run."""
        if self._mapping is not None and self.ledger is not None:
            writer.use_mapping(self.ledger, self._mapping)
        elif self._direct is not None and self.ledger is not None:
            writer.use_direct(self.ledger, self._direct)
        else:
            writer.use_file(self.ledger, self._fd, BUFFER_BYTES)

    # ---- what others do to it ----

    def check(self, size: int) -> None:
        """Raises StorageError when somebody else has cut the part file to under `size` bytes: chunks that
        were in place are lost then.

        A file that grew again after the cut is known by its hole, where its space was reserved; unless
        writers have brought all of that in anew through the mapping, between two looks.
        """
        now = os.fstat(self._fd)
        if now.st_size < size or (self._reserved and now.st_blocks * 512 < size):
            raise StorageError(
                f"{self.target.part} was truncated by somebody else while it was written; "
                "run it again, what is left is verified"
            )

    @property
    def mapped(self) -> bool:
        """True when the sink is a mapping."""
        return self._mapping is not None

    @property
    def pending(self) -> int:
        """Bytes of chunks that came whole and are being written: they are not in the ledger yet."""
        return self._direct.pending if self._direct is not None else 0

    @_as_owner
    def settle(self) -> None:
        """Waits until all that came is in the file. Raises StorageError when it could not be written."""
        if self._direct is not None:
            try:
                self._direct.settle()
            except OSError as error:
                raise storage_error(f"write {self.target.part}", error) from error

    @property
    def checkpointed(self) -> bool:
        """True when there is a checkpoint file."""
        return self._checkpoint is not None

    @property
    def in_doubt(self) -> bool:
        """True when there is progress in files that are only to be read: somebody may still write them."""
        return self._owner is not None and self._owner.in_doubt

    @property
    def fd(self) -> int:
        """The part file's descriptor, for reading what is in place."""
        return self._fd

    # ---- the checkpoint ----

    def _snapshot(self, partials: Partials, paused: bool, durable: bytes) -> Checkpoint:
        claimed = self.ledger.bits() if self.ledger is not None else b""
        return Checkpoint(
            url=self.source.url,
            url_sha256=self.source.url_sha256,
            identity=self.identity,
            chunk_size=self._chunk_size,
            durable=_both(durable, claimed),  # a stream that began again has fewer chunks than were durable
            claimed=claimed,
            crcs=self.ledger.crcs() if self.ledger is not None else b"",
            boot_id=boot_id(),
            inode=self._stat.st_ino,
            device=self._stat.st_dev,
            born=self._born,
            partials=partials,
            paused=paused,
            crc64=self.expected_crc64,
        )

    @_as_owner
    def claim(self, partials: Partials = (), *, paused: bool = False) -> None:
        """Writes what is in place to the checkpoint, without a sync: safe against a kill. Raises
        StorageError.
        """
        if self._checkpoint is None or self.ledger is None or self._broken:
            return
        snapshot = self._snapshot(partials, paused, self._durable)
        self.check(self.ledger.size)
        self._write_claim(snapshot)

    def _write_claim(self, snapshot: Checkpoint) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.write(snapshot, durable=False)
        self._durable = snapshot.durable
        self._on_disk = _both(self._on_disk, snapshot.claimed)

    @_as_owner
    def sync(self, partials: Partials = (), *, paused: bool = False) -> None:
        """Makes what is in place durable, then says so in the checkpoint: safe against a power cut.

        A sync that fails is not tried again: StorageError, and what came since the last one is given up
        (docs/checkpoint-format.md); nothing is written down any more after it.
        """
        if self._checkpoint is None or self.ledger is None or self._broken:
            return
        snapshot = self._snapshot(partials, paused, b"")
        try:
            self._synced(os.fdatasync)
        except OSError as error:
            raise storage_error(f"sync {self.target.part}", error) from error
        self.check(self.ledger.size)
        if not self._named:
            self._sync_names()
        self._checkpoint.write(replace(snapshot, durable=snapshot.claimed), durable=True)
        self._durable = self._on_disk = snapshot.claimed

    def _synced(self, sync: Callable[[int], None]) -> None:
        """Syncs the part file. Raises OSError, and always again after a first failure.

        When it fails, the pages that were to be written may be clean in the cache and not on the disk: no
        later sync would write them, and a checksum of them proves nothing. So the checkpoint claims only the
        chunks that were on the disk before.
        """
        if self._broken:
            raise OSError(errno.EIO, "an earlier sync of it failed")
        try:
            sync(self._fd)
        except OSError:
            self._broken = True
            if self._checkpoint is not None and self.ledger is not None:
                snapshot = self._snapshot((), False, self._durable)
                claimed = _both(snapshot.claimed, self._on_disk)
                try:
                    self._checkpoint.write(replace(snapshot, claimed=claimed), durable=False)
                except StorageError:
                    pass  # the sync's own failure is told
            raise

    @property
    def claim_bytes(self) -> int:
        """How many bytes one claim writes."""
        return self._checkpoint.slot_size if self._checkpoint is not None else 0

    def pace_writeback(self) -> None:
        """Starts writing back what is finished and not yet on its way, PACE_BYTES or more of it, so that the
        next sync is short.
        """
        ledger = self.ledger
        if ledger is None or self._direct is not None or ledger.done_bytes - self._paced_bytes < PACE_BYTES:
            return
        self._paced_bytes = ledger.done_bytes
        now = int.from_bytes(ledger.bits(), "little")
        group = min(max(1, HUGE_PAGE_BYTES // ledger.chunk_size), 64)
        fresh = whole_groups(now, ledger.count, group) & ~self._written_back
        self._written_back |= fresh
        scratch = ChunkLedger(ledger.size, ledger.chunk_size)
        scratch.load(fresh.to_bytes(-(-ledger.count // 8), "little"), bytes(8 * ledger.count))
        for start, stop in scratch.present():
            try:
                start_writeback(self._fd, start, stop - start)
            except OSError:
                return  # a hint only; the sync itself will tell

    # ---- the end ----

    def finished(self, ledger: ChunkLedger, identity: Identity, crc64: int) -> Checkpoint:
        """Returns what is to be kept of the whole object: its complete ledger, and what the object was."""
        whole = whole_ledger(self.source, ledger, identity, crc64)
        return replace(whole, inode=self._stat.st_ino, device=self._stat.st_dev)

    @_as_owner
    def publish(
        self,
        *,
        size: int,
        mtime: float | None,
        durable: bool,
        replace: bool,
        record: bytes | None,
        ledger: Checkpoint | None = None,
    ) -> None:
        """Makes the part file the target: sync, rename, sync of the directory, removal of the checkpoint.

        `record` is kept as an extended attribute where the file system has them, `ledger` beside the target.
        With `replace` False an existing target is left alone and TargetExistsError raised. Raises
        StorageError, also when somebody else has cut the part file; it and its checkpoint stay then.
        """
        self._mapping = self._direct = None
        self.check(size)
        if self.ledger is not None and not self.ledger.complete:
            raise StorageError(
                f"{self.target.part} is not whole; run it again: what is kept is not fetched again"
            )
        publish(
            self._fd,
            self.target,
            size=size,
            mtime=mtime,
            sync=(lambda _: self._synced(os.fsync)) if durable else None,
            replace=replace,
            record=record,
            ledger=ledger,
        )
        self._remove_checkpoint()
        self.close()

    @_as_owner
    def discard(self, *, durable: bool = True) -> None:
        """Removes the part file and its checkpoint; with `durable` a power cut on the way leaves no bytes
        that no checkpoint speaks of.
        """
        try:
            self._empty(durable=durable)
        except StorageError:
            pass  # it goes all the same
        self._drop_progress()
        self.target.directory.remove(self.target.part_name)
        self.close()

    def discard_if_empty(self) -> None:
        """Removes the part file if nothing is in it and no checkpoint speaks of it; a checkpoint that speaks
        of an empty file goes too.
        """
        if self._fd < 0:
            return
        speaks = self._checkpoint is not None or self._is_spoken_of()
        try:
            if speaks and not os.fstat(self._fd).st_size:
                self.target.directory.sync()  # where the bytes went, if they were published, comes first
                self._remove_checkpoint()
        except OSError:
            return
        nothing = self._checkpoint is None and (self.ledger is None or self.ledger.done == 0)
        if nothing and not self._is_spoken_of():
            for name in reversed(self.target.working_names):
                self.target.directory.remove(name)

    def _is_spoken_of(self) -> bool:
        return any(directory.has(name) for directory, name in self.target.checkpoint_places)

    def _drop_progress(self) -> None:
        self._mapping = self._direct = None
        self.ledger = None
        self._written_back = self._paced_bytes = 0
        self._remove_checkpoint()

    def _remove_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None
        _, *names = self.target.working_names
        for name in names:  # a kill or a power cut may have left a new one that has not got its name
            self.target.directory.remove(name)
        if self.target.apart is not None:
            for name in (self.target.apart.name, self.target.apart.new_name):
                self.target.apart.directory.remove(name)

    def close(self) -> None:
        """Closes everything and leaves the files where they are, under their usual names; the lock, or the
        owner's record, goes with it.
        """
        self._mapping = self._direct = None
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            give_lock(fd)
        if self._owner is not None:
            self._owner.release()
            self._owner = None


def _both(one: bytes, other: bytes) -> bytes:
    both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")


def whole_ledger(source: Source, ledger: ChunkLedger, identity: Identity, crc64: int) -> Checkpoint:
    """Returns what is kept of a finished file: its complete ledger, and what the object was."""
    return Checkpoint(
        url=source.url,
        url_sha256=source.url_sha256,
        identity=identity,
        chunk_size=ledger.chunk_size,
        durable=ledger.bits(),
        claimed=ledger.bits(),
        crcs=ledger.crcs(),
        crc64=crc64,
    )


def _let_go() -> None:
    """In the child of a fork: a lock lasts as long as its last descriptor, and it is the parent's."""
    for part in list(_open):
        fd, part._fd = part._fd, -1
        if fd >= 0:
            os.close(fd)


def whole_groups(bits: int, count: int, group: int) -> int:
    """Returns those set bits, of `count`, that lie in a group of `group` bits which is set as a whole; the
    last group may be short.
    """
    width = -(-count // group) * group
    bits |= (1 << width) - (1 << count)
    whole = bits
    for step in range(1, group):
        whole &= bits >> step
    full = (1 << group) - 1
    firsts = ((1 << width) - 1) // full
    return (whole & firsts) * full & (1 << count) - 1


_open: weakref.WeakSet[PartFile] = weakref.WeakSet()
os.register_at_fork(after_in_child=_let_go)
