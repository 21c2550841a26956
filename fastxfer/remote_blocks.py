"""Reads an object in ranges: blocks of it, a request each, as many at once as there are connections.

A reader that needs bytes makes the blocks that are missing, and those ahead of it (plan/readahead.py), as far
as the memory goes, and waits for the first; the thread sends them. What has been read stays until its memory
is needed. A block that fails has its error raised when somebody reads there, and is then asked for anew.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any

from fastxfer._native.memory import PartBuffer
from fastxfer.buffers import Buffers
from fastxfer.errors import FastxferError, InterruptedTransferError
from fastxfer.plan.ranges import Span
from fastxfer.plan.readahead import LEAST, ReadAhead
from fastxfer.ranged_get import Get
from fastxfer.ranged_source import Fill, RangedSource, SourceChangedError
from fastxfer.remote_reading import TICK_S, Reading, Take

MOST_BLOCKS = 256


class Block:
    """A stretch of the object, there or on its way. Of the state, but for `fill`, which is the thread's."""

    __slots__ = ("buffer", "due", "error", "fill", "out", "start", "stop", "there", "turn", "used")

    def __init__(self, source: RangedSource, span: Span, buffer: PartBuffer) -> None:
        self.start, self.stop = span
        self.buffer = buffer
        self.fill = Fill(source, self.start, buffer)
        self.due = 0.0  # when it is to be asked for (again)
        self.out = False  # a request of it is on its way
        self.there = False
        self.error: FastxferError | None = None
        self.turn = 0  # the last read that wants it
        self.used = 0

    @property
    def waits(self) -> bool:
        """True when it is to be asked for."""
        return not (self.out or self.there or self.error)


