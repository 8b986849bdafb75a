"""The types of plain.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.messages cimport Head


@cython.final
cdef class RequestWire:
    cdef list _fixed, _copied, _about_client
    cdef dict _methods, _paths
    cdef tuple _reply_partition_header, _deadline_header
    cdef int64_t _reply_partition, _deadline

    @cython.locals(out=list)
    cpdef list headers(
        self, bytes correlation_id, int reply_partition, int64_t deadline_epoch_ms, str method, str path, str query,
        tuple params, Head http_headers,
    )


@cython.final
cdef class ReplyWire:
    cdef object _allowed
    cdef dict _made, _made_of_nothing
    cdef object _memory
    cdef list _always
    cdef Py_ssize_t _max_body_bytes, _max_header_bytes
    cdef bint _shows_id
    cpdef tuple answer(self, reply)
    cdef tuple _make(self, reply)
    cdef _check_size(self, list headers)
    cdef _remember(self, dict known, tuple key, tuple made)
