"""The types of chunked.py for Cython, which compiles it."""

cimport cython

from fastgw.http._http1 cimport MessageEnd


@cython.final
cdef class ChunkedBody:
    cdef readonly bytearray content
    cdef MessageEnd _end
    cdef object _feed
    cdef bytes _tail
    cdef Py_ssize_t _wire_bytes

    @cython.locals(joined=bytes, start=Py_ssize_t, searched=Py_ssize_t, found=Py_ssize_t, end=Py_ssize_t)
    cpdef Py_ssize_t take(self, bytes data, Py_ssize_t at) except -1
    cpdef bint is_bloated(self, Py_ssize_t free_bytes) except -1
