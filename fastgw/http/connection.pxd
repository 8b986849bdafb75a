"""The types of connection.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.admission cimport Admission
from fastgw.http._http1 cimport MessageEnd, RequestHead, scan, whole_answer
from fastgw.http.chunked cimport ChunkedBody
from fastgw.http.streamed_answer cimport StreamedAnswer

cdef int _CARRIAGE_RETURN, _HEAD, _BODY, _WAITING, _STREAMING, _STALLED, _ENDED


@cython.final
cdef class Connection:
    cdef object _front, _door, _answer, _transport, _write, _feed, _watch, _partial, _peer
    cdef Admission _admission
    cdef dict _heads_made
    cdef MessageEnd _message
    cdef int _state
    cdef double _quiet_since
    cdef ChunkedBody _chunks
    cdef bytes _unread
    cdef bytearray _body
    cdef bint _unflushed, _keep_alive, _is_head, _is_http10, _is_followed
    cdef Py_ssize_t _left, _held_bytes, _unflushed_bytes, _small_head_bytes
    cdef object _token
    cdef StreamedAnswer _stream
    cdef int64_t _written_bytes, _taken_bytes

    @cython.locals(at=Py_ssize_t)
    cpdef data_received(self, bytes data)

    @cython.locals(head=RequestHead, end=Py_ssize_t)
    cdef Py_ssize_t _take_head(self, bytes data, Py_ssize_t at) except -2

    @cython.locals(end=Py_ssize_t, left=Py_ssize_t)
    cdef Py_ssize_t _begin_request(self, RequestHead head, Py_ssize_t available) except -2

    @cython.locals(message=MessageEnd)
    cdef bint _parse(self, RequestHead head, bytes data, Py_ssize_t at, Py_ssize_t end) except -1

    cdef _admit(self, RequestHead head, bytes data, Py_ssize_t at, Py_ssize_t end)
    cdef _open(self, Admission admission, bytes body)

    cdef Py_ssize_t _take_body(self, bytes data, Py_ssize_t at) except -2

    @cython.locals(chunks=ChunkedBody)
    cdef Py_ssize_t _take_chunks(self, bytes data, Py_ssize_t at) except -2

    @cython.locals(limit=Py_ssize_t, got=Py_ssize_t)
    cdef bint _is_within_limits(self, ChunkedBody chunks) except -1
    cdef bint _take_room(self, Py_ssize_t size_bytes) except -1

    @cython.locals(head=bytes)
    cpdef _take_answer(self, int status, list headers, bytes body, bytes request_id)
