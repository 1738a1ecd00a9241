// zloop/socket.hpp: connected byte streams and listeners, over TCP and Unix sockets.
//
// A socket owns its descriptor and keeps it in service of its loop's backend; it does not outlive the
// loop. Awaitables live in the awaiting frame and allocate nothing. One operation a direction at a
// time; reading beside writing is fine.
#pragma once

#include <climits>
#include <span>

#include <netinet/tcp.h>

#include <zloop/address.hpp>
#include <zloop/fd.hpp>
#include <zloop/platform.hpp>
#include <zloop/task.hpp>

namespace zloop {

namespace detail {

/// What every I/O awaitable shares: start, or wait as the leaf of the caller's scope.
class io_awaiter : protected io_op {
public:
    using io_op::io_op;

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        note(caller.promise(), name_of(code), where);
        scope& within = *caller.promise().surroundings().within;
        if (within.cancelled()) {
            error = ECANCELED;
            return false;
        }
        waiter = caller;
        if (owner->start(*this)) {
            return false;
        }
        entered_ = &within;
        within.enter(*this);
        return true;
    }

protected:
    std::error_code finish() noexcept {
        if (entered_ != nullptr) {
            entered_->leave();
        }
        return system_error_code(error);
    }

private:
    scope* entered_ = nullptr;
};

class receive_awaiter : public io_awaiter {
public:
    receive_awaiter(backend& kernel, int descriptor) noexcept : io_awaiter(kernel, opcode::receive, descriptor) {}

    result<std::span<const std::byte>> await_resume() noexcept {
        if (const auto failure = finish()) {
            return failure;
        }
        return std::span<const std::byte>(data, size);
    }
};

class recv_awaiter : public io_awaiter {
public:
    recv_awaiter(backend& kernel, int descriptor, std::span<std::byte> buffer) noexcept
        : io_awaiter(kernel, opcode::recv, descriptor) {
        data = buffer.data();
        size = buffer.size();
    }

    result<std::size_t> await_resume() noexcept {
        if (const auto failure = finish()) {
            return failure;
        }
        return size;
    }
};

class send_awaiter : public io_awaiter {
public:
    send_awaiter(backend& kernel, int descriptor, std::span<const iovec> buffers) noexcept
        : io_awaiter(kernel, opcode::send, descriptor) {
        parts = buffers.data();
        part_count = static_cast<unsigned>(buffers.size() < IOV_MAX ? buffers.size() : IOV_MAX);
    }

    result<std::size_t> await_resume() noexcept {
        if (const auto failure = finish()) {
            return failure;
        }
        return size;
    }
};

class send_one_awaiter : public send_awaiter {
public:
    send_one_awaiter(backend& kernel, int descriptor, std::span<const std::byte> buffer) noexcept
        : send_awaiter(kernel, descriptor, {&buffer_, 1}),
          buffer_{const_cast<std::byte*>(buffer.data()), buffer.size()} {}

private:
    iovec buffer_;
};

class connect_awaiter : public io_awaiter {
public:
    connect_awaiter(backend& kernel, int descriptor, const address& peer) noexcept
        : io_awaiter(kernel, opcode::connect, descriptor) {
        name = const_cast<sockaddr*>(peer.data());
        name_size = peer.size();
    }

    result<void> await_resume() noexcept { return finish(); }
};

}  // namespace detail

/// A connected stream socket.
///
/// Owns:    the descriptor; closing or destroying the stream ends what waits on it with
///          operation_canceled.
/// Example: examples/cpp/echo_server.cpp
class stream {
public:
    stream() noexcept = default;
    stream(stream&& other) noexcept
        : kernel_(std::exchange(other.kernel_, nullptr)), fd_(std::exchange(other.fd_, -1)), life_(other.life_) {}
    stream& operator=(stream&& other) noexcept {
        std::swap(kernel_, other.kernel_);
        std::swap(fd_, other.fd_);
        std::swap(life_, other.life_);
        return *this;
    }
    ~stream() { close(); }

