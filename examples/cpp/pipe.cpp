// Both ends of a pipe: several buffers in one call, a message of known size, and the end.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <span>

#include <zloop/zloop.hpp>

zloop::task<bool> work(zloop::loop& loop) {
    auto [reader, writer] = zloop::make_pipe(loop).value();

    const std::array parts{zloop::bytes_of("hello, "), zloop::bytes_of("world")};
    (co_await zloop::write_all(writer, parts)).value();
    writer.close();

    std::array<std::byte, 5> greeting;
    (co_await zloop::read_exactly(reader, greeting)).value();
    std::array<std::byte, 64> rest;
    const std::size_t count = (co_await reader.recv(rest)).value();
    const std::size_t end = (co_await reader.recv(rest)).value();
    const auto more = co_await zloop::read_exactly(reader, greeting);
    std::printf("%zu bytes, then the end\n", greeting.size() + count);
    co_return zloop::as_text(greeting) == "hello" && count == 7 && end == 0 &&
        more.error() == zloop::errc::end_of_stream;
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, work(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
