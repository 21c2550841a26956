"""The dataclasses inside: they compare, hash and print as the standard ones do."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One whose fields are named, and looked at."""

    size: int
    seen: list[int] = dataclasses.field(default_factory=list)
    unit: str = "B"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("a size is not negative")


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


def test_they_are_made_of_what_is_given_and_of_defaults() -> None:
    assert (Point(3).x, Point(x=3).y, Point(3, 4, seen=2).seen) == (3, 0, 2)
    first, second = Moving(), Moving()
    first.at.append(1)
    assert (first.at, second.at, Moving([5]).at) == ([1], [], [5])
    named = Named(unit="K", size=1)
    assert (named.size, named.seen, named.unit) == (1, [], "K")


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(TypeError, match="x"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Named(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="z"):
        Point(1, z=2)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="negative"):
        Named(size=-1)


def test_the_functions_of_dataclasses_take_them() -> None:
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "secret": "", "seen": 0}
    assert dataclasses.replace(Point(1), y=4) == Point(1, 4)
    assert not hasattr(Point(1), "__dict__")
    for made in (Point(1, 2), Moving([1])):
        assert copy.copy(made) == made
        assert pickle.loads(pickle.dumps(made)) == made
