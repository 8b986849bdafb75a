"""The types of admission.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.messages cimport Head


@cython.final
cdef class Admission:
    cdef readonly int route_number
    cdef readonly str method, path, query
    cdef readonly tuple params
    cdef readonly Head headers
    cdef readonly int64_t body_bytes, timeout_ns, max_body_bytes
