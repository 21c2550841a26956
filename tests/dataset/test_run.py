"""Whole runs against real servers: all comes, what is here is left alone, what vanished goes, a kill costs
nothing, and what fails does not stop the rest.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

import fastxfer
from fastxfer.dataset.entries import OWN_FOLDER
from fastxfer.dataset.ledger import Ledger
from fastxfer.errors import InterruptedTransferError, OptionError, TargetBusyError
from fastxfer.mirroring import begin_mirror
from tests.cli.command import fastxfer as command
from tests.cli.command import running, wait_until
from tests.servers.nginx import Nginx
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, RawServer, Request

SOAK = bool(os.environ.get("FASTXFER_SOAK"))  # make soak
COUNT = 2000
DEADLINE_S = 120.0


@pytest.fixture
def tree(document_root: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder of this test's own in the document root."""
    path = document_root / f"set-{request.node.name[:40].replace('[', '-').rstrip(']')}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def make_tree(root: Path, names: Iterable[str], seed: int = 0) -> None:
    """Makes files of sizes as small objects have them, and some larger."""
    chance, data = random.Random(seed), make_bytes(3 << 20)
    for name in names:
        size = 2_500_000 if name.endswith(".iso") else int(chance.lognormvariate(7, 1.5)) % 200_000
        start = chance.randrange(len(data) - size)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[start : start + size])


