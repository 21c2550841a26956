"""The end of a transfer over real sockets: slow and stalled connections do not keep it waiting, and what a
race brings never mixes with what the other request writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastxfer.download
from fastxfer.plan.scheduler import WASTE_BYTES
from tests.faults.scenarios import wait
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Connection, RangeHandler, RawServer, Request
from tests.servers.shaping import Shaped

MIB = 1 << 20
DATA = make_bytes(4 * MIB + 17)
SIZE = len(DATA)
STALL_S = 60.0
"""The time-out of a stall: no test waits for it, each is over long before."""


def fetch(url: str, out: Path, connections: int = 4, **options: Any) -> fastxfer.FetchResult:
    options = {"stall_timeout": STALL_S, "durability": "none", **options}
    return wait(fastxfer.start(url, out, connections, **options), STALL_S / 2)


def span_of(request: Request) -> tuple[int, int]:
    first, _, last = request.range.removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1


class Slow(RangeHandler):
    """Stalls in the answer to its third request; the next one from where it stalls is its racer."""

    def __init__(self, at: int, racer: Callable[[Connection, bytes], None] | None = None) -> None:
        super().__init__(DATA)
        self.at = at
        self.racer = racer
        self.stalled: tuple[int, int] | None = None
        self.raced = 0
        self.go_on = threading.Event()
        self.breaks = False
        self._lock = threading.Lock()

    def __call__(self, request: Request, connection: Connection) -> None:
        start, stop = span_of(request)
        with self._lock:
            first = request.number == 2
            if first:
                self.stalled = (start, stop)
            # Another start inside would be of one that takes the end of the run.
            races = not first and self.stalled is not None and start == self.stalled[0] + self.at
            self.raced += races
            races = races and self.raced == 1
        if first:
            fields = self.head(self.content, 206, (start, stop))
            connection.send_head(206, fields)
            connection.send(DATA[start : start + self.at])
            connection.stall(self.go_on)
            if self.breaks:
                connection.reset()
            else:
                connection.send(DATA[start + self.at : stop])
        elif races and self.racer is not None:
            self.racer(connection, DATA[start:stop])
        else:
            super().__call__(request, connection)


def bounded(result: fastxfer.FetchResult) -> None:
    assert 0 <= result.transferred + result.resumed - SIZE <= WASTE_BYTES


@pytest.mark.parametrize("at", [0, 1, 100_000])
@pytest.mark.parametrize("sink", ["direct", "mmap", "pwrite"])
def test_a_stalled_connection_is_raced_and_not_waited_for(tmp_path: Path, at: int, sink: str) -> None:
    handler = Slow(at)
    with RawServer(handler) as server:
        result = fetch(server.url(), tmp_path / "out", sink=sink)
    assert (tmp_path / "out").read_bytes() == DATA
    assert handler.raced >= 1
    assert (result.retries, result.transferred) == (0, SIZE), (
        "nothing came twice: the stalled one brought none"
    )


def test_bytes_of_a_racer_that_loses_are_nowhere_in_the_file(tmp_path: Path) -> None:
    """The racer sends other bytes (another mirror would be one that lies), all but the last one."""
    handler = Slow(1000)

    def lies(connection: Connection, asked: bytes) -> None:
        start, stop = span_of(connection_request[-1])
        fields = handler.head(handler.content, 206, (start, stop))
        connection.send_head(206, fields)
        connection.send(bytes(255 - byte for byte in asked[:-1]))
        handler.go_on.set()
        connection.wait_until_gone()

    connection_request: list[Request] = []
    handler.racer = lies

    def serve(request: Request, connection: Connection) -> None:
        if handler.stalled is not None and span_of(request)[0] == handler.stalled[0] + handler.at:
            connection_request.append(request)
        handler(request, connection)

    with RawServer(serve) as server:
        result = fetch(server.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    assert connection_request, "there was a race"
    assert result.transferred > SIZE, "what came in vain is counted"
    bounded(result)


def test_a_racer_takes_over_when_the_raced_connection_breaks(tmp_path: Path) -> None:
    handler = Slow(5000)
    handler.breaks = True
    asked_for: list[Request] = []

    def half(connection: Connection, asked: bytes) -> None:
        start, stop = span_of(asked_for[-1])
        connection.send_head(206, handler.head(handler.content, 206, (start, stop)))
        connection.send(asked[: len(asked) // 2])
        handler.go_on.set()
        broken.wait(STALL_S / 4)
        connection.send(asked[len(asked) // 2 :])

    handler.racer = half
    broken = threading.Event()

    def serve(request: Request, connection: Connection) -> None:
        asked_for.append(request)
        handler(request, connection)

    def watch(progress: fastxfer.Progress) -> None:
        if "again" in progress.note:
            broken.set()

    with RawServer(serve) as server:
        result = fetch(server.url(), tmp_path / "out", progress=watch)
    assert (tmp_path / "out").read_bytes() == DATA
    assert result.retries == 1, "the connection that broke"
    assert result.transferred == SIZE


@pytest.mark.parametrize("status", [403, 404, 416, 429, 500, 503])
def test_a_racer_that_is_refused_ends_nothing(tmp_path: Path, status: int) -> None:
    handler = Slow(1000)

    def refuse(connection: Connection, asked: bytes) -> None:
        connection.respond(status)
        handler.go_on.set()

    handler.racer = refuse
    with RawServer(handler) as server:
        result = fetch(server.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    assert handler.raced >= 1
    bounded(result)


def test_a_slow_connection_loses_most_of_its_run(tmp_path: Path, nginx: Nginx, objects: Objects) -> None:
    made = objects.make(24 * MIB, name="slow-one.bin")
    rate = 4e6
    with Shaped(nginx.ports["http"], rate=rate, slow=(3,), slow_rate=rate / 20) as shaped:
        result = fetch(shaped.url("slow-one.bin"), tmp_path / "out", 8, checksum=f"sha256:{made.sha256}")
    fixed_s = 24 * MIB / 8 / (rate / 20)
    assert result.elapsed < fixed_s / 2, "equal parts would take until the slow one has its eighth"
    assert 0 <= result.transferred - result.size <= WASTE_BYTES


def test_a_connection_far_slower_than_the_others_is_exchanged(
    tmp_path: Path, nginx: Nginx, objects: Objects
) -> None:
    """The bytes come sooner than the connections of the beginning could have brought them."""
    made = objects.make(64 * MIB, name="exchanged.bin")
    rate, slow = 2e6, 1e5
    with Shaped(nginx.ports["http"], rate=rate, slow=(3,), slow_rate=slow) as shaped:
        result = fetch(shaped.url("exchanged.bin"), tmp_path / "out", 8, checksum=f"sha256:{made.sha256}")
    assert result.elapsed < made.size / (7 * rate + slow)
    assert result.retries == 0, "it is no failure"
    assert 0 <= result.transferred - result.size <= WASTE_BYTES


def test_streams_share_a_connection_and_are_cut_without_losing_it(
    tmp_path: Path, own_nginx: Nginx, objects: Objects
) -> None:
    made = objects.make(12 * MIB, name="streams.bin")
    url = own_nginx.url("streams.bin", tls=True, prefix="slow1m")
    result = fetch(
        url,
        tmp_path / "out",
        6,
        http_version="2",
        verify_tls=False,
        checksum=f"sha256:{made.sha256}",
    )
    entries = own_nginx.requests("streams.bin")
    assert len({entry.connection for entry in entries}) == 1
    assert 0 <= result.transferred - result.size <= WASTE_BYTES


def test_the_requests_of_a_small_object_are_no_more_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastxfer.download, "LATE_S", STALL_S)  # this machine may be busy
    with RawServer(RangeHandler(DATA[:MIB])) as server:
        fetch(server.url(), tmp_path / "out", 16)
    assert server.connections <= 4
    assert (tmp_path / "out").read_bytes() == DATA[:MIB]


def test_a_pause_in_a_race_keeps_everything(tmp_path: Path) -> None:
    handler = Slow(1000)
    paused = threading.Event()

    def racer(connection: Connection, asked: bytes) -> None:
        paused.set()
        connection.wait_until_gone()

    handler.racer = racer
    with RawServer(handler) as server:
        transfer = fastxfer.start(server.url(), tmp_path / "out", 4, stall_timeout=STALL_S, durability="none")
        assert paused.wait(STALL_S / 4)
        transfer.pause()
        transfer.resume()
        handler.go_on.set()
        result = wait(transfer, STALL_S / 2)
    assert (tmp_path / "out").read_bytes() == DATA
    bounded(result)
