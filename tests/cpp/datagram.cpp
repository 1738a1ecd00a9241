#include <zloop/datagram.hpp>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include <zloop/job.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// Two bound sockets of one loop that know each other's address.
struct neighbours {
    loop on;
    datagram_socket ours, theirs;

    explicit neighbours(kind family = kind::tcp) : on(each_backend()) {
        const bool internet = family == kind::tcp;
        ours = datagram_socket::bind(on, internet ? address::loopback() : free_name()).value();
        theirs = datagram_socket::bind(on, internet ? address::loopback() : free_name()).value();
    }

    void connect() {
        ours.connect(theirs.local_address()).value();
        theirs.connect(ours.local_address()).value();
    }

    result<std::size_t> send_to_them(std::string_view text) {
        return run(on, perform([&] { return ours.send_to(bytes_of(text), theirs.local_address()); }));
    }

    struct message {
        std::string text;
        address peer;
        bool truncated;
    };
    result<message> receive(datagram_socket& at) {
        auto got = run(on, receive_text(at));
        return got;
    }
    static task<result<message>> receive_text(datagram_socket& at) {
        auto [error, got] = co_await at.receive();
        if (error) {
            co_return error;
        }
        co_return message{text_of(got.bytes), got.peer, got.truncated};
    }
};

std::span<std::byte> room(std::string& text) { return std::as_writable_bytes(std::span(text)); }

/// Sends until there is no room any more; how many went.
int fill(datagram_socket& socket, const address& peer = {}) {
    const std::string message(1000, 'x');
    int count = 0;
    while (socket.try_send(bytes_of(message), peer)) {
        ++count;
    }
    return count;
}

bool needs_v6() {
    loop on;
    return !datagram_socket::bind(on, address::ip("::1", 0).value());
}

}  // namespace

TEST_CASE("a message arrives whole, with who sent it", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));

    CHECK(with.send_to_them("hello").value() == 5);
    const auto lent = with.receive(with.theirs).value();
    CHECK(lent.text == "hello");
    CHECK(lent.peer == with.ours.local_address());
    CHECK(!lent.truncated);

    CHECK(with.send_to_them("again").value() == 5);
    std::string buffer(100, '\0');
    const auto got = run(with.on, perform([&] { return with.theirs.receive_from(room(buffer)); })).value();
    CHECK(buffer.substr(0, got.size) == "again");
    CHECK(got.peer == with.ours.local_address());
    CHECK(!got.truncated);
}

TEST_CASE("a connected socket sends to its peer and receives from nobody else", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    with.connect();
    CHECK(with.ours.peer_address() == with.theirs.local_address());
    auto stranger = datagram_socket::open(with.on, with.ours.local_address().family()).value();
    CHECK((!stranger.try_send(bytes_of("no"), with.theirs.local_address()) ||
           with.theirs.local_address().family() == AF_INET));  // a Unix peer refuses, UDP drops

    CHECK(run(with.on, perform([&] { return with.ours.send(bytes_of("yes")); })).value() == 3);

    std::string buffer(100, '\0');
    CHECK(run(with.on, perform([&] { return with.theirs.recv(room(buffer)); })).value() == 3);
    CHECK(buffer.substr(0, 3) == "yes");
    CHECK(with.theirs.disconnect());
    CHECK(with.theirs.peer_address() == address());
}

TEST_CASE("an empty message arrives, and is no end", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    for (int count = 0; count < 4; ++count) {
        CHECK(with.send_to_them("").value() == 0);
    }
    CHECK(with.send_to_them("more").value() == 4);
    std::string buffer(100, '\0');
    std::array<datagram, 1> batch{datagram{room(buffer), {}}};

    CHECK(with.receive(with.theirs).value().text.empty());
    CHECK(run(with.on, perform([&] { return with.theirs.recv(room(buffer)); })).value() == 0);
    const auto third = run(with.on, perform([&] { return with.theirs.receive_from(room(buffer)); })).value();
    CHECK(third.size == 0);
    CHECK(third.peer == with.ours.local_address());
    CHECK(run(with.on, perform([&] { return with.theirs.receive_batch(batch); })).value() == 1);
    CHECK(batch[0].bytes.empty());
    CHECK(with.receive(with.theirs).value().text == "more");
}

