"""A small scripted HTTP/1.1 server on plain sockets, for misbehaviour that real servers do not show at will.

A handler gets each request and the connection, and may send any bytes, stall until an event, reset or close.
It runs on the connection's own thread; when it returns with the connection still open, the next request of
that connection is read.

    def handler(request: Request, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 206 Partial Content\\r\\nContent-Le")
        connection.reset()

    with RawServer(handler) as server:
        server.url("/object") ...

`RangeHandler` is a handler that serves one object by the book, with faults where a test asks for them.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import TypeVar

from tests.servers import HOST, ServerError

JOIN_DEADLINE_S = 10.0
SEND_BYTES = 64 << 10
MAX_LINE_BYTES = 64 << 10

Fields = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; names of header fields are in lower case, a repeated field is joined by commas.

    `number` counts the requests of the server from 0, `connection` its connections from 0.
    """

    number: int
    connection: int
    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def range(self) -> str:
        """The value of the Range header, "" if there is none."""
        return self.headers.get("range", "")


def pairs_of(fields: Fields) -> list[tuple[str, str]]:
    """Returns header fields as pairs, in their order."""
    return list(fields.items() if isinstance(fields, Mapping) else fields)


class Connection:
    """The server's end of one connection.

    After a reset or close, or once the client is gone, sending raises OSError. A handler need not catch that:
    it ends the connection's thread quietly.
    """

    def __init__(self, server: RawServer, peer: socket.socket, number: int) -> None:
        self.number = number
        self.closed = False
        self.peer = peer
        self._server = server
        self._stream = peer.makefile("rb")

    def send(self, data: bytes | memoryview) -> None:
        """Sends bytes as they are; returns when the kernel has taken all of them."""
        self.peer.sendall(data)

    def respond(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        head_only: bool = False,
    ) -> None:
        """Sends a whole answer, with Content-Length unless the status forbids it or the headers have it."""
        length = {} if status in (204, 304) else {"Content-Length": str(len(body))}
        self.send_head(status, {**length, **(headers or {})})
        if not head_only:
            self.send(body)

    def send_head(self, status: int, headers: Fields, *, version: str = "1.1") -> None:
        """Sends the status line, the header fields in their order and the empty line."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in pairs_of(headers))
        self.send(f"HTTP/{version} {status} {_reason(status)}\r\n{fields}\r\n".encode("latin-1"))

    def stall(self, until: threading.Event) -> None:
        """Sends nothing until the event is set (the server sets it when it stops)."""
        self._server.hold(until)
        until.wait()

    def wait_until_gone(self) -> None:
        """Returns when the client has closed or reset, or the server stops; drops what the client sends."""
        try:
            while self.peer.recv(SEND_BYTES):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Ends the connection with a TCP reset: bytes not yet read by the client may be lost to it."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Ends the connection in order (FIN)."""
        self.closed = True
        self._stream.close()
        self.peer.close()

    def shut_down(self) -> None:
        """Wakes whatever waits on the connection, from any thread."""
        try:
            self.peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already

    def read_request(self) -> Request | None:
        """Returns the next request with its body, not numbered yet (-1); None when the client has closed."""
        request = self.read_head()
        if request is None:
            return None
        if request.headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return replace(request, body=self._stream.read(int(request.headers.get("content-length", "0"))))

    def read_head(self) -> Request | None:
        """Returns the next request up to its body, which is still to be read."""
        start = self._stream.readline(MAX_LINE_BYTES)
        if not start.endswith(b"\r\n"):
            return None
        method, target, version = start.decode("latin-1").split()
        headers: dict[str, str] = {}
        while (line := self._stream.readline(MAX_LINE_BYTES)) != b"\r\n":
            if not line:
                return None
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Request(-1, self.number, method, target, version, headers)


Server = TypeVar("Server", bound="RawServer")
Handler = Callable[[Request, Connection], None]


