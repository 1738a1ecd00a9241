// zloop/loop.hpp: the event loop: a ready queue, timers, a backend, an inbox.
//
// One thread runs a loop and everything on it; other threads reach it through post() alone. What
// completes is queued and runs in its turn, never inline: no re-entrancy, a bounded stack, asyncio's
// order. A loop owns its backend; ops, timers and tasks belong to those who queued them.
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <zloop/core/fork.hpp>
#include <zloop/core/frame_pool.hpp>
#include <zloop/core/scope.hpp>
#include <zloop/core/timer.hpp>
#include <zloop/kernel/backend.hpp>
#include <zloop/kernel/default_backend.hpp>

namespace zloop {

/// Where a loop's time comes from, when not from CLOCK_MONOTONIC.
///
/// Owns:    nothing; outlives the loop that uses it.
/// Thread:  that of its loop.
/// Example: examples/cpp/virtual_clock_test.cpp
class clock_source {
public:
    /// Gives the time, which never goes back. A user's clock may interrupt() the loop that asks.
    virtual time_point now() noexcept = 0;

protected:
    /// Not by its base: the loop does not own it.
    ~clock_source() = default;
};

/// Is called around each look at the kernel, whether it sleeps or not: to let go of a lock meanwhile. A busy
/// loop looks every 64th turn, or after 100 us.
///
/// Owns:    nothing; outlives the loop that calls it.
/// Thread:  that of its loop.
/// Example: examples/cpp/callbacks.cpp
class wait_hook {
public:
    /// Comes right before the backend's wait().
    virtual void before_wait() noexcept = 0;
    /// Comes right after it, whether that has failed or not, and before anything runs.
    virtual void after_wait() noexcept = 0;

protected:
    /// Not by its base: the loop does not own it.
    ~wait_hook() = default;
};

/// Turns a loop in its place: who has something to do around each of its runs, such as to take a lock.
///
/// Owns:    nothing; outlives the loop that it turns, or has left it before.
/// Thread:  that of its loop.
/// Example: examples/cpp/callbacks.cpp
class turner {
public:
    /// Makes turns of at most `limit`, by loop::turn(), until `is_over(what)` after one of them. May throw.
    virtual void turn_until(bool (*is_over)(const void* what), const void* what, nanoseconds limit) = 0;
    /// Ends what is its own on a loop that shuts down and turns for the last time, and leaves:
    /// loop::use_turner(nullptr).
    virtual void leave() noexcept = 0;

protected:
    /// Not by its base: the loop does not own it.
    ~turner() = default;
};

namespace detail {

class task_promise_base;

/// A number of the calling thread's own. Not pthread_self(), which a later thread may have again.
inline unsigned thread_number() noexcept {
    static constinit std::atomic<unsigned> count = 0;
    static constinit thread_local unsigned own = 0;
    if (own == 0) {
        own = count.fetch_add(1, std::memory_order_relaxed) + 1;
    }
    return own;
}

/// One line on stderr: `what`, and the words of `failure`.
inline void print_failure(const char* what, std::exception_ptr failure) noexcept {
    try {
        std::rethrow_exception(std::move(failure));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "zloop: %s: %s\n", what, error.what());
    } catch (...) {
        std::fprintf(stderr, "zloop: %s\n", what);
    }
}

/// A task at the bottom of a stack of awaiting ones, as its loop knows it from start to end.
struct live_task {
    const task_promise_base* bottom = nullptr;
    live_task* next = nullptr;
    live_task* previous = nullptr;
};

}  // namespace detail

/// Runs ops in turns: what is ready, what the kernel has, what is due. All of zloop's tasks live on one.
///
/// Owns:    its backend. Ops, timers and tasks belong to those who queued, armed and started them. Neither
///          moves nor is copied.
/// Thread:  one, which turns it and does everything on it; others call post() alone.
/// Example: examples/cpp/callbacks.cpp
class loop {
public:
    /// No limit, to the sleep of run_once().
    static constexpr nanoseconds forever = nanoseconds::max();

    /// Makes a loop on `kernel`, at first the one that ZLOOP_BACKEND names.
    /// Fails: throws what default_backend() does.
    explicit loop(std::unique_ptr<backend> kernel = default_backend()) : backend_(std::move(kernel)) {
        backend_->deliver_to(ready_, &expected_);
    }

