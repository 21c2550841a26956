"""What the documents promise about a target's files, told from the files alone.

docs/checkpoint-format.md says which chunks of a part file a next run keeps: `Left` reckons that out anew,
from what the checkpoint says and from the bytes that are there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import birth_ns
from fastxfer.storage.checkpoint import Checkpoint, boot_id
from fastxfer.storage.left import stored_checkpoint
from tests.kills.victims import opened
from tests.machine.stage import Version

Span = tuple[int, int]


@dataclass(slots=True)
class Left:
    """What is left of a transfer. `trusted` chunks are taken as they are, `kept` those and all that hold;
    `bytes` counts the partly filled chunks too.
    """

    checkpoint: Checkpoint
    data: bytes
    claimed: set[int]
    trusted: set[int]
    kept: set[int] = field(default_factory=set)
    partials: dict[int, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of the object."""
        return self.checkpoint.identity.size or 0

    def span(self, chunk: int) -> Span:
        """Returns the bytes of a chunk."""
        start = chunk * self.checkpoint.chunk_size
        return start, min(start + self.checkpoint.chunk_size, self.size)

    @property
    def spans(self) -> list[Span]:
        """What a next run keeps."""
        starts = {chunk: self.span(chunk)[0] for chunk in self.partials}
        return [
            *(self.span(chunk) for chunk in sorted(self.kept)),
            *((starts[chunk], pos) for chunk, pos in sorted(self.partials.items())),
        ]

    @property
    def bytes(self) -> int:
        """How many those are."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def complete(self) -> bool:
        """True when nothing is missing."""
        return len(self.kept) == self.checkpoint.chunks > 0

    def is_of(self, version: Version) -> bool:
        """Returns whether the server's version may be the one that this is of, by what both tell."""
        one, other = self.checkpoint.identity, version.identity
        pairs = [
            (one.size, other.size),
            (_tag(one.etag), _tag(other.etag)),
            (one.last_modified, other.last_modified),
        ]
        return all(a == b for a, b in pairs if a is not None and b is not None)


def _tag(etag: str | None) -> str | None:
    return etag.removeprefix("W/") if etag else None


def bits(bitmap: bytes) -> set[int]:
    """Returns the numbers of the bits that are set."""
    return {8 * i + k for i, byte in enumerate(bitmap) for k in range(8) if byte >> k & 1}


def checkpoint_of(out: Path) -> Checkpoint | None:
    """Returns what the checkpoint says, None if there is none. Raises CheckpointError."""
    with opened(out) as target:
        return stored_checkpoint(target)


def left_of(out: Path, *, trust: bool = True) -> Left | None:
    """Returns what is left of a transfer to `out`, None if no checkpoint says so; without `trust`, or where
    the whole is known by a CRC-64, every chunk has to hold. Raises CheckpointError.
    """
    checkpoint, part = checkpoint_of(out), out.with_name("out.part")
    if checkpoint is None or not checkpoint.chunks:
        return None
    claimed = bits(checkpoint.claimed)
    if not part.exists():
        return Left(checkpoint, b"", claimed, set())
    data, there = part.read_bytes(), part.stat()
    whole = there.st_size == checkpoint.identity.size and there.st_blocks * 512 >= there.st_size
    written_to = (checkpoint.boot_id, checkpoint.inode, checkpoint.device, checkpoint.born)
    same = written_to == (boot_id(), there.st_ino, there.st_dev, _born(part))
    left = Left(checkpoint, data, claimed, set())
    if trust and whole and same and checkpoint.crc64 is None:
        left.trusted = bits(checkpoint.durable)
    for chunk in claimed:
        start, stop = left.span(chunk)
        crc = int.from_bytes(checkpoint.crcs[8 * chunk : 8 * chunk + 8], "little")
        if chunk in left.trusted or (len(data) >= stop and crc64nvme(data[start:stop]) == crc):
            left.kept.add(chunk)
    for pos, crc in checkpoint.partials:
        chunk = pos // checkpoint.chunk_size
        start = chunk * checkpoint.chunk_size
        if chunk not in left.kept and len(data) >= pos > start and crc64nvme(data[start:pos]) == crc:
            left.partials[chunk] = max(pos, left.partials.get(chunk, 0))
    return left


def _born(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return birth_ns(fd)
    finally:
        os.close(fd)


def differ(one: bytes, other: bytes, spans: Iterable[Span]) -> list[Span]:
    """Returns those of the spans in which two objects differ."""
    return [(start, stop) for start, stop in spans if one[start:stop] != other[start:stop]]


def overlaid(data: bytes, with_: bytes, spans: Iterable[Span]) -> bytes:
    """Returns `data` with some spans of another object's bytes."""
    made = bytearray(data)
    for start, end in spans:
        stop = min(end, len(data))
        made[start:stop] = with_[start:stop].ljust(stop - start, b"\0")
    return bytes(made)
