"""One object of a data set as its source lists it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry as Input
from fastxfer.names import folded, safe_path
from fastxfer.options import merged_options, parse_checksum, told_to_all

OWN_FOLDER = ".fastxfer"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a data set.

    Attributes:
        path: its safe path below the destination.
        url: where it is. It may hold secrets.
        mirrors: other URLs of it.
        size: bytes, or None where the source does not tell exactly.
        mtime: when it was changed, seconds since 1970, or None.
        mtime_exact: whether `mtime` is in UTC and to the second. An index that shows minutes, of a clock that
            it does not name, is of use only against what the same index has shown before.
        etag: the validator, as HTTP has it, quotes included.
        checksums: (algorithm, hex digest) pairs.
        shown: what the source says of the size where that is not exact ("1.2K").
        options: keywords of `fetch` for it alone.
        line: its place in what was read, 0 where there is none.
        stranger: whether it is at another origin than the source that names it: it gets none of the caller's
            secrets.
    """

    path: str
    url: str
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    mtime: float | None = None
    mtime_exact: bool = True
    etag: str | None = None
    checksums: tuple[tuple[str, str], ...] = ()
    shown: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0
    stranger: bool = False

    @classmethod
    def of_input(cls, given: Input, line: int = 0) -> Entry:
        """Returns what an entry of an input file is here; its name is checked. Raises OptionError."""
        options = {name: value for name, value in given.options.items() if name != "checksum"}
        checksums = parse_checksum(given.options.get("checksum"))
        return cls(
            checked_path(given.name),
            given.urls[0],
            given.urls[1:],
            given.size,
            given.mtime,
            etag=given.etag,
            checksums=checksums,
            options=options,
            line=line,
        )


def checked_path(name: str) -> str:
    """Returns an outside name if it is a safe path below a destination, unchanged. Raises OptionError."""
    first = safe_path(name)[0]
    if folded(first) == OWN_FOLDER:
        raise OptionError(f"{name[:80]!r} is not safe as a path: {OWN_FOLDER!r} is where the ledger is")
    return name


def options_of(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keywords of `fetch` for an entry; `given` are those of all."""
    return merged_options(told_to_all(given) if entry.stranger else given, entry.options)
