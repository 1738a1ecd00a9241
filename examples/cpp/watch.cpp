// Waits for an event of another library's, here an eventfd or a pipe: its flags stay, and nothing watches
// later.

#include <cstdio>
#include <cstdlib>

#include <unistd.h>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<bool> wait_twice(int reader, int writer) {
    auto early = [reader]() -> zloop::task<zloop::result<void>> {
        co_return co_await zloop::wait_readable(reader);
    };
    const auto nothing = co_await zloop::with_timeout(1ms, early());

    (co_await zloop::wait_writable(writer)).value();
    const bool wrote = ::write(writer, "x", 1) == 1;
    (co_await zloop::wait_readable(reader)).value();
    char letter = 0;
    co_return wrote&& nothing.error() == std::errc::timed_out&& ::read(reader, &letter, 1) == 1 &&
        letter == 'x';
}

int main() {
    int both[2];
    if (::pipe(both) != 0) {
        return EXIT_FAILURE;
    }
    const zloop::fd reader(both[0]);  // closed at the end
    const zloop::fd writer(both[1]);
    const bool good = zloop::run(wait_twice(reader.get(), writer.get()));
    std::puts(good ? "it came when it was written" : "something else came");
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
