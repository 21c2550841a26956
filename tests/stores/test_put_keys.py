"""Keys of any letters, users without permission, and the uploads that were left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import OptionError, StoreAuthError
from tests.servers.gateway import Call
from tests.servers.proxy import Harm, Proxy
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.putting import least, left_beside, make_file, options, put, url

KEYS = [
    " a b+c%d&e?f=#g ",
    "ü/日本.bin",
    "x!'()*~,;:@$<>\"[]{}|^`",
    "%2e%2e/%00",
    ".../o",
    "uploads",
    "/".join(["k" * 200] * 5),
]
# A server that keeps keys as files' names has none of these.
PATHS = ["a//b", "./dot/../o", "/o", "../../o", "dir/.", "back\\slash"]


def both_ways(store: Store, tmp_path: Path, key: str) -> None:
    """Uploads to a key in one request and in parts."""
    for size, name in ((1000, "small"), (2 * least(store) + 1, "large")):
        path, data = make_file(tmp_path, size, name=name)
        result = put(store, path, key)
        assert store.get(key) == data
        assert result.url == url(store, key)
        assert store.kind == "rclone" or store.list_uploads() == []
    assert store.keys() == [key]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_may_be_any_text(store: Store, tmp_path: Path, key: str) -> None:
    both_ways(store, tmp_path, key)


@pytest.mark.parametrize("name", ["rgw", "oss"])
@pytest.mark.parametrize("key", PATHS)
def test_a_key_may_look_like_a_path(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, key: str
) -> None:
    both_ways(request.getfixturevalue(name).store().make_bucket(), tmp_path, key)


@pytest.mark.parametrize("key", ["tab\t", "new\nline", "\x00", "\x7f", "\ud800"])
def test_a_key_that_no_url_holds_is_refused(small: Store, tmp_path: Path, key: str) -> None:
    path, _ = make_file(tmp_path, 10)
    with pytest.raises(OptionError):
        put(small, path, key)


# ---- who may not ----


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["rgw", "seaweedfs", "oss"])
def test_a_stranger_may_not(name: str, parts: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    assert store.stranger is not None
    stranger = f"{store.stranger.access_key}:{store.stranger.secret_key}"
    path, _ = make_file(tmp_path, parts * least(store))
    with pytest.raises(StoreAuthError) as refused:
        put(store, path, credentials=stranger)
    error = refused.value
    assert (error.code, error.status, error.exit_code, error.kept) == ("AccessDenied", 403, 24, None)
    assert error.request_id and error.request_id in str(error)
    assert left_beside(path) == [] and store.keys() == []


# ---- what was left behind ----


def known(store: Store) -> dict[str, Any]:
    return {name: value for name, value in options(store).items() if name != "stall_timeout"}


def begin(store: Store, *keys: str) -> dict[str, str]:
    """Begins uploads; returns their ids by key."""
    made = {}
    for key in keys:
        made[key] = store.begin(key)
        store.put_part(key, made[key], 1, b"x" * 10)
    return made


ODD = ("a b+c%&?#<>", "ü/日本", "dir/1", "dir/2", "dis")


@pytest.mark.parametrize("name", ["rgw", "seaweedfs", "oss"])
def test_uploads_are_listed_and_aborted(name: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    begun = begin(store, *ODD)
    found = fastxfer.list_uploads(url(store, ""), **known(store))
    assert {each.url: each.upload_id for each in found} == {url(store, k): i for k, i in begun.items()}
    assert all(each.initiated for each in found)
    below = fastxfer.list_uploads(url(store, "dir/"), **known(store))
    assert [each.url for each in below] == [url(store, "dir/1"), url(store, "dir/2")]
    one = fastxfer.abort_uploads(url(store, "di"), upload_id=begun["dir/2"], **known(store))
    assert [each.url for each in one] == [url(store, "dir/2")]
    ended = fastxfer.abort_uploads(url(store, "dir/"), **known(store))
    assert [each.upload_id for each in ended] == [begun["dir/1"]]
    assert sorted(key for key, _ in store.list_uploads()) == sorted((ODD[0], ODD[1], "dis"))
    assert len(fastxfer.abort_uploads(url(store, ""), **known(store))) == 3
    assert store.list_uploads() == []


def test_a_long_list_of_uploads_comes_in_pages(seaweedfs: SeaweedFs) -> None:
    store = seaweedfs.store().make_bucket()
    begun = {store.begin(f"k{number % 3}") for number in range(1010)}
    found = fastxfer.list_uploads(url(store, "k"), **known(store))
    assert {each.upload_id for each in found} == begun and len(found) == len(begun)


def test_what_is_refused_is_told(small: Store) -> None:
    denied = b"<Error><Code>AccessDenied</Code><RequestId>req-9</RequestId></Error>"
    upload_id = small.begin("o")

    def harm(call: Call, _: int) -> Harm | None:
        return Harm(status=403, body=denied) if call.operation == "AbortMultipartUpload" else None

    with Proxy(small, harm) as proxy, pytest.raises(StoreAuthError, match="cannot abort") as refused:
        fastxfer.abort_uploads(url(small, "o"), **known(proxy.store))
    assert refused.value.request_id == "req-9"
    assert small.list_uploads() == [("o", upload_id)]
