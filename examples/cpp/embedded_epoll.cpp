// A guest in a loop of another kind: zloop's tasks run beside a program's own epoll loop, on one thread.
//
// The host asks three things of the loop: is something ready, when is the next timer due, and which
// descriptor tells of the rest. What other threads post (here: offloaded work) makes that descriptor
// readable, too.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <thread>

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

namespace {

/// The host's own: a set of descriptors, and a clock that ticks.
class host {
public:
    host() {
        const itimerspec each_2_ms{{0, 2'000'000}, {0, 2'000'000}};
        ::timerfd_settime(ticks_.get(), 0, &each_2_ms, nullptr);
        watch(ticks_.get());
    }

    void watch(int descriptor) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = descriptor;
        ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, descriptor, &event);
    }

    /// Sleeps up to `limit_ms` (-1: without end), and does its own work.
    void wait(int limit_ms) {
        epoll_event events[8];
        const int count = ::epoll_wait(set_.get(), events, 8, limit_ms);
        for (int index = 0; index < count; ++index) {
            std::uint64_t expired;
            if (events[index].data.fd == ticks_.get() && ::read(ticks_.get(), &expired, 8) == 8) {
                ticked_ += expired;
            }
        }
    }

    std::uint64_t ticked() const { return ticked_; }

private:
    zloop::fd set_{::epoll_create1(EPOLL_CLOEXEC)};
    zloop::fd ticks_{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    std::uint64_t ticked_ = 0;
};

/// How long the host may sleep.
int patience_ms(const zloop::loop& guest) {
    if (guest.has_ready()) {
        return 0;
    }
    const zloop::time_point next = guest.next_deadline();
    if (next == zloop::time_point::max()) {
        return -1;
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(next - guest.now());  // up: nothing is early
    return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
}

zloop::task<int> work() {
    int sum = 0;
    for (int round = 0; round < 5; ++round) {
        (co_await zloop::sleep_for(3ms)).value();
        sum += (co_await zloop::offload([round] {
                   std::this_thread::sleep_for(3ms);
                   return round;
               })).value();
    }
    co_return sum;
}

}  // namespace

int main() {
    zloop::loop guest;
    host own;
    if (guest.native_handle() < 0) {
        return 1;
    }
    own.watch(guest.native_handle());

    zloop::job<int> working(guest, work());
    while (!working.done()) {
        guest.run_once(0ns);
        if (!working.done()) {
            own.wait(patience_ms(guest));
        }
    }
    std::printf("the guest's sum is %d; the host's clock has ticked meanwhile: %s\n", working.take(),
                own.ticked() != 0 ? "yes" : "no");
    return own.ticked() != 0 ? 0 : 1;
}
