#include "direct.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pages.h"

/* Buffers are made two at a time, in one huge page: to pin 256 small pages a write costs ten times as much as the write. */
#define SLAB_BYTES ((size_t)2 << 20)
/* Pages and the blocks of file systems; those of disks may be smaller, and half a file system's block is not written beside the rest. */
#define USUAL_BLOCK ((size_t)4096)

typedef struct flight {
    struct iocb call;
    fx_batch batch;
    int ended;
} flight;

typedef struct slab {
    unsigned char *base;
    struct slab *next;
} slab;

struct fx_direct {
    int direct, cached;
    size_t block;
    aio_context_t context; /* 0: there is none, and each write is waited for */
    int holders;
    int failed;
    uint64_t sent, told; /* how many batches; those between are in flights[n % FX_DIRECT_DEPTH] */
    uint64_t pending;
    unsigned char *spare; /* buffers that nobody has; each begins with the address of the next */
    slab *slabs;
    flight flights[FX_DIRECT_DEPTH];
};

fx_direct *fx_direct_make(int direct, int cached, size_t block) {
    fx_direct *sink = calloc(1, sizeof *sink);
    if (!sink)
        return NULL;
    sink->direct = direct;
    sink->cached = cached;
    sink->block = block;
    sink->holders = 1;
    if (syscall(SYS_io_setup, FX_DIRECT_DEPTH, &sink->context) != 0)
        sink->context = 0;
    return sink;
}

void fx_direct_hold(fx_direct *sink) { sink->holders++; }

/* The kernel takes some 30 ms to give a context back, whatever was done with it: nobody waits for that. */
static void *give_back(void *context) {
    syscall(SYS_io_destroy, (aio_context_t)(uintptr_t)context);
    return NULL;
}

static void end_context(aio_context_t context) {
    pthread_attr_t attributes;
    pthread_t thread;
    int made = EAGAIN;
    if (pthread_attr_init(&attributes) == 0) {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        made = pthread_create(&thread, &attributes, give_back, (void *)(uintptr_t)context);
        pthread_attr_destroy(&attributes);
    }
    if (made != 0)
        give_back((void *)(uintptr_t)context);
}

void fx_direct_let_go(fx_direct *sink) {
    if (--sink->holders)
        return;
    (void)fx_direct_settle(sink);
    if (sink->context)
        end_context(sink->context);
    while (sink->slabs) {
        slab *gone = sink->slabs;
        sink->slabs = gone->next;
        munmap(gone->base, SLAB_BYTES);
        free(gone);
    }
    close(sink->direct);
    close(sink->cached);
    free(sink);
}

static int add_slab(fx_direct *sink) {
    slab *made = malloc(sizeof *made);
    if (!made)
        return ENOMEM;
    unsigned char *base = fx_place(SLAB_BYTES, PROT_READ | PROT_WRITE);
    if (!base) {
        free(made);
        return ENOMEM;
    }
    made->base = base;
    made->next = sink->slabs;
    sink->slabs = made;
    for (size_t at = SLAB_BYTES; at; at -= FX_DIRECT_BYTES)
        fx_direct_give(sink, base + at - FX_DIRECT_BYTES);
    return 0;
}

unsigned char *fx_direct_take(fx_direct *sink) {
    if (!sink->spare && add_slab(sink) != 0)
        return NULL;
    unsigned char *buffer = sink->spare;
    sink->spare = *(unsigned char **)buffer;
    return buffer;
}

void fx_direct_give(fx_direct *sink, unsigned char *buffer) {
    *(unsigned char **)buffer = sink->spare; /* the last one first: it may still be in the processor's cache */
    sink->spare = buffer;
}

/* What a direct write has come to: `result` bytes, or an error as a negative number. The rest of a short one, and the whole of one that is
 * refused as such, goes through the page cache, which says what is wrong if that fails too. */
static int finish_write(const fx_direct *sink, const struct iocb *call, int64_t result) {
    if (result == (int64_t)call->aio_nbytes)
        return 0;
    if (result < 0 && result != -EINVAL && result != -EOPNOTSUPP)
        return (int)-result;
    const uint64_t done = result > 0 ? (uint64_t)result : 0;
    const uint64_t start = (uint64_t)call->aio_offset;
    return fx_write_all(sink->cached, (const unsigned char *)(uintptr_t)call->aio_buf + done, start + done, start + call->aio_nbytes);
}

static void end_flight(fx_direct *sink, flight *ended, int64_t result) {
    const int error = finish_write(sink, &ended->call, result);
    if (error && !sink->failed)
        sink->failed = error;
    ended->ended = 1;
}

