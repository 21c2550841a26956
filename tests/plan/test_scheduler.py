"""The scheduler: its state drawn as strings, its invariants checked after every step, simulated transfers.

A drawing has a character a cell: `.` a gap, a digit or letter the run of that slot, `#` bytes in place.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    NetworkError,
    NotFoundError,
    OverloadedError,
    ServerError,
    TooSlowError,
    TransferTimeoutError,
)
from fastxfer.plan import ranges
from fastxfer.plan.growth import BUSY_S, LITTLE, SILENT_S, STEP_S
from fastxfer.plan.ranges import Span
from fastxfer.plan.scheduler import (
    FAILURES_AMONG_OTHERS,
    FIRST_RUN_BYTES,
    NEAR_S,
    PART_BYTES,
    PART_S,
    PROBE_BYTES,
    RUN_SECONDS,
    WASTE_BYTES,
    WASTE_SHARE,
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
    Scheduler,
    Shrink,
    Single,
    Tick,
)
from fastxfer.plan.tail import RACE_BYTES

KIB, MIB, GIB = 1024, 1024**2, 1024**3
CHUNK = 256 * KIB
RESET = NetworkError("reset by the test")
GARBLED = BadResponseError("garbled by the test")
GONE = NotFoundError("gone", status=404)


@dataclass
class Out:
    """A request that is out: `owed` is up to where its run answers for bytes."""

    start: int
    stop: int | None
    owed: int | None


@dataclass
class Watched:
    """A scheduler of an object of `size` bytes; what it must keep true is checked at each step."""

    scheduler: Scheduler
    size: int
    chunk: int
    connections: int
    done: list[Span] = field(default_factory=list)
    runs: dict[int, Out] = field(default_factory=dict)
    races: dict[int, Span] = field(default_factory=dict)
    room: int = 1 << 30
    reached: set[int] = field(default_factory=lambda: {0})
    mode: str = "probing"
    over: Command | None = None
    now: float = 0.0

    def handle(
        self, event: Event, now: float | None = None, reached: dict[int, int] | None = None
    ) -> list[Command]:
        self.now = self.now if now is None else now
        self._note(event)
        commands = self.scheduler.handle(event, self.now, reached)
        for command in commands:
            self._obey(command)
        self.check()
        return commands

    def _note(self, event: Event) -> None:
        match event:
            case Begin(missing) if missing is not None:
                self._have_all_but(missing)
            case Opened(missing, chunk):
                self.mode, self.chunk = "ranged", chunk
                self._have_all_but(missing)
                end = max((stop for _, stop in missing), default=0)
                for out in self.runs.values():
                    assert out.stop is not None
                    out.stop = min(out.stop, end)
                    out.owed = min(end, -(-out.stop // chunk) * chunk)
            case Single(size):
                self.mode, self.done = "single", []
                for out in self.runs.values():
                    out.stop = out.owed = size
            case Ended(slot, pos) if slot in self.races:
                assert self.races[slot][0] <= pos <= self.races[slot][1]
            case Room(requests):
                self.room = requests
            case Ended(slot, pos):
                out = self.runs.pop(slot)
                if self.mode == "single":
                    self.done = [(0, pos)] if pos else []
                elif pos > out.start:
                    self.done = ranges.add(self.done, (out.start, pos))
                    self.reached.add(pos)
            case _:
                pass

    def _have_all_but(self, missing: list[Span]) -> None:
        self.done = [(0, self.size)]
        for span in missing:
            self.done = ranges.subtract(self.done, span)
            self.reached.add(span[0])

    def _obey(self, command: Command) -> None:
        assert self.over is None, "nothing comes after the end"
        match command:
            case Fetch(slot, start, stop):
                assert slot not in self.runs, "one request at a time on a slot"
                assert slot not in self.scheduler.races, "one request at a time on a slot"
                assert len(self.runs) < self.room, "no more than there is room for"
                assert self.scheduler.run(slot) == (start, stop)
                self.runs[slot] = Out(start, stop, stop if self.mode != "single" else self.size)
                if self.mode == "single":
                    self.done = []
                    assert (slot, start, stop) == (0, 0, None)
            case Abort(slot):
                assert slot in self.runs or slot in self.races
            case Shrink(slot, stop):
                out = self.runs[slot]
                assert out.stop is not None and out.start < stop < out.stop == out.owed
                assert stop % self.chunk == 0
                out.stop = out.owed = stop
            case Race(slot, start, stop):
                assert slot not in self.runs, "one request at a time on a slot"
                assert len(self.runs) < self.room, "no more than there is room for"
                assert 0 < stop - start <= RACE_BYTES
                assert any(o.start <= start and stop <= (o.stop or 0) for o in self.runs.values())
                self.races[slot] = (start, stop)
            case Adopt(slot, pos):
                start, stop = self.races.pop(slot)
                assert start <= pos < stop
                self.runs[slot] = Out(pos, stop, stop)
                self.reached.add(stop)
            case Complete() | GiveUp():
                self.over = command

    def check(self) -> None:
        assert len(self.runs) <= self.scheduler.active <= self.connections
        self.races = {slot: span for slot, span in self.races.items() if slot in self.scheduler.races}
        assert self.races.keys() == self.scheduler.races.keys()
        assert self.scheduler.wasted <= max(WASTE_BYTES, self.size // WASTE_SHARE)
        wake = self.scheduler.next_wake()
        assert wake is None or wake > self.now, "a wake-up that is not in the future is a busy loop"
        if self.mode != "ranged":
            assert len(self.runs) <= 1
            return
        held: list[Span] = []
        for out in self.runs.values():
            assert out.owed is not None
            assert out.start % self.chunk == 0 or out.start in self.reached
            assert out.owed % self.chunk == 0 or out.owed == self.size or out.owed in self.reached
            assert out.stop is not None and out.start < out.stop <= out.owed <= self.size
            held.append((out.start, out.owed))
        cover = sorted([*self.scheduler.gaps, *held, *self.done])
        assert all(a < b for a, b in cover), "no empty span"
        assert [stop for _, stop in cover[:-1]] == [start for start, _ in cover[1:]], "no hole, no overlap"
        assert self.scheduler.active <= len(self.runs) + len(self.races)
        if self.size:
            assert (cover[0][0], cover[-1][1]) == (0, self.size)
        if isinstance(self.over, Complete):
            assert self.done == ([(0, self.size)] if self.size else [])

    def draw(self, cell: int = CHUNK) -> str:
        picture = ["."] * -(-self.size // cell)
        marks = [(span, "#") for span in self.done]
        marks += [
            ((out.start, out.owed or self.size), "0123456789abcdefghijklmnopqrstuvwxyz"[slot % 36])
            for slot, out in self.runs.items()
        ]
        for (start, stop), mark in marks:
            for index in range(start // cell, -(-stop // cell)):
                picture[index] = mark
        return "".join(picture)

    def end(self, slot: int, pos: int | None = None, error: FastxferError | None = None) -> list[Command]:
        """Ends the run of a slot at `pos`, by default where it was to end."""
        out = self.runs[slot]
        where = pos if pos is not None else out.stop if out.stop is not None else self.size
        return self.handle(Ended(slot, where, error))


def watched(
    chunks: int, connections: int = 4, *, chunk: int = CHUNK, retries: int = 5, wait_s: float = 0.0
) -> Watched:
    scheduler = Scheduler(connections=connections, retries=retries, wait_for_network=wait_s)
    return Watched(scheduler, chunks * chunk, chunk, connections)


def opened(chunks: int, connections: int = 4, *, retries: int = 5, wait_s: float = 0.0) -> Watched:
    """Returns a transfer whose probe was answered: the object is known, all slots are at work."""
    plan = watched(chunks, connections, retries=retries, wait_s=wait_s)
    plan.handle(Begin())
    plan.handle(Opened([(0, plan.size)], CHUNK))
    while len(plan.runs) < connections and plan.scheduler.next_wake() == plan.now + STEP_S:
        plan.handle(Tick(), plan.now + STEP_S)
    return plan


def resting(plan: Watched, slot: int) -> float:
    """Returns how long a slot still rests."""
    began = plan.now
    while slot not in plan.runs:
        wake = plan.scheduler.next_wake()
        assert wake is not None
        plan.handle(Tick(), wake)
    return plan.now - began


# ---- the way of a transfer, drawn ----


def test_the_first_request_asks_for_the_probe_and_nothing_else_goes_out() -> None:
    for connections in (1, 2, 16, 1024):
        plan = watched(64, connections)
        assert plan.handle(Begin()) == [Fetch(0, 0, PROBE_BYTES)]
        assert plan.handle(Tick(), 1.0) == []
        assert plan.scheduler.next_wake() is None


def test_one_byte_is_probed_where_the_target_may_be_complete_already() -> None:
    plan = watched(16)
    assert plan.handle(Begin([(0, 1)])) == [Fetch(0, 0, 1)]


def test_once_opened_the_slots_share_what_the_probe_does_not_cover() -> None:
    plan = opened(24)
    assert plan.draw() == "0111222333.............."
    plan.end(1)
    assert plan.draw() == "0###22233311............"


def lengths_of_runs(every_s: float) -> list[int]:
    """Returns the lengths of a gibibyte's runs over four slots, of which one ends each so many seconds."""
    plan = opened(4096, 4)
    lengths = []
    while plan.over is None:
        slot = min(plan.runs, key=lambda each: plan.runs[each].start)
        plan.now += every_s
        reached = {each: run.start + 1 for each, run in plan.runs.items()}
        commands = plan.handle(Tick(), plan.now, reached) + plan.end(slot)
        lengths += [(c.stop or 0) - c.start for c in commands if isinstance(c, Fetch)]
    assert isinstance(plan.over, Complete)
    return lengths


