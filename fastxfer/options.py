"""Every option of a transfer, checked once, in one frozen object.

The command line and the environment variables (`FASTXFER_*`) are made from the same fields: each field
carries its parser, its help line and, where it has one, its short flag, so that a keyword, a long option and
a variable cannot drift apart.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from fastxfer.errors import OptionError
from fastxfer.sources.credentials import Credentials, parse_credentials
from fastxfer.sources.schemes import ADDRESSING
from fastxfer.units import parse_size

Refresh = Callable[[], str] | str
"""What gives a new URL of the same object: a callable, or a shell command that prints it."""

GivenCredentials = Credentials | Callable[[], Any]
"""Credentials of an object store, or what returns them."""

MAX_CHUNK_BYTES = 5 * 1024**3
MAX_CONNECTIONS = 1024
MAX_MIRRORS = 64

DIGEST_HEX_LENGTHS = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "sha512": 128,
    "blake3": 64,
    "crc32c": 8,
    "crc64nvme": 16,
    "crc64xz": 16,
}

_PROXY_SCHEMES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HARMLESS_HEADERS = ("user-agent", "accept", "accept-language")
"""Header fields that tell nothing of a caller that another origin may not know."""
_OWN_HEADERS = {"range", "if-range", "accept-encoding", "host", "content-length", "transfer-encoding", "te"}


def _size(text: Any) -> int:
    return parse_size(text)


def _chunk_size(text: Any) -> int | None:
    if text is None:
        return None
    size = parse_size(text)
    if not 1 <= size <= MAX_CHUNK_BYTES:
        raise ValueError("must be from 1 byte to 5G")
    return size


def _max_rate(text: Any) -> int | None:
    if text is None:
        return None
    rate = parse_size(text)
    return rate or None


def parse_whole(value: Any, least: int, most: int) -> int:
    """Returns a whole number in these bounds. Raises ValueError."""
    try:
        number = int(value)
        fits = not isinstance(value, bool) and number == float(value) and least <= number <= most
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return number


def parse_connections(value: Any) -> int:
    """Returns a number of connections. Raises ValueError."""
    return parse_whole(value, 1, MAX_CONNECTIONS)


def _connections_per_host(value: Any) -> int | None:
    return None if value is None else parse_connections(value)


def _retries(value: Any) -> int:
    return parse_whole(value, 0, 1000)


def _seconds_or_zero(value: Any) -> float:
    try:
        seconds = float(value)
    except (ValueError, TypeError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= 86400 * 365:
        raise ValueError("must be a number of seconds, at most a year")
    return seconds


def _seconds(value: Any) -> float:
    seconds = _seconds_or_zero(value)
    if seconds == 0:
        raise ValueError("must be a number of seconds over 0")
    return seconds


_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def parse_flag(value: Any) -> bool:
    """Returns a switch from a bool or its name: true, yes, on, 1 and their opposites. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    raise ValueError("must be true or false")


def _refresh(value: Any) -> Refresh | None:
    if value is None or callable(value):
        called: Refresh | None = value
        return called
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a callable, or a command, that gives a new URL")
    return value


def _mirrors(value: Any) -> tuple[str, ...]:
    urls = value.split() if isinstance(value, str) else tuple(value or ())
    if not all(isinstance(url, str) for url in urls):
        raise ValueError("must be URLs")
    if len(urls) > MAX_MIRRORS:
        raise ValueError(f"must be at most {MAX_MIRRORS} URLs")
    return tuple(urls)


def _resume(value: Any) -> bool | str:
    if isinstance(value, str) and value.strip().lower() == "force":
        return "force"
    try:
        return parse_flag(value)
    except ValueError:
        raise ValueError("must be true, false or force") from None


def _names(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else list(value or ())
    names = tuple(str(name).strip().lower() for name in given)
    if not all(map(_TOKEN.match, names)):
        raise ValueError("must be names of header fields, with commas between")
    return names


def parse_choice(*names: str) -> Callable[[Any], str]:
    """Returns what takes one of some names, and raises ValueError for another."""

    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value)

    return parse


