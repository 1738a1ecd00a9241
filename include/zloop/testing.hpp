// zloop/testing.hpp: a loop for tests: no kernel, no waiting.
//
// The scripted backend plays the kernel for descriptors that it makes up: a test says what each read
// and write will meet. Its clock is virtual: it stands still while anything can run, and jumps to the
// next deadline when nothing can. A test that would wait for ever fails instead.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include <sys/socket.h>
#include <sys/uio.h>

#include <zloop/error.hpp>
#include <zloop/job.hpp>

namespace zloop::testing {

/// The far end of a made-up descriptor. Steps are met in order; with none left, reads wait for the
/// next one and writes take everything.
class script {
public:
    /// The next read gets these bytes, or, with a small buffer, the next reads do.
    script& receives(std::string_view bytes) { return read_step({step::bytes, std::string(bytes), 0}); }
    /// The next read meets the end of the stream; so do all after it.
    script& ends() { return read_step({step::end, {}, 0}); }
    /// The next read fails with this errno.
    script& fails_read(int error) { return read_step({step::failure, {}, error}); }
    /// The next read would block, until the loop asks the kernel again.
    script& stalls_read() { return read_step({step::stall, {}, 0}); }
    /// The next accept gets `fd`, another made-up descriptor.
    script& accepts(int fd) { return read_step({step::connection, {}, fd}); }

    /// The next write takes `count` bytes at most; 0 would block until another write step comes.
    script& takes(std::size_t count) { return write_step({step::bytes, {}, static_cast<int>(count)}); }
    /// The next write, or connect, fails with this errno.
    script& fails_write(int error) { return write_step({step::failure, {}, error}); }

    /// Everything that was written so far.
    std::string written;
    bool closed = false;

private:
    friend class scripted_backend;

    struct step {
        enum { bytes, end, failure, stall, connection } what;
        std::string text;
        int number;  // an errno, a descriptor, or a count of bytes
    };

    script& read_step(step next) {
        reads_.push_back(std::move(next));
        changed_(direction::read);
        return *this;
    }
    script& write_step(step next) {
        writes_.push_back(std::move(next));
        changed_(direction::write);
        return *this;
    }

    std::deque<step> reads_;
    std::deque<step> writes_;
    io_op* reader_ = nullptr;
    io_op* writer_ = nullptr;
    std::function<void(direction)> changed_ = [](direction) {};
};

class scripted_backend final : public backend, public clock_source {
public:
    std::string_view name() const noexcept override { return "scripted"; }
    int native_handle() const noexcept override { return -1; }
    time_point now() noexcept override { return now_; }

    /// A new made-up descriptor, and what happens to it.
    int open() { return next_fd_++; }
    script& at(int fd) { return scripts_[fd]; }

    /// Does something later, by the virtual clock: `backend.after(1s, [&] { peer.receives("x"); })`.
    void after(nanoseconds delay, std::function<void()> what) { plan_.emplace(now_ + delay, std::move(what)); }

    /// Makes a watched descriptor ready, once.
    void make_ready(int fd, direction toward) {
        const auto found = watchers_.find({fd, toward});
        if (found != watchers_.end() && !found->second->queued) {
            found->second->queued = true;
            ready_->push(*found->second);
        }
    }

    std::error_code attach(int fd) noexcept override {
        script& peer = scripts_[fd];
        peer.changed_ = [this, &peer](direction toward) { retry(peer, toward); };
        return {};
    }

    void release(int fd) noexcept override {
        script& peer = scripts_[fd];
        for (io_op* waiting : {peer.reader_, peer.writer_}) {
            if (waiting != nullptr) {
                cancel(*waiting);
            }
        }
        peer.changed_ = [](direction) {};
    }

    void close(int fd) noexcept override {
        release(fd);
        scripts_[fd].closed = true;
    }

    bool start(io_op& operation) noexcept override {
        operation.run = &scripted_backend::finish;
        if (operation.fd < 0) {
            operation.error = EBADF;
            return true;
        }
        script& peer = scripts_[operation.fd];
        if (slot_of(operation) != nullptr) {
            operation.error = operation.now_or_never ? EAGAIN : EBUSY;
            return true;
        }
        if (attempt(operation, peer)) {
            return true;
        }
        if (operation.now_or_never) {
            operation.error = EAGAIN;
            return true;
        }
        operation.state = io_op::phase::parked;
        slot_of(operation) = &operation;
        return false;
    }

    void cancel(io_op& operation) noexcept override {
        if (operation.state == io_op::phase::parked) {
            slot_of(operation) = nullptr;
            operation.error = ECANCELED;
            operation.state = io_op::phase::canceled;
            ready_->push(operation);
        }
    }

    std::error_code watch(watcher& interest) noexcept override {
        const bool fresh = watchers_.emplace(std::pair{interest.fd, interest.toward}, &interest).second;
        return fresh ? std::error_code{} : std::make_error_code(std::errc::device_or_resource_busy);
    }
    void unwatch(watcher& interest) noexcept override { watchers_.erase({interest.fd, interest.toward}); }

    /// Moves the clock instead of sleeping; but while another thread works for the loop, it stands still.
    /// Fails with `resource_deadlock_would_occur` where a real backend would sleep for ever.
    std::error_code wait(nanoseconds timeout) noexcept override {
        if (is_expecting() && timeout != nanoseconds::zero()) {
            woken_.wait(false);
        }
        if (woken_.exchange(false)) {
            return {};
        }
        for (auto& [fd, peer] : scripts_) {
            retry(peer, direction::read);  // who stalled
        }
        if (!ready_->empty()) {
            timeout = nanoseconds::zero();
        }
        const bool endless = timeout < nanoseconds::zero();
        if (!plan_.empty() && (endless || plan_.begin()->first <= now_ + timeout)) {
            now_ = std::max(now_, plan_.begin()->first);
            while (!plan_.empty() && plan_.begin()->first <= now_) {
                auto next = plan_.extract(plan_.begin());
                next.mapped()();
            }
            return {};
        }
        if (endless) {
            return std::make_error_code(std::errc::resource_deadlock_would_occur);
        }
        now_ += timeout;
        return {};
    }

