#include <zloop/wait/attached.hpp>

#include <zloop/job.hpp>
#include <zloop/listener.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("moving a stream moves its descriptor, and closes at the end", "[attached]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    const auto before = open_descriptors();
    {
        stream first = std::move(with.socket);
        CHECK(!with.socket);
        stream second;
        CHECK(!second);
        second = std::move(first);
        CHECK(second);
        const stream third = std::move(second);
        CHECK(third.native_handle() >= 0);
    }
    CHECK(open_descriptors() == before - 1);
    CHECK(with.peer_reads().empty());
}

TEST_CASE("a stream whose number is another's now touches nothing of it", "[attached]") {
    loop on(each_backend());
    connection former(on, kind::unix_socket);
    const int number = former.socket.native_handle();
    job<std::string> reading(on, receive_text(former.socket));
    on.run_once(0ns);
    REQUIRE(::close(number) == 0);  // behind its back
    connection fresh(on, kind::unix_socket);
    REQUIRE(fresh.socket.native_handle() == number);
    fresh.sends("not for you");

    while (!reading.done()) {
        on.run_once();
    }
    CHECK(reading.take() == system_error_code(ECANCELED).message());
    CHECK(former.socket.is_stale());
    CHECK(!fresh.socket.is_stale());
    CHECK(run(on, receive_text(former.socket)) == system_error_code(EBADF).message());
    auto writes = [&]() -> task<result<std::size_t>> {
        co_return co_await former.socket.send(bytes_of("x"));
    };
    CHECK(run(on, writes()).error() == std::errc::bad_file_descriptor);
    CHECK(former.socket.shutdown(SHUT_RDWR).error() == std::errc::bad_file_descriptor);
    CHECK(former.socket.local_address() == address());
    former.socket.close();

    CHECK(run(on, receive_text(fresh.socket)) == "not for you");
}

TEST_CASE("a socket that the backend refuses stays its owner's", "[attached]") {
    loop on(platform_backend());
    fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));

    CHECK(stream::adopt(on, std::move(file)).error() == std::errc::operation_not_permitted);
    CHECK(file);
    CHECK(listener::adopt(on, std::move(file)).error() == std::errc::operation_not_permitted);
    CHECK(::fcntl(file.get(), F_GETFD) >= 0);
}
