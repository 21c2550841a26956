"""Copies between real servers: what arrives is what was there, through here or by the store itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import crc64nvme, crc64xz
from fastxfer.errors import NotFoundError, OptionError, StorageError, StoreAuthError
from fastxfer.upload_store import base64_of
from tests.cli.command import fastxfer as command
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.oss_facade import OssFacade
from tests.servers.proxy import Proxy
from tests.servers.rclone_s3 import Rclone
from tests.servers.rgw import Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.copying import copy, of_source
from tests.stores.putting import MIB, OSS_PART, S3_PART, crc_of, least, options, url
from tests.stores.test_put_keys import KEYS, PATHS

SIZE = 12 * MIB + 7
DATA = make_bytes(SIZE, 3)
CRC = base64_of(crc64nvme(DATA))
VERIFIED = {"rgw": "etag", "seaweedfs": "server", "rclone": "etag", "oss": "server"}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the checkpoints are: it is not there yet."""
    return tmp_path / "state" / "fastxfer"


def left(kept: Path) -> list[Path]:
    return list(kept.iterdir()) if kept.exists() else []


def new(request: pytest.FixtureRequest, name: str) -> Store:
    """Returns a new bucket of a store."""
    made: Store = request.getfixturevalue(name).store().make_bucket()
    return made


# ---- from HTTP ----


