"""What is written, and where: results on stdout, one line an error on stderr, JSON lines when asked for.

Whatever comes from outside (file names, a server's words) loses its control characters first, so that it can
neither drive the terminal nor make two lines of one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from fastxfer.errors import FastxferError, InterruptedTransferError, PausedError, StorageError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def prepare() -> None:
    """Lets stdout take any file name: bytes that are not UTF-8 are written as escapes."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """Returns a text as one line without control characters."""
    return _CONTROL.sub(" ", text)


def line(text: str = "") -> None:
    """Writes to stdout. Raises StorageError, and BrokenPipeError when nobody reads it any more."""
    try:
        sys.stdout.write(text + "\n")  # in one call: a signal never comes between a line and its end
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def event(name: str, values: Mapping[str, Any]) -> None:
    """Writes one JSON object as a line to stdout. Raises as `line` does."""
    line(json.dumps({"event": name, **values}, default=str))


def flush() -> None:
    """Writes what is still buffered to stdout. Raises as `line` does."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def error_line(error: FastxferError) -> None:
    """Writes an error as its one line on stderr; does nothing when stderr is gone too."""
    if isinstance(error, InterruptedTransferError) and not isinstance(error, PausedError):
        what = "goes on where it stopped" if error.kept else "starts it again"
        message = f"stopped; the same command {what}"
    else:
        message = str(error)
    note(f"{message}{kept(error)}")


def kept(error: FastxferError) -> str:
    """Returns what an error's line says of what is kept, "" for nothing."""
    return f" (kept: {error.kept})" if error.kept else ""


def note(message: str) -> None:
    """Writes a line on stderr; does nothing when stderr is gone too."""
    try:
        print(plain(f"fastxfer: {message}"), file=sys.stderr, flush=True)
    except OSError:
        pass


def let_go() -> None:
    """Gives up what stdout could not take, or the interpreter would complain of it at its end."""
    try:
        flush()
    except (OSError, StorageError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _unwritable(error: OSError) -> StorageError:
    return StorageError(f"cannot write to the standard output: {error.strerror}", errno=error.errno)
