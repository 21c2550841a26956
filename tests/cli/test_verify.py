"""`fastxfer verify`: what it says, in words and in JSON, and its exit status."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from fastxfer.cli.status import read_status
from fastxfer.errors import CheckpointError, StorageError
from tests.cli.command import events, fastxfer, one_error, running, wait_until
from tests.cli.terminal import Terminal
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

MIB = 1024**2
CHUNK = 256 * 1024
CANARY = "c4n4ry7s3cr3t"


@pytest.fixture
def thing(objects: Objects) -> TestObject:
    return objects.make(8 * MIB)


@pytest.fixture
def out(nginx: Nginx, thing: TestObject, tmp_path: Path) -> Path:
    """A finished file with its ledger."""
    out = tmp_path / "the out"
    done = fastxfer("fetch", nginx.url(thing.name), "-o", out, "--keep-ledger")
    assert (done.returncode, done.stderr) == (0, "")
    return out


def harm(path: Path, *chunks: int) -> None:
    with path.open("r+b") as file:
        for chunk in chunks:
            file.seek(chunk * CHUNK + 99)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


def first_chunk_is_claimed(out: Path) -> bool:
    try:
        return read_status(str(out)).chunks.startswith("#")
    except (StorageError, CheckpointError):
        return False


def test_a_sound_file_is_0(out: Path) -> None:
    done = fastxfer("verify", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: verified against its ledger, 8 MiB in ")
    assert done.stdout.count("\n") == 1
    quiet = fastxfer("verify", "-q", out)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_damage_is_32_with_the_ranges_and_the_remedy(nginx: Nginx, thing: TestObject, out: Path) -> None:
    harm(out, 0, 5, 6)
    done = fastxfer("verify", out)
    told = one_error(done, 32)
    assert "768 KiB of 8 MiB in 2 ranges does not hold against its ledger" in told
    assert f": [0, {CHUNK}), [{5 * CHUNK}, {7 * CHUNK})" in told
    assert told.endswith(f"to repair: fastxfer verify '{out}' --repair URL\n")
    assert done.stdout == ""
    mended = fastxfer("verify", out, "--repair", nginx.url(thing.name))
    assert (mended.returncode, mended.stderr) == (0, "")
    assert "768 KiB fetched to repair it" in mended.stdout
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256


def test_many_ranges_are_counted_and_listed_in_json(out: Path) -> None:
    harm(out, *range(0, 32, 2))
    assert "and 8 more (--json lists them)" in one_error(fastxfer("verify", out), 32)
    done = fastxfer("verify", out, "--json")
    assert done.returncode == 32
    (told,) = events(done.stdout)
    assert (told["event"], told["ok"], told["verified"]) == ("result", False, "ledger")
    assert told["bad"] == [[i * CHUNK, (i + 1) * CHUNK] for i in range(0, 32, 2)]


def test_checksums_are_options_that_repeat(thing: TestObject, out: Path) -> None:
    md5 = hashlib.md5(out.read_bytes(), usedforsecurity=False).hexdigest()
    right = ["--checksum", f"sha256:{thing.sha256}", "--checksum", f"md5:{md5}"]
    done = fastxfer("verify", out, *right, "--json")
    assert done.returncode == 0
    (told,) = events(done.stdout)
    assert told["verified"] == "checksum"
    assert (told["checksums"]["sha256"], told["checksums"]["md5"]) == (thing.sha256, md5)
    wrong = fastxfer("verify", out, *right[:2], env={"FASTXFER_CHECKSUM": ""})
    assert wrong.returncode == 0
    assert "its md5 is" in one_error(fastxfer("verify", out, "--checksum", f"md5:{'0' * 32}"), 32)


def test_nothing_to_verify_against_is_8(out: Path) -> None:
    Path(f"{out}.fxsum").unlink()
    done = fastxfer("verify", out, "--json")
    (told,) = events(done.stdout)
    assert (done.returncode, told["verified"], told["ok"]) == (8, "none", False)
    assert "give a checksum, or fetch it with keep_ledger" in one_error(fastxfer("verify", out), 8)


def test_a_part_file_that_holds_is_7_and_one_that_does_not_is_32(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running("fetch", nginx.url(thing.name, prefix="/slow256k"), "-o", out, "-x", "4") as process:
        wait_until(lambda: first_chunk_is_claimed(out))
        busy = fastxfer("verify", out)
        assert "is being written by another transfer" in one_error(busy, 1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    told = one_error(fastxfer("verify", out), 7)
    assert "out.part: incomplete, " in told
    assert "which holds against its checkpoint" in told
    harm(Path(f"{out}.part"), 0)
    assert f": [0, {CHUNK})" in one_error(fastxfer("verify", out), 32)
    done = fastxfer("verify", out, "--repair", nginx.url(thing.name))
    assert (done.returncode, done.stderr) == (0, "")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 28),
        (["a", "b"], 28),
        (["nothing-here"], 17),
        (["--resume", "false", "x"], 28),
        (["--checksum", "sha256:0", "x"], 28),
        (["--repair", "ftp://h/x", "x"], 28),
        (["", "-q"], 28),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], code: int) -> None:
    one_error(fastxfer("verify", *arguments, cwd=tmp_path), code)


def test_what_is_no_ledger_is_8(out: Path) -> None:
    Path(f"{out}.fxsum").write_text("sha256 of something")
    done = fastxfer("verify", out, "--json")
    assert "is not a ledger that can be used" in one_error(done, 8)
    (told,) = events(done.stdout)
    assert (told["event"], told["type"], told["exit_code"]) == ("error", "CheckpointError", 8)


def test_another_object_is_33_and_its_secret_is_not_told(nginx: Nginx, objects: Objects, out: Path) -> None:
    other = objects.make(8 * MIB, seed=1)
    harm(out, 3)
    before = out.read_bytes()
    url = nginx.url(other.name).replace("//", f"//{CANARY}:{CANARY}@") + f"?signature={CANARY}"
    done = fastxfer("verify", out, "--repair", url, "--json")
    assert "nothing was touched" in one_error(done, 33)
    assert out.read_bytes() == before
    (told,) = events(done.stdout)
    assert told["type"] == "RemoteChangedError"
    assert CANARY not in done.stdout + done.stderr


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**36)
    with Terminal("verify", huge, "--checksum", f"sha512:{'0' * 128}") as terminal:
        terminal.wait_for("of 64 GiB")
        terminal.press(b"\x03")
        assert terminal.end() == 7


def test_help_tells_of_it(tmp_path: Path) -> None:
    done = fastxfer("verify", "--help")
    assert done.returncode == 0
    for word in ("--repair URL", "--checksum", "--stall-timeout", "32"):
        assert word in done.stdout
    assert "--resume" not in done.stdout
    assert "--keep-ledger" in fastxfer("fetch", "--help").stdout
