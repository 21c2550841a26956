"""`fastxfer verify DEST`: are the files of a mirrored set still what was fetched."""

from __future__ import annotations

import argparse
import shlex
import threading
from collections.abc import Iterator
from functools import partial

from fastxfer.cli import output
from fastxfer.cli.arguments import switch
from fastxfer.cli.manner import shown
from fastxfer.cli.signals import stop_on_signals
from fastxfer.dataset.exports import save
from fastxfer.dataset.verifying import Lines, SetVerification
from fastxfer.errors import ChecksumError, FastxferError, InterruptedTransferError, OptionError
from fastxfer.progress.reporter import report
from fastxfer.verify_results import SetVerifyResult

# More files than these are counted in the words, and named with --json.
SHOWN_FILES = 20


def verify_set(dest: str, given: argparse.Namespace) -> int:
    """Runs the command for a set. Raises FastxferError."""
    as_json, quiet = switch("json", given.json), switch("quiet", given.quiet)
    exports = _exports(given, as_json)
    verification = SetVerification(dest, jobs=_number(given.jobs), mark=given.mark, exports=exports)
    stop_on_signals(verification.cancel)
    with shown(dest, not (as_json or quiet)) as show:
        reporter: threading.Thread | None = report(verification, show) if show is not None else None
        try:
            result = verification.run()
        finally:
            if reporter is not None:
                reporter.join()
    if as_json:
        output.event("result", result.to_dict())
    elif result.ok and not quiet:
        say = output.note if "-" in (given.export_manifest, given.export_sha256sums) else output.line
        say(output.plain(str(result)))
    if result.ok:
        return 0
    if not as_json:
        _name_files(result)
    output.error_line(FastxferError(_summary(result, verification.source)))
    return InterruptedTransferError.exit_code if result.interrupted else ChecksumError.exit_code


def _number(jobs: str | None) -> int | None:
    try:
        return None if jobs is None else int(jobs)
    except ValueError as error:
        raise OptionError("-j/--jobs: must be a whole number") from error


def _exports(given: argparse.Namespace, as_json: bool) -> dict[str, Lines]:
    """Returns what takes the lines of each export that is wanted."""
    files = {"manifest": given.export_manifest, "sha256sums": given.export_sha256sums}
    wanted = {name: file for name, file in files.items() if file is not None}
    if list(wanted.values()).count("-") + as_json > 1 and "-" in wanted.values():
        raise OptionError("only one thing can be written to the standard output")
    takers: dict[str, Lines] = {}
    for name, file in wanted.items():
        takers[name] = _print if file == "-" else partial(save, path=file)
    return takers


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        output.line(line.removesuffix("\n"))


def _name_files(result: SetVerifyResult) -> None:
    named = [f"{path}: damaged: {why}" for path, why in result.damaged]
    named += [f"{path}: missing" for path in result.missing]
    for each in named[:SHOWN_FILES]:
        output.note(each)
    more = result.damaged_count + result.missing_count - SHOWN_FILES
    if more > 0:
        output.note(f"and {more} more (--json names {len(named)})")


def _summary(result: SetVerifyResult, source: str) -> str:
    """Returns what is wrong with a set, and what mends it."""
    if not (result.damaged_count or result.missing_count):
        return str(result)
    dest = shlex.quote(result.path)
    mirror = f"fastxfer mirror {shlex.quote(source) if source else 'SOURCE'} {dest}"
    how = mirror if result.marked else f"fastxfer verify {dest} --mark, then {mirror}"
    return f"{result}; to mend: {how}"
