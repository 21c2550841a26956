"""A proxy before a tus server that counts what goes through it, and cuts, spoils or stops it at chosen bytes.

Places are counted in bytes of request bodies, over all requests together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.servers import ServerError
from tests.servers.gateway import Gateway, Inbound, Upstream
from tests.servers.raw import Connection, Request

DEADLINE_S = 60.0


@dataclass(slots=True)
class Passed:
    """One request: `offset` is the Upload-Offset that it had, `passed` the bytes of its body that went on,
    `told` the Upload-Offset that it was answered with, -1 for none.
    """

    method: str
    target: str
    offset: int
    passed: int = 0
    status: int = 0
    told: int = -1


class Relay(Gateway):
    """A context manager; `target` is where uploads are begun through it.

    cuts: at each of these places the connection is reset, on both sides.
    halt: from this place on nothing goes on, until the client is gone; `halted` tells that it was reached.
    spoil: the byte at this place is changed.
    act: called at the first cut, before the reset.
    """

    def __init__(
        self,
        server: str,
        *,
        cuts: Iterable[int] = (),
        halt: int | None = None,
        spoil: int | None = None,
        act: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(self._pass_on)
        url = urlsplit(server.removeprefix("tus+"))
        assert url.port is not None
        self._port = url.port
        self.target = f"tus+{self.url(url.path)}"
        self.requests_passed: list[Passed] = []
        self.halted = threading.Event()
        self._cuts = sorted(cuts)
        self._halt = halt
        self._spoil = spoil
        self._act = act
        self._total = 0
        self._lock = threading.Lock()

    def of(self, method: str) -> list[Passed]:
        """Returns the requests of a method, in order."""
        return [each for each in self.requests_passed if each.method == method]

    def go_on(self) -> None:
        """Ends what is left of requests, lets all through from now on, and forgets what went."""
        self.drop()
        self._halt = None
        self._cuts.clear()
        self.requests_passed.clear()
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes of bodies that went on."""
        return self._total

    def wait_until_halted(self) -> None:
        """Returns when the place was reached."""
        if not self.halted.wait(DEADLINE_S):
            raise ServerError(f"the relay has passed {self._total} bytes, and is to halt at {self._halt}")

    def _pass_on(self, request: Request, connection: Connection) -> None:
        assert isinstance(connection, Inbound)
        passed = Passed(request.method, request.target, int(request.headers.get("upload-offset", "-1")))
        self.requests_passed.append(passed)
        with Upstream(self._port) as upstream:
            upstream.send_head(request.method, request.target, request.headers)
            for piece in connection.pieces():
                if not self._sent_on(piece, upstream, passed):
                    self._stop(connection)
                    return
            response = upstream.response()
            passed.status = response.status
            passed.told = int(response.headers.get("Upload-Offset", "-1"))
            connection.answer(response)

    def _sent_on(self, piece: bytes, upstream: Upstream, passed: Passed) -> bool:
        """Sends a piece on, up to the next place; returns False where that is reached."""
        with self._lock:
            places = [*self._cuts[:1], *([] if self._halt is None else [self._halt])]
            room = min(places, default=self._total + len(piece) + 1) - self._total
            part = self._spoiled(piece[: max(0, room)])
            self._total += len(part)
        upstream.send(part)
        passed.passed += len(part)
        return room > len(piece)

    def _stop(self, connection: Inbound) -> None:
        with self._lock:
            cut = bool(self._cuts) and self._total >= self._cuts[0]
            if cut:
                self._cuts.pop(0)
        if cut:
            act, self._act = self._act, lambda: None
            act()
        else:
            self.halted.set()
            connection.wait_until_gone()
        connection.reset()

    def _spoiled(self, part: bytes) -> bytes:
        place = self._spoil
        if place is None or not self._total <= place < self._total + len(part):
            return part
        self._spoil, at = None, place - self._total
        return part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]
