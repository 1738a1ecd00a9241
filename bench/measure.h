// measure.h: what the load programs measure, and the line of JSON that they print of it.
//
// Nothing counts while `warming`. `measured_server` is the process whose CPU time is read at both ends of
// the window; 0: unknown.
#pragma once

#include "client.h"

enum { failures_bound = 100, events_per_turn = 512 };

static pid_t measured_server;

// Latencies, 64 buckets for each power of two of nanoseconds: 1.6 % wide, and any value fits.
enum { buckets_per_octave = 64, octave_shift = 6 };
static uint64_t histogram[64 * buckets_per_octave];
static uint64_t messages, errors;
static bool warming = true;

// Connections that have had nothing from the server yet: the warmup lasts until there is none, or for as long
// as one may wait.
static uint64_t awaited;
enum { patience_seconds = 5 };

static inline void meet(bool* met) {
    awaited -= !*met;
    *met = true;
}

static size_t bucket_of(uint64_t ns) {
    if (ns < buckets_per_octave)
        return ns;
    int octave = 63 - __builtin_clzll(ns) - octave_shift;
    return (size_t)(octave + 1) * buckets_per_octave + (ns >> octave) - buckets_per_octave;
}

static double middle_of(size_t bucket) {
    if (bucket < buckets_per_octave)
        return (double)bucket;
    size_t octave = bucket / buckets_per_octave - 1;
    uint64_t low = (uint64_t)(buckets_per_octave + bucket % buckets_per_octave) << octave;
    return (double)low + (double)(1ull << octave) / 2;
}

static double percentile_us(double fraction) {
    uint64_t rank = (uint64_t)(fraction * (double)messages), seen = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++)
        if ((seen += histogram[i]) > rank)
            return middle_of(i) / 1000;
    return 0;
}

// The clocks that bound the measured window, all read at its two ends.
struct instant {
    int64_t wall_ns, client_ns, server_ns;  // CPU time, but the first
    int64_t client_waited_ns, server_waited_ns;
};

// How long the main thread of `process` could have run, but had no core: the work of others.
static int64_t waited_ns(pid_t process) {
    char path[64];
    long long ran = 0, waited = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", (int)process);
    FILE* file = fopen(path, "r");
    if (file == NULL)
        return 0;  // a kernel without these statistics
    if (fscanf(file, "%lld %lld", &ran, &waited) != 2)
        waited = 0;
    fclose(file);
    return waited;
}

static struct instant read_clocks(void) {
    struct instant at = {
        .wall_ns = now_ns(),
        .client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
        .client_waited_ns = waited_ns(getpid()),
    };
    if (measured_server == 0)
        return at;
    clockid_t clock;  // of all the threads of the server, those that have ended included
    if (clock_getcpuclockid(measured_server, &clock) != 0)
        stop_with("the server is gone");
    at.server_ns = clock_ns(clock);
    at.server_waited_ns = waited_ns(measured_server);
    return at;
}

struct window {
    struct instant from, to;
};

// Hands events to their owners, while the warmup lasts and then for the window that counts. Who calls it has
// set `awaited`.
static struct window measure(int epoll, double warmup_seconds, double seconds,
                             void (*on_event)(void* owner, uint32_t events)) {
    struct window measured = {0};
    int64_t warm = now_ns() + (int64_t)(warmup_seconds * 1e9), deadline = INT64_MAX;
    int64_t enough = warm + patience_seconds * second_ns;
    for (int64_t now = now_ns(); now < deadline; now = now_ns()) {
        if (warming && now >= warm && (awaited == 0 || now >= enough)) {
            warming = false;
            messages = 0;
            memset(histogram, 0, sizeof histogram);
            measured.from = read_clocks();
            deadline = measured.from.wall_ns + (int64_t)(seconds * 1e9);
        }
        struct epoll_event events[events_per_turn];
        int ready = epoll_wait(epoll, events, events_per_turn, 10);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < ready; i++)
            on_event(events[i].data.ptr, events[i].events);
    }
    measured.to = read_clocks();
    return measured;
}

// Nothing where no message was timed: bytes that flow one way have no latency.
static void report_percentiles(void) {
    uint64_t timed = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++)
        timed += histogram[i];
    if (timed > 0)
        printf(", \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f", percentile_us(0.50), percentile_us(0.99),
               percentile_us(0.999));
}

static void report(struct window measured) {
    const struct instant from = measured.from, to = measured.to;
    double elapsed_ns = (double)(to.wall_ns - from.wall_ns);
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"messages_per_second\": %.1f, \"errors\": %llu",
           (unsigned long long)messages, elapsed_ns / 1e9, (double)messages / elapsed_ns * 1e9,
           (unsigned long long)errors);
    report_percentiles();
    printf(", \"client_busy\": %.3f, \"client_waited\": %.3f",
           (double)(to.client_ns - from.client_ns) / elapsed_ns,
           (double)(to.client_waited_ns - from.client_waited_ns) / elapsed_ns);
    const double server_ns = (double)(to.server_ns - from.server_ns);
    if (measured_server != 0 && messages > 0)
        printf(", \"server_busy\": %.3f, \"server_waited\": %.3f, \"server_cpu_us\": %.4f",
               server_ns / elapsed_ns, (double)(to.server_waited_ns - from.server_waited_ns) / elapsed_ns,
               server_ns / (double)messages / 1000);
    printf("}\n");
}

static void failed(const char* why) {
    if (++errors <= 3)
        fprintf(stderr, "load: %s\n", why);
    if (errors < failures_bound)
        return;
    fprintf(stderr, "load: too many errors, the last: %s\n", why);
    exit(2);
}

static inline double seconds_of(const char* text) {
    char* end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= 3600))
        stop_with("seconds are between 0 and 3600");
    return value;
}
