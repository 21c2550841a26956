"""Metalink 4 (RFC 5854) and Metalink 3: for each file its name, size, digests, digests of pieces, and URLs in
the order in which they are to be used.

Read by expat, element by element, without a tree. A document type is refused: it is what entities, and so
small files that become huge ones, need. Elements of other namespaces, and other means than HTTP, are passed
over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry, Pieces, Warnings, at, usable_urls
from fastxfer.options import DIGEST_HEX_LENGTHS, parse_checksum
from fastxfer.units import MAX_SIZE

V4 = "urn:ietf:params:xml:ns:metalink"
V3 = "http://www.metalinker.org/"
MAX_DEPTH = 64
MAX_TEXT = 64 * 1024
MAX_URLS = 10_000
MAX_PIECES = 1_000_000
LEAST_PRIORITY = 999999
# The best digest first: SHA-256 before SHA-512, which costs more and adds nothing here.
_BEST = ("sha256", "sha512", "sha1", "md5")
# What the elements of version 3 are in version 4's words: the same but for wrappers.
_WRAPPERS = {"files", "verification", "resources"}


@dataclass(slots=True)
class MetalinkFile:
    """One file of a Metalink, as it is read."""

    where: str
    name: str
    size: int | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    urls: list[tuple[int, str]] = field(default_factory=list)
    piece_algorithm: str | None = None
    piece_length: int = 0
    pieces: list[str] = field(default_factory=list)
    fault: OptionError | None = None

    def entry(self, warnings: Warnings) -> Entry:
        """Returns its entry. Raises OptionError."""
        if self.fault is not None:
            raise self.fault
        return _entry(self, warnings)


def read_metalink(text: str, warnings: Warnings) -> list[Entry]:
    """Returns the entries of a Metalink file."""
    reader = MetalinkReader()
    reader.feed(text.encode(), last=True)
    return [file.entry(warnings) for file in reader.taken()]


class MetalinkReader:
    """Reads a document piece by piece: `feed` it, and take the files that were read to their ends. What is
    wrong with one file is told when its entry is asked for; only what is no Metalink ends the reading.
    """

    def __init__(self) -> None:
        self._files: list[MetalinkFile] = []
        self._open: MetalinkFile | None = None
        self._length = 0
        self._path: list[str] = []
        self._text: list[str] | None = None
        self._given: dict[str, str] = {}
        self._namespace = ""
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.StartDoctypeDeclHandler = _refuse_doctype

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Takes a piece of the document, in UTF-8. Raises OptionError."""
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise OptionError(f"line {error.lineno}: not XML: {expat.errors.messages[error.code]}") from error

    def taken(self) -> list[MetalinkFile]:
        """Returns the files that were read since the last call."""
        files, self._files = self._files, []
        return files

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
                self._open = MetalinkFile(self._where, given.get("name", ""))
            case ["metalink", "file", "pieces"]:
                self._guarded(lambda: self._begin_pieces(given))
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
            self._length += len(text)
            if self._length > MAX_TEXT:
                raise OptionError(f"{self._where}: an element has a text of over {MAX_TEXT} characters")
            self._text.append(text)

    def _end(self, _tag: str) -> None:
        text, self._text, self._length = "".join(self._text or ()).strip(), None, 0
        inner = self._inner()
        self._path.pop()
        if inner == ["metalink", "file"] and self._open is not None:
            self._files.append(self._open)
            self._open = None
        elif inner[:2] == ["metalink", "file"]:
            self._guarded(lambda: self._told(inner[2:], text))

    def _guarded(self, read: Callable[[], object]) -> None:
        """Keeps what is wrong with a file for when it is asked for."""
        try:
            read()
        except OptionError as error:
            if self._open is not None:
                self._open.fault = self._open.fault or error

    def _told(self, inner: list[str], text: str) -> None:
        file = self._open
        assert file is not None
        if len(file.urls) > MAX_URLS or len(file.pieces) > MAX_PIECES:
            raise OptionError(f"{self._where}: a file of too many URLs or pieces")
        match inner:
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
        file = self._open
        assert file is not None
        file.pieces = []
        file.piece_algorithm = _algorithm(given.get("type", ""))
        file.piece_length = _number(self._where, "length of pieces", given.get("length", ""), MAX_SIZE)
        if file.piece_length == 0:
            raise OptionError(f"{self._where}: pieces of no length")


def _refuse_doctype(*_: object) -> None:
    raise OptionError("the Metalink has a document type (<!DOCTYPE), which is refused")


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


def _entry(file: MetalinkFile, warnings: Warnings) -> Entry:
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
