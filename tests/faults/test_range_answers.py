"""Answers to ranged requests that are not the range asked for (RFC 9110 section 14)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer.errors import RangeError
from tests.faults.scenarios import (
    HALF,
    LATER_DATE,
    SIZE,
    Answer,
    Asked,
    Scenario,
    always,
    and_again,
    crosswise,
    everywhere,
    first,
    fresh,
    later,
    once_later,
)
from tests.servers.objects import make_bytes
from tests.servers.raw import Request


def whole(asked: Asked) -> None:
    fields = asked.with_fields(Content_Range=None, Content_Length=str(SIZE))
    asked.send(200, fields, asked.content.data)


def content_range(text: Callable[[Asked], str]) -> Answer:
    return lambda asked: asked.send(fields=asked.with_fields(Content_Range=text(asked)))


def another_start(asked: Asked) -> None:
    start = asked.start + 1 if asked.start == 0 else asked.start - 1
    stop = min(start + asked.stop - asked.start, SIZE)
    fields = asked.with_fields(
        Content_Range=f"bytes {start}-{stop - 1}/{SIZE}", Content_Length=str(stop - start)
    )
    asked.send(206, fields, asked.content.data[start:stop])


def without_content_range(asked: Asked) -> None:
    asked.send(206, asked.with_fields(Content_Range=None))


def two_content_ranges(asked: Asked) -> None:
    asked.send(206, [*asked.fields.items(), ("Content-Range", asked.fields["Content-Range"])])


def overlapping_content_ranges(asked: Asked) -> None:
    other = f"bytes {asked.start}-{asked.stop - 2}/{SIZE}"
    asked.send(206, [*asked.fields.items(), ("Content-Range", other)])


def multipart(asked: Asked) -> None:
    parts = b"--b\r\nContent-Range: %b\r\n\r\n%b\r\n--b--\r\n" % (
        asked.fields["Content-Range"].encode(),
        asked.data,
    )
    fields = asked.with_fields(
        Content_Type="multipart/byteranges; boundary=b", Content_Range=None, Content_Length=str(len(parts))
    )
    asked.send(206, fields, parts)


def another_length(asked: Asked) -> None:
    asked.send(206, asked.with_fields(Content_Length=str(asked.stop - asked.start + 1)), asked.data + b"x")


REJECTED = {
    "another-start": another_start,
    "no-content-range": without_content_range,
    "two-content-ranges": two_content_ranges,
    "overlapping-content-ranges": overlapping_content_ranges,
    "list-in-content-range": content_range(lambda a: f"bytes {a.start}-{a.start}, {a.stop - 1}-{a.stop - 1}"),
    "unit-not-bytes": content_range(lambda a: f"items {a.start}-{a.stop - 1}/{SIZE}"),
    "last-before-first": content_range(lambda a: f"bytes {a.stop}-{a.start}/{SIZE}"),
    "past-the-total": content_range(lambda a: f"bytes {a.start}-{SIZE}/{SIZE}"),
    "overflowing": content_range(lambda a: f"bytes {a.start}-{2**63}/{2**63 + 1}"),
    "of-a-416": content_range(lambda a: f"bytes */{SIZE}"),
    "multipart-byteranges": multipart,
    "another-content-length": another_length,
}
rejected = pytest.mark.parametrize("answer", REJECTED.values(), ids=REJECTED.keys())


@everywhere
@rejected
def test_a_range_that_was_not_asked_for_is_rejected_and_asked_for_again(
    tmp_path: Path, connections: int, resumed: bool, answer: Answer
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(answer, lambda nth, request: nth in (0, 2))
        result = scenario.arrives()
    assert result.retries >= 1
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE, "nothing of a rejected answer is kept"


@crosswise
@rejected
def test_a_server_that_never_sends_the_range_asked_for_fails(
    tmp_path: Path, connections: int, resumed: bool, answer: Answer
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(answer)
        scenario.fails(RangeError, 22, kept=resumed)


@fresh
@pytest.mark.parametrize("answer", [another_start, multipart], ids=["another-start", "multipart-byteranges"])
def test_a_server_that_stops_sending_the_range_asked_for_fails_and_the_progress_is_kept(
    tmp_path: Path, connections: int, answer: Answer
) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(answer, later)
        scenario.fails(RangeError, 22, kept=True)


@everywhere
@pytest.mark.parametrize("when", [always, first], ids=["always", "first"])
def test_200_to_the_first_range_is_one_stream(
    tmp_path: Path, connections: int, resumed: bool, when: Callable[[int, Request], bool]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(whole, when)
        result = scenario.arrives()
        assert len(scenario.requests) == 1
    assert (result.resumed, result.transferred) == (0, SIZE)
    assert result.restarts == resumed
    assert any("does not send ranges" in note for note in result.notes) == resumed


@everywhere
def test_200_to_a_later_range_stops_before_a_byte_is_written(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(whole, once_later)
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE
    assert result.retries == 1


@everywhere
def test_200_to_every_later_range_fails_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(whole, later)
        scenario.fails(RangeError, 22, kept=True)


@everywhere
def test_of_a_206_with_an_earlier_end_the_prefix_counts(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    def shorter(asked: Asked) -> None:
        stop = min(asked.stop, asked.start + 100_000)
        fields = asked.with_fields(
            Content_Range=f"bytes {asked.start}-{stop - 1}/{SIZE}", Content_Length=str(stop - asked.start)
        )
        asked.send(206, fields, asked.data[:100_000])

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(shorter)
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_a_206_with_a_later_end_is_cut_off(tmp_path: Path, connections: int, resumed: bool) -> None:
    def longer(asked: Asked) -> None:
        stop = min(SIZE, asked.stop + 200_000)
        fields = asked.with_fields(
            Content_Range=f"bytes {asked.start}-{stop - 1}/{SIZE}", Content_Length=str(stop - asked.start)
        )
        # What nobody asked for is wrong, too.
        asked.send(206, fields, asked.data + bytes(stop - asked.stop))

    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(longer)
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 0)


@everywhere
@pytest.mark.parametrize("when", [first, once_later], ids=["first", "later"])
def test_a_206_of_another_total_starts_again(
    tmp_path: Path, connections: int, resumed: bool, when: Callable[[int, Request], bool]
) -> None:
    wrong = content_range(lambda a: f"bytes {a.start}-{a.stop - 1}/{SIZE + 1}")
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(wrong, when if when is first and not resumed else and_again(when))
        result = scenario.arrives()
    # The first answer of all is believed; the second one then differs.
    assert result.restarts == 1
    assert result.resumed == 0


@everywhere
def test_a_total_of_star_is_fine_when_the_total_is_known(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        star = content_range(lambda a: f"bytes {a.start}-{a.stop - 1}/*")
        scenario.server_does(star, always if resumed else later)
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 0)


@fresh
def test_a_total_of_star_at_first_is_one_stream(tmp_path: Path, connections: int) -> None:
    def star(asked: Asked) -> None:
        if asked.ranged:
            asked.send(206, asked.with_fields(Content_Range=f"bytes {asked.start}-{asked.stop - 1}/*"))
        else:
            asked.send()

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(star)
        scenario.arrives()
        assert [bool(request.range) for request in scenario.requests] == [True, False]


@fresh
def test_206_to_a_request_without_a_range_is_rejected(tmp_path: Path, connections: int) -> None:
    def star(asked: Asked) -> None:
        span = f"bytes {asked.start}-{asked.stop - 1}"
        asked.send(206, asked.with_fields(Content_Range=f"{span}/{'*' if asked.ranged else SIZE}"))

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(star)
        scenario.fails(RangeError, 22, kept=False)


@everywhere
def test_200_with_a_matching_content_range_is_taken_as_206(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(200, asked.fields))
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 0)
    assert result.transferred + result.resumed == SIZE


MISMATCHES = {
    "start": lambda a: f"bytes {a.start + 1}-{a.stop - 1}/{SIZE}",
    "end": lambda a: f"bytes {a.start}-{a.stop - 2}/{SIZE}",
    "total-star": lambda a: f"bytes {a.start}-{a.stop - 1}/*",
    "unreadable": lambda a: "bytes=1",
}
mismatching = pytest.mark.parametrize("text", MISMATCHES.values(), ids=MISMATCHES.keys())


@fresh
@mismatching
def test_200_with_another_content_range_is_no_range_so_one_stream(
    tmp_path: Path, connections: int, text: Callable[[Asked], str]
) -> None:
    def answer(asked: Asked) -> None:
        asked.send(200, asked.with_fields(Content_Range=text(asked)) if asked.ranged else asked.fields)

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(answer)
        result = scenario.arrives()
        assert [bool(request.range) for request in scenario.requests] == [True, False]
    assert result.transferred == SIZE


@everywhere
@mismatching
def test_200_with_another_content_range_later_is_rejected(
    tmp_path: Path, connections: int, resumed: bool, text: Callable[[Asked], str]
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(
            lambda asked: asked.send(200, asked.with_fields(Content_Range=text(asked))), once_later
        )
        result = scenario.arrives()
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@everywhere
def test_accept_ranges_none_with_200_is_one_stream(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.handler.ranges = False
        scenario.server_does(
            lambda a: a.send(
                200,
                a.with_fields(Accept_Ranges="none", Content_Range=None, Content_Length=str(SIZE)),
                a.content.data,
            )
        )
        result = scenario.arrives()
        assert len(scenario.requests) == 1
    assert result.resumed == 0


@everywhere
def test_without_accept_ranges_the_first_answer_tells(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(lambda asked: asked.send(fields=asked.with_fields(Accept_Ranges=None)))
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 0)


def unsatisfiable(total: str) -> Answer:
    def answer(asked: Asked) -> None:
        if asked.ranged:
            asked.send(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"}, b"")
        else:
            asked.send()

    return answer


told_or_not = pytest.mark.parametrize("total", [str(SIZE), "*"])


@everywhere
@told_or_not
def test_416_inside_the_object_is_rejected(
    tmp_path: Path, connections: int, resumed: bool, total: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(unsatisfiable(total), once_later)
        result = scenario.arrives()
        assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 1)
        scenario.out.unlink()


@everywhere
@told_or_not
def test_416_to_every_later_range_fails_and_the_progress_is_kept(
    tmp_path: Path, connections: int, resumed: bool, total: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(unsatisfiable(total), always if resumed else later)
        scenario.fails(RangeError, 22, kept=True)


@everywhere
@pytest.mark.parametrize("status", [400, 416])
def test_a_refused_range_of_an_object_that_is_smaller_now_starts_again(
    tmp_path: Path, connections: int, resumed: bool, status: int
) -> None:
    smaller = make_bytes(HALF // 4, 3)

    def replaced(asked: Asked) -> None:
        scenario.handler.replace(smaller, etag=None, last_modified=LATER_DATE)
        if asked.ranged:
            asked.send(status, {"Content-Length": "0"}, b"")
        else:
            asked.send(200, {"Content-Length": str(len(smaller)), "Last-Modified": LATER_DATE}, smaller)
            scenario.handler.wrong = None

    with Scenario(tmp_path, connections, resumed, etag=None) as scenario:
        scenario.server_does(replaced, always if resumed else later)
        result = scenario.arrives(smaller)
    assert (result.restarts, result.resumed) == (1, 0)


@everywhere
def test_416_of_another_total_starts_again(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.server_does(unsatisfiable(str(HALF)), and_again(once_later))
        result = scenario.arrives()
    assert (result.restarts, result.resumed) == (1, 0)


@fresh
@pytest.mark.parametrize("total", ["0", str(SIZE), "*"])
def test_416_to_the_first_range_asks_for_the_whole(tmp_path: Path, connections: int, total: str) -> None:
    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(unsatisfiable(total))
        scenario.arrives()
        assert [bool(request.range) for request in scenario.requests] == [True, False]


@fresh
def test_400_to_the_first_range_asks_for_the_whole(tmp_path: Path, connections: int) -> None:
    def refused(asked: Asked) -> None:
        asked.send(400, {"Content-Length": "0"}, b"")

    with Scenario(tmp_path, connections) as scenario:
        scenario.server_does(refused, first)
        scenario.arrives()
        assert [bool(request.range) for request in scenario.requests] == [True, False]


@fresh
def test_an_empty_object_is_an_empty_complete_file(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections, data=b"") as scenario:
        result = scenario.arrives(b"")
        assert [bool(request.range) for request in scenario.requests] == [True, False]
    assert result.size == 0


@everywhere
def test_head_is_never_asked_so_it_may_lie(tmp_path: Path, connections: int, resumed: bool) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        scenario.arrives()
        assert {request.method for request in scenario.server.requests} == {"GET"}


@fresh
def test_every_kind_of_rejection_in_turn_does_not_add_up(tmp_path: Path, connections: int) -> None:
    answers = itertools.cycle(REJECTED.values())

    def reject(asked: Asked) -> None:
        next(answers)(asked)

    with Scenario(tmp_path, connections) as scenario:
        # Between two that move, one is wrong: the retries count what fails in a row.
        scenario.server_does(reject, lambda nth, _request: nth % 2 == 1)
        scenario.arrives(retries=16)
