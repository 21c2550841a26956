"""`fastxfer fetch`: what it writes, where, and its exit status for each way to fail."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.command import claimed, events, fastxfer, one_error, running, wait_until
from tests.servers import port_of, reserve_port
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.raw import Fault, RangeHandler, RawServer

MIB = 1024**2
QUICK = ("--retries", "0")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def half_fetched(nginx: Nginx, name: str, out: Path, size: int) -> None:
    """Leaves a part of the object at `out`, as a kill does."""
    with running("fetch", nginx.url(name, prefix="/slow256k"), "-o", out, "-x", "4") as process:
        wait_until(lambda: claimed(out) > size // 8)
        process.kill()


def test_a_fetch_says_one_line_and_ends_with_0(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(3 * MIB)
    done = fastxfer("fetch", nginx.url(thing.name), "-o", tmp_path / "out", "-x", "4", "-c")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'out'}: 3 MiB in ")
    assert done.stdout.count("\n") == 1
    assert sha256(tmp_path / "out") == thing.sha256


def test_an_unchanged_target_is_not_fetched_again(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(100)
    assert fastxfer("fetch", nginx.url(thing.name), cwd=tmp_path).returncode == 0
    again = fastxfer("fetch", nginx.url(thing.name), cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing fetched" in again.stdout
    assert sha256(tmp_path / thing.name) == thing.sha256


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ([], "{name}"),
        (["-o", "renamed"], "renamed"),
        (["-o", "sub"], "sub/{name}"),
        (["-d", "sub"], "sub/{name}"),
        (["-d", "sub", "-o", "renamed"], "sub/renamed"),
        (["--dir=sub", "--out=renamed"], "sub/renamed"),
    ],
)
def test_out_and_dir_say_where_it_goes(
    nginx: Nginx, objects: Objects, tmp_path: Path, options: list[str], where: str
) -> None:
    thing = objects.make(1000)
    (tmp_path / "sub").mkdir()
    done = fastxfer("fetch", nginx.url(thing.name), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / where.format(name=thing.name)) == thing.sha256


def test_quiet_says_nothing(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(1000)
    done = fastxfer("fetch", nginx.url(thing.name), "-q", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_quiet_still_says_why_it_failed(nginx: Nginx, tmp_path: Path) -> None:
    done = fastxfer("fetch", nginx.url("not-there"), "-q", "-o", tmp_path / "out")
    one_error(done, 3)
    assert done.stdout == ""


def test_json_has_progress_and_ends_with_the_result(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(3 * MIB)
    url = nginx.url(thing.name, prefix="/slow512k")
    done = fastxfer("fetch", url, "--json", "-x", "1", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = events(done.stdout)
    assert [line["event"] for line in lines[:-1]] == ["progress"] * (len(lines) - 1)
    assert len(lines) >= 3
    assert any(0 < line["done"] < thing.size == line["size"] for line in lines[:-1])
    result = lines[-1]
    assert (result["event"], result["size"], result["transferred"]) == ("result", thing.size, thing.size)
    assert result["path"] == str(tmp_path / "out")


def test_json_ends_with_the_error(nginx: Nginx, tmp_path: Path) -> None:
    done = fastxfer("fetch", nginx.url("not-there"), "--json", "-o", tmp_path / "out")
    line = one_error(done, 3)
    last = events(done.stdout)[-1]
    assert (last["event"], last["type"], last["exit_code"], last["kept"]) == (
        "error",
        "NotFoundError",
        3,
        None,
    )
    assert (last["status"], last["message"] in line) == (404, True)


def test_json_has_the_error_of_bad_arguments_too(tmp_path: Path) -> None:
    done = fastxfer("fetch", "--json", "--no-such-option")
    one_error(done, 28)
    assert [line["type"] for line in events(done.stdout)] == ["OptionError"]


def test_a_missing_object_is_3(nginx: Nginx, tmp_path: Path) -> None:
    one_error(fastxfer("fetch", nginx.url("not-there"), "-o", tmp_path / "out"), 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ftp://127.0.0.1/object"],
        ["object"],
        ["http://"],
        ["http:///object"],
        ["http://127.0.0.1/"],
        ["http://127.0.0.1/object", "-x", "-5"],
        ["http://127.0.0.1/object", "-x", "0"],
        ["http://127.0.0.1/object", "-x", "many"],
        ["http://127.0.0.1/object", "-x"],
        ["http://127.0.0.1/object", "--chunk-size", "1Q"],
        ["http://127.0.0.1/object", "--checksum", "sha256:12"],
        ["http://127.0.0.1/object", "--exists", "perhaps"],
        ["http://127.0.0.1/object", "--resume", "perhaps"],
        ["http://127.0.0.1/object", "-H", "no colon"],
        ["http://127.0.0.1/object", "-o", "-"],
        ["http://127.0.0.1/object", "--no-such-option"],
        ["http://127.0.0.1/object", "--quiet=yes"],
    ],
)
def test_what_cannot_be_done_is_28(tmp_path: Path, arguments: list[str]) -> None:
    done = fastxfer("fetch", *arguments, cwd=tmp_path)
    one_error(done, 28)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bad_option_is_named_with_its_flags(tmp_path: Path) -> None:
    done = fastxfer("fetch", "http://127.0.0.1/object", "-x", "-5", cwd=tmp_path)
    assert "-x/--connections: must be a whole number from 1 to 1024" in one_error(done, 28)


def test_a_missing_directory_is_17(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    url = nginx.url(objects.make(100).name)
    one_error(fastxfer("fetch", url, "-o", tmp_path / "no" / "out"), 17)
    one_error(fastxfer("fetch", url, "-d", tmp_path / "no"), 17)


def test_a_refused_connection_is_6(tmp_path: Path) -> None:
    with reserve_port() as holder:
        url = f"http://127.0.0.1:{port_of(holder)}/object"
        one_error(fastxfer("fetch", url, *QUICK, "-o", tmp_path / "out"), 6)


def test_an_unknown_host_is_19(tmp_path: Path) -> None:
    one_error(fastxfer("fetch", "http://no-such-host.invalid/object", *QUICK, "-o", tmp_path / "out"), 19)


def test_a_stall_is_2(tmp_path: Path) -> None:
    handler = RangeHandler(bytes(4 * MIB), faults=lambda request: Fault(stall_at=100))
    with RawServer(handler) as server:
        done = fastxfer("fetch", server.url(), *QUICK, "--stall-timeout", "0.5", "-o", tmp_path / "out")
    one_error(done, 2)


def test_a_wrong_checksum_is_32_and_no_target(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    url = nginx.url(objects.make(2 * MIB).name)
    done = fastxfer("fetch", url, "--checksum", "sha256:" + "0" * 64, "-o", tmp_path / "out")
    assert "(kept: " in one_error(done, 32)
    assert not (tmp_path / "out").exists()


def test_two_checksums_are_both_held_against_the_object(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(2 * MIB)
    right = f"sha256:{thing.sha256}"
    wrong = "md5:" + "0" * 32
    url = nginx.url(thing.name)
    out = tmp_path / "out"
    one_error(fastxfer("fetch", url, "--checksum", right, "--checksum", wrong, "-o", out), 32)
    opposed = fastxfer("fetch", url, "--checksum", right, "--checksum", "sha256:" + "0" * 64, "-o", out)
    assert "--checksum: is given twice" in one_error(opposed, 28)


def test_an_existing_target_is_13_when_asked(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    url = nginx.url(objects.make(100).name)
    one_error(fastxfer("fetch", url, "--exists", "error", "-o", tmp_path / "out"), 13)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_broken_checkpoint_is_8_and_the_part_is_kept(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(8 * MIB)
    out = tmp_path / "out"
    half_fetched(nginx, thing.name, out, thing.size)
    checkpoint = Path(f"{out}.part.ckpt")
    checkpoint.write_bytes(bytes(checkpoint.stat().st_size))
    before = Path(f"{out}.part").read_bytes()
    assert "(kept: " in one_error(fastxfer("fetch", nginx.url(thing.name), "-o", out), 8)
    assert Path(f"{out}.part").read_bytes() == before
    anew = fastxfer("fetch", nginx.url(thing.name), "-o", out, "--resume", "false")
    assert anew.returncode == 0, anew.stderr
    assert sha256(out) == thing.sha256


def test_a_kill_is_gone_on_from(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB)
    out = tmp_path / "out"
    half_fetched(nginx, thing.name, out, thing.size)
    kept = claimed(out)
    done = fastxfer("fetch", nginx.url(thing.name), "-o", out, "-x", "4", "--json")
    result = events(done.stdout)[-1]
    assert (result["resumed"], result["transferred"]) == (kept, thing.size - kept)
    assert sha256(out) == thing.sha256


def test_tls_is_checked_unless_insecure(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    url = nginx.url(objects.make(100).name, tls=True)
    one_error(fastxfer("fetch", url, *QUICK, "-o", tmp_path / "out"), 6)
    for number, trust in enumerate(
        (["--insecure"], ["--verify-tls", "false"], ["--ca-bundle", str(nginx.ca)])
    ):
        assert fastxfer("fetch", url, *trust, "-o", tmp_path / str(number)).returncode == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_stdout_is_17(nginx: Nginx, objects: Objects, tmp_path: Path, options: list[str]) -> None:
    url = nginx.url(objects.make(100).name)
    with open("/dev/full", "wb") as full:
        done = fastxfer("fetch", url, "-o", tmp_path / "out", *options, stdout=full)
    assert "standard output" in one_error(done, 17)


def test_a_reader_that_goes_away_ends_it_resumable(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB)
    out = tmp_path / "out"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with running("fetch", slow, "-o", out, "-x", "4", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        wait_until(lambda: claimed(out) > 0)
        process.stdout.close()
        assert process.wait() == 17
        assert process.stderr.read() == ""
    assert 0 < claimed(out) < thing.size
