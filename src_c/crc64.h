/*
 * CRC-64/NVME and CRC-64/XZ: extend, copy-and-extend in one pass, combine; and the kernels that do the work.
 *
 * The two checksums
 *   CRC-64/NVME  polynomial ad93d23594c93659; NVM Express, NVM Command Set Specification, 64b CRC; S3's crc64nvme.
 *   CRC-64/XZ    polynomial 42f0e1eba9ea3693; ECMA-182, annex B; the .xz file format; OSS calls it crc64ecma.
 *   Both are reflected (a byte's lowest bit comes first), start from all ones and end with an inversion.
 *   Of the nine bytes "123456789" they are ae8b14860a799888 and 995dc9bbdf1939fa.
 *
 * Values
 *   Every `crc` in this interface is a finished checksum: of nothing it is 0, and what a call returns is both the checksum
 *   of all bytes so far and the argument for the bytes that follow. The inversions at both ends happen inside.
 *
 * Threads and signals
 *   All functions are pure but for their destination and may run in any number of threads at once. The first call of a
 *   process chooses the kernel and computes the constants, under pthread_once. After that nothing is locked, allocated or
 *   written except the destination, so that a fault in the middle of a copy may leave it by siglongjmp.
 */
#ifndef FX_CRC64_H
#define FX_CRC64_H

#include <stddef.h>
#include <stdint.h>

/* ---- For callers ---- */

/* Returns the checksum of: the bytes that crc is the checksum of, then buf[0:len]. Any alignment; buf may be NULL if len
 * is 0. */
uint64_t fx_crc64nvme_extend(uint64_t crc, const void *buf, size_t len);
uint64_t fx_crc64xz_extend(uint64_t crc, const void *buf, size_t len);

/*
 * Copies src[0:len] to dst[0:len] and returns crc extended by these bytes, in one pass: a block is loaded, stored, and
 * folded while it is in a register. dst and src do not overlap; any alignment; both may be NULL if len is 0. Nothing
 * outside dst[0:len] is written; up to 15 bytes of it may be stored twice, with the same value.
 */
uint64_t fx_crc64nvme_copy(uint64_t crc, void *dst, const void *src, size_t len);
uint64_t fx_crc64xz_copy(uint64_t crc, void *dst, const void *src, size_t len);

/* Returns the checksum of A followed by B, from crc1 of A, crc2 of B and B's length in bytes. One multiplication for each
 * bit that is set in len2: 0.1 us for a power of two, at most 4 us. */
uint64_t fx_crc64nvme_combine(uint64_t crc1, uint64_t crc2, uint64_t len2);
uint64_t fx_crc64xz_combine(uint64_t crc1, uint64_t crc2, uint64_t len2);

/* ---- Kernels, by name: for tests, benchmarks, and whoever asks for one ---- */

struct fx_crc64_poly; /* the constants of one polynomial, below */

typedef uint64_t fx_crc64_extend_fn(const struct fx_crc64_poly *poly, uint64_t crc, const void *buf, size_t len);
typedef uint64_t fx_crc64_copy_fn(const struct fx_crc64_poly *poly, uint64_t crc, void *dst, const void *src, size_t len);

/* One way to compute either checksum; extend and copy promise what the functions above promise. */
struct fx_crc64_kernel {
    const char *name;           /* NULL ends a table */
    int (*available)(void);     /* does this processor, under this operating system, run it? */
    fx_crc64_extend_fn *extend; /* call these only if available() */
    fx_crc64_copy_fn *copy;
};

/* Returns the index-th kernel that is available here, best first, or NULL past the last. Kernel 0 is the one that the
 * functions above use. */
const struct fx_crc64_kernel *fx_crc64_kernel_at(size_t index);

/* Returns the constants to hand to a kernel; they live as long as the process. */
const struct fx_crc64_poly *fx_crc64nvme_poly(void);
const struct fx_crc64_poly *fx_crc64xz_poly(void);

/* ---- For kernels ---- */

/*
 * The method is that of Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel,
 * 2009: fold blocks onto later blocks, then reduce the last one by Barrett.
 *
 * Polynomials are reflected: bit i of a 64-bit word stands for x^(63-i), and of a 16-byte block, loaded little-endian, for
 * x^(127-i). In the carry-less product of two words bit k stands for x^(126-k); read as a block it stands for x^(127-k).
 * So an instruction's product is x times the one of the polynomials, and the folding constants are one power short.
 */
#define FX_CRC64_BLOCKS 16 /* the farthest fold, in blocks of 16 bytes */

struct fx_crc64_poly {
    uint64_t reversed;   /* the polynomial P, reflected, without its x^64 */
    uint64_t barrett[2]; /* floor(x^128 / P), then P: each has 65 bits, reflected; the highest, x^0, is left out */
    uint64_t fold[FX_CRC64_BLOCKS + 1][2]; /* [n]: x^(128n+63) and x^(128n-1) mod P: they move a block's low and high
                                              word n blocks on; [0] is not used */
    uint64_t power[64];                    /* [k]: x^(8 * 2^k) mod P: a shift by 2^k bytes, for combine */
    uint64_t table[16][256];               /* [k][b]: the state after byte b and k zero bytes, for the portable kernel */
};

/* The kernels of one instruction set, best first, ended by a NULL name; empty where the target has no such instructions. */
extern const struct fx_crc64_kernel fx_crc64_x86_kernels[];
extern const struct fx_crc64_kernel fx_crc64_arm_kernels[];
extern const struct fx_crc64_kernel fx_crc64_portable_kernels[];

#endif
