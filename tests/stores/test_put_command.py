"""`fastxfer put` and `fastxfer uploads`, as processes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.cli.command import events, fastxfer, one_error, running
from tests.cli.terminal import Terminal
from tests.servers.gateway import Call
from tests.servers.proxy import Harm, Proxy
from tests.servers.store import Store
from tests.stores.putting import MIB, OSS_PART, crc_of, left_beside, make_file, options, url
from tests.stores.rig import PARTS, checkpoint_of

SECRET = "c4n4ry7s3cr3t"


def given(store: Store, **more: object) -> list[str]:
    """Returns the options of a store as the command line takes them."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in {**options(store), **more}.items()]


def test_a_file_is_uploaded(store: Store, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 11 * MIB)
    done = fastxfer("put", path, url(store), "-x", "3", "--part-size", "5M", *given(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{url(store)}: 11 MiB in ") and "3 parts" in done.stdout
    assert store.get("o") == data and left_beside(path) == []
    quiet = fastxfer("put", "-q", path, url(store, "dir/"), *given(store))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert store.get("dir/data.bin") == data


def test_json_ends_with_the_result(small: Store, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 3 * OSS_PART)
    aside = tmp_path / "aside"
    aside.mkdir()
    where: list[str | Path] = ["--checkpoint-dir", aside, "--part-size", "100K"]
    told = events(fastxfer("put", path, url(small), "--json", *where, *given(small)).stdout)
    assert all(each["event"] == "progress" for each in told[:-1])
    assert (told[-1]["event"], told[-1]["parts"], told[-1]["checksums"]) == ("result", 3, crc_of(small, data))
    assert list(aside.iterdir()) == []


def test_the_environment_says_it_as_well(small: Store, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 3 * OSS_PART)
    said = {
        "AWS_ACCESS_KEY_ID": small.access_key,
        "AWS_SECRET_ACCESS_KEY": small.secret_key,
        "AWS_ENDPOINT_URL_S3": small.endpoint,
        "FASTXFER_PART_SIZE": "150K",
        "FASTXFER_JSON": "true",
    }
    done = fastxfer("put", path, url(small), env=said)
    assert events(done.stdout)[-1]["parts"] == 2 and small.get("o") == data


def test_what_is_typed_wrong_is_told_in_a_line(small: Store, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 10)
    wrong: list[tuple[list[str | Path], str]] = [
        ([path], "fastxfer put PATH URL"),
        ([path, url(small), url(small)], "fastxfer put PATH URL"),
        ([path, "https://store.example/x"], "not a location"),
        ([path, url(small), "--part-size", "7"], "option part_size: must be 100 KiB"),
        ([path, url(small), "--part-size", "many"], "--part-size"),
        ([path, url(small), "-x", "0"], "-x/--connections"),
        ([path, url(small), "--chunk-size", "1M"], "no option --chunk-size"),
    ]
    for arguments, why in wrong:
        assert why in one_error(fastxfer("put", *arguments, *given(small)), 28)
    assert "No such file" in one_error(fastxfer("put", tmp_path / "missing", url(small), *given(small)), 17)
    assert "list|abort URL" in one_error(fastxfer("uploads", "drop", url(small)), 28)
    assert "is for abort" in one_error(fastxfer("uploads", "list", url(small), "--upload-id", "x"), 28)


@pytest.mark.parametrize("command", ["put", "uploads"])
def test_help_tells_the_options(command: str) -> None:
    told = fastxfer(command, "--help")
    assert told.returncode == 0 and "--endpoint" in told.stdout and "--retries" in told.stdout
    assert ("--part-size" in told.stdout and "--checkpoint-dir" in told.stdout) == (command == "put")


def test_ctrl_c_keeps_what_the_store_has(small: Store, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, PARTS * OSS_PART)
    last, never = threading.Event(), threading.Event()

    def hold(call: Call, _: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == PARTS and not last.is_set():
            last.set()
            return Harm(hold=never)
        return None

    with Proxy(small, hold) as proxy:
        argv: list[str | Path] = [
            "put",
            path,
            url(small),
            "-x",
            "1",
            "--part-size",
            "100K",
            *given(proxy.store),
        ]
        with running(*argv) as process:
            assert last.wait(30)
            process.terminate()
            said = process.communicate()[1]
        assert process.returncode == 7
        assert said.startswith(
            "fastxfer: stopped; the same command goes on where it stopped (kept: 5 of 6 parts"
        )
        assert checkpoint_of(path).exists()
        told = events(fastxfer(*argv, "--json").stdout)[-1]
        assert (told["parts_sent"], told["parts_resumed"]) == (1, PARTS - 1)
        never.set()
    assert small.get("o") == data and left_beside(path) == []


def test_a_terminal_shows_a_bar(small: Store, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 2 * OSS_PART)
    held = threading.Event()

    def hold(call: Call, _: int) -> Harm | None:
        return Harm(hold=held) if call.operation == "UploadPart" and call.part == 2 else None

    with Proxy(small, hold) as proxy:
        argv = ["put", path, url(small), "--part-size", "100K", *given(proxy.store)]
        with Terminal(*map(str, argv)) as terminal:
            terminal.wait_for("data.bin")
            held.set()
            assert terminal.end() == 0


def test_no_secret_is_told_or_kept(small: Store, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 3 * OSS_PART)
    failing = Harm(status=500)

    def harm(call: Call, _: int) -> Harm | None:
        return failing if call.operation == "UploadPart" and call.part == 3 else None

    with Proxy(small, harm) as proxy:
        known = given(proxy.store, part_size="100K", retries=0)
        done = fastxfer("put", path, url(small), "--json", "-H", f"X-Token: {SECRET}", *known)
    assert done.returncode == 22
    kept = checkpoint_of(path).read_bytes()[32:].decode()
    for secret in (SECRET, small.secret_key, "Signature"):
        assert secret not in done.stdout + done.stderr + kept
    assert set(json.loads(kept)) >= {"upload_id", "target", "parts"}
    wrong = fastxfer("put", path, url(small), *given(small, credentials=f"{small.access_key}:{SECRET}"))
    assert SECRET not in one_error(wrong, 24)


def test_uploads_are_listed_and_aborted(small: Store) -> None:
    ids = {key: small.begin(key) for key in ("a\u0085b", "dir/o", "x")}
    listed = fastxfer("uploads", "list", url(small, "dir/"), *given(small))
    assert listed.returncode == 0 and listed.stdout.rstrip().endswith(
        f"{ids['dir/o']}  {url(small, 'dir/o')}"
    )
    told = events(fastxfer("uploads", "list", url(small, ""), "--json", *given(small)).stdout)[-1]
    assert {each["upload_id"] for each in told["uploads"]} == set(ids.values())
    one = fastxfer("uploads", "abort", url(small, ""), "--upload-id", ids["x"], *given(small))
    assert one.returncode == 0 and len(one.stdout.splitlines()) == 1
    assert fastxfer("uploads", "abort", url(small, ""), "-q", *given(small)).returncode == 0
    assert small.list_uploads() == []
