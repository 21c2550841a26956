"""An object that is read in ranges, into buffers: what its server tells of it, and requests for its bytes.

Each answer is judged before a byte of it is taken (plan/response.py), and held against what the first one
told: a request carries If-Range where there is a strong ETag, and names the version where a store keeps
several. Belongs to a thread of its reader's; requests run on the engine's, and tell their end to `on_end`
there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastxfer._native.memory import PartBuffer
from fastxfer.engine.request import Request
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    HTTPStatusError,
    InterruptedTransferError,
    NotFoundError,
    OverloadedError,
    RangeError,
    RemoteChangedError,
    Retry,
    TransferTimeoutError,
)
from fastxfer.lanes import request_for
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import (
    Changed,
    Headers,
    Identity,
    Moved,
    NotRanged,
    Partial,
    Unsatisfiable,
    Whole,
)
from fastxfer.plan.retry import backoff_s
from fastxfer.ranged_get import Get
from fastxfer.ranged_requests import Requests
from fastxfer.refusals import judge_refusal
from fastxfer.sources.opening import RemoteSource, Sources, open_source
from fastxfer.sources.store import StoreSource
from fastxfer.sources.told_checksums import told_checksums
from fastxfer.subject import Mirror, Subject

_TICK_S = 0.1
_TURNS = 20
"""So many redirects and lessons of a store may come before one answer."""


class Again(Exception):
    """The request is to be sent once more at once: something was learned, and nothing failed."""


class SourceChangedError(RemoteChangedError):
    """The source is another object than it was; told among those that read it only."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the source's server tells. `checksums` (lower-case hex, by name) are of all bytes."""

    identity: Identity
    ranges: bool
    headers: Headers
    checksums: dict[str, str]


