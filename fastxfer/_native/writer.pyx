"""What libcurl calls with each slice of body, and what it writes into (the C is in src_c/writer.c, pages.c and direct.c).

A `Writer` is set as CURLOPT_WRITEFUNCTION once a handle, with `use_memoryview=True`: it reads libcurl's own buffer during the call and
keeps nothing of it. libcurl passes at most 16 KiB a call, so this is called about 65,000 times a GB and does nothing but bounds, copy and CRC.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.errno cimport EFAULT, EINVAL, EIO, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from fastxfer._native.bitmap cimport ChunkLedger, fx_ledger
from fastxfer._native.memory cimport PartBuffer

import os


cdef extern from "pages.h" nogil:
    int fx_start_writeback(int fd, uint64_t start, uint64_t length)
    int fx_reserve(int fd, uint64_t size)
    int64_t fx_birth_ns(int fd)
    int fx_file_system(int fd, uint32_t *number)
    unsigned char *fx_map(int fd, uint64_t size)
    void fx_unmap(unsigned char *map, uint64_t size)


cdef extern from "direct.h" nogil:
    ctypedef struct fx_direct:
        pass

    ctypedef struct fx_mark:
        uint64_t run
        uint64_t pos
        uint64_t crc

    fx_direct *fx_direct_make(int direct, int cached, size_t block)
    void fx_direct_hold(fx_direct *sink)
    void fx_direct_let_go(fx_direct *sink)
    int fx_direct_settle(fx_direct *sink)
    uint64_t *fx_direct_pending(fx_direct *sink)
    size_t fx_direct_block(int fd)


cdef extern from "writer.h" nogil:
    ctypedef struct fx_writer:
        fx_ledger *ledger
        unsigned char *map
        fx_direct *direct
        unsigned char *buffer
        size_t capacity
        size_t filled
        int fd
        uint64_t pos
        uint64_t stop
        uint64_t crc

    void fx_writer_begin(fx_writer *writer, uint64_t pos, uint64_t stop, uint64_t crc)
    int fx_writer_put(fx_writer *writer, const unsigned char *slice, size_t length, size_t *taken)
    int fx_writer_mark(fx_writer *writer, fx_mark *mark)
    int fx_writer_flush(fx_writer *writer)
    void fx_writer_let_go(fx_writer *writer)


cdef enum:
    REFUSING = 0
    HOLDING = 1
    WRITING = 2
    COLLECTING = 3
    STASHING = 4
    FILLING = 5
    DROPPING = 6

# libcurl's CURL_WRITEFUNC_PAUSE (curl/curl.h).
cdef long PAUSE = 0x10000001

COLLECT_LIMIT = 65536
"""Bytes of an error's body that are kept; the rest is dropped."""


cdef str TRUNCATED = "it was truncated by somebody else while it was written; run it again, what is left is verified"
cdef str PAGE_FAILED = "its disk failed, or it was truncated by somebody else while it was written"


cdef class Mapping:
    """A shared, writable mapping of the first `size` bytes of a file whose space is reserved. Unmapped when nothing refers to it.

    While one lives, a page of it that cannot be brought in is an error of the writer, not a SIGBUS that ends the process (src_c/guard.h).

    Raises OSError when the mapping is refused, ValueError for a size under 1.
    """
    cdef unsigned char *base
    cdef size_t length
    cdef int fd

    def __cinit__(self, int fd, uint64_t size):
        if size < 1:
            raise ValueError("a mapping has at least one byte")
        self.base = fx_map(fd, size)
        if self.base == NULL:
            raise OSError(errno, os.strerror(errno))
        self.length = size
        self.fd = fd

    def __dealloc__(self):
        if self.base != NULL:
            fx_unmap(self.base, self.length)

    def __len__(self):
        return self.length


cdef class DirectSink:
    """Writes to a file past the page cache: the disk gets the bytes from memory, and has them when a chunk is marked (src_c/direct.h).

    `direct` and `cached` are descriptors of one file to write to, opened with O_DIRECT and without; they are the sink's from here on.
    Raises OSError (EINVAL where the file system has no direct writes) and MemoryError; the descriptors stay the caller's then.
    """
    cdef fx_direct *sink

    def __cinit__(self, int direct, int cached):
        cdef size_t block = fx_direct_block(direct)
        if block == 0:
            raise OSError(EINVAL, os.strerror(EINVAL))
        self.sink = fx_direct_make(direct, cached, block)
        if self.sink == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.sink != NULL:
            fx_direct_let_go(self.sink)

    def settle(self):
        """Waits until all that came is written, and chunks that are whole are marked. Raises OSError when one of the writes failed."""
        cdef int error = fx_direct_settle(self.sink)
        if error:
            raise OSError(error, os.strerror(error))

    @property
    def pending(self):
        """How many bytes came of chunks that are whole and not marked yet, since their last bytes are being written."""
        return fx_direct_pending(self.sink)[0]


