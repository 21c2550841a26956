"""`fastxfer bench`: mirrors measured, ranked and shown, saved and compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fastxfer.bench_options import NETWORK, BenchOptions
from fastxfer.benching import append_report, make_bench, read_mirrors, saved_reports
from fastxfer.cli import output
from fastxfer.cli.arguments import Option, Parser, transfer_options, values
from fastxfer.cli.manner import Manner, add_manner
from fastxfer.cli.signals import on_signals
from fastxfer.errors import InterruptedTransferError, OptionError
from fastxfer.mirrorbench.report import BenchReport
from fastxfer.mirrorbench.run import Bench, BenchProgress
from fastxfer.mirrorbench.words import changes

EPILOG = """\
A mirror that does not answer, or has another object than most, is a row of the table with the reason. Ctrl-C
ends it and shows what was measured. Exit status: 0 when at least one mirror can be used, else that of the
first one's failure.

fastxfer fetch --mirrors-from FILE fetches from the best ones of a saved run. Every option with a value is
also a variable, --duration is FASTXFER_DURATION; the command line wins. K, M and G are powers of 1024.
"""


def _text(value: Any) -> str:
    if not str(value):
        raise ValueError("must not be empty")
    return str(value)


def _file(text: str, metavar: str = "FILE") -> Any:
    return field(default=None, metadata={"parse": _text, "help": text, "metavar": metavar, "flags": ()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFiles:
    """What `fastxfer bench` reads and writes."""

    mirrors_from: str | None = _file(
        "mirrors from a list: URLs, Metalink, Arch's mirrorlist, Debian's sources or Mirrors.masterlist, or "
        "a saved run"
    )
    object_path: str | None = _file("the object below the mirrors that a list names", "PATH")
    repo: str | None = _file("Arch's $repo (default: core)", "NAME")
    arch: str | None = _file("Arch's $arch (default: x86_64)", "NAME")
    plot: str | None = _file("draw it: .png, .svg or .pdf (needs fastxfer[plot])")
    html: str | None = _file("write it as a page that needs nothing else")
    save: str | None = _file("add it to a file of runs")
    compare: str | None = _file(
        "say what has changed since the last run in a file; without URLs, between the last two in it"
    )


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "bench",
        "URL... [--plot FILE] [--html FILE] [--save FILE] [OPTION...]\n"
        "       fastxfer bench --mirrors-from FILE [--object-path PATH] [OPTION...]\n"
        "       fastxfer bench --compare FILE",
        "Measures mirrors of one object, fairly and in turns, and ranks them.",
        epilog=EPILOG,
    )
    parser.add_argument("urls", metavar="URL", nargs="*", help="http://, https://, s3:// or oss://")
    own = [Option.of(each) for each in fields(BenchOptions)]
    files = [Option.of(each) for each in fields(BenchFiles)]
    network = transfer_options(only=NETWORK)
    parser.add_options("benchmark", own)
    parser.add_options("files", files)
    add_manner(parser)
    parser.add_insecure()
    parser.add_options("network", network)
    given = parser.parse(arguments, "urls")
    manner, named = Manner.of(given), BenchFiles(**values(files, given))
    before = saved_reports(named.compare) if named.compare is not None else []
    urls = _urls(given, named)
    if not urls and before:
        return _compare_saved(before, manner)
    _check_plot(named.plot)
    bench = make_bench(urls, **values([*own, *network], given))
    report, stopped = _measured(bench, manner)
    return _end(report, stopped, before, named, manner)


def _urls(given: argparse.Namespace, named: BenchFiles) -> list[str]:
    if named.mirrors_from is None:
        return list(given.urls)
    words = {"repo": named.repo, "arch": named.arch}
    found = read_mirrors(
        named.mirrors_from,
        object_path=named.object_path,
        **{name: word for name, word in words.items() if word is not None},
    )
    return [*given.urls, *found]


def _check_plot(path: str | None) -> None:
    """Raises OptionError before anything is measured that could not be drawn."""
    if path is not None:
        from fastxfer.mirrorbench.plot import check

        check(path)


def _measured(bench: Bench, manner: Manner) -> tuple[BenchReport, bool]:
    """Returns what was measured, and whether it was stopped; one signal is enough, what is shown then is not
    cut short by another.
    """
    on_signals(_Once().interrupt)
    try:
        if manner.bar:
            from fastxfer.mirrorbench.table import ProgressBar

            with ProgressBar() as bar:
                bench.told = bar.show
                return bench.run(), False
        if manner.as_json:
            bench.told = _tell
        return bench.run(), False
    except KeyboardInterrupt:
        return bench.report(), True


class _Once:
    """Raises KeyboardInterrupt the first time that it is asked to."""

    def __init__(self) -> None:
        self._asked = False

    def interrupt(self) -> None:
        """See the class."""
        if not self._asked:
            self._asked = True
            raise KeyboardInterrupt


def _tell(now: BenchProgress) -> None:
    output.event("progress", asdict(now))


def _end(
    report: BenchReport, stopped: bool, before: Sequence[BenchReport], named: BenchFiles, manner: Manner
) -> int:
    """Shows and keeps a report; returns the exit status. Raises InterruptedTransferError if stopped."""
    changed = changes(before[-1], report) if before else []
    _show(report, changed, manner, final=not stopped)
    if named.save is not None:
        append_report(report, named.save)
    if named.html is not None:
        report.save_html(named.html)
    if named.plot is not None:
        report.plot(named.plot)
    if stopped:
        raise InterruptedTransferError("stopped")
    return 0 if any(row.usable for row in report.rows) else _fault(report)


def _fault(report: BenchReport) -> int:
    first = next((row.exit_code for row in report.rows if row.exit_code), 1)
    output.note("no mirror can be used")
    return first


def _show(report: BenchReport, changed: Sequence[str], manner: Manner, *, final: bool) -> None:
    if manner.as_json:
        output.event("result" if final else "partial", {**report.to_dict(), "changes": list(changed)})
        return
    if manner.quiet:
        return
    if sys.stdout.isatty():
        from fastxfer.mirrorbench.table import print_table

        print_table(report)
    else:
        output.line(str(report))
    for line in changed:
        output.line(line)


def _compare_saved(before: Sequence[BenchReport], manner: Manner) -> int:
    if len(before) < 2:
        raise OptionError("there is only one saved run: nothing to compare it with")
    changed = changes(before[-2], before[-1])
    if manner.as_json:
        output.event("result", {"changes": changed})
    else:
        for line in changed:
            output.line(line)
    return 0
