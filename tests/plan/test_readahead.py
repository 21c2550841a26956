"""How far ahead of a reader is asked, and in which blocks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.readahead import AHEAD, LEAST, ReadAhead

MIB = 1 << 20


def policy(size: int = 1 << 30, memory: int = 32 * MIB) -> ReadAhead:
    return ReadAhead(size, memory, connections=4)


def test_the_first_read_has_nothing_ahead_and_a_row_has_four_times_what_was_read() -> None:
    one = policy().read(1000, 2000)
    assert one.window == (2000, 2000)
    two = one.read(2000, 5000)
    assert (two.row, two.window) == (4000, (5000, 5000 + AHEAD * 4000))
    three = two.read(5000 + LEAST, 6000 + LEAST)
    assert three.in_row and three.row == 5000, "a small step forward is none"
    for jump in (0, 6000 + LEAST - 1, 6001 + 2 * LEAST):
        assert three.read(jump, jump + 10).window == (jump + 10, jump + 10)


def test_what_is_ahead_ends_with_the_memory_and_with_the_object() -> None:
    far = policy().read(0, MIB).read(MIB, 20 * MIB)
    assert far.window == (20 * MIB, 52 * MIB)
    assert policy(size=21 * MIB).read(0, MIB).read(MIB, 20 * MIB).window == (20 * MIB, 21 * MIB)
    assert ReadAhead(1 << 30, 32 * MIB, 4, ahead=False).read(0, 5).read(5, 9).window == (9, 9)


def test_blocks_grow_to_an_eighth_of_the_memory() -> None:
    assert policy().most == 4 * MIB and policy(memory=LEAST).most == LEAST
    early = policy().read(0, 50_000).read(50_000, 200_000)
    assert {stop - start for start, stop in early.blocks_ahead(early.window)} == {800_000 // 4}
    late = policy().read(0, MIB).read(MIB, 20 * MIB)
    assert [stop - start for start, stop in late.blocks_ahead(late.window)] == [4 * MIB] * 8
    assert list(late.blocks_ahead((51 * MIB, 52 * MIB))) == [], "what is left waits until it is a block"


def test_what_is_wanted_is_shared_out_among_the_connections_but_not_in_shreds() -> None:
    for length, count in ((10, 1), (LEAST + 1, 1), (2 * LEAST - 1, 1), (2 * LEAST, 2), (9 * LEAST, 4)):
        assert len(list(policy().blocks((7, 7 + length), (0, 1 << 30)))) == count
    assert len(list(policy().blocks((0, 64 * MIB), (0, 1 << 30)))) == 16


def test_the_end_is_read_from_behind() -> None:
    size = 10 * MIB
    asked = list(policy(size=size).blocks((size - 22, size), (0, size)))
    assert asked == [(size - LEAST, size)]
    assert list(policy(size=size).blocks((size - 22, size), (size - 50, size))) == [(size - 50, size)]
    assert list(policy(size=size).blocks((5, 6), (0, 100))) == [(5, 100)]


@given(
    st.integers(1, 1 << 26),
    st.integers(1, 40),
    st.booleans(),
    st.lists(st.integers(0, 1 << 26), min_size=4, max_size=4).map(sorted),
)
def test_blocks_cover_what_is_wanted_and_lie_in_what_is_free(
    memory: int, connections: int, ahead: bool, marks: list[int]
) -> None:
    size = 1 << 26
    made = ReadAhead(size, max(memory, LEAST), connections, ahead)
    low, start, stop, high = marks
    if start < stop:
        spans = list(made.blocks((start, stop), (low, high)))
        assert low <= spans[0][0] <= start and stop <= spans[-1][1] <= high
        assert all(first[1] == second[0] for first, second in pairwise(spans))
        assert all(0 < end - begin <= made.most for begin, end in spans)
        if not ahead:
            assert (spans[0][0], spans[-1][1]) == (start, stop)
