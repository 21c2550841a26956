"""`fastxfer put`: one upload, shown as a bar, as JSON lines or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from fastxfer.background import Background
from fastxfer.cli import output
from fastxfer.cli.arguments import Option, Parser, transfer_options, values
from fastxfer.cli.manner import BAR_AFTER_S, EVENT_S, FRAME_S, Manner, add_manner
from fastxfer.cli.signals import stop_on_signals
from fastxfer.errors import OptionError
from fastxfer.put_options import NETWORK, PutOptions
from fastxfer.uploading import begin_upload

EPILOG = """\
Every option with a value is also a variable, --stall-timeout is FASTXFER_STALL_TIMEOUT; the command line
wins. K, M and G are powers of 1024. Ctrl-C stops: run the same command again to go on. What an upload leaves
behind that nobody goes on with, fastxfer uploads lists and aborts. Credentials are best given by the
environment or a profile.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "put",
        "PATH URL [OPTION...]",
        "Uploads a file to an object store, in parts over many connections, and goes on where an earlier\n"
        "run stopped.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "words",
        metavar="PATH URL",
        nargs="*",
        help="a file, and s3://BUCKET/KEY or oss://BUCKET/KEY; with / at the end the file's name is added",
    )
    own = [Option.of(each) for each in fields(PutOptions)]
    network = transfer_options(only=NETWORK)
    parser.add_options("upload", own)
    add_manner(parser)
    parser.add_insecure()
    parser.add_options("store and network", network)
    given = parser.parse(arguments, "words")
    if len(given.words) != 2:
        raise OptionError("a path and a URL are wanted: fastxfer put PATH URL")
    manner = Manner.of(given)
    upload = begin_upload(*given.words, **values([*own, *network], given))
    show_to_the_end(upload, upload.path.name, manner)
    return 0


def show_to_the_end(upload: Background[Any], name: str, manner: Manner) -> None:
    """Shows how an upload goes, and what came of it; a signal stops it. Raises its error."""
    stop_on_signals(upload.cancel)
    if manner.bar and not upload.over.wait(BAR_AFTER_S):
        _watch(upload, name, manner.as_json)
    while not upload.over.wait(0 if manner.as_json else None):
        output.event("progress", upload.progress.to_dict())
        upload.over.wait(EVENT_S)
    result = upload.wait()
    if manner.as_json:
        output.event("result", result.to_dict())
    elif not manner.quiet:
        output.line(output.plain("; ".join([str(result), *result.notes])))


def _watch(upload: Background[Any], name: str, as_json: bool) -> None:
    """Shows the bar, and the events too if asked for, until it is over."""
    from fastxfer.progress.bar import Bar

    event_at = 0.0
    with Bar(name=name) as bar:
        while not upload.done:
            bar.show(upload.progress)
            if as_json and time.monotonic() >= event_at:
                event_at = time.monotonic() + EVENT_S
                output.event("progress", upload.progress.to_dict())
            upload.over.wait(FRAME_S)
        bar.show(upload.progress)
