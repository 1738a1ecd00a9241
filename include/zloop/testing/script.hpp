// zloop/testing/script.hpp: the far end of a made-up descriptor: what its reads and writes will meet.
//
// Belongs to a scripted_backend (scripted.hpp), which asks it where others ask the kernel. Steps are met in
// order; with none left, reads wait for the next one and writes take everything. The two ends of a pair
// feed each other besides: what one writes, the other reads.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <zloop/kernel/attempt.hpp>  // datagram
#include <zloop/kernel/backend.hpp>

namespace zloop::testing {

/// The far end of a made-up descriptor: what its reads and writes meet, in order. What is called returns the
/// script, so that steps can be strung together.
///
/// Owns:    what was said and what came; it belongs to a scripted_backend.
/// Thread:  that of the backend's loop.
/// Example: examples/cpp/scripted.cpp
class script {
public:
    /// One without steps: reads wait, writes are taken.
    script() = default;
    script(const script&) = delete;
    script& operator=(const script&) = delete;

    /// Has the next read get these bytes, or, with a small buffer, the next reads.
    script& receives(std::string_view bytes) {
        return bytes.empty() ? *this : read_step({step::bytes, std::string(bytes), 0, {}});
    }
    /// Has the next read get this datagram, which may be empty, and what of it there is room for.
    script& receives_from(const address& sender, std::string_view bytes) {
        return read_step({step::message, std::string(bytes), 0, sender});
    }
    /// Has the next read meet the end of the stream; so do all after it.
    script& ends() { return read_step({step::end, {}, 0, {}}); }
    /// Has the next read fail with this errno. EINTR is tried again and EAGAIN waits, as with every backend.
    script& fails_read(int error) { return read_step({step::failure, {}, error, {}}); }
    /// Has the next read block, until the loop asks the kernel again.
    script& stalls_read() { return fails_read(EAGAIN); }
    /// Has the next read that finds bytes get `count` of them at most.
    script& gives(std::size_t count) {
        short_reads_.push_back(count);
        return *this;
    }
    /// Has the next accept get `fd`, another made-up descriptor.
    script& accepts(int fd, const address& peer = {}) { return read_step({step::connection, {}, fd, peer}); }

    /// Has the next write take `count` bytes at most; 0 would block until another write step comes.
    script& takes(std::size_t count) { return write_step({step::bytes, {}, static_cast<int>(count), {}}); }
    /// Has the next write, or connect, fail with this errno; EINTR and EAGAIN as for reads.
    script& fails_write(int error) { return write_step({step::failure, {}, error, {}}); }
    /// Has the next write block, until the loop asks the kernel again.
    script& stalls_write() { return fails_write(EAGAIN); }

    /// Breaks the connection, at both ends of a pair: what has not been read yet is lost, and the next read
    /// fails with ECONNRESET.
    script& resets() {
        if (peer_ != nullptr) {
            script& other = *std::exchange(peer_, nullptr);
            other.peer_ = nullptr;
            other.break_off(ECONNRESET);
        }
        break_off(ECONNRESET);
        return *this;
    }

    /// Says how many unread bytes the far end of a pair holds before writes wait. At first 64 KiB.
    script& holds(std::size_t bytes) {
        room_ = bytes;
        return *this;
    }

    /// A datagram that was sent.
    struct message {
        address to;        ///< to whom; none: to the peer that the socket is connected to
        std::string text;  ///< its bytes
    };

    std::string written;        ///< all bytes so far
    std::vector<message> sent;  ///< datagrams so far
    bool closed = false;        ///< whether the descriptor was closed

private:
    friend class scripted_backend;

    struct step {
        enum { bytes, message, end, failure, connection } what;
        std::string text;
        int number;  // an errno, a descriptor, or a count of bytes
        address peer;
    };

    script& read_step(step next) {
        reads_.push_back(std::move(next));
        changed(direction::read);
        return *this;
    }
    script& write_step(step next) {
        writes_.push_back(std::move(next));
        changed(direction::write);
        return *this;
    }
    void changed(direction toward) const {
        if (changed_) {
            changed_(toward);
        }
    }

    static bool fail(io_op& operation, int error) noexcept {
        operation.error = error;
        operation.size = 0;
        return true;
    }

    // Whether it is worth a try, which may block nevertheless.

