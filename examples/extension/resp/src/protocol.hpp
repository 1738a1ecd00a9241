// protocol.hpp: RESP3, the language of Redis, in both directions. No I/O is in it, and no Python.
//
// A command is an array of strings. Replies come as a stream of bytes in pieces of any size: a scanner finds
// where each ends, looks at no byte twice, and refuses what is not RESP3 or beyond its limits before anybody
// gets memory for it. What it has let through a cursor reads, element by element, without looking again.
//
// https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace resp {

/// By the byte that each begins with.
enum class kind : char {
    text = '+',
    error = '-',
    number = ':',
    bytes = '$',
    array = '*',
    null = '_',
    boolean = '#',
    real = ',',
    big_number = '(',
    long_error = '!',
    verbatim = '=',
    map = '%',
    set = '~',
    attribute = '|',
    push = '>',
};

/// What came is not RESP3, or is beyond the limits: there is no way to find the next reply.
class protocol_error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// What a reply may have.
struct limits {
    std::size_t bytes = std::size_t{513} << 20;      ///< in all: Redis' own proto-max-bulk-len, and a little
    std::size_t line_bytes = std::size_t{64} << 10;  ///< in a line: a short text, an error, a number
    std::size_t depth = 32;                          ///< aggregates in each other
};

/// Appends a number of arguments, as the header of a command that has them; each follows by add_argument().
inline void add_header(std::string& to, char sign, std::size_t count) {
    char digits[24];
    digits[0] = sign;
    char* end = std::to_chars(digits + 1, digits + 22, count).ptr;
    *end++ = '\r';
    *end++ = '\n';
    to.append(digits, end);
}
inline void add_argument(std::string& to, std::string_view argument) {
    add_header(to, '$', argument.size());
    to += argument;
    to += "\r\n";
}

/// A command of these arguments, the first of which is its name.
template <class Arguments>
std::string encoded(const Arguments& arguments) {
    std::string made;
    add_header(made, '*', arguments.size());
    for (const std::string_view each : arguments) {
        add_argument(made, each);
    }
    return made;
}

namespace detail {

/// The number that a line is, all of it; false: it is none, or has no room in an int64.
inline bool read_number(std::string_view line, std::int64_t& number) {
    if (line.starts_with('+')) {
        line.remove_prefix(1);
        if (line.starts_with('-')) {
            return false;
        }
    }
    const char* const end = line.data() + line.size();
    const auto [stopped, error] = std::from_chars(line.data(), end, number);
    return error == std::errc() && stopped == end;
}

inline bool is_big_number(std::string_view line) {
    if (line.starts_with('-') || line.starts_with('+')) {
        line.remove_prefix(1);
    }
    return !line.empty() && line.find_first_not_of("0123456789") == line.npos;
}

/// Whether it has the form of a double: `1`, `-1.5`, `1e-7`, `inf`, `nan`.
inline bool is_real(std::string_view line) {
    if (line.starts_with('-') || line.starts_with('+')) {
        line.remove_prefix(1);
    }
    if (line == "inf" || line == "nan") {
        return true;
    }
    const auto digits = [&] {
        const std::size_t size = std::min(line.find_first_not_of("0123456789"), line.size());
        line.remove_prefix(size);
        return size != 0;
    };
    bool is_one = digits();
    if (line.starts_with('.')) {
        line.remove_prefix(1);
        is_one = digits() || is_one;
    }
    if (is_one && (line.starts_with('e') || line.starts_with('E'))) {
        line.remove_prefix(1);
        if (line.starts_with('-') || line.starts_with('+')) {
            line.remove_prefix(1);
        }
        is_one = digits();
    }
    return is_one && line.empty();
}

}  // namespace detail

/// Finds the end of a reply in bytes that come in pieces.
class scanner {
public:
    explicit scanner(const limits& allowed = {}) : allowed_(allowed) {}

    /// Looks on in `bytes`, which begin with the reply, and begin with what they were the last time.
    ///
    /// Gives:  the size of the reply, once it is there, and begins anew; 0 before.
    /// Throws: protocol_error; then, and whenever it is asked again.
    std::size_t scan(std::string_view bytes) {
        if (is_broken_) {
            refuse("nothing can be read behind what was refused");
        }
        is_broken_ = true;  // until this look has ended well
        while (next(bytes)) {
            if (is_whole_) {
                const std::size_t size = at_;
                const kind of = of_;
                *this = scanner(allowed_, std::move(open_));
                of_ = of;
                return size;
            }
        }
        is_broken_ = false;
        return 0;
    }

