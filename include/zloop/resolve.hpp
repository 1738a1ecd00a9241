// zloop/resolve.hpp: names to addresses, by getaddrinfo(3), off the loop.
//
// A lookup runs on a thread of a pool that is for names alone: a name server that does not answer holds
// up no file. Whoever is cancelled leaves at once, and the lookup, which owns all that it uses, ends
// alone. What is a number already is answered at once, without a thread.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <netdb.h>

#include <zloop/address.hpp>
#include <zloop/offload.hpp>

namespace zloop {

/// Why a name has no addresses: the EAI_ codes of getaddrinfo(3), the usual ones with names.
/// Example: examples/cpp/addresses.cpp
enum class resolve_errc {
    host_not_found = EAI_NONAME,        ///< there is no such host, or no such service
    try_again = EAI_AGAIN,              ///< no name server has answered
    failed = EAI_FAIL,                  ///< a name server has answered that it cannot
    service_not_found = EAI_SERVICE,    ///< not for sockets of this type
    family_not_supported = EAI_FAMILY,  ///< of the hints: the system has none such
    type_not_supported = EAI_SOCKTYPE,  ///< of the hints: the system has none such
};

/// The category of the EAI_ codes, with the system's words.
inline const std::error_category& resolve_category() noexcept {
    struct words final : std::error_category {
        const char* name() const noexcept override { return "getaddrinfo"; }
        std::string message(int code) const override { return ::gai_strerror(code); }
    };
    static const words instance;
    return instance;
}

/// Makes a std::error_code of a resolve_errc; the standard library calls it.
inline std::error_code make_error_code(resolve_errc code) noexcept {
    return {static_cast<int>(code), resolve_category()};
}

}  // namespace zloop

template <>
struct std::is_error_code_enum<zloop::resolve_errc> : std::true_type {};

namespace zloop {

/// What kind of addresses resolve() looks for, and where it waits.
struct resolve_options {
    int family = AF_UNSPEC;        ///< AF_INET, AF_INET6, or both
    int type = SOCK_STREAM;        ///< 0: of any type
    int protocol = 0;              ///< 0: any that is of the type
    int flags = 0;                 ///< AI_PASSIVE, AI_ADDRCONFIG, AI_NUMERICHOST…
    offload_pool* pool = nullptr;  ///< instead of name_pool()
};

/// Gives the process' pool for lookups: several at once, 16 at most, apart from other blocking work.
/// Thread: any.
inline offload_pool& name_pool() {
    static offload_pool& pool = offload_pool::make_lasting(offload_pool::default_threads);
    return pool;
}

namespace detail {

/// One call of getaddrinfo, with all that it needs.
class lookup {
public:
    using answer = result<std::vector<address>>;

    lookup(std::string host, std::string service, const resolve_options& options) noexcept
        : host_(std::move(host)), service_(std::move(service)), options_(options) {}

    answer operator()() const { return ask(0); }

    /// For numbers: looks nothing up, and so does not block.
    answer ask_nobody() const { return ask(AI_NUMERICHOST | AI_NUMERICSERV); }

private:
    answer ask(int more_flags) const {
        if (host_.find('\0') != host_.npos || service_.find('\0') != service_.npos) {
            return make_error_code(resolve_errc::host_not_found);  // or it would end there
        }
        addrinfo hints{};
        hints.ai_family = options_.family;
        hints.ai_socktype = options_.type;
        hints.ai_protocol = options_.protocol;
        hints.ai_flags = options_.flags | more_flags;
        addrinfo* first = nullptr;
        const int error = ::getaddrinfo(host_.empty() ? nullptr : host_.c_str(),
                                        service_.empty() ? nullptr : service_.c_str(), &hints, &first);
        if (error == EAI_SYSTEM) {
            return system_error_code(errno);
        }
        if (error != 0) {
            return std::error_code(error, resolve_category());
        }
        const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(first, ::freeaddrinfo);
        std::vector<address> found;
        for (const addrinfo* each = first; each != nullptr; each = each->ai_next) {
            const address next(each->ai_addr, each->ai_addrlen);
            if (std::find(found.begin(), found.end(), next) == found.end()) {  // one of each type, else
                found.push_back(next);
            }
        }
        return found;
    }

    std::string host_;
    std::string service_;
    resolve_options options_;
};

}  // namespace detail

/// Looks up the addresses of a host, and a service on it, by name or number; they come in the order in which
/// to try them. An empty host is this one: loopback, or any interface with AI_PASSIVE. An empty service is
/// port 0. One of them is not empty.
///
/// Completes: with at least one address. Numbers are answered at once, everything else by a thread.
/// Fails:     as getaddrinfo does (`resolve_errc`); with an errno where the system has failed, or has no
///            thread; `operation_canceled`.
/// Cancelled: leaves at once, and the lookup ends alone.
/// Example:   examples/cpp/addresses.cpp
inline task<result<std::vector<address>>> resolve(std::string host, std::string service,
                                                  resolve_options options = {}) {
    detail::lookup asks(std::move(host), std::move(service), options);
    if (auto number = asks.ask_nobody()) {
        co_return number;
    }
    offload_pool& pool = options.pool != nullptr ? *options.pool : name_pool();
    co_return co_await offload_abandonable(pool, std::move(asks));
}

/// The same for a port.
inline task<result<std::vector<address>>> resolve(std::string host, std::uint16_t port,
                                                  resolve_options options = {}) {
    return resolve(std::move(host), std::to_string(port), options);
}

}  // namespace zloop