TEST_CASE("a message that is longer than the buffer is cut, and that is told", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    std::string buffer(3, '\0');
    CHECK(with.send_to_them("hello"));
    CHECK(with.send_to_them("abc"));

    const auto cut = run(with.on, perform([&] { return with.theirs.receive_from(room(buffer)); })).value();
    CHECK(cut.truncated);
    CHECK(cut.size == 3);
    CHECK(buffer == "hel");
    const auto whole = run(with.on, perform([&] { return with.theirs.receive_from(room(buffer)); })).value();
    CHECK(!whole.truncated);
    CHECK(buffer == "abc");
}

TEST_CASE("the largest message of UDP is lent whole; a larger one is not sent", "[datagram]") {
    neighbours with;
    const std::string largest(65507, 'x');

    CHECK(with.send_to_them(largest).value() == largest.size());
    CHECK(with.receive(with.theirs).value().text == largest);
    CHECK(with.send_to_them(largest + "y").error() == std::errc::message_size);
}

TEST_CASE("that nobody is there is the next operation's error, and the socket goes on", "[datagram]") {
    loop on(each_backend());
    address where;
    {
        auto gone = datagram_socket::bind(on, address::loopback()).value();
        where = gone.local_address();
    }
    auto socket = datagram_socket::open(on, AF_INET).value();
    socket.connect(where).value();
    const auto send = [&] { return socket.send(bytes_of("x")); };

    SECTION("a receive that waits") {
        job<result<neighbours::message>> waiting(on, neighbours::receive_text(socket));
        turn(on, 2);
        CHECK(run(on, perform(send)));
        CHECK(finish(on, waiting).error() == std::errc::connection_refused);
    }
    SECTION("the next send, which has sent nothing") {
        CHECK(run(on, perform(send)));
        CHECK(run(on, perform(send)).error() == std::errc::connection_refused);
    }
    auto there = datagram_socket::bind(on, where).value();
    CHECK(run(on, perform(send)));
    CHECK(run(on, neighbours::receive_text(there)).value().text == "x");
    CHECK(there.try_send(bytes_of("y"), socket.local_address()));
    CHECK(run(on, neighbours::receive_text(socket)).value().text == "y");
}

TEST_CASE("a socket that is not connected does not hear that nobody is there", "[datagram]") {
    neighbours with;
    const address where = with.theirs.local_address();
    with.theirs.close();
    for (int count = 0; count < 3; ++count) {
        CHECK(run(with.on, perform([&] { return with.ours.send_to(bytes_of("x"), where); })));
    }
}

TEST_CASE("a Unix peer that is gone is an error at once", "[datagram]") {
    neighbours with(kind::unix_socket);
    const address where = with.theirs.local_address();
    with.ours.connect(where).value();
    with.theirs.close();

    CHECK(run(with.on, perform([&] { return with.ours.send(bytes_of("x")); })).error() ==
          std::errc::connection_refused);
    CHECK(run(with.on, perform([&] { return with.ours.send_to(bytes_of("x"), where); })).error() ==
          std::errc::connection_refused);
}

TEST_CASE("several buffers are one message", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    with.connect();
    const iovec parts[] = {{const_cast<char*>("ab"), 2}, {const_cast<char*>("cde"), 3}};

    CHECK(run(with.on, perform([&] { return with.ours.send(parts); })).value() == 5);
    CHECK(with.receive(with.theirs).value().text == "abcde");
}

TEST_CASE("a batch sends and receives many messages in order", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    const bool connected = GENERATE(false, true);
    const address theirs = connected ? address() : with.theirs.local_address();
    if (connected) {
        with.connect();
    }
    std::string texts[] = {"one", "", "three"};
    std::array<datagram, 3> out;
    for (std::size_t index = 0; index < 3; ++index) {
        out[index] = {room(texts[index]), theirs};
    }
    CHECK(run(with.on, perform([&] { return with.ours.send_batch(out); })).value() == 3);

    std::array<std::string, 5> buffers;
    std::array<datagram, 5> in;
    for (std::size_t index = 0; index < 5; ++index) {
        buffers[index].resize(8);
        in[index] = {room(buffers[index]), {}};
    }
    CHECK(run(with.on, perform([&] { return with.theirs.receive_batch(in); })).value() == 3);
    for (std::size_t index = 0; index < 3; ++index) {
        CHECK(text_of(in[index].bytes) == texts[index]);
        CHECK(in[index].peer == with.ours.local_address());
        CHECK(!in[index].truncated);
    }
    CHECK(in[3].bytes.size() == 8);  // not touched
}