    loop(const loop&) = delete;
    loop& operator=(const loop&) = delete;

    /// Cancels what still runs and waits for its end. Whoever armed timers has disarmed them.
    ~loop() {
        shut_down();
        assert(ready_.empty() && behind_.empty() && !has_posted() && timers_.empty());
        while (!is_inherited() && wakers_.load(std::memory_order_acquire) != 0) {
            // a thread whose op has run already is still inside of wake()
        }
    }

    /// The backend, which is the loop's.
    zloop::backend& kernel() noexcept { return *backend_; }
    /// The scope above those of all tasks. shut_down() cancels it, and it stays so.
    scope& root_scope() noexcept { return root_; }

    /// The time, by the loop's clock.
    time_point now() const noexcept { return clock_ != nullptr ? clock_->now() : time_point::clock::now(); }
    /// Takes the time from `source` from now on; null: from CLOCK_MONOTONIC. Before anything is armed.
    void use_clock(clock_source* source) noexcept { clock_ = source; }
    /// Calls `hook` around each wait from now on; null: none. Gives the one before.
    wait_hook* use_wait_hook(wait_hook* hook) noexcept { return std::exchange(hook_, hook); }
    /// Has `by` make the turns from now on that are asked for by run(), run_once() and turn_until(); null:
    /// the loop itself.
    void use_turner(turner* by) noexcept { turner_ = by; }
    /// Who makes these turns; null: the loop itself.
    turner* turned_by() const noexcept { return turner_; }

    /// Says what to do with an exception that nobody awaits; at first, one line on stderr. A hook that throws
    /// ends the process.
    void use_failure_hook(void (*hook)(std::exception_ptr)) noexcept { on_failure_ = hook; }
    /// Gives an exception that nobody awaits to the failure hook.
    void report(std::exception_ptr failure) noexcept { on_failure_(std::move(failure)); }

    /// Queues `node`, which is in no queue, to run after what is queued already: in this turn's successor,
    /// when called by an op.
    /// Owns: nothing: `node` lives until it has run.
    void push(op& node) noexcept { ready_.push(node); }

    /// Takes `node` back, which push() or a timer has queued, and which has not run. O(n).
    void withdraw(op& node) noexcept {
        op* const before = ready_.remove(node);
        if (turn_end_ == &node) {
            turn_end_ = before;  // null: the op that is running is the turn's last
        }
    }

    /// Queues `node` from any thread, and wakes the loop when it sleeps. The loop lives until `node` has run.
    ///
    /// Owns:   nothing: `node` lives until it has run, which it may have done before this returns.
    /// Thread: any.
    void post(op& node) noexcept {
        op* last = inbox_.load(std::memory_order_relaxed);
        for (;;) {
            const bool asleep = last == &asleep_;
            if (asleep) {
                wakers_.fetch_add(1, std::memory_order_relaxed);
            }
            node.next = asleep ? nullptr : last;
            if (inbox_.compare_exchange_weak(last, &node, std::memory_order_acq_rel,
                                             std::memory_order_relaxed)) {
                if (asleep) {
                    wakes_.fetch_add(1, std::memory_order_relaxed);
                    backend_->wake();
                    wakers_.fetch_sub(1, std::memory_order_release);
                }
                return;  // `node` may have run by now, and nothing here be left
            }
            if (asleep) {
                wakers_.fetch_sub(1, std::memory_order_relaxed);
            }
        }
    }

    /// Calls `function()`, which may be of a type that only moves, in a turn of the loop; from any thread.
    /// What it throws goes to the failure hook. A loop that ends calls what was posted before.
    ///
    /// Fails:  throws std::bad_alloc, and has posted nothing.
    /// Owns:   `function`, which is destroyed on the loop's thread.
    /// Thread: any.
    template <std::invocable F>
        requires(!std::is_base_of_v<op, F>)
    void post(F function) {
        post(static_cast<op&>(*new posted_call<F>(*this, std::move(function))));
    }

    /// Queues `node` for the next turn, behind all that this one queues: where the kernel's events of that
    /// turn stand.
    void push_behind(op& node) noexcept { behind_.push(node); }

    /// Announces an op that another thread will post, whatever happens: shut_down() waits for it, and a
    /// virtual clock stands still.
    void expect() noexcept { ++expected_; }
    /// Tells that an expected op came.
    void received() noexcept { --expected_; }

