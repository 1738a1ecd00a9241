// A chat room: what one guest says, all others hear:  chat_room [port]
// Talks to itself, and ends:                          chat_room --self-test

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include <zloop/zloop.hpp>

struct guest {
    zloop::stream socket;
    zloop::channel<std::string> inbox{256};
};

using room = std::set<guest*>;

void say(const room& all, const guest* speaker, const std::string& line) {
    for (guest* each : all) {
        if (each != speaker && !each->inbox.try_send(line)) {
            each->socket.close();  // reads too slowly: the others do not wait for it
        }
    }
}

/// What the guest says goes to all others.
zloop::task<> listen_to(const room& all, guest& self) {
    zloop::buffered_reader words(self.socket);
    while (const auto line = co_await words.read_line()) {
        say(all, &self, std::string(*line) + '\n');
        co_await zloop::next_turn();  // one packet may bring many lines; they are delivered in between
    }
    self.inbox.close();  // it left
}

/// What comes into the inbox goes to the guest.
zloop::task<> talk_to(guest& self) {
    while (auto lines = co_await self.inbox.receive()) {
        while (const auto more = self.inbox.try_receive()) {
            *lines += *more;
        }
        if (!co_await zloop::write_all(self.socket, zloop::bytes_of(*lines))) {
            break;
        }
    }
    self.socket.close();  // which ends listen_to as well
}

zloop::task<> welcome(room& all, zloop::stream socket) {
    guest self{std::move(socket)};
    all.insert(&self);
    say(all, nullptr, "somebody comes in\n");
    co_await zloop::when_all(listen_to(all, self), talk_to(self));
    all.erase(&self);
}

/// The nursery joins all guests before the room is gone.
zloop::task<> open(zloop::listener& door) {
    room all;
    zloop::nursery guests(co_await zloop::current_context());
    while (auto guest = co_await door.accept()) {
        guests.spawn(welcome(all, std::move(guest->socket)));
    }
    guests.cancel();
    co_await guests.join();
}

zloop::task<bool> chat(zloop::address where) {
    zloop::buffered_reader ann((co_await zloop::connect(where)).value());
    (co_await ann.read_line()).value();
    zloop::buffered_reader bob((co_await zloop::connect(where)).value());
    (co_await bob.read_line()).value();

    (co_await zloop::write_all(ann, zloop::bytes_of("hello, you\n"))).value();
    co_return (co_await bob.read_line()).value() == "hello, you";
}

int main(int count, char** arguments) {
    const bool self_test = count > 1 && std::string(arguments[1]) == "--self-test";
    const auto port =
        static_cast<std::uint16_t>(self_test ? 0 : std::atoi(count > 1 ? arguments[1] : "7001"));
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    std::printf("chat room at %s\n", door.local_address().to_string().c_str());
    if (!self_test) {
        zloop::run(loop, open(door));
    }
    const auto first = zloop::run(loop, zloop::when_any(open(door), chat(door.local_address())));
    return first.index() == 1 && std::get<1>(first) ? EXIT_SUCCESS : EXIT_FAILURE;
}
