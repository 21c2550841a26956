"""Names with addresses that are dead, names that do not exist, and proxies that do not let through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import AuthError, FastxferError, NetworkError, TransferTimeoutError
from tests.cli.command import COMMAND, environment, events
from tests.faults.scenarios import (
    OBJECT,
    Asked,
    Scenario,
    always,
    crosswise,
    fresh,
    later,
    wait,
)
from tests.servers import HOST, port_of, reserve_port
from tests.servers.addresses import BlackHole, with_names
from tests.servers.raw import Connection, RangeHandler, RawServer, Request

PATIENT: dict[str, Any] = {"connect_timeout": 5, "stall_timeout": 5, "retries": 2}
LOST_S = 1.0
"""What a dead address may cost a fetch at the most."""
TRIES = 3
"""The best of so many is what the address costs: the rest is this machine's other work."""


LAST = "127.0.0.64"
"""An address that the system gives after those which share more bits with 127.0.0.1 (RFC 6724, rule 9)."""


@contextmanager
def served(holes: Sequence[str], host: str = HOST) -> Iterator[RawServer]:
    """A server, and black holes at the same port of other addresses."""
    with ExitStack() as stack:
        server = stack.enter_context(RawServer(RangeHandler(OBJECT), host))
        for address in holes:
            stack.enter_context(BlackHole(address, server.port))
        yield server


def best_of(measure: Callable[[], float], good: float) -> float:
    """Returns the least of a few measurements; the first one that is good ends it."""
    least = float("inf")
    for _ in range(TRIES):
        least = min(least, measure())
        if least < good:
            break
    return least


# ---- localhost, which libcurl takes for ::1 and 127.0.0.1 ----


@fresh
@pytest.mark.parametrize("holes", [[], ["::1"]], ids=["refused", "black-hole"])
def test_a_dead_ipv6_address_costs_less_than_a_second(
    tmp_path: Path, connections: int, holes: list[str]
) -> None:
    def measure() -> float:
        with served(holes) as server:
            elapsed = []
            for host in (HOST, "localhost"):
                url = server.url().replace(HOST, host)
                result = wait(fastxfer.start(url, tmp_path / "out", connections, exists="replace", **PATIENT))
                assert (tmp_path / "out").read_bytes() == OBJECT
                assert result.retries == 0
                elapsed.append(result.elapsed)
        return elapsed[1] - elapsed[0]

    lost = best_of(measure, LOST_S)
    assert lost < LOST_S
    if holes:
        assert lost > 0.1, "the black hole was tried"


# ---- several addresses of one name ----


def fetch_by_name(
    tmp_path: Path,
    names: Sequence[tuple[str, str]],
    url: str,
    connections: int,
    *options: str,
    out: Path | None = None,
) -> tuple[int, dict[str, Any]]:
    """Returns the status and the last line of a fetch in a process for which only these names exist."""
    out = out if out is not None else tmp_path / "out"
    done = with_names(
        names,
        [*COMMAND, "fetch", url, "-o", str(out), "-x", str(connections), "--json", *options],
        tmp_path,
        environment=environment(),
    )
    lines = events(done.stdout)
    assert lines, done.stderr
    return done.returncode, lines[-1]


