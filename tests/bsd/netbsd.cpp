// tests/bsd/netbsd.cpp: the system calls of a program, taken to a NetBSD kernel in its process: netbsd.hpp.
//
// A shared library that stands before the C library, and has functions of the same names: a program's own
// (testing/interpose.hpp) go on to these. What the kernel makes has numbers from `first` on here, so that a
// number tells whose it is: a smaller one is Linux's, a file, say, and its call goes on to the C library.
// Constants, addresses, messages and errors are translated on the way. Messages have no control data: the
// library sends none.

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "sys/event.h"

namespace {

struct netbsd_msghdr {
    void* name;
    std::uint32_t name_size;
    iovec* parts;
    int part_count;
    void* control;
    std::uint32_t control_size;
    int flags;
};

extern "C" {
int rump_init();
void rump_boot_setsigmodel(int model);

int rump___sysimpl_accept(int, void*, std::uint32_t*);
int rump___sysimpl_bind(int, const void*, std::uint32_t);
int rump___sysimpl_close(int);
int rump___sysimpl_connect(int, const void*, std::uint32_t);
int rump___sysimpl_dup(int);
int rump___sysimpl_dup2(int, int);
int rump___sysimpl_fcntl(int, int, void*);
int rump___sysimpl_fstat50(int, void*);
int rump___sysimpl_getpeername(int, void*, std::uint32_t*);
int rump___sysimpl_getsockname(int, void*, std::uint32_t*);
int rump___sysimpl_getsockopt(int, int, int, void*, std::uint32_t*);
int rump___sysimpl_ioctl(int, unsigned long, void*);
int rump___sysimpl_kevent50(int, const struct kevent*, std::size_t, struct kevent*, std::size_t,
                            const timespec*);
int rump___sysimpl_kqueue();
int rump___sysimpl_listen(int, int);
int rump___sysimpl_mkdir(const char*, unsigned);
int rump___sysimpl_paccept(int, void*, std::uint32_t*, const void*, int);
int rump___sysimpl_pipe2(int*, int);
int rump___sysimpl_poll(pollfd*, unsigned, int);
ssize_t rump___sysimpl_read(int, void*, std::size_t);
ssize_t rump___sysimpl_readv(int, const iovec*, int);
ssize_t rump___sysimpl_recvfrom(int, void*, std::size_t, int, void*, std::uint32_t*);
ssize_t rump___sysimpl_recvmsg(int, netbsd_msghdr*, int);
ssize_t rump___sysimpl_sendmsg(int, const netbsd_msghdr*, int);
ssize_t rump___sysimpl_sendto(int, const void*, std::size_t, int, const void*, std::uint32_t);
int rump___sysimpl_setrlimit(int, const void*);
int rump___sysimpl_setsockopt(int, int, int, const void*, std::uint32_t);
int rump___sysimpl_shutdown(int, int);
int rump___sysimpl_socket30(int, int, int);
int rump___sysimpl_socketpair(int, int, int, int*);
int rump___sysimpl_unlink(const char*);
ssize_t rump___sysimpl_write(int, const void*, std::size_t);
ssize_t rump___sysimpl_writev(int, const iovec*, int);
}

constexpr int first = 512;  // of the kernel's numbers

bool is_theirs(int number) { return number >= first; }
int theirs(int number) { return number - first; }

/// Before main(): tests call from many threads.
const bool booted = [] {
    constexpr int ignore_signals = 1;  // SIGPIPE: MSG_NOSIGNAL is asked for, and write(2) heard by its EPIPE
    rump_boot_setsigmodel(ignore_signals);
    const std::uint64_t descriptors[] = {2048, 2048};  // 128 at first
    constexpr int limit_of_descriptors = 8;
    if (rump_init() != 0 || rump___sysimpl_setrlimit(limit_of_descriptors, descriptors) != 0) {
        std::abort();
    }
    return true;
}();

// Errors.

struct pair {
    int ours, theirs;
};

/// NetBSD's errors that have another number on Linux; those to 34 are alike, but for the first two.
constexpr pair errors[] = {
    {EDEADLK, 11},         {EAGAIN, 35},       {EINPROGRESS, 36},  {EALREADY, 37},     {ENOTSOCK, 38},
    {EDESTADDRREQ, 39},    {EMSGSIZE, 40},     {EPROTOTYPE, 41},   {ENOPROTOOPT, 42},  {EPROTONOSUPPORT, 43},
    {ESOCKTNOSUPPORT, 44}, {EOPNOTSUPP, 45},   {EPFNOSUPPORT, 46}, {EAFNOSUPPORT, 47}, {EADDRINUSE, 48},
    {EADDRNOTAVAIL, 49},   {ENETDOWN, 50},     {ENETUNREACH, 51},  {ENETRESET, 52},    {ECONNABORTED, 53},
    {ECONNRESET, 54},      {ENOBUFS, 55},      {EISCONN, 56},      {ENOTCONN, 57},     {ESHUTDOWN, 58},
    {ETOOMANYREFS, 59},    {ETIMEDOUT, 60},    {ECONNREFUSED, 61}, {ELOOP, 62},        {ENAMETOOLONG, 63},
    {EHOSTDOWN, 64},       {EHOSTUNREACH, 65}, {ENOTEMPTY, 66},    {ENOSYS, 78},       {EOPNOTSUPP, 86},
    {ECANCELED, 87},
};

int our_error(int number) {
    for (const pair& each : errors) {
        if (each.theirs == number) {
            return each.ours;
        }
    }
    return number;
}

/// What a call has returned; errno is Linux's then.
template <class T>
T answer(T result) {
    if (result < 0) {
        errno = our_error(errno);
    }
    return result;
}

/// The same for a call that makes a descriptor.
int number(int result) { return result < 0 ? answer(result) : result + first; }

// Constants.

int translated(int value, std::initializer_list<pair> table) {
    int result = 0;
    for (const pair& each : table) {
        if ((value & each.ours) != 0) {
            result |= each.theirs;
        }
    }
    return result;
}

int message_flags(int flags) {
    return translated(flags, {{MSG_OOB, 1},
                              {MSG_PEEK, 2},
                              {MSG_TRUNC, 0x10},
                              {MSG_WAITALL, 0x40},
                              {MSG_DONTWAIT, 0x80},
                              {MSG_NOSIGNAL, 0x400}});
}

int our_message_flags(int flags) { return (flags & 0x10) != 0 ? MSG_TRUNC : 0; }

constexpr int inet6 = 24;
constexpr int netbsd_nonblock = 0x20000000;  // SOCK_…
constexpr int netbsd_cloexec = 0x10000000;

int family_of(int family) { return family == AF_INET6 ? inet6 : family; }

int socket_type(int type) {
    return (type & 0xf) |
           translated(type, {{SOCK_NONBLOCK, netbsd_nonblock}, {SOCK_CLOEXEC, netbsd_cloexec}});
}

constexpr int unknown = -1;

/// Level and name of an option.
pair option(int level, int name) {
    const auto find = [name](std::initializer_list<pair> table) {
        const auto* const found =
            std::find_if(table.begin(), table.end(), [name](const pair& each) { return each.ours == name; });
        return found != table.end() ? found->theirs : unknown;
    };
    switch (level) {
        case SOL_SOCKET:
            return {0xffff, find({{SO_REUSEADDR, 4},
                                  {SO_TYPE, 0x1008},
                                  {SO_ERROR, 0x1007},
                                  {SO_BROADCAST, 0x20},
                                  {SO_SNDBUF, 0x1001},
                                  {SO_RCVBUF, 0x1002},
                                  {SO_KEEPALIVE, 8},
                                  {SO_LINGER, 0x80},
                                  {SO_REUSEPORT, 0x200},
                                  {SO_OOBINLINE, 0x100}})};
        case IPPROTO_TCP:
            return {level, find({{TCP_NODELAY, 1}, {TCP_KEEPIDLE, 3}, {TCP_KEEPINTVL, 5}, {TCP_KEEPCNT, 6}})};
        case IPPROTO_IPV6: return {level, find({{IPV6_V6ONLY, 27}})};
        default: return {level, unknown};
    }
}

// Addresses: a byte of length and one of family, where Linux has two of family.

class address_there {
public:
    address_there(const sockaddr* name, socklen_t size) : size_(std::min<socklen_t>(size, sizeof bytes_)) {
        if (name != nullptr && size >= 2) {
            std::memcpy(bytes_, name, size_);
            bytes_[0] = static_cast<unsigned char>(size_);
            bytes_[1] = static_cast<unsigned char>(family_of(name->sa_family));
        }
        is_there_ = name != nullptr;
    }
    address_there() = default;

