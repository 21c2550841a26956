"""A prefix of an object store as the destination of a set: each object is copied to it through the relay
(copy_run.py), several at once, and none of it touches the disk.

What is there is told by the ledger, which is kept in a folder of this machine, and by one listing of the
prefix. In the place of a file's time stands a stamp made of the object's ETag, so that an object that
somebody else has put there since is seen as another one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastxfer.copy_checks import Expected
from fastxfer.copy_options import OF_SOURCE, SHARED, STORE, CopyOptions
from fastxfer.copy_run import Copy
from fastxfer.dataset.compare import TOLD, Known, Local, Verdict
from fastxfer.dataset.entries import OWN_FOLDER, Entry, options_of
from fastxfer.dataset.ledger import Place
from fastxfer.dataset.planning import Task
from fastxfer.dataset.results import Came
from fastxfer.dataset.standing import Standing, stamp_of
from fastxfer.dataset.store_listing import StoreLister
from fastxfer.errors import (
    DiskFullError,
    FastxferError,
    InterruptedTransferError,
    OptionError,
    RemoteChangedError,
    StorageError,
    TargetBusyError,
)
from fastxfer.options import TransferOptions
from fastxfer.plan.parts import DEFAULT_PART, unquoted
from fastxfer.put_results import CopyResult
from fastxfer.sources.http import origin
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.opening import Sources
from fastxfer.sources.schemes import is_http, is_location
from fastxfer.sources.store_access import StoreAccess
from fastxfer.store_calls import Ask, StoreCalls
from fastxfer.upload_store import UploadStore, is_md5

AT_ONCE = 8
"""Copies at once, when nothing else is said."""
AHEAD = 2
"""So many times as many are taken from the ledger ahead of their turn."""
WAIT_S = 1.0
_LISTED = "there.db"
_HASH_DIGITS = 32
_OF_AN_ENTRY = SHARED - {*STORE, "checksum", "on_change"}
"""What an entry of a manifest may say of its own copy."""


class StorePrefix:
    """A Destination: what is below `dest`, the URL of a prefix. `given` are keywords of `copy` about the
    network and the store, `copies` those that only a copy has; `state` has a folder for each destination.

    Raises OptionError, and CredentialsError for half of the credentials in the environment.
    """

    def __init__(
        self,
        dest: str,
        given: Mapping[str, Any],
        copies: Mapping[str, Any],
        state: Path,
        *,
        jobs: int | None = None,
        connections: int = AT_ONCE,
    ) -> None:
        self._prefix = folder_of(dest)
        self._given, self._jobs = given, jobs or AT_ONCE
        self._options = TransferOptions.build(**given)
        self._sources = Sources(self._options)
        self._listing = {name: value for name, value in given.items() if name not in OF_SOURCE}
        asking = TransferOptions.build(**self._listing)
        self._access = StoreAccess.of(self._prefix, asking)
        self.name = str(self._prefix)
        endpoint = self._access.store.endpoint
        digits = sha256(f"{self.name} at {endpoint}".encode()).hexdigest()
        self.folder = state / digits[:_HASH_DIGITS]
        self._own = self._shared_by(copies, connections)
        self._stopped = threading.Event()
        self._calls = StoreCalls(self._access, asking, self._stopped)
        self._standing: Standing | None = None
        self._complete = False
        self._came: queue.SimpleQueue[Came] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._moving: dict[str, tuple[Copy, float]] = {}
        self._requests = 0

    def overlaps(self, prefix: Location, access: StoreAccess) -> bool:
        """Returns whether another prefix, at a way to it, is the same, or one of the two is in the other."""
        mine = self._prefix
        same = (mine.scheme, mine.bucket) == (prefix.scheme, prefix.bucket)
        within = mine.key.startswith(prefix.key) or prefix.key.startswith(mine.key)
        return same and within and access.store.endpoint == self._access.store.endpoint

    def _shared_by(self, copies: Mapping[str, Any], connections: int) -> CopyOptions:
        """Returns the options of one of the copies: what is for all of them is shared out."""
        own = CopyOptions.build(**copies)
        memory = own.memory
        if "memory" not in copies:
            memory = max(memory, self._jobs * (own.part_size or DEFAULT_PART))
        each = memory // self._jobs
        if each < (own.part_size or DEFAULT_PART):
            raise OptionError(
                f"option memory: {self._jobs} copies at once with a part each take more than {memory} bytes: "
                "give more, smaller parts, or fewer jobs"
            )
        return replace(
            own,
            memory=each,
            connections=max(1, connections // self._jobs),
            checkpoint_dir=str(self.folder / OWN_FOLDER / "copies"),
        )

    # ---- what is there ----

    def prepare(self) -> None:
        """See Destination. Raises where the bucket cannot be listed."""
        query = (("list-type", "2"), ("max-keys", "1"), ("prefix", self._prefix.key))
        self._calls.ask(Ask("GET", f"cannot list {self.name}", query=query, key=""))
        self._standing = Standing(self.folder / OWN_FOLDER / _LISTED)

    def look(self, path: str) -> Local | None:
        """See Destination. The first one lists the prefix."""
        assert self._standing is not None
        self._list_once(self._standing)
        found = self._standing.look(path)
        return None if found is None else found.local

    def _list_once(self, standing: Standing) -> None:
        if self._complete:
            return
        lister = StoreLister(self.name, self._listing, stopped=self._stopped)
        for page in lister.list(Place(0, self.name, 0, None)):
            standing.add(page.entries)
        self._complete = True

    def _is_there(self, entry: Entry) -> Known | None:
        """Returns what is known of an object that has the very MD5 that the source's store tells."""
        assert self._standing is not None
        found = self._standing.look(entry.path)
        etag = unquoted(entry.etag or "")
        if found is None or not is_location(entry.url) or not is_md5(etag):
            return None
        if (found.size, found.etag) != (entry.size, etag):
            return None
        return Known(found.size, stamp_of(found.etag), checksums=_proven_and_told(entry, {}))

    # ---- copying ----

    def fetch(self, tasks: Iterator[Task], synced: Callable[[], object]) -> Generator[Came, None, None]:
        """See Destination."""
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="fastxfer-copy")
        out, ended = 0, False
        try:
            while out or not ended:
                wait_s = WAIT_S
                if not ended and out < self._jobs * AHEAD:
                    ended = not self._begin_next(tasks, pool)
                    out, wait_s = out + (not ended), 0.0
                arrived = self._arrived(wait_s)
                out -= len(arrived)
                for came in arrived:
                    if not isinstance(came.error, InterruptedTransferError):
                        yield came
                if arrived:
                    synced()  # what a store has answered is safe: a kill has nothing of it copied twice
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stopped.is_set():
            raise InterruptedTransferError("the run was stopped; run it again to go on")

    def _begin_next(self, tasks: Iterator[Task], pool: ThreadPoolExecutor) -> bool:
        """Begins what comes next; returns whether there was anything. What is under way when the run is
        stopped is taken to its end before that is said.
        """
        try:
            self._check_stop()
            task = next(tasks, None)
        except InterruptedTransferError:
            self.stop()
            return False
        if task is None:
            return False
        known = self._is_there(task.entry) if task.finding.verdict is Verdict.UNSURE else None
        if known is not None:
            self._came.put(Came(task.entry, known, skipped=True))
        else:
            pool.submit(self._copy, task.entry)
        return True

    def _arrived(self, wait_s: float) -> list[Came]:
        """Returns what has come, after so long if there is nothing yet. Raises what ends it all."""
        found: list[Came] = []
        with suppress(queue.Empty):
            if wait_s:
                found.append(self._came.get(timeout=wait_s))
            while True:
                found.append(self._came.get_nowait())
        for came in found:
            if isinstance(came.error, DiskFullError):
                raise came.error
        return found

    # ---- on the threads of the pool ----

    def _copy(self, entry: Entry) -> None:
        began = time.monotonic()
        try:
            result = self._copied(entry)
            known = Known(
                result.size, stamp_of(result.etag), checksums=_proven_and_told(entry, result.checksums)
            )
            came = Came(entry, known, None, result.size, seconds=time.monotonic() - began)
        except FastxferError as error:
            came = Came(entry, error=error)
        except Exception as error:  # noqa: BLE001 - handed to the run's thread
            came = Came(entry, error=FastxferError(f"internal error: {type(error).__name__}: {error}"))
        self._came.put(came)

    def _copied(self, entry: Entry) -> CopyResult:
        """Copies an object, from its mirrors where its first URL fails. Raises FastxferError."""
        sources = [entry.url, *entry.mirrors]
        while True:
            source = sources.pop(0)
            known = entry if _same_origin(source, entry.url) else replace(entry, stranger=True)
            try:
                return self._copied_from(source, known)
            except (InterruptedTransferError, StorageError, TargetBusyError):
                raise
            except FastxferError:
                if not sources:
                    raise

    def _copied_from(self, source: str, entry: Entry) -> CopyResult:
        self._calls.prepare()
        key, options = self._prefix.key + entry.path, self._options_of(entry)
        copy = Copy(
            source,
            str(replace(self._prefix, key=key)),
            self._own,
            options,
            expected=Expected(entry.size, entry.checksums),
            access=self._access.at(key),
            sources=self._sources if options is self._options else None,
        )
        with self._lock:
            self._moving[entry.path] = copy, time.monotonic()
        try:
            self._check_stop()  # it may have come before the copy could be told
            result = copy.run()
        finally:
            with self._lock:
                del self._moving[entry.path]
        with self._lock:
            self._requests += result.requests
        if entry.size not in (None, result.size):
            raise RemoteChangedError(f"{source} is another object than was listed: {result.size} bytes")
        return result

    def _options_of(self, entry: Entry) -> TransferOptions:
        own = {name: value for name, value in entry.options.items() if name in _OF_AN_ENTRY}
        if not (own or entry.stranger):
            return self._options
        return TransferOptions.build(**options_of(replace(entry, options=own), self._given))

    # ---- any thread ----

    @property
    def idle(self) -> bool:
        """See Destination."""
        return self._came.empty()

    @property
    def requests(self) -> int:
        """See Destination."""
        return self._requests

    def moving(self) -> list[tuple[str, float, int]]:
        """See Destination."""
        now = time.monotonic()
        with self._lock:
            moving = list(self._moving.items())
        return [(path, now - began, copy.progress.transferred) for path, (copy, began) in moving]

    def stop(self) -> None:
        """See Destination."""
        self._stopped.set()
        with self._lock:
            for copy, _ in self._moving.values():
                copy.cancel()

    # ---- deleting, and the end ----

    def delete(self, path: str) -> None:
        """See Destination. The object must still be that which was listed."""
        assert self._standing is not None
        listed = self._standing.look(path)
        calls = StoreCalls(self._access.at(self._prefix.key + path), self._calls.options, self._stopped)
        try:
            found = UploadStore(calls, ()).head()
            if found is None:
                return
            if listed is None or stamp_of(found.etag) != listed.local.mtime_ns:
                raise RemoteChangedError(
                    f"{calls.access.location} was changed by somebody else meanwhile, and is left"
                )
            calls.ask(Ask("DELETE", f"cannot delete {calls.access.location}"))
        finally:
            calls.close()

    def close(self) -> None:
        """See Destination."""
        self._calls.close()
        if self._standing is not None:
            self._standing.close()


def folder_of(dest: str) -> Location:
    """Returns the prefix that a URL names, as that of a folder. Raises OptionError."""
    location = parse_location(dest.strip())
    ends = not location.key or location.key.endswith("/")
    return location if ends else replace(location, key=location.key + "/")


def _same_origin(url: str, first: str) -> bool:
    """Returns whether what is for one URL's server is for another's too."""
    if url == first:
        return True
    try:
        return is_http(url) and is_http(first) and origin(url) == origin(first)
    except ValueError:
        return False


def _proven_and_told(entry: Entry, proven: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns what is known of the bytes of a copy: what was made of them, and what the listing says of them
    that was not held against them.
    """
    told = [(TOLD + name, digest) for name, digest in entry.checksums if name not in proven]
    return (*proven.items(), *told)
