"""Many small objects, from their URLs to their files.

Three threads share the work. The caller's pulls what is wanted, checks it, and gets the outcomes; the
engine's fetches bodies into memory (small/fetching.py); a disk thread holds them against their checksums and
writes them (storage/whole_files.py), a batch in one call. No more than AHEAD objects are on their way, so
that a million of them need the memory of a thousand.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from fastxfer.description import Description
from fastxfer.download import Download
from fastxfer.engine.loop import before_exit
from fastxfer.errors import (
    ChecksumError,
    DiskFullError,
    FastxferError,
    InterruptedTransferError,
    PausedError,
    StorageError,
    storage_error,
)
from fastxfer.options import TransferOptions
from fastxfer.small.fetching import Fetching
from fastxfer.small.items import Fetched, Item, Missed, Outcome, Wanted, internal_error
from fastxfer.sources.opening import Sources
from fastxfer.storage.digest import make_hasher
from fastxfer.storage.directory import Directory
from fastxfer.storage.disk import DiskThread
from fastxfer.storage.paths import Below
from fastxfer.storage.whole_files import NOTHING, WholeFiles

SMALL_BYTES = 1 << 20
"""What is larger goes the way of an ordinary download: by ranges, resumable."""
AHEAD = 1024
BATCH = 64
HAND_OVER = 48
LINGER_S = 0.005
PULL = 64
SYNC_S = 5.0
SYNC_OBJECTS = 10_000
LARGE_AT_ONCE = 2

_FATAL = {errno.EIO, errno.EROFS}
_Told = tuple[int, list[Outcome]]  # so many are not on their way any more; these may be told
_SYNCED: _Told = (0, [])


class SmallObjects:
    """Fetches many objects below the directory `root`, which is there, each by one GET and one rename.

    `fetch` gives what became of each, in the order in which it is known; what fails does not stop the others.
    `options` are those of any transfer; `connections` of them are used at once. `refresh`, `chunk_size`,
    `resume`, `keep_ledger` and `sink` say nothing of a small object, and `checksum` and `mirrors` come with
    each.

    An object that has or turns out to have more than `small_bytes` is fetched as `fastxfer.fetch` would.

    `durability`: with "none" an object is told as soon as it is in place, which a kill does not take away.
    With "periodic" it is told when a power cut does not either: every five seconds, or 10,000 objects, all of
    a group are synced together; with "chunk" after each batch of up to 64. What is not told yet is fetched
    again after a power cut, whatever stands there.

    What is not small is fetched `large_at_once` at a time, beside the small ones (as are, `connections` at a
    time, small ones with options of their own, which need a download of their own); with 0 one at a time, and
    only when no small one is on its way any more: then there are never more than `connections` requests.

    With `synced` an object is told as soon as it is in place all the same, and `synced` is called, between
    two outcomes, when no power cut can take what was told before.

    A full or failing disk ends it all: `fetch` then raises the error. Two names that are one on this file
    system are for the caller to find (`names.check_collisions`).
    """

    def __init__(
        self,
        root: str | Path,
        options: TransferOptions | None = None,
        *,
        small_bytes: int = SMALL_BYTES,
        synced: Callable[[], object] | None = None,
        large_at_once: int = LARGE_AT_ONCE,
    ) -> None:
        self.options = options or TransferOptions()
        self._sources = Sources(self.options)
        self._root = Path(root)
        self._small_bytes = small_bytes
        self._synced = synced
        self._told: SimpleQueue[_Told | FastxferError] = SimpleQueue()
        self._fetching = Fetching(
            self.options,
            small_bytes,
            came=self._came,
            failed=self._failed,
            large=self._divert,
        )
        self._disk: DiskThread | None = None
        self._files: WholeFiles | None = None
        self._bodies: deque[Item] = deque()
        self._storing = False
        self._lingers = False
        self._lock = threading.Lock()
        self._unsynced: list[Item] = []
        self._synced_at = 0.0
        self._beside = large_at_once > 0
        self._large_line = _Line(large_at_once)
        self._small_line = _Line(self.options.connections)
        self._large: dict[Download, tuple[Item, float]] = {}
        self._stopping = False
        self._ended = threading.Event()
        self._pid = os.getpid()

    @property
    def requests(self) -> int:
        """How many requests were sent for small objects."""
        return self._fetching.requests

    @property
    def idle(self) -> bool:
        """Whether no outcome is known that `fetch` has not given."""
        return self._told.empty()

    def moving(self) -> list[tuple[str, float, int]]:
        """Any thread. Returns the objects that are under way: name, seconds since its request, bytes that
        came. Of small ones at most some, those that wait longest.
        """
        with self._lock:
            large = list(self._large.items())
        now = time.monotonic()
        downloads = [
            (item.wanted.name, now - began, download.progress.transferred)
            for download, (item, began) in large
        ]
        return sorted([*downloads, *self._fetching.moving(now)], key=lambda each: -each[1])

    # ---- the caller's thread ----

    def fetch(self, wanted: Iterable[Wanted]) -> Generator[Outcome, None, None]:
        """Gives the outcome of each object. Nothing more is fetched once the iterator is closed; objects that
        were on their way are then there or not there.

        Raises StorageError when the root cannot be used or the disk fails, InterruptedTransferError when it
        was stopped; both once it has given what came until then.
        """
        if self._disk is not None:
            raise ValueError("a SmallObjects fetches once")
        self._begin()
        source, more, ahead = iter(wanted), True, 0
        try:
            while more or ahead:
                if more and ahead <= AHEAD // 2:
                    taken, more, outcomes = self._take(source, AHEAD - ahead)
                    ahead += taken
                    yield from outcomes
                    continue
                last = self._large_line
                if not more and not last.most and ahead == len(last.items):
                    last.most = 1
                    self._start(last)
                told = self._next()
                ahead -= told[0]
                yield from told[1]
            yield from self._rest()
        except FastxferError:
            yield from self._came_last()
            raise
        finally:
            self._end()

    def _begin(self) -> None:
        try:
            root = Directory.open(self._root)
        except OSError as error:
            raise storage_error(f"open the directory {self._root}", error) from error
        options = self.options
        self._files = WholeFiles(
            root,
            exists=options.exists,
            durable=options.durability != "none",
            ignore_etag=options.ignore_etag,
        )
        _running.add(self)
        self._pid = os.getpid()
        self._disk = DiskThread("fastxfer-small-disk")
        self._synced_at = time.monotonic()
        if options.durability == "periodic":
            self._disk.every(SYNC_S / 10, self._sync_if_due)

    def _take(self, source: Iterator[Wanted], room: int) -> tuple[int, bool, list[Outcome]]:
        """Pulls up to `room` objects; returns how many are on their way now, whether there may be more, and
        the outcomes of those that need not be fetched or cannot be.
        """
        items: list[Item] = []
        outcomes: list[Outcome] = []
        large = 0
        more, skips = True, self.options.exists == "skip"
        for _ in range(min(room, PULL)):
            wanted = next(source, None)
            if wanted is None:
                more = False
                break
            try:
                item = Item(wanted, self._sources)
                done = self._is_there(item) if skips else None
            except FastxferError as error:
                outcomes.append(Missed(wanted, error))
                continue
            if done is not None:
                outcomes.append(done)
            elif item.apart or (wanted.size is not None and wanted.size > self._small_bytes):
                large += 1
                self._divert(item)
            else:
                items.append(item)
        if items:
            self._fetching.add(items)
        return len(items) + large, more, outcomes

    def _is_there(self, item: Item) -> Fetched | None:
        """Returns the outcome where what is there is not to be touched."""
        assert self._files is not None
        size = self._files.size_of(item.folders, item.name)
        return None if size is None else Fetched(item.wanted, size, skipped=True)

    def _rest(self) -> Iterator[Outcome]:
        """Gives the outcomes of what waited for a sync, when nothing else is on its way."""
        assert self._disk is not None
        self._disk.submit(self._sync)
        self._disk.submit(lambda: self._told.put((-1, [])))
        while (told := self._next())[0] >= 0:
            yield from told[1]

    def _came_last(self) -> Iterator[Outcome]:
        """Gives, when it ends early, what was in place already or was just being written."""
        self._end()
        self._ended.wait()
        while not self._told.empty():
            told = self._told.get()
            for outcome in () if isinstance(told, FastxferError) else told[1]:
                if isinstance(outcome, Fetched) or not isinstance(outcome.error, InterruptedTransferError):
                    yield outcome

    def _next(self) -> _Told:
        """Waits for the next that is told. Raises what ended it all."""
        told = self._told.get()
        if isinstance(told, FastxferError):
            raise told
        if told is _SYNCED and self._synced is not None:
            self._synced()
        return told

    def stop(self) -> None:
        """Any thread. Ends it all, and returns when it is over; `fetch` then raises
        InterruptedTransferError.
        """
        self._told.put(InterruptedTransferError("the transfer was stopped; run it again to go on"))
        self._end()

    def _end(self) -> None:
        if os.getpid() != self._pid or self._disk is None:  # what was forked has none of the threads
            return
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        over = threading.Event()
        self._fetching.stop(over.set)
        over.wait()
        with self._lock:
            large = list(self._large)
        for download in large:
            download.cancel()
            download.over.wait()
        assert self._files is not None
        self._disk.submit(self._sync)
        self._disk.submit(self._files.close)
        self._disk.stop(join=True)
        _running.discard(self)
        self._ended.set()

    # ---- the engine's thread ----

    def _came(self, item: Item) -> None:
        self._bodies.append(item)
        if len(self._bodies) >= HAND_OVER:
            self._hand_over()
        elif not self._lingers:
            # Each hand-over wakes a thread, which costs as much as fetching an object does.
            self._lingers = True
            self._fetching.later(LINGER_S, self._hand_over)

    def _hand_over(self) -> None:
        self._lingers = False
        with self._lock:
            if self._storing:
                return
            self._storing = True
        assert self._disk is not None
        self._disk.submit(self._store)

    def _failed(self, item: Item, error: FastxferError) -> None:
        self._told.put((1, [Missed(item.wanted, error)]))

    # ---- the disk thread ----

    def _store(self) -> None:
        """Writes what has come, in batches, until there is no more."""
        while True:
            batch: list[Item] = []
            while self._bodies and len(batch) < BATCH:
                batch.append(self._bodies.popleft())
            if not batch:
                with self._lock:
                    if self._bodies:
                        continue
                    self._storing = False
                return
            count = sum([len(item.body) for item in batch])
            try:
                self._store_batch(batch)
            except Exception as error:  # noqa: BLE001 - told to who waits
                self._told.put(internal_error(error))
            self._fetching.stored(len(batch), count)
            self._sync_if_due()

    def _store_batch(self, batch: list[Item]) -> None:
        assert self._files is not None
        ready = [item for item in batch if not (item.checksum or item.vouched) or self._holds(item)]
        self._files.store(ready)
        outcomes: list[Outcome] = []
        stored: list[Item] = []
        for item in ready:
            item.body = NOTHING
            if item.error is None:
                stored.append(item)
            else:
                outcomes.append(self._missed(item, item.error))
        durable = self.options.durability != "none"
        if durable:
            self._unsynced += stored
        if not durable or self._synced is not None:
            outcomes += map(_outcome_of, stored)
        self._told.put((len(ready), outcomes))

    def _holds(self, item: Item) -> bool:
        """Returns whether a body has its checksum; where not, it is asked for elsewhere."""
        for algorithm, expected in item.checksum or item.vouched:
            hasher = make_hasher(algorithm)
            hasher.update(item.body)
            actual = hasher.hexdigest()
            if actual != expected:
                error = ChecksumError(
                    f"the {algorithm} of {item.source.display} is {actual}, not {expected}: "
                    "the server has other bytes, or they were changed on the way",
                    algorithm=algorithm,
                    expected=expected,
                    actual=actual,
                )
                self._fetching.refused(item, error)
                return False
        return True

    def _missed(self, item: Item, error: FastxferError) -> Missed:
        if isinstance(error, DiskFullError) or (isinstance(error, StorageError) and error.errno in _FATAL):
            self._told.put(error)
        return Missed(item.wanted, error)

    def _sync_if_due(self) -> None:
        if not self._unsynced:
            self._synced_at = time.monotonic()
            return
        due = time.monotonic() - self._synced_at >= SYNC_S or len(self._unsynced) >= SYNC_OBJECTS
        if due or self.options.durability == "chunk":
            self._sync()

    def _sync(self) -> None:
        """Has all that is in place be durable, and tells it."""
        if self._unsynced:
            assert self._files is not None
            group, self._unsynced = self._unsynced, []
            self._files.sync(group)
            if self._synced is None:
                self._told.put((0, [_outcome_of(each) for each in group]))
            failure = next((item.error for item in group if item.error is not None), None)
            if failure is not None:
                self._told.put(failure)
            elif self._synced is not None:
                self._told.put(_SYNCED)
        self._synced_at = time.monotonic()

    # ---- what is not small ----

    def _divert(self, item: Item) -> None:
        """Any thread. Has an ordinary download fetch an object, when there is room for one."""
        line = self._small_line if self._beside and self._is_small(item.wanted) else self._large_line
        with self._lock:
            line.items.append(item)
            waits = line.running >= line.most
        if not line.most:
            self._told.put((0, []))  # who waits is to look whether it was the last small one
        elif not waits:
            self._start(line)

    def _is_small(self, wanted: Wanted) -> bool:
        return wanted.size is not None and wanted.size <= self._small_bytes

    def _start(self, line: _Line) -> None:
        threading.Thread(
            target=self._fetch_diverted, args=(line,), name="fastxfer-large", daemon=True
        ).start()

    def _fetch_diverted(self, line: _Line) -> None:
        """On a thread of its own."""
        while True:
            with self._lock:
                if not line.items or line.running >= line.most or self._stopping:
                    return
                item = line.items.popleft()
                line.running += 1
            try:
                outcome = self._download(item)
            except FastxferError as error:
                outcome = Missed(item.wanted, error)
            except Exception as error:  # noqa: BLE001 - told to who waits
                outcome = Missed(item.wanted, internal_error(error))
            with self._lock:
                line.running -= 1
            self._told.put((1, [outcome]))

    def _download(self, item: Item) -> Outcome:
        wanted = item.wanted
        options = replace(wanted.options or self.options, checksum=item.checksum, mirrors=wanted.mirrors)
        if wanted.always:
            options = replace(options, exists="replace")
        if self._is_small(wanted):
            options = replace(options, connections=1)
        download = Download(
            wanted.url, Below(str(self._root), wanted.name), options, Description(wanted.size)
        )
        with self._lock:
            if self._stopping:
                raise InterruptedTransferError("the transfer was stopped; run it again to go on")
            self._large[download] = (item, time.monotonic())
        try:
            download.begin()
            download.halted.wait()
            if not download.over.is_set():
                download.cancel()
                download.over.wait()
                raise PausedError(f"{download.target.part} was paused by its user")
        finally:
            with self._lock:
                self._large.pop(download, None)
        if download.error is not None:
            return Missed(wanted, download.error)
        result = download.result
        assert result is not None
        crc = result.checksums.get("crc64nvme")
        return Fetched(
            wanted,
            result.size,
            result.etag,
            result.last_modified,
            int(crc, 16) if crc is not None else None,
            result.verified,
            result.skipped,
            result.elapsed,
        )


class _Line:
    """Objects that wait for a download of their own: `running` of `most` at once."""

    def __init__(self, most: int) -> None:
        self.items: deque[Item] = deque()
        self.running = 0
        self.most = most


def _outcome_of(stored: Item) -> Outcome:
    if stored.error is not None:
        return Missed(stored.wanted, stored.error)
    size, etag, modified = stored.told
    verified = "checksum" if stored.checksum else "server" if stored.vouched else "none"
    each = (stored.wanted, size or 0, etag, modified, stored.crc64, verified, stored.skipped, stored.seconds)
    return tuple.__new__(Fetched, each)  # as Fetched(*each), for half its time


_running: weakref.WeakSet[SmallObjects] = weakref.WeakSet()


def _stop_all() -> None:
    for small in list(_running):
        small.stop()


before_exit(_stop_all)
