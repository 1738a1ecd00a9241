// Two workers take numbers out of one channel, and put squares into another. Closing it is how the first
// ends.

#include <cstdio>
#include <cstdlib>

#include <zloop/zloop.hpp>

zloop::task<> produce(zloop::channel<int>& numbers) {
    for (int number = 1; number <= 10; ++number) {
        (co_await numbers.send(number)).value();  // waits while the buffer is full
    }
    numbers.close();
}

zloop::task<> square(zloop::channel<int>& numbers, zloop::channel<int>& squares) {
    for (;;) {
        const auto number = co_await numbers.receive();
        if (number.error() == zloop::errc::closed) {
            co_return;  // and empty
        }
        (co_await squares.send(*number * *number)).value();
    }
}

zloop::task<> work(zloop::channel<int>& numbers, zloop::channel<int>& squares) {
    co_await zloop::when_all(produce(numbers), square(numbers, squares), square(numbers, squares));
    squares.close();
}

zloop::task<int> sum() {
    zloop::channel<int> numbers(2);
    zloop::channel<int> squares;  // from hand to hand
    zloop::job<> working(co_await zloop::current_context(), work(numbers, squares));
    int total = 0;
    while (const auto each = co_await squares.receive()) {
        total += *each;
    }
    co_await working.join();
    const bool refused = !numbers.try_send(11) && !numbers.try_receive();
    co_return refused ? total : 0;
}

int main() {
    const int total = zloop::run(sum());
    std::printf("%d\n", total);
    return total == 385 ? EXIT_SUCCESS : EXIT_FAILURE;
}
