"""What `judge` makes of answers: a named case a line of the rules that servers break."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    FastxferError,
    HTTPStatusError,
    NotFoundError,
    OverloadedError,
    RangeError,
    Retry,
    ServerError,
)
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import (
    Changed,
    Headers,
    Identity,
    Moved,
    NotRanged,
    Partial,
    Unsatisfiable,
    Verdict,
    Whole,
    agreed,
    difference,
    judge,
)

SIZE = 1000
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
ETAG = '"v1"'
DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
LATER = "Thu, 02 Jan 2025 00:00:00 GMT"
KNOWN = Identity(SIZE, ETAG, DATE)
SAME = {"ETag": ETAG, "Last-Modified": DATE}
ASKED = (100, 200)


@dataclass(frozen=True)
class Case:
    """An answer and its verdict: a value, a class of verdicts, or a class of errors (exactly that one)."""

    name: str
    status: int
    headers: dict[str, str | list[str]]
    verdict: Verdict | type
    asked: Span | None = ASKED
    known: Identity | None = field(default=KNOWN)
    ignore_etag: bool = False

    def judged(self) -> Verdict:
        fields = [
            (name, each)
            for name, value in self.headers.items()
            for each in ([value] if isinstance(value, str) else value)
        ]
        return judge(
            self.asked,
            self.known,
            self.status,
            Headers(fields),
            ignore_etag=self.ignore_etag,
            now_epoch_s=NOW,
        )


def content_range(value: str, **more: str | list[str]) -> dict[str, str | list[str]]:
    return {"Content-Range": value, **SAME, **more}


GOOD = content_range("bytes 100-199/1000")

RANGE_ANSWERS = [
    Case("206 with what was asked for", 206, GOOD, Partial(100, 200, KNOWN)),
    Case(
        "206 to the first request of all tells the identity", 206, GOOD, Partial(100, 200, KNOWN), known=None
    ),
    Case("206 with its Content-Length", 206, {**GOOD, "Content-Length": "100"}, Partial(100, 200, KNOWN)),
    Case(
        "names of fields in any case", 206, {k.upper(): v for k, v in GOOD.items()}, Partial(100, 200, KNOWN)
    ),
    Case(
        "200 to the first range is one stream",
        200,
        {**SAME, "Content-Length": "1000"},
        Whole(KNOWN),
        known=None,
    ),
    Case("200 to a later range is no range", 200, {**SAME, "Content-Length": "1000"}, Whole(KNOWN)),
    Case("206 from another start", 206, content_range("bytes 0-99/1000"), RangeError),
    Case("206 from one byte later", 206, content_range("bytes 101-199/1000"), RangeError),
    Case("206 that ends earlier", 206, content_range("bytes 100-149/1000"), Partial(100, 150, KNOWN)),
    Case("206 that ends later", 206, content_range("bytes 100-999/1000"), Partial(100, 200, KNOWN)),
    Case("206 with another total", 206, content_range("bytes 100-199/1001"), Changed),
    Case("206 with another total and another start", 206, content_range("bytes 0-99/1001"), Changed),
    Case(
        "206 with total * and a known size", 206, content_range("bytes 100-199/*"), Partial(100, 200, KNOWN)
    ),
    Case("206 with total * and no known size", 206, content_range("bytes 100-199/*"), NotRanged, known=None),
    Case(
        "206 with total * and a known identity without size",
        206,
        content_range("bytes 100-199/*"),
        NotRanged,
        known=Identity(None, ETAG, DATE),
    ),
    Case(
        "206 with total * past the known size",
        206,
        content_range("bytes 900-1099/*"),
        RangeError,
        asked=(900, 1100),
    ),
    Case("206 without Content-Range", 206, {**SAME}, RangeError),
    Case("206 with two Content-Ranges", 206, {"Content-Range": ["bytes 100-199/1000"] * 2}, RangeError),
    Case(
        "206 with overlapping Content-Ranges",
        206,
        {"Content-Range": ["bytes 100-149/1000", "bytes 140-199/1000"]},
        RangeError,
    ),
    Case(
        "206 with two ranges in one field",
        206,
        content_range("bytes 100-149/1000, bytes 150-199/1000"),
        RangeError,
    ),
    Case("206 to a request without Range", 206, GOOD, RangeError, asked=None),
    Case("206 in another unit", 206, content_range("items 100-199/1000"), RangeError),
    Case("206 with an end before its start", 206, content_range("bytes 199-100/1000"), RangeError),
    Case("206 with an end past its total", 206, content_range("bytes 100-199/150"), RangeError),
    Case("206 with the Content-Range of a 416", 206, content_range("bytes */1000"), RangeError),
    Case("206 with a total of 2**63", 206, content_range(f"bytes 100-199/{2**63}"), RangeError, known=None),
    Case(
        "206 with multipart/byteranges for one range",
        206,
        {**GOOD, "Content-Type": "multipart/byteranges; boundary=x"},
        RangeError,
    ),
    Case(
        "206 with Multipart/ByteRanges in other letters",
        206,
        {**GOOD, "Content-Type": "Multipart/ByteRanges;boundary=x"},
        RangeError,
    ),
    Case("206 whose lengths disagree", 206, {**GOOD, "Content-Length": "99"}, RangeError),
    Case("200 with a matching Content-Range is a 206", 200, GOOD, Partial(100, 200, KNOWN)),
    Case(
        "200 with a matching Content-Range cut at the end",
        200,
        content_range("bytes 900-999/1000"),
        Partial(900, 1000, KNOWN),
        asked=(900, 1100),
    ),
    Case("200 with a Content-Range of another start", 200, content_range("bytes 0-99/1000"), NotRanged),
    Case("200 with a Content-Range of an earlier end", 200, content_range("bytes 100-149/1000"), NotRanged),
    Case("200 with a Content-Range of a later end", 200, content_range("bytes 100-299/1000"), NotRanged),
    Case("200 with a Content-Range of another total", 200, content_range("bytes 100-199/1001"), Changed),
    Case("200 with a Content-Range without a total", 200, content_range("bytes 100-199/*"), NotRanged),
    Case("200 with two Content-Ranges", 200, {"Content-Range": ["bytes 100-199/1000"] * 2}, NotRanged),
    Case("200 with an unreadable Content-Range", 200, content_range("bytes"), NotRanged),
    Case("200 with a Content-Range and another length", 200, {**GOOD, "Content-Length": "1000"}, NotRanged),
    Case(
        "Accept-Ranges none beside a 200",
        200,
        {**SAME, "Content-Length": "1000", "Accept-Ranges": "none"},
        Whole(KNOWN),
        known=None,
    ),
    Case("no Accept-Ranges beside a 206", 206, GOOD, Partial(100, 200, KNOWN), known=None),
    Case(
        "416 at the exact end",
        416,
        {"Content-Range": "bytes */1000"},
        Unsatisfiable(Identity(SIZE)),
        asked=(1000, 1100),
    ),
    Case("416 of another size", 416, {"Content-Range": "bytes */500"}, Changed, asked=(1000, 1100)),
    Case("416 that tells no size", 416, {}, Unsatisfiable(Identity(None))),
    Case("416 with an unreadable size", 416, {"Content-Range": "bytes */x"}, Unsatisfiable(Identity(None))),
    Case(
        "416 with two sizes",
        416,
        {"Content-Range": ["bytes */1", "bytes */2"]},
        Unsatisfiable(Identity(None)),
    ),
    Case(
        "416 whose error page has validators of its own",
        416,
        {"Content-Range": "bytes */1000", "ETag": '"page"'},
        Unsatisfiable(Identity(SIZE)),
    ),
    Case(
        "416 of an empty object",
        416,
        {"Content-Range": "bytes */0"},
        Unsatisfiable(Identity(0)),
        asked=(0, 1),
        known=None,
    ),
    Case("416 to a request without Range", 416, {}, HTTPStatusError, asked=None),
    Case(
        "an empty object without ranges",
        200,
        {**SAME, "Content-Length": "0"},
        Whole(Identity(0, ETAG, DATE)),
        known=None,
    ),
]

IDENTITY = [
    Case("another strong ETag on a 206", 206, {**GOOD, "ETag": '"v2"'}, Changed),
    Case("another strong ETag on a 200", 200, {**SAME, "ETag": '"v2"', "Content-Length": "1000"}, Changed),
    Case("another size on a 200", 200, {**SAME, "Content-Length": "1001"}, Changed),
    Case("another Last-Modified under the same ETag", 206, {**GOOD, "Last-Modified": LATER}, Changed),
    Case(
        "another Last-Modified and no ETag",
        206,
        content_range("bytes 100-199/1000", **{"Last-Modified": LATER}),
        Changed,
        known=Identity(SIZE, None, DATE),
    ),
    Case(
        "an ETag that a cache made weak",
        206,
        {**GOOD, "ETag": 'W/"v1"'},
        Partial(100, 200, Identity(SIZE, 'W/"v1"', DATE)),
    ),
    Case(
        "a weak ETag that became another",
        206,
        {**GOOD, "ETag": 'W/"v2"'},
        Changed,
        known=Identity(SIZE, 'W/"v1"', DATE),
    ),
    Case(
        "no validators beside the bytes, where none was strong",
        206,
        {"Content-Range": "bytes 100-199/1000"},
        Partial(100, 200, Identity(SIZE)),
        known=Identity(SIZE, 'W/"v1"', DATE),
    ),
    Case("no ETag, where a strong one is known", 206, {"Content-Range": "bytes 100-199/1000"}, RangeError),
    Case(
        "no ETag, where ETags are to be ignored",
        206,
        {"Content-Range": "bytes 100-199/1000"},
        Partial(100, 200, Identity(SIZE)),
        ignore_etag=True,
    ),
    Case(
        "wrong ETags that are to be ignored",
        206,
        {**GOOD, "ETag": '"node-7"'},
        Partial(100, 200, Identity(SIZE, '"node-7"', DATE)),
        ignore_etag=True,
    ),
    Case(
        "ignored ETags do not hide another size",
        206,
        {**content_range("bytes 100-199/999"), "ETag": '"x"'},
        Changed,
        ignore_etag=True,
    ),
    Case(
        "ignored ETags do not hide another date",
        206,
        {**GOOD, "ETag": '"x"', "Last-Modified": LATER},
        Changed,
        ignore_etag=True,
    ),
    Case(
        "a date in another form is another date",
        206,
        {**GOOD, "Last-Modified": "Wed, 1 Jan 2025 00:00:00 GMT"},
        Changed,
    ),
    Case(
        "the time of the answer as the date, with the same ETag",
        206,
        {**GOOD, "Last-Modified": LATER, "Date": LATER},
        Partial(100, 200, Identity(SIZE, ETAG, LATER)),
    ),
    Case(
        "the time of the answer as the date, with the ETag weakened",
        206,
        {**GOOD, "ETag": f"W/{ETAG}", "Last-Modified": LATER, "Date": LATER},
        Partial(100, 200, Identity(SIZE, f"W/{ETAG}", LATER)),
    ),
    Case(
        "the time of the answer as the date, with another ETag",
        206,
        {**GOOD, "ETag": '"v2"', "Last-Modified": LATER, "Date": LATER},
        Changed,
    ),
    Case(
        "the time of the answer as the date, without an ETag",
        206,
        {"Content-Range": "bytes 100-199/1000", "Last-Modified": LATER, "Date": LATER},
        Changed,
    ),
    Case(
        "the time of the answer as the date, with ETags ignored",
        206,
        {**GOOD, "Last-Modified": LATER, "Date": LATER},
        Changed,
        ignore_etag=True,
    ),
    Case(
        "412 when an object is known",
        412,
        {},
        Changed("the server answered 412 Precondition Failed", Identity()),
    ),
    Case(
        "what the object has become",
        206,
        {**content_range("bytes 100-199/999"), "ETag": '"v2"', "Last-Modified": LATER},
        Changed("its size is 999 now, it was 1000", Identity(999, '"v2"', LATER)),
    ),
    Case("412 to the first request", 412, {}, HTTPStatusError, known=None),
]

FRAMING = [
    Case(
        "unknown length (chunked)",
        200,
        {**SAME, "Transfer-Encoding": "chunked"},
        Whole(Identity(None, ETAG, DATE)),
        known=None,
    ),
    Case("close-delimited", 200, {**SAME}, Whole(Identity(None, ETAG, DATE)), known=None),
    Case("Content-Encoding on a range", 206, {**GOOD, "Content-Encoding": "gzip"}, BadResponseError),
    Case(
        "Content-Encoding on the whole",
        200,
        {**SAME, "Content-Length": "1000", "Content-Encoding": "br"},
        BadResponseError,
        known=None,
    ),
    Case(
        "the second Content-Encoding field counts too",
        206,
        {**GOOD, "Content-Encoding": ["identity", "gzip"]},
        BadResponseError,
    ),
    Case(
        "Content-Encoding identity", 206, {**GOOD, "Content-Encoding": "Identity"}, Partial(100, 200, KNOWN)
    ),
    Case(
        "Content-Length with chunked on the whole",
        200,
        {**SAME, "Content-Length": "1000", "Transfer-Encoding": "chunked"},
        BadResponseError,
        known=None,
    ),
    Case(
        "Content-Length with chunked on a range",
        206,
        {**GOOD, "Content-Length": "100", "Transfer-Encoding": "chunked"},
        BadResponseError,
    ),
    Case("a chunked range", 206, {**GOOD, "Transfer-Encoding": "chunked"}, Partial(100, 200, KNOWN)),
    Case(
        "conflicting lengths", 200, {**SAME, "Content-Length": ["1000", "999"]}, BadResponseError, known=None
    ),
    Case(
        "the same length twice", 200, {**SAME, "Content-Length": ["1000", "1000"]}, Whole(KNOWN), known=None
    ),
    Case("a list of lengths in one field", 200, {**SAME, "Content-Length": "1000, 999"}, BadResponseError),
    Case("a negative length", 200, {**SAME, "Content-Length": "-1"}, BadResponseError, known=None),
    Case("a signed length", 200, {**SAME, "Content-Length": "+1000"}, BadResponseError, known=None),
    Case("an overflowing length", 200, {**SAME, "Content-Length": str(2**63)}, BadResponseError, known=None),
    Case(
        "a length of a thousand digits",
        200,
        {**SAME, "Content-Length": "1" * 1000},
        BadResponseError,
        known=None,
    ),
    Case("a length in hex", 200, {**SAME, "Content-Length": "0x10"}, BadResponseError, known=None),
    Case("a length in other digits", 200, {**SAME, "Content-Length": "\u0661"}, BadResponseError, known=None),
    Case("an empty length", 200, {**SAME, "Content-Length": ""}, BadResponseError, known=None),
    Case(
        "the largest length", 200, {"Content-Length": str(2**63 - 1)}, Whole(Identity(2**63 - 1)), known=None
    ),
    Case(
        "an overflowing length on a range",
        206,
        {**GOOD, "Content-Length": str(2**64 + 100)},
        BadResponseError,
    ),
]

STATUSES = [
    *(
        Case(f"{status} unasked", status, {}, HTTPStatusError)
        for status in (100, 201, 202, 204, 205, 304, 402, 418)
    ),
    Case("400 to a later range", 400, {}, Unsatisfiable(Identity())),
    Case("400 to the first range", 400, {}, NotRanged, known=None),
    Case("400 to the first request, without a range", 400, {}, HTTPStatusError, asked=None, known=None),
    *(Case(f"a status of {status}", status, {}, HTTPStatusError) for status in (0, 99, 299, 305, 399, 499)),
    Case("a status of 599", 599, {}, ServerError),
    Case("404", 404, {}, NotFoundError),
    Case("410", 410, {}, NotFoundError),
    *(Case(str(status), status, {}, AuthError) for status in (401, 403, 407)),
    *(Case(str(status), status, {}, OverloadedError) for status in (429, 503)),
    *(Case(str(status), status, {}, ServerError) for status in (408, 425, 500, 502, 504, 999)),
    *(Case(f"{s} redirects", s, {"Location": "/x"}, Moved("/x")) for s in (301, 302, 303, 307, 308)),
    Case("300 is not followed", 300, {"Location": "/x"}, HTTPStatusError),
    Case("a redirect to nowhere", 302, {}, BadResponseError),
    Case("a redirect to an empty place", 302, {"Location": ""}, BadResponseError),
]

CASES = [*RANGE_ANSWERS, *IDENTITY, *FRAMING, *STATUSES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_answer_means(case: Case) -> None:
    if isinstance(case.verdict, type) and issubclass(case.verdict, FastxferError):
        with pytest.raises(case.verdict) as caught:
            case.judged()
        assert type(caught.value) is case.verdict
    elif isinstance(case.verdict, type):
        assert type(case.judged()) is case.verdict
    else:
        assert case.judged() == case.verdict


# What a user reads, in full: each of the ways in which an answer can be refused or not be the object.
WORDS = {
    "206 from another start": "the server sent bytes from 0, not from 100 as asked",
    "206 with another total": "its size is 1001 now, it was 1000",
    "206 with total * and no known size": "the server does not tell the object's size with its ranges",
    "206 with total * past the known size": "the server sent bytes past the object's 1000",
    "206 without Content-Range": "the server answered 206 with 0 Content-Range fields instead of one",
    "206 with two Content-Ranges": "the server answered 206 with 2 Content-Range fields instead of one",
    "206 to a request without Range": "the server answered 206 to a request without a Range",
    "206 in another unit": "the server's answer does not hold: "
    "'items 100-199/1000' is not a Content-Range in bytes",
    "206 with an end past its total": "the server's answer does not hold: "
    "'bytes 100-199/150' is not a possible Content-Range",
    "206 with the Content-Range of a 416": "the server answered 206 with the Content-Range of a 416",
    "206 with a total of 2**63": "the server's answer does not hold: "
    f"'bytes 100-199/{2**63}' tells an impossible size",
    "206 with multipart/byteranges for one range": "the server answered one range with multipart/byteranges",
    "206 whose lengths disagree": "the answer says 100 bytes in Content-Range and 99 in Content-Length",
    "200 with a Content-Range of another start": "the server answered 200 with a Content-Range that was not "
    "asked for",
    "200 with two Content-Ranges": "the server answered 200 with a Content-Range that cannot be read",
    "200 with a Content-Range and another length": "the server answered 200 with a Content-Range and another "
    "Content-Length",
    "416 of another size": "its size is 500 now, it was 1000",
    "another strong ETag on a 206": 'its ETag is "v2" now, it was "v1"',
    "another Last-Modified under the same ETag": f"it was modified on {LATER}, not on {DATE}",
    "no ETag, where a strong one is known": "the answer lacks the object's ETag",
    "400 to the first range": "the server answered 400 Bad Request to the first range",
    "412 when an object is known": "the server answered 412 Precondition Failed",
    "Content-Encoding on a range": "the answer came in Content-Encoding 'gzip', which was not asked for",
    "Content-Length with chunked on the whole": "the answer has both a Content-Length and a "
    "Transfer-Encoding",
    "conflicting lengths": "the answer has conflicting Content-Length fields",
    "a negative length": "the answer has an impossible Content-Length, '-1'",
    "204 unasked": "the server answered 204 No Content",
    "a status of 599": "the server answered 599",
    "404": "the server answered 404 Not Found: there is no such object",
    "403": "the server answered 403 Forbidden: the credentials are missing, wrong or expired",
    "503": "the server answered 503 Service Unavailable: it is overloaded",
    "500": "the server answered 500 Internal Server Error",
    "a redirect to nowhere": "the server answered 302 Found without a Location",
}


def told(case: Case) -> str:
    """Returns what an answer that is not taken is told to be, in words."""
    try:
        verdict = case.judged()
    except FastxferError as error:
        return str(error)
    assert isinstance(verdict, Changed | NotRanged)
    return verdict.reason


@pytest.mark.parametrize("name", WORDS)
def test_what_is_wrong_with_an_answer_is_told_in_words(name: str) -> None:
    assert told(next(case for case in CASES if case.name == name)) == WORDS[name]


@pytest.mark.parametrize(
    ("headers", "quoted"),
    [
        (content_range("b" * 200), "'" + "b" * 80 + "'"),
        ({**GOOD, "Content-Length": "1" * 200}, "'" + "1" * 40 + "'"),
        ({**GOOD, "Content-Encoding": "g" * 200}, "'" + "g" * 40 + "'"),
        ({**GOOD, "ETag": "e" * 200}, " " + "e" * 80 + " "),
        ({**GOOD, "ETag": '"\x1b[2J\xa0"'}, ' "?[2J?" '),
    ],
    ids=["range", "length", "coding", "etag", "control"],
)
def test_a_servers_words_are_quoted_cut_short_and_without_control_characters(
    headers: dict[str, str | list[str]], quoted: str
) -> None:
    assert quoted in told(Case("", 206, headers, RangeError))


REFUSED = [c for c in STATUSES if isinstance(c.verdict, type) and issubclass(c.verdict, HTTPStatusError)]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_status_that_is_refused_is_told_by_number(case: Case) -> None:
    with pytest.raises(HTTPStatusError, match=f"^the server answered {case.status}") as caught:
        case.judged()
    assert caught.value.status == case.status


@pytest.mark.parametrize(
    ("etag", "strong"),
    [
        ('"v1"', '"v1"'),
        ('W/"v1"', None),
        (None, None),
        ('""', '""'),
        ("bare", "bare"),
        ('"\xe9 \xff"', '"\xe9 \xff"'),
        ('"a"\r\nX-Injected: 1', None),  # it may come from a file
        ('"a\x7f"', None),
        ('"\u20ac"', None),
    ],
)
def test_only_a_strong_etag_that_a_field_can_hold_may_stand_in_if_range(
    etag: str | None, strong: str | None
) -> None:
    assert Identity(1, etag).strong_etag == strong


@pytest.mark.parametrize(
    ("identity", "has"),
    [
        (Identity(1), False),
        (Identity(1, ETAG), True),
        (Identity(1, 'W/"v1"'), True),
        (Identity(1, None, DATE), True),
    ],
)
def test_a_size_alone_is_no_validator(identity: Identity, has: bool) -> None:
    assert identity.has_validator is has


@pytest.mark.parametrize(
    ("new", "word"),
    [
        (Identity(1001, ETAG, DATE), "size"),
        (Identity(1000, '"v2"', DATE), "ETag"),
        (Identity(1000, ETAG, LATER), "modified"),
        (Identity(1000, ETAG, DATE), None),
        (Identity(), None),
    ],
)
def test_a_difference_is_told_in_words(new: Identity, word: str | None) -> None:
    reason = difference(KNOWN, new)
    assert reason is None if word is None else reason is not None and word in reason


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_says_for_how_long(status: int) -> None:
    with pytest.raises(OverloadedError) as caught:
        judge(ASKED, KNOWN, status, Headers([("Retry-After", "17")]), now_epoch_s=NOW)
    assert (caught.value.retry_after_s, caught.value.status) == (17.0, status)


def test_retry_after_as_a_date_counts_from_the_time_given() -> None:
    fields = Headers([("Retry-After", "Sun, 06 Nov 1994 08:50:07 GMT")])
    with pytest.raises(OverloadedError) as caught:
        judge(ASKED, KNOWN, 503, fields, now_epoch_s=NOW)
    assert caught.value.retry_after_s == 30.0


@pytest.mark.parametrize(
    ("status", "retry"),
    [
        (404, Retry.OTHER_MIRROR),
        (403, Retry.OTHER_MIRROR),
        (204, Retry.OTHER_MIRROR),
        (500, Retry.SAME_SOURCE),
        (503, Retry.SAME_SOURCE),
        (408, Retry.SAME_SOURCE),
    ],
)
def test_a_status_says_what_trying_again_can_do(status: int, retry: Retry) -> None:
    with pytest.raises(HTTPStatusError) as caught:
        judge(ASKED, KNOWN, status, Headers(), now_epoch_s=NOW)
    assert caught.value.retry is retry


def test_etags_are_compared_unless_told_otherwise() -> None:
    verdict = judge(
        ASKED, KNOWN, 206, Headers([("Content-Range", "bytes 100-199/1000"), ("ETag", "x")]), now_epoch_s=NOW
    )
    assert isinstance(verdict, Changed)


def test_where_objects_are_kept_coded_a_coding_is_their_own() -> None:
    fields = Headers([("Content-Length", "1000"), ("Content-Encoding", "gzip"), ("ETag", ETAG)])
    verdict = judge(None, None, 200, fields, coded=True, now_epoch_s=NOW)
    assert verdict == Whole(Identity(1000, ETAG))


def test_a_field_is_trimmed_of_spaces_and_tabs_and_of_nothing_else() -> None:
    headers = Headers([("a", "\xa0 1 \x0b"), ("b", "\t X 2 X \t")])
    assert (headers.get("a"), headers.get("b")) == ("\xa0 1 \x0b", "X 2 X")


def test_headers_keep_every_value_in_order_and_trimmed() -> None:
    headers = Headers([("A", " 1 "), ("b", "2"), ("a", "3")])
    assert (headers.all("a"), headers.get("a"), headers.get("c")) == (["1", "3"], "1", None)


_TOKENS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["bytes 100-199/1000", "bytes 100-149/*", "bytes */1000", "100", "1000", ETAG, DATE, "gzip"]
    ),
)
_NAMES = st.sampled_from(
    [
        *("Content-Range", "Content-Length", "ETag", "Last-Modified", "Content-Encoding"),
        *("Transfer-Encoding", "Content-Type", "Retry-After", "Location"),
    ]
)


@given(
    asked=st.sampled_from([None, ASKED, (0, 1), (900, 1100)]),
    known=st.sampled_from([None, KNOWN, Identity(SIZE), Identity(None, ETAG)]),
    status=st.one_of(st.sampled_from([200, 206, 416]), st.integers(0, 999)),
    fields=st.lists(st.tuples(_NAMES, _TOKENS), max_size=6),
)
def test_whatever_a_server_sends_is_a_verdict_within_what_was_asked_or_a_typed_error(
    asked: Span | None, known: Identity | None, status: int, fields: list[tuple[str, str]]
) -> None:
    try:
        verdict = judge(asked, known, status, Headers(fields), now_epoch_s=NOW)
    except FastxferError:
        return
    if isinstance(verdict, Partial):
        assert asked is not None and asked[0] == verdict.start < verdict.stop <= asked[1]
        size = verdict.identity.size
        assert size is not None and verdict.stop <= size
        assert known is None or known.size is None or known.size == size


@pytest.mark.parametrize(
    ("known", "new", "both"),
    [
        (Identity(9, '"a"', "then"), Identity(9, '"a"', "then"), Identity(9, '"a"', "then")),
        (Identity(9, 'W/"a"', "then"), Identity(9, '"a"', "then"), Identity(9, '"a"', "then")),
        (Identity(9, '"a"', "then"), Identity(9, '"b"', "then"), Identity(9)),
        (Identity(9, None, "then"), Identity(9, '"b"', "then"), Identity(9, None, "then")),
        (Identity(9, '"a"', None), Identity(9, '"a"', "then"), Identity(9, '"a"', None)),
        (Identity(9, '"a"', "then"), Identity(9), Identity(9)),
        (Identity(9), Identity(9, '"b"', "then"), Identity(9)),
    ],
)
def test_bytes_of_two_answers_have_what_both_tell(known: Identity, new: Identity, both: Identity) -> None:
    assert agreed(known, new) == both
