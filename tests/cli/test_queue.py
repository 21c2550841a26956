"""`fastxfer queue`: each of its commands, for people and as JSON."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastxfer import Queue
from fastxfer.cli.queue import COMMANDS
from tests.cli.command import events, fastxfer, one_error
from tests.cli.terminal import Terminal
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

URL = "http://127.0.0.1:9/f"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "q.db")


@pytest.fixture
def run(queue: Queue, tmp_path: Path) -> Command:
    """Runs `fastxfer queue ...` over the queue of the test, in a directory of its own."""
    (tmp_path / "cwd").mkdir()

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return fastxfer("queue", *arguments, env={"FASTXFER_QUEUE": str(queue.path)}, cwd=tmp_path / "cwd")

    return command


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the output of a command that must have gone well and complained of nothing."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Returns the last JSON line of a command that must have gone well."""
    last = events(said(done))[-1]
    assert last.pop("event") == "result"
    return last


def test_an_item_is_added(run: Command, queue: Queue, tmp_path: Path) -> None:
    assert said(run("add", URL)) == f"item 1: {tmp_path}/cwd/f\n"
    told = result(
        run(
            *["add", URL, "http://127.0.0.1:9/mirror", "-o", "x/y", "-x", "3", "--priority", "7", "--paused"],
            *["-H", "X-Secret: hush", "--max-rate", "5M", "--json"],
        )
    )
    assert told == queue.item(2).to_dict()
    assert (told["path"], told["priority"], told["state"]) == (f"{tmp_path}/cwd/x/y", 7, "paused")
    assert told["options"] == {"connections": 3, "max_rate": 5 * 1024**2}
    assert (told["secret_options"], told["mirrors"]) == (["headers"], ["http://127.0.0.1:9/mirror"])
    assert said(run("add", URL, "-q", "-d", tmp_path)) == ""


def test_a_file_is_imported(run: Command, queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "cwd" / "list").write_text(
        f"{URL}\thttp://127.0.0.1:9/g\n  out=a/b\n  pause=true\n  split=2\n  x=1\n{URL}2\n"
    )
    done = run("import", "list", "--priority", "-1", "--retries", "0")
    assert (done.returncode, done.stdout) == (0, "2 items added: 1-2\n")
    assert done.stderr == "fastxfer: line 5: the option 'x' has no meaning here and no effect\n"
    first, second = queue.items()
    assert (first.path, first.state, first.priority) == (f"{tmp_path}/cwd/a/b", "paused", -1)
    assert first.options == {"retries": 0, "connections": 2}
    assert (second.state, second.options) == ("queued", {"retries": 0})
    assert "line 1: another item" in one_error(run("import", "list", "-q"), 28)
    told = run("import", "list", "-d", tmp_path, "--json", "-q")
    assert events(told.stdout)[-1] == {"event": "result", "change": "added", "ids": [3, 4]}


def test_the_items_are_listed(run: Command, queue: Queue, tmp_path: Path) -> None:
    assert said(run("list")) == "no items\n"
    assert not queue.path.exists()
    queue.add(URL, tmp_path / "a")
    queue.add(URL, tmp_path / "b", paused=True, priority=2)
    assert said(run("list")).splitlines() == [
        "  id  state      priority       done    size       file",
        f"   2  paused            2        0 B of ?          {tmp_path}/b",
        f"   1  queued            0        0 B of ?          {tmp_path}/a",
        "1 queued, 1 paused",
    ]
    found = events(said(run("list", "--json")))
    assert [{**item.to_dict(), "event": "item"} for item in queue.items()] == found[:2]
    assert found[2] == {
        "event": "result",
        "items": 2,
        **dict.fromkeys(["running", "done", "failed", "cancelled"], 0),
        "queued": 1,
        "paused": 1,
    }
    assert said(run("list", "--state", "queued", "--state", "done")).splitlines()[-1] == "1 queued"
    assert "must be one of" in one_error(run("list", "--state", "waiting"), 28)


@pytest.mark.parametrize(
    ("command", "before", "after", "words"),
    [
        ("pause", "queued", "paused", "paused"),
        ("resume", "paused", "queued", "resumed"),
        ("cancel", "queued", "cancelled", "cancelled"),
        ("retry", "cancelled", "queued", "in line again"),
        ("remove", "paused", None, "removed"),
    ],
)
def test_items_are_changed(
    run: Command, queue: Queue, tmp_path: Path, command: str, before: str, after: str | None, words: str
) -> None:
    for name in "abcd":
        id = queue.add(URL, tmp_path / name, paused=before == "paused")
        if before == "cancelled":
            queue.cancel(id)
    assert said(run(command, "1", "3", "2")) == f"3 items {words}: 1-3\n"
    assert result(run(command, "4", "--json")) == {
        "change": words,
        "ids": [4],
    }
    assert {item.state for item in queue.items()} == ({after} if after is not None else set())
    assert "name the items by their ids, or --all" in one_error(run(command), 28)
    assert "name the items by their ids, or --all" in one_error(run(command, "1", "--all"), 28)
    assert "there is no item 99" in one_error(run(command, "99"), 28)
    assert "an item's id is a number" in one_error(run(command, "x"), 28)
    assert said(run(command, "--all")).startswith("0 items")