static void tell(fx_direct *sink) {
    while (sink->told < sink->sent && sink->flights[sink->told % FX_DIRECT_DEPTH].ended) {
        const fx_batch *batch = &sink->flights[sink->told % FX_DIRECT_DEPTH].batch;
        if (!sink->failed) {
            for (uint64_t chunk = batch->first; chunk < batch->first + batch->count; chunk++)
                fx_ledger_set(batch->ledger, chunk, batch->ledger->crcs[chunk]);
            if (batch->mark->run == batch->run)
                *batch->mark = (fx_mark){batch->run, batch->stop, batch->crc};
        }
        sink->pending -= batch->fresh;
        fx_direct_give(sink, batch->buffer);
        sink->told++;
    }
}

static int is_waited_for(const fx_direct *sink) {
    for (uint64_t n = sink->told; n < sink->sent; n++)
        if (!sink->flights[n % FX_DIRECT_DEPTH].ended)
            return 1;
    return 0;
}

static void fail_all(fx_direct *sink, int error) {
    for (uint64_t n = sink->told; n < sink->sent; n++)
        if (!sink->flights[n % FX_DIRECT_DEPTH].ended)
            end_flight(sink, &sink->flights[n % FX_DIRECT_DEPTH], -error);
}

/* Takes what has ended; with `wait` there is at least one, if any is under way. */
static void reap(fx_direct *sink, int wait) {
    struct io_event events[FX_DIRECT_DEPTH];
    if (is_waited_for(sink)) {
        long n;
        do
            n = syscall(SYS_io_getevents, sink->context, wait ? 1L : 0L, (long)FX_DIRECT_DEPTH, events, NULL);
        while (n < 0 && errno == EINTR && wait);
        for (long i = 0; i < n; i++)
            end_flight(sink, (flight *)(uintptr_t)events[i].data, events[i].res);
        if (n < 0 && errno != EINTR)
            fail_all(sink, EIO); /* a child of a fork: the context, and the writes, are its parent's */
    }
    tell(sink);
}

int fx_direct_look(fx_direct *sink) {
    reap(sink, 0);
    return sink->failed;
}

int fx_direct_wait(fx_direct *sink) {
    reap(sink, 1);
    return sink->failed;
}

int fx_direct_settle(fx_direct *sink) {
    while (sink->told < sink->sent)
        reap(sink, 1);
    return sink->failed;
}

uint64_t *fx_direct_pending(fx_direct *sink) { return &sink->pending; }

static void begin_write(fx_direct *sink, flight *next, unsigned char *bytes, uint64_t at, uint64_t length) {
    struct iocb *calls[] = {&next->call};
    next->call = (struct iocb){
        .aio_data = (uintptr_t)next,
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = (uint32_t)sink->direct,
        .aio_buf = (uintptr_t)bytes,
        .aio_nbytes = length,
        .aio_offset = (int64_t)at,
    };
    if (sink->context && syscall(SYS_io_submit, sink->context, 1L, calls) == 1)
        return;
    ssize_t n;
    do
        n = pwrite(sink->direct, bytes, (size_t)length, (off_t)at);
    while (n < 0 && errno == EINTR);
    end_flight(sink, next, n < 0 ? -(int64_t)errno : n);
}

int fx_direct_send(fx_direct *sink, const fx_batch *batch) {
    const uint64_t lead = batch->start / FX_DIRECT_BYTES * FX_DIRECT_BYTES; /* the file offset of the buffer's first byte */
    uint64_t low = (batch->start + sink->block - 1) / sink->block * sink->block;
    uint64_t high = batch->stop / sink->block * sink->block;
    if (low >= high)
        low = high = batch->stop;
    while (sink->sent - sink->told == FX_DIRECT_DEPTH)
        reap(sink, 1);
    flight *next = &sink->flights[sink->sent % FX_DIRECT_DEPTH];
    next->batch = *batch;
    next->ended = 0;
    sink->sent++;
    if (!sink->failed)
        sink->failed = fx_write_all(sink->cached, batch->buffer + (batch->start - lead), batch->start, low);
    if (!sink->failed)
        sink->failed = fx_write_all(sink->cached, batch->buffer + (high - lead), high, batch->stop);
    if (sink->failed || low == high)
        next->ended = 1;
    else
        begin_write(sink, next, batch->buffer + (low - lead), low, high - low);
    reap(sink, 0);
    return sink->failed;
}

size_t fx_direct_block(int fd) {
#ifdef STATX_DIOALIGN
    struct statx now;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &now) == 0 && (now.stx_mask & STATX_DIOALIGN)) {
        const size_t told = now.stx_dio_offset_align > now.stx_dio_mem_align ? now.stx_dio_offset_align : now.stx_dio_mem_align;
        return !now.stx_dio_offset_align || told > FX_DIRECT_BYTES ? 0 : told > USUAL_BLOCK ? told : USUAL_BLOCK;
    }
#else
    (void)fd;
#endif
    return USUAL_BLOCK;
}
