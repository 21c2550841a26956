"""What is said of mirrors: limits, distance, slopes, the ranking, verdicts and advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.mirrorbench.findings import (
    LEAST_CHUNK,
    MOST_CHUNK,
    advised,
    beside_others,
    chunk_size,
    ranked,
    slope,
    verdicts,
)
from fastxfer.mirrorbench.report import BenchRow
from fastxfer.mirrorbench.sampling import Sample
from tests.mirrorbench.rows import rate, row

FAST = row("fast", rate(1, 100), rate(4, 120), rate(16, 118))


def findings(*rows: BenchRow) -> list[tuple[str, ...]]:
    return [each.findings for each in beside_others(rows)]


def test_a_mirror_that_gives_each_connection_its_own_is_told_from_a_limited_one() -> None:
    by_connection = row("a", rate(1, 2), rate(4, 7.9), rate(16, 30))
    limited = row("b", rate(1, 5), rate(4, 5.2), rate(16, 5.1))
    assert findings(FAST, by_connection, limited) == [(), ("connection-limited",), ("limited",)]


def test_the_fastest_is_not_called_limited_though_more_connections_bring_no_more() -> None:
    assert findings(FAST, row("b", rate(1, 99), rate(4, 121))) == [(), ()]


def test_a_limit_that_is_not_shown_is_not_claimed() -> None:
    vague = row("b", rate(1, 50, 0.9), rate(4, 55, 1.5))
    assert findings(FAST, vague) == [(), ()]
    assert findings(FAST, row("c", rate(1, 10, 0.5), rate(4, 40, 0.5))) == [(), ()]


@pytest.mark.parametrize(("first_byte", "far"), [(0.2, True), (0.045, False), (0.03, False)])
def test_far_is_said_beside_the_nearest(first_byte: float, far: bool) -> None:
    found = beside_others([FAST, row("b", rate(1, 100), first_byte=first_byte)])
    assert ("far" in found[1].findings) is far
    assert found[0].findings == ()


def test_the_nearest_is_one_that_can_be_used() -> None:
    other = row("c", rate(1, 1), first_byte=0.001, same_object=False)
    assert findings(row("b", rate(1, 100), first_byte=0.2), other)[0] == ()


def samples(*pairs: tuple[float, float]) -> list[Sample]:
    return [Sample(0.0, 1.0, first, second) for first, second in pairs]


def test_a_slope_is_said_when_nearly_all_rounds_have_it() -> None:
    rising = slope(samples((1, 2), (1, 3), (1, 2), (1, 2), (1, 1)))
    falling = slope(samples((2, 1), (3, 1), (4, 1)))
    assert rising is not None and rising[0] == "rising"
    assert falling is not None and falling[0] == "falling"
    assert slope(samples((1, 2), (2, 1), (1, 2), (1, 1))) is None
    assert slope(samples((1, 2), (1, 2))) is None
    assert slope(samples((0, 5), (0, 5), (0, 5))) is None


def test_the_best_come_first_and_what_cannot_be_used_last() -> None:
    rows = [
        row("down", error="no connection", exit_code=6),
        row("stale", rate(1, 500), same_object=False),
        row("slow", rate(1, 1)),
        FAST,
        row("late", first_byte=0.5),
        row("soon", first_byte=0.1),
    ]
    assert [each.url for each in ranked(rows)] == ["fast", "slow", "soon", "late", "stale", "down"]


def test_a_verdict_only_where_intervals_part() -> None:
    near = row("near", rate(4, 115))
    slow = row("slow", rate(4, 60))
    stale = row("stale", rate(4, 900), same_object=False)
    said = verdicts([FAST, near, slow, stale])
    assert said[0] == "no difference shown between fast and near"
    assert said[1].startswith("near is faster than slow: 115 MiB/s (")
    assert len(said) == 2


def test_without_rates_latency_tells() -> None:
    said = verdicts([row("a", first_byte=0.1), row("b", first_byte=0.5), row("c", first_byte=0.5)])
    assert said == ("a answers sooner than b", "no difference shown between b and c")


def test_the_fewest_connections_that_are_not_shown_to_be_slower_are_advised() -> None:
    def count(*rates: tuple[int, float]) -> int | None:
        found = advised([rate(connections, mib) for connections, mib in rates])
        return found.connections if found is not None else None

    assert count((1, 10), (4, 39), (16, 40)) == 4
    assert count((1, 40), (4, 39), (16, 40)) == 1
    assert count((1, 10), (4, 20), (16, 40)) == 16
    assert count((1, 0), (4, 0)) is None
    assert count() is None


@given(st.floats(0, 1e11), st.integers(1, 1024), st.floats(0, 100))
def test_a_chunk_is_a_power_of_two_within_bounds(bytes_a_s: float, connections: int, wait_s: float) -> None:
    size = chunk_size(bytes_a_s, connections, wait_s)
    assert LEAST_CHUNK <= size <= MOST_CHUNK
    assert size & (size - 1) == 0


def test_a_chunk_grows_with_rate_and_latency() -> None:
    assert chunk_size(1e6, 4, 0.01) == LEAST_CHUNK
    assert chunk_size(100e6, 4, 0.2) == MOST_CHUNK
    assert chunk_size(10e6, 4, 0.02) == 1 << 20
