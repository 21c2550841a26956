"""The documents of multipart uploads, as S3 and OSS write them, and as nobody should."""

from __future__ import annotations

import base64

import botocore.session
import pytest
from botocore.parsers import RestXMLParser
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxfer.errors import BadResponseError, FastxferError, StoreAuthError, StoreServerError, UploadGoneError
from fastxfer.plan.response import Headers
from fastxfer.sources.multipart import (
    MAX_PARTS,
    CompletedUpload,
    Copied,
    PartsPage,
    PendingUpload,
    StartedUpload,
    UploadedPart,
    UploadsPage,
    complete_body,
    read_completed,
    read_copied,
    read_parts,
    read_started,
    read_uploads,
)
from fastxfer.sources.store_xml import read_xml

S3 = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
OSS = ' xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com"'
NAMESPACES = pytest.mark.parametrize("namespace", [S3, OSS, ""], ids=["s3", "oss", "none"])
READERS = (read_started, read_parts, read_uploads, read_completed, read_copied)


def xml(root: str, inner: str, namespace: str = S3) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{namespace}>\n{inner}\n</{root}>\n'.encode()


def part(number: int, **more: str) -> str:
    told = {"ETag": f'"{number:032x}"', "Size": "5242880", "LastModified": "2026-01-01T00:00:00.000Z"} | more
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in told.items())
    return f"<Part><PartNumber>{number}</PartNumber>{inner}</Part>"


def parts(*numbers: int, marker: int | None = None, **more: str) -> bytes:
    told = "".join(part(number) for number in numbers)
    ends = "".join(f"<{name}>{text}</{name}>" for name, text in more.items())
    after = "" if marker is None else f"<NextPartNumberMarker>{marker}</NextPartNumberMarker>"
    return xml("ListPartsResult", f"<UploadId>U1</UploadId>{after}{ends}{told}")


def upload(key: str, upload_id: str = "U1") -> str:
    return (
        f"<Upload><Key>{key}</Key><UploadId>{upload_id}</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated>"
        "<StorageClass>Standard</StorageClass></Upload>"
    )


# ---- as they are ----


@NAMESPACES
def test_an_upload_that_was_started(namespace: str) -> None:
    body = xml(
        "InitiateMultipartUploadResult",
        "<Bucket>data</Bucket>\n<Key>a/ b</Key>\n<UploadId>0004B9894A22E5B1888A1E29F8236E2D</UploadId>",
        namespace,
    )
    assert read_started(body) == StartedUpload("data", "a/ b", "0004B9894A22E5B1888A1E29F8236E2D")


def test_an_upload_that_was_started_by_rclone() -> None:
    body = xml("InitiateMultipartUpload", "<Bucket>data</Bucket><Key>k</Key><UploadId>1</UploadId>", "")
    assert read_started(body) == StartedUpload("data", "k", "1")


@NAMESPACES
def test_a_page_of_parts(namespace: str) -> None:
    body = xml(
        "ListPartsResult",
        "<Bucket>data</Bucket><Key>k</Key><UploadId>U1</UploadId><StorageClass>STANDARD</StorageClass>"
        "<PartNumberMarker>1</PartNumberMarker><NextPartNumberMarker>3</NextPartNumberMarker>"
        "<MaxParts>2</MaxParts><IsTruncated>true</IsTruncated>"
        + part(2, ETag="&quot;7778aef83f66abc1fa1e8477f296d394&quot;")
        + part(3, ETag="aaaa", Size="0"),
        namespace,
    )
    when = "2026-01-01T00:00:00.000Z"
    assert read_parts(body, 1) == PartsPage(
        "U1",
        (
            UploadedPart(2, '"7778aef83f66abc1fa1e8477f296d394"', 5242880, when),
            UploadedPart(3, "aaaa", 0, when),
        ),
        3,
    )


def test_the_last_page_of_parts_has_no_marker_whatever_it_says() -> None:
    assert read_parts(parts(4, 5, marker=5, IsTruncated="false"), 3).next_marker is None
    assert read_parts(parts(4, 5)).next_marker is None
    assert read_parts(parts()) == PartsPage("U1", (), None)


def test_a_page_without_a_marker_goes_on_after_its_last_part() -> None:
    assert read_parts(parts(1, 2, IsTruncated="true")).next_marker == 2


def test_a_part_that_is_listed_twice_counts_once_and_not_at_all_in_different_words() -> None:
    # SeaweedFS lists each sending of a part, rclone begins a page with the last part of the one before.
    assert [each.number for each in read_parts(parts(1, 1, 2)).parts] == [1, 2]
    assert [each.number for each in read_parts(parts(1, 2), 1).parts] == [2]
    body = xml("ListPartsResult", f"<UploadId>U1</UploadId>{part(1)}{part(1, ETag='other')}{part(2)}")
    assert [each.number for each in read_parts(body).parts] == [2]


