// floor.c: the least that an echo server on epoll can cost; the benchmarks divide by it.
//
// One thread, edge-triggered, each descriptor registered once: a message costs one recv, one send
// and its share of an epoll_wait. A receive shorter than the buffer has drained the socket, so the
// recv that would only say EAGAIN is saved, unless the event also announced the end of the stream:
// that edge does not come again.
//
// Bytes that the kernel does not take are kept with their connection, which reads nothing more
// until they are gone: memory is bounded by one buffer a connection, and nothing is lost.
//
// `floor datagram` echoes UDP: what is there is received in one call, and sent back in one; a message that
// the kernel has no room for is lost, as it may be on the way.
//
// `floor unix` is the echo over a Unix socket, `floor source` sends for as long as the peer takes it,
// `floor narrow` does that through a buffer of 64 KiB, and `floor sink` takes whatever comes.
//
// Prints `port N`, or `path NAME`, once it listens on 127.0.0.1. SIGTERM ends it.
#include "listening.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// With 64 KiB an echo of 100 KiB costs a third more CPU; smaller messages do not mind the size.
enum { buffer_bytes = 256 * 1024, backlog = 4096, events_per_turn = 256 };

// No message of UDP is longer; places that are a power of two apart would share the lines of the caches.
enum { batch = 64, message_bytes = 64 * 1024, stride = message_bytes + 4096 + 64 };

struct connection {
    int fd;
    char* unsent;  // NULL, or `unsent_bytes` that the kernel did not take, from `unsent_from`
    size_t unsent_from, unsent_bytes;
};

static char scratch[buffer_bytes];
static enum { echoes, sends, takes } task;

_Noreturn static void die(const char* what) {
    perror(what);
    exit(1);
}

static void end(struct connection* c) {
    close(c->fd);  // also leaves the epoll set: the descriptor has no duplicate
    free(c->unsent);
    free(c);
}

// Sends what an earlier turn could not. False: the peer is gone.
static bool flush(struct connection* c) {
    while (c->unsent_bytes > 0) {
        ssize_t n = send(c->fd, c->unsent + c->unsent_from, c->unsent_bytes, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        c->unsent_from += (size_t)n;
        c->unsent_bytes -= (size_t)n;
    }
    free(c->unsent);
    c->unsent = NULL;
    return true;
}

// Sends `size` bytes of the scratch, keeping what does not fit. False: the peer is gone.
static bool echo(struct connection* c, size_t size) {
    ssize_t n = send(c->fd, scratch, size, MSG_NOSIGNAL);
    if (n == (ssize_t)size)
        return true;
    if (n < 0 && errno != EAGAIN)
        return false;
    size_t sent = n < 0 ? 0 : (size_t)n;
    c->unsent_from = 0;
    c->unsent_bytes = size - sent;
    c->unsent = malloc(c->unsent_bytes);
    if (c->unsent == NULL)
        return false;
    memcpy(c->unsent, scratch + sent, c->unsent_bytes);
    return flush(c);  // a short send is no EAGAIN: only that one promises another edge
}

// Sends until the socket takes no more. False: the peer is gone.
static bool fill(const struct connection* c) {
    while (send(c->fd, scratch, sizeof scratch, MSG_NOSIGNAL) > 0)
        continue;
    return errno == EAGAIN;
}

// Moves bytes until the socket has none, or takes none. False: the connection has ended.
static bool serve(struct connection* c, uint32_t events) {
    if (task == sends)
        return (events & (EPOLLHUP | EPOLLERR)) == 0 && fill(c);
    const bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (c->unsent != NULL && !flush(c))
        return false;
    while (c->unsent == NULL) {
        ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
        if (n == 0)
            return false;
        if (n < 0)
            return errno == EAGAIN;
        if (task == echoes && !echo(c, (size_t)n))
            return false;
        if (n < (ssize_t)sizeof scratch && !ending && c->unsent == NULL)
            return true;
    }
    return true;  // the kernel is full: the edge of EPOLLOUT brings us back here
}

static void welcome(int epoll, int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;  // drained, or out of descriptors: level-triggered, so we are told again
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection* c = calloc(1, sizeof *c);
        if (c == NULL)
            die("calloc");
        c->fd = fd;
        struct epoll_event event = {
            .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
            .data.ptr = c,
        };
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            die("epoll_ctl");
    }
}

static int listen_on_path(void) {
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/zloop-bench-%d", (int)getpid());
    if (listener < 0 || bind(listener, (struct sockaddr*)&address, sizeof address) < 0 ||
        listen(listener, backlog) < 0)
        die("listen");
    printf("path %s\n", address.sun_path);
    fflush(stdout);
    return listener;
}

// A batch with room left has drained the socket: the call that would only say EAGAIN is saved.
_Noreturn static void serve_datagrams(int epoll, int socket) {
    static struct mmsghdr messages[batch];
    static struct iovec parts[batch];
    static struct sockaddr_in peers[batch];
    char* room = malloc((size_t)batch * stride);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    if (room == NULL || epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event) < 0)
        die("datagrams");
    for (;;) {
        if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR)
            die("epoll_wait");
        int count;
        do {
            for (int i = 0; i < batch; i++) {
                parts[i] = (struct iovec){room + (size_t)i * stride, message_bytes};
                messages[i].msg_hdr = (struct msghdr){
                    .msg_name = &peers[i], .msg_namelen = sizeof *peers, .msg_iov = &parts[i], .msg_iovlen = 1};
            }
            count = recvmmsg(socket, messages, batch, 0, NULL);
            for (int i = 0; i < count; i++)
                parts[i].iov_len = messages[i].msg_len;
            for (int sent = 0, n; sent < count; sent += n)
                if ((n = sendmmsg(socket, messages + sent, (unsigned)(count - sent), MSG_NOSIGNAL)) < 0)
                    n = 1;  // this one is lost
        } while (count == batch);
    }
}

int main(int argc, char** argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    const char* kind = argc > 1 ? argv[1] : "echo";
    const bool datagrams = strcmp(kind, "datagram") == 0;
    const bool narrow = strcmp(kind, "narrow") == 0;
    task = narrow || strcmp(kind, "source") == 0 ? sends : strcmp(kind, "sink") == 0 ? takes : echoes;
    const int send_buffer_bytes = narrow ? 64 * 1024 : 0;  // 0: the kernel's choice
    int listener = strcmp(kind, "unix") == 0
                       ? listen_on_path()
                       : listen_on_loopback(datagrams ? SOCK_DGRAM : SOCK_STREAM, send_buffer_bytes);
    if (listener < 0)
        die("listen");
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (datagrams)
        serve_datagrams(epoll, listener);
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening) < 0)
        die("epoll");

    for (;;) {
        struct epoll_event events[events_per_turn];
        int ready = epoll_wait(epoll, events, events_per_turn, -1);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");  // EINTR: stopped and continued
        for (int i = 0; i < ready; i++) {
            struct connection* c = events[i].data.ptr;
            if (c == NULL)
                welcome(epoll, listener);
            else if (!serve(c, events[i].events))
                end(c);
        }
    }
}
