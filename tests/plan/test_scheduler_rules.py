"""The scheduler by the letter: the small rules, each at its edge."""

from __future__ import annotations

import pytest

from fastxfer.plan.retry import backoff_s
from fastxfer.plan.scheduler import (
    MIN_RUN_BYTES,
    PROBE_BYTES,
    RUN_SECONDS,
    Begin,
    Complete,
    Ended,
    Fetch,
    GiveUp,
    Opened,
    Pause,
    Resume,
    Scheduler,
    Single,
    Tick,
)
from tests.plan.test_scheduler import CHUNK, GIB, GONE, MIB, RESET, overloaded


def begun(connections: int = 1, *, retries: int = 5, wait_s: float = 0.0) -> Scheduler:
    """Returns a scheduler whose probe is out."""
    scheduler = Scheduler(connections=connections, retries=retries, wait_for_network=wait_s)
    assert scheduler.handle(Begin(), 0.0) == [Fetch(0, 0, PROBE_BYTES)]
    return scheduler


def test_before_it_begins_nothing_is_done_and_nothing_is_wrong() -> None:
    scheduler = Scheduler(connections=4, retries=5)
    assert scheduler.handle(Tick(), 1.0) == scheduler.handle(Resume(), 2.0) == []
    assert (scheduler.gaps, scheduler.active, scheduler.retries) == ([], 0, 0)
    assert scheduler.last_error is None and scheduler.next_wake() is None


def test_nothing_missing_is_not_complete_before_an_answer_says_so() -> None:
    scheduler = Scheduler(connections=4, retries=5)
    assert scheduler.handle(Begin([]), 0.0) == scheduler.handle(Tick(), 1.0) == []


def test_an_object_that_is_all_in_place_is_complete_with_the_probe() -> None:
    scheduler = begun()
    assert scheduler.handle(Opened([], CHUNK), 0.1) == []
    assert scheduler.run(0) == (0, 0)
    assert scheduler.handle(Ended(0, 0), 0.2) == [Complete()]
    assert (scheduler.retries, scheduler.last_error) == (0, None), "nothing has failed"


def test_a_rest_that_is_no_run_of_its_own_is_taken_along() -> None:
    for rest, stop in ((MIN_RUN_BYTES - 1, 2 * MIN_RUN_BYTES - 1), (MIN_RUN_BYTES, MIN_RUN_BYTES)):
        scheduler = begun()
        end = PROBE_BYTES + MIN_RUN_BYTES + rest
        scheduler.handle(Opened([(0, end)], 1), 0.0)
        assert scheduler.handle(Ended(0, PROBE_BYTES), 1.0) == [Fetch(0, PROBE_BYTES, PROBE_BYTES + stop)]


def test_an_end_told_twice_after_the_end_is_nothing() -> None:
    scheduler = begun()
    assert scheduler.handle(Ended(0, 0, GONE), 1.0) == [GiveUp(GONE)]
    assert scheduler.handle(Ended(0, 0), 2.0) == scheduler.handle(Ended(0, 0), 3.0) == []


def test_without_a_wish_to_wait_for_the_network_the_retries_decide_alone() -> None:
    scheduler = Scheduler(connections=1, retries=0)
    scheduler.handle(Begin(), 0.0)
    assert scheduler.handle(Ended(0, 0, RESET), 0.1) == [GiveUp(RESET)]


def test_an_answer_without_a_byte_of_use_is_told_in_words() -> None:
    scheduler = begun()
    scheduler.handle(Opened([(0, 10 * MIB)], CHUNK), 0.1)
    assert scheduler.handle(Ended(0, 0), 0.2) == []
    assert str(scheduler.last_error) == "the server's answer ended before a byte of use came"


def test_a_run_is_what_the_mean_of_the_last_rate_and_those_before_moves_in_a_few_seconds() -> None:
    scheduler = begun()
    scheduler.handle(Opened([(0, 100 * GIB)], 1), 0.0)
    now, start, stop = 0.0, 0, PROBE_BYTES
    for rate, mean in ((0.5e6, 0.5e6), (1.5e6, 1e6), (0.5e6, 0.75e6), (0.25e6, 0.5e6)):
        now += (stop - start) / rate
        (command,) = scheduler.handle(Ended(0, stop), now)
        assert isinstance(command, Fetch) and command.stop is not None
        start, stop = command.start, command.stop
        assert stop - start == pytest.approx(mean * RUN_SECONDS, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 70_000, MIB, 3 * MIB, 16 * MIB])
