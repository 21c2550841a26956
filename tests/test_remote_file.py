"""`fastxfer.open`: an object as a file, over servers that do as they should, and over those that do not."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastxfer
from fastxfer.plan.readahead import LEAST
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.oss_facade import OssFacade
from tests.servers.python_http import PythonHttp
from tests.servers.raw import Connection, Content, Fault, RangeHandler, RawServer, Request
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.putting import options, url

MIB = 1 << 20
DATA = make_bytes(3 * MIB + 17, 1)
OTHER = make_bytes(3 * MIB + 17, 2)
DEADLINE_S = 30.0


def start_of(request: Request) -> int:
    """Returns where a request's range begins, -1 where it has none."""
    return int(request.range.partition("=")[2].partition("-")[0]) if request.range else -1


def spans_of(server: RawServer) -> list[tuple[int, int]]:
    """Returns the ranges that were asked for, half-open."""
    pairs = [each.range.removeprefix("bytes=").split("-") for each in server.requests if each.range]
    return [(int(start), int(end) + 1) for start, end in pairs]


def readers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "fastxfer-ahead"]


def wait_for(true: Callable[[], bool]) -> None:
    """Looks until something holds, which another thread brings about."""
    end = time.monotonic() + DEADLINE_S
    pulse = threading.Event()
    while not true():
        assert time.monotonic() < end
        pulse.wait(0.01)


@pytest.fixture
def served() -> Iterator[tuple[RangeHandler, RawServer]]:
    handler = RangeHandler(DATA)
    with RawServer(handler) as server:
        yield handler, server


# ---- it is a file ----


def test_it_is_what_a_file_is(nginx: Nginx, objects: Objects) -> None:
    made = objects.make(3 * MIB + 17, 1)
    with fastxfer.open(nginx.url(made.name)) as file:
        assert isinstance(file, io.RawIOBase) and isinstance(file, fastxfer.RemoteFile)
        assert (file.size, file.name, file.tell()) == (made.size, nginx.url(made.name), 0)
        assert file.etag is not None and file.last_modified is not None and file.mode == "rb"
        assert file.readable() and file.seekable() and not file.writable() and not file.closed
        assert file.read(10) == DATA[:10] and file.tell() == 10
        assert file.seek(-5, os.SEEK_END) == made.size - 5 and file.read() == DATA[-5:]
        assert file.read(1) == b"" and file.readall() == b""
        assert file.seek(-made.size, os.SEEK_CUR) == 0
        into = bytearray(100_000)
        assert file.readinto(into) == 100_000 and into == DATA[:100_000]
        assert file.seek(made.size + 9) == made.size + 9 and file.read(4) == b"" and file.read(0) == b""
        assert file.seek(0) == 0 and file.readall() == DATA
        for wrong in (lambda: file.seek(-1), lambda: file.seek(0, 7), lambda: file.read_ranges([(5, 4)])):
            with pytest.raises(ValueError):
                wrong()
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    assert file.closed and "closed" in repr(file)
    for call in (
        file.read,
        file.tell,
        lambda: file.seek(0),
        lambda: file.read_ranges([(0, 1)]),
        file.readable,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    file.close()


def test_whatever_takes_a_file_takes_it(nginx: Nginx, objects: Objects) -> None:
    archive, table, packed = io.BytesIO(), io.BytesIO(), gzip.compress(DATA)
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a", DATA)
        made.writestr("b/c", OTHER, zipfile.ZIP_DEFLATED)
    rows = pa.table({"n": range(200_000), "text": [f"row {n}" for n in range(200_000)]})
    pq.write_table(rows, table, row_group_size=20_000)
    for name, data in (("a.zip", archive.getvalue()), ("a.parquet", table.getvalue()), ("a.gz", packed)):
        objects.put(f"opened-{name}", data)

    with fastxfer.open(nginx.url("opened-a.zip")) as file, zipfile.ZipFile(file) as found:
        assert found.namelist() == ["a", "b/c"] and found.testzip() is None
        assert (found.read("b/c"), found.read("a")) == (OTHER, DATA)
    with fastxfer.open(nginx.url("opened-a.parquet")) as file:
        opened = pq.ParquetFile(file)
        assert opened.read_row_group(3).equals(rows.slice(60_000, 20_000))
        assert opened.read(columns=["n"]).equals(rows.select(["n"]))
    with fastxfer.open(nginx.url("opened-a.gz")) as file, gzip.open(file) as plain:
        assert plain.read() == DATA
    text = b"".join(b"%d,%d\n" % (n, n * n) for n in range(30_000))
    objects.put("opened-a.csv", text)
    with io.TextIOWrapper(io.BufferedReader(fastxfer.open(nginx.url("opened-a.csv")))) as lines:
        assert [line.split(",")[0] for line in lines] == [str(n) for n in range(30_000)]


_moves = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, len(DATA) + 100)),
    st.tuples(st.just("back"), st.integers(0, len(DATA))),
    st.tuples(st.just("read"), st.one_of(st.integers(0, 3000), st.integers(0, len(DATA)), st.just(-1))),
    st.tuples(st.just("readinto"), st.integers(0, 600_000)),
    st.tuples(
        st.just("ranges"),
        st.lists(st.tuples(st.integers(0, len(DATA) + 9), st.integers(0, 200_000)), max_size=8),
    ),
)


