"""From where a copy in parts goes on: what its checkpoint says, where the source is still that object, and
what the store lists.

A part counts as there where the store lists it with the size and the checksum (or the ETag) that the
checkpoint has. One that the store lists and the checkpoint does not know is read from the source again, and
sent only if its bytes are others.
"""

from __future__ import annotations

from fastxfer.copy_job import CopyJob
from fastxfer.errors import CheckpointError, RemoteChangedError
from fastxfer.plan.parts import Listed, PartGrid, is_confirmed
from fastxfer.storage.copy_file import MAGIC, CopiedPart, CopyFile, CopyState, decode
from fastxfer.storage.upload_file import NewerCheckpointError, salvage
from fastxfer.upload_finishing import Finisher
from fastxfer.upload_resuming import Resuming
from fastxfer.upload_store import Seen, UploadStore


def saved_state(kept: CopyFile, store: UploadStore) -> CopyState | None:
    """Returns what the checkpoint says, None where it cannot be read or is of another copy. Raises
    CheckpointError for one of a newer version.
    """
    data = kept.load()
    try:
        saved = decode(data) if data is not None else None
    except NewerCheckpointError:
        raise
    except CheckpointError:
        return None
    ours = (store.name, store.endpoint)
    return saved if saved is not None and (saved.target, saved.endpoint) == ours else None


class CopyResumer(Resuming[CopyJob, CopyState]):
    """See the module."""

    other = "the store has other parts than were sent"

    def __init__(self, job: CopyJob, kept: CopyFile) -> None:
        super().__init__(job)
        self._kept = kept

    def _saved(self) -> CopyState | None:
        """Returns what the checkpoint says, if it is of the object as it is now; else that upload ends."""
        saved = saved_state(self._kept, self._job.store)
        if saved is None:
            self._salvage()
            return None
        reason = self._other(saved)
        if reason is None:
            return saved
        if saved.origin != self._job.origin and self._job.source.options.on_change == "fail":
            raise RemoteChangedError(
                f"the source changed since parts of it were copied: {reason}; to copy it as it is now use "
                "on_change=restart"
            )
        self._job.note(f"{reason}: all parts again")
        self._job.abort_quietly(saved.upload_id)
        return None

    def _other(self, saved: CopyState) -> str | None:
        if saved.origin != self._job.origin:
            return "the source is another object than it was"
        if not saved.origin.known:
            return "the source tells neither an ETag nor a date to know it again by"
        if saved.by != self._job.by:
            return "its parts were copied in another way"
        return None

    def _salvage(self) -> None:
        """Ends the upload of a damaged checkpoint, if it still says which."""
        data = self._kept.load()
        if data is None:
            return
        left = salvage(data, MAGIC)
        if left is not None and left[1] == self._job.store.name:
            self._job.abort_quietly(left[0])
            self._job.note("the checkpoint of the copy is damaged: all parts again")
        else:
            self._job.note(
                "the checkpoint of the copy is damaged: all parts again; fastxfer uploads lists what the "
                "store may still have"
            )

    def _take_over(self, saved: CopyState, listed: dict[int, Listed | None]) -> bool:
        """Goes on with an upload; False where the store has parts that cannot be of it."""
        grid = PartGrid(saved.origin.size, saved.part_size)
        if any(number > grid.count for number in listed):
            return False
        good = {n: part for n, part in listed.items() if part is not None and part.size == grid.length(n)}
        there = {
            number: part
            for number, part in saved.parts.items()
            if self._is_whole(part) and self._confirms(good.get(number), part, grid.length(number))
        }
        self._go_on(saved, grid, there)
        if self._job.by == "relay":
            self._job.maybe = {number: part for number, part in good.items() if number not in there}
        self._job.save()
        return True

    def _is_whole(self, part: CopiedPart) -> bool:
        """Returns whether all is known of a part that this run needs."""
        needed = {self._job.store.crc_name, *self._job.also} if self._job.by == "relay" else set()
        return needed <= part.sums.keys()

    def _confirms(self, listed: Listed | None, part: CopiedPart, length: int) -> bool:
        crc = part.sums.get(self._job.store.crc_name, "")
        if listed is not None and not crc:
            listed = Listed(listed.size, listed.etag)
        return is_confirmed(listed, Listed(length, "", crc), part.etag, "")

    def _go_on(self, saved: CopyState, grid: PartGrid, there: dict[int, CopiedPart]) -> None:
        self._job.go_on(saved.upload_id, grid, there)
        for number, part in there.items():
            self._job.etags[number] = part.etag
            if part.sums:
                self._job.reckoned(number, {name: int(digest, 16) for name, digest in part.sums.items()})

    def _already_there(self, saved: CopyState) -> Seen | None:
        """Returns what the store has where an upload was completed, and nobody was told; else None."""
        grid = PartGrid(saved.origin.size, saved.part_size)
        if len(saved.parts) != grid.count or not all(map(self._is_whole, saved.parts.values())):
            return None
        self._go_on(saved, grid, saved.parts)
        return Finisher(self._job).found(1)