def test_long_runs_end_where_parts_of_8_mib_do_as_far_as_chunks_allow(chunk: int) -> None:
    scheduler = begun(4)
    scheduler.handle(Opened([(0, 100 * GIB)], chunk), 0.0)
    now, stop, ends = 0.0, PROBE_BYTES, []
    for _ in range(20):
        now += stop / 20e6 - now
        (command,) = [
            each
            for each in scheduler.handle(Ended(0, stop), now)
            if isinstance(each, Fetch) and each.slot == 0
        ]
        assert command.stop is not None and command.stop > command.start
        stop = command.stop
        ends.append(stop)
    part = max(1, 8 * MIB // chunk) * chunk
    assert all(end % chunk == 0 for end in ends)
    assert all(end % part == 0 for end in ends[1:])


@pytest.mark.parametrize("connections", [4, 16])
def test_a_probe_whose_bytes_came_at_once_from_afar_does_not_get_all_that_is_left(connections: int) -> None:
    """What came with the answer tells no rate: so far nobody else has one to hold it against."""
    scheduler = begun(connections)
    end = 8 * MIB
    scheduler.handle(Opened([(0, end)], 256 * 1024, 0.4), 0.4)
    (fetch,) = scheduler.handle(Ended(0, PROBE_BYTES, waited_s=0.4), 0.401)
    assert isinstance(fetch, Fetch) and fetch.slot == 0 and fetch.stop is not None
    assert fetch.stop - fetch.start <= end // 4
    left = sum(stop - start for start, stop in scheduler.gaps)
    assert (left > 0) is (connections > 4), "the others have their parts"


@pytest.mark.parametrize("size", [None, 1000])
def test_a_stream_leaves_no_gap_and_a_broken_one_all_of_it(size: int | None) -> None:
    scheduler = begun()
    scheduler.handle(Single(size), 0.1)
    assert (scheduler.gaps, scheduler.run(0)) == ([], (0, size))
    assert scheduler.handle(Ended(0, 500, RESET), 1.0) == []
    assert scheduler.gaps == [(0, size or 1)]
    assert scheduler.handle(Tick(), 2.0) == [Fetch(0, 0, None)]
    assert scheduler.gaps == []


def test_one_byte_more_than_ever_before_is_progress_of_a_stream() -> None:
    scheduler = begun(retries=1)
    scheduler.handle(Single(1000), 0.1)
    for count, pos in enumerate((0, 1, 2)):
        assert scheduler.handle(Ended(0, pos, RESET), 100.0 * count + 50) == []
        assert scheduler.handle(Tick(), 100.0 * count + 90) == [Fetch(0, 0, None)]
    assert scheduler.handle(Ended(0, 2, RESET), 400.0) == [GiveUp(RESET)]


def test_going_on_makes_the_waiting_for_the_network_and_the_rests_begin_anew() -> None:
    scheduler = begun(retries=0, wait_s=10.0)
    assert scheduler.handle(Ended(0, 0, RESET), 9.0) == []
    scheduler.handle(Pause(), 95.0)
    assert scheduler.handle(Resume(), 95.0) == [Fetch(0, 0, PROBE_BYTES)]
    assert scheduler.handle(Ended(0, 0, RESET), 104.0) == []
    assert scheduler.next_wake() == 104.0 + backoff_s(1, 0.5)
    assert scheduler.handle(Tick(), 104.5) == [Fetch(0, 0, PROBE_BYTES)]
    assert scheduler.handle(Ended(0, 0, RESET), 105.0) == [GiveUp(RESET)]


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
def test_an_overload_without_a_time_means_the_usual_rest(retry_after_s: float | None) -> None:
    scheduler = begun()
    scheduler.handle(Ended(0, 0, overloaded(retry_after_s)), 1.0)
    assert scheduler.next_wake() == 1.0 + backoff_s(1, 0.5)
