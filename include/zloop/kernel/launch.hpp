// zloop/kernel/launch.hpp: from a command to a child process: fork and exec.
//
// Whatever allocates is done before the fork: strings, lists, the places where PATH lets a program be. The
// child makes system calls, nothing else, and ends in execve(2) or in an error that its parent is given.
//
// On Linux the child borrows our memory until its exec, while the thread that made it waits: fork(2) copies
// the page tables instead, 35 ms for a gigabyte, and as much again in page faults afterwards. Elsewhere,
// under sanitizers, and where clone(2) is refused, it is fork(2).
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <crt_externs.h>
#endif

#include <zloop/core/platform.hpp>
#include <zloop/error.hpp>
#include <zloop/kernel/command.hpp>

#if !defined(__APPLE__)
extern "C" char** environ;
#endif

namespace zloop::detail {

/// Our environment, as the C library has it.
inline char** own_environment() noexcept {
#if defined(__APPLE__)
    return *_NSGetEnviron();
#else
    return environ;
#endif
}

/// What a child needs to know, in the form in which system calls take it.
struct child_plan {
    const char* const* files;  ///< what to execute, the first that is there; null ends the list
    char* const* argv;
    char* const* envp;
    const char* cwd;  ///< or null
    std::span<passed_descriptor> moves;
    int above;  ///< of the numbers that are moved to
    bool leads_session;
    pid_t group;                   ///< 0: its own; -1: its parent's
    int report;                    ///< where the child writes what it has failed with
    volatile bool shared = false;  ///< set by the child: this is its parent's memory too
    volatile int error = 0;
};

// The child, between fork and exec. In what may be our memory: no allocation, no lock, no destructor.

/// Gives a descriptor a number that nothing is moved to.
inline bool lift(int& number, int above) noexcept {
    if (number < above) {
        const int lifted = ::fcntl(number, F_DUPFD_CLOEXEC, above);
        if (lifted < 0) {
            return false;
        }
        number = lifted;
    }
    return true;
}

/// Puts each descriptor in its place. All are out of the way first, so that none is overwritten before it
/// has been moved, and dup2, which leaves the original close-on-exec, never finds it in its place already.
inline bool place_descriptors(child_plan& plan) noexcept {
    if (!lift(plan.report, plan.above)) {
        return false;
    }
    for (passed_descriptor& each : plan.moves) {
        if (!lift(each.ours, plan.above)) {
            return false;
        }
    }
    for (const passed_descriptor& each : plan.moves) {
        while (::dup2(each.ours, each.number) < 0) {
            if (errno != EINTR && errno != EBUSY) {
                return false;
            }
        }
    }
    return true;
}

/// Every signal does what it does by default, and none is blocked. What we ignore stays ignored, as nohup(1)
/// has it, but for SIGPIPE and SIGXFSZ: those are a program's own way to be told of errors by errno.
inline void reset_signals() noexcept {
    struct sigaction by_default {};
    by_default.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction now;
        if (::sigaction(number, nullptr, &now) == 0 && now.sa_handler != SIG_DFL &&
            (now.sa_handler != SIG_IGN || number == SIGPIPE || number == SIGXFSZ)) {
            ::sigaction(number, &by_default, nullptr);
        }
    }
    sigset_t none;
    sigemptyset(&none);  // unqualified: a macro on macOS
    ::pthread_sigmask(SIG_SETMASK, &none,
                      nullptr);  // a handler of ours, in our memory, would run from here on
}

/// Tries the files as execvp(3) does, but runs no shell for what is no program. Returns with an errno.
inline int execute(const child_plan& plan) noexcept {
    const bool only = plan.files[1] == nullptr;
    int error = ENOENT;
    for (const char* const* file = plan.files; *file != nullptr; ++file) {
        ::execve(*file, plan.argv, plan.envp);
        const bool may_be_elsewhere =
            errno == EACCES || errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG || errno == ELOOP;
        if (only || !may_be_elsewhere) {
            return errno;
        }
        if (errno == EACCES) {
            error = EACCES;
        }
    }
    return error;
}

inline int try_to_become(child_plan& plan) noexcept {
    const bool grouped =
        plan.leads_session ? ::setsid() >= 0 : plan.group < 0 || ::setpgid(0, plan.group) == 0;
    if (!grouped || !place_descriptors(plan) || (plan.cwd != nullptr && ::chdir(plan.cwd) != 0)) {
        return errno;
    }
    reset_signals();
    return execute(plan);
}

