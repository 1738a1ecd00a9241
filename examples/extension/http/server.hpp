// An HTTP/1.1 server of coroutines: one a connection, on the loop that calls listen(). It knows no Python.
//
// A request whose route is a function of C++ is answered where it was received, without a copy and without an
// await; pipelined ones in one send. One with a body, or a route that waits, gets memory of its own. What is
// slow is looked for four times in the shortest of the timeouts, for all connections at once: so a request
// costs no timer.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <ctime>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <zloop/zloop.hpp>

#include "parser.hpp"

namespace httpd {

using zloop::task;

/// How long a peer may take; each is at least 1 ms.
struct timeouts {
    zloop::nanoseconds head = std::chrono::seconds(10);   ///< from its first byte to its last; then 408
    zloop::nanoseconds body = std::chrono::seconds(30);   ///< the same; then 408
    zloop::nanoseconds write = std::chrono::seconds(30);  ///< to take what is sent at once
    zloop::nanoseconds idle = std::chrono::seconds(75);   ///< between two requests
};

/// A request that lives as long as somebody has it.
struct request {
    std::string text;  // what `first` points into
    head first;
    std::string body;
};

inline constexpr std::string_view plain_text = "text/plain; charset=utf-8";

struct response {
    int status = 200;
    std::string type{plain_text};  ///< Content-Type; empty: none
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;
};

/// Answers at once: nothing of `asked` is kept. An exception is 500, and goes to the loop's failure hook.
using plain_handler = std::function<void(const head& asked, response& answer)>;
/// Answers in its time.
using waiting_handler = std::function<task<response>(std::shared_ptr<const request> asked)>;
/// The same answer for all, made once; but for its date.
struct fixed_answer {
    explicit fixed_answer(response given);

    response whole;
    std::string before_date, after_date;
};
using handler = std::variant<plain_handler, waiting_handler, fixed_answer>;

inline std::string_view reason_of(int status) noexcept {
    switch (status) {
        case 200: return "OK";
        case 201: return "Created";
        case 202: return "Accepted";
        case 204: return "No Content";
        case 301: return "Moved Permanently";
        case 302: return "Found";
        case 303: return "See Other";
        case 304: return "Not Modified";
        case 400: return "Bad Request";
        case 401: return "Unauthorized";
        case 403: return "Forbidden";
        case 404: return "Not Found";
        case 405: return "Method Not Allowed";
        case 408: return "Request Timeout";
        case 409: return "Conflict";
        case 413: return "Content Too Large";
        case 414: return "URI Too Long";
        case 417: return "Expectation Failed";
        case 422: return "Unprocessable Content";
        case 429: return "Too Many Requests";
        case 431: return "Request Header Fields Too Large";
        case 500: return "Internal Server Error";
        case 501: return "Not Implemented";
        case 503: return "Service Unavailable";
        case 505: return "HTTP Version Not Supported";
        default: return "Unknown";
    }
}

/// An answer that says what its status means.
inline response plain_response(int status) {
    response made;
    made.status = status;
    made.body.assign(reason_of(status)).append("\n");
    return made;
}

/// Appends an answer's first lines up to its date, and what comes behind it, but for the empty line.
inline void append_status(std::string& out, int status) {
    std::array<char, 12> digits;
    out.append("HTTP/1.1 ");
    out.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), status).ptr);
    out.append(" ").append(reason_of(status)).append("\r\nDate: ");
}
inline void append_headers(std::string& out, const response& said) {
    if (said.status != 204 && said.status != 304) {
        std::array<char, 20> digits;
        out.append("\r\nContent-Length: ");
        out.append(digits.data(),
                   std::to_chars(digits.data(), digits.data() + digits.size(), said.body.size()).ptr);
        if (!said.type.empty()) {
            out.append("\r\nContent-Type: ").append(said.type);
        }
    }
    for (const auto& [name, value] : said.headers) {
        out.append("\r\n").append(name).append(": ").append(value);
    }
}

/// Whether an answer says nothing that would be read as another one.
inline bool may_be_said(const response& said) noexcept {
    bool may_be = said.status >= 200 && said.status <= 599 && detail::all(said.type, detail::field);
    for (const auto& [name, value] : said.headers) {
        may_be = may_be && !name.empty() && detail::all(name, detail::token) &&
                 detail::all(value, detail::field) && !detail::is(name, "content-length") &&
                 !detail::is(name, "transfer-encoding") && !detail::is(name, "connection");
    }
    return may_be;
}

