// subscription.hpp: messages of channels, one after another, on a connection of their own.
//
// Where the connection is lost, another one subscribes again: what was published meanwhile is not told. Who
// is slow to take messages lets the server wait, which ends such a client in the end: what is kept here is
// bounded.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pool.hpp"

namespace resp {

/// What somebody has published.
/// Owns: what it was received in.
struct message {
    reply push;
    std::optional<std::string_view> pattern;  ///< that the channel matches; none: it was subscribed by name
    std::string_view channel;
    std::string_view data;
};

class subscription {
public:
    /// `commands` subscribe; they are answered by pushes.
    subscription(const dialer& by, std::string commands) : by_(by), commands_(std::move(commands)) {}
    subscription(const subscription&) = delete;
    subscription& operator=(const subscription&) = delete;
    ~subscription() {
        if (line_) {
            line_->abandon();
        }
    }

    /// Subscribes; once it has ended the server has confirmed that.
    task<> enter() {
        auto pushes = std::make_shared<zloop::channel<reply>>(most_waiting);
        line_ = co_await by_.dial(pushes);
        const auto made = line_;
        // Behind them something that has a reply: the first reply is that, or says what was refused.
        const std::string commands = commands_ + encoded(std::array<std::string_view, 1>{"PING"});
        reply answer;
        connection::exchange asking(*made, commands, {&answer, 1});
        const auto outcome = co_await asking;
        if (!outcome || answer.is_error() || is_closed_) {
            made->lose(std::make_error_code(std::errc::connection_aborted));
        }
        if (!outcome) {
            made->fail(outcome.error());
        }
        if (answer.is_error()) {
            throw reply_error(std::string(answer.text()));
        }
        pushes_ = std::move(pushes);
    }

    /// The next message; none once it was left. Who asks meanwhile gets the one after that.
    /// Fails: throws what dialing does, where the connection was lost and there is no other.
    task<std::optional<message>> next() {
        const auto held = (co_await taking_.lock()).value();
        while (!is_closed_) {
            if (!pushes_) {
                co_await enter();
                continue;
            }
            const auto from = pushes_;
            auto came = co_await from->receive();
            if (came) {
                co_return read(std::move(*came));
            }
            if (came.error() != zloop::errc::closed) {
                came.value();
            }
            pushes_ = nullptr;  // lost, or left
        }
        co_return std::nullopt;
    }

    /// Ends the connection. Who waits for a message gets none.
    task<> leave() {
        is_closed_ = true;
        pushes_ = nullptr;
        if (const auto ending = std::exchange(line_, nullptr)) {
            ending->lose(std::make_error_code(std::errc::connection_aborted));
            (co_await ending->ended()).value();
        }
    }

private:
    static constexpr std::size_t most_waiting = 1024;  // messages

    static message read(reply&& push) {
        cursor elements(push.bytes());
        const std::uint64_t count = elements.next().size;
        message made;
        const bool has_pattern = elements.next().text == "pmessage";
        if (count != (has_pattern ? 4 : 3)) {
            throw protocol_error("a message that is none");
        }
        if (has_pattern) {
            made.pattern = elements.next().text;
        }
        made.channel = elements.next().text;
        made.data = elements.next().text;
        made.push = std::move(push);
        return made;
    }

    dialer by_;
    std::string commands_;
    std::shared_ptr<connection> line_;
    std::shared_ptr<zloop::channel<reply>> pushes_;
    zloop::mutex taking_;
    bool is_closed_ = false;
};

}  // namespace resp
