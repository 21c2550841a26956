"""From where a copy goes on: its checkpoint, what the store lists, and what the source is now."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastxfer
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, RemoteChangedError, StoreServerError, TargetBusyError
from fastxfer.storage.copy_file import CopiedPart, CopyState, Origin, decode, encode
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.proxy import INTERNAL_ERROR, Harm, Proxy
from tests.servers.raw import RangeHandler
from tests.servers.rgw import Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.copying import DATA, OTHER, CopyRig, copy
from tests.stores.putting import OSS_PART, S3_PART, url
from tests.stores.rig import BAD_PART, PARTS, nothing

ALL = list(range(1, PARTS + 1))


@pytest.fixture
def rig(small: Store, tmp_path: Path) -> Iterator[CopyRig]:
    with CopyRig(small, tmp_path / "kept") as made:
        yield made


def test_only_what_is_missing_is_read_and_sent(rig: CopyRig) -> None:
    upload_id = rig.begin()
    rig.asked.clear()
    result = rig.copy_right()
    assert (result.upload_id, result.parts_resumed) == (upload_id, PARTS - len(rig.parts_sent()))
    assert BAD_PART in rig.parts_sent() and result.parts_resumed >= 1 and result.notes == ()
    assert len(rig.asked) == 1 + result.parts_sent


def test_the_url_may_be_signed_anew_meanwhile(rig: CopyRig) -> None:
    rig.begin()
    source = rig.url.replace("secret", "another")
    given: dict[str, Any] = {"part_size": OSS_PART, "checkpoint_dir": rig.checkpoints}
    assert copy(source, rig.store, **given).parts_resumed >= 1
    assert rig.truth.get("o") == DATA and rig.left() == []


def test_a_checkpoint_holds_no_secret(rig: CopyRig) -> None:
    rig.begin()
    data = rig.checkpoint.read_bytes()
    assert b"secret" not in data and b"token" not in data and rig.store.secret_key.encode() not in data
    saved = decode(data)
    shown, date = rig.url.partition("?")[0], rig.source.content.last_modified
    assert saved.origin == Origin(shown, len(DATA), '"v1"', date)
    assert saved.by == "relay" and saved.part_size == OSS_PART and 1 <= len(saved.parts) < PARTS
    assert rig.checkpoint.parent.stat().st_mode & 0o777 == 0o700


def test_a_copy_keeps_the_size_of_parts_that_it_began_with(rig: CopyRig) -> None:
    upload_id = rig.begin()
    result = rig.copy_right(part_size="150K")
    assert (result.upload_id, result.parts) == (upload_id, PARTS)


@pytest.mark.parametrize("size", [0, 1, OSS_PART, len(DATA), 9 * OSS_PART])
def test_a_source_that_changed_is_copied_whole(rig: CopyRig, size: int) -> None:
    old = rig.begin()
    rig.source = RangeHandler(make_bytes(size, 8), etag='"v2"')
    result = rig.copy_right()
    assert result.parts_resumed == 0 and result.upload_id != old
    assert any("the source " in note and "again" in note for note in result.notes)


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"last_modified": "Thu, 02 Jan 2025 00:00:00 GMT"}])
def test_a_source_that_tells_of_a_change_is_copied_whole(rig: CopyRig, change: dict[str, Any]) -> None:
    rig.begin()
    rig.source.content = replace(rig.source.content, **change)
    with pytest.raises(RemoteChangedError, match="on_change=restart"):
        rig.copy(on_change="fail")
    assert len(rig.listed()) == 1 and rig.checkpoint
    result = rig.copy_right()
    assert (result.parts_sent, result.parts_resumed) == (PARTS, 0)


def test_without_etag_and_date_nothing_is_gone_on_from(rig: CopyRig) -> None:
    rig.source.content = replace(rig.source.content, etag=None, last_modified=None)
    rig.begin()
    rig.source.content = replace(rig.source.content, data=OTHER)
    result = rig.copy_right()
    assert result.parts_resumed == 0 and any("neither an ETag nor a date" in note for note in result.notes)


def test_with_a_date_alone_it_goes_on(rig: CopyRig) -> None:
    rig.source.content = replace(rig.source.content, etag=None)
    rig.begin()
    assert rig.copy_right().parts_resumed >= 1


# ---- the checkpoint ----


@pytest.mark.parametrize("cut", [0, 1, 24, 31, 32, 33, 60, 200, -1])
def test_a_checkpoint_that_is_cut_is_not_believed(rig: CopyRig, cut: int) -> None:
    old = rig.begin()
    whole = rig.checkpoint.read_bytes()
    rig.checkpoint.write_bytes(whole[:cut])
    result = rig.copy()
    assert rig.truth.get("o") == DATA and (result.parts_sent, result.parts_resumed) == (PARTS, 0)
    assert any("the checkpoint of the copy is damaged" in note for note in result.notes)
    told = len(whole[:cut]) >= whole.index(b'"endpoint"')
    assert rig.listed() == ([] if told else [old])


@pytest.mark.parametrize("at", [0, 9, 20, 28, 40, 150, -2])
def test_a_checkpoint_with_a_byte_changed_is_not_believed(rig: CopyRig, at: int) -> None:
    rig.begin()
    data = bytearray(rig.checkpoint.read_bytes())
    data[at] ^= 4
    rig.checkpoint.write_bytes(data)
    result = rig.copy()
    assert rig.truth.get("o") == DATA and (result.parts_sent, result.parts_resumed) == (PARTS, 0)


def test_a_checkpoint_of_a_newer_version_is_left_alone(rig: CopyRig) -> None:
    rig.begin()
    data = bytearray(rig.checkpoint.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    struct.pack_into("<Q", data, 24, crc64nvme(bytes(data[32:]), crc64nvme(bytes(data[:24]))))
    rig.checkpoint.write_bytes(data)
    with pytest.raises(CheckpointError, match="version 2"):
        rig.copy()
    assert rig.checkpoint.read_bytes() == data and len(rig.listed()) == 1


def test_a_checkpoint_that_is_lost_leaves_an_upload_that_is_listed(rig: CopyRig) -> None:
    old = rig.begin()
    rig.checkpoint.unlink()
    result = rig.copy()
    assert rig.truth.get("o") == DATA and result.upload_id != old and rig.listed() == [old]


def test_one_copy_at_a_time(rig: CopyRig) -> None:
    busy: list[Exception] = []

    def twice(call: Call, number: int) -> Harm | None:
        if call.part == 3 and not busy:
            with pytest.raises(TargetBusyError) as caught:
                rig.copy()
            busy.append(caught.value)
        return None

    rig.harm = twice
    rig.copy_right()
    assert "is being copied already" in str(busy[0])


TEXTS = st.text(max_size=40)
SUMS = st.fixed_dictionaries(
    {}, optional={"crc64nvme": st.just("0" * 16), "crc64xz": st.just("a" * 16), "crc32c": st.just("f" * 8)}
)
STATES = st.builds(
    CopyState,
    upload_id=st.from_regex(r"[!-~]{1,50}", fullmatch=True),
    target=TEXTS,
    endpoint=TEXTS,
    origin=st.builds(Origin, TEXTS, st.integers(0, 9000), *[st.none() | TEXTS] * 3),
    by=st.sampled_from(["relay", "store"]),
    part_size=st.integers(1, 900),
    parts=st.dictionaries(st.just(1), st.builds(CopiedPart, st.just('"e"'), SUMS)),
)


@given(STATES)
def test_what_is_written_reads_back_the_same(state: CopyState) -> None:
    assert decode(encode(state)) == state


@given(st.binary(max_size=200), STATES, st.integers(0, 400))
def test_any_bytes_are_a_state_or_an_error(noise: bytes, state: CopyState, at: int) -> None:
    data = encode(state)
    for damaged in (noise, data[:at] + noise, data[:at] + noise + data[at + len(noise) :]):
        try:
            found = decode(damaged)
        except CheckpointError:
            continue
        assert found == state


# ---- what the store lists ----


def test_parts_that_no_checkpoint_knows_are_read_and_not_sent(rig: CopyRig) -> None:
    """As after a kill between the store's answer and the checkpoint."""
    rig.begin()
    saved = decode(rig.checkpoint.read_bytes())
    rig.checkpoint.write_bytes(encode(replace(saved, parts={})))
    there = {part.number for part in rig.truth.list_parts("o", saved.upload_id)}
    result = rig.copy_right()
    assert set(rig.parts_sent()) == set(ALL) - there and len(there) >= 1
    assert (result.parts_resumed, result.parts_sent) == (len(there), PARTS - len(there))


