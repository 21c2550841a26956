"""Where an object of a store is: `s3://bucket/key` and `oss://bucket/key`, the endpoint that is asked for it,
and the URL of the request, as it is signed and as it must be sent.

A key is any text: all of what stands after the bucket, question marks, hashes and percent signs too. It is
percent-encoded once, over its UTF-8 bytes, all but the unreserved characters (RFC 3986 section 2.3) and the
slashes. Nothing is normalised: the path of a key such as `a//../b` keeps its slashes and dots, so libcurl
must send it as it is (CURLOPT_PATH_AS_IS).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from fastxfer.errors import OptionError
from fastxfer.sources.schemes import ADDRESSING
from fastxfer.values import dataclass

Query = Iterable[tuple[str, str]]

DEFAULT_S3_REGION = "us-east-1"
MAX_KEY_BYTES = 1024
_SCHEME = re.compile(r"(s3|oss)://", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# S3's names of today and of before 2018 (up to 255, capitals, underscores), which other servers still take.
_BUCKETS = {
    "s3": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"),
    "oss": re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"),
}
_HOST_LABELS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_PORTS = {"http": 80, "https": 443}
# The domains of AWS's partitions, by how their regions begin.
_AWS_DOMAINS = (
    ("cn-", "amazonaws.com.cn"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("us-iso-", "c2s.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
)
_AWS_HOST = re.compile(
    r"s3[.-](?:fips[.-])?(?:dualstack\.)?([a-z]{2,5}(?:-[a-z]+)+-\d)\.amazonaws\.(?:com|eu)(?:\.cn)?"
)
_OSS_HOST = re.compile(r"(?:s3\.)?oss-(?!accelerate)([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com")


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket, or with a key an object (or a prefix), of a store: "s3" or "oss". It prints without secrets,
    since it has none.
    """

    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a store is asked: "https" or "http", the host and, unless it is the scheme's own, the port, and a
    path before all others ("" or "/some/path").
    """

    scheme: str
    authority: str
    base: str = ""

    @property
    def host(self) -> str:
        """The host without its port."""
        return re.sub(r":\d+\Z", "", self.authority)

    @property
    def is_address(self) -> bool:
        """True for an IP address, and for a name of this host or of one network: it has no names below."""
        return "." not in self.host or self.host.endswith(".localhost") or _is_ip(self.host)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base}"


@dataclass(frozen=True, slots=True)
class Store:
    """A store as requests and signatures need it. `region` is None where nobody told it: only OSS's older
    signature does without one. `addressing` is "auto", "path", "virtual" or (OSS) "cname".
    """

    kind: str
    endpoint: Endpoint
    region: str | None
    addressing: str = "auto"

    def address(self, bucket: str, key: str = "") -> Address:
        """Returns the address of an object, or of the bucket itself. Raises OptionError for a key that UTF-8
        cannot express and for a bucket that the addressing cannot name.
        """
        encoded = encode_key(key)
        how = addressing_of(self.addressing, self.kind, self.endpoint, bucket)
        authority, base = self.endpoint.authority, self.endpoint.base
        if how == "path":
            slash = "/" if encoded or self.kind == "oss" else ""
            path = f"{base}/{bucket}{slash}{encoded}"
        else:
            authority = f"{bucket}.{authority}" if how == "virtual" else authority
            path = f"{base}/{encoded}"
        return Address(self.endpoint.scheme, authority, path, bucket, key)


@dataclass(frozen=True, slots=True)
class Address:
    """Where one object, or bucket, is asked for: the parts of the URL, and what they stand for.

    `authority` is the Host field as libcurl sends it, `path` the percent-encoded path, which must be sent as
    it is; `bucket` and `key` are as they are called.
    """

    scheme: str
    authority: str
    path: str
    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The URL without a query."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_location(text: str) -> Location:
    """Returns the location that `s3://BUCKET[/KEY]` or `oss://BUCKET[/KEY]` names.

    Raises OptionError, whose message repeats nothing of what may be a secret.
    """
    scheme = _SCHEME.match(text) if isinstance(text, str) else None
    if scheme is None:
        raise OptionError("not a location of an object store: write s3://BUCKET/KEY or oss://BUCKET/KEY")
    kind = scheme[1].lower()
    bucket, _, key = text[scheme.end() :].partition("/")
    if "@" in bucket or ":" in bucket:
        raise OptionError(
            f"{kind}://BUCKET/KEY takes no user info, port or ARN: credentials are given by credentials= "
            "(--credentials) or the environment, the host by endpoint= (--endpoint)"
        )
    if not bucket:
        raise OptionError(f"the location names no bucket: write {kind}://BUCKET/KEY")
    if not _BUCKETS[kind].fullmatch(bucket):
        raise OptionError(f"{bucket[:70]!r} is not the name of a bucket")
    if _CONTROL.search(key):
        raise OptionError("the key has a control character in it")
    if len(encode_key(key)) > MAX_KEY_BYTES < len(key.encode()):  # the first refuses what is no UTF-8
        raise OptionError(f"the key is longer than {MAX_KEY_BYTES} bytes")
    return Location(kind, bucket, key)


def encode(text: str) -> str:
    """Returns a text percent-encoded, all but the unreserved characters. Raises OptionError."""
    return _quoted(text, "")


def encode_key(key: str) -> str:
    """Returns a key percent-encoded for a path: as `encode`, but slashes stay."""
    return _quoted(key, "/")


def _quoted(text: str, safe: str) -> str:
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise OptionError("the key or query has a character that UTF-8 cannot express") from None


def encode_query(query: Query, *, bare: bool = True) -> str:
    """Returns a query, percent-encoded, in the order given; without "=" after the name of an empty one if
    `bare`.
    """
    return "&".join(encode(k) if bare and not v else f"{encode(k)}={encode(v)}" for k, v in query)


def parse_endpoint(text: str, kind: str = "s3") -> Endpoint:
    """Returns an endpoint from a URL or a mere host[:port], which means https. Raises OptionError, without
    user info in its message.
    """
    bad = OptionError("the endpoint cannot be used: write https://HOST[:PORT], without user info and query")
    if not isinstance(text, str) or not text.isascii() or _CONTROL.search(text.strip()):
        raise bad
    url = text.strip() if "://" in text else f"https://{text.strip()}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise bad from None
    scheme = parts.scheme.lower()
    host, colon, _ = parts.netloc.rpartition(":") if port is not None else (parts.netloc.rstrip(":"), "", "")
    if scheme not in _PORTS or "?" in url or "#" in url or not _is_host(host) or (port == 0 and colon):
        raise bad
    if not _BASE_PATH.fullmatch(parts.path) or {".", ".."} & set(parts.path.split("/")):
        raise bad
    if kind == "oss" and parts.path.strip("/"):
        raise OptionError("the endpoint of OSS takes no path: write https://HOST[:PORT]")
    authority = host.lower() if port in (None, _PORTS[scheme]) else f"{host.lower()}:{port}"
    return Endpoint(scheme, authority, parts.path.rstrip("/"))


def _is_host(host: str) -> bool:
    if not _HOST.fullmatch(host):
        return False
    if host.startswith("["):
        try:
            return ip_address(host[1:-1]).version == 6
        except ValueError:
            return False
    return ".." not in host and not host.startswith(".") and not host.endswith(".")


def resolve_store(
    kind: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    addressing: str = "auto",
) -> Store:
    """Returns the store for what is known of it: an endpoint (its own, or the public host of the region) and
    a region (its own, or the one that the endpoint's name tells).

    S3 without any is AWS's us-east-1. Raises OptionError for what is no endpoint, region or addressing, and
    for OSS without endpoint and region.
    """
    if addressing not in ADDRESSING or (addressing == "cname" and kind != "oss"):
        raise OptionError("option addressing: must be auto, path or virtual, or cname for OSS")
    if region is not None and not _REGION.fullmatch(region):
        raise OptionError("option region: is not the name of a region, such as eu-central-1 or cn-hangzhou")
    if kind == "oss" and region is not None:
        region = region.removeprefix("oss-")
    if endpoint is not None:
        known = parse_endpoint(endpoint, kind)
        region = region or _region_of(known, kind)
        return Store(kind, known, region or (DEFAULT_S3_REGION if kind == "s3" else None), addressing)
    if kind == "oss":
        if region is None:
            raise OptionError(
                "OSS needs to know where: give region= (--region, OSS_REGION), such as cn-hangzhou, or "
                "endpoint= (--endpoint, OSS_ENDPOINT)"
            )
        return Store(kind, Endpoint("https", f"oss-{region}.aliyuncs.com"), region, addressing)
    region = region or DEFAULT_S3_REGION
    domain = next((domain for start, domain in _AWS_DOMAINS if region.startswith(start)), "amazonaws.com")
    return Store(kind, Endpoint("https", f"s3.{region}.{domain}"), region, addressing)


def _region_of(endpoint: Endpoint, kind: str) -> str | None:
    """Returns the region that the name of a public endpoint tells."""
    oss = _OSS_HOST.fullmatch(endpoint.host)
    aws = _AWS_HOST.fullmatch(endpoint.host) if kind == "s3" else None
    found = oss or aws
    return found[1] if found else None


def addressing_of(addressing: str, kind: str, endpoint: Endpoint, bucket: str) -> str:
    """Returns how a bucket is named: "path" (in the path), "virtual" (in the host), or "cname" (the host is
    the bucket's own). Raises OptionError where the bucket cannot be named as was asked.

    "auto" is virtual but where that cannot work: with an IP address or a name without names below it, and
    with a bucket that is no host name, or has dots, which a wildcard certificate does not cover.
    """
    names_a_host = _HOST_LABELS.fullmatch(bucket) is not None
    if addressing == "auto":
        if endpoint.is_address or not names_a_host or ("." in bucket and endpoint.scheme == "https"):
            return "path"
        return "virtual"
    if addressing == "virtual" and (not names_a_host or _is_ip(endpoint.host)):
        raise OptionError(f"bucket {bucket!r} cannot be part of the host's name: use addressing=path")
    return addressing


@lru_cache(maxsize=64)
def _is_ip(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
