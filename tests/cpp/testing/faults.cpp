#include <zloop/testing/faults.hpp>

#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "catch.hpp"
#include "probes.hpp"  // whose source file includes testing/interpose.hpp

using namespace zloop::testing;

TEST_CASE("system calls are counted", "[faults]") {
    const auto before = system_calls::pipe2.count.load();
    int both[2];
    CHECK(::pipe2(both, O_CLOEXEC) == 0);
    ::close(both[0]);
    ::close(both[1]);

    CHECK(system_calls::pipe2.count == before + 1);
}

TEST_CASE("a call fails as often as it was told to, after those that may pass", "[faults]") {
    const failing some(system_calls::getsockopt, ENOMEM, 2, 1);
    const auto error_of = [] {
        int value = 0;
        socklen_t size = sizeof value;
        errno = 0;
        static_cast<void>(::getsockopt(-1, SOL_SOCKET, SO_TYPE, &value, &size));
        return errno;
    };

    CHECK(error_of() == EBADF);
    CHECK(error_of() == ENOMEM);
    CHECK(error_of() == ENOMEM);
    CHECK(error_of() == EBADF);
}

TEST_CASE("a close that fails has closed", "[faults]") {
    int both[2];
    REQUIRE(::pipe2(both, O_CLOEXEC) == 0);
    {
        const failing once(system_calls::close, EIO);
        CHECK(::close(both[0]) == -1);
        CHECK(errno == EIO);
    }
    CHECK(::fcntl(both[0], F_GETFD) == -1);
    ::close(both[1]);
}

TEST_CASE("a sweep fails each call in turn, with each of its errors", "[faults]") {
    std::vector<std::string> seen;
    fault_sweep sweep;
    while (sweep.next()) {
        int both[2];
        if (::pipe2(both, O_CLOEXEC) == 0) {
            ::close(both[0]);
            ::close(both[1]);
        }
        seen.push_back(sweep.what());
    }

    CHECK(seen == std::vector<std::string>{
                      "nothing has failed", "pipe2, call 0: Too many open files",
                      "pipe2, call 0: Too many open files in system", "pipe2, call 0: Cannot allocate memory",
                      "close, call 1: Interrupted system call", "close, call 1: Input/output error",
                      "close, call 2: Interrupted system call", "close, call 2: Input/output error",
                      "nothing has failed"});
    CHECK(sweep.runs() == 9);
}
