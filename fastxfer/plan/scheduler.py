"""Which bytes are asked for next, on which slot, and when to give up: a pure state machine.

A *slot* is one request at a time. The scheduler knows the missing byte ranges (*gaps*), cuts *runs* from
their front and hands each to an idle slot. It starts *probing*: one slot, one request, until the driver says
what the first answer told (`Opened` or `Single`).

`handle(event, now)` takes what happened and returns what to do, as data. Run length is guided
self-scheduling: a share of what is left, so that requests are few while there is much and small at the end,
capped by what the slot's measured rate moves in RUN_SECONDS.

How many requests may be out beside those of other transfers it is told (`Room`).

A run ends where it was asked to end, or earlier. What it did not fetch goes back to the gaps from the very
byte it reached; the driver keeps the checksum of a chunk's first part under that offset, so a run may begin
inside a chunk only at such an offset. A probe may be shorter than a
chunk: its run *owes* the rest of the chunk, which no other slot can begin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    OverloadedError,
    Retry,
    TooSlowError,
)
from fastxfer.plan import ranges
from fastxfer.plan.ranges import Span
from fastxfer.plan.retry import backoff_s

PROBE_BYTES = 256 * 1024
FIRST_RUN_BYTES = 16 * 1024**2
MIN_RUN_BYTES = 256 * 1024
RUN_SECONDS = 8.0
# While others move, a slot's failures weigh no more than so many: it rests 2 s at the longest.
FAILURES_AMONG_OTHERS = 4

# ---- events ----


@dataclass(frozen=True, slots=True)
class Begin:
    """The transfer starts; `missing` are the gaps known from a checkpoint, or None when nothing is known."""

    missing: list[Span] | None = None
    chunk_size: int = 1


@dataclass(frozen=True, slots=True)
class Opened:
    """The first answer was accepted: ranges work. `missing` covers the first run too."""

    missing: list[Span]
    chunk_size: int


@dataclass(frozen=True, slots=True)
class Single:
    """The first answer is the whole object in one stream; ranges do not work. `size` is None when unknown."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The request of `slot` ended with everything before `pos` in place. `jitter` in [0, 1) is a fresh
    random number.
    """

    slot: int
    pos: int
    error: FastxferError | None = None
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The user pauses: running requests are to end, no new one begins."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The user goes on."""


@dataclass(frozen=True, slots=True)
class Room:
    """At most so many requests may be out. Those that are out over it go on, and no new one begins."""

    requests: int


Event = Begin | Opened | Single | Ended | Tick | Pause | Resume | Room

# ---- commands ----


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for [start, stop) on `slot`; stop is None for the whole object without a range."""

    slot: int
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Abort:
    """End the request of `slot` and report it with `Ended`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Complete:
    """Every byte is in place."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The transfer fails with this error."""

    error: FastxferError


Command = Fetch | Abort | Complete | GiveUp


@dataclass(slots=True)
class _Run:
    start: int
    stop: int | None
    owed: int | None  # the run answers for the bytes up to here
    began: float
    aborted: bool = False  # its end was asked for and says nothing about the server


@dataclass(slots=True)
class _Slot:
    rest_until: float = 0.0
    failures: int = 0  # in a row on this slot: how long it rests
    strikes: int = 0  # in a row while nothing moved anywhere: when the transfer gives up
    rate: float = 0.0


