"""The part file of one transfer: its space, its mapping, its ledger and its checkpoint; it becomes the
target in one rename.

All methods may block on the disk and belong to the transfer's disk thread, but for `attach` (the engine's
thread, takes no time).

Order of a transfer: `open` locks `OUT.part` and reads what an earlier run left; `allocate` makes it the
object's size with space reserved, or `adopt` goes on with what was left; `claim` and `sync` write the
checkpoint (docs/checkpoint-format.md has the order and why); `publish` syncs, renames and removes the
checkpoint. `close` leaves everything where it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
from dataclasses import dataclass, replace

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Mapping, Writer, prefers_mapping, reserve, start_writeback
from fastxfer.errors import CheckpointError, DiskFullError, StorageError, TargetBusyError, storage_error
from fastxfer.plan.response import Identity
from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile, boot_id, read_checkpoint
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import publish
from fastxfer.storage.reading import crc_of

# One pwrite(2) of 256 KiB costs the same CPU a byte as larger ones, and 128 connections then hold 32 MiB of
# buffers.
BUFFER_BYTES = 256 * 1024
# What bringing a MiB of the mapping in may cost before `auto` goes on with pwrite, whose own price this is
# about. It is 0.13 to 0.25 ms where the file system has huge pages and memory is at hand; 1.2 ms with pages
# of 4 KiB; 2 ms and more on a virtual machine whose free memory its host took back.
MAP_LIMIT_NS = 500_000

Partials = tuple[tuple[int, int], ...]


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
        return cls(safe_url, hashlib.sha256(url.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier run left, verified: `missing` byte ranges, and the checksums of partial chunks by
    offset.
    """

    checkpoint: Checkpoint
    ledger: ChunkLedger
    partials: dict[int, int]
    verified: int
    dropped: int


