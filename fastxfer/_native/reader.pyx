"""What libcurl calls for the next bytes of an upload's body: a stretch of a file, with its CRC-64 on the way.

A `Reader` is set as CURLOPT_READFUNCTION and CURLOPT_SEEKFUNCTION. The file is read with pread(2), not through a mapping: pycurl hands a
bytes object to libcurl, so that each byte is copied into one either way, and pread does that in one system call a block without a fault a
page; a file that somebody cuts meanwhile is a short read, and no SIGBUS.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EFAULT, EINTR, errno
from libc.stdint cimport int64_t, uint64_t

import os


cdef extern from "unistd.h" nogil:
    ssize_t pread(int fd, void *buffer, size_t count, int64_t offset)


cdef extern from "crc64.h" nogil:
    uint64_t fx_crc64nvme_extend(uint64_t crc, const void *buf, size_t len)
    uint64_t fx_crc64xz_extend(uint64_t crc, const void *buf, size_t len)


# libcurl's CURL_READFUNC_ABORT and the answers of a seek function (curl/curl.h).
cdef long ABORT = 0x10000000
cdef int SEEK_DONE = 0
cdef int SEEK_FAILED = 1


cdef class Reader:
    """The bytes [start, stop) of a file, once or, after `seek`, again. One thread at a time.

    `crc` is that of the bytes read so far, CRC-64/NVME or, with `xz`, CRC-64/XZ. `error` is why it stopped early, an errno value: EFAULT
    where the file ends before `stop`. `given` counts the bytes that were handed out, those of a second time too.
    """
    cdef int fd
    cdef bint xz
    cdef readonly uint64_t start
    cdef readonly uint64_t stop
    cdef readonly uint64_t pos
    cdef readonly uint64_t crc
    cdef readonly uint64_t given
    cdef readonly int error

    def __init__(self, int fd, uint64_t start, uint64_t stop, bint xz=False):
        if start > stop:
            raise ValueError("a stretch does not end before it starts")
        self.fd = fd
        self.start = self.pos = start
        self.stop = stop
        self.xz = xz

    def __len__(self):
        return self.stop - self.start

    def __call__(self, size_t size):
        """Returns the next `size` bytes at the most, b"" at the end, or what aborts the request."""
        cdef size_t wanted = min(<uint64_t>size, self.stop - self.pos)
        if wanted == 0 or self.error:
            return ABORT if self.error else b""
        cdef bytes block = PyBytes_FromStringAndSize(NULL, wanted)
        cdef char *at = PyBytes_AS_STRING(block)
        cdef ssize_t got
        with nogil:
            got = pread(self.fd, at, wanted, self.pos)
            while got < 0 and errno == EINTR:
                got = pread(self.fd, at, wanted, self.pos)
            if got < 0:
                self.error = errno
            elif got == 0:
                self.error = EFAULT
            elif self.xz:
                self.crc = fx_crc64xz_extend(self.crc, at, got)
            else:
                self.crc = fx_crc64nvme_extend(self.crc, at, got)
        if self.error:
            return ABORT
        self.pos += got
        self.given += got
        return block if <size_t>got == wanted else block[:got]

    def seek(self, int64_t offset, int origin=0):
        """Goes back to the beginning: what libcurl wants when a kept connection was lost. Any other place is refused."""
        if offset != 0 or origin != 0:
            return SEEK_FAILED
        self.pos = self.start
        self.crc = 0
        return SEEK_DONE

    @property
    def reason(self):
        """Returns why it stopped early, in words."""
        if not self.error:
            return ""
        return "it was cut by somebody else" if self.error == EFAULT else os.strerror(self.error)


cdef class MemoryReader(Reader):
    """The same for bytes that are in memory, any object with a C-contiguous buffer. It is held until the reader is gone."""
    cdef Py_buffer view
    cdef bint held

    def __init__(self, data, bint xz=False):
        if self.held:
            raise ValueError("a reader is made once")
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True
        Reader.__init__(self, -1, 0, self.view.len, xz)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    def __call__(self, size_t size):
        """See `Reader`."""
        cdef size_t wanted = min(<uint64_t>size, self.stop - self.pos)
        if wanted == 0:
            return b""
        cdef const char *at = <const char *>self.view.buf + self.pos
        if self.xz:
            self.crc = fx_crc64xz_extend(self.crc, at, wanted)
        else:
            self.crc = fx_crc64nvme_extend(self.crc, at, wanted)
        self.pos += wanted
        self.given += wanted
        return PyBytes_FromStringAndSize(at, wanted)