    const void* data() const { return is_there_ ? bytes_ : nullptr; }
    void* room() { return bytes_; }
    std::uint32_t* size() { return &size_; }

    /// As Linux has it.
    void copy_to(sockaddr* name, socklen_t* size) const {
        if (name == nullptr || size == nullptr) {
            return;
        }
        unsigned char ours[sizeof bytes_];
        std::memcpy(ours, bytes_, sizeof ours);
        const auto family = static_cast<sa_family_t>(bytes_[1] == inet6 ? AF_INET6 : bytes_[1]);
        std::memcpy(ours, &family, sizeof family);
        std::uint32_t true_size = size_;
        if (family == AF_UNIX && size_ > 2) {  // a path ends where Linux ends it: behind its zero
            true_size = 2 + static_cast<std::uint32_t>(strnlen(reinterpret_cast<char*>(ours) + 2, size_ - 2));
            true_size += true_size > 2 ? 1 : 0;
        }
        std::memcpy(name, ours, std::min<std::size_t>(*size, true_size));
        *size = true_size;
    }

private:
    alignas(8) unsigned char bytes_[128] = {};
    std::uint32_t size_ = sizeof bytes_;
    bool is_there_ = false;
};

/// The kernel has a file system of its own: folders are made as they are named.
void make_folders(const sockaddr* name, socklen_t size) {
    if (name->sa_family != AF_UNIX || size <= 2) {
        return;
    }
    const std::string path(reinterpret_cast<const sockaddr_un*>(name)->sun_path,
                           strnlen(reinterpret_cast<const sockaddr_un*>(name)->sun_path, size - 2));
    for (std::size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
        rump___sysimpl_mkdir(path.substr(0, end).c_str(), 0777);
    }
}

/// A Unix socket holds 4 KiB at first, and a datagram socket sends no more than 9; tests write more before
/// anybody reads, as they may on Linux.
void widen(int family, int type, int made) {
    if (made >= 0 && (family == AF_UNIX || (type & 0xf) == SOCK_DGRAM)) {
        const int room = 200 * 1024;
        for (const int option : {0x1001, 0x1002}) {  // SO_SNDBUF, SO_RCVBUF
            rump___sysimpl_setsockopt(made, 0xffff, option, &room, sizeof room);
        }
    }
}

/// A message for the kernel, with room for a name.
struct message_there : netbsd_msghdr {
    address_there peer;

