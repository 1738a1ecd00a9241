// zloop/pipe.hpp: both ends of a pipe, as streams.
//
// A pipe's end is a stream (socket.hpp) without addresses and options: `shutdown` and `sendfile` into the
// reading end fail as the kernel says. To end what the reader reads, close the writer. A writer whose
// reader is gone fails with `broken_pipe`, and no signal is raised.
#pragma once

#include <zloop/socket.hpp>

namespace zloop {

/// Both ends of a pipe.
///
/// Owns:    both. Closing `writer` is the end of what is read.
/// Example: examples/cpp/pipe.cpp
struct pipe_streams {
    stream reader;  ///< what is read here
    stream writer;  ///< was written here
};

/// Makes a pipe, both ends in service of `on`, not inherited by programs that are started.
///
/// Fails:   as pipe(2) does; nothing is left open.
/// Thread:  that of the loop.
/// Example: examples/cpp/pipe.cpp
inline result<pipe_streams> make_pipe(loop& on) noexcept {
    auto made = detail::make_pipe();
    if (!made) {
        return system_error_code(errno);
    }
    auto reader = stream::adopt(on, std::move(made.read_end));
    auto writer = stream::adopt(on, std::move(made.write_end));
    if (!reader || !writer) {
        return reader ? writer.error() : reader.error();
    }
    return pipe_streams{std::move(*reader), std::move(*writer)};
}

}  // namespace zloop
