// zloop/offload.hpp: blocking work on threads of its own, its result back on the loop.
//
// A pool has a bounded number of threads, started when there is work for them, and an unbounded queue:
// what waits in it is a suspended task, so whoever bounds the tasks bounds the queue. Cancelled work
// that has not begun is taken out and never begins. Work that has begun cannot be stopped, so there are
// two ways to wait for it: `offload` stays until it has ended, and the work may use what is in the
// caller's frame; `offload_abandonable` leaves at once, and the work, which then owns all that it uses,
// ends alone. Nothing is ever posted to a loop that is gone.
//
// Threads do not survive a fork: there a pool begins anew, and what it had to do is the parent's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include <pthread.h>

#include <zloop/core/fork.hpp>
#include <zloop/core/platform.hpp>
#include <zloop/task.hpp>

namespace zloop {

namespace detail {

/// Work in a pool's queue, embedded in whoever waits for it.
struct chore {
    explicit chore(void (*function)(chore&) noexcept) noexcept : run(function) {}

    void (*run)(chore&) noexcept;  ///< called on a thread of the pool; the chore may be gone after it
    chore* next = nullptr;         ///< the pool's, as are these
    chore* previous = nullptr;
    bool queued = false;

protected:
    ~chore() = default;
};

/// The threads of a pool and their queue. On the heap: a fork leaves its parent's behind as it was,
/// perhaps locked.
class crew {
public:
    crew(unsigned most_threads, bool joined) : most_(most_threads), joined_(joined) {}
    crew(const crew&) = delete;
    crew& operator=(const crew&) = delete;

    /// Waits for what runs, and for what was posted. No task waits: it would still hold the pool.
    ~crew() {
        {
            const std::lock_guard guard(mutex_);
            closing_ = true;
        }
        changed_.notify_all();
        for (const pthread_t each : threads_) {
            ::pthread_join(each, nullptr);
        }
    }

    bool is_inherited() const noexcept { return made_in_.is_inherited(); }

    /// Queues `work`. Fails when there is no thread and none can be started; then it is not queued.
    std::error_code submit(chore& work) noexcept {
        const std::lock_guard guard(mutex_);
        if (!closing_ && idle_ <= queued_ &&
            count_ < most_) {  // closing: a thread of ours posts, and comes back
            if (const auto error = add_thread(); error && count_ == 0) {
                return error;
            }
        }
        work.queued = true;
        work.next = nullptr;
        work.previous = last_;
        (last_ != nullptr ? last_->next : first_) = &work;
        last_ = &work;
        ++queued_;
        changed_.notify_one();
        return {};
    }

    /// Takes `work` out of the queue. False: it has begun.
    bool withdraw(chore& work) noexcept {
        const std::lock_guard guard(mutex_);
        if (!work.queued) {
            return false;
        }
        remove(work);
        return true;
    }

private:
    void remove(chore& work) noexcept {
        work.queued = false;
        (work.previous != nullptr ? work.previous->next : first_) = work.next;
        (work.next != nullptr ? work.next->previous : last_) = work.previous;
        --queued_;
    }

    std::error_code add_thread() noexcept {
        try {
            threads_.reserve(joined_ ? threads_.size() + 1 : 0);
        } catch (const std::bad_alloc&) {
            return std::make_error_code(std::errc::not_enough_memory);
        }
        pthread_t made;
        const int error = start_thread(
            made,
            [](void* self) -> void* {
                static_cast<crew*>(self)->work();
                return nullptr;
            },
            this);
        if (error != 0) {
            return system_error_code(error);
        }
        ++count_;
        if (joined_) {
            threads_.push_back(made);
        } else {
            ::pthread_detach(made);
        }
        return {};
    }

