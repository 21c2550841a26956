"""`fastxfer status`: what it says of complete, incomplete and missing targets; it changes nothing."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from fastxfer.cli.status import read_status
from fastxfer.storage.paths import target_of
from tests.cli.command import COMMAND, claimed, environment, events, fastxfer, one_error, running, wait_until
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

MIB = 1024**2


@pytest.fixture
def thing(objects: Objects) -> TestObject:
    return objects.make(8 * MIB)


@pytest.fixture
def half(nginx: Nginx, thing: TestObject, tmp_path: Path) -> Path:
    """A target of which a killed fetch left a part."""
    out = tmp_path / "the out"
    with running("fetch", nginx.url(thing.name, prefix="/slow256k"), "-o", out, "-x", "4") as process:
        wait_until(lambda: claimed(out) > MIB)
        process.kill()
    return out


def snapshot(directory: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


@pytest.mark.parametrize("suffix", ["", ".part", ".part.ckpt"])
def test_an_incomplete_target_is_told_by_any_of_its_names(
    nginx: Nginx, thing: TestObject, half: Path, suffix: str
) -> None:
    before = snapshot(half.parent)
    done = fastxfer("status", f"{half}{suffix}")
    assert (done.returncode, done.stderr) == (0, "")
    assert snapshot(half.parent) == before
    kept = claimed(half)
    assert f"{half}: incomplete, " in done.stdout
    assert f"{kept} of {thing.size} bytes, safe against a kill" in done.stdout
    assert "chunks         of 256 KiB" in done.stdout
    assert "#" in done.stdout
    assert nginx.url(thing.name, prefix="/slow256k") in done.stdout
    assert "last written" in done.stdout


def test_the_command_that_goes_on_goes_on(thing: TestObject, half: Path) -> None:
    done = fastxfer("status", half)
    line = next(line for line in done.stdout.splitlines() if "to go on" in line)
    command = shlex.split(line.split("to go on", 1)[1])
    assert command[:2] == ["fastxfer", "fetch"]
    again = fastxfer(*command[1:], "-x", "64")
    assert "were there before" in again.stdout, again.stderr
    assert hashlib.sha256(half.read_bytes()).hexdigest() == thing.sha256


def test_json_is_the_status_in_one_object(thing: TestObject, half: Path) -> None:
    done = fastxfer("status", half, "--json")
    (told,) = events(done.stdout)
    assert (told["event"], told["state"], told["size"]) == ("result", "incomplete", thing.size)
    assert (told["path"], told["part"]) == (str(half), f"{half}.part")
    assert told["claimed"] == claimed(half)
    assert 0 <= told["durable"] <= told["claimed"]
    assert set(told["chunks"]) <= set("#+.")


def test_a_complete_target_is_complete(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    assert fastxfer("fetch", nginx.url(thing.name), "-o", tmp_path / "out").returncode == 0
    done = fastxfer("status", tmp_path / "out")
    assert done.stdout.startswith(f"{tmp_path / 'out'}: complete, 8 MiB ({thing.size} bytes)")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


def test_an_update_under_way_is_not_called_complete(half: Path) -> None:
    half.write_bytes(b"an earlier version")
    done = fastxfer("status", half)
    assert "an earlier version is there, a newer one is incomplete" in done.stdout
    assert read_status(str(half)).state == "updating"


def test_nothing_is_17(tmp_path: Path) -> None:
    done = fastxfer("status", tmp_path / "out")
    assert "nothing is there" in one_error(done, 17)
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["a", "b"], [""], [".part.ckpt"], ["--no-such-option", "a"]])
def test_no_single_path_is_28(tmp_path: Path, arguments: list[str]) -> None:
    one_error(fastxfer("status", *arguments, cwd=tmp_path), 28)


def test_a_directory_is_17(tmp_path: Path) -> None:
    assert "not a regular file" in one_error(fastxfer("status", tmp_path), 17)


def test_a_damaged_checkpoint_is_8(half: Path) -> None:
    checkpoint = Path(f"{half}.part.ckpt")
    checkpoint.write_bytes(bytes(checkpoint.stat().st_size))
    assert f"(kept: {half}.part)" in one_error(fastxfer("status", half), 8)


def test_a_part_without_a_checkpoint_is_told(half: Path) -> None:
    os.unlink(f"{half}.part.ckpt")
    done = fastxfer("status", half)
    assert done.returncode == 0
    assert "incomplete, without a checkpoint" in done.stdout
    assert "starts from the beginning" in done.stdout


def test_a_checkpoint_without_its_part_is_told(half: Path) -> None:
    os.unlink(f"{half}.part")
    done = fastxfer("status", half)
    assert done.returncode == 0
    assert "part file" in done.stdout
    assert read_status(str(half)).claimed == 0


# Whatever Python is asked to open for writing, to lock, to remove or to rename, is refused.
_HARMLESS = """
import os, sys
import fastxfer.cli.status
from fastxfer.cli.main import main

def refuse(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if writes or event in ("fcntl.flock", "fcntl.lockf", "os.remove", "os.rename", "os.truncate", "os.utime"):
        raise PermissionError(event, arguments)

sys.addaudithook(refuse)
sys.exit(main(["status", sys.argv[1]]))
"""


def test_it_opens_nothing_for_writing_and_locks_nothing(half: Path) -> None:
    done = subprocess.run(
        [COMMAND[0], "-c", _HARMLESS, str(half)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "incomplete" in done.stdout


def test_a_target_that_ends_in_part_is_itself(tmp_path: Path) -> None:
    target = tmp_path / "a.part"
    assert target_of(str(target)).final == tmp_path / "a"
    (tmp_path / "a.part.part").touch()
    assert target_of(str(target)).final == target
    assert target_of(f"{target}.part").final == target
    assert target_of(f"{target}.part.ckpt").final == target
