"""Signatures, byte for byte, against those of the stores' own libraries."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl, urlsplit

import pytest
from alibabacloud_oss_v2.signer.v1 import SignerV1
from alibabacloud_oss_v2.signer.v4 import SignerV4
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxfer.errors import OptionError
from fastxfer.plan.expiry import expires_at
from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import resolve_store
from fastxfer.sources.signing import (
    UNSIGNED_PAYLOAD,
    SignedRequest,
    StoreRequest,
    Style,
    presign,
    sign,
    style_for,
    unsigned,
)
from tests.sources import oracles
from tests.sources import store_strategies as draw

NOW = 1_767_225_600.9  # 2026-01-01T00:00:00Z, and a bit
KEYS = Credentials("AKIDEXAMPLE", "s3cr3t/canary+key", "t0ken/canary==")
EVERY_STYLE: tuple[Style, ...] = ("s3", "oss-v4", "oss-v1")
EXPIRES = st.integers(1, 7 * 86400)


def fields(signed: SignedRequest) -> dict[str, str]:
    """Returns the fields that go out, none of them twice."""
    low = {name.lower(): value for name, value in signed.headers}
    assert len(low) == len(signed.headers)
    return low


def a_request(
    style: Style = "s3", key: str = "k", query: tuple[tuple[str, str], ...] = (), **more: str
) -> StoreRequest:
    store = resolve_store("s3" if style == "s3" else "oss", endpoint="https://store.example", region="r1")
    return StoreRequest("GET", store.address("data", key), query, tuple(more.items()))


# ---- byte for byte ----


@given(draw.requests("s3"), draw.credentials, draw.regions, draw.times, st.none() | st.binary(max_size=50))
@settings(max_examples=300, deadline=None)
def test_s3_is_signed_as_by_botocore(
    request: StoreRequest, keys: Credentials, region: str, now: float, body: bytes | None
) -> None:
    payload = UNSIGNED_PAYLOAD if body is None else hashlib.sha256(body).hexdigest()
    signed = sign(request, keys, "s3", now_epoch_s=now, region=region, payload=payload)
    assert (signed.url, fields(signed)) == oracles.botocore_sign(request, keys, region, now, body)


@given(draw.requests("s3"), draw.credentials, draw.regions, draw.times, EXPIRES)
@settings(max_examples=300, deadline=None)
def test_an_s3_url_is_signed_as_by_botocore(
    request: StoreRequest, keys: Credentials, region: str, now: float, expires_s: int
) -> None:
    signed = presign(request, keys, "s3", now_epoch_s=now, expires_s=expires_s, region=region)
    assert signed.url == oracles.botocore_presign(request, keys, region, now, expires_s)
    assert signed.headers == request.headers


ADDITIONAL = st.sets(st.sampled_from(("Range", "if-match", "HOST", "x-oss-acl", "cache-control", "absent")))


def with_host(request: StoreRequest, additional: set[str]) -> StoreRequest:
    """Returns the request with its Host as a field: Alibaba's signer knows no other."""
    if "HOST" not in additional:
        return request
    host = ("Host", request.address.authority)
    return StoreRequest(request.method, request.address, request.query, (*request.headers, host))


@given(draw.requests("oss"), draw.credentials, draw.regions, draw.times, ADDITIONAL)
@settings(max_examples=300, deadline=None)
def test_oss_v4_is_signed_as_by_alibabas_sdk(
    request: StoreRequest, keys: Credentials, region: str, now: float, additional: set[str]
) -> None:
    signed = sign(request, keys, "oss-v4", now_epoch_s=now, region=region, additional=additional)
    url, sent = oracles.alibaba(
        SignerV4, with_host(request, additional), keys, region, now, additional=tuple(additional)
    )
    sent.pop("host", None)
    assert (signed.url, fields(signed)) == (url, sent)


@given(draw.requests("oss"), draw.credentials, draw.regions, draw.times, ADDITIONAL, EXPIRES)
@settings(max_examples=300, deadline=None)
def test_an_oss_v4_url_is_signed_as_by_alibabas_sdk(
    request: StoreRequest, keys: Credentials, region: str, now: float, additional: set[str], expires_s: int
) -> None:
    signed = presign(
        request, keys, "oss-v4", now_epoch_s=now, expires_s=expires_s, region=region, additional=additional
    )
    url, _ = oracles.alibaba(
        SignerV4,
        with_host(request, additional),
        keys,
        region,
        now,
        expires_s=expires_s,
        additional=tuple(additional),
    )
    assert signed.url == url
    assert signed.headers == request.headers


