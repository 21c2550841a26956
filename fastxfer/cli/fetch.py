"""`fastxfer fetch`: one transfer, shown as a bar, as JSON lines or not at all.

Signals and keys only ask the transfer to stop; it then ends by itself, with everything saved, and raises. So
there is one way out, and no moment at which Ctrl-C can hit half a save.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from fastxfer.api import Transfer, start
from fastxfer.cli import output
from fastxfer.cli.arguments import (
    Option,
    Parser,
    add_inputs,
    add_jobs,
    one_url,
    target_options,
    transfer_options,
    values,
)
from fastxfer.cli.manner import BAR_AFTER_S, EVENT_S, FRAME_S, Manner, add_manner
from fastxfer.cli.signals import stop_on_signals
from fastxfer.errors import FastxferError, OptionError, PausedError
from fastxfer.results import FetchResult
from fastxfer.storage.paths import resolve_target

# Below this no bar is shown: what is over at once needs none, and importing rich takes 50 ms.

EPILOG = """\
Every option with a value is also a variable, --stall-timeout is FASTXFER_STALL_TIMEOUT; the command line
wins. K, M and G are powers of 1024. On a terminal p pauses and goes on, q stops; so does Ctrl-C: run the same
command again to go on. What is stopped while it is paused stays so: press p, or give --unpause. Nothing
stands under the target's name before it is complete.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser, targets, options = make_parser()
    given = parser.parse(arguments, "urls")
    if given.input is not None:
        from fastxfer.cli.many import fetch_inputs

        return fetch_inputs(given, targets, options)
    if given.jobs or given.input_format or given.base_url or given.any_dir:
        raise OptionError(
            "-j, --input-format, --base-url and --any-dir are for many objects: -i FILE is missing"
        )
    if given.mirrors_from is not None:
        from fastxfer.benching import mirrors_for_fetch

        given.urls += mirrors_for_fetch(given.mirrors_from, given.urls)
    url, *mirrors = given.urls or [one_url(given.urls)]
    manner = Manner.of(given)
    chosen = values(options, given)
    if mirrors:
        chosen["mirrors"] = mirrors
    result = fetch(
        url,
        out_path(**values(targets, given)),
        chosen,
        as_json=manner.as_json,
        bar=manner.bar,
    )
    if manner.as_json:
        output.event("result", result.to_dict())
    elif not manner.quiet:
        output.line(output.plain("; ".join([str(result), *result.notes])))
    return 0


def make_parser() -> tuple[Parser, list[Option], list[Option]]:
    """Returns the parser, the options of the target and those of the transfer."""
    parser = Parser(
        "fetch",
        "URL [MIRROR...] [-o OUT] [-d DIR] [OPTION...]\n"
        "       fastxfer fetch --mirrors-from FILE [-o OUT] [-d DIR] [OPTION...]\n"
        "       fastxfer fetch -i FILE [-j N] [-d DIR] [OPTION...]",
        "Fetches an object over many connections into one file, and goes on where an earlier run stopped.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "urls",
        metavar="URL",
        nargs="*",
        help="http:// or https://; further ones are mirrors: other URLs of the same object",
    )
    targets, options = target_options(), transfer_options()
    parser.add_options("target", targets)
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="fetch what a file names (- for stdin): a list of URLs, an aria2 input file, SHA256SUMS, "
        "Metalink",
    )
    parser.add_argument(
        "--mirrors-from",
        metavar="FILE",
        help="the best mirrors of a run that fastxfer bench saved, or those of a list, after the URLs if any",
    )
    add_jobs(parser)
    add_inputs(parser)
    add_manner(parser)
    parser.add_switch("-c", "--continue", help="accepted for old habits: it always goes on where it stopped")
    parser.add_insecure()
    parser.add_options("transfer", options)
    return parser, targets, options


def out_path(out: str | None = None, dir: str | None = None) -> str | None:
    """Returns the `out` of a fetch from -o and -d; a relative -o is inside -d."""
    if out == "-":
        raise OptionError(
            "-o/--out: many connections cannot write to a pipe; name a file (./- for one named -)"
        )
    if out is not None:
        return os.path.join(dir, out) if dir is not None else out
    return os.path.join(dir, "") if dir is not None else None


def fetch(url: str, out: str | None, options: dict[str, Any], *, as_json: bool, bar: bool) -> FetchResult:
    """Fetches as `fastxfer.fetch` does, and shows how it goes. Raises FastxferError, a stop included."""
    with start(url, out, **options) as transfer:
        stop_on_signals(transfer.cancel)
        if bar and not _over_soon(transfer):
            _watch(transfer, out, as_json)
        elif as_json:
            _tell(transfer)
        return transfer.wait()


def _over_soon(transfer: Transfer) -> bool:
    """Waits a moment for the end; returns whether it came. One that was left paused has not ended."""
    try:
        return _over_within(transfer, BAR_AFTER_S)
    except PausedError:
        return False


def _over_within(transfer: Transfer, timeout_s: float) -> bool:
    """Waits for the end; returns whether it came. What the end is, is for `wait` to say later.

    Raises PausedError for one that an earlier run left paused: nobody is there to press a key.
    """
    try:
        transfer.wait(timeout_s)
    except FastxferError as error:
        if isinstance(error, PausedError) and not transfer.done:
            raise
    return transfer.done


def _tell(transfer: Transfer) -> None:
    """Writes progress events, one a second, until it is over."""
    while not _over_within(transfer, 0):
        output.event("progress", transfer.progress.to_dict())
        _over_within(transfer, EVENT_S)


def _watch(transfer: Transfer, out: str | None, as_json: bool) -> None:
    """Shows the bar, and the events too if asked for, and obeys the keys until it is over."""
    from fastxfer.cli.keys import Keyboard
    from fastxfer.progress.bar import Bar

    name = resolve_target(transfer.progress.url, out).final.name
    event_at = 0.0
    with Keyboard() as keyboard, Bar(name=name, keys=keyboard.present) as bar:
        while not transfer.done:
            bar.show(transfer.progress)
            if as_json and time.monotonic() >= event_at:
                event_at = time.monotonic() + EVENT_S
                output.event("progress", transfer.progress.to_dict())
            key = keyboard.read(FRAME_S)
            if key == "p":
                (transfer.resume if transfer.state == "paused" else transfer.pause)()
            elif key == "q":
                transfer.cancel()
            elif key is None:
                _over_within(transfer, FRAME_S)
        bar.show(transfer.progress)
