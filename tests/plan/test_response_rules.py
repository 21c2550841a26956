"""What `judge` makes of every combination of a question and an answer, held against a table of rules.

The rules stand in the order in which they decide: the first that applies to an answer says what it means.
Each names where it comes from; sections are of RFC 9110 unless another RFC is named.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastxfer.errors import BadResponseError, FastxferError, HTTPStatusError, RangeError
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import (
    Changed,
    Headers,
    Identity,
    NotRanged,
    Partial,
    Unsatisfiable,
    Verdict,
    Whole,
    judge,
)

SIZE = 1000
ETAG, WEAK, OTHER_ETAG = '"v1"', 'W/"v1"', '"v2"'
DATE, OTHER_DATE = "Wed, 01 Jan 2025 00:00:00 GMT", "Thu, 02 Jan 2025 00:00:00 GMT"

ASKED: tuple[Span | None, ...] = (None, (0, 100), (100, 200), (900, 1100))
KNOWN = (
    None,
    Identity(),
    Identity(SIZE),
    Identity(SIZE, ETAG, DATE),
    Identity(SIZE, WEAK, None),
    Identity(None, ETAG),
)
STATUSES = (200, 206, 416, 400, 412, 204, 304)
RANGES = ("none", "exact", "earlier end", "later end", "other start", "other total", "star", "past star",
          "unsatisfied", "other unsatisfied", "two", "other unit", "garbage")  # fmt: skip
LENGTHS = ("none", "right", "other", "conflicting", "malformed")


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, what is known, and an answer to it, in the words of the table."""

    asked: Span | None
    known: Identity | None
    status: int
    range: str = "exact"
    etag: str | None = ETAG
    modified: str | None = DATE
    length: str = "none"
    chunked: bool = False
    gzip: bool = False
    multipart: bool = False
    ignore_etag: bool = False
    now: bool = False  # the date is the time of the answer

    @property
    def span(self) -> Span:
        """The range that is there to be had of what was asked for."""
        start, stop = self.asked or (100, 200)
        return start, min(stop, SIZE)

    @property
    def total(self) -> int | None:
        """The object's size as the Content-Range tells it."""
        return {"star": None, "past star": None, "other total": SIZE + 1, "other unsatisfied": 7}.get(
            self.range, SIZE
        )

    @property
    def sent(self) -> Span:
        """The range that the Content-Range tells."""
        start, stop = self.span
        moves = {"earlier end": (0, -1), "later end": (0, 1), "other start": (1, 0), "past star": (0, SIZE)}
        first, last = moves.get(self.range, (0, 0))
        return start + first, min(stop + last, SIZE) if self.range == "later end" else stop + last

    @property
    def size(self) -> int | None:
        """The object's size as the answer tells it, a range or not."""
        return self.total if self.is_range else (SIZE if self.length == "right" else self.other_length)

    @property
    def other_length(self) -> int | None:
        """A Content-Length that is well-formed and neither the range's nor the object's."""
        return 17 if self.length == "other" else None

    @property
    def is_range(self) -> bool:
        """True for a 206, and for a 200 that says so in its Content-Range."""
        return self.status == 206 or (self.asked is not None and self.range != "none")

    @property
    def identity(self) -> Identity:
        """The identity that the answer tells."""
        return Identity(self.size, self.etag, self.modified)

    @property
    def body_bytes(self) -> int:
        """How many bytes of body a right Content-Length tells."""
        return self.sent[1] - self.sent[0] if self.is_range else SIZE

    def fields(self) -> Iterator[tuple[str, str]]:
        """Yields the header fields."""
        start, stop = self.sent
        exact = f"bytes {start}-{stop - 1}/{'*' if self.total is None else self.total}"
        ranges = {
            "none": [],
            "unsatisfied": [f"bytes */{self.total}"],
            "other unsatisfied": [f"bytes */{self.total}"],
            "two": [exact, exact],
            "other unit": [exact.replace("bytes", "items")],
            "garbage": ["bytes"],
        }.get(self.range, [exact])
        right = str(self.body_bytes)
        lengths = {"right": [right], "other": ["17"], "conflicting": [right, "17"], "malformed": ["-1"]}
        yield from (("Content-Range", value) for value in ranges)
        yield from (("Content-Length", value) for value in lengths.get(self.length, []))
        if self.etag:
            yield "ETag", self.etag
        if self.modified:
            yield "Last-Modified", self.modified
            yield "Date", self.modified if self.now else "Fri, 03 Jan 2025 00:00:00 GMT"
        if self.chunked:
            yield "Transfer-Encoding", "chunked"
        if self.gzip:
            yield "Content-Encoding", "gzip"
        if self.multipart:
            yield "Content-Type", "multipart/byteranges; boundary=x"


