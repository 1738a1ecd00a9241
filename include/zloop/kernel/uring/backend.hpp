// zloop/kernel/uring/backend.hpp: the Linux backend that completes.
//
// Requests are collected while a turn runs, and leave in the one system call that also waits. Here: which
// descriptors are in service or watched, the waits, and which completion is whose. How operations are carried
// out is in operations.hpp; what happens to bytes that nobody waits for, in arrivals.hpp.
//
// The ring belongs to the thread that turns the loop first. On another one a wait fails with
// operation_not_permitted; the loop can still be destroyed there. Descriptors that are closed with requests
// under way cost a system call more: it makes the kernel let go of them at once.
#pragma once

#include <zloop/kernel/uring/operations.hpp>

#if ZLOOP_HAS_URING

#include <atomic>

#include <sys/eventfd.h>

namespace zloop {

/// Serves a loop by io_uring: the backend of Linux that completes.
///
/// Cancelled: an operation that the kernel has ends with the kernel's last word: what it has done till then
///            is the result.
/// Owns:      the ring, its memory, and an eventfd.
/// Thread:    that which turns the loop first, but for wake(). On another wait() fails with
///            `operation_not_permitted`; the loop may still be destroyed there.
/// Example:   examples/cpp/backends.cpp
class uring_backend final : public detail::uring::operations {
    using channel = detail::uring::channel;
    using completion = detail::uring::completion;
    using lane = detail::uring::lane;
    using request_state = detail::uring::request_state;
    using requests = detail::uring::requests;

public:
    /// Makes a ring of its own.
    /// Fails: throws std::system_error where there is no io_uring, none that can do enough (Linux 6.0), or
    ///        where a filter of system calls or the administrator forbids it; std::bad_alloc.
    uring_backend() : wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        if (!wake_) {
            throw std::system_error(errno, std::system_category(), "eventfd");
        }
    }

    /// Waits until the kernel has let go of the ring's memory; what it does not let go of is left to it.
    ~uring_backend() override {
        table_.for_each([this](channel& left) {
            if (!left.closed) {
                left.waiting[0] = left.waiting[1] = nullptr;  // nobody is told any more
                retire(table_.remove(left.fd));
            }
        });
        if (!drain() && !requests_.ring().works_in_enter_alone()) {
            arrivals_.buffers().leak();  // the kernel may write there still
        }
        requests_.ring().abandon();
        table_.serve_listed([](channel&) { return true; });
    }

    std::string_view name() const noexcept override { return "io_uring"; }
    bool is_of_one_thread() const noexcept override { return true; }

    /// Not the ring: who polls that is not told of work that the kernel leaves to our next system call
    /// (DEFER_TASKRUN), which is all of it. An eventfd is; it is there for those who ask, as each completion
    /// costs a write to it. What the kernel owes to a write to another eventfd it tells once and then never
    /// again (seen on 6.18: the deferred signal of io_uring/eventfd.c), so wake() rings it, too.
    int native_handle() const noexcept override {
        if (!bell_) {
            const detail::uring::ring& ring = requests_.ring();
            const unsigned before = ring.has_work() || ring.has_completions() ? 1 : 0;
            fd made(::eventfd(before, EFD_NONBLOCK | EFD_CLOEXEC));
            if (!made || !requests_.is_reachable() || !ring.announce_to(made.get())) {
                return ring.native_handle();
            }
            bell_ = std::move(made);
            rung_.store(bell_.get(), std::memory_order_release);
        }
        return bell_.get();
    }

    std::error_code attach(int fd) noexcept override {
        if (const auto error = reserve(fd)) {
            return error;
        }
        if (table_.find(fd) != nullptr) {
            // The kernel has just given us this number: an owner or a watcher of a former life has nothing.
            orphan(fd);
        }
        return table_.add(fd, true);
    }

    unclaimed take_unclaimed(int fd) override {
        channel& at = table_.at(fd);
        for (int tries = 0; tries < most_failures && !at.is_idle(lane::arriving); ++tries) {
            stop(at, lane::arriving);
            flush();
        }
        unclaimed found;
        found.connections.reserve(at.connections.size());
        while (!at.connections.empty()) {
            found.connections.emplace_back(at.connections.pop());
        }
        found.bytes.resize(at.received.size_bytes());
        arrivals_.copy(at, found.bytes.data(), found.bytes.size());
        return found;
    }

    void release(int fd) noexcept override {
        channel& at = table_.at(fd);
        assert(at.owned);
        end_operations(at);
        retire_at_once(fd);
    }

    void close(int fd) noexcept override {
        release(fd);
        ::close(fd);
    }

