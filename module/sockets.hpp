// module/sockets.hpp: Python's socket objects: their numbers, and new ones for descriptors of ours.
//
// Python owns a descriptor from the moment at which its object has the number, and closes it with that. So a
// new object is ours before it has a number: whatever interrupts the rest, the number is taken back from it.
#pragma once

#include "state.hpp"

namespace zl {

/// The number that `sock` has, -1 when it is closed. Throws TypeError when it is no socket. Of a socket it
/// calls no Python.
int socket_number(const module_state& state, PyObject* sock);

/// As above, of what is known to be a socket.
int known_socket_number(const module_state& state, PyObject* sock);

/// Takes the number away from `sock`, which is closed then, and leaves the descriptor open. Calls no Python.
void take_number_from(const module_state& state, PyObject* sock) noexcept;

/// A new, non-blocking socket.socket that owns `descriptor`. Throws, and then it is the caller's as before.
py::ref socket_object(const module_state& state, int descriptor);

}  // namespace zl
