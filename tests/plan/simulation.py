"""The scheduler against a model of a network: what each transfer takes, and what it may never do.

A `Network` gives every connection a rate of its own, all of them a shared bottleneck and a round trip; they
may stall, crawl or die, and a new connection costs another round trip, and may have another rate. The rates
change only at the events of the model, so the bytes are exact. Every step goes through `Watched`,
which checks the invariants; when something does not hold the error shows the object as a picture, a character
a cell.

`fixed_split` is how long the same network takes to fetch the object cut into equal parts beforehand, one a
connection, which is how curl's users and aria2 without `split` smaller than its pieces do it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from fastxfer.errors import FastxferError, NetworkError, TransferTimeoutError
from fastxfer.plan.grid import chunk_size_for
from fastxfer.plan.scheduler import (
    Abort,
    Adopt,
    Begin,
    Command,
    Complete,
    Ended,
    Event,
    Fetch,
    Opened,
    Race,
    Room,
    Scheduler,
    Shrink,
    Tick,
)
from tests.plan.test_scheduler import Watched

TICK_S = 0.1
STALL_S = 30.0
MOST_STEPS = 200_000
MIB = 1024**2


@dataclass(frozen=True)
class Network:
    """What the connections can do. Rates are in bytes a second, `rates` go round by slot."""

    size: int
    connections: int
    rates: tuple[float, ...]
    bottleneck: float = 1e18
    rtt_s: float = 0.01
    stalls: tuple[tuple[float, int], ...] = ()  # at this time the slot's request falls silent for good
    deaths: tuple[tuple[float, int], ...] = ()  # at this time the slot's connection breaks
    rooms: tuple[tuple[float, int], ...] = ()  # from this time on there is room for so many
    changes: tuple[tuple[float, int, float], ...] = ()  # from this time on the slot has this rate
    fresh: float | None = None  # a slot's second connection, and those after it, have this rate
    burst: int = 0  # so many bytes of each request come at ten times the rate, as with nginx's limit_rate
    multiplexed: bool = False

    @property
    def ideal_s(self) -> float:
        """The object at the best rate, and the four round trips before all connections are at work: two to
        connect and for the first answer, two for the others. No more connections than chunks are of use.
        """
        rates = [self.rates[slot % len(self.rates)] for slot in range(self.connections)]
        most = -(-self.size // chunk_size_for(self.size))
        return self.size / min(self.bottleneck, sum(sorted(rates)[-most:])) + 4 * self.rtt_s


@dataclass
class Request:
    """A request that is out on a slot; `pos` is exact at the model's time."""

    slot: int
    pos: float
    stop: int
    cut: int
    answers_at: float
    waited_s: float
    races: bool = False
    silent: bool = False
    burst: float = 0.0
    last_at: float = 0.0

    @property
    def at(self) -> int:
        """Whole bytes before this are in place."""
        return int(self.pos + 1e-6)


