// For LD_PRELOAD: a clock on which only system calls take time. A plain send(2) takes `PRICE_SEND` microseconds, one
// with MSG_MORE `PRICE_MORE`, setsockopt(2) `PRICE_PUSH`.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static _Atomic long long microseconds;

static void pay(const char *price) {
    const char *const value = getenv(price);
    atomic_fetch_add(&microseconds, value != NULL ? atoll(value) : 0);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    (void)which;
    const long long passed = microseconds;
    now->tv_sec = 1000000000 + passed / 1000000;
    now->tv_nsec = passed % 1000000 * 1000;
    return 0;
}

ssize_t send(int fd, const void *bytes, size_t size, int flags) { return sendto(fd, bytes, size, flags, NULL, 0); }

ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    ssize_t (*const really)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        (ssize_t(*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "sendto");
    pay((flags & MSG_MORE) != 0 ? "PRICE_MORE" : "PRICE_SEND");
    return really(fd, bytes, size, flags, to, length);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t size) {
    int (*const really)(int, int, int, const void *, socklen_t) =
        (int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt");
    pay("PRICE_PUSH");
    return really(fd, level, option, value, size);
}
