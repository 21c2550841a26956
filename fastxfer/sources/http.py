"""HTTP and HTTPS sources: the URL made safe, the requests for its ranges, and where a redirect may lead."""

from __future__ import annotations

import re
from dataclasses import field, replace
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from fastxfer._version import __version__
from fastxfer.errors import BadResponseError, OptionError
from fastxfer.options import HARMLESS_HEADERS, TransferOptions
from fastxfer.plan.addresses import is_public
from fastxfer.plan.ranges import Span, format_range
from fastxfer.sources.schemes import is_location
from fastxfer.sources.told_checksums import is_presigned
from fastxfer.values import dataclass

MAX_REDIRECTS = 10
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_HOST = re.compile(r"[0-9A-Za-z._~%-]+")
# Python's parser passes over what stands between a bracket and a port, and over brackets around a name.
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[^\[\]]*)?\]|[^\[\]:]*)(:[0-9]*)?")
# What every part of this module would leave as it is: no user info, nothing to encode, a host in lower case.
_PLAIN = re.compile(
    r"(https?)://([a-z0-9][a-z0-9.-]*)(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?/[A-Za-z0-9/%:@!$&'()*+,;=~._-]*"
)
_CONTROL_ONLY = re.compile(r"[\x00-\x1f\x7f]")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_SECRET_HEADERS = (
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-amz-",
    "x-oss-",
    "x-api-key",
    "x-auth-",
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=2048)
def origin(url: str) -> tuple[str, str, int]:
    """Returns the origin of a URL: scheme, host and port (RFC 6454 section 4)."""
    plain = _PLAIN.fullmatch(url)
    if plain is not None:
        return plain[1], plain[2], int(plain[3] or _DEFAULT_PORTS[plain[1]])
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def plain_home(url: str) -> tuple[str, str, int] | None:
    """Returns the origin of a URL that goes out as it is written and holds no secret, None for others."""
    plain = _PLAIN.fullmatch(url)
    return None if plain is None else _home(*plain.groups())


@lru_cache(maxsize=2048)
def _home(scheme: str, host: str, port: str | None) -> tuple[str, str, int]:
    return scheme, host, int(port or _DEFAULT_PORTS[scheme])


