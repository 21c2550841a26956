"""Several servers with copies of one object, each copy and each server wrong in its own way.

with Group(tmp_path, Copy(), Copy(data=OTHER), Copy(faults=later)) as group:
    result = group.arrives()
    assert group.names_in(result.notes) == {1}
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import fastxfer
from fastxfer.plan.mirrors import SAMPLE_BYTES
from tests.faults.scenarios import QUICK, sha256_of, span_of, wait
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Content, Fault, RangeHandler, RawServer, Request

SIZE = 24 * 1024**2 + 17
CHUNK = 256 * 1024
DEADLINE_S = 60.0
OBJECT = make_bytes(SIZE, 31)
OTHER = make_bytes(SIZE, 32)
SHA256 = sha256_of(OBJECT)


def damaged(*chunks: int, data: bytes = OBJECT) -> bytes:
    """Returns the object with one byte in each of these chunks changed."""
    copy = bytearray(data)
    for chunk in chunks:
        copy[chunk * CHUNK + 1000] ^= 0xFF
    return bytes(copy)


@dataclass
class Copy:
    """One server's copy. `faults` is as RangeHandler takes it; `held` has its answers to all requests but the
    first and those for samples wait for an event, and with `mute` these too.
    """

    data: bytes = OBJECT
    etag: str | None = '"v1"'
    last_modified: str | None = "Wed, 01 Jan 2025 00:00:00 GMT"
    faults: Callable[[Request], Fault | None] = lambda request: None
    ranges: bool = True
    held: threading.Event | None = None
    mute: bool = False


class Handler(RangeHandler):
    """Serves a copy."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(
            copy.data,
            etag=copy.etag,
            last_modified=copy.last_modified,
            faults=copy.faults,
            ranges=copy.ranges,
        )
        self._held, self._mute = copy.held, copy.mute
        self.sent: list[tuple[int, int]] = []

    def __call__(self, request: Request, connection: Connection) -> None:
        start, stop = span_of(request, len(self.content.data))
        long = request.number and stop - start > SAMPLE_BYTES
        if self._held is not None and (long or self._mute):
            connection.stall(self._held)
        super().__call__(request, connection)

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        self.sent.append(wanted)
        super().body(connection, content, wanted, fault)


class Group:
    """See the module. `out` is the final name; the first copy is the one of the first URL."""

    def __init__(self, tmp_path: Path, *copies: Copy, connections: int = 4, **options: Any) -> None:
        self.directory = tmp_path / "target"
        self.directory.mkdir(exist_ok=True)
        self.out = self.directory / "out"
        self.copies = copies
        self.handlers = [Handler(copy) for copy in copies]
        self.servers = [RawServer(handler) for handler in self.handlers]
        self.options = {**QUICK, "connections": connections, **options}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Group:
        for server in self.servers:
            self._stack.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        """The URLs, in the order of the copies."""
        return [server.url() for server in self.servers]

    def start(self, order: Iterable[int] | None = None, **options: Any) -> fastxfer.Transfer:
        """Starts the fetch from the servers in this order."""
        url, *mirrors = [self.urls[each] for each in (order if order is not None else range(len(self.urls)))]
        return fastxfer.start(url, self.out, mirrors=mirrors, **{**self.options, **options})

    def arrives(self, order: Iterable[int] | None = None, **options: Any) -> fastxfer.FetchResult:
        """Asserts that the exact bytes come to stand under the final name, and what the sources gave adds
        up.
        """
        result = wait(self.start(order, **options), DEADLINE_S)
        assert self.out.read_bytes() == OBJECT
        assert [path.name for path in self.directory.iterdir()] == ["out"]
        assert SIZE - result.resumed <= sum(result.sources.values()) <= result.transferred
        return result

    def gave(self, result: fastxfer.FetchResult) -> list[int]:
        """Returns how many bytes each server gave."""
        return [result.sources.get(url, 0) for url in self.urls]

    def named(self, result: fastxfer.FetchResult) -> set[int]:
        """Returns which servers begin a note or are said to have sent what was wrong."""
        return {
            index
            for index, url in enumerate(self.urls)
            if any(
                (note.startswith(url) and " leads now" not in note) or f"of what {url} sent was wrong" in note
                for note in result.notes
            )
        }

    def interrupted(self, order: Iterable[int] | None = None, **options: Any) -> int:
        """Stops a fetch half way; returns the bytes that are kept."""
        half = threading.Event()

        def watch(now: fastxfer.Progress) -> None:
            if now.done >= SIZE // 3:
                half.set()

        transfer = self.start(order, max_rate="24M", progress=watch, **options)
        assert half.wait(DEADLINE_S)
        transfer.cancel()
        try:
            wait(transfer, DEADLINE_S)
        except fastxfer.InterruptedTransferError:
            return transfer.progress.done
        raise AssertionError("it was complete already")
