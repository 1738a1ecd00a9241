// Addresses as values, and those of a name. Numbers are answered without asking anybody.

#include <cstdio>
#include <cstdlib>

#include <zloop/zloop.hpp>

zloop::task<bool> look_up() {
    const auto found = (co_await zloop::resolve("::1", "8080")).value();

    zloop::resolve_options numbers_only;
    numbers_only.flags = AI_NUMERICHOST;
    const auto failed = co_await zloop::resolve("localhost", 80, numbers_only);
    std::printf("%s; %s\n", found.front().to_string().c_str(), failed.error().message().c_str());

    co_return found.size() == 1 && found.front() == zloop::address::ip("::1", 8080).value() &&
        failed.error() == zloop::resolve_errc::host_not_found;
}

int main() {
    const auto here = zloop::address::loopback(80);
    const auto path = zloop::address::local("/run/example").value();
    const auto name = zloop::address::ip("localhost", 80);  // no number
    std::printf("%s; %s; %s\n", here.to_string().c_str(), path.to_string().c_str(),
                name.error().message().c_str());

    const bool good = here.host() == "127.0.0.1" && here.port() == 80 && here.family() == AF_INET &&
                      path.family() == AF_UNIX && name.error() == std::errc::invalid_argument;
    return zloop::run(look_up()) && good ? EXIT_SUCCESS : EXIT_FAILURE;
}
