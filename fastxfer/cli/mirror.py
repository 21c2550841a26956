"""`fastxfer mirror`: a whole data set, shown as a bar, as JSON lines or not at all."""

from __future__ import annotations

import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fastxfer.cli import output
from fastxfer.cli.arguments import Option, Parser, transfer_options, values
from fastxfer.cli.manner import BAR_AFTER_S, EVENT_S, FRAME_S, Manner, add_manner
from fastxfer.cli.signals import stop_on_signals
from fastxfer.dataset.report import MirrorItem, MirrorReport
from fastxfer.dataset.run import Mirror
from fastxfer.errors import OptionError, StorageError
from fastxfer.mirror_options import COPY, SHARED, MirrorOptions, means_nothing
from fastxfer.mirroring import begin_mirror
from fastxfer.sources.schemes import is_location

if TYPE_CHECKING:
    from fastxfer.progress.bar import Bar

MOST_LINES = 20
"""So many failures and refusals are listed at the end; all are in the report and the ledger."""
EPILOG = """\
SOURCE is the index of an HTTP server (a URL with / at its end), s3://BUCKET/PREFIX or oss://BUCKET/PREFIX,
or a manifest: a file, a URL, or - for standard input. DEST is a folder; its ledger is .fastxfer/mirror.db.
Or it is s3://BUCKET/PREFIX or oss://BUCKET/PREFIX: all goes there without touching the disk, and the ledger
is in a folder of its own (--state-dir). Where and who of stores (--endpoint, --region, ...) are then DEST's,
and SOURCE's too where it is of the same kind and no --source-... of them is given; so as in fastxfer copy.

Every option with a value is also a variable, --max-errors is FASTXFER_MAX_ERRORS; the command line wins. K, M
and G are powers of 1024. Ctrl-C stops: run the same command again to go on. Exit status 1: something failed
or was refused, the rest is there.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "mirror",
        "SOURCE DEST [OPTION...]",
        "Has a folder, or a prefix of an object store, have what a source lists: fetches what is missing\n"
        "or changed, deletes what vanished if asked to, and remembers it all in a ledger.",
        epilog=EPILOG,
    )
    parser.add_argument("words", metavar="SOURCE DEST", nargs="*", help="from where to where, see below")
    own = [Option.of(each) for each in fields(MirrorOptions)]
    copies = [Option.of(each) for each in COPY]
    shared = transfer_options(only=SHARED)
    parser.add_options("mirror", own)
    parser.add_options("to an object store", copies)
    parser.add_argument(
        "--report", metavar="FILE", help="write a page with drawings of the run, in HTML, however it ends"
    )
    add_manner(parser)
    parser.add_insecure()
    parser.add_options("source, network and disk", shared)
    given = parser.parse(arguments, "words")
    if len(given.words) != 2:
        raise OptionError("a source and a destination are wanted: fastxfer mirror SOURCE DEST")
    manner = Manner.of(given)
    page = given.report or os.environ.get("FASTXFER_REPORT")
    if page and not os.path.isdir(os.path.dirname(os.path.abspath(page))):
        raise StorageError(f"cannot write {page}: there is no such directory; create it first")
    screen = _Screen(manner)
    chosen = _chosen([*own, *copies, *shared], given, to_store=is_location(given.words[1].strip()))
    if "max_rate" in chosen and "dask" not in chosen:  # of the run, which is all that this process does
        chosen["max_rate_total"] = chosen.pop("max_rate")
    running = begin_mirror(*given.words, told=screen.told, **chosen)
    try:
        report = screen.show_to_the_end(running)
    finally:
        saved = not page or _save(running.known, page)
    return _end(report, manner) if saved else max(_end(report, manner), StorageError.exit_code)


def _save(report: MirrorReport, page: str) -> bool:
    """Writes the page, or says why not; returns whether it was written."""
    try:
        report.save(page)
    except StorageError as error:
        output.error_line(error)
        return False
    return True


def _chosen(options: Sequence[Option], given: Namespace, *, to_store: bool) -> dict[str, Any]:
    """Returns the options that were given. A variable that means nothing for the destination is not."""
    other = [each for each in options if means_nothing(each.name, to_store=to_store)]
    fitting = [each for each in options if each not in other]
    return {**values(fitting, given), **values(other, given, {})}


def _end(report: MirrorReport, manner: Manner) -> int:
    """Says what came of it; returns the exit status."""
    code = 0 if report.ok else 1
    if manner.as_json:
        output.event("result", {**report.to_dict(), "exit_code": code})
        return code
    if manner.bar and _on_terminal() and not report.dry_run:
        from fastxfer.cli.mirror_table import print_table

        print_table(report)
        return code
    for failure in [*report.refusals, *report.failures][:MOST_LINES]:
        output.note(str(failure))
    more = report.failed + report.refused - MOST_LINES
    if more > 0:
        output.note(f"and {more} more")
    if not manner.quiet:
        output.line(output.plain(str(report)))
    return code


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


class _Screen:
    """What is shown of a run."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._bar: Bar | None = None
        self._lock = threading.Lock()
        self._unwritten: OSError | StorageError | None = None

    def told(self, item: MirrorItem) -> None:
        """The run's thread. Says what became of an object: in JSON of each, else in a dry run only."""
        if self._unwritten is not None:
            return
        try:
            self._say(item)
        except (BrokenPipeError, StorageError) as error:
            self._unwritten = error

    def _say(self, item: MirrorItem) -> None:
        if self._manner.as_json:
            output.event("item", item.to_dict())
        elif item.state in _WOULD and not self._manner.quiet:
            why = f" ({item.message})" if item.message else ""
            said = output.plain(f"{_WOULD[item.state]} {item.path}{why}")
            with self._lock:
                if self._bar is None or not _on_terminal():
                    output.line(said)
                else:
                    self._bar.say(said)

    def show_to_the_end(self, running: Mirror) -> MirrorReport:
        """Shows how it goes until it is over; a signal stops it. Raises its error."""
        stop_on_signals(running.cancel)
        if not self._manner.bar or self._waited(running, BAR_AFTER_S):
            self._watch(running)
        else:
            from fastxfer.progress.bar import Bar

            with Bar() as self._bar:
                self._watch(running)
        if self._unwritten is not None:
            raise self._unwritten
        return running.wait()

    def _waited(self, running: Mirror, seconds: float) -> bool:
        """Waits for the end, but no longer; returns whether it has come. Stops a run of which nothing can be
        told any more.
        """
        if running.over.wait(seconds):
            return True
        if self._unwritten is not None:
            running.cancel()
        return False

    def _watch(self, running: Mirror) -> None:
        event_at = time.monotonic() + EVENT_S
        while not self._waited(running, FRAME_S):
            self._draw(running)
            if self._manner.as_json and time.monotonic() >= event_at:
                event_at = time.monotonic() + EVENT_S
                output.event("progress", running.state.to_dict())
        self._draw(running)

    def _draw(self, running: Mirror) -> None:
        if self._bar is None:
            return
        state = running.state
        with self._lock:
            self._bar.show(state.as_progress(), state.title, state.figures)


_WOULD = {
    "new": "would fetch",
    "changed": "would fetch",
    "unsure": "would ask for",
    "vanished": "would delete",
}
