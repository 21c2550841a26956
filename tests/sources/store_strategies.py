"""What hypothesis draws for the tests of object stores: keys, queries, fields, credentials, times."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import Address, Store, resolve_store
from fastxfer.sources.store_request import StoreRequest

ODD_KEYS = (
    "a", "a b", "a+b", "a%20b", "100%", "%2F", "naïve/Ünïcode/日本語/😀", "!'()*", "~._-", "a//b", "/lead",
    "//lead", "trail/", "../up", "a/../b", "a/./b", "./a", ".", "..", "a/..", "?q=1&r", "#frag", "a;b=c,d",
    "[x]{y}|z\\^`\"<>", "a=b&c", "$@:&=+,;", "%e3%81%82", "a\tb", "e\u0301", " lead", "trail ",
)  # fmt: skip

keys = st.sampled_from(ODD_KEYS) | st.text(
    st.characters(codec="utf-8") | st.sampled_from(" +%!'()*/.?#&=~"), min_size=1, max_size=40
)
_secret = string.ascii_letters + string.digits + "+/="
credentials = st.builds(
    Credentials,
    st.text(string.ascii_uppercase + string.digits, min_size=4, max_size=20),
    st.text(_secret, min_size=1, max_size=60),
    st.none() | st.text(_secret, min_size=1, max_size=300),
)
times = st.floats(0, 4102444800, allow_nan=False)  # to 2100
regions = st.sampled_from(("us-east-1", "eu-central-1", "cn-hangzhou", "ap-southeast-3", "x"))
methods = st.sampled_from(("GET", "PUT", "POST", "HEAD", "DELETE"))
_NAMES = (
    "uploads", "uploadId", "partNumber", "versionId", "acl", "max-parts", "part-number-marker", "prefix",
    "encoding-type", "key-marker", "response-content-disposition", "list-type", "continuation-token",
    "x-oss-process", "x-oss-traffic-limit", "delimiter", "objectMeta", "ü", "a b", "a.b",
)  # fmt: skip
_values = st.text(st.characters(codec="utf-8") | st.sampled_from(" +%!'()*/.?#&=~"), max_size=20)
queries = st.dictionaries(st.sampled_from(_NAMES), _values, max_size=6).map(
    lambda drawn: tuple(drawn.items())
)
_visible = st.text(string.ascii_letters + string.digits + " !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", max_size=30)
_plain = ("Content-Type", "Content-MD5", "Range", "If-Match", "User-Agent", "Cache-Control", "Expect")


def fields_of(kind: str) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    """Returns fields that a caller may give, those of the store's own name among them."""
    prefix = "x-amz-" if kind == "s3" else "x-oss-"
    own = tuple(prefix + name for name in ("meta-a", "Meta-B", "storage-class", "acl", "meta-a-b"))
    return st.dictionaries(st.sampled_from(_plain + own), _visible.map(str.strip), max_size=6).map(
        lambda drawn: tuple(drawn.items())
    )


_ENDPOINTS = (None, "http://127.0.0.1:9000", "https://store.example:8443", "http://[::1]:81", "store.example")


@st.composite
def addresses(draw: st.DrawFn, kind: str) -> Address:
    """Returns the address of a key, or of a bucket, in all ways of addressing."""
    store: Store = resolve_store(
        kind,
        endpoint=draw(st.sampled_from(_ENDPOINTS)),
        region="cn-hangzhou",
        addressing=draw(st.sampled_from(("auto", "path"))),
    )
    bucket = draw(st.sampled_from(("data", "my-bucket-1") if kind == "oss" else ("data", "a.b", "Old_Name")))
    return store.address(bucket, draw(keys | st.just("")))


@st.composite
def requests(draw: st.DrawFn, kind: str) -> StoreRequest:
    """Returns a request to a store of a kind."""
    return StoreRequest(draw(methods), draw(addresses(kind)), draw(queries), draw(fields_of(kind)))