    /// Of the reply that scan() has found: what it is, attributes aside.
    kind found() const { return of_; }

    /// How many bytes are missing at least, after scan() has found no end.
    std::size_t missing() const { return missing_; }

private:
    /// An aggregate that is not complete.
    struct level {
        std::uint64_t left;  // elements; of a streamed one, those that have come
        kind of;
        bool is_streamed;
    };

    scanner(const limits& allowed, std::vector<level>&& room) : allowed_(allowed), open_(std::move(room)) {}

    [[noreturn]] static void refuse(const char* why) { throw protocol_error(why); }

    /// A step; false: more bytes are needed.
    bool next(std::string_view bytes) {
        if (body_ != 0) {
            return skip_body(bytes);
        }
        const std::size_t end = bytes.find('\n', searched_);
        const std::size_t size = (end == bytes.npos ? bytes.size() : end) - at_;
        if (size > allowed_.line_bytes) {
            refuse("a line is too long");
        }
        if (end == bytes.npos) {
            searched_ = bytes.size();
            missing_ = 1;
            return false;
        }
        const std::string_view line = bytes.substr(at_, size);
        if (size < 2 || line.find('\r') != size - 1) {
            refuse("a line does not end by CRLF");
        }
        at_ = searched_ = end + 1;
        check_size(0);
        read(line.front(), line.substr(1, size - 2));
        return true;
    }

    bool skip_body(std::string_view bytes) {
        if (bytes.size() - at_ < body_) {
            missing_ = body_ - (bytes.size() - at_);
            return false;
        }
        const std::string_view body = bytes.substr(at_, body_);
        if (!body.ends_with("\r\n")) {
            refuse("a string does not end by CRLF");
        }
        if (is_verbatim_ && (body.size() < 6 || body[3] != ':')) {
            refuse("a verbatim string does not begin with its format");
        }
        at_ = searched_ = at_ + body_;
        body_ = 0;
        is_verbatim_ = false;
        if (!is_chunked_) {
            end_value();
        }
        return true;
    }

    void read(char sign, std::string_view line) {
        std::int64_t number = 0;
        if (is_chunked_) {
            if (sign != ';' || !detail::read_number(line, number) || number < 0) {
                refuse("a streamed string has something else in it");
            }
            if (number != 0) {
                begin_body(number);
            } else {
                is_chunked_ = false;
                end_value();
            }
            return;
        }
        if (sign == '.') {
            end_streamed(line);
            return;
        }
        const kind of{sign};
        if (open_.empty() && of != kind::attribute) {
            of_ = of;
        }
        is_value_due_ = false;
        switch (of) {
            case kind::text:
            case kind::error: end_value(); return;
            case kind::number: check(detail::read_number(line, number), "no number"); return end_value();
            case kind::real: check(detail::is_real(line), "no double"); return end_value();
            case kind::big_number: check(detail::is_big_number(line), "no big number"); return end_value();
            case kind::boolean: check(line == "t" || line == "f", "no boolean"); return end_value();
            case kind::null: check(line.empty(), "no null"); return end_value();
            case kind::bytes:
            case kind::long_error:
            case kind::verbatim: begin_string(of, line); return;
            case kind::array:
            case kind::map:
            case kind::set:
            case kind::attribute:
            case kind::push: begin_aggregate(of, line); return;
        }
        refuse("a reply of an unknown type");
    }

    void begin_string(kind of, std::string_view line) {
        std::int64_t size = 0;
        if (of == kind::bytes && line == "?") {
            is_chunked_ = true;
        } else if (of == kind::bytes && line == "-1") {  // the null of RESP2, which some modules still have
            end_value();
        } else {
            check(detail::read_number(line, size) && size >= 0, "no size of a string");
            is_verbatim_ = of == kind::verbatim;
            begin_body(size);
        }
    }

    void begin_body(std::int64_t size) {
        check_size(static_cast<std::size_t>(size));
        body_ = static_cast<std::size_t>(size) + 2;
    }

