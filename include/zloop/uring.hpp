// zloop/uring.hpp: the Linux backend that completes.
//
// Requests are collected while a turn runs, and leave in the one system call that also waits. A stream
// socket's first receive() starts a request that goes on by itself, from message to message, into
// buffers of the kernel's choice; a listener's first accept() likewise. What comes while nobody asks is
// kept in order; from `most_unread` bytes, or connections, on the request is withdrawn, so a peer that
// is not listened to feels it. Send, connect and recv(span) are one request each. Whatever else there
// is, and descriptors that are no stream sockets, wait in a poll request and then make their system call.
//
// An operation whose frame the kernel has seen is resumed when the kernel is done with it, never before.
// What receive() lends stays for as long as its coroutine runs, and for as long as a send of it takes.
//
// The ring belongs to the thread that turns the loop first. Descriptors that are closed with requests
// under way cost a system call more: it makes the kernel let go of them at once.
#pragma once

#include <zloop/uring_channel.hpp>

#if ZLOOP_HAS_URING

#include <algorithm>
#include <cassert>
#include <cstring>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <zloop/error.hpp>
#include <zloop/fork.hpp>

namespace zloop {

class uring_backend final : public backend {
    using channel = detail::uring::channel;
    using lane = detail::uring::lane;
    using request_state = detail::uring::request_state;
    using submission = detail::uring::submission;
    using buffer = detail::uring::buffer;
    using phase = io_op::phase;

public:
    /// Throws std::system_error where there is no io_uring, none that can do enough (Linux 6.0), or where a
    /// filter of system calls or the administrator forbids it.
    uring_backend()
        : wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), ring_(submissions, completions), buffers_(ring_) {
        if (!wake_) {
            throw std::system_error(errno, std::system_category(), "eventfd");
        }
        messages_.resize(ring_.capacity());
    }

    ~uring_backend() override {
        for (slot& each : slots_) {
            if (channel* const left = std::exchange(each.here, nullptr)) {
                left->waiting[0] = left->waiting[1] = nullptr;  // nobody is told any more
                retire(*left);
            }
        }
        for (channel* each : listed_) {
            each->listed = false;
            free_if_done(*each);
        }
        while (under_way_ > 0 && is_reachable() && ring_.enter(1) == 0) {
            collect();
        }
        ring_.abandon();
        drop_loans();
        if (scratch_ != nullptr) {
            buffers_.drop(*scratch_);
        }
    }

    std::string_view name() const noexcept override { return "io_uring"; }
    int native_handle() const noexcept override { return ring_.native_handle(); }

    std::error_code attach(int fd) noexcept override {
        if (const auto error = reserve(fd)) {
            return error;
        }
        slot& place = slots_[static_cast<std::size_t>(fd)];
        if (place.here != nullptr) {
            // The kernel has just given us this number: an owner or a watcher of a former life has nothing.
            orphan(place);
        }
        return put(place, fd, true);
    }

    std::uint32_t life(int fd) const noexcept override {
        return slots_[static_cast<std::size_t>(fd)].generation;
    }

    void release(int fd) noexcept override { forget(fd); }

    void close(int fd) noexcept override {
        forget(fd);
        ::close(fd);
    }

    bool start(io_op& operation) noexcept override {
        operation.run = &uring_backend::finish;
        if (operation.fd < 0) {
            operation.error = EBADF;  // on a socket that is closed already
            return true;
        }
        if (!is_reachable()) {
            operation.error = EPERM;
            return true;
        }
        channel& at = here(operation);
        assert(at.owned);
        if (at.waiter(detail::uring::lane_of(operation.code)) != nullptr) {
            // The loop's own callers never overlap; a try beside one that waits just has to wait.
            operation.error = operation.now_or_never ? EAGAIN : EBUSY;
            return true;
        }
        return operation.now_or_never ? start_now(operation, at) : begin(operation, at);
    }

    void cancel(io_op& operation) noexcept override {
        switch (operation.state) {
            case phase::idle: operation.state = phase::canceled; break;  // by its own provider
            case phase::parked:
            case phase::queued:
            case phase::submitted: cancel(operation, here(operation)); break;
            default: break;  // it is over, or asked to be; its channel may be gone
        }
    }

