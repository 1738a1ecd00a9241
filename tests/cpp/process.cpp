#include <zloop/process.hpp>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zloop/signal.hpp>
#include <zloop/sleep.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

command shell(std::string script) { return command{.argv = {"/bin/sh", "-c", std::move(script)}}; }

/// Runs a command whose output is all that matters.
process_output output_of(loop& on, command what, run_options options = {}) {
    return run(on, run_process(std::move(what), options)).value();
}

std::error_code spawn_error(loop& on, const command& what) { return process::spawn(on, what).error(); }

/// Whether this process has a child: one that runs, or a zombie.
bool has_children() { return ::waitpid(-1, nullptr, WNOHANG) >= 0 || errno != ECHILD; }

bool exists(pid_t process) { return ::kill(process, 0) == 0; }

/// What is read until a line ends.
task<std::string> line_of(stream& from) {
    std::string text;
    const auto size = co_await read_until(from, text, "\n");
    co_return size ? text.substr(0, *size) : size.error().message();
}

/// Everything until the end of `from`.
task<std::string> rest_of(stream& from) {
    std::string text;
    static_cast<void>((co_await detail::collect(from, text, 1 << 30)).error());
    co_return text;
}

/// A folder that goes away with all that is in it.
class folder {
public:
    folder() { REQUIRE(::mkdtemp(name_) != nullptr); }
    folder(const folder&) = delete;
    ~folder() {
        for (const std::string& each : files_) {
            ::unlink(each.c_str());
        }
        ::rmdir(name_);
    }

    std::string path() const { return name_; }
    std::string put(const std::string& name, const std::string& text, mode_t mode) {
        files_.push_back(path() + '/' + name);
        std::ofstream(files_.back()) << text;
        REQUIRE(::chmod(files_.back().c_str(), mode) == 0);
        return files_.back();
    }

private:
    char name_[32] = "/tmp/zloop-tests-XXXXXX";
    std::vector<std::string> files_;
};

/// Without pidfds, as where a filter of system calls forbids them, or with them.
class kernel_kind {
public:
    kernel_kind() {
        if (GENERATE(false, true)) {
            UNSCOPED_INFO("pidfd_open is forbidden");
            forbidden_.emplace(probes::pidfd_open, EPERM, 1'000'000);
        }
    }
    bool has_pidfds() const { return !forbidden_; }

private:
    std::optional<probes::failing> forbidden_;
};

