"""The types of streamed_answer.py for Cython, which compiles it."""

cimport cython


cdef list _chunk(bytes data)


@cython.final
cdef class StreamedAnswer:
    cdef object _carrier
    cdef bint _has_body, _has_begun

    cpdef bint write(self, bytes data) except -1
