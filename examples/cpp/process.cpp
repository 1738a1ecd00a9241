// Talks to a child through its pipes, ends its input, and learns how it has ended; then ends one that would
// not.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<bool> talk(zloop::loop& loop) {
    const zloop::command cat{.argv = {"cat"}, .in = zloop::redirect::pipe, .out = zloop::redirect::pipe};
    auto child = zloop::process::spawn(loop, cat).value();
    (co_await zloop::write_all(child.in, zloop::bytes_of("hello\n"))).value();
    std::string answer;
    (co_await zloop::read_until(child.out, answer, "\n")).value();
    child.in.close();
    const zloop::exit_status ended = (co_await child.wait()).value();

    const zloop::command sleep{.argv = {"sleep", "1000"}, .in = zloop::redirect::null};
    auto sleeper = zloop::process::spawn(loop, sleep).value();
    const zloop::exit_status stopped = (co_await sleeper.stop(10s)).value();

    const zloop::command nothing{.argv = {"/no/such/program"}};
    const auto missing = zloop::process::spawn(loop, nothing);
    std::printf("%d, signal %d, %s\n", ended.code, stopped.signal, missing.error().message().c_str());
    co_return answer == "hello\n" && ended.success() &&
        stopped.signal == SIGTERM&& missing.error() == std::errc::no_such_file_or_directory;
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, talk(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
