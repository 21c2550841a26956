"""Metalink 4 (RFC 5854) and Metalink 3: for each file its name, size, digests, digests of pieces, and URLs in
the order in which they are to be used.

Read by expat, element by element, without a tree. A document type is refused: it is what entities, and so
small files that become huge ones, need. Elements of other namespaces, and other means than HTTP, are passed
over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry, Pieces, Warnings, at, usable_urls
from fastxfer.options import DIGEST_HEX_LENGTHS, parse_checksum
from fastxfer.units import MAX_SIZE

V4 = "urn:ietf:params:xml:ns:metalink"
V3 = "http://www.metalinker.org/"
MAX_DEPTH = 64
LEAST_PRIORITY = 999999
# The best digest first: SHA-256 before SHA-512, which costs more and adds nothing here.
_BEST = ("sha256", "sha512", "sha1", "md5")
# What the elements of version 3 are in version 4's words: the same but for wrappers.
_WRAPPERS = {"files", "verification", "resources"}


@dataclass(slots=True)
class _File:
    where: str
    name: str
    size: int | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    urls: list[tuple[int, str]] = field(default_factory=list)
    piece_algorithm: str | None = None
    piece_length: int = 0
    pieces: list[str] = field(default_factory=list)


def read_metalink(text: str, warnings: Warnings) -> list[Entry]:
    """Returns the entries of a Metalink file."""
    if "<!DOCTYPE" in text:
        raise OptionError("the Metalink has a document type (<!DOCTYPE), which is refused")
    reader = _Reader()
    try:
        reader.read(text)
    except expat.ExpatError as error:
        raise OptionError(f"line {error.lineno}: not XML: {expat.errors.messages[error.code]}") from error
    return [_entry(file, warnings) for file in reader.files]


class _Reader:
    """Handlers of expat. `files` are those that were read."""

    def __init__(self) -> None:
        self.files: list[_File] = []
        self._path: list[str] = []
        self._text: list[str] | None = None
        self._given: dict[str, str] = {}
        self._namespace = ""
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data

    def read(self, text: str) -> None:
        """Reads a whole document. Raises OptionError and ExpatError."""
        self._parser.Parse(text.encode(), True)

    @property
    def _where(self) -> str:
        return f"line {self._parser.CurrentLineNumber}"

    def _start(self, tag: str, given: dict[str, str]) -> None:
        namespace, _, name = tag.rpartition(" ")
        if not self._path:
            if name != "metalink" or namespace not in (V3, V4):
                raise OptionError("not a Metalink: its root is not <metalink> of version 3 or 4")
            self._namespace = namespace
        if len(self._path) >= MAX_DEPTH:
            raise OptionError(f"{self._where}: elements within elements, more than {MAX_DEPTH} deep")
        known = namespace == self._namespace
        self._path.append(name if known else "")
        self._given, self._text = given, None
        match self._inner():
            case ["metalink", "file"]:
                self.files.append(_File(self._where, given.get("name", "")))
            case ["metalink", "file", "pieces"]:
                self._begin_pieces(given)
            case ["metalink", "file", "size" | "hash" | "url"] | ["metalink", "file", "pieces", "hash"]:
                self._text = []

    def _inner(self) -> list[str]:
        """Returns where it is, in the words of version 4; nothing for a wrapper itself."""
        if self._namespace == V4:
            return list(self._path)
        if self._path[-1] in _WRAPPERS:
            return []
        return [name for name in self._path if name not in _WRAPPERS]

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, _tag: str) -> None:
        text, self._text = "".join(self._text or ()).strip(), None
        inner = self._inner()
        self._path.pop()
        if len(inner) < 3 or inner[:2] != ["metalink", "file"]:
            return
        file = self.files[-1]
        match inner[2:]:
            case ["size"]:
                file.size = _number(self._where, "size", text, MAX_SIZE)
            case ["hash"]:
                algorithm = _algorithm(self._given.get("type", ""))
                if algorithm is not None:
                    file.hashes[algorithm] = _digest(self._where, algorithm, text)
            case ["pieces", "hash"] if file.piece_algorithm is not None:
                file.pieces.append(_digest(self._where, file.piece_algorithm, text))
            case ["url"] if self._given.get("type", "http") in ("http", "https"):
                file.urls.append((self._rank(), text))

    def _rank(self) -> int:
        """Returns the order of a URL: the lowest priority (4), or the highest preference (3), comes first."""
        if self._namespace == V4:
            given = self._given.get("priority")
            return (
                LEAST_PRIORITY if given is None else _number(self._where, "priority", given, LEAST_PRIORITY)
            )
        given = self._given.get("preference")
        return 101 if given is None else 100 - _number(self._where, "preference", given, 100)

    def _begin_pieces(self, given: dict[str, str]) -> None:
        file = self.files[-1]
        file.pieces = []
        file.piece_algorithm = _algorithm(given.get("type", ""))
        file.piece_length = _number(self._where, "length of pieces", given.get("length", ""), MAX_SIZE)
        if file.piece_length == 0:
            raise OptionError(f"{self._where}: pieces of no length")


def _number(where: str, what: str, text: str, most: int) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most:
        return int(text)
    raise OptionError(f"{where}: the {what} must be a whole number, at most {most}")


def _algorithm(name: str) -> str | None:
    plain = name.strip().lower().replace("-", "")
    return plain if plain in DIGEST_HEX_LENGTHS else None


def _digest(where: str, algorithm: str, text: str) -> str:
    try:
        return parse_checksum({algorithm: text})[0][1]
    except ValueError as error:
        raise at(where, error) from error


def _entry(file: _File, warnings: Warnings) -> Entry:
    if not file.name:
        raise OptionError(f"{file.where}: a file without a name")
    urls = [url for _, url in sorted(file.urls, key=lambda ranked: ranked[0])]
    best = next((name for name in _BEST if name in file.hashes), None) or next(iter(file.hashes), None)
    pieces = None
    if file.piece_algorithm is not None and file.pieces:
        pieces = Pieces(file.piece_algorithm, file.piece_length, tuple(file.pieces))
        if file.size is not None and len(pieces.digests) != -(-file.size // pieces.length):
            raise OptionError(f"{file.where}: {len(pieces.digests)} pieces do not make the file's size")
    return Entry(
        usable_urls(file.where, urls, warnings),
        file.name,
        options={} if best is None else {"checksum": {best: file.hashes[best]}},
        size=file.size,
        pieces=pieces,
        where=file.where,
    )