class BlockReading(Reading):
    """See the module. `first` has the beginning of the object."""

    def __init__(
        self, source: RangedSource, stop: threading.Event, policy: ReadAhead, first: PartBuffer
    ) -> None:
        super().__init__(source, stop)
        self._policy = policy
        self._buffers = Buffers(policy.memory)
        self._blocks: list[Block] = []  # by their starts; none overlaps another
        self._leaving: set[Block] = set()  # nobody wants them, and their request is not over yet
        self._gets: dict[Get, Block] = {}
        self._turn = 0  # counts the reads
        self._planned_at = -1
        if first.filled:
            block = Block(source, (0, first.filled), first)
            block.there = True
            self._blocks.append(block)

    @property
    def size(self) -> int:
        """See Reading."""
        return self._policy.size

    # ---- the reader's thread ----

    def read(self, spans: Sequence[Span], take: Take, *, follow: bool) -> None:
        """See Reading."""
        spans = [(start, min(stop, self.size)) for start, stop in spans]
        with self._state:
            self._turn += 1
            if follow:
                ((start, stop),) = spans
                self._policy = self._policy.read(start, max(start, stop))
            for index, (start, stop) in enumerate(spans):
                at = start
                while at < stop:
                    block = self._reach(spans, index, at)
                    end = min(stop, block.stop)
                    take(at, memoryview(block.buffer)[at - block.start : end - block.start])
                    block.used, block.turn = self._turn, 0
                    at = end
            self._check()
            if abs(self._policy.at - self._planned_at) >= LEAST:
                self._plan_ahead()

    def _reach(self, spans: Sequence[Span], index: int, at: int) -> Block:
        """Returns the block that has the bytes at a position, once they are there."""
        while True:
            self._check()
            block = self._block_at(at)
            if block is not None and block.error is not None:
                self._forget(block)
                raise block.error
            if block is not None and block.there:
                return block
            self._plan(spans, index, at)
            self._state.wait()

    def _plan(self, spans: Sequence[Span], index: int, at: int) -> None:
        """Makes the blocks that are wanted from a position on, as far as there is room."""
        for start, stop in itertools.islice(spans, index, None):
            for gap, free in self._gaps((max(start, at) if start <= at < stop else start, stop)):
                for span in self._policy.blocks(gap, free):
                    if not self._make(span, urgent=span[0] <= at < span[1]):
                        return
        self._plan_ahead()

    def _plan_ahead(self) -> None:
        self._planned_at = self._policy.at
        for gap, _ in self._gaps(self._policy.window, wanted=False):
            for span in self._policy.blocks_ahead(gap):
                if not self._make(span, urgent=False, turn=0):
                    return

    def _gaps(self, span: Span, *, wanted: bool = True) -> Iterator[tuple[Span, Span]]:
        """Yields what no block has of a range, each time with what is free around it; with `wanted` the
        blocks in it are for the read that is under way.
        """
        at, stop = span
        while at < stop:
            index = bisect_right(self._blocks, at, key=lambda block: block.start)
            before = self._blocks[index - 1] if index else None
            if before is not None and before.stop > at:
                if wanted:
                    before.turn = self._turn
                at = before.stop
                continue
            until = self._blocks[index].start if index < len(self._blocks) else self.size
            yield (at, min(stop, until)), (before.stop if before is not None else 0, until)
            at = min(stop, until)

    def _make(self, span: Span, *, urgent: bool, turn: int | None = None) -> bool:
        """Makes a block, where there is room for it, or it is made; returns whether there is."""
        unfinished = sum(not block.there for block in self._blocks)
        if unfinished >= 2 * self._policy.connections and not urgent:
            return False
        while len(self._blocks) >= MOST_BLOCKS or (buffer := self._buffers.take(span[1] - span[0])) is None:
            victim = self._victim(span, urgent=urgent)
            if victim is None:
                return False
            self._forget(victim)
        block = Block(self._source, span, buffer)
        block.turn = self._turn if turn is None else turn
        insort(self._blocks, block, key=lambda each: each.start)
        self._wake()
        return True

    def _victim(self, span: Span, *, urgent: bool) -> Block | None:
        """Returns a block whose memory may be taken for another one: what was read longest ago; for what is
        urgent also what is ahead, the farthest first.
        """
        others = [block for block in self._blocks if not block.out and not self._is_wanted(block)]
        if others:
            return min(others, key=lambda block: block.used)
        if not urgent or self._leaving:
            return None
        return max(self._blocks, key=lambda block: abs(block.start - span[0]), default=None)

    def _is_wanted(self, block: Block) -> bool:
        start, stop = self._policy.window
        return block.turn == self._turn or (block.start < stop and block.stop > start)

    def _forget(self, block: Block) -> None:
        self._blocks.remove(block)
        if block.out:
            self._leaving.add(block)
            self._wake()
        else:
            self._buffers.give_back(block.buffer)

    def _block_at(self, at: int) -> Block | None:
        index = bisect_right(self._blocks, at, key=lambda block: block.start)
        block = self._blocks[index - 1] if index else None
        return block if block is not None and block.stop > at else None

    # ---- its own thread ----

    def _timeout_s(self) -> float | None:
        with self._state:
            busy = self._gets or any(block.waits for block in self._blocks)
        return TICK_S if busy else None

    def _go_on(self) -> None:
        now = time.monotonic()
        with self._state:
            for block in [each for each in self._blocks if each.waits and not self._is_wanted(each)]:
                self._forget(block)  # it was ahead of who reads elsewhere now
            due = [block for block in self._blocks if block.waits and block.due <= now]
            due.sort(key=lambda block: (block.turn != self._turn, block.start))
            free = self._policy.connections - len(self._gets)
            if due and free <= 0 and due[0].turn == self._turn and not self._leaving:
                self._make_way()
            due = due[: max(0, free)]
            for block in due:
                block.out = True
            leaving = set(self._leaving)
        for block in due:
            self._ask(block)
        for get, block in self._gets.items():
            if block in leaving:
                self._source.abort(get, InterruptedTransferError("nobody wants it any more"))
            else:
                self._source.abort_if_stalled(get, now)

    def _make_way(self) -> None:
        """Ends a request that nobody waits for, for one that somebody does."""
        idle = next((block for block in self._blocks if block.out and not self._is_wanted(block)), None)
        if idle is not None:
            self._forget(idle)

    def _ask(self, block: Block) -> None:
        try:
            get = self._source.get(block.fill.begins(), block.buffer, self._events.put)
        except FastxferError as error:
            self._came(block, None, error)
        else:
            self._gets[get] = block

    def _take(self, event: Any) -> None:
        get: Get = event
        block = self._gets.pop(get)
        wait_s: float | None = None
        failed: FastxferError | None = None
        with self._state:
            left = block in self._leaving
        try:
            if not left:
                wait_s = block.fill.came(get)
        except SourceChangedError as changed:
            self._break(changed)
            failed = changed
        except FastxferError as error:
            failed = error
        finally:
            self._source.release(get)
        self._came(block, wait_s, failed)

    def _came(self, block: Block, wait_s: float | None, failed: FastxferError | None) -> None:
        with self._state:
            block.out = False
            if block in self._leaving:
                self._leaving.remove(block)
                self._buffers.give_back(block.buffer)
            elif failed is not None:
                block.error = failed
            elif wait_s is None:
                block.there = True
            else:
                block.due = time.monotonic() + wait_s
            self._state.notify_all()

    def _end(self) -> None:
        self._end_all(list(self._gets))
        with self._state:
            self._gets.clear()
            self._blocks.clear()
