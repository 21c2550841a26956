"""Manifests of any length, read record by record: CSV, TSV, JSON lines, and the lists that `parse` reads
whole (checksums, aria2's and plain lists, Metalink).

A table has the columns url, path, size, checksum, mirrors, mtime and etag, in any order; others are passed
over. `url` may be missing where there is a base URL, the path below it is; or it may be relative to that.
`path` may be missing: the URL's last component is. A checksum is "sha256:HEX", or an object of such; mirrors
are a list, or URLs with spaces between them; mtime is in seconds since 1970, or a date of ISO 8601, in UTC
where it names no zone.

What is wrong with a record is a `Fault`, and the next one is read. Only what makes the rest unreadable, XML
that is none, a table without a column that is needed, is an OptionError.

`Position` is where a reading can go on: at a byte, and the line there, or where a format cannot be entered in
the middle, by the number of its records.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from fastxfer.errors import OptionError
from fastxfer.inputs.checksums import entry_of_line, is_line, usable_bases
from fastxfer.inputs.entry import Entry, Fault, Warnings, named
from fastxfer.inputs.metalink import MetalinkFile, MetalinkReader
from fastxfer.inputs.records import COLUMNS, called, entry_of, object_of, shown, told
from fastxfer.inputs.uris import Draft, begins_entry, is_said

STREAMED = ("csv", "tsv", "jsonl", "checksums", "metalink", "list")
MAX_LINE = 1 << 20
MAX_LINES = 64
"""Lines of one record of a table, and bytes of a line."""
_ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".meta4": "metalink",
    ".metalink": "metalink",
}


class Position(NamedTuple):
    """Where to go on: behind `offset` bytes and `line` lines, or behind `records` records."""

    offset: int = 0
    line: int = 0
    records: int = 0


class Row(NamedTuple):
    """A record, and where to go on behind it."""

    told: Entry | Fault
    line: int
    after: Position


def format_by_name(name: str) -> str | None:
    """Returns the format that the ending of a name tells, None where it tells none."""
    ending = re.search(r"\.[a-z0-9]+\Z", name.lower())
    return _ENDINGS.get(ending[0]) if ending is not None else None


def format_of(name: str, head: bytes) -> str:
    """Returns the format of a manifest, one of STREAMED or "parquet": by the ending of its name, else by how
    it begins. Raises OptionError.
    """
    told = format_by_name(name)
    if told is not None:
        return told
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", "replace").lstrip()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0] if lines else ""
    if first.startswith("<"):
        return "metalink"
    if first.startswith("{"):
        return "jsonl"
    if is_line(first):
        return "checksums"
    for format, between in (("csv", ","), ("tsv", "\t")):
        columns = [column.strip('" \r').lower() for column in first.split(between)]
        if {"url", "path"} & set(columns):
            return format
    if not first or "://" in first:
        return "list"
    raise OptionError(
        "the manifest is none that is known: it is neither CSV with a column url or path, JSON lines, "
        "Parquet, a list of URLs or checksums, nor a Metalink"
    )


def rows(
    chunks: Iterable[bytes],
    format: str,
    *,
    base_urls: Sequence[str] = (),
    head: bytes = b"",
    start: Position | None = None,
) -> Iterator[Row]:
    """Gives the records of a manifest. `chunks` are its bytes from `start` on; `head` is how it begins, at
    least its first line, which a table needs to go on with.

    Raises OptionError, see the module.
    """
    start = start or Position()
    warnings = Warnings()
    bases = usable_bases(base_urls, warnings) if base_urls else ()
    if format == "metalink":
        return _metalink(chunks, start, warnings)
    lines = _Lines(chunks, start)
    if format in ("csv", "tsv"):
        return _table(lines, "," if format == "csv" else "\t", head, bases, start)
    if format == "jsonl":
        return _each_line(lines, lambda line: _of_json(line, bases))
    if format == "checksums":
        if not bases:
            raise OptionError("a file of checksums has no URLs: say where its files are with a base URL")
        return _each_line(lines, lambda line: _of_checksum(line, bases), "#")
    if format == "list":
        return _list(lines, warnings)
    raise OptionError(f"the format of a manifest must be one of {', '.join(STREAMED)}, parquet")


@dataclass(slots=True)
class _Line:
    number: int
    text: str
    after: Position
    fault: str = ""


class _Lines:
    """The lines of a file from a position on, without their ends, each with where the next one begins. Lines
    of over MAX_LINE bytes are faults, and not kept.
    """

    def __init__(self, chunks: Iterable[bytes], start: Position) -> None:
        self._chunks, self._at = chunks, start

    def __iter__(self) -> Iterator[_Line]:
        rest, skipped = b"", 0
        for chunk in self._chunks:
            *whole, tail = chunk.split(b"\n")
            for each in whole:
                length = skipped + len(rest) + len(each) + 1
                yield self._line(b"" if skipped else rest + each, length, bool(skipped))
                rest, skipped = b"", 0
            if skipped or len(rest) + len(tail) > MAX_LINE:
                rest, skipped = b"", skipped + len(rest) + len(tail)
            else:
                rest += tail
        if rest or skipped:
            yield self._line(rest, len(rest) + skipped, bool(skipped))

    def _line(self, data: bytes, length: int, skipped: bool) -> _Line:
        offset, number, records = self._at
        self._at = Position(offset + length, number + 1, records)
        if skipped or len(data) > MAX_LINE:
            return _Line(number + 1, "", self._at, f"the line is over {MAX_LINE} bytes long")
        if offset == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            return _Line(number + 1, data.removesuffix(b"\r").decode(), self._at)
        except UnicodeDecodeError:
            return _Line(number + 1, data[:80].decode("ascii", "replace"), self._at, "the line is not UTF-8")


def _each_line(
    lines: Iterable[_Line], read: Callable[[_Line], Entry | Fault], comment: str = ""
) -> Iterator[Row]:
    for line in lines:
        if line.fault:
            yield Row(Fault(shown(line.text), line.fault, line.number), line.number, line.after)
        elif line.text.strip() and not (comment and line.text.startswith(comment)):
            yield Row(read(line), line.number, line.after)


def _of_json(line: _Line, bases: Sequence[str]) -> Entry | Fault:
    try:
        record = object_of(line.text)
    except OptionError as error:
        return Fault("a record", error.message, line.number)
    return told(partial(entry_of, record, bases, f"line {line.number}"), record, line.number)


def _of_checksum(line: _Line, bases: Sequence[str]) -> Entry | Fault:
    where = f"line {line.number}"
    return told(lambda: named(entry_of_line(where, line.text, bases)), line.text, line.number)


def _list(lines: Iterable[_Line], warnings: Warnings) -> Iterator[Row]:
    """A list of URLs, with aria2's options below them where there are any."""
    draft: Draft | Fault | None = None
    before, number = Position(), 0
    for line in lines:
        where = f"line {line.number}"
        if line.fault or begins_entry(line.text):
            if draft is not None:
                yield Row(_finished(draft, number), number, before)
            number = line.number
            draft = Fault(shown(line.text), line.fault, number) if line.fault else _begun(line, warnings)
        elif is_said(line.text) and isinstance(draft, Draft):
            try:
                draft.take(where, line.text, warnings)
            except OptionError as error:
                reason = error.message.removeprefix(f"{where}: ")
                draft = Fault(called(draft.urls[0]), reason, line.number)
        elif is_said(line.text) and draft is None:
            alone = Fault(shown(line.text), "an option without a URL before it", line.number)
            yield Row(alone, number, line.after)
        before = line.after
    if draft is not None:
        yield Row(_finished(draft, number), number, before)


