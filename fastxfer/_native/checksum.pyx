"""CRC-64/NVME, CRC-64/XZ and CRC-32C of bytes-like objects (the C is in src_c/crc64.h and src_c/crc32c.h).

A checksum is an int. The one of no bytes is 0, and the one of some bytes is the `value` to go on from with the bytes that follow:
crc64nvme(b, crc64nvme(a)) == crc64nvme(a + b). Without `kernel` the best one that this processor has does the work.

Data is anything with a C-contiguous buffer, of any item type. BufferError (or, from numpy, ValueError) is raised for one that is not
contiguous, OverflowError for a value or length that does not fit, ValueError for a kernel that is not there. The interpreter's lock is
released over inputs of more than 64 KiB; the caller sees to it that nobody changes the bytes meanwhile.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "crc64.h" nogil:
    struct fx_crc64_poly:
        pass
    struct fx_crc64_kernel:
        const char *name
        uint64_t (*extend)(const fx_crc64_poly *, uint64_t, const void *, size_t) noexcept nogil
        uint64_t (*copy)(const fx_crc64_poly *, uint64_t, void *, const void *, size_t) noexcept nogil
    const fx_crc64_kernel *fx_crc64_kernel_at(size_t index) noexcept
    const fx_crc64_poly *fx_crc64nvme_poly() noexcept
    const fx_crc64_poly *fx_crc64xz_poly() noexcept
    uint64_t fx_crc64nvme_combine(uint64_t crc1, uint64_t crc2, uint64_t len2) noexcept
    uint64_t fx_crc64xz_combine(uint64_t crc1, uint64_t crc2, uint64_t len2) noexcept

cdef extern from "crc32c.h" nogil:
    struct fx_crc32c_kernel:
        const char *name
        uint32_t (*extend)(uint32_t, const void *, size_t) noexcept nogil
    const fx_crc32c_kernel *fx_crc32c_kernel_at(size_t index) noexcept
    uint32_t fx_crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t len2) noexcept

cdef enum:
    # 64 KiB take from 1 us (vpclmul) to 20 us (portable): under it there is not enough for another thread to do.
    KEEP_LOCK_BYTES = 64 * 1024


cdef class _Algorithm:
    """What tells one checksum from another: name, digest size, kernels. `poly` is NULL for CRC-32C, whose kernels are of another type."""

    cdef str name
    cdef int digest_size
    cdef const fx_crc64_poly *poly
    cdef tuple kernels  # the names of those that are available, best first

    cdef Py_ssize_t index(self, str kernel) except -1:
        """Returns the place of a kernel among the available ones, 0 for None. Raises ValueError."""
        if kernel is None:
            return 0
        if kernel not in self.kernels:
            raise ValueError(f"no kernel {kernel!r} for {self.name} here; there are {', '.join(self.kernels)}")
        return self.kernels.index(kernel)

    cdef uint64_t extend(self, size_t kernel, uint64_t value, const void *data, size_t length) noexcept nogil:
        """Returns value extended by data[0:length]. `kernel` comes from index()."""
        if self.poly == NULL:
            return fx_crc32c_kernel_at(kernel).extend(<uint32_t>value, data, length)
        return fx_crc64_kernel_at(kernel).extend(self.poly, value, data, length)

    cdef uint64_t copy(self, size_t kernel, uint64_t value, void *dst, const void *src, size_t length) noexcept nogil:
        """Copies src[0:length] to dst and returns value extended by it. CRC-64 alone has this."""
        return fx_crc64_kernel_at(kernel).copy(self.poly, value, dst, src, length)


cdef _Algorithm _algorithm(str name, int digest_size, const fx_crc64_poly *poly):
    cdef size_t i = 0
    cdef _Algorithm made = _Algorithm()
    made.name = name
    made.digest_size = digest_size
    made.poly = poly
    names = []
    if poly == NULL:
        while fx_crc32c_kernel_at(i) != NULL:
            names.append(fx_crc32c_kernel_at(i).name.decode())
            i += 1
    else:
        while fx_crc64_kernel_at(i) != NULL:
            names.append(fx_crc64_kernel_at(i).name.decode())
            i += 1
    made.kernels = tuple(names)
    return made


cdef _Algorithm _NVME = _algorithm("crc64nvme", 8, fx_crc64nvme_poly())
cdef _Algorithm _XZ = _algorithm("crc64xz", 8, fx_crc64xz_poly())
cdef _Algorithm _CRC32C = _algorithm("crc32c", 4, NULL)
cdef dict _ALGORITHMS = {"crc64nvme": _NVME, "crc64xz": _XZ, "crc32c": _CRC32C}


cdef _Algorithm _named(str name):
    """Returns the algorithm of that name. Raises ValueError."""
    algorithm = _ALGORITHMS.get(name)
    if algorithm is None:
        raise ValueError(f"no checksum {name!r}; there are {', '.join(_ALGORITHMS)}")
    return algorithm


cdef uint64_t _extend(_Algorithm algorithm, data, uint64_t value, str kernel) except? 0:
    """Returns value extended by the bytes of data."""
    cdef size_t index = algorithm.index(kernel)
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len > KEEP_LOCK_BYTES:
            with nogil:
                value = algorithm.extend(index, value, view.buf, view.len)
        else:
            value = algorithm.extend(index, value, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return value


cdef uint64_t _copy_views(_Algorithm algorithm, Py_buffer *dst, Py_buffer *src, uint64_t value, size_t index) except? 0:
    """Copies all of src to the start of dst. Raises ValueError, before anything is written, when it does not fit or they overlap."""
    cdef char *to = <char *>dst.buf
    cdef char *begin = <char *>src.buf
    if dst.len < src.len:
        raise ValueError(f"{src.len} bytes do not fit into {dst.len}")
    if to < begin + src.len and begin < to + src.len:
        raise ValueError("source and destination overlap")
    if src.len > KEEP_LOCK_BYTES:
        with nogil:
            value = algorithm.copy(index, value, dst.buf, src.buf, src.len)
    else:
        value = algorithm.copy(index, value, dst.buf, src.buf, src.len)
    return value


cdef uint64_t _copy(_Algorithm algorithm, dst, src, uint64_t value, str kernel) except? 0:
    """Copies the bytes of src to the start of dst and returns value extended by them."""
    cdef size_t index = algorithm.index(kernel)
    cdef Py_buffer source, destination
    PyObject_GetBuffer(src, &source, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(dst, &destination, PyBUF_WRITABLE)
        try:
            return _copy_views(algorithm, &destination, &source, value, index)
        finally:
            PyBuffer_Release(&destination)
    finally:
        PyBuffer_Release(&source)


def kernels(str algorithm="crc64nvme"):
    """Returns the names of the kernels that this processor runs, best first. Raises ValueError for an unknown algorithm."""
    return _named(algorithm).kernels


def crc64nvme(data, uint64_t value=0, *, str kernel=None):
    """Returns the CRC-64/NVME of the bytes that `value` is of, followed by data (NVM Command Set Specification; S3's crc64nvme)."""
    return _extend(_NVME, data, value, kernel)


def crc64xz(data, uint64_t value=0, *, str kernel=None):
    """Returns the CRC-64/XZ of the bytes that `value` is of, followed by data (ECMA-182; OSS's crc64ecma)."""
    return _extend(_XZ, data, value, kernel)


def crc32c(data, uint32_t value=0, *, str kernel=None):
    """Returns the CRC-32C of the bytes that `value` is of, followed by data (RFC 3720)."""
    return _extend(_CRC32C, data, value, kernel)


def crc64nvme_copy(dst, src, uint64_t value=0, *, str kernel=None):
    """Copies src to dst[:len(src)] and returns value extended by it, in one pass over the bytes.

    dst is writable, holds at least as many bytes, and does not overlap src; ValueError otherwise, with nothing written.
    """
    return _copy(_NVME, dst, src, value, kernel)


def crc64xz_copy(dst, src, uint64_t value=0, *, str kernel=None):
    """Copies src to dst[:len(src)] and returns the CRC-64/XZ, as crc64nvme_copy does with CRC-64/NVME."""
    return _copy(_XZ, dst, src, value, kernel)


def crc64nvme_combine(uint64_t crc1, uint64_t crc2, uint64_t len2):
    """Returns the CRC-64/NVME of A followed by B, from crc1 of A, crc2 of B and the length of B in bytes."""
    return fx_crc64nvme_combine(crc1, crc2, len2)


def crc64xz_combine(uint64_t crc1, uint64_t crc2, uint64_t len2):
    """Returns the CRC-64/XZ of A followed by B, from crc1 of A, crc2 of B and the length of B in bytes."""
    return fx_crc64xz_combine(crc1, crc2, len2)


def crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t len2):
    """Returns the CRC-32C of A followed by B, from crc1 of A, crc2 of B and the length of B in bytes."""
    return fx_crc32c_combine(crc1, crc2, len2)


