"""The kept ledger of a finished file, `OUT.fxsum`: what the object was, and the CRC-64/NVME of each of its
chunks.

It is a checkpoint in which every chunk is there (docs/checkpoint-format.md). At no moment, a crash included,
stands a ledger beside a file that it is not of: `stage` writes `OUT.fxsum.new` durably and removes the old
ledger; then the file gets its final name; then `install` gives the new ledger its own. When the last step is
missing, `beside` knows the new ledger by the inode of the file that it is of.
"""

from __future__ import annotations

import os
from contextlib import suppress

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.errors import CheckpointError, StorageError, storage_error
from fastxfer.storage.checkpoint import MAGIC, Checkpoint, encode_slot, read_checkpoint, slot_size_for
from fastxfer.storage.directory import Directory
from fastxfer.storage.paths import Target


def read(directory: Directory, name: str) -> Checkpoint | None:
    """Returns a kept ledger, or None when there is none. Raises CheckpointError for what is not the ledger of
    a whole object, and StorageError.
    """
    path = directory.path / name
    try:
        found = read_checkpoint(directory, name)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a ledger that can be used: {error}") from error
    if found is None:
        return None
    checkpoint = found[0]
    if checkpoint.crc64 is None or checkpoint.identity.size is None or not chunks_of(checkpoint).complete:
        raise CheckpointError(f"{path} is not a ledger that can be used: it is not of a whole object")
    return checkpoint


def beside(target: Target, fd: int) -> Checkpoint | None:
    """Returns the kept ledger of the target behind `fd`, or None when there is none. Raises as `read`."""
    found = read(target.directory, target.ledger_name)
    if found is not None or not target.directory.has(target.new_ledger_name):
        return found
    try:
        found = read(target.directory, target.new_ledger_name)
    except CheckpointError:
        return None  # a kill came while it was written
    file = os.fstat(fd)
    of_it = found is not None and (found.inode, found.device) == (file.st_ino, file.st_dev)
    return found if of_it else None  # or it is of a part file that did not come to its end


def chunks_of(checkpoint: Checkpoint) -> ChunkLedger:
    """Returns the chunks that a checkpoint claims."""
    ledger = ChunkLedger(checkpoint.identity.size or 0, checkpoint.chunk_size)
    if checkpoint.chunks:
        ledger.load(checkpoint.claimed, checkpoint.crcs)
    return ledger


def is_one(directory: Directory, name: str) -> bool:
    """Returns whether a file is a ledger or a checkpoint of fastxfer, be it damaged."""
    try:
        with directory.reading(name) as fd:
            half = os.fstat(fd).st_size // 2
            return any(os.pread(fd, len(MAGIC), at) == MAGIC for at in (0, half))
    except (OSError, StorageError):
        return False  # it is not there, or not even a file


def check_place(target: Target) -> None:
    """Raises StorageError when something else than a ledger has the name of the target's."""
    there = target.directory.look(target.ledger_name)
    if there is not None and not is_one(target.directory, target.ledger_name):
        raise StorageError(
            f"cannot keep the ledger {target.ledger}: a file is there that is none; "
            "move it away, or fetch without keep_ledger"
        )


def stage(target: Target, ledger: Checkpoint | None, *, durable: bool) -> None:
    """Makes ready for a new file under the target's name: its ledger is written (none, when None), the ledger
    of the old one removed.

    Raises OSError and StorageError.
    """
    directory = target.directory
    if ledger is None:
        directory.remove(target.new_ledger_name)
        return
    _write(directory, target.new_ledger_name, ledger, durable)
    directory.remove(target.ledger_name)
    if durable:
        directory.sync()


def install(target: Target, *, durable: bool) -> None:
    """Gives the ledger that was staged its name. Raises OSError."""
    at = target.directory.fd
    os.rename(target.new_ledger_name, target.ledger_name, src_dir_fd=at, dst_dir_fd=at)
    if durable:
        target.directory.sync()


def replace_one(target: Target, ledger: Checkpoint, *, durable: bool) -> None:
    """Keeps a ledger of a file that has its name already. Raises StorageError."""
    try:
        try:
            _write(target.directory, target.new_ledger_name, ledger, durable)
        except OSError:
            with suppress(StorageError):  # why it could not be written is told
                target.directory.remove(target.new_ledger_name)
            raise
        install(target, durable=durable)
    except OSError as error:
        raise storage_error(f"write {target.ledger}", error) from error


def _write(directory: Directory, name: str, ledger: Checkpoint, durable: bool) -> None:
    """Writes both slots with the same, so that damage to one of them loses nothing."""
    size, job = slot_size_for(ledger, partials=0), os.urandom(16)
    fd = directory.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.truncate(fd, 2 * size)
        for index in range(2):
            slot = encode_slot(ledger, job_id=job, sequence=index + 1, slot_size=size)
            if os.pwrite(fd, slot, index * size) != len(slot):
                raise OSError(28, os.strerror(28))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
