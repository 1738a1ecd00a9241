// module/datagram/reading.cpp: receive a batch, deliver one a turn. See transport.hpp.
//
// Every call of the protocol may close, abort or pause this very transport, or raise. So state is looked
// at again after each. What it raises is reported as of a callback, and the transport stays open: that is
// what comes of asyncio calling it without a try.

#include "transport.hpp"

namespace zl {

py::ref DatagramTransport::begin_reading() {
    made = true;
    start_reading();
    return py::none();
}

void DatagramTransport::start_reading() noexcept {
    if (wants_to_read() && !reader.running() && !read_loop(reader).begun()) {
        no_memory();
    }
}

fiber DatagramTransport::read_loop(fiber::place& kept) {
    bool in_turn = true;  // the kernel cannot have told of more since the last look
    while (wants_to_read()) {
        std::error_code error;
        if (!arrived->empty()) {
            co_await next_turn(event_loop());
        } else {
            const std::span<zloop::datagram> items = room();
            zloop::result<std::size_t> count = std::errc::resource_unavailable_try_again;
            if (!in_turn) {
                co_await next_turn(event_loop());
                if (!wants_to_read() || !still_has_descriptor()) {
                    break;
                }
                count = socket.try_receive_batch(items);
            }
            if (count.error() == std::errc::resource_unavailable_try_again) {
                count = co_await socket.receive_batch(items);
            }
            if (count.error() == std::errc::operation_canceled ||
                count.error() == std::errc::bad_file_descriptor) {
                break;
            }
            error = count.error();
            in_turn = !error && *count == 1;
            if (!error && !take(*count)) {
                break;
            }
        }
        if (!wants_to_read()) {
            break;
        }
        if (error) {
            const connection_scope running(*this);
            delivering = true;
            tell_error(py::os_error(error.value()), core->state->str_read_ready.get());
            delivering = false;
        } else {
            deliver();
        }
    }
    kept.end();
    deaf = !lost && !orphaned && !still_has_descriptor();  // asyncio's selector, too, hears of nothing then
    if (closing || lost) {
        arrived.reset();
    }
    start_reading();  // resumed while it was being cancelled
    release_if_over();
}

/// Where the next messages can go.
std::span<zloop::datagram> DatagramTransport::room() {
    const bool is_unix = family == AF_UNIX;
    const std::size_t count = is_unix ? arrivals::most_unix : arrivals::most;
    const std::size_t stride = is_unix ? arrivals::unix_bytes : arrivals::ip_stride;
    for (std::size_t index = 0; index < count; ++index) {
        arrived->items[index].bytes = {core->datagram_room.get() + index * stride,
                                       is_unix ? arrivals::unix_bytes : arrivals::ip_bytes};
    }
    return {arrived->items.data(), count};
}

/// Makes Python objects of what was received: the room is another's now. False: the transport has ended.
bool DatagramTransport::take(std::size_t count) noexcept {
    arrivals& into = *arrived;
    into.first = into.count = 0;
    try {
        for (std::size_t index = 0; index < count; ++index) {
            const zloop::datagram& each = into.items[index];
            into.data[index] =
                py::ref::steal(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(each.bytes.data()),
                                                         static_cast<Py_ssize_t>(each.bytes.size())));
            into.names[index] = into.known.name_of(each.peer);
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        return fatal_read_error();
    } catch (const py::error_set&) {
        return fatal_read_error();
    }
    into.count = count;
    return true;
}

bool DatagramTransport::fatal_read_error() noexcept {
    const connection_scope running(*this);
    fatal_error_from_indicator("Fatal read error on datagram transport");
    return false;
}

void DatagramTransport::deliver() noexcept {
    const connection_scope running(*this);
    const std::size_t index = arrived->first++;
    const py::ref data = std::move(arrived->data[index]);
    const py::ref name = arrived->names[index];  // stays: sendto() may be given it
    delivering = true;
    const py::ref done = call_protocol(core->state->str_datagram_received, data.get(), name.get());
    delivering = false;
    if (!done) {
        protocol_raised(core->state->str_read_ready.get());
    }
}

void DatagramTransport::tell_error(const py::ref& error, PyObject* in_method) noexcept {
    if (!call_protocol(core->state->str_error_received, error.get())) {
        protocol_raised(in_method);
    }
}

/// Reports it as asyncio's loop does, of the callback that its transport has. The indicator is set.
void DatagramTransport::protocol_raised(PyObject* in_method) noexcept {
    if (py::error_is_fatal()) {
        core->fail();
        return;
    }
    const py::ref error = py::take_error();
    if (!py::try_call_method(core->self(), core->state->str_protocol_raised.get(), self(), error.get(),
                             in_method)) {
        core->fail();
    }
}

}  // namespace zl
