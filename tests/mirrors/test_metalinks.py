"""A Metalink in place of a URL: one object, its mirrors, its size, its digest and those of its pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import ChecksumError, NotFoundError, OptionError, RemoteChangedError, StorageError
from fastxfer.plan.scheduler import WASTE_BYTES
from tests.faults.scenarios import wait
from tests.faults.test_canaries import CANARY, arrived
from tests.mirrors.group import DEADLINE_S, OBJECT, OTHER, SIZE, Copy, Group, damaged
from tests.servers.raw import Connection, RawServer, Request

PIECE = 1024**2


def metalink(
    urls: list[str], *, size: int | None = SIZE, whole: bool = True, pieces: bool = False, name: str = "a.bin"
) -> str:
    """Returns a Metalink of the object."""
    told = f"<size>{size}</size>" if size is not None else ""
    if whole:
        told += f'<hash type="sha-256">{hashlib.sha256(OBJECT).hexdigest()}</hash>'
    if pieces:
        digests = [hashlib.sha256(OBJECT[at : at + PIECE]).hexdigest() for at in range(0, SIZE, PIECE)]
        told += f'<pieces type="sha-256" length="{PIECE}">'
        told += "".join(f"<hash>{digest}</hash>" for digest in digests) + "</pieces>"
    told += "".join(f'<url priority="{rank}">{url}</url>' for rank, url in enumerate(urls, 1))
    space = "urn:ietf:params:xml:ns:metalink"
    return f'<?xml version="1.0"?><metalink xmlns="{space}"><file name="{name}">{told}</file></metalink>'


def fetch(group: Group, document: str, **options: Any) -> fastxfer.FetchResult:
    """Fetches what a Metalink in a local file names into the group's directory."""
    path = group.directory.parent / "object.meta4"
    path.write_text(document, encoding="utf-8")
    given = {**group.options, **options}
    return wait(fastxfer.start(str(path), group.out, **given), DEADLINE_S)


def test_the_file_gets_its_name_from_the_metalink(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        group.out = group.directory
        result = fetch(group, metalink(group.urls, name="sub/a.bin"))
    assert Path(result.path) == group.directory / "a.bin"
    assert Path(result.path).read_bytes() == OBJECT
    assert result.verified == "checksum"


def test_the_urls_are_mirrors_in_the_order_of_their_priorities(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OTHER), Copy()) as group:
        result = fetch(group, metalink([group.urls[1], group.urls[0]], whole=False))
        assert group.out.read_bytes() == OBJECT
        assert group.gave(result) == [0, SIZE]


@pytest.mark.usefixtures("fixed_places")
@pytest.mark.parametrize("whole", [True, False])
def test_only_the_pieces_that_are_wrong_are_fetched_again(tmp_path: Path, whole: bool) -> None:
    with Group(tmp_path, Copy(damaged(1, 50)), Copy()) as group:
        group.handlers[1].faults = lambda request: None
        # So fast that it would be over before the other one is proven, there would be nobody to ask again.
        document = metalink(group.urls, whole=whole, pieces=True)
        result = fetch(group, document, chunk_size="256K", max_rate="24M")
        assert group.out.read_bytes() == OBJECT
        assert group.named(result) <= {0}
    assert result.verified == "checksum"
    assert result.transferred <= SIZE + 2 * PIECE + WASTE_BYTES, "two pieces and no more, but for races"


@pytest.mark.usefixtures("fixed_places")
def test_pieces_that_are_wrong_for_good_fail(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(damaged(50))) as group:
        with pytest.raises(ChecksumError) as caught:
            fetch(group, metalink(group.urls, whole=False, pieces=True))
        assert not group.out.exists()
        assert caught.value.algorithm == "sha256"
        assert caught.value.expected == hashlib.sha256(OBJECT[12 * PIECE : 13 * PIECE]).hexdigest()
        assert len(group.servers[0].requests) < 40, "it is not tried for ever"


def test_a_mirror_whose_size_is_not_the_metalinks_is_not_used(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OBJECT[:-1]), Copy()) as group:
        result = fetch(group, metalink(group.urls, whole=False))
        assert group.out.read_bytes() == OBJECT
        assert group.named(result) == {0}


def test_when_no_url_has_the_metalinks_size_it_fails(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OBJECT[:-1])) as group, pytest.raises(RemoteChangedError):
        fetch(group, metalink(group.urls))


def test_a_metalink_at_a_url_is_fetched_first(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        document = metalink(group.urls).encode()

        def serve(request: Request, connection: Connection) -> None:
            connection.respond(200, {"Content-Type": "application/metalink4+xml"}, document)

        with RawServer(serve) as server:
            url = server.url("/object.meta4?sig=canary")
            headers = {"Authorization": f"Bearer {CANARY}"}
            result = wait(fastxfer.start(url, group.out, headers=headers, **group.options), DEADLINE_S)
            assert any(CANARY in arrived(request) for request in server.requests)
        assert group.out.read_bytes() == OBJECT
        for mirror in group.servers:
            assert not any(CANARY in arrived(request) for request in mirror.requests), "another origin"
    assert result.size == SIZE


def test_what_a_local_metalink_names_gets_no_secret(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        urls = [*group.urls, group.urls[0] + "2"]
        fetch(group, metalink(urls), auth=("user", CANARY), headers={"Cookie": CANARY})
        for server in group.servers:
            assert server.requests
            assert not any(CANARY in arrived(request) for request in server.requests)


def test_a_metalink_itself_is_fetched_to_a_name_that_ends_so(tmp_path: Path) -> None:
    def serve(request: Request, connection: Connection) -> None:
        connection.respond(200, {}, b"<metalink/>")

    with RawServer(serve) as server:
        fastxfer.fetch(server.url("/object.meta4"), tmp_path / "kept.meta4")
    assert (tmp_path / "kept.meta4").read_bytes() == b"<metalink/>"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "no XML",
        "<metalink/>",
        metalink(["ftp://h/x"]),
        metalink([]),
        metalink(["http://h/x"], name="../x"),
    ],
    ids=["empty", "no-xml", "no-namespace", "no-http", "no-url", "unsafe-name"],
)
def test_what_is_no_metalink_of_one_object_is_refused(tmp_path: Path, document: str) -> None:
    with Group(tmp_path) as group, pytest.raises(OptionError, match="the Metalink cannot be used"):
        fetch(group, document)


def test_several_objects_are_refused(tmp_path: Path) -> None:
    one = metalink(["http://h/x"])
    file = one[one.index("<file") : one.index("</metalink>")]
    with Group(tmp_path) as group, pytest.raises(OptionError, match="names 2 objects"):
        fetch(group, one.replace(file, file + file.replace("a.bin", "b.bin").replace("/x", "/y")))


def test_a_metalink_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.meta4"):
        fastxfer.fetch(str(tmp_path / "none.meta4"), tmp_path / "out")
    gone = RawServer(lambda request, connection: connection.respond(404))
    with gone, pytest.raises(NotFoundError, match="the Metalink is not there"):
        fastxfer.fetch(gone.url("/none.meta4"), tmp_path / "out")
