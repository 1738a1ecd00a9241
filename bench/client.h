// client.h: what both load programs need: many connections to 127.0.0.1, what they send, and the time.
//
// A destination has some 28,000 local ports for each source address, and a closed connection keeps
// its port for a minute. So connections leave from 127.0.0.1 to 127.0.0.16 in turn.
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { source_addresses = 16 };

static const int64_t second_ns = 1000 * 1000 * 1000;

_Noreturn static inline void die(const char* what) {
    perror(what);
    exit(2);
}

_Noreturn static inline void stop_with(const char* message) {
    fprintf(stderr, "%s\n", message);
    exit(2);
}

static inline int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) < 0)
        die("clock_gettime");
    return t.tv_sec * second_ns + t.tv_nsec;
}

static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

// Lets this process hold `count` connections; the hard limit is raised where that is allowed.
static inline void allow_descriptors(size_t count) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    rlim_t wanted = count + 64;
    if (files.rlim_cur >= wanted)
        return;
    files.rlim_cur = wanted;
    if (files.rlim_max < wanted)
        files.rlim_max = wanted;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        die("more descriptors (RLIMIT_NOFILE)");
}

// An HTTP request, with `more` among its headers; `bytes` becomes its size.
static inline char* http_request(uint16_t port, const char* more, size_t* bytes) {
    char* request;
    int n = asprintf(&request, "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n%s\r\n", port, more);
    if (n < 0)
        die("asprintf");
    *bytes = (size_t)n;
    return request;
}

// Bytes that tell when some of them are missing or doubled.
static inline char* patterned_bytes(size_t bytes) {
    char* pattern = malloc(bytes);
    if (pattern == NULL)
        die("malloc");
    for (size_t i = 0; i < bytes; i++)
        pattern[i] = (char)(i * 31 + (i >> 8));
    return pattern;
}

static inline struct sockaddr_in loopback(uint32_t last_byte, uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(0x7f000000u | last_byte),
        .sin_port = htons(port),
    };
}

// Starts connection number `index` of a socket type, perhaps with SOCK_NONBLOCK. -1: refused, see errno.
static inline int open_connection(uint16_t port, uint64_t index, int type) {
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    // The port is chosen by connect(), which knows the destination; bind() would have to find one
    // that is free for all destinations.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));  // fails for datagrams: no matter
    struct sockaddr_in from = loopback(1 + index % source_addresses, 0);
    struct sockaddr_in to = loopback(1, port);
    if (bind(fd, (struct sockaddr*)&from, sizeof from) == 0 &&
        (connect(fd, (struct sockaddr*)&to, sizeof to) == 0 || errno == EINPROGRESS))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

// As open_connection, over a Unix socket.
static inline int open_unix(const char* path, int type) {
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr*)&to, sizeof to) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static inline void set_watch(int epoll, int operation, int fd, void* owner) {
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.ptr = owner,
    };
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        die("epoll_ctl");
}

// Both directions, edge-triggered: registered once and for all.
static inline void watch(int epoll, int fd, void* owner) { set_watch(epoll, EPOLL_CTL_ADD, fd, owner); }

// What is ready now comes as an event once more: for a connection that is left before it was drained.
static inline void watch_anew(int epoll, int fd, void* owner) { set_watch(epoll, EPOLL_CTL_MOD, fd, owner); }

// Says that all connections are there, and keeps them until the standard input ends.
static inline void stay_open(void) {
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        continue;
}

static inline uint64_t count_of(const char* text) {
    char* end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text == '-' || end == text || *end != '\0')
        stop_with("a count must be a whole number");
    return value;
}

static inline uint16_t port_of(const char* text) {
    uint64_t port = count_of(text);
    if (port == 0 || port > 65535)
        stop_with("a port is between 1 and 65535");
    return (uint16_t)port;
}
