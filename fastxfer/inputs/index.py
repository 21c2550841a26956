"""A server's index of a folder: the page that nginx, Apache, lighttpd, Caddy, Python's http.server and their
kind write, and nginx's and Caddy's JSON. Read piece by piece, in memory that does not grow with the page.

All is taken from the links' targets; what is shown of a name may be cut off. A link counts when it leads to a
child of the page: one more component, of the same origin, without a query. Whatever else is on a page (the
parent, links that sort, other hosts, scripts, deeper links) is passed over. A child whose name is not safe is
a fault: it is named, and the others are read.

Next to a link stand its time and its size, as

    21-Nov-2026 15:54                 1234      nginx; "121K" where it was told to round
    2026-11-21 15:54  121K                      Apache
    2026-Nov-21 15:54:29</td><td>120.5K         lighttpd
    data-size="1234" ... <time datetime="2026-11-21T15:54:29Z">      Caddy

A size counts when it is a whole number of bytes, else it is kept as it is shown. Only a time with a zone is
an exact one: of the others nobody knows which clock they are of.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from json import JSONDecodeError, JSONDecoder
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from fastxfer.errors import BadResponseError, OptionError
from fastxfer.inputs.entry import Fault
from fastxfer.names import safe_name
from fastxfer.units import MAX_SIZE

MAX_PENDING = 64 * 1024
"""Characters that may be undecided: of a tag, or of an object of JSON, that does not end."""
MAX_TEXT = 512
_SAFE = "!$&'()*+,;=:@~-._%"
_MONTHS = ["", *"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()]  # noqa: SIM905
_TIME = re.compile(
    r"(?:(?P<y>\d{4})-(?P<m>\d{2}|[A-Z][a-z]{2})-(?P<d>\d{2})"
    r"|(?P<d2>\d{2})-(?P<m2>[A-Z][a-z]{2})-(?P<y2>\d{4}))"
    r"[ T](?P<h>\d{2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:\.\d+)?)?(?P<zone>Z|[+-]00:00)?",
    re.ASCII,
)
_SIZE = re.compile(r"\s*(?P<number>\d{1,19})(?P<rest>(?:\.\d+)?\s?[KMGTPE]?i?B?)(?![\w.])", re.ASCII)
_ORDINARY = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=@-]+/?")
_ROW_ENDS = {"tr", "li", "pre", "ul", "table", "tbody"}


@dataclass(frozen=True, slots=True)
class Child:
    """What an index says of one thing in its folder.

    Attributes:
        name: one safe component.
        url: where it is; of a folder it ends in a slash.
        folder: whether it is one.
        size: bytes, where they are told exactly; else `shown` is what is told.
        mtime, mtime_exact: seconds since 1970, and whether that is in UTC and to the second.
    """

    name: str
    url: str
    folder: bool
    size: int | None = None
    mtime: float | None = None
    mtime_exact: bool = False
    shown: str = ""


Found = Child | Fault


class IndexReader:
    """Reads the index at `url`, which ends in a slash. `feed` and `close` give what was decided meanwhile;
    both raise BadResponseError for what no index is.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._reader: _Html | _Json | None = None
        self._blank = 0

    def feed(self, text: str) -> Iterator[Found]:
        """Takes a piece of the page."""
        if self._reader is None:
            text = text.lstrip("\ufeff \t\r\n")
            if not text:
                return iter(())
            self._reader = (_Json if text[0] == "[" else _Html)(_Links(self._url))
        return self._reader.read(text)

    def close(self) -> Iterator[Found]:
        """Takes the end of the page."""
        return iter(()) if self._reader is None else self._reader.end()


