"""One writer a target where locks prove nothing: whose record is believed how far, and what a take-over does
to the files of the one before. Kills at every step of it are real ones, in processes of their own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import fastxfer
from fastxfer import safekeeping
from fastxfer._native.writer import file_system
from fastxfer.cli.status import read_status
from fastxfer.errors import CheckpointError, InterruptedTransferError, StorageError, TargetBusyError
from fastxfer.storage import owner as owning
from fastxfer.storage.locks import BUSY, HELD, LOCAL_FILE_SYSTEMS, REFUSED, UNTRIED, record_needed
from fastxfer.storage.owner import current
from fastxfer.storage.owner_record import RECORD_BYTES, Record, base_of, decode, lives, this_process
from fastxfer.storage.part_file import PartFile
from fastxfer.storage.paths import Target, resolve_target
from tests.cli.command import wait_until
from tests.descriptors import held_open
from tests.servers.raw import Fault, RangeHandler, RawServer, Request
from tests.storage.test_part_file import (
    CHUNK,
    DATA,
    IDENTITY,
    SIZE,
    SOURCE,
    URL,
    allocated,
    edit,
    fill,
    finish,
)

NFS, EXT4 = 0x6969, 0xEF53
DONE = 490_000
"""Bytes in place when an owner comes to a stop: seven chunks."""
STRIDE = 1 if os.environ.get("FASTXFER_SOAK") else 8  # from kill to kill; make soak


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return resolve_target(URL, tmp_path / "data.bin")


@pytest.fixture
def quick_target(shared_memory: Path) -> Target:
    return resolve_target(URL, shared_memory / "data.bin")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every file system one whose locks prove nothing, and the watch short."""
    monkeypatch.setattr(owning, "record_needed", lambda f_type, lock: True)
    monkeypatch.setattr(owning, "RENEW_S", 0.02)
    monkeypatch.setattr(owning, "WATCH_S", 0.5)
    monkeypatch.setattr(owning, "LOOK_S", 0.02)


def names(target: Target) -> set[str]:
    """Returns the names beside the target, an owner's own ones by what they end in."""
    return {
        "OWN" + name[len(base_of("0" * 16)) :] if name.startswith(".fastxfer-") else name
        for name in os.listdir(target.directory.path)
    }


def record_of(target: Target) -> Record:
    record = decode(target.lock.read_bytes())
    assert record is not None
    return record


def elsewhere(record: Record, **changes: Any) -> Record:
    """Returns the record as if it were of another machine."""
    return replace(record, host="other", machine="f" * 32, boot="another", **changes)


def renewing() -> bool:
    """Returns whether a thread renews a record."""
    return any(thread.name == "fastxfer-owner" for thread in threading.enumerate())


def half_done(target: Target) -> PartFile:
    """Returns a part file that is open and half written, with a checkpoint that says so."""
    part = allocated(target)
    fill(part, 0, DONE)
    part.sync()
    return part


def stopped(target: Target, **changes: Any) -> PartFile:
    """Returns a half written part file whose owner, on another machine, stands still."""
    part = half_done(target)
    owner = part._owner
    assert owner is not None
    owner._over.set()
    with owner._lock:
        owner._write(**{"host": "other", "machine": "f" * 32, "boot": "another", **changes})
    return part


def goes_on(target: Target, verified: int) -> None:
    """Asserts that the next transfer finds so many chunks, and ends well."""
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    assert left is not None
    assert left.ledger.done == verified
    finish(part, left, "pwrite")
    assert names(target) == {"data.bin"}


# ---- when a record is needed ----


@pytest.mark.parametrize(
    ("f_type", "lock", "needed"),
    [
        (EXT4, UNTRIED, False),
        (EXT4, HELD, False),
        (EXT4, BUSY, False),
        (EXT4, REFUSED, True),
        (NFS, UNTRIED, True),
        (NFS, HELD, True),
        (NFS, REFUSED, True),
        (0x65735546, HELD, True),  # FUSE
        (0xFE534D42, HELD, True),  # SMB2
        (0, HELD, True),  # not known
    ],
)
def test_the_lock_is_enough_on_local_file_systems_that_grant_it(f_type: int, lock: str, needed: bool) -> None:
    assert record_needed(f_type, lock) is needed