def test_a_part_that_somebody_else_sent_is_sent_again(rig: CopyRig) -> None:
    upload_id = rig.begin()
    rig.truth.put_part("o", upload_id, 2, OTHER[:OSS_PART])
    result = rig.copy_right()
    assert 2 in rig.parts_sent() and result.upload_id == upload_id


def test_parts_that_cannot_be_of_it_end_the_upload(rig: CopyRig) -> None:
    upload_id = rig.begin()
    rig.truth.put_part("o", upload_id, PARTS + 1, b"x")
    result = rig.copy_right()
    assert result.upload_id != upload_id and any("other parts" in note for note in result.notes)


def test_an_upload_that_the_store_lost_is_begun_anew(rig: CopyRig) -> None:
    upload_id = rig.begin()
    rig.truth.abort("o", upload_id)
    result = rig.copy_right()
    assert result.parts_sent == PARTS and any("lost the upload" in note for note in result.notes)


def test_what_was_put_together_and_nobody_was_told_is_found(rig: CopyRig) -> None:
    upload_id = rig.begin()
    rig.harm = lambda call, number: (
        Harm(status=500, body=INTERNAL_ERROR) if call.operation.startswith("Complete") else None
    )
    with pytest.raises(StoreServerError):
        rig.copy(retries=0)
    rig.harm = nothing
    rig.truth.complete("o", upload_id, rig.truth.list_parts("o", upload_id))
    rig.proxy.forget()
    result = rig.copy_right()
    assert rig.parts_sent() == [] and (result.parts_resumed, result.verified) == (PARTS, "etag")


