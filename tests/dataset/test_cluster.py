"""Sets that many workers fetch: complete and right whoever dies, never over the cap, and no secret told."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, WorkerPlugin

import fastxfer
from fastxfer.dataset import cluster, split
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.report import MirrorItem, MirrorProgress
from fastxfer.errors import FastxferError, InterruptedTransferError, NetworkError, OptionError, StorageError
from fastxfer.mirroring import begin_mirror
from fastxfer.plan.response import Identity
from fastxfer.storage.shared_file import Note
from tests.cli.command import COMMAND, environment
from tests.servers.counting import CountingServer
from tests.servers.nginx import Nginx
from tests.servers.objects import make_bytes
from tests.servers.raw import RangeHandler, Request

SMALL = 2000
RANGE = 1 << 20
LARGE = 6 * RANGE + 12_345
CAP = 6
DEADLINE_S = 60.0
SECRET = "s3cr3t-of-nobody"


class Apart(WorkerPlugin):  # type: ignore[misc]
    """Lets each worker be as one on a machine of its own: it hears nothing of other processes."""

    def setup(self, worker: Any) -> None:
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(
            prefix="fastxfer-worker-", dir=worker.local_directory
        )


@contextmanager
def workers(count: int, folder: Path) -> Iterator[Client]:
    """Gives the client of a cluster of so many processes, each as on a machine of its own. Leases of workers
    that died come free in two seconds.
    """
    soon = {
        "distributed.scheduler.locks.lease-timeout": "2s",
        "distributed.scheduler.locks.lease-validation-interval": "500ms",
    }
    with (
        dask.config.set(soon),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(folder / "dask"),
            silence_logs="CRITICAL",
        ) as made,
        Client(made, set_as_default=False) as client,
    ):
        client.register_plugin(Apart())
        yield client


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Client]:
    """A cluster of four worker processes."""
    with workers(4, tmp_path) as client:
        yield client


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Client]:
    """A cluster of two worker processes."""
    with workers(2, tmp_path) as client:
        yield client


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets objects of a few MiB be large ones, of ranges of one MiB."""
    monkeypatch.setattr(cluster, "SPLIT_BYTES", 4 * RANGE)
    monkeypatch.setattr(split, "RANGE_BYTES", RANGE)


def make_set(small: int, large: int) -> dict[str, bytes]:
    """Returns objects by their paths on the server, those that are large between the others."""
    data = make_bytes(LARGE + 9000 + small)
    made = {f"/{n % 9}/{n}.bin": data[n : n + n * 37 % 9000] for n in range(small)}
    made |= {f"/{3 * n}/large-{n}.bin": data[n : n + LARGE] for n in range(large)}
    return made


def manifest(server: CountingServer, objects: dict[str, bytes], path: Path, **columns: str) -> str:
    """Writes a manifest of the objects, with sizes; returns its path."""
    with path.open("w") as file:
        for name, data in objects.items():
            record = {"url": server.url(name), "path": name[1:], "size": len(data), **columns}
            file.write(json.dumps(record) + "\n")
    return str(path)


def assert_is_there(dest: Path, objects: dict[str, bytes]) -> None:
    """Asserts that the objects, and nothing else but the ledger, are below a folder, and in the ledger."""
    found = {
        "/" + str(path.relative_to(dest)): path
        for path in dest.rglob("*")
        if path.is_file() and ".fastxfer" not in path.parts
    }
    assert found.keys() == objects.keys()
    assert [name for name, data in objects.items() if found[name].read_bytes() != data] == []
    with Ledger(dest) as ledger:
        kept = {"/" + path: known for path, _, known in ledger.kept()}
        counts = ledger.counts()
    assert kept.keys() == objects.keys()
    assert not counts.get("failed") and not counts.get("refused")
    for name, known in kept.items():
        there = found[name].stat()
        assert (known.size, known.mtime_ns) == (there.st_size, there.st_mtime_ns)
    assert not [*(dest / ".fastxfer" / "ranges").glob("*")]
    assert not [*(dest / ".fastxfer").glob("run-*")]


