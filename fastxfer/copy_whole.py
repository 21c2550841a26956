"""A small object that is in memory goes to the store in one request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from fastxfer._native.memory import PartBuffer
from fastxfer._native.reader import MemoryReader
from fastxfer.errors import ChecksumError, FastxferError, Retry
from fastxfer.upload_store import Seen, UploadStore


class Whole:
    """See the module. `waits` is told why it goes again."""

    def __init__(
        self, store: UploadStore, buffer: PartBuffer, waits: Callable[[FastxferError], object]
    ) -> None:
        self._store = store
        self._buffer = buffer
        self._waits = waits
        self._what = f"copied to {store.name}"

    def put(self) -> tuple[Seen, str]:
        """Returns what the store has then, and by what it was found to be right. Raises FastxferError."""
        md5 = hashlib.md5(self._buffer, usedforsecurity=False).digest()
        seen = self._sent(md5)
        if seen.crc is None and seen.etag != md5.hex():
            looked = self._store.head()
            seen = replace(looked, version_id=seen.version_id or looked.version_id) if looked else seen
        if seen.crc is not None:
            self._store.check_crc(seen.crc, self._buffer.crc, self._what)
            return seen, "server"
        return seen, "etag" if seen.etag == md5.hex() else "none"

    def _sent(self, md5: bytes) -> Seen:
        failures = 0
        while True:
            try:
                body = MemoryReader(self._buffer, xz=self._buffer.xz)
                seen = self._store.put(body, self._buffer.crc, md5)
                if seen.crc is not None:
                    self._store.check_crc(seen.crc, self._buffer.crc, self._what)
                return seen
            except FastxferError as error:
                failures += 1
                again = error.retry is Retry.SAME_SOURCE or isinstance(error, ChecksumError)
                if not again or failures > self._store.calls.options.retries:
                    raise
                self._waits(error)
                self._store.calls.pause(failures, error)
