// An awaitable of your own: a bell that wakes one after the other, and that a cancelled task leaves.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/wait/parked.hpp>
#include <zloop/zloop.hpp>

class bell {
public:
    class listener : zloop::wait_queue::waiter {
    public:
        explicit listener(bell& of) noexcept : zloop::wait_queue::waiter(of.waiting_), of_(of) {}

        bool await_ready() const noexcept { return false; }
        template <zloop::task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller,
                           zloop::site where = zloop::site::current()) noexcept {
            if (!park(caller, "a bell", where)) {
                return false;  // cancelled before
            }
            of_.waiting_.push(*this);
            return true;
        }
        zloop::result<void> await_resume() const noexcept { return outcome(); }

    private:
        bell& of_;
    };

    listener rings() noexcept { return listener(*this); }

    void ring() noexcept {
        if (!waiting_.empty()) {
            waiting_.pop().wake();
        }
    }

private:
    zloop::wait_queue waiting_;
};

zloop::task<> wait_for(bell& door, char name, std::string& seen) {
    const auto rang = co_await door.rings();
    seen += rang ? name : '-';
}

zloop::task<std::string> work() {
    const zloop::context here = co_await zloop::current_context();
    bell door;
    std::string seen;
    zloop::job<> first(here, wait_for(door, 'a', seen));
    zloop::job<> second(here, wait_for(door, 'b', seen));
    zloop::job<> third(here, wait_for(door, 'c', seen));
    co_await zloop::next_turn();
    second.cancel();
    door.ring();
    door.ring();
    co_await first.join();
    co_await second.join();
    co_await third.join();
    co_return seen;
}

int main() {
    const std::string seen = zloop::run(work());
    std::printf("%s\n", seen.c_str());
    return seen == "-ac" ? EXIT_SUCCESS : EXIT_FAILURE;
}