def test_an_upload_that_was_completed_without_a_word_of_its_etag() -> None:
    body = xml("CompleteMultipartUploadResult", "<Bucket>data</Bucket><Key>k</Key>")
    assert read_completed(body) == CompletedUpload("data", "k", "")


@NAMESPACES
def test_a_page_of_uploads(namespace: str) -> None:
    body = xml(
        "ListMultipartUploadsResult",
        "<Bucket>data</Bucket><KeyMarker></KeyMarker><EncodingType>url</EncodingType>"
        "<NextKeyMarker>b+b</NextKeyMarker><NextUploadIdMarker>U2</NextUploadIdMarker>"
        "<IsTruncated>true</IsTruncated>" + upload("a%2Fa%2B") + upload("b+b", "U2"),
        namespace,
    )
    when = "2026-01-01T00:00:00Z"
    assert read_uploads(body) == UploadsPage(
        (PendingUpload("a/a+", "U1", when), PendingUpload("b b", "U2", when)), ("b b", "U2")
    )


def test_keys_are_as_they_stand_where_no_encoding_is_told() -> None:
    body = xml("ListMultipartUploadsResult", upload(" a+b%20\n"))
    assert read_uploads(body).uploads[0].key == " a+b%20\n"


@NAMESPACES
def test_an_upload_that_was_completed(namespace: str) -> None:
    body = xml(
        "CompleteMultipartUploadResult",
        "<EncodingType>url</EncodingType><Location>http://data.store.example/a</Location>"
        '<Bucket>data</Bucket><Key>a%20b</Key><ETag>"3858f62230ac3c915f300c664312c11f-9"</ETag>',
        namespace,
    )
    assert read_completed(body) == CompletedUpload(
        "data", "a b", '"3858f62230ac3c915f300c664312c11f-9"', "http://data.store.example/a"
    )


def test_white_space_that_kept_the_connection_alive_is_no_part_of_the_answer() -> None:
    # S3 sends it while it works, after the XML declaration.
    body = b'<?xml version="1.0" encoding="UTF-8"?>' + b"\n \n" * 500
    body += b'<CompleteMultipartUploadResult><ETag>"e-1"</ETag></CompleteMultipartUploadResult>'
    assert read_completed(body).etag == '"e-1"'


@NAMESPACES
@pytest.mark.parametrize("root", ["CopyPartResult", "CopyObjectResult"])
def test_what_was_copied(root: str, namespace: str) -> None:
    body = xml(root, '<LastModified>2026-01-01T00:00:00Z</LastModified><ETag>"e"</ETag>', namespace)
    assert read_copied(body) == Copied('"e"', "2026-01-01T00:00:00Z")


# ---- checksums ----

CRC64 = base64.b64encode(bytes.fromhex("995dc9bbdf1939fa")).decode()
SHA256 = base64.b64encode(bytes(range(32))).decode()


def test_checksums_of_parts_are_told_in_hex() -> None:
    body = xml(
        "ListPartsResult",
        "<UploadId>U1</UploadId>"
        + part(1, ChecksumCRC64NVME=CRC64, ChecksumSHA256=SHA256)
        + part(2, HashCrc64ecma="11051210869376104954")
        + part(3, HashCrc64ecma="7", ChecksumCRC32C=""),
    )
    assert [each.checksums for each in read_parts(body).parts] == [
        (("crc64nvme", "995dc9bbdf1939fa"), ("sha256", bytes(range(32)).hex())),
        (("crc64xz", "995dc9bbdf1939fa"),),
        (("crc64xz", "0000000000000007"),),
    ]


@pytest.mark.parametrize(
    ("kind", "crc", "checksums"),
    [
        ("FULL_OBJECT", CRC64, (("crc64nvme", "995dc9bbdf1939fa"),)),
        ("", CRC64, (("crc64nvme", "995dc9bbdf1939fa"),)),
        ("COMPOSITE", CRC64, ()),
        ("COMPOSITE", CRC64 + "-3", ()),
        ("", CRC64 + "-3", ()),
    ],
)
def test_only_checksums_of_the_whole_object_are_taken(
    kind: str, crc: str, checksums: tuple[tuple[str, str], ...]
) -> None:
    told = f"<ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME><ChecksumType>{kind}</ChecksumType><ETag>e</ETag>"
    assert read_completed(xml("CompleteMultipartUploadResult", told)).checksums == checksums


@pytest.mark.parametrize(
    "told",
    [
        {"ChecksumCRC64NVME": "AAAA"}, {"ChecksumCRC64NVME": "!"}, {"ChecksumSHA256": CRC64},
        {"HashCrc64ecma": "18446744073709551616"}, {"HashCrc64ecma": "0x7"}, {"HashCrc64ecma": "٣"},
    ],
)  # fmt: skip
def test_a_checksum_that_is_none_is_a_bad_answer(told: dict[str, str]) -> None:
    with pytest.raises(BadResponseError, match=next(iter(told))):
        read_parts(xml("ListPartsResult", f"<UploadId>U</UploadId>{part(1, **told)}"))


