"""Intervals by bootstrap: what they hold, what they promise, and when two of them part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.mirrorbench.statistics import LEAST_SAMPLES, Estimate, above, estimate

RATES = st.floats(0, 1e12, allow_nan=False)


@given(st.lists(RATES, min_size=LEAST_SAMPLES, max_size=40), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_mean_and_nothing_outside_the_samples(samples: list[float], seed: int) -> None:
    found = estimate(samples, seed)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low <= found.mean <= found.high
    slack = 1e-9 * max(samples) + 1e-9
    assert min(samples) - slack <= found.low and found.high <= max(samples) + slack
    assert found == estimate(samples, seed)


@given(st.lists(RATES, max_size=LEAST_SAMPLES - 1))
def test_too_few_samples_have_a_mean_and_no_interval(samples: list[float]) -> None:
    found = estimate(samples)
    if not samples:
        assert found is None
    else:
        assert found is not None and (found.low, found.high) == (None, None)
        assert found.mean == pytest.approx(sum(samples) / len(samples))


@pytest.mark.parametrize("rounds", [4, 5, 8, 20])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_of_95_percent_hold_the_truth_about_as_often(rounds: int, shape: str) -> None:
    """The plain percentiles do in 83 % of cases of 5 rounds."""
    least = 0.84 if rounds == 4 else 0.89
    random = np.random.default_rng(2026)
    times, held = 400, 0
    for number in range(times):
        if shape == "normal":
            samples, truth = random.normal(100, 10, rounds), 100.0
        else:
            samples, truth = random.gamma(4, 25, rounds), 100.0
        found = estimate(list(samples), number)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert least <= held / times <= 0.985


def test_equal_samples_leave_no_doubt() -> None:
    assert estimate([5.0] * 4) == Estimate(5.0, 5.0, 5.0, 0.0)


def test_only_intervals_that_part_show_a_difference() -> None:
    low, high = Estimate(1, 0.9, 1.1, 0), Estimate(2, 1.2, 2.8, 0)
    overlapping, unknown = Estimate(1.5, 1.0, 2.0, 0), Estimate(9, None, None, 0)
    assert above(high, low)
    assert not above(low, high)
    assert not above(high, overlapping)
    assert not above(overlapping, low)
    assert not above(unknown, low)
    assert not above(high, unknown)
    assert not above(high, None)
    assert not above(high, Estimate(1.1, 1.0, 1.2, 0)), "they touch"
