"""Which bytes are asked for next, on which slot, and when to give up: a pure state machine.

A *slot* is one request at a time. The scheduler knows the missing byte ranges (*gaps*), cuts *runs* from
their front and hands each to an idle slot. It starts *probing*: one slot, one request, until the driver says
what the first answer told (`Opened` or `Single`).

`handle(event, now, reached)` takes what happened, and how far the requests that are out have come, and
returns what to do, as data. Run length is guided self-scheduling: a share of what is left, so that requests
are few while there is much and small at the end, capped by what the slot's measured rate moves in
RUN_SECONDS, and no less than it moves in LEAST_RUN_S while there is as much.

No run outlasts the others for long (tail.py has the arithmetic, docs/scheduler.md the bounds):

- one that would go on long after all else is in place is *shrunk* in time, and its end is a gap again;
- a slot that finds no gap takes the end of the run that would take longest, if that pays;
- when there is nothing to take it *races* the piece that would take longest: what the second request brings
  is kept aside. Done first, or further when the raced run breaks, it is *adopted*: the run is the racer's
  from the byte that the other one reached. Behind it is aborted;
- a connection that is far slower than the others is given up for a new one, at the byte that it reached
  (renewal.py).

How many requests are out at all: growth.py, and no more than there is `Room` for beside other transfers.

A run ends where it was asked to end, or earlier. What it did not fetch goes back to the gaps from the very
byte it reached; the driver keeps the checksum of a chunk's first part under that offset, so a run may begin
inside a chunk only at such an offset. A probe may be shorter than a
chunk: its run *owes* the rest of the chunk, which no other slot can begin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field

from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    OverloadedError,
    Retry,
    TooSlowError,
)
from fastxfer.plan import ranges, renewal, tail
from fastxfer.plan.growth import Growth
from fastxfer.plan.moves import (
    Abort,
    Adopt,
    Begin,
    Command,
    Complete,
    Ended,
    Event,
    Fetch,
    GiveUp,
    Opened,
    Pause,
    Race,
    Resume,
    Room,
    Shrink,
    Single,
    Tick,
)
from fastxfer.plan.ranges import Span
from fastxfer.plan.rates import RateMeter
from fastxfer.plan.retry import backoff_s
from fastxfer.values import dataclass

PROBE_BYTES = 256 * 1024
FIRST_RUN_BYTES = 64 * 1024**2
MIN_RUN_BYTES = 256 * 1024
# Object stores keep large objects in the parts that they were sent in, of 8 MiB most often. A slot that has
# brought as much, and brings it in PART_S, gets no shorter run.
PART_BYTES = 8 * 1024**2
PART_S = 0.1
# Shorter ones cost more to ask for than they even out at the end; but none is more than a quarter of it.
LEAST_RUN_S = 0.01
LEAST_SHARE = 4
RUN_SECONDS = 8.0
# A run's rate follows what it does in about this time; before so much of it has passed, what is known of
# its slot counts.
RATE_S = 1.0
SEEN_S = 0.25
# A run shorter than both tells nothing of its slot's rate; no run is counted shorter than LEAST_S.
TELLING_BYTES = 64 * 1024
LEAST_S = 0.001
# A request that brought nothing is taken for stalled after twice the usual wait and this.
PATIENCE_S = 0.3
# A slot so much slower than the others gets the shortest runs.
FAR_SLOWER = 20
# An answer on a new connection takes at most so many times what one on a kept connection does.
HANDSHAKE = 4
# A run takes so many times the wait for its answer, if its share is that long.
WAITS_A_RUN = 8
# An answer that begins so soon is a neighbour's.
NEAR_S = 0.02
# An answer that begins so late is worth fewer, longer runs.
FAR_S = 0.1
# Bytes that races may fetch in vain: so many, or this share of the object, whichever is more.
WASTE_BYTES = tail.RACE_BYTES
WASTE_SHARE = 64
# While others move, a slot's failures weigh no more than so many: it rests 2 s at the longest.
FAILURES_AMONG_OTHERS = 4

__all__ = [
    "Abort",
    "Adopt",
    "Begin",
    "Command",
    "Complete",
    "Ended",
    "Event",
    "Fetch",
    "GiveUp",
    "Opened",
    "Pause",
    "Race",
    "Resume",
    "Room",
    "Scheduler",
    "Shrink",
    "Single",
    "Tick",
]


@dataclass(slots=True)
class _Run:
    start: int
    stop: int | None
    owed: int | None  # the run answers for the bytes up to here
    began: float
    aborted: bool = False  # its end was asked for and says nothing about the server
    shrunk: bool = False
    tells: bool = True  # what its slot can do; not what was a race before, or ended for a new connection
    pos: int = 0  # how far it was seen to have come; `start` or less before the first byte
    seen_at: float | None = None  # when it was first seen to bring bytes
    meter: RateMeter = field(default_factory=lambda: RateMeter(RATE_S))

    def __post_init__(self) -> None:
        self.pos = max(self.pos, self.start)


@dataclass(slots=True)
class _Race:
    of: int  # the slot whose run is raced
    start: int
    stop: int
    pos: int
    began: float
    done: bool = False  # all of it is at hand, its request is over
    lost: bool = False  # it is being aborted


@dataclass(slots=True)
class _Slot:
    rest_until: float = 0.0
    failures: int = 0  # in a row on this slot: how long it rests
    strikes: int = 0  # in a row while nothing moved anywhere: when the transfer gives up
    rate: float = 0.0
    since: float | None = None  # when bytes were first seen to come over its connection
    brought: int = 0  # over that connection since then, by the runs that ended
    renewals: int = 0
    renew_from: float = -math.inf


class Scheduler:
    """The plan of one transfer. Not thread-safe; `now` never goes backwards, in seconds from any origin.

    Without `races` no byte is asked for twice: where the rate is limited on our side a second request brings
    nothing sooner. Without `renews` no connection is given up for a new one: neither there, nor where slots
    go to different servers, of which one may be slow.
    """

    def __init__(
        self,
        *,
        connections: int,
        retries: int,
        wait_for_network: float = 0.0,
        races: bool = True,
        renews: bool = True,
    ) -> None:
        self._connections = connections
        self._retries = retries
        self._wait_s = wait_for_network
        self._slots = [_Slot() for _ in range(connections)]
        self._runs: dict[int, _Run] = {}
        self._races: dict[int, _Race] = {}
        self._gaps: list[Span] = []
        self._chunk = 1
        self._single_size: int | None = None
        self._single_best = 0  # how far the stream has come in any of its attempts
        self._mode = "new"
        self._paused = False
        self._over = False
        self._moved_at = 0.0
        self._growth = Growth(connections)
        self._now = -math.inf
        self._denied = False  # one more request would help, had it room
        self._moved = 0  # bytes of the runs that ended
        self._answer_s = 0.0  # how long an answer usually takes to begin
        self._nearest_s = math.inf  # and the least that it took
        self._multiplexed = False
        self._may_race = races
        self._may_renew = renews
        self._refused = False  # once at least: a new connection may be one too many
        self._waste_limit = WASTE_BYTES
        self._room = connections  # how many requests may be out beside those of other transfers
        self._share = connections  # how many may be in the end, as far as is known: runs are cut for so many
        self.busy = False
        """Whether who runs the requests has no time for more of them: the driver says so."""
        self.retries = 0
        """Requests that failed and were, or will be, asked for again."""
        self.last_error: FastxferError | None = None
        """The last failure that is being retried, or None once bytes moved again."""
        self.wasted = 0
        """Bytes that races have fetched in vain; never over max(WASTE_BYTES, 1/WASTE_SHARE of the object)."""

    # ---- what the driver asks ----

    @property
    def gaps(self) -> list[Span]:
        """The byte ranges that no run covers, in order."""
        return list(self._gaps)

    @property
    def active(self) -> int:
        """How many requests are out."""
        return len(self._runs) + sum(not race.done for race in self._races.values())

    @property
    def races(self) -> dict[int, int]:
        """The slots that race, and whose run each of them races."""
        return {slot: race.of for slot, race in self._races.items()}

    def run(self, slot: int) -> tuple[int, int | None]:
        """Returns (start, stop) of a slot's run."""
        run = self._runs[slot]
        return run.start, run.stop

    def bound(self, room: Room) -> None:
        """Takes a `Room` for what holds from now on; nothing follows before the next event."""
        self._room = max(0, room.requests)
        self._share = max(self._room, room.share)

    def wanted(self) -> int:
        """Returns how many requests would be out, now or in a moment, if there were room for any number."""
        if self._paused or self._over:
            return self.active
        if not self._gaps:
            return self.active + self._denied
        soon = self._growth.soon if self._mode == "ranged" else 1
        return max(self.active, min(soon, self.active + self._rested()))

    def next_wake(self) -> float | None:
        """Returns when a resting slot may go on, or more of them, or None when none rests that has work."""
        if self._paused or self._over or not self._gaps:
            return None
        if self._mode == "ranged" and self.active + self._rested() >= self._level():
            return self._growth.next_wake()
        rests = [slot.rest_until for _, slot in self._idle() if slot.rest_until > self._now]
        return min(rests, default=None)

    # ---- the machine ----

    def handle(self, event: Event, now: float, reached: Mapping[int, int] | None = None) -> list[Command]:
        """Takes an event at a time and returns what to do. After Complete or GiveUp it returns nothing
        more.

        `reached` says for slots whose answers bring bytes up to where these are in place (at hand, of a
        racer); without it no run is measured, shrunk or raced.
        """
        self._now = now
        if self._over:
            if isinstance(event, Ended):
                self._runs.pop(event.slot, None)
                self._races.pop(event.slot, None)
            return []
        self._look(reached or {}, now)
        commands: list[Command] = []
        match event:
            case Begin():
                self._mode = "probing"
                self._chunk = event.chunk_size
                self._gaps = [(0, PROBE_BYTES)] if event.missing is None else list(event.missing)
                self._moved_at = now
            case Opened():
                self._open(event, now)
            case Single():
                self._single(event)
            case Ended():
                commands = self._any_ended(event, now)
            case Pause():
                return self._pause()
            case Resume():
                self._paused = False
                self._moved_at = now
                for slot in self._slots:
                    slot.rest_until, slot.failures, slot.strikes = 0.0, 0, 0
            case Room():
                self.bound(event)
        if self._over:
            return commands
        if self._mode == "ranged" and not self._paused:
            self._grow(now)
            if reached is not None:
                commands += self._tend(now, trims=isinstance(event, Tick))
        return commands + self._dispatch(now, helps=reached is not None)

    def _look(self, reached: Mapping[int, int], now: float) -> None:
        """Takes down how far the requests have come."""
        for slot, pos in reached.items():
            run, race = self._runs.get(slot), self._races.get(slot)
            if run is not None and self._mode == "ranged" and pos > run.start:
                if run.seen_at is None:
                    run.seen_at = now
                    if self._slots[slot].since is None:
                        self._slots[slot].since, self._slots[slot].brought = now, run.start - pos
                run.pos = pos
                run.meter.update(pos, now)
            elif race is not None:
                race.pos = max(race.pos, pos)

    def _open(self, event: Opened, now: float) -> None:
        self._mode = "ranged"
        self._chunk = event.chunk_size
        self._multiplexed = event.multiplexed
        self._waited(event.waited_s)
        self._gaps = list(event.missing)
        self._growth.begin(now)
        end = max((stop for _, stop in event.missing), default=0)
        self._waste_limit = max(WASTE_BYTES, end // WASTE_SHARE) if self._may_race else 0
        for run in self._runs.values():
            run.stop = min(run.stop, end) if run.stop is not None else end
            run.owed = min(end, -(-run.stop // self._chunk) * self._chunk)
            self._gaps = ranges.subtract(self._gaps, (run.start, run.owed))

    def _single(self, event: Single) -> None:
        self._mode = "single"
        self._gaps = []
        self._single_size = event.size
        for run in self._runs.values():
            run.start, run.stop, run.owed = 0, event.size, event.size

    def _pause(self) -> list[Command]:
        self._paused = True
        for run in self._runs.values():
            run.aborted = True
        racers = [slot for slot, race in self._races.items() if not race.lost]
        lost = [command for slot in racers for command in self._lose(slot)]
        return [*(Abort(slot) for slot in self._runs), *lost]

    # ---- ends ----

    def _any_ended(self, event: Ended, now: float) -> list[Command]:
        self._waited(event.waited_s)
        if event.slot in self._races:
            return self._race_ended(event, now)
        run, slot = self._runs.pop(event.slot), self._slots[event.slot]
        slot.brought += event.pos - run.start
        if event.error is not None or run.aborted or run.shrunk:
            slot.since = None
        failing = self._ended(run, event, now)
        return failing if self._over else self._hand_over(run, event, now)

    def _waited(self, waited_s: float | None) -> None:
        if waited_s is not None:
            self._nearest_s = min(self._nearest_s, waited_s)
            mean_s = waited_s if self._answer_s == 0 else (self._answer_s + waited_s) / 2
            # To connect and shake hands takes a few round trips; more than that was a busy machine.
            self._answer_s = min(mean_s, HANDSHAKE * self._nearest_s)

    def _ended(self, run: _Run, event: Ended, now: float) -> list[Command]:
        slot = self._slots[event.slot]
        # A stream that can only begin again has moved when it came further than ever before: a server that
        # always cuts it at the same place is given up.
        moved = event.pos > (self._single_best if self._mode == "single" else run.start)
        if moved:
            self._single_best = event.pos
            self._moved += event.pos - run.start
            if not isinstance(event.error, TooSlowError):  # a trickle is no progress
                self._progressed(slot, now)
            took_s = max(now - run.began - (event.waited_s or 0.0), LEAST_S)
            if run.tells and (event.pos - run.start >= TELLING_BYTES or took_s >= SEEN_S):
                recent = self._watched_s(run, now) >= RATE_S
                rate = run.meter.rate if recent else (event.pos - run.start) / took_s
                slot.rate = rate if slot.rate == 0 else (slot.rate + rate) / 2
        if event.error is None and run.owed is None and not run.aborted:
            return []  # a stream of unknown length that ended as it should
        self._give_back(run, event)
        error = event.error
        if error is None and not moved and not run.aborted and event.pos < (run.owed or 0):
            # Asking again at once would go round as fast as the server answers.
            error = BadResponseError("the server's answer ended before a byte of use came")
        if error is None:
            return []
        return self._failed(slot, error, event.jitter, now)

    def _progressed(self, slot: _Slot, now: float) -> None:
        self._moved_at = now
        self.last_error = None
        for each in self._slots:
            each.strikes = 0
            each.failures = min(each.failures, FAILURES_AMONG_OTHERS)
        slot.failures = 0

    def _give_back(self, run: _Run, event: Ended) -> None:
        if self._mode == "single":
            if run.owed is None or event.pos < run.owed:
                self._gaps = [(0, run.owed or 1)]  # a stream can only begin again
        elif run.owed is not None and event.pos < run.owed:
            self._gaps = ranges.add(self._gaps, (event.pos, run.owed))

    def _failed(self, slot: _Slot, error: FastxferError, jitter: float, now: float) -> list[Command]:
        if error.retry is not Retry.SAME_SOURCE:
            return self._give_up(error)
        self._refused |= isinstance(error, OverloadedError)
        slot.strikes += 1
        if slot.strikes > self._retries and now - self._moved_at >= self._wait_s:
            return self._give_up(error)
        self.retries += 1
        self.last_error = error
        self._rest(slot, error, jitter, now)
        return []

    def _rest(self, slot: _Slot, error: FastxferError | None, jitter: float, now: float) -> None:
        slot.failures += 1
        wait_s = backoff_s(slot.failures, jitter)
        if isinstance(error, OverloadedError):
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        slot.rest_until = now + wait_s

    def _give_up(self, error: FastxferError) -> list[Command]:
        self._over = True
        racers = [slot for slot, race in self._races.items() if not race.done]
        return [*(Abort(slot) for slot in (*self._runs, *racers)), GiveUp(error)]

    # ---- races ----

    def _race_ended(self, event: Ended, now: float) -> list[Command]:
        race = self._races[event.slot]
        before, race.pos = race.pos, event.pos
        if not race.lost and event.error is None and event.pos >= race.stop:
            race.done = True
            self._runs[race.of].aborted = True
            return [Abort(race.of)]
        del self._races[event.slot]
        self.wasted += event.pos - (before if race.lost else race.start)
        if not race.lost:
            # Whether the object can be had at all is for the others to find out.
            self._rest(self._slots[event.slot], event.error, event.jitter, now)
        return []

    def _hand_over(self, run: _Run, event: Ended, now: float) -> list[Command]:
        """A run that was raced has ended: the racer takes it over if it has come further."""
        racers = [slot for slot, race in self._races.items() if race.of == event.slot and not race.lost]
        if not racers:
            return []
        slot = racers[0]
        race = self._races[slot]
        if self._paused or not race.start <= event.pos < race.stop or race.pos < event.pos:
            return self._lose(slot)
        del self._races[slot]
        self.wasted += event.pos - race.start
        self._gaps = ranges.subtract(self._gaps, (event.pos, race.stop))
        self._runs[slot] = _Run(event.pos, race.stop, race.stop, now, tells=False, pos=race.pos)
        return [Adopt(slot, event.pos)]

    def _lose(self, slot: int) -> list[Command]:
        race = self._races[slot]
        race.lost = True
        self.wasted += race.pos - race.start
        if not race.done:
            return [Abort(slot)]
        del self._races[slot]
        return []

    # ---- while runs go on ----

    def _tend(self, now: float, *, trims: bool) -> list[Command]:
        """Returns what runs and races need that have come to their ends unnoticed, or would come too late."""
        commands: list[Command] = []
        for slot, run in self._runs.items():
            if run.shrunk and not run.aborted and run.stop is not None and run.pos >= run.stop:
                # libcurl would notice with the next byte, which may be long in coming.
                run.aborted = True
                commands.append(Abort(slot))
        for slot, race in list(self._races.items()):
            if not race.lost and not race.done and self._runs[race.of].pos >= race.stop:
                commands += self._lose(slot)
        return [*commands, *self._renewals(now), *self._trims(now)] if trims else commands

    def _grow(self, now: float) -> None:
        self._growth.step(
            now,
            self._moved + sum(run.pos - run.start for run in self._runs.values()),
            full=bool(self._gaps) and self._room >= self._growth.level,
            flowing=all(run.seen_at or self._slots[slot].rate for slot, run in self._runs.items()),
            busy=self.busy,
            near=self._nearest_s < NEAR_S,
        )

    def _renewals(self, now: float) -> list[Command]:
        """Ends the requests of connections that are worth new ones; what they did not fetch goes on there."""
        if self._multiplexed or not self._may_renew or self._refused:
            return []
        judged_s = max(renewal.JUDGED_S, renewal.WAITS * self._answer_s)
        pieces = self._pieces(now)
        means = {}
        for piece in pieces:
            slot, run = self._slots[piece.slot], self._runs[piece.slot]
            if run.seen_at is not None and slot.since is not None and now - slot.since >= judged_s:
                means[piece.slot] = (slot.brought + run.pos - run.start) / (now - slot.since)
        left, raced = self._left(pieces), self._raced()
        commands: list[Command] = []
        for index in renewal.slow_ones(means, left, self._answer_s):
            slot, run = self._slots[index], self._runs[index]
            if index in raced or slot.renewals >= renewal.MOST or now < slot.renew_from:
                continue
            slot.renewals += 1
            slot.renew_from = now + renewal.AGAIN_S
            slot.rate = 0.0
            run.aborted, run.tells = True, False
            commands.append(Abort(index))
        return commands

    def _trims(self, now: float) -> list[Command]:
        """Takes the ends of runs that would go on long after all else is in place."""
        pieces = self._pieces(now)
        total = sum(piece.rate for piece in pieces)
        seen = sum(self._watched_s(run, now) >= SEEN_S for run in self._runs.values())
        if not self._gaps or not total or 2 * seen < len(self._runs):
            return []
        left, raced = self._left(pieces), self._raced()
        commands: list[Command] = []
        for piece in pieces:
            run = self._runs[piece.slot]
            if (
                run.owed != run.stop
                or piece.slot in raced
                or (piece.rate and self._watched_s(run, now) < RATE_S)
            ):
                continue
            at = tail.trim(piece, left / total, self._cost_s(), self._chunk, MIN_RUN_BYTES)
            if at is not None:
                self._gaps = ranges.add(self._gaps, (at, piece.stop))
                commands.append(self._shrink(piece.slot, at))
        return commands

    def _shrink(self, slot: int, stop: int) -> Shrink:
        run = self._runs[slot]
        run.stop = run.owed = stop
        run.shrunk = True
        return Shrink(slot, stop)

    def _cost_s(self) -> float:
        """Returns what cutting a request short costs: on HTTP/1.1 its connection."""
        return 0.0 if self._multiplexed else self._answer_s

    def _watched_s(self, run: _Run, now: float) -> float:
        return now - run.seen_at if run.seen_at is not None else 0.0

    def _usual_rate(self) -> float:
        """Returns the mean rate of the slots that have one, or 0.0."""
        known = [slot.rate for slot in self._slots if slot.rate]
        return sum(known) / len(known) if known else 0.0

    def _pieces(self, now: float) -> list[tail.Piece]:
        """Returns what is left of the runs whose ends may be taken, the slowest first; not of those that
        begin at this very moment.
        """
        usual = self._usual_rate()
        found = []
        for slot, run in self._runs.items():
            if run.aborted or run.stop is None or run.pos >= run.stop or run.began >= now:
                continue
            if self._watched_s(run, now) >= SEEN_S:
                rate = run.meter.rate
            elif run.seen_at is None and now - run.began > 2 * self._answer_s + PATIENCE_S:
                rate = 0.0
            else:
                rate = self._slots[slot].rate or usual
            found.append(tail.Piece(slot, run.pos, run.stop, rate))
        return sorted(found, key=lambda piece: -piece.seconds)

    def _left(self, pieces: list[tail.Piece]) -> int:
        """Returns how many bytes are still to come: of the gaps, and of these pieces."""
        return ranges.length(self._gaps) + sum(piece.stop - piece.pos for piece in pieces)

    def _raced(self) -> set[int]:
        """Returns the slots whose runs are raced."""
        return {race.of for race in self._races.values()}

    def _help(self, index: int, pieces: list[tail.Piece], now: float) -> tuple[int, _Run | _Race] | None:
        """Returns what a slot that finds no gap is best given, the end of another's run or a race, and whose
        run that is.
        """
        rate = self._slots[index].rate or self._usual_rate()
        raced = self._raced()
        for piece in pieces:
            if piece.seconds <= tail.LEAST_GAIN_S:
                break
            run = self._runs[piece.slot]
            if piece.slot in raced or run.owed != run.stop:
                continue
            at = tail.share(piece, rate, self._answer_s, self._cost_s(), self._chunk, MIN_RUN_BYTES)
            if at is not None:
                return piece.slot, _Run(at, piece.stop, piece.stop, now)
        return self._worth_a_race(rate, pieces, now)

    def _worth_a_race(self, rate: float, pieces: list[tail.Piece], now: float) -> tuple[int, _Race] | None:
        raced = self._raced()
        stake = sum(race.stop - race.start for race in self._races.values())
        for piece in pieces:
            stop = piece.stop
            if stop - piece.pos > tail.RACE_BYTES:
                # Up to the end of a chunk, if the piece has one so near.
                end = piece.pos + tail.RACE_BYTES
                boundary = end // self._chunk * self._chunk
                stop = boundary if boundary > piece.pos else end
            affordable = self.wasted + stake + stop - piece.pos <= self._waste_limit
            if piece.slot not in raced and affordable and tail.races(piece, rate, self._answer_s):
                return piece.slot, _Race(piece.slot, piece.pos, stop, piece.pos, now)
        return None

    # ---- new runs ----

    def _dispatch(self, now: float, *, helps: bool) -> list[Command]:
        """Gives the idle slots runs from the gaps and, if it `helps`, parts of what others do."""
        self._denied = False
        if self._mode == "new" or self._paused:
            return []
        if not self._gaps and not self._runs and self._mode != "probing":
            self._over = True
            return [Complete()]
        idle = [index for index, slot in self._idle() if slot.rest_until <= now]
        commands: list[Command] = []
        while idle and self._gaps and self.active < self._most():
            index = idle.pop(0)
            start, stop = self._cut(self._slots[index], now)
            owed = stop if self._mode != "single" else self._single_size
            self._runs[index] = _Run(start, stop, owed, now)
            commands.append(Fetch(index, start, stop))
        return commands + self._helping(idle, now) if helps and not self._gaps else commands

    def _helping(self, idle: list[int], now: float) -> list[Command]:
        commands: list[Command] = []
        pieces = self._pieces(now) if idle and self._mode == "ranged" else []
        for index in sorted(idle, key=lambda index: -self._slots[index].rate):
            if not pieces or self.active >= self._level():
                break
            found = self._help(index, pieces, now)
            if found is None:
                continue
            if self.active >= self._room:
                self._denied = True
                break
            commands += self._take_part(index, *found)
            pieces = self._pieces(now)
        return commands

    def _take_part(self, index: int, of: int, part: _Run | _Race) -> list[Command]:
        """Gives a slot a part of what another one does."""
        assert part.stop is not None
        if isinstance(part, _Race):
            self._races[index] = part
            return [Race(index, part.start, part.stop)]
        self._runs[index] = part
        return [self._shrink(of, part.start), Fetch(index, part.start, part.stop)]

    def _level(self) -> int:
        """Returns how many requests may be out now, if there were room for any number."""
        return self._growth.level if self._mode == "ranged" else 1

    def _most(self) -> int:
        """Returns how many requests may be out now."""
        return min(self._level(), self._room)

    def _rested(self) -> int:
        """Returns how many idle slots do not rest."""
        return sum(slot.rest_until <= self._now for _, slot in self._idle())

    def _idle(self) -> list[tuple[int, _Slot]]:
        """Returns the slots without a run that may get one.

        While there is only one request at a time it is the first slot's, so that its rests are kept and its
        failures counted in a row.
        """
        usable = self._slots if self._mode == "ranged" else self._slots[:1]
        return [
            (index, slot)
            for index, slot in enumerate(usable)
            if index not in self._runs and index not in self._races
        ]

    def _cut(self, slot: _Slot, now: float) -> tuple[int, int | None]:
        """Takes a run from the front of the gaps."""
        if self._mode == "single":
            self._gaps = []
            return 0, None
        start, stop = self._gaps[0]
        least = max(self._chunk, PROBE_BYTES if self._mode == "probing" else MIN_RUN_BYTES)
        wish = max(least, self._guided(slot, now))
        end = min(stop, self._end_of(start, wish))
        if stop - end < least:
            end = stop
        self._gaps = ranges.subtract(self._gaps, (start, end))
        return start, end

    def _end_of(self, start: int, wish: int) -> int:
        """Returns where a run of about `wish` bytes ends: a long one where a part of the object does."""
        if wish < PART_BYTES:
            return -(-(start + wish) // self._chunk) * self._chunk
        step = max(1, PART_BYTES // self._chunk) * self._chunk
        return max(start // step + 1, (start + wish + step // 2) // step) * step

    def _guided(self, slot: _Slot, now: float) -> int:
        """Returns how many bytes a slot is to ask for: its share of half of what is left, by its rate.

        Where an answer takes long to begin it is the whole share, and no answer is waited for in vain.
        """
        left = ranges.length(self._gaps)
        # While no more are asked for than are out, runs are cut for these.
        most = self._growth.level if self._growth.stays else self._connections
        lanes = max(1, min(most, self._share))
        far = FAR_S <= self._nearest_s < math.inf
        if not slot.rate:
            if far:
                # The probe's slot will take a share too.
                busy = sum(
                    run.stop is None or run.stop - run.start > PROBE_BYTES for run in self._runs.values()
                )
                return min(left // max(1, lanes - busy), FIRST_RUN_BYTES)
            return min(left // (2 * lanes), FIRST_RUN_BYTES)
        usual = self._usual_rate()
        if slot.rate * FAR_SLOWER < usual:
            return 0
        wish = left / (2 * lanes) * min(1.0, slot.rate / usual)
        alone = sum(each.rate > 0 for each in self._slots) == 1
        if not alone:  # else it is the probe's rate, of a burst perhaps
            rate = min(slot.rate, usual)
            wish = max(wish, min(left / LEAST_SHARE, rate * LEAST_RUN_S))
            if slot.brought >= PART_BYTES and rate * PART_S >= PART_BYTES:
                wish = max(wish, PART_BYTES)
        wish = max(wish, min(left / (lanes + 1), WAITS_A_RUN * self._answer_s * slot.rate))
        if far:
            pieces = self._pieces(now)
            rest_s = self._left(pieces) / (lanes * usual)
            # The others help with what is left once their own runs have ended.
            free_s = [max(0.0, rest_s - piece.seconds) for piece in pieces]
            free_s += [rest_s] * (lanes - len(pieces))
            wish = max(wish, left * min(1.0, rest_s / max(sum(free_s), rest_s)))
            # The probe's rate alone, of a burst that came with its answer, is no reason to ask nobody else.
            if left <= slot.rate * self._answer_s and not alone:
                wish = left
        return int(min(wish, slot.rate * RUN_SECONDS))
