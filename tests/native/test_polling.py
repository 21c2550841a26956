"""What libcurl wants watched is watched by an epoll, and its timer is kept."""

from __future__ import annotations

import os
import select
import time

import pytest

from fastxfer._native.polling import Deadline, Watch

IN, OUT, INOUT, REMOVE = 1, 2, 3, 4


def test_a_descriptor_is_watched_for_what_is_wanted_until_it_is_not_any_more() -> None:
    read, write = os.pipe()
    watched: dict[int, object] = {}
    with select.epoll() as poll:
        watch = Watch(poll.fileno(), watched, "owner")
        watch(IN, read, None, None)
        watch(OUT, write, None, None)
        assert watched == {read: "owner", write: "owner"}
        assert poll.poll(0) == [(write, select.EPOLLOUT)]
        os.write(write, b"x")
        assert dict(poll.poll(0)) == {read: select.EPOLLIN, write: select.EPOLLOUT}
        watch(IN, write, None, None)
        watch(INOUT, read, None, None)
        assert dict(poll.poll(0)) == {read: select.EPOLLIN}
        watch(REMOVE, read, None, None)
        watch(REMOVE, read, None, None)
        assert watched == {write: "owner"} and poll.poll(0) == []
        os.close(read)
        with pytest.raises(OSError):
            watch(IN, read, None, None)
        assert read not in watched
    os.close(write)


def test_a_timer_is_told_by_the_clock_of_python_or_unset() -> None:
    deadline = Deadline()
    assert deadline.at is None
    before = time.monotonic()
    deadline(1500)
    after = time.monotonic()
    assert deadline.at is not None and before + 1.4999 <= deadline.at <= after + 1.5001
    deadline(-1)
    assert deadline.at is None