    std::error_code watch(watcher& interest) noexcept override {
        if (const auto error = reserve(interest.fd)) {
            return error;
        }
        slot& place = slots_[static_cast<std::size_t>(interest.fd)];
        if (place.here == nullptr) {
            if (const auto error = put(place, interest.fd, false)) {
                return error;
            }
        }
        channel& at = *place.here;
        const lane way = lane_of(interest);
        if (at.owned || at.waiter(way) != nullptr) {
            return std::make_error_code(std::errc::device_or_resource_busy);
        }
        at.waiter(way) = &interest;
        list(at);
        return {};
    }

    void unwatch(watcher& interest) noexcept override {
        if (interest.fd < 0) {
            return;  // orphaned
        }
        slot& place = slots_[static_cast<std::size_t>(interest.fd)];
        channel& at = *place.here;
        const lane way = lane_of(interest);
        assert(at.waiter(way) == &interest);
        at.waiter(way) = nullptr;
        if (at.waiting[0] == nullptr && at.waiting[1] == nullptr) {
            place.here = nullptr;
            ++place.generation;
            retire_at_once(at);
        } else {
            stop(at, way);
        }
    }

    std::error_code wait(nanoseconds timeout) noexcept override {
        prepare();
        unsigned wanted = 1;
        if (timeout == nanoseconds::zero() || ring_.has_completions()) {
            if (ring_.prepared() == 0 && !ring_.has_work()) {
                return {};
            }
            wanted = 0;
        }
        const int error = ring_.enter(wanted, timeout);
        switch (error) {
            case 0:
            case EINTR:
            case ETIME:
            case EBUSY:   // completions are in the way: they are taken now
            case EAGAIN:  // no memory for a request: it is still there
                return {};
            default: return system_error_code(error);
        }
    }

    void collect() noexcept override {
        if (!is_reachable()) {
            return;  // the parent's completions
        }
        ring_.reap([this](const detail::uring::completion& seen) { complete(seen); });
    }

    bool settling() const noexcept override { return settling_ > 0; }

    void wake() noexcept override {
        const std::uint64_t one = 1;
        detail::uninterrupted([&] { return ::write(wake_.get(), &one, sizeof one); });  // or a loop sleeps on
    }

    void abandon() noexcept override {
        ring_.abandon();
        wake_.reset();
    }

private:
    struct slot {
        channel* here = nullptr;
        std::uint32_t generation = 0;
    };

    static constexpr unsigned submissions = 512;
    static constexpr unsigned completions = 4096;
    static constexpr std::uint64_t nobody = 0;  // a cancel that has found nothing
    static constexpr std::uint64_t waker = 3;   // no lane of no channel

    static constexpr std::size_t most_unread_bytes = 64 * 1024;
    static constexpr std::size_t most_unread_connections = 64;

    /// What is copied rather than kept in a buffer of its own, where the one before has room.
    static constexpr std::size_t few_bytes = 4096;

    /// As in readiness.hpp: how many operations may succeed in a row before the rest has its turn.
    static constexpr std::uint8_t most_accepts = 64;
    static constexpr std::uint8_t most_writes = 64;

    /// The most that one request moves: its result is an int.
    static constexpr std::size_t most_bytes = 1 << 30;

    /// Holds the largest datagram.
    static constexpr std::uint32_t scratch_bytes = 64 * 1024;

    // Descriptors.

    channel& here(const io_op& operation) noexcept {
        return *slots_[static_cast<std::size_t>(operation.fd)].here;
    }
    static lane lane_of(const watcher& interest) noexcept {
        return interest.toward == direction::read ? lane::reading : lane::writing;
    }

    /// Whether the ring is this process's.
    bool is_reachable() const noexcept { return !process_.is_inherited(); }

    std::error_code reserve(int fd) noexcept {
        const auto index = static_cast<std::size_t>(fd);
        if (fd < 0) {
            return std::make_error_code(std::errc::bad_file_descriptor);
        }
        if (!is_reachable()) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        if (index >= slots_.size()) {
            if (::fcntl(fd, F_GETFD) < 0) {  // no table of gigabytes for a wild number
                return system_error_code(errno);
            }
            try {
                slots_.resize(index + 1);
            } catch (const std::bad_alloc&) {
                return std::make_error_code(std::errc::not_enough_memory);
            }
        }
        return {};
    }