@pytest.mark.parametrize("how", ["", "noranges"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(_moves, max_size=12),
    connections=st.integers(1, 5),
    read_ahead=st.sampled_from([0, LEAST, 5 * LEAST, 1 << 25]),
)
def test_it_reads_as_a_local_file_does(
    nginx: Nginx, objects: Objects, how: str, moves: list[Any], connections: int, read_ahead: int
) -> None:
    made = objects.make(len(DATA), 1)
    opened = fastxfer.open(nginx.url(made.name, prefix=how), connections=connections, read_ahead=read_ahead)
    with opened as file, made.path.open("rb") as local:
        for move, value in moves:
            if move == "seek":
                assert file.seek(value) == local.seek(value)
            elif move == "back":
                assert file.seek(-value, os.SEEK_END) == local.seek(-value, os.SEEK_END)
            elif move == "read":
                assert file.read(value) == local.read(value)
            elif move == "readinto":
                mine, theirs = bytearray(value), bytearray(value)
                assert file.readinto(mine) == local.readinto(theirs) and mine == theirs
            else:
                spans = [(start, start + length) for start, length in value]
                assert file.read_ranges(spans) == [DATA[start:stop] for start, stop in spans]
            assert file.tell() == local.tell()


def test_two_threads_do_not_mix(nginx: Nginx, objects: Objects) -> None:
    made = objects.make(3 * MIB + 17, 1)
    with fastxfer.open(nginx.url(made.name)) as file, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: file.read(100_000), range(32)))
        pieces = {bytes(DATA[at : at + 100_000]) for at in range(0, 3_200_000, 100_000)}
        assert sorted(found) == sorted([*pieces, *[b""] * (32 - len(pieces))])
        spans = [(at, at + 777) for at in range(0, len(DATA), 50_000)]
        for got in pool.map(file.read_ranges, [spans] * 8):
            assert got == [DATA[start:stop] for start, stop in spans]


# ---- how it asks ----


def test_what_is_small_is_one_request() -> None:
    with RawServer(RangeHandler(DATA[:5000])) as server, fastxfer.open(server.url("/o?token=secret")) as file:
        assert file.read() == DATA[:5000] and file.seek(7) == 7 and file.read(3) == DATA[7:10]
        assert len(server.requests) == 1
        assert "secret" not in repr(file) and "secret" not in file.name


def test_nothing_is_read_ahead_where_that_is_not_wanted(served: tuple[RangeHandler, RawServer]) -> None:
    with fastxfer.open(served[1].url(), read_ahead=0) as file:
        for at in (0, 10, 20, 1000):
            file.seek(at)
            assert file.read(10) == DATA[at : at + 10]
    assert spans_of(served[1]) == [(0, 1), (1, 10), (10, 20), (20, 30), (1000, 1010)]