    /// Takes a connected (or connecting), non-blocking socket into service of `on`.
    /// Fails: when the backend does; `socket` then stays the caller's.
    static result<stream> adopt(loop& on, fd&& socket) noexcept {
        if (const auto error = on.kernel().attach(socket.get())) {
            return error;
        }
        return stream(on.kernel(), socket.release());
    }

    explicit operator bool() const noexcept { return fd_ >= 0; }
    int native_handle() const noexcept { return fd_; }

    /// Bytes in a buffer that the loop lends until the next await: an idle stream holds none.
    /// Completes: with at least a byte, or with none at the end of the stream.
    auto receive() noexcept { return detail::receive_awaiter(*kernel_, live()); }

    /// Bytes into `buffer`, which stays alive meanwhile; as many as are there, at least one.
    auto recv(std::span<std::byte> buffer) noexcept { return detail::recv_awaiter(*kernel_, live(), buffer); }

    /// Some bytes of `buffer`, which stays alive meanwhile; write_all (stream.hpp) sends all.
    auto send(std::span<const std::byte> buffer) noexcept {
        return detail::send_one_awaiter(*kernel_, live(), buffer);
    }

    /// Some bytes of `buffers`, in order, in one system call (IOV_MAX at most).
    auto send(std::span<const iovec> buffers) noexcept { return detail::send_awaiter(*kernel_, live(), buffers); }

    /// send(), now or never: fails with `resource_unavailable_try_again` instead of waiting.
    result<std::size_t> try_send(std::span<const iovec> buffers) noexcept {
        return try_now(opcode::send, [&](io_op& operation) {
            operation.parts = buffers.data();
            operation.part_count = static_cast<unsigned>(buffers.size() < IOV_MAX ? buffers.size() : IOV_MAX);
        });
    }

    /// Ends writing, reading, or both (SHUT_WR, SHUT_RD, SHUT_RDWR).
    result<void> shutdown(int how) noexcept {
        if (kernel_->shut_down(live(), how)) {
            return {};
        }
        return ::shutdown(live(), how) == 0 ? std::error_code{} : system_error_code(errno);
    }

    result<void> set_option(int level, int name, int value) noexcept {
        return ::setsockopt(live(), level, name, &value, sizeof value) == 0 ? std::error_code{}
                                                                          : system_error_code(errno);
    }

    address local_address() const noexcept { return address_by(::getsockname); }
    address peer_address() const noexcept { return address_by(::getpeername); }

    void close() noexcept {
        if (fd_ >= 0 && !is_stale()) {
            kernel_->close(fd_);
        }
        fd_ = -1;
    }

    /// Gives the descriptor away, out of service; -1 when there is none.
    [[nodiscard]] int release() noexcept {
        if (fd_ >= 0 && !is_stale()) {
            kernel_->release(fd_);
        }
        return std::exchange(fd_, -1);
    }

    /// Whether the descriptor was closed behind our back and its number is another socket's now. Such a
    /// stream touches nothing: what is asked of it fails with `bad_file_descriptor`.
    bool is_stale() const noexcept { return fd_ >= 0 && kernel_->life(fd_) != life_; }

private:
    friend class listener;

    /// The descriptor; -1 when it is closed or stale: then every use fails with EBADF.
    int live() const noexcept { return is_stale() ? -1 : fd_; }

    stream(backend& kernel, int number) noexcept : kernel_(&kernel), fd_(number), life_(kernel.life(number)) {}

    template <class F>
    result<std::size_t> try_now(opcode code, F&& describe) noexcept {
        struct immediate : io_op {
            using io_op::io_op;
        } operation(*kernel_, code, live());
        operation.now_or_never = true;
        describe(operation);
        kernel_->start(operation);
        if (operation.error != 0) {
            return system_error_code(operation.error);
        }
        return operation.size;
    }

