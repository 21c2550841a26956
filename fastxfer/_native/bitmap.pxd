from libc.stdint cimport uint64_t


cdef extern from "bitmap.h" nogil:
    ctypedef struct fx_ledger:
        uint64_t size
        uint64_t chunk_size
        uint64_t count
        uint64_t done
        uint64_t done_bytes
        unsigned char *bits
        uint64_t *crcs

    uint64_t fx_chunk_count(uint64_t size, uint64_t chunk_size)
    size_t fx_bitmap_bytes(uint64_t count)
    bint fx_ledger_test(const fx_ledger *ledger, uint64_t chunk)
    uint64_t fx_ledger_chunk_end(const fx_ledger *ledger, uint64_t chunk)
    void fx_ledger_set(fx_ledger *ledger, uint64_t chunk, uint64_t crc)
    void fx_ledger_clear(fx_ledger *ledger, uint64_t chunk)
    void fx_ledger_recount(fx_ledger *ledger)
    uint64_t fx_bitmap_next(const unsigned char *bits, uint64_t count, uint64_t start, int value)
    uint64_t fx_bitmap_count(const unsigned char *bits, uint64_t start, uint64_t stop)


cdef class ChunkLedger:
    cdef fx_ledger c
    cdef int _check(self, uint64_t chunk) except -1