@given(draw.requests("oss"), draw.credentials, draw.times)
@settings(max_examples=300, deadline=None)
def test_oss_v1_is_signed_as_by_both_of_alibabas_sdks(
    request: StoreRequest, keys: Credentials, now: float
) -> None:
    signed = fields(sign(request, keys, "oss-v1", now_epoch_s=now))
    _, first = oracles.oss2_sign(request, keys, now)
    assert signed["authorization"] == first["authorization"]
    assert signed["date"] == first["date"]
    assert signed.get("x-oss-security-token") == first.get("x-oss-security-token")
    # The second SDK sends the token of V1 in a field that is not signed; in ours, as in the first, it is.
    without = Credentials(keys.access_key_id, keys.secret)
    _, second = oracles.alibaba(SignerV1, request, without, None, now)
    assert fields(sign(request, without, "oss-v1", now_epoch_s=now)) == second


@given(draw.requests("oss"), draw.credentials, draw.times, EXPIRES)
@settings(max_examples=300, deadline=None)
def test_an_oss_v1_url_is_signed_as_by_both_of_alibabas_sdks(
    request: StoreRequest, keys: Credentials, now: float, expires_s: int
) -> None:
    url = presign(request, keys, "oss-v1", now_epoch_s=now, expires_s=expires_s).url
    second, _ = oracles.alibaba(SignerV1, request, keys, None, now, expires_s=expires_s)
    assert url == second
    first = urlsplit(oracles.oss2_presign(request, keys, now, expires_s))
    ours = urlsplit(url)
    assert sorted(parse_qsl(ours.query, True)) == sorted(parse_qsl(first.query, True))


@pytest.mark.parametrize("key", draw.ODD_KEYS)
def test_every_odd_key_is_signed_as_by_the_libraries(key: str) -> None:
    query = (("uploadId", "a/b+c= d"), ("partNumber", "7"))
    s3 = a_request("s3", key, query)
    signed = sign(s3, KEYS, "s3", now_epoch_s=NOW, region="r1")
    assert (signed.url, fields(signed)) == oracles.botocore_sign(s3, KEYS, "r1", NOW, None)
    oss = a_request("oss-v4", key, query)
    signed = sign(oss, KEYS, "oss-v4", now_epoch_s=NOW, region="r1")
    assert (signed.url, fields(signed)) == oracles.alibaba(SignerV4, oss, KEYS, "r1", NOW)
    v1 = fields(sign(oss, KEYS, "oss-v1", now_epoch_s=NOW))
    assert v1["authorization"] == oracles.oss2_sign(oss, KEYS, NOW)[1]["authorization"]


