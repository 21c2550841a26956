"""Small objects from a real server: all of them right, with one plain GET each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxfer._native import whole_file
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import (
    AuthError,
    ChecksumError,
    InterruptedTransferError,
    NotFoundError,
    OptionError,
    RemoteChangedError,
    StorageError,
    TargetExistsError,
)
from fastxfer.options import TransferOptions
from fastxfer.small import Fetched, SmallObjects, Wanted, run
from fastxfer.small.items import Item
from fastxfer.sources.opening import Sources
from tests.descriptors import held_open
from tests.servers.counting import CountingServer
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Connection, RawServer, Request
from tests.small.fetching import fetch, files_below, make_set, wanted_of

COUNT = 2000
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def content(document_root: Path) -> dict[str, bytes]:
    """The objects, by name."""
    return make_set(document_root, "small", COUNT)


@pytest.fixture
def few(content: dict[str, bytes]) -> dict[str, bytes]:
    """Some of them."""
    return dict(list(content.items())[:30])


@pytest.mark.parametrize("durability", ["none", "periodic", "chunk"])
def test_all_objects_come_right(nginx: Nginx, root: Path, content: dict[str, bytes], durability: str) -> None:
    nginx.forget()
    came, failed = fetch(root, wanted_of(nginx, content), durability=durability)
    assert failed == {}
    assert files_below(root) == content
    assert {name: each.size for name, each in came.items()} == {n: len(b) for n, b in content.items()}
    assert all(came[name].crc64 == crc64nvme(data) for name, data in content.items())
    asked = nginx.requests(count=COUNT)
    assert len(asked) == COUNT
    assert {entry.range for entry in asked} == {""}
    assert held_open(root) == 0


@pytest.mark.parametrize("connections", [1, 5])
def test_never_more_connections_and_requests_at_once_than_allowed(root: Path, connections: int) -> None:
    lock, gate, out, most = threading.Lock(), threading.Event(), 0, 0

    def handler(_: Request, answer: Connection) -> None:
        nonlocal out, most
        with lock:
            out += 1
            most = max(most, out)
            if out >= connections:
                gate.set()
        gate.wait(DEADLINE_S)  # the first ones, until all that may come are there
        with lock:
            out -= 1
        answer.respond(200, {}, b"x" * 1000)

    with RawServer(handler) as server:
        wanted = [Wanted(server.url(f"/{number}"), f"{number}") for number in range(500)]
        came, _ = fetch(root, wanted, connections=connections)
        assert len(came) == 500
        assert (server.connections, most) == (connections, connections)


def test_a_file_is_dated_and_known_again(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    for durability in ("none", "periodic"):
        below = root / durability
        below.mkdir()
        came, _ = fetch(below, wanted_of(nginx, few), durability=durability)
        for name, each in came.items():
            assert (below / name).stat().st_mtime == int((nginx.root / name).stat().st_mtime)
            assert each.etag and each.last_modified and not each.skipped
        again, _ = fetch(below, wanted_of(nginx, few), durability=durability)
        assert all(each.skipped for each in again.values())


def test_without_a_date_the_etag_is_kept(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    wanted = wanted_of(nginx, few, prefix="etagless")
    fetch(root, wanted)
    assert all(each.skipped for each in fetch(root, wanted)[0].values())
    changed = next(iter(few))
    os.utime(root / changed, (1, 1))
    again, _ = fetch(root, wanted)
    assert [name for name, each in again.items() if not each.skipped] == [changed]


def test_what_is_there_is_replaced_kept_or_an_error(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    name = list(few)[5]
    (root / name).parent.mkdir(parents=True)

    def there(exists: str) -> tuple[dict[str, Fetched], dict[str, Exception], bytes]:
        (root / name).write_bytes(b"old")
        came, failed = fetch(root, wanted_of(nginx, [name]), exists=exists)
        return came, dict(failed), (root / name).read_bytes()

    for exists in ("update", "replace"):
        came, failed, now = there(exists)
        assert (list(came), failed, now) == ([name], {}, few[name])
    nginx.forget()
    came, failed, now = there("skip")
    assert came[name].skipped and came[name].size == 3 and now == b"old"
    came, failed, now = there("error")
    assert isinstance(failed[name], TargetExistsError) and now == b"old"
    assert set(files_below(root)) == {name}


def test_a_kept_ledger_goes_with_the_file_that_it_is_of(
    nginx: Nginx, root: Path, few: dict[str, bytes]
) -> None:
    name = list(few)[5]
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(b"old")
    (root / (name + ".fxsum")).write_bytes(b"a ledger")
    fetch(root, wanted_of(nginx, [name]))
    assert files_below(root) == {name: few[name]}


def test_a_checksum_is_held_against_the_bytes(nginx: Nginx, root: Path, objects: Objects) -> None:
    made = objects.make(8192, seed=5)
    other = objects.make(8192, seed=6)
    wanted = [
        Wanted(nginx.url(made.name), "right", 8192, f"sha256:{made.sha256}"),
        Wanted(nginx.url(other.name), "wrong", 8192, {"sha256": made.sha256}),
        Wanted(nginx.url(other.name), "mirrored", 8192, {"sha256": made.sha256}, (nginx.url(made.name),)),
    ]
    came, failed = fetch(root, wanted)
    assert {name: each.verified for name, each in came.items()} == {
        "right": "checksum",
        "mirrored": "checksum",
    }
    assert isinstance(failed["wrong"], ChecksumError)
    assert set(files_below(root)) == {"right", "mirrored"}
    assert (root / "mirrored").read_bytes() == made.path.read_bytes()


def test_a_mirror_has_what_the_first_has_not(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    name = list(few)[4]
    gone = nginx.url("not/there")
    came, failed = fetch(
        root,
        [
            Wanted(gone, "a", mirrors=(gone, nginx.url(name))),
            Wanted(gone, "b", mirrors=("ftp://not.asked/x",)),
            Wanted(nginx.url(name), "c", size=len(few[name]) + 1),
        ],
    )
    assert set(came) == {"a"} and (root / "a").read_bytes() == few[name]
    assert isinstance(failed["b"], NotFoundError) and isinstance(failed["c"], RemoteChangedError)


def test_a_large_object_goes_the_way_of_a_download(
    nginx: Nginx, root: Path, objects: Objects, few: dict[str, bytes]
) -> None:
    large = objects.make(3_000_000, seed=9)
    name = list(few)[4]
    wanted = [
        Wanted(nginx.url(large.name), "told", 3_000_000),
        Wanted(nginx.url(large.name), "found/out", None, f"sha256:{large.sha256}"),
        Wanted(nginx.url(name), "small"),
        *(Wanted(nginx.url(large.name), f"more/{number}") for number in range(5)),
    ]
    came, failed = fetch(root, wanted)
    assert failed == {}
    assert {each.size for name, each in came.items() if name != "small"} == {3_000_000}
    assert came["found/out"].verified == "checksum"
    data = large.path.read_bytes()
    assert all((root / each.name).read_bytes() == data for each in wanted if each.name != "small")
    assert all(not path.endswith((".part", ".ckpt", ".fxnew")) for path in files_below(root))


def test_small_objects_come_while_large_ones_do_and_all_within_one_budget(root: Path) -> None:
    """The large ones wait at the server until it answered a hundred small ones; they are asked by ranges."""
    large = make_bytes(8 << 20, seed=11)
    lock, enough = threading.Lock(), threading.Event()
    out, most, small, ranges = 0, 0, 0, 0

    def handler(request: Request, answer: Connection) -> None:
        nonlocal out, most, small, ranges
        with lock:
            out += 1
            most = max(most, out)
        try:
            if request.target == "/small":
                with lock:
                    small += 1
                    if small >= 100:
                        enough.set()
                answer.respond(200, {}, b"x" * 1000)
                return
            first, _, last = request.range.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(large)) + 1, len(large))
            with lock:
                ranges += 1
            assert enough.wait(DEADLINE_S)
            answer.respond(
                206,
                {"Content-Range": f"bytes {start}-{stop - 1}/{len(large)}", "ETag": '"v"'},
                large[start:stop],
            )
        finally:
            with lock:
                out -= 1

    with RawServer(handler) as server:
        wanted = [Wanted(server.url("/large"), f"large{number}", len(large)) for number in range(2)]
        wanted += [Wanted(server.url("/small"), f"{number}", 1000) for number in range(300)]
        came, failed = fetch(root, wanted, connections=6, connections_per_host=6)
    assert (len(came), failed) == (302, {})
    assert all((root / f"large{number}").read_bytes() == large for number in range(2))
    assert most <= 6 and ranges > 2


def test_credentials_headers_and_their_lack(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    wanted = wanted_of(nginx, few, prefix="auth")
    _, failed = fetch(root, wanted)
    assert len(failed) == len(few) and all(isinstance(error, AuthError) for error in failed.values())
    came, failed = fetch(root, wanted, auth="user:pass")
    assert (len(came), failed) == (len(few), {})
    came, _ = fetch(
        root, [each._replace(url=each.url.replace("//", "//user:pass@")) for each in wanted], exists="replace"
    )
    assert len(came) == len(few)


def test_redirects_are_followed(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    _, failed = fetch(root, wanted_of(nginx, few, prefix="redirect"))
    assert failed == {} and files_below(root) == few


def test_over_http_2_one_connection_serves_all(nginx: Nginx, root: Path, content: dict[str, bytes]) -> None:
    some = dict(list(content.items())[:300])
    nginx.forget()
    _, failed = fetch(root, wanted_of(nginx, some, tls=True), http_version="2", ca_bundle=str(nginx.ca))
    assert failed == {} and files_below(root) == some
    asked = nginx.requests(count=len(some))
    assert {entry.protocol for entry in asked} == {"HTTP/2.0"}
    assert len({entry.connection for entry in asked}) <= 2


def test_a_rate_is_kept(nginx: Nginx, root: Path, content: dict[str, bytes]) -> None:
    some = {name: data for name, data in content.items() if len(data) == 40_000}
    some = dict(list(some.items())[:10])
    began = time.monotonic()
    came, _ = fetch(root, wanted_of(nginx, some), max_rate=400_000)
    assert len(came) == len(some)
    assert time.monotonic() - began > 0.4


def test_a_server_that_takes_four_at_once_is_obeyed(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    _, failed = fetch(root, wanted_of(nginx, few, prefix="few64k"), retries=50)
    assert failed == {} and files_below(root) == few


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "a/../b", "nul\0", "con", "x" * 300])
def test_an_unsafe_name_is_refused_and_nothing_is_asked(nginx: Nginx, root: Path, name: str) -> None:
    nginx.forget()
    _, failed = fetch(root, [Wanted(nginx.url("x"), name)])
    assert isinstance(failed[name], OptionError)
    assert nginx.requests() == [] and files_below(root) == {}


def test_links_and_folders_in_the_way_are_refused(
    nginx: Nginx, root: Path, tmp_path: Path, few: dict[str, bytes]
) -> None:
    name = list(few)[4]
    (tmp_path / "elsewhere").mkdir()
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere" / "file")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    url = nginx.url(name)
    wanted = [Wanted(url, each) for each in ("out/x", "link", "folder", "pipe", "good")]
    came, failed = fetch(root, wanted)
    assert set(came) == {"good"}
    assert {name: type(error) for name, error in failed.items()} == dict.fromkeys(
        ("out/x", "link", "folder", "pipe"), StorageError
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (root / "link").is_symlink()
    assert not list(root.glob("*.fxnew"))


def test_a_root_that_is_not_there_is_an_error(nginx: Nginx, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        fetch(tmp_path / "missing", [Wanted(nginx.url("x"), "x")])


def test_no_more_is_pulled_than_can_be_on_its_way(
    nginx: Nginx, root: Path, few: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "AHEAD", 64)
    name, pulled = list(few)[4], 0

    def endless() -> Iterator[Wanted]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Wanted(nginx.url(name), f"{pulled}")

    fetching = SmallObjects(root, TransferOptions.build(durability="none")).fetch(endless())
    for told, _ in enumerate(fetching, 1):
        assert pulled - told <= 64 + run.BATCH + run.PULL
        if told == 500:
            break
    fetching.close()
    assert held_open(root) == 0
    assert all(data == few[name] for data in files_below(root).values())
    assert "fastxfer-small-disk" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_the_list_ends_it_cleanly(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    def broken() -> Iterator[Wanted]:
        yield from wanted_of(nginx, few)
        raise ValueError("the listing broke")

    with pytest.raises(ValueError, match="the listing broke"):
        fetch(root, broken())
    assert held_open(root) == 0
    assert not list(root.rglob("*.fxnew"))


def test_what_stands_there_is_told_only_once_it_is_synced(
    nginx: Nginx, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = whole_file.sync_file_system

    def counted(fd: int) -> None:
        undated = [path for path in root.rglob("*.bin") if path.stat().st_mtime > newest + 1]
        real(fd)
        synced.append(len(undated))

    newest = max((nginx.root / name).stat().st_mtime for name in content)
    monkeypatch.setattr(whole_file, "sync_file_system", counted)
    monkeypatch.setattr(run, "SYNC_OBJECTS", 500)
    for name in content:
        os.utime(nginx.root / name, (1_700_000_000, 1_700_000_000))
    newest = 1_700_000_000
    told = 0
    small = SmallObjects(root, TransferOptions.build(durability="periodic"))
    for outcome in small.fetch(wanted_of(nginx, content)):
        assert isinstance(outcome, Fetched)
        told += 1
        assert told <= sum(synced)
    assert told == COUNT and len(synced) >= 4
    assert all(path.stat().st_mtime == newest for path in root.rglob("*.bin"))


def test_a_sync_that_fails_fails_its_group(
    nginx: Nginx, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(whole_file, "sync_file_system", broken)
    told: list[object] = []
    small = SmallObjects(root, TransferOptions.build(durability="periodic"))
    with pytest.raises(StorageError) as caught:
        for outcome in small.fetch(wanted_of(nginx, content)):
            told.append(outcome)
    assert caught.value.errno == 5
    assert not any(isinstance(each, Fetched) for each in told)


LEFT_OPEN = """
import sys
from pathlib import Path
from fastxfer.small import SmallObjects, Wanted
root, url = Path(sys.argv[1]), sys.argv[2]
fetching = SmallObjects(root).fetch(Wanted(url, str(number)) for number in range(10**9))
if sys.argv[3] == "told":
    while not any(root.iterdir()):
        next(fetching)