    /// Queues what other threads have posted; each turn begins with it.
    void take_inbox() noexcept {
        if (inbox_.load(std::memory_order_relaxed) == nullptr) {
            return;
        }
        op* newest = inbox_.exchange(nullptr, std::memory_order_acquire);
        op* oldest = nullptr;
        if (newest == &asleep_) {
            newest = nullptr;  // somebody else slept for us; or another thread has forked us asleep
        }
        while (newest != nullptr) {  // it is a stack
            op* const next = newest->next;
            newest->next = oldest;
            oldest = newest;
            newest = next;
        }
        while (oldest != nullptr) {
            op& taken = *oldest;
            oldest = oldest->next;
            ready_.push(taken);
        }
    }

    /// Whether take_inbox() would find something. A loop that sleeps has nothing.
    /// Thread: any.
    bool has_posted() const noexcept {
        const op* const newest = inbox_.load(std::memory_order_relaxed);
        return newest != nullptr && newest != &asleep_;
    }

    /// Queues `node`, not armed yet, once `deadline` has passed.
    ///
    /// Fails: throws std::bad_alloc, and then changed nothing.
    /// Owns:  nothing: `node` lives until it has run, or was disarmed.
    void arm(timer_node& node, time_point deadline) { timers_.insert(node, deadline); }
    /// Takes `node`, which is armed(), back: it will not run.
    void disarm(timer_node& node) noexcept { timers_.remove(node); }

    /// What runs next, in order.
    const op_queue& ready() const noexcept { return ready_; }
    /// And what runs behind that, in the next turn.
    const op_queue& behind() const noexcept { return behind_; }
    /// The armed timers: to look at. arm() and disarm() change them.
    timer_heap& timers() noexcept { return timers_; }

    // In a host's loop: run_once(0ns); then, unless has_ready(), the host sleeps until native_handle() is
    // readable or next_deadline() has come, and turns again. From the loop's thread; asked anew each time,
    // right before it sleeps.

    /// Whether the next turn has something to do at once.
    bool has_ready() const noexcept {
        return !ready_.empty() || !behind_.empty() || has_posted() || backend_->has_something();
    }

    /// Gives a descriptor that becomes readable when a turn has something to do: of the kernel, or posted
    /// since the last run_once(0ns). To poll, level-triggered, and nothing else. -1: the backend has none.
    int native_handle() const noexcept { return backend_->native_handle(); }

    /// When the next timer is due, by the loop's clock: now(). Never: time_point::max().
    time_point next_deadline() const noexcept { return timers_.empty() ? time_point::max() : timers_.next(); }

    /// Makes one turn: what the kernel has, what is due, and then what is ready at that moment - what these
    /// queue waits for the next turn. Sleeps up to `limit` when there is nothing to do, and not at all where
    /// that is zero or less: a deadline may have passed. Without a sleep the kernel then knows of all that
    /// waits for it, and a post() makes native_handle() readable: who sleeps elsewhere can wait for that
    /// there.
    ///
    /// Fails: throws std::system_error when the backend cannot wait, and what was ready stays so, and
    ///        (`operation_not_permitted`) in another thread than the first that turned it; std::logic_error
    ///        in a fork of the loop's process.
    void run_once(nanoseconds limit = forever) {
        check_caller();
        turn_until([] { return true; }, limit);
    }

    /// Makes turns as run_once() does, until `is_over()` after one of them, for who has called begin_run().
    /// Fails: as run_once() does, but does not ask for the thread; and with what a turner() throws.
    template <class F>
    void turn_until(const F& is_over, nanoseconds limit = forever) {
        if (turner_ != nullptr) {
            turner_->turn_until(
                [](const void* what) { return static_cast<bool>((*static_cast<const F*>(what))()); },
                &is_over, limit);
            return;
        }
        do {
            turn(limit);
        } while (!is_over());
    }

    /// Makes a turn as run_once() does, for who has called begin_run() in this thread, and for a turner.
    /// Fails: as run_once() does, but does not ask for the thread.
    void turn(nanoseconds limit = forever) {
        limit = std::max(limit, nanoseconds::zero());
        gather(limit);
        run_ready();
        if (limit == nanoseconds::zero() && ready_.empty() && behind_.empty()) {
            backend_->submit();
            fall_asleep();  // false: something was posted, and has_ready() tells
        }
    }