    std::error_code put(slot& place, int fd, bool owned) noexcept {
        int type = 0;
        socklen_t room = sizeof type;
        const bool is_socket = ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) == 0;
        struct stat status {};
        if (!is_socket && ::fstat(fd, &status) != 0) {
            return system_error_code(errno);
        }
        if (!is_socket && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) {
            return std::make_error_code(std::errc::operation_not_permitted);  // as epoll says
        }
        channel* const made = make_channel(fd, owned);
        if (made == nullptr) {
            return std::make_error_code(std::errc::not_enough_memory);
        }
        made->kind = is_socket ? detail::kind_of(fd) : detail::descriptor_kind::other;
        made->byte_stream = is_socket && type == SOCK_STREAM;
        place.here = made;
        return {};
    }

    /// Null: no memory. From here on nothing about a channel needs any.
    channel* make_channel(int fd, bool owned) noexcept {
        const std::size_t count = channels_ + 1;
        try {
            if (count > listed_.capacity()) {
                listed_.reserve(2 * count);
                owed_.reserve(6 * count);  // a cancel for each lane
            }
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
        channel* const made = new (std::nothrow) channel(fd, owned);
        channels_ += made != nullptr;
        return made;
    }

    /// Ends what waits on a descriptor of ours, and makes the kernel let go of it.
    void forget(int fd) noexcept {
        slot& place = slots_[static_cast<std::size_t>(fd)];
        channel& at = *place.here;
        assert(at.owned);
        end_operations(at);
        place.here = nullptr;
        ++place.generation;
        retire_at_once(at);
    }

    /// The number has changed hands behind its owner's back, or its watcher's.
    void orphan(slot& place) noexcept {
        channel& at = *place.here;
        if (at.owned) {
            end_operations(at);
        } else {
            for (op*& each : at.waiting) {
                if (each != nullptr) {
                    static_cast<watcher*>(std::exchange(each, nullptr))->fd = -1;
                }
            }
        }
        place.here = nullptr;
        ++place.generation;
        ring_.renounce(at.fd);  // what has not left yet would meet the new owner
        retire_at_once(at);
    }

    void end_operations(channel& at) noexcept {
        for (op* each : at.waiting) {
            if (each != nullptr) {
                cancel(static_cast<io_op&>(*each), at);
            }
        }
    }

    /// The channel is nobody's any more: what it has goes, and its requests end.
    void retire(channel& at) noexcept {
        at.closed = true;
        for (const lane each : {lane::reading, lane::writing, lane::arriving}) {
            stop(at, each);
        }
        while (!at.received.empty()) {
            buffers_.drop(at.received.pop());
        }
        while (!at.connections.empty()) {
            ::close(at.connections.pop());
        }
        free_if_done(at);
    }

    void retire_at_once(channel& at) noexcept {
        const bool known_to_kernel = at.in_kernel();
        retire(at);
        if (known_to_kernel && is_reachable()) {
            flush();
        }
    }

    /// Hands over every request, and lets the kernel act on it.
    void flush() noexcept {
        // Once, but for completions that are in the way, and for what has no memory.
        for (int tries = 0; tries < 16; ++tries) {
            const bool paid = pay();
            if (ring_.enter(0) == EBUSY) {
                collect();
            }
            if (paid && ring_.prepared() == 0) {
                break;
            }
        }
        collect();
    }

    void free_if_done(channel& at) noexcept {
        if (at.closed && !at.listed && !at.in_kernel()) {
            delete &at;
            --channels_;
        }
    }

    // Requests.

    /// A request for a lane that has none. Null: no room, and no making any.
    submission* request(channel& at, lane which, std::uint8_t opcode) noexcept {
        submission* const made = request();
        if (made != nullptr) {
            made->opcode = opcode;
            made->fd = at.fd;
            made->user_data = at.tag(which);
            at.of(which) = request_state::running;
            ++under_way_;
        }
        return made;
    }

    submission* request() noexcept {
        submission* made = ring_.prepare();
        if (made == nullptr && ring_.submit() == 0) {
            made = ring_.prepare();
        }
        return made;
    }

    /// Asks a lane's request to end; its last completion tells.
    void stop(channel& at, lane which) noexcept {
        if (at.of(which) != request_state::running) {
            return;
        }
        if (!is_reachable()) {
            at.of(which) = request_state::none;  // the parent's
            return;
        }
        at.of(which) = request_state::stopping;
        if (!withdraw(at.tag(which))) {
            owed_.push_back(at.tag(which));
        }
    }

    bool withdraw(std::uint64_t tag) noexcept {
        submission* const made = request();
        if (made != nullptr) {
            made->opcode = detail::uring::op_async_cancel;
            made->flags = detail::uring::silent_success;
            made->fd = -1;
            made->address = tag;
            made->user_data = nobody;
        }
        return made != nullptr;
    }

    /// Sends the cancels that found no room. False: there is none still.
    bool pay() noexcept {
        while (!owed_.empty()) {
            if (!withdraw(owed_.back())) {
                return false;
            }
            owed_.pop_back();
        }
        return true;
    }

    /// Puts the channel among those that get their requests right before the next wait.
    void list(channel& at) noexcept {
        if (!at.listed) {
            at.listed = true;
            listed_.push_back(&at);
        }
    }

    /// What a wait() begins with: buffers for the kernel, and the requests that are due.
    void prepare() noexcept {
        drop_loans();
        pay();
        if (std::exchange(short_of_buffers_, false)) {
            buffers_.grow();
        }
        if (receives_) {
            buffers_.replenish();
        }
        if (!wakes_) {
            if (submission* const made = request()) {
                made->opcode = detail::uring::op_poll_add;
                made->fd = wake_.get();
                made->length = detail::uring::poll_multishot;
                made->operation_flags = detail::uring::poll_events(POLLIN);
                made->user_data = waker;
                wakes_ = true;
            }
        }
        std::size_t kept = 0;
        for (std::size_t index = 0; index < listed_.size(); ++index) {
            channel& at = *listed_[index];
            at.listed = false;
            if (at.closed) {
                free_if_done(at);
            } else if (!(at.owned ? listen(at) : look(at))) {
                at.listed = true;
                listed_[kept++] = &at;
            }
        }
        listed_.resize(kept);
    }

    /// Starts, or starts again, what arrives by itself, where somebody waits for it. False: not now.
    bool listen(channel& at) noexcept {
        const io_op* const reader = at.operation(lane::reading);
        if (reader == nullptr || reader->state != phase::parked || at.has_something() ||
            !at.is_idle(lane::arriving)) {
            return true;  // its end, or the next reader, brings us back
        }
        return arrive(at, reader->code == opcode::accept);
    }

    bool arrive(channel& at, bool accepts) noexcept {
        submission* const made =
            request(at, lane::arriving, accepts ? detail::uring::op_accept : detail::uring::op_recv);
        if (made == nullptr) {
            return false;
        }
        if (accepts) {
            made->modifiers = detail::uring::accept_multishot;
            made->operation_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        } else {
            made->modifiers = detail::uring::receive_multishot;
            made->flags = detail::uring::select_buffer;
            made->buffer_group = detail::uring::buffer_ring::group;
            if (!std::exchange(receives_, true)) {
                buffers_.replenish();
            }
        }
        return true;
    }

    /// Polls a watched descriptor in each direction that is not told of already. False: some later time.
    bool look(channel& at) noexcept {
        bool done = true;
        for (const lane way : {lane::reading, lane::writing}) {
            auto* const interest = static_cast<watcher*>(at.waiter(way));
            if (interest != nullptr && at.is_idle(way)) {
                done = !interest->queued && poll(at, way) && done;
            }
        }
        return done;
    }

    bool poll(channel& at, lane way) noexcept {
        submission* const made = request(at, way, detail::uring::op_poll_add);
        if (made != nullptr) {
            made->operation_flags = detail::uring::poll_events(way == lane::reading ? POLLIN : POLLOUT);
        }
        return made != nullptr;
    }

    // Operations.

    /// True: the outcome is there.
    bool begin(io_op& operation, channel& at) noexcept {
        if (at.byte_stream) {
            switch (operation.code) {
                case opcode::receive: return begin_taking(operation, at);
                case opcode::recv:
                    if (operation.provide == nullptr && at.is_idle(lane::arriving) && !at.has_something()) {
                        return submit_recv(operation, at);
                    }
                    if (!at.is_idle(lane::arriving) || at.has_something()) {
                        return begin_taking(operation, at);
                    }
                    break;
                case opcode::accept:
                    at.listens = true;
                    if (!at.connections.empty() && at.burst < most_accepts && take(operation, at)) {
                        return true;
                    }
                    return begin_taking(operation, at);
                case opcode::send:
                    if (operation.name == nullptr) {
                        return submit_send(operation, at);
                    }
                    break;
                case opcode::connect:
                    if (at.kind == detail::descriptor_kind::tcp) {
                        return submit_connect(operation, at);
                    }
                    break;
                default: break;
            }
        }
        return begin_attempting(operation, at);
    }

    bool park(io_op& operation, channel& at, op::function run) noexcept {
        at.waiter(detail::uring::lane_of(operation.code)) = &operation;
        operation.run = run;
        operation.state = phase::parked;
        return false;
    }

    bool queue(io_op& operation, channel& at, op::function run) noexcept {
        park(operation, at, run);
        operation.state = phase::queued;
        ready_->push(operation);
        return false;
    }

    bool fail(io_op& operation, int error) noexcept {
        operation.error = error;
        operation.size = 0;
        return true;
    }

    /// For what arrives by itself: in its turn, when it is there.
    bool begin_taking(io_op& operation, channel& at) noexcept {
        if (at.has_something()) {
            return queue(operation, at, &uring_backend::take_in_turn);
        }
        park(operation, at, &uring_backend::take_in_turn);
        if (at.is_idle(lane::arriving) && !arrive(at, operation.code == opcode::accept)) {
            list(at);
        }
        return false;
    }

    bool submit(io_op& operation, channel& at) noexcept {
        at.waiter(detail::uring::lane_of(operation.code)) = &operation;
        operation.run = &uring_backend::finish;
        operation.state = phase::submitted;
        return false;
    }

    bool submit_recv(io_op& operation, channel& at) noexcept {
        if (!at.is_idle(lane::reading)) {
            return park(operation, at, &uring_backend::begin_in_turn);  // behind a poll that still stops
        }
        submission* const made = request(at, lane::reading, detail::uring::op_recv);
        if (made == nullptr) {
            return fail(operation, ENOBUFS);
        }
        made->address = reinterpret_cast<std::uintptr_t>(operation.data);
        made->length = static_cast<std::uint32_t>(std::min<std::size_t>(operation.size, most_bytes));
        made->modifiers = at.unread ? std::uint16_t{0} : detail::uring::poll_first;
        return submit(operation, at);
    }

    bool submit_send(io_op& operation, channel& at) noexcept {
        if (!at.is_idle(lane::writing)) {
            return park(operation, at, &uring_backend::begin_in_turn);
        }
        submission* made;
        if (operation.part_count == 1) {
            made = request(at, lane::writing, detail::uring::op_send);
        } else {
            made = request(at, lane::writing, detail::uring::op_sendmsg);
        }
        if (made == nullptr) {
            return fail(operation, ENOBUFS);
        }
        if (operation.part_count == 1) {
            made->address = reinterpret_cast<std::uintptr_t>(operation.parts->iov_base);
            made->length =
                static_cast<std::uint32_t>(std::min<std::size_t>(operation.parts->iov_len, most_bytes));
        } else {
            // The kernel copies the message when it takes the request, so it lives as long as the place.
            msghdr& message = messages_[ring_.index_of(made)];
            message = {};
            message.msg_iov = const_cast<iovec*>(operation.parts);
            message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(operation.part_count);
            made->address = reinterpret_cast<std::uintptr_t>(&message);
            made->length = 1;
        }
        made->operation_flags = detail::quietly;
        hold(operation);
        return submit(operation, at);
    }

    bool submit_connect(io_op& operation, channel& at) noexcept {
        if (!at.is_idle(lane::writing)) {
            return park(operation, at, &uring_backend::begin_in_turn);
        }
        submission* const made = request(at, lane::writing, detail::uring::op_connect);
        if (made == nullptr) {
            return fail(operation, ENOBUFS);
        }
        made->address = reinterpret_cast<std::uintptr_t>(operation.name);
        made->offset = operation.name_size;
        return submit(operation, at);
    }

    /// For the rest. Who reads waits for a turn in any case; who writes tries at once.
    bool begin_attempting(io_op& operation, channel& at) noexcept {
        if (!is_read(operation.code)) {
            if (at.write_burst >= most_writes) {
                at.write_burst = 0;
                return queue(operation, at, &uring_backend::attempt_in_turn);
            }
            if (detail::attempt(operation, at.kind)) {
                ++at.write_burst;
                return true;
            }
            hold(operation);
        }
        return await_readiness(operation, at);
    }

    bool await_readiness(io_op& operation, channel& at) noexcept {
        const lane way = detail::uring::lane_of(operation.code);
        if (at.is_idle(way) && !poll(at, way)) {
            return fail(operation, ENOBUFS);
        }
        return park(operation, at,
                    &uring_backend::attempt_in_turn);  // perhaps behind a poll that still stops
    }

    /// now_or_never
    bool start_now(io_op& operation, channel& at) noexcept {
        if (ring_.has_completions()) {
            collect();  // what has arrived already comes first
        }
        const bool takes =
            at.byte_stream && is_read(operation.code) && operation.code != opcode::receive_batch;
        if (takes && at.has_something()) {
            if (take(operation, at) && operation.lease != nullptr) {
                loans_.push(*static_cast<buffer*>(std::exchange(operation.lease, nullptr)));
            }
        } else if (!attempt(operation, at)) {
            operation.error = EAGAIN;
        }
        return true;
    }

    /// One try of the system call.
    bool attempt(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::receive) {
            if (!lend(operation)) {
                return true;
            }
        } else if (operation.code == opcode::recv && operation.provide != nullptr) {
            const int fd = operation.fd;
            const std::uint32_t generation = life(fd);
            operation.provide(operation);
            if (operation.error != 0) {
                return true;
            }
            // A provider may cancel, or close: then there is no channel any more.
            if (life(fd) != generation || operation.state == phase::canceled) {
                return fail(operation, ECANCELED);
            }
        }
        return detail::attempt(operation, at.kind);
    }

    /// Gives a reader what has arrived. False: it would have to wait.
    bool take(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::accept) {
            ++at.burst;
            return take_connection(operation, at) || take_outcome(operation, at);
        }
        if (operation.code == opcode::recv && operation.provide != nullptr && at.has_something()) {
            const int fd = operation.fd;
            const std::uint32_t generation = life(fd);
            operation.provide(operation);
            if (operation.error != 0) {
                return true;
            }
            if (life(fd) != generation || operation.state == phase::canceled) {
                return fail(operation, ECANCELED);
            }
        }
        if (at.received.empty()) {
            return take_outcome(operation, at);
        }
        if (operation.code == opcode::receive) {
            buffer& filled = at.received.pop();
            operation.data = filled.bytes() + filled.begin;
            operation.size = filled.size();
            operation.lease = &filled;
        } else {
            copy(operation, at);
        }
        if (operation.name != nullptr) {
            operation.name_size = 0;  // a stream's bytes have no sender
        }
        return true;
    }

    bool take_outcome(io_op& operation, channel& at) noexcept {
        if (!std::exchange(at.has_outcome, false)) {
            return false;
        }
        return fail(operation, at.outcome);
    }

    void copy(io_op& operation, channel& at) noexcept {
        std::size_t done = 0;
        while (done < operation.size && !at.received.empty()) {
            buffer& first = at.received.front();
            const std::size_t count = std::min(operation.size - done, first.size());
            std::memcpy(operation.data + done, first.bytes() + first.begin, count);
            done += count;
            if (count == first.size()) {
                buffers_.drop(at.received.pop());
            } else {
                first.begin += static_cast<std::uint32_t>(count);
                at.received.shrank(count);
            }
        }
        operation.size = done;
    }

    static bool take_connection(io_op& operation, channel& at) noexcept {
        while (!at.connections.empty()) {
            const int fd = at.connections.pop();
            socklen_t room = operation.name_size;
            if (operation.name != nullptr && ::getpeername(fd, operation.name, &room) != 0) {
                if (at.kind == detail::descriptor_kind::tcp) {
                    ::close(fd);  // it died in the queue, and is nobody's failure
                    continue;
                }
                room = 0;
            }
            operation.name_size = room;
            operation.accepted = fd;
            return true;
        }
        return false;
    }

    /// What a datagram's, a pipe's or a terminal's receive() gets: one buffer that serves them all, in turn.
    bool lend(io_op& operation) noexcept {
        if (scratch_ == nullptr || scratch_->users > 1) {  // a send still has it
            if (scratch_ != nullptr) {
                buffers_.drop(*scratch_);
            }
            scratch_ = buffer::make(scratch_bytes);
            if (scratch_ == nullptr) {
                operation.error = ENOMEM;
                return false;
            }
            scratch_->users = 1;
        }
        operation.data = scratch_->bytes();
        operation.size = scratch_bytes;
        return true;
    }

    /// A send of what is lent keeps it.
    void hold(io_op& operation) noexcept {
        if (lent_ == nullptr || operation.lease != nullptr) {
            return;
        }
        for (unsigned index = 0; index < operation.part_count; ++index) {
            if (lent_->contains(operation.parts[index].iov_base)) {
                ++lent_->users;
                operation.lease = lent_;
                return;
            }
        }
    }

    void drop_loans() noexcept {
        while (!loans_.empty()) {
            buffers_.drop(loans_.pop());
        }
    }

    void cancel(io_op& operation, channel& at) noexcept {
        const lane way = detail::uring::lane_of(operation.code);
        switch (operation.state) {
            case phase::parked:
                at.waiter(way) = nullptr;
                stop(at, way);
                operation.state = phase::canceled;
                ready_->push(operation);
                break;
            case phase::queued:
                at.waiter(way) = nullptr;
                operation.state = phase::canceled;
                break;
            case phase::submitted:
                operation.state = phase::stopping;
                ++settling_;
                stop(at, way);  // the kernel still has the frame
                if (!is_reachable()) {
                    settle(operation, at, {0, -ECANCELED, 0});
                }
                break;
            default: break;  // it is over already, or asked to be
        }
    }

    // Turns.

    /// Resumes who waits for an outcome that is there. The frame may be gone then.
    static void finish(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<uring_backend&>(*operation.owner);
        auto* const held = static_cast<buffer*>(std::exchange(operation.lease, nullptr));
        operation.state = phase::idle;
        self.lent_ = held;
        operation.waiter.resume();
        self.lent_ = nullptr;
        if (held != nullptr) {
            self.buffers_.drop(*held);
        }
    }

    /// False: cancelled; its outcome says so.
    static bool leave_queue(io_op& operation) noexcept {
        if (operation.state == phase::canceled) {
            operation.error = ECANCELED;
            return false;
        }
        auto& self = static_cast<uring_backend&>(*operation.owner);
        self.here(operation).waiter(detail::uring::lane_of(operation.code)) = nullptr;
        operation.state = phase::idle;
        return true;
    }

    static void take_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<uring_backend&>(*operation.owner);
        if (leave_queue(operation)) {
            channel& at = self.here(operation);
            at.burst = 0;
            if (!self.take(operation, at)) {  // somebody else has it
                self.begin_taking(operation, at);
                return;
            }
        }
        finish(node);
    }

    static void attempt_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<uring_backend&>(*operation.owner);
        if (leave_queue(operation)) {
            channel& at = self.here(operation);
            at.write_burst = 0;
            const bool lends = operation.code == opcode::receive;
            if (!self.attempt(operation, at) && !self.await_readiness(operation, at)) {
                return;
            }
            if (lends && operation.error == 0) {
                ++self.scratch_->users;
                operation.lease = self.scratch_;
            }
        }
        finish(node);
    }

    static void begin_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<uring_backend&>(*operation.owner);
        if (leave_queue(operation) && !self.begin(operation, self.here(operation))) {
            return;
        }
        finish(node);
    }

    // Completions.

    void complete(const detail::uring::completion& seen) noexcept {
        const bool last = (seen.flags & detail::uring::has_more) == 0;
        if (seen.user_data == nobody) {
            return;
        }
        if (seen.user_data == waker) {
            wakes_ = !last;
            return;
        }
        channel& at = channel::of(seen.user_data);
        const lane which = channel::lane_of(seen.user_data);
        if (last) {
            at.of(which) = request_state::none;
            --under_way_;
        }
        if (which == lane::arriving) {
            at.listens ? complete_accept(at, seen.result) : complete_receive(at, seen);
            serve_reader(at, last);
        } else if (at.owned) {
            complete_operation(at, which, seen);
        } else {
            complete_watch(at, which, seen.result);
        }
        free_if_done(at);
    }

    void complete_receive(channel& at, const detail::uring::completion& seen) noexcept {
        if ((seen.flags & detail::uring::has_buffer) != 0) {
            const auto count = static_cast<std::uint32_t>(seen.result > 0 ? seen.result : 0);
            buffer& filled = buffers_.take(seen.flags >> detail::uring::buffer_shift, count);
            if (count != 0 && !at.closed) {
                keep(at, filled);
            } else {
                buffers_.drop(filled);
            }
        }
        if (seen.result == -ENOBUFS) {
            short_of_buffers_ = true;  // serve_reader() sees to the rest
        } else if (seen.result <= 0 && !is_stopped(seen.result)) {
            at.outcome = -seen.result;
            at.has_outcome = true;
        }
        if (at.received.size_bytes() >= most_unread_bytes) {
            stop(at, lane::arriving);
        }
    }

    void keep(channel& at, buffer& filled) noexcept {
        buffer* const before = at.received.back();
        if (before != nullptr && filled.size() <= few_bytes && before->room - before->end >= filled.size()) {
            std::memcpy(before->bytes() + before->end, filled.bytes(), filled.size());
            before->end += filled.end;
            at.received.grew(filled.size());
            buffers_.drop(filled);
        } else {
            at.received.push(filled);
        }
    }

    void complete_accept(channel& at, int result) noexcept {
        if (result >= 0) {
            if (at.closed || !at.connections.push(result)) {
                ::close(result);
            }
        } else if (!is_stopped(result) && result != -ECONNABORTED && result != -EPROTO &&
                   at.waiter(lane::reading) != nullptr) {
            at.outcome = -result;
            at.has_outcome = true;
        }
        if (at.connections.size() >= most_unread_connections) {
            stop(at, lane::arriving);
        }
    }

    /// Whether a request ended for a reason of ours, or for none: then it begins again when it is wanted.
    static bool is_stopped(int result) noexcept { return result == -ECANCELED || result == -EINTR; }

    void serve_reader(channel& at, bool last) noexcept {
        io_op* const reader = at.closed ? nullptr : at.operation(lane::reading);
        if (reader == nullptr || reader->state != phase::parked ||
            reader->run != &uring_backend::take_in_turn) {
            return;
        }
        if (at.has_something()) {
            reader->state = phase::queued;
            ready_->push(*reader);
        } else if (last) {
            list(at);
        }
    }

    void complete_operation(channel& at, lane which, const detail::uring::completion& seen) noexcept {
        io_op* const operation = at.operation(which);
        if (operation == nullptr) {
            return;  // it was cancelled, and did not have to wait for this
        }
        if (operation->state == phase::submitted || operation->state == phase::stopping) {
            settle(*operation, at, seen);
        } else if (operation->state == phase::parked) {
            if (operation->run == &uring_backend::attempt_in_turn && seen.result < 0) {
                // Cancelled for who waited here before, or refused.
                if (!is_stopped(seen.result) || !poll(at, which)) {
                    at.waiter(which) = nullptr;
                    fail(*operation, is_stopped(seen.result) ? ENOBUFS : -seen.result);
                    conclude(*operation);
                }
            } else if (operation->run != &uring_backend::take_in_turn) {
                operation->state = phase::queued;
                ready_->push(*operation);
            }
        }
    }

    /// The kernel is done with an operation of its own.
    void settle(io_op& operation, channel& at, const detail::uring::completion& seen) noexcept {
        const bool asked = operation.state == phase::stopping;
        settling_ -= asked;
        at.waiter(detail::uring::lane_of(operation.code)) = nullptr;
        if (seen.result >= 0) {
            if (operation.code == opcode::recv) {
                at.unread = (seen.flags & detail::uring::has_unread) != 0;
            }
            operation.size = static_cast<std::size_t>(seen.result);
            operation.error = 0;
        } else if (!is_stopped(seen.result)) {
            fail(operation, -seen.result);
        } else if (asked) {
            fail(operation, ECANCELED);
        } else {
            queue(operation, at, &uring_backend::begin_in_turn);
            return;
        }
        conclude(operation);
    }

    void conclude(io_op& operation) noexcept {
        operation.run = &uring_backend::finish;
        operation.state = phase::done;
        ready_->push(operation);
    }

    void complete_watch(channel& at, lane way, int result) noexcept {
        auto* const interest = static_cast<watcher*>(at.waiter(way));
        if (interest == nullptr || at.closed) {
            return;
        }
        if (result >= 0 && !interest->queued) {
            interest->queued = true;
            ready_->push(*interest);
        }
        if (result >= 0 || is_stopped(result)) {  // else it is closed, and says nothing more
            list(at);
        }
    }

    detail::fork_mark process_;
    fd wake_;
    detail::uring::ring ring_;
    detail::uring::buffer_ring buffers_;
    std::vector<slot> slots_;
    std::vector<channel*> listed_;       // who gets requests before the next wait
    std::vector<std::uint64_t> owed_;    // cancels that found no room
    std::vector<msghdr> messages_;       // by place in the submission queue
    detail::uring::buffer_queue loans_;  // until the next wait
    buffer* lent_ = nullptr;             // to the coroutine that runs
    buffer* scratch_ = nullptr;
    std::size_t channels_ = 0;
    std::size_t under_way_ = 0;  // requests of channels
    std::size_t settling_ = 0;   // operations that were asked to end
    bool wakes_ = false;
    bool receives_ = false;
    bool short_of_buffers_ = false;
};

}  // namespace zloop

#endif
