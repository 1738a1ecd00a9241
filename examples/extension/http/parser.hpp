// What an HTTP/1.1 server reads (RFC 9110, RFC 9112), by a parser that does no I/O.
//
// It is strict: where two servers could read the same bytes as different requests, it reads none. A line ends
// with CR LF; a name has no space before its colon; no header goes on in the next line; a request has either
// a Content-Length, once, or is chunked, and nothing else. What is wrong is a status to refuse with.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace httpd {

/// What a peer may ask of our memory.
struct limits {
    std::size_t head_bytes = 16 * 1024;    ///< request line and headers; more is 431
    std::size_t headers = 100;             ///< more is 431
    std::size_t target_bytes = 8 * 1024;   ///< more is 414
    std::size_t body_bytes = 1024 * 1024;  ///< more is 413
};

struct header {
    std::string_view name, value;
};

/// The first lines of a request; views of the bytes that were parsed.
struct head {
    std::string_view method, target, path, query;
    std::vector<header> headers;
    std::uint64_t length = 0;  ///< of its body; 0 of one that is chunked
    bool is_chunked = false;
    bool keeps_alive = true;
    bool expects_continue = false;

    bool has_body() const noexcept { return is_chunked || length != 0; }
    /// The value of the first header of that name, in lower case; empty: none.
    std::string_view operator[](std::string_view name) const noexcept;
};

/// What came of parsing: bytes taken, or a status; neither: more bytes are needed.
struct parsed {
    std::size_t taken = 0;
    int refused = 0;
};

namespace detail {

enum : unsigned char { token = 1, field = 2, target = 4 };

/// What a byte may be part of: a token (RFC 9110, 5.6.2), a field's value (5.5), a target.
constexpr std::array<unsigned char, 256> kinds = [] {
    std::array<unsigned char, 256> made{};
    for (unsigned byte = 0; byte < 256; ++byte) {
        const bool is_visible = byte > 0x20 && byte < 0x7f;
        const bool is_alphanumeric =
            (byte >= '0' && byte <= '9') || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z');
        const bool is_of_token =
            is_alphanumeric ||
            std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(byte)) != std::string_view::npos;
        made[byte] = static_cast<unsigned char>(
            (is_visible && is_of_token ? token : 0) |
            (is_visible || byte == ' ' || byte == '\t' || byte >= 0x80 ? field : 0) |
            (is_visible ? target : 0));
    }
    return made;
}();

inline bool all(std::string_view text, unsigned char kind) noexcept {
    return std::all_of(text.begin(), text.end(),
                       [kind](char each) { return (kinds[static_cast<unsigned char>(each)] & kind) != 0; });
}

inline char lower(char letter) noexcept {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter | 0x20) : letter;
}
/// Whether `text` is `word`, which is in lower case.
inline bool is(std::string_view text, std::string_view word) noexcept {
    return text.size() == word.size() &&
           std::equal(text.begin(), text.end(), word.begin(), [](char a, char b) { return lower(a) == b; });
}

inline std::string_view trimmed(std::string_view text) noexcept {
    const auto is_space = [](char each) { return each == ' ' || each == '\t'; };
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

/// Whether a list of words (`close, TE`) has this one.
inline bool has_word(std::string_view list, std::string_view word) noexcept {
    while (!list.empty()) {
        const std::size_t comma = std::min(list.find(','), list.size());
        if (is(trimmed(list.substr(0, comma)), word)) {
            return true;
        }
        list.remove_prefix(std::min(comma + 1, list.size()));
    }
    return false;
}

/// Digits of `base` and nothing else, without overflow.
inline bool number(std::string_view text, int base, std::uint64_t& into) noexcept {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into, base);
    return error == std::errc() && end == text.data() + text.size();
}

