#include "writer.h"

#include <errno.h>
#include <stdlib.h>

#include "crc64.h"
#include "guard.h"
#include "pages.h"

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

void fx_writer_begin(fx_writer *writer, uint64_t pos, uint64_t stop, uint64_t crc) {
    writer->pos = pos;
    writer->stop = stop;
    writer->crc = crc;
    writer->populated = pos;
    writer->released = pos;
    writer->filled = 0;
    writer->begun = pos;
    writer->mark = (fx_mark){writer->mark.run + 1, pos, crc};
    writer->failed = 0;
    if (writer->ledger && pos < writer->ledger->size)
        writer->chunk_end = fx_ledger_chunk_end(writer->ledger, pos / writer->ledger->chunk_size);
    else
        writer->chunk_end = UINT64_MAX;
}

static int write_buffer(fx_writer *writer) {
    const int error = fx_write_all(writer->fd, writer->buffer, writer->pos - writer->filled, writer->pos);
    if (!error)
        writer->filled = 0;
    return error;
}

/* Brings the pages up to `ahead` in. */
static int bring_in(fx_writer *writer, uint64_t ahead) {
    int error = fx_pages_populate(writer->map, writer->populated, ahead);
    if (error == EFAULT || error == EHWPOISON)
        return fx_page_error(writer->fd, writer->populated, ahead);
    if (error)
        return error;
    writer->populated = ahead;
    return 0;
}

/* The window just finished goes back, the next one, which holds [pos, end), comes in: two system calls a window. */
static int next_window(fx_writer *writer, uint64_t end) {
    int error = fx_pages_release(writer->map, writer->released, writer->pos);
    if (error)
        return error;
    writer->released = writer->pos;
    return bring_in(writer, least((end + FX_WINDOW_BYTES - 1) / FX_WINDOW_BYTES * FX_WINDOW_BYTES,
                                  writer->stop > end ? writer->stop : end));
}

static int put_mapped(fx_writer *writer, const unsigned char *slice, size_t length) {
    const unsigned char *fault = fx_guard_copy(&writer->crc, writer->map + writer->pos, slice, length);
    if (fault) {
        const uint64_t at = (uint64_t)(fault - writer->map);
        return fx_page_error(writer->fd, at, at + 1);
    }
    writer->pos += length;
    return 0;
}

static int put_buffered(fx_writer *writer, const unsigned char *slice, size_t length) {
    while (length) {
        /* To the next multiple of the capacity: after a run that began elsewhere, or a spill, whole pages are written again. */
        const size_t n = (size_t)least(length, writer->capacity - (size_t)(writer->pos % writer->capacity));
        writer->crc = fx_crc64nvme_copy(writer->crc, writer->buffer + writer->filled, slice, n);
        writer->filled += n;
        writer->pos += n;
        slice += n;
        length -= n;
        if (writer->pos % writer->capacity == 0) {
            int error = write_buffer(writer);
            if (error)
                return error;
        }
    }
    return 0;
}

/* Sends the buffer, full or not. */
static int send_buffer(fx_writer *writer) {
    fx_batch *batch = &writer->batch;
    batch->buffer = writer->buffer;
    batch->start = writer->pos - writer->filled;
    batch->stop = writer->pos;
    batch->crc = writer->crc;
    batch->ledger = writer->ledger;
    batch->mark = &writer->mark;
    batch->run = writer->mark.run;
    writer->buffer = NULL;
    writer->filled = 0;
    int error = fx_direct_send(writer->direct, batch);
    batch->count = batch->fresh = 0;
    return error;
}

/* Forgets what was not sent. */
static void drop_buffer(fx_writer *writer) {
    *fx_direct_pending(writer->direct) -= writer->batch.fresh;
    writer->batch.count = writer->batch.fresh = 0;
    if (writer->buffer)
        fx_direct_give(writer->direct, writer->buffer);
    writer->buffer = NULL;
    writer->filled = 0;
}

static int put_direct(fx_writer *writer, const unsigned char *slice, size_t length) {
    if (!writer->buffer) {
        writer->buffer = fx_direct_take(writer->direct);
        if (!writer->buffer)
            return ENOMEM;
    }
    writer->crc = fx_crc64nvme_copy(writer->crc, writer->buffer + writer->pos % FX_DIRECT_BYTES, slice, length);
    writer->filled += length;
    writer->pos += length;
    return 0;
}

