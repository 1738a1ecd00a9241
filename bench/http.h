// http.h: reads HTTP/1.1 responses that arrive in pieces of any size.
//
// A state machine over lines and runs of body bytes; it holds one line and copies no body.
// It judges framing only: status, Content-Length, chunked, Connection: close.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum http_state {
    http_status_line,
    http_header,
    http_body,         // `left` bytes to come
    http_until_close,  // no length was given: the end of the stream ends it
    http_chunk_size,
    http_chunk,  // `left` bytes to come, then an empty line
    http_chunk_end,
    http_trailer,
    http_complete,
    http_invalid,
};

struct http_response {
    enum http_state state;
    int status;
    bool chunked, has_length, closes;
    uint64_t left;
    size_t line_size;
    char line[1024];
};

// Ready for the next response.
static inline void http_reset(struct http_response* r) {
    r->state = http_status_line;
    r->status = 0;
    r->chunked = r->has_length = r->closes = false;
    r->left = 0;
    r->line_size = 0;
}

// The value of the header `name`, or NULL if the line is another.
static inline const char* http_value(const char* line, const char* name) {
    size_t size = strlen(name);
    if (strncasecmp(line, name, size) != 0 || line[size] != ':')
        return NULL;
    return line + size + 1 + strspn(line + size + 1, " \t");
}

static inline bool http_number(const char* text, int base, uint64_t* value) {
    char* end;
    *value = strtoull(text, &end, base);
    end += strspn(end, " \t");
    return end != text && *text != '-' && *text != '+' && (*end == '\0' || *end == ';');
}

static inline enum http_state http_after_headers(struct http_response* r) {
    if (r->status >= 100 && r->status < 200) {  // an interim response: the real one follows
        http_reset(r);
        return http_status_line;
    }
    if (r->status == 204 || r->status == 304)
        return http_complete;
    if (r->chunked)
        return http_chunk_size;
    if (!r->has_length) {
        r->closes = true;
        return http_until_close;
    }
    return r->left > 0 ? http_body : http_complete;
}

static inline enum http_state http_read_header(struct http_response* r) {
    const char* value;
    if (r->line_size == 0)
        return http_after_headers(r);
    if ((value = http_value(r->line, "content-length"))) {
        r->has_length = true;
        if (!http_number(value, 10, &r->left))
            return http_invalid;
    } else if ((value = http_value(r->line, "transfer-encoding"))) {
        r->chunked = strcasestr(value, "chunked") != NULL;
    } else if ((value = http_value(r->line, "connection"))) {
        r->closes = strcasestr(value, "close") != NULL;
    }
    return http_header;
}

// What follows the line that has just ended.
static inline enum http_state http_read_line(struct http_response* r) {
    switch (r->state) {
        case http_status_line:
            if (strncmp(r->line, "HTTP/1.", 7) != 0 || r->line_size < 12)
                return http_invalid;
            r->status = atoi(r->line + 9);
            return r->status >= 100 && r->status <= 599 ? http_header : http_invalid;
        case http_header: return http_read_header(r);
        case http_chunk_size:
            if (!http_number(r->line, 16, &r->left))
                return http_invalid;
            return r->left > 0 ? http_chunk : http_trailer;
        case http_chunk_end: return r->line_size == 0 ? http_chunk_size : http_invalid;
        case http_trailer: return r->line_size == 0 ? http_complete : http_trailer;
        default: return http_invalid;
    }
}

// Takes bytes up to the end of the line, or all. A line longer than `line` is cut: we need no more.
static inline size_t http_take_line(struct http_response* r, const char* data, size_t size) {
    const char* newline = memchr(data, '\n', size);
    size_t taken = newline ? (size_t)(newline - data) : size;
    size_t room = sizeof r->line - 1 - r->line_size;
    size_t kept = taken < room ? taken : room;
    memcpy(r->line + r->line_size, data, kept);
    r->line_size += kept;
    if (newline == NULL)
        return taken;
    if (r->line_size > 0 && r->line[r->line_size - 1] == '\r')
        r->line_size--;
    r->line[r->line_size] = '\0';
    r->state = http_read_line(r);
    r->line_size = 0;
    return taken + 1;
}

// Returns how many of the bytes belong to this response: fewer than given only when it is over.
static inline size_t http_feed(struct http_response* r, const char* data, size_t size) {
    size_t used = 0;
    while (used < size && r->state != http_complete && r->state != http_invalid) {
        if (r->state == http_until_close)
            return size;
        if (r->state != http_body && r->state != http_chunk) {
            used += http_take_line(r, data + used, size - used);
            continue;
        }
        size_t taken = size - used < r->left ? size - used : (size_t)r->left;
        used += taken;
        r->left -= taken;
        if (r->left == 0)
            r->state = r->state == http_body ? http_complete : http_chunk_end;
    }
    return used;
}

// The stream has ended: is the response whole?
static inline bool http_finish(struct http_response* r) {
    if (r->state == http_until_close)
        r->state = http_complete;
    return r->state == http_complete;
}
