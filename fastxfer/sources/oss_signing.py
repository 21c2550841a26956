"""How requests to Alibaba OSS are signed: V4, and the older V1. `signing.py` is what others use.

V4 (OSS API reference, "V4 signatures in the header" and "in the URL") signs `/bucket/key` whatever the host
is, writes an empty value in the query without "=", and signs x-oss-*, Content-Type and Content-MD5, other
fields only where they are named. The body is never signed. V1 signs the plain `/bucket/key`, of the query
what are sub-resources, and the fields x-oss-*.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

from fastxfer.plan.dates import http_date
from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import Address, encode, encode_key, encode_query
from fastxfer.sources.store_request import (
    UNSIGNED_PAYLOAD,
    Fields,
    StoreRequest,
    sorted_pairs,
    stamp_of,
    v4_signature,
)

_OSS = "OSS4-HMAC-SHA256"
# What of a query is part of the resource for OSS V1 (OSS API reference, "CanonicalizedResource").
SUB_RESOURCES = frozenset(
    (
        "accessPoint", "accessPointPolicy", "acl", "append", "asyncFetch", "bucketArchiveDirectRead",
        "bucketInfo", "callback", "callback-var", "cname", "comp", "continuation-token", "cors", "delete",
        "encryption", "endTime", "group", "httpsConfig", "inventory", "inventoryId", "lifecycle", "link",
        "live", "location", "logging", "metaQuery", "objectInfo", "objectMeta", "partNumber", "policy",
        "position", "publicAccessBlock", "qos", "qosInfo", "qosRequester", "redundancyTransition", "referer",
        "regionList", "replication", "replicationLocation", "replicationProgress", "requestPayment",
        "requesterQosInfo", "resourceGroup", "resourcePool", "resourcePoolBuckets", "resourcePoolInfo",
        "response-cache-control", "response-content-disposition", "response-content-encoding",
        "response-content-language", "response-content-type", "response-expires", "restore",
        "security-token", "sequential", "startTime", "stat", "status", "style", "styleName", "symlink",
        "tagging", "transferAcceleration", "uploadId", "uploads", "versionId", "versioning", "versions",
        "vod", "website", "worm", "wormExtend", "wormId", "x-oss-ac-forward-allow", "x-oss-ac-source-ip",
        "x-oss-ac-subnet-mask", "x-oss-ac-vpc-id", "x-oss-access-point-name", "x-oss-async-process",
        "x-oss-process", "x-oss-redundancy-transition-taskid", "x-oss-request-payer",
        "x-oss-target-redundancy-type", "x-oss-traffic-limit", "x-oss-write-get-object-response",
    )
)  # fmt: skip


def sign_v4(
    request: StoreRequest,
    credentials: Credentials,
    region: str,
    now: float,
    additional: Iterable[str],
    fields: Fields,
) -> Fields:
    stamp = stamp_of(now)
    added = [("x-oss-date", stamp), ("Date", http_date(now))]
    if credentials.token:
        added.append(("x-oss-security-token", credentials.token))
    added.append(("x-oss-content-sha256", UNSIGNED_PAYLOAD))
    known = _oss_fields(request.address, (*fields, *added))
    more = _additional(known, additional)
    scope = f"{stamp[:8]}/{region}/oss/aliyun_v4_request"
    text = _canonical(request, encode_query(request.query), known, more)
    signature = v4_signature(_OSS, "aliyun_v4", credentials.secret, stamp, scope, text)
    listed = f",AdditionalHeaders={';'.join(more)}" if more else ""
    told = f"{_OSS} Credential={credentials.access_key_id}/{scope}{listed},Signature={signature}"
    return (*added, ("Authorization", told))


def presign_v4(
    request: StoreRequest,
    credentials: Credentials,
    region: str,
    now: float,
    expires_s: int,
    additional: Iterable[str],
    fields: Fields,
) -> str:
    stamp = stamp_of(now)
    known = _oss_fields(request.address, fields)
    more = _additional(known, additional)
    scope = f"{stamp[:8]}/{region}/oss/aliyun_v4_request"
    own = [
        ("x-oss-signature-version", _OSS),
        ("x-oss-date", stamp),
        ("x-oss-expires", str(expires_s)),
        ("x-oss-credential", f"{credentials.access_key_id}/{scope}"),
    ]
    if credentials.token:
        own.append(("x-oss-security-token", credentials.token))
    if more:
        own.append(("x-oss-additional-headers", ";".join(more)))
    query = encode_query((*request.query, *own))
    text = _canonical(request, query, known, more)
    return (
        f"{query}&x-oss-signature={v4_signature(_OSS, 'aliyun_v4', credentials.secret, stamp, scope, text)}"
    )


def _additional(known: dict[str, str], names: Iterable[str]) -> list[str]:
    """Returns those of the fields named that are there and are not signed anyway."""
    wanted = {name.lower() for name in names}
    return sorted(name for name in wanted if known.get(name) and not _always(name))


def _canonical(request: StoreRequest, query: str, known: dict[str, str], more: list[str]) -> str:
    resource = encode_key(plain_resource(request.address))
    ordered = "&".join(f"{name}={value}" if value else name for name, value in sorted_pairs(query))
    lines = "".join(f"{name}:{known[name]}\n" for name in sorted(known) if _always(name) or name in more)
    return "\n".join((request.method, resource, ordered, lines, ";".join(more), UNSIGNED_PAYLOAD))


def _always(name: str) -> bool:
    return name.startswith("x-oss-") or name in ("content-type", "content-md5")


def sign_v1(request: StoreRequest, credentials: Credentials, now: float, fields: Fields) -> Fields:
    date = http_date(now)
    added = [("Date", date)]
    if credentials.token:
        added.append(("x-oss-security-token", credentials.token))
    signature = _v1_signature(request, credentials, request.query, date, (*fields, *added))
    return (*added, ("Authorization", f"OSS {credentials.access_key_id}:{signature}"))


def presign_v1(
    request: StoreRequest, credentials: Credentials, now: float, expires_s: int, fields: Fields
) -> str:
    expires = str(int(now) + expires_s)
    own = [("OSSAccessKeyId", credentials.access_key_id), ("Expires", expires)]
    if credentials.token:
        own.append(("security-token", credentials.token))
    query = (*request.query, *own)
    signature = _v1_signature(request, credentials, query, expires, fields)
    return f"{encode_query(query)}&Signature={encode(signature)}"


def _v1_signature(
    request: StoreRequest, credentials: Credentials, query: Fields, date: str, fields: Fields
) -> str:
    known = _oss_fields(request.address, fields)
    lines = "".join(f"{name}:{known[name]}\n" for name in sorted(known) if name.startswith("x-oss-"))
    part = sorted(pair for pair in query if pair[0] in SUB_RESOURCES)
    sub = "&".join(f"{name}={value}" if value else name for name, value in part)
    resource = plain_resource(request.address) + (f"?{sub}" if sub else "")
    md5, kind = known.get("content-md5", ""), known.get("content-type", "")
    text = f"{request.method}\n{md5}\n{kind}\n{date}\n{lines}{resource}"
    return base64.b64encode(hmac.digest(credentials.secret.encode(), text.encode(), "sha1")).decode()


def plain_resource(address: Address) -> str:
    """Returns what OSS calls the resource: `/bucket/key`, whatever the host is, or `/` for none."""
    return f"/{address.bucket}/{address.key}" if address.bucket else "/"


def _oss_fields(address: Address, fields: Fields) -> dict[str, str]:
    """Returns the fields by their names in lower case, the host too; a repeated one is joined by commas."""
    known = {"host": address.authority}
    for name, value in fields:
        low = name.lower()
        known[low] = f"{known[low]},{value}" if low in known else value
    return known
