"""Uploads to real stores: what arrives is what the file is, in one request and in parts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import OptionError, StorageError, StoreAuthError, StoreNotFoundError
from tests.servers.gateway import Call
from tests.servers.proxy import Proxy
from tests.servers.rgw import Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.putting import MIB, S3_PART, crc_of, least, left_beside, make_file, options, put, url

VERIFIED = {"rgw": "etag", "seaweedfs": "server", "rclone": "etag", "oss": "server"}


@pytest.fixture(params=["rgw", "seaweedfs", "rclone", "oss"])
def store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store."""
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made


@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1])
def test_a_small_file_goes_in_one_request(store: Store, tmp_path: Path, size: int) -> None:
    path, data = make_file(tmp_path, size)
    result = put(store, path, part_size=5 * MIB)
    assert store.get("o") == data
    assert (result.parts, result.parts_sent, result.upload_id, result.size) == (1, 1, "", size)
    assert result.checksums == crc_of(store, data)
    assert result.verified == VERIFIED[store.kind]
    assert left_beside(path) == []


@pytest.mark.parametrize("more", [0, 1])
def test_a_larger_file_goes_in_parts(store: Store, tmp_path: Path, more: int) -> None:
    path, data = make_file(tmp_path, 3 * least(store) + more)
    result = put(store, path)
    assert store.get("o") == data
    assert (result.parts, result.parts_sent, result.parts_resumed) == (3 + more, 3 + more, 0)
    assert result.checksums == crc_of(store, data)
    assert result.verified == VERIFIED[store.kind]
    assert result.url == url(store) and result.upload_id
    assert store.list_uploads() == []
    assert left_beside(path) == []
    head = store.head("o")
    assert head is not None and head["ContentLength"] == len(data)


def test_a_url_that_ends_with_a_slash_gets_the_files_name(seaweedfs: SeaweedFs, tmp_path: Path) -> None:
    store = seaweedfs.store().make_bucket()
    path, data = make_file(tmp_path, 100, name="ü a+b%.bin")
    assert put(store, path, key="dir/").url == url(store, "dir/ü a+b%.bin")
    assert put(store, path, key="").url == url(store, "ü a+b%.bin")
    assert store.get("dir/ü a+b%.bin") == data
    assert store.keys() == ["dir/ü a+b%.bin", "ü a+b%.bin"]


@pytest.mark.parametrize("size", [10, 2 * S3_PART])
def test_header_fields_are_the_objects(rgw: Rgw, tmp_path: Path, size: int) -> None:
    store = rgw.store().make_bucket()
    path, _ = make_file(tmp_path, size)
    put(store, path, headers={"Content-Type": "text/x-test", "x-amz-meta-who": "me"})
    head = store.head("o")
    assert head is not None and (head["ContentType"], head["Metadata"]) == ("text/x-test", {"who": "me"})


def test_what_a_store_refuses_is_a_typed_error_with_its_code(store: Store, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 2 * least(store))
    wrong = options(store, credentials=f"{store.access_key}:wrong")
    with pytest.raises(StoreAuthError) as refused:
        put(store, path, **wrong)
    assert (refused.value.code, refused.value.exit_code) == ("SignatureDoesNotMatch", 24)
    assert refused.value.request_id or store.kind in ("rclone", "seaweedfs")
    assert left_beside(path) == []


def test_a_bucket_that_is_missing_is_told(store: Store, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 2 * least(store))
    missing = replace(store, bucket=f"missing-{store.bucket}")
    if store.kind == "seaweedfs":  # it makes the bucket
        put(missing, path)
        assert replace(missing, behind=store).get("o") == data
        return
    with pytest.raises(StoreNotFoundError) as told:
        put(missing, path)
    assert (told.value.code, told.value.kept, told.value.exit_code) == ("NoSuchBucket", None, 3)
    assert told.value.request_id or store.kind == "rclone"
    assert left_beside(path) == []


def test_what_cannot_be_is_refused_before_anything_is_sent(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    path, _ = make_file(tmp_path, 10)
    for bad, more in (
        ("part_size: must be 100 KiB to 5 GiB", {"part_size": "99K"}),
        ("part_size: must be 100 KiB to 5 GiB", {"part_size": "5121M"}),
        ("part_size: must be 5 MiB to 5 GiB", {"part_size": "5119K", "endpoint": None}),
        ("part_size: must be", {"part_size": 0}),
        ("connections: must be", {"connections": 0}),
        ("checkpoint_dir: must be", {"checkpoint_dir": "\0"}),
        ("stall_timeout: must be", {"stall_timeout": "x"}),
    ):
        with pytest.raises(OptionError, match=bad):
            put(store, path, **more)
    with pytest.raises(OptionError, match="not a location"):
        fastxfer.put(path, "https://store.example/bucket/o")
    with pytest.raises(TypeError, match="chunk_size"):
        put(store, path, chunk_size=1)


def test_what_is_no_file_is_refused(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    for path, why in ((tmp_path, "not a regular file"), (tmp_path / "missing", "No such file")):
        with pytest.raises(StorageError, match=why):
            put(store, path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        put(store, tmp_path / "pipe")


def test_the_checkpoint_is_where_it_was_asked_for(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    path, _ = make_file(tmp_path, 2 * S3_PART)
    aside = tmp_path / "aside"
    aside.mkdir()
    seen: list[str] = []

    def look(call: Call, _: int) -> None:
        seen.extend(each.name for each in aside.iterdir() if call.operation == "UploadPart")

    with Proxy(store, look) as proxy:
        put(proxy.store, path, checkpoint_dir=aside)
    assert any(name.startswith(".data.bin.") and name.endswith(".fxput") for name in seen)
    assert list(aside.iterdir()) == [] and left_beside(path) == ["aside"]
    with pytest.raises(StorageError, match="No such file"):
        put(store, path, checkpoint_dir=tmp_path / "missing")


def test_progress_is_told_to_the_end(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    path, data = make_file(tmp_path, 4 * S3_PART)
    told: list[fastxfer.Progress] = []
    put(store, path, progress=told.append)
    assert (told[-1].state, told[-1].done, told[-1].size) == ("done", len(data), len(data))
    assert told[-1].chunks == "####" and told[-1].url == url(store)
    assert [each.done for each in told] == sorted(each.done for each in told)


def test_a_result_prints_well_and_turns_into_json(seaweedfs: SeaweedFs, tmp_path: Path) -> None:
    store = seaweedfs.store().make_bucket()
    path, data = make_file(tmp_path, 2 * S3_PART)
    result = put(store, path)
    assert str(result).startswith(f"{url(store)}: 10 MiB in ")
    assert str(result).endswith("2 parts, verified by the store's checksum")
    told = json.loads(json.dumps(result.to_dict()))
    assert told["checksums"] == crc_of(store, data) and told["parts_sent"] == 2
