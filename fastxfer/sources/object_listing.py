"""The document of a page of a bucket's objects: ListObjectsV2 of S3, GetBucketV2 of OSS, as frozen values.

It is hostile input: what breaks a bound is a BadResponseError, and an error document that comes with 200 is
the StoreError that it tells.
"""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import datetime

from fastxfer.errors import BadResponseError
from fastxfer.plan.response import Headers
from fastxfer.sources.store_errors import read_answer
from fastxfer.sources.store_xml import Element, decoded_key
from fastxfer.units import MAX_SIZE

MAX_TOKEN = 64 << 10
_ETAG = re.compile(r'"?([\x20\x21\x23-\x7e]{1,1024})"?')
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?:Z|\+00:00)")


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as its bucket lists it. `etag` has its quotes; it and `modified`, seconds since 1970, are
    None where they are not told.
    """

    key: str
    size: int
    etag: str | None = None
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class ObjectsPage:
    """A page of objects. `next_token` is the continuation-token to ask on with, None at the end."""

    objects: tuple[ListedObject, ...]
    next_token: str | None


def read_objects(
    body: bytes, headers: Headers | None = None, kind: str = "s3", *, encoded: bool = False
) -> ObjectsPage:
    """Returns a page of objects. With `encoded` keys are percent-encoded even if the document does not say
    so. Raises BadResponseError and StoreError.
    """
    root = read_answer(body, headers, "ListBucketResult", "ListObjectsV2Result")
    encoding = root.find("EncodingType") or ("url" if encoded else None)
    objects = tuple(_object(element, encoding, kind) for element in root.each("Contents"))
    if not root.flag("IsTruncated"):
        return ObjectsPage(objects, None)
    token = root.raw("NextContinuationToken")
    if kind == "oss":  # which encodes it as it does keys, S3 does not
        token = decoded_key(token, encoding, kind)
    if not 0 < len(token) <= MAX_TOKEN:
        raise BadResponseError("the store's list of objects goes on, and it does not say from where")
    return ObjectsPage(objects, token)


def _object(element: Element, encoding: str | None, kind: str) -> ListedObject:
    key = decoded_key(element.raw("Key"), encoding, kind)
    if not key:
        raise BadResponseError("the store lists an object without a key")
    etag = _ETAG.fullmatch(element.find("ETag") or "")
    return ListedObject(
        key,
        element.number("Size", 0, MAX_SIZE),
        f'"{etag[1]}"' if etag is not None else None,
        time_of(element.find("LastModified") or ""),
    )


def time_of(text: str) -> float | None:
    """Returns a time of ISO 8601 in UTC as seconds since 1970, None for what is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    try:
        whole = datetime(*(int(part) for part in found.groups()[:6]))  # type: ignore[arg-type]
    except ValueError:
        return None
    return timegm(whole.timetuple()) + float(found[7] or 0)
