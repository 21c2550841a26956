"""`fastxfer demo`: kill, resume and check, told as it was, with nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cli.command import environment, fastxfer, one_error, running
from tests.cli.terminal import Terminal

MIB = 1024**2


def test_it_plays_to_a_verified_end(tmp_path: Path) -> None:
    done = fastxfer("demo", "--size", "8M", "-x", "4", "--dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = {line[:14].strip(): line[15:] for line in done.stdout.splitlines() if line[:1] not in ("", " ")}
    kept = int(re.findall(r"\((\d+) bytes\)", told["kept"])[0])
    fetched = int(re.findall(r"\((\d+) bytes\)", told["run 2 fetched"])[0])
    assert 4 * MIB <= kept < 8 * MIB
    assert kept + fetched == 8 * MIB
    assert int(re.findall(r"\((\d+) bytes\)", told["run 1 fetched"])[0]) >= kept
    assert told["sha256"].endswith(", equal")
    assert told["object"].split()[-1] == told["sha256"].split(",")[0]
    assert f"claimed        {kept} of {8 * MIB} bytes" in done.stdout
    assert "all held, in " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_it_shows_the_bar_of_both_runs_on_a_terminal(tmp_path: Path) -> None:
    with Terminal("demo", "--size", "8M", "--dir", tmp_path, lines=50, columns=120) as terminal:
        terminal.wait_for("█", "connections")
        assert terminal.end() == 0
        assert "all held, in " in terminal.text
        assert terminal.modes == terminal.modes_before
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    with running("demo", "--size", "8M", "--dir", tmp_path) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("run 1"):
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 7
    assert list(tmp_path.iterdir()) == []
    assert all(str(tmp_path) not in command for command in commands())


def commands() -> list[str]:
    """Returns the command lines of all processes."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(Path("/proc", name, "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "options", [["--size", "1M"], ["--size", "big"], ["-x", "0"], ["file"], ["--no-such-option"]]
)
def test_bad_options_are_28(options: list[str]) -> None:
    one_error(fastxfer("demo", *options), 28)


def test_a_missing_directory_is_17(tmp_path: Path) -> None:
    one_error(fastxfer("demo", "--dir", tmp_path / "no"), 17)


def test_the_server_serves_ranges_by_the_book_and_ends_with_its_stdin(tmp_path: Path) -> None:
    path, size = tmp_path / "object", 5 * MIB + 3
    server = subprocess.Popen(
        [sys.executable, "-m", "fastxfer.cli.demo_server", str(path), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["port"]
            data = path.read_bytes()
            assert len(data) == size
            assert get(port, {}) == (200, None, data)
            assert get(port, {"Range": "bytes=1-3"}) == (206, f"bytes 1-3/{size}", data[1:4])
            assert get(port, {"Range": "bytes=-5"}) == (206, f"bytes {size - 5}-{size - 1}/{size}", data[-5:])
            assert get(port, {"Range": f"bytes={size}-"}) == (416, f"bytes */{size}", b"")
            assert get(port, {"Range": "bytes=3-1"}) == (200, None, data)
            assert get(port, {"Range": "bytes=0-0", "If-Range": '"other"'}) == (200, None, data)
            assert get(port, {}, path="/other") == (404, None, b"")
        finally:
            server.stdin.close()
        assert server.wait(20) == 0


def get(port: int, headers: dict[str, str], path: str = "/object") -> tuple[int, str | None, bytes]:
    """Returns status, Content-Range and body of an answer."""
    request = Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["Content-Range"], answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.headers["Content-Range"], error.read()
