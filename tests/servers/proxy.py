"""A proxy before an object store that writes down each request, and can do harm to those that a test chooses.

The request goes on as it came, with the Host that the client has signed, so the store accepts it.

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=503, body=SLOW_DOWN) if call.operation == "UploadPart" and number < 2 else None

    with Proxy(store, harm) as proxy:
        ... proxy.store.endpoint ...
    proxy.calls("UploadPart")
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.servers import ServerError
from tests.servers.gateway import Call, Gateway, Inbound, Upstream
from tests.servers.raw import Connection, Request
from tests.servers.store import Store

CALL_DEADLINE_S = 20.0

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>slow</RequestId></Error>"
)
INTERNAL_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code>'
    b"<Message>We encountered an internal error. Please try again.</Message></Error>"
)


@dataclass(frozen=True, slots=True)
class Harm:
    """What goes wrong with one request.

    hold: the request waits until this is set, before anything is passed on.
    cut_request: after so many bytes of its body the connections to client and store are reset.
    status, fields, body: this is answered; the store never hears of the request, unless `carry_out`.
    carry_out: the store carries the request out and answers, before what is said here happens to its answer.
    hold_answer: the store has answered, and the client waits for it until this is set.
    cut_answer: the connection is reset after so many bytes of the answer's body, with 0 before its head.
    """

    hold: threading.Event | None = None
    cut_request: int | None = None
    status: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    carry_out: bool = False
    hold_answer: threading.Event | None = None
    cut_answer: int | None = None


@dataclass(slots=True)
class Exchange:
    """One request and what became of it, written down when it has ended.

    `received` counts the bytes of its body that came. `status` is what the client was told, 0 if nothing;
    `store_status` what the store said, 0 if it was not asked or has not answered.
    """

    call: Call
    request: Request
    received: int = 0
    status: int = 0
    store_status: int = 0
    sent: int = 0
    harm: Harm | None = None


HarmChoice = Callable[[Call, int], Harm | None]


class Proxy(Gateway):
    """A context manager: `store` is the same one, behind this proxy.

    `harm` is asked for each request with the number of those of the same operation and key that came before.
    """

    def __init__(self, store: Store, harm: HarmChoice = lambda call, number: None) -> None:
        super().__init__(self._pass_on)
        port = urlsplit(store.endpoint).port
        assert port is not None
        self._port = port
        self._choose = harm
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._exchanges: list[Exchange] = []
        self._ended = threading.Condition()
        self.store = store.through(f"http://{urlsplit(store.endpoint).hostname}:{self.port}")

    def calls(
        self, operation: str | None = None, *, count: int = 0, deadline_s: float = CALL_DEADLINE_S
    ) -> list[Exchange]:
        """Returns the requests of this operation that have ended, in that order, once there are `count`."""

        def seen() -> list[Exchange]:
            return [each for each in self._exchanges if operation in (None, each.call.operation)]

        with self._ended:
            if not self._ended.wait_for(lambda: len(seen()) >= count, deadline_s):
                raise ServerError(
                    f"{len(seen())} requests of {operation} ended in {deadline_s} s, not {count}"
                )
            return seen()

    def forget(self) -> None:
        """Empties the list that `calls()` reads."""
        with self._ended:
            self._exchanges.clear()

    def _pass_on(self, request: Request, connection: Connection) -> None:
        assert isinstance(connection, Inbound)
        call = Call.of(request)
        with self._ended:
            number = self._numbers[call.operation, call.key]
            self._numbers[call.operation, call.key] += 1
        exchange = Exchange(call, request, harm=self._choose(call, number))
        try:
            self._exchange(exchange, connection)
        finally:
            with self._ended:
                self._exchanges.append(exchange)
                self._ended.notify_all()

    def _exchange(self, exchange: Exchange, connection: Inbound) -> None:
        harm = exchange.harm or Harm()
        if harm.hold is not None:
            connection.stall(harm.hold)
        if harm.status is not None and not harm.carry_out:
            self._say(exchange, harm, connection)
            return
        with Upstream(self._port) as upstream:
            request = exchange.request
            upstream.send_head(request.method, request.target, request.headers)
            for piece in connection.pieces():
                exchange.received += len(piece)
                if harm.cut_request is not None and exchange.received > harm.cut_request:
                    upstream.send(piece[: harm.cut_request - exchange.received])
                    connection.reset()
                    return
                upstream.send(piece)
            response = upstream.response()
            exchange.store_status = response.status
            if harm.hold_answer is not None:
                connection.stall(harm.hold_answer)
            if harm.status is not None:
                response.read()
                self._say(exchange, harm, connection)
            elif harm.cut_answer == 0:
                connection.reset()
            else:
                exchange.status = response.status
                exchange.sent = connection.answer(response, limit=harm.cut_answer)

    def _say(self, exchange: Exchange, harm: Harm, connection: Inbound) -> None:
        """Answers what the test wants; the body of the request is taken before, and dropped."""
        assert harm.status is not None
        if not harm.carry_out:
            exchange.received = sum(len(piece) for piece in connection.pieces())
        exchange.status, exchange.sent = harm.status, len(harm.body)
        head_only = exchange.request.method == "HEAD"
        connection.respond(harm.status, harm.fields, harm.body, head_only=head_only)
