// zloop/process.hpp: child processes: start one, wait for its end, talk through its pipes, end it.
//
// A process owns its child. Its status is taken from the kernel once, and kept. A child never outlives its
// process by accident: destroying one that runs kills it, and waits until the kernel has let go of it. So
// there are no zombies, and no number is signalled that has become somebody else's.
#pragma once

#include <zloop/config.hpp>

#include <zloop/cancel.hpp>
#include <zloop/kernel/child.hpp>
#include <zloop/kernel/command.hpp>
#include <zloop/kernel/launch.hpp>
#include <zloop/nursery.hpp>
#include <zloop/socket.hpp>
#include <zloop/stream.hpp>
#include <zloop/watch.hpp>

namespace zloop {

/// A child process, for a loop's tasks.
///
/// Owns:    the child, a descriptor, and its ends of pipes. Moves, but not while somebody waits; does not
///          outlive the loop. Destroying it kills a child that still runs (with SIGKILL, and with its group
///          if that is its own) and waits for its end, which takes no time but where a device does; stop() is
///          the way to end it without blocking the loop. A child that has become another user's cannot be
///          killed: it runs on, and a thread takes its status.
/// Thread:  that of its loop.
/// Example: examples/cpp/process_runner.cpp
class process {
public:
    /// No process.
    process() noexcept = default;

    /// Starts a program. Blocks until the kernel has executed it, about a millisecond.
    ///
    /// Fails:   as execve(2) does (`no_such_file_or_directory`, `permission_denied`,
    ///          `executable_format_error`: no shell is tried), chdir, dup2, setpgid, fork or pipe; with
    ///          `invalid_argument` for an empty argv, a string with a zero inside, a variable without a name.
    ///          Then there is no child, and nothing is left open.
    /// Throws:  std::bad_alloc.
    /// Owns:    the caller has the child.
    /// Example: examples/cpp/process.cpp
    static result<process> spawn(loop& on, const command& what) {
        if (!detail::wording::is_sayable(what)) {
            return std::errc::invalid_argument;
        }
        detail::plumbing pipes;
        if (const auto error = pipes.lay(what)) {
            return error;
        }
        process made;
        stream* const streams[] = {&made.in, &made.out, &made.err};
        for (std::size_t at = 0; at < 3; ++at) {
            if (pipes.ours[at]) {
                auto adopted = stream::adopt(on, std::move(pipes.ours[at]));
                if (!adopted) {
                    return adopted.error();
                }
                *streams[at] = std::move(*adopted);
            }
        }
        const detail::wording words(what);
        const auto started = detail::start(what, words, pipes.moves);
        if (!started) {
            return started.error();
        }
        made.child_ = detail::child(*started, what.new_group || what.new_session);
        return made;
    }

    /// Whether there is a child, running or not; none after release().
    explicit operator bool() const noexcept { return child_.number() > 0; }

    /// The child's number. Somebody else's, perhaps, once its status has been taken.
    pid_t pid() const noexcept { return child_.number(); }

    /// A pidfd, or -1: on other systems than Linux, and where it is forbidden.
    int native_handle() const noexcept { return child_.pidfd(); }

    stream in;   ///< what the child reads, where its standard input is a pipe; closing it ends that
    stream out;  ///< what it writes to its standard output
    stream err;  ///< and to its standard error

    /// How the child has ended, or will.
    ///
    /// Completes: once it has ended; from then on at once, with the same.
    /// Fails:     `no_child_process`, where somebody else has taken the status, or SIGCHLD is ignored;
    ///            without pidfds also for want of a descriptor or a thread; `operation_canceled`.
    /// Cancelled: leaves the child running, and the status to the next wait.
    /// Overlap:   one wait at a time; a second one fails with `device_or_resource_busy`.
    /// Example:   examples/cpp/process.cpp
    task<result<exit_status>> wait() {
        while (!child_.try_reap()) {
            const auto ended = co_await until_end();
            if (!ended) {
                co_return ended.error();
            }
        }
        co_return child_.outcome();
    }

    /// Sends a signal to the child.
    /// Fails: as kill(2) does; `no_such_process` once its status is taken.
    result<void> kill(int signal) noexcept { return child_.kill(signal); }

    /// Sends a signal to the child's process group, which must be its own: `new_group`, `new_session`.
    /// Fails: as kill() does.
    result<void> kill_group(int signal) noexcept { return child_.kill_group(signal); }

