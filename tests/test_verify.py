"""`verify` and `keep_ledger`: real damage is found to the chunk, and repaired by fetching no more."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastxfer
from fastxfer.storage import kept
from fastxfer.storage.left import stored_checkpoint
from fastxfer.storage.paths import target_of
from tests.cli.command import claimed, wait_until
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer, Request

MIB = 1024**2
CHUNK = 256 * 1024
SIZE = 8 * MIB + 12345
CHUNKS = -(-SIZE // CHUNK)
LAST = SIZE - SIZE % CHUNK
DEADLINE_S = 60.0
DATA = make_bytes(SIZE, 3)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
QUICK: dict[str, Any] = {"retries": 1, "connect_timeout": 5, "stall_timeout": 5}


@pytest.fixture
def handler() -> RangeHandler:
    return RangeHandler(DATA)


@pytest.fixture
def server(handler: RangeHandler) -> Iterator[RawServer]:
    with RawServer(handler) as running:
        yield running


@pytest.fixture
def out(server: RawServer, tmp_path: Path) -> Path:
    """A finished file with its ledger, fetched from `server`, which has forgotten that."""
    fastxfer.fetch(server.url(), tmp_path / "out", keep_ledger=True)
    server.requests.clear()
    return tmp_path / "out"


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def snapshot(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Returns everything in a directory: bytes, time and inode."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in directory.iterdir()
    }


def flip(path: Path, *offsets: int) -> None:
    """Changes one bit of the byte at each offset."""
    with path.open("r+b", buffering=0) as file:
        for offset in offsets:
            byte = os.pread(file.fileno(), 1, offset)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def chunk(first: int, last: int | None = None) -> tuple[int, int]:
    """Returns the range of chunks, both included."""
    return first * CHUNK, min(SIZE, ((first if last is None else last) + 1) * CHUNK)


def asked(requests: list[Request]) -> list[tuple[int, int]]:
    """Returns the ranges that were asked for, but for the probe's one byte, joined and in order."""
    spans = []
    for request in requests:
        begin, _, end = request.range.removeprefix("bytes=").partition("-")
        if (begin, end) != ("0", "0"):
            spans.append((int(begin), int(end) + 1))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


