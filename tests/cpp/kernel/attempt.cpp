#include <zloop/kernel/attempt.hpp>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>

#include <zloop/testing/scripted.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using detail::attempt;
using detail::descriptor_kind;
using detail::kind_of;

namespace {

/// Two sockets, or a pipe, that do not block.
struct ends {
    fd one, other;

    explicit ends(int kind = SOCK_STREAM) {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) == 0);
        one.reset(both[0]);
        other.reset(both[1]);
    }
};

/// An operation that nobody waits for, and its buffer.
template <class Operation = io_op>
struct asked : Operation {
    asked(const fd& on, opcode what) : Operation(nobody(), what, descriptor{on.get(), 0}) {}

    /// Reads up to `most` bytes.
    bool reads(std::size_t most, descriptor_kind kind = descriptor_kind::socket) {
        buffer.assign(most, '\0');
        this->data = reinterpret_cast<std::byte*>(buffer.data());
        this->size = most;
        return attempt(*this, kind);
    }
    /// Writes these, as so many parts.
    bool writes(std::vector<std::string> texts, descriptor_kind kind = descriptor_kind::socket) {
        std::vector<iovec> views;
        for (std::string& each : texts) {
            views.push_back({each.data(), each.size()});
        }
        this->parts = views.data();
        this->part_count = static_cast<unsigned>(views.size());
        return attempt(*this, kind);
    }
    std::string text() const { return buffer.substr(0, this->size); }

    std::string buffer;

private:
    static backend& nobody() {
        static zloop::testing::scripted_backend kernel;
        return kernel;
    }
};

