"""Small files written whole, many in one call without the interpreter's lock (the C is in src_c/whole_file.c)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

import os


cdef extern from "whole_file.h" nogil:
    ctypedef struct fx_whole_file:
        int directory
        const char *working
        const char *name
        const unsigned char *bytes
        size_t length
        int dated
        int64_t mtime_ns
        int step
        int error
        uint64_t crc

    void fx_whole_file_store(fx_whole_file *file, int unnamed, int looks)
    int fx_date_named(int directory, const char *name, int64_t mtime_ns)
    int fx_has_ending(int fd, const char *ending)
    int fx_sync_file_system(int fd)

CREATE, WRITE, RENAME = 1, 2, 3
"""What was being done when an error came."""


def store(list files, bint unnamed=True, bint looks=True):
    """Writes files and gives them their names; returns (step, error, CRC-64/NVME) of each. An error is an errno value, 0 for none.

    Each of `files` is (directory, working name, name, bytes, mtime in ns or None): a descriptor, two names as bytes, anything with a buffer. Where
    the name is taken (EEXIST at RENAME), or the file system cannot tell (EINVAL), the file is complete under its working name; after any
    other error nothing is left of it. A working name that is there is not touched (EEXIST at CREATE). A file has no name while it is
    written, where that can be and unless `unnamed` is false: then it has the working one. With `looks` false a working name that is there goes
    unnoticed where it is not needed.
    """
    cdef Py_ssize_t count = len(files), done = 0, i
    cdef bytes working, name
    cdef fx_whole_file *all = <fx_whole_file *>calloc(max(count, 1), sizeof(fx_whole_file))
    cdef Py_buffer *views = <Py_buffer *>calloc(max(count, 1), sizeof(Py_buffer))
    if all == NULL or views == NULL:
        free(all)
        free(views)
        raise MemoryError()
    try:
        for i in range(count):
            directory, working, name, data, mtime_ns = files[i]
            all[i].directory = directory
            all[i].working = working
            all[i].name = name
            all[i].dated = mtime_ns is not None
            all[i].mtime_ns = 0 if mtime_ns is None else mtime_ns
            PyObject_GetBuffer(data, &views[i], PyBUF_SIMPLE)
            done += 1
            all[i].bytes = <const unsigned char *>views[i].buf
            all[i].length = views[i].len
        with nogil:
            for i in range(count):
                fx_whole_file_store(&all[i], unnamed, looks)
        return [(all[i].step, all[i].error, all[i].crc) for i in range(count)]
    finally:
        for i in range(done):
            PyBuffer_Release(&views[i])
        free(all)
        free(views)


def date(list files):
    """Gives files, which have their names, modification times; returns an errno value for each, 0 for none. Each of `files` is (directory, name,
    mtime in ns). Releases the interpreter's lock.
    """
    cdef Py_ssize_t count = len(files), i
    cdef bytes name
    cdef fx_whole_file *all = <fx_whole_file *>calloc(max(count, 1), sizeof(fx_whole_file))
    if all == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            all[i].directory, name, all[i].mtime_ns = files[i]
            all[i].name = name
        with nogil:
            for i in range(count):
                all[i].error = fx_date_named(all[i].directory, all[i].name, all[i].mtime_ns)
        return [all[i].error for i in range(count)]
    finally:
        free(all)


def has_ending(int fd, bytes ending not None):
    """Returns whether a directory, by a descriptor that may read it, has a name with an ending; True too where that cannot be said. Releases the
    interpreter's lock.
    """
    cdef const char *text = ending
    cdef int has
    with nogil:
        has = fx_has_ending(fd, text)
    return has != 0


def sync_file_system(int fd):
    """Has the disk take all that was written to a descriptor's file system (syncfs(2)). Raises OSError. Releases the interpreter's lock."""
    cdef int error
    with nogil:
        error = fx_sync_file_system(fd)
    if error:
        raise OSError(error, os.strerror(error))