inline fixed_answer::fixed_answer(response given) : whole(std::move(given)) {
    if (!may_be_said(whole)) {
        throw std::invalid_argument("no such status, or a header that HTTP does not allow");
    }
    append_status(before_date, whole.status);
    append_headers(after_date, whole);
    after_date.append("\r\n\r\n").append(whole.status != 204 && whole.status != 304 ? whole.body : "");
}

class server : public std::enable_shared_from_this<server> {
public:
    server(limits bounds, timeouts patience) : bounds_(bounds), patience_(patience) {}

    /// Answers `method` of `path` from now on; HEAD is GET without its body. A path that ends in `/*` is all
    /// below it, the longest first. Before listen(): a request may be in a handler.
    void route(std::string method, std::string path, handler by) {
        if (is_serving_) {
            throw std::logic_error("routes are made before the server listens");
        }
        auto& ways =
            path.ends_with("/*") ? below_[path.substr(0, path.size() - 1)] : exactly_[std::move(path)];
        const auto known =
            std::find_if(ways.begin(), ways.end(), [&](auto& each) { return each.first == method; });
        if (known != ways.end()) {
            known->second = std::move(by);
        } else {
            ways.emplace_back(std::move(method), std::move(by));
        }
    }

    /// Listens at `where`, and serves on the loop of `here` until close(), or until its scope is cancelled.
    /// Gives the address; throws std::system_error.
    zloop::address listen(const zloop::context& here, const zloop::address& where) {
        zloop::loop& on = *here.on;
        if (is_serving_) {
            throw std::logic_error("the server listens already");
        }
        on_ = &on;
        now_ = on.now();
        make_date();
        listening_ = zloop::listener::bind(on, where).value();
        const zloop::address address = listening_.local_address();
        ended_.reset();
        is_draining_ = false;
        zloop::spawn(here, serve(shared_from_this()));
        is_serving_ = true;
        return address;
    }

    /// Accepts nothing more, ends idle connections, and waits for the others: each gets its answer, and ends;
    /// after `patience` what is left is cancelled.
    task<> close(zloop::nanoseconds patience) {
        if (!is_serving_) {
            co_return;
        }
        drain_until_ = on_->now() + std::max(patience, zloop::nanoseconds::zero());
        is_draining_ = true;
        if (accepting_ != nullptr) {
            accepting_->cancel();
        }
        (co_await ended_.wait()).value();
    }

    std::size_t connections() const noexcept { return connections_.size(); }
    std::uint64_t answered() const noexcept { return answered_; }

private:
    enum class phase : std::uint8_t { idle, head, body, handling, writing, leaving };

    /// What the server knows of a connection; in the frame of its coroutine.
    struct connection {
        connection(server& owner, zloop::stream& with, zloop::scope& within_scope)
            : home(owner), peer(with), within(within_scope), place(owner.connections_.size()) {
            home.connections_.push_back(this);
        }
        ~connection() {
            auto& all = home.connections_;
            all[place] = all.back();
            all[place]->place = place;
            all.pop_back();
            if (all.empty()) {
                home.emptied_.set();
            }
        }
        connection(const connection&) = delete;
        connection& operator=(const connection&) = delete;

        /// Until when; by the server's clock, which is as old as a tick.
        void enter(phase next, zloop::nanoseconds limit) noexcept {
            now = next;
            deadline = home.now_ + limit + home.tick();
        }

        server& home;
        zloop::stream& peer;
        zloop::scope& within;
        std::size_t place;      // in the server's list
        std::string in;         // received, and not taken yet
        std::size_t known = 0;  // of these, how many have no end of a head
        std::string out;        // to be sent
        head first;
        std::size_t head_bytes = 0;   // of a request that takes a wait
        const handler* by = nullptr;  // whose it is; null: refused
        response answer;
        phase now = phase::idle;
        zloop::time_point deadline{};
        bool ends = false;
    };

    static constexpr std::size_t most_unsent_bytes = 64 * 1024;

    zloop::nanoseconds tick() const noexcept {
        const auto shortest = std::min({patience_.head, patience_.body, patience_.write, patience_.idle});
        return std::clamp<zloop::nanoseconds>(shortest / 4, std::chrono::milliseconds(1),
                                              std::chrono::milliseconds(500));
    }

    // The server's life.

