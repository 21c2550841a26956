"""The checksums that an answer of a store tells."""

from __future__ import annotations

import pytest

from fastxfer.plan.response import Headers
from fastxfer.sources.told_checksums import is_presigned, told_checksums

NVME = ("x-amz-checksum-crc64nvme", "JVwFHEnxuRY=")
CRC32C = ("X-Amz-Checksum-Crc32c", "NPtq7A==")


@pytest.mark.parametrize(
    ("fields", "whole", "told"),
    [
        ([("x-oss-hash-crc64ecma", "255")], False, {"crc64xz": "00000000000000ff"}),
        ([("x-oss-hash-crc64ecma", str(2**64))], True, {}),
        ([("x-oss-hash-crc64ecma", "-1")], True, {}),
        ([("x-oss-hash-crc64ecma", "9" * 5000)], True, {}),
        ([NVME, CRC32C], True, {"crc64nvme": "255c051c49f1b916"}),
        ([CRC32C], True, {"crc32c": "34fb6aec"}),
        ([CRC32C, ("x-amz-checksum-type", "FULL_OBJECT")], True, {"crc32c": "34fb6aec"}),
        ([CRC32C, ("x-amz-checksum-type", "COMPOSITE")], True, {}),
        ([NVME], False, {}),
        ([("x-amz-checksum-crc32c", "NPtq7A==-3")], True, {}),
        ([("x-amz-checksum-crc32c", "JVwFHEnxuRY=")], True, {}),
        ([("x-amz-checksum-crc64nvme", "\xe9\xe9")], True, {}),
        ([], True, {}),
    ],
)
def test_what_an_answer_tells(fields: list[tuple[str, str]], whole: bool, told: dict[str, str]) -> None:
    assert told_checksums(Headers(fields), whole=whole) == told


@pytest.mark.parametrize(
    ("url", "presigned"),
    [
        ("https://b.oss-cn-x.aliyuncs.com/k?OSSAccessKeyId=a&Signature=b", True),
        ("https://h/k?versionId=1&X-Amz-Signature=b", True),
        ("https://h/k?x-oss-signature=b&x-oss-process=image/resize", False),
        ("https://h/OSSAccessKeyId=", False),
        ("https://h/k", False),
    ],
)
def test_what_is_presigned(url: str, presigned: bool) -> None:
    assert is_presigned(url) is presigned
