"""One upload to a tus server, of a whole file or of a stretch of it: sent by PATCH from where the server is,
and after every failure looked at before it goes on.

What a server says that it has is believed only where it can be: up to what was handed out for it, and, where
it checks checksums, up to whole chunks. It may fall back, and is sent the same bytes again.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from fastxfer._native.checksum import crc64nvme_combine
from fastxfer._native.reader import Reader
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    HTTPStatusError,
    NotFoundError,
    StorageError,
    UploadGoneError,
)
from fastxfer.local_file import LocalFile
from fastxfer.sources import tus
from fastxfer.tus_server import TusServer, may_help
from fastxfer.units import format_size

CRC = "crc64nvme"
_BLOCK = 1 << 20


class Anew(Exception):
    """The upload is gone, or is not what was sent to it: all of it is to be sent again."""

    def __init__(self, error: FastxferError) -> None:
        super().__init__()
        self.error = error


class SentReader(Reader):
    """A Reader that tells from any thread how far it is: `mark` is the position and the CRC up to there."""

    def __init__(self, fd: int, start: int, stop: int) -> None:
        super().__init__(fd, start, stop)
        self.mark = (start, 0)

    def __call__(self, size: int) -> bytes | int:
        block = super().__call__(size)
        self.mark = (self.pos, self.crc)
        return block

    def seek(self, offset: int, origin: int = 0) -> int:
        """Goes back to the beginning where nothing was handed out yet. Else it refuses: when a kept
        connection breaks libcurl would send all of it again at once, and the server may have some of it.
        """
        return super().seek(offset, origin) if self.pos == self.start else 1


@dataclass(frozen=True, slots=True)
class At:
    """What the server has: so many bytes, their CRC-64, and whether it has checked all of them."""

    offset: int = 0
    crc: int = 0
    checked: bool = True


class Lane:
    """See the module. `at`, `mark` and `reached` may be read by any thread, the rest is one thread's.

    `start` is where its bytes begin in the file, `chunk` how many go with one checksum, `most` how many may
    have been handed out for it.
    """

    def __init__(
        self,
        file: LocalFile,
        span: tuple[int, int],
        url: str,
        *,
        chunk: int,
        algorithm: str,
        at: At | None = None,
        most: int = 0,
    ) -> None:
        self.url = url
        self.start, self.length = span[0], span[1] - span[0]
        self.chunk = chunk
        self.most = most
        self.resumed = 0
        self.sending = False
        """True while a request of it is out."""
        self.transferred = 0
        self.notes: list[str] = []
        self.trouble: FastxferError | None = None
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._file = file
        self._algorithm = algorithm
        self._now: tuple[At, SentReader | None] = (at or At(checked=bool(algorithm)), None)

    @property
    def at(self) -> At:
        """What the server has."""
        return self._now[0]

    @property
    def complete(self) -> bool:
        """True when the server has all of it."""
        return self.at.offset == self.length

    def mark(self) -> tuple[int, tus.Mark]:
        """Returns what is to be kept: the CRC of what was sent, and how much that is."""
        at, body = self._now
        sent, crc = at.offset, at.crc
        if body is not None:
            pos, own = body.mark
            sent, crc = pos - self.start, crc64nvme_combine(crc, own, pos - body.start)
        return crc, tus.Mark(sent, self.chunk if at.checked else 0, self.url)

    def reached(self) -> int:
        """Returns how many bytes the server has or is getting."""
        at, body = self._now
        return body.mark[0] - self.start if body is not None and self.sending else at.offset

    def take(self, at: At) -> None:
        """Notes what the server has got by another way than this one."""
        self._now = (at, None)

    # ---- its thread ----

    def begin(self, server: TusServer, on_end: Callable[[Lane], object]) -> None:
        """Starts a thread that sends all that is missing; it ends early when the server's `stop` is set."""

        def run() -> None:
            try:
                self._run(server)
            except (FastxferError, Anew) as error:
                self.error = error
            except Exception as error:  # noqa: BLE001 - handed to the thread that waits
                self.error = FastxferError(f"internal error: {type(error).__name__}: {error}")
            finally:
                self.over.set()
                on_end(self)

        threading.Thread(target=run, name="fastxfer-lane", daemon=True).start()

    def _run(self, server: TusServer) -> None:
        failures, best, unsure = 0, self.at.offset, False
        while unsure or not self.complete:
            try:
                if unsure:
                    self.look(server)
                    unsure = False
                else:
                    self._send(server)
                    self.trouble = None
            except FastxferError as error:
                unsure, self.trouble = True, error
                if self.at.offset > best:
                    failures, best = 0, self.at.offset
                failures += 1
                if not may_help(error) or failures > server.options.retries:
                    raise
                server.pause(failures, error)

    def look(self, server: TusServer) -> None:
        """Asks the server how much it has. Raises Anew where that cannot be."""
        try:
            offset, length = server.look(self.url)
        except NotFoundError as error:
            raise Anew(UploadGoneError(error.message, status=error.status)) from error
        if length not in (None, self.length) or offset > min(self.length, self.most):
            told = f"{offset} of {length if length is not None else self.length} bytes"
            raise Anew(BadResponseError(
                f"the server says that it has {told} of the upload, and was sent {self.most} "
                f"of {self.length}"
            ))  # fmt: skip
        if offset < self.at.offset:
            lost = format_size(self.at.offset - offset)
            self.notes.append(f"the server has lost {lost} that it had confirmed: sent again")
        self._now = (self._believed(offset), None)

    def _believed(self, offset: int) -> At:
        """Returns what the server has, by its own word."""
        at = self.at
        checked = at.checked and tus.is_checked(offset, self.length, self.chunk)
        if offset < at.offset:
            return At(offset, self._file.crc(CRC, self.start, self.start + offset), checked)
        more = self._file.crc(CRC, self.start + at.offset, self.start + offset)
        return At(offset, crc64nvme_combine(at.crc, more, offset - at.offset), checked)

    def _send(self, server: TusServer) -> None:
        """Sends what is missing, or with checksums the next chunk."""
        at = self.at
        stop = self.length
        fields: tus.Pairs = ()
        if self._algorithm:
            stop = min(stop, (at.offset // self.chunk + 1) * self.chunk)
            digest = digest_of(self._file, self._algorithm, self.start + at.offset, self.start + stop)
            fields = (tus.checksum_field(self._algorithm, digest),)
        body = SentReader(self._file.fd, self.start + at.offset, self.start + stop)
        self._now, self.sending = (at, body), True
        try:
            offset = server.patch(self.url, at.offset, body, fields)
        except NotFoundError as error:
            raise Anew(UploadGoneError(error.message, status=error.status)) from error
        except HTTPStatusError:
            raise
        except FastxferError as error:
            self._raise_if_local(body, error)
            raise
        finally:
            self.sending = False
            self.most = max(self.most, body.pos - self.start)
            self.transferred += body.given
        self._sent(at, stop, offset, body)

    def _sent(self, at: At, stop: int, offset: int, body: SentReader) -> None:
        """Takes the server's word for what has arrived."""
        if offset > stop:
            raise Anew(BadResponseError(
                f"the server says that it has {offset} bytes of the upload, and was sent {stop}"
            ))  # fmt: skip
        if offset <= at.offset:
            raise BadResponseError(f"the server took nothing of what was sent, and is at {offset}")
        if offset < stop or body.pos != body.stop:
            self._now = (self._believed(offset), None)
            return
        crc = crc64nvme_combine(at.crc, body.crc, stop - at.offset)
        self._now = (At(stop, crc, at.checked and bool(self._algorithm)), None)

    def _raise_if_local(self, body: SentReader, error: FastxferError) -> None:
        """Raises what is the fault of the file, and not of the server or the way to it."""
        self._file.check()
        if body.error:
            raise StorageError(f"cannot read {self._file.path}: {body.reason}", errno=body.error) from error


def digest_of(file: LocalFile, algorithm: str, start: int, stop: int) -> bytes:
    """Returns the checksum of a range of a file, as tus names it. Raises StorageError."""
    if algorithm == "crc32":
        crc = 0
        for at in range(start, stop, _BLOCK):
            crc = zlib.crc32(file.read(at, min(stop, at + _BLOCK)), crc)
        return crc.to_bytes(4, "big")
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    for at in range(start, stop, _BLOCK):
        hasher.update(file.read(at, min(stop, at + _BLOCK)))
    return hasher.digest()
