// zloop/kernel/uring/operations.hpp: how io_uring carries out the operations of a loop.
//
// receive() and accept() take what arrives by itself. recv(span), send and connect of a stream socket are one
// request each. Whatever else there is, and descriptors that are no stream sockets, wait in a poll request
// and then make their system call.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/phases.hpp>

#if ZLOOP_HAS_URING

namespace zloop::detail::uring {

class operations : public phases {
public:
    bool start(io_op& operation) noexcept override {
        operation.run = &operations::finish;
        if (operation.fd < 0 || operation.life != table_.life(operation.fd)) {
            operation.error = EBADF;  // the socket is closed, or its number another's by now
            return true;
        }
        if (!requests_.is_reachable()) {
            operation.error = EPERM;
            return true;
        }
        channel& at = table_.at(operation.fd);
        assert(at.owned);
        if (io_op* const before = at.operation(lane_of(operation.code))) {
            if (!operation.now_or_never && before->state == phase::stopping && heir_of(*before) == nullptr) {
                loans_.keep(operation);
                return park_behind(operation, *before, &operations::begin_in_turn);
            }
            // The loop's own callers never overlap; a try beside one that waits just has to wait.
            operation.error = operation.now_or_never ? EAGAIN : EBUSY;
            return true;
        }
        if (operation.now_or_never) {
            return start_now(operation, at);
        }
        if (is_read(operation.code)) {
            return begin(operation, at);
        }
        loans_.keep(operation);
        if (!begin(operation, at)) {
            return false;
        }
        loans_.let_go(operation);
        return true;
    }

protected:
    /// Starts, or starts again, what arrives by itself, where somebody waits for it. False: no room now.
    bool listen(channel& at) noexcept {
        const io_op* const reader = at.operation(lane::reading);
        if (reader == nullptr || reader->state != phase::parked || at.has_something() ||
            !at.is_idle(lane::arriving)) {
            return true;  // its end, or the next reader, brings us back
        }
        return arrivals_.begin(at);
    }

    /// What has arrived is there; `last`: no more will.
    void complete_arrival(channel& at, const completion& seen, bool last) noexcept {
        arrivals_.come(at, seen);
        if (arrivals::is_flooded(at)) {
            stop(at, lane::arriving);
        }
        io_op* const reader = at.closed ? nullptr : at.operation(lane::reading);
        if (reader == nullptr || reader->state != phase::parked || reader->run != &operations::take_in_turn) {
            return;
        }
        if (at.has_something()) {
            go_on(*reader);
        } else if (last) {
            table_.list(at);
        }
    }

    void complete_operation(channel& at, lane which, const completion& seen) noexcept {
        io_op* const operation = at.operation(which);
        if (operation == nullptr) {
            return;  // it was cancelled, and did not have to wait for this
        }
        if (operation->state == phase::submitted || operation->state == phase::stopping) {
            if (!settle(*operation, at, seen)) {
                queue(*operation, at, &operations::begin_in_turn);
            }
        } else if (operation->state == phase::parked) {
            if (operation->run == &operations::attempt_in_turn && seen.result < 0) {
                // Cancelled for who waited here before, or refused.
                if (!is_stopped(seen.result) || !requests_.poll(at, which)) {
                    at.waiter(which) = nullptr;
                    fail(*operation, is_stopped(seen.result) ? ENOBUFS : -seen.result);
                    conclude(*operation);
                }
            } else if (at.hears_end_alone(which, seen.result)) {
                if (at.is_idle(which) && !requests_.poll(at, which)) {
                    at.waiter(which) = nullptr;
                    fail(*operation, ENOBUFS);
                    conclude(*operation);
                }
            } else if (operation->run != &operations::take_in_turn) {
                if (!at.is_idle(which)) {
                    stop(at, which);
                }
                go_on(*operation);
            }
        }
    }

private:
    /// As in kernel/readiness.hpp: how many operations may succeed in a row before the rest has its turn.
    static constexpr std::uint8_t most_accepts = 64;
    static constexpr std::uint8_t most_writes = 64;

    // Beginnings. True: the outcome is there.

    bool begin(io_op& operation, channel& at) noexcept {
        if (!at.byte_stream) {
            return begin_attempting(operation, at);
        }
        switch (operation.code) {
            case opcode::receive: return begin_taking(operation, at);
            case opcode::recv:
                if (!at.is_idle(lane::arriving) || at.has_something()) {
                    return begin_taking(operation, at);  // behind what has arrived already
                }
                if (operation.provide == nullptr) {
                    return begin_request(operation, at);
                }
                break;
            case opcode::accept:
                if (!at.connections.empty() && at.burst < most_accepts && take(operation, at)) {
                    return true;
                }
                return begin_taking(operation, at);
            case opcode::send:
                if (operation.name == nullptr && !at.peer_ended) {
                    return begin_request(operation, at);
                }
                break;
            case opcode::connect:
                if (at.kind == descriptor_kind::tcp) {
                    return begin_request(operation, at);
                }
                break;
            default: break;
        }
        return begin_attempting(operation, at);
    }

