// zloop/testing/scripted.hpp: a backend that plays the kernel, for tests: made-up descriptors, virtual time.
//
// A test says what each read and write will meet (script.hpp), or connects two made-up descriptors with
// each other. The clock stands still while anything can run, and jumps to the next deadline when nothing
// can: a test that would wait for ever fails instead. Nothing here touches a network. A real socket that a
// program makes for itself, to connect or to listen, is held here in name only: it meets the others here.
#pragma once

#include <atomic>
#include <map>
#include <memory>

#include <zloop/error.hpp>
#include <zloop/loop.hpp>
#include <zloop/testing/script.hpp>

namespace zloop::testing {

/// Plays the kernel: made-up descriptors, virtual time.
///
/// Owns:    its scripts. A real descriptor is its stream's, which has it closed here.
/// Thread:  that of its loop, but for wake().
/// Example: examples/cpp/scripted.cpp
class scripted_backend final : public backend, public clock_source {
public:
    std::string_view name() const noexcept override { return "scripted"; }
    int native_handle() const noexcept override { return -1; }
    time_point now() noexcept override { return now_; }

    /// Makes a descriptor up.
    int open() { return next_fd_++; }
    /// Gives the far end of a descriptor, to say what it meets.
    script& at(int fd) { return scripts_[fd]; }

    /// Makes two descriptors of a connection up: what is written to one is read from the other.
    /// at(fd).takes(n), gives(n), resets() and the rest disturb it at chosen points.
    std::pair<int, int> pair() { return link(open(), open(), false); }

    /// Makes two descriptors up that send each other datagrams.
    std::pair<int, int> datagram_pair() { return link(open(), open(), true); }

    /// Makes a listening descriptor up: to connect to `where` succeeds, and it accepts the other end. Where
    /// nobody listens, a connect is refused.
    int listen(const address& where) {
        const int listening = open();
        doors_.push_back({where, listening});
        return listening;
    }

    /// Does something later, by the virtual clock: `backend.after(1s, [&] { peer.receives("x"); })`.
    void after(nanoseconds delay, std::function<void()> what) {
        plan_.emplace(now_ + delay, std::move(what));
    }

    /// Has the next waits end at once with nothing, as on a signal.
    void interrupts_wait(int times = 1) noexcept { interruptions_ += times; }
    /// Has the next wait fail with this errno.
    void fails_wait(int error) noexcept { wait_error_ = error; }

    /// Has the next attach fail with this errno.
    void fails_attach(int error) noexcept { attach_error_ = error; }

    /// Says whether an operation that is cancelled while it waits holds on to its frame until the next wait,
    /// as with a kernel that completes; what it meets until then wins. One that is in the loop's queue
    /// already ends in its turn, and has met nothing.
    void lets_go_late(bool late) noexcept { late_ = late; }

    /// Makes a watched descriptor ready, once.
    void make_ready(int fd, direction toward) {
        const auto found = watchers_.find({fd, toward});
        if (found != watchers_.end() && !found->second->queued) {
            found->second->queued = true;
            ready_->push(*found->second);
        }
    }

    /// How many operations wait.
    std::size_t waiting() const noexcept {
        return count([](const script& each) { return each.reader_ != nullptr; }) +
               count([](const script& each) { return each.writer_ != nullptr; });
    }
    /// How many descriptors are in service.
    std::size_t in_service() const noexcept {
        return count([](const script& each) { return each.in_service_; });
    }
    /// How many interests are watched.
    std::size_t watched() const noexcept { return watchers_.size(); }

    std::error_code attach(int fd) noexcept override {
        if (fd < 0) {
            return std::make_error_code(std::errc::bad_file_descriptor);
        }
        if (const int error = std::exchange(attach_error_, 0)) {
            return system_error_code(error);
        }
        script& peer = renewed(fd);
        peer.in_service_ = true;
        peer.changed_ = [this, &peer](direction toward) { retry(peer, toward); };
        if (fd < first_fd) {
            note_door(fd);
        }
        return {};
    }

    void release(int fd) noexcept override {
        script& peer = scripts_[fd];
        for (io_op* waiting : {peer.reader_, peer.writer_}) {
            if (waiting != nullptr) {
                cancel(*waiting);
            }
        }
        peer.changed_ = nullptr;
        peer.in_service_ = false;
        std::erase_if(doors_, [fd](const door& each) { return each.fd == fd; });
    }

    void close(int fd) noexcept override {
        release(fd);
        script& peer = scripts_[fd];
        for (const script::step& each : peer.reads_) {
            if (each.what == script::step::connection) {
                scripts_[each.number].resets();  // nobody will accept it
            }
        }
        peer.close();
        ++peer.life_;
        if (fd < first_fd) {
            ::close(fd);
        }
    }