    std::error_code watch(watcher& interest) noexcept override {
        if (const auto error = reserve(interest.fd)) {
            return error;
        }
        if (table_.find(interest.fd) == nullptr) {
            if (const auto error = table_.add(interest.fd, false)) {
                return error;
            }
        }
        channel& at = table_.at(interest.fd);
        op*& waiting = at.waiter(lane_of(interest));
        if (at.owned || waiting != nullptr) {
            return std::make_error_code(std::errc::device_or_resource_busy);
        }
        waiting = &interest;
        table_.list(at);
        return {};
    }

    void unwatch(watcher& interest) noexcept override {
        if (interest.fd < 0) {
            return;  // orphaned
        }
        channel& at = table_.at(interest.fd);
        const lane way = lane_of(interest);
        assert(at.waiter(way) == &interest);
        at.waiter(way) = nullptr;
        if (at.waiting[0] == nullptr && at.waiting[1] == nullptr) {
            retire_at_once(interest.fd);
        } else {
            stop(at, way);
        }
    }

    std::error_code wait(nanoseconds timeout) noexcept override {
        if (!requests_.is_reachable()) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        detail::uring::ring& ring = requests_.ring();
        loans_.end_of_turn();
        prepare();
        unsigned wanted = 1;
        if (timeout == nanoseconds::zero() || ring.has_completions() || table_.has_listed()) {
            if (ring.prepared() == 0 && !ring.has_work()) {
                silence_bell(false);
                return {};
            }
            wanted = 0;
        }
        const int error = ring.enter(wanted, timeout);
        silence_bell(false);
        switch (error) {
            case 0:
            case EINTR:
            case ETIME:
            case EBUSY:   // completions are in the way: they are taken now
            case EAGAIN:  // no memory for a request: it is still there
                return {};
            case EEXIST:  // another thread's ring
                give_up();
                return std::make_error_code(std::errc::operation_not_permitted);
            default: return system_error_code(error);
        }
    }

    void submit() noexcept override {
        if (requests_.is_reachable()) {
            prepare();
            if (requests_.ring().prepared() != 0) {
                requests_.ring().enter(0);  // what fails waits for the next wait()
                silence_bell(requests_.ring().has_completions());
            }
        }
    }

    bool has_something() const noexcept override {
        const detail::uring::ring& ring = requests_.ring();
        return requests_.is_reachable() && (ring.prepared() != 0 || table_.has_listed());
    }

    void collect() noexcept override {
        if (!requests_.is_reachable()) {
            return;  // the parent's completions
        }
        requests_.ring().reap([this](const completion& seen) { complete(seen); });
    }

    void wake() noexcept override {
        const std::uint64_t one = 1;
        detail::uninterrupted([&] { return ::write(wake_.get(), &one, sizeof one); });  // or a loop sleeps on
        ring_bell();
    }

    void abandon() noexcept override {
        requests_.ring().abandon();
        wake_.reset();
        rung_.store(-1, std::memory_order_relaxed);
        bell_.reset();
    }

private:
    /// The bell was rung for what our own call has brought; and for `more`, which nobody has looked at yet.
    void silence_bell(bool more) noexcept {
        if (bell_) {
            std::uint64_t count;
            detail::uninterrupted([&] { return ::read(bell_.get(), &count, sizeof count); });
            if (more || requests_.ring().has_work()) {
                ring_bell();
            }
        }
    }

    void ring_bell() noexcept {
        const std::uint64_t one = 1;
        if (const int bell = rung_.load(std::memory_order_acquire); bell >= 0) {
            detail::uninterrupted([&] { return ::write(bell, &one, sizeof one); });
        }
    }

    /// How often in a row the kernel may refuse to do anything, for want of memory.
    static constexpr int most_failures = 16;

    static lane lane_of(const watcher& interest) noexcept {
        return interest.toward == direction::read ? lane::reading : lane::writing;
    }

    // Descriptors.

    std::error_code reserve(int fd) noexcept {
        if (fd >= 0 && !requests_.is_reachable()) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        return table_.reserve(fd);
    }

    /// The number has changed hands behind its owner's back, or its watcher's.
    void orphan(int fd) noexcept {
        channel& at = table_.at(fd);
        if (at.owned) {
            end_operations(at);
        } else {
            for (op*& each : at.waiting) {
                if (each != nullptr) {
                    static_cast<watcher*>(std::exchange(each, nullptr))->fd = -1;
                }
            }
        }
        requests_.ring().renounce(fd);  // what has not left yet would meet the new owner
        retire_at_once(fd);
    }

    /// A channel that is nobody's any more: what it has goes, and its requests end.
    void retire(channel& at) noexcept {
        for (const lane each : detail::uring::lanes) {
            stop(at, each);
        }
        arrivals_.discard(at);
        table_.free_if_done(at);
    }

    void retire_at_once(int fd) noexcept {
        channel& at = table_.remove(fd);
        const bool known_to_kernel = at.in_kernel();
        retire(at);
        if (known_to_kernel && requests_.is_reachable()) {
            flush();
        }
    }

    // Waits.

