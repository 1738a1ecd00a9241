#include <zloop/socket.hpp>

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// A free place to listen at, of either family.
struct place {
    address where = address::loopback();
    std::string path;

    explicit place(kind family) {
        if (family == kind::unix_socket) {
            static int count = 0;
            // Abstract: no file to remove.
            path = '\0' + ("zloop-tests-" + std::to_string(::getpid()) + '-' + std::to_string(++count));
            where = address::local(path).value();
        }
    }
};

task<std::string> receive_text(stream& from) {
    const auto received = co_await from.receive();
    co_return received ? text_of(*received) : received.error().message();
}

task<result<stream>> connect_to(address where) { co_return co_await connect(where); }

}  // namespace

TEST_CASE("a connection carries bytes both ways", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    auto serve = [&]() -> task<> {
        auto [error, arrived] = co_await door.accept();
        CHECK(!error);
        CHECK(arrived.peer.family() == at.where.family());
        const std::string text = co_await receive_text(arrived.socket);
        (co_await write_all(arrived.socket, bytes_of("echo " + text))).value();
    };
    auto ask = [&]() -> task<std::string> {
        auto socket = (co_await connect(door.local_address())).value();
        (co_await write_all(socket, bytes_of("hello"))).value();
        const std::string answer = co_await receive_text(socket);
        co_return answer + co_await receive_text(socket);
    };
    spawn(on, serve());

    CHECK(run(on, ask()) == "echo hello");
}

TEST_CASE("a listener tells its address and each peer's", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    CHECK(door.local_address().port() != 0);
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        auto arrived = (co_await door.accept()).value();

        CHECK(arrived.peer == client.local_address());
        CHECK(arrived.socket.peer_address() == arrived.peer);
        CHECK(client.peer_address() == door.local_address());
        CHECK(arrived.socket.local_address() == door.local_address());
    };
    run(on, work());
}

TEST_CASE("IPv6 connections work like IPv4 ones", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::ip("::1", 0).value());
    if (!door) {
        WARN("no IPv6 here: " << door.error().message());
        return;
    }
    auto work = [&]() -> task<std::string> {
        auto client = (co_await connect(door->local_address())).value();
        co_return (co_await door->accept()).value().peer.host();
    };
    CHECK(run(on, work()) == "::1");
}

TEST_CASE("accepted and connected descriptors are non-blocking and not inherited", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        auto server = (co_await door.accept()).value().socket;
        for (const int each : {door.native_handle(), client.native_handle(), server.native_handle()}) {
            CHECK((::fcntl(each, F_GETFL) & O_NONBLOCK) != 0);
            CHECK((::fcntl(each, F_GETFD) & FD_CLOEXEC) != 0);
        }
    };
    run(on, work());
}

TEST_CASE("a refused connection fails and leaves nothing open", "[socket]") {
    loop on;
    address nobody;
    {
        auto door = listener::bind(on, address::loopback()).value();
        nobody = door.local_address();
    }
    const auto before = open_descriptors();

    CHECK(run(on, connect_to(nobody)).error() == std::errc::connection_refused);
    CHECK(run(on, connect_to(place(kind::unix_socket).where)).error() == std::errc::connection_refused);
    CHECK(run(on, connect_to(address::local("/no/such/socket").value())).error() ==
          std::errc::no_such_file_or_directory);
    CHECK(run(on, connect_to(address())).error() == std::errc::address_family_not_supported);
    CHECK(open_descriptors() == before);
}

namespace {

/// A TCP listener whose queue is full: a further connect waits.
struct deaf_listener {
    fd door;
    address where = address::loopback();
    std::vector<fd> queued;

    deaf_listener() : door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        socklen_t size = where.size();
        REQUIRE(::bind(door.get(), where.data(), size) == 0);
        REQUIRE(::listen(door.get(), 0) == 0);
        REQUIRE(::getsockname(door.get(), where.data(), &size) == 0);
        for (int count = 0; count < 3; ++count) {
            queued.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            static_cast<void>(::connect(queued.back().get(), where.data(), where.size()));
        }
    }
};

}  // namespace