inline int parse_request_line(std::string_view line, head& into, const limits& bounds) noexcept {
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (first == std::string_view::npos || first == last || first == 0) {
        return 400;
    }
    into.method = line.substr(0, first);
    into.target = line.substr(first + 1, last - first - 1);
    const std::string_view version = line.substr(last + 1);
    if (!all(into.method, token) || into.target.empty() || !all(into.target, target)) {
        return 400;
    }
    if (into.target.size() > bounds.target_bytes) {
        return 414;
    }
    if (version != "HTTP/1.1" && version != "HTTP/1.0") {
        return version.size() == 8 && version.starts_with("HTTP/") && version[6] == '.' ? 505 : 400;
    }
    into.keeps_alive = version[7] == '1';
    if (into.method == "CONNECT") {
        return 501;
    }
    std::string_view path = into.target;
    if (path.size() > 7 && is(path.substr(0, 7), "http://")) {  // the absolute form, as to a proxy
        path.remove_prefix(std::min(path.find_first_of("/?", 7), path.size()));
        path = path.empty() || path[0] == '?' ? "/" : path;
    } else if (path[0] != '/' && !(path == "*" && into.method == "OPTIONS")) {
        return 400;
    }
    const std::size_t mark = std::min(path.find('?'), path.size());
    into.path = path.substr(0, mark);
    into.query = path.substr(std::min(mark + 1, path.size()));
    return 0;
}

/// What is known of the headers, to be judged at their end.
struct framing {
    unsigned hosts = 0, lengths = 0, codings = 0;
};

inline int take_header(const header& given, head& into, framing& seen) noexcept {
    switch (given.name.size()) {
        case 4: seen.hosts += is(given.name, "host"); break;
        case 6:
            if (is(given.name, "expect")) {
                if (!is(given.value, "100-continue")) {
                    return 417;
                }
                into.expects_continue = true;
            }
            break;
        case 10:
            if (is(given.name, "connection") && has_word(given.value, "close")) {
                into.keeps_alive = false;
            }
            break;
        case 14:
            if (is(given.name, "content-length")) {
                ++seen.lengths;
                if (!number(given.value, 10, into.length)) {
                    return 400;
                }
            }
            break;
        case 17:
            if (is(given.name, "transfer-encoding")) {
                ++seen.codings;
                into.is_chunked = is(given.value, "chunked");
                if (!into.is_chunked) {
                    return 501;
                }
            }
            break;
        default: break;
    }
    return 0;
}

}  // namespace detail

inline std::string_view head::operator[](std::string_view name) const noexcept {
    for (const header& each : headers) {
        if (detail::is(each.name, name)) {
            return each.value;
        }
    }
    return {};
}

/// Whether a head that is too long has not come to the end of its target.
inline bool is_in_target(std::string_view bytes) noexcept { return bytes.find(' ') == bytes.rfind(' '); }

/// Where the head at the begin of `bytes` ends, of which the first `known` had no end. Nothing of it is read
/// twice, so that who sends byte by byte costs no more than others.
inline parsed find_head(std::string_view bytes, std::size_t known, const limits& bounds) noexcept {
    std::size_t at = known > 3 ? known - 3 : 0;
    for (;;) {
        const auto* const found =
            at < bytes.size()
                ? static_cast<const char*>(std::memchr(bytes.data() + at, '\n', bytes.size() - at))
                : nullptr;
        const std::size_t end =
            found != nullptr ? static_cast<std::size_t>(found - bytes.data()) : bytes.size();
        if (end >= bounds.head_bytes) {
            return {0, is_in_target(bytes.substr(0, bounds.head_bytes)) ? 414 : 431};
        }
        if (found == nullptr) {
            return {};
        }
        if (end == 0 || bytes[end - 1] != '\r') {
            return {0, 400};
        }
        if (end >= 3 && bytes[end - 3] == '\r' && bytes[end - 2] == '\n') {
            return {end + 1, 0};
        }
        at = end + 1;
    }
}

/// Parses a head that find_head() has found, all of `bytes`. Gives 0, or a status to refuse it with.
inline int parse_head(std::string_view bytes, head& into, const limits& bounds) {
    into.headers.clear();
    into.length = 0;
    into.is_chunked = into.expects_continue = false;
    detail::framing seen;
    std::size_t end = bytes.find("\r\n");
    if (const int refused = detail::parse_request_line(bytes.substr(0, end), into, bounds)) {
        return refused;
    }
    const bool is_newest = into.keeps_alive;
    bytes.remove_prefix(end + 2);
    while ((end = bytes.find('\n') - 1) != 0) {
        const std::string_view line = bytes.substr(0, end);
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos || colon == 0) {
            return 400;
        }
        const header given{line.substr(0, colon), detail::trimmed(line.substr(colon + 1))};
        if (!detail::all(given.name, detail::token) || !detail::all(given.value, detail::field)) {
            return 400;  // also a line that goes on from the one before, which begins with a space
        }
        if (into.headers.size() == bounds.headers) {
            return 431;
        }
        into.headers.push_back(given);
        if (const int refused = detail::take_header(given, into, seen)) {
            return refused;
        }
        bytes.remove_prefix(end + 2);
    }
    if (seen.hosts > 1 || (seen.hosts == 0 && is_newest) || seen.lengths + seen.codings > 1 ||
        (seen.codings != 0 && !is_newest)) {
        return 400;
    }
    into.expects_continue = into.expects_continue && is_newest && into.has_body();
    return into.length > bounds.body_bytes ? 413 : 0;
}

