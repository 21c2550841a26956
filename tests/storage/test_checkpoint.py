"""The checkpoint file: the worked example of its format page, every kind of damage, the order of slots."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.bitmap import MAX_CHUNKS
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, DiskFullError, StorageError
from fastxfer.plan.response import Identity
from fastxfer.storage import checkpoint as module
from fastxfer.storage.checkpoint import (
    BLOCK,
    MAGIC,
    MAX_FILE,
    MAX_PARTIALS,
    Checkpoint,
    CheckpointFile,
    decode,
    encode_slot,
    slot_size_for,
)
from fastxfer.storage.directory import Directory
from tests.descriptors import held_open

PAGE = Path(__file__).parents[2] / "docs" / "checkpoint-format.md"
JOB = bytes(range(16))
HEADER = 64

# Three chunks of 4 bytes over "123456789": the first is durable, the second is not there but for "5", and the
# third, one byte long, is claimed.
EXAMPLE = Checkpoint(
    url="https://example.org/nine.txt",
    url_sha256=hashlib.sha256(b"https://example.org/nine.txt").hexdigest(),
    identity=Identity(9, '"v1"', None),
    chunk_size=4,
    durable=b"\x01",
    claimed=b"\x05",
    crcs=struct.pack("<3Q", crc64nvme(b"1234"), 0, crc64nvme(b"9")),
    boot_id="",
    inode=12,
    device=2049,
    partials=((5, crc64nvme(b"5")),),
)


def dump(data: bytes) -> str:
    """Returns bytes as lines of an offset, 16 bytes in hex and what of them is text, as `hexdump -C` does."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{text}|")
    return "\n".join(lines)


def whole_file(*slots: bytes, slot_size: int) -> bytes:
    return b"".join(slot.ljust(slot_size, b"\0") for slot in slots)


def one_slot(checkpoint: Checkpoint, sequence: int = 1, other: Checkpoint | None = None) -> bytes:
    """Returns a file's bytes: the checkpoint in the first slot, nothing or another one in the second."""
    size = slot_size_for(checkpoint)
    first = encode_slot(checkpoint, job_id=JOB, sequence=sequence, slot_size=size)
    second = (
        encode_slot(other, job_id=JOB, sequence=sequence - 1, slot_size=size) if other is not None else b""
    )
    return whole_file(first, second, slot_size=size)


