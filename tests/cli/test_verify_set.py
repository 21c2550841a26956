"""`fastxfer verify DEST`: the files of a set, in words, in JSON, in exports, and its exit status."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from fastxfer.dataset.ledger import Ledger
from tests.cli.command import events, fastxfer, one_error, running, wait_until
from tests.cli.terminal import Terminal
from tests.dataset.sets import SOURCE, flip, mirrored
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

FILES = {f"d{i % 3}/a file {i}": b"%d" % i * 1000 for i in range(30)}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    dest = tmp_path / "the set"
    mirrored(dest, FILES)
    return dest


def doubted(dest: Path) -> list[str]:
    with Ledger(dest) as ledger:
        return [path for path, _, known in ledger.kept() if known.doubted]


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A set that takes minutes to read: of a file with holes, whose checksum is no matter."""
    mirrored(tmp_path, {"huge": b"", "small": b"1"}, ["sha512"])
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**38)
    with Ledger(tmp_path) as ledger, ledger.file.change() as db:
        db.execute("UPDATE kept SET size = ? WHERE path = 'huge'", (2**38,))
    return tmp_path


def has_open(pid: int, name: str) -> bool:
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(each).endswith(f"/{name}"):
                return True
        except OSError:
            continue  # it was closed meanwhile
    return False


def test_a_sound_set_is_0(dest: Path) -> None:
    done = fastxfer("verify", dest)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{dest}: 30 of 30 files proven; 48.8 KiB read in ")
    assert done.stdout.count("\n") == 1
    quiet = fastxfer("verify", "-q", dest, "-j", "1")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    relative = fastxfer("verify", ".", cwd=dest)
    assert (relative.returncode, relative.stderr) == (0, "")


def test_damage_is_32_with_the_files_and_the_remedy(dest: Path) -> None:
    flip(dest / "d0/a file 3", 5)
    (dest / "d1/a file 4").unlink()
    done = fastxfer("verify", dest)
    assert (done.returncode, done.stdout) == (32, "")
    first, second, last = done.stderr.splitlines()
    assert first.startswith("fastxfer: d0/a file 3: damaged: its crc64nvme is ")
    assert second == "fastxfer: d1/a file 4: missing"
    mirror = f"fastxfer mirror {SOURCE} '{dest}'"
    assert "28 of 30 files proven, 1 damaged, 1 missing; " in last
    assert last.endswith(f"; to mend: fastxfer verify '{dest}' --mark, then {mirror}")
    assert doubted(dest) == []
    marked = fastxfer("verify", dest, "--mark")
    assert marked.returncode == 32
    assert marked.stderr.endswith(f"; to mend: {mirror}\n")
    assert doubted(dest) == ["d0/a file 3", "d1/a file 4"]


def test_many_are_counted_and_named_in_json(dest: Path) -> None:
    for path in FILES:
        flip(dest / path, 0)
    done = fastxfer("verify", dest)
    assert len(done.stderr.splitlines()) == 22
    assert "fastxfer: and 10 more (--json names 30)\n" in done.stderr
    done = fastxfer("verify", dest, "--json")
    assert done.returncode == 32
    (told,) = events(done.stdout)
    assert (told["event"], told["ok"], told["files"], told["good"]) == ("result", False, 30, 0)
    assert [path for path, _ in told["damaged"]] == sorted(FILES)
    one_error(done, 32)


def test_exports_come_with_it(dest: Path, tmp_path: Path) -> None:
    sums, manifest = dest / "SHA256SUMS", tmp_path / "set.jsonl"
    done = fastxfer("verify", dest, "--export-manifest", manifest, "--export-sha256sums", sums)
    assert (done.returncode, done.stderr) == (0, "")
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", sums.name], cwd=dest, timeout=60, check=False
    )
    assert checked.returncode == 0
    assert len(sums.read_text().splitlines()) == len(FILES)
    told = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {each["path"]: each["size"] for each in told} == {path: len(FILES[path]) for path in FILES}
    assert {each["url"] for each in told} == {SOURCE + path for path in FILES}
    assert sorted(tmp_path.iterdir()) == [manifest, dest]


def test_an_export_to_the_standard_output_stands_there_alone(dest: Path) -> None:
    done = fastxfer("verify", dest, "--export-sha256sums", "-")
    assert done.returncode == 0
    assert dict(line.split("  ")[::-1] for line in done.stdout.splitlines()) == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    assert done.stderr.startswith(f"fastxfer: {dest}: 30 of 30 files proven; ")
    manifest = fastxfer("verify", dest, "-q", "--export-manifest", "-")
    assert (manifest.returncode, manifest.stderr) == (0, "")
    assert len(events(manifest.stdout)) == 30