def test_who_jumps_has_nothing_read_ahead(served: tuple[RangeHandler, RawServer]) -> None:
    with fastxfer.open(served[1].url()) as file:
        for at in (2 * MIB, 200_000, MIB, 600_000):
            file.seek(at)
            assert file.read(10) == DATA[at : at + 10]
    starts = (0, 2 * MIB, 200_000, MIB, 600_000)
    assert spans_of(served[1]) == [(at, at + LEAST) for at in starts]


def test_who_goes_forward_has_several_requests_out_and_no_more_than_the_memory() -> None:
    size, memory = 24 * MIB, 4 * MIB
    all_out = threading.Barrier(4)

    class Held(RangeHandler):
        def body(
            self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault
        ) -> None:
            if 8 * MIB <= wanted[0] < 10 * MIB:
                all_out.wait(DEADLINE_S)
            super().body(connection, content, wanted, fault)

    data = make_bytes(size, 3)
    with RawServer(Held(data)) as server, fastxfer.open(server.url(), read_ahead=memory) as file:
        for at in range(0, size, 100_000):
            assert file.read(100_000) == data[at : at + 100_000]
            assert max(stop for _, stop in spans_of(server)) <= at + 100_000 + memory
        spans = sorted(spans_of(server))
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]], "each byte once"
    assert max(stop - start for start, stop in spans) == memory // 8


def test_ranges_come_at_once_and_near_ones_together() -> None:
    here = threading.Barrier(4)

    class Together(RangeHandler):
        def body(
            self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault
        ) -> None:
            if wanted[0] > 0:
                here.wait(DEADLINE_S)
            super().body(connection, content, wanted, fault)

    with RawServer(Together(DATA)) as server, fastxfer.open(server.url()) as file:
        starts = [2 * MIB, MIB, 2 * MIB + 600_000, 400_000]
        wanted = [(at + more, at + more + 9) for at in starts for more in (0, 500, 20_000)]
        assert file.read_ranges(wanted) == [DATA[start:stop] for start, stop in wanted]
        assert file.read_ranges([]) == [] and file.tell() == 0
    assert sorted(start for start, _ in spans_of(server)) == [0, *sorted(starts)]


