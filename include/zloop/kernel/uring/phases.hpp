// zloop/kernel/uring/phases.hpp: where an operation is on its way through io_uring, and how it leaves.
//
//     parked     in its channel, until a completion or something that arrives queues it
//     queued     in the loop's queue: in its turn it goes on, or ends
//     submitted  the kernel has its frame, and will say when it is done with it
//     stopping   submitted, and asked to end: it is resumed by the kernel's last word, never before; who
//     comes
//                meanwhile is parked behind it
//     canceled   it was parked or queued, and is resumed in its turn: what it has waited for is kept
//     done       its outcome is there, and it is queued to be told
//
// Who is cancelled has taken nothing: what a stopping or done recv(span) got from the kernel goes back in
// front of what arrives for its channel. What is sent cannot be taken back: there the outcome says so.
//
// How each operation begins and what it does in its turn is operations.hpp's.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/arrivals.hpp>
#include <zloop/kernel/uring/loans.hpp>
#include <zloop/kernel/uring/table.hpp>

#if ZLOOP_HAS_URING

namespace zloop::detail::uring {

class phases : public backend {
public:
    std::uint32_t life(int fd) const noexcept override { return table_.life(fd); }
    bool settling() const noexcept override { return settling_ > 0; }

    void cancel(io_op& operation) noexcept override {
        switch (operation.state) {
            case phase::idle: operation.state = phase::canceled; break;  // by its own provider
            case phase::parked:
            case phase::queued:
            case phase::submitted: cancel(operation, table_.at(operation.fd)); break;
            case phase::done:
                if (operation.life == table_.life(operation.fd) && is_reachable(operation)) {
                    give_back(operation, table_.at(operation.fd));
                }
                break;
            default: break;  // it is over, or asked to be; its channel may be gone
        }
    }

protected:
    using phase = io_op::phase;

    /// Throws std::system_error, as ring and buffer_ring do; std::bad_alloc.
    phases() : arrivals_(requests_), loans_(arrivals_.buffers()) {}

    // Into a phase. False: the outcome is not there.

    bool park(io_op& operation, channel& at, op::function run) noexcept {
        at.waiter(lane_of(operation.code)) = &operation;
        operation.run = run;
        operation.state = phase::parked;
        return false;
    }

    /// Who is parked behind an operation that is stopping. Such a one is in no queue, so its link is free.
    static op*& heir_of(io_op& stopping) noexcept { return stopping.next; }

    bool park_behind(io_op& operation, io_op& stopping, op::function run) noexcept {
        heir_of(stopping) = &operation;
        operation.run = run;
        operation.state = phase::parked;
        return false;
    }

    bool queue(io_op& operation, channel& at, op::function run) noexcept {
        park(operation, at, run);
        go_on(operation);
        return false;
    }

    /// A parked operation has its turn.
    void go_on(io_op& operation) noexcept {
        operation.state = phase::queued;
        ready_->push(operation);
    }

    bool submitted(io_op& operation, channel& at) noexcept {
        at.waiter(lane_of(operation.code)) = &operation;
        operation.run = &phases::finish;
        operation.state = phase::submitted;
        return false;
    }

    /// The outcome is there; who waits for it is told in its turn.
    void conclude(io_op& operation) noexcept {
        operation.run = &phases::finish;
        operation.state = phase::done;
        ready_->push(operation);
    }

    static bool fail(io_op& operation, int error) noexcept {
        operation.error = error;
        operation.size = 0;
        return true;
    }

    // Out of a phase.

    /// The channel of a queued operation whose turn it is. Null: it was cancelled; its outcome says so.
    channel* leave_queue(io_op& operation) noexcept {
        if (operation.state == phase::canceled) {
            operation.error = ECANCELED;
            return nullptr;
        }
        channel& at = table_.at(operation.fd);
        at.waiter(lane_of(operation.code)) = nullptr;
        operation.state = phase::idle;
        return &at;
    }

    /// Resumes who waits for an outcome that is there. The frame may be gone then.
    static void finish(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        operation.state = phase::idle;
        static_cast<phases&>(*operation.owner).loans_.resume(operation);
    }

    /// The kernel is done with a submitted operation. False: for no reason, so it shall begin again.
    bool settle(io_op& operation, channel& at, const completion& seen) noexcept {
        const bool asked = operation.state == phase::stopping;
        settling_ -= asked;
        auto* const heir = asked ? static_cast<io_op*>(heir_of(operation)) : nullptr;
        at.waiter(lane_of(operation.code)) = heir;
        const bool would_block = seen.result == -EAGAIN && operation.code == opcode::send;
        at.peer_ended = at.peer_ended || would_block;
        if (seen.result >= 0) {
            if (operation.code == opcode::recv) {
                at.unread = (seen.flags & has_unread) != 0;
            }
            operation.size = static_cast<std::size_t>(seen.result);
            operation.error = 0;
            if (asked) {
                give_back(operation, at);
            }
        } else if ((is_stopped(seen.result) || would_block) && !asked) {
            return false;
        } else {
            // EBADF: it was closed before the kernel has seen the request.
            const bool canceled =
                is_stopped(seen.result) || would_block || (at.closed && seen.result == -EBADF);
            fail(operation, canceled ? ECANCELED : -seen.result);
        }
        conclude(operation);
        if (heir != nullptr) {
            go_on(*heir);
        }
        return true;
    }

    /// Ends what waits on a descriptor.
    void end_operations(channel& at) noexcept {
        for (op* each : at.waiting) {
            auto* const operation = static_cast<io_op*>(each);
            if (operation == nullptr) {
                continue;
            }
            if (operation->state == phase::stopping && heir_of(*operation) != nullptr) {
                cancel(static_cast<io_op&>(*heir_of(*operation)), at);
            }
            cancel(*operation, at);
        }
    }

    void stop(channel& at, lane which) noexcept {
        if (!requests_.is_reachable()) {
            requests_.ended(at, which);  // the parent's
        } else if (!requests_.stop(at, which)) {
            table_.list(at);
        }
    }

    requests requests_;
    channel_table table_;
    arrivals arrivals_;
    loans loans_;

private:
    bool is_reachable(const io_op& operation) const noexcept {
        return operation.code == opcode::recv && requests_.is_reachable();
    }

    /// Takes back what a cancelled operation has received, where somebody can ask for it again.
    static void give_back(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::recv && operation.error == 0 && operation.size != 0 && at.byte_stream &&
            !at.closed && arrivals::put_back(at, operation.data, operation.size)) {
            fail(operation, ECANCELED);
        }
    }

    void cancel(io_op& operation, channel& at) noexcept {
        const lane way = lane_of(operation.code);
        switch (operation.state) {
            case phase::parked:
                if (io_op* const before = at.operation(way); before != &operation) {
                    heir_of(*before) = nullptr;
                } else {
                    at.waiter(way) = nullptr;
                    stop(at, way);
                }
                operation.state = phase::canceled;
                ready_->push(operation);
                break;
            case phase::queued:
                at.waiter(way) = nullptr;
                operation.state = phase::canceled;
                break;
            case phase::submitted:
                operation.state = phase::stopping;
                heir_of(operation) = nullptr;
                ++settling_;
                stop(at, way);
                if (!requests_.is_reachable()) {
                    settle(operation, at, {0, -ECANCELED, 0});  // this process's frame no kernel knows
                }
                break;
            default: break;  // it is over already, or asked to be
        }
    }

    std::size_t settling_ = 0;  // operations that are stopping
};

}  // namespace zloop::detail::uring

#endif