    task<> serve([[maybe_unused]] std::shared_ptr<server> alive) {
        const zloop::context here = co_await zloop::current_context();
        zloop::nursery children(here);
        zloop::job<> looking(here, look_for_slow_ones());
        {
            zloop::job<> accepting(here, accept(children));
            accepting_ = &accepting;
            if (is_draining_) {
                accepting.cancel();
            }
            co_await accepting.join();
            accepting_ = nullptr;
        }
        listening_ = {};
        for (connection* const each : connections_) {
            if (each->now == phase::idle) {
                each->within.cancel();
            }
        }
        emptied_.reset();
        if (!connections_.empty()) {
            static_cast<void>(co_await zloop::with_deadline(drain_until_, empties()));
        }
        children.cancel();
        co_await children.join();
        looking.cancel();
        co_await looking.join();
        is_serving_ = false;
        ended_.set();
    }

    task<zloop::result<void>> empties() { co_return co_await emptied_.wait(); }

    task<> accept(zloop::nursery& children) {
        for (;;) {
            auto came = co_await listening_.accept();
            if (came) {
                static_cast<void>(came->socket.set_no_delay(true));
                try {
                    children.spawn(talk(std::move(came->socket)));
                } catch (const std::bad_alloc&) {  // this one is left: others may be served
                }
                continue;
            }
            const std::error_code why = came.error();
            if (why == std::errc::operation_canceled || why == std::errc::bad_file_descriptor) {
                co_return;
            }
            if (why != std::errc::connection_aborted) {  // no descriptors, or no memory: later there may be
                if (!co_await zloop::sleep_for(std::chrono::milliseconds(100))) {
                    co_return;
                }
            }
        }
    }

    task<> look_for_slow_ones() {
        for (;;) {
            const auto slept = co_await zloop::sleep_for(tick());
            if (!slept) {
                co_return;
            }
            now_ = on_->now();
            make_date();
            for (connection* const each : connections_) {
                if (each->now != phase::handling && each->deadline < now_ && !each->within.cancelled()) {
                    if (each->now == phase::head || each->now == phase::body) {
                        each->ends = true;
                        refuse(*each, 408);
                        const iovec whole{each->out.data(), each->out.size()};
                        static_cast<void>(each->peer.try_send(std::span(&whole, 1)));
                    }
                    each->within.cancel();
                }
            }
        }
    }

    // A connection's life.

    task<> talk(zloop::stream peer) {
        connection self(*this, peer, *(co_await zloop::current_context()).within);
        try {
            self.enter(phase::idle, patience_.head);
            self.ends = is_draining_;
            while (!self.ends) {
                auto came = co_await peer.receive();
                if (!came || came->empty()) {
                    co_return;
                }
                std::string_view bytes = zloop::as_text(*came);  // lent, until the next await
                bool is_lent = self.in.empty();
                if (!is_lent) {
                    self.in.append(bytes);
                    bytes = self.in;
                }
                for (step next = answer_all(self, bytes); next != step::receive;
                     next = answer_all(self, bytes)) {
                    keep(self, bytes, std::exchange(is_lent, false));
                    bool goes_on = false;
                    if (next == step::flush) {
                        goes_on = co_await flush(self);
                    } else {
                        goes_on = co_await exchange(self);
                    }
                    if (!goes_on) {
                        co_return;
                    }
                    bytes = self.in;
                }
                keep(self, bytes, is_lent);
                if (!self.out.empty() && !sends_at_once(self)) {
                    const bool goes_on = co_await flush(self);
                    if (!goes_on) {
                        co_return;
                    }
                }
                rest(self);
            }
            co_await leave(self);
        } catch (...) {  // no memory, say: it ends this connection
            if (!self.within.cancelled()) {
                on_->report(std::current_exception());
            }
        }
    }

    /// What is to be done before there is more to answer.
    enum class step : std::uint8_t { receive, flush, exchange };

    /// Answers what is whole in `bytes`, and needs no wait; takes it away from them. Awaits nothing, and
    /// copies nothing of them.
    step answer_all(connection& self, std::string_view& bytes) {
        while (!self.ends && !bytes.empty()) {
            if (self.known < 2 && bytes.starts_with("\r\n")) {  // RFC 9112, 2.2
                self.known = 0;
                bytes.remove_prefix(2);
                continue;
            }
            const parsed found = find_head(bytes, self.known, bounds_);
            if (found.taken == 0 && found.refused == 0) {
                self.known = bytes.size();
                return step::receive;
            }
            self.known = 0;
            const int refused = found.refused != 0
                                    ? found.refused
                                    : parse_head(bytes.substr(0, found.taken), self.first, bounds_);
            if (refused != 0) {
                refuse(self, refused);
                return step::receive;
            }
            self.by = find(self);
            if (self.by != nullptr) {
                if (self.first.has_body() || std::holds_alternative<waiting_handler>(*self.by)) {
                    self.head_bytes = found.taken;
                    return step::exchange;
                }
                answer_at_once(self);
            }
            bytes.remove_prefix(found.taken);
            if (self.out.size() > most_unsent_bytes) {
                return step::flush;
            }
        }
        return step::receive;
    }