def test_it_takes_no_more_memory_than_it_may(nginx: Nginx, objects: Objects) -> None:
    made = objects.make(200 * MIB, 4)
    code = f"""
import fastxfer, resource
file = fastxfer.open({nginx.url(made.name)!r}, read_ahead="8M")
file.read(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 1 << 20
while piece := file.read(1 << 20):
    count += len(piece)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(count, (after - before) // 1024)
file.close()
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    count, grown_mib = map(int, run.stdout.split())
    assert count == 200 * MIB and grown_mib < 40


def test_it_keeps_to_its_rate(served: tuple[RangeHandler, RawServer]) -> None:
    began = time.monotonic()
    with fastxfer.open(served[1].url(), max_rate="2M") as file:
        assert file.read() == DATA
    assert time.monotonic() - began > 0.9


# ---- what goes wrong ----


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=0),
        Fault(cut_after=50_001),
        Fault(cut_after=70_000, reset=True),
        Fault(status=500),
        Fault(status=503, headers={"Retry-After": "1"}),
        Fault(status=429),
        Fault(status=416, headers={"Content-Range": f"bytes */{len(DATA)}"}),
    ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_what_fails_once_is_asked_for_again(
    served: tuple[RangeHandler, RawServer], fault: Fault, at: int
) -> None:
    handler, server = served
    handler.faults = lambda request: fault if request.number == at else None
    with fastxfer.open(server.url()) as file:
        assert file.read() == DATA
    if fault.cut_after and at:
        cut = spans_of(server)[at]
        assert (cut[0] + fault.cut_after, cut[1]) in spans_of(server), "what has come is not asked for again"


def test_a_server_that_cuts_again_and_again_is_read_to_the_end(
    served: tuple[RangeHandler, RawServer],
) -> None:
    served[0].faults = lambda request: Fault(cut_after=100_000)
    with fastxfer.open(served[1].url(), retries=2, read_ahead="1M") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == DATA


def test_an_answer_that_stalls_is_asked_for_again(served: tuple[RangeHandler, RawServer]) -> None:
    handler, server = served
    handler.faults = lambda request: Fault(stall_at=MIB) if request.number < 4 else None
    with fastxfer.open(server.url(), stall_timeout=0.6, connections=1) as file:
        assert file.read() == DATA


class Wrong(RangeHandler):
    """Sends another range than the one that was asked for, which its Content-Range says."""

    def wanted(self, request: Request, content: Content) -> tuple[int, int] | None:
        found = super().wanted(request, content)
        return (found[0] + 1, found[1]) if found is not None and found[0] >= MIB else found


class Ignoring(RangeHandler):
    """Answers with the whole object, from some place on."""

    def wanted(self, request: Request, content: Content) -> tuple[int, int] | None:
        found = super().wanted(request, content)
        return None if found is not None and found[0] >= MIB else found


@pytest.mark.parametrize("kind", [Wrong, Ignoring])
def test_an_answer_that_is_not_the_range_is_an_error(kind: type[RangeHandler]) -> None:
    with RawServer(kind(DATA)) as server, fastxfer.open(server.url(), retries=1) as file:
        file.seek(MIB + 5)
        with pytest.raises(fastxfer.RangeError, match="cannot read"):
            file.read(1000)
        assert file.tell() == MIB + 5
        file.seek(100)
        assert file.read(50) == DATA[100:150], "elsewhere it is read on"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=404), fastxfer.NotFoundError),
        (Fault(status=403), fastxfer.AuthError),
        (Fault(status=500), fastxfer.ServerError),
        (Fault(cut_after=0), fastxfer.NetworkError),
    ],
)
def test_what_fails_for_good_is_an_error_and_can_be_tried_again(
    served: tuple[RangeHandler, RawServer], fault: Fault, kind: type[fastxfer.FastxferError]
) -> None:
    handler, server = served
    handler.faults = lambda request: fault
    if fault.status is not None:
        with pytest.raises(kind):
            fastxfer.open(server.url(), retries=0)
    handler.faults = lambda request: fault if start_of(request) > 0 else None
    with fastxfer.open(server.url("/o?token=secret"), retries=0) as file:
        file.seek(MIB)
        for _ in range(2):
            with pytest.raises(kind) as caught:
                file.read(10)
            assert "secret" not in str(caught.value)
        handler.faults = lambda request: None
        assert file.read(10) == DATA[MIB : MIB + 10]
    wait_for(lambda: not readers())


@pytest.mark.parametrize("honours", [True, False])
@pytest.mark.parametrize("data", [OTHER, DATA[:-1]])
def test_an_object_that_changes_is_an_error_and_never_a_mix(honours: bool, data: bytes) -> None:
    handler = RangeHandler(DATA, honour_if_range=honours)
    with RawServer(handler) as server, fastxfer.open(server.url(), read_ahead="1M") as file:
        got = file.read(400_000)
        handler.replace(data)
        with pytest.raises(fastxfer.RemoteChangedError, match="open it again"):
            while piece := file.read(400_000):
                got += piece
        assert got == DATA[: len(got)] and len(got) < len(DATA)
        with pytest.raises(fastxfer.RemoteChangedError):
            file.seek(0), file.read(1)
        assert all(each.headers.get("if-range") == '"v1"' for each in server.requests[1:-1])


def test_one_answer_of_another_object_alone_ends_nothing() -> None:
    handler = RangeHandler(DATA)

    class Flickering(RangeHandler):
        def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
            fields = super().head(content, status, wanted)
            return {**fields, "ETag": '"v9"'} if next(answers) == 2 else fields

    answers = iter(range(1000))
    handler = Flickering(DATA)
    with RawServer(handler) as server, fastxfer.open(server.url()) as file:
        assert file.read() == DATA


# ---- streams ----


class Endless(RangeHandler):
    """Tells no length: the end of the connection is the end of the object."""

    def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
        fields = {**super().head(content, status, wanted), "Connection": "close"}
        del fields["Content-Length"]
        return fields

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        super().body(connection, content, wanted, fault)
        connection.close()


def test_without_ranges_the_stream_is_kept_and_one_may_go_back(
    nginx: Nginx, python_http: PythonHttp, objects: Objects
) -> None:
    made = objects.make(3 * MIB + 17, 1)
    for where in (nginx.url(made.name, prefix="noranges"), python_http.url(made.name)):
        with fastxfer.open(where, read_ahead="1M") as file:
            assert file.size == len(DATA) and file.read(1000) == DATA[:1000]
            assert file.seek(2 * MIB) == 2 * MIB and file.read(10) == DATA[2 * MIB : 2 * MIB + 10]
            assert file.seek(5) == 5 and file.read() == DATA[5:]
            assert file.read_ranges([(MIB, MIB + 5), (0, 3)]) == [DATA[MIB : MIB + 5], DATA[:3]]


def test_without_a_length_it_is_read_to_the_end() -> None:
    with RawServer(Endless(DATA, ranges=False)) as server:
        with fastxfer.open(server.url()) as file:
            assert file.size is None and file.read(70) == DATA[:70]
            assert file.read() == DATA[70:] and file.size == len(DATA) and file.read(1) == b""
        with fastxfer.open(server.url()) as file:
            assert file.seek(-7, os.SEEK_END) == len(DATA) - 7 and file.read() == DATA[-7:]


def test_a_stream_that_nobody_reads_waits_at_the_server() -> None:
    data = make_bytes(64 * MIB, 5)
    sent = [0]

    class Counted(RangeHandler):
        def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
            for at in range(start, stop, 65536):
                super().send(connection, content, at, min(stop, at + 65536))
                sent[0] = max(sent[0], at)

    with (
        RawServer(Counted(data, ranges=False)) as server,
        fastxfer.open(server.url(), read_ahead="1M") as file,
    ):
        assert file.read(10) == data[:10]
        before = -1
        while before != sent[0]:  # what the sockets hold is more than what was asked for
            before = sent[0]
            threading.Event().wait(0.3)
        assert sent[0] < 40 * MIB
        assert file.read() == data[10:]


@pytest.mark.parametrize("kind", [RangeHandler, Endless])
def test_a_stream_that_breaks_begins_anew_and_has_to_be_the_same(kind: type[RangeHandler]) -> None:
    handler = kind(
        DATA, ranges=False, faults=lambda request: Fault(cut_after=MIB) if request.number == 2 else None
    )
    with RawServer(handler) as server, fastxfer.open(server.url()) as file:
        if kind is RangeHandler:
            assert file.read() == DATA and len(server.requests) == 4
        else:
            assert file.read() == DATA[:MIB], "such an end cannot be told from a cut"


def test_a_stream_that_is_another_when_it_begins_anew_is_an_error() -> None:
    handler = RangeHandler(DATA, ranges=False, etag=None, last_modified=None)

    def faults(request: Request) -> Fault | None:
        if request.number == 3:
            handler.replace(OTHER, etag=None)
        return Fault(cut_after=MIB) if request.number == 2 else None

    handler.faults = faults
    with (
        RawServer(handler) as server,
        fastxfer.open(server.url()) as file,
        pytest.raises(fastxfer.RemoteChangedError, match="bytes are others"),
    ):
        file.read()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_empty_object_is_an_empty_file(ranges: bool) -> None:
    with RawServer(RangeHandler(b"", ranges=ranges)) as server, fastxfer.open(server.url()) as file:
        assert (file.size, file.read(), file.read_ranges([(0, 9)])) == (0, b"", [b""])
        assert file.seek(0, os.SEEK_END) == 0


# ---- stores ----


@pytest.fixture(params=["seaweedfs", "rgw", "oss"])
def store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made


def test_an_object_of_a_store_is_read(store: Store) -> None:
    store.put("o", DATA)
    with fastxfer.open(url(store), **options(store)) as file:
        assert (file.name, file.size) == (url(store), len(DATA))
        assert file.read_ranges([(MIB, MIB + 9), (5, 7)]) == [DATA[MIB : MIB + 9], DATA[5:7]]
        assert file.read() == DATA
    with pytest.raises(fastxfer.NotFoundError):
        fastxfer.open(url(store, "missing"), **options(store))


def test_a_presigned_link_is_read(seaweedfs: SeaweedFs) -> None:
    store = seaweedfs.store().make_bucket()
    store.put("o", DATA)
    link = store.client.generate_presigned_url("get_object", {"Bucket": store.bucket, "Key": "o"})
    with fastxfer.open(link) as file:
        assert file.read() == DATA and "Signature" not in file.name and "Signature" not in repr(file)


@pytest.mark.parametrize("name", ["seaweedfs", "rgw"])
def test_a_version_that_is_replaced_is_read_on(request: pytest.FixtureRequest, name: str) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    store.put("o", DATA)
    with fastxfer.open(url(store), **options(store), read_ahead=LEAST) as file:
        store.put("o", OTHER)
        assert file.read() == DATA


def test_an_object_of_a_store_that_is_replaced_is_an_error(oss: OssFacade) -> None:
    store = oss.store().make_bucket()
    store.put("o", DATA)
    with fastxfer.open(url(store), **options(store), read_ahead=LEAST) as file:
        store.put("o", OTHER)
        with pytest.raises(fastxfer.RemoteChangedError):
            file.read()


# ---- its end ----


def test_closing_in_the_middle_leaves_nothing_behind() -> None:
    gone = threading.Semaphore(0)
    handler = RangeHandler(make_bytes(24 * MIB, 6))

    def serve(request: Request, connection: Connection) -> None:
        if request.number == 0:
            handler(request, connection)
            return
        connection.send_head(206, handler.head(handler.content, 206, (start_of(request), 24 * MIB)))
        connection.wait_until_gone()
        gone.release()

    with RawServer(serve) as server:
        file = fastxfer.open(server.url())
        errors: list[Any] = []

        def read() -> None:
            try:
                file.read()
            except fastxfer.InterruptedTransferError as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        server.wait_for_requests(3)
        file.close()
        reader.join(DEADLINE_S)
        assert not reader.is_alive() and len(errors) == 1
        assert not readers()
        for _ in range(2):
            assert gone.acquire(timeout=DEADLINE_S)


def test_who_forgets_to_close_leaves_no_thread(served: tuple[RangeHandler, RawServer]) -> None:
    file = fastxfer.open(served[1].url())
    file.seek(MIB)
    assert file.read(10) == DATA[MIB : MIB + 10] and readers()
    del file
    wait_for(lambda: not readers())


def test_a_forked_child_reads_on_by_itself(nginx: Nginx, objects: Objects) -> None:
    made = objects.make(3 * MIB + 17, 1)
    code = f"""
