"""The chunk grid of an object: the unit of the bitmap, its checksums and the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

MIN_CHUNK = 256 * 1024
LARGE_CHUNK = 4 * 1024**2
AIM_CHUNKS = 2048
FEW_CHUNKS = 2**18
MOST_CHUNKS = 2**20


def chunk_size_for(size: int, wish: int | None = None) -> int:
    """Returns the chunk size in bytes for an object of `size` bytes.

    A wish (1 byte to 5 GiB) is honoured unless it made more than 2**20 chunks; then it is doubled until it
    does not. Without one: a power of two that makes about 2,048 chunks, from 256 KiB to 4 MiB, and over 1
    TiB as large as keeps to 2**18 chunks (a checkpoint of 2 MiB).
    """
    if wish is not None:
        chunk = wish
        while size > chunk * MOST_CHUNKS:
            chunk *= 2
        return chunk
    chunk = MIN_CHUNK
    while chunk < LARGE_CHUNK and size > chunk * AIM_CHUNKS:
        chunk *= 2
    while size > chunk * FEW_CHUNKS:
        chunk *= 2
    return chunk


def prefix_bytes(positions: Iterable[int], chunk_size: int) -> int:
    """Returns how many bytes lie before `positions` in their chunks; in each chunk the furthest counts."""
    prefixes: dict[int, int] = {}
    for pos in positions:
        chunk = pos // chunk_size
        prefixes[chunk] = max(prefixes.get(chunk, 0), pos % chunk_size)
    return sum(prefixes.values())
