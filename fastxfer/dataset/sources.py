"""From what a user names as the source of a set to the Lister that reads it."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from fastxfer.dataset.filters import Filters
from fastxfer.dataset.indexes import IndexLister
from fastxfer.dataset.listing import Lister
from fastxfer.dataset.manifests import ManifestLister, checked_format
from fastxfer.dataset.remote_manifests import RemoteManifestLister
from fastxfer.dataset.store_listing import StoreLister
from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions
from fastxfer.probing import probe
from fastxfer.sources.http import HttpSource
from fastxfer.sources.schemes import is_location

_MANIFEST = re.compile(
    r".*\.(csv|tsv|jsonl|ndjson|parquet|meta4|metalink|txt|(md5|sha1|sha256|sha512)(sums?)?)"
    r"|(md5|sha1|sha256|sha512|check)sums?",
    re.IGNORECASE,
)
_PACKED = re.compile(r".*\.(gz|bz2|xz|zst|zip|lz4|br)", re.IGNORECASE)


def lister_for(
    source: str | os.PathLike[str],
    given: Mapping[str, Any],
    *,
    format: str | None = None,
    base_urls: Sequence[str] = (),
    filters: Filters | None = None,
    stopped: threading.Event | None = None,
    work: Path | None = None,
) -> Lister:
    """Returns the Lister of a source.

    Args:
        source: "-" (a manifest or a list of URLs from standard input), the path of a manifest, s3:// or oss://
            with a prefix, the URL of an index (with a slash at its end) or of a manifest.
        given: options of `fetch`, for what is asked of the network.
        format: that of a manifest, by default told by its name or how it begins. What is at a URL is then a
            manifest, whatever it is called; in a store only then.
        base_urls: where a manifest's files are; by default the folder of its URL.
        work: where a manifest that is fetched is kept while it is read; by default it is not.

    May ask the server. Raises OptionError, and what `fastxfer.probe` raises.
    """
    checked_format(format)
    text = os.fspath(source)
    if text == "-":
        return ManifestLister(sys.stdin.buffer, format=format, base_urls=base_urls)
    if "://" not in text:
        return _local(text, format, base_urls)
    text = text.lstrip() if is_location(text.lstrip()) else text.strip()
    if not _is_manifest(text, format):
        if base_urls:
            raise OptionError(
                "base URLs are for a manifest, and the source is none: name its format if it is"
            )
        if is_location(text):
            return StoreLister(text, given, filters=filters, stopped=stopped)
        return _index(text, given, filters, stopped)
    bases = base_urls or [_folder(text, given)]
    return RemoteManifestLister(text, given, format=format, base_urls=bases, stopped=stopped, work=work)


def _is_manifest(url: str, format: str | None) -> bool:
    if format is not None:
        return True
    if is_location(url):
        return False
    name = urlsplit(url).path.rpartition("/")[2]
    _check_packed(name)
    return _MANIFEST.fullmatch(name) is not None


def _check_packed(name: str) -> None:
    if _PACKED.fullmatch(name):
        raise OptionError(
            f"{name[-80:]!r} is packed, and a manifest is read as it is: unpack it and give it by its path"
        )


def _local(path: str, format: str | None, base_urls: Sequence[str]) -> Lister:
    if os.path.isdir(path):
        raise OptionError(f"{path!r} is a folder of this machine: a source is a URL, or a manifest's path")
    if format is None:
        _check_packed(os.path.basename(path))
    return ManifestLister(path, format=format, base_urls=base_urls)


def _index(
    url: str, given: Mapping[str, Any], filters: Filters | None, stopped: threading.Event | None
) -> Lister:
    """Returns the lister of an index; whether it is one is asked where the URL does not end in a slash."""
    checked = replace(TransferOptions.build(**given), connections=1)
    source = HttpSource.of(url, checked)
    if not urlsplit(source.url).path.endswith("/"):
        told = probe(source, checked, stopped)
        kind = (told.content_type or "").partition(";")[0].strip().lower()
        if kind != "text/html" and not urlsplit(told.url).path.endswith("/"):
            raise OptionError(
                f"{source.display} is {kind[:60] or 'of no type that is told'}, and so no index: give the "
                "format if it is a manifest (--format), or a slash at its end if it is a folder"
            )
    return IndexLister(url, given, filters=filters, stopped=stopped)


def _folder(url: str, given: Mapping[str, Any]) -> str:
    """Returns the folder of a manifest's URL, without what may be secret. It is that of the URL as it was
    given: where that redirects is often a place of that file alone.
    """
    if is_location(url):
        return url.rpartition("/")[0] + "/"
    parts = urlsplit(HttpSource.of(url, TransferOptions.build(**given)).url)
    return urljoin(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), ".")
