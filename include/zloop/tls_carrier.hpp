// zloop/tls_carrier.hpp: a TLS engine on top of the stream that carries its bytes.
//
// Reading may have to send and sending may overlap with reading, so whoever waits for the peer's bytes also
// sends what is owed, beside, unless another task does so already; two peers that send at the same time never
// wait for each other. Bytes in flight are not touched: what is encrypted meanwhile is collected by the
// engine.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <zloop/job.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>
#include <zloop/tls_engine.hpp>

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
                co_return outcome;
            }
            const bool sends = owes() && writing_.try_lock();  // else who has the lock sends it
            scope waiting(here.within);
            const reader registered(*this, waiting);
            auto feeding = sends ? feed_beside_flush() : feed();
            const auto fed = co_await std::move(feeding).within(waiting);
            if (!fed && (here.within->cancelled() || !waiting.cancelled())) {
                co_return fed.error();
            }
        }
    }

    task<result<std::size_t>> send(std::span<const std::byte> buffer) {
        if (const auto sent = co_await flush(); !sent || buffer.empty()) {
            co_return result<std::size_t>(sent.error());
        }
        const auto outcome = engine.write(buffer.first(std::min(buffer.size(), most_at_once)));
        const auto sent = co_await flush();
        if (sent.error() == std::errc::operation_canceled) {
            if (reader_ != nullptr) {
                reader_->cancel();  // begins again, and sends what we leave
            }
        } else if (outcome && !sent) {
            co_return sent.error();
        }
        co_return outcome;
    }

    task<result<void>> finish() {
        if (const auto sent = co_await flush(); !sent) {
            co_return sent;
        }
        engine.close();
        co_return co_await flush();
    }

    /// Sends all that is owed.
    /// Fails: as the stream below does, and from then on always; `operation_canceled`: the rest is still
    /// owed.
    task<result<void>> flush() {
        auto [refused, held] = co_await writing_.lock();
        if (refused) {
            co_return refused;
        }
        while (owes()) {
            if (left_.empty()) {
                leaving_ = engine.take_outgoing();
                left_ = leaving_;
            }
            auto [error, count] = co_await below.send(left_);
            if (error == std::errc::operation_canceled) {
                co_return error;
            }
            if (error) {
                send_failure_ = error;
            }
            left_ = error ? std::span<const std::byte>() : left_.subspan(count);
            if (left_.empty()) {
                leaving_ = {};
            }
        }
        co_return send_failure_;
    }

    S below;
    tls_engine engine;

private:
    static constexpr std::size_t most_at_once = 64 * 1024;        // bytes to encrypt before they are sent
    static constexpr std::size_t record_bytes = 5 + 16384 + 256;  // at most, RFC 8446 section 5.2

    /// The task that waits for the peer's bytes, while it does.
    class reader {
    public:
        reader(tls_carrier& of, scope& waiting) noexcept : of_(of) { of_.reader_ = &waiting; }
        reader(const reader&) = delete;
        reader& operator=(const reader&) = delete;
        ~reader() { of_.reader_ = nullptr; }

    private:
        tls_carrier& of_;
    };

    /// Whether something has to be sent, and can be.
    bool owes() const noexcept { return !send_failure_ && (engine.owes() || !left_.empty()); }

    /// Waits for bytes of the peer.
    task<result<void>> feed() {
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
        job<result<void>> flushing(here, flush());
        scope feeding(here.within);
        auto fed = feed_and_keep();
        co_await fed.settled(feeding);
        flushing.cancel();
        static_cast<void>(co_await flushing.join());
        co_return fed.take();
    }

    mutex writing_;
    std::vector<std::byte> leaving_;   // in flight, or what a cancelled flush has left
    std::span<const std::byte> left_;  // of leaving_
    std::error_code send_failure_;
    scope* reader_ = nullptr;
};

}  // namespace zloop::detail
