"""What a worker does: units of a run as plain values, and the functions that run one.

A unit knows all it needs, and does no harm when it is run twice, even at once: small objects come by a
rename each, a range of a large one is written where its bytes belong, and each answer is held against what
the object is to be. What comes of a unit is a value too. Neither shows anything of URLs and options when it
is printed: what runs units logs what it was given.

A unit never has more than `connections` requests out. Where units run on workers of Dask, as many leases of
its host are taken first, from one semaphore of the cluster, which has as many as the host may be asked at
once; the leases of a worker that died come free by themselves.
"""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastxfer._native.checksum import crc64nvme_combine
from fastxfer._native.memory import PartBuffer
from fastxfer.dataset.compare import Known
from fastxfer.dataset.entries import OWN_FOLDER
from fastxfer.dataset.folder import Folder
from fastxfer.dataset.planning import Task
from fastxfer.errors import FastxferError, InterruptedTransferError, StorageError, storage_error
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity
from fastxfer.ranged_source import RangedSource, SourceChangedError
from fastxfer.sources.http import origin
from fastxfer.sources.schemes import is_location
from fastxfer.storage.directory import Directory
from fastxfer.storage.shared_file import SharedFile

RANGES = "ranges"
"""The folder of files in the making, in that of the ledger."""
PIECE_BYTES = 8 << 20
LEASE_WAIT_S = 2.0
WATCH_S = 1.0
LEASE_DEADLINE_S = 900.0

_semaphores: dict[tuple[str, str], Any] = {}


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """Where a run goes to: the folder `root`, which has a `mark` in it of this very run while that goes on: a
    worker may have another folder under the same path, and may be left behind by a run that was stopped or
    killed. `given` are keywords of `fetch`.
    """

    root: str
    mark: str
    given: Mapping[str, Any]

    def check(self) -> None:
        """Raises StorageError where the folder is not the one that the run goes to."""
        if not self._has_mark():
            raise StorageError(
                f"{self.root} is another folder here than where the run was started: all workers have to see "
                "the destination under its path, on a file system that they share"
            )

    def _has_mark(self) -> bool:
        return _below(self.root, OWN_FOLDER).has(self.mark)

    @contextmanager
    def watched(self, stop: Callable[[], object]) -> Iterator[None]:
        """Calls `stop` when the run is over before its unit is."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH_S):
                try:
                    gone = not self._has_mark()
                except FastxferError:
                    gone = True
                if gone:
                    stop()
                    return

        watcher = threading.Thread(target=watch, name="fastxfer-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


@dataclass(frozen=True, slots=True, repr=False)
class Unit(ABC):
    """`host` is that of its first URL, which may be asked for `cap` at once by all; `connections` is its part
    of that.
    """

    place: Place
    host: str
    cap: int
    connections: int

    @abstractmethod
    def run(self, connections: int) -> Any:
        """Returns what came of it. Raises FastxferError."""


@dataclass(frozen=True, slots=True, repr=False)
class Failed:
    """A unit that could not be run: `where` names the worker. `lost`: it was stopped, and may be run anew."""

    error: FastxferError
    where: str = ""
    lost: bool = False


def host_of(url: str, endpoint: str | None) -> str:
    """Returns the name of a URL's host among units, from which the host cannot be read. All that is in the
    stores of one endpoint counts as one host.
    """
    at = (url.partition(":")[0], endpoint) if is_location(url) else origin(url)
    return hashlib.blake2b(repr(at).encode(), digest_size=12).hexdigest()


# ---- small objects, and large ones as they are ----


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What came of a task, as in Came; `number` is its place in the unit."""

    number: int
    known: Known | None
    error: FastxferError | None
    size: int
    skipped: bool
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Batch(Unit):
    """Tasks, each done as a run on one machine would."""

    tasks: tuple[Task, ...]

    def run(self, connections: int) -> tuple[list[Outcome], int]:
        """See Unit. Returns the outcomes, all safe against a power cut where that was asked for, and how many
        requests were sent.
        """
        folder = Folder(self.place.root, {**self.place.given, "connections": connections}, 0)
        folder.prepare()
        numbers = {task.entry.path: number for number, task in enumerate(self.tasks)}
        try:
            with self.place.watched(folder.stop):
                came = list(folder.fetch(iter(self.tasks), _nothing))
        finally:
            folder.close()
        outcomes = [
            Outcome(numbers[each.entry.path], each.known, each.error, each.size, each.skipped, each.seconds)
            for each in came
        ]
        return outcomes, folder.requests


def _nothing() -> None:
    """All is synced when the unit is over."""


# ---- ranges of a large object ----


@dataclass(frozen=True, slots=True, repr=False)
class Looked:
    """What the server tells of an object. Without `ranges` it cannot be fetched by ranges, or nothing would
    tell whether they are of one object.
    """

    identity: Identity
    ranges: bool
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class Look(Unit):
    """Asks what an object is."""

    url: str

    def run(self, connections: int) -> tuple[Looked, int]:
        """See Unit."""
        source = RangedSource(self.url, TransferOptions.build(**self.place.given), threading.Event())
        try:
            look = source.look()
        finally:
            source.close()
        identity = look.identity
        proven = identity.strong_etag is not None or identity.last_modified is not None
        return Looked(identity, look.ranges and proven, look.checksums), source.requests