cdef class _Incremental:
    """A checksum that takes its bytes piece by piece, with the face of a hashlib object. A subclass gives the `name`.

    One thread at a time uses an object.
    """

    cdef _Algorithm algorithm
    cdef readonly uint64_t value
    """The checksum so far, as an int."""

    def __cinit__(self, data=b""):
        self.algorithm = _named(self.name)
        self.value = _extend(self.algorithm, data, 0, None)

    @property
    def digest_size(self):
        """Bytes of the digest."""
        return self.algorithm.digest_size

    def update(self, data):
        """Extends the checksum by data."""
        self.value = _extend(self.algorithm, data, self.value, None)

    def digest(self):
        """Returns the checksum so far as bytes, the highest first: the order that S3's base64 headers want."""
        return self.value.to_bytes(self.algorithm.digest_size, "big")

    def hexdigest(self):
        """Returns the digest in hexadecimal."""
        return self.digest().hex()

    def copy(self):
        """Returns another object in the same state."""
        cdef _Incremental other = type(self)()
        other.value = self.value
        return other


cdef class Crc64Nvme(_Incremental):
    """CRC-64/NVME of what update() was given."""

    name = "crc64nvme"


cdef class Crc64Xz(_Incremental):
    """CRC-64/XZ of what update() was given."""

    name = "crc64xz"


cdef class Crc32c(_Incremental):
    """CRC-32C of what update() was given."""

    name = "crc32c"