# ---- by the store ----


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
def test_a_copy_by_the_store_goes_on(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    server: Rgw | SeaweedFs = request.getfixturevalue(name)
    store, data = server.store().make_bucket(), make_bytes(4 * S3_PART + 1, 9)
    store.put("o", data)
    bad = [True]

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=500, body=INTERNAL_ERROR) if bad[0] and call.part == 4 else None

    with Proxy(store, harm) as proxy:
        given: dict[str, Any] = {"checkpoint_dir": tmp_path, "connections": 1}
        with pytest.raises(StoreServerError) as failed:
            copy(url(store), proxy.store, "p", retries=0, **given)
        assert failed.value.kept is not None and "3 of 5 parts" in failed.value.kept
        proxy.forget()
        bad[0] = False
        result = copy(url(store), proxy.store, "p", **given)
        assert sorted(each.call.part for each in proxy.calls("UploadPart")) == [4, 5]
    assert (result.by, result.parts_resumed, result.parts_sent) == ("store", 3, 2)
    assert store.get("p") == data and store.list_uploads() == [] and list(tmp_path.iterdir()) == []


def test_a_relay_that_was_begun_is_gone_on_with(rgw: Rgw, tmp_path: Path) -> None:
    store, data = rgw.store().make_bucket(), make_bytes(4 * S3_PART + 1, 9)
    store.put("o", data)
    bad = [True]

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=500, body=INTERNAL_ERROR) if bad[0] and call.part == 4 else None

    with Proxy(store, harm) as proxy:
        given: dict[str, Any] = {"checkpoint_dir": tmp_path, "connections": 1}
        with pytest.raises(fastxfer.StoreServerError):
            copy(url(store), proxy.store, "p", retries=0, server_side=False, **given)
        bad[0] = False
        result = copy(url(store), proxy.store, "p", **given)
    assert (result.by, result.parts_resumed) == ("relay", 3) and store.get("p") == data
    assert store.list_uploads() == []
