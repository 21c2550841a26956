"""What came of a mirror run as a table on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastxfer.cli import output
from fastxfer.dataset.report import MirrorReport
from fastxfer.units import format_elapsed, format_size

MOST_ROWS = 20


def print_table(report: MirrorReport) -> None:
    """Writes the counts to stdout, and the first failures and refusals with their causes."""
    console = Console(highlight=False)
    failures = [*report.refusals, *report.failures]
    if failures:
        console.print(_causes(report))
        more = report.failed + report.refused - min(len(failures), MOST_ROWS)
        if more > 0:
            console.print(Text(f"and {more:,} more"))
        console.print()
    console.print(_counts(report))
    if report.stopped or not report.complete:
        console.print(Text(output.plain(str(report)), style="bold"))


def _causes(report: MirrorReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("not there", overflow="fold", ratio=2)
    table.add_column("why", overflow="fold", ratio=3)
    for failure in [*report.refusals, *report.failures][:MOST_ROWS]:
        table.add_row(Text(output.plain(failure.path)), Text(output.plain(failure.message)))
    return table


def _counts(report: MirrorReport) -> Table:
    """Returns the counts, a name above each."""
    rate = f"{format_size(report.bytes / report.elapsed)}/s" if report.elapsed > 0 else "-"
    cells = {"listed": f"{report.listed:,}", "new": f"{report.new:,}", "changed": f"{report.changed:,}"}
    cells |= {"same": f"{report.same + report.skipped:,}", "fetched": f"{report.fetched:,}"}
    cells |= {"failed": f"{report.failed:,}", "refused": f"{report.refused:,}"}
    cells |= {"deleted": f"{report.deleted:,}", "bytes": format_size(report.bytes)}
    cells |= {"took": format_elapsed(report.elapsed), "rate": rate}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in cells:
        bad = name in ("failed", "refused") and cells[name] != "0"
        table.add_column(name, justify="right", no_wrap=True, style="red" if bad else "")
    table.add_row(*cells.values())
    return table
