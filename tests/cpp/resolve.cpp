#include <zloop/resolve.hpp>

#include <condition_variable>
#include <thread>

#include <zloop/job.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace std::chrono_literals;
using namespace zloop;
using support::each_backend;

namespace {

using answer = result<std::vector<address>>;

answer ask(std::string host, std::uint16_t port, resolve_options options = {}) {
    return zloop::run(resolve(std::move(host), port, options));
}
answer ask(std::string host, std::string service, resolve_options options = {}) {
    return zloop::run(resolve(std::move(host), std::move(service), options));
}

}  // namespace

TEST_CASE("numbers are answered at once and without a thread", "[resolve]") {
    const probes::failing no_thread(probes::pthread_create, EAGAIN, 100);
    const probes::name_server nobody([](const auto&, auto&) { return EAI_FAIL; });

    CHECK(*ask("127.0.0.1", 80) == std::vector{*address::ip("127.0.0.1", 80)});
    CHECK(*ask("::1", "443") == std::vector{*address::ip("::1", 443)});
    CHECK(*ask("192.0.2.1", "") == std::vector{*address::ip("192.0.2.1", 0)});
}

TEST_CASE("an empty host is this one", "[resolve]") {
    const auto loopback = ask("", 80, {.family = AF_INET});
    CHECK(*loopback == std::vector{address::loopback(80)});

    const auto any = ask("", 80, {.family = AF_INET, .flags = AI_PASSIVE});
    CHECK(*any == std::vector{address::any(80)});
}

TEST_CASE("a name is looked up on another thread, and has its addresses in order", "[resolve]") {
    const auto here = std::this_thread::get_id();
    std::atomic<bool> elsewhere = false;
    const probes::name_server server([&](const std::string& host, auto& numeric) {
        elsewhere = std::this_thread::get_id() != here;
        if (host != "two.example") {
            return EAI_NONAME;
        }
        numeric = {"2001:db8::1", "192.0.2.1", "192.0.2.1"};
        return 0;
    });

    const auto found = ask("two.example", 80);

    CHECK(found.value() == std::vector{*address::ip("2001:db8::1", 80), *address::ip("192.0.2.1", 80)});
    CHECK(elsewhere);
}

TEST_CASE("the system's own names and services are found", "[resolve]") {
    const auto found = ask("localhost", "80", {.family = AF_INET});

    REQUIRE(found);
    CHECK(found->front() == address::loopback(80));
}

TEST_CASE("options choose family and type, and any type gives each address once", "[resolve]") {
    CHECK(*ask("127.0.0.1", 53, {.type = SOCK_DGRAM}) == std::vector{address::loopback(53)});
    CHECK(*ask("127.0.0.1", 53, {.type = 0}) == std::vector{address::loopback(53)});
    CHECK_FALSE(ask("127.0.0.1", 53, {.family = AF_INET6}));
    CHECK(ask("127.0.0.1", 53, {.family = 12345}).error() == resolve_errc::family_not_supported);
    CHECK(ask("no.number", 53, {.flags = AI_NUMERICHOST}).error() == resolve_errc::host_not_found);
}

TEST_CASE("an error of a lookup has the system's words", "[resolve]") {
    const probes::name_server server([](const std::string& host, auto&) {
        errno = EMFILE;
        return host == "system" ? EAI_SYSTEM : host == "later" ? EAI_AGAIN : EAI_NONAME;
    });

    const auto unknown = ask("unknown", 80).error();
    CHECK(unknown == resolve_errc::host_not_found);
    CHECK(unknown.message() == ::gai_strerror(EAI_NONAME));
    CHECK(std::string(unknown.category().name()) == "getaddrinfo");
    CHECK(ask("later", 80).error() == resolve_errc::try_again);
    CHECK(ask("system", 80).error() == std::errc::too_many_files_open);
}

TEST_CASE("a name does not end at a zero byte", "[resolve]") {
    CHECK(ask(std::string("127.0.0.1\0.example", 18), 80).error() == resolve_errc::host_not_found);
}

TEST_CASE("several names are looked up at once", "[resolve]") {
    std::mutex mutex;
    std::condition_variable changed;
    int waiting = 0;
    const probes::name_server server([&](const auto&, auto& numeric) {
        std::unique_lock lock(mutex);
        ++waiting;
        changed.notify_all();
        changed.wait(lock, [&] { return waiting == 3; });  // none goes on before all have come
        numeric = {"192.0.2.1"};
        return 0;
    });
    auto work = []() -> task<std::size_t> {
        auto [a, b, c] = co_await when_all(resolve("a", 1), resolve("b", 2), resolve("c", 3));
        co_return a->size() + b->size() + c->size();
    };

    CHECK(zloop::run(work()) == 3);
}

TEST_CASE("a cancelled lookup is left alone, even by its loop", "[resolve]") {
    struct shared {
        std::mutex mutex;
        std::condition_variable changed;
        bool begun = false, open = false, ended = false;
    };
    static shared state;  // outlives the thread's work
    state.begun = state.open = state.ended = false;
    const probes::name_server server([](const auto&, auto& numeric) {
        std::unique_lock lock(state.mutex);
        state.begun = true;
        state.changed.notify_all();
        state.changed.wait(lock, [] { return state.open; });
        numeric = {"192.0.2.1"};
        state.ended = true;
        state.changed.notify_all();
        return 0;
    });
    {
        loop on(each_backend());
        job<answer> running(on, resolve("slow", 80));
        on.run_once(0ns);
        {
            std::unique_lock lock(state.mutex);
            state.changed.wait(lock, [] { return state.begun; });
        }
        running.cancel();
        while (!running.done()) {
            on.run_once();
        }
        CHECK(running.take().error() == std::errc::operation_canceled);
    }
    std::unique_lock lock(state.mutex);
    CHECK(!state.ended);
    state.open = true;
    state.changed.notify_all();
    state.changed.wait(lock, [] { return state.ended; });
}

TEST_CASE("lookups may have a pool of their own", "[resolve]") {
    offload_pool pool(1);
    const probes::name_server server([](const auto&, auto& numeric) {
        numeric = {"192.0.2.1"};
        return 0;
    });

    CHECK(ask("name", 80, {.pool = &pool})->size() == 1);
}
