"""Where an upload to a tus server begins: as one, or as several at once, or where the checkpoint says that an
earlier run has ended.

The checkpoint is that of uploads to stores: a "part" is a lane, its "ETag" a `tus.Mark`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    CheckpointError,
    FastxferError,
    HTTPStatusError,
    InterruptedTransferError,
    Retry,
    StorageError,
)
from fastxfer.local_file import LocalFile
from fastxfer.plan.parts import PartGrid
from fastxfer.put_options import PutOptions
from fastxfer.sources import tus
from fastxfer.sources.http import origin
from fastxfer.storage.upload_file import NewerCheckpointError, SentPart, UploadFile, UploadState, decode
from fastxfer.store_calls import stopped
from fastxfer.tus_lane import CRC, Anew, At, Lane, SentReader
from fastxfer.tus_server import TusServer

_NONE = "-"
"""The checkpoint's word for an upload of several that was not put together yet."""
_CHANGED = "the file has changed since a part of it was sent: all of it again"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: which file goes where, by what the server offers, and what is told of it."""

    file: LocalFile
    server: TusServer
    offer: tus.Offer
    kept: UploadFile
    put: PutOptions
    stop: threading.Event
    notes: list[str] = field(default_factory=list)

    def end(self, urls: Iterable[str]) -> None:
        """Ends uploads where the server lets them be ended; else they are left behind until they expire."""
        if not self.offer.has("termination"):
            return
        for url in urls:
            try:
                self.server.end(url)
            except InterruptedTransferError:
                raise
            except FastxferError as error:
                self.notes.append(f"an upload is left behind with the server ({error})")

    def retried(self, ask: Callable[[], _T]) -> _T:
        """Returns what `ask` does, which is tried again where that may help."""
        failures = 0
        while True:
            try:
                return ask()
            except FastxferError as error:
                failures += 1
                if error.retry is not Retry.SAME_SOURCE or failures > self.server.options.retries:
                    raise
                self.server.pause(failures, error)

    def look(self, lane: Lane) -> None:
        """Asks how much of an upload there is. One that may not be looked at is as one that is gone."""
        try:
            self.retried(lambda: lane.look(self.server))
        except AuthError as error:
            raise Anew(error) from error

    def is_whole(self, url: str) -> bool:
        """Returns whether the server has put together as many bytes as there are."""

        def ask() -> bool:
            offset, length = self.server.look(url)
            if length not in (None, self.file.size):
                return False
            if (offset, length) != (self.file.size, self.file.size):
                raise BadResponseError(f"the server has put together {offset} of {self.file.size} bytes")
            return True

        try:
            return self.retried(ask)
        except HTTPStatusError as error:
            if error.status in tus.GONE:
                return False
            raise


@dataclass(slots=True)
class Start:
    """The lanes of an upload, each of `width` bytes but the last; `whole` is the URL of what they were put
    together to, "" before that.
    """

    lanes: list[Lane] = field(default_factory=list)
    width: int = 1
    whole: str = ""

    @property
    def urls(self) -> list[str]:
        """Where the lanes are."""
        return [lane.url for lane in self.lanes]

    def state(self, work: Work, marks: list[tuple[int, tus.Mark]]) -> UploadState:
        """Returns what the checkpoint is to say."""
        first = self.lanes[0].url if len(self.lanes) == 1 else _NONE
        parts = {number: SentPart(f"{crc:016x}", str(mark)) for number, (crc, mark) in enumerate(marks, 1)}
        identity = work.file.identity
        return UploadState(self.whole or first, work.server.name, "", self.width, identity, CRC, parts)


# ---- from where an earlier run has ended ----


def resumed(work: Work) -> Start | None:
    """Returns the upload that the checkpoint tells of, not looked at yet; None where there is none."""
    data = work.kept.load()
    if data is None:
        return None
    try:
        saved = decode(data)
        marks = _marks(saved)
    except NewerCheckpointError:
        raise
    except (CheckpointError, ValueError) as error:
        home = work.server.source.home
        _drop(work, [url for url in tus.salvage(data) if _origin(url) == home], f"{error}: all of it again")
        return None
    urls = [mark.url for mark in marks]
    if saved.file != work.file.identity or not _unchanged(work, saved, marks):
        _drop(work, urls, _CHANGED)
        return None
    start = Start(_lanes(work, saved, marks), saved.part_size)
    if saved.upload_id not in (_NONE, *urls):
        start.whole = saved.upload_id
    return start


def _marks(saved: UploadState) -> list[tus.Mark]:
    """Returns what is kept of each lane, in order. Raises ValueError."""
    grid = PartGrid(saved.file.size, saved.part_size)
    if sorted(saved.parts) != list(range(1, grid.count + 1)):
        raise ValueError("the checkpoint of the upload lacks a part")
    marks = [tus.Mark.parse(saved.parts[number].etag) for number in range(1, grid.count + 1)]
    if any(mark.sent > grid.length(number) for number, mark in enumerate(marks, 1)):
        raise ValueError("the checkpoint of the upload tells of more than the file has")
    return marks


def _drop(work: Work, urls: Iterable[str], note: str) -> None:
    work.notes.append(note)
    work.end(urls)
    work.kept.remove()


def _unchanged(work: Work, saved: UploadState, marks: list[tus.Mark]) -> bool:
    """Returns whether the file still has the bytes that were sent."""
    grid = PartGrid(saved.file.size, saved.part_size)
    for number, mark in enumerate(marks, 1):
        if work.stop.is_set():
            raise stopped()
        start = grid.span(number)[0]
        if work.file.crc(CRC, start, start + mark.sent) != int(saved.parts[number].crc, 16):
            return False
    return True


def _lanes(work: Work, saved: UploadState, marks: list[tus.Mark]) -> list[Lane]:
    grid, algorithm = PartGrid(saved.file.size, saved.part_size), work.offer.algorithm
    return [
        Lane(
            work.file,
            grid.span(number),
            mark.url,
            chunk=mark.chunk or work.put.part_size,
            algorithm=algorithm,
            at=At(checked=bool(algorithm and mark.chunk)),
            most=grid.length(number),
        )
        for number, mark in enumerate(marks, 1)
    ]


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        return origin(url)
    except ValueError:
        return None


# ---- anew ----


def begun(work: Work) -> Start:
    """Begins one upload, or several that are put together at the end."""
    size, put = work.file.size, work.put
    count = tus.lanes_for(size, connections=put.connections, part_size=put.part_size, offer=work.offer)
    width = max(1, -(-size // count))
    grid = PartGrid(size, width)
    if grid.count == 1:
        return Start([_one(work, size)], width)
    lanes = []
    for number in range(1, grid.count + 1):
        length = ("Upload-Length", str(grid.length(number)))
        url, _ = work.server.create(("Upload-Concat", "partial"), length)
        lanes.append(_lane(work, grid.span(number), url))
    return Start(lanes, width)


def name_field(work: Work) -> tuple[str, str]:
    """Returns the field that tells the file's name."""
    return tus.metadata(os.fsencode(work.file.path.name))


