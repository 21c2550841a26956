"""Sets that go to object stores, from real servers to real servers, through here and by the store itself."""

from __future__ import annotations

import json
import os
import threading
import time
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest

from fastxfer.dataset.report import MirrorItem
from fastxfer.sources import store_access
from tests.dataset.to_stores import FOLDERS, ODD, Tree, counts, filled, objects_of, operations, to
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.oss_facade import OssFacade
from tests.servers.proxy import Proxy
from tests.servers.raw import Fault, RangeHandler, RawServer, first
from tests.servers.rgw import Rgw
from tests.servers.store import Store
from tests.stores.copying import of_source
from tests.stores.putting import OSS_PART, S3_PART, url

# ---- from an index ----


def test_an_index_goes_to_each_store(store: Store, web: Tree, state: Path) -> None:
    web.write(ODD)
    with Proxy(store) as proxy:
        first = to(proxy.store, web.url, state)
        assert counts(first) == (300, 0, 0, 0) and first.complete and first.new == 300
        assert first.dest == url(store, "to/here/")
        assert objects_of(store) == ODD
        asked = web.nginx.requests(count=300 + len(FOLDERS))
        assert sum(not each.uri.endswith("/") for each in asked) == 300
        proxy.forget()
        web.nginx.forget()
        again = to(proxy.store, web.url, state)
        assert counts(again) == (0, 300, 0, 0) and again.same == 300
        assert {each.request.method for each in proxy.calls()} == {"GET"}
        assert set(operations(proxy)) <= {"ListObjectsV2", "GET bucket", "ListObjects"}
        assert len(proxy.calls()) <= 3
    assert web.asked() == []
    assert not list(state.rglob("there.db*"))


def test_what_changed_and_what_vanished(weed: Store, web: Tree, state: Path) -> None:
    web.write({f"d/{n}": make_bytes(50, n) for n in range(20)})
    to(weed, web.url, state)
    weed.put("to/here/mine", b"somebody's own")
    weed.put("to/hereabouts", b"of others")
    changed = web.folder / "d/3"
    changed.write_bytes(b"another fifty bytes".ljust(50))
    os.utime(changed, (changed.stat().st_mtime + 10,) * 2)
    (web.folder / "d/4").unlink()
    before = {key: weed.get(key) for key in weed.keys()}  # noqa: SIM118 - it is a method
    told: list[MirrorItem] = []
    dry = to(weed, web.url, state, delete=True, dry_run=True, told=told.append)
    assert {(each.path, each.state) for each in told} == {("d/3", "changed"), ("d/4", "vanished")}
    assert (dry.changed, dry.deleted, dry.bytes) == (1, 1, 50)
    assert {key: weed.get(key) for key in weed.keys()} == before  # noqa: SIM118
    assert counts(to(weed, web.url, state)) == (1, 18, 0, 0)
    assert weed.head("to/here/d/4") is not None
    assert counts(to(weed, web.url, state, delete=True)) == (0, 19, 0, 1)
    assert weed.get("to/here/d/3") == b"another fifty bytes".ljust(50)
    del before["to/here/d/4"]
    assert weed.keys() == sorted(before)
    assert counts(to(weed, web.url, state, delete=True)) == (0, 19, 0, 0)


def test_what_somebody_put_there_is_seen_by_its_etag(store: Store, web: Tree, state: Path) -> None:
    web.write({str(n): make_bytes(50, n) for n in range(10)})
    to(store, web.url, state)
    store.put("to/here/3", b"x" * 50)
    store.delete("to/here/4")
    assert counts(to(store, web.url, state)) == (2, 8, 0, 0)
    assert objects_of(store) == {str(n): make_bytes(50, n) for n in range(10)}


def test_what_somebody_changed_is_not_deleted(weed: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"a", "b": b"b", "c": b"c"})
    to(weed, web.url, state)
    weed.put("to/here/b", b"B")
    for name in "ab":
        (web.folder / name).unlink()
    report = to(weed, web.url, state, delete=True)
    assert (report.deleted, report.left, report.deletions) == (1, 1, ("a",))
    assert objects_of(weed) == {"b": b"B", "c": b"c"}


