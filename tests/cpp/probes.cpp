#include "probes.hpp"

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <new>

#include <netdb.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

namespace probes {

namespace {

std::atomic<std::size_t> allocation_count = 0;

[[maybe_unused]] void* allocate(std::size_t size) {
    allocation_count.fetch_add(1, std::memory_order_relaxed);
    if (void* memory = std::malloc(size != 0 ? size : 1)) {
        return memory;
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

bool system_call::intercept() noexcept {
    count.fetch_add(1, std::memory_order_relaxed);
    if (failures_.load(std::memory_order_relaxed) > 0) {
        failures_.fetch_sub(1, std::memory_order_relaxed);
        errno = error_;
        return true;
    }
    return false;
}

}  // namespace probes

#if PROBES_COUNT_ALLOCATIONS
void* operator new(std::size_t size) { return probes::allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

extern "C" {

ssize_t __real_recv(int, void*, size_t, int);
ssize_t __real_send(int, const void*, size_t, int);
ssize_t __real_sendmsg(int, const msghdr*, int);
int __real_accept4(int, sockaddr*, socklen_t*, int);
int __real_epoll_ctl(int, int, int, epoll_event*);
int __real_epoll_create1(int);
int __real_epoll_wait(int, epoll_event*, int, int);
int __real_eventfd(unsigned, int);
int __real_getaddrinfo(const char*, const char*, const addrinfo*, addrinfo**);
int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
long __real_syscall(long, ...);

ssize_t __wrap_recv(int fd, void* data, size_t size, int flags) {
    return probes::recv.intercept() ? -1 : __real_recv(fd, data, size, flags);
}
ssize_t __wrap_send(int fd, const void* data, size_t size, int flags) {
    return probes::send.intercept() ? -1 : __real_send(fd, data, size, flags);
}
ssize_t __wrap_sendmsg(int fd, const msghdr* message, int flags) {
    return probes::sendmsg.intercept() ? -1 : __real_sendmsg(fd, message, flags);
}
int __wrap_accept4(int fd, sockaddr* name, socklen_t* size, int flags) {
    return probes::accept4.intercept() ? -1 : __real_accept4(fd, name, size, flags);
}
int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
    return probes::epoll_ctl.intercept() ? -1 : __real_epoll_ctl(epoll, operation, fd, event);
}
int __wrap_epoll_create1(int flags) {
    return probes::epoll_create1.intercept() ? -1 : __real_epoll_create1(flags);
}
int __wrap_epoll_wait(int epoll, epoll_event* events, int room, int timeout) {
    return probes::epoll_wait.intercept() ? -1 : __real_epoll_wait(epoll, events, room, timeout);
}
int __wrap_eventfd(unsigned value, int flags) {
    return probes::eventfd.intercept() ? -1 : __real_eventfd(value, flags);
}
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

int __wrap_pthread_create(pthread_t* made, const pthread_attr_t* attributes, void* (*start)(void*),
                          void* argument) {
    return probes::pthread_create.intercept() ? errno
                                              : __real_pthread_create(made, attributes, start, argument);
}

long __wrap_syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long argument[6];
    for (long& each : argument) {
        each = va_arg(list, long);
    }
    va_end(list);
    if (number == SYS_epoll_pwait2 && probes::epoll_pwait2.intercept()) {
        return -1;
    }
    return __real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                          argument[5]);
}
}
