"""Names that lead elsewhere, and files that are not what they should be, through real fetches and the real
command.

Before and after, the whole tree is compared: what must not be touched is not, and nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fastxfer
from fastxfer.errors import OptionError, StorageError
from tests.cli.command import fastxfer as command
from tests.cli.command import one_error
from tests.faults.planting import IN_THE_WAY, WORKING_NAMES, hard_link_to_precious, tree
from tests.faults.scenarios import OBJECT, QUICK, Asked, Scenario, crosswise, everywhere, wait
from tests.servers.raw import RangeHandler, RawServer

HOSTILE = [
    "",
    "..",
    "%2e%2e",
    ".%2E",
    "..%2fevil",
    "..%2F..%2Fevil",
    "%2ftmp%2fevil",
    "..%5cevil",
    "a%5Cb",
    "%252e%252e%252fevil",
    "..%252fevil",
    "%25252fevil",
    "a%00b",
    "a%0d%0ab",
    "a%1b[31mb",
    "a%7fb",
    "a%c2%9bb",
    "a%e2%80%a8b",
    "a%e2%80%aegpj.exe",
    "%ef%bb%bfa",
    "a%ffb",
    "%c0%ae%c0%ae%c0%afevil",
    "%ed%b3%bf",
    "c%3aevil",
    "a:stream",
    "con",
    "NUL.txt",
    "a.",
    "a%20",
    "x" * 246,
    "x" * 256,
    "%c3%a9" * 128,
]


@pytest.fixture
def server() -> Iterator[RawServer]:
    """Serves the object under every name."""
    with RawServer(RangeHandler(OBJECT, etag='"v1"')) as running:
        yield running


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A directory with room above it for what gets out."""
    directory = tmp_path / "a" / "b" / "c"
    directory.mkdir(parents=True)
    return directory


# ---- names of URLs ----


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:30]))
def test_a_hostile_name_of_a_url_fails_before_a_request(
    tmp_path: Path, deep: Path, server: RawServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deep)
    before = tree(tmp_path)
    for out in (None, deep, f"{deep}/"):
        with pytest.raises(OptionError) as caught:
            wait(fastxfer.start(server.url(f"/dir/{name}"), out, **QUICK))
        assert caught.value.exit_code == 28
        assert str(caught.value).isprintable()
    assert tree(tmp_path) == before
    assert server.requests == []


@pytest.mark.parametrize("name", HOSTILE[2::3], ids=lambda name: ascii(name[:30]))
def test_a_hostile_name_of_a_url_is_28_on_the_command_line(
    tmp_path: Path, deep: Path, server: RawServer, name: str
) -> None:
    before = tree(tmp_path)
    one_error(command("fetch", server.url(f"/dir/{name}"), cwd=deep), 28)
    assert tree(tmp_path) == before
    assert server.requests == []


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("..x", "..x"),
        ("~", "~"),
        ("~root", "~root"),
        ("-rf", "-rf"),
        ("$(id)", "$(id)"),
        ("a%20b", "a b"),
        ("a%3fb%23c", "a?b#c"),
        ("%ef%bc%8f%ef%bc%9a", "\uff0f\uff1a"),
        ("%d9%85%db%8c%e2%80%8c%d8%ae", "\u0645\u06cc\u200c\u062e"),
        ("x" * 245, "x" * 245),
    ],
    ids=ascii,
)
def test_an_odd_name_that_leads_nowhere_else_is_kept_as_it_is(
    tmp_path: Path, deep: Path, server: RawServer, segment: str, name: str
) -> None:
    result = wait(fastxfer.start(server.url(f"/dir/{segment}"), deep, **QUICK))
    assert result.path == str(deep / name)
    assert (deep / name).read_bytes() == OBJECT
    assert sorted(tree(tmp_path)) == sorted(["a", "a/b", "a/b/c", f"a/b/c/{name}"])


@everywhere
@pytest.mark.parametrize(
    "disposition",
    [
        'attachment; filename="../../evil"',
        "attachment; filename=/tmp/evil",
        "attachment; filename*=UTF-8''..%2f..%2fevil",
        "inline; filename=evil",
    ],
)
def test_content_disposition_is_ignored(
    tmp_path: Path, connections: int, resumed: bool, disposition: str
) -> None:
    scenario = Scenario(tmp_path, connections, resumed)
    scenario.url = scenario.server.url("/dir/out")
    with scenario:
        scenario.server_does(
            lambda asked: asked.send(fields=asked.with_fields(Content_Disposition=disposition))
        )
        result = wait(fastxfer.start(scenario.url, scenario.directory, connections, **QUICK))
    assert (result.path, result.resumed) == (str(scenario.out), scenario.before)
    assert scenario.out.read_bytes() == OBJECT
    assert sorted(tree(tmp_path)) == ["target", "target/out"]


