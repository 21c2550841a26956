"""Who gave which bytes, and whom to doubt."""

from __future__ import annotations

from fastxfer.plan.provenance import EARLIER, Provenance, suspicions


def test_bytes_that_nobody_is_known_to_have_given_are_an_earlier_runs() -> None:
    given = Provenance()
    given.took(0, 10, 30)
    given.took(1, 50, 60)
    assert given.of(EARLIER, 100) == [(0, 10), (30, 50), (60, 100)]
    assert given.sources(100) == {EARLIER: 70, 0: 20, 1: 10}


def test_what_two_gave_is_of_both() -> None:
    given = Provenance()
    given.took(0, 0, 20)
    given.took(1, 10, 30)
    given.took(1, 5, 15)
    assert given.of(0, 30) == [(0, 20)]
    assert given.of(1, 30) == [(5, 30)]
    assert given.givers([(12, 13)], 30) == {0, 1}
    assert given.givers([(0, 5)], 30) == {0}


def test_what_is_dropped_is_of_nobody() -> None:
    given = Provenance()
    given.took(0, 0, 20)
    given.took(1, 20, 40)
    given.dropped([(10, 30)])
    assert (given.of(0, 40), given.of(1, 40)) == ([(0, 10)], [(30, 40)])
    given.forget()
    assert given.sources(0) == {}


def test_an_earlier_run_is_doubted_first_then_who_gave_least() -> None:
    doubts = suspicions({EARLIER: 70, 0: 20, 1: 10}, [0, 1])
    assert doubts[:3] == [{EARLIER}, {1}, {0}]


def test_after_each_alone_all_but_one_are_doubted() -> None:
    doubts = suspicions({0: 50, 1: 30, 2: 10}, [0, 1, 2])
    assert doubts == [{2}, {1}, {0}, {1, 2}, {0, 2}, {0, 1}]


def test_of_two_mirrors_each_is_doubted_once() -> None:
    assert suspicions({0: 50, 1: 30}, [0, 1]) == [{1}, {0}]


def test_nobody_is_doubted_without_another_to_fetch_from() -> None:
    assert suspicions({0: 50}, [0]) == []
    assert suspicions({0: 50}, [0, 1]) == [{0}]
    assert suspicions({EARLIER: 50}, [0]) == [{EARLIER}]
