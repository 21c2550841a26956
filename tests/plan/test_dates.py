"""HTTP-dates, in all three forms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.dates import http_date, http_time

DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
STAMP = 1735689600.0
DIGITS = st.integers(0, 99).map("{:02}".format)
MONTHS = st.sampled_from(["Jan", "Feb", "Apr", "Dec", "dec", "Foo"])
YEARS = st.one_of(st.integers(1900, 2100), st.integers(0, 9999)).map("{:04}".format)


@pytest.fixture(params=["UTC", "Asia/Shanghai"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "stamp"),
    [
        (DATE, STAMP),
        ("Wednesday, 01-Jan-25 00:00:00 GMT", STAMP),
        ("Wed Jan  1 00:00:00 2025", STAMP),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1.0),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Wed, 99 Jan 2025 00:00:00 GMT", None),
        ("Wed, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_an_http_date_is_read_in_every_time_zone(
    value: str | None, stamp: float | None, time_zone: None
) -> None:
    assert http_time(value) == stamp


@given(st.one_of(st.text(max_size=60), st.text(alphabet="0123456789:, JanWedGMT+-", max_size=40)))
def test_no_date_makes_it_raise(value: str) -> None:
    stamp = http_time(value)
    assert stamp is None or isinstance(stamp, float)


@given(st.integers(-(2**33), 2**37))
def test_what_is_sent_today_is_read_to_the_second(seconds: int) -> None:
    assert http_time(formatdate(seconds, usegmt=True)) == seconds


@given(DIGITS, MONTHS, YEARS, DIGITS, DIGITS, DIGITS)
def test_dates_good_and_bad_are_those_of_mail(
    day: str, month: str, year: str, hour: str, minute: str, second: str
) -> None:
    text = f"Mon, {day} {month} {year} {hour}:{minute}:{second} GMT"
    try:
        expected = parsedate_to_datetime(text).timestamp()
    except ValueError:
        assert http_time(text) is None
    else:
        assert http_time(text) == expected


@given(st.integers(0, 253402300799))
def test_a_time_is_written_in_the_form_to_be_sent(epoch_s: int) -> None:
    assert http_date(epoch_s + 0.9) == formatdate(epoch_s, usegmt=True)
    assert http_time(http_date(epoch_s)) == epoch_s
