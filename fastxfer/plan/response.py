"""What an answer to a (ranged) GET means: one pure function, `judge`, from what was asked and known to a
verdict.

libcurl checks nothing in a 206, so everything is checked here, before a byte of body is taken. A verdict is
one of: `Partial` (these bytes of the object), `Whole` (the object in one stream), `Unsatisfiable` (416, with
the size if told), `Moved` (a redirect), `NotRanged` (ask again without a Range) and `Changed` (another
object than the known one). Everything else raises a typed error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    HTTPStatusError,
    NotFoundError,
    OverloadedError,
    RangeError,
    ServerError,
)
from fastxfer.plan.ranges import ContentRange, Span, parse_content_range
from fastxfer.plan.retry import parse_retry_after
from fastxfer.values import dataclass

_MULTIPART = re.compile(r"multipart/byteranges", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,19}")
_VERSION = re.compile(r"(?!null\Z)[!-~]{1,1024}")
_STRONG_ETAG = re.compile(r"(?!W/)[\x20-\x7e\x80-\xff]+")  # RFC 9110 section 8.8.3, and what is not quoted


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one version of a remote object from another. `size` in bytes; any field may be None for
    unknown. `version` is what an object store calls it, where it keeps several: it is asked for by that, and
    not compared.
    """

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    version: str | None = None

    @property
    def strong_etag(self) -> str | None:
        """The ETag if it is a strong one (RFC 9110 section 8.8.1), which alone may stand in If-Range, and a
        field can hold it: it may come from a file, with anything in it.
        """
        return self.etag if self.etag is not None and _STRONG_ETAG.fullmatch(self.etag) else None

    @property
    def has_validator(self) -> bool:
        """True when there is an ETag or a Last-Modified to compare."""
        return self.etag is not None or self.last_modified is not None


class Headers:
    """The header fields of one answer, in order. Servers write the names in any case (RFC 9110 section 5.1),
    who asks for a field writes its name in lower case.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        found: dict[str, list[str]] = {}
        for name, value in fields:
            key = name.lower()
            if key in found:
                found[key].append(value.strip(" \t"))
            else:
                found[key] = [value.strip(" \t")]
        self._fields = found

    def all(self, name: str) -> list[str]:
        """Returns every value of a field, in order."""
        return self._fields.get(name) or []

    def starting(self, prefix: str) -> list[tuple[str, str]]:
        """Returns what stands after a prefix in the names of fields, with their first values."""
        found = [(name, values[0]) for name, values in self._fields.items() if name.startswith(prefix)]
        return [(name.removeprefix(prefix), value) for name, value in found]

    def get(self, name: str) -> str | None:
        """Returns the field's value, the first one when it was sent more than once, or None."""
        values = self._fields.get(name)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Partial:
    """The answer carries the object's bytes [start, stop)."""

    start: int
    stop: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Whole:
    """The answer carries the whole object; `identity.size` is None when its length is not told."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416, or 400: the range is not inside the object, whose size is told or None."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Moved:
    """A redirect to `location`, as the server wrote it."""

    location: str


@dataclass(frozen=True, slots=True)
class NotRanged:
    """The answer cannot be used as a range, but the object may be had without asking for one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer is of another version of the object than the known one."""

    reason: str
    identity: Identity


Verdict = Partial | Whole | Unsatisfiable | Moved | NotRanged | Changed


def judge(
    asked: Span | None,
    known: Identity | None,
    status: int,
    headers: Headers,
    *,
    ignore_etag: bool = False,
    coded: bool = False,
    now_epoch_s: float,
) -> Verdict:
    """Returns what an answer means.

    `asked` is the half-open range of the request, or None for a request without one; `known` is the identity
    that the answer must have, or None for the first answer of all. `coded`: where the object is kept, a
    coding is told of its own bytes. Raises HTTPStatusError and its kinds, BadResponseError and RangeError.
    """
    if status in (301, 302, 303, 307, 308):
        return _moved(status, headers)
    if status == 206:
        return _partial(asked, known, headers, ignore_etag, coded)
    if status == 200:
        return _whole(asked, known, headers, ignore_etag, coded)
    if status == 416 and asked is not None:
        return _unsatisfiable(known, headers)
    if status == 400 and asked is not None:
        # So does webfs refuse a range that ends past the end of the object.
        first = NotRanged(f"the server answered {_phrase(status)} to the first range")
        return first if known is None else Unsatisfiable(Identity())
    if status == 412 and known is not None:
        return Changed(f"the server answered {_phrase(status)}", Identity())
    raise _refusal(status, headers, now_epoch_s)


def difference(known: Identity, new: Identity, *, ignore_etag: bool = False) -> str | None:
    """Returns in words how two identities differ, or None when they may be of the same version.

    Only what both tell is compared. Two strong ETags must be equal; where one is weak the opaque tags must
    be (RFC 9110 section 8.8.3.2): some caches weaken an ETag on the way.
    """
    if known.size is not None and new.size is not None and known.size != new.size:
        return f"its size is {new.size} now, it was {known.size}"
    if not ignore_etag and known.etag and new.etag and _opaque(known.etag) != _opaque(new.etag):
        return f"its ETag is {_shown(new.etag)} now, it was {_shown(known.etag)}"
    if known.last_modified and new.last_modified and known.last_modified != new.last_modified:
        return f"it was modified on {_shown(new.last_modified)}, not on {_shown(known.last_modified)}"
    return None


def agreed(known: Identity, new: Identity) -> Identity:
    """Returns what may be said of bytes of which a part came under either identity, `new` the later one: only
    what both tell; no more than the size where their ETags differ, for then they may be of two versions.
    """
    if known.etag and new.etag and _opaque(known.etag) != _opaque(new.etag):
        return Identity(new.size)
    return replace(
        new,
        etag=new.etag if known.etag else None,
        last_modified=new.last_modified if known.last_modified else None,
    )


def identity_of(headers: Headers, size: int | None) -> Identity:
    """Returns the identity that an answer's fields tell (RFC 9110 sections 8.8.2 and 8.8.3)."""
    version = headers.get("x-amz-version-id") or headers.get("x-oss-version-id") or ""
    return Identity(
        size,
        headers.get("etag") or None,
        headers.get("last-modified") or None,
        version if _VERSION.fullmatch(version) else None,
    )


