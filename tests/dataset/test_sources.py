"""What a user names as a source: which lister reads it, and manifests that are fetched first."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastxfer.dataset.entries import Entry
from fastxfer.dataset.indexes import IndexLister
from fastxfer.dataset.ledger import Ledger, Place
from fastxfer.dataset.listing import Lister, walk
from fastxfer.dataset.manifests import ManifestLister
from fastxfer.dataset.remote_manifests import RemoteManifestLister
from fastxfer.dataset.sources import lister_for
from fastxfer.dataset.store_listing import StoreLister
from fastxfer.errors import (
    AuthError,
    InterruptedTransferError,
    NotFoundError,
    OptionError,
    RemoteChangedError,
    StorageError,
)
from fastxfer.mirroring import begin_mirror
from tests.dataset.sets import Cut
from tests.servers.nginx import Nginx
from tests.servers.oss_facade import OssFacade
from tests.servers.raw import Connection, RawServer, Request
from tests.servers.rgw import Rgw
from tests.servers.store import Store
from tests.stores import known, url

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def read(source: Lister) -> list[Entry]:
    pages = list(source.list(Place(1, source.root, 0, None)))
    assert [fault for page in pages for fault in page.refused] == []
    return [entry for page in pages for entry in page.entries]


# ---- what is what ----


@pytest.mark.parametrize(
    ("source", "format", "kind"),
    [
        ("s3://bucket", None, StoreLister), ("s3://bucket/set.csv", None, StoreLister),
        ("oss://bucket/pre/", None, StoreLister), ("http://127.0.0.1:9/set/", None, IndexLister),
        (" https://user:pass@h.example/set.csv/ ", None, IndexLister),
    ],
)  # fmt: skip
def test_a_source_is_told_by_its_form(source: str, format: str | None, kind: type) -> None:
    found = lister_for(source, {"endpoint": "http://127.0.0.1:9"}, format=format)
    assert type(found) is kind
    assert "pass" not in found.source


def test_a_path_and_a_pipe_are_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set.csv").write_text("url,size\nhttp://h/a,1\n")
    found = lister_for(str(tmp_path / "set.csv"), {})
    assert type(found) is ManifestLister and [each.path for each in read(found)] == ["a"]
    assert type(lister_for(tmp_path / "set.csv", {})) is ManifestLister
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  d/f\n")
    (entry,) = read(lister_for(str(tmp_path / "SHA256SUMS"), {}, base_urls=["http://h/b"]))
    assert (entry.path, entry.url) == ("d/f", "http://h/b/d/f")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"http://h/a\ns3://b/d/c d\n")))
    assert [each.url for each in read(lister_for("-", {}))] == ["http://h/a", "s3://b/d/c d"]


@pytest.mark.parametrize(
    ("source", "more", "why"),
    [
        ("ftp://h/set/", {}, "scheme 'ftp'"), ("file:///etc/", {}, "scheme 'file'"),
        ("http://h/set.csv.gz", {}, "is packed"), ("set.jsonl.zst", {}, "is packed"),
        ("http://h/set/?list=1", {}, "query"), ("s3://", {}, "bucket"), ("/", {}, "is a folder"),
        ("http://h/set/", {"format": "yaml"}, "format"), ("s3://b/x", {"format": "xml"}, "format"),
        ("http://h/set/", {"base_urls": ["http://h/"]}, "base URLs are for a manifest"),
        ("oss://bucket/x", {}, "OSS needs to know where"),
    ],
)  # fmt: skip
def test_what_is_no_source_is_refused(source: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        lister_for(source, {}, **more)


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read the manifest"):
        lister_for(str(tmp_path / "absent"), {})


# ---- URLs that do not say what they are ----


def answers(kinds: dict[str, tuple[str, bytes]]) -> Any:
    def handler(request: Request, connection: Connection) -> None:
        found = kinds.get(request.target)
        if found is None:
            connection.respond(404, {}, b"")
        else:
            connection.respond(200, {"Content-Type": found[0]}, found[1])

    return handler


def test_a_folder_without_its_slash_is_an_index(document_root: Path, nginx: Nginx) -> None:
    (document_root / "without slash").mkdir(exist_ok=True)
    (document_root / "without slash" / "f").write_bytes(b"1")
    found = lister_for(nginx.url("without slash", prefix="index"), {})
    assert type(found) is IndexLister and [each.path for each in read(found)] == ["f"]
    page = ("text/html; charset=utf-8", b'<a href="f">f</a>')
    with RawServer(answers({"/set": page, "/set/": page})) as server:
        found = lister_for(server.url("/set"), {})
        assert type(found) is IndexLister and [each.path for each in read(found)] == ["f"]


def test_what_is_neither_index_nor_manifest_is_refused(nginx: Nginx, document_root: Path) -> None:
    (document_root / "plain").write_bytes(b"http://h/a\n")
    with pytest.raises(OptionError, match=r"application/octet-stream, and so no index.*--format"):
        lister_for(nginx.url("plain"), {})
    assert [each.path for each in read(lister_for(nginx.url("plain"), {}, format="list"))] == ["a"]
    with pytest.raises(NotFoundError):
        lister_for(nginx.url("absent"), {})
    with pytest.raises(NotFoundError):
        lister_for(nginx.url("absent.csv"), {})


# ---- manifests at a URL ----

ROWS = [{"url": f"http://h/x/{n}", "path": f"d{n % 3}/f{n:04}", "size": n} for n in range(3500)]
FILES = [(f"d{n % 3}/f{n:04}", f"http://h/x/{n}", n) for n in range(3500)]


def make(kind: str, path: Path) -> None:
    """Writes ROWS as a manifest."""
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in ("csv", "tsv"):
        between = "," if kind == "csv" else "\t"
        lines = [between.join(map(str, (row["url"], row["path"], row["size"]))) for row in ROWS]
        path.write_text("\n".join([between.join(("url", "path", "size")), *lines]))
    elif kind in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        files = (
            f"<file name='{row['path']}'><size>{row['size']}</size><url>{row['url']}</url></file>"
            for row in ROWS
        )
        path.write_text(f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{"".join(files)}</metalink>')


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet", "meta4", "metalink"])
def test_a_manifest_of_each_format_is_fetched_and_read(
    kind: str, document_root: Path, nginx: Nginx, tmp_path: Path
) -> None:
    make(kind, document_root / f"a set.{kind}")
    found = lister_for(nginx.url(f"a set.{kind}") + "?token=secret", {}, work=tmp_path / "work")
    assert [(each.path, each.url, each.size) for each in read(found)] == FILES
    assert "secret" not in found.source
    assert list((tmp_path / "work" / "source").iterdir()) == []
    assert (tmp_path / "work" / "source").stat().st_mode & 0o77 == 0


def test_files_are_beside_their_manifest_where_it_does_not_say_otherwise(
    document_root: Path, nginx: Nginx
) -> None:
    folder = document_root / "beside it"
    folder.mkdir(exist_ok=True)
    base = nginx.url("beside it/")
    base = base if base.endswith("/") else base + "/"
    for name in ("SHA256SUMS", "sums.txt", "one.sha256", "checksums"):
        (folder / name).write_text(f"{SHA256}  d/a b\n")
        (entry,) = read(lister_for(nginx.url(f"beside it/{name}"), {}))
        assert (entry.path, entry.url) == ("d/a b", base + "d/a%20b")
    (folder / "set.csv").write_text("url,path\nd/a%20b,\n,c\n../up,up\nhttp://h/x,\n")
    assert [(each.path, each.url) for each in read(lister_for(nginx.url("beside it/set.csv"), {}))] == [
        ("a b", base + "d/a%20b"), ("c", base + "c"), ("up", nginx.url("up")), ("x", "http://h/x"),
    ]  # fmt: skip
    (entry,) = read(lister_for(nginx.url("beside it/SHA256SUMS"), {}, base_urls=["http://h/b"]))
    assert entry.url == "http://h/b/d/a%20b"
    (entry,) = read(lister_for(nginx.url("beside it/SHA256SUMS", prefix="redirect"), {}))
    assert entry.url.startswith(nginx.url("beside it", prefix="redirect"))


def test_credentials_open_a_manifest(document_root: Path, nginx: Nginx) -> None:
    (document_root / "guarded.csv").write_text("path\na\n")
    plain = nginx.url("guarded.csv", prefix="auth")
    with pytest.raises(AuthError):
        lister_for(plain, {})
    found = lister_for(plain.replace("//", "//user:pass@", 1), {})
    (entry,) = read(found)
    assert "pass" not in found.source + entry.url
    assert [each.path for each in read(lister_for(plain, {"auth": "user:pass"}))] == ["a"]


@pytest.mark.parametrize("name", ["rgw", "oss"])
def test_a_manifest_in_a_store_has_its_files_beside_it(
    name: str, request: pytest.FixtureRequest, rgw: Rgw, oss: OssFacade
) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    store.put("dir/SHA256SUMS", f"{SHA256}  d/a b\n".encode())
    (entry,) = read(lister_for(url(store, "dir/SHA256SUMS"), known(store), format="checksums"))
    assert (entry.path, entry.url) == ("d/a b", url(store, "dir/d/a b"))
    (alone,) = read(lister_for(url(store, "dir/SHA256SUMS"), known(store)))
    assert alone.path == "SHA256SUMS"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_listing_that_was_cut_off_goes_on_and_fetches_nothing_again(
    kind: str, document_root: Path, own_nginx: Nginx, tmp_path: Path
) -> None:
    make(kind, document_root / f"cut.{kind}")
    at = own_nginx.url(f"cut.{kind}")
    with Ledger(tmp_path) as ledger:
        work = tmp_path / ".fastxfer"
        assert not walk(ledger, Cut(lister_for(at, {}, work=work), 2))
        assert len(list(ledger.steps())) == 2000
        own_nginx.forget()
        again = lister_for(at, {}, work=work)
        (place,) = ledger.file.rows("SELECT cursor FROM places")
        assert place["cursor"] is not None
        assert walk(ledger, again)
        assert len(list(ledger.steps())) == 3500
        assert [entry.range for entry in own_nginx.requests(count=1)] == ["bytes=0-0"]
        assert list((work / "source").iterdir()) == []


def test_a_manifest_that_changed_between_two_listings_is_fetched_and_listed_anew(
    document_root: Path, own_nginx: Nginx, tmp_path: Path
) -> None:
    manifest = document_root / "changing.csv"
    make("csv", manifest)
    at = own_nginx.url("changing.csv")
    with Ledger(tmp_path) as ledger:
        work = tmp_path / ".fastxfer"
        assert not walk(ledger, Cut(lister_for(at, {}, work=work), 2))
        before = lister_for(at, {}, work=work)
        manifest.write_text("url\nhttp://h/new\n")
        after = lister_for(at, {}, work=work)
        assert before.source == after.source and before.terms != after.terms
        assert walk(ledger, after)
        assert [step.entry.path for step in ledger.steps()] == ["new"]


def test_a_manifest_that_changes_after_it_was_asked_about_is_no_listing(
    document_root: Path, nginx: Nginx, tmp_path: Path
) -> None:
    manifest = document_root / "hasty.csv"
    make("csv", manifest)
    found = lister_for(nginx.url("hasty.csv"), {}, work=tmp_path)
    manifest.write_text("url\nhttp://h/new\n")
    with pytest.raises(RemoteChangedError, match="run it again"):
        read(found)
    assert [each.path for each in read(lister_for(nginx.url("hasty.csv"), {}, work=tmp_path))] == ["new"]


def test_a_file_that_was_touched_here_is_fetched_again(
    document_root: Path, own_nginx: Nginx, tmp_path: Path
) -> None:
    make("csv", document_root / "touched.csv")
    at = own_nginx.url("touched.csv")
    page = next(lister_for(at, {}, work=tmp_path).list(Place(1, "manifest", 0, None)))
    (tmp_path / "source" / "manifest").write_text("url\nhttp://h/other\n")
    entries = read(lister_for(at, {}, work=tmp_path))
    assert len(entries) == 3500 and entries[:1000] == list(page.entries)


def test_without_validators_nothing_is_gone_on_with(
    document_root: Path, own_nginx: Nginx, tmp_path: Path
) -> None:
    make("csv", document_root / "unknown.csv")
    at = own_nginx.url("unknown.csv", prefix="novalidators")
    with Ledger(tmp_path) as ledger:
        assert not walk(ledger, Cut(lister_for(at, {}, work=tmp_path / "w"), 2))
        assert walk(ledger, lister_for(at, {}, work=tmp_path / "w"))
        assert len(list(ledger.steps())) == 3500
    own_nginx.forget()
    assert len(read(lister_for(at, {}, work=tmp_path / "w"))) == 3500
    assert len(own_nginx.requests(count=2)) == 2


def test_the_folder_may_be_no_symbolic_link(document_root: Path, nginx: Nginx, tmp_path: Path) -> None:
    make("csv", document_root / "linked.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "source").symlink_to("elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        lister_for(nginx.url("linked.csv"), {}, work=tmp_path)


def test_a_temporary_folder_goes_with_its_lister(
    document_root: Path, nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("csv", document_root / "passing.csv")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = lister_for(nginx.url("passing.csv"), {})
    assert type(found) is RemoteManifestLister and len(read(found)) == 3500
    assert len(list(tmp_path.iterdir())) == 1
    del found
    assert list(tmp_path.iterdir()) == []


# ---- killed, stopped ----

BIG = 60_000

LISTS = """
import sys
from pathlib import Path
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.listing import walk
from fastxfer.dataset.sources import lister_for

