"""What libcurl wants watched is watched by an epoll, and its timer is kept."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from fastxfer._native.polling import Deadline, Watch

IN, OUT, INOUT, REMOVE = 1, 2, 3, 4


class Watched:
    """An epoll, and what it is told."""

    def __init__(self, poll: select.epoll) -> None:
        self.poll = poll
        self.watched: dict[int, object] = {}
        self.registered: dict[int, int] = {}
        self._watch = Watch(poll.fileno(), self.watched, self.registered, "owner")

    def wants(self, what: int, fd: int) -> None:
        self._watch(what, fd, None, None)

    @property
    def ready(self) -> dict[int, int]:
        return dict(self.poll.poll(0))


@pytest.fixture
def epoll() -> Iterator[Watched]:
    with select.epoll() as poll:
        yield Watched(poll)


def test_a_descriptor_is_watched_for_what_is_wanted(epoll: Watched) -> None:
    read, write = os.pipe()
    epoll.wants(IN, read)
    epoll.wants(OUT, write)
    assert epoll.watched == {read: "owner", write: "owner"}
    assert epoll.ready == {write: select.EPOLLOUT}
    os.write(write, b"x")
    assert epoll.ready == {read: select.EPOLLIN, write: select.EPOLLOUT}
    epoll.wants(IN, write)
    epoll.wants(INOUT, read)
    assert epoll.ready == {read: select.EPOLLIN}
    epoll.wants(REMOVE, read)
    epoll.wants(REMOVE, read)
    assert epoll.watched == {write: "owner"} and epoll.registered == {write: select.EPOLLIN}
    assert epoll.ready == {}, "what was not for reading alone is taken out at once"
    os.close(read)
    with pytest.raises(OSError):
        epoll.wants(IN, read)
    assert read not in epoll.watched and read not in epoll.registered
    os.close(write)


def test_what_was_only_read_stays_and_is_wanted_again(epoll: Watched) -> None:
    read, write = os.pipe()
    for _ in range(2):
        epoll.wants(IN, read)
        epoll.wants(REMOVE, read)
        assert epoll.watched == {} and epoll.registered == {read: select.EPOLLIN}
    os.write(write, b"x")
    assert epoll.ready == {read: select.EPOLLIN}
    epoll.wants(INOUT, read)
    epoll.wants(REMOVE, read)
    assert epoll.ready == {} and epoll.registered == {}
    os.close(read)
    os.close(write)


def test_another_descriptor_with_the_number_of_one_that_stayed_is_watched(epoll: Watched) -> None:
    read, write = os.pipe()
    epoll.wants(IN, read)
    epoll.wants(REMOVE, read)
    other, feeds = os.pipe()
    os.dup2(other, read)
    os.write(feeds, b"x")
    assert epoll.ready == {}
    epoll.wants(IN, read)
    assert epoll.ready == {read: select.EPOLLIN} and epoll.watched == {read: "owner"}
    epoll.wants(REMOVE, read)
    for fd in (read, write, other, feeds):
        os.close(fd)
    with pytest.raises(OSError):
        epoll.wants(IN, read)
    assert epoll.watched == {} and epoll.registered == {}


def test_a_timer_is_told_by_the_clock_of_python_or_unset() -> None:
    deadline = Deadline()
    assert deadline.at is None
    before = time.monotonic()
    deadline(1500)
    after = time.monotonic()
    assert deadline.at is not None and before + 1.4999 <= deadline.at <= after + 1.5001
    deadline(-1)
    assert deadline.at is None
