"""`fetch` and `probe` against real servers: the right bytes, over every protocol, and honest results."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.safekeeping import SMALL_BYTES
from tests.servers.caddy import Caddy
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Content, Fault, RangeHandler, RawServer, Request, first

CHUNK = 256 * 1024
MIB = 1024**2
LARGE = (2048 if os.environ.get("FASTXFER_SOAK") else 256) * MIB  # make soak


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(MIB):
            digest.update(block)
        return digest.hexdigest()


def leftovers(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if ".part" in p.name)


@pytest.mark.usefixtures("no_races")
@pytest.mark.parametrize("sink", ["direct", "mmap", "pwrite"])
@pytest.mark.parametrize("connections", [1, 16, 128])
@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, SMALL_BYTES, SMALL_BYTES + 1, 7 * MIB + 5, 40 * MIB]
)
def test_every_size_arrives_whole(
    nginx: Nginx, objects: Objects, tmp_path: Path, size: int, connections: int, sink: str
) -> None:
    thing = objects.make(size)
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", connections, sink=sink)
    assert sha256(tmp_path / "out") == thing.sha256
    assert (result.size, result.transferred, result.resumed, result.restarts) == (size, size, 0, 0)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("chunk_size", ["1", "7", "1000", "3M", "5G"])
def test_every_chunk_size_arrives_whole(
    nginx: Nginx, objects: Objects, tmp_path: Path, chunk_size: str
) -> None:
    thing = objects.make(3 * MIB + 17)
    fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", chunk_size=chunk_size)
    assert sha256(tmp_path / "out") == thing.sha256


@pytest.mark.parametrize("place", ["disk", "tmpfs"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("connections", [1, 16, 128])
def test_a_large_object_arrives_whole(
    nginx: Nginx,
    objects: Objects,
    tmp_path: Path,
    shared_memory: Path,
    place: str,
    tls: bool,
    connections: int,
) -> None:
    thing = objects.make(LARGE)
    out = (tmp_path if place == "disk" else shared_memory) / "out"
    result = fastxfer.fetch(
        nginx.url(thing.name, tls=tls),
        out,
        connections,
        ca_bundle=str(nginx.ca),
        checksum=f"sha256:{thing.sha256}",
    )
    assert result.verified == "checksum"
    assert result.checksums["sha256"] == thing.sha256 == sha256(out)
    out.unlink()


def test_the_certificate_authoritys_file_may_have_any_name(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(MIB)
    for name in (b"\xc3\xa9.pem", b"\xff.pem"):  # UTF-8, and what is not
        bundle = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
        shutil.copy(nginx.ca, bundle)
        fastxfer.fetch(nginx.url(thing.name, tls=True), tmp_path / "out", ca_bundle=bundle, exists="replace")
        assert sha256(tmp_path / "out") == thing.sha256


def test_http2_over_tls_uses_one_connection(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(24 * MIB, name="http2.bin")
    fastxfer.fetch(
        nginx.url(thing.name, tls=True), tmp_path / "out", 8, ca_bundle=str(nginx.ca), http_version="2"
    )
    assert sha256(tmp_path / "out") == thing.sha256
    entries = nginx.requests("http2.bin", count=2)
    assert {entry.protocol for entry in entries} == {"HTTP/2.0"}
    assert len({entry.connection for entry in entries}) == 1


def test_http11_uses_the_connections_asked_for(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(64 * MIB, name="http11.bin")
    fastxfer.fetch(nginx.url(thing.name, prefix="/slow16m"), tmp_path / "out", 6)
    entries = nginx.requests("http11.bin", count=6)
    assert len({entry.connection for entry in entries}) == 6
    assert {entry.protocol for entry in entries} == {"HTTP/1.1"}


def test_http3_where_the_server_has_it(caddy: Caddy, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB)
    url = caddy.url(thing.name)
    assert fastxfer.probe(url, ca_bundle=str(caddy.ca), http_version="3").http_version == "3"
    fastxfer.fetch(url, tmp_path / "out", 4, ca_bundle=str(caddy.ca), http_version="3")
    assert sha256(tmp_path / "out") == thing.sha256


def test_an_unknown_certificate_is_refused(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(1000)
    with pytest.raises(fastxfer.TLSError) as caught:
        fastxfer.fetch(nginx.url(thing.name, tls=True), tmp_path / "out")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []
    fastxfer.fetch(nginx.url(thing.name, tls=True), tmp_path / "out", verify_tls=False)
    assert sha256(tmp_path / "out") == thing.sha256


@pytest.mark.parametrize("size", [0, 100, 9 * MIB])
def test_a_server_without_ranges_gives_a_single_stream(
    nginx: Nginx, objects: Objects, tmp_path: Path, size: int
) -> None:
    thing = objects.make(size, name=f"single-{size}.bin")
    result = fastxfer.fetch(nginx.url(thing.name, prefix="/noranges"), tmp_path / "out")
    assert sha256(tmp_path / "out") == thing.sha256
    assert result.requests <= 2
    assert not fastxfer.probe(nginx.url(thing.name, prefix="/noranges")).accepts_ranges


def test_a_stream_of_unknown_length_must_end_properly(tmp_path: Path) -> None:
    data = make_bytes(2 * MIB)

    def chunked(request: Request, connection: object) -> None:
        from tests.servers.raw import Connection

        assert isinstance(connection, Connection)
        connection.send_head(200, {"Transfer-Encoding": "chunked"})
        half = len(data) // 2
        connection.send(b"%x\r\n%b\r\n" % (half, data[:half]))
        if request.number < 2:
            connection.close()  # a chunked body that stops half way is no object (RFC 9112 section 8)
            return
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data) - half, data[half:]))

    with RawServer(chunked) as server:
        result = fastxfer.fetch(server.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert (result.size, result.retries) == (len(data), 2)
    assert leftovers(tmp_path) == []


def test_redirects_are_followed_and_named_without_secrets(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(3 * MIB)
    result = fastxfer.fetch(nginx.url(thing.name, prefix="/redirect") + "?token=canary", tmp_path / "out")
    assert sha256(tmp_path / "out") == thing.sha256
    assert result.url == nginx.url(thing.name)
    assert "canary" not in str(result.to_dict())


def test_credentials_of_the_url_are_used_and_not_shown(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(2 * MIB)
    url = nginx.url(thing.name, prefix="/auth")
    with pytest.raises(fastxfer.AuthError):
        fastxfer.fetch(url, tmp_path / "out")
    result = fastxfer.fetch(url.replace("://", "://user:pass@"), tmp_path / "out")
    assert sha256(tmp_path / "out") == thing.sha256
    assert "pass" not in str(result.to_dict())
    fastxfer.fetch(url, tmp_path / "other", auth=("user", "pass"))
    assert sha256(tmp_path / "other") == thing.sha256


def test_a_complete_unchanged_file_is_not_fetched_again(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(5 * MIB, name="again.bin")
    first_time = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert (tmp_path / "out").stat().st_mtime == int(thing.path.stat().st_mtime)
    nginx.requests("again.bin", count=first_time.requests)  # a request is in the log once it has ended
    nginx.forget()
    again = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert not first_time.skipped
    assert again.skipped
    assert sum(entry.body_bytes for entry in nginx.requests("again.bin", count=1)) <= 1
    assert fastxfer.fetch(
        "http://127.0.0.1:9/", tmp_path / "out", checksum=f"sha256:{thing.sha256}"
    ).skipped, "a checksum that holds needs no network"


def test_a_server_without_last_modified_is_known_by_its_etag(tmp_path: Path) -> None:
    handler = RangeHandler(make_bytes(3 * MIB), last_modified=None)
    with RawServer(handler) as server:
        fastxfer.fetch(server.url(), tmp_path / "out")
        assert fastxfer.fetch(server.url(), tmp_path / "out").skipped
        os.utime(tmp_path / "out", (1, 1))  # someone touched it: it may not be the object any more
        assert not fastxfer.fetch(server.url(), tmp_path / "out").skipped


def test_a_changed_remote_replaces_the_file_at_once(tmp_path: Path) -> None:
    handler = RangeHandler(make_bytes(3 * MIB, 1))
    new = make_bytes(2 * MIB, 2)
    with RawServer(handler) as server:
        fastxfer.fetch(server.url(), tmp_path / "out")
        handler.replace(new, last_modified="Thu, 02 Jan 2025 00:00:00 GMT")
        assert not fastxfer.fetch(server.url(), tmp_path / "out").skipped
    assert (tmp_path / "out").read_bytes() == new


@pytest.mark.parametrize("exists", ["skip", "replace", "error"])
def test_what_exists_is_treated_as_asked(nginx: Nginx, objects: Objects, tmp_path: Path, exists: str) -> None:
    thing = objects.make(1000)
    (tmp_path / "out").write_bytes(b"mine")
    if exists == "error":
        with pytest.raises(fastxfer.TargetExistsError):
            fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", exists=exists)
    else:
        result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", exists=exists)
        assert result.skipped == (exists == "skip")
    expected = thing.path.read_bytes() if exists == "replace" else b"mine"
    assert (tmp_path / "out").read_bytes() == expected
    assert leftovers(tmp_path) == []


def test_a_failed_fetch_never_eats_what_was_there(nginx: Nginx, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(fastxfer.NotFoundError) as caught:
        fastxfer.fetch(nginx.url("no-such-object"), tmp_path / "out")
    assert (caught.value.status, caught.value.exit_code) == (404, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_the_object_changing_half_way_starts_again_or_fails(tmp_path: Path) -> None:
    old, new = make_bytes(6 * MIB, 1), make_bytes(6 * MIB, 2)

    def replace_at_third(request: Request) -> None:
        if request.number == 3:
            handler.replace(new)

    handler = RangeHandler(old, faults=replace_at_third, honour_if_range=False)
    with RawServer(handler) as server:
        result = fastxfer.fetch(server.url(), tmp_path / "out", 4)
        assert result.restarts == 1
        assert (tmp_path / "out").read_bytes() == new
        handler.replace(old, etag='"v3"')
        third = len(server.requests) + 2
        handler.faults = lambda request: (
            handler.replace(new, etag='"v4"') if request.number == third else None
        )
        with pytest.raises(fastxfer.RemoteChangedError):
            fastxfer.fetch(server.url(), tmp_path / "two", 4, on_change="fail")
        assert not (tmp_path / "two").exists()


@pytest.mark.usefixtures("no_races")
def test_failed_requests_are_tried_again(tmp_path: Path) -> None:
    data = make_bytes(9 * MIB)
    faults = [
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(cut_after=100_000, reset=True),
        Fault(cut_after=70_000),
        Fault(status=500),
        Fault(cut_after=0, reset=True),
    ]
    handler = RangeHandler(
        data, faults=lambda r: faults[r.number - 1] if 1 <= r.number <= len(faults) else None
    )
    with RawServer(handler) as server:
        result = fastxfer.fetch(server.url(), tmp_path / "out", 4)
    assert (tmp_path / "out").read_bytes() == data
    assert result.retries >= 3
    assert result.transferred == len(data), "what a failed request brought is not fetched twice"


@pytest.mark.usefixtures("no_races")
def test_it_gives_up_after_the_retries_and_keeps_the_progress(tmp_path: Path) -> None:
    data = make_bytes(9 * MIB)
    handler = RangeHandler(data, faults=lambda r: Fault(status=500) if r.number >= 4 else None)
    with RawServer(handler) as server:
        with pytest.raises(fastxfer.ServerError) as caught:
            fastxfer.fetch(server.url(), tmp_path / "out", 4, retries=1)
        assert caught.value.kept is not None
        assert leftovers(tmp_path) == ["out.part", "out.part.ckpt"]
        assert not (tmp_path / "out").exists()
        handler.faults = lambda request: None
        result = fastxfer.fetch(server.url(), tmp_path / "out", 4)
    assert result.resumed > 0
    assert result.transferred == len(data) - result.resumed
    assert (tmp_path / "out").read_bytes() == data


def test_a_stalled_request_times_out_and_is_tried_again(tmp_path: Path) -> None:
    data = make_bytes(3 * MIB)
    handler = RangeHandler(data, faults=first(1, Fault(stall_at=200_000)))
    with RawServer(handler) as server:
        result = fastxfer.fetch(server.url(), tmp_path / "out", 1, stall_timeout=0.3)
    assert (tmp_path / "out").read_bytes() == data
    assert result.retries == 1


def test_a_refused_connection_is_a_network_error(tmp_path: Path, own_nginx: Nginx) -> None:
    url = own_nginx.url("x")
    own_nginx.kill()
    with pytest.raises(fastxfer.NetworkError) as caught:
        fastxfer.fetch(url, tmp_path / "out", retries=1)
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_comes_back_is_waited_for(own_nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(16 * MIB)
    url = own_nginx.url(thing.name, prefix="/slow4m")
    seen: list[str] = []

    def watch(progress: fastxfer.Progress) -> None:
        seen.append(progress.state)
        if progress.done > 2 * MIB and own_nginx.running and "waiting" not in seen:
            own_nginx.kill()
        if progress.state == "waiting" and not own_nginx.running:
            own_nginx.restart()

    result = fastxfer.fetch(url, tmp_path / "out", 2, wait_for_network=60, progress=watch)
    assert sha256(tmp_path / "out") == thing.sha256
    assert "waiting" in seen
    assert result.retries > 0


def test_a_wrong_checksum_fails_and_nothing_stands_under_the_name(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(2 * MIB)
    with pytest.raises(fastxfer.ChecksumError) as caught:
        fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", checksum={"sha256": "0" * 64})
    assert caught.value.actual == thing.sha256
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["md5", "sha1", "sha512", "blake3", "crc32c", "crc64nvme", "crc64xz"])
def test_every_algorithm_verifies(nginx: Nginx, objects: Objects, tmp_path: Path, name: str) -> None:
    from fastxfer.storage.digest import digest_file

    thing = objects.make(3 * MIB + 1)
    expected = digest_file(thing.path, [name])
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", checksum=expected)
    assert result.verified == "checksum"
    assert result.checksums[name] == expected[name]


def test_probe_tells_what_the_server_does(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(5000)
    remote = fastxfer.probe(nginx.url(thing.name, prefix="/redirect"))
    assert (remote.size, remote.accepts_ranges, remote.http_version, remote.redirects) == (
        5000,
        True,
        "1.1",
        1,
    )
    assert remote.etag is not None
    assert remote.last_modified is not None
    assert fastxfer.probe(nginx.url(objects.make(0).name)).size == 0


def test_out_may_be_a_directory_or_absent(
    nginx: Nginx, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = objects.make(1000, name="a b+\u00e4.bin")
    url = nginx.url(thing.name)
    assert fastxfer.fetch(url, tmp_path).path == str(tmp_path / thing.name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert Path(fastxfer.fetch(url).path).resolve() == tmp_path / "sub" / thing.name


@pytest.mark.parametrize(
    ("url", "options", "error", "code"),
    [
        ("gopher://127.0.0.1/x", {}, fastxfer.OptionError, 28),
        ("no-scheme", {}, fastxfer.OptionError, 28),
        ("http://", {}, fastxfer.OptionError, 28),
        ("http:///path", {}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:99999/x", {}, fastxfer.OptionError, 28),
        ("http://127.0.0.1/a b", {}, fastxfer.OptionError, 28),
        ("http://127.0.0.1/x\r\nX: y", {}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"connections": -1}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"connections": 0}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"chunk_size": 0}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"chunk_size": "6G"}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"checksum": "sha256:abc"}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"headers": {"X": "a\r\nb"}}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"headers": {"Range": "bytes=0-1"}}, fastxfer.OptionError, 28),
        ("http://127.0.0.1:9/x", {"sink": "paper"}, fastxfer.OptionError, 28),
        ("http://no-such-host.invalid/x", {"retries": 0}, fastxfer.DNSError, 19),
    ],
)
def test_bad_input_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, url: str, options: dict[str, Any], error: type[fastxfer.FastxferError], code: int
) -> None:
    with pytest.raises(error) as caught:
        fastxfer.fetch(url, tmp_path / "out", **options)
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_and_a_special_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for out in (tmp_path / "no" / "out", tmp_path / "fifo"):
        with pytest.raises(fastxfer.StorageError) as caught:
            fastxfer.fetch("http://127.0.0.1:9/x", out)
        assert caught.value.exit_code == 17
    assert [p.name for p in tmp_path.iterdir()] == ["fifo"]


def test_two_transfers_of_one_target_do_not_mix(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(16 * MIB)
    moving = threading.Event()
    url = nginx.url(thing.name, prefix="/slow4m")

    def watch(progress: fastxfer.Progress) -> None:
        if progress.done:
            moving.set()

    with fastxfer.start(url, tmp_path / "out", 1, progress=watch) as first_one:
        assert moving.wait(20)
        with pytest.raises(fastxfer.TargetBusyError):
            fastxfer.fetch(url, tmp_path / "out")
        assert not first_one.done
    assert leftovers(tmp_path) == ["out.part", "out.part.ckpt"]
    fastxfer.fetch(nginx.url(thing.name), tmp_path / "out")
    assert sha256(tmp_path / "out") == thing.sha256


def test_a_proxy_is_gone_through(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(3 * MIB, name="by-proxy.bin")
    # nginx takes a proxy's request line, an absolute URL, and serves the path whatever the host.
    proxy = nginx.url("").rstrip("/")
    result = fastxfer.fetch("http://no-such-host.invalid/by-proxy.bin", tmp_path / "out", proxy=proxy)
    assert sha256(tmp_path / "out") == thing.sha256
    assert result.url == "http://no-such-host.invalid/by-proxy.bin"


def test_netrc_is_used_only_when_asked(
    nginx: Nginx, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = objects.make(1000)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password pass\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = nginx.url(thing.name, prefix="/auth")
    with pytest.raises(fastxfer.AuthError):
        fastxfer.fetch(url, tmp_path / "out")
    fastxfer.fetch(url, tmp_path / "out", netrc=True)
    assert sha256(tmp_path / "out") == thing.sha256


def test_many_transfers_share_one_engine(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    things = [objects.make(2 * MIB, seed=seed) for seed in range(12)]
    threads_before = threading.active_count()
    transfers = [fastxfer.start(nginx.url(thing.name), tmp_path / thing.name, 4) for thing in things]
    engines = [thread for thread in threading.enumerate() if thread.name == "fastxfer-engine"]
    assert len(engines) == 1
    for transfer, thing in zip(transfers, things, strict=True):
        transfer.wait(60)
        assert sha256(tmp_path / thing.name) == thing.sha256
    assert threading.active_count() <= threads_before + 1 + len(transfers)


def test_a_full_disk_is_named_and_what_came_is_kept(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(9 * MIB)
    program = (
        "import os, subprocess, sys, fastxfer\n"
        "url, place, digest = sys.argv[1:]\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', place], check=True)\n"
        "out = place + '/out'\n"
        "try:\n"
        "    fastxfer.fetch(url, out)\n"
        "except fastxfer.DiskFullError as error:\n"
        "    assert error.exit_code == 9 and not os.path.exists(out)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
        "subprocess.run(['mount', '-o', 'remount,size=20m', place], check=True)\n"
        "fastxfer.fetch(url, out, checksum='sha256:' + digest)\n"
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    subprocess.run(
        [*unshare, sys.executable, "-c", program, nginx.url(thing.name), str(tmp_path), thing.sha256],
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("connections", [1, 16])
def test_the_rate_limit_is_of_all_connections_together(
    nginx: Nginx, objects: Objects, tmp_path: Path, connections: int
) -> None:
    thing = objects.make(16 * MIB)
    result = fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", connections, max_rate="16M")
    assert sha256(tmp_path / "out") == thing.sha256
    assert 0.85 <= result.elapsed <= 2.5, "16 MiB at 16 MiB/s, with a tenth of a second in advance"


def test_text_that_is_not_ascii_travels_in_credentials_and_fields(tmp_path: Path) -> None:
    handler = RangeHandler(make_bytes(1000))
    with RawServer(handler) as server:
        fastxfer.fetch(
            server.url(),
            tmp_path / "out",
            auth=("us\u00e9r", "p\u00e4ss"),
            headers={"X-Note": "\u00e9t\u00e9"},
        )
        assert fastxfer.probe(server.url(), auth=("us\u00e9r", "p")).size == 1000
        fields = server.requests[0].headers
    assert fields["authorization"] == "Basic " + base64.b64encode("us\u00e9r:p\u00e4ss".encode()).decode()
    assert fields["x-note"] == "\u00e9t\u00e9"


def test_an_object_that_never_stands_still_is_given_up(tmp_path: Path) -> None:
    data = make_bytes(4 * MIB)
    handler = RangeHandler(data)
    handler.faults = lambda request: handler.replace(data, etag=f'"{request.number}"')
    with RawServer(handler) as server:
        with pytest.raises(fastxfer.RemoteChangedError):
            fastxfer.fetch(server.url(), tmp_path / "out", 4)
        assert len(server.requests) < 100
    assert not (tmp_path / "out").exists()


def test_an_object_larger_than_the_disk_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    class Huge(RangeHandler):
        def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
            return {
                **super().head(content, status, wanted),
                "Content-Range": f"bytes {wanted[0]}-{wanted[1] - 1}/{2**63 - 1}",
            }

    with RawServer(Huge(make_bytes(MIB))) as server, pytest.raises(fastxfer.DiskFullError) as caught:
        fastxfer.fetch(server.url(), tmp_path / "out")
    assert caught.value.exit_code == 9
    assert list(tmp_path.iterdir()) == []


def test_foreign_part_files_are_never_lost(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(1000)
    for content in (b"one", b"two"):
        (tmp_path / "out.part").write_bytes(content)
        fastxfer.fetch(nginx.url(thing.name), tmp_path / "out", exists="replace")
    kept = {path.read_bytes() for path in tmp_path.glob("out.part.orphan*")}
    assert kept == {b"one", b"two"}