    bool is_readable() const noexcept { return !reads_.empty() || read_shut_; }
    bool is_writable(opcode code) const noexcept {
        if (gone_ || write_shut_) {
            return true;
        }
        const bool is_full = code != opcode::connect && peer_ != nullptr && peer_->unread_ >= room_;
        const bool is_held = writes_.size() == 1 && is_block(writes_.front());
        return !is_full && !is_held;
    }
    static bool is_block(const step& next) noexcept { return next.what != step::failure && next.number == 0; }

    // One try, as in kernel/attempt.hpp. False: it would block.

    bool read(io_op& operation) {
        while (!reads_.empty() && reads_.front().what == step::failure && reads_.front().number == EINTR) {
            reads_.pop_front();
        }
        if (reads_.empty()) {
            return read_shut_ && fail(operation, 0);
        }
        step& next = reads_.front();
        switch (next.what) {
            case step::bytes: read_bytes(operation, next); break;
            case step::message: read_message(operation, next); break;
            case step::end: return fail(operation, 0);
            case step::failure: {
                const int error = next.number;
                reads_.pop_front();
                return error != EAGAIN && fail(operation, error);
            }
            case step::connection:
                operation.accepted = next.number;
                name(operation, next.peer);
                reads_.pop_front();
                return true;
        }
        if (peer_ != nullptr) {
            peer_->changed(direction::write);  // there is room again
        }
        return true;
    }

    void read_bytes(io_op& operation, step& next) {
        std::size_t most = std::min(operation.size, next.text.size());
        if (!short_reads_.empty()) {
            most = std::min(most, short_reads_.front());
            short_reads_.pop_front();
        }
        operation.size = most;
        std::memcpy(operation.data, next.text.data(), most);
        next.text.erase(0, most);
        unread_ -= std::min(unread_, most);
        operation.name_size = 0;
        if (next.text.empty()) {
            reads_.pop_front();
        }
    }

    void read_message(io_op& operation, step& next) {
        operation.truncated = next.text.size() > operation.size;
        operation.size = std::min(operation.size, next.text.size());
        if (operation.size != 0) {
            std::memcpy(operation.data, next.text.data(), operation.size);
        }
        unread_ -= std::min(unread_, next.text.size());
        name(operation, next.peer);
        reads_.pop_front();
    }

    static void name(io_op& operation, const address& from) noexcept {
        if (operation.name != nullptr) {
            std::memcpy(operation.name, from.data(), std::min<std::size_t>(operation.name_size, from.size()));
        }
        operation.name_size = from.size();
    }

    bool write(io_op& operation) {
        if (gone_ || write_shut_) {
            return fail(operation, messages_ ? ECONNREFUSED : EPIPE);
        }
        std::size_t room = std::string::npos;
        if (peer_ != nullptr) {
            if (peer_->unread_ >= room_) {
                return false;
            }
            room = room_ - peer_->unread_;
        }
        int error = 0;
        if (!step_of_write(room, error)) {
            return false;
        }
        if (error != 0) {
            return fail(operation, error);
        }
        std::string taken;
        for (unsigned index = 0; index < operation.part_count; ++index) {
            const iovec& part = operation.parts[index];
            const std::size_t count = messages_ ? part.iov_len : std::min(room - taken.size(), part.iov_len);
            taken.append(static_cast<const char*>(part.iov_base), count);
        }
        operation.size = taken.size();
        written += taken;
        if (messages_ || operation.name != nullptr) {
            sent.push_back(
                {operation.name != nullptr ? address(operation.name, operation.name_size) : address(),
                 taken});
        }
        if (peer_ != nullptr) {
            peer_->arrive(std::move(taken), messages_);
        }
        return true;
    }

    /// What the next write step says: an error, or less room. False: it would block.
    bool step_of_write(std::size_t& room, int& error) {
        while (!writes_.empty()) {
            const step next = writes_.front();
            if (is_block(next) && writes_.size() == 1) {
                return false;  // stays, until another comes
            }
            writes_.pop_front();
            if (next.what != step::failure && next.number != 0) {
                room = std::min(room, static_cast<std::size_t>(next.number));
                break;
            }
            if (next.what == step::failure && next.number != EINTR) {
                error = next.number;
                return error != EAGAIN;
            }
        }
        return true;
    }