def test_an_export_goes_into_what_is_no_file_as_it_is(dest: Path, tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    done = fastxfer("verify", dest, "--export-manifest", null)
    assert (done.returncode, done.stderr) == (0, "")
    assert null.is_symlink() and Path("/dev/null").is_char_device()
    one_error(fastxfer("verify", dest, "-q", "--export-manifest", "/dev/full"), 9)
    one_error(fastxfer("verify", dest, "-q", "--export-manifest", tmp_path / "no" / "folder"), 17)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-j", "0"],
        ["-j", "many"],
        ["--repair", "http://127.0.0.1:9/x"],
        ["--checksum", "md5:" + "0" * 32],
        ["--retries", "1"],
        ["--export-manifest", "-", "--export-sha256sums", "-"],
        ["--export-manifest", "-", "--json"],
    ],
)
def test_what_does_not_go_together_is_28(dest: Path, arguments: list[str]) -> None:
    done = fastxfer("verify", dest, *arguments)
    assert done.returncode == 28
    assert done.stderr.startswith("fastxfer: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", [["-j", "1"], ["--mark"], ["--export-manifest", "-"]])
def test_a_file_is_no_set(dest: Path, option: list[str]) -> None:
    assert "are of a set" in one_error(fastxfer("verify", dest / "d0/a file 0", *option), 28)


def test_a_folder_without_a_ledger_is_17(tmp_path: Path) -> None:
    assert "no set was mirrored to it" in one_error(fastxfer("verify", tmp_path), 17)
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_being_mirrored_is_left_alone(dest: Path) -> None:
    with Ledger(dest):
        assert "another process mirrors to" in one_error(fastxfer("verify", dest), 1)


def test_a_ledger_of_another_version_is_8(dest: Path) -> None:
    with Ledger(dest) as ledger:
        ledger.file.rows("PRAGMA user_version = 99")
    assert "is of version 99" in one_error(fastxfer("verify", dest), 8)


def test_options_of_a_transfer_in_the_environment_are_no_matter(dest: Path) -> None:
    done = fastxfer("verify", dest, env={"FASTXFER_RETRIES": "3", "FASTXFER_CHECKSUM": "md5:" + "0" * 32})
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_7_and_says_what_was_seen(endless: Path) -> None:
    with running("verify", endless, "--json") as process:
        wait_until(lambda: has_open(process.pid, "huge"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 7
    (told,) = events(out)
    assert (told["interrupted"], told["ok"], told["files"]) == (True, False, 2)
    assert told["bytes"] > 0 and told["seen"] < 2
    assert "still to look at" in err


def test_on_a_terminal_there_is_a_bar_over_all_bytes(endless: Path) -> None:
    with Terminal("verify", endless) as terminal:
        terminal.wait_for("of 256 GiB")
        terminal.press(b"\x03")
        assert terminal.end() == 7


def test_what_was_mirrored_is_proven_and_what_is_marked_is_mirrored_again(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    things = [objects.make(size, seed=size) for size in (0, 1, 5000, 200_000, 3 * 1024**2)]
    manifest, dest = tmp_path / "set.jsonl", tmp_path / "dest"
    rows = [{"url": nginx.url(thing.name), "path": f"d/{thing.name}"} for thing in things]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):  # the second time all is found to be there
        assert fastxfer("mirror", manifest, dest).returncode == 0
        sound = fastxfer("verify", dest, "--json")
        assert (sound.returncode, events(sound.stdout)[0]["good"]) == (0, len(things))
    flip(dest / "d" / things[2].name, 4999)
    flip(dest / "d" / things[4].name, 2 * 1024**2)
    (dest / "d" / things[3].name).unlink()
    harmed = {f"d/{things[i].name}" for i in (2, 3, 4)}
    assert fastxfer("verify", dest, "--mark").returncode == 32
    again = fastxfer("mirror", manifest, dest, "--json")
    assert again.returncode == 0
    assert {each["path"] for each in events(again.stdout) if each.get("state") == "fetched"} == harmed
    assert fastxfer("verify", dest).returncode == 0
    for thing in things:
        assert hashlib.sha256((dest / "d" / thing.name).read_bytes()).hexdigest() == thing.sha256
