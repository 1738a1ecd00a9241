// tests/bsd/netbsd.hpp: makes a Linux program one for NetBSD's kernel in its own process: -include it first.
//
// The kernel is a rump kernel, a library of NetBSD's own sources; it has kqueue, TCP over a loopback of its
// own, Unix sockets and pipes. The C library stays Linux's, and so do threads, signals, processes, clocks and
// files: numbers, names of errors and layouts in the program are Linux's, and netbsd.cpp translates them
// where a call goes to the kernel. Here stands only what the library asks the preprocessor for: what NetBSD
// has not. No #pragma once: g++ forgets the first of these when they come out of a precompiled header.

#include "system.hpp"

#undef __linux__
#undef __linux
#undef linux
#undef __gnu_linux__
#undef __NetBSD__
#define __NetBSD__ 1

#undef MSG_MORE
#undef RWF_NOWAIT
#undef SO_PROTOCOL
#undef SO_DOMAIN
#undef SYS_pidfd_open
#undef SYS_pidfd_send_signal
