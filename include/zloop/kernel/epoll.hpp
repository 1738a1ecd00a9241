// zloop/kernel/epoll.hpp: the Linux backend.
//
// epoll knows a registration by (open file, descriptor number), not by the number alone. When a
// number is closed while a duplicate of it lives (a dup, a fork), the registration stays, its events
// still come, and no epoll_ctl can name it any more. Edge-triggered ones are harmless: their
// generation is over, dispatch() ignores them. A level-triggered one would come back from every wait,
// for ever, so the first such event makes a new epoll set from what is really in service.
//
// Where all that watch a descriptor watch once, it is registered with EPOLLONESHOT: the event disarms it, and
// it stays in the set. Watching it anew is one EPOLL_CTL_MOD (0.2 us; to remove and to add it costs 1.1),
// which also notices when the number is another file's by now: then it fails, and it is added.
#pragma once

#include <zloop/config.hpp>

#if ZLOOP_HAS_EPOLL

#include <algorithm>
#include <array>
#include <atomic>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <zloop/core/fork.hpp>
#include <zloop/kernel/readiness.hpp>

namespace zloop {

/// Serves a loop by epoll: the backend of Linux.
///
/// Owns:    two descriptors, the epoll set and an eventfd.
/// Thread:  that of its loop, but for wake().
/// Example: examples/cpp/backends.cpp
class epoll_backend final : public readiness {
public:
    /// Makes an epoll set of its own.
    /// Fails: throws std::system_error when there is no descriptor left.
    epoll_backend()
        : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        if (epoll_ < 0 || wake_ < 0 || register_wake(epoll_) != 0) {
            const int error = errno;
            close_own();
            throw std::system_error(error, std::system_category(), "epoll");
        }
    }

    /// Closes its own descriptors, and no other.
    ~epoll_backend() override { close_own(); }

    std::string_view name() const noexcept override { return "epoll"; }
    int native_handle() const noexcept override { return epoll_; }

    /// Sleeps to the nanosecond from Linux 5.11 on, before that to the millisecond after.
    std::error_code wait(nanoseconds timeout) noexcept override {
        found_ = wait_for_events(timeout);
        if (found_ < 0) {
            found_ = 0;
            return errno == EINTR ? std::error_code{} : system_error_code(errno);
        }
        return {};
    }

