// zloop/kernel/readiness.hpp: what epoll and kqueue share: try first, then park.
//
// A kernel that reports readiness is made to complete operations: an operation tries its system call
// and, on EAGAIN, parks in its descriptor's read or write slot. An event queues the parked one; it
// tries again in its own turn, so the buffer lent by `receive` is filled right before it is looked at.
//
// Descriptors that we own are registered once, edge-triggered, in both directions: from then on no
// system call but the I/O itself. A read shorter than asked has drained the socket, so the slot counts
// as not ready and the EAGAIN recv is saved (0.33 us) - unless the event also told of a hang-up or an
// error: that edge does not come again. This holds for TCP alone: a Unix socket's recv ends behind a
// message that carried descriptors, a TCP one's before urgent data (told as a hang-up), with more to read.
// A batch of datagrams with room left has drained its socket as well, of whatever kind.
//
// What receive() lends is one scratch buffer, for every descriptor in turn. A send of it that has to wait
// keeps it, and the next receive() gets another.
//
// A slot has a generation, and events carry it: an event for a descriptor's former life is ignored.
#pragma once

#include <cassert>
#include <new>
#include <utility>
#include <vector>

#include <unistd.h>

#include <zloop/error.hpp>
#include <zloop/kernel/attempt.hpp>
#include <zloop/kernel/backend.hpp>
#include <zloop/kernel/descriptor_table.hpp>

namespace zloop {

/// Does what backends share whose kernel reports readiness: completes operations, serves watchers. What is
/// left to epoll and kqueue is to register descriptors and to wait.
///
/// Thread:  that of its loop.
/// Example: examples/cpp/backends.cpp
class readiness : public backend {
public:
    /// Frees the buffer that receive() has lent.
    ~readiness() override { drop(scratch_); }

    std::error_code attach(int fd) noexcept override {
        if (const auto error = slots_.reserve(fd)) {
            return error;
        }
        slot* const place = &slots_[fd];
        // The kernel has just given us this number: an owner or a watcher of a former life has nothing.
        if (place->owned) {
            forget(fd);  // somebody closed it behind its owner's back
        }
        if (orphan(*place)) {
            unregister(fd);  // where it is not closed, the watcher's registration is of another kind
        }
        if (const auto error = register_owned(fd, place->generation)) {
            return error;
        }
        place->owned = true;
        place->disarmed = false;
        place->readable = false;  // an edge tells, if there is something already
        place->writable = true;
        place->hung_up = false;
        place->kind = detail::kind_of(fd);
        place->burst = place->write_burst = 0;
        return {};
    }

    std::uint32_t life(int fd) const noexcept override { return slots_[fd].generation; }

    void release(int fd) noexcept override {
        forget(fd);
        unregister(fd);  // or its events would wake us for as long as it lives elsewhere
    }

    void close(int fd) noexcept override {
        forget(fd);
        ::close(fd);  // leaves the interest set by itself, or, where a duplicate lives, is ignored
    }

    bool start(io_op& operation) noexcept override {
        operation.run = &readiness::run_queued;
        if (operation.fd < 0 || operation.life != slots_[operation.fd].generation) {
            operation.error = EBADF;  // the socket is closed, or its number another's by now
            return true;
        }
        slot& place = slots_[operation.fd];
        assert(place.owned);
        const bool reads = is_read(operation.code);
        op*& waiting = reads ? place.reader : place.writer;
        if (waiting != nullptr) {
            // The loop's own callers never overlap; a try beside a parked write just has to wait.
            operation.error = operation.now_or_never ? EAGAIN : EBUSY;
            return true;
        }
        if (!operation.now_or_never && is_spent(place, operation.code)) {
            // A busy peer starves nobody: the rest of the loop has its turn first.
            (reads ? place.burst : place.write_burst) = 0;
            waiting = &operation;
            keep_lent(operation);
            operation.state = io_op::phase::queued;
            ready_->push(operation);
            return false;
        }
        return try_or_park(operation, place);
    }

    void cancel(io_op& operation) noexcept override {
        using enum io_op::phase;
        if (operation.state != parked && operation.state != queued) {
            operation.state = canceled;  // idle: by its own provider; attempt() looks
            return;
        }
        slot_of(operation) = nullptr;
        if (operation.state == parked) {
            ready_->push(operation);
        }
        operation.state = canceled;
    }

