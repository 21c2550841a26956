"""Memory for one part of an object, on its way from a source to a store: filled by a `Writer`, with its CRC-64 in the same pass, and read
by whoever takes the buffer protocol (`MemoryReader`, checksums).
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "crc64.h" nogil:
    uint64_t fx_crc64nvme_copy(uint64_t crc, void *dst, const void *src, size_t len)
    uint64_t fx_crc64xz_copy(uint64_t crc, void *dst, const void *src, size_t len)


cdef class PartBuffer:
    """Up to `capacity` bytes. `filled` of the part's `room` are there, `crc` is theirs: CRC-64/NVME or, with `xz`, CRC-64/XZ.

    What the buffer protocol gives are the bytes that are there at that moment, read-only; they stay in place until `begin` is called for
    the next part. One thread at a time. Raises MemoryError, and ValueError for a capacity under 1.
    """

    def __cinit__(self, size_t capacity, bint xz=False):
        if capacity < 1:
            raise ValueError("a buffer has at least one byte")
        self.base = <unsigned char *>malloc(capacity)
        if self.base == NULL:
            raise MemoryError()
        self.capacity = self.room = capacity
        self.xz = xz

    def __dealloc__(self):
        free(self.base)

    def begin(self, size_t room):
        """Makes room for another part, of so many bytes. Raises ValueError for more than the capacity."""
        if room > self.capacity:
            raise ValueError("a part has no more bytes than its buffer")
        self.room = room
        self.filled = 0
        self.crc = 0

    cdef size_t take(self, const unsigned char *data, size_t length) noexcept nogil:
        """Copies as much of the data as there is room for; returns how much."""
        cdef size_t taken = min(length, self.room - self.filled)
        if self.xz:
            self.crc = fx_crc64xz_copy(self.crc, self.base + self.filled, data, taken)
        else:
            self.crc = fx_crc64nvme_copy(self.crc, self.base + self.filled, data, taken)
        self.filled += taken
        return taken

    @property
    def full(self):
        """True when there is no room left."""
        return self.filled == self.room

    def __len__(self):
        return self.filled

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.filled, 1, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass
