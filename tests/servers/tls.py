"""TLS under the scripted servers: a socket whose records can be written, forged and cut by hand.

    with TlsServer(handler, authority) as server:
        fastxfer.fetch(server.url(), out, ca_bundle=str(authority.ca))

Every connection's socket is a `TlsSocket`. A handler gets at it by `tls_of(connection)` for what ordinary
answers do not hold: bytes below TLS, a fatal alert. What goes wrong in the handshake is chosen with a
`Handshake`, by the connection's number.
"""

from __future__ import annotations

import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.servers import HOST, Authority, ServerError
from tests.servers.raw import Connection, RawServer, Request

RECEIVE_BYTES = 64 << 10
# An application data record that no key opens (RFC 8446 section 5.2).
FORGED_RECORD = b"\x17\x03\x03\x00\x40" + bytes(range(64))


class TlsSocket(socket.socket):
    """The server's end of a TLS connection. One thread reads while others write."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(fileno=peer.detach())
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._lock = threading.Lock()

    @property
    def shows_certificate(self) -> bool:
        """Whether the client has shown a certificate that holds."""
        return bool(self._tls.getpeercert())

    def shake_hands(self) -> None:
        """Carries the handshake through. Raises OSError when the client does not."""
        if self._with_input(self._tls.do_handshake) is not None:
            raise ConnectionError("the client ended the handshake")

    def first_flight(self) -> bytes:
        """Reads the client's hello and returns what the server would answer to it (nothing is sent)."""
        while not self._out.pending:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self._out.pending:
                    self._take_in()
        return self._out.read()

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data: bytes = self._with_input(lambda: self._tls.read(bufsize))
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view))
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        with self._lock:
            self._tls.write(data)
            super().sendall(self._out.read())

    def send_below(self, data: bytes) -> None:
        """Sends bytes to the client's TCP as they are, between two records."""
        with self._lock:
            super().sendall(data)

    def send_alert(self) -> None:
        """Sends a fatal alert, properly encrypted: that of a server which got a forged record."""
        with self._lock:
            self._in.write(FORGED_RECORD)
            try:
                self._tls.read(1)
            except ssl.SSLError:
                super().sendall(self._out.read())
            else:
                raise ServerError("a forged record was taken")

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _take_in(self) -> None:
        """Moves what the client sent into the session, or its end."""
        data = super().recv(RECEIVE_BYTES)
        with self._lock:
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()

    def _with_input(self, step: Callable[[], Any]) -> Any:
        """Returns what `step` returns once there is enough input for it; b"" at the client's end."""
        while True:
            with self._lock:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
                finally:
                    super().sendall(self._out.read())
            self._take_in()


def tls_of(connection: Connection) -> TlsSocket:
    """Returns the TLS socket that a connection of a TlsServer speaks through."""
    peer = connection.peer
    assert isinstance(peer, TlsSocket)
    return peer


class Stage(enum.Enum):
    """How far a handshake comes (RFC 8446 section 2)."""

    ACCEPTED = "accepted"
    ASKED = "client-hello-read"
    HALF_ANSWERED = "half-a-flight-sent"
    ANSWERED = "flight-sent"
    DONE = "finished"


class Ending(enum.Enum):
    """What follows then."""

    CLOSE = "closed"
    RESET = "reset"
    STALL = "stalled"


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that goes wrong."""

    stage: Stage
    ending: Ending


def server_context(authority: Authority, *protocols: str) -> ssl.SSLContext:
    """Returns a server's context with the authority's common certificate, and ALPN if protocols are given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.chain, authority.key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


class TlsServer(RawServer):
    """A RawServer that speaks TLS. `handshakes` says for a connection's number what goes wrong, if any."""

    def __init__(
        self,
        handler: Callable[[Request, Connection], None],
        authority: Authority,
        context: ssl.SSLContext | None = None,
        host: str = HOST,
    ) -> None:
        super().__init__(handler, host)
        self.context = context if context is not None else server_context(authority)
        self.handshakes: Callable[[int], Handshake | None] = lambda number: None

    def url(self, path: str = "/object") -> str:
        return super().url(path).replace("http:", "https:")

    def _connected(self, peer: socket.socket) -> Connection:
        return Connection(self, TlsSocket(peer, self.context), self.connections)

    def _talk(self, connection: Connection) -> None:
        tls = tls_of(connection)
        fault = self.handshakes(connection.number)
        if fault is not None:
            self._break(connection, fault)
            return
        tls.shake_hands()
        self._exchange(connection)

    def _exchange(self, connection: Connection) -> None:
        """Serves a connection after its handshake."""
        super()._talk(connection)

    def _break(self, connection: Connection, fault: Handshake) -> None:
        tls = tls_of(connection)
        if fault.stage is Stage.DONE:
            tls.shake_hands()
        elif fault.stage is not Stage.ACCEPTED:
            flight = tls.first_flight()
            if fault.stage is Stage.ANSWERED:
                tls.send_below(flight)
            elif fault.stage is Stage.HALF_ANSWERED:
                tls.send_below(flight[: len(flight) // 2])
        if fault.ending is Ending.STALL:
            connection.stall(threading.Event())
        elif fault.ending is Ending.RESET:
            connection.reset()
        else:
            connection.close()
