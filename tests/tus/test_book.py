"""Uploads to a tus server by the book: checksums, partial uploads, checkpoints that are damaged, and what a
server may answer besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import (
    ChecksumError,
    HTTPStatusError,
    InterruptedTransferError,
    LocalChangedError,
    LockedError,
    NetworkError,
    OptionError,
    OverloadedError,
    ServerError,
    StorageError,
    TargetBusyError,
    TooLargeError,
    TransferTimeoutError,
)
from fastxfer.uploading import begin_upload
from tests.servers import port_of, reserve_port
from tests.servers.gateway import Inbound
from tests.servers.raw import Request
from tests.servers.tus_book import ALL, CHECKED, JOINED, PLAIN, TusBook, times
from tests.tus.relay import DEADLINE_S, Relay
from tests.tus.sending import (
    KIB,
    checkpoint_of,
    interrupted,
    left_beside,
    make_file,
    put,
    take_and_cut,
)

SIZE = 300_000
CHANGED = "the file has changed since a part of it was sent: all of it again"


# ---- checksums ----


@pytest.mark.parametrize("algorithms", ["sha1", "md5,crc32", "crc32", "sha256,sha512"])
@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 200_000])
def test_a_server_that_knows_checksums_checks_every_chunk(tmp_path: Path, algorithms: str, size: int) -> None:
    path, _ = make_file(tmp_path, size)
    with TusBook(CHECKED, algorithms=algorithms) as server:
        result = put(server, path, part_size=64 * KIB)
        assert result.verified == "server"
        assert [each.received for each in server.sent] == [
            min(64 * KIB, size - start) for start in range(0, size, 64 * KIB)
        ]
        assert all("upload-checksum" in request.headers for request in server.asked("PATCH"))


def test_a_checksum_that_nobody_knows_is_not_sent_and_nothing_is_claimed(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(CHECKED, algorithms="whirlpool") as server:
        assert put(server, path, part_size=64 * KIB).verified == "none"
        assert len(server.sent) == 1


def test_bytes_that_are_spoilt_on_the_way_are_sent_again(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(CHECKED) as server, Relay(server.target, spoil=100_000) as relay:
        result = fastxfer.put(path, relay.target, part_size=64 * KIB)
        assert [each.status for each in server.sent] == [204, 460, 204, 204, 204, 204]
        assert server.data_of(result.url) == data
        assert result.verified == "server"


def test_a_server_that_never_agrees_about_a_checksum_is_an_error(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    refuse = times(100, "PATCH", lambda request, connection: connection.respond(460))
    with TusBook(CHECKED, trouble=refuse) as server:
        with pytest.raises(ChecksumError, match="460") as failed:
            fastxfer.put(path, server.target, retries=1)
        assert (failed.value.algorithm, failed.value.exit_code) == ("sha1", 32)
        server.trouble = lambda request, connection: False
        assert put(server, path).verified == "server"


def test_after_an_interruption_checked_bytes_are_still_checked(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(CHECKED) as server, Relay(server.target, cuts=[150_000]) as relay:
        with pytest.raises(NetworkError) as failed:
            fastxfer.put(path, relay.target, part_size=64 * KIB, retries=0)
        assert failed.value.kept is not None and "128 KiB of 293 KiB" in failed.value.kept
        result = fastxfer.put(path, relay.target, part_size=50 * KIB)
        assert result.verified == "server"
        assert len(server.uploads) == 1
        taken = [each.offset for each in server.sent if each.status == 204]
        assert taken == list(range(0, SIZE, 64 * KIB))


def test_what_was_kept_of_half_a_chunk_is_not_called_checked(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(CHECKED) as server:
        interrupted(server, path, 100_000, part_size=128 * KIB)
        assert put(server, path).verified == "none"
        assert len(server.uploads) == 1


def test_a_small_file_goes_with_the_request_that_begins_it(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 1000)
    with TusBook(("creation", "creation-with-upload")) as server:
        assert put(server, path).requests == 2
        assert server.sent == []
    with TusBook(ALL) as server:  # with a checksum it takes a PATCH
        assert put(server, path).verified == "server"
        assert len(server.sent) == 1


# ---- several at once ----


def test_a_large_file_goes_as_partial_uploads_that_are_put_together(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    together = threading.Barrier(4)

    def meet(request: Request, connection: Inbound) -> bool:
        if request.method == "PATCH":
            together.wait(60)
        return False

    with TusBook(JOINED, trouble=meet) as server:
        result = put(server, path, part_size=16 * KIB, connections=4)
        server.trouble = lambda request, connection: False
        assert (result.parts, result.parts_sent, result.verified) == (4, 4, "none")
        concats = [request.headers.get("upload-concat", "") for request in server.asked("POST")]
        assert concats[:4] == ["partial"] * 4 and concats[4].startswith("final;")
        assert server.uploads[result.url.rpartition("/")[2]].metadata == "filename ZGF0YS5iaW4="
        assert put(server, path, part_size=32 * KIB, connections=4).parts == 2
        assert put(server, path, part_size=64 * KIB, connections=4).parts == 1
        assert put(server, path, part_size=16 * KIB, connections=1).parts == 1
    with TusBook((*JOINED, "checksum")) as server:
        assert put(server, path, part_size=16 * KIB, connections=4).verified == "server"


@pytest.mark.parametrize("place", [1, 70_000, 150_000, 299_999])
def test_partial_uploads_go_on_each_where_it_is(tmp_path: Path, place: int) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(JOINED) as server, Relay(server.target, cuts=[place]) as relay:
        with pytest.raises(NetworkError):
            fastxfer.put(path, relay.target, part_size=16 * KIB, connections=4, retries=0)
        assert "partial" in {each.concat for each in server.uploads.values()}
        before = len(server.uploads)
        result = fastxfer.put(path, relay.target, part_size=16 * KIB, connections=2)
        assert server.data_of(result.url) == data
        assert len(server.uploads) == 1 < before  # the parts are ended when they were put together
        assert result.parts == 4
        assert sum(each.received for each in server.sent if each.status == 204) == len(data)
    assert left_beside(path) == []


def test_a_partial_upload_that_is_gone_is_all_again(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(JOINED) as server, Relay(server.target, cuts=[150_000]) as relay:
        with pytest.raises(NetworkError):
            fastxfer.put(path, relay.target, part_size=16 * KIB, connections=4, retries=0)
        server.uploads.pop(next(iter(server.uploads)))
        result = fastxfer.put(path, relay.target, part_size=16 * KIB, connections=4)
        assert server.data_of(result.url) == data
        assert len(server.uploads) == 1  # the others of the first try were ended
        assert "404" in result.notes[0]


def test_an_answer_to_the_joining_that_is_lost_joins_again(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    lost = [True]

    def lose(request: Request, connection: Inbound) -> bool:
        if request.headers.get("upload-concat", "").startswith("final") and lost[0]:
            lost[0] = False
            connection.reset()
            return True
        return False

    with TusBook(JOINED, trouble=lose) as server:
        assert put(server, path, part_size=16 * KIB, connections=4).parts_sent == 4


def test_what_was_put_together_wrongly_is_ended_and_made_anew(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    wrong = [True]

    def spoil(request: Request, fields: dict[str, str]) -> dict[str, str]:
        if wrong[0] and request.method == "HEAD":
            wrong[0] = False
            return {**fields, "Upload-Length": "5", "Upload-Offset": "5"}
        return fields

    with TusBook(JOINED, change=spoil) as server:
        result = put(server, path, part_size=16 * KIB, connections=4)
        assert "something else" in result.notes[0]
        assert len(server.uploads) == 1


def test_a_whole_that_does_not_outlive_its_parts_is_made_anew(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)

    def lose(request: Request, connection: Inbound) -> bool:
        if request.method == "DELETE":
            final = [name for name, upload in server.uploads.items() if upload.concat.startswith("final")]
            if final and len(server.asked("POST")) == 5:
                server.uploads.pop(final[0])
        return False

    with TusBook(JOINED, trouble=lose) as server:
        result = put(server, path, part_size=16 * KIB, connections=4)
        assert "lost the upload when its parts were ended" in result.notes[0]
        assert len(server.asked("POST")) == 10
    with TusBook(("creation", "concatenation")) as server:  # where nothing can be ended, nothing is
        put(server, path, part_size=16 * KIB, connections=4)
        assert server.asked("DELETE") == [] and len(server.uploads) == 5


# ---- the checkpoint ----


def test_a_checkpoint_cut_at_any_byte_is_all_again_and_never_wrong(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 1000)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 500)
        saved, kept = checkpoint_of(path), checkpoint_of(path).read_bytes()
        for length in range(len(kept)):
            saved.write_bytes(kept[:length])
            result = put(server, path)
            assert len(result.notes) == 1 and "checkpoint" in result.notes[0], length
        assert len(server.uploads) == len(kept)  # the first one was ended when its URL could be read
        assert len(server.asked("DELETE")) > 1


def test_a_checkpoint_with_any_byte_changed_is_all_again_and_never_wrong(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 1000)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 500)
        saved, kept = checkpoint_of(path), checkpoint_of(path).read_bytes()
        for place in range(len(kept)):
            saved.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
            assert put(server, path).notes != ()


def test_a_damaged_checkpoint_ends_uploads_of_its_own_server_only(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 1000)
    with TusBook(PLAIN) as server, TusBook(PLAIN) as other:
        interrupted(server, path, 500)
        saved = checkpoint_of(path)
        elsewhere = saved.read_bytes().replace(str(server.port).encode(), str(other.port).encode())
        saved.write_bytes(elsewhere)
        put(server, path)
        assert other.requests == []


def test_a_checkpoint_may_be_kept_elsewhere(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    places = tmp_path / "kept"
    places.mkdir()
    with TusBook(PLAIN) as server:
        error = interrupted(server, path, 1000, checkpoint_dir=places)
        assert error.kept is None  # nothing was confirmed
        (saved,) = places.iterdir()
        assert saved.suffix == ".fxput"
        result = fastxfer.put(path, server.target, checkpoint_dir=places)
        assert server.data_of(result.url) == path.read_bytes()
        assert [each.offset for each in server.sent] == [1000]
        assert list(places.iterdir()) == []


def test_a_second_upload_of_the_same_file_to_the_same_place_is_refused(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    come, go = threading.Event(), threading.Event()

    def hold(request: Request, connection: Inbound) -> bool:
        if request.method == "PATCH":
            come.set()
            go.wait(60)
        return False

    with TusBook(PLAIN, trouble=hold) as server:
        thread = threading.Thread(target=fastxfer.put, args=(path, server.target))
        thread.start()
        try:
            assert come.wait(60)
            with pytest.raises(TargetBusyError):
                fastxfer.put(path, server.target)
        finally:
            go.set()
            thread.join(60)
        assert len(server.uploads) == 1


# ---- the file ----


def test_a_file_that_changes_while_it_is_sent_is_never_left_there(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)

    def change(request: Request, connection: Inbound) -> bool:
        if request.method == "PATCH":
            path.write_bytes(data[::-1])
        return False

    for extensions in (PLAIN, CHECKED, JOINED):
        with TusBook(extensions, trouble=change) as server:
            with pytest.raises(LocalChangedError):
                fastxfer.put(path, server.target, part_size=16 * KIB)
            assert server.uploads == {}
        assert left_beside(path) == []


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with TusBook() as server:
        for path, why in ((tmp_path, "not a regular file"), (tmp_path / "missing", "No such file")):
            with pytest.raises(StorageError, match=why):
                fastxfer.put(path, server.target)
        assert server.requests == []


# ---- refusals ----


def test_what_is_locked_is_tried_again_and_is_an_error_in_the_end(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    locked = times(2, "PATCH", lambda request, connection: connection.respond(423))
    with TusBook(PLAIN, trouble=locked) as server:
        put(server, path)
        assert len(server.asked("PATCH")) == 3
        server.trouble = times(100, "PATCH", lambda request, connection: connection.respond(423))
        with pytest.raises(LockedError) as failed:
            fastxfer.put(path, server.target, retries=1)
        assert failed.value.status == 423


def test_a_conflict_is_looked_into_and_gone_on_from(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 1000)

        def more(request: Request, connection: Inbound) -> None:
            upload = server.uploads[request.target.rpartition("/")[2]]
            upload.data[:] = data[:500]  # it falls back
            connection.respond(409)

        server.trouble = times(1, "PATCH", more)
        result = put(server, path)
        assert result.notes == ("the server has lost 500 B that it had confirmed: sent again",)
        assert server.sent[-1].offset == 500


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, ServerError), (503, OverloadedError), (400, HTTPStatusError), (412, HTTPStatusError)],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_refusal_is_a_typed_error_with_the_servers_words(
    tmp_path: Path, status: int, kind: type[HTTPStatusError], method: str
) -> None:
    path, _ = make_file(tmp_path, SIZE)
    said = {"Content-Type": "text/plain", "Retry-After": "0"}
    answer = lambda request, connection: connection.respond(status, said, b"no\x07t today")  # noqa: E731
    with TusBook(PLAIN, trouble=times(100, method, answer)) as server:
        with pytest.raises(kind, match=f"{status} .no�t today.") as failed:
            fastxfer.put(path, server.target, retries=1)
        assert (type(failed.value), failed.value.status) == (kind, status)
        assert len(server.asked(method)) == (2 if status >= 500 else 1)
        server.trouble = times(1, method, answer)
        if status >= 500:
            put(server, path)


def test_too_large_is_told_before_anything_is_sent_or_when_the_server_says_so(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(PLAIN, max_size=SIZE - 1) as server:
        with pytest.raises(TooLargeError, match="299999 bytes at the most") as failed:
            fastxfer.put(path, server.target)
        assert (failed.value.status, server.asked("POST")) == (413, [])
        server.change = lambda request, fields: {k: v for k, v in fields.items() if k != "Tus-Max-Size"}
        with pytest.raises(TooLargeError, match="too large for this server"):
            fastxfer.put(path, server.target)
        path.write_bytes(b"x" * (SIZE - 1))
        put(server, path)


def test_nobody_there_and_somebody_who_says_nothing_are_typed_errors(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with reserve_port() as holder, pytest.raises(NetworkError, match="no connection was made"):
        fastxfer.put(path, f"tus+http://127.0.0.1:{port_of(holder)}/files/", retries=1)
    until = threading.Event()
    stall = times(100, "PATCH", lambda request, connection: connection.stall(until))
    with TusBook(PLAIN, trouble=stall) as server:
        with pytest.raises(TransferTimeoutError, match="nothing moved for 1 s"):
            fastxfer.put(path, server.target, stall_timeout=1, retries=0)
        server.trouble = lambda request, connection: False
        until.set()
        put(server, path)


@pytest.mark.parametrize("status", [404, 405, 501, 301])
def test_a_server_that_does_not_answer_what_it_offers_gets_the_plain_thing(
    tmp_path: Path, status: int
) -> None:
    path, _ = make_file(tmp_path, SIZE)
    answer = times(1, "OPTIONS", lambda request, connection: connection.respond(status))
    with TusBook(ALL, trouble=answer) as server:
        assert put(server, path, part_size=16 * KIB).verified == "none"
        assert len(server.sent) == 1


def test_progress_is_told(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    told: list[fastxfer.Progress] = []
    with TusBook(JOINED) as server:
        put(server, path, part_size=16 * KIB, connections=4, progress=told.append)
    assert (told[-1].state, told[-1].done, told[-1].size) == ("done", SIZE, SIZE)
    assert told[-1].chunks == "#" * 64
    assert told[-1].url == server.target


def test_header_fields_of_the_protocol_are_not_the_callers(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, 10)
    for name in ("Upload-Offset", "tus-resumable", "Content-Type", "Upload-Concat"):
        with pytest.raises(OptionError, match=f"{name} is set by the upload itself"):
            fastxfer.put(path, "tus+http://127.0.0.1:9/", headers={name: "1"})
    for bad in ("tus+http://", "tus+https://h:x/", "tus+http://a b/", "tus://h/"):
        with pytest.raises(OptionError):
            fastxfer.put(path, bad)


def test_the_same_bytes_under_another_inode_are_sent_anew(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 1000)
        other = tmp_path / "other"
        other.write_bytes(data)
        os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        os.replace(other, path)
        assert put(server, path).notes == (CHANGED,)
        assert len(server.uploads) == 1


def test_a_cut_within_each_of_many_requests_still_ends_well(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    counts = iter([1, 40_000, 3, 100_000, 1])

    def cut(request: Request, connection: Inbound) -> None:
        take_and_cut(server, next(counts), request, connection)

    with TusBook(PLAIN, trouble=times(5, "PATCH", cut)) as server:
        put(server, path)
        assert [each.offset for each in server.sent] == [140_005]


@pytest.mark.parametrize("place", [50_000, 400_000, 1_000_000])
@pytest.mark.parametrize(
    "extensions", [JOINED, CHECKED, (*JOINED, "checksum")], ids=["joined", "checked", "both"]
)
def test_after_a_kill_each_lane_goes_on(tmp_path: Path, extensions: tuple[str, ...], place: int) -> None:
    path, data = make_file(tmp_path, 1_200_000)
    code = "import sys, fastxfer; fastxfer.put(sys.argv[1], sys.argv[2], part_size=50_000, connections=4)"
    with TusBook(extensions) as server, Relay(server.target, halt=place) as relay:
        process = subprocess.Popen([sys.executable, "-c", code, str(path), relay.target])
        try:
            relay.wait_until_halted()
        finally:
            process.kill()
            process.wait(DEADLINE_S)
        relay.go_on()
        server.drop()
        begun = set(server.uploads)
        result = fastxfer.put(path, relay.target, part_size=50_000, connections=4)
        assert server.data_of(result.url) == data
        told = {each.target.rpartition("/")[2]: each.told for each in reversed(relay.of("HEAD"))}  # at first
        assert relay.total == len(data) - sum(told[each] for each in begun)
        assert all(each.status == 204 for each in relay.of("PATCH"))
        assert len(server.uploads) == 1
        assert (result.verified == "server") == ("checksum" in extensions)
        assert result.notes == ()
    assert left_beside(path) == []


def test_the_command_line_uploads_to_it(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:
        command = [sys.executable, "-m", "fastxfer", "put", str(path), server.target, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        result = json.loads(done.stdout.splitlines()[-1])
        assert server.data_of(result["url"]) == data
        path.write_bytes(data * 2)
        server.trouble = times(9, "POST", lambda request, connection: connection.respond(413))
        refused = subprocess.run(command[:-1], capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 22 and "413" in refused.stderr


@pytest.mark.parametrize("extensions", [PLAIN, JOINED])
def test_one_that_is_stopped_keeps_what_there_is(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    path, _ = make_file(tmp_path, SIZE)
    come, never = threading.Event(), threading.Event()

    def hold(request: Request, connection: Inbound) -> bool:
        if request.method == "PATCH":
            come.set()
            connection.stall(never)
        return request.method == "PATCH"

    with TusBook(extensions, trouble=hold) as server:
        upload = begin_upload(path, server.target, part_size=16 * KIB, connections=2)
        assert come.wait(60)
        upload.cancel()
        with pytest.raises(InterruptedTransferError):
            upload.wait()
        assert upload.progress.state == "cancelled"
        assert checkpoint_of(path).exists()
        never.set()
        server.trouble = lambda request, connection: False
        put(server, path)
        assert len(server.uploads) == 1
