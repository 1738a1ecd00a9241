// A chat room, apart from ports and signals: chat.cpp serves it, chat_test.cpp tests it.
#pragma once

#include <map>
#include <string>

#include <zloop/zloop.hpp>

namespace chat {

using namespace std::chrono_literals;

constexpr std::size_t backlog = 256;  // lines that a guest may be behind

struct guest {
    zloop::stream socket;
    zloop::channel<std::string> inbox{backlog};

    /// Never waits. Who is too far behind is sent away.
    void hear(const std::string& line) {
        if (!inbox.try_send(line) && !inbox.is_closed()) {
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

    /// The last words. Whoever has heard all up to them leaves.
    void close() {
        say("* good night");
        for (const auto& [name, each] : guests) {
            each->inbox.close();
        }
    }
};

using reader = zloop::buffered_reader<zloop::stream&>;

/// The name under which the guest is in the room now; none when it left before.
inline zloop::task<std::string> let_in(room& all, guest& self, reader& words) {
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
inline zloop::task<> listen_to(room& all, const std::string& name, reader& words) {
    while (const auto line = co_await words.read_line()) {
        all.say(name + ": " + std::string(*line));
        co_await zloop::next_turn();  // a packet may bring many lines; they are delivered in between
    }
}

/// What is in the inbox goes to the guest, as fast as the guest reads it.
inline zloop::task<> deliver_to(guest& self) {
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

inline zloop::task<> visit(room& all, zloop::stream socket) {
    guest self{std::move(socket)};
    reader words(self.socket);
    const auto name = co_await zloop::with_timeout(1min, let_in(all, self, words));
    if (!name || name->empty()) {
        co_return;  // silent for a minute, or gone
    }
    all.say("* " + *name + " comes in");
    co_await zloop::when_any(listen_to(all, *name, words), deliver_to(self));
    all.guests.erase(*name);
    all.say("* " + *name + " leaves");
}

inline zloop::task<> welcome(zloop::listener& door, room& all, zloop::nursery& guests) {
    while (auto accepted = co_await door.accept()) {
        guests.spawn(visit(all, std::move(accepted->socket)));
    }
}

inline zloop::task<> send_home(zloop::nursery& guests, zloop::nanoseconds patience) {
    const auto waited = co_await zloop::sleep_for(patience);
    if (waited) {
        guests.cancel();
    }
}

/// Until somebody says stop. Then everybody hears the last words; who does not, within two seconds, is sent
/// away.
inline zloop::task<> serve(zloop::listener& door, zloop::event& stop) {
    const auto here = co_await zloop::current_context();
    room all;
    zloop::nursery guests(here);

    zloop::job<> welcoming(here, welcome(door, all, guests));
    static_cast<void>(co_await stop.wait());  // or cancelled: as well an end
    welcoming.cancel();
    co_await welcoming.join();
    door.close();

    all.close();
    zloop::job<> sending_home(here, send_home(guests, 2s));
    co_await guests.join();
    sending_home.cancel();
    co_await sending_home.join();
}

}  // namespace chat