    std::error_code watch(watcher& interest) noexcept override {
        if (const auto error = slots_.reserve(interest.fd)) {
            return error;
        }
        slot* const place = &slots_[interest.fd];
        op*& waiting = interest.toward == direction::read ? place->reader : place->writer;
        if (place->owned || waiting != nullptr) {
            return std::make_error_code(std::errc::device_or_resource_busy);
        }
        const interests before = interests_of(*place);
        waiting = &interest;
        if (const auto error = change_foreign(interest.fd, place->generation, before, interests_of(*place))) {
            waiting = nullptr;
            return error;
        }
        place->disarmed = false;
        return {};
    }

    void unwatch(watcher& interest) noexcept override {
        if (interest.fd < 0) {
            return;  // orphaned
        }
        slot& place = slots_[interest.fd];
        op*& waiting = interest.toward == direction::read ? place.reader : place.writer;
        assert(waiting == &interest);
        const interests before = interests_of(place);
        waiting = nullptr;
        const interests after = interests_of(place);
        const bool none = !after.read && !after.write;
        if (!none || !place.disarmed) {
            // Fails when the descriptor is closed already; then there is nothing to change.
            static_cast<void>(change_foreign(interest.fd, place.generation, before, after));
            place.disarmed = false;
        }
        if (none) {
            ++place.generation;
        }
    }

protected:
    /// What the watchers of a descriptor wait for.
    struct interests {
        bool read = false;   ///< to read
        bool write = false;  ///< to write
        bool once = false;   ///< of all that watch; without either direction: disarmed, but registered
        /// Whether two are the same.
        bool operator==(const interests&) const = default;
    };

    /// Registers both directions, edge-triggered.
    virtual std::error_code register_owned(int fd, std::uint32_t generation) noexcept = 0;

    /// Ends either kind of registration, if it is there.
    virtual void unregister(int fd) noexcept = 0;

    /// Changes a level-triggered registration; {} is none. A backend may disarm one that is `once` with its
    /// first event, in both directions.
    virtual std::error_code change_foreign(int fd, std::uint32_t generation, interests before,
                                           interests after) noexcept = 0;

    /// What the kernel has told of a descriptor.
    struct event {
        int fd;                    ///< which descriptor
        std::uint32_t generation;  ///< in which of its lives
        bool readable;             ///< it can be read
        bool writable;             ///< it can be written
        bool hung_up;              ///< the peer's end, an error, urgent data: counts for both directions
        bool disarmed = false;     ///< of a watched one: there are no more until it is watched anew
    };

    /// Whether a descriptor that was registered is in service, and not watched.
    bool owns(int fd) const noexcept { return slots_[fd].owned; }

    /// Queues whoever waits for `seen`. False: it is of a former life of the descriptor.
    bool dispatch(const event& seen) noexcept {
        slot& place = slots_[seen.fd];
        if (place.generation != seen.generation) {
            return false;
        }
        if (!place.owned) {
            place.disarmed = seen.disarmed;
            if (seen.readable || seen.hung_up) {
                queue_watcher(place.reader);
            }
            if (seen.writable || seen.hung_up) {
                queue_watcher(place.writer);
            }
            return true;
        }
        place.hung_up |= seen.hung_up;
        if (seen.readable || seen.hung_up) {
            place.readable = true;
            place.burst = 0;
            queue_parked(place.reader);
        }
        if (seen.writable || seen.hung_up) {
            place.writable = true;
            place.write_burst = 0;
            queue_parked(place.writer);
        }
        return true;
    }

    /// Calls `visit(fd, generation, owned, interests)` for every descriptor in service.
    template <class F>
    void for_each_registered(F&& visit) const {
        for (int fd = 0; fd < slots_.size(); ++fd) {
            const slot& place = slots_[fd];
            const interests wanted = interests_of(place);
            if (place.owned || wanted.read || wanted.write) {
                visit(fd, place.generation, place.owned, wanted);
            }
        }
    }

private:
    // 32 bytes a descriptor: two share a cache line, and none lies in two. `reader` and `writer` are io_ops
    // where we own it, watchers where not.
    struct slot {
        op* reader = nullptr;
        op* writer = nullptr;
        std::uint32_t generation = 0;
        bool owned = false;
        bool readable = false;
        bool writable = false;
        bool hung_up = false;
        bool disarmed = false;
        detail::descriptor_kind kind = detail::descriptor_kind::other;
        std::uint8_t burst = 0;        // accepts that succeeded since the last event or requeue
        std::uint8_t write_burst = 0;  // and writes
    };

