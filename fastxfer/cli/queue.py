"""`fastxfer queue`: a list of transfers that outlives its processes."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from fastxfer.batch import Batch
from fastxfer.cli import output
from fastxfer.cli.arguments import (
    Parser,
    add_inputs,
    add_jobs,
    switch,
    target_options,
    transfer_options,
    values,
)
from fastxfer.cli.fetch import out_path
from fastxfer.cli.manner import Manner, add_manner
from fastxfer.cli.many import (
    Told,
    Watch,
    end,
    jobs_given,
    read_given,
    run_shown,
)
from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions
from fastxfer.queue import Queue, QueueItem
from fastxfer.queue.items import STATES

COMMANDS = {
    "add": "URL [MIRROR...] [-o OUT] [-d DIR]   put an object in line",
    "import": "FILE [-d DIR]   put in line what an input file names (see fetch -i)",
    "list": "[--state S]   show the items",
    "run": "[-j N]   fetch them, until none is left in line",
    "pause": "ID...|--all   have items rest, running ones too",
    "resume": "ID...|--all   put paused items back in line",
    "cancel": "ID...|--all   give items up, running ones too",
    "retry": "ID...|--all   put failed items back in line, cancelled ones by their id",
    "priority": "ID...|--all --to N   higher ones come first",
    "remove": "ID...|--all   take items out of the queue, with --all those that are done",
}

USAGE = """\
usage: fastxfer queue COMMAND [--queue PATH] [OPTION...] [ARGUMENT...]

{commands}

The queue is a file: --queue PATH, or FASTXFER_QUEUE, or fastxfer/queue.db in the user's state directory
(~/.local/state). It holds what was given as options, credentials too; only its owner can read it. Any number
of runners may share it. Exit status of run: 0 when nothing in the queue has failed, else that of what failed
first; 7 interrupted.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in _RUN:
        return _RUN[command](command, rest)
    listed = "\n".join(f"  {name:<8} {about}" for name, about in COMMANDS.items())
    output.line(USAGE.format(commands=listed).rstrip())
    if command in ("--help", "-h", "help"):
        return 0
    fault = "there is no such command" if command else "a command is missing"
    raise OptionError(f"queue: {fault}; the commands are {', '.join(COMMANDS)}")


