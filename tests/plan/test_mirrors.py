"""Which mirror a request goes to: a clock as an argument, nothing sleeps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.mirrors import (
    COOL_DOWN_S,
    RECOVERY_S,
    SAMPLE_BYTES,
    SAMPLES,
    SLOW_AFTER_S,
    SLOW_REST_S,
    Shares,
    sample_spans,
)
from fastxfer.plan.ranges import length

MIB = 1024**2


def admitted(count: int, connections: int = 16, retries: int = 2) -> Shares:
    shares = Shares(count, connections, retries)
    for index in range(count):
        shares.admit(index)
    return shares


def fill(shares: Shares, connections: int, now: float = 0.0) -> list[int]:
    """Hands out requests until all connections have one; returns how many each mirror got."""
    running = [0] * len(shares._all)
    for _ in range(connections):
        index = shares.pick(running, now)
        if index is None:
            break
        running[index] += 1
    return running


def measure(
    shares: Shares, rates: list[float], running: list[int], seconds: float, now: float = 0.0
) -> float:
    """Lets time pass with each mirror at its rate; returns when it ended."""
    steps = int(seconds * 10)
    for step in range(steps + 1):
        for index, rate in enumerate(rates):
            shares.measured(index, int(rate * (now + step / 10)), running[index], now + step / 10)
    return now + steps / 10


def test_only_an_admitted_mirror_is_asked() -> None:
    shares = Shares(3, 16, 2)
    assert shares.pick([0, 0, 0], 0.0) is None
    shares.admit(1)
    assert fill(shares, 16) == [0, 16, 0]


def test_mirrors_of_unknown_rate_share_evenly() -> None:
    assert sorted(fill(admitted(3), 16)) == [5, 5, 6]


def test_shares_follow_the_measured_rates() -> None:
    shares = admitted(2)
    now = measure(shares, [12 * MIB, 4 * MIB], [8, 8], 4.0)
    assert fill(shares, 16, now) == [12, 4] or fill(shares, 16, now) == [11, 5]


def test_shares_are_stable_where_a_server_has_a_rate_of_its_own() -> None:
    shares = admitted(2)
    running, now = [8, 8], 0.0
    for _ in range(5):
        now = measure(shares, [12 * MIB, 4 * MIB], running, 5.0, now)
        running = fill(shares, 16, now)
    assert 10 <= running[0] <= 13


def test_with_one_connection_each_is_tried_and_the_faster_one_stays() -> None:
    shares = admitted(2, connections=1)
    assert shares.pick([0, 0], 0.0) == 0
    now = measure(shares, [MIB, 0], [1, 0], 2.0)
    assert shares.pick([0, 0], now) == 1, "it has not been tried"
    for step in range(20):
        shares.measured(1, step * MIB, 1, now + step / 10)
    assert shares.pick([0, 0], now + 2) == 1


def test_a_slow_mirror_keeps_one_request() -> None:
    shares = admitted(2)
    now = measure(shares, [100 * MIB, MIB], [8, 8], 4.0)
    assert fill(shares, 16, now) == [15, 1]


def test_a_mirror_much_slower_than_another_is_left_alone_for_a_while() -> None:
    shares = admitted(2)
    now = measure(shares, [100 * MIB, MIB / 10], [8, 8], SLOW_AFTER_S + 1)
    assert shares.too_slow([8, 8], now) == [1]
    assert fill(shares, 16, now) == [16, 0]
    assert shares.usable(now + SLOW_REST_S) == [0, 1]


def test_the_only_mirror_is_never_too_slow() -> None:
    shares = admitted(1)
    now = measure(shares, [1.0], [16], 60.0)
    assert shares.too_slow([16], now) == []


def test_a_failed_mirror_rests_longer_each_time_and_its_failures_end_with_a_byte() -> None:
    shares = admitted(2, retries=5)
    now, rests = 0.0, []
    for _ in range(4):
        rests.append(shares.failed(1, 0.0, now))
        assert shares.usable(now) == [0]
        now += rests[-1]
        assert shares.usable(now) == [0, 1]
    assert rests == sorted(set(rests))
    shares.moved(1)
    assert shares.failed(1, 0.0, now) == rests[0]


def test_requests_that_fail_together_count_as_one_failure() -> None:
    shares = admitted(2, retries=2)
    for _ in range(16):
        shares.failed(1, 0.0, 0.0)
    assert not shares.is_down(1)


def test_a_mirror_that_fails_again_and_again_cools_down_while_another_serves() -> None:
    shares = admitted(2, retries=2)
    now = 0.0
    for _ in range(3):
        now += shares.failed(1, 0.0, now)
    assert shares.is_down(1)
    assert now >= COOL_DOWN_S
    assert shares.usable(now) == [0, 1], "then it is tried again"


def test_without_another_it_is_tried_again_sooner() -> None:
    shares = admitted(1, retries=2)
    now = 0.0
    for _ in range(3):
        now += shares.failed(0, 0.0, now)
    assert now < COOL_DOWN_S / 2


def test_a_ban_is_for_good_and_its_first_reason_stays() -> None:
    shares = admitted(2)
    shares.ban(0, "404")
    shares.ban(0, "500")
    assert shares.reason(0) == "404"
    assert fill(shares, 16, 1e9) == [0, 16]
    shares.pardon(0)
    assert shares.usable(0.0) == [0, 1]


def test_what_a_server_asks_for_is_waited_for() -> None:
    shares = admitted(2)
    assert shares.failed(0, 0.0, 0.0, wait_s=20.0) == 20.0
    assert shares.usable(19.9) == [1]


def test_an_overloaded_mirror_gets_fewer_requests_and_slowly_more_again() -> None:
    shares = admitted(1)
    rest_s = shares.failed(0, 0.0, 0.0, running=5)
    assert fill(shares, 16, rest_s) == [4]
    assert fill(shares, 16, RECOVERY_S) == [5]
    assert fill(shares, 16, 3 * RECOVERY_S) == [7]
    assert fill(shares, 16, 100 * RECOVERY_S) == [16]


def test_requests_move_to_a_mirror_that_has_none() -> None:
    shares = admitted(2)
    assert shares.to_move([16, 0], 0.0) == {0: 8}
    assert shares.to_move([8, 8], 0.0) == {}


def test_one_connection_is_not_moved_back_and_forth() -> None:
    assert admitted(2, connections=1).to_move([1, 0], 0.0) == {}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 10**9)), min_size=1, max_size=6),
    st.integers(1, 64),
)
def test_targets_share_out_exactly_the_connections(
    mirrors: list[tuple[bool, int, int]], connections: int
) -> None:
    shares = admitted(len(mirrors), connections)
    for index, (known, running, rate) in enumerate(mirrors):
        if known:
            for second in range(3):
                shares.measured(index, rate * second, running, float(second))
    targets = shares.targets(range(len(mirrors)))
    assert sum(targets.values()) == pytest.approx(connections)
    assert all(target > 0 for target in targets.values())


@given(
    st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 200_000)), min_size=1, max_size=5),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=8, max_size=8),
)
def test_samples_lie_within_what_is_there_and_do_not_overlap(
    gaps: list[tuple[int, int]], fractions: list[float]
) -> None:
    within, at = [], 0
    for gap, size in gaps:
        within.append((at + gap, at + gap + size))
        at += gap + size
    spans = sample_spans(within, fractions)
    assert spans
    for start, stop in spans:
        assert 0 < stop - start <= SAMPLE_BYTES
        assert any(begin <= start and stop <= end for begin, end in within)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    if length(within) <= SAMPLES * SAMPLE_BYTES:
        assert length(spans) == length(within), "a little is taken whole"
    else:
        assert spans[-1][1] == within[-1][1], "the end is among them"
        assert len(spans) <= SAMPLES


def test_of_nothing_there_are_no_samples() -> None:
    assert sample_spans([], [0.5] * 8) == []