    void work() noexcept {
        std::unique_lock lock(mutex_);
        for (;;) {
            ++idle_;
            changed_.wait(lock, [this] { return first_ != nullptr || closing_; });
            --idle_;
            if (first_ == nullptr) {
                return;
            }
            chore& next = *first_;
            remove(next);
            lock.unlock();
            next.run(next);
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    chore* first_ = nullptr;
    chore* last_ = nullptr;
    std::vector<pthread_t> threads_;
    std::size_t queued_ = 0;
    unsigned idle_ = 0;
    unsigned count_ = 0;
    const unsigned most_;
    const bool joined_;
    bool closing_ = false;
    fork_mark made_in_;
};

}  // namespace detail

/// Threads for blocking work, shared by as many loops as like to.
///
/// Owns:    its threads, started when there is work for them. Destroying a pool waits for what they do, and
///          for what was posted; no task waits for the pool any more.
/// Thread:  any; the loops that use it may be on different ones.
/// Example: examples/cpp/offload.cpp
class offload_pool {
public:
    /// How many threads a pool has at most when nobody says.
    static constexpr unsigned default_threads = 16;

    /// Makes a pool of `most_threads` at most. No thread is started yet.
    /// Fails: throws std::bad_alloc; std::invalid_argument without a thread: work would wait for ever.
    explicit offload_pool(unsigned most_threads = default_threads) : offload_pool(most_threads, true) {}
    offload_pool(const offload_pool&) = delete;
    offload_pool& operator=(const offload_pool&) = delete;
    /// Waits for what its threads do, and joins them; in a fork, which has none of them, for nothing.
    ~offload_pool() {
        if (detail::crew* const own = crew_.load(); !own->is_inherited()) {
            delete own;
        }
    }

    /// Makes a pool for the rest of the process: its threads are never joined, so that work which was
    /// abandoned - a name server that does not answer - keeps no program from ending.
    ///
    /// Fails: throws std::bad_alloc.
    /// Owns:  nobody: it is never destroyed.
    static offload_pool& make_lasting(unsigned most_threads) {
        return *new offload_pool(most_threads, false);
    }

    /// Calls `function()`, which may be of a type that only moves, on one of the threads; nobody waits for
    /// it. What it throws ends the process, as that of a std::thread does.
    ///
    /// Fails:  throws std::bad_alloc, and std::system_error where there is no thread at all.
    /// Owns:   `function`, which is destroyed there.
    /// Thread: any.
    template <std::invocable F>
    void post(F function) {
        struct posted final : detail::chore {
            explicit posted(F&& called)
                : chore([](detail::chore& begun) noexcept {
                      const std::unique_ptr<posted> self(static_cast<posted*>(&begun));
                      self->work();
                  }),
                  work(std::move(called)) {}
            F work;
        };
        auto fresh = std::make_unique<posted>(std::move(function));
        if (const auto error = crew().submit(*fresh)) {
            throw std::system_error(error);
        }
        static_cast<void>(fresh.release());
    }

    /// Gives the threads, for awaitables; in a fork, new ones.
    /// Fails: throws std::bad_alloc, in a fork.
    detail::crew& crew() {
        detail::crew* found = crew_.load(std::memory_order_acquire);
        if (found->is_inherited()) {
            auto fresh = std::make_unique<detail::crew>(most_, joined_);
            if (crew_.compare_exchange_strong(found, fresh.get(), std::memory_order_acq_rel)) {
                found = fresh.release();
            }
        }
        return *found;
    }

private:
    offload_pool(unsigned most_threads, bool joined) : most_(most_threads), joined_(joined) {
        if (most_threads == 0) {
            throw std::invalid_argument("zloop::offload_pool: no thread");
        }
        crew_ = new detail::crew(most_threads, joined);
    }

    const unsigned most_;
    const bool joined_;
    std::atomic<detail::crew*> crew_ = nullptr;
};

/// The same, for who posts to it more than he awaits.
using thread_pool = offload_pool;

/// Gives the process' own pool, a lasting one of 16 threads at most.
/// Thread: any.
inline offload_pool& default_pool() {
    static offload_pool& pool = offload_pool::make_lasting(offload_pool::default_threads);
    return pool;
}

namespace detail {

template <class T>
struct offloaded {
    using type = result<T>;
};
template <class T>
struct offloaded<result<T>> {
    using type = result<T>;
};

/// A function, and what it returned or threw.
template <class F>
class deed {
public:
    using result_type = typename offloaded<std::invoke_result_t<F&>>::type;

    explicit deed(F&& function) : function_(std::move(function)) {}

