// load.c: a load client: many connections, each with some messages under way, which it times.
//
//     load echo ADDRESS [options]       sends --size bytes, waits until as many came back
//     load datagram ADDRESS [options]   the same over UDP, as one message
//     load websocket ADDRESS [options]  the same as a message of WebSocket, binary and not compressed
//     load http ADDRESS [options]       sends a GET, waits for the whole response
//     load download ADDRESS [options]   takes what the server sends; a message is 1 MiB, and has no latency
//     load upload ADDRESS [options]     sends all that the server takes, the same
//
// ADDRESS is a port of 127.0.0.1, or the path of a Unix socket. With --pipeline each connection has as many
// messages under way; else one: a closed loop. With --slow a download takes 16 KiB of each connection every
// 10 ms, from a small buffer, so that the server always waits.
//
// Nothing counts before --warmup seconds have passed and each connection has had a reply; until then the
// echoed bytes are compared too, later only counted, so that the client does not become the bottleneck. Prints one line of JSON.
//
// A connection that fails is counted and replaced, up to a bound; the run always ends on time,
// however the server behaves. Exit status: 0, or 1 if anything went wrong at any time, or nothing
// came back, or 2 if there was nothing to measure.
#include "http.h"
#include "measure.h"

#include <sys/timerfd.h>

enum { scratch_bytes = 256 * 1024, flow_bytes = 1024 * 1024, slow_bytes = 16 * 1024, slow_room = 4 * slow_bytes,
       slow_pause_ms = 10 };

enum kind { echo, datagram, websocket, http, download, upload };
static const char* const kinds[] = {"echo", "datagram", "websocket", "http", "download", "upload"};

static struct {
    enum kind kind;
    const char* path;  // or NULL
    uint16_t port;
    bool close, slow;
    uint64_t connections, pipeline;
    double seconds, warmup_seconds;
} options = {.connections = 1, .pipeline = 1, .seconds = 1, .warmup_seconds = 0.25};

// What is asked for is a stream: `message` after `message`. What comes back is one of `reply`.
struct connection {
    int fd;
    bool writable, greeted, welcomed, met;
    uint64_t asked, answered;  // messages
    uint64_t sent;             // bytes of what was asked
    size_t received;           // bytes of the reply that is coming
    int64_t* began_ns;         // of the messages under way, by their number
    struct http_response response;
};

static int epoll;
static uint64_t opened, flowed;
static char *message, *messages_on_end, *reply, *scratch;
static size_t message_bytes = 64, reply_bytes;

static const char greeting[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";

static bool flows(void) { return options.kind == download || options.kind == upload; }

// -- one connection -----------------------------------------------------------------------------

static void ask(struct connection* c, int64_t now) { c->began_ns[c->asked++ % options.pipeline] = now; }

static void begin(struct connection* c) {
    c->writable = c->welcomed = c->greeted = false;
    c->asked = c->answered = c->sent = c->received = 0;
    http_reset(&c->response);
    int64_t now = now_ns();  // with --close a message pays for its connection
    while (c->asked < options.pipeline)
        ask(c, now);
}

static void reopen(struct connection* c) {
    if (c->fd >= 0)
        close(c->fd);
    begin(c);
    const int type = (options.kind == datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK;
    c->fd = options.path ? open_unix(options.path, type) : open_connection(options.port, opened++, type);
    if (c->fd < 0)
        die("load: connect");
    if (options.slow)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &(int){slow_room}, sizeof(int));  // on_tick() reads
    else
        watch(epoll, c->fd, c);
}

// Sends what was asked for, and not sent yet. False: the connection has failed.
static bool push(struct connection* c) {
    if (options.kind == websocket && !c->welcomed) {
        if (c->writable && !c->greeted) {
            c->greeted = true;
            return send(c->fd, greeting, sizeof greeting - 1, MSG_NOSIGNAL) == sizeof greeting - 1;
        }
        return true;
    }
    const size_t together = message_bytes * options.pipeline;
    while (c->writable && c->sent < c->asked * message_bytes) {
        size_t from = c->sent % together, left = c->asked * message_bytes - c->sent;
        ssize_t n = send(c->fd, messages_on_end + from, left < together - from ? left : together - from, MSG_NOSIGNAL);
        if (n >= 0)
            c->sent += (size_t)n;
        else if (errno == EAGAIN)
            c->writable = false;
        else
            return false;
    }
    return true;
}

static void finish(struct connection* c) {
    int64_t now = now_ns();
    messages++;
    meet(&c->met);
    histogram[bucket_of((uint64_t)(now - c->began_ns[c->answered++ % options.pipeline]))]++;
    c->received = 0;
    ask(c, now);
}

// Judges bytes of the reply that is coming, and says how many are of it. NULL, or what is wrong with them.
static const char* take_some(struct connection* c, const char* data, size_t size, size_t* taken) {
    if (options.kind == http) {
        *taken = http_feed(&c->response, data, size);
        if (c->response.state == http_invalid)
            return "not an HTTP response";
        if (c->response.state != http_complete)
            return NULL;
        c->received = reply_bytes;
        return c->response.status == 200 ? NULL : "a status that is not 200";
    }
    *taken = size < reply_bytes - c->received ? size : reply_bytes - c->received;
    if (warming && memcmp(data, reply + c->received, *taken) != 0)
        return "bytes that differ";
    c->received += *taken;
    return NULL;
}

// The same of all the bytes; `over` becomes whether the connection has done what it was opened for.
static const char* take(struct connection* c, size_t size, bool* over) {
    for (size_t at = 0, taken; at < size; at += taken) {
        if (*over || c->sent <= c->answered * message_bytes)
            return "more bytes than were asked for";
        const char* wrong = take_some(c, scratch + at, size - at, &taken);
        if (wrong)
            return wrong;
        if (c->received < reply_bytes)
            continue;
        *over = options.close || (options.kind == http && c->response.closes);
        finish(c);
        http_reset(&c->response);
    }
    return NULL;
}

static const char* take_welcome(struct connection* c, size_t size) {
    static const char status[] = "HTTP/1.1 101";
    if (size < sizeof status || memcmp(scratch, status, sizeof status - 1) != 0 ||
        memcmp(scratch + size - 4, "\r\n\r\n", 4) != 0)
        return "no welcome as a WebSocket";
    c->welcomed = true;
    return NULL;
}

// Moves bytes until the kernel has none for us. False: the connection has failed, or it is over.
static bool drive(struct connection* c, uint32_t events) {
    const bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (events & EPOLLOUT)
        c->writable = true;
    for (;;) {
        if (!push(c))
            return failed(strerror(errno)), false;
        ssize_t n = recv(c->fd, scratch, scratch_bytes, 0);
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0)
            return failed(strerror(errno)), false;
        if (n == 0 && options.kind != datagram) {
            if (options.kind != http || !http_finish(&c->response))
                return failed("the server closed the connection"), false;
            return finish(c), false;
        }
        bool over = false;
        const uint64_t before = c->answered;
        const bool welcome = options.kind == websocket && !c->welcomed;
        const char* wrong = welcome ? take_welcome(c, (size_t)n) : take(c, (size_t)n, &over);
        if (wrong)
            return failed(wrong), false;
        if (options.kind == datagram && c->answered == before)
            return failed("a message that was cut"), false;
        if (over)
            return false;
        if ((c->answered > before || welcome) && !push(c))
            return failed(strerror(errno)), false;
        // A short read has drained the socket; a new edge announces more, but not a second end.
        if (n < scratch_bytes && !ending)
            return true;
    }
}

