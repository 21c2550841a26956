"""Answers that are not the object, between those that are: each ends in its typed error, the others come."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    ChecksumError,
    FastxferError,
    HTTPStatusError,
    NetworkError,
    NotFoundError,
    OverloadedError,
    RangeError,
    RemoteChangedError,
    ServerError,
    TooSlowError,
    TransferTimeoutError,
)
from fastxfer.small import Fetched, Wanted
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, RawServer, Request
from tests.small.fetching import fetch, files_below

DATA = make_bytes(10_000, seed=3)
GOOD = 60
Bad = Callable[[Connection], None]


def short(answer: Connection) -> None:
    answer.send_head(200, {"Content-Length": str(len(DATA))})
    answer.send(DATA[:-1])
    answer.close()


def reset(answer: Connection) -> None:
    answer.send_head(200, {"Content-Length": str(len(DATA))})
    answer.send(DATA[:500])
    answer.reset()


def longer_than_listed(answer: Connection) -> None:
    answer.respond(200, {}, DATA + b"more")


def endless(answer: Connection) -> None:
    """Without a length, and with more than was listed."""
    answer.send_head(200, {"Connection": "close"})
    answer.send(DATA + b"more")
    answer.close()


def cut_chunks(answer: Connection) -> None:
    answer.send_head(200, {"Transfer-Encoding": "chunked"})
    answer.send(b"100\r\n" + DATA[:256] + b"\r\n")
    answer.close()


def both_framings(answer: Connection) -> None:
    answer.send_head(200, {"Transfer-Encoding": "chunked", "Content-Length": str(len(DATA))})
    answer.send(b"0\r\n\r\n")


def two_lengths(answer: Connection) -> None:
    answer.send_head(200, [("Content-Length", "10000"), ("Content-Length", "10001")])
    answer.close()


def many_fields(answer: Connection) -> None:
    answer.send_head(200, [*((f"X-{number}", "x") for number in range(2000)), ("Content-Length", "0")])
    answer.close()


def no_http(answer: Connection) -> None:
    answer.send(b"220 mail.example ready\r\n")
    answer.close()


def stall(answer: Connection) -> None:
    answer.send_head(200, {"Content-Length": str(len(DATA))})
    answer.send(DATA[:100])
    answer.wait_until_gone()
    answer.close()


def silent(answer: Connection) -> None:
    answer.wait_until_gone()
    answer.close()


def loop(answer: Connection) -> None:
    answer.respond(302, {"Location": "/bad"})


CASES: dict[str, tuple[Bad, type[FastxferError]]] = {
    "404": (lambda answer: answer.respond(404, {}, b"gone"), NotFoundError),
    "410": (lambda answer: answer.respond(410), NotFoundError),
    "401": (lambda answer: answer.respond(401), AuthError),
    "500": (lambda answer: answer.respond(500, {}, b"oops"), ServerError),
    "418": (lambda answer: answer.respond(418), HTTPStatusError),
    "204": (lambda answer: answer.respond(204), HTTPStatusError),
    "304": (lambda answer: answer.respond(304), HTTPStatusError),
    "206 unasked": (
        lambda answer: answer.respond(206, {"Content-Range": "bytes 0-9999/10000"}, DATA),
        RangeError,
    ),
    "503": (lambda answer: answer.respond(503, {"Retry-After": "0"}), OverloadedError),
    "short body": (short, NetworkError),
    "reset": (reset, NetworkError),
    "gzip": (
        lambda answer: answer.respond(200, {"Content-Encoding": "gzip"}, gzip.compress(DATA)),
        BadResponseError,
    ),
    "longer than listed": (longer_than_listed, RemoteChangedError),
    "longer, without a length": (endless, RemoteChangedError),
    "shorter than listed": (lambda answer: answer.respond(200, {}, DATA[:-1]), RemoteChangedError),
    "other bytes": (lambda answer: answer.respond(200, {}, DATA[::-1]), ChecksumError),
    "chunks that end early": (cut_chunks, FastxferError),
    "two framings": (both_framings, BadResponseError),
    "two lengths": (two_lengths, BadResponseError),
    "a bomb of fields": (many_fields, BadResponseError),
    "no HTTP": (no_http, FastxferError),
    "stall": (stall, TransferTimeoutError),
    "no answer": (silent, TransferTimeoutError),
    "redirects in a loop": (loop, BadResponseError),
    "redirect to a file": (
        lambda answer: answer.respond(302, {"Location": "file:///etc/passwd"}),
        BadResponseError,
    ),
    "redirect to nowhere": (lambda answer: answer.respond(302), BadResponseError),
}


def checksum_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("case", CASES)
def test_a_bad_answer_ends_in_its_error_and_the_rest_comes(root: Path, case: str) -> None:
    bad, expected = CASES[case]

    def handler(request: Request, answer: Connection) -> None:
        if request.target == "/bad":
            bad(answer)
        else:
            answer.respond(200, {}, DATA)

    with RawServer(handler) as server:
        wanted = [Wanted(server.url("/good"), f"{number}", len(DATA)) for number in range(GOOD)]
        wanted.insert(20, Wanted(server.url("/bad"), "bad", len(DATA), checksum_of(DATA)))
        came, failed = fetch(root, wanted, retries=1, stall_timeout=0.4, connect_timeout=0.4, connections=4)
        connections = server.connections
    assert len(came) == GOOD
    assert set(failed) == {"bad"}
    assert isinstance(failed["bad"], expected), failed["bad"]
    assert files_below(root) == {f"{number}": DATA for number in range(GOOD)}
    assert connections <= 4 + 15


def test_what_fails_once_is_tried_again(root: Path) -> None:
    lock, seen = threading.Lock(), dict[str, int]()
    ways: list[Bad] = [short, reset, cut_chunks, stall, lambda a: a.respond(503, {"Retry-After": "0"})]

    def handler(request: Request, answer: Connection) -> None:
        with lock:
            seen[request.target] = seen.get(request.target, 0) + 1
            first = seen[request.target] == 1
        number = int(request.target[1:])
        if first and number % 3 == 0:
            ways[number % len(ways)](answer)
        else:
            answer.respond(200, {}, DATA)

    with RawServer(handler) as server:
        wanted = [Wanted(server.url(f"/{number}"), f"{number}", len(DATA)) for number in range(GOOD)]
        _, failed = fetch(root, wanted, stall_timeout=1, connect_timeout=1)
    assert failed == {}
    assert files_below(root) == {f"{number}": DATA for number in range(GOOD)}
    assert all(seen[f"/{number}"] >= 2 for number in range(0, GOOD, 3))


def test_a_wish_to_wait_is_kept(root: Path) -> None:
    lock, refused_at, next_at = threading.Lock(), [0.0], [0.0]

    def handler(request: Request, answer: Connection) -> None:
        with lock:
            first = not refused_at[0]
            if first:
                refused_at[0] = time.monotonic()
            elif not next_at[0]:
                next_at[0] = time.monotonic()
        if first:
            answer.respond(429, {"Retry-After": "1"})
        else:
            answer.respond(200, {}, DATA)

    with RawServer(handler) as server:
        wanted = [Wanted(server.url("/x"), f"{number}") for number in range(5)]
        came, failed = fetch(root, wanted, connections=1)
    assert (len(came), failed) == (5, {})
    assert next_at[0] - refused_at[0] >= 0.9


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_body_without_a_length_comes_whole(root: Path, size: int) -> None:
    data = make_bytes(size, seed=4)

    def chunked(_: Request, answer: Connection) -> None:
        answer.send_head(200, {"Transfer-Encoding": "chunked", "ETag": '"x"'})
        for start in range(0, size, 9999):
            part = data[start : start + 9999]
            answer.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        answer.send(b"0\r\n\r\n")

    with RawServer(chunked) as server:
        came, failed = fetch(root, [Wanted(server.url("/x"), "x"), Wanted(server.url("/x"), "y", size)])
    assert failed == {} and files_below(root) == {"x": data, "y": data}
    assert isinstance(came["x"], Fetched) and came["x"].size == size


def test_an_answer_without_a_length_that_is_not_small_is_handed_over(root: Path) -> None:
    data = make_bytes(300_000, seed=8)

    def until_closed(_: Request, answer: Connection) -> None:
        answer.send_head(200, {"Connection": "close"})
        answer.send(data)
        answer.close()

    with RawServer(until_closed) as server:
        came, failed = fetch(root, [Wanted(server.url("/x"), "x")], small_bytes=100_000)
    assert failed == {} and files_below(root) == {"x": data}
    assert came["x"].size == len(data)


def test_a_trickle_is_ended(root: Path) -> None:
    end = threading.Event()

    def trickle(_: Request, answer: Connection) -> None:
        answer.send_head(200, {"Content-Length": "100000"})
        try:
            while not end.wait(0.05):
                answer.send(b"x")
        except OSError:
            pass
        answer.close()

    with RawServer(trickle) as server:
        _, failed = fetch(root, [Wanted(server.url("/x"), "x")], retries=0, stall_timeout=0.5)
        end.set()
    assert isinstance(failed["x"], TooSlowError)


def test_secrets_stay_with_their_origin(root: Path) -> None:
    told: list[dict[str, str]] = []

    def other(request: Request, answer: Connection) -> None:
        told.append(dict(request.headers))
        answer.respond(200, {}, DATA)

    def moved(_: Request, answer: Connection) -> None:
        answer.respond(302, {"Location": there.url("/x")})

    with RawServer(other) as there, RawServer(moved) as here:
        wanted = [Wanted(here.url("/x"), "x")]
        _, failed = fetch(root, wanted, auth="u:p", headers={"Cookie": "c", "X-Kept": "k"})
    assert failed == {}
    assert "authorization" not in told[0] and "cookie" not in told[0] and told[0]["x-kept"] == "k"


def test_a_server_that_is_gone_is_an_error_for_each(root: Path) -> None:
    with RawServer(lambda _, answer: answer.respond(200)) as server:
        url = server.url("/x")
    _, failed = fetch(root, [Wanted(url, f"{number}") for number in range(20)], retries=1)
    assert len(failed) == 20 and all(isinstance(error, NetworkError) for error in failed.values())
