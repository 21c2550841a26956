"""An HTTP server that passes requests on to another one: what `Proxy` and `OssFacade` share.

Bodies go on in pieces, and nothing is held in memory but one of them. A request goes on over a connection of
its own, which is closed with the answer. What an object store is asked to do is read from the request itself:
`Call`.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.servers import HOST
from tests.servers.raw import SEND_BYTES, Connection, Fields, RawServer, Request, pairs_of

UPSTREAM_DEADLINE_S = 60.0
MOST_DRAINED_BYTES = 1 << 20
# Of one connection, not of the request (RFC 9110, 7.6.1); lengths are set anew, "Expect" is answered here.
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "expect", "trailer")
)

_OPERATIONS = {
    ("PUT", "partNumber"): "UploadPart",
    ("GET", "uploadId"): "ListParts",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("GET", "uploads"): "ListMultipartUploads",
    ("POST", "delete"): "DeleteObjects",
}
_PLAIN = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks an object store for: one word of S3's (and OSS's), and what it is about."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]

    @property
    def part(self) -> int:
        """The part number, 0 if there is none (or none that is a number)."""
        number = self.query.get("partNumber", "")
        return int(number) if number.isascii() and number.isdecimal() else 0

    @property
    def upload_id(self) -> str:
        """The id of the upload, "" if there is none."""
        return self.query.get("uploadId", "")

    @classmethod
    def of(cls, request: Request) -> Call:
        """Returns what the request asks for; the bucket is in the path, or the first label of the host."""
        path, _, raw = request.target.partition("?")
        query = dict(parse_qsl(raw, keep_blank_values=True))
        bucket, key = bucket_and_key(request.headers.get("host", ""), urlsplit(path).path)
        named = (_OPERATIONS.get((request.method, name)) for name in _names(query))
        about = _PLAIN.get(request.method, request.method)
        operation = next((name for name in named if name), about if key else f"{request.method} bucket")
        return cls(operation, bucket, key, query)


def _names(query: Mapping[str, str]) -> Iterator[str]:
    """Yields the names of a query, those first that others stand beside."""
    yield from (name for name in ("partNumber", "uploadId", "uploads", "delete") if name in query)


def bucket_and_key(host: str, path: str) -> tuple[str, str]:
    """Returns bucket and key, decoded: a host that is an address (or a lone name) has them in the path."""
    name = host.rpartition(":")[0] or host
    first, dot, _ = name.partition(".")
    decoded = unquote(path.removeprefix("/"))
    if not dot or first.isdecimal():
        bucket, _, key = decoded.partition("/")
        return bucket, key
    return first, decoded


class Inbound(Connection):
    """A connection whose requests come without their bodies: `pieces()` yields what is still to come."""

    _left = 0
    _waits = False

    def read_request(self) -> Request | None:
        """Returns the next request up to its body."""
        self.finish_request()
        if self.closed:
            return None
        request = self.read_head()
        if request is not None:
            self._left = int(request.headers.get("content-length", "0"))
            self._waits = request.headers.get("expect", "").lower() == "100-continue"
        return request

    def pieces(self) -> Iterator[bytes]:
        """Yields the body of the request; an OSError where the client goes away before its end."""
        if self._waits:
            self._waits = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self._left:
            piece = self._stream.read1(min(self._left, SEND_BYTES))
            if not piece:
                raise ConnectionResetError("the client has gone within the body")
            self._left -= len(piece)
            yield piece

    def finish_request(self) -> None:
        """Drops the rest of a body that nobody wanted, or closes where it is long."""
        if self.closed or not self._left:
            return
        if self._waits or self._left > MOST_DRAINED_BYTES:
            self.close()
            return
        for _ in self.pieces():
            pass

    def answer(
        self, response: http.client.HTTPResponse, fields: Fields | None = None, *, limit: int | None = None
    ) -> int:
        """Sends an answer of upstream on, with these fields in place of its own; returns the body's bytes.

        With a `limit` the connection is reset after so many bytes of the body.
        """
        given = response.getheaders() if fields is None else fields
        kept = [(name, value) for name, value in pairs_of(given) if name.lower() not in HOP_BY_HOP]
        sized = response.length is not None or response.status in (204, 304)
        whole = b"" if sized else response.read()
        if not sized:
            kept.append(("Content-Length", str(len(whole))))
        self.send_head(response.status, kept)
        sent = 0
        for piece in (whole,) if whole else iter(lambda: response.read1(SEND_BYTES), b""):
            allowed = piece if limit is None else piece[: limit - sent]
            self.send(allowed)
            sent += len(allowed)
            if limit is not None and sent >= limit:
                self.reset()
                break
        if response.length and not self.closed:
            self.reset()  # the server behind has gone within the body
        return sent


class Gateway(RawServer):
    """A RawServer whose connections are `Inbound`, with a server to pass requests on to."""

    def _connected(self, peer: socket.socket) -> Connection:
        return Inbound(self, peer, self.connections)


class Upstream:
    """A context manager around one request to another server on this machine."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=UPSTREAM_DEADLINE_S)
        self._deaf = False

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._connection.close()
        if isinstance(error, http.client.HTTPException):  # the client is to see it as a lost connection
            raise ConnectionResetError("the server behind has gone") from error

    def send_head(self, method: str, target: str, fields: Fields) -> None:
        """Sends a request up to its body."""
        self._connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in pairs_of(fields):
            if name.lower() not in HOP_BY_HOP:
                self._connection.putheader(name, value)
        self._connection.endheaders()

    def send(self, piece: bytes) -> None:
        """Sends a piece of the body; nothing where the server has answered and ended before its end."""
        if not self._deaf:
            try:
                self._connection.send(piece)
            except ConnectionError:
                self._deaf = True

    def response(self) -> http.client.HTTPResponse:
        """Returns the answer, its body still to be read."""
        return self._connection.getresponse()
