"""The head of a request, for who reads its fields in C; what they mean is in _http1.pyi."""

cimport cython

from libc.stdint cimport uint64_t

from fastgw.messages cimport Head

cdef struct span:            # part of the head: [start, stop)
    const char* start
    const char* stop


@cython.final
cdef class RequestHead(Head):
    cdef bytes _data          # keeps the bytes alive that the pointers below are into
    cdef const char* _start   # of the first header line
    cdef const char* _stop    # of the empty line
    cdef uint64_t _names      # a bit for each header name, see bit_of
    cdef readonly Py_ssize_t end
    cdef readonly str fault
    cdef readonly str target
    cdef readonly bint is_plain
    cdef readonly bint is_head
    cdef readonly bint is_kept_alive
    cdef readonly bint is_expecting
    cdef int _read_request_line(self, span line) except -1
    cdef int _read_version(self, const char* start, const char* stop) except -1
    cdef int _read_headers(self) except -1
    cdef int _find_fault(self, str fault) except -1


cpdef RequestHead scan(bytes data, Py_ssize_t at)
cpdef bytes whole_answer(bytes head, bytes request_id, bytes body)


@cython.final
cdef class MessageEnd:
    cdef public bint seen
