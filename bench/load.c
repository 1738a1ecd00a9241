// load.c: a closed-loop load client: each connection has one message under way, and times it.
//
//     load echo PORT [options]      sends --size bytes, waits until as many came back
//     load datagram PORT [options]  the same over UDP, as one message
//     load http PORT [options]      sends a GET, waits for the whole response
//
// Nothing counts before --warmup seconds have passed; in them the echoed bytes are compared too,
// later only counted, so that the client does not become the bottleneck. Prints one line of JSON.
//
// A connection that fails is counted and replaced, up to a bound; the run always ends on time,
// however the server behaves. Exit status: 0, or 1 if anything went wrong at any time, or nothing
// came back, or 2 if there was nothing to measure.
#include "http.h"
#include "measure.h"

enum { scratch_bytes = 256 * 1024 };

static struct {
    uint16_t port;
    bool http, datagram, close;
    uint64_t connections;
    double seconds, warmup_seconds;
} options = {.connections = 1, .seconds = 1, .warmup_seconds = 0.25};

struct connection {
    int fd;
    bool writable, over;
    size_t sent, received;
    int64_t began_ns;
    struct http_response response;
};

static int epoll;
static uint64_t opened;
static char *message, *scratch;
static size_t message_bytes = 64;

// -- one connection -----------------------------------------------------------------------------

static void begin(struct connection* c, int64_t now) {
    c->began_ns = now;
    c->sent = c->received = 0;
    c->over = false;
    if (options.http)
        http_reset(&c->response);
}

static void reopen(struct connection* c) {
    if (c->fd >= 0)
        close(c->fd);
    begin(c, now_ns());  // an HTTP request with --close pays for its connection
    c->writable = false;
    c->fd = open_connection(options.port, opened++,
                            (options.datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK);
    if (c->fd < 0)
        die("load: connect");
    watch(epoll, c->fd, c);
}

// Sends what is left of the message. False: the connection has failed.
static bool push(struct connection* c) {
    while (c->writable && c->sent < message_bytes) {
        ssize_t n = send(c->fd, message + c->sent, message_bytes - c->sent, MSG_NOSIGNAL);
        if (n >= 0)
            c->sent += (size_t)n;
        else if (errno == EAGAIN)
            c->writable = false;
        else
            return false;
    }
    return true;
}

// Judges `size` bytes of the scratch. NULL, or what is wrong with them.
static const char* take(struct connection* c, size_t size) {
    if (options.http) {
        if (http_feed(&c->response, scratch, size) < size)
            return "bytes after the response";
        if (c->response.state == http_invalid)
            return "not an HTTP response";
        c->over = c->response.state == http_complete;
        if (c->over && c->response.status != 200)
            return "a status that is not 200";
        return NULL;
    }
    if (size > c->sent - c->received)
        return "more bytes than were sent";
    if (warming && memcmp(scratch, message + c->received, size) != 0)
        return "bytes that differ";
    c->received += size;
    c->over = c->received == message_bytes;
    return NULL;
}

static void finish(struct connection* c) {
    int64_t now = now_ns();
    messages++;
    histogram[bucket_of((uint64_t)(now - c->began_ns))]++;
    if (options.close || (options.http && c->response.closes))
        reopen(c);
    else
        begin(c, now);
}

// Moves bytes until the kernel has none for us. False: the connection has failed.
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
        if (n == 0 && !options.datagram) {
            if (!options.http || !http_finish(&c->response))
                return failed("the server closed the connection"), false;
            return finish(c), true;
        }
        const char* wrong = take(c, (size_t)n);
        if (wrong)
            return failed(wrong), false;
        if (options.datagram && !c->over)
            return failed("a message that was cut"), false;
        if (c->over) {
            finish(c);
            if (!c->writable)
                return true;  // a new connection, or a full one: its edge will come
            if (!push(c))
                return failed(strerror(errno)), false;
        }
        // A short read has drained the socket; a new edge announces more, but not a second end.
        if (n < scratch_bytes && !ending)
            return true;
    }
}

// -- the run ------------------------------------------------------------------------------------

// Connections whose message has been under way for the whole window, or for 2 s: it is lost.
static uint64_t count_stalled(const struct connection* all, int64_t from_ns, int64_t to_ns) {
    int64_t limit_ns = to_ns - 2 * second_ns > from_ns ? to_ns - 2 * second_ns : from_ns;
    uint64_t stalled = 0;
    for (uint64_t i = 0; i < options.connections; i++)
        stalled += all[i].began_ns < limit_ns;
    return stalled;
}

static void on_event(void* owner, uint32_t events) {
    if (!drive(owner, events))
        reopen(owner);
}

static void run(struct connection* all) {
    for (uint64_t i = 0; i < options.connections; i++) {
        all[i].fd = -1;
        reopen(&all[i]);
    }
    struct window measured = measure(epoll, options.warmup_seconds, options.seconds, on_event);
    errors += count_stalled(all, measured.from.wall_ns, measured.to.wall_ns);
    report(measured);
}

static void parse(int argc, char** argv) {
    static const struct option table[] = {
        {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'w'},
        {"server-pid", required_argument, NULL, 'p'},
        {"close", no_argument, NULL, 'x'},
        {0},
    };
    static const char usage[] =
        "usage: load echo|datagram|http PORT [--connections N] [--size BYTES] [--seconds S] [--warmup S]\n"
        "                           [--close] [--server-pid PID]";
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (option) {
            case 'c': options.connections = count_of(optarg); break;
            case 'n': message_bytes = count_of(optarg); break;
            case 's': options.seconds = seconds_of(optarg); break;
            case 'w': options.warmup_seconds = seconds_of(optarg); break;
            case 'p': measured_server = (pid_t)count_of(optarg); break;
            case 'x': options.close = true; break;
            default: stop_with(usage);
        }
    }
    if (argc - optind != 2)
        stop_with(usage);
    options.http = strcmp(argv[optind], "http") == 0;
    options.datagram = strcmp(argv[optind], "datagram") == 0;
    if (!options.http && !options.datagram && strcmp(argv[optind], "echo") != 0)
        stop_with(usage);
    options.port = port_of(argv[optind + 1]);
    if (options.connections == 0 || message_bytes == 0)
        stop_with(usage);
}

int main(int argc, char** argv) {
    parse(argc, argv);
    allow_descriptors(options.connections);
    message = options.http
                  ? http_request(options.port, options.close ? "Connection: close\r\n" : "", &message_bytes)
                  : patterned_bytes(message_bytes);
    scratch = malloc(scratch_bytes);
    struct connection* all = calloc(options.connections, sizeof *all);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (scratch == NULL || all == NULL || epoll < 0)
        die("load");
    run(all);
    free(all);
    return errors > 0 || messages == 0;
}
