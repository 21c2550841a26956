"""Servers that are overloaded, refuse, or fail for a while or for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import AuthError, NotFoundError, OverloadedError, ServerError
from fastxfer.plan import retry
from tests.faults.scenarios import (
    SIZE,
    Asked,
    Scenario,
    always,
    crosswise,
    everywhere,
    first,
    fresh,
    later,
    once_later,
)
from tests.servers.raw import Connection, Request

When = Callable[[int, Request], bool]


def says(status: int, **fields: str) -> Callable[[Asked], None]:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return lambda asked: asked.connection.respond(status, headers, b"not now")


@pytest.mark.parametrize(
    ("status", "form", "connections", "resumed"),
    [
        (429, "seconds", 1, True),
        (503, "seconds", 16, False),
        (503, "date", 1, True),
    ],
)
def test_retry_after_is_obeyed(
    tmp_path: Path, connections: int, resumed: bool, status: int, form: str
) -> None:
    told: list[float] = []
    came: list[float] = []

    def not_now(asked: Asked) -> None:
        told.append(time.time())
        # A date has whole seconds: the second one from now is over one second away.
        after = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        says(status, Retry_After=after)(asked)

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.handler.faults = lambda request: came.append(time.time())
        scenario.server_does(not_now, first)
        result = scenario.arrives()
    assert came[0] - told[0] >= 0.95
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 1)


@crosswise
@pytest.mark.parametrize(
    "after",
    [
        "99999999999999999999",
        "9" * 400,
        "-5",
        "soon",
        "",
        "1.5",
        "Wed, 01 Jan 2020 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Wed, 99 Foo 2020 00:00:00 GMT",
    ],
)
def test_an_absurd_retry_after_is_capped(
    tmp_path: Path, connections: int, resumed: bool, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_AFTER_CAP_S", 0.1)
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(503, Retry_After=after), once_later)
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 1)


@everywhere
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_overloaded_is_given_up(
    tmp_path: Path, connections: int, resumed: bool, status: int
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(status, Retry_After="0"))
        error = scenario.fails(OverloadedError, 29, kept=resumed)
        assert isinstance(error, OverloadedError)
        assert (error.status, error.retry_after_s) == (status, 0.0)


@crosswise
@pytest.mark.parametrize("status", [408, 425, 500, 520])
@pytest.mark.parametrize("when", [first, once_later], ids=["first", "later"])
def test_a_server_error_is_tried_again(
    tmp_path: Path, connections: int, resumed: bool, status: int, when: When
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(status), when)
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 1)


@everywhere
def test_a_server_that_keeps_failing_is_given_up(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(500))
        error = scenario.fails(ServerError, 22, kept=resumed)
    assert isinstance(error, ServerError)
    assert error.status == 500


class OnlySo:
    """Lets `most` requests in at once; each of the first ones stays until someone was turned away."""

    def __init__(self, most: int, turn_away: Callable[[Connection], None]) -> None:
        self.refused = 0
        self._inside = 0
        self._most = most
        self._full = threading.Event()
        self._lock = threading.Lock()
        self._turn_away = turn_away

    def __call__(self, asked: Asked) -> None:
        with self._lock:
            full = self._inside >= self._most
            self._inside += not full
            self.refused += full
        if full:
            self._full.set()
            self._turn_away(asked.connection)
            return
        try:
            asked.connection.stall(self._full)
            asked.send()
        finally:
            with self._lock:
                self._inside -= 1


@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed"])
@pytest.mark.parametrize("connections", [16, 64])
@pytest.mark.parametrize(
    "turn_away",
    [
        lambda connection: connection.respond(503, {"Retry-After": "0"}),
        lambda connection: connection.respond(503),
        lambda connection: connection.respond(429),
        lambda connection: connection.reset(),
        lambda connection: connection.close(),
    ],
    ids=["503-retry-after", "503", "429", "reset", "closed"],
)
def test_a_server_that_serves_four_at_once_is_no_failure(
    tmp_path: Path, connections: int, resumed: bool, turn_away: Callable[[Connection], None]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        busy = OnlySo(4, turn_away)
        scenario.server_does(busy, later)
        result = scenario.arrives(stall_timeout=5, connect_timeout=5)
    assert busy.refused > 0
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@crosswise
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("when", [always, later], ids=["first", "later"])
def test_refused_credentials_fail_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool, status: int, when: When
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(status, WWW_Authenticate='Basic realm="x"'), when)
        error = scenario.fails(AuthError, 24, kept=resumed or when is later)
    assert isinstance(error, AuthError)
    assert error.status == status


@everywhere
@pytest.mark.parametrize("status", [404, 410])
def test_an_object_that_goes_mid_way_fails_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool, status: int
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(says(status), later)
        error = scenario.fails(NotFoundError, 3, kept=True)
    assert isinstance(error, NotFoundError)
    assert error.status == status


@fresh
def test_a_server_that_is_overloaded_for_a_while_is_waited_for(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(says(503), lambda nth, request: nth < 5)
        result = scenario.arrives(retries=5)
    assert result.retries == 5


def test_a_wait_shows_in_the_progress(tmp_path: Path) -> None:
    seen: set[str] = set()

    def watch(progress: fastxfer.Progress) -> None:
        seen.add(progress.state)

    with Scenario(tmp_path, 1) as scenario:
        scenario.server_does(says(503, Retry_After="1"), first)
        scenario.arrives(progress=watch)
    assert "waiting" in seen
