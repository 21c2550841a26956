"""A benchmark of mirrors as a whole; see the package. All on the caller's thread, which Ctrl-C ends at any
moment: `report` says what has been measured by then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fastxfer.bench_options import MAX_URLS, BenchOptions
from fastxfer.errors import FastxferError, OptionError, OverloadedError, TransferTimeoutError
from fastxfer.mirrorbench.counting import SMALL_BYTES, report_of
from fastxfer.mirrorbench.identity import common_size, compare
from fastxfer.mirrorbench.looking import look, places_of, sample
from fastxfer.mirrorbench.report import BenchReport
from fastxfer.mirrorbench.sampling import turns_of
from fastxfer.mirrorbench.slices import Slice
from fastxfer.mirrorbench.target import Target
from fastxfer.options import TransferOptions
from fastxfer.plan.mirrors import SAMPLES
from fastxfer.sources.opening import open_mirror, open_source

MAX_SILENT = 2


@dataclass(frozen=True, slots=True)
class BenchProgress:
    """How far it is: `done` of `total` measurements; `url`, without secrets, is the mirror that is next, over
    so many `connections`, 0 for a look at it. `left_s` is how long it takes yet, at the most.
    """

    done: int
    total: int
    url: str
    connections: int
    left_s: float


Told = Callable[[BenchProgress], object]


class Bench:
    """See the module. Raises OptionError for a URL that cannot be one, and where there is none."""

    def __init__(
        self, urls: Iterable[str], own: BenchOptions, options: TransferOptions, told: Told | None = None
    ) -> None:
        self._own = own
        seed = own.seed if own.seed is not None else random.SystemRandom().randrange(2**32)
        self._seed = seed
        self._random = random.Random(seed)
        # A failure is measured, not made good by another try.
        self._options = replace(options, retries=0, connections=max(own.connections))
        self.told = told
        self._begun = time.monotonic()
        self._began_at = time.time()
        self._targets = self._opened(urls)
        self._entered: list[Target] = []
        self._over = False

    def _opened(self, urls: Iterable[str]) -> list[Target]:
        if isinstance(urls, str):
            raise OptionError("the URLs must be a list of them")
        given = list(urls)
        if not given:
            raise OptionError("there is no URL to measure")
        if len(given) > MAX_URLS:
            raise OptionError(f"at most {MAX_URLS} URLs can be measured at once")
        first = open_source(given[0], self._options)
        sources = {first.url: (given[0], first)}
        for url in given[1:]:
            source = open_mirror(first, url)
            sources.setdefault(source.url, (url, source))
        return [
            Target(index, url, source, self._options) for index, (url, source) in enumerate(sources.values())
        ]

    def run(self) -> BenchReport:
        """Measures, and returns what came of it."""
        self._begun, self._began_at = time.monotonic(), time.time()
        try:
            self._look_at_all()
            standing = [target for target in self._targets if target.failed is None]
            self._compare(standing)
            self._measure(standing)
            for target in standing:
                target.conclude()
            self._over = True
        finally:
            for target in self._entered:
                target.leave()
        return self.report()

    def report(self) -> BenchReport:
        """Returns what has been measured so far."""
        return report_of(
            self._targets,
            self._own,
            seed=self._seed,
            began_at=self._began_at,
            elapsed=time.monotonic() - self._begun,
            interrupted=not self._over,
        )

    # ---- steps ----

    def _look_at_all(self) -> None:
        """Looks at each, and once more, after all others, at those that failed."""
        waiting = list(self._targets)
        self._random.shuffle(waiting)
        for last in (False, True):
            failed = []
            for target in waiting:
                self._tell(0, 1, target, 0, 0.0)
                error = self._ready(target) or look(target, self._options)
                if error is not None and (last or error.retry.value == "never"):
                    target.failed = error
                elif error is not None:
                    failed.append(target)
            waiting = failed

    def _ready(self, target: Target) -> FastxferError | None:
        try:
            target.mirror.source.ready()
        except FastxferError as error:
            target.note(error)
            return error
        return None

    def _compare(self, targets: Sequence[Target]) -> None:
        """Holds their objects against each other."""
        size = common_size([target.copy for target in targets])
        spans = places_of(size, [self._random.random() for _ in range(2 * SAMPLES)]) if size else []
        if len(targets) > 1:
            for target in targets:
                if target.told.size in (size, None):
                    sample(target, spans, self._options)
        copies = [target.copy for target in self._targets]
        for target, standing in zip(self._targets, compare(copies, spans), strict=True):
            target.standing = standing

    def _measure(self, targets: Sequence[Target]) -> None:
        for target in targets:
            target.enter()
            self._entered.append(target)
        by_index = {target.mirror.index: target for target in targets}
        rounds = turns_of(list(by_index), self._own.connections, self._own.rounds, self._random)
        total = sum(map(len, rounds))
        done = 0
        left = {target.mirror.index: self._own.rounds * len(self._counts(target)) for target in targets}
        for turns in rounds:
            for index, count in turns:
                target = by_index[index]
                self._tell(done, total, target, count, sum(left.values()) * self._own.slice_s)
                done += 1
                if count in self._counts(target):
                    left[index] -= 1
                    self._slice(target, count)
                elif count == 0 and target.failed is None and not target.tenancy.held:
                    self._look_again(target)
                if target.failed is not None:
                    left[index] = 0

    def _counts(self, target: Target) -> tuple[int, ...]:
        """Returns the numbers of connections to measure a mirror with: of one stream there is only one, and
        what is small is over before it has a rate.
        """
        size, counts = target.told.size, self._own.connections
        if target.failed is not None or (size is not None and size < SMALL_BYTES):
            return ()
        return counts if target.ranges else counts[:1]

    def _look_again(self, target: Target) -> None:
        error = look(target, self._options)
        if isinstance(error, TransferTimeoutError):
            target.silent += 1
            self._give_up(target, error)

    def _slice(self, target: Target, count: int) -> None:
        measured = Slice(target, count, self._own, self._options, self._random)
        measured.run(self._begun)
        error = measured.error
        if error is not None and error.retry.value != "same source":
            target.failed = error
        elif error is not None and not isinstance(error, OverloadedError):
            self._give_up(target, error)

    def _give_up(self, target: Target, error: FastxferError) -> None:
        """Leaves a mirror alone that only wastes time."""
        if target.silent >= MAX_SILENT:
            target.failed = error

    def _tell(self, done: int, total: int, target: Target, count: int, left_s: float) -> None:
        if self.told is not None:
            self.told(BenchProgress(done, total, target.mirror.display, count, left_s))
