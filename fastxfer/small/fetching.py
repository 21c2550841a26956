"""The network's side: bodies of small objects into memory, one plain GET each, over kept connections.

Of the engine's thread but for what is marked. It asks for room as each transfer does (governing.py), and its
lanes are watched for stalls as a download's are (lanes.py); what an answer means `plan.response.judge` says.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastxfer.engine.loop import Timer, shared_engine
from fastxfer.engine.request import ORDINARY, Exchange, Head, Request
from fastxfer.errors import (
    AuthError,
    BadResponseError,
    CredentialsError,
    FastxferError,
    OverloadedError,
    RemoteChangedError,
    Retry,
    ServerError,
    StoreError,
)
from fastxfer.governing import Tenancy
from fastxfer.lanes import Lane, Lanes, drain, request_for
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Changed, Identity, Moved, Whole, judge
from fastxfer.plan.retry import backoff_s
from fastxfer.refreshing import Keys
from fastxfer.refusals import Refused, judge_refusal
from fastxfer.small.items import Item, internal_error
from fastxfer.sources.http import HttpSource
from fastxfer.sources.told_checksums import told_checksums
from fastxfer.subject import Mirror

if TYPE_CHECKING:
    from fastxfer.sources.store_access import StoreAccess

LOOK_S = 0.25
HELD_BYTES = 32 << 20
HELD = 64
"""Bodies, and their bytes, that wait for the disk: with more of them nothing new is asked for. They are what
a kill has be fetched again.
"""

Origin = tuple[str, str, int]


class Large(Exception):
    """An answer tells of an object that is not small."""


class Fetching:
    """Calls `came(item)` for a whole object, whose body it then has, and `failed(item, error)`; `large(item)`
    for one with more than `limit` bytes. All three on the engine's thread; they hand on.
    """

    def __init__(
        self,
        options: TransferOptions,
        limit: int,
        *,
        came: Callable[[Item], object],
        failed: Callable[[Item, FastxferError], object],
        large: Callable[[Item], object],
    ) -> None:
        self.held_bytes = 0
        self.held = 0
        """Bytes, and bodies, that came and are not on the disk yet; `stored` takes them off."""
        self.requests = 0
        self._options = options
        self._limit = limit
        self._came, self._failed, self._large = came, failed, large
        self._engine = shared_engine()
        self._lanes = Lanes(options)
        self._tenancy = Tenancy(options, self._lanes.throttle, self._pump, self._push)
        self._waiting: dict[Origin, deque[Item]] = {}
        self._origins: set[Origin] = set()
        self._asked = ""  # a URL of one of them
        self._queued = 0
        self._plain: Request | None = None  # of all objects that are asked for plainly, but for their URLs
        self._keys = Keys()
        self._keyless: dict[StoreAccess, list[Item]] = {}  # what waits for credentials
        self._accesses: set[StoreAccess] = set()
        self._items: dict[int, Item] = {}  # what is out, by slots
        self._lane: dict[int, Lane] = {}
        self._free = list(range(options.connections - 1, -1, -1))
        self._wish = -1
        self._moved_at = time.monotonic()
        self._tick: Timer | None = None
        self._ended: Callable[[], object] | None = None

    # ---- any thread ----

    def add(self, items: list[Item]) -> None:
        """Has objects fetched."""
        self._engine.call_soon(lambda: self._add(items))

    def stored(self, bodies: int, count: int) -> None:
        """Says that so many bodies, of so many bytes together, need no memory any more."""
        self._engine.call_soon(lambda: self._stored(bodies, count))

    def stop(self, then: Callable[[], object]) -> None:
        """Ends all requests, then calls."""
        self._engine.call_soon(lambda: self._stop(then))

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """Engine's thread. Has it called in `delay_s` seconds."""
        self._engine.call_later(delay_s, call)

    def moving(self, now: float) -> list[tuple[str, float, int]]:
        """Any thread. Returns what is asked for: name, seconds since then, and 0 for bytes that are not in
        place yet.
        """
        asked = [(self._lane[slot], item) for slot, item in list(self._items.items()) if slot in self._lane]
        return [(item.wanted.name, now - lane.sent_at, 0) for lane, item in asked]

    # ---- what is asked for next ----

    def _add(self, items: list[Item]) -> None:
        if self._ended is not None:
            return  # it was on its way when all was stopped; who is a guest of a host again stays one
        if self._tick is None:
            self._tick = self._engine.call_later(LOOK_S, self._look)
        self._asked = items[0].host_url
        self._tenancy.begin(self._engine, self._asked)
        home = line = None
        for item in items:
            if line is None or item.home is not home:
                home, line = item.home, self._line_of(item)
            line.append(item)
        self._queued += len(items)
        self._pump()

    def _line_up(self, item: Item, *, first: bool = False) -> None:
        line = self._line_of(item)
        (line.appendleft if first else line.append)(item)
        self._queued += 1

    def _line_of(self, item: Item) -> deque[Item]:
        """Returns those that wait for an object's host."""
        self._origins.add(item.home)
        line = self._waiting.get(item.home)
        if line is None:
            line = self._waiting[item.home] = deque()
        return line

    def _stored(self, bodies: int, count: int) -> None:
        full = self._is_full
        self.held -= bodies
        self.held_bytes -= count
        if full:
            self._pump()

    @property
    def _is_full(self) -> bool:
        return self.held > HELD or self.held_bytes > HELD_BYTES

    def _pump(self) -> None:
        """Sends what there is room for, host by host."""
        if self._ended is not None:
            return
        if len(self._origins) > 1:
            self._tenancy.wants(len(self._items), self._asked)  # who finds no room asks for it anew
        if self._queued:
            self._send_queued()
        if len(self._origins) == 1:
            self._tell_wish()

    def _send_queued(self) -> None:
        for home in list(self._waiting):
            line = self._waiting[home]
            while line and self._free and not self._is_full:
                if line[0].of_store and self._waits_for_keys(line[0]):
                    self._queued -= 1
                    line.popleft()
                    continue
                if not self._tenancy.may_send(line[0].host_url, len(line)):
                    break
                self._queued -= 1
                self._send(self._free.pop(), line.popleft())
            if not line:
                del self._waiting[home]
            elif not self._free:
                self._waiting[home] = self._waiting.pop(home)  # the others come first next time
                break

    def _tell_wish(self) -> None:
        """Says how many requests the one host would be asked, if that changed."""
        wish = min(self._options.connections, len(self._items) + self._queued)
        if wish != self._wish:
            self._wish = wish
            self._tenancy.wants(wish, self._asked)

    def _send(self, slot: int, item: Item, *, goes_on: bool = False) -> None:
        """Has an object be asked for; where the slot `goes_on` the request is counted already."""
        try:
            if not goes_on:
                self._tenancy.sent(slot, item.host_url)
            self._ask(slot, item)
        except Exception as error:  # noqa: BLE001 - it ends this object, not the engine of all
            self._items.pop(slot, None)
            self._free.append(slot)
            self._tenancy.ended(slot, False, None)
            self._failed(item, error if isinstance(error, FastxferError) else internal_error(error))

    def _ask(self, slot: int, item: Item) -> None:
        lane = self._lane.get(slot)
        if lane is None:
            lane = self._lane[slot] = self._lanes.of(slot, Mirror(0, item.source, item.source))[0]
        exchange, wanted = lane.exchange, item.wanted
        lane.writing, lane.verdict, lane.failure, lane.refused = False, None, None, False
        lane.seen = exchange.writer.received
        lane.seen_at = lane.sent_at = time.monotonic()
        exchange.writer.refuse()
        # A store's answer has more to tell than an ordinary one's.
        exchange.lines.expect(
            -1 if item.of_store else self._limit, -1 if wanted.size is None else wanted.size
        )
        self._items[slot] = item
        self.requests += 1
        if not item.plain:
            lane.signed_by = item.source.generation
            self._engine.submit(exchange, request_for(item.source, None), self)
        else:
            if self._plain is None:
                self._plain = request_for(item.source, None)
            self._engine.submit(exchange, self._plain, self, wanted.url)
        lane.out = True

    # ---- answers ----

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`: inside libcurl."""
        lane, item = self._lane[exchange.slot], self._items[exchange.slot]
        if item.of_store and item.source.refuses(head.status):
            lane.refused = True
            exchange.writer.collect()
            return
        try:
            lane.verdict = judge(
                None,
                item.known,
                head.status,
                head.headers,
                coded=not item.plain and item.source.coded,
                now_epoch_s=time.time(),
            )
            if isinstance(lane.verdict, Whole):
                if item.of_store:
                    item.vouched = tuple(told_checksums(head.headers, whole=True).items())
                self._take(lane, item, lane.verdict)
            else:
                drain(exchange, head)
        except FastxferError as error:
            lane.failure = error
            drain(exchange, head)
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            lane.failure = internal_error(error)

    def _take(self, lane: Lane, item: Item, verdict: Whole) -> None:
        size = verdict.identity.size
        if size is not None and size > self._limit:
            return  # its body is refused
        lane.exchange.writer.stash(self._limit if size is None else size)
        self._begin(lane)

    def _begin(self, lane: Lane) -> None:
        """Its body comes."""
        self._tenancy.serves(lane.exchange.slot)
        lane.writing = True
        lane.answered(lane.seen_at)

    def _take_told(self, lane: Lane) -> None:
        """Takes note of an ordinary answer (`HeadLines.expect`), of which nothing was heard so far."""
        told = lane.exchange.lines.told
        if told is not None and not lane.writing:
            lane.exchange.head, lane.verdict = ORDINARY, Whole(Identity(*told))
            self._begin(lane)

    # ---- ends ----

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        item = self._items.get(exchange.slot)
        if item is None:
            return
        try:
            if error is None and self._came_as_usual(exchange, item):
                return
            self._end(exchange, item, error)
        except Exception as failure:  # noqa: BLE001 - it ends this object, not the engine of all
            self._items.pop(exchange.slot, None)
            self._failed(item, internal_error(failure))
        self._pump()

    def _came_as_usual(self, exchange: Exchange, item: Item) -> bool:
        """Takes what an ordinary answer brought, and has the next be asked for in its place; False where it
        did not, or something is to be looked at.
        """
        told, line = exchange.lines.told, self._waiting.get(item.home)
        if told is None or not line or len(self._origins) > 1 or not line[0].plain:
            return False
        size, slot = exchange.writer.stashed, exchange.slot
        if not size or size != told[0] or self.held > HELD or self.held_bytes > HELD_BYTES:
            return False
        if not self._tenancy.goes_on(slot):
            return False
        lane = self._lane[slot]
        sent_at = lane.sent_at
        item.body, item.told = exchange.writer.take(), told
        self._queued -= 1
        self._send(slot, line.popleft(), goes_on=True)
        self._moved_at = lane.sent_at
        item.seconds = lane.sent_at - sent_at
        self.held += 1
        self.held_bytes += size
        self._came(item)
        if len(self._items) + self._queued < self._options.connections:
            self._tell_wish()
        return True

    def _end(self, exchange: Exchange, item: Item, error: FastxferError | None) -> None:
        slot = exchange.slot
        lane = self._lane[slot]
        self._take_told(lane)
        del self._items[slot]
        body = exchange.writer.take() if lane.writing else bytearray()
        lane.out = lane.writing = False
        self._free.append(slot)
        failure: FastxferError | Large | Refused | None
        try:
            failure = self._judged(lane, item, body, error)
        except FastxferError as refused:
            failure = refused
        self._tenancy.ended(slot, bool(body), failure if isinstance(failure, FastxferError) else None)
        if self._ended is not None:
            self._maybe_over()
            return
        if isinstance(lane.verdict, Moved) and failure is None:
            self._line_up(item, first=True)
        elif isinstance(failure, Large):
            self._large(item)
        elif isinstance(failure, Refused):
            if not (failure.renew and self._waits_for_keys(item, failure.error)):
                self._line_up(item, first=True)
        elif failure is not None:
            self._again(lane, item, failure)
        else:
            self._moved_at = time.monotonic()
            item.seconds = self._moved_at - lane.sent_at
            self.held += 1
            self.held_bytes += len(body)
            item.body = body
            self._came(item)

    def _judged(
        self, lane: Lane, item: Item, body: bytearray, error: FastxferError | None
    ) -> FastxferError | Large | Refused | None:
        """Returns why the body is not the object, None if it is or the object moved."""
        if lane.failure is not None:
            return lane.failure
        if lane.refused and error is None:
            return self._learned(lane, item)
        match lane.verdict:
            case None:
                return error or BadResponseError("the server ended the connection without an answer")
            case Moved(location):
                answered = lane.exchange.head
                item.source = item.source.redirected(location, answered.address if answered else "")
                return None
            case Changed(reason, _):
                return RemoteChangedError(f"it has another object than was listed: {reason}")
            case Whole(identity):
                size = identity.size
            case _:
                return BadResponseError("the answer is not the object")
        if (size or 0) > self._limit or (size is None and lane.exchange.writer.overrun):
            return Large()
        if error is not None:
            return error
        if size is not None and len(body) != size:
            return BadResponseError(f"the answer brought {len(body)} bytes, not {size}")
        listed = item.wanted.size
        if listed is not None and len(body) != listed:
            return RemoteChangedError(f"it has another object than was listed: {len(body)} bytes")
        item.told = len(body), identity.etag, identity.last_modified
        if item.of_store and item.source.generation == lane.signed_by:
            item.source.accepted()
        return None

    def _again(self, lane: Lane, item: Item, failure: FastxferError) -> None:
        """Tries an object again, later or elsewhere, or gives it up."""
        if isinstance(failure, AuthError) and item.source.redirects:
            # The address that a redirect led to may have expired: ask the first one again.
            item.ask_at_first()
            failure = ServerError(failure.message, status=failure.status)
        item.failures += 1
        if failure.retry is Retry.SAME_SOURCE:
            waited = time.monotonic() - self._moved_at >= self._options.wait_for_network
            if item.failures <= self._options.retries or not waited:
                wait_s = backoff_s(item.failures, random.random())
                if isinstance(failure, OverloadedError):
                    wait_s = max(wait_s, failure.retry_after_s or 0.0)
                self._engine.call_later(wait_s, lambda: self._add([item]))
                return
        if item.ask_next():
            self._line_up(item)
            return
        self._failed(item, failure)

    def refused(self, item: Item, error: FastxferError) -> None:
        """Any thread. What came of an object is not it (its checksum is another): a mirror may have it."""

        def elsewhere() -> None:
            if self._ended is None and item.ask_next():
                self._add([item])
            else:
                self._failed(item, error)

        self._engine.call_soon(elsewhere)

    # ---- refusals of object stores ----

    def _learned(self, lane: Lane, item: Item) -> FastxferError | Refused:
        """Reads a store's refusal; returns it itself where it taught how to ask anew."""
        head = lane.exchange.head
        assert head is not None
        refused = judge_refusal(
            item.source, head, lane.exchange.writer.body, signed_by=lane.signed_by, version=None
        )
        return refused if refused.again else refused.error

    def _waits_for_keys(self, item: Item, refused: StoreError | None = None) -> bool:
        """Has an object wait where it cannot be asked for before there are other credentials; False where it
        can. `refused` is what the ones that there are have led to.
        """
        if isinstance(item.source, HttpSource):
            return False
        access = item.source.access
        self._accesses.add(access)
        if not access.must_refresh:
            return False
        self._keyless.setdefault(access, []).append(item)
        self._renew(access, refused)
        return True

    def _renew(self, access: StoreAccess, refused: StoreError | None) -> None:
        self._keys.begin(
            access, refused, lambda error: self._engine.call_soon(lambda: self._keys_came(access, error))
        )

    def _keys_came(self, access: StoreAccess, error: CredentialsError | None) -> None:
        failure = self._keys.came(access, error) or error
        items = self._keyless.pop(access, [])
        if self._ended is not None:
            return
        for item in items:
            if failure is None or item.ask_next():
                self._line_up(item)
            else:
                self._failed(item, failure)
        self._pump()

    # ---- clocks ----

    def _look(self) -> None:
        for access in self._accesses:
            if self._keys.due(access):
                self._renew(access, None)
        for lane in self._lanes:
            if lane.out:
                self._take_told(lane)
        for lane, error in self._lanes.late(time.monotonic()):
            self._engine.abort(lane.exchange, error)
        self._tick = self._engine.call_later(LOOK_S, self._look)

    def _push(self) -> None:
        """Has the lanes go on that wait for what the rates allow."""
        for lane in self._lanes:
            if lane.exchange.writer.waiting:
                self._engine.unpause(lane.exchange)

    def _stop(self, then: Callable[[], object]) -> None:
        self._ended = then
        self._waiting.clear()
        self._keyless.clear()
        self._queued = 0
        for slot in list(self._items):
            self._engine.abort(self._lane[slot].exchange)
        self._maybe_over()

    def _maybe_over(self) -> None:
        if self._items or self._ended is None:
            return
        if self._tick is not None:
            self._tick.cancel()
        self._tenancy.end()
        self._lanes.retire()
        self._lane.clear()
        self._ended()
