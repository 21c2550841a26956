"""What libcurl calls for each line of an answer's head, and what it asks before each request on a kept connection (the C is in
src_c/socket_state.c). Both are called for every request, so neither runs Python until a head is complete, and for an ordinary one not
much then.
"""

from libc.string cimport memcmp


cdef extern from "socket_state.h" nogil:
    bint fx_socket_is(int fd, const char *address, int port)
    bint fx_socket_has_bytes(int fd)


cdef class HeadLines:
    """A callable that gathers the lines of a head and hands them on: status line, fields, without the empty line at the end. Again for each
    head of the same request (1xx), until `close`; lines that come after (trailers) are dropped.

    `complete` is called with the list of lines, as bytes with their ends; `too_many` when there are more than `most`, and the request then fails.
    `stash` is called with the size of a body that is expected, in place of `complete`, and `told` is then (size, ETag, Last-Modified).
    """
    cdef list lines
    cdef object complete
    cdef object too_many
    cdef object stash
    cdef Py_ssize_t most
    cdef bint closed
    cdef long long limit
    cdef long long listed
    cdef readonly object told

    def __init__(self, complete, too_many, Py_ssize_t most, stash):
        self.complete = complete
        self.too_many = too_many
        self.most = most
        self.stash = stash
        self.lines = []
        self.closed = True
        self.limit = self.listed = -1

    def expect(self, long long limit, long long listed=-1):
        """Says what the next requests are to bring, until it is said anew: bodies of up to `limit` bytes, of `listed` where that is not negative.
        With a negative limit, as at first, nothing is expected. A head is not handed on that is `ordinary` and brings what is expected.
        """
        self.limit = limit
        self.listed = listed

    def open(self):
        """Begins with a new request."""
        self.lines = []
        self.told = None
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
        if self.limit >= 0 and self._brings_it():
            return None
        lines, self.lines = self.lines, []
        return self.complete(lines)

    cdef bint _brings_it(self) except -1:
        cdef tuple told = ordinary(self.lines)
        cdef long long size
        if told is None:
            return False
        size = told[0]
        if size > self.limit or not (self.listed < 0 or size == self.listed):
            return False
        self.closed = True
        self.told = told
        self.stash(size)
        return True


cdef bint _is(const unsigned char *text, const char *name, Py_ssize_t length) noexcept nogil:
    """Returns whether `length` bytes are a field's name, which has as many and is in lower case. No locale has a say in it."""
    cdef Py_ssize_t i
    cdef int each
    for i in range(length):
        each = text[i]
        if c'A' <= each <= c'Z':
            each += 32
        if each != name[i]:
            return False
    return True


cdef bytes _value(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop):
    """Returns what stands between two places, without the blanks around it and the line's end."""
    while stop > start and (text[stop - 1] == c'\n' or text[stop - 1] == c'\r'):
        stop -= 1
    while stop > start and (text[stop - 1] == c' ' or text[stop - 1] == c'\t'):
        stop -= 1
    while start < stop and (text[start] == c' ' or text[start] == c'\t'):
        start += 1
    return text[start:stop]


cdef bint _is_200(bytes line):
    cdef const unsigned char *text = line
    cdef Py_ssize_t length = len(line), i = 5
    if length < 5 or memcmp(text, b"HTTP/", 5) != 0:
        return False
    while i < length and text[i] != c' ':
        i += 1
    if length < i + 5 or text[i + 1] != c'2' or text[i + 2] != c'0' or text[i + 3] != c'0':
        return False
    return text[i + 4] == c' ' or text[i + 4] == c'\r'


cdef long long _number(bytes value):
    """Returns a number of up to 18 digits, -1 for what is none."""
    cdef const unsigned char *text = value
    cdef Py_ssize_t length = len(value), i
    cdef long long number = 0
    if not 0 < length <= 18:
        return -1
    for i in range(length):
        if not c'0' <= text[i] <= c'9':
            return -1
        number = 10 * number + (text[i] - c'0')
    return number


def ordinary(list lines not None):
    """Returns (size, ETag, Last-Modified) of the head of a plain answer that brings a whole object: a 200 with one Content-Length, no coding, and
    at most one ETag and one Last-Modified, None where it has none or an empty one. Returns None for every other head: that is to be judged.

    Made for many small objects: it says what `plan.response.judge` does of the same head, for a twentieth of the time.
    """
    cdef Py_ssize_t count = len(lines), colon, length, i
    cdef const unsigned char *text
    cdef bytes line
    cdef long long size = -1
    cdef str etag = None
    cdef str modified = None
    if count < 2 or not _is_200(lines[0]):
        return None
    for i in range(1, count):
        line = lines[i]
        text = line
        length = len(line)
        colon = 0
        while colon < length and text[colon] != c':':
            colon += 1
        if colon == length or text[0] == c' ' or text[0] == c'\t':
            return None
        if colon == 4 and _is(text, b"etag", colon):
            if etag is not None:
                return None
            etag = _value(text, colon + 1, length).decode("latin-1")
        elif colon == 13 and _is(text, b"last-modified", colon):
            if modified is not None:
                return None
            modified = _value(text, colon + 1, length).decode("latin-1")
        elif colon == 14 and _is(text, b"content-length", colon):
            if size >= 0:
                return None
            size = _number(_value(text, colon + 1, length))
            if size < 0:
                return None
        elif colon == 16 and (
            _is(text, b"content-encoding", colon)
            or _is(text, b"x-amz-version-id", colon)
            or _is(text, b"x-oss-version-id", colon)
        ):
            return None
        elif colon == 17 and _is(text, b"transfer-encoding", colon):
            return None
    return (size, etag or None, modified or None) if size >= 0 else None


cdef class KeptCheck:
    """What libcurl calls before each request goes out, as CURLOPT_PREREQFUNCTION: it lets a request go out on a kept connection on which
    nothing waits, and notes whose `address` is asked. All else is `otherwise`'s, which is called with the same: a connection that was just
    made (its descriptor is in `opened`), one with bytes on it, and any while not `plain`.

    `sockets` has the descriptors of kept connections by the address and port of our end.
    """
    cdef object otherwise
    cdef list opened
    cdef public dict sockets
    cdef public bint plain
    cdef public str address

    def __init__(self, otherwise, list opened not None):
        self.otherwise = otherwise
        self.opened = opened
        self.sockets = {}
        self.plain = False
        self.address = ""

    def __call__(self, str address, str local_address, int port, int local_port):
        self.address = address
        if self.plain and not self.opened:
            fd = self.sockets.get((local_address, local_port))
            if fd is None or not fx_socket_is(fd, local_address.encode(), local_port) or not fx_socket_has_bytes(fd):
                return 0
        return self.otherwise(address, local_address, port, local_port)


def kept_connection(int fd, str address not None, int port):
    """Returns whether a descriptor still is the socket of a connection, by the address and the port of our end."""
    return fx_socket_is(fd, address.encode(), port)


def has_bytes(int fd):
    """Returns whether bytes wait on a socket."""
    return fx_socket_has_bytes(fd)
