// zloop/kernel/uring/table.hpp: the channels of the io_uring backend, by descriptor number.
//
// A number has lives; a channel is of one of them. It leaves the table when that life ends, and is freed when
// the kernel has let go of its last request. Until then nothing needs memory: whatever can fail for want
// of it fails when the channel is made.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/channel.hpp>

#if ZLOOP_HAS_URING

#include <cassert>
#include <new>
#include <vector>

#include <sys/epoll.h>
#include <sys/stat.h>

#include <zloop/core/fd.hpp>
#include <zloop/error.hpp>
#include <zloop/kernel/descriptor_table.hpp>

namespace zloop::detail::uring {

class channel_table {
public:
    channel_table() = default;
    channel_table(const channel_table&) = delete;
    channel_table& operator=(const channel_table&) = delete;
    ~channel_table() {
        for (channel* each : leaving_) {  // whose requests nobody has waited for
            each->~channel();
            ::operator delete(static_cast<void*>(each));
        }
        while (spare_ != nullptr) {
            ::operator delete(std::exchange(spare_, *static_cast<void**>(spare_)));
        }
    }

    /// Makes room for a number that is a descriptor.
    std::error_code reserve(int fd) noexcept { return slots_.reserve(fd); }

    /// The channel of a number there is room for; null where there is none.
    channel* find(int fd) const noexcept { return slots_[fd].here; }
    channel& at(int fd) const noexcept { return *find(fd); }

    std::uint32_t life(int fd) const noexcept { return slots_[fd].life; }

    /// A channel for a number that has none.
    std::error_code add(int fd, bool owned) noexcept {
        int type = 0;
        socklen_t room = sizeof type;
        const bool is_socket = ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) == 0;
        struct stat status {};
        if (!is_socket && ::fstat(fd, &status) != 0) {
            return system_error_code(errno);
        }
        if (!is_socket && !can_wait(fd, status.st_mode)) {
            return std::make_error_code(std::errc::operation_not_permitted);  // as epoll says
        }
        channel* const made = make(fd, owned);
        if (made == nullptr) {
            return std::make_error_code(std::errc::not_enough_memory);
        }
        made->kind = is_socket ? kind_of(fd) : descriptor_kind::other;
        made->byte_stream = is_socket && type == SOCK_STREAM;
        slots_[fd].here = made;
        return {};
    }

    /// Ends a life of a number: its channel is closed, and the caller's to see to.
    channel& remove(int fd) noexcept {
        slot& place = slots_[fd];
        channel& leaving = *std::exchange(place.here, nullptr);
        ++place.life;
        leaving.closed = true;
        leaving.place = static_cast<std::uint32_t>(leaving_.size());
        leaving_.push_back(&leaving);  // reserved
        return leaving;
    }

    /// Calls `visit(channel)` for every one; which may remove it.
    template <class F>
    void for_each(F&& visit) noexcept {
        for (std::size_t place = leaving_.size(); place-- > 0;) {
            visit(*leaving_[place]);
        }
        for (int fd = 0; fd < slots_.size(); ++fd) {
            if (channel* const here = slots_[fd].here) {
                visit(*here);
            }
        }
    }

    /// Frees a channel that nothing knows any more.
    void free_if_done(channel& at) noexcept {
        if (at.closed && !at.listed && !at.in_kernel()) {
            leaving_[at.place] = leaving_.back();
            leaving_[at.place]->place = at.place;
            leaving_.pop_back();
            at.~channel();
            --count_;
            if (spares_ < most_spares) {
                spare_ = ::new (static_cast<void*>(&at)) void*(spare_);
                ++spares_;
            } else {
                ::operator delete(static_cast<void*>(&at));
            }
        }
    }

    // Channels that want something before the next wait: a request, or one to end.

    void list(channel& at) noexcept {
        if (!at.listed) {
            at.listed = true;
            listed_.push_back(&at);  // reserved
        }
    }
    bool has_listed() const noexcept { return !listed_.empty(); }

    /// Calls `serve(channel)` for each of them. False: it wants it still.
    template <class F>
    void serve_listed(F&& serve) noexcept {
        std::size_t kept = 0;
        for (std::size_t index = 0; index < listed_.size(); ++index) {
            channel& at = *listed_[index];
            at.listed = !serve(at);
            if (at.listed) {
                listed_[kept++] = &at;
            } else {
                free_if_done(at);
            }
        }
        listed_.resize(kept);
    }

private:
    struct slot {
        channel* here = nullptr;
        std::uint32_t life = 0;
    };

    /// Whether a descriptor has a readiness that can be waited for. Of devices only epoll tells: io_uring
    /// polls those that have none, such as /dev/null, as if they always were ready.
    static bool can_wait(int fd, mode_t kind) noexcept {
        if (S_ISREG(kind) || S_ISDIR(kind)) {
            return false;
        }
        if (!S_ISCHR(kind) && !S_ISBLK(kind)) {
            return true;
        }
        const zloop::fd asked(::epoll_create1(EPOLL_CLOEXEC));
        epoll_event nothing{};
        return !asked || ::epoll_ctl(asked.get(), EPOLL_CTL_ADD, fd, &nothing) == 0 || errno != EPERM;
    }

    // Who watches a descriptor for one event after the other makes a channel each time.
    static constexpr std::size_t most_spares = 64;

    /// Null: no memory.
    channel* make(int fd, bool owned) noexcept {
        try {
            if (count_ + 1 > leaving_.capacity()) {
                listed_.reserve(2 * (count_ + 1));
                leaving_.reserve(2 * (count_ + 1));
            }
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
        void* memory = spare_;
        if (memory != nullptr) {
            spare_ = *static_cast<void**>(memory);
            --spares_;
        } else if ((memory = ::operator new(sizeof(channel), std::nothrow)) == nullptr) {
            return nullptr;
        }
        ++count_;
        return ::new (memory) channel(fd, owned);
    }

    descriptor_table<slot> slots_;
    std::vector<channel*> listed_;
    std::vector<channel*> leaving_;  // closed, and the kernel has requests of theirs
    std::size_t count_ = 0;          // channels, in the table or not
    void* spare_ = nullptr;          // memory of former ones; each begins with the next
    std::size_t spares_ = 0;
};

}  // namespace zloop::detail::uring

#endif
