// tests/bsd/netbsd.hpp: makes a Linux program one for NetBSD's kernel in its own process: -include it first.
//
// The kernel is a rump kernel, a library of NetBSD's own sources; it has kqueue, TCP over a loopback of its
// own, Unix sockets and pipes. The C library stays Linux's, and so do threads, signals, processes, clocks and
// files: numbers, names of errors and layouts in the program are Linux's, and netbsd.cpp translates them
// where a call goes to the kernel. Here stands only what the library asks the preprocessor for: what NetBSD
// has not.
#pragma once

// All of the system that the library and its tests include, as Linux has it; nothing of it is read again.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <regex>
#include <semaphore>
#include <set>
#include <source_location>
#include <span>
#include <sstream>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#undef __linux__
#undef __linux
#undef linux
#undef __gnu_linux__
#define __NetBSD__ 1

#undef MSG_MORE
#undef SO_PROTOCOL
#undef SO_DOMAIN
#undef SYS_pidfd_open
#undef SYS_pidfd_send_signal