def files(root: Path) -> dict[str, bytes]:
    """Returns the files below a folder, but for the ledger."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(OWN_FOLDER)}


NAMES = [f"d{n % 5}/é {n % 3}/f{n}.bin" for n in range(60)] + ["top.txt", "large.iso", "d1/also large.iso"]


def write_manifest(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ["url", "path", "size", "checksum"])
        table.writeheader()
        table.writerows(rows)
    return path


# ---- what a run does ----


@pytest.mark.parametrize("kind", ["index", "index-json"])
def test_a_tree_comes_and_stays_as_it_is(nginx: Nginx, tree: Path, tmp_path: Path, kind: str) -> None:
    make_tree(tree, NAMES)
    url, dest = nginx.url(tree.name, prefix=kind) + "/", tmp_path / "dest"
    report = fastxfer.mirror(url, dest)
    assert files(dest) == files(tree)
    assert report.ok and report.complete
    assert (report.listed, report.new, report.fetched) == (len(NAMES), len(NAMES), len(NAMES))
    assert report.bytes == sum(map(len, files(tree).values()))
    nginx.forget()
    again = fastxfer.mirror(url, dest)
    assert (again.same, again.fetched, again.bytes) == (len(NAMES), 0, 0)
    asked = [entry.uri for entry in nginx.requests()]
    assert asked and all(uri.endswith("/") for uri in asked), "the listing, and no object"


def test_a_pool_is_put_right_to_the_file(nginx: Nginx, tree: Path, tmp_path: Path) -> None:
    """5 changed, 3 removed at the source, 2 damaged here: these ten, and nothing else."""
    chance = random.Random("pool")
    names = [
        f"pool/main/{letter}/{letter}pkg{n}/{letter}pkg{n}_{n}.{part}-1_{arch}.deb"
        for n in range(125)
        for letter in "abcdlibp"[:4]
        for part, arch in ((1, "amd64"), (2, "arm64"), (1, "all"), (3, "i386"))
    ]
    make_tree(tree, names)
    some = [name for name in names if files_size(tree, name) > 9]
    url, dest = nginx.url(tree.name, prefix="index-json") + "/", tmp_path / "dest"
    assert fastxfer.mirror(url, dest).fetched == len(names) == COUNT
    *changed, gone1, gone2, gone3, bad1, bad2 = chance.sample(some, 10)
    for name in changed:
        (tree / name).write_bytes(b"another version of " + name.encode())
    for name in (gone1, gone2, gone3):
        (tree / name).unlink()
    for name in (bad1, bad2):
        damage(dest / name)
    would = fastxfer.mirror(url, dest, delete=True, dry_run=True)
    assert (would.changed, sorted(would.deletions)) == (5, sorted([gone1, gone2, gone3]))
    nginx.forget()
    report = fastxfer.mirror(url, dest, delete=True, verify=True)
    assert (report.fetched, report.deleted, report.damaged) == (7, 3, 2)
    assert sorted(report.deletions) == sorted([gone1, gone2, gone3])
    asked = {entry.uri.rpartition("/")[2] for entry in nginx.requests() if not entry.uri.endswith("/")}
    assert asked == {name.rpartition("/")[2] for name in [*changed, bad1, bad2]}
    assert files(dest) == files(tree)
    assert not (dest / gone1).parent.exists() or list((dest / gone1).parent.iterdir())


def files_size(root: Path, name: str) -> int:
    return (root / name).stat().st_size


def damage(path: Path) -> None:
    """Changes a byte, and neither size nor time."""
    there = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def test_what_was_changed_or_never_fetched_here_is_not_deleted(
    nginx: Nginx, tree: Path, tmp_path: Path
) -> None:
    make_tree(tree, ["a", "b", "c"])
    url, dest = nginx.url(tree.name, prefix="index-json") + "/", tmp_path / "dest"
    fastxfer.mirror(url, dest)
    (dest / "mine").write_bytes(b"mine")
    (dest / "a").write_bytes(b"edited here")
    for name in ("a", "b"):
        (tree / name).unlink()
    report = fastxfer.mirror(url, dest, delete=True)
    assert (report.deleted, report.left, report.deletions) == (1, 1, ("b",))
    assert sorted(files(dest)) == ["a", "c", "mine"]


def test_nothing_is_deleted_when_the_listing_failed_half_way(tmp_path: Path) -> None:
    pages = {"/set/": '<a href="a">a</a><a href="sub/">sub/</a>', "/set/sub/": '<a href="b">b</a>'}
    broken: list[str] = []

    def answer(request: Request, connection: Connection) -> None:
        if request.target in broken:
            connection.respond(403, {}, b"")
        elif request.target in pages:
            connection.respond(200, {"Content-Type": "text/html"}, pages[request.target].encode())
        else:
            connection.respond(200, {"ETag": '"1"'}, request.target.encode())

    with RawServer(answer) as server:
        url, dest = server.url("/set/"), tmp_path / "dest"
        assert fastxfer.mirror(url, dest).fetched == 2
        there = files(dest)
        pages["/set/"] = '<a href="sub/">sub/</a><a href="new">new</a>'
        broken.append("/set/sub/")
        report = fastxfer.mirror(url, dest, delete=True)
        assert "not complete" in report.stopped and not report.ok
        assert files(dest) == {**there, "new": b"/set/new"}, "what was listed has come"
        report = fastxfer.mirror(url, dest)
        assert not report.ok and not report.complete
        assert [each.path for each in report.failures] == ["sub/"]
        broken.clear()
        report = fastxfer.mirror(url, dest, delete=True)
        assert (report.deletions, sorted(files(dest))) == (("a",), ["new", "sub/b"])


def test_globs_choose(nginx: Nginx, tree: Path, tmp_path: Path) -> None:
    make_tree(tree, NAMES)
    url, dest = nginx.url(tree.name, prefix="index") + "/", tmp_path / "dest"
    fastxfer.mirror(url, dest, include=["/d1/**", "*.txt"], exclude="*6.bin")
    kept = {n for n in NAMES if (n.startswith("d1/") or n.endswith(".txt")) and not n.endswith("6.bin")}
    assert files(dest).keys() == kept
    with pytest.raises(OptionError):
        fastxfer.mirror(url, dest, include="[")


def test_the_largest_come_first_if_asked_for(nginx: Nginx, tree: Path, tmp_path: Path) -> None:
    make_tree(tree, [f"f{n}" for n in range(40)])
    url = nginx.url(tree.name, prefix="index-json") + "/"
    nginx.forget()
    fastxfer.mirror(url, tmp_path / "dest", order="largest", connections=1)
    asked = [entry.uri.rpartition("/")[2] for entry in nginx.requests(count=41)]
    sizes = [files_size(tree, name) for name in asked if name]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 40


# ---- manifests ----


def test_a_manifest_with_checksums_skips_what_is_here_and_refuses_what_is_not_it(
    nginx: Nginx, tree: Path, tmp_path: Path
) -> None:
    make_tree(tree, ["a", "b", "c"])
    sums = {name: fastxfer_sha256(tree / name) for name in "abc"}
    rows = [
        {"url": nginx.url(f"{tree.name}/{name}"), "path": f"x/{name}", "checksum": f"sha256:{sums[name]}"}
        for name in "abc"
    ]
    rows[2]["checksum"] = "sha256:" + "0" * 64
    dest = tmp_path / "dest"
    (dest / "x").mkdir(parents=True)
    shutil.copy(tree / "a", dest / "x" / "a")  # it came another way; its time is its own
    nginx.forget()
    report = fastxfer.mirror(str(write_manifest(tmp_path / "m.csv", rows)), dest)
    assert (report.skipped, report.fetched, report.failed) == (1, 1, 1)
    assert [(each.path, each.error) for each in report.failures] == [("x/c", "ChecksumError")]
    assert files(dest) == {f"x/{name}": (tree / name).read_bytes() for name in "ab"}
    assert {entry.uri.rpartition("/")[2] for entry in nginx.requests(count=2)} == {"b", "c"}


def fastxfer_sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


HOSTILE = [
    "../up", "/etc/passwd", "a/../../b", "", ".fastxfer/mirror.db", "ok/\x00", "con\nfeed", "C:\\x", "a//b",
    "./c", "~/d/../../e",
]  # fmt: skip


def test_hostile_entries_are_refused_and_named_and_the_rest_is_done(
    nginx: Nginx, tree: Path, tmp_path: Path
) -> None:
    make_tree(tree, ["good"])
    url = nginx.url(f"{tree.name}/good")
    rows = [{"url": url, "path": name} for name in HOSTILE if name]
    rows += [{"url": "file:///etc/passwd", "path": "p"}, {"url": "", "path": "q"}]
    rows += [{"url": url, "path": "Twin"}, {"url": url, "path": "twin"}, {"url": url, "path": "fine"}]
    rows += [{"url": url, "path": "file"}, {"url": url, "path": "file/below"}]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    report = fastxfer.mirror(str(manifest), tmp_path / "dest")
    assert sorted(files(tmp_path / "dest")) == ["file/below", "fine"]
    assert not report.ok
    assert report.refused == len(report.refusals) == len(rows) - 2 + 1
    assert all(each.message for each in report.refusals)
    assert {"Twin", "twin", "file"} <= {each.path for each in report.refusals}
    assert sorted(os.listdir(tmp_path)) == ["dest", "m.jsonl"]


# ---- failures ----


def test_what_fails_is_told_and_tried_again_without_a_listing(
    nginx: Nginx, tree: Path, tmp_path: Path
) -> None:
    make_tree(tree, [f"f{n}" for n in range(20)])
    names = [*(f"f{n}" for n in range(20)), "missing", "also missing"]
    rows = [{"url": nginx.url(f"{tree.name}/{name}"), "path": name} for name in names]
    manifest, dest = str(write_manifest(tmp_path / "m.csv", rows)), tmp_path / "dest"
    report = fastxfer.mirror(manifest, dest)
    assert (report.fetched, report.failed, report.ok) == (20, 2, False)
    assert {each.path: each.error for each in report.failures} == {
        "missing": "NotFoundError",
        "also missing": "NotFoundError",
    }
    (tree / "missing").write_bytes(b"there now")
    os.unlink(manifest)
    nginx.forget()
    report = fastxfer.mirror(manifest, dest, retry_failed=True)
    assert (report.fetched, report.failed) == (1, 1)
    assert len(nginx.requests(count=2)) == 2
    assert (dest / "missing").read_bytes() == b"there now"


def test_it_stops_at_so_many_errors(nginx: Nginx, tree: Path, tmp_path: Path) -> None:
    rows = [{"url": nginx.url(f"{tree.name}/no{n}"), "path": f"no{n}"} for n in range(5000)]
    manifest = str(write_manifest(tmp_path / "m.csv", rows))
    report = fastxfer.mirror(manifest, tmp_path / "dest", max_errors=10)
    assert 10 <= report.failed < 5000
    assert "objects failed" in report.stopped and not report.ok


def test_a_second_run_to_the_same_place_is_told_that_it_is_busy(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(TargetBusyError):
        fastxfer.mirror("http://127.0.0.1:9/", tmp_path)


def test_it_is_cancelled_and_goes_on(tmp_path: Path) -> None:
    def answer(request: Request, connection: Connection) -> None:
        number = int(request.target.rpartition("/")[2])
        if number >= 30 and not running_on:
            connection.wait_until_gone()
        else:
            connection.respond(200, {}, b"%d" % number)

    running_on: list[bool] = []
    with RawServer(answer) as server:
        rows = [{"url": server.url(f"/{n}"), "path": f"{n:03}"} for n in range(60)]
        manifest = str(write_manifest(tmp_path / "m.csv", rows))
        run = begin_mirror(manifest, tmp_path / "dest", connections=4)
        server.wait_for_requests(34, DEADLINE_S)
        wait_until(lambda: len(files(tmp_path / "dest")) == 30)
        run.cancel()
        with pytest.raises(InterruptedTransferError):
            run.wait()
        there = files(tmp_path / "dest").keys()
        assert len(there) == 30
        running_on.append(True)
        report = fastxfer.mirror(manifest, tmp_path / "dest", connections=4)
        assert report.fetched == 30, "what was there is not asked for again"
        asked = Counter(request.target for request in server.wait_for_requests(64))
        assert all(asked[f"/{n}"] == 1 for n in range(30))
    assert files(tmp_path / "dest") == {f"{n:03}": b"%d" % n for n in range(60)}


# ---- kills ----

KILLS = 10
MANY = 100_000 if SOAK else 12_000


def test_ten_kills_lose_nothing_and_fetch_nothing_twice(own_nginx: Nginx, tree: Path, tmp_path: Path) -> None:
    """What was on its way at a kill is asked for again: a connection's worth, and what waited to be written
    down, a small part of what there is.
    """
    make_tree(tree, [f"{n}" for n in range(100)])
    url = own_nginx.url(tree.name)
    rows = ({"url": f"{url}/{n % 100}?{n}", "path": f"{n % 97}/{n}"} for n in range(MANY))
    manifest, dest = str(write_manifest(tmp_path / "m.csv", rows)), tmp_path / "dest"
    chance = random.Random("kills")
    kills_at = sorted(chance.sample(range(MANY // 20, MANY - MANY // 10), KILLS))
    for at in kills_at:
        with running("mirror", manifest, dest, "--connections", "8") as process:
            own_nginx.requests(count=at, deadline_s=DEADLINE_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
    done = command("mirror", manifest, dest, "--connections", "8", "--json")
    assert done.returncode == 0, done.stderr
    asked = Counter(entry.target for entry in own_nginx.requests(count=MANY))
    assert len(asked) == MANY
    there = files(dest)
    assert there == {f"{n % 97}/{n}": (tree / str(n % 100)).read_bytes() for n in range(MANY)}
    twice = sum(count - 1 for count in asked.values())
    assert twice <= KILLS * 200, twice


# ---- secrets ----


def test_what_another_origin_is_asked_for_tells_it_no_secrets(tmp_path: Path) -> None:
    """A manifest that a server gives names objects of other servers too."""

    def answer(request: Request, connection: Connection) -> None:
        connection.respond(200, {}, manifest if request.target == "/set.csv" else b"object")

    with RawServer(answer) as home, RawServer(answer) as other:
        manifest = f"url,path\n{home.url('/a')},a\n{other.url('/b')},b\n".encode()
        url = home.url("/set.csv").replace("//", "//user:hunter2@")
        report = fastxfer.mirror(url, tmp_path / "dest", headers={"X-Api-Key": "1", "User-Agent": "me"})
        assert (report.fetched, report.ok) == (2, True)
        told = {each.target: each.headers for each in [*home.requests, *other.requests]}
    assert told["/a"]["authorization"].startswith("Basic ") and told["/a"]["x-api-key"] == "1"
    assert not {"authorization", "x-api-key"} & {name.lower() for name in told["/b"]}
    assert told["/b"]["user-agent"] == "me"
    assert "hunter2" not in str(report.to_dict())


def test_a_source_that_cannot_be_listed_is_an_error_and_not_a_report(nginx: Nginx, tmp_path: Path) -> None:
    with pytest.raises(fastxfer.NotFoundError):
        fastxfer.mirror(nginx.url("no-such-folder", prefix="index") + "/", tmp_path / "dest")
    with pytest.raises(fastxfer.StorageError):
        fastxfer.mirror(str(tmp_path / "no-such-manifest.csv"), tmp_path / "dest")
