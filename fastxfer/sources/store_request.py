"""A request to an object store before and after it is signed, and what the styles of signature share.

Pure: the time is an argument, in seconds since 1970.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import field
from functools import lru_cache
from hashlib import sha256
from time import gmtime

from fastxfer.errors import OptionError
from fastxfer.sources.locations import Address
from fastxfer.values import dataclass

Fields = tuple[tuple[str, str], ...]

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e]*")
# Fields that a signature sets itself.
_OWN = frozenset(
    (
        "authorization", "date", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token",
        "x-oss-content-sha256", "x-oss-date", "x-oss-security-token",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A request that is not signed yet. `query` holds pairs as they are called, "" for no value; `headers`
    those fields that are to be signed where the style signs them, and all are sent.
    """

    method: str
    address: Address
    query: Fields = ()
    headers: Fields = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it goes out: the whole URL, whose path must be sent as it is, and every field but Host."""

    method: str
    url: str = field(repr=False)
    headers: Fields = field(repr=False)


def with_url(request: StoreRequest, query: str, headers: Fields) -> SignedRequest:
    """Returns the request as it goes out, with an encoded query."""
    return SignedRequest(request.method, request.address.url + (f"?{query}" if query else ""), headers)


def own_fields(headers: Fields) -> Fields:
    """Returns the caller's fields without those that a signature sets. Raises OptionError for what could not
    be signed so that client and server read the same: a name that HTTP does not allow, or a value that is
    not of ASCII.
    """
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise OptionError("a header's name has a character that HTTP does not allow")
        if not _VALUE.fullmatch(value):
            raise OptionError(f"the value of header {name} is signed, and so must be of printable ASCII")
    return tuple((name, value.strip(" \t")) for name, value in headers if name.lower() not in _OWN)


def stamp_of(now_epoch_s: float) -> str:
    """Returns a time as both V4 styles write it: 20260102T030405Z."""
    year, month, day, hour, minute, second = gmtime(int(now_epoch_s))[:6]
    return f"{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"


def sorted_pairs(query: str) -> list[tuple[str, str]]:
    """Returns the encoded names and values of a query, sorted by both."""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return sorted((name, value) for name, _, value in pairs)


def v4_signature(algorithm: str, key_prefix: str, secret: str, stamp: str, scope: str, canonical: str) -> str:
    """Returns the signature, in hex, of a canonical request: the key is derived along the scope, and signs
    the request's SHA-256.
    """
    text = f"{algorithm}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    # Other threads are not let in meanwhile, as they are by `hmac.digest`: that takes longer than this.
    return hmac.new(_v4_key(key_prefix + secret, scope), text.encode(), sha256).hexdigest()


@lru_cache(maxsize=64)
def _v4_key(secret: str, scope: str) -> bytes:
    """Returns the key of a scope, the same for all requests of a day."""
    key = secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
