"""One request and its exchange: an easy handle, its header parser, and the writer of its body."""

from __future__ import annotations

import os
import socket
from dataclasses import field
from typing import Any, Protocol

import pycurl

from fastxfer._native.answer import HeadLines, KeptCheck, has_bytes, kept_connection
from fastxfer._native.writer import Writer
from fastxfer.engine.ahead import Ahead
from fastxfer.errors import BadResponseError, FastxferError
from fastxfer.options import TransferOptions
from fastxfer.plan.addresses import is_public
from fastxfer.plan.response import Headers
from fastxfer.values import dataclass

# libcurl reads up to this much from a socket at once and still passes at most 16 KiB a callback; 512 KiB is
# where the CPU time of a loopback transfer stops falling.
RECEIVE_BUFFER = 512 * 1024
SEND_BUFFER = 256 * 1024  # what libcurl asks for at once of a body that is sent
MAX_HEADER_FIELDS = 1000
_URL = pycurl.URL
SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS (curl/curl.h); pycurl has no name for it

_VERSIONS = {
    None: pycurl.CURL_HTTP_VERSION_1_1,
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "2": pycurl.CURL_HTTP_VERSION_2TLS,
    "3": pycurl.CURL_HTTP_VERSION_3,
}
_VERSION_NAMES = {1: "1.0", 2: "1.1", 3: "2", 30: "3"}  # CURLINFO_HTTP_VERSION
_TIMES = (
    pycurl.NAMELOOKUP_TIME,
    pycurl.CONNECT_TIME,
    pycurl.APPCONNECT_TIME,
    pycurl.PRETRANSFER_TIME,
    pycurl.STARTTRANSFER_TIME,
)
_FLAGS = getattr(socket, "SOCK_CLOEXEC", 0) | getattr(socket, "SOCK_NONBLOCK", 0)


Connection = tuple[str, int]
"""The address and port of our end."""


class Body(Protocol):
    """The body of a request: called for its next bytes, at most so many, b"" at its end. Runs inside
    libcurl.
    """

    def __len__(self) -> int: ...

    def __call__(self, size: int, /) -> bytes | int: ...

    def seek(self, offset: int, origin: int, /) -> int:
        """Goes back, when libcurl sends the request anew; returns 0, or another number if it cannot."""


class ShortBody:
    """A body of a few bytes that are in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data)

    def __call__(self, size: int, /) -> bytes:
        block = self._data[self._at : self._at + size]
        self._at += len(block)
        return block

    def seek(self, offset: int, origin: int, /) -> int:
        self._at = offset
        return int(origin != 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, a GET unless `method` says otherwise. `headers` are complete "Name: value" lines;
    `credentials` go out as HTTP Basic.

    `client_cert` says whether the client's certificate may be shown, `public_only` that only an address of
    the public internet may be asked, `as_is` that the path is sent with its dots as it stands. With a `body`
    its length is told, and the server is not asked first whether it wants it (no "Expect"). What is `once`
    goes out on a new connection: where a kept one was lost libcurl would send it a second time.
    """

    url: str
    headers: tuple[str, ...] = ()
    credentials: tuple[str, str] | None = None
    client_cert: bool = True
    public_only: bool = False
    as_is: bool = False
    method: str = "GET"
    body: Body | None = field(default=None, compare=False)
    once: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The final answer's status line and fields. `http_version` is "1.0", "1.1", "2" or "3"; `address` is
    the IP address that was asked.
    """

    status: int
    http_version: str
    headers: Headers
    address: str = ""


ORDINARY = Head(200, "", Headers())
"""Stands for a head that `Exchange.lines` took."""


@dataclass(frozen=True, slots=True)
class Timings:
    """When what of a request was done, in seconds from its beginning, each after the one before: the name
    resolved, the connection made, TLS agreed on, the request sent, the answer's first byte there. On a kept
    connection the first three are 0, and without TLS `tls_s` is 0.
    """

    resolved_s: float
    connected_s: float
    tls_s: float
    sent_s: float
    first_byte_s: float


class Listener(Protocol):
    """Who wants to know. Both are called on the engine's thread."""

    def head(self, exchange: Exchange, head: Head) -> None:
        """The head is complete: set the mode of `exchange.writer`. Runs inside libcurl: start and abort
        nothing here.
        """

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """The exchange is over; `error` is None when the answer came whole, and the handle may be used
        again.
        """


