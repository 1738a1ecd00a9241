// A chat room: what one guest says, all others hear:  chat_room [port]
// Talks to itself, and ends:                          chat_room --self-test

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include <zloop/zloop.hpp>

struct guest {
    zloop::stream socket;
    zloop::channel<std::string> inbox{64};
};

using room = std::set<guest*>;

void say(const room& all, const guest* speaker, const std::string& line) {
    for (guest* each : all) {
        if (each != speaker && !each->inbox.try_send(line)) {
            each->inbox.close();  // reads too slowly: the others do not wait for it
        }
    }
}

/// What the guest says goes to all others.
zloop::task<> listen_to(const room& all, guest& self) {
    std::string heard;
    for (;;) {
        const auto [error, size] = co_await zloop::read_until(self.socket, heard, "\n");
        if (error) {
            break;  // it left
        }
        say(all, &self, heard.substr(0, size));
        heard.erase(0, size);
    }
    self.inbox.close();
}

/// What comes into the inbox goes to the guest.
zloop::task<> talk_to(guest& self) {
    for (;;) {
        const auto [error, line] = co_await self.inbox.receive();
        if (error || !co_await zloop::write_all(self.socket, zloop::bytes_of(line))) {
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
    for (;;) {
        auto [error, guest] = co_await door.accept();
        if (error) {
            break;
        }
        guests.spawn(welcome(all, std::move(guest.socket)));
    }
    guests.cancel();
    co_await guests.join();
}

zloop::task<bool> chat(zloop::address where) {
    std::string ann_heard, bob_heard;
    auto ann = (co_await zloop::connect(where)).value();
    (co_await zloop::read_until(ann, ann_heard, "in\n")).value();
    auto bob = (co_await zloop::connect(where)).value();
    (co_await zloop::read_until(bob, bob_heard, "in\n")).value();

    (co_await zloop::write_all(ann, zloop::bytes_of("hello, you\n"))).value();
    (co_await zloop::read_until(bob, bob_heard, "you\n")).value();
    co_return bob_heard == "somebody comes in\nhello, you\n";
}

int main(int count, char** arguments) {
    const std::string argument = count > 1 ? arguments[1] : "7001";
    const bool self_test = argument == "--self-test";
    const auto port = static_cast<std::uint16_t>(self_test ? 0 : std::atoi(argument.c_str()));

    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    std::printf("chat room at %s\n", door.local_address().to_string().c_str());

    if (self_test) {
        const auto first = zloop::run(loop, zloop::when_any(open(door), chat(door.local_address())));
        return first.index() == 1 && std::get<1>(first) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    zloop::run(loop, open(door));
}
