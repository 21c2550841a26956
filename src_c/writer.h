/* The body writer: puts the bytes of one run where they belong, and keeps the chunks' CRCs while the bytes are hot.
 *
 * A run is a stretch [pos, stop) of the object for one request. The writer takes slices of body in order and for each: checks the
 * bounds, copies and extends the CRC-64/NVME of the chunk in one pass, and when a chunk is whole stores its CRC and sets its bit.
 * Three sinks:
 *   mapped    `map` is the shared mapping of the whole part file; pages are populated a window ahead and given back behind.
 *   buffered  `map` is NULL; bytes gather in `buffer` and go out by pwrite(2), up to each multiple of its capacity. A chunk's bit is set
 *            after its bytes are written.
 *   direct    `direct` has the buffers; a full one is sent (direct.h), and the chunks that end in it are marked when it was written.
 * Without a ledger (`ledger` NULL: the object's size is unknown) only the buffered sink works, and `crc` is that of all bytes.
 *
 * A page of the mapping that cannot be brought in is an error (guard.h): `pos` and `crc` stay where they were before the slice, and its
 * chunk is not marked.
 *
 * Entry conditions of a run: `pos` is the start of a chunk and `crc` is 0, or `pos` lies inside a chunk whose bytes up to `pos` are in
 * place and `crc` is their CRC. One thread at a time uses a writer and its ledger.
 */
#ifndef FX_WRITER_H
#define FX_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "bitmap.h"
#include "direct.h"

/* Pages are populated and released in aligned windows of this many bytes: a huge page of x86-64 and of arm64 with 4 KiB pages, so that
 * a file system with large folios brings one in with a single fault. */
#define FX_WINDOW_BYTES ((uint64_t)2 << 20)

typedef struct fx_writer {
    fx_ledger *ledger;     /* NULL when the size is unknown */
    unsigned char *map;    /* the mapped sink, or NULL */
    fx_direct *direct;     /* the direct sink, or NULL */
    unsigned char *buffer; /* the buffered sink's memory, `capacity` bytes, or NULL; of the direct sink what is being filled, or NULL */
    size_t capacity;
    size_t filled; /* bytes in the buffer that are not in the file yet; they end at `pos` */
    int fd;        /* the part file, for pwrite */
    uint64_t pos;  /* file offset of the next byte of body */
    uint64_t stop; /* end of the run; may be lowered while it goes on, not under pos */
    uint64_t crc;  /* of the current chunk's bytes before pos */
    uint64_t populated; /* pages before this offset are populated */
    uint64_t released;  /* pages before this offset were given back */
    uint64_t chunk_end; /* end of the chunk that holds pos; kept to save a division a slice */
    uint64_t begun;     /* where the run began, or the last chunk that came whole ended */
    fx_batch batch;     /* direct: the chunks that ended since the last one was sent */
    fx_mark mark;       /* direct: how far the run is written */
    int failed;         /* the error that ended this run, or 0: nothing is taken after it */
} fx_writer;

/* Begins a run. The sink's fields are set already and nothing is buffered. */
void fx_writer_begin(fx_writer *writer, uint64_t pos, uint64_t stop, uint64_t crc);

/* Takes up to `length` bytes; stores in *taken how many were (fewer than length only at `stop`). Returns 0 or an errno value: of a mapping
 * whose file was truncated EFAULT, of one whose file system is full ENOSPC, of one whose disk failed EIO. After an error a run takes no
 * more, and every call returns the same. */
int fx_writer_put(fx_writer *writer, const unsigned char *slice, size_t length, size_t *taken);

/* Stores how far the run is in the file, and the run goes on. What is buffered is written for that; the direct sink sends it, so that the next
 * mark has it. Returns 0 or an errno value; after an error the run takes no more, as after one of `fx_writer_put`. */
int fx_writer_mark(fx_writer *writer, fx_mark *mark);

/* Writes what is buffered and gives the run's pages back; `pos` and `crc` then describe exactly what is in the file, but for chunks that
 * the direct sink has not marked yet. Returns 0 or an errno value. */
int fx_writer_flush(fx_writer *writer);

/* Lets go of the sink, waiting for what is being written of it; what was not flushed is dropped. */
void fx_writer_let_go(fx_writer *writer);

#endif
