"""Draws a report with matplotlib, which `fastxfer[plot]` brings, and writes its page."""

from __future__ import annotations

import math
import os
from typing import Any

from fastxfer.errors import OptionError, storage_error
from fastxfer.mirrorbench.drawing import FAR_APART, MOST_LINES, STEPS, short
from fastxfer.mirrorbench.page import page
from fastxfer.mirrorbench.report import BenchReport, BenchRow

KINDS = (".png", ".svg", ".pdf")
MOST_ROWS = 20
_MIB = 1024.0**2
_COLOURS = ("#2f6fb7", "#e08a1e", "#2f9a68", "#b8467c", "#7a5cc0", "#8a7a35", "#2b9aa8", "#c4502f")


def check(path: str | os.PathLike[str]) -> None:
    """Raises OptionError where nothing could be drawn into this file."""
    if not os.fspath(path).lower().endswith(KINDS):
        raise OptionError(f"a plot is written as {', '.join(KINDS)}: name such a file")
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ImportError as error:
        raise OptionError(
            "a plot needs matplotlib: pip install 'fastxfer[plot]'; --html needs nothing"
        ) from error


def save_page(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """See `BenchReport.save_html`."""
    text = page(report)
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise storage_error(f"write {os.fspath(path)}", error) from error


def plot(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """See `BenchReport.plot`."""
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.first_byte is not None][:MOST_ROWS]
    tall = 1.1 + 0.55 * max(1, len(rows))
    figure = Figure(figsize=(9, 2 * tall + 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[tall, tall, 2.8])
    _rates(top, rows)
    _latency(middle, rows)
    _over_time(bottom, rows)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise storage_error(f"write {os.fspath(path)}", error) from error


def _names(axes: Any, rows: list[BenchRow]) -> None:
    # A dollar sign would begin a formula.
    axes.set_yticks(range(len(rows)), [short(row.url, 46).replace("$", r"\$") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _rates(axes: Any, rows: list[BenchRow]) -> None:
    counts = sorted({each.connections for row in rows for each in row.by_connections})
    high = 0.8 / max(1, len(counts))
    for number, count in enumerate(counts):
        for place, row in enumerate(rows):
            for each in row.by_connections:
                if each.connections == count:
                    low = each.rate_low if each.rate_low is not None else each.rate
                    most = each.rate_high if each.rate_high is not None else each.rate
                    axes.barh(
                        place - 0.4 + high * (number + 0.5),
                        each.rate / _MIB,
                        high * 0.9,
                        xerr=[[(each.rate - low) / _MIB], [(most - each.rate) / _MIB]],
                        color=_COLOURS[number],
                        error_kw={"capsize": 2, "lw": 1},
                    )
        axes.bar(0, 0, color=_COLOURS[number], label=f"{count} connection{'s' if count > 1 else ''}")
    _names(axes, rows)
    told = [each.rate for row in rows for each in row.by_connections if each.rate > 0]
    if told and max(told) > FAR_APART * min(told):
        axes.set_xscale("log")
        axes.set_xlim(left=10 ** math.floor(math.log10(min(told) / _MIB)))
    axes.set_title("rate and its 95 % interval, MiB/s", loc="left", fontsize=10)
    if counts:
        _legend(axes, len(counts))


def _legend(axes: Any, columns: int) -> None:
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
    axes.legend(fontsize=8, ncols=columns, frameon=False, borderaxespad=0.2, **place)


def _latency(axes: Any, rows: list[BenchRow]) -> None:
    left = [0.0] * len(rows)
    for number, step in enumerate(STEPS):
        times = [1000 * (getattr(row, step) or 0.0) for row in rows]
        axes.barh(range(len(rows)), times, 0.6, left=left, color=_COLOURS[number], label=step)
        left = [start + more for start, more in zip(left, times, strict=True)]
    _names(axes, rows)
    axes.set_title("first byte on a new connection, ms", loc="left", fontsize=10)
    _legend(axes, len(STEPS))


def _over_time(axes: Any, rows: list[BenchRow]) -> None:
    timed = [row for row in rows if row.connections is not None][:MOST_LINES]
    for number, row in enumerate(timed):
        best = next(each for each in row.by_connections if each.connections == row.connections)
        samples = [(at, rate) for at, rate in sorted(best.samples) if rate > 0]
        axes.plot(
            [at for at, _ in samples],
            [rate / _MIB for _, rate in samples],
            marker="o",
            ms=4,
            color=_COLOURS[number],
            label=f"{short(row.url, 40)} x{row.connections}".replace("$", r"\$"),
        )
    rates = [rate for row in timed for each in row.by_connections for _, rate in each.samples if rate > 0]
    if rates and max(rates) > FAR_APART * min(rates):
        axes.set_yscale("log")
    axes.set_title("rate over time at the best number of connections, MiB/s", loc="left", fontsize=10)
    axes.set_xlabel("s", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    if timed:
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, frameon=False)
