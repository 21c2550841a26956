"""Copies whose source, or store, fails or lies in the midst: the right object, or a typed error, and never a
mix.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastxfer._native.checksum import crc64nvme
from fastxfer.copying import begin_copy
from fastxfer.errors import (
    AuthError,
    BadResponseError,
    ChecksumError,
    FastxferError,
    InterruptedTransferError,
    NetworkError,
    NotFoundError,
    OverloadedError,
    RangeError,
    RemoteChangedError,
    ServerError,
    StoreAuthError,
    StoreServerError,
    TransferTimeoutError,
)
from fastxfer.upload_store import base64_of
from tests.servers.gateway import Call
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.proxy import INTERNAL_ERROR, SLOW_DOWN, Harm, Proxy
from tests.servers.raw import Connection, Content, Fault, RangeHandler, Request
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.copying import DATA, OTHER, CopyRig, copy, of_source
from tests.stores.putting import MIB, OSS_PART, S3_PART, options, url
from tests.stores.rig import PARTS, nothing

ALL = list(range(1, PARTS + 1))


@pytest.fixture
def rig(small: Store, tmp_path: Path) -> Iterator[CopyRig]:
    with CopyRig(small, tmp_path / "kept") as made:
        yield made


def part_of(request: Request) -> int:
    """Returns the number of the part that a range begins, 0 for the first look."""
    if not request.range or request.range == "bytes=0-0":
        return 0
    return int(request.range.partition("=")[2].partition("-")[0]) // OSS_PART + 1


def once(part: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """Returns what does this to the first request for a part."""
    done: list[int] = []

    def chosen(request: Request) -> Fault | None:
        if part_of(request) != part or done:
            return None
        done.append(part)
        return fault

    return chosen


def always(part: int, fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if part_of(request) == part else None


def failed(rig: CopyRig, kind: type[FastxferError], **more: Any) -> Any:
    """Copies, and returns the error of this class; no object came of it."""
    with pytest.raises(kind) as caught:
        rig.copy(**{"retries": 2, **more})
    assert type(caught.value) is kind
    assert rig.truth.head("o") is None
    assert "secret" not in str(caught.value) and "secret" not in str(caught.value.to_dict())
    return caught.value


# ---- the source ----


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=0),
        Fault(cut_after=50_000),
        Fault(cut_after=70_001, reset=True),
        Fault(status=500),
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(status=429),
        Fault(status=200),
        Fault(status=416, headers={"Content-Range": f"bytes */{len(DATA)}"}),
    ],
)
def test_a_part_that_does_not_come_once_is_asked_for_again(rig: CopyRig, fault: Fault) -> None:
    rig.source.faults = once(3, fault)
    result = rig.copy_right()
    assert rig.parts_sent() == ALL and result.verified == "etag"
    assert sum(part_of(each) == 3 for each in rig.asked) == 2


def test_what_has_come_of_a_part_is_not_asked_for_again(rig: CopyRig) -> None:
    rig.source.faults = once(3, Fault(cut_after=70_001))
    rig.copy_right()
    spans = [each.range for each in rig.asked if part_of(each) == 3]
    start = 2 * OSS_PART
    stop = start + OSS_PART - 1
    assert spans == [f"bytes={start}-{stop}", f"bytes={start + 70_001}-{stop}"]


def test_a_source_that_cuts_again_and_again_is_read_to_its_end(rig: CopyRig) -> None:
    rig.source = RangeHandler(make_bytes(2 * MIB, 4), faults=lambda request: Fault(cut_after=100_000))
    rig.copy_right(part_size="1M", retries=2)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Fault(status=500), ServerError, 22),
        (Fault(status=503), OverloadedError, 29),
        (Fault(status=403), AuthError, 24),
        (Fault(status=404), NotFoundError, 3),
        (Fault(cut_after=10), NetworkError, 6),
        (Fault(cut_after=10, reset=True), NetworkError, 6),
        (Fault(status=200), RangeError, 22),
    ],
)
def test_a_part_that_never_comes_is_an_error(
    rig: CopyRig, fault: Fault, kind: type[FastxferError], code: int
) -> None:
    rig.source.faults = always(4, fault)
    error = failed(rig, kind)
    assert error.exit_code == code and "part 4" in str(error) and "run it again to go on" in error.kept
    rig.source.faults = lambda request: None
    result = rig.copy_right()
    assert result.parts_resumed >= 1 and result.parts_resumed + result.parts_sent == PARTS


def test_a_source_that_stalls_is_asked_again(rig: CopyRig) -> None:
    rig.source.faults = once(2, Fault(stall_at=OSS_PART + 1000))
    rig.copy_right(stall_timeout=0.7)
    rig.source.faults = always(2, Fault(stall_at=OSS_PART))
    rig.truth.delete("o")
    assert failed(rig, TransferTimeoutError, stall_timeout=0.5, retries=1).exit_code == 2


class Liar(RangeHandler):
    """Tells of its ranges what it is told to tell."""

    def __init__(self, lie: Callable[[dict[str, str], int, int], None], **more: Any) -> None:
        super().__init__(DATA, **more)
        self._lie = lie

    def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
        fields = super().head(content, status, wanted)
        if wanted[0] == 2 * OSS_PART:
            self._lie(fields, *wanted)
        return fields


def _another_start(fields: dict[str, str], start: int, stop: int) -> None:
    fields["Content-Range"] = f"bytes {start + 1}-{stop}/{len(DATA)}"


def _another_total(fields: dict[str, str], start: int, stop: int) -> None:
    fields["Content-Range"] = f"bytes {start}-{stop - 1}/{len(DATA) + 1}"


def _another_length(fields: dict[str, str], start: int, stop: int) -> None:
    fields["Content-Length"] = str(stop - start + 1)


def _no_range(fields: dict[str, str], start: int, stop: int) -> None:
    del fields["Content-Range"]


def _no_etag(fields: dict[str, str], start: int, stop: int) -> None:
    del fields["ETag"]


def _coded(fields: dict[str, str], start: int, stop: int) -> None:
    fields["Content-Encoding"] = "gzip"


@pytest.mark.parametrize("lie", [_another_start, _another_length, _no_range, _no_etag, _coded])
def test_a_range_that_is_not_the_one_asked_for_is_not_taken(
    rig: CopyRig, lie: Callable[[dict[str, str], int, int], None]
) -> None:
    rig.source = Liar(lie)
    with pytest.raises(BadResponseError) as caught:
        rig.copy(retries=1)
    assert caught.value.exit_code == 22 and "part 3" in str(caught.value) and rig.truth.keys() == []


def test_one_answer_of_another_size_is_looked_into(rig: CopyRig) -> None:
    rig.source = Liar(_another_total)
    error = failed(rig, RangeError)
    assert "another object" in str(error) and "its size is" in str(error)


class Overlong(RangeHandler):
    """Sends more bytes than it says."""

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        super().body(connection, content, wanted, fault)
        connection.send(b"more")


def test_bytes_that_nobody_asked_for_are_not_taken(rig: CopyRig) -> None:
    rig.source = Overlong(DATA)
    try:
        rig.copy(retries=1)
    except FastxferError:
        assert rig.truth.head("o") is None
    else:
        assert rig.truth.get("o") == DATA


class Short(RangeHandler):
    """Gives at most so many bytes of a range."""

    most = 70_000

    def wanted(self, request: Request, content: Content) -> tuple[int, int] | None:
        found = super().wanted(request, content)
        return None if found is None else (found[0], min(found[1], found[0] + self.most))


def test_a_source_that_gives_less_at_once_is_asked_more_often(rig: CopyRig) -> None:
    rig.source = Short(DATA)
    rig.copy_right(retries=0)
    rig.copy_right(part_size="10M")


# ---- it changes ----


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize("validators", [{}, {"etag": None, "last_modified": "Thu, 02 Jan 2025 00:00:00 GMT"}])
def test_a_source_that_changes_is_copied_as_it_is_then(
    rig: CopyRig, parts: int, validators: dict[str, Any]
) -> None:
    if validators:
        rig.source.content = replace(rig.source.content, etag=None)
    changed: list[Request] = []

    def change(request: Request) -> None:
        if part_of(request) == min(parts, 4) and not changed:
            changed.append(request)
            rig.source.replace(OTHER, **validators)

    rig.source.faults = change
    result = rig.copy_right(part_size=OSS_PART if parts > 1 else "10M")
    assert rig.truth.get("o") == OTHER and result.checksums["crc64nvme"] == f"{crc64nvme(OTHER):016x}"
    (note,) = result.notes
    assert "the source changed" in note


@pytest.mark.parametrize("part_size", [OSS_PART, "10M"])
@pytest.mark.parametrize("honour", [True, False])
def test_a_source_that_changes_may_be_an_error(rig: CopyRig, part_size: Any, honour: bool) -> None:
    rig.source.honour_if_range = honour

    def change(request: Request) -> None:
        if part_of(request) and rig.source.content.data is DATA:
            rig.source.replace(OTHER)

    rig.source.faults = change
    error = failed(rig, RemoteChangedError, on_change="fail", part_size=part_size)
    assert error.exit_code == 33 and "on_change=restart" in str(error)
    assert rig.left() == [] and rig.listed() == []


def test_a_source_that_never_stands_still_is_an_error(rig: CopyRig) -> None:
    count = [0]

    def change(request: Request) -> None:
        if part_of(request) == 4:
            count[0] += 1
            rig.source.replace(OTHER, etag=f'"n{count[0]}"')

    rig.source.faults = change
    assert "does not stand still" in str(failed(rig, RemoteChangedError))
    assert rig.left() == [] and rig.listed() == []


def test_a_source_that_is_gone_in_the_midst_is_not_found(rig: CopyRig) -> None:
    rig.source.faults = lambda request: Fault(status=404) if part_of(request) > 3 else None
    assert failed(rig, NotFoundError).exit_code == 3


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_store_that_copies_by_itself_never_makes_a_mix(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, at: int
) -> None:
    """Ceph RGW does not look at the ETag that it is told."""
    store: Store = request.getfixturevalue(name).store().make_bucket()
    old, new = make_bytes(3 * S3_PART, 1), make_bytes(3 * S3_PART, 2)
    store.put("o", old)
    changed = threading.Event()

    def change(call: Call, _: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == at and not changed.is_set():
            changed.set()
            store.put("o", new)
        return None

    with Proxy(store, change) as proxy:
        given = {"checkpoint_dir": tmp_path, "connections": 1}
        result = copy(url(store), proxy.store, "p", **given)
        assert store.get("p") == new and result.by == "store"
        assert any("the source changed" in note for note in result.notes)
        changed.clear()
        store.put("o", old)
        store.delete("p")
        with pytest.raises(RemoteChangedError):
            copy(url(store), proxy.store, "p", on_change="fail", **given)
    assert store.head("p") is None and store.list_uploads() == [] and list(tmp_path.iterdir()) == []


# ---- one stream ----


def test_a_stream_that_breaks_is_read_again_and_its_parts_are_not_sent_again(rig: CopyRig) -> None:
    rig.source = RangeHandler(DATA, ranges=False)
    rig.source.faults = lambda request: Fault(cut_after=4 * OSS_PART + 7) if len(rig.asked) == 3 else None
    result = rig.copy_right()
    assert (result.by, result.parts) == ("stream", PARTS) and rig.parts_sent() == ALL
    assert any("from its beginning again" in note for note in result.notes)


def test_a_stream_that_always_breaks_leaves_nothing(rig: CopyRig) -> None:
    rig.source = RangeHandler(DATA, ranges=False, faults=lambda request: Fault(cut_after=4 * OSS_PART))
    error = failed(rig, NetworkError)
    assert error.kept is None and rig.left() == [] and rig.listed() == []


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_stream_that_is_another_the_second_time_is_no_mix(rig: CopyRig, etag: str | None) -> None:
    rig.source = RangeHandler(DATA, ranges=False, etag=etag, last_modified=None)

    def change(request: Request) -> Fault | None:
        if len(rig.asked) == 3:
            return Fault(cut_after=4 * OSS_PART + 7)
        if len(rig.asked) == 4:
            rig.source.content = replace(rig.source.content, data=OTHER)
        return None

    rig.source.faults = change
    rig.copy_right()
    assert rig.truth.get("o") == OTHER


class Unsized(RangeHandler):
    """Sends an object in chunks, of which nobody knows how many come."""

    def __call__(self, request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Transfer-Encoding": "chunked", "ETag": '"v1"'})
        data, fault = self.content.data, self.faults(request) or Fault()
        end = len(data) if fault.cut_after is None else fault.cut_after
        for start in range(0, end, 64 << 10):
            piece = data[start : min(end, start + (64 << 10))]
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if fault.cut_after is not None:
            connection.reset()
            return
        connection.send(b"0\r\n\r\n")


@pytest.mark.parametrize("size", [0, 1, OSS_PART, OSS_PART + 1, 30 * OSS_PART, 30 * OSS_PART + 1])
def test_an_object_of_unknown_size_is_copied(rig: CopyRig, size: int) -> None:
    rig.source = Unsized(make_bytes(size, 6))
    result = rig.copy_right(memory="1M", connections=4)
    assert (result.size, result.by) == (size, "stream" if size else "relay")
    assert result.parts == max(1, -(-size // OSS_PART)) and result.verified == "etag"


def test_an_object_of_unknown_size_that_breaks_is_no_object(rig: CopyRig) -> None:
    rig.source = Unsized(DATA, faults=lambda request: Fault(cut_after=3 * OSS_PART))
    failed(rig, NetworkError)
    assert rig.listed() == []
    rig.source = Unsized(DATA, faults=lambda request: Fault(cut_after=30) if len(rig.asked) == 9 else None)
    rig.copy_right()


class Counting(RangeHandler):
    """Counts what the connections have taken of its one stream."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, ranges=False)
        self.sent = 0
        self.changed = threading.Condition()

    def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
        view = memoryview(content.data)
        for offset in range(start, stop, 64 << 10):
            connection.send(view[offset : min(offset + (64 << 10), stop)])
            with self.changed:
                self.sent += 64 << 10
                self.changed.notify_all()

    def reaches(self, count: int, deadline_s: float) -> bool:
        """Returns whether so many bytes are taken before the deadline."""
        with self.changed:
            return self.changed.wait_for(lambda: self.sent >= count, deadline_s)


