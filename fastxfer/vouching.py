"""What a store itself says that an object's bytes come to, for a transfer whose caller gave no checksum.

Where the first answer does not tell, S3 is asked by a HEAD while the bytes come. That it is not known is no
failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastxfer.engine.loop import Engine, Timer
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import FastxferError, Retry, TransferTimeoutError
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Identity, Partial, Whole, difference, identity_of
from fastxfer.sources.http import HttpSource
from fastxfer.sources.opening import RemoteSource
from fastxfer.sources.told_checksums import is_presigned, told_checksums

if TYPE_CHECKING:
    from fastxfer.sources.store import StoreSource

TRIES = 3
AGAIN_S = 0.5

Told = dict[str, str]


class Vouching:
    """What a store says of the object of one transfer. Of the engine's thread."""

    def __init__(self, engine: Engine, options: TransferOptions) -> None:
        self.told: Told = {}
        """The checksums of the whole object, by name, in lower-case hex."""
        self.requests = 0
        self._engine = engine
        self._options = options
        self._inquiry: _Inquiry | None = None
        self._then: Callable[[], object] | None = None

    def heard(self, source: RemoteSource, head: Head, verdict: Partial | Whole) -> None:
        """Takes what the first accepted answer tells, and asks where that is not enough."""
        size = verdict.identity.size
        whole = isinstance(verdict, Whole) or (verdict.start, verdict.stop) == (0, size)
        if not isinstance(source, HttpSource) or is_presigned(source.url):
            self.told = told_checksums(head.headers, whole=whole)
        if isinstance(source, HttpSource) or source.access.kind != "s3":
            return
        if not (self.told or whole):
            self._inquiry = _Inquiry(self._engine, self._options, source, verdict.identity, self._came)

    def _came(self, told: Told) -> None:
        self.told = told
        self._end_inquiry()
        then, self._then = self._then, None
        if then is not None:
            then()

    def when_known(self, then: Callable[[], object]) -> None:
        """Calls `then` once it is known what the store says, or that it says nothing."""
        if self._inquiry is None:
            then()
        else:
            self._then = then

    def forget(self) -> None:
        """Drops what was said, and who waits for it."""
        self.told, self._then = {}, None
        self._end_inquiry()

    def _end_inquiry(self) -> None:
        inquiry, self._inquiry = self._inquiry, None
        if inquiry is not None:
            self.requests += inquiry.requests
            inquiry.stop()


class _Inquiry:
    """Asks a store by HEAD for the checksums of an object; `then` gets them once, from the engine's thread,
    within the time-outs of an answer.
    """

    def __init__(
        self,
        engine: Engine,
        options: TransferOptions,
        source: StoreSource,
        known: Identity,
        then: Callable[[Told], object],
    ) -> None:
        self.requests = 0
        self._engine = engine
        self._source = source
        self._known = known
        self._then: Callable[[Told], object] | None = then
        self._exchange = Exchange(options)
        self._out = False
        self._signed_by = 0
        limit_s = options.connect_timeout + options.stall_timeout
        late = TransferTimeoutError(f"no answer came for {limit_s:g} s")
        self._timers: list[Timer] = [engine.call_later(limit_s, lambda: self._give_up(late))]
        engine.call_soon(self._ask)

    def stop(self) -> None:
        """Ends it; `then` is not called any more."""
        self._then = None
        for timer in self._timers:
            timer.cancel()
        if self._out:
            self._engine.abort(self._exchange)
        else:
            self._exchange.close()

    def _ask(self) -> None:
        if self._then is None or self._out:
            return
        source = self._source
        self._signed_by = source.generation
        try:
            url, lines = source.asks_about(self._known.version)
        except FastxferError:
            self._end({})
            return
        self.requests += 1
        self._exchange.writer.refuse()
        request = Request(
            url,
            tuple(lines),
            client_cert=source.client_cert,
            public_only=source.public_only,
            as_is=source.as_is,
            method="HEAD",
        )
        self._out = True
        self._engine.submit(self._exchange, request, self)

    def _give_up(self, error: FastxferError) -> None:
        if self._out:
            self._engine.abort(self._exchange, error)
        else:
            self._end({})

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        self._out = False
        if self._then is None:
            exchange.close()
            return
        head = exchange.head
        if head is not None and head.status == 200:
            length = head.headers.get("content-length") or ""
            size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
            same = difference(self._known, identity_of(head.headers, size)) is None
            self._end(told_checksums(head.headers, whole=True) if same else {})
            return
        again = isinstance(error, FastxferError) and error.retry is Retry.SAME_SOURCE
        if head is not None and error is None:
            from fastxfer.refusals import judge_refusal

            refused = judge_refusal(
                self._source, head, b"", signed_by=self._signed_by, version=self._known.version
            )
            again = refused.again or refused.error.retry is Retry.SAME_SOURCE
        if again and self.requests < TRIES and not isinstance(error, TransferTimeoutError):
            self._timers.append(self._engine.call_later(AGAIN_S, self._ask))
        else:
            self._end({})

    def _end(self, told: Told) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(told)
