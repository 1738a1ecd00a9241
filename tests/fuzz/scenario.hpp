// A program made of bytes: tasks that spawn, cancel, connect, write, close, sleep and wait for each other,
// on the scripted backend. What must hold, whatever the program, is checked on the way and at the end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>

namespace fuzz {

using namespace std::chrono_literals;

inline void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "broken: %s\n", what);
        std::abort();
    }
}

class input {
public:
    input(const std::uint8_t* data, std::size_t size) noexcept : next_(data), end_(data + size) {}
    bool empty() const noexcept { return next_ == end_; }
    unsigned byte() noexcept { return empty() ? 0 : *next_++; }
    unsigned below(unsigned limit) noexcept { return byte() % limit; }

private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

/// One way of a connection: which bytes were acknowledged, and which have come.
struct half {
    std::size_t acknowledged = 0;
    std::size_t seen = 0;
    bool broken = false;  ///< reset, or closed by the reader: bytes may be missing at its end

    std::byte at(std::size_t position) const noexcept {
        return static_cast<std::byte>(position * 167 + (position >> 8) * 59 + (position >> 16));
    }
    void take(std::span<const std::byte> bytes) {
        for (const std::byte each : bytes) {
            require(each == at(seen), "bytes come in order, none lost, none doubled");
            ++seen;
        }
        require(seen <= acknowledged + in_flight, "what comes was sent");
    }
    std::size_t in_flight = 0;  ///< of a write whose outcome is not known yet
};

struct end {
    zloop::stream socket;
    int number = -1;
    half* out = nullptr;
    half* in = nullptr;
    bool reading = false;
    bool writing = false;
};

struct connection {
    half forth, back;
    end one, other;
};

class world {
public:
    world(const std::uint8_t* data, std::size_t size) : in(data, size), lines(in.below(4)) {
        on.use_failure_hook([](std::exception_ptr) {});
        on.kernel().lets_go_late(in.below(2) == 1);
        door = zloop::listener::adopt(on, zloop::fd(on.kernel().listen(somewhere))).value();
        for (unsigned count = 1 + in.below(3); count > 0; --count) {
            const auto [one, other] = on.kernel().pair();
            add(zloop::stream::adopt(on, zloop::fd(one)).value(), one,
                zloop::stream::adopt(on, zloop::fd(other)).value(), other);
        }
    }

    void run();

private:
    using task = zloop::task<>;

    /// Counts the coroutines that are alive.
    struct alive {
        explicit alive(int& count) noexcept : count_(count) { ++count_; }
        alive(const alive&) = delete;
        alive& operator=(const alive&) = delete;
        ~alive() { --count_; }
        int& count_;
    };

    struct oops {};

    void add(zloop::stream one, int first, zloop::stream other, int second) {
        connection& made = connections.emplace_back();
        made.one = {std::move(one), first, &made.forth, &made.back};
        made.other = {std::move(other), second, &made.back, &made.forth};
    }

    end& any_end() {
        const unsigned choice = in.byte();
        connection& one = connections[choice / 2 % connections.size()];
        return choice % 2 == 0 ? one.one : one.other;
    }

    zloop::nanoseconds any_time() { return std::chrono::milliseconds(in.byte()); }

    task actor(int depth) {
        const alive here(frames);
        for (unsigned steps = 1 + in.below(6); steps > 0 && !in.empty(); --steps) {
            zloop::task<> next = step(depth);
            co_await std::move(next);
        }
    }

    task step(int depth) {
        const unsigned choice = in.byte();
        if (depth < 5) {
            switch (choice % 32) {
                case 0: return with_nursery_of(depth);
                case 1: return first_of(depth);
                case 2: return all_of(depth);
                case 3: return timed(depth);
                case 4: return shielded(depth);
                case 5: return beside(depth);
                case 6: return stoppable(depth);
                case 7: spawn(on, actor(depth + 1)); return nothing();
                default: break;
            }
        }
        switch (choice % 32) {
            case 8:
            case 9:
            case 10: return write(any_end());
            case 11:
            case 12:
            case 13: return read(any_end());
            case 14: return borrow(any_end());
            case 15: return nap();
            case 16: return next_turn();
            case 17: return send();
            case 18: return receive();
            case 19: return critical();
            case 20: return limited();
            case 21: return await_event();
            case 22: return connect();
            case 23: return accept();
            case 24: return message();
            case 25: return tick();
            case 26: return notified();
            case 27: close(any_end()); return nothing();
            case 28: disturb(any_end()); return nothing();
            case 29: disturb_loop(); return nothing();
            case 30: cancel_one(); return nothing();
            case 31: return fail();
            default: return nap();
        }
    }