def test_the_example_of_the_documentation_is_signed_as_it_says() -> None:
    # Amazon S3 API Reference, "Signature Calculations for the Authorization Header", GET Object.
    keys = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    store = resolve_store("s3", endpoint="https://s3.amazonaws.com")
    request = StoreRequest(
        "GET", store.address("examplebucket", "test.txt"), headers=(("Range", "bytes=0-9"),)
    )
    empty = hashlib.sha256(b"").hexdigest()
    signed = sign(request, keys, "s3", now_epoch_s=1369353600, region="us-east-1", payload=empty)
    assert signed.url == "https://examplebucket.s3.amazonaws.com/test.txt"
    assert fields(signed)["authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    url = presign(
        StoreRequest("GET", request.address), keys, "s3", now_epoch_s=1369353600, expires_s=86400,
        region="us-east-1",
    ).url  # fmt: skip
    assert url.endswith("Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


# ---- the rules ----


def test_who_has_no_key_sends_what_there_is() -> None:
    request = a_request("s3", "a b", (("versionId", "v 1"),), Range="bytes=0-1")
    assert unsigned(request) == SignedRequest(
        "GET", "https://data.store.example/a%20b?versionId=v%201", (("Range", "bytes=0-1"),)
    )


def test_an_empty_query_leaves_no_mark_in_the_url() -> None:
    assert unsigned(a_request()).url == "https://data.store.example/k"
    assert unsigned(a_request(query=(("uploads", ""),))).url == "https://data.store.example/k?uploads"


@pytest.mark.parametrize("style", EVERY_STYLE)
def test_the_fields_of_a_signature_are_not_the_callers(style: Style) -> None:
    plain = a_request(style, Range="bytes=0-1")
    given_ = (("Authorization", "Basic x"), ("DATE", "never"), ("Host", "other"), ("X-Amz-Date", "x"),
              ("x-oss-date", "x"), ("x-amz-security-token", "x"), ("X-Oss-Security-Token", "x"),
              ("x-amz-content-sha256", "x"), ("x-oss-content-sha256", "x"))  # fmt: skip
    request = StoreRequest("GET", plain.address, (), (*plain.headers, *given_))
    assert sign(request, KEYS, style, now_epoch_s=NOW, region="r1") == sign(
        plain, KEYS, style, now_epoch_s=NOW, region="r1"
    )


def test_a_field_that_is_given_twice_is_signed_as_one() -> None:
    pair = (("x-amz-meta-a", "1"), ("X-Amz-Meta-A", "2"))
    twice = StoreRequest("PUT", a_request().address, (), pair)
    once = StoreRequest("PUT", a_request().address, (), (("x-amz-meta-a", "1,2"),))
    signed = [sign(each, KEYS, "s3", now_epoch_s=NOW, region="r1") for each in (twice, once)]
    assert dict(signed[0].headers)["Authorization"] == dict(signed[1].headers)["Authorization"]
    assert signed[0].headers[:2] == pair


@pytest.mark.parametrize("style", EVERY_STYLE)
@pytest.mark.parametrize(("name", "value"), [("x y", "v"), ("a\r\nb", "v"), ("a", "v\r\nb: c"), ("a", "ü"),
                                             ("a", "x\x00"), ("", "v")])  # fmt: skip
def test_a_field_that_cannot_be_signed_is_refused(style: Style, name: str, value: str) -> None:
    request = StoreRequest("GET", a_request(style).address, (), ((name, value),))
    with pytest.raises(OptionError, match="header"):
        sign(request, KEYS, style, now_epoch_s=NOW, region="r1")
    with pytest.raises(OptionError, match="header"):
        presign(request, KEYS, style, now_epoch_s=NOW, expires_s=60, region="r1")


@pytest.mark.parametrize("style", ["s3", "oss-v4"])
def test_what_needs_the_region_says_so(style: Style) -> None:
    with pytest.raises(OptionError, match="region"):
        sign(a_request(style), KEYS, style, now_epoch_s=NOW)


def test_oss_without_a_region_is_signed_by_the_older_style() -> None:
    assert style_for("oss", None) == "oss-v1"
    assert style_for("oss", "cn-hangzhou") == "oss-v4"
    assert style_for("s3", "us-east-1") == style_for("s3", None) == "s3"


def test_a_payload_is_a_sha256_in_hex() -> None:
    for payload in ("", "ab", "A" * 64, "UNSIGNED", "0" * 63 + "\n"):
        with pytest.raises(ValueError, match="SHA-256"):
            sign(a_request(), KEYS, "s3", now_epoch_s=NOW, region="r1", payload=payload)


@pytest.mark.parametrize("style", EVERY_STYLE)
def test_a_url_lives_as_long_as_it_says(style: Style) -> None:
    url = presign(a_request(style), KEYS, style, now_epoch_s=NOW, expires_s=900, region="r1").url
    assert expires_at(url) == int(NOW) + 900
    with pytest.raises(OptionError, match="604800 seconds"):
        presign(a_request(style), KEYS, style, now_epoch_s=NOW, expires_s=0, region="r1")


@pytest.mark.parametrize("style", ["s3", "oss-v4"])
def test_a_url_of_v4_lives_for_a_week_at_most(style: Style) -> None:
    with pytest.raises(OptionError, match="604800 seconds"):
        presign(a_request(style), KEYS, style, now_epoch_s=NOW, expires_s=604801, region="r1")


@pytest.mark.parametrize("style", EVERY_STYLE)
def test_nothing_that_is_printed_holds_a_secret(style: Style) -> None:
    signed = sign(a_request(style), KEYS, style, now_epoch_s=NOW, region="r1")
    link = presign(a_request(style), KEYS, style, now_epoch_s=NOW, expires_s=60, region="r1")
    for shown in map(
        repr, (KEYS, signed, link, StoreRequest("GET", a_request().address, (), (("a", "canary"),)))
    ):
        assert "canary" not in shown
        assert "ignature" not in shown
