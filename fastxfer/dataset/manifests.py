"""Manifests as a source: files of any length in the formats of `inputs.manifest`, and Parquet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from fastxfer.dataset.entries import Entry
from fastxfer.dataset.ledger import Page, Place
from fastxfer.dataset.ledger_file import ROWS
from fastxfer.errors import OptionError, storage_error
from fastxfer.inputs.entry import Entry as Input
from fastxfer.inputs.entry import Fault
from fastxfer.inputs.manifest import STREAMED, Position, Row, format_of, rows
from fastxfer.inputs.records import COLUMNS, entry_of, told

HEAD_BYTES = 64 * 1024
_READ_BYTES = 1 << 16


def checked_format(format: str | None) -> str | None:
    """Returns the format that a caller names, None for none. Raises OptionError."""
    if format is not None and format not in (*STREAMED, "parquet", "aria2"):
        raise OptionError(f"the format of a manifest must be one of {', '.join(STREAMED)}, parquet")
    return "list" if format == "aria2" else format


class ManifestLister:
    """A Lister of a manifest: a file, or a stream such as standard input, which cannot be gone on with. It
    has one place.
    """

    root = "manifest"

    def __init__(
        self,
        manifest: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        base_urls: Sequence[str] = (),
        source: str = "",
    ) -> None:
        self._base_urls = tuple(base_urls)
        self._format = checked_format(format)
        self._stream: BinaryIO | None = None
        self._path = ""
        if isinstance(manifest, str | os.PathLike):
            self._path = os.path.abspath(manifest)
            self.source, self.terms = source or self._path, self._identity()
        else:
            self._stream = manifest
            self.source, self.terms = source or "-", f"a stream of {time.time_ns()}"

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        start = Position(*json.loads(place.cursor)) if place.cursor else Position()
        entries: list[Entry] = []
        faults: list[Fault] = []
        for row in self._rows(start):
            made = _made(row)
            if isinstance(made, Fault):
                faults.append(made)
            else:
                entries.append(made)
            if len(entries) + len(faults) == ROWS:
                yield Page(entries, faults, cursor=json.dumps(row.after))
                entries, faults = [], []
        if entries or faults:
            yield Page(entries, faults)

    def _identity(self) -> str:
        try:
            there = os.stat(self._path)
        except OSError as error:
            raise storage_error(f"read the manifest {self._path}", error) from error
        told = (self._format, self._base_urls, there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)
        return json.dumps(told)

    def _rows(self, start: Position) -> Iterator[Row]:
        try:
            if self._stream is not None:
                head = self._stream.read(HEAD_BYTES)
                yield from self._read(self._stream, head, start)
                return
            with open(self._path, "rb") as file:
                yield from self._read(file, file.read(HEAD_BYTES), start)
        except OSError as error:
            raise storage_error(f"read the manifest {self._path or 'that was piped in'}", error) from error

    def _read(self, file: BinaryIO, head: bytes, start: Position) -> Iterator[Row]:
        format = self._format or format_of(self._path, head)
        if format == "parquet":
            yield from _parquet(file, start, self._base_urls)
            return
        first = [head]
        if start.offset:
            file.seek(start.offset)
            first = []
        yield from rows(_pieces(first, file), format, base_urls=self._base_urls, head=head, start=start)


def _made(row: Row) -> Entry | Fault:
    if isinstance(row.told, Fault):
        return row.told
    try:
        return Entry.of_input(row.told, row.line)
    except OptionError as error:
        return Fault(row.told.name[:200], error.message, row.line)


def _pieces(first: Sequence[bytes], file: BinaryIO) -> Iterator[bytes]:
    yield from first
    while data := file.read(_READ_BYTES):
        yield data


def _parquet(file: BinaryIO, start: Position, bases: Sequence[str]) -> Iterator[Row]:
    """Gives the rows of a Parquet file, some hundreds in memory at a time."""
    if not file.seekable():
        raise OptionError("a Parquet file cannot be read from a pipe: name the file")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise OptionError("to read Parquet, install pyarrow: pip install 'fastxfer[parquet]'") from error
    count = 0
    try:
        table = ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
        columns = [name for name in table.schema_arrow.names if name.lower() in COLUMNS]
        for group in range(table.num_row_groups):
            length = table.metadata.row_group(group).num_rows
            if count + length <= start.records:
                count += length
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=columns):
                for record in batch.to_pylist():
                    count += 1
                    if count > start.records:
                        yield Row(_of_record(record, bases, count), count, Position(0, 0, count))
    except (ArrowException, ValueError, TypeError) as error:
        raise OptionError(f"the manifest is no Parquet that can be read: {str(error)[:200]!r}") from error


def _of_record(record: dict[str, Any], bases: Sequence[str], count: int) -> Input | Fault:
    plain = {name.lower(): value for name, value in record.items()}
    return told(lambda: entry_of(plain, bases, f"line {count}"), plain, count)
