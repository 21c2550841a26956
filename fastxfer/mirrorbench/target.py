"""One mirror that is measured: what was found of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastxfer._native.writer import Throttle
from fastxfer.engine.loop import shared_engine
from fastxfer.engine.request import Timings
from fastxfer.errors import FastxferError, OverloadedError
from fastxfer.governing import Tenancy
from fastxfer.mirrorbench.identity import Copy, Standing
from fastxfer.mirrorbench.sampling import Sample
from fastxfer.options import TransferOptions
from fastxfer.plan.rates import UNLIMITED
from fastxfer.plan.response import Identity
from fastxfer.sources.opening import RemoteSource
from fastxfer.subject import Mirror, Subject


@dataclass(slots=True)
class Tally:
    """What slices at one number of connections brought."""

    samples: list[Sample] = field(default_factory=list)
    bytes: int = 0
    requests: int = 0
    errors: int = 0


class Target:
    """See the module. `failed` is why it is not asked any more. The tenancy is of the engine's thread."""

    def __init__(self, index: int, url: str, source: RemoteSource, options: TransferOptions) -> None:
        self.url = url
        self.mirror = Mirror(index, source, source)
        self.subject = Subject(options)
        self.looks: list[Timings] = []
        self.ranges: bool | None = None
        self.http_version = ""
        self.address = ""
        self.redirects = 0
        self.copy: Copy | None = None
        self.standing = Standing()
        self.tallies: dict[int, Tally] = {}
        self.failures: dict[str, int] = {}  # how often requests failed, by the error's words
        self.last_failure: FastxferError | None = None
        self.overloads = 0
        self.failed: FastxferError | None = None
        self.silent = 0  # slices in a row that brought no byte
        self.changed = False
        self.tenancy = Tenancy(options, Throttle(UNLIMITED), self._roomy, lambda: None)
        self.on_room = _nothing

    def _roomy(self) -> None:
        self.on_room()

    @property
    def told(self) -> Identity:
        """What it told of its object."""
        return self.mirror.told or Identity()

    def enter(self) -> None:
        """Begins to share its host with this user's other transfers."""
        engine, url = shared_engine(), self.mirror.source.host_url
        engine.call_soon(lambda: self.tenancy.begin(engine, url))
        engine.call_soon(lambda: self.tenancy.wants(0, url))

    def leave(self) -> None:
        """Lets its host go."""
        shared_engine().call_soon(self.tenancy.end)

    def note(self, error: FastxferError) -> None:
        """Counts a request that failed."""
        if isinstance(error, OverloadedError):
            self.overloads += 1
        self.last_failure = error
        words = str(error)
        self.failures[words] = self.failures.get(words, 0) + 1

    def conclude(self) -> None:
        """Gives it up at the end if nothing ever came of it but errors."""
        tried = [tally for tally in self.tallies.values() if tally.samples]
        if tried and self.failed is None and not any(tally.bytes for tally in tried):
            self.failed = self.last_failure

    @property
    def errors(self) -> int:
        """How many of its requests failed."""
        return sum(self.failures.values())

    @property
    def requests(self) -> int:
        """How many requests for its bytes have gone out, and looks at it."""
        return len(self.looks) + sum(each.requests for each in self.tallies.values())


def _nothing() -> None:
    pass