def test_a_small_object_is_shared_out_however_fast_it_comes() -> None:
    plan = opened(32, 4)
    plan.handle(Tick(), plan.now + 0.001, {slot: run.start + 1 for slot, run in plan.runs.items()})
    assert all(out.stop is not None and out.stop - out.start <= PART_BYTES / 4 for out in plan.runs.values())


def test_runs_become_shorter_towards_the_end() -> None:
    lengths = lengths_of_runs(0.1)
    assert max(lengths) >= FIRST_RUN_BYTES
    assert min(lengths) == CHUNK
    assert lengths[-1] < max(lengths) / 8
    assert len(lengths) < 150


def test_no_run_is_shorter_than_a_part_where_that_comes_in_a_moment() -> None:
    lengths = lengths_of_runs(PART_S / 8)
    assert min(lengths[:-1]) >= PART_BYTES
    assert len(lengths) < 50


def test_a_slow_slot_gets_what_it_moves_in_a_few_seconds() -> None:
    plan = opened(4096, 1)
    plan.now = 10.0
    (command,) = plan.end(0)
    assert isinstance(command, Fetch) and command.stop is not None
    rate = PROBE_BYTES / 10.0
    assert command.stop - command.start <= rate * RUN_SECONDS + CHUNK


def test_a_probe_shorter_than_a_chunk_owes_the_rest_of_it() -> None:
    plan = watched(8, 4)
    plan.chunk = 4 * MIB
    plan.size = 8 * plan.chunk
    plan.handle(Begin())
    plan.handle(Opened([(0, plan.size)], plan.chunk))
    assert plan.draw(plan.chunk) == "0123...."
    plan.end(0, PROBE_BYTES)
    assert plan.runs[0].start == PROBE_BYTES and plan.runs[0].owed == plan.chunk
    assert plan.draw(plan.chunk) == "0123...."