def safe_url(url: str) -> str:
    """Returns a URL fit to be shown and stored: without user info, query and fragment, where secrets
    travel. One of an object store has none of these: it is shown whole where it is good.
    """
    if is_location(url):
        from fastxfer.sources.locations import parse_location

        try:
            return str(parse_location(url))
        except OptionError:
            return url.partition(":")[0] + "://"
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class HttpSource:
    """One object at one URL. `url` holds no user info; `home` is the origin that the caller's secrets are
    for.

    `client_cert` says whether the caller's certificate may be shown, `public_only` that only addresses of
    the public internet may be asked.
    """

    url: str
    home: tuple[str, str, int]
    options: TransferOptions = field(repr=False)
    credentials: tuple[str, str] | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    client_cert: bool = True
    public_only: bool = False
    redirects: int = 0

    as_is = False
    generation = 0

    @classmethod
    def of(cls, url: str, options: TransferOptions) -> HttpSource:
        """Returns the source for a URL as a caller wrote it. Raises OptionError when it cannot be one."""
        if not isinstance(url, str):
            raise OptionError("the URL must be a string")
        if _PLAIN.fullmatch(url):
            return cls(url, origin(url), options, options.auth, options.headers)
        if _CONTROL.search(url.strip()):
            raise OptionError("the URL has a space or a control character in it: percent-encode it")
        try:
            url.encode()
        except UnicodeEncodeError as error:
            raise OptionError("the URL has a character that UTF-8 cannot express") from error
        try:
            parts = urlsplit(url.strip())
            port = parts.port
            if not _AUTHORITY.fullmatch(parts.netloc.rpartition("@")[2]):
                raise ValueError("not a host and a port")
        except ValueError:  # its text may quote what stands there, a password too
            raise OptionError("the URL cannot be read: its host or its port makes no sense") from None
        if parts.scheme.lower() not in ("http", "https"):
            named = f"scheme {parts.scheme!r}" if parts.scheme else "a URL without a scheme"
            raise OptionError(f"{named} is not supported: write http://, https://, s3:// or oss://")
        if not parts.hostname:
            raise OptionError("the URL names no host: write http://HOST/PATH")
        host = _ascii_host(parts.hostname)
        credentials = options.auth
        if parts.username is not None and credentials is None:
            credentials = (unquote(parts.username), unquote(parts.password or ""))
            if ":" in credentials[0] or _CONTROL_ONLY.search("".join(credentials)):
                raise OptionError("the URL's user info has a colon in the user or a control character")
        netloc = f"{host}:{port}" if port is not None else host
        # What is not ASCII is sent percent-encoded in UTF-8 (RFC 3987 section 3.1); what is encoded already
        # stays as it is.
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|{}^`\\\"<>#")
        clean = urlunsplit((parts.scheme.lower(), netloc, path, query, ""))
        return cls(clean, origin(clean), options, credentials, options.headers)

    def mirror(self, url: str) -> HttpSource:
        """Returns the source for another URL of the same object. Raises OptionError when it cannot be one.

        What the caller gave is for this source's origin: another one gets the user info of its own URL, and
        of the header fields those that tell nothing of the caller.
        """
        same = replace(HttpSource.of(url, self.options), public_only=self.public_only)
        if same.home == self.home and self.client_cert:
            return same
        return replace(HttpSource.stranger(url, self.options), public_only=self.public_only)

    @classmethod
    def stranger(cls, url: str, options: TransferOptions) -> HttpSource:
        """Returns the source for a URL of another origin than the caller's secrets are for."""
        told = tuple(field for field in options.headers if field[0].lower() in HARMLESS_HEADERS)
        other = cls.of(url, replace(options, auth=None, headers=told))
        return replace(other, options=options, client_cert=False)

    @property
    def coded(self) -> bool:
        """Whether a Content-Encoding is told of the object itself, as a store does that keeps it so."""
        return is_presigned(self.url)

    @property
    def host_url(self) -> str:
        """A URL of the host that is asked, for who counts what a host bears."""
        return self.url

    @property
    def display(self) -> str:
        """The URL without secrets."""
        return safe_url(self.url)

    def asks(
        self, span: Span | None, if_range: str | None, _version: str | None
    ) -> tuple[str, tuple[str, ...]]:
        """Returns the URL and the header lines of a request; see `header_lines`."""
        return self.url, self.header_lines(span, if_range)

    def ready(self) -> None:
        """Nothing is needed beforehand."""

    def refuses(self, _status: int) -> bool:
        """Returns False: what refuses is told by the status."""
        return False

    def accepted(self) -> None:
        """Nothing is learned from it."""

    def settled(self) -> HttpSource:
        """Returns the source that its redirects led to, as the one to ask from now on."""
        return replace(self, redirects=0)

    def header_lines(self, span: Span | None, if_range: str | None) -> tuple[str, ...]:
        """Returns the request's header lines for a half-open range, or for the whole object when `span` is
        None.
        """
        if span is None:
            return _whole_lines(self.headers)
        told = f"Range: {format_range(*span)}"
        return _lines(self.headers, told, *([f"If-Range: {if_range}"] if if_range is not None else []))

    def redirected(self, location: str, address: str = "") -> HttpSource:
        """Returns the source that a Location field leads to, sent by the server at the IP address `address`.

        Another origin gets none of the secrets. From the public internet only there: an address that is not
        public is refused when it is known, at the latest when it is connected to. Raises BadResponseError for
        the eleventh redirect, another scheme than http and https, https to http, user info in the location,
        and what is no URL.
        """
        if self.redirects >= MAX_REDIRECTS:
            raise BadResponseError(f"the server redirects more than {MAX_REDIRECTS} times")
        if _CONTROL.search(location):
            raise BadResponseError("the server redirects to a URL with a space or a control character")
        try:
            # A field's bytes over 127 were read as Latin-1; in a URL they are percent-encoded.
            url = urljoin(self.url, quote(location.encode("latin-1"), safe=_PRINTABLE))
            parts = urlsplit(url)
            to = origin(url)
            if not _AUTHORITY.fullmatch(parts.netloc.rpartition("@")[2]):
                raise ValueError("not a host and a port")
        except ValueError as error:
            raise BadResponseError("the server redirects to what is no URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadResponseError(
                f"the server redirects to scheme {parts.scheme[:20]!r}, which is not followed"
            )
        if parts.scheme == "http" and self.url.startswith("https:") and not self.options.allow_http_redirects:
            raise BadResponseError(
                "the server redirects from https to http, which is not followed; "
                "where that is meant use allow_http_redirects=True (--allow-http-redirects)"
            )
        if "@" in parts.netloc:
            raise BadResponseError("the server redirects to a URL with user info, which is not followed")
        url = urlunsplit((parts.scheme, parts.netloc, parts.path or "/", parts.query, ""))
        public_only = self.public_only or (is_public(address) and not self.options.allow_private_redirects)
        moved = replace(self, url=url, redirects=self.redirects + 1, public_only=public_only)
        if to == self.home:
            return moved
        secret = (*_SECRET_HEADERS, *self.options.secret_headers)
        kept = tuple(h for h in self.headers if not h[0].lower().startswith(secret))
        return replace(moved, home=to, credentials=None, headers=kept, client_cert=False)


@lru_cache(maxsize=64)
def _whole_lines(headers: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return _lines(headers)


def _lines(headers: tuple[tuple[str, str], ...], *more: str) -> tuple[str, ...]:
    lines = [f"User-Agent: fastxfer/{__version__}", "Accept: */*", "Accept-Encoding: identity", *more]
    own = {name.lower() for name, _ in headers}
    lines = [line for line in lines if line.partition(":")[0].lower() not in own]
    # An empty value needs libcurl's own form, "Name;", or the field is taken out.
    return (*lines, *(f"{name}: {value}" if value else f"{name};" for name, value in headers))


def _ascii_host(host: str) -> str:
    if ":" in host:
        return f"[{host}]"
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise OptionError(f"the URL's host {host[:60]!r} is not a host name") from error
    if not _HOST.fullmatch(name):
        raise OptionError(f"the URL's host {host[:60]!r} is not a host name")
    return name