# ---- as nobody should ----


@pytest.mark.parametrize(
    ("body", "marker"),
    [
        (parts(2, 1), 0),
        (parts(1, 2, 3, marker=3, IsTruncated="true"), 3),  # the marker is ignored
        (parts(4, marker=3, IsTruncated="true"), 3),
        (parts(4, 5, marker=4, IsTruncated="true"), 3),
        (parts(IsTruncated="true"), 0),
        (parts(IsTruncated="true"), 7),
        (parts(1, marker=10001, IsTruncated="true"), 0),
        (parts(1, marker=-1, IsTruncated="true"), 0),
        (parts(1, IsTruncated="perhaps"), 0),
        (parts(0), 0),
        (parts(MAX_PARTS + 1), 0),
    ],
)
def test_a_list_of_parts_that_does_not_get_on_is_refused(body: bytes, marker: int) -> None:
    with pytest.raises(BadResponseError):
        read_parts(body, marker)


@pytest.mark.parametrize(
    "more",
    [{"Size": "-1"}, {"Size": "9223372036854775808"}, {"Size": "1e3"}, {"Size": ""}, {"ETag": ""},
     {"ETag": "a&#10;b"}, {"ETag": "ü"}, {"ETag": "e" * 1025}],
)  # fmt: skip
def test_a_part_that_cannot_be_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(BadResponseError):
        read_parts(xml("ListPartsResult", f"<UploadId>U1</UploadId>{part(1, **more)}"))


@pytest.mark.parametrize("upload_id", ["", "a b", "a&#10;b", "ü", "u" * 1025])
def test_an_upload_id_that_cannot_be_sent_is_refused(upload_id: str) -> None:
    told = f"<UploadId>{upload_id}</UploadId>"
    for read, root in ((read_started, "InitiateMultipartUploadResult"), (read_parts, "ListPartsResult")):
        with pytest.raises(BadResponseError, match="UploadId"):
            read(xml(root, told))


@pytest.mark.parametrize(
    ("key", "upload_id", "asked"),
    [("k", "U1", ("k", "U1")), ("j", "U9", ("k", "U1")), ("", "U9", ("k", "U1")), ("", "", ("", ""))],
)
def test_a_list_of_uploads_that_does_not_get_on_is_refused(
    key: str, upload_id: str, asked: tuple[str, str]
) -> None:
    told = f"<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{upload_id}</NextUploadIdMarker>"
    body = xml("ListMultipartUploadsResult", f"{told}<IsTruncated>true</IsTruncated>")
    with pytest.raises(BadResponseError, match="does not get on"):
        read_uploads(body, asked)


@pytest.mark.parametrize("read", READERS)
def test_an_error_under_200_is_that_error(read: object) -> None:
    failed = b"<Error><Code>InternalError</Code><Message>Try again.</Message></Error>"
    headers = Headers([("x-amz-request-id", "R1")])
    with pytest.raises(StoreServerError) as raised:
        read(failed, headers=headers)  # type: ignore[operator]
    assert (raised.value.code, raised.value.status, raised.value.request_id) == ("InternalError", 200, "R1")
    for code, cls in (("NoSuchUpload", UploadGoneError), ("AccessDenied", StoreAuthError)):
        with pytest.raises(cls):
            read(f"<Error><Code>{code}</Code></Error>".encode())  # type: ignore[operator]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "body",
    [b"", b"<html/>", b"<ListBucketResult/>", b"<Error", b"<!DOCTYPE x><CopyPartResult/>", b"{}",
     b"<CompleteMultipartUploadResult/>", b"<CopyPartResult/>", b"<InitiateMultipartUploadResult/>",
     b"<ListPartsResult/>", b"<ListMultipartUploadsResult><Upload/></ListMultipartUploadsResult>"],
)  # fmt: skip
def test_what_is_not_the_answer_is_refused(read: object, body: bytes) -> None:
    with pytest.raises(BadResponseError):
        read(body)  # type: ignore[operator]


NAMES = (
    "UploadId", "Part", "PartNumber", "ETag", "Size", "IsTruncated", "NextPartNumberMarker", "Upload", "Key",
    "NextKeyMarker", "NextUploadIdMarker", "EncodingType", "ChecksumCRC32", "HashCrc64ecma", "ChecksumType",
    "LastModified", "Initiated", "Location", "Code", "Message", "Bucket",
)  # fmt: skip
ROOTS = (
    "ListPartsResult", "ListMultipartUploadsResult", "InitiateMultipartUploadResult", "CopyPartResult",
    "CompleteMultipartUploadResult", "CopyObjectResult", "Error",
)  # fmt: skip
TEXTS = st.sampled_from(("1", "2", "true", "false", "url", "U", '"e"', "", "AAAAAA==", "%ff", "-1", "9" * 30))
TREES = st.recursive(
    TEXTS | st.text(st.characters(codec="utf-8", exclude_characters="<&"), max_size=5),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(NAMES), inner).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>"),
        max_size=8,
    ).map("".join),
    max_leaves=25,
)


