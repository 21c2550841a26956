"""Proves the files of a mirrored set: each is there, is a regular file, and has the size and the checksum
that the ledger has of it.

The caller's thread walks the ledger, hands batches of neighbours to threads, and writes down what they find,
so that memory does not grow with the set. A thread reads one file at a time by blocks; the checksums release
the interpreter's lock. No symbolic link is followed below the destination.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from fastxfer.dataset.compare import Known
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.ledger_file import ROWS
from fastxfer.dataset.planning import Here
from fastxfer.errors import OptionError, StorageError, storage_error
from fastxfer.plan.rates import RateMeter
from fastxfer.progress.snapshot import Progress
from fastxfer.storage.digest import BLOCK, Hasher, make_hasher
from fastxfer.verify_results import SetVerifyResult

MAX_JOBS = 64
NAMED = 1000
"""At most so many damaged, and missing, files are named."""
TICK_S = 0.2
# A batch is worth a thread's turn (about 2 ms), and ends soon.
BATCH_FILES = 64
BATCH_BYTES = 8 * BLOCK
# So much of a file may be in the page cache before it is let go.
CACHED_BYTES = 64 * BLOCK
# The first of these that is known of a file is what it is held against: any tells what happens by chance, and
# the first take the least time.
ALGORITHMS = ("crc64nvme", "crc64xz", "blake3", "sha1", "sha256", "sha512", "md5", "crc32c")
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # these are no fault of the file

GOOD, UNPROVEN, DAMAGED, MISSING = "good", "unproven", "damaged", "missing"
Batch = list[tuple[str, Known]]


class Seen(NamedTuple):
    """What a file was found to be, and why; `mtime_ns` where it is there, `sha256` where that was asked for
    and was not known.
    """

    path: str
    known: Known
    state: str
    why: str = ""
    mtime_ns: int = 0
    sha256: str | None = None


def prove(
    ledger: Ledger,
    dest: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    mark: bool = False,
    sha256: bool = False,
    progress: Callable[[Progress], object] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> SetVerifyResult:
    """Reads all files that the ledger has, `jobs` at a time (by default one a core), and returns what they
    are.

    With `mark` the ledger is told of what is damaged or missing, so that it is fetched again whatever stands
    there, and of what holds though it was doubted, marked, or touched. With `sha256` the SHA-256 of each file
    that is not damaged is known to the ledger afterwards. `progress` is called five times a second; it ends,
    with what it has seen so far, when `stopped` returns True. Raises StorageError, LedgerError.
    """
    return _Proof(ledger, dest, mark, sha256).run(checked_jobs(jobs), progress, stopped)


def checked_jobs(jobs: int | None) -> int:
    """Returns how many files are read at a time. Raises OptionError."""
    if jobs is None:
        return min(MAX_JOBS, len(os.sched_getaffinity(0)))
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= MAX_JOBS:
        raise OptionError(f"option jobs: must be a whole number from 1 to {MAX_JOBS}")
    return jobs


class _Proof:
    """One proving, on the thread that has the ledger."""

    def __init__(self, ledger: Ledger, dest: str | os.PathLike[str], mark: bool, sha256: bool) -> None:
        self._ledger = ledger
        self._dest = os.fspath(dest)
        self._mark = mark
        self._sha256 = sha256
        self._stop = threading.Event()
        self._notes = _Notes(ledger, mark)
        self._counts = {GOOD: 0, UNPROVEN: 0, DAMAGED: 0, MISSING: 0}
        self._damaged: list[tuple[str, str]] = []
        self._missing: list[str] = []
        self._meter = RateMeter()

    def run(
        self,
        jobs: int,
        progress: Callable[[Progress], object] | None,
        stopped: Callable[[], bool] | None,
    ) -> SetVerifyResult:
        """See `prove`."""
        began = time.monotonic()
        files, size = self._ledger.kept_totals()
        try:
            readers = [_Reader(self._dest, self._stop) for _ in range(jobs)]
        except OSError as error:
            raise storage_error(f"open {self._dest}", error) from error

        def tell(now: float) -> None:
            if progress is not None:
                progress(self._moment(size, sum(each.passed for each in readers), now))

        self._drive(readers, tell, stopped)
        self._notes.write()
        tell(time.monotonic())
        return self._result(files, sum(each.read for each in readers), time.monotonic() - began)

    def _drive(
        self, readers: list[_Reader], tell: Callable[[float], None], stopped: Callable[[], bool] | None
    ) -> None:
        """Has the readers look at all files, and takes what they find."""
        free, busy = list(readers), dict[Future[list[Seen]], _Reader]()
        batches = _batches(self._ledger)
        tell_at = 0.0
        with ThreadPoolExecutor(len(readers), "fastxfer-prove") as pool:
            try:
                while not self._stop.is_set():
                    while free and (batch := next(batches, None)) is not None:
                        reader = free.pop()
                        busy[pool.submit(reader.look, batch, self._sha256)] = reader
                    if not busy:
                        break
                    for done in wait(busy, TICK_S, FIRST_COMPLETED).done:
                        free.append(busy.pop(done))
                        self._take(done.result())
                    now = time.monotonic()
                    if now >= tell_at:
                        tell_at = now + TICK_S
                        tell(now)
                    if stopped is not None and stopped():
                        self._stop.set()
            finally:
                self._stop.set()
        for done in busy:
            self._take(done.result())

    def _take(self, batch: list[Seen]) -> None:
        for seen in batch:
            self._counts[seen.state] += 1
            if seen.state == DAMAGED and len(self._damaged) < NAMED:
                self._damaged.append((seen.path, seen.why))
            elif seen.state == MISSING and len(self._missing) < NAMED:
                self._missing.append(seen.path)
            self._notes.add(seen)

    def _moment(self, size: int, done: int, now: float) -> Progress:
        rate = self._meter.update(done, now)
        eta = max(0, size - done) / rate if rate else None
        return Progress(size=size, done=min(done, size), rate=rate, eta=eta, state="running")

    def _result(self, files: int, read: int, elapsed: float) -> SetVerifyResult:
        counts = self._counts
        return SetVerifyResult(
            path=self._dest,
            files=files,
            bytes=read,
            good=counts[GOOD],
            unproven=counts[UNPROVEN],
            damaged=tuple(sorted(self._damaged)),
            damaged_count=counts[DAMAGED],
            missing=tuple(sorted(self._missing)),
            missing_count=counts[MISSING],
            marked=self._mark,
            interrupted=sum(counts.values()) < files,
            elapsed=elapsed,
        )


def _batches(ledger: Ledger) -> Iterator[Batch]:
    """Gives what is kept, some neighbours at a time."""
    batch: Batch = []
    size = 0
    for path, _, known in ledger.kept():
        batch.append((path, known))
        size += known.size
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Notes:
    """What the ledger is told, a thousand files at a time."""

    def __init__(self, ledger: Ledger, mark: bool) -> None:
        self._ledger = ledger
        self._mark = mark
        self._bad: list[str] = []
        self._right: list[tuple[str, Known]] = []

    def add(self, seen: Seen) -> None:
        """Takes a file."""
        if seen.state in (DAMAGED, MISSING):
            if self._mark:
                self._bad.append(seen.path)
        else:
            now = self._now(seen)
            if now != seen.known:
                self._right.append((seen.path, now))
        if max(len(self._bad), len(self._right)) >= ROWS:
            self.write()

    def write(self) -> None:
        """Writes down what was taken."""
        if self._bad:
            self._ledger.doubt(self._bad)
        if self._right:
            self._ledger.correct(self._right)
        self._bad, self._right = [], []

    def _now(self, seen: Seen) -> Known:
        now = seen.known
        trusted = now.mtime_ns == seen.mtime_ns and not now.doubted
        if self._mark and seen.state == GOOD and not trusted:
            now = replace(now, mtime_ns=seen.mtime_ns, doubted=False)
        if seen.sha256 is not None:
            now = replace(now, checksums=(*now.checksums, ("sha256", seen.sha256)))
        return now


class _Stopped(Exception):
    """It was told to stop within a file."""


class _Reader:
    """Reads files, for one thread at a time. `read` counts the bytes, `passed` those of files that need not
    be read as well; both for any thread.
    """

    def __init__(self, dest: str, stop: threading.Event) -> None:
        self._here = Here(dest)
        self._stop = stop
        self._buffer = memoryview(bytearray(BLOCK))
        self.read = 0
        self.passed = 0

    def look(self, batch: Batch, sha256: bool) -> list[Seen]:
        """Returns what the files of a batch are; fewer of them when it was stopped."""
        found = []
        try:
            for path, known in batch:
                end = self.passed + known.size
                found.append(self._look(path, known, sha256))
                self.passed = end
        except _Stopped:
            pass
        return found

    def _look(self, path: str, known: Known, sha256: bool) -> Seen:
        if self._stop.is_set():
            raise _Stopped
        try:
            folder, name = self._here.reach(path)
            fd = folder.open_file(name, os.O_RDONLY)
        except StorageError as error:
            if error.errno in _OURS:
                raise
            if error.errno == errno.ENOENT:
                return Seen(path, known, MISSING)
            return Seen(path, known, DAMAGED, error.message)
        except FileNotFoundError:
            return Seen(path, known, MISSING)
        except OSError as error:
            return Seen(path, known, DAMAGED, _unreadable(path, error))
        except ValueError:
            return Seen(path, known, DAMAGED, "it is no path below the destination")
        try:
            return self._judge(fd, path, known, sha256)
        except OSError as error:
            return Seen(path, known, DAMAGED, _unreadable(path, error))
        finally:
            os.close(fd)

    def _judge(self, fd: int, path: str, known: Known, sha256: bool) -> Seen:
        there = os.fstat(fd)
        if there.st_size != known.size:
            return Seen(path, known, DAMAGED, f"it has {there.st_size} bytes, not {known.size}")
        checksums = dict(known.checksums)
        against = next((name for name in ALGORITHMS if name in checksums), None)
        names = [] if against is None else [against]
        if sha256 and "sha256" not in checksums:
            names.append("sha256")
        digests = self._digests(fd, known.size, names)
        if against is not None and digests[against] != checksums[against].lower():
            now = os.fstat(fd)
            if (now.st_size, now.st_mtime_ns) != (there.st_size, there.st_mtime_ns):
                return Seen(path, known, DAMAGED, "it was changed while it was read")
            why = f"its {against} is {digests[against]}, not {checksums[against]}"
            return Seen(path, known, DAMAGED, why)
        state = UNPROVEN if against is None else GOOD
        new = digests["sha256"] if "sha256" not in checksums and sha256 else None
        return Seen(path, known, state, "", there.st_mtime_ns, new)

    def _digests(self, fd: int, size: int, names: list[str]) -> dict[str, str]:
        """Returns digests of the first `size` bytes of a file. Raises OSError."""
        hashers: dict[str, Hasher] = {name: make_hasher(name) for name in names}
        at = left_at = 0
        if size > BLOCK:
            _advise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while hashers and at < size:
            count = os.preadv(fd, [self._buffer], at)
            if not count:
                break
            for hasher in hashers.values():
                hasher.update(self._buffer[:count])
            at += count
            self.read += count
            self.passed += count
            if at - left_at >= CACHED_BYTES:
                _advise(fd, left_at, at - left_at, os.POSIX_FADV_DONTNEED)
                left_at = at
            if self._stop.is_set() and at < size:
                raise _Stopped
        if at > left_at:
            _advise(fd, left_at, 0, os.POSIX_FADV_DONTNEED)
        return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def _advise(fd: int, start: int, length: int, advice: int) -> None:
    with suppress(OSError):  # it is no more than advice
        os.posix_fadvise(fd, start, length, advice)


def _unreadable(path: str, error: OSError) -> str:
    if error.errno in _OURS:
        raise storage_error(f"read {path}", error) from error
    return f"it cannot be read: {error.strerror}"
