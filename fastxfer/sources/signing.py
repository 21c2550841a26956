"""Signs requests to object stores: AWS Signature Version 4 ("s3"), and Alibaba OSS's V4 ("oss-v4") and V1
("oss-v1").

Pure: the time is an argument, in seconds since 1970. One function signs by header fields, one makes a URL
that anybody may use until it expires. What is signed is the very path and query that go out; both are
percent-encoded once and not normalised. AWS's style (Amazon S3 API Reference, "Authenticating Requests: AWS
Signature Version 4") signs the path as sent, the query sorted, the host and every field it is given; for OSS
see `oss_signing.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from fastxfer.errors import OptionError
from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import Address, encode_query
from fastxfer.sources.oss_signing import presign_v1, presign_v4, sign_v1, sign_v4
from fastxfer.sources.store_request import (
    UNSIGNED_PAYLOAD,
    Fields,
    SignedRequest,
    StoreRequest,
    own_fields,
    sorted_pairs,
    stamp_of,
    v4_signature,
    with_url,
)

__all__ = [
    "UNSIGNED_PAYLOAD",
    "SignedRequest",
    "StoreRequest",
    "Style",
    "presign",
    "sign",
    "style_for",
    "unsigned",
]

Style = Literal["s3", "oss-v4", "oss-v1"]

MAX_EXPIRES_S = 7 * 86400  # of both stores' V4
_SHA256 = re.compile(r"[0-9a-f]{64}")
_S3 = "AWS4-HMAC-SHA256"
# Fields that change on the way, or are the connection's, and so are not signed (as AWS's SDKs have it).
_UNSIGNED = frozenset(
    (
        "baggage", "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "te",
        "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent",
        "x-amzn-trace-id",
    )
)  # fmt: skip


def style_for(kind: str, region: str | None) -> Style:
    """Returns how requests to a store are signed; OSS by its older signature where the region is unknown."""
    if kind == "s3":
        return "s3"
    return "oss-v4" if region else "oss-v1"


def unsigned(request: StoreRequest) -> SignedRequest:
    """Returns an anonymous request."""
    return with_url(request, encode_query(request.query), request.headers)


def sign(
    request: StoreRequest,
    credentials: Credentials,
    style: Style,
    *,
    now_epoch_s: float,
    region: str | None = None,
    payload: str = UNSIGNED_PAYLOAD,
    additional: Iterable[str] = (),
) -> SignedRequest:
    """Returns a request signed by an Authorization field.

    `payload` is the body's SHA-256 in hex, or UNSIGNED_PAYLOAD; OSS signs no body. `additional` names the
    fields that OSS V4 is to sign beside its own. The server takes it for 15 minutes from `now_epoch_s`.
    """
    if payload != UNSIGNED_PAYLOAD and not _SHA256.fullmatch(payload):
        raise ValueError("the payload's SHA-256 must be in lower-case hex")
    fields = own_fields(request.headers)
    query = encode_query(request.query)
    if style == "s3":
        added = _sign_s3(request, credentials, _needed(region), now_epoch_s, payload, fields)
    elif style == "oss-v4":
        added = sign_v4(request, credentials, _needed(region), now_epoch_s, additional, fields)
    else:
        added = sign_v1(request, credentials, now_epoch_s, fields)
    return with_url(request, query, (*fields, *added))


def presign(
    request: StoreRequest,
    credentials: Credentials,
    style: Style,
    *,
    now_epoch_s: float,
    expires_s: int,
    region: str | None = None,
    additional: Iterable[str] = (),
) -> SignedRequest:
    """Returns a request whose URL holds the signature, for `expires_s` seconds; the fields of `request` must
    be sent with it.
    """
    if expires_s < 1 or (expires_s > MAX_EXPIRES_S and style != "oss-v1"):
        raise OptionError(f"a signed URL lives for 1 to {MAX_EXPIRES_S} seconds")
    fields = own_fields(request.headers)
    if style == "s3":
        query = _presign_s3(request, credentials, _needed(region), now_epoch_s, expires_s, fields)
    elif style == "oss-v4":
        query = presign_v4(request, credentials, _needed(region), now_epoch_s, expires_s, additional, fields)
    else:
        query = presign_v1(request, credentials, now_epoch_s, expires_s, fields)
    return with_url(request, query, fields)


def _needed(region: str | None) -> str:
    if not region:
        raise OptionError("the signature needs the region: give region= (--region)")
    return region


def _sign_s3(
    request: StoreRequest, credentials: Credentials, region: str, now: float, payload: str, fields: Fields
) -> Fields:
    stamp = stamp_of(now)
    added = [("X-Amz-Date", stamp), ("X-Amz-Content-SHA256", payload)]
    if credentials.token:
        added.append(("X-Amz-Security-Token", credentials.token))
    lines, names = _s3_fields(request.address, (*fields, *added))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = _s3_canonical(request, encode_query(request.query, bare=False), lines, names, payload)
    signature = v4_signature(_S3, "AWS4", credentials.secret, stamp, scope, text)
    told = (
        f"{_S3} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return (*added, ("Authorization", told))


def _presign_s3(
    request: StoreRequest, credentials: Credentials, region: str, now: float, expires_s: int, fields: Fields
) -> str:
    stamp = stamp_of(now)
    lines, names = _s3_fields(request.address, fields)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    own = [
        ("X-Amz-Algorithm", _S3),
        ("X-Amz-Credential", f"{credentials.access_key_id}/{scope}"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", names),
    ]
    if credentials.token:
        own.append(("X-Amz-Security-Token", credentials.token))
    query = encode_query((*request.query, *own), bare=False)
    text = _s3_canonical(request, query, lines, names, UNSIGNED_PAYLOAD)
    return f"{query}&X-Amz-Signature={v4_signature(_S3, 'AWS4', credentials.secret, stamp, scope, text)}"


def _s3_fields(address: Address, fields: Fields) -> tuple[str, str]:
    """Returns the canonical fields, a line each, and their names; the values of a repeated one are joined."""
    values: dict[str, list[str]] = {"host": [address.authority]}
    for name, value in fields:
        if name.lower() not in _UNSIGNED:
            values.setdefault(name.lower(), []).append(" ".join(value.split()))
    lines = "".join(f"{name}:{','.join(values[name])}\n" for name in sorted(values))
    return lines, ";".join(sorted(values))


def _s3_canonical(request: StoreRequest, query: str, lines: str, names: str, payload: str) -> str:
    ordered = "&".join("=".join(pair) for pair in sorted_pairs(query))
    return "\n".join((request.method, request.address.path, ordered, lines, names, payload))
