"""Fetches from a server that is 200 ms away, run by tests/test_far.py in a network namespace:

    unshare -n python -m tests.servers.far 0.2 python -m tests.far_cases DIRECTORY CASE

Prints a line of JSON: what the result and the server tell. Answers are held back until all connections that
are to be made ahead are there, so that what is seen does not depend on how busy the machine is. So they are
late, too: the cases hold for a server nearby as well (`LATE`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import fastxfer
from tests.faults.scenarios import wait
from tests.servers import HOST, Authority
from tests.servers.far import FAR, NEAR
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer, Request, first
from tests.servers.tls import TlsServer


class Place(NamedTuple):
    """Where servers listen, and where they are asked."""

    listens: str
    asked: str


AWAY = Place(NEAR, FAR)
LATE = Place(HOST, HOST)
CONNECTIONS = 8
DATA = make_bytes((8 << 20) + 17)
SMALL = DATA[:1000]


class Waiting(RangeHandler):
    """Answers nothing until so many connections are there."""

    def __init__(self, data: bytes, connections: int = CONNECTIONS, **options: Any) -> None:
        super().__init__(data, **options)
        self.awaited = connections
        self.server: RawServer | None = None

    def __call__(self, request: Request, connection: Connection) -> None:
        assert self.server is not None
        self.server.wait_for_connections(self.awaited)
        super().__call__(request, connection)


class Dropping(Waiting):
    """Ends the connections on which nothing was asked, before the first answer."""

    def __call__(self, request: Request, connection: Connection) -> None:
        if request.number == 0:
            assert self.server is not None
            self.server.wait_for_connections(self.awaited)
            self.server.drop(but=connection)
        super().__call__(request, connection)


def fetch(server: RawServer, out: Path, place: Place, **options: Any) -> fastxfer.FetchResult:
    scheme = "https" if isinstance(server, TlsServer) else "http"
    url = f"{scheme}://{place.asked}:{server.port}/object"
    return wait(fastxfer.start(url, out, CONNECTIONS, durability="none", **options))


def told(
    result: fastxfer.FetchResult,
    out: Path,
    data: bytes,
    server: RawServer,
    *,
    before: int = 0,
    elsewhere: int = 0,
) -> dict[str, object]:
    """What is of one fetch: the server had so many requests `before` it, and others got some `elsewhere`.
    One that was ended, since another was faster, may be on its way still: it is waited for.
    """
    asked = server.wait_for_requests(before + result.requests - elsewhere)
    return {
        "right": out.read_bytes() == data,
        "requests": result.requests,
        "asked": len(asked) - before + elsewhere,
        "retries": result.retries,
        "connections": server.connections,
    }


def plain(handler: Waiting, out: Path, place: Place, **options: Any) -> dict[str, object]:
    """One fetch; the connections that nobody needs are gone after it: one is kept for other fetches."""
    with RawServer(handler, place.listens) as server:
        handler.server = server
        result = fetch(server, out, place, **options)
        kept = min(CONNECTIONS, len({request.connection for request in server.requests}))
        server.wait_for_end(kept)
        return told(result, out, handler.content.data, server)


def large(out: Path, place: Place) -> dict[str, object]:
    return plain(Waiting(DATA), out, place)


def dropped(out: Path, place: Place) -> dict[str, object]:
    return plain(Dropping(DATA), out, place)


def whole(out: Path, place: Place) -> dict[str, object]:
    return plain(Waiting(DATA, ranges=False), out, place)


def empty(out: Path, place: Place) -> dict[str, object]:
    return plain(Waiting(b""), out, place)


def limited(out: Path, place: Place) -> dict[str, object]:
    return plain(Waiting(DATA, connections=3), out, place, connections_per_host=3)


def small(out: Path, place: Place) -> dict[str, object]:
    """Twice; the second time on a new connection."""
    handler = Waiting(SMALL)
    with RawServer(handler, place.listens) as server:
        handler.server = server
        once = fetch(server, out.with_name("once"), place)
        server.wait_for_end(1)
        server.drop()
        return told(fetch(server, out, place), out, SMALL, server, before=once.requests)


def resumed(out: Path, place: Place) -> dict[str, object]:
    """The first fetch ends in the middle."""
    broken = first(1, Fault(cut_after=100_000))
    handler = Waiting(DATA, faults=broken)
    with RawServer(handler, place.listens) as server:
        handler.server = server
        try:
            fetch(server, out, place, retries=0)
        except fastxfer.FastxferError:
            pass
        server.drop()
        before = len(server.requests)
        handler.awaited = server.connections + CONNECTIONS
        return told(fetch(server, out, place), out, DATA, server, before=before)


def redirected(out: Path, place: Place) -> dict[str, object]:
    """The first server has a redirect to the second, which has the object."""
    handler = Waiting(DATA)

    def leads(_: Request, connection: Connection) -> None:
        front.wait_for_connections(CONNECTIONS)
        connection.respond(302, {"Location": f"http://{place.asked}:{server.port}/object"})

    with RawServer(handler, place.listens) as server, RawServer(leads, place.listens) as front:
        handler.server = server
        result = fetch(front, out, place)
        front.wait_for_end(1)
        return told(result, out, DATA, server, elsewhere=len(front.requests))


def tls(out: Path, place: Place) -> dict[str, object]:
    handler = Waiting(DATA)
    with TlsServer(handler, Authority(out.parent), host=place.listens) as server:
        handler.server = server
        return told(fetch(server, out, place, verify_tls=False), out, DATA, server)


CASES = {
    case.__name__: case for case in (large, dropped, whole, empty, limited, small, resumed, redirected, tls)
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[2]](Path(sys.argv[1]) / "out", AWAY)))
