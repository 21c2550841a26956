"""What an upload asks its store for, of S3's kind or OSS's: begin, list, complete, abort, look; and what is
to be believed of the answers.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fastxfer._native.reader import Reader
from fastxfer.errors import (
    BadResponseError,
    ChecksumError,
    NotFoundError,
    StoreNotFoundError,
    UploadGoneError,
)
from fastxfer.plan.parts import AMAZON_MIN_PART, MIN_PART, Listed, merged, unquoted
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Headers, Identity
from fastxfer.sources.locations import Location, encode, encode_key
from fastxfer.sources.multipart import (
    Copied,
    PendingUpload,
    UploadedPart,
    UploadsPage,
    complete_body,
    read_completed,
    read_copied,
    read_parts,
    read_started,
    read_uploads,
)
from fastxfer.store_calls import PATIENCE, Answer, Ask, Pairs, StoreCalls

CRC_OF = {"s3": "crc64nvme", "oss": "crc64xz"}
"""The CRC-64 that each kind of store knows."""
_MD5 = re.compile(r"[0-9a-f]{32}")
_CRC_FIELD = {"s3": "x-amz-checksum-crc64nvme", "oss": "x-oss-hash-crc64ecma"}
_DECIMAL = re.compile(r"[0-9]{1,20}")
MAX_PAGES = 10_000
_AMAZON = re.compile(r"\.amazonaws\.(com|eu)(\.cn)?(:\d+)?\Z")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store tells of an object: `crc` of all its bytes, None for untold."""

    size: int | None = None
    etag: str = ""
    crc: int | None = None
    version_id: str | None = None


