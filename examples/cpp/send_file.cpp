// Sends a part of a file, and a whole one by its path: this program's own source would do as well.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>
#include <zloop/zloop.hpp>

zloop::task<bool> work(zloop::loop& loop, int file, std::string path) {
    auto [theirs, ours] = zloop::stream::pair(loop).value();

    const auto part = co_await zloop::send_file(ours, file, 7, 5);
    const std::string seen(zloop::as_text((co_await theirs.receive()).value()));

    const auto all = co_await zloop::send_file(ours, std::move(path));
    const auto missing = co_await zloop::send_file(ours, std::string("/no/such/file"));
    std::printf("%s; %d bytes; %s\n", seen.c_str(), static_cast<int>(all.count),
                missing.error.message().c_str());
    co_return part.value() == 5 && seen == "world" && all.value() == 12 &&
        missing.error == std::errc::no_such_file_or_directory;
}

int main() {
    char path[] = "/tmp/zloop-example-XXXXXX";
    const zloop::fd file(::mkstemp(path));
    bool good = file && ::write(file.get(), "hello, world", 12) == 12;
    zloop::loop loop;
    good = good && zloop::run(loop, work(loop, file.get(), path));
    ::unlink(path);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