    task nothing() {
        const alive here(frames);
        co_return;
    }

    // Tasks of tasks.

    task with_nursery_of(int depth) {
        const alive here(frames);
        const unsigned count = in.below(4);
        const bool stop = in.below(4) == 0;
        try {
            co_await zloop::with_nursery(
                [&](zloop::nursery& children) -> task { return fill(children, count, stop, depth); });
        } catch (const oops&) {
        }
    }

    task fill(zloop::nursery& children, unsigned count, bool stop, int depth) {
        const alive here(frames);
        for (; count > 0; --count) {
            children.spawn(actor(depth + 1));
        }
        co_await zloop::next_turn();
        if (stop) {
            children.cancel();
        }
        zloop::task<> own = actor(depth + 1);
        co_await std::move(own);
    }

    task first_of(int depth) {
        const alive here(frames);
        std::vector<task> work;
        for (unsigned count = 1 + in.below(3); count > 0; --count) {
            work.push_back(actor(depth + 1));
        }
        try {
            static_cast<void>(co_await zloop::when_any(std::move(work)));
        } catch (const oops&) {
        }
    }

    task all_of(int depth) {
        const alive here(frames);
        std::vector<task> work;
        for (unsigned count = in.below(4); count > 0; --count) {
            work.push_back(actor(depth + 1));
        }
        try {
            co_await zloop::when_all(std::move(work));
        } catch (const oops&) {
        }
    }

    task timed(int depth) {
        const alive here(frames);
        const auto limit = any_time();
        zloop::task<> work = actor(depth + 1);
        const auto outcome = co_await zloop::with_timeout(limit, std::move(work));
        static_cast<void>(outcome);
    }

    task shielded(int depth) {
        const alive here(frames);
        zloop::task<> work = actor(depth + 1);
        co_await zloop::shield(std::move(work));
    }

    task stoppable(int depth) {
        const alive here(frames);
        zloop::task<> work = actor(depth + 1);
        stops.emplace_back();
        const std::stop_token token = stops.back().get_token();
        co_await zloop::with_stop(token, std::move(work));
    }

    task beside(int depth) {
        const alive here(frames);
        const zloop::context context = co_await zloop::current_context();
        zloop::job<> child(context, actor(depth + 1));
        jobs.push_back(&child);
        for (unsigned turns = in.below(4); turns > 0; --turns) {
            co_await zloop::next_turn();
        }
        if (in.below(3) == 0) {
            child.cancel();
        }
        try {
            co_await child.join();
        } catch (const oops&) {
        }
        std::erase(jobs, &child);
    }

    // Bytes.

    task write(end& by) {
        const alive here(frames);
        std::vector<std::byte> bytes(1 + in.byte() * 8);
        if (by.writing) {
            co_return;
        }
        by.writing = true;
        half& way = *by.out;
        for (std::size_t index = 0; index < bytes.size(); ++index) {
            bytes[index] = way.at(way.acknowledged + index);
        }
        way.in_flight = bytes.size();
        const iovec parts[2] = {{bytes.data(), bytes.size() / 2},
                                {bytes.data() + bytes.size() / 2, bytes.size() - bytes.size() / 2}};
        const auto sent = co_await by.socket.send(std::span<const iovec>(parts));
        way.in_flight = 0;
        way.acknowledged += sent ? *sent : 0;
        by.writing = false;
        require(way.seen <= way.acknowledged, "a write that failed has sent nothing");
    }

    task read(end& by) {
        const alive here(frames);
        std::vector<std::byte> bytes(1 + in.byte());
        if (by.reading) {
            co_return;
        }
        by.reading = true;
        const auto count = co_await by.socket.recv(bytes);
        by.reading = false;
        if (count) {
            by.in->take(std::span(bytes).first(*count));
        }
    }

