"""What an earlier run left of an object, and what of it holds.

Durable bits of a checkpoint are trusted in the same boot and of the same file; all others are verified by the
checksums of their bytes (docs/checkpoint-format.md).
"""

from __future__ import annotations

import os
from pathlib import Path

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.storage.checkpoint import Checkpoint, boot_id, read_checkpoint
from fastxfer.storage.paths import Target
from fastxfer.storage.reading import crc_of
from fastxfer.values import dataclass


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


def verify(
    checkpoint: Checkpoint,
    fd: int,
    path: Path,
    stat: os.stat_result,
    born: int,
    size_now: int,
    *,
    trust: bool = True,
) -> Left:
    """Returns what a checkpoint speaks of and the part file behind `fd` has. `stat` and `born` are the file's
    from when it was opened; without `trust` every bit is verified. Raises StorageError.
    """
    size = checkpoint.identity.size or 0
    ledger = ChunkLedger(size, checkpoint.chunk_size)
    ledger.load(checkpoint.claimed, checkpoint.crcs)
    same_file = (checkpoint.inode, checkpoint.device, checkpoint.born) == (stat.st_ino, stat.st_dev, born)
    same_boot = bool(checkpoint.boot_id) and checkpoint.boot_id == boot_id()
    trusted = ChunkLedger(size, checkpoint.chunk_size)
    # A file that was cut and grew again has a hole.
    whole = size_now == size <= stat.st_blocks * 512
    if trust and same_boot and same_file and whole:
        trusted.load(checkpoint.durable, checkpoint.crcs)
    verified = dropped = 0
    for chunk in _set_bits(checkpoint.claimed):
        if chunk in trusted:
            continue
        start, stop = ledger.bounds(chunk)
        if crc_of(fd, path, start, stop) == ledger.crc(chunk):
            verified += 1
        else:
            ledger.clear(chunk)
            dropped += 1
    partials = {}
    for pos, crc in checkpoint.partials:
        chunk = pos // checkpoint.chunk_size
        start = chunk * checkpoint.chunk_size
        if pos > start and chunk not in ledger and crc_of(fd, path, start, pos) == crc:
            partials[pos] = crc
    # Since a boot that is not the checkpoint's nobody has written these chunks: they came from the disk.
    other_boot = bool(checkpoint.boot_id) and checkpoint.boot_id != (boot_id() or checkpoint.boot_id)
    read = same_file and other_boot
    return Left(checkpoint, ledger, partials, verified, dropped, (ledger if read else trusted).bits())


def _set_bits(bits: bytes) -> list[int]:
    return [8 * i + k for i, byte in enumerate(bits) if byte for k in range(8) if byte >> k & 1]


def stored_checkpoint(target: Target) -> Checkpoint | None:
    """Returns what the checkpoint of a target says, or None when there is none. Raises CheckpointError,
    StorageError.
    """
    for directory, name in target.checkpoint_places:
        found = read_checkpoint(directory, name)
        if found is not None:
            return found[0]
    return None
