#include <zloop/kernel/uring/phases.hpp>

#if ZLOOP_HAS_URING

#include <string>

#include <zloop/job.hpp>
#include <zloop/kernel/uring/backend.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

struct phases_fixture {
    loop on{uring()};
    connection with{on, kind::unix_socket};

    /// A read that the kernel has.
    job<std::string> read() { return job<std::string>(on, recv_text(with.socket, 100)); }
    void submit() { turn(on, 3); }
};

const std::string canceled = system_error_code(ECANCELED).message();

}  // namespace

TEST_CASE("what the kernel has is resumed by its last word, and the loop knows that it waits for it",
          "[uring]") {
    if (!has_uring()) {
        return;
    }
    phases_fixture at;
    auto reading = at.read();
    at.submit();
    CHECK(!at.on.kernel().settling());

    reading.cancel();

    CHECK(at.on.kernel().settling());
    CHECK(!reading.done());
    CHECK(finish(at.on, reading) == canceled);
    CHECK(!at.on.kernel().settling());
}

TEST_CASE("who comes while another is being ended waits behind it, and goes on then", "[uring]") {
    if (!has_uring()) {
        return;
    }
    phases_fixture at;
    auto first = at.read();
    at.submit();
    first.cancel();
    auto second = at.read();
    at.on.run_once(0ns);

    SECTION("it has what comes") {
        at.with.sends("for the second");
        CHECK(finish(at.on, first) == canceled);
        CHECK(finish(at.on, second) == "for the second");
    }
    SECTION("it is cancelled there") {
        second.cancel();
        CHECK(finish(at.on, second) == canceled);
        CHECK(finish(at.on, first) == canceled);
        at.with.sends("for nobody yet");
        CHECK(run(at.on, recv_text(at.with.socket, 100)) == "for nobody yet");
    }
    SECTION("the descriptor is closed") {
        at.with.socket.close();
        CHECK(finish(at.on, first) == canceled);
        CHECK(finish(at.on, second) == canceled);
    }
    CHECK(!at.on.kernel().settling());
}

TEST_CASE("what has its outcome, and was not told of it, gives back what it can", "[uring]") {
    if (!has_uring()) {
        return;
    }
    phases_fixture at;
    SECTION("bytes that it has read") {
        auto reading = at.read();
        at.submit();
        at.with.sends("bytes");
        queue_events(at.on);
        reading.cancel();
        CHECK(finish(at.on, reading) == canceled);
        CHECK(run(at.on, recv_text(at.with.socket, 100)) == "bytes");
    }
    SECTION("not what it has sent") {
        job<result<std::size_t>> sending(at.on, send_some(at.with.socket, "text"));
        turn(at.on, 1);
        queue_events(at.on);
        sending.cancel();
        CHECK(finish(at.on, sending).value() == 4);
        CHECK(at.with.peer_reads() == "text");
    }
    SECTION("not the end of the stream, which stays") {
        auto reading = at.read();
        at.submit();
        at.with.peer.reset();
        queue_events(at.on);
        reading.cancel();
        CHECK(finish(at.on, reading).empty());
        CHECK(run(at.on, recv_text(at.with.socket, 100)).empty());
    }
}

#endif