    /// Makes a turn's first half: queues what the turn is to run, and runs nothing. For a host that then
    /// takes what is ready by itself, also from inside of a turn, which ends after its op once interrupt()
    /// was called.
    /// Fails: as turn() does.
    void gather(nanoseconds limit) {
        check_process();
        interrupted_ = false;
        take_inbox();
        ready_.splice(behind_);
        const time_point now_after_poll = poll(limit);
        while (!timers_.empty() && timers_.next() <= now_after_poll) {
            ready_.push(timers_.pop());
        }
    }

    /// Takes the oldest op that is ready, to be run now or put back; there must be one, here or behind. Ends
    /// a turn that runs.
    op& take_ready() noexcept {
        interrupted_ = true;
        if (ready_.empty()) {
            ready_.splice(behind_);
        }
        ++stats_.ops;
        return ready_.pop();
    }
    /// Puts it in front again.
    void put_back(op& node) noexcept {
        interrupted_ = true;
        ready_.push_front(node);
    }

    /// Turns until stop(); the turn that stops it is finished. A stop() from before does not count.
    /// Fails: as run_once() does.
    void run() {
        begin_run();
        stopping_ = false;
        turn_until([this] { return stopping_; });
    }
    /// Ends run() after this turn.
    void stop() noexcept { stopping_ = true; }

    /// Has the next run_once() ask the kernel, however busy the loop was.
    /// Fails: as run_once() does, where the caller may not turn the loop.
    void begin_run() {
        check_caller();
        unpolled_turns_ = most_unpolled_turns;
        unclocked_turns_ = 0;
    }

    /// Between two runs: from now on the loop is the thread's that turns it next. False: it cannot be, as the
    /// backend (io_uring) is the first thread's.
    [[nodiscard]] bool leave_thread() noexcept {
        if (!backend_->is_of_one_thread()) {
            thread_ = 0;
        }
        return thread_ == 0;
    }

    /// Has the next turn ask the kernel, however busy the loop is: something was done that may be news for
    /// another descriptor of this loop, and who has both ends counts turns until it hears of it.
    void ask_next_turn() noexcept {
        unpolled_turns_ = most_unpolled_turns;
        unclocked_turns_ = 0;
    }

    /// Ends the turn after the op that is running; the rest stays queued, in order.
    void interrupt() noexcept { interrupted_ = true; }

    /// Cancels the root scope, through shields as well, and runs what is queued until nothing is, and nothing
    /// is expected. What is started afterwards is cancelled from its first wait on. Who turns the loop leaves
    /// it first.
    void shut_down() noexcept {
        if (turner_ != nullptr) {
            turner_->leave();
        }
        abandon_if_inherited();
        root_.cancel_shielded();
        take_inbox();
        ready_.splice(behind_);
        int failures = 0;
        while (!ready_.empty() || expected_ != 0 || backend_->settling()) {
            if (ready_.empty()) {
                failures = rest(forever) ? failures + 1 : 0;
                if (failures > most_failed_waits && expected_ == 0) {
                    break;  // the kernel lets go of nothing any more
                }
            }
            backend_->collect();
            interrupted_ = false;
            run_ready();
            take_inbox();
            ready_.splice(behind_);
        }
    }

    /// Whether this process is a fork of the loop's. Then the loop can only be shut down: the kernel's
    /// side of it is the parent's, and stays as it is.
    bool is_inherited() const noexcept { return process_.is_inherited(); }
    /// Has the backend let go of what it shares with the parent, if this is a fork.
    void abandon_if_inherited() noexcept {
        if (is_inherited()) {
            backend_->abandon();
        }
    }

    /// Something that the loop still has is gone, while an exception passes: nothing else runs on it. The
    /// process ends where that exception arrives (end_if_doomed), so that it can be told; at the latest when
    /// the op that is running has ended. `gone`, where it is no null pointer, is in no queue any more.
    void condemn(const op* gone) noexcept {
        if (gone != nullptr) {
            ready_.remove(*gone);
        }
        if (!std::exchange(is_doomed_, true)) {
            ready_.push_front(doom_);
        }
    }
    /// Ends the process, and tells of `passing`, if condemn() was called.
    void end_if_doomed(const std::exception_ptr& passing) const noexcept {
        if (is_doomed_) {
            detail::print_failure("the exception that passed", passing);
            std::abort();
        }
    }