def _begun(line: _Line, warnings: Warnings) -> Draft | Fault:
    try:
        return Draft.of_line(f"line {line.number}", line.text, warnings)
    except OptionError as error:
        return Fault(called(line.text), error.message.removeprefix(f"line {line.number}: "), line.number)


def _finished(draft: Draft | Fault, line: int) -> Entry | Fault:
    return draft if isinstance(draft, Fault) else told(lambda: named(draft.entry()), draft.urls[0], line)


def _metalink(chunks: Iterable[bytes], start: Position, warnings: Warnings) -> Iterator[Row]:
    reader, count = MetalinkReader(), 0
    pieces = iter(chunks)
    while True:
        piece = next(pieces, None)
        reader.feed(piece or b"", last=piece is None)
        for file in reader.taken():
            count += 1
            line = int(file.where.removeprefix("line "))
            if count > start.records:
                entry = told(partial(_of_file, file, warnings), {"path": file.name}, line)
                yield Row(entry, line, Position(0, 0, count))
        if piece is None:
            return


def _of_file(file: MetalinkFile, warnings: Warnings) -> Entry:
    return named(file.entry(warnings))


def _table(
    lines: _Lines, delimiter: str, head: bytes, bases: Sequence[str], start: Position
) -> Iterator[Row]:
    source = iter(lines)
    if start.offset:
        columns = _columns(next(iter(_Lines([head], Position())), None), delimiter, bases)
    else:
        columns = _columns(next(source, None), delimiter, bases)
    table = _Table(source, delimiter)
    for values, first, after in table:
        where = f"line {first}"
        if isinstance(values, str):
            yield Row(Fault("a record", values, first), first, after)
        elif values:
            record = {name: values[at] for name, at in columns.items() if at < len(values)}
            entry = told(partial(entry_of, record, bases, where), record, first)
            yield Row(entry, first, after)


def _columns(line: _Line | None, delimiter: str, bases: Sequence[str]) -> dict[str, int]:
    header = next(csv.reader([line.text if line else ""], delimiter=delimiter), [])
    found = {name.strip().lower(): at for at, name in reversed(list(enumerate(header)))}
    columns = {name: found[name] for name in COLUMNS if name in found}
    if "url" not in columns and not ("path" in columns and bases):
        raise OptionError("the table's first line names no column url, nor a path with a base URL")
    return columns


class _Table:
    """Gives (values or what is wrong, first line, where to go on) of each record. One that is broken, a quote
    that is never closed for one, costs its first line only.
    """

    def __init__(self, source: Iterator[_Line], delimiter: str) -> None:
        self._source, self._delimiter = source, delimiter
        self._again: list[_Line] = []
        self._taken: list[_Line] = []

    def __iter__(self) -> Iterator[tuple[list[str] | str, int, Position]]:
        reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
        while True:
            self._taken = []
            try:
                values: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                values = f"the record is broken: {error}"
                self._again = self._taken[1:] + self._again
                del self._taken[1:]
                reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
            fault = next((line.fault for line in self._taken if line.fault), "")
            yield fault or values, self._taken[0].number, self._taken[-1].after

    def _texts(self) -> Iterator[str]:
        while len(self._taken) < MAX_LINES:
            line = self._again.pop(0) if self._again else next(self._source, None)
            if line is None:
                return
            self._taken.append(line)
            yield line.text + "\n"