/// Takes a body out of the bytes behind a head, in pieces of any size.
class body_reader {
public:
    body_reader(const head& of, const limits& bounds) noexcept
        : bounds_(bounds), left_(of.length), state_(of.is_chunked ? state::size : state::counted) {}

    bool is_done() const noexcept {
        return state_ == state::done || (state_ == state::counted && left_ == 0);
    }

    /// Appends to `body`. Takes no byte behind the body's end.
    parsed feed(std::string_view bytes, std::string& body) {
        std::size_t at = 0;
        while (at < bytes.size() && !is_done()) {
            if (state_ == state::counted || state_ == state::data) {
                const std::size_t some =
                    static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size() - at));
                body.append(bytes.substr(at, some));
                left_ -= some;
                at += some;
                if (state_ == state::data && left_ == 0) {
                    state_ = state::end_of_data;
                }
                continue;
            }
            if (!take_line(bytes, at)) {
                return {at, refused_};
            }
            if (refused_ == 0 && body.size() + left_ > bounds_.body_bytes) {
                refused_ = 413;
            }
            if (refused_ != 0) {
                return {at, refused_};
            }
        }
        return {at, 0};
    }

private:
    enum class state : std::uint8_t { counted, size, data, end_of_data, trailer, done };

    /// Takes bytes up to the end of a line. False: it goes on, or is refused.
    bool take_line(std::string_view bytes, std::size_t& at) {
        const std::size_t end = bytes.find('\n', at);
        const std::size_t stop = end == std::string_view::npos ? bytes.size() : end + 1;
        line_.append(bytes.substr(at, std::min(stop - at, most_of_a_line + 1)));
        at = stop;
        if (line_.size() > most_of_a_line) {
            refused_ = 400;
        }
        if (refused_ != 0 || end == std::string_view::npos) {
            return false;
        }
        if (line_.size() < 2 || line_[line_.size() - 2] != '\r') {
            refused_ = 400;
            return false;
        }
        line_.resize(line_.size() - 2);
        finish_line();
        line_.clear();
        return refused_ == 0;
    }

    void finish_line() {
        switch (state_) {
            case state::size: {
                const std::size_t extension = std::min(line_.find(';'), line_.size());
                const std::string_view digits = detail::trimmed(std::string_view(line_).substr(0, extension));
                if (digits.size() > 15 || !detail::number(digits, 16, left_) ||
                    !detail::all(line_, detail::field) || line_[0] == ' ' || line_[0] == '\t') {
                    refused_ = 400;
                }
                count_besides(line_.size() - extension);
                state_ = left_ != 0 ? state::data : state::trailer;
                break;
            }
            case state::end_of_data:
                refused_ = line_.empty() ? 0 : 400;
                state_ = state::size;
                break;
            default:  // a trailer is read, and left
                count_besides(line_.size());
                if (!detail::all(line_, detail::field)) {
                    refused_ = 400;
                }
                state_ = line_.empty() ? state::done : state::trailer;
        }
    }

    /// Extensions and trailers are nobody's: a peer may send as much of them as of a head.
    void count_besides(std::size_t bytes) noexcept {
        besides_ += bytes;
        if (refused_ == 0 && besides_ > bounds_.head_bytes) {
            refused_ = 431;
        }
    }

    static constexpr std::size_t most_of_a_line = 1024;

    limits bounds_;
    std::uint64_t left_ = 0;
    std::size_t besides_ = 0;
    int refused_ = 0;
    state state_;
    std::string line_;
};

}  // namespace httpd
