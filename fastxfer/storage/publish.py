"""From a complete part file to the target: everything that makes a file final, and what tells later that it
is.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable

from fastxfer.errors import StorageError, TargetExistsError, storage_error
from fastxfer.plan.dates import http_time
from fastxfer.plan.response import Identity
from fastxfer.storage import kept
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.paths import Target

XATTR = "user.fastxfer.identity"
UNFINISHED = "user.fastxfer.unfinished"
MAX_RECORD = 4096
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def publish(
    fd: int,
    target: Target,
    *,
    size: int,
    mtime: float | None,
    sync: Callable[[int], None] | None,
    replace: bool,
    record: bytes | None,
    ledger: Checkpoint | None = None,
) -> None:
    """Makes the part file behind `fd` the target, in one rename, and keeps its `ledger` beside it if there is
    one. Raises StorageError, also when the part file's name has come to stand for something else, and
    TargetExistsError.

    Order: length, times, attribute; `sync` of the file; the new ledger is written and the old one removed;
    rename (or link, where nothing may be replaced); the mark of a part file without a checkpoint goes; sync
    of the directory; the new ledger gets its name.
    Without `sync` nothing is synced.
    """
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
        if mtime is not None:
            _date(fd, mtime)
        if record is not None:
            keep_record(fd, record)
        if sync is not None:
            sync(fd)
        if not target.directory.holds(target.part_name, fd):
            raise StorageError(
                f"cannot finish {target.final}: {target.part} was removed or replaced meanwhile; "
                "find out by whom, and run it again"
            )
        durable = sync is not None
        try:
            kept.stage(target, ledger, durable=durable)
        except StorageError as error:
            error.kept = str(target.part)
            raise
        rename(target, replace, durable)
        _unmark(fd)
    except FileExistsError as error:
        raise TargetExistsError(f"{target.final} is there already; the object is in {target.part}") from error
    except OSError as error:
        raise storage_error(f"finish {target.final}", error, kept=str(target.part)) from error
    try:
        if durable:
            target.directory.sync()
        if ledger is not None:
            kept.install(target, durable=durable)
    except OSError as error:
        raise storage_error(f"sync the directory of {target.final} (the file is whole)", error) from error


def rename(target: Target, replace: bool, durable: bool) -> None:
    """Gives the part file the target's name. Raises OSError, FileExistsError if nothing may be replaced."""
    part, final, at = target.part_name, target.name, target.directory.fd
    if not replace:
        try:
            os.link(part, final, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS or target.directory.has(final):
                raise
            # A file system without hard links: the look was all it can do.
        else:
            if durable:
                target.directory.sync()  # one of the two names is on the disk at any moment
            os.unlink(part, dir_fd=at)
            return
    os.rename(part, final, src_dir_fd=at, dst_dir_fd=at)


def _date(fd: int, mtime: float) -> None:
    try:
        os.utime(fd, (mtime, mtime))
    except PermissionError:
        pass  # someone else's file, though we may write to it: only its time stays what it is


def keep_record(fd: int, record: bytes) -> None:
    """Keeps what `make_record` made with a file, where the file system can."""
    try:
        os.setxattr(fd, XATTR, record)
    except OSError:
        pass  # no extended attributes here: size and time still tell


def mark_unfinished(fd: int) -> None:
    """Marks a part file that gets no checkpoint as one of ours, where the file system has attributes: what a
    crash leaves of it is then not taken for someone else's.
    """
    try:
        os.setxattr(fd, UNFINISHED, b"1")
    except OSError:
        pass


def is_unfinished(fd: int) -> bool:
    """Returns whether a part file was marked as one of ours."""
    try:
        return bool(os.getxattr(fd, UNFINISHED))
    except OSError:
        return False


def _unmark(fd: int) -> None:
    if is_unfinished(fd):
        try:
            os.removexattr(fd, UNFINISHED)
        except OSError:
            pass  # under the final name nobody looks at it


def make_record(identity: Identity, mtime: float | None) -> bytes | None:
    """Returns what is kept with a finished file to know it again: its ETag, and the mtime it was given; None
    without an ETag.
    """
    if identity.etag is None or mtime is None:
        return None
    record = json.dumps({"etag": identity.etag, "size": identity.size, "mtime": float(mtime)}).encode()
    return record if len(record) <= MAX_RECORD else None


def is_unchanged(target: Target, remote: Identity, *, ignore_etag: bool = False) -> bool:
    """Returns True when the target is there and is the remote object as it is now. Raises StorageError.

    Its size must be the same, and its modification time the remote's Last-Modified; or, for servers that
    send none, the ETag kept with it the remote's and its modification time the one kept. An ETag that was
    kept and differs says no, unless `ignore_etag`.
    """
    try:
        with target.directory.reading(target.name) as fd:
            there = os.fstat(fd)
            kept = _kept_etag(fd, there.st_mtime)
    except OSError:
        return False
    if remote.size is None or there.st_size != remote.size:
        return False
    if not ignore_etag and kept is not None and remote.etag is not None and kept != remote.etag:
        return False
    modified = http_time(remote.last_modified)
    if modified is not None:
        return int(there.st_mtime) == int(modified)
    return kept is not None and kept == remote.etag


def _kept_etag(fd: int, mtime: float) -> str | None:
    try:
        record = os.getxattr(fd, XATTR)
    except OSError:
        return None
    return etag_of_record(record, mtime)


def etag_of_record(record: bytes, mtime: float) -> str | None:
    """Returns the ETag that a record of `make_record` holds for a file of this mtime, or None; it is outside
    input.
    """
    try:
        value = json.loads(record)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("etag"), str):
        return None
    stored = value.get("mtime")
    if not isinstance(stored, float) or not abs(stored - mtime) <= 1e-3:
        return None  # the file was touched since: the record is not about these bytes
    etag: str = value["etag"]
    return etag