TEST_CASE("a batch tells which of its messages were cut", "[datagram]") {
    neighbours with;
    CHECK(with.send_to_them("long"));
    CHECK(with.send_to_them("s"));
    std::string first(2, '\0'), second(2, '\0');
    std::array<datagram, 2> in{datagram{room(first), {}}, datagram{room(second), {}}};

    CHECK(run(with.on, perform([&] { return with.theirs.receive_batch(in); })).value() == 2);

    CHECK(in[0].truncated);
    CHECK(text_of(in[0].bytes) == "lo");
    CHECK(!in[1].truncated);
    CHECK(text_of(in[1].bytes) == "s");
}

TEST_CASE("a batch waits for its first message, and for no other", "[datagram]") {
    neighbours with;
    std::array<std::string, 2> buffers{std::string(4, '\0'), std::string(4, '\0')};
    std::array<datagram, 2> in{datagram{room(buffers[0]), {}}, datagram{room(buffers[1]), {}}};
    job<result<std::size_t>> waiting(with.on, perform([&] { return with.theirs.receive_batch(in); }));
    turn(with.on, 2);
    CHECK(!waiting.done());

    CHECK(with.send_to_them("one"));

    CHECK(finish(with.on, waiting).value() == 1);
}

TEST_CASE("a batch of more than 64 messages moves 64", "[datagram]") {
    neighbours with(kind::unix_socket);
    auto both = datagram_socket::pair(with.on).value();
    std::string text = "x";
    std::vector<datagram> out(100, datagram{room(text), {}});

    CHECK(run(with.on, perform([&] { return both.first.send_batch(out); })).value() == 64);
    std::vector<std::string> buffers(100, std::string(1, '\0'));
    std::vector<datagram> in(100);
    for (std::size_t index = 0; index < 100; ++index) {
        in[index].bytes = room(buffers[index]);
    }
    CHECK(run(with.on, perform([&] { return both.second.receive_batch(in); })).value() == 64);
}

TEST_CASE("a batch now or never takes what is there, and fails instead of waiting", "[datagram]") {
    neighbours with;
    std::array<std::string, 3> buffers;
    std::vector<datagram> in;
    for (std::string& each : buffers) {
        each.resize(4);
        in.push_back({room(each), {}});
    }
    CHECK(with.theirs.try_receive_batch(in).error() == std::errc::resource_unavailable_try_again);

    CHECK(with.send_to_them("one"));
    CHECK(with.send_to_them("two"));
    result<std::size_t> got = std::errc::resource_unavailable_try_again;
    CHECK(turn_until(with.on, [&] {
        got = with.theirs.try_receive_batch(in);
        return got.error() != std::errc::resource_unavailable_try_again;
    }));

    CHECK(got.value() == 2);
    CHECK(text_of(in[0].bytes) == "one");
    CHECK(in[1].peer == with.ours.local_address());
}

