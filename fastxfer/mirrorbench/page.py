"""A report as a page of HTML that needs nothing from elsewhere: no script, no font, no picture. Pure.

What servers and users have written is escaped, and a policy in the page keeps the browser from fetching or
running anything at all.
"""

from __future__ import annotations

from html import escape

from fastxfer.mirrorbench.drawing import MOST_LINES, STEPS, label, latency, legend, over_time, rates
from fastxfer.mirrorbench.report import BenchReport, BenchRow
from fastxfer.mirrorbench.words import HEADINGS, advice, cells, notes_of
from fastxfer.units import format_duration, format_size

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --rule: #d7dce3; --back: #fff;
  --card: #f5f7fa;
  --c0: #2f6fb7; --c1: #e08a1e; --c2: #2f9a68; --c3: #b8467c; --c4: #7a5cc0;
  --c5: #8a7a35; --c6: #2b9aa8; --c7: #c4502f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #a3aebd; --rule: #39424f; --back: #14181e; --card: #1c222b;
  --c0: #6aa9ec; --c1: #f0aa55; --c2: #5cc795; --c3: #e082b1; --c4: #ab92ea;
  --c5: #c9b866; --c6: #62c8d5; --c7: #ee8a6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 24px 20px 48px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 34px 0 8px; }
p { margin: 4px 0 10px; } .soft, th { color: var(--soft); } ul { margin: 6px 0; padding-left: 22px; }
li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  white-space: nowrap; }
td.url { white-space: normal; overflow-wrap: anywhere; min-width: 280px; }
tr.off td { color: var(--soft); }
.said { background: var(--card); border-left: 4px solid var(--c0); padding: 10px 14px; border-radius: 4px; }
svg { display: block; max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg text.small { font-size: 12px; fill: var(--soft); } svg text.off { fill: var(--soft); }
.whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; } .grid { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 2; }
.key { display: inline-block; margin-right: 18px; font-size: 13px; overflow-wrap: anywhere; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: BenchReport) -> str:
    """Returns the page."""
    rows = report.rows
    said = advice(report)
    counts = sorted({each.connections for row in rows for each in row.by_connections})
    timed = [row for row in rows if row.connections is not None][:MOST_LINES]
    lines = [f"{label(row.url, 60)} x{row.connections}" for row in timed]
    body = [
        f"<h1>Mirrors</h1><p class=soft>{escape(_about(report))}</p>",
        f"<p class=said>{escape(said[0].upper() + said[1:])}.</p>" if said else "",
        f'<div class="wide">{_table(rows)}</div>',
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
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><title>Mirrors</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(filter(None, body)) + "\n</body></html>\n"
    )


def _about(report: BenchReport) -> str:
    counts = ", ".join(map(str, report.connections))
    words = [
        f"{len(report.rows)} measured on {report.measured_at} in {format_duration(report.elapsed)}",
        f"{counts} connections for {report.duration:g} s each, in {report.rounds} rounds",
        f"at most {format_size(report.max_bytes)} from each",
    ]
    if report.interrupted:
        words.append("stopped before the end")
    return "; ".join(words)


def _table(rows: tuple[BenchRow, ...]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    body = "".join(_row(number, row) for number, row in enumerate(rows, 1))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(number: int, row: BenchRow) -> str:
    told = [
        f'<td class="url">{escape(each)}</td>' if name == "mirror" else f"<td>{escape(each)}</td>"
        for name, each in zip(HEADINGS, cells(number, row), strict=True)
    ]
    return f'<tr class="{"" if row.usable else "off"}">{"".join(told)}</tr>'


def _list(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _chart(title: str, keys: str, drawing: str) -> str:
    return f"<h2>{title}</h2><p>{keys}</p>{drawing}" if drawing else ""
