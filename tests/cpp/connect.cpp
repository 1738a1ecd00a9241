#include <zloop/connect.hpp>

#include <memory>

#include <zloop/listener.hpp>
#include <zloop/stream.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace std::chrono_literals;
using namespace zloop;
using support::each_backend;
using support::open_descriptors;

namespace {

address v4(int host, std::uint16_t port = 80) {
    return *address::ip("192.0.2." + std::to_string(host), port);
}
address v6(int host, std::uint16_t port = 80) {
    return *address::ip("2001:db8::" + std::to_string(host), port);
}

/// A network on which connecting takes its time, or fails, as the test says.
class network {
public:
    struct behaviour {
        nanoseconds takes;
        int error = 0;
    };

    explicit network(testing::virtual_loop& on) : on_(on) {}

    void answers(const address& peer, nanoseconds takes, int error = 0) {
        behaviours_.emplace_back(peer, behaviour{takes, error});
    }

    /// The connection is its peer's address. A peer that nothing is known of does not answer.
    auto connector() {
        return [this](const address& peer) { return connect_to(peer); };
    }

    struct attempt {
        address peer;
        nanoseconds at;
        friend bool operator==(const attempt&, const attempt&) = default;
    };
    std::vector<attempt> begun;
    std::vector<address> canceled;

private:
    task<result<std::string>> connect_to(address peer) {
        begun.push_back({peer, on_.elapsed()});
        behaviour how{24h};
        for (const auto& [known, what] : behaviours_) {
            how = known == peer ? what : how;
        }
        if (!co_await sleep_for(how.takes)) {
            canceled.push_back(peer);
            co_return std::errc::operation_canceled;
        }
        if (how.error != 0) {
            co_return system_error_code(how.error);
        }
        co_return peer.host();
    }

    testing::virtual_loop& on_;
    std::vector<std::pair<address, behaviour>> behaviours_;
};

struct connect_fixture {
    testing::virtual_loop on;
    network net{on};

    job<result<std::string>> connects(std::vector<address> candidates, nanoseconds delay = 250ms) {
        return on.start(detail::first_to_connect<std::string>(std::move(candidates), delay, net.connector()));
    }
};

/// A door at which nobody opens: connecting to it takes for ever.
class silent_door {
public:
    silent_door() {
        door_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        where_ = address::loopback();
        socklen_t size = where_.size();
        REQUIRE(::bind(door_.get(), where_.data(), size) == 0);
        REQUIRE(::listen(door_.get(), 0) == 0);
        REQUIRE(::getsockname(door_.get(), where_.data(), &size) == 0);
        for (fd& each : queue_) {
            each.reset(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            static_cast<void>(::connect(each.get(), where_.data(), where_.size()));
        }
    }
    const address& where() const { return where_; }

private:
    fd door_;
    fd queue_[4];
    address where_;
};

address refusing() {
    fd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address where = address::loopback();
    socklen_t size = where.size();
    REQUIRE(::bind(door.get(), where.data(), size) == 0);
    REQUIRE(::getsockname(door.get(), where.data(), &size) == 0);
    return where;
}

}  // namespace

TEST_CASE("families take turns, beginning with that of the first address", "[connect]") {
    CHECK(detail::interleaved({v6(1), v6(2), v6(3), v4(1), v4(2)}) ==
          std::vector{v6(1), v4(1), v6(2), v4(2), v6(3)});
    CHECK(detail::interleaved({v4(1), v6(1), v6(2)}) == std::vector{v4(1), v6(1), v6(2)});
    CHECK(detail::interleaved({v4(1), v4(2)}) == std::vector{v4(1), v4(2)});
    CHECK(detail::interleaved({}).empty());
}

TEST_CASE("an address that connects in time is the only one that is tried", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 249ms);
    auto running = with.connects({v6(1), v4(1)});

    CHECK(with.on.join(running).value() == "2001:db8::1");
    CHECK(with.net.begun.size() == 1);
    CHECK(with.on.elapsed() == 249ms);
    CHECK(with.on.timers().empty());
}

TEST_CASE("the next address is tried beside one that does not answer, and the first to connect wins",
          "[connect]") {
    connect_fixture with;
    with.net.answers(v4(1), 30ms);
    auto running = with.connects({v6(1), v4(1), v6(2)});

    CHECK(with.on.join(running).value() == "192.0.2.1");
    CHECK(with.net.begun == std::vector<network::attempt>{{v6(1), 0ms}, {v4(1), 250ms}});
    CHECK(with.net.canceled == std::vector{v6(1)});
    CHECK(with.on.elapsed() == 280ms);
}

TEST_CASE("an older attempt may still win", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 300ms);
    with.net.answers(v4(1), 100ms);
    auto running = with.connects({v6(1), v4(1)});

    CHECK(with.on.join(running).value() == "2001:db8::1");
    CHECK(with.net.canceled == std::vector{v4(1)});
}

TEST_CASE("when an attempt fails the next one starts at once", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 10ms, ENETUNREACH);
    with.net.answers(v4(1), 5ms);
    auto running = with.connects({v6(1), v4(1), v6(2)});

    CHECK(with.on.join(running).value() == "192.0.2.1");
    CHECK(with.net.begun == std::vector<network::attempt>{{v6(1), 0ms}, {v4(1), 10ms}});
    CHECK(with.on.elapsed() == 15ms);
}

