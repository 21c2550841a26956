"""Rates from byte counts and times that the caller measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import field

from fastxfer.plan.fairness import shares
from fastxfer.values import dataclass

BURST_S = 0.1
# A thread that waited for no more than this part of the last so many seconds has no time to spare.
LOAD_S = 0.02
SPARE = 0.5
UNLIMITED = 1 << 62
"""Tokens of who may take what it likes."""


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


class Load:
    """Whether a thread has time to spare. `update(idle_s, now)` takes for how long it had nothing to do, in
    all, and a time, in seconds.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self.full = False
        """It was at work for most of the last LOAD_S, or a little more."""

    def update(self, idle_s: float, now: float) -> None:
        """See the class."""
        if self._last is None:
            self._last = idle_s, now
        elif now - self._last[1] >= LOAD_S:
            self.full = idle_s - self._last[0] <= SPARE * (now - self._last[1])
            self._last = idle_s, now


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


class _Pot:
    """The tokens that some share, by one rate."""

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self.tokens = 0
        self._bucket = TokenBucket(rate, now)

    def refill(self, now: float) -> None:
        self.tokens = self._bucket.refill(self.tokens, now)


@dataclass(slots=True)
class _Payer:
    hosts: Collection[Hashable]
    rates: tuple[int | None, int | None, int | None]  # of itself, of its hosts, of the process
    given: int = UNLIMITED
    hungry: bool = True
    pots: list[_Pot] = field(default_factory=list)


class Dealer:
    """Deals out the bytes that transfers may take: each is held to its own rate, and with others to that of
    its host and that of the process, in max-min fair parts.

    The lowest rate that a transfer states for its hosts, or for the process, holds for all there. What comes
    from several hosts at once counts in full at each.
    """

    def __init__(self) -> None:
        self._payers: dict[Hashable, _Payer] = {}
        self._pots: dict[tuple[str, Hashable], _Pot] = {}

    def join(
        self,
        who: Hashable,
        hosts: Collection[Hashable],
        own: int | None,
        per_host: int | None,
        total: int | None,
        now: float,
    ) -> None:
        """Lets a transfer in, with the rates that it states; once more, when it goes to other hosts."""
        before = self._payers.get(who)
        self._payers[who] = _Payer(hosts, (own, per_host, total))
        if before is not None:
            self._payers[who].given = before.given
        self._place_pots(now)

    def leave(self, who: Hashable, now: float) -> None:
        """Lets a transfer go, and what it stated."""
        self._payers.pop(who, None)
        self._place_pots(now)

    @property
    def limited(self) -> bool:
        """True when any rate holds."""
        return bool(self._pots)

    def deal(self, left: Mapping[Hashable, int], now: float) -> dict[Hashable, int]:
        """Returns how many bytes each may take from now on, given what is `left` (perhaps under 0) of what
        it was told before.
        """
        for who, payer in self._payers.items():
            if payer.given != UNLIMITED:
                used = payer.given - left[who]
                # Who took nothing of what it had gets a single token: it may begin again at once.
                payer.hungry = used > 0 or payer.given == 0
                for pot in payer.pots:
                    pot.tokens -= used
        for pot in self._pots.values():
            pot.refill(now)
        wishes = {who: UNLIMITED if payer.hungry else 1 for who, payer in self._payers.items()}
        for pot in self._pots.values():
            concerned = [who for who, payer in self._payers.items() if pot in payer.pots]
            parts = shares(max(0, pot.tokens), [wishes[who] for who in concerned])
            wishes |= dict(zip(concerned, parts, strict=True))
        for who, payer in self._payers.items():
            payer.given = wishes[who] if payer.pots else UNLIMITED
        return {who: payer.given for who, payer in self._payers.items()}

    def _place_pots(self, now: float) -> None:
        """Keeps a pot for each rate that holds now: of transfers, then of hosts, then of the process."""
        rates: dict[tuple[str, Hashable], int] = {}
        for kind, which in (("transfer", 0), ("host", 1), ("process", 2)):
            for key, stated in self._stated(kind, which):
                rates[key] = min(stated, rates.get(key, stated))
        old = self._pots
        self._pots = {
            key: old[key] if key in old and old[key].rate == rate else _Pot(rate, now)
            for key, rate in rates.items()
        }
        for who, payer in self._payers.items():
            keys = [("transfer", who), *(("host", host) for host in payer.hosts), ("process", None)]
            payer.pots = [self._pots[key] for key in keys if key in self._pots]

    def _stated(self, kind: str, which: int) -> Iterable[tuple[tuple[str, Hashable], int]]:
        for who, payer in self._payers.items():
            rate = payer.rates[which]
            if rate is not None:
                whose: Collection[Hashable] = payer.hosts if which == 1 else [who if which == 0 else None]
                yield from (((kind, each), rate) for each in whose)
