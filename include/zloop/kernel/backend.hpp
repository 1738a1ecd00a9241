// zloop/kernel/backend.hpp: the seam to the kernel.
//
// A loop talks to the kernel through one `backend`, chosen at run time: epoll, io_uring, kqueue, or the
// scripted one of the tests. The model is completion: an operation is started and is told
// its outcome. Readiness is how some backends get there, never what a caller sees, but for the
// watchers that serve descriptors which belong to somebody else.
//
// Everything but `wake` belongs to the loop's thread.
#pragma once

#include <zloop/config.hpp>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <system_error>
#include <vector>

#include <zloop/core/fd.hpp>
#include <zloop/core/op.hpp>
#include <zloop/core/scope.hpp>  // cancellable
#include <zloop/core/timer.hpp>  // nanoseconds

struct iovec;
struct sockaddr;

namespace zloop {

class backend;
struct datagram;

/// What an operation does. Sockets, pipes and terminals alike: a backend knows what it has attached.
enum class opcode : std::uint8_t {
    receive,        ///< bytes into a buffer that the backend lends until the next operation
    recv,           ///< bytes into the caller's buffer
    receive_batch,  ///< datagrams: a batch_op
    accept,         ///< a connection of a listening socket
    send,           ///< bytes from the caller's buffers
    send_batch,     ///< datagrams: a batch_op
    sendfile,       ///< bytes of a file: a sendfile_op
    connect,        ///< a connection to a peer
};

/// Tells whether an operation waits for its descriptor to be readable; the others wait to write.
constexpr bool is_read(opcode code) noexcept { return code <= opcode::accept; }

/// Gives an operation's name, for backtraces.
constexpr const char* name_of(opcode code) noexcept {
    constexpr const char* names[] = {"receive", "recv",       "receive_batch", "accept",
                                     "send",    "send_batch", "sendfile",      "connect"};
    return names[static_cast<std::size_t>(code)];
}

/// Names a descriptor by its number, in one of its lives (backend::life).
struct descriptor {
    int number = -1;         ///< -1: none
    std::uint32_t life = 0;  ///< which owner of the number is meant
};

/// One I/O operation, from start() to its outcome. Lives in the awaiting coroutine's frame, and stays there
/// until the waiter has been resumed.
///
/// Owns:   nothing: buffers, parts and the peer's name are the caller's, and stay alive as long.
/// Thread: that of its loop.
struct io_op : op, cancellable {
    /// How far an operation has come.
    enum class phase : std::uint8_t {
        idle,       ///< not started yet, or over
        parked,     ///< waits for its descriptor
        queued,     ///< in the loop's queue: goes on, or ends, in its turn
        canceled,   ///< asked to end, and resumed in its turn; nothing was done
        submitted,  ///< the kernel has it (io_uring)
        stopping,   ///< the kernel has it, and was asked to end it: its last word is waited for
        done,       ///< its outcome is there, and its waiter is resumed in its turn
    };

    /// Describes an operation on `on`; start() begins it.
    io_op(backend& kernel, opcode operation, descriptor on) noexcept;
    /// The same, on the life that `number` has now; attached, or negative: none.
    io_op(backend& kernel, opcode operation, int number) noexcept;
    /// Describes what `other` does, which has not been started.
    io_op(io_op&& other) noexcept;

    backend* owner;                  ///< who carries it out
    std::coroutine_handle<> waiter;  ///< resumed with the outcome
    int fd;                          ///< on which descriptor
    std::uint32_t life;              ///< of `fd`, when its owner got it
    opcode code;                     ///< what it does
    phase state = phase::idle;       ///< the backend's
    bool now_or_never = false;       ///< fail with EAGAIN instead of waiting
    bool more = false;               ///< send, of TCP: more follows, which a segment that is not full awaits
    bool connecting = false;         ///< the backend's
    bool truncated = false;          ///< outcome of receive, recv: the datagram was longer than `size`
    int error = 0;                   ///< outcome: an errno, 0 is success
    int accepted = -1;               ///< outcome of accept: a non-blocking descriptor, the caller's to close

