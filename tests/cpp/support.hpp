// What tests of several headers share: each backend, callbacks as ops, connected sockets, descriptors.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <csignal>

#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <zloop/core/fd.hpp>
#include <zloop/job.hpp>
#include <zloop/kernel/epoll.hpp>
#include <zloop/kernel/kqueue.hpp>
#include <zloop/kernel/uring/backend.hpp>
#include <zloop/loop.hpp>
#include <zloop/socket.hpp>
#include <zloop/stream.hpp>
#include <zloop/testing.hpp>

namespace support {

using namespace std::chrono_literals;

/// A backend of this platform, and how to make one.
struct backend_choice {
    std::string_view name;
    std::unique_ptr<zloop::backend> (*make)();

    friend std::ostream& operator<<(std::ostream& out, const backend_choice& self) {
        return out << self.name;
    }
};

/// The backends that can run here. A test case of a promise that every one keeps uses
/// each_backend(), or begins with
///     const backend_choice backend = GENERATE(from_range(backends()));
///     loop on(backend.make());
inline const std::vector<backend_choice>& backends() {
    static const std::vector<backend_choice> all = [] {
        std::vector<backend_choice> found;
#if ZLOOP_HAS_EPOLL
        found.push_back({"epoll", []() -> std::unique_ptr<zloop::backend> {
                             return std::make_unique<zloop::epoll_backend>();
                         }});
#endif
#if ZLOOP_HAS_KQUEUE
        found.push_back({"kqueue", []() -> std::unique_ptr<zloop::backend> {
                             return std::make_unique<zloop::kqueue_backend>();
                         }});
#endif
#if ZLOOP_HAS_URING
        try {
            zloop::uring_backend probe;
            found.push_back({"io_uring", []() -> std::unique_ptr<zloop::backend> {
                                 return std::make_unique<zloop::uring_backend>();
                             }});
        } catch (const std::system_error&) {
        }
#endif
        return found;
    }();
    return all;
}

/// The test case runs with each backend that can run here, one after the other: `loop on(each_backend());`.
inline std::unique_ptr<zloop::backend> each_backend() {
    const backend_choice choice = GENERATE(from_range(backends()));
    UNSCOPED_INFO("backend: " << choice);
    return choice.make();
}

#if ZLOOP_HAS_EPOLL
/// Whether epoll can wait for less than a millisecond here. If not, waits are rounded up to one.
inline bool has_epoll_pwait2() {
    if (::syscall(SYS_epoll_pwait2, -1, nullptr, 0, nullptr, nullptr, 0) < 0 &&
        (errno == ENOSYS || errno == EPERM)) {
        WARN("no epoll_pwait2 here");
        return false;
    }
    return true;
}
#endif

#if ZLOOP_HAS_URING
/// Whether there is io_uring here. If not, a test case of what is its alone has nothing to say.
inline bool has_uring() {
    for (const backend_choice& each : backends()) {
        if (each.name == "io_uring") {
            return true;
        }
    }
    WARN("no io_uring here");
    return false;
}

inline std::unique_ptr<zloop::backend> uring() { return std::make_unique<zloop::uring_backend>(); }
#endif

/// A stream whose peer is a script.
struct scripted_stream {
    zloop::testing::virtual_loop on;
    int number = on.kernel().open();
    zloop::testing::script& peer = on.kernel().at(number);
    zloop::stream socket = zloop::stream::adopt(on, zloop::fd(number)).value();
};

/// Puts a signal's handler in place while it lives.
class handling {
public:
    handling(int number, void (*handler)(int)) : number_(number) {
        struct sigaction ours {};
        ours.sa_handler = handler;
        ::sigaction(number, &ours, &before_);
    }
    handling(const handling&) = delete;
    handling& operator=(const handling&) = delete;
    ~handling() { ::sigaction(number_, &before_, nullptr); }

private:
    int number_;
    struct sigaction before_;
};

/// Some turns that do not sleep.
inline void turn(zloop::loop& on, int count = 1) {
    while (count-- > 0) {
        on.run_once(0ns);
    }
}

/// Asks the kernel, and runs nothing of what it has queued.
inline void queue_events(zloop::loop& on) {
    static_cast<void>(on.kernel().wait(0ns));
    on.kernel().collect();
}

/// Awaits what `start` begins: `run(on, perform([&] { return socket.recv(buffer); }))`.
template <class F>
auto perform(F start) -> zloop::task<decltype(start().await_resume())> {
    co_return co_await start();
}

/// Turns until `running` is done; what it came to.
template <class T>
T finish(zloop::loop& on, zloop::job<T>& running) {
    const auto patience = std::chrono::steady_clock::now() + 20s;
    while (!running.done()) {
        on.run_once(1s);
        if (std::chrono::steady_clock::now() > patience) {
            running.cancel();
            FAIL_CHECK("still not done");
        }
    }
    return running.take();
}

/// Turns until `condition`, in at most a second.
template <class F>
bool turn_until(zloop::loop& on, F&& condition) {
    const auto end = std::chrono::steady_clock::now() + 1s;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            return false;
        }
        on.run_once(10ms);
    }
    return true;
}