import os, fastxfer
file = fastxfer.open({nginx.url(made.name)!r})
file.seek(1 << 20)
mine = file.read(500_000)
child = os.fork()
if child == 0:
    os._exit(0 if len(file.read(500_000)) == 500_000 and file.tell() == (1 << 20) + 1_000_000 else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(file.read(500_000)) == 500_000
file.close()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, check=True)


def test_a_process_that_ends_with_an_open_file_ends(nginx: Nginx, objects: Objects) -> None:
    made = objects.make(64 * MIB, 7)
    code = (
        f"import fastxfer\nfile = fastxfer.open({nginx.url(made.name, prefix='slow1m')!r})\nfile.read(300000)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_ctrl_c_ends_a_read_and_the_file_can_be_read_on(served: tuple[RangeHandler, RawServer]) -> None:
    handler, server = served
    handler.faults = lambda request: Fault(stall_at=0) if request.number == 1 else None
    with fastxfer.open(server.url()) as file:
        file.seek(MIB)

        def interrupt() -> None:
            server.wait_for_requests(2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            file.read(10)
        file.seek(2 * MIB)
        assert file.read(10) == DATA[2 * MIB : 2 * MIB + 10]


def test_what_makes_no_sense_is_said(served: tuple[RangeHandler, RawServer]) -> None:
    where = served[1].url()
    with pytest.raises(fastxfer.OptionError, match="option read_ahead"):
        fastxfer.open(where, read_ahead="1K")
    with pytest.raises(fastxfer.OptionError, match="option connections"):
        fastxfer.open(where, connections=0)
    with pytest.raises(TypeError, match="'checksum' of open"):
        fastxfer.open(where, checksum="md5:0")
    with pytest.raises(fastxfer.OptionError):
        fastxfer.open("ftp://host/x")
    assert not served[1].requests
