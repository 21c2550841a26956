"""Globs: which paths they take, and which folders need not be listed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.dataset.filters import Filters
from fastxfer.errors import OptionError

PATHS = ["a.csv", "raw/a.csv", "x/raw/a.csv", "raw/deep/b.txt", "raw.csv", "notes"]


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("*.csv", ["a.csv", "raw/a.csv", "x/raw/a.csv", "raw.csv"]),
        ("/*.csv", ["a.csv", "raw.csv"]),
        ("raw/*.csv", ["raw/a.csv", "x/raw/a.csv"]),
        ("/raw/*", ["raw/a.csv"]),
        ("/raw/**", ["raw/a.csv", "raw/deep/b.txt"]),
        ("raw/", ["raw/a.csv", "x/raw/a.csv", "raw/deep/b.txt"]),
        ("/raw/", ["raw/a.csv", "raw/deep/b.txt"]),
        ("?.csv", ["a.csv", "raw/a.csv", "x/raw/a.csv"]),
        ("{notes,*.txt}", ["raw/deep/b.txt", "notes"]),
        ("[!b].csv", ["a.csv", "raw/a.csv", "x/raw/a.csv"]),
        ("[a-b].???", ["a.csv", "raw/a.csv", "x/raw/a.csv", "raw/deep/b.txt"]),
        ("**", PATHS),
        ("raw", []),
        ("RAW/", []),
        (r"\*.csv", []),
        ("x/**/a.csv", ["x/raw/a.csv"]),
    ],
)
def test_a_pattern_takes_these(pattern: str, taken: list[str]) -> None:
    assert [path for path in PATHS if Filters(include=[pattern]).wants(path)] == taken
    assert [path for path in PATHS if not Filters(exclude=[pattern]).wants(path)] == taken


def test_an_exclude_counts_more_than_an_include() -> None:
    both = Filters(include=["*.csv"], exclude=["/raw/"])
    assert [path for path in PATHS if both.wants(path)] == ["a.csv", "x/raw/a.csv", "raw.csv"]
    assert all(map(Filters().wants, PATHS))


@pytest.mark.parametrize("pattern", ["", "[", "[a", "{a", "[z-a]", "\\", "x" * 5000])
def test_what_is_no_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(OptionError, match="pattern"):
        Filters(exclude=[pattern])


def test_a_folder_of_which_nothing_is_wanted_is_not_entered() -> None:
    assert not Filters(exclude=["raw/"]).enters("x/raw")
    assert Filters(exclude=["raw/*"]).enters("raw")
    assert Filters(exclude=["*.csv"]).enters("raw")
    only = Filters(include=["/data/20*/x/*.csv"])
    assert [only.enters(f) for f in ("data", "data/2024", "data/1999", "data/2024/x", "data/2024/x/y")] == [
        True, True, False, True, False,
    ]  # fmt: skip
    assert Filters(include=["*.csv"]).enters("any/where")
    assert Filters(include=["/data/**"]).enters("data/a/b/c") and not Filters(include=["/data/**"]).enters(
        "b"
    )


PATTERNS = st.lists(
    st.sampled_from(["a", "b", "/", "*", "**", "?", "{a,b}", "[ab]", "[!a]"]), min_size=1, max_size=6
)


@given(
    st.lists(PATTERNS.map("".join), max_size=2),
    st.lists(PATTERNS.map("".join), max_size=2),
    st.lists(st.text("ab", min_size=1, max_size=2), min_size=2, max_size=4),
)
def test_whatever_is_wanted_is_in_folders_that_are_entered(
    include: list[str], exclude: list[str], parts: list[str]
) -> None:
    filters = Filters(include, exclude)
    if filters.wants("/".join(parts)):
        assert all(filters.enters("/".join(parts[:depth])) for depth in range(1, len(parts)))
