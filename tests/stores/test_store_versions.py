"""Where a store keeps versions of an object, the one that was begun with is fetched to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.storage.checkpoint import read_checkpoint
from fastxfer.storage.directory import Directory
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.proxy import Harm, Proxy
from tests.servers.store import Store
from tests.stores import known, url

MIB = 1 << 20
OLD, NEW = make_bytes(6 * MIB + 11, 1), make_bytes(6 * MIB + 11, 2)


@pytest.fixture(params=["rgw", "seaweedfs"])
def versions(request: pytest.FixtureRequest) -> Store:
    """A new bucket that keeps versions, with the object o."""
    store: Store = request.getfixturevalue(request.param).store().make_bucket()
    store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    store.put("o", OLD)
    return store


def version_of(store: Store) -> str:
    head = store.head("o")
    assert head is not None
    version: str = head["VersionId"]
    return version


def begin(store: Store, out: Path) -> None:
    """Leaves a part of the object at `out`."""
    cut = lambda call, number: Harm(cut_answer=MIB) if number > 0 else None  # noqa: E731
    with Proxy(store, cut) as proxy, pytest.raises(fastxfer.NetworkError) as caught:
        fastxfer.fetch(url(store, "o"), out, 1, retries=0, **known(proxy.store))
    assert caught.value.kept


def go_on(store: Store, out: Path, **options: Any) -> fastxfer.FetchResult:
    return fastxfer.fetch(url(store, "o"), out, **known(store), **options)


def test_a_version_that_is_replaced_meanwhile_is_fetched_to_its_end(versions: Store, tmp_path: Path) -> None:
    first = version_of(versions)

    def replaced(call: Call, number: int) -> Harm | None:
        if number == 1:
            versions.put("o", NEW)
        return None

    with Proxy(versions, replaced) as proxy:
        result = go_on(proxy.store, tmp_path / "o", connections=4, chunk_size="256K")
    assert (tmp_path / "o").read_bytes() == OLD
    assert (result.restarts, result.notes) == (0, ())
    asked = [each.call.query.get("versionId") for each in proxy.calls("GetObject")]
    assert asked[0] is None and set(asked[1:]) == {first}


def test_a_resume_asks_for_the_version_that_was_begun_with(versions: Store, tmp_path: Path) -> None:
    out = tmp_path / "o"
    begin(versions, out)
    directory = Directory.open(tmp_path)
    stored = read_checkpoint(directory, "o.part.ckpt")
    directory.close()
    assert stored is not None and stored[0].identity.version == version_of(versions)
    versions.put("o", NEW)
    result = go_on(versions, out)
    assert result.resumed > 0
    assert out.read_bytes() == OLD
    assert not go_on(versions, out).skipped
    assert out.read_bytes() == NEW


def test_a_version_that_is_gone_is_a_change(versions: Store, tmp_path: Path) -> None:
    out = tmp_path / "o"
    begin(versions, out)
    gone = version_of(versions)
    versions.put("o", NEW)
    versions.client.delete_object(Bucket=versions.bucket, Key="o", VersionId=gone)
    with pytest.raises(fastxfer.RemoteChangedError, match="is gone"):
        go_on(versions, out, on_change="fail")
    result = go_on(versions, out)
    assert (result.restarts, result.resumed) == (1, 0)
    assert out.read_bytes() == NEW


def test_an_object_that_is_deleted_is_not_there(versions: Store, tmp_path: Path) -> None:
    versions.delete("o")
    with pytest.raises(fastxfer.StoreNotFoundError):
        go_on(versions, tmp_path / "o")


def test_without_versions_an_object_that_is_replaced_meanwhile_is_no_mix(
    store: Store, tmp_path: Path
) -> None:
    store.put("o", OLD)

    def replaced(call: Call, number: int) -> Harm | None:
        if call.operation == "GetObject" and number == 1:
            store.put("o", NEW)
        return None

    with Proxy(store, replaced) as proxy:
        result = go_on(proxy.store, tmp_path / "o", connections=4, chunk_size="256K")
    assert (tmp_path / "o").read_bytes() == NEW
    assert result.restarts == 1
