// A clock that goes on by a microsecond whenever it is read: preloaded, a program that asks the kernel "every
// so many microseconds" asks it equally often on every machine and under every tool (counts.py).
#define _GNU_SOURCE
#include <stdatomic.h>
#include <time.h>

int clock_gettime(clockid_t which, struct timespec *now) {
    static _Atomic long long read_so_far;
    (void)which;
    const long long microseconds = atomic_fetch_add(&read_so_far, 1);
    now->tv_sec = 1000000000 + microseconds / 1000000;
    now->tv_nsec = microseconds % 1000000 * 1000;
    return 0;
}
