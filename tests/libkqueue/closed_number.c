// A kernel forgets a registration when its descriptor is closed, and the number's next life is registered anew.
// Exits with 1 where it is taken for the old one, which nothing comes of.
#include <stdio.h>
#include <sys/event.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    struct timespec at_once = {0, 0};
    struct kevent change, event;
    int ends[2], queue = kqueue(), count = -1;
    for (int life = 0; life < 2; ++life) {
        pipe(ends);
        EV_SET(&change, ends[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, 0);
        if (kevent(queue, &change, 1, NULL, 0, &at_once) != 0) {
            perror("kevent");
        }
        write(ends[1], "x", 1);
        count = kevent(queue, NULL, 0, &event, 1, &at_once);
        printf("descriptor %d: %d event\n", ends[0], count);
        close(ends[0]);
        close(ends[1]);
    }
    return count != 1;
}
