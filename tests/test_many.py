"""Many objects in one call: what fails does not stop the rest, and the whole is known before it begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastxfer
from fastxfer.batch import MAX_JOBS, Outcome
from fastxfer.errors import NotFoundError, OptionError, PausedError, StorageError
from fastxfer.inputs import Entry, parse
from fastxfer.options import merged_options
from fastxfer.progress.overall import Overall
from tests.cli.command import claimed, environment, wait_until
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject
from tests.servers.raw import Connection, RawServer, Request

MIB = 1024**2


def some(objects: Objects, count: int, name: str = "many") -> list[TestObject]:
    return [objects.make(100_000 + 1000 * i, seed=i, name=f"{name}-{i}") for i in range(count)]


def assert_there(things: list[TestObject], folder: Path) -> None:
    assert sorted(os.listdir(folder)) == sorted(thing.name for thing in things)
    for thing in things:
        assert (folder / thing.name).read_bytes() == thing.path.read_bytes()


@pytest.mark.usefixtures("no_races")
def test_all_are_fetched_and_what_fails_does_not_stop_the_rest(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    things = some(objects, 9)
    urls = [nginx.url(thing.name) for thing in things]
    told: list[Outcome] = []
    result = fastxfer.fetch_many(
        [*urls[:3], nginx.url("not-there"), *urls[3:]], tmp_path, jobs=3, told=told.append, retries=0
    )
    assert_there(things, tmp_path)
    assert result.outcomes == tuple(told)
    (failed,) = result.of("failed")
    assert isinstance(failed.error, NotFoundError)
    assert (result.exit_code, len(result.results), result.first_error) == (3, 9, failed.error)
    assert result.transferred == sum(thing.size for thing in things)
    assert str(result).startswith("9 of 10 files, ")
    again = fastxfer.fetch_many(urls, tmp_path)
    assert [each.skipped for each in again.results] == [True] * 9
    assert again.exit_code == 0


def test_the_total_is_known_before_the_first_byte(own_nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    things = some(objects, 8, "sized")
    seen: list[Overall] = []
    fastxfer.fetch_many([own_nginx.url(thing.name) for thing in things], tmp_path, progress=seen.append)
    whole = sum(thing.size for thing in things)
    assert {each.size for each in seen if each.done} == {whole}
    assert (seen[-1].finished, seen[-1].done, seen[-1].state) == (8, whole, "done")
    assert [entry.range for entry in own_nginx.requests(count=16)[:8]] == ["bytes=0-0"] * 8


def test_nobody_is_asked_for_sizes_where_nobody_looks(
    own_nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    things = some(objects, 3, "unseen")
    fastxfer.fetch_many([own_nginx.url(thing.name) for thing in things], tmp_path)
    assert len(own_nginx.requests(count=3)) == 3


def test_a_size_that_is_not_told_leaves_the_total_open(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def without_length(request: Request, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        if request.range not in ("", "bytes=0-0"):  # it is not only asked for its size
            connection.stall(go_on)
        connection.send(b"0\r\n\r\n")

    thing = objects.make(5000)
    seen: list[Overall] = []

    def watch(overall: Overall) -> None:
        seen.append(overall)
        if overall.finished == 1:
            go_on.set()

    with RawServer(without_length) as server:
        result = fastxfer.fetch_many([server.url("/open"), nginx.url(thing.name)], tmp_path, progress=watch)
    assert result.exit_code == 0, result.first_error
    assert (tmp_path / "open").read_bytes() == b"hello"
    assert {(each.size, each.unsized) for each in seen if each.running and each.finished == 1} <= {
        (None, 1),
        (5005, 0),
    }
    assert "1 of unknown size" in next(each for each in seen if each.unsized == 1).title
    assert seen[-1].size == 5005


def test_a_server_that_is_gone_is_asked_once_for_sizes(tmp_path: Path) -> None:
    asked: list[int] = []

    def reset(request: Request, connection: Connection) -> None:
        asked.append(request.number)
        connection.reset()

    with RawServer(reset) as server:
        result = fastxfer.fetch_many(
            [server.url(f"/{i}") for i in range(40)],
            tmp_path,
            progress=lambda overall: None,
            retries=0,
            jobs=1,
        )
        assert len(result.of("failed")) == 40
        assert len(asked) <= 40 + 8


@pytest.mark.parametrize("jobs", [0, MAX_JOBS + 1, "x", True])
def test_a_number_of_jobs_that_cannot_be_is_refused(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(OptionError, match="option jobs"):
        fastxfer.fetch_many(["http://127.0.0.1:9/a"], tmp_path, jobs=jobs)


def test_everything_is_checked_before_anything_begins(
    own_nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    url = own_nginx.url(some(objects, 1)[0].name)
    for bad in ("ftp://h/x", "http://h/", url, (own_nginx.url("other"), tmp_path / url.rpartition("/")[2])):
        with pytest.raises(OptionError):
            fastxfer.fetch_many([url, bad], tmp_path)
    with pytest.raises(OptionError, match="line 7: option connections"):
        fastxfer.fetch_many([url, Entry((url,), "x", options={"connections": 0}, where="line 7")], tmp_path)
    assert os.listdir(tmp_path) == []
    assert own_nginx.requests() == []


def test_files_can_be_named(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    url = nginx.url(objects.make(1000).name)
    (tmp_path / "sub").mkdir()
    fastxfer.fetch_many([(url, "one"), (url, tmp_path / "sub" / "two"), (url, "sub/")], tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["one", "sub"]
    assert sorted(os.listdir(tmp_path / "sub")) == [objects.make(1000).name, "two"]


def test_what_an_entry_names_stays_below_its_directory(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(1000)
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    url = nginx.url(thing.name)
    found = parse(f"{url}\n out=link/x\n{url}\n out=new/deep/y\n".encode())
    result = fastxfer.fetch_many(found.entries, root)
    assert isinstance(result.first_error, StorageError)
    assert "symbolic link" in str(result.first_error)
    assert os.listdir(outside) == []
    assert (root / "new/deep/y").read_bytes() == thing.path.read_bytes()


def test_the_mirrors_of_an_entry_are_used(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(MIB)
    gone = nginx.url("mirrored", prefix="/status/404")
    text = f"{gone}\t{nginx.url(thing.name)}\n  checksum=sha-256={thing.sha256}\n"
    found = parse(text.encode())
    result = fastxfer.fetch_many(found.entries, tmp_path, retries=0)
    assert (tmp_path / "mirrored").read_bytes() == thing.path.read_bytes()
    assert set(result.results[0].sources) == {nginx.url(thing.name)}
    queue = fastxfer.Queue(tmp_path / "q.db")
    queue.add_many(found.entries, tmp_path / "queued", retries=0)
    assert queue.run().exit_code == 0
    assert (tmp_path / "queued" / "mirrored").read_bytes() == thing.path.read_bytes()


def test_what_its_user_paused_stays_so(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB)
    url = nginx.url(thing.name, prefix="/slow256k")
    begun = threading.Event()
    with fastxfer.start(
        url, tmp_path / "f", 4, progress=lambda now: begun.set() if now.done else None
    ) as transfer:
        assert begun.wait(60)
        transfer.pause()
    result = fastxfer.fetch_many([(url, "f")], tmp_path)
    assert [(each.state, type(each.error)) for each in result.outcomes] == [("paused", PausedError)]
    assert result.exit_code == 7
    result = fastxfer.fetch_many([(nginx.url(thing.name), "f")], tmp_path, unpause=True, resume="force")
    assert result.results[0].resumed > 0


def test_options_of_an_entry_count_more_and_headers_add_up() -> None:
    merged = merged_options(
        {"headers": {"A": "1", "B": "2"}, "retries": 3, "sink": "mmap"},
        {"headers": ["b: 3", "b: 4"], "retries": 1},
    )
    assert merged == {"headers": [("A", "1"), ("b", "3"), ("b", "4")], "retries": 1, "sink": "mmap"}


def test_an_input_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sums"
    path.write_text(f"{'0' * 32}  a\n")
    (entry,) = fastxfer.read_inputs(path, base_url="http://h/").entries
    assert (entry.name, entry.urls) == ("a", ("http://h/a",))
    with pytest.raises(StorageError, match="cannot read"):
        fastxfer.read_inputs(tmp_path / "missing")


CHILD = """
import signal, sys, fastxfer
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    fastxfer.fetch_many(sys.argv[2:], sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_saves_all_and_raises(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    things = [objects.make(2 * MIB, seed=i, name=f"ctrl-c-{i}") for i in range(3)]
    urls = [nginx.url(thing.name, prefix="/slow64k") for thing in things]
    command = [sys.executable, "-c", CHILD, str(tmp_path), *urls]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        wait_until(lambda: all(claimed(tmp_path / thing.name) > 0 for thing in things))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted\n"
    kept = sum(claimed(tmp_path / thing.name) for thing in things)
    result = fastxfer.fetch_many(urls, tmp_path)
    assert sum(each.resumed for each in result.results) == kept > 0
    assert_there(things, tmp_path)