class PartFile:
    """See the module. `ledger` is None until the object's size is known."""

    def __init__(self, target: Target, fd: int, source: Source) -> None:
        self.target = target
        self.source = source
        self.identity = Identity()
        self.ledger: ChunkLedger | None = None
        self.note = ""
        self._fd = fd
        self._mapping: Mapping | None = None
        self._checkpoint: CheckpointFile | None = None
        self._durable = b""
        self._chunk_size = 1
        self._written_back = b""
        self._spare = 0
        self._stat = os.fstat(fd)
        self.expected_crc64: int | None = None
        """What the whole object's CRC-64/NVME is known to be, of a checkpoint that says so."""

    # ---- opening ----

    @classmethod
    def open(cls, target: Target, source: Source) -> PartFile:
        """Opens or makes `OUT.part` and locks it. Raises TargetBusyError and StorageError."""
        while True:
            try:
                fd = target.directory.open_file(target.part_name, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise storage_error(f"write {target.part}", error) from error
            try:
                lock(fd, target)
                if target.directory.holds(target.part_name, fd):
                    if os.fstat(fd).st_nlink <= 1:
                        return cls(target, fd, source)
                    _end_publication(target, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # the one who held the lock has just published or removed it

    def read_left(self) -> Left | None:
        """Returns what an earlier run left of this target, or None when it left nothing.

        Bits that cannot be trusted are verified by their checksums. Raises CheckpointError for a checkpoint
        that cannot be read (nothing is touched then) and StorageError. A part file that no checkpoint speaks
        of is moved aside, not lost.
        """
        try:
            loaded = CheckpointFile.load(self.target.directory, self.target.checkpoint_name)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; {self.target.part} is kept: to start over use resume=False (--resume false)",
                kept=str(self.target.part),
            ) from error
        size_now = os.fstat(self._fd).st_size
        if loaded is None:
            if size_now:
                self._move_aside()
            return None
        file, checkpoint = loaded
        if checkpoint.identity.size is None or not checkpoint.chunks:
            file.close()
            return None
        self._checkpoint = file
        return self._verify(checkpoint, size_now)

    def _move_aside(self) -> None:
        name, directory = self.target.part_name, self.target.directory
        names = (f"{name}.orphan{n or ''}" for n in itertools.count())
        aside = next(each for each in names if not directory.has(each))
        try:
            os.rename(name, aside, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
            os.close(self._fd)
        except OSError as error:
            raise storage_error(f"move {self.target.part} aside", error) from error
        again = PartFile.open(self.target, self.source)
        self._fd, self._stat = again._fd, again._stat
        self.note = f"{name} had no checkpoint; it was moved to {aside}"

    def _verify(self, checkpoint: Checkpoint, size_now: int) -> Left:
        size = checkpoint.identity.size or 0
        ledger = ChunkLedger(size, checkpoint.chunk_size)
        ledger.load(checkpoint.claimed, checkpoint.crcs)
        same_boot = bool(checkpoint.boot_id) and checkpoint.boot_id == boot_id()
        same_file = (checkpoint.inode, checkpoint.device) == (self._stat.st_ino, self._stat.st_dev)
        trusted = ChunkLedger(size, checkpoint.chunk_size)
        if same_boot and same_file and size_now == size:
            trusted.load(checkpoint.durable, checkpoint.crcs)
        verified = dropped = 0
        for chunk in _set_bits(checkpoint.claimed):
            if chunk in trusted:
                continue
            start, stop = ledger.bounds(chunk)
            if crc_of(self._fd, self.target.part, start, stop) == ledger.crc(chunk):
                verified += 1
            else:
                ledger.clear(chunk)
                dropped += 1
        partials = {}
        for pos, crc in checkpoint.partials:
            chunk = pos // checkpoint.chunk_size
            start = chunk * checkpoint.chunk_size
            holds = pos > start and chunk not in ledger
            if holds and crc_of(self._fd, self.target.part, start, pos) == crc:
                partials[pos] = crc
        if dropped:
            name = self.target.part_name
            self.note = f"{dropped} chunks of {name} did not hold their checksums and are fetched again"
        return Left(checkpoint, ledger, partials, verified, dropped)

    # ---- space ----

    def adopt(self, left: Left, identity: Identity, *, sink: str) -> None:
        """Goes on with what was left. Raises StorageError, DiskFullError."""
        self.identity = identity
        self.ledger = left.ledger
        self.expected_crc64 = left.checkpoint.crc64
        self._chunk_size = left.ledger.chunk_size
        self._durable = left.checkpoint.durable
        if left.dropped or left.verified:
            self._durable = bytes(len(left.checkpoint.durable))
        self._reserve(left.ledger.size, sink)

    def allocate(self, identity: Identity, chunk_size: int, *, sink: str, small: bool = False) -> None:
        """Makes the file anew for an object of `identity.size` bytes (or unknown). `small` objects get
        neither mapping nor checkpoint.

        Raises DiskFullError before anything is written when there is not the space, and StorageError.
        """
        size = identity.size
        if size:
            self._check_space(size)
        self._drop_progress()
        self.expected_crc64 = None
        self.identity = identity
        self._chunk_size = chunk_size
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise storage_error(f"empty {self.target.part}", error) from error
        self.ledger = ChunkLedger(size, chunk_size) if size is not None else None
        self._durable = bytes(-(-self.ledger.count // 8)) if self.ledger is not None else b""
        if small:
            return
        self._checkpoint = CheckpointFile.create(
            self.target.directory,
            self.target.checkpoint_name,
            self._snapshot((), False, self._durable),
        )
        if size:
            self._reserve(size, sink)

    def _reserve(self, size: int, sink: str) -> None:
        part = self.target.part
        self._check_space(size)
        try:
            reserved = reserve(self._fd, size)
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise storage_error(f"reserve {size} bytes for {part}", error) from error
        if sink == "pwrite" or (sink == "auto" and not (reserved and prefers_mapping(self._fd))):
            return
        if not reserved:
            raise StorageError(
                f"cannot map {part}: its file system cannot reserve space; use sink=auto or pwrite"
            )
        try:
            self._spare = BUFFER_BYTES if sink == "auto" else 0
            self._mapping = Mapping(self._fd, size, MAP_LIMIT_NS if sink == "auto" else 0)
        except OSError as error:
            if sink == "mmap":
                raise storage_error(f"map {part}", error) from error

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
                "free some space and run it again, it goes on where it stopped",
                errno=errno.ENOSPC,
            )

    def attach(self, writer: Writer) -> None:
        """Sets the sink of a writer that is not in a run."""
        if self._mapping is not None and self.ledger is not None:
            writer.use_mapping(self.ledger, self._mapping, self._spare)
        else:
            writer.use_file(self.ledger, self._fd, BUFFER_BYTES)

    @property
    def mapped(self) -> bool:
        """True when the sink is a mapping."""
        return self._mapping is not None

    @property
    def checkpointed(self) -> bool:
        """True when there is a checkpoint file."""
        return self._checkpoint is not None

    @property
    def fd(self) -> int:
        """The part file's descriptor, for reading what is in place."""
        return self._fd

    # ---- the checkpoint ----

    def _snapshot(self, partials: Partials, paused: bool, durable: bytes) -> Checkpoint:
        return Checkpoint(
            url=self.source.url,
            url_sha256=self.source.url_sha256,
            identity=self.identity,
            chunk_size=self._chunk_size,
            durable=durable,
            claimed=self.ledger.bits() if self.ledger is not None else b"",
            crcs=self.ledger.crcs() if self.ledger is not None else b"",
            boot_id=boot_id(),
            inode=self._stat.st_ino,
            device=self._stat.st_dev,
            partials=partials,
            paused=paused,
            crc64=self.expected_crc64,
        )

    def claim(self, partials: Partials = (), *, paused: bool = False) -> None:
        """Writes what is in place to the checkpoint, without a sync: safe against a kill."""
        if self._checkpoint is not None and self.ledger is not None:
            self._checkpoint.write(self._snapshot(partials, paused, self._durable), durable=False)

    def sync(self, partials: Partials = (), *, paused: bool = False) -> None:
        """Makes what is in place durable, then says so in the checkpoint: safe against a power cut.

        A sync that fails is not tried again: StorageError, and what came since the last one is not trusted
            (docs/checkpoint-format.md).
        """
        if self._checkpoint is None or self.ledger is None:
            return
        snapshot = self._snapshot(partials, paused, b"")
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(f"sync {self.target.part}", error) from error
        self._checkpoint.write(replace(snapshot, durable=snapshot.claimed), durable=True)
        self._durable = snapshot.claimed

    @property
    def claim_bytes(self) -> int:
        """How many bytes one claim writes."""
        return self._checkpoint.slot_size if self._checkpoint is not None else 0

    def pace_writeback(self) -> None:
        """Starts writing back the chunks that are finished and not yet on their way, so that the next sync
        is short.
        """
        if self.ledger is None:
            return
        now = self.ledger.bits()
        fresh = int.from_bytes(now, "little") & ~int.from_bytes(self._written_back, "little")
        self._written_back = now
        if not fresh:
            return
        scratch = ChunkLedger(self.ledger.size, self.ledger.chunk_size)
        scratch.load(fresh.to_bytes(len(now), "little"), bytes(8 * self.ledger.count))
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
        StorageError; the part file and its checkpoint stay then.
        """
        self._mapping = None
        publish(
            self._fd,
            self.target,
            size=size,
            mtime=mtime,
            durable=durable,
            replace=replace,
            record=record,
            ledger=ledger,
        )
        self._remove_checkpoint()
        self.close()

    def discard(self) -> None:
        """Removes the part file and its checkpoint."""
        self._drop_progress()
        self.target.directory.remove(self.target.part_name)
        self.close()

    def discard_if_empty(self) -> None:
        """Removes the part file if nothing is in it and no checkpoint speaks of it, or it has not a byte."""
        if self._fd < 0:
            return
        if self.ledger is None and os.fstat(self._fd).st_size == 0:
            self._remove_checkpoint()  # of a file that a kill left without it
        nothing = self._checkpoint is None and (self.ledger is None or self.ledger.done == 0)
        if nothing and not self.target.directory.has(self.target.checkpoint_name):
            self.target.directory.remove(self.target.part_name)

    def _drop_progress(self) -> None:
        self._mapping = None
        self.ledger = None
        self._written_back = b""
        self._remove_checkpoint()

    def _remove_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.remove()
            self._checkpoint = None
        else:
            self.target.directory.remove(self.target.checkpoint_name)

    def close(self) -> None:
        """Closes everything and leaves the files where they are; the lock goes with it."""
        self._mapping = None
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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


def _set_bits(bits: bytes) -> list[int]:
    return [8 * i + k for i, byte in enumerate(bits) if byte for k in range(8) if byte >> k & 1]


def lock(fd: int, target: Target, *, shared: bool = False) -> None:
    """Locks a part file to write to it, or `shared` to read it. Raises TargetBusyError and StorageError."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TargetBusyError(
            f"{target.final} is being written by another transfer; wait for it or end it"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise storage_error(f"lock {target.part}", error) from error


def _end_publication(target: Target, fd: int) -> None:
    """Removes the working files of a target that is complete: a kill came between its link and their removal.

    Raises StorageError when the part file has another name than the target's: that is not to be written to.
    """
    if not target.directory.holds(target.name, fd):
        raise StorageError(
            f"cannot use {target.part}: the same file has another name too (a hard link); "
            "remove one of the two, or put a copy in its place"
        )
    target.directory.remove(target.part_name)
    target.directory.remove(target.checkpoint_name)


def stored_checkpoint(target: Target) -> Checkpoint | None:
    """Returns what the checkpoint beside a target says, or None when there is none. Raises CheckpointError,
    StorageError.
    """
    found = read_checkpoint(target.directory, target.checkpoint_name)
    return found[0] if found is not None else None
