"""The types of messages.py for Cython, which compiles it."""

cimport cython


cdef class Head:
    cdef readonly str method
    cdef public str path, query
    cdef readonly tuple hosts
    cdef readonly object content_length
    cdef readonly bint is_streamed, is_http10, cannot_stream
    cdef public object peer, client
    cdef object _headers
    cpdef get(self, str key)
    cpdef get_all(self, str key)


cpdef joined(str name, lines)


@cython.final
cdef class Record:
    cdef readonly str topic
    cdef readonly bytes value, key
    cdef readonly list headers
    cdef readonly int partition
