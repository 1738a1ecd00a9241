// pool.hpp: connections that one user has alone, for as long as he needs: to wait in the server (BLPOP), to
// watch keys. They are made when they are needed, up to a number; who comes then waits for one.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <zloop/sleep.hpp>
#include <zloop/sync.hpp>

#include "backoff.hpp"
#include "connection.hpp"

namespace resp {

/// Where to connect to, and how often to try.
struct dialer {
    endpoint to;
    backoff::policy retry;

    /// Connects; again while the server cannot be reached, as long as the policy has it.
    /// Fails: throws what the last attempt does. What a server says is final.
    task<std::shared_ptr<connection>> dial(std::shared_ptr<zloop::channel<reply>> pushes = nullptr) const {
        for (backoff waits(retry);;) {
            try {
                co_return co_await connection::open(to, pushes);
            } catch (const std::system_error& error) {
                if (waits.is_over() || error.code() == std::errc::operation_canceled) {
                    throw;
                }
            }
            (co_await zloop::sleep_for(waits.next())).value();
        }
    }
};

class pool {
public:
    pool(const dialer& by, std::size_t most) : by_(by), permits_(most) {}
    pool(const pool&) = delete;
    pool& operator=(const pool&) = delete;
    ~pool() {
        for (const auto& each : all_) {
            each->abandon();
        }
    }

    /// A connection, and the permit to have it. Its end gives it back, or ends it, if it is in the middle of
    /// something.
    class lease {
    public:
        explicit lease(pool& of) noexcept : of_(&of) {}
        lease(lease&& other) noexcept
            : of_(std::exchange(other.of_, nullptr)),
              line_(std::move(other.line_)),
              is_spoiled_(other.is_spoiled_) {}
        lease& operator=(lease&&) = delete;
        ~lease() { give_back(); }

        const std::shared_ptr<connection>& line() const noexcept { return line_; }
        /// It is in a state that is not for others.
        void spoil() noexcept { is_spoiled_ = true; }
        /// Ends the connection, from a destructor that Python calls.
        void abandon() noexcept {
            line_->abandon();
            std::erase(of_->all_, line_);
            line_.reset();
        }

    private:
        friend pool;
        void give_back() noexcept {
            if (pool* const of = std::exchange(of_, nullptr)) {
                if (line_ && (is_spoiled_ || line_->is_lost() || line_->is_busy())) {
                    line_->lose(std::make_error_code(std::errc::connection_aborted));  // now: it may wait
                    std::erase(of->all_, line_);
                } else if (line_) {
                    of->idle_.push_back(line_.get());
                }
                of->permits_.release();
            }
        }

        pool* of_;
        std::shared_ptr<connection> line_;
        bool is_spoiled_ = false;
    };

    /// Waits for a connection.
    /// Fails: throws what dialing does, operation_canceled.
    task<lease> acquire() {
        const zloop::context here = co_await zloop::current_context();
        (co_await permits_.acquire()).value();
        lease given(*this);
        check_open();
        while (!idle_.empty()) {
            connection* const last = idle_.back();
            idle_.pop_back();
            const auto found =
                std::find_if(all_.begin(), all_.end(), [&](const auto& each) { return each.get() == last; });
            if (!last->is_lost() && &last->home() == here.on) {
                given.line_ = *found;
                co_return given;
            }
            last->abandon();
            all_.erase(found);
        }
        given.spoil();  // until it is ours
        given.line_ = co_await by_.dial();
        check_open();
        all_.push_back(given.line_);
        idle_.reserve(all_.size());  // so that giving back cannot fail
        given.is_spoiled_ = false;
        co_return given;
    }

    bool is_closed() const noexcept { return is_closed_; }
    /// Throws where it is closed.
    void check_open() const {
        if (is_closed_) {
            throw std::system_error(std::make_error_code(std::errc::not_connected), "the client is closed");
        }
    }

    /// Ends all of them, those that are in use as well, and waits until they have ended. There are no more.
    task<> close() {
        is_closed_ = true;
        const auto ending = std::exchange(all_, {});
        idle_.clear();
        for (const auto& each : ending) {
            each->lose(std::make_error_code(std::errc::connection_aborted));
        }
        for (const auto& each : ending) {
            (co_await each->ended()).value();
        }
    }

private:
    const dialer& by_;
    zloop::semaphore permits_;
    std::vector<std::shared_ptr<connection>> all_;
    std::vector<connection*> idle_;  // of these
    bool is_closed_ = false;
};

}  // namespace resp
