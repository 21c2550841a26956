"""Servers that misbehave in HTTP/2 (RFC 9113): streams, frames and the connection that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

import fastxfer
from fastxfer.errors import BadResponseError, NetworkError, RangeError, TransferTimeoutError
from tests.faults.scenarios import (
    OBJECT,
    SIZE,
    Answer,
    Asked,
    Scenario,
    When,
    always,
    and_again,
    crosswise,
    everywhere,
    fresh,
    later,
    once_later,
    wait,
)
from tests.faults.test_range_answers import REJECTED as WRONG_RANGES
from tests.faults.test_range_answers import whole
from tests.servers import Authority
from tests.servers.h2 import FRAME_BYTES, Http2Server, Link, Stream, stream_of
from tests.servers.raw import RangeHandler
from tests.servers.tls import TlsServer, server_context

MAX_CONCURRENT_STREAMS = 3
OPTIONS: dict[str, Any] = {"http_version": "2", "connect_timeout": 5, "stall_timeout": 5}
BRIEF: dict[str, Any] = {"connect_timeout": 0.5, "stall_timeout": 0.3}


class Http2Scenario(Scenario):
    """A scenario whose server speaks HTTP/2; every fetch of it must have."""

    def __init__(self, tmp_path: Path, authority: Authority, connections: int, resumed: bool = False) -> None:
        super().__init__(
            tmp_path,
            connections,
            resumed,
            serve=lambda handler: Http2Server(handler, authority),
            options={**OPTIONS, "ca_bundle": str(authority.ca)},
        )
        assert isinstance(self.server, Http2Server)
        self.http2 = self.server

    def server_greets(self, greet: Callable[[Link], object], settings: dict[int, int] | None = None) -> None:
        """Ends the connections that are open; makes the server begin later ones so."""
        self.http2.drop()
        self.http2.greet, self.http2.settings = greet, settings or {}
        self._seen = len(self.server.requests)
        self.connections_before = self.server.connections

    def fetch(self, **options: Any) -> fastxfer.FetchResult:
        result = super().fetch(**options)
        assert {request.version for request in self.server.requests} == {"HTTP/2"}
        return result

    def __enter__(self) -> Http2Scenario:
        super().__enter__()
        return self

    def stands(self, error: fastxfer.FastxferError, kept: bool) -> None:
        self.http2.drop()
        self.http2.greet, self.http2.settings = (lambda link: None), {}
        super().stands(error, kept)

    def nothing_fetched_twice(self, result: fastxfer.FetchResult) -> None:
        """Asserts that every byte that came whole was kept."""
        assert (result.resumed, result.restarts) == (self.before, 0)
        assert result.transferred + result.resumed == SIZE


def head(asked: Asked) -> Stream:
    """Sends the head of the right answer and returns the stream for its body."""
    asked.connection.send_head(206 if asked.ranged else 200, asked.fields)
    return stream_of(asked.connection)


def twice(nth: int, _request: object) -> bool:
    """Chooses the first request and the third."""
    return nth in (0, 2)


# ---- GOAWAY ----


def go_away(asked: Asked) -> None:
    """Refuses this stream, and lets those before it go on."""
    stream = stream_of(asked.connection)
    stream.link.go_away(max(0, stream.id - 2))
    stream.leave()


def go_away_and_close(asked: Asked) -> None:
    go_away(asked)
    stream_of(asked.connection).link.shut_down()


leaving = pytest.mark.parametrize("leave", [go_away, go_away_and_close], ids=["stays", "closes"])


@crosswise
@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.ENHANCE_YOUR_CALM])
def test_goaway_before_a_stream_is_asked_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, code: ErrorCodes
) -> None:
    def greet(link: Link) -> None:
        if link.number - scenario.connections_before < 2:
            link.go_away(0, code)
            link.shut_down()

    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(greet)
        scenario.nothing_fetched_twice(scenario.arrives(retries=4))


@crosswise
def test_goaway_before_a_stream_always_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    def greet(link: Link) -> None:
        link.go_away(0)
        link.shut_down()

    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(greet)
        scenario.fails(NetworkError, 6, kept=resumed)


@crosswise
@leaving
def test_a_stream_that_goaway_refuses_is_asked_for_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, leave: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(leave, twice)
        scenario.nothing_fetched_twice(scenario.arrives(retries=4))


@crosswise
@leaving
def test_goaway_always_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, leave: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(leave, always if resumed else later)
        scenario.fails(NetworkError, 6, kept=True)


@everywhere
def test_goaway_after_each_answer_is_no_failure(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    def answer(asked: Asked) -> None:
        asked.send()
        stream = stream_of(asked.connection)
        stream.close()
        stream.link.go_away(stream.id)

    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer)
        scenario.nothing_fetched_twice(scenario.arrives(retries=8))


# ---- RST_STREAM ----


def reset_at(place: str, code: ErrorCodes) -> Answer:
    def answer(asked: Asked) -> None:
        stream = stream_of(asked.connection)
        if place != "request":
            head(asked)
            body = asked.data
            stream.send(body[: {"headers": 0, "body": len(body) // 3, "last-byte": len(body) - 1}[place]])
        stream.reset(code)

    return answer


codes = pytest.mark.parametrize(
    "code",
    [
        ErrorCodes.REFUSED_STREAM,
        ErrorCodes.INTERNAL_ERROR,
        ErrorCodes.CANCEL,
        ErrorCodes.ENHANCE_YOUR_CALM,
        ErrorCodes.NO_ERROR,
    ],
    ids=lambda code: code.name.lower(),
)


@crosswise
@codes
@pytest.mark.parametrize("place", ["request", "headers", "body", "last-byte"])
def test_a_stream_that_is_reset_is_asked_for_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, place: str, code: ErrorCodes
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(reset_at(place, code), twice)
        scenario.nothing_fetched_twice(scenario.arrives())


@crosswise
@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("request", ErrorCodes.REFUSED_STREAM),
        ("request", ErrorCodes.INTERNAL_ERROR),
        ("request", ErrorCodes.ENHANCE_YOUR_CALM),
        ("headers", ErrorCodes.REFUSED_STREAM),
        ("headers", ErrorCodes.CANCEL),
        ("headers", ErrorCodes.NO_ERROR),
    ],
)
def test_a_stream_that_is_always_reset_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, place: str, code: ErrorCodes
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(reset_at(place, code), always if resumed else later)
        error = scenario.fails(NetworkError, 6, kept=True)
        assert "(error)" not in str(error), "it says what happened"


# ---- the body's length ----


@everywhere
def test_of_a_stream_that_ends_early_everything_received_is_kept(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(body=asked.data[:150_000]))
        scenario.nothing_fetched_twice(scenario.arrives())


@crosswise
def test_streams_that_end_before_a_byte_fail(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(body=b""), always if resumed else later)
        scenario.fails(NetworkError, 6, kept=True)


def more_in_a_frame_of_its_own(asked: Asked) -> None:
    stream = head(asked)
    stream.send(asked.data)
    stream.send_wrong_data(b"extra" * 1000)


def more_in_the_last_frame(asked: Asked) -> None:
    stream = head(asked)
    stream.send(asked.data[:-1000])
    stream.send_wrong_data(asked.data[-1000:] + b"extra" * 1000)


@crosswise
@pytest.mark.parametrize("more", [more_in_a_frame_of_its_own, more_in_the_last_frame])
def test_more_data_than_the_length_is_not_taken(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, more: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(more, twice)
        scenario.nothing_fetched_twice(scenario.arrives())


@crosswise
def test_more_data_than_the_length_always_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(more_in_the_last_frame, always if resumed else later)
        scenario.fails(NetworkError, 6, kept=True)


# ---- what stands still ----


def stalled_stream(asked: Asked) -> None:
    head(asked).send(asked.data[:1000])
    asked.connection.wait_until_gone()


def stalled_before_the_head(asked: Asked) -> None:
    asked.connection.wait_until_gone()


def empty_frames(asked: Asked) -> None:
    """Keeps a stream busy with DATA frames that hold nothing."""
    stream = head(asked)
    while not stream.gone:
        stream.send_wrong_data(b"")
        with stream.link.changed:
            stream.link.changed.wait_for(lambda: stream.gone, 0.01)


def silent_link(asked: Asked) -> None:
    """Reads and sends nothing more on the whole connection, which stays open."""
    stream = head(asked)
    with stream.link.changed:
        stream.stall(threading.Event())


@crosswise
@pytest.mark.parametrize("stall", [stalled_before_the_head, stalled_stream, empty_frames])
def test_a_stream_that_stalls_is_noticed_and_asked_for_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, stall: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(stall, once_later)
        result = scenario.arrives(**BRIEF)
        scenario.nothing_fetched_twice(result)
        assert result.retries >= 1


@crosswise
def test_streams_that_always_stall_fail(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(stalled_before_the_head, always if resumed else later)
        scenario.fails(TransferTimeoutError, 2, kept=True, retries=1, **BRIEF)


@everywhere
def test_a_connection_that_falls_silent_is_left_for_another(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(silent_link, once_later)
        result = scenario.arrives(connect_timeout=2, stall_timeout=0.8)
        scenario.nothing_fetched_twice(result)
        assert 1 <= result.retries <= connections, "no later request goes that way"


# ---- settings ----


@everywhere
def test_one_stream_at_a_time_is_no_failure(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(lambda link: None, {MAX_CONCURRENT_STREAMS: 1})
        scenario.nothing_fetched_twice(scenario.arrives())


@crosswise
def test_no_streams_at_all_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(lambda link: None, {MAX_CONCURRENT_STREAMS: 0})
        with pytest.raises((NetworkError, TransferTimeoutError)) as caught:
            scenario.fetch(**BRIEF)
        assert caught.value.exit_code in (2, 6)
        scenario.stands(caught.value, resumed)


# ---- floods, and what is no HTTP/2 ----


def flood(frame: Frame) -> Callable[[Link], None]:
    def send(link: Link) -> None:
        while True:  # until the client has had enough and closes
            link.send_frames(*[frame] * 1000)

    return send


def speak(words: bytes) -> Callable[[Link], None]:
    def send(link: Link) -> None:
        link.send(words)

    return send


GREETINGS: dict[str, Callable[[Link], None]] = {
    "settings-flood": flood(SettingsFrame(0, settings={4: 65535})),
    "ping-flood": flood(PingFrame(0, opaque_data=b"12345678")),
    "window-overflow": lambda link: link.send_frames(WindowUpdateFrame(0, window_increment=2**31 - 1)),
    "data-before-a-request": lambda link: link.send_frames(DataFrame(1, b"x")),
    "garbage": speak(bytes(range(128, 256)) * 100),
    "http-1": speak(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "closed": lambda link: link.shut_down(),
    "reset": lambda link: link.reset(),
}
greetings = pytest.mark.parametrize("greet", GREETINGS.values(), ids=GREETINGS.keys())


@crosswise
@greetings
def test_a_connection_that_breaks_the_book_is_made_again(
    tmp_path: Path,
    authority: Authority,
    connections: int,
    resumed: bool,
    greet: Callable[[Link], None],
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(
            lambda link: greet(link) if link.number == scenario.connections_before else None
        )
        scenario.nothing_fetched_twice(scenario.arrives(retries=4))


@crosswise
@greetings
def test_connections_that_always_break_the_book_fail(
    tmp_path: Path,
    authority: Authority,
    connections: int,
    resumed: bool,
    greet: Callable[[Link], None],
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_greets(greet)
        scenario.fails(NetworkError, 6, kept=resumed)


def garbage_frames(asked: Asked) -> None:
    stream = head(asked)
    stream.send(asked.data[:1000])
    stream.link.send(bytes(range(128, 256)) * 100)
    stream.leave()


def oversized_frame(asked: Asked) -> None:
    head(asked).send_wrong_data(asked.data[: 4 * FRAME_BYTES].ljust(4 * FRAME_BYTES))
    stream_of(asked.connection).leave()


def closed_link(asked: Asked) -> None:
    stream = head(asked)
    stream.send(asked.data[:1000])
    stream.link.shut_down()


def reset_link(asked: Asked) -> None:
    stream = head(asked)
    stream.send(asked.data[:1000])
    stream.link.reset()


@crosswise
@pytest.mark.parametrize("fault", [garbage_frames, oversized_frame, closed_link, reset_link])
def test_a_connection_that_breaks_in_a_body_is_made_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, fault: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(fault, twice)
        scenario.nothing_fetched_twice(scenario.arrives(retries=4))


# ---- header blocks ----


def lower(fields: Any) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in fields.items()]


def wrong_head(*before: tuple[str, str], after: tuple[tuple[str, str], ...] = ()) -> Answer:
    def answer(asked: Asked) -> None:
        stream = stream_of(asked.connection)
        stream.send_wrong_fields([*before, *lower(asked.fields), *after])
        stream.leave()

    return answer


def continuation_flood(asked: Asked) -> None:
    stream = stream_of(asked.connection)
    with stream.link.changed:
        encoder = stream.link.book.encoder
        stream.link.send_frames(HeadersFrame(stream.id, encoder.encode([(":status", "206")])))
        endless = [ContinuationFrame(stream.id, encoder.encode([("x-a", "b")]))] * 1000
        while True:  # until the client has had enough and closes
            stream.link.send_frames(*endless)


def million_headers(asked: Asked) -> None:
    stream = stream_of(asked.connection)
    stream.send_wrong_fields([(":status", "206"), *lower(asked.fields), ("x-a", "b")], times=1_000_000)
    stream.leave()


def endless_interim_answers(asked: Asked) -> None:
    stream = stream_of(asked.connection)
    block = stream.link.book.encoder.encode([(":status", "103"), ("link", "</style.css>")])
    stream.link.send_frames(HeadersFrame(stream.id, block, flags=["END_HEADERS"]))
    # From here on both fields are in the table: the same block again is another interim answer.
    block = stream.link.book.encoder.encode([(":status", "103"), ("link", "</style.css>")])
    while not stream.gone:  # until the client has had enough
        stream.link.send_frames(*[HeadersFrame(stream.id, block, flags=["END_HEADERS"])] * 100)


STATUS = (":status", "206")
HEADS = {
    "header-bomb": wrong_head(STATUS, ("x-bomb", "x" * 8_000_000)),
    "many-headers": wrong_head(STATUS, *((f"x-{number}", "x") for number in range(3000))),
    "million-headers": million_headers,
    "continuation-flood": continuation_flood,
    "endless-1xx": endless_interim_answers,
    "misspelt-pseudo-header": wrong_head((":statsu", "206")),
    "no-status": wrong_head(),
    "two-statuses": wrong_head(STATUS, (":status", "200")),
    "status-after-the-fields": wrong_head(after=(STATUS,)),
    "status-no-number": wrong_head((":status", "2x6")),
    "upper-case-field": wrong_head(STATUS, ("X-Upper", "x")),
    "field-of-http-1": wrong_head(STATUS, ("transfer-encoding", "chunked")),
    "two-lengths": wrong_head(STATUS, ("content-length", "1")),
}
heads = pytest.mark.parametrize("answer", HEADS.values(), ids=HEADS.keys())


@crosswise
@heads
def test_a_head_that_does_not_hold_is_rejected_and_asked_for_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, answer: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer, once_later)
        scenario.nothing_fetched_twice(scenario.arrives(retries=4))


@crosswise
@heads
def test_a_head_that_never_holds_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, answer: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer)
        with pytest.raises((BadResponseError, NetworkError)) as caught:
            scenario.fetch(retries=1)
        assert caught.value.exit_code in (6, 22)
        assert "\n" not in str(caught.value)
        scenario.stands(caught.value, resumed)


@everywhere
def test_trailers_after_a_body_are_not_taken_for_its_head(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    def answer(asked: Asked) -> None:
        stream = head(asked)
        stream.send(asked.data)
        stream.send_fields([("content-range", "bytes 0-1/2"), ("etag", '"v2"'), ("x-more", "x")], end=True)

    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer)
        result = scenario.arrives()
        scenario.nothing_fetched_twice(result)
        assert (result.retries, result.etag) == (0, '"v1"')


# ---- what is judged alike in every version ----


@crosswise
@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES.keys())
def test_a_range_that_was_not_asked_for_is_rejected_over_http_2(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, answer: Answer
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer, twice)
        result = scenario.arrives()
        scenario.nothing_fetched_twice(result)
        assert result.retries >= 1


@everywhere
def test_200_to_a_later_range_over_http_2_stops_before_a_byte_is_written(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(whole, once_later)
        result = scenario.arrives()
        scenario.nothing_fetched_twice(result)
        assert result.retries == 1


@crosswise
@pytest.mark.parametrize("when", [always, later], ids=["always", "later"])
def test_200_to_every_range_over_http_2(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, when: When
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(whole, when)
        if when is always:
            assert scenario.arrives().resumed == 0
            assert len(scenario.requests) == 1
        else:
            scenario.fails(RangeError, 22, kept=True)


@everywhere
def test_an_etag_that_changed_over_http_2_starts_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(fields={**asked.fields, "ETag": '"v2"'}), and_again(once_later)
        )
        assert scenario.arrives().restarts == 1


# ---- which version is spoken ----


@fresh
@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["no-alpn", "http/1.1"])
def test_a_server_without_http_2_is_spoken_to_in_http_1(
    tmp_path: Path, authority: Authority, connections: int, protocols: tuple[str, ...]
) -> None:
    with TlsServer(RangeHandler(OBJECT), authority, server_context(authority, *protocols)) as server:
        result = wait(
            fastxfer.start(
                server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca), **OPTIONS
            )
        )
        assert {request.version for request in server.requests} == {"HTTP/1.1"}
    assert (tmp_path / "out").read_bytes() == OBJECT
    assert result.retries == 0


@everywhere
def test_a_connection_closed_while_it_rests_is_made_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    with Http2Scenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.arrives()
        scenario.out.unlink()
        scenario.http2.drop()
        result = scenario.arrives()
    assert result.transferred == SIZE


def test_a_connection_is_shared_by_the_streams(tmp_path: Path, authority: Authority) -> None:
    with Http2Scenario(tmp_path, authority, 16) as scenario:
        scenario.arrives()
        assert scenario.server.connections == 1