def test_an_object_smaller_than_the_probe_needs_no_second_request() -> None:
    plan = watched(1)
    plan.size = PROBE_BYTES // 2
    plan.handle(Begin())
    assert plan.handle(Opened([(0, plan.size)], CHUNK)) == []
    assert plan.end(0, plan.size) == [Complete()]


def test_a_resumed_transfer_asks_for_its_gaps_only() -> None:
    plan = watched(20, 4)
    missing = [(2 * CHUNK, 4 * CHUNK), (10 * CHUNK + 7, 11 * CHUNK), (15 * CHUNK, 20 * CHUNK)]
    assert plan.handle(Begin(missing, CHUNK)) == [Fetch(0, 2 * CHUNK, 3 * CHUNK)]
    plan.handle(Opened(missing, CHUNK))
    assert plan.draw() == "##01######2####3...."
    while plan.over is None:
        plan.end(min(plan.runs))
    assert isinstance(plan.over, Complete)


def test_a_run_cut_short_is_taken_up_at_the_byte_it_reached() -> None:
    plan = opened(24)
    pos = plan.runs[1].start + 12345
    commands = plan.end(1, pos, RESET)
    assert plan.scheduler.last_error is RESET and plan.scheduler.retries == 1
    assert commands == []
    plan.end(0)
    assert pos in {out.start for out in plan.runs.values()}


def test_the_last_bytes_make_it_complete_and_nothing_follows() -> None:
    plan = opened(2, 2)
    assert plan.end(1) == []
    assert plan.end(0) == [Complete()]
    assert plan.scheduler.handle(Tick(), 9.0) == []
    assert plan.scheduler.handle(Resume(), 9.0) == []
    assert plan.scheduler.next_wake() is None


# ---- one stream ----


@pytest.mark.parametrize("size", [0, 1, 7 * MIB])
def test_a_stream_of_known_size_completes_at_its_size(size: int) -> None:
    plan = watched(16)
    plan.size = size
    plan.handle(Begin())
    assert plan.handle(Single(size)) == []
    assert plan.handle(Ended(0, size)) == [Complete()]


def test_a_stream_of_unknown_size_completes_when_it_ends_as_it_should() -> None:
    plan = watched(16)
    plan.handle(Begin())
    plan.handle(Single(None))
    assert plan.handle(Ended(0, 123)) == [Complete()]


def test_a_stream_that_breaks_begins_again_from_nothing() -> None:
    plan = watched(16)
    plan.handle(Begin())
    plan.handle(Single(plan.size))
    assert plan.handle(Ended(0, 1000, RESET)) == []
    assert plan.handle(Tick(), 60.0) == [Fetch(0, 0, None)]
    assert plan.handle(Ended(0, plan.size)) == [Complete()]


@pytest.mark.parametrize("size", [None, 16 * CHUNK])
def test_a_stream_that_always_breaks_at_the_same_place_is_given_up(size: int | None) -> None:
    plan = watched(16, retries=3)
    plan.handle(Begin())
    plan.handle(Single(size))
    for attempt in range(1, 10):
        commands = plan.handle(Ended(0, 5000, RESET), 100.0 * attempt)
        if plan.over:
            break
        assert commands == []
        assert plan.handle(Tick(), 100.0 * attempt + 50) == [Fetch(0, 0, None)]
    assert plan.over == GiveUp(RESET)
    assert attempt == 1 + 3  # the first moved; it and the three retries failed


