"""Connections that stall, break, or speak something else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import BadResponseError, NetworkError, TLSError, TooSlowError, TransferTimeoutError
from tests.faults.scenarios import (
    OBJECT,
    QUICK,
    SIZE,
    Answer,
    Asked,
    Scenario,
    Speaker,
    always,
    crosswise,
    everywhere,
    fresh,
    later,
    once_later,
    wait,
)
from tests.servers import Authority
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer, Request
from tests.servers.tls import TlsServer

When = Callable[[int, Request], bool]


def head_of(asked: Asked) -> bytes:
    status = b"206 Partial Content" if asked.ranged else b"200 OK"
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.fields.items())
    return b"HTTP/1.1 %b\r\n%b\r\n" % (status, lines.encode())


def broken_at(place: str, end: Callable[[Connection], None]) -> Answer:
    """Returns an answer that is right up to a place and then ends so."""

    def answer(asked: Asked) -> None:
        head, body = head_of(asked), asked.data
        upto = {
            "request": 0,
            "status-line": 7,
            "headers": len(head) // 2,
            "first-byte": len(head),
            "mid-chunk": len(head) + min(100_001, len(body) // 2),
            "last-byte": len(head) + len(body) - 1,
        }[place]
        asked.connection.send((head + body)[:upto])
        end(asked.connection)

    return answer


PLACES = ["request", "status-line", "headers", "first-byte", "mid-chunk", "last-byte"]
places = pytest.mark.parametrize("place", PLACES)
ends = pytest.mark.parametrize("end", [Connection.reset, Connection.close], ids=["reset", "closed"])


@crosswise
@places
@ends
def test_a_connection_that_breaks_is_made_again(
    tmp_path: Path, connections: int, resumed: bool, place: str, end: Callable[[Connection], None]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(broken_at(place, end), lambda nth, _request: nth in (0, 2))
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE, "what was whole is kept"


@crosswise
@pytest.mark.parametrize("place", ["request", "headers", "first-byte"])
@ends
def test_a_connection_that_always_breaks_before_a_byte_fails(
    tmp_path: Path, connections: int, resumed: bool, place: str, end: Callable[[Connection], None]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(broken_at(place, end), always if resumed else later)
        scenario.fails(NetworkError, 6, kept=True)


@fresh
def test_every_second_answer_breaking_at_every_place_still_arrives(tmp_path: Path, connections: int) -> None:
    turn = itertools.cycle(itertools.product(PLACES, [Connection.reset, Connection.close]))

    def break_one(asked: Asked) -> None:
        place, end = next(turn)
        broken_at(place, end)(asked)

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(break_one, lambda nth, _request: nth % 2 == 1)
        result = scenario.arrives(retries=16, chunk_size="64K")
    assert result.transferred == SIZE


def at_a_trickle(asked: Asked) -> None:
    """Sends a few bytes twenty times a second, for as long as the client listens."""
    asked.send(body=b"")
    pace = threading.Event()
    for byte in range(0, len(asked.data), 4):
        asked.connection.send(asked.data[byte : byte + 4])
        pace.wait(0.05)


@everywhere
def test_a_trickle_is_noticed_and_asked_for_again(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(at_a_trickle, once_later)
        result = scenario.arrives(stall_timeout=0.3)
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.retries >= 1
    assert result.transferred + result.resumed == SIZE, "what it brought is kept"


@everywhere
def test_a_server_that_always_trickles_fails(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(at_a_trickle, always if resumed else later)
        scenario.fails(TooSlowError, 5, kept=True, stall_timeout=0.3, retries=1)


@crosswise
def test_a_rate_that_the_caller_limits_is_no_trickle(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(), always)
        rate = (SIZE - scenario.before) / 3
        result = scenario.arrives(stall_timeout=0.2, max_rate=int(rate), retries=0)
    assert result.retries == 0


@crosswise
@places
def test_a_stall_is_noticed_and_asked_for_again(
    tmp_path: Path, connections: int, resumed: bool, place: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(broken_at(place, Connection.wait_until_gone), once_later)
        result = scenario.arrives(stall_timeout=0.15, connect_timeout=0.1)
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 1)
    assert result.transferred + result.resumed == SIZE


@crosswise
@pytest.mark.parametrize("place", ["headers", "first-byte"])
def test_a_server_that_always_stalls_fails(
    tmp_path: Path, connections: int, resumed: bool, place: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(broken_at(place, Connection.wait_until_gone), always if resumed else later)
        scenario.fails(TransferTimeoutError, 2, kept=True, retries=1, stall_timeout=0.2, connect_timeout=0.1)


GARBAGE = {
    "binary": bytes(range(128, 256)) * 100,
    "text": b"SSH-2.0-OpenSSH_9.0\r\n",
    "zeros": bytes(10_000),
    "no-status": b"HTTP/1.1\r\n\r\n",
    "bad-status": b"HTTP/1.1 2x6 Partial\r\n\r\n",
    "bad-version": b"HTTP/9.9 206 Partial Content\r\n\r\n",
    "no-colon": b"HTTP/1.1 206 Partial Content\r\nnonsense\r\n\r\n",
}


@crosswise
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_instead_of_http_fails(
    tmp_path: Path, connections: int, resumed: bool, garbage: bytes
) -> None:
    def speak(asked: Asked) -> None:
        asked.connection.send(garbage)
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(speak)
        with pytest.raises((BadResponseError, NetworkError)) as caught:
            scenario.fetch()
        assert caught.value.exit_code in (6, 22)
        assert "internal error" not in str(caught.value)
        assert not scenario.out.exists()
        scenario.handler.wrong = None
        assert scenario.arrives().resumed == scenario.before


@crosswise
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_once_is_tried_again(tmp_path: Path, connections: int, resumed: bool, garbage: bytes) -> None:
    def speak(asked: Asked) -> None:
        asked.connection.send(garbage)
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(speak, once_later)
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 1)


@fresh
@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x03\x00\x05garbage!" * 50,
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["garbage", "alert", "plain-http"],
)
def test_what_is_not_tls_on_a_tls_port_fails(tmp_path: Path, connections: int, words: bytes) -> None:
    with Speaker(words) as server:
        url = server.url().replace("http:", "https:")
        with pytest.raises((TLSError, NetworkError)) as caught:
            wait(fastxfer.start(url, tmp_path / "out", connections, **QUICK))
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


@fresh
def test_http_to_a_tls_port_fails(tmp_path: Path, connections: int, authority: Authority) -> None:
    with TlsServer(RangeHandler(OBJECT), authority) as server:
        url = server.url().replace("https:", "http:")
        with pytest.raises((BadResponseError, NetworkError)) as caught:
            wait(fastxfer.start(url, tmp_path / "out", connections, **QUICK))
    assert caught.value.exit_code in (6, 22)
    assert list(tmp_path.iterdir()) == []


@fresh
@pytest.mark.parametrize("cut", [0, 100_000])
def test_tls_cut_without_close_notify_is_not_the_end_of_a_body(
    tmp_path: Path, connections: int, authority: Authority, cut: int
) -> None:
    faults = {1: Fault(cut_after=cut), 2: Fault(cut_after=cut, reset=True)}
    handler = RangeHandler(OBJECT, faults=lambda request: faults.get(request.number))
    with TlsServer(handler, authority) as server:
        result = wait(
            fastxfer.start(server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca), **QUICK)
        )
    assert (tmp_path / "out").read_bytes() == OBJECT
    assert result.retries == 2


@fresh
def test_a_stream_cut_in_tls_without_close_notify_fails(
    tmp_path: Path, connections: int, authority: Authority
) -> None:
    def cut(_request: Request, connection: Connection) -> None:
        connection.send_head(200, {"ETag": '"v1"'})
        connection.send(OBJECT[:1_000_000])
        connection.close()

    with TlsServer(cut, authority) as server:
        transfer = fastxfer.start(
            server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca), **QUICK
        )
        with pytest.raises((TLSError, NetworkError)) as caught:
            wait(transfer)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out").exists()


@everywhere
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_a_server_that_closes_after_each_answer_is_no_failure(
    tmp_path: Path, connections: int, resumed: bool, told: bool
) -> None:
    def close(asked: Asked) -> None:
        asked.send(fields={**asked.fields, **({"Connection": "close"} if told else {})})
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(close)
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_ranges_over_http_1_0_arrive(tmp_path: Path, connections: int, resumed: bool) -> None:
    def old(asked: Asked) -> None:
        asked.send(version="1.0")
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(old)
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)


@everywhere
def test_one_stream_over_http_1_0_arrives(tmp_path: Path, connections: int, resumed: bool) -> None:
    def old(asked: Asked) -> None:
        asked.send(200, {"Content-Type": "application/octet-stream"}, OBJECT, version="1.0")
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(old)
        result = scenario.arrives()
    assert result.resumed == 0


@fresh
def test_a_port_that_never_answers_times_out(tmp_path: Path, connections: int) -> None:
    with RawServer(lambda request, connection: connection.wait_until_gone()) as server:
        transfer = fastxfer.start(
            server.url(), tmp_path / "out", connections, retries=1, stall_timeout=0.2, connect_timeout=0.1
        )
        with pytest.raises(TransferTimeoutError) as caught:
            wait(transfer)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
