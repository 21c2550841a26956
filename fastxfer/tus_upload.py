"""One upload of a file to a tus server, on a thread of its own: from the checkpoint that is there to an
upload that the server has whole.

A file goes as one upload, or where the server can put partial uploads together and the file is large as
several at once, each a `Lane` on a thread. Before anything is sent the URLs are in the checkpoint; while it
is sent, how much was handed out and the CRC-64 of that, by which a change of the file is seen.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from fastxfer._native.checksum import crc64nvme_combine
from fastxfer.background import Background
from fastxfer.errors import (
    BadResponseError,
    FastxferError,
    InterruptedTransferError,
    LocalChangedError,
    NotFoundError,
    StorageError,
    TooLargeError,
)
from fastxfer.local_file import LocalFile
from fastxfer.options import TransferOptions
from fastxfer.progress.snapshot import chunk_cells
from fastxfer.put_options import PutOptions
from fastxfer.put_results import PutResult
from fastxfer.sources import tus
from fastxfer.sources.http import HttpSource, safe_url
from fastxfer.storage.upload_file import UploadFile
from fastxfer.store_calls import stopped
from fastxfer.tus_lane import CRC, Anew, At, Lane
from fastxfer.tus_server import TusServer
from fastxfer.tus_start import Start, Work, begun, name_field, resumed
from fastxfer.units import format_size
from fastxfer.upload_job import RESTARTS, Moment

SAVE_S = 1.0
TICK_S = 0.1
CELLS = 64


class TusUpload(Background[PutResult]):
    """See the module. Raises OptionError for a URL or an option that cannot be used."""

    def __init__(
        self, path: str | os.PathLike[str], url: str, put: PutOptions, options: TransferOptions
    ) -> None:
        self._source = HttpSource.of(tus.http_url(url), options)
        tus.check_fields(self._source.headers)
        self._target = f"tus+{self._source.display}"
        super().__init__(self._target)
        self.path = Path(os.fsdecode(path))
        self._put = put
        self._options = options
        self._start = Start()
        self._now = Moment()
        self._requests = 0
        self._saved_at = 0.0
        self._save_every_s = SAVE_S
        self._saved: list[tuple[int, tus.Mark]] = []

    def _work(self) -> PutResult:
        with ExitStack() as stack:
            file = LocalFile(self.path)
            stack.callback(file.close)
            self.progress = replace(self.progress, size=file.size, state="running")
            server = TusServer(self._source, self._options, self._stop)
            stack.callback(server.close)
            offer = server.offer()
            if offer.max_size is not None and file.size > offer.max_size:
                raise TooLargeError(
                    f"cannot upload {self.path}: the server takes {offer.max_size} bytes at the most, "
                    f"and the file has {file.size}",
                    status=413,
                )
            directory = Path(self._put.checkpoint_dir or self.path.parent)
            kept = stack.enter_context(UploadFile(self.path, self._target, directory))
            work = Work(file, server, offer, kept, self._put, self._stop, self._now.notes)
            try:
                return self._rounds(work)
            finally:
                self._show(file.size)

    def _rounds(self, work: Work) -> PutResult:
        """Uploads, anew where the server has lost it. Raises FastxferError; the checkpoint is kept, and
        `kept` says what is there.
        """
        restarts = 0
        while True:
            try:
                self._once(work)
                return self._result(work)
            except Anew as anew:
                self._forget(work)
                restarts += 1
                if restarts > RESTARTS:
                    raise anew.error from anew
                work.notes.append(f"{anew.error}: all of it again")
            except LocalChangedError:
                self._forget(work)
                raise
            except FastxferError as error:
                error.kept = error.kept or self._kept_words(work)
                raise

    def _once(self, work: Work) -> None:
        earlier = resumed(work)
        self._start = earlier or begun(work)
        if earlier is not None:
            self._look(work)
        if not self._start.whole:
            if not all(lane.complete for lane in self._start.lanes):
                self._save(work)
            self._send(work)
            work.file.check()
            self._join(work)
        self._end_parts(work)
        work.kept.remove()

    def _forget(self, work: Work) -> None:
        """Has the server drop what it has, and the checkpoint with it."""
        work.end(self._start.urls)
        self._start, self._saved = Start(), []
        work.kept.remove()

    def _kept_words(self, work: Work) -> str | None:
        there = sum(lane.at.offset for lane in self._start.lanes)
        if not there:
            return None
        of = f"{format_size(there)} of {format_size(work.file.size)}"
        return f"{of}, by {work.kept.path}: run it again to go on"

    def _look(self, work: Work) -> None:
        """Asks how far it is."""
        start = self._start
        if start.whole and not work.is_whole(start.whole):
            start.whole = ""
        for lane in start.lanes:
            if start.whole:
                crc = work.file.crc(CRC, lane.start, lane.start + lane.length)
                lane.take(At(lane.length, crc, lane.at.checked))
            else:
                work.look(lane)
            lane.resumed = lane.at.offset
        self._now.resumed = sum(lane.resumed for lane in start.lanes)

    # ---- sending ----

    def _send(self, work: Work) -> None:
        """Sends what is missing. Raises what makes it impossible, after the progress was saved."""
        halt = threading.Event()
        server = work.server.until(halt)
        ended: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        out = [lane for lane in self._start.lanes if not lane.complete]
        for lane in out:
            lane.begin(server, ended.put)
        try:
            self._wait(work, ended, len(out))
            _raise_error_of(out, halt)
        except BaseException as error:
            _halt(out, halt)
            if not isinstance(error, Anew | LocalChangedError):
                self._save_if_possible(work)
            raise
        finally:
            _halt(out, halt)
            self._requests += server.requests
            work.notes.extend(note for lane in out for note in lane.notes)
            server.close()

    def _wait(self, work: Work, ended: queue.SimpleQueue[Lane], left: int) -> None:
        """Waits until all lanes are over, or one has failed."""
        while left:
            try:
                left = left - 1 if ended.get(timeout=TICK_S).error is None else 0
            except queue.Empty:
                pass
            if self._stop.is_set():
                raise stopped()
            self._show(work.file.size)
            if time.monotonic() - self._saved_at >= self._save_every_s:
                self._save(work)

    def _save(self, work: Work) -> None:
        began = time.monotonic()
        marks = [lane.mark() for lane in self._start.lanes]
        if marks == self._saved and not self._start.whole:
            return
        work.kept.save(self._start.state(work, marks))
        self._saved, self._saved_at = marks, time.monotonic()
        self._save_every_s = max(SAVE_S, 20 * (self._saved_at - began))

    def _save_if_possible(self, work: Work) -> None:
        try:
            self._save(work)
        except StorageError as error:
            work.notes.append(str(error))

    def _show(self, size: int) -> None:
        """Tells how it stands."""
        now, lanes = self._now, self._start.lanes
        now.done = sum(lane.reached() for lane in lanes)
        now.transferred = sum(lane.transferred for lane in lanes)
        now.connections = sum(lane.sending for lane in lanes)
        now.waiting = not now.connections and any(lane.trouble for lane in lanes)
        now.chunks = _cells(size, [(lane.start, lane.reached()) for lane in lanes])
        self._tell(now)

    # ---- the end ----

    def _join(self, work: Work) -> None:
        """Has several uploads put together; one is whole already."""
        start = self._start
        if len(start.lanes) == 1:
            start.whole = start.lanes[0].url
            return
        try:
            whole = work.server.put_together(start.urls, name_field(work))
        except NotFoundError as error:
            raise Anew(error) from error
        if not work.is_whole(whole):
            work.end([whole])
            raise Anew(BadResponseError("the server has put together something else than what was sent"))
        start.whole = whole
        self._save(work)

    def _end_parts(self, work: Work) -> None:
        """Ends the partial uploads, which take as much space as the whole, and sees that it outlives them."""
        start = self._start
        if len(start.lanes) == 1 or not work.offer.has("termination"):
            return
        work.end(start.urls)
        if not work.is_whole(start.whole):
            work.end([start.whole])
            raise Anew(BadResponseError("the server lost the upload when its parts were ended"))

    def _result(self, work: Work) -> PutResult:
        lanes, crc = self._start.lanes, 0
        for lane in lanes:
            crc = crc64nvme_combine(crc, lane.at.crc, lane.length)
        sent = sum(lane.resumed < lane.length or not lane.length for lane in lanes)
        checked = bool(work.offer.algorithm) and all(lane.at.checked for lane in lanes)
        return PutResult(
            url=safe_url(self._start.whole),
            size=work.file.size,
            parts=len(lanes),
            parts_sent=sent,
            parts_resumed=len(lanes) - sent,
            checksums={CRC: f"{crc:016x}"},
            verified="server" if checked else "none",
            elapsed=time.monotonic() - self._began,
            requests=work.server.requests + self._requests,
            notes=tuple(work.notes),
        )


def _halt(out: list[Lane], halt: threading.Event) -> None:
    """Ends lanes, and returns when they are over."""
    halt.set()
    for lane in out:
        lane.over.wait()


def _raise_error_of(out: list[Lane], halt: threading.Event) -> None:
    """Raises why a lane has ended early, once all have."""
    _halt(out, halt)
    errors = [lane.error for lane in out if lane.error is not None]
    if errors:
        raise next((e for e in errors if not isinstance(e, InterruptedTransferError)), errors[0])


def _cells(size: int, reached: list[tuple[int, int]]) -> str:
    """Returns the compact map of a file of which stretches are there: (start, bytes)."""
    count = max(1, min(CELLS, size))
    edges = list(pairwise(index * size // count for index in range(count + 1)))
    done = [
        sum(max(0, min(high, start + length) - max(low, start)) for start, length in reached)
        for low, high in edges
    ]
    return chunk_cells(done, [max(1, high - low) for low, high in edges])