@crosswise
@pytest.mark.parametrize("location", ["/evil", "/..%2fevil", "/%2e%2e", "/dir/", "/con"])
def test_a_redirect_does_not_change_the_name(
    tmp_path: Path, connections: int, resumed: bool, location: str
) -> None:
    scenario = Scenario(tmp_path, connections, resumed)
    scenario.url = scenario.server.url("/dir/out")

    def moved(asked: Asked) -> None:
        if asked.request.target == "/dir/out":
            asked.connection.respond(302, {"Location": location})
        else:
            asked.send()

    with scenario:
        scenario.server_does(moved)
        result = wait(fastxfer.start(scenario.url, scenario.directory, connections, **QUICK))
    assert (result.path, result.resumed) == (str(scenario.out), scenario.before)
    assert scenario.out.read_bytes() == OBJECT
    assert sorted(tree(tmp_path)) == ["target", "target/out"]


# ---- what stands in the way ----


@crosswise
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", WORKING_NAMES)
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_regular_file_is_refused_and_left(
    tmp_path: Path,
    connections: int,
    resumed: bool,
    resume: bool,
    name: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with Scenario(tmp_path, connections, resumed) as scenario:
        way = scenario.directory / name
        IN_THE_WAY[kind](way)
        if name == "out" and kind == "directory":
            scenario.url = scenario.server.url("/out")
            IN_THE_WAY["dangling"](way / "out")  # the object goes into the directory
        scenario.server_does(Asked.send)
        before = tree(tmp_path)
        for exists in ("update", "skip", "replace", "error"):
            with pytest.raises(StorageError, match="not a regular file; remove it") as caught:
                scenario.fetch(resume=resume, exists=exists)
            assert caught.value.exit_code == 17
        assert tree(tmp_path) == before
        assert scenario.requests == []


@crosswise
@pytest.mark.parametrize("resume", [True, False])
def test_a_part_file_that_has_another_name_is_refused_and_left(
    tmp_path: Path, connections: int, resumed: bool, resume: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        hard_link_to_precious(scenario.directory / "out.part")
        scenario.server_does(Asked.send)
        before = tree(tmp_path)
        with pytest.raises(StorageError, match="has another name too") as caught:
            scenario.fetch(resume=resume)
        assert caught.value.exit_code == 17
        assert tree(tmp_path) == before
        assert scenario.requests == []


@pytest.mark.parametrize("name", WORKING_NAMES)
@pytest.mark.parametrize("kind", ["link", "dangling", "device", "pipe"])
def test_what_is_no_regular_file_is_17_on_the_command_line(
    tmp_path: Path, deep: Path, server: RawServer, name: str, kind: str
) -> None:
    IN_THE_WAY[kind](deep / name)
    before = tree(tmp_path)
    told = one_error(command("fetch", server.url(), "-o", deep / "out"), 17)
    assert f"{deep / name}: it is a " in told
    assert tree(tmp_path) == before
    assert server.requests == []


@crosswise
def test_a_directory_may_be_reached_through_links(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        (tmp_path / "link").symlink_to("target")
        (tmp_path / "link2").symlink_to("link")
        scenario.server_does(Asked.send)
        scenario.out = tmp_path / "link2" / "out"
        assert scenario.arrives().resumed == scenario.before


@crosswise
@pytest.mark.parametrize("name", WORKING_NAMES[1:])
def test_the_working_files_of_an_unfinished_transfer_are_not_overwritten_by_another(
    tmp_path: Path, connections: int, resumed: bool, name: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        for each in WORKING_NAMES[1:]:
            (scenario.directory / each).touch()
        before = tree(tmp_path)
        with pytest.raises(StorageError, match="belongs to an unfinished transfer") as caught:
            wait(fastxfer.start(scenario.server.url(f"/{name}"), scenario.directory, connections, **QUICK))
        assert caught.value.exit_code == 17
        assert tree(tmp_path) == before
