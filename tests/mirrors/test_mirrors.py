"""Several mirrors of one object: their bytes are mixed only where they are known to be the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import AuthError, ChecksumError, NetworkError, NotFoundError
from tests.faults.scenarios import sha256_of, wait
from tests.mirrors.group import DEADLINE_S, OBJECT, OTHER, SHA256, SIZE, Copy, Group, damaged
from tests.servers.raw import Fault, Request, first

GONE = Fault(status=404)
UNHURRIED: dict[str, Any] = {"max_rate": "8M"}
"""So that the transfer is not over before a mirror has been held against the first."""


def always_gone(_request: Request) -> Fault:
    return GONE


def server_error(_request: Request) -> Fault:
    return Fault(status=500)


def refused(_request: Request) -> Fault:
    return Fault(status=403)


def gone_later(request: Request) -> Fault | None:
    return GONE if request.number >= 6 else None


def test_all_mirrors_serve_though_their_validators_differ(tmp_path: Path) -> None:
    hold = (
        threading.Event()
    )  # for all: who was proven first would else have fetched all before the others are
    copies = Copy(held=hold), Copy(etag='"other"', held=hold), Copy(etag=None, last_modified=None, held=hold)
    with Group(tmp_path, *copies, stall_timeout=60) as group:
        transfer = group.start()
        for server in group.servers[1:]:
            server.wait_for_requests(5, DEADLINE_S)  # four are samples
        hold.set()
        result = wait(transfer, DEADLINE_S)
        assert group.out.read_bytes() == OBJECT
        assert all(group.gave(result)), "each of them gave bytes"
        for_second = [r.headers.get("if-range") for r in group.servers[1].requests]
    assert result.notes == ()
    assert set(for_second[1:]) == {'"other"'}, "its own validator, and nobody else's"


def test_a_mirror_that_has_other_bytes_is_not_used_and_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OTHER), Copy()) as group:
        result = group.arrives(**UNHURRIED)
        assert group.gave(result)[1] == 0
        assert group.named(result) == {1}
    assert "other bytes" in result.notes[0]


def test_a_mirror_whose_object_has_another_size_is_not_used_and_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OBJECT + b"more"), Copy(OBJECT[:-1])) as group:
        result = group.arrives(**UNHURRIED)
        assert group.gave(result) == [SIZE, 0, 0]
        assert group.named(result) == {1, 2}


def test_a_mirror_that_sends_no_ranges_is_not_used_and_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(ranges=False)) as group:
        result = group.arrives(**UNHURRIED)
        assert group.gave(result) == [SIZE, 0]
        assert group.named(result) == {1}


def test_an_error_page_with_200_is_not_the_object(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(b"<html>no such object</html>", etag=None, ranges=False)) as group:
        result = group.arrives(**UNHURRIED)
        assert group.named(result) == {1}


def test_the_same_etag_proves_nothing(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(etag='"same"'), Copy(OTHER, etag='"same"')) as group:
        result = group.arrives(**UNHURRIED)
        assert group.named(result) == {1}


def test_without_a_checksum_the_first_url_is_believed(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OTHER), Copy(OTHER)) as group:
        result = group.arrives()
        assert group.gave(result) == [SIZE, 0, 0]


@pytest.mark.usefixtures("fixed_places")
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_with_a_checksum_a_mirror_that_is_wrong_in_places_is_found_and_mended(
    tmp_path: Path, wrong: int
) -> None:
    hold = threading.Event()
    bad = damaged(*range(96))
    copies = [Copy(bad if index == wrong else OBJECT, held=hold) for index in range(3)]
    with Group(tmp_path, *copies, stall_timeout=20) as group:
        transfer = group.start(checksum=SHA256)
        for server in group.servers[1:]:
            server.wait_for_requests(5, DEADLINE_S)  # so that each gives something
        hold.set()
        result = wait(transfer, DEADLINE_S)
        assert group.out.read_bytes() == OBJECT
        assert all(group.gave(result))
        assert group.named(result) == {wrong}
    assert (result.verified, result.restarts) == ("checksum", 0)
    assert result.transferred < 3 * SIZE, "of each what was in doubt was fetched again, and no more"


@pytest.mark.usefixtures("fixed_places")
def test_with_a_checksum_a_wrong_first_url_is_found_and_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(damaged(*range(0, 96, 2))), Copy(), Copy()) as group:
        result = group.arrives(checksum=SHA256)
        assert group.named(result) >= {0}
    assert result.verified == "checksum"


def test_with_a_checksum_the_dissenter_may_be_right(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OTHER), Copy()) as group:
        result = group.arrives(checksum=SHA256)
        assert group.gave(result)[1] == SIZE
        assert group.named(result) >= {0}
    assert result.restarts == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_with_a_checksum_mirrors_that_were_not_needed_yet_are_asked(tmp_path: Path, ranges: bool) -> None:
    small, wrong = OBJECT[:100_000], OTHER[:100_000]
    copies = Copy(wrong, ranges=ranges), Copy(wrong, ranges=ranges), Copy(small, ranges=ranges)
    with Group(tmp_path, *copies) as group:
        result = wait(group.start(checksum=sha256_of(small)), DEADLINE_S)
        assert group.out.read_bytes() == small
        assert group.named(result) >= {0, 1}


def test_when_no_mirror_has_what_the_checksum_says_it_fails(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OTHER), Copy(damaged(3))) as group, pytest.raises(ChecksumError):
        wait(group.start(checksum=SHA256), DEADLINE_S)
    assert not group.out.exists()


def test_the_first_url_is_gone_from_the_start(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(faults=always_gone), Copy(), Copy()) as group:
        result = group.arrives()
        assert group.gave(result)[0] == 0
        assert group.named(result) == {0}
        assert "404" in result.notes[0]
        assert len(group.servers[0].requests) == 1, "it is not asked again"


@pytest.mark.usefixtures("no_races")
@pytest.mark.parametrize("connections", [1, 4])
def test_the_first_url_is_gone_half_way(tmp_path: Path, connections: int) -> None:
    with Group(tmp_path, Copy(faults=gone_later), Copy(etag='"x"'), connections=connections) as group:
        result = group.arrives(chunk_size="256K")
        assert min(group.gave(result)) > 0
        assert group.named(result) == {0}
    assert (result.transferred, result.restarts) == (SIZE, 0), "nothing is fetched twice"


def test_a_mirror_that_dies_half_way_costs_nothing_but_its_share(tmp_path: Path) -> None:
    hold = threading.Event()
    dying = Fault(cut_after=1000, reset=True)
    copies = Copy(held=hold), Copy(faults=lambda r: dying if r.number >= 4 else None)
    with Group(tmp_path, *copies, stall_timeout=20, retries=1) as group:
        transfer = group.start()
        group.servers[1].wait_for_requests(5, DEADLINE_S)
        hold.set()
        result = wait(transfer, DEADLINE_S)
        assert group.out.read_bytes() == OBJECT
    assert result.restarts == 0


def test_a_mirror_that_stalls_loses_its_requests_to_others(tmp_path: Path) -> None:
    stalled = Fault(stall_at=0)
    copies = Copy(faults=first(0, GONE)), Copy(faults=lambda r: stalled if r.number >= 4 else None)
    with Group(tmp_path, *copies) as group:
        result = group.arrives()
        assert group.gave(result)[0] > 0
    assert result.restarts == 0


def test_a_first_url_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    never = threading.Event()
    with Group(tmp_path, Copy(held=never, mute=True), Copy(), stall_timeout=300) as group:
        result = group.arrives()
        assert group.gave(result) == [0, SIZE]
    assert result.elapsed < 30


def test_when_all_mirrors_fail_each_is_named_with_its_reason(tmp_path: Path) -> None:
    copies = [Copy(faults=faults) for faults in (always_gone, refused, server_error)]
    with Group(tmp_path, *copies) as group, pytest.raises(NotFoundError) as caught:
        wait(group.start(), DEADLINE_S)
    for url, status in zip(group.urls, ("404", "403", "500"), strict=True):
        assert f"{url}: the server answered {status}" in str(caught.value)
    assert caught.value.exit_code == 3
    assert list(group.directory.iterdir()) == []


def test_when_nobody_listens_any_more_what_is_there_is_kept(tmp_path: Path) -> None:
    def refused_later(request: Request) -> Fault | None:
        return Fault(status=403) if request.number >= 8 else None

    with Group(tmp_path, Copy(faults=refused_later), Copy(faults=refused_later)) as group:
        with pytest.raises(AuthError) as caught:
            wait(group.start(chunk_size="256K"), DEADLINE_S)
        assert caught.value.kept is not None
        for handler in group.handlers:
            handler.faults = lambda request: None
        assert group.arrives().resumed > 0


def test_servers_that_are_down_are_named(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        urls = group.urls
    with pytest.raises(NetworkError) as caught:
        fastxfer.fetch(urls[0], tmp_path / "out", mirrors=urls[1:], retries=1, connect_timeout=1)
    assert all(f"{url}: no connection was made" in str(caught.value) for url in urls)
    assert caught.value.exit_code == 6


def test_one_stream_goes_to_another_mirror_when_the_first_fails(tmp_path: Path) -> None:
    cut = Fault(cut_after=SIZE // 2)
    copies = Copy(ranges=False, faults=lambda r: cut if r.number == 0 else GONE), Copy(ranges=False)
    with Group(tmp_path, *copies) as group:
        result = group.arrives()
        assert group.gave(result)[1] == SIZE


def test_an_empty_object_and_a_small_one_have_mirrors_too(tmp_path: Path) -> None:
    for data in (b"", b"x", b"x" * 100_000):
        copies = Copy(data, faults=always_gone), Copy(data)
        with Group(tmp_path, *copies) as group:
            result = wait(group.start(exists="replace"), DEADLINE_S)
            assert group.out.read_bytes() == data
        assert result.size == len(data)


def test_a_url_that_is_given_twice_is_one_mirror(tmp_path: Path) -> None:
    with Group(tmp_path, Copy()) as group:
        result = group.arrives([0, 0, 0])
    assert result.sources == {group.urls[0]: SIZE}


# ---- progress of an earlier run ----


@pytest.mark.usefixtures("no_races")
@pytest.mark.parametrize("checksum", [None, SHA256])
def test_another_order_of_mirrors_goes_on(tmp_path: Path, checksum: str | None) -> None:
    with Group(tmp_path, Copy(etag='"a"'), Copy(etag='"b"')) as group:
        kept = group.interrupted()
        result = group.arrives([1, 0], checksum=checksum)
    assert result.resumed >= kept > 0
    assert (result.transferred, result.restarts) == (SIZE - result.resumed, 0)


def test_another_mirror_alone_goes_on_with_a_checksum(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(etag='"a"'), Copy(etag='"b"', last_modified=None)) as group:
        kept = group.interrupted()
        result = group.arrives([1], checksum=SHA256)
    assert result.resumed >= kept > 0


def test_without_a_checksum_another_url_alone_is_another_object(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(etag='"a"'), Copy(etag='"b"')) as group:
        group.interrupted()
        result = group.arrives([1])
    assert (result.resumed, result.restarts) == (0, 1)


def test_what_is_there_of_a_mirror_that_is_gone_goes_on(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(etag='"a"'), Copy(etag='"b"')) as group:
        kept = group.interrupted()
        group.handlers[0].faults = always_gone
        result = group.arrives()
        assert group.gave(result)[0] == 0
    assert result.resumed >= kept > 0


def test_a_first_url_that_has_other_bytes_than_what_is_there_starts_again(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy(OTHER)) as group:
        group.interrupted([1])
        result = group.arrives(**UNHURRIED)
        assert group.named(result) == {1}
    assert (result.resumed, result.restarts) == (0, 1)


def test_with_a_checksum_what_is_there_is_kept_against_a_wrong_first_url(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(OTHER), Copy()) as group:
        kept = group.interrupted([1])
        result = group.arrives(checksum=SHA256)
        assert group.named(result) == {0}
    assert result.resumed >= kept > 0


@pytest.mark.usefixtures("fixed_places")
def test_progress_that_is_wrong_in_places_is_mended_by_the_checksum(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(damaged(1), etag='"a"'), Copy(etag='"b"')) as group:
        group.interrupted([0])
        group.handlers[0].replace(OBJECT, etag='"a"', last_modified=group.copies[0].last_modified)
        result = group.arrives(checksum=SHA256)
    assert result.verified == "checksum"
