"""What a kill cost: what had come by then, and what the next run went on from.

In bytes: of the part file as it lies there, the pages that are right, or what the fetch had told if that is
more (a sink may still have held it). In seconds: how long before the kill the fetch had as much as was kept;
and without what it waited for, since the promise is of a program that may run and whose disk answers: its
calls to the disk, how much later than it wanted the thread that tells was woken, and how long that one of the
others which waited longest was ready to run and did not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.kills.watched import EVERY_S

PAGE = 4096
TOLD_EVERY_S = 0.1  # a transfer makes its progress known so often
# The most that a kill may cost, in seconds: of all bytes, and of chunks that were whole.
STATED = {"none": (0.75, 0.75), "periodic": (0.75, 0.75), "chunk": (0.55, 0.05)}
TORN_S = 5.75  # where the kill falls into the writing of the checkpoint


@dataclass(slots=True)
class Telling:
    """What a child told until it was killed."""

    bytes: list[tuple[float, int]] = field(default_factory=list)
    chunks: list[tuple[float, int]] = field(default_factory=list)
    awake: list[float] = field(default_factory=list)
    calls: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin and end of each call to the disk; a call that the kill cut off ends with it."""
    delays: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    """How long each thread has waited for a CPU since it began."""
    killed_at: float = 0.0

    @classmethod
    def read(cls, lines: list[str], killed_at: float) -> Telling:
        """Returns what the lines of a child say; the last one may be cut off."""
        told = cls(killed_at=killed_at)
        begun: tuple[float, str] | None = None
        for line in lines:
            words = line.split()
            if not line.endswith("\n") or float(words[0]) > killed_at:
                continue
            at = float(words[0])
            if words[1] == "end":
                assert begun is not None
                told.calls.append((begun[0], at, begun[1]))
                begun = None
            elif not words[1].isdigit():
                begun = (at, words[1])
            else:
                told._is_at(at, int(words[1]), int(words[2]))
                waits = (word.split(":") for word in words[3:])
                told.delays.append((at, {thread: int(waited) / 1e9 for thread, waited in waits}))
        if begun is not None:
            told.calls.append((begun[0], killed_at, begun[1]))
        return told

    def _is_at(self, at: float, done: int, chunks: int) -> None:
        for points, now in ((self.bytes, done), (self.chunks, chunks)):
            if points and points[-1][1] != now and self.awake[-1] > points[-1][0]:
                points.append((self.awake[-1], points[-1][1]))  # so long it was as before
            if not points or points[-1][1] != now:
                points.append((at, now))
        self.awake.append(at)

    @property
    def writes_at_the_end(self) -> bool:
        """True when the kill fell into the writing of a checkpoint."""
        return bool(self.calls) and self.calls[-1][1:] == (self.killed_at, "pwrite")

    def waited(self, since: float) -> float:
        """Returns how long since then it waited for the disk, or for its turn."""
        disk = [(max(begin, since), end) for begin, end, _ in self.calls if end > since]
        awake = [since, *(at for at in self.awake if at > since), self.killed_at]
        late = [(one + EVERY_S, other) for one, other in pairwise(awake)]
        total, reached = 0.0, since
        for begin, end in sorted([*disk, *late]):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total + self._ready(since)

    def _ready(self, since: float) -> float:
        """Returns how long that thread which waited longest for a CPU did so since then."""
        place = max(0, bisect_right(self.delays, since, key=lambda each: each[0]) - 1)
        if not self.delays:
            return 0.0
        before, now = self.delays[place][1], self.delays[-1][1]
        return max((waited - before.get(thread, 0.0) for thread, waited in now.items()), default=0.0)

    def bytes_since(self, kept: int) -> float:
        """Returns when it had so many bytes; between two tellings it went on evenly."""
        place = bisect_right(self.bytes, kept, key=lambda point: point[1])
        if place == len(self.bytes):
            return self.killed_at
        if place == 0:
            return self.bytes[0][0]
        (one, low), (other, high) = self.bytes[place - 1 : place + 1]
        return one + (other - one) * (kept - low) / (high - low)

    def chunks_since(self, kept: int) -> float:
        """Returns when it first had more whole chunks."""
        return next((at for at, count in self.chunks if count > kept), self.killed_at)


@dataclass(frozen=True, slots=True)
class Loss:
    """What one kill cost, in all and without what it waited for."""

    bytes: int
    seconds: float
    seconds_net: float
    chunks_seconds_net: float
    over: str = ""
    """What was told last, if it is more than what the durability allows."""


def loss(told: Telling, durability: str, there: int, kept: int, kept_chunks: int) -> Loss:
    """Returns what a kill cost of the bytes that were `there`."""
    since, chunks_since = told.bytes_since(kept), told.chunks_since(kept_chunks)
    last = told.bytes[-1][1] if told.bytes else 0
    whole, chunks = (TORN_S, TORN_S) if told.writes_at_the_end else STATED[durability]
    seconds_net = told.killed_at - since - told.waited(since)
    chunks_net = told.killed_at - chunks_since - told.waited(chunks_since)
    # As exactly as the fetch tells.
    fits = seconds_net <= whole + TOLD_EVERY_S and chunks_net <= chunks + 4 * EVERY_S
    over = (
        "" if fits else f"{durability}, {kept} kept: {told.bytes[-20:]} {told.chunks[-20:]} {told.calls[-8:]}"
    )
    return Loss(max(0, last - kept, there - kept), told.killed_at - since, seconds_net, chunks_net, over)


def right_bytes(part: Path, content: bytes) -> int:
    """Returns how many bytes of a part file are the object's, in pages that are right as a whole."""
    there = np.fromfile(part, np.uint8) if part.exists() else np.empty(0, np.uint8)
    whole = min(len(there), len(content)) // PAGE
    right = np.frombuffer(content, np.uint8, whole * PAGE)
    same = (there[: whole * PAGE] == right).reshape(whole, PAGE).all(axis=1)
    return int(same.sum()) * PAGE


def table(losses: list[tuple[str, Loss]]) -> str:
    """Returns what many kills cost at most, a line for each durability."""
    by_durability: dict[str, list[Loss]] = defaultdict(list)
    for durability, each in losses:
        by_durability[durability].append(each)
    lines = []
    for durability, some in sorted(by_durability.items()):
        middle = sorted(one.seconds for one in some)[len(some) // 2]
        lines.append(
            f"{durability}: {len(some)} kills, at most {max(one.bytes for one in some) / 1024**2:.2f} MiB, "
            f"{max(one.seconds for one in some):.2f} s (median {middle:.2f}); "
            f"without waiting {max(one.seconds_net for one in some):.2f} s, "
            f"of whole chunks {max(one.chunks_seconds_net for one in some):.2f} s"
        )
    return "\n".join(lines)
