// Step 2 of the tutorial: guests with names hear each other, and a slow one keeps nobody waiting:
// step2_room [port]

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include <zloop/zloop.hpp>

constexpr std::size_t backlog = 256;  // lines that a guest may be behind

struct guest {
    zloop::stream socket;
    zloop::channel<std::string> inbox{backlog};

    /// Never waits. Who is too far behind is sent away.
    void hear(const std::string& line) {
        if (!inbox.try_send(line)) {
            socket.close();
        }
    }
};

struct room {
    std::map<std::string, guest*> guests;

    void say(const std::string& line) {
        for (const auto& [name, each] : guests) {
            each->hear(line + '\n');
        }
    }
};

using reader = zloop::buffered_reader<zloop::stream&>;

/// The name under which the guest is in the room now; none when it left before.
zloop::task<std::string> let_in(room& all, guest& self, reader& words) {
    for (;;) {
        const auto asked = co_await zloop::write_all(self.socket, zloop::bytes_of("your name?\n"));
        const auto line = co_await words.read_line();
        if (!asked || !line) {
            co_return "";
        }
        std::string name(*line);
        if (!name.empty() && all.guests.emplace(name, &self).second) {
            co_return name;
        }
        const auto refusal = zloop::bytes_of("that is no name, or somebody else's\n");
        static_cast<void>(co_await zloop::write_all(self.socket, refusal));
    }
}

/// What the guest says goes to all.
zloop::task<> listen_to(room& all, const std::string& name, reader& words) {
    while (const auto line = co_await words.read_line()) {
        all.say(name + ": " + std::string(*line));
        co_await zloop::next_turn();  // a packet may bring many lines; they are delivered in between
    }
}

/// What is in the inbox goes to the guest, as fast as the guest reads it.
zloop::task<> deliver_to(guest& self) {
    while (auto lines = co_await self.inbox.receive()) {
        while (const auto more = self.inbox.try_receive()) {
            *lines += *more;
        }
        const auto sent = co_await zloop::write_all(self.socket, zloop::bytes_of(*lines));
        if (!sent) {
            co_return;
        }
    }
}

zloop::task<> visit(room& all, zloop::stream socket) {
    guest self{std::move(socket)};
    reader words(self.socket);
    const std::string name = co_await let_in(all, self, words);
    if (name.empty()) {
        co_return;
    }
    all.say("* " + name + " comes in");
    co_await zloop::when_any(listen_to(all, name, words), deliver_to(self));
    all.guests.erase(name);
    all.say("* " + name + " leaves");
}

zloop::task<> serve(zloop::listener& door) {
    room all;
    zloop::nursery guests(co_await zloop::current_context());
    while (auto accepted = co_await door.accept()) {
        guests.spawn(visit(all, std::move(accepted->socket)));
    }
    guests.cancel();
    co_await guests.join();
}

int main(int count, char** arguments) {
    const auto port = static_cast<std::uint16_t>(std::atoi(count > 1 ? arguments[1] : "7001"));
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    std::printf("chat at %s\n", door.local_address().to_string().c_str());
    std::fflush(stdout);
    zloop::run(loop, serve(door));
}
