"""The types of native_link.py for Cython, which compiles it."""

cimport cython

from libc.stdint cimport int64_t

from fastgw.kafka._klink cimport Consumer, Producer
from fastgw.kafka.batching cimport RecordQueue
from fastgw.messages cimport Record


@cython.final
cdef class NativeLink:
    cdef object _events, _loop, _slots, _reply_topic
    cdef int _reply_fd, _event_fd, _alarm_fd
    cdef int64_t _alarm_ns
    cdef int _classes
    cdef list _producer_settings, _topics, _producers, _patience, _flights, _replace_from_ns, _retired
    cdef Consumer _consumer
    cdef set _reading
    cdef dict _spares, _questions, _partitioners
    cdef int64_t _question
    cdef bint _closed

    @cython.locals(number=int, flights=RecordQueue, producer=Producer)
    cpdef send(self, Record record, int64_t token, int delivery_class, int concurrency_hint, int64_t now_ns)
