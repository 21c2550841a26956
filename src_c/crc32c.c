/*
 * CRC-32C by the processor's own instruction (SSE 4.2, Armv8 CRC) or by tables. The contract is in crc32c.h.
 *
 * The instruction takes 8 bytes and can start every cycle, but its result comes after three. So three stretches of LANE
 * bytes run side by side, the last two from state 0, and are added after the first ones were moved over what follows them:
 * a multiplication by x^(8 LANE), four lookups (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32
 * Instruction", Intel, 2011).
 */
#include "crc32c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define REVERSED UINT32_C(0x82f63b78) /* the polynomial, reflected: bit i stands for x^(31-i) */
#define ONE (UINT32_C(1) << 31)       /* x^0 */

/* Multiples of 8; the short lanes take what the long ones leave. Of 1024/128, 1344/256, 1360/168, 2048/128, 2720/168 and
 * 5456/336 this pair is the best on 4 KiB (33 GB/s against 25 to 33) and as good as any on 16 KiB (32 against 29 to 32); one
 * stretch alone, on 255 bytes, gives 16 (an EPYC of family 26). */
#define LONG_LANE 1360
#define SHORT_LANE 168

static uint32_t table[8][256];      /* [k][b]: the state after byte b and k zero bytes */
static uint32_t over_long[4][256];  /* [k][b]: byte k of a state, being b, moved over LONG_LANE bytes */
static uint32_t over_short[4][256]; /* the same for SHORT_LANE */
static uint32_t power[64];          /* [k]: x^(8 * 2^k) mod P */

/* ---- Constants, computed once in about 0.2 ms, and combine ---- */

static uint32_t times_x(uint32_t a) {
    return (a >> 1) ^ (REVERSED & (0 - (a & 1)));
}

/* Returns a * b mod P. */
static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (int i = 31; i >= 0; i--) {
        product ^= b & (0 - (a >> i & 1));
        b = times_x(b);
    }
    return product;
}

/* Returns a * x^(8 len) mod P: the state a moved over len bytes. */
static uint32_t move(uint32_t a, uint64_t len) {
    for (int k = 0; len; k++, len >>= 1) {
        if (len & 1)
            a = multiply(a, power[k]);
    }
    return a;
}

static void compute_over(uint32_t over[4][256], size_t len) {
    uint32_t factor = move(ONE, len);
    for (int k = 0; k < 4; k++) {
        for (uint32_t byte = 0; byte < 256; byte++)
            over[k][byte] = multiply(byte << 8 * k, factor);
    }
}

static void compute_constants(void) {
    power[0] = ONE >> 8;
    for (int k = 1; k < 64; k++)
        power[k] = multiply(power[k - 1], power[k - 1]);
    for (uint32_t byte = 0; byte < 256; byte++) {
        for (uint64_t zeros = 0; zeros < 8; zeros++)
            table[zeros][byte] = move(byte, zeros + 1);
    }
    compute_over(over_long, LONG_LANE);
    compute_over(over_short, SHORT_LANE);
}

/* ---- The portable kernel: eight bytes a step, one lookup each ---- */

static int always(void) {
    return 1;
}

static uint32_t portable_extend(uint32_t crc, const void *buf, size_t len) {
    const unsigned char *p = buf;
    crc = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        crc = table[7][p[0] ^ (crc & 0xff)] ^ table[6][p[1] ^ (crc >> 8 & 0xff)] ^ table[5][p[2] ^ (crc >> 16 & 0xff)] ^
              table[4][p[3] ^ (crc >> 24)] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; len > 0; len--, p++)
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
    return ~crc;
}

/* ---- The instruction's kernel ---- */

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <nmmintrin.h>

#define INSTRUCTION "sse4.2"
#define TARGET __attribute__((target("sse4.2")))
#define STEP8(state, word) ((uint32_t)_mm_crc32_u64(state, word))
#define STEP1(state, byte) _mm_crc32_u8(state, byte)

static int instruction_available(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}

#elif defined(__AARCH64EL__) && (defined(__ARM_FEATURE_CRC32) || \
                                 (defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)))
/* As with PMULL in crc64_arm.c: instructions that are on anyway, or that Linux and the compiler can tell and turn on. */

#include <arm_acle.h>

#define INSTRUCTION "armv8-crc"
#define STEP8(state, word) __crc32cd(state, word)
#define STEP1(state, byte) __crc32cb(state, byte)

#if defined(__ARM_FEATURE_CRC32)
#define TARGET /* the whole program is compiled for such processors */
static int instruction_available(void) {
    return 1;
}
#else
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define TARGET __attribute__((target("+crc")))
static int instruction_available(void) {
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}
#endif

#endif

#ifdef INSTRUCTION

#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE uint32_t step8(uint32_t state, const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return STEP8(state, word);
}

/* Extends *state by all the 3 * lane bytes there are in p[0:len]; returns how many bytes that was. lane is a multiple of 8. */
INLINE size_t extend_lanes(uint32_t *state, const unsigned char *p, size_t len, size_t lane, uint32_t over[4][256]) {
    size_t done = 0;
    for (; len - done >= 3 * lane; done += 3 * lane, p += 3 * lane) {
        uint32_t lanes[3] = {*state, 0, 0};
        for (size_t i = 0; i < lane; i += 8) {
            lanes[0] = step8(lanes[0], p + i);
            lanes[1] = step8(lanes[1], p + lane + i);
            lanes[2] = step8(lanes[2], p + 2 * lane + i);
        }
        *state = lanes[0];
        for (int k = 1; k < 3; k++)
            *state = over[0][*state & 0xff] ^ over[1][*state >> 8 & 0xff] ^ over[2][*state >> 16 & 0xff] ^
                     over[3][*state >> 24] ^ lanes[k];
    }
    return done;
}

TARGET static uint32_t instruction_extend(uint32_t crc, const void *buf, size_t len) {
    const unsigned char *p = buf;
    uint32_t state = ~crc;
    size_t i = extend_lanes(&state, p, len, LONG_LANE, over_long);
    i += extend_lanes(&state, p + i, len - i, SHORT_LANE, over_short);
    for (; len - i >= 8; i += 8)
        state = step8(state, p + i);
    for (; i < len; i++)
        state = STEP1(state, p[i]);
    return ~state;
}

#endif

/* ---- The choice, made once ---- */

static const struct fx_crc32c_kernel kernels[] = {
#ifdef INSTRUCTION
    {INSTRUCTION, instruction_available, instruction_extend},
#endif
    {"portable", always, portable_extend},
};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(const struct fx_crc32c_kernel *) chosen; /* set last: whoever sees it sees the constants too */

static const struct fx_crc32c_kernel *find(size_t index) {
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (kernels[i].available() && index-- == 0)
            return &kernels[i];
    }
    return NULL;
}

static void prepare_once(void) {
    compute_constants();
    atomic_store_explicit(&chosen, find(0), memory_order_release);
}

static const struct fx_crc32c_kernel *prepare(void) {
    const struct fx_crc32c_kernel *kernel = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!kernel) {
        pthread_once(&once, prepare_once);
        kernel = atomic_load_explicit(&chosen, memory_order_acquire);
    }
    return kernel;
}

const struct fx_crc32c_kernel *fx_crc32c_kernel_at(size_t index) {
    prepare();
    return find(index);
}

uint32_t fx_crc32c_extend(uint32_t crc, const void *buf, size_t len) {
    return prepare()->extend(crc, buf, len);
}

uint32_t fx_crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t len2) {
    prepare();
    return move(crc1, len2) ^ crc2;
}
