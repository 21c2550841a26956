"""A tus server by the book, in memory: all that the protocol says of creation, creation-with-upload,
checksum, termination and concatenation, and whatever goes wrong that a test asks for.

It keeps what has arrived of a body that was cut, but with a checksum takes a chunk whole or not at all.
Before it does anything it asks `trouble`, which may send an answer of its own and return True; `change` may
replace the fields of an answer that it gives.

    with TusBook(trouble=times(2, "PATCH", lambda request, connection: connection.respond(423))) as server:
        fastxfer.put(path, server.target)
"""

from __future__ import annotations

import base64
import hashlib
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.servers.gateway import Gateway, Inbound
from tests.servers.raw import Connection, Request

ALL = ("creation", "creation-with-upload", "checksum", "termination", "concatenation")
PLAIN = ("creation", "termination")
CHECKED = ("creation", "termination", "checksum")
JOINED = ("creation", "termination", "concatenation")
VERSION = {"Tus-Resumable": "1.0.0"}
CHUNK_TYPE = "application/offset+octet-stream"

Trouble = Callable[[Request, Inbound], bool]
Change = Callable[[Request, dict[str, str]], dict[str, str]]


@dataclass(slots=True)
class BookUpload:
    """One upload: what there is of it, how long it is to be, and what it was begun with."""

    length: int
    concat: str
    metadata: str
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Sent:
    """A PATCH that came: to which upload, at which offset, how many bytes of its body, what was answered."""

    upload: str
    offset: int
    received: int
    status: int


def digest(algorithm: str, data: bytes) -> bytes:
    """Returns a checksum as tus names it."""
    if algorithm == "crc32":
        return zlib.crc32(data).to_bytes(4, "big")
    return hashlib.new(algorithm, data).digest()


