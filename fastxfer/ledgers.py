"""When a finished file has a ledger beside it, and of what that is made: the policy of `keep_ledger`."""

from __future__ import annotations

import os

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.errors import CheckpointError, StorageError, storage_error
from fastxfer.options import TransferOptions
from fastxfer.plan.grid import chunk_size_for
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity
from fastxfer.storage import kept
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.part_file import PartFile, Source, whole_ledger
from fastxfer.storage.paths import Target
from fastxfer.storage.reading import combined, ledger_of


def see_to(
    target: Target,
    source: Source,
    options: TransferOptions,
    *,
    part: PartFile | None,
    proven: ChunkLedger | None,
) -> str:
    """Sees to the ledger of a target that stays as it is, if one is to be kept; returns a note, or "".

    One that is missing is made of `proven`, the chunks of a file whose checksum held; never of a file that
    nothing proves. `part` is the target's part file where the caller has it locked. Raises TargetBusyError
    and StorageError.
    """
    if not (options.keep_ledger or target.directory.has(target.new_ledger_name)):
        return ""
    why = "nothing proves its bytes: use a checksum, or exists=replace"
    try:
        with target.directory.reading(target.name) as fd:
            there = kept.beside(target, fd)
    except OSError as error:
        raise storage_error(f"read {target.final}", error) from error
    except CheckpointError as error:
        there, why = None, str(error)
    durable = options.durability != "none"
    if there is not None and (proven is None or there.crc64 == combined(proven)):
        if not target.directory.has(target.ledger_name):  # a kill came before it got its name
            _keep(target, source, part, there, durable)
    elif options.keep_ledger and proven is not None:
        _keep(
            target,
            source,
            part,
            whole_ledger(source, proven, Identity(proven.size), combined(proven)),
            durable,
        )
    elif options.keep_ledger:
        return f"no ledger of {target.final} was made: {why}"
    return ""


def _keep(target: Target, source: Source, part: PartFile | None, ledger: Checkpoint, durable: bool) -> None:
    locked = part if part is not None else PartFile.open(target, source)
    try:
        kept.replace_one(target, ledger, durable=durable)
    finally:
        if locked is not part:
            if os.fstat(locked.fd).st_size == 0:
                locked.discard_if_empty()
            locked.close()


def of_finished(
    part: PartFile, identity: Identity, options: TransferOptions, *, stream: Span, crc64: int | None
) -> Checkpoint | None:
    """Returns the ledger that is to stand beside the target that `part` becomes, if it was asked for or there
    is an old one; else None.

    `stream` are length and CRC-64/NVME of an object that came without its size: its chunks are read again.
    `crc64` is that of the whole object, where it is known already. Raises StorageError.
    """
    target, ledger = part.target, part.ledger
    names = (target.ledger_name, target.new_ledger_name)
    if not (options.keep_ledger or any(kept.is_one(target.directory, name) for name in names)):
        return None
    if ledger is None:
        size, crc = stream
        ledger = ledger_of(part.fd, target.part, size, chunk_size_for(size, options.chunk_size))
        if combined(ledger) != crc:
            raise StorageError(
                f"the disk gave back other bytes of {target.part} than were written to it",
                kept=str(target.part),
            )
    return part.finished(ledger, identity, combined(ledger) if crc64 is None else crc64)