def test_what_is_changed_while_it_is_to_be_deleted_is_left(weed: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"a", "b": b"b"})
    busy = threading.Event()

    def harm(call: Call, _: int) -> None:
        if call.operation == "HeadObject" and busy.is_set():  # the last look before the deletion
            weed.put("to/here/a", b"A")

    with Proxy(weed, harm) as proxy:
        to(proxy.store, web.url, state)
        (web.folder / "a").unlink()
        busy.set()
        report = to(proxy.store, web.url, state, delete=True)
        assert (report.deleted, report.left) == (0, 0)
        assert [(each.path, each.error) for each in report.failures] == [("a", "RemoteChangedError")]
        assert objects_of(weed) == {"a": b"A", "b": b"b"}
        busy.clear()
        report = to(proxy.store, web.url, state, delete=True)
        assert (report.deleted, report.left) == (0, 1)
        assert operations(proxy)["DeleteObject"] == 0


# ---- from a store ----


def test_s3_to_s3_of_another_server(rgw: Rgw, weed: Store, state: Path) -> None:
    source = rgw.store().make_bucket()
    files = {**ODD, "large": make_bytes(2 * S3_PART + 5, 9)}
    given = {**of_source(source), "part_size": S3_PART}
    where = filled(source, files)
    report = to(weed, where, state, **given)
    assert counts(report) == (301, 0, 0, 0)
    assert objects_of(weed) == files and weed.list_uploads() == []
    with Proxy(weed) as proxy, Proxy(source) as before:
        known = {**given, **of_source(before.store), "endpoint": proxy.store.endpoint}
        # Another ledger has none of it: the ETags, MD5s on both sides, tell of all but what came in parts.
        report = to(weed, where, state, **known)
        assert (report.fetched, report.skipped) == (1, 300)
        before.forget()
        proxy.forget()
        assert counts(to(weed, where, state, **known)) == (0, 301, 0, 0)
        assert {each.request.method for each in [*proxy.calls(), *before.calls()]} == {"GET"}
        assert len(proxy.calls()) <= 3 and len(before.calls()) <= 2


def test_s3_to_oss(rgw: Rgw, oss: OssFacade, state: Path) -> None:
    source, target = rgw.store().make_bucket(), oss.store().make_bucket()
    files = {**dict(list(ODD.items())[:60]), "large": make_bytes(3 * OSS_PART + 5, 9)}
    given = {**of_source(source), "part_size": OSS_PART}
    where = filled(source, files)
    assert counts(to(target, where, state, **given)) == (61, 0, 0, 0)
    assert objects_of(target) == files
    assert counts(to(target, where, state, **given)) == (0, 61, 0, 0)
    source.delete("from/large")
    assert counts(to(target, where, state, delete=True, **given)) == (0, 60, 0, 1)
    del files["large"]
    assert objects_of(target) == files


def test_one_store_copies_by_itself(rgw: Rgw, state: Path) -> None:
    source = rgw.store().make_bucket()
    target = rgw.store().make_bucket()
    files = dict(list(ODD.items())[:30])
    where = filled(source, files)
    with Proxy(target) as proxy:
        assert counts(to(proxy.store, where, state)) == (30, 0, 0, 0)
        assert sum(each.received for each in proxy.calls()) == 0
    assert objects_of(target) == files


