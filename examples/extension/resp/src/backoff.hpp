// backoff.hpp: how long to wait before the next attempt: twice as long each time, to a limit, and by chance
// less, so that those whom a server has left do not all come back in one moment.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace resp {

/// The attempts to connect of one who needs a connection.
class backoff {
public:
    struct policy {
        unsigned retries = 6;  ///< attempts after the first
        std::chrono::nanoseconds first = std::chrono::milliseconds(20);
        std::chrono::nanoseconds most = std::chrono::seconds(1);
    };

    explicit backoff(const policy& as)
        : left_(as.retries), next_(as.first), most_(as.most), chance_(seed(this)) {}

    bool is_over() const { return left_ == 0; }

    /// The next wait: anything up to its limit.
    std::chrono::nanoseconds next() {
        --left_;
        const std::chrono::nanoseconds limit = std::min(next_, most_);
        next_ = limit * 2;
        chance_ ^= chance_ << 13;  // xorshift64, Marsaglia 2003
        chance_ ^= chance_ >> 7;
        chance_ ^= chance_ << 17;
        return std::chrono::nanoseconds(
            static_cast<std::int64_t>(chance_ % (static_cast<std::uint64_t>(limit.count()) + 1)));
    }

private:
    static std::uint64_t seed(const void* place) {
        const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
        return (static_cast<std::uint64_t>(now) ^ reinterpret_cast<std::uintptr_t>(place)) | 1;
    }

    unsigned left_;
    std::chrono::nanoseconds next_;
    std::chrono::nanoseconds most_;
    std::uint64_t chance_;
};

}  // namespace resp
