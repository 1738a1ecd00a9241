// tls_load.c: the load client for servers with TLS, by OpenSSL; it does not look at their certificate.
//
//     tls_load echo PORT [options]       sends --size bytes, waits until as many came back
//     tls_load bulk PORT [options]       takes what the server sends; a message is 1 MiB
//     tls_load handshake PORT [options]  connects, shakes hands, sends a byte, has it back, and connects anew
//     tls_load http PORT [options]       sends a GET, waits for the whole response
//
// Options, warmup and what is printed are those of load.c; a handshake is never resumed.
#include "http.h"
#include "measure.h"
#include "tls.h"

enum { scratch_bytes = 256 * 1024, bulk_bytes = 1024 * 1024 };

static struct {
    uint16_t port;
    bool bulk, handshake, http;
    uint64_t connections;
    double seconds, warmup_seconds;
} options = {.connections = 1, .seconds = 1, .warmup_seconds = 0.25};

struct connection {
    struct tls tls;
    bool asked, over, met;
    size_t received;
    int64_t began_ns;
    struct http_response response;
};

static int epoll;
static uint64_t opened;
static SSL_CTX* context;
static char *message, *scratch, *plain;
static size_t message_bytes = 64;

static void begin(struct connection* c, int64_t now) {
    c->began_ns = now;
    c->received = 0;
    c->asked = c->over = false;
    if (options.http)
        http_reset(&c->response);
}

static void reopen(struct connection* c) {
    if (c->tls.ssl != NULL) {
        close(c->tls.fd);
        tls_free(&c->tls);
    }
    begin(c, now_ns());
    int fd = open_connection(options.port, opened++, SOCK_STREAM | SOCK_NONBLOCK);
    if (fd < 0 || !tls_begin(&c->tls, context, fd, false))
        die("tls_load: connect");
    c->tls.writable = false;  // until it is connected
    watch(epoll, fd, c);
}

static bool ask(struct connection* c) {
    if (!c->tls.established || c->asked || options.bulk)
        return true;
    c->asked = true;
    return SSL_write(c->tls.ssl, message, (int)message_bytes) == (int)message_bytes;
}

static void finish(struct connection* c) {
    int64_t now = now_ns();
    messages++;
    meet(&c->met);
    histogram[bucket_of((uint64_t)(now - c->began_ns))]++;
    begin(c, now);
}

// Judges what came. NULL, or what is wrong with it.
static const char* take(struct connection* c, size_t size) {
    if (options.bulk) {
        for (c->received += size; c->received >= bulk_bytes;) {
            size_t rest = c->received - bulk_bytes;
            finish(c);
            c->received = rest;
        }
        return NULL;
    }
    if (options.http) {
        if (http_feed(&c->response, plain, size) < size)
            return "bytes after the response";
        if (c->response.state == http_invalid)
            return "not an HTTP response";
        c->over = c->response.state == http_complete;
        return c->over && c->response.status != 200 ? "a status that is not 200" : NULL;
    }
    if (size > message_bytes - c->received)
        return "more bytes than were sent";
    if (warming && memcmp(plain, message + c->received, size) != 0)
        return "bytes that differ";
    c->received += size;
    c->over = c->received == message_bytes;
    return NULL;
}

// Moves bytes until the kernel has none for us, or a message of bulk is whole: a server that is never behind
// would keep us from the clock. False: the connection has failed, or it is over.
static bool drive(struct connection* c, uint32_t events) {
    struct tls* t = &c->tls;
    const uint64_t whole = messages;
    const bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (events & EPOLLOUT)
        t->writable = true;
    for (;;) {
        if (!tls_handshake(t))
            return failed("the handshake has failed"), false;
        if (!ask(c) || !tls_flush(t))
            return failed("the server is gone"), false;
        ssize_t n = recv(t->fd, scratch, scratch_bytes, 0);
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n <= 0)
            return failed(n < 0 ? strerror(errno) : "the server closed the connection"), false;
        BIO_write(t->in, scratch, (int)n);
        if (!tls_handshake(t))
            return failed("the handshake has failed"), false;
        for (int read; t->established;) {
            read = SSL_read(t->ssl, plain, scratch_bytes);
            if (read <= 0) {
                if (!tls_waits(t, read))
                    return failed("not a record of TLS"), false;
                break;
            }
            const char* wrong = take(c, (size_t)read);
            if (wrong)
                return failed(wrong), false;
        }
        if (c->over) {
            const bool last = options.handshake || (options.http && c->response.closes);
            finish(c);
            if (last)
                return false;
        }
        if (!ask(c) || !tls_flush(t))
            return failed("the server is gone"), false;
        if (n < scratch_bytes && !ending)
            return true;
        if (options.bulk && messages != whole)
            return watch_anew(epoll, t->fd, c), true;
    }
}

static void on_event(void* owner, uint32_t events) {
    if (!drive(owner, events))
        reopen(owner);
}

static void run(struct connection* all) {
    for (uint64_t i = 0; i < options.connections; i++)
        reopen(&all[i]);
    awaited = options.connections;
    report(measure(epoll, options.warmup_seconds, options.seconds, on_event));
}

static void parse(int argc, char** argv) {
    static const struct option table[] = {
        {"connections", required_argument, NULL, 'c'}, {"size", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 's'},     {"warmup", required_argument, NULL, 'w'},
        {"server-pid", required_argument, NULL, 'p'},  {0},
    };
    static const char usage[] =
        "usage: tls_load echo|bulk|handshake|http PORT [--connections N] [--size BYTES] [--seconds S] "
        "[--warmup S]\n"
        "                                              [--server-pid PID]";
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (option) {
            case 'c': options.connections = count_of(optarg); break;
            case 'n': message_bytes = count_of(optarg); break;
            case 's': options.seconds = seconds_of(optarg); break;
            case 'w': options.warmup_seconds = seconds_of(optarg); break;
            case 'p': measured_server = (pid_t)count_of(optarg); break;
            default: stop_with(usage);
        }
    }
    if (argc - optind != 2)
        stop_with(usage);
    options.bulk = strcmp(argv[optind], "bulk") == 0;
    options.handshake = strcmp(argv[optind], "handshake") == 0;
    options.http = strcmp(argv[optind], "http") == 0;
    if (!options.bulk && !options.handshake && !options.http && strcmp(argv[optind], "echo") != 0)
        stop_with(usage);
    if (options.handshake)
        message_bytes = 1;
    options.port = port_of(argv[optind + 1]);
    if (options.connections == 0 || message_bytes == 0 || message_bytes > scratch_bytes)
        stop_with(usage);
}

int main(int argc, char** argv) {
    parse(argc, argv);
    allow_descriptors(options.connections);
    message = options.http ? http_request(options.port, "", &message_bytes) : patterned_bytes(message_bytes);
    scratch = malloc(scratch_bytes);
    plain = malloc(scratch_bytes);
    struct connection* all = calloc(options.connections, sizeof *all);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    context = SSL_CTX_new(TLS_client_method());
    if (scratch == NULL || plain == NULL || all == NULL || epoll < 0 || context == NULL)
        die("tls_load");
    run(all);
    return errors > 0 || messages == 0;
}