    bool shut_down(int fd, int how) noexcept override {
        if (fd < 0) {
            return false;
        }
        scripts_[fd].shut_down(how);
        return true;
    }

    bool start(io_op& operation) noexcept override {
        operation.run = &scripted_backend::go_on;
        if (operation.fd < 0 || operation.life != life(operation.fd)) {
            operation.error = EBADF;
            return true;
        }
        script& peer = scripts_[operation.fd];
        io_op*& slot = slot_of(operation, peer);
        if (slot != nullptr) {
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
        return park(operation, slot);
    }

    void cancel(io_op& operation) noexcept override {
        if (operation.state == io_op::phase::idle) {
            operation.state = io_op::phase::canceled;  // by its own provider; attempt() looks
        } else if (operation.state == io_op::phase::queued) {
            let_go(operation);
        } else if (operation.state == io_op::phase::parked) {
            operation.state = io_op::phase::canceled;
            if (!late_) {
                let_go(operation);
            }
        }
    }

    bool settling() const noexcept override {
        return count([](const script& each) {
                   return is_leaving(each.reader_) || is_leaving(each.writer_);
               }) != 0;
    }

    std::uint32_t life(int fd) const noexcept override {
        const auto found = scripts_.find(fd);
        return found == scripts_.end() ? 0 : found->second.life_;
    }

    std::error_code watch(watcher& interest) noexcept override {
        const bool fresh = watchers_.emplace(std::pair{interest.fd, interest.toward}, &interest).second;
        return fresh ? std::error_code{} : std::make_error_code(std::errc::device_or_resource_busy);
    }
    void unwatch(watcher& interest) noexcept override { watchers_.erase({interest.fd, interest.toward}); }

    /// Moves the clock instead of sleeping; but while another thread works for the loop, it stands still, and
    /// this waits for that.
    /// Fails: with `resource_deadlock_would_occur` where a real backend would sleep for ever; as fails_wait()
    ///        said.
    std::error_code wait(nanoseconds timeout) noexcept override {
        if (const int error = std::exchange(wait_error_, 0)) {
            return system_error_code(error);
        }
        if (woken_.exchange(false) || (interruptions_ > 0 && interruptions_-- > 0)) {
            return {};
        }
        for (auto& [fd, peer] : scripts_) {  // who stalled, and who is leaving
            for (const direction toward : {direction::read, direction::write}) {
                retry(peer, toward);
                io_op* const waiting = toward == direction::read ? peer.reader_ : peer.writer_;
                if (is_leaving(waiting)) {
                    let_go(*waiting);
                }
            }
        }
        if (!ready_->empty()) {
            timeout = nanoseconds::zero();
        }
        if (is_expecting() && timeout != nanoseconds::zero()) {
            woken_.wait(false);
            woken_ = false;
            return {};
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
    struct door {
        address where;
        int fd;
    };

    template <class F>
    std::size_t count(F&& counts) const noexcept {
        std::size_t found = 0;
        for (const auto& [fd, each] : scripts_) {
            found += counts(each) ? 1 : 0;
        }
        return found;
    }

    static bool is_leaving(const io_op* operation) noexcept {
        return operation != nullptr && operation->state == io_op::phase::canceled;
    }

    static io_op*& slot_of(const io_op& operation, script& peer) noexcept {
        return is_read(operation.code) ? peer.reader_ : peer.writer_;
    }

    static bool park(io_op& operation, io_op*& slot) noexcept {
        operation.state = io_op::phase::parked;
        slot = &operation;
        return false;
    }

    /// The turn of an operation: what it meets, it meets now, so that a cancel until then takes nothing.
    static void go_on(op& node) noexcept {
        auto& operation = static_cast<io_op&>(node);
        if (operation.state == io_op::phase::queued) {
            auto& self = static_cast<scripted_backend&>(*operation.owner);
            script& peer = self.scripts_[operation.fd];
            io_op*& slot = slot_of(operation, peer);
            slot = nullptr;
            operation.state = io_op::phase::idle;
            if (!self.attempt(operation, peer)) {
                park(operation, slot);
                return;
            }
        }
        operation.state = io_op::phase::idle;
        operation.waiter.resume();
    }

    /// A number that the kernel gives out anew is another descriptor.
    script& renewed(int fd) {
        if (fd < first_fd) {
            if (const auto found = scripts_.find(fd); found != scripts_.end() && found->second.closed) {
                for (io_op* waiting : {found->second.reader_, found->second.writer_}) {
                    if (waiting != nullptr) {
                        let_go(*waiting);
                    }
                }
                const std::uint32_t life = found->second.life_;
                scripts_.erase(found);
                scripts_[fd].life_ = life;
            }
        }
        return scripts_[fd];
    }

    std::pair<int, int> link(int one, int other, bool messages) {
        script& a = scripts_[one];
        script& b = scripts_[other];
        a.peer_ = &b;
        b.peer_ = &a;
        a.messages_ = b.messages_ = messages;
        return {one, other};
    }

    void let_go(io_op& operation) noexcept {
        slot_of(operation, scripts_[operation.fd]) = nullptr;
        operation.error = ECANCELED;
        if (std::exchange(operation.state, io_op::phase::canceled) != io_op::phase::queued) {
            ready_->push(operation);
        }
    }

    void retry(script& peer, direction toward) {
        io_op*& slot = toward == direction::read ? peer.reader_ : peer.writer_;
        if (slot == nullptr || !peer.in_service_) {
            return;
        }
        io_op& waiting = *slot;
        if (waiting.state == io_op::phase::parked) {
            if (toward == direction::read ? peer.is_readable() : peer.is_writable(waiting.code)) {
                waiting.state = io_op::phase::queued;
                ready_->push(waiting);
            }
        } else if (waiting.state == io_op::phase::canceled) {  // it holds on, and this wins
            slot = nullptr;
            waiting.state = io_op::phase::idle;
            if (attempt(waiting, peer)) {
                waiting.state = io_op::phase::done;
                ready_->push(waiting);
            } else {
                waiting.state = io_op::phase::canceled;
                slot = &waiting;
            }
        }
    }

    bool attempt(io_op& operation, script& peer) {
        switch (operation.code) {
            case opcode::receive: return receive(operation, peer);
            case opcode::recv:
                if (operation.provide != nullptr && !peer.reads_.empty()) {
                    operation.provide(operation);
                    if (operation.error == 0 &&
                        (operation.state == io_op::phase::canceled || !peer.in_service_)) {
                        operation.error = ECANCELED;
                    }
                    if (operation.error != 0) {
                        return true;
                    }
                }
                return peer.read(operation);
            case opcode::accept: return peer.read(operation);
            case opcode::send: return peer.write(operation);
            case opcode::connect: return connect(operation, peer);
            case opcode::receive_batch: return peer.batch(static_cast<batch_op&>(operation), true);
            case opcode::send_batch: return peer.batch(static_cast<batch_op&>(operation), false);
            case opcode::sendfile: return peer.sendfile(static_cast<sendfile_op&>(operation));
        }
        return true;
    }

    /// Each borrowed buffer is a new one, so that AddressSanitizer sees who looks at it for too long.
    bool receive(io_op& operation, script& peer) {
        std::string().swap(peer.lent_);
        if (peer.reads_.empty() && !peer.read_shut_) {
            return false;
        }
        std::string fresh(64 * 1024, '\0');
        operation.data = reinterpret_cast<std::byte*>(fresh.data());
        operation.size = fresh.size();
        if (!peer.read(operation)) {
            return false;
        }
        peer.lent_.assign(fresh, 0, operation.size);
        peer.lent_.reserve(64);  // on the heap, however short
        operation.data = reinterpret_cast<std::byte*>(peer.lent_.data());
        return true;
    }

    bool connect(io_op& operation, script& peer) {
        if (!peer.connect(operation)) {
            return false;
        }
        if (operation.error != 0 || operation.name == nullptr || peer.peer_ != nullptr) {
            return true;
        }
        const address where(operation.name, operation.name_size);
        const auto found =
            std::find_if(doors_.begin(), doors_.end(), [&](const door& each) { return each.where == where; });
        if (found != doors_.end()) {
            const int far = open();
            link(operation.fd, far, false);
            scripts_[found->fd].accepts(far);
        } else if (operation.fd < first_fd) {
            operation.error = ECONNREFUSED;
        }
        return true;
    }

    void note_door(int fd) {
        int listens = 0;
        socklen_t size = sizeof listens;
        address where;
        socklen_t room = address::capacity();
        if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0 &&
            ::getsockname(fd, where.data(), &room) == 0) {
            where.resize(room);
            doors_.push_back({where, fd});
        }
    }

    static constexpr int first_fd = 1 << 20;  // no kernel gives these out

    std::map<int, script> scripts_;
    std::map<std::pair<int, direction>, watcher*> watchers_;
    std::multimap<time_point, std::function<void()>> plan_;
    std::vector<door> doors_;
    time_point now_{};
    int next_fd_ = first_fd;
    int interruptions_ = 0;
    int wait_error_ = 0;
    int attach_error_ = 0;
    bool late_ = false;
    std::atomic<bool> woken_ = false;
};

}  // namespace zloop::testing
