"""Tus servers that misbehave: a typed error or the right bytes, never something else, and nothing told to
strangers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import BadResponseError, FastxferError, HTTPStatusError, NetworkError
from tests.servers.gateway import Inbound
from tests.servers.raw import Request
from tests.servers.tus_book import ALL, PLAIN, Change, TusBook, times
from tests.tus.sending import KIB, interrupted, left_beside, make_file, put

SIZE = 300_000


def changing(method: str, **fields: str | None) -> Change:
    """Returns what sets fields (with _ for -), or takes them out, of the answers to a method."""

    def change(request: Request, given: dict[str, str]) -> dict[str, str]:
        if request.method != method:
            return given
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        kept = {name: value for name, value in given.items() if name not in named}
        return {**kept, **{name: value for name, value in named.items() if value is not None}}

    return change


@pytest.mark.parametrize(
    "value", [None, "", "-1", "1e3", "300001", "0x10", "9" * 40, "1, 2", str(2**63), "150000000"]
)
@pytest.mark.parametrize("method", ["PATCH", "HEAD"])
def test_an_offset_that_cannot_be_is_an_error_and_never_believed(
    tmp_path: Path, method: str, value: str | None
) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 1000)
        server.change = changing(method, Upload_Offset=value)
        try:
            result = fastxfer.put(path, server.target, retries=1)
        except BadResponseError as error:
            assert "pload" in error.message
        else:  # what was wrong was seen, and all was sent to another upload or looked at again
            assert server.data_of(result.url) == data
    assert left_beside(path) == [] or left_beside(path)[0].endswith(".fxput")


def test_an_offset_beyond_what_was_sent_is_another_upload_and_an_error_in_the_end(tmp_path: Path) -> None:
    size = 24 << 20  # more than waits between two sockets
    path, _ = make_file(tmp_path, size)
    lies = [1]

    def lie(request: Request, fields: dict[str, str]) -> dict[str, str]:
        if request.method == "HEAD" and lies[0]:
            lies[0] -= 1
            return {**fields, "Upload-Offset": str(size - 1)}
        return fields

    refuse = times(1, "PATCH", lambda request, connection: connection.respond(409))
    with TusBook(PLAIN, change=lie, trouble=refuse) as server:
        result = put(server, path)
        assert f"has {size - 1} of {size} bytes" in result.notes[0]
        assert len(server.uploads) == 1
        lies[0] = 100
        server.trouble = times(100, "PATCH", lambda request, connection: connection.respond(409))
        with pytest.raises(BadResponseError, match=f"has {size - 1} of {size} bytes"):
            fastxfer.put(path, server.target)
        assert len(server.asked("POST")) == 2 + 3


def test_an_offset_that_goes_backwards_is_sent_again(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:

        def fall_back(request: Request, fields: dict[str, str]) -> dict[str, str]:
            if request.method == "PATCH" and len(server.asked("PATCH")) == 1:
                del server.uploads[request.target.rpartition("/")[2]].data[100:]
                return {**fields, "Upload-Offset": "100"}
            return fields

        server.change = fall_back
        put(server, path)
        assert [each.offset for each in server.sent] == [0, 100]


def test_a_server_that_never_takes_anything_is_an_error(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)

    def forget(request: Request, fields: dict[str, str]) -> dict[str, str]:
        if request.method == "PATCH":
            server.uploads[request.target.rpartition("/")[2]].data.clear()
            return {**fields, "Upload-Offset": "0"}
        return fields

    with TusBook(PLAIN, change=forget) as server:
        with pytest.raises(BadResponseError, match="took nothing"):
            fastxfer.put(path, server.target, retries=2)
        assert len(server.asked("PATCH")) == 3


def test_another_length_is_another_upload(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as server:
        interrupted(server, path, 1000)
        server.uploads[next(iter(server.uploads))].length = SIZE + 1
        assert "of 300001 bytes" in put(server, path).notes[0]
        assert len(server.uploads) == 1


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (None, "no Location"),
        ("", "no Location"),
        ("javascript:alert(1)", "scheme 'javascript'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("http://me:secret@127.0.0.1:9/x", "user info"),
        ("http://[::1/x", "no URL"),
        ("/files/a b", "space or a control"),
        ("/" + "x" * 3000, "more than 2048"),
    ],
)
def test_a_location_that_cannot_be_is_an_error(tmp_path: Path, location: str | None, why: str) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(PLAIN, change=changing("POST", Location=location)) as server:
        with pytest.raises(BadResponseError, match=why) as failed:
            fastxfer.put(path, server.target)
        assert "secret" not in failed.value.message
        assert len(server.asked("POST")) == 1 and server.asked("PATCH") == []
    assert left_beside(path) == []


def test_an_upload_on_another_host_is_told_nothing_of_the_caller(tmp_path: Path) -> None:
    path, data = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as other, TusBook(PLAIN) as server:
        there = fastxfer.put(path, other.target).url
        upload = other.uploads[there.rpartition("/")[2]]
        upload.data.clear()
        other.requests.clear()
        server.change = changing("POST", Location=there)
        target = server.target.replace("//", "//me:canary@")
        result = fastxfer.put(path, target, headers={"X-Mine": "canary", "Cookie": "canary"})
        assert result.url == there
        assert bytes(upload.data) == data
        assert all("canary" in str(request.headers) for request in server.requests)
        assert [request.method for request in other.requests] == ["PATCH"]
        assert "canary" not in str(other.requests) and "authorization" not in str(other.requests)
        upload.data.clear()
        other.trouble = times(1, "PATCH", lambda request, connection: connection.reset())
        with pytest.raises(NetworkError):
            fastxfer.put(path, target, headers={"X-Mine": "canary"}, retries=0)
        result = fastxfer.put(path, target, headers={"X-Mine": "canary"})  # by the checkpoint
        assert (result.url, bytes(upload.data)) == (there, data)
        assert other.asked("HEAD") and "canary" not in str(other.requests)


def test_redirects_are_not_followed(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with TusBook(PLAIN) as other, TusBook(PLAIN) as server:
        to = {"Location": other.url("/files/")}
        for method in ("POST", "PATCH", "HEAD"):
            interrupted(server, path, 1000)
            if method == "POST":
                path.write_bytes(b"changed" * 1000)
            server.trouble = times(100, method, lambda request, connection: connection.respond(307, to))
            with pytest.raises(HTTPStatusError, match="does not follow redirects") as failed:
                fastxfer.put(path, server.target)
            assert failed.value.status == 307
            server.trouble = lambda request, connection: False
            put(server, path)
        assert other.requests == []


@pytest.mark.parametrize(
    ("method", "field", "value", "why"),
    [
        ("OPTIONS", "Tus_Version", "0.2.2,2.0.0", "speaks tus 0.2.2, 2.0.0, and not 1.0.0"),
        ("POST", "Tus_Resumable", None, "no Tus-Resumable"),
        ("POST", "Tus_Resumable", "0.2.2", "by tus '0.2.2'"),
        ("PATCH", "Tus_Resumable", "0.2.2", "by tus '0.2.2'"),
    ],
)
def test_another_version_is_an_error(
    tmp_path: Path, method: str, field: str, value: str | None, why: str
) -> None:
    path, _ = make_file(tmp_path, SIZE)
    with (
        TusBook(PLAIN, change=changing(method, **{field: value})) as server,
        pytest.raises(BadResponseError, match=why),
    ):
        fastxfer.put(path, server.target, retries=0)


def test_a_server_that_knows_no_such_version_says_which(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, SIZE)
    say = {"Tus-Version": "2.0.0"}
    with TusBook(PLAIN, trouble=times(1, "POST", lambda r, c: c.respond(412, say))) as server:
        with pytest.raises(HTTPStatusError, match=r"it speaks tus 2\.0\.0, and not 1\.0\.0") as failed:
            fastxfer.put(path, server.target)
        assert failed.value.status == 412


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH"])
def test_bombs_of_header_fields_and_bodies_are_capped(tmp_path: Path, method: str) -> None:
    path, _ = make_file(tmp_path, SIZE)
    many = "".join(f"X-{number}: {number}\r\n" for number in range(2000)).encode()

    def fields(request: Request, connection: Inbound) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n" + many + b"\r\n")

    with (
        TusBook(PLAIN, trouble=times(100, method, fields)) as server,
        pytest.raises(BadResponseError, match="more than 1000 header fields"),
    ):
        fastxfer.put(path, server.target, retries=1)
    plain = {"Content-Type": "text/plain"}
    long = times(100, method, lambda request, connection: connection.respond(400, plain, b"x" * 100_000))
    with TusBook(PLAIN, trouble=long) as server:
        if method == "OPTIONS":
            put(server, path)
            return
        with pytest.raises(HTTPStatusError) as failed:
            fastxfer.put(path, server.target)
        assert len(failed.value.message) < 500


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_web_page_is_no_tus_server(tmp_path: Path, status: int) -> None:
    path, _ = make_file(tmp_path, SIZE)

    def page(request: Request, connection: Inbound) -> bool:
        connection.respond(status, {"Content-Type": "text/html"}, b"<html>hi</html>" * (status == 200))
        return True

    with TusBook(ALL, trouble=page) as server:
        with pytest.raises(FastxferError, match=r"no Tus-Resumable|answered 20[24]"):
            fastxfer.put(path, server.target, part_size=16 * KIB)
        assert [request.method for request in server.requests] == ["OPTIONS", "POST"]