TEST_CASE("an older attempt that fails starts the next one too, and the delay begins anew", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 300ms, ECONNREFUSED);
    with.net.answers(v6(2), 251ms);
    auto running = with.connects({v6(1), v4(1), v6(2), v4(2)});

    CHECK(with.on.join(running).value() == "2001:db8::2");
    CHECK(with.net.begun ==
          std::vector<network::attempt>{{v6(1), 0ms}, {v4(1), 250ms}, {v6(2), 300ms}, {v4(2), 550ms}});
}

TEST_CASE("when all have failed the last failure is told", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 0ms, ENETUNREACH);
    with.net.answers(v4(1), 1ms, ECONNREFUSED);
    auto running = with.connects({v6(1), v4(1)});

    CHECK(with.on.join(running).error() == std::errc::connection_refused);

    auto none = with.connects({});
    CHECK(with.on.join(none).error() == std::errc::address_not_available);
}

TEST_CASE("two that connect in the same turn: the first wins, the other is dropped", "[connect]") {
    connect_fixture with;
    with.net.answers(v6(1), 350ms);
    with.net.answers(v4(1), 100ms);
    auto running = with.connects({v6(1), v4(1)});

    CHECK(with.on.join(running).value() == "2001:db8::1");
    CHECK(with.net.canceled.empty());
    CHECK(with.on.elapsed() == 350ms);
}

TEST_CASE("cancelling ends every attempt, and is told as such", "[connect]") {
    connect_fixture with;
    auto running = with.connects({v6(1), v4(1), v6(2)});
    with.on.advance(300ms);
    CHECK(with.net.begun.size() == 2);

    running.cancel();

    CHECK(with.on.join(running).error() == std::errc::operation_canceled);
    CHECK(with.net.canceled.size() == 2);
    CHECK(with.on.elapsed() == 300ms);
    CHECK(with.on.timers().empty());
}

TEST_CASE("what an attempt throws ends the race and travels", "[connect]") {
    testing::virtual_loop on;
    auto fails = [](const address& peer) -> task<result<int>> {
        if (peer == v6(1)) {
            co_return (co_await sleep_for(1h)) ? result<int>(1) : result<int>(std::errc::operation_canceled);
        }
        throw std::runtime_error("no memory");
    };
    auto running = on.start(detail::first_to_connect<int>({v6(1), v4(1), v4(2)}, 250ms, fails));

    CHECK_THROWS_AS(on.join(running), std::runtime_error);
    CHECK(on.elapsed() == 250ms);
}

TEST_CASE("a host is connected to by its name, past addresses that refuse or do not answer", "[connect]") {
    const silent_door silent;
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    const std::size_t before = open_descriptors();
    auto work = [&]() -> task<std::string> {
        std::vector<address> candidates{refusing(), silent.where(), door.local_address()};
        auto client = (co_await connect(candidates, 10ms)).value();
        auto server = (co_await door.accept()).value().socket;
        (co_await write_all(client, bytes_of("hello\n"))).value();
        std::string line;
        (co_await read_until(server, line, "\n")).value();
        CHECK(open_descriptors() == before + 2);
        co_return line;
    };

    CHECK(zloop::run(on, work()) == "hello\n");
}

TEST_CASE("connecting by host and port, or service", "[connect]") {
    const probes::name_server server([](const std::string& host, auto& numeric) {
        numeric = {"::1", "127.0.0.1"};  // nobody listens at the first, or this host has no IPv6
        return host == "there.example" ? 0 : EAI_NONAME;
    });
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    const std::uint16_t port = door.local_address().port();
    auto work = [&]() -> task<> {
        auto by_name = (co_await connect("there.example", port)).value();
        auto by_service = (co_await connect("there.example", std::to_string(port))).value();
        auto by_number = (co_await connect("127.0.0.1", port)).value();
        CHECK(by_name.peer_address() == door.local_address());
        CHECK(by_service.peer_address() == door.local_address());
        CHECK(by_number.peer_address() == door.local_address());
        const auto unknown = co_await connect("not.there.example", port);
        CHECK(unknown.error() == resolve_errc::host_not_found);
    };
    zloop::run(on, work());
}

TEST_CASE("a cancelled connect by name leaves no descriptor", "[connect]") {
    const silent_door silent;
    const probes::name_server server([](const std::string&, auto& numeric) {
        numeric = {"127.0.0.1", "127.0.0.1"};
        return 0;
    });
    loop on(each_backend());
    const std::size_t before = open_descriptors();
    job<result<stream>> running(on, connect("silent.example", silent.where().port()));
    while (open_descriptors() == before) {
        on.run_once(1ms);
    }

    running.cancel();
    while (!running.done()) {
        on.run_once();
    }

    CHECK(running.take().error() == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
}

TEST_CASE("each attempt of a connect by name is made as it was asked for", "[connect]") {
    const probes::name_server server([](const std::string&, auto& numeric) {
        numeric = {"::1", "127.0.0.1"};  // what does not fit the local address is passed over
        return 0;
    });
    loop on(each_backend());
    auto door = listener::bind(on, address::any()).value();
    connect_options options;
    options.socket.local = address::ip("127.0.0.5", 0).value();
    options.socket.no_delay = true;
    auto work = [&]() -> task<> {
        auto socket = (co_await connect("some.example", door.local_address().port(), options)).value();
        CHECK(socket.local_address().host() == "127.0.0.5");
        CHECK(socket.get_option(IPPROTO_TCP, TCP_NODELAY).value() == 1);
    };
    zloop::run(on, work());
}