def test_a_stream_that_comes_further_each_time_goes_on() -> None:
    plan = watched(16, retries=1)
    plan.handle(Begin())
    plan.handle(Single(plan.size))
    for attempt in range(1, 40):
        assert plan.handle(Ended(0, 1000 * attempt, RESET), 100.0 * attempt) == []
        assert plan.handle(Tick(), 100.0 * attempt + 50) == [Fetch(0, 0, None)]


@pytest.mark.parametrize("size", [None, 16 * CHUNK])
def test_a_stream_paused_and_resumed_at_once_is_not_taken_for_complete(size: int | None) -> None:
    plan = watched(16)
    plan.handle(Begin())
    plan.handle(Single(size))
    assert plan.handle(Pause()) == [Abort(0)]
    assert plan.handle(Resume()) == []
    assert plan.handle(Ended(0, 5000)) == [Fetch(0, 0, None)]


def test_a_short_stream_that_claims_to_be_whole_is_asked_for_again_and_given_up_in_the_end() -> None:
    plan = watched(16, retries=2)
    plan.handle(Begin())
    plan.handle(Single(plan.size))
    now = 0.0
    for _ in range(10):
        now += 100.0
        plan.handle(Ended(0, 5000), now)
        if plan.over:
            break
        plan.handle(Tick(), now + 50)
    assert isinstance(plan.over, GiveUp) and isinstance(plan.over.error, BadResponseError)


# ---- failures ----


def test_an_answer_that_ends_well_without_a_byte_counts_as_a_failure() -> None:
    plan = opened(24, retries=2)
    for _ in range(100):
        start = plan.runs[1].start if 1 in plan.runs else None
        if start is not None:
            plan.end(1, start)
        if plan.over:
            break
        assert 1 not in plan.runs, "not asked again at once"
        plan.handle(Tick(), plan.now + 60.0)
    assert isinstance(plan.over, GiveUp) and isinstance(plan.over.error, BadResponseError)


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_probe_that_always_fails_is_given_up_after_the_retries(retries: int) -> None:
    plan = watched(16, 16, retries=retries)
    plan.handle(Begin())
    attempts = 1
    while True:
        commands = plan.handle(Ended(0, 0, RESET, jitter=0.0))
        if plan.over:
            break
        assert commands == [], "it rests before it asks again"
        wake = plan.scheduler.next_wake()
        assert wake is not None
        assert plan.handle(Tick(), wake) == [Fetch(0, 0, PROBE_BYTES)]
        attempts += 1
    assert plan.over == GiveUp(RESET)
    assert attempts == retries + 1
    assert plan.scheduler.retries == retries


def test_the_rests_grow_while_nothing_moves_and_start_small_once_it_did() -> None:
    plan = opened(4000, 1, retries=50)
    rests = []
    for _ in range(6):
        plan.end(0, plan.runs[0].start, RESET)
        wake = plan.scheduler.next_wake()
        assert wake is not None
        rests.append(wake - plan.now)
        plan.handle(Tick(), wake)
    assert rests == pytest.approx([0.1875 * 2**n for n in range(6)])
    plan.end(0, plan.runs[0].start + 1, RESET)
    wake = plan.scheduler.next_wake()
    assert wake is not None and wake - plan.now == pytest.approx(0.1875)


def test_bytes_that_move_anywhere_keep_a_failing_slot_from_giving_up() -> None:
    plan = opened(4000, 2, retries=2)
    for _ in range(50):
        if 1 in plan.runs:
            plan.end(1, plan.runs[1].start, RESET)
        plan.end(0, plan.runs[0].start + 1000, RESET)
        plan.handle(Tick(), plan.now + 60.0)
        assert plan.over is None


def test_an_error_that_no_retry_helps_ends_it_at_once_and_the_others_are_aborted() -> None:
    plan = opened(100, 4)
    commands = plan.end(2, plan.runs[2].start, GONE)
    assert commands == [Abort(0), Abort(1), Abort(3), GiveUp(GONE)]
    for slot in (0, 1, 3):
        assert plan.scheduler.handle(Ended(slot, 0), plan.now) == []
    assert plan.scheduler.active == 0


def test_waiting_for_the_network_outlasts_the_retries() -> None:
    plan = opened(100, 1, retries=2, wait_s=600.0)
    plan.end(0, plan.runs[0].start + 10, RESET)
    moved_at = plan.now
    attempts = 0
    while plan.over is None:
        wake = plan.scheduler.next_wake()
        assert wake is not None
        plan.handle(Tick(), wake)
        plan.end(0, plan.runs[0].start, RESET)
        attempts += 1
    assert plan.over == GiveUp(RESET)
    assert 600.0 <= plan.now - moved_at < 640.0
    assert attempts > 10


def test_a_network_that_comes_back_in_time_is_taken_up() -> None:
    plan = opened(8, 1, retries=1, wait_s=600.0)
    for _ in range(12):
        plan.end(0, plan.runs[0].start, RESET)
        wake = plan.scheduler.next_wake()
        assert wake is not None
        plan.handle(Tick(), wake)
    while plan.over is None:
        plan.end(0)
    assert plan.over == Complete()
    assert plan.scheduler.last_error is None


