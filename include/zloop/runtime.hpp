// zloop/runtime.hpp: several loops, each on a thread of its own.
//
// The loops share nothing but what is posted, so each runs as it would alone. A server is spread over them by
// the kernel, which gives each its own listening socket, or in turn, by one that accepts for all. What is
// started on a loop stays there.
//
// They end together: stop() cancels what runs on each, all of them run until nothing is left, and only then
// are they destroyed, each by its thread. So a task may await another loop's (on.hpp) to the end.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <pthread.h>

#include <zloop/job.hpp>
#include <zloop/listener.hpp>
#include <zloop/nursery.hpp>
#include <zloop/sleep.hpp>

namespace zloop {

/// How a server's connections come to the loops of a runtime.
enum class spreading : bool {
    by_kernel,  ///< each loop has a socket of its own at the port (SO_REUSEPORT), by a hash of the peers
    in_turn,    ///< the first loop accepts, and hands them round: evenly, at a post each; for Unix paths too
};

/// Loops on threads of their own.
///
/// Owns:    the loops and the threads. Its destructor is stop() and join().
/// Thread:  made, joined and destroyed by one; stop(), start_on_each() and at() are any's until it is joined.
/// Example: examples/cpp/threads.cpp
class runtime {
public:
    /// Starts `loops` threads, at least one, with a loop each, on backends that `make` makes on those
    /// threads. Fails: throws std::invalid_argument for none, std::bad_alloc, std::system_error where there
    /// is no
    ///        thread, and what a loop's making throws; no thread is left then.
    explicit runtime(unsigned loops, std::unique_ptr<backend> (*make)() = default_backend) : make_(make) {
        if (loops == 0) {
            throw std::invalid_argument("zloop::runtime: no loop");
        }
        for (unsigned index = 0; index < loops; ++index) {
            members_.push_back(std::make_unique<member>(*this));
        }
        for (auto& each : members_) {
            if (const int error = detail::start_thread(each->thread, &member::work, each.get())) {
                fail(std::make_exception_ptr(std::system_error(system_error_code(error))));
                break;
            }
            ++started_;
        }
        bool has_failed = false;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return ready_ == started_; });
            is_open_ = true;
            has_failed = failure_ != nullptr;
            if (has_failed) {
                is_stopped_ = true;
                tell_all(&member::halt);
            }
        }
        changed_.notify_all();
        if (has_failed) {
            join();
        }
    }
    runtime(const runtime&) = delete;
    runtime& operator=(const runtime&) = delete;
    /// Stops and joins the threads. A failure that nobody has joined goes nowhere.
    ~runtime() {
        stop();
        end();
    }

    /// How many loops there are.
    std::size_t size() const noexcept { return members_.size(); }
    /// One of them: to post to, and for on(). Not after join().
    loop& at(std::size_t index) noexcept { return *members_[index]->on; }

    /// Starts what `function(loop)` gives, a task<void> or one of a result<void>, on each loop, of a copy of
    /// `function` each, which is kept until its end.
    ///
    /// Fails:  throws std::bad_alloc, and then may have started some. What it gives fails as with spawn().
    /// Thread: any; `function` is called on each loop's.
    template <class F>
        requires detail::child_function<F, loop&>
    void start_on_each(F function) {
        for (auto& each : members_) {
            start_on(*each, function);
        }
    }

    /// Listens at `where`, and starts what `handler(accepted)` gives, a task<void> or one of a result<void>,
    /// for each connection, on its loop. Where accepting fails (EMFILE) it goes on after 100 ms.
    ///
    /// Completes: at once, with the address: it says the port where `where` has none. From then on peers can
    ///            connect. The server ends with the runtime.
    /// Fails:     as listener::bind() does; throws std::bad_alloc. What a handler throws goes to its loop's
    ///            failure hook.
    /// Owns:      `handler`, a copy a loop, and of that one a connection.
    /// Thread:    any; `handler` is called on its loop's, so copies do not share what they change.
    template <class F>
        requires detail::child_function<F, accepted>
    result<address> serve(address where, F handler, spreading how = spreading::by_kernel,
                          listen_options options = {}) {
        const bool shared = how == spreading::by_kernel && members_.size() > 1;
        options.reuse_port = options.reuse_port || shared;
        std::vector<fd> doors;
        for (std::size_t index = 0; index < (shared ? members_.size() : 1); ++index) {
            auto made = detail::listen_at(where, options);
            if (!made) {
                return made.error();
            }
            socklen_t size = address::capacity();
            if (::getsockname(made->get(), where.data(), &size) != 0) {
                return system_error_code(errno);
            }
            where.resize(size);
            doors.push_back(std::move(*made));
        }
        for (std::size_t index = 0; index < doors.size(); ++index) {
            member& home = *members_[index];
            home.on->post([this, &home, handler, door = std::move(doors[index]), shared]() mutable {
                auto adopted = listener::adopt(*home.on, std::move(door));
                spawn(*home.on, welcome(*this, home, std::move(adopted).value(), std::move(handler), shared));
            });
        }
        return where;
    }

    /// Asks all loops to end: what runs there is cancelled. Does not wait.
    /// Thread: any.
    void stop() noexcept {
        const std::lock_guard guard(mutex_);
        if (!std::exchange(is_stopped_, true)) {
            tell_all(&member::halt);
        }
    }

    /// Waits until all loops have ended, which they do after stop().
    ///
    /// Fails:  throws the first failure of a loop: then all were stopped.
    /// Thread: that of its maker.
    void join() {
        end();
        if (failure_) {
            std::rethrow_exception(std::exchange(failure_, nullptr));
        }
    }

