"""The checksums of the whole object that an answer of a store tells.

Amazon's S3 tells them of a whole object only, and rclone of any range the whole object's: they are taken from
answers that bring all of it, and from HEAD. OSS tells the same CRC-64 with every answer.
"""

from __future__ import annotations

import base64
import re

from fastxfer.plan.response import Headers

# Others are not reckoned while the bytes come: they would cost more than they tell.
_S3 = {"crc64nvme": ("x-amz-checksum-crc64nvme", 8), "crc32c": ("x-amz-checksum-crc32c", 4)}
_DECIMAL = re.compile(r"[0-9]{1,20}")
_PRESIGNED = re.compile(r"[?&](OSSAccessKeyId|x-oss-signature|X-Amz-Signature|AWSAccessKeyId)=")
_PROCESSED = re.compile(r"[?&]x-oss-process=")


def told_checksums(headers: Headers, *, whole: bool) -> dict[str, str]:
    """Returns the checksums (lower-case hex) that the fields tell; `whole` says that the answer is about all
    of the object. What cannot be read is none, and so is one that is made of those of parts.
    """
    found = {}
    crc = headers.get("x-oss-hash-crc64ecma") or ""
    if _DECIMAL.fullmatch(crc) and int(crc) < 2**64:
        found["crc64xz"] = f"{int(crc):016x}"
    if whole and headers.get("x-amz-checksum-type") != "COMPOSITE":
        for name, (field, size) in _S3.items():
            digest = _digest(headers.get(field) or "")
            if len(digest) == size:
                found[name] = digest.hex()
                break
    return found


def is_presigned(url: str) -> bool:
    """Returns whether a URL is signed by a store's way, and for the object as it is."""
    return bool(_PRESIGNED.search(url)) and not _PROCESSED.search(url)


def _digest(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
