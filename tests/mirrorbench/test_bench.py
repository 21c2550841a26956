"""`fastxfer.bench` against servers that do as they are told: fair, polite, and what it makes of bad input."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import OptionError
from fastxfer.mirrorbench.report import BenchReport, BenchRow
from tests.faults.scenarios import span_of
from tests.servers import Authority, port_of, reserve_port
from tests.servers.caddy import Caddy
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer, Request
from tests.servers.shaping import Shaped

MIB = 1024**2
DATA = make_bytes(6 * MIB, 5)
OTHER = make_bytes(6 * MIB, 6)
SHORT: dict[str, Any] = {
    "connections": (1, 3), "duration": 0.32, "rounds": 4, "connect_timeout": 5, "stall_timeout": 5,
}  # fmt: skip


def bench(*urls: str, **options: Any) -> BenchReport:
    return fastxfer.bench(urls, **{**SHORT, **options})


def by_url(report: BenchReport) -> dict[str, BenchRow]:
    return {row.url: row for row in report.rows}


def test_a_row_tells_what_is_to_be_known(nginx: Nginx, objects: Objects, authority: Authority) -> None:
    thing = objects.make(8 * MIB, 41)
    url = nginx.url(thing.name, tls=True)
    row = by_url(bench(url, nginx.url(thing.name), ca_bundle=str(authority.ca)))[url]
    assert (row.error, row.errors, row.same_object, row.same_validators) == (None, 0, True, True)
    assert (row.size, row.ranges, row.http_version, row.address) == (8 * MIB, True, "1.1", "127.0.0.1")
    assert row.etag is not None and row.last_modified is not None
    assert [each.connections for each in row.by_connections] == [1, 3]
    assert all(len(each.samples) == 4 and each.bytes > 0 for each in row.by_connections)
    assert row.rate is not None and row.rate_low is not None and row.rate_high is not None
    assert 0 < row.rate_low <= row.rate <= row.rate_high
    assert row.first_byte is not None and row.connect is not None and row.wait is not None
    assert row.tls is not None and 0 < row.tls < row.first_byte
    assert (row.advised_connections in (1, 3), row.chunk_size is not None) == (True, True)


def test_http_2_is_told(nginx: Nginx, objects: Objects, authority: Authority) -> None:
    thing = objects.make(8 * MIB, 41)
    report = bench(nginx.url(thing.name, tls=True), ca_bundle=str(authority.ca), http_version="2")
    assert report.rows[0].http_version == "2"
    assert report.rows[0].rate is not None and report.rows[0].errors == 0


def test_other_servers_of_the_same_bytes_are_the_same_object(
    nginx: Nginx, caddy: Caddy, objects: Objects
) -> None:
    thing = objects.make(8 * MIB, 41)
    report = bench(
        nginx.url(thing.name), caddy.url(thing.name, tls=False), nginx.url(thing.name, prefix="/novalidators")
    )
    assert [row.same_object for row in report.rows] == [True] * 3


def test_the_result_is_of_use_to_a_fetch(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB, 41)
    stale = objects.make(8 * MIB, 42, "stale/object.bin")
    urls = [nginx.url(thing.name, prefix="/redirect"), nginx.url(stale.name), nginx.url(thing.name)]
    best = bench(*urls).best(3)
    assert set(best) == {urls[0], urls[2]}
    result = fastxfer.fetch(best[0], tmp_path / "out", mirrors=best[1:], checksum=f"sha256:{thing.sha256}")
    assert result.verified == "checksum"


# ---- fair ----


def test_no_two_are_measured_at_once_and_all_take_turns() -> None:
    order: list[int] = []

    class Noting(RangeHandler):
        def __init__(self, index: int) -> None:
            super().__init__(DATA)
            self.index = index

        def __call__(self, request: Request, connection: Connection) -> None:
            start, stop = span_of(request, len(DATA))
            if stop - start >= 32768:  # neither a look nor a sample of the identity
                order.append(self.index)
            super().__call__(request, connection)

    handlers = [Noting(index) for index in range(3)]
    with RawServer(handlers[0]) as a, RawServer(handlers[1]) as b, RawServer(handlers[2]) as c:
        report = bench(a.url(), b.url(), c.url(), seed=5)
    assert [row.errors for row in report.rows] == [0, 0, 0]
    turns = [each for each, before in zip(order, [None, *order], strict=False) if each != before]
    slices = 3 * len(report.connections) * report.rounds
    assert slices / 3 < len(turns) <= slices < len(order)


def test_ranges_are_asked_for_all_over_the_object() -> None:
    with RawServer(RangeHandler(DATA)) as server:
        bench(server.url(), connections=3, max_bytes="3M", rounds=5, seed=1)
        starts = [span_of(each, len(DATA))[0] for each in server.requests]
    measured = {start for start in starts if start not in (0,)}
    assert len({start // MIB for start in measured}) >= 4
    assert len(measured) >= 10


def test_a_seed_asks_for_the_same_ranges_again() -> None:
    def asked() -> set[str]:
        with RawServer(RangeHandler(DATA)) as server:
            bench(server.url(), connections=1, max_bytes="1M", seed=9)
            return {each.range for each in server.requests}

    assert asked() == asked()


def test_the_bytes_have_a_budget(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(8 * MIB, 43)
    report = bench(nginx.url(thing.name), duration=60, max_bytes="4M")
    assert MIB <= report.rows[0].bytes <= 4 * MIB + 18 * 65536  # what is in flight when it is enough
    assert report.elapsed < 30


def test_known_rates_are_measured_bursts_or_not(nginx: Nginx, objects: Objects) -> None:
    """nginx sends what its limit allows in a second at once, the proxy every 5 ms."""
    thing = objects.make(24 * MIB, 45)
    bursts = nginx.url(thing.name, prefix="/slow512k")
    with Shaped(nginx.ports["http"], rate=2.0 * MIB) as paced:
        report = bench(bursts, paced.url(thing.name), connections=2, duration=1.6)
    found = by_url(report)
    assert found[bursts].rate == pytest.approx(1.0 * MIB, rel=0.25)
    assert found[paced.url(thing.name)].rate == pytest.approx(4.0 * MIB, rel=0.25)
    assert report.rows[0].url == paced.url(thing.name)


def test_a_turn_begins_when_there_is_room_for_all_its_connections(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(24 * MIB, 45)
    with Shaped(nginx.ports["http"], rate=1.0 * MIB) as paced:
        (row,) = bench(paced.url(thing.name), connections=4, duration=0.8).rows
    assert [each.requests for each in row.by_connections] == [4 * 4]


# ---- polite ----


def test_an_overloaded_mirror_is_left_alone_as_long_as_it_asks() -> None:
    said: list[float] = []

    def faults(request: Request) -> Fault | None:
        start, stop = span_of(request, len(DATA))
        if stop - start < 32768 or said:
            return None
        said.append(time.monotonic())
        return Fault(status=429, headers={"Retry-After": "2"})

    asked: list[float] = []

    class Noting(RangeHandler):
        def __call__(self, request: Request, connection: Connection) -> None:
            asked.append(time.monotonic())
            super().__call__(request, connection)

    with RawServer(Noting(DATA, faults=faults)) as server, RawServer(RangeHandler(DATA)) as other:
        report = bench(server.url(), other.url(), connections=1, duration=4.0, rounds=4, max_bytes="64M")
        row = by_url(report)[server.url()]
    again = [each - said[0] for each in asked if each > said[0] + 0.01]
    assert all(each >= 1.9 for each in again)
    assert "overloaded" in row.findings and "429" not in str(row.error)
    assert by_url(report)[other.url()].rate is not None


def test_what_is_given_for_the_first_goes_nowhere_else() -> None:
    with RawServer(RangeHandler(DATA)) as first, RawServer(RangeHandler(DATA)) as second:
        bench(first.url(), second.url(), auth=("user", "canary"), headers={"X-Token": "canary"})
        assert all(each.headers.get("x-token") == "canary" for each in first.requests)
        assert all("authorization" in each.headers for each in first.requests)
        assert len(second.requests) > 5
        assert not any("canary" in str(each.headers) for each in second.requests)
        assert not any("authorization" in each.headers for each in second.requests)


def test_secrets_of_urls_are_used_and_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with RawServer(RangeHandler(DATA)) as server:
        url = server.url("/object?token=canary").replace("//", "//user:canary@")
        report = bench(url)
        assert all(each.target == "/object?token=canary" for each in server.requests)
    assert report.best(1) == [url]
    assert (report.rows[0].url, report.rows[0].whole) == (server.url("/object"), False)
    told = [str(report), repr(report), report.to_json(), report.to_html(), *capfd.readouterr()]
    assert not any("canary" in each for each in told)


# ---- identity ----


def test_an_object_that_changes_meanwhile_is_told_of() -> None:
    handler = RangeHandler(DATA)

    def faults(request: Request) -> Fault | None:
        if request.number == 12:
            handler.replace(OTHER)
        return None

    handler.faults = faults
    with RawServer(handler) as server:
        row = bench(server.url()).rows[0]
    assert "changed" in row.findings
    assert row.error is not None and not row.usable


def test_a_mirror_with_another_object_is_last_and_not_among_the_best() -> None:
    old = RangeHandler(OTHER, last_modified="Mon, 01 Jan 2024 00:00:00 GMT", etag='"old"')
    with RawServer(RangeHandler(DATA)) as a, RawServer(old) as b, RawServer(RangeHandler(DATA)) as c:
        report = bench(b.url(), a.url(), c.url())
    assert report.rows[-1].url == b.url()
    assert (report.rows[-1].same_object, report.rows[-1].findings[0]) == (False, "stale")
    assert b.url() not in report.best()


# ---- bad input ----


def test_all_mirrors_down_are_rows_with_reasons() -> None:
    with reserve_port() as holder:
        urls = [f"http://127.0.0.1:{port_of(holder)}/{name}" for name in "ab"]
        report = bench(*urls)
    assert [row.usable for row in report.rows] == [False, False]
    assert all(row.error and row.exit_code == 6 and row.findings == ("unreachable",) for row in report.rows)
    assert report.best() == [] and report.verdicts == ()
    assert "no connection was made" in str(report)


def test_one_url_alone_is_measured_without_verdicts(nginx: Nginx, objects: Objects) -> None:
    report = bench(nginx.url(objects.make(8 * MIB, 41).name))
    (row,) = report.rows
    assert (row.same_object, row.usable, report.verdicts) == (None, True, ())


def test_a_mirror_without_ranges_is_measured_over_one_stream(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(8 * MIB, 41)
    without = nginx.url(thing.name, prefix="/noranges")
    row = by_url(bench(nginx.url(thing.name), without))[without]
    assert (row.ranges, row.same_object, row.error) == (False, True, None)
    assert [each.connections for each in row.by_connections] == [1]
    assert row.rate is not None and row.rate > 0
    assert "no-ranges" in row.findings


@pytest.mark.parametrize("size", [0, 1, 100, 65536])
def test_a_small_object_has_latency_and_no_rate(nginx: Nginx, objects: Objects, size: int) -> None:
    thing = objects.make(size, 44)
    report = bench(nginx.url(thing.name), nginx.url(thing.name, prefix="/etagless"))
    for row in report.rows:
        assert (row.error, row.size, row.rate, row.usable) == (None, size, None, True)
        assert row.first_byte is not None and row.first_byte > 0
        assert "small" in row.findings
    if size:
        assert [row.same_object for row in report.rows] == [True, True]


def test_a_certificate_that_does_not_hold_is_a_row(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(8 * MIB, 41)
    report = bench(nginx.url(thing.name, tls=True), nginx.url(thing.name))
    good, bad = report.rows
    assert (good.url, good.usable) == (nginx.url(thing.name), True)
    assert (bad.usable, bad.rate, bad.findings) == (False, None, ("unreachable",))
    assert bad.error is not None and "certificate" in bad.error.lower()


@pytest.mark.parametrize(("status", "code"), [(404, 3), (403, 24), (500, 22)])
def test_a_refusal_is_a_row_with_its_status(nginx: Nginx, status: int, code: int) -> None:
    (row,) = bench(nginx.url("x", prefix=f"/status/{status}")).rows
    assert row.error is not None and str(status) in row.error
    assert row.exit_code == code


def reset(connection: Connection) -> None:
    connection.reset()


def half_a_head(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 206 Part")
    connection.close()


def words(connection: Connection) -> None:
    connection.send(b"hello\r\n")
    connection.close()


def wrong_range(connection: Connection) -> None:
    connection.respond(206, {"Content-Range": "bytes 5-9/100"}, b"12345")


@pytest.mark.parametrize("harm", [reset, half_a_head, words, wrong_range])
def test_a_mirror_that_makes_no_sense_is_a_row(harm: Callable[[Connection], None]) -> None:
    with RawServer(lambda _, connection: harm(connection)) as bad, RawServer(RangeHandler(DATA)) as good:
        report = bench(bad.url(), good.url())
    assert [row.url for row in report.rows] == [good.url(), bad.url()]
    assert report.rows[1].error and not report.rows[1].usable


def test_a_mirror_that_only_looks_good_is_a_row_with_the_reason() -> None:
    def faults(request: Request) -> Fault | None:
        start, stop = span_of(request, len(DATA))
        return Fault(status=502) if stop - start >= 32768 else None

    with RawServer(RangeHandler(DATA, faults=faults)) as bad, RawServer(RangeHandler(DATA)) as good:
        report = bench(bad.url(), good.url())
    row = by_url(report)[bad.url()]
    assert (row.usable, row.exit_code) == (False, 22)
    assert row.error is not None and "502" in row.error
    assert report.best() == [good.url()]


def test_a_mirror_that_falls_silent_is_given_up() -> None:
    never = threading.Event()

    def faults(request: Request) -> Fault | None:
        start, stop = span_of(request, len(DATA))
        return Fault(stall_at=start, until=never) if stop - start >= 32768 else None

    with RawServer(RangeHandler(DATA, faults=faults)) as server:
        report = bench(server.url(), connect_timeout=0.5, stall_timeout=0.5)
        never.set()
    (row,) = report.rows
    assert row.error is not None and row.exit_code == 2
    assert report.elapsed < 20


def test_one_that_goes_down_meanwhile_is_told_of() -> None:
    down = threading.Event()

    def goes_down(request: Request, connection: Connection) -> None:
        if down.is_set():
            connection.reset()
        else:
            RangeHandler(DATA)(request, connection)

    def watch(now: fastxfer.BenchProgress) -> None:
        if now.done == 6:
            down.set()

    with RawServer(goes_down) as server, RawServer(RangeHandler(DATA)) as other:
        report = fastxfer.bench([server.url(), other.url()], progress=watch, **SHORT)
    row = by_url(report)[server.url()]
    assert row.errors > 0 and {"errors", "unreachable"} & set(row.findings)
    assert by_url(report)[other.url()].errors == 0


@pytest.mark.parametrize(
    ("urls", "options", "message"),
    [
        ([], {}, "no URL"),
        (["ftp://h/x"], {}, "scheme 'ftp'"),
        (["http://h/x", "no url"], {}, "space"),
        ("http://h/x", {}, "a list"),
        (["http://h/x"], {"connections": ()}, "option connections"),
        (["http://h/x"], {"connections": (0, 4)}, "option connections"),
        (["http://h/x"], {"connections": "1,x"}, "option connections"),
        (["http://h/x"], {"duration": 0}, "option duration"),
        (["http://h/x"], {"duration": float("nan")}, "option duration"),
        (["http://h/x"], {"max_bytes": 5}, "option max_bytes"),
        (["http://h/x"], {"rounds": 3}, "option rounds"),
        (["http://h/x"], {"seed": -1}, "option seed"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_asked(
    urls: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        fastxfer.bench(urls, **options)


def test_an_option_of_a_fetch_alone_is_none_of_a_benchmark() -> None:
    with pytest.raises(TypeError, match="sink"):
        fastxfer.bench(["http://h/x"], sink="mmap")


def test_the_same_url_twice_is_one_row(nginx: Nginx, objects: Objects) -> None:
    url = nginx.url(objects.make(8 * MIB, 41).name)
    assert len(bench(url, url).rows) == 1
