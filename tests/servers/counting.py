"""A server of many objects that counts the requests it has at once: each from when it has come until the last
bytes of its answer go out. What it counts is never more than what a client has out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from tests.servers.raw import SEND_BYTES, Connection, RangeHandler, RawServer, Request


class CountingServer(RawServer):
    """A RawServer of the objects by their paths. Each answer takes `takes_s` at least, so that there are many
    at once. `before` is called with each request, and may wait.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes],
        takes_s: float = 0.0,
        before: Callable[[Request], object] = lambda request: None,
    ) -> None:
        super().__init__(self._answer)
        self.most = 0
        """The most requests that there were at once."""
        self.objects = {path: RangeHandler(data, etag=f'"{path}"') for path, data in objects.items()}
        self._takes_s, self._before = takes_s, before
        self._now = 0
        self._counts = threading.Lock()
        self._never = threading.Event()

    def _answer(self, request: Request, connection: Connection) -> None:
        self._count(1)
        try:
            self._before(request)
            self._never.wait(self._takes_s)
            end = self._answer_but_the_end(request, connection)
        finally:
            self._count(-1)
        end()

    def _answer_but_the_end(self, request: Request, connection: Connection) -> Callable[[], object]:
        """Sends an answer but for its last bytes; returns what sends those."""
        found = self.objects.get(request.target.partition("?")[0])
        if found is None:
            return lambda: connection.respond(404)
        content = found.content
        wanted = found.wanted(request, content)
        start, stop = span = wanted or (0, len(content.data))
        if wanted is not None and start >= len(content.data):
            return lambda: connection.respond(416, {"Content-Range": f"bytes */{len(content.data)}"})
        status = 200 if wanted is None else 206
        view = memoryview(content.data)
        last = max(start, stop - SEND_BYTES)

        def send(first: int, end: int) -> None:
            if first == start:
                connection.send_head(status, found.head(content, status, span))
            connection.send(view[first:end])

        if last > start:
            send(start, last)
        return lambda: send(last, stop)

    def _count(self, change: int) -> None:
        with self._counts:
            self._now += change
            self.most = max(self.most, self._now)
