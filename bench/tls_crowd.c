// tls_crowd.c: many TLS connections that have said what they had to say, to weigh a server that echoes.
//
//     tls_crowd idle PORT COUNT   opens COUNT connections, has 64 bytes echoed on each, prints `ready`, keeps
//     them
//                                 open and silent until its standard input ends
//
// What OpenSSL keeps of a connection at this end is freed at once. Exit status: 0 if each was echoed.
#include "client.h"
#include "tls.h"

enum { greeting_bytes = 64 };

static void greet(SSL_CTX* context, int fd) {
    static const char greeting[greeting_bytes] = "hello, and on";
    static char received[16 * 1024];
    struct tls t;
    if (!tls_begin(&t, context, fd, false))
        stop_with("tls_crowd: no memory");
    for (size_t echoed = 0, said = 0; echoed < greeting_bytes;) {
        if (!tls_handshake(&t))
            stop_with("tls_crowd: a handshake has failed");
        if (t.established && !said)
            said = SSL_write(t.ssl, greeting, greeting_bytes) > 0;
        if (!tls_flush(&t))
            stop_with("tls_crowd: the server is gone");
        ssize_t n = recv(fd, received, sizeof received, 0);
        if (n <= 0)
            stop_with("tls_crowd: the server is gone");
        BIO_write(t.in, received, (int)n);
        for (int read; t.established && (read = SSL_read(t.ssl, received, sizeof received)) > 0;)
            echoed += (size_t)read;
    }
    tls_free(&t);
}

int main(int argc, char** argv) {
    if (argc != 4 || strcmp(argv[1], "idle") != 0)
        stop_with("usage: tls_crowd idle PORT COUNT");
    uint16_t port = port_of(argv[2]);
    uint64_t count = count_of(argv[3]);
    allow_descriptors(count);
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    if (context == NULL)
        stop_with("tls_crowd: no context");
    for (uint64_t i = 0; i < count; i++) {
        int fd = open_connection(port, i, SOCK_STREAM);
        if (fd < 0)
            die("tls_crowd: connect");
        greet(context, fd);
    }
    stay_open();
    return 0;
}
