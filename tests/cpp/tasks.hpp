// Small tasks to try others on, and what became of them.
#pragma once

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

namespace support {

inline zloop::task<zloop::result<void>> nap(zloop::nanoseconds duration) {
    co_return co_await zloop::sleep_for(duration);
}

/// Runs a loop that has work of its own until the job is done.
template <class T>
T join(zloop::loop& on, zloop::job<T>& running) {
    while (!running.done()) {
        on.run_once();
    }
    return running.take();
}

inline std::string words_of(std::exception_ptr failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const std::exception& error) {
        return error.what();
    }
}

template <class T>
std::string thrown_by(zloop::testing::virtual_loop& on, zloop::task<T> work) {
    try {
        static_cast<void>(zloop::run(on, std::move(work)));
    } catch (...) {
        return words_of(std::current_exception());
    }
    return "nothing";
}

/// Makes a loop keep what its detached tasks have thrown: a list of their words, empty at first.
inline const std::vector<std::string>& keep_failures(zloop::testing::virtual_loop& on) {
    static std::vector<std::string> reported;
    reported.clear();
    on.use_failure_hook([](std::exception_ptr failure) { reported.push_back(words_of(failure)); });
    return reported;
}

}  // namespace support
