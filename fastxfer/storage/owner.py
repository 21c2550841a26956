"""Who may write a target: one at a time, on every file system, and nobody's bytes in anybody else's file.

On a local file system the lock of `OUT.part` (flock) says it all: the kernel holds it as long as the process
lives. Network and user-space file systems may refuse it, keep it to each machine, or lose it. There, where
`record_needed` says so, two other things take its place (docs/checkpoint-format.md, "Who may write").

*The record*, `OUT.part.lock`, says who the owner is. Its owner writes it anew every RENEW_S seconds, on a
thread of its own. A newcomer takes over at once from an owner that has released it, or whose process is
known to be gone; it watches any other for WATCH_S seconds and gives way when the record moves. A record is
replaced in a way that of several newcomers only one succeeds: each makes its own record under a name that is
derived from the old record, which only one can; looks whether the old record is still there; and renames.

*Names of its own.* An owner of a record works under names that nobody else ever uses (`.fastxfer-TOKEN.part`
and `.part.ckpt`). If the one before may still be alive (a stopped process, a cut network), its files are only
read, what holds its checksums is copied, and then they are removed: whatever it still does, in files that
are open or by name, happens to files of its own. It fails when it next looks at the record. An owner that
ends in order gives the files their usual names back.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import file_system
from fastxfer.errors import (
    FastxferError,
    InterruptedTransferError,
    StorageError,
    TargetBusyError,
    storage_error,
)
from fastxfer.names import CHECKPOINT, PART, WORKING
from fastxfer.storage.checkpoint import Checkpoint, read_checkpoint
from fastxfer.storage.directory import Directory
from fastxfer.storage.locks import BUSY, HELD, UNTRIED, give_lock, lock_holder, record_needed, take_lock
from fastxfer.storage.owner_record import (
    RECORD_BYTES,
    Record,
    base_of,
    decode,
    lives,
    this_process,
)
from fastxfer.storage.paths import Target

# A server that restarts, or a network that fails over, keeps an owner from its record for some seconds.
RENEW_S = 2.0
WATCH_S = 15.0
LOOK_S = 0.25
COPY_BYTES = 1024**2


def busy(target: Target, who: str) -> TargetBusyError:
    """Returns the error of somebody else's writing the target."""
    return TargetBusyError(
        f"{target.final} is being written by another transfer ({who}); wait for it or end it"
    )


