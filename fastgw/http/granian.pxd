"""The types of granian.py for Cython, which compiles it."""

cimport cython

from fastgw.admission cimport Admission


@cython.final
cdef class _Client:
    cdef readonly object peer
    cdef public int open, unread, late, fd
    cdef public double answered_s
    cdef public Py_ssize_t unmetered_bytes


@cython.final
cdef class _Headers:
    cdef dict _lines
    cpdef get_all(self, str key)
    cpdef first(self, bytes name)
    cpdef refusal(self, str version)


@cython.final
cdef class _Request:
    cdef object _front
    cdef readonly object _gone
    cdef str _http_version
    cdef bint _is_open, _is_head
    cdef readonly object proto
    cdef readonly _Client client
    cdef public object token
    cpdef answer(self, int status, list headers, bytes body, bytes request_id)
    cpdef _has_left(self)
    cdef _end(self)
    cdef bint _must_be_metered(self, Py_ssize_t size_bytes) except -1


@cython.final
cdef class _MeteredAnswer:
    cdef object _front, _proto
    cdef _Client _client, _connection
    cdef Py_ssize_t _size_bytes
    cdef bytes _last
    cdef bint _is_late
    cdef _go_on(self)
    cdef bint _has_to_wait(self, future) except -1
    cdef _end(self)


@cython.final
cdef class _Body:
    cdef object _front
    cdef readonly object _future
    cdef _Request _request
    cdef Admission _admission
    cdef list _parts
    cdef readonly Py_ssize_t _got_bytes
    cdef Py_ssize_t _part_count, _held_bytes
    cdef readonly double deadline
    cdef bint _can_fit(self, Py_ssize_t size_bytes) except -1
    cdef _ask(self)
    cdef bint _keep(self, bytes part) except -1
    cdef bint _hold(self, bytes part) except -1
    cdef bint _may_be_reset(self) except -1
    cdef _ask_for_reset(self)
    cdef bytes _joined(self)
    cdef _complete(self, bytes body)
    cdef _cut_short(self)
    cdef _break_off(self, ending, str detail)
    cdef _give_back(self)
