#include "socket_state.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int fx_socket_is(int fd, const char *address, int port)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    unsigned char wanted[sizeof(struct in6_addr)];
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&name, &length) != 0)
        return 0;
    if (name.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&name;
        return ntohs(v4->sin_port) == port && inet_pton(AF_INET, address, wanted) == 1 &&
               memcmp(wanted, &v4->sin_addr, sizeof(v4->sin_addr)) == 0;
    }
    if (name.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&name;
        return ntohs(v6->sin6_port) == port && inet_pton(AF_INET6, address, wanted) == 1 &&
               memcmp(wanted, &v6->sin6_addr, sizeof(v6->sin6_addr)) == 0;
    }
    return 0;
}

int fx_socket_has_bytes(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}
