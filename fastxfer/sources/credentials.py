"""Credentials of an object store as a value, and what people write for them: an option, or the environment.

Pure: the environment is a mapping that the caller hands in. Where nothing is written, `credential_chain.py`
asks the well-kept libraries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastxfer.errors import CredentialsError, OptionError

_PLAIN = re.compile(r"[\x21-\x7e]{1,8192}")
# What the libraries of both stores call the parts, so that what is at hand can be given as it is.
_NAMES = {
    "access_key_id": ("access_key_id", "aws_access_key_id", "access_key", "key", "AccessKeyId"),
    "secret": (
        "secret",
        "secret_access_key",
        "aws_secret_access_key",
        "access_key_secret",
        "secret_key",
        "SecretAccessKey",
        "AccessKeySecret",
    ),
    "token": (
        "token",
        "session_token",
        "aws_session_token",
        "security_token",
        "SessionToken",
        "SecurityToken",
    ),
    "expires": ("expires",),
}
_FORMS = "AK:SK, AK:SK:TOKEN, a mapping with access_key_id, secret and token, or a callable that returns one"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, with the session token of temporary ones. `expires` is in seconds since 1970, or None
    for unknown or never. Shows no secret when printed.
    """

    access_key_id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = None

    def __post_init__(self) -> None:
        parts = (self.access_key_id, self.secret, *(() if self.token is None else (self.token,)))
        if not all(isinstance(part, str) and _PLAIN.fullmatch(part) for part in parts):
            raise OptionError(
                "option credentials: key, secret and token must be of printable ASCII characters"
            )
        if self.expires is not None and not (
            isinstance(self.expires, int | float) and math.isfinite(self.expires)
        ):
            raise OptionError("option credentials: expires must be a number of seconds since 1970")


def parse_credentials(given: Any) -> Credentials:
    """Returns credentials from what a caller wrote: `Credentials`, "AK:SK", "AK:SK:TOKEN" or a mapping.

    Raises OptionError, which repeats nothing of it.
    """
    if isinstance(given, Credentials):
        return given
    if isinstance(given, str):
        key, _, rest = given.strip().partition(":")
        secret, _, token = rest.partition(":")
        return Credentials(key, secret, token or None)
    if not isinstance(given, Mapping):
        raise OptionError(f"option credentials: must be {_FORMS}")
    known = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
    if not all(name in known for name in given):
        raise OptionError(f"option credentials: has a name that is not known; it must be {_FORMS}")
    named = {known[name]: value for name, value in given.items() if value is not None}
    if len(named) < len([value for value in given.values() if value is not None]):
        raise OptionError("option credentials: gives the same thing under two names")
    if not {"access_key_id", "secret"} <= named.keys():
        raise OptionError("option credentials: needs access_key_id and secret")
    return Credentials(
        named["access_key_id"], named["secret"], named.get("token") or None, named.get("expires")
    )


_ENVIRONMENT = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "oss": ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
}
_REGIONS = {"s3": ("AWS_REGION", "AWS_DEFAULT_REGION"), "oss": ("OSS_REGION",)}
_ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "oss": ("OSS_ENDPOINT",)}


def credentials_from(environ: Mapping[str, str], kind: str) -> Credentials | None:
    """Returns the credentials that the environment holds for a store ("s3" or "oss"), or None.

    Raises CredentialsError for half of them, and for what no credentials look like.
    """
    id_name, secret_name, token_name = _ENVIRONMENT[kind]
    key, secret = environ.get(id_name, "").strip(), environ.get(secret_name, "").strip()
    if not key and not secret:
        return None
    if not key or not secret:
        there, missing = (id_name, secret_name) if key else (secret_name, id_name)
        raise CredentialsError(f"{there} is set and {missing} is not: set both, or neither")
    try:
        return Credentials(key, secret, environ.get(token_name, "").strip() or None)
    except OptionError:
        raise CredentialsError(
            f"{id_name}, {secret_name} and {token_name} must be of printable ASCII characters"
        ) from None


def region_from(environ: Mapping[str, str], kind: str) -> str | None:
    """Returns the region that the environment names for a store, or None."""
    return _first(environ, _REGIONS[kind])


def endpoint_from(environ: Mapping[str, str], kind: str) -> str | None:
    """Returns the endpoint that the environment names for a store, or None."""
    return _first(environ, _ENDPOINTS[kind])


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := environ.get(name, "").strip())), None)
