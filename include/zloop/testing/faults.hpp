// zloop/testing/faults.hpp: system calls that fail when a test says so: one of a kind, or each in turn.
//
// The calls that zloop makes are counted here, and can fail with a chosen errno. For that a program includes
// interpose.hpp in one of its source files; without it nothing is counted and nothing fails. What fails does
// not reach the kernel, but for close(2), and a connect(2) that is interrupted: these do their work all the
// same.
//
// Any thread's calls count, the test's own too. Who makes calls fail is one thread at a time.
#pragma once

#include <zloop/config.hpp>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>

namespace zloop::testing {

/// A system call: how often it was made, and how it may fail.
///
/// Thread:  any thread's calls count; one at a time says what fails.
/// Example: examples/cpp/faults.cpp
class system_call {
public:
    /// A call that is never made to fail by a fault_sweep.
    explicit system_call(const char* call_name) noexcept : name_(call_name) {}
    /// A call with the errors that a fault_sweep makes it fail with.
    template <std::size_t N>
    system_call(const char* call_name, const int (&plausible)[N]) noexcept
        : name_(call_name), errors_(plausible) {}
    system_call(const system_call&) = delete;
    system_call& operator=(const system_call&) = delete;

    std::atomic<std::size_t> count = 0;  ///< calls so far

    /// Its name, as in "accept4".
    const char* name() const noexcept { return name_; }

    /// The errors that it fails with in real life, when no program is to blame. EAGAIN is none: that promises
    /// an event.
    std::span<const int> errors() const noexcept { return errors_; }

    /// Counts a call; true: it fails, and errno is set. For interpose.hpp.
    /// Thread: any.
    bool intercept() noexcept;

private:
    friend class failing;

    const char* name_;
    std::span<const int> errors_;
    std::atomic<int> error_ = 0;
    std::atomic<int> failures_ = 0;
    std::atomic<int> passing_ = 0;
};

/// Makes the next `times` calls of a kind fail with `error`, after `after` that do not, while it lives:
/// `const failing none(system_calls::accept4, EMFILE);`
///
/// Overlap: one a kind.
/// Example: examples/cpp/faults.cpp
class failing {
public:
    /// Begins.
    failing(system_call& call, int error, int times = 1, int after = 0) noexcept : call_(call) {
        call_.error_ = error;
        call_.passing_ = after;
        call_.failures_ = times;
    }
    failing(const failing&) = delete;
    failing& operator=(const failing&) = delete;
    /// Lets what has not failed by now go well.
    ~failing() { call_.failures_ = 0; }

private:
    system_call& call_;
};

/// Fails each system call in turn, with each error that it plausibly has:
///
///     for (fault_sweep sweep; sweep.next();) {
///         run_the_scenario();  // the first time nothing fails
///     }
///
/// The scenario is to make the same calls each time until one fails. What it must keep to, it checks itself.
///
/// Overlap: one at a time in a process.
/// Thread:  one says what fails; any thread's calls do.
/// Example: examples/cpp/faults.cpp
class fault_sweep {
public:
    /// A sweep that has not begun.
    fault_sweep() noexcept = default;
    fault_sweep(const fault_sweep&) = delete;
    fault_sweep& operator=(const fault_sweep&) = delete;
    /// Has nothing fail any more.
    ~fault_sweep() { active_.store(nullptr); }

    /// Begins the next run, and arms its failure; the first has none. False: there was no call left to fail.
    bool next() noexcept {
        active_.store(nullptr);
        const system_call* const last = hit_.load();
        if (runs_ == 1) {
            began_ = true;
        } else if (runs_ > 1 && last == nullptr) {
            return false;
        } else if (runs_ > 1 && ++error_ >= last->errors().size()) {
            error_ = 0;
            ++turn_;
        }
        ++runs_;
        seen_ = 0;
        hit_ = nullptr;
        active_.store(this);
        return true;
    }

    /// Has nothing fail any more in this run: for what a scenario does when it is over.
    void rest() noexcept { active_.store(nullptr); }

    /// How many runs have begun.
    std::size_t runs() const noexcept { return runs_; }

    /// Tells what has failed in this run: "accept4, call 17: Too many open files".
    std::string what() const {
        const system_call* const call = hit_.load();
        if (call == nullptr) {
            return "nothing has failed";
        }
        return std::string(call->name()) + ", call " + std::to_string(turn_) + ": " +
               std::strerror(struck_with_);
    }

private:
    friend system_call;

