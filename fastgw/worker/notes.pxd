"""The types of notes.py for Cython, which compiles it."""

cimport cython

from fastgw.worker.access_log cimport AccessLog, Note
from fastgw.messages cimport Head


@cython.final
cdef class Notes:
    cdef object _policies, _route_names
    cdef str _secret_prefix
    cdef AccessLog _access
    cpdef tuple take(self, Head head, route_number, bytes_in)
    cdef str _shown(self, str path)
    cpdef dressed(self, tuple kept, list headers)
    cpdef ended(self, tuple kept, ending, int status, bytes request_id, Py_ssize_t bytes_out, tuple times)
