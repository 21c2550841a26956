"""Requests to an object store over the engine, signed as they go out: one at a time and waited for, or many
at once. For a driver's own thread, never the engine's: getting credentials may take the network.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from fastxfer._native.reader import Reader
from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Body, Exchange, Head, Request, ShortBody
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    InterruptedTransferError,
    OverloadedError,
    Retry,
    TransferTimeoutError,
)
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Headers
from fastxfer.plan.retry import backoff_s
from fastxfer.sources.store_access import StoreAccess
from fastxfer.sources.store_errors import MAX_ERROR_BYTES, error_of, read_refusal

Pairs = tuple[tuple[str, str], ...]

MAX_ANSWER = 16 << 20
"""More than this of an answer is not taken: a page of 1000 uploads with the longest keys has less."""
PATIENCE = 10
"""What the store does at once for all parts (Complete) may take so many times longer than other answers."""
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a store. `what` reads as in "cannot upload part 3 of s3://bucket/key", `key` is another
    than the location's ("" for the bucket). `once` as in Request.
    """

    method: str
    what: str
    _: KW_ONLY
    query: Pairs = ()
    headers: Pairs = field(default=(), repr=False)
    body: bytes | Reader | None = field(default=None, repr=False)
    key: str | None = None
    patience: int = 1
    once: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of 2xx."""

    status: int
    headers: Headers
    body: bytes
    address: str = ""
    """The IP address that was asked."""


class Call:
    """A request that is out; it listens to its exchange. `ended` is called on the engine's thread."""

    def __init__(self, ask: Ask, generation: int, on_end: Callable[[Call], object]) -> None:
        self.ask = ask
        self.generation = generation
        self.exchange: Exchange | None = None
        self.answer: Head | None = None
        self.body = b""
        self.error: FastxferError | None = None
        self.over = threading.Event()
        self._on_end = on_end
        self._moved = -1
        self._moved_at = time.monotonic()

    def head(self, exchange: Exchange, head: Head) -> None:
        self.answer = head
        exchange.writer.stash(MAX_ANSWER if head.status < 300 else MAX_ERROR_BYTES)

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        self.body = exchange.writer.body if self.answer is not None else b""
        if error is not None and self.answer is not None and exchange.writer.overrun:
            too_long = BadResponseError(f"{self.ask.what}: the answer has more than {MAX_ANSWER} bytes")
            error = too_long if self.answer.status < 300 else None  # of a refusal the beginning is enough
        self.fail(error)

    def fail(self, error: FastxferError | None) -> None:
        """Ends it."""
        self.error = error
        self.over.set()
        self._on_end(self)

    @property
    def given(self) -> int:
        """Bytes of the body of the request that were handed to libcurl."""
        return self.ask.body.given if isinstance(self.ask.body, Reader) else 0

    def stalled(self, now: float, limit_s: float) -> bool:
        """Returns whether nothing has moved for too long."""
        received = self.exchange.writer.received if self.exchange is not None else 0
        moved = self.given + received + (self.answer is not None)
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at > limit_s * self.ask.patience


