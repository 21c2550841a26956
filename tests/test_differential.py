"""The same objects from servers that differ: the same bytes, and what docs/servers.md says of each server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from tests.cli.command import claimed, events, running, wait_until
from tests.cli.command import fastxfer as command
from tests.servers.objects import Objects, TestObject, make_object
from tests.servers.process import Server
from tests.test_fetch import leftovers, sha256
from tests.test_resume import Watch, wait_for
from tests.test_servers import get

pytestmark = pytest.mark.usefixtures("no_races")  # what comes is counted

CHUNK = 256 * 1024
MIB = 1024**2
SIZE = 16 * MIB
RATE = "16M"
KILL_AT = 3 * MIB
LONG_AGO_S = 1_700_000_000
DEADLINE_S = 60.0
STALE = ("Range: bytes=10-19", 'If-Range: "stale"')


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a server; the tests here hold it to be true.

    `stale` is its status for a range under an ETag that is not the object's any more, `beyond` for a range
    that ends past the end, `empty` for one of an empty object. `etag_of` says what besides the size has its
    ETag change: the "second" or the "moment" of the modification, or the "file". `remembers` says that it may
    serve a file for a second after another one has taken its name.
    """

    ranges: bool = True
    etag_of: str | None = "second"
    remembers: bool = False
    stale: int = 200
    beyond: int = 206
    empty: int = 200
    http2: bool = False
    gzip: bool = False


SERVERS = {
    "nginx": Facts(http2=True, gzip=True),
    "apache": Facts(etag_of="moment", http2=True, gzip=True),
    "lighttpd": Facts(etag_of="file", remembers=True),
    "caddy": Facts(etag_of="moment", http2=True, gzip=True),
    "h2o": Facts(stale=206, empty=416, http2=True, gzip=True),
    "haproxy": Facts(http2=True, gzip=True),
    "webfs": Facts(etag_of=None, beyond=400, empty=400),
    "python_http": Facts(ranges=False, etag_of=None, beyond=200),
}
RANGED = [name for name, facts in SERVERS.items() if facts.ranges]
WAYS = [(name, "1.1") for name in SERVERS] + [(name, "2") for name, facts in SERVERS.items() if facts.http2]
CHANGING = [(name, "1.1") for name in SERVERS] + [("nginx", "2"), ("h2o", "2")]

everywhere = pytest.mark.parametrize("name", SERVERS)
ranged = pytest.mark.parametrize("name", RANGED)
every_way = pytest.mark.parametrize(("name", "version"), WAYS)


@pytest.fixture
def server(request: pytest.FixtureRequest, name: str) -> Server:
    """The session's server of the test's `name`."""
    found = request.getfixturevalue(name)
    assert isinstance(found, Server)
    return found


@pytest.fixture(scope="module")
def specimens(objects: Objects) -> list[TestObject]:
    """Objects of all sizes and names, last modified long ago."""
    sparse = bytearray(40 * MIB)
    for at in range(0, len(sparse), 3 * MIB):
        sparse[at : at + 1000] = at.to_bytes(4, "little") * 250
    text = "".join(f"line {number} of a text that gzip makes small\n" for number in range(20_000)).encode()
    things = [
        objects.make(size, name=f"differential/{size}.bin")
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * MIB + 17)
    ]
    names = [
        "größe 文件.bin",
        "a+b c.bin",
        "100% %41.bin",
        "a#b?c&d=e;f.bin",
        ".hidden",
        "..x...y..bin.",
        "~tilde'(1)!.bin",
    ]
    things += [
        objects.make(CHUNK + 1000, seed, f"differential/odd/{name}") for seed, name in enumerate(names)
    ]
    things.append(objects.put("differential/sparse.bin", bytes(sparse)))
    things += [objects.put(f"differential/{name}", text) for name in ("text.txt", "page.html")]
    for thing in things:
        os.utime(thing.path, (LONG_AGO_S, LONG_AGO_S))
    return things


def options_for(server: Server, version: str = "1.1") -> dict[str, Any]:
    """Returns the options of a fetch over this version of HTTP."""
    return {"http_version": version, "ca_bundle": str(server.ca)}