    void collect() noexcept override {
        bool stray = false;
        for (int index = 0; index < found_; ++index) {
            const epoll_event& each = events_[static_cast<std::size_t>(index)];
            if (each.data.u64 == wake_tag) {
                std::uint64_t count_of_wakes;
                detail::uninterrupted([&] { return ::read(wake_, &count_of_wakes, sizeof count_of_wakes); });
                continue;
            }
            const bool level = (each.data.u64 & level_bit) != 0;
            const bool known = dispatch({
                static_cast<int>(each.data.u64 & 0x7fff'ffff),
                static_cast<std::uint32_t>(each.data.u64 >> 32),
                (each.events & EPOLLIN) != 0,
                (each.events & EPOLLOUT) != 0,
                (each.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) != 0,
                !level,
            });
            stray = stray || (!known && level);
        }
        found_ = 0;
        if (stray) {
            rebuild();
        }
    }

    void wake() noexcept override {
        const std::uint64_t one = 1;
        detail::uninterrupted([&] { return ::write(wake_, &one, sizeof one); });  // or a loop sleeps on
    }

    void abandon() noexcept override {
        close_own();
        epoll_ = wake_ = -1;  // what is asked from here on fails, and changes nothing
    }

private:
    static constexpr std::uint64_t level_bit = 0x8000'0000;  // beside the descriptor, which is an int
    static constexpr std::uint64_t wake_tag = ~std::uint64_t{0};

    static std::uint64_t tag(int fd, std::uint32_t generation) noexcept {
        return std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(fd);
    }

    static int control(int epoll, int operation, int fd, std::uint32_t events, std::uint64_t data) noexcept {
        epoll_event event{};
        event.events = events;
        event.data.u64 = data;
        return ::epoll_ctl(epoll, operation, fd, &event);
    }

    int register_wake(int epoll) const noexcept {
        return control(epoll, EPOLL_CTL_ADD, wake_, EPOLLIN, wake_tag);
    }

    std::error_code register_owned(int fd, std::uint32_t generation) noexcept override {
        if (process_.is_inherited()) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        return add_owned(epoll_, fd, generation) == 0 ? std::error_code{} : system_error_code(errno);
    }

    void unregister(int fd) noexcept override {
        if (!process_.is_inherited()) {  // else the set is the parent's too
            control(epoll_, EPOLL_CTL_DEL, fd, 0, 0);
        }
    }

    static int add_owned(int epoll, int fd, std::uint32_t generation) noexcept {
        constexpr std::uint32_t both = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET;
        return set(epoll, EPOLL_CTL_ADD, fd, both, tag(fd, generation));
    }

    static int add_foreign(int epoll, int operation, int fd, std::uint32_t generation,
                           interests wanted) noexcept {
        const std::uint32_t events = (wanted.read ? EPOLLIN : 0u) | (wanted.write ? EPOLLOUT : 0u);
        if (wanted.once) {
            return set(epoll, operation, fd, events | EPOLLONESHOT, tag(fd, generation));
        }
        return set(epoll, operation, fd, events, tag(fd, generation) | level_bit);
    }

    /// Adds or modifies; a former life of the number may have left the other of the two to do.
    static int set(int epoll, int operation, int fd, std::uint32_t events, std::uint64_t data) noexcept {
        if (control(epoll, operation, fd, events, data) == 0) {
            return 0;
        }
        if (operation == EPOLL_CTL_ADD && errno == EEXIST) {
            return control(epoll, EPOLL_CTL_MOD, fd, events, data);
        }
        if (operation == EPOLL_CTL_MOD && errno == ENOENT) {
            return control(epoll, EPOLL_CTL_ADD, fd, events, data);
        }
        return -1;
    }

    std::error_code change_foreign(int fd, std::uint32_t generation, interests before,
                                   interests after) noexcept override {
        if (process_.is_inherited()) {
            return std::make_error_code(std::errc::operation_not_permitted);  // the set is the parent's too
        }
        int failed;
        if (after == interests{}) {
            failed = control(epoll_, EPOLL_CTL_DEL, fd, 0, 0);
        } else {
            const int operation = before == interests{} ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
            failed = add_foreign(epoll_, operation, fd, generation, after);
        }
        return failed == 0 ? std::error_code{} : system_error_code(errno);
    }

    int wait_for_events(nanoseconds timeout) noexcept {
        const int room = static_cast<int>(events_.size());
        if (timeout <= nanoseconds::zero()) {
            return ::epoll_wait(epoll_, events_.data(), room, timeout < nanoseconds::zero() ? -1 : 0);
        }
#ifdef SYS_epoll_pwait2
        static std::atomic<bool> has_pwait2 = true;  // Linux 5.11
        if (has_pwait2.load(std::memory_order_relaxed)) {
            // The kernel's, of 64 bits each; a 32-bit C library's timespec may have 32.
            struct {
                std::int64_t seconds, nanoseconds;
            } const limit{timeout / std::chrono::seconds(1), (timeout % std::chrono::seconds(1)).count()};
            const long count = ::syscall(SYS_epoll_pwait2, epoll_, events_.data(), room, &limit, nullptr, 0);
            if (count >= 0 || (errno != ENOSYS && errno != EPERM)) {
                return static_cast<int>(count);
            }
            has_pwait2.store(false, std::memory_order_relaxed);
        }
#endif
        using milliseconds = std::chrono::milliseconds;
        const auto rounded = std::chrono::ceil<milliseconds>(timeout);  // up: nothing fires early
        return ::epoll_wait(
            epoll_, events_.data(), room,
            static_cast<int>(std::min<milliseconds>(rounded, std::chrono::hours(24)).count()));
    }

    /// Makes a new epoll set and puts it in the old one's place, number and all.
    void rebuild() noexcept {
        const int fresh = ::epoll_create1(EPOLL_CLOEXEC);
        if (fresh < 0) {
            return;  // no descriptor to spare: the stray event comes again, and so do we
        }
        register_wake(fresh);
        for_each_registered([fresh](int fd, std::uint32_t generation, bool owned, interests wanted) {
            owned ? add_owned(fresh, fd, generation)
                  : add_foreign(fresh, EPOLL_CTL_ADD, fd, generation, wanted);
        });
        ::dup3(fresh, epoll_, O_CLOEXEC);
        ::close(fresh);
    }

    void close_own() noexcept {
        if (epoll_ >= 0) {
            ::close(epoll_);
        }
        if (wake_ >= 0) {
            ::close(wake_);
        }
    }

    detail::fork_mark process_;
    int epoll_;
    int wake_;
    int found_ = 0;  // events of the last wait()
    std::array<epoll_event, 512> events_;
};

}  // namespace zloop

#endif