class Exchange:
    """An easy handle that is configured once and used for one request after another. Belongs to the engine's
    thread.
    """

    def __init__(self, options: TransferOptions) -> None:
        self.writer = Writer()
        self.listener: Listener | None = None
        self.head: Head | None = None
        self.slot = -1
        """For the listener's use: which slot of its plan this exchange serves."""
        self.refused: FastxferError | None = None
        """Why the request was not sent, or its answer's head not taken."""
        self.tls = False
        self.unclean = False
        """The kept connection had bytes on it that nobody asked for, so nothing was sent."""
        self.made_ahead: Ahead | None = None
        """The engine's: connections that wait to be taken."""
        self.ahead = 0
        """How many connections are to be made ahead once this request's is, if its server is far."""
        self._given: socket.socket | None = None  # to libcurl, which has a copy
        self._connected_ahead = False
        self._new = -1  # the descriptor of the connection that was made for the request
        self._opened: list[int] = []
        self.kept = KeptCheck(self._connected, self._opened)
        """Its `sockets` are the engine's: which descriptor each of our connections had."""
        self._public_only = False
        self._options = options
        self._shows_cert = True
        self.lines = HeadLines(self._head, self._too_many_lines, MAX_HEADER_FIELDS + 1, self.writer.stash)
        """Its `expect` has the writer stash a body without the listener hearing of the head."""
        self._sent: Request | None = None
        """What the handle is set up for; None: for nothing yet."""
        self._afresh = False
        self._forsaken = False
        self._opens_itself = False
        self.pool = options.http_version or "1.1"
        """Which of the engine's pools of connections it uses."""
        self.easy = pycurl.Curl()
        self._setopt = self.easy.setopt  # pycurl looks it up slowly
        self._configure()

    def _configure(self) -> None:
        easy, options = self.easy, self._options
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        easy.setopt(pycurl.FOLLOWLOCATION, 0)
        easy.setopt(pycurl.BUFFERSIZE, RECEIVE_BUFFER)
        easy.setopt(pycurl.WRITEFUNCTION, self.writer, use_memoryview=True)
        easy.setopt(pycurl.HEADERFUNCTION, self.lines)
        easy.setopt(SUPPRESS_CONNECT_HEADERS, 1)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(options.connect_timeout * 1000)))
        easy.setopt(pycurl.HTTP_VERSION, _VERSIONS[options.http_version])
        easy.setopt(pycurl.TCP_KEEPALIVE, 1)
        easy.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
        if self.multiplexed:
            easy.setopt(pycurl.PIPEWAIT, 1)
        if not options.verify_tls:
            easy.setopt(pycurl.SSL_VERIFYPEER, 0)
            easy.setopt(pycurl.SSL_VERIFYHOST, 0)
        if options.ca_bundle is not None:
            easy.setopt(pycurl.CAINFO, os.fsencode(options.ca_bundle))
        if options.client_cert is not None and self._shows_cert:
            certificate, key = options.client_cert
            easy.setopt(pycurl.SSLCERT, os.fsencode(certificate))
            if key is not None:
                easy.setopt(pycurl.SSLKEY, os.fsencode(key))
        easy.setopt(pycurl.SOCKOPTFUNCTION, self._opens)
        easy.setopt(pycurl.PREREQFUNCTION, self.kept)
        if options.proxy is not None:
            easy.setopt(pycurl.PROXY, options.proxy.encode())
        if options.netrc:
            easy.setopt(pycurl.NETRC, pycurl.NETRC_OPTIONAL)

    @property
    def multiplexed(self) -> bool:
        """True when its connection may be shared with other exchanges, stream by stream."""
        return self.pool in ("2", "3")

    def prepare(
        self, request: Request, listener: Listener, url: str | None = None, *, afresh: bool = False
    ) -> None:
        """Sets the handle up for a request, to a `url` in place of its own where one is given; on a new
        connection if `afresh`.
        """
        easy, url = self.easy, url or request.url
        self.listener = listener
        self.head = None
        self.refused = None
        self.unclean = False
        self._opened.clear()
        self._new = -1
        self.lines.open()
        self.tls = url.startswith("https:")
        self.kept.plain = not (self.tls or request.public_only)
        opens = request.public_only or bool(self.made_ahead)
        as_before = request is self._sent and not (self._forsaken or request.once)
        if as_before and self._afresh == afresh and self._opens_itself == opens:
            self._setopt(_URL, url)
            return
        if self._shows_cert != request.client_cert:
            self._shows_cert = request.client_cert
            easy.reset()
            self._configure()
            self._sent = None
        self._public_only = request.public_only
        before, self._sent = self._sent, request
        if before is None or self._opens_itself != opens:
            self._opens_itself = opens
            if opens:
                easy.setopt(pycurl.OPENSOCKETFUNCTION, self._open)
            else:
                easy.unsetopt(pycurl.OPENSOCKETFUNCTION)
        afresh = afresh or request.once
        if before is None or self._forsaken or self._afresh != afresh:
            self._forsaken, self._afresh = False, afresh
            easy.setopt(pycurl.FORBID_REUSE, 0)
            easy.setopt(pycurl.FRESH_CONNECT, int(afresh))
        if before is None or before.as_is != request.as_is:
            easy.setopt(pycurl.PATH_AS_IS, int(request.as_is))
        easy.setopt(pycurl.URL, url)
        if before is None or _sends(before) or _sends(request):
            self._set_method(request)
        if before is None or _fields(before) != _fields(request):
            # As bytes: pycurl takes only ASCII as text. Fields are Latin-1 on the wire (RFC 9110 section
            # 5.5), user and password UTF-8 (RFC 7617 section 2.1).
            easy.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in _fields(request)])
        if before is None or before.credentials != request.credentials:
            if request.credentials is not None:
                easy.setopt(pycurl.USERNAME, request.credentials[0].encode())
                easy.setopt(pycurl.PASSWORD, request.credentials[1].encode())
            else:
                easy.unsetopt(pycurl.USERNAME)
                easy.unsetopt(pycurl.PASSWORD)

    def _set_method(self, request: Request) -> None:
        """Sets the method, and the body if there is one; what an earlier request has set is undone."""
        easy, body = self.easy, request.body
        easy.setopt(pycurl.NOBODY, 0)
        easy.setopt(pycurl.HTTPGET, 1)
        easy.unsetopt(pycurl.CUSTOMREQUEST)
        if request.method == "HEAD":
            easy.setopt(pycurl.NOBODY, 1)
        elif body is not None:
            easy.setopt(pycurl.UPLOAD, 1)
            easy.setopt(pycurl.INFILESIZE_LARGE, len(body))
            easy.setopt(pycurl.UPLOAD_BUFFERSIZE, SEND_BUFFER)
            easy.setopt(pycurl.READFUNCTION, body)
            easy.setopt(pycurl.SEEKFUNCTION, body.seek)
        if request.method not in ("GET", "HEAD"):
            easy.setopt(pycurl.CUSTOMREQUEST, request.method)

    def forsake_connection(self) -> None:
        """Has libcurl close the connection when its last stream is aborted, which it would keep."""
        self.easy.setopt(pycurl.FORBID_REUSE, 1)
        self._forsaken = True

    def _open(self, _purpose: int, address: Any) -> Any:
        """Opens the socket to an address, or takes one that was connected ahead."""
        family, kind, protocol, where = address
        self._given, self._connected_ahead = None, False
        if self._public_only:
            if not is_public(where[0]):
                self.refused = _private(where[0])
                return pycurl.SOCKET_BAD
            self.refused = None
        if self.made_ahead and kind & ~_FLAGS == socket.SOCK_STREAM:
            self._given = self.made_ahead.take(family, where)
            self._connected_ahead = self._given is not None
        self._given = self._given or socket.socket(family, kind, protocol)
        return self._given

    def _opens(self, fd: int, _purpose: int) -> int:
        self._opened.append(fd)
        os.set_inheritable(fd, False)  # pycurl's copy of what `_open` returned is
        if self._given is not None:
            self._given.close()
            self._given = None
        if not self._connected_ahead:
            return 0
        self._connected_ahead = False
        connected: int = pycurl.SOCKOPT_ALREADY_CONNECTED
        return connected

    def _connected(self, address: str, local_address: str, _port: int, local_port: int) -> int:
        """Called by libcurl when it has a connection, new or kept, before the request goes out on it."""
        self.refused = _private(address) if self._public_only and not is_public(address) else None
        connection = (local_address, local_port)
        if self._opened:
            for fd in self._opened:
                if kept_connection(fd, local_address, local_port):
                    self.kept.sockets[connection] = self._new = fd
                    self._go_ahead()
            self._opened.clear()
        elif not self.tls:  # with TLS what waits may be a ticket, and nobody else's answer
            fd = self.kept.sockets.get(connection, -1)
            # libcurl would take what waits there for the answer to what has not been asked yet.
            self.unclean = kept_connection(fd, local_address, local_port) and has_bytes(fd)
        go_on: int = pycurl.PREREQFUNC_OK
        stop: int = pycurl.PREREQFUNC_ABORT
        return stop if self.refused or self.unclean else go_on

    def _go_ahead(self, late_s: float = 0.0) -> None:
        """Has more connections made like its new one: before its request goes out, to be there in time, or
        when the answer is late.
        """
        if self._new >= 0 and self.ahead and self.made_ahead is not None and not self.multiplexed:
            self.made_ahead.make(self._new, self.ahead, self, late_s)

    def is_late(self, late_s: float) -> None:
        """Its request was handed in `late_s` seconds ago: while nothing is answered, and where a connection
        was made for it, more are made like that.
        """
        if self.head is None:
            self._go_ahead(late_s)

    def _head(self, lines: list[bytes]) -> None:
        """Takes a whole head: of a 1xx, or of the answer."""
        texts = [line.decode("latin-1").rstrip("\r\n") for line in lines]
        status, version = 0, ""
        if texts and texts[0].startswith("HTTP/"):
            first, _, rest = texts.pop(0).partition(" ")
            status = int(rest[:3]) if rest[:3].isascii() and rest[:3].isdigit() else 0
            version = first[5:]
        if status < 200:
            return
        self.lines.close()
        fields = Headers([text.partition(":")[::2] for text in texts])
        self.head = Head(status, version, fields, self.kept.address)
        if self.listener is not None:
            self.listener.head(self, self.head)

    def _too_many_lines(self) -> None:
        self.refused = BadResponseError(f"the answer has more than {MAX_HEADER_FIELDS} header fields")

    def close(self) -> None:
        """Gives the handle and its sink back; the connection stays with the engine, for others."""
        self.writer.detach()
        self.easy.close()

    @property
    def http_version(self) -> str:
        """The version of HTTP that was spoken: "1.0", "1.1", "2" or "3", or "" before an answer."""
        return _VERSION_NAMES.get(self.easy.getinfo(pycurl.INFO_HTTP_VERSION), "")

    @property
    def timings(self) -> Timings:
        """When what of the last request was done; 0 for what was not."""
        told = map(self.easy.getinfo, _TIMES)
        return Timings(*told)


def _sends(request: Request) -> bool:
    """Returns whether it is more than a plain GET."""
    return request.method != "GET" or request.body is not None


def _fields(request: Request) -> tuple[str, ...]:
    return request.headers if request.body is None else (*request.headers, "Expect:")


def _private(address: str) -> BadResponseError:
    return BadResponseError(
        f"the server redirects from the public internet to {address}, which is not followed; "
        "where that is meant use allow_private_redirects=True (--allow-private-redirects)"
    )
