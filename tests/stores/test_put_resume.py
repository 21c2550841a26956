"""From where an upload goes on: its checkpoint, what the store lists, and what the file has now."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, LocalChangedError, TargetBusyError
from tests.cli.command import COMMAND, environment
from tests.kills import SOAK
from tests.servers.gateway import Call
from tests.servers.proxy import Harm
from tests.stores.putting import OSS_PART, left_beside, make_file, options, url
from tests.stores.rig import BAD_PART, PARTS, Rig, checkpoint_of, nothing

DEADLINE_S = 60.0
ALL = list(range(1, PARTS + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path, PARTS * OSS_PART - 5)[0]


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Changes bytes of a file under the same size, time of change and inode."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_only_what_is_missing_is_sent(rig: Rig, path: Path) -> None:
    upload_id = rig.begin(path)
    result = rig.put_right(path)
    assert BAD_PART in rig.parts_sent() and result.parts_resumed + result.parts_sent == PARTS
    assert (result.upload_id, result.parts_resumed) == (upload_id, PARTS - len(rig.parts_sent()))
    assert result.parts_resumed >= 1 and result.notes == ()
    assert rig.listed() == []


def test_an_upload_keeps_the_size_of_parts_that_it_began_with(rig: Rig, path: Path) -> None:
    upload_id = rig.begin(path)
    result = rig.put_right(path, part_size="150K")
    assert (result.upload_id, result.parts) == (upload_id, PARTS)


@pytest.mark.parametrize("at", [0, OSS_PART, PARTS * OSS_PART - 6])
def test_a_file_that_changed_under_the_same_size_and_time_is_sent_whole(
    rig: Rig, path: Path, at: int
) -> None:
    rig.harm = lambda call, number: Harm(status=400) if call.operation.startswith("Complete") else None
    with pytest.raises(Exception, match="cannot complete"):
        rig.put(path)
    rig.harm = nothing
    (old,) = rig.listed()
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))
    before = len(rig.parts_sent())
    result = rig.put_right(path)
    assert (result.parts_sent, result.parts_resumed) == (PARTS, 0)
    assert len(rig.parts_sent()) == before + PARTS
    assert result.upload_id != old and rig.listed() == []
    assert any("has changed" in note for note in result.notes)


@pytest.mark.parametrize("size", [0, 1, OSS_PART, OSS_PART + 1, 9 * OSS_PART])
def test_a_file_of_another_size_is_sent_whole(rig: Rig, path: Path, size: int) -> None:
    rig.begin(path)
    path.write_bytes(os.urandom(size))
    result = rig.put_right(path)
    assert result.parts_resumed == 0 and rig.listed() == []
    assert any("has changed" in note for note in result.notes)


def _edges(data: bytes) -> list[int]:
    """Returns where a checkpoint is cut: at each byte, or at some of them."""
    if SOAK:
        return list(range(len(data)))
    target = data.index(b'"target"')
    return [0, 1, 24, 32, 33, target, data.index(b'","endpoint"'), data.index(b'"parts"'), len(data) - 1]


def test_a_checkpoint_that_is_cut_at_any_byte_is_not_believed(rig: Rig, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, PARTS * OSS_PART - 5)
    rig.begin(path)
    kept = checkpoint_of(path)
    whole = kept.read_bytes()
    for cut in _edges(whole):
        (old,) = rig.listed()
        length = min(cut, len(whole) - 1)
        kept.write_bytes(whole[:length])
        result = rig.put_right(path)
        assert (result.parts_sent, result.parts_resumed) == (PARTS, 0)
        assert any("checkpoint" in note and "all parts again" in note for note in result.notes)
        told = length >= whole.index(b'"endpoint"')
        assert rig.listed() == ([] if told else [old])
        for upload_id in rig.listed():
            rig.truth.abort("o", upload_id)
        rig.truth.delete("o")
        rig.begin(path)
        whole = kept.read_bytes()


def test_a_checkpoint_of_a_newer_version_is_left_alone(rig: Rig, path: Path) -> None:
    rig.begin(path)
    kept = checkpoint_of(path)
    data = bytearray(kept.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    struct.pack_into("<Q", data, 24, crc64nvme(bytes(data[32:]), crc64nvme(bytes(data[:24]))))
    kept.write_bytes(data)
    with pytest.raises(CheckpointError, match="version 2"):
        rig.put(path)
    assert kept.read_bytes() == data and len(rig.listed()) == 1


def test_an_upload_that_was_aborted_meanwhile_is_sent_whole(rig: Rig, path: Path) -> None:
    rig.truth.abort("o", rig.begin(path))
    result = rig.put_right(path)
    assert (result.parts_sent, result.parts_resumed) == (PARTS, 0)
    assert any("has lost the upload" in note for note in result.notes)


def test_parts_that_the_store_has_otherwise_are_sent_again(rig: Rig, path: Path) -> None:
    upload_id = rig.begin(path)
    rig.truth.put_part("o", upload_id, 1, b"x" * OSS_PART)
    rig.truth.put_part("o", upload_id, 2, b"short")
    result = rig.put_right(path)
    assert {1, 2, BAD_PART} <= set(rig.parts_sent()) and result.upload_id == upload_id


def test_parts_beyond_the_file_end_the_upload(rig: Rig, path: Path) -> None:
    upload_id = rig.begin(path)
    rig.truth.put_part("o", upload_id, PARTS + 1, b"more")
    result = rig.put_right(path)
    assert result.upload_id != upload_id and result.parts_resumed == 0 and rig.listed() == []


def test_who_is_killed_before_the_answer_to_complete_sends_nothing_again(rig: Rig, path: Path) -> None:
    argv = [*COMMAND, "put", str(path), url(rig.store), f"--part-size={OSS_PART}"]
    argv += [f"--{name.replace('_', '-')}={value}" for name, value in options(rig.store).items()]
    with subprocess.Popen(argv, env=environment()) as process:

        def killed(call: Call, _: int) -> Harm | None:
            if call.operation == "CompleteMultipartUpload":
                process.kill()
                return Harm(carry_out=True, cut_answer=0)
            return None

        rig.harm = killed
        assert process.wait(DEADLINE_S) != 0
    assert checkpoint_of(path).exists() and len(rig.parts_sent()) == PARTS
    rig.harm = nothing
    result = rig.put_right(path)
    assert (result.parts_sent, result.parts_resumed) == (0, PARTS)
    assert len(rig.parts_sent()) == PARTS and rig.operations().count("CompleteMultipartUpload") == 1


def test_a_file_that_changes_under_the_upload_is_not_put_together(rig: Rig, path: Path) -> None:
    def changed(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == 3:
            path.write_bytes(b"y" * path.stat().st_size)
        return None

    rig.harm = changed
    with pytest.raises(LocalChangedError, match="changed while it was uploaded") as told:
        rig.put(path)
    assert told.value.exit_code == 17
    assert rig.truth.head("o") is None and rig.listed() == [] and left_beside(path) == []


def test_a_file_that_is_cut_under_the_upload_is_not_put_together(rig: Rig, path: Path) -> None:
    def cut(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and number == 0:
            os.truncate(path, 10)
        return None

    rig.harm = cut
    with pytest.raises(LocalChangedError):
        rig.put(path)
    assert rig.truth.head("o") is None and rig.listed() == [] and left_beside(path) == []


def test_two_at_once_are_one_too_many(rig: Rig, path: Path) -> None:
    refused: list[str] = []

    def another(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == 1:
            with pytest.raises(TargetBusyError) as busy:
                rig.put(path)
            refused.append(str(busy.value))
        return None

    rig.harm = another
    rig.put_right(path)
    assert len(refused) == 1 and "is being uploaded already" in refused[0]