def example(chunks: int = 20, chunk_size: int = 1000) -> Checkpoint:
    """Returns a checkpoint with a mixture of durable, claimed and missing chunks."""
    width = -(-chunks // 8)
    claimed = sum(1 << chunk for chunk in range(0, chunks, 2))
    durable = sum(1 << chunk for chunk in range(0, chunks, 4))
    return Checkpoint(
        url="https://example.org/data.bin",
        url_sha256="ab" * 32,
        identity=Identity(chunks * chunk_size - 1, '"v1"', "Wed, 01 Jan 2025 00:00:00 GMT"),
        chunk_size=chunk_size,
        durable=durable.to_bytes(width, "little"),
        claimed=claimed.to_bytes(width, "little"),
        crcs=b"".join(struct.pack("<Q", chunk * 3 if chunk % 2 == 0 else 0) for chunk in range(chunks)),
        boot_id="8d3a4a2c-0000-4000-8000-000000000000",
        inode=12345,
        device=2049,
        born=1_700_000_000_123_456_789,
        partials=((1500, 2**64 - 1), (3700, 1)),
        paused=True,
    )


# ---- the format page ----


def test_the_worked_example_of_the_format_page_is_what_the_code_writes() -> None:
    size = slot_size_for(EXAMPLE)
    slot = encode_slot(EXAMPLE, job_id=JOB, sequence=3, slot_size=size)
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", page.partition("## The kept ledger")[0], re.DOTALL)
    assert [block.rstrip("\n") for block in blocks] == [dump(slot[:HEADER]), dump(slot[HEADER:])]
    assert decode(whole_file(b"", slot, slot_size=size)) == (EXAMPLE, 3, JOB, 1)


def test_the_worked_example_of_a_kept_ledger_is_what_the_code_writes() -> None:
    crcs = struct.pack("<3Q", *map(crc64nvme, (b"1234", b"5678", b"9")))
    whole = crc64nvme(b"123456789")
    kept = replace(EXAMPLE, durable=b"\7", claimed=b"\7", crcs=crcs, partials=(), crc64=whole)
    size = slot_size_for(kept, partials=0)
    slot = encode_slot(kept, job_id=JOB, sequence=2, slot_size=size)
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", page.partition("## The kept ledger")[2], re.DOTALL)
    assert [block.rstrip("\n") for block in blocks] == [dump(slot[:HEADER]), dump(slot[HEADER:])]
    assert decode(whole_file(b"", slot, slot_size=size)) == (kept, 2, JOB, 1)


def test_the_fields_of_the_header_stand_where_the_page_says() -> None:
    size = slot_size_for(EXAMPLE)
    slot = encode_slot(EXAMPLE, job_id=JOB, sequence=3, slot_size=size)
    assert slot[0:8] == bytes.fromhex("89 46 58 43 4b 50 54 0a")
    assert int.from_bytes(slot[8:12], "little") == 1
    assert int.from_bytes(slot[12:16], "little") == size // 4096
    assert slot[16:32] == JOB
    assert int.from_bytes(slot[32:40], "little") == 3
    assert int.from_bytes(slot[40:48], "little") == len(slot) - 64
    assert slot[48:56] == bytes(8)
    assert int.from_bytes(slot[56:64], "little") == crc64nvme(slot[:56] + slot[64:])


def test_the_check_value_of_the_page_is_the_checksums() -> None:
    assert f"{crc64nvme(b'123456789'):016x}" == "ae8b14860a799888"
    assert "ae8b14860a799888" in PAGE.read_text(encoding="utf-8")


# ---- round trip ----

_BITS = st.integers(0, 60).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, max(0, count - 1)), max_size=count))
)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    count = draw(st.integers(0, 60))
    chunk_size = draw(st.one_of(st.integers(1, 10), st.integers(1, 2**50)))
    short = draw(st.integers(0, chunk_size - 1)) if count else 0
    size = count * chunk_size - short
    claimed = draw(st.sets(st.integers(0, count - 1))) if count else set()
    durable = {chunk for chunk in claimed if draw(st.booleans())}
    width = -(-count // 8)
    crcs = b"".join(
        struct.pack("<Q", draw(st.integers(0, 2**64 - 1)) if chunk in claimed else 0)
        for chunk in range(count)
    )
    texts = st.text(max_size=100)
    partials = draw(
        st.lists(st.tuples(st.integers(1, size), st.integers(0, 2**64 - 1)), max_size=5)
        if size
        else st.just([])
    )
    return Checkpoint(
        url=draw(texts),
        url_sha256=draw(texts),
        identity=Identity(
            size if count else draw(st.sampled_from([None, 0])),
            draw(st.none() | texts),
            draw(st.none() | texts),
        ),
        chunk_size=chunk_size,
        durable=sum(1 << chunk for chunk in durable).to_bytes(width, "little"),
        claimed=sum(1 << chunk for chunk in claimed).to_bytes(width, "little"),
        crcs=crcs,
        boot_id=draw(texts),
        inode=draw(st.integers(0, 2**64 - 1)),
        device=draw(st.integers(0, 2**64 - 1)),
        born=draw(st.integers(-(2**63), 2**63 - 1)),
        partials=tuple(partials),
        paused=draw(st.booleans()),
    )


@given(checkpoints(), st.integers(1, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_what_is_written_is_read_back(checkpoint: Checkpoint, sequence: int, job_id: bytes) -> None:
    size = slot_size_for(checkpoint)
    assert size % BLOCK == 0
    slot = encode_slot(checkpoint, job_id=job_id, sequence=sequence, slot_size=size)
    assert len(slot) <= size
    assert decode(whole_file(slot, b"", slot_size=size)) == (checkpoint, sequence, job_id, 0)
    assert decode(whole_file(b"", slot, slot_size=size)) == (checkpoint, sequence, job_id, 1)


def test_a_slot_holds_the_partials_of_a_thousand_connections() -> None:
    start = example(1, 2**40)
    size = slot_size_for(start)
    many = replace(start, partials=tuple((2**40 - 2 - n, 2**64 - 1 - n) for n in range(MAX_PARTIALS)))
    slot = encode_slot(many, job_id=JOB, sequence=1, slot_size=size)
    assert decode(whole_file(slot, b"", slot_size=size))[0] == many


def test_partials_that_do_not_fit_are_left_out_from_the_last() -> None:
    start = example(1, 2**40)
    size = slot_size_for(start)
    many = replace(start, partials=tuple((2**40 - 2 - n, n) for n in range(10 * MAX_PARTIALS)))
    slot = encode_slot(many, job_id=JOB, sequence=1, slot_size=size)
    assert len(slot) <= size
    found = decode(whole_file(slot, b"", slot_size=size))[0].partials
    assert MAX_PARTIALS <= len(found) < len(many.partials)
    assert found == many.partials[: len(found)]


@pytest.mark.parametrize("letter", ["x", "\xe9", "\\", "\x00"])
def test_texts_of_absurd_length_never_make_a_checkpoint_that_cannot_be_read(letter: str) -> None:
    long = letter * 100_000
    checkpoint = replace(
        example(), url="https://example.org/" + "x" * 100_000, identity=Identity(19_999, long, long)
    )
    found = decode(one_slot(checkpoint))[0]
    assert found.identity == Identity(19_999, None, None)
    assert checkpoint.url.startswith(found.url)


# ---- damage ----


def test_a_file_cut_at_any_length_is_refused() -> None:
    data = one_slot(example(), 2, example())
    for length in [*range(0, len(data), 61), *range(0, len(data), BLOCK), len(data) - 1]:
        with pytest.raises(CheckpointError):
            decode(data[:length])


def test_a_file_with_bytes_at_its_end_is_refused() -> None:
    data = one_slot(example())
    for more in (1, BLOCK, 2 * BLOCK, len(data)):
        with pytest.raises(CheckpointError):
            decode(data + bytes(more))


def test_a_bit_flipped_anywhere_in_the_newer_slot_leaves_the_older_one() -> None:
    old, new = example(), replace(example(), paused=False)
    data = bytearray(one_slot(new, 5, old))
    used = HEADER + int.from_bytes(data[40:48], "little")
    for bit in range(8 * used):
        data[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(data)) == (old, 4, JOB, 1), f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8


def test_a_bit_flipped_anywhere_in_the_older_slot_changes_nothing() -> None:
    old, new = replace(example(), paused=False), example()
    data = bytearray(one_slot(new, 5, old))
    half = len(data) // 2
    used = HEADER + int.from_bytes(data[half + 40 : half + 48], "little")
    for bit in range(8 * half, 8 * (half + used), 3):
        data[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(data)) == (new, 5, JOB, 0), f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8


def test_a_bit_flipped_in_the_only_slot_is_refused() -> None:
    data = bytearray(one_slot(example()))
    used = HEADER + int.from_bytes(data[40:48], "little")
    for bit in range(0, 8 * used, 5):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError):
            decode(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


def test_a_slot_torn_at_any_block_leaves_the_older_one() -> None:
    old = example(3000)
    new = replace(old, paused=False, durable=old.claimed)
    size = slot_size_for(old)
    first = encode_slot(old, job_id=JOB, sequence=7, slot_size=size).ljust(size, b"\0")
    was = encode_slot(replace(old, durable=bytes(375)), job_id=JOB, sequence=6, slot_size=size)
    now = encode_slot(new, job_id=JOB, sequence=8, slot_size=size)
    assert len(now) > 5 * BLOCK
    for torn in range(512, len(now), 512):
        mixed = now[:torn] + was[torn:]
        if mixed != now:
            assert decode(first + mixed.ljust(size, b"\0")) == (old, 7, JOB, 0)


def test_swapped_slots_are_as_good() -> None:
    data = one_slot(example(), 9, replace(example(), paused=False))
    half = len(data) // 2
    assert decode(data[half:] + data[:half]) == (example(), 9, JOB, 1)


def test_the_higher_sequence_counts_to_the_last_number() -> None:
    data = one_slot(example(), 2**64 - 1, replace(example(), paused=False))
    assert decode(data)[:2] == (example(), 2**64 - 1)


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK])
def test_zeros_are_no_checkpoint(size: int) -> None:
    with pytest.raises(CheckpointError):
        decode(bytes(size))


@given(st.binary(max_size=200))
def test_noise_is_no_checkpoint(noise: bytes) -> None:
    with pytest.raises(CheckpointError):
        decode((MAGIC + noise).ljust(2 * BLOCK, b"\0"))


# ---- a checksum that holds over what should not be ----


def forged(
    description: dict[str, Any] | bytes | None = None,
    bitmaps: bytes | None = None,
    *,
    header: Callable[[list[Any]], object] | None = None,
    length: int | None = None,
    zero: bytes = bytes(8),
) -> bytes:
    """Returns a file whose one slot has these contents, and a checksum that holds."""
    good = example()
    plain = json.loads(module._description(good))
    if isinstance(description, dict):
        description = json.dumps({**plain, **description}).encode()
    elif description is None:
        description = json.dumps(plain).encode()
    if bitmaps is None:
        bitmaps = good.durable + good.claimed + good.crcs
    payload = struct.pack("<I", len(description) if length is None else length) + description + bitmaps
    size = -(-(HEADER + len(payload)) // BLOCK) * BLOCK
    fields: list[Any] = [MAGIC, 1, size // BLOCK, JOB, 1, len(payload)]
    if header is not None:
        header(fields)
    head = struct.pack("<8sII16sQQ", *fields) + zero
    return whole_file(head + struct.pack("<Q", crc64nvme(head + payload)) + payload, b"", slot_size=size)


def refused(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        decode(data)
    return caught.value.message


def test_the_forger_writes_what_the_code_reads() -> None:
    assert decode(forged())[0] == example()


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_a_slot_of_another_version_makes_the_file_unknown(version: int) -> None:
    def newer(fields: list[Any]) -> None:
        fields[1] = version

    data = forged(header=newer)
    assert f"version {version}" in refused(data)
    half = len(data) // 2
    good = encode_slot(example(), job_id=JOB, sequence=9, slot_size=half).ljust(half, b"\0")
    assert f"version {version}" in refused(good + data[:half])


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, b"\x89FXCKPT\r"), (0, b"\x88FXCKPT\n"), (2, 0), (2, 2), (2, 2**32 - 1), (4, 0)],
    ids=["magic", "magic's first byte", "no blocks", "more blocks", "most blocks", "sequence 0"],
)
def test_a_header_that_does_not_hold_is_no_slot(index: int, value: Any) -> None:
    def change(fields: list[Any]) -> None:
        fields[index] = value

    assert "neither of its slots" in refused(forged(header=change))


def test_bytes_in_the_zero_field_are_no_slot() -> None:
    assert "neither of its slots" in refused(forged(zero=b"\0\0\0\0\0\0\0\1"))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2 * BLOCK, BLOCK - HEADER + 1])