class RawServer:
    """A context manager: listens on `host`, a thread a connection, requests recorded in `requests`.

    An error in the handler other than the client's going away is raised again when the context ends.
    """

    def __init__(self, handler: Handler, host: str = HOST) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._handler = handler
        self._changed = threading.Condition()
        self._open: dict[Connection, threading.Thread] = {}
        self._held: list[threading.Event] = []
        self._errors: list[BaseException] = []
        self._stopping = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = f"[{host}]" if ":" in host else host
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="raw-accept", daemon=True)

    def url(self, path: str = "/object") -> str:
        """Returns the URL of a path that is already percent-encoded."""
        return f"http://{self._host}:{self.port}{path}"

    def wait_for_requests(self, count: int, deadline_s: float = JOIN_DEADLINE_S) -> list[Request]:
        """Returns the requests once there are `count`; a ServerError after the deadline."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, deadline_s):
                raise ServerError(f"{len(self.requests)} requests came in {deadline_s} s, not {count}")
            return list(self.requests)

    def wait_for_connections(self, count: int, deadline_s: float = JOIN_DEADLINE_S) -> None:
        """Returns once there have been `count` connections; a ServerError after the deadline."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.connections >= count, deadline_s):
                raise ServerError(f"{self.connections} connections came in {deadline_s} s, not {count}")

    def wait_for_end(self, left: int, deadline_s: float = JOIN_DEADLINE_S) -> None:
        """Returns once no more than `left` connections are open; a ServerError after the deadline."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._open) <= left, deadline_s):
                raise ServerError(f"{len(self._open)} connections are open after {deadline_s} s")

    def drop(self, but: Connection | None = None) -> None:
        """Closes the connections that are open, `but` for one; returns when they are gone."""
        with self._changed:
            connections = {each: thread for each, thread in self._open.items() if each is not but}
        for connection, thread in connections.items():
            connection.shut_down()
            thread.join(JOIN_DEADLINE_S)

    def hold(self, event: threading.Event) -> None:
        """Remembers an event that a handler waits for, to set it when the server stops."""
        with self._changed:
            self._held.append(event)
            if self._stopping:
                event.set()

    def __enter__(self: Server) -> Server:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join(JOIN_DEADLINE_S)
        self._listener.close()
        with self._changed:
            self._stopping = True
            still_open = dict(self._open)
            for event in self._held:
                event.set()
        for connection, thread in still_open.items():
            connection.shut_down()
            thread.join(JOIN_DEADLINE_S)
            if thread.is_alive():
                raise ServerError(f"the handler of connection {connection.number} does not end")
        if self._errors and error is None:
            raise ServerError("a handler failed") from self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return  # the context ends
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._connected(peer)
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="raw-connection", daemon=True
            )
            with self._changed:
                self.connections += 1
                self._open[connection] = thread
                self._changed.notify_all()
                thread.start()  # before anyone can find it, to wait for its end

    def _connected(self, peer: socket.socket) -> Connection:
        """Returns the connection to a client that was accepted; a server over more than TCP has its own."""
        return Connection(self, peer, self.connections)

    def _talk(self, connection: Connection) -> None:
        """Serves a connection until it ends, on its thread."""
        while not connection.closed and not self._stopping:
            read = connection.read_request()
            if read is None:
                break
            request = self._record(read)
            self._handler(request, connection)
            if request.headers.get("connection", "").lower() == "close":
                break

    def _serve(self, connection: Connection) -> None:
        try:
            self._talk(connection)
        except OSError:
            pass  # the client went away, or the context ends
        except BaseException as error:  # noqa: BLE001 (raised again by __exit__)
            self._errors.append(error)
        finally:
            if not connection.closed:
                connection.close()
            with self._changed:
                del self._open[connection]
                self._changed.notify_all()

    def _record(self, request: Request) -> Request:
        with self._changed:
            numbered = replace(request, number=len(self.requests))
            self.requests.append(numbered)
            self._changed.notify_all()
        return numbered


@dataclass(frozen=True, slots=True)
class Content:
    """An object at one moment: what an answer is made of, even if the object is replaced meanwhile."""

    data: bytes
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer; what is None is as it should be.

    status: this status and nothing of the object, with `headers` (for example Retry-After).
    cut_after: the connection ends after so many bytes of the body, by a reset if `reset`.
    stall_at: nothing is sent from this offset of the object on, until `until` is set; then the rest comes.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    stall_at: int | None = None
    until: threading.Event = field(default_factory=threading.Event)


def first(count: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """Returns a choice of faults for RangeHandler: `fault` for the first `count` requests of the server."""
    return lambda request: fault if request.number < count else None


class RangeHandler:
    """A handler that serves one object under every path by RFC 9110: GET, HEAD, a range, If-Range, If-Match.

    `faults` says for each request what goes wrong, if anything. `replace()` changes the object between two
    answers (call it from `faults`, or from the test). With `ranges` false it answers 200 always; with
    `honour_if_range` false a stale If-Range still gets a 206, as with several real servers. For more,
    override `head()` or `body()`.
    """

    def __init__(
        self,
        data: bytes,
        *,
        etag: str | None = '"v1"',
        last_modified: str | None = "Wed, 01 Jan 2025 00:00:00 GMT",
        faults: Callable[[Request], Fault | None] = lambda request: None,
        ranges: bool = True,
        honour_if_range: bool = True,
    ) -> None:
        self.content = Content(data, etag, last_modified)
        self.faults = faults
        self.ranges = ranges
        self.honour_if_range = honour_if_range

    def replace(self, data: bytes, *, etag: str | None = '"v2"', last_modified: str | None = None) -> None:
        """Makes later answers serve another object; those under way go on with the one they began with."""
        self.content = Content(data, etag, last_modified)

    def __call__(self, request: Request, connection: Connection) -> None:
        fault = self.faults(request) or Fault()
        content = self.content
        if fault.status is not None:
            connection.respond(fault.status, fault.headers, b"fault\n", head_only=request.method == "HEAD")
            return
        if request.method not in ("GET", "HEAD"):
            connection.respond(405, {"Allow": "GET, HEAD"})
            return
        if "if-match" in request.headers and request.headers["if-match"] not in ("*", content.etag):
            connection.respond(412)
            return
        size = len(content.data)
        wanted = self.wanted(request, content)
        if wanted is not None and wanted[0] >= size:
            connection.respond(416, {"Content-Range": f"bytes */{size}"}, head_only=request.method == "HEAD")
            return
        status, (start, stop) = (200, (0, size)) if wanted is None else (206, wanted)
        connection.send_head(status, self.head(content, status, (start, stop)))
        if request.method == "GET":
            self.body(connection, content, (start, stop), fault)

    def wanted(self, request: Request, content: Content) -> tuple[int, int] | None:
        """Returns the range to answer with, half-open: None is the whole object, one past the end a 416."""
        unit, _, spec = request.range.partition("=")
        if not self.ranges or request.method != "GET" or unit != "bytes" or "," in spec:
            return None
        if self.honour_if_range and not self.unchanged(request, content):
            return None
        begin, _, end = (part.strip() for part in spec.partition("-"))
        size = len(content.data)
        if not begin:
            return (max(0, size - int(end)), size) if int(end) else (size, size)
        start = int(begin)
        stop = min(int(end) + 1, size) if end else size
        if end and int(end) < start:
            return None  # invalid, so ignored (RFC 9110, 14.1.1)
        return start, stop

    def unchanged(self, request: Request, content: Content) -> bool:
        """Returns whether If-Range, if there is one, names this very object: by strong ETag or exact date."""
        validator = request.headers.get("if-range")
        if validator is None:
            return True
        return not validator.startswith("W/") and validator in (content.etag, content.last_modified)

    def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
        """Returns the header fields of a 200 or 206 with this range of the object."""
        start, stop = wanted
        fields = {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
        if self.ranges:
            fields["Accept-Ranges"] = "bytes"
        if status == HTTPStatus.PARTIAL_CONTENT:
            fields["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content.data)}"
        if content.etag is not None:
            fields["ETag"] = content.etag
        if content.last_modified is not None:
            fields["Last-Modified"] = content.last_modified
        return fields

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        """Sends the range of the object, with the cut or the stall that the fault asks for."""
        start, stop = wanted
        end = stop if fault.cut_after is None else min(stop, start + fault.cut_after)
        stall_at = fault.stall_at if fault.stall_at is not None and start <= fault.stall_at < end else end
        self.send(connection, content, start, stall_at)
        if stall_at < end:
            connection.stall(fault.until)
            self.send(connection, content, stall_at, end)
        if end < stop:
            if fault.reset:
                connection.reset()
            else:
                connection.close()

    def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
        """Sends the bytes [start, stop) of the object in pieces of SEND_BYTES."""
        view = memoryview(content.data)
        for offset in range(start, stop, SEND_BYTES):
            connection.send(view[offset : min(offset + SEND_BYTES, stop)])


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
