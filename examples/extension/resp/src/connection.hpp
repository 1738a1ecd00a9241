// connection.hpp: one connection to a server, that any number of tasks use at the same time.
//
// Two tasks of its own serve it, until it is lost: one writes what the tasks of a turn have asked for, in one
// send; one reads, and gives each reply to who has waited longest. Who is cancelled while he waits leaves a
// place behind that takes his reply. The connection is shared by its users and these two; it is lost once,
// and for good: somebody makes another one.
//
// All of it belongs to the loop's thread, but abandon().
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zloop/channel.hpp>
#include <zloop/connect.hpp>
#include <zloop/job.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>

#include "reply.hpp"

namespace resp {

using zloop::result;
using zloop::task;

/// Where a server is, and as whom to speak to it.
struct endpoint {
    std::string host = "127.0.0.1";
    std::uint16_t port = 6379;
    std::string path;  ///< of a Unix socket, in place of host and port
    std::string username;
    std::string password;
    std::string name;  ///< by which CLIENT LIST shows the connection
    std::int64_t database = 0;
    limits allowed = {};
};

/// A server's answer that is an error, as an exception.
class reply_error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class connection : public std::enable_shared_from_this<connection> {
public:
    /// Connects and says hello. The two tasks begin.
    ///
    /// `pushes`, where there is one, gets the messages of subscriptions; it is closed when the connection is
    /// lost.
    ///
    /// Fails:     throws what zloop::connect() gives, reply_error where the server refuses, protocol_error
    /// where
    ///            it speaks no RESP3.
    /// Cancelled: nothing is left open.
    static task<std::shared_ptr<connection>> open(endpoint to,
                                                  std::shared_ptr<zloop::channel<reply>> pushes = nullptr);

    connection(zloop::loop& on, zloop::stream socket, const limits& allowed,
               std::shared_ptr<zloop::channel<reply>> pushes)
        : on_(on), socket_(std::move(socket)), inbox_(allowed), pushes_(std::move(pushes)) {}
    connection(const connection&) = delete;
    connection& operator=(const connection&) = delete;

    /// Waits for the replies of commands.
    ///
    /// Completes: with them in `into`, in order.
    /// Fails:     with the reason when the connection is lost first; `may_be_done()` says whether the server
    ///            may have had the commands. `operation_canceled`.
    /// Cancelled: leaves at once. The commands may be done all the same, and their replies are dropped.
    /// Owns:      nothing: the connection and `into` stay; the commands until it has been suspended.
    class [[nodiscard]] exchange : zloop::parked {
    public:
        exchange(connection& with, std::string_view commands, std::span<reply> into)
            : parked(&exchange::withdraw), with_(with), commands_(commands), into_(into) {}

        bool await_ready() noexcept {
            error_ = with_.lost_;
            return with_.is_lost();
        }
        template <zloop::task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, zloop::site where = zloop::site::current()) {
            with_.reserve(commands_.size());  // once it is parked nothing may throw
            if (!park(caller, "a reply of Redis", where)) {
                with_.places_.pop_back();
                return false;
            }
            place_ = with_.queue(*this, commands_, into_.size());
            return true;
        }
        result<void> await_resume() const noexcept { return error_ ? result<void>(error_) : outcome(); }

        bool may_be_done() const noexcept { return may_be_done_; }

    private:
        friend connection;

        static void withdraw(parked& self) noexcept {
            auto& leaving = static_cast<exchange&>(self);
            leaving.with_.leave(leaving.place_);
            leaving.may_be_done_ = true;
        }
        /// A reply; the last one wakes.
        void take(reply&& came) noexcept {
            into_[taken_++] = std::move(came);
            if (taken_ == into_.size()) {
                wake();
            }
        }
        void fail(std::error_code why, bool may_be_done) noexcept {
            error_ = why;
            may_be_done_ = may_be_done;
            wake();
        }

        connection& with_;
        std::string_view commands_;
        std::span<reply> into_;
        std::size_t taken_ = 0;
        std::uint64_t place_ = 0;
        std::error_code error_;
        bool may_be_done_ = false;
    };

    zloop::loop& home() const noexcept { return on_; }
    bool is_lost() const noexcept { return static_cast<bool>(lost_); }
    /// Throws what failed with `why` here, in words.
    [[noreturn]] void fail(std::error_code why) const;
    /// Whether replies are to come.
    bool is_busy() const noexcept { return !places_.empty(); }

