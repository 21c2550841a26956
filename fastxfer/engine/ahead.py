"""Connections that are made ahead, while the first answer is on its way; plan/ahead.py says how many.

They are plain TCP connections of ours to the very address that the first one went to (a proxy's, where there
is one). libcurl gets them when it wants to open a socket to that address, and is told that it is connected:
what follows, TLS for example, is its own. Belongs to the engine's thread; runs inside libcurl too, and never
enters it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from fastxfer.plan import ahead
from fastxfer.values import dataclass

Address = tuple[int, str, int]
"""Family, host and port."""

_MIN_RTT_AT = 148  # tcpi_min_rtt of struct tcp_info (linux/tcp.h), in microseconds
_UNKNOWN = 2**32 - 1
MAX_USELESS = 1024


@dataclass(slots=True, eq=False)
class _Batch:
    address: Address
    owner: object
    sockets: list[socket.socket]
    made_at: float
    round_trip_s: float
    taken: bool = False


class Ahead:
    """The connections that wait to be taken: at most one batch for an address."""

    def __init__(self, call_later: Callable[[float, Callable[[], object]], object]) -> None:
        self._call_later = call_later
        self._batches: dict[Address, _Batch] = {}
        self._useless: dict[Address, float] = {}  # where nothing was taken, and when

    def __bool__(self) -> bool:
        return bool(self._batches)

    def make(self, fd: int, count: int, owner: object, late_s: float = 0.0) -> bool:
        """Begins to make `count` connections like the one behind a descriptor, if its server is far; the
        answer on it is awaited for `late_s` seconds already.
        """
        try:
            with socket.socket(fileno=os.dup(fd)) as first:
                family, kind, protocol = first.family, first.type, first.proto
                where, round_trip_s = first.getpeername(), _round_trip_s(first)
        except (OSError, ValueError):
            return False
        if kind != socket.SOCK_STREAM or not ahead.is_far(round_trip_s, late_s):
            return False
        round_trip_s = max(round_trip_s, late_s)
        address, now = _address(family, where), time.monotonic()
        if address in self._batches or now - self._useless.get(address, -ahead.USELESS_S) < ahead.USELESS_S:
            return False
        sockets: list[socket.socket] = []
        for _ in range(count):
            try:
                sockets.append(_connecting(family, protocol, where))
            except OSError:
                break  # no more descriptors, for example: whoever needs one will say so
        batch = self._batches[address] = _Batch(address, owner, sockets, now, round_trip_s)
        self._call_later(ahead.KEEP_S, lambda: self._drop(batch))
        return True

    def take(self, family: int, where: Any) -> socket.socket | None:
        """Returns a connection to an address, which may need a moment more, or None when there is none."""
        batch = self._batches.get(_address(family, where))
        if batch is None:
            return None
        there, coming = _sorted(batch.sockets)
        late = time.monotonic() - batch.made_at > ahead.OVERDUE * batch.round_trip_s
        usable = there if late else there + coming
        batch.sockets = there + coming
        if not usable:
            return None
        batch.taken = True
        batch.sockets.remove(usable[0])
        return usable[0]

    def let_go(self, owner: object) -> None:
        """Closes what was made for `owner` and not taken."""
        for batch in list(self._batches.values()):
            if batch.owner is owner:
                self._drop(batch)

    def close(self) -> None:
        """Closes all."""
        for batch in list(self._batches.values()):
            self._drop(batch)

    def _drop(self, batch: _Batch) -> None:
        if self._batches.get(batch.address) is not batch:
            return
        del self._batches[batch.address]
        for each in batch.sockets:
            each.close()
        if batch.taken:
            return
        if len(self._useless) >= MAX_USELESS:
            self._useless.clear()
        self._useless[batch.address] = time.monotonic()


def _address(family: int, where: Any) -> Address:
    return int(family), where[0], where[1]


def _connecting(family: int, protocol: int, where: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        made.setblocking(False)
        made.connect(where)
    except BlockingIOError:
        pass
    except OSError:
        made.close()
        raise
    return made


def _sorted(sockets: list[socket.socket]) -> tuple[list[socket.socket], list[socket.socket]]:
    """Returns those that are connected and those that will be; closes those that broke, or on which the
    server has said something that nobody asked for.
    """
    poll = select.poll()
    for each in sockets:
        poll.register(each, select.POLLIN | select.POLLOUT)
    events = dict(poll.poll(0))
    there = [each for each in sockets if events.get(each.fileno()) == select.POLLOUT]
    coming = [each for each in sockets if each.fileno() not in events]
    for each in sockets:
        if events.get(each.fileno(), select.POLLOUT) != select.POLLOUT:
            each.close()
    return there, coming


def _round_trip_s(connected: socket.socket) -> float:
    """Returns the shortest round trip that the kernel has seen on a connection, or 0.0 when it tells none."""
    if sys.platform != "linux":
        return 0.0
    told = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT_AT + 4)
    least_us = int.from_bytes(told[_MIN_RTT_AT:], sys.byteorder) if len(told) == _MIN_RTT_AT + 4 else 0
    return 0.0 if least_us == _UNKNOWN else least_us / 1e6
