"""The part file on real files: one suite for both sinks, what is trusted after which accident, full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme
from fastxfer._native.writer import Writer, start_writeback
from fastxfer.errors import (
    CheckpointError,
    DiskFullError,
    StorageError,
    TargetBusyError,
    TargetExistsError,
)
from fastxfer.plan.response import Identity
from fastxfer.storage import left as reading_side
from fastxfer.storage import part_file as module
from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile
from fastxfer.storage.left import Left, stored_checkpoint
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import Target, resolve_target
from fastxfer.storage.publish import XATTR, make_record
from tests.descriptors import held_open
from tests.servers.objects import make_bytes

URL = "https://example.org/data.bin"
SOURCE = Source.of(URL, URL)
SIZE = 1_000_000
CHUNK = 70_000
DATA = make_bytes(SIZE, seed=5)
IDENTITY = Identity(SIZE, '"v1"', "Wed, 01 Jan 2025 00:00:00 GMT")
SINKS = ["direct", "mmap", "pwrite"]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return resolve_target(URL, tmp_path / "data.bin")


@pytest.fixture(params=SINKS)
def sink(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def allocated(target: Target, sink: str = "pwrite", identity: Identity = IDENTITY) -> PartFile:
    part = PartFile.open(target, SOURCE)
    part.allocate(identity, CHUNK, sink=sink)
    return part


def fill(part: PartFile, start: int, stop: int, crc: int = 0) -> tuple[int, int]:
    """Writes the object's bytes [start, stop) in slices of 16 KiB; returns (pos, crc) of the run's end."""
    writer = Writer()
    part.attach(writer)
    writer.begin(start, stop, crc)
    for at in range(start, stop, 16384):
        assert writer(DATA[at : min(stop, at + 16384)]) is None
    ended = writer.end()
    writer.detach()
    return ended


def reopened(target: Target) -> tuple[PartFile, Left]:
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    assert left is not None
    return part, left


def in_boot(monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    """Has it be this boot from now on."""
    for where in (module, reading_side):
        monkeypatch.setattr(where, "boot_id", lambda: boot)


def edit(path: Path, at: int) -> None:
    """Flips the bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def finish(part: PartFile, left: Left, sink: str) -> None:
    """Fetches what is missing and publishes; the target must then be the object."""
    part.adopt(left, IDENTITY, sink=sink)
    missing = left.ledger.missing()
    for pos, crc in left.partials.items():
        chunk_end = min((pos // CHUNK + 1) * CHUNK, SIZE)
        fill(part, pos, chunk_end, crc)
    for start, stop in missing:
        fill(part, start, stop)
    assert left.ledger.complete
    part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert part.target.final.read_bytes() == DATA


# ---- every sink ----


def test_an_object_is_written_published_and_leaves_nothing_behind(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    assert part.mapped is (sink == "mmap")
    fill(part, 0, 490_000)
    part.sync()
    fill(part, 490_000, SIZE)
    inode = target.part.stat().st_ino
    assert not target.final.exists()
    part.publish(size=SIZE, mtime=1_700_000_000.5, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == DATA
    assert target.final.stat().st_ino == inode
    assert target.final.stat().st_mtime == 1_700_000_000.5
    assert sorted(os.listdir(target.final.parent)) == ["data.bin"]


def test_allocating_reserves_the_space_really(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    there = target.part.stat()
    assert there.st_size == SIZE
    assert there.st_blocks * 512 >= SIZE
    assert target.part.read_bytes() == bytes(SIZE)
    part.close()


def test_what_was_durable_is_trusted_in_the_same_boot(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 140_000, 490_000)
    part.sync()
    part.close()
    part, left = reopened(target)
    assert (left.verified, left.dropped, part.note) == (0, 0, "")
    assert left.ledger.present() == [(140_000, 490_000)]
    assert left.checkpoint.identity == IDENTITY
    finish(part, left, sink)


def test_what_was_only_claimed_is_verified(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 210_000)
    part.sync()
    fill(part, 210_000, 490_000)
    part.claim()
    part.close()
    part, left = reopened(target)
    assert (left.verified, left.dropped) == (4, 0)
    assert left.ledger.present() == [(0, 490_000)]
    finish(part, left, sink)


def test_what_was_never_claimed_is_missing(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 210_000)
    part.claim()
    fill(part, 210_000, 490_000)
    part.close()
    part, left = reopened(target)
    assert left.ledger.present() == [(0, 210_000)]
    finish(part, left, sink)


def test_another_boot_has_everything_verified(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    in_boot(monkeypatch, "another boot")
    part, left = reopened(target)
    assert (left.verified, left.dropped) == (7, 0)
    finish(part, left, sink)


def test_a_boot_that_is_not_known_is_never_the_same(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    in_boot(monkeypatch, "")
    part = allocated(target)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    part, left = reopened(target)
    assert left.verified == 7
    part.close()


def test_an_edited_byte_in_a_claimed_chunk_is_seen(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.claim()
    part.close()
    edit(target.part, 100_000)
    part, left = reopened(target)
    assert (left.verified, left.dropped) == (6, 1)
    assert left.ledger.missing() == [(70_000, 140_000), (490_000, SIZE)]
    assert "1 chunks of data.bin.part" in part.note
    finish(part, left, sink)


def test_an_edited_byte_in_a_durable_chunk_is_seen_after_a_reboot(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = allocated(target, sink)
    fill(part, 0, SIZE)
    part.sync()
    part.close()
    edit(target.part, SIZE - 1)
    in_boot(monkeypatch, "another boot")
    part, left = reopened(target)
    assert left.ledger.missing() == [(980_000, SIZE)]
    finish(part, left, sink)


def test_a_copy_of_the_part_file_is_verified(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    copy = target.part.with_name("copy")
    shutil.copyfile(target.part, copy)
    os.replace(copy, target.part)
    part, left = reopened(target)
    assert (left.verified, left.dropped) == (7, 0)
    finish(part, left, sink)


@pytest.mark.parametrize(("length", "whole"), [(0, 0), (1, 0), (70_000, 1), (300_000, 4), (SIZE - 1, 7)])
def test_a_truncated_part_file_loses_only_what_was_cut(
    target: Target, sink: str, length: int, whole: int
) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    os.truncate(target.part, length)
    part, left = reopened(target)
    assert left.ledger.done == left.verified == whole
    assert left.dropped == 7 - whole
    finish(part, left, sink)


def test_a_part_file_that_grew_is_verified_and_cut_to_size(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    with target.part.open("ab") as file:
        file.write(b"more")
    part, left = reopened(target)
    assert left.verified == 7
    finish(part, left, sink)


def test_a_part_file_that_is_gone_leaves_nothing_to_trust(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    target.part.unlink()
    part, left = reopened(target)
    assert left.ledger.done == 0
    finish(part, left, sink)


def test_a_new_part_file_with_the_old_ones_inode_is_not_trusted(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system gives the number of a removed file to the next one."""
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    was = part._stat
    part.close()
    target.part.unlink()
    part, left = reopened(target)
    part.adopt(left, IDENTITY, sink=sink)
    part.close()  # a kill, before anything was written
    part = PartFile.open(target, SOURCE)
    monkeypatch.setattr(part, "_stat", was)
    found = part.read_left()
    assert found is not None and found.ledger.present() == []
    part.close()


def test_a_part_file_replaced_by_other_bytes_leaves_nothing_to_trust(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    other = target.part.with_name("other")
    other.write_bytes(make_bytes(SIZE, seed=6))
    os.replace(other, target.part)
    part, left = reopened(target)
    assert left.ledger.done == 0
    finish(part, left, sink)


def test_a_part_file_that_got_the_old_ones_number_is_not_the_old_one(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    number = os.fstat(part.fd).st_ino
    part.close()
    for _ in range(1000):  # file systems give the number of a removed file to a new one, sooner or later
        target.part.unlink()
        target.part.write_bytes(make_bytes(SIZE, seed=6))
        if target.part.stat().st_ino == number:
            break
    part, left = reopened(target)
    assert left.ledger.done == 0
    finish(part, left, sink)


def test_the_first_part_of_a_chunk_is_taken_up_when_its_checksum_holds(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 70_000)
    pos, crc = fill(part, 70_000, 100_000)
    part.sync(((pos, crc),), paused=True)
    part.close()
    part, left = reopened(target)
    assert left.partials == {100_000: crc64nvme(DATA[70_000:100_000])}
    assert left.checkpoint.paused
    finish(part, left, sink)


def test_the_first_part_of_a_chunk_is_dropped_when_a_byte_was_edited(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    pos, crc = fill(part, 70_000, 100_000)
    part.sync(((pos, crc),))
    part.close()
    edit(target.part, 99_999)
    part, left = reopened(target)
    assert left.partials == {}
    finish(part, left, sink)


def test_only_first_parts_inside_missing_chunks_count(target: Target) -> None:
    part = allocated(target)
    fill(part, 0, 70_000)
    fill(part, 140_000, 200_000)
    part.sync(
        (
            (30_000, crc64nvme(DATA[:30_000])),  # of a whole chunk
            (70_000, crc64nvme(b"")),  # no part at all
            (100_000, 7),  # not there
            (200_000, crc64nvme(DATA[140_000:200_000])),
        )
    )
    part.close()
    part, left = reopened(target)
    assert left.partials == {200_000: crc64nvme(DATA[140_000:200_000])}
    part.close()


def test_trust_that_was_lost_is_not_written_down_again_before_a_sync(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    os.truncate(target.part, 300_000)
    part, left = reopened(target)
    part.adopt(left, IDENTITY, sink=sink)
    part.claim()
    stored = stored_checkpoint(target)
    assert stored is not None
    assert (stored.durable, stored.claimed) == (b"\0\0", b"\x0f\0")
    part.sync()
    stored = stored_checkpoint(target)
    assert stored is not None and stored.durable == stored.claimed == b"\x0f\0"
    part.close()


def test_two_interruptions_are_taken_up_one_after_the_other(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 140_000)
    part.claim()
    part.close()
    part, left = reopened(target)
    part.adopt(left, IDENTITY, sink="mmap" if sink == "pwrite" else "pwrite")
    fill(part, 560_000, 700_000)
    part.sync()
    part.close()
    part, left = reopened(target)
    assert left.ledger.present() == [(0, 140_000), (560_000, 700_000)]
    finish(part, left, sink)


# ---- what is left, and what is in the way ----


def test_nothing_is_left_at_first(target: Target) -> None:
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    assert (part.note, part.checkpointed, part.mapped, part.claim_bytes) == ("", False, False, 0)
    part.close()


def test_a_part_file_without_a_checkpoint_is_moved_aside(target: Target) -> None:
    target.part.write_bytes(b"someone's")
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    assert "data.bin.part.orphan" in part.note
    assert target.part.with_name("data.bin.part.orphan").read_bytes() == b"someone's"
    assert target.part.read_bytes() == b""
    with pytest.raises(TargetBusyError):
        PartFile.open(target, SOURCE)
    part.allocate(IDENTITY, CHUNK, sink="pwrite")
    part.close()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 8192, b"\x89FXCKPT\n" + bytes(8184)])
def test_a_damaged_checkpoint_is_told_and_nothing_is_touched(target: Target, content: bytes) -> None:
    part = allocated(target)
    fill(part, 0, SIZE)
    part.close()
    target.checkpoint.write_bytes(content)
    part = PartFile.open(target, SOURCE)
    with pytest.raises(CheckpointError) as caught:
        part.read_left()
    assert caught.value.kept == str(target.part)
    assert "--resume false" in str(caught.value)
    part.close()
    assert target.checkpoint.read_bytes() == content
    assert target.part.read_bytes() == DATA


def begun(target: Target) -> dict[str, bytes]:
    """Returns what the very first write of a checkpoint may leave when it is cut off."""
    part = allocated(target)
    part.close()
    whole = target.checkpoint.read_bytes()
    target.part.unlink()
    return {"nothing": b"", "zeros": bytes(len(whole)), "a piece": whole[:200] + bytes(len(whole) - 200)}


@pytest.mark.parametrize("left", ["nothing", "zeros", "a piece"])
def test_a_checkpoint_cut_off_in_its_first_write_is_none_beside_an_empty_part_file(
    target: Target, left: str
) -> None:
    target.checkpoint.write_bytes(begun(target)[left])
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    part.allocate(IDENTITY, CHUNK, sink="pwrite")
    part.close()
    assert stored_checkpoint(target) is not None
    assert sorted(os.listdir(target.final.parent)) == ["data.bin.part", "data.bin.part.ckpt"]


@pytest.mark.parametrize("content", [b"x", b"x" * 8192, bytes(8191)])
def test_what_is_no_checkpoint_of_ours_is_told_beside_an_empty_part_file_too(
    target: Target, content: bytes
) -> None:
    target.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError):
        PartFile.open(target, SOURCE).read_left()
    assert target.checkpoint.read_bytes() == content


def test_a_checkpoint_of_a_part_file_that_is_gone_goes_when_there_is_nothing_to_do(target: Target) -> None:
    part = allocated(target)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    target.part.unlink()
    part, _ = reopened(target)
    part.discard_if_empty()
    part.close()
    assert os.listdir(target.final.parent) == []


def test_starting_over_replaces_a_damaged_checkpoint(target: Target) -> None:
    target.checkpoint.write_bytes(b"damaged")
    target.part.write_bytes(b"old bytes")
    part = allocated(target)
    stored = stored_checkpoint(target)
    assert stored is not None and stored.claimed == b"\0\0"
    assert target.part.read_bytes() == bytes(SIZE)
    part.close()


def test_a_checkpoint_of_unknown_size_leaves_nothing_to_go_on_from(target: Target) -> None:
    part = allocated(target, identity=Identity(None, '"v1"', None))
    assert part.ledger is None
    part.close()
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    part.close()


def test_a_hostile_checkpoint_makes_no_wrong_byte(target: Target) -> None:
    part = allocated(target)
    part.close()
    loaded = CheckpointFile.load(target.directory, target.checkpoint_name)
    assert loaded is not None
    file, honest = loaded
    lying = Checkpoint(
        honest.url, honest.url_sha256, honest.identity, CHUNK, b"\xff\x7f", b"\xff\x7f", bytes(8 * 15),
        partials=((SIZE, 0), (SIZE - 1, 0)), inode=honest.inode, device=honest.device,
    )  # fmt: skip
    file.write(lying, durable=True)
    file.close()
    part, left = reopened(target)
    assert left.ledger.done == 0
    finish(part, left, "pwrite")


def test_the_checkpoint_says_whose_it_is_and_keeps_no_secret(target: Target) -> None:
    part = PartFile.open(target, Source.of(URL + "?token=secret", URL))
    part.allocate(IDENTITY, CHUNK, sink="pwrite")
    part.close()
    stored = stored_checkpoint(target)
    assert stored is not None
    assert stored.url_sha256 == hashlib.sha256(b"https://example.org/data.bin?token=secret").hexdigest()
    assert b"secret" not in target.checkpoint.read_bytes()
    assert (stored.inode, stored.device) == (target.part.stat().st_ino, target.part.stat().st_dev)


def test_no_checkpoint_is_nothing(target: Target) -> None:
    assert stored_checkpoint(target) is None


# ---- locking ----


def test_a_second_opener_is_told_that_the_target_is_busy(target: Target) -> None:
    part = PartFile.open(target, SOURCE)
    with pytest.raises(TargetBusyError, match=r"data\.bin is being written"):
        PartFile.open(target, SOURCE)
    part.close()
    PartFile.open(target, SOURCE).close()


OPENER = """
import sys
from fastxfer.errors import TargetBusyError
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import resolve_target
try:
    PartFile.open(resolve_target("http://h/x", sys.argv[1]), Source("", ""))
    print("open")
except TargetBusyError as error:
    print("busy")
"""


def opened_elsewhere(target: Target) -> str:
    """Returns what another process is told when it opens the target."""
    command = [sys.executable, "-c", OPENER, str(target.final)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_is_told_that_the_target_is_busy(target: Target) -> None:
    part = allocated(target, "mmap")
    assert opened_elsewhere(target) == "busy"
    assert target.part.stat().st_size == SIZE
    part.close()
    assert opened_elsewhere(target) == "open"


def test_the_lock_ends_with_the_publication(target: Target) -> None:
    part = allocated(target)
    fill(part, 0, SIZE)
    part.publish(size=SIZE, mtime=None, durable=False, replace=True, record=None)
    assert opened_elsewhere(target) == "open"


def test_no_descriptor_stays_open(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, SIZE)
    with pytest.raises(TargetBusyError):
        PartFile.open(target, SOURCE)
    part.close()
    part.close()
    assert held_open(target.directory.path) == 1, "the directory's own"


def test_symlinks_in_place_of_the_working_files_are_not_followed(target: Target) -> None:
    victim = target.final.with_name("victim")
    victim.write_bytes(b"precious")
    target.checkpoint.symlink_to(victim)
    allocated(target).close()
    assert not target.checkpoint.is_symlink()
    target.part.unlink()
    target.part.symlink_to(victim)
    with pytest.raises(StorageError, match="a symbolic link"):
        allocated(target)
    assert victim.read_bytes() == b"precious"


def test_a_directory_that_went_is_typed(tmp_path: Path) -> None:
    (tmp_path / "short-lived").mkdir()
    target = resolve_target(URL, tmp_path / "short-lived" / "data.bin")
    (tmp_path / "short-lived").rmdir()
    with pytest.raises(StorageError, match="create the directory first"):
        PartFile.open(target, SOURCE)


# ---- space ----


def test_nothing_is_mapped_unless_it_is_asked_for(target: Target) -> None:
    part = allocated(target, "auto")
    assert not part.mapped
    part.close()


def test_eight_exbibytes_are_refused_before_anything_is_allocated(target: Target, sink: str) -> None:
    part = PartFile.open(target, SOURCE)
    with pytest.raises(DiskFullError) as caught:
        part.allocate(Identity(2**63 - 1), 2**45, sink=sink)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.exit_code == 9
    assert (target.part.stat().st_size, target.part.stat().st_blocks) == (0, 0)
    part.close()


def test_an_empty_object_needs_no_space(target: Target, sink: str) -> None:
    part = PartFile.open(target, SOURCE)
    part.allocate(Identity(0), CHUNK, sink=sink)
    assert part.ledger is not None and part.ledger.complete
    part.publish(size=0, mtime=None, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == b""


def test_a_small_object_has_neither_mapping_nor_checkpoint(target: Target) -> None:
    part = PartFile.open(target, SOURCE)
    part.allocate(IDENTITY, CHUNK, sink="auto", small=True)
    assert not part.mapped and not part.checkpointed and not target.checkpoint.exists()
    part.claim()
    part.sync()
    fill(part, 0, SIZE)
    part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == DATA


def test_what_a_kill_leaves_of_a_small_object_is_known_as_ours(target: Target) -> None:
    part = PartFile.open(target, SOURCE)
    part.allocate(IDENTITY, CHUNK, sink="auto", small=True)
    fill(part, 0, 490_000)
    part.close()
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    part.allocate(IDENTITY, CHUNK, sink="auto", small=True)
    fill(part, 0, SIZE)
    part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert os.listdir(target.final.parent) == ["data.bin"]
    assert target.final.read_bytes() == DATA
    assert os.listxattr(target.final) == [], "the finished file is not marked"


def test_an_object_of_unknown_size_is_cut_to_what_came(target: Target) -> None:
    part = allocated(target, identity=Identity(None))
    fill(part, 0, 123_456)
    part.publish(size=123_456, mtime=None, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == DATA[:123_456]


def test_allocating_anew_drops_all_progress(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, SIZE)
    part.sync()
    part.allocate(Identity(SIZE + 1, '"v2"'), CHUNK, sink=sink)
    stored = stored_checkpoint(target)
    assert stored is not None
    assert (stored.durable, stored.claimed, stored.identity.etag) == (b"\0\0", b"\0\0", '"v2"')
    assert target.part.read_bytes() == bytes(SIZE + 1)
    part.close()


@pytest.mark.parametrize("broken", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_sync_that_fails_is_not_tried_again_and_promises_nothing(
    target: Target, sink: str, broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = allocated(target, sink)
    fill(part, 0, 140_000)
    part.sync()
    fill(part, 140_000, 490_000)
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(broken, os.strerror(broken))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError) as caught:
        part.sync()
    assert len(calls) == 1
    assert isinstance(caught.value, DiskFullError) is (broken != errno.EIO)
    part.close()
    stored = stored_checkpoint(target)
    assert stored is not None and stored.claimed == stored.durable == b"\x03\0"


def test_a_stream_that_begins_again_claims_no_more_than_it_has(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    assert part.ledger is not None
    part.ledger.reset()
    fill(part, 0, 140_000)
    part.claim()
    part.close()
    part, left = reopened(target)
    assert left.ledger.present() == [(0, 140_000)]
    finish(part, left, sink)


def failing(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_what_a_failed_sync_was_to_write_is_given_up_though_its_bytes_seem_to_be_there(
    target: Target, sink: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = allocated(target, sink)
    fill(part, 0, 140_000)
    part.sync()
    fill(part, 140_000, SIZE)
    part.claim()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(StorageError):
            if call == "fdatasync":
                part.sync()
            else:
                part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    part.claim()  # what comes late changes nothing
    part.sync()
    with pytest.raises(StorageError, match="an earlier sync of it failed"):
        part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    part.close()
    part, left = reopened(target)
    assert left.ledger.present() == [(0, 140_000)]
    finish(part, left, sink)


def test_what_was_there_since_before_the_boot_survives_a_failed_sync(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = allocated(target, sink)
    fill(part, 0, 140_000)
    part.claim()
    part.close()
    in_boot(monkeypatch, "another boot")
    part, left = reopened(target)
    part.adopt(left, IDENTITY, sink=sink)
    fill(part, 140_000, 490_000)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(StorageError):
            part.sync()
    part.close()
    part, left = reopened(target)
    assert left.ledger.present() == [(0, 140_000)]
    part.close()


# ---- write-back ----


@given(st.data())
def test_whole_groups_are_found(data: st.DataObject) -> None:
    count, group = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 9))
    bits = data.draw(st.integers(0, 2**count - 1))
    whole = {
        chunk
        for first in range(0, count, group)
        for members in [range(first, min(first + group, count))]
        if all(bits >> member & 1 for member in members)
        for chunk in members
    }
    assert module.whole_groups(bits, count, group) == sum(1 << chunk for chunk in whole)


@pytest.mark.parametrize("sink", ["mmap", "pwrite"])
def test_writeback_starts_once_for_what_is_finished_in_whole_pages(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_BYTES", 4 * CHUNK)
    monkeypatch.setattr(module, "HUGE_PAGE_BYTES", 2 * CHUNK)
    started: list[tuple[int, int]] = []

    def start(fd: int, begin: int, length: int) -> None:
        start_writeback(fd, begin, length)
        started.append((begin // CHUNK, (begin + length) // CHUNK))

    monkeypatch.setattr(module, "start_writeback", start)
    part = allocated(target, sink)
    part.pace_writeback()
    fill(part, 0, 3 * CHUNK)
    part.pace_writeback()
    assert started == []  # too little
    fill(part, 3 * CHUNK, 5 * CHUNK)
    part.pace_writeback()
    assert started == [(0, 4)]  # the fifth chunk's page has room for the sixth
    fill(part, 7 * CHUNK, 12 * CHUNK)
    part.pace_writeback()
    assert started == [(0, 4), (8, 12)]
    part.sync()
    part.close()
    part, left = reopened(target)
    part.adopt(left, IDENTITY, sink=sink)
    fill(part, 5 * CHUNK, 7 * CHUNK)
    fill(part, 12 * CHUNK, SIZE)
    part.pace_writeback()
    assert started[2:] == [(5, 7), (12, SIZE // CHUNK)]  # not again what was there
    part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == DATA


@pytest.mark.parametrize("sink", ["mmap", "pwrite"])
def test_a_writeback_that_is_refused_is_left_to_the_sync(
    target: Target, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_BYTES", 1)
    monkeypatch.setattr(module, "HUGE_PAGE_BYTES", CHUNK)
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    tried = []

    def refused(*arguments: object) -> None:
        tried.append(arguments)
        failing()

    with monkeypatch.context() as patched:
        patched.setattr(module, "start_writeback", refused)
        part.pace_writeback()
    assert len(tried) == 1
    part.sync()
    part.close()
    part, left = reopened(target)
    assert left.on_disk == left.ledger.bits()
    assert left.ledger.present() == [(0, 490_000)]
    part.close()


FULL_DISK = """
import os, resource, sys
from fastxfer._native.writer import Writer
from fastxfer.errors import StorageError
from fastxfer.plan.response import Identity
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import resolve_target

MIB = 1 << 20
where, how = sys.argv[1:]
if how == "disk":
    if os.system(f"mount -t tmpfs -o size=1m none {where}") != 0:
        sys.exit("cannot mount")
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
target = resolve_target("http://h/x", where + "/data.bin")
part = PartFile.open(target, Source("", ""))
try:
    part.allocate(Identity(4 * MIB, '"v1"'), 65536, sink="mmap")
except StorageError as error:
    print("allocate", type(error).__name__, os.fstat(part.fd).st_size)
part.allocate(Identity(MIB // 2, '"v1"'), 65536, sink="pwrite")
writer = Writer()
part.attach(writer)
writer.begin(0, MIB // 2)
writer(bytes(MIB // 4))
writer.end()
part.sync()
filler = os.open(where + "/filler", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError as error:
    print("full", error.errno)
try:
    part.claim()
    part.claim()
except StorageError as error:
    assert type(error).__name__ == "DiskFullError", error
part.close()
os.unlink(where + "/filler")
part = PartFile.open(target, Source("", ""))
left = part.read_left()
print("kept", left.ledger.done)
part.adopt(left, Identity(MIB // 2, '"v1"'), sink="mmap")
part.attach(writer)
writer.begin(MIB // 4, MIB // 2)
writer(bytes(MIB // 4))
writer.end()
writer.detach()
part.publish(size=MIB // 2, mtime=None, durable=True, replace=True, record=None)
print("published", target.final.stat().st_size)
"""


def private_mounts() -> list[str] | None:
    """Returns the command that gives a process mounts of its own, or None where that is not permitted."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        probe = [*command, "mount", "-t", "tmpfs", "none", "/tmp"]
        if (
            shutil.which("unshare")
            and subprocess.run(probe, capture_output=True, check=False).returncode == 0
        ):
            return command
    return None


@pytest.mark.parametrize("how", ["disk", "limit"])
def test_no_more_space_is_typed_keeps_the_progress_and_goes_on_once_there_is_some(
    tmp_path: Path, how: str
) -> None:
    """On a disk of 1 MiB, and under a limit of 1 MiB on files; the latter twice where no mount is allowed."""
    command = private_mounts() if how == "disk" else None
    how = "limit" if command is None else how
    run = subprocess.run(
        [*(command or []), sys.executable, "-c", FULL_DISK, str(tmp_path), how],
        capture_output=True,
        text=True,
        check=False,
    )
    full, error = (errno.ENOSPC, "DiskFullError") if how == "disk" else (errno.EFBIG, "StorageError")
    told = [f"allocate {error} 0", f"full {full}", "kept 4", "published 524288"]
    assert run.stdout.splitlines() == told, run


def test_a_limit_on_file_sizes_is_typed_and_keeps_the_files(target: Target, sink: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    part = PartFile.open(target, SOURCE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, hard))
    try:
        with pytest.raises(StorageError) as caught:
            part.allocate(IDENTITY, CHUNK, sink=sink)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert "ulimit -f" in str(caught.value)
    part.close()
    assert target.part.exists()


# ---- the end ----


@pytest.fixture
def complete(target: Target) -> Iterator[PartFile]:
    part = allocated(target)
    fill(part, 0, SIZE)
    part.sync()
    yield part
    part.close()


def test_an_existing_target_is_kept_when_nothing_may_be_replaced(complete: PartFile, target: Target) -> None:
    target.final.write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match=r"data\.bin\.part"):
        complete.publish(size=SIZE, mtime=None, durable=True, replace=False, record=None)
    assert target.final.read_bytes() == b"mine"
    assert target.part.read_bytes() == DATA
    stored = stored_checkpoint(target)
    assert stored is not None and stored.claimed == b"\xff\x7f"


def test_a_new_target_is_made_where_nothing_may_be_replaced(complete: PartFile, target: Target) -> None:
    complete.publish(size=SIZE, mtime=None, durable=True, replace=False, record=None)
    assert target.final.read_bytes() == DATA
    assert sorted(os.listdir(target.final.parent)) == ["data.bin"]


def test_an_existing_target_is_replaced_in_one_step(complete: PartFile, target: Target) -> None:
    target.final.write_bytes(b"old")
    with target.final.open("rb") as old:
        complete.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
        assert old.read() == b"old"
    assert target.final.read_bytes() == DATA


def test_the_etag_is_kept_with_the_file_where_the_file_system_can(complete: PartFile, target: Target) -> None:
    record = make_record(IDENTITY, 1_700_000_000.0)
    assert record is not None
    try:
        os.setxattr(target.part, "user.fastxfer.test", b"x")
        able = True
    except OSError:
        able = False
    complete.publish(size=SIZE, mtime=1_700_000_000.0, durable=True, replace=True, record=record)
    assert (XATTR in os.listxattr(target.final)) is able
    if able:
        assert json.loads(os.getxattr(target.final, XATTR))["etag"] == '"v1"'


@pytest.mark.parametrize("call", ["fsync", "rename", "utime"])
def test_a_failure_at_the_end_keeps_the_part_file_and_its_checkpoint(
    complete: PartFile, target: Target, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            complete.publish(size=SIZE, mtime=1.0, durable=True, replace=True, record=None)
    assert (caught.value.errno, caught.value.kept) == (errno.EIO, str(target.part))
    assert not target.final.exists()
    assert target.part.read_bytes() == DATA
    assert stored_checkpoint(target) is not None


def test_a_file_that_is_someone_elses_is_finished_with_the_time_it_has(
    complete: PartFile, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "utime", fail)
    complete.publish(size=SIZE, mtime=1.0, durable=True, replace=True, record=None)
    assert target.final.read_bytes() == DATA
    assert target.final.stat().st_mtime > 1.0


def test_a_directory_that_cannot_be_synced_is_told_of_a_file_that_is_whole(
    complete: PartFile, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fail(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="the file is whole") as caught:
        complete.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert (caught.value.errno, caught.value.kept) == (errno.EIO, None)
    assert target.final.read_bytes() == DATA


def test_the_file_is_synced_before_the_rename_and_the_directory_after_it(
    complete: PartFile, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(fd: int) -> None:
        calls.append("sync directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "sync file")
        sync(fd)

    def noted_rename(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("rename")
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    complete.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert calls == ["sync file", "rename", "sync directory"]
    assert not target.checkpoint.exists()


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_bytes(bytes(SIZE))


def linked(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("change", [gone, replaced, linked])
def test_a_part_file_that_was_taken_away_is_not_published(
    complete: PartFile, target: Target, change: Callable[[Path], None], replace: bool
) -> None:
    change(target.part)
    with pytest.raises(StorageError, match="was removed or replaced meanwhile"):
        complete.publish(size=SIZE, mtime=None, durable=True, replace=replace, record=None)
    assert not os.path.lexists(target.final)


def test_a_kill_between_the_link_and_the_removal_does_not_cost_the_target(
    complete: PartFile, target: Target
) -> None:
    os.link(target.part, target.final)
    complete.close()
    part = PartFile.open(target, SOURCE)
    assert part.read_left() is None
    part.allocate(Identity(7, '"v2"'), CHUNK, sink="pwrite")
    part.close()
    assert target.final.read_bytes() == DATA


@pytest.mark.parametrize("progress", [True, False])
def test_a_part_file_with_another_name_is_not_written_to(target: Target, progress: bool) -> None:
    part = allocated(target)
    fill(part, 0, 490_000)
    part.close()
    if not progress:
        target.checkpoint.unlink()
    other = target.part.with_name("other")
    os.link(target.part, other)
    before = other.read_bytes()
    with pytest.raises(StorageError, match="has another name too"):
        allocated(target)
    assert other.read_bytes() == target.part.read_bytes() == before
    other.unlink()
    PartFile.open(target, SOURCE).close()


def test_discarding_removes_both_files(complete: PartFile, target: Target) -> None:
    complete.discard()
    assert os.listdir(target.final.parent) == []


@pytest.mark.parametrize("end", ["publish", "discard", "discard_if_empty", "open"])
def test_a_checkpoint_that_never_got_its_name_is_not_left_behind(target: Target, end: str) -> None:
    new = target.directory.path / target.new_checkpoint_name
    part = PartFile.open(target, SOURCE)
    new.write_bytes(b"cut off")
    if end == "publish":
        part.allocate(IDENTITY, CHUNK, sink="pwrite", small=True)
        fill(part, 0, SIZE)
        part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    elif end == "discard":
        part.discard()
    else:
        if end == "open":  # a kill came between the link and the removal of the part file's name
            os.link(target.part, target.final)
            part.close()
            part = PartFile.open(target, SOURCE)
        assert new.exists() is (end == "discard_if_empty")
        part.discard_if_empty()
    part.close()
    assert {path.name for path in target.directory.path.iterdir()} <= {target.name}


def test_an_empty_part_file_is_removed_one_with_progress_is_kept(target: Target) -> None:
    part = PartFile.open(target, SOURCE)
    part.discard_if_empty()
    part.close()
    assert os.listdir(target.final.parent) == []
    part = allocated(target)
    part.discard_if_empty()
    part.close()
    part = PartFile.open(target, SOURCE)
    part.discard_if_empty()
    part.close()
    assert target.part.exists() and target.checkpoint.exists()


def test_what_somebody_else_did_to_the_part_file_is_found(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, SIZE)
    part.claim()
    before = stored_checkpoint(target)
    os.truncate(target.part, SIZE - 1)
    with pytest.raises(StorageError, match="was truncated by somebody else"):
        part.claim()
    with pytest.raises(StorageError, match="was truncated by somebody else"):
        part.sync()
    os.truncate(target.part, 0)
    os.truncate(target.part, SIZE)  # a hole where the bytes were
    with pytest.raises(StorageError, match="was truncated by somebody else"):
        part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert stored_checkpoint(target) == before
    assert not target.final.exists()
    part.close()


def test_a_durable_chunk_is_verified_when_the_file_was_cut_and_grew_again(target: Target, sink: str) -> None:
    part = allocated(target, sink)
    fill(part, 0, 490_000)
    part.sync()
    part.close()
    os.truncate(target.part, 0)
    os.truncate(target.part, SIZE)
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    assert left is not None
    assert (left.ledger.done, left.dropped) == (0, 7)
    part.close()


# ---- past the page cache ----


def test_a_file_system_without_direct_writes_is_named_with_what_can_do(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], target.directory.open_file

    def refuses(name: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        opened.append(name)
        return real(name, flags)

    part = PartFile.open(target, SOURCE)
    monkeypatch.setattr(target.directory, "open_file", refuses)
    with pytest.raises(StorageError, match=r"past the page cache \(sink=auto or pwrite can do without"):
        part.allocate(IDENTITY, CHUNK, sink="direct")
    assert target.part.name not in opened
    part.close()


def test_a_file_that_took_its_name_is_not_written_to(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real = target.directory.open_file

    def swapped(name: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            target.part.unlink()
            target.part.write_bytes(b"somebody else's")
        return real(name, flags)

    part = PartFile.open(target, SOURCE)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(target.directory, "open_file", swapped)
    with pytest.raises(StorageError, match="is being changed by someone else"):
        part._reserve(SIZE, "direct")
    assert len(os.listdir("/proc/self/fd")) == before
    assert target.part.read_bytes() == b"somebody else's"
    part.close()


def test_what_could_not_be_written_is_told_before_the_object_counts_as_whole(target: Target) -> None:
    part = allocated(target, "direct")
    writer = Writer()
    part.attach(writer)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        writer.begin(0, SIZE)
        for at in range(0, SIZE, 16384):
            writer(DATA[at : at + 16384])
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            writer.end()
        with pytest.raises(StorageError, match=os.strerror(errno.EFBIG)):
            part.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert part.ledger is not None and not part.ledger.complete
    with pytest.raises(StorageError, match="is not whole"):
        part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    assert not target.final.exists()
    part.close()
