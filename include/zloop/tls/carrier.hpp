// zloop/tls/carrier.hpp: a TLS engine on top of the stream that carries its bytes.
//
// Reading may have to send and sending may overlap with reading, so whoever waits for the peer's bytes also
// sends what is owed, beside, unless another task does so already; two peers that send at the same time never
// wait for each other. Bytes in flight are not touched: what is encrypted meanwhile is collected by the
// engine.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/job.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>
#include <zloop/tls/engine.hpp>

namespace zloop::detail {

template <byte_stream S>
class tls_carrier {
public:
    tls_carrier(S&& stream, tls::context with, tls_engine::role plays)
        : below(std::forward<S>(stream)), engine(std::move(with), plays) {}

    /// Calls `attempt` until it needs no more of the peer's bytes.
    template <class F>
    task<decltype(std::declval<F&>()())> until_done(F attempt) {
        const context here = co_await current_context();
        for (;;) {
            auto outcome = attempt();
            engine.keep();
            if (outcome.error() != std::errc::resource_unavailable_try_again) {
                if (!outcome && owes()) {  // what the peer is told of it; who does not read is not waited for
                    static_cast<void>(co_await with_timeout(std::chrono::seconds(1), flush()));
                }
                co_return outcome;
            }
            if (engine.owed() > most_owed) {  // by a peer that asks, and does not read the answers
                if (const auto sent = co_await flush(); sent.error() == std::errc::operation_canceled) {
                    co_return sent.error();
                }
            }
            const bool sends = owes() && writing_.try_lock();  // else who has the lock sends it
            scope waiting(here.within);
            const reader registered(*this, waiting);
            auto feeding = sends ? feed_beside_flush() : feed();
            const auto fed = co_await std::move(feeding).within(waiting);
            const bool begins_again = fed.error() == std::errc::operation_canceled && waiting.cancelled() &&
                                      !here.within->cancelled();
            if (!fed && !begins_again) {
                co_return fed.error();
            }
        }
    }

    task<result<std::size_t>> recv(std::span<std::byte> buffer) {
        if (buffer.empty()) {
            co_return std::size_t{0};
        }
        co_return co_await until_done([&] { return engine.read(buffer); });
    }

    task<result<std::size_t>> send(std::span<const std::byte> buffer) {
        const auto some = buffer.first(std::min(buffer.size(), most_at_once));
        return push([this, some] { return some.empty() ? result<std::size_t>(0) : engine.write(some); });
    }

    task<result<void>> finish() {
        return push([this] { return engine.close(); });
    }

    /// finish(), and then reads until the peer has said the same, or has gone.
    task<result<void>> say_goodbye() {
        auto outcome = co_await finish();
        for (std::array<std::byte, 1024> dropped; outcome;) {
            auto [error, count] = co_await recv(dropped);
            if (!error && count == 0) {
                break;
            }
            outcome = error;
            co_await next_turn();  // a peer that never ends does not keep the loop from its timers
        }
        const bool is_gone = outcome.error() == tls::errc::truncated ||
                             outcome.error() == std::errc::broken_pipe ||
                             outcome.error() == std::errc::connection_reset;
        co_return is_gone ? result<void>() : outcome;
    }

    /// Sends all that is owed.
    /// Fails: as the stream below does, and from then on always; `operation_canceled`: the rest is still
    /// owed.
    task<result<void>> flush() {
        auto [refused, held] = co_await writing_.lock();
        if (refused) {
            co_return leave(refused);
        }
        while (owes()) {
            if (left_.empty()) {
                leaving_ = engine.take_outgoing();
                left_ = leaving_;
            }
            result<std::size_t> sent(std::error_code{});
            try {
                sent = co_await below.send(left_);
            } catch (...) {
                if (!is_canceled(std::current_exception())) {
                    send_failure_ = std::make_error_code(std::errc::io_error);
                    throw;
                }
                sent = std::errc::operation_canceled;
            }
            if (sent.error() == std::errc::operation_canceled) {
                co_return leave(sent.error());
            }
            send_failure_ = sent.error();
            left_ = sent ? left_.subspan(*sent) : std::span<const std::byte>();
            if (left_.empty()) {
                leaving_ = {};
            }
        }
        co_return send_failure_;
    }