    /// What a loop has done since it was made.
    /// Example: examples/cpp/backtrace.cpp
    struct counters {
        std::uint64_t turns = 0;  ///< run_once() calls
        std::uint64_t ops = 0;    ///< ops run
        std::uint64_t polls = 0;  ///< times the kernel was asked
        std::uint64_t waits = 0;  ///< times the loop slept
        std::uint64_t wakes = 0;  ///< times another thread ended its sleep
        std::uint64_t live = 0;   ///< tasks that have been started and have not ended
    };
    /// The counters, as they are now.
    counters stats() const noexcept {
        counters now = stats_;
        now.wakes = wakes_.load(std::memory_order_relaxed);
        return now;
    }

    /// The tasks that have been started and have not ended, the youngest first (backtrace.hpp).
    const detail::live_task* live_tasks() const noexcept { return live_tasks_; }

    /// For those who start tasks: from its start to its end a task is in the list.
    void enlist(detail::live_task& task) noexcept {
        task.next = live_tasks_;
        task.previous = nullptr;
        if (live_tasks_ != nullptr) {
            live_tasks_->previous = &task;
        }
        live_tasks_ = &task;
        ++stats_.live;
    }
    /// For those who start tasks: takes one out again, at its end.
    void strike(detail::live_task& task) noexcept {
        (task.previous != nullptr ? task.previous->next : live_tasks_) = task.next;
        if (task.next != nullptr) {
            task.next->previous = task.previous;
        }
        --stats_.live;
    }

private:
    // A poll costs 0.3 us or more, a turn that wakes a task a tenth of that: 1.8x on wake cycles.
    // The bounds are what a peer may wait for because of it.
    static constexpr int most_unpolled_turns = 64;
    static constexpr nanoseconds most_unpolled_time = std::chrono::microseconds(100);

    // The clock, 22 ns, is two thirds of an empty turn: while turns are short it is read every 8th time.
    static constexpr int most_unclocked_turns = 7;
    static constexpr nanoseconds short_time = most_unpolled_time / 4;  // of all turns since the last reading

    // A wait may fail for a while, for want of memory; those frames are in use until it does not.
    static constexpr int most_failed_waits = 64;

    void check_process() const {
        if (is_inherited()) {
            throw std::logic_error("a loop does not run in a fork of its process; make a new one");
        }
    }

    void check_caller() {
        check_process();
        if (const unsigned here = detail::thread_number(); here != thread_) {
            if (thread_ != 0) {
                throw std::system_error(std::make_error_code(std::errc::operation_not_permitted),
                                        "a loop runs in the thread that turned it first");
            }
            thread_ = here;
        }
    }

    /// Asks the kernel for events, unless it was asked just now; returns the time after that, or a former
    /// one where no timer wants to know.
    time_point poll(nanoseconds limit) {
        if (unclocked_turns_ != 0 && !ready_.empty() && timers_.empty() && clock_ == nullptr &&
            !interrupted_) {
            --unclocked_turns_;
            ++unpolled_turns_;
            return last_clock_;
        }
        time_point current = now();
        if (interrupted_) {  // by the clock, which may be a user's
            return current;
        }
        if (!ready_.empty()) {
            const bool are_short = current - std::exchange(last_clock_, current) < short_time;
            if (unpolled_turns_ < most_unpolled_turns && current - last_poll_ < most_unpolled_time) {
                ++unpolled_turns_;
                unclocked_turns_ =
                    are_short ? std::min(most_unclocked_turns, most_unpolled_turns - unpolled_turns_) : 0;
                return current;
            }
            ask(nanoseconds::zero());
            unclocked_turns_ = are_short ? most_unclocked_turns : 0;
        } else {
            const nanoseconds sleep = until_next_timer(current, limit);
            ask(sleep);
            if (sleep != nanoseconds::zero()) {
                current = now();
            }
            unclocked_turns_ = 0;
            last_clock_ = current;
        }
        last_poll_ = current;
        unpolled_turns_ = 0;
        take_inbox();
        return current;
    }

    nanoseconds until_next_timer(time_point current, nanoseconds limit) const noexcept {
        if (timers_.empty() || timers_.next() == time_point::max()) {
            return limit;
        }
        const time_point next = timers_.next();
        if (next <= current) {
            return nanoseconds::zero();
        }
        return next - current < limit ? next - current : limit;
    }

