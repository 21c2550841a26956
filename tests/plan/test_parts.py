"""The parts of an upload: their sizes, which goes when, and what a store's list confirms."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import OptionError
from fastxfer.plan.parts import (
    AMAZON_MIN_PART,
    DEFAULT_PART,
    MAX_PART,
    MAX_PARTS,
    MIN_PART,
    Listed,
    PartGrid,
    Parts,
    Pieces,
    cells,
    grid_for,
    growing_part,
    is_confirmed,
    merged,
    unquoted,
)

MIB = 1 << 20


# ---- how a file is cut ----


@pytest.mark.parametrize(
    ("size", "wanted", "part_size", "count"),
    [
        (0, None, 8 * MIB, 1),
        (1, None, 8 * MIB, 1),
        (8 * MIB, None, 8 * MIB, 1),
        (8 * MIB + 1, None, 8 * MIB, 2),
        (80_000 * MIB, None, 8 * MIB, 10_000),
        (80_000 * MIB + 1, None, 9 * MIB, 8889),
        (1 << 40, 100 << 10, 105 * MIB, 9987),
        (5 * MAX_PART, MAX_PART, MAX_PART, 5),
        (MAX_PART * MAX_PARTS, None, MAX_PART, 10_000),
    ],
)
def test_ten_thousand_parts_always_do(size: int, wanted: int | None, part_size: int, count: int) -> None:
    grid = grid_for(size, wanted)
    assert (grid.part_size, grid.count) == (part_size, count)


@pytest.mark.parametrize(
    ("size", "wanted", "least"),
    [
        (0, 5 * MIB - 1, AMAZON_MIN_PART),
        (0, (100 << 10) - 1, MIN_PART),
        (0, MAX_PART + 1, MIN_PART),
        (MAX_PART * MAX_PARTS + 1, None, MIN_PART),
    ],
)
def test_what_no_store_takes_is_refused(size: int, wanted: int | None, least: int) -> None:
    with pytest.raises(OptionError):
        grid_for(size, wanted, least)


@given(st.integers(0, 1 << 45), st.integers(MIN_PART, MAX_PART))
def test_the_parts_are_the_file(size: int, wanted: int) -> None:
    grid = grid_for(size, wanted)
    assert grid.count <= MAX_PARTS and wanted <= grid.part_size <= MAX_PART
    assert grid.span(1)[0] == 0 and grid.span(grid.count)[1] == size
    middle = random.Random(size).randint(1, grid.count)
    assert grid.length(middle) == grid.part_size or middle == grid.count
    for number in (0, grid.count + 1):
        with pytest.raises(ValueError, match="no part"):
            grid.span(number)


def test_the_default_is_that_of_the_public_call() -> None:
    assert grid_for(10 * DEFAULT_PART, None).part_size == 8 * MIB


# ---- what a list confirms ----

OURS = Listed(5, "", "c" * 16)
MD5 = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("listed", "known", "md5", "expected"),
    [
        (Listed(5, MD5), "", MD5, True),
        (Listed(5, f'"{MD5.upper()}"'), "", MD5, True),
        (Listed(5, "e1"), '"e1"', "", True),
        (Listed(5, "e1"), '"e2"', "", False),
        (Listed(5, "e1"), "", "", False),
        (Listed(5, ""), "", "", False),
        (Listed(4, "e1"), "e1", "", False),
        (Listed(5, "e1", "c" * 16), "", "", True),
        (Listed(5, "e1", "d" * 16), "e1", MD5, False),
        (None, "e1", MD5, False),
    ],
)
def test_a_part_is_confirmed_by_size_and_etag_or_checksum(
    listed: Listed | None, known: str, md5: str, expected: bool
) -> None:
    assert is_confirmed(listed, OURS, known, md5) is expected


def test_what_is_listed_twice_in_different_words_counts_for_nothing() -> None:
    a, b = Listed(5, "a"), Listed(5, "b")
    assert merged([(1, a), (2, a), (2, a), (3, a), (3, b), (3, b)]) == {1: a, 2: a, 3: None}
    assert unquoted(' "AB-2" ') == "ab-2"


# ---- which goes when ----


def taken(parts: Parts, now: float = 0.0) -> tuple[Parts, list[int]]:
    """Takes all that may go now."""
    numbers: list[int] = []
    while True:
        parts, number = parts.next(now)
        if number is None:
            return parts, numbers
        numbers.append(number)


def test_as_many_go_at_once_as_were_asked_for() -> None:
    parts, numbers = taken(Parts.of(5, 2, 3))
    assert numbers == [1, 2] and parts.due() is None
    parts, numbers = taken(parts.sent(2))
    assert numbers == [3]
    parts, numbers = taken(parts.sent(1).sent(3))
    assert numbers == [4, 5]
    assert not parts.complete and parts.sent(4).sent(5).complete


def test_what_is_confirmed_is_not_sent() -> None:
    parts, numbers = taken(Parts.of(6, 9, 3, confirmed=[1, 3, 6]))
    assert numbers == [2, 4, 5]
    assert parts.sent(2).sent(4).sent(5).complete


def test_a_part_that_failed_waits_and_goes_first() -> None:
    parts, _ = taken(Parts.of(9, 2, 3))
    parts = parts.failed(1, 10.0, 1.0)
    parts, numbers = taken(parts, 10.0)
    assert numbers == [3] and parts.due() is None
    parts = parts.sent(2).sent(3)
    assert parts.due() == 0.0
    parts, numbers = taken(parts, 10.25)
    assert numbers == [1, 4]


def test_a_part_is_waited_for_when_nothing_else_is_left() -> None:
    parts, _ = taken(Parts.of(1, 4, 3))
    parts = parts.failed(1, 10.0, 1.0)
    assert taken(parts, 10.2)[1] == [] and parts.next(10.2)[0].due() == pytest.approx(10.25)


def test_a_part_that_fails_too_often_in_a_row_is_lost_and_nothing_goes_after_it() -> None:
    parts, _ = taken(Parts.of(9, 2, 2))
    now = 0.0
    for _ in range(2):
        parts = parts.failed(1, now, 0.0)
        assert parts.lost == 0
        now += 100
        parts, _ = taken(parts, now)
    parts = parts.failed(1, now, 0.0)
    assert parts.lost == 1 and taken(parts, now + 1000)[1] == [] and parts.due() is None
    assert parts.sent(2).lost == 1


def test_a_success_forgives() -> None:
    parts, _ = taken(Parts.of(9, 1, 1))
    parts = parts.failed(1, 0.0, 0.0)
    parts, _ = taken(parts, 1.0)
    parts = parts.sent(1)
    assert parts.failures == () and not parts.lost


def test_an_overloaded_store_is_asked_less_and_later_more_again() -> None:
    parts, _ = taken(Parts.of(500, 8, 3))
    for number in range(1, 9):
        parts = parts.refused(number, 5.0, 1.0, 7.0)
    assert (parts.allowed, parts.strains, parts.lost) == (4, 1, 0)
    assert taken(parts, 11.9)[1] == [] and parts.due() == 12.0
    parts, numbers = taken(parts, 12.0)
    assert numbers == [1, 2, 3, 4]
    while parts.allowed < 8:
        parts, more = parts.sent(min(parts.out)).next(13.0)
        assert more is not None
    assert parts.strains == 0 and len(parts.done) == 16 + 20 + 24 + 28


def test_a_store_that_only_ever_refuses_is_given_up() -> None:
    parts, now = Parts.of(5, 4, 2), 0.0
    for _ in range(3):
        parts, numbers = taken(parts, now)
        for number in numbers:
            parts = parts.refused(number, now, 0.0, None)
        now += 1000
    assert parts.lost and parts.allowed == 1


def test_what_is_put_back_goes_at_once_and_has_not_failed() -> None:
    parts, _ = taken(Parts.of(2, 1, 0))
    parts, numbers = taken(parts.put_back(1, 3.0), 3.0)
    assert numbers == [1] and not parts.failures and not parts.lost


def test_what_failed_for_good_ends_it() -> None:
    parts, _ = taken(Parts.of(2, 2, 9))
    assert parts.give_up(2).lost == 2


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**32), st.floats(0, 0.4))
def test_a_simulated_upload_sends_each_part_until_it_is_there(
    count: int, connections: int, seed: int, trouble: float
) -> None:
    """A store that answers late and in any order, fails and is overloaded: each part arrives once, never
    twice at the same time, and never more are out than allowed.
    """
    chance = random.Random(seed)
    confirmed = frozenset(n for n in range(1, count + 1) if chance.random() < 0.2)
    parts = Parts.of(count, connections, 1000, confirmed)
    now, on_the_way = 0.0, list[tuple[float, int]]()
    arrived: set[int] = set()
    for _ in range(100_000):
        if parts.complete:
            break
        parts, numbers = taken(parts, now)
        assert parts.allowed <= connections
        assert not numbers or len(parts.out) <= parts.allowed
        for number in numbers:
            assert number not in arrived | confirmed | {each for _, each in on_the_way}
            heapq.heappush(on_the_way, (now + chance.random(), number))
        due = parts.due()
        assert on_the_way or due is not None
        if on_the_way and (due is None or due <= now or on_the_way[0][0] <= due):
            now, number = heapq.heappop(on_the_way)
            luck = chance.random()
            if luck < trouble / 2:
                parts = parts.failed(number, now, chance.random())
            elif luck < trouble:
                parts = parts.refused(number, now, chance.random(), chance.choice((None, 0.0, 3.0)))
            else:
                parts = parts.sent(number)
                arrived.add(number)
        else:
            assert due is not None
            now = max(now, due) + 1e-6
    assert parts.complete and arrived | confirmed == set(range(1, count + 1))


def test_the_map_of_an_upload() -> None:
    grid = PartGrid(10, 1)
    assert cells(grid, frozenset((1, 2)), {3: 1, 4: 0}) == "##+......."
    assert cells(grid, frozenset((1, 2, 3)), {}, most=5) == "#+..."
    assert cells(PartGrid(0, 1), frozenset((1,)), {}) == "#"
    assert len(cells(PartGrid(10_000, 1), frozenset(), {})) == 64


# ---- a stream ----


@given(st.lists(st.integers(1, 1000), max_size=30))
def test_pieces_are_a_grid_that_grows(lengths: list[int]) -> None:
    grid = Pieces(0, 7)
    assert (grid.count, cells(grid, frozenset(), {})) == (0, "")
    for number, length in enumerate(lengths, 1):
        grid = grid.and_(length)
        assert (grid.count, grid.size, grid.length(number)) == (number, sum(lengths[:number]), length)
        assert grid.span(number) == (grid.size - length, grid.size)
    assert len(cells(grid, frozenset(), {})) == len(lengths)


def test_parts_of_unknown_size_grow_so_that_ten_thousand_go_far() -> None:
    sizes = [growing_part(number, 8 * MIB, 128 * MIB) for number in range(1, MAX_PARTS + 1)]
    assert sizes[0] == sizes[999] == 8 * MIB and sizes[1000] == 16 * MIB and sizes[-1] == 128 * MIB
    assert sizes == sorted(sizes) and sum(sizes) > 800 << 30
    assert growing_part(MAX_PARTS, 8 * MIB, 1 * MIB) == 8 * MIB
    assert growing_part(MAX_PARTS, MIN_PART, 1 << 60) == MIN_PART << 9
