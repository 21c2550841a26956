/*
 * CRC-64 on any processor: sixteen bytes a step, one table lookup each ("slicing": Kounavis and Berry, "A Systematic
 * Approach to Building High Performance Software-based CRC Generators", 2005). Sixteen tables of 2 KiB: 3.3 GB/s where
 * eight give 2.4.
 */
#include "crc64.h"

#include <string.h>

static int always(void) {
    return 1;
}

/* Returns the 8 bytes at p as a little-endian number; a single load where the processor is little-endian. */
static uint64_t load_le64(const unsigned char *p) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | p[i];
    return word;
}

/* Returns the state after the 8 bytes of word, from state 0, and as many zero bytes as tables lie before `table`. */
static inline uint64_t lookup(const uint64_t (*table)[256], uint64_t word) {
    return table[7][word & 0xff] ^ table[6][word >> 8 & 0xff] ^ table[5][word >> 16 & 0xff] ^ table[4][word >> 24 & 0xff] ^
           table[3][word >> 32 & 0xff] ^ table[2][word >> 40 & 0xff] ^ table[1][word >> 48 & 0xff] ^ table[0][word >> 56];
}

/* Extends crc by src[0:len], and stores these bytes at dst if copying, a constant at both places of use. */
static inline uint64_t run(const struct fx_crc64_poly *poly, uint64_t crc, unsigned char *dst, const unsigned char *src,
                           size_t len, int copying) {
    const uint64_t(*table)[256] = poly->table;
    size_t i = 0;
    crc = ~crc;
    for (; len - i >= 16; i += 16) {
        uint64_t first = load_le64(src + i), second = load_le64(src + i + 8);
        if (copying)
            memcpy(dst + i, src + i, 16);
        crc = lookup(table + 8, crc ^ first) ^ lookup(table, second);
    }
    for (; i < len; i++) {
        unsigned char byte = src[i];
        if (copying)
            dst[i] = byte;
        crc = crc >> 8 ^ table[0][(crc ^ byte) & 0xff];
    }
    return ~crc;
}

static uint64_t portable_extend(const struct fx_crc64_poly *poly, uint64_t crc, const void *buf, size_t len) {
    return run(poly, crc, NULL, buf, len, 0);
}

static uint64_t portable_copy(const struct fx_crc64_poly *poly, uint64_t crc, void *dst, const void *src, size_t len) {
    return run(poly, crc, dst, src, len, 1);
}

const struct fx_crc64_kernel fx_crc64_portable_kernels[] = {
    {"portable", always, portable_extend, portable_copy},
    {NULL, NULL, NULL, NULL},
};
