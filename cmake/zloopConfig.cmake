# find_package(zloop): defines zloop::zloop. Installed by meson and by CMake alike.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/zloopTargets.cmake")
