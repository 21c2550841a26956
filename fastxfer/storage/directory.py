"""A directory that is held open, so that what is done in it happens there, wherever its path leads by then.

Each operation names one entry, relative to the descriptor; no path is looked up twice, and none is compared
as text. Nothing that is opened is followed if it is a symbolic link, and nothing blocks if it is a pipe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastxfer.errors import StorageError, storage_error

# The right to look names up in it is enough (a drop box gives no other); syncing asks for more.
_HOLD = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Directory:
    """See the module. `path` is how it was named, for messages. It closes itself when it is dropped."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def open(cls, path: Path) -> Directory:
        """Opens the directory where `path` leads now, symbolic links included. Raises OSError."""
        return cls(path, os.open(path, _HOLD))

    def walk(self, components: Iterable[str], *, create: bool = False) -> Directory:
        """Returns the directory below this one that the components of a safe path lead to, each opened in
        the one before; with `create` the missing ones are made.

        Raises StorageError, for a symbolic link on the way too.
        """
        here = Directory(self.path, os.dup(self.fd))
        for name in components:
            try:
                below = here._below(name, create)
            except OSError as error:
                raise storage_error(f"open the directory {here.path / name}", error) from error
            here.close()
            here = below
        return here

    def _below(self, name: str, create: bool) -> Directory:
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not one component of a path")
        try:
            return Directory(self.path / name, os.open(name, _HOLD | os.O_NOFOLLOW, dir_fd=self.fd))
        except NotADirectoryError as error:
            raise StorageError(
                f"cannot write below {self.path / name}: it is there and not a directory, or a symbolic link "
                "to one; remove it or write elsewhere"
            ) from error
        except FileNotFoundError:
            if not create:
                raise
        try:
            os.mkdir(name, dir_fd=self.fd)
        except FileExistsError:
            pass  # someone else was as quick; it is looked at like any other
        return self._below(name, False)

    def look(self, name: str) -> os.stat_result | None:
        """Returns what is known of a regular file, or None when nothing is there. Raises StorageError when
        it is something else.
        """
        try:
            there = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"look at {self.path / name}", error) from error
        if not stat.S_ISREG(there.st_mode):
            kind = _KINDS.get(stat.S_IFMT(there.st_mode), "something")
            raise StorageError(
                f"cannot use {self.path / name}: it is {kind} and not a regular file; "
                "remove it or name another file"
            )
        return there

    def has(self, name: str) -> bool:
        """Returns whether anything at all is there under this name."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def holds(self, name: str, fd: int) -> bool:
        """Returns whether the file behind `fd` is what is there under this name."""
        try:
            there = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def open_file(self, name: str, flags: int) -> int:
        """Returns a descriptor of a regular file. Raises OSError, and StorageError when it is something
        else.
        """
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o666, dir_fd=self.fd)
        except OSError:
            self.look(name)  # says more clearly what is in the way, if it is that
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self.look(name)
                raise StorageError(f"cannot use {self.path / name}: it is being changed by someone else")
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def reading(self, name: str) -> Iterator[int]:
        """Gives a descriptor to read a regular file. Raises OSError and StorageError as `open_file`."""
        fd = self.open_file(name, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Removes a file that may be gone already. Raises StorageError."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error(f"remove {self.path / name}", error) from error

    def sync(self) -> None:
        """Makes the names in it durable. Raises OSError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Lets go of it: every later operation fails."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close
