"""An HTTP/2 server (RFC 9113) on TLS sockets, by the book but for what a test has it do.

The frames, their compression and the book are those of the `h2` package; here are the sockets and threads.
A handler is written as for RawServer, and cannot tell a `Stream` from a Connection: RangeHandler serves over
HTTP/2 as it is. It runs on its stream's own thread; when it returns, the stream ends. What a Stream can do
beyond that is wrong on purpose: RST_STREAM, frames past the book, and through its `link` (the connection
beneath) GOAWAY, bytes that are no frame, and the connection's own end.

    def handler(request: Request, connection: Connection) -> None:
        stream_of(connection).reset(ErrorCodes.REFUSED_STREAM)

    with Http2Server(handler, authority) as server:
        fastxfer.fetch(server.url(), out, ca_bundle=str(authority.ca), http_version="2")
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RequestReceived, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, SettingsFrame

from tests.servers import Authority, ServerError
from tests.servers.raw import JOIN_DEADLINE_S, Connection, Fields, Handler, Request, pairs_of
from tests.servers.tls import RECEIVE_BYTES, TlsServer, TlsSocket, server_context

FRAME_BYTES = 16384
MAX_STREAMS = 100
_CONFIG = H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Link(Connection):
    """The server's end of one HTTP/2 connection."""

    def __init__(self, server: Http2Server, peer: TlsSocket, number: int) -> None:
        super().__init__(server, peer, number)
        self.book = H2Connection(_CONFIG)
        """The state machine; with `changed` held."""
        self.changed = threading.Condition()
        self.streams: dict[int, Stream] = {}
        self.lost = False
        """True once the client has ended the connection by GOAWAY, though requests may still be read."""

    def begin(self, settings: Mapping[int, int]) -> None:
        """Sends the server's preface: the book's settings, and those that the server keeps to by itself."""
        with self.changed:
            self.book.initiate_connection()
            own = SettingsFrame(0, settings=dict(settings)).serialize() if settings else b""
            self.send(self.book.data_to_send() + own)

    def flush(self) -> None:
        """Sends what the state machine has to send; with `changed` held."""
        self.peer.sendall(self.book.data_to_send())

    def send_frames(self, *frames: Frame) -> None:
        """Sends frames as they are, whether the book allows them or not."""
        with self.changed:
            self.send(b"".join(frame.serialize() for frame in frames))

    def go_away(self, last_stream_id: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Sends GOAWAY; the streams up to the last one go on."""
        self.send_frames(GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code))

    def receive(self) -> list[Event] | None:
        """Returns what the client sent next; None when it is gone."""
        data = self.peer.recv(RECEIVE_BYTES)
        if not data:
            return None
        with self.changed:
            try:
                events = self.book.receive_data(data)
            except H2Error as error:
                # After what it was sent the client need not keep to the book either.
                self.lose(*self.streams.values())
                raise ConnectionError("the client breaks the book") from error
            self.flush()
            for event in events:
                if isinstance(event, ConnectionTerminated):
                    self.lost = True
                    self.lose(*self.streams.values())
                    self.shut_down()
                elif isinstance(event, StreamReset) and event.stream_id in self.streams:
                    self.lose(self.streams[event.stream_id])
            self.changed.notify_all()
        return events

    def lose(self, *streams: Stream) -> None:
        """Makes whatever is still sent on these streams fail."""
        with self.changed:
            for stream in streams:
                stream.gone = True
            self.changed.notify_all()

    def end(self) -> None:
        """Waits for the handlers' threads."""
        self.lose(*self.streams.values())
        for stream in self.streams.values():
            stream.thread.join(JOIN_DEADLINE_S)
            if stream.thread.is_alive():
                raise ServerError(f"the handler of stream {stream.id} does not end")

    @property
    def running(self) -> int:
        """How many streams are open."""
        return sum(stream.thread.is_alive() for stream in self.streams.values())


class Stream(Connection):
    """The server's end of one stream; to a handler a Connection of its own."""

    def __init__(self, server: Http2Server, link: Link, number: int) -> None:
        # None of the base's parts: a stream has no socket.
        self.number = link.number
        self.closed = False
        self.link = link
        self.id = number
        self.gone = link.lost
        """True once the client has reset the stream, or the connection has ended."""
        self.thread = threading.Thread()
        self._server = server

    def send_head(self, status: int, headers: Fields, *, version: str = "2") -> None:
        self.send_fields([(":status", str(status)), *pairs_of(headers)])

    def send_fields(self, fields: list[tuple[str, str]], *, end: bool = False) -> None:
        """Sends a header block: an answer's head, or trailers when it ends the stream."""
        with self.link.changed:
            self._check()
            self.link.book.send_headers(
                self.id, [(name.lower(), value) for name, value in fields], end_stream=end
            )
            self.closed = self.closed or end
            self.link.flush()

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            with self.link.changed:
                ready = self.link.changed.wait_for(lambda: self.gone or self._window() > 0, JOIN_DEADLINE_S)
                if not ready:
                    raise ServerError(f"the client opens no window for stream {self.id}")
                self._check()
                length = min(len(view), self._window(), self.link.book.max_outbound_frame_size)
                self.link.book.send_data(self.id, bytes(view[:length]))
                self.link.flush()
            view = view[length:]

    def wait_until_gone(self) -> None:
        with self.link.changed:
            self.link.changed.wait_for(lambda: self.gone)

    def send_wrong_fields(self, fields: list[tuple[str, str]], *, times: int = 1) -> None:
        """Sends a header block that the book may forbid; compression stays in step with the client.

        The last field comes `times` over: a byte each, once it is in the client's table.
        """
        with self.link.changed:
            encode = self.link.book.encoder.encode
            block = encode(fields, huffman=False)
            if times > 1:
                block += encode(fields[-1:]) * (times - 1)
            pieces = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
            frames: list[Frame] = [HeadersFrame(self.id, pieces[0])]
            frames += [ContinuationFrame(self.id, piece) for piece in pieces[1:]]
            frames[-1].flags.add("END_HEADERS")
            self.link.send_frames(*frames)

    def send_wrong_data(self, data: bytes) -> None:
        """Sends DATA past the end of the body or of the window."""
        self.link.send_frames(DataFrame(self.id, data))

    def reset(self, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Sends RST_STREAM."""
        with self.link.changed:
            self._check()
            self.closed = True
            self.link.book.reset_stream(self.id, code)
            self.link.flush()

    def close(self) -> None:
        """Ends the stream in order, wherever its body is."""
        with self.link.changed:
            self._check()
            self.closed = True
            self.link.book.end_stream(self.id)
            self.link.flush()

    def leave(self) -> None:
        """Says nothing more on the stream, which stays open."""
        self.closed = True

    def _window(self) -> int:
        return self.link.book.local_flow_control_window(self.id) if not self.gone else 0

    def _check(self) -> None:
        if self.gone or self.closed or self.link.book.state_machine.state is ConnectionState.CLOSED:
            raise BrokenPipeError(f"stream {self.id} is over")


def stream_of(connection: Connection) -> Stream:
    """Returns the stream that a handler of an Http2Server answers on."""
    assert isinstance(connection, Stream)
    return connection


class Http2Server(TlsServer):
    """A server of HTTP/2 over TLS, negotiated by ALPN.

    `settings` are sent to every connection. `greet` gets each connection after them, and may break it before
    a request is read.
    """

    def __init__(self, handler: Handler, authority: Authority) -> None:
        super().__init__(handler, authority, server_context(authority, "h2"))
        self.settings: dict[int, int] = {}
        self.greet: Callable[[Link], object] = lambda link: None

    def _connected(self, peer: socket.socket) -> Connection:
        return Link(self, TlsSocket(peer, self.context), self.connections)

    def _exchange(self, connection: Connection) -> None:
        assert isinstance(connection, Link)
        connection.begin(self.settings)
        self.greet(connection)
        try:
            while not connection.closed and (events := connection.receive()) is not None:
                for event in events:
                    if isinstance(event, RequestReceived):
                        self._take(connection, event)
        finally:
            connection.end()

    def _take(self, link: Link, event: RequestReceived) -> None:
        assert event.stream_id is not None
        stream = Stream(self, link, event.stream_id)
        if link.running >= self.settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, MAX_STREAMS):
            stream.reset(ErrorCodes.REFUSED_STREAM)  # RFC 9113 section 5.1.2
            return
        link.streams[stream.id] = stream
        fields = {_text(name): _text(value) for name, value in event.headers or ()}
        method, target = fields.pop(":method"), fields.pop(":path")
        request = self._record(Request(-1, link.number, method, target, "HTTP/2", fields))
        stream.thread = threading.Thread(
            target=self._answer, args=(request, stream), name=f"h2-stream-{stream.id}", daemon=True
        )
        stream.thread.start()

    def _answer(self, request: Request, stream: Stream) -> None:
        try:
            self._handler(request, stream)
            if not stream.closed:
                stream.close()
        except OSError:
            pass  # the client went away, or the context ends
        except BaseException as error:  # noqa: BLE001 (raised again when the context ends)
            self._errors.append(error)


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
