"""The types of native_link.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.kafka._klink cimport Consumer, Producer, RecordMemory
from fastgw.kafka.batching cimport RecordQueue
from fastgw.kafka.producer_pool cimport Channel, ProducerPool
from fastgw.messages cimport Record


@cython.final
cdef class NativeLink:
    cdef object _events, _loop, _slots, _reply_topic
    cdef int _reply_fd, _event_fd, _alarm_fd
    cdef int64_t _alarm_ns
    cdef ProducerPool _pool
    cdef list _properties, _topics
    cdef RecordMemory _memory
    cdef list _queues  # by number of the pool's channels
    cdef list _gathering, _at_once  # the same queues by kind and delivery class
    cdef Consumer _consumer
    cdef set _reading
    cdef dict _questions, _partitioners
    cdef int64_t _question
    cdef bint _closed

    @cython.locals(gathers=bint, queue=RecordQueue, producer=Producer)
    cpdef send(self, Record record, int64_t token, int delivery_class, int concurrency_hint, int64_t now_ns)

    @cython.locals(channel=Channel, producer=Producer, queue=RecordQueue)
    cdef _take_producers_events(self)

    @cython.locals(queue=RecordQueue, producer=Producer)
    cpdef int64_t _oldest_ns(self, Channel channel) except -1
