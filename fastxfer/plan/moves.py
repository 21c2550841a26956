"""What the scheduler is told, and what it wants done: plain data."""

from __future__ import annotations

from fastxfer.errors import FastxferError
from fastxfer.plan.ranges import Span
from fastxfer.values import dataclass

# ---- events ----


@dataclass(frozen=True, slots=True)
class Begin:
    """The transfer starts; `missing` are the gaps known from a checkpoint, or None when nothing is known."""

    missing: list[Span] | None = None
    chunk_size: int = 1


@dataclass(frozen=True, slots=True)
class Opened:
    """The first answer was accepted: ranges work. `missing` covers the first run too.

    `waited_s` is how long the answer took to begin. `multiplexed`: a request that is cut short does not cost
    its connection.
    """

    missing: list[Span]
    chunk_size: int
    waited_s: float | None = None
    multiplexed: bool = False


@dataclass(frozen=True, slots=True)
class Single:
    """The first answer is the whole object in one stream; ranges do not work. `size` is None when unknown."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The request of `slot` ended with everything before `pos` in place, or, of a racer, at hand. `jitter` in
    [0, 1) is a fresh random number; `waited_s` is how long its answer took to begin.
    """

    slot: int
    pos: int
    error: FastxferError | None = None
    jitter: float = 0.5
    waited_s: float | None = None


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
    """At most so many requests may be out. Those that are out over it go on, and no new one begins. `share`:
    how many may be out in the end, where that is more.
    """

    requests: int
    share: int = 0


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
class Shrink:
    """The run of `slot` ends at `stop`, which it has not reached, and not where its request ends."""

    slot: int
    stop: int


@dataclass(frozen=True, slots=True)
class Race:
    """Ask for [start, stop) on `slot`, and keep the bytes aside: they are another slot's to write."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """What `slot` has raced for is written from `pos` on: it is the slot's run now. If its request has ended
    already, report it with `Ended` again.
    """

    slot: int
    pos: int


@dataclass(frozen=True, slots=True)
class Complete:
    """Every byte is in place."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The transfer fails with this error."""

    error: FastxferError


Command = Fetch | Abort | Shrink | Race | Adopt | Complete | GiveUp
