"""The board of processes: never too many permits, a part for everybody, the old are dropped."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.governor import USUAL_CAP, Learned
from fastxfer.plan.sharing import FORGOTTEN_S, STALE_S, TURN_S, Board, Claim, Member, View, take_part


class Processes:
    """Some processes at one board, and one host."""

    def __init__(self, *claims: Claim) -> None:
        self.claims = list(claims)
        self.board = Board()
        self.known = Learned()

    def turn(self, which: int, now: float) -> View:
        member = Member(which + 1, 1, now, {"h": self.claims[which]})
        self.board, views = take_part(self.board, f"p{which}", member, {"h": self.known}, now)
        return views["h"]

    def held(self) -> list[int]:
        names = [f"p{which}" for which in range(len(self.claims))]
        return [self.board.members[name].claims["h"].held for name in names if name in self.board.members]


def test_a_process_alone_has_what_it_wants() -> None:
    assert Processes(Claim(0, 16)).turn(0, 1.0) == View(16, 0, Learned())
    assert Processes(Claim(0, 90)).turn(0, 1.0).allowed == USUAL_CAP
    assert Processes(Claim(0, 90, floor=64)).turn(0, 1.0).allowed == 64


def test_the_lowest_cap_of_all_holds() -> None:
    both = Processes(Claim(0, 16, cap=20), Claim(0, 16, cap=6))
    both.turn(0, 1.0)
    both.turn(1, 1.0)
    assert both.turn(0, 1.1).allowed == 3


def test_who_comes_later_gets_its_part_as_requests_end() -> None:
    both = Processes(Claim(32, 40), Claim(0, 40))
    both.turn(0, 1.0)
    assert both.turn(1, 1.1).allowed == 0
    assert both.turn(0, 1.2).allowed == 16, "nothing new begins before it has no more than that"
    both.claims[0] = Claim(20, 40)
    both.turn(0, 1.3)
    assert both.turn(1, 1.4).allowed == 12
    both.claims[0] = Claim(16, 40)
    both.turn(0, 1.5)
    assert both.turn(1, 1.6).allowed == 16


def test_what_one_leaves_the_other_gets() -> None:
    both = Processes(Claim(0, 2), Claim(0, 40))
    both.turn(0, 1.0)
    assert both.turn(1, 1.0).allowed == USUAL_CAP - 2


def test_with_too_few_permits_processes_take_turns() -> None:
    three = Processes(*[Claim(0, 4)] * 3)
    three.known = Learned(1, 0.0)
    holders = []
    now = 1.0
    for step in range(90):
        now += 0.5
        three.turn(step % 3, now)
        assert sum(three.held()) <= 1
        holders += [which for which, held in enumerate(three.held()) if held and len(three.held()) == 3]
    assert all(holders.count(which) > 15 for which in range(3))
    switches = sum(a != b for a, b in pairwise(holders))
    assert switches <= 45.0 / TURN_S + 1


def test_who_says_nothing_for_long_is_no_more() -> None:
    both = Processes(Claim(20, 20), Claim(0, 40))
    both.turn(0, 1.0)
    assert both.turn(1, 1.0 + STALE_S).allowed == USUAL_CAP - 20
    assert both.turn(1, 1.1 + STALE_S).allowed == USUAL_CAP


def test_what_is_of_a_time_to_come_is_from_before_a_reboot() -> None:
    both = Processes(Claim(20, 20), Claim(0, 40))
    both.known = Learned(3, 1000.0, 1000.0, 5.0)
    both.turn(0, 1000.0)
    both.known = Learned()
    assert both.turn(1, 10.0) == View(USUAL_CAP, 0, Learned())


def test_what_a_host_taught_stays_for_a_while_and_is_then_forgotten() -> None:
    one = Processes(Claim(0, 16))
    one.known = Learned(3, 1.0, 1.0, 5.0)
    one.turn(0, 1.0)
    for later, allowed in ((0.9 * FORGOTTEN_S, 3), (3 * FORGOTTEN_S, 16)):
        fresh = Processes(Claim(0, 16))
        fresh.board = replace(one.board, members={})
        assert fresh.turn(0, later).allowed == allowed


def test_a_process_without_claims_leaves() -> None:
    one = Processes(Claim(0, 16))
    one.turn(0, 1.0)
    board, views = take_part(one.board, "p0", Member(1, 1, 2.0), {}, 2.0)
    assert (board, views) == (Board(), {})


@given(st.data())
def test_there_are_never_more_permits_than_there_may_be_and_none_is_left_over(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    processes = Processes(*[Claim(0, data.draw(st.integers(1, 20))) for _ in range(count)])
    limit = data.draw(st.none() | st.integers(1, 12))
    processes.known = Learned(limit, 0.0)
    now, most = 1.0, limit or USUAL_CAP
    for _ in range(data.draw(st.integers(1, 40))):
        now += 0.1
        which = data.draw(st.integers(0, count - 1))
        allowed = processes.turn(which, now).allowed
        assert sum(processes.held()) <= most
        claim = processes.claims[which]
        out = data.draw(st.integers(0, max(0, min(allowed, claim.wants))))
        processes.claims[which] = replace(claim, out=out)
    held = []
    for _ in range(8):
        for which in range(count):
            now += 0.1
            processes.claims[which] = replace(processes.claims[which], out=0)
            processes.turn(which, now)
            held.append(sum(processes.held()))
    # A permit that changes hands lies there until the other one comes, and that may pass it on.
    assert max(held[-2 * count - 1 :]) == min(most, sum(claim.wants for claim in processes.claims))
    assert count > most or all(processes.held()), "nobody is left out"
