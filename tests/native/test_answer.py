"""The lines of a head, and what a kept connection's socket tells."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastxfer._native.answer import HeadLines, KeptCheck, has_bytes, kept_connection, ordinary
from fastxfer.errors import FastxferError
from fastxfer.plan.response import Headers, Whole, judge

MOST = 3


class Heads:
    """Notes what a `HeadLines` hands on."""

    def __init__(self) -> None:
        self.complete: list[list[bytes]] = []
        self.overflows = 0
        self.stashed: list[int] = []
        self.lines = HeadLines(self.complete.append, self._too_many, MOST, self.stashed.append)

    def _too_many(self) -> None:
        self.overflows += 1


@pytest.fixture
def heads() -> Heads:
    made = Heads()
    made.lines.open()
    return made


def test_a_head_is_handed_on_at_its_empty_line(heads: Heads) -> None:
    for line in (b"HTTP/1.1 200 OK\r\n", b"A: 1\r\n"):
        assert heads.lines(line) is None
    assert heads.complete == []
    assert heads.lines(b"\r\n") is None
    assert heads.complete == [[b"HTTP/1.1 200 OK\r\n", b"A: 1\r\n"]]


def test_each_head_of_a_request_is_handed_on_and_trailers_are_not(heads: Heads) -> None:
    for line in (b"HTTP/1.1 103 Early Hints\r\n", b"\r\n", b"HTTP/1.1 200 OK\n", b"\n"):
        heads.lines(line)
    heads.lines.close()
    for line in (b"Digest: x\r\n", b"\r\n"):
        assert heads.lines(line) is None
    assert heads.complete == [[b"HTTP/1.1 103 Early Hints\r\n"], [b"HTTP/1.1 200 OK\n"]]


def test_more_lines_than_are_taken_fail_the_request(heads: Heads) -> None:
    assert [heads.lines(b"A: 1\r\n") for _ in range(MOST + 1)] == [None] * MOST + [0]
    assert (heads.overflows, heads.complete) == (1, [])


def test_a_new_request_begins_without_the_lines_of_the_last(heads: Heads) -> None:
    heads.lines(b"HTTP/1.1 200 OK\r\n")
    heads.lines.open()
    heads.lines(b"HTTP/1.1 404 Not Found\r\n")
    heads.lines(b"\r\n")
    assert heads.complete == [[b"HTTP/1.1 404 Not Found\r\n"]]


BRINGS = (b"HTTP/1.1 200 OK\r\n", b'ETag: "x"\r\n', b"Content-Length: 8\r\n", b"\r\n")


@pytest.mark.parametrize(
    ("limit", "listed", "takes"),
    [(8, -1, True), (8, 8, True), (9, 8, True), (7, -1, False), (7, 8, False), (9, 9, False), (-1, 8, False)],
)
def test_a_head_that_brings_what_is_expected_is_not_handed_on(
    heads: Heads, limit: int, listed: int, takes: bool
) -> None:
    heads.lines.expect(limit, listed)
    for line in (*BRINGS, b"ETag: trailer\r\n", b"\r\n") if takes else BRINGS:
        assert heads.lines(line) is None
    assert heads.lines.told == ((8, '"x"', None) if takes else None)
    assert heads.stashed == ([8] if takes else [])
    assert heads.complete == ([] if takes else [list(BRINGS[:-1])])
    heads.lines.open()
    assert heads.lines.told is None


def test_what_is_expected_may_come_after_an_interim_answer(heads: Heads) -> None:
    heads.lines.expect(8)
    for line in (b"HTTP/1.1 103 Early Hints\r\n", b"\r\n", *BRINGS):
        heads.lines(line)
    assert heads.complete == [[b"HTTP/1.1 103 Early Hints\r\n"]] and heads.stashed == [8]


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_kept_connection_is_known_by_our_end(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        ours = socket.create_connection(server.getsockname()[:2], 10)
        theirs, _ = server.accept()
        with ours, theirs:
            address, port = ours.getsockname()[:2]
            assert kept_connection(ours.fileno(), address, port)
            assert not kept_connection(ours.fileno(), address, port ^ 1)
            assert not kept_connection(ours.fileno(), "127.0.0.9", port)
            assert not kept_connection(ours.fileno(), "no address", port)
            assert not has_bytes(ours.fileno())
            theirs.sendall(b"x")
            assert ours.recv(1, socket.MSG_PEEK) == b"x"  # it has come
            assert has_bytes(ours.fileno())
            assert ours.recv(1) == b"x"
            theirs.close()
            assert ours.recv(1) == b""  # its end is no byte
            assert not has_bytes(ours.fileno())


def test_a_descriptor_that_is_no_socket_is_no_connection() -> None:
    read, write = os.pipe()
    os.close(write)
    assert not kept_connection(read, "127.0.0.1", 80)
    assert not has_bytes(read)
    os.close(read)
    assert not kept_connection(read, "127.0.0.1", 80)
    assert not kept_connection(-1, "127.0.0.1", 80)


STATUS = b"HTTP/1.1 200 OK\r\n"
NAMES = (
    "Content-Length", "content-length", "ETag", "Last-Modified", "Content-Encoding", "Transfer-Encoding",
    "X-Amz-Version-Id", "x-oss-version-id", "Content-Range", "Date", "Content-Lengths", "Etag ",
)  # fmt: skip
VALUES = (
    "0", "8192", "008", "-1", "+1", "1e3", "9" * 18, "9" * 19, "", " ", "\t5 ", "5 5", "\xb2", '"x"',
    'W/"y"', "Sat, 21 Nov 2026 20:00:00 GMT", "identity", "gzip", "chunked", "null", "\xe9",
)  # fmt: skip
ODD = ("no colon", " folded: 1", "\tETag: 1", ": no name")
FIELD = st.builds(
    "{}{}{}".format, st.sampled_from(NAMES), st.sampled_from((":", ": ", ":\t ")), st.sampled_from(VALUES)
)
STATUSES = (
    "HTTP/1.1 200 OK",
    "HTTP/2 200 ",
    "HTTP/1.0 200",
    "HTTP/1.1 2000",
    "HTTP/1.1 206 Part",
    "ICY 200 OK",
    "HTTP/",
)


def judged(lines: list[bytes]) -> tuple[int, str | None, str | None] | None:
    """What `judge` makes of a head, None for all but a whole object of a known size without a version."""
    first, *texts = [line.decode("latin-1").rstrip("\r\n") for line in lines]
    status = first.partition(" ")[2][:3]
    headers = Headers([text.partition(":")[::2] for text in texts])
    try:
        verdict = judge(None, None, int(status) if status.isdigit() else 0, headers, now_epoch_s=0)
    except FastxferError:
        return None
    if not isinstance(verdict, Whole) or verdict.identity.size is None or verdict.identity.version:
        return None
    return verdict.identity.size, verdict.identity.etag, verdict.identity.last_modified


@given(
    st.sampled_from(STATUSES),
    st.lists(FIELD | st.sampled_from(ODD), max_size=6),
    st.sampled_from(("\r\n", "\n", " \r\n")),
)
@example(STATUSES[0], ["Content-Length: 8192", 'ETag: "x"', "Last-Modified: now"], "\r\n")
def test_an_ordinary_head_is_what_it_is_judged_to_be(status: str, fields: list[str], end: str) -> None:
    lines = [f"{each}{end}".encode("latin-1") for each in (status, *fields)]
    told = ordinary(lines)
    assert told is None or told == judged(lines)


def test_the_heads_of_common_servers_are_ordinary() -> None:
    date, end = b"Sat, 21 Nov 2026 20:00:00 GMT", b"\r\n"
    heads = [
        [
            STATUS,
            b"Server: nginx\r\n",
            b"Content-Length: 8192\r\n",
            b"Last-Modified: " + date + end,
            b'ETag: "a-1"\r\n',
        ],
        [
            b"HTTP/2 200 \r\n",
            b"content-length: 8192\r\n",
            b"last-modified: " + date + end,
            b'etag: "a-1"\r\n',
        ],
    ]
    for lines in heads:
        assert ordinary(lines) == judged(lines) == (8192, '"a-1"', date.decode())
    assert ordinary([STATUS, b"content-length:0\r\n"]) == (0, None, None)


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 8192",
        b"x-amz-version-id: v1",
    ],
)
def test_whatever_else_tells_of_the_object_is_left_to_be_judged(field: bytes) -> None:
    assert ordinary([STATUS, b"Content-Length: 8192\r\n", field + b"\r\n"]) is None
    assert ordinary([STATUS, field + b"\r\n", b"Content-Length: 8192\r\n"]) is None


def test_a_clean_kept_connection_is_let_through_and_all_else_is_looked_at() -> None:
    asked: list[str] = []
    opened: list[int] = []

    def otherwise(address: str, local_address: str, port: int, local_port: int) -> int:
        asked.append(f"{address} {local_address}")
        return 7

    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs = server.accept()[0]
        with ours, theirs:
            local, port = ours.getsockname()
            check = KeptCheck(otherwise, opened)
            check.sockets = {(local, port): ours.fileno()}
            assert check("10.0.0.1", local, 80, port) == 7  # not said to be plain
            check.plain = True
            assert check("10.0.0.2", local, 80, port) == 0 and check.address == "10.0.0.2"
            assert check("10.0.0.3", local, 80, port ^ 1) == 0  # of which nothing is known
            opened.append(ours.fileno())
            assert check("10.0.0.4", local, 80, port) == 7
            opened.clear()
            theirs.send(b"x")
            ours.recv(1, socket.MSG_PEEK)
            assert check("10.0.0.5", local, 80, port) == 7
    assert [each.split()[0] for each in asked] == ["10.0.0.1", "10.0.0.4", "10.0.0.5"]
