"""Many small objects of a store: one signed GET each, and what one of them learns holds for all."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import Crc64Nvme, crc64nvme
from fastxfer.errors import FastxferError
from fastxfer.small import Fetched, Wanted
from fastxfer.sources import store_access
from fastxfer.sources.credentials import Credentials
from tests.servers.gateway import Call
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.proxy import SLOW_DOWN, Harm, Proxy
from tests.servers.rgw import Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.small.fetching import SIZES, fetch, files_below
from tests.stores import known, url
from tests.stores.expiring import Keys, expired

COUNT = 40
BYTES = make_bytes(COUNT + max(SIZES), 3)
Outcomes = tuple[dict[str, Fetched], dict[str, FastxferError]]


def fill(store: Store, count: int = COUNT) -> dict[str, bytes]:
    """Puts objects of many sizes into a bucket, below set/; returns them by what follows."""
    made = {}
    for number in range(count):
        data = bytes(BYTES[number : number + SIZES[number % len(SIZES)]])
        made[f"{number % 3}/o {number}.bin"] = data
        store.put(f"set/{number % 3}/o {number}.bin", data)
    return made


def wanted_of(store: Store, objects: Mapping[str, bytes]) -> Iterable[Wanted]:
    return (Wanted(url(store, f"set/{name}"), name, len(data)) for name, data in objects.items())


def run(store: Store, root: Path, objects: Mapping[str, bytes], **options: Any) -> Outcomes:
    return fetch(root, wanted_of(store, objects), **{**known(store), **options})


def asked(proxy: Proxy) -> list[str]:
    """Returns what was asked for, as method and key."""
    return [f"{each.request.method} {each.call.key}" for each in proxy.calls()]


def test_each_comes_by_one_request(store: Store, root: Path) -> None:
    objects = fill(store)
    with Proxy(store) as proxy:
        came, failed = run(proxy.store, root, objects)
    assert failed == {}
    assert files_below(root) == objects
    assert all(each.crc64 == crc64nvme(objects[name]) for name, each in came.items())
    assert all(each.etag and each.last_modified for each in came.values())
    assert sorted(asked(proxy)) == sorted(f"GET set/{name}" for name in objects)
    assert {each.request.range for each in proxy.calls()} == {""}


def test_what_is_there_already_is_known_again(store: Store, root: Path) -> None:
    objects = fill(store, 6)
    run(store, root, objects)
    came, _ = run(store, root, objects)
    assert all(each.skipped for each in came.values()) and len(came) == 6


@pytest.mark.parametrize("key", ["a b+c%d&e?f=#g", "ü/日本.bin", "x!'()*~,;:@$", "%2e%2e"])
def test_a_key_may_be_any_text(store: Store, root: Path, key: str) -> None:
    store.put(key, b"some bytes")
    _, failed = fetch(root, [Wanted(url(store, key), "o", 10)], **known(store))
    assert failed == {}
    assert files_below(root) == {"o": b"some bytes"}


@pytest.mark.parametrize(
    ("name", "verified"), [("rgw", "none"), ("seaweedfs", "server"), ("rclone", "server"), ("oss", "server")]
)
def test_the_checksum_that_a_store_tells_is_held_against_the_bytes(
    request: pytest.FixtureRequest, root: Path, name: str, verified: str
) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    crc = Crc64Nvme()
    crc.update(b"right")
    told = base64.b64encode(bytes.fromhex(crc.hexdigest())).decode()
    store.put("set/o", b"right", **({} if store.kind == "oss" else {"ChecksumCRC64NVME": told}))
    came, _ = run(store, root, {"o": b"right"})
    assert came["o"].verified == verified
    given = fetch(root, [Wanted(url(store, "set/o"), "p", 5, f"crc64nvme:{crc.hexdigest()}")], **known(store))
    assert given[0]["p"].verified == "checksum"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, b"other"),
        ({"x-amz-checksum-crc32c": "AAAAAA=="}, b"other"),
    ],
)
def test_other_bytes_than_the_store_says_are_none_of_it(
    rgw: Rgw, root: Path, fields: dict[str, str], body: bytes
) -> None:
    store = rgw.store().make_bucket()
    objects = fill(store, 4)
    bad = next(iter(objects))

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=200, fields=fields, body=body) if call.key == f"set/{bad}" else None

    with Proxy(store, harm) as proxy:
        wanted = [Wanted(url(proxy.store, f"set/{name}"), name) for name in objects]
        _, failed = fetch(root, wanted, **known(proxy.store))
    assert set(failed) == {bad}
    assert isinstance(failed[bad], fastxfer.ChecksumError)
    assert files_below(root) == {name: data for name, data in objects.items() if name != bad}


# ---- refusals ----


def test_what_a_store_refuses_is_its_own_error_and_the_rest_comes(store: Store, root: Path) -> None:
    objects = fill(store, 6)
    _, failed = run(store, root, {**objects, "missing": b"x"})
    assert set(failed) == {"missing"}
    error = failed["missing"]
    assert isinstance(error, fastxfer.StoreNotFoundError)
    assert error.code == "NoSuchKey"
    assert f"cannot fetch {url(store, 'set/missing')}" in error.message
    assert files_below(root) == objects


def test_a_request_id_is_told(rgw: Rgw, root: Path) -> None:
    store = rgw.store().make_bucket()
    _, failed = run(store, root, {"missing": b"x"})
    error = failed["missing"]
    assert isinstance(error, fastxfer.StoreError) and error.request_id


def test_a_wrong_secret_is_refused_for_each(store: Store, root: Path) -> None:
    objects = fill(store, 6)
    wrong = Credentials(store.access_key, "wrong")
    with Proxy(store) as proxy:
        came, failed = run(proxy.store, root, objects, credentials=wrong)
    assert came == {}
    assert set(failed) == set(objects)
    assert all(isinstance(error, fastxfer.StoreAuthError) for error in failed.values())
    assert len(asked(proxy)) == len(objects)


def test_a_store_that_is_overloaded_is_asked_later(store: Store, root: Path) -> None:
    objects = fill(store)

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=503, body=SLOW_DOWN) if call.key.endswith(" 1.bin") and not number else None

    with Proxy(store, harm) as proxy:
        _, failed = run(proxy.store, root, objects)
    assert failed == {}
    assert files_below(root) == objects


def test_a_redirect_is_not_followed(rgw: Rgw, root: Path) -> None:
    store = rgw.store().make_bucket()
    with Proxy(store) as other:
        away = {"Location": f"{other.store.endpoint}/{store.bucket}/set/o"}
        with Proxy(store, lambda call, number: Harm(status=307, fields=away)) as proxy:
            _, failed = run(proxy.store, root, {"o": b"x"})
        assert isinstance(failed["o"], fastxfer.StoreError) and failed["o"].status == 307
        assert other.calls() == []


@pytest.mark.parametrize("hours", [-5, 3])
def test_a_wrong_clock_is_learned_once_for_all(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    make = store_access.StoreAccess.of

    def of_another_time(*args: Any, **kwargs: Any) -> store_access.StoreAccess:
        access = make(*args, **kwargs)
        access._clock = lambda: time.time() + hours * 3600
        return access

    objects = fill(store)
    monkeypatch.setattr(store_access.StoreAccess, "of", of_another_time)
    with Proxy(store) as proxy:
        _, failed = run(proxy.store, root, objects, connections=4)
    assert failed == {}
    assert files_below(root) == objects
    refused = [each for each in proxy.calls("GetObject") if each.status in (400, 403)]
    assert 1 <= len(refused) <= 4


# ---- credentials ----


def test_credentials_that_expire_in_mid_way_are_renewed_once_for_all(store: Store, root: Path) -> None:
    objects, keys = fill(store), Keys(store)
    seen = threading.Semaphore(COUNT // 2)

    def harm(call: Call, number: int) -> Harm | None:
        return expired(store) if keys.asked == 1 and not seen.acquire(blocking=False) else None

    with Proxy(store, harm) as proxy:
        _, failed = run(proxy.store, root, objects, credentials=keys, connections=4)
    assert failed == {}
    assert files_below(root) == objects
    assert keys.asked == 2
    refused = [each for each in proxy.calls("GetObject") if each.status in (400, 403)]
    assert 1 <= len(refused) <= 4


def test_credentials_that_stay_expired_end_what_is_left(store: Store, root: Path) -> None:
    objects, keys = fill(store), Keys(store)
    seen = threading.Semaphore(COUNT // 2)
    harm = lambda call, number: None if seen.acquire(blocking=False) else expired(store)  # noqa: E731
    with Proxy(store, harm) as proxy:
        came, failed = run(proxy.store, root, objects, credentials=keys, connections=4)
    assert len(came) == COUNT // 2
    assert files_below(root) == {name: objects[name] for name in came}
    assert all(isinstance(error, fastxfer.StoreAuthError) for error in failed.values())
    assert keys.asked <= 1 + store_access.LESSONS


def test_credentials_that_cannot_be_renewed_end_what_waits_for_them(store: Store, root: Path) -> None:
    objects, asks = fill(store), []

    def keys() -> Credentials:
        asks.append(1)
        if len(asks) > 1:
            raise RuntimeError("the vault is closed")
        return Credentials(store.access_key, store.secret_key, expires=time.time() + 3600)

    seen = threading.Semaphore(COUNT // 2)
    harm = lambda call, number: None if seen.acquire(blocking=False) else expired(store)  # noqa: E731
    with Proxy(store, harm) as proxy:
        came, failed = run(proxy.store, root, objects, credentials=keys, connections=4)
    assert len(came) + len(failed) == COUNT
    assert len(came) == COUNT // 2
    assert all(isinstance(error, fastxfer.AuthError) for error in failed.values())


def test_without_any_credentials_nothing_is_asked(
    rgw: Rgw, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = rgw.store().make_bucket()
    objects = fill(store, 5)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Proxy(store) as proxy:
        wanted = wanted_of(store, objects)
        came, failed = fetch(root, wanted, endpoint=proxy.store.endpoint)
    assert came == {}
    assert set(failed) == set(objects)
    assert all(isinstance(error, fastxfer.CredentialsError) for error in failed.values())
    assert proxy.calls() == []


# ---- with others ----


def test_a_store_and_a_web_server_are_each_others_mirrors(
    nginx: Nginx, objects: Objects, rgw: Rgw, root: Path
) -> None:
    store = rgw.store().make_bucket()
    store.put("set/o", BYTES)
    here, there = nginx.url(objects.put("mirror-of-a-store.bin", BYTES).name), url(store, "set/o")
    wanted = [
        Wanted(nginx.url("never-there-of-a-store"), "from-store", mirrors=(there,)),
        Wanted(url(store, "set/missing"), "from-web", mirrors=(here,)),
    ]
    _, failed = fetch(root, wanted, **known(store))
    assert failed == {}
    assert files_below(root) == {"from-store": BYTES, "from-web": BYTES}


def test_what_turns_out_to_be_large_is_a_download(seaweedfs: SeaweedFs, root: Path) -> None:
    store = seaweedfs.store().make_bucket()
    data = make_bytes(300_000, 4)
    store.put("set/o", data)
    came, failed = fetch(root, [Wanted(url(store, "set/o"), "o")], small_bytes=100_000, **known(store))
    assert failed == {}
    assert (files_below(root), came["o"].size) == ({"o": data}, len(data))