/* A chunk's last byte is in the buffer: its bit waits until that was written. */
static void chunk_came(fx_writer *writer, uint64_t chunk) {
    fx_batch *batch = &writer->batch;
    if (!batch->count++)
        batch->first = chunk;
    batch->fresh += writer->pos - writer->begun;
    *fx_direct_pending(writer->direct) += writer->pos - writer->begun;
    writer->ledger->crcs[chunk] = writer->crc;
}

static int finish_chunk(fx_writer *writer) {
    fx_ledger *ledger = writer->ledger;
    const uint64_t chunk = (writer->pos - 1) / ledger->chunk_size;
    if (writer->direct) {
        chunk_came(writer, chunk);
    } else {
        int error = writer->filled ? write_buffer(writer) : 0;
        if (error)
            return error;
        fx_ledger_set(ledger, chunk, writer->crc);
    }
    writer->crc = 0;
    writer->begun = writer->pos;
    if (writer->pos < ledger->size)
        writer->chunk_end = fx_ledger_chunk_end(ledger, chunk + 1);
    return 0;
}

static int put(fx_writer *writer, const unsigned char *slice, size_t length) {
    if (writer->map)
        return put_mapped(writer, slice, length);
    return writer->direct ? put_direct(writer, slice, length) : put_buffered(writer, slice, length);
}

int fx_writer_put(fx_writer *writer, const unsigned char *slice, size_t length, size_t *taken) {
    *taken = 0;
    while (!writer->failed && *taken < length && writer->pos < writer->stop) {
        size_t n = (size_t)least(length - *taken, least(writer->stop, writer->chunk_end) - writer->pos);
        int error = 0;
        if (writer->direct)
            n = (size_t)least(n, FX_DIRECT_BYTES - writer->pos % FX_DIRECT_BYTES);
        if (writer->map && writer->pos + n > writer->populated)
            error = next_window(writer, writer->pos + n);
        if (!error)
            error = put(writer, slice + *taken, n);
        *taken += error ? 0 : n;
        if (!error && writer->ledger && writer->pos == writer->chunk_end)
            error = finish_chunk(writer);
        if (!error && writer->direct && writer->pos % FX_DIRECT_BYTES == 0)
            error = send_buffer(writer);
        writer->failed = error;
    }
    return writer->failed;
}

int fx_writer_mark(fx_writer *writer, fx_mark *mark) {
    if (writer->direct) {
        if (!writer->failed && writer->filled)
            writer->failed = send_buffer(writer);
        if (!writer->failed)
            writer->failed = fx_direct_look(writer->direct);
        *mark = writer->mark;
        return writer->failed;
    }
    if (!writer->failed && writer->filled)
        writer->failed = write_buffer(writer);
    *mark = (fx_mark){0, writer->pos, writer->crc};
    return writer->map ? 0 : writer->failed;
}

int fx_writer_flush(fx_writer *writer) {
    int error = writer->failed;
    if (writer->direct) {
        if (!error && writer->filled)
            error = send_buffer(writer);
        while (!error && writer->pos != writer->begun && writer->mark.pos != writer->pos)
            error = fx_direct_wait(writer->direct); /* only a begun chunk's bytes count from here on without a bit */
        if (error) {
            drop_buffer(writer);
            (void)fx_direct_settle(writer->direct);
        }
    } else if (!error && writer->map) {
        error = fx_pages_release(writer->map, writer->released, writer->populated);
        writer->released = writer->populated = writer->pos;
    } else if (!error && writer->filled) {
        error = write_buffer(writer);
    }
    return error;
}

void fx_writer_let_go(fx_writer *writer) {
    if (writer->direct) {
        drop_buffer(writer);
        (void)fx_direct_settle(writer->direct); /* what is under way tells this writer's mark */
        fx_direct_let_go(writer->direct);
    } else {
        free(writer->buffer);
    }
    writer->direct = NULL;
    writer->buffer = NULL;
    writer->capacity = writer->filled = 0;
    writer->ledger = NULL;
    writer->map = NULL;
    writer->fd = -1;
}
