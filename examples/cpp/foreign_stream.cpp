// Reads lines from a descriptor that blocks, and stays so, as standard input does.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <unistd.h>
#include <zloop/zloop.hpp>

zloop::task<std::size_t> copy_lines(int from) {
    zloop::foreign_stream output = zloop::standard_output();
    zloop::buffered_reader input(zloop::foreign_stream{from});  // or zloop::standard_input()
    std::size_t count = 0;
    while (const auto line = co_await input.read_until("\n")) {
        (co_await zloop::write_all(output, zloop::bytes_of(*line))).value();
        ++count;
    }
    co_return count;
}

int main() {
    int both[2];
    if (::pipe(both) != 0 || ::write(both[1], "one\ntwo\n", 8) != 8 || ::close(both[1]) != 0) {
        return EXIT_FAILURE;
    }
    const zloop::fd reader(both[0]);
    const std::size_t count = zloop::run(copy_lines(reader.get()));
    const bool still_blocks = (::fcntl(reader.get(), F_GETFL) & O_NONBLOCK) == 0;
    return count == 2 && still_blocks ? EXIT_SUCCESS : EXIT_FAILURE;
}
