"""Fetches a few short ranges of one mirror's object, by which it is compared with what is known of the
object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Exchange, Head
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    RangeError,
    RemoteChangedError,
    TransferTimeoutError,
)
from fastxfer.lanes import request_for
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Changed, Moved, Partial, Unsatisfiable, Verdict
from fastxfer.refreshing import renew
from fastxfer.sources.http import HttpSource
from fastxfer.subject import Mirror, Subject

Samples = list[bytes]


class Sampler:
    """Asks `mirror` for each of `spans` in turn, over one handle; `then` is called once, with the bytes of
    all or with the error. RemoteChangedError: the mirror's object is not the one. Of the engine's thread.
    """

    def __init__(
        self,
        mirror: Mirror,
        spans: Sequence[Span],
        subject: Subject,
        options: TransferOptions,
        then: Callable[[Samples | FastxferError], object],
    ) -> None:
        self.requests = 0
        self._mirror = mirror
        self._spans = list(spans)
        self._subject = subject
        self._options = options
        self._then: Callable[[Samples | FastxferError], object] | None = then
        self._found: Samples = []
        self._engine = shared_engine()
        self._exchange = Exchange(options)
        self._verdict: Verdict | None = None
        self._failure: FastxferError | None = None
        self._refused = False
        self._signed_by = 0
        self._engine.call_soon(self._ask)

    def stop(self) -> None:
        """Ends it; nobody is told."""
        self._then = None
        self._engine.abort(self._exchange)

    def _ask(self) -> None:
        if self._then is None:
            self._exchange.close()
            return
        self._verdict = self._failure = None
        self._refused = False
        self._exchange.writer.refuse()
        self.requests += 1
        mirror, number = self._mirror, self.requests
        if_range, version = self._subject.if_range(mirror), self._subject.version(mirror)
        self._signed_by = mirror.source.generation
        span = self._spans[len(self._found)]
        try:
            request = request_for(mirror.source, span, if_range, version)
        except FastxferError as error:
            self._end(error)
            return
        self._engine.submit(self._exchange, request, self)
        limit_s = self._options.connect_timeout + self._options.stall_timeout
        self._engine.call_later(limit_s, lambda: self._late(number, limit_s))

    def _late(self, number: int, limit_s: float) -> None:
        if self._then is not None and self.requests == number:
            self._engine.abort(self._exchange, TransferTimeoutError(f"no answer came for {limit_s:g} s"))

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""
        span = self._spans[len(self._found)]
        if self._mirror.source.refuses(head.status):
            self._refused = True
            exchange.writer.collect()
            return
        try:
            self._verdict = self._subject.judge(span, head, self._mirror)
        except FastxferError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            self._failure = FastxferError(f"internal error: {type(error).__name__}: {error}")
        if isinstance(self._verdict, Partial) and (self._verdict.start, self._verdict.stop) == span:
            exchange.writer.collect()

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        if self._then is None:
            exchange.close()
            return
        outcome: Samples | FastxferError | None
        if self._refused and error is None and self._goes_again(exchange):
            return
        try:
            outcome = self._outcome(exchange, error)
        except FastxferError as failure:
            outcome = failure
        if outcome is None:
            self._ask()
            return
        self._end(outcome)

    def _end(self, outcome: Samples | FastxferError) -> None:
        then, self._then = self._then, None
        self._exchange.close()
        if then is not None:
            then(outcome)

    def _goes_again(self, exchange: Exchange) -> bool:
        """Reads a store's refusal; returns whether the request goes out once more."""
        from fastxfer.refusals import judge_refusal

        source, head = self._mirror.source, exchange.head
        assert head is not None and not isinstance(source, HttpSource)
        version = self._subject.version(self._mirror)
        refused = judge_refusal(
            source, head, exchange.writer.body, signed_by=self._signed_by, version=version
        )
        if refused.renew:
            renew(source.access, lambda _: self._engine.call_soon(self._ask))
        elif refused.again:
            self._ask()
        else:
            self._failure = refused.error
        return refused.again

    def _outcome(self, exchange: Exchange, error: FastxferError | None) -> Samples | None:
        """Returns the samples when all are there, None when there is more to ask. Raises the failure."""
        span = self._spans[len(self._found)]
        if self._failure is not None:
            raise self._failure
        match self._verdict:
            case Moved(location):
                answered = exchange.head
                address = answered.address if answered is not None else ""
                self._mirror.source = self._mirror.source.redirected(location, address)
                return None
            case Changed(reason, _):
                raise RemoteChangedError(f"it has another object: {reason}")
            case Unsatisfiable():
                raise RemoteChangedError("it has another object, which is smaller")
            case Partial(start, stop, identity) if (start, stop) == span:
                pass
            case None:
                raise error or BadResponseError("the server ended the connection without an answer")
            case _:
                raise _NoRanges("it does not send ranges")
        if error is not None:
            raise error
        body = exchange.writer.body
        if len(body) != span[1] - span[0]:
            raise RangeError(f"the answer brought {len(body)} bytes, not {span[1] - span[0]}")
        if self._mirror.told is None:
            self._mirror.told = identity
        self._found.append(body)
        return self._found if len(self._found) == len(self._spans) else None


class _NoRanges(RemoteChangedError):
    """Nothing of it can be mixed with what others sent."""
