// TLS through somebody who spoils it: between a client and a server there is a proxy that splits, delays,
// cuts and changes what it carries. Whatever it does, both sides end, and what arrives was sent.
//
// ZLOOP_TLS_CONNECTIONS says how many connections; each is drawn from its number alone.
#include <zloop/tls/carrier.hpp>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include <zloop/cancel.hpp>
#include <zloop/sleep.hpp>
#include <zloop/tls.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "certificates.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// What is done to one direction, at which byte.
struct mischief {
    enum class kind : unsigned { none, flip, cut, reset };

    kind what;
    std::size_t where;
    std::size_t piece;  ///< the most that is carried at a time
    unsigned turns;     ///< to wait between the pieces

    explicit mischief(std::mt19937& draw) {
        what = static_cast<kind>(draw() % 4);
        where = draw() % (draw() % 2 == 0 ? 6'000 : 60'000);
        constexpr std::size_t pieces[] = {1'000'000, 3'000, 97, 9};
        piece = pieces[draw() % std::size(pieces)];
        turns = static_cast<unsigned>(draw() % 3);
    }
};

/// Carries what comes out of `from` into `to`, but for the mischief.
task<> carry(stream& from, stream& to, mischief plan) {
    std::size_t carried = 0;
    std::string text(std::min<std::size_t>(plan.piece, 64 * 1024), '\0');
    for (;;) {
        const auto room = std::as_writable_bytes(std::span(text));
        auto [error, count] = co_await from.recv(room);
        if (error || count == 0) {
            break;
        }
        auto some = room.first(count);
        const bool is_here = plan.where >= carried && plan.where < carried + count;
        if (is_here && plan.what == mischief::kind::flip) {
            some[plan.where - carried] ^= std::byte{1} << (plan.where % 8);
        } else if (is_here && plan.what != mischief::kind::none) {
            some = some.first(plan.where - carried);
        }
        carried += count;
        for (unsigned turn = 0; turn < plan.turns; ++turn) {
            co_await next_turn();
        }
        const result<void> sent = co_await write_all(to, some);
        if (!sent) {
            break;
        }
        if (is_here && plan.what == mischief::kind::reset) {
            const linger at_once{1, 0};
            ::setsockopt(to.native_handle(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            to.close();
            break;
        }
        if (is_here && plan.what == mischief::kind::cut) {
            break;
        }
    }
    if (to) {
        static_cast<void>(to.shutdown(direction::write));
    }
}

/// One side's work: says all that it has, and hears the other out.
struct side {
    std::string said;       ///< what is to be sent
    std::string heard{};    ///< what came
    std::error_code end{};  ///< of hearing; none: the other side has said that it was all
    bool greeted = false;   ///< whether the handshake was done

    task<> speak(tls::stream<stream>& line) const {
        const result<void> sent = co_await write_all(line, bytes_of(said));
        if (sent) {
            static_cast<void>(co_await line.finish());
        }
    }

    task<> listen(tls::stream<stream>& line) {
        std::string text(10'000, '\0');
        for (;;) {
            auto [error, count] = co_await line.recv(std::as_writable_bytes(std::span(text)));
            end = error;
            if (error || count == 0) {
                co_return;
            }
            heard.append(text, 0, count);
        }
    }

    task<> talk(task<result<tls::stream<stream>>> greeting) {
        auto [error, line] = co_await std::move(greeting);
        greeted = !error;
        end = error;
        if (!error) {
            co_await when_all(speak(line), listen(line));
        }
    }
};

/// One connection through the proxy, drawn from a number.
struct spoiled_connection {
    std::mt19937 draw;
    mischief there, back;
    side client, server;

    explicit spoiled_connection(unsigned number)
        : draw(number),
          there(draw),
          back(draw),
          client{pattern(draw() % 50'000)},
          server{pattern(draw() % 50'000)} {}

    /// A length that was changed has one side wait for bytes that the other does not have: nothing but a
    /// deadline ends that. Here it is short: what is cancelled early has to hold what is promised as well.
    nanoseconds patience() const {
        const bool may_stall = there.what == mischief::kind::flip || back.what == mischief::kind::flip;
        return may_stall ? nanoseconds(30ms) : nanoseconds(20s);
    }

    /// False: it did not end by itself.
    bool run_on(loop& on, const tls::context& trusting, const tls::context& serving) {
        auto near = stream::pair(on).value();
        auto far = stream::pair(on).value();
        return static_cast<bool>(run(
            on, with_timeout(patience(),
                             [](spoiled_connection& self, stream_pair first, stream_pair second,
                                tls::context with, tls::context by) -> task<> {
                                 co_await when_all(
                                     self.client.talk(
                                         tls::connect(std::move(first.first), std::move(with), "localhost")),
                                     self.server.talk(tls::accept(std::move(second.second), std::move(by))),
                                     carry(first.second, second.first, self.there),
                                     carry(second.first, first.second, self.back));
                             }(*this, std::move(near), std::move(far), trusting, serving))));
    }

    bool is_spoiled() const {
        return there.what != mischief::kind::none || back.what != mischief::kind::none;
    }
};

bool begins_with(const std::string& whole, const std::string& part) {
    return whole.compare(0, part.size(), part) == 0;
}

unsigned connections() {
    const char* const asked = std::getenv("ZLOOP_TLS_CONNECTIONS");
    return asked != nullptr ? static_cast<unsigned>(std::atoi(asked)) : 100;
}

}  // namespace

TEST_CASE("whatever a proxy does, both sides end, and what arrives was sent", "[tls][fuzz]") {
    const tls::context trusting = for_client();
    const tls::context serving = for_server();
    loop on(each_backend());
    const std::size_t before = open_descriptors();
    unsigned whole = 0;
    for (unsigned number = 0; number < connections(); ++number) {
        INFO("connection " << number);
        spoiled_connection drawn(number);

        const bool has_ended = drawn.run_on(on, trusting, serving);

        // Quietly: ten thousand assertions a second are mostly Catch's.
        const bool is_prefix = begins_with(drawn.client.said, drawn.server.heard) &&
                               begins_with(drawn.server.said, drawn.client.heard);
        // An end that the other side has said is never earlier than what it sent.
        const bool is_complete =
            (!drawn.server.greeted || drawn.server.end || drawn.server.heard == drawn.client.said) &&
            (!drawn.client.greeted || drawn.client.end || drawn.client.heard == drawn.server.said);
        const bool is_whole = drawn.client.greeted && drawn.server.greeted && !drawn.client.end &&
                              !drawn.server.end && is_complete;
        if ((!has_ended && drawn.patience() > 1s) || !is_prefix || !is_complete ||
            (!drawn.is_spoiled() && !is_whole)) {
            FAIL("heard " << drawn.server.heard.size() << " and " << drawn.client.heard.size() << ", "
                          << has_ended << ", " << drawn.server.end.message() << ", "
                          << drawn.client.end.message());
        }
        whole += is_whole;
    }

    CHECK(whole > connections() / 20);  // it is not always spoiled
    CHECK(whole < connections());
    CHECK(open_descriptors() == before);
}
