// tls_floor.c: the least that a TLS server on epoll can cost, with OpenSSL; the benchmarks divide by it.
//
//     tls_floor tls_echo PEM    sends back what comes
//     tls_floor tls_bulk PEM    sends for as long as the peer takes it, in writes of 64 KiB
//
// As floor.c: one thread, edge-triggered, a short receive has drained the socket. PEM has certificate and key.
// Prints `port N` once it listens on 127.0.0.1. SIGTERM ends it.
#include "listening.h"
#include "tls.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { buffer_bytes = 256 * 1024, piece_bytes = 64 * 1024, events_per_turn = 256 };

static char scratch[buffer_bytes], plain[buffer_bytes];
static SSL_CTX* context;
static bool bulk;

_Noreturn static void die(const char* what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void end(struct tls* t) {
    close(t->fd);
    tls_free(t);
    free(t);
}

// Sends back all complete records. False: the connection has ended.
static bool echo(struct tls* t) {
    for (;;) {
        int n = SSL_read(t->ssl, plain, sizeof plain);
        if (n <= 0)
            return tls_waits(t, n);
        if (SSL_write(t->ssl, plain, n) != n)
            return false;
    }
}

// False: the connection has ended.
static bool fill(struct tls* t) {
    while (t->writable) {
        if (SSL_write(t->ssl, plain, piece_bytes) != piece_bytes || !tls_flush(t))
            return false;
    }
    return true;
}

static bool serve(struct tls* t, uint32_t events) {
    const bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    t->writable |= (events & EPOLLOUT) != 0;
    if (!tls_flush(t))
        return false;
    for (bool more = !tls_has_unsent(t) || bulk; more;) {
        ssize_t n = recv(t->fd, scratch, sizeof scratch, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        if (n > 0) {
            BIO_write(t->in, scratch, (int)n);
            if (!tls_handshake(t) || (t->established && !echo(t)) || !tls_flush(t))
                return false;
        }
        more = n > 0 && (n == sizeof scratch || ending) && t->writable;
    }
    return !bulk || !t->established || fill(t);
}

static void welcome(int epoll, int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct tls* t = calloc(1, sizeof *t);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = t};
        if (t == NULL || !tls_begin(t, context, fd, true) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            die("connection");
    }
}

int main(int argc, char** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: tls_floor tls_echo|tls_bulk PEM\n");
        return 2;
    }
    bulk = strcmp(argv[1], "tls_bulk") == 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || SSL_CTX_use_certificate_chain_file(context, argv[2]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) != 1)
        die("certificate");
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
            struct tls* t = events[i].data.ptr;
            if (t == NULL)
                welcome(epoll, listener);
            else if (!serve(t, events[i].events))
                end(t);
        }
    }
}
