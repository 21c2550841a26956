"""Answers whose head went wrong, from a real socket to a real fetch: exact bytes or a typed error.

The body is always right and the connection ends after it; with its digest asked for, nothing but the object
may come to stand under the final name, whatever the head says. Without, an answer may well claim that the
object is shorter than it is: then what stands there is the beginning of the object, as long as the result
says.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastxfer
from fastxfer.plan import retry
from tests.faults.scenarios import sha256_of, wait
from tests.fuzz.strategies import CONTENT_RANGE, DATE, ETAG, STAR_OR_NUMBER, URL, heads, words
from tests.fuzz.targets import is_presentable
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Content, RangeHandler, RawServer, Request

SIZE = 256 * 1024 + 1000  # two ranges: the probe, and one that is asked for with an identity known
OBJECT = make_bytes(SIZE, 3)
EXAMPLES = 150
FETCH_S = 20.0

Head = list[tuple[bytes, bytes]]


class Mutating(RangeHandler):
    """Serves an object by the book, but for one answer, whose head `mutate` makes of the right one."""

    def __init__(self) -> None:
        super().__init__(OBJECT)
        self._lock = threading.Lock()
        self._left = 0
        self._mutation = Mutation()

    def begin(self, nth: int, mutation: Mutation) -> None:
        """Makes the nth answer from now on, counted from 0, a wrong one."""
        with self._lock:
            self._left, self._mutation = nth, mutation

    def __call__(self, request: Request, connection: Connection) -> None:
        with self._lock:
            wrong, self._left = self._left == 0, self._left - 1
        if not wrong:
            super().__call__(request, connection)
            return
        content = self.content
        wanted = self.wanted(request, content) or (0, len(content.data))
        status = 206 if request.range else 200
        fields = self.head(content, status, wanted)
        head = [(name.encode(), value.encode()) for name, value in fields.items()]
        connection.send(self._mutation.of(status, head))
        self.send(connection, Content(content.data, None, None), *wanted)
        connection.close()


@dataclass(frozen=True, slots=True)
class Mutation:
    """What becomes of a right head: another `whole` one, or another status, other values of some fields, and
    some bytes overwritten.
    """

    whole: bytes = b""
    status: bytes = b""
    fields: Mapping[bytes, list[bytes]] = field(default_factory=dict)
    edit: tuple[int, int, bytes] = (0, 0, b"")

    def of(self, status: int, head: Head) -> bytes:
        """Returns the head's bytes."""
        if self.whole:
            return one_head(self.whole)
        head = [pair for pair in head if pair[0] not in self.fields]
        head += [(name, value) for name, values in self.fields.items() for value in values]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        text = b"HTTP/1.1 " + (self.status or b"%d" % status) + b" X\r\n" + lines + b"\r\n"
        at, cut, new = self.edit
        return one_head(text[:at] + new + text[at + cut :])


def one_head(text: bytes) -> bytes:
    """Returns the lines of a head without the empty ones: after one of them everything would be body."""
    lines = re.split(rb"[\r\n]+", text.strip(b"\r\n"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


VALUES = {
    b"Content-Range": CONTENT_RANGE,
    b"Content-Length": STAR_OR_NUMBER,
    b"ETag": ETAG,
    b"Last-Modified": DATE,
    b"Transfer-Encoding": words(b"chunked", b"gzip", b"identity", b""),
    b"Content-Encoding": words(b"identity", b"gzip", b"br", b""),
    b"Content-Type": words(b"multipart/byteranges; boundary=x", b"text/html"),
    b"Location": URL.filter(lambda url: b"127.0.0.1" not in url and b"//" not in url),
    b"Retry-After": words(b"0", b"-1", b"x"),
    b"Connection": words(b"close", b"keep-alive", b"upgrade"),
}
EDITS = st.tuples(st.integers(0, 300), st.integers(0, 12), st.binary(max_size=12))
STATUSES = words(b"", b"", b"", b"200", b"206", b"416", b"302", b"503", b"204", b"412")


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """Something wrong with a head: most often in one to three fields of it."""
    match draw(st.sampled_from(["fields", "fields", "fields", "bytes", "whole"])):
        case "whole":
            return Mutation(whole=draw(heads()))
        case "bytes":
            return Mutation(edit=draw(EDITS))
        case _:
            names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True))
            fields = {name: draw(st.lists(VALUES[name], max_size=2)) for name in names}
            return Mutation(status=draw(STATUSES), fields=fields)


@pytest.fixture(scope="module")
def handler() -> Mutating:
    return Mutating()


@pytest.fixture(scope="module")
def server(handler: Mutating) -> Iterator[RawServer]:
    """The module's server, with short waits between attempts."""
    with pytest.MonkeyPatch.context() as patch, RawServer(handler) as server:
        patch.setattr(retry, "BASE_S", 0.002)
        patch.setattr(retry, "RETRY_AFTER_CAP_S", 0.01)
        yield server


def fetched(server: RawServer, checksum: str | None = None) -> tuple[bytes, int] | None:
    """Returns what came to stand under the final name and the size that was told; None after a typed error,
    with nothing under that name.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        transfer = fastxfer.start(
            server.url(), out, 2, retries=1, stall_timeout=0.2, connect_timeout=0.5, checksum=checksum
        )
        try:
            result = wait(transfer, FETCH_S)
        except fastxfer.FastxferError as error:
            is_presentable(error)
            assert "internal error" not in str(error)
            assert not out.exists()
            return None
        return out.read_bytes(), result.size


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(nth=st.integers(0, 1), mutation=mutations())
def test_with_a_digest_a_mutated_head_leads_to_the_exact_bytes_or_a_typed_error(
    server: RawServer, handler: Mutating, nth: int, mutation: Mutation
) -> None:
    handler.begin(nth, mutation)
    assert fetched(server, checksum=sha256_of(OBJECT)) in (None, (OBJECT, SIZE))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutation=mutations())
def test_once_the_object_is_known_a_mutated_head_leads_to_the_exact_bytes_or_a_typed_error(
    server: RawServer, handler: Mutating, mutation: Mutation
) -> None:
    handler.begin(1, mutation)
    assert fetched(server) in (None, (OBJECT, SIZE))


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutation=mutations())
def test_without_a_digest_a_mutated_first_head_leads_to_the_objects_beginning_or_a_typed_error(
    server: RawServer, handler: Mutating, mutation: Mutation
) -> None:
    handler.begin(0, mutation)
    found = fetched(server)
    assert found is None or (OBJECT.startswith(found[0]) and found[1] == len(found[0]))
