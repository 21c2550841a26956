"""URLs that expire while their object is fetched, and what gives new ones."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import AuthError, FastxferError
from tests.faults.scenarios import OBJECT, OTHER, SIZE, Scenario, everywhere, fresh, wait
from tests.servers.raw import Connection, RangeHandler, RawServer, Request


class Signed:
    """Answers 403 to every URL but those that are valid: each is good for so many requests."""

    def __init__(self, scenario: Scenario, uses: int, status: int = 403) -> None:
        self.scenario = scenario
        self.uses = uses
        self.status = status
        self.issued = 0
        self.asked_on: set[str] = set()
        self._left = {"/object": uses}
        self._lock = threading.Lock()
        self._good = scenario.server._handler
        scenario.server._handler = self

    def __call__(self, request: Request, connection: Connection) -> None:
        with self._lock:
            left = self._left.get(request.target, 0)
            self._left[request.target] = left - 1
        if left > 0:
            self._good(request, connection)
        else:
            connection.respond(self.status, {}, b"Request has expired")

    def renew(self) -> str:
        self.asked_on.add(threading.current_thread().name)
        with self._lock:
            self.issued += 1
            path = f"/object?signature=canary-{self.issued}"
            self._left[path] = self.uses
        return self.scenario.server.url(path)


@everywhere
@pytest.mark.parametrize("status", [401, 403])
def test_an_expired_url_is_renewed_once_for_all_requests(
    tmp_path: Path, connections: int, resumed: bool, status: int
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        signed = Signed(scenario, 1, status)
        signed.uses = 1000
        result = scenario.arrives(refresh=signed.renew, retries=0)
    assert signed.issued == 1
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE, "progress stays"
    assert "canary" not in f"{result!r} {result.to_dict()}"
    assert not any("engine" in name or name == "MainThread" for name in signed.asked_on)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_url_may_expire_again_and_again(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        signed = Signed(scenario, connections)  # a URL lets all in that ask at once
        result = scenario.arrives(refresh=signed.renew, retries=0)
    assert signed.issued >= 2
    assert (result.transferred, result.restarts) == (SIZE, 0)


@everywhere
def test_a_new_url_that_is_refused_too_fails(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        signed = Signed(scenario, 1)
        signed.uses = 0
        with pytest.raises(AuthError) as caught:
            scenario.fetch(refresh=signed.renew)
        assert scenario.names() == ["out.part", "out.part.ckpt"]
    assert signed.issued == 1
    assert caught.value.status == 403
    assert caught.value.kept is not None


def raises() -> str:
    raise ValueError("canary")


@everywhere
@pytest.mark.parametrize(
    "refresh",
    [raises, lambda: None, lambda: "", lambda: "ftp://x/y", "echo canary >&2; exit 3", "true"],
    ids=["raises", "none", "empty", "not-http", "command-fails", "command-says-nothing"],
)
def test_a_refresh_that_gives_no_url_fails(
    tmp_path: Path, connections: int, resumed: bool, refresh: Any
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        Signed(scenario, 1)
        with pytest.raises(FastxferError) as caught:
            scenario.fetch(refresh=refresh)
        assert scenario.names() == ["out.part", "out.part.ckpt"]
    assert caught.value.exit_code in (24, 28)
    assert "canary" not in str(caught.value)
    assert "internal error" not in str(caught.value)


@everywhere
def test_a_new_url_of_another_object_starts_again(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        Signed(scenario, 1)
        with RawServer(RangeHandler(OTHER, etag='"other"')) as other:
            result = scenario.arrives(OTHER, refresh=other.url)
    assert (result.restarts, result.resumed) == (1, 0)


@fresh
def test_a_command_that_prints_the_new_url_is_run(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario, RawServer(RangeHandler(OBJECT)) as renewed:
        Signed(scenario, 1)
        scenario.arrives(refresh=f"{sys.executable} -c 'print(\"{renewed.url()}\")'")
        assert renewed.requests


@fresh
def test_a_pause_during_a_refresh_stays(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        signed = Signed(scenario, 1)
        signed.uses = 1000
        asked, go_on, paused = threading.Event(), threading.Event(), threading.Event()

        def slowly() -> str:
            asked.set()
            assert go_on.wait(10)
            return signed.renew()

        def watch(progress: fastxfer.Progress) -> None:
            if progress.state == "paused" and signed.issued:
                paused.set()

        transfer = fastxfer.start(scenario.url, scenario.out, connections, refresh=slowly, progress=watch)
        assert asked.wait(10)
        transfer.pause()
        go_on.set()
        assert paused.wait(10)
        assert not transfer.done
        assert not any("signature" in request.target for request in scenario.server.requests)
        transfer.resume()
        wait(transfer)
    assert scenario.out.read_bytes() == OBJECT


@fresh
def test_what_a_redirect_led_to_is_asked_for_at_its_beginning_first(tmp_path: Path, connections: int) -> None:
    def refresh() -> str:
        raise AssertionError("the caller's own URL is good")

    with Scenario(tmp_path, connections) as scenario:
        signed = Signed(scenario, 2)

        def home(request: Request, connection: Connection) -> None:
            connection.respond(302, {"Location": signed.renew()})

        with RawServer(home) as first:
            result = wait(fastxfer.start(first.url(), scenario.out, connections, refresh=refresh))
    assert scenario.out.read_bytes() == OBJECT
    assert result.restarts == 0
    assert signed.issued >= 2


def expires_in(scenario: Scenario, seconds: float) -> str:
    return scenario.server.url(f"/object?Expires={int(time.time() + seconds)}&Signature=canary")


@everywhere
def test_a_url_that_says_it_has_expired_is_not_asked(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        seen = len(scenario.server.requests)
        asked: list[str] = []

        def renew() -> str:
            asked.append("once")
            return expires_in(scenario, 3600)

        scenario.url = old = expires_in(scenario, -60)
        result = scenario.arrives(refresh=renew, retries=0)
        targets = [request.target for request in scenario.server.requests[seen:]]
    assert asked == ["once"]
    assert targets
    assert not any(old.endswith(target) for target in targets)
    assert (result.retries, result.restarts, result.resumed) == (0, 0, scenario.before)


@everywhere
def test_a_url_that_is_about_to_expire_is_renewed_while_its_requests_go_on(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        renewed = threading.Event()
        good = scenario.server._handler

        def answers_once_renewed(request: Request, connection: Connection) -> None:
            connection.stall(renewed)
            good(request, connection)

        def renew() -> str:
            renewed.set()
            return expires_in(scenario, -60)  # by our clock, which may be wrong: it is not asked again for it

        scenario.server._handler = answers_once_renewed
        scenario.url = expires_in(scenario, 10)
        result = scenario.arrives(refresh=renew, retries=0)
    assert renewed.is_set()
    assert (result.retries, result.resumed) == (0, scenario.before)
    assert result.transferred == SIZE - scenario.before, "no request was cut off"


@everywhere
@pytest.mark.parametrize("in_s", [-60, 10])
def test_no_new_url_ahead_of_time_is_not_the_end(
    tmp_path: Path, connections: int, resumed: bool, in_s: float
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.url = expires_in(scenario, in_s)
        result = scenario.arrives(refresh=raises, retries=0)
    assert any("asking for a new one raised ValueError" in note for note in result.notes)
    assert "canary" not in str(result.to_dict())
