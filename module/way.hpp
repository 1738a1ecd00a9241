// module/way.hpp: a way that asyncio goes step by step, where programs override some steps and replace
// others.
//
// Ours is shorter, and gives the same where nobody has touched a step: a method of the loop's class or of a
// base, of another class, or something that a module has. Steps are remembered as they are when the way is
// made, which is when zloop is imported.
#pragma once

#include "state.hpp"

namespace zl {

/// Makes _Way, which loop.py makes its ways of. Throws.
void add_way_type(PyObject* module, module_state& state);

}  // namespace zl