// -- bytes that flow one way --------------------------------------------------------------------

static void count_bytes(struct connection* c, size_t bytes) {
    meet(&c->met);
    for (flowed += bytes; flowed >= flow_bytes; flowed -= flow_bytes)
        messages++;
}

// Moves bytes until the kernel takes or has no more, or a MiB has passed: a server that is never behind
// would keep us from the clock. False: the connection has failed.
static bool flow(struct connection* c, uint32_t events) {
    if (events & EPOLLERR)
        return failed("the connection broke"), false;
    for (size_t moved = 0; moved < flow_bytes;) {
        ssize_t n = options.kind == upload ? send(c->fd, scratch, scratch_bytes, MSG_NOSIGNAL)
                                           : recv(c->fd, scratch, scratch_bytes, 0);
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n <= 0)
            return failed(n < 0 ? strerror(errno) : "the server closed the connection"), false;
        moved += (size_t)n;
        count_bytes(c, (size_t)n);
    }
    return watch_anew(epoll, c->fd, c), true;
}

static struct connection* everybody;
static int tick = -1;

static void start_ticking(void) {
    const struct timespec pause = {.tv_nsec = slow_pause_ms * 1000 * 1000};
    const struct itimerspec when = {.it_interval = pause, .it_value = pause};
    tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (tick < 0 || timerfd_settime(tick, 0, &when, NULL) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, tick, &event) < 0)
        die("timerfd");
}

// Takes a little of each connection that has some.
static void on_tick(void) {
    uint64_t ticks;
    if (read(tick, &ticks, sizeof ticks) < 0)
        return;
    for (uint64_t i = 0; i < options.connections; i++) {
        ssize_t n = recv(everybody[i].fd, scratch, slow_bytes, MSG_DONTWAIT);
        if (n > 0)
            count_bytes(&everybody[i], (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != ENOTCONN))
            failed(n < 0 ? strerror(errno) : "the server closed the connection"), reopen(&everybody[i]);
    }
}

// -- the run ------------------------------------------------------------------------------------

// Messages that have been under way for the whole window, or for 2 s, but not less than half of one: they
// are lost.
static uint64_t count_stalled(int64_t from_ns, int64_t to_ns) {
    int64_t limit_ns = to_ns - 2 * second_ns > from_ns ? to_ns - 2 * second_ns : from_ns;
    if (limit_ns > to_ns - second_ns / 2)
        limit_ns = to_ns - second_ns / 2;
    uint64_t stalled = 0;
    for (uint64_t i = 0; i < options.connections; i++)
        stalled += everybody[i].began_ns[everybody[i].answered % options.pipeline] < limit_ns;
    return stalled;
}