def _parser(command: str) -> Parser:
    synopsis, _, about = COMMANDS[command].partition("   ")
    about = about[0].upper() + about[1:] + "."
    parser = Parser(f"queue {command}", f"{synopsis} [--queue PATH] [OPTION...]", about)
    parser.add_argument("words", metavar=synopsis.split()[0].strip("[]."), nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--queue", metavar="PATH", help="the queue's file (default: FASTXFER_QUEUE)")
    return parser


def _add(command: str, arguments: Sequence[str]) -> int:
    parser = _parser(command)
    _add_item_options(parser)
    parser.add_switch("--json", help="one JSON object on stdout")
    parser.add_switch("-q", "--quiet", help="no output but errors")
    targets, options = target_options(), transfer_options()
    parser.add_options("target", targets)
    parser.add_options("transfer", options)
    given = parser.parse(arguments, "words")
    if not given.words:
        raise OptionError("a URL is missing")
    chosen = values(options, given)
    url, *mirrors = given.words
    mirrors = mirrors or list(TransferOptions.build(mirrors=chosen.pop("mirrors", None)).mirrors)
    queue = Queue(given.queue)
    out = out_path(**values(targets, given))
    id = queue.add(
        url,
        out,
        mirrors=mirrors,
        priority=given.priority,
        paused=bool(given.paused),
        **chosen,
    )
    item = queue.item(id)
    if switch("json", given.json):
        output.event("result", item.to_dict())
    elif not switch("quiet", given.quiet):
        output.line(output.plain(f"item {id}: {item.path}"))
    return 0


def _import(command: str, arguments: Sequence[str]) -> int:
    parser = _parser(command)
    _add_item_options(parser)
    add_inputs(parser)
    add_manner(parser)
    targets = [each for each in target_options() if each.name == "dir"]
    options = transfer_options()
    parser.add_options("target", targets)
    parser.add_options("transfer", options)
    given = parser.parse(arguments, "words")
    if len(given.words) != 1:
        raise OptionError("a file is missing" if not given.words else "only one file at a time can be given")
    manner = Manner.of(given)
    found = read_given(given.words[0], given, manner)
    ids = Queue(given.queue).add_many(
        found.entries,
        values(targets, given).get("dir"),
        priority=given.priority,
        paused=bool(given.paused),
        **values(options, given),
    )
    return _say_changed("added", ids, as_json=manner.as_json, quiet=manner.quiet)


def _add_item_options(parser: Parser) -> None:
    parser.add_argument("--priority", metavar="N", default=0, help="higher ones come first (default: 0)")
    parser.add_switch("--paused", help="it rests until it is resumed")
    parser.add_insecure()


def _list(command: str, arguments: Sequence[str]) -> int:
    parser = _parser(command)
    parser.add_argument("--state", metavar="S", action="append", default=[], help=f"of {', '.join(STATES)}")
    parser.add_switch("--json", help="one JSON object an item on stdout, and a last one with the counts")
    given = parser.parse(arguments, "words")
    if given.words:
        raise OptionError("list takes no argument")
    items = Queue(given.queue).items(*given.state)
    if switch("json", given.json):
        for item in items:
            output.event("item", item.to_dict())
        output.event("result", {"items": len(items), **_counts(items)})
    else:
        for line in _table(items):
            output.line(output.plain(line))
    return 0


def _counts(items: Iterable[QueueItem]) -> dict[str, int]:
    found = Counter(item.state for item in items)
    return {state: found[state] for state in STATES}


def _table(items: Sequence[QueueItem]) -> Iterator[str]:
    if items:
        yield f"{'id':>4}  {'state':<9}  {'priority':>8}  {'done':>9}    {'size':<9}  file"
        yield from map(str, items)
    counts = [f"{count} {state}" for state, count in _counts(items).items() if count]
    yield ", ".join(counts) or "no items"


def _change(command: str, arguments: Sequence[str]) -> int:
    parser = _parser(command)
    parser.add_switch("--all", help="all items that this can be done with")
    parser.add_switch("--json", help="one JSON object on stdout")
    parser.add_switch("-q", "--quiet", help="no output but errors")
    if command == "priority":
        parser.add_argument("--to", metavar="N", help="the new priority")
    given = parser.parse(arguments, "words")
    if bool(given.words) == bool(given.all):
        raise OptionError("name the items by their ids, or --all")
    ids = None if given.all else [_id(word) for word in given.words]
    queue = Queue(given.queue)
    if command == "priority":
        if given.to is None:
            raise OptionError("the new priority is missing: --to N")
        changed = queue.set_priority(ids, given.to)
    else:
        changed = getattr(queue, command)(ids)
    return _say_changed(
        _DONE[command], changed, as_json=switch("json", given.json), quiet=switch("quiet", given.quiet)
    )


_DONE = {
    "pause": "paused",
    "resume": "resumed",
    "cancel": "cancelled",
    "retry": "in line again",
    "priority": "changed",
    "remove": "removed",
}


def _say_changed(what: str, ids: Sequence[int], *, as_json: bool, quiet: bool) -> int:
    if as_json:
        output.event("result", {"change": what, "ids": list(ids)})
    elif not quiet:
        output.line(
            f"{len(ids)} item{'' if len(ids) == 1 else 's'} {what}{': ' if ids else ''}{_ranges(ids)}"
        )
    return 0


def _ranges(ids: Sequence[int]) -> str:
    """Returns ids as people write them: 1-3, 7."""
    spans: list[list[int]] = []
    for id in sorted(ids):
        if spans and spans[-1][1] == id - 1:
            spans[-1][1] = id
        else:
            spans.append([id, id])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def _id(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise OptionError("an item's id is a number: fastxfer queue list shows them")
    return int(word)


def _run(command: str, arguments: Sequence[str]) -> int:
    parser = _parser(command)
    add_jobs(parser)
    add_manner(parser)
    given = parser.parse(arguments, "words")
    if given.words:
        raise OptionError("run takes no argument: it fetches all that is in line")
    manner, jobs = Manner.of(given), jobs_given(given)
    queue = Queue(given.queue)

    def make(watch: Watch | None, told: Told) -> AbstractContextManager[Batch]:
        return queue.runner(jobs, watch=watch, told=told)

    result = run_shown(make, manner)
    return end(result, manner, _exit_code(queue))


def _exit_code(queue: Queue) -> int:
    """Returns 0 when nothing in the queue has failed, else the exit status of what failed first."""
    failed = sorted(queue.items("failed"), key=lambda item: (item.ended or 0.0, item.id))
    codes: list[Any] = [(item.error or {}).get("exit_code") for item in failed]
    return next((code for code in codes if isinstance(code, int) and 0 < code < 126), 0 if not failed else 1)


_RUN: dict[str, Callable[[str, Sequence[str]], int]] = {
    "add": _add,
    "import": _import,
    "list": _list,
    "run": _run,
    **dict.fromkeys(_DONE, _change),
}