# ---- overload ----


def overloaded(retry_after_s: float | None = None) -> OverloadedError:
    return OverloadedError("busy", status=503, retry_after_s=retry_after_s)


@pytest.mark.parametrize("connections", [1, 16])
def test_retry_after_is_obeyed_by_the_probe(connections: int) -> None:
    plan = watched(16, connections)
    plan.handle(Begin())
    assert plan.handle(Ended(0, 0, overloaded(120.0))) == []
    assert plan.handle(Tick(), 119.9) == []
    assert plan.scheduler.next_wake() == 120.0
    assert plan.handle(Tick(), 120.0) == [Fetch(0, 0, PROBE_BYTES)]


def test_retry_after_is_obeyed_by_the_slot_that_was_told() -> None:
    plan = opened(4000, 2)
    plan.end(1, plan.runs[1].start, overloaded(40.0))
    for now in range(1, 40):
        plan.end(0, plan.runs[0].start + 1000, RESET)
        plan.handle(Tick(), float(now))
        assert 1 not in plan.runs
    plan.handle(Tick(), 40.0)
    assert 1 in plan.runs


# ---- connections that are refused, answers that trickle ----


def test_bytes_that_move_elsewhere_shorten_the_rests_of_a_failing_slot() -> None:
    plan = opened(4000, 2, retries=50)
    rests = []
    for _ in range(10):
        plan.handle(Tick(), plan.now + 60.0)
        plan.end(1, plan.runs[1].start, GARBLED)
        plan.end(0, plan.runs[0].start + 1000, RESET)
        rests.append(resting(plan, 1))
    assert max(rests) == 0.1875 * 2**FAILURES_AMONG_OTHERS


def test_a_trickle_is_no_progress_and_is_given_up_with_what_it_brought() -> None:
    plan = opened(4000, 1, retries=3)
    slow = TooSlowError("trickling")
    ends = 0
    while plan.over is None:
        plan.end(0, plan.runs[0].start + 100, slow)
        ends += 1
        plan.handle(Tick(), plan.now + 60.0)
    assert plan.over == GiveUp(slow)
    assert ends == 1 + 3
    assert plan.done == [(0, 400)]


def test_trickles_beside_a_good_answer_are_tried_again() -> None:
    plan = opened(4000, 8, retries=2)
    for _ in range(10):
        for slot in [slot for slot in plan.runs if slot]:
            plan.end(slot, plan.runs[slot].start + 10, TooSlowError("trickling"))
        plan.end(0)
        plan.handle(Tick(), plan.now + 2.0)
    assert plan.over is None


# ---- room beside other transfers ----


def test_no_more_is_asked_for_than_there_is_room() -> None:
    plan = watched(200, 8)
    plan.handle(Begin())
    plan.handle(Room(3))
    plan.handle(Opened([(0, plan.size)], plan.chunk))
    assert len(plan.runs) == 3 and plan.scheduler.wanted() == 8
    plan.handle(Room(5))
    assert len(plan.runs) == 4, "the first level"
    assert plan.scheduler.next_wake() == plan.now + STEP_S
    plan.handle(Tick(), plan.now + STEP_S)
    assert len(plan.runs) == 5
    assert (plan.scheduler.wanted(), plan.scheduler.next_wake()) == (8, None)


def steps(plan: Watched, rate: float, count: int) -> list[int]:
    """Returns how many requests are out after each of so many ticks, while the first of them brings bytes at
    `rate`, each other one a byte.
    """
    levels = []
    first = next(iter(plan.runs))
    pos = float(plan.runs[first].start)
    for _ in range(count):
        pos += rate * STEP_S
        reached = {slot: run.start + 1 for slot, run in plan.runs.items()} | {first: int(pos)}
        plan.handle(Tick(), plan.now + 1.01 * STEP_S, reached)
        levels.append(len(plan.runs))
    return levels


def begun(waited_s: float | None = None) -> Watched:
    """Returns a plan with the four first requests out on 32 slots; the probe is over."""
    plan = watched(64_000, 32)
    plan.handle(Begin())
    plan.handle(Opened([(0, plan.size)], plan.chunk, waited_s=waited_s))
    plan.end(0)
    assert len(plan.runs) == 4
    return plan


def test_who_has_no_time_for_more_requests_gets_no_more() -> None:
    plan = begun(waited_s=NEAR_S / 2)
    plan.scheduler.busy = True
    assert steps(plan, 3 * LITTLE, 30) == [4] * 30
    assert plan.scheduler.wanted() == 4
    assert plan.scheduler.next_wake() == plan.now + BUSY_S
    plan.scheduler.busy = False
    assert steps(plan, 3 * LITTLE, int(0.8 * BUSY_S / STEP_S)).pop() == 4, "not at once"
    assert steps(plan, 3 * LITTLE, int(0.4 * BUSY_S / STEP_S)).pop() == 16


