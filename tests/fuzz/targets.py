"""The targets: what reads outside input, each as a function from any bytes to nothing.

A target lets the documented, typed errors of what it calls pass and asserts everything else: results within
their bounds, what was read reads back the same, nothing that could harm a terminal in a message. Whatever
else comes out of it is a finding. It keeps nothing between two calls.

Three things call them: the kept corpus in every test run, hypothesis with strategies that know the structure
(strategies.py), and atheris for long (long.py).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastxfer.cli.arguments import transfer_options
from fastxfer.engine.request import MAX_HEADER_FIELDS, Exchange, Head, Request
from fastxfer.errors import BadResponseError, FastxferError, OptionError, OverloadedError
from fastxfer.inputs import FORMATS, parse
from fastxfer.names import MAX_NAME_BYTES, check_collisions, name_of_url, safe_name, safe_path
from fastxfer.options import DIGEST_HEX_LENGTHS, TransferOptions, parse_checksum
from fastxfer.plan.dates import http_time
from fastxfer.plan.ranges import Span, format_range, parse_content_range, parse_range
from fastxfer.plan.response import (
    Changed,
    Identity,
    Moved,
    NotRanged,
    Partial,
    Verdict,
    Whole,
    identity_of,
    judge,
)
from fastxfer.plan.retry import RETRY_AFTER_CAP_S, parse_retry_after
from fastxfer.sources.http import HttpSource, origin, safe_url
from fastxfer.units import MAX_SIZE, parse_size

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}

MAX_MESSAGE = 8192
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
SECRET_HEADERS = ("Authorization: canary", "Cookie: canary", "X-Amz-Security-Token: canary")


def target(function: Target) -> Target:
    """Puts a function among the targets, under its name."""
    TARGETS[function.__name__] = function
    return function


def field_text(data: bytes) -> str:
    """Returns a field's value as the engine takes it from the wire (RFC 9110 section 5.5)."""
    return data.decode("latin-1")


def typed_text(data: bytes) -> str:
    """Returns what someone typed, as Python takes arguments and environment variables."""
    return data.decode("utf-8", "surrogateescape")


def is_presentable(error: FastxferError) -> None:
    """Asserts that an error's message is one line that a terminal shows as it is."""
    text = str(error)
    assert text and len(text) <= MAX_MESSAGE, f"a message of {len(text)} characters"
    assert text.isprintable(), f"a message with control characters: {text[:200]!r}"
    assert error.to_dict()["message"] == text


# ---- fields ----


@target
def content_range(data: bytes) -> None:
    try:
        found = parse_content_range(field_text(data))
    except ValueError:
        return
    assert found.total is None or 0 <= found.total <= MAX_SIZE
    if found.span is None:
        assert found.total is not None
        written = f"bytes */{found.total}"
    else:
        start, stop = found.span
        assert 0 <= start < stop <= (MAX_SIZE if found.total is None else found.total)
        total = "*" if found.total is None else found.total
        written = f"{format_range(start, stop).replace('=', ' ')}/{total}"
    assert parse_content_range(written) == found


@target
def range_field(data: bytes) -> None:
    text = field_text(data)
    for size in (0, 1, 1000, MAX_SIZE):
        spans = parse_range(text, size)
        assert (spans is None) == (parse_range(text, 0) is None), "whether a field is valid is its own affair"
        for start, stop in spans or []:
            assert 0 <= start < stop <= size
            assert parse_range(format_range(start, stop), size) == [(start, stop)]


@target
def retry_after(data: bytes) -> None:
    text = field_text(data)
    for now in (0.0, NOW, 4e9):
        wait_s = parse_retry_after(text, now)
        assert wait_s is None or 0.0 <= wait_s <= RETRY_AFTER_CAP_S


@target
def http_date(data: bytes) -> None:
    seconds = http_time(field_text(data))
    if seconds is not None:
        assert math.isfinite(seconds)
        with tempfile.TemporaryFile() as file:
            os.utime(file.fileno(), (seconds, seconds))


# ---- whole answers ----

ASKED: tuple[Span | None, ...] = (None, (0, 1), (0, 1000), (100, 200), (900, 1100), (2**62, 2**63 - 1))
KNOWN = (
    None,
    Identity(),
    Identity(1000),
    Identity(1000, '"v1"', "Wed, 01 Jan 2025 00:00:00 GMT"),
    Identity(None, 'W/"v1"'),
)


