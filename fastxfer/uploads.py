"""Uploads in parts that were left behind with a store: which there are, and their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastxfer.options import TransferOptions
from fastxfer.put_results import PendingUpload
from fastxfer.sources import multipart
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.store_access import StoreAccess
from fastxfer.store_calls import StoreCalls
from fastxfer.upload_store import UploadStore


@contextmanager
def _store_of(location: Location, options: TransferOptions) -> Iterator[UploadStore]:
    calls = StoreCalls(StoreAccess.of(location, options), options, threading.Event())
    try:
        yield UploadStore(calls, ())
    finally:
        calls.close()


def find_uploads(url: str, options: TransferOptions) -> list[PendingUpload]:
    """Returns the uploads to a bucket, or to keys that begin with the URL's. Raises FastxferError."""
    location = parse_location(url)
    with _store_of(location, options) as store:
        return [_told(location, each) for each in store.uploads(location.key)]


def _told(location: Location, found: multipart.PendingUpload) -> PendingUpload:
    target = str(Location(location.scheme, location.bucket, found.key))
    return PendingUpload(target, found.upload_id, found.initiated)


def end_uploads(url: str, upload_id: str | None, options: TransferOptions) -> list[PendingUpload]:
    """Aborts the uploads that `find_uploads` finds, or only that with an id; returns them. Raises
    FastxferError.
    """
    location = parse_location(url)
    with _store_of(location, options) as store:
        chosen = [each for each in store.uploads(location.key) if upload_id in (None, each.upload_id)]
        for each in chosen:
            store.abort(each.upload_id, each.key)
        return [_told(location, each) for each in chosen]
