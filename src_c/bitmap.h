/* The chunk ledger: which chunks of an object are there, and the CRC-64 of each.
 *
 * The grid is fixed: chunk i covers [i * chunk_size, min((i + 1) * chunk_size, size)). Bit i is bit (i & 7) of byte (i >> 3);
 * bits at and over `count` are zero. A bit is set only after the chunk's bytes are in place and its CRC is stored.
 * The struct owns nothing: `bits` holds fx_bitmap_bytes(count) bytes and `crcs` holds `count` values, both made by the caller.
 * One thread at a time; the caller serialises.
 */
#ifndef FX_BITMAP_H
#define FX_BITMAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct fx_ledger {
    uint64_t size;       /* bytes of the object */
    uint64_t chunk_size; /* bytes of a chunk, 1 or more */
    uint64_t count;      /* chunks: ceil(size / chunk_size) */
    uint64_t done;       /* bits set */
    uint64_t done_bytes; /* bytes in the chunks whose bit is set */
    unsigned char *bits;
    uint64_t *crcs;
} fx_ledger;

/* Returns how many chunks cover `size` bytes; chunk_size is 1 or more. Does not overflow. */
static inline uint64_t fx_chunk_count(uint64_t size, uint64_t chunk_size) {
    return size / chunk_size + (size % chunk_size != 0);
}

/* Returns how many bytes hold `count` bits. */
static inline size_t fx_bitmap_bytes(uint64_t count) { return (size_t)(count / 8 + (count % 8 != 0)); }

static inline int fx_ledger_test(const fx_ledger *ledger, uint64_t chunk) {
    return (ledger->bits[chunk >> 3] >> (chunk & 7)) & 1;
}

/* Returns the first byte after chunk `chunk`, which is under count. */
static inline uint64_t fx_ledger_chunk_end(const fx_ledger *ledger, uint64_t chunk) {
    uint64_t start = chunk * ledger->chunk_size;
    return ledger->size - start < ledger->chunk_size ? ledger->size : start + ledger->chunk_size;
}

/* Stores the CRC of a chunk that is in place and sets its bit. `chunk` is under count. */
void fx_ledger_set(fx_ledger *ledger, uint64_t chunk, uint64_t crc);

/* Clears a chunk's bit: its bytes are missing again. `chunk` is under count. */
void fx_ledger_clear(fx_ledger *ledger, uint64_t chunk);

/* Recounts `done` and `done_bytes` from the bits. */
void fx_ledger_recount(fx_ledger *ledger);

/* Returns the first chunk at or over `from` whose bit equals `value` (0 or 1), or count when there is none. */
uint64_t fx_bitmap_next(const unsigned char *bits, uint64_t count, uint64_t from, int value);

/* Returns how many of the bits [from, to) are set; from <= to. */
uint64_t fx_bitmap_count(const unsigned char *bits, uint64_t from, uint64_t to);

#endif
