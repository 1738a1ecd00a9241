// module/turns.cpp: a turn by hand, for hosts that replace _run_once() by Python of their own: nest_asyncio's
// asks a selector, then takes what is ready one by one and runs it, from inside of a callback of ours, too. A
// handle is taken out of the queue as itself. Any other op stays there until it is run: nobody could own it
// outside.

#include "loop_core.hpp"
#include "moments.hpp"

namespace zl {

py::ref LoopCore::gather(PyObject* timeout) {
    check_closed();
    zloop::nanoseconds limit = zloop::loop::forever;
    if (timeout != Py_None) {
        const double seconds = seconds_from(PyFloat_AsDouble(timeout));
        limit = deadline_of(seconds).time_since_epoch();
        check_closed();
    }
    held.push_all();  // of the callback that we are in, too: its end may wait for what that brings
    raise_failure();
    loop->begin_run();
    const bool alone = !turning;  // else the turn that we are in counts as awake already
    state->awake += alone ? 1 : 0;
    const at_exit asleep{[this, alone] {
        state->awake -= alone ? 1 : 0;
        if (alone && loop && !is_lent()) {
            static_cast<void>(loop->leave_thread());
        }
    }};
    loop->gather(loop->has_ready() ? zloop::nanoseconds::zero() : limit);
    loop->interrupt();
    raise_failure();
    return py::none();
}

py::ref LoopCore::count_ready() {
    long long count = 0;
    if (loop) {
        for (const zloop::op_queue* queue : {&loop->ready(), &loop->behind()}) {
            for (const zloop::op* node = queue->front(); node != nullptr; node = node->next) {
                ++count;
            }
        }
    }
    return py::integer(count);
}

py::ref LoopCore::list_ready() {
    py::ref list = py::ref::steal(PyList_New(0));
    // Before anything is allocated, which may collect garbage and so run callbacks: what is there now.
    std::vector<py::ref> handles;
    if (loop) {
        for (zloop::op* node = loop->ready().front(); node != nullptr; node = node->next) {
            if (PyObject* handle = handle_of(*node)) {
                show_handle(*node);
                handles.push_back(py::ref::borrow(handle));
            }
        }
    }
    for (const py::ref& handle : handles) {
        if (PyList_Append(list.get(), handle.get()) != 0) {
            throw py::error_set{};
        }
    }
    return list;
}

py::ref LoopCore::take_ready() {
    if (!loop || (loop->ready().empty() && loop->behind().empty())) {
        py::raise(PyExc_IndexError, "pop from an empty deque");
    }
    zloop::op& node = loop->take_ready();
    if (handle_of(node) != nullptr) {
        return take_handle(node);
    }
    loop->put_back(node);
    return py::none();
}

py::ref LoopCore::run_ready() {
    check_closed();
    if (!loop->ready().empty() || !loop->behind().empty()) {
        zloop::op& node = loop->take_ready();
        node.run(node);
        raise_failure();
    }
    return py::none();
}

py::ref LoopCore::put_back(const py::arguments& args) {
    if (args.count != 2) {
        py::raise(PyExc_TypeError, "_put_back(handle, in_front)");
    }
    const bool in_front = py::truth(args.values[1]);
    check_closed();
    zloop::op* const node = return_handle(*this, args.values[0]);
    if (node == nullptr) {
        return py::boolean(false);
    }
    if (in_front) {
        loop->put_back(*node);
    } else {
        loop->push(*node);
        loop->interrupt();
    }
    return py::boolean(true);
}

}  // namespace zl
