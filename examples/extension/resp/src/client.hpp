// client.hpp: a client: one connection that all tasks share, others for who must be alone, and what becomes
// of commands when a connection is lost.
//
// A command is done at most once, unless doing it twice is as doing it once. One whose bytes were never given
// to the kernel is sent again by the next connection; of one that may have reached the server only what
// `repeatable` says is. All others fail, and who has sent them decides.
#pragma once

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pool.hpp"

namespace resp {

/// How a command is sent.
enum class manner {
    once,        ///< on the shared connection
    repeatable,  ///< on the shared connection, and again where that was lost: it only reads
    alone,       ///< on a connection of its own, as it waits in the server
};

/// Commands as they are sent.
struct request {
    std::string commands;
    std::size_t count = 1;
    manner how = manner::once;
};

/// Sends commands, and waits for their replies. Throws what the connection is lost by.
inline task<> ask(connection& line, std::string_view commands, std::span<reply> into) {
    connection::exchange asking(line, commands, into);
    const auto outcome = co_await asking;
    if (!outcome) {
        line.fail(outcome.error());
    }
}

/// A connection that one user has: what he does to it, such as WATCH, nobody else sees. Ended when he leaves.
class exclusive {
public:
    explicit exclusive(pool& of) : of_(of) {}
    exclusive(const exclusive&) = delete;
    exclusive& operator=(const exclusive&) = delete;
    ~exclusive() {
        if (lease_) {
            lease_->abandon();
        }
    }

    task<> enter() {
        if (lease_) {
            throw std::logic_error("the connection was entered already");
        }
        auto given = co_await of_.acquire();
        given.spoil();
        lease_.emplace(std::move(given));
    }
    task<> leave() {
        lease_.reset();
        co_return;
    }

    /// As the client's.
    template <class R>
    task<R> send(request asked) {
        reply got;
        co_await send_all(asked, {&got, 1});
        co_return R{std::move(got)};
    }
    template <class R>
    task<R> send_many(request asked) {
        std::vector<reply> got(asked.count);
        if (!got.empty()) {
            co_await send_all(asked, got);
        }
        co_return R{std::move(got)};
    }

private:
    task<> send_all(const request& asked, std::span<reply> into) {
        if (!lease_) {
            throw std::logic_error("the connection was not entered, or was left");
        }
        const std::shared_ptr<connection> line = lease_->line();  // whoever leaves meanwhile
        co_await ask(*line, asked.commands, into);
    }

    pool& of_;
    std::optional<pool::lease> lease_;
};

class client {
public:
    struct options {
        dialer by;
        std::size_t most_connections = 16;  ///< beside the shared one
    };

    explicit client(options given) : by_(std::move(given.by)), pool_(by_, given.most_connections) {}
    client(const client&) = delete;
    client& operator=(const client&) = delete;
    ~client() {
        if (line_) {
            line_->abandon();
        }
    }

    const dialer& by() const noexcept { return by_; }
    pool& others() noexcept { return pool_; }

    /// Sends one command. R is made of the reply.
    ///
    /// Fails:     throws std::system_error where the connection is lost or cannot be had, protocol_error.
    /// Cancelled: leaves at once; the command may be done all the same.
    template <class R>
    task<R> send(request asked) {
        reply got;
        co_await send_all(asked, {&got, 1});
        co_return R{std::move(got)};
    }

    /// Sends several, in one piece: nobody's commands come in between.
    template <class R>
    task<R> send_many(request asked) {
        std::vector<reply> got(asked.count);
        if (!got.empty()) {
            co_await send_all(asked, got);
        }
        co_return R{std::move(got)};
    }

    /// Ends all connections, and waits until they have. Who waits for a reply fails.
    task<> close() {
        const auto ending = std::exchange(line_, nullptr);
        if (ending) {
            ending->lose(std::make_error_code(std::errc::connection_aborted));
        }
        co_await pool_.close();
        if (ending) {
            (co_await ending->ended()).value();
        }
    }

private:
    task<> send_all(const request& asked, std::span<reply> into) {
        const zloop::context here = co_await zloop::current_context();
        if (asked.how == manner::alone) {
            const pool::lease given = co_await pool_.acquire();
            co_await ask(*given.line(), asked.commands, into);
            co_return;
        }
        for (unsigned attempts = by_.retry.retries;; --attempts) {
            if (!line_ || line_->is_lost() || &line_->home() != here.on) {
                co_await renew(here);
            }
            const std::shared_ptr<connection> line = line_;  // whatever becomes of line_
            connection::exchange asking(*line, asked.commands, into);
            const auto outcome = co_await asking;
            if (outcome) {
                co_return;
            }
            const bool may_repeat = asked.how == manner::repeatable || !asking.may_be_done();
            if (!line->is_lost() || pool_.is_closed() || here.within->cancelled() || attempts == 0 ||
                !may_repeat || outcome.error() == std::errc::protocol_error) {
                line->fail(outcome.error());
            }
        }
    }

    /// Makes the shared connection anew: one task does, the others wait for it.
    task<> renew(zloop::context here) {
        const auto held = (co_await renewing_.lock()).value();
        if (line_ && !line_->is_lost() && &line_->home() == here.on) {
            co_return;
        }
        pool_.check_open();
        if (line_) {
            line_->abandon();
            line_ = nullptr;
        }
        line_ = co_await by_.dial();
        if (pool_.is_closed()) {
            line_->lose(std::make_error_code(std::errc::connection_aborted));
        }
        pool_.check_open();
    }

    dialer by_;
    pool pool_;
    std::shared_ptr<connection> line_;  // the shared one
    zloop::mutex renewing_;
};

}  // namespace resp