    void begin_aggregate(kind of, std::string_view line) {
        if (of == kind::push && !open_.empty()) {
            refuse("a push inside of a reply");
        }
        if (of == kind::array && line == "-1") {
            end_value();
            return;
        }
        const bool is_streamed = line == "?";
        std::int64_t count = 0;
        if (is_streamed ? of == kind::push || of == kind::attribute
                        : !detail::read_number(line, count) || count < 0) {
            refuse("no size of an aggregate");
        }
        constexpr std::size_t least = 3;  // bytes of an element: "_\r\n"
        if (static_cast<std::uint64_t>(count) > allowed_.bytes / least) {
            refuse("an aggregate is too large");
        }
        const std::uint64_t elements =
            static_cast<std::uint64_t>(count) * (of == kind::map || of == kind::attribute ? 2 : 1);
        check_size(elements * least);
        if (!is_streamed && elements == 0) {
            is_value_due_ = of == kind::attribute;
            if (!is_value_due_) {
                end_value();
            }
            return;
        }
        if (open_.size() == allowed_.depth) {
            refuse("a reply is too deep");
        }
        open_.push_back({elements, of, is_streamed});
    }

    void end_streamed(std::string_view line) {
        if (!line.empty() || open_.empty() || !open_.back().is_streamed || is_value_due_) {
            refuse("an end of nothing");
        }
        if (open_.back().of == kind::map && open_.back().left % 2 != 0) {
            refuse("a map ends with a key");
        }
        open_.pop_back();
        end_value();
    }

    /// A value has ended, and with it, perhaps, what it is the last of.
    void end_value() {
        while (!open_.empty()) {
            level& around = open_.back();
            if (around.is_streamed) {
                ++around.left;
                return;
            }
            if (--around.left != 0) {
                return;
            }
            const bool is_attribute = around.of == kind::attribute;
            open_.pop_back();
            if (is_attribute) {
                is_value_due_ = true;  // what it is said of
                return;
            }
        }
        is_whole_ = true;
    }

    static void check(bool holds, const char* why) {
        if (!holds) {
            refuse(why);
        }
    }
    void check_size(std::size_t more) const {
        if (more > allowed_.bytes || at_ > allowed_.bytes - more) {
            refuse("a reply is too large");
        }
    }

    limits allowed_;
    std::vector<level> open_;
    std::size_t at_ = 0;        // where what is looked for begins
    std::size_t searched_ = 0;  // up to where there is no end of the line
    std::size_t body_ = 0;      // bytes of the string that begins there, with its CRLF
    std::size_t missing_ = 1;
    kind of_ = kind::null;
    bool is_verbatim_ = false;
    bool is_chunked_ = false;    // in a streamed string
    bool is_value_due_ = false;  // behind an attribute
    bool is_whole_ = false;
    bool is_broken_ = false;
};

/// Reads what a scanner has let through.
class cursor {
public:
    /// What an element begins with.
    struct token {
        kind of = kind::null;
        std::string_view text;   ///< a line, or a string's bytes
        std::uint64_t size = 0;  ///< of an aggregate: its elements, a pair of a map being one
        bool is_streamed = false;
    };

    /// Reads `whole`, which stays alive meanwhile.
    explicit cursor(std::string_view whole) : rest_(whole) {}

    /// The next element. Behind an aggregate's come its own; behind that of a streamed string its chunks.
    token next() {
        token read;
        const std::string_view line = take_line();
        read.of = kind{line.front()};
        read.text = line.substr(1);
        std::int64_t size = 0;
        switch (read.of) {
            case kind::bytes:
            case kind::long_error:
            case kind::verbatim:
            case kind::array:
            case kind::map:
            case kind::set:
            case kind::attribute:
            case kind::push:
                if (read.text == "?") {
                    read.is_streamed = true;
                    return read;
                }
                detail::read_number(read.text, size);
                if (size < 0) {
                    return {};
                }
                break;
            default: return read;
        }
        if (read.of == kind::bytes || read.of == kind::long_error || read.of == kind::verbatim) {
            read.text = take_body(static_cast<std::size_t>(size));
        } else {
            read.size = static_cast<std::uint64_t>(size);
        }
        return read;
    }

    /// The next chunk of a streamed string; the empty one is its end.
    std::string_view chunk() {
        std::int64_t size = 0;
        detail::read_number(take_line().substr(1), size);
        return size == 0 ? std::string_view() : take_body(static_cast<std::size_t>(size));
    }

    /// Whether a streamed aggregate ends here; if so, goes on behind that.
    bool ends() {
        if (!rest_.starts_with('.')) {
            return false;
        }
        take_line();
        return true;
    }

private:
    std::string_view take_line() {
        const std::size_t end = rest_.find('\r');
        const std::string_view line = rest_.substr(0, end);
        rest_.remove_prefix(end + 2);
        return line;
    }
    std::string_view take_body(std::size_t size) {
        const std::string_view body = rest_.substr(0, size);
        rest_.remove_prefix(size + 2);
        return body;
    }

    std::string_view rest_;
};

}  // namespace resp
