"""A secret that is given in any way appears in no output, no JSON, no file and on no screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import claimed, fastxfer, running, wait_until
from tests.cli.terminal import Terminal
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.raw import Connection, RawServer, Request

CANARY = "c4n4ry7s3cr3t"
MIB = 1024**2


def with_secrets(url: str) -> list[str]:
    """Returns the arguments for a URL with user info and query, a header and credentials: secrets all."""
    secret = url.replace("http://", f"http://{CANARY}user:{CANARY}@") + f"?token={CANARY}#{CANARY}"
    return [secret, "-H", f"X-Token: {CANARY}", "-H", f"Cookie: id={CANARY}"]


def assert_clean(*texts: str | bytes) -> None:
    for text in texts:
        assert CANARY not in (text.decode(errors="replace") if isinstance(text, bytes) else text)


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("prefix", ["", "/status/404", "/status/401", "/status/500", "/redirect"])
def test_not_in_what_a_fetch_or_probe_says(
    nginx: Nginx, objects: Objects, tmp_path: Path, prefix: str, json: list[str]
) -> None:
    url = nginx.url(objects.make(3 * MIB).name, prefix=prefix)
    options = [*json, "--retries", "0", "--auth", f"user:{CANARY}"]
    fetched = fastxfer("fetch", *with_secrets(url), *options, "-o", tmp_path / "out")
    probed = fastxfer("probe", *with_secrets(url), *options)
    assert_clean(fetched.stdout, fetched.stderr, probed.stdout, probed.stderr)


def test_not_in_the_checkpoint_nor_in_status(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB)
    out = tmp_path / "out"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with running("fetch", *with_secrets(slow), "-o", out, "-x", "4", "--json") as process:
        wait_until(lambda: claimed(out) > MIB)
        process.terminate()
        assert_clean(*process.communicate())
    assert_clean(Path(f"{out}.part.ckpt").read_bytes())
    told, in_json = fastxfer("status", out), fastxfer("status", out, "--json")
    assert_clean(told.stdout, told.stderr, in_json.stdout, in_json.stderr)
    assert "its URL had a query, which is not stored" in told.stdout


def test_not_on_the_screen(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    slow = nginx.url(objects.make(8 * MIB).name, prefix="/slow256k")
    with Terminal("fetch", *with_secrets(slow), "-o", tmp_path / "out", "-x", "4") as terminal:
        terminal.wait_for("█")
        terminal.press(b"q")
        assert terminal.end() == 7
        assert_clean(terminal.raw)


def test_not_in_an_error_of_an_answer_that_repeats_it(tmp_path: Path) -> None:
    def echo(request: Request, connection: Connection) -> None:
        said = f"{request.target} {dict(request.headers)}"
        connection.send(f"HTTP/1.1 500 {said}\r\nContent-Length: 0\r\nX-Said: {said}\r\n\r\n".encode())

    with RawServer(echo) as server:
        done = fastxfer(
            "fetch", *with_secrets(server.url()), "--json", "--retries", "0", "-o", tmp_path / "out"
        )
    assert done.returncode == 22
    assert_clean(done.stdout, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"http://user:{CANARY}@"],
        [f"http://user:{CANARY}@host:port/x"],
        [f"http://user:{CANARY}@[::1/x"],
        [f"http://user:a/{CANARY}@host/x"],
        [f"http://user:{CANARY}/more@host/x"],
        [f"ftp://user:{CANARY}@host/x"],
        [f"user:{CANARY}@host/x"],
        [f"http://user:{CANARY}@host/a b"],
        [f"http://user:{CANARY}@host/"],
        [f"http://user:{CANARY}@host/?{CANARY}"],
        [f"http://{CANARY}@no-such-host.invalid/x?{CANARY}"],
        ["http://host/x", f"http://user:{CANARY}@host/y"],
        ["http://host/x", "-H", CANARY],
        ["http://host/x", "-H", f"X-Token: {CANARY}\x01"],
        ["http://host/x", "--auth", CANARY],
        ["http://host/x", "--auth", f"{CANARY}:\x01"],
        ["http://host/x", f"--password={CANARY}"],
        ["http://host/x", "--password", CANARY],
        ["http://host/x", f"-u{CANARY}"],
        ["http://host/x", f"-q={CANARY}"],
        ["http://127.0.0.1/x", "--proxy", f"http://user:{CANARY}@no-such-host.invalid:1"],
        ["http://127.0.0.1/x", "--proxy", f"http://user:{CANARY}@[bad"],
    ],
)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_not_in_an_error_of_arguments(tmp_path: Path, arguments: list[str], json: list[str]) -> None:
    done = fastxfer("fetch", *arguments, *json, "--retries", "0", "--connect-timeout", "5", cwd=tmp_path)
    assert done.returncode != 0
    assert_clean(done.stdout, done.stderr)


def test_not_in_an_error_of_variables(tmp_path: Path) -> None:
    for name in ("HEADERS", "AUTH", "NETRC", "CHECKSUM", "JSON"):
        done = fastxfer("fetch", "http://host/x", env={f"FASTXFER_{name}": CANARY}, cwd=tmp_path)
        assert done.returncode == 28
        assert_clean(done.stdout, done.stderr)


def test_not_in_the_message_of_an_unknown_command() -> None:
    done = fastxfer(f"http://user:{CANARY}@host/x")
    assert_clean(done.stdout, done.stderr)
