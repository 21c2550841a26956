"""One slice's sample, the order of turns, and the ranges that are asked for."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.mirrorbench.sampling import (
    LEAST_RANGE,
    Point,
    quiet_s,
    random_span,
    sample_of,
    still_silent,
    turns_of,
)


def steady(rate: float, seconds: float, begin: float = 0.0, count: int = 0) -> list[Point]:
    steps = 100
    return [
        (begin + seconds * step / steps, count + round(rate * seconds * step / steps))
        for step in range(steps + 1)
    ]


def test_a_steady_rate_is_what_it_is() -> None:
    found = sample_of(steady(1e6, 1.0), 1.0, 10**9, at_s=3.0)
    assert found.rate == pytest.approx(1e6, rel=1e-3)
    assert found.first_half == pytest.approx(1e6, rel=1e-3)
    assert found.second_half == pytest.approx(1e6, rel=1e-3)
    assert found.at_s == 3.0


def test_what_comes_in_advance_is_left_out_with_the_warm_up() -> None:
    burst = [(0.0, 5_000_000), *steady(1e6, 1.0, 0.01, 5_000_000)]
    assert sample_of(burst, 1.0, 10**9).rate == pytest.approx(1e6, rel=1e-2)


def test_a_slow_start_is_left_out_with_the_warm_up() -> None:
    slow = steady(1e5, 0.25)
    points = [*slow, *steady(1e6, 0.75, *slow[-1])]
    assert sample_of(points, 1.0, 10**9).rate == pytest.approx(1e6, rel=2e-2)


def test_where_bytes_end_it_their_first_quarter_is_the_warm_up() -> None:
    slow = steady(1e6, 0.025)
    points = [*slow, *steady(1e7, 0.0075, *slow[-1])]
    assert sample_of(points, 10.0, 100_000).rate == pytest.approx(1e7, rel=2e-2)


def test_the_halves_tell_a_rate_that_rises() -> None:
    points = [(step / 100, step * step * 100) for step in range(101)]
    found = sample_of(points, 1.0, 10**9)
    assert found.second_half > 1.4 * found.first_half


def test_what_was_over_before_it_was_looked_at_again_is_counted_as_a_whole() -> None:
    for seconds in (0.001, 0.07, 0.9):
        assert sample_of([(0.0, 0), (seconds, 10**6)], 0.2, 10**6).rate == pytest.approx(10**6 / seconds)
        twice = [(0.0, 0), (seconds, 10**6), (seconds + 0.001, 10**6)]
        assert sample_of(twice, 2.0, 10**6).rate == pytest.approx(10**6 / seconds)
        points = [(0.0, 0), (seconds / 2, 10**5), (seconds, 10**6)]
        assert sample_of(points, 10.0, 10**6).rate == pytest.approx(10**6 / seconds)


def in_bursts(size: int, seconds: float) -> list[Point]:
    """Returns what comes where each second begins with the bytes of all of it, in 10 ms."""
    ticks = round(seconds / 0.005)
    return [
        (tick * 0.005, size * (1 + tick // 200) - (size // 2 if tick % 200 == 0 else 0))
        for tick in range(ticks)
    ]


@pytest.mark.parametrize("seconds", [1.2, 1.67, 1.99, 2.5, 3.7])
def test_bursts_a_second_are_counted_from_the_end_of_one_to_that_of_another(seconds: float) -> None:
    assert sample_of(in_bursts(10**6, seconds), seconds, 10**9).rate == pytest.approx(1e6, rel=0.02)


def test_while_only_the_first_burst_is_there_nothing_is_known_yet() -> None:
    points = in_bursts(10**6, 0.91)
    assert still_silent(points, 0.9, 10**9)
    assert quiet_s(points) == pytest.approx(0.9, abs=0.02)
    assert sample_of(points, 0.9, 10**9).rate == 0.0
    more = in_bursts(10**6, 1.2)
    assert not still_silent(more, 0.9, 10**9)
    assert quiet_s(more) == pytest.approx(0.19, abs=0.02)


def test_silence_after_a_failure_counts() -> None:
    points = [*steady(1e6, 0.5), (1.0, 500_000)]
    assert sample_of(points, 1.0, 10**9).rate == pytest.approx(1e6, rel=1e-2)
    failed = sample_of(points, 1.0, 10**9, silence_counts=True)
    assert failed.rate == pytest.approx(1e6 / 3, rel=2e-2)


@pytest.mark.parametrize("points", [[], [(1.0, 0)], [(1.0, 5), (1.0, 5)]])
def test_nothing_is_no_rate(points: list[Point]) -> None:
    assert sample_of(points, 1.0, 100).rate == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**7)), min_size=2, max_size=50),
    st.floats(0.01, 10),
    st.integers(1, 10**8),
)
def test_a_sample_is_never_negative_nor_more_than_the_quickest_step(
    steps: list[tuple[float, int]], slice_s: float, room: int
) -> None:
    now, count, points = 0.0, 0, []
    for more_s, more in steps:
        now, count = now + more_s, count + more
        points.append((now, count))
    found = sample_of(points, slice_s, room)
    assert min(found.rate, found.first_half, found.second_half) >= 0
    quickest = max((more / more_s for more_s, more in steps[1:] if more_s > 1e-9), default=0.0)
    if all(more_s > 1e-9 for more_s, _ in steps):
        assert found.rate <= quickest * (1 + 1e-6)


@given(
    st.sets(st.integers(0, 50), max_size=8),
    st.sets(st.integers(1, 64), min_size=1, max_size=4),
    st.integers(),
)
def test_every_round_has_every_turn_once(mirrors: set[int], counts: set[int], seed: int) -> None:
    rounds = turns_of(sorted(mirrors), sorted(counts), 4, Random(seed))
    wanted = Counter((mirror, count) for mirror in mirrors for count in {0, *counts})
    assert [Counter(turns) for turns in rounds] == [wanted] * 4
    assert rounds == turns_of(sorted(mirrors), sorted(counts), 4, Random(seed))


def test_the_order_is_another_one_in_each_round() -> None:
    rounds = turns_of(range(6), (1, 4, 16), 5, Random(1))
    assert len({tuple(turns) for turns in rounds}) == 5


@given(st.integers(1, 2**50), st.integers(1, 2**40), st.integers())
def test_a_range_lies_inside_the_object(size: int, room: int, seed: int) -> None:
    start, stop = random_span(size, room, Random(seed))
    assert 0 <= start < stop <= size
    assert stop - start == min(size, max(room, LEAST_RANGE))


def test_ranges_are_all_over_the_object() -> None:
    random = Random(3)
    places = {random_span(1 << 30, 1 << 20, random)[0] >> 27 for _ in range(200)}
    assert places == set(range(8))