TEST_CASE("what of a batch went well counts first, and the next batch meets the failure", "[datagram]") {
    neighbours with;
    std::string fine = "fine", huge(70'000, 'x');
    std::array<datagram, 2> out{datagram{room(fine), with.theirs.local_address()},
                                datagram{room(huge), with.theirs.local_address()}};

    CHECK(run(with.on, perform([&] { return with.ours.send_batch(out); })).value() == 1);
    const std::span<datagram> rest = std::span(out).subspan(1);
    CHECK(run(with.on, perform([&] { return with.ours.send_batch(rest); })).error() ==
          std::errc::message_size);
    CHECK(with.receive(with.theirs).value().text == "fine");
}

TEST_CASE("a batch of none is done at once", "[datagram]") {
    neighbours with;
    CHECK(run(with.on, perform([&] { return with.ours.send_batch({}); })).value() == 0);
}

TEST_CASE("a Unix datagram socket can live at a path, and unnamed peers have no address", "[datagram]") {
    char directory[] = "/tmp/zloop-tests-XXXXXX";
    REQUIRE(::mkdtemp(directory) != nullptr);
    const std::string path = std::string(directory) + "/socket";
    {
        loop on(each_backend());
        const address where = address::local(path).value();
        auto named = datagram_socket::bind(on, where).value();
        CHECK(datagram_socket::bind(on, where).error() == std::errc::address_in_use);
        auto unnamed = datagram_socket::open(on, AF_UNIX).value();
        CHECK(run(on, perform([&] { return unnamed.send_to(bytes_of("x"), where); })));
        const auto got = run(on, neighbours::receive_text(named)).value();
        CHECK(got.text == "x");
        CHECK(got.peer == address());
    }
    CHECK(::access(path.c_str(), F_OK) == 0);  // it was not ours to remove
    ::unlink(path.c_str());
    ::rmdir(directory);
}

TEST_CASE("a send to a connected Unix peer whose queue is full waits until there is room", "[datagram]") {
    neighbours with(kind::unix_socket);
    const bool mutually = GENERATE(false, true);
    with.ours.connect(with.theirs.local_address()).value();
    if (mutually) {
        with.connect();
    }
    const int queued = fill(with.ours);
    CHECK(queued > 0);
    job<result<std::size_t>> sending(with.on, perform([&] { return with.ours.send(bytes_of("last")); }));
    turn(with.on, 3);
    REQUIRE(!sending.done());

    for (int count = 0; count < queued; ++count) {
        CHECK(with.receive(with.theirs).value().text.size() == 1000);
    }
    CHECK(finish(with.on, sending).value() == 4);
    CHECK(with.receive(with.theirs).value().text == "last");
}

TEST_CASE("a send_to a Unix peer whose queue is full fails: nobody would tell of room", "[datagram]") {
    neighbours with(kind::unix_socket);
    CHECK(fill(with.ours, with.theirs.local_address()) > 0);
    std::string text = "x";
    std::array<datagram, 1> batch{datagram{room(text), with.theirs.local_address()}};

    CHECK(with.send_to_them("x").error() == std::errc::resource_unavailable_try_again);
    CHECK(run(with.on, perform([&] { return with.ours.send_batch(batch); })).error() ==
          std::errc::resource_unavailable_try_again);
}

TEST_CASE("a cancelled receive ends at once and the socket stays usable", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    std::string buffer(10, '\0');
    std::array<datagram, 1> batch{datagram{room(buffer), {}}};
    const auto check = [&](auto start) {
        job waiting(with.on, perform(start));
        turn(with.on, 2);
        REQUIRE(!waiting.done());
        waiting.cancel();
        CHECK(finish(with.on, waiting).error() == std::errc::operation_canceled);
    };
    check([&] { return with.theirs.receive(); });
    check([&] { return with.theirs.receive_from(room(buffer)); });
    check([&] { return with.theirs.recv(room(buffer)); });
    check([&] { return with.theirs.receive_batch(batch); });

    CHECK(with.send_to_them("x"));
    CHECK(with.receive(with.theirs).value().text == "x");
}

TEST_CASE("a receive that is cancelled when its message is there leaves it to the next, or has it",
          "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    std::string buffer(10, '\0');
    std::array<datagram, 1> batch{datagram{room(buffer), {}}};
    const auto check = [&](auto start) {
        job waiting(with.on, perform(start));
        turn(with.on, 2);
        CHECK(with.ours.try_send(bytes_of("kept"), with.theirs.local_address()));
        is_readable(with.theirs.native_handle(), 1000);
        queue_events(with.on);
        waiting.cancel();
        if (finish(with.on, waiting).error() == std::errc::operation_canceled) {
            CHECK(with.receive(with.theirs).value().text == "kept");
        }
        CHECK(!is_readable(with.theirs.native_handle()));
    };
    check([&] { return with.theirs.receive(); });
    check([&] { return with.theirs.receive_from(room(buffer)); });
    check([&] { return with.theirs.recv(room(buffer)); });
    check([&] { return with.theirs.receive_batch(batch); });
}

TEST_CASE("what is asked of a datagram socket in a cancelled scope does not begin", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    with.connect();
    std::string text = "x";
    std::array<datagram, 1> batch{datagram{room(text), {}}};
    const auto check = [&](auto start) {
        job waiting(with.on, perform(start));
        waiting.cancel();
        CHECK(finish(with.on, waiting).error() == std::errc::operation_canceled);
    };
    check([&] { return with.ours.send(bytes_of(text)); });
    check([&] { return with.ours.send_to(bytes_of(text), with.theirs.local_address()); });
    check([&] { return with.ours.send_batch(batch); });
    CHECK(!is_readable(with.theirs.native_handle()));

    CHECK(with.ours.try_send(bytes_of("there")));
    check([&] { return with.theirs.receive(); });
    check([&] { return with.theirs.receive_from(room(text)); });
    check([&] { return with.theirs.receive_batch(batch); });
    CHECK(with.receive(with.theirs).value().text == "there");
}

TEST_CASE("a cancelled send ends at once, and its message is not sent later", "[datagram]") {
    loop on(each_backend());
    auto both = datagram_socket::pair(on).value();
    const int queued = fill(both.first);
    std::string text = "late";
    std::array<datagram, 1> batch{datagram{room(text), {}}};
    const auto check = [&](auto start) {
        job waiting(on, perform(start));
        turn(on, 2);
        REQUIRE(!waiting.done());
        waiting.cancel();
        CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    };
    check([&] { return both.first.send(bytes_of(text)); });
    check([&] { return both.first.send_batch(batch); });

    for (int count = 0; count < queued; ++count) {
        CHECK(run(on, neighbours::receive_text(both.second)).value().text.size() == 1000);
    }
    turn(on, 3);
    CHECK(!is_readable(both.second.native_handle()));
}

TEST_CASE("closing a datagram socket ends what waits on it, in both directions", "[datagram]") {
    loop on(each_backend());
    auto both = datagram_socket::pair(on).value();
    fill(both.first);
    job<result<lent_datagram>> receiving(on, perform([&] { return both.first.receive(); }));
    job<result<std::size_t>> sending(on, perform([&] { return both.first.send(bytes_of("x")); }));
    turn(on, 2);
    REQUIRE(!receiving.done());
    REQUIRE(!sending.done());

    both.first.close();

    CHECK(finish(on, receiving).error() == std::errc::operation_canceled);
    CHECK(finish(on, sending).error() == std::errc::operation_canceled);
    CHECK(run(on, perform([&] { return both.first.send(bytes_of("x")); })).error() ==
          std::errc::bad_file_descriptor);
}

TEST_CASE("a datagram socket receives and sends at the same time", "[datagram]") {
    neighbours with(GENERATE(kind::tcp, kind::unix_socket));
    job<result<neighbours::message>> receiving(with.on, neighbours::receive_text(with.ours));
    turn(with.on, 2);
    CHECK(with.send_to_them("out"));
    CHECK(with.receive(with.theirs).value().text == "out");
    CHECK(with.theirs.try_send(bytes_of("in"), with.ours.local_address()));

    CHECK(finish(with.on, receiving).value().text == "in");
}

TEST_CASE("a flood of messages gives the rest of the loop its turn", "[datagram]") {
    neighbours with(kind::unix_socket);
    const int queued = fill(with.ours, with.theirs.local_address());
    int turns = 0;
    bool over = false;
    std::optional<callback> each;
    each.emplace([&] {
        ++turns;
        if (!over) {
            with.on.push(*each);
        }
    });
    with.on.push(*each);
    auto receives = [&]() -> task<> {
        for (int count = 0; count < queued; ++count) {
            (co_await with.theirs.receive()).value();
        }
    };
    run(with.on, receives());

    CHECK(turns >= queued);
    over = true;
    turn(with.on);
}

TEST_CASE("a broadcast has to be asked for", "[datagram]") {
    loop on(each_backend());
    auto socket = datagram_socket::bind(on, address::any()).value();
    const address everybody = address::ip("127.255.255.255", socket.local_address().port()).value();
    const auto send = [&] { return socket.send_to(bytes_of("all"), everybody); };

    CHECK(run(on, perform(send)).error() == std::errc::permission_denied);
    CHECK(socket.set_broadcast(true));
    CHECK(run(on, perform(send)));
    CHECK(run(on, neighbours::receive_text(socket)).value().text == "all");
}

TEST_CASE("a multicast group is joined and left", "[datagram]") {
    loop on(each_backend());
    const unsigned lo = ::if_nametoindex("lo");
    const address group = address::ip("239.255.77.77", 0).value();
    auto member = datagram_socket::bind(on, address::any()).value();
    if (auto joined = member.join(group, lo); !joined) {
        WARN("no multicast here: " << joined.error().message());
        return;
    }
    CHECK(member.join(group, lo).error() == std::errc::address_in_use);  // once only
    auto sender = datagram_socket::bind(on, address::loopback()).value();
    ip_mreqn through{};
    through.imr_ifindex = static_cast<int>(lo);
    CHECK(sender.set_option(IPPROTO_IP, IP_MULTICAST_IF, through));
    const address all = address::ip("239.255.77.77", member.local_address().port()).value();
    CHECK(run(on, perform([&] { return sender.send_to(bytes_of("members"), all); })));
    CHECK(run(on, neighbours::receive_text(member)).value().text == "members");

    CHECK(member.leave(group, lo));
    CHECK(member.leave(group, lo).error() == std::errc::address_not_available);
    CHECK(member.join(address::loopback(), lo).error() == std::errc::invalid_argument);
    CHECK(!member.join(address::local("/x").value(), lo));
}

TEST_CASE("a datagram socket that cannot be made leaves nothing open", "[datagram]") {
    loop on(each_backend());
    auto taken = datagram_socket::bind(on, address::loopback()).value();
    const auto before = open_descriptors();

    CHECK(datagram_socket::bind(on, taken.local_address()).error() == std::errc::address_in_use);
    CHECK(datagram_socket::bind(on, address()).error() == std::errc::address_family_not_supported);
    CHECK(datagram_socket::open(on, -1).error() == std::errc::address_family_not_supported);
    CHECK(datagram_socket::bind(on, address::ip("192.0.2.1", 0).value()).error() ==
          std::errc::address_not_available);
    CHECK(taken.connect(address::ip("::1", 1).value()).error() == std::errc::address_family_not_supported);
    CHECK(open_descriptors() == before);
}

TEST_CASE("sockets share an address that all ask to share", "[datagram]") {
    loop on(each_backend());
    datagram_options shared;
    SECTION("a port") { shared.reuse_port = true; }
    SECTION("an address") { shared.reuse_address = true; }
    auto first = datagram_socket::bind(on, address::loopback(), shared).value();

    CHECK(datagram_socket::bind(on, first.local_address(), shared));
    CHECK(datagram_socket::bind(on, first.local_address()).error() == std::errc::address_in_use);
}

TEST_CASE("an IPv6 socket has IPv4 peers, unless told otherwise", "[datagram]") {
    if (needs_v6()) {
        WARN("no IPv6 here");
        return;
    }
    loop on(each_backend());
    datagram_options options;
    options.only_v6 = GENERATE(false, true);
    auto socket = datagram_socket::bind(on, address::ip("::", 0).value(), options).value();
    auto peer = datagram_socket::open(on, AF_INET).value();
    peer.connect(address::loopback(socket.local_address().port())).value();
    CHECK(peer.try_send(bytes_of("x")));

    if (options.only_v6) {
        CHECK(run(on, perform([&] { return peer.send(bytes_of("x")); })).error() ==
              std::errc::connection_refused);
    } else {
        CHECK(run(on, neighbours::receive_text(socket)).value().peer.host() == "::ffff:127.0.0.1");
    }
}

TEST_CASE("no operation on a datagram socket allocates", "[datagram]") {
    if (!probes::counts_allocations) {
        return;
    }
    neighbours with;
    std::size_t allocated = 1;
    auto work = [&]() -> task<> {
        std::string text = "x";
        std::array<datagram, 1> batch{datagram{room(text), with.theirs.local_address()}};
        for (int round = 0; round < 2; ++round) {  // the first makes the scratch
            const std::size_t before = probes::allocations();
            (co_await with.ours.send_to(bytes_of(text), with.theirs.local_address())).value();
            (co_await with.theirs.receive()).value();
            (co_await with.ours.send_batch(batch)).value();
            (co_await with.theirs.receive_from(room(text))).value();
            allocated = probes::allocations() - before;
        }
    };
    run(with.on, work());

    CHECK(allocated == 0);
}
