"""One reading of a file: the CRC-64/NVME of each chunk of a grid, and digests of the whole.

Without digests several threads read, each a stretch of whole chunks at a time; a block is checksummed while
the processor's cache still holds it. Digests such as SHA-256 take a file in order: then one thread reads, and
each digest goes on a thread of its own while the next block comes. Memory is a block or two a thread,
whatever the size of the file or of its chunks.
"""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fastxfer._native.bitmap import ChunkLedger
from fastxfer._native.checksum import crc64nvme, crc64nvme_combine
from fastxfer.errors import StorageError, storage_error
from fastxfer.plan.ranges import Span, length
from fastxfer.storage.digest import make_hasher

if TYPE_CHECKING:
    from concurrent.futures import Future

# Blocks of 1 MiB come from the page cache as fast as larger ones, and stay in a second-level cache.
BLOCK = 1024**2
# More threads than these wait for memory, or for the disk.
MAX_THREADS = 4
# More chunks than this are not combined into a whole-object CRC unasked: each takes microseconds.
COMBINE_CHUNKS = 65536
_DIGEST_BUFFERS = 2


class Reading:
    """Reads `fd` once. `run` does it and may be called once; `stop` and `done` are for any thread.

    The grid covers the first `size` bytes, in chunks of `chunk_size`; of those only the ones in `spans`
    (whole chunks, in order; by default all) are read. `algorithms` are digests of the whole file, what is
    beyond `size` included.
    """

    def __init__(
        self,
        fd: int,
        path: str | os.PathLike[str],
        size: int,
        chunk_size: int,
        *,
        spans: Iterable[Span] | None = None,
        algorithms: Iterable[str] = (),
    ) -> None:
        self._fd = fd
        self._path = os.fspath(path)
        self._file_size = os.fstat(fd).st_size
        self.found = ChunkLedger(size, chunk_size)
        """The chunks that could be read, with the CRCs of what is there."""
        self.digests: dict[str, str] = {}
        self.done = 0
        self._crcs = array("Q", bytes(8 * self.found.count))
        self._bits = bytearray(-(-self.found.count // 8))
        self._algorithms = tuple(algorithms)
        spans = [(0, size)] if spans is None else list(spans)
        self.to_read = max(size, self._file_size) if self._algorithms else length(spans)
        """Bytes that it reads, if the file has them."""
        self._batches = self._cut(spans)
        self._lock = threading.Lock()
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Reads. Raises StorageError; a block that the disk cannot give (EIO) is only missing in `found`, and
        in `digests`. An exception that interrupts it (Ctrl-C) ends the threads first.
        """
        count = 1 if self._algorithms else min(MAX_THREADS, len(os.sched_getaffinity(0)))
        threads = [
            threading.Thread(target=self._guarded, name="fastxfer-read", daemon=True) for _ in range(count)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            raise
        if self._error is not None:
            raise self._error
        self.found.load(bytes(self._bits), self._crcs.tobytes())

    def stop(self) -> None:
        """Ends it within a block; `run` then returns with what was read."""
        self._stopped = True

    # ---- the threads ----

    def _cut(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Gives stretches of whole chunks, of a block or of one chunk, whichever is more."""
        step = max(1, BLOCK // self.found.chunk_size) * self.found.chunk_size
        for start, stop in spans:
            for at in range(start, min(stop, self._file_size), step):
                yield at, min(at + step, stop)

    def _next(self) -> Span | None:
        with self._lock:
            return None if self._stopped else next(self._batches, None)

    def _guarded(self) -> None:
        try:
            reached = self._read_in_order() if self._algorithms else 0
            buffer = memoryview(bytearray(BLOCK))
            while (batch := self._next()) is not None:
                if batch[1] > reached:  # what lies beyond a bad block, where it was read in order
                    self._read_batch(*batch, buffer)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._error = error
            self._stopped = True

    def _read_batch(self, start: int, stop: int, buffer: memoryview) -> None:
        crc = 0
        for at, block in self._blocks(start, stop, [buffer]):
            crc = self._checksum(at, block, crc)

    def _read_in_order(self) -> int:
        from concurrent.futures import ThreadPoolExecutor

        buffers = [memoryview(bytearray(BLOCK)) for _ in range(_DIGEST_BUFFERS)]
        hashers = {name: make_hasher(name) for name in self._algorithms}
        pending: list[Future[object]] = []
        reached, crc = 0, 0
        with ThreadPoolExecutor(len(hashers), "fastxfer-digest") as pool:
            for at, block in self._blocks(0, max(self.found.size, self._file_size), buffers):
                for each in pending:  # so that the other buffer is free again
                    each.result()
                pending = [pool.submit(hasher.update, block) for hasher in hashers.values()]
                crc = self._checksum(at, block, crc)
                reached = at + len(block)
        if reached == self._file_size:
            self.digests = {name: hasher.hexdigest() for name, hasher in hashers.items()}
        return reached

    def _blocks(self, start: int, stop: int, buffers: list[memoryview]) -> Iterator[tuple[int, memoryview]]:
        """Gives [start, stop) up to the end of the file or to a bad block; `buffers` take turns."""
        turn = 0
        while start < stop and not self._stopped:
            buffer = buffers[turn % len(buffers)]
            try:
                count = os.preadv(self._fd, [buffer[: stop - start]], start)
            except OSError as error:
                if error.errno == errno.EIO:
                    return  # a bad block of the disk: those bytes are not there
                raise storage_error(f"read {self._path}", error) from error
            if not count:
                return
            yield start, buffer[:count]
            start, turn = start + count, turn + 1
            with self._lock:
                self.done += count

    def _checksum(self, at: int, block: memoryview, crc: int) -> int:
        """Goes on with the CRC of the chunk at `at` over a block; returns that of the last chunk in it."""
        chunk_size, size, begin = self.found.chunk_size, self.found.size, 0
        while begin < len(block) and at + begin < size:
            chunk = (at + begin) // chunk_size
            edge = min((chunk + 1) * chunk_size, size)
            end = min(len(block), edge - at)
            crc = crc64nvme(block[begin:end], crc)
            if at + end == edge:
                self._crcs[chunk] = crc
                crc = 0
                with self._lock:
                    self._bits[chunk // 8] |= 1 << chunk % 8
            begin = end
        return crc


def combined(ledger: ChunkLedger) -> int:
    """Returns the CRC-64/NVME of a whole object from those of its chunks, without a second read."""
    crc = 0
    for chunk in range(ledger.count):
        start, stop = ledger.bounds(chunk)
        crc = crc64nvme_combine(crc, ledger.crc(chunk), stop - start)
    return crc


def ledger_of(fd: int, path: str | os.PathLike[str], size: int, chunk_size: int) -> ChunkLedger:
    """Returns the ledger of the first `size` bytes of a file. Raises StorageError."""
    reading = Reading(fd, path, size, chunk_size)
    reading.run()
    if not reading.found.complete:
        raise StorageError(f"cannot read all of {os.fspath(path)}: it is shorter now, or its disk fails")
    return reading.found


def crc_of(fd: int, path: str | os.PathLike[str], start: int, stop: int) -> int | None:
    """Returns the CRC-64/NVME of a stretch of a file, None when not all is there. Raises StorageError."""
    crc = 0
    while start < stop:
        try:
            block = os.pread(fd, min(BLOCK, stop - start), start)
        except OSError as error:
            if error.errno == errno.EIO:
                return None  # a bad block: those bytes are missing
            raise storage_error(f"read {os.fspath(path)}", error) from error
        if not block:
            return None
        crc = crc64nvme(block, crc)
        start += len(block)
    return crc
