"""Mirrors on several hosts: what one host bears is of no concern to the others."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.mirrors.group import SIZE, Copy, Group
from tests.servers.raw import Fault, Request

WAIT_S = 30


def test_a_cap_holds_for_each_host_and_together_they_give_more(tmp_path: Path) -> None:
    seen: set[int] = set()
    with Group(tmp_path, Copy(), Copy(), connections=6, max_rate="12M", connections_per_host=2) as group:
        result = group.arrives(progress=lambda now: seen.add(now.connections))
        assert all(group.gave(result))
    assert max(seen) in (3, 4), "two at each"


def test_one_host_that_wants_to_be_left_alone_does_not_hold_back_the_other(tmp_path: Path) -> None:
    told = threading.Event()

    def overloaded(request: Request) -> Fault | None:
        if request.number < 4:  # the samples
            return None
        told.set()
        return Fault(status=429, headers={"Retry-After": str(WAIT_S)})

    with Group(tmp_path, Copy(), Copy(faults=overloaded), connections=4, max_rate="8M") as group:
        began = time.monotonic()
        result = group.arrives()
        assert told.is_set()
        assert time.monotonic() - began < WAIT_S - 5
        assert group.gave(result)[0] > SIZE // 2
