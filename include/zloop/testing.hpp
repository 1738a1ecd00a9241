// zloop/testing.hpp: a loop for tests: no kernel, no waiting.
//
// Its backend is scripted (testing/scripted.hpp), its clock virtual. Time moves only when nothing else can
// run, so a test of an hour takes no time, and passes or fails the same way each time.
#pragma once

#include <zloop/job.hpp>
#include <zloop/testing/scripted.hpp>

namespace zloop::testing {

/// A loop on the scripted backend: time moves only when nothing else can run.
///
/// Fails:   run_once() throws std::system_error with `resource_deadlock_would_occur` where a real loop would
///          sleep for ever.
/// Thread:  one, as any loop; offloaded work and post() are waited for in real time.
/// Example: examples/cpp/virtual_clock_test.cpp
class virtual_loop : public loop {
public:
    /// Makes one whose clock stands at zero.
    virtual_loop() : loop(std::make_unique<scripted_backend>()) { use_clock(&kernel()); }

    /// The backend, to say what happens on it.
    scripted_backend& kernel() noexcept { return static_cast<scripted_backend&>(loop::kernel()); }

    /// The virtual time since the loop was made.
    nanoseconds elapsed() const noexcept { return now().time_since_epoch(); }

    /// Starts `work` in the loop's next turn, as a job, which is joined before it is destroyed.
    template <class T>
    job<T> start(task<T> work) {
        return job<T>(*this, std::move(work));
    }
    /// The same for any other operation.
    template <detail::other_operation A>
    auto start(A work) {
        return start(as_task(std::move(work)));
    }

    /// Turns until `running` is done, and gives its result; time passes as it must.
    /// Fails: throws what the task threw.
    template <class T>
    T join(job<T>& running) {
        while (!running.done()) {
            run_once();
        }
        return running.take();
    }

    /// Runs what is ready or due now, without letting time pass.
    void settle() {
        do {
            run_once(nanoseconds::zero());
        } while (has_ready() || (!timers().empty() && timers().next() <= now()));
    }

    /// Lets `duration` pass, with everything that happens in it.
    void advance(nanoseconds duration) {
        const time_point end = now() + duration;
        settle();
        while (now() < end) {
            run_once(end - now());
            settle();
        }
    }
};

}  // namespace zloop::testing
