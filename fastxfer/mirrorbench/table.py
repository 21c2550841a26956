"""The report as a table on a terminal, and how far a benchmark is."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from fastxfer.mirrorbench.report import BenchReport
from fastxfer.mirrorbench.run import BenchProgress
from fastxfer.mirrorbench.words import HEADINGS, cells, closing
from fastxfer.units import format_duration

_RIGHT = ("#", "at", "first byte", "dns", "connect", "tls", "errors")


def print_table(report: BenchReport) -> None:
    """Writes the table and what is said below it to stdout, as wide as the terminal."""
    console = Console(highlight=False, soft_wrap=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEADINGS:
        right = name in _RIGHT
        table.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold" if name == "mirror" else "ellipsis",
            no_wrap=name not in ("mirror", "rate (95 %)"),
        )
    for number, row in enumerate(report.rows, 1):
        style = "" if row.usable else "dim"
        table.add_row(*(Text(each) for each in cells(number, row)), style=style)
    console.print(table)
    for line in closing(report):
        console.print(Text(line))


class ProgressBar:
    """Shows on stderr how far a benchmark is, while its context lasts."""

    def __init__(self) -> None:
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._shown.add_task("looking at the mirrors", total=1)

    def show(self, now: BenchProgress) -> None:
        """Shows it."""
        what = f"x{now.connections}" if now.connections else "latency"
        left = f", {format_duration(now.left_s)} left" if now.left_s else ""
        text = Text(f"{now.url} {what}{left}", overflow="ellipsis", no_wrap=True)
        self._shown.update(self._task, description=text.markup, completed=now.done, total=now.total)

    def __enter__(self) -> ProgressBar:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()
