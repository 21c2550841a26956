"""How the transfers of a process are called when there is room at a host."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastxfer._native.writer import Throttle
from fastxfer.engine.loop import shared_engine
from fastxfer.governing import Tenancy
from fastxfer.options import TransferOptions

URL = "http://127.0.0.1:9/x"
DEADLINE_S = 20.0


def on_engine(call: Callable[[], object]) -> None:
    """Has it called on the engine's thread, and waits for that."""
    done = threading.Event()

    def run() -> None:
        try:
            call()
        finally:
            done.set()

    shared_engine().call_soon(run)
    assert done.wait(DEADLINE_S)


def tenancy(called: threading.Event) -> Tenancy:
    options = TransferOptions.build(connections=4, connections_per_host=4)
    return Tenancy(options, Throttle(1 << 40), called.set, lambda: None)


def test_who_was_called_too_early_is_called_again_when_others_leave() -> None:
    engine, called = shared_engine(), threading.Event()
    late, other = tenancy(called), tenancy(threading.Event())
    on_engine(lambda: late.begin(engine, URL))
    assert called.wait(DEADLINE_S)  # there is room, for which it has no use yet

    def taken() -> None:
        other.begin(engine, URL)
        for slot in range(4):
            other.sent(slot, URL)
        assert late.room(URL) == 0
        late.wants(1, URL)  # as it wanted from the beginning
        called.clear()

    on_engine(taken)
    assert not called.is_set()
    on_engine(other.end)
    assert called.wait(DEADLINE_S)
    on_engine(late.end)