private:
    struct member {
        struct step : op {
            step(function run_function, member& from) noexcept : op(run_function), of(from) {}
            member& of;
        };

        explicit member(runtime& owner) noexcept : home(owner) {}

        static void* work(void* self) noexcept {
            static_cast<member*>(self)->run();
            return nullptr;
        }

        void run() noexcept {
            try {
                on.emplace(home.make_());
            } catch (...) {
                home.fail(std::current_exception());
            }
            home.come_in(on.has_value());
            if (!on) {
                return;
            }
            try {
                on->run();
            } catch (...) {
                home.fail(std::current_exception());
                home.stop();
            }
            for (int round = 0; round < rounds_to_end; ++round) {
                on->shut_down();
                home.end_round(round + 1 == rounds_to_end);
                wait_for_the_others();
            }
            on.reset();
        }

        void wait_for_the_others() noexcept {
            constexpr int most_failed_turns = 64;  // as loop::shut_down()
            for (int failures = 0; !is_round_over && failures < most_failed_turns;) {
                try {
                    on->run_once();
                    failures = 0;
                } catch (...) {
                    home.fail(std::current_exception());
                    ++failures;
                }
            }
            is_round_over = false;
        }

        static void halt_now(op& node) noexcept {
            loop& on = *static_cast<step&>(node).of.on;
            on.root_scope().cancel();
            on.stop();
        }
        static void go_on(op& node) noexcept { static_cast<step&>(node).of.is_round_over = true; }

        runtime& home;
        pthread_t thread{};
        std::optional<loop> on;
        bool is_round_over = false;
        step halt{&member::halt_now, *this};
        step next_round{&member::go_on, *this};
    };

    /// In the first what runs is cancelled; in the second what others have sent here meanwhile. In each a
    /// loop that is done turns until all are: somebody may await what is on it.
    static constexpr int rounds_to_end = 2;

    template <class F>
    void start_on(member& one, F function) {
        loop& on = *one.on;
        on.post([&on, function = std::move(function)]() mutable {
            spawn(on, [&on, function = std::move(function)]() mutable { return function(on); });
        });
    }

    template <class F>
    static task<void> welcome(runtime& self, member& here, listener door, F handler, bool is_own) {
        for (std::size_t turn = 0;; ++turn) {
            auto [error, guest] = co_await door.accept();
            if (error == std::errc::operation_canceled) {
                co_return;
            }
            if (error) {
                static_cast<void>(co_await sleep_for(std::chrono::milliseconds(100)));
                continue;
            }
            try {
                hand_over(*here.on, is_own ? *here.on : self.at(turn % self.size()), handler,
                          std::move(guest));
            } catch (...) {  // no memory, say: that connection is gone, and others come
                here.on->report(std::current_exception());
            }
        }
    }

    template <class F>
    static void hand_over(loop& here, loop& there, const F& handler, accepted guest) {
        if (&there == &here) {
            spawn(there, handler, std::move(guest));
            return;
        }
        there.post([&there, handler, socket = fd(guest.socket.release()), peer = guest.peer]() mutable {
            auto adopted = stream::adopt(there, std::move(socket));
            spawn(there, std::move(handler), accepted{std::move(adopted).value(), peer});
        });
    }

    /// Under the lock.
    void tell_all(member::step member::*what) noexcept {
        for (auto& each : members_) {
            if (each->on) {
                each->on->post((*each).*what);
            }
        }
    }

    void fail(std::exception_ptr failure) noexcept {
        const std::lock_guard guard(mutex_);
        if (!failure_) {
            failure_ = std::move(failure);
        }
    }

    /// A thread has its loop, or none; it goes on when all have come so far.
    void come_in(bool has_loop) noexcept {
        std::unique_lock lock(mutex_);
        ++ready_;
        loops_ += has_loop;
        changed_.notify_all();
        changed_.wait(lock, [this] { return is_open_; });
    }

    /// A loop has run out of work; the last one tells all. Out of the last round nobody goes before join():
    /// until then the loops are there, for who posts to them.
    void end_round(bool is_last) noexcept {
        const std::lock_guard guard(mutex_);
        ++done_;
        is_last_round_ = is_last;
        let_go();
    }

    /// Under the lock.
    void let_go() noexcept {
        if (done_ == loops_ && (!is_last_round_ || is_joining_)) {
            done_ = 0;
            tell_all(&member::next_round);
        }
    }

    void end() noexcept {
        {
            const std::lock_guard guard(mutex_);
            is_joining_ = true;
            let_go();
        }
        for (; joined_ < started_; ++joined_) {
            ::pthread_join(members_[joined_]->thread, nullptr);
        }
    }

    std::unique_ptr<backend> (*make_)();
    std::vector<std::unique_ptr<member>> members_;
    std::mutex mutex_;
    std::condition_variable changed_;
    unsigned started_ = 0;  // threads; the maker's
    unsigned joined_ = 0;
    unsigned ready_ = 0;  // of these, those that have a loop or none; and how many have
    unsigned loops_ = 0;
    unsigned done_ = 0;  // in this round
    bool is_open_ = false;
    bool is_stopped_ = false;
    bool is_last_round_ = false;
    bool is_joining_ = false;
    std::exception_ptr failure_;
};

}  // namespace zloop
