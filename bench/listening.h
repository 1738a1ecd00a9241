// listening.h: the door of a floor, and of any C server that a benchmark starts.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

// A socket of that type on a free port of 127.0.0.1, of which it prints `port N`; -1, and errno. A connection has
// a send buffer of so many bytes; 0: the kernel's.
static inline int listen_on_loopback(int type, int send_buffer_bytes) {
    enum { backlog = 4096 };
    int listener = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr*)&address, size) < 0 ||
        (send_buffer_bytes > 0 &&
         setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes) < 0) ||
        (type == SOCK_STREAM && listen(listener, backlog) < 0) ||
        getsockname(listener, (struct sockaddr*)&address, &size) < 0)
        return -1;
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}
