// Tests of chat.hpp, on a loop that plays the kernel and the clock: no network, no waiting.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/testing.hpp>

#include "chat.hpp"

using namespace std::chrono_literals;

void check(bool holds, const char* promise) {
    std::printf("%s: %s\n", holds ? "ok" : "FAILED", promise);
    if (!holds) {
        std::exit(EXIT_FAILURE);
    }
}

/// The server, and what it needs. It serves from the beginning, and has ended at the end.
struct served {
    ~served() {
        stop.set();
        while (!serving.done()) {
            loop.run_once();
        }
    }

    zloop::testing::virtual_loop loop;
    zloop::listener door = zloop::listener::bind(loop, zloop::address::loopback(0)).value();
    zloop::event stop;
    zloop::job<> serving = loop.start(chat::serve(door, stop));
    zloop::address where = door.local_address();

    template <class T>
    T await(zloop::task<T> work) {
        auto running = loop.start(std::move(work));
        return loop.join(running);
    }
};

/// Somebody who talks to the server.
class client {
public:
    explicit client(served& at) : at_(at), socket_(at.await(zloop::connect(at.where)).value()) {}
    client(served& at, const std::string& name) : client(at) {
        check(hears() == "your name?", "a guest is asked for a name");
        says(name);
        check(hears() == "* " + name + " comes in", "and is told to the room");
    }

    void says(const std::string& line) {
        at_.await(zloop::write_all(socket_, zloop::bytes_of(line + '\n'))).value();
    }
    std::string hears() {
        const auto line = at_.await(socket_.read_line());
        return line ? std::string(*line) : "";  // the end
    }

private:
    served& at_;
    zloop::buffered_reader<zloop::stream> socket_;
};

int main() {
    {
        served at;
        client ann(at, "ann");
        client bob(at, "bob");
        check(ann.hears() == "* bob comes in", "all see who comes in");
        bob.says("hello");
        check(ann.hears() == "bob: hello" && bob.hears() == "bob: hello", "all hear what one says");
    }
    {
        served at;
        client ann(at, "ann");
        client other(at);
        check(other.hears() == "your name?", "another guest is asked");
        other.says("ann");
        check(other.hears() == "that is no name, or somebody else's", "a name is one guest's");
    }
    {
        served at;
        client silent(at);
        check(silent.hears() == "your name?", "a third guest is asked");
        check(silent.hears().empty() && at.loop.elapsed() == 1min, "a minute is enough to say a name");
    }
    {
        served at;
        client ann(at, "ann");
        client sleepy(at, "sleepy");
        check(ann.hears() == "* sleepy comes in", "one comes in who will not read");
        std::string heard;
        while (heard != "* sleepy leaves") {
            ann.says(std::string(1000, 'x'));
            heard = ann.hears();
        }
        check(at.loop.elapsed() == 0s, "who does not read is sent away, and nobody waits");
    }
    {
        served at;
        client ann(at, "ann");
        client nameless(at);
        at.stop.set();
        check(ann.hears() == "* good night" && ann.hears().empty(), "the end is told");
        check(at.loop.elapsed() == 0s, "at once");
        at.loop.join(at.serving);
        check(at.loop.elapsed() == 2s, "who has no name yet has two seconds");
    }
}
