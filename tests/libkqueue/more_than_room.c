// A kernel keeps what there is no room for in a call for the next one.
// Exits with 1 where it is lost: with EV_CLEAR it is not told again.
#include <stdio.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    struct timespec at_once = {0, 0};
    struct kevent both[2], events[4];
    int queue = kqueue(), told = 0, count;
    for (int index = 0; index < 4; ++index) {
        int pair[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        write(pair[1], "x", 1);
        EV_SET(&both[0], pair[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, 0);
        EV_SET(&both[1], pair[0], EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, 0);
        kevent(queue, both, 2, NULL, 0, &at_once);
    }
    while ((count = kevent(queue, NULL, 0, events, 4, &at_once)) > 0) {
        told += count;
    }
    printf("%d of 8 events\n", told);
    return told != 8;
}
