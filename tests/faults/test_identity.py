"""Objects that change, or seem to, while they are fetched or between two runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer.errors import ChecksumError, HTTPStatusError, NotFoundError, RemoteChangedError
from tests.faults.scenarios import (
    DATE,
    HALF,
    LATER_DATE,
    OBJECT,
    OTHER,
    SIZE,
    Asked,
    Scenario,
    always,
    and_again,
    everywhere,
    first,
    fresh,
    later,
    once_later,
    sha256_of,
    span_of,
)
from tests.servers.raw import Request

When = Callable[[int, Request], bool]


def ignore_if_range(asked: Asked) -> None:
    """Answers 206 whatever If-Range says, as several real servers do."""
    asked.send()


def beyond_half(_nth: int, request: Request) -> bool:
    return span_of(request, SIZE)[0] >= HALF


@everywhere
def test_a_strong_etag_stands_in_if_range(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed, etag='"strong"') as scenario:
        scenario.arrives()
        sent = [request.headers.get("if-range") for request in scenario.server.requests]
    assert sent == [None, *['"strong"'] * (len(sent) - 1)]


@everywhere
def test_a_weak_etag_never_stands_in_if_range(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed, etag='W/"weak"') as scenario:
        result = scenario.arrives()
        assert not any("if-range" in request.headers for request in scenario.server.requests)
    assert result.resumed == scenario.before


@everywhere
@pytest.mark.parametrize("honoured", [True, False], ids=["if-range-honoured", "if-range-ignored"])
def test_an_etag_that_changed_starts_again(
    tmp_path: Path, connections: int, resumed: bool, honoured: bool
) -> None:
    with Scenario(tmp_path, connections, resumed, honour_if_range=honoured) as scenario:
        change_at(scenario, first if resumed else once_later, etag='"v2"', last_modified=DATE)
        result = scenario.arrives(OTHER)
    assert (result.restarts, result.resumed) == (1, 0)


@everywhere
def test_a_last_modified_that_changed_starts_again(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed, etag=None) as scenario:
        change_at(scenario, first if resumed else once_later, etag=None, last_modified=LATER_DATE)
        result = scenario.arrives(OTHER)
    assert (result.restarts, result.resumed) == (1, 0)


@everywhere
@pytest.mark.parametrize("validator", ["etag", "last-modified"])
def test_an_object_that_changed_fails_if_asked_to_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool, validator: str
) -> None:
    etag = '"v1"' if validator == "etag" else None
    changed = {"ETag": '"v2"'} if validator == "etag" else {"Last_Modified": LATER_DATE}
    with Scenario(tmp_path, connections, resumed, etag=etag) as scenario:
        scenario.server_does(lambda asked: asked.send(fields=asked.with_fields(**changed)), later)
        scenario.fails(RemoteChangedError, 33, kept=True, on_change="fail")


def change_at(scenario: Scenario, when: When, *, etag: str | None, last_modified: str | None) -> None:
    """Makes the object another one from the first request on that `when` chooses."""

    def change(asked: Asked) -> None:
        scenario.handler.replace(OTHER, etag=etag, last_modified=last_modified)
        scenario.handler.wrong = None
        scenario.handler(asked.request, asked.connection)

    scenario.server_does(change, when)


@fresh
def test_an_object_without_validators_that_changes_its_size_starts_again(
    tmp_path: Path, connections: int
) -> None:
    with Scenario(tmp_path, connections, etag=None, last_modified=None) as scenario:

        def grow(asked: Asked) -> None:
            scenario.handler.replace(OTHER + b"more", etag=None, last_modified=None)
            scenario.handler.wrong = None
            scenario.handler(asked.request, asked.connection)

        scenario.server_does(grow, once_later)
        result = scenario.arrives(OTHER + b"more")
    assert result.restarts == 1


@everywhere
def test_without_a_validator_it_starts_again_and_says_so(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed, etag=None, last_modified=None) as scenario:
        result = scenario.arrives()
    assert result.resumed == 0
    assert any("nothing to know the object by" in note for note in result.notes) == resumed


@everywhere
def test_wrong_etags_for_an_unchanged_object_are_ignored_if_asked_to(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    def another_each_time(asked: Asked) -> None:
        asked.send(fields=asked.with_fields(ETag=f'"{asked.request.number}"'))

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(another_each_time)
        result = scenario.arrives(ignore_etag=True, on_change="fail")
        assert not any("if-range" in request.headers for request in scenario.requests)
    assert (result.resumed, result.restarts) == (scenario.before, 0)


@everywhere
def test_ignoring_etags_does_not_ignore_last_modified(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(fields=asked.with_fields(Last_Modified=LATER_DATE)), later
        )
        scenario.fails(RemoteChangedError, 33, kept=True, ignore_etag=True, on_change="fail")


@everywhere
def test_an_etag_for_each_node_of_a_cdn_is_given_up_in_the_end(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    def by_node(asked: Asked) -> None:
        asked.send(fields=asked.with_fields(ETag=f'"node-{asked.request.number % 3}"'))

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(by_node)
        with pytest.raises(RemoteChangedError) as caught:
            scenario.fetch()
        assert caught.value.exit_code == 33
        assert "ETag" in str(caught.value)
        assert not scenario.out.exists()


@everywhere
@pytest.mark.parametrize("honoured", [True, False], ids=["if-range-honoured", "if-range-ignored"])
def test_an_etag_for_each_node_of_a_cdn_is_no_change_where_a_checksum_decides(
    tmp_path: Path, connections: int, resumed: bool, honoured: bool
) -> None:
    def by_node(asked: Asked) -> None:
        etag = f'"node-{asked.request.number % 2}"'
        fields = asked.with_fields(ETag=etag)
        if honoured and asked.request.headers.get("if-range") not in (None, etag):
            whole = {**fields, "Content-Length": str(SIZE)}
            del whole["Content-Range"]
            asked.send(200, whole, OBJECT)
        else:
            asked.send(fields=fields)

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(by_node)
        result = scenario.arrives(checksum=sha256_of(OBJECT))
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert any("the checksum decides" in note for note in result.notes)


@everywhere
def test_another_object_of_the_same_size_and_time_does_not_pass_for_another_node(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:

        def replaced(asked: Asked) -> None:
            scenario.handler.replace(OTHER, etag='"other"', last_modified=DATE)
            scenario.handler.wrong = None
            scenario.handler(asked.request, asked.connection)

        scenario.server_does(replaced, first if resumed else once_later)
        result = scenario.arrives(OTHER, checksum=sha256_of(OTHER))
    assert (result.restarts, result.etag) == (1, '"other"')
    assert any("the checksum decides" in note for note in result.notes)


@everywhere
def test_progress_that_nothing_but_the_size_knows_is_used_if_asked_to(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed, etag=None, last_modified=None) as scenario:
        result = scenario.arrives(resume="force")
    assert (result.resumed, result.restarts) == (scenario.before, 0)


@fresh
def test_progress_for_another_size_is_never_used(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections, True, etag=None, last_modified=None) as scenario:
        scenario.handler.replace(OTHER[:-1], etag=None)
        result = scenario.arrives(OTHER[:-1], resume="force")
    assert (result.resumed, result.restarts) == (0, 1)


@everywhere
def test_a_206_that_lacks_the_etag_is_rejected(tmp_path: Path, connections: int, resumed: bool) -> None:
    def without_etag(asked: Asked) -> None:
        wrong = OTHER[asked.start : asked.stop]
        asked.send(fields=asked.with_fields(ETag=None), body=wrong)

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(without_etag, once_later)
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 1)


@everywhere
@pytest.mark.parametrize("what", ["etag", "date", "total", "412"])
def test_one_answer_of_another_object_does_not_cost_the_progress(
    tmp_path: Path, connections: int, resumed: bool, what: str
) -> None:
    def other(asked: Asked) -> None:
        fields = {
            "etag": {"ETag": '"other"'},
            "date": {"Last_Modified": LATER_DATE},
            "total": {"Content_Range": f"bytes {asked.start}-{asked.stop - 1}/{SIZE + 1}"},
        }
        if what == "412":
            asked.send(412, {"Content-Length": "0"}, b"")
        else:
            wrong = OTHER[asked.start : asked.stop]
            asked.send(fields=asked.with_fields(**fields[what]), body=wrong)

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(other, first if resumed else once_later)
        result = scenario.arrives(on_change="fail")
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_412_starts_again(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(412, {"Content-Length": "0"}, b""),
            and_again(first if resumed else once_later),
        )
        result = scenario.arrives()
    assert (result.restarts, result.resumed) == (1, 0)


@everywhere
def test_412_to_every_condition_is_given_up_in_the_end(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(412, {"Content-Length": "0"}, b""),
            lambda _nth, request: "if-range" in request.headers,
        )
        with pytest.raises(RemoteChangedError) as caught:
            scenario.fetch()
        assert caught.value.exit_code == 33
        assert not scenario.out.exists()


@fresh
def test_412_to_a_request_without_a_condition_fails(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(lambda asked: asked.send(412, {"Content-Length": "0"}, b""))
        scenario.fails(HTTPStatusError, 22, kept=False)


@everywhere
def test_another_total_beyond_the_half_is_given_up_in_the_end(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    def larger(asked: Asked) -> None:
        asked.send(fields=asked.with_fields(Content_Range=f"bytes {asked.start}-{asked.stop - 1}/{SIZE + 1}"))

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(larger, beyond_half)
        with pytest.raises(RemoteChangedError):
            scenario.fetch()
        assert not scenario.out.exists()


@everywhere
def test_the_same_etag_with_other_bytes_fails_the_checksum(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.handler.replace(OTHER, etag='"v1"', last_modified=DATE)
        with pytest.raises(ChecksumError) as caught:
            scenario.fetch(checksum=sha256_of(OBJECT))
        assert caught.value.exit_code == 32
        assert caught.value.kept is not None
        assert scenario.names() == ["out.part", "out.part.ckpt"]
        scenario.arrives(OTHER, resume=False)


@fresh
def test_progress_of_other_bytes_under_the_same_etag_is_fetched_again(
    tmp_path: Path, connections: int
) -> None:
    with Scenario(tmp_path, connections, resumed=True) as scenario:
        scenario.handler.replace(OTHER, etag='"v1"', last_modified=DATE)
        result = scenario.arrives(OTHER, checksum=sha256_of(OTHER))
    assert (result.restarts, result.resumed, result.verified) == (1, 0, "checksum")


@fresh
def test_an_object_that_is_gone_when_it_is_gone_on_with_keeps_its_progress(
    tmp_path: Path, connections: int
) -> None:
    with Scenario(tmp_path, connections, resumed=True) as scenario:
        scenario.server_does(lambda asked: asked.send(410, {"Content-Length": "0"}, b""), always)
        scenario.fails(NotFoundError, 3, kept=True)