def base64_of(crc: int) -> str:
    """Returns a CRC-64 as S3 writes it."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def crc_told(kind: str, headers: Headers) -> int | None:
    """Returns the CRC-64 that an answer tells in its fields; None for none, or for one that was made of the
    parts' own.
    """
    text = headers.get(_CRC_FIELD[kind]) or ""
    if kind == "oss":
        return int(text) if _DECIMAL.fullmatch(text) and int(text) < 2**64 else None
    if (headers.get("x-amz-checksum-type") or "FULL_OBJECT").upper() != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return int.from_bytes(digest, "big") if len(digest) == 8 else None


def is_md5(etag: str) -> bool:
    """Returns whether an ETag without quotes may be an MD5."""
    return _MD5.fullmatch(etag) is not None


def etag_of_parts(etags: Iterable[str]) -> str | None:
    """Returns the ETag that an object of these parts has, where theirs are their MD5s: the MD5 of the MD5s,
    and their number. None where one is no MD5.
    """
    plain = [unquoted(etag) for etag in etags]
    if not all(map(is_md5, plain)):
        return None
    digest = hashlib.md5(b"".join(map(bytes.fromhex, plain)), usedforsecurity=False).hexdigest()
    return f"{digest}-{len(plain)}"


class UploadStore:
    """The calls about one object. `knows_crc` is True once the store has shown that it checks CRC-64s: until
    then a part is also sent with its MD5.
    """

    def __init__(self, calls: StoreCalls, fields: Pairs) -> None:
        self.calls = calls
        self.kind = calls.access.kind
        self.crc_name = CRC_OF[self.kind]
        self.name = str(calls.access.location)
        self.knows_crc = self.kind == "oss"
        self._fields = fields

    @property
    def least_part(self) -> int:
        """The least size of a part but the last, as far as it is known."""
        return AMAZON_MIN_PART if _AMAZON.search(self.calls.access.address.authority) else MIN_PART

    @property
    def endpoint(self) -> str:
        """Where it is, as a checkpoint has it."""
        address = self.calls.access.address
        return f"{address.scheme}://{address.authority}"

    # ---- the object at once ----

    def put(self, body: Reader, crc: int, md5: bytes) -> Seen:
        """Sends a whole object in one request. Raises ChecksumError when the store got something else."""
        body.seek(0)
        fields = (*self._fields, *self._sums(crc, md5))
        answer = self.calls.once(Ask("PUT", f"cannot upload to {self.name}", headers=fields, body=body))
        return self._seen(answer.headers, len(body))

    def head(self) -> Seen | None:
        """Returns what the store tells of the object as it is now; None where there is none."""
        fields = (("x-amz-checksum-mode", "ENABLED"),) if self.kind == "s3" else ()
        try:
            answer = self.calls.ask(Ask("HEAD", f"cannot look at {self.name}", headers=fields))
        except NotFoundError:
            return None
        length = answer.headers.get("content-length") or ""
        return self._seen(answer.headers, int(length) if _DECIMAL.fullmatch(length) else None)

    def _seen(self, headers: Headers, size: int | None) -> Seen:
        version = headers.get("x-amz-version-id") or headers.get("x-oss-version-id")
        return Seen(size, unquoted(headers.get("etag") or ""), crc_told(self.kind, headers), version)

    # ---- in parts ----

    def begin(self) -> str:
        """Begins an upload and returns its id."""
        fields = self._fields
        if self.kind == "s3":
            full = (("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT"))
            fields = (*fields, *full)
        what, query = f"cannot begin to upload to {self.name}", (("uploads", ""),)
        answer = self.calls.ask(Ask("POST", what, query=query, headers=fields, body=b""))
        told = (answer.headers.get("x-amz-checksum-algorithm") or "").upper()
        self.knows_crc = self.knows_crc or told == "CRC64NVME"
        return read_started(answer.body, answer.headers, self.kind).upload_id

    def part(self, upload_id: str, number: int, body: Reader, crc: int, md5: bytes | None) -> Ask:
        """Returns the request that sends a part."""
        return Ask(
            "PUT",
            f"cannot upload part {number} of {self.name}",
            query=(("partNumber", str(number)), ("uploadId", upload_id)),
            headers=self._sums(crc, md5),
            body=body,
        )

    def part_copy(self, upload_id: str, number: int, source: Pairs) -> Ask:
        """Returns the request that has the store copy a part by itself; see `copy_source`."""
        return Ask(
            "PUT",
            f"cannot copy part {number} of {self.name}",
            query=(("partNumber", str(number)), ("uploadId", upload_id)),
            headers=source,
            body=b"",
            patience=PATIENCE,
        )

    def copied(self, answer: Answer) -> Copied:
        """Returns what the store said of what it copied. Raises BadResponseError and StoreError."""
        return read_copied(answer.body, answer.headers)

    def copy_source(self, source: Location, origin: Identity, span: Span | None = None) -> Pairs:
        """Returns the fields that name another object of the store, or a range of it, as what is copied."""
        prefix = "x-amz-copy-source" if self.kind == "s3" else "x-oss-copy-source"
        named = f"/{source.bucket}/{encode_key(source.key)}"
        if origin.version is not None:
            named += f"?versionId={encode(origin.version)}"
        fields: Pairs = ((prefix, named),)
        if origin.etag is not None:
            fields += ((f"{prefix}-if-match", origin.etag),)
        if span is not None:
            fields += ((f"{prefix}-range", f"bytes={span[0]}-{span[1] - 1}"),)
        return fields

    def copy_whole(self, source: Pairs) -> Seen:
        """Has the store copy an object in one request; the fields are ours, not the source's."""
        directive = "x-amz-metadata-directive" if self.kind == "s3" else "x-oss-metadata-directive"
        fields = (*source, (directive, "REPLACE"), *self._fields)
        ask = Ask("PUT", f"cannot copy to {self.name}", headers=fields, body=b"", patience=PATIENCE)
        answer = self.calls.ask(ask)
        found = read_copied(answer.body, answer.headers)
        return replace(self._seen(answer.headers, None), etag=unquoted(found.etag))

    def _sums(self, crc: int, md5: bytes | None) -> Pairs:
        told: list[tuple[str, str]] = []
        if self.kind == "s3":
            told.append((_CRC_FIELD["s3"], base64_of(crc)))
        if md5 is not None:
            told.append(("Content-MD5", base64.b64encode(md5).decode()))
        return tuple(told)

    def confirmed(self, answer: Answer, what: str, crc: int) -> str:
        """Returns the ETag of a part that the store has taken. Raises ChecksumError where it tells another
        CRC, and BadResponseError where it tells no ETag.
        """
        found = crc_told(self.kind, answer.headers)
        if found is not None:
            self.check_crc(found, crc, what)
            self.knows_crc = True
        etag = answer.headers.get("etag") or ""
        if not etag or not etag.isascii() or not etag.isprintable() or len(etag) > 256:
            raise BadResponseError(f"{what}: the store told no ETag, or one that cannot be")
        return etag

    def check_crc(self, found: int, crc: int, what: str) -> None:
        """Raises ChecksumError for another CRC-64 than ours."""
        if found != crc:
            raise ChecksumError(
                f"{what}: the store has other bytes than were sent, by their {self.crc_name}; run it again",
                algorithm=self.crc_name,
                expected=f"{crc:016x}",
                actual=f"{found:016x}",
            )

    def parts(self, upload_id: str) -> dict[int, Listed | None]:
        """Returns what the store lists of an upload. Raises UploadGoneError where there is no such."""
        listed: list[tuple[int, Listed]] = []
        marker, what = 0, f"cannot list the parts of {self.name}"
        while True:
            after = (("part-number-marker", str(marker)),) if marker else ()
            query = (("uploadId", upload_id), ("max-parts", "1000"), *after)
            try:
                answer = self.calls.ask(Ask("GET", what, query=query))
            except StoreNotFoundError as error:
                # Ceph RGW's way to say that the upload is gone.
                raise UploadGoneError(str(error), status=error.status, code=error.code) from error
            page = read_parts(answer.body, marker, answer.headers)
            listed += [(part.number, self._listed(part)) for part in page.parts]
            if page.next_marker is None:
                return merged(listed)
            marker = page.next_marker

    def _listed(self, part: UploadedPart) -> Listed:
        return Listed(part.size, unquoted(part.etag), dict(part.checksums).get(self.crc_name, ""))

    def complete(self, upload_id: str, etags: Mapping[int, str], crc: int | None, size: int) -> Seen:
        """Has the store put the parts together; asks once. The size that is returned is ours, not the
        store's. Raises StoreError, also where the answer was 200 and tells of a failure.
        """
        body = complete_body((UploadedPart(number, etag) for number, etag in etags.items()), self.kind)
        fields: Pairs = (("Content-Type", "application/xml"),)
        if self.kind == "s3" and self.knows_crc and crc is not None:
            own = (("x-amz-checksum-type", "FULL_OBJECT"), (_CRC_FIELD["s3"], base64_of(crc)))
            fields = (*fields, *own)
        ask = Ask(
            "POST",
            f"cannot complete the upload to {self.name}",
            query=(("uploadId", upload_id),),
            headers=fields,
            body=body,
            patience=PATIENCE,
            once=True,
        )
        answer = self.calls.once(ask)
        done = read_completed(answer.body, answer.headers, self.kind)
        told = dict(done.checksums).get(self.crc_name)
        found = int(told, 16) if told else crc_told(self.kind, answer.headers)
        version = answer.headers.get("x-amz-version-id") or answer.headers.get("x-oss-version-id")
        return Seen(size, unquoted(done.etag), found, version)

    def abort(self, upload_id: str, key: str | None = None) -> None:
        """Ends an upload: its parts are gone. One that is gone already is fine."""
        ask = Ask(
            "DELETE", f"cannot abort an upload to {self.name}", query=(("uploadId", upload_id),), key=key
        )
        try:
            self.calls.ask(ask)
        except (NotFoundError, UploadGoneError):
            pass

    # ---- those of others, and of earlier times ----

    def uploads(self, prefix: str) -> Iterator[PendingUpload]:
        """Yields the uploads of the bucket, to keys with a prefix, that were begun and not ended."""
        marker = ("", "")
        for _ in range(MAX_PAGES):
            page = self._uploads_page(prefix, marker)
            yield from (upload for upload in page.uploads if upload.key.startswith(prefix))
            if page.next_marker is None:
                return
            marker = page.next_marker
        raise BadResponseError(f"the list of the uploads to {self.name} does not end")

    def _uploads_page(self, prefix: str, marker: tuple[str, str]) -> UploadsPage:
        query: Pairs = (("uploads", ""), ("max-uploads", "1000"))
        query += (("prefix", prefix),) if prefix else ()
        if marker != ("", ""):
            query += (("key-marker", marker[0]), ("upload-id-marker", marker[1]))
        what, encoded = f"cannot list the uploads to {self.name}", (*query, ("encoding-type", "url"))
        if self.kind == "s3":
            # Ceph RGW encodes keys where it is asked to, and does not say so: only where XML cannot hold one.
            answer = self.calls.ask(Ask("GET", what, query=query, key=""))
            try:
                return read_uploads(answer.body, marker, answer.headers, self.kind)
            except BadResponseError:
                pass
        answer = self.calls.ask(Ask("GET", what, query=encoded, key=""))
        return read_uploads(answer.body, marker, answer.headers, self.kind)