def test_what_a_source_teaches_holds_for_all_copies(
    rgw: Rgw, weed: Store, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock here, once for all that are on their way then."""
    make = store_access.StoreAccess.of

    def of_another_time(*args: Any, **kwargs: Any) -> store_access.StoreAccess:
        access = make(*args, **kwargs)
        access._clock = lambda: time.time() - 3 * 3600
        return access

    source = rgw.store().make_bucket()
    files = dict(list(ODD.items())[:60])
    where = filled(source, files)
    monkeypatch.setattr(store_access.StoreAccess, "of", of_another_time)
    with Proxy(source) as proxy:
        assert counts(to(weed, where, state, **of_source(proxy.store), jobs=4)) == (60, 0, 0, 0)
        refused = [each for each in proxy.calls("GetObject") if each.status in (400, 403)]
        assert 1 <= len(refused) <= 4
    assert objects_of(weed) == files


# ---- what the listing says ----


def test_a_digest_is_held_against_what_passes(weed: Store, web: Tree, state: Path, tmp_path: Path) -> None:
    files = {f"f{n}": make_bytes(100, n) for n in range(5)} | {"large": make_bytes(2 << 20, 9)}
    web.write(files)
    sums = tmp_path / "SHA256SUMS"
    wrong = {"f3": b"other bytes"}
    lines = [f"{sha256(wrong.get(name, data)).hexdigest()}  {name}\n" for name, data in files.items()]
    sums.write_text("".join(lines))
    base = web.nginx.url(web.name) + "/"
    report = to(weed, str(sums), state, base_url=base)
    assert counts(report) == (5, 0, 1, 0)
    assert [(each.path, each.error) for each in report.failures] == [("f3", "ChecksumError")]
    del files["f3"]
    assert objects_of(weed) == files
    web.nginx.forget()
    again = to(weed, str(sums), state, base_url=base)
    assert counts(again) == (0, 5, 1, 0)
    assert {each.rpartition("/")[2] for each in web.asked()} == {"f3"}


def test_another_size_than_was_listed_is_not_copied(weed: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"12345", "b": b"1234567"})
    manifest = state.parent / "set.jsonl"
    base = web.nginx.url(web.name) + "/"
    rows = [{"url": base + "a", "path": "a", "size": 5}, {"url": base + "b", "path": "b", "size": 6}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = to(weed, str(manifest), state)
    assert [(each.path, each.error) for each in report.failures] == [("b", "RemoteChangedError")]
    assert objects_of(weed) == {"a": b"12345"}


def test_a_mirror_helps_where_the_first_url_fails(weed: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"12345"})
    base = web.nginx.url(web.name) + "/"
    manifest = state.parent / "set.jsonl"
    row = {"url": base + "gone", "mirrors": [base + "a"], "path": "x", "size": 5}
    manifest.write_text(json.dumps(row) + "\n")
    assert counts(to(weed, str(manifest), state)) == (1, 0, 0, 0)
    assert objects_of(weed) == {"x": b"12345"}


DATA = make_bytes(70_000, 5)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (RangeHandler(DATA), 1),
        (RangeHandler(DATA, ranges=False), 1),
        (RangeHandler(DATA, faults=first(1, Fault(cut_after=5000))), 3),
        (RangeHandler(DATA, faults=first(1, Fault(status=503))), 3),
        (RangeHandler(DATA, ranges=False, faults=first(1, Fault(cut_after=5000, reset=True))), None),
    ],
    ids=["at once", "without ranges", "cut off", "busy", "cut off without ranges"],
)
def test_a_small_object_comes_at_once_or_as_any_other(
    weed: Store, state: Path, source: RangeHandler, asked: int | None
) -> None:
    with RawServer(source) as server:
        manifest = state.parent / "set.jsonl"
        row = {"url": server.url("/x"), "path": "x", "size": len(DATA)}
        manifest.write_text(json.dumps({**row, "checksum": f"md5:{md5(DATA).hexdigest()}"}) + "\n")
        assert counts(to(weed, str(manifest), state)) == (1, 0, 0, 0)
        assert asked in (None, len(server.requests))
    assert objects_of(weed) == {"x": DATA}


def test_a_mirror_of_another_origin_and_the_store_are_told_no_secrets(weed: Store, state: Path) -> None:
    secrets: dict[str, Any] = {"auth": "me:canary", "headers": {"X-Mine": "canary"}}
    broken = RangeHandler(DATA, faults=lambda request: Fault(status=404))
    with RawServer(broken) as first_one, RawServer(RangeHandler(DATA)) as other, Proxy(weed) as proxy:
        manifest = state.parent / "set.jsonl"
        row = {"url": first_one.url("/x"), "mirrors": [other.url("/x")], "path": "x", "size": len(DATA)}
        manifest.write_text(json.dumps(row) + "\n")
        assert counts(to(proxy.store, str(manifest), state, **secrets)) == (1, 0, 0, 0)
        assert all(each.headers["x-mine"] == "canary" for each in first_one.requests)
        assert other.requests and proxy.calls()
        for each in [*other.requests, *(call.request for call in proxy.calls())]:
            assert "x-mine" not in each.headers
            assert not each.headers.get("authorization", "").startswith("Basic")
    assert objects_of(weed) == {"x": DATA}