    address address_by(int (*call)(int, sockaddr*, socklen_t*)) const noexcept {
        address found;
        socklen_t size = address::capacity();
        if (call(live(), found.data(), &size) != 0) {
            return {};
        }
        found.resize(size);
        return found;
    }

    backend* kernel_ = nullptr;
    int fd_ = -1;
    std::uint32_t life_ = 0;
};

/// What a listener hands out.
struct accepted {
    stream socket;
    address peer;
};

namespace detail {

class accept_awaiter : public io_awaiter {
public:
    accept_awaiter(loop& on, int descriptor) noexcept : io_awaiter(on.kernel(), opcode::accept, descriptor), on_(on) {
        name = peer_.data();
        name_size = address::capacity();
    }

    result<zloop::accepted> await_resume() noexcept {
        if (const auto failure = finish()) {
            return failure;
        }
        peer_.resize(name_size);
        auto socket = stream::adopt(on_, zloop::fd(io_op::accepted));
        if (!socket) {
            return socket.error();
        }
        return zloop::accepted{std::move(*socket), peer_};
    }

private:
    loop& on_;
    address peer_;
};

}  // namespace detail

struct listen_options {
    int backlog = SOMAXCONN;
    bool reuse_address = true;
    bool reuse_port = false;
};

/// A listening socket.
///
/// Owns: the descriptor, as a stream does.
class listener {
public:
    listener() noexcept = default;

    /// Binds and listens at `where` (a Unix path must not exist yet).
    static result<listener> bind(loop& on, const address& where, const listen_options& options = {}) noexcept {
        fd made = detail::make_socket(where.family(), SOCK_STREAM);
        const int yes = 1;
        const bool failed =
            !made ||
            (options.reuse_address && ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0) ||
            (options.reuse_port && ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes) != 0) ||
            ::bind(made.get(), where.data(), where.size()) != 0 || ::listen(made.get(), options.backlog) != 0;
        if (failed) {
            return system_error_code(errno);
        }
        return adopt(on, std::move(made));
    }

    /// Takes a listening, non-blocking socket into service of `on`.
    /// Fails: when the backend does; `socket` then stays the caller's.
    static result<listener> adopt(loop& on, fd&& socket) noexcept {
        auto adopted = stream::adopt(on, std::move(socket));
        if (!adopted) {
            return adopted.error();
        }
        return listener(on, std::move(*adopted));
    }

    explicit operator bool() const noexcept { return static_cast<bool>(socket_); }
    int native_handle() const noexcept { return socket_.native_handle(); }
    address local_address() const noexcept { return socket_.local_address(); }

    /// The next connection, in service of the listener's loop.
    ///
    /// Completes: in order of arrival; at most 64 of them before the rest of the loop has its turn.
    /// Fails:     EMFILE and the like; the listener stays usable. A connection that was reset while it
    ///            was queued is passed over.
    auto accept() noexcept { return detail::accept_awaiter(*on_, socket_.live()); }

    void close() noexcept { socket_.close(); }

    /// Gives the descriptor away, out of service.
    [[nodiscard]] int release() noexcept { return socket_.release(); }

private:
    listener(loop& on, stream socket) noexcept : on_(&on), socket_(std::move(socket)) {}

    loop* on_ = nullptr;
    stream socket_;
};

/// A connection to `peer`, on the calling task's loop.
///
/// Fails: as connect(2) does, or `operation_canceled`; nothing is left open.
inline task<result<stream>> connect(address peer) {
    const context here = co_await current_context();
    fd made = detail::make_socket(peer.family(), SOCK_STREAM);
    if (!made) {
        co_return system_error_code(errno);
    }
    auto socket = stream::adopt(*here.on, std::move(made));
    if (!socket) {
        co_return socket.error();
    }
    const auto outcome = co_await detail::connect_awaiter(here.on->kernel(), socket->native_handle(), peer);
    if (!outcome) {
        co_return outcome.error();
    }
    co_return std::move(*socket);
}

}  // namespace zloop
