"""The tus protocol 1.0 as values and header fields: what a server offers, what is asked of it, and what its
answers tell. (tus resumable upload protocol 1.0.0: core, creation, creation-with-upload, checksum,
termination, concatenation.)

Pure. An answer is outside input: what does not make sense in it is a BadResponseError, never a number that
was guessed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    HTTPStatusError,
    LockedError,
    NotFoundError,
    OptionError,
    OverloadedError,
    ServerError,
    TooLargeError,
)
from fastxfer.plan.response import Headers

VERSION = "1.0.0"
SCHEMES = ("tus+http", "tus+https")
CHUNK_TYPE = ("Content-Type", "application/offset+octet-stream")
ALGORITHMS = ("sha1", "sha256", "sha512", "md5", "crc32")
"""The checksums that are sent, the best first: every server that checks knows SHA-1, and it costs least."""
CONFLICT = 409
CHECKSUM_MISMATCH = 460
GONE = (403, 404, 410)
"""What a look at an upload that is not there any more may be answered with."""
MAX_URL = 2048
LANE_PARTS = 4
MAX_LANES = 64
"""More than so many URLs make a header field that servers refuse."""
_COUNT = re.compile(r"[0-9]{1,18}")
_PRINTABLE_URL = re.compile(rf"[\x21-\x7e]{{1,{MAX_URL}}}")
_MARKED = re.compile(rb'"[0-9]{1,18} [0-9]{1,18} ([\x21\x23-\x5b\x5d-\x7e]{1,2048})"')
# What the upload itself says in each request.
_RESERVED = frozenset(
    (
        "content-type", "tus-resumable", "upload-checksum", "upload-concat", "upload-defer-length",
        "upload-length", "upload-offset", "x-http-method-override",
    )
)  # fmt: skip

Pairs = tuple[tuple[str, str], ...]


def is_tus(url: object) -> bool:
    """Returns whether a URL is one of a tus server."""
    return isinstance(url, str) and url.strip().partition("://")[0].lower() in SCHEMES


def http_url(url: str) -> str:
    """Returns the URL that is asked: without "tus+"."""
    return url.strip()[len("tus+") :]


def check_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Raises OptionError for header fields that are not the caller's to say."""
    for name, _ in fields:
        if name.lower() in _RESERVED:
            raise OptionError(f"option headers: {name} is set by the upload itself")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server says that it can. `algorithm` is the checksum to send with each chunk, "" for none;
    `max_size` is None where it tells none.
    """

    extensions: frozenset[str] = frozenset()
    algorithm: str = ""
    max_size: int | None = None

    def has(self, extension: str) -> bool:
        """Returns whether an extension is offered."""
        return extension in self.extensions


def read_offer(headers: Headers) -> Offer:
    """Returns what the answer to OPTIONS tells. Raises BadResponseError for a server of other versions."""
    versions = _words(headers, "tus-version")
    if versions and VERSION not in versions:
        raise BadResponseError(f"the server speaks tus {', '.join(sorted(versions))[:80]}, and not {VERSION}")
    extensions = _words(headers, "tus-extension")
    known = _words(headers, "tus-checksum-algorithm")
    algorithm = next((name for name in ALGORITHMS if name in known), "") if "checksum" in extensions else ""
    size = headers.get("tus-max-size") or ""
    # 0 is what several servers write for "no limit".
    most = int(size) if _COUNT.fullmatch(size) and int(size) else None
    return Offer(extensions, algorithm, most)


def _words(headers: Headers, name: str) -> frozenset[str]:
    values = ",".join(headers.all(name)).split(",")
    return frozenset(value.strip() for value in values if value.strip())


# ---- what is asked ----


def metadata(name: bytes) -> tuple[str, str]:
    """Returns the field that tells a file's name."""
    return "Upload-Metadata", f"filename {base64.b64encode(name).decode()}"


def checksum_field(algorithm: str, digest: bytes) -> tuple[str, str]:
    """Returns the field that tells the checksum of a body."""
    return "Upload-Checksum", f"{algorithm} {base64.b64encode(digest).decode()}"


def final_field(urls: Iterable[str]) -> tuple[str, str]:
    """Returns the field that has a server put partial uploads together, in this order."""
    return "Upload-Concat", f"final;{' '.join(urls)}"


# ---- what is answered ----


def offset_of(headers: Headers) -> int:
    """Returns how much the server has. Raises BadResponseError."""
    return _count(headers, "upload-offset")


def length_of(headers: Headers) -> int | None:
    """Returns how long the server takes the upload to be, None where it does not tell. Raises
    BadResponseError.
    """
    return _count(headers, "upload-length") if headers.get("upload-length") is not None else None