def another_size(answer: Answer) -> bool:
    known = answer.known.size if answer.known else None
    return None not in (known, answer.size) and known != answer.size


def another_etag(answer: Answer) -> bool:
    return bool(
        answer.known
        and answer.known.etag
        and answer.etag
        and not answer.ignore_etag
        and answer.known.etag.removeprefix("W/") != answer.etag.removeprefix("W/")
    )


def another_date(answer: Answer) -> bool:
    # 8.8.2.1: a date from the future is told as the time of the answer, and changes with it.
    tells_nothing = (
        answer.now and answer.etag and not answer.ignore_etag and answer.known and answer.known.etag
    )
    return bool(
        not tells_nothing
        and answer.known
        and answer.known.last_modified
        and answer.modified
        and answer.modified != answer.known.last_modified
    )


def size_is_known(answer: Answer) -> bool:
    return answer.known is not None and answer.known.size is not None


def changed(answer: Answer) -> Changed:
    return Changed("", answer.identity)


@dataclass(frozen=True)
class Rule:
    """Where a rule comes from, the statuses it is about, when it applies, and what it makes of an answer."""

    source: str
    status: int
    when: Callable[[Answer], bool]
    then: type[FastxferError] | Callable[[Answer], Verdict]


UNREADABLE = ("none", "two", "other unit", "garbage")

RULES = [
    # ---- 206 Partial Content ----
    Rule("15.3.7: a 206 answers a request that has a Range", 206, lambda a: a.asked is None, RangeError),
    Rule("12.5.3 and 8.4: only identity was acceptable, other codings are other bytes", 206,
         lambda a: a.gzip, BadResponseError),
    Rule("15.3.7.2: no multipart answer to a single range", 206, lambda a: a.multipart, RangeError),
    Rule("15.3.7.1: a 206 has one Content-Range; 14.4: one that can be read, in bytes", 206,
         lambda a: a.range in UNREADABLE, RangeError),
    Rule("14.4: the unsatisfied form belongs to 416", 206,
         lambda a: a.range in ("unsatisfied", "other unsatisfied"), RangeError),
    Rule("15.3.7.3: parts of another length are not combined", 206, another_size, changed),
    Rule("15.3.7.3 and 8.8.3.2: nor parts under another entity tag", 206, another_etag, changed),
    Rule("15.3.7.3 and 8.8.2: nor parts of another date", 206, another_date, changed),
    Rule("15.3.7: a 206 has the ETag that a 200 would have", 206,
         lambda a: a.etag is None and not a.ignore_etag and a.known is not None and a.known.etag == ETAG,
         RangeError),
    Rule("14.4: with * the length is unknown: there is no plan without it", 206,
         lambda a: a.total is None and not size_is_known(a), lambda a: NotRanged("")),
    Rule("14.4: a range past the known length is invalid", 206,
         lambda a: a.range == "past star", RangeError),
    Rule("9112 6.3: Content-Length beside Transfer-Encoding is an error", 206,
         lambda a: a.chunked and a.length not in ("none", "conflicting"), BadResponseError),
    Rule("9112 6.3: invalid or conflicting lengths are an error", 206,
         lambda a: a.length in ("conflicting", "malformed"), BadResponseError),
    Rule("8.6: Content-Length is the number of bytes in the range", 206,
         lambda a: a.length == "other", RangeError),
    Rule("14.2: the answer begins where the range asked for begins", 206,
         lambda a: a.range == "other start", RangeError),
    Rule("15.3.7 and 14.4: what was asked for of what was sent", 206,
         lambda a: True,
         lambda a: Partial(a.sent[0], min(a.sent[1], (a.asked or (0, 0))[1]),
                           Identity(SIZE, a.etag, a.modified) if a.total is None else a.identity)),
    # ---- 200 OK ----
    Rule("12.5.3 and 8.4: only identity was acceptable", 200, lambda a: a.gzip, BadResponseError),
    Rule("9112 6.3: Content-Length beside Transfer-Encoding is an error", 200,
         lambda a: a.chunked and a.length not in ("none", "conflicting"), BadResponseError),
    Rule("9112 6.3: invalid or conflicting lengths are an error", 200,
         lambda a: a.length in ("conflicting", "malformed"), BadResponseError),
    Rule("15.3.1: a 200 is the whole, unless (as some servers have it) Content-Range says another thing", 200,
         lambda a: a.is_range and a.range not in ("exact", "other total", "later end"),
         lambda a: NotRanged("")),
    Rule("the same: all that was asked for, and no more", 200,
         lambda a: a.is_range and a.sent != a.span, lambda a: NotRanged("")),
    Rule("the same: to the end of the object that it names", 200,
         lambda a: a.is_range and a.sent[1] != min((a.asked or (0, 0))[1], a.total or 0),
         lambda a: NotRanged("")),
    Rule("8.6: with a Content-Length of the range", 200,
         lambda a: a.is_range and a.length == "other", lambda a: NotRanged("")),
    Rule("8.8.1: another length is another representation", 200, another_size, changed),
    Rule("8.8.3.2: so is another entity tag", 200, another_etag, changed),
    Rule("8.8.2: so is another date", 200, another_date, changed),
    Rule("15.3.1: a 200 with the very Content-Range asked for is that range", 200,
         lambda a: a.is_range, lambda a: Partial(*a.sent, a.identity)),
    Rule("15.3.1 and 14.2: a server may ignore Range; 14.4: without one Content-Range means nothing", 200,
         lambda a: True, lambda a: Whole(a.identity)),
    # ---- 416 Range Not Satisfiable ----
    Rule("15.5.17: a 416 answers a request that has a Range", 416,
         lambda a: a.asked is None, HTTPStatusError),
    Rule("15.5.17 and 14.4: it may tell the current length", 416,
         lambda a: size_is_known(a) and a.range not in UNREADABLE and another_length_in_416(a),
         lambda a: Changed("", Identity(a.total))),
    Rule("15.5.17: it need not; 8.8: its validators are not the object's", 416,
         lambda a: True, lambda a: Unsatisfiable(Identity(None if a.range in UNREADABLE else a.total))),
    # ---- others ----
    Rule("15.5.1: without a range it is an error like others", 400,
         lambda a: a.asked is None, HTTPStatusError),
    Rule("15.5.1, and what some servers do: the first range is refused, the whole may be had", 400,
         lambda a: a.known is None, lambda a: NotRanged("")),
    Rule("the same: a range past the end of an object that became smaller", 400,
         lambda a: True, lambda a: Unsatisfiable(Identity())),
    Rule("13.1.1 and 15.5.13: the condition on what is known does not hold", 412,
         lambda a: a.known is not None, lambda a: Changed("", Identity())),
    Rule("15.5.13: without a condition it is an error like others", 412, lambda a: True, HTTPStatusError),
    Rule("15.3.5: there is no content", 204, lambda a: True, HTTPStatusError),
    Rule("15.4.5: only an If-None-Match or If-Modified-Since asks for it", 304,
         lambda a: True, HTTPStatusError),
]  # fmt: skip


