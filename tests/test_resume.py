"""Pauses, interruptions and damage: what was in place is kept, no byte is wrong. Kills are in tests/kills."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import crc64nvme
from fastxfer.storage.left import stored_checkpoint
from fastxfer.storage.paths import resolve_target
from tests.cli.command import wait_until
from tests.kills.victims import child_command
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject, make_bytes
from tests.servers.raw import Fault, RangeHandler, RawServer
from tests.test_fetch import leftovers, sha256

pytestmark = pytest.mark.usefixtures("no_races")  # what comes is counted

MIB = 1024**2
SIZE = 96 * MIB
CHUNK = 256 * 1024
CONNECTIONS = 8
DEADLINE_S = 60.0


def child(url: str, out: Path, *, rate: str = "64M") -> subprocess.Popen[str]:
    command = child_command(url, out, connections=CONNECTIONS, rate=rate)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_at(process: subprocess.Popen[str], done: int, sig: signal.Signals) -> int:
    """Signals the child as soon as it tells that so many bytes are there; returns the bytes it told last."""
    assert process.stdout is not None
    reached = 0
    for line in process.stdout:
        if line.strip() == "done":
            break
        reached = int(line)
        if reached >= done:
            process.send_signal(sig)
            break
    process.stdout.read()
    process.stdout.close()
    process.wait(DEADLINE_S)
    return reached


@pytest.fixture(scope="module")
def thing(objects: Objects) -> TestObject:
    return objects.make(SIZE, seed=7)


def test_ctrl_c_loses_nothing(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    process = child(nginx.url(thing.name), tmp_path / "out", rate="24M")
    reached = kill_at(process, SIZE // 3, signal.SIGINT)
    assert process.returncode != 0
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", checksum=f"sha256:{thing.sha256}")
    assert result.resumed >= reached
    assert result.transferred == SIZE - result.resumed


def test_the_end_of_the_interpreter_saves_a_running_transfer(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    program = (
        "import sys, threading, fastxfer\n"
        "half = threading.Event()\n"
        "watch = lambda p: half.set() if p.done > 20_000_000 else None\n"
        "fastxfer.start(sys.argv[1], sys.argv[2], 8, max_rate='64M', progress=watch)\n"
        "half.wait()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, nginx.url(thing.name), str(tmp_path / "out")],
        check=True,
        timeout=DEADLINE_S,
    )
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", checksum=f"sha256:{thing.sha256}")
    assert result.resumed >= 20_000_000


def test_the_end_of_a_forked_child_saves_its_transfer_and_not_its_parents(tmp_path: Path) -> None:
    program = (
        "import os, sys, threading, fastxfer\n"
        "def start(name):\n"
        "    there = threading.Event()\n"
        "    watch = lambda p: there.set() if p.done >= 100_000 else None\n"
        "    transfer = fastxfer.start(sys.argv[1], sys.argv[2] + name, 1, progress=watch)\n"
        "    assert there.wait(30)\n"
        "    return transfer\n"
        "mine = start('parent')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    start('child')\n"
        "    sys.exit()\n"
        "os.waitpid(pid, 0)\n"
        "print(mine.state)\n"
    )
    size = 2 * MIB
    faults = [Fault(stall_at=100_000), Fault(stall_at=100_000)]
    handler = RangeHandler(make_bytes(size, 7), faults=lambda _: faults.pop() if faults else None)
    with RawServer(handler) as server:
        command = [sys.executable, "-W", "ignore", "-c", program, server.url(), f"{tmp_path}/"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (run.returncode, run.stdout) == (0, "running\n"), run.stderr
        for name in ("child", "parent"):
            assert fastxfer.fetch(server.url(), tmp_path / name, 1).resumed == 100_000
            assert (tmp_path / name).read_bytes() == handler.content.data


def wait_for(condition: threading.Event) -> None:
    assert condition.wait(DEADLINE_S)


class Watch:
    """A progress callable with events for what tests wait for."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.reached = threading.Event()
        self.states: dict[str, threading.Event] = {}
        self.last = fastxfer.Progress()

    def __call__(self, progress: fastxfer.Progress) -> None:
        self.last = progress
        if progress.done > self.at:
            self.reached.set()
        self.state(progress.state).set()

    def state(self, name: str) -> threading.Event:
        return self.states.setdefault(name, threading.Event())


