"""Asks a server what it tells of an object: one ranged GET of one byte (a HEAD may lie), redirects
followed.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Exchange, Head, Timings
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    InterruptedTransferError,
    Retry,
    TransferTimeoutError,
)
from fastxfer.lanes import request_for
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import (
    Identity,
    Moved,
    NotRanged,
    Partial,
    Unsatisfiable,
    Verdict,
    Whole,
    judge,
)
from fastxfer.plan.retry import backoff_s
from fastxfer.probe_result import RemoteObject
from fastxfer.refusals import judge_refusal
from fastxfer.sources.http import HttpSource
from fastxfer.sources.opening import RemoteSource

_LOOK_S = 0.1


class Answer:
    """Listens for the head of one request; the body is not wanted."""

    def __init__(self, source: RemoteSource, asked: Span | None) -> None:
        self.asked = asked
        self.refused = False
        self.body = b""
        self.signed_by = source.generation
        self._source = source
        self.over = threading.Event()
        self.verdict: Verdict | None = None
        self.answer: Head | None = None
        self.timings: Timings | None = None
        self.error: FastxferError | None = None

    def head(self, exchange: Exchange, head: Head) -> None:
        self.answer = head
        if self._source.refuses(head.status):
            self.refused = True
            exchange.writer.collect()
            return
        try:
            self.verdict = judge(
                self.asked,
                None,
                head.status,
                head.headers,
                coded=self._source.coded,
                now_epoch_s=time.time(),
            )
        except FastxferError as error:
            self.error = error
        if self.asked is not None and isinstance(self.verdict, Partial):
            exchange.writer.collect()

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        self.timings = exchange.timings
        if self.refused and error is None:
            self.body = exchange.writer.body
        elif self.verdict is None and self.error is None:
            self.error = error or BadResponseError("the server ended the connection without an answer")
        self.over.set()

    @property
    def identity(self) -> Identity | None:
        """What the answer tells of the object."""
        told = self.verdict
        return told.identity if isinstance(told, Partial | Whole | Unsatisfiable) else None


def probe(
    source: RemoteSource, options: TransferOptions, stopped: threading.Event | None = None
) -> RemoteObject:
    """Returns what the server tells of the object behind `source`. Raises as `fastxfer.probe` says, and
    InterruptedTransferError when `stopped` is set.
    """
    return _told(*find(source, options, stopped))


def find(
    source: RemoteSource,
    options: TransferOptions,
    stopped: threading.Event | None = None,
    *,
    afresh: bool = False,
) -> tuple[RemoteSource, Answer]:
    """Returns the source that the redirects lead to, and its answer, which is of the object; `afresh` has
    each request go out on a new connection. Raises as `probe` does.
    """
    stopped = stopped or threading.Event()
    failures = 0
    asked: Span | None = (0, 1)
    source.ready()
    while True:
        answer = _ask(source, asked, options, stopped, afresh)
        if answer.refused and answer.error is None and _learns(source, answer):
            continue
        try:
            if answer.error is not None:
                raise answer.error
        except FastxferError as error:
            failures += 1
            if error.retry is not Retry.SAME_SOURCE or failures > options.retries:
                raise
            if stopped.wait(backoff_s(failures, random.random())):
                raise _stopped() from error
            continue
        match answer.verdict:
            case Moved(location):
                source = source.redirected(location, answer.answer.address if answer.answer else "")
            case NotRanged():
                asked = None
            case Unsatisfiable() if asked is not None:
                asked = None  # a 416 tells of its error page, not of the object, which may be empty
            case _:
                return source, answer


def _ask(
    source: RemoteSource,
    asked: Span | None,
    options: TransferOptions,
    stopped: threading.Event,
    afresh: bool,
) -> Answer:
    engine = shared_engine()
    answer = Answer(source, asked)
    request = replace(request_for(source, asked), once=afresh)
    made: list[Exchange] = []

    def send() -> None:
        try:
            made.append(Exchange(options))
            engine.submit(made[0], request, answer)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            answer.error = FastxferError(f"internal error: {type(error).__name__}: {error}")
            answer.over.set()

    engine.call_soon(send)
    limit = options.connect_timeout + options.stall_timeout
    ends = time.monotonic() + limit
    while not answer.over.wait(_LOOK_S):
        if stopped.is_set():
            _abort(answer, made, _stopped())
        elif time.monotonic() >= ends:
            _abort(answer, made, TransferTimeoutError(f"no answer came for {limit:g} s"))
    return answer


def _abort(answer: Answer, made: list[Exchange], error: FastxferError) -> None:
    shared_engine().call_soon(lambda: shared_engine().abort(made[0], error))
    answer.over.wait()


def _stopped() -> InterruptedTransferError:
    return InterruptedTransferError("it was stopped")


def _learns(source: RemoteSource, answer: Answer) -> bool:
    """Reads a store's refusal; returns whether to ask once more. Raises CredentialsError."""
    assert answer.answer is not None
    refused = judge_refusal(source, answer.answer, answer.body, signed_by=answer.signed_by, version=None)
    if refused.renew and not isinstance(source, HttpSource):
        source.access.refresh()
    elif not refused.again:
        answer.error = refused.error
    return refused.again


def _told(source: RemoteSource, answer: Answer) -> RemoteObject:
    head, identity = answer.answer, answer.identity
    assert head is not None
    return RemoteObject(
        url=source.display,
        size=identity.size if identity is not None else None,
        etag=identity.etag if identity is not None else None,
        last_modified=identity.last_modified if identity is not None else None,
        accepts_ranges=isinstance(answer.verdict, Partial),
        http_version=head.http_version,
        content_type=head.headers.get("content-type"),
        redirects=source.redirects,
    )