@every_way
@pytest.mark.parametrize("connections", [1, 16])
def test_every_object_arrives(
    server: Server,
    specimens: list[TestObject],
    tmp_path: Path,
    name: str,
    version: str,
    connections: int,
) -> None:
    options = options_for(server, version)
    for thing in specimens:
        url = server.url(thing.name, tls=version == "2")
        told = fastxfer.probe(url, **options)
        out = tmp_path / "out"
        result = fastxfer.fetch(url, out, connections, checksum=f"sha256:{thing.sha256}", **options)
        assert sha256(out) == thing.sha256, thing.name
        assert (result.size, result.verified) == (thing.size, "checksum"), thing.name
        assert (told.size, told.etag, told.last_modified) == (
            result.size,
            result.etag,
            result.last_modified,
        ), thing.name
        assert told.http_version == (version if name != "python_http" else "1.0")
        assert told.last_modified == "Tue, 14 Nov 2023 22:13:20 GMT"
        assert told.accepts_ranges == (SERVERS[name].ranges and thing.size > 0), thing.name
        assert (told.etag is None) == (SERVERS[name].etag_of is None), thing.name
        assert (result.transferred, result.restarts, result.retries) == (thing.size, 0, 0), thing.name
        assert leftovers(tmp_path) == [], thing.name
        out.unlink()


@everywhere
def test_the_command_line_fetches_the_same(
    server: Server, specimens: list[TestObject], tmp_path: Path, name: str
) -> None:
    odd = next(thing for thing in specimens if "größe" in thing.name)
    text = next(thing for thing in specimens if thing.name.endswith(".txt"))
    digest = f"sha256:{odd.sha256}"
    done = command("fetch", server.url(odd.name, tls=False), "-d", tmp_path, "--checksum", digest, "--json")
    assert done.returncode == 0, done.stderr
    assert events(done.stdout)[-1]["verified"] == "checksum"
    assert sha256(tmp_path / "größe 文件.bin") == odd.sha256
    secure = SERVERS[name].http2
    options = ("--http-version", "2", "--ca-bundle", server.ca) if secure else ()
    done = command("fetch", server.url(text.name, tls=secure), "-o", tmp_path / "text", *options)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "text") == text.sha256
    assert sorted(os.listdir(tmp_path)) == ["größe 文件.bin", "text"]