/// What a fork says of itself by its exit code; -1 when a signal has ended it.
template <class F>
int status_of_fork(F&& body) {
    const pid_t made = ::fork();
    if (made == 0) {
        int code = 99;
        try {
            code = body();
        } catch (...) {
        }
        ::_exit(code);
    }
    int status = 0;
    REQUIRE(::waitpid(made, &status, 0) == made);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

// What a program is given.

TEST_CASE("a program is given its arguments as they are", "[process]") {
    loop on(each_backend());

    const auto [status, out, err] = output_of(on, {.argv = {"printf", "<%s>", "a b", "", "\"$HOME\"", "\n"}});

    CHECK(out == "<a b><><\"$HOME\"><\n>");
    CHECK(err.empty());
    CHECK(status.success());
}

TEST_CASE("the program need not be its first argument", "[process]") {
    loop on(each_backend());

    CHECK(output_of(on, {.argv = {"a name", "-c", "echo $0"}, .program = "/bin/sh"}).out == "a name\n");
    CHECK(output_of(on, {.argv = {"a name", "-c", "echo $0"}, .program = "sh"}).out == "a name\n");
}

TEST_CASE("a program has our environment, changed or another", "[process]") {
    loop on(each_backend());
    ::setenv("ZLOOP_TEST", "ours", 1);
    command what = shell("echo $ZLOOP_TEST $MORE");

    CHECK(output_of(on, what).out == "ours\n");
    what.add_env = {"MORE=more"};
    CHECK(output_of(on, what).out == "ours more\n");
    what.add_env = {"MORE=more", "ZLOOP_TEST=theirs", "MORE=most"};
    CHECK(output_of(on, what).out == "theirs most\n");
    ::unsetenv("ZLOOP_TEST");

    command list{.argv = {"/usr/bin/env"}};
    list.env = {"A=1", "B="};
    CHECK(output_of(on, list).out == "A=1\nB=\n");
    list.add_env = {"A=2=2"};
    CHECK(output_of(on, list).out == "B=\nA=2=2\n");
    list.env->clear();
    list.add_env.clear();
    CHECK(output_of(on, list).out.empty());
}

TEST_CASE("a program starts where it is told to, and so does the path to it", "[process]") {
    loop on(each_backend());
    folder place;
    place.put("here", "#!/bin/sh\npwd\n", 0755);

    CHECK(output_of(on, {.argv = {"pwd"}, .cwd = place.path()}).out == place.path() + '\n');
    CHECK(output_of(on, {.argv = {"./here"}, .cwd = place.path()}).out == place.path() + '\n');
    CHECK(spawn_error(on, {.argv = {"./here"}}) == std::errc::no_such_file_or_directory);
    CHECK(spawn_error(on, {.argv = {"pwd"}, .cwd = "/nowhere"}) == std::errc::no_such_file_or_directory);
}

TEST_CASE("a program without a slash is looked for in PATH, the child's own", "[process]") {
    loop on(each_backend());
    folder first, second;
    const std::string path = "PATH=/nowhere:/dev/null:" + first.path() + ':' + second.path();
    second.put("speak", "#!/bin/sh\necho second\n", 0755);
    command what{.argv = {"speak"}, .add_env = {path}};

    CHECK(spawn_error(on, {.argv = {"speak"}}) == std::errc::no_such_file_or_directory);
    CHECK(output_of(on, what).out == "second\n");

    first.put("speak", "no program", 0644);  // goes on to one that may be executed
    CHECK(output_of(on, what).out == "second\n");
    what.add_env = {"PATH=" + first.path()};
    CHECK(spawn_error(on, what) == std::errc::permission_denied);

    what.add_env = {"PATH=/nowhere::"};  // an empty place is where it starts
    what.cwd = second.path();
    CHECK(output_of(on, what).out == "second\n");

    what = command{.argv = {"sh", "-c", "echo found"}};
    what.env.emplace();  // without PATH
    CHECK(output_of(on, what).out == "found\n");
}

TEST_CASE("what cannot be executed is an error of spawn, and leaves no child", "[process]") {
    loop on(each_backend());
    folder place;
    const std::string text = place.put("text", "echo no\n", 0755);
    const std::string plain = place.put("plain", "#!/bin/sh\n", 0644);
    const bool forks = GENERATE(false, true);
    const probes::failing refused(probes::clone, EPERM, forks ? 1'000 : 0);
    const std::size_t descriptors = open_descriptors();
    INFO((forks ? "by fork" : "by clone"));

    CHECK(spawn_error(on, {.argv = {"/nowhere/program"}}) == std::errc::no_such_file_or_directory);
    CHECK(spawn_error(on, {.argv = {text + "/program"}}) == std::errc::not_a_directory);
    CHECK(spawn_error(on, {.argv = {plain}}) == std::errc::permission_denied);
    CHECK(spawn_error(on, {.argv = {place.path()}}) == std::errc::permission_denied);
    CHECK(spawn_error(on, {.argv = {text}}) == std::errc::executable_format_error);
    CHECK(spawn_error(on, {.argv = {""}}) == std::errc::no_such_file_or_directory);
    CHECK(spawn_error(on, {.argv = {"true", std::string(4 << 20, 'x')}}) ==
          std::errc::argument_list_too_long);
    CHECK(spawn_error(on, {.argv = {"true"}, .join_group = ::getpid() + (1 << 21)}).value() != 0);
    CHECK(spawn_error(on, {.argv = {"true"}, .out = redirect::to(4711)}) == std::errc::bad_file_descriptor);

    CHECK_FALSE(has_children());
    CHECK(open_descriptors() == descriptors);
}

TEST_CASE("what no system call can say is refused", "[process]") {
    loop on(each_backend());
    const std::string zero("a\0b", 3);

    for (const command& each : {
             command{},
             command{.argv = {"true", zero}},
             command{.argv = {"true"}, .program = zero},
             command{.argv = {"true"}, .cwd = zero},
             command{.argv = {"true"}, .env = {{"NAME"}}},
             command{.argv = {"true"}, .add_env = {"=value"}},
             command{.argv = {"true"}, .add_env = {"A=" + zero}},
             command{.argv = {"true"}, .in = redirect::output},
             command{.argv = {"true"}, .out = redirect::output},
             command{.argv = {"true"}, .pass = {{-1, 5}}},
             command{.argv = {"true"}, .pass = {{0, 2}}},
         }) {
        CHECK(spawn_error(on, each) == std::errc::invalid_argument);
    }
    CHECK_FALSE(has_children());
}

TEST_CASE("whatever fails on the way to a program is an error of spawn", "[process]") {
    loop on(each_backend());
    const std::size_t descriptors = open_descriptors();
    const command what{.argv = {"true"},
                       .cwd = "/",
                       .in = redirect::null,
                       .out = redirect::pipe,
                       .err = redirect::output,
                       .new_group = true};
    const auto fails = [&](auto& call, int error) {
        const probes::failing once(call, error);
        CHECK(spawn_error(on, what).value() == error);
        CHECK_FALSE(has_children());
        CHECK(open_descriptors() == descriptors);
    };

    fails(probes::open, EMFILE);
    fails(probes::pipe2, EMFILE);
    fails(probes::dup2, EMFILE);
    fails(probes::setpgid, EPERM);
    fails(probes::chdir, EACCES);
    fails(probes::execve, ENOMEM);
    {
        const probes::failing refused(probes::clone, EPERM, 1'000);
        fails(probes::fork, EAGAIN);
    }
    {
        const probes::failing interrupted(probes::dup2, EINTR);
        CHECK(output_of(on, what).status.success());
    }
}

// Descriptors.

TEST_CASE("standard descriptors lead to where they are told to", "[process]") {
    loop on(each_backend());
    pipe_ends one, two;
    command what = shell("read line; echo out $line; echo err >&2");
    SECTION("to a descriptor each") {
        what.in = redirect::null;
        what.out = redirect::to(one.in);
        what.err = redirect::to(two.in.get());
        auto child = process::spawn(on, what).value();
        one.in.reset();
        two.in.reset();
        stream out = stream::adopt(on, std::move(one.out)).value();
        stream err = stream::adopt(on, std::move(two.out)).value();
        CHECK(run(on, rest_of(out)) == "out\n");
        CHECK(run(on, rest_of(err)) == "err\n");
        CHECK_FALSE((child.in || child.out || child.err));
    }
    SECTION("the error to the output, which is a pipe") {
        what.err = redirect::output;
        const auto outcome = output_of(on, what, {.input = "line\n"});
        CHECK(outcome.out == "out line\nerr\n");
        CHECK(outcome.err.empty());
    }
    SECTION("the error to the output, which is a descriptor") {
        what.in = redirect::null;
        what.out = redirect::to(one.in);
        what.err = redirect::output;
        auto child = process::spawn(on, what).value();
        one.in.reset();
        stream out = stream::adopt(on, std::move(one.out)).value();
        CHECK(run(on, rest_of(out)) == "out\nerr\n");
    }
    SECTION("to nowhere") {
        what.out = what.err = redirect::null;
        const auto outcome = output_of(on, what);
        CHECK(outcome.out.empty());
        CHECK(outcome.err.empty());
    }
}

TEST_CASE("descriptors are passed on with the numbers that they are given, swapped or in place",
          "[process]") {
    loop on(each_backend());
    pipe_ends one, two, other;
    const int first = one.in.get(), second = two.in.get();
    command what = shell("");
    SECTION("swapped") {
        what.argv[2] = "echo 1 >&" + std::to_string(first) + "; echo 2 >&" + std::to_string(second);
        what.pass = {{first, second}, {second, first}};
    }
    SECTION("each to where the next one was") {
        what.argv[2] = "echo 1 >&3; echo 2 >&" + std::to_string(second);
        what.pass = {{second, 3}, {first, second}};
    }
    SECTION("in place, though they are close-on-exec") {
        what.argv[2] = "echo 2 >&" + std::to_string(first) + "; echo 1 >&" + std::to_string(second);
        what.pass = {{first, first}, {second, second}};
    }
    what.argv[0] = "/bin/bash";  // knows numbers of more than a digit
    what.out = redirect::null;

    auto child = process::spawn(on, what).value();
    CHECK(run(on, child.wait()).value().success());

    one.in.reset();
    two.in.reset();
    stream from_one = stream::adopt(on, std::move(one.out)).value();
    stream from_two = stream::adopt(on, std::move(two.out)).value();
    CHECK(run(on, rest_of(from_one)) == "2\n");
    CHECK(run(on, rest_of(from_two)) == "1\n");
}

TEST_CASE("a program inherits nothing of ours but its standard descriptors", "[process]") {
    loop on(each_backend());
    pipe_ends kept;
    auto other = process::spawn(on, {.argv = {"sleep", "100"}, .in = redirect::pipe}).value();

    const auto outcome = output_of(on, {.argv = {"ls", "/proc/self/fd"}, .err = redirect::inherit});

    // What this test's own starter has left open is passed on, as ever.
    std::string expected;
    for (int number = 0; number < 256; ++number) {
        const int flags = ::fcntl(number, F_GETFD);
        if (number < 3 || (flags >= 0 && (flags & FD_CLOEXEC) == 0)) {
            expected += std::to_string(number) + '\n';
        }
    }
    const std::size_t lines = static_cast<std::size_t>(std::count(expected.begin(), expected.end(), '\n'));
    CHECK(static_cast<std::size_t>(std::count(outcome.out.begin(), outcome.out.end(), '\n')) ==
          lines + 1);  // the folder that ls reads
}

TEST_CASE("the child's ends of pipes block, as programs expect", "[process]") {
    loop on(each_backend());

    const auto outcome = output_of(on,
                                   {.argv = {"grep", "-h", "flags", "/proc/self/fdinfo/0",
                                             "/proc/self/fdinfo/1", "/proc/self/fdinfo/2"}},
                                   {.input = "x"});

    std::istringstream lines(outcome.out);
    std::string word;
    int count = 0;
    while (lines >> word >> word) {
        CHECK((std::stoul(word, nullptr, 8) & O_NONBLOCK) == 0);
        ++count;
    }
    CHECK(count == 3);
}

TEST_CASE("it does not matter which of 0, 1 and 2 we have", "[process]") {
    const backend_choice choice = GENERATE(from_range(backends()));
    const int closed = GENERATE(0, 1, 2, 3, 4, 5, 6, 7);  // a set of bits

    CHECK(status_of_fork([&] {
              for (int number = 0; number < 3; ++number) {
                  if ((closed >> number & 1) != 0) {
                      ::close(number);
                  }
              }
              loop on(choice.make());
              const auto outcome = output_of(on, shell("cat; echo err >&2"), {.input = "in"});
              return outcome.out == "in" && outcome.err == "err\n" && outcome.status.success() ? 0 : 1;
          }) == 0);
}

TEST_CASE("our own 0, 1 and 2 are moved to each other's places", "[process]") {
    const backend_choice choice = GENERATE(from_range(backends()));

    CHECK(status_of_fork([&] {
              pipe_ends input, output, errors;
              loop on(choice.make());
              ::dup3(output.in.get(), 0, O_CLOEXEC);
              ::dup3(errors.in.get(), 1, O_CLOEXEC);
              ::dup3(input.out.get(), 2, O_CLOEXEC);
              ::fcntl(2, F_SETFL, 0);
              command what = shell("read line; echo $line; echo err >&2");
              what.in = redirect::to(2);
              what.out = redirect::to(0);
              what.err = redirect::to(1);
              auto child = process::spawn(on, what).value();
              if (::write(input.in.get(), "line\n", 5) != 5 || !run(on, child.wait()).value().success()) {
                  return 1;
              }
              char text[16] = {};
              if (::read(output.out.get(), text, sizeof text) != 5 || std::string(text) != "line\n") {
                  return 2;
              }
              return ::read(errors.out.get(), text, sizeof text) == 4 ? 0 : 3;
          }) == 0);
}

TEST_CASE("what is inherited is left as it is: closed where ours is", "[process]") {
    const backend_choice choice = GENERATE(from_range(backends()));

    CHECK(status_of_fork([&] {
              ::close(0);
              loop on(choice.make());
              command what = shell("if [ -e /proc/self/fd/0 ]; then exit 3; else exit 4; fi");
              what.in = redirect::inherit;
              return output_of(on, what).status.code;
          }) == 4);
}

// Signals and groups.

TEST_CASE("a program begins with no signal blocked, and with what nohup would leave ignored", "[process]") {
    loop on(each_backend());
    const handling pipe_ignored(SIGPIPE, SIG_IGN);
    const handling hangup_ignored(SIGHUP, SIG_IGN);
    signal_set ours(on, {SIGUSR1});
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigaddset(&blocked, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &blocked, &before);

    std::istringstream said(output_of(on, {.argv = {"grep", "^Sig[BI]", "/proc/self/status"}}).out);

    sigset_t now;
    ::pthread_sigmask(SIG_SETMASK, &before, &now);
    CHECK(sigismember(&now, SIGTERM) == 1);  // ours is as it was
    CHECK(sigismember(&now, SIGUSR1) == 0);
    std::string name, mask;
    const auto has = [&](int number) { return (std::stoull(mask, nullptr, 16) >> (number - 1) & 1) != 0; };
    REQUIRE(said >> name >> mask);
    CHECK(name == "SigBlk:");
    CHECK(std::stoull(mask, nullptr, 16) == 0);
    REQUIRE(said >> name >> mask);
    CHECK(name == "SigIgn:");
    CHECK_FALSE(has(SIGPIPE));
    CHECK(has(SIGHUP));
    CHECK_FALSE(has(SIGUSR1));

    ::raise(SIGUSR1);
    CHECK(run(on, ours.wait()).value() == SIGUSR1);  // and our handler still is
}

TEST_CASE("a process group of its own is ended as a whole", "[process]") {
    loop on(each_backend());
    const bool session = GENERATE(false, true);
    command what = shell("sleep 100 & echo started; wait");
    what.out = redirect::pipe;
    (session ? what.new_session : what.new_group) = true;
    auto child = process::spawn(on, what).value();
    CHECK(::getpgid(child.pid()) == child.pid());
    CHECK((::getsid(child.pid()) == child.pid()) == session);
    CHECK(run(on, line_of(child.out)) == "started\n");

    SECTION("by a signal") {
        CHECK(child.kill_group(SIGTERM));
        CHECK(run(on, child.wait()).value().signal == SIGTERM);
        CHECK(child.kill_group(SIGTERM).error() == std::errc::no_such_process);
    }
    SECTION("by stop") { CHECK(run(on, child.stop()).value().signal == SIGKILL); }
    SECTION("by stop, what survives its leader too") {
        CHECK(child.kill(SIGKILL));
        CHECK(run(on, child.stop(1h)).value().signal == SIGKILL);
    }
    SECTION("by its destruction") {
        stream out = std::move(child.out);
        child = process();
        CHECK(run(on, rest_of(out)).empty());
        return;
    }
    CHECK(run(on, rest_of(child.out)).empty());  // nobody holds the pipe any more
}

TEST_CASE("a child that has left its group is ended with those that stayed in it", "[process]") {
    loop on(each_backend());
    const std::string leave =
        "if (fork) { setpgrp(0, $ARGV[0]); print qq(gone\\n); sleep 100 } else { sleep 100 }";
    auto child = process::spawn(on, {.argv = {"perl", "-e", "$| = 1; " + leave, std::to_string(::getpgrp())},
                                     .out = redirect::pipe,
                                     .new_group = true})
                     .value();
    std::string line;
    REQUIRE(run(on, read_until(child.out, line, "\n")));

    CHECK(run(on, child.stop()).value().signal == SIGKILL);
    CHECK(run(on, rest_of(child.out)).empty());  // nobody holds the pipe any more
}

TEST_CASE("a child may join a process group, and has no group of its own then", "[process]") {
    loop on(each_backend());
    auto leader = process::spawn(on, {.argv = {"sleep", "100"}, .new_group = true}).value();
    auto other = process::spawn(on, {.argv = {"sleep", "100"}, .join_group = leader.pid()}).value();
    auto third = process::spawn(on, {.argv = {"sleep", "100"}}).value();

    CHECK(::getpgid(other.pid()) == leader.pid());
    CHECK(::getpgid(third.pid()) == ::getpgid(0));
    CHECK(other.kill_group(SIGKILL).error() == std::errc::operation_not_permitted);
    CHECK(third.kill_group(SIGKILL).error() == std::errc::operation_not_permitted);
    CHECK(leader.kill_group(SIGTERM));
    CHECK(run(on, other.wait()).value().signal == SIGTERM);
}

// Its end.

TEST_CASE("a process tells how it has ended", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    CHECK(output_of(on, shell("exit 0")).status.success());

    const exit_status seven = output_of(on, shell("exit 7")).status;
    CHECK(seven == exit_status{7, 0, false});
    CHECK_FALSE(seven.success());
    const exit_status killed = output_of(on, shell("kill -9 $$")).status;
    CHECK(killed == exit_status{-1, SIGKILL, false});
    CHECK_FALSE(killed.success());
    CHECK(output_of(on, shell("kill -ABRT $$")).status.signal == SIGABRT);
    CHECK_FALSE(exit_status{}.success());
}

TEST_CASE("a process that runs is waited for, killed, and then is no more", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    auto child = process::spawn(on, {.argv = {"sleep", "100"}}).value();
    CHECK((child.native_handle() >= 0) == kind.has_pidfds());
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 3);
    CHECK(!waiting.done());

    CHECK(child.kill(0));
    CHECK(child.kill(SIGTERM));

    CHECK(finish(on, waiting).value() == exit_status{-1, SIGTERM, false});
    CHECK(child.kill(SIGTERM).error() == std::errc::no_such_process);
    CHECK_FALSE(exists(child.pid()));
    CHECK(run(on, child.wait()).value().signal == SIGTERM);  // remembered
    CHECK(run(on, child.stop(1h)).value().signal == SIGTERM);
    CHECK_FALSE(has_children());
}

TEST_CASE("a process that has ended long ago is waited for", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    auto child = process::spawn(on, shell("exit 3")).value();
    siginfo_t about;
    REQUIRE(::waitid(P_PID, static_cast<id_t>(child.pid()), &about, WEXITED | WNOWAIT) == 0);
    CHECK(child.kill(SIGTERM));  // nobody, yet no error: its status is still there

    job<result<exit_status>> waiting(on, child.wait());
    waiting.cancel();  // what is there already wins

    CHECK(finish(on, waiting).value().code == 3);
}

TEST_CASE("a cancelled wait loses nothing", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    auto child = process::spawn(on, shell("read line; exit 5")).value();
    auto talking = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
    for (int round = 0; round < 3; ++round) {
        job<result<exit_status>> waiting(on, talking.wait());
        turn(on, 2);
        waiting.cancel();
        CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    }
    job<result<exit_status>> never(on, talking.wait());
    never.cancel();
    CHECK(finish(on, never).error() == std::errc::operation_canceled);
    auto wait = talking.wait();
    CHECK(run(on, with_timeout(1ms, std::move(wait))).error() == std::errc::timed_out);

    talking.in.close();
    CHECK(run(on, talking.wait()).value().success());
}

TEST_CASE("a second wait at the same time is refused, and the first goes on", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 2);

    CHECK(run(on, child.wait()).error() == std::errc::device_or_resource_busy);

    child.in.close();
    CHECK(finish(on, waiting).value().success());
}

TEST_CASE("the loop's end ends a wait for a process", "[process]") {
    process outlives;  // has no pipes
    std::error_code outcome;
    {
        auto waits = [&]() -> task<> { outcome = (co_await outlives.wait()).error(); };
        loop on(each_backend());  // which ends it
        outlives = process::spawn(on, {.argv = {"sleep", "100"}}).value();
        spawn(on, waits());
        turn(on, 2);
    }
    CHECK(outcome == std::errc::operation_canceled);
}

TEST_CASE("stop asks first, and then kills", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    command what = shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done");
    what.out = redirect::pipe;
    SECTION("it ends by itself") {
        auto child = process::spawn(on, what).value();
        CHECK(run(on, line_of(child.out)) == "ready\n");
        CHECK(run(on, child.stop(1h)).value().code == 4);
    }
    SECTION("it does not listen") {
        what.argv[2] = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
        auto child = process::spawn(on, what).value();
        CHECK(run(on, line_of(child.out)) == "ready\n");
        CHECK(run(on, child.stop(1ms)).value().signal == SIGKILL);
    }
    SECTION("cancelled, it is asked no more, and runs on") {
        what.argv[2] = "trap '' TERM; echo ready; cat; exit 6";
        what.in = redirect::pipe;
        auto child = process::spawn(on, what).value();
        CHECK(run(on, line_of(child.out)) == "ready\n");
        job<result<exit_status>> stopping(on, child.stop(1h));
        turn(on, 2);
        stopping.cancel();
        CHECK(finish(on, stopping).error() == std::errc::operation_canceled);
        child.in.close();
        CHECK(run(on, child.wait()).value().code == 6);
    }
}

TEST_CASE("a process that is destroyed while it runs is killed, and leaves no zombie", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    const std::size_t descriptors = open_descriptors();
    pid_t number = 0;
    SECTION("nobody has waited") {
        auto child = process::spawn(on, {.argv = {"sleep", "100"}, .in = redirect::pipe}).value();
        number = child.pid();
    }
    SECTION("somebody has waited") {
        auto child = process::spawn(on, {.argv = {"sleep", "100"}, .in = redirect::pipe}).value();
        number = child.pid();
        job<result<exit_status>> waiting(on, child.wait());
        turn(on, 2);
        waiting.cancel();
        CHECK_FALSE(finish(on, waiting));
    }
    SECTION("another takes its place") {
        auto child = process::spawn(on, {.argv = {"sleep", "100"}}).value();
        number = child.pid();
        child = process::spawn(on, {.argv = {"true"}}).value();
        CHECK(run(on, child.wait()).value().success());
    }
    SECTION("it has ended") {
        auto child = process::spawn(on, {.argv = {"true"}}).value();
        number = child.pid();
        siginfo_t about;
        REQUIRE(::waitid(P_PID, static_cast<id_t>(number), &about, WEXITED | WNOWAIT) == 0);
    }
    SECTION("it is stopped") {
        auto child = process::spawn(on, {.argv = {"sleep", "100"}}).value();
        number = child.pid();
        CHECK(child.kill(SIGSTOP));
    }
    CHECK_FALSE(exists(number));
    CHECK_FALSE(has_children());
    CHECK(open_descriptors() == descriptors);  // a thread's too
}

TEST_CASE("a child that is another user's by now runs on, and leaves no zombie", "[process]") {
    loop on(each_backend());
    command what{.argv = {"cat"}, .in = redirect::pipe};
    stream its_input;
    pid_t number = 0;
    {
        const probes::failing forbidden(probes::kill, EPERM, 1'000);
        const probes::failing forbidden_too(probes::pidfd_send_signal, EPERM, 1'000);
        auto child = process::spawn(on, what).value();
        its_input = std::move(child.in);
        number = child.pid();
        CHECK(child.kill(SIGTERM).error() == std::errc::operation_not_permitted);
    }
    CHECK(exists(number));

    its_input.close();

    CHECK(turn_until(on, [&] { return !exists(number); }));
    CHECK_FALSE(has_children());
}

TEST_CASE("a child that is given away runs on", "[process]") {
    loop on(each_backend());
    pid_t number = 0;
    stream its_input;
    {
        auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
        number = child.release();
        its_input = std::move(child.in);
        CHECK_FALSE(child);
        CHECK(child.kill(SIGTERM).error() == std::errc::no_such_process);
        CHECK(run(on, child.wait()).error() == std::errc::no_child_process);
    }
    CHECK(exists(number));

    its_input.close();

    int status = -1;
    CHECK(::waitpid(number, &status, 0) == number);
    CHECK(status == 0);
}

TEST_CASE("a status that somebody else has taken is an error, and signals go nowhere", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 2);

    CHECK(child.kill(SIGTERM));
    REQUIRE(::waitpid(child.pid(), nullptr, 0) == child.pid());

    CHECK(finish(on, waiting).error() == std::errc::no_child_process);
    CHECK(child.kill(SIGTERM).error() == std::errc::no_such_process);
    CHECK(run(on, child.wait()).error() == std::errc::no_child_process);
}

TEST_CASE("where SIGCHLD is ignored a wait still ends", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    const handling ignored(SIGCHLD, SIG_IGN);
    auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 2);

    child.in.close();

    CHECK(finish(on, waiting).error() == std::errc::no_child_process);
    auto killed = process::spawn(on, {.argv = {"sleep", "100"}}).value();
    const pid_t number = killed.pid();
    killed = process();
    CHECK_FALSE(exists(number));
    CHECK(spawn_error(on, {.argv = {"/nowhere"}}) == std::errc::no_such_file_or_directory);
}

TEST_CASE("without pidfds and without a thread a wait fails, and the next may not", "[process]") {
    loop on(each_backend());
    const probes::failing forbidden(probes::pidfd_open, ENOSYS);
    auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe}).value();
    {
        const probes::failing none(probes::pthread_create, EAGAIN);
        CHECK(run(on, child.wait()).error() == std::errc::resource_unavailable_try_again);
    }
    {
        const probes::failing none(probes::pipe2, EMFILE);
        CHECK(run(on, child.wait()).error() == std::errc::too_many_files_open);
    }
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 2);
    child.in.close();

    CHECK(finish(on, waiting).value().success());
}

