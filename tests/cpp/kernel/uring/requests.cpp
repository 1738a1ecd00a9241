#include <zloop/kernel/uring/requests.hpp>

#if ZLOOP_HAS_URING

#include <memory>
#include <vector>

#include <zloop/kernel/uring/backend.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using detail::uring::lane;
using detail::uring::request_state;

namespace {

using lane_channel = detail::uring::channel;  // the umbrella has another channel

struct requests_fixture {
    detail::uring::requests requests;
    pipe_ends pipe;
    lane_channel at{pipe.out.get(), true};
    std::vector<std::int32_t> results;  // what the kernel's last words were

    ~requests_fixture() {
        while (requests.under_way() > 0) {
            requests.stop(at, lane::reading);
            reap();
        }
    }

    void reap() {
        CHECK(requests.ring().enter(0) == 0);
        requests.ring().reap([this](const detail::uring::completion& seen) {
            if (seen.user_data != requests.nobody) {
                results.push_back(seen.result);
                requests.ended(lane_channel::of(seen.user_data), lane_channel::lane_of(seen.user_data));
            }
        });
    }
};

}  // namespace

TEST_CASE("a request is its lane's until the kernel's last word", "[uring]") {
    if (!has_uring()) {
        return;
    }
    requests_fixture with;
    CHECK(with.requests.poll(with.at, lane::reading));
    CHECK(with.at.of(lane::reading) == request_state::running);
    CHECK(with.requests.under_way() == 1);
    with.reap();
    CHECK(with.at.in_kernel());

    with.pipe.write();
    with.reap();

    CHECK(with.results.size() == 1);
    CHECK(!with.at.in_kernel());
    CHECK(with.requests.under_way() == 0);
}

TEST_CASE("a request that is stopped ends as canceled, stopped twice or not", "[uring]") {
    if (!has_uring()) {
        return;
    }
    requests_fixture with;
    CHECK(with.requests.poll(with.at, lane::reading));
    CHECK(with.requests.stop(with.at, lane::reading));
    CHECK(with.requests.stop(with.at, lane::reading));
    CHECK(with.at.of(lane::reading) == request_state::stopping);

    with.reap();

    CHECK(with.results == std::vector<std::int32_t>{-ECANCELED});
    CHECK(with.requests.stop(with.at, lane::reading));  // nothing is there to stop
    CHECK(with.at.is_idle(lane::reading));
}

TEST_CASE("without room for a cancel it is owed, and paid when it is asked for again", "[uring]") {
    if (!has_uring()) {
        return;
    }
    requests_fixture with;
    CHECK(with.requests.poll(with.at, lane::reading));
    while (with.requests.ring().prepare() != nullptr) {  // requests of nobody, which do nothing
    }
    {
        const probes::failing full(probes::io_uring_enter, EAGAIN, 10);
        CHECK(!with.requests.stop(with.at, lane::reading));
        CHECK(!with.requests.stop(with.at, lane::reading));
    }
    CHECK(with.at.of(lane::reading) == request_state::owing);
    CHECK(with.requests.owing() == 1);
    CHECK(with.requests.poll(with.at, lane::writing));  // there is room now

    CHECK(with.requests.stop(with.at, lane::reading));
    CHECK(with.requests.owing() == 0);
    CHECK(with.requests.stop(with.at, lane::writing));
    with.reap();
    CHECK(with.requests.under_way() == 0);
}

#endif
