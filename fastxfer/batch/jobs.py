"""What a batch is given and what it gives back: jobs, outcomes, and where both come from and go to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastxfer.api import Path
from fastxfer.errors import FastxferError, InterruptedTransferError, OptionError, PausedError
from fastxfer.progress.overall import Tally
from fastxfer.progress.snapshot import Progress
from fastxfer.results import FetchResult
from fastxfer.sources.http import safe_url
from fastxfer.units import format_elapsed, format_size

MAX_JOBS = 64
DEFAULT_JOBS = 4


@dataclass(frozen=True, slots=True)
class Job:
    """One object to fetch. `size` is what is known of its size, `expected` what it must be; `where` says
    where it was named. `options` are keywords of `fetch`.
    """

    key: int
    url: str = field(repr=False)
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    size: int | None = None
    expected: int | None = None
    where: str = ""
    mirrors: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a result, or an error. `state` is done, failed, paused or cancelled, or queued:
    it was stopped, and is to be gone on with. `ordered` tells that somebody wanted it paused or cancelled.
    """

    job: Job
    state: str
    progress: Progress
    result: FetchResult | None = None
    error: FastxferError | None = None
    ordered: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as plain JSON values, without secrets."""
        named = {"state": self.state, "where": self.job.where or None}
        if self.result is not None:
            return {**named, **self.result.to_dict()}
        error = self.error.to_dict() if self.error is not None else None
        return {**named, "path": os.fspath(self.job.out), "url": safe_url(self.job.url), "error": error}


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of many transfers, in the order in which they ended. Sizes in bytes, `elapsed` in seconds.

    `size` counts what is complete, `transferred` what was fetched for it in this run, `left` the jobs that
    were not ended because the batch was stopped.
    """

    outcomes: tuple[Outcome, ...] = ()
    elapsed: float = 0.0
    transferred: int = 0
    left: int = 0
    interrupted: bool = False

    def of(self, state: str) -> tuple[Outcome, ...]:
        """Returns the outcomes with this state: done, failed, paused, cancelled or queued."""
        return tuple(each for each in self.outcomes if each.state == state)

    @property
    def results(self) -> tuple[FetchResult, ...]:
        """The results of what is complete."""
        return tuple(each.result for each in self.outcomes if each.result is not None)

    @property
    def first_error(self) -> FastxferError | None:
        """The error of what failed first; None when nothing did."""
        return next((each.error for each in self.outcomes if each.state == "failed"), None)

    @property
    def exit_code(self) -> int:
        """7 when it was stopped, that of the first failure, 7 when something was found paused, or 0."""
        if self.interrupted:
            return InterruptedTransferError.exit_code
        if self.first_error is not None:
            return self.first_error.exit_code
        left_paused = any(not each.ordered for each in self.of("paused"))
        return PausedError.exit_code if left_paused else 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as plain JSON values."""
        counts = {state: len(self.of(state)) for state in ("done", "failed", "paused", "cancelled")}
        return {
            "items": len(self.outcomes) + self.left - len(self.of("queued")),
            **counts,
            "left": self.left,
            "skipped": sum(result.skipped for result in self.results),
            "size": sum(result.size for result in self.results),
            "transferred": self.transferred,
            "elapsed": self.elapsed,
            "interrupted": self.interrupted,
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        told = self.to_dict()
        parts = [f"{told['done']} of {told['items']} files", f"{format_size(told['size'])}"]
        if told["skipped"]:
            parts.append(f"{told['skipped']} complete before")
        parts += [f"{told[state]} {state}" for state in ("failed", "paused", "cancelled") if told[state]]
        took = format_elapsed(self.elapsed)
        return ", ".join([*parts, f"{format_size(self.transferred)} fetched in {took}"])


class Work(Protocol):
    """Where jobs come from and go to. Called on the thread of `Batch.run` alone."""

    def unsized(self) -> list[Job]:
        """Returns the waiting jobs whose size is to be asked for; not again those returned before."""

    def sized(self, job: Job, size: int) -> None:
        """Is told the size of a job."""

    def claim(self) -> Job | None:
        """Returns the next job to begin, None when there is none now."""

    def look(self, running: Mapping[int, Progress]) -> Mapping[int, str]:
        """Is told how the running jobs stand, four times a second. Returns those that are to be stopped, by
        their keys, and what they are then: paused or cancelled.
        """

    def ended(self, outcome: Outcome) -> None:
        """Is told what became of a job."""

    def waiting(self) -> Tally:
        """Returns the items that wait to be begun."""


def check_jobs(jobs: Any) -> int:
    """Returns a number of transfers at once. Raises OptionError."""
    try:
        number = int(jobs)
    except (ValueError, TypeError, OverflowError):
        number = 0
    if not 1 <= number <= MAX_JOBS or isinstance(jobs, bool):
        raise OptionError(f"option jobs: must be a whole number from 1 to {MAX_JOBS}")
    return number
