"""The types of exchange.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw._ctable cimport SlotRange, Table
from fastgw._ids cimport IdMaker
from fastgw.admission cimport Admission
from fastgw.core.arrival_rate cimport ArrivalRate
from fastgw.core.plan cimport Plan, SlotQuota

cdef Py_ssize_t _LARGE_BYTES


@cython.final
cdef class Exchange:
    cdef Table _table
    cdef SlotRange _slots
    cdef int _process_index
    cdef int64_t _first_slot
    cdef list _waiting
    cdef dict _plans, _waiters
    cdef IdMaker _ids
    cdef ArrivalRate _arrival_rate
    cdef object _send, _cancel_unsent, _journal, _notes, _closed_by, _closed_why
    cdef SlotQuota _quota
    cdef int _partition_count
    cdef readonly object answers
    cdef public int home
    cdef public int64_t epoch_offset_ns

    @cython.locals(plan=Plan, slot=int64_t, token=int64_t, deadline_ns=int64_t)
    cpdef int64_t open(self, Admission admission, bytes body, answer, int64_t now_ns)

    @cython.locals(concurrency_hint=int)
    cdef bint _send_record(self, int64_t token, record, Plan plan, bytes raw, int64_t now_ns) except -1

    @cython.locals(plan=Plan)
    cpdef reserve(self, Admission admission)

    @cython.locals(token=int64_t, waiting=tuple, ack_to_reply_ns=int64_t)
    cpdef resolve(self, cid, reply, int64_t now_ns)

    @cython.locals(token=int64_t, plan=Plan, response=tuple, raw=bytes, body=bytes, ack_to_reply_ns=int64_t)
    cdef int64_t _answer(self, tuple waiting, reply, int64_t now_ns) except -2
    cdef tuple _take(self, int64_t token, ending=*)

    @cython.locals(plan=Plan)
    cdef _end(self, int64_t token, ending, detail, bint is_heard=*)

    @cython.locals(plan=Plan)
    cdef tuple _close(self, int64_t token, ending)
    cdef _give_up(self, int64_t token, why)
    cdef bint _is_unsent(self, int64_t token) except -1
    cdef _learn(self, Plan plan, bytes raw, cid, partition, int64_t ack_to_reply_ns)
    cdef tuple _failed(self, Plan plan, ending, detail, bytes raw)
    cdef _note(self, head, route_number, bytes_in)
    cdef _respond(self, str route, bytes raw, answer, tuple response, ending, kept, times)
    cdef _respond_as_is(self, str route, bytes raw, answer, tuple response, ending, kept, times)
    cdef tuple _dressed(self, kept, tuple response, str route)
