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
from collections.abc import Callable
from dataclasses import dataclass, replace

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Mapping, Writer, birth_ns, prefers_mapping, reserve, start_writeback
from fastxfer.errors import CheckpointError, DiskFullError, StorageError, TargetBusyError, storage_error
from fastxfer.plan.response import Identity
from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile, boot_id, read_checkpoint
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import is_unfinished, mark_unfinished, publish
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
        return cls(safe_url, hash_of(url))


def hash_of(url: str) -> str:
    """Returns how a checkpoint names a whole URL (without user info), secrets in its query included."""
    return hashlib.sha256(url.encode()).hexdigest()


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
    on_disk: bytes = b""
    """The chunks, a bitmap, that are on the disk: what is in the page cache alone is not among them."""


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
        self._on_disk = b""  # a superset: chunks that no failed sync can take, though they are verified again
        self._named = False  # the working files' names are durable
        self._broken = False  # a sync failed: nothing is promised any more
        self._chunk_size = 1
        self._written_back = b""
        self._spare = 0
        self._reserved = False
        self._stat = os.fstat(fd)
        self._born = birth_ns(fd)
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
        that cannot be read (nothing is touched then) and StorageError; beside an empty part file one whose
        first write was cut off counts as none. A part file that no checkpoint speaks of is moved aside, not
        lost, unless it is marked as ours.
        """
        size_now = os.fstat(self._fd).st_size
        try:
            loaded = CheckpointFile.load(
                self.target.directory, self.target.checkpoint_name, begun_counts=size_now > 0
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; {self.target.part} is kept: to start over use resume=False (--resume false)",
                kept=str(self.target.part),
            ) from error
        if loaded is None:
            if size_now and not is_unfinished(self._fd):
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
        self._fd, self._stat, self._born = again._fd, again._stat, again._born
        self.note = f"{name} had no checkpoint; it was moved to {aside}"

    def _verify(self, checkpoint: Checkpoint, size_now: int) -> Left:
        size = checkpoint.identity.size or 0
        ledger = ChunkLedger(size, checkpoint.chunk_size)
        ledger.load(checkpoint.claimed, checkpoint.crcs)
        same_boot = bool(checkpoint.boot_id) and checkpoint.boot_id == boot_id()
        written_to = (checkpoint.inode, checkpoint.device, checkpoint.born)
        same_file = written_to == (self._stat.st_ino, self._stat.st_dev, self._born)
        trusted = ChunkLedger(size, checkpoint.chunk_size)
        # A file that was cut and grew again has a hole.
        whole = size_now == size <= self._stat.st_blocks * 512
        if same_boot and same_file and whole:
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
        # Since a boot that is not the checkpoint's nobody has written these chunks: they came from the disk.
        other_boot = bool(checkpoint.boot_id) and checkpoint.boot_id != (boot_id() or checkpoint.boot_id)
        read = same_file and other_boot
        return Left(checkpoint, ledger, partials, verified, dropped, (ledger if read else trusted).bits())

    # ---- space ----

    def adopt(self, left: Left, identity: Identity, *, sink: str) -> None:
        """Goes on with what was left. Raises StorageError, DiskFullError."""
        self.identity = identity
        self.ledger = left.ledger
        self.expected_crc64 = left.checkpoint.crc64
        self._chunk_size = left.ledger.chunk_size
        self._durable = left.checkpoint.durable
        self._on_disk = left.on_disk
        if left.dropped or left.verified:
            self._durable = bytes(len(left.checkpoint.durable))
        if left.dropped:
            # Before the file looks like the one that was trusted.
            self._write_claim(self._snapshot(tuple(left.partials.items()), False, self._durable))
        self._reserve(left.ledger.size, sink)

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
        self._checkpoint = CheckpointFile.create(
            self.target.directory,
            self.target.checkpoint_name,
            self._snapshot((), False, self._durable),
            durable=durable,
        )
        if durable:
            self._sync_names()
        if size:
            self._reserve(size, sink)

    def _empty(self, *, durable: bool) -> None:
        """Drops what is in the file, before the checkpoint that speaks of it: a crash between leaves nothing
        that has to be moved aside.
        """
        self._mapping = None
        try:
            if os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, 0)
                if durable:
                    os.fsync(self._fd)
        except OSError as error:
            raise storage_error(f"empty {self.target.part}", error) from error

    def _sync_names(self) -> None:
        try:
            self.target.directory.sync()
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
        if sink == "pwrite" or (sink == "auto" and not (reserved and prefers_mapping(self._fd))):
            return
        if not reserved:
            raise StorageError(
                f"cannot map {part}: its file system cannot reserve space; use sink=auto or pwrite",
                errno=errno.EOPNOTSUPP,
            )
        try:
            self._spare = BUFFER_BYTES if sink == "auto" else 0
            self._mapping = Mapping(self._fd, size, MAP_LIMIT_NS if sink == "auto" else 0)
        except OSError as error:
            if sink == "mmap":
                raise storage_error(f"map {part} (sink=auto or pwrite can do without)", error) from error

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
            writer.use_mapping(self.ledger, self._mapping, self._spare)
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
    def checkpointed(self) -> bool:
        """True when there is a checkpoint file."""
        return self._checkpoint is not None

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
        StorageError, also when somebody else has cut the part file; it and its checkpoint stay then.
        """
        self._mapping = None
        self.check(size)
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
        speaks = self._checkpoint is not None or self.target.directory.has(self.target.checkpoint_name)
        if speaks and not os.fstat(self._fd).st_size:
            try:
                self.target.directory.sync()  # where the bytes went, if they were published, comes first
            except OSError:
                return
            self._remove_checkpoint()
        nothing = self._checkpoint is None and (self.ledger is None or self.ledger.done == 0)
        if nothing and not self.target.directory.has(self.target.checkpoint_name):
            self._remove_checkpoint()  # one in the making too
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
        # A kill or a power cut may have left a new one that has not got its name.
        self.target.directory.remove(self.target.new_checkpoint_name)

    def close(self) -> None:
        """Closes everything and leaves the files where they are; the lock goes with it."""
        self._mapping = None
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
    try:
        target.directory.sync()  # the last of its names that is on the disk must not go
    except OSError as error:
        raise storage_error(f"finish {target.final}", error) from error
    target.directory.remove(target.part_name)
    target.directory.remove(target.checkpoint_name)
    target.directory.remove(target.new_checkpoint_name)


def stored_checkpoint(target: Target) -> Checkpoint | None:
    """Returns what the checkpoint beside a target says, or None when there is none. Raises CheckpointError,
    StorageError.
    """
    found = read_checkpoint(target.directory, target.checkpoint_name)
    return found[0] if found is not None else None
