// Small tasks to try others on, and what became of them.
#pragma once

#include <csignal>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

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

/// What a process has said on its standard error, and the signal that has ended it; 0: none has.
struct last_words {
    std::string text;
    int signal;
};

/// Runs `act` in a process of its own.
template <class F>
last_words dying(F act) {
    int both[2];
    REQUIRE(::pipe(both) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(both[1], 2);
        std::signal(SIGABRT, SIG_DFL);  // not the test framework's
        act();
        ::_exit(0);
    }
    ::close(both[1]);
    last_words said{};
    char block[4096];
    for (ssize_t count; (count = ::read(both[0], block, sizeof block)) > 0;) {
        said.text.append(block, static_cast<std::size_t>(count));
    }
    ::close(both[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    said.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return said;
}

inline bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

}  // namespace support
