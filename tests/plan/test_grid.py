"""The chunk grid: how large a chunk is for an object of a size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.bitmap import MAX_CHUNKS
from fastxfer.plan.grid import FEW_CHUNKS, LARGE_CHUNK, MIN_CHUNK, MOST_CHUNKS, chunk_size_for, prefix_bytes

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
sizes = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (0, 256 * KIB),
        (1, 256 * KIB),
        (512 * MIB, 256 * KIB),
        (512 * MIB + 1, 512 * KIB),
        (2 * GIB, MIB),
        (8 * GIB, 4 * MIB),
        (100 * GIB, 4 * MIB),
        (TIB, 4 * MIB),
        (TIB + 1, 8 * MIB),
    ],
)
def test_without_a_wish_the_size_decides(size: int, chunk: int) -> None:
    assert chunk_size_for(size) == chunk


@given(sizes)
def test_without_a_wish_a_chunk_is_a_power_of_two_and_chunks_are_few(size: int) -> None:
    chunk = chunk_size_for(size)
    assert chunk >= MIN_CHUNK and chunk & (chunk - 1) == 0
    assert -(-size // chunk) <= FEW_CHUNKS
    assert chunk <= LARGE_CHUNK or size > LARGE_CHUNK * FEW_CHUNKS


def test_a_wish_of_exactly_the_most_chunks_holds() -> None:
    assert chunk_size_for(1000 * MOST_CHUNKS, 1000) == 1000
    assert chunk_size_for(1000 * MOST_CHUNKS + 1, 1000) == 2000


@given(sizes, st.integers(1, 5 * GIB))
def test_a_wish_holds_unless_it_makes_too_many_chunks(size: int, wish: int) -> None:
    chunk = chunk_size_for(size, wish)
    assert chunk % wish == 0
    assert -(-size // chunk) <= MOST_CHUNKS <= MAX_CHUNKS
    assert chunk == wish or -(-size // (chunk // 2)) > MOST_CHUNKS


def test_of_several_places_in_a_chunk_the_furthest_counts_and_each_chunk_once() -> None:
    assert prefix_bytes([], 100) == 0
    assert prefix_bytes([30, 70, 50], 100) == 70
    assert prefix_bytes([230, 110, 170], 100) == 100
    assert prefix_bytes([200], 100) == 0