@everywhere
def test_text_is_gzip_for_others_and_itself_for_us(
    server: Server, specimens: list[TestObject], tmp_path: Path, name: str
) -> None:
    for thing in (thing for thing in specimens if thing.name.endswith((".txt", ".html"))):
        url = server.url(thing.name, tls=False)
        coded = get(url, headers=("Accept-Encoding: gzip",))
        assert (coded.headers.get("content-encoding") == "gzip") == SERVERS[name].gzip
        assert (len(coded.body) < thing.size // 5) == SERVERS[name].gzip
        fastxfer.fetch(url, tmp_path / "out")
        assert sha256(tmp_path / "out") == thing.sha256
        (tmp_path / "out").unlink()


@everywhere
def test_a_range_under_an_etag_of_another_object(
    server: Server, specimens: list[TestObject], name: str
) -> None:
    answer = get(server.url(specimens[-1].name, tls=False), headers=STALE)
    assert answer.status == SERVERS[name].stale
    assert len(answer.body) == (10 if SERVERS[name].stale == 206 else specimens[-1].size)


@everywhere
def test_a_range_past_the_end(server: Server, specimens: list[TestObject], tmp_path: Path, name: str) -> None:
    empty, one_byte = specimens[:2]
    for thing, status in ((empty, SERVERS[name].empty), (one_byte, SERVERS[name].beyond)):
        url = server.url(thing.name, tls=False)
        answer = get(url, headers=("Range: bytes=0-262143",))
        assert answer.status == status, thing.name
        result = fastxfer.fetch(url, tmp_path / "out", exists="replace")
        assert result.requests == (1 if status < 400 else 2), "what refuses the range gives the whole"


@everywhere
def test_a_second_fetch_is_skipped(server: Server, specimens: list[TestObject], tmp_path: Path) -> None:
    for thing in specimens:
        url = server.url(thing.name, tls=False)
        assert not fastxfer.fetch(url, tmp_path / "out", exists="replace").skipped
        again = fastxfer.fetch(url, tmp_path / "out")
        assert (again.skipped, again.transferred <= 1) == (True, True), thing.name
        assert sha256(tmp_path / "out") == thing.sha256


# ---------------------------------------------------------------- objects that change


@pytest.fixture
def thing(objects: Objects, name: str) -> Iterator[TestObject]:
    """An object of the test's own, to be replaced."""
    made = objects.make(SIZE, seed=1, name=f"differential/changing-{name}.bin")
    os.utime(made.path, (LONG_AGO_S, LONG_AGO_S))
    yield made
    made.path.unlink()


def rival_of(thing: TestObject, modified_s: int, size: int = SIZE) -> TestObject:
    """Returns another object; `os.replace(its path, thing.path)` puts it in the place."""
    path = thing.path.with_suffix(".new")
    digest = make_object(path, size, seed=2)
    os.utime(path, (modified_s, modified_s))
    return TestObject(path.name, path, size, digest)


def kill_half_way(url: str, out: Path) -> None:
    """Runs the command and kills it as soon as its checkpoint claims KILL_AT bytes."""
    with running("fetch", url, "-o", out, "-x", "8", "--max-rate", RATE) as process:
        wait_until(lambda: claimed(out) >= KILL_AT)
        process.kill()
    assert leftovers(out.parent) == ["out.part", "out.part.ckpt"]
    assert not out.exists()


@everywhere
def test_killed_half_way_it_goes_on(server: Server, thing: TestObject, tmp_path: Path, name: str) -> None:
    url, out = server.url(thing.name, tls=False), tmp_path / "out"
    kill_half_way(url, out)
    result = fastxfer.fetch(url, out)
    assert sha256(out) == thing.sha256
    assert leftovers(tmp_path) == []
    if SERVERS[name].ranges:
        assert result.resumed >= KILL_AT
        assert result.resumed + result.transferred == SIZE
        assert result.restarts == 0
    else:
        assert (result.resumed, result.transferred, result.restarts) == (0, SIZE, 1)
        assert any("does not send ranges" in note for note in result.notes)


@everywhere
def test_killed_half_way_and_then_replaced_it_starts_again(
    server: Server, thing: TestObject, tmp_path: Path
) -> None:
    url, out = server.url(thing.name, tls=False), tmp_path / "out"
    kill_half_way(url, out)
    before = fastxfer.probe(url)
    new = rival_of(thing, LONG_AGO_S + 10)
    os.replace(new.path, thing.path)
    wait_until(lambda: fastxfer.probe(url).last_modified != before.last_modified)
    result = fastxfer.fetch(url, out)
    assert sha256(out) == new.sha256
    assert (result.resumed, result.restarts) == (0, 1)


@pytest.mark.parametrize(("name", "version"), CHANGING)
def test_replaced_while_it_is_fetched_it_is_never_a_mix(
    server: Server, thing: TestObject, tmp_path: Path, name: str, version: str
) -> None:
    watch, new = Watch(at=KILL_AT), rival_of(thing, LONG_AGO_S + 10)
    url, out = server.url(thing.name, tls=version == "2"), tmp_path / "out"
    with fastxfer.start(
        url, out, 16, max_rate=RATE, progress=watch, **options_for(server, version)
    ) as moving:
        wait_for(watch.reached)
        os.replace(new.path, thing.path)
        result = moving.wait(DEADLINE_S)
    assert sha256(out) == (new.sha256 if result.restarts else thing.sha256)
    if not SERVERS[name].ranges:
        assert result.restarts == 0, "one answer is of one file, which lives on until it is sent"
    elif not SERVERS[name].remembers:
        assert result.restarts == 1


def stop_half_way(url: str, out: Path) -> None:
    """Cancels a transfer of the object when KILL_AT bytes are there."""
    watch = Watch(at=KILL_AT)
    with fastxfer.start(url, out, 8, max_rate=RATE, progress=watch) as moving:
        wait_for(watch.reached)
        moving.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError):
            moving.wait(DEADLINE_S)


