// zloop/zloop.hpp: all of zloop but its test doubles (testing.hpp) and TLS (tls.hpp, which needs OpenSSL).
//
// What lies beside it is what a program includes. The folders are what that is made of: core/ a loop and a
// task, kernel/ the seam to the system, wait/ awaitables, tls/ and testing/ what their doors bring.
//
// Example: examples/cpp/sleep.cpp
#pragma once

#include <zloop/address.hpp>
#include <zloop/async_generator.hpp>
#include <zloop/backtrace.hpp>
#include <zloop/buffered_reader.hpp>
#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/config.hpp>
#include <zloop/connect.hpp>
#include <zloop/copy.hpp>
#include <zloop/datagram.hpp>
#include <zloop/error.hpp>
#include <zloop/foreign_stream.hpp>
#include <zloop/generator.hpp>
#include <zloop/job.hpp>
#include <zloop/listener.hpp>
#include <zloop/loop.hpp>
#include <zloop/nursery.hpp>
#include <zloop/offload.hpp>
#include <zloop/on.hpp>
#include <zloop/pipe.hpp>
#include <zloop/process.hpp>
#include <zloop/resolve.hpp>
#include <zloop/runtime.hpp>
#include <zloop/send_file.hpp>
#include <zloop/signal.hpp>
#include <zloop/sleep.hpp>
#include <zloop/socket.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>
#include <zloop/task.hpp>
#include <zloop/thread_channel.hpp>
#include <zloop/watch.hpp>
#include <zloop/when.hpp>
