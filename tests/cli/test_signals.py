"""Ctrl-C and SIGTERM: everything is saved, status 7, one line, and the same command goes on."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, claimed, environment, events, fastxfer, running, wait_until
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.raw import Connection, RawServer, Request

MIB = 1024**2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_signal_stops_resumably(
    nginx: Nginx, objects: Objects, tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    thing = objects.make(8 * MIB)
    out = tmp_path / "out"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with running("fetch", slow, "-o", out, "-x", "4", *options) as process:
        wait_until(lambda: claimed(out) > MIB)
        process.send_signal(number)
        process.send_signal(number)  # an impatient user
        stdout, stderr = process.communicate()
    assert process.returncode == 7
    assert stderr.count("\n") == 1
    assert stderr.startswith("fastxfer: stopped; the same command goes on where it stopped (kept: ")
    if options:
        last = events(stdout)[-1]
        assert (last["event"], last["exit_code"], last["kept"] in stderr) == ("error", 7, True)
    else:
        assert stdout == ""
    kept = claimed(out)
    again = fastxfer("fetch", slow, "-o", out, "-x", "64", "--json")
    result = events(again.stdout)[-1]
    assert (result["resumed"], result["transferred"]) == (kept, thing.size - kept)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256


def test_a_signal_before_anything_came_is_7_too(tmp_path: Path) -> None:
    def silent(_request: Request, connection: Connection) -> None:
        connection.wait_until_gone()

    with RawServer(silent) as server, running("fetch", server.url(), "-o", tmp_path / "out") as process:
        server.wait_for_requests(1)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (7, "")
    assert stderr == "fastxfer: stopped; the same command starts it again\n"
    assert list(tmp_path.iterdir()) == []


def test_probe_ends_on_a_signal(tmp_path: Path) -> None:
    def silent(_request: Request, connection: Connection) -> None:
        connection.wait_until_gone()

    with RawServer(silent) as server, running("probe", server.url()) as process:
        server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr.count("\n")) == (7, "", 1)


def test_an_ignored_signal_stays_ignored(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(2 * MIB)
    out = tmp_path / "out"
    url = nginx.url(thing.name, prefix="/slow256k")
    script = 'trap "" HUP; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *COMMAND, "fetch", url, "-x", "1", "-q", "-o", str(out)],
        env=environment(),
    )
    wait_until(lambda: claimed(out) > 0)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256