TEST_CASE("kill falls back to what a filter of system calls lets through", "[process]") {
    loop on(each_backend());
    auto child = process::spawn(on, {.argv = {"sleep", "100"}}).value();
    const probes::failing forbidden(probes::pidfd_send_signal, GENERATE(ENOSYS, EPERM));

    CHECK(child.kill(SIGINT));

    CHECK(run(on, child.wait()).value().signal == SIGINT);
}

TEST_CASE("a kernel that has pidfds and cannot wait for them is asked by number", "[process]") {
    loop on(each_backend());
    auto child = process::spawn(on, shell("exit 2")).value();
    const probes::failing unknown(probes::waitid, EINVAL);

    CHECK(run(on, child.wait()).value().code == 2);
}

TEST_CASE("a fork leaves its parent's children alone", "[process]") {
    loop on(each_backend());
    auto child = process::spawn(on, {.argv = {"sleep", "100"}, .new_group = true}).value();

    CHECK(status_of_fork([&] {
              const bool refused = child.kill(SIGKILL).error() == std::errc::operation_not_permitted &&
                                   child.kill_group(SIGKILL).error() == std::errc::operation_not_permitted;
              child = process();
              return refused ? 0 : 1;
          }) == 0);

    CHECK(child.kill(0));
    job<result<exit_status>> waiting(on, child.wait());
    turn(on, 3);
    CHECK(!waiting.done());
    CHECK(child.kill(SIGKILL));
    CHECK(finish(on, waiting).value().signal == SIGKILL);
}

