"""How the transfers of a process, and the processes of a user, share hosts and rates.

Each download has a `Tenancy`. It asks there for *room* (how many requests it may have out), tells what goes
out and how it ends, and is called when there is more room. Behind it stand one `Governor` a host
(plan/governor.py), one `Dealer` of bytes (plan/rates.py), and what other processes say (neighbours.py).
Without these, for what reason ever, this process goes by its own knowledge, and `fault` says so.

All of it belongs to the engine's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

from fastxfer._native.writer import Throttle
from fastxfer.engine.loop import Engine, Timer
from fastxfer.errors import FastxferError, NetworkError, OverloadedError, TooSlowError
from fastxfer.neighbours import Neighbours, Origin
from fastxfer.options import TransferOptions
from fastxfer.plan.governor import Governor, Learned
from fastxfer.plan.rates import Dealer
from fastxfer.plan.sharing import Claim, View
from fastxfer.sources.http import origin

REFILL_S = 0.02
LINGER_S = 2.0


class Tenancy:
    """One transfer's side of it. `on_room` is called when there is more room, `on_tokens` when `throttle` was
    refilled. Nothing is asked or told before `begin` and after `end`.
    """

    def __init__(
        self,
        options: TransferOptions,
        throttle: Throttle,
        on_room: Callable[[], object],
        on_tokens: Callable[[], object],
    ) -> None:
        self.options = options
        self.throttle = throttle
        self.on_room = on_room
        self.on_tokens = on_tokens
        self.passed = False
        """It was called and had no use for its room; it is not called again before it says something."""
        self._out: dict[int, tuple[Origin, bool]] = {}
        self._desk: Desk | None = None
        self._at: dict[Origin, Governor] = {}
        self._pays_at: frozenset[Origin] = frozenset()

    def begin(self, engine: Engine, url: str) -> None:
        """Begins to ask the host of a URL, if it asks none yet."""
        if self._desk is None:
            self._desk = _shared_desk(engine)
            self._governor(url)

    def end(self) -> None:
        """Gives everything back."""
        if self._desk is not None:
            self._desk.leave(self)
            self._desk = None
            self._at.clear()
            self._pays_at = frozenset()
            self._out.clear()

    def _governor(self, url: str) -> Governor | None:
        """Returns that of a URL's host, which is asked from now on, or None while nothing is."""
        at = origin(url)
        if at not in self._at and self._desk is not None:
            self._at[at] = self._desk.enter(self, at)
        return self._at.get(at)

    @property
    def fault(self) -> str | None:
        """Why nothing is shared with other processes, or None."""
        return self._desk.fault if self._desk is not None else None

    @property
    def held(self) -> bool:
        """True while a host has asked to be left alone."""
        now = time.monotonic()
        return any(governor.held(now) for governor in list(self._at.values()))

    def room(self, url: str, *, hoped: bool = False) -> int:
        """Returns how many requests may be out, where new ones go to the host of a URL; `hoped`: or will be,
        unless other processes leave less than they are asked for.
        """
        governor = self._governor(url)
        if governor is None:
            return 0
        elsewhere = len(self._out) - governor.out_of(self)
        return governor.room(self, time.monotonic(), hoped=hoped) + elsewhere

    def may_send(self, url: str, waiting: int = 1) -> bool | None:
        """Returns whether a request may go to the host of a URL now; if not, so many wait for room there.
        None means that the other processes are being asked.
        """
        governor = self._governor(url)
        if governor is None or self._desk is None:
            return None
        if self.room(url) > len(self._out):
            return True
        self.passed = False
        if governor.wants(self, governor.out_of(self) + waiting):
            self._desk.look_again()
        return None if governor.asks else False

    def wants(self, requests: int, url: str) -> None:
        """Tells how many requests would be out if there were room, new ones at the host of a URL."""
        here = self._governor(url)
        for governor in self._at.values():
            out = governor.out_of(self)
            wish = max(0, requests - len(self._out) + out) if governor is here else out
            # Called before it could use its room, and now that it wants it there is none: it waits for more.
            waits = self.passed and wish > out and governor.room(self, time.monotonic()) <= out
            if governor.wants(self, wish) or waits:
                self.passed = False
        if self._desk is not None:
            self._desk.look_again()

    def sent(self, slot: int, url: str) -> None:
        """A request goes out on a slot, to the host of a URL."""
        self.passed = False
        governor = self._governor(url)
        if governor is None or self._desk is None:
            return
        governor.sent(self)
        at = origin(url)
        self._out[slot] = at, False
        if self._pays_at == {at}:
            return
        hosts = frozenset(each for each, _ in self._out.values())
        if hosts != self._pays_at:
            self._pays_at = hosts
            self._desk.pays(self, hosts)

    def serves(self, slot: int) -> None:
        """The request of a slot is answered with bytes of the object."""
        at, served = self._out.get(slot, (None, True))
        if at is not None and not served:
            self._out[slot] = at, True
            self._at[at].serves(time.monotonic())

    def goes_on(self, slot: int) -> bool:
        """Returns whether the slot's request, which ended as it should, may be followed at once by the next
        to the same host. It is then counted as over, and the next one as sent, and as served until it is over
        too.
        """
        at, served = self._out[slot]
        if self._desk is None or not self._at[at].goes_on(self, served=False):
            return False
        if not served:
            self.serves(slot)
        return True

    def ended(self, slot: int, moved: bool, error: FastxferError | None) -> None:
        """The request of a slot is over, and brought bytes if it `moved`."""
        at, served = self._out.pop(slot, (None, False))
        if at is None or self._desk is None:
            return
        governor = self._at[at]
        self.passed = False
        governor.ended(self, served)
        now = time.monotonic()
        if isinstance(error, OverloadedError):
            governor.overloaded(now, error.retry_after_s)
            self._desk.exchange_soon()
        elif isinstance(error, TooSlowError) or (isinstance(error, NetworkError) and not moved):
            governor.refused(now)
        elif error is None and moved:
            governor.succeeded(now)
        self._desk.look_again()