class RangedSource:
    """See the module. Raises OptionError for a URL that cannot be one, and CredentialsError."""

    def __init__(
        self,
        url: str,
        options: TransferOptions,
        stop: threading.Event,
        stopped: str = "the copy was stopped; run it again to go on",
        *,
        sources: Sources | None = None,
    ) -> None:
        source = open_source(url, options) if sources is None else sources.open(url, options)
        self.options = options
        self._mirror = Mirror(0, source, source)
        self._subject = Subject(options)
        self._stop = stop
        self._stopped_because = stopped
        self._requests = Requests(options)
        self._taken: PartBuffer | None = None

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._requests.sent

    @property
    def display(self) -> str:
        """Its URL without secrets."""
        return self._mirror.display

    @property
    def original(self) -> RemoteSource:
        """The source as the caller named it."""
        return self._mirror.original

    @property
    def identity(self) -> Identity:
        """What the object is held against."""
        return self._mirror.told or Identity()

    @property
    def version(self) -> str | None:
        """The version that is read, where the store keeps several."""
        return self.identity.version

    # ---- what it is ----

    def look(self, first: PartBuffer | None = None, *, sums: bool = True) -> Look:
        """Returns what the server tells now, by a range of one byte, or as much as there is room for in
        `first`, which has the object's beginning then, or what came of it; later answers must be of that
        object. With `sums` a store is asked for its checksums too. Raises FastxferError.
        """
        self._mirror.told = None
        get = self._answered((0, 1 if first is None else first.room), first)
        if isinstance(get.verdict, NotRanged | Unsatisfiable | Whole):
            get = self._answered(None)
        verdict = get.verdict
        assert isinstance(verdict, Partial | Whole) and get.answer is not None
        self._mirror.told = verdict.identity
        ranges = isinstance(verdict, Partial)
        told = told_checksums(get.answer.headers, whole=not ranges)
        if sums and isinstance(self.original, StoreSource):
            told = {**self._by_head(), **told}
        return Look(verdict.identity, ranges, get.answer.headers, told)

    def take(self, size: int, *, xz: bool) -> Look | None:
        """Returns what the server tells now, by one request that brings all of an object of so many bytes
        with it: `fetched` has them then. None where it does not come like that; `look` says why.
        """
        self._mirror.told = None
        for _ in range(_TURNS):
            buffer = PartBuffer(max(1, size), xz)
            buffer.begin(size)
            get = self._waited(self._make(None, buffer, _nobody))
            try:
                self.outcome(get)
            except Again:
                continue
            except FastxferError:
                return None
            verdict = get.verdict
            if get.answer is None or not isinstance(verdict, Whole) or verdict.identity.size != size:
                return None
            if not buffer.full:
                return None
            self._mirror.told, self._taken = verdict.identity, buffer
            headers = get.answer.headers
            return Look(verdict.identity, True, headers, told_checksums(headers, whole=True))
        return None

    def still(self) -> str | None:
        """Returns in words how the object differs from what it was, None where it does not. Raises
        FastxferError.
        """
        if self.version is not None:
            return None
        try:
            self._answered((0, 1) if self.identity.size else None)
        except SourceChangedError as changed:
            return changed.message
        except NotFoundError:
            return "it is gone"
        return None

    def _by_head(self) -> dict[str, str]:
        """Returns the checksums that a store tells on HEAD, none where it does not answer as hoped."""
        source = self.original
        assert isinstance(source, StoreSource)

        def request() -> Request:
            url, lines = source.asks_about(self.version)
            return Request(url, tuple(lines), client_cert=source.client_cert, as_is=True, method="HEAD")

        get = self._waited(Get(source, Subject(self.options), self._mirror, None, None, _nobody), request)
        head = get.answer
        if head is None or head.status != 200 or head.headers.get("etag") != self.identity.etag:
            return {}
        return told_checksums(head.headers, whole=True)

    def _answered(self, span: Span | None, buffer: PartBuffer | None = None) -> Get:
        """Asks until there is an answer, which fills a buffer. Raises FastxferError."""
        failures = turns = 0
        while True:
            if buffer is not None:
                buffer.begin(buffer.room)
            get = self._waited(self._make(span, buffer, _nobody))
            try:
                self.outcome(get)
                return get
            except Again:
                turns += 1
                if turns > _TURNS:
                    raise BadResponseError("the source does not come to an answer") from None
            except FastxferError as error:
                failures += 1
                self.ask_at_first(get)
                if error.retry is not Retry.SAME_SOURCE or failures > self.options.retries:
                    raise
                self._pause(failures, error)

    def _waited(self, get: Get, request: Callable[[], Request] | None = None) -> Get:
        self._send(get, request)
        while not get.over.wait(_TICK_S):
            self.abort_if_stalled(get, time.monotonic())
            if self._stop.is_set():
                self.abort(get, self._stopped())
                get.over.wait()
        if self._stop.is_set():
            raise self._stopped()
        self.release(get)
        return get

    # ---- its bytes ----

    def get(
        self,
        span: Span | None,
        buffer: PartBuffer,
        on_end: Callable[[Get], object],
        on_full: Callable[[], object] | None = None,
    ) -> Get:
        """Asks for a range, or for the whole. Raises CredentialsError."""
        get = self._make(span, buffer, on_end, on_full)
        self._send(get)
        return get

    def fetched(self, size: int, *, xz: bool) -> PartBuffer:
        """Returns the whole object of so many bytes, in memory. Raises FastxferError, SourceChangedError
        too.
        """
        taken, self._taken = self._taken, None
        if taken is not None and taken.filled == size:
            return taken
        buffer = PartBuffer(max(1, size), xz)
        buffer.begin(size)
        self._fill(buffer)
        return buffer

    def expect(self, identity: Identity) -> None:
        """Has the answers be of this object, of which others were told before."""
        self._mirror.told = identity

    def read(self, span: Span, buffer: PartBuffer) -> None:
        """Fills a buffer with a range. Raises FastxferError, SourceChangedError too."""
        buffer.begin(span[1] - span[0])
        self._fill(buffer, span[0])

    def _fill(self, buffer: PartBuffer, at: int = 0) -> None:
        fill = Fill(self, at, buffer)
        while not buffer.full:
            wait_s = fill.came(self._waited(self._make(fill.begins(), buffer, _nobody)))
            if wait_s:
                self._wait(wait_s)

    def _pause(self, failures: int, error: FastxferError) -> None:
        self._wait(pause_s(failures, error))

    def _wait(self, wait_s: float) -> None:
        if self._stop.wait(wait_s):
            raise self._stopped()

    def _make(
        self,
        span: Span | None,
        buffer: PartBuffer | None,
        on_end: Callable[[Get], object],
        on_full: Callable[[], object] | None = None,
    ) -> Get:
        self._mirror.source.ready()
        return Get(self._mirror.source, self._subject, self._mirror, span, buffer, on_end, on_full)

    def _send(self, get: Get, make: Callable[[], Request] | None = None) -> None:
        source = get.source
        if isinstance(source, StoreSource) and source.access.needs_refresh():
            source.access.refresh()

        def ranged() -> Request:
            get.signed_by = source.generation
            return request_for(source, get.span, self._subject.if_range(self._mirror), self.version)

        self._requests.send(get, make or ranged)

    def go_on(self, get: Get, buffer: PartBuffer) -> None:
        """Gives a request whose buffer is full the next one."""
        self._requests.go_on(get, buffer)

    def _stopped(self) -> InterruptedTransferError:
        return InterruptedTransferError(self._stopped_because)

    def outcome(self, get: Get) -> None:
        """Returns where a request that is over has brought what it was to; raises why not.

        Again, SourceChangedError and other FastxferErrors; what has come into its buffer before is good.
        """
        if get.refused and get.error is None:
            self._refused(get)
        if get.failure is not None:
            raise get.failure
        match get.verdict:
            case Moved(location):
                if self._mirror.source is get.source:
                    address = get.answer.address if get.answer is not None else ""
                    self._mirror.source = get.source.redirected(location, address)
                raise Again
            case Changed(reason, _):
                raise SourceChangedError(reason)
            case NotRanged() | Unsatisfiable() | Whole() if get.span is not None:
                if get.buffer is not None and self._mirror.told is not None:
                    raise RangeError("the server gives ranges no more, or not this one")
                return
            case None:
                raise get.error or BadResponseError("the server ended the connection without an answer")
        if get.buffer is not None and get.error is not None and self._mirror.told is not None:
            raise get.error
        get.source.accepted()

    def _refused(self, get: Get) -> None:
        assert get.answer is not None
        refused = judge_refusal(
            get.source, get.answer, get.body, signed_by=get.signed_by, version=self.version
        )
        if refused.gone:
            raise SourceChangedError("the version that was read is gone")
        if not refused.again:
            raise refused.error
        if refused.renew and isinstance(get.source, StoreSource):
            get.source.access.refresh()
        raise Again

    def ask_at_first(self, get: Get) -> bool:
        """Goes back to the URL that was given, where one that it redirects to refuses; returns whether."""
        moved = get.source is not self._mirror.original
        refuses = isinstance(get.failure, HTTPStatusError) and get.failure.status in (401, 403, 404, 410)
        if moved and refuses and self._mirror.source is get.source:
            self._mirror.ask_at_first()
        return moved and refuses

    def release(self, get: Get) -> None:
        """Takes the handle of a request that is over back."""
        self._requests.release(get)

    def abort(self, get: Get, error: FastxferError) -> None:
        """Ends a request, unless it is over."""
        self._requests.abort(get, error)

    def abort_if_stalled(self, get: Get, now: float) -> None:
        """Ends a request that does not move."""
        if get.stalled(now, self.options.stall_timeout):
            stalled = f"nothing came from {self.display} for {self.options.stall_timeout:g} s"
            self.abort(get, TransferTimeoutError(stalled))

    def close(self) -> None:
        """Lets go of the handles."""
        self._requests.close()


