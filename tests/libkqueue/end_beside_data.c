// A kernel tells of the peer's end by EV_EOF as soon as it has come, beside what is still to be read.
// Exits with 1 where it does not: with EV_CLEAR, nobody hears of the end then who has read less than asked.
#include <stdio.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    struct timespec at_once = {0, 0};
    struct kevent both[2], event;
    int pair[2], queue = kqueue();
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    EV_SET(&both[0], pair[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, 0);
    EV_SET(&both[1], pair[0], EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, 0);
    kevent(queue, both, 2, NULL, 0, &at_once);
    write(pair[1], "x", 1);
    shutdown(pair[1], SHUT_WR);
    int ended = 0;
    while (kevent(queue, NULL, 0, &event, 1, &at_once) == 1) {
        if (event.filter == EVFILT_READ) {
            ended = (event.flags & EV_EOF) != 0;
            printf("%ld byte, EV_EOF %d\n", (long)event.data, ended);
        }
    }
    return !ended;
}
