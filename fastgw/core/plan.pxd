"""The types of plan.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.dialects.plain cimport ReplyWire, RequestWire


@cython.final
cdef class Plan:
    cdef public int number, max_in_flight, in_flight, delivery_class, partition
    cdef public int64_t backlog_ns
    cdef public bint has_consumer, cancels
    cdef public str name, topic
    cdef public RequestWire wire, later_wire, stream_wire
    cdef public int64_t work_timeout_ns
    cdef public ReplyWire reply_wire
    cdef public object learner, spread, key_of, compressor, key_rules, stream


@cython.final
cdef class SlotQuota:
    cdef readonly int own, shared_left
    cpdef bint take(self, Plan plan) noexcept
    cpdef void give(self, Plan plan) noexcept