    task borrow(end& by) {
        const alive here(frames);
        if (by.reading) {
            co_return;
        }
        by.reading = true;
        const auto bytes = co_await by.socket.receive();
        by.reading = false;
        if (bytes) {
            by.in->take(*bytes);
        }
    }

    task connect() {
        const alive here(frames);
        const int number = on.kernel().open();
        auto socket = zloop::stream::adopt(on, zloop::fd(number)).value();
        const zloop::address where = somewhere;
        const auto outcome = co_await zloop::detail::connect_awaiter(on.kernel(), number, where);
        if (outcome) {
            connected.push_back({std::move(socket), number, nullptr, nullptr});
        }
    }

    task accept() {
        const alive here(frames);
        if (accepting) {
            co_return;
        }
        accepting = true;
        auto arrived = co_await door.accept();
        accepting = false;
        if (!arrived) {
            co_return;
        }
        require(!connected.empty(), "who is accepted has connected");
        end client = std::move(connected.front());  // in order of arrival
        connected.pop_front();
        const int number = arrived->socket.native_handle();
        add(std::move(client.socket), client.number, std::move(arrived->socket), number);
    }

    void close(end& by) {
        by.socket.close();
        by.in->broken = true;
    }

    void disturb(end& by) {
        zloop::testing::script& far = on.kernel().at(by.number);
        switch (in.below(8)) {
            case 0: far.takes(1 + in.byte()); break;
            case 1: far.gives(1 + in.byte()); break;
            case 2: far.stalls_read(); break;
            case 3: far.stalls_write(); break;
            case 4: far.fails_write(EINTR); break;
            case 5: far.holds(1 + in.byte() * 16); break;
            case 6: static_cast<void>(by.socket.shutdown(SHUT_WR)); break;
            default: far.resets(); by.in->broken = by.out->broken = true;
        }
    }

    void disturb_loop() {
        if (in.below(8) == 0) {
            on.kernel().fails_wait(ENOMEM);
        } else {
            on.kernel().interrupts_wait();
        }
    }

    // Waiting.

    task nap() {
        const alive here(frames);
        const zloop::time_point begin = on.now();
        const auto duration = any_time();
        const auto outcome = co_await zloop::sleep_for(duration);
        require(!outcome || on.now() >= begin + duration, "nothing fires early");
    }

    task tick() {
        const alive here(frames);
        zloop::interval each(1ms + any_time());
        for (unsigned count = in.below(3); count > 0; --count) {
            const auto ticks = co_await each.next();
            if (!ticks) {
                co_return;
            }
        }
    }

    task next_turn() {
        const alive here(frames);
        co_await zloop::next_turn();
    }

    task fail() {
        const alive here(frames);
        co_await zloop::next_turn();
        throw oops();
    }

    enum class fate : std::uint8_t { open, sent, refused, received };

    task send() {
        const alive here(frames);
        const std::size_t number = fates.size();
        fates.push_back(fate::open);
        const auto outcome = co_await lines.send(number);
        if (outcome) {
            ++values_sent;
        } else {
            require(fates[number] == fate::open, "a value that was not sent is not received");
            fates[number] = fate::refused;
        }
    }

    task receive() {
        const alive here(frames);
        const auto number = co_await lines.receive();
        if (number) {
            require(fates[*number] == fate::open, "a value is received once, and only when it was sent");
            fates[*number] = fate::received;
            ++values_received;
        }
    }

    task critical() {
        const alive here(frames);
        auto held = co_await lock.lock();
        if (!held) {
            co_return;
        }
        require(!std::exchange(inside, true), "one task at a time");
        const auto duration = any_time();
        const auto outcome = co_await zloop::sleep_for(duration);
        static_cast<void>(outcome);
        inside = false;
    }

    task limited() {
        const alive here(frames);
        const auto permit = co_await permits.acquire();
        if (!permit) {
            co_return;
        }
        require(++users <= 2, "no more permits than there are");
        co_await zloop::next_turn();
        --users;
        permits.release();
    }

    task await_event() {
        const alive here(frames);
        switch (in.below(4)) {
            case 0: happened.reset(); break;
            case 1: happened.set(); break;
            default: {
                const auto outcome = co_await happened.wait();
                static_cast<void>(outcome);
            }
        }
    }