def test_a_payload_longer_than_its_slot_is_no_slot(length: int) -> None:
    data = bytearray(one_slot(example()))
    struct.pack_into("<Q", data, 40, length if length >= 2**32 else len(data) // 2 - HEADER + length)
    refused(bytes(data))


@pytest.mark.parametrize("length", [2**32 - 1, 65537, 10_000, 3])
def test_a_description_of_a_false_length_is_refused(length: int) -> None:
    assert "cannot be read" in refused(forged(length=length))


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{}", b"{", b"\xff\xfe", b'"' + b"x" * 1000, b"[" * 60_000, b"9" * 5000, b"\0"],
)
def test_a_description_that_is_no_object_is_refused(text: bytes) -> None:
    assert "cannot be read" in refused(forged(text))


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 2**63},
        {"size": 1.5},
        {"size": True},
        {"size": "20000"},
        {"size": 10**30},
        {"chunk_size": 0},
        {"chunk_size": -1000},
        {"chunk_size": None},
        {"chunk_size": 2**63},
        {"size": 2**62, "chunk_size": 1},
        {"size": MAX_CHUNKS + 1, "chunk_size": 1},
        {"url": None},
        {"url": 7},
        {"url": "half of a pair: \ud800"},
        {"url_sha256": ["a"]},
        {"etag": 7},
        {"last_modified": {}},
        {"boot_id": None},
        {"inode": -1},
        {"inode": 2**64},
        {"device": "2049"},
        {"born": 2**63},
        {"born": None},
        {"partials": None},
        {"partials": 7},
        {"partials": [7]},
        {"partials": [[1500]]},
        {"partials": [[1500, "zz"]]},
        {"partials": [[1500, 5]]},
        {"partials": [[0, "0000000000000001"]]},
        {"partials": [[-5, "0000000000000001"]]},
        {"partials": [[20_000, "0000000000000001"]]},
        {"partials": [[1500, "00000000000000001"]]},
        {"partials": [[1500, ""]]},
        {"partials": [[1500, "-1"]]},
        {"size": None},
    ],
    ids=str,
)
def test_a_member_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    refused(forged(change))


