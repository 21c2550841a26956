"""The tus protocol as values: what is read from answers, and what is kept."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    HTTPStatusError,
    LockedError,
    NotFoundError,
    OptionError,
    OverloadedError,
    Retry,
    ServerError,
    TooLargeError,
)
from fastxfer.plan.response import Headers
from fastxfer.sources import tus


def headers(**fields: str) -> Headers:
    return Headers([(name.replace("_", "-"), value) for name, value in fields.items()])


@pytest.mark.parametrize("url", ["tus+http://h/", "tus+https://h/x", " TUS+HTTPS://h/"])
def test_urls_of_tus_servers_are_known(url: str) -> None:
    assert tus.is_tus(url)
    assert tus.http_url(url).lower().startswith("http")


@pytest.mark.parametrize(
    "url", ["http://h/", "tus://h/", "s3://tus+http", "tus+ftp://h", "", None, 5, b"tus+http://h"]
)
def test_other_urls_are_not(url: object) -> None:
    assert not tus.is_tus(url)


def test_an_offer_is_read() -> None:
    told = headers(
        Tus_Version="1.0.0, 0.2.2",
        Tus_Extension="creation, checksum,,termination",
        Tus_Checksum_Algorithm="crc32,md5 ,sha1",
        Tus_Max_Size="1073741824",
    )
    offer = tus.read_offer(told)
    assert offer == tus.Offer(frozenset({"creation", "checksum", "termination"}), "sha1", 1 << 30)
    assert offer.has("creation") and not offer.has("concatenation")


@pytest.mark.parametrize(
    ("fields", "offer"),
    [
        ({}, tus.Offer()),
        ({"Tus_Checksum_Algorithm": "sha1"}, tus.Offer()),
        ({"Tus_Extension": "checksum", "Tus_Checksum_Algorithm": "SHA1"}, tus.Offer(frozenset({"checksum"}))),
        ({"Tus_Max_Size": "0"}, tus.Offer()),
        ({"Tus_Max_Size": "-5"}, tus.Offer()),
        ({"Tus_Max_Size": "9" * 30}, tus.Offer()),
    ],
)
def test_what_is_not_offered_is_not_used(fields: dict[str, str], offer: tus.Offer) -> None:
    assert tus.read_offer(headers(**fields)) == offer


def test_a_server_of_other_versions_is_refused() -> None:
    with pytest.raises(BadResponseError, match=r"0\.2\.2"):
        tus.read_offer(headers(Tus_Version="0.2.2"))


@given(st.binary())
def test_a_name_may_be_any_bytes(name: bytes) -> None:
    field, value = tus.metadata(name)
    assert (field, value.partition(" ")[0]) == ("Upload-Metadata", "filename")
    assert base64.b64decode(value.partition(" ")[2], validate=True) == name


@given(st.integers(0, 10**18 - 1))
def test_an_offset_is_read(offset: int) -> None:
    assert tus.offset_of(headers(Upload_Offset=str(offset))) == offset


@given(st.text())
def test_an_offset_is_a_number_or_an_error(text: str) -> None:
    try:
        offset = tus.offset_of(headers(Upload_Offset=text))
    except BadResponseError:
        assert not (text.isascii() and text.strip(" \t").isdecimal()) or len(text) > 18
    else:
        assert offset == int(text)


def test_two_offsets_are_an_error_unless_they_are_one() -> None:
    assert tus.offset_of(Headers([("Upload-Offset", "5"), ("upload-offset", "5")])) == 5
    with pytest.raises(BadResponseError):
        tus.offset_of(Headers([("Upload-Offset", "5"), ("Upload-Offset", "6")]))


@pytest.mark.parametrize(
    ("status", "kind", "retry"),
    [
        (404, NotFoundError, Retry.OTHER_MIRROR),
        (410, NotFoundError, Retry.OTHER_MIRROR),
        (401, AuthError, Retry.OTHER_MIRROR),
        (403, AuthError, Retry.OTHER_MIRROR),
        (409, HTTPStatusError, Retry.OTHER_MIRROR),
        (412, HTTPStatusError, Retry.OTHER_MIRROR),
        (413, TooLargeError, Retry.NEVER),
        (423, LockedError, Retry.SAME_SOURCE),
        (429, OverloadedError, Retry.SAME_SOURCE),
        (500, ServerError, Retry.SAME_SOURCE),
        (501, HTTPStatusError, Retry.OTHER_MIRROR),
        (503, OverloadedError, Retry.SAME_SOURCE),
        (307, HTTPStatusError, Retry.OTHER_MIRROR),
    ],
)
def test_a_refusal_is_typed(status: int, kind: type[HTTPStatusError], retry: Retry) -> None:
    error = tus.refusal("cannot", status, headers(), "why")
    assert (type(error), error.status, error.retry) == (kind, status, retry)
    assert f"cannot: the server answered {status} (why)" in error.message


@pytest.mark.parametrize(
    ("location", "asked", "becomes"),
    [
        ("http://h/files/1", "https://h/files", "https://h/files/1"),
        ("HTTP://H:8443/files/1", "https://h:8443/files", "https://H:8443/files/1"),
        ("http://h?x", "https://h/files", "https://h?x"),
        ("http://h.evil/files/1", "https://h/files", "http://h.evil/files/1"),
        ("http://h:80/files/1", "https://h/files", "http://h:80/files/1"),
        ("http://h@evil/1", "https://h/files", "http://h@evil/1"),
        ("http://h/files/1", "http://h/files", "http://h/files/1"),
        ("https://h/files/1", "http://h/files", "https://h/files/1"),
        ("/files/1", "https://h/files", "/files/1"),
    ],
)
def test_a_location_stays_with_tls_where_it_is_the_same_server(
    location: str, asked: str, becomes: str
) -> None:
    assert tus.location_over_tls(location, asked) == becomes


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_mark_is_read_as_it_was_written(sent: int, chunk: int) -> None:
    mark = tus.Mark(sent, chunk, "https://h/files/1?a=b")
    assert tus.Mark.parse(str(mark)) == mark
    assert tus.salvage(b'..[1,"0123456789abcdef","' + str(mark).encode() + b'"]..') == [mark.url]


@given(st.text())
def test_a_mark_that_cannot_be_is_refused(text: str) -> None:
    try:
        assert str(tus.Mark.parse(text)) == text
    except ValueError:
        pass


@given(st.binary())
def test_what_is_salvaged_has_no_odd_characters(data: bytes) -> None:
    for url in tus.salvage(data):
        assert tus.check_kept(url) == url


@pytest.mark.parametrize(
    ("offset", "length", "chunk", "checked"),
    [
        (0, 10, 4, True),
        (4, 10, 4, True),
        (5, 10, 4, False),
        (10, 10, 4, True),
        (4, 10, 0, False),
        (10, 10, 0, False),
    ],
)
def test_only_whole_chunks_are_checked(offset: int, length: int, chunk: int, checked: bool) -> None:
    assert tus.is_checked(offset, length, chunk) is checked


def test_only_large_files_go_as_several_and_only_where_that_is_offered() -> None:
    joined = tus.Offer(frozenset({"concatenation"}))
    mib = 1 << 20
    lanes = [
        tus.lanes_for(size * mib, connections=8, part_size=8 * mib, offer=joined) for size in (0, 63, 64, 999)
    ]
    assert lanes == [1, 1, 2, 8]
    assert tus.lanes_for(999 * mib, connections=8, part_size=8 * mib, offer=tus.Offer()) == 1
    assert tus.lanes_for(1 << 40, connections=1024, part_size=8 * mib, offer=joined) == tus.MAX_LANES


def test_fields_of_the_protocol_are_its_own() -> None:
    tus.check_fields([("Authorization", "x"), ("Upload-Metadata", "y")])
    with pytest.raises(OptionError):
        tus.check_fields([("UPLOAD-offset", "1")])