    /// Where the bytes are. receive: outcome. recv: the caller's buffer. Bytes moved are in `size` after
    /// either.
    std::byte* data = nullptr;
    std::size_t size = 0;  ///< in: of `data`; outcome: bytes moved

    /// For recv, or null: chooses `data` and `size` when the kernel has bytes, not before. Sets `error` to
    /// end the operation instead. For accept, where it is tried by system call: may only do the latter.
    void (*provide)(io_op&) noexcept = nullptr;

    const iovec* parts = nullptr;  ///< send: at most IOV_MAX buffers
    sockaddr* name = nullptr;  ///< connect, send: the peer; accept, receive, recv: filled with it; or null
    unsigned name_size = 0;    ///< of `name`: its room, and what was filled
    unsigned part_count = 0;   ///< of `parts`
    void* lease = nullptr;     ///< the backend's: memory that stays until the waiter has seen the outcome
};

/// Several datagrams in one operation. `size` is how many `items` there are, and then how many were moved.
struct batch_op : io_op {
    using io_op::io_op;
    datagram* items = nullptr;  ///< the caller's, `size` of them
};

/// Bytes of a file to a socket. `size` is how many, and then how many were moved: 0 at the file's end.
struct sendfile_op : io_op {
    using io_op::io_op;
    int file = -1;            ///< a regular file, which stays open and the caller's
    std::int64_t offset = 0;  ///< where in it to begin
};

/// Which way of a descriptor is meant.
enum class direction : std::uint8_t { read, write };

/// A level-triggered interest in a descriptor that we do not own; queued each time it is ready.
///
/// Owns:   nothing: the descriptor stays open, and the watcher alive, until unwatch().
/// Thread: that of its loop.
struct watcher : op {
    /// Describes an interest; watch() begins it.
    watcher(function run_function, int descriptor, direction way) noexcept
        : op(run_function), fd(descriptor), toward(way) {}

    int fd;               ///< the descriptor; -1 once its number has become a socket's of ours
    direction toward;     ///< what to wait for
    bool queued = false;  ///< set by the backend; whoever runs the op clears it
    bool once = false;    ///< and unwatches then: the first event may disarm the descriptor
};

/// What a kernel that completes has received for a descriptor, and nobody has asked for. In order.
struct unclaimed {
    std::vector<std::byte> bytes;  ///< of a stream
    std::vector<fd> connections;   ///< of a listener
};

/// The way to the kernel: carries out operations, watches descriptors, sleeps. One a loop, which owns it.
///
/// Fails:     with a std::error_code, or in an operation's outcome; take_unclaimed() alone throws.
/// Cancelled: cancel() asks; the outcome is operation_canceled, or the result that is there already.
/// Thread:    that of its loop, but for wake().
/// Example:   examples/cpp/backends.cpp
class backend {
public:
    /// A backend that delivers nowhere yet: deliver_to().
    backend() = default;
    backend(const backend&) = delete;
    backend& operator=(const backend&) = delete;
    /// Lets go of everything. No operation and no watcher is left by then.
    virtual ~backend() = default;

    /// Gives its name, as ZLOOP_BACKEND has it.
    virtual std::string_view name() const noexcept = 0;

    /// Gives a descriptor that is readable when wait() has something to do that came after the last submit();
    /// -1 where there is none.
    virtual int native_handle() const noexcept = 0;

    /// Takes a non-blocking descriptor into service, until release() or close().
    /// Fails: as the kernel does that is asked to watch it; the descriptor is then as it was.
    virtual std::error_code attach(int fd) noexcept = 0;

    /// Forgets a descriptor; operations that wait on it end with operation_canceled.
    virtual void release(int fd) noexcept = 0;

    /// Does as release(), and closes the descriptor.
    virtual void close(int fd) noexcept = 0;

    /// Takes out what release() would lose, right before that.
    /// Fails: throws std::bad_alloc.
    virtual unclaimed take_unclaimed(int) { return {}; }