static void on_event(void* owner, uint32_t events) {
    if (owner == NULL)
        on_tick();
    else if (!(flows() ? flow(owner, events) : drive(owner, events)))
        reopen(owner);
}

static void run(void) {
    for (uint64_t i = 0; i < options.connections; i++) {
        everybody[i].fd = -1;
        everybody[i].began_ns = calloc(options.pipeline, sizeof(int64_t));
        if (everybody[i].began_ns == NULL)
            die("load");
        reopen(&everybody[i]);
    }
    if (options.slow)
        start_ticking();
    awaited = options.connections;
    struct window measured = measure(epoll, options.warmup_seconds, options.seconds, on_event);
    if (!flows())
        errors += count_stalled(measured.from.wall_ns, measured.to.wall_ns);
    report(measured);
}

// -- what is sent -------------------------------------------------------------------------------

// The head of a WebSocket message, binary and in one frame; returns its size.
static size_t frame_head(char* to, size_t bytes, bool masked) {
    size_t size = bytes < 126 ? 0 : bytes < 65536 ? 2 : 8;
    to[0] = (char)0x82;
    to[1] = (char)((masked ? 0x80 : 0) | (size == 0 ? (int)bytes : size == 2 ? 126 : 127));
    for (size_t i = 0; i < size; i++)
        to[2 + i] = (char)(bytes >> 8 * (size - 1 - i));
    return 2 + size;
}

static void prepare_frames(void) {
    static const char mask[4] = {0x12, 0x34, 0x56, 0x78};
    char* data = patterned_bytes(message_bytes);
    message = malloc(message_bytes + 14);
    reply = malloc(message_bytes + 10);
    if (message == NULL || reply == NULL)
        die("load");
    size_t head = frame_head(message, message_bytes, true);
    memcpy(message + head, mask, sizeof mask);
    head += sizeof mask;
    for (size_t i = 0; i < message_bytes; i++)
        message[head + i] = data[i] ^ mask[i % sizeof mask];
    size_t reply_head = frame_head(reply, message_bytes, false);
    memcpy(reply + reply_head, data, message_bytes);
    reply_bytes = reply_head + message_bytes;
    message_bytes += head;
    free(data);
}

static void prepare(void) {
    if (options.kind == websocket) {
        prepare_frames();
    } else if (options.kind == http) {
        message = http_request(options.port, options.close ? "Connection: close\r\n" : "", &message_bytes);
        reply_bytes = 1;  // of a response the parser knows the size
    } else {
        message = reply = patterned_bytes(message_bytes);
        reply_bytes = message_bytes;
    }
    messages_on_end = malloc(message_bytes * options.pipeline);
    scratch = malloc(scratch_bytes);
    everybody = calloc(options.connections, sizeof *everybody);
    if (messages_on_end == NULL || scratch == NULL || everybody == NULL)
        die("load");
    for (uint64_t i = 0; i < options.pipeline; i++)
        memcpy(messages_on_end + i * message_bytes, message, message_bytes);
}

static void parse(int argc, char** argv) {
    static const struct option table[] = {
        {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 'n'},
        {"pipeline", required_argument, NULL, 'l'},
        {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'w'},
        {"server-pid", required_argument, NULL, 'p'},
        {"close", no_argument, NULL, 'x'},
        {"slow", no_argument, NULL, 'y'},
        {0},
    };
    static const char usage[] =
        "usage: load echo|datagram|websocket|http|download|upload PORT|PATH\n"
        "           [--connections N] [--size BYTES] [--pipeline N] [--seconds S] [--warmup S]\n"
        "           [--close] [--slow] [--server-pid PID]";
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (option) {
            case 'c': options.connections = count_of(optarg); break;
            case 'n': message_bytes = count_of(optarg); break;
            case 'l': options.pipeline = count_of(optarg); break;
            case 's': options.seconds = seconds_of(optarg); break;
            case 'w': options.warmup_seconds = seconds_of(optarg); break;
            case 'p': measured_server = (pid_t)count_of(optarg); break;
            case 'x': options.close = true; break;
            case 'y': options.slow = true; break;
            default: stop_with(usage);
        }
    }
    if (argc - optind != 2)
        stop_with(usage);
    size_t kind = 0;
    while (kind < sizeof kinds / sizeof *kinds && strcmp(argv[optind], kinds[kind]) != 0)
        kind++;
    if (kind == sizeof kinds / sizeof *kinds || (options.slow && kind != download))
        stop_with(usage);
    options.kind = (enum kind)kind;
    if (argv[optind + 1][0] == '/')
        options.path = argv[optind + 1];
    else
        options.port = port_of(argv[optind + 1]);
    if (options.connections == 0 || message_bytes == 0 || options.pipeline == 0)
        stop_with(usage);
}

int main(int argc, char** argv) {
    parse(argc, argv);
    allow_descriptors(options.connections);
    prepare();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("load");
    run();
    return errors > 0 || messages == 0;
}