    /// For what arrives by itself: in its turn, when it is there.
    bool begin_taking(io_op& operation, channel& at) noexcept {
        if (at.has_something()) {
            return queue(operation, at, &operations::take_in_turn);
        }
        park(operation, at, &operations::take_in_turn);
        if (at.is_idle(lane::arriving)) {
            at.listens = operation.code == opcode::accept;
            if (!arrivals_.begin(at)) {
                table_.list(at);
            }
        }
        return false;
    }

    /// For what is one request.
    bool begin_request(io_op& operation, channel& at) noexcept {
        const lane way = lane_of(operation.code);
        if (!at.is_idle(way)) {
            return park(operation, at, &operations::begin_in_turn);  // behind a poll that still stops
        }
        const bool asked = operation.code == opcode::send   ? requests_.send(at, operation)
                           : operation.code == opcode::recv ? requests_.recv(at, operation)
                                                            : requests_.connect(at, operation);
        if (!asked) {
            return fail(operation, ENOBUFS);
        }
        return submitted(operation, at);
    }

    /// For the rest. Who reads waits for a turn in any case; who writes tries at once.
    bool begin_attempting(io_op& operation, channel& at) noexcept {
        if (!is_read(operation.code)) {
            if (at.write_burst >= most_writes) {
                at.write_burst = 0;
                return queue(operation, at, &operations::attempt_in_turn);
            }
            if (detail::attempt(operation, at.kind)) {
                ++at.write_burst;
                return true;
            }
        }
        return await_readiness(operation, at);
    }

    bool await_readiness(io_op& operation, channel& at) noexcept {
        const lane way = lane_of(operation.code);
        if (at.is_idle(way) && !requests_.poll(at, way)) {
            return fail(operation, ENOBUFS);
        }
        return park(operation, at, &operations::attempt_in_turn);  // perhaps behind a poll that still stops
    }

    /// now_or_never
    bool start_now(io_op& operation, channel& at) noexcept {
        if (requests_.ring().has_completions()) {
            collect();  // what has arrived already comes first
        }
        const bool takes =
            at.byte_stream && is_read(operation.code) && operation.code != opcode::receive_batch;
        if (takes && at.has_something()) {
            take(operation, at);
            loans_.lend_until_wait(operation);
        } else if (!attempt(operation, at)) {
            operation.error = EAGAIN;
        }
        return true;
    }

    // Attempts.

    /// Lets a recv() that has a provider choose its buffer. False: that has ended it, and perhaps the
    /// channel.
    bool choose_buffer(io_op& operation) noexcept {
        if (operation.provide == nullptr || operation.code != opcode::recv) {
            return true;
        }
        const int fd = operation.fd;
        const std::uint32_t before = life(fd);
        operation.provide(operation);
        if (operation.error == 0 && (life(fd) != before || operation.state == phase::canceled)) {
            fail(operation, ECANCELED);
        }
        return operation.error == 0;
    }

    /// One try of the system call. False: it would block.
    bool attempt(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::receive ? !loans_.offer_scratch(operation)
                                              : !choose_buffer(operation)) {
            return true;
        }
        return detail::attempt(operation, at.kind);
    }

    /// Gives a reader what has arrived. False: nothing has.
    bool take(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::accept) {
            ++at.burst;
        }
        if (at.has_something() && !choose_buffer(operation)) {
            return true;
        }
        return arrivals_.take(operation, at);
    }

    // Turns.

    static void take_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<operations&>(*operation.owner);
        if (channel* const at = self.leave_queue(operation)) {
            at->burst = 0;
            if (!self.take(operation, *at)) {  // somebody else has it
                self.begin_taking(operation, *at);
                return;
            }
        }
        finish(node);
    }

    static void attempt_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<operations&>(*operation.owner);
        if (channel* const at = self.leave_queue(operation)) {
            at->write_burst = 0;
            const bool ended = self.attempt(operation, *at);
            if (!ended && !self.await_readiness(operation, *at)) {
                return;
            }
            if (operation.code == opcode::receive && operation.error == 0) {
                self.loans_.lend_scratch(operation);
            }
        }
        finish(node);
    }

    static void begin_in_turn(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        auto& self = static_cast<operations&>(*operation.owner);
        channel* const at = self.leave_queue(operation);
        if (at == nullptr || self.begin(operation, *at)) {
            finish(node);
        }
    }
};

}  // namespace zloop::detail::uring

#endif
