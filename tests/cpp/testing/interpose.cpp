// Not the header itself: it is in probes.cpp, as one file of a program has it.

#include <string>

#include <fcntl.h>
#include <netdb.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <zloop/address.hpp>
#include <zloop/core/fd.hpp>
#include <zloop/testing/faults.hpp>

#include "catch.hpp"
#include "support.hpp"

#if defined(__linux__)

using namespace zloop::testing;
using zloop::fd;

TEST_CASE("a call that does not fail is the one that there would be without", "[interpose]") {
    const auto before = system_calls::open.count.load();
    const fd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    REQUIRE(null);

    CHECK((::fcntl(null.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(::fcntl(null.get(), F_SETFD, 0) == 0);
    CHECK(::fcntl(null.get(), F_GETFD) == 0);
    CHECK(::write(null.get(), "text", 4) == 4);
    CHECK(system_calls::open.count == before + 1);
}

TEST_CASE("the mode of a file that is made comes through", "[interpose]") {
    const std::string path = "/tmp/zloop-interpose-" + std::to_string(::getpid());
    const mode_t mask = ::umask(0);
    const fd made(::open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0640));
    ::umask(mask);
    REQUIRE(made);
    struct stat status {};
    CHECK(::fstat(made.get(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0640);
    ::unlink(path.c_str());
}

TEST_CASE("a call fails in its own way: by -1 and errno, by the error itself, by a code of EAI",
          "[interpose]") {
    {
        const failing none(system_calls::socket, EMFILE);
        errno = 0;
        CHECK(::socket(AF_INET, SOCK_STREAM, 0) == -1);
        CHECK(errno == EMFILE);
    }
    {
        const failing none(system_calls::pthread_create, EAGAIN);
        pthread_t thread;
        CHECK(::pthread_create(&thread, nullptr, [](void* all) { return all; }, nullptr) == EAGAIN);
    }
    {
        const failing none(system_calls::getaddrinfo, ENOMEM);
        addrinfo* list = nullptr;
        const addrinfo hints{AI_NUMERICHOST, AF_INET, SOCK_STREAM, 0, 0, nullptr, nullptr, nullptr};
        CHECK(::getaddrinfo("127.0.0.1", nullptr, &hints, &list) == EAI_MEMORY);
    }
}

TEST_CASE("a call by number is told from the others", "[interpose]") {
    const failing refused(system_calls::pidfd_open, ENOSYS);

    CHECK(::syscall(SYS_getpid) == ::getpid());
    errno = 0;
    CHECK(::syscall(SYS_pidfd_open, ::getpid(), 0) == -1);
    CHECK(errno == ENOSYS);
}

TEST_CASE("a connect that is interrupted goes on in the background", "[interpose]") {
    zloop::address where = zloop::address::loopback();
    socklen_t size = where.size();
    const fd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(door.get(), where.data(), size) == 0);
    REQUIRE(::listen(door.get(), 1) == 0);
    REQUIRE(::getsockname(door.get(), where.data(), &size) == 0);
    const fd guest(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const failing interrupted(system_calls::connect, EINTR);

    CHECK(::connect(guest.get(), where.data(), size) == -1);
    CHECK(errno == EINTR);
    CHECK(support::is_readable(door.get(), 1000));
}

#endif
