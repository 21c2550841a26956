"""Which mirrors have the same object, and which an older or another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.mirrorbench.identity import Copy, Standing, common_size, compare
from fastxfer.plan.response import Identity

SPANS = [(0, 4), (90, 94)]
OLD, NEW = "Wed, 01 Jan 2025 00:00:00 GMT", "Thu, 02 Jan 2025 00:00:00 GMT"
RIGHT, WRONG = (b"aaaa", b"bbbb"), (b"aaaa", b"cccc")


def copy(
    samples: tuple[bytes, ...] | None = RIGHT,
    date: str | None = NEW,
    size: int | None = 100,
    etag: str | None = '"e"',
    *,
    changed: bool = False,
) -> Copy:
    return Copy(Identity(size, etag, date), samples, changed)


def told(*copies: Copy | None) -> list[tuple[bool | None, str]]:
    return [(each.same, each.finding) for each in compare(copies, SPANS)]


SAME, UNKNOWN = (True, ""), (None, "")


def test_what_most_have_is_right() -> None:
    assert told(copy(), copy(WRONG), copy()) == [SAME, (False, "differs"), SAME]


@pytest.mark.parametrize(("date", "finding"), [(OLD, "stale"), (None, "differs"), (NEW, "differs")])
def test_an_older_one_is_stale(date: str | None, finding: str) -> None:
    assert told(copy(), copy(), copy(WRONG, date)) == [SAME, SAME, (False, finding)]


def test_a_newer_one_differs_and_is_said_to_be_newer() -> None:
    found = compare([copy(date=OLD), copy(date=OLD), copy(WRONG, NEW)], SPANS)
    assert (found[2].same, found[2].finding) == (False, "differs")
    assert "newer" in found[2].note and OLD in found[2].note and NEW in found[2].note


def test_another_size_needs_no_samples() -> None:
    found = compare([copy(), copy(), copy(None, OLD, 99)], SPANS)
    assert (found[2].same, found[2].finding) == (False, "stale")
    assert "99 bytes, most have 100" in found[2].note


def test_of_as_many_on_two_sides_the_newer_is_right() -> None:
    assert told(copy(WRONG, OLD), copy()) == [(False, "stale"), SAME]
    assert told(copy(), copy(WRONG, OLD)) == [SAME, (False, "stale")]
    assert told(copy(None, OLD, 99), copy()) == [(False, "stale"), SAME]


def test_without_dates_the_first_is_right() -> None:
    assert told(copy(WRONG, None), copy(date=None)) == [SAME, (False, "differs")]


def test_one_alone_is_neither_same_nor_other() -> None:
    assert told(copy()) == [UNKNOWN]
    assert told(None, copy(), None) == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert told(None, None) == [UNKNOWN, UNKNOWN]


def test_one_without_ranges_is_compared_by_its_beginning() -> None:
    assert told(copy(), copy(), copy((b"aaaa",))) == [SAME, SAME, SAME]
    assert told(copy(), copy(), copy((b"zzzz",))) == [SAME, SAME, (False, "differs")]


def test_what_could_not_be_sampled_is_not_known() -> None:
    assert told(copy(), copy(), copy(None)) == [SAME, SAME, (None, "unknown")]


def test_one_that_changed_meanwhile_is_not_the_same() -> None:
    assert told(copy(), copy(), copy(RIGHT, changed=True)) == [SAME, SAME, (False, "differs")]
    assert told(copy(), copy(), copy(None, changed=True))[2][0] is not True


def test_validators_are_told_and_prove_nothing() -> None:
    found = compare([copy(), copy(), copy(etag='"other"'), copy(date=OLD)], SPANS)
    assert [each.same for each in found] == [True] * 4
    assert [each.validators for each in found] == [True, True, False, False]
    assert [each.finding for each in found] == ["", "", "", "date"]


@given(st.permutations(range(5)))
def test_the_order_of_the_mirrors_does_not_matter(order: list[int]) -> None:
    copies = [copy(), copy(), copy(), copy(WRONG, OLD), None]
    found = compare([copies[at] for at in order], SPANS)
    assert [found[order.index(at)] for at in range(5)] == compare(copies, SPANS)
    assert found[order.index(4)] == Standing()


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=9))
def test_the_size_that_most_have_is_one_that_is_told(sizes: list[int | None]) -> None:
    found = common_size([copy(size=size) for size in sizes])
    known = [size for size in sizes if size is not None]
    assert (found in known) if known else found is None
    assert all(known.count(found) >= known.count(size) for size in known if found is not None)