@pytest.mark.parametrize("name", sorted(json.loads(module._description(EXAMPLE)).keys() - {"born"}))
def test_a_missing_member_is_refused(name: str) -> None:
    plain = json.loads(module._description(example()))
    del plain[name]
    assert "cannot be read" in refused(forged(json.dumps(plain).encode()))


def test_members_that_are_not_known_are_passed_over() -> None:
    assert decode(forged({"later": [1, 2, 3]}))[0] == example()


@pytest.mark.parametrize("missing", [1, 8, 166])
def test_bitmaps_that_are_too_short_are_refused(missing: int) -> None:
    good = example()
    assert "size" in refused(forged(bitmaps=(good.durable + good.claimed + good.crcs)[:-missing]))


def test_bitmaps_that_are_too_long_are_refused() -> None:
    good = example()
    assert "size" in refused(forged(bitmaps=good.durable + good.claimed + good.crcs + b"\0"))


@pytest.mark.parametrize("which", ["durable", "claimed"])
@pytest.mark.parametrize("bit", [20, 21, 23])
def test_bits_past_the_last_chunk_are_refused(which: str, bit: int) -> None:
    good = example()
    maps = {"durable": good.durable, "claimed": good.claimed}
    maps[which] = (int.from_bytes(maps[which], "little") | 1 << bit).to_bytes(3, "little")
    if which == "durable":
        maps["claimed"] = (int.from_bytes(maps["claimed"], "little") | 1 << bit).to_bytes(3, "little")
    assert "past the object's last chunk" in refused(
        forged(bitmaps=maps["durable"] + maps["claimed"] + good.crcs)
    )


