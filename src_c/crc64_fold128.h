/*
 * CRC-64 by folding 16-byte blocks with carry-less multiplication: the algorithm, for any instruction set that has one.
 *
 * A kernel's file includes this once, after it has defined
 *   FX_TARGET                         the function attribute that turns the instructions on (may be empty)
 *   fx_block                          the 16-byte vector type
 *   fx_load(p), fx_store(p, block)    16 bytes at any address
 *   fx_pair(lo, hi)                   a block of two 64-bit words
 *   fx_low(block), fx_high(block)     its words
 *   fx_xor(a, b)
 *   fx_mul_low(a, b)                  the carry-less product of the low words, a block
 *   fx_mul_high(a, b)                 of the high words
 *   fx_shuffle(block, index)          byte i of the result is block[index[i]], or 0 where index[i] is 0x80
 *   fx_select(index, a, b)            byte i is b[i] where index[i] is 0x80, else a[i]
 * The target is little-endian. What constants mean is said in crc64.h; states here are raw, without the inversions.
 */
#ifndef FX_CRC64_FOLD128_H
#define FX_CRC64_FOLD128_H

#include "crc64.h"

#include <string.h>

#define FX_INLINE static inline __attribute__((always_inline)) FX_TARGET

/* Returns block moved n blocks on, to be added to the block that is there. fold is poly->fold[n]. */
FX_INLINE fx_block fx_fold(fx_block block, fx_block fold) {
    return fx_xor(fx_mul_low(block, fold), fx_mul_high(block, fold));
}

/* Returns word * x^64 mod P: the state after 8 bytes, where word is the state before plus these bytes (Barrett). */
FX_INLINE uint64_t fx_reduce64(const struct fx_crc64_poly *poly, uint64_t word) {
    fx_block constants = fx_load(poly->barrett);
    uint64_t quotient = fx_low(fx_mul_low(fx_pair(word, 0), constants));
    /* P reflected has 65 bits: the highest, x^0, is the last term here. */
    return fx_high(fx_mul_low(fx_pair(quotient, 0), fx_pair(fx_high(constants), 0))) ^ quotient;
}

/* Returns the state after the message whose last 16 bytes are block: block * x^64 mod P. */
FX_INLINE uint64_t fx_reduce128(const struct fx_crc64_poly *poly, fx_block block) {
    /* the low word times x^128, as x^127 and the x that a product brings along; the high word becomes the low one */
    fx_block product = fx_mul_low(block, fx_pair(poly->fold[1][1], 0));
    return fx_reduce64(poly, fx_low(product) ^ fx_high(block)) ^ fx_high(product);
}

/* Returns state extended by src[0:len], len < 16, stored at dst too if copying. */
FX_INLINE uint64_t fx_extend_below16(const struct fx_crc64_poly *poly, uint64_t state, unsigned char *dst,
                                     const unsigned char *src, size_t len, int copying) {
    size_t i = 0, rest = len & 7;
    if (len & 8) {
        uint64_t word;
        memcpy(&word, src, 8);
        if (copying)
            memcpy(dst, &word, 8);
        state = fx_reduce64(poly, state ^ word);
        i = 8;
    }
    if (rest == 0)
        return state;
    uint64_t word = 0;
    for (; i < len; i++) {
        unsigned char byte = src[i];
        if (copying)
            dst[i] = byte;
        word |= (uint64_t)byte << 8 * (i & 7);
    }
    /* The bytes meet the low end of the state; leading zeros make a whole word of that. The rest of it moves down. */
    return state >> 8 * rest ^ fx_reduce64(poly, (state ^ word) << (64 - 8 * rest));
}

/*
 * Returns the block that stands for block followed by the last `rest` bytes of tail, 0 < rest < 16.
 * A window over this table is an index that moves the bytes of a block up or down.
 */
FX_INLINE fx_block fx_fold_rest(const struct fx_crc64_poly *poly, fx_block block, fx_block tail, size_t rest) {
#define FX_8(a) a, a, a, a, a, a, a, a
    static const unsigned char window[48] = {
        FX_8(0x80), FX_8(0x80), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, FX_8(0x80), FX_8(0x80),
    };
#undef FX_8
    fx_block to_end = fx_load(window + rest);                               /* 0x80 in 16 - rest places, then 0, 1, ... */
    fx_block to_start = fx_load(window + 16 + rest);                        /* rest, rest + 1, ..., 15, then 0x80 */
    fx_block first = fx_shuffle(block, to_end);                             /* the first `rest` bytes of block, ... */
    fx_block second = fx_select(to_end, tail, fx_shuffle(block, to_start)); /* ... the other ones, and the new ones */
    return fx_xor(fx_fold(first, fx_load(poly->fold[1])), second);
}

/* Returns the 16 bytes at src + i, stored at dst + i too if copying. */
FX_INLINE fx_block fx_take(unsigned char *dst, const unsigned char *src, size_t i, int copying) {
    fx_block block = fx_load(src + i);
    if (copying)
        fx_store(dst + i, block);
    return block;
}

/* Returns the state after block and then src[i:len], where i >= 16 and src[i-16:i] has been copied already. */
FX_INLINE uint64_t fx_finish(const struct fx_crc64_poly *poly, fx_block block, unsigned char *dst,
                             const unsigned char *src, size_t i, size_t len, int copying) {
    fx_block by1 = fx_load(poly->fold[1]);
    for (; len - i >= 16; i += 16)
        block = fx_xor(fx_fold(block, by1), fx_take(dst, src, i, copying));
    if (len > i) {
        fx_block tail = fx_take(dst, src, len - 16, copying); /* stores some bytes for the second time */
        block = fx_fold_rest(poly, block, tail, len - i);
    }
    return fx_reduce128(poly, block);
}

/* Returns state extended by src[0:len], stored at dst too if copying. Four blocks side by side hide the latency. */
FX_INLINE uint64_t fx_extend128(const struct fx_crc64_poly *poly, uint64_t state, unsigned char *dst,
                                const unsigned char *src, size_t len, int copying) {
    if (len < 16)
        return fx_extend_below16(poly, state, dst, src, len, copying);
    fx_block a = fx_xor(fx_take(dst, src, 0, copying), fx_pair(state, 0));
    if (len < 64)
        return fx_finish(poly, a, dst, src, 16, len, copying);

    fx_block b = fx_take(dst, src, 16, copying), c = fx_take(dst, src, 32, copying), d = fx_take(dst, src, 48, copying);
    fx_block by4 = fx_load(poly->fold[4]);
    size_t i = 64;
    for (; len - i >= 64; i += 64) {
        a = fx_xor(fx_fold(a, by4), fx_take(dst, src, i, copying));
        b = fx_xor(fx_fold(b, by4), fx_take(dst, src, i + 16, copying));
        c = fx_xor(fx_fold(c, by4), fx_take(dst, src, i + 32, copying));
        d = fx_xor(fx_fold(d, by4), fx_take(dst, src, i + 48, copying));
    }
    d = fx_xor(d, fx_fold(a, fx_load(poly->fold[3])));
    d = fx_xor(d, fx_fold(b, fx_load(poly->fold[2])));
    d = fx_xor(d, fx_fold(c, fx_load(poly->fold[1])));
    return fx_finish(poly, d, dst, src, i, len, copying);
}

#endif