def test_two_of_four_workers_die_and_all_is_there(four: Client, small_ranges: None, tmp_path: Path) -> None:
    objects = make_set(SMALL, 3)
    dest = tmp_path / "dest"
    pids = {address: int(pid) for address, pid in four.run(os.getpid).items()}
    doomed = sorted(pids.values())[:2]
    fetched: list[str] = []

    def told(event: MirrorItem) -> None:
        fetched.append(event.path)
        if len(fetched) in (SMALL // 5, SMALL // 2):
            os.kill(doomed.pop(), signal.SIGKILL)

    with CountingServer(objects, takes_s=0.004) as server:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        report = fastxfer.mirror(
            source, dest, cluster=four, told=told, connections=16, connections_per_host=CAP
        )
        most, requests = server.most, len(server.requests)
        again = fastxfer.mirror(source, dest, cluster=four, connections_per_host=CAP)
        assert len(server.requests) == requests
    assert not doomed
    assert set(pids.values()) - set(map(int, four.run(os.getpid).values()))
    assert (report.ok, report.fetched, report.failed) == (True, len(objects), 0)
    assert len(fetched) == len(set(fetched)) == len(objects)
    assert CAP - 2 < most <= CAP
    assert again.same == len(objects)
    assert_is_there(dest, objects)


def test_a_run_that_was_killed_goes_on_with_its_ranges(
    two: Client, small_ranges: None, tmp_path: Path
) -> None:
    objects = {"/a/large.bin": make_bytes(12 * RANGE), **make_set(60, 0)}
    free = threading.Event()
    gone: list[int] = []

    def before(request: Request) -> None:
        if request.target == "/a/large.bin" and request.range not in ("", "bytes=0-0"):
            gone.append(int(request.range[6:].partition("-")[0]) // RANGE)
            if len(gone) > 5:
                assert free.wait(DEADLINE_S)

    dest = tmp_path / "dest"
    address = two.scheduler.address
    with CountingServer(objects, before=before) as server:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        program = (
            "import sys; from fastxfer.dataset import cluster, split; from fastxfer.cli.main import main;"
            f"cluster.SPLIT_BYTES = split.RANGE_BYTES = {RANGE}; sys.exit(main(sys.argv[1:]))"
        )
        command = [COMMAND[0], "-c", program, "mirror", source, str(dest), "--dask", address, "--json"]
        command += ["--connections", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as running:
            assert running.stdout is not None
            watch = threading.Timer(DEADLINE_S, running.kill)
            watch.start()
            for line in running.stdout:
                if json.loads(line).get("transferred", 0) >= 5 * RANGE:
                    break
            running.kill()
        watch.cancel()
        assert running.returncode == -signal.SIGKILL
        assert not (dest / "a" / "large.bin").exists()
        (path,) = (dest / ".fastxfer" / "ranges").glob("*.note")
        note = Note.decode(path.read_bytes())
        assert note is not None and len(note.done) == 5
        free.set()
        report = fastxfer.mirror(source, dest, cluster=two, connections=1)
    assert report.ok
    assert sorted(gone[:5]) == sorted(note.done)
    assert not set(gone[5:]) & set(note.done)
    assert_is_there(dest, objects)


def test_no_secret_is_told_to_the_scheduler(two: Client, tmp_path: Path) -> None:
    objects = make_set(40, 0)
    names = {**{f"{name}?token={SECRET}": data for name, data in objects.items()}}
    keys: set[str] = set()

    def told(_: MirrorItem) -> None:
        if not keys:
            keys.update(map(str, two.run_on_scheduler(_seen_keys)))

    with CountingServer(objects) as server:
        source = tmp_path / "set.jsonl"
        with source.open("w") as file:
            for name, data in {**names, f"/missing?token={SECRET}": b"x"}.items():
                record = {"url": server.url(name), "path": name[1:].partition("?")[0], "size": len(data)}
                file.write(json.dumps(record) + "\n")
        report = fastxfer.mirror(
            str(source),
            tmp_path / "dest",
            cluster=two,
            told=told,
            headers={"Authorization": f"Bearer {SECRET}"},
            durability="none",
        )
        sent = {request.headers.get("authorization") for request in server.requests}
    assert sent == {f"Bearer {SECRET}"}
    assert (report.fetched, report.failed) == (len(objects), 1)
    said = json.dumps([report.to_dict(), sorted(keys)])
    said += str(two.get_scheduler_logs()) + str(two.get_worker_logs())
    said += str(two.run_on_scheduler(_transitions))
    assert keys and all(re.fullmatch(r"fastxfer-[0-9a-f]+-\d+", key) for key in keys)
    assert SECRET not in said and f":{server.port}" not in str(sorted(keys))


def _seen_keys(dask_scheduler: Any) -> list[str]:
    return [str(key) for key in dask_scheduler.tasks]


def _transitions(dask_scheduler: Any) -> str:
    return repr(list(dask_scheduler.transition_log)) + repr(list(dask_scheduler.tasks.values()))


def test_another_origin_than_the_sources_is_told_no_secret(
    small_ranges: None, three: Executor, tmp_path: Path
) -> None:
    objects, own = make_set(20, 1), {"/own.bin": make_bytes(LARGE)}
    with CountingServer(objects) as stranger, CountingServer(own) as home:
        manifest(stranger, objects, tmp_path / "set.jsonl")
        manifest(home, own, tmp_path / "own.jsonl")
        listed = (tmp_path / "set.jsonl").read_bytes() + (tmp_path / "own.jsonl").read_bytes()
        home.objects["/set.jsonl"] = RangeHandler(listed)
        report = fastxfer.mirror(
            home.url("/set.jsonl"),
            tmp_path / "dest",
            cluster=three,
            headers={"Authorization": f"Bearer {SECRET}"},
        )
        asked = [each.headers.get("authorization") for each in stranger.requests]
        at_home = {each.headers.get("authorization") for each in home.requests}
    assert report.ok
    assert len(asked) > len(objects) and set(asked) == {None}
    assert at_home == {f"Bearer {SECRET}"}
    assert_is_there(tmp_path / "dest", {**objects, **own})


# ---- executors ----


def pool(kind: str) -> Executor:
    """Returns an executor of three."""
    if kind == "threads":
        return ThreadPoolExecutor(3)
    return ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_will_do_and_the_cap_holds(kind: str, small_ranges: None, tmp_path: Path) -> None:
    objects = make_set(300, 2)
    with CountingServer(objects, takes_s=0.004) as server, pool(kind) as executor:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        states: list[MirrorProgress] = []
        report = fastxfer.mirror(
            source, tmp_path / "dest", cluster=executor, connections_per_host=4, progress=states.append
        )
        assert 1 < server.most <= 4
        total = sum(map(len, objects.values()))
        assert (states[-1].done, states[-1].bytes, states[-1].size) == (len(objects), total, total)
        # Fewer than there are workers: so many units at once, of one request each.
        second = fastxfer.mirror(
            source, tmp_path / "two", cluster=executor, connections_per_host=2, include="1/*"
        )
    assert report.ok and report.fetched == len(objects)
    assert second.ok and second.fetched > 30
    assert_is_there(tmp_path / "dest", objects)


def test_what_somebody_seems_to_write_is_tried_again_at_the_end(tmp_path: Path) -> None:
    objects, dest = make_set(60, 0), tmp_path / "dest"
    (dest / "1").mkdir(parents=True)
    (dest / "1" / "1.bin.fxnew").write_bytes(b"left by one that was killed")
    held = os.open(dest / "1", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)  # as a run has it that writes there
    fetched: list[str] = []

    def told(event: MirrorItem) -> None:
        fetched.append(event.path)
        if len(fetched) == len(objects) - 1:
            os.close(held)

    with CountingServer(objects) as server, pool("threads") as executor:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        report = fastxfer.mirror(source, dest, cluster=executor, told=told)
    assert report.ok
    assert fetched[-1] == "1/1.bin"
    assert_is_there(dest, objects)


def test_a_pool_that_breaks_says_so_and_the_next_one_goes_on(tmp_path: Path) -> None:
    objects = make_set(300, 0)
    with CountingServer(objects, takes_s=0.004) as server:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        with pool("processes") as executor:
            assert isinstance(executor, ProcessPoolExecutor)
            count = 0

            def told(_: MirrorItem) -> None:
                nonlocal count
                count += 1
                if count == 50:
                    os.kill(executor.submit(os.getpid).result(DEADLINE_S), signal.SIGKILL)

            with pytest.raises(FastxferError, match="with it the executor"):
                fastxfer.mirror(source, tmp_path / "dest", cluster=executor, told=told)
        with pool("threads") as other:
            report = fastxfer.mirror(source, tmp_path / "dest", cluster=other)
    assert report.ok and 0 < report.fetched <= len(objects) - 50
    assert_is_there(tmp_path / "dest", objects)


def test_an_option_that_cannot_travel_is_named(tmp_path: Path) -> None:
    objects = make_set(3, 0)
    with CountingServer(objects) as server, pool("processes") as executor:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        with pytest.raises(OptionError, match="pickled"):
            fastxfer.mirror(source, tmp_path / "dest", cluster=executor, credentials=lambda: ("a", "b"))


def test_a_stopped_run_ends_soon_and_goes_on_later(tmp_path: Path) -> None:
    objects = make_set(200, 0)
    free = threading.Event()
    number = iter(range(10**9))

    def before(_: Request) -> None:
        if next(number) == 60:
            stopping.set()
        if stopping.is_set():
            assert free.wait(DEADLINE_S)

    stopping = threading.Event()
    with CountingServer(objects, before=before) as server, pool("threads") as executor:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        running = begin_mirror(source, tmp_path / "dest", cluster=executor)
        assert stopping.wait(DEADLINE_S)
        running.cancel()
        assert running.over.wait(DEADLINE_S)
        with pytest.raises(InterruptedTransferError):
            running.wait()
        # The workers let go of their units too, though the server holds them still.
        idle = threading.Barrier(3)
        assert sorted(executor.map(lambda _: idle.wait(DEADLINE_S), range(3))) == [0, 1, 2]
        free.set()
        stopping.clear()
        report = fastxfer.mirror(source, tmp_path / "dest", cluster=executor)
    assert report.ok
    assert_is_there(tmp_path / "dest", objects)


# ---- large objects ----


@pytest.fixture
def three() -> Iterator[Executor]:
    """An executor of three threads."""
    with pool("threads") as executor:
        yield executor


def test_a_server_without_ranges_is_asked_for_the_whole(
    nginx: Nginx, document_root: Path, small_ranges: None, three: Executor, tmp_path: Path
) -> None:
    data = make_bytes(LARGE)
    (document_root / "whole.bin").write_bytes(data)
    source = tmp_path / "one.jsonl"
    url = nginx.url("whole.bin", prefix="noranges")
    source.write_text(json.dumps({"url": url, "path": "whole.bin", "size": LARGE}))
    report = fastxfer.mirror(str(source), tmp_path / "dest", cluster=three)
    assert report.ok
    assert_is_there(tmp_path / "dest", {"/whole.bin": data})


def test_an_object_that_changes_is_begun_anew(small_ranges: None, three: Executor, tmp_path: Path) -> None:
    old, new = make_bytes(LARGE, 1), make_bytes(LARGE, 2)
    ranges = 0

    def before(request: Request) -> None:
        nonlocal ranges
        ranges += bool(request.range)
        if ranges == 4:
            server.objects["/large.bin"].replace(new)

    with CountingServer({"/large.bin": old}, before=before) as server:
        source = manifest(server, {"/large.bin": old}, tmp_path / "set.jsonl")
        report = fastxfer.mirror(source, tmp_path / "dest", cluster=three)
    assert report.ok
    assert_is_there(tmp_path / "dest", {"/large.bin": new})


def test_what_a_killed_run_left_damaged_is_fetched_anew(
    small_ranges: None, three: Executor, tmp_path: Path
) -> None:
    data, dest = make_bytes(LARGE), tmp_path / "dest"
    refuses = True

    def before(request: Request) -> None:
        if refuses and request.range.startswith(f"bytes={3 * RANGE}-"):
            raise ConnectionResetError

    with CountingServer({"/large.bin": data}, before=before) as server:
        source = manifest(server, {"/large.bin": data}, tmp_path / "set.jsonl")
        failed = fastxfer.mirror(source, dest, cluster=three, retries=0)
        assert failed.failed == 1 and not (dest / "large.bin").exists()
        (left,) = (dest / ".fastxfer" / "ranges").glob("*.bytes")
        (path,) = (dest / ".fastxfer" / "ranges").glob("*.note")
        note = Note.decode(path.read_bytes())
        assert note is not None and note.done
        with left.open("r+b") as file:
            file.seek(RANGE * min(note.done) + 1000)
            file.write(b"damage")
        refuses = False
        report = fastxfer.mirror(source, dest, cluster=three)
    assert report.ok
    assert_is_there(dest, {"/large.bin": data})


def test_a_digest_of_the_listing_is_held_against_the_whole(
    small_ranges: None, three: Executor, tmp_path: Path
) -> None:
    data = make_bytes(LARGE)
    objects = {"/large.bin": data}
    right, wrong = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"other").hexdigest()
    with CountingServer(objects) as server:
        good = manifest(server, objects, tmp_path / "good.jsonl", checksum=f"sha256:{right}")
        bad = manifest(server, objects, tmp_path / "bad.jsonl", checksum=f"sha256:{wrong}")
        refused = fastxfer.mirror(bad, tmp_path / "bad", cluster=three)
        report = fastxfer.mirror(good, tmp_path / "good", cluster=three)
    assert (refused.failed, refused.failures[0].error) == (1, "ChecksumError")
    assert not (tmp_path / "bad" / "large.bin").exists()
    assert not [*(tmp_path / "bad" / ".fastxfer" / "ranges").glob("*")]
    assert report.ok
    assert_is_there(tmp_path / "good", objects)


@pytest.mark.parametrize(
    "harm",
    [
        lambda value: [],
        lambda value: {**value, "identity": ["many", None, None, None]},
        lambda value: {**value, "identity": [1]},
        lambda value: {**value, "range_bytes": 0},
        lambda value: {**value, "done": {"99": "0" * 16}},
        lambda value: {**value, "done": {"-1": "0" * 16}},
        lambda value: {**value, "done": None},
    ],
)
def test_a_note_that_is_damaged_is_none(harm: Any) -> None:
    note = Note("a/b", Identity(100, '"e"'), 10, {0: 1, 9: 2**64 - 1}, "boot", True)
    assert Note.decode(note.encode()) == note
    assert Note.decode(json.dumps(harm(json.loads(note.encode()))).encode()) is None
    assert Note.decode(note.encode()[:-3]) is None


# ---- what cannot be ----


def test_a_worker_that_sees_another_folder_is_told_apart(three: Executor, tmp_path: Path) -> None:
    objects = make_set(3, 0)
    with CountingServer(objects) as server:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        running = begin_mirror(source, tmp_path / "dest", cluster=Elsewhere(three, tmp_path / "other"))
        with pytest.raises(StorageError, match="another folder"):
            running.wait()
        assert not server.requests


class Elsewhere(Executor):
    """An executor whose workers see another folder under the path of the destination."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor, self._folder = executor, folder
        (folder / ".fastxfer").mkdir(parents=True)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See Executor."""
        from dataclasses import replace

        (unit,) = args
        return self._executor.submit(
            fn, replace(unit, place=replace(unit.place, root=str(self._folder))), **kwargs
        )


def test_an_address_that_is_none_and_two_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dask"):
        fastxfer.mirror("http://127.0.0.1:9/", tmp_path, dask="here")
    with pytest.raises(OptionError, match="cluster and dask"):
        fastxfer.mirror("http://127.0.0.1:9/", tmp_path, dask="local", cluster="local")
    with pytest.raises(OptionError, match="to a folder"):
        fastxfer.mirror("http://127.0.0.1:9/", "s3://bucket/prefix", dask="local")


def test_a_scheduler_that_is_not_there_is_named(
    nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastxfer.dataset import crews

    monkeypatch.setattr(crews, "CONNECT_S", 0.5)
    source = tmp_path / "list.jsonl"
    source.write_text(json.dumps({"url": nginx.url("none"), "path": "none"}))
    with pytest.raises(NetworkError, match="no Dask scheduler answers"):
        fastxfer.mirror(str(source), tmp_path / "dest", cluster="tcp://127.0.0.1:9")


def test_without_distributed_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"pip install 'fastxfer\[dask\]'"):
        fastxfer.mirror("http://127.0.0.1:9/", tmp_path, cluster="local")


def test_a_scheduler_that_goes_ends_the_run_and_the_next_cluster_goes_on(tmp_path: Path) -> None:
    objects = make_set(300, 0)
    count = 0

    def told(_: MirrorItem) -> None:
        nonlocal count
        count += 1
        if count == 50:
            made.sync(made.scheduler.close)

    with CountingServer(objects, takes_s=0.004) as server:
        source = manifest(server, objects, tmp_path / "set.jsonl")
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
            LocalCluster(
                n_workers=1,
                processes=False,
                protocol="tcp://",
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            ) as made,
            Client(made, set_as_default=False) as client,
            pytest.raises(NetworkError, match="scheduler is lost"),
        ):
            fastxfer.mirror(source, tmp_path / "dest", cluster=client, told=told)
        with pool("threads") as executor:
            report = fastxfer.mirror(source, tmp_path / "dest", cluster=executor)
    assert report.ok
    assert_is_there(tmp_path / "dest", objects)