def _http_version(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    if text not in ("1.1", "2", "3"):
        raise ValueError("must be 1.1, 2 or 3")
    return text


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    if _CONTROL.search(text):
        raise ValueError("must not hold control characters")
    return text


def _file(value: Any) -> str | None:
    text = _text(value)
    if text is not None and not _is_utf8(text, "surrogateescape"):
        raise ValueError("must be the name of a file")
    return text


def _is_utf8(text: str, errors: str = "strict") -> bool:
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


def _proxy(value: Any) -> str | None:
    text = _text(value)
    if not text:
        return text  # "" is libcurl's way to say: none, whatever the environment says
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        usable = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
        usable = usable and _is_utf8(text)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be a proxy's URL, such as http://proxy.example:3128")
    return text


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    """Returns header fields as pairs from a mapping, pairs, or "Name: value" lines (RFC 9110 section 5)."""
    if value is None:
        return ()
    items: list[tuple[str, str]] = []
    if isinstance(value, Mapping):
        items = [(str(k), str(v)) for k, v in value.items()]
    else:
        for entry in value:
            if isinstance(entry, str):
                name, colon, text = entry.partition(":")
                if not colon:
                    raise ValueError("a header is written 'Name: value'")
                items.append((name.strip(), text.strip()))
            else:
                name, text = entry
                items.append((str(name), str(text)))
    for name, text in items:
        if not _TOKEN.match(name):
            raise ValueError("a header's name has a character that HTTP does not allow")
        if _CONTROL.search(text) or not _latin1(text):
            raise ValueError(f"the value of header {name} has a character that HTTP does not allow")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"header {name} is set by the transfer itself")
    return tuple(items)


