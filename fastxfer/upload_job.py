"""What an upload in parts has so far: what each of its steps reads and changes."""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastxfer._native.checksum import crc32c_combine, crc64nvme_combine, crc64xz_combine
from fastxfer.errors import FastxferError, InterruptedTransferError, StorageError
from fastxfer.local_file import LocalFile
from fastxfer.plan.parts import PartGrid, Parts
from fastxfer.storage.upload_file import SentPart, UploadFile, UploadState, WorkingFile
from fastxfer.store_calls import stopped
from fastxfer.units import format_size
from fastxfer.upload_store import UploadStore, etag_of_parts

SAVE_S = 1.0
RESTARTS = 2
"""So often is an upload begun anew that the store has lost while it was under way."""
Done = TypeVar("Done")
_BLOCK = 1 << 20
_COMBINE = {"crc64nvme": crc64nvme_combine, "crc64xz": crc64xz_combine, "crc32c": crc32c_combine}


def combined(name: str, parts: Iterable[tuple[int, int]]) -> int:
    """Returns the CRC of bytes in a row, from (CRC, length) of each stretch."""
    combine, crc = _COMBINE[name], 0
    for of_part, length in parts:
        crc = combine(crc, of_part, length)
    return crc


class Gone(Exception):
    """The store has lost the upload, or does not take its parts: all is to be sent again."""

    def __init__(self, error: FastxferError) -> None:
        super().__init__()
        self.error = error


@dataclass(slots=True)
class Moment:
    """How it stands: bytes that the store has or is getting, those it had before, those sent in this run."""

    done: int = 0
    resumed: int = 0
    transferred: int = 0
    connections: int = 0
    chunks: str = ""
    waiting: bool = False
    notes: list[str] = field(default_factory=list)


