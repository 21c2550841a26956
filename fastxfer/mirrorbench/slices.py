"""One slice: one mirror over so many connections for a while, its bytes counted and dropped."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, replace

from fastxfer.bench_options import BenchOptions
from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Exchange, Head
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    OverloadedError,
    RangeError,
    RemoteChangedError,
    Retry,
    TransferTimeoutError,
)
from fastxfer.lanes import request_for
from fastxfer.mirrorbench.sampling import (
    LEAST_RANGE,
    Point,
    Sample,
    quiet_s,
    random_span,
    sample_of,
    still_silent,
)
from fastxfer.mirrorbench.target import Tally, Target
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Changed, Moved, Partial, Verdict, Whole
from fastxfer.plan.retry import backoff_s

LOOK_S = 0.005
# nginx's limit_rate sends a second's bytes, and is silent for the rest of it.
MORE_S = 2.0
QUIET_S = 0.05
MAX_FAILURES = 50
# How long other processes take to say what they leave of a host, on a busy machine.
ROOM_S = 1.0


@dataclass(slots=True, eq=False)
class _Lane:
    exchange: Exchange
    span: Span | None = None
    out: bool = False
    before: int = 0  # bytes that came by earlier requests
    failures: int = 0  # in a row
    rests: bool = False
    verdict: Verdict | None = None
    failure: FastxferError | None = None
    refused: bool = False
    signed_by: int = 0


class Slice:
    """See the module. `run` is called on any thread but the engine's, everything else is of that one."""

    def __init__(
        self, target: Target, count: int, own: BenchOptions, options: TransferOptions, order: random.Random
    ) -> None:
        self.over = threading.Event()
        self.sample: Sample | None = None
        self.error: FastxferError | None = None
        """Why it ended before its time."""
        self._target = target
        self._count = count
        self._seconds, self._room = own.slice_s, own.slice_bytes
        self._options = options
        self._order = order
        self._tally = target.tallies.setdefault(count, Tally())
        self._engine = shared_engine()
        self._lanes: list[_Lane] = []
        self._points: list[Point] = []
        self._asked = 0
        self._begun = 0.0
        self._ending = False
        self._failures = 0
        self._prolonged = False
        self._started = False

    def run(self, since: float) -> None:
        """Measures; returns when it is over. `since` is when the whole began."""
        limit_s = ROOM_S + self._limit_s() + self._seconds + MORE_S + self._options.stall_timeout
        self._engine.call_soon(self._begin)
        try:
            if not self.over.wait(limit_s):
                self.error = TransferTimeoutError(f"it was not over after {limit_s:g} s")
        finally:
            self._engine.call_soon(self._end)
        self._keep(since)

    def _keep(self, since: float) -> None:
        target, came = self._target, self._points[-1][1] if self._points else 0
        self._tally.bytes += came
        target.silent = 0 if came else target.silent + 1
        overloaded = isinstance(self.error, OverloadedError)
        if not came and (overloaded or not self._failures):
            return  # it was left alone, as it asked: that says nothing about its rate
        self.sample = sample_of(
            self._points,
            self._seconds,
            self._room,
            self._begun - since,
            silence_counts=self._failures > 0,
        )
        if self._prolonged:  # by bursts, which rise and fall
            self.sample = replace(self.sample, first_half=self.sample.rate, second_half=self.sample.rate)
        self._tally.samples.append(self.sample)

    def _limit_s(self) -> float:
        return self._options.connect_timeout + min(self._options.stall_timeout, self._options.connect_timeout)

    # ---- the engine's thread ----

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self._target.on_room = self._fill
        self._lanes = [_Lane(Exchange(self._options)) for _ in range(self._count)]
        for slot, lane in enumerate(self._lanes):
            lane.exchange.slot = slot
        self._fill()
        self._look()

    def _fill(self) -> None:
        """Sends what may be sent."""
        if self._ending or not self._may_begin():
            return
        source, tenancy = self._target.mirror.source, self._target.tenancy
        idle = [lane for lane in self._lanes if not lane.out and not lane.rests]
        for waiting, lane in zip(range(len(idle), 0, -1), idle, strict=True):
            if self._ending or self._asked >= self._room:
                return
            if tenancy.may_send(source.host_url, waiting) is not True:
                return
            self._send(lane)

    def _may_begin(self) -> bool:
        """Returns whether there is room for all connections at once; for a while that is waited for, since
        it is theirs together that is measured.
        """
        if not self._started:
            url, now = self._target.mirror.source.host_url, time.monotonic()
            self._target.tenancy.wants(self._count, url)
            if self._target.tenancy.room(url) < self._count and now - self._begun < ROOM_S:
                return False
            self._started, self._begun = True, now
        return True

    def _send(self, lane: _Lane) -> None:
        target, source = self._target, self._target.mirror.source
        lane.verdict = lane.failure = None
        lane.refused = False
        size = target.told.size
        if target.ranges and size:
            share = -(-self._room // self._count)
            lane.span = random_span(size, max(LEAST_RANGE, min(share, self._room - self._asked)), self._order)
            self._asked += lane.span[1] - lane.span[0]
        else:
            lane.span = None
        subject, mirror = target.subject, target.mirror
        lane.signed_by = source.generation
        lane.before = lane.exchange.writer.received
        lane.exchange.writer.refuse()
        try:
            request = request_for(source, lane.span, subject.if_range(mirror), subject.version(mirror))
        except FastxferError as error:
            self._stop_for(error)
            return
        lane.out = True
        self._tally.requests += 1
        target.tenancy.sent(lane.exchange.slot, source.host_url)
        self._engine.submit(lane.exchange, request, self)

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`."""
        lane = self._lanes[exchange.slot]
        if self._target.mirror.source.refuses(head.status):
            lane.refused = True
            exchange.writer.collect()
            return
        try:
            lane.verdict = self._target.subject.judge(lane.span, head, self._target.mirror)
        except FastxferError as error:
            lane.failure = error
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            lane.failure = FastxferError(f"internal error: {type(error).__name__}: {error}")
        wanted = Whole if lane.span is None else Partial
        if isinstance(lane.verdict, wanted):
            exchange.writer.drop()
            if not self._points:
                self._points.append((time.monotonic(), 0))
            self._target.tenancy.serves(exchange.slot)

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        lane = self._lanes[exchange.slot]
        came = exchange.writer.received - lane.before
        lane.out = False
        if lane.span is not None:
            self._asked -= lane.span[1] - lane.span[0] - came  # what did not come may be asked for again
        if self._ending:
            self._target.tenancy.ended(exchange.slot, came > 0, None)
            self._retire()
            return
        again, failure = False, None
        try:
            again = self._judged(lane, exchange, error, came)
        except FastxferError as found:
            failure = found
        self._target.tenancy.ended(exchange.slot, came > 0, failure)
        if failure is not None:
            self._failed(lane, failure)
        else:
            lane.failures = 0 if not again else lane.failures
            self._fill()
        self._mark(time.monotonic())

    def _judged(self, lane: _Lane, exchange: Exchange, error: FastxferError | None, came: int) -> bool:
        """Returns whether the same is to be asked again, as a redirect wants. Raises the failure."""
        if lane.refused and error is None:
            self._read_refusal(lane, exchange)
            return True
        if lane.failure is not None:
            raise lane.failure
        match lane.verdict:
            case Moved(location):
                address = exchange.head.address if exchange.head is not None else ""
                mirror = self._target.mirror
                mirror.source = mirror.source.redirected(location, address)
                return True
            case Changed(reason, _):
                self._target.changed = True
                raise RemoteChangedError(f"its object changed: {reason}")
            case Partial(start, stop, _) if (start, stop) == lane.span:
                pass
            case Whole() if lane.span is None:
                pass
            case None:
                raise error or BadResponseError("the server ended the connection without an answer")
            case _:
                raise RangeError("the server did not send the range that was asked for")
        if error is not None:
            raise error
        if lane.span is not None and came != lane.span[1] - lane.span[0]:
            raise RangeError(f"the answer brought {came} bytes, not {lane.span[1] - lane.span[0]}")
        return False

    def _read_refusal(self, lane: _Lane, exchange: Exchange) -> None:
        """Reads a store's refusal; raises it, unless the request may be signed anew."""
        from fastxfer.refusals import judge_refusal

        head, mirror = exchange.head, self._target.mirror
        assert head is not None
        version = self._target.subject.version(mirror)
        refused = judge_refusal(
            mirror.source, head, exchange.writer.body, signed_by=lane.signed_by, version=version
        )
        if refused.renew or not refused.again:
            raise refused.error

    def _failed(self, lane: _Lane, error: FastxferError) -> None:
        self._target.note(error)
        self._tally.errors += 1
        self._failures += 1
        lane.failures += 1
        if error.retry is not Retry.SAME_SOURCE or self._failures >= MAX_FAILURES:
            self._stop_for(error)
            return
        if isinstance(error, OverloadedError) and not self._points:
            self.error = error
        lane.rests = True
        self._engine.call_later(backoff_s(lane.failures, random.random()), lambda: self._rested(lane))

    def _rested(self, lane: _Lane) -> None:
        lane.rests = False
        if not self._ending:
            self._fill()

    # ---- its end ----

    def _look(self) -> None:
        """Notes what has come, and ends it in time."""
        if self._ending:
            return
        now = time.monotonic()
        self._mark(now)
        if self._points and self._is_over(now):
            if self._points[-1][1]:
                self._end()
            else:
                self._stop_for(TransferTimeoutError("an answer began and brought no byte"), counts=True)
        elif not self._points and self._target.tenancy.held:
            self._stop_for(self.error or OverloadedError("it asked to be left alone", status=429))
        elif not self._points and self._failures and now - self._begun >= self._seconds:
            self._end()  # it answers, though only with errors
        elif not self._points and now - self._begun >= self._limit_s():
            self._stop_for(TransferTimeoutError(f"no byte came for {self._limit_s():g} s"), counts=True)
        else:
            if not self._started:
                self._fill()
            self._engine.call_later(LOOK_S, self._look)

    def _is_over(self, now: float) -> bool:
        """Returns whether its time is over. Where nothing has come since the warm-up, what comes next is
        waited for, and its end.
        """
        late_s = now - self._points[0][0] - self._seconds
        if late_s < 0 or late_s >= MORE_S or self._failures:
            return late_s >= 0
        silent = still_silent(self._points, self._seconds, self._room)
        self._prolonged = self._prolonged or silent
        return not silent and (not self._prolonged or quiet_s(self._points) >= QUIET_S)

    def _mark(self, now: float) -> None:
        """Notes what has come; ends it when that is all that may come, for what is left is fewer lanes."""
        if self._ending:
            return
        came = sum(lane.exchange.writer.received for lane in self._lanes)
        if self._points:
            self._points.append((now, came))
        idle = any(not lane.out and not lane.rests for lane in self._lanes)
        spent = self._asked >= self._room and idle
        if came >= self._room or (spent and came > 0):
            self._end()

    def _stop_for(self, error: FastxferError, *, counts: bool = False) -> None:
        self.error = error
        if counts:
            self._failures += 1
            self._target.note(error)
            self._tally.errors += 1
        self._end()

    def _end(self) -> None:
        if self._ending:
            return
        self._ending = True
        self._target.on_room = _nothing
        for lane in self._lanes:
            if lane.out:
                self._engine.abort(lane.exchange)
        self._retire()

    def _retire(self) -> None:
        """Lets go of the handles once nothing is out."""
        if self.over.is_set() or any(lane.out for lane in self._lanes):
            return
        for lane in self._lanes:
            lane.exchange.close()
        self._target.tenancy.wants(0, self._target.mirror.source.host_url)
        self.over.set()


def _nothing() -> None:
    pass