TEST_CASE("a cancelled connect ends at once and leaves nothing open", "[socket]") {
    loop on;
    const deaf_listener deaf;
    const auto before = open_descriptors();
    job<result<stream>> connecting(on, connect_to(deaf.where));
    on.run_once(0ns);
    on.run_once(0ns);
    REQUIRE(!connecting.done());
    CHECK(open_descriptors() == before + 1);

    connecting.cancel();
    while (!connecting.done()) {
        on.run_once();
    }

    CHECK(connecting.take().error() == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
}

TEST_CASE("a connect in a cancelled scope does not begin", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    const auto before = open_descriptors();
    job<result<stream>> connecting(on, connect_to(door.local_address()));
    connecting.cancel();
    while (!connecting.done()) {
        on.run_once();
    }

    CHECK(connecting.take().error() == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
    CHECK(!is_readable(door.native_handle()));
}

TEST_CASE("accepting a burst gives the rest of the loop its turn", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    constexpr int burst = 200;
    loop on;
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    const address where = door.local_address();
    std::vector<fd> guests;
    for (int count = 0; count < burst; ++count) {
        guests.emplace_back(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(guests.back().get(), where.data(), where.size()) == 0);
    }
    int arrived = 0;
    auto accepts = [&]() -> task<> {
        while (arrived < burst) {
            (co_await door.accept()).value();
            ++arrived;
        }
    };
    job<> accepting(on, accepts());

    std::vector<int> per_turn;
    while (!accepting.done()) {
        const int before = arrived;
        on.run_once();
        if (arrived != before) {
            per_turn.push_back(arrived - before);
        }
    }

    CHECK(arrived == burst);
    CHECK(per_turn == std::vector{64, 64, 64, 8});
}

TEST_CASE("running out of descriptors fails one accept and not the listener", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        const probes::failing accept4_fails(probes::accept4, EMFILE);
        const auto failed = co_await door.accept();
        CHECK(failed.error() == std::errc::too_many_files_open);
        (co_await door.accept()).value();
    };
    run(on, work());
}

TEST_CASE("accepting again and again without descriptors starves nobody", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    auto client_work = [&]() -> task<result<stream>> { co_return co_await connect(door.local_address()); };
    auto client = run(on, client_work()).value();
    std::optional<probes::failing> no_descriptors;
    no_descriptors.emplace(probes::accept4, EMFILE, 1'000'000);
    bool others_run = false;
    int failures = 0;
    auto accepts = [&]() -> task<> {
        while (!(co_await door.accept())) {
            if (++failures > 10'000) {
                no_descriptors.reset();
            }
        }
    };
    auto other = [&]() -> task<> {
        co_await next_turn();
        co_await next_turn();
        others_run = true;
        no_descriptors.reset();
    };
    job<> accepting(on, accepts());
    job<> running(on, other());
    while (!accepting.done() || !running.done()) {
        on.run_once(1s);
    }

    CHECK(others_run);
    CHECK(failures < 1'000);
}

TEST_CASE("a connection that died in the queue is passed over", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    const auto before = probes::accept4.count.load();
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        const probes::failing accept4_fails(probes::accept4, ECONNABORTED, 2);
        (co_await door.accept()).value();
        CHECK(probes::accept4.count == before + 3);
    };
    run(on, work());
}

TEST_CASE("an accepted connection that cannot be taken into service is closed", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        const auto before = open_descriptors();
        const probes::failing epoll_ctl_fails(probes::epoll_ctl, ENOSPC);
        const auto failed = co_await door.accept();
        CHECK(failed.error() == std::errc::no_space_on_device);
        CHECK(open_descriptors() == before);
        const std::string end = co_await receive_text(client);
        CHECK(end.empty());
    };
    run(on, work());
}

TEST_CASE("closing a listener ends its accept", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::loopback()).value();
    std::error_code outcome;
    auto accepts = [&]() -> task<> { outcome = (co_await door.accept()).error(); };
    job<> accepting(on, accepts());
    on.run_once(0ns);

    door.close();
    CHECK(!door);
    while (!accepting.done()) {
        on.run_once();
    }
    CHECK(outcome == std::errc::operation_canceled);
}

TEST_CASE("a place that is taken, or that is nobody's, cannot be bound", "[socket]") {
    loop on;
    const auto before = open_descriptors();
    {
        auto door = listener::bind(on, address::loopback()).value();
        CHECK(listener::bind(on, door.local_address()).error() == std::errc::address_in_use);
    }
    CHECK(listener::bind(on, address::ip("192.0.2.1", 0).value()).error() ==
          std::errc::address_not_available);
    CHECK(listener::bind(on, address::local("/no/such/directory/socket").value()).error() ==
          std::errc::no_such_file_or_directory);
    CHECK(open_descriptors() == before);
}

TEST_CASE("two listeners share a port that both ask to share", "[socket]") {
    loop on;
    listen_options shared;
    shared.reuse_port = true;
    auto first = listener::bind(on, address::loopback(), shared).value();

    CHECK(listener::bind(on, first.local_address(), shared));
}

TEST_CASE("a port can be bound again while old connections linger", "[socket]") {
    loop on;
    address where;
    auto work = [&]() -> task<> {
        auto door = listener::bind(on, address::loopback()).value();
        where = door.local_address();
        auto client = (co_await connect(where)).value();
        auto server = (co_await door.accept()).value().socket;
        server.close();  // closes first: TIME_WAIT is ours
        const std::string end = co_await receive_text(client);
        CHECK(end.empty());
    };
    run(on, work());

    CHECK(listener::bind(on, where));
}

