"""Rates from byte counts and times that the caller measured."""

from __future__ import annotations

import math

BURST_S = 0.1


class RateMeter:
    """An exponentially smoothed rate. `update(total, now)` takes a growing byte count and a time in
    seconds.
    """

    def __init__(self, time_constant_s: float = 3.0) -> None:
        self._tau = time_constant_s
        self._begin(None)

    def _begin(self, last: tuple[int, float] | None) -> None:
        self._last, self._weight, self._value = last, 0.0, 0.0

    @property
    def rate(self) -> float:
        """Bytes a second; 0.0 before the second update."""
        return self._value / self._weight if self._weight else 0.0

    def update(self, total: int, now: float) -> float:
        """Takes the count at a time and returns the rate. Counts and times that go backwards start the
        measuring anew.
        """
        if self._last is None or total < self._last[0] or now < self._last[1]:
            self._begin((total, now))
            return 0.0
        elapsed = now - self._last[1]
        if elapsed <= 0:
            return self.rate
        # Dividing by the accumulated weight keeps the first seconds unbiased: no slow climb from zero.
        keep = math.exp(-elapsed / self._tau)
        self._value = self._value * keep + (total - self._last[0]) / elapsed * (1 - keep)
        self._weight = self._weight * keep + (1 - keep)
        self._last = (total, now)
        return self.rate


class TokenBucket:
    """A rate limit: how many bytes may pass, given how many were left and the time (in seconds) that went
    by.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.burst = max(1, int(rate * BURST_S))
        self._rate = rate
        self._last = now
        self._rest = 0.0

    def refill(self, tokens: int, now: float) -> int:
        """Returns the tokens at `now`: those left (perhaps under 0) and the new ones, at most a burst."""
        fresh = self._rate * max(0.0, now - self._last) + self._rest
        self._last = now
        self._rest = fresh % 1.0
        return min(self.burst, tokens + int(fresh))
