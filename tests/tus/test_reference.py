"""Uploads to the tus project's own server: what arrives is what the file is, whatever happened on the way."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import AuthError, NetworkError, TooLargeError
from tests.servers import Authority
from tests.servers.tus_node import TusNode
from tests.tus.relay import DEADLINE_S, Relay
from tests.tus.sending import MIB, checkpoint_of, crc_of, left_beside, make_file

PUT = "import sys, fastxfer; print(fastxfer.put(sys.argv[1], sys.argv[2]).url)"


def id_of(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_a_file_arrives_with_its_name(tus_node: TusNode, tmp_path: Path, size: int) -> None:
    path, data = make_file(tmp_path, size, name="ü a+b%.bin")
    result = fastxfer.put(path, tus_node.target)
    assert tus_node.uploads()[id_of(result.url)] == data
    assert tus_node.name_of(id_of(result.url)) == path.name
    assert result.url.startswith(tus_node.target.removeprefix("tus+"))
    assert (result.size, result.parts, result.verified, result.notes) == (size, 1, "none", ())
    assert result.checksums == crc_of(data)
    assert left_beside(path) == []


def test_over_tls_the_upload_stays_there(tus_node: TusNode, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 9 * MIB)
    result = fastxfer.put(path, tus_node.tls_target, ca_bundle=str(tus_node.ca))
    assert result.url.startswith("https://")
    assert tus_node.uploads()[id_of(result.url)] == data
    with pytest.raises(fastxfer.TLSError):
        fastxfer.put(path, tus_node.tls_target)


def test_a_location_may_be_relative_and_the_limit_is_known_before(
    authority: Authority, tmp_path: Path
) -> None:
    with TusNode(authority, relative=True, max_size=1000) as server:
        path, data = make_file(tmp_path, 1000)
        result = fastxfer.put(path, server.target)
        assert server.uploads()[id_of(result.url)] == data
        path.write_bytes(data + b"!")
        with pytest.raises(TooLargeError, match="takes 1000 bytes at the most, and the file has 1001"):
            fastxfer.put(path, server.target)
        assert len(server.uploads()) == 1
    assert left_beside(path) == []


def test_who_asks_is_told_by_a_header_field_or_in_the_url(authority: Authority, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 9 * MIB)
    with TusNode(authority, authorization="Bearer of-a-secret") as server:
        with pytest.raises(AuthError, match=r"401 \(who are you\?\)") as refused:
            fastxfer.put(path, server.target)
        assert (refused.value.status, refused.value.exit_code) == (401, 24)
        result = fastxfer.put(path, server.target, headers={"Authorization": "Bearer of-a-secret"})
        assert server.uploads()[id_of(result.url)] == data
    with TusNode(authority, authorization="Basic bWU6c2VjcmV0") as server:
        result = fastxfer.put(path, server.target.replace("//", "//me:secret@"))
        assert "secret" not in str(result.to_dict())
        assert server.uploads()[id_of(result.url)] == data


@pytest.mark.parametrize("point", range(10))
def test_after_a_kill_it_goes_on_where_the_server_is(tus_node: TusNode, tmp_path: Path, point: int) -> None:
    path, data = make_file(tmp_path, 24 * MIB, seed=point)
    place = random.Random(point).randrange(1, len(data))
    with Relay(tus_node.target, halt=place) as relay:
        process = subprocess.Popen([sys.executable, "-c", PUT, str(path), relay.target])
        try:
            relay.wait_until_halted()
        finally:
            process.kill()
            process.wait(DEADLINE_S)
        assert checkpoint_of(path).stat().st_size > 0
        begun = relay.of("PATCH")[0].target
        relay.go_on()
        result = fastxfer.put(path, relay.target)
        (looked,), (sent,) = relay.of("HEAD"), relay.of("PATCH")
        assert relay.of("POST") == []
    assert id_of(result.url) == id_of(begun)
    assert tus_node.uploads()[id_of(begun)] == data
    assert 0 <= looked.told == sent.offset <= place
    assert sent.passed == relay.total == len(data) - sent.offset
    assert (result.parts_sent, result.checksums, result.notes) == (1, crc_of(data), ())
    assert left_beside(path) == []


def test_a_network_that_cuts_again_and_again_costs_nothing_twice(tus_node: TusNode, tmp_path: Path) -> None:
    path, data = make_file(tmp_path, 24 * MIB)
    with Relay(tus_node.target, cuts=[1, 3 * MIB, 3 * MIB + 1, 11 * MIB, 20 * MIB]) as relay:
        result = fastxfer.put(path, relay.target)
        sent, looked = relay.of("PATCH"), relay.of("HEAD")
    assert tus_node.uploads()[id_of(result.url)] == data
    assert result.checksums == crc_of(data)
    assert len(sent) == 6
    assert [each.offset for each in sent[1:]] == [each.told for each in looked if each.status == 200]


def test_a_server_that_is_killed_is_sent_the_rest_when_it_is_back(
    authority: Authority, tmp_path: Path
) -> None:
    path, data = make_file(tmp_path, 24 * MIB)
    with TusNode(authority) as server:

        def fall_and_rise() -> None:
            server.kill()
            server.start()

        with Relay(server.target, cuts=[9 * MIB], act=fall_and_rise) as relay:
            result = fastxfer.put(path, relay.target)
            assert len(relay.of("POST")) == 1
        assert server.uploads()[id_of(result.url)] == data
        assert result.checksums == crc_of(data)


def begun(server: TusNode, path: Path, place: int) -> tuple[Relay, str]:
    """Uploads so many bytes and fails; returns the relay, still to be ended, and the upload's id."""
    relay = Relay(server.target, cuts=[place])
    relay.__enter__()
    with pytest.raises(NetworkError) as failed:
        fastxfer.put(path, relay.target, retries=0)
    assert failed.value.kept is None or str(checkpoint_of(path)) in failed.value.kept
    upload = id_of(relay.of("PATCH")[0].target)
    relay.go_on()
    return relay, upload


@pytest.mark.parametrize("how", ["bytes", "size", "bytes under the same time"])
def test_a_file_that_has_changed_is_sent_anew_and_the_old_upload_ended(
    tus_node: TusNode, tmp_path: Path, how: str
) -> None:
    path, data = make_file(tmp_path, 16 * MIB)
    relay, old = begun(tus_node, path, 9 * MIB)
    try:
        there = path.stat()
        data = bytes([data[0] ^ 1]) + data[1:] + (b"more" if how == "size" else b"")
        with path.open("r+b") as file:
            file.write(data)
        if how == "bytes under the same time":
            os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))
        result = fastxfer.put(path, relay.target)
    finally:
        relay.__exit__(None, None, None)
    assert [each.target.endswith(old) for each in relay.of("DELETE")] == [True]
    assert old not in tus_node.uploads()
    assert tus_node.uploads()[id_of(result.url)] == data
    assert result.notes == ("the file has changed since a part of it was sent: all of it again",)


@pytest.mark.parametrize("how", ["removed", "expired"])
def test_an_upload_that_is_gone_is_begun_anew(authority: Authority, tmp_path: Path, how: str) -> None:
    path, data = make_file(tmp_path, 16 * MIB)
    with TusNode(authority, expire_ms=3_600_000) as server:
        relay, old = begun(server, path, 9 * MIB)
        try:
            if how == "removed":
                server.remove(old)
            else:
                server.make_old(old)
            result = fastxfer.put(path, relay.target)
        finally:
            relay.__exit__(None, None, None)
        assert server.uploads()[id_of(result.url)] == data
        assert id_of(result.url) != old
        (note,) = result.notes
        assert ("404" if how == "removed" else "410") in note
