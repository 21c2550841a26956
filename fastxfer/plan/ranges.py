"""Byte ranges: half-open (start, stop) in code; the inclusive forms of HTTP live in this module alone (RFC
9110 section 14).
"""

from __future__ import annotations

import re

from fastxfer.values import dataclass

Span = tuple[int, int]
"""A half-open range of bytes, start <= stop."""

_CONTENT_RANGE = re.compile(
    r"_bytes[ \t]+(?:(\d{1,19})_-_(\d{1,19})|\*)_/_(\d{1,19}|\*)_".replace("_", r"[ \t]*"),
    re.IGNORECASE | re.ASCII,
)
_RANGE = re.compile(
    r"bytes[ \t]+(?:(\d{1,19})[ \t]*-[ \t]*(\d{1,19})|\*)[ \t]*/[ \t]*(\d{1,19}|\*)", re.IGNORECASE | re.ASCII
)
_RANGE = re.compile(r"\s*bytes\s*=(.*)", re.IGNORECASE | re.ASCII)
_RANGE_SPEC = re.compile(r"^(\d{0,19})-(\d{0,19})$", re.ASCII)
_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A Content-Range field: the half-open range that the answer carries and the object's size.

    `span` is None for the unsatisfied form `bytes */N` of a 416; `total` is None for `/*`.
    """

    span: Span | None
    total: int | None


def format_range(start: int, stop: int) -> str:
    """Returns the value of a Range field for [start, stop), stop > start: "bytes=0-1023" (RFC 9110 section
    14.1.2).
    """
    if not 0 <= start < stop:
        raise ValueError(f"[{start}, {stop}) is not a range to ask for")
    return f"bytes={start}-{stop - 1}"


def parse_content_range(value: str) -> ContentRange:
    """Returns a Content-Range field taken apart (RFC 9110 section 14.4).

    Raises ValueError for another unit, a last position before the first, a total not over the last, or
    numbers of 2**63 and over.
    """
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:80]!r} is not a Content-Range in bytes")
    first, last, total_text = match.groups()
    total = None if total_text == "*" else int(total_text)
    if total is not None and total > _LIMIT:
        raise ValueError(f"{value[:80]!r} tells an impossible size")
    if first is None:
        if total is None:
            raise ValueError("a Content-Range of */* says nothing")
        return ContentRange(None, total)
    start, stop = int(first), int(last) + 1
    if start >= stop or (total is not None and stop > total) or stop > _LIMIT:
        raise ValueError(f"{value[:80]!r} is not a possible Content-Range")
    return ContentRange((start, stop), total)


def parse_range(value: str, size: int) -> list[Span] | None:
    """Returns what a Range field asks of an object of `size` bytes, as a server must read it (RFC 9110
    sections 14.1, 14.2).

    All forms are read: `a-b`, `a-`, `-n`, and several with commas. An empty list means that nothing can be
    satisfied (416); None that the field is invalid or of another unit, and is to be ignored (200).
    """
    field = _RANGE.fullmatch(value)
    if field is None:
        return None
    spans: list[Span] = []
    for spec in field[1].split(","):
        match = _RANGE_SPEC.match(spec.strip())
        if match is None or not (match[1] or match[2]):
            return None
        if not match[1]:
            span = (max(0, size - int(match[2])), size)
        else:
            start = int(match[1])
            if match[2] and int(match[2]) < start:
                return None
            span = (start, min(size, int(match[2]) + 1) if match[2] else size)
        if span[0] < span[1]:
            spans.append(span)
    return spans


def subtract(spans: list[Span], hole: Span) -> list[Span]:
    """Returns the parts of sorted, disjoint `spans` that are outside `hole`."""
    if hole[0] >= hole[1]:
        return list(spans)
    left: list[Span] = []
    for start, stop in spans:
        if start < min(stop, hole[0]):
            left.append((start, min(stop, hole[0])))
        if max(start, hole[1]) < stop:
            left.append((max(start, hole[1]), stop))
    return left


def add(spans: list[Span], span: Span) -> list[Span]:
    """Returns sorted, disjoint `spans` with one more that overlaps none of them; neighbours are joined."""
    merged: list[Span] = []
    for start, stop in sorted([*spans, span]):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def length(spans: list[Span]) -> int:
    """Returns how many bytes `spans` cover."""
    return sum(stop - start for start, stop in spans)