@pytest.mark.parametrize("size", [0, 1, OSS_PART, 3 * S3_PART, 3 * S3_PART + 1])
def test_from_nginx(store: Store, nginx: Nginx, objects: Objects, kept: Path, size: int) -> None:
    thing = objects.make(size, seed=31)
    result = copy(nginx.url(thing.name), store, checkpoint_dir=kept)
    data = thing.path.read_bytes()
    assert store.get("o") == data
    parts = max(1, -(-size // least(store)))
    assert (result.parts, result.parts_sent, result.parts_resumed) == (parts, parts, 0)
    assert (result.size, result.by, result.source_verified) == (size, "relay", "none")
    assert result.verified == VERIFIED[store.kind]
    assert result.checksums == crc_of(store, data)
    assert bool(result.upload_id) == (parts > 1) and left(kept) == []
    assert store.kind == "rclone" or store.list_uploads() == []


def test_without_ranges_one_stream_is_copied_part_by_part(
    small: Store, nginx: Nginx, objects: Objects, kept: Path
) -> None:
    for size in (1, OSS_PART, OSS_PART + 1, 40 * OSS_PART, 40 * OSS_PART + 3):
        thing = objects.make(size, seed=32)
        source = nginx.url(thing.name, prefix="/noranges")
        result = copy(source, small, checkpoint_dir=kept, part_size=OSS_PART, memory="1M", connections=3)
        assert small.get("o") == thing.path.read_bytes()
        assert result.checksums == crc_of(small, thing.path.read_bytes()) and result.verified == "etag"
        assert (result.by, result.parts, result.size) == ("stream", max(1, -(-size // OSS_PART)), size)
        assert left(kept) == [] and small.list_uploads() == []


def test_the_caller_s_checksum_is_that_of_the_source(
    small: Store, nginx: Nginx, objects: Objects, kept: Path
) -> None:
    thing = objects.make(3 * MIB, seed=33)
    data = thing.path.read_bytes()
    right = {"crc64nvme": f"{crc64nvme(data):016x}", "crc64xz": f"{crc64xz(data):016x}"}
    source = nginx.url(thing.name)
    result = copy(source, small, checkpoint_dir=kept, part_size=OSS_PART, checksum=right)
    assert result.source_verified == "checksum" and result.checksums == right
    for size in (OSS_PART, "8M"):
        for name, is_ in right.items():
            with pytest.raises(fastxfer.ChecksumError, match="nothing was put together") as failed:
                copy(source, small, "wrong", checkpoint_dir=kept, part_size=size, checksum={name: "0" * 16})
            assert (failed.value.actual, failed.value.exit_code) == (is_, 32)
        assert small.keys() == ["o"] and small.list_uploads() == [] and left(kept) == []
    with pytest.raises(OptionError, match="sha256 cannot be put together"):
        copy(source, small, checkpoint_dir=kept, checksum={"sha256": thing.sha256})


def test_a_missing_object_is_not_found(small: Store, nginx: Nginx, kept: Path) -> None:
    with pytest.raises(NotFoundError):
        copy(nginx.url("not-there"), small, checkpoint_dir=kept)
    with pytest.raises(NotFoundError):
        copy(url(small, "not-there"), small, checkpoint_dir=kept)
    assert small.keys() == [] and left(kept) == []


# ---- between stores ----


@pytest.mark.parametrize(
    ("one", "other"),
    [("rgw", "seaweedfs"), ("seaweedfs", "rgw"), ("oss", "rgw"), ("rgw", "oss"), ("oss", "seaweedfs"),
     ("rclone", "oss"), ("seaweedfs", "rclone")],
)  # fmt: skip
def test_from_store_to_store(request: pytest.FixtureRequest, kept: Path, one: str, other: str) -> None:
    source, target = new(request, one), new(request, other)
    source.client.put_object(
        Bucket=source.bucket, Key="o", Body=DATA, ContentType="text/x-test", Metadata={"who": "me"}
    )
    told = fastxfer.copy(url(source), url(target, "plain"), **options(target), **of_source(source),
        checkpoint_dir=kept)  # fmt: skip
    result = copy(url(source), target, checkpoint_dir=kept, **of_source(source))
    for key, each in (("o", result), ("plain", told)):
        assert target.get(key) == DATA and each.by == "relay" and each.verified == VERIFIED[target.kind]
        head = target.head(key)
        assert head is not None
        assert {name.lower(): value for name, value in head["Metadata"].items()} == {"who": "me"}
        assert head["ContentType"] == "text/x-test" or target.kind == "oss"  # the stand-in drops it
    assert (result.source_verified == "server") == (source.kind == "oss")
    assert crc_of(target, DATA).items() <= result.checksums.items()
    assert result.parts == -(-SIZE // least(target)) and left(kept) == []


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize("size", [1, SIZE])
def test_an_object_that_is_kept_coded_stays_so(
    request: pytest.FixtureRequest, kept: Path, size: int, server_side: bool
) -> None:
    """The bytes are what gzip has made of something, as far as stores know."""
    source = new(request, "rgw")
    data = DATA[:size]
    source.client.put_object(Bucket=source.bucket, Key="o", Body=data, ContentEncoding="gzip")
    target = source.make_bucket() if server_side else new(request, "seaweedfs")
    result = copy(url(source), target, checkpoint_dir=kept, server_side=server_side, **of_source(source))
    assert result.by == ("store" if server_side else "relay")
    head = target.head("o")
    assert head is not None and head["ContentEncoding"] == "gzip"
    assert target.get("o") == data


def test_a_source_s_own_checksum_is_held_against_what_came(
    request: pytest.FixtureRequest, small: Store, kept: Path
) -> None:
    source = new(request, "seaweedfs")
    source.client.put_object(Bucket=source.bucket, Key="o", Body=DATA, ChecksumCRC64NVME=CRC)
    result = copy(url(source), small, checkpoint_dir=kept, **of_source(source))
    assert result.source_verified == "server" and "the source's checksum holds" in str(result)


@pytest.mark.parametrize("key", [*KEYS, *PATHS])
def test_keys_of_any_letters(rgw: Rgw, oss: OssFacade, kept: Path, key: str) -> None:
    source, target = rgw.store().make_bucket(), oss.store().make_bucket()
    data, key = DATA[: 2 * OSS_PART + 1], key.rstrip()  # of a URL to read spaces at its end are dropped
    source.put(key, data)
    assert copy(url(source, key), target, key, checkpoint_dir=kept, **of_source(source)).parts == 3
    assert target.get(key) == data
    # By the store itself the key stands in a header field.
    copied = copy(url(source, key), source, f"{key}2", checkpoint_dir=kept)
    assert (copied.by, copied.verified) == ("store", "etag")
    assert source.get(f"{key}2") == data


def test_a_target_that_ends_with_a_slash_gets_the_source_s_name(
    small: Store, nginx: Nginx, objects: Objects, kept: Path
) -> None:
    thing = objects.put("some dir/ü a+b.bin", b"hello")
    assert copy(nginx.url(thing.name), small, "d/", checkpoint_dir=kept).url == url(small, "d/ü a+b.bin")
    copy(url(small, "d/ü a+b.bin"), small, "", checkpoint_dir=kept)
    assert small.keys() == ["d/ü a+b.bin", "ü a+b.bin"] and small.get("ü a+b.bin") == thing.path.read_bytes()


# ---- by the store itself ----


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_a_store_copies_by_itself(request: pytest.FixtureRequest, kept: Path, name: str, size: int) -> None:
    store = new(request, name)
    store.client.put_object(
        Bucket=store.bucket, Key="o", Body=DATA[:size], ContentType="text/x-test", Metadata={"who": "me"}
    )
    other = store.make_bucket()
    with Proxy(store) as proxy:
        for part_size in (S3_PART, None):
            result = copy(
                url(store), proxy.store.through(proxy.store.endpoint), "copied", checkpoint_dir=kept,
                part_size=part_size,
            )  # fmt: skip
            assert result.by == "store" and result.checksums == {}
            parts = max(1, -(-size // S3_PART)) if part_size else 1
            assert (result.parts, result.parts_sent) == (parts, parts)
            head = store.head("copied")
            assert head is not None and head["ContentType"] == "text/x-test"
            assert head["Metadata"] == {"who": "me"}
            assert store.get("copied") == DATA[:size] and left(kept) == []
        got = proxy.calls("GetObject")
    assert sum(each.sent for each in got) <= 4000  # looks at it
    across = fastxfer.copy(url(store), url(other), **options(store), checkpoint_dir=kept)
    assert across.by == "store" and other.get("o") == DATA[:size]
    through = copy(url(store), other, "r", checkpoint_dir=kept, server_side=False)
    assert through.by == "relay" and other.get("r") == DATA[:size]


def test_a_copy_in_the_store_is_verified_by_checksums_or_etags(
    seaweedfs: SeaweedFs, rgw: Rgw, kept: Path
) -> None:
    weed, ceph = seaweedfs.store().make_bucket(), rgw.store().make_bucket()
    weed.client.put_object(Bucket=weed.bucket, Key="o", Body=DATA, ChecksumCRC64NVME=CRC)
    result = copy(url(weed), weed, "p", checkpoint_dir=kept)
    assert (result.by, result.parts, result.verified) == ("store", 3, "server")
    ceph.put("o", DATA)
    assert copy(url(ceph), ceph, "whole", checkpoint_dir=kept, part_size="1G").verified == "etag"
    # Cut in other parts it has another ETag, and nothing tells.
    assert copy(url(ceph), ceph, "cut", checkpoint_dir=kept).verified == "none"


def test_a_store_that_does_not_copy_has_the_bytes_go_through_here(oss: OssFacade, kept: Path) -> None:
    store = oss.store().make_bucket()
    store.put("o", DATA)
    for part_size in (OSS_PART, "64M"):
        result = copy(url(store), store, "copied", checkpoint_dir=kept, part_size=part_size)
        assert result.by == "relay" and store.get("copied") == DATA
        (note,) = result.notes
        assert "does not copy by itself" in note and "NotImplemented" in note
        assert store.list_uploads() == [] and left(kept) == []


def test_a_user_who_may_not_read_is_refused(rgw: Rgw, kept: Path) -> None:
    store = rgw.store().make_bucket()
    store.put("o", DATA)
    assert store.stranger is not None
    stranger = f"{store.stranger.access_key}:{store.stranger.secret_key}"
    with pytest.raises(StoreAuthError):
        copy(url(store), store, "p", checkpoint_dir=kept, credentials=stranger)
    with pytest.raises(StoreAuthError):
        given = {**of_source(store), "source_credentials": stranger}
        copy(url(store), store, "p", checkpoint_dir=kept, **given)
    assert store.keys() == ["o"] and left(kept) == []


def test_a_version_is_copied_to_its_end(rgw: Rgw, seaweedfs: SeaweedFs, kept: Path) -> None:
    source, target = rgw.store().make_bucket(), seaweedfs.store().make_bucket()
    status = {"Status": "Enabled"}
    source.client.put_bucket_versioning(Bucket=source.bucket, VersioningConfiguration=status)
    source.put("o", DATA)

    def replaced(call: Any, number: int) -> None:
        if call.operation == "GetObject" and number == 1:
            source.put("o", DATA[::-1])

    with Proxy(source, replaced) as proxy:
        result = copy(url(source), target, checkpoint_dir=kept, **of_source(proxy.store))
    assert target.get("o") == DATA and result.notes == ()


# ---- options and the command ----


def test_options_that_cannot_be(small: Store, nginx: Nginx, objects: Objects, kept: Path) -> None:
    thing = objects.make(3 * MIB, seed=34)
    source = nginx.url(thing.name)
    for given, said in (
        ({"memory": "1M", "part_size": "2M"}, "option memory: a part of 2097152 bytes"),
        ({"memory": "1K"}, "option memory"),
        ({"part_size": "10K"}, "option part_size"),
        ({"connections": 0}, "option connections"),
        ({"source_credentials": "nonsense"}, "option source_credentials"),
    ):
        with pytest.raises(OptionError, match=said):
            copy(source, small, checkpoint_dir=kept, **given)
    for bad in ("ftp://h/o", "no-url", "s3://bucket"):
        with pytest.raises(OptionError):
            copy(bad, small, checkpoint_dir=kept)
    with pytest.raises(OptionError):
        fastxfer.copy(source, "http://host/o")
    with pytest.raises(TypeError, match="chunk_size"):
        copy(source, small, checkpoint_dir=kept, chunk_size="1M")
    assert small.keys() == []


def test_the_command(small: Store, nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(2 * MIB + 5, seed=35)
    given = {**options(small), "part_size": "1M"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    source = nginx.url(thing.name)
    done = command("copy", source, url(small), "--json", "-x", "2", *words, env=state)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["event"] == "result" and lines[-1]["parts"] == 3 and lines[-1]["source"] == source
    assert small.get("o") == thing.path.read_bytes()
    assert list((tmp_path / "state" / "fastxfer").iterdir()) == []
    plain = command(
        "copy", source, url(small), "--object-headers", "Content-Type: text/x-c", *words, env=state
    )
    assert plain.returncode == 0 and plain.stdout.startswith(f"{url(small)}: 2.0 MiB in ")
    head = small.head("o")
    assert head is not None and head["ContentType"] == "text/x-c"
    missing = command("copy", nginx.url("not-there"), url(small), "-q", *words, env=state)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert command("copy", source, env=state).returncode == 28
    wrong = command("copy", source, url(small), "--checksum", f"crc64nvme:{'0' * 16}", *words, env=state)
    assert wrong.returncode == 32 and small.secret_key not in wrong.stderr


def test_of_rclone_nothing_is_asked_that_it_lacks(rclone: Rclone, kept: Path) -> None:
    store = rclone.store().make_bucket()
    store.put("o", DATA)
    result = copy(url(store), store, "p", checkpoint_dir=kept)
    assert store.get("p") == DATA and result.by in ("store", "relay")


def test_a_directory_that_cannot_be_made_is_told_of(
    small: Store, nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing, file = objects.make(2 * MIB + 5, seed=35), tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(StorageError, match="--checkpoint-dir") as failed:
        copy(nginx.url(thing.name), small, checkpoint_dir=file / "below", part_size="1M")
    assert failed.value.exit_code == 17 and small.list_uploads() == []
