"""Redirects that must not be followed, and secrets that must not travel or show."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import BadResponseError, FastxferError, NotFoundError
from tests.faults.scenarios import (
    OBJECT,
    QUICK,
    Asked,
    Misbehaving,
    Scenario,
    always,
    crosswise,
    everything_stored,
    everywhere,
    fresh,
    later,
    once_later,
    wait,
)
from tests.servers import Authority, find_program
from tests.servers.raw import Connection, RangeHandler, RawServer, Request
from tests.servers.tls import TlsServer, tls_of

REPOSITORY = Path(__file__).parents[2]

Handler = Callable[[Request, Connection], None]


def to(location: str, status: int = 302) -> Handler:
    """Returns a handler that redirects every request."""
    return lambda request, connection: connection.respond(status, {"Location": location})


def moved(location: str, status: int = 302) -> Callable[[Asked], None]:
    return lambda asked: asked.connection.respond(status, {"Location": location})


@everywhere
def test_a_redirect_loop_fails(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(moved("/object"))
        error = scenario.fails(BadResponseError, 22, kept=resumed, retries=0)
    assert "10" in str(error)


@everywhere
def test_a_redirect_loop_mid_way_fails_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(moved("/object"), later)
        scenario.fails(BadResponseError, 22, kept=True, retries=0)


@everywhere
@pytest.mark.parametrize("hops", [10, 11])
def test_ten_redirects_are_followed_and_eleven_fail(
    tmp_path: Path, connections: int, resumed: bool, hops: int
) -> None:
    def hop(asked: Asked) -> None:
        done = int(asked.request.target.removeprefix("/object").removeprefix("/") or "0")
        if done < hops:
            moved(f"/object/{done + 1}")(asked)
        else:
            asked.send()

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(hop)
        if hops == 10:
            assert scenario.arrives().resumed == scenario.before
        else:
            scenario.fails(BadResponseError, 22, kept=resumed, retries=0)


@crosswise
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_mid_way_is_followed(tmp_path: Path, connections: int, resumed: bool, status: int) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(moved("/elsewhere", status), once_later)
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 0)
    assert result.url.endswith("/elsewhere")


@crosswise
@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/x",
        "scp://127.0.0.1/x",
        "data:text/plain,x",
        "gopher://127.0.0.1/x",
        "javascript:x",
        "http://",
        "http://[::1/x",
        "http://127.0.0.1:99999/x",
        "http://user:pass@127.0.0.1/x",
        "//user@127.0.0.1/x",
        "/a\rX-Injected: yes",
        "/a b",
        "/a\x00b",
    ],
)
def test_a_location_that_must_not_be_followed_fails(
    tmp_path: Path, connections: int, resumed: bool, location: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(moved(location))
        error = scenario.fails(BadResponseError, 22, kept=resumed, retries=0)
    assert "user:pass" not in str(error)
    assert not any("x-injected" in request.headers for request in scenario.server.requests)


@everywhere
def test_a_redirect_without_a_location_fails(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.connection.respond(302))
        scenario.fails(BadResponseError, 22, kept=resumed, retries=0)


@fresh
def test_percent_encoded_line_ends_in_a_location_stay_encoded(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(
            moved("/a%0d%0aX-Injected:%20yes"), lambda nth, request: request.target == "/object"
        )
        scenario.arrives()
        targets = {request.target.lower() for request in scenario.requests}
        assert targets == {"/object", "/a%0d%0ax-injected:%20yes"}
        assert not any("x-injected" in request.headers for request in scenario.requests)


@fresh
def test_from_https_to_http_is_not_followed(tmp_path: Path, connections: int, authority: Authority) -> None:
    with RawServer(RangeHandler(OBJECT)) as plain, TlsServer(to(plain.url()), authority) as server:
        with pytest.raises(BadResponseError) as caught:
            wait(
                fastxfer.start(
                    server.url(),
                    tmp_path / "out",
                    connections,
                    ca_bundle=str(authority.ca),
                    **{**QUICK, "retries": 0},
                )
            )
        assert plain.requests == []
    assert "https to http" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@fresh
def test_from_https_to_http_is_followed_if_asked_to_and_without_secrets(
    tmp_path: Path, connections: int, authority: Authority
) -> None:
    with RawServer(RangeHandler(OBJECT)) as plain, TlsServer(to(plain.url()), authority) as server:
        transfer = fastxfer.start(
            server.url(),
            tmp_path / "out",
            connections,
            ca_bundle=str(authority.ca),
            allow_http_redirects=True,
            auth=("user", "canary"),
            **QUICK,
        )
        wait(transfer)
        assert not any("canary" in arrived(request) for request in plain.requests)
    assert (tmp_path / "out").read_bytes() == OBJECT


@fresh
def test_from_http_to_https_is_followed(tmp_path: Path, connections: int, authority: Authority) -> None:
    with TlsServer(RangeHandler(OBJECT), authority) as safe, RawServer(to(safe.url())) as server:
        transfer = fastxfer.start(
            server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca), **QUICK
        )
        wait(transfer)
    assert (tmp_path / "out").read_bytes() == OBJECT


PUBLIC = "8.8.8.8"


def from_the_internet(tmp_path: Path, address: str, host: str, *options: str) -> dict[str, Any]:
    """Returns what a fetch came to from a server at `address` that redirects to `host` (see
    public_internet).
    """
    script = [sys.executable, "-m", "tests.faults.public_internet", str(tmp_path), address, host, *options]
    unshare = find_program("unshare", install="apt-get install util-linux")
    run = subprocess.run(
        [unshare, "-n", *script], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.1.2.3",
        "169.254.169.254",
        "[fd12::1]",
    ],
)
def test_from_the_internet_to_a_private_address_is_not_followed(tmp_path: Path, host: str) -> None:
    told = from_the_internet(tmp_path, PUBLIC, host)
    assert (told["error"], told["requests"], told["connections"]) == ("BadResponseError", 0, 0)
    assert "allow_private_redirects" in told["message"]
    assert list(tmp_path.iterdir()) == []


def test_from_the_internet_to_a_private_address_is_not_followed_on_a_kept_connection(tmp_path: Path) -> None:
    told = from_the_internet(tmp_path, PUBLIC, "127.0.0.1", "kept")
    assert (told["error"], told["requests"], told["connections"]) == ("BadResponseError", 0, 1)


def test_from_the_internet_over_ipv6_is_the_same(tmp_path: Path) -> None:
    told = from_the_internet(tmp_path, "2606:4700::1111", "127.0.0.1")
    assert (told["error"], told["requests"]) == ("BadResponseError", 0), told


@pytest.mark.parametrize(
    ("address", "host", "options"),
    [
        (PUBLIC, "127.0.0.1", ["allow"]),
        (PUBLIC, "8.8.4.4", []),
        (PUBLIC, "[2606:4700::1111]", []),
        ("10.1.2.3", "127.0.0.1", []),
        ("127.0.0.1", "8.8.8.8", []),
    ],
)
def test_other_redirects_between_addresses_are_followed(
    tmp_path: Path, address: str, host: str, options: list[str]
) -> None:
    told = from_the_internet(tmp_path, address, host, *options)
    assert (told["error"], told["right"]) == (None, True)


SECRETS = {
    "Authorization": "Bearer canary-header",
    "Cookie": "session=canary-cookie",
    "X-Amz-Security-Token": "canary-amz",
    "X-OSS-Security-Token": "canary-oss",
    "X-Api-Key": "canary-key",
    "X-Auth-Token": "canary-auth",
}


def arrived(request: Request) -> str:
    """Returns everything a server was sent, as text; Basic credentials are decoded."""
    sent = f"{request.target} {dict(request.headers)}"
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return sent + (base64.b64decode(value).decode() if kind == "Basic" else "")


@fresh
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_origin_gets_none_of_the_secret_headers(
    tmp_path: Path, connections: int, status: int
) -> None:
    with RawServer(RangeHandler(OBJECT)) as other, RawServer(to(other.url(), status)) as home:
        headers = {**SECRETS, "X-Trace": "public"}
        wait(fastxfer.start(home.url(), tmp_path / "out", connections, headers=headers, **QUICK))
        assert all(secret in arrived(home.requests[0]) for secret in SECRETS.values())
        assert not any("canary" in arrived(request) for request in other.requests)
        assert all(request.headers["x-trace"] == "public" for request in other.requests)
    assert (tmp_path / "out").read_bytes() == OBJECT


@fresh
@pytest.mark.parametrize("how", ["auth", "url"])
def test_another_origin_gets_no_credentials(tmp_path: Path, connections: int, how: str) -> None:
    with RawServer(RangeHandler(OBJECT)) as other, RawServer(to(other.url())) as home:
        options: dict[str, Any] = {"auth": ("user", "canary-pass")} if how == "auth" else {}
        url = home.url() if how == "auth" else home.url().replace("://", "://user:canary-pass@")
        wait(fastxfer.start(url, tmp_path / "out", connections, **options, **QUICK))
        assert "user:canary-pass" in arrived(home.requests[0])
        assert not any("authorization" in request.headers for request in other.requests)


class AsksWho(TlsServer):
    """A TLS server that asks for a client's certificate, and notes for each request whether one came."""

    def __init__(self, handler: Handler, authority: Authority) -> None:
        super().__init__(self._note, authority)
        self.context.load_verify_locations(authority.ca)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self._then = handler
        self.shown: list[bool] = []

    def _note(self, request: Request, connection: Connection) -> None:
        self.shown.append(tls_of(connection).shows_certificate)
        self._then(request, connection)