class Owner:
    """A target that is this transfer's by its record; see the module. `target` has the names to work under.

    Belongs to the transfer's disk thread; a thread of its own renews the record.
    """

    def __init__(self, target: Target) -> None:
        self.record = this_process()
        self.target = replace(target, base=self.record.base)
        self.note = ""
        self._directory = target.directory
        self._fd = -1
        self._lock = threading.RLock()  # over the record and its descriptor
        self._over = threading.Event()

    # ---- becoming the owner ----

    @classmethod
    def claim(cls, target: Target, give_up: Callable[[], bool]) -> Owner:
        """Becomes the owner. Takes up to WATCH_S seconds when another machine's record is there, unless
        `give_up` says True meanwhile. Raises TargetBusyError, InterruptedTransferError and StorageError.
        """
        owner = cls(target)
        try:
            while not owner._try(give_up):
                pass  # somebody else was quicker: that one is looked at next
            owner._gather()
        except BaseException as error:
            owner.release()
            if isinstance(error, OSError):
                raise storage_error(f"write {target.lock}", error) from error
            raise
        threading.Thread(target=owner._renew, name="fastxfer-owner", daemon=True).start()
        return owner

    def _try(self, give_up: Callable[[], bool]) -> bool:
        try:
            return self._succeed(give_up)
        except FileNotFoundError:
            if os.fstat(self._directory.fd).st_nlink == 0:
                raise
            return False  # this one stood still, and a rival has taken what it had just made for a dead one's

    def _succeed(self, give_up: Callable[[], bool]) -> bool:
        """Takes the place of the owner that is there, if any; False when things changed meanwhile."""
        lock = self.target.lock_name
        raw = _read(self._directory, lock)
        predecessor = decode(raw) if raw is not None else None
        if predecessor is not None and predecessor.token == self.record.token:
            self._close()  # a rival that was late has put one there that was made in an earlier attempt
            self._fd = self._directory.open_file(lock, os.O_RDWR)
            self.record = predecessor
            return True
        if raw is None:
            self.record = replace(self.record, base=base_of(self.record.token), before=self._stranger())
            return self._create(lock)
        certain = self._is_over(lock, raw, give_up)
        if certain is None:
            return False
        junk = self._inherit(predecessor, certain)
        # Only one can make this name, and while it is there nobody else replaces that record.
        token = predecessor.token if predecessor is not None else hashlib.sha256(raw).hexdigest()[:16]
        marker = base_of(token) + ".next"
        if not self._create(marker):
            rival = _read(self._directory, marker)
            if rival is not None and self._is_over(marker, rival, give_up) is not None:
                self._directory.remove(marker)  # it was killed between two steps
            return False
        if not self._put_in_place(marker, raw):
            return False
        if junk:
            self._remove(junk)
        return True

    def _put_in_place(self, marker: str, raw: bytes) -> bool:
        """Renames the new record over the old one if that is still the same; False if it is not."""
        try:
            if _read(self._directory, self.target.lock_name) == raw:
                _rename(self._directory, marker, self.target.lock_name)
        except FileNotFoundError:
            pass  # a rival that was late took it away, or put it there
        finally:
            self._directory.remove(marker)
        return self._is_mine()

    def _stranger(self) -> str | None:
        """Returns "" when there is a part file without a record, of who knows whom: it is only to be read."""
        plain = replace(self.target, base="")
        try:
            with self._directory.reading(plain.part_name) as fd:
                lock_of(fd, self.target)
                there = os.fstat(fd)
                return "" if there.st_size and not self._is_published(there) else None
        except FileNotFoundError:
            return None

    def _is_over(self, name: str, raw: bytes, give_up: Callable[[], bool]) -> bool | None:
        """Returns True when the owner of a record writes no more, for certain; False when that is only
        likely; None when the record was replaced or released meanwhile. Raises TargetBusyError.
        """
        record = decode(raw)
        if record is not None:
            if record.released:
                return True
            alive = lives(record, self.record)
            if alive:
                raise busy(self.target, record.who)
            if alive is False:
                return True
            if (
                self.record.machine
                and self.record.machine == record.machine
                and _other_boot(record, self.record)
            ):
                return False
        return self._stood_still(name, raw, record, give_up)

    def _stood_still(
        self, name: str, raw: bytes, record: Record | None, give_up: Callable[[], bool]
    ) -> bool | None:
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            if give_up():
                raise InterruptedTransferError("the transfer was stopped; nothing was changed")
            time.sleep(LOOK_S)
            now = _read(self._directory, name)
            if now == raw:
                continue
            moved = decode(now) if now is not None else None
            if moved is None or moved.released:
                return None
            raise busy(self.target, moved.who)
        who = record.who if record is not None else "who is not known"
        self.note = f"taken over from another transfer ({who}), which did not move for {WATCH_S:g} s"
        return False

    def _inherit(self, predecessor: Record | None, certain: bool) -> str | None:
        """Sets where the files are: those of the one before if it is gone for certain, else new ones. Returns
        where copies are that it has not finished.
        """
        base, before, junk = base_of(self.record.token), None, None
        past = predecessor.past if predecessor is not None else None
        if predecessor is None:
            before = self._stranger()
        elif certain:
            base, before = predecessor.base, predecessor.before
        elif predecessor.before is not None and self._source(predecessor.before, PART) is not None:
            before, junk = predecessor.before, predecessor.base
        else:
            before = predecessor.base
        self.record = replace(self.record, base=base, before=before, past=past)
        return junk

    def _create(self, name: str) -> bool:
        """Makes the record under a name that is free; False when it is not."""
        self._close()
        try:
            self._fd = self._directory.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        self._write()
        return True

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _gather(self) -> None:
        """Gives files that an owner left in order, or while it did so, the names to work under."""
        self.target = replace(self.target, base=self.record.base)
        if self.record.past is not None:
            self._clear()
        if self.record.before is not None:
            part = self._source(self.record.before, PART)
            there = self._directory.look(part) if part is not None else None
            if there is not None and self._is_published(there):
                self._directory.sync()  # the last of its names that is on the disk must not go
                there = None
            if there is None:
                self.settled()  # the one who was to copy them, or to publish, had just finished
            return
        for ending in WORKING:
            usual, mine = self.target.name + ending, self.record.base + ending
            if usual == mine or self._directory.look(usual) is None or self._directory.has(mine):
                continue
            try:
                _rename(self._directory, usual, mine)
            except FileNotFoundError:
                pass  # network file systems know names for a while that are no more

    # ---- being it ----

    def check(self) -> None:
        """Looks whether it still is. Raises TargetBusyError and StorageError."""
        try:
            with self._lock:
                if self._is_mine() or self._reclaimed():
                    return
            raw = _read(self._directory, self.target.lock_name)
        except OSError as error:
            raise storage_error(f"read {self.target.lock}", error) from error
        other = decode(raw) if raw is not None else None
        who = other.who if other is not None else "which is over"
        raise TargetBusyError(
            f"{self.target.final} was taken over by another transfer ({who}) while this one stood still"
        )

    def _reclaimed(self) -> bool:
        """Makes the record anew where it was removed and its files were not: by somebody's rm, or by the last
        act of one who was taken over.
        """
        lock, part = self.target.lock_name, self.target.part_name
        return not self._directory.has(lock) and self._directory.has(part) and self._create(lock)

    def _is_mine(self) -> bool:
        raw = _read(self._directory, self.target.lock_name)
        record = decode(raw) if raw is not None else None
        return record is not None and record.token == self.record.token

    def _write(self, **changes: object) -> None:
        self.record = replace(self.record, count=self.record.count + 1, **changes)  # type: ignore[arg-type]
        if os.pwrite(self._fd, self.record.encode(), 0) != RECORD_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._fd)

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            with self._lock:
                if self._fd < 0:
                    return
                try:
                    self._write()
                except OSError:
                    pass  # who sees it stand still takes over; the next check tells

    # ---- what somebody else left ----

    @property
    def in_doubt(self) -> bool:
        """True as long as the progress is in files that are only to be read."""
        return self.record.before is not None

    def _source(self, base: str, suffix: str) -> str | None:
        names = ((base or self.target.name) + suffix, self.target.name + suffix)
        return next((name for name in names if self._directory.look(name) is not None), None)

    def _is_published(self, part: os.stat_result) -> bool:
        """Returns whether a part file is the target already, by a link."""
        final = self._directory.look(self.target.name) if part.st_nlink > 1 else None
        return final is not None and os.path.samestat(part, final)

    def copy_left(self, fd: int) -> Checkpoint | None:
        """Copies what the one before claims to have into the file behind `fd`, and returns its checkpoint:
        nothing of it is verified. None when there is none.

        Raises StorageError and CheckpointError.
        """
        before = self.record.before or ""
        part, name = self._source(before, PART), self._source(before, CHECKPOINT)
        there = self._directory.look(part) if part is not None else None
        if part is None or name is None or there is None or not there.st_size:
            return None
        found = read_checkpoint(self._directory, name)
        if found is None:
            return None
        checkpoint, _ = found
        size = checkpoint.identity.size or 0
        try:
            with self._directory.reading(part) as old:
                if self._is_published(os.fstat(old)):
                    return None
                os.ftruncate(fd, size)
                for start, stop in _claimed(checkpoint):
                    _copy(old, fd, start, stop)
        except OSError as error:
            raise storage_error(f"copy {self._directory.path / part}", error) from error
        return checkpoint

    def settled(self) -> None:
        """The files of the one before are of no use any more: the record says so, and they are removed.

        Raises TargetBusyError and StorageError.
        """
        self.check()
        if self.record.before is not None:
            self._put(before=None, past=self.record.before)
        self._remove("")
        self._clear()

    def _clear(self) -> None:
        if self.record.past is not None:
            self._remove(self.record.past)
            self._put(past=None)

    def _remove(self, base: str) -> None:
        for ending in WORKING:
            self._directory.remove((base or self.target.name) + ending)

    def _put(self, **changes: object) -> None:
        try:
            with self._lock:
                self._write(**changes)
        except OSError as error:
            raise storage_error(f"write {self.target.lock}", error) from error

    # ---- the end ----

    def release(self) -> None:
        """Ends it. What is left gets its usual names. What is another's by now is not touched."""
        self._over.set()
        with self._lock:
            if self._fd < 0:
                return
            try:
                if self._is_mine():
                    self._leave()
                elif not self._directory.has(self.target.part_name):
                    # All of it was copied and removed; this one may have been made after that.
                    self._remove(self.target.base)
            except (OSError, FastxferError):
                pass  # the record stays: it says whose files they are
            self._close()

    def _leave(self) -> None:
        own = [name for name in self.target.working_names if self._directory.has(name)]
        if self.in_doubt:
            for name in own:
                self._directory.remove(name)
            self._write(released=True)
        elif not own:
            self._directory.remove(self.target.lock_name)
        else:
            if self.record.past is not None:
                self._write(past=None)  # these could not be removed; what has their names now must not be
            for name in own:
                _rename(self._directory, name, self.target.name + name.removeprefix(self.target.base))
            self._write(released=True)


