"""The types of producer_pool.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t


@cython.final
cdef class Channel:
    cdef readonly int number, kind, delivery_class
    cdef readonly object times
    cdef public object producer, spare
    cdef public int64_t replace_from_ns


@cython.final
cdef class ProducerPool:
    cdef readonly list channels, retired
    cdef object _make, _close, _oldest_ns, _take_reports, _replaced

    @cython.locals(channel=Channel, age_ns=int64_t)
    cpdef retire_overdue(self, int64_t now_ns)

    cpdef replace_dead(self, Channel channel, int64_t now_ns, detail)

    cdef _retire(self, Channel channel, int64_t now_ns, int64_t give_up_ns, why)

    cpdef settle_retired(self, int64_t now_ns)