// Pipes.

TEST_CASE("a process is talked to, its input ended, and its output read to the end", "[process]") {
    loop on(each_backend());
    auto child = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe, .out = redirect::pipe}).value();
    auto talks = [&]() -> task<std::string> {
        (co_await write_all(child.in, bytes_of("one\n"))).value();
        std::string seen = co_await line_of(child.out);
        (co_await write_all(child.in, bytes_of("two\n"))).value();
        seen += co_await line_of(child.out);
        (co_await write_all(child.in, bytes_of("three"))).value();
        child.in.close();
        seen += co_await rest_of(child.out);
        co_return seen;
    };

    CHECK(run(on, talks()) == "one\ntwo\nthree");
    CHECK(run(on, child.wait()).value().success());
}

TEST_CASE("a process moves with its pipes, and pipes move without it", "[process]") {
    loop on(each_backend());
    auto first = process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe, .out = redirect::pipe}).value();
    process second = std::move(first);
    CHECK_FALSE(first);
    stream its_input = std::move(second.in);
    CHECK(run(on, send_some(its_input, "moved\n")));
    CHECK(run(on, line_of(second.out)) == "moved\n");

    its_input.close();

    CHECK(run(on, second.wait()).value().success());
}

TEST_CASE("writing to a child that is gone is an error, and no signal", "[process]") {
    loop on(each_backend());
    auto child = process::spawn(on, {.argv = {"true"}, .in = redirect::pipe}).value();
    CHECK(run(on, child.wait()).value().success());

    CHECK(run(on, send_some(child.in, "anybody?")).error() == std::errc::broken_pipe);
}