    /// Asks the kernel for what has happened, and sleeps for it up to `limit`.
    void ask(nanoseconds limit) {
        ++stats_.polls;
        if (hook_ != nullptr) {
            hook_->before_wait();
        }
        const std::error_code error = rest(limit);
        if (hook_ != nullptr) {
            hook_->after_wait();
        }
        backend_->collect();
        check(error);
    }

    /// From here on a post() wakes the backend. False: something was posted before.
    bool fall_asleep() noexcept {
        op* last = nullptr;
        return inbox_.compare_exchange_strong(last, &asleep_, std::memory_order_acq_rel,
                                              std::memory_order_relaxed);
    }

    /// The backend's wait, which a post() ends.
    std::error_code rest(nanoseconds limit) noexcept {
        op* last = nullptr;
        bool asleep = false;
        if (limit != nanoseconds::zero()) {
            asleep = fall_asleep();
            if (!asleep) {
                limit = nanoseconds::zero();
            }
            ++stats_.waits;
        }
        const std::error_code error = backend_->wait(limit == forever ? nanoseconds(-1) : limit);
        last = &asleep_;
        if (asleep) {  // or something came: take_inbox() finds it
            inbox_.compare_exchange_strong(last, nullptr, std::memory_order_relaxed,
                                           std::memory_order_relaxed);
        }
        return error;
    }

    static void check(std::error_code error) {
        if (error) {
            throw std::system_error(error, "the backend's wait");
        }
    }

    void run_ready() noexcept {
        ++stats_.turns;
        turn_end_ = ready_.back();
        while (turn_end_ != nullptr && !interrupted_) {
            op& next = ready_.pop();
            if (&next == turn_end_) {
                turn_end_ = nullptr;
            }
            ++stats_.ops;
            next.run(next);
        }
        turn_end_ = nullptr;
    }

    static void print_detached(std::exception_ptr failure) noexcept {
        detail::print_failure("a detached task failed", std::move(failure));
    }

    template <class F>
    class posted_call final : public op {
        static_assert(alignof(F) <= alignof(std::max_align_t), "post() has no memory of more alignment");

    public:
        posted_call(loop& on, F&& called) : op(&posted_call::call), on_(on), function_(std::move(called)) {}

        static void* operator new(std::size_t size) { return detail::frame_pool::allocate(size); }
        static void operator delete(void* memory, std::size_t size) noexcept {
            detail::frame_pool::release(memory, size);
        }

    private:
        static void call(op& node) noexcept {
            const std::unique_ptr<posted_call> self(static_cast<posted_call*>(&node));
            try {
                self->function_();
            } catch (...) {
                self->on_.report(std::current_exception());
            }
        }

        loop& on_;
        F function_;
    };

    struct doom final : op {
        doom() noexcept : op([](op&) noexcept { std::abort(); }) {}
    };

    std::unique_ptr<zloop::backend> backend_;
    op_queue ready_;
    const op* turn_end_ = nullptr;  // the last op of the turn that runs; null: that one runs, or no turn does
    op_queue behind_;
    timer_heap timers_;
    scope root_;
    clock_source* clock_ = nullptr;
    wait_hook* hook_ = nullptr;
    turner* turner_ = nullptr;
    void (*on_failure_)(std::exception_ptr) = print_detached;
    time_point last_poll_{};
    time_point last_clock_{};  // when the clock was read last, and how often that is still spared
    int unclocked_turns_ = 0;
    int unpolled_turns_ = most_unpolled_turns;
    std::size_t expected_ = 0;
    bool stopping_ = false;
    bool interrupted_ = false;
    bool is_doomed_ = false;
    unsigned thread_ = 0;  // that turns it; none yet
    doom doom_;
    detail::fork_mark process_;
    counters stats_;
    detail::live_task* live_tasks_ = nullptr;

    // What other threads have posted, the newest first; null; or `asleep_`, while the loop waits for the
    // kernel and has to be woken. One word for both: a post to a busy loop is one exchange.
    struct mark final : op {
        mark() noexcept : op(nullptr) {}
    };
    mark asleep_;
    std::atomic<op*> inbox_ = nullptr;
    std::atomic<unsigned> wakers_ =
        0;  // threads inside of wake(): the loop does not end before they have left
    std::atomic<std::uint64_t> wakes_ = 0;
};

}  // namespace zloop
