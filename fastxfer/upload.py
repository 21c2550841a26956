"""One upload: a file to an object of a store, in one request or in parts, on a thread of its own."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fastxfer._native.reader import Reader
from fastxfer.background import Background
from fastxfer.errors import (
    ChecksumError,
    FastxferError,
    LocalChangedError,
    OptionError,
    Retry,
    StorageError,
)
from fastxfer.local_file import LocalFile
from fastxfer.options import TransferOptions
from fastxfer.plan.parts import PartGrid, grid_for
from fastxfer.put_options import PutOptions
from fastxfer.put_results import PutResult
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.store_access import StoreAccess
from fastxfer.storage.upload_file import UploadFile
from fastxfer.store_calls import StoreCalls
from fastxfer.upload_job import FileJob
from fastxfer.upload_parts import upload_parts
from fastxfer.upload_store import Seen, UploadStore


class Upload(Background[PutResult]):
    """See the module. All may be called from any thread; `over` is set at its end. Raises OptionError for a
    URL or an option that cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], url: str, put: PutOptions, options: TransferOptions
    ) -> None:
        self.path = Path(os.fsdecode(path))
        self.location = target_of(url, self.path)
        super().__init__(str(self.location))
        self._put = put
        self._options = replace(options, connections=put.connections)

    # ---- its thread ----

    def _work(self) -> PutResult:
        with ExitStack() as stack:
            file = LocalFile(self.path)
            stack.callback(file.close)
            self.progress = replace(self.progress, size=file.size, state="running")
            calls = StoreCalls(StoreAccess.of(self.location, self._options), self._options, self._stop)
            stack.callback(calls.close)
            store = UploadStore(calls, self._options.headers)
            grid = grid_for(file.size, self._put.part_size, store.least_part)
            endpoint = store.endpoint
            directory = Path(self._put.checkpoint_dir or self.path.parent)
            where = f"{self.location} at {endpoint}"
            if grid.count == 1 and not UploadFile.is_there(self.path, where, directory):
                return self._at_once(file, store)
            kept = stack.enter_context(UploadFile(self.path, where, directory))
            if grid.count == 1:
                self._drop_left(kept, store, endpoint)
                return self._at_once(file, store)
            return self._in_parts(file, store, grid, kept, endpoint)

    def _drop_left(self, kept: UploadFile, store: UploadStore, endpoint: str) -> None:
        """Ends the upload of what the file was before, which was larger."""
        saved = kept.state_for(str(self.location), endpoint)
        if saved is not None:
            store.abort(saved.upload_id)
            self._notes.append("the file has changed since a part of it was sent: all of it again")
        kept.remove()

    # ---- in parts ----

    def _in_parts(
        self, file: LocalFile, store: UploadStore, grid: PartGrid, kept: UploadFile, endpoint: str
    ) -> PutResult:
        connections = self._options.connections
        job = FileJob(file, store, grid, kept, connections=connections, endpoint=endpoint, stop=self._stop)
        try:
            outcome = upload_parts(job, self._tell)
        finally:
            self._notes += job.now.notes
        return self._result(
            outcome.seen,
            file.size,
            f"{outcome.crc:016x}",
            store,
            verified=outcome.verified,
            parts=outcome.parts,
            sent=outcome.sent,
            resumed=outcome.resumed,
            upload_id=outcome.upload_id,
        )

    # ---- in one request ----

    def _at_once(self, file: LocalFile, store: UploadStore) -> PutResult:
        crc, md5 = file.crc_and_md5(store.crc_name, 0, file.size)
        body = Reader(file.fd, 0, file.size, xz=store.crc_name == "crc64xz")
        seen = self._put_whole(file, store, body, crc, md5)
        file.check()
        verified = "none"
        if seen.crc is None and seen.etag != md5.hex():
            looked = store.head()
            seen = replace(looked, version_id=seen.version_id or looked.version_id) if looked else seen
        if seen.crc is not None:
            store.check_crc(seen.crc, crc, f"uploaded to {self.location}")
            verified = "server"
        elif seen.etag == md5.hex():
            verified = "etag"
        return self._result(seen, file.size, f"{crc:016x}", store, verified=verified)

    def _put_whole(self, file: LocalFile, store: UploadStore, body: Reader, crc: int, md5: bytes) -> Seen:
        failures = 0
        while True:
            try:
                seen = store.put(body, crc, md5)
                if body.crc != crc:
                    raise file.changed()
                if seen.crc is not None:
                    store.check_crc(seen.crc, crc, f"uploaded to {self.location}")
                return seen
            except FastxferError as error:
                self._raise_if_local(file, body, crc, error)
                failures += 1
                again = error.retry is Retry.SAME_SOURCE or isinstance(error, ChecksumError)
                if not again or failures > self._options.retries:
                    raise
                self.progress = replace(self.progress, state="waiting", note=str(error))
                store.calls.pause(failures, error)

    def _raise_if_local(self, file: LocalFile, body: Reader, crc: int, error: FastxferError) -> None:
        """Raises what is the fault of the file, and not of the store or the way to it."""
        if isinstance(error, LocalChangedError):
            raise error
        if body.error:
            file.check()
            raise StorageError(f"cannot read {file.path}: {body.reason}", errno=body.error) from error
        if body.pos == body.stop and body.crc != crc:
            raise file.changed() from error

    def _result(
        self,
        seen: Seen,
        size: int,
        crc: str,
        store: UploadStore,
        *,
        verified: str,
        parts: int = 1,
        sent: int = 1,
        resumed: int = 0,
        upload_id: str = "",
    ) -> PutResult:
        self.progress = replace(self.progress, done=size, chunks="#" * min(64, parts))
        return PutResult(
            url=str(self.location),
            size=size,
            etag=seen.etag,
            version_id=seen.version_id,
            parts=parts,
            parts_sent=sent,
            parts_resumed=resumed,
            upload_id=upload_id,
            checksums={store.crc_name: crc},
            verified=verified,
            elapsed=time.monotonic() - self._began,
            requests=store.calls.requests,
            notes=tuple(self._notes),
        )


def target_of(url: str, path: Path) -> Location:
    """Returns where a file goes: the object that the URL names, or where it names a bucket or ends with a
    slash one of the file's name below it. Raises OptionError.
    """
    location = parse_location(url)
    if location.key and not location.key.endswith("/"):
        return location
    if not path.name:
        raise OptionError("the URL names no object: write s3://BUCKET/KEY or oss://BUCKET/KEY")
    return parse_location(f"{location}{path.name}")
