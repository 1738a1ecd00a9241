#include <zloop/core/platform.hpp>

#include "../catch.hpp"

using namespace zloop;

namespace {

bool pends() {
    sigset_t pending;
    return ::sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}

/// What a write to a pipe without readers does besides failing.
void raise_here() { ::pthread_kill(::pthread_self(), SIGPIPE); }

/// Blocks SIGPIPE as a program may, and leaves none behind.
class blocked {
public:
    blocked() {
        sigemptyset(&pipe_);
        sigaddset(&pipe_, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    }
    blocked(const blocked&) = delete;
    blocked& operator=(const blocked&) = delete;
    ~blocked() {
        int taken;
        if (pends()) {
            ::sigwait(&pipe_, &taken);
        }
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }

private:
    sigset_t pipe_;
    sigset_t before_;
};

}  // namespace

TEST_CASE("a SIGPIPE is taken whatever the call that raised it has returned", "[platform]") {
    const int outcome = GENERATE(EPIPE, 0, EAGAIN);
    {
        const detail::no_sigpipe guard;
        raise_here();
        errno = outcome;
    }
    CHECK(errno == outcome);  // and here we are
    CHECK(!pends());
}

TEST_CASE("a SIGPIPE of ours is taken also where the program blocks the signal", "[platform]") {
    const blocked by_the_program;
    {
        const detail::no_sigpipe guard;
        raise_here();
    }
    CHECK(!pends());
}

TEST_CASE("a SIGPIPE that was pending before is the program's", "[platform]") {
    const blocked by_the_program;
    raise_here();
    {
        const detail::no_sigpipe guard;
        raise_here();
    }
    CHECK(pends());
}