class Desk:
    """What all tenancies of a process share."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._governors: dict[Origin, Governor] = {}
        self._left: dict[Origin, float] = {}  # hosts that nobody asks any more, and since when
        self._tenants: dict[Tenancy, set[Origin]] = {}
        self._dealer = Dealer()
        self._dealing = False
        self._looking = False
        self._wake: Timer | None = None
        self._neighbours = Neighbours(engine, self._claims, self._adopt)

    @property
    def fault(self) -> str | None:
        """Why nothing is shared with other processes, or None."""
        return self._neighbours.fault

    # ---- who is there ----

    def enter(self, who: Tenancy, at: Origin) -> Governor:
        """Returns the governor of a host that a transfer asks from now on."""
        governor = self._governors.get(at)
        if governor is None:
            governor = self._governors[at] = Governor()
            governor.allowed = 0  # until the other processes are known
        if who not in self._tenants:
            self.pays(who, {at})
        self._tenants.setdefault(who, set()).add(at)
        options = who.options
        governor.join(who, cap=options.connections_per_host, connections=options.connections)
        governor.wants(who, 1)
        if governor.unasked:
            self._neighbours.exchange_soon(at_once=True)
        self._left.pop(at, None)
        return governor

    def pays(self, who: Tenancy, hosts: Collection[Origin]) -> None:
        """Counts what a transfer takes at these hosts from now on."""
        self._dealer.join(who, hosts, *who.options.rates, time.monotonic())
        self._engine.call_soon(self._deal)

    def leave(self, who: Tenancy) -> None:
        """Lets a transfer go."""
        for at in self._tenants.pop(who, set()):
            self._governors[at].leave(who)
            if self._governors[at].empty:
                self._left[at] = time.monotonic()
        self._dealer.leave(who, time.monotonic())
        self._engine.call_soon(self._deal)
        self.look_again()

    # ---- room ----

    def look_again(self) -> None:
        """Has those called, soon, who have room that they do not use."""
        if not self._looking:
            self._looking = True
            self._engine.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        now = time.monotonic()
        wakes: list[float] = []
        for governor in list(self._governors.values()):
            self._call_those_with_room(governor, now)
            wake = governor.next_wake(now)
            if wake is not None:
                wakes.append(wake)
        if any(each.starved and each.claimed != each.told for each in self._governors.values()):
            self.exchange_soon()
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if wakes:
            self._wake = self._engine.call_later(max(0.0, min(wakes) - now) + 0.001, self._look)

    def _call_those_with_room(self, governor: Governor, now: float) -> None:
        for who, room in governor.rooms(now).items():
            assert isinstance(who, Tenancy)
            if who in self._tenants and room > governor.out_of(who) and not who.passed:
                who.passed = True
                who.on_room()
                # Others that were called may have been quicker: then it was no refusal.
                if who in self._tenants and governor.room(who, now) <= governor.out_of(who):
                    who.passed = False

    # ---- bytes ----

    def _deal(self) -> None:
        now = time.monotonic()
        given = self._dealer.deal({who: who.throttle.tokens for who in self._tenants}, now)
        for who in list(self._tenants):
            who.throttle.tokens = given[who]
            if given[who] > 0:
                who.on_tokens()
        if self._dealer.limited and not self._dealing:
            self._dealing = True
            self._engine.call_later(REFILL_S, self._deal_again)

    def _deal_again(self) -> None:
        self._dealing = False
        self._deal()

    # ---- other processes ----

    def exchange_soon(self) -> None:
        """Tells the other processes how it stands here, and hears how it stands there."""
        self._neighbours.exchange_soon()

    def _claims(self) -> tuple[dict[Origin, Claim], dict[Origin, Learned]]:
        """Returns what this process asks of hosts, and knows of them. Hosts that nobody asks any more it
        claims a permit of for LINGER_S, so that the next transfer may begin at once; then it forgets them.
        """
        now = time.monotonic()
        for at in [at for at, since in self._left.items() if now - since > LINGER_S]:
            del self._left[at], self._governors[at]
        for each in self._governors.values():
            each.told = int(each.empty) or each.claimed
        claims = {
            at: Claim(each.out, each.told, each.served, cap=each.cap, floor=each.floor)
            for at, each in self._governors.items()
        }
        return claims, {at: each.learned for at, each in self._governors.items()}

    def _adopt(self, views: dict[Origin, View] | None) -> None:
        """Goes by what the other processes said; by this one's own knowledge where that is None."""
        now = time.monotonic()
        for at, governor in self._governors.items():
            if views is None:
                governor.hears(None, 0, governor.learned, now)
            elif at in views:
                view = views[at]
                governor.hears(view.allowed, view.foreign, view.learned, now)
        if any(views is not None and at not in views for at in self._governors):
            self.exchange_soon()  # a host that came while the exchange was on its way
        self.look_again()


_desk: Desk | None = None


def _shared_desk(engine: Engine) -> Desk:
    """Engine's thread. Returns the one desk of this process; a forked child gets one of its own."""
    global _desk  # noqa: PLW0603 - the one desk of the process
    if _desk is None:
        _desk = Desk(engine)
    return _desk


def _leave_to_parent() -> None:
    global _desk  # noqa: PLW0603 - the one desk of the process
    _desk = None


os.register_at_fork(after_in_child=_leave_to_parent)
