/* CRC-64 on aarch64 with PMULL: the algorithm is crc64_fold128.h. */
#include "crc64.h"

/* Either the whole program is compiled for processors that have PMULL (macOS does so), or Linux says whether this one does
 * and the compiler can turn the instructions on for single functions; clang before 16 cannot. */
#if defined(__AARCH64EL__) && (defined(__ARM_FEATURE_AES) || defined(__ARM_FEATURE_CRYPTO))
#define PMULL_ALWAYS
#elif defined(__AARCH64EL__) && defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)
#define PMULL_ASK
#endif

#if defined(PMULL_ALWAYS) || defined(PMULL_ASK)

#include <arm_neon.h>

#ifdef PMULL_ALWAYS
#define FX_TARGET
static int pmull_available(void) {
    return 1;
}
#else
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define FX_TARGET __attribute__((target("+crypto")))
static int pmull_available(void) {
    return (getauxval(AT_HWCAP) & HWCAP_PMULL) != 0;
}
#endif

typedef uint64x2_t fx_block;
#define fx_load(p) vreinterpretq_u64_u8(vld1q_u8((const uint8_t *)(p)))
#define fx_store(p, block) vst1q_u8((uint8_t *)(p), vreinterpretq_u8_u64(block))
#define fx_pair(lo, hi) vcombine_u64(vcreate_u64(lo), vcreate_u64(hi))
#define fx_low(block) vgetq_lane_u64(block, 0)
#define fx_high(block) vgetq_lane_u64(block, 1)
#define fx_xor(a, b) veorq_u64(a, b)
#define fx_mul_low(a, b) vreinterpretq_u64_p128(vmull_p64((poly64_t)fx_low(a), (poly64_t)fx_low(b)))
#define fx_mul_high(a, b) vreinterpretq_u64_p128(vmull_high_p64(vreinterpretq_p64_u64(a), vreinterpretq_p64_u64(b)))
#define fx_shuffle(block, index) \
    vreinterpretq_u64_u8(vqtbl1q_u8(vreinterpretq_u8_u64(block), vreinterpretq_u8_u64(index)))
#define fx_select(index, a, b) vbslq_u64(vreinterpretq_u64_u8(vcltzq_s8(vreinterpretq_s8_u64(index))), b, a)

#include "crc64_fold128.h"

FX_TARGET static uint64_t pmull_extend(const struct fx_crc64_poly *poly, uint64_t crc, const void *buf, size_t len) {
    return ~fx_extend128(poly, ~crc, NULL, buf, len, 0);
}

FX_TARGET static uint64_t pmull_copy(const struct fx_crc64_poly *poly, uint64_t crc, void *dst, const void *src,
                                     size_t len) {
    return ~fx_extend128(poly, ~crc, dst, src, len, 1);
}

const struct fx_crc64_kernel fx_crc64_arm_kernels[] = {
    {"pmull", pmull_available, pmull_extend, pmull_copy},
    {NULL, NULL, NULL, NULL},
};

#else

const struct fx_crc64_kernel fx_crc64_arm_kernels[] = {{NULL, NULL, NULL, NULL}};

#endif
