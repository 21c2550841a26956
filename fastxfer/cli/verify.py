"""`fastxfer verify`: is a file still what was fetched, which ranges are not, and their repair. A folder that
a set was mirrored to is verify_set.py's.

Exit status: 0 the whole file holds, 7 a part file of which all holds so far, 8 there is nothing to verify
against, 32 damaged; errors have their own.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastxfer.api import OF_A_SET, verify
from fastxfer.cli import output
from fastxfer.cli.arguments import Option, Parser, switch, transfer_options, values
from fastxfer.cli.manner import shown
from fastxfer.errors import (
    CannotResumeError,
    ChecksumError,
    FastxferError,
    InterruptedTransferError,
    OptionError,
)
from fastxfer.verification import OF_A_FETCH
from fastxfer.verify_results import VerifyResult

if TYPE_CHECKING:
    pass

# More ranges than these are counted in the message, and listed with --json.
SHOWN_RANGES = 8

EPILOG = """\
Exit status: 0 the whole file holds, 7 all holds that a part file has so far, 8 nothing to verify against, 32
damaged. With --repair URL the damaged ranges are fetched; the file stands under its name again when all of it
holds. The options of the transfer are those of a repair. Of a set 0 means that all files are there with the
checksum, or else the size, that is known of them, 32 that some are damaged or missing.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser, checksum, options = make_parser()
    given = parser.parse(arguments, "paths")
    if len(given.paths) != 1:
        raise OptionError("a path is missing" if not given.paths else "only one path at a time can be given")
    path = given.paths[0]
    of_a_set = given.jobs or given.mark or given.export_manifest or given.export_sha256sums
    if os.path.isdir(path):
        from fastxfer.cli.verify_set import verify_set

        if given.repair or any(getattr(given, each.name) is not None for each in [*checksum, *options]):
            raise OptionError(f"{path} is a directory, and {OF_A_SET}: see --mark")
        return verify_set(path, given)
    if of_a_set:
        raise OptionError(
            "-j, --mark and the exports are of a set, and the path is no directory: none was mirrored to it"
        )
    as_json, quiet = switch("json", given.json), switch("quiet", given.quiet)
    network = values(options, given)
    with shown(path, not (as_json or quiet)) as show:
        result = verify(path, **values(checksum, given), repair=given.repair, progress=show, **network)
    return _tell(result, as_json=as_json, quiet=quiet)


def make_parser() -> tuple[Parser, list[Option], list[Option]]:
    """Returns the parser, the options of what a file must be, and those of a repair's transfer."""
    parser = Parser(
        "verify",
        "PATH [--checksum C] [--repair URL] [--json] [-q] [OPTION...]\n"
        "       fastxfer verify DEST [-j N] [--mark] [--export-manifest FILE] [--export-sha256sums FILE] ...",
        "Holds a file against a checksum, and against the ledger that fetch --keep-ledger left beside it; a\n"
        "part file against its checkpoint; each file of a set against the ledger of its folder.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="the file, or its .part; or DEST, where a set was mirrored to",
    )
    parser.add_argument("--repair", metavar="URL", help="fetch what is damaged from here")
    parser.add_switch("--json", help="one JSON object on stdout")
    parser.add_switch("-q", "--quiet", help="no output but errors")
    checksum = transfer_options(only={"checksum"})
    parser.add_options("what it must be", checksum)
    options = transfer_options(without=OF_A_FETCH)
    add_of_a_set(parser)
    parser.add_options("transfer", options)
    return parser, checksum, options


def add_of_a_set(parser: Parser) -> None:
    """Adds the options of a set."""
    group = parser.add_argument_group("a mirrored set")
    group.add_argument("-j", "--jobs", metavar="N", help="files that are read at once (default: one a core)")
    group.add_argument(
        "--mark",
        action="store_true",
        help="have the ledger remember what is damaged or missing: mirroring fetches it again",
    )
    group.add_argument(
        "--export-manifest", metavar="FILE", help="write a manifest in JSON lines of the files (- for stdout)"
    )
    group.add_argument(
        "--export-sha256sums",
        metavar="FILE",
        help="write the SHA-256 of the files (- for stdout); those not known yet are made, and kept",
    )


def _tell(result: VerifyResult, *, as_json: bool, quiet: bool) -> int:
    """Says what came out and returns the exit status; what is not whole and sound goes to stderr."""
    fault = fault_of(result)
    if as_json:
        output.event("result", result.to_dict())
    elif fault is None and not quiet:
        output.line(output.plain("; ".join([str(result), *result.notes])))
    if fault is None:
        return 0
    output.error_line(FastxferError(fault[0]))
    return fault[1]


def fault_of(result: VerifyResult) -> tuple[str, int] | None:
    """Returns message and exit status for a file that is not whole and sound, None for one that is."""
    words = "; ".join([str(result), *result.notes])
    if result.verified == "none":
        return words, CannotResumeError.exit_code
    if result.bad:
        shown = ", ".join(f"[{start}, {stop})" for start, stop in result.bad[:SHOWN_RANGES])
        more = len(result.bad) - SHOWN_RANGES
        rest = f" and {more} more (--json lists them)" if more > 0 else ""
        command = f"fastxfer verify {shlex.quote(result.path)} --repair URL"
        head, *notes = str(result), *result.notes
        return "; ".join([f"{head}: {shown}{rest}", *notes, f"to repair: {command}"]), ChecksumError.exit_code
    if result.missing:
        return words, InterruptedTransferError.exit_code
    return None