def test_a_thread_that_prepares_the_transfer_is_not_busy_with_its_bytes() -> None:
    plan = begun()
    plan.scheduler.busy = True
    assert steps(plan, LITTLE / 3, 4).pop() == 16


def test_a_thread_that_is_busy_with_other_transfers_too_has_no_time_for_more_requests() -> None:
    plan = begun(waited_s=NEAR_S / 2)
    plan.handle(Tick(), plan.now + 0.9 * SILENT_S)
    plan.scheduler.busy = True
    assert steps(plan, LITTLE / 3, 20)[2:] == [len(plan.runs)] * 18
    assert len(plan.runs) < 16


def test_near_servers_are_asked_for_more_when_the_first_requests_have_shown_what_they_bring() -> None:
    assert steps(begun(), 3 * LITTLE, 2) == [8, 16], "not a near one"
    assert steps(begun(waited_s=NEAR_S / 2), 3 * LITTLE, 6) == [4, 4, 4, 8, 16, 16]
    assert steps(begun(waited_s=NEAR_S / 2), LITTLE / 3, 4) == [4, 8, 16, 16]
    silent = begun(waited_s=NEAR_S / 2)
    silent.handle(Tick(), silent.now + 0.9 * SILENT_S)
    assert len(silent.runs) == 4
    silent.handle(Tick(), silent.now + 0.2 * SILENT_S)
    assert len(silent.runs) == 8, "they have not brought a byte"


def test_shares_are_of_the_room_where_it_is_less_than_the_connections() -> None:
    lengths = []
    for room in (2, 8):
        plan = watched(64, 8)
        plan.handle(Begin())
        plan.handle(Room(room))
        plan.handle(Opened([(0, plan.size)], plan.chunk))
        out = plan.runs[1]
        assert out.stop is not None
        lengths.append(out.stop - out.start)
    assert lengths[0] >= 3 * lengths[1]


def test_runs_are_cut_for_the_requests_that_there_will_be_and_not_for_the_first_alone() -> None:
    plans = [watched(64, 8), watched(64, 8)]
    for plan, room in zip(plans, (Room(2, share=8), Room(8)), strict=True):
        plan.handle(Begin())
        plan.handle(room)
        plan.handle(Opened([(0, plan.size)], plan.chunk))
    assert plans[0].runs[1] == plans[1].runs[1]


def test_what_is_out_goes_on_when_there_is_less_room_and_nothing_new_begins() -> None:
    plan = opened(4000, 8)
    assert plan.handle(Room(2)) == []
    for left in (7, 6, 5, 4, 3, 2):
        plan.end(next(iter(plan.runs)))
        assert len(plan.runs) == left
    plan.end(next(iter(plan.runs)))
    assert len(plan.runs) == 2


def test_a_probe_waits_for_room() -> None:
    plan = watched(16)
    plan.handle(Room(0))
    assert plan.handle(Begin()) == []
    assert (plan.scheduler.wanted(), plan.scheduler.next_wake()) == (1, None)
    assert plan.handle(Room(1)) == [Fetch(0, 0, PROBE_BYTES)]


def test_a_slot_that_rests_wants_nothing_until_then() -> None:
    plan = opened(4000, 2)
    plan.handle(Room(1))
    plan.end(1, plan.runs[1].start, RESET)
    assert plan.scheduler.wanted() == 1
    wake = plan.scheduler.next_wake()
    assert wake is not None
    assert plan.handle(Tick(), wake) == []
    assert (plan.scheduler.wanted(), plan.scheduler.next_wake()) == (2, None)
    plan.handle(Room(2))
    assert len(plan.runs) == 2


# ---- pause ----


def test_a_pause_ends_every_request_and_begins_none() -> None:
    plan = opened(24)
    assert plan.handle(Pause()) == [Abort(0), Abort(1), Abort(2), Abort(3)]
    for slot in (2, 0, 3, 1):
        assert plan.end(slot, plan.runs[slot].start + 100) == []
    assert plan.handle(Tick(), 100.0) == []
    assert plan.scheduler.next_wake() is None
    assert len([c for c in plan.handle(Resume()) if isinstance(c, Fetch)]) == 4


def test_what_ends_whole_during_a_pause_is_complete_at_its_end() -> None:
    plan = opened(2, 2)
    plan.handle(Pause())
    assert plan.end(0) == []
    assert plan.end(1) == []
    assert plan.handle(Resume()) == [Complete()]


def test_a_pause_before_the_first_request_holds_it_back() -> None:
    plan = watched(4)
    assert plan.handle(Pause()) == []
    assert plan.handle(Begin()) == []
    assert plan.handle(Resume()) == [Fetch(0, 0, PROBE_BYTES)]


def test_going_on_forgets_rests_and_failures() -> None:
    plan = opened(24, 1, retries=1)
    plan.end(0, plan.runs[0].start, RESET)
    plan.handle(Pause())
    assert isinstance(plan.handle(Resume())[0], Fetch)
    plan.end(0, plan.runs[0].start, RESET)
    assert plan.over is None


