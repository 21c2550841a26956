"""Lists what a source has into the ledger: places one after the other, several at a time.

A `Lister` knows one kind of source. It lists one place at a time and gives pages of at most a thousand
entries, with the places that it found there. `walk` takes the places that wait in the ledger, lists some at
once on threads, and writes each page down on its own thread before the next one is asked for: what is in
memory is a few pages. So it is the ledger that knows how far a listing came, and a killed one goes on with
what waits there: a place whose pages have a cursor from that, another from its beginning.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, Protocol

from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Ledger, Page, Place
from fastxfer.errors import FastxferError, InterruptedTransferError
from fastxfer.inputs.entry import Fault

PLACES_AT_ONCE = 8
MAX_DEPTH = 64
"""Folders within folders."""
MAX_REPEATS = 2
"""So many folders above with the very same things in them make a folder a loop, a link to one above it."""
MAX_FAILED = 100
_LOOK_S = 0.1


class Lister(Protocol):
    """One source.

    `source` is what it is called in the ledger, without secrets; `root` names its first place; `terms` is
    what else must be the same for a listing to go on: of a manifest, which file it is.
    """

    source: str
    root: str
    terms: str

    def list(self, place: Place) -> Iterator[Page]:
        """Gives what is at a place, behind its cursor if it has one. Raises FastxferError. Called on several
        threads at once for different places.
        """
        ...


class _Event(NamedTuple):
    place: Place
    page: Page | None = None
    error: FastxferError | None = None


def walk(
    ledger: Ledger,
    lister: Lister,
    filters: Filters | None = None,
    *,
    stopped: threading.Event | None = None,
    max_age_s: float = 86400.0,
    ended_age_s: float = 0.0,
    told: Callable[[int], object] | None = None,
    whole: bool = False,
) -> bool:
    """Lists a source into the ledger, or goes on with a listing of it that is not finished, or not older than
    `ended_age_s`; returns whether it is complete. What could not be listed is in `ledger.failures()`; another
    call tries it again. `told` gets the number of entries that were found so far.

    Raises InterruptedTransferError when `stopped` is set, the error of the hundredth place that failed,
    and with `whole` that of the first place.
    """
    filters = filters or Filters()
    terms = json.dumps([lister.terms, filters.include, filters.exclude])
    ledger.begin_listing(lister.source, lister.root, terms, max_age_s=max_age_s, ended_age_s=ended_age_s)
    _Walk(ledger, lister, filters, stopped or threading.Event(), told, whole).run()
    return ledger.end_listing()


class _Walk:
    """One call of `walk`. The ledger is of the caller's thread alone."""

    def __init__(
        self,
        ledger: Ledger,
        lister: Lister,
        filters: Filters,
        stopped: threading.Event,
        told: Callable[[int], object] | None,
        whole: bool,
    ) -> None:
        self._ledger, self._lister, self._filters = ledger, lister, filters
        self._told, self._found = told, 0
        self._whole = whole
        self._stopped = stopped
        self._over = threading.Event()
        self._events: queue.Queue[_Event] = queue.Queue(maxsize=PLACES_AT_ONCE)
        self._running: set[int] = set()
        self._failed = 0

    def run(self) -> None:
        """Lists until nothing waits."""
        pool = ThreadPoolExecutor(PLACES_AT_ONCE, "fastxfer-listing")
        try:
            while True:
                for place in self._ledger.waiting(PLACES_AT_ONCE - len(self._running), list(self._running)):
                    self._running.add(place.id)
                    pool.submit(self._list, place)
                if not self._running:
                    return
                self._take(self._next())
        finally:
            self._over.set()
            pool.shutdown(cancel_futures=True)

    def _next(self) -> _Event:
        while not self._stopped.is_set():
            try:
                return self._events.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
        raise _stopped()

    def _take(self, event: _Event) -> None:
        """Writes down what came of a place."""
        place = event.place
        if event.page is not None:
            page = self._checked(place, event.page)
            self._ledger.record(place, page)
            self._found += len(page.entries)
            if self._told is not None:
                self._told(self._found)
            return
        self._running.discard(place.id)
        if event.error is None:
            self._ledger.listed(place)
            return
        if isinstance(event.error, InterruptedTransferError):  # no failure: it waits for the next call
            raise _stopped() from event.error
        self._ledger.place_failed(place, str(event.error))
        self._failed += 1
        if self._failed >= MAX_FAILED or (place.depth == 0 and self._whole):
            raise event.error

    def _checked(self, place: Place, page: Page) -> Page:
        """Returns a page with what is wanted of it, and without the places of a loop."""
        entries = [entry for entry in page.entries if self._filters.wants(entry.path)]
        page = replace(page, entries=entries)
        if not page.places:
            return page
        fault = None
        if place.depth >= MAX_DEPTH:
            fault = f"its folders are not entered: they are over {MAX_DEPTH} deep"
        elif page.digest is not None and self._ledger.repeats(place, page.digest) >= MAX_REPEATS:
            fault = "its folders are not entered: it has the same in it as those above it, and so is a loop"
        if fault is None:
            return page
        return replace(page, places=(), refused=[*page.refused, Fault(place.name.partition("\t")[0], fault)])

    # ---- on the threads of the pool ----

    def _list(self, place: Place) -> None:
        try:
            for page in self._lister.list(place):
                if not self._put(_Event(place, page)):
                    return
        except FastxferError as error:
            self._put(_Event(place, error=error))
        except Exception as error:  # noqa: BLE001 - it ends this place, and is told
            wrapped = FastxferError(f"internal error: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._put(_Event(place, error=wrapped))
        else:
            self._put(_Event(place))

    def _put(self, event: _Event) -> bool:
        while not self._over.is_set():
            try:
                self._events.put(event, timeout=_LOOK_S)
                return True
            except queue.Full:
                continue
        return False


def _stopped() -> InterruptedTransferError:
    return InterruptedTransferError("the listing was stopped; run it again to go on")
