"""The chunk ledger: which chunks of an object are in place, and the CRC-64/NVME of each (the C is in src_c/bitmap.c)."""

from libc.stdlib cimport calloc, free
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

MAX_CHUNKS = 1 << 24
"""The most chunks that a ledger has: 16 Mi, 130 MiB of checksums."""


cdef class ChunkLedger:
    """A bit and a CRC-64 a chunk, for an object of `size` bytes on a grid of `chunk_size` bytes.

    All methods need the interpreter's lock, so that a snapshot is a consistent one. Raises ValueError for a size under 0, a chunk size
    under 1 or more than MAX_CHUNKS chunks, MemoryError when there is no memory.
    """

    def __cinit__(self, size, chunk_size):
        if size < 0 or size > 0x7FFFFFFFFFFFFFFF or chunk_size < 1 or chunk_size > 0x7FFFFFFFFFFFFFFF:
            raise ValueError("size must be 0 or more and chunk_size 1 or more, both under 2**63")
        self.c.size = size
        self.c.chunk_size = chunk_size
        self.c.count = fx_chunk_count(self.c.size, self.c.chunk_size)
        if self.c.count > MAX_CHUNKS:
            raise ValueError(f"{size} bytes in chunks of {chunk_size} are more than {MAX_CHUNKS} chunks")
        self.c.bits = <unsigned char *>calloc(fx_bitmap_bytes(self.c.count) + 1, 1)
        self.c.crcs = <uint64_t *>calloc(self.c.count + 1, sizeof(uint64_t))
        if self.c.bits == NULL or self.c.crcs == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.c.bits)
        free(self.c.crcs)

    cdef int _check(self, uint64_t chunk) except -1:
        if chunk >= self.c.count:
            raise IndexError(f"chunk {chunk} of {self.c.count}")
        return 0

    @property
    def size(self):
        """Bytes of the object."""
        return self.c.size

    @property
    def chunk_size(self):
        """Bytes of a chunk; the last one may be shorter."""
        return self.c.chunk_size

    @property
    def count(self):
        """Number of chunks."""
        return self.c.count

    @property
    def done(self):
        """Number of chunks in place."""
        return self.c.done

    @property
    def done_bytes(self):
        """Bytes in the chunks that are in place."""
        return self.c.done_bytes

    @property
    def complete(self):
        """True when every chunk is in place."""
        return self.c.done == self.c.count

    def __contains__(self, uint64_t chunk):
        return chunk < self.c.count and fx_ledger_test(&self.c, chunk)

    def bounds(self, uint64_t chunk):
        """Returns (start, stop) of a chunk in bytes of the object. Raises IndexError."""
        self._check(chunk)
        return chunk * self.c.chunk_size, fx_ledger_chunk_end(&self.c, chunk)

    def crc(self, uint64_t chunk):
        """Returns the stored CRC-64/NVME of a chunk (0 when there is none). Raises IndexError."""
        self._check(chunk)
        return self.c.crcs[chunk]

    def set(self, uint64_t chunk, uint64_t crc):
        """Marks a chunk as in place with its CRC. Raises IndexError."""
        self._check(chunk)
        fx_ledger_set(&self.c, chunk, crc)

    def clear(self, uint64_t chunk):
        """Marks a chunk as missing. Raises IndexError."""
        self._check(chunk)
        fx_ledger_clear(&self.c, chunk)

    def reset(self):
        """Marks every chunk as missing."""
        memset(self.c.bits, 0, fx_bitmap_bytes(self.c.count))
        memset(self.c.crcs, 0, self.c.count * sizeof(uint64_t))
        fx_ledger_recount(&self.c)

    def bits(self):
        """Returns a copy of the bitmap: chunk i is bit (i % 8) of byte (i // 8), spare bits are 0."""
        return (<char *>self.c.bits)[:fx_bitmap_bytes(self.c.count)]

    def crcs(self):
        """Returns a copy of the checksums: 8 bytes a chunk, in the byte order of the machine."""
        return (<char *>self.c.crcs)[:self.c.count * sizeof(uint64_t)]

    def load(self, bytes bits, bytes crcs):
        """Replaces bits and checksums by those that `bits` and `crcs` gave. Raises ValueError, changing nothing, when they do not fit."""
        cdef size_t n = fx_bitmap_bytes(self.c.count)
        if <size_t>len(bits) != n or <size_t>len(crcs) != self.c.count * sizeof(uint64_t):
            raise ValueError("bitmap or checksums of another length")
        if self.c.count % 8 and bits[n - 1] >> (self.c.count % 8):
            raise ValueError("bitmap with bits past its last chunk")
        memcpy(self.c.bits, <const char *>bits, n)
        memcpy(self.c.crcs, <const char *>crcs, len(crcs))
        fx_ledger_recount(&self.c)

    def missing(self):
        """Returns the byte ranges that are missing: a list of half-open (start, stop), in order, adjacent chunks joined."""
        return self._ranges(0)

    def present(self):
        """Returns the byte ranges that are in place, as `missing` does."""
        return self._ranges(1)

    def _ranges(self, int value):
        cdef uint64_t first = 0, after
        ranges = []
        while True:
            first = fx_bitmap_next(self.c.bits, self.c.count, first, value)
            if first >= self.c.count:
                return ranges
            after = fx_bitmap_next(self.c.bits, self.c.count, first, not value)
            ranges.append((first * self.c.chunk_size, fx_ledger_chunk_end(&self.c, after - 1)))
            first = after

    def front(self, uint64_t start=0):
        """Returns the first missing byte at or over the chunk boundary `start`: all of [start, front) is in place."""
        cdef uint64_t chunk = fx_bitmap_next(self.c.bits, self.c.count, start // self.c.chunk_size, 0)
        return min(chunk * self.c.chunk_size, self.c.size)

    def cells(self, uint64_t width):
        """Returns two lists for a map of at most `width` stretches: chunks in place, and chunks, in each."""
        cdef uint64_t n = min(width, self.c.count), i, low = 0, high
        done = []
        total = []
        for i in range(n):
            high = (i + 1) * self.c.count // n
            done.append(fx_bitmap_count(self.c.bits, low, high))
            total.append(high - low)
            low = high
        return done, total