def order_of(tmp_path: Path, names: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the addresses of the name in the order in which the system gives them."""
    program = "import socket; [print(a[4][0]) for a in socket.getaddrinfo('many.test', 80, type=1)]"
    done = with_names(names, [sys.executable, "-c", program], tmp_path)
    return done.stdout.split()


DEAD = {
    "refused": (["127.0.0.2"], []),
    "black-hole": (["127.0.0.2"], ["127.0.0.2"]),
    "refused-and-black-hole": (["127.0.0.2", "127.0.0.4"], ["127.0.0.4"]),
}


@fresh
@pytest.mark.parametrize(("dead", "holes"), DEAD.values(), ids=DEAD.keys())
def test_a_dead_ipv4_address_costs_less_than_a_second(
    tmp_path: Path, connections: int, dead: list[str], holes: list[str]
) -> None:
    names = [(address, "many.test") for address in (*dead, LAST)]
    assert order_of(tmp_path, names) == [*dead, LAST], "the dead ones are tried first"

    def measure() -> float:
        with served(holes, LAST) as server:
            elapsed = []
            for several in ([(LAST, "many.test")], names):
                url = server.url().replace(LAST, "many.test")
                code, told = fetch_by_name(tmp_path, several, url, connections, "--exists", "replace")
                assert (code, told["retries"]) == (0, 0), told
                assert (tmp_path / "out").read_bytes() == OBJECT
                elapsed.append(float(told["elapsed"]))
        return elapsed[1] - elapsed[0]

    lost = best_of(measure, LOST_S)
    assert lost < LOST_S
    if holes:
        assert lost > 0.1, "the black hole was tried"


@fresh
@pytest.mark.parametrize("holes", [[], ["127.0.0.2", "127.0.0.3"]], ids=["refused", "black-holes"])
def test_a_name_whose_addresses_are_all_dead_fails(
    tmp_path: Path, connections: int, holes: list[str]
) -> None:
    names = [(address, "many.test") for address in ("127.0.0.2", "127.0.0.3")]
    with served(holes) as server:
        url = server.url().replace(HOST, "many.test")
        code, told = fetch_by_name(
            tmp_path, names, url, connections, "--retries", "1", "--connect-timeout", "0.3"
        )
        assert server.requests == []
    kind, expected = (TransferTimeoutError, 2) if holes else (NetworkError, 6)
    assert (code, told["type"]) == (expected, kind.__name__)
    assert not (tmp_path / "out").exists()


# ---- names that do not exist ----


@fresh
def test_a_name_that_does_not_exist_fails(tmp_path: Path, connections: int) -> None:
    code, told = fetch_by_name(
        tmp_path, [], "http://no-such-host.invalid/object", connections, "--retries", "1"
    )
    assert (code, told["type"], told["kept"]) == (19, "DNSError", None)
    assert {path.name for path in tmp_path.iterdir()} == {"hosts", "nsswitch.conf"}


@fresh
def test_a_name_that_is_gone_keeps_the_progress(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, 1, resumed=True) as scenario:
        here = [(HOST, "moving.test")]
        url = scenario.url.replace(HOST, "moving.test")
        code, told = fetch_by_name(tmp_path, [], url, connections, "--retries", "1", out=scenario.out)
        assert (code, told["type"]) == (19, "DNSError")
        assert "out.part" in told["kept"]
        assert scenario.names() == ["out.part", "out.part.ckpt"]
        code, told = fetch_by_name(tmp_path, here, url, connections, out=scenario.out)
        assert code == 0, told
        assert told["resumed"] >= scenario.before
        assert scenario.out.read_bytes() == OBJECT


# ---- proxies ----

SECRETS = "user:canary"


class ProxyScenario(Scenario):
    """A scenario whose server is a proxy; the object is that of a host which only the proxy knows."""

    def __init__(self, tmp_path: Path, connections: int, resumed: bool = False) -> None:
        super().__init__(tmp_path, connections, resumed)
        self.options.update(PATIENT, proxy=self.server.url("").replace("://", f"://{SECRETS}@"))
        self.url = "http://behind-the-proxy.invalid/object"


def refuse(asked: Asked) -> None:
    asked.connection.respond(407, {"Proxy-Authenticate": 'Basic realm="proxy"'}, b"no")


@crosswise
def test_a_proxy_serves(tmp_path: Path, connections: int, resumed: bool) -> None:
    with ProxyScenario(tmp_path, connections, resumed) as scenario:
        result = scenario.arrives()
        assert {request.target for request in scenario.requests} == {scenario.url}
    assert result.retries == 0


@crosswise
def test_a_proxy_that_answers_407_fails_at_once(tmp_path: Path, connections: int, resumed: bool) -> None:
    with ProxyScenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(refuse)
        error = scenario.fails(AuthError, 24, kept=resumed)
        assert isinstance(error, AuthError)
        assert error.status == 407
        assert "canary" not in f"{error} {error!r} {error.to_dict()}"


@fresh
def test_a_proxy_that_answers_407_mid_way_keeps_the_progress(tmp_path: Path, connections: int) -> None:
    with ProxyScenario(tmp_path, connections) as scenario:
        scenario.server_does(refuse, later)
        scenario.fails(AuthError, 24, kept=True)


@crosswise
def test_a_proxy_that_closes_fails(tmp_path: Path, connections: int, resumed: bool) -> None:
    with ProxyScenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.connection.close(), always if resumed else later)
        error = scenario.fails(NetworkError, 6, kept=True)
    assert "canary" not in f"{error} {error!r} {error.to_dict()}"


def answers(status: int) -> Callable[[Request, Connection], None]:
    return lambda request, connection: connection.respond(status, {"Proxy-Authenticate": 'Basic realm="p"'})


def closes(_request: Request, connection: Connection) -> None:
    connection.close()


def resets(_request: Request, connection: Connection) -> None:
    connection.reset()


def stalls(_request: Request, connection: Connection) -> None:
    connection.wait_until_gone()


def babbles(_request: Request, connection: Connection) -> None:
    connection.send(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")
    connection.close()


def repeats_100(_request: Request, connection: Connection) -> None:
    while True:  # until the client has had enough and closes
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


CONNECT = {
    "407": (answers(407), "AuthError", 24, 1),
    "403": (answers(403), "AuthError", 24, 1),
    "502": (answers(502), "NetworkError", 6, 3),
    "404": (answers(404), "NetworkError", 6, 3),
    "closed": (closes, "NetworkError", 6, 3),
    "reset": (resets, "NetworkError", 6, 3),
    "stalled": (stalls, "TransferTimeoutError", 2, 3),
    "garbage": (babbles, "BadResponseError", 22, 3),
    "endless-1xx": (repeats_100, "NetworkError", 6, 3),
}


@fresh
@pytest.mark.parametrize(("handler", "kind", "exit_code", "tries"), CONNECT.values(), ids=CONNECT.keys())
def test_a_proxy_that_makes_no_tunnel_fails(
    tmp_path: Path,
    connections: int,
    handler: Callable[[Request, Connection], None],
    kind: str,
    exit_code: int,
    tries: int,
) -> None:
    with RawServer(handler) as server:
        proxy = server.url("").replace("://", f"://{SECRETS}@")
        options = {**PATIENT, "connect_timeout": 0.5} if kind == "TransferTimeoutError" else PATIENT
        with pytest.raises(FastxferError) as caught:
            wait(
                fastxfer.start(
                    "https://behind-the-proxy.invalid/object",
                    tmp_path / "out",
                    connections,
                    proxy=proxy,
                    **options,
                )
            )
        assert [request.method for request in server.requests] == ["CONNECT"] * tries
    error = caught.value
    assert (type(error).__name__, error.exit_code) == (kind, exit_code), repr(error)
    assert "canary" not in f"{error} {error!r} {error.to_dict()}"
    assert list(tmp_path.iterdir()) == []


@fresh
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_connections_fails(tmp_path: Path, connections: int, scheme: str) -> None:
    with reserve_port() as holder, pytest.raises(NetworkError) as caught:
        wait(
            fastxfer.start(
                f"{scheme}://behind-the-proxy.invalid/object",
                tmp_path / "out",
                connections,
                proxy=f"http://{SECRETS}@127.0.0.1:{port_of(holder)}",
                **PATIENT,
            )
        )
    assert caught.value.exit_code == 6
    assert "canary" not in f"{caught.value} {caught.value!r}"
    assert list(tmp_path.iterdir()) == []


@fresh
def test_a_proxy_whose_name_does_not_exist_fails(tmp_path: Path, connections: int) -> None:
    code, told = fetch_by_name(
        tmp_path,
        [],
        "http://behind-the-proxy.invalid/object",
        connections,
        "--retries",
        "1",
        "--proxy",
        f"http://{SECRETS}@no-such-proxy.invalid:3128",
    )
    assert (code, told["type"]) == (19, "DNSError")
    assert "no-such-proxy" in told["message"]
    assert "canary" not in str(told)
