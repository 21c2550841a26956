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

A *lane* is the driver's side of a slot: its exchange, and what was asked of it.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastxfer._native.checksum import crc64nvme_combine
from fastxfer.engine.loop import Timer, before_exit, shared_engine
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import (
    AuthError,
    ChecksumError,
    FastxferError,
    InterruptedTransferError,
    RangeError,
    RemoteChangedError,
    ServerError,
    StorageError,
    TargetExistsError,
    TransferTimeoutError,
    storage_error,
)
from fastxfer.options import TransferOptions
from fastxfer.plan import ranges
from fastxfer.plan import scheduler as plan
from fastxfer.plan.grid import chunk_size_for
from fastxfer.plan.rates import RateMeter
from fastxfer.plan.response import (
    Changed,
    Identity,
    Moved,
    NotRanged,
    Partial,
    Unsatisfiable,
    Verdict,
    Whole,
    judge,
)
from fastxfer.progress.snapshot import Progress, chunk_cells
from fastxfer.results import FetchResult
from fastxfer.sources.http import HttpSource
from fastxfer.storage.digest import Follower, digest_file
from fastxfer.storage.disk import DiskThread
from fastxfer.storage.part_file import Left, PartFile, Source
from fastxfer.storage.paths import Target, resolve_target
from fastxfer.storage.publish import http_time, is_unchanged, make_record
from fastxfer.units import format_size

TICK_S = 0.1
SAVE_TICK_S = 0.25
CLAIM_S = 0.5
SYNC_S = 5.0
# A claim of a large ledger is megabytes: it is written rarely enough to keep under this rate.
CLAIM_BYTES_A_S = 4e6
SMALL_BYTES = 1024**2
ENDLESS = 2**62
MAP_CELLS = 64
DRAIN_BYTES = 65536
# More chunks than this are not combined into a whole-object CRC unasked: each takes microseconds.
COMBINE_CHUNKS = 65536


@dataclass(slots=True)
class Lane:
    """What is out on one slot."""

    exchange: Exchange
    start: int = 0
    stop: int | None = None
    out: bool = False
    writing: bool = False
    held: bool = False
    verdict: Verdict | None = None
    failure: FastxferError | None = None
    seen: int = 0  # bytes received when last looked at
    seen_at: float = 0.0

    @property
    def asked(self) -> ranges.Span | None:
        return None if self.stop is None else (self.start, self.stop)


