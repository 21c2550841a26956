"""`fastxfer mirror`: what is shown, JSON lines, exit statuses, Ctrl-C and a full disk, and going on after."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fastxfer.dataset.report import MirrorItem, MirrorProgress, MirrorReport
from tests.cli.command import DEADLINE_S, events, fastxfer, one_error, running, wait_until
from tests.cli.terminal import Terminal
from tests.servers import find_program
from tests.servers.raw import Connection, RawServer, Request

ROOT = Path(__file__).parents[2]
SIZE = 500


def body_of(name: str) -> bytes:
    return (name + "\n").encode() * (SIZE // (len(name) + 1) + 1)


class Set:
    """A set of objects behind a real socket, and its manifest. `gone` get a 404, `held` an answer once they
    are let go. After `only` answers nothing more is answered.
    """

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names = names
        self.gone: set[str] = set()
        self.held: set[str] = set()
        self.go = threading.Event()
        self.only: int | None = None
        self.answered: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.server = RawServer(self._answer)
        self.manifest = folder / "set.csv"

    def write(self, *more: str) -> Path:
        rows = [f"{self.server.url('/' + name)},{name},{len(body_of(name))}" for name in self.names]
        self.manifest.write_text("\n".join(["url,path,size", *rows, *more, ""]))
        return self.manifest

    def _answer(self, request: Request, connection: Connection) -> None:
        name = request.target.lstrip("/")
        if name in self.gone:
            connection.respond(404)
            return
        if name in self.held:
            connection.stall(self.go)
        with self._lock:
            over = self.only is not None and sum(self.answered.values()) >= self.only
            if not over:
                self.answered[name] += 1
        if over:
            connection.wait_until_gone()
            return
        connection.respond(200, {"ETag": f'"{name}"'}, body_of(name))


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Set]:
    made = Set([f"d{n % 7}/object-{n:03}" for n in range(300)], tmp_path)
    with made.server:
        made.write()
        yield made


def landed(dest: Path) -> list[Path]:
    """Returns the files of a set that are in place, also while more come."""
    return list(dest.glob("**/object-[0-9][0-9][0-9]"))


def there(dest: Path) -> set[str]:
    """Returns all that is at a destination; each object must be whole."""
    found = {str(p.relative_to(dest)) for p in dest.rglob("*") if p.is_file() and ".fastxfer" not in p.parts}
    for name in found:
        assert (dest / name).read_bytes() == body_of(name)
    return found


def test_without_a_terminal_there_is_one_line(many: Set, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    done = fastxfer("mirror", many.manifest, dest)
    assert (done.returncode, done.stderr) == (0, "")
    said = rf"{re.escape(str(dest))}: 300 listed, 300 fetched \(\S+ KiB in \S+ s, \S+ \w+/s\), 0 the same\n"
    assert re.fullmatch(said, done.stdout)
    assert there(dest) == set(many.names)
    again = fastxfer("mirror", many.manifest, dest)
    assert re.fullmatch(
        rf"{re.escape(str(dest))}: 300 listed, 0 fetched \(0 B in \S+ s\), 300 the same\n", again.stdout
    )
    quiet = fastxfer("mirror", many.manifest, dest, "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert set(many.answered.values()) == {1}


def test_what_failed_or_was_refused_has_a_line_and_the_status_is_1(many: Set, tmp_path: Path) -> None:
    many.gone = set(many.names[:25])
    many.write(f"{many.server.url('/x')},../x,5")
    done = fastxfer("mirror", many.manifest, tmp_path / "dest", "--report", tmp_path / "page.html")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 21 and lines[-1] == "fastxfer: and 6 more"
    assert lines[0].startswith("fastxfer: ../x: ")
    why = "the server answered 404 Not Found: there is no such object"
    assert len(set(lines)) == 21
    assert set(lines[1:20]) < {f"fastxfer: {name}: {why}" for name in many.gone}
    assert ", 275 fetched (" in done.stdout and done.stdout.endswith(", 1 refused, 25 failed\n")
    page = (tmp_path / "page.html").read_text()
    assert "Failed: 25<" in page and "Refused: 1<" in page and many.names[24] in page
    many.gone = set()
    again = fastxfer("mirror", many.manifest, tmp_path / "dest", "--retry-failed", "-q")
    assert again.returncode == 1  # one is refused still
    assert there(tmp_path / "dest") == set(many.names)
    assert set(many.answered.values()) == {1}


def test_json_has_a_line_an_object_and_the_report_at_the_end(many: Set, tmp_path: Path) -> None:
    many.gone = {many.names[3]}
    many.manifest.write_text(many.manifest.read_text().replace("http://", "http://me:secret@"))
    done = fastxfer("mirror", many.manifest, tmp_path / "dest", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert "secret" not in done.stdout
    *items, result = [each for each in events(done.stdout) if each["event"] != "progress"]
    assert {each.pop("event") for each in items} == {"item"}
    assert all(set(each) == {"path", "state", "size", "message", "error"} for each in items)
    assert Counter(each["state"] for each in items) == {"fetched": 299, "failed": 1}
    (failed,) = (each for each in items if each["state"] == "failed")
    assert (failed["path"], failed["error"]["type"]) == (many.names[3], "NotFoundError")
    assert (failed["error"]["exit_code"], failed["error"]["message"]) == (3, failed["message"])
    assert failed["error"]["url"] == many.server.url("/" + many.names[3])
    assert (result["event"], result["exit_code"], result["ok"]) == ("result", 1, False)
    assert (result["listed"], result["fetched"], result["failed"]) == (300, 299, 1)
    assert result["failures"] == [
        {
            "path": failed["path"],
            "error": "NotFoundError",
            "message": failed["message"],
            "exit_code": 3,
            "url": failed["error"]["url"],
        }
    ]


def test_json_tells_how_it_stands(many: Set, tmp_path: Path) -> None:
    many.held = {many.names[0]}
    with running("mirror", many.manifest, tmp_path / "dest", "--json") as process:
        assert process.stdout is not None
        seen: list[str] = []
        for line in process.stdout:
            seen.append(line)
            if '"event": "progress"' in line and json.loads(line)["done"] == 299:
                many.go.set()
        assert process.wait() == 0
    states = [each for each in events("".join(seen)) if each["event"] == "progress"]
    assert {"event", *(each.name for each in fields(MirrorProgress))} == set(states[0])
    waiting = next(each for each in states if each["done"] == 299)
    assert (waiting["phase"], waiting["listed"]) == ("fetching", 300)
    assert waiting["slowest"][0][0] == many.names[0]
    assert events(seen[-1])[0]["event"] == "result"


def test_the_page_of_the_user_names_every_field() -> None:
    text = (ROOT / "docs" / "mirror.md").read_text()
    names = {*MirrorItem("", "").to_dict(), *MirrorReport("", "").to_dict(), *MirrorProgress().to_dict()}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_a_dry_run_says_what_would_be_done(many: Set, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert fastxfer("mirror", many.manifest, dest, "-q").returncode == 0
    many.names = [*many.names[5:], "new"]
    many.write()
    (dest / many.names[0]).unlink()
    before = Counter(many.answered)
    done = fastxfer("mirror", many.manifest, dest, "--dry-run", "--delete")
    assert done.returncode == 0
    *lines, last = done.stdout.splitlines()
    assert sorted(line.partition(" (")[0] for line in lines) == sorted(
        [
            f"would fetch {many.names[0]}",
            "would fetch new",
            *(f"would delete d{n}/object-00{n}" for n in range(5)),
        ]
    )
    assert ": 296 listed, 2 new and 0 changed to fetch, " in last and ", 5 to delete, 294 the same" in last
    assert many.answered == before and len(there(dest)) == 299


def test_who_stops_reading_ends_the_run_quietly(many: Set, tmp_path: Path) -> None:
    many.held = {many.names[-1]}
    with running("mirror", many.manifest, tmp_path / "dest", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        many.go.set()
        assert process.wait() == 17
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_signal_stops_and_the_same_command_goes_on(
    many: Set, tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    dest, page = tmp_path / "dest", tmp_path / "page.html"
    many.only = 120
    with running("mirror", many.manifest, dest, "--report", page, *options) as process:
        wait_until(lambda: len(landed(dest)) == 120)
        process.send_signal(number)
        process.send_signal(number)  # an impatient user
        stdout, stderr = process.communicate()
    assert process.returncode == 7
    said = (
        "fastxfer: stopped; the same command goes on where it stopped (kept: 120 of 300 objects are there)\n"
    )
    assert stderr == said
    if options:
        last = events(stdout)[-1]
        assert (last["event"], last["exit_code"], last["kept"]) == (
            "error",
            7,
            "120 of 300 objects are there",
        )
    else:
        assert stdout == ""
    assert "stopped: " in page.read_text() and ">120<" in page.read_text()
    assert set(many.answered.values()) == {1}
    many.only = None
    done = fastxfer("mirror", many.manifest, dest, "--json")
    result = events(done.stdout)[-1]
    assert (done.returncode, result["same"], result["fetched"]) == (0, 120, 180)
    assert there(dest) == set(many.names)
    assert set(many.answered.values()) == {1}  # what came before was not asked for again


def test_nothing_that_is_in_place_is_asked_for_again(many: Set, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    with running("mirror", many.manifest, dest, "--json") as process:
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout):
            if count == 50:
                break
        process.send_signal(signal.SIGINT)  # amid requests, bodies that wait, and writes
        process.communicate()
    assert process.returncode in (0, 7)  # 0 where all came before the signal
    kept = there(dest)
    assert len(kept) >= 50
    first = Counter(many.answered)
    done = fastxfer("mirror", many.manifest, dest, "--json")
    assert (done.returncode, events(done.stdout)[-1]["same"]) == (0, len(kept))
    assert there(dest) == set(many.names)
    assert {name for name in kept if many.answered[name] != first[name]} == set()


def test_a_signal_while_it_lists(tmp_path: Path) -> None:
    def answer(request: Request, connection: Connection) -> None:
        if request.target == "/":
            connection.respond(200, {"Content-Type": "text/html"}, b'<a href="a">a</a><a href="sub/">s</a>')
        else:
            connection.wait_until_gone()

    with RawServer(answer) as server, Terminal("mirror", server.url("/"), tmp_path / "dest") as terminal:
        terminal.wait_for("listing: 1 found", "size not known")
        terminal.press(b"\x03")
        assert terminal.end() == 7
        assert "the same command goes on where it stopped (kept: 1 objects are listed)" in (
            terminal.text.replace("\n", "")
        )
        assert terminal.modes == terminal.modes_before


# On a disk of its own, of 1 MiB, that grows when a line comes.
SMALL_DISK = """
import subprocess, sys
place, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
first = subprocess.run(command, capture_output=True, text=True)
print(first.returncode, first.stderr, sep="\\n", end="")
subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
second = subprocess.run([*command, "--json"], capture_output=True, text=True)
print(second.returncode, second.stdout.splitlines()[-1], sep="\\n")
"""


def test_a_full_disk_is_9_and_the_same_command_goes_on(tmp_path: Path) -> None:
    unshare = find_program("unshare", install="apt-get install util-linux")
    place = tmp_path / "disk"
    place.mkdir()
    page = tmp_path / "page.html"
    large = Set([f"object-{n:03}" for n in range(400)], tmp_path)
    with large.server:
        done = subprocess.run(
            [
                *(unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])),
                *(sys.executable, "-c", SMALL_DISK, str(place)),
                *(sys.executable, "-m", "fastxfer", "mirror", str(large.write()), str(place)),
                *("--report", str(page)),
            ],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    first, error, second, result = done.stdout.splitlines()
    assert first == "9", done.stdout
    assert re.search(r"free some space.* \(kept: (\d+) of 400 objects are there\)$", error)
    report = json.loads(result)
    assert second == "0", result
    assert report["same"] + report["skipped"] + report["fetched"] == 400
    # What the ledger had no room to write down is asked for once more, and nothing else is.
    assert max(large.answered.values()) <= 2
    assert sum(count > 1 for count in large.answered.values()) <= 400 - report["same"]
    assert report["skipped"] + report["fetched"] == report["requests"]


def test_a_report_that_cannot_be_written_is_said_before_anything_is_done(many: Set, tmp_path: Path) -> None:
    done = fastxfer("mirror", many.manifest, tmp_path / "dest", "--report", tmp_path / "no" / "page.html")
    assert "no/page.html: there is no such directory; create it first" in one_error(done, 17)
    assert not (tmp_path / "dest").exists()
    done = fastxfer("mirror", many.manifest, tmp_path / "dest", "--report", "/dev/full")
    assert done.returncode == 17
    assert done.stderr.startswith("fastxfer: cannot write /dev/full: No space left on device")
    assert there(tmp_path / "dest") == set(many.names)


def test_what_ends_it_all_has_its_page_too(tmp_path: Path) -> None:
    def answer(_request: Request, connection: Connection) -> None:
        connection.respond(404)

    page = tmp_path / "page.html"
    with RawServer(answer) as server:
        done = fastxfer("mirror", server.url("/set/"), tmp_path / "dest", "--report", page)
    assert "the server answered 404 Not Found" in one_error(done, 3)
    assert "stopped: the server answered 404 Not Found" in page.read_text()
    done = fastxfer("mirror", "set.csv", tmp_path / "other", "--retry-failed", "--report", page)
    assert "there is no earlier run to " in one_error(done, 8)
    assert "there is no earlier run to " in page.read_text()


def test_a_terminal_shows_two_lines_and_a_table(many: Set, tmp_path: Path) -> None:
    many.held, many.gone = {many.names[0]}, set(many.names[1:24])
    command: list[str | Path] = ["mirror", many.manifest, tmp_path / "dest"]
    with Terminal(*command, columns=110, lines=40) as terminal:
        slow = rf"\d s so far: {many.names[0]}"
        text = terminal.wait_for(
            "fetching: 299 of 300 objects, 23 failed", lambda seen: bool(re.search(slow, seen))
        )
        first = next(n for n, line in enumerate(text.splitlines()) if "fetching: " in line)
        upper, lower = text.splitlines()[first : first + 2]
        assert "█" in upper and "░" in upper and upper.endswith("%")
        assert re.match(r"\S+ KiB of \S+ KiB  \S+ \w+/s  ETA ", lower)
        many.go.set()
        assert terminal.end() == 1
        shown = terminal.text
    assert "done: 300 of 300 objects, 23 failed" in shown
    assert sorted(shown.count(name) for name in many.gone) == [0] * 3 + [1] * 20
    assert "there is no such object" in shown and "and 3 more" in shown
    names, counts = shown.splitlines()[-2:]
    assert names.split()[:8] == [
        "listed",
        "new",
        "changed",
        "same",
        "fetched",
        "failed",
        "refused",
        "deleted",
    ]
    assert counts.split()[:8] == ["300", "300", "0", "0", "277", "23", "0", "0"]


def test_an_object_without_a_size_counts_as_one(many: Set, tmp_path: Path) -> None:
    many.held = set(sorted(many.names)[150:])
    rows = [f"{many.server.url('/' + name)},{name}" for name in many.names]
    many.manifest.write_text("\n".join(["url,path", *rows, ""]))
    with Terminal("mirror", many.manifest, tmp_path / "dest") as terminal:
        text = terminal.wait_for("fetching: 150 of 300 objects", " 50%")
        line = next(line for line in text.splitlines() if "50%" in line)
        assert abs(line.count("█") - line.count("░")) <= 1
        many.go.set()
        assert terminal.end() == 0


def test_a_dry_run_on_a_terminal_lists_above_the_bar(many: Set, tmp_path: Path) -> None:
    many.names = many.names[:5]
    many.write()
    with Terminal("mirror", many.manifest, tmp_path / "dest", "--dry-run", columns=150) as terminal:
        assert terminal.end() == 0
        for name in many.names:
            assert terminal.text.count(f"would fetch {name}") == 1
        assert "5 new and 0 changed to fetch" in terminal.text


def test_a_rate_is_of_all_that_a_run_fetches(tmp_path: Path) -> None:
    """Of large objects too, each of which is a transfer of its own."""
    body = bytes(2 << 20)
    with RawServer(lambda _, connection: connection.respond(200, {"ETag": '"1"'}, body)) as server:
        rows = "".join(f"{server.url(f'/{n}')},{n}\n" for n in range(4))
        (tmp_path / "set.csv").write_text("url,path\n" + rows)
        done = fastxfer(
            "mirror", tmp_path / "set.csv", tmp_path / "dest", "--max-rate", "4M", "--json", "-j", "4"
        )
    result = events(done.stdout)[-1]
    assert (done.returncode, result["fetched"]) == (0, 4)
    assert result["elapsed"] > 1, "8 MiB of 4 MiB a second"