    // The BSDs' kqueue tells nobody that a read has ended before urgent data, nor does libkqueue.
#if (defined(__linux__) || defined(__APPLE__)) && !ZLOOP_LIBKQUEUE
    static constexpr bool short_reads_drain = true;
#else
    static constexpr bool short_reads_drain = false;
#endif

    // recvmmsg(2) goes on until there is nothing left, or an error, of which Linux has told as a hang-up.
#if defined(__linux__)
    static constexpr bool batches_drain = true;
#else
    static constexpr bool batches_drain = false;
#endif

    // Holds a 100 KiB message, and what is copied out of it stays below the 128 KiB from which malloc maps
    // pages anew each time: 20 us of CPU a 100 KiB echo, where 64 KiB cost 26.
    static constexpr std::size_t scratch_bytes = 120 * 1024;

    /// How many operations on a ready descriptor may succeed in a row before the rest of the loop has its
    /// turn. Bytes always wait for a turn: whoever resumes reading is never called back inline.
    static constexpr std::uint8_t most_accepts = 64;
    static constexpr std::uint8_t most_writes = 64;
    static bool is_spent(const slot& place, opcode code) noexcept {
        if (!is_read(code)) {
            return place.writable && place.write_burst >= most_writes;
        }
        return place.readable && (code != opcode::accept || place.burst >= most_accepts);
    }

    static interests interests_of(const slot& place) noexcept {
        if (place.owned) {
            return {};
        }
        if (place.reader == nullptr && place.writer == nullptr) {
            return {false, false, place.disarmed};
        }
        const auto lasts = [](const op* watching) {
            return watching != nullptr && !static_cast<const watcher*>(watching)->once;
        };
        return {place.reader != nullptr, place.writer != nullptr,
                !lasts(place.reader) && !lasts(place.writer)};
    }

    op*& slot_of(const io_op& operation) noexcept {
        slot& place = slots_[operation.fd];
        return is_read(operation.code) ? place.reader : place.writer;
    }

    void forget(int fd) noexcept {
        slot& place = slots_[fd];
        assert(place.owned);
        for (op* waiting : {place.reader, place.writer}) {
            if (waiting != nullptr) {
                cancel(static_cast<io_op&>(*waiting));
            }
        }
        place.owned = false;
        ++place.generation;
    }

    static bool orphan(slot& place) noexcept {
        bool found = false;
        for (op** waiting : {&place.reader, &place.writer}) {
            if (*waiting != nullptr) {
                static_cast<watcher*>(*waiting)->fd = -1;
                *waiting = nullptr;
                ++place.generation;
                found = true;
            }
        }
        return found;
    }

    void queue_watcher(op* waiting) noexcept {
        auto* interest = static_cast<watcher*>(waiting);
        if (interest != nullptr && !interest->queued) {
            interest->queued = true;
            ready_->push(*interest);
        }
    }

    void queue_parked(op* waiting) noexcept {
        auto* operation = static_cast<io_op*>(waiting);
        if (operation != nullptr && operation->state == io_op::phase::parked) {
            operation->state = io_op::phase::queued;
            ready_->push(*operation);
        }
    }

    static void run_queued(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        if (operation.state == io_op::phase::canceled) {
            operation.error = ECANCELED;
        } else {
            auto& self = static_cast<readiness&>(*operation.owner);
            slot& place = self.slots_[operation.fd];
            (is_read(operation.code) ? place.reader : place.writer) = nullptr;
            operation.state = io_op::phase::idle;
            if (!self.try_or_park(operation, place)) {
                return;
            }
        }
        operation.state = io_op::phase::idle;
        static_cast<readiness&>(*operation.owner).resume(operation);
    }

    /// Resumes an operation's coroutine, and lends it what the operation has kept. The frame may be gone
    /// then.
    void resume(io_op& operation) noexcept {
        auto* const kept = static_cast<loan*>(std::exchange(operation.lease, nullptr));
        if (kept == nullptr) {
            operation.waiter.resume();
            return;
        }
        lent_ = kept;
        operation.waiter.resume();
        lent_ = nullptr;
        drop(kept);
    }

    // The outcome is there, or the operation is parked: false. Each ends with a call of the next, and what is
    // seldom needed is apart, so that a message saves no registers but around its system calls (30
    // instructions of 490).