    /// Keeps what is left, which is lent or a part of what was kept.
    static void keep(connection& self, std::string_view left, bool is_lent) {
        if (!is_lent) {
            self.in.erase(0, self.in.size() - left.size());
        } else if (!left.empty()) {
            self.in.assign(left);
        }
    }

    /// Until the next byte.
    void rest(connection& self) {
        if (self.in.empty()) {
            self.enter(phase::idle, patience_.idle);
            self.ends = self.ends || is_draining_;
        } else if (self.now != phase::head) {
            self.enter(phase::head, patience_.head);
        }
    }

    /// Reads the body of the request at the begin of `in`, and answers. False: the peer has gone, or is too
    /// slow.
    task<bool> exchange(connection& self) {
        auto asked = std::make_shared<request>();
        asked->text = self.in.substr(0, self.head_bytes);
        self.in.erase(0, self.head_bytes);
        static_cast<void>(parse_head(asked->text, asked->first, bounds_));
        body_reader reading(asked->first, bounds_);
        if (!reading.is_done()) {
            self.enter(phase::body, patience_.body);
            if (asked->first.expects_continue && self.in.empty()) {
                self.out += "HTTP/1.1 100 Continue\r\n\r\n";
            }
            if (!self.out.empty() && !co_await flush(self)) {
                co_return false;
            }
            self.enter(phase::body, patience_.body);
        }
        while (!reading.is_done()) {
            std::string_view bytes = self.in;
            const bool is_kept = !bytes.empty();
            if (!is_kept) {
                auto came = co_await self.peer.receive();
                if (!came || came->empty()) {
                    co_return false;
                }
                bytes = zloop::as_text(*came);
            }
            const parsed fed = reading.feed(bytes, asked->body);
            if (fed.refused != 0) {
                self.in.clear();
                refuse(self, fed.refused);
                co_return true;
            }
            is_kept ? static_cast<void>(self.in.erase(0, fed.taken))
                    : static_cast<void>(self.in.assign(bytes.substr(fed.taken)));
        }
        const auto* const waits = std::get_if<waiting_handler>(self.by);
        if (waits == nullptr) {
            self.first = asked->first;
            answer_at_once(self);
            co_return true;
        }
        if (!self.out.empty() && !co_await flush(self)) {  // nobody waits for what was asked behind
            co_return false;
        }
        self.now = phase::handling;
        self.answer = {};
        try {
            self.answer = co_await (*waits)(asked);
        } catch (...) {
            if (self.within.cancelled()) {
                co_return false;
            }
            on_->report(std::current_exception());
            self.answer = plain_response(500);
        }
        self.first = asked->first;
        send(self);
        co_return true;
    }

    void answer_at_once(connection& self) {
        if (const auto* const fixed = std::get_if<fixed_answer>(self.by);
            fixed != nullptr && self.first.keeps_alive && !is_draining_ && self.first.method == "GET") {
            self.out.append(fixed->before_date).append(date_).append(fixed->after_date);
            ++answered_;
            return;
        }
        try {
            if (const auto* const fixed = std::get_if<fixed_answer>(self.by)) {
                self.answer = fixed->whole;
            } else {
                self.answer.status = 200;
                self.answer.type.assign(plain_text);
                self.answer.headers.clear();
                self.answer.body.clear();
                std::get<plain_handler> (*self.by)(self.first, self.answer);
            }
        } catch (...) {
            on_->report(std::current_exception());
            self.answer = plain_response(500);
        }
        send(self);
    }