class Scheduler:
    """The plan of one transfer. Not thread-safe; `now` never goes backwards, in seconds from any origin."""

    def __init__(self, *, connections: int, retries: int, wait_for_network: float = 0.0) -> None:
        self._connections = connections
        self._retries = retries
        self._wait_s = wait_for_network
        self._slots = [_Slot() for _ in range(connections)]
        self._runs: dict[int, _Run] = {}
        self._gaps: list[Span] = []
        self._chunk = 1
        self._single_size: int | None = None
        self._single_best = 0  # how far the stream has come in any of its attempts
        self._mode = "new"
        self._paused = False
        self._over = False
        self._room = connections
        self._moved_at = 0.0
        self._now = -math.inf
        self.retries = 0
        """Requests that failed and were, or will be, asked for again."""
        self.last_error: FastxferError | None = None
        """The last failure that is being retried, or None once bytes moved again."""

    # ---- what the driver asks ----

    @property
    def gaps(self) -> list[Span]:
        """The byte ranges that no run covers, in order."""
        return list(self._gaps)

    @property
    def active(self) -> int:
        """How many requests are out."""
        return len(self._runs)

    def run(self, slot: int) -> tuple[int, int | None]:
        """Returns (start, stop) of a slot's run."""
        run = self._runs[slot]
        return run.start, run.stop

    def wanted(self) -> int:
        """Returns how many requests would be out now if there were room for any number."""
        if self._paused or self._over or not self._gaps:
            return len(self._runs)
        return len(self._runs) + sum(slot.rest_until <= self._now for _, slot in self._idle())

    def next_wake(self) -> float | None:
        """Returns when a resting slot may go on, or None when none rests that has work."""
        if self._paused or self._over or not self._gaps:
            return None
        rests = [slot.rest_until for _, slot in self._idle() if slot.rest_until > self._now]
        return min(rests, default=None)

    # ---- the machine ----

    def handle(self, event: Event, now: float) -> list[Command]:
        """Takes an event at a time and returns what to do. After Complete or GiveUp it returns nothing
        more.
        """
        self._now = now
        if self._over:
            if isinstance(event, Ended):
                self._runs.pop(event.slot, None)
            return []
        match event:
            case Begin():
                self._mode = "probing"
                self._chunk = event.chunk_size
                self._gaps = [(0, PROBE_BYTES)] if event.missing is None else list(event.missing)
                self._moved_at = now
            case Opened():
                self._open(event)
            case Single():
                self._single(event)
            case Ended():
                commands = self._ended(event, now)
                if commands:
                    return commands
            case Pause():
                self._paused = True
                for run in self._runs.values():
                    run.aborted = True
                return [Abort(slot) for slot in self._runs]
            case Room():
                self._room = event.requests
            case Resume():
                self._paused = False
                self._moved_at = now
                for slot in self._slots:
                    slot.rest_until, slot.failures, slot.strikes = 0.0, 0, 0
        return self._dispatch(now)  # which is all that a Tick is for

    def _open(self, event: Opened) -> None:
        self._mode = "ranged"
        self._chunk = event.chunk_size
        self._gaps = list(event.missing)
        end = max((stop for _, stop in event.missing), default=0)
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

    def _ended(self, event: Ended, now: float) -> list[Command]:
        run = self._runs.pop(event.slot)
        slot = self._slots[event.slot]
        # A stream that can only begin again has moved when it came further than ever before: a server that
        # always cuts it at the same place is given up.
        moved = event.pos > (self._single_best if self._mode == "single" else run.start)
        if moved:
            self._single_best = event.pos
            if not isinstance(event.error, TooSlowError):  # a trickle is no progress
                self._progressed(slot, now)
            rate = (event.pos - run.start) / max(now - run.began, 1e-6)
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
        slot.failures += 1
        slot.strikes += 1
        if slot.strikes > self._retries and now - self._moved_at >= self._wait_s:
            return self._give_up(error)
        self.retries += 1
        self.last_error = error
        wait_s = backoff_s(slot.failures, jitter)
        if isinstance(error, OverloadedError):
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        slot.rest_until = now + wait_s
        return []

    def _give_up(self, error: FastxferError) -> list[Command]:
        self._over = True
        aborts: list[Command] = [Abort(slot) for slot in self._runs]
        return [*aborts, GiveUp(error)]

    def _dispatch(self, now: float) -> list[Command]:
        if self._mode == "new" or self._paused:
            return []
        if not self._gaps and not self._runs and self._mode != "probing":
            self._over = True
            return [Complete()]
        commands: list[Command] = []
        for index, slot in self._idle():
            if not self._gaps or len(self._runs) >= self._most():
                break
            if slot.rest_until > now:
                continue
            start, stop = self._cut(slot)
            owed = stop if self._mode != "single" else self._single_size
            self._runs[index] = _Run(start, stop, owed, now)
            commands.append(Fetch(index, start, stop))
        return commands

    def _most(self) -> int:
        """Returns how many requests may be out now."""
        return self._room if self._mode == "ranged" else min(1, self._room)

    def _idle(self) -> list[tuple[int, _Slot]]:
        """Returns the slots without a run that may get one.

        While there is only one request at a time it is the first slot's, so that its rests are kept and its
        failures counted in a row.
        """
        usable = self._slots if self._mode == "ranged" else self._slots[:1]
        return [(index, slot) for index, slot in enumerate(usable) if index not in self._runs]

    def _cut(self, slot: _Slot) -> tuple[int, int | None]:
        """Takes a run from the front of the gaps."""
        if self._mode == "single":
            self._gaps = []
            return 0, None
        start, stop = self._gaps[0]
        cap = slot.rate * RUN_SECONDS if slot.rate else FIRST_RUN_BYTES
        guided = ranges.length(self._gaps) // (2 * self._connections)
        least = max(self._chunk, PROBE_BYTES if self._mode == "probing" else MIN_RUN_BYTES)
        wish = max(least, min(guided, int(cap)))
        end = min(stop, -(-(start + wish) // self._chunk) * self._chunk)
        if stop - end < least:
            end = stop
        self._gaps = ranges.subtract(self._gaps, (start, end))
        return start, end
