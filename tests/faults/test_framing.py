"""Bodies and headers that do not hold together (RFC 9112 sections 2 to 7)."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import BadResponseError, ChecksumError, HTTPStatusError
from tests.faults.scenarios import (
    OBJECT,
    SIZE,
    Answer,
    Asked,
    Scenario,
    always,
    crosswise,
    everywhere,
    first,
    fresh,
    later,
    sha256_of,
)
from tests.servers.raw import Request

HTML = b"<html><body>This page is available to registered users only.</body></html>"


def chunked(data: bytes, size: int = 100_000) -> bytes:
    """Returns bytes in the chunked coding, with the last chunk (RFC 9112 section 7.1)."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def in_chunks(asked: Asked, body: bytes) -> None:
    asked.send(fields={**asked.with_fields(Content_Length=None), "Transfer-Encoding": "chunked"}, body=body)


def without_length(asked: Asked, body: bytes) -> None:
    """Answers a range or the whole with no framing but the end of the connection."""
    asked.send(fields={**asked.with_fields(Content_Length=None), "Connection": "close"}, body=body)
    asked.connection.close()


def stream_to_the_end(asked: Asked, body: bytes) -> None:
    """Answers 200 with a stream that only the end of the connection ends."""
    stream(asked, {}, body)
    asked.connection.close()


def stream(asked: Asked, fields: dict[str, str], body: bytes) -> None:
    """Answers 200 with a stream of unknown length."""
    asked.send(200, {"ETag": '"v1"', **fields}, body)


@everywhere
def test_of_a_short_body_everything_received_is_kept(tmp_path: Path, connections: int, resumed: bool) -> None:
    def short(asked: Asked) -> None:
        asked.send(body=asked.data[:150_000])
        asked.connection.close()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(short)
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_extra_bytes_after_a_body_are_not_taken(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(body=asked.data + b"extra" * 1000))
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_an_answer_forged_in_the_extra_bytes_is_not_taken(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    def smuggle(asked: Asked) -> None:
        start = min(asked.stop, SIZE - 1)
        wrong = bytes([OBJECT[start] ^ 1])
        forged = asked.with_fields(Content_Length="1", Content_Range=f"bytes {start}-{start}/{SIZE}")
        lines = "".join(f"{name}: {value}\r\n" for name, value in forged.items())
        # The last byte and what follows it travel together: the answer is not over before they are there.
        asked.send(body=asked.data[:-1])
        head = f"HTTP/1.1 206 Partial Content\r\n{lines}\r\n".encode()
        asked.connection.send(asked.data[-1:] + head + wrong)

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(smuggle)
        result = scenario.arrives()
        each_on_its_own = {request.connection for request in scenario.requests}
        assert len(each_on_its_own) == len(scenario.requests)
    assert (result.resumed, result.retries) == (scenario.before, 0)


@everywhere
def test_ranges_in_chunks_arrive(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: in_chunks(asked, chunked(asked.data)))
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 0)


@everywhere
def test_ranges_ended_by_the_connection_arrive(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: without_length(asked, asked.data))
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 0)


@everywhere
def test_more_in_chunks_than_the_range_is_cut_off(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: in_chunks(asked, chunked(asked.data + b"extra")))
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)


@everywhere
def test_less_in_chunks_than_the_range_is_asked_for_again(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: in_chunks(asked, chunked(asked.data[:150_000])))
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_an_unknown_length_is_one_stream(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: stream(asked, {"Transfer-Encoding": "chunked"}, chunked(asked.content.data))
        )
        result = scenario.arrives()
        assert len(scenario.requests) == 1
    assert (result.resumed, result.restarts) == (0, resumed)


@fresh
def test_a_stream_of_unknown_length_that_never_ends_properly_fails(tmp_path: Path, connections: int) -> None:
    def cut(asked: Asked) -> None:
        whole = chunked(asked.content.data)
        stream(asked, {"Transfer-Encoding": "chunked"}, whole[: -len(b"0\r\n\r\n")])
        asked.connection.close()

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(cut)
        with pytest.raises(fastxfer.NetworkError) as caught:
            scenario.fetch()
        assert caught.value.exit_code == 6
        assert not scenario.out.exists()
        scenario.handler.wrong = None
        scenario.arrives()


@fresh
def test_a_stream_ended_by_the_connection_is_complete_but_not_verified(
    tmp_path: Path, connections: int
) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(lambda asked: stream_to_the_end(asked, OBJECT))
        result = scenario.arrives()
    assert result.verified == "none"