    /// Ends a direction of a made-up connection (SHUT_WR, …). False: it is the kernel's; ask that.
    virtual bool shut_down(int, int) noexcept { return false; }

    /// Starts an operation on an attached descriptor; one a direction at a time. On one whose life has ended,
    /// or on none, the outcome is EBADF.
    /// True: the outcome is there. False: the waiter is resumed, in its turn, when it is.
    virtual bool start(io_op& operation) noexcept = 0;

    /// Asks a started operation to end with operation_canceled; its waiter is resumed in its turn.
    virtual void cancel(io_op& operation) noexcept = 0;

    /// Watches a descriptor that is not attached; one watcher a direction.
    /// Fails: `device_or_resource_busy` where it is attached, or watched in this direction already; as the
    ///        kernel does.
    virtual std::error_code watch(watcher& interest) noexcept = 0;
    /// Ends a watch. A watcher that is queued already still has its turn.
    virtual void unwatch(watcher& interest) noexcept = 0;

    /// Sleeps up to `timeout` (negative: without end) until something has happened. Touches nothing that the
    /// loop's thread shares with others under a lock: the loop's wait hook may have let go of it.
    ///
    /// Completes: also early, with nothing: on a signal, or on wake().
    /// Fails:     as the kernel does; then nothing has happened.
    virtual std::error_code wait(nanoseconds timeout) noexcept = 0;

    /// Lets the kernel know of what was started since the last wait(), for who sleeps on native_handle() and
    /// not in the next one.
    virtual void submit() noexcept {}

    /// Whether a wait() would not sleep, as far as that is known here: native_handle() does not tell of it.
    virtual bool has_something() const noexcept { return false; }

    /// Queues what the last wait() has found.
    virtual void collect() noexcept = 0;

    /// Tells one life of a descriptor's number from the next: a number that is attached again while a
    /// former owner still believes to have it is the new owner's alone.
    virtual std::uint32_t life(int) const noexcept { return 0; }

    /// Whether operations that were asked to end still hold on to their frames: a kernel that completes
    /// may need a wait() to let go of them.
    virtual bool settling() const noexcept { return false; }

    /// Whether the first thread that waits is the only one that may.
    virtual bool is_of_one_thread() const noexcept { return false; }

    /// Ends a wait() that sleeps, or the next one.
    /// Thread: any.
    virtual void wake() noexcept = 0;

    /// Lets go of what is shared with the process that this one is a fork of, and leaves it as it is there.
    virtual void abandon() noexcept {}

    /// Takes the loop's ready queue, where outcomes go, and how many ops other threads are going to post.
    /// Called once, by the loop.
    void deliver_to(op_queue& ready, const std::size_t* expected = nullptr) noexcept {
        ready_ = &ready;
        expected_ = expected;
    }

protected:
    /// Whether other threads are going to post something.
    bool is_expecting() const noexcept { return expected_ != nullptr && *expected_ != 0; }

    op_queue* ready_ = nullptr;  ///< where outcomes go

private:
    const std::size_t* expected_ = nullptr;
};

inline io_op::io_op(backend& kernel, opcode operation, descriptor on) noexcept
    : op([](op& self) noexcept { static_cast<io_op&>(self).waiter.resume(); }),
      cancellable([](cancellable& self) noexcept {
          auto& operation_ = static_cast<io_op&>(self);
          operation_.owner->cancel(operation_);
      }),
      owner(&kernel),
      fd(on.number),
      life(on.life),
      code(operation) {}

inline io_op::io_op(backend& kernel, opcode operation, int number) noexcept
    : io_op(kernel, operation, descriptor{number, number >= 0 ? kernel.life(number) : 0}) {}

inline io_op::io_op(io_op&& other) noexcept
    : io_op(*other.owner, other.code, descriptor{other.fd, other.life}) {
    assert(other.state == phase::idle);
    now_or_never = other.now_or_never;
    more = other.more;
    data = other.data;
    size = other.size;
    provide = other.provide;
    parts = other.parts;
    part_count = other.part_count;
    name = other.name;
    name_size = other.name_size;
}

}  // namespace zloop
