// The same task on each backend that can run here, on the one that ZLOOP_BACKEND names, and on the
// platform's.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <zloop/zloop.hpp>

zloop::task<std::string> talk() {
    const auto here = co_await zloop::current_context();
    auto [one, other] = zloop::stream::pair(*here.on).value();
    (co_await zloop::write_all(one, zloop::bytes_of("hello"))).value();
    const auto heard = (co_await other.receive()).value();  // lent until the next await
    co_return std::string(zloop::as_text(heard));
}

bool talks_on(std::unique_ptr<zloop::backend> kernel) {
    zloop::loop loop(std::move(kernel));
    const std::string name(loop.kernel().name());
    const std::string heard = zloop::run(loop, talk());
    std::printf("%s: %s\n", name.c_str(), heard.c_str());
    return heard == "hello";
}

int main() {
    bool good = talks_on(zloop::default_backend()) && talks_on(zloop::platform_backend());
#if ZLOOP_HAS_EPOLL
    good = talks_on(std::make_unique<zloop::epoll_backend>()) && good;
#endif
#if ZLOOP_HAS_KQUEUE
    good = talks_on(std::make_unique<zloop::kqueue_backend>()) && good;
#endif
#if ZLOOP_HAS_URING
    try {
        good = talks_on(std::make_unique<zloop::uring_backend>()) && good;
    } catch (const std::system_error& error) {
        std::printf("io_uring: %s\n", error.what());
    }
#endif
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
