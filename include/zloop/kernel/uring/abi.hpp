// zloop/kernel/uring/abi.hpp: the kernel's words for io_uring, as far as we use them, and its three calls.
//
// Our own, for <linux/io_uring.h> is as old as the machine that compiles, brings <linux/fs.h> along,
// which older C libraries' <sys/mount.h> does not get along with, and a few hundred macros. A test
// compares the two. The layout is the same on every architecture; so are the numbers of the calls.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#if ZLOOP_HAS_URING

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <sys/syscall.h>
#include <unistd.h>

namespace zloop::detail::uring {

/// io_uring_sqe: what to do.
struct submission {
    std::uint8_t opcode;
    std::uint8_t flags;
    std::uint16_t modifiers;  ///< `ioprio`
    std::int32_t fd;
    std::uint64_t offset;  ///< connect: the size of the address
    std::uint64_t address;
    std::uint32_t length;
    std::uint32_t operation_flags;  ///< of send and recv, of accept4, of a cancel; the events to poll for
    std::uint64_t user_data;
    std::uint16_t buffer_group;
    std::uint16_t personality;
    std::uint32_t file_index;
    std::uint64_t unused[2];
};

/// io_uring_cqe: what became of it.
struct completion {
    std::uint64_t user_data;
    std::int32_t result;  ///< what the system call would return, or a negative errno
    std::uint32_t flags;
};

// submission::opcode
inline constexpr std::uint8_t op_poll_add = 6;
inline constexpr std::uint8_t op_sendmsg = 9;
inline constexpr std::uint8_t op_accept = 13;
inline constexpr std::uint8_t op_async_cancel = 14;
inline constexpr std::uint8_t op_connect = 16;
inline constexpr std::uint8_t op_send = 26;
inline constexpr std::uint8_t op_recv = 27;

// submission::flags
inline constexpr std::uint8_t select_buffer = 1 << 5;
inline constexpr std::uint8_t silent_success = 1 << 6;  ///< no completion, unless it fails

// submission::modifiers
inline constexpr std::uint16_t poll_first = 1 << 0;
inline constexpr std::uint16_t receive_multishot = 1 << 1;
inline constexpr std::uint16_t accept_multishot = 1 << 0;

// submission::length of op_poll_add
inline constexpr std::uint32_t poll_multishot = 1 << 0;

// completion::flags
inline constexpr std::uint32_t has_buffer = 1 << 0;  ///< its number is in the upper half
inline constexpr std::uint32_t has_more = 1 << 1;    ///< the request lives on
inline constexpr std::uint32_t has_unread = 1 << 2;  ///< the socket has more to receive
inline constexpr unsigned buffer_shift = 16;

struct submission_offsets {
    std::uint32_t head, tail, mask, entries, flags, dropped, array, reserved;
    std::uint64_t address;
};

struct completion_offsets {
    std::uint32_t head, tail, mask, entries, overflow, completions, flags, reserved;
    std::uint64_t address;
};

/// io_uring_params
struct parameters {
    std::uint32_t submissions, completions, flags, thread_cpu, thread_idle, features, workers, reserved[3];
    submission_offsets submission_queue;
    completion_offsets completion_queue;
};

// parameters::flags, and the kernel that knows them first
inline constexpr std::uint32_t set_completions = 1 << 3;
inline constexpr std::uint32_t clamp = 1 << 4;
inline constexpr std::uint32_t begin_disabled = 1 << 6;
inline constexpr std::uint32_t submit_all = 1 << 7;        // 5.18
inline constexpr std::uint32_t cooperative_work = 1 << 8;  // 5.19
inline constexpr std::uint32_t flag_work = 1 << 9;         // 5.19
inline constexpr std::uint32_t single_issuer = 1 << 12;    // 6.0
inline constexpr std::uint32_t deferred_work = 1 << 13;    // 6.1

// The submission queue's flags word
inline constexpr std::uint32_t completions_overflown = 1 << 1;
inline constexpr std::uint32_t work_to_run = 1 << 2;

// Where to map what
inline constexpr std::int64_t queues_at = 0;
inline constexpr std::int64_t submissions_at = 0x1000'0000;

// Flags of enter()
inline constexpr unsigned enter_get_events = 1 << 0;
inline constexpr unsigned enter_extended = 1 << 3;

/// io_uring_getevents_arg
struct wait_argument {
    std::uint64_t signal_mask;
    std::uint32_t signal_mask_size;
    std::uint32_t reserved;
    std::uint64_t limit;  ///< the address of a kernel_time, or 0
};

/// __kernel_timespec
struct kernel_time {
    std::int64_t seconds, nanoseconds;
};

// Opcodes of control()
inline constexpr unsigned register_event = 4;
inline constexpr unsigned enable_rings = 12;
inline constexpr unsigned register_buffer_ring = 22;

/// io_uring_buf_reg
struct buffer_registration {
    std::uint64_t address;
    std::uint32_t entries;
    std::uint16_t group;
    std::uint16_t flags;
    std::uint64_t reserved[3];
};

/// io_uring_buf. Where the first one has `tail`, the kernel reads how far the ring is filled.
struct provided_buffer {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t number;
    std::uint16_t tail;
};

// The three calls. They return what io_uring's do, or a negative errno.

inline constexpr long setup_call = 425;
inline constexpr long enter_call = 426;
inline constexpr long register_call = 427;

inline int outcome_of(long returned) noexcept { return returned < 0 ? -errno : static_cast<int>(returned); }

inline int set_up(unsigned entries, parameters& wanted) noexcept {
    return outcome_of(::syscall(setup_call, entries, &wanted));
}

inline int enter(int ring, unsigned to_submit, unsigned wanted, unsigned flags, const wait_argument* argument,
                 std::size_t argument_size) noexcept {
    return outcome_of(::syscall(enter_call, ring, to_submit, wanted, flags, argument, argument_size));
}

inline int control(int ring, unsigned opcode, void* argument, unsigned count) noexcept {
    return outcome_of(::syscall(register_call, ring, opcode, argument, count));
}

/// The events of a poll request: two halves of a word, in an order of their own.
constexpr std::uint32_t poll_events(std::uint32_t events) noexcept {
    return std::endian::native == std::endian::little ? events : events << 16 | events >> 16;
}

}  // namespace zloop::detail::uring

#endif
