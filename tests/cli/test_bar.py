"""The bar and its keys, on a real terminal."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import DEADLINE_S, claimed, fastxfer, running, wait_until
from tests.cli.terminal import Terminal
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject
from tests.servers.raw import Fault, RangeHandler, RawServer

MIB = 1024**2


@pytest.fixture
def thing(objects: Objects) -> TestObject:
    return objects.make(8 * MIB)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def half_fetched(nginx: Nginx, thing: TestObject, out: Path) -> int:
    with running("fetch", nginx.url(thing.name, prefix="/slow256k"), "-o", out, "-x", "4") as process:
        wait_until(lambda: claimed(out) > 2 * MIB)
        process.kill()
    return claimed(out)


def test_the_bar_shows_name_share_rate_eta_and_connections(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    slow = nginx.url(thing.name, prefix="/slow256k")
    with Terminal("fetch", slow, "-o", tmp_path / "the-name", "-x", "4") as terminal:
        text = terminal.wait_for("the-name", "%", " of 8 MiB", "MiB/s", "ETA ", "4 connections", "█", "░")
        assert "resumed" not in text
        assert terminal.end() == 0
        assert "the-name" in terminal.text
        assert "100%" in terminal.text
        assert "8 MiB of 8 MiB  done" in terminal.text
        assert "8 MiB in " in terminal.text  # the result, on stdout
    assert sha256(tmp_path / "the-name") == thing.sha256


def test_the_resumed_share_is_told_and_drawn_in_its_own_way(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    kept = half_fetched(nginx, thing, out)
    share = kept * 100 // thing.size
    with Terminal("fetch", nginx.url(thing.name, prefix="/slow256k"), "-o", out, "-x", "4") as terminal:
        text = terminal.wait_for(f"resumed {share}%", "▒", "█", "░")
        first = next(line for line in text.splitlines() if "▒" in line)
        drawn = first.count("▒") / (first.count("▒") + first.count("█") + first.count("░"))
        assert abs(drawn - kept / thing.size) < 0.05
        assert first.index("▒") < first.index("█") < first.index("░")
        row = next(n for n, line in enumerate(terminal.screen.display) if "▒" in line)
        cells = terminal.screen.buffer[row]
        assert cells[first.index("▒")].fg != cells[first.index("█")].fg
        assert terminal.end() == 0
    assert sha256(out) == thing.sha256


def test_p_pauses_and_goes_on(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    slow = nginx.url(thing.name, prefix="/slow256k")
    with Terminal("fetch", slow, "-o", tmp_path / "out", "-x", "4") as terminal:
        terminal.wait_for("p pauses, q stops", "█")
        terminal.press(b"p")
        terminal.wait_for("paused: p goes on, q stops", "0 connections")
        terminal.press(b"p")
        terminal.wait_for("p pauses, q stops", "4 connections")
        assert terminal.end() == 0
        assert terminal.modes == terminal.modes_before
    assert sha256(tmp_path / "out") == thing.sha256


@pytest.mark.parametrize("how", ["q", "ctrl-c", "q while paused"])
def test_a_stop_from_the_keyboard_is_7_and_resumable(
    nginx: Nginx, thing: TestObject, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with Terminal("fetch", slow, "-o", out, "-x", "4") as terminal:
        terminal.wait_for("p pauses, q stops", "█")
        wait_until(lambda: claimed(out) > MIB)
        if how == "q while paused":
            terminal.press(b"p")
            terminal.wait_for("paused: ")
        terminal.press(b"\x03" if how == "ctrl-c" else b"q")
        assert terminal.end() == 7
        said = "the transfer was stopped while paused, and stays so; to go on say so: --unpause"
        if how != "q while paused":
            said = "stopped; the same command goes on where it stopped (kept: "
        assert f"fastxfer: {said}" in terminal.text.replace("\n", "")
        assert "^C" not in terminal.text
        assert terminal.modes == terminal.modes_before
    assert 0 < claimed(out) < thing.size
    fast: list[str | Path] = ["fetch", nginx.url(thing.name, prefix="/slow256k"), "-o", out, "-x", "64"]
    if how == "q while paused":
        refused = fastxfer(*fast)
        assert (refused.returncode, "was paused by its user; to go on" in refused.stderr) == (7, True)
        fast.append("--unpause")
    assert fastxfer(*fast).returncode == 0
    assert sha256(out) == thing.sha256


def test_a_paused_target_comes_back_paused_and_p_goes_on(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    command: list[str | Path] = [
        "fetch",
        nginx.url(thing.name, prefix="/slow256k"),
        "-o",
        tmp_path / "out",
        "-x",
        "4",
    ]
    with Terminal(*command) as terminal:
        terminal.wait_for("p pauses, q stops", "█")
        wait_until(lambda: claimed(tmp_path / "out") > MIB)
        terminal.press(b"p")
        terminal.wait_for("paused: ")
        terminal.press(b"q")
        assert terminal.end() == 7
    told = fastxfer("status", tmp_path / "out").stdout
    assert ", paused by its user\n" in told
    assert told.rstrip().endswith(" --unpause")
    with Terminal(*command[:-1], "64") as terminal:
        terminal.wait_for("paused: p goes on, q stops", "0 connections")
        terminal.press(b"p")
        assert terminal.end() == 0
    assert sha256(tmp_path / "out") == thing.sha256


def test_an_error_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    handler = RangeHandler(bytes(4 * MIB), faults=lambda request: Fault(stall_at=100))
    options = ["--retries", "0", "--stall-timeout", "1"]
    with RawServer(handler) as server, Terminal("fetch", server.url(), *options, "-d", tmp_path) as terminal:
        terminal.wait_for("object", "p pauses")
        assert terminal.modes != terminal.modes_before
        assert terminal.end() == 2
        assert "failed" in terminal.text
        assert "fastxfer: no byte came for 1 s" in terminal.text
        assert terminal.modes == terminal.modes_before


def test_a_wait_for_the_server_is_told(own_nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    slow = own_nginx.url(thing.name, prefix="/slow256k")
    with Terminal("fetch", slow, "-d", tmp_path, "-x2", "--wait-for-network=60", columns=120) as terminal:
        terminal.wait_for("█")
        own_nginx.kill()
        terminal.wait_for("waiting: trying again: ")
        own_nginx.start()
        terminal.wait_for("p pauses, q stops")
        terminal.press(b"q")
        assert terminal.end() == 7


def test_ctrl_z_gives_the_terminal_back_and_it_goes_on(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    slow = nginx.url(thing.name, prefix="/slow256k")
    with Terminal("fetch", slow, "-o", tmp_path / "out", "-x", "4") as terminal:
        terminal.wait_for("p pauses, q stops", "█")
        assert terminal.modes != terminal.modes_before
        # As the terminal would for Ctrl-Z; the kernel does not stop the group of a session's leader so.
        terminal.process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert terminal.modes == terminal.modes_before
        terminal.process.send_signal(signal.SIGCONT)
        wait_until(lambda: terminal.modes != terminal.modes_before)
        terminal.press(b"p")
        terminal.wait_for("paused: p goes on")
        terminal.press(b"p")
        assert terminal.end() == 0
        assert terminal.modes == terminal.modes_before
    assert sha256(tmp_path / "out") == thing.sha256


def test_a_narrow_terminal_keeps_two_lines(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    name = "a-very-long-name-of-an-object-that-has-no-room.bin"
    slow = nginx.url(thing.name, prefix="/slow512k")
    with Terminal("fetch", slow, "-o", tmp_path / name, "-x", "4", "-q", columns=40) as quiet:
        assert quiet.end() == 0
        assert quiet.raw == b""
    (tmp_path / name).unlink()
    with Terminal(
        "fetch", slow, "-o", tmp_path / name, "-x", "4", columns=40, stdout=subprocess.DEVNULL
    ) as narrow:
        narrow.wait_for("a-very", "…", "%", "█")
        assert narrow.end() == 0
        assert len(narrow.text.splitlines()) == 2, narrow.text


def test_no_bar_with_json_unless_asked_for(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    slow = nginx.url(thing.name, prefix="/slow512k")
    for name, options in (("without", ["--json"]), ("with", ["--json", "--progress"])):
        with Terminal(
            "fetch", slow, "-o", tmp_path / name, "-x", "4", *options, stdout=subprocess.DEVNULL
        ) as terminal:
            assert terminal.end() == 0
            assert ("100%" in terminal.text, terminal.raw == b"") == (name == "with", name != "with")


def test_a_dumb_terminal_gets_plain_lines(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    slow = nginx.url(thing.name, prefix="/slow512k")
    with Terminal("fetch", slow, "-o", tmp_path / "out", "-x", "4", env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        assert "out: 100% 8 MiB of 8 MiB  done" in terminal.text
        assert b"\x1b" not in terminal.raw


def test_a_terminal_without_unicode_gets_ascii(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    slow = nginx.url(thing.name, prefix="/slow256k")
    env = {"PYTHONIOENCODING": "ascii"}
    with Terminal("fetch", slow, "-o", tmp_path / "out", "-x", "4", env=env) as terminal:
        terminal.wait_for("###", "...", "%")
        assert terminal.end() == 0
        assert terminal.raw.isascii()


def test_progress_true_in_python_shows_a_bar(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    code = "import sys, fastxfer; fastxfer.fetch(sys.argv[1], sys.argv[2], 4, progress=True)"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with Terminal("-c", code, slow, tmp_path / "out", command=(sys.executable,)) as terminal:
        terminal.wait_for(thing.name[:8], "MiB/s", "4 connections", "█")
        assert "p pauses" not in terminal.text
        assert terminal.end() == 0
        assert "100%" in terminal.text


def test_progress_true_in_python_says_nothing_on_a_pipe(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    code = "import sys, fastxfer; fastxfer.fetch(sys.argv[1], sys.argv[2], progress=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, nginx.url(objects.make(1000).name), str(tmp_path / "out")],
        capture_output=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
