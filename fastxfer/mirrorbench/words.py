"""A report as plain text, and what has changed since an earlier one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fastxfer.mirrorbench.findings import interval_above
from fastxfer.mirrorbench.report import BenchReport, BenchRow, shown_rate
from fastxfer.units import format_size

HEADINGS = (
    "#",
    "mirror",
    "rate (95 %)",
    "at",
    "first byte",
    "dns",
    "connect",
    "tls",
    "errors",
    "HTTP",
    "object",
)


def cells(rank: int, row: BenchRow) -> tuple[str, ...]:
    """Returns what stands in a row of the table."""
    return (
        str(rank) if row.usable else "-",
        row.url,
        shown_rate(row),
        f"x{row.connections}" if row.connections is not None else "-",
        *(_ms(value) for value in (row.first_byte, row.dns, row.connect, row.tls or None)),
        f"{row.errors}" if row.errors else "",
        row.http_version or "-",
        {True: "same", False: "other", None: "-"}[row.same_object],
    )


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    ms = 1000 * seconds
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def notes_of(report: BenchReport) -> list[str]:
    """Returns a line for each note of a row."""
    return [f"{row.url}: {note}" for row in report.rows for note in row.notes]


def advice(report: BenchReport) -> str | None:
    """Returns what to fetch with from the best mirror, None where nothing was measured."""
    best = next((row for row in report.rows if row.usable), None)
    if best is None or best.advised_connections is None or best.chunk_size is None:
        return None
    few = best.advised_connections
    enough = "1 connection is enough" if few == 1 else f"{few} connections are enough"
    return (
        f"for {best.url} {enough} (-x {few}), "
        f"with chunks of {format_size(best.chunk_size)} (-k {best.chunk_size // 1024}K)"
    )


def closing(report: BenchReport) -> list[str]:
    """Returns the lines below the table."""
    said = advice(report)
    return [*notes_of(report), *report.verdicts, *([said] if said else [])]


def table_of(report: BenchReport) -> str:
    """Returns the report as plain text."""
    rows = [HEADINGS, *(cells(number, row) for number, row in enumerate(report.rows, 1))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *closing(report)])


def changes(before: BenchReport, now: BenchReport) -> list[str]:
    """Returns a line for each mirror of either report: what it was, and whether that is shown to differ."""
    earlier = {row.url: row for row in before.rows}
    lines = [_change(earlier.pop(row.url, None), row, before.measured_at) for row in now.rows]
    return [*lines, *(f"{url}: it was measured on {before.measured_at} only" for url in earlier)]


def _change(was: BenchRow | None, row: BenchRow, when: str) -> str:
    if was is None:
        return f"{row.url}: new since {when}"
    if was.usable != row.usable:
        how = "can be used again" if row.usable else "cannot be used any more"
        return f"{row.url}: {how} ({'; '.join(_reasons(was if row.usable else row))})"
    rates, earlier = ({each.connections: each for each in one.by_connections} for one in (row, was))
    common = rates.keys() & earlier.keys()
    if not common:
        return f"{row.url}: no number of connections was measured both times"
    now = max((rates[count] for count in common), key=lambda each: each.rate)
    then = earlier[now.connections]
    words = f"x{now.connections} {shown_rate(now)}, on {when} {shown_rate(then)}"
    if interval_above(now, then):
        return f"{row.url}: faster: {words}"
    if interval_above(then, now):
        return f"{row.url}: slower: {words}"
    return f"{row.url}: no difference shown: {words}"


def _reasons(row: BenchRow) -> Sequence[str]:
    return row.notes or (row.error or "no reason was noted",)