    /// The route of a request; null: it was refused, and is over if it has no body.
    const handler* find(connection& self) {
        const head& asked = self.first;
        const auto* ways = [&]() -> const methods* {
            if (const auto found = exactly_.find(asked.path); found != exactly_.end()) {
                return &found->second;
            }
            std::string_view folder = asked.path;
            while (!below_.empty() && !folder.empty()) {
                folder = folder.substr(0, folder.rfind('/') + 1);
                if (const auto found = below_.find(folder); found != below_.end()) {
                    return &found->second;
                }
                folder.remove_suffix(folder.empty() ? 0 : 1);
            }
            return nullptr;
        }();
        if (ways != nullptr) {
            const std::string_view method = asked.method == "HEAD" ? "GET" : asked.method;
            for (const auto& [known, by] : *ways) {
                if (known == method) {
                    return &by;
                }
            }
        }
        self.answer = plain_response(ways == nullptr ? 404 : 405);
        if (ways != nullptr) {
            std::string allowed;
            for (const auto& [method, each] : *ways) {
                allowed.append(allowed.empty() ? "" : ", ")
                    .append(method)
                    .append(method == "GET" ? ", HEAD" : "");
            }
            self.answer.headers.emplace_back("Allow", std::move(allowed));
        }
        self.first.keeps_alive = asked.keeps_alive && !asked.has_body();
        send(self);
        return nullptr;
    }

    void refuse(connection& self, int status) {
        self.answer = plain_response(status);
        self.first.method = "";
        self.first.keeps_alive = false;
        send(self);
    }

    // Answers.

    /// Appends the answer to what is to be sent. What it must not say is 500 instead: a handler that puts a
    /// peer's words into a header writes no second answer.
    void send(connection& self) {
        response& said = self.answer;
        if (!may_be_said(said)) {
            said = plain_response(500);
        }
        self.ends = self.ends || !self.first.keeps_alive || is_draining_;
        append_status(self.out, said.status);
        self.out.append(date_);
        append_headers(self.out, said);
        self.out.append(self.ends ? "\r\nConnection: close\r\n\r\n" : "\r\n\r\n");
        if (said.status != 204 && said.status != 304 && self.first.method != "HEAD") {
            self.out.append(said.body);
        }
        ++answered_;
    }

    /// RFC 9110, 5.6.7; made at each tick, which is half a second at most.
    void make_date() {
        const std::time_t now = std::time(nullptr);
        if (now == dated_) {
            return;
        }
        dated_ = now;
        std::tm parts{};
        ::gmtime_r(&dated_, &parts);
        constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                          "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        std::array<char, 64> text;
        const int size = std::snprintf(text.data(), text.size(), "%s, %02d %s %d %02d:%02d:%02d GMT",
                                       days[parts.tm_wday], parts.tm_mday, months[parts.tm_mon],
                                       parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
        date_.assign(text.data(), static_cast<std::size_t>(size));
    }

    /// Whether the kernel has taken all that is to be sent; else what is left stays there.
    static bool sends_at_once(connection& self) {
        const iovec whole{self.out.data(), self.out.size()};
        const auto sent = self.peer.try_send(std::span(&whole, 1));
        if (sent && *sent == self.out.size()) {
            self.out.clear();
            return true;
        }
        self.out.erase(0, sent ? *sent : 0);
        return false;
    }

    task<bool> flush(connection& self) {
        const phase before = self.now;
        const zloop::time_point deadline = self.deadline;
        self.enter(phase::writing, patience_.write);
        const bool sent = !(co_await zloop::write_all(self.peer, zloop::bytes_of(self.out))).error();
        self.out.clear();
        self.now = before;
        self.deadline = deadline;
        co_return sent;
    }

    /// Ends our half, and reads what the peer still sends: else its kernel might throw our last words away.
    task<> leave(connection& self) {
        self.enter(phase::leaving, std::min<zloop::nanoseconds>(patience_.write, std::chrono::seconds(2)));
        if (!self.peer.shutdown(zloop::direction::write)) {
            co_return;
        }
        for (std::size_t left = 1 << 20; left > 0;) {
            const auto came = co_await self.peer.receive();
            if (!came || came->empty()) {
                co_return;
            }
            left -= std::min(left, came->size());
        }
    }

    struct by_text {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept {
            return std::hash<std::string_view>()(text);
        }
    };
    template <class T>
    using text_map = std::unordered_map<std::string, T, by_text, std::equal_to<>>;
    using methods = std::vector<std::pair<std::string, handler>>;  // few: a search is faster than a hash

    limits bounds_;
    timeouts patience_;
    text_map<methods> exactly_, below_;
    zloop::loop* on_ = nullptr;
    zloop::listener listening_;
    zloop::job<>* accepting_ = nullptr;
    zloop::event emptied_, ended_;
    std::vector<connection*> connections_;
    zloop::time_point now_{}, drain_until_{};
    bool is_serving_ = false;
    bool is_draining_ = false;
    std::uint64_t answered_ = 0;
    std::time_t dated_ = 0;
    std::string date_;
};

}  // namespace httpd
