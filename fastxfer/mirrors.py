"""The mirrors of one download: which may be asked, who proved to have the object, and whom to doubt.

The mirror that gives the first accepted answer *leads*: it says what the object is. Every other one is held
against it before a byte of it is written: the size of its object, and samples, short ranges whose bytes are
compared with the lead's, or with what is in place already when the lead cannot be asked. A *dissenter* is
banned. Which of the admitted a request goes to is decided in plan/mirrors.py, whom to doubt when the checksum
does not hold in plan/provenance.py. All of it belongs to the engine's thread.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Protocol

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.engine.loop import Timer, shared_engine
from fastxfer.errors import (
    FastxferError,
    InterruptedTransferError,
    NetworkError,
    OptionError,
    OverloadedError,
    RemoteChangedError,
    Retry,
    StorageError,
    TooSlowError,
)
from fastxfer.options import TransferOptions
from fastxfer.plan.mirrors import SAMPLES, Shares, sample_spans
from fastxfer.plan.provenance import EARLIER, Provenance, suspicions
from fastxfer.plan.ranges import Span
from fastxfer.sampling import Sampler, Samples
from fastxfer.sources.opening import RemoteSource, open_mirror
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.part_file import hash_of
from fastxfer.subject import Mirror, Subject

# Objects under this size are there before another mirror had been proven; it is asked when it is needed.
WORTHWHILE_BYTES = 4 * 1024**2
# The next mirror is asked as well when the first has not answered for so long.
HEAD_START_S = 1.0
LOOK_AGAIN_S = 0.5
ITS_OWN_FAULT = (InterruptedTransferError, StorageError, OptionError)


def places() -> list[float]:
    """Returns where samples are taken, as fractions of what there is: a mirror cannot know beforehand."""
    import random

    return [random.random() for _ in range(2 * SAMPLES)]


class Host(Protocol):
    """The download, as its mirrors see it."""

    def guarded(self, call: Callable[[], object]) -> None:
        """Calls, and ends the transfer if that fails."""

    def peek(self, spans: list[Span], then: Callable[[Samples], object]) -> None:
        """Has what is in place read."""

    def in_place(self) -> list[Span]:
        """Returns the ranges that are in place."""

    def mirrors_changed(self) -> None:
        """One was admitted, or banned."""

    def begin_again_without(self, reason: str) -> None:
        """The lead was banned: another one is to lead, from the beginning."""


class Mirrors:
    """See the module. Raises OptionError for a URL that cannot be one."""

    def __init__(
        self,
        first: RemoteSource,
        options: TransferOptions,
        subject: Subject,
        host: Host,
        pieces: bool = False,
    ) -> None:
        sources = {first.url: first}
        for each in options.mirrors:
            source = open_mirror(first, each)
            sources.setdefault(source.url, source)
        self.all = [Mirror(index, source, source) for index, source in enumerate(sources.values())]
        self.several = len(self.all) > 1
        self.lead = self.all[0]
        self.provenance = Provenance()
        self.notes: list[str] = []
        self.requests = 0
        self._options = options
        self._subject = subject
        self._host = host
        self._shares = Shares(len(self.all), options.connections, options.retries)
        self._errors: dict[int, FastxferError] = {}
        self._samplers: list[Sampler] = []
        self._timers: list[Timer] = []
        self._open = False  # there is a lead
        self._round = 0  # of samples
        self._spans: list[Span] | None = None
        self._reference: Samples | None = None
        self._found: dict[int, Samples] = {}
        self._moved_at = time.monotonic()
        self._took: dict[int, int] = {}
        self._preferred: int | None = None
        self._dissenters: list[int] = []
        self._suspicions: list[frozenset[int]] | None = None
        self._suspects: frozenset[int] = frozenset()
        self._repairs = 2 * len(self.all) + 1 if pieces else 0  # how often wrong pieces are fetched again
        self._decidable = pieces or bool(options.checksum)  # who is right, at the end
        self._before: tuple[dict[int, int], dict[int, list[Span]]] = ({}, {})

    # ---- which one is asked ----

    def choose(self, running: list[int], has_room: Callable[[str], bool | None]) -> Mirror | None:
        """Returns the mirror for one more request, or None when none may be asked now. `has_room` says of a
        URL whether its host may be asked, or None when that will soon be known: it is waited for.
        """
        now = time.monotonic()
        full: set[int] = set()
        while True:
            index = self._shares.pick(running, now, full) if self._open else self._next_lead(now, full)
            room = has_room(self.all[index].source.host_url) if index is not None else None
            if index is None or room is None:
                return None
            if room:
                return self.all[index]
            full.add(index)

    def _next_lead(self, now: float, full: set[int]) -> int | None:
        standing = [each.index for each in self.all if self._shares.reason(each.index) is None]
        rested = [index for index in standing if not self._shares.rests(index, now) and index not in full]
        if self._preferred in rested:
            return self._preferred
        return rested[0] if rested else None

    def prefer(self, mirror: Mirror) -> None:
        """It answers while those before it do not: it is to lead, if it can."""
        self._preferred = mirror.index

    def failed(self, mirror: Mirror, error: FastxferError, running: int, *, moved: bool) -> bool:
        """Notes a failure of a mirror; returns False when it is not the mirror's."""
        import random

        if isinstance(error, ITS_OWN_FAULT):
            return False
        self._errors[mirror.index] = error
        if error.retry is not Retry.SAME_SOURCE:
            self.ban(mirror, str(error))
            return True
        if moved:
            self._shares.moved(mirror.index)
        crowded = isinstance(error, OverloadedError | TooSlowError | NetworkError) and running > 1
        wait_s = getattr(error, "retry_after_s", None) or 0.0
        was_down = self._shares.is_down(mirror.index)
        self._shares.failed(
            mirror.index,
            random.random(),
            time.monotonic(),
            wait_s=wait_s,
            running=running if crowded else None,
        )
        if self._shares.is_down(mirror.index) and not was_down:
            self._say(f"{mirror.display} is left alone for a while: {error}")
        return True

    def moved(self, mirror: Mirror, start: int, stop: int) -> None:
        """Bytes of it are in place."""
        if stop > start and self.several:
            self._moved_at = time.monotonic()
            self._shares.moved(mirror.index)
            self.provenance.took(mirror.index, start, stop)

    def ban(self, mirror: Mirror, reason: str) -> None:
        """No request goes to it any more."""
        if self._shares.reason(mirror.index) is None:
            self._shares.ban(mirror.index, reason)
            self._say(f"{mirror.display} is not used any more: {reason}")

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def exhausted(self) -> FastxferError | None:
        """Returns the error to end with when no mirror is left, None while there is one to hope for."""
        waited = time.monotonic() - self._moved_at >= self._options.wait_for_network
        for each in self.all:
            hopeless = self._shares.is_down(each.index) and waited
            if self._shares.reason(each.index) is None and not hopeless:
                return None
        reasons = [
            f"{each.display}: {self._shares.reason(each.index) or self._errors.get(each.index)}"
            for each in self.all
        ]
        known = [self._errors[each.index] for each in self.all if each.index in self._errors]
        error = copy.copy(known[0]) if known else RemoteChangedError("")
        error.message = f"no mirror is left: {'; '.join(reasons)}"
        error.args = (error.message,)
        return error

    def measure(self, received: dict[int, int], running: list[int]) -> list[Mirror]:
        """Takes the bytes that came since the last look; returns the mirrors to take requests from, for they
        are much slower than others.
        """
        now = time.monotonic()
        for each in self.all:
            total = self._took[each.index] = self._took.get(each.index, 0) + received.get(each.index, 0)
            self._shares.measured(each.index, total, running[each.index], now)
        slow = [self.all[index] for index in self._shares.too_slow(running, now)]
        for each in slow:
            self._say(f"{each.display} is much slower than others and was left alone for a while")
        return slow

    def to_move(self, running: list[int]) -> dict[int, int]:
        """Returns how many requests to take from which mirrors, for those that have none."""
        return self._shares.to_move(running, time.monotonic())

    # ---- who leads ----

    def leads(self, mirror: Mirror, ranged: bool) -> None:
        """Its answer was accepted as the first: it says what the object is. One stream is not mixed."""
        self.lead, self._open, self._preferred = mirror, ranged, mirror.index
        mirror.foreign = False
        self._shares.admit(mirror.index)

    def forget(self) -> None:
        """What was proven is of another object: everything begins again."""
        self.stop()
        self._open, self._round = False, self._round + 1
        self._spans = self._reference = None
        self._found.clear()
        self._suspicions, self._suspects = None, frozenset()
        self.provenance.forget()
        for each in self.all:
            each.told, each.foreign = None, False
            self._shares.withdraw(each.index)

    def left_is_of(self, checkpoint: Checkpoint) -> None:
        """Says of which URL an earlier run's progress is, and by what it could be known there."""
        for each in self.all:
            other = hash_of(each.original.url) != checkpoint.url_sha256
            unknown = self.several and not checkpoint.identity.has_validator
            each.foreign = (other and (self.several or bool(self._options.checksum))) or unknown

    @property
    def hashes(self) -> frozenset[str]:
        """The URLs, as checkpoints name them."""
        return frozenset(hash_of(each.original.url) for each in self.all)

    def stop(self) -> None:
        """Ends all that is under way."""
        for sampler in self._samplers:
            self.requests += sampler.requests
            sampler.stop()
        for timer in self._timers:
            timer.cancel()
        self._samplers.clear()
        self._timers.clear()

    # ---- proof ----

    @property
    def unproven(self) -> list[Mirror]:
        """Those that might be admitted yet."""
        return [
            each
            for each in self.all
            if self._shares.reason(each.index) is None and not self._shares.is_admitted(each.index)
        ]

    def prove(self) -> None:
        """Begins to hold those that are not proven against the lead, or against what is in place."""
        if self._spans is not None or not self._open or not self.unproven:
            return
        lead, size = self.lead, self._subject.size or 0
        ask_lead = lead.index in self._shares.usable(time.monotonic())
        within = [(0, size)] if ask_lead else self._host.in_place()
        spans = sample_spans(within, places())
        if not spans:
            if self._shares.reason(lead.index) is not None:
                self._host.begin_again_without(f"{lead.display} failed before a byte was in place")
            return
        self._spans, self._round, self._reference = spans, self._round + 1, None
        self._found.clear()
        if ask_lead:
            self._sample(lead, spans, self._refer)
        else:
            number = self._round
            self._host.peek(spans, lambda found: self._refer(found) if number == self._round else None)
        for each in self.unproven:
            self._try(each)

    def _sample(
        self, mirror: Mirror, spans: list[Span], then: Callable[[Samples | FastxferError], object]
    ) -> None:
        number = self._round

        def came(outcome: Samples | FastxferError) -> None:
            self.requests += sampler.requests
            self._samplers.remove(sampler)
            if number == self._round:
                self._host.guarded(lambda: then(outcome))

        sampler = Sampler(mirror, spans, self._subject, self._options, came)
        self._samplers.append(sampler)

    def _later(self, delay_s: float, call: Callable[[], object]) -> None:
        number = self._round
        self._timers.append(
            shared_engine().call_later(
                delay_s, lambda: self._host.guarded(call) if number == self._round else None
            )
        )

    def _refer(self, outcome: Samples | FastxferError) -> None:
        """Takes what the others are compared with."""
        if isinstance(outcome, FastxferError):
            self._spans = None  # the lead is out of reach: what is in place must do, or it is asked again
            self.failed(self.lead, outcome, 0, moved=False)
            self._later(LOOK_AGAIN_S, self.prove)
            self._host.mirrors_changed()
            return
        self._reference = outcome
        for index in list(self._found):
            self._compare(self.all[index])

    def _try(self, mirror: Mirror) -> None:
        if self._spans is not None:
            self._sample(mirror, self._spans, lambda outcome: self._tried(mirror, outcome))

    def _tried(self, mirror: Mirror, outcome: Samples | FastxferError) -> None:
        if not isinstance(outcome, FastxferError):
            self._found[mirror.index] = outcome
            self._compare(mirror)
            return
        if isinstance(outcome, RemoteChangedError):
            self._dissents(mirror, str(outcome))
        elif self.failed(mirror, outcome, 0, moved=False) and self._shares.reason(mirror.index) is None:
            wait_s = self._shares.rest_s(mirror.index, time.monotonic())
            self._later(wait_s, lambda: self._try(mirror))
        self._host.mirrors_changed()

    def _compare(self, mirror: Mirror) -> None:
        if self._reference is None or self._spans is None:
            return
        for (start, stop), mine, theirs in zip(
            self._spans, self._reference, self._found[mirror.index], strict=True
        ):
            if mine != theirs:
                self._dissents(mirror, f"it has other bytes in [{start}, {stop}) than {self.lead.display}")
                break
        else:
            self._shares.admit(mirror.index)
            self._shares.moved(mirror.index)
        self._host.mirrors_changed()

    def _dissents(self, mirror: Mirror, reason: str) -> None:
        """Bans a mirror that has another object; the first URL's word counts more than that of another."""
        self._dissenters.append(mirror.index)
        self._errors[mirror.index] = RemoteChangedError(reason)
        if mirror.index == 0 and not self._decidable:
            lead = self.lead
            self._dissenters[-1] = lead.index
            self.ban(lead, f"it has another object than {mirror.display}")
            self._host.begin_again_without(f"{mirror.display} answered, and has another object")
            return
        self.ban(mirror, reason)

    def dissents_with_left(self, mirror: Mirror, reason: str) -> bool:
        """Notes that a mirror has another object than an earlier run left; returns whether another one may
        have that, and be right: where a checksum is to tell at the end, and one is left to ask.
        """
        if not self._decidable or len(self.unproven) < 2:
            for index in self._dissenters:
                self._shares.pardon(index)
            self._dissenters.clear()
            return False
        self._dissents(mirror, reason)
        return True

    def hold_against(
        self, mirror: Mirror, spans: list[Span], then: Callable[[str | FastxferError | None], object]
    ) -> None:
        """Holds a mirror against what an earlier run left; `then` gets None when it has the same bytes, in
        words what differs, or the error.
        """
        spans = sample_spans(spans, places())
        self._round += 1

        def came(outcome: Samples | FastxferError) -> None:
            if isinstance(outcome, RemoteChangedError):
                then(str(outcome))
            elif isinstance(outcome, FastxferError):
                then(outcome)
            else:
                self._host.peek(spans, lambda found: then(_difference(spans, found, outcome)))

        self._sample(mirror, spans, came)

    # ---- when the first does not answer ----

    def hurry(self, mirror: Mirror, unanswered: Callable[[], bool], then: Callable[[Mirror], object]) -> None:
        """Asks the next mirror too when `mirror` does not answer for a moment; `then` gets one that did."""

        def look() -> None:
            if self._open or not unanswered():
                return
            others = [each for each in self.unproven if each.index > mirror.index]
            if not others:
                return
            self._sample(others[0], [(0, 1)], lambda outcome: answered(others[0], outcome))

        def answered(other: Mirror, outcome: Samples | FastxferError) -> None:
            if self._open or not unanswered():
                return
            if isinstance(outcome, FastxferError) and not isinstance(outcome, RemoteChangedError):
                self.failed(other, outcome, 0, moved=False)
                self.hurry(other, unanswered, then)
            else:
                then(other)  # it answers; what, its next answer says

        self._later(HEAD_START_S, look)

    # ---- when the whole is not what it should be ----

    def can_mend(self, size: int) -> bool:
        """Returns whether there is another way to put the object together."""
        if self._repairs and any(self._proven(each.index) for each in self.all):
            return True
        return self.several and bool(self._doubts(size) or self._other_leads())

    def _doubts(self, size: int) -> list[frozenset[int]]:
        if self._suspicions is None:
            proven = [each.index for each in self.all if self._proven(each.index)]
            self._suspicions = suspicions(self.provenance.sources(size), proven)
        return self._suspicions

    def _proven(self, index: int) -> bool:
        return self._shares.is_admitted(index) or index in self._suspects

    def _other_leads(self) -> list[int]:
        """Returns those that have another object, or have not been asked what they have."""
        if not self._decidable:
            return []
        unasked = [each.index for each in self.unproven if each.index not in self._dissenters]
        return [*self._dissenters, *unasked]

    def doubt(self, size: int, wrong: list[Span]) -> list[Span] | None:
        """Returns the ranges to fetch again, from others than those that are doubted now; None when another
        lead is to be tried from the beginning. `wrong` are ranges that are known to be wrong.
        """
        for index in self._suspects:
            if index != EARLIER:
                self._shares.pardon(index)
        alone = sum(self._shares.is_admitted(each.index) for each in self.all) < 2
        if wrong and not (alone and self._other_leads()):
            self._repairs -= 1
            self._suspects = self._givers(wrong, size)
            self._ban_suspects()
            return wrong
        self._repairs = 0
        doubts = self._doubts(size)
        if not doubts:
            trusted = self._other_leads()[0]
            self._dissenters = [index for index in self._dissenters if index != trusted]
            for each in self.all:
                if self._shares.is_admitted(each.index):
                    self.ban(each, "the checksum does not hold for what it sent")
            self._preferred = trusted
            self._shares.pardon(trusted)
            self._say(f"{self.all[trusted].display} leads now: the checksum is to decide who is right")
            self._suspicions, self._suspects = None, frozenset()
            return None
        self._suspects = doubts.pop(0)
        self._ban_suspects()
        return [span for index in self._suspects for span in self.provenance.of(index, size)]

    def _ban_suspects(self) -> None:
        for index in self._suspects:
            if index != EARLIER:
                self._shares.ban(index, "what it sent is in doubt")

    def _givers(self, wrong: list[Span], size: int) -> frozenset[int]:
        """Returns who gave wrong bytes; the one that gave most where all did, nobody where there is one."""
        gave = {
            index: sum(_touches(span, self.provenance.of(index, size)) for span in wrong)
            for index in self.provenance.givers(wrong, size)
        }
        proven = {each.index for each in self.all if self._shares.is_admitted(each.index)}
        if proven - set(gave):
            return frozenset(gave)
        return frozenset({max(gave, key=lambda index: gave[index])}) if len(proven) > 1 else frozenset()

    def fetched_again(self, before: dict[int, int], size: int) -> None:
        """Remembers the CRCs of the chunks that are fetched again now, and whose they were."""
        self._before = (before, {index: self.provenance.of(index, size) for index in self._suspects})

    def convict(self, ledger: ChunkLedger) -> None:
        """The whole holds now: names and bans whose chunks were wrong."""
        before, gave = self._before
        changed = [chunk for chunk, crc in before.items() if chunk in ledger and ledger.crc(chunk) != crc]
        for index, spans in gave.items():
            bad = [chunk for chunk in changed if _touches(ledger.bounds(chunk), spans)]
            if not bad:
                if index != EARLIER:
                    self._shares.pardon(index)
                continue
            what = f"{len(bad)} chunk{'s' if len(bad) > 1 else ''} of what"
            whose = "an earlier run left" if index == EARLIER else f"{self.all[index].display} sent"
            self._say(f"{what} {whose} was wrong and was fetched again from others")
        self._before = ({}, {})


def _touches(span: Span, spans: list[Span]) -> bool:
    return any(start < span[1] and span[0] < stop for start, stop in spans)


def _difference(spans: list[Span], one: Samples, other: Samples) -> str | None:
    for (start, stop), mine, theirs in zip(spans, one, other, strict=True):
        if mine != theirs:
            return f"it has other bytes in [{start}, {stop})"
    return None
