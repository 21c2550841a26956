"""What an object store says when it refuses, from the XML of its error document and from header fields, and
which typed error it is.

The document is hostile input: whatever it holds, what comes out is a `Refusal` of short, printable words, and
a `StoreError`. Codes decide before the status does; where no code is known the status decides as it does
without a store. (Amazon S3 API Reference, "Error responses"; OSS API reference, "HTTP status codes and error
codes".)
"""

from __future__ import annotations

import base64
import re

from fastxfer.errors import (
    BadResponseError,
    StoreAuthError,
    StoreError,
    StoreNotFoundError,
    StoreOverloadedError,
    StoreServerError,
    UploadGoneError,
)
from fastxfer.plan.response import Headers
from fastxfer.plan.retry import parse_retry_after
from fastxfer.sources.store_xml import Element, read_xml
from fastxfer.values import dataclass

MAX_ERROR_BYTES = 64 << 10
MAX_MESSAGE = 300
_WORD = re.compile(r"[A-Za-z0-9._-]{1,100}")
_ID = re.compile(r"[\x21-\x7e]{1,200}")
_HOST = re.compile(r"[A-Za-z0-9.:/_-]{1,260}")
_TIME = re.compile(r"[0-9TZ:.+-]{1,40}")

_CODES: dict[type[StoreError], str] = {
    StoreNotFoundError: """
        NoSuchBucket NoSuchKey NoSuchVersion NotFound SymlinkTargetNotExist
        """,
    UploadGoneError: "NoSuchUpload",
    StoreAuthError: """
        AccessDenied AccountProblem AllAccessDisabled AuthorizationHeaderMalformed
        AuthorizationQueryParametersError CredentialsNotSupported ExpiredToken Forbidden InvalidAccessKeyId
        InvalidRequestTime InvalidSecurity InvalidSecurityToken InvalidToken MissingAuthenticationToken
        MissingSecurityHeader NotSignedUp RequestExpired RequestTimeTooSkewed SecurityTokenExpired
        SecurityTokenNotSupported SignatureDoesNotMatch TokenRefreshRequired Unauthorized UserDisable
        """,
    StoreOverloadedError: """
        BandwidthLimitExceeded Busy DownloadTrafficRateLimitExceeded QpsLimitExceeded RequestLimitExceeded
        RequestThrottled RequestThrottledException ServerBusy ServiceUnavailable SlowDown Throttling
        ThrottlingException TooManyRequests TooManyRequestsException TotalQpsLimitExceeded
        UploadTrafficRateLimitExceeded
        """,
    # Some of them come with a 4xx, and are mended by sending the same again all the same.
    StoreServerError: """
        BadDigest ConditionalRequestConflict IncompleteBody InternalError InternalServerError
        OperationAborted RequestTimeout XAmzContentSHA256Mismatch
        """,
    # Not what their status (301, 307, 403) says.
    StoreError: """
        InvalidObjectState KmsServiceNotEnabled PermanentRedirect Redirect TemporaryRedirect
        """,
}
_CLASS_OF = {code: cls for cls, codes in _CODES.items() for code in codes.split()}
# Refusals since the bucket is in another region; answers to HEAD have no code.
_ELSEWHERE = frozenset(
    ("", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect",
     "TemporaryRedirect")
)  # fmt: skip
_EXPIRED = "the session token has expired: get new temporary credentials"
_SKEW = "set this machine's clock"
_HINTS = {
    "AccessDenied": "these credentials may not do this, or there are none: look at the bucket's policy",
    "BadDigest": "the bytes did not arrive as they were sent",
    "EntityTooLarge": "use larger parts, 10000 at most",
    "EntityTooSmall": "every part but the last must be larger: 5 MiB on S3, 100 KiB on OSS",
    "ExpiredToken": _EXPIRED,
    "InvalidAccessKeyId": "check the access key, and that the endpoint is the one of its store",
    "InvalidObjectState": "the object is archived: have it restored first",
    "InvalidRequestTime": _SKEW,
    "NoSuchBucket": "check the bucket's name, the region and the endpoint",
    "NoSuchUpload": "the upload was completed, aborted or has expired",
    "RequestTimeTooSkewed": _SKEW,
    "SecurityTokenExpired": _EXPIRED,
    "SignatureDoesNotMatch": "check the secret key, the region and the endpoint",
    "TokenRefreshRequired": _EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a store told of why it refused, "" for what it did not tell.

    `region` and `endpoint` are where it says that the bucket is: not to be followed unasked. `server_time` is
    its clock as it writes it, told where time is the reason.
    """

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    host_id: str = ""
    ec: str = ""
    region: str = ""
    endpoint: str = ""
    server_time: str = ""


def read_refusal(status: int, headers: Headers, body: bytes = b"") -> Refusal:
    """Returns what an answer tells; never raises. `body` may be empty, cut, or not the store's at all."""
    document = _document(body) or _document(_from_field(headers.get("x-oss-err")))
    document = document or Element("Error")

    def word(pattern: re.Pattern[str], *texts: str | None) -> str:
        return next((text for text in texts if text and pattern.fullmatch(text)), "")

    find, field = document.find, headers.get
    return Refusal(
        status,
        word(_WORD, find("Code"), field("x-amz-error-code")),
        presentable(find("Message") or field("x-amz-error-message") or ""),
        word(_ID, find("RequestId"), field("x-amz-request-id"), field("x-oss-request-id")),
        word(_ID, find("HostId"), field("x-amz-id-2")),
        word(_WORD, find("EC"), field("x-oss-ec")),
        word(_WORD, find("Region"), field("x-amz-bucket-region"), field("x-oss-bucket-region")),
        word(_HOST, find("Endpoint")),
        word(_TIME, find("ServerTime")),
    )


def other_region(refusal: Refusal, region: str | None) -> str | None:
    """Returns the region to sign for and to ask in place of `region`, where that is what was refused."""
    asked_elsewhere = refusal.status in (301, 307, 400) and refusal.code in _ELSEWHERE
    return refusal.region if asked_elsewhere and refusal.region not in ("", region) else None


def is_refusal(root: Element) -> bool:
    """Returns whether a document is a refusal, whatever the status says."""
    return root.name in ("Error", "ErrorResponse")


def read_answer(body: bytes, headers: Headers | None, *names: str) -> Element:
    """Returns the root of an answer's document, one of those names. Raises BadResponseError, and for a
    refusal the StoreError that it tells.
    """
    root = read_xml(body)
    if is_refusal(root):
        refusal = read_refusal(200, headers or Headers(), body)
        raise store_error("the store took the request and then failed", refusal)
    if root.name not in names:
        raise BadResponseError(f"the store answered {root.name[:60]!r} in place of {names[0]}")
    return root


def _document(body: bytes) -> Element | None:
    """Returns the element that holds the code, or None."""
    if not body:
        return None
    try:
        root = read_xml(body, max_bytes=MAX_ERROR_BYTES)
    except BadResponseError:
        return None
    if root.name == "ErrorResponse":
        return next(iter(root.each("Error")), None)
    return root if root.name == "Error" else None


def _from_field(value: str | None) -> bytes:
    """Returns the document that OSS puts into a field of an answer to HEAD, in base64."""
    try:
        return base64.b64decode((value or "")[: 2 * MAX_ERROR_BYTES], validate=True)
    except ValueError:
        return b""


def presentable(text: str) -> str:
    """Returns one printable line of at most MAX_MESSAGE characters."""
    line = " ".join(text[: 4 * MAX_MESSAGE].split())
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "\u2026"


def store_error(what: str, refusal: Refusal, *, retry_after_s: float | None = None) -> StoreError:
    """Returns the typed error for a refusal; `what` reads as in "cannot fetch s3://bucket/key"."""
    cls = _CLASS_OF.get(refusal.code) or _class_by_status(refusal.status)
    message = f"{what}: {_said(refusal)}"
    if refusal.region and (cls is StoreError or refusal.code == "AuthorizationHeaderMalformed"):
        message += f"; the bucket is in region {refusal.region}: use region={refusal.region}"
    elif refusal.endpoint:
        message += f"; the bucket is at {refusal.endpoint}: use that endpoint"
    elif refusal.code in _HINTS:
        message += f"; {_HINTS[refusal.code]}"
    ids = [("request", refusal.request_id), ("EC", refusal.ec)]
    told = ", ".join(f"{name} {value}" for name, value in ids if value)
    message += f" ({told})" if told else ""
    error = cls(
        message,
        status=refusal.status,
        code=refusal.code,
        request_id=refusal.request_id,
        host_id=refusal.host_id,
        ec=refusal.ec,
    )
    if isinstance(error, StoreOverloadedError):
        error.retry_after_s = retry_after_s
    return error


def error_of(
    what: str, status: int, headers: Headers, body: bytes = b"", *, now_epoch_s: float
) -> StoreError:
    """Returns the typed error for an answer that refuses, with the wait that its Retry-After asks for."""
    wait_s = parse_retry_after(headers.get("retry-after"), now_epoch_s)
    return store_error(what, read_refusal(status, headers, body), retry_after_s=wait_s)


def _said(refusal: Refusal) -> str:
    if not refusal.code:
        return f"the store answered {refusal.status}"
    return f"{refusal.code}: {refusal.message}" if refusal.message else refusal.code


def _class_by_status(status: int) -> type[StoreError]:
    """Returns the class for a status without a code that is known, as `plan/response.py` has it."""
    if status in (404, 410):
        return StoreNotFoundError
    if status in (401, 403, 407):
        return StoreAuthError
    if status in (429, 503):
        return StoreOverloadedError
    return StoreServerError if status >= 500 or status in (408, 425) else StoreError
