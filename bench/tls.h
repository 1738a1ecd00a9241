// tls.h: one end of TLS between two memory BIOs, for the floor and for its load client.
//
// A message is one recv and one send, whatever the number of records in it: OpenSSL on the socket itself would
// make two system calls for each record.
#pragma once

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <sys/socket.h>

struct tls {
    int fd;
    bool writable, established;
    SSL* ssl;
    BIO *in, *out;  // the SSL's
};

static inline bool tls_begin(struct tls* t, SSL_CTX* context, int fd, bool server) {
    *t = (struct tls){.fd = fd, .writable = true, .ssl = SSL_new(context)};
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (t->ssl == NULL || t->in == NULL || t->out == NULL)
        return false;
    SSL_set_bio(t->ssl, t->in, t->out);
    server ? SSL_set_accept_state(t->ssl) : SSL_set_connect_state(t->ssl);
    return true;
}

static inline void tls_free(struct tls* t) {
    SSL_free(t->ssl);
    t->ssl = NULL;
}

// Whether a call of OpenSSL that returned `code` only waits for the peer.
static inline bool tls_waits(struct tls* t, int code) { return SSL_get_error(t->ssl, code) == SSL_ERROR_WANT_READ; }

// Goes on with the handshake. False: it has failed.
static inline bool tls_handshake(struct tls* t) {
    if (t->established)
        return true;
    int code = SSL_do_handshake(t->ssl);
    t->established = code == 1;
    return t->established || tls_waits(t, code);
}

// Sends what OpenSSL has written, as far as the kernel takes it. False: the peer is gone.
static inline bool tls_flush(struct tls* t) {
    static char sent[64 * 1024];
    while (t->writable) {
        char* data;
        long size = BIO_get_mem_data(t->out, &data);
        if (size <= 0)
            return true;
        ssize_t n = send(t->fd, data, (size_t)size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            t->writable = false;
        else if (n < 0)
            return false;
        else if (n == size)
            (void)BIO_reset(t->out);
        else
            for (ssize_t left = n; left > 0;)  // what was sent leaves the BIO by being read
                left -= BIO_read(t->out, sent, (int)(left < (ssize_t)sizeof sent ? left : (ssize_t)sizeof sent));
    }
    return true;
}

static inline bool tls_has_unsent(struct tls* t) { return BIO_pending(t->out) > 0; }
