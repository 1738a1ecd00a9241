// sleepers.cpp: the resident bytes of a sleeping task: `sleepers [count]`.
//
// Of `count` of them, spawned in one nursery, when a tenth as many are there already.
#include <cstdio>
#include <cstdlib>

#include <unistd.h>

#include <zloop/zloop.hpp>

namespace {

using namespace std::chrono_literals;

double resident_bytes() {
    long pages = 0;
    long resident = 0;
    std::FILE* const statm = std::fopen("/proc/self/statm", "r");
    if (statm == nullptr || std::fscanf(statm, "%ld %ld", &pages, &resident) != 2) {
        std::abort();
    }
    std::fclose(statm);
    return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

zloop::task<> sleeper() { static_cast<void>(co_await zloop::sleep_for(24h)); }

zloop::task<> sleepers(std::size_t count) {
    zloop::nursery children(co_await zloop::current_context());
    double before = 0;
    for (std::size_t index = 0; index < count + count / 10; ++index) {
        if (index == count / 10) {
            co_await zloop::next_turn();
            co_await zloop::next_turn();
            before = resident_bytes();
        }
        children.spawn(sleeper());
    }
    co_await zloop::next_turn();
    co_await zloop::next_turn();
    std::printf("a sleeping task: %.0f bytes\n", (resident_bytes() - before) / static_cast<double>(count));
    children.cancel();
    co_await children.join();
}

}  // namespace

int main(int count, char** arguments) {
    zloop::run(sleepers(count > 1 ? static_cast<std::size_t>(std::atol(arguments[1])) : 100'000));
}