@fresh
def test_another_origin_is_not_shown_the_clients_certificate(
    tmp_path: Path, connections: int, authority: Authority
) -> None:
    with (
        AsksWho(RangeHandler(OBJECT), authority) as other,
        AsksWho(to(other.url()), authority) as home,
    ):
        for _ in range(2):  # the second time on connections that are kept
            transfer = fastxfer.start(
                home.url(),
                tmp_path / "out",
                connections,
                ca_bundle=str(authority.ca),
                client_cert=(str(authority.chain), str(authority.key)),
                exists="replace",
                **QUICK,
            )
            wait(transfer)
        assert set(home.shown) == {True}
        assert set(other.shown) == {False}


@fresh
def test_header_fields_that_the_caller_calls_secret_do_not_travel(tmp_path: Path, connections: int) -> None:
    headers = {"X-My-Key": "canary", "X-Ours-One": "canary", "X-Trace": "public"}
    with RawServer(RangeHandler(OBJECT)) as other, RawServer(to(other.url())) as home:
        transfer = fastxfer.start(
            home.url(),
            tmp_path / "out",
            connections,
            headers=headers,
            secret_headers="X-My-Key, x-ours-",
            **QUICK,
        )
        wait(transfer)
        assert arrived(home.requests[0]).count("canary") == 2
        assert not any("canary" in arrived(request) for request in other.requests)
        assert all(request.headers["x-trace"] == "public" for request in other.requests)