/// An op that calls a function.
class callback : public zloop::op {
public:
    explicit callback(std::function<void()> what)
        : op([](op& self) noexcept { static_cast<callback&>(self).what_(); }), what_(std::move(what)) {}

private:
    std::function<void()> what_;
};

/// A timer that calls a function.
class delayed : public zloop::timer_node {
public:
    explicit delayed(std::function<void()> what)
        : timer_node([](op& self) noexcept { static_cast<delayed&>(self).what_(); }),
          what_(std::move(what)) {}

private:
    std::function<void()> what_;
};

/// A watcher that calls a function each time that its descriptor is ready.
class lookout : public zloop::watcher {
public:
    lookout(int descriptor, zloop::direction way, std::function<void()> what)
        : watcher(
              [](op& self) noexcept {
                  auto& own = static_cast<lookout&>(self);
                  own.queued = false;
                  own.what_();
              },
              descriptor, way),
          what_(std::move(what)) {}

private:
    std::function<void()> what_;
};

/// A text in which no two places look alike for long.
inline std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t index = 0; index < size; ++index) {
        text[index] = static_cast<char>(index * 31 + (index >> 8) + (index >> 16));
    }
    return text;
}

inline std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// How many descriptors this process has.
inline std::size_t open_descriptors() {
    std::size_t count = 0;
#if defined(__linux__)
    DIR* const all = ::opendir("/proc/self/fd");
    while (::readdir(all) != nullptr) {
        ++count;
    }
    ::closedir(all);
#else
    for (int number = 0; number < 4096; ++number) {
        count += ::fcntl(number, F_GETFD) >= 0 ? 1 : 0;
    }
#endif
    return count;
}

/// Whether `descriptor` can be read from at once.
inline bool is_readable(int descriptor, int patience_ms = 0) {
    pollfd asked{descriptor, POLLIN, 0};
    return ::poll(&asked, 1, patience_ms) == 1;
}

/// A pipe, non-blocking at both ends.
struct pipe_ends {
    zloop::fd out, in;
    pipe_ends() {
        int both[2];
        REQUIRE(::pipe2(both, O_NONBLOCK | O_CLOEXEC) == 0);
        out.reset(both[0]);
        in.reset(both[1]);
    }
    void write() { CHECK(::write(in.get(), "x", 1) == 1); }
    void read() {
        char byte;
        CHECK(::read(out.get(), &byte, 1) == 1);
    }
};

enum class kind { tcp, unix_socket };

/// A stream of `on`, and a blocking descriptor that plays its peer.
struct connection {
    zloop::stream socket;
    zloop::fd peer;