    void collect() noexcept override {}
    void wake() noexcept override {
        woken_ = true;
        woken_.notify_one();
    }

private:
    io_op*& slot_of(const io_op& operation) {
        script& peer = scripts_[operation.fd];
        return is_read(operation.code) ? peer.reader_ : peer.writer_;
    }

    static void finish(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        operation.state = io_op::phase::idle;
        operation.waiter.resume();
    }

    void retry(script& peer, direction toward) {
        io_op*& waiting = toward == direction::read ? peer.reader_ : peer.writer_;
        if (waiting != nullptr && attempt(*waiting, peer)) {
            waiting->state = io_op::phase::queued;
            ready_->push(*std::exchange(waiting, nullptr));
        }
    }

    bool attempt(io_op& operation, script& peer) {
        switch (operation.code) {
            case opcode::receive:
                operation.data = scratch_;
                operation.size = sizeof scratch_;
                [[fallthrough]];
            case opcode::recv:
                if (operation.provide != nullptr && !peer.reads_.empty()) {
                    operation.provide(operation);
                    if (operation.error != 0) {
                        return true;
                    }
                }
                [[fallthrough]];
            case opcode::accept: return read(operation, peer);
            case opcode::send: return write(operation, peer);
            case opcode::connect: return connect(operation, peer);
            case opcode::receive_batch:
            case opcode::send_batch:
            case opcode::sendfile: return fail(operation, EOPNOTSUPP);
        }
        return true;
    }

    static bool fail(io_op& operation, int error) noexcept {
        operation.error = error;
        operation.size = 0;
        return true;
    }

    static bool read(io_op& operation, script& peer) {
        if (peer.reads_.empty()) {
            return false;
        }
        script::step& next = peer.reads_.front();
        switch (next.what) {
            case script::step::bytes: {
                operation.size = std::min(operation.size, next.text.size());
                std::memcpy(operation.data, next.text.data(), operation.size);
                next.text.erase(0, operation.size);
                if (next.text.empty()) {
                    peer.reads_.pop_front();
                }
                return true;
            }
            case script::step::end: operation.size = 0; return true;
            case script::step::failure: {
                const int error = next.number;
                peer.reads_.pop_front();
                return fail(operation, error);
            }
            case script::step::stall: peer.reads_.pop_front(); return false;
            case script::step::connection:
                operation.accepted = next.number;
                operation.name_size = 0;
                peer.reads_.pop_front();
                return true;
        }
        return true;
    }

    static bool write(io_op& operation, script& peer) {
        std::size_t room = std::string::npos;
        if (!peer.writes_.empty()) {
            const script::step next = peer.writes_.front();
            peer.writes_.pop_front();
            if (next.what == script::step::failure) {
                return fail(operation, next.number);
            }
            if (next.number == 0) {
                return false;
            }
            room = static_cast<std::size_t>(next.number);
        }
        operation.size = 0;
        for (unsigned index = 0; index < operation.part_count && room > 0; ++index) {
            const iovec& part = operation.parts[index];
            const std::size_t count = std::min(room, part.iov_len);
            peer.written.append(static_cast<const char*>(part.iov_base), count);
            operation.size += count;
            room -= count;
        }
        return true;
    }

    static bool connect(io_op& operation, script& peer) {
        if (peer.writes_.empty()) {
            return true;
        }
        const script::step next = peer.writes_.front();
        peer.writes_.pop_front();
        if (next.what == script::step::failure) {
            return fail(operation, next.number);
        }
        return next.number != 0;
    }

    static constexpr int first_fd = 1 << 20;  // no kernel gives these out

    std::map<int, script> scripts_;
    std::map<std::pair<int, direction>, watcher*> watchers_;
    std::multimap<time_point, std::function<void()>> plan_;
    time_point now_{};
    int next_fd_ = first_fd;
    std::atomic<bool> woken_ = false;
    std::byte scratch_[64 * 1024];
};

/// A loop on the scripted backend: time moves only when nothing else can run.
class virtual_loop : public loop {
public:
    virtual_loop() : loop(std::make_unique<scripted_backend>()) { use_clock(&kernel()); }

    scripted_backend& kernel() noexcept { return static_cast<scripted_backend&>(loop::kernel()); }

    /// The virtual time since the loop was made.
    nanoseconds elapsed() const noexcept { return now().time_since_epoch(); }

    template <class T>
    job<T> start(task<T> work) {
        return job<T>(*this, std::move(work));
    }

    /// Turns until `running` is done; gives its result.
    template <class T>
    T join(job<T>& running) {
        while (!running.done()) {
            run_once();
        }
        return running.take();
    }

    /// Runs what is ready or due now, without letting time pass.
    void settle() {
        do {
            run_once(nanoseconds::zero());
        } while (!ready().empty() || (!timers().empty() && timers().next() <= now()));
    }

    /// Lets `duration` pass, with everything that happens in it.
    void advance(nanoseconds duration) {
        const time_point end = now() + duration;
        settle();
        while (now() < end) {
            run_once(end - now());
            settle();
        }
    }
};

}  // namespace zloop::testing
