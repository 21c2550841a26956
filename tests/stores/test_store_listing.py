"""The objects of real stores as a source: listed page by page, gone on with after a kill, of any key."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.dataset.compare import By, Known, Local, Verdict, compare
from fastxfer.dataset.entries import Entry
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Ledger, Page, Place
from fastxfer.dataset.listing import walk
from fastxfer.dataset.store_listing import StoreLister
from fastxfer.errors import BadResponseError, OptionError, StoreAuthError, StoreError, StoreNotFoundError
from tests.dataset.sets import Cut
from tests.servers.gateway import Call
from tests.servers.proxy import SLOW_DOWN, Exchange, Harm, Proxy
from tests.servers.raw import Connection, RawServer, Request
from tests.servers.rgw import Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores import known, url

LIST = "GET bucket"
INVALID_TOKEN = b"<Error><Code>InvalidArgument</Code><Message>The token has expired.</Message></Error>"


def lister(store: Store, prefix: str = "", **more: Any) -> StoreLister:
    keep = {name: more.pop(name) for name in ("filters", "stopped", "max_keys") if name in more}
    return StoreLister(url(store, prefix), {**known(store), **more}, **keep)


def pages(source: StoreLister, cursor: str | None = None) -> list[Page]:
    return list(source.list(Place(1, source.root, 0, cursor)))


def entries(source: StoreLister) -> dict[str, Entry]:
    found = [entry for page in pages(source) for entry in page.entries]
    assert len({entry.path for entry in found}) == len(found)
    return {entry.path: entry for entry in found}


def refused(source: StoreLister) -> set[str]:
    return {each.name for page in pages(source) for each in page.refused}


def fill(store: Store, keys: Sequence[str]) -> None:
    """Puts an object at each key that has as many bytes as its place in the list tells."""
    put = [(key, b"x" * (number % 7)) for number, key in enumerate(keys)]
    store.put(*put[0])  # alone: rclone's server fails when two make the same folder at once
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pair: store.put(*pair), put[1:]))


def tokens(exchanges: Sequence[Exchange]) -> list[str]:
    """Returns the tokens that were asked with, "" for none."""
    return [each.call.query.get("continuation-token", "") for each in exchanges]


# ---- what is there ----


def test_a_bucket_is_listed_page_by_page(store: Store) -> None:
    keys = [f"d{n % 3}/e/f{n:03}" for n in range(120)] + ["top", "z"]
    fill(store, keys)
    with Proxy(store) as proxy:
        found = entries(lister(proxy.store, max_keys=50))
        assert len(proxy.calls(LIST, count=3)) == 3
    assert {path: entry.size for path, entry in found.items()} == {
        key: number % 7 for number, key in enumerate(keys)
    }
    assert found["top"].url == url(store, "top")


def test_what_is_listed_is_what_a_fetch_brings(store: Store, tmp_path: Path) -> None:
    store.put("d/o", b"bytes")
    entry = entries(lister(store))["d/o"]
    result = fastxfer.fetch(entry.url, tmp_path / "o", **known(store))
    there = (tmp_path / "o").stat()
    assert result.last_modified is not None and entry.etag is not None and entry.etag.startswith('"')
    modified = parsedate_to_datetime(result.last_modified).timestamp()
    have = Known(there.st_size, there.st_mtime_ns, result.etag, modified)
    local = Local(there.st_size, there.st_mtime_ns)
    for by in (By.AUTO, By.ETAG, By.TIME, By.SIZE):
        assert compare(entry, have, local, by).verdict is Verdict.SAME, by
    assert compare(entry, None, local, By.TIME).verdict is Verdict.SAME
    store.put("d/o", b"other")
    changed = entries(lister(store))["d/o"]
    assert compare(changed, have, local).verdict is Verdict.CHANGED


def test_an_object_in_parts_has_the_etag_that_a_fetch_brings(store: Store, tmp_path: Path) -> None:
    upload_id = store.begin("o")
    parts = [store.put_part("o", upload_id, number, b"x" * (5 << 20)) for number in (1, 2)]
    store.complete("o", upload_id, parts)
    entry = entries(lister(store))["o"]
    result = fastxfer.fetch(entry.url, tmp_path / "o", **known(store))
    there = (tmp_path / "o").stat()
    have, local = (
        Known(there.st_size, there.st_mtime_ns, result.etag),
        Local(there.st_size, there.st_mtime_ns),
    )
    assert compare(entry, have, local, By.ETAG).verdict is Verdict.SAME


SAFE = [
    "a b+c%d&e=#g", "a+b", "a%20b", "a%2Bb c", "ü/日本.bin", "x!'()~,;@$[]{}^`", "uploads",
    "/".join(["k" * 200] * 4), "<&>.xml", "~a", "-a", " a", "q?",
]  # fmt: skip
UNSAFE = ["a ", "%2e%2e/%00", ".../o", "con", "a:b", "k" * 250, ".fastxfer/x"]
# A server that keeps keys as files' names has none of these.
PATHS = ["a//b", "./dot", "/o", "../../o", "dir/.", "back\\slash"]


def test_a_key_of_odd_letters_is_an_entry_and_a_key_that_is_no_safe_path_is_named(
    store: Store, tmp_path: Path
) -> None:
    fill(store, [*SAFE, *UNSAFE])
    source = lister(store, max_keys=3)
    found = entries(source)
    assert found.keys() == set(SAFE) and refused(source) == set(UNSAFE)
    for key in SAFE:
        fastxfer.fetch(found[key].url, tmp_path / "o", exists="replace", **known(store))
        assert (tmp_path / "o").read_bytes() == store.get(key)


@pytest.mark.parametrize("name", ["rgw", "oss"])
def test_a_key_that_leads_elsewhere_is_named_and_no_entry(name: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    fill(store, [*PATHS, "a/good"])
    source = lister(store, max_keys=2)
    assert entries(source).keys() == {"a/good"}
    assert refused(source) == set(PATHS)


def test_a_key_that_xml_cannot_hold_is_named_and_the_others_are_listed(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    keys = ["a b", "bell\x07", "bell\x07+%41 b", "c+%41 d", "tab\t", "return\r", "ü"]
    fill(store, keys)
    for max_keys in (3, 1000):
        source = lister(store, max_keys=max_keys)
        assert entries(source).keys() == {"a b", "c+%41 d", "ü"}
        assert refused(source) == {"bell\x07", "bell\x07+%41 b", "tab\t", "return\r"}


def test_what_stands_for_a_folder_is_passed_over(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    for key, data in {"d/": b"", "d/e/": b"", "d/e/f": b"1", "d/g/": b"bytes"}.items():
        store.put(key, data)
    source = lister(store, "d")
    assert entries(source).keys() == {"e/f"}
    assert refused(source) == {"g/"}


# ---- prefixes ----


def test_a_prefix_is_one_object_or_a_folder(store: Store) -> None:
    fill(store, ["d/pre-x/o", "d/pre/a", "d/pre/b/c", "d/pre2", "d/one", "d/one.bin", "top"])
    assert entries(lister(store, "d/pre")).keys() == {"a", "b/c"}
    assert entries(lister(store, "d/pre/")).keys() == {"a", "b/c"}
    (one,) = entries(lister(store, "d/one")).items()
    assert one[0] == "one" and one[1].url == url(store, "d/one") and one[1].size == 4
    assert entries(lister(store, "top")).keys() == {"top"}
    assert entries(lister(store, "d/on")) == {}
    assert len(entries(lister(store))) == 7


def test_a_key_beside_a_folder_of_its_name_is_that_object(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    fill(store, ["d/o", "d/o/below"])
    assert entries(lister(store, "d/o")).keys() == {"o"}
    assert entries(lister(store, "d/o/")).keys() == {"below"}


def test_filters_keep_names_that_are_not_wanted_out_of_what_is_refused(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    fill(store, ["tmp//x", "data//x", "data/y"])
    source = lister(store, filters=Filters(exclude=["/tmp/"]))
    assert refused(source) == {"data//x"}


def test_what_is_no_place_of_a_store_is_refused(rgw: Rgw) -> None:
    for bad in ("s3://", "s3://b@d/x", "s3://bucket/a\x00b", "http://bucket/x"):
        with pytest.raises(OptionError):
            StoreLister(bad, known(rgw.store()))
    with pytest.raises(OptionError, match="OSS needs to know where"):
        StoreLister("oss://bucket/x", {})


def test_the_same_bucket_elsewhere_is_another_source() -> None:
    at = [StoreLister("s3://b/d", {"endpoint": end}).source for end in ("http://one:1", "http://two:1")]
    assert at == ["s3://b/d at http://one:1", "s3://b/d at http://two:1"]
    assert StoreLister("s3://b/d", {"region": "eu-west-1"}).source == "s3://b/d"


# ---- who may ----


def test_who_may_not_list_is_told_so(rgw: Rgw, seaweedfs: SeaweedFs) -> None:
    for store in (rgw.store().make_bucket(), seaweedfs.store().make_bucket()):
        wrong = f"{store.access_key}:not-the-secret"
        with pytest.raises(StoreAuthError) as refusal:
            pages(lister(store, credentials=wrong))
        assert refusal.value.code == "SignatureDoesNotMatch" and "cannot list" in str(refusal.value)
        assert store.stranger is not None
        stranger = f"{store.stranger.access_key}:{store.stranger.secret_key}"
        with pytest.raises(StoreAuthError) as refusal:
            pages(lister(store, credentials=stranger))
        assert (refusal.value.code, refusal.value.exit_code) == ("AccessDenied", 24)


def test_a_public_bucket_is_listed_without_a_signature(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    store.put("o", b"1")
    nobody = StoreLister(url(store, ""), {"endpoint": store.endpoint, "anonymous": True})
    with pytest.raises(StoreAuthError):
        pages(nobody)
    store.client.put_bucket_acl(Bucket=store.bucket, ACL="public-read")
    assert entries(nobody).keys() == {"o"}


def test_a_bucket_that_is_not_there_is_told(store: Store) -> None:
    name = "oss" if store.kind == "oss" else "s3"
    with pytest.raises(StoreNotFoundError) as absent:
        pages(StoreLister(f"{name}://no-such-bucket-here/x/", known(store)))
    assert absent.value.code == "NoSuchBucket"


# ---- cut off, gone on with ----


@pytest.fixture(scope="module")
def many(rgw: Rgw) -> Store:
    """A bucket with 2,500 objects."""
    store = rgw.store().make_bucket()
    fill(store, MANY)
    return store


MANY = [f"set/d{number % 5}/f{number:04}" for number in range(2500)]

LISTS = """
import json, sys
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.listing import walk
from fastxfer.dataset.store_listing import StoreLister