    message_there(const msghdr& from, bool receives) : netbsd_msghdr{} {
        if (from.msg_name != nullptr) {
            peer = receives ? address_there()
                            : address_there(static_cast<const sockaddr*>(from.msg_name), from.msg_namelen);
            name = peer.room();
            name_size = *peer.size();
        }
        parts = from.msg_iov;
        part_count = static_cast<int>(from.msg_iovlen);
    }
};

// What the C library does with numbers of Linux's. Unnamed, as its headers' declarations differ.
#define LINUX(type, name, parameters, arguments)                                          \
    type linux_##name parameters {                                                        \
        using function = type parameters;                                                 \
        static auto* const next = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, #name)); \
        return next arguments;                                                            \
    }
LINUX(int, close, (int fd), (fd))
LINUX(int, dup, (int fd), (fd))
LINUX(int, dup2, (int fd, int onto), (fd, onto))
LINUX(int, fcntl, (int fd, int command, long argument), (fd, command, argument))
LINUX(int, fstat, (int fd, struct stat* about), (fd, about))
LINUX(int, ioctl, (int fd, unsigned long what, void* argument), (fd, what, argument))
LINUX(int, poll, (pollfd * all, nfds_t count, int timeout), (all, count, timeout))
LINUX(ssize_t, read, (int fd, void* into, std::size_t size), (fd, into, size))
LINUX(ssize_t, readv, (int fd, const iovec* parts, int count), (fd, parts, count))
LINUX(int, unlink, (const char* path), (path))
LINUX(ssize_t, write, (int fd, const void* from, std::size_t size), (fd, from, size))
LINUX(ssize_t, writev, (int fd, const iovec* parts, int count), (fd, parts, count))
#undef LINUX

}  // namespace