def _shown(text: str) -> str:
    # The server's own words, cut short and without what could drive a terminal.
    return "".join(each if each.isprintable() else "?" for each in text[:80])


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")


def _compare(known: Identity | None, new: Identity, headers: Headers, ignore_etag: bool) -> Changed | None:
    if known is None:
        return None
    told = new
    if not ignore_etag and known.etag and new.etag and _opaque(known.etag) == _opaque(new.etag):
        # Of an object from the future a server tells the time of the answer, another one each time (RFC 9110
        # section 8.8.2.1): it says nothing against an equal ETag.
        told = replace(new, last_modified=_not_now(new.last_modified, headers))
    reason = difference(known, told, ignore_etag=ignore_etag)
    return Changed(reason, new) if reason is not None else None


def _not_now(last_modified: str | None, headers: Headers) -> str | None:
    return last_modified if last_modified != headers.get("date") else None


def _content_length(headers: Headers) -> int | None:
    values = set(headers.all("content-length"))
    if len(values) > 1:
        raise BadResponseError("the answer has conflicting Content-Length fields")  # RFC 9112 section 6.3
    if not values:
        return None
    if headers.all("transfer-encoding"):
        # Two framings that may differ: a sign of smuggling (RFC 9112 section 6.3).
        raise BadResponseError("the answer has both a Content-Length and a Transfer-Encoding")
    text = values.pop()
    if _LENGTH.fullmatch(text) is None or int(text) >= 2**63:
        raise BadResponseError(f"the answer has an impossible Content-Length, {text[:40]!r}")
    return int(text)


def _refuse_coding(headers: Headers) -> None:
    # A coded answer has other bytes than the object; only identity is asked for (RFC 9110 section 8.4).
    for value in headers.all("content-encoding"):
        if value and value.lower() != "identity":
            raise BadResponseError(
                f"the answer came in Content-Encoding {value[:40]!r}, which was not asked for"
            )


def _moved(status: int, headers: Headers) -> Moved:
    location = headers.get("location")
    if not location:
        raise BadResponseError(f"the server answered {_phrase(status)} without a Location")
    return Moved(location)