class Job(ABC):
    """See the module. Belongs to the upload's thread.

    `grid`, `state` and `upload_id` are those of the upload that is under way; `crcs` and `etags` are known of
    the parts that are `done`, and the CRC of those that are out. `twice` is True where a part may have been
    sent more than once: then the ETag of the whole need not be that of its parts.
    """

    save_s = SAVE_S
    """The checkpoint is written so often, and less often where that takes long."""

    def __init__(
        self,
        store: UploadStore,
        grid: PartGrid,
        kept: WorkingFile | None,
        *,
        connections: int,
        endpoint: str,
        stop: threading.Event,
    ) -> None:
        self.store = store
        self.calls = store.calls
        self.kept = kept
        self.connections = connections
        self.endpoint = endpoint
        self.stop = stop
        self.now = Moment()
        self._wanted = grid
        self._unsaved = False
        self._saved_at = 0.0
        self._save_every_s = self.save_s
        self.begin_anew("")

    def begin_anew(self, upload_id: str) -> None:
        """Forgets all parts."""
        self.go_on(upload_id, self._wanted, ())

    def go_on(self, upload_id: str, grid: PartGrid, confirmed: Iterable[int]) -> None:
        """Takes an upload for the one that is under way."""
        self.grid = grid
        self.upload_id = upload_id
        self.state = Parts.of(grid.count, self.connections, self.calls.options.retries, confirmed)
        self.resumed = len(self.state.done)
        self.now.resumed = sum(map(grid.length, self.state.done))
        self.twice = self.resumed > 0
        self.etags: dict[int, str] = {}
        self.crcs: dict[int, int] = {}
        self.sent = 0

    def kept_words(self) -> str | None:
        """Returns what is kept to go on from, in words."""
        done = self.state.done
        if not self.upload_id or not done or self.kept is None:
            return None
        there = sum(map(self.grid.length, done))
        return (
            f"{len(done)} of {self.grid.count} parts, {format_size(there)} of "
            f"{format_size(self.grid.size)}, by {self.kept.path}: run it again to go on"
        )

    def note(self, text: str) -> None:
        """Remembers what the user is to be told."""
        self.now.notes.append(text)

    def drop(self) -> None:
        """Ends the upload, and forgets it."""
        if self.upload_id:
            self.abort_quietly(self.upload_id)
        self.begin_anew("")
        if self.kept is not None:
            self.kept.remove()

    def abort_quietly(self, upload_id: str) -> None:
        """Ends an upload; where that fails, a note says so. Raises only InterruptedTransferError."""
        try:
            self.store.abort(upload_id)
        except InterruptedTransferError:
            raise
        except FastxferError as error:
            self.note(f"an upload is left behind with the store ({error}); fastxfer uploads lists it")

    def took(self, number: int, etag: str) -> None:
        """Notes that the store has taken a part of this run."""
        self.etags[number] = etag
        self.state = self.state.sent(number)
        self.sent += 1
        self._unsaved = True

    def save(self) -> None:
        """Writes the checkpoint. Raises StorageError."""
        began = time.monotonic()
        self._write()
        self._saved_at = time.monotonic()
        self._save_every_s = max(self.save_s, 20 * (self._saved_at - began))
        self._unsaved = False

    @abstractmethod
    def _write(self) -> None:
        """Writes the checkpoint. Raises StorageError."""

    @abstractmethod
    def whole_md5(self) -> str:
        """Returns the MD5 of all bytes, "" where it is not to be had: what rclone's server gives as ETag."""

    def save_in_time(self, now: float) -> None:
        """Writes the checkpoint when it is time for it. Raises StorageError."""
        if self._unsaved and now - self._saved_at >= self._save_every_s:
            self.save()

    def save_if_possible(self) -> None:
        """Writes the checkpoint when there is something new; where that fails, a note says so."""
        if self._unsaved:
            try:
                self.save()
            except StorageError as error:
                self.note(str(error))

    def whole_crc(self) -> int | None:
        """Returns the CRC of all bytes, of those of its parts; None where they are not known."""
        lengths = map(self.grid.length, range(1, self.grid.count + 1))
        crcs = (self.crcs[number] for number in range(1, self.grid.count + 1))
        return combined(self.store.crc_name, zip(crcs, lengths, strict=True))

    def expected_etag(self) -> str | None:
        """Returns the ETag that the object has where it is made of its parts' MD5s; None where it is not."""
        return etag_of_parts(self.etags[number] for number in range(1, self.grid.count + 1))


class FileJob(Job):
    """One that uploads a file."""

    def __init__(
        self, file: LocalFile, store: UploadStore, grid: PartGrid, kept: UploadFile, **more: Any
    ) -> None:
        super().__init__(store, grid, kept, **more)
        self.file = file
        self.checkpoint = kept

    def _write(self) -> None:
        parts = {n: SentPart(f"{self.crcs[n]:016x}", self.etags[n]) for n in self.state.done}
        self.checkpoint.save(
            UploadState(
                self.upload_id,
                self.store.name,
                self.endpoint,
                self.grid.part_size,
                self.file.identity,
                self.store.crc_name,
                parts,
            )
        )

    def whole_md5(self) -> str:
        hasher = hashlib.md5(usedforsecurity=False)
        for start in range(0, self.grid.size, _BLOCK):
            if self.stop.is_set():
                raise stopped()
            hasher.update(self.file.read(start, min(self.grid.size, start + _BLOCK)))
        return hasher.hexdigest()


def again_where_lost(job: Job, once: Callable[[], Done], *final: type[Exception]) -> Done:
    """Runs an upload, anew where the store has lost it. Raises FastxferError; the checkpoint is kept then,
    and `kept` says what is there, but for the errors that are `final`.
    """
    restarts = 0
    try:
        while True:
            try:
                return once()
            except Gone as gone:
                restarts += 1
                job.drop()
                if restarts > RESTARTS:
                    raise gone.error from gone
                job.note(f"the store has lost the upload ({gone.error}): all parts again")
    except final:
        job.drop()
        raise
    except FastxferError as error:
        error.kept = error.kept or job.kept_words()
        raise