TEST_CASE("an unnamed Unix listener is given an abstract name", "[socket]") {
    loop on;
    auto door = listener::bind(on, address::local("").value()).value();

    CHECK(door.local_address().host().front() == '\0');
    CHECK(run(on, connect_to(door.local_address())));
}

TEST_CASE("a Unix socket can live at a path", "[socket]") {
    char directory[] = "/tmp/zloop-tests-XXXXXX";
    REQUIRE(::mkdtemp(directory) != nullptr);
    const std::string path = std::string(directory) + "/socket";
    {
        loop on;
        auto door = listener::bind(on, address::local(path).value()).value();
        CHECK(door.local_address().host() == path);
        CHECK(run(on, connect_to(door.local_address())));
    }
    ::unlink(path.c_str());
    ::rmdir(directory);
}

TEST_CASE("send takes several buffers in order", "[socket]") {
    loop on;
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const iovec parts[] = {
        {const_cast<char*>("ab"), 2}, {const_cast<char*>(""), 0}, {const_cast<char*>("cde"), 3}};
    auto work = [&]() -> task<result<std::size_t>> { co_return co_await with.socket.send(parts); };

    CHECK(run(on, work()).value() == 5);
    CHECK(with.peer_reads() == "abcde");
}

TEST_CASE("a stream reads and writes at the same time", "[socket]") {
    loop on;
    connection with(on, kind::tcp);
    std::string read;
    auto reads = [&]() -> task<> { read = co_await receive_text(with.socket); };
    job<> reading(on, reads());
    CHECK(run(on, write_all(with.socket, bytes_of("out"))));
    CHECK(with.peer_reads() == "out");
    with.sends("in");
    while (!reading.done()) {
        on.run_once();
    }

    CHECK(read == "in");
}

TEST_CASE("shutdown of writing is the end for the peer, and no more", "[socket]") {
    loop on;
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));

    CHECK(with.socket.shutdown(SHUT_WR));
    CHECK(with.peer_reads().empty());
    with.sends("still");
    CHECK(run(on, receive_text(with.socket)) == "still");
}

TEST_CASE("options are set, and a wrong one is an error", "[socket]") {
    loop on;
    connection with(on, kind::tcp);

    CHECK(with.socket.set_option(IPPROTO_TCP, TCP_NODELAY, 1));
    CHECK(with.socket.set_option(SOL_SOCKET, 9999, 1).error() == std::errc::no_protocol_option);
}

TEST_CASE("moving a stream moves its descriptor, and closes at the end", "[socket]") {
    loop on;
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

TEST_CASE("a stream whose number is another's now touches nothing of it", "[socket]") {
    loop on;
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
    auto writes = [&]() -> task<result<std::size_t>> { co_return co_await former.socket.send(bytes_of("x")); };
    CHECK(run(on, writes()).error() == std::errc::bad_file_descriptor);
    CHECK(former.socket.shutdown(SHUT_RDWR).error() == std::errc::bad_file_descriptor);
    CHECK(former.socket.local_address() == address());
    former.socket.close();

    CHECK(run(on, receive_text(fresh.socket)) == "not for you");
}

TEST_CASE("a socket that the backend refuses stays its owner's", "[socket]") {
    loop on;
    fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));

    CHECK(stream::adopt(on, std::move(file)).error() == std::errc::operation_not_permitted);
    CHECK(file);
    CHECK(listener::adopt(on, std::move(file)).error() == std::errc::operation_not_permitted);
    CHECK(::fcntl(file.get(), F_GETFD) >= 0);
}

TEST_CASE("a stream whose reading task is cancelled by the loop's end is closed", "[socket]") {
    const auto before = open_descriptors();
    std::error_code outcome;
    auto serve = [&](stream socket) -> task<> { outcome = (co_await socket.receive()).error(); };
    {
        loop on;
        connection with(on, GENERATE(kind::tcp, kind::unix_socket));
        spawn(on, serve(std::move(with.socket)));
        on.run_once(0ns);
    }
    CHECK(outcome == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
}

TEST_CASE("an idle stream holds no buffer: every loan is the loop's", "[socket]") {
    loop on;
    connection first(on, kind::unix_socket), second(on, kind::unix_socket);
    first.sends("one");
    second.sends("two");
    auto where = [](stream& from) -> task<const void*> {
        co_return (co_await from.receive()).value().data();
    };

    const void* const lent = run(on, where(first.socket));
    CHECK(run(on, where(second.socket)) == lent);
}
