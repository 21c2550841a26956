"""Mirrors on the command line, and after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.mirrors.group import DEADLINE_S, OBJECT, OTHER, SHA256, SIZE, Copy, Group

UNHURRIED = ["--max-rate", "8M"]
"""So that the transfer is not over before a mirror has been held against the first."""


def command(group: Group, urls: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "fastxfer", "fetch", *urls, "-o", str(group.out), "-x", "4", *options]


def test_further_urls_are_mirrors_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OTHER), Copy()) as group:
        run = subprocess.run(
            command(group, group.urls, *UNHURRIED),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        assert group.out.read_bytes() == OBJECT
        assert f"{group.urls[1]} is not used any more: it has other bytes" in run.stdout + run.stderr


def test_json_tells_who_gave_how_much(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OTHER)) as group:
        run = subprocess.run(
            command(group, group.urls, "--json", "--max-rate", "8M"),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        result = json.loads(run.stdout.splitlines()[-1])
        assert result["sources"] == {group.urls[0]: SIZE}
        assert group.urls[1] in result["notes"][0]


def test_when_all_fail_the_line_and_the_exit_status_say_so(tmp_path: Path) -> None:
    with Group(tmp_path) as group:
        urls = ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"]
        run = subprocess.run(
            command(group, urls, "--retries", "0"),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert run.returncode == 6
    assert all(url in run.stderr for url in urls)


def test_after_a_kill_the_mirrors_go_on_in_any_order(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(etag='"a"'), Copy(etag='"b"')) as group:
        process = subprocess.Popen(
            command(group, group.urls, "--json", "--max-rate", "12M"), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done", 0) >= SIZE // 4:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        result = group.arrives([1, 0], checksum=SHA256)
    assert result.resumed > 0
    assert (result.restarts, result.verified) == (0, "checksum")