class TusBook(Gateway):
    """See the module. `uploads` are those that there are by their ids, `sent` what each PATCH did."""

    def __init__(
        self,
        extensions: Iterable[str] = ALL,
        *,
        algorithms: str = "sha1,crc32",
        max_size: int | None = None,
        trouble: Trouble = lambda request, connection: False,
        change: Change = lambda request, fields: fields,
    ) -> None:
        super().__init__(self._handle)
        self.extensions = tuple(extensions)
        self.algorithms = algorithms
        self.max_size = max_size
        self.trouble = trouble
        self.change = change
        self.uploads: dict[str, BookUpload] = {}
        self.sent: list[Sent] = []
        self.lock = threading.Lock()

    @property
    def target(self) -> str:
        """Where uploads are begun."""
        return f"tus+{self.url('/files/')}"

    def asked(self, method: str) -> list[Request]:
        """Returns the requests of a method."""
        return [request for request in self.requests if request.method == method]

    def data_of(self, url: str) -> bytes:
        """Returns what there is of an upload."""
        return bytes(self.uploads[url.rpartition("/")[2]].data)

    def _handle(self, request: Request, connection: Connection) -> None:
        assert isinstance(connection, Inbound)
        if self.trouble(request, connection):
            return
        if request.method == "OPTIONS":
            self._options(request, connection)
        elif request.headers.get("tus-resumable") != "1.0.0":
            self._answer(request, connection, 412, {"Tus-Version": "1.0.0"})
        elif request.method == "POST" and request.target == "/files/":
            self._create(request, connection)
        elif request.target.rpartition("/")[2] not in self.uploads:
            self._answer(request, connection, 404, {}, b"there is no such upload\n")
        elif request.method == "HEAD":
            self._head(request, connection)
        elif request.method == "PATCH":
            self._patch(request, connection)
        elif request.method == "DELETE" and "termination" in self.extensions:
            del self.uploads[request.target.rpartition("/")[2]]
            self._answer(request, connection, 204, {})
        else:
            self._answer(request, connection, 405, {})

    def _answer(
        self, request: Request, connection: Inbound, status: int, fields: dict[str, str], body: bytes = b""
    ) -> None:
        own = {**VERSION, **fields, **({"Content-Type": "text/plain"} if body else {})}
        head_only = request.method == "HEAD"
        connection.respond(status, self.change(request, own), b"" if head_only else body, head_only=head_only)

    def _options(self, request: Request, connection: Inbound) -> None:
        fields = {"Tus-Version": "1.0.0", "Tus-Extension": ",".join(self.extensions)}
        if "checksum" in self.extensions:
            fields["Tus-Checksum-Algorithm"] = self.algorithms
        if self.max_size is not None:
            fields["Tus-Max-Size"] = str(self.max_size)
        self._answer(request, connection, 204, fields)

    def _create(self, request: Request, connection: Inbound) -> None:
        concat = request.headers.get("upload-concat", "")
        if concat and "concatenation" not in self.extensions:
            self._answer(request, connection, 501, {})
            return
        made = BookUpload(0, concat, request.headers.get("upload-metadata", ""))
        if concat.startswith("final;"):
            parts = [self.uploads.get(url.rpartition("/")[2]) for url in concat[6:].split(" ")]
            if any(part is None or len(part.data) != part.length for part in parts):
                self._answer(request, connection, 404, {}, b"a part is missing\n")
                return
            made.data = bytearray(b"".join(part.data for part in parts if part is not None))
            made.length = len(made.data)
        else:
            made.length = int(request.headers["upload-length"])
        if self.max_size is not None and made.length > self.max_size:
            self._answer(request, connection, 413, {}, b"too large for this server\n")
            return
        name = uuid.uuid4().hex
        self.uploads[name] = made
        fields = {"Location": f"http://{request.headers['host']}/files/{name}"}
        if request.headers.get("content-type") == CHUNK_TYPE:
            self._take(made, connection)
            fields["Upload-Offset"] = str(len(made.data))
        self._answer(request, connection, 201, fields)

    def _head(self, request: Request, connection: Inbound) -> None:
        upload = self.uploads[request.target.rpartition("/")[2]]
        fields = {"Upload-Offset": str(len(upload.data)), "Upload-Length": str(upload.length)}
        fields |= {"Cache-Control": "no-store"} | ({"Upload-Concat": upload.concat} if upload.concat else {})
        self._answer(request, connection, 200, fields)

    def _take(self, upload: BookUpload, connection: Inbound) -> int:
        """Takes a body as it comes; returns how much came, however it ends."""
        received = 0
        try:
            for piece in connection.pieces():
                upload.data += piece
                received += len(piece)
        except OSError:
            pass  # what has arrived is kept
        return received

    def _patch(self, request: Request, connection: Inbound) -> None:
        name = request.target.rpartition("/")[2]
        upload, offset = self.uploads[name], int(request.headers["upload-offset"])
        told = request.headers.get("upload-checksum", "")
        status, received = 204, 0
        if request.headers.get("content-type") != CHUNK_TYPE:
            status = 415
        elif offset != len(upload.data):
            status = 409
        elif upload.concat.startswith("final;"):
            status = 403
        elif told:
            algorithm, _, expected = told.partition(" ")
            chunk = b"".join(connection.pieces())
            received = len(chunk)
            if digest(algorithm, chunk) != base64.b64decode(expected, validate=True):
                status = 460
            else:
                upload.data += chunk
        else:
            received = self._take(upload, connection)
        with self.lock:
            self.sent.append(Sent(name, offset, received, status))
        fields = {"Upload-Offset": str(len(upload.data))} if status == 204 else {}
        self._answer(request, connection, status, fields)


def times(count: int, method: str, act: Callable[[Request, Inbound], None]) -> Trouble:
    """Returns trouble with the first so many requests of a method."""
    left = [count]

    def trouble(request: Request, connection: Inbound) -> bool:
        if request.method != method or not left[0]:
            return False
        left[0] -= 1
        act(request, connection)
        return True

    return trouble
