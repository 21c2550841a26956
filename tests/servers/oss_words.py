"""How OSS words what RGW says: answers, errors and XML, for the stand-in in oss_facade.py."""

from __future__ import annotations

import base64
import http.client
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError

from tests.servers.gateway import Call, Inbound
from tests.servers.oss_signature import UNKNOWN_EC, Refusal
from tests.servers.raw import Request
from tests.servers.store import Credentials, Part, unquoted

MOST_XML_BYTES = 4 << 20

_NO_UPLOAD = (
    "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted "
    "or completed."
)
_BAD_PART = (
    "One or more of the specified parts could not be found or the specified entity tag might not have "
    "matched the part's entity tag."
)
_EC = {"NoSuchUpload": "0017-00000244", "NoSuchKey": "0026-00000001", "AccessDenied": "0003-00000001"}
_CODES = {"BadDigest": "InvalidDigest"}  # of S3, where OSS has another word
_BY_STATUS = {304: "NotModified", 403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed"}
_ENCODED = (
    "Key", "Prefix", "Marker", "NextMarker", "Delimiter", "StartAfter", "KeyMarker", "NextKeyMarker",
    "NextContinuationToken",
)  # fmt: skip


class Asked:
    """A request that is being answered: all answers carry its id."""

    def __init__(self, request: Request, call: Call, connection: Inbound, request_id: str) -> None:
        self.request = request
        self.call = call
        self.connection = connection
        self.request_id = request_id
        self.user = Credentials("", "")
        """Who asks, as RGW knows him; known once the signature is."""

    def body(self) -> bytes:
        """Returns the body, which must be a small one."""
        if int(self.request.headers.get("content-length", "0")) > MOST_XML_BYTES:
            raise Refusal(400, "MalformedXML", "The body is too large.")
        return b"".join(self.connection.pieces())

    def common(self) -> dict[str, str]:
        """Returns the fields that all answers have."""
        return {
            "Server": "AliyunOSS",
            "Date": format_datetime(datetime.now(timezone.utc), usegmt=True),
            "x-oss-request-id": self.request_id,
        }

    def answer(self, status: int, fields: Mapping[str, str], body: bytes = b"") -> None:
        """Sends a whole answer."""
        head_only = self.request.method == "HEAD"
        self.connection.respond(status, {**fields, **self.common()}, body, head_only=head_only)

    def answer_xml(self, root: ET.Element, fields: Mapping[str, str] | None = None) -> None:
        """Sends XML; ETags in capitals, keys percent-encoded where `encoding-type=url` was asked for."""
        for etag in root.iter("ETag"):
            etag.text = quoted(unquoted(etag.text or ""))
        for storage_class in root.iter("StorageClass"):
            storage_class.text = "Standard"
        if self.call.query.get("encoding-type") == "url":
            for name in _ENCODED:
                for element in root.iter(name):
                    element.text = quote(element.text or "")
            ET.SubElement(root, "EncodingType").text = "url"
        body = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
        self.answer(200, {"Content-Type": "application/xml", **(fields or {})}, body)

    def refuse(self, refusal: Refusal) -> None:
        """Sends an error as OSS words it."""
        elements = {
            "Code": refusal.code,
            "Message": refusal.message,
            "RequestId": self.request_id,
            "HostId": self.request.headers.get("host", ""),
            **refusal.more,
            "EC": refusal.ec,
        }
        inner = "".join(f"  <{name}>{escape(text)}</{name}>\n" for name, text in elements.items())
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>\n{inner}</Error>\n'.encode()
        fields = {"Content-Type": "application/xml", "x-oss-ec": refusal.ec}
        if self.request.method == "HEAD":
            fields["x-oss-err"] = base64.b64encode(body).decode()
        self.answer(refusal.status, fields, body)


@contextmanager
def translated(call: Call) -> Iterator[None]:
    """A context in which an error of botocore becomes one of OSS."""
    try:
        yield
    except ClientError as error:
        answer: Mapping[str, Any] = error.response
        raise _translate(
            answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"].get("Code", ""), call
        ) from error


def refusal_of(response: http.client.HTTPResponse, call: Call) -> Refusal:
    """Returns OSS's word for an error of RGW."""
    body = response.read(MOST_XML_BYTES)
    code = ET.fromstring(body).findtext("Code", "") if body.startswith(b"<") else ""
    return _translate(response.status, code, call)


def _translate(status: int, code: str, call: Call) -> Refusal:
    """Returns the error; to HEAD RGW tells the status alone, and botocore that as the code."""
    if not code or code.isdecimal():
        code = _BY_STATUS.get(status, "InternalError")
    if call.upload_id and code == "NoSuchKey":  # ListParts of RGW says so
        code = "NoSuchUpload"
    code = _CODES.get(code, code)
    message = _NO_UPLOAD if code == "NoSuchUpload" else f"{code}."
    return Refusal(status, code, message, _EC.get(code, UNKNOWN_EC))


def parts_of(body: bytes, there: Mapping[int, Part]) -> Iterator[Part]:
    """Yields the parts that a body of Complete names, of those that are there."""
    try:
        listed = [
            (int(part.findtext("PartNumber", "")), unquoted(part.findtext("ETag", "")))
            for part in without_namespaces(ET.fromstring(body)).iter("Part")
        ]
    except (ET.ParseError, ValueError):
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.") from None
    if not listed:
        raise Refusal(400, "MalformedXML", "The XML you provided names no part.")
    last = 0
    for number, etag in listed:
        if number <= last:
            message = "The list of parts was not in ascending order."
            raise Refusal(400, "InvalidPartOrder", message, "0042-00000209")
        last = number
        part = there.get(number)
        if part is None or part.etag.upper() != etag.upper():
            raise Refusal(400, "InvalidPart", _BAD_PART, PartNumber=str(number), ETag=etag)
        yield part


def without_namespaces(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def quoted(etag: str) -> str:
    return f'"{etag.upper()}"'
