"""The states that a power cut may leave, of a trace: at each moment, each choice of what survives."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from tests.crash.events import Data, Promise, Trace
from tests.crash.model import Disk, Image, Mode

TORN = (0x01, 0x02, 0x0F, 0xF0, 0xFE)  # sectors of a page, the lowest bit the first
ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class State:
    """What is there after a cut. `kept` are the places in the trace of the changes that survived without a
    sync, `torn` the sectors of pages that did in part.
    """

    mode: Mode
    cut: int
    kept: tuple[int, ...]
    torn: tuple[tuple[int, int], ...]
    image: Image
    promise: Promise
    killed: bool = False
    """Everything survived, as after a kill too."""

    def __str__(self) -> str:
        return json.dumps([self.mode, self.cut, self.kept, self.torn])


Choice = tuple[tuple[int, ...], dict[int, int]]


def states(trace: Trace, mode: Mode, *, singles: int, at_least: int, combined: int = 4) -> Iterator[State]:
    """Yields the distinct states. At each moment at most `singles` pages are lost, kept and torn alone; where
    that makes fewer states than `at_least`, random choices at all moments make up for it. So many as
    `combined` names, sizes and attributes are lost and kept in all combinations, more in some.
    """
    seen: set[tuple[int, Promise]] = set()
    for round_number in range(ROUNDS):
        if round_number and len(seen) >= at_least:
            return
        disk = Disk(mode)
        for cut, event in enumerate([*trace.events, None]):
            if cut >= trace.begins and not isinstance(event, Data | Promise):
                rng = random.Random(f"{trace.name} {mode} {cut} {round_number}")
                choices = (
                    _choices(disk, rng, singles, combined) if not round_number else _random_choices(disk, rng)
                )
                for kept, torn in choices:
                    state = _state(disk, cut, kept, torn)
                    key = (state.image.key(), disk.promise)
                    if key not in seen:
                        seen.add(key)
                        yield state
            if event is not None:
                disk.play(event)
    raise AssertionError(f"{trace.name} has only {len(seen)} states")


def _state(disk: Disk, cut: int, kept: tuple[int, ...], torn: dict[int, int]) -> State:
    kept = disk.possible(kept)
    killed = not torn and len(kept) == len(disk.pending)
    image = disk.after(set(kept), torn)
    return State(disk.mode, cut, kept, tuple(torn.items()), image, disk.promise, killed)


def replay(trace: Trace, text: str) -> State:
    """Returns the state of a trace that `str(state)` told."""
    mode, cut, kept, torn = json.loads(text)
    disk = Disk(mode)
    for event in trace.events[:cut]:
        disk.play(event)
    return _state(disk, cut, tuple(kept), dict(torn))


def _choices(disk: Disk, rng: random.Random, singles: int, combined: int) -> Iterator[Choice]:
    data = [at for at, change in disk.pending.items() if isinstance(change, Data)]
    other = [at for at, change in disk.pending.items() if not isinstance(change, Data)]
    for some in _prefixes(other) if disk.mode == "ordered" else _subsets(other, rng, combined):
        yield some, {}
        yield _in_order(some, data), {}
        yield _in_order(some, [at for at in data if rng.random() < 0.5]), {}
    everything = set(disk.pending)
    for at in _few_of_each_file(disk, data, rng, singles):
        yield _in_order(everything - {at}), {}
        yield _in_order(other, [at]), {}
        yield _in_order(everything - {at}), {at: rng.choice(TORN)}
        yield _in_order(other), {at: rng.choice(TORN)}
    yield from _random_choices(disk, rng)


def _random_choices(disk: Disk, rng: random.Random) -> Iterator[Choice]:
    data = [at for at, change in disk.pending.items() if isinstance(change, Data)]
    other = [at for at in disk.pending if at not in data]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        some_data = [at for at in data if rng.random() < share]
        torn = {at: rng.randrange(1, 255) for at in data if at not in some_data and rng.random() < 0.2}
        yield _in_order(other, some_data), torn


def _few_of_each_file(disk: Disk, places: list[int], rng: random.Random, count: int) -> list[int]:
    files: dict[int, list[int]] = {}
    for at in places:
        files.setdefault(disk.pending[at].file, []).append(at)
    return [at for each in files.values() for at in (each if len(each) <= count else rng.sample(each, count))]


def _prefixes(places: list[int]) -> Iterator[tuple[int, ...]]:
    for length in range(len(places) + 1):
        yield tuple(places[:length])


def _subsets(places: list[int], rng: random.Random, combined: int) -> Iterator[tuple[int, ...]]:
    if len(places) <= combined:
        for length in range(len(places) + 1):
            yield from combinations(places, length)
        return
    yield ()
    yield tuple(places)
    for at in places:
        yield (at,)
        yield tuple(other for other in places if other != at)
    for _ in range(2**combined):
        yield tuple(at for at in places if rng.random() < 0.5)


def _in_order(*groups: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({at for group in groups for at in group}))