def _other_boot(record: Record, here: Record) -> bool:
    return bool(record.boot) and bool(here.boot) and record.boot != here.boot


def _read(directory: Directory, name: str) -> bytes | None:
    """Returns a record's bytes, looked up and opened anew as network file systems want it; None if there is
    none.
    """
    try:
        with directory.reading(name) as fd:
            return os.pread(fd, RECORD_BYTES + 1, 0)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None  # it was replaced between look-up and opening
        raise


def _claimed(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Returns the stretches that a checkpoint speaks of."""
    ledger = ChunkLedger(checkpoint.identity.size or 0, checkpoint.chunk_size)
    ledger.load(checkpoint.claimed, checkpoint.crcs)
    return ledger.present() + [(pos - pos % ledger.chunk_size, pos) for pos, _ in checkpoint.partials]


def _rename(directory: Directory, name: str, to: str) -> None:
    os.rename(name, to, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)


def _copy(old: int, new: int, start: int, stop: int) -> None:
    """Copies a stretch, on the server where it can; what the old file lacks stays a hole."""
    while start < stop:
        length = min(COPY_BYTES, stop - start)
        try:
            copied = os.copy_file_range(old, new, length, start, start)
        except OSError:
            copied = os.pwrite(new, os.pread(old, length, start), start)
        if not copied:
            return
        start += copied


@contextmanager
def unless_taken_over(owner: Owner | None, what: str) -> Iterator[None]:
    """Has what fails in it fail with TargetBusyError where somebody else has taken the target over: its files
    may be gone in the midst of anything. Otherwise a StorageError it stays, or becomes, of doing `what`.
    """
    try:
        yield
    except (OSError, StorageError) as error:
        if owner is not None:
            owner.check()
        if isinstance(error, OSError) and not isinstance(error, FastxferError):
            raise storage_error(what, error) from error
        raise


def current(target: Target) -> Target:
    """Returns the target with the names that its working files have now, for who only reads them. Raises
    StorageError.
    """
    return _there(target, _record_of(target))


def _record_of(target: Target) -> Record | None:
    try:
        raw = _read(target.directory, target.lock_name)
    except OSError as error:
        raise storage_error(f"read {target.lock}", error) from error
    return decode(raw) if raw is not None else None


def _there(target: Target, record: Record | None) -> Target:
    if record is None:
        return target
    there = replace(target, base=record.before if record.before is not None else record.base)
    return there if target.directory.has(there.part_name) else target


def open_part(
    target: Target, owner: Owner | None = None, give_up: Callable[[], bool] = bool
) -> tuple[int, Owner | None]:
    """Opens or makes the part file of a target and makes this transfer its only writer: by its lock, or by
    the record of the owner returned, under whose names it is then.

    Raises TargetBusyError, InterruptedTransferError and StorageError.
    """
    lock = UNTRIED
    claimed = owner
    try:
        kind = file_system(target.directory.fd)
        while True:
            if claimed is None and (record_needed(kind, lock) or target.directory.has(target.lock_name)):
                claimed = Owner.claim(target, give_up)
            with unless_taken_over(claimed, f"write {target.part}"):
                fd, lock = _open_alone(target if claimed is None else claimed.target, claimed is not None)
            if fd >= 0:
                return fd, claimed
    except BaseException as error:
        if claimed is not None and owner is None:
            claimed.release()
        if isinstance(error, OSError):
            raise storage_error(f"write {target.part}", error) from error
        raise


def _open_alone(target: Target, owned: bool) -> tuple[int, str]:
    """Returns the descriptor of a part file that nobody else writes and what came of asking for its lock; -1
    when that is to be tried again. Raises OSError, TargetBusyError and StorageError.
    """
    fd = target.directory.open_file(target.part_name, os.O_RDWR | os.O_CREAT)
    try:
        lock = HELD if owned else lock_of(fd, target)
        if lock == HELD and target.directory.holds(target.part_name, fd):
            if os.fstat(fd).st_nlink <= 1:
                return fd, lock
            _end_publication(target, fd)
    except BaseException:
        os.close(fd)
        raise
    give_lock(fd)  # the one who held the lock has just published or removed it
    return -1, lock


def open_to_read(target: Target) -> tuple[int, Target]:
    """Opens the part file that is there, for reading, unless somebody writes it; returns the target with the
    names that its working files have too.

    Raises OSError, TargetBusyError and StorageError.
    """
    record = _record_of(target)
    if record is not None and not record.released and lives(record, this_process()) is not False:
        raise busy(target, record.who)
    there = _there(target, record)
    fd = target.directory.open_file(there.part_name, os.O_RDONLY)
    try:
        lock_of(fd, target, shared=True)
        if not target.directory.holds(there.part_name, fd):
            raise TargetBusyError(f"{target.final} was finished meanwhile; run it again")
    except BaseException:
        os.close(fd)
        raise
    return fd, there


def lock_of(fd: int, target: Target, *, shared: bool = False) -> str:
    """Takes the lock of a file of a target, to write to it, or `shared` to read it; returns HELD or REFUSED.
    Raises OSError and TargetBusyError.
    """
    lock = take_lock(fd, shared=shared)
    if lock == BUSY:
        raise busy(target, lock_holder(fd))
    return lock


def _end_publication(target: Target, fd: int) -> None:
    """Removes the working files of a target that is complete: a kill came between its link and their removal.

    Raises OSError, and StorageError when the part file has another name than the target's: that is not to be
    written to.
    """
    if not target.directory.holds(target.name, fd):
        raise StorageError(
            f"cannot use {target.part}: the same file has another name too (a hard link); "
            "remove one of the two, or put a copy in its place"
        )
    target.directory.sync()  # the last of its names that is on the disk must not go
    for name in target.working_names:
        target.directory.remove(name)
