"""Drawings as SVG and the page around them, in HTML that needs nothing from elsewhere: no script, no font,
no picture. Pure.

All text is escaped, and a policy in the page keeps the browser from fetching or running anything at all.
Colours are variables of the page's style: light, dark, or on paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH = 980
MARGIN = 12
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LIGHT = """--ink: #1c2430; --soft: #5b6675; --rule: #d7dce3; --back: #fff; --card: #f5f7fa;
  --c0: #2f6fb7; --c1: #e08a1e; --c2: #2f9a68; --c3: #b8467c; --c4: #7a5cc0; --c5: #8a7a35; --c6: #2b9aa8;
  --c7: #c4502f;"""
_DARK = """--ink: #e6eaf0; --soft: #a3aebd; --rule: #39424f; --back: #14181e; --card: #1c222b;
  --c0: #6aa9ec; --c1: #f0aa55; --c2: #5cc795; --c3: #e082b1; --c4: #ab92ea; --c5: #c9b866; --c6: #62c8d5;
  --c7: #ee8a6b;"""
_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1040px; padding: 24px 20px 48px; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }}
h1 {{ font-size: 22px; margin: 0 0 2px; overflow-wrap: anywhere; }}
h2 {{ font-size: 17px; margin: 34px 0 8px; }}
p {{ margin: 4px 0 10px; overflow-wrap: anywhere; }}
.soft, th {{ color: var(--soft); }} a {{ color: inherit; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13.5px; }}
th, td {{ text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: anywhere; }}
th.n, td.n {{ text-align: right; white-space: nowrap; width: 1%; }}
.said {{ background: var(--card); border-left: 4px solid var(--c0); padding: 10px 14px; border-radius: 4px; }}
.said.bad {{ border-color: var(--c7); }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 10px;
  margin: 14px 0; padding: 0; }}
.figures div {{ background: var(--card); border-radius: 6px; padding: 8px 12px; }}
.figures dt {{ color: var(--soft); font-size: 13px; }} .figures dd {{ margin: 0; font-size: 19px; }}
svg {{ display: block; max-width: 100%; height: auto; }} svg text {{ fill: var(--ink); font-size: 13px; }}
svg text.small {{ font-size: 12px; fill: var(--soft); }} .grid {{ stroke: var(--rule); fill: none; }}
svg text.off, tr.off td {{ fill: var(--soft); color: var(--soft); }}
.whisker {{ stroke: var(--ink); stroke-width: 1.5; fill: none; }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }} .area {{ stroke: none; opacity: 0.18; }}
.tight th, .tight td {{ white-space: nowrap; }}
.tight td.url {{ white-space: normal; overflow-wrap: anywhere; min-width: 280px; }}
ul {{ margin: 6px 0; padding-left: 22px; }} li {{ overflow-wrap: anywhere; }}
.key {{ display: inline-block; margin-right: 18px; font-size: 13px; overflow-wrap: anywhere; }}
.key i {{ display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 11pt; }} table {{ font-size: 9pt; }}
  tr, svg, .figures {{ break-inside: avoid; }} h2 {{ break-after: avoid; }}
  * {{ print-color-adjust: exact; }} }}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def words(text: str) -> str:
    """Returns a text as HTML; control characters, and those that turn the direction, as escapes."""
    return escape(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def document(title: str, parts: Iterable[str]) -> str:
    """Returns a page of parts that are HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{words(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(filter(None, parts)) + "\n</body></html>\n"
    )


def table(names: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """Returns a table; a column whose name begins with "#" is of numbers, which stand on the right."""
    kinds = [' class="n"' if name.startswith("#") else "" for name in names]
    head = "".join(
        f"<th{kind}>{words(name.lstrip('#'))}</th>" for name, kind in zip(names, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _cell(cell: str | int) -> str:
    return f"{cell:,}" if isinstance(cell, int) else words(cell)


# ---- drawings ----


def svg(height: float, parts: Iterable[str], title: str) -> str:
    """Returns a drawing as wide as a page."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{words(title)}">{"".join(parts)}</svg>'
    )


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Returns a text within a drawing."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{words(text)}</text>'


