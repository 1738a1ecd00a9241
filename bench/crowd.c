// crowd.c: many connections that do next to nothing, to weigh a server and to wear it out.
//
//     crowd idle PORT COUNT                opens COUNT connections, prints `ready`, keeps them
//                                          open and silent until its standard input ends
//     crowd churn PORT COUNT [AT_ONCE]     opens COUNT connections, AT_ONCE (64) at a time; each
//                                          has 64 bytes echoed, closes, and sees the server close
//
// Exit status: 0 if every connection did what it should.
#include "client.h"

enum { greeting_bytes = 64, events_per_turn = 256, patience_ms = 10 * 1000 };

static int idle(uint16_t port, uint64_t count) {
    allow_descriptors(count);
    for (uint64_t i = 0; i < count; i++) {
        if (open_connection(port, i, SOCK_STREAM) < 0)
            die("crowd: connect");
        usleep(50);  // a burst would overflow the backlog, and a dropped SYN costs a second
    }
    stay_open();
    return 0;
}

struct visitor {
    int fd;
    bool greeted;
    size_t echoed;
};

static int epoll;
static const char greeting[greeting_bytes] = "hello, and goodbye";

// 1: this visit is over; 0: it goes on; -1: it went wrong.
static int visit(struct visitor* v, uint32_t events) {
    if (!v->greeted && (events & EPOLLOUT)) {
        if (send(v->fd, greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting)
            return -1;
        v->greeted = true;
    }
    for (;;) {
        char answer[2 * greeting_bytes];
        ssize_t n = recv(v->fd, answer, sizeof answer, 0);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        if (n == 0)
            return v->echoed == greeting_bytes ? 1 : -1;
        if (v->echoed + (size_t)n > greeting_bytes)
            return -1;
        if (memcmp(answer, greeting + v->echoed, (size_t)n) != 0)
            return -1;
        v->echoed += (size_t)n;
        if (v->echoed == greeting_bytes && shutdown(v->fd, SHUT_WR) < 0)
            return -1;
    }
}

static void arrive(struct visitor* v, uint16_t port, uint64_t index) {
    *v = (struct visitor){.fd = open_connection(port, index, SOCK_STREAM | SOCK_NONBLOCK)};
    if (v->fd < 0)
        die("crowd: connect");
    watch(epoll, v->fd, v);
}

static int churn(uint16_t port, uint64_t count, uint64_t at_once) {
    if (at_once > count)
        at_once = count;
    allow_descriptors(at_once);
    struct visitor* all = calloc(at_once, sizeof *all);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (all == NULL || epoll < 0)
        die("crowd");

    uint64_t opened = 0, over = 0;
    while (opened < at_once)
        arrive(&all[opened], port, opened), opened++;
    while (over < count) {
        struct epoll_event events[events_per_turn];
        int ready = epoll_wait(epoll, events, events_per_turn, patience_ms);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");
        if (ready == 0) {
            fprintf(stderr, "crowd: after %llu of %llu visits the server does nothing any more\n",
                    (unsigned long long)over, (unsigned long long)count);
            exit(2);
        }
        for (int i = 0; i < ready; i++) {
            struct visitor* v = events[i].data.ptr;
            int result = visit(v, events[i].events);
            if (result < 0)
                stop_with("crowd: a connection was not served as it should be");
            if (result == 0)
                continue;
            close(v->fd);
            over++;
            if (opened < count)
                arrive(v, port, opened++);
        }
    }
    free(all);
    return 0;
}

int main(int argc, char** argv) {
    static const char usage[] = "usage: crowd idle PORT COUNT | crowd churn PORT COUNT [AT_ONCE]";
    if (argc < 4 || argc > 5)
        stop_with(usage);
    uint16_t port = port_of(argv[2]);
    uint64_t count = count_of(argv[3]), at_once = argc == 5 ? count_of(argv[4]) : 64;
    if (strcmp(argv[1], "idle") == 0 && argc == 4)
        return idle(port, count);
    if (strcmp(argv[1], "churn") == 0 && at_once > 0)
        return churn(port, count, at_once);
    stop_with(usage);
}