@dataclass
class Model:
    """A transfer over a network, from its first request to its last byte."""

    network: Network
    races: bool = True
    renews: bool = True
    now: float = 0.0
    out: dict[int, Request] = field(default_factory=dict)
    done: dict[int, Request] = field(default_factory=dict)  # racers that have all at hand
    kept: set[int] = field(default_factory=set)  # slots with a connection that is open
    events: list[Event] = field(default_factory=list)
    received: float = 0.0
    requests: int = 0
    connected: Counter[int] = field(default_factory=Counter)  # connections, by slot
    most_out: int = 0
    spans: list[tuple[int, float, float, int, int]] = field(default_factory=list)
    opened: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        network = self.network
        self.rates = {s: network.rates[s % len(network.rates)] for s in range(network.connections)}
        self.chunk = chunk_size_for(network.size)
        scheduler = Scheduler(
            connections=network.connections, retries=50, races=self.races, renews=self.renews
        )
        self.plan = Watched(scheduler, network.size, self.chunk, network.connections)
        self.script: list[tuple[float, str, int, float]] = sorted(
            [(at, "stall", slot, 0.0) for at, slot in network.stalls]
            + [(at, "death", slot, 0.0) for at, slot in network.deaths]
            + [(at, "room", room, 0.0) for at, room in network.rooms]
            + [(at, "rate", slot, rate) for at, slot, rate in network.changes]
        )

    def run(self) -> Model:
        """Runs the transfer to its end; an AssertionError shows where it stood."""
        try:
            self.feed(Begin())
            tick_at = TICK_S
            while self.plan.over is None:
                self.steps += 1
                assert self.steps < MOST_STEPS, "it does not end"
                tick_at = self.step(tick_at)
            assert isinstance(self.plan.over, Complete), self.plan.over
        except AssertionError as error:
            raise AssertionError(f"{error}\nat {self.now:.3f} s: {self.picture()}\n{self.network}") from error
        return self

    @property
    def wasted(self) -> int:
        """Bytes that came for nothing."""
        return round(self.received) - self.network.size

    def picture(self) -> str:
        """Returns the object by the slots that fetch it."""
        return self.plan.draw(max(self.chunk, -(-self.network.size // 64)))

    def step(self, tick_at: float) -> float:
        """Moves to the next thing that happens; returns when the next tick is."""
        wake = self.plan.scheduler.next_wake()
        moments = [tick_at, *(at for at, *_ in self.script[:1])]
        if wake is not None:
            moments.append(wake)
        speeds = self.speeds()
        for request in self.out.values():
            if request.answers_at > self.now:
                moments.append(request.answers_at)
            elif speeds.get(request.slot):
                end: float = min(request.stop, request.cut)
                if request.burst > 0:
                    end = min(end, request.pos + request.burst)
                moments.append(self.now + (end - request.pos) / speeds[request.slot])
        self.advance(min(moments), speeds)
        self.happen()
        if wake is not None and self.now >= wake:
            self.feed(Tick())
        if self.now >= tick_at:
            for request in list(self.out.values()):
                if self.now - request.last_at > STALL_S:
                    self.end(request, TransferTimeoutError("stalled"))
            self.feed(Tick())
            return tick_at + TICK_S
        return tick_at

    def speeds(self) -> dict[int, float]:
        """Returns the rate of each request whose bytes come: its own, or a fair part of the bottleneck."""
        wish = {
            r.slot: self.rates[r.slot] * (10 if r.burst > 0 else 1)
            for r in self.out.values()
            if r.answers_at <= self.now and not r.silent
        }
        left, fair = self.network.bottleneck, dict[int, float]()
        for number, slot in enumerate(sorted(wish, key=wish.__getitem__)):
            fair[slot] = min(wish[slot], left / (len(wish) - number))
            left -= fair[slot]
        return fair

    def advance(self, to: float, speeds: dict[int, float]) -> None:
        """Lets the bytes come until a moment."""
        for slot, speed in speeds.items():
            request = self.out[slot]
            came = min(speed * (to - self.now), min(request.stop, request.cut) - request.pos)
            if min(request.stop, request.cut) - request.pos - came < 1e-3:
                came = min(request.stop, request.cut) - request.pos
            request.pos += came
            request.burst = 0.0 if request.burst - came < 1e-3 else request.burst - came
            self.received += came
            if came > 0:
                request.last_at = to
        self.now = to

    def happen(self) -> None:
        """Tells the scheduler what has happened by now."""
        while self.script and self.script[0][0] <= self.now:
            _, what, number, rate = self.script.pop(0)
            request = self.out.get(number)
            if what == "room":
                self.feed(Room(number))
            elif what == "rate":
                self.rates[number] = rate
            elif request is not None and what == "stall":
                request.silent = True
            elif request is not None:
                self.end(request, NetworkError("broken"))
        for request in list(self.out.values()):
            if not self.opened and request.answers_at <= self.now:
                self.opened = True
                waited = request.waited_s
                opened = Opened(
                    [(0, self.network.size)], self.chunk, waited, multiplexed=self.network.multiplexed
                )
                request.stop = min(request.stop, self.network.size)
                self.feed(opened)
            elif request.pos >= min(request.stop, request.cut) and request.slot in self.out:
                self.end(request, None)
        while self.events:
            self.feed(self.events.pop(0))

    def end(self, request: Request, error: FastxferError | None) -> None:
        """A request is over: its connection stays if it came whole."""
        if self.out.pop(request.slot, None) is None:
            return
        whole = error is None and request.pos >= request.stop
        if whole or self.network.multiplexed:
            self.kept.add(request.slot)
        else:
            self.kept.discard(request.slot)
        if request.races and request.at >= request.stop:
            self.done[request.slot] = request
        answered = request.answers_at <= self.now
        self.feed(Ended(request.slot, request.at, error, 0.5, request.waited_s if answered else None))

    def feed(self, event: Event) -> None:
        """Hands an event over with what has been reached, and does what is wanted."""
        reached = {r.slot: r.at for r in self.out.values() if r.answers_at <= self.now}
        for command in self.plan.handle(event, self.now, reached):
            self.obey(command)
        self.most_out = max(self.most_out, len(self.out))

    def obey(self, command: Command) -> None:
        """Does what a driver does."""
        match command:
            case Fetch(slot, start, stop):
                assert stop is not None
                self.send(slot, start, stop, races=False)
            case Race(slot, start, stop):
                self.send(slot, start, stop, races=True)
            case Shrink(slot, stop):
                assert stop >= self.out[slot].at
                self.out[slot].cut = stop
            case Abort(slot):
                request = self.out.pop(slot, None)
                if request is not None:
                    if not self.network.multiplexed:
                        self.kept.discard(slot)
                    self.events.append(Ended(slot, request.at))
            case Adopt(slot, pos):
                done = self.done.pop(slot, None)
                if done is not None:
                    assert done.stop > pos
                    self.events.append(Ended(slot, done.stop))
                else:
                    assert self.out[slot].at >= pos
                    self.out[slot].races = False
            case _:
                pass

    def send(self, slot: int, start: int, stop: int, *, races: bool) -> None:
        """A request goes out, on a connection that is open or on a new one."""
        self.requests += 1
        self.done.pop(slot, None)
        waits = self.network.rtt_s * (1 if slot in self.kept else 2)
        self.connected[slot] += slot not in self.kept
        if self.connected[slot] > 1 and self.network.fresh is not None:
            self.rates[slot] = self.network.fresh
        self.out[slot] = Request(
            slot,
            start,
            stop,
            stop,
            self.now + waits,
            waits,
            races,
            burst=float(self.network.burst),
            last_at=self.now,
        )


def fixed_split(network: Network) -> float:
    """Returns how long equal parts of at least 1 MiB, one a connection, take on the same network without
    faults. As for us, the others begin when the first has been answered.
    """
    parts = max(1, min(network.connections, network.size // MIB))
    left: dict[int, float] = dict.fromkeys(range(parts), network.size / parts)
    rates = {slot: network.rates[slot % len(network.rates)] for slot in left}
    now = 4 * network.rtt_s
    while left:
        budget, speeds = network.bottleneck, dict[int, float]()
        for number, slot in enumerate(sorted(left, key=rates.__getitem__)):
            speeds[slot] = min(rates[slot], budget / (len(left) - number))
            budget -= speeds[slot]
        step = min(left[slot] / speeds[slot] for slot in left)
        now += step
        left = {slot: size - speeds[slot] * step for slot, size in left.items()}
        left = {slot: size for slot, size in left.items() if size > 1e-3}
    return now


def networks(count: int, seed: int) -> list[Network]:
    """Returns so many networks: equal and unequal rates, bottlenecks, far servers, stalls and deaths."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        connections = rng.choice([1, 2, 3, 4, 8, 16, 16, 32, 64])
        base = 10 ** rng.uniform(5.5, 8.5)
        kind = number % 8
        rates = [base] * connections
        if kind in (1, 5):
            rates = [base * rng.lognormvariate(0, 1) for _ in rates]
        elif kind == 2:
            rates[rng.randrange(connections)] = base / 20
        elif kind == 3:  # two mirrors
            rates = [base if slot % 2 else base * rng.uniform(0.02, 1) for slot in range(connections)]
        size = int(sum(rates) * 10 ** rng.uniform(-1.5, 1.2)) + 1
        found.append(
            Network(
                size=min(size, 4 * 1024 * MIB),
                connections=connections,
                rates=tuple(rates),
                bottleneck=sum(rates) * rng.uniform(0.2, 1) if kind in (4, 5) else 1e18,
                rtt_s=rng.choice([0.0005, 0.01, 0.05, 0.2]),
                stalls=_moments(rng, connections) if kind == 6 else (),
                deaths=_moments(rng, connections) if kind == 7 else (),
                rooms=((rng.uniform(0, 3), rng.randrange(connections + 1)), (4.0, connections))
                if rng.random() < 0.1
                else (),
                burst=rng.choice([0, 0, 0, int(base)]),
                fresh=rng.choice([None, base]) if kind in (1, 2, 6) else None,
                multiplexed=rng.random() < 0.2,
            )
        )
    return found


def _moments(rng: random.Random, connections: int) -> tuple[tuple[float, int], ...]:
    return tuple((rng.uniform(0, 5), rng.randrange(connections)) for _ in range(rng.randrange(1, 6)))