def _one(work: Work, size: int) -> Lane:
    """Begins one upload; a small file goes with the very request where the server allows it, and knows no
    checksums: these are those of a PATCH.
    """
    fields = (("Upload-Length", str(size)), name_field(work))
    small = work.offer.has("creation-with-upload") and 0 < size <= work.put.part_size
    if not small or work.offer.algorithm:
        return _lane(work, (0, size), work.server.create(*fields)[0])
    bodies: list[SentReader] = []

    def body() -> SentReader:
        work.file.check()
        bodies.append(SentReader(work.file.fd, 0, size))
        return bodies[-1]

    try:
        url, offset = work.server.create(*fields, body=body)
    except FastxferError as error:
        work.file.check()
        if bodies[-1].error:
            reason = f"cannot read {work.file.path}: {bodies[-1].reason}"
            raise StorageError(reason, errno=bodies[-1].error) from error
        raise
    lane = _lane(work, (0, size), url, most=size)
    lane.transferred = bodies[-1].given
    if offset == size:
        lane.take(At(size, bodies[-1].crc, False))
    else:
        work.look(lane)
    return lane


def _lane(work: Work, span: tuple[int, int], url: str, *, most: int = 0) -> Lane:
    return Lane(
        work.file, span, url, chunk=work.put.part_size, algorithm=work.offer.algorithm, most=most
    )  # fmt: skip
