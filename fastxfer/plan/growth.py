"""How many requests may be out, while the path shows what it can carry: a pure state machine.

The first few go out at once and their number doubles every STEP_S, without waiting for an answer, up to
QUICK: a judgement takes longer than that whole ramp. Over QUICK each doubling waits until the requests that
are out have brought bytes for WINDOW_S, and is the last one when it raised the total rate by less than GAIN.
That *plateau* is left again when the total rate falls, which is how a first burst ends, and from time
to time for a try, which is taken back if it does not help.

While what takes the bytes is `busy` the level stays: more requests would bring it less for each turn, and
nothing sooner. Whether it will be shows soon where answers begin at once: there the first few bring bytes for
JUDGED_S before there are more, unless what they bring is little.
"""

from __future__ import annotations

import math

FIRST = 4
QUICK = 16
STEP_S = 0.01
# Who was busy is given no more before it was not for so long.
BUSY_S = 0.2
# So long the first few requests bring bytes before a near server is asked for more; if they bring none for
# SILENT_S they are not waited for.
JUDGED_S = 0.03
SILENT_S = 0.1
# Bytes a second of which nobody is busy: in the first SILENT_S it was with something else.
LITTLE = 100e6
WINDOW_S = 0.2
# The requests of a new level that have brought nothing after so long are not waited for.
SETTLE_S = 2.0
GAIN = 1.1
FALL = 0.8
# The first try comes early: what was measured may have been a burst.
AGAIN_S = 2.0
MOST_AGAIN_S = 32.0


class Growth:
    """The level of a transfer: at most `ceiling` requests. Times are in seconds, counts in bytes."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.level = min(FIRST, ceiling)
        """How many requests may be out."""
        self._now = 0.0
        self._begun_at = self._grown_at = self._step_at = 0.0
        self._busy_at = -math.inf
        self._seen: tuple[float, int] | None = None
        self._little: bool | None = None  # is what came, when it was last seen
        self._window: tuple[float, int] | None = None
        self._before = 0.0  # the rate at the level before; 0 when it is not known
        self._plateau: tuple[float, float] | None = None  # since when, at which rate
        self._tried_from: int | None = None  # the plateau's level, while another one is tried
        self._again_s = AGAIN_S

    def begin(self, now: float) -> None:
        """Starts at the first level."""
        self.level = min(FIRST, self._ceiling)
        self._begun_at = self._grown_at = now
        self._step_at, self._before = now + STEP_S, 0.0
        self._window = self._plateau = None

    @property
    def stays(self) -> bool:
        """Whether the level waits for who takes the bytes."""
        return self._now < self._busy_at + BUSY_S

    @property
    def soon(self) -> int:
        """The level that it has in a moment, without measuring."""
        return self.level if self.stays else max(self.level, min(QUICK, self._ceiling))

    def next_wake(self) -> float | None:
        """Returns when the level rises without being asked, or None when only measuring raises it."""
        return self._step_at if self.level < min(QUICK, self._ceiling) else None

    def step(
        self, now: float, moved: int, *, full: bool, flowing: bool, busy: bool = False, near: bool = False
    ) -> None:
        """Raises the level if it is time. `moved` counts all bytes so far; `full` says that there is work
        for more requests, `flowing` that each that is out brings bytes, or its slot did before, `busy` that
        who takes them could not take more, `near` that answers begin at once.
        """
        self._look(now, moved)
        if busy and (self._little is False or now - self._begun_at >= SILENT_S):
            self._busy_at = now
        if self.level < min(QUICK, self._ceiling):
            if self.stays:
                self._step_at = self._busy_at + BUSY_S
            elif now >= self._step_at:
                if near and self.level <= FIRST and self._judges(now, moved, flowing):
                    self._step_at = now + STEP_S
                else:
                    self._grow(now)
            return
        if self.level < self._ceiling:
            self._measure(now, moved, full and not busy, flowing)

    def _look(self, now: float, moved: int) -> None:
        self._now = now
        began, count = self._seen = self._seen or (now, moved)
        if now - began >= STEP_S:
            self._little = moved - count < LITTLE * (now - began)
            self._seen = (now, moved)

    def _judges(self, now: float, moved: int, flowing: bool) -> bool:
        """Returns whether it is yet to be seen what the first few requests bring."""
        if self._window is None:
            if not flowing:
                return now - self._grown_at < SILENT_S
            self._window = self._seen = (now, moved)
            self._little = None
        return not self._little and now - self._window[0] < JUDGED_S

    def _grow(self, now: float) -> None:
        self.level = min(2 * self.level, self._ceiling)
        self._grown_at, self._step_at = now, now + STEP_S
        self._window = self._plateau = None

    def _measure(self, now: float, moved: int, full: bool, flowing: bool) -> None:
        if not full:
            self._window = None
            return
        if self._window is None:
            if flowing or now >= self._grown_at + SETTLE_S:
                self._window = (now, moved)
            return
        began, count = self._window
        if now - began < WINDOW_S:
            return
        rate = (moved - count) / (now - began)
        self._window = (now, moved)
        if self._plateau is not None:
            since, height = self._plateau
            if rate < FALL * height or now - since >= self._again_s:
                self._before, self._tried_from = rate, self.level
                self._grow(now)
        elif rate >= GAIN * self._before:
            self._before, self._tried_from = rate, None
            self._grow(now)
        else:
            if self._tried_from is not None:
                self.level, self._tried_from = self._tried_from, None
                self._again_s = min(2 * self._again_s, MOST_AGAIN_S)
            self._plateau = (now, rate)
