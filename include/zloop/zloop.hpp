// zloop/zloop.hpp: all of zloop but its test doubles (testing.hpp, scripted.hpp).
#pragma once

#include <zloop/attached.hpp>
#include <zloop/config.hpp>

#include <zloop/address.hpp>
#include <zloop/backend.hpp>
#include <zloop/backtrace.hpp>
#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/connect.hpp>
#include <zloop/datagram.hpp>
#include <zloop/epoll.hpp>
#include <zloop/error.hpp>
#include <zloop/fd.hpp>
#include <zloop/io_awaiter.hpp>
#include <zloop/job.hpp>
#include <zloop/kqueue.hpp>
#include <zloop/listener.hpp>
#include <zloop/loop.hpp>
#include <zloop/nursery.hpp>
#include <zloop/offload.hpp>
#include <zloop/op.hpp>
#include <zloop/parked.hpp>
#include <zloop/resolve.hpp>
#include <zloop/scope.hpp>
#include <zloop/signal.hpp>
#include <zloop/site.hpp>
#include <zloop/sleep.hpp>
#include <zloop/socket.hpp>
#include <zloop/socket_base.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>
#include <zloop/task.hpp>
#include <zloop/timer.hpp>
#include <zloop/watch.hpp>
#include <zloop/when.hpp>