    /// Ends the child, and its group if that is its own: asks by SIGTERM, and after `grace` by SIGKILL.
    /// Without a grace it is SIGKILL at once.
    ///
    /// Completes: once it has ended.
    /// Fails:     as wait() does.
    /// Cancelled: during the grace, leaves the child running, asked by SIGTERM; after that it is killed.
    task<result<exit_status>> stop(nanoseconds grace = {}) {
        if (grace > nanoseconds::zero() && child_.kill_all(SIGTERM)) {
            auto end = until_end();
            const auto ended = co_await with_timeout(grace, std::move(end));
            if (!ended && ended.error() == std::errc::operation_canceled) {
                co_return ended.error();
            }
        }
        // Also after its end, when its number is still its own: for the rest of its group.
        static_cast<void>(child_.kill_all(SIGKILL));
        co_return co_await wait();
    }

    /// Gives the child away: it runs on, and its status is the caller's to take. The pipes stay.
    [[nodiscard]] pid_t release() noexcept { return child_.release(); }

private:
    /// Until it has ended; takes no status.
    task<result<void>> until_end() {
        if (child_.is_over()) {
            co_return {};
        }
        const auto notice = child_.exit_notice();
        if (!notice) {
            co_return notice.error();
        }
        co_return co_await wait_readable(*notice);
    }

    detail::child child_;
};

/// What run_process() feeds a program with, and how far it lets it go.
struct run_options {
    std::string_view input{};                    ///< what the program reads; stays alive until its end
    std::size_t limit_bytes = 64 * 1024 * 1024;  ///< of output, of each kind
    nanoseconds grace{};                         ///< when it has to be ended: from SIGTERM to SIGKILL
};

/// What came of a program.
/// Example: examples/cpp/process_runner.cpp
struct process_output {
    exit_status status;  ///< how it has ended
    std::string out;     ///< what it has written to its standard output, where that was collected
    std::string err;     ///< and to its standard error
};

namespace detail {

/// Writes all of `text`, and ends what the child reads. A child need not read it all.
inline task<result<void>> feed(stream& into, std::string_view text) {
    const auto written = co_await write_all(into, bytes_of(text));
    into.close();
    co_return written.error() == std::errc::broken_pipe ? std::error_code{} : written.error();
}

inline task<result<void>> collect(stream& from, std::string& text, std::size_t limit_bytes) {
    for (;;) {
        const auto bytes = co_await from.receive();
        if (!bytes || bytes->empty()) {
            co_return bytes.error();
        }
        if (bytes->size() > limit_bytes - text.size()) {
            co_return errc::limit_exceeded;
        }
        text.append(reinterpret_cast<const char*>(bytes->data()), bytes->size());
    }
}

/// Until all that it writes has come, and it has ended.
inline task<result<process_output>> attend(process& child, const run_options& options) {
    process_output output;
    const auto transfer = [&](nursery& pipes) -> task<> {
        if (child.in) {
            pipes.spawn(feed(child.in, options.input));
        }
        if (child.out) {
            pipes.spawn(collect(child.out, output.out, options.limit_bytes));
        }
        if (child.err) {
            pipes.spawn(collect(child.err, output.err, options.limit_bytes));
        }
        co_return;
    };
    try {
        co_await with_nursery(transfer);
    } catch (const std::system_error& failure) {
        co_return failure.code();
    }
    const auto ended = co_await child.wait();
    if (!ended) {
        co_return ended.error();
    }
    output.status = *ended;
    co_return output;
}

}  // namespace detail

/// Runs a program to its end. What it writes is collected, and it reads `input`, or nothing: that is what
/// is usual here; a command that says otherwise is obeyed. Its exit status is no failure, whatever it is.
///
/// Completes: when it has ended and nobody holds its pipes any more; what it has left in the background may.
/// Fails:     as spawn and wait() do; `limit_exceeded`; `operation_canceled`. Then the child is ended by
///            stop() and waited for, with its group if that is its own.
/// Throws:    std::bad_alloc; then the child is killed.
/// Cancelled: ends the child in the same way, which takes `grace` at most.
/// Example:   examples/cpp/process_runner.cpp
inline task<result<process_output>> run_process(command what, run_options options = {}) {
    const context here = co_await current_context();
    const auto usually = [](redirect& one, redirect as) {
        one = one.kind() == redirect::way::usual ? as : one;
    };
    usually(what.in, options.input.empty() ? redirect::null : redirect::pipe);
    usually(what.out, redirect::pipe);
    usually(what.err, redirect::pipe);

    auto child = process::spawn(*here.on, what);
    if (!child) {
        co_return child.error();
    }
    auto outcome = co_await detail::attend(*child, options);
    if (!outcome) {
        auto end = child->stop(options.grace);
        static_cast<void>(co_await shield(std::move(end)));
    }
    co_return outcome;
}

}  // namespace zloop
