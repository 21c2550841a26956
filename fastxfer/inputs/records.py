"""One record of a manifest, from a table, a line of JSON or a file of columns, made an entry or a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from json import loads
from typing import Any
from urllib.parse import urljoin, urlsplit

from fastxfer.errors import OptionError
from fastxfer.inputs.checksums import BY_LENGTH, url_below
from fastxfer.inputs.entry import Entry, Fault, Warnings, named, usable_urls
from fastxfer.options import parse_checksum
from fastxfer.sources.schemes import is_location
from fastxfer.units import MAX_SIZE

COLUMNS = ("url", "path", "size", "checksum", "mirrors", "mtime", "etag")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HEX = re.compile(r"[0-9A-Fa-f]{32,128}")
_DIGITS = re.compile(r"[0-9]{1,19}")


def entry_of(record: Mapping[str, Any], bases: Sequence[str], where: str) -> Entry:
    """Returns the entry of a record of a table. Raises OptionError."""
    path, url = _text(record, "path"), _text(record, "url")
    if not url and not (path and bases):
        raise OptionError(f"{where}: the record has no url" + ("" if path else ", and no path"))
    below = path.encode(errors="replace").decode()  # what is no Unicode is refused as a name
    own = tuple(url_below(base, below) for base in bases) if not url else ()
    others = [*_absolute(url, bases), *_mirrors(record.get("mirrors"))]
    if any(" " in each or not each.isprintable() for each in others):
        raise OptionError(f"{where}: a URL has a space or a control character in it: percent-encode it")
    checksum = _checksum(record.get("checksum"))
    return named(
        Entry(
            _usable(where, own, others),
            path,
            options={"checksum": checksum} if checksum else {},
            size=_size(record.get("size")),
            where=where,
            mtime=_mtime(record.get("mtime")),
            etag=_text(record, "etag") or None,
        )
    )


def _absolute(url: str, bases: Sequence[str]) -> list[str]:
    """Returns a record's URL, from each base where it is relative."""
    if not url or not bases or _SCHEME.match(url):
        return [url] if url else []
    try:
        return [urljoin(base, url) for base in bases]
    except ValueError:
        raise OptionError("a URL cannot be read: its host makes no sense") from None


def _usable(where: str, own: tuple[str, ...], others: list[str]) -> tuple[str, ...]:
    """Returns those URLs that can be fetched from. The caller's own may be of a store; the file's may not,
    for they would be asked with the caller's credentials.
    """
    stores = tuple(url for url in own if is_location(url))
    plain = [url for url in own if not is_location(url)] + others
    return stores + usable_urls(where, plain, Warnings()) if plain or not stores else stores


def told(make: Callable[[], Entry], record: Mapping[str, Any] | str, line: int) -> Entry | Fault:
    """Returns the entry that `make` returns, or its error as a fault of the record."""
    try:
        return make()
    except ValueError as error:
        reason = str(error).removeprefix(f"line {line}: ")
        return Fault(called(record), reason[:500], line)


def called(record: Mapping[str, Any] | str) -> str:
    """Returns how a record is called in messages: its path, else its URL without what may be secret."""
    if isinstance(record, Mapping):
        path, text = str(record.get("path") or ""), str(record.get("url") or "")
    else:
        path, text = "", record.strip().partition("\t")[0]
    if path or "://" not in text:
        return shown(path or text)
    try:
        parts = urlsplit(text)
        return shown(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
    except ValueError:
        return "a URL that cannot be read"


def shown(text: str) -> str:
    """Returns the beginning of an outside text, fit for a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:200])


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise OptionError(f"the {name} must be a text")
    return value if name == "path" else value.strip()


def _mirrors(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return list(value)
    raise OptionError("the mirrors must be URLs")


def _checksum(value: Any) -> dict[str, str]:
    if isinstance(value, str) and _HEX.fullmatch(value.strip()):
        algorithm = BY_LENGTH.get(len(value.strip()))
        if algorithm is None:
            raise OptionError("the checksum names no algorithm, and its length tells none")
        value = {algorithm: value.strip()}
    if not value:
        return {}
    if not isinstance(value, str | Mapping):
        raise OptionError('the checksum must be "sha256:HEX", or an object of such')
    return dict(parse_checksum(value))


def _size(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE:
        return value
    raise OptionError("the size must be a whole number of bytes")


def _mtime(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = _iso(value.strip())
    if isinstance(value, datetime):
        value = value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
        value = value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    raise OptionError("the mtime must be in seconds since 1970, or a date such as 2025-12-31T23:59:59Z")


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None


def object_of(text: str) -> Mapping[str, Any]:
    """Returns the object that a line of JSON is. Raises OptionError."""
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        raise OptionError("the line is no JSON") from None
    if not isinstance(value, dict):
        raise OptionError("the line is no JSON object")
    return value
