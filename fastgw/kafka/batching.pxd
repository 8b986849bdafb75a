"""The types of batching.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.kafka._klink cimport RecordMemory, record_bytes
from fastgw.messages cimport Record


@cython.final
cdef class TopicQueue:
    cdef readonly str topic
    cdef readonly bint sticky
    cdef public dict waiting
    cdef public int enough, batch, partition, to
    cdef public int64_t since_ns, open_until_ns, chosen_ns
    cdef public set busy


@cython.final
cdef class RecordQueue:
    cdef readonly object producer
    cdef object _wake_at, _refused, _draw
    cdef int64_t _linger_ns, _open_ns, _stalled_ns, _gather_ns, _sticky_ns
    cdef RecordMemory _memory
    cdef dict _sticky, _spread, _addressed, _outstanding
    cdef dict _gathering
    cdef int _last
    cdef int64_t _untracked

    cpdef int64_t oldest_ns(self) except -1

    @cython.locals(queue=TopicQueue, is_first=bint, wait_ns=int64_t, size_bytes=int64_t)
    cpdef send(self, Record record, int64_t token, int concurrency_hint, int64_t now_ns)

    @cython.locals(queue=TopicQueue, is_first=bint, size_bytes=int64_t)
    cpdef send_untracked(self, Record record, int64_t now_ns)

    @cython.locals(queue=TopicQueue)
    cpdef bint cancel_unsent(self, int64_t token)

    cpdef acknowledged(self, batches, int64_t now_ns)

    @cython.locals(queue=TopicQueue, due_ns=int64_t)
    cpdef flush_due(self, int64_t now_ns)

    cdef bint _is_outstanding(self, TopicQueue queue) except -1
    cdef int64_t _wait_ns(self, TopicQueue queue, int count) except -1

    @cython.locals(number=int)
    cdef bint _begin_batch(self, TopicQueue queue, int64_t now_ns) except -1

    @cython.locals(count=int, first=int, step=int, partition=int, stays=bint)
    cdef bint _choose_partition(self, TopicQueue queue, int64_t now_ns) except -1

    @cython.locals(number=int)
    cdef int _free_number(self) except -1

    @cython.locals(record=Record)
    cdef list _hand_over_waiting(self, TopicQueue queue)

    cdef _hand_over_first(self, TopicQueue queue, Record record, token)
    cdef _hand_over(self, TopicQueue queue, Record record, token)
    cdef _hand_over_to(self, TopicQueue queue, Record record)
    cdef _abandon_batch(self, TopicQueue queue)

    @cython.locals(queue=TopicQueue)
    cdef _end_batch(self, int number)