def _partial(
    asked: Span | None, known: Identity | None, headers: Headers, ignore_etag: bool, coded: bool
) -> Verdict:
    if asked is None:
        raise RangeError("the server answered 206 to a request without a Range")
    if not coded:
        _refuse_coding(headers)
    if any(_MULTIPART.match(value) for value in headers.all("content-type")):  # RFC 9110 section 15.3.7.2
        raise RangeError("the server answered one range with multipart/byteranges")
    content_range = _one_content_range(headers)
    if content_range.span is None:
        raise RangeError("the server answered 206 with the Content-Range of a 416")
    identity = identity_of(headers, content_range.total)
    changed = _compare(known, identity, headers, ignore_etag)
    if changed:
        return changed
    if known is not None and known.strong_etag and identity.etag is None and not ignore_etag:
        raise RangeError("the answer lacks the object's ETag")  # which it must have: RFC 9110 section 15.3.7
    total = content_range.total
    if total is None:
        if known is None or known.size is None:
            return NotRanged("the server does not tell the object's size with its ranges")
        if content_range.span[1] > known.size:
            raise RangeError(f"the server sent bytes past the object's {known.size}")
        identity = replace(identity, size=known.size)
    start, stop = content_range.span
    length = _content_length(headers)
    if length is not None and length != stop - start:
        raise RangeError(
            f"the answer says {stop - start} bytes in Content-Range and {length} in Content-Length"
        )
    if start != asked[0]:
        raise RangeError(f"the server sent bytes from {start}, not from {asked[0]} as asked")
    return Partial(start, min(stop, asked[1]), identity)


def _one_content_range(headers: Headers) -> ContentRange:
    values = headers.all("content-range")
    if len(values) != 1:
        raise RangeError(f"the server answered 206 with {len(values)} Content-Range fields instead of one")
    try:
        return parse_content_range(values[0])
    except ValueError as error:
        raise RangeError(f"the server's answer does not hold: {error}") from error


def _whole(
    asked: Span | None, known: Identity | None, headers: Headers, ignore_etag: bool, coded: bool
) -> Verdict:
    if not coded:
        _refuse_coding(headers)
    length = _content_length(headers)
    if asked is not None and headers.all("content-range"):
        # Some servers send a range as 200 with Content-Range. It is one only if everything matches what was
        # asked.
        try:
            content_range = _one_content_range(headers)
        except RangeError:
            return NotRanged("the server answered 200 with a Content-Range that cannot be read")
        span, total = content_range.span, content_range.total
        if span is None or total is None or span != (asked[0], min(asked[1], total)):
            return NotRanged("the server answered 200 with a Content-Range that was not asked for")
        if length is not None and length != span[1] - span[0]:
            return NotRanged("the server answered 200 with a Content-Range and another Content-Length")
        identity = identity_of(headers, total)
        return _compare(known, identity, headers, ignore_etag) or Partial(*span, identity)
    identity = identity_of(headers, length)
    return _compare(known, identity, headers, ignore_etag) or Whole(identity)


def _unsatisfiable(known: Identity | None, headers: Headers) -> Verdict:
    try:
        total = _one_content_range(headers).total
    except RangeError:
        total = None  # it need not tell (RFC 9110 section 15.5.17)
    identity = Identity(total)  # the validators of a 416 are those of its error page
    reason = difference(known, identity) if known is not None else None
    return Changed(reason, identity) if reason is not None else Unsatisfiable(identity)


def _phrase(status: int) -> str:
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _refusal(status: int, headers: Headers, now_epoch_s: float) -> HTTPStatusError:
    message = f"the server answered {_phrase(status)}"
    if status in (404, 410):
        return NotFoundError(f"{message}: there is no such object", status=status)
    if status in (401, 403, 407):
        return AuthError(f"{message}: the credentials are missing, wrong or expired", status=status)
    if status in (429, 503):
        wait_s = parse_retry_after(headers.get("retry-after"), now_epoch_s)
        return OverloadedError(f"{message}: it is overloaded", status=status, retry_after_s=wait_s)
    if status >= 500 or status in (408, 425):
        return ServerError(message, status=status)
    return HTTPStatusError(message, status=status)
