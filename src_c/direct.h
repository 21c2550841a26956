/* Writing past the page cache: whole buffers go from memory to the disk (O_DIRECT), several at once, while others are filled.
 *
 * What a file is written with by pwrite(2) is copied into the page cache, recorded block by block, and written from there once more.
 * This writes once, and what it has written is on the disk; in return nothing of it is in the cache for whoever reads the file next.
 *
 * A batch is one buffer's bytes of one run. Batches are told of in the order in which they were sent: only when all that were sent
 * before it are in the file too, the chunks that end in it are marked and its `mark` says how far the run is. The first error ends
 * that for good: nothing after it is marked, and each later call returns it.
 *
 * Direct writes are of whole blocks. The bytes before the first and after the last whole block of a batch go through the page cache,
 * at once; a block is never written both ways by one batch. Where the kernel refuses a direct write as such, the bytes go through the
 * page cache as well.
 *
 * The writes are Linux's own asynchronous ones (io_submit(2)); where those are not to be had (io_setup(2) is refused in some
 * sandboxes) each send waits for its write. One thread at a time; everything that is sent is held until it is told of.
 */
#ifndef FX_DIRECT_H
#define FX_DIRECT_H

#include <stddef.h>
#include <stdint.h>

#include "bitmap.h"

/* A buffer's size. The bytes of file offset `p` lie at `p % FX_DIRECT_BYTES` in it, so that blocks are aligned in memory as in the file. */
#define FX_DIRECT_BYTES ((size_t)1 << 20)
/* The most batches under way at once. */
#define FX_DIRECT_DEPTH 16

typedef struct fx_direct fx_direct;

/* How far a run is: its bytes before `pos` are in the file, and `crc` is that of the last chunk's begun part. What is told of an earlier `run`
 * leaves it alone. */
typedef struct fx_mark {
    uint64_t run;
    uint64_t pos;
    uint64_t crc;
} fx_mark;

typedef struct fx_batch {
    unsigned char *buffer; /* of fx_direct_take; it goes back when the batch was told of */
    uint64_t start, stop;  /* file offsets, both in one buffer */
    uint64_t first, count; /* chunks whose last byte lies in [start, stop); their CRCs are in the ledger */
    uint64_t fresh;        /* the bytes of theirs that this run brought, in this batch or before */
    uint64_t crc;          /* of the begun chunk's bytes before `stop` */
    fx_ledger *ledger;
    fx_mark *mark;
    uint64_t run; /* of the mark, when it was sent */
} fx_batch;

/* Makes a sink of two descriptors of one file, which are its own from here on: `direct` opened with O_DIRECT, `cached` without, both to
 * write; blocks are of `block` bytes, a power of two up to FX_DIRECT_BYTES. Returns NULL with errno set, and the descriptors as they
 * were. It has one holder. */
fx_direct *fx_direct_make(int direct, int cached, size_t block);

/* One holder more. */
void fx_direct_hold(fx_direct *sink);

/* One holder fewer; the last one waits for what is under way, and frees everything. */
void fx_direct_let_go(fx_direct *sink);

/* Returns a buffer, or NULL when there is no memory. */
unsigned char *fx_direct_take(fx_direct *sink);

/* Takes a buffer back that was not sent. */
void fx_direct_give(fx_direct *sink, unsigned char *buffer);

/* Sends a batch, whose buffer is no longer the caller's; waits while too many are under way. Returns 0 or an errno value. */
int fx_direct_send(fx_direct *sink, const fx_batch *batch);

/* Tells of what is in the file by now. Does not wait. */
int fx_direct_look(fx_direct *sink);

/* Waits for one write more to end, and tells of what is in the file by then. Returns 0 or an errno value. */
int fx_direct_wait(fx_direct *sink);

/* Waits until all that was sent is told of. Returns 0 or an errno value. */
int fx_direct_settle(fx_direct *sink);

/* Bytes of chunks that came whole and are not marked yet: the caller adds, telling takes away. */
uint64_t *fx_direct_pending(fx_direct *sink);

/* Returns the block of direct writes to a file, or 0 where its file system says that it has none (statx(2), Linux 6.1). */
size_t fx_direct_block(int fd);

#endif
