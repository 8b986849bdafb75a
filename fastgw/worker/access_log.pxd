"""The types of access_log.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t


@cython.final
cdef class Note:
    cdef readonly str route, method, path, query, client, client_request_id, traceparent
    cdef readonly Py_ssize_t bytes_in


@cython.final
cdef class AccessLog:
    cdef bint _logs_all, _has_path, _has_query
    cdef double _sample
    cdef int _worker
    cdef object _on_dropped, _encode
    cdef readonly object _writer
    cdef list _gathered
    cdef readonly Py_ssize_t _gathered_bytes
    cdef int64_t _dropped, _unreported, _epoch_ms
    cdef double _report_from
    cdef str _time

    @cython.locals(now_ns=int64_t, claimed_ns=int64_t, sent_ns=int64_t, recorded_ns=int64_t, line=bytes)
    cpdef write(self, Note note, ending, int status, bytes request_id, Py_ssize_t bytes_out, tuple times)

    @cython.locals(epoch_ms=int64_t)
    cdef str _now(self)


cdef str _shown(str query)


cdef str _trace_id(str traceparent)
