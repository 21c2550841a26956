"""A scenario: a server that answers by the book but for the requests a test chooses, and a fetch from it.

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(no_content_range, once_later)
        scenario.arrives()

A *resumed* scenario has half of the object in its part file before the misbehaviour begins; the first request
counts from there. Every fetch has a deadline: a scenario that hangs fails.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import fastxfer
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Content, Fault, Fields, Handler, RangeHandler, RawServer, Request

SIZE = 4 * 1024**2 + 17
HALF = SIZE // 2
DEADLINE_S = 10.0
OBJECT = make_bytes(SIZE, 1)
OTHER = make_bytes(SIZE, 2)
DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
LATER_DATE = "Thu, 02 Jan 2025 00:00:00 GMT"
QUICK: dict[str, Any] = {"retries": 2, "stall_timeout": 0.5, "connect_timeout": 0.5}

everywhere = pytest.mark.parametrize(
    ("connections", "resumed"),
    [(1, False), (16, False), (1, True), (16, True)],
    ids=["1-fresh", "16-fresh", "1-resumed", "16-resumed"],
)
crosswise = pytest.mark.parametrize(
    ("connections", "resumed"), [(1, False), (16, True)], ids=["1-fresh", "16-resumed"]
)
"""For tests with many cases of their own: each connection count and each beginning once."""
fresh = pytest.mark.parametrize("connections", [1, 16])


def sha256_of(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hex, as the option `checksum` takes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that is to be answered wrongly: what it asked of which object."""

    request: Request
    connection: Connection
    content: Content
    start: int
    stop: int
    fields: Mapping[str, str]
    """The fields of the right answer."""

    @property
    def data(self) -> bytes:
        """The bytes that were asked for."""
        return self.content.data[self.start : self.stop]

    @property
    def ranged(self) -> bool:
        """True when a range was asked for."""
        return bool(self.request.range)

    def with_fields(self, **changes: str | None) -> dict[str, str]:
        """Returns the right answer's fields with some changed, or out where None; `_` is for `-`."""
        named = {name.replace("_", "-"): value for name, value in changes.items()}
        changed = {name: value for name, value in self.fields.items() if name not in named}
        return {**changed, **{name: value for name, value in named.items() if value is not None}}

    def send(
        self,
        status: int | None = None,
        fields: Fields | None = None,
        body: bytes | None = None,
        *,
        version: str = "1.1",
    ) -> None:
        """Sends an answer; what is not given is as the right one has it."""
        status = status if status is not None else 206 if self.ranged else 200
        self.connection.send_head(status, self.fields if fields is None else fields, version=version)
        self.connection.send(self.data if body is None else body)


Answer = Callable[[Asked], None]
When = Callable[[int, Request], bool]


def always(_nth: int, _request: Request) -> bool:
    """Chooses every request."""
    return True


def first(nth: int, _request: Request) -> bool:
    """Chooses the first request only."""
    return nth == 0


def later(nth: int, _request: Request) -> bool:
    """Chooses every request but the first."""
    return nth > 0


def once_later(nth: int, _request: Request) -> bool:
    """Chooses the second request only."""
    return nth == 1


def and_again(when: When) -> When:
    """Chooses what `when` chooses first, and the next request for the same range: an answer that the client
    asks for once more, to be sure.
    """
    chosen: list[str] = []

    def again(nth: int, request: Request) -> bool:
        if (not chosen and when(nth, request)) or chosen == [request.range]:
            chosen.append(request.range)
            return True
        return False

    return again


class Misbehaving(RangeHandler):
    """Serves an object by the book, but for the requests chosen by `when` once `wrong` is set."""

    def __init__(
        self, data: bytes, etag: str | None, last_modified: str | None, honour_if_range: bool
    ) -> None:
        super().__init__(data, etag=etag, last_modified=last_modified, honour_if_range=honour_if_range)
        self.wrong: Answer | None = None
        self.when: When = always
        self.gate = threading.Event()
        """The wrong answers to later requests wait for it."""
        self.gate.set()
        self._lock = threading.Lock()
        self._count = 0

    def __call__(self, request: Request, connection: Connection) -> None:
        wrong = self.wrong
        if wrong is None:
            super().__call__(request, connection)
            return
        with self._lock:
            nth = self._count
            self._count += 1
        if not self.when(nth, request):
            super().__call__(request, connection)
            return
        if nth:
            connection.stall(self.gate)
        content = self.content
        start, stop = span_of(request, len(content.data))
        status = 206 if request.range else 200
        fields = self.head(content, status, (start, stop))
        wrong(Asked(request, connection, content, start, stop, fields))


def span_of(request: Request, size: int) -> tuple[int, int]:
    """Returns the half-open range that a request asks for; the whole object when it asks for none."""
    if not request.range:
        return 0, size
    begin, _, end = request.range.removeprefix("bytes=").partition("-")
    return int(begin), min(int(end) + 1, size)