def head_of(data: bytes) -> Head | None:
    """Returns the head that the engine makes of these lines, or None when they hold none that it takes."""
    exchange = Exchange(TransferOptions())
    exchange.lines.open()
    lines = data.splitlines(keepends=True) if b"\r" not in data else data.split(b"\r\n")
    try:
        for number, line in enumerate(lines):
            if exchange.lines(line) is not None:
                assert number >= MAX_HEADER_FIELDS
                break
        if exchange.refused is not None:
            is_presentable(exchange.refused)
        return exchange.head
    finally:
        exchange.close()


@target
def answer(data: bytes) -> None:
    head = head_of(data)
    if head is None:
        return
    assert 200 <= head.status <= 999
    for asked in ASKED:
        for known in KNOWN:
            for ignore_etag in (False, True):
                try:
                    verdict = judge(
                        asked, known, head.status, head.headers, ignore_etag=ignore_etag, now_epoch_s=NOW
                    )
                except FastxferError as error:
                    is_presentable(error)
                    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
                        assert 0.0 <= error.retry_after_s <= RETRY_AFTER_CAP_S
                else:
                    holds(verdict, asked, known or Identity())
    identity = identity_of(head.headers, None)
    can_be_sent(
        HttpSource.of("http://example.org/", TransferOptions()), TransferOptions(), identity.strong_etag
    )


def holds(verdict: Verdict, asked: Span | None, known: Identity) -> None:
    """Asserts that a verdict claims no more than was asked, and of no other object than the known one."""
    match verdict:
        case Partial(start, stop, identity):
            assert asked is not None and asked[0] == start < stop <= asked[1]
            assert identity.size is not None and stop <= identity.size <= MAX_SIZE
            assert known.size in (None, identity.size)
        case Whole(identity):
            assert identity.size is None or 0 <= identity.size <= MAX_SIZE
            assert known.size is None or identity.size in (None, known.size)
        case Changed(reason):
            assert reason.isprintable() and 0 < len(reason) <= MAX_MESSAGE
        case NotRanged(reason):
            assert asked is not None, "without a range there is nothing else to ask for"
            assert reason.isprintable()
        case Moved(location):
            assert location
        case _:
            assert asked is not None
            assert known.size is None or verdict.identity.size in (None, known.size)


# ---- URLs ----


def is_clean(source: HttpSource) -> None:
    """Asserts that a source's URL can be sent, shown and compared."""
    scheme, _, rest = source.url.partition("://")
    assert scheme in ("http", "https")
    assert source.url.isascii() and source.url.isprintable() and " " not in source.url
    host = rest.partition("/")[0].partition("?")[0]
    assert host and "@" not in host
    assert origin(source.url)[1], "there is a host"
    assert 0 <= origin(source.url)[2] < 65536
    for shown in (source.display, safe_url(source.url)):
        assert "?" not in shown and "#" not in shown and "@" not in shown.split("/")[2]
    can_be_sent(source, TransferOptions())


def can_be_sent(source: HttpSource, options: TransferOptions, if_range: str | None = '"v1"') -> None:
    """Asserts that the engine's handle takes the options and a request to the source."""
    lines = source.header_lines((0, 1), if_range)
    assert not any("\r" in line or "\n" in line or "\0" in line for line in lines)
    exchange = Exchange(options)
    try:
        exchange.prepare(Request(source.url, lines, source.credentials), _Nobody())
    finally:
        exchange.close()


class _Nobody:
    """Listens to an exchange that is never started."""

    def head(self, exchange: Exchange, head: Head) -> None:
        """Is not called."""

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        """Is not called."""


@target
def url(data: bytes) -> None:
    try:
        source = HttpSource.of(typed_text(data), TransferOptions())
    except OptionError as error:
        is_presentable(error)
        return
    is_clean(source)
    again = HttpSource.of(source.url, TransferOptions())
    assert (again.url, again.home, again.credentials) == (source.url, source.home, None)


@target
def location(data: bytes) -> None:
    options = TransferOptions.build(headers=SECRET_HEADERS, auth="user:canary")
    for begin in ("https://example.org/dir/data.bin?q=1", "http://example.org:8080/x"):
        source = HttpSource.of(begin, options)
        try:
            moved = source.redirected(field_text(data))
        except BadResponseError as error:
            is_presentable(error)
            continue
        is_clean(moved)
        assert moved.redirects == 1
        assert moved.url.startswith("https:") or begin.startswith("http:")
        if origin(moved.url) != source.home:
            assert moved.credentials is None
            assert "canary" not in "".join(moved.header_lines(None, None))


