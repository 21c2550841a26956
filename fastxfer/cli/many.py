"""Many transfers on the command line: `fetch -i FILE`, and what `queue run` shows as well.

One bar over all of them, and a line for each that fails above it; without a terminal a line for each that is
done too; or JSON lines.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from fastxfer.batch import DEFAULT_JOBS, Batch, BatchResult, Outcome, check_jobs
from fastxfer.cli import output
from fastxfer.cli.arguments import Option, values
from fastxfer.cli.manner import BAR_AFTER_S, EVENT_S, FRAME_S, Manner
from fastxfer.cli.signals import stop_on_signals
from fastxfer.errors import InterruptedTransferError, OptionError, storage_error
from fastxfer.inputs import MAX_INPUT_BYTES, Inputs, parse
from fastxfer.many import ListWork, jobs_of, read_inputs
from fastxfer.progress.overall import Overall

if TYPE_CHECKING:
    from fastxfer.progress.bar import Bar

Watch = Callable[[Overall], object]
Told = Callable[[Outcome], object]


def jobs_given(given: argparse.Namespace) -> int:
    """Returns the number of -j, or of its variable."""
    return check_jobs(given.jobs or os.environ.get("FASTXFER_JOBS") or DEFAULT_JOBS)


def read_given(path: str, given: argparse.Namespace, manner: Manner) -> Inputs:
    """Returns what an input file names, - for standard input, and says its warnings."""
    if path == "-":
        try:
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1) if sys.stdin is not None else b""
        except OSError as error:
            raise storage_error("read the standard input", error) from error
        found = parse(data, format=given.input_format, base_urls=given.base_url, any_dir=bool(given.any_dir))
    else:
        found = read_inputs(
            path, format=given.input_format, base_url=given.base_url, any_dir=bool(given.any_dir)
        )
    for warning in found.warnings:
        if manner.as_json:
            output.event("warning", {"message": warning})
        if not manner.quiet:
            output.note(warning)
    return found


def fetch_inputs(given: argparse.Namespace, targets: Sequence[Option], options: Sequence[Option]) -> int:
    """Runs `fetch -i`."""
    manner, number = Manner.of(given), jobs_given(given)
    target = values(targets, given)
    if given.urls or given.mirrors_from or "out" in target:
        raise OptionError("-i FILE names the objects and their files: no URL and no -o/--out beside it")
    found = read_given(given.input, given, manner)
    jobs = jobs_of(found.entries, target.get("dir"), values(options, given))

    @contextmanager
    def batch(watch: Watch | None, told: Told) -> Iterator[Batch]:
        work = ListWork(jobs, ask_sizes=manner.bar or manner.as_json)
        yield Batch(work, number, watch=watch, told=told)

    return end(run_shown(batch, manner), manner)


def run_shown(
    make: Callable[[Watch | None, Told], AbstractContextManager[Batch]], manner: Manner
) -> BatchResult:
    """Runs a batch to its end, shown as asked for; signals stop it, resumable."""
    if not manner.bar:
        screen = _Screen(manner, None)
        return _run(make, screen)
    from fastxfer.progress.bar import Bar

    with Bar() as bar:
        return _run(make, _Screen(manner, bar))


def _run(make: Callable[[Watch | None, Told], AbstractContextManager[Batch]], screen: _Screen) -> BatchResult:
    watched = screen.bar is not None or screen.manner.as_json
    with make(screen.watch if watched else None, screen.told) as batch:
        stop_on_signals(batch.stop)
        result = batch.run()
        if screen.drawn:
            screen.draw(batch.overall())
        return result


def end(result: BatchResult, manner: Manner, exit_code: int | None = None) -> int:
    """Says what came out of a batch; returns the exit status."""
    code = result.exit_code if exit_code is None or result.interrupted else exit_code
    if manner.as_json:
        output.event("result", {**result.to_dict(), "exit_code": code})
    elif not manner.quiet and not result.interrupted:
        output.line(output.plain(str(result)))
    if result.interrupted:
        output.error_line(InterruptedTransferError("stopped", kept=f"{result.left} files are not finished"))
    return code


class _Screen:
    """What is shown of a batch while it runs."""

    def __init__(self, manner: Manner, bar: Bar | None) -> None:
        self.manner = manner
        self.bar = bar
        self.drawn = False
        self._event_at = 0.0
        self._frame_at = time.monotonic() + BAR_AFTER_S

    def watch(self, overall: Overall) -> None:
        """Shows how all of it stands, when it is time to."""
        now = time.monotonic()
        if now >= self._frame_at:
            self._frame_at = now + FRAME_S
            self.draw(overall)
        if self.manner.as_json and now >= self._event_at:
            self._event_at = now + EVENT_S
            output.event("progress", overall.to_dict())

    def draw(self, overall: Overall) -> None:
        """Draws the bar, if there is one."""
        if self.bar is not None:
            self.drawn = True
            self.bar.show(overall.as_progress(), overall.title)

    def told(self, outcome: Outcome) -> None:
        """Says what became of an object."""
        if self.manner.as_json:
            output.event("item", outcome.to_dict())
        if outcome.error is not None:
            if outcome.state == "failed" or (outcome.state == "paused" and not outcome.ordered):
                self._say(outcome, str(outcome.error))
            elif outcome.ordered and not self.manner.quiet:
                self._say(outcome, outcome.state)
        elif not (self.manner.as_json or self.manner.quiet or self.bar is not None):
            assert outcome.result is not None
            output.line(output.plain("; ".join([str(outcome.result), *outcome.result.notes])))

    def _say(self, outcome: Outcome, what: str) -> None:
        where = f"{outcome.job.where}: " if outcome.job.where else ""
        kept = output.kept(outcome.error) if outcome.error is not None else ""
        said = f"{where}{os.fspath(outcome.job.out)}: {what}{kept}"
        if self.bar is not None:
            self.bar.say(output.plain(f"fastxfer: {said}"))
        else:
            output.note(said)
