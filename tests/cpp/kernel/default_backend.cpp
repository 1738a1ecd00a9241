#include <zloop/kernel/default_backend.hpp>

#include <cstddef>
#include <iterator>
#include <optional>

#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#endif
#include <sys/wait.h>

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

TEST_CASE("no name, auto and a name that only other systems have are the same", "[default_backend]") {
    std::string usual;
    {
        const wanting nothing(nullptr);
        usual = default_backend()->name();
    }
    for (const char* const name : {"auto", "", ZLOOP_HAS_EPOLL ? "kqueue" : "epoll"}) {
        const wanting named(name);
        CHECK(default_backend()->name() == usual);
    }
}

TEST_CASE("a name that no system has is an error that says what can be asked for", "[default_backend]") {
    for (const char* const name : {"bogus", "EPOLL", "epoll "}) {
        const wanting named(name);
        std::string said;
        try {
            loop on;
        } catch (const std::invalid_argument& error) {
            said = error.what();
        }
        CHECK(said ==
              "ZLOOP_BACKEND is \"" + std::string(name) + "\"; it can be epoll, io_uring, kqueue or auto");
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

TEST_CASE("a filter of system calls that forbids io_uring, as containers have, is met with epoll",
          "[default_backend]") {
    const wanting named("io_uring");
    const int error = GENERATE(EPERM, ENOSYS);
    const pid_t child = ::fork();
    if (child == 0) {  // a filter stays for ever
        sock_filter program[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 425, 0, 2),  // io_uring_setup, enter, register
            BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 427, 1, 0),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        sock_fprog filter{std::size(program), program};
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
            ::_exit(2);
        }
        ::_exit(loop().kernel().name() == "epoll" ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
        WARN("no filter of system calls here");
        return;
    }
    CHECK(status == 0);
}

#endif