// To the end.

TEST_CASE("run_process feeds, collects, and waits", "[process]") {
    loop on(each_backend());
    const std::string much(1'000'000, 'm');

    const auto copied = output_of(on, {.argv = {"cat"}}, {.input = much});
    CHECK(copied.out == much);
    CHECK(copied.status.success());

    const auto both = output_of(on, shell("echo out; echo err >&2; exit 9"));
    CHECK(both.out == "out\n");
    CHECK(both.err == "err\n");
    CHECK(both.status.code == 9);

    CHECK(output_of(on, shell("head -c 3"), {.input = much}).out == "mmm");  // which need not read it all
    CHECK(output_of(on, {.argv = {"cat"}}).out.empty());                     // nor wait for us to type
    CHECK(run(on, run_process({.argv = {"/nowhere"}})).error() == std::errc::no_such_file_or_directory);
}

TEST_CASE("run_process ends what writes more than it may", "[process]") {
    loop on(each_backend());
    run_options options;
    options.limit_bytes = 10;

    CHECK(output_of(on, shell("printf 0123456789"), options).out == "0123456789");
    CHECK(run(on, run_process(shell("printf 0123456789X"), options)).error() == errc::limit_exceeded);
    CHECK(run(on, run_process({.argv = {"yes"}}, options)).error() == errc::limit_exceeded);
    CHECK_FALSE(has_children());
}

