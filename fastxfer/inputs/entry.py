"""What an input file says: entries, each an object with its URLs, its name and its options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from fastxfer.errors import OptionError
from fastxfer.names import check_collisions, name_of_url, safe_path
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.schemes import is_location

MAX_INPUT_BYTES = 64 * 1024**2
SHOWN_WARNINGS = 20
_LINE = re.compile(r"[^\n]+")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Digests of the stretches of `length` bytes that an object consists of, in lower-case hex, in order."""

    algorithm: str
    length: int
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of an input file.

    Attributes:
        urls: where it is, the best first; the others are mirrors. They may hold secrets.
        name: the safe path, with folders, that it is to have below the target's directory.
        directory: an absolute directory in place of the target's, where such were allowed.
        options: keywords of `fetch`, checked.
        size: bytes that it must have, or None where the file does not tell.
        pieces: what a Metalink says of its pieces.
        paused: it is not to be fetched before it is asked for.
        mtime, etag: when it was changed, in seconds since 1970, and its validator, where the file tells.
        where: "line 3", for messages.
    """

    urls: tuple[str, ...]
    name: str = ""
    directory: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    pieces: Pieces | None = None
    paused: bool = False
    where: str = ""
    mtime: float | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a list names and that cannot be used: by what it is called there, why, and in which
    line (0: it has none). It may stand in a report, so there is no secret in it.
    """

    name: str
    reason: str
    line: int = 0


class Warnings:
    """Faults that do not matter enough to refuse a file: each said once, with the line where it came first,
    however often it occurs.
    """

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def add(self, where: str, text: str) -> None:
        """Notes a fault."""
        self._first.setdefault(text, where)

    def lines(self) -> tuple[str, ...]:
        """Returns a line each, the first ones where there are very many."""
        said = [f"{where}: {text}" for text, where in list(self._first.items())[:SHOWN_WARNINGS]]
        more = len(self._first) - len(said)
        return (*said, f"and {more} more of such") if more > 0 else tuple(said)


def at(where: str, error: Exception) -> OptionError:
    """Returns an error with the place in the file in front of it."""
    return OptionError(f"{where}: {error}")


def lines_of(text: str) -> Iterator[tuple[str, str]]:
    """Gives the lines of a text that are not empty, with their places and without their ends, Unix's or
    Windows's.
    """
    number, pos = 1, 0
    for match in _LINE.finditer(text):
        number += text.count("\n", pos, match.start())
        pos = match.start()
        yield f"line {number}", match[0].removesuffix("\r")


def usable_urls(
    where: str, urls: Iterable[str], warnings: Warnings, *, stores: bool = False
) -> tuple[str, ...]:
    """Returns those URLs that can be fetched from, each once; with `stores` those of object stores too, which
    are asked with the user's credentials: not where the file may be somebody else's. Raises OptionError when
    none can, or one of a store cannot be read.
    """
    found: dict[str, None] = {}
    schemes = []
    for url in urls:
        if stores and is_location(url):
            found[str(_location(where, url))] = None
            continue
        try:
            scheme = urlsplit(url).scheme.lower()
        except ValueError:
            raise OptionError(f"{where}: a URL cannot be read: its host makes no sense") from None
        if scheme in ("http", "https"):
            found[url] = None
        else:
            schemes.append(f"scheme {scheme[:20]!r}" if scheme else "a URL without a scheme")
    if not found:
        what = schemes[0] if schemes else "no URL"
        more = ", s3:// or oss://" if stores else ""
        begins = f"http://{',' if more else ' or'} https://{more}"
        raise OptionError(f"{where}: {what}: an object needs a URL that begins with {begins}")
    for each in schemes:
        warnings.add(where, f"{each} is not supported; the object is fetched from its other URLs")
    return tuple(found)


def _location(where: str, url: str) -> Location:
    try:
        return parse_location(url)
    except OptionError as error:
        raise at(where, error) from error


def finished(entries: Sequence[Entry], warnings: Warnings) -> tuple[Entry, ...]:
    """Returns the entries with safe names that can stand side by side; what repeats an earlier one is left
    out. Raises OptionError that names the line.
    """
    once: dict[str, Entry] = {}
    for entry in map(named, entries):
        key = repr((entry.urls, entry.name, entry.directory, sorted(entry.options.items())))
        if key in once:
            warnings.add(entry.where, f"repeats {once[key].where}")
        once.setdefault(key, entry)
    found = tuple(once.values())
    for directory in {entry.directory for entry in found}:
        _check_collisions([entry for entry in found if entry.directory == directory])
    return found


def named(entry: Entry) -> Entry:
    """Returns an entry with its name, its URL's if it has none. Raises OptionError for one that is not
    safe.
    """
    try:
        name = entry.name
        if not name or name.endswith("/"):
            name += name_of_url(entry.urls[0])
        safe_path(name)
    except (OptionError, ValueError) as error:
        raise at(entry.where, error) from error
    return replace(entry, name=name)


def _check_collisions(entries: Sequence[Entry]) -> None:
    """Raises OptionError that names the first entry that cannot stand beside the ones before it."""

    def fault(count: int) -> OptionError | None:
        try:
            check_collisions(entry.name for entry in entries[:count])
        except OptionError as error:
            return error
        return None

    first = fault(len(entries))
    if first is None:
        return
    good, bad = 0, len(entries)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fault(middle) is None else (good, middle)
    raise at(entries[bad - 1].where, fault(bad) or first)