def test_a_durable_chunk_that_is_not_claimed_is_refused() -> None:
    good = example()
    assert "not claimed" in refused(forged(bitmaps=b"\x02\0\0" + good.claimed + good.crcs))


# ---- the file ----


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "data.bin.part.ckpt")


def create(path: str, checkpoint: Checkpoint) -> CheckpointFile:
    directory, name = os.path.split(path)
    return CheckpointFile.create(Directory.open(Path(directory)), name, checkpoint)


def load(path: str) -> tuple[CheckpointFile, Checkpoint] | None:
    directory, name = os.path.split(path)
    return CheckpointFile.load(Directory.open(Path(directory)), name)


def slots(path: str) -> list[tuple[int, bool] | None]:
    """Returns (sequence, paused) of each slot of a file, None where it is not valid; apart from the code."""
    data = Path(path).read_bytes()
    found: list[tuple[int, bool] | None] = []
    for half in (data[: len(data) // 2], data[len(data) // 2 :]):
        length = int.from_bytes(half[40:48], "little")
        if half[:8] != MAGIC or crc64nvme(half[:56] + half[64 : 64 + length]) != int.from_bytes(
            half[56:64], "little"
        ):
            found.append(None)
            continue
        text = half[68 : 68 + int.from_bytes(half[64:68], "little")]
        found.append((int.from_bytes(half[32:40], "little"), json.loads(text)["paused"]))
    return found


def test_a_new_file_has_one_slot_and_both_have_room(path: str) -> None:
    file = create(path, example())
    assert slots(path) == [(1, True), None]
    assert os.stat(path).st_size == 2 * file.slot_size == 2 * slot_size_for(example())
    file.close()


def test_claims_alternate_until_something_is_durable(path: str) -> None:
    file = create(path, example())
    file.write(example(), durable=False)
    file.write(example(), durable=False)
    assert slots(path) == [(3, True), (2, True)]
    file.close()


def test_the_sequence_rises_with_every_write_and_the_newest_is_read(path: str) -> None:
    file = create(path, example())
    for number in range(2, 30):
        paused = number % 3 == 0
        file.write(replace(example(), paused=paused), durable=number % 5 == 0)
        found, sequence, _, _ = decode(Path(path).read_bytes())
        assert (sequence, found.paused) == (number, paused)
    file.close()


def test_claims_never_overwrite_the_newest_durable_slot(path: str) -> None:
    file = create(path, example())
    durable = 0
    for number in range(2, 60):
        is_durable = number in (4, 5, 9, 10, 11, 30)
        file.write(replace(example(), paused=is_durable), durable=is_durable)
        durable = number if is_durable else durable
        if durable:
            assert (durable, True) in slots(path)
    file.close()


def test_after_a_load_the_newest_slot_is_kept_from_claims(path: str) -> None:
    file = create(path, example())
    file.write(example(), durable=True)
    file.write(example(), durable=False)
    file.close()
    for _ in range(3):
        loaded = load(path)
        assert loaded is not None
        newest = max(each[0] for each in slots(path) if each)
        for _ in range(4):
            loaded[0].write(replace(example(), paused=False), durable=False)
            assert (newest, True) in slots(path) or (newest, False) in slots(path)
        loaded[0].close()


def test_the_slot_kept_after_a_load_is_synced_before_the_other_goes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = create(path, example())
    file.write(example(), durable=True)
    file.write(example(), durable=False)
    file.close()
    calls: list[str] = []
    sync, write = os.fdatasync, os.pwrite

    def noted_sync(fd: int) -> None:
        calls.append("sync")
        sync(fd)

    def noted_write(fd: int, data: bytes, at: int) -> int:
        calls.append("write")
        return write(fd, data, at)

    monkeypatch.setattr(os, "fdatasync", noted_sync)
    monkeypatch.setattr(os, "pwrite", noted_write)
    loaded = load(path)
    assert loaded is not None and calls == []
    loaded[0].write(example(), durable=False)
    loaded[0].write(example(), durable=False)
    loaded[0].write(example(), durable=True)
    assert calls == ["write", "sync", "write", "write", "write", "sync"]  # the first is the kept slot again
    loaded[0].close()


def test_a_write_that_fails_is_typed_and_leaves_the_other_slot(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = create(path, example())
    file.write(example(), durable=True)
    before = slots(path)

    def full(_fd: int, data: bytes, _at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError) as caught:
        file.write(example(), durable=False)
    assert caught.value.errno == 28
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _at: len(data) - 1)
    with pytest.raises(StorageError):
        file.write(example(), durable=True)
    assert slots(path) == before
    file.close()


def test_a_sync_that_fails_does_not_make_the_slot_durable(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = create(path, example())
    file.write(example(), durable=True)

    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(StorageError) as caught:
        file.write(example(), durable=True)
    assert caught.value.errno == 5
    assert (2, True) in slots(path)
    file.close()


def test_no_file_is_nothing(path: str) -> None:
    assert load(path) is None


def test_a_loaded_file_goes_on_with_its_job_and_sequence(path: str) -> None:
    create(path, example()).close()
    job = decode(Path(path).read_bytes())[2]
    loaded = load(path)
    assert loaded is not None and loaded[1] == example()
    loaded[0].write(example(), durable=False)
    loaded[0].close()
    assert decode(Path(path).read_bytes())[1:3] == (2, job)


def test_every_file_has_a_job_of_its_own(path: str) -> None:
    jobs = set()
    for _ in range(3):
        create(path, example()).close()
        jobs.add(decode(Path(path).read_bytes())[2])
    assert len(jobs) == 3


def test_a_new_file_replaces_what_was_there(path: str) -> None:
    Path(path).write_bytes(b"x" * 100_000)
    create(path, example()).close()
    assert slots(path) == [(1, True), None]


def test_a_file_too_large_is_refused_before_it_is_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(path, "wb") as file:
        file.truncate(MAX_FILE + 2 * BLOCK)

    def unread(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(os, "pread", unread)
    with pytest.raises(CheckpointError, match="too large"):
        load(path)


def test_a_damaged_file_is_left_as_it_is_and_no_descriptor_stays_open(path: str) -> None:
    Path(path).write_bytes(b"x" * 3 * BLOCK)
    for _ in range(3):
        with pytest.raises(CheckpointError):
            load(path)
    assert held_open(Path(path).parent) == 0
    assert Path(path).read_bytes() == b"x" * 3 * BLOCK


@pytest.mark.parametrize(
    "make",
    [os.mkdir, os.mkfifo, lambda path: os.symlink(__file__, path)],
    ids=["directory", "pipe", "symlink"],
)
def test_what_is_no_plain_file_is_refused_and_left(path: str, make: Callable[[str], object]) -> None:
    make(path)
    before = os.lstat(path)
    with pytest.raises(StorageError, match="not a regular file"):
        load(path)
    with pytest.raises(StorageError, match="not a regular file"):
        create(path, example())
    assert os.lstat(path) == before


def test_a_new_file_that_has_no_room_is_typed_and_no_descriptor_stays_open(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    for call in ("truncate", "pwrite"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(DiskFullError):
                create(path, example())
        assert held_open(Path(path).parent) == 0


def test_an_object_of_unknown_size_has_a_checkpoint_without_chunks(path: str) -> None:
    unknown = Checkpoint("https://example.org/", "ab", Identity(None, None, None), 1)
    create(path, unknown).close()
    loaded = load(path)
    assert loaded is not None and loaded[1] == unknown and loaded[1].chunks == 0
    loaded[0].close()


def test_the_boot_is_told_by_the_system() -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", module.boot_id())