def test_a_store_that_is_slow_holds_the_stream_up(rig: CopyRig) -> None:
    """Only so much is in memory: the source is not read while nothing of it is taken."""
    hold, source = threading.Event(), Counting(make_bytes(64 * MIB, 7))
    rig.source = source
    rig.harm = lambda call, number: Harm(hold=hold) if call.operation == "UploadPart" else None
    given = {**options(rig.store), "part_size": OSS_PART, "memory": "1M", "stall_timeout": 60}
    running = begin_copy(rig.url, url(rig.store), checkpoint_dir=rig.checkpoints, **given)
    try:
        assert source.reaches(MIB, 30)
        assert not source.reaches(44 * MIB, 3)  # a MiB in buffers, the rest in those of the sockets
    finally:
        hold.set()
    assert running.wait().parts == -(-64 * MIB // OSS_PART)
    assert rig.truth.get("o") == source.content.data


# ---- the store ----


@pytest.mark.parametrize(
    "harm",
    [
        Harm(cut_request=5000),
        Harm(cut_answer=0),
        Harm(status=500, body=INTERNAL_ERROR),
        Harm(status=503, body=SLOW_DOWN),
        Harm(status=200, carry_out=True, fields={"ETag": '"e"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAE="}),
    ],
)
def test_a_part_that_is_not_taken_is_sent_again_and_not_read_again(rig: CopyRig, harm: Harm) -> None:
    bad: set[int] = set()

    def chosen(call: Call, number: int) -> Harm | None:
        if call.operation != "UploadPart" or call.part != 2 or bad:
            return None
        bad.add(2)
        return harm

    rig.harm = chosen
    rig.copy_right(memory="1M")
    assert rig.parts_sent() == sorted([*ALL, 2])
    assert sum(part_of(each) == 2 for each in rig.asked) == 1


def test_a_store_that_never_takes_a_part_is_an_error(rig: CopyRig) -> None:
    rig.harm = lambda call, number: Harm(status=500, body=INTERNAL_ERROR) if call.part == 3 else None
    error = failed(rig, StoreServerError)
    assert "cannot upload part 3 of s3://" in str(error) and error.kept
    rig.harm = nothing
    assert rig.copy_right().parts_resumed >= 1


def test_an_upload_that_somebody_aborts_is_begun_anew(rig: CopyRig) -> None:
    gone: list[str] = []

    def abort(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == 4 and not gone:
            gone.append(call.upload_id)
            rig.truth.abort("o", call.upload_id)
        return None

    rig.harm = abort
    result = rig.copy_right()
    assert result.upload_id != gone[0] and any("NoSuchUpload" in note for note in result.notes)


def test_a_small_object_is_sent_again_where_it_was_not_taken(rig: CopyRig) -> None:
    rig.harm = lambda call, number: (
        Harm(cut_request=5000) if call.operation == "PutObject" and not number else None
    )
    rig.copy_right(part_size="10M")
    rig.harm = lambda call, number: Harm(status=403) if call.operation == "PutObject" else None
    rig.truth.delete("o")
    failed(rig, StoreAuthError, part_size="10M")


def test_a_source_whose_checksum_is_not_that_of_its_bytes_is_not_put_together(
    seaweedfs: SeaweedFs, small: Store, tmp_path: Path
) -> None:
    source = seaweedfs.store().make_bucket()
    told = base64_of(crc64nvme(DATA))
    source.client.put_object(Bucket=source.bucket, Key="o", Body=DATA, ChecksumCRC64NVME=told)

    def flip(call: Call, number: int) -> Harm | None:
        wrong = {"x-amz-checksum-crc64nvme": base64_of(1), "ETag": etag, "Content-Length": str(len(DATA))}
        return Harm(status=200, fields=wrong) if call.operation == "HeadObject" else None

    head = source.head("o")
    assert head is not None
    etag = head["ETag"]
    with Proxy(source, flip) as proxy:
        for part_size in (OSS_PART, "10M"):
            with pytest.raises(ChecksumError) as failed:
                given = {"checkpoint_dir": tmp_path, "part_size": part_size, **of_source(proxy.store)}
                copy(url(source), small, **given)
            assert failed.value.expected == f"{1:016x}"
    assert small.keys() == [] and small.list_uploads() == [] and list(tmp_path.iterdir()) == []


# ---- who is told what ----


def test_header_fields_and_passwords_go_to_the_source_alone(
    rig: CopyRig, nginx: Nginx, objects: Objects, small: Store, tmp_path: Path
) -> None:
    rig.copy_right(headers={"X-Mine": "of the source"}, object_headers={"x-amz-meta-mine": "of the object"})
    assert all(each.headers["x-mine"] == "of the source" for each in rig.asked)
    assert not any("authorization" in each.headers for each in rig.asked)
    for each in rig.proxy.calls():
        assert "x-mine" not in each.request.headers
    head = rig.truth.head("o")
    assert head is not None and head["Metadata"] == {"mine": "of the object"}


def test_a_redirect_is_followed(rig: CopyRig, nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(5 * OSS_PART + 1, seed=36)
    source = nginx.url(thing.name, prefix="/redirect")
    copy(source, rig.store, checkpoint_dir=rig.checkpoints)
    assert rig.truth.get("o") == thing.path.read_bytes()


def test_a_copy_that_is_stopped_goes_on(rig: CopyRig) -> None:
    begun = threading.Event()

    def hold(call: Call, number: int) -> Harm | None:
        if call.part == 4:
            begun.set()
            return Harm(hold=threading.Event())
        return None

    rig.harm = hold
    given = {**options(rig.store), "part_size": OSS_PART, "connections": 1}
    running = begin_copy(rig.url, url(rig.store), checkpoint_dir=rig.checkpoints, **given)
    assert begun.wait(30)
    running.cancel()
    with pytest.raises(InterruptedTransferError) as stopped:
        running.wait()
    assert stopped.value.exit_code == 7 and "3 of 6 parts" in (stopped.value.kept or "")
    rig.harm = nothing
    assert rig.copy_right(connections=1).parts_resumed == 3