class Calls:
    """Sends requests to one server; how they are made and what is learned from refusals is said by its kinds.
    `stop` ends all waiting with InterruptedTransferError.
    """

    def __init__(self, options: TransferOptions, stop: threading.Event) -> None:
        self.options = options
        self.stop = stop
        self.requests = 0
        self._engine = shared_engine()
        self._idle: list[Exchange] = []

    def request_of(self, ask: Ask) -> Request:
        """Returns the request as it goes out; may block."""
        raise NotImplementedError

    @property
    def generation(self) -> int:
        """Changes with what requests are made by."""
        return 0

    def accepted(self) -> None:
        """Notes that an answer was one of 2xx."""

    def refusal(self, ask: Ask, head: Head, body: bytes) -> FastxferError:
        """Returns the error of an answer that is not one of 2xx."""
        raise NotImplementedError

    def taught(self, _call: Call) -> bool:
        """Returns whether a refusal taught something, by which to make the request anew."""
        return False

    def send(self, ask: Ask, on_end: Callable[[Call], object] = lambda _: None) -> Call:
        """Makes a request and sends it. Raises what `request_of` does."""
        generation, request = self.generation, self.request_of(ask)
        call = Call(ask, generation, on_end)
        self.requests += 1
        self._engine.call_soon(lambda: self._submit(call, request))
        return call

    def _submit(self, call: Call, request: Request) -> None:
        try:
            call.exchange = self._idle.pop() if self._idle else Exchange(self.options)
            self._engine.submit(call.exchange, request, call)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            call.fail(FastxferError(f"internal error: {type(error).__name__}: {error}"))

    def release(self, call: Call) -> None:
        """Takes the handle of a call that is over back, for the next one."""
        exchange, call.exchange = call.exchange, None
        if exchange is not None:
            self._engine.call_soon(lambda: self._idle.append(exchange))

    def abort(self, call: Call, error: FastxferError) -> None:
        """Ends a call at once, unless it is over."""

        def end() -> None:
            if call.exchange is not None:
                self._engine.abort(call.exchange, error)

        self._engine.call_soon(end)

    def abort_if_stalled(self, call: Call, now: float) -> None:
        """Ends a call that does not move."""
        limit_s = self.options.stall_timeout
        if call.stalled(now, limit_s):
            waited = limit_s * call.ask.patience
            self.abort(call, TransferTimeoutError(f"{call.ask.what}: nothing moved for {waited:g} s"))

    def close(self) -> None:
        """Lets go of the handles."""

        def end() -> None:
            while self._idle:
                self._idle.pop().close()

        self._engine.call_soon(end)

    # ---- what came of one ----

    def outcome(self, call: Call) -> Answer:
        """Returns the answer of a call that is over. Raises its error, that of `refusal` for a refusal."""
        if call.error is not None:
            raise call.error
        head = call.answer
        if head is None:
            raise BadResponseError(f"{call.ask.what}: the server ended the connection without an answer")
        if 200 <= head.status < 300:
            self.accepted()
            return Answer(head.status, head.headers, call.body, head.address)
        raise self.refusal(call.ask, head, call.body)

    # ---- one at a time ----

    def once(self, ask: Ask) -> Answer:
        """Sends one request and waits for its answer; it goes again only where a refusal taught something.

        Raises as `outcome`, and InterruptedTransferError.
        """
        while True:
            call = self.send(ask)
            while not call.over.wait(_TICK_S):
                self.abort_if_stalled(call, time.monotonic())
                if self.stop.is_set():
                    self.abort(call, stopped())
                    call.over.wait()
            try:
                return self.outcome(call)
            except FastxferError:
                if not self.taught(call):
                    raise
            finally:
                self.release(call)

    def ask(self, ask: Ask) -> Answer:
        """Sends a request, again where that may help, and returns the answer. Raises as `once`."""
        failures = 0
        while True:
            try:
                return self.once(ask)
            except FastxferError as error:
                failures += 1
                if error.retry is not Retry.SAME_SOURCE or failures > self.options.retries:
                    raise
                self.pause(failures, error)

    def pause(self, failures: int, error: FastxferError | None = None) -> None:
        """Waits before the next try. Raises InterruptedTransferError."""
        wait_s = backoff_s(failures, random.random())
        if isinstance(error, OverloadedError):
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        if self.stop.wait(wait_s):
            raise stopped()


class StoreCalls(Calls):
    """Sends requests to one location of an object store, signed."""

    def __init__(self, access: StoreAccess, options: TransferOptions, stop: threading.Event) -> None:
        super().__init__(options, stop)
        self.access = access

    @property
    def generation(self) -> int:
        """What requests are signed by now."""
        return self.access.generation

    def prepare(self) -> None:
        """Gets credentials where they are needed; blocks. Raises CredentialsError."""
        if self.access.must_refresh or self.access.needs_refresh():
            self.access.refresh()

    def send(self, ask: Ask, on_end: Callable[[Call], object] = lambda _: None) -> Call:
        """Signs a request and sends it. Raises CredentialsError and OptionError."""
        self.prepare()
        return super().send(ask, on_end)

    def request_of(self, ask: Ask) -> Request:
        """Returns the request, signed. Raises CredentialsError and OptionError."""
        signed = self.access.signed(ask.method, query=ask.query, headers=ask.headers, key=ask.key)
        body: Body | None = ShortBody(ask.body) if isinstance(ask.body, bytes) else ask.body
        return Request(
            signed.url,
            tuple(f"{name}: {value}" if value else f"{name};" for name, value in signed.headers),
            method=ask.method,
            body=body,
            as_is=True,
            once=ask.once,
        )

    def accepted(self) -> None:
        """Notes that what was learned holds."""
        self.access.accepted()

    def refusal(self, ask: Ask, head: Head, body: bytes) -> FastxferError:
        """Returns the StoreError of a refusal."""
        return error_of(ask.what, head.status, head.headers, body, now_epoch_s=time.time())

    def taught(self, call: Call) -> bool:
        """Returns whether a refusal taught something, by which to sign the request anew: the time, the region
        or new credentials.
        """
        head = call.answer
        if call.error is not None or head is None or head.status < 300:
            return False
        refusal = read_refusal(head.status, head.headers, call.body)
        return self.access.refused(refusal, head.headers.get("date"), generation=call.generation)


def stopped() -> InterruptedTransferError:
    """Returns the error of what its user has ended."""
    return InterruptedTransferError("the upload was stopped; run it again to go on")
