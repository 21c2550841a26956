"""The XML that object stores answer with, read into elements: hostile input, so size, depth and number are
capped and a document type is refused, which is what entities need.

Names count without their namespace: S3, OSS and the servers that speak as they do write different ones, or
none.
"""

from __future__ import annotations

import re
from dataclasses import field
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from fastxfer.errors import BadResponseError
from fastxfer.values import dataclass

MAX_BYTES = 16 << 20  # a page has 1000 entries, each of a key of 1 KiB, percent-encoded, and some more
MAX_DEPTH = 16
MAX_ELEMENTS = 100_000
_ENCODED = re.compile(r"(?:[\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(slots=True)
class Element:
    """An element: its name without a namespace, its text, and what is in it."""

    name: str
    text: str = ""
    inner: list[Element] = field(default_factory=list)

    def each(self, name: str) -> list[Element]:
        """Returns the elements of a name right below, in order."""
        return [element for element in self.inner if element.name == name]

    def find(self, name: str) -> str | None:
        """Returns the text of the first element of a name right below, without the white space around, or
        None.
        """
        first = next((element for element in self.inner if element.name == name), None)
        return None if first is None else first.text.strip(" \t\r\n")

    def raw(self, name: str) -> str:
        """Returns the text of the first element of a name right below, to the letter, "" for none."""
        return next((element.text for element in self.inner if element.name == name), "")

    def told(self, name: str) -> str:
        """Returns the text of an element that must be there. Raises BadResponseError."""
        text = self.find(name)
        if not text:
            raise BadResponseError(f"the store's answer {self.name[:40]!r} has no {name}")
        return text

    def number(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """Returns a whole number within bounds; `default`, if there is one, where it is absent or empty.
        Raises BadResponseError.
        """
        text = self.find(name)
        if not text and default is not None:
            return default
        if text and _NUMBER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        raise BadResponseError(f"the {name} in the store's answer is not a whole number, {least} to {most}")

    def flag(self, name: str) -> bool:
        """Returns whether an element says true. Raises BadResponseError for neither true nor false."""
        text = (self.find(name) or "false").lower()
        if text not in ("true", "false"):
            raise BadResponseError(f"the {name} in the store's answer is neither true nor false")
        return text == "true"


def read_xml(body: bytes, *, max_bytes: int = MAX_BYTES) -> Element:
    """Returns the root of a document in UTF-8. Raises BadResponseError for what is not one, or too much."""
    if len(body) > max_bytes:
        raise BadResponseError(f"the store's answer has more than {max_bytes} bytes")
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise BadResponseError(f"the store's answer is not XML: line {error.lineno}: {reason}") from error
    return reader.top.inner[0]


class _Reader:
    """Handlers of expat, which build the tree."""

    def __init__(self) -> None:
        self.top = Element("")
        self._open = [self.top]
        self._texts: list[list[str]] = [[]]
        self._count = 0
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data

    def _doctype(self, *_: object) -> None:
        raise BadResponseError("the store's answer has a document type (<!DOCTYPE), which is refused")

    def _start(self, tag: str, _given: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) > MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise BadResponseError("the store's answer has too many elements, or too deep ones")
        element = Element(tag.rpartition(" ")[2])
        self._open[-1].inner.append(element)
        self._open.append(element)
        self._texts.append([])

    def _end(self, _tag: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def _data(self, text: str) -> None:
        self._texts[-1].append(text)


def decoded_key(text: str, encoding: str | None, kind: str) -> str:
    """Returns a key as it is called, from a listing of a store of a kind whose EncodingType is "url" or none.

    S3 encodes as a form does: a plus is a space. Not so OSS, nor servers whose spaces are %20: with one of
    these beside it a plus is a plus. What no encoding leaves as it is, a space for one, shows that there was
    none, whatever the document says (SeaweedFS). Raises BadResponseError.
    """
    if not encoding or not _ENCODED.fullmatch(text):
        return text
    if encoding.lower() != "url":
        raise BadResponseError("the store's answer encodes keys in a way that is not known")
    if kind == "s3" and "%20" not in text:
        text = text.replace("+", " ")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise BadResponseError("the store's answer has a key that is not UTF-8") from error