cdef class Throttle:
    """The bytes that a transfer's writers may still take, together. Whoever owns it adds to `tokens`; it may fall under 0 by a slice."""
    cdef public int64_t tokens

    def __init__(self, int64_t tokens=0):
        self.tokens = tokens


@cython.no_gc_clear  # what is being written tells the ledger, until the writer itself goes
cdef class Writer:
    """A callable that puts a response's body where it belongs. One thread at a time.

    It refuses bytes (the request then fails) until it is told what to do with them: `hold` keeps libcurl waiting, `begin` writes a run into the
    sink, `stash` keeps a run aside, `fill` fills buffers, `collect` keeps an error's body, `drop` only counts. `received` counts the bytes of body that were
    taken since it was made.
    """
    cdef fx_writer c
    cdef int mode
    cdef ChunkLedger ledger
    cdef Mapping mapping
    cdef bytearray collected
    cdef size_t room
    cdef Throttle throttle
    cdef PartBuffer buffer
    cdef object on_full
    cdef size_t carried
    cdef readonly bint waiting
    cdef readonly uint64_t received
    cdef readonly bint overrun
    cdef readonly int error

    def __cinit__(self):
        self.mode = REFUSING
        self.c.fd = -1

    def __dealloc__(self):
        fx_writer_let_go(&self.c)

    def use_mapping(self, ChunkLedger ledger not None, Mapping mapping not None):
        """Sets the mapped sink. Raises ValueError when the mapping is not of the ledger's size."""
        if mapping.length != ledger.c.size:
            raise ValueError("mapping and ledger differ in size")
        self._forget()
        self.ledger = ledger
        self.mapping = mapping
        self.c.ledger = &ledger.c
        self.c.map = mapping.base
        self.c.fd = mapping.fd

    def use_file(self, ChunkLedger ledger, int fd, size_t capacity):
        """Sets the buffered sink: `capacity` bytes of buffer over `fd`; `ledger` is None when the size is not known. Raises MemoryError."""
        if capacity < 1:
            raise ValueError("a buffer has at least one byte")
        self._forget()
        self.c.buffer = <unsigned char *>malloc(capacity)
        if self.c.buffer == NULL:
            raise MemoryError()
        self.c.capacity = capacity
        self.ledger = ledger
        self.c.ledger = &ledger.c if ledger is not None else NULL
        self.c.fd = fd

    def use_direct(self, ChunkLedger ledger not None, DirectSink sink not None):
        """Sets the direct sink. A chunk is marked some time after its last byte came."""
        self._forget()
        fx_direct_hold(sink.sink)
        self.ledger = ledger
        self.c.ledger = &ledger.c
        self.c.direct = sink.sink

    def _forget(self):
        if self.mode == WRITING:
            raise ValueError("the writer is in a run")
        fx_writer_let_go(&self.c)
        self.ledger = None
        self.mapping = None

    def begin(self, uint64_t pos, uint64_t stop, uint64_t crc=0):
        """Begins the run [pos, stop); `crc` is that of the bytes between the chunk's start and `pos`. Raises ValueError out of bounds."""
        if self.c.map == NULL and self.c.direct == NULL and self.c.fd < 0:
            raise ValueError("the writer has no sink")
        if pos > stop or (self.c.ledger != NULL and stop > self.c.ledger.size):
            raise ValueError("a run must lie inside the object")
        if self.c.ledger != NULL and crc == 0 and pos % self.c.ledger.chunk_size and pos != stop:
            raise ValueError("a run begins at a chunk, or goes on from a known checksum")
        self.overrun = self.waiting = False
        self.error = 0
        fx_writer_begin(&self.c, pos, stop, crc)
        self.mode = WRITING

    def end(self):
        """Ends the run; returns (pos, crc): all bytes of the run before `pos` are in the file, and the CRC of the last, partial chunk.

        Of the direct sink whole chunks may be on their way still; that they are in the file their bits will say, and `DirectSink.settle`.

        Raises OSError when they could not be written; then only the ledger's bits count. Its errno is EFAULT when the file was truncated
        under its mapping, EIO when its disk failed.
        """
        if self.mode != WRITING:
            raise ValueError("the writer is not in a run")
        self.mode = REFUSING
        cdef int error = fx_writer_flush(&self.c)
        if error:
            raise OSError(error, self._reason(error))
        return self.c.pos, self.c.crc

    def _reason(self, int error):
        """Returns what an error means in words; one of a mapping is not what the system calls it."""
        if self.mapping is not None and error in (EFAULT, EIO):
            return TRUNCATED if error == EFAULT else PAGE_FAILED
        return os.strerror(error)

    def detach(self):
        """Lets go of the sink and its memory; the writer refuses bytes from here on. Buffered bytes that were not ended are dropped."""
        self.refuse()
        self._forget()

    def limit(self, Throttle throttle):
        """Has the writer take bytes of a run, or into a buffer, only while `throttle` has tokens; None ends it.

        Without tokens libcurl keeps the bytes and `waiting` is true, until the request is unpaused.
        """
        self.throttle = throttle

    def hold(self):
        """Keeps the next bytes inside libcurl until another mode is set and the request is unpaused."""
        self.mode = HOLDING

    def refuse(self):
        """Fails the request at its next byte. What was kept aside is let go."""
        if self.mode == STASHING:
            self.collected = None
        self.buffer = self.on_full = None
        self.mode = REFUSING

    def collect(self):
        """Keeps the first COLLECT_LIMIT bytes of body aside, drops the rest."""
        self.collected = bytearray()
        self.mode = COLLECTING

    def drop(self):
        """Counts the bytes of body in `received`, and keeps none of them."""
        self.mode = DROPPING

    def stash(self, size_t room):
        """Keeps up to `room` bytes of body aside, in memory; takes no more. The sink is not touched."""
        self.collected = bytearray()
        self.room = room
        self.overrun = self.waiting = False
        self.error = 0
        self.mode = STASHING

    def fill(self, PartBuffer buffer not None, on_full=None):
        """Puts the body into a buffer, behind what is there. Where more comes than it has room for the request fails; with `on_full` that is
        called then, once and inside libcurl, and the rest waits there until `fill_on` and the request is unpaused.
        """
        self.carried = 0
        self.overrun = self.waiting = False
        self.error = 0
        self.buffer = buffer
        self.on_full = on_full
        self.mode = FILLING

    def fill_on(self, PartBuffer buffer not None):
        """Goes on with the next buffer. Raises ValueError unless one is full."""
        if self.mode != HOLDING or self.on_full is None:
            raise ValueError("no buffer is full")
        self.buffer = buffer
        self.mode = FILLING

    cdef object _fill(self, const unsigned char *data, size_t length):
        # What was taken of a slice before its rest had to wait comes again with the rest.
        cdef size_t taken = self.buffer.take(data + self.carried, length - self.carried)
        self.received += taken
        self.carried += taken
        if self.throttle is not None:
            self.throttle.tokens -= taken
        if self.carried == length:
            self.carried = 0
            return None
        if self.on_full is None:
            self.overrun = True
            return 0
        self.buffer = None
        self.mode = HOLDING
        self.on_full()
        return PAUSE

    @property
    def stashed(self):
        """How many bytes are kept aside."""
        return len(self.collected) if self.collected is not None else 0

    def unstash(self, uint64_t pos, uint64_t stop, size_t skip, uint64_t crc=0):
        """Begins the run [pos, stop) with what was kept aside but for its first `skip` bytes, and lets go of it.

        Raises ValueError as `begin` does, and when there is nothing after `skip` or more than the run takes; OSError when it could not
        be written. Nothing of it is counted as received again.
        """
        cdef size_t taken = 0
        cdef size_t count = self.stashed
        if self.mode != STASHING or skip > count or count - skip > stop - pos:
            raise ValueError("what was kept aside is not of this run")
        cdef bytearray kept = self.collected
        self.begin(pos, stop, crc)
        self.collected = None
        self.error = fx_writer_put(&self.c, <const unsigned char *><const char *>kept + skip, count - skip, &taken)
        if self.error:
            raise OSError(self.error, self._reason(self.error))

    def take(self):
        """Returns what was kept aside, as a bytearray that is the caller's, and lets go of it; the writer refuses bytes from here on."""
        cdef bytearray kept = self.collected if self.collected is not None else bytearray()
        self.collected = None
        self.mode = REFUSING
        return kept

    cdef int _keep(self, const char *data, size_t length) except -1:
        cdef Py_ssize_t before = len(self.collected)
        PyByteArray_Resize(self.collected, before + <Py_ssize_t>length)
        memcpy(PyByteArray_AS_STRING(self.collected) + before, data, length)
        return 0

    @property
    def body(self):
        """The collected bytes."""
        return bytes(self.collected) if self.collected is not None else b""

    @property
    def pos(self):
        """File offset of the next byte of the run."""
        return self.c.pos

    @property
    def stop(self):
        """End of the run. May be lowered while it goes on; the request then ends there."""
        return self.c.stop

    @stop.setter
    def stop(self, uint64_t stop):
        if stop < self.c.pos or stop > self.c.stop:
            raise ValueError("a run's end is only lowered, not under its position")
        self.c.stop = stop

    def mark(self):
        """Returns (pos, crc) of a run in chunks, all bytes of which before `pos` are in the file, or None when there is none: for another
        thread's snapshot. What is buffered is written for that, or sent by the direct sink and there with the next mark; if it fails, the
        run fails at its next byte or end, and there is no mark.
        """
        cdef fx_mark mark
        if self.mode != WRITING or self.ledger is None or fx_writer_mark(&self.c, &mark):
            return None
        return mark.pos, mark.crc

    @property
    def crc(self):
        """CRC-64/NVME of the current chunk so far; without a ledger, of all bytes."""
        return self.c.crc

    def __call__(self, data):
        cdef Py_buffer view
        cdef size_t taken = 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.mode == WRITING or self.mode == STASHING:
                if self.throttle is not None:
                    self.waiting = self.throttle.tokens <= 0
                    if self.waiting:
                        return PAUSE
                    self.throttle.tokens -= view.len
                if self.mode == WRITING:
                    self.error = fx_writer_put(&self.c, <const unsigned char *>view.buf, view.len, &taken)
                else:
                    taken = min(<size_t>view.len, self.room - <size_t>len(self.collected))
                    self._keep(<const char *>view.buf, taken)
                self.received += taken
                if self.error == 0 and taken == <size_t>view.len:
                    return None
                self.overrun = self.error == 0
                return taken if self.overrun else 0
            if self.mode == FILLING:
                if self.throttle is not None:
                    self.waiting = self.throttle.tokens <= 0
                    if self.waiting:
                        return PAUSE
                return self._fill(<const unsigned char *>view.buf, view.len)
            if self.mode == HOLDING:
                return PAUSE
            if self.mode == DROPPING:
                self.received += view.len
                return None
            if self.mode == COLLECTING:
                room = COLLECT_LIMIT - len(self.collected)
                if room > 0:
                    self.collected += (<const char *>view.buf)[:min(room, view.len)]
                return None
            return 0 if view.len else None
        finally:
            PyBuffer_Release(&view)


