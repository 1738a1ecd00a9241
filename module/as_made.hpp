// module/as_made.hpp: whether a class's parts are still those that asyncio gave it.
//
// What ours reaches around, programs replace: tests, tracers, firewalls. So it is looked at before each time.
// CPython gives a class a new version whenever it, or one of its bases, has changed; the look is the
// comparison of a number, until then.
#pragma once

#include "py.hpp"

namespace zl {

class class_as_made {
public:
    /// Watches `type`. Throws.
    void watch(PyObject* type);

    /// Remembers what `names` are in `owner`, which is the type, or a base of it: functions and properties of
    /// `module`'s, descriptors of C, or nothing. Where something is another's already, nothing is as made.
    /// `names` ends with a null. Throws.
    void remember(PyObject* owner, PyObject* module, const char* const* names);

    /// Remembers what `name` is in `owner` now, whoever made it. Throws.
    void remember(PyObject* owner, PyObject* name) { keep(owner, name); }

    bool holds() noexcept { return looked_at_ != 0 && looked_at_ == version() ? holds_ : look(); }

    /// Whether that is exactly the object's class, and as made.
    bool holds_for(PyObject* object) noexcept {
        return Py_TYPE(object) == reinterpret_cast<PyTypeObject*>(type_.get()) && holds();
    }

    PyObject* type() const noexcept { return type_.get(); }

    // For the owner's.
    int visit(visitproc visitor, void* arg) const {
        const int stopped = type_ ? visitor(type_.get(), arg) : 0;
        return stopped == 0 && parts_ ? visitor(parts_.get(), arg) : stopped;
    }
    void reset() noexcept;

private:
    py::ref keep(PyObject* owner, PyObject* name);
    bool look() noexcept;
    unsigned version() const noexcept {  // 0: it has changed, and nobody has looked since
        return reinterpret_cast<PyTypeObject*>(type_.get())->tp_version_tag;
    }

    py::ref type_;
    py::ref parts_;  // list of (owner, name, what it was); None where there was nothing
    unsigned looked_at_ = 0;
    bool known_ = false;  // all were as made when we came
    bool holds_ = false;
};

}  // namespace zl
