"""One request for bytes of an object, into buffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fastxfer._native.memory import PartBuffer
from fastxfer.engine.request import Exchange, Head
from fastxfer.errors import FastxferError, OverloadedError, RangeError
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Partial, Verdict, Whole
from fastxfer.plan.retry import parse_retry_after
from fastxfer.sources.opening import RemoteSource
from fastxfer.subject import Mirror, Subject

_BUSY = (429, 503)


class Get:
    """One request that is out, for a half-open range or for the whole object; it is told what comes of its
    exchange, on the engine's thread.

    Without a buffer the body is not wanted. With `on_full` it fills one buffer after another.
    """

    def __init__(
        self,
        source: RemoteSource,
        subject: Subject,
        mirror: Mirror,
        span: Span | None,
        buffer: PartBuffer | None,
        on_end: Callable[[Get], object],
        on_full: Callable[[], object] | None = None,
    ) -> None:
        self.source = source
        self.span = span
        self.buffer = buffer
        self.exchange: Exchange | None = None
        self.answer: Head | None = None
        self.verdict: Verdict | None = None
        self.refused = False
        self.failure: FastxferError | None = None
        self.error: FastxferError | None = None
        self.body = b""
        self.over = threading.Event()
        self.signed_by = source.generation
        self.paused = True
        """The source waits for us, or has not been asked yet: it does not stall."""
        self._subject = subject
        self._mirror = mirror
        self._on_end = on_end
        self._on_full = on_full
        self._moved = -1
        self._moved_at = time.monotonic()
        self._received_before = 0

    def submitted(self, exchange: Exchange) -> None:
        """Takes the handle that it is sent on."""
        self._received_before = exchange.writer.received
        exchange.writer.refuse()
        self.exchange = exchange
        self.paused = False

    @property
    def received(self) -> int:
        """Bytes of body that have come."""
        return self.exchange.writer.received - self._received_before if self.exchange is not None else 0

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""
        self.answer = head
        if self.source.refuses(head.status):
            self.refused = True
            exchange.writer.collect()
            return
        try:
            self.verdict = self._subject.judge(self.span, head, self._mirror)
        except FastxferError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            self.failure = FastxferError(f"internal error: {type(error).__name__}: {error}")
        if self.wanted:
            if self.buffer is None:
                exchange.writer.collect()
            else:
                exchange.writer.fill(self.buffer, self._on_full)

    @property
    def wanted(self) -> bool:
        """True for an answer that brings what was asked for, or the beginning of it."""
        if self.span is None:
            return isinstance(self.verdict, Whole) and self.buffer is not None
        return isinstance(self.verdict, Partial)

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        if self.refused and error is None:
            self.body = exchange.writer.body
        exchange.writer.refuse()
        if self.wanted and self.buffer is not None and exchange.writer.overrun:
            error = RangeError("the server sent more bytes than it said")
        self.fail(error)

    def fail(self, error: FastxferError | None) -> None:
        """Ends it."""
        self.error = error
        self.over.set()
        self._on_end(self)

    def told(self, error: FastxferError | None) -> FastxferError | None:
        """Returns what its end says of the host: why the request failed, None where it did not. `error` is
        the exchange's.
        """
        if self.refused and self.answer is not None and self.answer.status in _BUSY:
            wait_s = parse_retry_after(self.answer.headers.get("retry-after"), time.time())
            return OverloadedError("overloaded", status=self.answer.status, retry_after_s=wait_s)
        return self.failure or (error if self.wanted or self.answer is None else None)

    def stalled(self, now: float, limit_s: float) -> bool:
        """Returns whether nothing has moved for too long."""
        moved = self.received + (self.answer is not None)
        kept_waiting = self.paused or (self.exchange is not None and self.exchange.writer.waiting)
        if moved != self._moved or kept_waiting:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at > limit_s
