"""What object stores say when they refuse, the typed error that it becomes, and what it says of clocks."""

from __future__ import annotations

import base64
import json
import pickle
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastxfer
from fastxfer.errors import (
    AuthError,
    BadResponseError,
    CannotResumeError,
    NotFoundError,
    OverloadedError,
    Retry,
    ServerError,
    StoreAuthError,
    StoreError,
    StoreNotFoundError,
    StoreOverloadedError,
    StoreServerError,
    UploadGoneError,
)
from fastxfer.plan.response import Headers
from fastxfer.sources.clock_skew import correction_s, is_about_time, new_correction_s
from fastxfer.sources.store_errors import (
    MAX_ERROR_BYTES,
    Refusal,
    error_of,
    other_region,
    presentable,
    read_refusal,
    store_error,
)
from fastxfer.sources.store_xml import MAX_DEPTH, MAX_ELEMENTS, decoded_key, read_xml

NOW = 1_767_225_600.0
NONE = Headers()

S3_MISSING = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>a/b</Key>
<RequestId>4442587FB7D0A2F9</RequestId><HostId>eftixk72aD6Ap51TnqcoF8eFidJG9Z/2mkiDFu8yU9AS1ed4=</HostId>
</Error>"""
OSS_DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error>
  <Code>AccessDenied</Code>
  <Message>The bucket you are attempting to access must be addressed using the specified endpoint.</Message>
  <RequestId>5CAC1C2B6D1B3F3A7C1D5E4F</RequestId>
  <HostId>data.oss-cn-beijing.aliyuncs.com</HostId>
  <Bucket>data</Bucket><Endpoint>oss-cn-hangzhou.aliyuncs.com</Endpoint>
  <EC>0003-00001403</EC>
</Error>"""


def document(code: str, **more: str) -> bytes:
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in {"Code": code, **more}.items())
    return f"<Error>{inner}</Error>".encode()


def error(status: int, body: bytes = b"", **fields: str) -> StoreError:
    headers = Headers([(name.replace("_", "-"), value) for name, value in fields.items()])
    return error_of("cannot fetch s3://data/k", status, headers, body, now_epoch_s=NOW)


# ---- what is told ----


def test_s3_tells_its_code_its_message_and_two_ids() -> None:
    made = error(404, S3_MISSING)
    assert type(made) is StoreNotFoundError
    assert isinstance(made, NotFoundError)
    assert (made.status, made.code, made.ec) == (404, "NoSuchKey", "")
    assert made.request_id == "4442587FB7D0A2F9"
    assert made.host_id.startswith("eftixk72")
    assert str(made) == (
        "cannot fetch s3://data/k: NoSuchKey: The specified key does not exist. (request 4442587FB7D0A2F9)"
    )


def test_oss_tells_an_ec_and_the_endpoint_to_use() -> None:
    made = error(403, OSS_DENIED)
    assert type(made) is StoreAuthError
    assert (made.code, made.ec, made.request_id) == (
        "AccessDenied",
        "0003-00001403",
        "5CAC1C2B6D1B3F3A7C1D5E4F",
    )
    assert "the bucket is at oss-cn-hangzhou.aliyuncs.com: use that endpoint" in str(made)
    assert str(made).endswith("(request 5CAC1C2B6D1B3F3A7C1D5E4F, EC 0003-00001403)")


def test_ids_come_from_fields_where_there_is_no_document() -> None:
    s3 = read_refusal(
        403,
        Headers([("X-Amz-Request-Id", "R1"), ("X-Amz-Id-2", "H1/+="), ("x-amz-bucket-region", "eu-west-1")]),
    )
    assert (s3.request_id, s3.host_id, s3.region, s3.code) == ("R1", "H1/+=", "eu-west-1", "")
    oss = read_refusal(404, Headers([("x-oss-request-id", "R2"), ("x-oss-ec", "0026-00000001")]))
    assert (oss.request_id, oss.ec) == ("R2", "0026-00000001")


def test_what_oss_answers_to_head_is_in_a_field() -> None:
    told = base64.b64encode(document("NoSuchKey", EC="0026-00000001", RequestId="R3")).decode()
    made = error(404, x_oss_err=told)
    assert (made.code, made.ec, made.request_id) == ("NoSuchKey", "0026-00000001", "R3")