def test_requests_aborted_by_a_pause_do_not_count_as_failures() -> None:
    plan = opened(24, 2, retries=0)
    for _ in range(20):
        plan.handle(Pause())
        plan.handle(Resume())
        for slot in list(plan.runs):
            plan.end(slot, plan.runs[slot].start)
        assert plan.over is None and len(plan.runs) == 2


# ---- simulated transfers ----


@dataclass(frozen=True)
class World:
    """How a simulated transfer goes: everything is drawn from the seed."""

    seed: int
    chunks: int
    chunk: int
    connections: int
    short_last: int = 0  # bytes missing from the last chunk
    failing: float = 0.0  # chance that a request fails on its way
    dies_at: float | None = None  # from this time on every request fails at once
    pauses: int = 0
    ranged: bool = True
    size_known: bool = True
    resumed: bool = False
    fatal: bool = False  # one failure that no retry helps
    retries: int = 20


ERRORS = (
    lambda r: NetworkError("reset"),
    lambda r: TransferTimeoutError("stalled"),
    lambda r: ServerError("failed", status=500),
    lambda r: BadResponseError("bad"),
    lambda r: OverloadedError("busy", status=429, retry_after_s=r.choice([None, 0.0, 1.0, 60.0])),
    lambda r: None,  # a shorter range that ends well
)


class Simulation:
    """Runs a world to its end in no time at all; the watched scheduler checks every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random.Random(world.seed)
        size = world.chunks * world.chunk - world.short_last
        scheduler = Scheduler(connections=world.connections, retries=world.retries)
        self.plan = Watched(scheduler, size, world.chunk, world.connections)
        self.queue: list[tuple[float, int, int, Event]] = []  # time, order, generation, event
        self.order = itertools.count()
        self.generation = dict.fromkeys(range(world.connections), 0)
        self.missing: list[Span] = [(0, size)]
        self.known = False
        self.steps = 0

    def run(self) -> Command:
        world, plan = self.world, self.plan
        if world.resumed:
            for _ in range(self.random.randrange(1, 8)):
                first = self.random.randrange(world.chunks)
                after = self.random.randrange(first, world.chunks) + 1
                hole = (first * world.chunk, min(after * world.chunk, plan.size))
                if ranges.subtract(self.missing, hole):
                    self.missing = ranges.subtract(self.missing, hole)
            if self.missing[0][0] % world.chunk == 0 and world.chunk > 1:
                self.missing[0] = (self.missing[0][0] + 1, self.missing[0][1])  # a partial chunk
                if self.missing[0][0] == self.missing[0][1]:
                    self.missing = [(0, plan.size)]
        for _ in range(world.pauses):
            at = self.random.uniform(0, 60)
            self.later(at, Pause())
            self.later(at + self.random.choice([0.0, 0.0, 5.0]), Resume())
        self.feed(Begin(self.missing if world.resumed else None, world.chunk if world.resumed else 1), 0.0)
        while plan.over is None:
            self.steps += 1
            assert self.steps < 60_000, "it does not end"
            self.step()
        return plan.over

    def step(self) -> None:
        wake = self.plan.scheduler.next_wake()
        if self.queue and (wake is None or self.queue[0][0] <= wake):
            now, _, generation, event = heapq.heappop(self.queue)
            slot = event.slot if isinstance(event, Ended) else None
            if slot is None or self.generation[slot] == generation:
                if isinstance(event, Ended) and isinstance(event.error, _Answered):
                    self.answered(now, event.slot)
                else:
                    self.feed(event, now)
            return
        assert wake is not None, "nothing is out, nothing will happen, and it is not over"
        self.feed(Tick(), wake)

    def later(self, at: float, event: Event) -> None:
        generation = self.generation[event.slot] if isinstance(event, Ended) else 0
        heapq.heappush(self.queue, (at, next(self.order), generation, event))

    def feed(self, event: Event, now: float) -> None:
        if isinstance(event, Ended):
            self.generation[event.slot] += 1
        for command in self.plan.handle(event, now):
            match command:
                case Fetch(slot, start, stop):
                    self.fetch(slot, start, stop, now)
                case Abort(slot) if self.plan.over is None:
                    self.abort(slot, now)
                case _:
                    pass

    def abort(self, slot: int, now: float) -> None:
        """The run ends where chance has it, soon: what was to become of it does not happen any more."""
        out = self.plan.runs[slot]
        stop = out.stop if out.stop is not None else self.plan.size
        pos = out.start if not self.known else self.random.randint(out.start, stop)
        self.generation[slot] += 1
        self.later(now + self.random.choice([0.0, 0.5]), Ended(slot, pos))

    def fetch(self, slot: int, start: int, stop: int | None, now: float) -> None:
        self.generation[slot] += 1
        world, rng = self.world, self.random
        end = min(stop if stop is not None else self.plan.size, self.plan.size)
        rate = rng.lognormvariate(15, 1.5)
        dead = world.dies_at is not None and now >= world.dies_at
        if dead:
            self.later(now + 0.01, Ended(slot, start, NetworkError("refused"), rng.random()))
            return
        if not self.known:
            if rng.random() < world.failing:
                self.later(now + 0.05, Ended(slot, start, NetworkError("refused"), rng.random()))
            else:
                self.later(now + 0.05, Ended(slot, start, _Answered("")))
            return
        self.body(slot, start, end, rate, now)

    def body(self, slot: int, start: int, end: int, rate: float, now: float) -> None:
        world, rng = self.world, self.random
        error: FastxferError | None = None
        pos = end
        if rng.random() < world.failing:
            pos = rng.choice([start, rng.randint(start, end), max(start, end - 1)])
            error = rng.choice(ERRORS)(rng) if world.ranged else NetworkError("reset")
            if world.fatal:
                error = NotFoundError("gone", status=404)
        self.later(now + 0.01 + (pos - start) / rate, Ended(slot, pos, error, rng.random()))

    def answered(self, now: float, slot: int) -> None:
        """The probe's head came: the driver says what it told, then the body flows."""
        self.known = True
        if self.world.ranged:
            self.feed(Opened(self.missing, self.world.chunk), now)
        else:
            self.feed(Single(self.plan.size if self.world.size_known else None), now)
        out = self.plan.runs.get(slot)
        if out is not None:
            end = out.stop if out.stop is not None else self.plan.size
            self.body(slot, out.start, end, 1e7, now)


