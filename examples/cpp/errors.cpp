// A result is a value or an error: taken apart, or read by value(), which throws. Errors come from the
// system, or are zloop's own.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

zloop::result<int> half_of(int number) {
    if (number % 2 != 0) {
        return std::errc::invalid_argument;
    }
    return number / 2;
}

zloop::task<zloop::result<std::size_t>> read_a_line() {
    const auto here = co_await zloop::current_context();
    auto [reader, writer] = zloop::make_pipe(*here.on).value();
    (co_await zloop::write_all(writer, zloop::bytes_of("no end"))).value();
    writer.close();
    std::string text;
    co_return co_await zloop::read_until(reader, text, "\n");
}

int main() {
    const auto [error, three] = half_of(6);
    const auto refused = half_of(7);
    bool thrown = false;
    try {
        refused.value();
    } catch (const std::system_error& failure) {
        thrown = failure.code() == std::errc::invalid_argument;
    }
    const auto line = zloop::run(read_a_line());
    std::printf("zloop %s: %s; %s\n", zloop::version, refused.error().message().c_str(),
                line.error().message().c_str());

    const bool good =
        !error && three == 3 && !refused && thrown && line.error() == zloop::errc::end_of_stream;
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
