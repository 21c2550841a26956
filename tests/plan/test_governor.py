"""The governor of a host: room, limits, shares; and simulated hosts with many transfers in many processes."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.fairness import shares
from fastxfer.plan.governor import (
    HALVING_S,
    LONGEST_QUIET_S,
    PAUSE_S,
    RECOVERY_S,
    SUCCESSES_A_TRY,
    USUAL_CAP,
    Governor,
    Learned,
)
from fastxfer.plan.retry import RETRY_AFTER_CAP_S, backoff_s
from fastxfer.plan.sharing import Board, Claim, Member, take_part

# ---- fair parts ----


@given(st.integers(0, 200), st.lists(st.integers(0, 60), max_size=12))
def test_parts_are_fair_and_leave_nothing_that_somebody_wants(most: int, wants: list[int]) -> None:
    parts = shares(most, wants)
    assert sum(parts) == min(most, sum(wants))
    assert all(0 <= part <= want for part, want in zip(parts, wants, strict=True))
    for part, want in zip(parts, wants, strict=True):
        if part < want:
            assert max(parts) <= part + 1, "nobody has more than who goes short"


def test_odd_parts_go_to_the_first() -> None:
    assert shares(7, [9, 9, 9]) == [3, 2, 2]
    assert shares(2, [5, 5, 5]) == [1, 1, 0]
    assert shares(10, [1, 9, 9]) == [1, 5, 4]


# ---- one host ----


def host(*connections: int, cap: int | None = None) -> Governor:
    """Returns a governor with a transfer for each number, 0 and up, that wants as many requests."""
    governor = Governor()
    for who, wanted in enumerate(connections):
        governor.join(who, cap=cap, connections=wanted)
        governor.wants(who, wanted)
    return governor


def fill(governor: Governor, now: float = 0.0) -> list[int]:
    """Sends what there is room for; returns how many each transfer has out."""
    for who, room in governor.rooms(now).items():
        for _ in range(room - governor.out_of(who)):
            governor.sent(who)
    return [governor.out_of(who) for who in governor.rooms(now)]


def turn_away(governor: Governor, count: int, now: float, who: int = 0) -> None:
    for _ in range(count):
        governor.ended(who)
        governor.overloaded(now)


def test_transfers_share_the_usual_cap_evenly() -> None:
    assert fill(host(16)) == [16]
    assert fill(host(16, 16, 16)) == [11, 11, 10]
    assert sum(fill(host(*[16] * 40))) == USUAL_CAP


def test_one_that_is_alone_goes_on_in_the_place_of_what_ended() -> None:
    governor = host(4)
    for _ in range(4):
        governor.sent(0)
        governor.serves(0.0)
    for _ in range(10):
        assert governor.goes_on(0, True)
        governor.serves(0.0)
    assert (governor.out_of(0), governor.served) == (4, 4)


@pytest.mark.parametrize("why", ["another", "fewer allowed", "overload", "cap"])
def test_nobody_goes_on_past_what_is_to_be_looked_at(why: str) -> None:
    governor = host(4, cap=3) if why == "cap" else host(4)
    for _ in range(4):
        governor.sent(0)
    if why == "another":
        governor.join(1, connections=1)
    elif why == "fewer allowed":
        governor.hears(3, 1, Learned(), 0.0)
    elif why == "overload":
        governor.ended(0)
        governor.overloaded(0.0)
        governor.sent(0)
    assert not governor.goes_on(0, False)
    assert governor.out_of(0) == 4


def test_what_one_does_not_want_the_others_get() -> None:
    assert fill(host(2, 40, 40)) == [2, 19, 19]


def test_a_transfer_has_room_for_what_it_may_come_to_want_and_takes_none_from_others() -> None:
    governor = host(16, 16)
    governor.wants(0, 1)
    assert governor.room(0, 0.0) == 16
    assert governor.rooms(0.0) == {0: 1, 1: 16}
    governor.wants(0, 0)
    governor.join(2, connections=40)
    governor.wants(2, 40)
    assert governor.room(0, 0.0) == 14 and governor.rooms(0.0) == {0: 0, 1: 16, 2: 24}


def test_what_others_were_not_asked_for_yet_may_be_hoped_for_and_what_they_denied_not() -> None:
    governor = host(16)
    governor.told = 2
    governor.hears(2, 0, governor.learned, 0.0)
    assert governor.unasked and (governor.room(0, 0.0), governor.room(0, 0.0, hoped=True)) == (2, 16)
    governor.told = governor.claimed
    governor.hears(5, 0, governor.learned, 0.0)
    assert not governor.unasked and governor.room(0, 0.0, hoped=True) == 5


def test_one_transfer_that_asks_for_more_than_the_usual_cap_gets_it() -> None:
    assert fill(host(64)) == [64]
    assert fill(host(64, 16)) == [48, 16]


def test_the_lowest_cap_that_anybody_sets_holds() -> None:
    governor = host(16, 16, cap=20)
    governor.join("x", cap=6, connections=16)
    governor.wants("x", 16)
    assert sum(fill(governor)) == 6


def test_a_freed_place_goes_to_who_has_least_and_waited_longest() -> None:
    governor = host(4, cap=4)
    fill(governor)
    for who in (1, 2):
        governor.join(who, connections=4)
        governor.wants(who, 4)
    for expected in ([3, 1, 0], [2, 1, 1]):
        governor.ended(0)
        assert fill(governor) == expected


def test_with_one_place_all_have_their_turn() -> None:
    governor = host(4, 4, 4, cap=1)
    turns = []
    for _ in range(9):
        (who,) = [who for who, room in governor.rooms(0.0).items() if room]
        assert isinstance(who, int)
        governor.sent(who)
        governor.ended(who)
        turns.append(who)
    assert turns == [0, 1, 2] * 3


def test_an_overload_lowers_the_limit_to_what_the_host_bears() -> None:
    governor = host(16)
    fill(governor)
    for _ in range(4):
        governor.serves(0.0)
    turn_away(governor, 12, 0.1)
    assert governor.learned.limit == 4


def test_answers_that_end_in_the_midst_of_it_do_not_lower_it_further() -> None:
    governor = host(16)
    fill(governor)
    for _ in range(4):
        governor.serves(0.0)
    turn_away(governor, 6, 0.1)
    for _ in range(3):
        governor.ended(0, served=True)
    turn_away(governor, 6, 0.2)
    assert governor.learned.limit == 4


def test_where_nothing_tells_what_it_bears_the_limit_is_halved_once_in_a_moment() -> None:
    governor = host(16)
    governor.learned = Learned(16)
    limits = []
    for now in (0.0, 0.5, HALVING_S, 1.9, 2.0):
        for _ in range(16):
            governor.sent(0)
            governor.serves(now)  # all are served, and yet one more is turned away
        turn_away(governor, 1, now)
        limits.append(governor.learned.limit)
        for _ in range(15):
            governor.ended(0, served=True)
    assert limits == [8, 8, 4, 4, 2]


def test_nothing_begins_for_a_pause_after_an_overload() -> None:
    governor = host(16, 16)
    fill(governor)
    turn_away(governor, 10, 1.0)
    out = fill(governor, 1.0 + PAUSE_S - 0.01)
    assert sum(out) == 22
    governor.ended(1)
    assert fill(governor, 1.0 + PAUSE_S - 0.01) == [out[0], out[1] - 1]
    assert governor.next_wake(1.0) == 1.0 + PAUSE_S
    assert sum(fill(governor, 1.0 + PAUSE_S)) == 22


@pytest.mark.parametrize(("asked_s", "waits_s"), [(40.0, 40.0), (1e9, RETRY_AFTER_CAP_S), (0.0, PAUSE_S)])
def test_all_transfers_wait_as_long_as_the_host_asks(asked_s: float, waits_s: float) -> None:
    governor = host(4, 4)
    fill(governor)
    governor.ended(0)
    governor.overloaded(10.0, asked_s)
    governor.ended(1)
    governor.overloaded(10.1, None)
    assert governor.held(10.0 + waits_s - 0.01)
    assert governor.rooms(10.0 + waits_s - 0.01) == {0: 3, 1: 3}
    later = 10.1 + waits_s
    assert not governor.held(later)
    governor.ended(0)
    assert sum(fill(governor, later)) == 6


def test_the_limit_recovers_one_by_one_while_all_of_it_is_in_use() -> None:
    governor = host(8)
    fill(governor)
    turn_away(governor, 6, 0.0)
    seen = []
    for step in range(1, 9):
        assert governor.next_wake(step * RECOVERY_S - 0.5) in (None, step * RECOVERY_S)
        seen += fill(governor, step * RECOVERY_S)
    assert seen == [3, 4, 5, 6, 7, 8, 8, 8]


def test_a_limit_that_is_not_in_use_does_not_grow() -> None:
    governor = host(8)
    fill(governor)
    turn_away(governor, 4, 0.0)
    governor.wants(0, 2)
    for _ in range(2):
        governor.ended(0)
    assert fill(governor, 100.0) == [2]
    assert governor.learned.limit == 4


def test_tries_that_fail_get_rare() -> None:
    governor = host(8)
    fill(governor)
    turn_away(governor, 4, 0.0)
    now, gaps = 0.0, []
    for _ in range(9):
        for _ in range(SUCCESSES_A_TRY):
            governor.succeeded(now)
        assert fill(governor, now + PAUSE_S) == [4]
        wake = governor.next_wake(now + PAUSE_S)
        assert wake is not None
        gaps.append(wake - now)
        assert fill(governor, wake) == [5]
        turn_away(governor, 1, wake)
        assert governor.learned.limit == 4
        now = wake
    assert gaps == [min(LONGEST_QUIET_S, RECOVERY_S * 2**n) for n in range(9)]


def test_after_a_failed_try_so_many_requests_have_to_succeed_before_the_next() -> None:
    governor = host(8)
    fill(governor)
    turn_away(governor, 4, 0.0)
    fill(governor, RECOVERY_S)
    turn_away(governor, 1, RECOVERY_S)
    for _ in range(SUCCESSES_A_TRY - 1):
        governor.succeeded(RECOVERY_S)
    assert fill(governor, 1000.0) == [4] and governor.next_wake(1000.0) is None
    governor.succeeded(1000.0)
    assert fill(governor, 1000.0) == [5]


def refuse(governor: Governor, bears: int, now: float) -> int | None:
    """Refuses all connections over what the host bears; returns the limit."""
    fill(governor, now)
    for _ in range(governor.out - bears):
        governor.ended(0)
        governor.refused(now)
    return governor.learned.limit


def test_connections_that_are_refused_halve_the_limit_until_none_is() -> None:
    governor = host(16)
    limits = [refuse(governor, 4, now) for now in (0.0, 0.2, HALVING_S + 0.1, 2.5)]
    assert limits == [8, 8, 4, 4]


def test_one_connection_that_breaks_costs_one() -> None:
    governor = host(16)
    fill(governor)
    governor.ended(0)
    governor.refused(0.0)
    assert governor.learned.limit == 15
    assert fill(governor, 1.0) == [15]


def test_a_network_that_is_gone_for_all_comes_back_for_half_of_them_at_once() -> None:
    governor = host(16)
    assert refuse(governor, 0, 0.0) == 8
    assert fill(governor, 1.0) == [8]


def test_a_single_connection_that_is_refused_teaches_nothing() -> None:
    governor = host(1)
    assert refuse(governor, 0, 0.0) is None


@given(st.data())
def test_there_is_never_more_room_than_the_limit_and_the_cap_nor_an_idle_place(data: st.DataObject) -> None:
    governor = host(*data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6)))
    cap = data.draw(st.none() | st.integers(1, 40))
    governor.join("capped", cap=cap, connections=4)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from([0.0, 0.1, 1.0, 6.0]))
        before = governor.out
        fill(governor, now)
        fill(governor, now)  # a limit that was all in use may have grown
        most = min(governor.learned.limit or 1000, governor.most())
        assert governor.out <= max(before, most)
        if not governor.held(now):
            assert governor.out >= min(most, governor.wanted), "what is free is used"
        busy = [who for who in governor.rooms(now) if governor.out_of(who)]
        if not busy:
            continue
        who = data.draw(st.sampled_from(busy))
        governor.ended(who)
        match data.draw(st.integers(0, 3)):
            case 0:
                governor.overloaded(now, data.draw(st.sampled_from([None, 0.0, 2.0])))
            case 1:
                governor.refused(now)
            case 2:
                governor.succeeded(now)
        governor.wants(who, data.draw(st.integers(0, 20)))
        assert governor.learned.limit is None or governor.learned.limit >= 1


def test_two_that_know_of_a_limit_go_by_the_later_news_and_the_longer_wait() -> None:
    old, new = Learned(8, 1.0, 1.0, 5.0, False, 90.0), Learned(3, 2.0, 2.0, 10.0, True, 4.0)
    assert old.merged(new) == new.merged(old) == Learned(3, 2.0, 2.0, 10.0, True, 90.0)


# ---- simulated hosts ----


@dataclass
class Simulated:
    """A host that serves `bears` requests at once, and transfers in one or several processes."""

    bears: int
    processes: list[list[int]]
    """The connections of each transfer."""
    seed: int
    retry_after_s: float | None = None
    mean_s: float = 0.8
    exchange_s: float = 0.5
    now: float = 0.0
    serving: int = 0
    board: Board = field(default_factory=Board)
    refused: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    served_of: dict[tuple[int, int], int] = field(default_factory=dict)
    peak: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.governors = [host(*transfers) for transfers in self.processes]
        self.failures: dict[tuple[int, int], int] = {}
        self.resting: dict[tuple[int, int], int] = {}
        self.due: list[tuple[float, int, str, int, int]] = []
        self.order = itertools.count()
        alone = len(self.processes) == 1
        for process, governor in enumerate(self.governors):
            governor.allowed = None if alone else 0
            if not alone:
                self.later(process * 0.01, "exchange", process, 0)
            self.later(0.0, "look", process, 0)

    def later(self, wait_s: float, what: str, process: int, who: int) -> None:
        heapq.heappush(self.due, (self.now + wait_s, next(self.order), what, process, who))

    def run(self, until: float) -> None:
        while self.due and self.due[0][0] <= until:
            self.now, _, what, process, who = heapq.heappop(self.due)
            governor = self.governors[process]
            match what:
                case "refuse":
                    self.rest(process, who)
                    governor.ended(who)
                    governor.overloaded(self.now, self.retry_after_s)
                    self.later(0.1, "exchange now", process, 0)
                case "serve":
                    governor.serves(self.now)
                case "end":
                    self.serving -= 1
                    governor.ended(who, served=True)
                    governor.succeeded(self.now)
                    self.failures[process, who] = 0
                    self.served_of[process, who] = self.served_of.get((process, who), 0) + 1
                case "rested":
                    self.resting[process, who] -= 1
                case "exchange" | "exchange now":
                    self.exchange(process)
                    if what == "exchange":
                        self.later(self.exchange_s, "exchange", process, 0)
            self.send(process)

    def rest(self, process: int, who: int) -> None:
        key = process, who
        self.failures[key] = self.failures.get(key, 0) + 1
        self.resting[key] = self.resting.get(key, 0) + 1
        self.later(backoff_s(min(4, self.failures[key]), self.random.random()), "rested", process, who)

    def exchange(self, process: int) -> None:
        governor = self.governors[process]
        claim = Claim(governor.out, governor.claimed, governor.served, cap=governor.cap, floor=governor.floor)
        me = Member(process + 1, 1, self.now, {"h": claim})
        known = {"h": governor.learned}
        self.board, views = take_part(self.board, str(process), me, known, self.now)
        governor.hears(views["h"].allowed, views["h"].foreign, views["h"].learned, self.now)

    def send(self, process: int) -> None:
        governor = self.governors[process]
        for who, connections in enumerate(self.processes[process]):
            governor.wants(who, connections - self.resting.get((process, who), 0))
        for guest, room in governor.rooms(self.now).items():
            assert isinstance(guest, int)
            for _ in range(room - governor.out_of(guest)):
                governor.sent(guest)
                self.sent.append(self.now)
                self.answer(process, guest)
        self.peak = max(self.peak, sum(each.out for each in self.governors))
        wake = governor.next_wake(self.now)
        if wake is not None:
            self.later(max(1e-6, wake - self.now), "look", process, 0)

    def answer(self, process: int, who: int) -> None:
        wait_s = self.random.uniform(0.005, 0.03)
        if self.serving >= self.bears:
            self.refused.append(self.now)
            self.later(wait_s, "refuse", process, who)
        else:
            self.serving += 1
            self.later(wait_s, "serve", process, who)
            self.later(wait_s + self.random.expovariate(1 / self.mean_s), "end", process, who)

    def share_refused(self, since: float) -> float:
        return sum(at >= since for at in self.refused) / sum(at >= since for at in self.sent)

    def use(self, until: float) -> float:
        """Returns how much of what the host could serve was used."""
        return sum(self.served_of.values()) * self.mean_s / (self.bears * until)


HOSTS = {
    "one transfer": [[16]],
    "eight transfers": [[16] * 8],
    "forty transfers": [[16] * 40],
    "three processes": [[16], [16], [16]],
    "processes of several": [[16, 16], [16, 4, 4, 4], [1]],
}


@pytest.mark.parametrize("processes", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("bears", [1, 4, 10])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_converges_to_what_the_host_bears(
    processes: list[list[int]], bears: int, retry_after_s: float | None, seed: int
) -> None:
    simulated = Simulated(bears, processes, seed, retry_after_s)
    simulated.run(120.0)
    assert simulated.share_refused(since=5.0) < 0.05
    assert simulated.use(120.0) > 0.7
    assert simulated.peak <= USUAL_CAP


@pytest.mark.parametrize("processes", HOSTS.values(), ids=HOSTS)
def test_nobody_starves(processes: list[list[int]]) -> None:
    simulated = Simulated(2, processes, 1)
    simulated.run(120.0)
    everyone = [(process, who) for process, of in enumerate(processes) for who in range(len(of))]
    assert all(simulated.served_of.get(key, 0) >= 1 for key in everyone)


@pytest.mark.parametrize("seed", range(3))
def test_transfers_and_processes_have_even_parts(seed: int) -> None:
    within = Simulated(8, [[16] * 4], seed)
    within.run(300.0)
    assert max(within.served_of.values()) < 1.35 * min(within.served_of.values())
    among = Simulated(9, [[16], [16, 16], [16] * 3], seed)
    among.run(300.0)
    of = [sum(n for (each, _), n in among.served_of.items() if each == process) for process in range(3)]
    assert max(of) < 1.35 * min(of)


def test_a_host_that_bears_all_is_used_to_the_full() -> None:
    simulated = Simulated(1000, [[16] * 8], 1)
    simulated.run(60.0)
    assert simulated.refused == []
    assert simulated.peak == USUAL_CAP
    assert sum(simulated.served_of.values()) * simulated.mean_s > 0.9 * USUAL_CAP * 60.0
