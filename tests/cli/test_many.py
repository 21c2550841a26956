"""`fastxfer fetch -i`: lists of all kinds, one bar over them, and what is said of those that fail."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
from pathlib import Path

import pytest

from fastxfer.inputs import FORMATS
from tests.cli.command import (
    COMMAND,
    claimed,
    environment,
    events,
    fastxfer,
    one_error,
    running,
    wait_until,
)
from tests.cli.terminal import Terminal
from tests.servers import find_program
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

MIB = 1024**2
DEADLINE_S = 120.0


@pytest.fixture
def things(objects: Objects) -> list[TestObject]:
    return [objects.make(50_000 + i, seed=i, name=f"list/f{i}") for i in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def files(folder: Path) -> dict[str, str]:
    """Returns the files below a folder and their SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wanted(things: list[TestObject]) -> dict[str, str]:
    return {thing.path.name: thing.sha256 for thing in things}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_list_is_fetched(nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path) -> None:
    urls = written(tmp_path / "urls", "# mine\n" + "".join(nginx.url(thing.name) + "\n" for thing in things))
    done = fastxfer("fetch", "-i", urls, "-d", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == wanted(things)
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("5 of 5 files, 244 KiB, 244 KiB fetched in ")
    again = fastxfer("fetch", "-i", urls, "-d", folder, "-j", "1")
    assert again.stdout.splitlines()[-1].startswith("5 of 5 files, 244 KiB, 5 complete before, 0 B fetched")


def test_a_directory_that_is_missing_is_made(nginx: Nginx, things: list[TestObject], tmp_path: Path) -> None:
    urls = written(tmp_path / "urls", nginx.url(things[0].name))
    assert fastxfer("fetch", "-i", "urls", "-d", "new/folder", cwd=tmp_path).returncode == 0
    assert files(tmp_path / "new" / "folder") == wanted(things[:1])
    assert "cannot create the directory urls/x" in one_error(
        fastxfer("fetch", "-i", urls, "-d", "urls/x", cwd=tmp_path), 17
    )
    done = fastxfer("fetch", "-i", "urls", cwd=tmp_path)
    assert done.stdout.startswith(f"{things[0].path.name}: ")


def test_standard_input_is_read(nginx: Nginx, things: list[TestObject], folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "fetch", "-i", "-", "-d", str(folder), "-q"],
        input="".join(nginx.url(thing.name) + "\n" for thing in things),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files(folder) == wanted(things)


def test_checksums_are_held(nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path) -> None:
    lines = [f"{thing.sha256}  {thing.name}" for thing in things[:4]]
    sums = written(tmp_path / "SHA256SUMS", "\n".join([*lines, f"{'0' * 64} *{things[4].name}", ""]))
    done = fastxfer("fetch", "-i", sums, "--base-url", nginx.url(""), "-d", folder)
    assert done.returncode == 32
    assert done.stderr.startswith(f"fastxfer: line 5: {folder}/list/f4: ")
    assert files(folder / "list").items() >= wanted(things[:4]).items()
    assert not (folder / "list" / "f4").exists()


def test_a_metalink_is_fetched(nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path) -> None:
    entries = "".join(
        f'<file name="{thing.path.name}"><size>{thing.size}</size><hash type="sha-256">{thing.sha256}</hash>'
        f"<url>{nginx.url(thing.name)}</url></file>"
        for thing in things
    )
    path = written(
        tmp_path / "x.meta4", f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{entries}</metalink>'
    )
    done = fastxfer("fetch", "-i", path, "-d", folder, "--json")
    assert done.returncode == 0
    found = events(done.stdout)
    assert [each["verified"] for each in found if each["event"] == "item"] == ["checksum"] * 5
    assert files(folder) == wanted(things)


def test_the_same_files_come_as_with_aria2(
    nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path
) -> None:
    one, two, three, four, five = (nginx.url(thing.name) for thing in things)
    mirror = nginx.url(things[1].name, prefix="/slow1m")
    locked = five.replace("/list/", "/auth/list/")
    listed = written(
        tmp_path / "aria2.txt",
        f"# of aria2\n{one}\n  out=renamed\n{two}\t{mirror}\n  dir=sub/deep\n"
        f"  checksum=sha-256={things[1].sha256}\n{three}\n  split=3\n  max-connection-per-server=2\n"
        f"  header=X-One: 1\n  header=X-Two: 2\n  user-agent=me\n{four}\n"
        "  max-download-limit=1M\n  continue=true\n"
        f"  gid=2089b05ecca3d829\n{locked}\n  http-user=user\n  http-passwd=pass\n  dir=sub\n  out=five\n",
    )
    aria2c = find_program("aria2c", install="apt-get install aria2")
    peer = tmp_path / "aria2"
    peer.mkdir()
    subprocess.run(
        [aria2c, "--no-conf", "-q", "-i", str(listed)],
        cwd=peer,
        env=environment(),
        timeout=DEADLINE_S,
        check=True,
    )
    done = fastxfer("fetch", "-i", listed, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == files(peer)
    assert len(files(folder)) == 5
    queue = folder.parent / "q.db"
    queued = folder.parent / "queued"
    queued.mkdir()
    for arguments in (["import", str(listed)], ["run"]):
        assert fastxfer("queue", *arguments, "--queue", queue, cwd=queued).returncode == 0
    assert files(queued) == files(peer)


def test_what_fails_has_a_line_and_does_not_stop_the_rest(
    nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path
) -> None:
    urls = [nginx.url(thing.name) for thing in things]
    urls[1:1] = [nginx.url("nowhere", prefix="/status/404"), nginx.url("shut", prefix="/status/401")]
    path = written(tmp_path / "urls", "\n".join(urls))
    done = fastxfer("fetch", "-i", path, "-d", folder, "-j", "1", "--retries", "0")
    assert done.returncode == 3  # of the first failure
    assert files(folder) == wanted(things)
    first, second = done.stderr.splitlines()
    assert first.startswith(f"fastxfer: line 2: {folder}/nowhere: the server answered 404")
    assert second.startswith(f"fastxfer: line 3: {folder}/shut: the server answered 401")
    assert done.stdout.splitlines()[-1].startswith("5 of 7 files, 244 KiB, 2 failed, ")


def test_json_has_a_line_an_item_and_a_last_summary(
    nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path
) -> None:
    urls = [nginx.url("nowhere"), *(nginx.url(thing.name) for thing in things)]
    path = written(tmp_path / "urls", "\n".join(urls))
    done = fastxfer("fetch", "-i", path, "-d", folder, "--json", "--retries", "0")
    found = events(done.stdout)
    assert {each["event"] for each in found} == {"progress", "item", "result"}
    items = [each for each in found if each["event"] == "item"]
    assert sorted(each["state"] for each in items) == ["done"] * 5 + ["failed"]
    (failed,) = (each for each in items if each["state"] == "failed")
    assert failed["where"] == "line 1"
    assert failed["path"] == str(folder / "nowhere")
    assert failed["url"] == urls[0]
    assert (failed["error"]["type"], failed["error"]["exit_code"]) == ("NotFoundError", 3)
    assert found[-1] == {**found[-1], "event": "result", "items": 6, "done": 5, "failed": 1, "exit_code": 3}
    assert done.returncode == 3


def test_warnings_are_said(nginx: Nginx, things: list[TestObject], folder: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "urls", f"{nginx.url(things[0].name)}\n  bt-seed=1\n")
    said = "line 2: the option 'bt-seed' has no meaning here and no effect"
    done = fastxfer("fetch", "-i", path, "-d", folder)
    assert (done.returncode, done.stderr) == (0, f"fastxfer: {said}\n")
    done = fastxfer("fetch", "-i", path, "-d", folder, "--json", "-q")
    assert (events(done.stdout)[0], done.stderr) == ({"event": "warning", "message": said}, "")


def test_secrets_of_a_list_are_not_said(nginx: Nginx, folder: Path, tmp_path: Path) -> None:
    secret = "c4n4ry"
    url = nginx.url("nowhere").replace("http://", f"http://u:{secret}@")
    path = written(
        tmp_path / "urls",
        f"{url}?t={secret}\n  header=X: {secret}\n  http-passwd={secret}\n  secret={secret}\n",
    )
    for more in ([], ["--json"]):
        done = fastxfer("fetch", "-i", path, "-d", folder, "--retries", "0", *more)
        assert done.returncode == 3
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-i", "urls", "http://h/x"], "no URL and no -o/--out beside it"),
        (["-i", "urls", "-o", "x"], "no URL and no -o/--out beside it"),
        (["-i", "urls", "-j", "0"], "option jobs: must be a whole number from 1 to 64"),
        (["-i", "urls", "--input-format", "x"], "must be one of list, aria2, checksums, metalink"),
        (["-i", "bad"], "line 2: '..' is not safe"),
        (["http://h/x", "-j", "2"], "-i FILE is missing"),
        (["http://h/x", "--base-url", "http://h"], "-i FILE is missing"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    written(tmp_path / "urls", "http://127.0.0.1:9/f\n")
    written(tmp_path / "bad", "http://127.0.0.1:9/f\nhttp://127.0.0.1:9/%2e%2e\n")
    assert said in one_error(fastxfer("fetch", *arguments, cwd=tmp_path), 28)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    assert "cannot read" in one_error(fastxfer("fetch", "-i", tmp_path / "none"), 17)


def test_the_help_names_the_formats() -> None:
    text = fastxfer("fetch", "--help").stdout
    assert all(format in text for format in FORMATS)
    assert "fastxfer fetch -i FILE" in text


def test_a_signal_stops_all_resumably(nginx: Nginx, objects: Objects, folder: Path, tmp_path: Path) -> None:
    things = [objects.make(2 * MIB, seed=i, name=f"signalled-{i}") for i in range(6)]
    path = written(tmp_path / "urls", "\n".join(nginx.url(thing.name, prefix="/slow64k") for thing in things))
    with running("fetch", "-i", path, "-d", folder, "-j", "3", "--json") as process:
        wait_until(lambda: all(claimed(folder / thing.name) > 0 for thing in things[:3]))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 7
    assert "stopped; the same command goes on where it stopped (kept: 6 files are not finished)" in err
    last = events(out)[-1]
    assert (last["event"], last["interrupted"], last["left"], last["exit_code"]) == ("result", True, 6, 7)
    kept = sum(claimed(folder / thing.name) for thing in things)
    done = fastxfer("fetch", "-i", path, "-d", folder, "-j", "6", "--json")
    assert done.returncode == 0
    assert sum(each["resumed"] for each in events(done.stdout) if each["event"] == "item") == kept > 0
    assert files(folder) == {thing.name: thing.sha256 for thing in things}


def test_one_bar_is_over_all_and_failures_stand_above_it(
    nginx: Nginx, objects: Objects, folder: Path, tmp_path: Path
) -> None:
    things = [objects.make(1 * MIB, seed=i, name=f"bar-{i}") for i in range(3)]
    urls = [nginx.url("nowhere"), *(nginx.url(thing.name, prefix="/slow64k") for thing in things)]
    path = written(tmp_path / "urls", "\n".join(urls))
    arguments = ["fetch", "-i", str(path), "-d", str(folder), "--retries", "0", "-x", "4"]
    with Terminal(*arguments, columns=180, lines=12) as terminal:
        terminal.wait_for("0 of 4 files, 1 failed", "█", "connections")
        assert terminal.end() == 3
        lines = terminal.text.splitlines()
    assert lines[0].startswith("fastxfer: line 1: ")
    assert lines[1].startswith("3 of 4 files, 1 failed")
    assert lines[1].rstrip().endswith("100%")
    assert lines[2].startswith("3 MiB of 3 MiB  failed")
    assert re.match(r"3 of 4 files, 3 MiB, 1 failed, 3(\.\d)? MiB fetched in ", lines[3])
    assert len(lines) == 4
