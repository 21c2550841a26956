"""The bar on a terminal: two lines over the whole object, drawn in place.

    data.bin  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░  42%  resumed 25%
    107.5 MiB of 256 MiB  35.2 MiB/s  ETA 4 s  16 connections  p pauses, q stops

What was there before this run has a character and a colour of its own. The cursor stays visible and nothing
of the terminal's state is changed, so there is nothing to restore after a kill. Where lines cannot be drawn
over (a dumb terminal) there is a plain line now and then; where stderr is no terminal there is nothing.
"""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO
from urllib.parse import unquote, urlsplit

from fastxfer.progress.snapshot import Progress
from fastxfer.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PLAIN_EVERY_S = 5.0
LEAST_BAR = 10
MOST_BAR = 80
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_OVER = ("done", "failed", "cancelled")
# Resumed, fetched in this run, missing.
_CELLS, _ASCII_CELLS = ("▒", "█", "░"), ("=", "#", ".")


class Bar:
    """A context manager: `show` draws a Progress on stderr, or on `file`. It never raises for a terminal that
    went away.

    `name` is shown, by default the last part of the URL; `keys` tells that p and q are listened for.
    """

    def __init__(self, name: str | None = None, *, keys: bool = False, file: TextIO | None = None) -> None:
        self._name = name
        self._keys = keys
        self._file = file if file is not None else sys.stderr
        self._console: Console | None = None
        self._drawn = False
        self._plain_at = 0.0
        self._last: Progress | None = None

    def __enter__(self) -> Bar:
        if self._file is not None and self._file.isatty():
            from rich.console import Console

            self._console = Console(file=self._file, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._write("\n")

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        if self._console is not None:
            self._write(f"\r\x1b[A\x1b[J{text}\n" if self._drawn else f"{text}\n")
            self._drawn = False

    def show(self, progress: Progress, name: str | None = None, figures: str | None = None) -> None:
        """Draws how a transfer stands, under another name and with other figures if they are given."""
        console = self._console
        if name is not None:
            self._name = name
        if console is None:
            return
        if console.is_dumb_terminal or console.is_jupyter:
            self._show_plain(progress, figures)
            return
        width = max(20, console.width - 1)  # a full last column would wrap
        first, second = self._first(progress, width), self._second(progress, figures)
        second.truncate(width, overflow="ellipsis")
        with console.capture() as capture:
            console.print(first, end="\x00", soft_wrap=True)
            console.print(second, end="", soft_wrap=True)
        upper, _, lower = capture.get().partition("\x00")
        back = "\r\x1b[A" if self._drawn else ""
        self._drawn = True
        self._write(f"{back}\r{upper}\x1b[K\n{lower}\x1b[K")

    def _show_plain(self, progress: Progress, figures: str | None) -> None:
        now = time.monotonic()
        over = progress.state in _OVER and (self._last is None or self._last.state not in _OVER)
        if over or now >= self._plain_at:
            self._plain_at = now + PLAIN_EVERY_S
            self._last = progress
            share = f" {_percent(progress.done, progress.size)}" if progress.size else ""
            self._write(f"{self._title(progress)}:{share} {self._second(progress, figures).plain}\n")

    def _first(self, progress: Progress, width: int) -> Text:
        """Returns the line with the name, the bar and the shares."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        tail = f"  {_percent(progress.done, progress.size):>4}" if progress.size else "  size not known"
        resumed = ""
        if progress.resumed and progress.size:
            resumed = f"  resumed {_percent(progress.resumed, progress.size)}"
        name = self._title(progress)
        room = width - cell_len(tail + resumed) - 2
        if cell_len(name) > room - LEAST_BAR:
            keep = max(1, min(room - LEAST_BAR, cell_len(name)))
            name = set_cell_size(name, keep - 1) + ("~" if self._ascii else "…")
        line = Text(name + "  ")
        for cells, style in self._bar(progress, max(0, min(MOST_BAR, room - cell_len(name)))):
            line.append(cells, style)
        line.append(tail, "bold")
        line.append(resumed, "cyan")
        line.truncate(width)
        return line

    def _bar(self, progress: Progress, width: int) -> list[tuple[str, str]]:
        before, now, missing = _ASCII_CELLS if self._ascii else _CELLS
        if not progress.size:
            full = progress.state == "done"
            return [((now if full else missing) * width, "green" if full else "bright_black")]
        done = width * min(progress.done, progress.size) // progress.size
        resumed = min(done, -(-width * progress.resumed // progress.size))
        return [
            (before * resumed, "cyan"),
            (now * (done - resumed), "green"),
            (missing * (width - done), "bright_black"),
        ]

    def _second(self, progress: Progress, figures: str | None) -> Text:
        """Returns the line with the figures, and the state where it is not simply running."""
        from rich.text import Text

        if figures is not None:
            return Text(_CONTROL.sub(" ", figures))
        of = f" of {format_size(progress.size)}" if progress.size is not None else ""
        line = Text(f"{format_size(progress.done)}{of}")
        if progress.state not in _OVER:
            line.append(f"  {format_size(progress.rate)}/s", "bold")
            line.append(f"  ETA {format_duration(progress.eta if progress.state != 'paused' else None)}")
            count = progress.connections
            line.append(f"  {count} connection{'' if count == 1 else 's'}")
        note = _CONTROL.sub(" ", progress.note)
        if progress.state == "running":
            if self._keys:
                line.append("  p pauses, q stops", "bright_black")
        elif progress.state == "paused":
            line.append("  paused" + (": p goes on, q stops" if self._keys else ""), "yellow")
        elif progress.state == "waiting":
            line.append(f"  waiting: {note}" if note else "  waiting", "yellow")
        else:
            line.append(f"  {progress.state}", {"done": "green", "failed": "red"}.get(progress.state, ""))
        return line

    def _title(self, progress: Progress) -> str:
        name = self._name
        if name is None:
            name = unquote(urlsplit(progress.url).path.rpartition("/")[2]) or progress.url
        return _CONTROL.sub(" ", name)

    @property
    def _ascii(self) -> bool:
        console = self._console
        return console is None or not console.encoding.startswith("utf")

    def _write(self, text: str) -> None:
        try:
            encoding = getattr(self._file, "encoding", None) or "ascii"
            self._file.write(text.encode(encoding, "replace").decode(encoding))
            self._file.flush()
        except (OSError, ValueError):
            self._console = None  # the terminal has gone, the transfer has not


def _percent(part: int, whole: int | None) -> str:
    """Returns a share in whole per cent, 100 only when all is there."""
    return f"{min(part, whole) * 100 // whole}%" if whole else "-"
