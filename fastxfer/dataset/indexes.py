"""The indexes of an HTTP server, folder by folder."""

from __future__ import annotations

import codecs
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fastxfer.dataset.entries import Entry, checked_path
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Page, Place
from fastxfer.dataset.ledger_file import ROWS
from fastxfer.errors import BadResponseError, OptionError, storage_error
from fastxfer.fetching import fetch_aside
from fastxfer.inputs.entry import Fault
from fastxfer.inputs.index import Child, Found, IndexReader
from fastxfer.options import TransferOptions
from fastxfer.sources.http import HttpSource, safe_url

MAX_INDEX_BYTES = 1 << 30
MAX_HELD = 10_000
"""Folders of a page that are kept until its end is known. Where there are more, loops are seen later."""
_READ_BYTES = 1 << 16


class IndexLister:
    """A Lister of the folder at `url`. A place is the path of a folder below it, a tab, and its URL."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        filters: Filters | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        source = HttpSource.of(url, TransferOptions.build(**options))
        parts = urlsplit(source.url)
        if parts.query:
            raise OptionError("the URL of an index must not have a query")
        path = parts.path if parts.path.endswith("/") else parts.path + "/"
        clean = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self.source, self.root, self.terms = safe_url(clean), "\t" + clean, "index"
        self._options = {**options, "auth": source.credentials} if source.credentials else dict(options)
        self._filters, self._stopped = filters or Filters(), stopped

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        path, _, url = place.name.partition("\t")
        with tempfile.TemporaryDirectory(prefix="fastxfer-index-") as folder:
            file = os.path.join(folder, "index")
            download = fetch_aside(
                url, file, self._options, most_bytes=MAX_INDEX_BYTES, stopped=self._stopped
            )
            assert download.result is not None
            final = download.result.url
            if path and final != url:
                raise BadResponseError("the folder is redirected to another place, which is not followed")
            yield from _pages(file, final if final.endswith("/") else final + "/", path, self._filters)


def _pages(file: str, url: str, path: str, filters: Filters) -> Iterator[Page]:
    """Gives what an index in a file has. It is of the folder `path`, which is "" or ends in a slash."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    places: list[str] = []
    digest = hashlib.sha256()
    for found in _found(file, url):
        if isinstance(found, Fault):
            faults.append(Fault(path + found.name, found.reason))
        else:
            digest.update(f"{found.name}\0{found.folder}\0{found.size}\0{found.mtime}\n".encode())
            _sort(found, path, filters, entries, places, faults)
        if len(entries) + len(faults) >= ROWS:
            held, places = (places, []) if len(places) > MAX_HELD else ([], places)
            yield Page(entries, faults, held)
            entries, faults = [], []
    yield Page(entries, faults, places, digest=digest.hexdigest())


def _sort(
    child: Child, path: str, filters: Filters, entries: list[Entry], places: list[str], faults: list[Fault]
) -> None:
    try:
        name = checked_path(path + child.name)
    except OptionError as error:
        faults.append(Fault(path + child.name, error.message))
        return
    if not child.folder:
        entries.append(
            Entry(name, child.url, (), child.size, child.mtime, child.mtime_exact, shown=child.shown)
        )
    elif filters.enters(name):
        places.append(f"{name}/\t{child.url}")


def _found(file: str, url: str) -> Iterator[Found]:
    reader = IndexReader(url)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        with open(file, "rb") as stream:
            while data := stream.read(_READ_BYTES):
                yield from reader.feed(decoder.decode(data))
    except OSError as error:
        raise storage_error(f"read the index {file}", error) from error
    yield from reader.close()