extern "C" {

int netbsd_kqueue() { return number(rump___sysimpl_kqueue()); }

int netbsd_kevent(int queue, const struct kevent* changes, std::size_t change_count, struct kevent* events,
                  std::size_t room, const timespec* timeout) {
    std::vector<struct kevent> asked(changes, changes + change_count);
    for (struct kevent& each : asked) {
        if (each.filter != EVFILT_READ && each.filter != EVFILT_WRITE) {
            errno = EINVAL;  // processes are Linux's
            return -1;
        }
        if (!is_theirs(static_cast<int>(each.ident))) {
            each.ident = 1u << 20;  // Linux's, or nobody's: EBADF
        } else {
            each.ident -= first;
        }
    }
    const int count =
        answer(rump___sysimpl_kevent50(theirs(queue), asked.data(), change_count, events, room, timeout));
    for (int index = 0; index < count; ++index) {
        struct kevent& each = events[index];
        each.ident += first;
        if ((each.flags & EV_ERROR) != 0) {
            each.data = our_error(static_cast<int>(each.data));
        }
    }
    return count;
}

int netbsd_socket(int family, int type, int protocol) {
    const int made = rump___sysimpl_socket30(family_of(family), socket_type(type), protocol);
    widen(family, type, made);
    return number(made);
}

int netbsd_socketpair(int family, int type, int protocol, int* both) {
    const int failed = answer(rump___sysimpl_socketpair(family, socket_type(type), protocol, both));
    if (failed == 0) {
        for (int* each : {&both[0], &both[1]}) {
            widen(family, type, *each);
            *each += first;
        }
    }
    return failed;
}

int netbsd_pipe2(int* both, int flags) {
    const int failed =
        answer(rump___sysimpl_pipe2(both, translated(flags, {{O_NONBLOCK, 4}, {O_CLOEXEC, 0x400000}})));
    if (failed == 0) {
        both[0] += first;
        both[1] += first;
    }
    return failed;
}

int netbsd_pipe(int* both) { return netbsd_pipe2(both, 0); }

int netbsd_bind(int fd, const sockaddr* name, socklen_t size) {
    make_folders(name, size);
    address_there where(name, size);
    return answer(rump___sysimpl_bind(theirs(fd), where.data(), *where.size()));
}

int netbsd_connect(int fd, const sockaddr* name, socklen_t size) {
    address_there where(name, size);
    return answer(rump___sysimpl_connect(theirs(fd), where.data(), *where.size()));
}

int netbsd_listen(int fd, int backlog) { return answer(rump___sysimpl_listen(theirs(fd), backlog)); }

int netbsd_accept4(int fd, sockaddr* name, socklen_t* size, int flags) {
    address_there peer;
    const int made =
        number(rump___sysimpl_paccept(theirs(fd), peer.room(), peer.size(), nullptr, socket_type(flags)));
    if (made >= 0) {
        peer.copy_to(name, size);
    }
    return made;
}

int netbsd_accept(int fd, sockaddr* name, socklen_t* size) { return netbsd_accept4(fd, name, size, 0); }

int netbsd_getsockname(int fd, sockaddr* name, socklen_t* size) {
    address_there own;
    const int failed = answer(rump___sysimpl_getsockname(theirs(fd), own.room(), own.size()));
    if (failed == 0) {
        own.copy_to(name, size);
    }
    return failed;
}

int netbsd_getpeername(int fd, sockaddr* name, socklen_t* size) {
    address_there peer;
    const int failed = answer(rump___sysimpl_getpeername(theirs(fd), peer.room(), peer.size()));
    if (failed == 0) {
        peer.copy_to(name, size);
    }
    return failed;
}

int netbsd_getsockopt(int fd, int level, int name, void* value, socklen_t* size) {
    if (!is_theirs(fd)) {
        errno = fd < 0 || linux_fcntl(fd, F_GETFD, 0) < 0 ? EBADF : ENOTSOCK;
        return -1;
    }
    const pair there = option(level, name);
    const int failed = answer(rump___sysimpl_getsockopt(theirs(fd), there.ours, there.theirs, value, size));
    if (failed == 0 && level == SOL_SOCKET && name == SO_ERROR) {
        *static_cast<int*>(value) = our_error(*static_cast<int*>(value));
    }
    return failed;
}

int netbsd_setsockopt(int fd, int level, int name, const void* value, socklen_t size) {
    const pair there = option(level, name);
    return answer(rump___sysimpl_setsockopt(theirs(fd), there.ours, there.theirs, value, size));
}

int netbsd_shutdown(int fd, int how) { return answer(rump___sysimpl_shutdown(theirs(fd), how)); }

ssize_t netbsd_recvfrom(int fd, void* into, std::size_t size, int flags, sockaddr* name,
                        socklen_t* name_size) {
    address_there peer;
    const ssize_t count = answer(rump___sysimpl_recvfrom(theirs(fd), into, size, message_flags(flags),
                                                         name != nullptr ? peer.room() : nullptr,
                                                         name != nullptr ? peer.size() : nullptr));
    if (count >= 0) {
        peer.copy_to(name, name_size);
    }
    return count;
}

ssize_t netbsd_recv(int fd, void* into, std::size_t size, int flags) {
    return netbsd_recvfrom(fd, into, size, flags, nullptr, nullptr);
}

ssize_t netbsd_recvmsg(int fd, msghdr* message, int flags) {
    message_there there(*message, true);
    const ssize_t count = answer(rump___sysimpl_recvmsg(theirs(fd), &there, message_flags(flags)));
    if (count >= 0) {
        if (message->msg_name != nullptr) {
            *there.peer.size() = there.name_size;
            there.peer.copy_to(static_cast<sockaddr*>(message->msg_name), &message->msg_namelen);
        }
        message->msg_flags = our_message_flags(there.flags);
    }
    return count;
}

ssize_t netbsd_sendto(int fd, const void* from, std::size_t size, int flags, const sockaddr* name,
                      socklen_t name_size) {
    address_there peer(name, name_size);
    return answer(rump___sysimpl_sendto(theirs(fd), from, size, message_flags(flags), peer.data(),
                                        name != nullptr ? *peer.size() : 0));
}

ssize_t netbsd_send(int fd, const void* from, std::size_t size, int flags) {
    return netbsd_sendto(fd, from, size, flags, nullptr, 0);
}

ssize_t netbsd_sendmsg(int fd, const msghdr* message, int flags) {
    const message_there there(*message, false);
    return answer(rump___sysimpl_sendmsg(theirs(fd), &there, message_flags(flags)));
}

ssize_t netbsd_read(int fd, void* into, std::size_t size) {
    return is_theirs(fd) ? answer(rump___sysimpl_read(theirs(fd), into, size)) : linux_read(fd, into, size);
}

ssize_t netbsd_readv(int fd, const iovec* parts, int count) {
    return is_theirs(fd) ? answer(rump___sysimpl_readv(theirs(fd), parts, count))
                         : linux_readv(fd, parts, count);
}

ssize_t netbsd_write(int fd, const void* from, std::size_t size) {
    return is_theirs(fd) ? answer(rump___sysimpl_write(theirs(fd), from, size)) : linux_write(fd, from, size);
}

ssize_t netbsd_writev(int fd, const iovec* parts, int count) {
    return is_theirs(fd) ? answer(rump___sysimpl_writev(theirs(fd), parts, count))
                         : linux_writev(fd, parts, count);
}

int netbsd_close(int fd) {
    return is_theirs(fd) ? answer(rump___sysimpl_close(theirs(fd))) : linux_close(fd);
}

int netbsd_dup(int fd) { return is_theirs(fd) ? number(rump___sysimpl_dup(theirs(fd))) : linux_dup(fd); }

int netbsd_dup2(int fd, int onto) {
    return is_theirs(fd) ? number(rump___sysimpl_dup2(theirs(fd), theirs(onto))) : linux_dup2(fd, onto);
}

int netbsd_fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    const long argument = va_arg(rest, long);
    va_end(rest);
    if (!is_theirs(fd)) {
        return linux_fcntl(fd, command, argument);
    }
    const auto ask = [&](int what, long value) {
        return rump___sysimpl_fcntl(theirs(fd), what, reinterpret_cast<void*>(value));
    };
    constexpr int nonblock = 4;
    switch (command) {
        case F_DUPFD: return number(ask(0, 0));
        case F_DUPFD_CLOEXEC: return number(ask(12, 0));
        case F_GETFL: {
            const int flags = answer(ask(3, 0));
            return flags < 0 ? flags : (flags & O_ACCMODE) | ((flags & nonblock) != 0 ? O_NONBLOCK : 0);
        }
        case F_SETFL: return answer(ask(4, (argument & O_NONBLOCK) != 0 ? nonblock : 0));
        default: return answer(ask(command, argument));  // F_GETFD, F_SETFD
    }
}

