"""The way to an object of a store: what is signed, when credentials are asked for, what refusals teach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from fastxfer.errors import CredentialsError, OptionError
from fastxfer.options import TransferOptions
from fastxfer.sources.locations import parse_location
from fastxfer.sources.store_access import LESSONS, StoreAccess
from fastxfer.sources.store_errors import Refusal
from fastxfer.sources.store_request import SignedRequest, stamp_of

NOW = 1_800_000_000.0
SKEWED = Refusal(403, "RequestTimeTooSkewed")
EXPIRED = Refusal(400, "ExpiredToken")


def access(
    url: str = "s3://bucket/a key", environ: dict[str, str] | None = None, **options: Any
) -> StoreAccess:
    made = StoreAccess.of(parse_location(url), TransferOptions.build(**options), environ=environ or {})
    made._clock = lambda: NOW
    return made


def opened(url: str = "s3://bucket/a key", **options: Any) -> StoreAccess:
    made = access(url, **{"credentials": "AK:SK", **options})
    made.refresh()
    return made


def field(request: SignedRequest, name: str) -> str | None:
    found = [value for key, value in request.headers if key.lower() == name]
    assert len(found) < 2
    return found[0] if found else None


def numbered(expires: float | None = None) -> tuple[Any, list[int]]:
    calls: list[int] = []

    def ask() -> dict[str, Any]:
        calls.append(len(calls))
        return {"key": f"AK{len(calls)}", "secret": "SK", "token": "T", "expires": expires}

    return ask, calls


# ---- what is signed ----


def test_the_store_signs_itself_its_own_fields_and_leaves_the_callers_alone() -> None:
    mine = (("X-Trace", "1"), ("x-amz-checksum-mode", "ENABLED"), ("Range", "bytes=0-0"), ("Date", "now"))
    signed = opened().signed("GET", query=(("versionId", "v 1"),), headers=mine)
    assert signed.url == "https://bucket.s3.us-east-1.amazonaws.com/a%20key?versionId=v%201"
    told = field(signed, "authorization") or ""
    assert "Credential=AK/" in told
    assert "SignedHeaders=host;range;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date," in told
    assert field(signed, "x-trace") == "1"
    assert field(signed, "date") is None


def test_another_key_of_the_bucket_and_the_bucket_itself_can_be_asked() -> None:
    it = opened()
    assert it.signed("PUT", key="b/c").url == "https://bucket.s3.us-east-1.amazonaws.com/b/c"
    assert it.signed("GET", key="", query=(("uploads", ""),)).url.endswith("amazonaws.com/?uploads")


def test_nothing_is_signed_anonymously() -> None:
    it = access(anonymous=True)
    assert not it.needs_refresh()
    it.refresh()
    assert field(it.signed("GET"), "authorization") is None
    assert it.signed("GET", headers=(("Authorization", "mine"),)).headers == (("Authorization", "mine"),)


def test_nothing_can_be_signed_before_there_are_credentials() -> None:
    it = access(credentials="AK:SK")
    assert it.needs_refresh() and it.must_refresh
    with pytest.raises(CredentialsError):
        it.signed("GET")
    it.refresh()
    assert not it.needs_refresh() and not it.must_refresh
    it.signed("GET")


def test_what_cannot_be_signed_is_an_option_error() -> None:
    with pytest.raises(OptionError):
        opened().signed("GET", headers=(("x-amz-meta-a", "ü"),))
    assert ("X-Mine", "ü") in opened().signed("GET", headers=(("X-Mine", "ü"),)).headers


# ---- where it is asked ----


@pytest.mark.parametrize(
    ("url", "environ", "options", "expected"),
    [
        ("s3://b/k", {"AWS_REGION": "eu-west-1"}, {}, "https://b.s3.eu-west-1.amazonaws.com/k"),
        (
            "s3://b/k",
            {"AWS_REGION": "eu-west-1"},
            {"region": "us-west-2"},
            "https://b.s3.us-west-2.amazonaws.com/k",
        ),
        ("s3://b/k", {"AWS_ENDPOINT_URL": "http://h:9"}, {}, "http://h:9/b/k"),
        (
            "s3://b/k",
            {"AWS_ENDPOINT_URL": "http://h:9", "AWS_ENDPOINT_URL_S3": "http://h:8"},
            {},
            "http://h:8/b/k",
        ),
        ("s3://b/k", {"AWS_ENDPOINT_URL": "http://h:9"}, {"endpoint": "http://h:7"}, "http://h:7/b/k"),
        ("oss://bkt/k", {"OSS_REGION": "cn-beijing"}, {}, "https://bkt.oss-cn-beijing.aliyuncs.com/k"),
        ("oss://bkt/k", {"OSS_ENDPOINT": "http://127.0.0.1:9"}, {}, "http://127.0.0.1:9/bkt/k"),
        ("s3://b/k", {}, {"endpoint": "http://h.example", "addressing": "path"}, "http://h.example/b/k"),
    ],
)
def test_the_options_win_over_the_environment(
    url: str, environ: dict[str, str], options: dict[str, Any], expected: str
) -> None:
    assert access(url, environ, **options).address.url == expected


def test_of_another_store_the_environment_alone_counts() -> None:
    options = TransferOptions.build(endpoint="http://h:7", credentials="AK:SK")
    environ = {"OSS_ENDPOINT": "http://o:8", "OSS_ACCESS_KEY_ID": "OK", "OSS_ACCESS_KEY_SECRET": "OS"}
    it = StoreAccess.of(parse_location("oss://bkt/k"), options, given=False, environ=environ)
    it.refresh()
    assert it.address.url == "http://o:8/bkt/k"
    assert (field(it.signed("GET"), "authorization") or "").startswith("OSS OK:")


def test_the_environment_has_credentials_too() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "EK", "AWS_SECRET_ACCESS_KEY": "ES", "AWS_SESSION_TOKEN": "ET"}
    it = access("s3://b/k", environ)
    it.refresh()
    assert field(it.signed("GET"), "x-amz-security-token") == "ET"


# ---- what refusals teach ----


def test_a_wrong_clock_is_corrected_once() -> None:
    it = opened()
    date = formatdate(NOW + 3600, usegmt=True)
    assert it.refused(SKEWED, date, NOW)
    assert field(it.signed("GET"), "x-amz-date") == stamp_of(NOW + 3600)
    assert not it.refused(SKEWED, date, NOW)


def test_those_that_were_signed_before_a_lesson_go_again_too() -> None:
    it = opened()
    before = it.generation
    date = formatdate(NOW + 3600, usegmt=True)
    assert it.refused(SKEWED, date, NOW, generation=before)
    assert it.refused(SKEWED, date, NOW, generation=before)
    assert not it.refused(SKEWED, date, NOW, generation=it.generation)


def test_another_object_begins_with_what_was_learned_and_learns_for_itself() -> None:
    first = opened()
    assert first.refused(SKEWED, formatdate(NOW + 3600, usegmt=True), NOW)
    other = first.at("b/c d")
    assert str(other.location) == "s3://bucket/b/c d" and str(first.location) == "s3://bucket/a key"
    assert other.address.url == "https://bucket.s3.us-east-1.amazonaws.com/b/c%20d"
    assert not other.needs_refresh()
    signed = other.signed("GET")
    assert signed.url.endswith("/b/c%20d")
    assert field(signed, "x-amz-date") == stamp_of(NOW + 3600)
    assert other.refused(SKEWED, formatdate(NOW - 3600, usegmt=True), NOW)
    assert field(other.signed("GET"), "x-amz-date") == stamp_of(NOW - 3600)
    assert field(first.signed("GET"), "x-amz-date") == stamp_of(NOW + 3600)
    with pytest.raises(OptionError):
        first.at("\udc80")


def test_the_region_is_learned_where_no_endpoint_was_given() -> None:
    it = opened()
    assert it.refused(Refusal(301, "PermanentRedirect", region="eu-west-1"))
    assert it.signed("GET").url.startswith("https://bucket.s3.eu-west-1.amazonaws.com/")
    assert it.address.url.startswith("https://bucket.s3.us-east-1.")


def test_an_endpoint_that_was_given_is_kept_and_signed_for_the_region_that_it_tells() -> None:
    it = opened(endpoint="http://h:9")
    assert not it.refused(Refusal(301, "PermanentRedirect", region="eu-west-1"))
    assert it.refused(Refusal(400, "AuthorizationHeaderMalformed", region="eu-west-1"))
    assert it.signed("GET").url == "http://h:9/bucket/a%20key"
    assert "/eu-west-1/s3/" in (field(it.signed("GET"), "authorization") or "")


def test_a_server_cannot_lead_on_for_ever() -> None:
    it = opened()
    regions = [Refusal(301, "PermanentRedirect", region=f"eu-west-{n}") for n in range(LESSONS + 1)]
    assert [it.refused(each) for each in regions] == [True] * LESSONS + [False]
    it.accepted()
    assert it.refused(regions[0])


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "AccessDenied", "NoSuchKey", "NoSuchBucket"])
def test_what_no_lesson_mends_is_no_lesson(code: str) -> None:
    ask, _ = numbered()
    assert not opened(credentials=ask).refused(Refusal(403, code), formatdate(NOW, usegmt=True), NOW)


# ---- credentials that expire ----


def test_expired_credentials_are_asked_for_once_for_all() -> None:
    ask, calls = numbered()
    it = opened(credentials=ask)
    before = it.generation
    assert it.refused(EXPIRED, None, NOW, generation=before)
    assert it.must_refresh
    assert it.refused(EXPIRED, None, NOW, generation=before)
    it.refresh()
    assert not it.must_refresh and not it.needs_refresh()
    assert it.refused(EXPIRED, None, NOW, generation=before)
    assert len(calls) == 2
    assert "Credential=AK2/" in (field(it.signed("GET"), "authorization") or "")


def test_credentials_that_never_were_but_one_are_refused_for_good() -> None:
    assert not opened().refused(EXPIRED, None, NOW)


def test_the_same_credentials_again_are_an_error() -> None:
    it = opened(credentials=lambda: {"key": "AK", "secret": "SK"})
    assert it.refused(EXPIRED, None, NOW)
    with pytest.raises(CredentialsError, match="same"):
        it.refresh()


def test_credentials_are_renewed_before_they_expire() -> None:
    ask, calls = numbered(expires=NOW + 100)
    it = opened(credentials=ask)
    assert it.needs_refresh() and not it.must_refresh
    it.signed("GET")
    it.refresh()
    assert len(calls) == 2


def test_a_callable_that_fails_is_not_asked_at_once_again() -> None:
    fail: list[bool] = []

    def ask() -> dict[str, Any]:
        if fail:
            raise RuntimeError("a secret text")
        return {"key": "AK", "secret": "SK", "expires": NOW - 1}

    it = opened(credentials=ask)
    fail.append(True)
    with pytest.raises(CredentialsError) as caught:
        it.refresh()
    assert "a secret text" not in str(caught.value)
    assert not it.needs_refresh()
    it.signed("GET")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_signing_does_not_wait_for_a_refresh(gate: threading.Event) -> None:
    asked = threading.Event()

    def ask() -> dict[str, Any]:
        if asked.is_set():
            assert gate.wait(30)
            return {"key": "AK2", "secret": "SK"}
        asked.set()
        return {"key": "AK", "secret": "SK"}

    it = opened(credentials=ask)
    assert it.refused(EXPIRED, None, NOW)
    thread = threading.Thread(target=it.refresh)
    thread.start()
    it.signed("GET")
    assert it.must_refresh and thread.is_alive()
    gate.set()
    thread.join(30)
    assert not thread.is_alive() and not it.must_refresh


def test_it_prints_no_secret() -> None:
    it = opened(credentials="AKHUNTER:hunter2:hunter3")
    assert "hunter" not in repr(it).lower()