    connection(zloop::loop& on, kind family) {
        zloop::fd ours;
        if (family == kind::unix_socket) {
            int both[2];
            REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
            ours.reset(both[0]);
            peer.reset(both[1]);
        } else {
            zloop::fd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            zloop::address where = zloop::address::loopback();
            socklen_t size = where.size();
            REQUIRE(::bind(door.get(), where.data(), size) == 0);
            REQUIRE(::listen(door.get(), 1) == 0);
            REQUIRE(::getsockname(door.get(), where.data(), &size) == 0);
            peer.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            REQUIRE(::connect(peer.get(), where.data(), size) == 0);
            ours.reset(::accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC));
        }
        REQUIRE(::fcntl(ours.get(), F_SETFL, O_NONBLOCK) == 0);
        socket = zloop::stream::adopt(on, std::move(ours)).value();
    }

    /// The peer sends, and the kernel has it at our end.
    void sends(std::string_view text, int flags = 0) {
        CHECK(::send(peer.get(), text.data(), text.size(), flags | MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()));
        if (socket) {
            is_readable(socket.native_handle(), 1000);
        }
    }

    /// The peer reads whatever is there; how much it was.
    std::size_t peer_drains() {
        std::string block(1 << 20, '\0');
        std::size_t total = 0;
        ssize_t count;
        while ((count = ::recv(peer.get(), block.data(), block.size(), MSG_DONTWAIT)) > 0) {
            total += static_cast<std::size_t>(count);
        }
        return total;
    }

    /// What the peer gets when it reads once.
    std::string peer_reads(std::size_t most = 4096) {
        std::string text(most, '\0');
        const ssize_t count = ::recv(peer.get(), text.data(), most, 0);
        text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
        return text;
    }
};

/// A Unix name that nobody has: an abstract one where there are such, else a path, until the program ends.
inline zloop::address free_name() {
    static int count = 0;
    const std::string name = "zloop-tests-" + std::to_string(::getpid()) + '-' + std::to_string(++count);
#if defined(__linux__)
    return zloop::address::local('\0' + name).value();
#else
    struct files {
        std::vector<std::string> paths;
        ~files() {
            for (const std::string& each : paths) {
                ::unlink(each.c_str());
            }
        }
    };
    static files made;
    return zloop::address::local(made.paths.emplace_back("/tmp/" + name)).value();
#endif
}

/// A free place to listen at, of either family.
struct place {
    zloop::address where;

    explicit place(kind family)
        : where(family == kind::unix_socket ? free_name() : zloop::address::loopback()) {}
};

/// One receive: the bytes, or the error's message.
inline zloop::task<std::string> receive_text(zloop::stream& from) {
    const auto received = co_await from.receive();
    co_return received ? text_of(*received) : received.error().message();
}

/// One read into a buffer of `most` bytes.
inline zloop::task<std::string> recv_text(zloop::stream& from, std::size_t most) {
    std::string text(most, '\0');
    const auto [error, count] = co_await from.recv(std::as_writable_bytes(std::span(text)));
    co_return error ? error.message() : text.substr(0, count);
}

inline zloop::task<zloop::result<std::size_t>> send_some(zloop::stream& to, std::string_view text) {
    co_return co_await to.send(zloop::bytes_of(text));
}

/// A source alone, of tasks: "9876543210", two bytes at a time at most.
struct countdown {
    char next = '9';

    zloop::task<zloop::result<std::size_t>> recv(std::span<std::byte> into) {
        co_await zloop::next_turn();
        std::size_t count = 0;
        for (; count < std::min<std::size_t>(into.size(), 2) && next >= '0'; ++count) {
            into[count] = static_cast<std::byte>(next--);
        }
        co_return count;
    }
};

/// A sink alone, of tasks: takes two bytes at a time, up to a size.
struct wall {
    std::size_t room = 1000;
    std::string seen;

    zloop::task<zloop::result<std::size_t>> send(std::span<const std::byte> from) {
        co_await zloop::next_turn();
        if (seen.size() == room) {
            co_return std::errc::no_space_on_device;
        }
        const std::size_t count = std::min({from.size(), std::size_t{2}, room - seen.size()});
        seen += zloop::as_text(from.first(count));
        co_return count;
    }
};

inline zloop::task<zloop::result<zloop::stream>> connect_to(zloop::address where) {
    co_return co_await zloop::connect(where);
}

inline std::string message(std::errc code) {
    return zloop::system_error_code(static_cast<int>(code)).message();
}

/// Fills the send buffers of `socket`, so that the next send waits.
inline void fill(zloop::stream& socket) {
    const std::string block(64 * 1024, 'f');
    const iovec part{const_cast<char*>(block.data()), block.size()};
    zloop::result<std::size_t> sent(0);
    for (int round = 0; round < 2'000 && sent; ++round) {
        sent = socket.try_send({&part, 1});
    }
    CHECK(sent.error() == std::errc::resource_unavailable_try_again);
}

}  // namespace support