    S below;
    tls_engine engine;

private:
    static constexpr std::size_t most_at_once = 64 * 1024;  // bytes to encrypt before they are sent
    static constexpr std::size_t most_owed =
        2 * most_at_once;  // bytes, before no more of the peer's are read
    static constexpr std::size_t record_bytes = 5 + 16384 + 256;  // at most, RFC 8446 section 5.2

    /// The task that waits for the peer's bytes, while it does.
    class reader {
    public:
        reader(tls_carrier& of, scope& waiting) noexcept : of_(of) { of_.reader_ = &waiting; }
        reader(const reader&) = delete;
        reader& operator=(const reader&) = delete;
        ~reader() {
            of_.reader_ = nullptr;
            of_.progress_.set();
        }

    private:
        tls_carrier& of_;
    };

    /// Whether something has to be sent, and can be.
    bool owes() const noexcept { return !send_failure_ && (engine.owed() != 0 || !left_.empty()); }

    /// A flush that is cancelled leaves what it had to whoever waits for the peer, and begins again with it.
    std::error_code leave(std::error_code canceled) noexcept {
        if (reader_ != nullptr && owes()) {
            reader_->cancel();
        }
        return canceled;
    }

    /// Sends what was owed, has the engine do its part, and sends what comes of that. From then on it is
    /// done: to cancel what is left of sending does not undo it.
    template <class F>
    task<decltype(std::declval<F&>()())> push(F attempt) {
        if (const auto sent = co_await flush(); !sent) {
            co_return sent.error();
        }
        auto outcome = attempt();
        while (outcome.error() == std::errc::resource_unavailable_try_again) {
            // A message of the peer has come in part, and has to be read first.
            if (reader_ == nullptr) {
                outcome = co_await until_done(attempt);
                break;
            }
            progress_.reset();
            if (const auto waited = co_await progress_.wait(); !waited) {
                co_return waited.error();
            }
            outcome = attempt();
        }
        const auto sent = co_await flush();
        if (outcome && !sent && sent.error() != std::errc::operation_canceled) {
            co_return sent.error();
        }
        co_return outcome;
    }

    /// Waits for bytes of the peer.
    task<result<void>> feed() {
        try {
            if constexpr (borrowing_source<S>) {
                auto [error, lent] = co_await below.receive();
                if (error) {
                    co_return error;
                }
                engine.feed(lent);
            } else {
                std::vector<std::byte> buffer(record_bytes);
                auto [error, count] = co_await below.recv(buffer);
                if (error) {
                    co_return error;
                }
                engine.feed(std::move(buffer), count);
            }
        } catch (const std::system_error& failure) {
            if (failure.code() != std::errc::operation_canceled) {
                throw;
            }
            co_return failure.code();
        }
        co_return {};
    }

    /// The same, before anything else can be awaited.
    task<result<void>> feed_and_keep() {
        const auto fed = co_await feed();
        engine.keep();
        co_return fed;
    }

    /// Waits for bytes of the peer, and meanwhile sends. A failure to send is not one of reading: what the
    /// peer has to say may explain it.
    task<result<void>> feed_beside_flush() {
        const context here = co_await current_context();
        auto fed = feed_and_keep();
        scope feeding(here.within);
        job<result<void>> flushing(here, flush());
        co_await fed.settled(feeding);
        flushing.cancel();
        static_cast<void>(co_await flushing.join());
        co_return fed.take();
    }

    mutex writing_;
    std::vector<std::byte> leaving_;   // in flight, or what a cancelled flush has left
    std::span<const std::byte> left_;  // of leaving_
    std::error_code send_failure_;
    scope* reader_ = nullptr;  // where somebody waits for the peer's bytes
    event progress_;           // some came, or nobody waits any more
};

}  // namespace zloop::detail