    task notified() {
        const alive here(frames);
        auto held = co_await lock.lock();
        if (!held) {
            co_return;
        }
        if (in.below(2) == 0) {
            changed.notify_one();
            co_return;
        }
        const auto outcome = co_await changed.wait(*held);
        static_cast<void>(outcome);
    }

    task message() {
        const alive here(frames);
        struct posted : zloop::op {
            posted() noexcept : op([](op& self) noexcept { delete static_cast<posted*>(&self); }) {}
        };
        on.post(*new posted);
        co_await zloop::next_turn();
    }

    void cancel_one() {
        const unsigned choice = in.byte();
        if (choice % 4 == 0 && !stops.empty()) {
            stops[choice / 4 % stops.size()].request_stop();
        } else if (choice % 16 == 1) {
            lines.close();
        } else if (!jobs.empty()) {
            jobs[choice % jobs.size()]->cancel();
        }
    }

    // The end.

    void turn(zloop::nanoseconds limit) {
        try {
            on.run_once(limit);
        } catch (const std::system_error&) {  // a wait that fails, on purpose
        }
    }

    task drain(end& from) {
        while (!from.in->broken && from.in->seen < from.in->acknowledged) {
            std::byte bytes[512];
            const auto count = co_await from.socket.recv(bytes);
            require(count && *count != 0, "bytes that were acknowledged come");
            from.in->take(std::span(bytes).first(*count));
        }
    }

    static constexpr zloop::nanoseconds patience = 1h;

    zloop::testing::virtual_loop on;
    input in;
    zloop::address somewhere = zloop::address::loopback(80);
    zloop::listener door;
    std::deque<connection> connections;
    std::deque<end> connected;  // and not accepted yet
    bool accepting = false;
    std::vector<zloop::job<>*> jobs;
    std::deque<std::stop_source> stops;  // never moved: tokens of them are about
    zloop::channel<std::size_t> lines;
    std::vector<fate> fates;
    std::size_t values_sent = 0, values_received = 0;
    zloop::mutex lock;
    zloop::condition changed;
    bool inside = false;
    zloop::semaphore permits{2};
    int users = 0;
    zloop::event happened;
    int frames = 0;
};

inline void world::run() {
    {
        zloop::job<> root(on, actor(0));
        zloop::time_point before = on.now();
        for (int turns = 0; !(root.done() && on.stats().live == 0) && turns < 10'000; ++turns) {
            turn(patience);
            require(on.now() >= before, "time never goes back");
            if (on.now() - before >= patience) {
                break;  // all that is left waits for each other
            }
            before = on.now();
        }
        on.shut_down();
        require(root.done(), "every task ends when the loop is shut down");
        try {
            root.take();
        } catch (const oops&) {
        }
    }
    if (frames != 0) {
        zloop::print_backtrace(on);
    }
    require(frames == 0, "no coroutine is left");
    require(on.stats().live == 0, "no task is counted as live");
    require(on.ready().empty() && on.timers().empty(), "no op and no timer is left");
    require(on.kernel().waiting() == 0 && !on.kernel().settling(), "no operation is left in the backend");
    require(values_sent == values_received + lines.size(),
            "what was sent to the channel is received, or is there still");
    require(!inside && users == 0 && permits.available() == 2, "what was acquired is given back");
    require(static_cast<bool>(lock.try_lock()), "the mutex is free");

    // The root scope is cancelled now, so the rest is read on a scope of its own.
    zloop::scope afterwards;
    for (connection& each : connections) {
        for (end* reader : {&each.one, &each.other}) {
            require(!reader->reading && !reader->writing, "no operation is under way");
            zloop::job<> reading(on, afterwards, drain(*reader));
            for (int turns = 0; !reading.done() && turns < 100'000; ++turns) {
                turn(0ns);
            }
            require(reading.done(), "what was acknowledged can be read");
            reading.take();
        }
    }
    connections.clear();
    connected.clear();
    door.close();
    for (int turns = 0; turns < 3; ++turns) {
        turn(0ns);
    }
}

inline void run(const std::uint8_t* data, std::size_t size) {
    world one(data, size);
    one.run();
}

}  // namespace fuzz
