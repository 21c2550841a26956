"""A Metalink (RFC 5854) in place of a URL: it is read first, and then its one object is fetched from the URLs
that it names, with the size, the digest and the digests of pieces that it gives.

What stands in it comes from outside. The caller's credentials and header fields are for the origin that the
Metalink came from; a Metalink in a local file gets none of them sent anywhere. One that came from the public
internet cannot lead to addresses that are not of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastxfer.description import Description
from fastxfer.errors import NotFoundError, OptionError, storage_error
from fastxfer.fetching import fetch_aside
from fastxfer.inputs import MAX_INPUT_BYTES, Entry, parse
from fastxfer.options import TransferOptions
from fastxfer.plan.addresses import is_public
from fastxfer.sources.http import HttpSource
from fastxfer.sources.opening import RemoteSource, open_mirror, open_source

_NOBODY = "http://nobody.invalid/"


@dataclass(frozen=True, slots=True)
class Metalinked:
    """One object as a Metalink has it."""

    source: RemoteSource
    out: str | os.PathLike[str] | None
    options: TransferOptions
    description: Description


def read(url: str, out: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> Metalinked:
    """Returns the one object that the Metalink at a URL, or in a local file, names; `given` are the options
    of its fetch.

    Raises OptionError for what is no Metalink of one object, and the errors of a fetch.
    """
    options = TransferOptions.build(**given)
    if "://" in url:
        home = open_source(url, options)
        data, address = _fetched(url, given)
        home = replace(home, public_only=is_public(address) and not options.allow_private_redirects)
    else:
        home, data = HttpSource.of(_NOBODY, options), _stored(url)
    try:
        entries = parse(data, format="metalink").entries
    except OptionError as error:
        raise OptionError(f"the Metalink cannot be used: {error}") from error
    if len(entries) != 1:
        raise OptionError(f"the Metalink names {len(entries)} objects: fetch them with -i")
    return _of_entry(entries[0], home, out, options)


def _of_entry(
    entry: Entry, home: RemoteSource, out: str | os.PathLike[str] | None, options: TransferOptions
) -> Metalinked:
    digests = {**entry.options.get("checksum", {}), **dict(options.checksum)}
    options = replace(
        options,
        mirrors=(*entry.urls[1:], *options.mirrors),
        checksum=tuple(digests.items()),
    )
    text = os.fspath(out) if out is not None else ""
    if not text or text.endswith(os.sep) or os.path.isdir(text):
        out = os.path.join(text, entry.name.rpartition("/")[2])
    return Metalinked(open_mirror(home, entry.urls[0]), out, options, Description(entry.size, entry.pieces))


def _stored(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise storage_error(f"read {path}", error) from error


def _fetched(url: str, given: Mapping[str, Any]) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory(prefix="fastxfer-metalink-") as folder:
        path = os.path.join(folder, "metalink")
        try:
            download = fetch_aside(url, path, given, most_bytes=MAX_INPUT_BYTES)
        except NotFoundError as error:
            error.message = f"the Metalink is not there: {error.message}"
            raise
        return _stored(path), download.address
