"""How many requests may be out to one host (scheme, host and port), and whose: a pure state machine.

All transfers to the host ask the same `Governor`. It gives each its *room*: how many requests it may have out
now, never more together than the *most*, which is the smallest of

- the *cap* that the users set;
- the *limit* that the server taught. An answer of 429 or 503 says that what is out beside it is what the
  server bears: the limit falls to that, or to the half where that says nothing, at most once in HALVING_S.
  A connection that is refused halves it at the most. When all of the limit was in use for a quiet time it
  grows by one; a try that fails doubles the quiet time, so that tries get rare;
- what the other processes leave (sharing.py).

After an overload nothing new begins for PAUSE_S, or for as long as the server asked (Retry-After): by then
every transfer, and every process, knows.

Room is dealt one by one to who has least, who waited longest first (max-min fair); what one does not want the
others get. Nothing that is out is ended when room shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from itertools import count

from fastxfer.plan.retry import RETRY_AFTER_CAP_S
from fastxfer.values import dataclass

RECOVERY_S = 5.0
HALVING_S = 1.0
PAUSE_S = 0.25
LONGEST_QUIET_S = 300.0
# After a try that failed so many requests have to succeed before the next: fewer than 5% are refused.
SUCCESSES_A_TRY = 25
USUAL_CAP = 32


@dataclass(frozen=True, slots=True)
class Learned:
    """What a host taught, for all who ask it. Times are of one clock.

    limit: requests at once, or None before an overload. fell_at, changed_at: when it last fell, or changed
    at all. quiet_s: how long it stands before it grows. tried: it grew and has not fallen since. held_until:
    when the next request may begin.
    """

    limit: int | None = None
    changed_at: float = -math.inf
    fell_at: float = -math.inf
    quiet_s: float = 0.0
    tried: bool = False
    held_until: float = -math.inf

    def merged(self, other: Learned) -> Learned:
        """Returns what two processes know together: the limit of who knows of the last fall, and the longer
        wait.
        """
        later = max(self, other, key=lambda each: (each.fell_at, each.changed_at, -(each.limit or math.inf)))
        return replace(later, held_until=max(self.held_until, other.held_until))


@dataclass(slots=True)
class _Guest:
    """One transfer at the host."""

    cap: int | None
    connections: int
    turn: int
    wants: int = 0
    out: int = 0
    grew: bool = False  # it has told more than that it wants one

    @property
    def claims(self) -> int:
        """What it may soon want, at the beginning too, when it wants one to see what the server says."""
        return max(self.out, self.wants if self.grew or not self.wants else self.connections)


class Governor:
    """See the module. Not thread-safe; `now` in seconds of a clock that all who share `learned` have."""

    def __init__(self) -> None:
        self.learned = Learned()
        """What the host taught; others' news are taken over by setting it."""
        self.allowed: int | None = None
        """What this process may have out beside the others, or None when it goes by its own knowledge."""
        self.told = 0
        """How many requests the others were told last that are wanted here."""
        self._answered = 0  # what they had been told when they left `allowed`
        self.foreign = 0
        """Requests of other processes that the host is answering."""
        self._guests: dict[Hashable, _Guest] = {}
        self._turns = count()
        self._served = 0
        self._proved = (0, -math.inf)  # the most that were served at once of late, and when
        self._halved = (1, -math.inf)  # how far refused connections may lower the limit, and since when
        self._estimated = False  # the limit fell to what seemed to be borne, not by half
        self._successes = 0

    # ---- who is there ----

    def join(self, who: Hashable, *, cap: int | None = None, connections: int = 1) -> None:
        """Lets a transfer in that wants up to `connections` requests and allows the host `cap` in all."""
        self._guests[who] = _Guest(cap, connections, next(self._turns))

    def leave(self, who: Hashable) -> None:
        """Lets a transfer go, with all that it had out."""
        self._guests.pop(who, None)

    def wants(self, who: Hashable, requests: int) -> bool:
        """Tells how many requests the transfer would have out now if there were room; returns whether that
        is news.
        """
        guest = self._guests[who]
        news = guest.wants != requests
        guest.wants = requests
        guest.grew |= requests > 1
        return news

    @property
    def empty(self) -> bool:
        """True when no transfer is there."""
        return not self._guests

    @property
    def out(self) -> int:
        """How many requests are out, of this process."""
        return sum(guest.out for guest in self._guests.values())

    def out_of(self, who: Hashable) -> int:
        """Returns how many requests a transfer has out."""
        return self._guests[who].out

    @property
    def served(self) -> int:
        """How many requests of this process the host is answering."""
        return self._served

    @property
    def starved(self) -> bool:
        """True when requests wait for nothing but other processes."""
        return self.allowed is not None and self.allowed <= self.out < min(self.wanted, self._ceiling())

    @property
    def asks(self) -> bool:
        """True when requests wait for nothing but an answer of other processes."""
        return self.starved and self._answered < self.claimed

    @property
    def unasked(self) -> bool:
        """True when more may soon be wanted than the other processes were told."""
        return self.allowed is not None and self.told < min(self.claimed, self._ceiling())

    @property
    def wanted(self) -> int:
        """How many requests the transfers would have out, those that are out included."""
        return sum(max(guest.wants, guest.out) for guest in self._guests.values())

    @property
    def claimed(self) -> int:
        """How many requests the transfers want, or may want soon."""
        return sum(guest.claims for guest in self._guests.values())

    @property
    def cap(self) -> int | None:
        """The lowest cap that a transfer set, or None when none did."""
        return min((guest.cap for guest in self._guests.values() if guest.cap is not None), default=None)

    @property
    def floor(self) -> int:
        """What may be out when nobody set a cap: USUAL_CAP, or what one transfer alone asked for."""
        return max((guest.connections for guest in self._guests.values()), default=0)

    # ---- room ----

    def most(self, *, hoped: bool = False) -> int:
        """Returns how many requests of this process may be out now, if none were yet; `hoped`: or will be,
        unless other processes leave less than they are asked for.
        """
        cap = self._cap()
        if self.learned.limit is not None:
            cap = min(cap, self.learned.limit)
        if self.allowed is None or (hoped and self.allowed >= self._answered):
            return cap
        return min(cap, self.allowed)

    def held(self, now: float) -> bool:
        """Returns whether nothing new may begin."""
        return now < self.learned.held_until

    def rooms(self, now: float) -> dict[Hashable, int]:
        """Returns how many requests each transfer may have out now: what it has, and its part of what is
        free.
        """
        wants = {who: guest.wants for who, guest in self._guests.items()}
        return self._dealt(wants, now)

    def room(self, who: Hashable, now: float, *, hoped: bool = False) -> int:
        """Returns how many requests a transfer may have out now, if it wants as many as it ever may; `hoped`:
        or will, unless other processes leave less than they are asked for.
        """
        guest = self._guests[who]
        if len(self._guests) == 1:  # asked before each request, and most often so
            self._grow(now)
            free = 0 if self.held(now) else self.most(hoped=hoped) - guest.out
            return guest.out + max(0, min(free, max(guest.wants, guest.connections) - guest.out))
        wants = {each: guest.wants for each, guest in self._guests.items()}
        wants[who] = max(wants[who], guest.connections)
        return self._dealt(wants, now, hoped=hoped)[who]

    def _dealt(self, wants: dict[Hashable, int], now: float, *, hoped: bool = False) -> dict[Hashable, int]:
        self._grow(now)
        rooms = {who: guest.out for who, guest in self._guests.items()}
        free = 0 if self.held(now) else self.most(hoped=hoped) - self.out
        hungry = [who for who, room in rooms.items() if wants[who] > room]
        if sum(wants[who] - rooms[who] for who in hungry) <= free:
            return {who: max(room, wants[who]) for who, room in rooms.items()}
        if len(hungry) == 1:
            rooms[hungry[0]] += max(0, free)
            return rooms
        while free > 0 and hungry:
            who = min(hungry, key=lambda each: (rooms[each], self._guests[each].turn))
            rooms[who] += 1
            free -= 1
            if rooms[who] >= wants[who]:
                hungry.remove(who)
        return rooms

    def next_wake(self, now: float) -> float | None:
        """Returns when there may be more room though nothing ends, or None."""
        if self.wanted <= self.out:
            return None
        if self.held(now):
            return self.learned.held_until
        limit = self.learned.limit
        if limit is None or self.out + self.foreign < limit or self._successes < self._needed():
            return None
        return self.learned.changed_at + self.learned.quiet_s

    # ---- what happens ----

    def sent(self, who: Hashable) -> None:
        """A request went out."""
        guest = self._guests[who]
        guest.out += 1
        guest.turn = next(self._turns)

    def ended(self, who: Hashable, served: bool = False) -> None:
        """A request is over; `served`: `serves` was told of it."""
        self._guests[who].out -= 1
        self._served -= served

    def goes_on(self, who: Hashable, served: bool) -> bool:
        """Returns whether the next request may go out in the place of one that ended as it should, since this
        transfer is alone and nobody is in want; then it is `ended`, `succeeded` and `sent` in one. Made for
        many small requests; all that is less simple is to go by `room`.
        """
        guest, learned = self._guests[who], self.learned
        if len(self._guests) > 1 or learned.limit is not None or learned.held_until > -math.inf:
            return False
        cap = max(USUAL_CAP, guest.connections) if guest.cap is None else guest.cap
        if guest.out > cap or (self.allowed is not None and guest.out > self.allowed):
            return False
        self._served -= served
        self._successes += 1
        return True

    def serves(self, now: float) -> None:
        """The host began to answer a request with what was asked for."""
        self._served += 1
        if self._served >= self._proved[0] or now - self._proved[1] > HALVING_S:
            self._proved = (self._served, now)

    def succeeded(self, now: float) -> None:
        """A request ended as it should."""
        self._successes += 1

    def overloaded(self, now: float, retry_after_s: float | None = None) -> None:
        """The host answered 429 or 503. Called after `ended`."""
        proved = self._proved[0] if now - self._proved[1] <= HALVING_S else self._served
        borne = max(1, self.out + self.foreign, proved)
        limit = self._ceiling()
        if self.learned.tried:
            borne = max(borne, limit - 1)  # a try that fails costs no more than what was tried
        if borne < limit:
            self._fall(borne, now)
            self._estimated = True
        elif now - self.learned.fell_at >= HALVING_S:
            self._fall(max(1, limit // 2), now)
        wait_s = max(PAUSE_S, min(retry_after_s or 0.0, RETRY_AFTER_CAP_S))
        self.learned = replace(self.learned, held_until=max(self.learned.held_until, now + wait_s))

    def hears(self, allowed: int | None, foreign: int, learned: Learned, now: float) -> None:
        """Takes over what other processes told."""
        self.allowed, self.foreign, self._answered = allowed, foreign, self.told
        self.learned = self.learned.merged(learned)
        recent = now - self.learned.fell_at <= HALVING_S
        if self._estimated and recent and self.out + foreign > (self.learned.limit or math.inf):
            # Others are being served of whom it was not known yet.
            self.learned = replace(self.learned, limit=self.out + foreign, changed_at=now)

    def refused(self, now: float) -> None:
        """The host refused a connection, or ended it without an answer of use. Called after `ended`."""
        others = self.out + self.foreign
        limit = min(self._ceiling(), others + 1)
        if now - self._halved[1] >= HALVING_S:
            self._halved = (max(1, limit // 2), now)
        if others and max(self._halved[0], others) < limit:
            self._fall(max(self._halved[0], others), now)

    def _cap(self) -> int:
        return self.cap if self.cap is not None else max(USUAL_CAP, self.floor)

    def _ceiling(self) -> int:
        """Returns how many requests could have been out, of all processes."""
        if self.learned.limit is not None:
            return self.learned.limit
        return max(self._cap(), self.out + self.foreign + 1)

    def _fall(self, limit: int, now: float) -> None:
        quiet_s = self.learned.quiet_s or RECOVERY_S
        if self.learned.tried:
            quiet_s = min(LONGEST_QUIET_S, 2 * quiet_s)
        self._successes = 0
        self._estimated = False
        held_until = self.learned.held_until
        self.learned = Learned(limit, now, now, quiet_s, False, held_until)

    def _needed(self) -> int:
        return SUCCESSES_A_TRY if self.learned.quiet_s > RECOVERY_S else 0

    def _grow(self, now: float) -> None:
        """Raises the limit by one after a quiet time in which all of it was in use."""
        learned = self.learned
        if learned.limit is None or self.held(now) or self.wanted <= self.out:
            return
        due = now >= learned.changed_at + learned.quiet_s and self._successes >= self._needed()
        if due and self.out + self.foreign >= learned.limit:
            quiet_s = max(RECOVERY_S, learned.quiet_s / 2) if learned.tried else learned.quiet_s
            self._successes = 0
            self.learned = replace(
                learned, limit=learned.limit + 1, changed_at=now, quiet_s=quiet_s, tried=True
            )