@dataclass(frozen=True, slots=True, repr=False)
class Stretch(Unit):
    """Fetches the range `span` of an object to where it belongs in the file `name` of those in the making."""

    url: str
    name: str
    span: Span
    identity: Identity

    def run(self, connections: int) -> tuple[int | None, int]:
        """See Unit. Returns the CRC-64/NVME of the range, None where the object is another one by now, and
        how many requests were sent.
        """
        options = TransferOptions.build(**self.place.given)
        start, stop = self.span
        pieces = [(at, min(at + PIECE_BYTES, stop)) for at in range(start, stop, PIECE_BYTES)]
        file = SharedFile(_below(self.place.root, OWN_FOLDER, RANGES), self.name)
        try:
            work = _Reading(self, file, options, pieces)
            with self.place.watched(work.stop):
                crcs = work.read(min(connections, len(pieces)))
            if crcs is not None and options.durability != "none":
                file.sync()
        finally:
            file.close()
        if crcs is None:
            return None, work.requests
        crc = 0
        for (at, end), each in zip(pieces, crcs, strict=True):
            crc = crc64nvme_combine(crc, each, end - at)
        return crc, work.requests


class _Reading:
    """The pieces of a range, each by one request, several at once."""

    def __init__(self, unit: Stretch, file: SharedFile, options: TransferOptions, pieces: list[Span]) -> None:
        self.requests = 0
        self._unit, self._file, self._options, self._pieces = unit, file, options, pieces
        self._stop = threading.Event()
        self._next = iter(enumerate(pieces))
        self._lock = threading.Lock()
        self._crcs = [0] * len(pieces)

    def read(self, at_once: int) -> list[int] | None:
        """Returns their CRCs, None where the object has changed. Raises FastxferError."""
        errors: list[FastxferError] = []
        with ThreadPoolExecutor(at_once, thread_name_prefix="fastxfer-range") as pool:
            ends = [pool.submit(partial(self._read_some, errors)) for _ in range(at_once)]
        for each in ends:
            each.result()
        if any(isinstance(error, SourceChangedError) for error in errors):
            return None
        for error in errors:
            raise error
        if self._stop.is_set():
            raise InterruptedTransferError("the run was stopped")
        return self._crcs

    def stop(self) -> None:
        """Any thread. Has `read` raise InterruptedTransferError soon."""
        self._stop.set()

    def _read_some(self, errors: list[FastxferError]) -> None:
        try:
            source = RangedSource(self._unit.url, self._options, self._stop)
            source.expect(self._unit.identity)
            try:
                self._read_with(source)
            finally:
                source.close()
                with self._lock:
                    self.requests += source.requests
        except FastxferError as error:
            with self._lock:
                errors.append(error)
            self._stop.set()

    def _read_with(self, source: RangedSource) -> None:
        buffer = PartBuffer(PIECE_BYTES)
        while not self._stop.is_set():
            with self._lock:
                number, span = next(self._next, (-1, (0, 0)))
            if number < 0:
                return
            source.read(span, buffer)
            self._file.write(span[0], memoryview(buffer)[: buffer.filled])
            self._crcs[number] = buffer.crc


@dataclass(frozen=True, slots=True, repr=False)
class ReadBack(Unit):
    """Reads a file in the making, for its digests."""

    name: str
    algorithms: tuple[str, ...]

    def run(self, connections: int) -> tuple[dict[str, str], int]:
        """See Unit."""
        file = SharedFile(_below(self.place.root, OWN_FOLDER, RANGES), self.name)
        try:
            return file.digests(self.algorithms), 0
        finally:
            file.close()


def _below(root: str, *folders: str) -> Directory:
    """Returns a folder below a root. Raises StorageError."""
    try:
        top = Directory.open(Path(root))
    except OSError as error:
        raise storage_error(f"open the directory {root}", error) from error
    return top.walk(folders)


# ---- running one ----


def run(unit: Unit, where: str = "", connections: int | None = None) -> Any:
    """Returns what came of a unit, or Failed. It never raises an Exception: what runs it would print it with
    all that it was given.
    """
    try:
        unit.place.check()
        return unit.run(unit.connections if connections is None else connections)
    except InterruptedTransferError as error:
        return Failed(error, where, lost=True)
    except FastxferError as error:
        return Failed(error, where)
    except Exception as error:  # noqa: BLE001 - told to who waits
        return Failed(FastxferError(f"internal error: {type(error).__name__}: {error}"), where)


def run_leased(unit: Unit) -> Any:
    """Runs a unit on a worker of Dask, once it has leases of its host."""
    from distributed import get_worker

    address = str(get_worker().address)
    try:
        with _leases(unit, address) as leases:
            return run(unit, address, leases)
    except InterruptedTransferError as error:
        return Failed(error, address, lost=True)


@contextmanager
def _leases(unit: Unit, address: str) -> Iterator[int]:
    """Gives how many leases there are: at least one, for which it waits, at most what the unit asks for."""
    semaphore = _semaphore(unit, address)
    taken = 0
    deadline = time.monotonic() + LEASE_DEADLINE_S
    try:
        # A waiting call outlives its worker at the scheduler: it is kept short.
        while not semaphore.acquire(timeout=LEASE_WAIT_S):
            if time.monotonic() > deadline:
                raise InterruptedTransferError("its host was asked by others all the time")
        taken = 1
        while taken < unit.connections and semaphore.acquire(timeout=0):
            taken += 1
        yield taken
    finally:
        for _ in range(taken):
            semaphore.release()


def _semaphore(unit: Unit, address: str) -> Any:
    """Returns a worker's own end of the semaphore of a host."""
    from distributed import Semaphore

    name = f"fastxfer-{unit.host}-{unit.cap}"
    if (address, name) not in _semaphores:
        _semaphores[address, name] = Semaphore(max_leases=unit.cap, name=name)
    return _semaphores[address, name]
