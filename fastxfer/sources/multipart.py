"""The documents of multipart uploads, of S3 and of OSS: what the store answers, as frozen values, and what it
is sent to complete one.

Answers are hostile input: what breaks a bound is a BadResponseError, and an error document, also one that
comes with 200, is the StoreError that it tells. The documents are in the Amazon S3 API Reference and in the
OSS API reference under the operations' names.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from fastxfer.errors import BadResponseError
from fastxfer.plan.response import Headers
from fastxfer.sources.store_errors import read_answer
from fastxfer.sources.store_xml import Element, decoded_key
from fastxfer.units import MAX_SIZE

MAX_PARTS = 10_000
_UPLOAD_ID = re.compile(r"[\x21-\x7e]{1,1024}")
_ETAG = re.compile(r"[\x20-\x7e]{1,1024}")
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"
# S3's elements for checksums, in base64, and how many bytes they have.
_CHECKSUMS = {
    "ChecksumCRC32": ("crc32", 4),
    "ChecksumCRC32C": ("crc32c", 4),
    "ChecksumCRC64NVME": ("crc64nvme", 8),
    "ChecksumSHA1": ("sha1", 20),
    "ChecksumSHA256": ("sha256", 32),
}
_ELEMENT_OF = {name: element for element, (name, _) in _CHECKSUMS.items()}
Checksums = tuple[tuple[str, str], ...]
"""Names and lower-case hex."""


@dataclass(frozen=True, slots=True)
class StartedUpload:
    """The answer to InitiateMultipartUpload."""

    bucket: str
    key: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part as the store has it, its ETag as it writes it; or as it is to be completed."""

    number: int
    etag: str
    size: int = 0
    last_modified: str = ""
    checksums: Checksums = ()


@dataclass(frozen=True, slots=True)
class PartsPage:
    """A page of ListParts. `next_marker` is the part-number-marker to ask on with, None at the end."""

    upload_id: str
    parts: tuple[UploadedPart, ...]
    next_marker: int | None


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """One upload of ListMultipartUploads that is neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: str


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of ListMultipartUploads. `next_marker` are the key-marker and the upload-id-marker to ask on
    with, None at the end.
    """

    uploads: tuple[PendingUpload, ...]
    next_marker: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class CompletedUpload:
    """The answer to CompleteMultipartUpload. `etag` is "" where it is not told (Ceph RGW); `checksums` are
    those of the whole object, none of those that are made of the parts' own.
    """

    bucket: str
    key: str
    etag: str
    location: str = ""
    checksums: Checksums = ()


@dataclass(frozen=True, slots=True)
class Copied:
    """The answer to UploadPartCopy or CopyObject."""

    etag: str
    last_modified: str = ""
    checksums: Checksums = ()


def read_started(body: bytes, headers: Headers | None = None, kind: str = "s3") -> StartedUpload:
    """Returns what InitiateMultipartUpload answered. Raises BadResponseError and StoreError."""
    # rclone's server leaves out the "Result".
    root = read_answer(body, headers, "InitiateMultipartUploadResult", "InitiateMultipartUpload")
    key = decoded_key(root.raw("Key"), root.find("EncodingType"), kind)
    return StartedUpload(root.find("Bucket") or "", key, _upload_id(root))


def read_parts(body: bytes, asked_marker: int = 0, headers: Headers | None = None) -> PartsPage:
    """Returns a page of ListParts that was asked for with a part-number-marker.

    Raises BadResponseError, also for pages that do not get on, and StoreError. Parts come by their number,
    each once, all after the marker: servers also list a part that was sent twice twice (SeaweedFS), and the
    last one of the page before once more (rclone). One that is listed twice in different words is left out,
    for nobody can tell which of them counts.
    """
    root = read_answer(body, headers, "ListPartsResult")
    listed = [_part(element) for element in root.each("Part")]
    if any(later.number < earlier.number for earlier, later in pairwise(listed)):
        raise BadResponseError("the store lists parts in no order")
    known = {part.number: part for part in listed if part.number > asked_marker}
    unclear = {part.number for part in listed if not _same_part(part, known.get(part.number, part))}
    parts = tuple(part for number, part in known.items() if number not in unclear)
    last = max(known, default=asked_marker)
    marker = None
    if root.flag("IsTruncated"):
        marker = root.number("NextPartNumberMarker", 1, MAX_PARTS, default=last)
        if marker <= asked_marker or marker < last:
            raise BadResponseError("the store's list of parts does not get on")
    return PartsPage(_upload_id(root), parts, marker)


def _same_part(one: UploadedPart, other: UploadedPart) -> bool:
    return (one.size, one.etag, one.checksums) == (other.size, other.etag, other.checksums)


