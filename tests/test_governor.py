"""Transfers and processes that share a host: what it bears, what it asks for, connections and rates."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from tests.faults.scenarios import wait
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Connection, RangeHandler, RawServer, Request

DEADLINE_S = 60.0
RAMP_S = 1.5
MIB = 1024**2
DATA = make_bytes(6 * MIB, 3)


@contextmanager
def processes(urls: list[str], directory: Path, *options: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Runs a fetch of each URL in a process of its own; all have ended well when the context ends."""
    command = [sys.executable, "-m", "fastxfer", "fetch", "-q", *options]
    running = [subprocess.Popen([*command, url, "-o", str(directory / str(n))]) for n, url in enumerate(urls)]
    try:
        yield running
        deadline = time.monotonic() + DEADLINE_S
        assert [each.wait(deadline - time.monotonic()) for each in running] == [0] * len(running)
    finally:
        for each in running:
            each.kill()
            each.wait()


def fetch_all(urls: list[str], directory: Path, **options: Any) -> list[fastxfer.FetchResult]:
    """Fetches all URLs at once in this process."""
    transfers = [fastxfer.start(url, directory / str(n), **options) for n, url in enumerate(urls)]
    return [wait(transfer, DEADLINE_S) for transfer in transfers]


def in_one_process(urls: list[str], directory: Path, *options: str) -> None:
    named = zip(options[::2], options[1::2], strict=True)
    fetch_all(urls, directory, **{name.strip("-").replace("-", "_"): value for name, value in named})


def in_processes(urls: list[str], directory: Path, *options: str) -> None:
    with processes(urls, directory, *options):
        pass


Way = Callable[..., None]
ways = pytest.mark.parametrize("way", [in_one_process, in_processes], ids=["threads", "processes"])


# ---- what a host bears ----