class Fill:
    """A stretch of the object, from `start` on, that comes into a buffer over as many requests as it takes:
    each asks for what is missing.
    """

    def __init__(self, source: RangedSource, start: int, buffer: PartBuffer) -> None:
        self.start = start
        self.buffer = buffer
        self._source = source
        self._failures = self._turns = self._before = 0

    def begins(self) -> Span:
        """Returns the range to ask for now."""
        self._before = self.buffer.filled
        return self.start + self._before, self.start + self.buffer.room

    def came(self, get: Get) -> float | None:
        """Takes the end of a request. Returns in how many seconds to send the next, None when all is there.

        Raises FastxferError when it is to be given up, SourceChangedError when it is another object: that is
        looked at once more before, which blocks.
        """
        source, buffer = self._source, self.buffer
        moved = buffer.filled > self._before
        try:
            source.outcome(get)
            if not moved:
                raise RangeError("the server sent less than it was asked for")
        except Again:
            self._turns += 1
            if self._turns > _TURNS:
                raise BadResponseError("the source does not come to an answer") from None
            return 0.0
        except SourceChangedError as changed:
            reason = source.still()
            self._failures += 1
            if reason is not None or self._failures > source.options.retries:
                raise SourceChangedError(reason or changed.message) from changed
            return 0.0
        except FastxferError as error:
            self._failures = 1 if moved else self._failures + 1
            again = source.ask_at_first(get) or error.retry is Retry.SAME_SOURCE
            if not again or self._failures > source.options.retries:
                error.message = f"cannot read {source.display}: {error.message}"
                raise
            return pause_s(self._failures, error)
        return None if buffer.full else 0.0


def pause_s(failures: int, error: FastxferError) -> float:
    """Returns how long to wait after so many failures in a row, of which this is the last."""
    wait_s = backoff_s(failures, random.random())
    if isinstance(error, OverloadedError):
        wait_s = max(wait_s, error.retry_after_s or 0.0)
    return wait_s


def _nobody(_: Get) -> None:
    """Waits by itself."""