def another_length_in_416(answer: Answer) -> bool:
    return answer.total is not None and answer.known is not None and answer.total != answer.known.size


def answers() -> Iterator[Answer]:
    """Yields every combination of what identity depends on, and every one of what framing depends on."""
    for values in itertools.product(
        ASKED,
        KNOWN,
        STATUSES,
        RANGES,
        (None, ETAG, WEAK, OTHER_ETAG),
        (None, DATE, OTHER_DATE),
    ):
        yield Answer(*values)
        if values[4] in (None, OTHER_ETAG):
            yield Answer(*values, ignore_etag=True)
        if values[5] == OTHER_DATE:
            yield Answer(*values, now=True)
            yield Answer(*values, now=True, ignore_etag=True)
    flags = (False, True)
    for asked, known, status, told, length, chunked, gzip, multipart in itertools.product(
        ASKED, KNOWN, STATUSES, RANGES, LENGTHS, flags, flags, flags
    ):
        yield Answer(
            asked, known, status, told, length=length, chunked=chunked, gzip=gzip, multipart=multipart
        )


def what_judge_makes_of(answer: Answer) -> Verdict | type[FastxferError]:
    try:
        return judge(
            answer.asked,
            answer.known,
            answer.status,
            Headers(answer.fields()),
            ignore_etag=answer.ignore_etag,
            now_epoch_s=0.0,
        )
    except FastxferError as error:
        return type(error)


def without_words(verdict: Verdict | type[FastxferError]) -> Verdict | type[FastxferError]:
    match verdict:
        case Changed(_, identity):
            return Changed("", identity)
        case NotRanged():
            return NotRanged("")
        case _:
            return verdict


def test_every_answer_means_what_the_first_rule_that_applies_says() -> None:
    decided: Counter[str] = Counter()
    for answer in answers():
        rule = next(rule for rule in RULES if rule.status == answer.status and rule.when(answer))
        decided[f"{rule.status} {rule.source}"] += 1
        meant = rule.then if isinstance(rule.then, type) else rule.then(answer)
        assert without_words(what_judge_makes_of(answer)) == meant, f"{answer}: {rule.source}"
    assert [rule.source for rule in RULES if not decided[f"{rule.status} {rule.source}"]] == []
    assert decided.total() > 30_000