    bool try_or_park(io_op& operation, slot& place) noexcept {
        if (is_read(operation.code)) {
            return place.readable ? read_or_park(operation, place) : park(operation);
        }
        return place.writable ? write_or_park(operation, place) : park(operation);
    }

    [[gnu::noinline]] bool read_or_park(io_op& operation, slot& place) noexcept {
        if (operation.code == opcode::receive) {
            if (!lend(operation)) {
                return true;
            }
        } else if (operation.provide != nullptr) {
            return provide_and_read(operation, place);
        }
        return read_into(operation, place);
    }

    [[gnu::noinline]] bool provide_and_read(io_op& operation, const slot& place) noexcept {
        const std::uint32_t generation = place.generation;
        operation.state = io_op::phase::idle;
        operation.provide(operation);
        if (operation.error != 0) {
            return true;
        }
        // A provider may attach descriptors, and so move the table; cancel; or close.
        slot& found = slots_[operation.fd];
        if (found.generation != generation || operation.state == io_op::phase::canceled) {
            operation.error = ECANCELED;
            return true;
        }
        return read_into(operation, found);
    }

    /// Makes the system call, and notes in the slot what it tells of the next one.
    bool read_into(io_op& operation, slot& place) noexcept {
        const std::size_t asked = operation.size;
        if (!detail::attempt(operation, place.kind)) {
            place.readable = false;
            return park(operation);
        }
        if (operation.code == opcode::accept) {
            ++place.burst;  // who tries again at once, with EMFILE, still starves nobody
        } else if (short_reads_drain && operation.size < asked && operation.error == 0 &&
                   tells_of_its_end(operation, place) && !place.hung_up) {
            place.readable = false;
        }
        return true;
    }

    [[gnu::noinline]] bool write_or_park(io_op& operation, slot& place) noexcept {
        if (!detail::attempt(operation, place.kind)) {
            place.writable = false;
            return park(operation);
        }
        place.write_burst = static_cast<std::uint8_t>(place.write_burst + !operation.now_or_never);
        return true;
    }

    [[gnu::noinline]] bool park(io_op& operation) noexcept {
        if (operation.now_or_never) {
            operation.error = EAGAIN;
            return true;
        }
        keep_lent(operation);
        slot_of(operation) = &operation;
        operation.state = io_op::phase::parked;
        return false;
    }

    /// Whether there is nothing left when less came than there was room for.
    static bool tells_of_its_end(const io_op& operation, const slot& place) noexcept {
        return place.kind == detail::descriptor_kind::tcp ||
               (batches_drain && operation.code == opcode::receive_batch);
    }

    /// Memory that receive() lends: this head, and the bytes behind it. The last user frees it.
    struct loan {
        std::size_t users = 1;

        std::byte* bytes() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
        bool contains(const void* address) noexcept {
            const auto from = reinterpret_cast<std::uintptr_t>(bytes());
            return reinterpret_cast<std::uintptr_t>(address) - from < scratch_bytes;
        }
    };

    static void drop(loan* used) noexcept {
        if (used != nullptr && --used->users == 0) {
            ::operator delete(used);
        }
    }

    bool lend(io_op& operation) noexcept {
        if ((scratch_ == nullptr || scratch_->users > 1) && !renew_scratch()) {  // a send has that one
            operation.error = ENOMEM;
            return false;
        }
        operation.data = scratch_->bytes();
        operation.size = scratch_bytes;
        return true;
    }

    [[gnu::noinline]] bool renew_scratch() noexcept {
        drop(std::exchange(scratch_, nullptr));
        void* const memory = ::operator new(sizeof(loan) + scratch_bytes, std::nothrow);
        scratch_ = memory != nullptr ? ::new (memory) loan : nullptr;
        return scratch_ != nullptr;
    }

    /// A send of what is lent keeps that while it waits: the next receive() gets other memory.
    void keep_lent(io_op& operation) noexcept {
        if (operation.code != opcode::send || operation.lease != nullptr) {
            return;
        }
        for (loan* const each : {lent_, scratch_}) {
            for (unsigned index = 0; each != nullptr && index < operation.part_count; ++index) {
                if (each->contains(operation.parts[index].iov_base)) {
                    ++each->users;
                    operation.lease = each;
                    return;
                }
            }
        }
    }

    detail::descriptor_table<slot> slots_;
    loan* scratch_ = nullptr;
    loan* lent_ = nullptr;  // kept by a send, and lent to the coroutine that it has resumed
};

}  // namespace zloop
