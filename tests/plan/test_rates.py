"""The rate meter, with times that the test makes up."""

from __future__ import annotations

import math
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.rates import BURST_S, UNLIMITED, Dealer, Load, RateMeter, TokenBucket


def test_there_is_no_rate_before_the_second_update() -> None:
    meter = RateMeter()
    assert meter.rate == 0.0
    assert meter.update(1000, 5.0) == 0.0


@pytest.mark.parametrize("step_s", [0.01, 0.1, 1.0, 60.0])
def test_a_steady_stream_has_its_rate_from_the_first_interval_on(step_s: float) -> None:
    meter = RateMeter()
    for tick in range(20):
        rate = meter.update(int(tick * step_s * 1_000_000), tick * step_s)
        if tick:
            assert rate == pytest.approx(1_000_000, rel=1e-3)


def test_the_rate_follows_a_change_within_a_few_time_constants() -> None:
    meter = RateMeter(time_constant_s=3.0)
    total, now = 0, 0.0
    for rate in (1000, 5000):
        for _ in range(200):
            total, now = total + rate // 10, now + 0.1
            meter.update(total, now)
        assert meter.rate == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("time_constant_s", [None, 1.0, 10.0])
def test_of_a_change_63_percent_shows_after_a_time_constant(time_constant_s: float | None) -> None:
    meter = RateMeter() if time_constant_s is None else RateMeter(time_constant_s)
    tau = time_constant_s or 3.0
    total, now = 0, 0.0
    for _ in range(2000):  # twenty time constants of 1000 bytes a second
        total, now = total + int(10 * tau), now + 0.01 * tau
        meter.update(total, now)
    assert meter.rate == pytest.approx(1000, rel=1e-3)
    assert meter.update(total, now + tau) == pytest.approx(1000 * math.exp(-1), rel=1e-3)


def test_a_stall_lets_the_rate_fall() -> None:
    meter = RateMeter(time_constant_s=3.0)
    meter.update(0, 0.0)
    meter.update(1000, 1.0)
    assert meter.update(1000, 4.0) < 500
    assert meter.update(1000, 60.0) < 1


def test_two_updates_at_one_time_change_nothing() -> None:
    meter = RateMeter()
    meter.update(0, 0.0)
    meter.update(100, 1.0)
    assert meter.update(5000, 1.0) == meter.rate == pytest.approx(100)


@pytest.mark.parametrize(("total", "now"), [(50, 2.0), (200, 0.5)])
def test_a_count_or_time_that_goes_back_starts_the_measuring_anew(total: int, now: float) -> None:
    meter = RateMeter()
    meter.update(0, 0.0)
    meter.update(100, 1.0)
    assert meter.update(total, now) == 0.0
    assert meter.update(total + 30, now + 1.0) == pytest.approx(30)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0.001, 1000)), min_size=1, max_size=30))
def test_the_rate_lies_between_the_slowest_and_the_fastest_interval(steps: list[tuple[int, float]]) -> None:
    meter = RateMeter()
    total, now = 0, 0.0
    meter.update(total, now)
    seen = []
    for moved, elapsed in steps:
        total, before, now = total + moved, now, now + elapsed
        seen.append(moved / (now - before))
        rate = meter.update(total, now)
        assert min(seen) * (1 - 1e-6) - 1e-6 <= rate <= max(seen) * (1 + 1e-6) + 1e-6


# ---- the rate limit ----


def test_a_bucket_begins_empty_and_fills_to_a_burst() -> None:
    bucket = TokenBucket(1_000_000, 5.0)
    assert bucket.refill(0, 5.0) == 0
    assert bucket.refill(0, 5.01) == pytest.approx(10_000, abs=1)
    assert bucket.refill(0, 99.0) == bucket.burst == 1_000_000 * BURST_S


def test_the_slowest_rate_still_lets_a_byte_pass() -> None:
    bucket = TokenBucket(1, 0.0)
    assert bucket.burst == 1
    assert bucket.refill(0, 100.0) == 1


def test_what_was_overdrawn_is_paid_back_first() -> None:
    bucket = TokenBucket(1000, 0.0)
    assert bucket.refill(-5000, 1.0) == -4000


def test_a_time_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1000, 10.0)
    assert bucket.refill(7, 9.0) == 7
    assert bucket.refill(7, 9.05) == pytest.approx(57, abs=1)