@fresh
def test_a_stream_cut_by_the_connection_fails_the_checksum(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(lambda asked: stream_to_the_end(asked, OBJECT[:-1]))
        with pytest.raises(ChecksumError) as caught:
            scenario.fetch(checksum=sha256_of(OBJECT))
        assert caught.value.exit_code == 32
        assert not scenario.out.exists()


def coded(asked: Asked) -> None:
    body = gzip.compress(asked.data, 1)
    if len(body) != len(asked.data):
        body = body[: len(asked.data)].ljust(len(asked.data), b"\0")
    asked.send(fields={**asked.fields, "Content-Encoding": "gzip"}, body=body)


def coded_whole(asked: Asked) -> None:
    body = gzip.compress(asked.content.data, 1)
    asked.send(200, {"Content-Encoding": "gzip", "Content-Length": str(len(body)), "ETag": '"v1"'}, body)


def bad_chunk_size(asked: Asked) -> None:
    in_chunks(asked, b"zz\r\n" + asked.data)


def overflowing_chunk_size(asked: Asked) -> None:
    in_chunks(asked, b"fffffffffffffffffff\r\n" + asked.data)


def negative_chunk_size(asked: Asked) -> None:
    in_chunks(asked, b"-5\r\n" + asked.data)


def length_with_chunks(asked: Asked) -> None:
    asked.send(fields={**asked.fields, "Transfer-Encoding": "chunked"}, body=chunked(asked.data))


def lengths(*more: str) -> Answer:
    return lambda asked: asked.send(
        fields=[*asked.with_fields(Content_Length=None).items(), *(("Content-Length", each) for each in more)]
    )


def conflicting_lengths(asked: Asked) -> None:
    own = asked.fields["Content-Length"]
    asked.send(fields=[*asked.fields.items(), ("Content-Length", f"{int(own) - 1}")])


def header_bomb(asked: Asked) -> None:
    asked.send(fields={"X-Bomb": "x" * 8_000_000, **asked.fields})


def many_headers(asked: Asked) -> None:
    asked.send(fields=[*((f"X-{number}", "x") for number in range(1_000_000)), *asked.fields.items()])


def endless_interim_answers(asked: Asked) -> None:
    while True:  # until the client has had enough and closes
        asked.connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 1000)


def unknown_coding(asked: Asked) -> None:
    asked.send(fields={**asked.with_fields(Content_Length=None), "Transfer-Encoding": "x-own"})


REJECTED = {
    "gzip": coded,
    "gzip-whole": coded_whole,
    "bad-chunk-size": bad_chunk_size,
    "overflowing-chunk-size": overflowing_chunk_size,
    "negative-chunk-size": negative_chunk_size,
    "length-with-chunks": length_with_chunks,
    "conflicting-lengths": conflicting_lengths,
    "negative-length": lengths("-1"),
    "overflowing-length": lengths(f"{2**63}"),
    "absurd-length": lengths("9" * 100),
    "length-no-number": lengths("0x100"),
    "unknown-transfer-coding": unknown_coding,
    "header-bomb": header_bomb,
    "million-headers": many_headers,
    "endless-1xx": endless_interim_answers,
}
rejected = pytest.mark.parametrize("answer", REJECTED.values(), ids=REJECTED.keys())


@crosswise
@rejected
def test_framing_that_does_not_hold_fails(
    tmp_path: Path, connections: int, resumed: bool, answer: Answer
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(answer)
        # A million fields take a busy machine their time.
        scenario.fails(BadResponseError, 22, kept=resumed, retries=1, stall_timeout=5)


@crosswise
@rejected
def test_framing_that_does_not_hold_is_rejected_and_asked_for_again(
    tmp_path: Path, connections: int, resumed: bool, answer: Answer
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(answer, lambda nth, _request: nth in (0, 2))
        result = scenario.arrives(stall_timeout=5)
    assert result.retries >= 1
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE, "nothing of a rejected answer is kept"


@crosswise
@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("when", [always, later], ids=["first", "later"])
def test_a_status_without_content_fails(
    tmp_path: Path, connections: int, resumed: bool, status: int, when: Callable[[int, Request], bool]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(status, {} if status != 205 else {"Content-Length": "0"}, b""), when
        )
        error = scenario.fails(HTTPStatusError, 22, kept=resumed or when is later)
    assert isinstance(error, HTTPStatusError)
    assert error.status == status


def page(asked: Asked) -> None:
    asked.send(200, {"Content-Type": "text/html", "Content-Length": str(len(HTML))}, HTML)


@everywhere
def test_an_error_page_with_200_fails_the_checksum(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(page)
        with pytest.raises(ChecksumError) as caught:
            scenario.fetch(checksum=sha256_of(OBJECT))
        assert caught.value.exit_code == 32
        assert not scenario.out.exists()


@everywhere
def test_an_error_page_with_200_is_another_size_than_what_was_left(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(page, always if resumed else later)
        scenario.fails(fastxfer.RemoteChangedError, 33, kept=True, on_change="fail")


@everywhere
def test_an_error_page_with_200_in_between_does_not_get_into_the_object(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(page, first if resumed else lambda nth, _request: nth == 1)
        scenario.arrives()
