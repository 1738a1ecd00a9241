// http_floor.c: the least that an HTTP/1.1 server on epoll can cost, which answers all with one text.
//
// It does not parse: it counts the empty lines that end a head, and sends so many answers, those of one
// receive in one send. One thread, edge-triggered, each descriptor registered once, as in floor.c. No client
// pipelines more than the scratch holds, and none has a body.
//
// `http_floor HEADERS`: what stands between the status line and the empty line. Prints `port N`.
#include "listening.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { scratch_bytes = 64 * 1024, events_per_turn = 256, most_pipelined = 1024 };

struct connection {
    int fd;
    unsigned matched;  // bytes of "\r\n\r\n" that have come, 0 to 3
};

static char scratch[scratch_bytes];
static char answers[512 * most_pipelined];
static size_t answer_bytes;

_Noreturn static void die(const char* what) {
    perror(what);
    exit(1);
}

static unsigned count_heads(struct connection* c, const char* data, size_t size) {
    unsigned count = 0;
    for (size_t i = 0; i < size; i++) {
        if (c->matched == 0) {  // most bytes are skipped by the library's search
            const char* found = memchr(data + i, '\r', size - i);
            if (found == NULL)
                return count;
            i = (size_t)(found - data);
        }
        if (data[i] == "\r\n\r\n"[c->matched])
            c->matched++;
        else
            c->matched = data[i] == '\r';
        if (c->matched == 4) {
            c->matched = 0;
            count++;
        }
    }
    return count;
}

// False: the connection has ended.
static bool serve(struct connection* c, bool ending) {
    for (;;) {
        ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        size_t size = count_heads(c, scratch, (size_t)n) * answer_bytes;
        if (size > sizeof answers || (size > 0 && send(c->fd, answers, size, MSG_NOSIGNAL) != (ssize_t)size))
            return false;
        if (n < (ssize_t)sizeof scratch && !ending)
            return true;
    }
}

static void welcome(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection* c = calloc(1, sizeof *c);
        if (c == NULL)
            die("calloc");
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            die("epoll_ctl");
    }
}

int main(int argc, char** argv) {
    char one[512];
    answer_bytes =
        (size_t)snprintf(one, sizeof one, "HTTP/1.1 200 OK\r\n%s\r\nHello, World!", argc > 1 ? argv[1] : "");
    if (answer_bytes >= sizeof one)
        die("headers");
    for (int i = 0; i < most_pipelined; i++)
        memcpy(answers + (size_t)i * answer_bytes, one, answer_bytes);

    int listener = listen_on_loopback(SOCK_STREAM, 0);
    if (listener < 0)
        die("listen");

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening) < 0)
        die("epoll");
    for (;;) {
        struct epoll_event events[events_per_turn];
        int ready = epoll_wait(epoll, events, events_per_turn, -1);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct connection* c = events[i].data.ptr;
            if (c == NULL)
                welcome(epoll, listener);
            else if (!serve(c, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
                close(c->fd);
                free(c);
            }
        }
    }
}
