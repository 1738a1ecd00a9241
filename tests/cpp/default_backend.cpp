#include <zloop/default_backend.hpp>

#include <optional>

#include <zloop/loop.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// ZLOOP_BACKEND, set or not, while it lives.
class wanting {
public:
    explicit wanting(const char* name) {
        if (const char* const value = std::getenv("ZLOOP_BACKEND")) {
            before_ = value;
        }
        name != nullptr ? ::setenv("ZLOOP_BACKEND", name, 1) : ::unsetenv("ZLOOP_BACKEND");
    }
    wanting(const wanting&) = delete;
    wanting& operator=(const wanting&) = delete;
    ~wanting() { before_ ? ::setenv("ZLOOP_BACKEND", before_->c_str(), 1) : ::unsetenv("ZLOOP_BACKEND"); }

private:
    std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("the environment names the backend of a loop", "[default_backend]") {
    for (const backend_choice& each : backends()) {
        const wanting named(std::string(each.name).c_str());
        loop on;
        CHECK(on.kernel().name() == each.name);
    }
}

TEST_CASE("no name, auto and a name that is not known are the same", "[default_backend]") {
    std::string usual;
    {
        const wanting nothing(nullptr);
        usual = default_backend()->name();
    }
    for (const char* const name : {"auto", "", "IOCP"}) {
        const wanting named(name);
        CHECK(default_backend()->name() == usual);
    }
}

#if ZLOOP_HAS_URING

TEST_CASE("where io_uring is forbidden or too old, the loop is on epoll, silently", "[default_backend]") {
    const wanting named("io_uring");
    const int error = GENERATE(EPERM, ENOSYS, EINVAL, ENOMEM);
    const auto descriptors = open_descriptors();
    {
        std::optional<probes::failing> refused;
        SECTION("its first system call") { refused.emplace(probes::io_uring_setup, error, 10); }
        SECTION("its second") { refused.emplace(probes::io_uring_enter, error, 10); }
        SECTION("its third") { refused.emplace(probes::io_uring_register, error, 10); }
        if (!refused) {
            return;
        }

        loop on;
        CHECK(on.kernel().name() == "epoll");
    }
    CHECK(open_descriptors() == descriptors);
}

#endif