@fresh
def test_the_same_origin_keeps_the_credentials(tmp_path: Path, connections: int) -> None:
    handler = Misbehaving(OBJECT, '"v1"', None, True)
    handler.wrong, handler.when = moved("/there"), lambda nth, request: request.target == "/object"
    with RawServer(handler) as server:
        wait(
            fastxfer.start(server.url(), tmp_path / "out", connections, auth=("user", "canary-pass"), **QUICK)
        )
        assert all("user:canary-pass" in arrived(request) for request in server.requests)


@fresh
def test_secrets_do_not_come_back_with_a_redirect_home(tmp_path: Path, connections: int) -> None:
    handler = Misbehaving(OBJECT, '"v1"', None, True)
    with RawServer(handler) as home, RawServer(to(home.url("/attacker-chose-this"))) as other:
        handler.wrong, handler.when = moved(other.url()), lambda nth, request: request.target == "/object"
        wait(fastxfer.start(home.url(), tmp_path / "out", connections, headers=SECRETS, **QUICK))
        there = [request for request in home.requests if request.target == "/attacker-chose-this"]
        assert there
        assert not any("canary" in arrived(request) for request in [*there, *other.requests])


# ---- canaries: secrets are nowhere to be seen ----


def everything_shown(error: FastxferError, transfer: fastxfer.Transfer) -> str:
    cause = error.__cause__
    shown = [str(error), repr(error), str(error.to_dict()), str(error.args), str(cause), repr(cause)]
    shown += [repr(transfer), str(transfer.progress), str(transfer.progress.url), str(error.kept)]
    return "\n".join(shown)


