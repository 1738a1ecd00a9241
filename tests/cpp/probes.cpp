#include "probes.hpp"

#include <cstdint>
#include <cstdlib>
#include <new>

#include <netdb.h>

#include <zloop/testing/interpose.hpp>

namespace probes {

namespace {

std::atomic<std::size_t> allocation_count = 0;

[[maybe_unused]] void* allocate(std::size_t size) {
    allocation_count.fetch_add(1, std::memory_order_relaxed);
    if (size < no_memory_for::limit.load(std::memory_order_relaxed)) {
        if (void* memory = std::malloc(size != 0 ? size : 1)) {
            return memory;
        }
    }
    throw std::bad_alloc();
}

}  // namespace

std::size_t allocations() noexcept { return allocation_count.load(std::memory_order_relaxed); }

[[gnu::noinline]] std::size_t stack_depth(const void* base) noexcept {
    const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    const auto there = reinterpret_cast<std::uintptr_t>(base);
    return here < there ? there - here : here - there;
}

}  // namespace probes

#if PROBES_COUNT_ALLOCATIONS
void* operator new(std::size_t size) { return probes::allocate(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

extern "C" {

int __real_getaddrinfo(const char*, const char*, const addrinfo*, addrinfo**);

int __wrap_getaddrinfo(const char* host, const char* service, const addrinfo* hints, addrinfo** found) {
    const probes::name_server* const server = probes::name_server::active;
    if (server == nullptr || host == nullptr || (hints->ai_flags & AI_NUMERICHOST) != 0) {
        return __real_getaddrinfo(host, service, hints, found);
    }
    std::vector<std::string> numeric;
    if (const int error = server->ask(host, numeric)) {
        return error;
    }
    addrinfo** end = found;  // lists are freed node by node, so several can be one
    for (const std::string& each : numeric) {
        if (const int error = __real_getaddrinfo(each.c_str(), service, hints, end)) {
            return error;
        }
        while (*end != nullptr) {
            end = &(*end)->ai_next;
        }
    }
    return 0;
}
}
