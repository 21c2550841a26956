"""One run: what the source has comes to the destination, and what came of it is in the ledger.

    list -> refuse what collides -> verify, if asked for -> fetch what is not here -> delete, if asked for

All of it on one thread, whose the ledger is; what fetches has threads of its own (dataset/folder.py,
dataset/store.py, dataset/cluster.py). What came is written down a group at a time: at once where nothing more
is known, so that a kill makes nothing be fetched twice but what was just coming.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastxfer.background import Background
from fastxfer.dataset.collisions import refuse_collisions
from fastxfer.dataset.compare import By, Verdict
from fastxfer.dataset.entries import OWN_FOLDER
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Done, Ledger, Totals
from fastxfer.dataset.listing import Lister, walk
from fastxfer.dataset.planning import Task, deletions, tasks
from fastxfer.dataset.proving import prove
from fastxfer.dataset.report import (
    MOST_NAMED,
    Counts,
    Failure,
    MirrorItem,
    MirrorProgress,
    MirrorReport,
)
from fastxfer.dataset.results import Came, Destination
from fastxfer.errors import FastxferError, InterruptedTransferError, LedgerError
from fastxfer.mirror_options import MirrorOptions
from fastxfer.options import TransferOptions, told_to_all
from fastxfer.plan.rates import RateMeter
from fastxfer.sources.http import HttpSource, origin, safe_url
from fastxfer.sources.schemes import is_http, is_location

GROUP = 256
"""Files that are written down at once, at the most."""
GROUP_S = 0.01
ENDED_LISTING_S = 3600.0
"""A run that was stopped is gone on with by its own listing while that is not older."""
SHOWN_SLOW = 3


class Mirror(Background[MirrorReport]):
    """A run, on a thread of its own; see the module, and Background. `make_lister` gets the filters, the
    ledger's folder and what is set to stop. `told` is called for each object of which something became.
    """

    def __init__(
        self,
        source: str,
        destination: Destination,
        own: MirrorOptions,
        make_lister: Callable[[Filters, Path, threading.Event], Lister],
        told: Callable[[MirrorItem], object] | None = None,
        home: tuple[str, str, int] | None = None,
    ) -> None:
        super().__init__(safe_url(source) if "://" in source else source)
        self._source = source
        self._destination = destination
        self._own = own
        self._home = home
        self._filters = Filters(own.include, own.exclude)
        self._by = By(own.compare)
        self._make_lister = make_lister
        self._tell_caller = told or _tell_nobody
        self._counts = Counts()
        self._phase = "listing"
        self._listed = 0
        self._totals: Totals | None = None
        self._began_at = time.monotonic()
        self._bytes_rate = RateMeter()
        self._stopped_why = ""
        self._complete = False
        self._done: list[Done] = []
        self._failed: list[tuple[str, str]] = []
        self._written_at = 0.0
        self._known: MirrorReport | None = None

    def cancel(self) -> None:
        """See Background."""
        super().cancel()
        self._destination.stop()

    @property
    def state(self) -> MirrorProgress:
        """Any thread. How it stands now."""
        counts, totals = self._counts, self._totals
        now = time.monotonic()
        moving = sorted(self._destination.moving(), key=lambda each: -each[1])
        under_way = sum(came for _, _, came in moving)
        transferred = counts.bytes + under_way
        rate = self._bytes_rate.update(transferred, now)
        phase = self._phase
        if self.over.is_set():
            cancelled = isinstance(self.error, InterruptedTransferError)
            phase = "done" if self.error is None else "cancelled" if cancelled else "failed"
        left = None if totals is None else max(0, totals.bytes - counts.passed - under_way)
        return MirrorProgress(
            phase=phase,
            listed=self._listed if totals is None else totals.entries,
            done=counts.done,
            failed=counts.failed,
            size=None if totals is None or totals.unsized else totals.bytes,
            bytes=counts.passed + under_way,
            transferred=transferred,
            rate=rate,
            eta=None if left is None or rate <= 0 or phase != "fetching" else left / rate,
            elapsed=now - self._began_at,
            slowest=tuple((path, round(s, 1)) for path, s, _ in moving[:SHOWN_SLOW]),
        )

    @property
    def known(self) -> MirrorReport:
        """Once it is over: what came of it, also where it was interrupted or failed."""
        if self._known is not None:
            return self._known
        return MirrorReport(self._called(), self._destination.name, stopped=str(self.error or ""))

    # ---- its thread ----

    def _told(self, item: MirrorItem) -> None:
        try:
            self._tell_caller(item)
        except Exception as error:  # noqa: BLE001 - a caller's callback must not decide over the run
            warnings.warn(f"the callable told raised {error!r}; it is not called again", stacklevel=2)
            self._tell_caller = _tell_nobody

    def _work(self) -> MirrorReport:
        with Ledger(self._destination.folder) as ledger:
            self._destination.prepare()
            try:
                return self._run_with(ledger)
            finally:
                self._destination.close()

    def _run_with(self, ledger: Ledger) -> MirrorReport:
        goes_on = not self._own.relist and ledger.stopped(self._called())
        run = ledger.begin_run(self._called())
        ended = False
        try:
            if not self._own.retry_failed:
                self._list(ledger, goes_on)
            self._look(ledger)
            if self._own.verify:
                self._verify(ledger)
            self._count_done(ledger)
            if self._own.dry_run:
                self._plan(ledger)
            else:
                self._fetch(ledger)
            ended = not self._stopped_why
            if self._own.delete and ended:
                self._delete_safely(ledger)
        except FastxferError as error:
            self._stopped_why = str(error)
            error.kept = error.kept or self._kept()
            raise
        finally:
            report = self._known = self._report(ledger)
            if ended:
                ledger.end_run(run, report.to_dict())
        return report

    def _kept(self) -> str | None:
        """Returns what is left to go on from, in words."""
        counts = self._counts
        there = counts.same + counts.fetched + counts.skipped
        if self._totals is None:
            return f"{self._listed} objects are listed" if self._listed else None
        return f"{there} of {self._totals.entries} objects are there"

    def _called(self) -> str:
        return safe_url(self._source) if "://" in self._source else self._source

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedTransferError("the run was stopped; run it again to go on")

    def _list(self, ledger: Ledger, goes_on: bool) -> None:
        lister = self._make_lister(self._filters, self._destination.folder / OWN_FOLDER, self._stop)

        def found(count: int) -> None:
            self._listed = count

        self._complete = walk(
            ledger,
            lister,
            self._filters,
            stopped=self._stop,
            ended_age_s=ENDED_LISTING_S if goes_on else 0.0,
            told=found,
            whole=True,
        )

    def _look(self, ledger: Ledger) -> None:
        self._phase = "checking"
        self._complete = ledger.complete
        if self._own.retry_failed and not ledger.source:
            raise LedgerError(
                f"there is no earlier run to {self._destination.name}: run it without retry_failed "
                "(--retry-failed)"
            )
        refuse_collisions(ledger)
        states = ("failed",) if self._own.retry_failed else ("listed", "failed", "done")
        self._totals = ledger.totals(states)

    def _count_done(self, ledger: Ledger) -> None:
        """Counts what a run that was stopped has done of this listing."""
        if not self._own.retry_failed:
            before = ledger.totals(("done",))
            self._counts.same, self._counts.passed = before.entries, before.bytes

    def _verify(self, ledger: Ledger) -> None:
        """Reads what is here, and has be fetched again what is damaged."""
        self._phase = "verifying"
        found = prove(ledger, self._destination.folder, mark=True, stopped=self._stop.is_set)
        self._check_stop()
        self._counts.damaged = found.damaged_count + found.missing_count

    def _steps(self, ledger: Ledger) -> Iterator[Task]:
        return tasks(
            ledger,
            self._destination,
            by=self._by,
            filters=self._filters,
            failed=self._own.retry_failed,
            largest=self._own.order == "largest",
        )

    def _plan(self, ledger: Ledger) -> None:
        """Counts and tells what a run would do."""
        counts = self._counts
        for task in self._steps(ledger):
            self._check_stop()
            verdict, size = task.finding.verdict, task.entry.size
            self._judged(task)
            if verdict is Verdict.SAME:
                continue
            if verdict is not Verdict.UNSURE:
                counts.bytes += size or 0
                counts.unsized += size is None
            self._told(MirrorItem(task.entry.path, verdict.value, size or 0, task.finding.why))

    def _judged(self, task: Task) -> None:
        verdict = task.finding.verdict
        if verdict is Verdict.NEW:
            self._counts.new += 1
        elif verdict is Verdict.CHANGED:
            self._counts.changed += 1
        elif verdict is Verdict.SAME:
            self._counts.same += 1
            self._counts.passed += task.entry.size or 0

    # ---- fetching ----

    def _fetch(self, ledger: Ledger) -> None:
        self._phase = "fetching"

        def synced() -> None:
            self._write(ledger)
            ledger.synced()

        results = self._destination.fetch(self._missing(ledger), synced)
        try:
            for came in results:
                self._take(ledger, came)
                if self._too_many():
                    self._stopped_why = f"{self._counts.failed} objects failed"
                    break
        finally:
            with suppress(InterruptedTransferError):
                results.close()
            self._write(ledger)

    def _missing(self, ledger: Ledger) -> Iterator[Task]:
        """Gives what is to be fetched or asked for."""
        for task in self._steps(ledger):
            self._check_stop()
            self._judged(task)
            if task.finding.verdict is not Verdict.SAME:
                yield self._known_to(task)

    def _known_to(self, task: Task) -> Task:
        """Returns a task whose entry says whether its server may know the caller's secrets."""
        entry = task.entry
        if self._home is None or is_location(entry.url):
            return task
        try:
            at_home = origin(entry.url) == self._home
        except ValueError:
            at_home = False
        return task if at_home else task._replace(entry=replace(entry, stranger=True))

    def _too_many(self) -> bool:
        return self._own.max_errors is not None and self._counts.failed >= self._own.max_errors

    def _take(self, ledger: Ledger, came: Came) -> None:
        """Counts what came of an entry, tells it, and writes it down in time."""
        entry, counts = came.entry, self._counts
        host = urlsplit(entry.url).netloc.rpartition("@")[2]
        counts.passed += entry.size if entry.size is not None else came.size
        if came.error is not None:
            failure = self._miss(entry.path, safe_url(entry.url), host, came.error)
            self._failed.append((entry.path, f"{failure.error}: {failure.message}"))
        else:
            assert came.known is not None
            self._done.append(Done(entry, came.known))
            if came.skipped:
                counts.skipped += 1
            else:
                counts.came(entry.path, host, came.size, came.seconds)
            self._told(MirrorItem(entry.path, "skipped" if came.skipped else "fetched", came.known.size))
        now = time.monotonic()
        waits = len(self._done) + len(self._failed)
        if waits >= GROUP or (now - self._written_at >= GROUP_S and self._destination.idle):
            self._write(ledger)
        if counts.sample_due(now - self._began_at):
            under_way = sum(bytes_came for _, _, bytes_came in self._destination.moving())
            counts.sample(now - self._began_at, under_way)

    def _miss(self, path: str, url: str, host: str, error: FastxferError) -> Failure:
        """Counts and tells an object that failed."""
        failure = Failure(path, type(error).__name__, str(error), error.exit_code, url)
        self._counts.missed(failure, host)
        self._told(MirrorItem(path, "failed", 0, failure.message, error, url))
        return failure

    def _write(self, ledger: Ledger) -> None:
        done, self._done = self._done, []
        failed, self._failed = self._failed, []
        if done:
            ledger.keep(done)
        if failed:
            ledger.failed(failed)
        self._written_at = time.monotonic()

    # ---- deleting ----

    def _delete_safely(self, ledger: Ledger) -> None:
        try:
            self._delete(ledger)
        except LedgerError as error:  # the listing is no ground to delete on
            self._stopped_why = str(error)

    def _delete(self, ledger: Ledger) -> None:
        """Deletes what vanished, or says in a dry run what would be."""
        self._phase = "deleting"
        gone: list[str] = []
        for each in deletions(ledger, self._destination, filters=self._filters):
            self._check_stop()
            if each.gone:
                gone.append(each.path)
            elif not each.untouched:
                self._counts.left += 1
                self._told(MirrorItem(each.path, "left", each.size, "it was changed here"))
            elif self._deleted(each.path, each.size):
                gone.append(each.path)
            if len(gone) >= GROUP:
                self._forget(ledger, gone)
                gone = []
        self._forget(ledger, gone)

    def _deleted(self, path: str, size: int) -> bool:
        if not self._own.dry_run:
            try:
                self._destination.delete(path)
            except FastxferError as error:
                self._miss(path, "", "", error)
                return False
        self._counts.deleted += 1
        if len(self._counts.deletions) < MOST_NAMED:
            self._counts.deletions.append(path)
        self._told(MirrorItem(path, "vanished" if self._own.dry_run else "deleted", size))
        return True

    def _forget(self, ledger: Ledger, paths: list[str]) -> None:
        if paths and not self._own.dry_run:
            ledger.forget(paths)

    # ---- the end ----

    def _report(self, ledger: Ledger) -> MirrorReport:
        states = ledger.counts()
        refusals: list[Failure] = []
        refused = 0
        for each in ledger.refusals():
            refused += 1
            if refused <= MOST_NAMED:
                refusals.append(Failure(each.name, "refused", each.reason))
        for place, why in ledger.places_failed():
            self._counts.missed(Failure(place.partition("\t")[0] or self._called(), "listing", why), "")
        return self._counts.report(
            time.monotonic() - self._began_at,
            source=self._called(),
            dest=self._destination.name,
            dry_run=self._own.dry_run,
            complete=self._complete,
            listed=sum(states.get(state, 0) for state in ("listed", "done", "failed", "refused")),
            refused=refused,
            requests=self._destination.requests,
            stopped=self._stopped_why,
            refusals=tuple(refusals),
        )


def _tell_nobody(item: MirrorItem) -> None:
    """Does nothing."""


def begin(
    source: str,
    destination: Destination,
    own: MirrorOptions,
    given: Mapping[str, Any],
    told: Callable[[MirrorItem], object] | None = None,
) -> Mirror:
    """Begins a run; `given` are keywords of `fetch`. Raises OptionError."""
    from fastxfer.dataset.sources import lister_for

    def make(filters: Filters, work: Path, stopped: threading.Event) -> Lister:
        return lister_for(
            source,
            given,
            format=own.format,
            base_urls=own.base_url,
            filters=filters,
            stopped=stopped,
            work=work,
        )

    home = None
    if is_http(source) and told_to_all(given) != given:
        home = HttpSource.of(source, TransferOptions.build(**given)).home
    mirror = Mirror(source, destination, own, make, told, home)
    mirror.begin()
    return mirror