    void perform() noexcept {
        try {
            if constexpr (std::is_void_v<std::invoke_result_t<F&>>) {
                function_();
                outcome_ = result_type();
            } else {
                outcome_ = function_();
            }
        } catch (...) {
            failure_ = std::current_exception();
        }
    }

    void fail(std::error_code error) noexcept { outcome_ = error; }

    result_type take() {
        if (failure_) {
            std::rethrow_exception(std::exchange(failure_, nullptr));
        }
        return std::move(outcome_);
    }

private:
    F function_;
    result_type outcome_ = std::errc::operation_canceled;  // until it has been performed
    std::exception_ptr failure_;
};

/// Waits for work that is in the waiter's frame, once it has begun to its end.
template <class F>
class [[nodiscard]] offload_awaiter : op, cancellable, chore {
public:
    offload_awaiter(offload_pool& pool, F&& work)
        : op(&offload_awaiter::arrive),
          cancellable(&offload_awaiter::stop),
          chore(&offload_awaiter::perform),
          pool_(pool),
          work_(std::move(work)) {}
    offload_awaiter(offload_awaiter&& other) noexcept(std::is_nothrow_move_constructible_v<F>)
        : op(&offload_awaiter::arrive),
          cancellable(&offload_awaiter::stop),
          chore(&offload_awaiter::perform),
          pool_(other.pool_),
          work_(std::move(other.work_)) {}

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        note(caller.promise(), "offload", where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->refuses()) {
            return false;
        }
        caller_ = caller;
        crew_ = &pool_.crew();
        if (const auto error = crew_->submit(*this)) {
            work_.fail(error);
            return false;
        }
        surroundings_.on->expect();
        surroundings_.within->enter(*this);
        return true;
    }

    auto await_resume() { return work_.take(); }

private:
    static void perform(chore& begun) noexcept {
        auto& self = static_cast<offload_awaiter&>(begun);
        self.work_.perform();
        self.answered_ = true;
        self.surroundings_.on->post(self);
    }

    static void arrive(op& node) noexcept {
        auto& self = static_cast<offload_awaiter&>(node);
        self.surroundings_.on->received();
        self.surroundings_.within->leave(!self.answered_);
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<offload_awaiter&>(leaf);
        // In a fork nobody works, and nobody answers who has not done so before it.
        if (self.crew_->is_inherited() ? !self.answered_ : self.crew_->withdraw(self)) {
            self.surroundings_.on->push(self);
        }
    }

    offload_pool& pool_;
    crew* crew_ = nullptr;
    context surroundings_;
    std::coroutine_handle<> caller_;
    bool answered_ = false;
    deed<F> work_;
};

/// Work on the heap, which belongs to its thread and to its waiter: the last of them frees it. In a fork
/// nobody does: the thread that is not there was perhaps in the midst of it.
template <class F>
class shared_work : public op, public chore {
public:
    explicit shared_work(F&& work, op::function arrive)
        : op(arrive), chore(&shared_work::perform), work_(std::move(work)) {}

    void answer_to(loop& on) noexcept { home_ = &on; }

    /// The waiter leaves. False: the answer is on its way to it.
    bool abandon(bool inherited) noexcept {
        std::unique_lock guard(mutex_, std::defer_lock);
        if (!inherited) {
            guard.lock();
        }
        if (answered_) {
            return false;
        }
        home_ = nullptr;
        return true;
    }

    void release() noexcept {
        if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            delete this;
        }
    }

    deed<F>& work() noexcept { return work_; }

    std::coroutine_handle<> caller;
    context surroundings;

private:
    ~shared_work() = default;

    static void perform(chore& begun) noexcept {
        auto& self = static_cast<shared_work&>(begun);
        self.work_.perform();
        {
            // Held while it posts: until then the waiter cannot leave, and with it, perhaps, the loop.
            const std::lock_guard guard(self.mutex_);
            if (self.home_ != nullptr) {
                self.answered_ = true;
                self.home_->post(self);
            }
        }
        self.release();
    }

