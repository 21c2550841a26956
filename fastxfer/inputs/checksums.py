"""SHA256SUMS and its kind: a digest and a name a line, as sha256sum(1) writes them, or as BSD and
`sha256sum --tag` do. The names are below a URL that the user gives.

    e3b0c442...  folder/name           (or " *name", which says that it was read as binary)
    SHA256 (folder/name) = e3b0c442...

A line that begins with a backslash has \\\\, \\n and \\r in its name escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry, Warnings, at, lines_of, usable_urls
from fastxfer.options import parse_checksum
from fastxfer.sources.schemes import is_location

_PLAIN = re.compile(r"(\\?)([0-9A-Fa-f]{32,}) [ *](.+)")
_TAGGED = re.compile(r"(\\?)([A-Za-z][A-Za-z0-9-]{1,15}) ?\((.+)\) ?= ?(\S+)")
_ESCAPE = re.compile(r"\\(.?)")
BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_MEANT = {"\\": "\\", "n": "\n", "r": "\r"}


def is_line(line: str) -> bool:
    """Returns whether a line is one of a file of checksums."""
    return bool(_PLAIN.fullmatch(line) or _TAGGED.fullmatch(line))


def read_checksums(text: str, warnings: Warnings, *, base_urls: Sequence[str]) -> list[Entry]:
    """Returns the entries of a file of checksums; each of `base_urls` has all of the files."""
    if not base_urls:
        raise OptionError(
            "a file of checksums has no URLs: say where its files are with base_url (--base-url URL)"
        )
    bases = usable_bases(base_urls, warnings)
    found = []
    for where, line in lines_of(text):
        if line.strip() and not line.startswith("#"):
            found.append(entry_of_line(where, line, bases))
    return found


def usable_bases(base_urls: Sequence[str], warnings: Warnings) -> tuple[str, ...]:
    """Returns base URLs, of object stores too, with a slash at their ends. Raises OptionError."""
    slashed = [base if base.endswith("/") else base + "/" for base in base_urls]
    return usable_urls("base_url", slashed, warnings, stores=True)


def url_below(base: str, name: str) -> str:
    """Returns the URL of a name below a base URL. Raises UnicodeError for a name that is not Unicode."""
    name.encode()
    return base + (name if is_location(base) else quote(name))


def entry_of_line(where: str, line: str, bases: Sequence[str]) -> Entry:
    """Returns the entry of one line. Raises OptionError."""
    plain, tagged = _PLAIN.fullmatch(line), _TAGGED.fullmatch(line)
    if plain is not None:
        escaped, digest, name = plain.groups()
        algorithm = BY_LENGTH.get(len(digest))
        if algorithm is None:
            raise OptionError(
                f"{where}: a digest of {len(digest)} hex digits is none of {', '.join(BY_LENGTH.values())}"
            )
    elif tagged is not None:
        escaped, algorithm, name, digest = tagged.groups()
    else:
        raise OptionError(f"{where}: is not a checksum and a name, such as sha256sum writes")
    try:
        ((algorithm, digest),) = parse_checksum({algorithm: digest})
        name = (_unescaped(name) if escaped else name).removeprefix("./")
        urls = tuple(url_below(base, name) for base in bases)
    except ValueError as error:
        raise at(where, error) from error
    return Entry(urls, name, options={"checksum": {algorithm: digest}}, where=where)


def _unescaped(name: str) -> str:
    def meant(match: re.Match[str]) -> str:
        if match[1] not in _MEANT:
            raise ValueError("the name has an escape that is none")
        return _MEANT[match[1]]

    return _ESCAPE.sub(meant, name)
