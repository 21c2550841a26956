"""Locks of files: where they are to be trusted, and who holds one."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from fastxfer.storage.owner_record import describe, started

HELD, BUSY, REFUSED, UNTRIED = "held", "busy", "refused", "untried"
"""What came of asking for the lock."""

LOCAL_FILE_SYSTEMS = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0x2FC12FC1,  # ZFS
    0xF2F52010,  # F2FS
    0xCA451A4E,  # bcachefs
    0x3153464A,  # JFS
    0x3434,  # NILFS
    0x52654973,  # ReiserFS
    0x4D44,  # FAT
    0x2011BAB0,  # exFAT
    0x7366746E,  # NTFS
    0x01021994,  # tmpfs
    0x858458F6,  # ramfs
    0x794C7630,  # overlayfs: of local ones, since network file systems cannot be its upper layer
}


def record_needed(f_type: int, lock: str) -> bool:
    """Returns whether the lock of a file is not enough to know its only writer: `f_type` is its file system's
    number (statfs(2)), `lock` what came of asking for the lock.
    """
    return f_type not in LOCAL_FILE_SYSTEMS or lock == REFUSED


def take_lock(fd: int, *, shared: bool = False) -> str:
    """Asks for the lock of a file, to write to it, or `shared` to read it; returns HELD, BUSY or REFUSED.
    Raises OSError.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return BUSY
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return REFUSED
    return HELD


def give_lock(fd: int) -> None:
    """Gives the lock of a file back and closes it. Closing alone gives it back with the last copy of the
    descriptor: a process that another thread is just starting has one for a moment.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        pass  # it was refused, or its file system is gone: closing is all that can be done
    finally:
        os.close(fd)


def lock_holder(fd: int) -> str:
    """Returns who holds the lock of a file, for people, and since when that process runs."""
    there = os.fstat(fd)
    exact = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
        held = [row for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{there.st_ino}")]
        pid = int(next((row for row in held if row[5] == exact), held[0])[4])
        began = (started(pid) or (0, ""))[0] / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return f"another process on {os.uname().nodename}"
    return describe(pid, os.uname().nodename, time.time() - uptime + began, "started")
