"""When a presigned URL expires, as its own query says."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

# Signing time and lifetime: AWS Signature Version 4 query parameters, Google Cloud Storage V4 signed URLs,
# Alibaba Cloud OSS V4 presigned URLs.
_DATED = (
    ("x-amz-date", "x-amz-expires"),
    ("x-goog-date", "x-goog-expires"),
    ("x-oss-date", "x-oss-expires"),
)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
# ISO 8601 as Azure takes it: seconds and zone may be left out, which then is UTC.
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)


def expires_at(url: str) -> float | None:
    """Returns when the URL expires, in seconds since 1970 (UTC), or None where its query does not say so.

    Read are the parameters of AWS Signature Version 4, of Google's and Alibaba's V4 forms, `Expires` beside
    `Signature` (AWS Version 2, OSS V1, CloudFront), and `se` beside `sig` (Azure shared access signatures).
    """
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    for date, lifetime in _DATED:
        stamp, seconds = _STAMP.fullmatch(query.get(date, "")), query.get(lifetime, "")
        if stamp and _NUMBER.fullmatch(seconds):
            signed = _epoch_s(stamp.groups())
            return signed + float(seconds) if signed is not None else None
    if "signature" in query and _NUMBER.fullmatch(query.get("expires", "")):
        return float(query["expires"])
    told = _ISO.fullmatch(query.get("se", "")) if "sig" in query else None
    if told is None:
        return None
    *moment, zone = told.groups()
    ends = _epoch_s(moment)
    return ends - _offset_s(zone) if ends is not None else None


def _epoch_s(moment: Sequence[str | None]) -> float | None:
    """Returns year, month, day, hour, minute and second (UTC) in seconds since 1970, None for no such day."""
    try:
        return float(timegm(tuple(int(each or 0) for each in moment)))
    except ValueError:
        return None


def _offset_s(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return -seconds if zone[0] == "-" else seconds
