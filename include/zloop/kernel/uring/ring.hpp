// zloop/kernel/uring/ring.hpp: an io_uring: the two queues that are shared with the kernel, and the way in.
//
// Requests are prepared in the submission queue and handed over together, by the one system call that
// also waits. The kernel's completions lie in the other queue until they are read.
//
// The kernel does its part of the work inside of our system calls only (DEFER_TASKRUN; COOP_TASKRUN
// before Linux 6.1): between two of them nothing is received, and no completion appears. The ring belongs to
// the thread that calls enter() first (SINGLE_ISSUER).
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/abi.hpp>

#if ZLOOP_HAS_URING

#include <system_error>

#include <sys/mman.h>

#include <zloop/core/timer.hpp>  // nanoseconds

namespace zloop::detail::uring {

/// Pages of our own, or shared with the kernel.
class mapping {
public:
    mapping() noexcept = default;
    mapping(mapping&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}
    mapping& operator=(mapping&& other) noexcept {
        std::swap(at_, other.at_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~mapping() {
        if (at_ != nullptr) {
            ::munmap(at_, size_);
        }
    }

    /// Throws std::system_error.
    static mapping of(std::size_t size, int flags, int fd = -1, std::int64_t offset = 0) {
        mapping made;
        void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
        if (at == MAP_FAILED) {
            throw std::system_error(errno, std::system_category(), "mmap");
        }
        made.at_ = at;
        made.size_ = size;
        return made;
    }

    template <class T>
    T* at(std::size_t offset = 0) const noexcept {
        return reinterpret_cast<T*>(static_cast<char*>(at_) + offset);
    }

private:
    void* at_ = nullptr;
    std::size_t size_ = 0;
};

class ring {
public:
    /// Throws std::system_error where the kernel, a filter of system calls or the administrator forbids it.
    ring(unsigned submissions, unsigned completions) {
        constexpr std::uint32_t always =
            set_completions | clamp | begin_disabled | submit_all | single_issuer | flag_work;
        parameters made{};
        for (const std::uint32_t manner : {deferred_work, cooperative_work}) {
            made = {};
            made.completions = completions;
            made.flags = always | manner;
            fd_ = set_up(submissions, made);
            if (fd_ != -EINVAL) {
                works_in_enter_alone_ = manner == deferred_work;
                break;
            }
        }
        check(fd_, "io_uring_setup");
        try {
            map(made);
            // A filter may know the first call and forbid the second. This one has nothing to do.
            if (const int error = uring::enter(fd_, 0, 0, 0, nullptr, 0); error != -EBADFD) {
                check(error, "io_uring_enter");
            }
        } catch (...) {
            ::close(fd_);
            throw;
        }
    }

    ring(const ring&) = delete;
    ring& operator=(const ring&) = delete;
    ~ring() { abandon(); }

    int native_handle() const noexcept { return fd_; }

    /// From now on the kernel writes to `eventfd` when has_work() or has_completions() becomes true. False:
    /// it refuses.
    bool announce_to(int eventfd) const noexcept { return control(fd_, register_event, &eventfd, 1) >= 0; }

    /// Whether nothing of ours is read or written outside of enter(): so nothing is, once nobody calls that.
    bool works_in_enter_alone() const noexcept { return works_in_enter_alone_; }

    /// Closes our descriptor of it and touches the queues no more; in a fork they are the parent's.
    void abandon() noexcept {
        if (fd_ >= 0) {
            ::close(std::exchange(fd_, -1));
        }
    }

    /// A request to fill in, all zero. Null while the queue is full: enter() makes room.
    submission* prepare() noexcept {
        if (tail_ - load(submission_head_) > mask_) {
            return nullptr;
        }
        submission* const next = &submissions_.at<submission>()[tail_++ & mask_];
        *next = {};
        return next;
    }

    /// The place of a request in the queue, for what has to live as long as that is taken.
    std::size_t index_of(const submission* request) const noexcept {
        return static_cast<std::size_t>(request - submissions_.at<submission>());
    }
    std::size_t capacity() const noexcept { return mask_ + std::size_t{1}; }

    /// How many requests wait to be handed over.
    unsigned prepared() const noexcept { return tail_ - load(submission_head_); }

    /// Takes a descriptor's number out of the requests that were not handed over: they end with EBADF.
    void renounce(int number) noexcept {
        for (std::uint32_t each = load(submission_head_); each != tail_; ++each) {
            submission& prepared_one = submissions_.at<submission>()[each & mask_];
            if (prepared_one.fd == number) {
                prepared_one.fd = -1;
            }
        }
    }

    bool has_completions() const noexcept { return completion_head_ != load(completion_tail_); }

    /// Whether the kernel has something to do or to tell that takes a system call.
    bool has_work() const noexcept { return (load(flags_) & (work_to_run | completions_overflown)) != 0; }

    /// Hands over what was prepared, lets the kernel do its part, and waits until there are `wanted`
    /// completions, or up to `limit` (negative: without end). Returns 0 or an errno: ETIME after `limit`,
    /// where nothing was handed over; EEXIST when the ring is another thread's.
    int enter(unsigned wanted, nanoseconds limit = nanoseconds(-1)) noexcept {
        if (!enabled_) {
            if (const int error = control(fd_, enable_rings, nullptr, 0); error < 0) {
                return -error;
            }
            enabled_ = true;
        }
        publish();
        kernel_time time{};
        wait_argument argument{};
        argument.signal_mask_size = 8;
        if (wanted != 0 && limit >= nanoseconds::zero()) {
            time.seconds = limit / std::chrono::seconds(1);
            time.nanoseconds = (limit % std::chrono::seconds(1)).count();
            argument.limit = reinterpret_cast<std::uintptr_t>(&time);
        }
        const int done = uring::enter(fd_, prepared(), wanted, enter_get_events | enter_extended, &argument,
                                      sizeof argument);
        return done < 0 ? -done : 0;
    }

    /// Hands over what was prepared and no more, to make room in the queue. Returns 0 or an errno.
    int submit() noexcept {
        if (!enabled_) {
            return enter(0);
        }
        publish();
        const int done = uring::enter(fd_, prepared(), 0, 0, nullptr, 0);
        return done < 0 ? -done : 0;
    }

    /// Calls `visit(const completion&)` for each completion that is there, and takes it out.
    template <class F>
    void reap(F&& visit) noexcept {
        const std::uint32_t end = load(completion_tail_);
        while (completion_head_ != end) {
            const completion seen = completions_[completion_head_ & completion_mask_];
            ++completion_head_;
            visit(seen);
        }
        __atomic_store_n(completion_head_shared_, completion_head_, __ATOMIC_RELEASE);
    }

private:
    static void check(int outcome, const char* what) {
        if (outcome < 0) {
            throw std::system_error(-outcome, std::system_category(), what);
        }
    }

    static std::uint32_t load(const std::uint32_t* shared) noexcept {
        return __atomic_load_n(shared, __ATOMIC_ACQUIRE);  // std::atomic_ref is younger than some libraries
    }

    void map(const parameters& made) {
        const submission_offsets& in = made.submission_queue;
        const completion_offsets& out = made.completion_queue;
        const std::size_t in_end = in.array + made.submissions * sizeof(std::uint32_t);
        const std::size_t out_end = out.completions + made.completions * sizeof(completion);
        queues_ = mapping::of(in_end > out_end ? in_end : out_end, MAP_SHARED | MAP_POPULATE, fd_, queues_at);
        submissions_ = mapping::of(made.submissions * sizeof(submission), MAP_SHARED | MAP_POPULATE, fd_,
                                   submissions_at);
        submission_head_ = queues_.at<std::uint32_t>(in.head);
        submission_tail_ = queues_.at<std::uint32_t>(in.tail);
        flags_ = queues_.at<std::uint32_t>(in.flags);
        mask_ = *queues_.at<std::uint32_t>(in.mask);
        completion_head_shared_ = queues_.at<std::uint32_t>(out.head);
        completion_tail_ = queues_.at<std::uint32_t>(out.tail);
        completion_mask_ = *queues_.at<std::uint32_t>(out.mask);
        completions_ = queues_.at<completion>(out.completions);
        for (std::uint32_t index = 0; index <= mask_; ++index) {
            queues_.at<std::uint32_t>(in.array)[index] =
                index;  // requests leave in the order of their places
        }
    }

    void publish() noexcept { __atomic_store_n(submission_tail_, tail_, __ATOMIC_RELEASE); }

    int fd_ = -1;
    bool enabled_ = false;
    bool works_in_enter_alone_ = false;
    std::uint32_t mask_ = 0;
    std::uint32_t tail_ = 0;
    std::uint32_t completion_mask_ = 0;
    std::uint32_t completion_head_ = 0;
    mapping queues_;
    mapping submissions_;
    std::uint32_t* submission_head_ = nullptr;
    std::uint32_t* submission_tail_ = nullptr;
    std::uint32_t* flags_ = nullptr;
    std::uint32_t* completion_head_shared_ = nullptr;
    std::uint32_t* completion_tail_ = nullptr;
    completion* completions_ = nullptr;
};

}  // namespace zloop::detail::uring

#endif
