// Sequences: one that is computed, and one that is waited for.

#include <cstdio>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::generator<int> squares(int most) {
    for (int each = 1; each <= most; ++each) {
        co_yield each* each;
    }
}

/// The lines of a stream, to its end.
zloop::async_generator<std::string> lines(zloop::stream& from) {
    std::string line;
    for (;;) {
        const auto received = co_await from.receive();
        if (received.value().empty()) {
            co_return;
        }
        for (const char each : std::string(zloop::as_text(*received))) {
            if (each != '\n') {
                line += each;
                continue;
            }
            co_yield line;
            line.clear();
        }
    }
}

zloop::task<int> work() {
    int sum = 0;
    for (const int each : squares(4)) {
        sum += each;
    }
    std::printf("%d\n", sum);

    const zloop::context here = co_await zloop::current_context();
    auto [near, far] = zloop::stream::pair(*here.on).value();
    (co_await far.send(zloop::bytes_of("one\ntwo\n"))).value();
    far.close();
    int count = 0;
    auto words = lines(near);
    // A pointer to the value, which lives until the next one; null at the end.
    while (const std::string* each = co_await words.next()) {
        std::printf("%s\n", each->c_str());
        ++count;
    }
    co_return sum == 30 && count == 2 ? 0 : 1;
}

int main() { return zloop::run(work()); }
