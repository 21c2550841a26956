"""Sizes and durations, read and written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.units import MAX_SIZE, format_duration, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (MAX_SIZE, MAX_SIZE),
        ("0", 0),
        ("512", 512),
        ("64K", 64 * 1024),
        ("8m", 8 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        (" 2 GiB ", 2 * 1024**3),
        ("2GB", 2 * 1024**3),
        ("7B", 7),
        ("1T", 1024**4),
        ("1P", 1024**5),
        ("0.5K", 512),
        ("0.0001K", 0),
        ("9007199254740993", 9007199254740993),
        ("8191P", 8191 * 1024**5),
        (str(MAX_SIZE), MAX_SIZE),
    ],
)
def test_a_size_is_read(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "K",
            "-1",
            "+1",
            "1e3",
            "1,5G",
            "0x10",
            "1.K",
            ".5K",
            "1 2",
            "1KK",
            "1E",
            "8M/s",
            "nan",
            "inf",
        ),
        *(-1, 2**63, True, False, None, 1.5, [], b"8M"),
        *("8192P", "9" * 30, "9" * 400 + ".5", "9" * 5000, "1K\x00"),
        *("\u0661\u0662", "1\u212a"),  # digits, and a K, that are not ASCII
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_a_long_text_is_refused_at_once_and_not_repeated() -> None:
    with pytest.raises(ValueError) as caught:
        parse_size("1" + " " * 10**6 + "x")
    assert len(str(caught.value)) < 300


@given(st.integers(0, MAX_SIZE))
def test_a_number_of_bytes_means_itself(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.integers(0, 2**20), st.sampled_from(["K", "M", "G", "T"]))
def test_a_unit_is_a_power_of_1024(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * 1024 ** ("KMGT".index(unit) + 1)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= parse_size(text) <= MAX_SIZE
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (100 * 1024 + 512, "100 KiB"),
        (2 * 1024**3, "2 GiB"),
        (1024**4 * 5000, "5000 TiB"),
        (0.5, "0 B"),
    ],
)
def test_a_size_is_written_for_people(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (math.nan, "-"),
        (0, "0 s"),
        (3.6, "4 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (125, "2:05"),
        (3723, "1:02:03"),
        (90_000, "25:00:00"),
        (359_999, "99:59:59"),
        (360_000, "4 days"),
        (246e9, "-"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text
