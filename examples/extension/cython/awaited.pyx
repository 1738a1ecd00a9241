# distutils: language = c++
# cython: language_level = 3
"""The same in Cython, on python.hpp alone."""

from libcpp.string cimport string


cdef extern from "awaited.hpp" namespace "awaited":
    object c_greet "awaited::greet"(string name)
    object c_length "awaited::length"(object awaitable)


def greet(str name):
    """Give an awaitable of a greeting."""
    return c_greet(name.encode())


def length(awaitable):
    """Give an awaitable of the length of what that gives."""
    return c_length(awaitable)