@pytest.mark.parametrize(
    ("way", "count", "size"),
    [(in_one_process, 1, 10 * MIB), (in_one_process, 8, 3 * MIB // 2), (in_processes, 3, 4 * MIB)],
    ids=["one-transfer", "eight-transfers", "three-processes"],
)
def test_a_server_that_serves_four_at_once_refuses_hardly_any_after_the_ramp(
    own_nginx: Nginx, objects: Objects, tmp_path: Path, way: Way, count: int, size: int
) -> None:
    thing = objects.make(size, name=f"few-{count}.bin")
    urls = [own_nginx.url(thing.name, prefix="few220k") + f"?{n}" for n in range(count)]
    way(urls, tmp_path)
    for n in range(count):
        assert (tmp_path / str(n)).read_bytes() == thing.path.read_bytes()
    log = own_nginx.requests(thing.name, body_bytes=count * size)
    began = {
        n: [e.finished_at - e.request_time for e in log if e.target.endswith(f"?{n}")] for n in range(count)
    }
    ramp = max(min(times) for times in began.values()) + RAMP_S
    late = [entry for entry in log if entry.finished_at - entry.request_time > ramp]
    refused = [entry for entry in late if entry.status == 429]
    assert {entry.status for entry in log} == {206, 429}, "it was too much at first"
    assert len(late) > 10
    assert len(refused) <= max(1, 0.05 * len(late))


class Counting(RangeHandler):
    """Serves an object, each answer after a moment; knows when requests came and how many were there at once.

    `most` lets only so many in and answers 429 to the others; `told` is when it said the first time that it
    wants to be left alone, at the request with the number `at`. Nothing is answered before requests for so
    many objects have come.
    """

    def __init__(
        self,
        data: bytes = DATA,
        *,
        most: int = 1 << 30,
        at: int = 1 << 30,
        retry_after_s: int = 0,
        objects: int = 0,
    ) -> None:
        super().__init__(data)
        self.peak = 0
        self.came: list[tuple[float, str]] = []
        self.refused: list[float] = []
        self.told: float | None = None
        self._at, self._after, self._most = at, retry_after_s, most
        self._inside = 0
        self._objects = objects
        self._lock = threading.Condition()
        self._never = threading.Event()

    def __call__(self, request: Request, connection: Connection) -> None:
        with self._lock:
            now = time.monotonic()
            self.came.append((now, request.target))
            self._lock.notify_all()
            self._lock.wait_for(lambda: len({at for _, at in self.came}) >= self._objects, DEADLINE_S)
            now = time.monotonic()
            says_so = request.number >= self._at and self.told is None
            full = self._inside >= self._most
            if says_so:
                self.told = now
            elif full:
                self.refused.append(now)
            else:
                self._inside += 1
                self.peak = max(self.peak, self._inside)
        if says_so or full:
            connection.respond(429, {"Retry-After": str(self._after)} if says_so else {})
            return
        try:
            self._never.wait(0.05)  # an answer takes its time
        finally:
            with self._lock:
                self._inside -= 1
        super().__call__(request, connection)


@ways
def test_a_scripted_server_that_serves_four_at_once_is_no_failure(tmp_path: Path, way: Way) -> None:
    handler = Counting(most=4)
    with RawServer(handler) as server:
        way([server.url(f"/{n}") for n in range(3)], tmp_path)
    assert all((tmp_path / str(n)).read_bytes() == DATA for n in range(3))
    ramp = max(min(at for at, target in handler.came if target == f"/{n}") for n in range(3)) + RAMP_S
    late = sum(at > ramp for at, _ in handler.came)
    assert sum(at > ramp for at in handler.refused) <= max(1, 0.05 * late)


@pytest.mark.parametrize(("way", "grace_s"), [(in_one_process, 0.5), (in_processes, 1.5)])
def test_all_wait_when_one_is_told_to(tmp_path: Path, way: Way, grace_s: float) -> None:
    handler = Counting(DATA * 4, at=8, retry_after_s=3, objects=5)
    with RawServer(handler) as server:
        way([server.url(f"/{n}") for n in range(5)], tmp_path, "--connections", "3")
    assert handler.told is not None
    told = handler.told
    assert len({target for at, target in handler.came if at > told}) > 1, "others had more to ask"
    assert [target for at, target in handler.came if told + grace_s < at < told + 2.9] == []


def test_a_wait_for_a_host_shows_in_the_progress_of_all(tmp_path: Path) -> None:
    states: dict[int, set[str]] = {0: set(), 1: set()}
    with RawServer(Counting(at=6, retry_after_s=1)) as server:
        transfers = [
            fastxfer.start(server.url("/0"), tmp_path / "0", 1, progress=lambda p: states[0].add(p.state)),
            fastxfer.start(server.url("/1"), tmp_path / "1", 1, progress=lambda p: states[1].add(p.state)),
        ]
        for transfer in transfers:
            wait(transfer, DEADLINE_S)
    assert "waiting" in states[0] & states[1]


# ---- how many connections ----


@ways
@pytest.mark.parametrize(
    ("options", "most"),
    [((), 32), (("--connections-per-host", "5"), 5), (("--connections", "48"), 48)],
    ids=["usual", "5", "asked"],
)
def test_a_host_is_asked_for_so_much_at_once_in_all(
    tmp_path: Path, way: Way, options: tuple[str, ...], most: int
) -> None:
    handler = Counting()
    with RawServer(handler) as server:
        way([server.url(f"/{n}") for n in range(4)], tmp_path, *options)
    assert handler.peak <= most
    assert {target for _, target in handler.came} == {"/0", "/1", "/2", "/3"}


class Parts(RangeHandler):
    """Knows how many requests of each process are there; answers the first when all have come, and takes its
    time for each.
    """

    def __init__(self, count: int) -> None:
        super().__init__(DATA)
        self.inside = {f"/{n}": 0 for n in range(count)}
        self.changed = threading.Condition()
        self._missing = set(self.inside)

    def __call__(self, request: Request, connection: Connection) -> None:
        with self.changed:
            self.inside[request.target] += 1
            self._missing.discard(request.target)
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._missing, DEADLINE_S)
            self.changed.wait_for(lambda: False, 0.2)
            self.inside[request.target] -= 1
        super().__call__(request, connection)


def test_processes_that_share_a_host_come_to_have_even_parts(tmp_path: Path) -> None:
    handler = Parts(3)
    with RawServer(handler) as server:
        urls = [server.url(target) for target in handler.inside]
        with processes(urls, tmp_path, "--connections-per-host", "6"), handler.changed:
            assert handler.changed.wait_for(lambda: set(handler.inside.values()) == {2}, DEADLINE_S)
    assert all((tmp_path / str(n)).read_bytes() == DATA for n in range(3))


def test_where_a_redirect_leads_the_host_there_counts(tmp_path: Path) -> None:
    handler = Counting()
    with RawServer(handler) as there:

        def lead(request: Request, connection: Connection) -> None:
            connection.respond(302, {"Location": there.url(request.target)})

        with RawServer(lead) as here:
            urls = [here.url(f"/{n}") for n in range(6)]
            results = fetch_all(urls, tmp_path, connections_per_host=2)
    assert handler.peak <= 2
    assert [result.size for result in results] == [len(DATA)] * 6


def test_a_transfer_that_waits_where_a_redirect_led_it_can_be_paused(tmp_path: Path) -> None:
    gate, inside = threading.Event(), threading.Event()

    class Gated(RangeHandler):
        def __call__(self, request: Request, connection: Connection) -> None:
            inside.set()
            connection.stall(gate)
            super().__call__(request, connection)

    with RawServer(Gated(DATA)) as there:
        asked = threading.Event()

        def lead(request: Request, connection: Connection) -> None:
            connection.respond(302, {"Location": there.url(request.target)})
            asked.set()

        with RawServer(lead) as here:
            first = fastxfer.start(there.url("/0"), tmp_path / "0", 1, connections_per_host=1)
            assert inside.wait(DEADLINE_S)
            second = fastxfer.start(here.url("/1"), tmp_path / "1", 1, connections_per_host=1)
            assert asked.wait(DEADLINE_S)
            second.pause()
            gate.set()
            wait(first, DEADLINE_S)
            assert not second.done and len({r.target for r in there.requests}) == 1
            second.resume()
            assert wait(second, DEADLINE_S).size == len(DATA)


def test_a_process_that_is_killed_leaves_its_place_to_others(tmp_path: Path) -> None:
    gate = threading.Event()

    class Gated(Counting):
        def __call__(self, request: Request, connection: Connection) -> None:
            if request.target == "/dead":
                connection.stall(gate)
            super().__call__(request, connection)

    command = [sys.executable, "-m", "fastxfer", "fetch", "-q", "--connections-per-host", "1"]
    handler = Gated()
    with RawServer(handler) as server:
        dead = subprocess.Popen([*command, server.url("/dead"), "-o", str(tmp_path / "dead")])
        try:
            server.wait_for_requests(1)
        finally:
            dead.kill()
            dead.wait()
        began = time.monotonic()
        fetch_all([server.url("/alive")], tmp_path, connections_per_host=1)
        gate.set()
    came = next(at for at, target in handler.came if target == "/alive")
    assert came - began < 4.0, "sooner than it would be forgotten"


# ---- rates ----


@pytest.mark.parametrize("option", ["max_rate_per_host", "max_rate_total"])
def test_three_transfers_keep_to_a_common_rate(
    nginx: Nginx, objects: Objects, tmp_path: Path, option: str
) -> None:
    rate, size = 6 * MIB, 6 * MIB
    thing = objects.make(size)
    began = time.monotonic()
    results = fetch_all([nginx.url(thing.name)] * 3, tmp_path, **{option: rate})
    took = time.monotonic() - began
    assert 0.95 * 3.0 <= took <= 1.05 * 3.0 + 1.0
    assert [result.transferred for result in results] == [size] * 3, "nothing is raced"


def test_a_rate_that_one_brings_holds_for_who_is_there_already_and_goes_with_it(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    large, small = objects.make(64 * MIB), objects.make(64 * 1024)
    with fastxfer.start(nginx.url(large.name), tmp_path / "a", max_rate="256K") as first:
        with fastxfer.start(nginx.url(large.name), tmp_path / "b", max_rate_total="64K") as second:
            wait(fastxfer.start(nginx.url(small.name), tmp_path / "c"), DEADLINE_S)
            moved = first.progress.transferred + second.progress.transferred
            assert moved < 16 * MIB
        assert not first.done


# ---- without the file ----


def test_without_a_place_to_share_a_process_goes_by_its_own_knowledge_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with RawServer(Counting(most=4)) as server:
        results = fetch_all([server.url("/0"), server.url("/1")], tmp_path)
    assert all("not in step with other processes" in "".join(result.notes) for result in results)
    assert (tmp_path / "0").read_bytes() == DATA


def test_many_small_fetches_one_after_another_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with RawServer(RangeHandler(b"x" * 1000)) as server:
        began = time.monotonic()
        for n in range(30):
            fetch_all([server.url(f"/{n}")], tmp_path)
        first = time.monotonic() - began
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: fastxfer.fetch(server.url(f"/{n}"), tmp_path / f"p{n}"), range(30)))
    assert first < 30 * 0.1 + 2.0


def test_many_short_transfers_that_come_and_go_never_wait_for_nothing(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    small = objects.make(1000)

    def fetched(number: int) -> int:
        out = tmp_path / str(number)
        transfer = fastxfer.start(nginx.url(small.name), out, connections=1, durability="none")
        try:
            return transfer.wait(timeout=60).size
        finally:
            transfer.cancel()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetched, range(1200))) == {1000}