int netbsd_fcntl64(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    const long argument = va_arg(rest, long);
    va_end(rest);
    return netbsd_fcntl(fd, command, argument);
}

int netbsd_ioctl(int fd, unsigned long what, ...) {
    va_list rest;
    va_start(rest, what);
    void* const argument = va_arg(rest, void*);
    va_end(rest);
    if (!is_theirs(fd)) {
        return linux_ioctl(fd, what, argument);
    }
    return answer(rump___sysimpl_ioctl(theirs(fd), what == FIONREAD ? 0x4004667f : what, argument));
}

int netbsd_fstat(int fd, struct stat* about) {
    if (!is_theirs(fd)) {
        return linux_fstat(fd, about);
    }
    alignas(8) unsigned char there[512];
    const int failed = answer(rump___sysimpl_fstat50(theirs(fd), there));
    if (failed == 0) {
        std::uint32_t mode;
        std::memcpy(&mode, there + 8, sizeof mode);  // behind st_dev, of 8 bytes
        *about = {};
        about->st_mode = mode;
    }
    return failed;
}

/// All of one system.
int netbsd_poll(pollfd* all, nfds_t count, int timeout) {
    if (count == 0 || !is_theirs(all[0].fd)) {
        return linux_poll(all, count, timeout);
    }
    for (nfds_t index = 0; index < count; ++index) {
        all[index].fd -= first;
    }
    const int ready = answer(rump___sysimpl_poll(all, static_cast<unsigned>(count), timeout));
    for (nfds_t index = 0; index < count; ++index) {
        all[index].fd += first;
    }
    return ready;
}

int netbsd_unlink(const char* path) {
    const bool there = rump___sysimpl_unlink(path) == 0;
    return linux_unlink(path) == 0 || there ? 0 : -1;
}
}

// By these names; the assembler's, which knows nothing of the C library's declarations.
#define NAME(function) \
    __asm__(".globl " #function "\n.type " #function ", @function\n.set " #function ", netbsd_" #function);
NAME(kqueue)
NAME(kevent)
NAME(socket)
NAME(socketpair)
NAME(pipe)
NAME(pipe2)
NAME(bind)
NAME(connect)
NAME(listen)
NAME(accept)
NAME(accept4)
NAME(getsockname)
NAME(getpeername)
NAME(getsockopt)
NAME(setsockopt)
NAME(shutdown)
NAME(recv)
NAME(recvfrom)
NAME(recvmsg)
NAME(send)
NAME(sendto)
NAME(sendmsg)
NAME(read)
NAME(readv)
NAME(write)
NAME(writev)
NAME(close)
NAME(dup)
NAME(dup2)
NAME(fcntl)
NAME(fcntl64)
NAME(ioctl)
NAME(fstat)
NAME(poll)
NAME(unlink)
#undef NAME
