"""The loop of a batch.

It runs on the caller's thread, which alone calls the Work. First the sizes of all jobs are asked for, several
at once, so that there is a total before the first byte moves; then `jobs` transfers run at a time, on the one
engine. A transfer has a thread that waits for its end. What fails is an outcome, and does not stop the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty

from fastxfer.api import Transfer, start
from fastxfer.batch.jobs import BatchResult, Job, Outcome, Work
from fastxfer.batch.sizes import Events, Sizes
from fastxfer.errors import BadResponseError, FastxferError, InterruptedTransferError, PausedError
from fastxfer.plan.rates import RateMeter
from fastxfer.progress.overall import Overall, Tally, tally
from fastxfer.progress.snapshot import Progress
from fastxfer.results import FetchResult

TICK_S = 0.1
LOOK_S = 0.25


@dataclass(slots=True)
class _Running:
    job: Job
    transfer: Transfer
    order: str | None = None


class Batch:
    """Runs the jobs of a Work. `watch` is told how all of it stands, ten times a second, `told` each outcome;
    both on the thread of `run`. `stop` may be called from any thread and from signal handlers.
    """

    def __init__(
        self,
        work: Work,
        jobs: int,
        *,
        watch: Callable[[Overall], object] | None = None,
        told: Callable[[Outcome], object] | None = None,
    ) -> None:
        self._work = work
        self._jobs = jobs
        self._watch = watch
        self._told = told
        self._running: dict[int, _Running] = {}
        self._events: Events = Events()
        self._sizes = Sizes(self._events, self._sized)
        self._refused: dict[int, FastxferError] = {}
        self._outcomes: list[Outcome] = []
        self._ended = Tally()
        self._meter = RateMeter()
        self._stopping = threading.Event()
        self._stopped = False
        self._look_at = self._watch_at = 0.0
        self._began_at = time.monotonic()

    def stop(self) -> None:
        """Ends everything, resumable; `run` then returns."""
        self._stopping.set()

    def run(self) -> BatchResult:
        """Returns what became of all jobs, once there is none left that could be begun.

        Raises KeyboardInterrupt, and errors of the Work (StorageError and others of a queue), after all
        transfers were stopped and their progress is saved.
        """
        try:
            self._sizes.ask(self._work.unsized())
            while self._sizes.pending and not self._stopping.is_set():
                self._wait()
            while self._step():
                self._wait()
        except BaseException:
            self._stop_all()
            while self._running:
                try:
                    self._wait()
                except FastxferError:
                    pass  # the Work fails: what is on disk is saved all the same
            raise
        if self._watch is not None:
            self._watch(self.overall())
        return BatchResult(
            tuple(self._outcomes),
            time.monotonic() - self._began_at,
            self._ended.transferred,
            self._work.waiting().items if self._stopping.is_set() else 0,
            self._stopping.is_set(),
        )

    def overall(self) -> Overall:
        """Returns how all of it stands now."""
        seen = [(each.transfer.progress, each.job.size) for each in self._running.values()]
        running, waiting = tally(seen), self._work.waiting()
        total = self._ended + running + waiting
        rate = self._meter.update(total.transferred, time.monotonic())
        size = None if total.unsized else total.size
        over = not (running.items or waiting.items)
        failed = sum(each.state == "failed" for each in self._outcomes)
        return Overall(
            items=total.items,
            finished=sum(each.state == "done" for each in self._outcomes),
            failed=failed,
            running=running.items,
            size=size,
            known=total.size,
            unsized=total.unsized,
            done=total.done,
            transferred=total.transferred,
            resumed=total.resumed,
            rate=rate,
            eta=(size - total.done) / rate if size is not None and rate > 0 else None,
            connections=sum(progress.connections for progress, _ in seen),
            state=("failed" if failed else "done") if over else "running",
        )

    # ---- the loop ----

    def _step(self) -> bool:
        """Does what is due; returns whether there is anything to wait for."""
        if self._stopping.is_set():
            self._stop_all()
        elif time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._look()
        while len(self._running) < self._jobs and not self._stopping.is_set():
            job = self._work.claim()
            if job is None:
                break
            self._begin(job)
        return bool(self._running)

    def _wait(self) -> None:
        """Waits a tick, or until something happens, and takes in all that did."""
        try:
            event = self._events.get(timeout=TICK_S)
            while True:
                event()
                event = self._events.get_nowait()
        except Empty:
            pass
        if self._watch is not None and time.monotonic() >= self._watch_at:
            self._watch_at = time.monotonic() + TICK_S
            self._watch(self.overall())

    def _look(self) -> None:
        orders = self._work.look({key: each.transfer.progress for key, each in self._running.items()})
        for key, order in orders.items():
            each = self._running.get(key)
            if each is not None and each.order is None:
                each.order = order
                if order == "paused":
                    each.transfer.pause()
                each.transfer.cancel()
        self._sizes.ask(self._work.unsized())

    def _stop_all(self) -> None:
        self._stopping.set()
        if not self._stopped:
            self._stopped = True
            for each in self._running.values():
                each.transfer.cancel()

    # ---- one job ----

    def _begin(self, job: Job) -> None:
        if job.key in self._refused:
            self._end(job, None, self._refused.pop(job.key), Progress(state="failed"))
            return
        try:
            options = {**job.options, "mirrors": job.mirrors} if job.mirrors else job.options
            transfer = start(job.url, job.out, **options)
        except FastxferError as error:
            self._end(job, None, error, Progress(state="failed"))
            return
        self._running[job.key] = _Running(job, transfer)
        name = f"fastxfer-job-{job.key}"
        threading.Thread(target=self._wait_for, args=(job, transfer), name=name, daemon=True).start()

    def _wait_for(self, job: Job, transfer: Transfer) -> None:
        """On a thread of its own."""
        result = error = None
        while result is None and error is None:
            try:
                result = transfer.wait()
            except FastxferError as caught:
                if transfer.done:
                    error = caught
                else:  # its user paused it in an earlier run: that is its end for now
                    transfer.cancel()
        self._events.put(lambda: self._end(job, result, error, transfer.progress))

    def _end(
        self, job: Job, result: FetchResult | None, error: FastxferError | None, progress: Progress
    ) -> None:
        running = self._running.pop(job.key, None)
        ordered = running.order if running is not None else None
        if result is not None and job.expected not in (None, result.size):
            error, result = _other_size(job, result.size), None
        if error is None:
            state = "done"
        elif not isinstance(error, InterruptedTransferError):
            state = "failed"
        elif ordered is not None:
            state = ordered
        else:
            state = "paused" if isinstance(error, PausedError) else "queued"
        outcome = Outcome(job, state, progress, result, error, ordered is not None)
        self._outcomes.append(outcome)
        self._ended += _tally_of(outcome)
        self._work.ended(outcome)
        if self._told is not None:
            self._told(outcome)

    def _sized(self, job: Job, size: int | None) -> None:
        if size is None:
            return
        if job.expected not in (None, size):
            self._refused[job.key] = _other_size(job, size)
        self._work.sized(job, size)


def _other_size(job: Job, size: int) -> BadResponseError:
    return BadResponseError(
        f"the object has {size} bytes and should have {job.expected}: it is another one, or the list is wrong"
    )


def _tally_of(outcome: Outcome) -> Tally:
    """Returns what an ended job adds to the whole: what is missing of it is not awaited any more."""
    result, last = outcome.result, outcome.progress
    if result is None:
        return Tally(1, last.done, 0, last.done, last.transferred, last.resumed)
    resumed = result.size if result.skipped else result.resumed
    return Tally(1, result.size, 0, result.size, result.transferred, resumed)
