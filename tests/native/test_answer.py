"""The lines of a head, and what a kept connection's socket tells."""

from __future__ import annotations

import os
import socket

import pytest

from fastxfer._native.answer import HeadLines, has_bytes, kept_connection

MOST = 3


class Heads:
    """Notes what a `HeadLines` hands on."""

    def __init__(self) -> None:
        self.complete: list[list[bytes]] = []
        self.overflows = 0
        self.lines = HeadLines(self.complete.append, self._too_many, MOST)

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
