// Copies one stream into another: a part of it, and then all of it; and what is told when the sink has gone.

#include <cstdio>
#include <cstdlib>

#include <zloop/zloop.hpp>

zloop::task<bool> work(zloop::loop& loop) {
    auto source = zloop::make_pipe(loop).value();
    auto sink = zloop::stream::pair(loop).value();
    (co_await zloop::write_all(source.writer, zloop::bytes_of("hello, world"))).value();

    const auto [error, count, unsent] = co_await zloop::copy(source.reader, sink.first, 5);
    const auto hello = (co_await sink.second.receive()).value();
    bool good = !error && count == 5 && unsent.empty() && zloop::as_text(hello) == "hello";

    source.writer.close();
    sink.second.close();
    const auto failed = co_await zloop::copy(source.reader, sink.first);
    const auto lost = zloop::as_text(failed.unsent);
    std::printf("%d bytes sent, and \"%.*s\" not\n", static_cast<int>(failed.count),
                static_cast<int>(lost.size()), lost.data());
    co_return good&& failed.error == std::errc::broken_pipe&& lost == ", world";
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, work(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