    /// What enters the kernel next: buffers for it, and the requests that are due.
    void prepare() noexcept {
        arrivals_.supply();
        if (!wakes_) {
            wakes_ = requests_.poll_waker(wake_.get());
        }
        table_.serve_listed([this](channel& at) {
            const bool told = tell(at);
            return at.closed ? told : told && (at.owned ? listen(at) : look(at));
        });
    }

    /// Pays what the lanes of a channel owe. False: not all of it.
    bool tell(channel& at) noexcept {
        bool told = true;
        for (const lane each : detail::uring::lanes) {
            told = (at.of(each) != request_state::owing || requests_.stop(at, each)) && told;
        }
        return told;
    }

    /// Polls a watched descriptor in each direction that is not told of already. False: some later time.
    bool look(channel& at) noexcept {
        bool done = true;
        for (const lane way : {lane::reading, lane::writing}) {
            auto* const interest = static_cast<watcher*>(at.waiter(way));
            if (interest != nullptr && at.is_idle(way)) {
                done = !interest->queued && requests_.poll(at, way) && done;
            }
        }
        return done;
    }

    /// Hands over every request, and lets the kernel act on it.
    void flush() noexcept {
        // Once, but for completions that are in the way, and for what has no memory.
        for (int tries = 0; tries < most_failures; ++tries) {
            if (requests_.owing() != 0) {
                table_.serve_listed([this](channel& at) { return tell(at) && at.closed; });
            }
            const int error = requests_.ring().enter(0);
            if (error == EEXIST) {
                break;
            }
            if (error == EBUSY) {
                collect();
            }
            if (requests_.owing() == 0 && requests_.ring().prepared() == 0) {
                break;
            }
        }
        collect();
        silence_bell(requests_.ring().has_completions());
    }

    /// Nobody enters the ring any more, so the kernel does nothing there: operations that wait for its last
    /// word can end without it.
    void give_up() noexcept {
        if (!settling() || !requests_.ring().works_in_enter_alone()) {
            return;
        }
        requests_.ring().abandon();
        table_.for_each([this](channel& at) {
            for (op* const each : at.waiting) {
                auto* const operation = at.owned ? static_cast<io_op*>(each) : nullptr;
                if (operation != nullptr && operation->state == io_op::phase::stopping) {
                    settle(*operation, at, {0, -ECANCELED, 0});
                }
            }
        });
    }

    /// Waits until the kernel has let go of everything. False: it does not, or not for this thread.
    bool drain() noexcept {
        constexpr nanoseconds patience = std::chrono::milliseconds(100);
        for (int failures = 0; requests_.under_way() > 0; ++failures) {
            if (!requests_.is_reachable()) {
                return true;  // what it has is the parent's
            }
            if (failures > most_failures) {
                return false;
            }
            const std::size_t before = requests_.under_way();
            flush();
            if (requests_.under_way() > 0 && requests_.owing() == 0) {
                if (requests_.ring().enter(1, patience) == EEXIST) {
                    return false;
                }
                collect();
            }
            if (requests_.under_way() < before) {
                failures = 0;
            }
        }
        return true;
    }

    // Completions.

    void complete(const completion& seen) noexcept {
        const bool last = (seen.flags & detail::uring::has_more) == 0;
        if (seen.user_data == requests::nobody) {
            return;
        }
        if (seen.user_data == requests::waker) {
            wakes_ = !last;
            return;
        }
        channel& at = channel::of(seen.user_data);
        const lane which = channel::lane_of(seen.user_data);
        const bool asked = at.of(which) != request_state::running;
        if (last) {
            requests_.ended(at, which);
        }
        if (which == lane::arriving) {
            complete_arrival(at, seen, last);
        } else if (at.owned) {
            complete_operation(at, which, seen);
        } else {
            complete_watch(at, which, asked ? -ECANCELED : seen.result);
        }
        table_.free_if_done(at);
    }

    /// `result`: of the poll; what one found that was asked to end was for who watched before.
    void complete_watch(channel& at, lane way, int result) noexcept {
        auto* const interest = static_cast<watcher*>(at.waiter(way));
        if (interest == nullptr || at.closed) {
            return;
        }
        if (at.hears_end_alone(way, result)) {
            table_.list(at);  // where the poll is over
            return;
        }
        if (result >= 0 && !at.is_idle(way)) {
            stop(at, way);  // it tells of changes alone; the next one finds that there is room still
        }
        if (result >= 0 && !interest->queued) {
            interest->queued = true;
            ready_->push(*interest);
        }
        // Polled again, before the next wait; but for who watches once, and where it is closed.
        const bool told = interest->once && interest->queued;
        if (!told && (result >= 0 || detail::uring::is_stopped(result))) {
            table_.list(at);
        }
    }

    fd wake_;
    mutable fd bell_;                     // native_handle(), once somebody asked for it
    mutable std::atomic<int> rung_ = -1;  // its number, for wake()
    bool wakes_ = false;
};

}  // namespace zloop

#endif
