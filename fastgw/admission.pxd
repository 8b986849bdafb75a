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
    cdef readonly int64_t body_bytes, max_body_bytes
    cdef public object connection
    cdef public int64_t timeout_ns
    cdef public int kind
    cdef public int64_t defer_after_ns
    cdef public bint is_async
    cdef public str media_type
