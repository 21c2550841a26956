"""How many connections are made ahead."""

from __future__ import annotations

import pytest

from fastxfer.plan.ahead import FAR_S, LATE_S, connections_ahead, is_far
from fastxfer.plan.growth import QUICK

KIB = 1024


@pytest.mark.parametrize(
    ("connections", "room", "missing", "count"),
    [
        (16, 16, None, 15),
        (8, 16, None, 7),
        (16, 3, None, 2),
        (64, 64, None, QUICK - 1),
        (1, 16, None, 0),
        (16, 1, None, 0),
        (16, 0, None, 0),
        (16, 16, 0, 0),
        (16, 16, 1, 0),
        (16, 16, 256 * KIB, 0),
        (16, 16, 256 * KIB + 1, 1),
        (16, 16, 1 << 30, 15),
    ],
)
def test_no_more_connections_are_made_than_requests_may_follow(
    connections: int, room: int, missing: int | None, count: int
) -> None:
    assert connections_ahead(connections, room, missing) == count


def test_a_server_is_far_from_fifty_milliseconds_on() -> None:
    assert [is_far(each) for each in (0.0, 0.001, 0.049, FAR_S, 0.2)] == [False, False, False, True, True]


def test_a_server_whose_answer_is_late_is_far() -> None:
    assert [is_far(0.001, late_s) for late_s in (0.0, 0.099, LATE_S, 1.0)] == [False, False, True, True]
