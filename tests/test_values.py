"""The dataclasses inside: they compare, hash and print as the standard ones do."""

from __future__ import annotations

import copy
import dataclasses
import pickle

from fastxfer.values import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A frozen one."""

    x: int
    y: int = 0
    secret: str = dataclasses.field(default="", repr=False)
    seen: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Other:
    """One with the same fields."""

    x: int
    y: int = 0
    secret: str = ""
    seen: int = 0


@dataclass(slots=True)
class Moving:
    """One that changes."""

    at: list[int] = dataclasses.field(default_factory=list)


@dataclass(slots=True, eq=False)
class Itself:
    """One that is equal to itself only."""

    at: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Own:
    """One with words of its own."""

    at: int = 0

    def __repr__(self) -> str:
        return "mine"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other == self.at

    def __hash__(self) -> int:
        return 7


def test_they_are_equal_by_their_fields_and_their_class() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2, seen=5) == Point(1, 2)
    others: list[object] = [Other(1, 2), (1, 2, "", 0)]
    assert Point(1, 2) not in others
    assert Moving([1]) == Moving([1])
    assert Itself() != Itself()


def test_frozen_ones_can_be_keys_and_others_cannot() -> None:
    assert len({Point(1), Point(1, seen=3), Point(2)}) == 2
    assert Moving.__hash__ is None
    assert len({Itself(), Itself()}) == 2


def test_they_print_as_dataclasses_do_without_what_is_not_to_be_shown() -> None:
    assert repr(Point(1, 2, "hush")) == "Point(x=1, y=2, seen=0)"
    assert repr(Moving([3])) == "Moving(at=[3])"


def test_what_a_class_says_itself_stays() -> None:
    assert repr(Own()) == "mine"
    assert Own(3) == 3
    assert hash(Own()) == 7


def test_the_functions_of_dataclasses_take_them() -> None:
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "secret": "", "seen": 0}
    assert dataclasses.replace(Point(1), y=4) == Point(1, 4)
    assert not hasattr(Point(1), "__dict__")
    for made in (Point(1, 2), Moving([1])):
        assert copy.copy(made) == made
        assert pickle.loads(pickle.dumps(made)) == made