def test_the_file_systems_of_a_linux_machine_are_told_by_their_numbers(shared_memory: Path) -> None:
    for path, number in (("/proc", 0x9FA0), ("/sys", 0x62656572), (str(shared_memory), 0x01021994)):
        fd = os.open(path, os.O_PATH)
        try:
            assert file_system(fd) == number
        finally:
            os.close(fd)
    assert 0x01021994 in LOCAL_FILE_SYSTEMS
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_system(-1)


def test_a_healthy_local_transfer_has_no_record_and_no_other_names(target: Target) -> None:
    part = half_done(target)
    assert names(target) == {"data.bin.part", "data.bin.part.ckpt"}
    assert not renewing()
    part.close()
    goes_on(target, DONE // CHUNK)


def test_a_lock_that_is_refused_is_made_up_for_by_a_record(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    part = half_done(target)
    assert names(target) == {"data.bin.part.lock", "OWN.part", "OWN.part.ckpt"}
    with pytest.raises(TargetBusyError, match=f"process {os.getpid()} on "):
        PartFile.open(target, SOURCE)
    part.close()
    goes_on(target, DONE // CHUNK)


# ---- who it is ----


def test_the_error_names_who_holds_the_lock(target: Target) -> None:
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target.part)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        host = os.uname().nodename
        with pytest.raises(
            TargetBusyError, match=rf"\(process {other.pid} on {host}, started 20\d\d-"
        ) as caught:
            PartFile.open(target, SOURCE)
        assert caught.value.exit_code == 1
        other.kill()
    PartFile.open(target, SOURCE).close()


def test_the_error_names_the_owner_of_the_record(target: Target, remote: None) -> None:
    part = half_done(target)
    with pytest.raises(TargetBusyError, match=rf"process {os.getpid()} on .*, writing since 20\d\d-"):
        PartFile.open(target, SOURCE)
    assert names(target) == {"data.bin.part.lock", "OWN.part", "OWN.part.ckpt"}, "nothing is changed"
    part.close()


def dead() -> int:
    """Returns the number of a process that has just ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_a_process_lives_if_its_number_and_its_start_are_the_same() -> None:
    here = this_process()
    assert lives(here, here) is True
    assert lives(replace(here, started=here.started + 1), here) is False
    assert lives(replace(here, pid=dead()), here) is False
    assert lives(replace(here, pid=2**63), here) is False
    assert lives(replace(here, boot="other"), here) is None
    assert lives(replace(here, pid_space=here.pid_space + 1), here) is None
    assert lives(replace(here, boot=""), replace(here, boot="")) is None


def test_a_zombie_does_not_live() -> None:
    here = this_process()
    with subprocess.Popen(["sleep", "600"]) as process:
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            started = int(file.read().rpartition(b")")[2].split()[19])
        record = replace(here, pid=process.pid, started=started)
        assert lives(record, here) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lives(record, here) is False


def test_a_record_is_read_as_it_was_written() -> None:
    record = replace(this_process(), before="", count=7)
    assert len(record.encode()) == RECORD_BYTES
    assert decode(record.encode()) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "../../etc/passwd"},
        {"base": "/etc/passwd"},
        {"base": "data.bin"},
        {"base": ".fastxfer-" + "g" * 16},
        {"before": ".fastxfer-/../x"},
        {"token": "x/../../../etc"},
        {"token": 5},
        {"pid": 0},
        {"pid": -1},
        {"pid": True},
        {"pid": 2**64},
        {"since": 1e300},
        {"since": 1},
        {"released": 1},
        {"host": None},
        {"more": 1},
    ],
)
def test_a_record_that_someone_took_pains_with_is_not_believed(changes: dict[str, Any]) -> None:
    value = json.loads(this_process().encode()) | changes
    assert decode(json.dumps(value).encode().ljust(RECORD_BYTES)) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff" * 1024, b"[" * 1024, b"x" * 4096])
def test_what_is_no_record_is_not_believed(data: bytes) -> None:
    assert decode(data) is None


# ---- taking over ----


@pytest.mark.parametrize("small", [False, True])
def test_an_orderly_end_gives_the_usual_names_back_and_needs_no_copy(
    target: Target, remote: None, small: bool
) -> None:
    part = half_done(target)
    inode = os.fstat(part.fd).st_ino
    part.close()
    assert names(target) == {"data.bin.part", "data.bin.part.ckpt", "data.bin.part.lock"}
    assert target.part.stat().st_ino == inode
    assert record_of(target).released
    if small:  # nothing of it is kept then
        part = PartFile.open(target, SOURCE)
        part.allocate(IDENTITY, CHUNK, sink="pwrite", small=True)
        fill(part, 0, SIZE)
        part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)
    else:
        goes_on(target, DONE // CHUNK)
    assert target.final.read_bytes() == DATA
    assert names(target) == {"data.bin"}
    assert target.final.stat().st_ino == inode
    assert held_open(target.directory.path) == 1, "the directory's own"


@pytest.mark.parametrize("changes", [{"pid": dead()}, {"started": 1}], ids=["gone", "another"])
def test_an_owner_whose_process_is_gone_is_followed_at_once(
    target: Target, remote: None, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "WATCH_S", 3600)
    here = this_process()
    part = stopped(target, host=here.host, machine=here.machine, boot=here.boot, **changes)
    inode = os.fstat(part.fd).st_ino
    goes_on(target, DONE // CHUNK)
    assert target.final.stat().st_ino == inode, "nothing was copied"


def test_an_owner_of_an_earlier_boot_is_followed_at_once_by_a_copy(
    target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "WATCH_S", 3600)
    here = this_process()
    part = stopped(target, host=here.host, machine=here.machine, boot="an earlier one")
    inode = os.fstat(part.fd).st_ino
    goes_on(target, DONE // CHUNK)
    assert target.final.stat().st_ino != inode


def test_an_owner_that_moves_is_left_alone(target: Target, remote: None) -> None:
    part = half_done(target)
    owner = part._owner
    assert owner is not None
    with owner._lock:
        owner._write(host="other", machine="f" * 32, boot="another")
    with pytest.raises(TargetBusyError, match=r"process \d+ on other, writing since"):
        PartFile.open(target, SOURCE)
    part.sync()
    part.close()
    goes_on(target, DONE // CHUNK)


def test_whoever_stops_waits_no_longer(target: Target, remote: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owning, "WATCH_S", 3600)
    part = stopped(target)
    looks = iter([False, False, True])
    with pytest.raises(InterruptedTransferError):
        PartFile.open(target, SOURCE, lambda: next(looks))
    part.sync()
    part.close()


def test_a_transfer_that_is_cancelled_waits_no_longer(
    target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    read = owning._read

    def look(*where: Any) -> bytes | None:
        if threading.current_thread().name == "fastxfer-disk":
            looked.set()
        return read(*where)

    part = stopped(target)
    monkeypatch.setattr(owning, "WATCH_S", 3600)
    monkeypatch.setattr(owning, "_read", look)
    transfer = fastxfer.start("http://127.0.0.1:9/data.bin", target.final)
    assert looked.wait(60)
    transfer.cancel()
    with pytest.raises(InterruptedTransferError):
        transfer.wait(60)
    monkeypatch.undo()
    assert os.fstat(part.fd).st_nlink == 1
    part.close()


def test_two_owners_never_share_a_byte(target: Target, remote: None) -> None:
    first = stopped(target)
    second = PartFile.open(target, SOURCE)
    assert "which did not move for 0.5 s" in second.note
    left = second.read_left()
    assert left is not None
    assert left.ledger.done == DONE // CHUNK
    second.adopt(left, IDENTITY, sink="pwrite")
    assert os.fstat(first.fd).st_nlink == 0
    fill(first, DONE, SIZE)  # its late writes
    os.pwrite(first.fd, bytes(SIZE), 0)
    acts: list[Callable[[], object]] = [first.sync, first.claim, lambda: publish(first), first.discard]
    for act in acts:
        with pytest.raises(
            TargetBusyError, match=f"taken over by another transfer .process {os.getpid()} on "
        ):
            act()
    before = names(target)
    first.discard_if_empty()
    first.close()
    assert names(target) == before == {"data.bin.part.lock", "OWN.part", "OWN.part.ckpt"}
    for start, stop in left.ledger.missing():
        fill(second, start, stop)
    publish(second)
    assert target.final.read_bytes() == DATA
    assert names(target) == {"data.bin"}


def publish(part: PartFile) -> None:
    part.publish(size=SIZE, mtime=None, durable=True, replace=True, record=None)


def forgets(part: PartFile, size: int) -> None:
    """What a FUSE file system answers for a file that another machine has removed."""
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def test_files_that_go_in_the_midst_of_a_claim_are_told_as_taken_over(
    target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = stopped(target)
    looks = iter([None, TargetBusyError("taken over")])

    def check() -> None:
        error = next(looks)
        if error is not None:
            raise error

    assert part._owner is not None
    monkeypatch.setattr(part._owner, "check", check)
    monkeypatch.setattr(PartFile, "check", forgets)
    with pytest.raises(TargetBusyError, match="taken over"):
        part.claim()
    part.close()


@pytest.mark.parametrize(
    ("mistake", "expected"), [(forgets, StorageError), (lambda *_: 1 // 0, fastxfer.FastxferError)]
)
def test_a_claim_that_fails_in_whatever_way_ends_the_transfer(
    target: Target, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., None], expected: type[Exception]
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(safekeeping, "SMALL_BYTES", 0)
    monkeypatch.setattr(PartFile, "check", mistake)
    with object_server(lambda request: Fault(stall_at=SIZE // 2, until=gate)) as server:
        transfer = fastxfer.start(server.url(), target.final, 1, chunk_size=CHUNK)
        with pytest.raises(expected):
            transfer.wait(60)
        gate.set()


def test_a_publication_that_was_under_way_is_of_its_own_bytes_or_none(
    target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old owner has looked at its record, and stands still before the rename."""
    first = stopped(target)
    fill(first, DONE, SIZE)
    second = PartFile.open(target, SOURCE)
    second.read_left()
    assert first._owner is not None
    monkeypatch.setattr(first._owner, "check", bool)
    publish(first)
    assert target.final.read_bytes() == DATA
    assert record_of(target).token == second._owner.record.token  # type: ignore[union-attr]
    other = bytes(SIZE)
    second.allocate(replace(IDENTITY, etag='"v2"'), CHUNK, sink="pwrite")
    os.pwrite(second.fd, other, 0)
    assert second.ledger is not None
    for chunk in range(second.ledger.count):
        second.ledger.set(chunk, 0)
    publish(second)
    assert target.final.read_bytes() == other
    assert names(target) == {"data.bin"}


def test_a_chunk_that_does_not_hold_is_not_taken_over(target: Target, remote: None) -> None:
    part = stopped(target)
    edit(target.directory.path / part.target.part_name, 3 * CHUNK + 5)
    goes_on(target, DONE // CHUNK - 1)


def test_a_take_over_that_comes_to_nothing_leaves_everything(target: Target, remote: None) -> None:
    part = stopped(target)
    inode = os.fstat(part.fd).st_ino
    second = PartFile.open(target, SOURCE)
    assert second.read_left() is not None
    second.discard_if_empty()
    second.close()
    assert os.fstat(part.fd).st_nlink == 1
    assert record_of(target).released
    assert record_of(target).before == part.target.base, "what is only to be read stays so"
    goes_on(target, DONE // CHUNK)
    assert target.final.stat().st_ino != inode


def test_the_one_who_follows_a_follower_reads_the_same_files(target: Target, remote: None) -> None:
    part = stopped(target)
    second = PartFile.open(target, SOURCE)
    second.read_left()
    owner = second._owner
    assert owner is not None
    owner._over.set()
    with owner._lock:
        owner._write(host="third", machine="e" * 32, boot="yet another")
    inodes = {os.fstat(part.fd).st_ino, os.fstat(second.fd).st_ino}
    goes_on(target, DONE // CHUNK)
    assert target.final.stat().st_ino not in inodes


def test_a_part_file_of_who_knows_whom_is_read_and_not_written(target: Target, remote: None) -> None:
    with pytest.MonkeyPatch.context() as local:
        local.setattr(owning, "record_needed", record_needed)
        part = half_done(target)
        inode = os.fstat(part.fd).st_ino
    with pytest.raises(TargetBusyError, match=f"process {os.getpid()} on"):
        PartFile.open(target, SOURCE)  # on this machine the lock is seen
    part.close()
    goes_on(target, DONE // CHUNK)
    assert target.final.stat().st_ino != inode


@pytest.mark.parametrize("resume", [True, False])
def test_a_part_file_without_checkpoint_is_moved_aside_under_its_usual_name(
    target: Target, remote: None, resume: bool
) -> None:
    target.part.write_bytes(b"somebody's")
    part = PartFile.open(target, SOURCE)
    if resume:
        assert part.read_left() is None
        assert part.note == "data.bin.part had no checkpoint; it was moved to data.bin.part.orphan"
    part.allocate(IDENTITY, CHUNK, sink="pwrite")
    fill(part, 0, SIZE)
    publish(part)
    assert names(target) == {"data.bin"} | ({"data.bin.part.orphan"} if resume else set())


def test_a_checkpoint_that_cannot_be_read_is_not_taken_over(target: Target, remote: None) -> None:
    part = stopped(target)
    checkpoint = target.directory.path / part.target.checkpoint_name
    checkpoint.write_bytes(b"x" * 8192)
    second = PartFile.open(target, SOURCE)
    with pytest.raises(CheckpointError, match=r"data\.bin\.part is kept"):
        second.read_left()
    second.close()
    assert checkpoint.read_bytes() == b"x" * 8192
    assert os.fstat(part.fd).st_nlink == 1


@pytest.mark.parametrize("length", [0, 90112])
@pytest.mark.parametrize("doubt", [False, True])
def test_a_checkpoint_that_a_kill_left_before_its_first_write_stops_nobody(
    target: Target, remote: None, length: int, doubt: bool
) -> None:
    part = stopped(target)
    (target.directory.path / part.target.checkpoint_name).write_bytes(bytes(length))
    os.ftruncate(part.fd, 0)
    if not doubt:
        assert part._owner is not None
        with part._owner._lock:
            part._owner._write(released=True)
    second = PartFile.open(target, SOURCE)
    assert second.read_left() is None
    second.allocate(IDENTITY, CHUNK, sink="pwrite")
    fill(second, 0, SIZE)
    publish(second)
    assert names(target) == {"data.bin"}


@pytest.mark.parametrize("data", [b"", b"garbage", bytes(RECORD_BYTES)], ids=["empty", "garbage", "zeros"])
def test_a_record_that_cannot_be_read_is_watched_and_then_replaced(
    target: Target, remote: None, data: bytes
) -> None:
    target.lock.write_bytes(data)
    part = half_done(target)
    assert "who is not known" in part.note
    part.close()
    goes_on(target, DONE // CHUNK)


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("elsewhere"), os.mkdir, os.mkfifo])
def test_a_record_that_is_no_file_is_refused(
    target: Target, remote: None, make: Callable[[Path], object]
) -> None:
    make(target.lock)
    with pytest.raises(StorageError, match=r"cannot use .*data\.bin\.part\.lock: it is"):
        PartFile.open(target, SOURCE)


def test_a_record_that_was_removed_is_made_anew(target: Target, remote: None) -> None:
    part = half_done(target)
    token = record_of(target).token
    target.lock.unlink()
    part.sync()
    assert record_of(target).token == token
    part.close()
    goes_on(target, DONE // CHUNK)


def test_the_record_moves_while_nothing_else_does(target: Target, remote: None) -> None:
    part = half_done(target)
    count = record_of(target).count
    wait_until(lambda: record_of(target).count >= count + 3)
    part.close()
    wait_until(lambda: not renewing())


def test_of_many_that_take_over_at_once_one_succeeds(target: Target, remote: None) -> None:
    part = stopped(target)
    barrier = threading.Barrier(8)
    outcomes: list[PartFile | TargetBusyError] = []

    def take_over() -> None:
        barrier.wait()
        try:
            outcomes.append(PartFile.open(replace(target), SOURCE))
        except TargetBusyError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=take_over) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    winners = [each for each in outcomes if isinstance(each, PartFile)]
    assert len(outcomes) == 8
    assert len(winners) == 1
    winners[0].close()
    part.close()
    goes_on(target, DONE // CHUNK)


def test_who_stands_still_while_it_takes_over_looks_again(
    target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival has taken its new record for a dead one's: a FUSE file system then knows the file no more."""
    part = stopped(target)
    part._owner = None
    part.close()
    made: list[Path] = []
    write = owning.Owner._write

    def removed(owner: owning.Owner, **changes: object) -> None:
        if not made:
            made.extend(target.directory.path.glob("*.next"))
            made[0].unlink()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        write(owner, **changes)

    monkeypatch.setattr(owning.Owner, "_write", removed)
    goes_on(target, DONE // CHUNK)
    assert made


def test_a_directory_that_is_gone_is_told(tmp_path: Path, remote: None) -> None:
    (tmp_path / "gone").mkdir()
    target = resolve_target(URL, tmp_path / "gone" / "data.bin")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="No such file or directory"):
        PartFile.open(target, SOURCE)


def test_what_a_take_over_could_not_remove_goes_with_the_next(target: Target, remote: None) -> None:
    part = half_done(target)
    old = base_of("0" * 16)
    for ending in (".part", ".part.ckpt"):
        (target.directory.path / f"{old}{ending}").write_bytes(b"x")
    owner = part._owner
    assert owner is not None
    owner._over.set()
    with owner._lock:
        owner._write(past=old, host="other", machine="f" * 32, boot="another")
    goes_on(target, DONE // CHUNK)


def test_the_files_that_a_kill_left_are_found_by_the_record(target: Target, remote: None) -> None:
    part = half_done(target)
    there = current(target)
    assert there.part_name == part.target.part_name
    assert there.checkpoint_name == part.target.checkpoint_name
    part.close()
    assert current(target).part_name == "data.bin.part"


# ---- a kill at every step ----


def killed_at(step: int, job: Callable[[], object]) -> bool:
    """Runs `job` in a process that is killed before its `step`-th system call; returns whether it came to
    that.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert status == 0
        return False
    code = 1
    try:
        calls = 0

        def count(frame: FrameType, event: str, what: Any) -> None:
            nonlocal calls
            if event == "c_call" and getattr(what, "__module__", "") == "posix":
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        job()
        sys.setprofile(None)
        code = 0
    finally:
        os._exit(code)


def take_over_and_end(target: Target) -> None:
    """Takes over, goes on a little and ends in order."""
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    assert left is not None
    assert left.ledger.done >= DONE // CHUNK
    part.adopt(left, IDENTITY, sink="pwrite")
    fill(part, 7 * CHUNK, 8 * CHUNK)
    part.sync()
    part.close()


@pytest.mark.parametrize("next_one", ["here", "elsewhere"])
@pytest.mark.parametrize("first_one", ["gone", "in doubt"])
def test_a_kill_at_any_step_of_a_take_over_loses_nothing(
    quick_target: Target, remote: None, monkeypatch: pytest.MonkeyPatch, first_one: str, next_one: str
) -> None:
    monkeypatch.setattr(owning, "WATCH_S", 0.04)
    target, gone = quick_target, {"pid": dead(), "started": 1}
    steps = 0
    while True:
        steps += STRIDE
        here = this_process()
        if first_one == "gone":
            part = stopped(target, host=here.host, machine=here.machine, boot=here.boot, **gone)
        else:
            part = stopped(target)
        came_that_far = killed_at(steps, lambda: take_over_and_end(target))
        if next_one == "elsewhere" and target.lock.exists():
            record = decode(target.lock.read_bytes())
            if record is not None and not record.released:
                target.lock.write_bytes(elsewhere(record).encode())
        again = PartFile.open(target, SOURCE)
        left = again.read_left()
        assert left is not None, steps
        assert left.ledger.done >= DONE // CHUNK, steps
        finish(again, left, "pwrite")
        part._owner = None
        part.close()
        litter = {name for name in names(target) if not name.startswith("OWN")} - {"data.bin"}
        assert not litter, (steps, litter)
        for name in os.listdir(target.directory.path):
            os.unlink(target.directory.path / name)
        if not came_that_far:
            break
    assert steps > 60


def transfer_it(target: Target) -> None:
    """Makes the whole object the target, from nothing or from what is left."""
    part = PartFile.open(target, SOURCE)
    left = part.read_left()
    if left is None:
        part.allocate(IDENTITY, CHUNK, sink="pwrite")
        fill(part, 0, DONE)
        part.sync()
        fill(part, DONE, SIZE)
        publish(part)
    else:
        finish(part, left, "pwrite")


def test_a_kill_at_any_step_of_a_transfer_leaves_what_the_next_one_ends(
    quick_target: Target, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "WATCH_S", 0.04)  # a record that is not written yet is of nobody known
    target, steps, kills = quick_target, 0, 0
    while True:
        steps += STRIDE
        came_that_far = killed_at(steps, lambda: transfer_it(target))
        if target.final.exists():
            assert target.final.read_bytes() == DATA, steps
        transfer_it(target)
        assert target.final.read_bytes() == DATA, steps
        assert names(target) == {"data.bin"}, steps
        target.final.unlink()
        if not came_that_far:
            break
        kills += 1
    assert kills * STRIDE > 60


FORKING = """
import os, sys, signal
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import resolve_target
part = PartFile.open(resolve_target("http://h/x", sys.argv[1]), Source("", ""))
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


def test_a_lock_ends_with_its_process_though_a_child_of_a_fork_lives_on(target: Target) -> None:
    with subprocess.Popen([sys.executable, "-c", FORKING, target.final], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        with pytest.raises(TargetBusyError, match=f"process {process.pid} on"):
            PartFile.open(target, SOURCE)
        process.kill()
        process.wait()
        try:
            wait_until(lambda: held_by(child, target.part) == 0)
            PartFile.open(target, SOURCE).close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_ends_with_its_part_file_though_a_process_that_is_just_started_has_it_too(
    target: Target,
) -> None:
    part = PartFile.open(target, SOURCE)
    (fd,) = (int(each.name) for each in Path("/proc/self/fd").iterdir() if leads_to(each, target.part))
    child = os.dup(fd)  # as the child of a fork has it until it runs its own program
    part.close()
    try:
        PartFile.open(target, SOURCE).close()
    finally:
        os.close(child)


def leads_to(link: Path, path: Path) -> bool:
    return link.is_symlink() and os.readlink(link) == str(path)


def held_by(pid: int, path: Path) -> int:
    """Returns how many descriptors of a file a process holds."""
    return sum(os.readlink(each) == str(path) for each in Path(f"/proc/{pid}/fd").iterdir())


# ---- what is looked at and repaired ----


def object_server(faults: Callable[[Request], Fault | None] = lambda request: None) -> RawServer:
    handler = RangeHandler(DATA, faults=faults, etag=IDENTITY.etag, last_modified=IDENTITY.last_modified)
    return RawServer(handler)


def fetched(target: Target, server: RawServer) -> None:
    """Fetches it, with a ledger, and has two of its chunks be wrong."""
    fastxfer.fetch(server.url(), target.final, 1, chunk_size=CHUNK, keep_ledger=True)
    edit(target.final, 3 * CHUNK + 5)
    edit(target.final, 5 * CHUNK + 5)


def test_a_finished_file_is_repaired(target: Target, remote: None) -> None:
    with object_server() as server:
        fetched(target, server)
        result = fastxfer.verify(target.final, repair=server.url())
    assert (result.ok, result.repaired) == (True, 2 * CHUNK)
    assert target.final.read_bytes() == DATA
    assert names(target) == {"data.bin", "data.bin.fxsum"}


def test_a_repair_that_brings_nothing_gives_the_file_its_name_back(target: Target, remote: None) -> None:
    answered = SIZE  # requests, until it is known how many come before the repair's own
    gone = Fault(status=404)
    with object_server(lambda request: gone if request.number >= answered else None) as server:
        fetched(target, server)
        wrong = target.final.read_bytes()
        answered = len(server.requests) + 1  # the probe is
        with pytest.raises(fastxfer.NotFoundError):
            fastxfer.verify(target.final, repair=server.url())
    assert target.final.read_bytes() == wrong
    assert names(target) == {"data.bin", "data.bin.fxsum"}


def test_a_part_file_is_verified_and_repaired_when_nobody_writes_it(target: Target, remote: None) -> None:
    part = half_done(target)
    for repair in (None, "http://127.0.0.1:9/data.bin"):
        with pytest.raises(TargetBusyError, match=f"process {os.getpid()} on"):
            fastxfer.verify(target.final, repair=repair)
    part.close()
    assert fastxfer.verify(target.part).missing == [(DONE // CHUNK * CHUNK, SIZE)]
    edit(target.part, 3 * CHUNK + 5)
    assert fastxfer.verify(target.final).bad == [(3 * CHUNK, 4 * CHUNK)]
    with object_server() as server:
        assert fastxfer.verify(target.final, repair=server.url()).ok
    assert target.final.read_bytes() == DATA
    assert names(target) == {"data.bin"}


def test_what_a_kill_left_is_verified_under_its_own_names(target: Target, remote: None) -> None:
    here = this_process()
    part = stopped(target, host=here.host, machine=here.machine, boot=here.boot, pid=dead(), started=1)
    assert fastxfer.verify(target.final).missing == [(DONE // CHUNK * CHUNK, SIZE)]
    assert read_status(str(target.final)).claimed == DONE // CHUNK * CHUNK
    assert read_status(str(target.lock)).claimed == DONE // CHUNK * CHUNK
    part._owner = None
    part.close()


def test_what_another_machine_may_still_write_is_not_repaired(target: Target, remote: None) -> None:
    part = stopped(target)
    with pytest.raises(StorageError, match="run the fetch again, which goes on in a copy"):
        fastxfer.verify(target.final, repair="http://127.0.0.1:9/data.bin")
    assert os.fstat(part.fd).st_nlink == 1
    goes_on(target, DONE // CHUNK)


def test_a_publication_by_a_link_that_was_cut_off_is_ended_by_who_comes_next(
    target: Target, remote: None
) -> None:
    part = stopped(target)
    fill(part, DONE, SIZE)
    os.link(target.directory.path / part.target.part_name, target.final)
    with object_server() as server:
        with pytest.raises(fastxfer.TargetExistsError):
            fastxfer.fetch(server.url(), target.final, exists="error")
        second = PartFile.open(target, SOURCE)
        assert second.read_left() is None
        second.discard_if_empty()
        second.close()
    assert names(target) == {"data.bin"}
    assert target.final.read_bytes() == DATA


def test_the_record_that_a_kill_left_beside_a_finished_file_goes(target: Target, remote: None) -> None:
    target.final.write_bytes(DATA)
    here = this_process()
    target.lock.write_bytes(replace(here, pid=dead(), started=1).encode())
    (target.directory.path / f"{here.base}.part.ckpt").write_bytes(b"x" * 8192)
    digest = hashlib.sha256(DATA).hexdigest()
    with object_server() as server:
        assert fastxfer.verify(target.final, f"sha256:{digest}", repair=server.url()).ok
    assert names(target) == {"data.bin"}