# ---- names ----


@target
def name(data: bytes) -> None:
    text = typed_text(data)
    for read, given in ((safe_name, text), (name_of_url, f"https://example.org/{text}")):
        try:
            found = read(given)
        except OptionError as error:
            is_presentable(error)
        else:
            is_one_name(found)
            assert found == text or read is name_of_url


@target
def paths(data: bytes) -> None:
    """The names of a manifest, one a line, each alone and all side by side."""
    texts = typed_text(data).split("\n")
    refused = False
    for text in texts:
        try:
            components = safe_path(text)
        except OptionError as error:
            is_presentable(error)
            refused = True
        else:
            assert "/".join(components) == text
            for component in components:
                is_one_name(component)
    try:
        check_collisions(texts)
    except OptionError as error:
        is_presentable(error)
    else:
        assert not refused and len({text.casefold() for text in texts}) == len(texts)


def is_one_name(text: str) -> None:
    """Asserts that a name is one component below whatever directory it is put into."""
    assert text not in ("", ".", "..")
    assert not any(each in text for each in "/\\:\0") and not text.endswith((".", " "))
    assert not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in text)
    assert len(os.fsencode(text)) <= MAX_NAME_BYTES
    root = Path("/some/directory")
    assert Path(os.path.normpath(root / text)).parent == root


# ---- options ----


@target
def checksum(data: bytes) -> None:
    try:
        pairs = parse_checksum(typed_text(data))
    except ValueError:
        return
    for algorithm, digest in pairs:
        assert len(digest) == DIGEST_HEX_LENGTHS[algorithm] and digest == digest.lower()
        int(digest, 16)
        assert parse_checksum(f"{algorithm}:{digest}") == parse_checksum({algorithm: digest})


@target
def size(data: bytes) -> None:
    try:
        found = parse_size(typed_text(data))
    except ValueError:
        return
    assert 0 <= found <= MAX_SIZE
    assert parse_size(str(found)) == found


@target
def option(data: bytes) -> None:
    """The option that the first line names, or one by chance; the rest is its text, as someone typed it."""
    first, _, rest = data.partition(b"\n")
    every = [field.name for field in fields(TransferOptions)]
    chosen = typed_text(first) if typed_text(first) in every else every[len(data) % len(every)]
    text = typed_text(rest)
    built: dict[str, Any] = {}
    for value in (text, text.splitlines()):
        try:
            built = {chosen: value}
            options = TransferOptions.build(**built)
        except OptionError as error:
            is_presentable(error)
        else:
            can_be_sent(HttpSource.of("https://example.org/x", options), options)


@target
def environment(data: bytes) -> None:
    """Every option's variable at once; a NUL, which no variable holds, stands between two."""
    texts = [typed_text(piece) for piece in data.split(b"\0")]
    for index, each in enumerate(transfer_options()):
        try:
            value = each.value(None, {each.variable: texts[index % len(texts)]})
        except OptionError as error:
            is_presentable(error)
        else:
            assert value is None or TransferOptions.build(**{each.name: value})


# ---- input files ----

BASE_URLS = ("https://example.org/base",)


def input_is_sound(data: bytes, format: str | None) -> None:
    """Reads an input file: what comes of it can be fetched to names that are safe side by side, or is refused
    with a word about it.
    """
    try:
        found = parse(data, format=format, base_urls=BASE_URLS)
    except OptionError as error:
        is_presentable(error)
        return
    assert found.entries and found.format in FORMATS
    assert all(warning and warning.isprintable() and len(warning) < 300 for warning in found.warnings)
    for entry in found.entries:
        assert entry.urls and all(url.lower().startswith(("http://", "https://")) for url in entry.urls)
        assert ".." not in safe_path(entry.name) and entry.directory is None
        assert entry.size is None or 0 <= entry.size <= MAX_SIZE
        TransferOptions.build(**entry.options)
    check_collisions(entry.name for entry in found.entries)


@target
def input_file(data: bytes) -> None:
    input_is_sound(data, None)


@target
def input_list(data: bytes) -> None:
    input_is_sound(data, "list")


@target
def input_aria2(data: bytes) -> None:
    input_is_sound(data, "aria2")


@target
def input_checksums(data: bytes) -> None:
    input_is_sound(data, "checksums")


@target
def input_metalink(data: bytes) -> None:
    input_is_sound(data, "metalink")
