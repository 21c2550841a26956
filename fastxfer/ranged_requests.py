"""The requests that are out for the bytes of one object: they go out as their host has room for them
(governing.py), on handles that are used again.

Any thread may send, end and release; the requests themselves are of the engine's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fastxfer._native.memory import PartBuffer
from fastxfer._native.writer import Throttle
from fastxfer.engine.loop import Timer, shared_engine
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import FastxferError
from fastxfer.governing import Tenancy
from fastxfer.options import TransferOptions
from fastxfer.plan.rates import UNLIMITED
from fastxfer.ranged_get import Get

LINGER_S = 1.0
"""Who asks for nothing leaves the host to others, after so long: the next request may come soon."""


class Requests:
    """See the module. `sent` counts them."""

    def __init__(self, options: TransferOptions) -> None:
        self.sent = 0
        self._options = options
        self._engine = shared_engine()
        self._throttle = Throttle(UNLIMITED)
        self._tenancy = Tenancy(options, self._throttle, self._send_waiting, self._push)
        self._waiting: deque[tuple[Get, Callable[[], Request]]] = deque()
        self._out: dict[int, Get] = {}  # by slot
        self._slots = 0
        self._asked = ""  # a URL of the host that is asked now
        self._wish = 0
        self._leaves: Timer | None = None
        self._idle: list[Exchange] = []
        self._closed = False

    # ---- any thread ----

    def send(self, get: Get, make: Callable[[], Request]) -> None:
        """Has a request go out as soon as there is room; `make` is called then, on the engine's thread."""
        self.sent += 1

        def line_up() -> None:
            self._waiting.append((get, make))
            self._asked = get.source.host_url
            try:
                self._tenancy.begin(self._engine, self._asked)
                self._send_waiting()
            except Exception as error:  # noqa: BLE001 - handed to the thread that waits
                self._drop(get)
                get.fail(_internal(error))

        self._engine.call_soon(line_up)

    def go_on(self, get: Get, buffer: PartBuffer) -> None:
        """Gives a request whose buffer is full the next one."""

        def go_on() -> None:
            exchange = get.exchange
            if exchange is not None and not get.over.is_set():
                exchange.writer.fill_on(buffer)
                get.paused = False
                self._engine.unpause(exchange)

        get.buffer = buffer
        self._engine.call_soon(go_on)

    def abort(self, get: Get, error: FastxferError) -> None:
        """Ends a request, unless it is over."""

        def end() -> None:
            if get.exchange is not None:
                self._engine.abort(get.exchange, error)
            elif self._drop(get):
                self._tell_wish()
                get.fail(error)

        self._engine.call_soon(end)

    def release(self, get: Get) -> None:
        """Takes the handle of a request that is over back."""
        exchange, get.exchange = get.exchange, None
        if exchange is not None:
            self._engine.call_soon(lambda: self._keep(exchange))

    def close(self) -> None:
        """Lets go of the handles; nothing is out."""

        def end() -> None:
            self._closed = True
            if self._leaves is not None:
                self._leaves.cancel()
            self._tenancy.end()
            while self._idle:
                self._idle.pop().close()

        self._engine.call_soon(end)

    # ---- the engine's thread ----

    def _keep(self, exchange: Exchange) -> None:
        if self._closed:
            exchange.close()
        else:
            self._idle.append(exchange)

    def _drop(self, get: Get) -> bool:
        """Takes a request that has not gone out off the line; returns whether it stood there."""
        found = next((each for each in self._waiting if each[0] is get), None)
        if found is not None:
            self._waiting.remove(found)
        return found is not None

    def _send_waiting(self) -> None:
        while self._waiting and self._tenancy.may_send(
            self._waiting[0][0].source.host_url, len(self._waiting)
        ):
            get, make = self._waiting.popleft()
            self._slots += 1
            self._tenancy.sent(self._slots, get.source.host_url)
            try:
                self._submit(self._slots, get, make())
            except Exception as error:  # noqa: BLE001 - handed to the thread that waits
                self._out.pop(self._slots, None)
                self._tenancy.ended(self._slots, False, None)
                get.fail(_internal(error))
        self._tell_wish()

    def _submit(self, slot: int, get: Get, request: Request) -> None:
        exchange = self._idle.pop() if self._idle else Exchange(self._options)
        exchange.writer.limit(self._throttle)
        exchange.slot = slot
        self._out[slot] = get
        get.submitted(exchange)
        self._engine.submit(exchange, request, self)

    def _tell_wish(self) -> None:
        """Tells the host's governor how many would be out; who asks for nothing leaves it to the others."""
        wish = len(self._out) + len(self._waiting)
        if self._waiting or wish != self._wish:
            self._tenancy.wants(wish, self._asked)
        self._wish = wish
        if not wish and self._leaves is None:
            self._leaves = self._engine.call_later(LINGER_S, self._leave)

    def _leave(self) -> None:
        self._leaves = None
        if not self._wish:
            self._tenancy.end()

    def _push(self) -> None:
        """Has those go on that wait for what the rates allow."""
        for get in list(self._out.values()):
            if get.exchange is not None and get.exchange.writer.waiting:
                self._engine.unpause(get.exchange)

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""
        get = self._out[exchange.slot]
        get.head(exchange, head)
        if get.wanted:
            self._tenancy.serves(exchange.slot)

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        get = self._out.pop(exchange.slot)
        self._tenancy.ended(exchange.slot, get.wanted and get.received > 0, get.told(error))
        self._send_waiting()
        get.ended(exchange, error)


def _internal(error: Exception) -> FastxferError:
    if isinstance(error, FastxferError):
        return error
    return FastxferError(f"internal error: {type(error).__name__}: {error}")