class _Answered(FastxferError):
    """Stands in the queue for the head of the probe's answer."""


def worlds() -> list[World]:
    """Returns a few hundred worlds, from the plain one to those where much goes wrong at once."""
    rng = random.Random(20250101)
    found = []
    for seed in range(330):
        kind = seed % 11
        connections = rng.choice([1, 2, 3, 8, 16, 128])
        chunk = rng.choice([1, 1000, 64 * KIB, CHUNK, MIB, 4 * MIB, 100 * MIB])
        chunks = rng.choice([1, 2, 7, 100, 2000, 5000])
        found.append(
            World(
                seed=seed,
                chunks=chunks,
                chunk=chunk,
                connections=connections,
                short_last=rng.randrange(chunk) if rng.random() < 0.7 else 0,
                failing=[0.0, 0.05, 0.3, 0.6][kind % 4] if kind != 9 else 0.3,
                dies_at=rng.uniform(0, 5) if kind == 10 else None,
                pauses=rng.randrange(6) if kind in (3, 4, 8) else 0,
                ranged=kind not in (5, 6),
                size_known=kind != 6,
                resumed=kind in (7, 8),
                fatal=kind == 9,
            )
        )
    return found


def run_worlds(part: list[World]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for world in part:
        try:
            over = Simulation(world).run()
        except AssertionError as error:
            raise AssertionError(f"{error} in {world}") from error
        may_fail = world.fatal or world.dies_at is not None or (not world.ranged and world.failing > 0)
        assert isinstance(over, Complete) or may_fail, world
        ends[type(over).__name__] = ends.get(type(over).__name__, 0) + 1
    return ends


@pytest.mark.parametrize("part", range(10))
def test_every_simulated_transfer_ends_complete_or_gives_up_and_loses_no_byte(part: int) -> None:
    ends = run_worlds(worlds()[part::10])
    assert ends["Complete"] > 20


def test_a_simulated_transfer_of_ten_thousand_chunks_is_the_same_each_time() -> None:
    world = World(seed=7, chunks=10_000, chunk=4 * MIB, connections=64, failing=0.1, pauses=3)
    first, second = Simulation(world), Simulation(world)
    assert isinstance(first.run(), Complete)
    second.run()
    assert (first.steps, first.plan.now) == (second.steps, second.plan.now)


def test_a_dead_server_is_given_up_in_every_mode() -> None:
    for ranged, resumed in ((True, False), (True, True), (False, False)):
        world = World(
            seed=1,
            chunks=2000,
            chunk=4 * MIB,
            connections=16,
            dies_at=0.5,
            ranged=ranged,
            resumed=resumed,
            retries=5,
        )
        assert isinstance(Simulation(world).run(), GiveUp | Complete)


@settings(deadline=None)
@given(
    st.builds(
        World,
        seed=st.integers(0, 2**32),
        chunks=st.integers(1, 200),
        chunk=st.sampled_from([1, 7, 1000, CHUNK, 3 * MIB, 40 * MIB]),
        connections=st.integers(1, 128),
        failing=st.sampled_from([0.0, 0.1, 0.5]),
        pauses=st.integers(0, 4),
        ranged=st.booleans(),
        size_known=st.booleans(),
        resumed=st.just(False),
        fatal=st.booleans(),
    )
)
def test_any_world_ends(world: World) -> None:
    over = Simulation(world).run()
    assert isinstance(over, Complete | GiveUp)
    if world.failing == 0:
        assert isinstance(over, Complete)
    if isinstance(over, GiveUp) and world.fatal:
        assert isinstance(over.error, FastxferError)