    bool connect(io_op& operation) {
        std::size_t room = std::string::npos;
        int error = 0;
        if (!step_of_write(room, error)) {
            return false;
        }
        return error == 0 || fail(operation, error);
    }

    /// Datagrams until one would block or fail; that one counts only when it is the first.
    bool batch(batch_op& operation, bool receiving) {
        std::size_t done = 0;
        for (; done < operation.size; ++done) {
            if (done != 0 && receiving && (reads_.empty() || reads_.front().what == step::failure)) {
                break;
            }
            datagram& item = operation.items[done];
            iovec part{item.bytes.data(), item.bytes.size()};
            io_op single(*operation.owner, receiving ? opcode::recv : opcode::send,
                         descriptor{operation.fd, operation.life});
            single.data = item.bytes.data();
            single.size = item.bytes.size();
            single.parts = &part;
            single.part_count = 1;
            if (receiving || item.peer.size() != 0) {
                single.name = item.peer.data();
                single.name_size = receiving ? address::capacity() : item.peer.size();
            }
            if (!(receiving ? read(single) : write(single))) {
                break;
            }
            if (single.error != 0) {
                if (done == 0) {
                    return fail(operation, single.error);
                }
                break;
            }
            if (receiving) {
                item.bytes = item.bytes.first(single.size);
                item.peer.resize(static_cast<socklen_t>(single.name_size));
                item.truncated = single.truncated;
            }
        }
        if (done == 0 && operation.size != 0) {
            return false;
        }
        operation.size = done;
        return true;
    }

    bool sendfile(sendfile_op& operation) {
        std::string bytes(std::min<std::size_t>(operation.size, 64 * 1024), '\0');
        const ssize_t count = detail::read_at(operation.file, bytes.data(), bytes.size(), operation.offset);
        if (count <= 0) {
            return fail(operation, count < 0 ? errno : 0);
        }
        iovec part{bytes.data(), static_cast<std::size_t>(count)};
        io_op single(*operation.owner, opcode::send, descriptor{operation.fd, operation.life});
        single.parts = &part;
        single.part_count = 1;
        if (!write(single)) {
            return false;
        }
        operation.error = single.error;
        operation.size = single.size;
        return true;
    }

    // The other end of a pair.

    void arrive(std::string text, bool as_message) {
        if (text.empty() && !as_message) {
            return;
        }
        unread_ += text.size();
        if (!as_message && !reads_.empty() && reads_.back().what == step::bytes) {
            reads_.back().text += text;
            changed(direction::read);
        } else {
            read_step({as_message ? step::message : step::bytes, std::move(text), 0, {}});
        }
    }

    void shut_down(int how) {
        if (how != SHUT_RD && !write_shut_) {
            write_shut_ = true;
            if (peer_ != nullptr && !messages_) {
                peer_->ends();
            }
            changed(direction::write);
        }
        if (how != SHUT_WR) {
            read_shut_ = true;
            changed(direction::read);
        }
    }

    void close() {
        closed = true;
        if (peer_ != nullptr) {
            script& other = *std::exchange(peer_, nullptr);
            other.peer_ = nullptr;
            unread_ != 0 ? other.hang_up(ECONNRESET) : other.hang_up(0);  // bytes that nobody will read
        }
    }

    /// The far end has gone: what came is there still.
    void hang_up(int error) {
        gone_ = true;
        if (error != 0 && !messages_) {
            fails_read(error);
        }
        if (!messages_) {
            ends();
        }
        changed(direction::write);
    }

    void break_off(int error) {
        reads_.clear();
        unread_ = 0;
        hang_up(error);
    }

    std::deque<step> reads_;
    std::deque<step> writes_;
    std::deque<std::size_t> short_reads_;
    script* peer_ = nullptr;
    std::size_t unread_ = 0;  // of what the other end wrote
    std::size_t room_ = 64 * 1024;
    bool messages_ = false;
    bool gone_ = false;
    bool read_shut_ = false;
    bool write_shut_ = false;

    // The backend's.
    io_op* reader_ = nullptr;
    io_op* writer_ = nullptr;
    bool in_service_ = false;
    std::uint32_t life_ = 0;
    std::string lent_;
    std::function<void(direction)> changed_;
};

}  // namespace zloop::testing