def test_all_are_changed(run: Command, queue: Queue, tmp_path: Path) -> None:
    for name in "abc":
        queue.add(URL, tmp_path / name)
    assert said(run("pause", "--all")) == "3 items paused: 1-3\n"
    assert said(run("resume", "2")) == "1 item resumed: 2\n"
    assert said(run("resume", "--all")) == "2 items resumed: 1, 3\n"
    assert said(run("resume", "1")) == "0 items resumed\n"
    queue.cancel(1)
    assert "item 1 is cancelled: it cannot be resumed" in one_error(run("resume", "1"), 28)


def test_priorities_are_set(run: Command, queue: Queue, tmp_path: Path) -> None:
    for name in "abc":
        queue.add(URL, tmp_path / name)
    assert said(run("priority", "3", "2", "--to", "-5")) == "2 items changed: 2-3\n"
    assert [item.priority for item in queue.items()] == [0, -5, -5]
    assert "--to N" in one_error(run("priority", "1"), 28)
    assert "a priority must be" in one_error(run("priority", "1", "--to", "high"), 28)


def test_the_queue_is_run(run: Command, queue: Queue, nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    things = [objects.make(30_000 + i, seed=i) for i in range(3)]
    for thing in things:
        queue.add(nginx.url(thing.name), tmp_path)
    lines = said(run("run", "-j", "2")).splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("3 of 3 files, 87.9 KiB, 87.9 KiB fetched in ")
    for thing in things:
        assert (tmp_path / thing.name).read_bytes() == thing.path.read_bytes()
    assert said(run("run")).startswith("0 of 0 files")
    assert said(run("remove", "--all")) == "3 items removed: 1-3\n"


def test_a_failure_stays_the_exit_status_until_it_is_seen_to(
    run: Command, queue: Queue, nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(1000)
    queue.add(nginx.url("nowhere", prefix="/status/403"), tmp_path, retries=0, priority=1)
    queue.add(nginx.url("gone", prefix="/status/404"), tmp_path, retries=0)
    queue.add(nginx.url(thing.name), tmp_path)
    done = run("run", "--json", "-j", "1")
    assert done.returncode == 24
    first, second = done.stderr.splitlines()
    assert first.startswith(f"fastxfer: item 1: {tmp_path}/nowhere: the server answered 403")
    assert second.startswith(f"fastxfer: item 2: {tmp_path}/gone: the server answered 404")
    found = events(done.stdout)
    assert [each["where"] for each in found if each["event"] == "item"] == ["item 1", "item 2", "item 3"]
    assert found[-1] == {**found[-1], "event": "result", "done": 1, "failed": 2, "exit_code": 24}
    assert run("run", "-q").returncode == 24
    assert said(run("remove", "1")) == "1 item removed: 1\n"
    assert run("run", "-q").returncode == 3
    assert said(run("cancel", "2")) == "1 item cancelled: 2\n"
    assert run("run", "-q").returncode == 0
    assert "the server answered 403" not in said(run("list"))


def test_the_bar_is_over_all_items(queue: Queue, nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    for i in range(3):
        thing = objects.make(1024**2, seed=i, name=f"queue-bar-{i}")
        queue.add(nginx.url(thing.name, prefix="/slow64k"), tmp_path, connections=4)
    with Terminal("queue", "run", "--queue", str(queue.path), columns=120) as terminal:
        terminal.wait_for("0 of 3 files", " of 3 MiB", "█")
        assert terminal.end() == 0
        lines = terminal.text.splitlines()
    assert lines[0].startswith("3 of 3 files") and lines[0].endswith("100%")
    assert lines[1] == "3 MiB of 3 MiB  done"
    assert re.match(r"3 of 3 files, 3 MiB, 3(\.\d)? MiB fetched in ", lines[2])


def test_a_queue_can_be_named(run: Command, tmp_path: Path) -> None:
    said(run("add", URL, "--queue", tmp_path / "other.db"))
    assert said(run("list")) == "no items\n"
    assert "1 queued" in said(run("list", "--queue", tmp_path / "other.db"))


def test_a_queue_that_is_damaged_is_an_error(run: Command, queue: Queue) -> None:
    queue.path.write_bytes(b"nonsense" * 1000)
    for command in (["list"], ["run"], ["add", URL], ["pause", "1"]):
        assert "move it away" in one_error(run(*command), 8)
    done = run("list", "--json")
    assert (events(done.stdout)[-1]["type"], done.returncode) == ("QueueError", 8)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_its_help(run: Command, command: str) -> None:
    text = said(run(command, "--help"))
    assert text.startswith(f"usage: fastxfer queue {command} ")
    assert "--queue PATH" in text


def test_the_commands_are_listed(run: Command) -> None:
    text = said(run("--help"))
    assert all(f"  {command:<8} " in text for command in COMMANDS)
    done = run()
    assert (done.returncode, "a command is missing" in done.stderr) == (28, True)
    assert "there is no such command" in run("start").stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["add"], "a URL is missing"),
        (["add", "ftp://h/x"], "not supported"),
        (["add", URL, "-o", "-"], "cannot write to a pipe"),
        (["add", URL, "--priority", "x"], "a priority must be"),
        (["import"], "a file is missing"),
        (["import", "a", "b"], "only one file"),
        (["list", "x"], "takes no argument"),
        (["run", "x"], "takes no argument"),
        (["run", "-j", "1000"], "option jobs"),
        (["run", "--bogus"], "there is no option --bogus"),
    ],
)
def test_what_cannot_be_used_is_refused(run: Command, queue: Queue, arguments: list[str], fault: str) -> None:
    assert fault in one_error(run(*arguments), 28)
    assert queue.items() == []
