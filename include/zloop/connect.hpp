// zloop/connect.hpp: a connection to a host by its name: happy eyeballs (RFC 8305).
//
// A host may have addresses that do not answer, most often all of one family. So its addresses are tried
// with the families taking turns, each a little after the one before, or at once when one has failed. The
// first to connect wins; the others are cancelled, closed and joined before anybody learns of it. Nothing
// is left open or under way.
#pragma once

#include <utility>

#include <zloop/nursery.hpp>
#include <zloop/resolve.hpp>
#include <zloop/sleep.hpp>
#include <zloop/socket.hpp>

namespace zloop {

/// How connect() looks a host up, and tries its addresses.
struct connect_options {
    nanoseconds attempt_delay = std::chrono::milliseconds(250);  ///< until the next address is tried beside
    resolve_options names = {};  ///< of what family, for one; the type is SOCK_STREAM
    client_options socket = {};  ///< of each attempt; what does not fit its `local` fails
};

namespace detail {

/// The same addresses, families taking turns, beginning with that of the first.
inline std::vector<address> interleaved(const std::vector<address>& sorted) {
    std::vector<address> mixed;
    mixed.reserve(sorted.size());
    std::size_t of_first = 0;
    std::size_t of_others = 0;
    const auto take_next = [&](std::size_t& place, bool first_family) {
        while (place < sorted.size() && (sorted[place].family() == sorted.front().family()) != first_family) {
            ++place;
        }
        if (place < sorted.size()) {
            mixed.push_back(sorted[place++]);
        }
    };
    while (mixed.size() < sorted.size()) {
        take_next(of_first, true);
        take_next(of_others, false);
    }
    return mixed;
}

/// What the attempts of one race share.
template <class T>
struct race {
    result<T> outcome = std::errc::address_not_available;  // of no candidates
    bool won = false;
    scope* pause = nullptr;  // while the next attempt waits for its time
};

template <class T, class F>
task<> attempt_one(race<T>& shared, nursery& all, F& connect_one, address peer) {
    result<T> outcome = co_await connect_one(peer);
    if (shared.won) {
        co_return;  // by a hair's breadth; what it got is closed
    }
    shared.won = static_cast<bool>(outcome);
    shared.outcome = std::move(outcome);  // of failures, the last
    if (shared.won) {
        all.cancel();
    } else if (shared.pause != nullptr) {
        shared.pause->cancel();
    }
}

inline task<> rest_for(nanoseconds delay) { static_cast<void>(co_await sleep_for(delay)); }

/// Tries the candidates in order, `delay` apart or when one has failed, by
/// `connect_one(address) -> task<result<T>>`.
template <class T, class F>
task<result<T>> first_to_connect(std::vector<address> candidates, nanoseconds delay, F connect_one) {
    const context here = co_await current_context();
    race<T> shared;
    auto start_all = [&](nursery& attempts) -> task<> {
        const context inner = co_await current_context();
        for (std::size_t index = 0; index < candidates.size(); ++index) {
            attempts.spawn(attempt_one(shared, attempts, connect_one, candidates[index]));
            if (index + 1 == candidates.size()) {
                co_return;
            }
            scope pause(inner.within);
            shared.pause = &pause;
            task<> resting = rest_for(delay);
            co_await resting.settled(pause);
            shared.pause = nullptr;
            resting.take();
            if (inner.within->cancelled()) {
                co_return;
            }
        }
    };
    co_await with_nursery(start_all);
    if (!shared.won && here.within->cancelled()) {
        co_return std::errc::operation_canceled;
    }
    co_return std::move(shared.outcome);
}

}  // namespace detail

/// Connects to the first of `candidates` that can be reached, on the calling task's loop. They are tried in
/// their order, each `attempt_delay` after the one before, or when one has failed.
///
/// Completes: with the first that connects; all other attempts have ended and are closed by then.
/// Fails:     as the last attempt to fail; `address_not_available` for none; `operation_canceled`.
/// Cancelled: all attempts are, and nothing is left open.
/// Owns:      the caller has the stream.
/// Example:   examples/cpp/connect.cpp
inline task<result<stream>> connect(std::vector<address> candidates,
                                    nanoseconds attempt_delay = connect_options().attempt_delay,
                                    client_options options = {}) {
    if (candidates.size() == 1) {
        return connect(candidates.front(), options);
    }
    auto connect_one = [options](const address& peer) { return connect(peer, options); };
    return detail::first_to_connect<stream>(std::move(candidates), attempt_delay, connect_one);
}

/// Connects to a host and a service on it, by names or numbers, on the calling task's loop.
///
/// Completes: as for a list of candidates, over the host's addresses, families taking turns.
/// Fails:     as resolve() does, or as for a list of candidates.
/// Cancelled: all attempts are, and nothing is left open; a lookup ends alone.
/// Example:   examples/cpp/connect.cpp
inline task<result<stream>> connect(std::string host, std::string service, connect_options options = {}) {
    options.names.type = SOCK_STREAM;
    auto [error, found] = co_await resolve(std::move(host), std::move(service), options.names);
    if (error) {
        co_return error;
    }
    co_return co_await connect(detail::interleaved(found), options.attempt_delay, options.socket);
}

/// The same for a port.
inline task<result<stream>> connect(std::string host, std::uint16_t port, connect_options options = {}) {
    return connect(std::move(host), std::to_string(port), options);
}

}  // namespace zloop
