"""Ranges: the fields of HTTP read and written, and the small algebra of spans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan import ranges
from fastxfer.plan.ranges import ContentRange, Span, format_range, parse_content_range, parse_range

EDGE = 2**63 - 1
UNIVERSE = 40
cells = st.sets(st.integers(0, UNIVERSE - 1))
span = st.tuples(st.integers(0, UNIVERSE), st.integers(0, UNIVERSE)).map(lambda pair: (min(pair), max(pair)))


def spans_of(present: set[int]) -> list[Span]:
    """Returns the joined half-open spans that cover exactly these integers."""
    found: list[Span] = []
    for cell in sorted(present):
        if found and found[-1][1] == cell:
            found[-1] = (found[-1][0], cell + 1)
        else:
            found.append((cell, cell + 1))
    return found


def cells_of(spans: list[Span]) -> list[int]:
    return [cell for start, stop in spans for cell in range(start, stop)]


@pytest.mark.parametrize(
    ("start", "stop", "field"),
    [(0, 1, "bytes=0-0"), (0, 1024, "bytes=0-1023"), (EDGE - 1, EDGE, f"bytes={EDGE - 1}-{EDGE - 1}")],
)
def test_a_half_open_range_is_written_with_an_inclusive_end(start: int, stop: int, field: str) -> None:
    assert format_range(start, stop) == field


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (6, 5), (-1, 5)])
def test_an_empty_or_negative_range_cannot_be_asked_for(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        format_range(start, stop)


@pytest.mark.parametrize(
    ("field", "span", "total"),
    [
        ("bytes 0-0/1", (0, 1), 1),
        ("bytes 0-1023/146515", (0, 1024), 146515),
        ("Bytes 5-9/10", (5, 10), 10),
        ("  bytes 5-9/*  ", (5, 10), None),
        ("bytes 5 - 9 / 10", (5, 10), 10),
        ("bytes */47022", None, 47022),
        ("bytes */0", None, 0),
        (f"bytes 0-0/{EDGE}", (0, 1), EDGE),
        (f"bytes 0-{EDGE - 1}/*", (0, EDGE), None),
    ],
)
def test_a_content_range_is_taken_apart(field: str, span: Span | None, total: int | None) -> None:
    assert parse_content_range(field) == ContentRange(span, total)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "bytes",
        "bytes */*",
        "bytes 0-0",
        "bytes 9-5/10",
        "bytes 5-4/10",
        "bytes\x0b0-9/10",
        "bytes 0-9/10\n",
        "\xa0bytes 0-9/10",
        "bytes 0-10/10",
        "bytes 0-9/5",
        "bytes -5-9/10",
        "bytes 0--1/10",
        "bytes 0-9/-10",
        "bytes 0x0-0x9/10",
        "bytes 0-9/10, bytes 20-29/30",
        "items 0-9/10",
        "bytes=0-9/10",
        "bytes 0-9.0/10",
        "bytes \u0660-\u0669/10",
        f"bytes 0-{EDGE}/*",
        f"bytes 0-9/{2**63}",
        f"bytes */{2**63}",
        f"bytes 0-{10**19}/*",
        "bytes 0-9/" + "9" * 5000,
    ],
)
def test_a_content_range_that_cannot_be_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=r"Content-Range|impossible"):
        parse_content_range(field)


@given(st.text(alphabet="bytes 0123456789-/*,=", max_size=30))
def test_whatever_a_content_range_holds_it_is_a_possible_range_or_refused(field: str) -> None:
    try:
        found = parse_content_range(field)
    except ValueError:
        return
    if found.span is not None:
        start, stop = found.span
        assert 0 <= start < stop <= (EDGE if found.total is None else found.total)
    assert found.total is None or 0 <= found.total <= EDGE


@given(st.integers(0, 2**62), st.integers(1, 2**61))
def test_what_is_asked_and_answered_in_full_is_read_back(start: int, length: int) -> None:
    asked = format_range(start, start + length)
    assert parse_range(asked, 2**63 - 1) == [(start, start + length)]
    answer = asked.replace("=", " ") + f"/{start + length}"
    assert parse_content_range(answer) == ContentRange((start, start + length), start + length)


@pytest.mark.parametrize(
    ("field", "size", "spans"),
    [
        ("bytes=0-4", 10, [(0, 5)]),
        ("bytes=0-99", 10, [(0, 10)]),
        ("bytes=5-", 10, [(5, 10)]),
        ("bytes=-3", 10, [(7, 10)]),
        ("bytes=-30", 10, [(0, 10)]),
        ("bytes=-0", 10, []),
        ("bytes=10-", 10, []),
        ("bytes=0-0", 0, []),
        ("bytes=0-1, 4-5,-1", 10, [(0, 2), (4, 6), (9, 10)]),
        ("BYTES = 1-1", 10, [(1, 2)]),
        ("items=0-4", 10, None),
        ("bytes=0-1=2", 10, None),
        ("bytes", 10, None),
        ("bytes=", 10, None),
        ("bytes=-", 10, None),
        ("bytes=4-2", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=0-1,x", 10, None),
    ],
)
def test_a_range_field_is_read_as_a_server_must(field: str, size: int, spans: list[Span] | None) -> None:
    assert parse_range(field, size) == spans


@given(cells, span)
def test_subtracting_a_hole_leaves_exactly_what_is_outside(present: set[int], hole: Span) -> None:
    left = ranges.subtract(spans_of(present), hole)
    assert cells_of(left) == sorted(present - set(range(*hole)))
    assert all(start < stop for start, stop in left)


def test_a_content_range_that_is_refused_is_quoted_cut_short() -> None:
    for field in (
        "bytes 0-9/" + "9" * 200,
        "bytes 0-9" + " " * 200 + f"/{2**63}",
        "bytes 9-5" + " " * 200 + "/9",
    ):
        with pytest.raises(ValueError) as caught:
            parse_content_range(field)
        assert f"{field[:80]!r} " in str(caught.value)
    with pytest.raises(ValueError, match=r"^a Content-Range of \*/\* says nothing$"):
        parse_content_range("bytes */*")


@given(cells, st.integers(0, UNIVERSE))
def test_an_empty_hole_takes_nothing_and_splits_nothing(present: set[int], at: int) -> None:
    assert ranges.subtract(spans_of(present), (at, at)) == spans_of(present)


@given(cells, span)
def test_adding_what_was_subtracted_gives_the_whole_back(present: set[int], hole: Span) -> None:
    taken = [cell for cell in present if hole[0] <= cell < hole[1]]
    back = ranges.subtract(spans_of(present), hole)
    for piece in spans_of(set(taken)):
        back = ranges.add(back, piece)
    assert back == spans_of(present)


@given(cells)
def test_length_counts_the_bytes(present: set[int]) -> None:
    assert ranges.length(spans_of(present)) == len(present)