    std::mutex mutex_;
    loop* home_ = nullptr;
    bool answered_ = false;
    std::atomic<int> owners_ = 2;
    deed<F> work_;
};

/// Waits for work that goes on without it.
template <class F>
class [[nodiscard]] abandonable_awaiter : op, cancellable {
    using shared = shared_work<F>;

public:
    abandonable_awaiter(offload_pool& pool, F&& work)
        : op(&abandonable_awaiter::leave),
          cancellable(&abandonable_awaiter::stop),
          pool_(pool),
          shared_(new shared(std::move(work), &abandonable_awaiter::arrive)) {}
    abandonable_awaiter(abandonable_awaiter&& other) noexcept
        : op(&abandonable_awaiter::leave),
          cancellable(&abandonable_awaiter::stop),
          pool_(other.pool_),
          shared_(std::exchange(other.shared_, nullptr)) {}
    ~abandonable_awaiter() {
        if (shared_ == nullptr) {
            return;
        }
        if (!began_) {
            shared_->release();  // the thread's
        }
        shared_->release();
    }

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        note(caller.promise(), "offload", where);
        const context& here = shared_->surroundings = caller.promise().surroundings();
        if (here.within->refuses()) {
            return false;
        }
        shared_->caller = caller;
        shared_->answer_to(*here.on);
        crew_ = &pool_.crew();
        if (const auto error = crew_->submit(*shared_)) {
            shared_->work().fail(error);
            return false;
        }
        began_ = true;
        here.on->expect();
        here.within->enter(*this);
        return true;
    }

    auto await_resume() {
        return abandoned_ ? typename deed<F>::result_type(std::errc::operation_canceled)
                          : shared_->work().take();
    }

private:
    static void go_on(shared& work, bool canceled) noexcept {
        work.surroundings.on->received();
        work.surroundings.within->leave(canceled);
        work.caller.resume();
    }
    static void arrive(op& node) noexcept { go_on(static_cast<shared&>(node), false); }
    static void leave(op& node) noexcept { go_on(*static_cast<abandonable_awaiter&>(node).shared_, true); }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<abandonable_awaiter&>(leaf);
        const bool inherited = self.crew_->is_inherited();
        if (!inherited && self.crew_->withdraw(*self.shared_)) {
            self.began_ = false;
        } else if (!self.shared_->abandon(inherited)) {
            return;
        }
        self.abandoned_ = true;
        self.shared_->surroundings.on->push(self);
    }

    offload_pool& pool_;
    crew* crew_ = nullptr;
    shared* shared_;
    bool began_ = false;
    bool abandoned_ = false;
};

}  // namespace detail

/// Calls `work()` on a thread of `pool`, and gives what it returns: a result<T> as it is, anything else as
/// the value of a result.
///
/// Completes: when the work has ended, in the loop's next turn.
/// Fails:     throws what the work throws; `operation_canceled` when it was cancelled before it had begun; as
///            pthread_create does when there is no thread at all.
/// Cancelled: work that has not begun never begins. Work that has begun is waited for, and its result counts:
///            it may use what is in the caller's frame.
/// Owns:      `work`, in the awaiter.
/// Thread:    that of its loop; `work` runs on another.
/// Example:   examples/cpp/offload.cpp
template <class F>
auto offload(offload_pool& pool, F work) {
    return detail::offload_awaiter<F>(pool, std::move(work));
}
/// The same, on default_pool().
template <class F>
auto offload(F work) {
    return detail::offload_awaiter<F>(default_pool(), std::move(work));
}

/// Calls `work()` on a thread of `pool`; otherwise as offload().
///
/// Fails:     the call itself throws std::bad_alloc.
/// Cancelled: leaves at once with `operation_canceled`, and work that has begun goes on alone: it must own,
///            or keep alive, all that it uses.
/// Owns:      `work`, on the heap; it is destroyed on whichever thread is done with it last.
/// Example:   examples/cpp/offload.cpp
template <class F>
auto offload_abandonable(offload_pool& pool, F work) {
    return detail::abandonable_awaiter<F>(pool, std::move(work));
}
/// The same, on default_pool().
template <class F>
auto offload_abandonable(F work) {
    return detail::abandonable_awaiter<F>(default_pool(), std::move(work));
}

}  // namespace zloop
