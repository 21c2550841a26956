"""A report as a page of HTML (drawing.py). Pure."""

from __future__ import annotations

from fastxfer.drawing import document, words
from fastxfer.mirrorbench.drawing import MOST_LINES, STEPS, latency, legend, over_time, rates, short
from fastxfer.mirrorbench.report import BenchReport, BenchRow
from fastxfer.mirrorbench.words import HEADINGS, advice, cells, notes_of
from fastxfer.units import format_duration, format_size


def page(report: BenchReport) -> str:
    """Returns the page."""
    rows = report.rows
    said = advice(report)
    counts = sorted({each.connections for row in rows for each in row.by_connections})
    timed = [row for row in rows if row.connections is not None][:MOST_LINES]
    lines = [f"{short(row.url, 60)} x{row.connections}" for row in timed]
    body = [
        f"<h1>Mirrors</h1><p class=soft>{words(_about(report))}</p>",
        f"<p class=said>{words(said[0].upper() + said[1:])}.</p>" if said else "",
        f'<div class="wide tight">{_table(rows)}</div>',
        _list("What was found", notes_of(report)),
        _list("What is shown, and what is not", list(report.verdicts)),
        _chart(
            "Rates by number of connections, with 95 % intervals",
            legend([f"x{each}" for each in counts]),
            rates(rows),
        )
        if counts
        else "",
        _chart("Latency: to the first byte, on a new connection", legend(STEPS), latency(rows)),
        _chart("Rates over time, at the best number of connections", legend(lines), over_time(rows))
        if timed
        else "",
    ]
    return document("Mirrors", body)


def _about(report: BenchReport) -> str:
    counts = ", ".join(map(str, report.connections))
    told = [
        f"{len(report.rows)} measured on {report.measured_at} in {format_duration(report.elapsed)}",
        f"{counts} connections for {report.duration:g} s each, in {report.rounds} rounds",
        f"at most {format_size(report.max_bytes)} from each",
    ]
    if report.interrupted:
        told.append("stopped before the end")
    return "; ".join(told)


def _table(rows: tuple[BenchRow, ...]) -> str:
    head = "".join(f"<th>{words(name)}</th>" for name in HEADINGS)
    body = "".join(_row(number, row) for number, row in enumerate(rows, 1))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(number: int, row: BenchRow) -> str:
    told = [
        f'<td class="url">{words(each)}</td>' if name == "mirror" else f"<td>{words(each)}</td>"
        for name, each in zip(HEADINGS, cells(number, row), strict=True)
    ]
    return f'<tr class="{"" if row.usable else "off"}">{"".join(told)}</tr>'


def _list(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{words(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _chart(title: str, keys: str, drawing: str) -> str:
    return f"<h2>{title}</h2><p>{keys}</p>{drawing}" if drawing else ""