    /// Ends the connection: whoever waits for a reply fails with `why`. In the loop's thread.
    void lose(std::error_code why) noexcept;

    /// Waits until its two tasks have ended, once it is lost.
    [[nodiscard]] auto ended() noexcept { return ended_.wait(); }

    /// The same as lose(), from any thread that may use the loop's memory at this moment, and without a turn
    /// of the loop: for who drops it in a destructor. Nothing after its loop has ended.
    void abandon() noexcept {
        if (!is_lost() && !std::exchange(farewell_.is_posted, true)) {
            farewell_.of = shared_from_this();
            on_.post(farewell_);
        }
    }

private:
    /// Who waits for the replies of commands; or nobody does any more.
    struct place {
        exchange* who;
        std::size_t left;
        std::uint64_t begin;  // of its commands, in all that is to be sent
    };
    struct farewell : zloop::op {
        farewell() noexcept : op(&farewell::say) {}
        static void say(zloop::op& node) noexcept {
            const auto of = std::move(static_cast<farewell&>(node).of);
            of->lose(std::make_error_code(std::errc::connection_aborted));
        }
        std::shared_ptr<connection> of;
        bool is_posted = false;
    };

    /// Room for commands, and a place that queue() fills.
    void reserve(std::size_t bytes) {
        out_.reserve(out_.size() + bytes);
        places_.emplace_back();
    }
    std::uint64_t queue(exchange& who, std::string_view commands, std::size_t replies) noexcept {
        places_.back() = {&who, replies, queued_};
        queued_ += commands.size();
        out_ += commands;
        wanted_.set();
        return first_ + places_.size() - 1;
    }
    void leave(std::uint64_t at) noexcept { places_[at - first_].who = nullptr; }

    /// Whether a push is a message, and not the answer to a subscription.
    static bool is_message(const reply& push) {
        cursor elements(push.bytes());
        const bool has_name = elements.next().size != 0;
        const std::string_view name = has_name ? elements.next().text : std::string_view();
        return name == "message" || name == "pmessage" || name == "smessage";
    }

    static task<> write(std::shared_ptr<connection> self);
    static task<> read(std::shared_ptr<connection> self);
    task<> read_all();
    void deliver(reply&& next);
    task<> greet(endpoint to);

    zloop::loop& on_;
    zloop::stream socket_;
    inbox inbox_;
    std::string out_;           // what the next send sends
    zloop::event wanted_;       // there is something to send, or the connection is lost
    std::uint64_t queued_ = 0;  // bytes of all commands
    std::uint64_t sent_ = 0;    // of these, those that the kernel has or may have
    std::deque<place> places_;
    std::uint64_t first_ = 0;  // the number of the first of them
    std::shared_ptr<zloop::channel<reply>> pushes_;
    std::error_code lost_;
    std::string complaint_;
    zloop::latch ended_{2};
    farewell farewell_;
};

inline void connection::lose(std::error_code why) noexcept {
    if (is_lost()) {
        return;
    }
    lost_ = why;
    socket_.close();
    wanted_.set();
    if (pushes_) {
        pushes_->close();
    }
    for (const place& each : places_) {
        if (each.who != nullptr) {
            each.who->fail(why, each.begin < sent_);
        }
    }
    first_ += places_.size();
    places_.clear();
}

inline task<> connection::write(std::shared_ptr<connection> self) {
    std::string sending;
    while (!self->is_lost()) {
        if (self->out_.empty()) {
            // Set by the first of a turn, it is seen in the next one: all of a turn are sent together.
            if (const auto wanted = co_await self->wanted_.wait(); !wanted) {
                self->lose(wanted.error());
            }
            self->wanted_.reset();
            continue;
        }
        std::swap(sending, self->out_);
        self->sent_ += sending.size();  // from here on nobody knows what of it the server has had
        for (std::size_t done = 0; done < sending.size();) {
            auto [error, count] =
                co_await self->socket_.send(zloop::bytes_of(std::string_view(sending).substr(done)));
            if (error) {
                self->lose(error);
                break;
            }
            done += count;
        }
        constexpr std::size_t kept_bytes = 64 * 1024;
        if (sending.capacity() > kept_bytes) {
            sending = std::string();
        }
        sending.clear();
    }
    self->ended_.count_down();
}

