"""The end of an upload in parts: the store puts the object together, and what is there then is held against
the file.
"""

from __future__ import annotations

from fastxfer.errors import (
    ChecksumError,
    FastxferError,
    InterruptedTransferError,
    RemoteChangedError,
    Retry,
    StoreError,
    UploadGoneError,
)
from fastxfer.upload_job import Gone, Job
from fastxfer.upload_store import Seen, is_md5

LOOKS = 4
"""So often is the object looked for when the store lost the upload, and may just be putting it together."""
_SPOILT = frozenset(("InvalidPart", "InvalidPartOrder"))


class Finisher:
    """See the module."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def complete(self) -> Seen:
        """Has the store put the object together. Where no answer comes, or one that is no answer, the object
        is looked for before it is asked again.
        """
        crc, failures = self._job.whole_crc(), 0
        while True:
            try:
                return self._job.store.complete(
                    self._job.upload_id, self._job.etags, crc, self._job.grid.size
                )
            except InterruptedTransferError:
                raise
            except FastxferError as error:
                gone = isinstance(error, UploadGoneError)
                seen = self.found(LOOKS if gone and failures else 1)
                if seen is not None:
                    self._job.abort_quietly(self._job.upload_id)
                    return seen
                failures += 1
                if gone or (isinstance(error, StoreError) and error.code in _SPOILT):
                    raise Gone(error) from error
                if isinstance(error, StoreError) and error.code == "EntityTooSmall":
                    self._job.drop()  # to go on with parts of that size would never end well
                    raise
                if error.retry is not Retry.SAME_SOURCE or failures > self._job.calls.options.retries:
                    raise
                self._job.calls.pause(failures, error)
                if failures > 1:
                    self._still_there()

    def _still_there(self) -> None:
        try:
            self._job.store.parts(self._job.upload_id)
        except UploadGoneError as error:
            seen = self.found(LOOKS)
            if seen is None:
                raise Gone(error) from error

    def found(self, looks: int) -> Seen | None:
        """Returns what the store has under the name, if it is what is uploaded."""
        for look in range(1, looks + 1):
            seen = self._job.store.head()
            if seen is not None and seen.size == self._job.grid.size and self._is_ours(seen):
                return seen
            if look < looks:
                self._job.calls.pause(look)
        return None

    def _is_ours(self, seen: Seen) -> bool:
        crc = self._job.whole_crc()
        if seen.crc is not None and crc is not None:
            return seen.crc == crc
        if is_md5(seen.etag):
            return seen.etag == self._job.whole_md5()
        return bool(seen.etag) and seen.etag == self._job.expected_etag()

    def verified(self, seen: Seen, crc: int | None) -> tuple[Seen, str]:
        """Returns what the store has, and by what it was found to be right. Raises ChecksumError."""
        expected = self._job.expected_etag()
        if seen.crc is None and (not seen.etag or seen.etag != expected):
            looked = self._job.store.head()
            if looked is None or looked.size != self._job.grid.size:
                raise RemoteChangedError(
                    f"the upload to {self._job.store.name} was completed, and something else is there now: "
                    "somebody else writes to it"
                )
            seen = Seen(
                looked.size, looked.etag or seen.etag, looked.crc, seen.version_id or looked.version_id
            )
        if seen.crc is not None and crc is not None:
            self._job.store.check_crc(seen.crc, crc, f"uploaded to {self._job.store.name}")
            return seen, "server"
        if expected is None or not seen.etag:
            return seen, "none"
        if seen.etag == expected or (is_md5(seen.etag) and seen.etag == self._job.whole_md5()):
            return seen, "etag"
        if seen.etag.endswith(f"-{self._job.grid.count}") and not self._job.twice:
            raise ChecksumError(
                f"uploaded to {self._job.store.name}: the store's ETag is not that of its parts",
                algorithm="etag",
                expected=expected,
                actual=seen.etag,
            )
        return seen, "none"
