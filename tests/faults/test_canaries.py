"""A secret, however it is given and however the fetch ends, is in nothing that is shown or stored.

Each fetch runs in a process of its own that shows all it can: the transfer, its progress, its result or its
uncaught error with the whole traceback, and every log line.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scenarios import OBJECT, QUICK, everything_stored
from tests.servers.raw import Connection, RangeHandler, RawServer, Request

CANARY = "canary4711"
CHILD = """
import json, logging, sys, fastxfer
logging.basicConfig(level=logging.DEBUG)
given = json.load(sys.stdin)
again = given.pop("again", None)
if again:
    given["refresh"] = lambda: again
transfer = fastxfer.start(**given, progress=print)
print(transfer, repr(transfer), transfer.progress)
try:
    result = transfer.wait(30)
except fastxfer.FastxferError as error:
    print(error, repr(error), error.args, error.to_dict(), vars(error), transfer, transfer.progress)
    raise
print(result, repr(result), result.to_dict(), transfer, transfer.progress)
"""


def arrived(request: Request) -> str:
    """Returns everything a server was sent, as text; Basic credentials are decoded."""
    sent = f"{request.target} {dict(request.headers)}"
    for name in ("authorization", "proxy-authorization"):
        kind, _, value = request.headers.get(name, "").partition(" ")
        sent += base64.b64decode(value).decode() if kind == "Basic" else ""
    return sent


def with_user(url: str) -> str:
    return url.replace("://", f"://user:{CANARY}@")


def given_in_the_url(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": with_user(server.url())}


def given_in_the_query(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": server.url(f"/object?X-Amz-Signature={CANARY}") + f"#{CANARY}"}


def given_in_a_header(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": server.url(), "headers": {"X-Token": CANARY, "Authorization": f"Bearer {CANARY}"}}


def given_as_credentials(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": server.url(), "auth": ["user", CANARY]}


def given_to_a_proxy(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": "http://origin.invalid/object", "proxy": with_user(server.url(""))}


def given_in_netrc(server: RawServer, home: Path) -> dict[str, Any]:
    (home / ".netrc").write_text(f"machine 127.0.0.1 login user password {CANARY}\n", encoding="utf-8")
    (home / ".netrc").chmod(0o600)
    return {"url": server.url(), "netrc": True}


def given_by_a_redirect(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": server.url("/redirect")}


def given_by_refresh(server: RawServer, home: Path) -> dict[str, Any]:
    return {"url": server.url("/expired"), "again": with_user(server.url(f"/object?sig={CANARY}"))}


WAYS = [
    given_in_the_url,
    given_in_the_query,
    given_in_a_header,
    given_as_credentials,
    given_to_a_proxy,
    given_in_netrc,
    given_by_a_redirect,
    given_by_refresh,
]

Wrong = Callable[[Connection], None]


def garbage(connection: Connection) -> None:
    connection.send(f"{CANARY} is no HTTP\r\n\r\n".encode())
    connection.close()


def strange_head(connection: Connection) -> None:
    connection.send(f"HTTP/1.1 206 Partial\r\nContent-Range: {CANARY}\r\nContent-Length: x\r\n\r\n".encode())
    connection.close()


ENDS: dict[str, Wrong | None] = {
    "arrives": None,
    "refused": lambda connection: connection.respond(403, {"WWW-Authenticate": f'Basic realm="{CANARY}"'}),
    "gone": lambda connection: connection.respond(404, {}, f"no {CANARY}".encode()),
    "server-error": lambda connection: connection.respond(500, {}, CANARY.encode()),
    "reset": Connection.reset,
    "garbage": garbage,
    "led-elsewhere": lambda connection: connection.respond(302, {"Location": f"ftp://{CANARY}@x/{CANARY}"}),
}


class Server:
    """Serves the object by the book for the first request, and wrongly after them."""

    def __init__(self, wrong: Wrong | None) -> None:
        self._good = RangeHandler(OBJECT)
        self._wrong = wrong
        self._answered = 0

    def __call__(self, request: Request, connection: Connection) -> None:
        if request.target == "/redirect":
            connection.respond(302, {"Location": f"/object?signature={CANARY}"})
        elif request.target == "/expired":
            connection.respond(403)
        elif self._wrong is not None and self._answered >= 1:
            self._wrong(connection)
        else:
            self._answered += 1
            self._good(request, connection)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", WAYS, ids=[way.__name__.replace("_", "-") for way in WAYS])
def test_a_secret_is_in_nothing_that_is_shown_or_stored(
    tmp_path: Path, way: Callable[[RawServer, Path], dict[str, Any]], end: str
) -> None:
    target, home = tmp_path / "target", tmp_path / "home"
    target.mkdir()
    home.mkdir()
    with RawServer(Server(ENDS[end])) as server:
        given = {**QUICK, "retries": 0, "connections": 1, **way(server, home), "out": str(target / "out")}
        run = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore", "-c", CHILD],
            input=json.dumps(given),
            env={**os.environ, "HOME": str(home), "NO_PROXY": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert any(CANARY in arrived(request) for request in server.requests), "the server got the secret"
    assert "Transfer" in run.stdout
    assert CANARY not in run.stdout
    assert CANARY not in run.stderr
    assert CANARY.encode() not in everything_stored(target)
    if end == "arrives":
        assert run.returncode == 0, run.stderr
        assert os.listxattr(target / "out"), "what is kept with the file was looked at"
    else:
        assert "Traceback" in run.stderr and "Error: " in run.stderr
        assert (target / "out.part.ckpt").exists(), "what is stored was looked at"