[[noreturn]] inline void become(child_plan& plan) noexcept {
    plan.shared = true;
    const int error = try_to_become(plan);
    plan.error = error;
    while (::write(plan.report, &error, sizeof error) < 0 && errno == EINTR) {
    }
    ::_exit(127);
}

// The parent.

/// The descriptors of a command: our ends of its pipes, the child's, and what is moved where.
class plumbing {
public:
    /// Fails: as pipe(2) and open(2) do; `invalid_argument` for what makes no sense.
    std::error_code lay(const command& what) {
        const redirect three[] = {what.in, what.out, what.err};
        int output = 1;
        for (int number = 0; number < 3; ++number) {
            const redirect& one = three[number];
            if (one.kind() == redirect::way::usual || one.kind() == redirect::way::inherit) {
                continue;
            }
            const int leads_to = lead(one, number, output);
            if (leads_to < 0) {
                return system_error_code(errno);
            }
            output = number == 1 ? leads_to : output;
            moves.push_back({leads_to, number});
        }
        for (const passed_descriptor& each : what.pass) {
            if (each.ours < 0 || each.number < 3) {
                return std::make_error_code(std::errc::invalid_argument);
            }
            moves.push_back(each);
        }
        return {};
    }

    std::array<fd, 3> ours;    ///< what the child's descriptor of that number is connected with, or none
    std::array<fd, 3> theirs;  ///< to be closed once the child has them
    std::vector<passed_descriptor> moves;

private:
    /// The descriptor that the child is to have as `number`. -1: errno tells.
    int lead(const redirect& one, int number, int output) noexcept {
        fd& made = theirs[static_cast<std::size_t>(number)];
        switch (one.kind()) {
            case redirect::way::usual:
            case redirect::way::inherit: return number;
            case redirect::way::descriptor: errno = EBADF; return one.descriptor();
            case redirect::way::output: errno = EINVAL; return number == 2 ? output : -1;
            case redirect::way::null:
                made.reset(::open("/dev/null", (number == 0 ? O_RDONLY : O_WRONLY) | O_CLOEXEC));
                return made.get();
            case redirect::way::pipe: break;
        }
        pipe_ends both = make_pipe();
        made = std::move(number == 0 ? both.read_end : both.write_end);
        ours[static_cast<std::size_t>(number)] = std::move(number == 0 ? both.write_end : both.read_end);
        const bool blocks = made && ::fcntl(made.get(), F_SETFL, 0) == 0;  // as programs expect
        return blocks ? made.get() : -1;
    }
};

/// The strings of a command, and lists of them as execve(2) takes them.
class wording {
public:
    /// Throws std::bad_alloc.
    explicit wording(const command& what) : program_(what.program) {
        if (program_.empty() && !what.argv.empty()) {
            program_ = what.argv.front();
        }
        for (const std::string& each : what.argv) {
            argv_.push_back(const_cast<char*>(each.c_str()));  // execve(2) is older than const
        }
        if (what.env) {
            for (const std::string& each : *what.env) {
                envp_.push_back(const_cast<char*>(each.c_str()));
            }
        } else {
            for (char** each = own_environment(); each != nullptr && *each != nullptr; ++each) {
                envp_.push_back(*each);
            }
        }
        for (const std::string& each : what.add_env) {
            put(each);
        }
        find_files();
        argv_.push_back(nullptr);
        envp_.push_back(nullptr);
    }

    char* const* argv() const noexcept { return argv_.data(); }
    char* const* envp() const noexcept { return envp_.data(); }
    const char* const* files() const noexcept { return files_.data(); }

    /// Whether system calls can say it: no string has a zero inside, each variable has a name.
    static bool is_sayable(const command& what) noexcept {
        const auto whole = [](const std::string& text) { return text.find('\0') == text.npos; };
        const auto named = [&](const std::string& text) {
            const auto equals = text.find('=');
            return whole(text) && equals != 0 && equals != text.npos;
        };
        return !what.argv.empty() && std::all_of(what.argv.begin(), what.argv.end(), whole) &&
               whole(what.program) && whole(what.cwd) &&
               (!what.env || std::all_of(what.env->begin(), what.env->end(), named)) &&
               std::all_of(what.add_env.begin(), what.add_env.end(), named);
    }

private:
    static std::string_view name_of(std::string_view entry) noexcept {
        return entry.substr(0, entry.find('='));
    }