TEST_CASE("a cancelled run_process kills the child and joins it", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    const std::size_t descriptors = open_descriptors();
    run_options options;
    options.grace = GENERATE(0ns, 1h);
    command what = shell("sleep 100 & wait");
    what.new_group = true;
    SECTION("while it writes") {}
    SECTION("after its pipes have ended") { what.argv[2] = "exec >/dev/null 2>&1; sleep 100 & wait"; }
    job<result<process_output>> running(on, run_process(what, options));
    const auto ready = [&] {  // its own sleep has begun
        std::ifstream list("/proc/self/task/" + std::to_string(::getpid()) + "/children");
        pid_t child = 0;
        pid_t grandchild = 0;
        return list >> child && std::ifstream("/proc/" + std::to_string(child) + "/task/" +
                                              std::to_string(child) + "/children") >>
                                    grandchild;
    };
    CHECK(turn_until(on, ready));

    running.cancel();

    CHECK(finish(on, running).error() == std::errc::operation_canceled);
    CHECK_FALSE(has_children());
    CHECK(open_descriptors() == descriptors);
}

TEST_CASE("a run_process that never begins leaves nothing", "[process]") {
    loop on(each_backend());
    job<result<process_output>> running(on, run_process({.argv = {"sleep", "100"}}));
    running.cancel();

    CHECK(finish(on, running).error() == std::errc::operation_canceled);
    CHECK_FALSE(has_children());
}