class _Links:
    """Which targets are children of a page."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.path.endswith("/"):
            raise ValueError("the URL of an index ends in a slash")
        self._url, self._origin = url, (parts.scheme, parts.netloc)
        self._base, self._path = url[: len(url) - len(parts.query) - bool(parts.query)], _plain(parts.path)

    def child(self, href: str) -> Found | None:
        """Returns the child that a link leads to, or what is wrong with it; None for any other link."""
        href = href.strip()
        if not href or href[0] in "#?":
            return None
        if _ORDINARY.fullmatch(href) and href.rstrip("/") not in (".", ".."):
            return self.below(_plain(href))  # what nearly all are, at half the price
        try:
            parts = urlsplit(urljoin(self._url, href))
        except ValueError:
            return None
        path = _plain(parts.path)
        if (parts.scheme, parts.netloc) != self._origin or parts.query or not path.startswith(self._path):
            return None
        return self.below(path[len(self._path) :])

    def below(self, rest: str) -> Found | None:
        """Returns the child of a percent-encoded relative path; None for the page itself and what is deeper
        and harmless.
        """
        folder = rest.endswith("/")
        rest = rest.removesuffix("/")
        if not rest:
            return None
        try:
            names = [safe_name(unquote(part, errors="strict")) for part in rest.split("/")]
        except UnicodeDecodeError:
            return Fault(rest[:200], "the name is not UTF-8")
        except OptionError as error:
            return Fault(rest[:200], error.message)
        if len(names) > 1:
            return None
        return Child(names[0], self._base + rest + "/" * folder, folder)


def _plain(path: str) -> str:
    """Returns a path in the one spelling in which two can be compared: nothing decoded that has a meaning."""
    encoded = quote(path, safe="/" + _SAFE, errors="replace")
    return re.sub(r"%[0-9A-Fa-f]{2}", lambda match: _letter(match[0]), encoded)


def _letter(code: str) -> str:
    letter = chr(int(code[1:], 16))
    return letter if letter.isascii() and (letter.isalnum() or letter in "-_~") else code.upper()


class _Html(HTMLParser):
    """The HTML of an index: a child, and then what is told of it until its row ends."""

    def __init__(self, links: _Links) -> None:
        super().__init__(convert_charrefs=True)
        self._links = links
        self._found: list[Found] = []
        self._child: Child | None = None
        self._in_link = False
        self._text = ""
        self._size: str | None = None
        self._time: str | None = None

    def read(self, text: str) -> Iterator[Found]:
        self.feed(text)
        if len(self.rawdata) > MAX_PENDING:
            raise BadResponseError("the page is no index: something on it does not end")
        return self._taken()

    def end(self) -> Iterator[Found]:
        self.close()
        self._finish()
        return self._taken()

    def _taken(self) -> Iterator[Found]:
        found, self._found = self._found, []
        return iter(found)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self._begin(given.get("href") or "")
        elif self._child is not None:
            if given.get("data-size"):
                self._size = self._size or given["data-size"]
            if tag == "time":
                self._time = self._time or given.get("datetime")
            if tag == "hr":
                self._finish()

    def _begin(self, href: str) -> None:
        self._in_link = True
        found = self._links.child(href)
        if isinstance(found, Child) and self._child is not None and found.url == self._child.url:
            return  # its icon was a link too
        self._finish()
        if isinstance(found, Fault):
            self._found.append(found)
        else:
            self._child = found

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._in_link = False
        elif tag in _ROW_ENDS:
            self._finish()
        elif tag == "td":
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        if self._child is not None and not self._in_link and len(self._text) < MAX_TEXT:
            self._text += data[:MAX_TEXT]

    def _finish(self) -> None:
        """The row of a child has ended."""
        child, text, size, time = self._child, self._text, self._size, self._time
        self._child, self._text, self._size, self._time = None, "", None, None
        if child is not None:
            told = _told(text) if size is None and time is None else _marked(size, time)
            self._found.append(_with(child, told))


@dataclass(frozen=True, slots=True)
class _Told:
    size: int | None = None
    mtime: float | None = None
    exact: bool = False
    shown: str = ""


def _with(child: Child, told: _Told) -> Child:
    if child.folder:
        return child
    return Child(child.name, child.url, False, told.size, told.mtime, told.exact, told.shown)


def _told(text: str) -> _Told:
    """Returns what the text beside a link tells: a time, and after it perhaps a size."""
    found = _TIME.search(text)
    if found is None:
        return _Told()
    mtime = _seconds(found)
    size = _SIZE.match(text, found.end())
    if size is None:
        return _Told(None, mtime)
    if size["rest"].strip():
        return _Told(None, mtime, shown=(size["number"] + size["rest"]).strip())
    return _Told(_bytes(size["number"]), mtime)


def _marked(size: str | None, time: str | None) -> _Told:
    """Returns what attributes tell, which are there for programs."""
    found = _TIME.fullmatch(time.strip()) if time else None
    mtime = _seconds(found) if found is not None else None
    exact = found is not None and bool(found["zone"]) and found["s"] is not None
    return _Told(_bytes(size) if size else None, mtime, exact and mtime is not None)


def _bytes(text: str) -> int | None:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if int(text) <= MAX_SIZE else None


def _seconds(found: re.Match[str]) -> float | None:
    year, month, day = found["y"] or found["y2"], found["m"] or found["m2"], found["d"] or found["d2"]
    number = int(month) if month.isdigit() else _MONTHS.index(month) if month in _MONTHS else 0
    hour, minute, second = int(found["h"]), int(found["mi"]), int(found["s"] or 0)
    if not (1 <= number <= 12 and 1 <= int(day) <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    if int(year) < 1:
        return None
    return float(timegm((int(year), number, int(day), hour, minute, second)))


class _Json:
    """A list of objects, which are read one by one: {"name", "type" or "is_dir", "mtime" or "mod_time",
    "size"}.
    """

    def __init__(self, links: _Links) -> None:
        self._links = links
        self._decoder = JSONDecoder()
        self._text = ""
        self._begun = self._ended = False

    def read(self, text: str) -> Iterator[Found]:
        self._text += text
        return iter(list(self._objects()))

    def end(self) -> Iterator[Found]:
        if not self._ended:
            raise BadResponseError("the index's JSON is cut off")
        return iter(())

    def _objects(self) -> Iterator[Found]:
        at = 0
        while not self._ended:
            at = _past(self._text, at, " \t\r\n," if self._begun else " \t\r\n[")
            self._begun = self._begun or at > 0
            if at == len(self._text):
                break
            if self._text[at] == "]":
                self._ended = True
                break
            try:
                item, at = self._decoder.raw_decode(self._text, at)
            except (JSONDecodeError, RecursionError) as error:
                if len(self._text) - at > MAX_PENDING or isinstance(error, RecursionError):
                    raise BadResponseError("the page is no index: its JSON cannot be read") from error
                break
            found = self._found(item)
            if found is not None:
                yield found
        self._text = "" if self._ended else self._text[at:]

    def _found(self, item: Any) -> Found | None:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            raise BadResponseError("the page is no index: its JSON has something that is no entry")
        name = item["name"].removesuffix("/")
        folder = item.get("type") == "directory" or item.get("is_dir") is True
        if not folder and item.get("type", "file") != "file":
            return None
        if "/" in name:
            return Fault(name[:200], "the name holds a slash")
        try:
            found = self._links.below(quote(name, safe="", errors="strict") + "/" * folder)
        except UnicodeEncodeError:
            return Fault(ascii(name)[:200], "the name is not Unicode")
        return _with(found, _of_object(item)) if isinstance(found, Child) else found


def _past(text: str, at: int, spaces: str) -> int:
    while at < len(text) and text[at] in spaces:
        at += 1
    return at


def _of_object(item: Mapping[str, Any]) -> _Told:
    size, when = item.get("size"), item.get("mtime", item.get("mod_time"))
    told = _marked(None, when if isinstance(when, str) and when[:1].isdigit() else None)
    mtime, exact = told.mtime, told.exact
    if isinstance(when, str) and mtime is None:
        try:
            mtime, exact = parsedate_to_datetime(when).timestamp(), when.endswith("GMT")
        except (ValueError, TypeError, IndexError, OverflowError):
            pass
    whole = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_SIZE
    return _Told(size if whole else None, mtime, exact)
