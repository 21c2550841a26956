"""The pages of a bucket's objects, as S3 and OSS write them, and as nobody should."""

from __future__ import annotations

from datetime import datetime, timezone
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import botocore.session
import pytest
from botocore.parsers import RestXMLParser
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxfer.errors import BadResponseError, FastxferError, StoreAuthError, StoreServerError
from fastxfer.plan.response import Headers
from fastxfer.sources.object_listing import (
    MAX_TOKEN,
    ListedObject,
    ObjectsPage,
    read_objects,
    time_of,
)
from tests.sources.store_strategies import keys

S3 = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
OSS = ' xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com"'


def page(inner: str, namespace: str = S3) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<ListBucketResult{namespace}><Name>b</Name>{inner}</ListBucketResult>".encode()


def listed(key: str = "k", **more: str) -> str:
    told = {"Key": key, "Size": "5", "ETag": "&quot;e1&quot;", "LastModified": "2024-02-29T12:00:00.250Z"}
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in {**told, **more}.items())
    return f"<Contents>{inner}<StorageClass>STANDARD</StorageClass></Contents>"


def goes_on(token: str) -> str:
    return f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"


@pytest.mark.parametrize("namespace", [S3, OSS, ""], ids=["s3", "oss", "none"])
def test_a_page_is_read(namespace: str) -> None:
    found = read_objects(page(listed("a/b") + listed("c", Size="0") + goes_on(" t+% "), namespace))
    noon = datetime(2024, 2, 29, 12, 0, 0, 250_000, timezone.utc).timestamp()
    assert found == ObjectsPage(
        (ListedObject("a/b", 5, '"e1"', noon), ListedObject("c", 0, '"e1"', noon)), " t+% "
    )


def test_the_last_page_has_no_token() -> None:
    assert read_objects(page("<IsTruncated>false</IsTruncated>")) == ObjectsPage((), None)
    assert read_objects(page("<NextContinuationToken>t</NextContinuationToken>")).next_token is None


def test_keys_are_decoded_as_their_store_encodes_them() -> None:
    url = "<EncodingType>url</EncodingType>"
    (found,) = read_objects(page(url + listed("a+b%2Bc%0D"))).objects
    assert found.key == "a b+c\r"
    (found,) = read_objects(page(url + listed("a+b%2Bc")), kind="oss").objects
    assert found.key == "a+b+c"
    (found,) = read_objects(page(listed("a+b%2Bc"))).objects
    assert found.key == "a+b%2Bc"
    (found,) = read_objects(page(listed("a%20b")), encoded=True).objects
    assert found.key == "a b"
    assert read_objects(page(url + goes_on("a%2Bb"))).next_token == "a%2Bb"
    assert read_objects(page(url + goes_on("a%2Bb")), kind="oss").next_token == "a+b"


@given(keys)
def test_any_key_is_read_as_it_was_written(key: str) -> None:
    url = "<EncodingType>url</EncodingType>"
    assert read_objects(page(url + listed(quote_plus(key, safe="/")))).objects[0].key == key
    assert read_objects(page(url + listed(quote(key))), kind="oss").objects[0].key == key
    if all(letter >= " " and letter not in "\x7f\ufffe\uffff" for letter in key):
        assert read_objects(page(listed(escape(key)))).objects[0].key == key


@pytest.mark.parametrize(
    ("told", "etag"),
    [("&quot;a-2&quot;", '"a-2"'), ("a", '"a"'), ("", None), ("ü", None), ('"a"b"', None), ("a&#10;b", None)],
)
def test_an_etag_has_its_quotes_or_is_none(told: str, etag: str | None) -> None:
    assert read_objects(page(listed(ETag=told))).objects[0].etag == etag


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:01Z", 1.0), ("2001-09-09T01:46:40.5+00:00", 1e9 + 0.5), ("", None), ("now", None),
     ("2023-02-29T00:00:00Z", None), ("2023-01-01T25:00:00Z", None), ("2023-01-01T00:00:00", None),
     ("2023-01-01T00:00:00+08:00", None), ("0000-01-01T00:00:00Z", None)],
)  # fmt: skip
def test_a_time_is_in_utc_or_none(text: str, seconds: float | None) -> None:
    assert time_of(text) == seconds


@pytest.mark.parametrize(
    "body",
    [b"", b"<html/>", b"{}", b"<ListBucketResult>", b"<!DOCTYPE x><ListBucketResult/>", page(listed("")),
     page(listed(Size="-1")), page(listed(Size="")), page(listed(Size="9" * 19)),
     page("<IsTruncated>true</IsTruncated>"), page(goes_on("")), page(goes_on("t" * (MAX_TOKEN + 1))),
     page("<IsTruncated>perhaps</IsTruncated>"), page("<EncodingType>x</EncodingType>" + listed()),
     page("<EncodingType>url</EncodingType>" + listed("%ff")), page(listed("a&#7;b"))],
)  # fmt: skip
def test_what_is_no_page_is_refused(body: bytes) -> None:
    with pytest.raises(BadResponseError):
        read_objects(body)


def test_an_error_under_200_is_that_error() -> None:
    with pytest.raises(StoreServerError) as failed:
        read_objects(b"<Error><Code>InternalError</Code></Error>", Headers([("x-amz-request-id", "R1")]))
    assert (failed.value.code, failed.value.request_id) == ("InternalError", "R1")
    with pytest.raises(StoreAuthError):
        read_objects(b"<Error><Code>AccessDenied</Code></Error>")


NAMES = (
    "Contents", "Key", "Size", "ETag", "LastModified", "IsTruncated", "NextContinuationToken", "EncodingType",
)  # fmt: skip
TEXTS = st.sampled_from(("1", "true", "false", "url", "k", '"e"', "", "%ff", "-1", "2024-02-29T12:00:00Z"))
TREES = st.recursive(
    TEXTS | st.text(st.characters(codec="utf-8", exclude_characters="<&"), max_size=5),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(NAMES), inner).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>"),
        max_size=8,
    ).map("".join),
    max_leaves=25,
)


@given(TREES, st.sampled_from(("s3", "oss")), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_document_is_read_or_refused_by_a_typed_error(inner: str, kind: str, encoded: bool) -> None:
    try:
        found = read_objects(page(inner), kind=kind, encoded=encoded)
    except FastxferError as refused:
        assert str(refused).isprintable()
        return
    assert all(each.key and each.size >= 0 for each in found.objects)
    assert found.next_token is None or 0 < len(found.next_token) <= MAX_TOKEN


def test_a_page_is_read_as_botocore_reads_it() -> None:
    model = botocore.session.Session().get_service_model("s3").operation_model("ListObjectsV2")
    body = page(
        listed("a b&amp;c") + listed("d", ETag="&quot;x-3&quot;") + goes_on("1ueGcxLPRx1Tr/XYExHnhbYL")
    )
    theirs = RestXMLParser().parse({"status_code": 200, "headers": {}, "body": body}, model.output_shape)
    ours = read_objects(body)
    assert [
        (each["Key"], each["Size"], each["ETag"], each["LastModified"].timestamp())
        for each in theirs["Contents"]
    ] == [(each.key, each.size, each.etag, each.modified) for each in ours.objects]
    assert theirs["NextContinuationToken"] == ours.next_token
