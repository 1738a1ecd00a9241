// A queue's descriptor is readable while there is an event in it: for who sleeps in another loop.
// Exits with 1 where it is not.
#include <poll.h>
#include <stdio.h>
#include <sys/event.h>
#include <unistd.h>

int main(void) {
    int ends[2], queue = kqueue();
    pipe(ends);
    struct kevent change;
    EV_SET(&change, ends[0], EVFILT_READ, EV_ADD, 0, 0, 0);
    kevent(queue, &change, 1, NULL, 0, NULL);
    write(ends[1], "x", 1);
    struct pollfd look = {.fd = queue, .events = POLLIN};
    int ready = poll(&look, 1, 100);
    printf("poll: %d\n", ready);
    return ready != 1;
}
