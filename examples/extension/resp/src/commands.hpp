// commands.hpp: what the names of commands say about how to send them.
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "client.hpp"

namespace resp {

/// Who sends: one of many on the shared connection, or one that has a connection to himself.
enum class line_is { shared, own };

namespace detail {

enum class trait : char {
    reads,    // doing it twice is as doing it once
    waits,    // in the server, and all behind it
    changes,  // the state of the connection: its transaction, its database
    never,    // makes of the connection something that is no longer requests and replies
};

struct known {
    std::string_view name;
    trait is;
};

/// By name. What is not here is sent once, on the shared connection.
inline constexpr std::array commands{
    known{"AUTH", trait::changes},      known{"BITCOUNT", trait::reads},     known{"BLMOVE", trait::waits},
    known{"BLMPOP", trait::waits},      known{"BLPOP", trait::waits},        known{"BRPOP", trait::waits},
    known{"BRPOPLPUSH", trait::waits},  known{"BZMPOP", trait::waits},       known{"BZPOPMAX", trait::waits},
    known{"BZPOPMIN", trait::waits},    known{"DBSIZE", trait::reads},       known{"DISCARD", trait::changes},
    known{"ECHO", trait::reads},        known{"EXEC", trait::changes},       known{"EXISTS", trait::reads},
    known{"GET", trait::reads},         known{"GETRANGE", trait::reads},     known{"HELLO", trait::never},
    known{"HEXISTS", trait::reads},     known{"HGET", trait::reads},         known{"HGETALL", trait::reads},
    known{"HKEYS", trait::reads},       known{"HLEN", trait::reads},         known{"HMGET", trait::reads},
    known{"HSCAN", trait::reads},       known{"HVALS", trait::reads},        known{"KEYS", trait::reads},
    known{"LINDEX", trait::reads},      known{"LLEN", trait::reads},         known{"LRANGE", trait::reads},
    known{"MGET", trait::reads},        known{"MONITOR", trait::never},      known{"MULTI", trait::changes},
    known{"PING", trait::reads},        known{"PSUBSCRIBE", trait::never},   known{"PSYNC", trait::never},
    known{"PTTL", trait::reads},        known{"PUNSUBSCRIBE", trait::never}, known{"QUIT", trait::never},
    known{"RESET", trait::never},       known{"SCAN", trait::reads},         known{"SCARD", trait::reads},
    known{"SELECT", trait::changes},    known{"SISMEMBER", trait::reads},    known{"SMEMBERS", trait::reads},
    known{"SSCAN", trait::reads},       known{"SSUBSCRIBE", trait::never},   known{"STRLEN", trait::reads},
    known{"SUBSCRIBE", trait::never},   known{"SUNSUBSCRIBE", trait::never}, known{"SYNC", trait::never},
    known{"TIME", trait::reads},        known{"TTL", trait::reads},          known{"TYPE", trait::reads},
    known{"UNSUBSCRIBE", trait::never}, known{"UNWATCH", trait::changes},    known{"WATCH", trait::changes},
    known{"ZCARD", trait::reads},       known{"ZRANGE", trait::reads},       known{"ZRANK", trait::reads},
    known{"ZSCAN", trait::reads},       known{"ZSCORE", trait::reads},
};
static_assert(std::ranges::is_sorted(commands, {}, &known::name));

/// In capitals, as far as names go.
inline std::string capitals(std::string_view word) {
    std::string made(word.substr(0, 16));
    for (char& each : made) {
        each = each >= 'a' && each <= 'z' ? static_cast<char>(each - 'a' + 'A') : each;
    }
    return made;
}

}  // namespace detail

/// How to send a command.
/// Throws: std::invalid_argument for one that would take the connection from its users.
template <class Arguments>
manner manner_of(const Arguments& arguments, line_is line) {
    const std::string name = detail::capitals(arguments[0]);
    if (name == "XREAD" || name == "XREADGROUP") {
        const bool waits = std::ranges::any_of(
            arguments, [](std::string_view each) { return detail::capitals(each) == "BLOCK"; });
        return waits ? manner::alone : manner::once;
    }
    if (name == "CLIENT" && arguments.size() > 1 && detail::capitals(arguments[1]) == "REPLY") {
        throw std::invalid_argument("CLIENT REPLY is not for a connection whose replies are waited for");
    }
    const auto found =
        std::ranges::lower_bound(detail::commands, std::string_view(name), {}, &detail::known::name);
    if (found == detail::commands.end() || found->name != name) {
        return manner::once;
    }
    switch (found->is) {
        case detail::trait::reads: return manner::repeatable;
        case detail::trait::waits: return manner::alone;
        case detail::trait::changes:
            if (line == line_is::own) {
                return manner::once;
            }
            throw std::invalid_argument(name +
                                        " changes the connection, which others share: see transaction() and "
                                        "connection()");
        default: throw std::invalid_argument(name + " is not for execute(): see subscribe()");
    }
}

}  // namespace resp