def test_a_document_counts_more_than_fields() -> None:
    refusal = read_refusal(
        403, Headers([("x-amz-request-id", "R1")]), document("AccessDenied", RequestId="R2")
    )
    assert refusal.request_id == "R2"


@pytest.mark.parametrize(
    "body",
    [
        b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>SlowDown</Code></Error>',
        b'<e:Error xmlns:e="http://doc.oss-cn-hangzhou.aliyuncs.com"><e:Code>SlowDown</e:Code></e:Error>',
        b"<ErrorResponse><Error><Code>SlowDown</Code></Error><RequestId>x</RequestId></ErrorResponse>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><Error>\n<Code> SlowDown\n</Code></Error>\n",
        b"<Error><Code><![CDATA[SlowDown]]></Code></Error>",
    ],
)
def test_the_document_may_have_a_namespace_or_an_envelope(body: bytes) -> None:
    assert read_refusal(503, NONE, body).code == "SlowDown"


# ---- which error it is ----

CASES = [
    ("NoSuchKey", 404, StoreNotFoundError, NotFoundError, 3, Retry.OTHER_MIRROR),
    ("NoSuchBucket", 404, StoreNotFoundError, NotFoundError, 3, Retry.OTHER_MIRROR),
    ("NoSuchVersion", 404, StoreNotFoundError, NotFoundError, 3, Retry.OTHER_MIRROR),
    ("", 404, StoreNotFoundError, NotFoundError, 3, Retry.OTHER_MIRROR),
    ("AccessDenied", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("SignatureDoesNotMatch", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("InvalidAccessKeyId", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("ExpiredToken", 400, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("SecurityTokenExpired", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("RequestTimeTooSkewed", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("AuthorizationHeaderMalformed", 400, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("", 403, StoreAuthError, AuthError, 24, Retry.OTHER_MIRROR),
    ("SlowDown", 503, StoreOverloadedError, OverloadedError, 29, Retry.SAME_SOURCE),
    ("ServiceUnavailable", 503, StoreOverloadedError, OverloadedError, 29, Retry.SAME_SOURCE),
    ("QpsLimitExceeded", 403, StoreOverloadedError, OverloadedError, 29, Retry.SAME_SOURCE),
    ("", 429, StoreOverloadedError, OverloadedError, 29, Retry.SAME_SOURCE),
    ("InternalError", 500, StoreServerError, ServerError, 22, Retry.SAME_SOURCE),
    ("InternalError", 200, StoreServerError, ServerError, 22, Retry.SAME_SOURCE),
    ("RequestTimeout", 400, StoreServerError, ServerError, 22, Retry.SAME_SOURCE),
    ("BadDigest", 400, StoreServerError, ServerError, 22, Retry.SAME_SOURCE),
    ("", 502, StoreServerError, ServerError, 22, Retry.SAME_SOURCE),
    ("NoSuchUpload", 404, UploadGoneError, CannotResumeError, 8, Retry.NEVER),
    ("InvalidPart", 400, StoreError, StoreError, 22, Retry.OTHER_MIRROR),
    ("InvalidObjectState", 403, StoreError, StoreError, 22, Retry.OTHER_MIRROR),
    ("EntityTooSmall", 400, StoreError, StoreError, 22, Retry.OTHER_MIRROR),
    ("PermanentRedirect", 301, StoreError, StoreError, 22, Retry.OTHER_MIRROR),
    ("SomethingNew", 404, StoreNotFoundError, NotFoundError, 3, Retry.OTHER_MIRROR),
    ("SomethingNew", 418, StoreError, StoreError, 22, Retry.OTHER_MIRROR),
]


@pytest.mark.parametrize(("code", "status", "cls", "also", "exit_code", "retry"), CASES)
def test_a_code_says_which_error_it_is_and_the_status_where_it_does_not(
    code: str, status: int, cls: type[StoreError], also: type[Exception], exit_code: int, retry: Retry
) -> None:
    made = error(status, document(code) if code else b"")
    assert type(made) is cls
    assert isinstance(made, also)
    assert (made.exit_code, made.retry, made.code, made.status) == (exit_code, retry, code, status)
    assert getattr(fastxfer, cls.__name__) is cls


def test_an_upload_that_is_gone_is_not_a_missing_object() -> None:
    assert not issubclass(UploadGoneError, NotFoundError)


def test_the_wait_that_a_store_asks_for_is_kept() -> None:
    made = error(503, document("SlowDown"), retry_after="7")
    assert isinstance(made, OverloadedError)
    assert made.retry_after_s == 7.0
    plain = error(503, document("SlowDown"))
    assert isinstance(plain, OverloadedError)
    assert plain.retry_after_s is None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("RequestTimeTooSkewed", "set this machine's clock"),
        ("ExpiredToken", "get new temporary credentials"),
        ("InvalidAccessKeyId", "check the access key"),
        ("SignatureDoesNotMatch", "check the secret key, the region and the endpoint"),
        ("InvalidObjectState", "archived"),
    ],
)
def test_an_error_says_what_to_do(code: str, says: str) -> None:
    assert says in str(error(403, document(code)))


def test_the_region_of_the_bucket_is_told() -> None:
    body = document("AuthorizationHeaderMalformed", Region="eu-west-1")
    assert "the bucket is in region eu-west-1: use region=eu-west-1" in str(error(400, body))
    moved = error(301, document("PermanentRedirect"), x_amz_bucket_region="eu-west-1")
    assert "use region=eu-west-1" in str(moved)


@pytest.mark.parametrize(
    ("refusal", "region", "other"),
    [
        (Refusal(301, "PermanentRedirect", region="eu-west-1"), "us-east-1", "eu-west-1"),
        (Refusal(400, "AuthorizationHeaderMalformed", region="eu-west-1"), "us-east-1", "eu-west-1"),
        (Refusal(400, "AuthorizationHeaderMalformed", region="eu-west-1"), "eu-west-1", None),
        (Refusal(301, "", region="eu-west-1"), None, "eu-west-1"),
        (Refusal(301, "PermanentRedirect"), "us-east-1", None),
        (Refusal(403, "AccessDenied", region="eu-west-1"), "us-east-1", None),
        (Refusal(400, "InvalidPart", region="eu-west-1"), "us-east-1", None),
    ],
)
def test_another_region_is_only_what_was_refused(
    refusal: Refusal, region: str | None, other: str | None
) -> None:
    assert other_region(refusal, region) == other


def test_an_error_is_plain_json_and_survives_a_pickle() -> None:
    made = error(403, OSS_DENIED)
    told = made.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert {name: told[name] for name in ("type", "code", "status", "ec")} == {
        "type": "StoreAuthError", "code": "AccessDenied", "status": 403, "ec": "0003-00001403",
    }  # fmt: skip
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), again.to_dict()) == (StoreAuthError, told)


# ---- hostile documents ----

BOMB = b"""<!DOCTYPE Error [<!ENTITY a "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<Error><Code>NoSuchKey</Code><Message>&c;&c;&c;</Message></Error>"""
FILE = b'<!DOCTYPE Error [<!ENTITY a SYSTEM "file:///etc/passwd">]><Error><Message>&a;</Message></Error>'


@pytest.mark.parametrize(
    "body",
    [
        BOMB, FILE, b"<!DOCTYPE Error><Error/>", BOMB.decode().encode("utf-16"), b"<Error>", b"", b"\0", b"<",
        b"not found", b"<html><body>404</body></html>", b"<Error><Code>&x;</Code></Error>",
        b"<Error><Code>\xff</Code></Error>", b"<a:Error><Code>x</Code></a:Error>",
        b"<Error>" + b"<a>" * 1000 + b"</a>" * 1000 + b"</Error>",
        b"<Error><Code>NoSuchKey</Code>" + b" " * MAX_ERROR_BYTES + b"</Error>",
        b"<ErrorResponse/>", b"<Result><Code>NoSuchKey</Code></Result>",
    ],
)  # fmt: skip
def test_what_is_no_error_document_leaves_the_status(body: bytes) -> None:
    made = error(404, body)
    assert type(made) is StoreNotFoundError
    assert made.code == ""
    assert str(made) == "cannot fetch s3://data/k: the store answered 404"


@pytest.mark.parametrize("body", [BOMB, FILE])
def test_a_document_type_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(BadResponseError, match="DOCTYPE"):
        read_xml(body)


def test_size_depth_and_number_are_capped() -> None:
    def nested(depth: int) -> bytes:
        return b"<a>" * depth + b"</a>" * depth

    assert read_xml(nested(MAX_DEPTH)).name == "a"
    for body in (nested(MAX_DEPTH + 1), b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>"):
        with pytest.raises(BadResponseError, match="too many"):
            read_xml(body)
    with pytest.raises(BadResponseError, match="more than 10 bytes"):
        read_xml(b"<a></a>    ", max_bytes=10)


def test_words_that_are_none_are_left_out() -> None:
    refusal = read_refusal(
        403,
        Headers([("x-oss-err", "!!!"), ("x-amz-id-2", "a b")]),
        document(
            "No Such\nKey",
            Message="a&#10;b\u202ec&#x85;",
            RequestId="x" * 300,
            EC="a b",
            Region="a>b",
            ServerTime="?",
        ),
    )
    assert refusal == Refusal(403, message="a b\N{REPLACEMENT CHARACTER}c")


def test_a_message_is_short_and_printable() -> None:
    assert presentable("x" * 1000) == "x" * 299 + "…"
    assert presentable(" a\r\n\tb\x1b[2J\0 ") == "a b\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"


MARKUP = st.sampled_from(
    ["<Error>", "</Error>", "<Code>", "</Code>", "NoSuchKey", "<Message>", "</Message>", "&#0;", "&lt;",
     "]]>", "<![CDATA[", "<!--", "-->", "<?x", "?>", "<!DOCTYPE", "\x1b", "\u202e", "<RequestId>"]
)  # fmt: skip
BODIES = (
    st.binary(max_size=200)
    | st.lists(MARKUP | st.text(max_size=5), max_size=30).map(lambda parts: "".join(parts).encode())
    | st.dictionaries(
        st.sampled_from(("Code", "Message", "RequestId", "HostId", "EC", "Endpoint", "Region", "ServerTime")),
        st.text(st.characters(codec="utf-8", exclude_characters="<&"), max_size=400),
    ).map(lambda drawn: document(drawn.pop("Code", ""), **drawn))
)
FIELD = st.text(st.characters(max_codepoint=255), max_size=60)
FIELDS = st.dictionaries(
    st.sampled_from(("x-oss-err", "x-amz-request-id", "x-amz-id-2", "x-oss-request-id", "x-oss-ec", "date",
                     "retry-after", "x-amz-bucket-region", "x-amz-error-code", "x-amz-error-message")),
    FIELD | BODIES.map(lambda body: base64.b64encode(body).decode()),
)  # fmt: skip


@given(st.integers(100, 999), FIELDS, BODIES)
@settings(max_examples=500, deadline=None)
def test_any_answer_is_a_typed_error_that_a_terminal_can_show(
    status: int, fields: dict[str, str], body: bytes
) -> None:
    headers = Headers(fields.items())
    made = error_of("cannot fetch x", status, headers, body, now_epoch_s=NOW)
    assert isinstance(made, StoreError)
    assert made.status == status
    assert str(made).isprintable()
    assert len(str(made)) < 1500
    for word in (made.code, made.request_id, made.host_id, made.ec):
        assert word.isascii() and (word.isprintable() and " " not in word) and len(word) <= 200
    corrected = new_correction_s(read_refusal(status, headers, body), headers.get("date"), NOW)
    assert corrected is None or 60 < abs(corrected) <= 86400


@given(st.binary(max_size=300) | st.lists(MARKUP, max_size=30).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_a_document_or_a_bad_response(body: bytes) -> None:
    try:
        assert read_xml(body).name
    except BadResponseError as refused:
        assert str(refused).isprintable()


# ---- keys in listings ----


@pytest.mark.parametrize(
    ("text", "encoding", "kind", "key"),
    [
        ("a+b", None, "s3", "a+b"),
        ("a+b%2Bc", "url", "s3", "a b+c"),
        ("a+b%20c", "url", "s3", "a+b c"),
        ("a+b%2Bc%20d", "url", "oss", "a+b+c d"),
        ("%E3%81%82", "url", "s3", "あ"),
        ("a%00b", "URL", "s3", "a\0b"),
        ("100%", "url", "oss", "100%"),
        ("a b/ü+%.bin", "url", "s3", "a b/ü+%.bin"),
        ("a+b %41", "url", "s3", "a+b %41"),
        (" k ", "", "s3", " k "),
    ],
)
def test_a_key_of_a_listing_is_decoded_where_it_says_so(
    text: str, encoding: str | None, kind: str, key: str
) -> None:
    assert decoded_key(text, encoding, kind) == key


@pytest.mark.parametrize(("text", "encoding"), [("%ff", "url"), ("a", "base64")])
def test_a_key_that_cannot_be_decoded_is_a_bad_answer(text: str, encoding: str) -> None:
    with pytest.raises(BadResponseError):
        decoded_key(text, encoding, "s3")


# ---- clocks ----

SKEWED = Refusal(403, "RequestTimeTooSkewed")


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-26 01:00:00 GMT", 3600.0),
        ("Wed Dec 31 23:59:00 2025", -60.0),
        (None, None), ("", None), ("yesterday", None), ("Thu, 99 Jan 2026 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_the_servers_date_tells_how_far_our_clock_is_off(date: str | None, seconds: float | None) -> None:
    assert correction_s(date, NOW) == seconds


@pytest.mark.parametrize(
    ("refusal", "about_time"),
    [
        (SKEWED, True),
        (Refusal(403, "InvalidRequestTime"), True),
        (Refusal(403, "RequestExpired"), True),
        (Refusal(403, "AccessDenied", server_time="2026-01-01T00:00:00Z"), True),
        (Refusal(403, "AccessDenied"), False),
        (Refusal(403, "SignatureDoesNotMatch"), False),
        (Refusal(403), False),
    ],
)
def test_a_refusal_is_about_time_or_not(refusal: Refusal, about_time: bool) -> None:
    assert is_about_time(refusal) is about_time


def test_the_time_in_the_document_of_an_expired_signature_is_read() -> None:
    body = document("AccessDenied", Message="Request has expired", ServerTime="2026-01-01T00:00:00Z")
    assert is_about_time(read_refusal(403, NONE, body))


@pytest.mark.parametrize(
    ("refusal", "off_s", "used_s", "correction"),
    [
        (SKEWED, 3600, 0.0, 3600.0),
        (SKEWED, -3600, 0.0, -3600.0),
        (SKEWED, 60, 0.0, None),
        (SKEWED, 61, 0.0, 61.0),
        (SKEWED, 86400, 0.0, 86400.0),
        (SKEWED, 86401, 0.0, None),
        (SKEWED, -86401, 0.0, None),
        (SKEWED, 3600, 3590.0, None),
        (SKEWED, 0, 3600.0, 0.0),
        (Refusal(403, "AccessDenied"), 900, 0.0, None),
        (Refusal(400, "AccessDenied"), 901, 0.0, 901.0),
        (Refusal(403, "AccessDenied"), 3600, 3600.0, None),
        (Refusal(403, "SignatureDoesNotMatch"), 3600, 0.0, None),
        (Refusal(403), 901, 0.0, 901.0),
        (Refusal(400), -901, 0.0, -901.0),
        (Refusal(403), 900, 0.0, None),
        (Refusal(404), 3600, 0.0, None),
    ],
)
def test_a_signature_is_tried_again_with_the_servers_time_once_and_within_a_day(
    refusal: Refusal, off_s: int, used_s: float, correction: float | None
) -> None:
    date = formatdate(NOW + off_s, usegmt=True)
    assert new_correction_s(refusal, date, NOW, used_s) == correction


def test_without_a_date_there_is_no_other_try() -> None:
    assert new_correction_s(SKEWED, None, NOW) is None


def test_store_error_takes_a_refusal_that_was_read_before() -> None:
    made = store_error("cannot list x", Refusal(503, "SlowDown", request_id="R"), retry_after_s=2.0)
    assert made.to_dict()["retry_after_s"] == 2.0
    assert str(made) == "cannot list x: SlowDown (request R)"
