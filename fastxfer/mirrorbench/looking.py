"""Looks at a mirror: what it tells, how long an answer takes on a new connection, samples of its bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Exchange, Head
from fastxfer.errors import FastxferError, RemoteChangedError, Retry, TransferTimeoutError
from fastxfer.lanes import request_for
from fastxfer.mirrorbench.identity import Copy
from fastxfer.mirrorbench.target import Target
from fastxfer.options import TransferOptions
from fastxfer.plan.mirrors import SAMPLE_BYTES, sample_spans
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity, Partial
from fastxfer.probing import find
from fastxfer.sampling import Sampler, Samples
from fastxfer.subject import Subject

SAMPLE_TRIES = 3


def look(target: Target, options: TransferOptions) -> FastxferError | None:
    """Asks for one byte on a new connection, and notes what is told of it and when; returns what failed."""
    mirror = target.mirror
    try:
        mirror.source, answer = find(mirror.source, options, afresh=True)
    except FastxferError as error:
        target.note(error)
        return error
    if answer.timings is not None:
        target.looks.append(answer.timings)
    if answer.answer is not None:
        target.http_version, target.address = answer.answer.http_version, answer.answer.address
    if mirror.told is None:
        target.redirects = mirror.source.redirects if hasattr(mirror.source, "redirects") else 0
        mirror.source = mirror.source.settled()
        target.ranges = isinstance(answer.verdict, Partial)
        mirror.told = answer.identity or Identity()
        target.copy = Copy(mirror.told)
    return None


def places_of(size: int, fractions: list[float]) -> list[Span]:
    """Returns the ranges by which copies are compared, of which the first begins the object."""
    spans = sample_spans([(0, size)], fractions)
    if spans and spans[0][0] > 0:
        spans = [(0, min(SAMPLE_BYTES, spans[0][0])), *spans]
    return spans


def sample(target: Target, spans: list[Span], options: TransferOptions) -> None:
    """Has a mirror's bytes in `spans` taken, or the first of them where it gives no ranges."""
    if not spans or target.copy is None:
        return
    for _ in range(SAMPLE_TRIES):
        outcome = _asked(target, spans, options) if target.ranges else _begins(target, spans[0], options)
        if not isinstance(outcome, FastxferError):
            break
        target.note(outcome)
        if outcome.retry is not Retry.SAME_SOURCE:
            break
    if not isinstance(outcome, FastxferError):
        target.copy = Copy(target.told, tuple(outcome))
    elif isinstance(outcome, RemoteChangedError):
        target.copy = Copy(target.told, changed=True)


def _asked(target: Target, spans: list[Span], options: TransferOptions) -> Samples | FastxferError:
    return _answered(
        lambda then: Sampler(target.mirror, spans, Subject(options, target.told.size), options, then),
        (options.connect_timeout + options.stall_timeout) * len(spans) * 2,
    )


def _begins(target: Target, span: Span, options: TransferOptions) -> Samples | FastxferError:
    return _answered(
        lambda then: _Beginning(target, span, options, then), options.connect_timeout + options.stall_timeout
    )


Then = Callable[[Samples | FastxferError], object]


def _answered(begin: Callable[[Then], object], limit_s: float) -> Samples | FastxferError:
    """Begins something on the engine's thread, and returns what it hands over."""
    over = threading.Event()
    found: list[Samples | FastxferError] = []

    def then(outcome: Samples | FastxferError) -> None:
        found.append(outcome)
        over.set()

    def start() -> None:
        try:
            begin(then)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            then(FastxferError(f"internal error: {type(error).__name__}: {error}"))

    shared_engine().call_soon(start)
    if not over.wait(limit_s):
        return TransferTimeoutError(f"no answer came for {limit_s:g} s")
    return found[0]


class _Beginning:
    """Takes the first bytes of an object that comes as a whole, and no more."""

    def __init__(self, target: Target, span: Span, options: TransferOptions, then: Then) -> None:
        self._length = span[1]
        self._then = then
        exchange = Exchange(options)
        shared_engine().submit(exchange, request_for(target.mirror.source, None), self)

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""
        if head.status == 200:
            exchange.writer.stash(self._length)

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`. That it took no more than it wanted is an error to libcurl."""
        body = exchange.writer.body
        exchange.close()
        if len(body) == self._length:
            self._then([body])
        else:
            self._then(error or TransferTimeoutError(f"{len(body)} bytes came of {self._length}"))