def test_pause_stops_the_traffic_and_resume_goes_on(
    own_nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    watch = Watch(at=10 * MIB)
    url = own_nginx.url(thing.name, prefix="/slow4m")
    transfer = fastxfer.start(url, tmp_path / "out", CONNECTIONS, progress=watch)
    wait_for(watch.reached)
    transfer.pause()
    # The server sees the connections go: all requests are logged as ended, within 0.2 s of the call.
    entries = own_nginx.requests(thing.name, count=CONNECTIONS + 1, deadline_s=0.2)
    wait_for(watch.state("paused"))
    assert transfer.progress.connections == 0
    standing = transfer.progress.transferred
    with pytest.raises(fastxfer.TransferTimeoutError):
        transfer.wait(0.5)
    assert transfer.progress.transferred == standing
    assert len(own_nginx.requests(thing.name)) == len(entries)
    transfer.resume()
    result = transfer.wait(DEADLINE_S)
    assert sha256(tmp_path / "out") == thing.sha256
    assert result.transferred == SIZE, "in the same process it goes on from the very byte"


def says_paused(out: Path) -> bool:
    checkpoint = stored_checkpoint(resolve_target("http://localhost/out", out))
    return checkpoint is not None and checkpoint.paused


def paused_at(
    nginx: Nginx, thing: TestObject, out: Path, at: int = 10 * MIB, **options: Any
) -> tuple[str, int]:
    """Leaves a target that its user paused; returns its URL and how many bytes of it are there."""
    watch = Watch(at=at)
    url = nginx.url(thing.name, prefix="/slow4m")
    with fastxfer.start(url, out, CONNECTIONS, progress=watch, **options) as transfer:
        wait_for(watch.reached)
        transfer.pause()
        wait_for(watch.state("paused"))
        done = transfer.progress.done
    assert says_paused(out)
    return url, done


@pytest.mark.parametrize("sink", ["direct", "mmap", "pwrite"])
def test_a_paused_transfer_goes_on_in_a_new_process_when_told(
    nginx: Nginx, thing: TestObject, tmp_path: Path, sink: str
) -> None:
    _, done = paused_at(nginx, thing, tmp_path / "out", sink=sink)
    program = "import sys, fastxfer; print(fastxfer.fetch(*sys.argv[1:], unpause=True).transferred)"
    told = subprocess.run(
        [sys.executable, "-c", program, nginx.url(thing.name, prefix="/slow64m"), str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert int(told.stdout) == SIZE - done, "from the very byte where it stopped"
    assert sha256(tmp_path / "out") == thing.sha256


def test_a_pause_stays_until_somebody_says_otherwise(
    own_nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url, done = paused_at(own_nginx, thing, out)
    asked = len(own_nginx.requests(thing.name))
    for _ in range(2):
        with pytest.raises(fastxfer.PausedError) as caught:
            fastxfer.fetch(url, out)
        assert (caught.value.exit_code, says_paused(out)) == (7, True)
        assert str(out.with_name("out.part")) in str(caught.value.kept)
        assert "unpause" in str(caught.value)
    transfer = fastxfer.start(url, out)
    with pytest.raises(fastxfer.PausedError):
        transfer.wait(DEADLINE_S)
    assert (transfer.state, transfer.progress.done, transfer.done) == ("paused", done, False)
    transfer.cancel()
    with pytest.raises(fastxfer.PausedError, match="stays so"):
        transfer.wait(DEADLINE_S)
    assert len(own_nginx.requests(thing.name)) == asked, "not one request"
    with fastxfer.start(own_nginx.url(thing.name, prefix="/slow64m"), out) as transfer:
        transfer.resume()  # before, or after, it was found paused
        assert transfer.wait(DEADLINE_S).transferred == SIZE - done
    assert sha256(out) == thing.sha256


def test_a_transfer_found_paused_goes_on_by_resume_and_may_be_paused_again(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url, done = paused_at(nginx, thing, out, at=4 * MIB)
    watch = Watch(at=done + 4 * MIB)
    with fastxfer.start(url, out, CONNECTIONS, progress=watch) as transfer:
        with pytest.raises(fastxfer.PausedError):
            transfer.wait(DEADLINE_S)
        assert transfer.progress.size == SIZE
        transfer.resume()
        wait_for(watch.reached)
        wait_until(lambda: not says_paused(out))  # a kill now leaves one that goes on
        watch.states.clear()
        transfer.pause()
        wait_for(watch.state("paused"))
        with pytest.raises(fastxfer.TransferTimeoutError):
            transfer.wait(0.2)  # paused by this process: `wait` waits
    assert says_paused(out)
    fast = nginx.url(thing.name, prefix="/slow64m")
    assert fastxfer.fetch(fast, out, unpause=True).resumed > done
    assert sha256(out) == thing.sha256


@pytest.mark.parametrize("durability", ["none", "periodic", "chunk"])
def test_a_pause_outlives_a_kill_however_long_it_lasted(
    nginx: Nginx, thing: TestObject, tmp_path: Path, durability: str
) -> None:
    """The checkpoint is written again and again while it is paused: it keeps saying so."""
    out = tmp_path / "out"
    program = """
import sys, threading, fastxfer, fastxfer.safekeeping as safekeeping
from fastxfer.storage.checkpoint import CheckpointFile

safekeeping.SYNC_S = 0.3  # as if many seconds went by
paused, write, written = threading.Event(), CheckpointFile.write, 0

def counted(self, checkpoint, *, durable):
    global written
    write(self, checkpoint, durable=durable)
    written += paused.is_set()
    if written == 4:
        print("written", flush=True)

CheckpointFile.write = counted
reached = threading.Event()
transfer = fastxfer.start(
    *sys.argv[1:3],
    durability=sys.argv[3],
    progress=lambda p: (p.done > 8 * 2**20 and reached.set(), p.state == "paused" and paused.set()),
)
reached.wait(30)
transfer.pause()
transfer.wait()
"""
    arguments = [nginx.url(thing.name, prefix="/slow4m"), str(out), durability]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"written\n"
        finally:
            process.kill()
    assert says_paused(out)
    with pytest.raises(fastxfer.PausedError):
        fastxfer.fetch(arguments[0], out)


def test_a_paused_target_stays_so_for_another_url_and_goes_when_it_is_to_start_over(
    nginx: Nginx, thing: TestObject, objects: Objects, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    paused_at(nginx, thing, out)
    other = objects.make(2 * MIB)
    with pytest.raises(fastxfer.PausedError):
        fastxfer.fetch(nginx.url(other.name), out)
    assert fastxfer.fetch(nginx.url(other.name), out, unpause=True).restarts == 1
    assert sha256(out) == other.sha256
    paused_at(nginx, thing, out)
    assert fastxfer.fetch(nginx.url(thing.name), out, resume=False).transferred == SIZE
    assert sha256(out) == thing.sha256


def test_a_paused_target_is_repaired_when_asked(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    url, _ = paused_at(nginx, thing, tmp_path / "out")
    fast = url.replace("/slow4m", "/slow64m")
    assert fastxfer.verify(tmp_path / "out", repair=fast).ok
    assert sha256(tmp_path / "out") == thing.sha256


def test_cancel_keeps_or_removes_as_asked(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    url = nginx.url(thing.name, prefix="/slow4m")
    for keep in (True, False):
        watch = Watch(at=5 * MIB)
        transfer = fastxfer.start(url, tmp_path / "out", 4, progress=watch)
        wait_for(watch.reached)
        transfer.cancel(keep=keep)
        with pytest.raises(fastxfer.InterruptedTransferError) as caught:
            transfer.wait(DEADLINE_S)
        assert caught.value.exit_code == 7
        assert transfer.state == "cancelled"
        assert leftovers(tmp_path) == (["out.part", "out.part.ckpt"] if keep else [])


def test_what_nothing_can_go_on_from_is_not_called_kept(tmp_path: Path) -> None:
    """A small object has no checkpoint, so nothing of it stays; one of unknown length begins again."""
    data = make_bytes(300_000, 3)
    for told in (True, False):
        handler = RangeHandler(data, faults=lambda _: Fault(stall_at=280_000), ranges=told)
        if not told:
            handler.head = lambda *_: {"Connection": "close"}  # type: ignore[method-assign]
        with RawServer(handler) as server:
            watch = Watch(at=270_000)
            transfer = fastxfer.start(server.url(), tmp_path / "out", 1, progress=watch)
            wait_for(watch.reached)
            transfer.cancel()
            with pytest.raises(fastxfer.InterruptedTransferError) as caught:
                transfer.wait(DEADLINE_S)
            assert caught.value.kept is None
            assert leftovers(tmp_path) == ([] if told else ["out.part", "out.part.ckpt"])


def stop_half_way(nginx: Nginx, thing: TestObject, out: Path) -> int:
    watch = Watch(at=20 * MIB)
    transfer = fastxfer.start(nginx.url(thing.name, prefix="/slow8m"), out, CONNECTIONS, progress=watch)
    wait_for(watch.reached)
    transfer.cancel()
    with pytest.raises(fastxfer.InterruptedTransferError):
        transfer.wait(DEADLINE_S)
    return transfer.progress.done


def test_a_damaged_checkpoint_is_an_error_and_nothing_is_lost(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    stop_half_way(nginx, thing, tmp_path / "out")
    part, checkpoint = tmp_path / "out.part", tmp_path / "out.part.ckpt"
    before = part.read_bytes()
    checkpoint.write_bytes(b"\0" * checkpoint.stat().st_size)
    with pytest.raises(fastxfer.CheckpointError) as caught:
        fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert caught.value.exit_code == 8
    assert part.read_bytes() == before
    assert checkpoint.exists()
    fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", resume=False)
    assert sha256(tmp_path / "out") == thing.sha256


@pytest.mark.parametrize("damage", ["truncated", "longer", "edited", "replaced"])
def test_a_damaged_part_file_is_verified_and_mended(
    nginx: Nginx, thing: TestObject, tmp_path: Path, damage: str
) -> None:
    done = stop_half_way(nginx, thing, tmp_path / "out")
    part = tmp_path / "out.part"
    if damage == "truncated":
        os.truncate(part, 10 * MIB)
    elif damage == "longer":
        os.truncate(part, SIZE + 5 * MIB)
    elif damage == "replaced":
        data = bytearray(part.read_bytes())
        data[5 * MIB : 6 * MIB] = bytes(MIB)
        part.unlink()
        part.write_bytes(data)
    else:
        with part.open("r+b") as file:
            file.truncate(
                SIZE - 1
            )  # an edit that shows: what cannot be seen at all is what checksums are for
            file.seek(3 * MIB)
            file.write(b"edited")
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert sha256(tmp_path / "out") == thing.sha256
    assert 0 < result.resumed <= done
    if damage == "longer":
        assert result.resumed == done


@pytest.mark.parametrize(("algorithm", "restarts"), [("sha256", 1), ("crc64nvme", 0)])
def test_a_wrong_byte_that_cannot_be_seen_is_caught_by_the_checksum(
    nginx: Nginx, thing: TestObject, tmp_path: Path, algorithm: str, restarts: int
) -> None:
    """CRC-64/NVME is reckoned from the chunks' own, so these are held against the bytes first."""
    stop_half_way(nginx, thing, tmp_path / "out")
    with (tmp_path / "out.part").open("r+b") as file:
        file.seek(MIB)
        file.write(b"edited")
    hexed = thing.sha256 if algorithm == "sha256" else f"{crc64nvme(thing.path.read_bytes()):016x}"
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", checksum=f"{algorithm}:{hexed}")
    assert result.restarts == restarts
    assert sha256(tmp_path / "out") == thing.sha256


def test_progress_of_a_changed_object_is_dropped(tmp_path: Path) -> None:
    old, new = make_bytes(8 * MIB, 1), make_bytes(8 * MIB, 2)
    handler = RangeHandler(old)
    with RawServer(handler) as server:
        watch = Watch(at=2 * MIB)
        transfer = fastxfer.start(server.url(), tmp_path / "out", 2, max_rate="8M", progress=watch)
        wait_for(watch.reached)
        transfer.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError):
            transfer.wait(DEADLINE_S)
        handler.replace(new)
        with pytest.raises(fastxfer.RemoteChangedError) as caught:
            fastxfer.fetch(server.url(), tmp_path / "out", on_change="fail")
        assert caught.value.exit_code == 33
        assert leftovers(tmp_path) == ["out.part", "out.part.ckpt"]
        result = fastxfer.fetch(server.url(), tmp_path / "out")
    assert (result.restarts, result.resumed) == (1, 0)
    assert (tmp_path / "out").read_bytes() == new


def test_a_part_file_in_which_nothing_is_missing_is_of_the_object_as_it_is_now(tmp_path: Path) -> None:
    """Such a one is left when its checksum was wrong. The target, if it is that object already, stays."""
    old, new = make_bytes(2 * MIB, 1), make_bytes(2 * MIB, 2)
    handler = RangeHandler(old)
    out = tmp_path / "out"
    with RawServer(handler) as server:

        def leave_all(content: bytes | None) -> None:
            with pytest.raises(fastxfer.ChecksumError):
                fastxfer.fetch(server.url(), out, 1, exists="replace", checksum="crc64nvme:" + "0" * 16)
            assert stored_checkpoint(resolve_target(server.url(), out)) is not None
            assert (out.read_bytes() if out.exists() else None) == content

        leave_all(None)
        result = fastxfer.fetch(server.url(), out, 1)
        assert (result.resumed, result.transferred) == (2 * MIB, 0)
        leave_all(old)
        assert fastxfer.fetch(server.url(), out, 1).skipped
        assert out.read_bytes() == old
        handler.replace(new)
        with pytest.raises(fastxfer.RemoteChangedError):
            fastxfer.fetch(server.url(), out, 1, on_change="fail")
        assert out.read_bytes() == old
        result = fastxfer.fetch(server.url(), out, 1)
        assert (result.resumed, result.restarts) == (0, 1)
        assert out.read_bytes() == new
        leave_all(new)
        handler.faults = lambda _: Fault(status=404)
        with pytest.raises(fastxfer.NotFoundError):
            fastxfer.fetch(server.url(), out, 1)
        assert out.read_bytes() == new


def test_what_only_a_checksum_can_tell_apart_is_not_gone_on_from_without_one(tmp_path: Path) -> None:
    """Other bytes, another ETag, the same size and date: with a checksum it may be another node of a CDN."""
    old, new = make_bytes(4 * MIB, 1), make_bytes(4 * MIB, 2)
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    handler = RangeHandler(old, etag='"old"', last_modified=date)
    with RawServer(handler) as server:
        for checksum in (None, f"sha256:{hashlib.sha256(new).hexdigest()}"):
            watch = Watch(at=2 * MIB if checksum else MIB)
            transfer = fastxfer.start(
                server.url(), tmp_path / "out", 1, max_rate="4M", checksum=checksum, progress=watch
            )
            wait_for(watch.reached)
            transfer.cancel()
            with pytest.raises(fastxfer.InterruptedTransferError):
                transfer.wait(DEADLINE_S)
            handler.replace(new, etag='"new"', last_modified=date)
        result = fastxfer.fetch(server.url(), tmp_path / "out", 1)
    assert (result.restarts, result.resumed) == (1, 0)
    assert (tmp_path / "out").read_bytes() == new


def test_without_a_validator_only_a_checksum_allows_to_go_on(
    nginx: Nginx, thing: TestObject, tmp_path: Path
) -> None:
    for checksum in (None, f"sha256:{thing.sha256}"):
        watch = Watch(at=20 * MIB)
        url = nginx.url(thing.name, prefix="/novalidators")
        transfer = fastxfer.start(url, tmp_path / "out", 4, max_rate="64M", progress=watch)
        wait_for(watch.reached)
        transfer.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError):
            transfer.wait(DEADLINE_S)
        result = fastxfer.fetch(url, tmp_path / "out", checksum=checksum)
        assert (result.resumed > 0) == (checksum is not None)
        assert sha256(tmp_path / "out") == thing.sha256
        (tmp_path / "out").unlink()


def test_a_foreign_part_file_is_moved_aside(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(b"not ours")
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert (tmp_path / "out.part.orphan").read_bytes() == b"not ours"
    assert any("orphan" in note for note in result.notes)


def test_a_forked_child_has_an_engine_of_its_own(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    program = (
        "import os, sys, threading, fastxfer\n"
        "url, slow, out, digest = sys.argv[1:]\n"
        "moving = threading.Event()\n"
        "watch = lambda p: moving.set() if p.done > 1_000_000 else None\n"
        "t = fastxfer.start(slow, out + '/parent', 4, progress=watch)\n"
        "moving.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    fastxfer.fetch(url, out + '/child', checksum='sha256:' + digest)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "t.wait()\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, nginx.url(thing.name),
         nginx.url(thing.name, prefix="/slow8m"), str(tmp_path), thing.sha256],
        check=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert sha256(tmp_path / "child") == sha256(tmp_path / "parent") == thing.sha256
