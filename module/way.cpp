// module/way.cpp: see way.hpp.

#include "way.hpp"

#include <algorithm>
#include <new>
#include <vector>

#include "as_made.hpp"

namespace zl {

namespace {

struct way_fields {
    py::ref names;                       // tuple: what the object that goes it may have instead
    py::ref of_modules;                  // list of (module's dictionary, name, what it was)
    std::vector<class_as_made> classes;  // the object's own first
};

struct Way : py::object, way_fields {
    using owned = py::owned<&way_fields::names, &way_fields::of_modules>;

    static PyObject* make(PyTypeObject* type, PyObject* args, PyObject* keywords) noexcept;

    py::ref is_as_made_for(PyObject* object);

private:
    void add(PyObject* owner, PyObject* name);
    class_as_made& watched(PyObject* owner);
    bool modules_hold() const;
    bool has_own_steps(PyObject* object) const;
};

PyObject* Way::make(PyTypeObject* type, PyObject* args, PyObject*) noexcept {
    return py::detail::guarded([&] {
        PyObject* goers = nullptr;
        PyObject* steps = nullptr;
        if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &goers, &PyTuple_Type, &steps)) {
            throw py::error_set{};
        }
        py::ref made = py::ref::steal(type->tp_alloc(type, 0));
        Way& self = *reinterpret_cast<Way*>(made.get());
        ::new (static_cast<way_fields*>(&self)) way_fields;
        self.of_modules = py::ref::steal(PyList_New(0));
        self.watched(goers);
        const py::ref names = py::ref::steal(PySet_New(nullptr));
        for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(steps); ++index) {
            PyObject* owner = nullptr;
            PyObject* name = nullptr;
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(steps, index), "OU", &owner, &name) ||
                PySet_Add(names.get(), name) != 0) {
                throw py::error_set{};
            }
            self.add(owner, name);
        }
        self.names = py::ref::steal(PySequence_Tuple(names.get()));
        return made;
    });
}

void Way::add(PyObject* owner, PyObject* name) {
    if (PyType_Check(owner)) {
        watched(owner).remember(owner, name);
        return;
    }
    if (!PyModule_Check(owner)) {
        py::raise_format(PyExc_TypeError, "a step is a class's or a module's, not %R's", owner);
    }
    const py::ref was = py::ref::steal(PyObject_GetAttr(owner, name));
    const py::ref kept = py::ref::steal(PyTuple_Pack(3, PyModule_GetDict(owner), name, was.get()));
    if (PyList_Append(of_modules.get(), kept.get()) != 0) {
        throw py::error_set{};
    }
}

class_as_made& Way::watched(PyObject* owner) {
    for (class_as_made& each : classes) {
        // A class changes when one of its bases does.
        if (PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(each.type()),
                             reinterpret_cast<PyTypeObject*>(owner)) != 0) {
            return each;
        }
    }
    class_as_made& added = classes.emplace_back();
    added.watch(owner);
    return added;
}

bool Way::has_own_steps(PyObject* object) const {
    const py::ref own = py::ref::steal(PyObject_GenericGetDict(object, nullptr));
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(names.get()); ++index) {
        const int found = PyDict_Contains(own.get(), PyTuple_GET_ITEM(names.get(), index));
        if (found < 0) {
            throw py::error_set{};
        }
        if (found != 0) {
            return true;
        }
    }
    return false;
}

bool Way::modules_hold() const {
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(of_modules.get()); ++index) {
        PyObject* const kept = PyList_GET_ITEM(of_modules.get(), index);
        PyObject* const now =
            PyDict_GetItemWithError(PyTuple_GET_ITEM(kept, 0), PyTuple_GET_ITEM(kept, 1));  // borrowed
        if (now != PyTuple_GET_ITEM(kept, 2)) {
            if (now == nullptr && PyErr_Occurred() != nullptr) {
                throw py::error_set{};
            }
            return false;
        }
    }
    return true;
}

py::ref Way::is_as_made_for(PyObject* object) {
    const bool is_one = classes.front().holds_for(object);
    return py::boolean(
        is_one &&
        std::all_of(classes.begin(), classes.end(), [](class_as_made& each) { return each.holds(); }) &&
        modules_hold() && !has_own_steps(object));
}

int way_traverse(PyObject* object, visitproc visit, void* arg) {
    Way& self = *reinterpret_cast<Way*>(object);
    Py_VISIT(Py_TYPE(object));
    for (const class_as_made& each : self.classes) {
        if (const int stopped = each.visit(visit, arg)) {
            return stopped;
        }
    }
    return Way::owned::visit(self, visit, arg);
}

int way_clear(PyObject* object) {
    Way& self = *reinterpret_cast<Way*>(object);
    for (class_as_made& each : self.classes) {
        each.reset();
    }
    Way::owned::clear(self);
    return 0;
}

void way_destroy(PyObject* object) {
    Way& self = *reinterpret_cast<Way*>(object);
    PyTypeObject* const type = Py_TYPE(object);
    static_cast<way_fields&>(self).~way_fields();
    type->tp_free(object);
    Py_DECREF(type);
}

}  // namespace

void add_way_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&Way::is_as_made_for>(
            "is_as_made_for",
            "is_as_made_for($self, object, /)\n--\n\n"
            "Whether the object, exactly of that class, goes it as it was made."),
        {},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc,
         const_cast<char*>("_Way(type, steps, /)\n--\n\n"
                           "The steps, each (class or module, name), of asyncio's way to something.")},
        {Py_tp_new, reinterpret_cast<void*>(&Way::make)},
        {Py_tp_traverse, reinterpret_cast<void*>(&way_traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&way_clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&py::deallocated<&way_destroy>)},
        {Py_tp_methods, methods},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop._Way", sizeof(Way), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
    state.way_type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, nullptr));
}

}  // namespace zl
