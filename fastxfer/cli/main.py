"""`fastxfer COMMAND ...`: finds the command, and turns every way out into an exit status and one line.

A command is a module of this package with `run(arguments) -> int`; it is imported when it is called, so that
a small fetch does not pay for the others. Commands raise; lines and exit statuses of errors are made here.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

from fastxfer._version import __version__
from fastxfer.cli import output
from fastxfer.errors import FastxferError, InterruptedTransferError, OptionError, StorageError

COMMANDS = {
    "fetch": "fetch an object over many connections; goes on where an earlier run stopped",
    "put": "upload a file to an object store in parts; goes on where an earlier run stopped",
    "copy": "copy an object from one server to another, without touching the disk; goes on where it stopped",
    "mirror": "have a folder have what a source lists: a whole data set, again and again",
    "uploads": "list or abort the uploads that a store still holds parts of",
    "probe": "show what a server tells of an object",
    "verify": "hold a file against a checksum or its kept ledger, and repair what is damaged",
    "bench": "measure mirrors of an object fairly, and rank them",
    "queue": "a list of transfers that outlives its processes: add, import, list, run, pause, ...",
    "status": "show what is there of a target: complete, or how much and how to go on",
    "demo": "a local server, a fetch, a kill, a resume, a verified end",
}

USAGE = """\
usage: fastxfer COMMAND [OPTION...] [ARGUMENT...]
       fastxfer --version | --help | COMMAND --help

{commands}

Exit status: 0 ok, 1 other, 2 time-out, 3 not found, 5 too slow, 6 network, 7 interrupted (run it again to go
on), 8 cannot resume, 9 disk full, 13 exists, 17 I/O, 19 DNS, 22 bad response, 24 authorisation, 28 bad
option, 29 overloaded, 32 checksum, 33 remote changed.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    output.prepare()
    _end_on(signal.SIGTERM, signal.SIGHUP)
    try:
        code = _dispatch(given)
        output.flush()
    except FastxferError as error:
        code = _failed(error, given)
    except KeyboardInterrupt:
        code = _failed(InterruptedTransferError("stopped"), given)
    except SystemExit as end:  # argparse's, after --help
        code = end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:
        # Who read our output has gone; what else would be written is of no use to anyone.
        code = StorageError.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours is one line as well
        import traceback

        # The error's own text is left out, for nobody has looked at it for secrets.
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        code = _failed(FastxferError(f"internal error: {type(error).__name__} in {where}"), given)
    output.let_go()
    if arguments is None:
        gc.freeze()  # the process ends: what is left is not looked through once more, which takes 10 ms
    return code


def _dispatch(given: list[str]) -> int:
    command, rest = (given[0], given[1:]) if given else ("", [])
    if command in COMMANDS:
        return int(_imported(command).run(rest))
    if command in ("--version", "-V"):
        output.line(f"fastxfer {__version__}")
        return 0
    listed = "\n".join(f"  {name:<8} {about}" for name, about in COMMANDS.items())
    output.line(USAGE.format(commands=listed).rstrip())
    if command in ("--help", "-h", "help"):
        return 0
    # What was typed is not repeated: it may be a URL with a password.
    fault = "there is no such command" if command else "a command is missing"
    raise OptionError(f"{fault}; the commands are {', '.join(COMMANDS)}")


def _imported(command: str) -> ModuleType:
    """Imports a command, and all that it needs, without looking for garbage meanwhile: there is none. Nor is
    any ever among what was imported, which takes 2 ms to look through for the first time.
    """
    name = f"fastxfer.cli.{command}"
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _failed(error: FastxferError, given: list[str]) -> int:
    from fastxfer.cli.arguments import wants_json

    if wants_json(given):
        try:
            output.event("error", error.to_dict())
        except (OSError, StorageError):
            pass  # the exit status and the line on stderr still tell
    output.error_line(error)
    return error.exit_code


def _end_on(*signals: signal.Signals) -> None:
    """Has signals that end a program act like Ctrl-C, but for those that it was started to ignore."""
    for number in signals:
        try:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)
        except ValueError:
            return  # not the main thread: signals are someone else's


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
