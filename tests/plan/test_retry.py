"""Back-off and Retry-After."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.retry import BASE_S, CAP_S, RETRY_AFTER_CAP_S, backoff_s, parse_retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110


@pytest.fixture(params=["UTC", "Asia/Shanghai", "America/New_York"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("failures", "ceiling"),
    [(1, BASE_S), (2, 2 * BASE_S), (3, 4 * BASE_S), (8, CAP_S), (20, CAP_S), (10**6, CAP_S)],
)
def test_the_wait_doubles_to_a_cap_and_jitter_spreads_it_over_the_upper_half(
    failures: int, ceiling: float
) -> None:
    assert backoff_s(failures, 0.0) == ceiling / 2
    assert backoff_s(failures, 0.5) == ceiling * 0.75
    assert backoff_s(failures, 0.999999) < ceiling


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", 0.0),
        ("301", RETRY_AFTER_CAP_S),
        ("9" * 400, RETRY_AFTER_CAP_S),
        ("1.5", None),
        ("--5", None),
        ("-", None),
        ("soon", None),
        ("\u0663", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_CAP_S),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 -9999", None),
    ],
)
def test_retry_after_in_seconds_is_read_and_capped(value: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(value, NOW) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:50:07 GMT",
        "Sunday, 06-Nov-94 08:50:07 GMT",
        "Sun Nov  6 08:50:07 1994",
        "Sun, 06 Nov 1994 10:50:07 +0200",
    ],
)
def test_every_form_of_an_http_date_counts_from_now_in_every_time_zone(value: str, time_zone: str) -> None:
    assert parse_retry_after(value, NOW) == 30.0


@given(st.one_of(st.text(max_size=60), st.text(alphabet="0123456789-+:, GMTSunNov", max_size=40)))
def test_no_value_makes_it_raise_or_leaves_its_bounds(value: str) -> None:
    wait_s = parse_retry_after(value, NOW)
    assert wait_s is None or 0.0 <= wait_s <= RETRY_AFTER_CAP_S