@crosswise
@pytest.mark.parametrize(
    ("how", "status"), [("user-info", 401), ("auth", 404), ("query", 500), ("headers", 302)]
)
def test_no_secret_is_shown_or_stored_when_a_transfer_fails(
    tmp_path: Path, connections: int, resumed: bool, how: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = dict(QUICK)
    with Scenario(tmp_path, connections, resumed) as scenario:
        url = scenario.url + ("?token=canary-token#canary-fragment" if how == "query" else "")
        if how == "user-info":
            url = url.replace("://", "://canary-user:canary-pass@")
        elif how == "auth":
            options["auth"] = ("canary-user", "canary-pass")
        elif how == "headers":
            options["headers"] = SECRETS
        scenario.server_does(
            lambda asked: asked.connection.respond(status, {"Location": "ftp://x/?canary-location"}), later
        )
        scenario.handler.gate.clear()
        transfer = fastxfer.start(
            url,
            scenario.out,
            connections,
            progress=lambda now: scenario.handler.gate.set() if now.done else None,
            **options,
        )
        with pytest.raises(FastxferError) as caught:
            wait(transfer)
        assert scenario.names() == ["out.part", "out.part.ckpt"]
        sent = " ".join(arrived(request) for request in scenario.requests)
        assert "canary" in sent, "the server did get the secret"
        assert "canary" not in everything_shown(caught.value, transfer)
        assert b"canary" not in everything_stored(scenario.directory)
        scenario.handler.wrong = None
        result = wait(fastxfer.start(url, scenario.out, connections, **options))
        assert "canary" not in f"{result} {result!r} {result.to_dict()}"
        assert b"canary" not in everything_stored(scenario.directory)
        assert os.listxattr(scenario.out), "what is kept with the file was looked at"
    assert "canary" not in caplog.text


@fresh
def test_no_secret_of_a_redirect_is_shown_or_stored(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(
            moved("/signed?X-Amz-Signature=canary"), lambda nth, request: request.target == "/object"
        )
        result = scenario.arrives()
        assert "canary" not in f"{result} {result!r} {result.to_dict()}"
        assert b"canary" not in everything_stored(scenario.directory)
        scenario.handler.wrong = lambda asked: (
            asked.connection.respond(404)
            if asked.request.target != "/object"
            else moved("/signed?X-Amz-Signature=canary")(asked)
        )
        scenario.handler.when = always
        transfer = fastxfer.start(scenario.url, tmp_path / "two", connections, **QUICK)
        with pytest.raises(NotFoundError) as caught:
            wait(transfer)
        assert "canary" not in everything_shown(caught.value, transfer)


@fresh
@pytest.mark.parametrize("proxy", ["refusing", "unknown", "answering-407", "no-proxy-at-all"])
def test_a_proxys_password_is_never_shown(tmp_path: Path, connections: int, proxy: str) -> None:
    def answer(request: Request, connection: Connection) -> None:
        connection.respond(407, {"Proxy-Authenticate": 'Basic realm="x"'})

    with RawServer(answer) as server:
        address = {
            "refusing": "http://user:canary@127.0.0.1:9",
            "unknown": "http://user:canary@no-such-proxy.invalid:3128",
            "answering-407": server.url("").replace("://", "://user:canary@"),
            "no-proxy-at-all": "nonsense://user:canary@127.0.0.1",
        }[proxy]
        transfer = None
        try:
            transfer = fastxfer.start(
                "http://127.0.0.1:9/object",
                tmp_path / "out",
                connections,
                proxy=address,
                **{**QUICK, "retries": 1},
            )
            wait(transfer)
        except FastxferError as error:
            shown = everything_shown(error, transfer) if transfer is not None else f"{error} {error!r}"
        else:
            pytest.fail("a proxy that does not work was not needed")
    assert "canary" not in shown
    assert list(tmp_path.iterdir()) == []
