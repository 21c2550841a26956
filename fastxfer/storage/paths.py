"""Where an object is written: the target in its directory, and the working files beside it."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from itertools import permutations
from pathlib import Path

from fastxfer.errors import OptionError, StorageError, storage_error
from fastxfer.names import (
    CHECKPOINT,
    LEDGER,
    LOCK,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    NEW_CHECKPOINT,
    NEW_LEDGER,
    PART,
    WORKING,
    name_of_url,
    safe_path,
)
from fastxfer.storage.directory import Directory
from fastxfer.values import dataclass

_NO_DIRECTORY = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


_APART_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Apart:
    """A checkpoint in a directory of its own, under a name that no other target has there."""

    directory: Directory
    name: str

    @property
    def new_name(self) -> str:
        """The name of one in the making."""
        return self.name.removesuffix(CHECKPOINT) + NEW_CHECKPOINT

    @classmethod
    def of(cls, directory: Directory, target: Target) -> Apart:
        """Returns where the checkpoint of a target goes in that directory."""
        where = os.path.join(os.path.realpath(target.directory.path), target.name)
        digits = hashlib.sha256(os.fsencode(where)).hexdigest()[:_APART_DIGITS]
        room = MAX_NAME_BYTES - _APART_DIGITS - len(f".{CHECKPOINT}")
        start = os.fsdecode(os.fsencode(target.name)[:room])
        return cls(directory, f"{start}.{digits}{CHECKPOINT}")


@dataclass(frozen=True, slots=True)
class Target:
    """A file to be, in a directory that is held open. Everything done to it and to its working files goes by
    `directory` and a name; the paths are for people. While it is written the names of its part file and
    checkpoint may begin with `base` instead of its own (storage/owner.py): then its checkpoint is beside it,
    else it may be `apart`.
    """

    directory: Directory
    name: str
    base: str = ""
    apart: Apart | None = None

    @property
    def final(self) -> Path:
        """The path of the finished file, as it was named."""
        return self.directory.path / self.name

    @property
    def part(self) -> Path:
        """The path of its part file, when the transfer is over and it is still there."""
        return self.directory.path / (self.name + PART)

    @property
    def checkpoint(self) -> Path:
        """The path of its checkpoint, then."""
        return self.directory.path / (self.name + CHECKPOINT)

    @property
    def part_name(self) -> str:
        """The name of its part file."""
        return (self.base or self.name) + PART

    @property
    def checkpoint_name(self) -> str:
        """The name of its checkpoint beside it."""
        return (self.base or self.name) + CHECKPOINT

    @property
    def checkpoint_places(self) -> tuple[tuple[Directory, str], ...]:
        """Where its checkpoint is to be, and then where an earlier run may have left one."""
        beside = (self.directory, self.checkpoint_name)
        if self.apart is None or self.base:
            return (beside,)
        return (self.apart.directory, self.apart.name), beside

    def close(self) -> None:
        """Lets go of its directories."""
        self.directory.close()
        if self.apart is not None:
            self.apart.directory.close()

    @property
    def lock(self) -> Path:
        """The path of the record of its owner."""
        return self.directory.path / self.lock_name

    @property
    def lock_name(self) -> str:
        """The name of the record of its owner."""
        return self.name + LOCK

    @property
    def new_checkpoint_name(self) -> str:
        """The name of a checkpoint in the making."""
        return (self.base or self.name) + NEW_CHECKPOINT

    @property
    def working_names(self) -> tuple[str, ...]:
        """The names of all that holds what is there of the object until it is whole, the part file first."""
        return tuple((self.base or self.name) + ending for ending in WORKING)

    @property
    def ledger(self) -> Path:
        """The path of its kept ledger."""
        return self.directory.path / self.ledger_name

    @property
    def ledger_name(self) -> str:
        """The name of its kept ledger."""
        return self.name + LEDGER

    @property
    def new_ledger_name(self) -> str:
        """The name of a ledger that is about to become its kept one."""
        return self.name + NEW_LEDGER

    def check(self) -> None:
        """Looks whether it can be written. Raises StorageError when it or a working file is there and not a
        regular file (a symbolic link is none), or it is a working file of an unfinished transfer.
        """
        for name in (self.name, *self.working_names, self.lock_name):
            self.directory.look(name)
        for mine, other in permutations((PART, CHECKPOINT, LOCK), 2):
            if self.name.endswith(mine) and self.directory.has(self.name.removesuffix(mine) + other):
                raise StorageError(
                    f"cannot write {self.final}: it belongs to an unfinished transfer; end that first, "
                    "or name another file"
                )


@dataclass(frozen=True, slots=True)
class Below(os.PathLike[str]):
    """An `out` that comes from outside: `name`, a safe path with folders, below `root`, which is the user's
    own word. It is reached from there by descriptors; its missing folders are made.
    """

    root: str
    name: str

    def __fspath__(self) -> str:
        return os.path.join(self.root, self.name)


def resolve_target(url: str, out: str | os.PathLike[str] | None, checkpoint_dir: str | None = None) -> Target:
    """Returns where an object of `url` goes: `out`, or its name inside `out` when that is a directory, or in
    the current directory; its checkpoint into `checkpoint_dir`, or beside it.

    Symbolic links on the way to the directory are the user's own word; its own is none. Raises OptionError
    for an unusable name, StorageError when the directory is missing or the target not to be written.
    """
    target = _resolved(url, out)
    if checkpoint_dir is None:
        return target
    return replace(target, apart=Apart.of(_open_root(Path(checkpoint_dir)), target))


def _resolved(url: str, out: str | os.PathLike[str] | None) -> Target:
    if isinstance(out, Below):
        return target_below(_open_root(Path(out.root)), out.name)
    text = os.fspath(out) if out is not None else ""
    check_text(text)
    final = Path(text or ".")
    if not text or text.endswith(os.sep) or os.path.isdir(final):
        final = final / name_of_url(url)
    check_length(final.name)
    target = Target(_open_root(final.parent, final), final.name)
    target.check()
    return target


def check_text(path: str) -> None:
    """Raises OptionError for what no path here can be."""
    if "\0" in path:
        raise OptionError("out must not hold a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise OptionError(f"{ascii(path)[:80]} cannot be a file name here") from error


def check_length(name: str) -> None:
    """Raises OptionError for a file's name that leaves no room for those of its working files."""
    if len(os.fsencode(name)) > MAX_FILE_BYTES:
        raise OptionError(
            f"the file's name is too long for its working files: {MAX_FILE_BYTES} bytes are allowed"
        )


def _open_root(path: Path, final: Path | None = None) -> Directory:
    try:
        return Directory.open(path)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY:
            raise storage_error(f"open the directory {path}", error) from error
        what = final if final is not None else f"into {path}"
        raise StorageError(f"cannot write {what}: there is no directory {path}; create it first") from error


def target_below(root: Directory, name: str) -> Target:
    """Returns where an outside name goes below `root`; its missing folders are made.

    Raises OptionError for a name that is not safe, StorageError for a symbolic link among its folders, or a
    target not to be written.
    """
    *folders, last = safe_path(name)
    target = Target(root.walk(folders, create=True), last)
    target.check()
    return target


def target_of(path: str | os.PathLike[str]) -> Target:
    """Returns the target that a path means: itself, or the one whose part file, checkpoint, record or kept
    ledger it is. Raises OptionError and StorageError.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise OptionError("a path must not hold a NUL character")
    directory, name = _open_parent(Path(text)), Path(text).name
    if name.endswith(CHECKPOINT):
        name = name.removesuffix(CHECKPOINT)
    elif name.endswith(LOCK):
        name = name.removesuffix(LOCK)
    elif name.endswith(PART) and not directory.has(name + PART):
        name = name.removesuffix(PART)
    elif name.endswith(LEDGER) and directory.has(name.removesuffix(LEDGER)):
        name = name.removesuffix(LEDGER)
    if not name:
        raise OptionError(f"{text!r} names no file")
    return Target(directory, name)


def _open_parent(path: Path) -> Directory:
    try:
        return Directory.open(path.parent)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(f"nothing is there: {path.parent} is no directory") from error
    except OSError as error:
        raise storage_error(f"open the directory {path.parent}", error) from error
