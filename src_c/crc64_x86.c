/*
 * CRC-64 on x86-64: PCLMULQDQ with SSE 4.1 (the algorithm is crc64_fold128.h), and VPCLMULQDQ with AVX-512, four times
 * as wide.
 *
 * Ordinary stores, unaligned as they come. Measured on an EPYC of family 26, virtual (L2 1 MiB, L3 32 MiB), slices of
 * 16 KiB from one hot buffer, GB/s, range over two runs of three (the first column is what a transfer does):
 *                                     shared file mapping,          256 MiB of anonymous
 *                                     populated 1 MiB ahead         memory, written before
 *   vpclmul, ordinary stores          35 to 37                      28 to 29
 *   the same, dst 13 bytes off        35 to 38                      26 to 29
 *   vpclmul, non-temporal stores      31                            33 to 35
 *   memcpy alone                      40 to 59                      30 to 31
 *   the same, dst 13 bytes off        25 to 27                      23 to 24
 *   memcpy, then vpclmul extend       not measured                  25 to 28
 * The operating system has just zeroed the pages: they are in the cache, and non-temporal stores would throw them out
 * of it. Eight accumulators for four change nothing (66 GB/s either way with the destination in cache): the multiplier is
 * the limit.
 */
#include "crc64.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#define FX_TARGET __attribute__((target("pclmul,sse4.1")))

typedef __m128i fx_block;
#define fx_load(p) _mm_loadu_si128((const __m128i *)(p))
#define fx_store(p, block) _mm_storeu_si128((__m128i *)(p), block)
#define fx_pair(lo, hi) _mm_set_epi64x((long long)(hi), (long long)(lo))
#define fx_low(block) ((uint64_t)_mm_cvtsi128_si64(block))
#define fx_high(block) ((uint64_t)_mm_extract_epi64(block, 1))
#define fx_xor(a, b) _mm_xor_si128(a, b)
#define fx_mul_low(a, b) _mm_clmulepi64_si128(a, b, 0x00)
#define fx_mul_high(a, b) _mm_clmulepi64_si128(a, b, 0x11)
#define fx_shuffle(block, index) _mm_shuffle_epi8(block, index)
#define fx_select(index, a, b) _mm_blendv_epi8(a, b, index)

#include "crc64_fold128.h"

/* ---- PCLMULQDQ ---- */

static int pclmul_available(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

FX_TARGET static uint64_t pclmul_extend(const struct fx_crc64_poly *poly, uint64_t crc, const void *buf, size_t len) {
    return ~fx_extend128(poly, ~crc, NULL, buf, len, 0);
}

FX_TARGET static uint64_t pclmul_copy(const struct fx_crc64_poly *poly, uint64_t crc, void *dst, const void *src,
                                      size_t len) {
    return ~fx_extend128(poly, ~crc, dst, src, len, 1);
}

/* ---- VPCLMULQDQ, 64 bytes a register ---- */

#define FX_TARGET512 __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.1")))
#define FX_INLINE512 static inline __attribute__((always_inline)) FX_TARGET512

static int vpclmul_available(void) {
    /* The compiler's run time reports AVX-512 only where the operating system saves its registers. */
    __builtin_cpu_init();
    return pclmul_available() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

/* Returns four copies of the constants that move a block n blocks on. */
FX_INLINE512 __m512i broadcast(const struct fx_crc64_poly *poly, int n) {
    return _mm512_broadcast_i32x4(fx_load(poly->fold[n]));
}

/* Returns the four blocks of `blocks`, each moved on as its part of `fold` says, plus next. */
FX_INLINE512 __m512i fold512(__m512i blocks, __m512i fold, __m512i next) {
    __m512i low = _mm512_clmulepi64_epi128(blocks, fold, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(blocks, fold, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* the exclusive or of all three */
}

/* Returns the 64 bytes at src + i, stored at dst + i too if copying. */
FX_INLINE512 __m512i take512(unsigned char *dst, const unsigned char *src, size_t i, int copying) {
    __m512i blocks = _mm512_loadu_si512(src + i);
    if (copying)
        _mm512_storeu_si512(dst + i, blocks);
    return blocks;
}

/* Returns the one block that stands for the four. */
FX_INLINE512 __m128i narrow(const struct fx_crc64_poly *poly, __m512i blocks) {
    __m128i last = _mm512_extracti32x4_epi32(blocks, 3);
    last = fx_xor(last, fx_fold(_mm512_castsi512_si128(blocks), fx_load(poly->fold[3])));
    last = fx_xor(last, fx_fold(_mm512_extracti32x4_epi32(blocks, 1), fx_load(poly->fold[2])));
    return fx_xor(last, fx_fold(_mm512_extracti32x4_epi32(blocks, 2), fx_load(poly->fold[1])));
}

/* Returns state extended by src[0:len], stored at dst too if copying. */
FX_INLINE512 uint64_t extend512(const struct fx_crc64_poly *poly, uint64_t state, unsigned char *dst,
                                const unsigned char *src, size_t len, int copying) {
    if (len < 64)
        return fx_extend128(poly, state, dst, src, len, copying);
    __m512i last = _mm512_xor_si512(take512(dst, src, 0, copying), _mm512_zextsi128_si512(fx_pair(state, 0)));
    size_t i = 64;
    if (len >= 256) {
        __m512i a = last, b = take512(dst, src, 64, copying), c = take512(dst, src, 128, copying);
        last = take512(dst, src, 192, copying);
        __m512i by16 = broadcast(poly, 16);
        for (i = 256; len - i >= 256; i += 256) {
            a = fold512(a, by16, take512(dst, src, i, copying));
            b = fold512(b, by16, take512(dst, src, i + 64, copying));
            c = fold512(c, by16, take512(dst, src, i + 128, copying));
            last = fold512(last, by16, take512(dst, src, i + 192, copying));
        }
        last = fold512(a, broadcast(poly, 12), last);
        last = fold512(b, broadcast(poly, 8), last);
        last = fold512(c, broadcast(poly, 4), last);
    }
    __m512i by4 = broadcast(poly, 4);
    for (; len - i >= 64; i += 64)
        last = fold512(last, by4, take512(dst, src, i, copying));
    return fx_finish(poly, narrow(poly, last), dst, src, i, len, copying);
}

FX_TARGET512 static uint64_t vpclmul_extend(const struct fx_crc64_poly *poly, uint64_t crc, const void *buf, size_t len) {
    return ~extend512(poly, ~crc, NULL, buf, len, 0);
}

FX_TARGET512 static uint64_t vpclmul_copy(const struct fx_crc64_poly *poly, uint64_t crc, void *dst, const void *src,
                                          size_t len) {
    return ~extend512(poly, ~crc, dst, src, len, 1);
}

const struct fx_crc64_kernel fx_crc64_x86_kernels[] = {
    {"vpclmul", vpclmul_available, vpclmul_extend, vpclmul_copy},
    {"pclmul", pclmul_available, pclmul_extend, pclmul_copy},
    {NULL, NULL, NULL, NULL},
};

#else

const struct fx_crc64_kernel fx_crc64_x86_kernels[] = {{NULL, NULL, NULL, NULL}};

#endif
