"""What libcurl calls for each line of an answer's head, and what it asks before each request on a kept connection (the C is in
src_c/socket_state.c). Both are called for every request, so neither runs Python until a head is complete.
"""

cdef extern from "socket_state.h" nogil:
    bint fx_socket_is(int fd, const char *address, int port)
    bint fx_socket_has_bytes(int fd)


cdef class HeadLines:
    """A callable that gathers the lines of a head and hands them on: status line, fields, without the empty line at the end. Again for each
    head of the same request (1xx), until `close`; lines that come after (trailers) are dropped.

    `complete` is called with the list of lines, as bytes with their ends; `too_many` when there are more than `most`, and the request then fails.
    """
    cdef list lines
    cdef object complete
    cdef object too_many
    cdef Py_ssize_t most
    cdef bint closed

    def __init__(self, complete, too_many, Py_ssize_t most):
        self.complete = complete
        self.too_many = too_many
        self.most = most
        self.lines = []
        self.closed = True

    def open(self):
        """Begins with a new request."""
        self.lines = []
        self.closed = False

    def close(self):
        """Takes no more lines until the next request."""
        self.closed = True

    def __call__(self, bytes line not None):
        cdef const unsigned char *text = line
        cdef Py_ssize_t length = len(line)
        if self.closed:
            return None
        while length and (text[length - 1] == c'\n' or text[length - 1] == c'\r'):
            length -= 1
        if length:
            self.lines.append(line)
            if len(self.lines) > self.most:
                self.too_many()
                return 0
            return None
        lines, self.lines = self.lines, []
        return self.complete(lines)


def kept_connection(int fd, str address not None, int port):
    """Returns whether a descriptor still is the socket of a connection, by the address and the port of our end."""
    return fx_socket_is(fd, address.encode(), port)


def has_bytes(int fd):
    """Returns whether bytes wait on a socket."""
    return fx_socket_has_bytes(fd)
