"""What this process tells others of the hosts that it asks, and hears from them (plan/sharing.py).

A thread of its own reads and writes the shared file (storage/commons.py): one exchange at a time, as soon as
there is news but never sooner than SOONEST_S after the last, and every EXCHANGE_S while there is anything to
tell.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable

from fastxfer.engine.loop import Engine, Timer, before_exit
from fastxfer.plan.governor import Learned
from fastxfer.plan.sharing import Board, Claim, Member, View, take_part
from fastxfer.storage.commons import Commons
from fastxfer.storage.disk import DiskThread

# Five system calls each: about ten a second.
EXCHANGE_S = 0.5
SOONEST_S = 0.1
OVERDUE_S = 2.0
THREAD = "fastxfer-hosts"
"""The name of the thread."""

Origin = tuple[str, str, int]
Ask = Callable[[], tuple[dict[Origin, Claim], dict[Origin, Learned]]]
Adopt = Callable[[dict[Origin, View] | None], None]


class Neighbours:
    """The exchange with other processes. It belongs to the engine's thread, but for what is marked.

    `ask` says what this process claims and knows of hosts; `adopt` gets the views of them, or None when
    nothing could be shared.
    """

    def __init__(self, engine: Engine, ask: Ask, adopt: Adopt) -> None:
        self.fault: str | None = None
        """Why nothing is shared, or None."""
        self._ask = ask
        self._engine = engine
        self._adopt = adopt
        self._me = os.urandom(8).hex()
        self._commons: Commons | None = None
        self._thread: DiskThread | None = None
        self._timer: Timer | None = None
        self._due = 0.0
        self._last = -SOONEST_S
        self._number = 0  # of the exchanges
        self._under_way = False
        self._again = False
        self._pid = os.getpid()
        before_exit(self._leave)

    def exchange_soon(self, *, at_once: bool = False) -> None:
        """Has an exchange begin as soon as may be, or at once."""
        if self._under_way:
            self._again = True
        else:
            self._at(time.monotonic() if at_once else max(time.monotonic(), self._last + SOONEST_S))

    def _at(self, due: float) -> None:
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._engine.call_later(max(0.0, due - time.monotonic()), self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._under_way, self._again = True, False
        self._number += 1
        self._last = time.monotonic()
        claims, learned = self._ask()
        names = {_name(at): at for at in claims}
        mine = {_name(at): claim for at, claim in claims.items()}
        known = {_name(at): each for at, each in learned.items()}
        if self._thread is None:
            self._thread = DiskThread(THREAD)

        number = self._number
        self._engine.call_later(OVERDUE_S, lambda: self._overdue(number))

        def done(views: dict[str, View] | None, error: BaseException | None) -> None:
            self._engine.call_soon(lambda: self._done(number, names, views, error))

        self._thread.submit(lambda: self._exchange(mine, known), done)

    def _exchange(self, claims: dict[str, Claim], learned: dict[str, Learned]) -> dict[str, View]:
        """Its own thread: see `Commons.exchange`."""
        if self._commons is None:
            self._commons = Commons()
        return self._commons.exchange(lambda board: self._change(board, claims, learned))

    def _change(
        self, board: Board, claims: dict[str, Claim], learned: dict[str, Learned]
    ) -> tuple[Board, dict[str, View]]:
        namespace = self._commons.namespace if self._commons is not None else 0
        now = time.monotonic()
        return take_part(board, self._me, Member(self._pid, namespace, now, claims), learned, now)

    def _leave(self) -> None:
        """Any thread, at the end of the interpreter: takes this process from the board."""
        if self._commons is not None and self._pid == os.getpid():
            try:
                Commons().exchange(lambda board: self._change(board, {}, {}))
            except OSError:
                pass  # it is missed soon

    def _overdue(self, number: int) -> None:
        """Goes on alone when the file system does not answer."""
        if self._under_way and number == self._number and self._thread is not None:
            self._thread.stop()
            self._thread = self._commons = None
            self._done(number, {}, None, TimeoutError("the file that they share does not answer"))

    def _done(
        self,
        number: int,
        names: dict[str, Origin],
        views: dict[str, View] | None,
        error: BaseException | None,
    ) -> None:
        if number != self._number or not self._under_way:
            return  # it came too late
        self._under_way = False
        self.fault = None if error is None else str(error)
        self._adopt(None if views is None else {names[name]: view for name, view in views.items()})
        if self._again:
            self._at(max(time.monotonic(), self._last + SOONEST_S))
        elif names or error is not None:
            self._at(self._last + EXCHANGE_S)
        elif self._thread is not None:
            self._thread.stop()  # nobody asks anything: the next one begins afresh
            self._thread = self._commons = None


def _name(at: Origin) -> str:
    """Returns the name of a host in the shared file, from which the host cannot be read."""
    return hashlib.blake2b(repr(at).encode(), digest_size=12).hexdigest()