@given(st.sampled_from(READERS), st.sampled_from(ROOTS), TREES)
@settings(max_examples=600, deadline=None)
def test_any_document_is_read_or_refused_by_a_typed_error(read: object, root: str, inner: str) -> None:
    try:
        found = read(xml(root, inner, ""))  # type: ignore[operator]
    except FastxferError as refused:
        assert str(refused).isprintable()
        return
    if isinstance(found, PartsPage):
        numbers = [each.number for each in found.parts]
        assert numbers == sorted(set(numbers))
        assert all(1 <= number <= MAX_PARTS for number in numbers)
        assert all(0 <= each.size < 2**63 and each.etag.isprintable() for each in found.parts)
    if isinstance(found, StartedUpload):
        assert found.upload_id.isascii() and found.upload_id.isprintable()


# ---- what is sent ----


def test_the_parts_of_an_upload_are_sent_in_order() -> None:
    sent = complete_body(
        [UploadedPart(2, '"b"'), UploadedPart(1, '"a<&>"', checksums=(("crc64nvme", "995dc9bbdf1939fa"),))]
    )
    assert sent == (
        b'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b'<Part><PartNumber>1</PartNumber><ETag>"a&lt;&amp;&gt;"</ETag>'
        b"<ChecksumCRC64NVME>" + CRC64.encode() + b"</ChecksumCRC64NVME></Part>"
        b'<Part><PartNumber>2</PartNumber><ETag>"b"</ETag></Part></CompleteMultipartUpload>'
    )


def test_oss_gets_no_namespace_and_no_checksums() -> None:
    sent = complete_body(
        [UploadedPart(1, "a", checksums=(("crc64nvme", "00" * 8), ("crc64xz", "00" * 8)))], "oss"
    )
    assert sent == (
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>"
        b"</CompleteMultipartUpload>"
    )


@pytest.mark.parametrize("numbers", [[], [0], [MAX_PARTS + 1], [1, 1], [1, -5]], ids=str)
def test_parts_that_make_no_upload_are_not_sent(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="parts are numbered"):
        complete_body([UploadedPart(number, "e") for number in numbers])


@pytest.mark.parametrize("etag", ["", "a\nb", "ü"])
def test_an_etag_that_is_none_is_not_sent(etag: str) -> None:
    with pytest.raises(ValueError, match="ETag"):
        complete_body([UploadedPart(1, etag)])


ETAGS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40).map(
    lambda text: f'"{text}"'
)


@given(
    st.dictionaries(st.integers(1, MAX_PARTS), ETAGS, min_size=1, max_size=20), st.sampled_from(("s3", "oss"))
)
def test_what_is_sent_reads_back(etags: dict[int, str], kind: str) -> None:
    root = read_xml(complete_body((UploadedPart(*pair) for pair in etags.items()), kind))
    assert {each.number("PartNumber", 1, MAX_PARTS): each.raw("ETag") for each in root.each("Part")} == etags


# ---- as botocore reads them ----


def botocores(operation: str, body: bytes) -> dict[str, object]:
    """Returns what botocore's own parser makes of an answer."""
    model = botocore.session.Session().get_service_model("s3").operation_model(operation)
    answer = {"status_code": 200, "headers": {}, "body": body}
    parsed: dict[str, object] = RestXMLParser().parse(answer, model.output_shape)
    return parsed


def test_parts_are_read_as_botocore_reads_them() -> None:
    body = parts(1, 5, 9, marker=9, IsTruncated="true")
    theirs = botocores("ListParts", body)
    ours = read_parts(body)
    assert [(each["PartNumber"], each["ETag"], each["Size"]) for each in theirs["Parts"]] == [  # type: ignore[attr-defined]
        (each.number, each.etag, each.size) for each in ours.parts
    ]
    assert theirs["NextPartNumberMarker"] == ours.next_marker
    assert theirs["UploadId"] == ours.upload_id


def test_uploads_are_read_as_botocore_reads_them() -> None:
    body = xml("ListMultipartUploadsResult", upload("a", "U1") + upload("b", "U2"))
    theirs = botocores("ListMultipartUploads", body)
    assert [(each["Key"], each["UploadId"]) for each in theirs["Uploads"]] == [  # type: ignore[attr-defined]
        (each.key, each.upload_id) for each in read_uploads(body).uploads
    ]