class Scenario:
    """See the module. `out` is the final name, the only one in its directory.

    `serve` makes another server than a plain one; `options` are those of every fetch.
    """

    def __init__(
        self,
        tmp_path: Path,
        connections: int,
        resumed: bool = False,
        *,
        data: bytes = OBJECT,
        etag: str | None = '"v1"',
        last_modified: str | None = DATE,
        honour_if_range: bool = True,
        serve: Callable[[Handler], RawServer] = RawServer,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.options = {**QUICK, **(options or {})}
        self.directory = tmp_path / "target"
        self.directory.mkdir()
        self.out = self.directory / "out"
        self.connections = connections
        self.resumed = resumed
        self.data = data
        self.before = 0
        """Bytes in place when the misbehaviour begins."""
        self.handler = Misbehaving(data, etag, last_modified, honour_if_range)
        self.server = serve(self.handler)
        self.url = self.server.url()
        self._seen = 0

    def __enter__(self) -> Scenario:
        self.server.__enter__()
        if self.resumed:
            self.handler.faults = lambda request: Fault(status=404) if request.number >= 1 else None
            transfer = fastxfer.start(self.url, self.out, 1, **self.options)
            with pytest.raises(fastxfer.NotFoundError):
                wait(transfer)
            self.handler.faults = lambda request: None
            self.before = transfer.progress.done
            assert 0 < self.before < SIZE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, trace)

    def server_does(self, wrong: Answer, when: When = always) -> None:
        """Makes the server answer the requests chosen by `when` wrongly from now on."""
        self._seen = len(self.server.requests)
        self.handler.wrong, self.handler.when = wrong, when

    @property
    def requests(self) -> list[Request]:
        """The requests since the misbehaviour began."""
        return self.server.requests[self._seen :]

    def fetch(self, **options: Any) -> fastxfer.FetchResult:
        """Fetches the object within the deadline."""
        return wait(fastxfer.start(self.url, self.out, self.connections, **{**self.options, **options}))

    def arrives(self, data: bytes | None = None, **options: Any) -> fastxfer.FetchResult:
        """Asserts that the exact bytes (of `data`, or of the object) come to stand under the final name."""
        result = self.fetch(**options)
        expected = self.data if data is None else data
        assert self.out.read_bytes() == expected
        assert result.size == len(expected)
        assert self.names() == ["out"]
        return result

    def fails(
        self,
        kind: type[fastxfer.FastxferError],
        exit_code: int,
        *,
        kept: bool,
        **options: Any,
    ) -> fastxfer.FastxferError:
        """Asserts that the fetch fails so, leaves nothing under the final name, keeps the progress (or has
        none), and goes on from it once the server behaves.
        """
        if kept and not self.resumed:
            # Later misbehaviour begins when something worth keeping is in place.
            self.handler.gate.clear()
            options["progress"] = lambda now: self.handler.gate.set() if now.done else None
        with pytest.raises(fastxfer.FastxferError) as caught:
            self.fetch(**options)
        error = caught.value
        assert type(error) is kind, repr(error)
        assert error.exit_code == exit_code
        assert "\n" not in str(error)
        assert "internal error" not in str(error)
        self.stands(error, kept)
        return error

    def stands(self, error: fastxfer.FastxferError, kept: bool) -> None:
        """Asserts what a failure has left, and that a server which behaves is then enough."""
        if kept:
            assert error.kept is not None
            assert "out.part" in error.kept
            assert self.names() == ["out.part", "out.part.ckpt"]
        else:
            assert error.kept is None
            assert self.names() == []
        self.handler.wrong = None
        self.handler.gate.set()
        result = self.arrives()
        assert (result.resumed > 0) == kept
        assert result.resumed >= self.before
        assert result.resumed + result.transferred == len(self.data), "nothing is fetched twice"

    def names(self) -> list[str]:
        """Returns the names in the target's directory."""
        return sorted(path.name for path in self.directory.iterdir())


def wait(transfer: fastxfer.Transfer, deadline_s: float = DEADLINE_S) -> fastxfer.FetchResult:
    """Returns the result of a transfer, or fails the test at the deadline."""
    try:
        return transfer.wait(deadline_s)
    except fastxfer.TransferTimeoutError:
        if transfer.done:
            raise
        told = repr(transfer.progress)
        transfer.cancel()
        pytest.fail(f"the transfer is not over after {deadline_s:g} s: {told}")


def everything_stored(directory: Path) -> bytes:
    """Returns what a directory holds beside objects: names, attributes, and checkpoints."""
    stored = b""
    for path in directory.iterdir():
        stored += path.name.encode()
        if path.name != "out" and path.suffix != ".part":
            stored += path.read_bytes()
        for name in os.listxattr(path):
            stored += name.encode() + os.getxattr(path, name)
    return stored


class Speaker(RawServer):
    """A server that says its words to every connection before it is asked, and closes once the client has."""

    def __init__(self, words: bytes) -> None:
        super().__init__(lambda request, connection: None)
        self._words = words

    def _talk(self, connection: Connection) -> None:
        connection.send(self._words)
        connection.wait_until_gone()