def bar(x: float, y: float, width: float, height: float, colour: int, title: str) -> str:
    """Returns a bar."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{max(height, 0.5):.1f}" rx="2" '
        f'fill="var(--c{colour})"><title>{words(title)}</title></rect>'
    )


def steps(most: float, *, binary: bool = False, count: int = 5) -> list[float]:
    """Returns round numbers from 0 to `most`, at least two: powers of two times one, or 1, 2 and 5 times a
    power of ten.
    """
    if most <= 0:
        return [0.0]
    if binary:
        apart = 2.0 ** math.ceil(math.log2(most / count))
    else:
        rough = most / count
        power = 10.0 ** math.floor(math.log10(rough))
        apart = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * (1 - 1e-9))
    return [apart * number for number in range(int(most / apart + 1e-9) + 1)]


def over_time(
    points: Sequence[tuple[float, float]],
    *,
    colour: int,
    title: str,
    shown: Callable[[float], str],
    shown_time: Callable[[float], str],
    binary: bool = False,
    height: float = 190.0,
) -> str:
    """Returns a line with a filled area below it, over seconds, both axes from 0 and told by `shown` and
    `shown_time`. The points are in order.
    """
    most = max((value for _, value in points), default=0.0) * 1.05 or 1.0
    last = points[-1][0] if points and points[-1][0] > 0 else 1.0
    left, foot, top = MARGIN + 84.0, height - 24, 8.0
    across, down = (WIDTH - 2 * MARGIN - left) / last, (foot - top) / most
    parts = []
    for value in steps(most, binary=binary, count=4):
        y = foot - value * down
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH - 2 * MARGIN}" class="grid"/>')
        parts.append(label(left - 8, y + 4, shown(value), "small", "end"))
    for at in time_steps(last):
        parts.append(label(left + at * across, height - 6, shown_time(at), "small", "middle"))
    corners = [f"{left + at * across:.1f} {foot - value * down:.1f}" for at, value in points]
    if corners:
        path, end = "L".join(corners), left + points[-1][0] * across
        begin = left + points[0][0] * across
        parts.append(
            f'<path d="M{begin:.1f} {foot:.1f}L{path}L{end:.1f} {foot:.1f}Z" class="area" '
            f'fill="var(--c{colour})"/>'
        )
        parts.append(f'<path d="M{path}" class="line" stroke="var(--c{colour})"/>')
    return svg(height, parts, title)


def time_steps(last: float, count: int = 8) -> list[float]:
    """Returns round times from 0 to `last` seconds."""
    rounds = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0)
    if last < count:
        return steps(last, count=count)
    apart = next((each for each in rounds if each * count >= last), 0.0)
    if not apart:
        apart = 3600.0 * math.ceil(last / count / 3600)
    return [apart * number for number in range(int(last / apart) + 1)]


def columns(
    bars: Sequence[tuple[str, float]], *, colour: int, title: str, shown: Callable[[float], str]
) -> str:
    """Returns upright bars, each with its name below and its value above."""
    height, foot, top = 190.0, 160.0, 24.0
    most = max((value for _, value in bars), default=0.0) or 1.0
    wide = min(96.0, (WIDTH - 2 * MARGIN) / max(1, len(bars)))
    parts = [f'<path d="M{MARGIN} {foot + 0.5}H{MARGIN + wide * len(bars):.1f}" class="grid"/>']
    for number, (name, value) in enumerate(bars):
        x, tall = MARGIN + wide * number, (foot - top) * value / most
        if value:
            parts.append(
                bar(x + wide * 0.08, foot - tall, wide * 0.84, tall, colour, f"{name}: {shown(value)}")
            )
            parts.append(label(x + wide / 2, foot - tall - 6, shown(value), "", "middle"))
        parts.append(label(x + wide / 2, foot + 18, name, "small", "middle"))
    return svg(height, parts, title)