def _latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _auth(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        user, colon, password = value.partition(":")
        if not colon:
            raise ValueError("must be 'user:password'")
    else:
        user, password = ("" if part is None else str(part) for part in value)
    if ":" in user or _CONTROL.search(user + password) or not _is_utf8(user + password):
        raise ValueError("must be a user without a colon and a password, both without control characters")
    return user, password


def _client_cert(value: Any) -> tuple[str, str | None] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _file(value) or "", None
    cert, key = map(_file, value)
    return cert or "", key


def _endpoint(value: Any) -> str | None:
    if value is None:
        return None
    from fastxfer.sources.locations import parse_endpoint

    return str(_without_name(parse_endpoint, value))


def _region(value: Any) -> str | None:
    if value is None:
        return None
    from fastxfer.sources.locations import resolve_store

    _without_name(lambda region: resolve_store("s3", region=region), str(value))
    return str(value)


def _profile(value: Any) -> str | None:
    text = _file(value)
    if text is not None and not text.strip():
        raise ValueError("must be the name of a profile")
    return text


def _credentials(value: Any) -> GivenCredentials | None:
    if value is None or callable(value):
        called: Callable[[], Any] | None = value
        return called
    found: Credentials = _without_name(parse_credentials, value)
    return found


def _without_name(parse: Callable[[Any], Any], value: Any) -> Any:
    """Parses by what names the option itself in its errors."""
    try:
        return parse(value)
    except OptionError as error:
        raise ValueError(re.sub(r"^option \w+: ", "", error.message)) from None


def parse_checksum(value: str | Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Returns the expected digests as (algorithm, lower-case hex) pairs.

    Takes "sha256:HEX", "sha-256=HEX" (also base64, as in RFC 9530's Digest fields), a mapping of such, or
    None. Raises ValueError for an unknown algorithm or a digest of the wrong length.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        match = re.match(r"^\s*([A-Za-z0-9-]+)\s*[:=]\s*(\S+)\s*$", value)
        if match is None:
            raise ValueError("is written ALGORITHM:HEX, such as sha256:e3b0...")
        items: Sequence[tuple[str, str]] = [(match[1], match[2])]
    elif isinstance(value, Mapping):
        items = [(str(k), str(v)) for k, v in value.items()]
    else:
        raise ValueError("is written ALGORITHM:HEX, or a mapping of algorithms to digests")
    return tuple(_one_checksum(name, digest) for name, digest in items)


def _one_checksum(name: str, digest: str) -> tuple[str, str]:
    algorithm = name.lower().replace("-", "").replace("_", "")
    if algorithm not in DIGEST_HEX_LENGTHS:
        raise ValueError(f"algorithm {name!r} is not one of {', '.join(DIGEST_HEX_LENGTHS)}")
    length = DIGEST_HEX_LENGTHS[algorithm]
    if re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", digest):
        return algorithm, digest.lower()
    try:
        raw = base64.b64decode(digest.strip(":"), validate=True)
    except ValueError:
        raw = b""
    if len(raw) * 2 != length:
        raise ValueError(f"a {algorithm} digest has {length} hex digits")
    return algorithm, raw.hex()


def _option(
    parse: Callable[[Any], Any],
    default: Any,
    help_text: str,
    *,
    metavar: str = "",
    flags: tuple[str, ...] = (),
) -> Any:
    meta = {"parse": parse, "help": help_text, "metavar": metavar, "flags": flags}
    return field(default=default, metadata=meta)


def checked_options(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a caller wrote as values of a kind of options: a dataclass whose fields say how they are
    parsed. Raises OptionError that names the option, and TypeError for one that does not exist.
    """
    known = {each.name: each for each in fields(kind)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TypeError(f"unknown option {name!r}")
        try:
            checked[name] = known[name].metadata["parse"](value)
        except (ValueError, TypeError, OverflowError) as error:
            raise OptionError(f"option {name}: {error}") from error
    return checked


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """The options of a fetch, checked. Sizes in bytes, durations in seconds; `build` makes one from what
    people write.
    """

    connections: int = _option(
        parse_connections, 16, "requests at once, 1 to 1024", metavar="N", flags=("-x",)
    )
    mirrors: tuple[str, ...] = _option(
        _mirrors, (), "other URLs of the same object, with spaces between", metavar="URLS"
    )
    connections_per_host: int | None = _option(
        _connections_per_host,
        None,
        "requests at once to a host, of all transfers of the user (default: 32, or those of one transfer)",
        metavar="N",
    )
    refresh: Refresh | None = _option(  # noqa: RUF009 - it is a field
        _refresh,
        None,
        "a command that prints a new URL of the same object, run when the old one is refused (401, 403)",
        metavar="CMD",
    )
    checksum: tuple[tuple[str, str], ...] = _option(
        parse_checksum, (), "the digest that the object must have: ALGORITHM:HEX", metavar="C"
    )
    chunk_size: int | None = _option(
        _chunk_size,
        None,
        "unit of the progress map and its checksums, 1 to 5G (default: by size)",
        metavar="SIZE",
        flags=("-k",),
    )
    resume: bool | str = _option(
        _resume,
        True,
        "go on from a part file that is there; 'force' also where nothing but the size tells that it is of "
        "this object",
        metavar="HOW",
    )
    checkpoint_dir: str | None = _option(
        _file, None, "the directory for the checkpoint (default: beside the part file)", metavar="DIR"
    )
    unpause: bool = _option(
        parse_flag, False, "go on with a target that its user paused in an earlier run", metavar="BOOL"
    )
    exists: str = _option(
        parse_choice("update", "skip", "replace", "error"), "update",
        "when the target is there: update (fetch only if it differs), skip, replace or error", metavar="HOW",
    )  # fmt: skip
    headers: tuple[tuple[str, str], ...] = _option(
        _headers, (), "a header field to send, 'Name: value'; may be repeated", metavar="H", flags=("-H",)
    )
    secret_headers: tuple[str, ...] = _option(
        _names,
        (),
        "names, or beginnings of names, of header fields that a redirect may not carry to another origin, "
        "beside Authorization, Cookie, X-Amz-*, X-OSS-*, X-Api-Key and X-Auth-*",
        metavar="N,N",
    )
    allow_http_redirects: bool = _option(
        parse_flag, False, "follow redirects from https to http", metavar="BOOL"
    )
    allow_private_redirects: bool = _option(
        parse_flag,
        False,
        "follow redirects from the public internet to loopback, link-local and private addresses",
        metavar="BOOL",
    )
    auth: tuple[str, str] | None = _option(
        _auth, None, "credentials for HTTP Basic, user:password", metavar="U:P"
    )
    netrc: bool = _option(parse_flag, False, "take credentials from ~/.netrc", metavar="BOOL")
    endpoint: str | None = _option(
        _endpoint,
        None,
        "where the object store is: https://HOST[:PORT] (default: its public one)",
        metavar="URL",
    )
    region: str | None = _option(
        _region, None, "region of the object store, such as eu-central-1 or cn-hangzhou", metavar="R"
    )
    profile: str | None = _option(
        _profile, None, "profile of the store's configuration files to take credentials from", metavar="NAME"
    )
    credentials: GivenCredentials | None = field(
        default=None,
        repr=False,
        metadata={
            "parse": _credentials,
            "help": "credentials of the object store, AK:SK or AK:SK:TOKEN; others can see a command line, "
            "so better FASTXFER_CREDENTIALS or the store's own variables",
            "metavar": "C",
            "flags": (),
        },
    )
    anonymous: bool = _option(parse_flag, False, "ask the object store without credentials", metavar="BOOL")
    addressing: str = _option(
        parse_choice(*ADDRESSING), "auto",
        "where the bucket's name goes: auto, path, virtual (in the host's name), or cname (OSS: the host is "
        "the bucket's own)",
        metavar="HOW",
    )  # fmt: skip
    proxy: str | None = _option(
        _proxy, None, "proxy to go through (default: the usual environment variables)", metavar="URL"
    )
    ca_bundle: str | None = _option(
        _file, None, "file with the certificate authorities to trust", metavar="FILE"
    )
    client_cert: tuple[str, str | None] | None = _option(
        _client_cert, None, "client certificate (PEM, with its key)", metavar="FILE"
    )
    verify_tls: bool = _option(parse_flag, True, "check the server's certificate", metavar="BOOL")
    http_version: str | None = _option(
        _http_version,
        None,
        "1.1 (default: many connections), 2 or 3 (streams of one connection)",
        metavar="V",
    )
    connect_timeout: float = _option(_seconds, 10.0, "seconds to make a connection in", metavar="S")
    stall_timeout: float = _option(
        _seconds, 30.0, "seconds without a byte after which a request fails", metavar="S"
    )
    retries: int = _option(_retries, 5, "failures in a row without progress before giving up", metavar="N")
    wait_for_network: float = _option(
        _seconds_or_zero,
        0.0,
        "seconds to wait for a network or a server that is gone, beyond the retries",
        metavar="S",
    )
    max_rate: int | None = _option(_max_rate, None, "bytes a second at the most, such as 5M", metavar="R")
    max_rate_per_host: int | None = _option(
        _max_rate,
        None,
        "bytes a second from a host at the most, of all transfers of this process",
        metavar="R",
    )
    max_rate_total: int | None = _option(
        _max_rate, None, "bytes a second at the most, of all transfers of this process", metavar="R"
    )
    on_change: str = _option(
        parse_choice("restart", "fail"),
        "restart",
        "when the remote object changed: restart or fail",
        metavar="HOW",
    )
    ignore_etag: bool = _option(
        parse_flag, False, "do not compare ETags (for servers that give wrong ones)", metavar="BOOL"
    )
    durability: str = _option(
        parse_choice("periodic", "chunk", "none"), "periodic",
        "periodic (power-safe, every 5 s), chunk (after every chunk) or none (safe against a kill only)",
        metavar="HOW",
    )  # fmt: skip
    keep_ledger: bool = _option(
        parse_flag,
        False,
        "keep the CRC-64 of each chunk beside the file, as OUT.fxsum, to verify and repair it by",
        metavar="BOOL",
    )
    sink: str = _option(
        parse_choice("auto", "direct", "mmap", "pwrite"),
        "auto",
        "auto, direct (past the page cache), mmap or pwrite",
        metavar="HOW",
    )

    @property
    def rates(self) -> tuple[int | None, int | None, int | None]:
        """The most bytes a second of one transfer, of its host and of the process; None is any."""
        return self.max_rate, self.max_rate_per_host, self.max_rate_total

    @classmethod
    def build(cls, **given: Any) -> TransferOptions:
        """Returns checked options from keyword arguments as a caller wrote them.

        Raises OptionError that names the option, and TypeError for a keyword that does not exist.
        """
        return cls(**checked_options(cls, given))


def merged_options(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of an item: its own count more; header fields add up."""
    merged = {**common, **own}
    if "headers" in common and "headers" in own:
        both = [TransferOptions.build(headers=each["headers"]).headers for each in (common, own)]
        mine = {name.lower() for name, _ in both[1]}
        merged["headers"] = [*(pair for pair in both[0] if pair[0].lower() not in mine), *both[1]]
    return merged


def told_to_all(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options without what may be a secret of the caller's: for an origin that somebody else has
    named.
    """
    told = {name: value for name, value in given.items() if name not in ("auth", "client_cert", "headers")}
    if "headers" in given:
        pairs = TransferOptions.build(headers=given["headers"]).headers
        told["headers"] = [pair for pair in pairs if pair[0].lower() in HARMLESS_HEADERS]
    return told
