// All results, or the first one, of tasks that run at the same time; and what a failure does to the others.

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<int> number_after(zloop::nanoseconds duration, int number) {
    (co_await zloop::sleep_for(duration)).value();
    co_return number;
}

zloop::task<std::string> text_after(zloop::nanoseconds duration, std::string text) {
    (co_await zloop::sleep_for(duration)).value();
    co_return text;
}

zloop::task<> fail(zloop::nanoseconds duration) {
    (co_await zloop::sleep_for(duration)).value();
    throw std::runtime_error("oh");
}

zloop::task<bool> work() {
    const auto [number, text] = co_await zloop::when_all(number_after(2ms, 1), text_after(1ms, "one"));

    const auto either = co_await zloop::when_any(number_after(1h, 2), text_after(1ms, "two"));

    std::vector<zloop::task<int>> tasks;
    for (int each = 1; each <= 3; ++each) {
        tasks.push_back(number_after(each * 10ms, each));
    }
    const auto winner = co_await zloop::when_any(std::move(tasks));

    std::string failure;
    try {
        co_await zloop::when_all(number_after(1h, 3), fail(1ms));  // the hour is cancelled, and joined
    } catch (const std::runtime_error& error) {
        failure = error.what();
    }
    std::printf("%d, %s; then %s; then %d; then %s\n", number, text.c_str(), std::get<1>(either).c_str(),
                winner.value, failure.c_str());
    co_return number == 1 && text == "one" && std::get<1>(either) == "two" && winner.index == 0 &&
        winner.value == 1 && failure == "oh";
}

int main() { return zloop::run(work()) ? EXIT_SUCCESS : EXIT_FAILURE; }