@given(st.integers(1, 10**6), st.lists(st.floats(0.0001, 0.05), min_size=1, max_size=100))
def test_the_bytes_that_pass_keep_to_the_rate(rate: int, steps: list[float]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now, passed, tokens = 0.0, 0, 0
    for step in steps:
        now += step
        tokens = bucket.refill(tokens, now)
        passed, tokens = passed + max(0, tokens), min(0, tokens)
    assert rate * now - 2 <= passed + tokens + 1 <= rate * now + 2 or bucket.burst < rate * max(steps)


# ---- rates that transfers share ----


def spend(dealer: Dealer, appetites: dict[str, int], seconds: float, step_s: float = 0.02) -> dict[str, int]:
    """Returns what each took in so many seconds; an appetite is in bytes a step, in slices of 16 KiB."""
    took = dict.fromkeys(appetites, 0)
    left: dict[Hashable, int] = dict.fromkeys(appetites, 0)
    for step in range(round(seconds / step_s)):
        left = dealer.deal(left, step * step_s)
        for who, appetite in appetites.items():
            eaten = 0
            while left[who] > 0 and eaten < appetite:
                size = min(16384, appetite - eaten)
                left[who] -= size
                eaten += size
            took[who] += eaten
    return took


def dealer_of(*rates: tuple[int | None, int | None, int | None], hosts: str = "hhhhhhhhhh") -> Dealer:
    """Returns a dealer with transfers 0, 1, ... that state these rates: own, per host and total."""
    dealer = Dealer()
    for who, (own, per_host, total) in enumerate(rates):
        dealer.join(str(who), hosts[who], own, per_host, total, 0.0)
    return dealer


MB = 1_000_000
HUGE = 10 * MB


def test_three_transfers_of_one_rate_take_a_third_each_and_no_more_together() -> None:
    took = spend(dealer_of(*[(None, 6 * MB, None)] * 3), {"0": HUGE, "1": HUGE, "2": HUGE}, 3.0)
    assert sum(took.values()) == pytest.approx(18 * MB, rel=0.05)
    assert all(each == pytest.approx(6 * MB, rel=0.05) for each in took.values())


def test_what_one_does_not_take_the_others_get() -> None:
    took = spend(dealer_of(*[(None, None, 6 * MB)] * 3), {"0": 2000, "1": HUGE, "2": 0}, 3.0)
    assert took["0"] == pytest.approx(100_000 * 3, rel=0.05)
    assert sum(took.values()) == pytest.approx(18 * MB, rel=0.05)


@pytest.mark.parametrize("idle", [0, 30])
def test_many_that_rest_cost_who_works_nothing(idle: int) -> None:
    dealer = dealer_of(*[(None, 6 * MB, None)] * (1 + idle), hosts="h" * 40)
    took = spend(dealer, {"0": HUGE} | {str(who): 0 for who in range(1, 1 + idle)}, 3.0)
    assert took["0"] == pytest.approx(18 * MB, rel=0.05)


def test_all_three_rates_hold_at_once() -> None:
    dealer = dealer_of((MB, 5 * MB, 8 * MB), (None, None, None), (None, None, None), hosts="aab")
    took = spend(dealer, {"0": HUGE, "1": HUGE, "2": HUGE}, 3.0)
    assert took["0"] == pytest.approx(3 * MB, rel=0.05)
    assert took["0"] + took["1"] <= 15 * MB * 1.05
    assert sum(took.values()) == pytest.approx(24 * MB, rel=0.05)


def test_the_lowest_rate_that_is_stated_holds_and_goes_with_who_stated_it() -> None:
    dealer = dealer_of((None, 9 * MB, None), (None, 3 * MB, None), (None, None, None))
    assert sum(spend(dealer, dict.fromkeys("012", HUGE), 3.0).values()) == pytest.approx(9 * MB, rel=0.05)
    dealer.leave("1", 3.0)
    assert dealer.limited
    dealer.leave("0", 3.0)
    assert not dealer.limited
    assert dealer.deal({"2": -5}, 4.0) == {"2": UNLIMITED}


def test_who_states_nothing_alone_is_not_limited() -> None:
    dealer = dealer_of((None, None, None))
    assert not dealer.limited
    assert dealer.deal({"0": 0}, 1.0) == {"0": UNLIMITED}


def test_a_transfer_that_goes_to_another_host_is_held_to_the_rate_there() -> None:
    dealer = dealer_of((None, MB, None), (None, None, None), hosts="ab")
    assert spend(dealer, {"0": 0, "1": HUGE}, 1.0)["1"] > 100 * MB
    dealer.join("1", "a", None, None, None, 1.0)
    dealer.join("0", "a", None, MB, None, 1.0)
    assert dealer.deal({"0": 0, "1": 0}, 1.1)["1"] <= 0.1 * MB


def test_what_comes_from_two_hosts_is_held_to_the_rates_of_both() -> None:
    dealer = dealer_of((None, MB, None), (None, 4 * MB, None), (None, None, None), hosts="abb")
    dealer.join("2", "ab", None, None, None, 0.0)
    eaten = spend(dealer, {"0": HUGE, "1": HUGE, "2": HUGE}, 1.0)
    assert eaten["0"] + eaten["2"] <= 1.11 * MB
    assert eaten["1"] + eaten["2"] <= 4.41 * MB
    assert eaten["1"] > 3 * MB


@given(
    st.lists(st.tuples(*[st.none() | st.integers(50_000, MB)] * 3), min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 5000, 50_000]), min_size=4, max_size=4),
)
def test_no_rate_is_ever_exceeded(
    rates: list[tuple[int | None, int | None, int | None]], eats: list[int]
) -> None:
    took = spend(dealer_of(*rates, hosts="aabb"), {str(n): eats[n] for n in range(len(rates))}, 2.0)
    slices = 16384 * len(rates)

    def check(which: int, group: list[int]) -> None:
        stated = [rates[n][which] for n in group]
        lowest = min((rate for rate in stated if rate is not None), default=None)
        if lowest is not None:
            assert sum(took[str(n)] for n in group) <= lowest * 2.0 + slices

    everyone = range(len(rates))
    for n in everyone:
        check(0, [n])
    check(1, [n for n in everyone if n < 2])
    check(1, [n for n in everyone if n >= 2])
    check(2, list(everyone))


def test_a_thread_that_hardly_waits_has_no_time_to_spare() -> None:
    load = Load()
    seen = []
    for idle_s, now in (
        (5.0, 10.0),
        (5.0, 10.019),
        (5.009, 10.021),
        (5.029, 10.051),
        (5.03, 10.151),
        (5.13, 10.26),
    ):
        load.update(idle_s, now)
        seen.append(load.full)
    assert seen == [False, False, True, False, True, False]
