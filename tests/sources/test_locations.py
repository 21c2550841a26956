"""Locations of object stores: what they name, where they are asked for, and what libcurl sends for them."""

from __future__ import annotations

import io
from types import SimpleNamespace

import botocore.session
import pycurl
import pytest
from alibabacloud_oss_v2._client import AddressStyle, _build_url
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxfer.errors import OptionError
from fastxfer.sources.locations import (
    Endpoint,
    Location,
    Store,
    encode,
    encode_key,
    encode_query,
    parse_endpoint,
    parse_location,
    resolve_store,
)
from fastxfer.sources.schemes import is_location
from tests.servers.raw import Connection, RawServer, Request
from tests.sources import store_strategies as draw

# ---- locations ----


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("s3://b/k", Location("s3", "b", "k")),
        ("s3://data", Location("s3", "data", "")),
        ("s3://data/", Location("s3", "data", "")),
        ("S3://data/K", Location("s3", "data", "K")),
        ("oss://data/a/b/", Location("oss", "data", "a/b/")),
        ("s3://data//k", Location("s3", "data", "/k")),
        ("s3://data/a?versionId=1#x", Location("s3", "data", "a?versionId=1#x")),
        ("s3://data/100%25 + ü", Location("s3", "data", "100%25 + ü")),
        ("s3://data/ ../x ", Location("s3", "data", " ../x ")),
        ("s3://my.old_Bucket/k", Location("s3", "my.old_Bucket", "k")),
        ("s3://data/a@b:c", Location("s3", "data", "a@b:c")),
    ],
)
def test_a_location_is_a_bucket_and_a_key_as_they_are_called(text: str, location: Location) -> None:
    assert parse_location(text) == location
    assert is_location(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://x/y", "write s3://BUCKET/KEY"),
        ("s3:/b/k", "write s3://BUCKET/KEY"),
        ("", "write s3://BUCKET/KEY"),
        ("s3://", "names no bucket: write s3://"),
        ("oss:///k", "names no bucket: write oss://"),
        ("s3://AK:canary@b/k", "no user info"),
        ("s3://canary@b/k", "no user info"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/canary", "ARN"),
        ("s3://b:9000/k", "port"),
        ("s3://-b/k", "not the name of a bucket"),
        ("s3://a b/k", "not the name of a bucket"),
        ("s3://ü/k", "not the name of a bucket"),
        ("s3://" + "b" * 256, "not the name of a bucket"),
        ("oss://ab/k", "not the name of a bucket"),
        ("oss://A-b-c/k", "not the name of a bucket"),
        ("oss://a.b.c/k", "not the name of a bucket"),
        ("s3://b/a\nb", "control character"),
        ("s3://b/a\x00b", "control character"),
        ("s3://b/\udcff", "UTF-8"),
        ("s3://b/" + "ü" * 513, "longer than 1024 bytes"),
        (None, "write s3://BUCKET/KEY"),
    ],
)
def test_what_is_no_location_says_why(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says) as refused:
        parse_location(text)
    assert "canary" not in str(refused.value)


def test_a_key_of_1024_bytes_is_one() -> None:
    assert parse_location("s3://b/" + "ü" * 512).key == "ü" * 512


@given(st.sampled_from(("s3", "oss")), st.from_regex(r"[a-z0-9]{3,63}", fullmatch=True), draw.keys)
def test_what_is_printed_reads_back(kind: str, bucket: str, key: str) -> None:
    location = Location(kind, bucket, key)
    if not any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        assert parse_location(str(location)) == location


@given(st.text())
def test_any_text_is_a_location_or_an_option_error(text: str) -> None:
    for candidate in (text, "s3://" + text, "oss://abc/" + text):
        try:
            assert parse_location(candidate).bucket
        except OptionError:
            pass


