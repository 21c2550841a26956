/*
 * CRC-32C (Castagnoli): extend and combine, and the kernels that do the work.
 *
 * Polynomial 1edc6f41, reflected, all ones at the start and inverted at the end: RFC 3720, 12.1 and appendix B.4. Of the nine
 * bytes "123456789" it is e3069283. Values and threads are as in crc64.h: every `crc` is a finished checksum, 0 of nothing.
 */
#ifndef FX_CRC32C_H
#define FX_CRC32C_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t fx_crc32c_extend_fn(uint32_t crc, const void *buf, size_t len);

/* Returns the checksum of: the bytes that crc is the checksum of, then buf[0:len]. Any alignment; buf may be NULL if len is 0. */
uint32_t fx_crc32c_extend(uint32_t crc, const void *buf, size_t len);

/* Returns the checksum of A followed by B, from crc1 of A, crc2 of B and B's length in bytes. */
uint32_t fx_crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t len2);

struct fx_crc32c_kernel {
    const char *name;
    int (*available)(void);      /* does this processor run it? */
    fx_crc32c_extend_fn *extend; /* call it only on a kernel that fx_crc32c_kernel_at has returned */
};

/* Returns the index-th kernel that is available here, best first, or NULL past the last. fx_crc32c_extend uses kernel 0. */
const struct fx_crc32c_kernel *fx_crc32c_kernel_at(size_t index);

#endif
