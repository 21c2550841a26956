from libc.stdint cimport uint64_t


cdef class PartBuffer:
    cdef unsigned char *base
    cdef readonly size_t capacity
    cdef readonly size_t room
    cdef readonly size_t filled
    cdef readonly bint xz
    cdef readonly uint64_t crc
    cdef size_t take(self, const unsigned char *data, size_t length) noexcept nogil
