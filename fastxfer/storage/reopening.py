"""The way back: a finished file of which some chunks are bad becomes a part file again, so that an ordinary
transfer fetches those, checks the whole and gives it its name.

Each step leaves a state that a later run understands, whatever is killed in between:

    lock an empty OUT.part      nobody else begins a transfer of this target
    OUT.part.ckpt, durably      claims the good chunks of OUT; with an empty part file no claim holds, so
                                nothing is taken from it
    rename OUT to OUT.part      in one step: now the claims are of this file, and it goes on from them

`take_back` undoes the last step, for a transfer that failed before it brought a byte.
"""

from __future__ import annotations

import os
from dataclasses import replace

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import birth_ns
from fastxfer.errors import StorageError, TargetBusyError, storage_error
from fastxfer.storage import kept
from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile, boot_id
from fastxfer.storage.locks import give_lock
from fastxfer.storage.owner import current, lock_of, open_part
from fastxfer.storage.part_file import PartFile, Partials, Source
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import rename


def reopen(target: Target, left: Checkpoint, seen: os.stat_result) -> None:
    """Makes the target, unchanged since it was `seen`, a part file of which `left` claims the good chunks.

    Raises TargetBusyError and StorageError; nothing is changed then.
    """
    placeholder = PartFile.open(target, Source(left.url, left.url_sha256))
    there = placeholder.target
    try:
        if os.fstat(placeholder.fd).st_size or placeholder.in_doubt:
            raise StorageError(
                f"cannot repair {target.final}: {target.part} is there, of an unfinished transfer; "
                "end that with fetch, or remove it"
            )
        _move(there, left, seen)
    except BaseException as error:
        if there.directory.holds(there.part_name, placeholder.fd) and not os.fstat(placeholder.fd).st_size:
            for name in reversed(there.working_names):
                there.directory.remove(name)
        if isinstance(error, OSError):
            raise storage_error(f"repair {target.final}", error) from error
        raise
    finally:
        placeholder.close()


def _move(target: Target, left: Checkpoint, seen: os.stat_result) -> None:
    directory = target.directory
    fd = directory.open_file(target.name, os.O_RDWR)
    try:
        lock_of(fd, target)
        there = os.fstat(fd)
        if there.st_nlink > 1:
            raise StorageError(
                f"cannot repair {target.final}: the same file has another name too (a hard link), "
                "which would change with it; put a copy in its place"
            )
        if not same_bytes(seen, there) or not directory.holds(target.name, fd):
            raise TargetBusyError(f"{target.final} was changed meanwhile; run it again")
        os.fdatasync(fd)
        _claim(target, replace(left, inode=there.st_ino, device=there.st_dev, born=birth_ns(fd)))
        at = directory.fd
        os.rename(target.name, target.part_name, src_dir_fd=at, dst_dir_fd=at)
        directory.sync()
    finally:
        give_lock(fd)


def _claim(target: Target, left: Checkpoint) -> None:
    CheckpointFile.create(
        target.directory, target.checkpoint_name, replace(left, boot_id=boot_id()), durable=True
    ).close()
    target.directory.sync()


def same_bytes(one: os.stat_result, other: os.stat_result) -> bool:
    """Returns whether a file was, by all that its inode tells, not written to between two looks."""
    return (
        os.path.samestat(one, other) and one.st_size == other.st_size and one.st_mtime_ns == other.st_mtime_ns
    )


def withdraw(target: Target, good: ChunkLedger, partials: Partials) -> None:
    """Has the checkpoint of a part file, whose only writer the caller is, claim no more than what is good.

    Raises CheckpointError and StorageError.
    """
    loaded = CheckpointFile.load(target.directory, target.checkpoint_name)
    if loaded is None:
        raise StorageError(f"{target.checkpoint} was removed meanwhile")
    file, checkpoint = loaded
    try:
        bits = good.bits()
        durable = bytes(a & b for a, b in zip(bits, checkpoint.durable, strict=True))
        less = replace(checkpoint, claimed=bits, durable=durable, crcs=good.crcs(), partials=partials)
        file.write(less, durable=True)
    finally:
        file.close()


def take_back(target: Target, size: int) -> None:
    """Gives a part file that `reopen` made, and to which no byte was written, its name back; it was `size`
    bytes long.

    Raises TargetBusyError and StorageError; when there is a new file under the name, all is left as it is.
    """
    directory = target.directory
    if not directory.has(current(target).part_name):
        return
    fd, owner = open_part(target)
    there = target if owner is None else owner.target
    try:
        if os.fstat(fd).st_size < size:
            return  # it is not the one that was made
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)
        rename(there, False, True)
        directory.remove(there.checkpoint_name)
    except FileExistsError:
        return
    except OSError as error:
        raise storage_error(f"give {target.part} its name back", error) from error
    finally:
        give_lock(fd)
        if owner is not None:
            owner.release()


def tidy(target: Target, fd: int) -> None:
    """Ends what a kill left undone beside a finished file, behind `fd`: its new ledger gets its name, and a
    checkpoint or a record without a part file goes. Raises TargetBusyError, CheckpointError and StorageError.
    """
    directory = target.directory
    over = directory.has(target.checkpoint_name) or directory.has(target.lock_name)
    orphan = over and not directory.has(current(target).part_name)
    if not (orphan or directory.has(target.new_ledger_name)):
        return
    part = PartFile.open(target, Source("", ""))
    try:
        if kept.beside(target, fd) is not None and not directory.has(target.ledger_name):
            kept.install(target, durable=True)
        part.discard_if_empty()
    except OSError as error:
        raise storage_error(f"end the transfer of {target.final}", error) from error
    finally:
        part.close()
