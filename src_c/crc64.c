/* The constants of the two polynomials, the choice of a kernel, and combine. The contract is in crc64.h. */
#include "crc64.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- Constants, computed once for both polynomials in about 0.1 ms ---- */

static struct fx_crc64_poly nvme = {.reversed = UINT64_C(0x9a6c9329ac4bc9b5)};
static struct fx_crc64_poly xz = {.reversed = UINT64_C(0xc96c5795d7870f42)};

static const uint64_t ONE = UINT64_C(1) << 63; /* x^0, reflected */

/* Returns a * x mod P. */
static uint64_t times_x(const struct fx_crc64_poly *poly, uint64_t a) {
    return (a >> 1) ^ (poly->reversed & (0 - (a & 1)));
}

/* Returns a * b mod P. */
static uint64_t multiply(const struct fx_crc64_poly *poly, uint64_t a, uint64_t b) {
    uint64_t product = 0;
    for (int i = 63; i >= 0; i--) {
        product ^= b & (0 - (a >> i & 1));
        b = times_x(poly, b);
    }
    return product;
}

/* Fills in the Barrett constants by long division: x^128 = quotient * P + rest, bit for bit from x^64 down. */
static void compute_barrett(struct fx_crc64_poly *poly) {
    uint64_t rest = poly->reversed; /* x^64 mod P: the quotient begins with x^64 */
    uint64_t quotient = 1;          /* bit i stands for x^(64-i); x^0, bit 64, has no place and is not needed */
    for (int i = 1; i < 64; i++) {
        quotient |= (rest & 1) << i;
        rest = times_x(poly, rest);
    }
    poly->barrett[0] = quotient;
    poly->barrett[1] = poly->reversed << 1 | 1;
}

/* Returns a * x^n mod P, in n steps. */
static uint64_t shift(const struct fx_crc64_poly *poly, uint64_t a, int n) {
    while (n-- > 0)
        a = times_x(poly, a);
    return a;
}

/* Fills in everything but poly->reversed. */
static void compute_constants(struct fx_crc64_poly *poly) {
    compute_barrett(poly);

    uint64_t power = shift(poly, ONE, 127);
    for (int n = 1; n <= FX_CRC64_BLOCKS; n++) {
        poly->fold[n][1] = power;
        poly->fold[n][0] = shift(poly, power, 64);
        power = shift(poly, power, 128);
    }

    poly->power[0] = shift(poly, ONE, 8);
    for (int k = 1; k < 64; k++)
        poly->power[k] = multiply(poly, poly->power[k - 1], poly->power[k - 1]);

    for (int byte = 0; byte < 256; byte++) {
        uint64_t state = shift(poly, (uint64_t)byte, 8);
        for (int zeros = 0; zeros < 16; zeros++) {
            poly->table[zeros][byte] = state;
            state = shift(poly, state, 8);
        }
    }
}

/* ---- The choice, made once ---- */

static const struct fx_crc64_kernel *const tables[] = {
    fx_crc64_x86_kernels,
    fx_crc64_arm_kernels,
    fx_crc64_portable_kernels, /* always available, so that the choice never comes out empty */
};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(const struct fx_crc64_kernel *) chosen; /* set last: whoever sees it sees the constants too */

const struct fx_crc64_kernel *fx_crc64_kernel_at(size_t index) {
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        for (const struct fx_crc64_kernel *kernel = tables[i]; kernel->name; kernel++) {
            if (kernel->available() && index-- == 0)
                return kernel;
        }
    }
    return NULL;
}

static void prepare_once(void) {
    compute_constants(&nvme);
    compute_constants(&xz);
    atomic_store_explicit(&chosen, fx_crc64_kernel_at(0), memory_order_release);
}

/* Returns the chosen kernel; constants are there when it returns. One load and one branch after the first call. */
static const struct fx_crc64_kernel *prepare(void) {
    const struct fx_crc64_kernel *kernel = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!kernel) {
        pthread_once(&once, prepare_once);
        kernel = atomic_load_explicit(&chosen, memory_order_acquire);
    }
    return kernel;
}

const struct fx_crc64_poly *fx_crc64nvme_poly(void) {
    prepare();
    return &nvme;
}

const struct fx_crc64_poly *fx_crc64xz_poly(void) {
    prepare();
    return &xz;
}

uint64_t fx_crc64nvme_extend(uint64_t crc, const void *buf, size_t len) {
    return prepare()->extend(&nvme, crc, buf, len);
}

uint64_t fx_crc64xz_extend(uint64_t crc, const void *buf, size_t len) {
    return prepare()->extend(&xz, crc, buf, len);
}

uint64_t fx_crc64nvme_copy(uint64_t crc, void *dst, const void *src, size_t len) {
    return prepare()->copy(&nvme, crc, dst, src, len);
}

uint64_t fx_crc64xz_copy(uint64_t crc, void *dst, const void *src, size_t len) {
    return prepare()->copy(&xz, crc, dst, src, len);
}

/* ---- Combine ---- */

/*
 * crc(A B) = crc(A) * x^(8 |B|) + crc(B): the checksum is linear, and with all ones at both ends the ones of the end of A
 * and of the start of B are the same and cancel.
 */
static uint64_t combine(const struct fx_crc64_poly *poly, uint64_t crc1, uint64_t crc2, uint64_t len2) {
    for (int k = 0; len2; k++, len2 >>= 1) {
        if (len2 & 1)
            crc1 = multiply(poly, crc1, poly->power[k]);
    }
    return crc1 ^ crc2;
}

uint64_t fx_crc64nvme_combine(uint64_t crc1, uint64_t crc2, uint64_t len2) {
    return combine(fx_crc64nvme_poly(), crc1, crc2, len2);
}

uint64_t fx_crc64xz_combine(uint64_t crc1, uint64_t crc2, uint64_t len2) {
    return combine(fx_crc64xz_poly(), crc1, crc2, len2);
}
