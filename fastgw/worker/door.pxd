"""The types of door.py for Cython, which compiles it."""

cimport cython

from fastgw._ctable cimport Table
from fastgw.admission cimport Admission
from fastgw.core.exchange cimport Exchange
from fastgw.core.routing cimport Router


@cython.final
cdef class GatewayDoor:
    cdef readonly object bodies, answers
    cdef Router _router
    cdef Exchange _exchange
    cdef Table _table
    cdef int _process_index
    cdef object _journal, _policies, _later, _tickets, _keyed, _streams, _stream_routes
    cdef bint _keeps_heads
