// Runs commands at once, each for the shell, and prints what came of them in order:
//     process_runner [-t seconds] command...
// Runs some of its own:  process_runner --self-test
//
// Who takes too long is ended, with all that it has started.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

using outcome = zloop::result<zloop::process_output>;

zloop::task<outcome> run_in_shell(std::string line, zloop::nanoseconds limit) {
    zloop::command shell{.argv = {"/bin/sh", "-c", std::move(line)}, .new_group = true};
    shell.err = zloop::redirect::output;
    zloop::run_options options;
    options.grace = 100ms;  // between SIGTERM and SIGKILL
    auto running = zloop::run_process(std::move(shell), options);
    co_return co_await zloop::with_timeout(limit, std::move(running));
}

std::string words_for(const outcome& ended) {
    if (!ended) {
        return ended.error() == std::errc::timed_out ? "it took too long" : ended.error().message();
    }
    const zloop::exit_status status = ended->status;
    return status.signal != 0 ? "signal " + std::to_string(status.signal)
                              : "exit code " + std::to_string(status.code);
}

zloop::task<std::vector<outcome>> run_all(std::vector<std::string> lines, zloop::nanoseconds limit) {
    std::vector<zloop::task<outcome>> running;
    for (const std::string& line : lines) {
        running.push_back(run_in_shell(line, limit));
    }
    std::vector<outcome> outcomes = co_await zloop::when_all(std::move(running));
    for (std::size_t index = 0; index < lines.size(); ++index) {
        const outcome& ended = outcomes[index];
        std::printf("$ %s\n%s-- %s\n", lines[index].c_str(), ended ? ended->out.c_str() : "",
                    words_for(ended).c_str());
    }
    co_return outcomes;
}

int main(int count, char** arguments) {
    std::vector<std::string> lines(arguments + 1, arguments + count);
    if (lines.size() == 1 && lines[0] == "--self-test") {
        const auto ended = zloop::run(run_all({"echo hello", "exit 3", "sleep 1000 & wait"}, 1s));
        const bool good = ended[0]->out == "hello\n" && ended[0]->status.success() &&
                          ended[1]->status.code == 3 && ended[2].error() == std::errc::timed_out;
        return good ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    zloop::nanoseconds limit = 1h;
    if (lines.size() > 1 && lines[0] == "-t") {
        limit = std::chrono::milliseconds(static_cast<int>(1000 * std::atof(lines[1].c_str())));
        lines.erase(lines.begin(), lines.begin() + 2);
    }
    int failed = 0;
    for (const outcome& each : zloop::run(run_all(lines, limit))) {
        failed += each && each->status.success() ? 0 : 1;
    }
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
