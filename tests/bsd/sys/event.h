// tests/bsd/sys/event.h: kqueue(2) as NetBSD 8 has it, for a program that calls NetBSD's kernel in its own
// process. No EVFILT_USER yet; what an event carries is an integer.
#pragma once

#include <cstdint>
#include <ctime>

struct kevent {
    std::uintptr_t ident;
    std::uint32_t filter;
    std::uint32_t flags;
    std::uint32_t fflags;
    std::int64_t data;
    std::intptr_t udata;
};

#define EVFILT_READ 0U
#define EVFILT_WRITE 1U
#define EVFILT_PROC 4U

#define EV_ADD 0x0001U
#define EV_DELETE 0x0002U
#define EV_ONESHOT 0x0010U
#define EV_CLEAR 0x0020U
#define EV_RECEIPT 0x0040U
#define EV_EOF 0x8000U
#define EV_ERROR 0x4000U
#define NOTE_EXIT 0x80000000U

extern "C" {
int kqueue() noexcept;
int kevent(int queue, const struct kevent* changes, std::size_t change_count, struct kevent* events,
           std::size_t room, const timespec* timeout) noexcept;
}
