"""Objects that are small enough to be written whole: all bytes at once under a working name, `NAME.fxnew`,
then one rename. No part file, no checkpoint, and no sync of its own for any of them.

A run has each directory that it writes into locked, shared with other such runs (flock(2)). What a killed run
left under a working name is removed when its object comes again, and only by who has the directory's lock
alone: nobody can then be writing it. Where a directory cannot be locked nothing is removed.

With `durable`, files are *in place* by `store` and *safe* by `sync`, a group at a time: one syncfs(2) for all
of them, or an fsync each where they are few. Only then they get the times by which a later run knows them as
complete: after a power cut that came before, a file that stands under its final name is fetched again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastxfer._native import whole_file
from fastxfer._native.whole_file import CREATE, store
from fastxfer.errors import (
    FastxferError,
    StorageError,
    TargetBusyError,
    TargetExistsError,
    storage_error,
)
from fastxfer.names import NEW_WHOLE
from fastxfer.plan.dates import http_time
from fastxfer.plan.response import Identity
from fastxfer.storage.directory import Directory
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import XATTR, is_unchanged, make_record

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEPT_DIRECTORIES = 128
LOCK_DEADLINE_S = 10.0
# Up to so many files are synced one by one: syncfs also writes what others have written there.
FEW = 16
# To read a directory takes a file system as long as to look for one name for each so many bytes of it.
LOOK_BYTES = 512
NOTHING = bytearray()
"""The body of what is on the disk."""
_NEW = NEW_WHOLE.encode()
_ENCODING = sys.getfilesystemencoding()
Told = tuple[int | None, str | None, str | None]
_Job = tuple[int, bytes, bytes, "Buffer", int | None]
_UNLOCKABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EBADF,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EISDIR,
}


class WholeFile:
    """An object in memory that is to be a file; `folders` and `name` are of a safe path below the root. What
    stands there is replaced where `always`, though it seems to be the same. `told` is what is known of it:
    size, ETag and Last-Modified.

    Afterwards: `error` if it is none, else `crc64` (CRC-64/NVME), and `skipped` where the file was there
    already, unchanged.
    """

    __slots__ = ("always", "body", "crc64", "error", "folders", "name", "skipped", "told")

    def __init__(self, folders: tuple[str, ...], name: str, told: Told, *, always: bool) -> None:
        self.folders = folders
        self.name = name
        self.body = NOTHING
        self.told = told
        self.always = always
        self.error: FastxferError | None = None
        self.crc64 = 0
        self.skipped = False

    @property
    def identity(self) -> Identity:
        """What is known of it."""
        return Identity(*self.told)


@dataclass(slots=True)
class _Folder:
    """A directory that is held open; `lock` is a descriptor of it with a shared lock, or -1. `left` says
    whether working names may stand in it, None for unknown; after so many `looks` for single ones it is read.
    """

    directory: Directory
    lock: int
    left: bool | None
    looks: int

    def may_have_left(self) -> bool:
        """Returns whether the working name of one more file is to be looked for."""
        if self.left is None:
            self.looks -= 1
            if self.looks < 0:
                self.left = whole_file.has_ending(self.lock, _NEW)
        return self.left is not False

    def close(self) -> None:
        self.directory.close()
        if self.lock >= 0:
            os.close(self.lock)


class WholeFiles:
    """Writes files below a root. One thread at a time.

    `exists` is what becomes of a file that is there: "update" (kept where it is the object), "replace",
    "skip" (kept), or "error".
    """

    def __init__(self, root: Directory, *, exists: str, durable: bool, ignore_etag: bool = False) -> None:
        self._root = root
        self._exists = exists
        self._durable = durable
        self._ignore_etag = ignore_etag
        self._folders: OrderedDict[tuple[str, ...], _Folder] = OrderedDict()
        self._devices: dict[int, int] = {}  # file systems, each with a descriptor to sync it by, or -1

    def size_of(self, folders: tuple[str, ...], name: str) -> int | None:
        """Any thread. Returns the size of a file that is there already, or None. Raises StorageError where
        something else is.
        """
        try:
            below = self._root.walk(folders)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        try:
            there = below.look(name)
            return there.st_size if there is not None else None
        finally:
            below.close()

    # ---- writing ----

    def store(self, files: Sequence[WholeFile]) -> None:
        """Puts files in place, or sets the error of each that could not be."""
        ready: list[WholeFile] = []
        jobs: list[_Job] = []
        folder: _Folder | None = None
        looks = False
        for file in files:
            if folder is None or file.folders is not ready[-1].folders:
                folder = self._opened(file)
                if folder is None:
                    continue
            if folder.left is not False and folder.may_have_left():
                looks = True
            ready.append(file)
            jobs.append(self._job(file, folder))
        for file, (step, number, file.crc64) in zip(ready, store(jobs, looks=looks), strict=True):
            if number:
                self._finish(file, step, number)
            if not self._durable and file.told[2] is None and file.error is None:
                self._mark(file)
        self._close_some()

    def _close_some(self) -> None:
        while len(self._folders) > KEPT_DIRECTORIES:
            self._folders.popitem(last=False)[1].close()

    def _job(self, file: WholeFile, folder: _Folder) -> _Job:
        name = file.name.encode(_ENCODING, "surrogateescape")
        modified = None if self._durable else http_time(file.told[2])
        mtime_ns = None if modified is None else int(modified * 1_000_000_000)
        return folder.directory.fd, name + _NEW, name, file.body, mtime_ns

    def _opened(self, file: WholeFile) -> _Folder | None:
        """Returns the directory of a file, which is made if need be; None, with the file's error, where it
        cannot be.
        """
        folder = self._folders.get(file.folders)
        if folder is not None:
            self._folders.move_to_end(file.folders)
            return folder
        try:
            directory = self._root.walk(file.folders, create=True)
            try:
                lock = _lock(directory)
            except BaseException:
                directory.close()
                raise
        except FastxferError as error:
            file.error = error
            return None
        there = os.fstat(directory.fd)
        folder = _Folder(directory, lock, None if lock >= 0 else True, there.st_size // LOOK_BYTES)
        self._folders[file.folders] = folder
        if self._durable and there.st_dev not in self._devices:
            self._devices[there.st_dev] = os.dup(lock) if lock >= 0 else -1
        return folder

    def _finish(self, file: WholeFile, step: int, number: int) -> None:
        """Does what the quick way leaves: a working name or a name that is taken."""
        target = self._target(file)
        try:
            if step == CREATE and number == errno.EEXIST:
                self._remove_left(file)
                step, number, file.crc64 = store([self._job(file, self._folders[file.folders])])[0]
                if not number:
                    return
            if number not in (errno.EEXIST, errno.EINVAL) or step == CREATE:
                raise OSError(number, os.strerror(number))
            self._replace(file, target)
        except FastxferError as refused:
            file.error = refused
        except OSError as error:
            file.error = storage_error(f"write {target.final}", error)

    def _target(self, file: WholeFile) -> Target:
        return Target(self._folders[file.folders].directory, file.name)

    def _replace(self, file: WholeFile, target: Target) -> None:
        """Gives a file, which is complete under its working name, its own name if what is there may go."""
        directory, working = target.directory, file.name + NEW_WHOLE
        try:
            there = directory.look(file.name)
            if there is not None and self._exists == "error":
                raise TargetExistsError(f"{target.final} is there already")
            unchanged = (
                self._exists == "update"
                and not file.always
                and is_unchanged(target, file.identity, ignore_etag=self._ignore_etag)
            )
            if there is not None and (self._exists == "skip" or unchanged):
                file.skipped = True
                directory.remove(working)
                return
            directory.remove(target.new_ledger_name)
            directory.remove(target.ledger_name)  # it is of what goes
            os.rename(working, file.name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        except BaseException:
            directory.remove(working)
            raise

    def _remove_left(self, file: WholeFile) -> None:
        """Removes what a killed run left under a file's working name. Raises TargetBusyError where somebody
        may be writing it.
        """
        folder = self._folders[file.folders]
        working = file.name + NEW_WHOLE
        busy = TargetBusyError(
            f"{folder.directory.path / working} is there, and somebody may be writing it: wait for the other "
            "run to end; if there is none, remove it"
        )
        if folder.lock < 0:
            raise busy
        try:
            # Nothing of this run is being written now, so it does not matter that the change of a lock is
            # not atomic (flock(2)).
            fcntl.flock(folder.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        else:
            if folder.directory.look(working) is not None:
                folder.directory.remove(working)
        finally:
            _share(folder.directory, folder.lock)

    # ---- syncing ----

    def sync(self, files: Sequence[WholeFile]) -> None:
        """Makes files durable that are in place, and marks them as complete; or sets the error of each: what
        a disk did not take is not asked of it a second time.
        """
        try:
            if len(files) <= FEW:
                self._sync_each(files)
            else:
                for fd in self._devices.values():
                    whole_file.sync_file_system(fd) if fd >= 0 else os.sync()
        except FastxferError as error:
            refused = error
        except OSError as error:
            refused = storage_error(f"sync what was written below {self._root.path}", error)
        else:
            self._mark_all(files)
            return
        for file in files:
            file.error = refused

    def _sync_each(self, files: Sequence[WholeFile]) -> None:
        above: set[tuple[str, ...]] = set()
        for file in files:
            with self._reopened(file).reading(file.name) as fd:
                os.fsync(fd)
            above.update(file.folders[:depth] for depth in range(len(file.folders) + 1))
        for folders in above:
            directory = self._root.walk(folders)
            try:
                directory.sync()
            finally:
                directory.close()

    def _reopened(self, file: WholeFile) -> Directory:
        folder = self._opened(file)
        if folder is None:
            assert file.error is not None
            raise file.error
        return folder.directory

    def _mark_all(self, files: Sequence[WholeFile]) -> None:
        """Marks files as `_mark` does, those with a date many at a time."""
        dated: list[tuple[int, bytes, int]] = []
        folder: Directory | None = None
        folders: tuple[str, ...] | None = None
        for file in files:
            modified = http_time(file.told[2])
            if modified is None or file.skipped:
                self._mark(file)
                continue
            if folder is None or file.folders is not folders:
                if len(self._folders) > KEPT_DIRECTORIES:
                    whole_file.date(dated)
                    dated.clear()
                    self._close_some()
                try:
                    folder, folders = self._reopened(file), file.folders
                except (OSError, FastxferError):
                    file.error = folder = None  # it is there; a later run fetches it again
                    continue
            name = file.name.encode(_ENCODING, "surrogateescape")
            dated.append((folder.fd, name, int(modified * 1_000_000_000)))
        whole_file.date(dated)

    def _mark(self, file: WholeFile) -> None:
        """Keeps with a file what tells a later run that it is this object (`is_unchanged`)."""
        modified = http_time(file.told[2])
        if file.skipped or (modified is None and file.told[1] is None):
            return
        try:
            directory = self._reopened(file)
            if modified is not None:
                os.utime(file.name, (modified, modified), dir_fd=directory.fd, follow_symlinks=False)
                return
            with directory.reading(file.name) as fd:
                there = os.fstat(fd)
                record = make_record(replace(file.identity, size=there.st_size), there.st_mtime)
                if record is not None:
                    os.setxattr(fd, XATTR, record)
        except (OSError, FastxferError):
            file.error = None  # it is there; a later run fetches it again

    def close(self) -> None:
        """Lets go of all directories and their locks."""
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()
        for fd in self._devices.values():
            if fd >= 0:
                os.close(fd)
        self._devices.clear()
        self._root.close()


def _lock(directory: Directory) -> int:
    """Returns a descriptor that holds a shared lock on a directory, or -1 where there can be none. Raises
    TargetBusyError when somebody has it alone for long.
    """
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
    except OSError:
        return -1
    try:
        _share(directory, fd)
    except OSError as error:
        os.close(fd)
        if error.errno in _UNLOCKABLE:
            return -1
        raise storage_error(f"lock the directory {directory.path}", error) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _share(directory: Directory, fd: int) -> None:
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TargetBusyError(
                    f"another process has the directory {directory.path} locked for {LOCK_DEADLINE_S:g} s"
                ) from None
        time.sleep(0.001)
