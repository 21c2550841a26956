"""From where an upload in parts goes on: what its checkpoint says, what the store lists, and what the file
has.

What the store lists is believed part by part, where number, size and checksum (or ETag) are right and the
file still has the bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Generic, Protocol, TypeVar

from fastxfer.errors import CheckpointError, UploadGoneError
from fastxfer.plan.parts import Listed, PartGrid, is_confirmed
from fastxfer.storage.upload_file import NewerCheckpointError, UploadState, decode, salvage
from fastxfer.store_calls import stopped
from fastxfer.upload_finishing import Finisher
from fastxfer.upload_job import FileJob, Job
from fastxfer.upload_store import Seen


class _Saved(Protocol):
    @property
    def upload_id(self) -> str: ...


Saved = TypeVar("Saved", bound=_Saved)
SomeJob = TypeVar("SomeJob", bound=Job)


class Resuming(ABC, Generic[SomeJob, Saved]):
    """How any upload in parts goes on; `other` says why the parts that a store has may not be ours."""

    other = ""

    def __init__(self, job: SomeJob) -> None:
        self._job = job

    def begin(self) -> Seen | None:
        """Goes on with the upload that the checkpoint tells of, or begins one. Returns what there is where
        the object was put together already. Raises FastxferError.
        """
        saved = self._saved()
        if saved is not None:
            try:
                listed = self._job.store.parts(saved.upload_id)
            except UploadGoneError:
                seen = self._already_there(saved)
                if seen is not None:
                    return seen
                self._job.note("the store has lost the upload that was begun: all parts again")
            else:
                if self._take_over(saved, listed):
                    return None
                self._job.note(f"{self.other}: all parts again")
                self._job.abort_quietly(saved.upload_id)
        self._job.begin_anew(self._job.store.begin())
        self._job.save()
        return None

    @abstractmethod
    def _saved(self) -> Saved | None:
        """Returns what the checkpoint says, if it is of what is uploaded as it is now; else that upload
        ends.
        """

    @abstractmethod
    def _take_over(self, saved: Saved, listed: dict[int, Listed | None]) -> bool:
        """Goes on with an upload; False where the store has parts that cannot be of it."""

    @abstractmethod
    def _already_there(self, saved: Saved) -> Seen | None:
        """Returns what the store has where an upload was completed, and nobody was told; else None."""


class Resumer(Resuming[FileJob, UploadState]):
    """See the module."""

    other = "the file has changed since a part of it was sent"

    def __init__(self, job: FileJob, pool: Executor) -> None:
        super().__init__(job)
        self._pool = pool

    def _saved(self) -> UploadState | None:
        """Returns what the checkpoint says, if it is of this file as it is now."""
        data = self._job.checkpoint.load()
        if data is None:
            return None
        try:
            saved = decode(data)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            self._salvage(data, error)
            return None
        ours = (self._job.store.name, self._job.endpoint, self._job.store.crc_name)
        if (saved.target, saved.endpoint, saved.crc) != ours:
            return None
        if saved.file != self._job.file.identity:
            self._job.note("the file has changed since a part of it was sent: all parts again")
            self._job.abort_quietly(saved.upload_id)
            return None
        return saved

    def _salvage(self, data: bytes, error: CheckpointError) -> None:
        """Ends the upload of a damaged checkpoint, if it still says which."""
        left = salvage(data)
        if left is not None and left[1] == self._job.store.name:
            self._job.abort_quietly(left[0])
            self._job.note(f"{error}: all parts again")
        else:
            self._job.note(f"{error}: all parts again; fastxfer uploads lists what the store may still have")

    def _take_over(self, saved: UploadState, listed: dict[int, Listed | None]) -> bool:
        """Goes on with an upload, if what was sent of it still is what the file has."""
        grid = PartGrid(saved.file.size, saved.part_size)
        if any(number > grid.count for number in listed):
            return False
        maybe = [n for n, part in listed.items() if part is not None and part.size == grid.length(n)]
        confirmed: dict[int, tuple[int, str]] = {}
        for number, crc, md5 in self._sums_of(grid, maybe, saved):
            known = saved.parts.get(number)
            if known is not None and int(known.crc, 16) != crc:
                return False
            part = listed[number]
            ours = Listed(grid.length(number), "", f"{crc:016x}")
            if part is not None and is_confirmed(part, ours, known.etag if known else "", md5):
                confirmed[number] = crc, known.etag if known else f'"{part.etag}"'
        self._go_on(saved, grid, confirmed)
        self._job.save()
        return True

    def _go_on(self, saved: UploadState, grid: PartGrid, confirmed: dict[int, tuple[int, str]]) -> None:
        self._job.go_on(saved.upload_id, grid, confirmed)
        for number, (crc, etag) in confirmed.items():
            self._job.crcs[number], self._job.etags[number] = crc, etag

    def _sums_of(
        self, grid: PartGrid, numbers: Iterable[int], saved: UploadState
    ) -> Iterable[tuple[int, int, str]]:
        """Yields (number, CRC, MD5) of what the file has; the MD5 only of parts whose ETag is not known."""

        def reckon(number: int) -> tuple[int, int, str]:
            if self._job.stop.is_set():
                raise stopped()
            if number in saved.parts:
                return number, self._job.file.crc(saved.crc, *grid.span(number)), ""
            crc, md5 = self._job.file.crc_and_md5(saved.crc, *grid.span(number))
            return number, crc, md5.hex()

        return self._pool.map(reckon, numbers)

    def _already_there(self, saved: UploadState) -> Seen | None:
        """Returns what the store has where an upload was completed, and nobody was told; else None."""
        grid = PartGrid(saved.file.size, saved.part_size)
        if len(saved.parts) != grid.count:
            return None
        there: dict[int, tuple[int, str]] = {}
        for number, crc, _ in self._sums_of(grid, saved.parts, saved):
            if int(saved.parts[number].crc, 16) != crc:
                return None
            there[number] = crc, saved.parts[number].etag
        self._go_on(saved, grid, there)
        return Finisher(self._job).found(1)