elif sys.argv[3] == "forked":
    import os
    next(fetching)
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1])
print("ends", flush=True)
"""


@pytest.mark.parametrize("how", ["told", "forked", "never begun"])
def test_a_run_that_is_left_open_does_not_keep_the_process_from_ending(
    nginx: Nginx, root: Path, few: dict[str, bytes], how: str
) -> None:
    name = list(few)[4]
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, str(root), nginx.url(name), how],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["ends", "0", "ends"] if how == "forked" else ["ends"])
    assert not list(root.glob("*.fxnew"))
    assert all(data == few[name] for data in files_below(root).values())


def test_a_run_is_stopped_from_another_thread(nginx: Nginx, root: Path, few: dict[str, bytes]) -> None:
    name = list(few)[4]
    small = SmallObjects(root, TransferOptions.build(durability="none"))
    with pytest.raises(InterruptedTransferError):
        for number, _ in enumerate(small.fetch(Wanted(nginx.url(name), f"{n}") for n in range(10**9))):
            if number == 100:
                stopper = threading.Thread(target=small.stop)
                stopper.start()
    stopper.join(DEADLINE_S)
    assert not stopper.is_alive() and held_open(root) == 0
    with pytest.raises(ValueError, match="once"):
        next(small.fetch([]))


# ---- who keeps a ledger ----


def test_what_is_in_place_is_told_at_once_and_then_that_no_power_cut_takes_it(
    nginx: Nginx, root: Path, few: dict[str, bytes]
) -> None:
    told: list[str] = []
    small = SmallObjects(
        root, TransferOptions.build(durability="periodic"), synced=lambda: told.append("synced")
    )
    for outcome in small.fetch(wanted_of(nginx, few)):
        assert isinstance(outcome, Fetched)
        assert 0 < outcome.seconds < DEADLINE_S
        assert (root / outcome.wanted.name).read_bytes() == few[outcome.wanted.name]
        told.append(outcome.wanted.name)
    assert told[-1] == "synced"
    assert sorted(set(told) - {"synced"}) == sorted(few)
    assert len(told) - told.count("synced") == len(few)


def test_what_is_wanted_always_is_fetched_though_it_seems_to_be_there(
    nginx: Nginx, root: Path, few: dict[str, bytes]
) -> None:
    fetch(root, wanted_of(nginx, few))
    for name in few:
        damage(root / name)
    (first, *others) = wanted_of(nginx, few)
    came, failed = fetch(root, [first._replace(always=True), *others])
    assert failed == {}
    assert [name for name, each in came.items() if not each.skipped] == [first.name]
    assert (root / first.name).read_bytes() == few[first.name]


def damage(path: Path) -> None:
    there = path.stat()
    data = bytearray(path.read_bytes()) or bytearray()
    data[:1] = bytes(255 - each for each in data[:1])
    path.write_bytes(data)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def test_an_object_with_options_of_its_own_is_fetched_with_them(root: Path) -> None:
    def answer(request: Request, connection: Connection) -> None:
        told = request.headers.get("x-key", "nothing")
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\n\r\n{told}".encode())

    with RawServer(answer) as server:
        own = TransferOptions.build(headers={"X-Key": "mine"})
        wanted = [Wanted(server.url("/a"), "a"), Wanted(server.url("/b"), "b", options=own)]
        _, failed = fetch(root, wanted, connections=1)
    assert failed == {}
    assert files_below(root) == {"a": b"nothing", "b": b"mine"}


def test_with_large_ones_last_there_are_never_more_requests_than_connections(root: Path) -> None:
    sizes = {f"/{number}": 3000 if number % 9 else 40_000 for number in range(120)}
    data = make_bytes(40_000)
    objects = {path: data[:size] for path, size in sizes.items()}
    with CountingServer(objects, takes_s=0.002) as server:
        small = SmallObjects(
            root,
            TransferOptions.build(connections=5, durability="none"),
            small_bytes=10_000,
            large_at_once=0,
        )
        # Of a third of those that are large it is found out only by asking.
        wanted = [
            Wanted(server.url(path), path[1:], None if number % 27 == 0 else len(data))
            for number, (path, data) in enumerate(objects.items())
        ]
        outcomes = list(small.fetch(wanted))
        most = server.most
    assert [each for each in outcomes if not isinstance(each, Fetched)] == []
    assert len(outcomes) == len(objects)
    assert files_below(root) == {path[1:]: data for path, data in objects.items()}
    assert most == 5


def test_small_objects_that_need_a_download_of_their_own_come_many_at_once(root: Path) -> None:
    together, changed, most = 0, threading.Condition(), [0]

    def answer(request: Request, connection: Connection) -> None:
        nonlocal together
        with changed:
            together += 1
            most[0] = max(most[0], together)
            changed.notify_all()
            assert changed.wait_for(lambda: most[0] >= 6, DEADLINE_S), "they come one or two at a time"
        connection.respond(200, {"ETag": '"1"'}, b"ab")
        with changed:
            together -= 1

    own = TransferOptions.build(headers={"X-Key": "mine"}, durability="none")
    with RawServer(answer) as server:
        wanted = [Wanted(server.url(f"/{n}"), str(n), 2, options=own) for n in range(30)]
        came, failed = fetch(root, wanted, connections=8)
    assert failed == {}
    assert len(came) == 30
    assert most[0] <= 8


def test_who_was_stopped_is_no_guest_of_the_host_any_more(
    nginx: Nginx, root: Path, few: dict[str, bytes]
) -> None:
    """Nor is it by what was on its way to the engine then: others would wait for its turn for ever."""
    options, over = TransferOptions.build(durability="none"), threading.Event()
    small = SmallObjects(root, options)
    fetching = small.fetch(wanted_of(nginx, few))
    next(fetching)
    small.stop()
    sources = Sources(options)
    small._fetching.add([Item(each, sources) for each in wanted_of(nginx, few)])
    small._fetching.later(0, over.set)
    assert over.wait(DEADLINE_S)
    assert small._fetching._tenancy._at == {}
    assert small._fetching._queued == 0
