"""An event that calls who wants to know."""

from __future__ import annotations

import threading

from fastxfer.latch import Latch


def test_who_wants_to_know_is_called_once() -> None:
    latch, called = Latch(), []
    latch.then(lambda: called.append(1))
    assert not latch.is_set() and called == []
    latch.set()
    latch.set()
    latch.then(lambda: called.append(2))
    assert latch.is_set() and called == [1, 2]


def test_nobody_is_missed_who_comes_while_it_is_set() -> None:
    for _ in range(200):
        latch, called = Latch(), threading.Event()
        setter = threading.Thread(target=latch.set)
        setter.start()
        latch.then(called.set)
        setter.join()
        assert called.is_set() and latch.wait(0)
