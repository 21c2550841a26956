"""Fetches from real object stores: every call that takes a URL takes one of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastxfer
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.proxy import Harm, Proxy
from tests.servers.rgw import Rgw
from tests.servers.store import Store
from tests.stores import known, url

MIB = 1 << 20
DATA = make_bytes(6 * MIB + 11, 2)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 12 * MIB + 3])
def test_an_object_comes_whole(store: Store, tmp_path: Path, size: int) -> None:
    data = make_bytes(size, 7)
    store.put("dir/o.bin", data)
    result = fastxfer.fetch(url(store, "dir/o.bin"), tmp_path / "o", 4, **known(store))
    assert (tmp_path / "o").read_bytes() == data
    assert (result.size, result.transferred, result.url) == (size, size, url(store, "dir/o.bin"))


KEYS = ["a b+c%d&e?f=#g", "ü/日本.bin", "x!'()*~,;:@$", "%2e%2e", ".../o"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_may_be_any_text(store: Store, tmp_path: Path, key: str) -> None:
    data = make_bytes(3000, 5)
    store.put(key, data)
    result = fastxfer.fetch(url(store, key), tmp_path / "o", **known(store))
    assert (tmp_path / "o").read_bytes() == data
    assert result.url == url(store, key)


def test_an_object_that_is_kept_coded_comes_as_it_is_kept(store: Store, tmp_path: Path) -> None:
    """A Content-Encoding is what somebody said of it, and no work of the store's."""
    store.put("o", DATA, ContentEncoding="gzip")
    store.put("set/small", DATA[:1000], ContentEncoding="gzip")
    fastxfer.fetch(url(store, "o"), tmp_path / "o", 4, **known(store))
    assert (tmp_path / "o").read_bytes() == DATA
    assert fastxfer.probe(url(store, "o"), **known(store)).size == len(DATA)
    with fastxfer.open(url(store, "o"), **known(store)) as file:
        assert file.read(1000) == DATA[:1000]
    fastxfer.mirror(url(store, "set/"), tmp_path / "set", **known(store))
    assert (tmp_path / "set/small").read_bytes() == DATA[:1000]


@pytest.mark.parametrize("name", ["rgw", "oss"])
@pytest.mark.parametrize("key", ["a//b", "./dot/../o", "/o", "../../o"])
def test_a_key_may_look_like_a_path(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, key: str
) -> None:
    made: Store = request.getfixturevalue(name).store().make_bucket()
    test_a_key_may_be_any_text(made, tmp_path, key)


def test_the_name_of_the_file_is_the_end_of_the_key(rgw_object: Store, tmp_path: Path) -> None:
    result = fastxfer.fetch(url(rgw_object, "dir/a b?c.bin"), f"{tmp_path}/", **known(rgw_object))
    assert result.path == str(tmp_path / "a b?c.bin")


@pytest.fixture
def rgw_object(rgw: Rgw) -> Store:
    """A bucket with the object dir/a b?c.bin."""
    made = rgw.store().make_bucket()
    made.put("dir/a b?c.bin", DATA)
    return made


def test_a_probe_tells_of_an_object(store: Store) -> None:
    store.put("o", DATA)
    told = fastxfer.probe(url(store, "o"), **known(store))
    assert (told.size, told.accepts_ranges, told.url) == (len(DATA), True, url(store, "o"))
    assert told.etag and told.last_modified


def test_a_fetch_goes_on_where_the_last_one_ended(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    cut = lambda call, number: Harm(cut_answer=MIB) if number == 1 else None  # noqa: E731
    with Proxy(store, cut) as proxy:
        with pytest.raises(fastxfer.NetworkError):
            fastxfer.fetch(url(store, "o"), tmp_path / "o", 1, retries=0, **known(proxy.store))
        result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(proxy.store))
    assert result.resumed > 0
    assert result.resumed + result.transferred == len(DATA)
    assert (tmp_path / "o").read_bytes() == DATA


def test_what_is_damaged_is_fetched_again_from_the_store(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    out = tmp_path / "o"
    fastxfer.fetch(url(store, "o"), out, keep_ledger=True, **known(store))
    with out.open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"damage")
    assert not fastxfer.verify(out).ok
    mended = fastxfer.verify(out, repair=url(store, "o"), **known(store))
    assert mended.ok and 0 < mended.repaired < len(DATA)
    assert out.read_bytes() == DATA


def test_many_and_a_list_and_a_queue(store: Store, tmp_path: Path) -> None:
    contents = {f"part {n}.bin": make_bytes(70_000 + n, n) for n in range(3)}
    for key, data in contents.items():
        store.put(key, data)
    urls = [url(store, key) for key in contents]
    (tmp_path / "many").mkdir()
    (tmp_path / "queue").mkdir()
    assert len(fastxfer.fetch_many(urls, tmp_path / "many", **known(store)).results) == 3
    (tmp_path / "urls").write_text("\n".join(urls))
    listed = fastxfer.read_inputs(tmp_path / "urls")
    assert len(fastxfer.fetch_many(listed.entries, tmp_path / "list", **known(store)).results) == 3
    queue = fastxfer.Queue(tmp_path / "q.db")
    for each in urls:
        queue.add(each, tmp_path / "queue", **known(store))
    assert [item.url for item in queue.items()] == urls
    assert store.secret_key not in str([item.to_dict() for item in queue.items()])
    queue.run()
    for directory in ("many", "list", "queue"):
        assert {each.name: each.read_bytes() for each in (tmp_path / directory).iterdir()} == contents


def test_a_store_is_a_mirror_of_a_web_server(
    store: Store, own_nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    there = objects.make(len(DATA), 3)
    store.put("copy", there.path.read_bytes())
    own_nginx.stop()
    result = fastxfer.fetch(
        own_nginx.url(there.name), tmp_path / "o", mirrors=[url(store, "copy")], retries=1, **known(store)
    )
    assert result.sources == {url(store, "copy"): len(DATA)}
    assert (tmp_path / "o").read_bytes() == there.path.read_bytes()


def test_a_web_server_is_a_mirror_of_a_store(
    store: Store, nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    there = objects.make(len(DATA), 3)
    result = fastxfer.fetch(
        url(store, "missing"), tmp_path / "o", mirrors=[nginx.url(there.name)], **known(store)
    )
    assert result.sources == {nginx.url(there.name): len(DATA)}
    assert any("NoSuchKey" in note for note in result.notes)