    /// Adds a variable, or replaces those of its name.
    void put(const std::string& entry) {
        std::erase_if(envp_, [&](const char* each) { return name_of(each) == name_of(entry); });
        envp_.push_back(const_cast<char*>(entry.c_str()));
    }

    void find_files() {
        if (program_.find('/') != program_.npos || program_.empty()) {
            files_ = {program_.c_str(), nullptr};
            return;
        }
        std::string_view path = "/bin:/usr/bin";
        constexpr std::string_view name = "PATH=";
        const auto found = std::find_if(envp_.begin(), envp_.end(),
                                        [&](std::string_view each) { return each.starts_with(name); });
        if (found != envp_.end()) {
            path = std::string_view(*found).substr(name.size());
        }
        for (std::size_t begin = 0; begin <= path.size();) {
            const std::size_t end = std::min(path.find(':', begin), path.size());
            const std::string_view folder = path.substr(begin, end - begin);
            places_.push_back((folder.empty() ? "." : std::string(folder)) + '/' + program_);
            begin = end + 1;
        }
        for (const std::string& each : places_) {
            files_.push_back(each.c_str());
        }
        files_.push_back(nullptr);
    }

    std::string program_;
    std::vector<char*> argv_;
    std::vector<char*> envp_;
    std::vector<std::string> places_;
    std::vector<const char*> files_;
};

/// A child that has begun to become what is planned; -1: errno tells. Signals are blocked meanwhile, or one
/// of our handlers could run in a child that shares our memory.
inline pid_t begin(child_plan& plan) noexcept {
    const no_signals guard;
    pid_t child = -1;
    bool refused = true;
#if defined(__linux__) && !ZLOOP_SANITIZED
    constexpr std::size_t stack_bytes = 64 * 1024;
    if (const auto stack = std::unique_ptr<std::byte[]>(new (std::nothrow) std::byte[stack_bytes])) {
        child = ::clone([](void* what) -> int { become(*static_cast<child_plan*>(what)); },
                        stack.get() + stack_bytes, CLONE_VM | CLONE_VFORK | SIGCHLD, &plan);
        refused = child < 0 && (errno == EPERM || errno == ENOSYS || errno == EINVAL);
    }
#endif
    if (refused) {
        child = ::fork();
        if (child == 0) {
            become(plan);
        }
    }
    return child;
}

/// What `child` has failed with before its exec; 0: it has become what it was to be.
inline int outcome_of(const child_plan& plan, const fd& report) noexcept {
    if (plan.shared) {
        return plan.error;  // it went on while we stood still
    }
    int error = 0;
    ssize_t count;
    while ((count = ::read(report.get(), &error, sizeof error)) < 0) {
        pollfd until_it_executes{report.get(), POLLIN, 0};  // which closes its end of the pipe
        ::poll(&until_it_executes, 1, -1);
    }
    return count == sizeof error ? error : 0;
}

/// Starts what is planned. Fails: as fork(2) does, or with what the child has failed with; then none is left.
inline result<pid_t> start(child_plan& plan) noexcept {
    pipe_ends report = make_pipe();
    if (!report) {
        return system_error_code(errno);
    }
    plan.report = report.write_end.get();
    const pid_t child = begin(plan);
    if (child < 0) {
        return system_error_code(errno);
    }
    report.write_end.reset();
    if (const int error = outcome_of(plan, report.read_end)) {
        while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
        }
        return system_error_code(error);
    }
    return child;
}

/// Starts a command. `moves` is used up.
inline result<pid_t> start(const command& what, const wording& words,
                           std::span<passed_descriptor> moves) noexcept {
    child_plan plan{};
    plan.files = words.files();
    plan.argv = words.argv();
    plan.envp = words.envp();
    plan.cwd = what.cwd.empty() ? nullptr : what.cwd.c_str();
    plan.moves = moves;
    for (const passed_descriptor& each : moves) {
        plan.above = std::max(plan.above, each.number + 1);
    }
    plan.leads_session = what.new_session;
    plan.group = what.new_group ? 0 : what.join_group != 0 ? what.join_group : -1;
    return start(plan);
}

}  // namespace zloop::detail
