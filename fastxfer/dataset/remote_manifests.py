"""A manifest at an HTTP server or in a store, as a source: it is fetched to a folder of its own, and read
there.

The server is asked first what it tells of the manifest: with these validators a listing that was killed goes
on, and so does a fetch that was. The file stays until it was read to its end. Where the server tells no
validators, nothing can be gone on with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from errno import ENOTDIR
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastxfer.dataset.ledger import Page, Place
from fastxfer.dataset.manifests import ManifestLister, checked_format
from fastxfer.errors import RemoteChangedError, storage_error
from fastxfer.fetching import fetch_aside
from fastxfer.inputs.manifest import format_by_name
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Identity, difference
from fastxfer.probing import probe
from fastxfer.sources.http import safe_url
from fastxfer.sources.opening import open_source
from fastxfer.sources.schemes import is_location

MAX_MANIFEST_BYTES = 1 << 40
_FOLDER = "source"
_FILE, _NOTE = "manifest", "manifest.told"


class RemoteManifestLister:
    """A Lister of a manifest at a URL; see the module. `work` is the folder that it is fetched below, a
    temporary one where none is given. Asks the server; raises what `fastxfer.probe` does.
    """

    root = "manifest"

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        format: str | None = None,
        base_urls: Sequence[str] = (),
        stopped: threading.Event | None = None,
        work: Path | None = None,
    ) -> None:
        self._url, self._options, self._stopped = url, options, stopped
        self._base_urls = tuple(base_urls)
        path = url if is_location(url) else urlsplit(url).path
        self._format = checked_format(format) or format_by_name(path)
        try:
            self._folder = self._private(work)
        except OSError as error:
            raise storage_error("make a folder for the manifest", error) from error
        checked = replace(TransferOptions.build(**options), connections=1)
        told = probe(open_source(url, checked), checked, stopped)
        self._told = Identity(told.size, told.etag, told.last_modified)
        what = [hashlib.sha256(url.encode()).hexdigest(), told.size, told.etag, told.last_modified]
        if not self._told.has_validator:
            what.append(f"asked at {time.time_ns()}")
        self._what = json.dumps(what)
        self.source = called(url)
        self.terms = json.dumps([self._what, self._format, self._base_urls])

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        file = self._folder / _FILE
        if not self._is_there(file):
            self._fetch(file)
        reader = ManifestLister(file, format=self._format, base_urls=self._base_urls, source=self.source)
        yield from reader.list(place)
        with self._at_hand():
            self._forget(file)

    def _private(self, work: Path | None) -> Path:
        """Returns the folder, which only its owner may enter: URLs may be secrets."""
        if work is None:
            made = Path(tempfile.mkdtemp(prefix="fastxfer-manifest-"))
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            return made
        work.mkdir(parents=True, exist_ok=True)
        folder = work / _FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink():
            raise NotADirectoryError(ENOTDIR, "it is a symbolic link", str(folder))
        return folder

    def _is_there(self, file: Path) -> bool:
        """Returns whether the file is there as it was fetched, and is what the server has."""
        with self._at_hand():
            try:
                return (self._folder / _NOTE).read_text(encoding="utf-8") == self._note_of(file)
            except (FileNotFoundError, UnicodeDecodeError):
                return False

    def _note_of(self, file: Path) -> str:
        there = file.stat()
        return json.dumps([self._what, there.st_size, there.st_mtime_ns, there.st_ino])

    def _fetch(self, file: Path) -> None:
        with self._at_hand():
            self._forget(file)
        download = fetch_aside(
            self._url, str(file), self._options,
            most_bytes=MAX_MANIFEST_BYTES, stopped=self._stopped, keep=self._told.has_validator,
        )  # fmt: skip
        result = download.result
        assert result is not None
        changed = difference(self._told, Identity(result.size, result.etag, result.last_modified))
        if changed is not None:
            raise RemoteChangedError(
                f"the manifest was changed while it was fetched: {changed}; run it again"
            )
        with self._at_hand():
            fresh = self._folder / f"{_NOTE}.new"
            fresh.write_text(self._note_of(file), encoding="utf-8")
            os.replace(fresh, self._folder / _NOTE)

    def _forget(self, file: Path) -> None:
        (self._folder / _NOTE).unlink(missing_ok=True)
        file.unlink(missing_ok=True)

    @contextmanager
    def _at_hand(self) -> Iterator[None]:
        """A context in which what goes wrong is of the folder."""
        try:
            yield
        except OSError as error:
            raise storage_error(f"keep the manifest in {self._folder}", error) from error


def called(url: str) -> str:
    """Returns what a manifest's URL is called, without secrets: its query may be one, so that it only counts
    which it is.
    """
    query = "" if is_location(url) else urlsplit(url).query
    return safe_url(url) + (f"?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else "")
