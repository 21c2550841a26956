"""Facts that the test servers hold, seen with libcurl and plain sockets, without fastxfer."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pycurl
import pytest

from tests.servers import HOST, ServerError, find_program, port_of, reserve_port
from tests.servers.apache import Apache
from tests.servers.caddy import Caddy
from tests.servers.h2o import H2o
from tests.servers.haproxy import Haproxy
from tests.servers.lighttpd import Lighttpd
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes, make_object, sha256_of
from tests.servers.process import Server, open_group
from tests.servers.python_http import PythonHttp
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer, Request, first
from tests.servers.webfs import Webfs

MIB = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What libcurl saw: names of header fields in lower case, `version` as CURLINFO_HTTP_VERSION tells it."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: int
    elapsed_s: float


def get(
    url: str,
    *,
    ca: Path | None = None,
    version: int = pycurl.CURL_HTTP_VERSION_1_1,
    headers: tuple[str, ...] = (),
    user: str = "",
) -> Answer:
    """Returns the answer to one GET; raises pycurl.error where the transfer fails."""
    fields: dict[str, str] = {}
    body = io.BytesIO()

    def take_header(line: bytes) -> None:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()

    curl = pycurl.Curl()
    try:
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTP_VERSION, version)
        curl.setopt(pycurl.HTTPHEADER, list(headers))
        curl.setopt(pycurl.HEADERFUNCTION, take_header)
        curl.setopt(pycurl.WRITEDATA, body)
        curl.setopt(pycurl.TIMEOUT, 20)
        curl.setopt(pycurl.PROXY, "")
        if ca is not None:
            curl.setopt(pycurl.CAINFO, str(ca))
        if user:
            curl.setopt(pycurl.USERPWD, user)
        curl.perform()
        return Answer(
            curl.getinfo(pycurl.RESPONSE_CODE),
            fields,
            body.getvalue(),
            curl.getinfo(pycurl.INFO_HTTP_VERSION),
            curl.getinfo(pycurl.TOTAL_TIME),
        )
    finally:
        curl.close()


# ---------------------------------------------------------------- nginx


def test_nginx_serves_the_whole_object(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(nginx.url(item.name))
    assert answer.status == 200
    assert answer.headers["accept-ranges"] == "bytes"
    assert "etag" in answer.headers
    assert "last-modified" in answer.headers
    assert hashlib.sha256(answer.body).hexdigest() == item.sha256


def test_nginx_answers_a_range_with_206_and_content_range(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(nginx.url(item.name), headers=("Range: bytes=1000-1999",))
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes 1000-1999/{item.size}"
    assert answer.body == item.path.read_bytes()[1000:2000]


def test_nginx_serves_names_with_spaces_and_umlauts(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(1000, name="größe +100% a b/c?.bin")
    for prefix in ("", "/noranges", "/slow1m", "/redirect", "/busy64k"):
        answer = get(nginx.url(item.name, prefix=prefix))
        assert answer.status == (302 if prefix == "/redirect" else 200), prefix
    redirect = get(nginx.url(item.name, prefix="/redirect")).headers["location"]
    assert get(redirect).body == item.path.read_bytes()


def test_noranges_answers_a_range_with_200(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(nginx.url(item.name, prefix="/noranges"), headers=("Range: bytes=1000-1999",))
    assert answer.status == 200
    assert len(answer.body) == item.size


def test_etagless_has_no_etag(nginx: Nginx, objects: Objects) -> None:
    answer = get(nginx.url(objects.make(1000).name, prefix="/etagless"))
    assert answer.status == 200
    assert "etag" not in answer.headers
    assert "last-modified" in answer.headers


def test_novalidators_has_neither_etag_nor_last_modified_but_ranges(nginx: Nginx, objects: Objects) -> None:
    answer = get(nginx.url(objects.make(1000).name, prefix="/novalidators"), headers=("Range: bytes=1-2",))
    assert answer.status == 206
    assert "etag" not in answer.headers
    assert "last-modified" not in answer.headers


def test_auth_wants_user_and_password(nginx: Nginx, objects: Objects) -> None:
    url = nginx.url(objects.make(1000).name, prefix="/auth")
    assert get(url).status == 401
    assert get(url, user="user:wrong").status == 401
    assert get(url, user="user:pass").status == 200


def test_redirect_names_the_same_object(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(1000)
    answer = get(nginx.url(item.name, prefix="/redirect"))
    assert answer.status == 302
    assert answer.headers["location"] == nginx.url(item.name)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416, 429, 500, 502, 503, 504])
def test_status_answers_as_asked(nginx: Nginx, status: int) -> None:
    for url in (nginx.url("", prefix=f"/status/{status}"), nginx.url("object", prefix=f"/status/{status}")):
        answer = get(url)
        assert answer.status == status
        assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_slow_limits_one_connection(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(128 << 10)
    answer = get(nginx.url(item.name, prefix="/slow64k"))
    assert len(answer.body) == item.size
    # 64 KiB come at once, the other 64 KiB take a second by nginx's clock, which counts whole seconds.
    assert 0.5 < answer.elapsed_s < 5


def test_busy_refuses_the_fifth_request_at_once(nginx: Nginx, objects: Objects) -> None:
    name = objects.make(16 * MIB).name
    target = nginx.url(name, prefix="/busy64k").partition(f":{nginx.ports['http']}")[2]
    kept = []
    try:
        for _ in range(4):
            connection = http.client.HTTPConnection(HOST, nginx.ports["http"], timeout=20)
            kept.append(connection)
            connection.request("GET", target)
            assert connection.getresponse().status == 200
        answer = get(nginx.url(name, prefix="/busy"))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    finally:
        for connection in kept:
            connection.close()


def test_tls_negotiates_http_2(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(nginx.url(item.name, tls=True), ca=nginx.ca, version=pycurl.CURL_HTTP_VERSION_2TLS)
    assert answer.version == pycurl.CURL_HTTP_VERSION_2_0
    assert hashlib.sha256(answer.body).hexdigest() == item.sha256


def test_tls_serves_http_1_1_too(nginx: Nginx, objects: Objects) -> None:
    url = nginx.url(objects.make(1000).name, tls=True)
    assert get(url, ca=nginx.ca).version == pycurl.CURL_HTTP_VERSION_1_1
    assert get(url.replace(HOST, "localhost"), ca=nginx.ca).status == 200


def test_tls_is_not_trusted_without_the_authority(nginx: Nginx) -> None:
    with pytest.raises(pycurl.error) as raised:
        get(nginx.url("object", tls=True))
    assert raised.value.args[0] == pycurl.E_SSL_CACERT


def test_h2c_speaks_http_2_over_plain_text(nginx: Nginx, objects: Objects) -> None:
    url = nginx.url(objects.make(1000).name, h2c=True)
    answer = get(url, version=pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    assert answer.status == 200
    assert answer.version == pycurl.CURL_HTTP_VERSION_2_0


def test_log_tells_what_was_asked_and_sent(nginx: Nginx, objects: Objects) -> None:
    item = objects.make(MIB, name="logged.bin")
    get(nginx.url(item.name), headers=("Range: bytes=0-99", 'If-Range: "x"', "User-Agent: tester/1"))
    get(nginx.url(item.name), headers=("Range: bytes=100-299",))
    one, two = nginx.requests(item.name, count=2)
    assert (one.status, one.range, one.if_range, one.user_agent) == (200, "bytes=0-99", '"x"', "tester/1")
    assert (one.body_bytes, one.method, one.protocol, one.completed) == (MIB, "GET", "HTTP/1.1", True)
    assert (two.status, two.body_bytes) == (206, 200)
    assert two.bytes_sent > two.body_bytes
    assert one.connection != two.connection
    assert nginx.requests(item.name, body_bytes=MIB + 200) == [one, two]
    with pytest.raises(ServerError, match="awaited were 3"):
        nginx.requests(item.name, count=3, deadline_s=0.01)


def test_log_tells_which_requests_share_a_connection(nginx: Nginx, objects: Objects) -> None:
    name = objects.make(100, name="shared.bin").name
    connection = http.client.HTTPConnection(HOST, nginx.ports["http"], timeout=20)
    for _ in range(3):
        connection.request("GET", f"/{name}")
        connection.getresponse().read()
    connection.close()
    entries = nginx.requests(name, count=3)
    assert len({entry.connection for entry in entries}) == 1


def test_log_tells_of_a_client_that_went_away(nginx: Nginx, objects: Objects) -> None:
    name = objects.make(8 * MIB, name="left.bin").name
    connection = http.client.HTTPConnection(HOST, nginx.ports["http"], timeout=20)
    connection.request("GET", f"/slow64k/{name}")
    connection.getresponse().read(1000)
    connection.close()
    (entry,) = nginx.requests(name, count=1)
    assert not entry.completed
    assert entry.body_bytes < 8 * MIB


def test_killed_nginx_refuses_connections_and_comes_back_on_its_ports(
    own_nginx: Nginx, objects: Objects
) -> None:
    item = objects.make(1000)
    ports = dict(own_nginx.ports)
    before = own_nginx.pid
    own_nginx.kill()
    assert not own_nginx.running
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), timeout=20)
    own_nginx.restart()
    assert own_nginx.ports == ports
    assert own_nginx.pid != before
    assert get(own_nginx.url(item.name)).status == 200
    assert own_nginx.requests(item.name, count=1)[0].status == 200


def test_kill_cuts_a_transfer(own_nginx: Nginx, objects: Objects) -> None:
    connection = http.client.HTTPConnection(HOST, own_nginx.ports["http"], timeout=20)
    connection.request("GET", f"/slow64k/{objects.make(8 * MIB).name}")
    answer = connection.getresponse()
    assert len(answer.read(1000)) == 1000
    own_nginx.kill()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    connection.close()


def test_stopped_nginx_restarts_gracefully(own_nginx: Nginx, objects: Objects) -> None:
    item = objects.make(1000)
    own_nginx.stop()
    own_nginx.stop()
    with pytest.raises(ServerError, match="not running"):
        _ = own_nginx.pid
    own_nginx.restart()
    own_nginx.restart()
    assert get(own_nginx.url(item.name)).status == 200


# ---------------------------------------------------------------- caddy


def test_caddy_negotiates_http_3(caddy: Caddy, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(caddy.url(item.name), ca=caddy.ca, version=pycurl.CURL_HTTP_VERSION_3ONLY)
    assert answer.version == pycurl.CURL_HTTP_VERSION_3
    assert hashlib.sha256(answer.body).hexdigest() == item.sha256


def test_caddy_answers_a_range_on_every_version(caddy: Caddy, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    versions = {
        pycurl.CURL_HTTP_VERSION_1_1: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.CURL_HTTP_VERSION_2TLS: pycurl.CURL_HTTP_VERSION_2_0,
        pycurl.CURL_HTTP_VERSION_3ONLY: pycurl.CURL_HTTP_VERSION_3,
    }
    for asked, seen in versions.items():
        answer = get(caddy.url(item.name), ca=caddy.ca, version=asked, headers=("Range: bytes=10-19",))
        assert (answer.status, answer.version) == (206, seen)
        assert answer.headers["content-range"] == f"bytes 10-19/{item.size}"


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("kind", [Nginx, Caddy, Apache, Lighttpd, H2o, Webfs, PythonHttp])
def test_a_server_without_arguments_serves_its_own_root(kind: type[Server]) -> None:
    with kind() as server:
        make_object(server.root / "one", 1, seed=3)
        assert get(server.url("one", tls=False)).body == make_bytes(1, seed=3)
        if "tls" in server.ports:
            assert get(server.url("one", tls=True), ca=server.ca).body == make_bytes(1, seed=3)
    assert not server.prefix.exists()


@pytest.mark.parametrize("kind", [Apache, Caddy, H2o])
def test_a_server_speaks_http_2_over_tls(kind: type[Server]) -> None:
    with kind() as server:
        make_object(server.root / "one", 1)
        url = server.url("one", tls=True)
        answer = get(url, ca=server.ca, version=pycurl.CURL_HTTP_VERSION_2TLS)
        assert (answer.status, answer.version) == (200, pycurl.CURL_HTTP_VERSION_2_0)


def test_haproxy_speaks_http_2_for_the_nginx_behind_it(haproxy: Haproxy, objects: Objects) -> None:
    item = objects.make(MIB + 1)
    answer = get(haproxy.url(item.name, tls=True), ca=haproxy.ca, version=pycurl.CURL_HTTP_VERSION_2TLS)
    assert answer.version == pycurl.CURL_HTTP_VERSION_2_0
    assert hashlib.sha256(answer.body).hexdigest() == item.sha256


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Nginx, "nginx.conf"),
        (Caddy, "caddy.json"),
        (Apache, "apache.conf"),
        (Lighttpd, "lighttpd.conf"),
        (H2o, "h2o.conf"),
    ],
)
def test_a_server_that_dies_at_start_tells_its_log(tmp_path: Path, kind: type[Server], config: str) -> None:
    server = kind(tmp_path)
    path = server.prefix / config
    path.write_text(path.read_text() + "\nnonsense;\n")
    with pytest.raises(ServerError, match=f"(?s)ended at once:.*{config}"), server:
        pass
    assert not server.prefix.exists()


@pytest.mark.parametrize("kind", [Nginx, Caddy, Apache, Lighttpd, H2o, Webfs, PythonHttp])
def test_no_process_of_a_server_outlives_its_context(kind: type[Server]) -> None:
    with kind() as server:
        group = server.pid
        os.killpg(group, 0)
    assert open_group(group) == []


@pytest.mark.parametrize("kind", [Caddy, Apache, Lighttpd, H2o, Webfs, PythonHttp])
def test_a_killed_server_refuses_connections_and_comes_back(kind: type[Server]) -> None:
    with kind() as server:
        make_object(server.root / "one", 1)
        group = server.pid
        server.kill()
        assert open_group(group) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, server.ports["http"]), timeout=20)
        server.restart()
        assert get(server.url("one", tls=False)).status == 200


# ---------------------------------------------------------------- raw


@pytest.fixture
def data() -> Iterator[bytes]:
    yield make_bytes(300_000, seed=7)


def test_range_handler_serves_by_the_book(data: bytes) -> None:
    with RawServer(RangeHandler(data)) as server:
        url = server.url()
        whole = get(url)
        assert (whole.status, whole.body) == (200, data)
        assert whole.headers["etag"] == '"v1"'
        for asked, (start, stop) in {
            "bytes=0-0": (0, 1),
            "bytes=5-": (5, len(data)),
            "bytes=-7": (len(data) - 7, len(data)),
            "bytes=100-99999999": (100, len(data)),
        }.items():
            part = get(url, headers=(f"Range: {asked}",))
            assert (part.status, part.body) == (206, data[start:stop])
            assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
        beyond = get(url, headers=(f"Range: bytes={len(data)}-",))
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
        assert get(url, headers=("Range: bytes=9-5",)).status == 200
        assert get(url, headers=('If-Match: "v0"',)).status == 412
        assert [request.number for request in server.requests] == list(range(8))


def test_range_handler_answers_a_stale_if_range_with_200_unless_told(data: bytes) -> None:
    stale = ("Range: bytes=0-9", 'If-Range: "v0"')
    with RawServer(RangeHandler(data)) as server:
        assert get(server.url(), headers=stale).status == 200
        assert get(server.url(), headers=("Range: bytes=0-9", 'If-Range: "v1"')).status == 206
    with RawServer(RangeHandler(data, honour_if_range=False)) as server:
        assert get(server.url(), headers=stale).status == 206
    with RawServer(RangeHandler(data, ranges=False)) as server:
        assert get(server.url(), headers=("Range: bytes=0-9",)).status == 200


def test_first_requests_fail_and_later_ones_do_not(data: bytes) -> None:
    refusal = Fault(status=503, headers={"Retry-After": "1"})
    with RawServer(RangeHandler(data, faults=first(2, refusal))) as server:
        answers = [get(server.url()) for _ in range(3)]
        assert [answer.status for answer in answers] == [503, 503, 200]
        assert answers[0].headers["retry-after"] == "1"


def test_body_can_be_cut(data: bytes) -> None:
    with RawServer(RangeHandler(data, faults=first(1, Fault(cut_after=1000)))) as server:
        with pytest.raises(pycurl.error) as raised:
            get(server.url())
        assert raised.value.args[0] == pycurl.E_PARTIAL_FILE
        assert get(server.url()).body == data


def test_raw_server_can_reset() -> None:
    def handler(request: Request, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        connection.reset()

    with RawServer(handler) as server:
        with socket.create_connection((HOST, server.port), timeout=20) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                while client.recv(1000):
                    pass
        assert server.requests[0].headers == {"host": "x"}


def test_body_stalls_until_the_event(data: bytes) -> None:
    fault = Fault(stall_at=1000)
    with RawServer(RangeHandler(data, faults=first(1, fault))) as server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
        connection.request("GET", "/object")
        answer = connection.getresponse()
        received = answer.read(1000)
        assert connection.sock is not None
        connection.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1, socket.MSG_PEEK)
        connection.sock.settimeout(20)
        fault.until.set()
        while piece := answer.read(100_000):
            received += piece
        assert received == data
        connection.close()


def test_object_changes_between_answers_and_not_within_one(data: bytes) -> None:
    other = make_bytes(200_000, seed=8)
    fault = Fault(stall_at=1000)
    handler = RangeHandler(data, faults=first(1, fault))
    with RawServer(handler) as server:
        answers: list[Answer] = []
        early = threading.Thread(target=lambda: answers.append(get(server.url())))
        early.start()
        server.wait_for_requests(1)
        handler.replace(other)
        late = get(server.url())
        fault.until.set()
        early.join()
        assert (late.body, late.headers["etag"]) == (other, '"v2"')
        assert (answers[0].body, answers[0].headers["etag"]) == (data, '"v1"')


def test_raw_server_stops_while_a_handler_stalls_and_another_sends(data: bytes) -> None:
    started = time.monotonic()
    with RawServer(RangeHandler(data * 100, faults=first(1, Fault(stall_at=0)))) as server:
        clients = [socket.create_connection((HOST, server.port), timeout=20) for _ in range(3)]
        for client in clients[:2]:  # the third never sends a request
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_requests(2)
    assert time.monotonic() - started < 5
    for client in clients:
        client.close()


def test_raw_server_raises_what_its_handler_raised() -> None:
    def handler(request: Request, connection: Connection) -> None:
        raise ValueError("a bug of the test")

    with pytest.raises(ServerError) as raised, RawServer(handler) as server, pytest.raises(pycurl.error):
        get(server.url())
    assert isinstance(raised.value.__cause__, ValueError)


def test_raw_server_reads_bodies_and_keeps_the_connection() -> None:
    def handler(request: Request, connection: Connection) -> None:
        connection.respond(201, {"X-Length": str(len(request.body))}, request.body[:3])

    with RawServer(handler) as server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
        for length in (3, 100_000):
            connection.request("PUT", "/a", body=b"x" * length)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["X-Length"], answer.read()) == (201, str(length), b"xxx")
        connection.close()
        assert [request.connection for request in server.requests] == [0, 0]


# ---------------------------------------------------------------- objects and ports


def test_object_depends_on_size_and_seed_only(tmp_path: Path) -> None:
    size = (4 << 20) + 12345
    path = tmp_path / "a"
    digest = make_object(path, size, seed=1)
    assert path.stat().st_size == size
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(size, seed=1)
    assert make_object(path, size, seed=1) == digest
    assert path.read_bytes() == make_bytes(size, seed=1)
    assert make_bytes(1000, seed=1) == make_bytes(size, seed=1)[:1000]
    assert make_bytes(1000, seed=2) != make_bytes(1000, seed=1)
    assert make_object(path, 0) == hashlib.sha256().hexdigest()


def test_object_bytes_are_the_same_on_every_machine() -> None:
    expected = "c92b396cdc72c459dd757ca47f2d713352d2d60edd5ff755a8ca642ab8d8be8f"
    assert sha256_of((4 << 20) + 1, seed=5) == expected


def test_objects_are_made_once(objects: Objects) -> None:
    item = objects.make(2000, seed=4)
    inode = item.path.stat().st_ino
    changed = item.path.stat().st_mtime_ns
    assert objects.make(2000, seed=4) == item
    assert (item.path.stat().st_ino, item.path.stat().st_mtime_ns) == (inode, changed)


def test_reserved_port_refuses_connections_and_is_given_to_nobody() -> None:
    holder = reserve_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port_of(holder)), timeout=20)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port_of(holder)))
    holder.close()


def test_missing_program_names_what_to_install() -> None:
    with pytest.raises(ServerError, match="apt-get install nowhere"):
        find_program("no-such-program", install="apt-get install nowhere")