fd udp_socket(address& name) {
    fd made(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    name = address::loopback();
    socklen_t size = name.size();
    REQUIRE(::bind(made.get(), name.data(), size) == 0);
    REQUIRE(::getsockname(made.get(), name.data(), &size) == 0);
    return made;
}

fd tcp_socket() { return fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

fd tcp_door(address& name) {
    fd made = tcp_socket();
    name = address::loopback();
    socklen_t size = name.size();
    REQUIRE(::bind(made.get(), name.data(), size) == 0);
    REQUIRE(::listen(made.get(), 10) == 0);
    REQUIRE(::getsockname(made.get(), name.data(), &size) == 0);
    return made;
}

/// Tries until the operation does not block any more.
template <class Operation>
void complete(Operation& operation) {
    for (int round = 0; !attempt(operation, descriptor_kind::tcp); ++round) {
        REQUIRE(round < 1000);
        pollfd ready{operation.fd, POLLOUT, 0};
        ::poll(&ready, 1, 10);
    }
}

}  // namespace

TEST_CASE("a descriptor is a TCP socket, another socket, or none", "[attempt]") {
    const ends sockets;
    const support::pipe_ends pipe;
    address name;

    CHECK(kind_of(tcp_socket().get()) == descriptor_kind::tcp);
    CHECK(kind_of(udp_socket(name).get()) == descriptor_kind::socket);
    CHECK(kind_of(sockets.one.get()) == descriptor_kind::socket);
    CHECK(kind_of(pipe.out.get()) == descriptor_kind::other);
    CHECK(kind_of(-1) == descriptor_kind::other);
}

TEST_CASE("a try that would block says so, and has changed nothing", "[attempt]") {
    const ends with;
    asked reading(with.one, opcode::recv);

    CHECK(!reading.reads(10));
    CHECK(reading.error == 0);
    CHECK(reading.size == 10);
}

TEST_CASE("a try that a signal interrupts is made again", "[attempt]") {
    const ends with;
    asked writing(with.one, opcode::send);
    const probes::failing interrupted_send(probes::send, EINTR, 2);
    REQUIRE(writing.writes({"text"}));
    asked reading(with.other, opcode::recv);
    const probes::failing interrupted(probes::recv, EINTR, 3);

    CHECK(reading.reads(10));
    CHECK(reading.text() == "text");
    CHECK(reading.error == 0);
}

TEST_CASE("a try that fails has moved nothing", "[attempt]") {
    const fd unconnected = tcp_socket();
    asked reading(unconnected, opcode::recv);

    CHECK(reading.reads(10));
    CHECK(reading.error == ENOTCONN);
    CHECK(reading.size == 0);
}

TEST_CASE("a pipe is read and written, and without a reader it is an error, not a signal", "[attempt]") {
    support::pipe_ends pipe;
    asked writing(pipe.in, opcode::send);
    CHECK(writing.writes({"two ", "parts"}, descriptor_kind::other));
    asked reading(pipe.out, opcode::recv);
    CHECK(reading.reads(100, descriptor_kind::other));
    CHECK(reading.text() == "two parts");

    pipe.out.reset();
    asked in_vain(pipe.in, opcode::send);
    CHECK(in_vain.writes({"x"}, descriptor_kind::other));
    CHECK(in_vain.error == EPIPE);
}

TEST_CASE("the parts of a send leave as one message", "[attempt]") {
    const ends with(SOCK_DGRAM);
    asked writing(with.one, opcode::send);
    REQUIRE(writing.writes({"one ", "two ", "three"}));
    CHECK(writing.size == 13);

    asked reading(with.other, opcode::recv);
    CHECK(reading.reads(100));
    CHECK(reading.text() == "one two three");
}

TEST_CASE("a datagram tells who sent it, and whether there was more of it", "[attempt]") {
    address here, there, sender;
    const fd one = udp_socket(here), other = udp_socket(there);
    for (const std::size_t room : {100, 4}) {
        asked writing(one, opcode::send);
        writing.name = there.data();
        writing.name_size = there.size();
        REQUIRE(writing.writes({"message"}));
        REQUIRE(support::is_readable(other.get(), 1000));

        asked reading(other, opcode::recv);
        reading.name = sender.data();
        reading.name_size = address::capacity();
        REQUIRE(reading.reads(room));
        sender.resize(reading.name_size);

        CHECK(sender == here);
        CHECK(reading.text() == std::string("message").substr(0, room));
        CHECK(reading.truncated == (room == 4));
    }
}

TEST_CASE("a batch moves what is there, and no more than 64 at a time", "[attempt]") {
    address here, there;
    const fd one = udp_socket(here), other = udp_socket(there);
    std::string letters(70, 'x');
    std::vector<datagram> out(70), in(100);
    for (std::size_t index = 0; index < out.size(); ++index) {
        out[index] = {std::as_writable_bytes(std::span(letters)).subspan(index, 1), there};
    }
    asked<batch_op> sending(one, opcode::send_batch);
    sending.items = out.data();
    sending.size = out.size();
    REQUIRE(attempt(sending, descriptor_kind::socket));
    CHECK(sending.size == 64);
    REQUIRE(support::is_readable(other.get(), 1000));

    std::array<std::array<std::byte, 8>, 100> rooms;
    for (std::size_t index = 0; index < in.size(); ++index) {
        in[index].bytes = rooms[index];
    }
    asked<batch_op> receiving(other, opcode::receive_batch);
    receiving.items = in.data();
    receiving.size = in.size();
    REQUIRE(attempt(receiving, descriptor_kind::socket));
    CHECK(receiving.size == 64);
    CHECK(in[63].bytes.size() == 1);
    CHECK(in[63].peer == here);
    CHECK(in[64].bytes.size() == 8);  // was not touched
    CHECK(!attempt(receiving, descriptor_kind::socket));
}

TEST_CASE("a connection that died in the queue is passed over, and another error is told", "[attempt]") {
    address where;
    const fd door = tcp_door(where);
    const fd guest = tcp_socket();
    asked connecting(guest, opcode::connect);
    connecting.name = where.data();
    connecting.name_size = where.size();
    complete(connecting);
    REQUIRE(support::is_readable(door.get(), 1000));
    {
        asked accepting(door, opcode::accept);
        const probes::failing full(probes::accept4, EMFILE);
        CHECK(attempt(accepting, descriptor_kind::tcp));
        CHECK(accepting.error == EMFILE);
        CHECK(accepting.accepted == -1);
    }
    const probes::failing died(probes::accept4, ECONNABORTED, 2);
    asked accepting(door, opcode::accept);
    CHECK(attempt(accepting, descriptor_kind::tcp));
    const fd arrived(accepting.accepted);
    CHECK(arrived);
    CHECK(accepting.error == 0);

    asked another(door, opcode::accept);
    CHECK(!attempt(another, descriptor_kind::tcp));
}

TEST_CASE("a connect that is under way is asked for its outcome by the next try", "[attempt]") {
    address where;
    fd door = tcp_door(where);
    {
        const fd guest = tcp_socket();
        asked connecting(guest, opcode::connect);
        connecting.name = where.data();
        connecting.name_size = where.size();
        const probes::failing interrupted(probes::connect, EINTR);
        CHECK(!attempt(connecting, descriptor_kind::tcp));  // it goes on in the background
        CHECK(connecting.connecting);
        complete(connecting);
        CHECK(connecting.error == 0);
    }
    door.reset();
    const fd guest = tcp_socket();
    asked refused(guest, opcode::connect);
    refused.name = where.data();
    refused.name_size = where.size();
    complete(refused);
    CHECK(refused.error == ECONNREFUSED);
}

TEST_CASE("a file is sent from where the operation says, and at its end that is nothing", "[attempt]") {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
    REQUIRE(std::fputs("0123456789", file.get()) >= 0);
    std::fflush(file.get());
    const ends with;
    const auto send = [&](std::int64_t offset) {
        asked<sendfile_op> sending(with.one, opcode::sendfile);
        sending.file = ::fileno(file.get());
        sending.offset = offset;
        sending.size = 4;
        REQUIRE(attempt(sending, descriptor_kind::socket));
        CHECK(sending.error == 0);
        return sending.size;
    };

    CHECK(send(3) == 4);
    CHECK(send(8) == 2);
    CHECK(send(10) == 0);
    asked reading(with.other, opcode::recv);
    CHECK(reading.reads(100));
    CHECK(reading.text() == "345689");
}