with Ledger(sys.argv[2]) as ledger:
    walk(ledger, lister_for(sys.argv[1], {}, work=Path(sys.argv[2]) / ".fastxfer"))
"""


def entries_in(dest: Path) -> int:
    """Returns how many entries a ledger has that another process writes."""
    with closing(sqlite3.connect(f"file:{dest}/.fastxfer/mirror.db?mode=ro", uri=True, timeout=60)) as db:
        return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_a_fetch_and_a_listing_that_are_killed_go_on(
    document_root: Path, own_nginx: Nginx, tmp_path: Path
) -> None:
    lines = (f"http://h/x/{n},d{n % 7}/f{n},{n}\n" for n in range(BIG))
    (document_root / "big.csv").write_text("url,path,size\n" + "".join(lines))
    dest = tmp_path / "dest"
    at = own_nginx.url("big.csv", prefix="slow256k")
    part = dest / ".fastxfer" / "source" / "manifest.part"
    with subprocess.Popen([sys.executable, "-c", LISTS, at, str(dest)]) as child:
        while not (part.exists() and os.stat(part).st_blocks) and child.poll() is None:
            pass
        child.send_signal(signal.SIGKILL)
    assert part.exists() and not part.with_suffix("").exists()
    for most in (10_000, 20_000):
        with subprocess.Popen([sys.executable, "-c", LISTS, at, str(dest)]) as child:
            while entries_in(dest) < most and child.poll() is None:
                pass
            child.send_signal(signal.SIGKILL)
    with Ledger(dest) as ledger:
        assert not ledger.complete and 20_000 <= entries_in(dest) < BIG
        assert walk(ledger, lister_for(at, {}, work=dest / ".fastxfer"))
        assert sorted(step.entry.size or 0 for step in ledger.steps()) == list(range(BIG))


def test_a_fetch_that_is_stopped_leaves_its_part_and_the_place_waits(
    document_root: Path, nginx: Nginx, tmp_path: Path
) -> None:
    (document_root / "stopped.csv").write_text("url\n" + "http://h/x\n" * 100_000)
    stopped = threading.Event()
    part = tmp_path / ".fastxfer" / "source" / "manifest.part"

    def stop() -> None:
        while not part.exists():
            pass
        stopped.set()

    found = lister_for(
        nginx.url("stopped.csv", prefix="slow64k"), {}, stopped=stopped, work=tmp_path / ".fastxfer"
    )
    watcher = threading.Thread(target=stop)
    watcher.start()
    with Ledger(tmp_path) as ledger:
        with pytest.raises(InterruptedTransferError, match="the listing was stopped"):
            walk(ledger, found, stopped=stopped)
        assert list(ledger.failures()) == [] and len(ledger.waiting(9)) == 1
    watcher.join()
    assert part.exists()


@pytest.mark.parametrize(
    "source", ["s3://bucket/set/", "http://{}/set/", "http://{}/set.csv", "http://{}/set"]
)
def test_a_run_whose_source_says_nothing_ends_when_it_is_cancelled(source: str, tmp_path: Path) -> None:
    asked, hold = threading.Event(), threading.Event()

    def handler(request: Request, connection: Connection) -> None:
        asked.set()
        connection.stall(hold)

    with RawServer(handler) as server:
        server.hold(hold)
        endpoint = server.url("/").rstrip("/")
        source = source.format(endpoint.removeprefix("http://"))
        running = begin_mirror(source, tmp_path, endpoint=endpoint, anonymous=True, stall_timeout=600)
        assert asked.wait(60)
        running.cancel()
        assert running.over.wait(60) and not hold.is_set()
        assert isinstance(running.error, InterruptedTransferError)