def start_writeback(int fd, uint64_t start, uint64_t length):
    """Asks the kernel to begin writing a stretch of a file back, without waiting for it (sync_file_range(2)). Promises nothing.

    Raises OSError. Releases the interpreter's lock.
    """
    cdef int error
    with nogil:
        error = fx_start_writeback(fd, start, length)
    if error:
        raise OSError(error, os.strerror(error))


def reserve(int fd, uint64_t size):
    """Reserves space for the first `size` bytes of a file (fallocate(2)); returns False where the file system cannot.

    Raises OSError (ENOSPC, EFBIG, ...). Releases the interpreter's lock.
    """
    cdef int error
    with nogil:
        error = fx_reserve(fd, size)
    if error == EOPNOTSUPP:
        return False
    if error:
        raise OSError(error, os.strerror(error))
    return True


def birth_ns(int fd):
    """Returns when the file was made, in nanoseconds since the epoch, or 0 where the file system does not say (statx(2))."""
    return fx_birth_ns(fd)


def file_system(int fd):
    """Returns the number of the file system that a descriptor's file lies on (statfs(2) lists them). Raises OSError."""
    cdef uint32_t number = 0
    cdef int error = fx_file_system(fd, &number)
    if error:
        raise OSError(error, os.strerror(error))
    return number
