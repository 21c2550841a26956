"""The checkpoint of an upload: its bytes, what is not believed, and its lock."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, StorageError, TargetBusyError
from fastxfer.storage.upload_file import (
    MAX_FILE,
    MAX_PARTS,
    FileIdentity,
    NewerCheckpointError,
    SentPart,
    UploadFile,
    UploadState,
    decode,
    encode,
    salvage,
)

IDENTITY = FileIdentity(450, 1_700_000_000_000_000_000, 77, 2049)
PARTS = {1: SentPart("00000000000000ff", '"etag-1"'), 3: SentPart("fedcba9876543210", '"etag-3"')}
STATE = UploadState("id/+~2", "s3://bucket/kéy", "http://127.0.0.1:9", 100, IDENTITY, "crc64nvme", PARTS)


def sealed(payload: bytes, version: int = 1) -> bytes:
    header = struct.pack("<8sIIQ", b"\x89FXPUT\r\n", version, 0, len(payload))
    return header + struct.pack("<Q", crc64nvme(payload, crc64nvme(header))) + payload


def changed(**fields: Any) -> bytes:
    """Returns a checkpoint with other fields, and a checksum that is right."""
    return sealed(json.dumps({**json.loads(encode(STATE)[32:]), **fields}).encode())


states = st.builds(
    UploadState,
    st.from_regex(r"\A[\x21-\x7e]{1,100}\Z"),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.just(100),
    st.builds(
        FileIdentity,
        st.integers(301, 400),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
    ),
    st.sampled_from(["crc64nvme", "crc64xz"]),
    st.dictionaries(
        st.integers(1, 4),
        st.builds(
            SentPart, st.integers(0, 2**64 - 1).map("{:016x}".format), st.from_regex(r"\A[ -~]{1,256}\Z")
        ),
    ),
)


@given(states)
def test_what_is_written_is_read(state: UploadState) -> None:
    assert decode(encode(state)) == state


def test_it_is_damaged_where_a_byte_is_missing_or_more() -> None:
    data = encode(STATE)
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            decode(data[:length])
    with pytest.raises(CheckpointError):
        decode(data + b"\0")


def test_it_is_damaged_where_a_bit_is_another() -> None:
    data = encode(STATE)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError):
            decode(bytes(flipped))


@pytest.mark.parametrize(
    "fields",
    [
        {"upload_id": ""},
        {"upload_id": "a b"},
        {"upload_id": 7},
        {"target": None},
        {"target": "\ud800"},
        {"part_size": 0},
        {"part_size": True},
        {"part_size": (5 << 30) + 1},
        {"size": -1},
        {"size": 100 * MAX_PARTS + 1},
        {"mtime_ns": 1.5},
        {"crc": "md5"},
        {"parts": 7},
        {"parts": [[1, "00", '"e"']]},
        {"parts": [[0, "0" * 16, '"e"']]},
        {"parts": [[6, "0" * 16, '"e"']]},
        {"parts": [[1, "0" * 16, '"e"'], [1, "0" * 16, '"e"']]},
        {"parts": [[1, "0" * 16, "e" * 257]]},
        {"parts": [[1, "0" * 16, "\n"]]},
        {"parts": [[1, "0" * 16]]},
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    assert decode(changed()) == STATE
    with pytest.raises(CheckpointError, match="cannot be read"):
        decode(changed(**fields))


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"a":'])
def test_what_is_no_state_is_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        decode(sealed(payload))


def test_another_version_is_not_guessed_at() -> None:
    with pytest.raises(NewerCheckpointError, match="version 9"):
        decode(sealed(b"anything", version=9))


def test_of_a_damaged_one_the_upload_is_known_as_long_as_its_id_is_there() -> None:
    data = encode(STATE)
    whole = data.index(b'"endpoint"')
    for length in range(len(data)):
        found = salvage(data[:length])
        assert found == ((STATE.upload_id, STATE.target) if length >= whole else None)
    assert salvage(b"x" + data[1:]) is None


def test_a_file_is_kept_and_removed(tmp_path: Path) -> None:
    source = tmp_path / "data.bin"
    assert not UploadFile.is_there(source, "s3://b/k", tmp_path)
    with UploadFile(source, "s3://b/k", tmp_path) as kept:
        assert kept.load() is None
        kept.save(STATE)
        assert kept.state_for(STATE.target, STATE.endpoint) == STATE
        assert kept.state_for("s3://other/k", STATE.endpoint) is None
        assert kept.path.name.startswith(".data.bin.")
    assert UploadFile.is_there(source, "s3://b/k", tmp_path)
    assert not UploadFile.is_there(source, "s3://b/other", tmp_path)
    with UploadFile(source, "s3://b/k", tmp_path) as kept:
        kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_one_has_the_lock(tmp_path: Path) -> None:
    with UploadFile(tmp_path / "a", "s3://b/k", tmp_path):
        with pytest.raises(TargetBusyError, match=str(os.getpid())):
            UploadFile(tmp_path / "a", "s3://b/k", tmp_path)
        UploadFile(tmp_path / "a", "s3://b/other", tmp_path).close()
    UploadFile(tmp_path / "a", "s3://b/k", tmp_path).close()


def test_a_name_of_any_length_has_one(tmp_path: Path) -> None:
    with UploadFile(tmp_path / ("ü" * 127), "s3://b/k", tmp_path) as kept:
        kept.save(STATE)
        assert len(os.fsencode(kept.path.name)) <= 255
        kept.remove()


def test_one_that_is_too_long_is_read_only_in_part(tmp_path: Path) -> None:
    with UploadFile(tmp_path / "a", "s3://b/k", tmp_path) as kept:
        with kept.path.open("wb") as file:
            file.truncate(1 << 40)
        data = kept.load()
        assert data is not None and len(data) == MAX_FILE


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        UploadFile(tmp_path / "a", "s3://b/k", tmp_path / "missing")
