"""Sources, walked into a ledger: real servers' indexes and manifests, cut off and gone on with, and hostile
ones.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastxfer.dataset.entries import Entry
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.indexes import IndexLister
from fastxfer.dataset.ledger import Ledger, Page, Place
from fastxfer.dataset.listing import MAX_DEPTH, walk
from fastxfer.dataset.manifests import ManifestLister
from fastxfer.errors import InterruptedTransferError, OptionError, StorageError
from fastxfer.inputs.entry import Fault
from tests.servers.apache import Apache
from tests.servers.caddy import Caddy
from tests.servers.lighttpd import Lighttpd
from tests.servers.nginx import Nginx
from tests.servers.python_http import PythonHttp
from tests.servers.raw import Connection, RawServer, Request

FILES = {f"d{n % 5}/é {n % 3}/f{n}.bin": n for n in range(40)} | {"top.txt": 7}
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(scope="session")
def tree(document_root: Path) -> str:
    """The name of a folder with folders in the document root."""
    for name, size in FILES.items():
        path = document_root / "a tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (document_root / "a tree" / "empty").mkdir()
    return "a tree"


def entries(ledger: Ledger) -> dict[str, Entry]:
    return {step.entry.path: step.entry for step in ledger.steps()}


def refused(ledger: Ledger) -> set[str]:
    return {each.name for each in ledger.refusals()}


# ---- indexes of real servers ----


@pytest.mark.parametrize("server", ["nginx", "nginx-json", "apache", "lighttpd", "caddy", "python"])
def test_a_tree_is_walked(
    server: str, tree: str, tmp_path: Path, nginx: Nginx, apache: Apache, lighttpd: Lighttpd, caddy: Caddy,
    python_http: PythonHttp,
) -> None:  # fmt: skip
    url = {
        "nginx": nginx.url(tree, prefix="index"),
        "nginx-json": nginx.url(tree, prefix="index-json"),
        "apache": apache.url(tree),
        "lighttpd": lighttpd.url(tree),
        "caddy": caddy.url(tree, tls=False),
        "python": python_http.url(tree),
    }[server]
    with Ledger(tmp_path) as ledger:
        assert walk(ledger, IndexLister(url, {}))
        found = entries(ledger)
        assert found.keys() == FILES.keys()
        for path, entry in found.items():
            assert entry.size in (None, FILES[path])
            assert entry.url.startswith(url.rstrip("/") + "/")
        assert (found["d3/é 2/f8.bin"].size is None) is (server in ("lighttpd", "python"))
        assert refused(ledger) == set()


def test_what_filters_leave_out_is_neither_listed_nor_asked_for(
    tree: str, tmp_path: Path, own_nginx: Nginx
) -> None:
    filters = Filters(include=["/d1/**", "/d2/é 1/*"], exclude=["*6.bin"])
    lister = IndexLister(own_nginx.url(tree, prefix="index"), {}, filters=filters)
    with Ledger(tmp_path) as ledger:
        assert walk(ledger, lister, filters)
        assert entries(ledger).keys() == {path for path in FILES if filters.wants(path)} != set()
    asked = {entry.uri.removeprefix("/index/a tree/") for entry in own_nginx.requests(count=7)}
    assert {name.partition("/")[0] for name in asked} == {"", "d1", "d2"}


def test_credentials_open_the_index_and_stay_out_of_the_ledgers_words(
    objects: object, document_root: Path, tmp_path: Path, nginx: Nginx
) -> None:
    (document_root / "guarded").mkdir(exist_ok=True)
    (document_root / "guarded" / "index.html").write_text('<a href="f">f</a>')
    url = nginx.url("guarded/", prefix="auth").replace("//", "//user:pass@", 1) + "/"
    lister = IndexLister(url, {})
    assert "pass" not in lister.source + lister.root
    with Ledger(tmp_path) as ledger:
        assert walk(ledger, lister)
        assert entries(ledger).keys() == {"f"}
        assert not walk(ledger, IndexLister(url.replace("user:pass", "user:wrong"), {}), max_age_s=-1)
        assert [error for _, error in ledger.failures() if "401" in error]


def test_a_link_to_a_folder_above_is_a_loop_and_the_rest_is_listed(
    document_root: Path, tmp_path: Path, nginx: Nginx
) -> None:
    root = document_root / "loops"
    (root / "a").mkdir(parents=True)
    (root / "f").write_bytes(b"1")
    (root / "a" / "g").write_bytes(b"2")
    (root / "a" / "up").symlink_to("..")
    with Ledger(tmp_path) as ledger:
        assert walk(ledger, IndexLister(nginx.url("loops", prefix="index"), {}))
        assert {"f", "a/g", "a/up/f"} <= entries(ledger).keys()
        assert len(entries(ledger)) < 10
        (loop,) = ledger.refusals()
        assert "is a loop" in loop.reason


# ---- hostile and failing servers ----


def pages(answers: dict[str, str], asked: list[str] | None = None) -> object:
    def handler(request: Request, connection: Connection) -> None:
        if asked is not None:
            asked.append(request.target)
        answer = answers.get(request.target)
        if answer is None:
            connection.respond(404, {}, b"")
        elif answer.startswith("->"):
            connection.respond(302, {"Location": answer[2:]}, b"")
        else:
            connection.respond(200, {"Content-Type": "text/html"}, answer.encode())

    return handler


def link(*names: str) -> str:
    return "".join(f'<a href="{name}">x</a>\n' for name in names)


def test_a_hostile_index_leads_nowhere_and_the_rest_is_listed(tmp_path: Path) -> None:
    asked: list[str] = []
    hostile = [
        "../x",
        "//evil/x",
        "%2e%2e/",
        "..%2fy",
        "a%00",
        ".fastxfer/",
        ".FASTXFER",
        "con",
        "/etc/passwd",
    ]
    answers = {"/set/": link("d/", "good", *hostile), "/set/d/": link("%2e%2e%2f", "fine", "../good")}
    answers["/moved/"] = "->/set/"
    with RawServer(pages(answers, asked)) as server, Ledger(tmp_path) as ledger:  # type: ignore[arg-type]
        assert walk(ledger, IndexLister(server.url("/moved"), {}))
        assert entries(ledger).keys() == {"good", "d/fine"}
        assert refused(ledger) == {
            "%2E%2E", "..%2Fy", "a%00", ".fastxfer", ".FASTXFER", "con", "d/%2E%2E%2F",
        }  # fmt: skip
    assert set(asked) == {"/moved/", "/set/", "/set/d/"}


def test_a_folder_that_is_redirected_elsewhere_fails_and_the_listing_is_not_complete(tmp_path: Path) -> None:
    answers = {"/set/": link("d/", "a"), "/set/d/": "->/other/", "/other/": link("b")}
    with RawServer(pages(answers)) as server, Ledger(tmp_path) as ledger:  # type: ignore[arg-type]
        lister = IndexLister(server.url("/set/"), {})
        assert not walk(ledger, lister)
        assert entries(ledger).keys() == {"a"}
        (failure,) = ledger.failures()
        assert "redirected" in failure[1]
        answers["/set/d/"] = link("b")
        assert walk(ledger, lister)
        assert entries(ledger).keys() == {"a", "d/b"}


def test_folders_without_end_are_entered_so_deep_and_no_deeper(tmp_path: Path) -> None:
    def handler(request: Request, connection: Connection) -> None:
        depth = request.target.count("/")
        connection.respond(200, {}, link(f"d{depth}/", f"f{depth}").encode())

    with RawServer(handler) as server, Ledger(tmp_path) as ledger:
        assert walk(ledger, IndexLister(server.url("/"), {}))
        assert len(entries(ledger)) == MAX_DEPTH + 1
        (deep,) = ledger.refusals()
        assert "deep" in deep.reason


def test_a_root_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with RawServer(pages({})) as server, Ledger(tmp_path) as ledger:  # type: ignore[arg-type]
        assert not walk(ledger, IndexLister(server.url("/set/"), {}))
        assert not ledger.complete and "404" in next(ledger.failures())[1]


def test_a_listing_that_is_stopped_goes_on_with_what_waits(tmp_path: Path) -> None:
    stopped, hold, asked = threading.Event(), threading.Event(), list[str]()
    answers = {"/": link(*(f"d{n}/" for n in range(30)))}
    answers |= {f"/d{n}/": link("f") for n in range(30)}
    plain = pages(answers, asked)

    def handler(request: Request, connection: Connection) -> None:
        if request.target == "/d20/" and not hold.is_set():
            stopped.set()
            connection.stall(hold)
        plain(request, connection)  # type: ignore[operator]

    with RawServer(handler) as server, Ledger(tmp_path) as ledger:
        server.hold(hold)
        lister = IndexLister(server.url("/"), {}, stopped=stopped)
        with pytest.raises(InterruptedTransferError):
            walk(ledger, lister, stopped=stopped)
        assert 0 < len(entries(ledger)) < 30
        hold.set()
        before = len(asked)
        assert walk(ledger, IndexLister(server.url("/"), {}))
        assert len(entries(ledger)) == 30
        assert "/" not in asked[before:]


class Stops:
    """A Lister that is the first one to notice that all is to stop."""

    source, root, terms = "here", "all", ""

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        yield Page([Entry("a", "http://h/a")], cursor="1")
        raise InterruptedTransferError("a request was stopped")


def test_a_place_that_was_stopped_waits_and_has_not_failed(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        with pytest.raises(InterruptedTransferError, match="the listing was stopped"):
            walk(ledger, Stops())
        assert list(ledger.failures()) == []
        (place,) = ledger.waiting(9)
        assert place.cursor == "1"


# ---- manifests ----


def a_table(count: int) -> str:
    lines = (f"http://h/x/{n},d{n % 7}/f{n},{n},sha256:{n:064x}\n" for n in range(count))
    return "url,path,size,checksum\n" + "".join(lines)


def test_a_manifest_is_listed_and_its_hostile_records_are_named(tmp_path: Path) -> None:
    manifest = tmp_path / "set.csv"
    manifest.write_text(
        a_table(2500) + "http://h/x,../x,1,\nfile:///etc/passwd,y,1,\nhttp://h/x,.fastxfer/z,,\n"
    )
    with Ledger(tmp_path / "dest") as ledger:
        assert walk(ledger, ManifestLister(manifest))
        found = entries(ledger)
        assert len(found) == 2500 and found["d3/f10"].size == 10
        assert found["d3/f10"].checksums == (("sha256", f"{10:064x}"),)
        assert [(each.name, each.line) for each in ledger.refusals()] == [
            ("../x", 2502), ("y", 2503), (".fastxfer/z", 2504),
        ]  # fmt: skip


class Cut:
    """A Lister that fails after some pages, once."""

    def __init__(self, lister: ManifestLister, after: int) -> None:
        self.source, self.root, self.terms = lister.source, lister.root, lister.terms
        self._lister, self._left = lister, after
        self.given: list[str | None] = []

    def list(self, place: Place) -> Iterator[Page]:
        self.given.append(place.cursor)
        for page in self._lister.list(place):
            if self._left == 0:
                self._left = -1
                raise StorageError("the disk was away for a moment")
            self._left -= 1
            yield page


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "metalink"])
def test_a_manifest_goes_on_where_it_was_cut_off(kind: str, tmp_path: Path) -> None:
    manifest = tmp_path / f"set.{kind}"
    rows = [{"url": f"http://h/{n}", "path": f"f{n:05}", "size": n} for n in range(3500)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest, row_group_size=1200)
    elif kind == "csv":
        manifest.write_text(
            "url,path,size\n" + "".join(f"{r['url']},{r['path']},{r['size']}\n" for r in rows)
        )
    elif kind == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        files = (
            f"<file name='{r['path']}'><size>{r['size']}</size><url>{r['url']}</url></file>" for r in rows
        )
        manifest.write_text(f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{"".join(files)}</metalink>')
    lister = Cut(ManifestLister(manifest), 2)
    with Ledger(tmp_path / "dest") as ledger:
        assert not walk(ledger, lister)
        assert len(entries(ledger)) == 2000
        assert walk(ledger, lister)
        assert [entry.size for entry in entries(ledger).values()] == list(range(3500))
        assert lister.given[0] is None and lister.given[1] is not None


def test_a_manifest_that_changed_is_listed_anew(tmp_path: Path) -> None:
    manifest = tmp_path / "set.csv"
    manifest.write_text(a_table(2500))
    with Ledger(tmp_path / "dest") as ledger:
        assert not walk(ledger, Cut(ManifestLister(manifest), 1))
        manifest.write_text(a_table(10))
        assert walk(ledger, ManifestLister(manifest))
        assert len(entries(ledger)) == 10


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "URL": ["http://h/a", "http://h/b", None],
            "path": ["a", "../b", "c"],
            "size": pa.array([5, None, 7], pa.int64()),
            "mirrors": [["http://m/a"], [], None],
            "mtime": pa.array([1_600_000_000_000, None, None], pa.timestamp("ms")),
            "other": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "set.parquet")
    with Ledger(tmp_path / "dest") as ledger:
        assert walk(ledger, ManifestLister(tmp_path / "set.parquet"))
        assert list(entries(ledger).values()) == [
            Entry("a", "http://h/a", ("http://m/a",), 5, 1_600_000_000.0, line=1)
        ]
        assert refused(ledger) == {"../b", "c"}


def test_what_is_no_parquet_fails(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and nothing else")
    with Ledger(tmp_path / "dest") as ledger:
        assert not walk(ledger, ManifestLister(tmp_path / "set.parquet"))
        assert "no Parquet" in next(ledger.failures())[1]


def test_a_list_is_piped_in(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for _ in range(2):
            assert walk(ledger, ManifestLister(io.BytesIO(b"http://h/a\nhttp://h/b\n  out=c\n")))
            assert entries(ledger).keys() == {"a", "c"}


def test_checksums_and_aria2_files_are_manifests(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  d/a\n{SHA256}  ../b\n")
    with Ledger(tmp_path / "dest") as ledger:
        assert walk(ledger, ManifestLister(tmp_path / "SHA256SUMS", base_urls=["http://h/base"]))
        assert entries(ledger)["d/a"].url == "http://h/base/d/a"
        assert refused(ledger) == {f"{SHA256}  ../b"}
        (tmp_path / "list").write_text("http://h/a\thttp://m/a\n  header=A: b\n  checksum=sha-256=" + SHA256)
        assert walk(ledger, ManifestLister(tmp_path / "list", format="aria2")), list(ledger.failures())
        assert entries(ledger)["a"] == Entry(
            "a", "http://h/a", ("http://m/a",), checksums=(("sha256", SHA256),),
            options={"headers": ["A: b"]}, line=1,
        )  # fmt: skip


def test_a_manifest_that_cannot_be_used_is_an_error_or_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read the manifest"):
        ManifestLister(tmp_path / "absent.csv")
    with pytest.raises(OptionError, match="format"):
        ManifestLister(tmp_path / "absent.csv", format="yaml")
    (tmp_path / "hello").write_text("hello\n")
    with Ledger(tmp_path / "dest") as ledger:
        assert not walk(ledger, ManifestLister(tmp_path / "hello"))
        assert "none that is known" in next(ledger.failures())[1]


LISTS = """
import sys
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.listing import walk
from fastxfer.dataset.manifests import ManifestLister

with Ledger(sys.argv[2]) as ledger:
    print("listing", flush=True)
    assert walk(ledger, ManifestLister(sys.argv[1]))
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def test_a_long_manifest_that_is_killed_ten_times_is_listed_whole_in_little_memory(tmp_path: Path) -> None:
    count = 60_000
    (tmp_path / "set.csv").write_text(a_table(count))
    dest = tmp_path / "dest"
    command = [sys.executable, "-c", LISTS, str(tmp_path / "set.csv"), str(dest)]
    wal = dest / ".fastxfer" / "mirror.db-wal"
    for _ in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            before = os.stat(wal).st_mtime_ns
            while os.stat(wal).st_mtime_ns == before and child.poll() is None:
                pass
            child.send_signal(signal.SIGKILL)
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    assert int(ended.stdout.split()[-1]) < 200 * 1024
    with Ledger(dest) as ledger:
        assert sorted(entry.size or 0 for entry in entries(ledger).values()) == list(range(count))
        assert list(ledger.refusals()) == list[Fault]()