EVERY_THIRD = list(range(1, CHUNKS, 3))
DAMAGES: dict[str, tuple[Callable[[Path], object], list[tuple[int, int]]]] = {
    "first byte": (lambda path: flip(path, 0), [chunk(0)]),
    "a middle byte": (lambda path: flip(path, 17 * CHUNK + 5), [chunk(17)]),
    "last byte": (lambda path: flip(path, SIZE - 1), [(LAST, SIZE)]),
    "first, middle and last": (
        lambda path: flip(path, 9, 5 * MIB, SIZE - 2), [chunk(0), chunk(20), (LAST, SIZE)]
    ),
    "neighbours": (lambda path: flip(path, 3 * CHUNK, 5 * CHUNK - 1), [chunk(3, 4)]),
    "many": (lambda path: flip(path, *[i * CHUNK + i for i in EVERY_THIRD]), [chunk(i) for i in EVERY_THIRD]),
    "a page of zeros": (lambda path: overwrite(path, 4096 * 100, bytes(4096)), [chunk(1)]),
    "cut": (lambda path: os.truncate(path, 5 * CHUNK + 1), [(5 * CHUNK, SIZE)]),
    "cut at a boundary": (lambda path: os.truncate(path, 5 * CHUNK), [(5 * CHUNK, SIZE)]),
    "cut by a byte": (lambda path: os.truncate(path, SIZE - 1), [(LAST, SIZE)]),
    "longer": (lambda path: overwrite(path, SIZE, b"more"), [(SIZE, SIZE + 4)]),
    "longer and damaged at its end": (
        lambda path: overwrite(path, SIZE - 1, bytes([DATA[-1] ^ 1]) + b"more"),
        [(LAST, SIZE + 4)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_to_the_chunk_and_repaired_by_fetching_no_more(
    server: RawServer, out: Path, damage: str
) -> None:
    harm, bad = DAMAGES[damage]
    harm(out)
    before = snapshot(out.parent)
    found = fastxfer.verify(out)
    assert (found.ok, found.verified, found.bad, found.repaired) == (False, "ledger", bad, 0)
    assert snapshot(out.parent) == before
    assert server.requests == []
    mended = fastxfer.verify(out, repair=server.url())
    to_fetch = [(start, min(stop, SIZE)) for start, stop in bad if start < SIZE]
    assert (mended.ok, mended.bad, mended.mended) == (True, [], bad)
    assert mended.repaired == sum(stop - start for start, stop in to_fetch)
    assert asked(server.requests) == to_fetch
    assert out.read_bytes() == DATA
    assert names(out) == ["out", "out.fxsum"]
    again = fastxfer.verify(out)
    assert (again.ok, again.verified, again.bad, again.chunks) == (True, "ledger", [], CHUNKS)


def test_a_real_server_sends_the_bad_ranges_only(own_nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing, out = objects.make(40 * MIB, seed=5), tmp_path / "out"
    fastxfer.fetch(own_nginx.url(thing.name), out, keep_ledger=True)
    flip(out, 7 * MIB, 33 * MIB)
    own_nginx.forget()
    result = fastxfer.verify(out, f"sha256:{thing.sha256}", repair=own_nginx.url(thing.name))
    assert (result.ok, result.verified, result.repaired) == (True, "checksum", 2 * CHUNK)
    assert result.mended == [(7 * MIB, 7 * MIB + CHUNK), (33 * MIB, 33 * MIB + CHUNK)]
    sent = [entry.body_bytes for entry in own_nginx.requests(thing.name, count=3)]
    assert sum(sent) == 2 * CHUNK + 1, "and the probe's one byte"
    assert result.checksums["sha256"] == thing.sha256
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256


def test_what_holds_is_not_fetched(server: RawServer, out: Path) -> None:
    before = snapshot(out.parent)
    result = fastxfer.verify(out, repair="http://127.0.0.1:9/nothing-listens-here")
    assert (result.ok, result.verified, result.repaired, result.notes) == (True, "ledger", 0, ())
    assert snapshot(out.parent) == before


def test_another_file_under_the_name_differs_as_a_whole(server: RawServer, out: Path) -> None:
    for other in (make_bytes(SIZE, 4), make_bytes(SIZE // 2, 4), b"", make_bytes(2 * SIZE, 4)):
        out.unlink()
        out.write_bytes(other)
        result = fastxfer.verify(out)
        assert (result.ok, result.bad) == (False, [(0, max(SIZE, len(other)))])
        assert any("another file" in note for note in result.notes)
        mended = fastxfer.verify(out, repair=server.url())
        assert (mended.ok, mended.repaired) == (True, SIZE)
        assert out.read_bytes() == DATA
        assert fastxfer.verify(out).ok, "the ledger was kept up"


# ---- checksums ----


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no-ledger"])
def test_every_checksum_that_fetch_knows_is_verified(out: Path, ledger: bool) -> None:
    if not ledger:
        Path(f"{out}.fxsum").unlink()
    every = fastxfer.verify(out, {name: "0" * length for name, length in LENGTHS.items()})
    assert (every.ok, every.verified, every.bad) == (False, "checksum", [(0, SIZE)])
    assert set(every.checksums) == set(LENGTHS) | {"crc64nvme"}
    for name in ("md5", "sha1", "sha256", "sha512"):
        assert every.checksums[name] == hashlib.new(name, DATA).hexdigest()
    right = fastxfer.verify(out, {name: every.checksums[name] for name in LENGTHS})
    assert (right.ok, right.verified, right.bad) == (True, "checksum", [])


LENGTHS = {
    "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "blake3": 64,
    "crc32c": 8, "crc64nvme": 16, "crc64xz": 16,
}  # fmt: skip


def test_one_wrong_checksum_of_two_is_named(out: Path) -> None:
    wrong = {"sha256": SHA256.partition(":")[2], "md5": "0" * 32}
    result = fastxfer.verify(out, wrong)
    assert not result.ok
    assert [note for note in result.notes if "its md5 is" in note and "0" * 32 in note]
    assert not [note for note in result.notes if "its sha256 is" in note]
    assert any("its ledger holds" in note for note in result.notes)


def test_with_a_checksum_only_the_whole_is_fetched(server: RawServer, out: Path) -> None:
    Path(f"{out}.fxsum").unlink()
    flip(out, 5)
    found = fastxfer.verify(out, SHA256)
    assert (found.ok, found.verified, found.bad) == (False, "checksum", [(0, SIZE)])
    mended = fastxfer.verify(out, SHA256, repair=server.url())
    assert (mended.ok, mended.repaired) == (True, SIZE)
    assert any("the whole was fetched" in note for note in mended.notes)
    assert out.read_bytes() == DATA


def test_a_wrong_checksum_takes_nothing_away(server: RawServer, out: Path) -> None:
    with pytest.raises(fastxfer.ChecksumError):
        fastxfer.verify(out, f"sha256:{'0' * 64}", repair=server.url(), **QUICK)
    assert out.read_bytes() == DATA
    assert fastxfer.verify(out).ok


def test_a_checksum_that_holds_counts_more_than_a_ledger(server: RawServer, out: Path) -> None:
    other = make_bytes(SIZE, 8)
    out.write_bytes(other)
    result = fastxfer.verify(out, f"sha256:{hashlib.sha256(other).hexdigest()}", repair=server.url())
    assert (result.ok, result.verified, result.bad, result.repaired) == (True, "checksum", [], 0)
    assert any("out.fxsum is not of this file" in note for note in result.notes)
    assert server.requests == []
    assert out.read_bytes() == other


def test_with_nothing_to_hold_it_against_nothing_is_said_to_be_ok(server: RawServer, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"anything")
    result = fastxfer.verify(tmp_path / "out", repair=server.url())
    assert (result.ok, result.verified, result.bad, result.size) == (False, "none", [], 8)
    assert "keep_ledger" in result.notes[0]
    assert server.requests == []


# ---- a part file ----


@pytest.fixture
def half(server: RawServer, tmp_path: Path) -> Path:
    """A target of which a fetch that was stopped left a part."""
    reached = threading.Event()
    with fastxfer.start(
        server.url(), tmp_path / "out", 2, max_rate="4M",
        progress=lambda now: reached.set() if now.done > 3 * MIB else None,
    ):  # fmt: skip
        assert reached.wait(DEADLINE_S)
    server.requests.clear()
    return tmp_path / "out"


def first_claim(out: Path) -> int:
    """Returns where the first chunk begins that the checkpoint claims."""
    stored = stored_checkpoint(target_of(out))
    assert stored is not None
    bits = int.from_bytes(stored.claimed, "little")
    return ((bits & -bits).bit_length() - 1) * CHUNK


@pytest.mark.parametrize("suffix", ["", ".part", ".part.ckpt"])
def test_a_part_file_is_held_against_its_checkpoint_and_left_alone(half: Path, suffix: str) -> None:
    before = snapshot(half.parent)
    sound = fastxfer.verify(f"{half}{suffix}", SHA256)
    assert (sound.ok, sound.verified, sound.bad, sound.complete) == (True, "ledger", [], False)
    assert sound.missing and sound.chunks > 0
    assert any("checksum is of the whole" in note for note in sound.notes)
    assert snapshot(half.parent) == before
    hit = first_claim(half)
    flip(Path(f"{half}.part"), hit + 100)
    before = snapshot(half.parent)
    found = fastxfer.verify(f"{half}{suffix}")
    assert (found.ok, found.bad, found.missing) == (False, [(hit, hit + CHUNK)], sound.missing)
    assert snapshot(half.parent) == before


def test_a_byte_before_the_end_of_an_unfinished_chunk_is_looked_at(half: Path) -> None:
    stored = stored_checkpoint(target_of(half))
    assert stored is not None and stored.partials
    pos = stored.partials[0][0]
    flip(Path(f"{half}.part"), pos - 1)
    assert (pos - pos % CHUNK, pos) in fastxfer.verify(half).bad


def test_a_repair_of_a_part_file_finishes_it(server: RawServer, half: Path) -> None:
    hit = first_claim(half)
    flip(Path(f"{half}.part"), hit)
    missing = fastxfer.verify(half).missing
    result = fastxfer.verify(half, repair=server.url(), checksum=SHA256)
    assert (result.ok, result.complete, result.path) == (True, True, str(half))
    assert (hit, hit + CHUNK) not in missing
    assert result.repaired < SIZE - CHUNK
    assert sum(stop - start for start, stop in result.mended) == CHUNK + sum(b - a for a, b in missing)
    assert half.read_bytes() == DATA
    assert names(half) == ["out"]


def test_a_running_transfer_is_not_disturbed(
    server: RawServer, handler: RangeHandler, tmp_path: Path
) -> None:
    gate, moving = threading.Event(), threading.Event()
    handler.faults = lambda request: Fault(stall_at=SIZE // 2, until=gate)
    watch = lambda now: moving.set() if now.done else None  # noqa: E731
    transfer = fastxfer.start(server.url(), tmp_path / "out", 4, progress=watch)
    try:
        assert moving.wait(DEADLINE_S)
        for repair in (None, server.url()):
            with pytest.raises(fastxfer.TargetBusyError):
                fastxfer.verify(tmp_path / "out", repair=repair)
    finally:
        gate.set()
    transfer.wait(DEADLINE_S)
    assert (tmp_path / "out").read_bytes() == DATA


def test_two_may_verify_a_part_file_at_once(half: Path) -> None:
    with Path(f"{half}.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as another verification holds it
        assert fastxfer.verify(half).ok
        with pytest.raises(fastxfer.TargetBusyError):
            fastxfer.verify(half, repair="http://127.0.0.1:9/nothing-listens-here")
        fcntl.flock(file, fcntl.LOCK_EX)  # none is left by one that ended


def test_a_part_without_a_checkpoint_is_not_judged(half: Path) -> None:
    os.unlink(f"{half}.part.ckpt")
    result = fastxfer.verify(half, SHA256)
    assert (result.ok, result.verified) == (False, "none")
    assert any("run the fetch again" in note for note in result.notes)


def test_the_file_itself_is_verified_while_a_newer_one_is_on_its_way(half: Path) -> None:
    half.write_bytes(DATA)
    assert fastxfer.verify(half, SHA256).path == str(half)
    assert fastxfer.verify(f"{half}.part").path == f"{half}.part"


# ---- bad input ----


@pytest.mark.parametrize("name", ["nothing", "no/such/directory", "nothing.part"])
def test_no_such_file_is_17(tmp_path: Path, name: str) -> None:
    with pytest.raises(fastxfer.StorageError) as caught:
        fastxfer.verify(tmp_path / name)
    assert caught.value.exit_code == 17


def test_what_is_no_regular_file_is_17(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(fastxfer.StorageError) as caught:
            fastxfer.verify(path)
        assert caught.value.exit_code == 17


@pytest.mark.parametrize("option", ["resume", "exists", "on_change", "chunk_size", "keep_ledger", "no_such"])
def test_an_option_that_it_has_no_use_for_is_refused(out: Path, option: str) -> None:
    with pytest.raises(TypeError, match=option):
        fastxfer.verify(out, **{option: None})  # type: ignore[arg-type]  # of a name that is not known here
    with pytest.raises(fastxfer.OptionError):
        fastxfer.verify(out, repair="ftp://host/x")
    with pytest.raises(fastxfer.OptionError):
        fastxfer.verify(out, "sha256:short")


def test_what_is_no_ledger_is_8_and_a_hint(out: Path) -> None:
    for content in (b"", b"hello", bytes(8192), DATA[:90112], Path(f"{out}.fxsum").read_bytes()[:4096]):
        Path(f"{out}.fxsum").write_bytes(content)
        with pytest.raises(fastxfer.CheckpointError, match="is not a ledger that can be used") as caught:
            fastxfer.verify(out)
        assert caught.value.exit_code == 8
    with Path(f"{out}.fxsum").open("r+b") as file:
        file.truncate(1024**3 + 2**20)
    with pytest.raises(fastxfer.CheckpointError, match="too large"):
        fastxfer.verify(out)


def test_a_checkpoint_is_not_taken_for_a_ledger(half: Path) -> None:
    half.write_bytes(DATA)
    os.rename(f"{half}.part.ckpt", f"{half}.fxsum")
    with pytest.raises(fastxfer.CheckpointError, match="not of a whole object"):
        fastxfer.verify(half)


def test_a_ledger_made_by_someone_who_took_pains_does_no_harm(server: RawServer, out: Path) -> None:
    target, right = target_of(out), stored(out)
    kept.replace_one(target, replace(right, crc64=1), durable=False)
    with pytest.raises(fastxfer.CheckpointError, match="contradicts itself"):
        fastxfer.verify(out)
    every = {"durable": b"\1", "claimed": b"\1", "crcs": bytes(8)}
    huge = replace(right, identity=replace(right.identity, size=2**63 - 1), chunk_size=2**63 - 1, **every)
    kept.replace_one(target, huge, durable=False)
    assert fastxfer.verify(out).bad == [(0, 2**63 - 1)]
    with pytest.raises(fastxfer.RemoteChangedError):
        fastxfer.verify(out, repair=server.url())
    many = 2**20
    tiny = replace(
        right,
        identity=replace(right.identity, size=many),
        chunk_size=1,
        durable=b"\xff" * (many // 8),
        claimed=b"\xff" * (many // 8),
        crcs=bytes(8 * many),
    )
    kept.replace_one(target, tiny, durable=False)
    assert fastxfer.verify(out).bad == [(0, SIZE)]
    assert out.read_bytes() == DATA


def test_damage_to_one_slot_of_the_ledger_loses_nothing(out: Path) -> None:
    ledger = Path(f"{out}.fxsum")
    half_way = ledger.stat().st_size // 2
    for offset in (0, 70, half_way, half_way + 200):
        flip(ledger, offset)
        assert fastxfer.verify(out).ok
        flip(ledger, offset)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_ledger_is_an_error_or_the_truth(out: Path, data: st.DataObject) -> None:
    ledger = Path(f"{out}.fxsum")
    copy = ledger.with_name("copy")
    if not copy.exists():
        copy.write_bytes(ledger.read_bytes())
    content = bytearray(copy.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        with_this = data.draw(st.binary(min_size=1, max_size=64))
        for base in (0, len(content) // 2) if data.draw(st.booleans()) else (0,):
            content[base + at % (len(content) // 2) :][: len(with_this)] = with_this
            content[at : at + len(with_this)] = with_this
    ledger.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert fastxfer.verify(out).ok
    except fastxfer.CheckpointError:
        pass


# ---- a repair that does not come to its end ----


def test_another_object_touches_nothing(server: RawServer, handler: RangeHandler, out: Path) -> None:
    flip(out, 5 * CHUNK)
    before = snapshot(out.parent)
    was = handler.content
    for content in (
        replace(was, etag='"v2"'),
        replace(was, last_modified="Thu, 02 Jan 2025 00:00:00 GMT"),
        replace(was, data=DATA[:-1]),
        replace(was, data=DATA + b"x"),
    ):
        handler.content = content
        with pytest.raises(fastxfer.RemoteChangedError) as caught:
            fastxfer.verify(out, repair=server.url(), **QUICK)
        assert caught.value.exit_code == 33
        assert snapshot(out.parent) == before


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_server_that_refuses_touches_nothing(
    server: RawServer, handler: RangeHandler, out: Path, status: int
) -> None:
    handler.faults = lambda request: Fault(status=status)
    flip(out, 0)
    before = snapshot(out.parent)
    with pytest.raises(fastxfer.HTTPStatusError):
        fastxfer.verify(out, repair=server.url(), retries=0)
    assert snapshot(out.parent) == before


def after(number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """Returns a choice of faults: `fault` for all requests after that one."""
    return lambda request: fault if request.number > number else None


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_repair_that_fails_before_a_byte_gives_the_file_its_name_back(
    server: RawServer, handler: RangeHandler, out: Path, damage: str
) -> None:
    flip(out, 0) if damage == "flip" else os.truncate(out, 3 * CHUNK)
    before = out.read_bytes()
    for fault in (Fault(status=404), Fault(cut_after=0, reset=True), Fault(cut_after=0)):
        asked_before = len(server.requests)
        handler.faults = after(asked_before, fault)
        with pytest.raises(fastxfer.FastxferError):
            fastxfer.verify(out, repair=server.url(), retries=0)
        assert names(out) == ["out", "out.fxsum"]
        assert out.read_bytes() == before
    handler.faults = lambda request: None
    assert fastxfer.verify(out, repair=server.url()).ok
    assert out.read_bytes() == DATA


def test_a_server_with_other_bytes_under_the_same_etag_does_not_mend(server: RawServer, out: Path) -> None:
    liar = RangeHandler(make_bytes(SIZE, 77))
    flip(out, 2 * CHUNK, 9 * CHUNK)
    with RawServer(liar) as other, pytest.raises(fastxfer.ChecksumError) as caught:
        fastxfer.verify(out, repair=other.url(), **QUICK)
    assert caught.value.exit_code == 32
    assert names(out) == ["out.fxsum", "out.part", "out.part.ckpt"], "no wrong byte under the final name"
    found = fastxfer.verify(out)
    assert found.bad == [chunk(2), chunk(9)], "what it gave is told from what was there"
    mended = fastxfer.verify(out, repair=server.url())
    assert (mended.ok, mended.repaired) == (True, 2 * CHUNK), "and nothing that was good is lost"
    assert out.read_bytes() == DATA
    assert names(out) == ["out", "out.fxsum"]


def test_a_server_without_ranges_gives_the_whole(server: RawServer, handler: RangeHandler, out: Path) -> None:
    handler.ranges = False
    flip(out, CHUNK)
    result = fastxfer.verify(out, repair=server.url())
    assert (result.ok, result.repaired) == (True, SIZE)
    assert any("does not send ranges" in note for note in result.notes)
    assert out.read_bytes() == DATA
    assert fastxfer.verify(out).ok


def test_a_file_with_another_name_is_not_mended_in_place(server: RawServer, out: Path) -> None:
    flip(out, 0)
    os.link(out, out.with_name("backup"))
    before = snapshot(out.parent)
    with pytest.raises(fastxfer.StorageError, match="hard link"):
        fastxfer.verify(out, repair=server.url())
    assert snapshot(out.parent) == before


def test_an_unfinished_update_is_not_run_over(server: RawServer, out: Path) -> None:
    flip(out, 0)
    (out.parent / "out.part").write_bytes(b"the beginning of a newer version")
    before = snapshot(out.parent)
    with pytest.raises(fastxfer.StorageError, match="unfinished transfer"):
        fastxfer.verify(out, repair=server.url())
    assert snapshot(out.parent) == before


def test_a_ledger_without_validators_is_held_by_its_crc(tmp_path: Path) -> None:
    handler = RangeHandler(DATA, etag=None, last_modified=None)
    out = tmp_path / "out"
    with RawServer(handler) as server:
        fastxfer.fetch(server.url(), out, keep_ledger=True)
        flip(out, 3)
        result = fastxfer.verify(out, repair=server.url("/elsewhere?signature=new"))
        assert (result.ok, result.repaired) == (True, CHUNK)
        handler.replace(make_bytes(SIZE, 6), etag=None)
        flip(out, 3)
        with pytest.raises(fastxfer.ChecksumError):
            fastxfer.verify(out, repair=server.url(), **QUICK)
    assert not out.exists()


# ---- kills ----

# A child that is killed at the very moment of its nth change to the file system (0: never).
KILLED = """
import json, os, signal, sys
import fastxfer
left, call, arguments = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.link", "os.remove", "os.truncate", "os.utime", "os.setxattr", "fcntl.flock")

def watch(event, given):
    global left
    if event in CHANGES or (event == "open" and str(given[0]).startswith("out") and given[2] & WRITES):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
getattr(fastxfer, call)(**arguments)
print(-left)
"""


def killed_at(nth: int, call: str, **arguments: Any) -> bool:
    """Runs a call in a child that is killed at its nth change; returns False when it did not come to that."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(nth), call, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode == 0:
        return False
    assert done.returncode == -signal.SIGKILL, done.stderr
    return True


@pytest.mark.parametrize("how", ["verify", "fetch"])
def test_a_repair_that_is_killed_at_any_step_goes_on(server: RawServer, tmp_path: Path, how: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    fastxfer.fetch(server.url(), whole / "out", keep_ledger=True)
    ledger = (whole / "out.fxsum").read_bytes()
    kills, in_part = 0, 0
    for nth in range(1, 100):
        out = tmp_path / f"{nth}" / "out"
        out.parent.mkdir()
        out.write_bytes(DATA)
        flip(out, 7, 20 * CHUNK)
        damaged = out.read_bytes()
        Path(f"{out}.fxsum").write_bytes(ledger)
        if not killed_at(nth, "verify", path=str(out), repair=server.url(), **QUICK):
            assert out.read_bytes() == DATA
            break
        kills += 1
        if out.exists():
            assert out.read_bytes() in (damaged, DATA)
        else:
            in_part += 1
            assert fastxfer.verify(out).ok, "what the checkpoint claims holds"
        if how == "verify":
            assert fastxfer.verify(out, repair=server.url()).ok
        else:
            result = fastxfer.fetch(server.url(), out, exists="update")
            assert not in_part or result.resumed > SIZE // 2 or result.skipped
        assert out.read_bytes() == DATA
        assert names(out) == ["out", "out.fxsum"]
        assert fastxfer.verify(out).ok
    else:
        pytest.fail("it never came to its end")
    assert kills > 12
    assert in_part > 4


def test_a_ledger_never_stands_beside_a_file_that_it_is_not_of(
    server: RawServer, handler: RangeHandler, tmp_path: Path
) -> None:
    old = make_bytes(SIZE, 40)
    kills, sound = 0, 0
    for nth in range(1, 100):
        out = tmp_path / f"{nth}" / "out"
        out.parent.mkdir()
        handler.replace(old, etag='"old"')
        fastxfer.fetch(server.url(), out, keep_ledger=True)
        handler.replace(DATA, etag='"new"')
        if not killed_at(nth, "fetch", url=server.url(), out=str(out), exists="replace", **QUICK):
            break
        kills += 1
        assert out.read_bytes() in (old, DATA)
        now = fastxfer.verify(out)
        assert now.bad == []
        sound += now.ok
        fastxfer.fetch(server.url(), out)
        assert out.read_bytes() == DATA
        again = fastxfer.verify(out)
        assert again.bad == []
        assert again.ok
        assert names(out) == ["out", "out.fxsum"]
    else:
        pytest.fail("it never came to its end")
    assert out.read_bytes() == DATA
    assert fastxfer.verify(out).ok
    assert kills > 8
    assert sound > 5


def test_a_repair_that_is_killed_half_way_keeps_what_it_fetched(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing, out = objects.make(8 * MIB, seed=5), tmp_path / "out"
    fastxfer.fetch(nginx.url(thing.name), out, keep_ledger=True)
    flip(out, *range(0, 8 * MIB - CHUNK, CHUNK))
    program = "import sys, fastxfer; fastxfer.verify(sys.argv[1], repair=sys.argv[2], connections=4)"
    slow = nginx.url(thing.name, prefix="/slow256k")
    with subprocess.Popen([sys.executable, "-c", program, str(out), slow]) as process:
        try:
            wait_until(lambda: claimed(out) > 2 * MIB)
        finally:
            process.kill()
    assert not out.exists()
    part = fastxfer.verify(out)
    assert (part.ok, part.complete) == (True, False)
    result = fastxfer.verify(out, repair=nginx.url(thing.name))
    assert result.ok
    assert 0 < result.repaired < 7 * MIB
    assert hashlib.sha256(out.read_bytes()).hexdigest() == thing.sha256
    assert names(out) == ["out", "out.fxsum"]


# ---- keep_ledger ----


def stored(out: Path) -> Any:
    target = target_of(out)
    found = kept.read(target.directory, target.ledger_name)
    assert found is not None
    return found


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK, CHUNK + 1, MIB, 3 * MIB + 1])
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "one-stream"])
def test_a_ledger_is_kept_of_every_size(tmp_path: Path, size: int, ranges: bool) -> None:
    data, out = make_bytes(size, 2), tmp_path / "out"
    with RawServer(RangeHandler(data, ranges=ranges)) as server:
        result = fastxfer.fetch(server.url(), out, keep_ledger=True)
        made = stored(out)
        assert (made.identity.size, made.identity.etag) == (size, '"v1"')
        assert f"{made.crc64:016x}" == result.checksums["crc64nvme"]
        assert names(out) == ["out", "out.fxsum"]
        assert fastxfer.verify(out).ok
        overwrite(out, size, b"x")
        assert fastxfer.verify(out).bad == [(size, size + 1)]
        assert fastxfer.verify(out, repair=server.url()).ok
        assert out.read_bytes() == data


def test_a_ledger_is_kept_of_a_stream_of_unknown_size(tmp_path: Path) -> None:
    def chunked(_request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Transfer-Encoding": "chunked"})
        for at in range(0, SIZE, 100_000):
            piece = DATA[at : at + 100_000]
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.send(b"0\r\n\r\n")

    out = tmp_path / "out"
    with RawServer(chunked) as server:
        fastxfer.fetch(server.url(), out, keep_ledger=True)
        assert out.read_bytes() == DATA
        assert stored(out).chunks == CHUNKS
        assert fastxfer.verify(out).ok
        flip(out, SIZE - 1)
        assert fastxfer.verify(out).bad == [(LAST, SIZE)]
        assert fastxfer.verify(out, repair=server.url()).ok
    assert out.read_bytes() == DATA


def test_a_ledger_that_is_there_is_kept_up_unasked(
    server: RawServer, handler: RangeHandler, out: Path
) -> None:
    new = make_bytes(5 * MIB, 50)
    handler.replace(new, etag='"new"')
    fastxfer.fetch(server.url(), out)
    assert out.read_bytes() == new
    assert fastxfer.verify(out).ok
    assert stored(out).identity.etag == '"new"'


def test_somebody_elses_file_of_that_name_is_left_alone(server: RawServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Path(f"{out}.fxsum").write_text("notes of mine")
    with pytest.raises(fastxfer.StorageError, match="a file is there that is none"):
        fastxfer.fetch(server.url(), out, keep_ledger=True)
    assert server.requests == []
    fastxfer.fetch(server.url(), out)
    assert Path(f"{out}.fxsum").read_text() == "notes of mine"
    Path(f"{out}.fxsum").unlink()
    Path(f"{out}.fxsum").mkdir()
    with pytest.raises(fastxfer.StorageError, match="a directory"):
        fastxfer.fetch(server.url(), out, exists="replace", keep_ledger=True)
    fastxfer.fetch(server.url(), out, exists="replace")
    assert out.read_bytes() == DATA


@pytest.mark.parametrize("exists", ["update", "skip"])
def test_no_ledger_is_made_of_a_file_that_nothing_proves(server: RawServer, out: Path, exists: str) -> None:
    Path(f"{out}.fxsum").unlink()
    result = fastxfer.fetch(server.url(), out, exists=exists, keep_ledger=True)
    assert result.skipped
    assert any("no ledger" in note for note in result.notes)
    assert names(out) == ["out"]


def test_a_ledger_is_made_of_a_file_whose_checksum_holds(server: RawServer, out: Path) -> None:
    for stale in (None, bytes(8192)):
        Path(f"{out}.fxsum").unlink() if stale is None else None
        result = fastxfer.fetch(server.url(), out, checksum=SHA256, keep_ledger=True)
        assert (result.skipped, result.notes) == (True, ())
        assert names(out) == ["out", "out.fxsum"]
        assert fastxfer.verify(out).ok
    flip(out, 0)
    assert fastxfer.verify(out, repair=server.url()).repaired == CHUNK


def test_no_secret_is_kept_or_told(tmp_path: Path) -> None:
    canary, out = "c4n4ry7s3cr3t", tmp_path / "out"
    with RawServer(RangeHandler(DATA)) as server:
        url = server.url(f"/object?signature={canary}").replace("//", f"//{canary}:{canary}@")
        fastxfer.fetch(url, out, keep_ledger=True)
        flip(out, 0)
        result = fastxfer.verify(out, repair=url, headers={"X-Auth": canary})
    with pytest.raises(fastxfer.FastxferError) as caught:
        flip(out, 0)
        fastxfer.verify(out, repair=url, retries=0)
    told = [repr(result), str(result), json.dumps(result.to_dict()), repr(caught.value), str(caught.value)]
    assert canary not in "".join(told)
    assert all(canary.encode() not in path.read_bytes() for path in tmp_path.iterdir())


# ---- how it goes ----


def test_progress_counts_what_is_read(out: Path) -> None:
    told: list[fastxfer.Progress] = []
    fastxfer.verify(out, SHA256, progress=told.append)
    assert (told[-1].state, told[-1].done, told[-1].size) == ("done", SIZE, SIZE)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert told[-1].url.endswith("/out")


ENDLESS = """
import signal, sys, fastxfer
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever those who started the tests ignore
def tell(now):
    if now.done:
        print(now.done, flush=True)
fastxfer.verify(sys.argv[1], "sha512:" + "0" * 128, progress=tell)
"""


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    os.truncate(os.open(tmp_path / "huge", os.O_CREAT | os.O_WRONLY), 2**40)
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path / "huge")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()
        assert process.stderr is not None
        assert b"KeyboardInterrupt" in process.stderr.read()


MEMORY = """
import resource, sys, fastxfer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = fastxfer.verify(sys.argv[1])
assert result.ok, result
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file_or_its_chunks(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing, out = objects.make(256 * MIB), tmp_path / "out"
    fastxfer.fetch(nginx.url(thing.name), out, keep_ledger=True, chunk_size="1G")
    told = subprocess.run(
        [sys.executable, "-c", MEMORY, str(out)],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert int(told.stdout) < 48 * 1024, "KiB: a block a thread"


def test_a_file_that_is_written_to_meanwhile_is_not_judged(out: Path) -> None:
    thing = Path(f"{out}.big")
    with thing.open("wb") as file:
        file.truncate(2**36)
    written = threading.Event()

    def write(now: fastxfer.Progress) -> None:
        if now.done and not written.is_set():
            os.truncate(thing, 2**27)
            written.set()

    with pytest.raises(fastxfer.TargetBusyError, match="changed while it was read"):
        fastxfer.verify(thing, f"sha512:{'0' * 128}", progress=write)


def test_the_result_prints_and_turns_into_json(out: Path, nginx: Nginx) -> None:
    flip(out, 0)
    result = fastxfer.verify(out)
    assert "damaged, 256 KiB of 8.0 MiB in 1 range does not hold against its ledger" in str(result)
    told = json.loads(json.dumps(result.to_dict()))
    assert told["bad"] == [[0, CHUNK]]
    assert set(told) >= {
        "path",
        "size",
        "ok",
        "verified",
        "chunks",
        "checksums",
        "repaired",
        "elapsed",
        "notes",
    }
    with pytest.raises(AttributeError):
        result.ok = True  # type: ignore[misc]
