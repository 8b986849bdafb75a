"""The types of batching.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.messages cimport Record


@cython.final
cdef class Lane:
    cdef readonly str topic
    cdef readonly bint stays
    cdef public dict waiting
    cdef public int complete, flight, partition
    cdef public int64_t since_ns, boards_until_ns, chosen_ns
    cdef public set taken


@cython.final
cdef class RecordQueue:
    cdef object _producer, _come_back, _refused
    cdef int64_t _linger_ns, _boarding_ns, _patience_ns, _gather_ns, _stay_ns, _waiting_bytes, _waiting_bytes_max
    cdef dict _lanes, _spread_lanes, _aloft
    cdef dict _gathering
    cdef int _last

    cpdef int64_t oldest_ns(self) except -1

    @cython.locals(lane=Lane, is_first=bint, wait_ns=int64_t)
    cpdef send(self, Record record, int64_t token, int concurrency_hint, int64_t now_ns)

    @cython.locals(lane=Lane)
    cpdef bint withdraw(self, int64_t token)

    cpdef leave(self, int64_t now_ns)

    cpdef landed(self, numbers, int64_t now_ns)

    cdef bint _is_on_its_way(self, Lane lane) except -1
    cdef int64_t _wait_ns(self, Lane lane, int count) except -1

    @cython.locals(lane=Lane, due_ns=int64_t)
    cdef _leave_if_due(self, lanes, int64_t now_ns)

    @cython.locals(number=int)
    cdef bint _begin(self, Lane lane, int64_t now_ns) except -1

    @cython.locals(count=int, first=int, step=int, partition=int)
    cdef bint _choose_partition(self, Lane lane, int64_t now_ns) except -1

    @cython.locals(number=int)
    cdef int _free_number(self) except -1

    @cython.locals(record=Record)
    cdef list _leave(self, Lane lane)

    cdef _hand_over_first(self, Lane lane, Record record, token)
    cdef _hand_over(self, Lane lane, Record record, token)
    cdef _call_off(self, Lane lane)

    @cython.locals(lane=Lane)
    cdef _end(self, int number)