with Ledger(sys.argv[2]) as ledger:
    walk(ledger, StoreLister(sys.argv[1], json.loads(sys.argv[3]), max_keys=100))
"""


def test_a_listing_that_is_killed_asks_for_no_earlier_page_again(many: Store, tmp_path: Path) -> None:
    hold, reached = threading.Event(), threading.Event()

    def harm(call: Call, number: int) -> Harm | None:
        if number < 11 or hold.is_set():
            return None
        reached.set()
        return Harm(hold=hold)

    with Proxy(many, harm) as proxy:
        proxy.hold(hold)
        given = json.dumps({**known(proxy.store)})
        command = [sys.executable, "-c", LISTS, url(many, "set/"), str(tmp_path), given]
        with subprocess.Popen(command) as child:
            assert reached.wait(60)
            child.send_signal(signal.SIGKILL)
        before = tokens(proxy.calls(LIST, count=11))
        assert len(before) == 11 and before[0] == ""
        hold.set()
        proxy.calls(LIST, count=12)
        proxy.forget()
        with Ledger(tmp_path) as ledger:
            recorded, rest = divmod(len(list(ledger.steps())), 100)
            assert 0 < recorded <= 11 and rest == 0
            assert walk(ledger, lister(proxy.store, "set/", max_keys=100))
            after = tokens(proxy.calls(LIST, count=25 - recorded))
            assert len(after) == 25 - recorded and not set(after) & set(before[:recorded])
            paths = [step.entry.path for step in ledger.steps()]
            assert sorted(paths) == sorted(key.removeprefix("set/") for key in MANY)


def test_a_listing_goes_on_from_the_stores_own_token(store: Store, tmp_path: Path) -> None:
    keys = [f"a b+/{n:02}" for n in range(30)]
    fill(store, keys)
    with Proxy(store) as proxy, Ledger(tmp_path) as ledger:
        assert not walk(ledger, Cut(lister(proxy.store, max_keys=4), 3))
        first = tokens(proxy.calls(LIST, count=3))
        proxy.forget()
        assert walk(ledger, lister(proxy.store, max_keys=4))
        second = tokens(proxy.calls(LIST, count=5))
        assert len(first) == 3 and len(second) == 5 and "" not in second and not set(first) & set(second)
        assert [step.entry.path for step in ledger.steps()] == keys


def test_a_token_that_has_expired_begins_the_listing_anew(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    keys = [f"{n:02}" for n in range(20)]
    fill(store, keys)
    expired = threading.Event()

    def harm(call: Call, _: int) -> Harm | None:
        if not call.query.get("continuation-token") or not expired.is_set():
            return None
        expired.clear()
        return Harm(status=400, body=INVALID_TOKEN)

    with Proxy(store, harm) as proxy, Ledger(tmp_path) as ledger:
        assert not walk(ledger, Cut(lister(proxy.store, max_keys=6), 2))
        expired.set()
        proxy.forget()
        assert walk(ledger, lister(proxy.store, max_keys=6))
        assert [bool(token) for token in tokens(proxy.calls(LIST, count=5))] == [
            True,
            False,
            True,
            True,
            True,
        ]
        assert [step.entry.path for step in ledger.steps()] == keys


def test_a_store_that_takes_no_token_at_all_is_told_so(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    fill(store, ["a", "b", "c"])

    def harm(call: Call, _: int) -> Harm | None:
        return Harm(status=400, body=INVALID_TOKEN) if call.query.get("continuation-token") else None

    with Proxy(store, harm) as proxy, pytest.raises(StoreError, match="token has expired"):
        pages(lister(proxy.store, max_keys=1))


def test_a_token_that_no_store_made_is_told_or_begins_anew(store: Store) -> None:
    fill(store, ["a", "b", "c"])
    for page in pages(lister(store), '"!!"'):
        assert {entry.path for entry in page.entries} <= {"a", "b", "c"}


def test_a_bad_moment_is_waited_for(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    fill(store, ["a", "b", "c"])

    def harm(call: Call, number: int) -> Harm | None:
        return {1: Harm(status=503, body=SLOW_DOWN), 2: Harm(cut_answer=40)}.get(number)

    with Proxy(store, harm) as proxy:
        assert entries(lister(proxy.store, max_keys=1)).keys() == {"a", "b", "c"}


# ---- hostile stores ----


def a_page(keys: str, token: str) -> bytes:
    inner = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    return f"<ListBucketResult>{inner}{more}</ListBucketResult>".encode()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_list_that_leads_back_ends(length: int) -> None:
    asked: list[str] = []

    def handler(request: Request, connection: Connection) -> None:
        asked.append(request.target)
        connection.respond(200, {}, a_page("a", f"t{len(asked) % length}"))

    with RawServer(handler) as server:
        source = StoreLister("s3://bucket/", {"endpoint": server.url("/").rstrip("/"), "anonymous": True})
        with pytest.raises(BadResponseError, match="leads back"):
            pages(source)
    assert len(asked) < 4 * length + 4


def test_a_list_without_end_ends_when_it_is_stopped(tmp_path: Path) -> None:
    stopped, count = threading.Event(), 0

    def handler(request: Request, connection: Connection) -> None:
        nonlocal count
        count += 1
        if count == 20:
            stopped.set()
        connection.respond(200, {}, a_page("a", f"t{count}"))

    with RawServer(handler) as server, Ledger(tmp_path) as ledger:
        given = {"endpoint": server.url("/").rstrip("/"), "anonymous": True}
        with pytest.raises(fastxfer.InterruptedTransferError, match="the listing was stopped"):
            walk(ledger, StoreLister("s3://bucket/", given, stopped=stopped), stopped=stopped)
        assert list(ledger.failures()) == [] and not ledger.complete
