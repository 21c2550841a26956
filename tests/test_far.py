"""Where a server is far, connections are made while its first answer is on its way: over real TCP, on a path
with a round trip of 200 ms in a network namespace (far_cases.py, servers/far.py). The same holds where what
takes connections is near and the answer is late.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastxfer.download
from tests.far_cases import CASES, CONNECTIONS, LATE, SMALL
from tests.servers import find_program
from tests.servers.raw import RangeHandler, RawServer

REPOSITORY = Path(__file__).parents[1]
RTT_S = "0.2"
DEADLINE_S = 120.0
Far = Callable[[str], dict[str, Any]]


def away(tmp_path: Path, case: str) -> dict[str, Any]:
    """Returns what a case of far_cases tells, of a server that is far."""
    script = ["-m", "tests.servers.far", RTT_S, sys.executable, "-m", "tests.far_cases", str(tmp_path), case]
    unshare = find_program("unshare", install="apt-get install util-linux")
    run = subprocess.run(
        [unshare, "-n", sys.executable, *script],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=REPOSITORY,
    )
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def late(tmp_path: Path, case: str) -> dict[str, Any]:
    """Returns what a case of far_cases tells, of a server nearby that is late."""
    return CASES[case](tmp_path / "out", LATE)


@pytest.fixture(params=[away, late], ids=["away", "late"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Far:
    """Returns what a case tells."""

    def run(case: str) -> dict[str, Any]:
        told: dict[str, Any] = request.param(tmp_path, case)
        assert told["right"], told
        assert told["retries"] == 0, told
        assert told["requests"] == told["asked"], "nothing but connections is made ahead"
        return told

    return run


@pytest.mark.parametrize("case", ["large", "tls"])
def test_the_other_connections_are_there_when_the_first_answer_comes(far: Far, case: str) -> None:
    """The first answer is held back until they are; none is made later."""
    assert far(case)["connections"] == CONNECTIONS


def test_a_transfer_that_goes_on_has_its_connections_with_the_first_answer(far: Far) -> None:
    assert far("resumed")["connections"] == 2 * CONNECTIONS


def test_a_host_gets_no_more_connections_than_it_may_have_requests(far: Far) -> None:
    assert far("limited")["connections"] == 3


def test_connections_that_the_server_ended_meanwhile_are_made_anew(far: Far) -> None:
    told = far("dropped")
    assert CONNECTIONS < told["connections"] < CONNECTIONS + told["requests"]


@pytest.mark.parametrize(("case", "requests"), [("whole", 1), ("empty", 2)])
def test_an_object_that_comes_on_one_connection_has_the_others_closed(
    far: Far, case: str, requests: int
) -> None:
    told = far(case)
    assert (told["requests"], told["connections"]) == (requests, CONNECTIONS)


def test_where_connections_were_of_no_use_none_are_made_ahead_for_a_while(far: Far) -> None:
    """Of two small objects the second comes on a new connection too, and on that alone."""
    assert far("small")["connections"] == CONNECTIONS + 1


def test_a_redirect_leads_to_connections_where_it_leads(far: Far) -> None:
    """Those to the server with the redirect are closed."""
    assert far("redirected")["connections"] == CONNECTIONS


def test_to_a_server_nearby_no_connection_is_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastxfer.download, "LATE_S", DEADLINE_S)
    with RawServer(RangeHandler(SMALL)) as server:
        result = fastxfer.fetch(server.url(), tmp_path / "out", CONNECTIONS)
        assert (result.requests, server.connections) == (1, 1)