def read_uploads(
    body: bytes,
    asked_marker: tuple[str, str] = ("", ""),
    headers: Headers | None = None,
    kind: str = "s3",
) -> UploadsPage:
    """Returns a page of ListMultipartUploads that was asked for with a key-marker and an upload-id-marker.

    Raises BadResponseError, also for a page that leads to itself, and StoreError.
    """
    root = read_answer(body, headers, "ListMultipartUploadsResult")
    encoding = root.find("EncodingType")
    uploads = tuple(
        PendingUpload(
            decoded_key(element.raw("Key"), encoding, kind),
            _upload_id(element),
            _printable(element, "Initiated"),
        )
        for element in root.each("Upload")
    )
    marker = None
    if root.flag("IsTruncated"):
        marker = (
            decoded_key(root.raw("NextKeyMarker"), encoding, kind),
            root.find("NextUploadIdMarker") or "",
        )
        if marker == asked_marker or marker[0].encode() < asked_marker[0].encode():
            raise BadResponseError("the store's list of uploads does not get on")
    return UploadsPage(uploads, marker)


def read_completed(body: bytes, headers: Headers | None = None, kind: str = "s3") -> CompletedUpload:
    """Returns what CompleteMultipartUpload answered: with 200 it may still be an error, since the status goes
    out before the work is done. Raises BadResponseError and StoreError.
    """
    root = read_answer(body, headers, "CompleteMultipartUploadResult")
    key = decoded_key(root.raw("Key"), root.find("EncodingType"), kind)
    whole = root.find("ChecksumType") != "COMPOSITE"
    return CompletedUpload(
        root.find("Bucket") or "",
        key,
        _etag(root) if root.find("ETag") or not key else "",
        _printable(root, "Location"),
        _checksums(root) if whole else (),
    )


def read_copied(body: bytes, headers: Headers | None = None) -> Copied:
    """Returns what UploadPartCopy or CopyObject answered: with 200 it may still be an error. Raises
    BadResponseError and StoreError.
    """
    root = read_answer(body, headers, "CopyPartResult", "CopyObjectResult")
    return Copied(_etag(root), _printable(root, "LastModified"), _checksums(root))


def complete_body(parts: Iterable[UploadedPart], kind: str = "s3") -> bytes:
    """Returns the document that completes an upload: parts by their number, with the checksums of S3 that
    they have.

    Raises ValueError for no parts, a number twice or out of bounds, and an ETag that is none.
    """
    ordered = sorted(parts, key=lambda part: part.number)
    numbers = [part.number for part in ordered]
    if not numbers or numbers[0] < 1 or numbers[-1] > MAX_PARTS or len(set(numbers)) < len(numbers):
        raise ValueError(f"parts are numbered from 1 to {MAX_PARTS}, each once, and there is one at least")
    namespace = f' xmlns="{_S3}"' if kind == "s3" else ""
    inner = "".join(_complete_part(part, kind) for part in ordered)
    return f"<CompleteMultipartUpload{namespace}>{inner}</CompleteMultipartUpload>".encode("ascii")


def _complete_part(part: UploadedPart, kind: str) -> str:
    if not _ETAG.fullmatch(part.etag):
        raise ValueError("an ETag is of printable ASCII")
    told = "".join(
        f"<{_ELEMENT_OF[name]}>{base64.b64encode(bytes.fromhex(digest)).decode()}</{_ELEMENT_OF[name]}>"
        for name, digest in part.checksums
        if kind == "s3" and name in _ELEMENT_OF
    )
    etag = part.etag.translate(_ESCAPED)
    return f"<Part><PartNumber>{part.number}</PartNumber><ETag>{etag}</ETag>{told}</Part>"


def _part(element: Element) -> UploadedPart:
    return UploadedPart(
        element.number("PartNumber", 1, MAX_PARTS),
        _etag(element),
        element.number("Size", 0, MAX_SIZE),
        _printable(element, "LastModified"),
        _checksums(element),
    )


def _upload_id(element: Element) -> str:
    found = element.told("UploadId")
    if not _UPLOAD_ID.fullmatch(found):
        raise BadResponseError("the store's answer has an UploadId that is none")
    return found


def _etag(element: Element) -> str:
    found = element.told("ETag")
    if not _ETAG.fullmatch(found):
        raise BadResponseError("the store's answer has an ETag that is none")
    return found


def _printable(element: Element, name: str) -> str:
    """Returns what is only to be shown: "" for nothing, or for what cannot be."""
    found = element.find(name) or ""
    return found if found.isprintable() and len(found) <= 8192 else ""


def _checksums(element: Element) -> Checksums:
    """Returns the checksums of bytes: S3's, in base64, and OSS's CRC-64/XZ, in decimal.

    Those with a number of parts after a dash are made of the parts' checksums, and are no checksums of bytes.
    """
    found = []
    for name, (algorithm, size) in _CHECKSUMS.items():
        text = element.find(name)
        if text and "-" not in text:
            found.append((algorithm, _hex_of(name, text, size)))
    if element.find("HashCrc64ecma"):
        found.append(("crc64xz", f"{element.number('HashCrc64ecma', 0, 2**64 - 1):016x}"))
    return tuple(found)


def _hex_of(name: str, text: str, size: int) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise BadResponseError(f"the {name} in the store's answer is not {size} bytes in base64")
    return digest.hex()