# ---- endpoints ----


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://s3.example", Endpoint("https", "s3.example")),
        ("HTTP://S3.Example:80/", Endpoint("http", "s3.example")),
        ("https://s3.example:443", Endpoint("https", "s3.example")),
        ("http://s3.example:443", Endpoint("http", "s3.example:443")),
        ("s3.example", Endpoint("https", "s3.example")),
        ("s3.example:9000", Endpoint("https", "s3.example:9000")),
        (" 127.0.0.1:9000 ", Endpoint("https", "127.0.0.1:9000")),
        ("http://[::1]:9000", Endpoint("http", "[::1]:9000")),
        ("http://[::1]", Endpoint("http", "[::1]")),
        ("https://gate.example/store/v1/", Endpoint("https", "gate.example", "/store/v1")),
        ("http://minio:9000", Endpoint("http", "minio:9000")),
    ],
)
def test_an_endpoint_is_a_url_or_a_host(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "ftp://x", "s3://x", "https://", "https://u:canary@x", "u:canary@x", "https://x?canary",
        "https://x#canary", "https://x y", "https://x:0", "https://x:99999", "https://x:y", "https://.x",
        "https://x.", "https://a..b", "https://ü.example", "https://[::1", "https://[zz]", "https://[1.2.3.4]",
        "https://x/a/../b", "https://x/a%20b", "https://x//y", "https://x\r\ny", "https://x\\y", "http://x/?",
        "https://[fe80::1%25eth0]",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(OptionError, match="endpoint cannot be used") as refused:
        parse_endpoint(text)
    assert "canary" not in str(refused.value)


@given(st.text())
def test_any_text_is_an_endpoint_or_an_option_error(text: str) -> None:
    for candidate in (text, "https://" + text, "http://x" + text):
        try:
            assert parse_endpoint(candidate).authority
        except OptionError:
            pass


def test_oss_signs_no_path_of_an_endpoint_and_so_takes_none() -> None:
    with pytest.raises(OptionError, match="takes no path"):
        resolve_store("oss", endpoint="https://x.example/store")


# ---- stores ----


@pytest.mark.parametrize(
    ("kind", "endpoint", "region", "host", "found"),
    [
        ("s3", None, None, "s3.us-east-1.amazonaws.com", "us-east-1"),
        ("s3", None, "eu-central-1", "s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3", None, "cn-north-1", "s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("s3", None, "us-isob-east-1", "s3.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
        ("s3", None, "us-iso-east-1", "s3.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("s3", "https://s3.eu-west-3.amazonaws.com", None, "s3.eu-west-3.amazonaws.com", "eu-west-3"),
        ("s3", "s3-us-west-2.amazonaws.com", None, "s3-us-west-2.amazonaws.com", "us-west-2"),
        ("s3", "s3.dualstack.eu-west-1.amazonaws.com", None, None, "eu-west-1"),
        ("s3", "s3-fips.us-gov-west-1.amazonaws.com", None, None, "us-gov-west-1"),
        ("s3", "s3.cn-north-1.amazonaws.com.cn", None, None, "cn-north-1"),
        ("s3", "https://s3.amazonaws.com", None, "s3.amazonaws.com", "us-east-1"),
        ("s3", "s3.oss-cn-hangzhou.aliyuncs.com", None, None, "cn-hangzhou"),
        ("s3", "http://127.0.0.1:9", None, "127.0.0.1:9", "us-east-1"),
        ("s3", "http://127.0.0.1:9", "r1", "127.0.0.1:9", "r1"),
        ("oss", None, "cn-hangzhou", "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("oss", None, "oss-cn-hangzhou", "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("oss", "oss-ap-southeast-1-internal.aliyuncs.com", None, None, "ap-southeast-1"),
        ("oss", "oss-accelerate.aliyuncs.com", None, "oss-accelerate.aliyuncs.com", None),
        ("oss", "http://127.0.0.1:9", None, "127.0.0.1:9", None),
        ("oss", "http://127.0.0.1:9", "cn-beijing", "127.0.0.1:9", "cn-beijing"),
    ],
)
def test_a_store_is_found_by_its_region_or_its_endpoint(
    kind: str, endpoint: str | None, region: str | None, host: str | None, found: str | None
) -> None:
    store = resolve_store(kind, endpoint=endpoint, region=region)
    assert store.region == found
    assert store.endpoint.authority == (host or endpoint)


def test_oss_has_no_place_of_its_own() -> None:
    with pytest.raises(OptionError, match="OSS_REGION"):
        resolve_store("oss")


@pytest.mark.parametrize(
    ("given_", "names"),
    [
        ({"region": "a b"}, "region"),
        ({"region": "x/../y"}, "region"),
        ({"region": ""}, "region"),
        ({"addressing": "host"}, "addressing"),
        ({"addressing": "cname"}, "addressing"),
        ({"endpoint": "https://"}, "endpoint"),
    ],
)
def test_what_is_no_option_of_a_store_is_refused(given_: dict[str, str], names: str) -> None:
    with pytest.raises(OptionError, match=names):
        resolve_store("s3", **given_)


# ---- addresses ----


@pytest.mark.parametrize(
    ("kind", "endpoint", "addressing", "bucket", "url"),
    [
        ("s3", "https://s3.example", "auto", "data", "https://data.s3.example/a%20b"),
        ("s3", "https://s3.example", "path", "data", "https://s3.example/data/a%20b"),
        ("s3", "https://s3.example", "auto", "a.b", "https://s3.example/a.b/a%20b"),
        ("s3", "http://s3.example", "auto", "a.b", "http://a.b.s3.example/a%20b"),
        ("s3", "https://s3.example", "virtual", "a.b", "https://a.b.s3.example/a%20b"),
        ("s3", "https://s3.example", "auto", "Data", "https://s3.example/Data/a%20b"),
        ("s3", "https://s3.example", "auto", "da_ta", "https://s3.example/da_ta/a%20b"),
        ("s3", "http://127.0.0.1:9", "auto", "data", "http://127.0.0.1:9/data/a%20b"),
        ("s3", "http://[::1]:9", "auto", "data", "http://[::1]:9/data/a%20b"),
        ("s3", "http://localhost:9", "auto", "data", "http://localhost:9/data/a%20b"),
        ("s3", "http://s3.localhost", "auto", "data", "http://s3.localhost/data/a%20b"),
        ("s3", "http://localhost:9", "virtual", "data", "http://data.localhost:9/a%20b"),
        ("s3", "http://minio:9000", "auto", "data", "http://minio:9000/data/a%20b"),
        ("s3", "https://gate.example/v1", "auto", "data", "https://data.gate.example/v1/a%20b"),
        ("s3", "https://gate.example/v1", "path", "data", "https://gate.example/v1/data/a%20b"),
        ("oss", "https://oss.example", "auto", "data", "https://data.oss.example/a%20b"),
        ("oss", "http://127.0.0.1:9", "auto", "data", "http://127.0.0.1:9/data/a%20b"),
        ("oss", "https://files.example", "cname", "data", "https://files.example/a%20b"),
    ],
)
def test_a_bucket_is_in_the_host_or_in_the_path(
    kind: str, endpoint: str, addressing: str, bucket: str, url: str
) -> None:
    store = resolve_store(kind, endpoint=endpoint, region="r", addressing=addressing)
    address = store.address(bucket, "a b")
    assert address.url == url
    assert (address.bucket, address.key) == (bucket, "a b")


@pytest.mark.parametrize(
    ("endpoint", "bucket"),
    [("http://127.0.0.1", "data"), ("http://[::1]:9", "data"), ("https://x", "Up"), ("https://x", "a_b"),
     ("https://x", "a..b"), ("https://x", "b" * 64)],
)  # fmt: skip
def test_a_bucket_that_cannot_be_in_a_host_is_not_put_there(endpoint: str, bucket: str) -> None:
    with pytest.raises(OptionError, match="addressing=path"):
        resolve_store("s3", endpoint=endpoint, addressing="virtual").address(bucket, "k")


@pytest.mark.parametrize(
    ("kind", "addressing", "url"),
    [("s3", "path", "https://x.example/data"), ("oss", "path", "https://x.example/data/"),
     ("s3", "virtual", "https://data.x.example/"), ("oss", "virtual", "https://data.x.example/")],
)  # fmt: skip
def test_the_bucket_itself_has_an_address(kind: str, addressing: str, url: str) -> None:
    store = resolve_store(kind, endpoint="https://x.example", region="r", addressing=addressing)
    assert store.address("data").url == url


def test_a_key_that_utf8_cannot_express_is_an_option_error() -> None:
    for made in (encode_key, encode):
        with pytest.raises(OptionError, match="UTF-8"):
            made("\ud800")


def test_a_query_is_written_as_the_stores_read_it() -> None:
    pairs = (("uploads", ""), ("prefix", "a b/+%ü"))
    assert encode_query(pairs) == "uploads&prefix=a%20b%2F%2B%25%C3%BC"
    assert encode_query(pairs, bare=False) == "uploads=&prefix=a%20b%2F%2B%25%C3%BC"


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("key", draw.ODD_KEYS)
def test_an_address_of_s3_is_botocores(style: str, key: str, s3_urls: dict[str, object]) -> None:
    url = s3_urls[style].generate_presigned_url("get_object", {"Bucket": "data", "Key": key})  # type: ignore[attr-defined]
    store = resolve_store("s3", region="eu-west-1", addressing=style)
    assert store.address("data", key).url == url.partition("?")[0]


@pytest.fixture(scope="module")
def s3_urls() -> dict[str, object]:
    """botocore's clients by their style of addressing."""
    session = botocore.session.Session()
    session.set_credentials("AK", "SK")
    return {
        style: session.create_client(
            "s3", "eu-west-1", config=Config(signature_version="s3v4", s3={"addressing_style": style})
        )
        for style in ("path", "virtual")
    }


@pytest.mark.parametrize("style", ["path", "virtual", "cname"])
@pytest.mark.parametrize("key", [*draw.ODD_KEYS, None])
def test_an_address_of_oss_is_that_of_alibabas_sdk(style: str, key: str | None) -> None:
    asked = SimpleNamespace(bucket="data", key=key)
    styles = {"path": AddressStyle.Path, "virtual": AddressStyle.Virtual, "cname": AddressStyle.CName}
    endpoint = SimpleNamespace(scheme="https", netloc="oss.example:8443")
    url = _build_url(asked, SimpleNamespace(endpoint=endpoint, address_style=styles[style]))
    store = resolve_store("oss", endpoint="https://oss.example:8443", region="r", addressing=style)
    assert store.address("data", key or "").url == url


# ---- the wire ----


class Wire:
    """A server that keeps the last request's target and Host, and a libcurl handle that asks it."""

    def __init__(self) -> None:
        self.seen: tuple[str, str] | None = None
        self.server = RawServer(self._answer)
        self.curl = pycurl.Curl()
        self.curl.setopt(pycurl.PATH_AS_IS, 1)
        self.curl.setopt(pycurl.TIMEOUT, 30)
        self.curl.setopt(pycurl.NOPROXY, "*")

    def _answer(self, request: Request, connection: Connection) -> None:
        self.seen = (request.target, request.headers["host"])
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def ask(self, url: str) -> tuple[str, str]:
        """Returns the target and the Host that went out for a URL."""
        self.seen = None
        self.curl.setopt(pycurl.URL, url)
        self.curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        self.curl.perform()
        assert self.seen is not None
        return self.seen


@given(key=draw.keys, query=draw.queries)
@settings(max_examples=150, deadline=None)
def test_libcurl_sends_the_path_and_host_that_are_signed(
    wire: Wire, key: str, query: tuple[tuple[str, str], ...]
) -> None:
    store = resolve_store("s3", endpoint=wire.server.url(""))
    address = store.address("data", key)
    tail = f"?{encode_query(query)}" if query else ""
    assert wire.ask(address.url + tail) == (address.path + tail, address.authority)


@pytest.mark.parametrize("key", draw.ODD_KEYS)
def test_libcurl_sends_every_odd_key_as_it_is_signed(wire: Wire, key: str) -> None:
    port = wire.server.url("").rpartition(":")[2].rstrip("/")
    for how in ("path", "virtual"):
        store: Store = resolve_store("s3", endpoint=f"http://localhost:{port}", addressing=how)
        address = store.address("data", key)
        wire.curl.setopt(pycurl.RESOLVE, [f"data.localhost:{port}:127.0.0.1", f"localhost:{port}:127.0.0.1"])
        assert wire.ask(address.url) == (address.path, address.authority)


@pytest.fixture(scope="module")
def wire() -> object:
    """The server and the handle."""
    made = Wire()
    with made.server:
        yield made
    made.curl.close()