inline task<> connection::read(std::shared_ptr<connection> self) {
    try {
        co_await self->read_all();
    } catch (const protocol_error& error) {
        self->complaint_ = error.what();
        self->lose(std::make_error_code(std::errc::protocol_error));
    } catch (const std::bad_alloc&) {
        self->lose(std::make_error_code(std::errc::not_enough_memory));
    }
    self->ended_.count_down();
}

inline task<> connection::read_all() {
    while (!is_lost()) {
        std::error_code error;
        std::size_t count = 0;
        if (inbox_.is_within_reply()) {
            auto came = co_await socket_.recv(std::as_writable_bytes(inbox_.room()));
            error = came.error();
            count = error ? 0 : *came;
            inbox_.fill(count);
        } else {
            auto came = co_await socket_.receive();  // borrowed: an idle connection has no memory
            error = came.error();
            count = error ? 0 : came->size();
            if (count != 0) {
                inbox_.add(zloop::as_text(*came));
            }
        }
        if (count == 0) {
            lose(error ? error : std::make_error_code(std::errc::connection_reset));
            co_return;
        }
        reply next;
        while (!is_lost() && inbox_.take(next)) {
            if (next.of() != kind::push) {
                deliver(std::move(next));
            } else if (pushes_ && is_message(next)) {
                static_cast<void>(co_await pushes_->send(std::move(next)));  // waits while it is full
            }
        }
    }
}

/// Gives a reply to who has waited longest.
inline void connection::deliver(reply&& next) {
    if (places_.empty()) {
        throw protocol_error("a reply that nobody has asked for");
    }
    place& oldest = places_.front();
    const bool is_last = --oldest.left == 0;
    if (oldest.who != nullptr) {
        oldest.who->take(std::move(next));
    }
    if (is_last) {
        places_.pop_front();
        ++first_;
    }
}

inline task<> connection::greet(endpoint to) {
    std::vector<std::string_view> hello{"HELLO", "3"};
    if (!to.username.empty() || !to.password.empty()) {
        hello.insert(hello.end(), {"AUTH", to.username.empty() ? "default" : to.username, to.password});
    }
    if (!to.name.empty()) {
        hello.insert(hello.end(), {"SETNAME", to.name});
    }
    std::string commands = encoded(hello);
    std::size_t count = 1;
    const std::string database = std::to_string(to.database);
    if (to.database != 0) {
        commands += encoded(std::array<std::string_view, 2>{"SELECT", database});
        ++count;
    }
    std::array<reply, 2> replies;
    exchange asking(*this, commands, std::span(replies).first(count));
    const auto outcome = co_await asking;
    if (!outcome) {
        fail(outcome.error());
    }
    const std::string said(replies[0].text());
    if (replies[0].is_error() && (said.starts_with("NOPROTO") || said.starts_with("ERR unknown command"))) {
        throw protocol_error("the server speaks no RESP3, as Redis does from 6.0 on: " + said);
    }
    for (const reply& each : replies) {
        if (each.is_error()) {
            throw reply_error(std::string(each.text()));
        }
    }
    if (replies[0].of() != kind::map) {
        throw protocol_error("HELLO was not answered as RESP3 has it");
    }
}

inline void connection::fail(std::error_code why) const {
    if (why == std::errc::protocol_error && !complaint_.empty()) {
        throw protocol_error(complaint_);
    }
    if (why == std::errc::operation_canceled) {
        throw std::system_error(why);
    }
    throw std::system_error(why, "the connection to Redis was lost");
}

inline task<std::shared_ptr<connection>> connection::open(endpoint to,
                                                          std::shared_ptr<zloop::channel<reply>> pushes) {
    const zloop::context here = co_await zloop::current_context();
    zloop::stream socket;
    if (to.path.empty()) {
        zloop::connect_options how;
        how.socket.no_delay = true;
        socket = (co_await zloop::connect(to.host, to.port, how)).value();
        socket.set_keep_alive(std::chrono::seconds(60), std::chrono::seconds(10), 3).value();
    } else {
        socket = (co_await zloop::connect(zloop::address::local(to.path).value())).value();
    }
    const auto line =
        std::make_shared<connection>(*here.on, std::move(socket), to.allowed, std::move(pushes));
    try {
        zloop::spawn(*here.on, write(line));
        zloop::spawn(*here.on, read(line));
        co_await line->greet(std::move(to));
    } catch (...) {
        line->lose(std::make_error_code(std::errc::connection_aborted));
        throw;
    }
    co_return line;
}

}  // namespace resp