class Download:
    """One transfer of one object to one target. Raises OptionError and StorageError when it cannot even
    begin.

    `progress`, `result` and `error` may be read from any thread; `begin`, `pause`, `resume` and `cancel`
    called from any.
    """

    def __init__(self, url: str, out: str | os.PathLike[str] | None, options: TransferOptions) -> None:
        self.options = options
        self.original = HttpSource.of(url, options)
        self.source = self.original
        self.target: Target = resolve_target(self.original.url, out)
        self.over = threading.Event()
        self.result: FetchResult | None = None
        self.error: FastxferError | None = None
        self.progress = Progress(url=self.original.display)
        self._engine = shared_engine()
        self._disk: DiskThread | None = None
        self._part: PartFile | None = None
        self._left: Left | None = None
        self._candidate = False  # the target is there and may be the object already
        self._lanes: dict[int, Lane] = {}
        self._scheduler = self._new_scheduler()
        self._identity: Identity | None = None  # of the object that is being fetched
        self._mode = "preparing"  # then probing, opening, ranged or single, settling, over
        self._partials: dict[int, int] = {}
        self._pending: tuple[Exchange, FastxferError | None] | None = None
        self._ending: FastxferError | None = None
        self._restart: str | None = None
        self._discard = False
        self._paused = False
        self._follower: Follower | None = None
        self._front = 0
        self._meter = RateMeter()
        self._tick: Timer | None = None
        self._wake: Timer | None = None
        self._received = 0
        self._resumed = 0
        self._requests = 0
        self._restarts = 0
        self._retries = 0
        self._notes: list[str] = []
        self._began_at = time.monotonic()
        self._saved_at = self._synced_at = 0.0
        self._saved_chunks = 0
        self._stream_crc = self._stream_size = 0
        self._sources: dict[str, int] = {}

    # ---- any thread ----

    def begin(self) -> None:
        """Starts the transfer in the background."""
        _running.add(self)
        self._began_at = time.monotonic()
        self._disk = DiskThread("fastxfer-disk")
        self._on_disk(self._prepare, self._prepared)

    def pause(self) -> None:
        """Ends the requests and keeps everything; nothing is fetched until `resume`."""
        self._on_engine(self._pause)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._on_engine(self._resume)

    def cancel(self, keep: bool = True) -> None:
        """Ends the transfer; the part file and its checkpoint are kept to go on from, or removed."""
        self._on_engine(lambda: self._cancel(keep))

    # ---- handing over between the threads ----

    def _on_engine(self, call: Callable[[], object]) -> None:
        self._engine.call_soon(lambda: self._guarded(call))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except FastxferError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must end this transfer, not the engine of all
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

    def _prepare(self) -> FetchResult | None:
        """Disk. Returns a result when there is nothing to do."""
        final, options = self.target.final, self.options
        if final.exists():
            if options.exists == "error":
                raise TargetExistsError(f"{final} is there already; choose exists=update, skip or replace")
            if options.exists == "skip":
                return self._skipped(Identity(final.stat().st_size), {}, "none")
            if not os.access(final, os.W_OK):
                raise StorageError(
                    f"cannot write {final}: it is there and not writable; change its permissions"
                )
            if options.exists == "update":
                if options.checksum:
                    digests = digest_file(final, dict(options.checksum))
                    if digests == dict(options.checksum):
                        return self._skipped(Identity(final.stat().st_size), digests, "checksum")
                else:
                    self._candidate = True
        source = Source.of(self.original.url, self.original.display)
        self._part = part = PartFile.open(self.target, source)
        if options.resume:
            self._left = self._provable(part.read_left())
        if part.note:
            self._notes.append(part.note)
        return None

    def _provable(self, left: Left | None) -> Left | None:
        """Disk. Returns what was left if it can be held against the remote object at all."""
        if left is None:
            return None
        identity, options = left.checkpoint.identity, self.options
        etag = None if options.ignore_etag else identity.strong_etag
        same_url = left.checkpoint.url_sha256 == (self._part.source.url_sha256 if self._part else "")
        if options.checksum or etag or (same_url and identity.has_validator):
            return left
        reason = "it is of another URL" if not same_url else "the server gave nothing to know the object by"
        self._notes.append(f"progress was not used: {reason}; give a checksum to go on in such a case")
        self._restarts += 1
        return None

    def _skipped(self, identity: Identity, digests: dict[str, str], verified: str) -> FetchResult:
        return FetchResult(
            path=str(self.target.final),
            url=self.source.display,
            size=identity.size or 0,
            etag=identity.etag,
            last_modified=identity.last_modified,
            checksums=digests,
            verified=verified,
            skipped=True,
            elapsed=time.monotonic() - self._began_at,
            requests=self._requests,
            notes=tuple(self._notes),
        )

    def _prepared(self, skip: FetchResult | None) -> None:
        if self._ending is not None or skip is not None:
            self._settle(skip)
            return
        self._mode = "probing"
        left = self._left
        if left is not None:
            self._resumed = left.ledger.done_bytes + self._prefix_bytes(left)
            if left.ledger.complete:
                self._identity = left.checkpoint.identity
                self._mode = "opening"
                self._on_disk(lambda: self._open_storage(left.checkpoint.identity), self._already_complete)
                return
        self._tick = self._engine.call_later(TICK_S, lambda: self._guarded(self._on_tick))
        if self._paused:
            self._feed(plan.Pause())
        self._feed(self._begin_event())

    def _begin_event(self) -> plan.Event:
        if self._left is not None:
            return plan.Begin(_without_prefixes(self._left), self._left.ledger.chunk_size)
        return plan.Begin([(0, 1)] if self._candidate else None)

    @staticmethod
    def _prefix_bytes(left: Left) -> int:
        return sum(pos % left.ledger.chunk_size for pos in left.partials)

    def _already_complete(self, how: str | Exception) -> None:
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
        )

    def _feed(self, event: plan.Event) -> None:
        now = time.monotonic()
        for command in self._scheduler.handle(event, now):
            match command:
                case plan.Fetch(slot, start, stop):
                    self._fetch(slot, start, stop)
                case plan.Abort(slot):
                    self._engine.abort(self._lanes[slot].exchange)
                case plan.Complete():
                    self._settle()
                case plan.GiveUp(error):
                    self._fail(error)
        if self._wake is not None:
            self._wake.cancel()
        wake = self._scheduler.next_wake()
        if wake is not None and not self._ending:
            self._wake = self._engine.call_later(
                max(0.0, wake - now), lambda: self._guarded(lambda: self._feed(plan.Tick()))
            )

    def _fetch(self, slot: int, start: int, stop: int | None) -> None:
        lane = self._lanes.get(slot)
        if lane is None:
            lane = self._lanes[slot] = Lane(Exchange(self.options))
            lane.exchange.slot = slot
            if self._part is not None and self._mode in ("ranged", "single"):
                self._part.attach(lane.exchange.writer)
        lane.start, lane.stop = start, stop
        self._send(lane)

    def _send(self, lane: Lane) -> None:
        known = self._known()
        if_range = known.strong_etag if known is not None and not self.options.ignore_etag else None
        lane.out, lane.writing, lane.held = True, False, False
        lane.verdict, lane.failure = None, None
        lane.seen, lane.seen_at = lane.exchange.writer.received, time.monotonic()
        lane.exchange.writer.refuse()
        self._requests += 1
        source = self.source
        request = Request(source.url, source.header_lines(lane.asked, if_range), source.credentials)
        self._engine.submit(lane.exchange, request, self)

    def _known(self) -> Identity | None:
        if self._identity is not None:
            return self._identity
        return self._left.checkpoint.identity if self._left is not None else None

    # ---- answers ----

    def head(self, exchange: Exchange, head: Head) -> None:
        """See `Listener.head`: inside libcurl, so only the writer's mode is set and the rest handed on."""
        lane = self._lanes[exchange.slot]
        try:
            verdict = judge(
                lane.asked,
                self._known(),
                head.status,
                head.headers,
                ignore_etag=self.options.ignore_etag,
                now_epoch_s=time.time(),
            )
            lane.verdict = verdict
            if isinstance(verdict, Partial | Whole):
                self._take(lane, verdict)
            else:
                self._drain(lane, head)
        except FastxferError as error:
            lane.failure = error
            self._drain(lane, head)
        except Exception as error:  # noqa: BLE001 - an exception must not travel through libcurl
            lane.failure = FastxferError(f"internal error: {type(error).__name__}: {error}")

    def _take(self, lane: Lane, verdict: Partial | Whole) -> None:
        """Decides what becomes of the body of an accepted answer."""
        if self._mode == "probing":
            lane.held = True
            lane.exchange.writer.hold()
            self._mode = "opening"
            self._on_engine(lambda: self._open(lane, verdict))
        elif self._mode == "ranged" and isinstance(verdict, Partial):
            self._start_writing(lane, verdict.start, verdict.stop)
        elif self._mode == "single" and isinstance(verdict, Whole):
            if self._part is not None and self._part.ledger is not None:
                self._part.ledger.reset()
            size = self._identity.size if self._identity is not None else None
            self._start_writing(lane, 0, ENDLESS if size is None else size)
        else:
            raise RangeError(
                "the server answered a ranged request with the whole object, though ranges worked before"
            )

    def _start_writing(self, lane: Lane, start: int, stop: int) -> None:
        lane.exchange.writer.begin(start, stop, self._partials.get(start, 0))
        lane.writing, lane.held = True, False
        lane.seen_at = time.monotonic()

    def _drain(self, lane: Lane, head: Head) -> None:
        """Lets a short body that is of no use pass, which keeps the connection; refuses a long one."""
        length = head.headers.get("content-length") or ""
        if length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= DRAIN_BYTES:
            lane.exchange.writer.collect()

    def _open(self, lane: Lane, verdict: Partial | Whole) -> None:
        identity = verdict.identity
        if isinstance(verdict, Whole) and self._left is not None:
            self._notes.append("progress was not used: the server does not send ranges any more")
            self._restarts += 1
            self._left = None
        self._on_disk(lambda: self._open_storage(identity), lambda how: self._opened(lane, verdict, how))

    def _open_storage(self, identity: Identity) -> str | Exception:
        """Disk. Makes the part file ready; returns "ready", "unchanged" when the target is the object
        already, or why it cannot be.
        """
        try:
            return self._make_ready(identity)
        except Exception as error:  # noqa: BLE001 - handed to the engine's thread, which must leave its "opening" first
            return error

    def _make_ready(self, identity: Identity) -> str:
        """Disk."""
        if self._candidate and is_unchanged(
            self.target.final, identity, ignore_etag=self.options.ignore_etag
        ):
            return "unchanged"
        self._candidate = False
        part, options = self._part, self.options
        assert part is not None
        if self._left is not None:
            part.adopt(self._left, identity, sink=options.sink)
            self._partials = dict(self._left.partials)
        else:
            size = identity.size
            small = size is not None and size <= SMALL_BYTES
            part.allocate(
                identity, chunk_size_for(size or 0, options.chunk_size), sink=options.sink, small=small
            )
        self._saved_chunks = part.ledger.done if part.ledger is not None else 0
        follow = [name for name, _ in options.checksum if name != "crc64nvme"]
        if follow and self._follower is None:
            self._follower = Follower(part.fd, follow)
        return "ready"

    def _opened(self, lane: Lane, verdict: Partial | Whole, how: str | Exception) -> None:
        part = self._part
        assert part is not None
        if self._ending is not None or isinstance(how, Exception):
            self._mode = "ranged"
            if self._pending is not None:
                self._pending, lane.out = None, False
            lane.held = False
            failure = self._ending if self._ending is not None else how
            assert isinstance(failure, Exception)
            raise failure
        if how == "unchanged":
            self._engine.abort(lane.exchange)
            self._settle(self._skipped(verdict.identity, {}, "none"))
            return
        self._identity = verdict.identity
        self.source = replace(self.source, redirects=0)
        for each in self._lanes.values():
            part.attach(each.exchange.writer)
        if part.checkpointed and self._disk is not None:
            self._saved_at = self._synced_at = time.monotonic()
            self._disk.every(SAVE_TICK_S if self.options.durability != "chunk" else TICK_S / 2, self._save)
        if isinstance(verdict, Whole):
            self._mode = "single"
            self._partials = {}
            lane.stop = None
            event: plan.Event = plan.Single(verdict.identity.size)
        else:
            self._mode = "ranged"
            assert part.ledger is not None
            missing = _minus_prefixes(part.ledger.missing(), self._partials, part.ledger.chunk_size)
            event = plan.Opened(missing, part.ledger.chunk_size)
        if lane.held:
            size = verdict.identity.size
            if isinstance(verdict, Whole):
                self._start_writing(lane, 0, ENDLESS if size is None else size)
            else:
                self._start_writing(lane, verdict.start, verdict.stop)
        if self._paused:
            self._feed(plan.Pause())
        self._feed(event)
        if self._pending is not None:
            (exchange, error), self._pending = self._pending, None
            self.ended(exchange, error)
        else:
            self._engine.unpause(lane.exchange)

    # ---- ends ----

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """See `Listener.ended`."""
        self._guarded(lambda: self._ended(exchange, error))

    def _ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        lane = self._lanes.get(exchange.slot)
        if lane is None or lane.exchange is not exchange:
            return  # of a lane that was let go
        if self._mode == "opening" and lane.held:
            self._pending = (exchange, error)  # its answer is still being made room for
            return
        lane.out = lane.held = False
        pos = self._reached(lane)
        if self._mode in ("settling", "over"):
            return
        if self._ending is not None or self._restart is not None:
            self._maybe_go_on()
            return
        failure = lane.failure
        if failure is None and lane.verdict is not None and not isinstance(lane.verdict, Partial | Whole):
            failure = self._redo(lane, lane.verdict)
            if failure is None:
                return
        if failure is None and not (exchange.writer.overrun and pos >= exchange.writer.stop):
            failure = error
        if isinstance(failure, AuthError) and self.source.url != self.original.url:
            # The address that a redirect led to may have expired: ask the first one again.
            self.source = self.original
            failure = ServerError(failure.message, status=failure.status)
        self._feed(plan.Ended(lane.exchange.slot, pos, failure, random.random()))
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
        self._sources[self.source.display] = self._sources.get(self.source.display, 0) + max(
            0, before - lane.start
        )
        ledger = self._part.ledger if self._part is not None else None
        if ledger is None:
            self._stream_crc, self._stream_size = crc, pos
        elif self._mode == "ranged" and pos % ledger.chunk_size and pos < ledger.size:
            self._partials[pos] = crc
        return pos

    def _redo(self, lane: Lane, verdict: Verdict) -> FastxferError | None:
        """Acts on an answer that is not the object's bytes; returns the error if it is one."""
        match verdict:
            case Moved(location):
                self.source = self.source.redirected(location)
                self._send(lane)
            case NotRanged():
                lane.stop = None
                self._send(lane)
            case Unsatisfiable() if self._mode == "probing" and lane.start == 0 and lane.stop is not None:
                lane.stop = None  # an empty object has no range to give (RFC 9110 section 14.1.2)
                self._send(lane)
            case Unsatisfiable():
                return RangeError("the server says that a range inside the object does not exist (416)")
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
        self._restart = reason
        for lane in self._lanes.values():
            self._engine.abort(lane.exchange)
        self._maybe_go_on()

    def _maybe_go_on(self) -> None:
        """When no request is out any more: settles, starts again or rests, as was decided."""
        if any(lane.out for lane in self._lanes.values()) or self._mode == "opening":
            return
        if self._ending is not None:
            self._settle()
        elif self._restart is not None:
            self._notes.append(f"started again: {self._restart}")
            self._restart, self._left, self._identity = None, None, None
            self._restarts += 1
            self._retries += self._scheduler.retries
            self._resumed, self._front, self._partials = 0, 0, {}
            self._scheduler = self._new_scheduler()
            self._mode = "probing"
            self._retire_lanes()
            if self._follower is not None:
                self._follower.stop()
                self._follower = None
            if self._disk is not None:
                self._disk.every(0, None)
            if self._paused:
                self._feed(plan.Pause())
            self._feed(plan.Begin(None))
        elif self._paused:
            self._on_disk(lambda: self._save_all(paused=True))

    def _retire_lanes(self) -> None:
        """Lets go of all handles and of their hold on the mapping."""
        self._received = self._transferred()
        for lane in self._lanes.values():
            lane.exchange.writer.detach()
        self._lanes.clear()

    # ---- time ----

    def _on_tick(self) -> None:
        if self._mode in ("settling", "over"):
            return
        now = time.monotonic()
        for lane in self._lanes.values():
            received = lane.exchange.writer.received
            if received != lane.seen or lane.held:
                lane.seen, lane.seen_at = received, now
            limit = self.options.stall_timeout
            if lane.exchange.head is None:
                limit += self.options.connect_timeout
            if lane.out and now - lane.seen_at > limit:
                stalled = TransferTimeoutError(f"no byte came for {self.options.stall_timeout:g} s")
                self._engine.abort(lane.exchange, stalled)
        if self._follower is not None and self._mode in ("ranged", "single"):
            self._follower.advance(self._contiguous())
        self._meter.update(self._transferred(), now)
        self._publish_progress()
        self._tick = self._engine.call_later(TICK_S, lambda: self._guarded(self._on_tick))

    def _contiguous(self) -> int:
        ledger = self._part.ledger if self._part is not None else None
        if ledger is not None:
            self._front = ledger.front(self._front)
        return self._front

    def _transferred(self) -> int:
        return self._received + sum(lane.exchange.writer.received for lane in self._lanes.values())

    def _done_bytes(self) -> int:
        part = self._part
        ledger = part.ledger if part is not None else None
        if ledger is None:
            return self._transferred() if self._mode == "single" else self._resumed
        prefixes: dict[int, int] = {}  # of chunks that are partly there: how far each is
        for pos in [
            *self._partials,
            *(lane.exchange.writer.pos for lane in self._lanes.values() if lane.writing),
        ]:
            chunk = pos // ledger.chunk_size
            if chunk not in ledger and pos < ledger.size:
                prefixes[chunk] = max(prefixes.get(chunk, 0), pos % ledger.chunk_size)
        return min(ledger.size, ledger.done_bytes + sum(prefixes.values()))

    def _state(self) -> str:
        if self._paused:
            return "paused"
        resting = self._scheduler.active == 0 and self._scheduler.last_error is not None
        return "waiting" if resting else "running"

    def _publish_progress(self, state: str | None = None) -> None:
        ledger = self._part.ledger if self._part is not None else None
        known = self._known()
        size = known.size if known is not None else None
        done = self._done_bytes()
        rate = self._meter.rate
        error = self._scheduler.last_error
        self.progress = Progress(
            size=size,
            done=done,
            transferred=self._transferred(),
            resumed=self._resumed,
            rate=rate,
            eta=(size - done) / rate if size is not None and rate > 0 else None,
            connections=sum(lane.out for lane in self._lanes.values()),
            state=state or self._state(),
            chunks=chunk_cells(*ledger.cells(MAP_CELLS)) if ledger is not None else "",
            url=self.source.display,
            note=f"trying again: {error}" if error is not None and state is None else "",
        )

    # ---- the checkpoint while it runs ----

    def _marks(self) -> tuple[tuple[int, int], ...]:
        """Disk. Returns the checksums of partial chunks, those being written included."""
        marks = dict(self._partials)
        for lane in list(self._lanes.values()):
            mark = lane.exchange.writer.mark()
            if mark is not None and mark[1]:
                marks[mark[0]] = mark[1]
        ledger = self._part.ledger if self._part is not None else None
        if ledger is None:
            return ()
        chunk = ledger.chunk_size
        return tuple(
            (pos, crc) for pos, crc in sorted(marks.items()) if pos % chunk and pos // chunk not in ledger
        )

    def _save(self) -> None:
        """Disk, periodic. Claims and syncs as their intervals and the durability say."""
        part, ledger = self._part, self._part.ledger if self._part is not None else None
        if part is None:
            return
        try:
            now = time.monotonic()
            durability = self.options.durability
            if durability == "periodic":
                part.pace_writeback()
            done = ledger.done if ledger is not None else 0
            due = now - self._synced_at >= SYNC_S if durability == "periodic" else done != self._saved_chunks
            if durability != "none" and due:
                part.sync(self._marks())
                self._saved_chunks = done
                self._synced_at = self._saved_at = time.monotonic()
            elif now - self._saved_at >= max(CLAIM_S, part.claim_bytes / CLAIM_BYTES_A_S):
                part.claim(self._marks())
                self._saved_at = time.monotonic()
        except FastxferError as error:
            failure = error
            self._on_engine(lambda: _throw(failure))

    def _save_all(self, *, paused: bool = False) -> None:
        """Disk. Writes everything that is in place to the checkpoint."""
        if self._part is not None:
            save = self._part.claim if self.options.durability == "none" else self._part.sync
            save(self._marks(), paused=paused)

    # ---- pause, cancel, failure ----

    def _pause(self) -> None:
        if self._paused or self._mode in ("settling", "over"):
            return
        self._paused = True
        self._publish_progress()
        if self._mode not in ("preparing", "opening"):
            self._feed(plan.Pause())
            self._maybe_go_on()

    def _resume(self) -> None:
        if not self._paused or self._mode in ("settling", "over"):
            return
        self._paused = False
        self._meter = RateMeter()
        self._feed(plan.Resume())
        self._publish_progress()

    def _cancel(self, keep: bool) -> None:
        self._discard = not keep
        where = f"; {self.target.part} is kept" if keep else ""
        self._fail(InterruptedTransferError(f"the transfer was stopped{where}; run it again to go on"))

    def _fail(self, error: FastxferError) -> None:
        if self._mode in ("settling", "over"):
            if self._mode == "settling":
                self._settle_failed(error)
            return
        self._ending = error
        for lane in self._lanes.values():
            self._engine.abort(lane.exchange)
        self._maybe_go_on()

    # ---- the end ----

    def _settle(self, skip: FetchResult | None = None) -> None:
        if self._mode in ("settling", "over"):
            return
        self._publish_progress()
        self._retries += self._scheduler.retries
        self._mode = "settling"
        for timer in (self._tick, self._wake):
            if timer is not None:
                timer.cancel()
        if self._disk is not None:
            self._disk.every(0, None)
        failure = self._ending
        marks = self._marks()
        self._retire_lanes()
        self._partials = dict(marks)
        if skip is not None:
            self._on_disk(self._leave, lambda _: self._finished(skip, None))
        elif failure is not None:
            self._on_disk(lambda: self._keep(failure), lambda _: self._finished(None, failure))
        else:
            self._on_disk(self._complete, self._completed)

    def _settle_failed(self, error: FastxferError) -> None:
        """Something failed while settling: what is on disk stays as it is."""
        failure = self._ending or error
        if self._disk is not None:
            self._disk.submit(
                self._close_part, lambda *_: self._on_engine(lambda: self._finished(None, failure))
            )

    def _close_part(self) -> None:
        """Disk."""
        if self._part is not None:
            self._part.close()

    def _leave(self) -> None:
        """Disk. Nothing was to be done: an empty part file goes, one with progress stays."""
        if self._part is not None:
            self._part.discard_if_empty()
            self._part.close()

    def _keep(self, failure: FastxferError) -> None:
        """Disk. Ends a transfer that is not complete: writes the checkpoint and keeps both files, or
        discards them if asked.
        """
        part = self._part
        if self._follower is not None:
            self._follower.stop()
        if part is None:
            return
        if self._discard:
            part.discard()
            return
        if not isinstance(failure, StorageError):  # a disk that failed is not asked to promise again
            self._save_all(paused=self._paused)
        done, size = self.progress.done, self.progress.size
        if part.checkpointed and done:
            whole = f" of {format_size(size)}" if size is not None else ""
            failure.kept = f"{format_size(done)}{whole} in {self.target.part}"
        part.discard_if_empty()
        part.close()

    def _complete(self) -> FetchResult | str:
        """Disk. Checks the whole object and makes it the target; returns a reason to start again when what
        was resumed is wrong.
        """
        part, options = self._part, self.options
        assert part is not None
        identity = self._identity or Identity()
        size = part.ledger.size if part.ledger is not None else self._stream_size
        checksums = self._follower.finish(size) if self._follower is not None else {}
        self._follower = None
        whole_crc = self._whole_crc(part)
        if whole_crc is not None:
            checksums["crc64nvme"] = f"{whole_crc:016x}"
        elif "crc64nvme" in dict(options.checksum):
            checksums |= digest_file(self.target.part, ["crc64nvme"])
        for algorithm, expected in options.checksum:
            if checksums[algorithm] != expected:
                if self._resumed:
                    return f"the {algorithm} of the resumed file was wrong"
                self._save_all()
                raise ChecksumError(
                    f"the {algorithm} of {self.original.display} is {checksums[algorithm]}, not {expected}: "
                    "the server has other bytes, or they were changed on the way; "
                    "to fetch it again use resume=False (--resume false)",
                    algorithm=algorithm,
                    expected=expected,
                    actual=checksums[algorithm],
                    kept=str(self.target.part),
                )
        mtime = http_time(identity.last_modified)
        stored = mtime if mtime is not None else time.time()
        part.publish(
            size=size,
            mtime=stored,
            durable=options.durability != "none",
            replace=options.exists in ("update", "replace"),
            record=make_record(replace(identity, size=size), stored),
        )
        elapsed = time.monotonic() - self._began_at
        return FetchResult(
            path=str(self.target.final),
            url=self.source.display,
            size=size,
            etag=identity.etag,
            last_modified=identity.last_modified,
            checksums=checksums,
            verified="checksum" if options.checksum else "none",
            transferred=self._received,
            resumed=self._resumed,
            elapsed=elapsed,
            requests=self._requests,
            retries=self._retries,
            restarts=self._restarts,
            sources=dict(self._sources),
            notes=tuple(self._notes),
        )

    def _whole_crc(self, part: PartFile) -> int | None:
        """Disk. Returns the object's CRC-64/NVME from its chunks' (no second read), or None when there are
        very many chunks.
        """
        ledger = part.ledger
        if ledger is None:
            return self._stream_crc
        if ledger.count > COMBINE_CHUNKS:
            return None
        crc = 0
        for chunk in range(ledger.count):
            start, stop = ledger.bounds(chunk)
            crc = crc64nvme_combine(crc, ledger.crc(chunk), stop - start)
        return crc

    def _completed(self, outcome: FetchResult | str) -> None:
        if isinstance(outcome, FetchResult):
            self._finished(outcome, None)
            return
        self._mode = "ranged"
        self._tick = self._engine.call_later(TICK_S, lambda: self._guarded(self._on_tick))
        self._begin_again(outcome)

    def _finished(self, result: FetchResult | None, error: FastxferError | None) -> None:
        self._mode = "over"
        self.result, self.error = result, error
        if result is not None:
            state = "done"
            self.progress = replace(
                self.progress, size=result.size, done=result.size, eta=0.0, connections=0, state=state, note="",
                chunks="#" * len(self.progress.chunks),
            )  # fmt: skip
        else:
            state = "cancelled" if isinstance(error, InterruptedTransferError) else "failed"
            self.progress = replace(self.progress, eta=None, connections=0, state=state, note=str(error))
        if self._disk is not None:
            self._disk.stop()
        _running.discard(self)
        self.over.set()


def _throw(error: BaseException) -> None:
    raise error


def _minus_prefixes(
    missing: list[ranges.Span], partials: dict[int, int], chunk_size: int
) -> list[ranges.Span]:
    """Returns the missing ranges without the first parts of chunks that are in place."""
    for pos in partials:
        missing = ranges.subtract(missing, (pos - pos % chunk_size, pos))
    return missing


def _without_prefixes(left: Left) -> list[ranges.Span]:
    return _minus_prefixes(left.ledger.missing(), left.partials, left.ledger.chunk_size)


_running: weakref.WeakSet[Download] = weakref.WeakSet()
EXIT_WAIT_S = 10.0


def _stop_all() -> None:
    for download in list(_running):
        download.cancel()
    for download in list(_running):
        download.over.wait(EXIT_WAIT_S)


before_exit(_stop_all)
