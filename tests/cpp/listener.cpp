#include <zloop/listener.hpp>

#include <optional>
#include <string>
#include <vector>

#include <zloop/job.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("a listener tells its address and each peer's", "[listener]") {
    loop on(each_backend());
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

TEST_CASE("accepting a burst gives the rest of the loop its turn", "[listener]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    constexpr int burst = 200;
    loop on(platform_backend());
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

TEST_CASE("running out of descriptors fails one accept and not the listener", "[listener]") {
    loop on(platform_backend());
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

TEST_CASE("accepting again and again without descriptors starves nobody", "[listener]") {
    loop on(platform_backend());
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

TEST_CASE("a connection that died in the queue is passed over", "[listener]") {
    loop on(platform_backend());
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

TEST_CASE("an accepted connection that cannot be taken into service is closed", "[listener]") {
    loop on(platform_backend());
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

TEST_CASE("closing a listener ends its accept", "[listener]") {
    loop on(each_backend());
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

TEST_CASE("a place that is taken, or that is nobody's, cannot be bound", "[listener]") {
    loop on(each_backend());
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

TEST_CASE("two listeners share a port that both ask to share", "[listener]") {
    loop on(each_backend());
    listen_options shared;
    shared.reuse_port = true;
    auto first = listener::bind(on, address::loopback(), shared).value();

    CHECK(listener::bind(on, first.local_address(), shared));
}

TEST_CASE("a port can be bound again while old connections linger", "[listener]") {
    loop on(each_backend());
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

TEST_CASE("an unnamed Unix listener is given an abstract name", "[listener]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::local("").value()).value();

    CHECK(door.local_address().host().front() == '\0');
    CHECK(run(on, connect_to(door.local_address())));
}

TEST_CASE("a Unix socket can live at a path", "[listener]") {
    char directory[] = "/tmp/zloop-tests-XXXXXX";
    REQUIRE(::mkdtemp(directory) != nullptr);
    const std::string path = std::string(directory) + "/socket";
    {
        loop on(each_backend());
        auto door = listener::bind(on, address::local(path).value()).value();
        CHECK(door.local_address().host() == path);
        CHECK(run(on, connect_to(door.local_address())));
    }
    ::unlink(path.c_str());
    ::rmdir(directory);
}

TEST_CASE("an IPv6 listener has IPv4 peers, unless told otherwise", "[listener]") {
    loop on(each_backend());
    listen_options options;
    options.only_v6 = GENERATE(false, true);
    auto door = listener::bind(on, address::ip("::", 0).value(), options);
    if (!door) {
        WARN("no IPv6 here: " << door.error().message());
        return;
    }
    const auto connected = run(on, connect_to(address::loopback(door->local_address().port())));

    if (options.only_v6) {
        CHECK(connected.error() == std::errc::connection_refused);
    } else {
        CHECK(run(on, perform([&] { return door->accept(); })).value().peer.host() == "::ffff:127.0.0.1");
    }
}

TEST_CASE("a path that a listener has left behind is the user's to remove", "[listener]") {
    char directory[] = "/tmp/zloop-tests-XXXXXX";
    REQUIRE(::mkdtemp(directory) != nullptr);
    const std::string path = std::string(directory) + "/socket";
    const address where = address::local(path).value();
    {
        loop on(each_backend());
        static_cast<void>(listener::bind(on, where).value());
        CHECK(listener::bind(on, where).error() == std::errc::address_in_use);
        CHECK(::unlink(path.c_str()) == 0);
        CHECK(listener::bind(on, where));
    }
    ::unlink(path.c_str());
    ::rmdir(directory);
}

TEST_CASE("a cancelled accept ends at once, and the next has the connection", "[listener]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    job<result<accepted>> accepting(on, perform([&] { return door.accept(); }));
    turn(on, 2);
    accepting.cancel();
    CHECK(finish(on, accepting).error() == std::errc::operation_canceled);

    auto client = run(on, connect_to(door.local_address())).value();
    CHECK(run(on, perform([&] { return door.accept(); })));
}

TEST_CASE("an accept that is cancelled when a connection is there has it, or leaves it to the next",
          "[listener]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    const auto before = open_descriptors();
    {
        job<result<accepted>> accepting(on, perform([&] { return door.accept(); }));
        turn(on, 2);
        const address where = door.local_address();
        const fd client(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(client.get(), where.data(), where.size()) == 0);
        queue_events(on);
        accepting.cancel();
        auto outcome = finish(on, accepting);
        if (!outcome) {
            CHECK(outcome.error() == std::errc::operation_canceled);
            outcome = run(on, perform([&] { return door.accept(); }));
        }
        CHECK(outcome.value().socket.local_address() == where);
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("an accept in a cancelled scope does not begin", "[listener]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    auto client = run(on, connect_to(door.local_address())).value();
    job<result<accepted>> accepting(on, perform([&] { return door.accept(); }));
    accepting.cancel();
    CHECK(finish(on, accepting).error() == std::errc::operation_canceled);

    CHECK(is_readable(door.native_handle()));  // it is still in the queue
}
