"""What libcurl calls for each socket that it wants watched or not any more, and when its timer changes: twice and once a request, so neither
runs Python.
"""

from libc.errno cimport ENOENT, errno
from libc.stdint cimport uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os


cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    ctypedef union epoll_data:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)

# libcurl's CURL_POLL_* (curl/multi.h).
cdef enum:
    POLL_IN = 1
    POLL_OUT = 2
    POLL_REMOVE = 4


cdef class Watch:
    """A callable for M_SOCKETFUNCTION that has an epoll watch what libcurl wants watched. `watched`, which it may share with others, tells
    whose each descriptor is: `owner`'s; `registered`, the same, for which events the epoll has it. Raises OSError.

    A descriptor that is not to be watched any more, while it was for reading alone, stays with the epoll: most are of kept connections, and
    soon wanted again. One that was closed meanwhile is not there then, whatever has its number now: the kernel takes it out.
    """
    cdef int poll
    cdef dict watched
    cdef dict registered
    cdef object owner

    def __init__(self, int poll, dict watched not None, dict registered not None, owner):
        self.poll = poll
        self.watched = watched
        self.registered = registered
        self.owner = owner

    def __call__(self, int what, int fd, _multi, _data):
        cdef epoll_event event
        event.data.fd = fd
        event.events = (EPOLLIN if what & POLL_IN else 0) | (EPOLLOUT if what & POLL_OUT else 0)
        cdef bint there = fd in self.watched
        if what == POLL_REMOVE:
            if not there:
                return
            del self.watched[fd]
            if self.registered.get(fd) != EPOLLIN:
                self.registered.pop(fd, None)
                self._control(EPOLL_CTL_DEL, fd, &event)
        elif there:
            self._control(EPOLL_CTL_MOD, fd, &event)
            self.registered[fd] = event.events
        elif event.events:
            if fd not in self.registered:
                self._control(EPOLL_CTL_ADD, fd, &event)
            elif epoll_ctl(self.poll, EPOLL_CTL_MOD, fd, &event) != 0:
                del self.registered[fd]
                if errno != ENOENT:
                    raise OSError(errno, os.strerror(errno))
                self._control(EPOLL_CTL_ADD, fd, &event)
            self.registered[fd] = event.events
            self.watched[fd] = self.owner

    cdef int _control(self, int what, int fd, epoll_event *event) except -1:
        if epoll_ctl(self.poll, what, fd, event) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0


cdef class Deadline:
    """A callable for M_TIMERFUNCTION that keeps `at`, when libcurl wants to be called (on the clock of `time.monotonic`), or None."""
    cdef public object at

    def __call__(self, long timeout_ms):
        cdef timespec now
        if timeout_ms < 0:
            self.at = None
            return
        clock_gettime(CLOCK_MONOTONIC, &now)
        self.at = <double>now.tv_sec + 1e-9 * <double>now.tv_nsec + 1e-3 * <double>timeout_ms
