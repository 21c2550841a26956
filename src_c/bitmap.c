#include "bitmap.h"

#include <string.h>

void fx_ledger_set(fx_ledger *ledger, uint64_t chunk, uint64_t crc) {
    ledger->crcs[chunk] = crc;
    if (fx_ledger_test(ledger, chunk))
        return;
    ledger->bits[chunk >> 3] |= (unsigned char)(1u << (chunk & 7));
    ledger->done += 1;
    ledger->done_bytes += fx_ledger_chunk_end(ledger, chunk) - chunk * ledger->chunk_size;
}

void fx_ledger_clear(fx_ledger *ledger, uint64_t chunk) {
    if (!fx_ledger_test(ledger, chunk))
        return;
    ledger->crcs[chunk] = 0;
    ledger->bits[chunk >> 3] &= (unsigned char)~(1u << (chunk & 7));
    ledger->done -= 1;
    ledger->done_bytes -= fx_ledger_chunk_end(ledger, chunk) - chunk * ledger->chunk_size;
}

void fx_ledger_recount(fx_ledger *ledger) {
    ledger->done = fx_bitmap_count(ledger->bits, 0, ledger->count);
    ledger->done_bytes = ledger->done * ledger->chunk_size;
    if (ledger->count && fx_ledger_test(ledger, ledger->count - 1)) {
        /* The last chunk may be short. */
        uint64_t last = ledger->count - 1;
        ledger->done_bytes -= ledger->chunk_size;
        ledger->done_bytes += ledger->size - last * ledger->chunk_size;
    }
}

uint64_t fx_bitmap_next(const unsigned char *bits, uint64_t count, uint64_t from, int value) {
    const unsigned char skip = value ? 0x00 : 0xff; /* a byte with nothing to find in it */
    while (from < count) {
        if ((from & 7) == 0 && bits[from >> 3] == skip) {
            from += 8;
            continue;
        }
        if (((bits[from >> 3] >> (from & 7)) & 1) == (value != 0))
            return from;
        from += 1;
    }
    return count;
}

uint64_t fx_bitmap_count(const unsigned char *bits, uint64_t from, uint64_t to) {
    uint64_t total = 0;
    while (from < to && (from & 7)) {
        total += (bits[from >> 3] >> (from & 7)) & 1;
        from += 1;
    }
    while (to - from >= 64) {
        uint64_t word;
        memcpy(&word, bits + (from >> 3), sizeof word);
        total += (uint64_t)__builtin_popcountll(word);
        from += 64;
    }
    while (from < to) {
        total += (bits[from >> 3] >> (from & 7)) & 1;
        from += 1;
    }
    return total;
}