@pytest.mark.parametrize(("name", "size"), [*((name, MIB) for name in SERVERS), ("webfs", 0), ("h2o", 0)])
def test_stopped_half_way_and_then_replaced_by_one_of_another_size_it_starts_again(
    server: Server, thing: TestObject, tmp_path: Path, size: int
) -> None:
    url, out = server.url(thing.name, tls=False), tmp_path / "out"
    stop_half_way(url, out)
    new = rival_of(thing, LONG_AGO_S + 10, size)
    os.replace(new.path, thing.path)
    wait_until(lambda: fastxfer.probe(url).size == size)
    result = fastxfer.fetch(url, out)
    assert sha256(out) == new.sha256
    assert (result.size, result.resumed, result.restarts) == (size, 0, 1)


@ranged
def test_replaced_by_one_of_the_same_size_and_time_the_checksum_tells(
    server: Server, thing: TestObject, tmp_path: Path, name: str
) -> None:
    url, out = server.url(thing.name, tls=False), tmp_path / "out"
    stop_half_way(url, out)
    before = fastxfer.probe(url)
    new = rival_of(thing, LONG_AGO_S)
    os.replace(new.path, thing.path)
    if SERVERS[name].etag_of == "file":
        wait_until(lambda: fastxfer.probe(url).etag != before.etag)
    else:
        assert fastxfer.probe(url) == before
    result = fastxfer.fetch(url, out, checksum=f"sha256:{new.sha256}")
    assert sha256(out) == new.sha256
    assert result.restarts == 1


@ranged
def test_an_etag_in_the_same_second(server: Server, thing: TestObject, name: str) -> None:
    url = server.url(thing.name, tls=False)
    before = fastxfer.probe(url)
    os.utime(thing.path, (LONG_AGO_S + 0.5, LONG_AGO_S + 0.5))
    if SERVERS[name].etag_of in ("second", None):
        assert fastxfer.probe(url) == before
    else:
        wait_until(lambda: fastxfer.probe(url).etag != before.etag)


only_apache = pytest.mark.parametrize("name", ["apache"])


@only_apache
def test_an_etag_that_is_weak_while_the_object_is_new_and_strong_later(
    server: Server, thing: TestObject, tmp_path: Path
) -> None:
    url = server.url(thing.name)

    def etag_of_new() -> str:
        os.utime(thing.path)
        return fastxfer.probe(url).etag or ""

    wait_until(lambda: etag_of_new().startswith("W/"))
    weak = fastxfer.probe(url).etag or ""
    stop_half_way(url, tmp_path / "out")
    wait_until(lambda: not (fastxfer.probe(url).etag or "").startswith("W/"))
    result = fastxfer.fetch(url, tmp_path / "out")
    assert result.etag == weak.removeprefix("W/")
    assert result.resumed >= KILL_AT
    assert (result.resumed + result.transferred, result.restarts) == (SIZE, 0)
    assert sha256(tmp_path / "out") == thing.sha256


@only_apache
def test_a_416_without_a_size_under_a_weak_etag_has_the_object_looked_at(
    server: Server, thing: TestObject, tmp_path: Path
) -> None:
    url = server.url(thing.name)
    os.utime(thing.path, (2**32, 2**32))  # which keeps its ETag weak
    stop_half_way(url, tmp_path / "out")
    new = rival_of(thing, LONG_AGO_S, MIB)
    os.replace(new.path, thing.path)
    beyond = get(url, headers=(f"Range: bytes={2 * MIB}-",))
    assert (beyond.status, "content-range" in beyond.headers) == (416, False)
    result = fastxfer.fetch(url, tmp_path / "out")
    assert (result.size, result.resumed, result.restarts) == (MIB, 0, 1)
    assert sha256(tmp_path / "out") == new.sha256


@only_apache
def test_an_object_from_the_future_has_another_date_in_every_answer(
    server: Server, thing: TestObject, tmp_path: Path
) -> None:
    url = server.url(thing.name)
    os.utime(thing.path, (2**32, 2**32))
    dates = {fastxfer.probe(url).last_modified}
    result = fastxfer.fetch(url, tmp_path / "out", max_rate="12M")
    dates.add(fastxfer.probe(url).last_modified)
    assert len(dates) == 2
    assert sha256(tmp_path / "out") == thing.sha256
    assert result.restarts == 0
