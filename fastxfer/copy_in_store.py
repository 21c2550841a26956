"""A copy that the store makes by itself: no byte of it passes here.

The store is told the ETag that the source has to have; since not all of them look at that (Ceph RGW), the
source is looked at once more before the object is put together.
"""

from __future__ import annotations

from fastxfer.copy_job import StoreCopyJob
from fastxfer.errors import BadResponseError, FastxferError, StoreError
from fastxfer.ranged_source import RangedSource, SourceChangedError
from fastxfer.sources.store import StoreSource
from fastxfer.store_calls import Answer, Call, Pairs
from fastxfer.upload_sending import Sender
from fastxfer.upload_store import Seen, UploadStore

_REFUSALS = (400, 401, 403, 405, 501)


class CannotCopyError(Exception):
    """The store does not copy by itself, or not this object for us."""

    def __init__(self, error: FastxferError) -> None:
        super().__init__(str(error))
        self.error = error


class StoreCopySender(Sender):
    """Has the store copy the parts of a job. Raises CannotCopyError and SourceChangedError."""

    _job: StoreCopyJob

    def _begin(self, number: int) -> None:
        job = self._job
        fields = source_fields(job.store, job.source, job.grid.span(number))
        self._send(number, job.store.part_copy(job.upload_id, number, fields))

    def _take(self, event: object) -> None:
        raise AssertionError("there is nothing but calls")

    def _confirmed(self, number: int, call: Call, answer: Answer) -> str:
        return self._job.store.copied(answer).etag

    def _failed(self, number: int, call: Call, error: FastxferError, now: float) -> None:
        judge_refusal_to_copy(self._job.source, error)
        super()._failed(number, call, error, now)


def source_fields(store: UploadStore, source: RangedSource, span: tuple[int, int] | None = None) -> Pairs:
    """Returns the fields that name what is copied."""
    original = source.original
    assert isinstance(original, StoreSource)
    return store.copy_source(original.location, source.identity, span)


def judge_refusal_to_copy(source: RangedSource, error: FastxferError) -> None:
    """Raises what an error means for a copy in the store, if it means that it will not come to be."""
    if isinstance(error, BadResponseError):
        # rclone's server does not know these fields, and takes the empty body for the part.
        raise CannotCopyError(error) from error
    if not isinstance(error, StoreError):
        return
    if error.status == 412 or error.code in ("NoSuchKey", "NoSuchVersion"):
        raise SourceChangedError(source.still() or f"the store says {error.code or error.status}") from error
    if error.status in _REFUSALS or error.code == "NotImplemented":
        raise CannotCopyError(error) from error


def copied_whole(store: UploadStore, source: RangedSource) -> Seen:
    """Has the store copy the object in one request. Raises as StoreCopySender."""
    try:
        return store.copy_whole(source_fields(store, source))
    except FastxferError as error:
        judge_refusal_to_copy(source, error)
        raise


def same_store(store: UploadStore, source: RangedSource, *, same_user: bool) -> bool:
    """Returns whether the store may be asked to copy the source by itself."""
    original = source.original
    if not isinstance(original, StoreSource) or not same_user:
        return False
    here, there = store.calls.access, original.access
    same = (here.kind, str(here.store.endpoint)) == (there.kind, str(there.store.endpoint))
    return same and here.anonymous == there.anonymous
