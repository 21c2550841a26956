"""One copy: an object of one server becomes an object of a store, without touching the disk.

Where the store holds both, it copies by itself (copy_in_store.py). Else each part of the upload is a ranged
request to the source (copy_sending.py), or a stretch of the one stream that it gives (copy_streaming.py). A
small object goes in one request. What is read is checksummed as it comes; the sums are declared to the store
part by part, put together, and held against what both ends tell of the whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fastxfer._native.memory import PartBuffer
from fastxfer.background import Background
from fastxfer.buffers import Buffers
from fastxfer.copy_checks import Checks, Expected, digests_of, sums_of
from fastxfer.copy_fields import fields_of, name_for
from fastxfer.copy_in_store import (
    CannotCopyError,
    StoreCopySender,
    copied_whole,
    same_store,
)
from fastxfer.copy_job import CopyJob, StoreCopyJob
from fastxfer.copy_options import CopyOptions, shared_out
from fastxfer.copy_resuming import CopyResumer, saved_state
from fastxfer.copy_sending import CopySender
from fastxfer.copy_streaming import CopyStreamer
from fastxfer.copy_whole import Whole
from fastxfer.errors import ChecksumError, FastxferError, OptionError, RemoteChangedError, storage_error
from fastxfer.options import TransferOptions
from fastxfer.plan.parts import DEFAULT_PART, PartGrid, Pieces, grid_for, growing_part
from fastxfer.put_results import CopyResult
from fastxfer.ranged_source import Look, RangedSource, SourceChangedError
from fastxfer.sources.opening import Sources
from fastxfer.sources.schemes import is_location
from fastxfer.sources.store import StoreSource
from fastxfer.sources.store_access import StoreAccess
from fastxfer.storage.copy_file import CopyFile, Origin, default_directory
from fastxfer.store_calls import StoreCalls
from fastxfer.upload import target_of
from fastxfer.upload_finishing import Finisher
from fastxfer.upload_job import Gone, again_where_lost
from fastxfer.upload_parts import THREADS
from fastxfer.upload_store import Seen, UploadStore

STORE_PART = 64 << 20
ABORT_S = 5.0
AT_ONCE = 1 << 20
"""An object that is known to be no larger comes with the first request for it."""
CHANGES = 3
"""So often is a copy begun anew because the source has changed."""


class Copy(Background[CopyResult]):
    """See the module, and Background. It is to be what is `expected`; `access` is a way to the target where
    there is one already, `sources` has those to the sources of all copies that have it, whose options about
    stores are the same. Raises OptionError for a URL or an option that cannot be used.
    """

    def __init__(
        self,
        source: str,
        target: str,
        own: CopyOptions,
        options: TransferOptions,
        *,
        expected: Expected | None = None,
        access: StoreAccess | None = None,
        sources: Sources | None = None,
    ) -> None:
        self._from = source
        self._sources = sources
        self._expected = expected or Expected()
        self._access = access
        self.location = target_of(target, Path(name_for(source, target)))
        super().__init__(str(self.location))
        self._own = own
        kind = source.strip().partition(":")[0].lower() if is_location(source.strip()) else ""
        self._source_options, self._options = shared_out(own, options, same_kind=kind == self.location.scheme)
        self._same_user = kind == self.location.scheme and all(
            getattr(self._source_options, name) == getattr(self._options, name)
            for name in ("profile", "credentials", "anonymous")
        )

    # ---- its thread ----

    def _work(self) -> CopyResult:
        with ExitStack() as stack:
            access = self._access or StoreAccess.of(self.location, self._options)
            calls = StoreCalls(access, self._options, self._stop)
            stack.callback(calls.close)
            self._calls = calls
            self._source = RangedSource(self._from, self._source_options, self._stop, sources=self._sources)
            stack.callback(self._source.close)
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fastxfer-sum")
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            return self._through_changes()

    def _through_changes(self) -> CopyResult:
        changes = 0
        while True:
            try:
                return self._copy((self._taken() if not changes else None) or self._source.look())
            except SourceChangedError as changed:
                changes += 1
                reason = f"the source changed: {changed}"
                if self._source_options.on_change == "fail":
                    raise RemoteChangedError(
                        f"{reason}; to copy it as it is now use on_change=restart"
                    ) from changed
                if changes >= CHANGES:
                    raise RemoteChangedError(
                        f"the source does not stand still: after {changes} starts, {changed}"
                    ) from changed
                self._notes.append(f"{reason}: all of it again")

    def _taken(self) -> Look | None:
        """Returns what the source tells, together with all of a small object, where it is to pass here."""
        size, store = self._expected.size, UploadStore(self._calls, ())
        if size is None or size > AT_ONCE:
            return None
        if self._own.server_side and same_store(store, self._source, same_user=self._same_user):
            return None
        return self._source.take(size, xz=store.crc_name == "crc64xz")

    def _copy(self, look: Look) -> CopyResult:
        size = look.identity.size
        if size is not None and self._expected.size not in (None, size):
            raise RemoteChangedError(
                f"{self._source.display} is another object than was listed: {size} bytes"
            )
        self._look = look
        self.progress = replace(self.progress, size=size, state="running")
        asked = (*self._source_options.checksum, *self._expected.digests)
        self._checks = Checks(self._source.display, look.checksums, asked)
        self._store = UploadStore(
            self._calls, fields_of(self._source.original, look, self._own, self.location.scheme)
        )
        if size is None or (size and not look.ranges):
            return self._stream(size)
        origin = Origin(
            self._source.display,
            size,
            look.identity.etag,
            look.identity.last_modified,
            look.identity.version,
        )
        if self._own.server_side and same_store(self._store, self._source, same_user=self._same_user):
            try:
                return self._in_store(origin)
            except CannotCopyError as refused:
                self._notes.append(f"the store does not copy by itself: {refused}")
        return self._relay(origin)

    @property
    def _xz(self) -> bool:
        return self._store.crc_name == "crc64xz"

    # ---- in parts, by ranges ----

    def _relay(self, origin: Origin) -> CopyResult:
        grid = self._grid(origin.size, self._part_size(origin.size))
        with ExitStack() as stack:
            kept = self._kept(stack, only_if_there=grid.count == 1)
            if grid.count == 1:
                if kept is not None:
                    self._drop_left(kept)
                return self._at_once(self._source.fetched(grid.size, xz=self._xz))
            assert kept is not None
            saved = saved_state(kept, self._store)
            part_size = saved.part_size if saved is not None and saved.origin == origin else grid.part_size
            self._check_memory(part_size)
            connections = min(self._own.connections, self._own.memory // part_size)
            job = CopyJob(
                self._source,
                origin,
                self._store,
                grid,
                kept,
                also=self._checks.algorithms,
                connections=connections,
                endpoint=self._store.endpoint,
                stop=self._stop,
            )
            buffers = Buffers(self._own.memory, xz=self._xz)
            return self._in_parts(job, kept, lambda: CopySender(job, self._pool, self._tell, buffers))

    def _part_size(self, size: int) -> int:
        if self._own.part_size is not None:
            return self._own.part_size
        return max(self._store.least_part, min(DEFAULT_PART, self._own.memory))

    def _grid(self, size: int, part_size: int) -> PartGrid:
        grid = grid_for(size, part_size, self._store.least_part)
        self._check_memory(min(max(1, size), grid.part_size))
        return grid

    def _check_memory(self, part_size: int) -> None:
        if part_size > self._own.memory:
            raise OptionError(
                f"option memory: a part of {part_size} bytes has to be in memory, and {self._own.memory} are "
                "allowed: give more, or smaller parts"
            )

    def _kept(self, stack: ExitStack, *, only_if_there: bool = False) -> CopyFile | None:
        """Returns the checkpoint of this copy, locked."""
        chosen = self._own.checkpoint_dir
        directory = Path(chosen) if chosen is not None else default_directory(os.environ, Path.home())
        source, original = self._source.display, self._source.original
        if isinstance(original, StoreSource):
            source += f" at {original.access.store.endpoint}"
        target = f"{self.location} at {self._store.endpoint}"
        if only_if_there and not CopyFile.is_there(source, target, directory):
            return None
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            failed = storage_error(f"make the directory {directory}", error)
            failed.message += " (checkpoint_dir= (--checkpoint-dir) names another directory)"
            raise failed from error
        return stack.enter_context(CopyFile(source, target, directory))

    def _drop_left(self, kept: CopyFile) -> None:
        """Ends the upload of what the source was before, which was larger."""
        saved = saved_state(kept, self._store)
        if saved is not None:
            self._store.abort(saved.upload_id)
            self._notes.append("the source has changed since a part of it was copied: all of it again")
        kept.remove()

    def _in_parts(
        self, job: CopyJob, kept: CopyFile, sender: Callable[[], CopySender | StoreCopySender]
    ) -> CopyResult:
        try:
            return again_where_lost(
                job, lambda: self._once(job, kept, sender), SourceChangedError, CannotCopyError
            )
        finally:
            self._take_notes(job)

    def _once(
        self, job: CopyJob, kept: CopyFile, sender: Callable[[], CopySender | StoreCopySender]
    ) -> CopyResult:
        seen = CopyResumer(job, kept).begin()
        if seen is None:
            sender().send_all()
            self._check_source(job)
            job.save()
        result = self._finished(job, seen)
        kept.remove()
        return result

    def _check_source(self, job: CopyJob) -> None:
        """Holds what came against what is told of the source, before the object is put together."""
        if isinstance(job, StoreCopyJob):
            reason = self._source.still()
            if reason is not None:
                raise SourceChangedError(reason)
            return
        try:
            self._checks.hold(job.whole_sums())
        except ChecksumError:
            job.drop()
            raise

    def _finished(self, job: CopyJob, seen: Seen | None) -> CopyResult:
        finisher = Finisher(job)
        if seen is None:
            seen = finisher.complete()
        if isinstance(job, StoreCopyJob):
            return self._result_of(job, *self._verified_in_store(seen), sums={})
        seen, verified = finisher.verified(seen, job.whole_crc())
        return self._result_of(job, seen, verified, sums=job.whole_sums())

    def _take_notes(self, job: CopyJob) -> None:
        self._notes += job.now.notes
        job.now.notes.clear()

    def _result_of(self, job: CopyJob, seen: Seen, verified: str, *, sums: dict[str, str]) -> CopyResult:
        self._take_notes(job)
        return self._result(
            seen,
            job.grid.size,
            verified,
            sums,
            by="stream" if job.checkpoint is None else job.by,
            parts=job.grid.count,
            sent=job.sent,
            resumed=job.resumed,
            upload_id=job.upload_id,
        )

    # ---- by the store ----

    def _in_store(self, origin: Origin) -> CopyResult:
        part_size = self._own.part_size or max(self._store.least_part, STORE_PART)
        grid = grid_for(origin.size, part_size, self._store.least_part)
        with ExitStack() as stack:
            kept = self._kept(stack, only_if_there=grid.count == 1)
            saved = saved_state(kept, self._store) if kept is not None else None
            if saved is not None and saved.by == "relay" and saved.origin == origin:
                stack.close()
                return self._relay(origin)
            if grid.count == 1:
                if kept is not None:
                    self._drop_left(kept)
                seen = copied_whole(self._store, self._source)
                reason = self._source.still()
                if reason is not None:
                    raise SourceChangedError(reason)
                seen, verified = self._verified_in_store(seen)
                return self._result(seen, origin.size, verified, {}, by="store")
            assert kept is not None
            job = StoreCopyJob(
                self._source,
                origin,
                self._store,
                grid,
                kept,
                connections=self._own.connections,
                endpoint=self._store.endpoint,
                stop=self._stop,
            )
            told = self._look.checksums.get(self._store.crc_name)
            job.told_crc = int(told, 16) if told is not None else None
            return self._in_parts(job, kept, lambda: StoreCopySender(job, self._tell))

    def _verified_in_store(self, seen: Seen) -> tuple[Seen, str]:
        """Returns what the store has, and by what it was found to be what the source is."""
        looked = self._store.head()
        if looked is None or looked.size != self._look.identity.size:
            raise RemoteChangedError(
                f"{self._store.name} was copied, and something else is there now: somebody else writes to it"
            )
        seen = replace(looked, version_id=seen.version_id or looked.version_id)
        told = self._look.checksums.get(self._store.crc_name)
        if told is not None and seen.crc is not None:
            self._store.check_crc(seen.crc, int(told, 16), f"copied to {self._store.name}")
            return seen, "server"
        etag = (self._look.identity.etag or "").strip('"').lower()
        return seen, "etag" if etag and etag == seen.etag else "none"

    # ---- by one stream ----

    def _stream(self, size: int | None) -> CopyResult:
        first = self._part_size(size or 0)
        if size is not None:
            first = grid_for(size, first, self._store.least_part).part_size
        most = first if size is not None else max(first, self._own.memory // 2)
        self._check_memory(first)
        grid = Pieces(0, first)
        job = CopyJob(
            self._source,
            Origin(self._source.display, size or 0),
            self._store,
            grid,
            None,
            also=self._checks.algorithms,
            connections=self._own.connections,
            endpoint=self._store.endpoint,
            stop=self._stop,
        )
        job.state = replace(job.state, count=0)
        buffers = Buffers(self._own.memory, xz=self._xz)
        streamer = CopyStreamer(
            job,
            self._pool,
            self._tell,
            buffers,
            size=size,
            size_of=lambda number: growing_part(number, first, most),
        )
        try:
            streamer.send_all()
            if streamer.only is not None:
                return self._at_once(streamer.only)
            self._checks.hold(job.whole_sums())
            return self._finished(job, None)
        except Gone as gone:
            raise gone.error from gone
        except BaseException:
            if job.upload_id:
                self._abort_stream(job)
            raise
        finally:
            self._take_notes(job)

    def _abort_stream(self, job: CopyJob) -> None:
        """Ends an upload that nothing can be gone on from, also where the copy was stopped."""
        options = replace(self._options, retries=1, stall_timeout=min(self._options.stall_timeout, ABORT_S))
        calls = StoreCalls(self._calls.access, options, threading.Event())
        try:
            UploadStore(calls, ()).abort(job.upload_id)
        except FastxferError as error:
            job.note(f"an upload is left behind with the store ({error}); fastxfer uploads lists it")
        finally:
            calls.close()

    # ---- in one request ----

    def _at_once(self, buffer: PartBuffer) -> CopyResult:
        sums = sums_of(buffer, self._store.crc_name, self._checks.algorithms)
        sums |= digests_of(buffer, dict(self._expected.digests))
        self._checks.hold(sums)
        seen, verified = Whole(self._store, buffer, self._wait_note).put()
        by = "stream" if buffer.filled and not self._look.ranges else "relay"
        return self._result(seen, buffer.filled, verified, sums, by=by)

    def _wait_note(self, error: FastxferError) -> None:
        self.progress = replace(self.progress, state="waiting", note=str(error))

    def _result(
        self,
        seen: Seen,
        size: int,
        verified: str,
        sums: dict[str, str],
        *,
        by: str,
        parts: int = 1,
        sent: int = 1,
        resumed: int = 0,
        upload_id: str = "",
    ) -> CopyResult:
        self.progress = replace(self.progress, size=size, done=size, chunks="#" * min(64, parts))
        return CopyResult(
            url=str(self.location),
            source=self._source.display,
            size=size,
            etag=seen.etag,
            version_id=seen.version_id,
            by=by,
            parts=parts,
            parts_sent=sent,
            parts_resumed=resumed,
            upload_id=upload_id,
            checksums=sums,
            verified=verified,
            source_verified=self._checks.verified(sums),
            elapsed=time.monotonic() - self._began,
            requests=self._calls.requests + self._source.requests,
            notes=tuple(self._notes),
        )
