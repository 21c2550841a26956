"""Charts of a report as SVG: rates with their intervals, latency step by step, rates over time. Pure.

Colours are CSS variables of the page that they stand in, so that light and dark are its choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastxfer.drawing import MARGIN, WIDTH, bar, label, svg, words
from fastxfer.mirrorbench.report import BenchRow, ConnectionRate
from fastxfer.units import format_size

_PLOT = WIDTH - 2 * MARGIN
_ROOM = 170.0  # for figures, right of the bars
_LEFT = 40.0  # for numbers of connections
FAR_APART = 30
MOST_BARS = 40
MOST_LINES = 8
STEPS = ("dns", "connect", "tls", "wait")


def short(url: str, length: int = 90) -> str:
    """Returns a URL cut in its middle where it is long."""
    return url if len(url) <= length else f"{url[: length // 2 - 1]}…{url[-length // 2 :]}"


def rates(rows: Sequence[BenchRow]) -> str:
    """Returns bars of each mirror's rates, by number of connections, with their intervals."""
    shown = [row for row in rows if row.by_connections][:MOST_BARS]
    told = [each.rate for row in shown for each in row.by_connections if each.rate > 0]
    if not told:
        return ""
    most = max(each.rate_high or each.rate for row in shown for each in row.by_connections)
    axis = _Axis(min(told), max(most, *told), _PLOT - _ROOM - _LEFT)
    counts = sorted({each.connections for row in shown for each in row.by_connections})
    parts, y = [], 4.0
    for row in shown:
        parts.append(label(MARGIN, y + 12, short(row.url), "" if row.usable else "off"))
        y += 18
        for each in row.by_connections:
            parts += _rate(each, y, axis, counts.index(each.connections))
            y += 17
        y += 9
    return svg(y + 18, [*_grid(axis, y), *parts], "rates of the mirrors")


def _grid(axis: _Axis, height: float) -> list[str]:
    """Returns lines down at rates, where bars do not show them by their length alone."""
    parts = []
    for value in axis.ticks() if axis.is_log else ():
        x = MARGIN + _LEFT + axis.at(value)
        parts.append(f'<path d="M{x:.1f} 0V{height:.1f}" class="grid"/>')
        parts.append(label(x, height + 14, f"{format_size(value)}/s", "small", "middle"))
    return parts


def _rate(each: ConnectionRate, y: float, axis: _Axis, colour: int) -> list[str]:
    left = MARGIN + _LEFT
    words = f"{format_size(each.rate)}/s"
    end = left + axis.at(each.rate)
    parts = [
        label(left - 8, y + 11, f"x{each.connections}", "small", "end"),
        bar(left, y, end - left, 13, colour, words),
    ]
    if each.rate_low is not None and each.rate_high is not None:
        low, high = left + axis.at(each.rate_low), left + axis.at(each.rate_high)
        middle, end = y + 6.5, max(end, high)
        parts.append(
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8" '
            'class="whisker"/>'
        )
    parts.append(label(end + 8, y + 11, words, "small"))
    return parts


def latency(rows: Sequence[BenchRow]) -> str:
    """Returns bars of how long the first byte takes, step by step."""
    shown = [row for row in rows if row.first_byte is not None][:MOST_BARS]
    steps = [[getattr(row, step) or 0.0 for step in STEPS] for row in shown]
    most = max(map(sum, steps), default=0.0)
    scale = (_PLOT - _ROOM) / most if most > 0 else 0.0
    parts, y = [], 4.0
    for row, times in zip(shown, steps, strict=True):
        parts.append(label(MARGIN, y + 12, short(row.url), "" if row.usable else "off"))
        x = float(MARGIN)
        for number, (step, seconds) in enumerate(zip(STEPS, times, strict=True)):
            if seconds * scale > 0.2:
                parts.append(bar(x, y + 18, seconds * scale, 13, number, f"{step} {1000 * seconds:.1f} ms"))
                x += seconds * scale
        parts.append(label(max(x, MARGIN + 2) + 8, y + 29, f"{1000 * sum(times):.1f} ms", "small"))
        y += 42
    return svg(y, parts, "latency of the mirrors")


def over_time(rows: Sequence[BenchRow]) -> str:
    """Returns lines of the rounds' rates, each mirror at its best number of connections."""
    lines = []
    for row in [row for row in rows if row.connections is not None][:MOST_LINES]:
        best = next(each for each in row.by_connections if each.connections == row.connections)
        lines.append((row, sorted(best.samples)))
    told = [rate for _, samples in lines for _, rate in samples if rate > 0]
    if not told:
        return ""
    last = max(at for _, samples in lines for at, _ in samples) or 1.0
    height, left, foot = 260.0, MARGIN + 74.0, 24.0
    axis = _Axis(min(told), max(told), height - foot - 8)
    floor = height - foot
    parts = [
        f'<path d="M{left} {floor - axis.at(value):.1f}H{WIDTH - MARGIN}" class="grid"/>'
        + label(left - 8, floor - axis.at(value) + 4, f"{format_size(value)}/s", "small", "end")
        for value in axis.ticks()
    ]
    across = (WIDTH - MARGIN - left - 6) / last
    parts.append(label(left, height - 4, "0 s", "small"))
    parts.append(label(WIDTH - MARGIN, height - 4, f"{last:.0f} s", "small", "end"))
    for number, (row, samples) in enumerate(lines):
        points = [(left + at * across, floor - axis.at(rate)) for at, rate in samples]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="{path}" class="line" stroke="var(--c{number})"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--c{number})">'
            f"<title>{words(short(row.url))}</title></circle>"
            for x, y in points
        ]
    return svg(height, parts, "rates over time")


class _Axis:
    """Rates along so many pixels: as they are, or by their logarithms where they lie far apart."""

    def __init__(self, least: float, most: float, pixels: float) -> None:
        least, most = max(1.0, least), max(1.0, most)
        self.is_log = most > FAR_APART * least
        self._least = 10 ** math.floor(math.log10(least)) if self.is_log else 0.0
        self._most = most * 1.02
        self._pixels = pixels

    def at(self, value: float) -> float:
        """Returns where a rate is."""
        if self.is_log:
            value = max(value, self._least)
            return self._pixels * math.log(value / self._least) / math.log(self._most / self._least)
        return self._pixels * value / self._most

    def ticks(self) -> list[float]:
        """Returns the rates that are written beside it."""
        if self.is_log:
            low, high = math.ceil(math.log2(self._least)), math.floor(math.log2(self._most))
            step = max(1, (high - low) // 5)
            return [2.0**power for power in range(low, high + 1, step)]
        apart = 2.0 ** math.floor(math.log2(self._most / 3))
        return [apart * number for number in range(int(self._most / apart) + 1)]


def legend(names: Sequence[str]) -> str:
    """Returns names beside their colours."""
    return "".join(
        f'<span class="key"><i style="background:var(--c{number})"></i>{words(name)}</span>'
        for number, name in enumerate(names)
    )