TEST_CASE("a deadline ends a program", "[process]") {
    loop on(each_backend());
    auto sleeping = run_process({.argv = {"sleep", "100"}});

    CHECK(run(on, with_timeout(5ms, std::move(sleeping))).error() == std::errc::timed_out);
    CHECK_FALSE(has_children());
}

TEST_CASE("hundreds of children run at once, and nothing is left of them", "[process]") {
    loop on(each_backend());
    const kernel_kind kind;
    constexpr int most = 300;
    const std::size_t descriptors = open_descriptors();
    {
        std::vector<process> children;
        for (int index = 0; index < most; ++index) {
            children.push_back(
                process::spawn(on, {.argv = {"cat"}, .in = redirect::pipe, .out = redirect::pipe}).value());
        }
        const auto talk = [](process& child, int index) -> task<bool> {
            const std::string words = std::to_string(index);
            (co_await write_all(child.in, bytes_of(words))).value();
            child.in.close();
            const std::string answer = co_await rest_of(child.out);
            const auto ended = co_await child.wait();
            co_return answer == words&& ended.value().success();
        };
        std::vector<task<bool>> talks;
        for (int index = 0; index < most; ++index) {
            talks.push_back(talk(children[static_cast<std::size_t>(index)], index));
        }
        const auto outcomes = run(on, when_all(std::move(talks)));
        CHECK(std::count(outcomes.begin(), outcomes.end(), true) == most);
    }
    CHECK(open_descriptors() == descriptors);
    CHECK_FALSE(has_children());
}
