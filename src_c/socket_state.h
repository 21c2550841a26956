/* What a kept connection's socket tells before the next request goes out on it. */
#ifndef FX_SOCKET_STATE_H
#define FX_SOCKET_STATE_H

/* Returns whether `fd` is a socket whose own end has this address (as text) and port. */
int fx_socket_is(int fd, const char *address, int port);

/* Returns whether bytes wait on a socket to be read; takes none of them. */
int fx_socket_has_bytes(int fd);

#endif
