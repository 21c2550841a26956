"""Connections made ahead over loopback, which is taken for far: who gets them, and when they are closed."""

from __future__ import annotations

import queue
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from fastxfer.engine.ahead import Ahead
from fastxfer.engine.loop import Engine
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import FastxferError
from fastxfer.options import TransferOptions
from fastxfer.plan import ahead as plan

DEADLINE_S = 20.0
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HOSTS = ["127.0.0.1", "::1"]


@dataclass
class Path:
    """A listener, the first connection to it and what is made ahead like that."""

    ahead: Ahead
    listener: socket.socket
    first: socket.socket
    late: list[Callable[[], object]] = field(default_factory=list)  # what is to be called in some seconds

    def take(self) -> socket.socket | None:
        return self.ahead.take(self.listener.family, self.listener.getsockname())

    def accept(self, count: int) -> list[socket.socket]:
        return [self.listener.accept()[0] for _ in range(count)]


@pytest.fixture(params=HOSTS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(plan, "FAR_S", 0.0)
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    late: list[Callable[[], object]] = []
    with socket.create_server((request.param, 0), family=family) as listener:
        listener.settimeout(DEADLINE_S)
        with socket.create_connection(listener.getsockname()[:2]) as first:
            path = Path(Ahead(lambda _, call: late.append(call)), listener, first, late)
            with listener.accept()[0]:
                yield path
            path.ahead.close()


def is_closed(peer: socket.socket) -> bool:
    peer.settimeout(DEADLINE_S)
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_each_connection_is_taken_once(path: Path) -> None:
    assert path.ahead.make(path.first.fileno(), 2, path)
    there = path.accept(2)
    taken = [path.take() for _ in range(3)]
    assert taken[2] is None
    ours = {each.getsockname()[1] for each in taken if each is not None}
    assert ours == {each.getpeername()[1] for each in there}
    for each in (*there, *taken):
        if each is not None:
            each.close()


def test_nothing_is_made_to_a_server_nearby(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FAR_S", 30.0)
    assert not path.ahead.make(path.first.fileno(), 2, path)
    assert not path.ahead


def test_one_that_ended_or_on_which_something_came_is_not_taken(path: Path) -> None:
    path.ahead.make(path.first.fileno(), 3, path)
    ended, speaks, good = path.accept(3)
    ended.close()
    speaks.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    taken = path.take()
    assert taken is not None and taken.getsockname()[1] == good.getpeername()[1]
    assert path.take() is None
    assert is_closed(speaks)
    for each in (taken, good, speaks):
        each.close()


@pytest.mark.parametrize("how", ["let go", "too long", "closed"])
def test_what_is_not_taken_is_closed(path: Path, how: str) -> None:
    path.ahead.make(path.first.fileno(), 2, path)
    there = path.accept(2)
    path.ahead.let_go("somebody else")
    assert path.ahead
    if how == "let go":
        path.ahead.let_go(path)
    elif how == "too long":
        path.late[0]()
    else:
        path.ahead.close()
    assert not path.ahead
    for each in there:
        assert is_closed(each)
        each.close()


def test_where_none_was_taken_none_are_made_for_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.ahead.make(path.first.fileno(), 1, path)
    path.ahead.let_go(path)
    assert not path.ahead.make(path.first.fileno(), 1, path)
    monkeypatch.setattr(plan, "USELESS_S", 0.0)
    assert path.ahead.make(path.first.fileno(), 1, path)


def test_where_one_was_taken_more_are_made_next_time(path: Path) -> None:
    path.ahead.make(path.first.fileno(), 2, path)
    there = path.accept(2)
    taken = path.take()
    assert taken is not None
    path.ahead.let_go(path)
    assert path.ahead.make(path.first.fileno(), 1, path)
    for each in (taken, *there):
        each.close()


class Hears:
    """A listener that waits for the end."""

    def __init__(self) -> None:
        self.ends: queue.Queue[FastxferError | None] = queue.Queue()

    def head(self, exchange: Exchange, head: Head) -> None:
        exchange.writer.collect()

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        self.ends.put(error)


@pytest.mark.parametrize("overdue", [False, True], ids=["awaited", "overdue"])
def test_one_that_is_still_being_made_is_waited_for_unless_it_takes_too_long(
    path: Path, monkeypatch: pytest.MonkeyPatch, overdue: bool
) -> None:
    """The listener's queue is full, so that connections are made when somebody is accepted."""
    monkeypatch.setattr(plan, "OVERDUE", 0 if overdue else 1e9)
    path.listener.listen(0)
    filling = socket.create_connection(path.listener.getsockname()[:2])
    path.ahead.make(path.first.fileno(), 1, path)
    taken = path.take()
    assert (taken is None) is overdue
    if taken is not None:
        assert not select.select([], [taken], [], 0)[1]
        taken.close()
    filling.close()


def test_libcurl_sends_on_one_that_is_still_being_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "OVERDUE", 1e9)
    engine, hears = Engine(), Hears()
    host, port = path.listener.getsockname()[:2]
    path.listener.listen(0)
    filling = socket.create_connection((host, port))
    exchanges: list[Exchange] = []

    def begin() -> None:
        engine._ahead.make(path.first.fileno(), 1, path)
        exchange = Exchange(TransferOptions())
        exchanges.append(exchange)
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        engine.submit(exchange, Request(url), hears)

    engine.call_soon(begin)
    try:
        accepted = path.accept(2)  # the one that filled the queue, and the one that waited for it
        accepted[1].settimeout(DEADLINE_S)
        assert accepted[1].recv(65536).startswith(b"GET / ")
        accepted[1].sendall(BODY)
        assert hears.ends.get(timeout=DEADLINE_S) is None
        assert exchanges[0].writer.body == b"hello"
        for each in accepted:
            each.close()
    finally:
        engine.stop()
        filling.close()
