// module/tls/records.hpp: where the records of a TLS stream begin and end.
//
// OpenSSL asked for data that is not complete answers by an exception in Python, which costs more than
// to read a message. A record says in its first five bytes how long it is: so we know without asking.
// Nothing is kept but counts. What OpenSSL may refuse by its header alone has to be asked before it is
// complete: a record that is not like those of application data is `odd`, and a stream that does not look
// like TLS is so for ever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace zl {

class tls_records {
public:
    /// Follows what is fed to OpenSSL next.
    void follow(std::span<const std::byte> data) noexcept {
        tail_ += data.size();
        while (!data.empty() && !lost_) {
            if (missing_ == 0) {
                begin(std::to_integer<std::uint8_t>(data.front()));
                data = data.subspan(1);
            } else if (missing_ > data.size()) {
                missing_ -= data.size();
                return;
            } else {
                data = data.subspan(missing_);
                missing_ = 0;
                odd_ = false;
                complete_bytes_ += body_;
                ++complete_;
                tail_ = data.size();
            }
        }
    }

    /// All complete records were read.
    void forget_complete() noexcept {
        complete_ = 0;
        complete_bytes_ = 0;
    }

    /// Whether what was followed last has to be asked.
    bool odd() const noexcept { return lost_ || (odd_ && missing_ != 0); }

    /// Records that were complete since the last forget_complete(), and no less than what is in them.
    std::size_t complete() const noexcept { return complete_; }
    std::size_t complete_bytes() const noexcept { return complete_bytes_; }

    /// The last bytes that were followed, of a record that is not complete.
    std::size_t tail() const noexcept { return odd() ? 0 : tail_; }

private:
    void begin(std::uint8_t byte) noexcept {
        switch (header_++) {
            case 0:
                lost_ = byte < 20 ||
                        byte > 24;  // the types of records: they begin a TLS stream, and nothing else
                odd_ = byte != application_data;
                break;
            case 1:
                lost_ = byte != 3;  // SSL 3.0 to TLS 1.3
                break;
            case 2: odd_ = odd_ || byte != 3; break;
            case 3: body_ = static_cast<std::size_t>(byte) << 8; break;
            default:
                body_ |= byte;
                missing_ = body_;
                header_ = 0;
                lost_ = body_ == 0 || body_ > longest;
                odd_ = odd_ || body_ > longest_of_1_3;
                break;
        }
    }

    static constexpr std::uint8_t application_data = 23;
    static constexpr std::size_t longest = 16384 + 2048;  // as TLS 1.2 allows
    static constexpr std::size_t longest_of_1_3 = 16384 + 256;

    std::size_t complete_ = 0, complete_bytes_ = 0, tail_ = 0;
    std::size_t body_ = 0;     // of the record that began last
    std::size_t missing_ = 0;  // of its body
    unsigned header_ = 0;      // bytes of its header, while that is not complete
    bool odd_ = false;         // that record
    bool lost_ = false;
};

}  // namespace zl
