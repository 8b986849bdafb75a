"""The types of arrival_rate.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t


@cython.final
cdef class ArrivalRate:
    cdef int64_t _window
    cdef int _count
    cdef bint _was_rare

    @cython.locals(window=int64_t, count=int)
    cpdef bint is_alone(self, int64_t now_ns)
