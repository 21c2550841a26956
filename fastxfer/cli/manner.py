"""How a command shows what it does: with a bar, as JSON lines or not at all."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fastxfer.cli.arguments import Parser, switch

if TYPE_CHECKING:
    from fastxfer.progress.bar import Bar
    from fastxfer.progress.snapshot import Progress

EVENT_S = 1.0
FRAME_S = 0.1
BAR_AFTER_S = 0.2


class Manner(NamedTuple):
    """See the module."""

    as_json: bool
    quiet: bool
    bar: bool

    @classmethod
    def of(cls, given: argparse.Namespace) -> Manner:
        """Returns what was asked for, and what stderr is good for."""
        as_json, quiet = switch("json", given.json), switch("quiet", given.quiet)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        return cls(
            as_json, quiet, terminal and not quiet and (switch("progress", given.progress) or not as_json)
        )


def add_output(parser: Parser) -> None:
    """Adds the options that say what is written."""
    parser.add_switch("--json", help="one JSON object a line on stdout, the last one the result or the error")
    parser.add_switch("-q", "--quiet", help="no output but errors")


def add_manner(parser: Parser) -> None:
    """Adds the options that `Manner.of` reads."""
    add_output(parser)
    parser.add_switch("--progress", help="the bar on a terminal, with --json too")


class Late:
    """A progress callable that draws a bar once it has taken long enough to be worth one."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._from = time.monotonic() + BAR_AFTER_S

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._from:
            self._bar.show(progress)


@contextmanager
def shown(name: str, wanted: bool) -> Iterator[Late | None]:
    """Gives what draws a bar, None where there is to be none."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from fastxfer.progress.bar import Bar

    with Bar(name=name) as bar:
        yield Late(bar)