def _count(headers: Headers, name: str) -> int:
    values = set(headers.all(name))
    value = values.pop() if len(values) == 1 else ""
    if not _COUNT.fullmatch(value):
        raise BadResponseError(f"the server's answer has no {name.title()} that is a number")
    return int(value)


def check_version(headers: Headers) -> None:
    """Raises BadResponseError for an answer that is not one of tus 1.0.0."""
    told = headers.get("tus-resumable")
    if told is None:
        raise BadResponseError("the answer is not one of a tus server: it has no Tus-Resumable")
    if told != VERSION:
        raise BadResponseError(f"the server answers by tus {told[:40]!r}, and not {VERSION}")


def location_of(headers: Headers) -> str:
    """Returns where the server says that an upload is. Raises BadResponseError."""
    location = headers.get("location")
    if not location:
        raise BadResponseError("the server does not say where the upload is: its answer has no Location")
    return location


def location_over_tls(location: str, asked: str) -> str:
    """Returns a Location with https in place of http, where it is of the very host and port that was `asked`
    over https: a server behind one that speaks TLS for it often does not know better.
    """
    scheme, _, rest = location.partition("://")
    asked_scheme, _, asked_rest = asked.partition("://")
    same = re.split(r"[/?#]", rest)[0].lower() == re.split(r"[/?#]", asked_rest)[0].lower()
    return f"https://{rest}" if (scheme.lower(), asked_scheme, same) == ("http", "https", True) else location


def check_kept(url: str) -> str:
    """Returns the URL of an upload, if it can be kept and asked for. Raises BadResponseError."""
    if not _PRINTABLE_URL.fullmatch(url):
        raise BadResponseError(f"the URL of the upload has more than {MAX_URL} characters, or odd ones")
    return url


def refusal(
    what: str, status: int, headers: Headers, said: str, *, retry_after_s: float | None = None
) -> HTTPStatusError:
    """Returns the typed error for an answer that is not 2xx; `said` is the server's text, one short line."""
    message = f"{what}: the server answered {status}" + (f" ({said})" if said else "")
    if status in (404, 410):
        return NotFoundError(message, status=status)
    if status in (401, 403, 407):
        return AuthError(message, status=status)
    if status == 412 and headers.get("tus-version"):
        versions = ", ".join(sorted(_words(headers, "tus-version")))[:80]
        return HTTPStatusError(f"{message}; it speaks tus {versions}, and not {VERSION}", status=status)
    if status == 413:
        return TooLargeError(message, status=status)
    if status == 423:
        return LockedError(message, status=status)
    if status in (429, 503):
        return OverloadedError(message, status=status, retry_after_s=retry_after_s)
    if status == 501:  # it will not know it the next time either
        return HTTPStatusError(message, status=status)
    if status >= 500 or status in (408, 425):
        return ServerError(message, status=status)
    if 300 <= status < 400:
        return HTTPStatusError(f"{message}; an upload does not follow redirects", status=status)
    return HTTPStatusError(message, status=status)


# ---- what is kept ----


@dataclass(frozen=True, slots=True)
class Mark:
    """What the checkpoint keeps of one upload beside the CRC-64 of the bytes that were sent of it.

    `sent` counts them, whether they arrived or not. `chunk` is the grid on which the server has checked
    checksums so far, 0 where it has not checked all bytes.
    """

    sent: int
    chunk: int
    url: str

    def __str__(self) -> str:
        return f"{self.sent} {self.chunk} {self.url}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Returns what `str` wrote. Raises ValueError."""
        sent, chunk, url = text.split(" ")
        if not (_COUNT.fullmatch(sent) and _COUNT.fullmatch(chunk) and _PRINTABLE_URL.fullmatch(url)):
            raise ValueError("not what is kept of an upload")
        return cls(int(sent), int(chunk), url)


def is_checked(offset: int, length: int, chunk: int) -> bool:
    """Returns whether a server that has `offset` of `length` bytes has checked all of them: it takes a chunk
    whole or not at all.
    """
    return chunk > 0 and (offset == length or offset % chunk == 0)


def lanes_for(size: int, *, connections: int, part_size: int, offer: Offer) -> int:
    """Returns in how many partial uploads a file goes at once: one where the server cannot put them together,
    or where each would have less than LANE_PARTS parts.
    """
    if not offer.has("concatenation"):
        return 1
    return max(1, min(connections, MAX_LANES, size // (LANE_PARTS * part_size)))


def salvage(data: bytes) -> list[str]:
    """Returns the URLs of uploads that a damaged checkpoint still names, to end them by."""
    return [url.decode() for url in _MARKED.findall(data)[:MAX_LANES]]
