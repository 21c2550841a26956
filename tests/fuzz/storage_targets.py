"""The targets that read files: checkpoints, alone and beside a real part file, and the record of a finished
one.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

from fastxfer._native.bitmap import MAX_CHUNKS
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, DiskFullError, StorageError
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Identity
from fastxfer.sources.http import HttpSource
from fastxfer.storage.checkpoint import (
    BLOCK,
    MAGIC,
    MAX_FILE,
    VERSION,
    Checkpoint,
    CheckpointFile,
    decode,
    encode_slot,
    read_checkpoint,
    slot_size_for,
)
from fastxfer.storage.directory import Directory
from fastxfer.storage.left import Left
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import Target
from fastxfer.storage.publish import etag_of_record, make_record
from fastxfer.units import MAX_SIZE
from tests.fuzz.targets import can_be_sent, is_presentable, target, typed_text

JOB = bytes(range(16))
PART_BYTES = 300
PART = bytes(at * 7 % 251 for at in range(PART_BYTES))
"""What stands in the part file of the target `part_file`."""
SMALL = 1024**2
IMPOSSIBLE = 2**50
_HEADER = struct.Struct("<8sII16sQQ8x")


def slot(payload: bytes, sequence: int = 1) -> bytes:
    """Returns a whole file whose first slot holds this payload, whatever it is, with a CRC that holds."""
    size = -(-(_HEADER.size + 8 + len(payload)) // BLOCK) * BLOCK
    header = _HEADER.pack(MAGIC, VERSION, size // BLOCK, JOB, sequence, len(payload))
    crc = struct.pack("<Q", crc64nvme(payload, crc64nvme(header)))
    return (header + crc + payload).ljust(2 * size, b"\0")


def payload(data: bytes) -> bytes:
    """Returns a payload: what stands before the first NUL as the description, what follows as the bitmaps."""
    description, _, bitmaps = data.partition(b"\0")
    return struct.pack("<I", len(description)) + description + bitmaps


def decoded(data: bytes) -> Checkpoint | None:
    """Returns what a file's bytes say, checked, or None when they are refused as they should be."""
    try:
        checkpoint, sequence, job_id, index = decode(data)
    except CheckpointError as error:
        is_presentable(error)
        return None
    assert sequence >= 1 and len(job_id) == 16 and index in (0, 1)
    holds(checkpoint)
    return checkpoint


def holds(checkpoint: Checkpoint) -> None:
    """Asserts what everyone who reads a checkpoint relies on."""
    size, chunks = checkpoint.identity.size, checkpoint.chunks
    width = -(-chunks // 8)
    assert size is None or 0 <= size <= MAX_SIZE
    assert checkpoint.chunk_size >= 1 and chunks <= MAX_CHUNKS
    assert (len(checkpoint.durable), len(checkpoint.claimed), len(checkpoint.crcs)) == (
        width,
        width,
        8 * chunks,
    )
    durable, claimed = (int.from_bytes(bits, "little") for bits in (checkpoint.durable, checkpoint.claimed))
    assert claimed < 1 << chunks and not durable & ~claimed
    assert all(0 < pos <= (size or 0) and 0 <= crc < 2**64 for pos, crc in checkpoint.partials)
    for text in (checkpoint.url, checkpoint.boot_id, checkpoint.identity.etag or ""):
        assert text.encode() is not None, "it can be shown and stored"
    source = HttpSource.of("http://example.org/", TransferOptions())
    can_be_sent(source, TransferOptions(), checkpoint.identity.strong_etag)
    slot_size = slot_size_for(checkpoint)
    again = encode_slot(checkpoint, job_id=JOB, sequence=7, slot_size=slot_size)
    assert len(again) <= slot_size


@target
def checkpoint(data: bytes) -> None:
    """A file as it stands on disk, and the same filled up to a length that a file can have."""
    decoded(data)
    decoded(data.ljust(-(-max(len(data), 1) // (2 * BLOCK)) * 2 * BLOCK, b"\0"))


@target
def checkpoint_payload(data: bytes) -> None:
    decoded(slot(payload(data)))


@target
def part_file(data: bytes) -> None:
    """What an earlier run seems to have left, read and gone on from, with real files."""
    with tempfile.TemporaryDirectory() as directory:
        place = Target(Directory.open(Path(directory)), "out")
        place.part.write_bytes(PART)
        place.checkpoint.write_bytes(slot(payload(data)))
        try:
            told = read_checkpoint(place.directory, place.checkpoint_name)
        except CheckpointError:
            told = None
        part = PartFile.open(place, Source("https://example.org/x", "0" * 64))
        try:
            left = part.read_left()
            assert told is not None
            if left is not None:
                is_true(left)
                goes_on(part, left)
        except CheckpointError as error:
            assert told is None
            assert error.kept == str(place.part)
            assert place.part.read_bytes() == PART and place.checkpoint.exists(), "nothing is touched"
        finally:
            part.close()


def is_true(left: Left) -> None:
    """Asserts that what is said to be there is there."""
    ledger = left.ledger
    assert ledger.size == left.checkpoint.identity.size
    there = [chunk for start, _ in ledger.present() for chunk in [start // ledger.chunk_size]]
    for chunk in there:
        start, stop = ledger.bounds(chunk)
        assert stop <= PART_BYTES and crc64nvme(PART[start:stop]) == ledger.crc(chunk)
    assert all(0 <= start < stop <= ledger.size for start, stop in ledger.missing())
    for pos, crc in left.partials.items():
        start = pos - pos % ledger.chunk_size
        assert start < pos <= PART_BYTES and crc64nvme(PART[start:pos]) == crc


def goes_on(part: PartFile, left: Left) -> None:
    """Adopts what was left, where that takes no space worth speaking of or cannot be had at all."""
    if SMALL < left.ledger.size < IMPOSSIBLE:
        return
    try:
        part.adopt(left, left.checkpoint.identity, sink="pwrite")
        part.claim()
        part.sync()
    except StorageError as error:
        assert left.ledger.size >= IMPOSSIBLE or not isinstance(error, DiskFullError)
        return
    assert os.fstat(part.fd).st_size == left.ledger.size
    loaded = CheckpointFile.load(part.target.directory, part.target.checkpoint_name)
    assert loaded is not None
    loaded[0].close()
    assert loaded[1].claimed == loaded[1].durable == left.ledger.bits()


@target
def oversized_checkpoint(data: bytes) -> None:
    """A sparse file past the cap that begins with these bytes: refused before it is read."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        os.truncate(file.name, MAX_FILE + 2 * BLOCK)
        try:
            read_checkpoint(Directory.open(Path(file.name).parent), Path(file.name).name)
        except CheckpointError as error:
            is_presentable(error)
            return
    raise AssertionError("a file past the cap was read")


@target
def record(data: bytes) -> None:
    """The extended attribute of a finished file, and the same text as the ETag that is kept in one."""
    for mtime in (0.0, 1735689600.0):
        kept = etag_of_record(data, mtime)
        assert kept is None or isinstance(kept, str)
        identity = Identity(1, typed_text(data) or None)
        made = make_record(identity, mtime)
        assert made is None or etag_of_record(made, mtime) == identity.etag
