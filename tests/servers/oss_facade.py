"""A stand-in for Alibaba's OSS: OSS before the client, a real Ceph RGW behind it.

It checks OSS's signatures (by Alibaba's own signer), turns the request into one of S3 that is signed for
RGW, and the answer into OSS's: names of header fields, errors, ETags in capitals, and x-oss-hash-crc64ecma,
which is that of the whole object on a range, too. What OSS judges otherwise than S3 is judged here: the least
size of a part and their order, seen at Complete; and a range that does not lie within the object, which OSS
answers with 200 and all of it, unless `x-oss-range-behavior: standard` is sent. Bodies pass in pieces.

A completion must name all parts that are there: RGW wants it so, OSS does not.

Where the host is an address the bucket is in the path, else it is the first label of the host's name. What it
does not know (copies, access lists and so on) it refuses with 501.
"""

from __future__ import annotations

import re
import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urlencode, urlsplit

from alibabacloud_oss_v2.crc import Crc64
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as S3Credentials

from tests.servers import HOST
from tests.servers.gateway import Call, Gateway, Inbound, Upstream
from tests.servers.oss_signature import Refusal, verify
from tests.servers.oss_words import Asked, parts_of, quoted, refusal_of, translated, without_namespaces
from tests.servers.raw import SEND_BYTES, Connection, Request
from tests.servers.store import REGION as S3_REGION
from tests.servers.store import Credentials, Part, Store, unquoted

REGION = "cn-hangzhou"
OWNER = Credentials("OSSOWNER", "secret-of-the-owner-of-oss")
STRANGER = Credentials("OSSSTRANGER", "secret-of-the-stranger")
LEAST_PART_BYTES = 100 << 10  # of each part but the last one
MOST_PARTS = 10_000

_PART_NUMBER = "Part number must be an integer between 1 and 10000, inclusive."
# Passed on in both directions; all else is translated or dropped.
_COMMON = (
    "content-length",
    "content-type",
    "content-encoding",
    "content-disposition",
    "cache-control",
    "expires",
)
_REQUEST_FIELDS = (*_COMMON, "content-md5", "range", "if-modified-since", "if-unmodified-since")
_ANSWER_FIELDS = (*_COMMON, "content-range", "accept-ranges", "last-modified")
_QUERY = (
    "uploads",
    "uploadId",
    "partNumber",
    "max-parts",
    "part-number-marker",
    "list-type",
    "prefix",
    "marker",
)
_LISTING = ("delimiter", "max-keys", "continuation-token", "start-after", "key-marker", "upload-id-marker")
_PRESIGNED = ("OSSAccessKeyId", "Expires", "Signature", "encoding-type", "max-uploads", "fetch-owner")
_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


