"""From a URL as a caller wrote it to the source that it names, over HTTP or in an object store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from fastxfer.options import TransferOptions
from fastxfer.sources.http import HttpSource
from fastxfer.sources.schemes import is_location

if TYPE_CHECKING:
    from fastxfer.sources.store import StoreSource

# What a store takes (signing, XML) is imported with its first URL. What is no HttpSource is a StoreSource.
RemoteSource: TypeAlias = "HttpSource | StoreSource"


def open_source(url: str, options: TransferOptions) -> RemoteSource:
    """Returns the source for a URL. Raises OptionError when it cannot be one, and CredentialsError for half
    of the credentials in the environment.
    """
    if isinstance(url, str) and is_location(url.strip()):
        from fastxfer.sources.store import StoreSource

        return StoreSource.of(url, options)
    return HttpSource.of(url, options)


class Sources:
    """Opens the sources of many objects. Those of one bucket share the way to it, and with that what was
    learned there: its region, the store's clock, the credentials.
    """

    def __init__(self, options: TransferOptions) -> None:
        self.options = options
        self._buckets: dict[tuple[str, str], StoreSource] = {}

    def open(self, url: str, options: TransferOptions | None = None) -> RemoteSource:
        """Returns the source for a URL; `options` are of those about the same stores. For the first one of a
        bucket credentials are got, which may block. Raises as `open_source`.
        """
        options = options or self.options
        if not (isinstance(url, str) and is_location(url.strip())):
            return HttpSource.of(url, options)
        from fastxfer.sources.locations import parse_location
        from fastxfer.sources.store import StoreSource

        location = parse_location(url.lstrip())
        first = self._buckets.get((location.scheme, location.bucket))
        if first is not None:
            return first.at(location.key, options)
        source = self._buckets[location.scheme, location.bucket] = StoreSource.of(url, options)
        source.ready()
        return source


def open_mirror(first: RemoteSource, url: str) -> RemoteSource:
    """Returns the source for another URL of the same object. Raises as `open_source`.

    What the caller gave is for the first one's origin; the options about stores are for the kind of store
    that comes first among the URLs.
    """
    if isinstance(url, str) and is_location(url.strip()):
        from fastxfer.sources.store import StoreSource

        source = StoreSource.of(url, first.options, given=_kind(url) == _first_kind(first))
        return source.stranger(first.public_only)
    if isinstance(first, HttpSource):
        return first.mirror(url)
    return replace(HttpSource.stranger(url, first.options), public_only=first.public_only)


def _kind(url: str) -> str:
    return url.strip().partition(":")[0].lower()


def _first_kind(first: RemoteSource) -> str | None:
    if not isinstance(first, HttpSource):
        return first.access.kind
    return next((_kind(each) for each in first.options.mirrors if is_location(each.strip())), None)
