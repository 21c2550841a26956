"""The chunk ledger against a Python set."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastxfer._native.bitmap import MAX_CHUNKS, ChunkLedger

Span = tuple[int, int]
EDGE = 2**63 - 1


def spans(chunks: set[int], size: int, chunk_size: int) -> list[Span]:
    """Returns the byte ranges of a set of chunks, adjacent ones joined."""
    found: list[Span] = []
    for chunk in sorted(chunks):
        start, stop = chunk * chunk_size, min((chunk + 1) * chunk_size, size)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


class LedgerAndSet(RuleBasedStateMachine):
    """Does the same to a ledger and to a set of chunk numbers; both must say the same at every step."""

    @initialize(count=st.integers(0, 300), chunk_size=st.integers(1, 1000), short=st.integers(0, 999))
    def begin(self, count: int, chunk_size: int, short: int) -> None:
        self.size = max(0, count * chunk_size - short % chunk_size)
        self.chunk_size = chunk_size
        self.count = -(-self.size // chunk_size)
        self.ledger = ChunkLedger(self.size, chunk_size)
        self.model: dict[int, int] = {}

    def pick(self, number: int) -> int | None:
        return number % self.count if self.count else None

    @rule(number=st.integers(0, 10**6), crc=st.integers(0, 2**64 - 1))
    def put(self, number: int, crc: int) -> None:
        chunk = self.pick(number)
        if chunk is not None:
            self.ledger.set(chunk, crc)
            self.model[chunk] = crc

    @rule(number=st.integers(0, 10**6), length=st.integers(1, 100))
    def put_many(self, number: int, length: int) -> None:
        first = self.pick(number)
        if first is not None:
            for chunk in range(first, min(self.count, first + length)):
                self.put(chunk, chunk + 1)

    @rule(number=st.integers(0, 10**6))
    def drop(self, number: int) -> None:
        chunk = self.pick(number)
        if chunk is not None:
            self.ledger.clear(chunk)
            self.model.pop(chunk, None)

    @rule()
    def reset(self) -> None:
        self.ledger.reset()
        self.model.clear()

    @rule()
    def copy_over(self) -> None:
        other = ChunkLedger(self.size, self.chunk_size)
        other.load(self.ledger.bits(), self.ledger.crcs())
        self.ledger = other

    @rule(start=st.integers(0, 10**6))
    def front(self, start: int) -> None:
        chunk = start // self.chunk_size
        while chunk < self.count and chunk in self.model:
            chunk += 1
        chunk = max(chunk, 0)
        assert self.ledger.front(start) == min(chunk * self.chunk_size, self.size)

    @rule(width=st.integers(0, 80))
    def cells(self, width: int) -> None:
        done, total = self.ledger.cells(width)
        assert len(done) == len(total) == min(width, self.count)
        if total:
            assert (sum(done), sum(total)) == (len(self.model), self.count)
            assert max(total) - min(total) <= 1
            low = 0
            for there, wide in zip(done, total, strict=True):
                assert there == sum(chunk in self.model for chunk in range(low, low + wide))
                low += wide

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, model = self.ledger, set(self.model)
        assert (ledger.size, ledger.chunk_size, ledger.count) == (self.size, self.chunk_size, self.count)
        assert ledger.done == len(model)
        present = spans(model, self.size, self.chunk_size)
        assert ledger.present() == present
        assert ledger.missing() == spans(set(range(self.count)) - model, self.size, self.chunk_size)
        assert ledger.done_bytes == sum(stop - start for start, stop in present)
        assert ledger.complete is (len(model) == self.count)
        assert int.from_bytes(ledger.bits(), "little") == sum(1 << chunk for chunk in model)
        assert len(ledger.bits()) == -(-self.count // 8)
        crcs = struct.unpack(f"={self.count}Q", ledger.crcs())
        assert all(crcs[chunk] == ledger.crc(chunk) == crc for chunk, crc in self.model.items())


TestLedgerAndSet = LedgerAndSet.TestCase


@given(
    st.integers(0, 2000), st.integers(1, 5), st.lists(st.tuples(st.integers(0, 1999), st.integers(0, 300)))
)
def test_long_stretches_join_across_the_bytes_of_the_bitmap(
    count: int, chunk_size: int, stretches: list[Span]
) -> None:
    ledger = ChunkLedger(count * chunk_size, chunk_size)
    model = {c for first, length in stretches for c in range(first, min(count, first + length))}
    for chunk in model:
        ledger.set(chunk, 1)
    assert ledger.present() == spans(model, count * chunk_size, chunk_size)
    assert ledger.missing() == spans(set(range(count)) - model, count * chunk_size, chunk_size)


@pytest.mark.parametrize(
    ("size", "chunk_size"),
    [(-1, 1), (2**63, 1), (1, 0), (1, -1), (1, 2**63), (MAX_CHUNKS + 1, 1), (EDGE, 1), (2**64, 2**40)],
)
def test_sizes_that_cannot_be_are_refused_before_memory_is_taken(size: int, chunk_size: int) -> None:
    with pytest.raises(ValueError, match=r"under 2\*\*63|more than"):
        ChunkLedger(size, chunk_size)


def test_the_largest_sizes_do_not_overflow() -> None:
    ledger = ChunkLedger(EDGE, 2**62 + 1)
    assert ledger.count == 2
    assert ledger.bounds(1) == (2**62 + 1, EDGE)
    ledger.set(1, 5)
    assert ledger.done_bytes == EDGE - 2**62 - 1
    assert ledger.front() == 0
    ledger.set(0, 5)
    assert (ledger.complete, ledger.front(), ledger.present()) == (True, EDGE, [(0, EDGE)])


def test_the_most_chunks_are_allowed() -> None:
    ledger = ChunkLedger(MAX_CHUNKS, 1)
    assert ledger.missing() == [(0, MAX_CHUNKS)]


def test_an_empty_object_is_complete() -> None:
    ledger = ChunkLedger(0, 1024)
    assert (ledger.count, ledger.complete, ledger.bits(), ledger.crcs()) == (0, True, b"", b"")
    assert (ledger.missing(), ledger.present(), ledger.front(), ledger.cells(9)) == ([], [], 0, ([], []))


@pytest.mark.parametrize("chunk", [10, 11, 2**63])
def test_a_chunk_past_the_last_is_an_index_error_and_not_contained(chunk: int) -> None:
    ledger = ChunkLedger(95, 10)
    assert chunk not in ledger
    for call in (ledger.bounds, ledger.crc, ledger.clear, lambda each: ledger.set(each, 1)):
        with pytest.raises(IndexError):
            call(chunk)
    assert ledger.done == 0


def test_setting_a_chunk_twice_counts_once_and_keeps_the_later_checksum() -> None:
    ledger = ChunkLedger(95, 10)
    ledger.set(9, 1)
    ledger.set(9, 2)
    assert (ledger.done, ledger.done_bytes, ledger.crc(9)) == (1, 5, 2)


@pytest.mark.parametrize(
    ("bits", "crcs"),
    [
        (b"", bytes(80)),
        (b"\0", bytes(80)),
        (b"\0\0\0", bytes(80)),
        (b"\0\0", bytes(79)),
        (b"\0\0", bytes(88)),
        (b"\0\x04", bytes(80)),
        (b"\0\x80", bytes(80)),
    ],
)
def test_a_load_that_does_not_fit_changes_nothing(bits: bytes, crcs: bytes) -> None:
    ledger = ChunkLedger(95, 10)
    ledger.set(3, 7)
    before = (ledger.bits(), ledger.crcs(), ledger.done)
    with pytest.raises(ValueError, match="bitmap"):
        ledger.load(bits, crcs)
    assert (ledger.bits(), ledger.crcs(), ledger.done) == before


def test_a_load_counts_a_short_last_chunk_as_it_is() -> None:
    ledger = ChunkLedger(95, 10)
    ledger.load(b"\x01\x02", bytes(80))
    assert (ledger.done, ledger.done_bytes) == (2, 15)


def test_copies_are_not_views() -> None:
    ledger = ChunkLedger(95, 10)
    bits, crcs = ledger.bits(), ledger.crcs()
    ledger.set(0, 2**64 - 1)
    assert (bits, crcs) == (bytes(2), bytes(80))


def test_a_chunk_that_is_missing_again_has_no_checksum() -> None:
    ledger = ChunkLedger(1000, 10)
    ledger.set(3, 77)
    ledger.set(4, 78)
    ledger.clear(3)
    assert (ledger.crc(3), ledger.crc(4)) == (0, 78)
    ledger.reset()
    assert set(ledger.crcs()) == {0}
