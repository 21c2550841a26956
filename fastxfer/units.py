"""Sizes and durations as people write them, and as they like to read them."""

from __future__ import annotations

import re

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_MAX_TEXT = 100

MAX_SIZE = 2**63 - 1
_THOUSAND_YEARS_S = 1000 * 365.25 * 86_400


def parse_size(text: int | str) -> int:
    """Returns a size in bytes from an int or a string such as "64K", "8M" or "1.5G" (powers of 1024).

    Raises ValueError for anything else, for negative sizes and for sizes of 2**63 and over.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a size")
    if isinstance(text, int):
        size = text
    else:
        match = _SIZE.fullmatch(text.strip()[: _MAX_TEXT + 1]) if isinstance(text, str) else None
        if match is None or len(match[0]) > _MAX_TEXT:
            raise ValueError(
                f"{repr(text)[:80]} is not a size: write bytes or a number with K, M, G or T, such as 8M"
            )
        number, unit = match.groups()
        factor = 1024 ** _UNITS[unit.upper()]
        whole, _, fraction = number.partition(".")
        size = int(whole) * factor + (int(float(f"0.{fraction}") * factor) if fraction else 0)
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"{repr(text)[:80]} is not a size: it must be from 0 to 2**63 - 1 bytes")
    return size


def format_size(size: float) -> str:
    """Returns a size for people, in units of 1024: "0 B", "1.5 MiB", "2 GiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 or value == int(value) else 1
    return f"{value:.{digits}f} {unit}"


def format_duration(seconds: float | None) -> str:
    """Returns a duration for people: "4 s", "2:05", "1:02:03", "5 days" from 100 hours on; "-" for None,
    infinity and what is over a thousand years.
    """
    if seconds is None or not seconds < _THOUSAND_YEARS_S:
        return "-"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, secs = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{(hours + 12) // 24} days"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def format_elapsed(seconds: float) -> str:
    """Returns how long something took, for people: "0.53 s" under ten seconds, else as `format_duration`."""
    return f"{seconds:.2f} s" if seconds < 10 else format_duration(seconds)
