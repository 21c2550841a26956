"""One download: where the plan, the engine, the storage and the source meet.

A `Download` lives on two threads. The engine's thread runs everything that decides (methods without a mark);
the transfer's disk thread runs what may block (methods marked *disk*); each hands over to the other by a
call. The way of a transfer:

    prepare (disk)  is the target there already? lock the part file, read and verify what was left
    begin           the scheduler starts probing: one ranged request
    head            its answer is judged; its body is held in libcurl while
    open (disk)     the part file is allocated, or what was left adopted; then body flows, slots start
    ended           a request is over: its bytes are in the ledger, the scheduler says what is next
    settle (disk)   complete: digests, sync, rename; failed or cancelled: everything is kept

Its lanes (lanes.py) are its side of the scheduler's slots; its safekeeping (safekeeping.py) is what runs on
the disk thread.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastxfer import racing
from fastxfer.description import Description
from fastxfer.engine.loop import Timer, before_exit, shared_engine
from fastxfer.engine.request import Exchange, Head
from fastxfer.errors import (
    AuthError,
    CredentialsError,
    FastxferError,
    InterruptedTransferError,
    PausedError,
    RangeError,
    RemoteChangedError,
    ServerError,
    StoreError,
    storage_error,
)
from fastxfer.governing import Tenancy
from fastxfer.lanes import Lane, Lanes, drain, request_for
from fastxfer.latch import Latch
from fastxfer.mirrors import WORTHWHILE_BYTES, Mirrors
from fastxfer.options import TransferOptions
from fastxfer.plan import scheduler as plan
from fastxfer.plan.ahead import LATE_S, connections_ahead
from fastxfer.plan.ranges import Span, length
from fastxfer.plan.rates import Load, RateMeter
from fastxfer.plan.response import (
    Changed,
    Identity,
    Moved,
    NotRanged,
    Partial,
    Unsatisfiable,
    Verdict,
    Whole,
)
from fastxfer.progress.snapshot import Progress, chunk_cells
from fastxfer.refreshing import Keys, Renewal
from fastxfer.results import FetchResult
from fastxfer.safekeeping import Found, Safekeeping, Wrong
from fastxfer.sources.http import HttpSource
from fastxfer.sources.opening import RemoteSource, open_source
from fastxfer.storage.disk import DiskThread
from fastxfer.storage.part_file import Partials, Source
from fastxfer.storage.paths import Target, resolve_target
from fastxfer.subject import Mirror, Subject
from fastxfer.vouching import Told, Vouching

if TYPE_CHECKING:
    from fastxfer.refusals import Refused
    from fastxfer.sources.store_access import StoreAccess

TICK_S = 0.1
SAVE_TICK_S = 0.25
ENDLESS = 2**62
MAP_CELLS = 64
MAX_RESTARTS = 5
TO_GO_ON = "to go on say so: --unpause, unpause=True, or resume() of its Transfer"


class Download:
    """One transfer of one object to one target. Raises OptionError and StorageError when it cannot even
    begin.

    `progress`, `result` and `error` may be read from any thread; `begin`, `pause`, `resume` and `cancel`
    called from any.
    """

    def __init__(
        self,
        url: str | RemoteSource,
        out: str | os.PathLike[str] | None,
        options: TransferOptions,
        description: Description | None = None,
    ) -> None:
        self.options = options
        self._subject = Subject(options, description.size if description is not None else None)
        first = open_source(url, options) if isinstance(url, str) else url
        pieces = description is not None and description.pieces is not None
        self._mirrors = Mirrors(first, options, self._subject, self, pieces)
        self.original = self._mirrors.lead.original
        self.target: Target = resolve_target(self.original.url, out, options.checkpoint_dir)
        self.over = Latch()
        self.halted = Latch()
        """It is over, or was found paused by an earlier run's user and waits for `resume`."""
        self.result: FetchResult | None = None
        self.error: FastxferError | None = None
        self.progress = Progress(url=self.original.display)
        self._engine = shared_engine()
        self._disk: DiskThread | None = None
        known = self._mirrors.hashes if self._mirrors.several else frozenset[str]()
        self._keeping = Safekeeping(self.target, self.original, options, known, description)
        self.address = ""
        """The IP address that gave the first accepted answer."""
        self._lanes = Lanes(options)
        self._tenancy = Tenancy(
            options,
            self._lanes.throttle,
            lambda: self.guarded(self._more_room),
            lambda: self.guarded(self._push),
        )
        self._scheduler = self._new_scheduler()
        self._load = Load()  # of the engine's thread
        self._mode = "preparing"  # then probing, opening, ranged or single, settling, over
        self._pending: tuple[Exchange, FastxferError | None] | None = None
        self._ending: FastxferError | None = None
        self._restart: str | None = None
        self._discard = False
        self._paused = False
        self._go_on = False  # `resume` was called, perhaps before it was known that it is paused
        self._found_paused = False
        self._may_halt = True
        self._lock = threading.Lock()
        self._renewal = Renewal(options.refresh, self.original.url)
        self._keys = Keys()
        self._vouching = Vouching(self._engine, options)
        self._vouched_for = not options.checksum and not pieces  # nothing better says what the bytes are
        self._locked_out: dict[int, CredentialsError] = {}  # mirrors without credentials, by their index
        self._front = 0
        self._meter = RateMeter()
        self._tick: Timer | None = None
        self._wake: Timer | None = None
        self._resumed = 0
        self._requests = 0
        self._retries = 0
        self._began_at = time.monotonic()
        self._sources: dict[str, int] = {}

    # ---- any thread ----

    def begin(self) -> None:
        """Starts the transfer in the background."""
        _running.add(self)
        self._began_at = time.monotonic()
        self._disk = DiskThread("fastxfer-disk")
        self._on_engine(lambda: self._tenancy.begin(self._engine, self._asked_url))
        self._on_disk(self._prepare, self._prepared)

    def pause(self) -> None:
        """Ends the requests and keeps everything; nothing is fetched until `resume`."""
        self._on_engine(self._pause)

    def resume(self) -> None:
        """Goes on after `pause`, of an earlier run too."""
        self._go_on = True
        self._keep_waiting()
        self._on_engine(self._resume)

    def cancel(self, keep: bool = True) -> None:
        """Ends the transfer; the part file and its checkpoint are kept to go on from, or removed."""
        self._keep_waiting()
        self._on_engine(lambda: self._cancel(keep))

    def _keep_waiting(self) -> None:
        """From now on only the end ends a wait."""
        with self._lock:
            self._may_halt = False
            if not self.over.is_set():
                self.halted.clear()

    # ---- handing over between the threads ----

    def _on_engine(self, call: Callable[[], object]) -> None:
        self._engine.call_soon(lambda: self.guarded(call))

    def guarded(self, call: Callable[[], object]) -> None:
        """Calls, and ends the transfer if that fails. Of the engine's thread."""
        try:
            call()
        except FastxferError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - it ends this transfer, not the engine of all
            wrapped = FastxferError(f"internal error: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._fail(wrapped)

    def _on_disk(self, job: Callable[[], Any], then: Callable[[Any], object] | None = None) -> None:
        def done(result: Any, error: BaseException | None) -> None:
            if error is not None:
                self._on_engine(lambda: _throw(error))
            elif then is not None:
                self._on_engine(lambda: then(result))

        assert self._disk is not None
        self._disk.submit(job, done)

    # ---- prepare ----

    def _prepare(self) -> Found | None:
        """Disk. Looks at the target and at what was left, and gets the credentials of object stores."""
        found = self._keeping.prepare()
        if found is None:
            for mirror in self._mirrors.all:
                try:
                    mirror.original.ready()
                except CredentialsError as error:
                    if not self._mirrors.several:
                        raise
                    self._locked_out[mirror.index] = error
        return found

    def _nothing_to_do(self, found: Found) -> FetchResult:
        return replace(self._result(found), skipped=True)

    def _result(self, found: Found) -> FetchResult:
        return FetchResult(
            path=str(self.target.final),
            url=self._mirrors.lead.source.display,
            size=found.identity.size or 0,
            etag=found.identity.etag,
            last_modified=found.identity.last_modified,
            checksums=found.checksums,
            verified=found.verified,
            transferred=self._lanes.transferred,
            resumed=self._resumed,
            elapsed=time.monotonic() - self._began_at,
            requests=self._requests + self._mirrors.requests + self._vouching.requests,
            retries=self._retries,
            restarts=self._keeping.restarts,
            sources=dict(self._sources),
            notes=(*self._keeping.notes, *self._mirrors.notes),
        )

    def _prepared(self, found: Found | None) -> None:
        if self._ending is not None or found is not None:
            self._settle(self._nothing_to_do(found) if found is not None else None)
            return
        for index, error in self._locked_out.items():
            self._mirrors.failed(self._mirrors.all[index], error, 0, moved=False)
        left = self._keeping.left
        if left is not None:
            self._subject.left = left.checkpoint.identity
            self._mirrors.left_is_of(left.checkpoint)
        self._resumed = self._keeping.left_bytes()
        if self._keeping.left_paused and not self._go_on:
            self._halt()
        else:
            self._set_out()

    def _halt(self) -> None:
        """An earlier run's user paused it: it stays so until `resume`, and the disk and the network alone."""
        self._paused = self._keeping.paused = self._found_paused = True
        self._tenancy.wants(0, self._asked_url)
        self._publish_progress()
        with self._lock:
            if self._may_halt:
                self.halted.set()

    def _set_out(self) -> None:
        """Begins where the last run stopped, or at the beginning."""
        self._mode = "probing"
        left = self._keeping.left
        if left is not None and left.ledger.complete and self.options.checksum:
            identity = self._subject.identity = left.checkpoint.identity
            self._mode = "opening"
            self._on_disk(lambda: self._open_storage(identity), self._already_complete)
            return
        self._start_clocks()
        self._feed_anew(self._begin_event())

    def _begin_event(self) -> plan.Event:
        left = self._keeping.left
        if left is not None:
            # With nothing missing a byte is asked for all the same: is the object still that one?
            return plan.Begin(self._keeping.missing() or [(0, 1)], left.ledger.chunk_size)
        return plan.Begin([(0, 1)] if self._keeping.candidate else None)

    def _already_complete(self, how: bool | Exception) -> None:
        self._mode = "ranged"
        if isinstance(how, Exception):
            raise how
        self._settle()

    # ---- requests ----

    def _new_scheduler(self) -> plan.Scheduler:
        options = self.options
        return plan.Scheduler(
            connections=options.connections,
            retries=options.retries,
            wait_for_network=options.wait_for_network,
            races=not any(options.rates),
            renews=not any(options.rates) and not self._mirrors.several,
        )

    def _feed(self, event: plan.Event) -> None:
        now = time.monotonic()
        self._load.update(self._engine.idle_s, now)
        self._scheduler.busy = self._load.full
        if not self._mirrors.several:  # where there are, each request looks for room on its own
            self._scheduler.bound(self._room())
        for command in self._scheduler.handle(event, now, self._lanes.reached()):
            match command:
                case plan.Fetch(slot, start, stop):
                    self._fetch(slot, start, stop)
                case plan.Race(slot, start, stop):
                    self._fetch(slot, start, stop, races=True)
                case plan.Shrink(slot, stop):
                    self._lanes.of(slot, self._mirrors.lead)[0].shrink(stop)
                case plan.Adopt(slot, pos):
                    self._adopt(self._lanes.of(slot, self._mirrors.lead)[0], pos)
                case plan.Abort(slot):
                    self._abort(self._lanes.of(slot, self._mirrors.lead)[0])
                case plan.Complete():
                    self._settle()
                case plan.GiveUp(error):
                    self._fail((self._mirrors.several and self._mirrors.exhausted()) or error)
        if not self._mirrors.several:
            self._tenancy.wants(self._scheduler.wanted(), self._asked_url)
        if self._wake is not None:
            self._wake.cancel()
        wake = self._scheduler.next_wake()
        if wake is not None and not self._ending:
            self._wake = self._engine.call_later(
                max(0.0, wake - now), lambda: self.guarded(lambda: self._feed(plan.Tick()))
            )

    def _feed_anew(self, event: plan.Event) -> None:
        """Feeds what has the scheduler hand out runs, so that a pause that came before holds."""
        if self._paused or self._keys.hold_up or self._renewal.expired(time.time()):
            self._feed(plan.Pause())
        self._feed(event)

    @property
    def _asked_url(self) -> str:
        """Where requests go if there is one mirror."""
        return self._mirrors.lead.source.host_url

    def _room(self) -> plan.Room:
        url = self._asked_url
        return plan.Room(self._tenancy.room(url), self._tenancy.room(url, hoped=True))

    def _more_room(self) -> None:
        """A host may be asked more."""
        if self._mode in ("preparing", "settling", "over") or self._resting:
            return
        self._send_parked()
        if not self._mirrors.several:
            self._feed(self._room())

    def _fetch(self, slot: int, start: int, stop: int | None, *, races: bool = False) -> None:
        lane, fresh = self._lanes.of(slot, self._mirrors.lead)
        if fresh and self._mode in ("ranged", "single"):
            self._keeping.attach(lane.exchange.writer)
        lane.start, lane.stop, lane.doubt, lane.suspects = start, stop, None, False
        lane.cut, lane.racing = None, races
        self._route(lane)

    def _abort(self, lane: Lane) -> None:
        """Ends a lane's request, or its wait for a mirror."""
        if lane.parked:
            lane.parked = False
            self._on_engine(lambda: self._feed(plan.Ended(lane.exchange.slot, lane.start)))
        self._engine.abort(lane.exchange)

    def _adopt(self, lane: Lane, pos: int) -> None:
        """A racer's bytes go into the sink from now on; if its request is over they are all of its run."""
        racing.adopt(lane, pos, self._keeping.partials.get(pos, 0), self.target.part)
        if not lane.out:
            self._on_engine(lambda: self._ended(lane.exchange, None))

    def _send(self, lane: Lane) -> None:
        lane.writing = lane.held = lane.leaves = lane.parked = False
        lane.verdict, lane.failure, lane.waited_s, lane.refused = None, None, None, False
        lane.seen, lane.seen_at = lane.exchange.writer.received, time.monotonic()
        lane.sent_at = lane.seen_at
        if lane.cut is not None and lane.stop is not None:
            lane.stop, lane.cut = lane.cut, None
        lane.exchange.writer.refuse()
        self._requests += 1
        lane.source = lane.mirror.source
        lane.signed_by, lane.version = lane.source.generation, self._subject.version(lane.mirror)
        self._tenancy.sent(lane.exchange.slot, lane.source.host_url)
        lane.exchange.ahead = self._connections_ahead(lane)
        if_range = self._subject.if_range(lane.mirror)
        request = request_for(lane.source, lane.asked, if_range, lane.version)
        self._engine.submit(lane.exchange, request, self)
        lane.out = True
        if lane.exchange.ahead:
            sent_at = lane.sent_at
            self._engine.call_later(LATE_S, lambda: self.guarded(lambda: self._look_if_late(lane, sent_at)))

    def _look_if_late(self, lane: Lane, sent_at: float) -> None:
        if lane.out and lane.sent_at == sent_at:
            lane.exchange.is_late(LATE_S)

    def _connections_ahead(self, lane: Lane) -> int:
        """Returns how many connections to make while a request is on its way: of the one whose answer all
        others wait for.
        """
        if self._mode != "probing" or self._mirrors.several or lane.stop is None:
            return 0
        missing = self._subject.size
        if self._keeping.left is not None:
            missing = length(self._keeping.missing())
        elif self._keeping.candidate:
            missing = 0  # most likely it is there already
        room = self._tenancy.room(lane.source.host_url, hoped=True)
        return connections_ahead(self.options.connections, room, missing)

    # ---- answers ----

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`: inside libcurl, so only the writer's mode is set and the rest handed on."""
        lane = self._lanes.of(exchange.slot, self._mirrors.lead)[0]
        if lane.source.refuses(head.status):
            lane.refused = True
            exchange.writer.collect()
            return
        try:
            lane.verdict = verdict = self._subject.judge(lane.asked, head, lane.mirror)
            if lane.racing:
                racing.take(lane, verdict)
                self._tenancy.serves(exchange.slot)
                lane.answered(time.monotonic())
            elif isinstance(verdict, Partial | Whole):
                self._take(lane, verdict)
            else:
                drain(exchange, head)
        except FastxferError as error:
            lane.failure = error
            drain(exchange, head)
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            lane.failure = FastxferError(f"internal error: {type(error).__name__}: {error}")

    def _take(self, lane: Lane, verdict: Partial | Whole) -> None:
        """Decides what becomes of the body of an accepted answer."""
        lane.source.accepted()
        self._tenancy.serves(lane.exchange.slot)
        if lane.doubt is not None:
            raise lane.doubt  # the object is still the known one
        if self._mode == "probing":
            lane.held = True
            lane.answered(time.monotonic())
            lane.exchange.writer.hold()
            self._mode = "opening"
            self._on_engine(lambda: self._open(lane, verdict))
        elif self._mode == "ranged" and isinstance(verdict, Partial):
            self._start_writing(lane, verdict)
        elif self._mode == "single" and isinstance(verdict, Whole):
            if self._keeping.ledger is not None:
                self._keeping.ledger.reset()
            if lane.mirror is not self._mirrors.lead:
                self._follow(lane.mirror, verdict.identity, ranged=False)
            self._start_writing(lane, verdict)
        else:
            raise RangeError(
                "the server answered a ranged request with the whole object, though ranges worked before"
            )

    def _start_writing(self, lane: Lane, verdict: Partial | Whole) -> None:
        if isinstance(verdict, Partial):
            start, stop = verdict.start, verdict.stop
        else:
            size = self._subject.size
            start, stop = 0, ENDLESS if size is None else size
        lane.exchange.writer.begin(start, stop, self._keeping.partials.get(start, 0))
        lane.writing, lane.held = True, False
        lane.answered(time.monotonic())
        if lane.cut is not None:
            lane.shrink(lane.cut)

    def _open(self, lane: Lane, verdict: Partial | Whole) -> None:
        identity = verdict.identity
        self._keeping.comes_from(Source.of(lane.mirror.original.url, lane.mirror.display))
        if self._vouched_for and lane.exchange.head is not None:
            self._vouching.heard(lane.source, lane.exchange.head, verdict)
        told = self._vouching.told
        if isinstance(verdict, Whole) and self._keeping.left is not None:
            self._keeping.drop_left("the server does not send ranges any more")
            self._subject.left = None
            self._resumed = 0
        self._on_disk(
            lambda: self._open_storage(identity, told), lambda how: self._opened(lane, verdict, how)
        )

    def _open_storage(self, identity: Identity, told: Told | None = None) -> bool | Exception:
        """Disk. Returns what `make_ready` does, or its error: the engine's side must leave "opening"
        first.
        """
        try:
            return self._keeping.make_ready(identity, told)
        except Exception as error:  # noqa: BLE001 - handed on
            return error

    def _opened(self, lane: Lane, verdict: Partial | Whole, how: bool | Exception) -> None:
        keeping = self._keeping
        self._engine.let_go(lane.exchange, soon=isinstance(verdict, Partial))
        if self._ending is not None or isinstance(how, Exception):
            self._mode = "ranged"
            if self._pending is not None:
                self._pending, lane.out = None, False
            lane.held = False
            failure = self._ending if self._ending is not None else how
            assert isinstance(failure, Exception)
            raise failure
        if not how:
            self._engine.abort(lane.exchange)
            self._settle(self._nothing_to_do(Found(verdict.identity)))
            return
        self._follow(lane.mirror, verdict.identity, ranged=isinstance(verdict, Partial))
        self.address = lane.exchange.head.address if lane.exchange.head is not None else ""
        if keeping.ledger is not None and keeping.ledger.complete:
            self._mode = "ranged"
            self._engine.abort(lane.exchange)
            self._settle()
            return
        for each in self._lanes:
            keeping.attach(each.exchange.writer)
        self._start_saving()
        if isinstance(verdict, Whole):
            self._mode = "single"
            lane.stop = None
            event: plan.Event = plan.Single(verdict.identity.size)
        else:
            self._mode = "ranged"
            assert keeping.ledger is not None
            shared = lane.exchange.multiplexed and lane.exchange.http_version in ("2", "3")
            event = plan.Opened(
                keeping.missing(), keeping.ledger.chunk_size, lane.waited_s, multiplexed=shared
            )
            if length(event.missing) >= WORTHWHILE_BYTES:
                self._mirrors.prove()
        if lane.held:
            self._start_writing(lane, verdict)
        self._feed_anew(event)
        if self._pending is not None:
            (exchange, error), self._pending = self._pending, None
            self.ended(exchange, error)
        else:
            self._engine.unpause(lane.exchange)

    # ---- ends ----

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        self.guarded(lambda: self._ended(exchange, error))

    def _ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        lane = self._lanes.find(exchange)
        if lane is None:
            return  # it was let go
        if self._mode == "opening" and lane.held:
            self._pending = (exchange, error)  # its answer is still being made room for
            return
        lane.out = lane.held = False
        cut_short = exchange.writer.overrun and exchange.writer.pos >= exchange.writer.stop
        moved = (lane.reached or lane.start) > lane.start
        again = self._learn(lane) if lane.refused and lane.failure is None and error is None else None
        self._tenancy.ended(exchange.slot, moved, lane.failure or (None if cut_short else error))
        if lane.racing and self._mode == "ranged" and self._ending is None and self._restart is None:
            # What a store refused is not sent again: the one that it races with is.
            pos, failure = racing.ended(lane, error)
            if failure is not None and self._mirrors.several:
                self._mirrors.failed(lane.mirror, failure, 0, moved=False)
            self._feed(plan.Ended(lane.exchange.slot, pos, failure, _jitter(), lane.waited_s))
            if self._paused:
                self._maybe_go_on()
            return
        pos = self._reached(lane)
        if self._mode in ("settling", "over"):
            return
        if self._ending is not None or self._restart is not None:
            self._maybe_go_on()
            return
        failure = lane.failure
        if lane.leaves and failure is None:
            error = None
            if pos == lane.start and not self._resting:
                self._route(lane)
                return
        if again is not None and again.again:
            self._send_again(lane, again)
            return
        if isinstance(failure, AuthError) and self._may_renew(lane, failure):
            self._renew(failure)
            self._feed(plan.Ended(lane.exchange.slot, pos))
            return
        if failure is None and lane.verdict is not None and not isinstance(lane.verdict, Partial | Whole):
            failure = self._redo(lane, lane.verdict)
            if failure is None:
                return
        if failure is None and not (exchange.writer.overrun and pos >= exchange.writer.stop):
            failure = error
        if isinstance(failure, AuthError) and lane.source.url != lane.mirror.original.url:
            # The address that a redirect led to may have expired: ask the first one again.
            lane.mirror.ask_at_first()
            failure = ServerError(failure.message, status=failure.status)
        if failure is not None and self._mirrors.several and self._goes_elsewhere(lane, pos, failure):
            return
        self._feed(plan.Ended(lane.exchange.slot, pos, failure, _jitter(), lane.waited_s))
        if self._paused:
            self._maybe_go_on()

    def _reached(self, lane: Lane) -> int:
        """Ends the lane's run and returns up to where its bytes are in place."""
        if not lane.writing:
            return lane.start
        lane.writing = False
        writer = lane.exchange.writer
        before = writer.pos
        try:
            pos, crc = writer.end()
        except OSError as error:
            raise storage_error(f"write {self.target.part}", error) from error
        url = lane.mirror.display if self._mirrors.several else lane.source.display
        self._sources[url] = self._sources.get(url, 0) + max(0, before - lane.start)
        self._mirrors.moved(lane.mirror, lane.start, before)
        ledger = self._keeping.ledger
        if ledger is None:
            self._keeping.stream = (pos, crc)
        elif self._mode == "ranged" and pos % ledger.chunk_size and pos < ledger.size:
            self._keeping.partials[pos] = crc
        return pos

    def _redo(self, lane: Lane, verdict: Verdict) -> FastxferError | None:
        """Acts on an answer that is not the object's bytes; returns the error if it is one."""
        match verdict:
            case Moved(location):
                answered = lane.exchange.head
                lane.mirror.source = lane.source.redirected(location, answered.address if answered else "")
                if lane.mirror.source.host_url != lane.source.host_url:
                    self._engine.let_go(lane.exchange)
                lane.parked = not self._tenancy.may_send(lane.mirror.source.host_url)
                if not lane.parked:
                    self._send(lane)
            case NotRanged():
                lane.stop = None
                self._send(lane)
            case Unsatisfiable() if self._mode == "probing" and lane.start == 0 and lane.stop is not None:
                lane.stop = None  # an empty object has no range to give (RFC 9110 section 14.1.2)
                self._send(lane)
            case Unsatisfiable(told):
                error = lane.doubt or RangeError(
                    "the server says that a range inside the object does not exist"
                )
                if told.size is not None or lane.doubt is not None:
                    return error
                lane.doubt = error  # the object may be a smaller one now
                self._send(lane)
            case Changed(reason, new) if self._subject.let_the_checksum_decide(new, lane.mirror):
                self._keeping.notes.append(f"the checksum decides: {reason}")
                self._keeping.doubt()
                self._send(lane)
            case Changed() if not lane.suspects:
                lane.suspects = True  # one answer alone does not cost the progress
                self._send(lane)
            case Changed(reason, _) if self._may_do_without(lane.mirror):
                return RemoteChangedError(f"it has another object: {reason}")
            case Changed(reason, _):
                self._changed(reason)
        return None

    def _changed(self, reason: str) -> None:
        if self.options.on_change == "fail":
            raise RemoteChangedError(
                f"the remote object changed: {reason}; to fetch it as it is now use on_change=restart"
            )
        self._begin_again(f"the remote object changed: {reason}")

    def _begin_again(self, reason: str) -> None:
        """Drops the progress, which is of another object, and starts anew once all requests ended."""
        if self._keeping.restarts >= MAX_RESTARTS:
            raise RemoteChangedError(
                f"the remote object does not stand still: after {MAX_RESTARTS} starts, {reason}"
            )
        self._restart = reason
        self._mirrors.stop()
        for lane in self._lanes:
            lane.parked = False
            self._engine.abort(lane.exchange)
        self._maybe_go_on()

    def _maybe_go_on(self) -> None:
        """When no request is out any more: settles, starts again or rests, as was decided."""
        if self._lanes.out or self._mode == "opening":
            return
        if self._ending is not None:
            self._settle()
        elif self._restart is not None:
            self._keeping.notes.append(f"started again: {self._restart}")
            self._restart = None
            self._subject.forget()
            self._mirrors.forget()
            self._retries += self._scheduler.retries
            self._resumed, self._front = 0, 0
            self._vouching.forget()
            self._keeping.start_over()
            self._scheduler = self._new_scheduler()
            self._mode = "probing"
            self._lanes.retire()
            if self._disk is not None:
                self._disk.every(0, None)
            self._feed_anew(plan.Begin(None))
        elif self._paused:
            self._on_disk(lambda: self._keeping.save(self._marks()))

    # ---- refusals of object stores ----

    def _learn(self, lane: Lane) -> Refused:
        """Reads a store's refusal. The lane has the error then, or the verdict that its version is gone."""
        from fastxfer.refusals import judge_refusal

        head = lane.exchange.head
        assert head is not None
        body, lane.refused = lane.exchange.writer.body, False
        refused = judge_refusal(lane.source, head, body, signed_by=lane.signed_by, version=lane.version)
        if refused.gone:
            lane.verdict = Changed(f"version {lane.version} of it is gone", Identity())
        else:
            lane.failure = refused.error
        return refused

    def _send_again(self, lane: Lane, refused: Refused) -> None:
        """Sends a request that a store refused once more, or has its run handed out again when it may be."""
        source = lane.source
        if refused.renew and not isinstance(source, HttpSource):
            self._feed(plan.Pause())
            self._renew_keys(source.access, refused.error)
        if self._resting or self._keys.hold_up:
            self._feed(plan.Ended(lane.exchange.slot, lane.start))
            if self._paused:
                self._maybe_go_on()
        else:
            self._send(lane)

    def _renew_keys(self, access: StoreAccess, refused: StoreError | None) -> None:
        self._keys.begin(
            access, refused, lambda error: self._on_engine(lambda: self._keys_came(access, error))
        )

    def _keys_came(self, access: StoreAccess, error: CredentialsError | None) -> None:
        failure = self._keys.came(access, error)
        if self._mode in ("settling", "over") or self._ending is not None:
            return
        if failure is not None:
            if not self._mirrors.several:
                raise failure
            for mirror in self._mirrors.all:
                if not isinstance(mirror.source, HttpSource) and mirror.source.access is access:
                    self._mirrors.failed(mirror, failure, 0, moved=False)
            self._end_if_hopeless()
        self._feed_resume()

    def _feed_resume(self) -> None:
        """Goes on where nothing holds everything up any more."""
        if not self._paused and not self._keys.hold_up and not self._renewal.asking:
            self._feed(plan.Resume())

    # ---- mirrors ----

    @property
    def _resting(self) -> bool:
        """True while no request is to be sent."""
        return self._paused or self._ending is not None or self._restart is not None

    def _route(self, lane: Lane) -> None:
        """Sends a lane's request to the mirror whose turn it is; where none may be asked it waits for one."""
        if self._mirrors.several:
            lane.parked = True
            self._send_parked()
        else:
            self._set_off(lane, self._mirrors.lead)

    def _send_parked(self) -> None:
        """Sends the requests that wait for a mirror, or for room at its host, those for the first bytes
        first.
        """
        if self._mode == "proving" or self._resting:
            return
        several, parked = self._mirrors.several, self._lanes.parked
        if several:
            self._tenancy.wants(self._lanes.out, self._asked_url)  # who finds no room asks for it anew
        for number, lane in enumerate(sorted(parked, key=lambda lane: lane.start)):
            waiting = len(parked) - number
            running = self._lanes.running(len(self._mirrors.all))
            mirror = self._mirrors.choose(running, lambda url: self._tenancy.may_send(url, waiting))  # noqa: B023
            if mirror is None:
                break
            if several:
                self._set_off(lane, mirror)
            else:
                self._send(lane)
        if several and self._lanes.parked:
            self._mirrors.prove()
            self._end_if_hopeless()

    def _set_off(self, lane: Lane, mirror: Mirror) -> None:
        """Sends a lane's request to a mirror, if need be once that was held against what is in place."""
        lane.mirror, lane.doubt, lane.suspects = mirror, None, False
        if self._mode in ("probing", "proving") and mirror.foreign and self.in_place():
            lane.parked = True
            self._mode = "proving"
            self._mirrors.hold_against(mirror, self.in_place(), lambda found: self._held(lane, found))
            return
        self._send(lane)
        if self._mode == "probing" and self._mirrors.several:
            number = self._requests
            unanswered = lambda: (  # noqa: E731
                lane.out and self._requests == number and lane.exchange.head is None
            )
            self._mirrors.hurry(mirror, unanswered, lambda other: self._leave(lane, other))

    def _held(self, lane: Lane, found: str | FastxferError | None) -> None:
        """A mirror was held against what an earlier run left."""
        if self._mode != "proving":
            return
        self._mode = "probing"
        if not lane.parked:
            return
        lane.parked = False
        mirror = lane.mirror
        if isinstance(found, str) and self._mirrors.dissents_with_left(mirror, found):
            self._route(lane)
        elif isinstance(found, str):
            self._changed(f"{mirror.display}: {found}")
        elif found is None or not self._mirrors.several:
            mirror.foreign = False  # of a single URL its answer says the rest
            self._send(lane)
        else:
            self._mirrors.failed(mirror, found, 0, moved=False)
            self._route(lane)

    def _leave(self, lane: Lane, other: Mirror) -> None:
        """Ends a request that has no answer yet, to send it to another mirror."""
        lane.leaves = True
        self._mirrors.prefer(other)
        self._engine.abort(lane.exchange)

    def _follow(self, mirror: Mirror, identity: Identity, *, ranged: bool) -> None:
        """Has a mirror, whose answer was accepted, say what the object is."""
        self._subject.identity = mirror.told = identity
        mirror.source = mirror.source.settled()
        self._mirrors.leads(mirror, ranged)

    def _may_do_without(self, mirror: Mirror) -> bool:
        """Returns whether a mirror whose object changed is left, rather than the object given up."""
        if self._subject.unanswered:
            return True  # it contradicts the document that it was named in
        return self._mirrors.several and (mirror is not self._mirrors.lead or mirror.index > 0)

    def _goes_elsewhere(self, lane: Lane, pos: int, failure: FastxferError) -> bool:
        """Goes on after a mirror's failure with the one whose turn it is; False for another failure."""
        out = 1 + self._lanes.running(len(self._mirrors.all))[lane.mirror.index]
        moved = pos > lane.start
        if not self._mirrors.failed(lane.mirror, failure, out, moved=moved):
            return False
        self._retries += 1
        if self._mode == "probing":
            lane.start, lane.stop = self._scheduler.run(lane.exchange.slot)  # the next one may send ranges
        if moved or self._resting:
            self._feed(plan.Ended(lane.exchange.slot, pos))
            self._end_if_hopeless()
        else:
            self._route(lane)
        if self._paused:
            self._maybe_go_on()
        return True

    def _end_if_hopeless(self) -> None:
        """Ends the transfer when no mirror is left to ask."""
        error = self._mirrors.exhausted()
        if error is not None and self._ending is None and not self._lanes.out:
            self._fail(error)

    def _look_at_mirrors(self) -> None:
        """Ten times a second: who is how fast, and who may be asked now."""
        running = self._lanes.running(len(self._mirrors.all))
        for mirror in self._mirrors.measure(self._lanes.taken(), running):
            for lane in self._lanes:
                if lane.out and lane.mirror is mirror:
                    self._leave_rest(lane)
        if self._mode == "ranged" and self._mirrors.unproven and self._lanes.parked:
            self._mirrors.prove()
        self._send_parked()

    def _leave_rest(self, lane: Lane) -> None:
        """Ends a request; what it did not bring goes to another mirror."""
        if not lane.held:
            lane.leaves = True
            self._engine.abort(lane.exchange)

    def mirrors_changed(self) -> None:
        """See `mirrors.Host`."""
        if self._mode not in ("ranged", "probing") or self._resting:
            return
        self._send_parked()
        for index, count in self._mirrors.to_move(self._lanes.running(len(self._mirrors.all))).items():
            leaving = [lane for lane in self._lanes if lane.out and lane.mirror.index == index]
            for lane in leaving[-count:]:
                self._leave_rest(lane)

    def begin_again_without(self, reason: str) -> None:
        """See `mirrors.Host`."""
        self._begin_again(reason)

    def in_place(self) -> list[Span]:
        """See `mirrors.Host`."""
        return self._keeping.in_place()

    def peek(self, spans: list[Span], then: Callable[[list[bytes]], object]) -> None:
        """See `mirrors.Host`."""
        self._on_disk(lambda: self._keeping.peek(spans), then)

    # ---- a URL that expired ----

    def _may_renew(self, lane: Lane, refused: AuthError) -> bool:
        """Returns whether a new URL of the caller's may help; what a redirect led to is not the caller's."""
        return lane.source.url == self.original.url and self._renewal.may_help(refused, self._done_bytes())

    def _renew(self, refused: AuthError) -> None:
        self._feed(plan.Pause())
        if not self._renewal.asking:
            self._renewal.begin(refused, lambda answer: self._on_engine(lambda: self._renewed(answer)))

    def _renew_in_time(self) -> None:
        """Asks for another URL when this one says that it expires, and for credentials that are about to;
        requests that are out go on meanwhile.
        """
        for mirror in self._mirrors.all:
            if not isinstance(mirror.source, HttpSource) and self._keys.due(mirror.source.access):
                self._renew_keys(mirror.source.access, None)
        if not self._renewal.due(time.time()):
            return
        expiring = AuthError("the URL says that it expires", status=403)
        self._renewal.begin(
            expiring, lambda answer: self._on_engine(lambda: self._renewed(answer, ahead=True))
        )

    def _renewed(self, answer: str | AuthError, *, ahead: bool = False) -> None:
        if self._mode in ("settling", "over") or self._ending is not None:
            return
        if not isinstance(answer, AuthError):
            first = self._mirrors.all[0]
            self.original = first.original = first.source = open_source(answer, self.options)
            self._renewal.came(self._done_bytes(), self.original.url, time.time())
        elif ahead:
            self._renewal.failed()
            self._keeping.notes.append(str(answer))
        else:
            raise answer
        self._feed_resume()

    # ---- time ----

    def _start_clocks(self) -> None:
        self._tick = self._engine.call_later(TICK_S, lambda: self.guarded(self._on_tick))
        self._tenancy.begin(self._engine, self._asked_url)
        self._renew_in_time()

    def _on_tick(self) -> None:
        if self._mode in ("settling", "over"):
            return
        now = time.monotonic()
        self._renew_in_time()
        for lane, error in self._lanes.late(now):
            self._engine.abort(lane.exchange, error)
        if self._mode in ("ranged", "single"):
            self._keeping.follow(self._contiguous())
        if self._mode == "ranged":
            self._feed(plan.Tick())
            if self._mode != "ranged":
                return
        if self._mirrors.several:
            self._look_at_mirrors()
        self._meter.update(self._lanes.transferred, now)
        self._publish_progress()
        self._tick = self._engine.call_later(TICK_S, lambda: self.guarded(self._on_tick))

    def _push(self) -> None:
        """Has the lanes go on that wait for what the rates allow."""
        for lane in self._lanes:
            if lane.exchange.writer.waiting:
                self._engine.unpause(lane.exchange)

    def _contiguous(self) -> int:
        ledger = self._keeping.ledger
        if ledger is not None:
            self._front = ledger.front(self._front)
        return self._front

    def _done_bytes(self) -> int:
        ledger = self._keeping.ledger
        if ledger is None:
            return self._lanes.transferred if self._mode == "single" else self._resumed
        begun = self._lanes.prefix_bytes(self._keeping.partials, ledger)
        return min(ledger.size, ledger.done_bytes + self._keeping.pending + begun)

    def _state(self) -> str:
        if self._paused:
            return "paused"
        held_up = self._renewal.asking or self._keys.hold_up or self._scheduler.last_error is not None
        held_up = held_up or self._tenancy.held
        resting = self._scheduler.active == 0 and held_up
        resting = resting or (bool(self._lanes.parked) and not self._lanes.out)
        return "waiting" if resting else "running"

    def _publish_progress(self) -> None:
        ledger = self._keeping.ledger
        size = self._subject.size
        done = self._done_bytes()
        rate = self._meter.rate
        self.progress = Progress(
            size=size,
            done=done,
            transferred=self._lanes.transferred,
            resumed=self._resumed,
            rate=rate,
            eta=(size - done) / rate if size is not None and rate > 0 else None,
            connections=self._lanes.out,
            state=self._state(),
            chunks=chunk_cells(*ledger.cells(MAP_CELLS)) if ledger is not None else "",
            url=self._mirrors.lead.source.display,
            note=self._note(),
        )

    def _note(self) -> str:
        if self._renewal.asking:
            return "asking for a new URL"
        if self._keys.hold_up:
            return "asking for new credentials"
        error = self._scheduler.last_error
        return f"trying again: {error}" if error is not None else ""

    # ---- the checkpoint while it runs ----

    def _start_saving(self) -> None:
        if self._keeping.checkpointed and self._disk is not None:
            self._disk.every(SAVE_TICK_S if self.options.durability != "chunk" else TICK_S / 2, self._save)

    def _marks(self) -> Partials:
        """Any thread. Returns the checksums of partial chunks, those being written included."""
        return self._lanes.marks(self._keeping.partials, self._keeping.ledger)

    def _save(self) -> None:
        """Disk, periodic."""
        try:
            self._keeping.save_if_due(self._marks())
        except Exception as error:  # noqa: BLE001 - whatever it is, the disk's thread is to go on
            failure = error
            self._on_engine(lambda: _throw(failure))

    # ---- pause, cancel, failure ----

    def _pause(self) -> None:
        if self._paused or self._mode in ("settling", "over"):
            return
        self._paused = self._keeping.paused = True
        self._publish_progress()
        if self._mode not in ("preparing", "opening"):
            self._feed(plan.Pause())
            self._maybe_go_on()

    def _resume(self) -> None:
        if not self._paused or self._mode in ("settling", "over"):
            return
        self._paused = False
        self._keeping.unpause()
        if self._found_paused:
            self._found_paused = False
            self._set_out()
            return
        self._meter = RateMeter()
        self._feed_resume()
        self._publish_progress()

    def _cancel(self, keep: bool) -> None:
        self._discard = not keep
        self._keeping.given_up.set()
        where = f"; {self.target.part} is kept" if keep else ""
        if keep and self._paused:
            self._fail(PausedError(f"the transfer was stopped while paused, and stays so; {TO_GO_ON}"))
        else:
            self._fail(InterruptedTransferError(f"the transfer was stopped{where}; run it again to go on"))

    def _fail(self, error: FastxferError) -> None:
        if self._mode in ("settling", "over"):
            if self._mode == "settling":
                self._settle_failed(error)
            return
        self._ending = error
        for lane in self._lanes:
            lane.parked = False
            self._engine.abort(lane.exchange)
        self._maybe_go_on()

    # ---- the end ----

    def _settle(self, skip: FetchResult | None = None) -> None:
        if self._mode in ("settling", "over"):
            return
        self._publish_progress()
        self._retries += self._scheduler.retries
        self._mode = "settling"
        if self._tenancy.fault is not None and skip is None:
            self._keeping.notes.append(f"not in step with other processes: {self._tenancy.fault}")
        self._tenancy.end()
        self._mirrors.stop()
        for timer in (self._tick, self._wake):
            if timer is not None:
                timer.cancel()
        if self._disk is not None:
            self._disk.every(0, None)
        failure = self._ending
        marks = self._marks()
        for lane in self._lanes:
            self._engine.let_go(lane.exchange)
        self._lanes.retire()
        if skip is not None:
            self._on_disk(self._keeping.leave, lambda _: self._finished(skip, None))
        elif failure is not None:
            self._on_disk(
                lambda: self._keeping.discard() if self._discard else self._keeping.keep(failure, marks),
                lambda _: self._finished(None, failure),
            )
        else:
            identity = self._subject.identity or Identity()
            resumed = self._resumed > 0 or self._subject.etags_differ
            mend = self._mirrors.can_mend(identity.size or 0)
            lead, vouching = self._mirrors.lead.display, self._vouching
            vouching.when_known(
                lambda: self._on_disk(
                    lambda: self._keeping.complete(
                        identity, resumed=resumed, url=lead, mend=mend, told=vouching.told
                    ),
                    self._completed,
                )
            )

    def _settle_failed(self, error: FastxferError) -> None:
        """Something failed while settling: what is on disk stays as it is."""
        failure = self._ending or error
        self._vouching.forget()
        if self._disk is not None:
            finish = lambda *_: self._on_engine(lambda: self._finished(None, failure))  # noqa: E731
            self._disk.submit(self._keeping.close, finish)

    def _completed(self, outcome: Found | Wrong) -> None:
        ledger = self._keeping.ledger
        if isinstance(outcome, Found):
            if ledger is not None:
                self._mirrors.convict(ledger)
            self._finished(self._result(outcome), None)
            return
        self._mode = "ranged"
        self._start_clocks()
        size = self._subject.size or 0
        doubtful = self._mirrors.doubt(size, outcome.spans) if self._mirrors.can_mend(size) else None
        if doubtful is None or ledger is None:
            self._subject.checksum_failed()
            self._begin_again(outcome.reason)
            return
        self._mode = "opening"
        self._on_disk(
            lambda: self._keeping.withdraw(doubtful), lambda before: self._fetch_again(before, doubtful)
        )

    def _fetch_again(self, before: dict[int, int], spans: list[Span]) -> None:
        """Fetches chunks that were in place anew, from those mirrors that are not in doubt."""
        ledger = self._keeping.ledger
        assert ledger is not None
        self._mode = "ranged"
        self._mirrors.fetched_again(before, ledger.size)
        self._mirrors.provenance.dropped(ledger.bounds(chunk) for chunk in before)
        self._front = 0
        if self._ending is not None:
            raise self._ending
        self._start_saving()
        self._scheduler = self._new_scheduler()
        self._feed_anew(plan.Begin(self._keeping.missing(), ledger.chunk_size))
        self._feed(plan.Opened(self._keeping.missing(), ledger.chunk_size))

    def _finished(self, result: FetchResult | None, error: FastxferError | None) -> None:
        self._mode = "over"
        self._vouching.forget()
        self.result, self.error = result, error
        if result is not None:
            state = "done"
            whole = "#" * len(self.progress.chunks)
            last = replace(self.progress, size=result.size, done=result.size, chunks=whole)
            self.progress = replace(last, eta=0.0, connections=0, state=state, note="")
        else:
            state = "cancelled" if isinstance(error, InterruptedTransferError) else "failed"
            self.progress = replace(self.progress, eta=None, connections=0, state=state, note=str(error))
        if self._disk is not None:
            self._disk.stop()
        _running.discard(self)
        with self._lock:
            self.over.set()
            self.halted.set()


def _jitter() -> float:
    """Returns a random number in [0, 1), for once: to import `random` takes longer than a small request."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


def _throw(error: BaseException) -> None:
    raise error


_running: weakref.WeakSet[Download] = weakref.WeakSet()
EXIT_WAIT_S = 10.0


def _stop_all() -> None:
    for download in list(_running):
        download.cancel()
    for download in list(_running):
        download.over.wait(EXIT_WAIT_S)


before_exit(_stop_all)
os.register_at_fork(after_in_child=_running.clear)  # they are the parent's