    bool strikes(const system_call& call) noexcept {
        if (!began_ || call.errors().empty() || seen_.fetch_add(1) != turn_) {
            return false;
        }
        // Where threads take turns, another call than the last time may come here, with fewer errors.
        const int error = call.errors()[error_ < call.errors().size() ? error_ : call.errors().size() - 1];
        struck_with_ = error;
        hit_ = &call;
        errno = error;
        return true;
    }

    static inline std::atomic<fault_sweep*> active_ = nullptr;

    bool began_ = false;
    std::size_t runs_ = 0;
    std::size_t turn_ = 0;   // which call is to fail
    std::size_t error_ = 0;  // with which of its errors
    std::atomic<std::size_t> seen_ = 0;
    std::atomic<const system_call*> hit_ = nullptr;
    std::atomic<int> struck_with_ = 0;
};

inline bool system_call::intercept() noexcept {
    count.fetch_add(1, std::memory_order_relaxed);
    if (failures_.load(std::memory_order_relaxed) > 0 &&
        passing_.fetch_sub(1, std::memory_order_relaxed) <= 0) {
        failures_.fetch_sub(1, std::memory_order_relaxed);
        errno = error_;
        return true;
    }
    fault_sweep* const sweep = fault_sweep::active_.load(std::memory_order_relaxed);
    return sweep != nullptr && sweep->strikes(*this);
}

/// The system calls that are counted.
namespace system_calls {

/// The errors of each, for fault_sweep.
namespace errors {

inline constexpr int opening[] = {EMFILE, ENFILE, ENOMEM};             ///< of what makes a descriptor
inline constexpr int reading[] = {EINTR, ECONNRESET, ENOMEM};          ///< of what reads from a socket
inline constexpr int writing[] = {EINTR, EPIPE, ECONNRESET, ENOBUFS};  ///< of what writes to a socket
inline constexpr int accepting[] = {EINTR, ECONNABORTED, EMFILE, ENFILE, ENOBUFS};  ///< of accept4(2)
inline constexpr int connecting[] = {EINTR, ECONNREFUSED, ETIMEDOUT, ENETUNREACH};  ///< of connect(2)
inline constexpr int binding[] = {EADDRINUSE, EACCES};       ///< of what takes an address
inline constexpr int options[] = {ENOBUFS};                  ///< of what asks a socket, or tells it
inline constexpr int shutting[] = {ENOTCONN};                ///< of what needs a peer
inline constexpr int closing[] = {EINTR, EIO};               ///< of close(2), which closes all the same
inline constexpr int registering[] = {ENOMEM, ENOSPC};       ///< of epoll_ctl(2)
inline constexpr int waiting[] = {EINTR};                    ///< of what a signal interrupts, and no more
inline constexpr int newer[] = {EINTR, ENOSYS};              ///< of what a former kernel lacks
inline constexpr int not_waiting[] = {EINTR, EOPNOTSUPP};    ///< of RWF_NOWAIT, before Linux 6.4
inline constexpr int forking[] = {EAGAIN, ENOMEM};           ///< of what makes a process
inline constexpr int executing[] = {ENOMEM, ETXTBSY};        ///< of execve(2)
inline constexpr int changing[] = {EACCES, ENOENT};          ///< of chdir(2)
inline constexpr int duplicating[] = {EINTR, EMFILE};        ///< of dup2(2)
inline constexpr int threads[] = {EAGAIN};                   ///< of pthread_create(3)
inline constexpr int pidfds[] = {ENOSYS, EMFILE, ENOMEM};    ///< of pidfd_open(2)
inline constexpr int rings[] = {ENOSYS, EPERM, ENOMEM};      ///< of io_uring_setup(2)
inline constexpr int submitting[] = {EINTR, EAGAIN, EBUSY};  ///< of io_uring_enter(2)
inline constexpr int unprivileged[] = {EPERM};               ///< of what a permission is needed for
inline constexpr int no_memory[] = {ENOMEM};                 ///< of what needs memory

}  // namespace errors

inline system_call socket("socket", errors::opening);                ///< socket(2)
inline system_call socketpair("socketpair", errors::opening);        ///< socketpair(2)
inline system_call bind("bind", errors::binding);                    ///< bind(2)
inline system_call listen("listen", errors::binding);                ///< listen(2)
inline system_call accept4("accept4", errors::accepting);            ///< accept4(2)
inline system_call connect("connect", errors::connecting);           ///< connect(2)
inline system_call shutdown("shutdown", errors::shutting);           ///< shutdown(2)
inline system_call getsockopt("getsockopt", errors::options);        ///< getsockopt(2)
inline system_call setsockopt("setsockopt", errors::options);        ///< setsockopt(2)
inline system_call getsockname("getsockname", errors::options);      ///< getsockname(2)
inline system_call getpeername("getpeername", errors::shutting);     ///< getpeername(2)
inline system_call recv("recv", errors::reading);                    ///< recv(2)
inline system_call recvmsg("recvmsg", errors::reading);              ///< recvmsg(2)
inline system_call recvmmsg("recvmmsg", errors::reading);            ///< recvmmsg(2)
inline system_call send("send", errors::writing);                    ///< send(2)
inline system_call sendto("sendto", errors::writing);                ///< sendto(2)
inline system_call sendmsg("sendmsg", errors::writing);              ///< sendmsg(2)
inline system_call sendmmsg("sendmmsg", errors::writing);            ///< sendmmsg(2)
inline system_call sendfile("sendfile", errors::writing);            ///< sendfile(2)
inline system_call read("read", errors::waiting);                    ///< read(2)
inline system_call readv("readv", errors::waiting);                  ///< readv(2)
inline system_call write("write", errors::waiting);                  ///< write(2)
inline system_call writev("writev", errors::writing);                ///< writev(2)
inline system_call preadv2("preadv2", errors::not_waiting);          ///< preadv2(2)
inline system_call pwritev2("pwritev2", errors::not_waiting);        ///< pwritev2(2)
inline system_call close("close", errors::closing);                  ///< close(2)
inline system_call open("open", errors::opening);                    ///< open(2)
inline system_call pipe2("pipe2", errors::opening);                  ///< pipe2(2)
inline system_call dup2("dup2", errors::duplicating);                ///< dup2(2)
inline system_call dup3("dup3", errors::opening);                    ///< dup3(2)
inline system_call fcntl("fcntl", errors::opening);                  ///< fcntl(2)
inline system_call epoll_create1("epoll_create1", errors::opening);  ///< epoll_create1(2)
inline system_call epoll_ctl("epoll_ctl", errors::registering);      ///< epoll_ctl(2)
inline system_call epoll_wait("epoll_wait", errors::waiting);        ///< epoll_wait(2)
inline system_call epoll_pwait2("epoll_pwait2", errors::newer);      ///< epoll_pwait2(2)
inline system_call eventfd("eventfd", errors::opening);              ///< eventfd(2)
inline system_call signalfd("signalfd", errors::opening);            ///< signalfd(2)
inline system_call sigaction("sigaction");                    ///< sigaction(2): fails for a wrong number only
inline system_call fork("fork", errors::forking);             ///< fork(2)
inline system_call clone("clone", errors::forking);           ///< clone(2)
inline system_call execve("execve", errors::executing);       ///< execve(2)
inline system_call chdir("chdir", errors::changing);          ///< chdir(2)
inline system_call setpgid("setpgid", errors::unprivileged);  ///< setpgid(2)
inline system_call posix_spawn("posix_spawn", errors::forking);                   ///< posix_spawn(3)
inline system_call posix_spawnp("posix_spawnp", errors::forking);                 ///< posix_spawnp(3)
inline system_call waitid("waitid", errors::waiting);                             ///< waitid(2)
inline system_call waitpid("waitpid", errors::waiting);                           ///< waitpid(2)
inline system_call kill("kill", errors::unprivileged);                            ///< kill(2)
inline system_call pidfd_open("pidfd_open", errors::pidfds);                      ///< pidfd_open(2)
inline system_call pidfd_send_signal("pidfd_send_signal", errors::unprivileged);  ///< pidfd_send_signal(2)
inline system_call pthread_create("pthread_create", errors::threads);             ///< pthread_create(3)
inline system_call getaddrinfo("getaddrinfo", errors::no_memory);  ///< getaddrinfo(3): fails with EAI_MEMORY
inline system_call io_uring_setup("io_uring_setup", errors::rings);            ///< io_uring_setup(2)
inline system_call io_uring_enter("io_uring_enter", errors::submitting);       ///< io_uring_enter(2)
inline system_call io_uring_register("io_uring_register", errors::no_memory);  ///< io_uring_register(2)

}  // namespace system_calls

}  // namespace zloop::testing