class _Unsigned(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer for a body that is not known yet."""

    def payload(self, _request: AWSRequest) -> str:
        return "UNSIGNED-PAYLOAD"


class OssFacade(Gateway):
    """A context manager: `store()` speaks OSS here, in `region`, for what is in the S3 store behind it.

    The S3 store must take parts of any size.
    """

    def __init__(self, behind: Store, region: str = REGION) -> None:
        super().__init__(self._serve_call)
        self.region = region
        self._behind = behind
        port = urlsplit(behind.endpoint).port
        assert port is not None
        self._port = port
        assert behind.stranger is not None
        self._users = {OWNER.access_key: behind.user, STRANGER.access_key: behind.stranger}
        self._secrets = {user.access_key: user.secret_key for user in (OWNER, STRANGER)}
        self._s3 = behind.client
        self._known = threading.Lock()
        self._crcs: dict[tuple[str, str, str], int] = {}  # bucket, key, ETag
        self._part_crcs: dict[tuple[str, int, str], int] = {}  # upload, number, ETag

    def store(self) -> Store:
        """Returns the store as OSS; its own calls ask the S3 store behind it."""
        endpoint = f"http://{HOST}:{self.port}"
        return Store("oss", endpoint, OWNER, STRANGER, self.region, behind=self._behind)

    def _serve_call(self, request: Request, connection: Connection) -> None:
        assert isinstance(connection, Inbound)
        call = Call.of(request)
        asked = Asked(request, call, connection, uuid.uuid4().hex[:24].upper())
        try:
            access_key = verify(request, call.bucket, call.key, self._secrets, self.region)
            _check_known(asked)
            asked.user = self._users[access_key]
            with translated(call):
                self._judge(asked)
        except Refusal as refusal:
            asked.refuse(refusal)

    def _judge(self, asked: Asked) -> None:
        operation = asked.call.operation
        if operation in ("UploadPart", "PutObject"):
            self._take(asked)
        elif operation == "CompleteMultipartUpload":
            self._complete(asked)
        elif operation in ("GetObject", "HeadObject"):
            self._give(asked)
        else:
            self._pass_on(asked)

    # ---- the operations ----

    def _take(self, asked: Asked) -> None:
        """An object or a part: its CRC is made of the bytes as they pass."""
        call = asked.call
        if call.operation == "UploadPart" and not 1 <= call.part <= MOST_PARTS:
            raise Refusal(400, "InvalidArgument", _PART_NUMBER, "0017-00000220", ArgumentName="PartNumber")
        if "content-length" not in asked.request.headers:
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if call.operation == "PutObject":
            self._check_overwrite(asked)
        crc = Crc64(0)
        with Upstream(self._port) as upstream:
            self._begin(upstream, asked)
            for piece in asked.connection.pieces():
                crc.update(piece)
                upstream.send(piece)
            response = upstream.response()
            if response.status >= 300:
                raise refusal_of(response, call)
            etag, value = unquoted(response.getheader("ETag", "")), crc.sum64()
            response.read()
        with self._known:
            if call.operation == "UploadPart":
                self._part_crcs[call.upload_id, call.part, etag] = value
            else:
                self._crcs[call.bucket, call.key, etag] = value
        asked.answer(200, {"ETag": quoted(etag), "x-oss-hash-crc64ecma": str(value)})

    def _complete(self, asked: Asked) -> None:
        """Checks what OSS checks, has RGW join the parts, and tells the whole object's CRC."""
        call = asked.call
        self._check_overwrite(asked)
        body = asked.body()
        there = {part.number: part for part in self._parts(call)}
        whole = asked.request.headers.get("x-oss-complete-all") == "yes"
        if whole and body:
            raise Refusal(400, "InvalidArgument", "No body is allowed.", "0042-00000216")
        parts = list(there.values()) if whole else list(parts_of(body, there))
        if any(part.size < LEAST_PART_BYTES for part in parts[:-1]):
            message = "Your proposed upload smaller than the minimum allowed size."
            raise Refusal(400, "EntityTooSmall", message, "0042-00000213")
        store = Store("rgw", self._behind.endpoint, asked.user, bucket=call.bucket)
        store.complete(call.key, call.upload_id, parts)
        head = store.head(call.key) or {}
        etag = unquoted(head.get("ETag", ""))
        crc = self._joined(call.upload_id, parts)
        if crc is not None:
            with self._known:
                self._crcs[call.bucket, call.key, etag] = crc
        root = ET.Element("CompleteMultipartUploadResult")
        location = f"http://{asked.request.headers.get('host')}/{quote(call.key)}"
        texts = {"Location": location, "Bucket": call.bucket, "Key": call.key, "ETag": quoted(etag)}
        for name, text in texts.items():
            ET.SubElement(root, name).text = text
        value = str(crc if crc is not None else self._crc(call, etag))
        asked.answer_xml(root, {"ETag": quoted(etag), "x-oss-hash-crc64ecma": value})

    def _give(self, asked: Asked) -> None:
        """The object or a range of it."""
        without = ("range",) if self._ignores_range(asked) else ()
        with Upstream(self._port) as upstream:
            self._begin(upstream, asked, without)
            response = upstream.response()
            if response.status >= 300:
                raise refusal_of(response, asked.call)
            fields = {name: value for name, value in response.getheaders() if name.lower() in _ANSWER_FIELDS}
            for name, value in response.getheaders():
                if name.lower().startswith("x-amz-meta-"):
                    fields[f"x-oss-meta-{name[len('x-amz-meta-') :]}"] = value
            etag = unquoted(response.getheader("ETag", ""))
            fields["ETag"] = quoted(etag)
            fields["x-oss-hash-crc64ecma"] = str(self._crc(asked.call, etag))
            fields["x-oss-object-type"] = "Multipart" if "-" in etag else "Normal"
            fields["x-oss-storage-class"] = "Standard"
            asked.connection.answer(response, {**fields, **asked.common()})

    def _pass_on(self, asked: Asked) -> None:
        """All that is answered with a little XML, or with nothing."""
        if not asked.call.key and asked.request.method == "PUT":
            asked.body()  # the storage class of a bucket: RGW has one
        with Upstream(self._port) as upstream:
            self._begin(upstream, asked, ("content-length", "content-type"))
            response = upstream.response()
            if response.status >= 300:
                raise refusal_of(response, asked.call)
            body = response.read()
        if not body.startswith(b"<"):
            asked.answer(response.status, {}, body)
            return
        root = without_namespaces(ET.fromstring(body))
        if asked.call.operation == "ListParts":
            self._list_parts_form(root, asked.call)
        asked.answer_xml(root)

    # ---- what they are made of ----

    def _begin(self, upstream: Upstream, asked: Asked, without: Iterable[str] = ()) -> None:
        """Sends the request's head to RGW, as one of S3 and signed anew."""
        call, given = asked.call, asked.request.headers
        fields = {name: given[name] for name in _REQUEST_FIELDS if name in given and name not in without}
        for name in ("if-match", "if-none-match"):
            if name in given:
                fields[name] = given[name].lower()  # ETags are in small letters there
        for name, value in given.items():
            if name.startswith("x-oss-meta-"):
                fields[f"x-amz-meta-{name[len('x-oss-meta-') :]}"] = value
        query = {name: value for name, value in call.query.items() if name in (*_QUERY, *_LISTING)}
        path = f"/{call.bucket}" + (f"/{quote(call.key, safe='/~')}" if call.key else "")
        target = path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        host = f"{HOST}:{self._port}"
        signed = AWSRequest(asked.request.method, f"http://{host}{target}", headers=fields)
        credentials = S3Credentials(asked.user.access_key, asked.user.secret_key)
        _Unsigned(credentials, "s3", S3_REGION).add_auth(signed)
        upstream.send_head(asked.request.method, target, {"Host": host, **dict(signed.headers.items())})

    def _parts(self, call: Call) -> Iterator[Part]:
        """Yields the parts that RGW has of the upload."""
        pages = self._s3.get_paginator("list_parts")
        for page in pages.paginate(Bucket=call.bucket, Key=call.key, UploadId=call.upload_id):
            for part in page.get("Parts", ()):
                yield Part(part["PartNumber"], part["Size"], unquoted(part["ETag"]))

    def _joined(self, upload_id: str, parts: Iterable[Part]) -> int | None:
        """Returns the CRC of the parts in a row; None where one came by another way."""
        joined = 0
        for part in parts:
            with self._known:
                crc = self._part_crcs.get((upload_id, part.number, part.etag))
            if crc is None:
                return None
            joined = Crc64.combine(joined, crc, part.size)
        return joined

    def _crc(self, call: Call, etag: str) -> int:
        """Returns an object's CRC; one that came by another way is read for it."""
        about = (call.bucket, call.key, etag)
        with self._known:
            if about in self._crcs:
                return self._crcs[about]
        crc = Crc64(0)
        for piece in self._s3.get_object(Bucket=call.bucket, Key=call.key)["Body"].iter_chunks(SEND_BYTES):
            crc.update(piece)
        value: int = crc.sum64()
        with self._known:
            self._crcs[about] = value
        return value

    def _ignores_range(self, asked: Asked) -> bool:
        """Returns whether OSS answers with all of the object, though a range was asked for."""
        wanted = asked.request.range
        if not wanted or asked.request.headers.get("x-oss-range-behavior") == "standard":
            return False
        head = Store("rgw", self._behind.endpoint, asked.user, bucket=asked.call.bucket).head(asked.call.key)
        matched = _RANGE.fullmatch(wanted)
        if head is None or matched is None:
            return matched is None
        size = head["ContentLength"]
        start, end, suffix = (int(number) if number else None for number in matched.groups())
        if start is None:
            return suffix is None or not 0 < suffix <= size
        return start >= size or (end is not None and not start <= end < size)

    def _check_overwrite(self, asked: Asked) -> None:
        if asked.request.headers.get("x-oss-forbid-overwrite", "").lower() != "true":
            return
        if Store("rgw", self._behind.endpoint, asked.user, bucket=asked.call.bucket).head(asked.call.key):
            raise Refusal(
                409,
                "FileAlreadyExists",
                "The object you specified already exists and can not be overwritten.",
            )

    def _list_parts_form(self, root: ET.Element, call: Call) -> None:
        """Makes of S3's list of parts that of OSS."""
        for owner in root.findall("Owner") + root.findall("Initiator"):
            root.remove(owner)
        for part in root.iter("Part"):
            number, etag = int(part.findtext("PartNumber", "0")), unquoted(part.findtext("ETag", ""))
            with self._known:
                crc = self._part_crcs.get((call.upload_id, number, etag))
            if crc is not None:
                ET.SubElement(part, "HashCrc64ecma").text = str(crc)


def _check_known(asked: Asked) -> None:
    """Refuses what is not translated, rather than answering something else."""
    known = (*_QUERY, *_LISTING, *_PRESIGNED)
    strange = [name for name in asked.call.query if name not in known and not name.startswith("x-oss-")]
    if strange or "x-oss-copy-source" in asked.request.headers or "delete" in asked.call.query:
        raise Refusal(501, "NotImplemented", f"This stand-in for OSS does not know {strange or 'that'}.")
