"""The lanes of a download: a lane is the driver's side of a scheduler's slot, its exchange and what was
asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.writer import Throttle
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import FastxferError, TooSlowError, TransferTimeoutError
from fastxfer.options import TransferOptions
from fastxfer.plan.grid import prefix_bytes
from fastxfer.plan.ranges import Span
from fastxfer.plan.rates import UNLIMITED
from fastxfer.plan.response import Verdict
from fastxfer.sources.opening import RemoteSource
from fastxfer.subject import Mirror
from fastxfer.values import dataclass

# Over so many stall time-outs an answer has to bring more than a trickle, that many bytes a second.
TRICKLE_STALLS = 4
TRICKLE_BYTES_A_S = 1024
DRAIN_BYTES = 65536


@dataclass(slots=True)
class Lane:
    """What is out on one slot."""

    exchange: Exchange
    mirror: Mirror
    source: RemoteSource  # what was asked
    start: int = 0
    stop: int | None = None  # None: the whole object, without a range
    out: bool = False  # a request is on its way
    parked: bool = False  # its request waits for a mirror that may be asked
    leaves: bool = False  # its request was ended to go to another mirror
    writing: bool = False  # its body goes into the sink
    held: bool = False  # its body is kept in libcurl until there is a sink
    verdict: Verdict | None = None
    failure: FastxferError | None = None
    refused: bool = False  # by a store, whose reason is in the body
    signed_by: int = 0  # the source's generation when the request was made
    version: str | None = None  # which version of the object was asked for
    doubt: FastxferError | None = None  # to end with if the object, asked for whole, is the known one
    suspects: bool = False  # the last answer said that the object changed; the next one decides
    counted: int = 0  # bytes received when its mirror's were last counted
    seen: int = 0  # bytes received when last looked at
    seen_at: float = 0.0
    mark: int = 0  # bytes received when its pace was last measured
    mark_at: float = 0.0
    cut: int | None = None  # where its run ends before its request does
    racing: bool = False  # its body is kept aside: the bytes are another lane's to write
    sent_at: float = 0.0
    waited_s: float | None = None  # how long its answer took to begin

    @property
    def asked(self) -> Span | None:
        """The range that is asked for."""
        return None if self.stop is None or self.doubt is not None else (self.start, self.stop)

    @property
    def reached(self) -> int | None:
        """Up to where its bytes are in place, or at hand of a racer; None while it brings none."""
        if self.writing:
            return self.exchange.writer.pos
        return self.start + self.exchange.writer.stashed if self.racing else None

    def shrink(self, stop: int) -> None:
        """Ends its run at `stop`; its request ends when the body comes there."""
        self.cut = stop
        if self.writing:
            self.exchange.writer.stop = stop

    def answered(self, now: float) -> None:
        """Its answer is good: its bytes come from now on."""
        if self.waited_s is None:
            self.waited_s = now - self.sent_at
        self.seen_at = self.mark_at = now
        self.mark = self.exchange.writer.received


def request_for(
    source: RemoteSource, asked: Span | None, if_range: str | None = None, version: str | None = None
) -> Request:
    """Returns the request for a half-open range of a source's object, or for the whole when `asked` is None;
    of one `version` of it where a store keeps several. Raises CredentialsError before there are any.
    """
    url, lines = source.asks(asked, if_range, version)
    return Request(
        url,
        tuple(lines),
        source.credentials,
        client_cert=source.client_cert,
        public_only=source.public_only,
        as_is=source.as_is,
    )


def drain(exchange: Exchange, head: Head) -> None:
    """Lets a short body that is of no use pass, which keeps the connection; refuses a long one."""
    length = head.headers.get("content-length") or ""
    if length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= DRAIN_BYTES:
        exchange.writer.collect()


class Lanes:
    """All lanes of a download. Of the engine's thread, but for `marks`, which takes a snapshot on any."""

    def __init__(self, options: TransferOptions) -> None:
        self._options = options
        self._lanes: dict[int, Lane] = {}
        self._received = 0
        self.throttle = Throttle(UNLIMITED)
        """What all lanes may take together."""

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def of(self, slot: int, mirror: Mirror) -> tuple[Lane, bool]:
        """Returns the lane of a slot, and whether it was made now, to ask `mirror`."""
        lane = self._lanes.get(slot)
        if lane is not None:
            return lane, False
        lane = self._lanes[slot] = Lane(Exchange(self._options), mirror, mirror.source)
        lane.exchange.writer.limit(self.throttle)
        lane.exchange.slot = slot
        return lane, True

    def find(self, exchange: Exchange) -> Lane | None:
        """Returns the lane of an exchange, or None when it was let go."""
        lane = self._lanes.get(exchange.slot)
        return lane if lane is not None and lane.exchange is exchange else None

    @property
    def out(self) -> int:
        """How many requests are on their way."""
        return sum(lane.out for lane in self._lanes.values())

    def reached(self) -> dict[int, int]:
        """Returns up to where the bytes of each slot's request are in place, where they come already."""
        return {slot: pos for slot, lane in self._lanes.items() if (pos := lane.reached) is not None}

    @property
    def parked(self) -> list[Lane]:
        """Those whose request waits for a mirror."""
        return [lane for lane in self if lane.parked]

    def taken(self) -> dict[int, int]:
        """Returns how many bytes came from each mirror since the last call, nearly: what came on a lane
        counts for the mirror that it asks now.
        """
        taken: dict[int, int] = {}
        for lane in self:
            received = lane.exchange.writer.received
            taken[lane.mirror.index] = taken.get(lane.mirror.index, 0) + received - lane.counted
            lane.counted = received
        return taken

    def running(self, mirrors: int) -> list[int]:
        """Returns how many requests are out to each of so many mirrors."""
        counts = [0] * mirrors
        for lane in self:
            counts[lane.mirror.index] += lane.out
        return counts

    @property
    def transferred(self) -> int:
        """Bytes of body taken since the beginning, on lanes that were let go too."""
        return self._received + sum(lane.exchange.writer.received for lane in self)

    def retire(self) -> None:
        """Lets go of all handles, and of their hold on the mapping; no request is on its way."""
        self._received = self.transferred
        for lane in self:
            lane.exchange.close()
        self._lanes.clear()

    def late(self, now: float) -> list[tuple[Lane, FastxferError]]:
        """Returns the lanes whose request is to be ended: no byte came for the stall time-out, or no more
        than a trickle for several. Takes a look at all.
        """
        late: list[tuple[Lane, FastxferError]] = []
        for lane in self:
            received = lane.exchange.writer.received
            kept_waiting = lane.held or lane.exchange.writer.waiting  # by us, not by the server
            if received != lane.seen or kept_waiting:
                lane.seen, lane.seen_at = received, now
            if kept_waiting:
                lane.mark, lane.mark_at = received, now
            limit_s = self._options.stall_timeout
            if lane.exchange.head is None:
                limit_s += self._options.connect_timeout
            if lane.out and now - lane.seen_at > limit_s:
                late.append((lane, TransferTimeoutError(f"no byte came for {limit_s:g} s")))
            elif lane.out and lane.writing and self._trickles(lane, received, now):
                late.append((lane, TooSlowError("an answer came at a trickle")))
        return late

    def _trickles(self, lane: Lane, received: int, now: float) -> bool:
        window_s = TRICKLE_STALLS * self._options.stall_timeout
        if now - lane.mark_at < window_s:
            return False
        slow = received - lane.mark < TRICKLE_BYTES_A_S * (now - lane.mark_at)
        lane.mark, lane.mark_at = received, now
        return slow

    def marks(self, partials: dict[int, int], ledger: ChunkLedger | None) -> tuple[Span, ...]:
        """Returns (offset, CRC) of the chunks that are partly there: `partials`, and what is being
        written.
        """
        if ledger is None:
            return ()
        marks = dict(partials)
        for lane in self:
            mark = lane.exchange.writer.mark()
            if mark is not None and mark[1]:
                marks[mark[0]] = mark[1]
        chunk = ledger.chunk_size
        return tuple(
            (at, crc) for at, crc in sorted(marks.items()) if at % chunk and at // chunk not in ledger
        )

    def prefix_bytes(self, partials: dict[int, int], ledger: ChunkLedger) -> int:
        """Returns how many bytes are in place in chunks that are only partly there."""
        reached = [*partials, *(lane.exchange.writer.pos for lane in self if lane.writing)]
        return prefix_bytes(
            (pos for pos in reached if pos < ledger.size and pos // ledger.chunk_size not in ledger),
            ledger.chunk_size,
        )
