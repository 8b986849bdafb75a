# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Producer and consumer for one event loop, on the librdkafka of the confluent-kafka wheel. No call waits.

    the loop (one thread, all calls below)              librdkafka's threads
      Producer.send ── record, token ──────────────────> batches, sends, retries
      Client.events <── queue, wakes `event_fd` ──────── delivery reports; errors, logs, statistics, offsets
      Consumer.replies <── queue, wakes `reply_fd` ───── records of the response topic

There are two eventfds, so that a wake-up has to check as few queues as possible. librdkafka writes to an eventfd only
when an empty queue gets an entry. So the reader must empty the queue, or schedule itself again.

In the normal case replies are the only Python objects: a delivery report marks the slot in the shared table, here in C.
All other events are rare and become one of the named tuples below. The status of a failed record comes from
`rd_kafka_message_status`, because only librdkafka knows whether the record ever left for a broker; an error code does
not show that.

Memory: librdkafka copies a record when it is sent; this module copies a reply before it returns the message. A client
that was not closed is closed when it is collected. `close` waits for librdkafka's threads, so call it on a thread of
its own.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.list cimport PyList_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport strcmp, strlen

from collections import namedtuple

from fastgw._ctable cimport (
    CT_PARTITIONS_MAX, CT_RECORDED, CT_SINGLE, SlotRange, ct_advance, ct_kind_of, ct_load_relaxed, ct_named, ct_slot,
)
from fastgw._ids cimport id_in

from fastgw.messages import Reply

cdef extern from "_tuple.h":
    object tuple_to_fill(object type, Py_ssize_t size)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* bytes) except NULL

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_read(int fd, uint64_t* value)
    int eventfd_write(int fd, uint64_t value)

cdef enum:
    REPLIES_AT_ONCE = 512
    WHY_BYTES = 512           # room for librdkafka's reasons
    SAME_AGE_NS = 100_000_000  # an unbatched record sent this long after the first of a bucket counts as younger
    ERR_DESTROY = -197        # RD_KAFKA_RESP_ERR__DESTROY
    ERR_QUEUE_FULL = -184     # RD_KAFKA_RESP_ERR__QUEUE_FULL

OFFSET_BEGINNING = -2
OFFSET_END = -1
REPLIES_MAX = REPLIES_AT_ONCE
LAST_BATCH = FIRST_BUCKET - 1
NO_ROOM = ERR_QUEUE_FULL, "too many bytes wait until Kafka acknowledges earlier records"

NOT_PERSISTED = RD_KAFKA_MSG_STATUS_NOT_PERSISTED
POSSIBLY_PERSISTED = RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED
PERSISTED = RD_KAFKA_MSG_STATUS_PERSISTED

Delivered = namedtuple("Delivered", "token at_ns partition")
Undelivered = namedtuple("Undelivered", "token code status text partition")
ClientError = namedtuple("ClientError", "code name text fatal")
LogLine = namedtuple("LogLine", "level facility text")
Statistics = namedtuple("Statistics", "text")
Offsets = namedtuple("Offsets", "request found failed text")

cdef object reply_type = Reply
cdef int64_t TOKEN_MASK = (<int64_t>1 << TOKEN_BITS) - 1
cdef int64_t UNTRACKED_TOKEN = TOKEN_MASK  # of a record whose delivery is not reported
cdef int64_t NEVER_NS = (<uint64_t>1 << 63) - 1
UNTRACKED = UNTRACKED_TOKEN
cdef uint64_t ONE = 1         # librdkafka writes these 8 bytes to an eventfd


def load(str path):
    cdef bytes encoded = path.encode()
    cdef const char* missing = kl_load(encoded)
    if missing != NULL:
        raise OSError(f"{path}: {text_of(missing) if strcmp(missing, encoded) else 'not loaded in this process'}")
    return rd_kafka_version(), text_of(rd_kafka_version_str())


def clear(int fd):
    cdef uint64_t ignored
    return eventfd_read(fd, &ignored) == 0


def alarm():
    cdef int fd = kl_alarm_new()
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return fd


cpdef set_alarm(int fd, uint64_t at_ns):
    kl_alarm_set(fd, at_ns)


# Copies a string of librdkafka at once: it is valid only until its owner (an event, a message, an error) is destroyed.
# Strings of err2str and err2name are constants, or live in a buffer of this thread until the next call.
cdef inline str text_of(const char* text):
    return PyUnicode_DecodeUTF8(text, strlen(text), "replace") if text != NULL else ""


cdef tuple refusal(rd_kafka_error_t* error):
    cdef tuple code_and_text = (rd_kafka_error_code(error), text_of(rd_kafka_error_string(error)))
    rd_kafka_error_destroy(error)
    return code_and_text


# Each subclass shuts down in its own __dealloc__: when the base's __dealloc__ runs, Cython has already cleared the
# fields of the subclass. no_gc_clear has the same reason.
@cython.no_gc_clear
cdef class Client:
    cdef int open(self, int type, list settings, int events, int event_fd) except -1:
        cdef char[WHY_BYTES] why
        cdef rd_kafka_conf_t* conf = rd_kafka_conf_new()
        why[0] = 0  # librdkafka does not promise a text with every refusal
        self.faults = []
        for name, value in [*settings, ("log.queue", "true")]:
            if rd_kafka_conf_set(conf, name.encode(), value.encode(), why, WHY_BYTES):
                rd_kafka_conf_destroy(conf)
                raise ValueError(text_of(why))
        rd_kafka_conf_set_events(conf, events | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_STATS)
        self.rk = rd_kafka_new(type, conf, why, WHY_BYTES)
        if self.rk == NULL:
            rd_kafka_conf_destroy(conf)
            raise ValueError(text_of(why))
        rd_kafka_set_log_queue(self.rk, NULL)
        self.main_queue = rd_kafka_queue_get_main(self.rk)
        rd_kafka_queue_io_event_enable(self.main_queue, event_fd, &ONE, sizeof(ONE))
        eventfd_write(event_fd, ONE)  # events from before the queue was watched cause no wake-up
        return 0

    @property
    def closed(self):
        return self.rk == NULL

    def fatal(self):
        cdef char[WHY_BYTES] why
        cdef int code = rd_kafka_fatal_error(self.rk, why, WHY_BYTES) if self.rk != NULL else 0
        return (code, text_of(why)) if code else None

    def events(self):
        cdef list told = self.faults
        cdef rd_kafka_event_t* event
        self.faults = []
        while self.rk != NULL:
            event = rd_kafka_queue_poll(self.main_queue, 0)
            if event == NULL:
                break
            try:
                told.extend(self.told(event))
            finally:
                rd_kafka_event_destroy(event)
        return told

    cdef object told(self, rd_kafka_event_t* event):
        cdef int kind = rd_kafka_event_type(event)
        if kind == RD_KAFKA_EVENT_ERROR:
            return [client_error(event)]
        if kind == RD_KAFKA_EVENT_LOG:
            return [log_line(event)]
        if kind == RD_KAFKA_EVENT_STATS:
            return [Statistics(text_of(rd_kafka_event_stats(event)))]
        if kind == RD_KAFKA_EVENT_LISTOFFSETS_RESULT:
            return [offsets(event)]
        return []

    def mute(self):
        self.unwatch()

    def close(self):
        self.shut()

    cdef void unwatch(self) noexcept:
        if self.main_queue != NULL:
            rd_kafka_queue_io_event_enable(self.main_queue, -1, NULL, 0)

    cdef void shut(self) noexcept:
        cdef rd_kafka_t* rk = self.rk
        if rk == NULL:
            return
        self.unwatch()
        rd_kafka_queue_destroy(self.main_queue)
        self.rk, self.main_queue = NULL, NULL
        with nogil:
            rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)  # no group to leave


cdef object client_error(rd_kafka_event_t* event):
    cdef int code = rd_kafka_event_error(event)
    return ClientError(
        code,
        text_of(rd_kafka_err2name(code)),
        text_of(rd_kafka_event_error_string(event)),
        rd_kafka_event_error_is_fatal(event) != 0,
    )


cdef object log_line(rd_kafka_event_t* event):
    cdef const char* facility = NULL
    cdef const char* text = NULL
    cdef int level = 7
    rd_kafka_event_log(event, &facility, &text, &level)
    return LogLine(level, text_of(facility), text_of(text))


cdef object offsets(rd_kafka_event_t* event):
    cdef Py_ssize_t request = <Py_ssize_t>rd_kafka_event_opaque(event)
    cdef size_t count = 0
    cdef size_t i
    cdef const rd_kafka_ListOffsetsResultInfo_t** infos
    cdef const rd_kafka_topic_partition_t* answer
    cdef dict found = {}
    cdef dict failed = {}
    if rd_kafka_event_error(event):
        return Offsets(request, found, failed, text_of(rd_kafka_event_error_string(event)))
    infos = rd_kafka_ListOffsets_result_infos(rd_kafka_event_ListOffsets_result(event), &count)
    for i in range(count):
        answer = offsets_info_partition(infos[i])
        if answer.err == 0 and answer.offset >= 0:
            found[answer.partition] = answer.offset
        else:
            failed[answer.partition] = text_of(rd_kafka_err2str(answer.err))
    return Offsets(request, found, failed, "")


@cython.final
cdef class RecordMemory:
    def __cinit__(self, int64_t max_bytes=(1 << 63) - 1):
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def __repr__(self):
        return f"<RecordMemory {self.held_bytes} of {self.max_bytes} bytes>"


cpdef int64_t record_bytes(bytes value, bytes key, list headers) except -1:
    cdef int64_t total = PyBytes_GET_SIZE(value) + (PyBytes_GET_SIZE(key) if key is not None else 0)
    cdef str name
    cdef bytes header
    for name, header in headers:
        total += len(name) + PyBytes_GET_SIZE(header)
    return total


@cython.no_gc_clear
cdef class Producer(Client):
    def __cinit__(self, list settings not None, SlotRange slots, int event_fd, dict partitioners=None,
                  RecordMemory memory=None):
        self.slots = slots
        self.memory = memory if memory is not None else RecordMemory()
        self.topics = {}
        self.partitioners = {topic: name.encode() for topic, name in partitioners.items()} if partitioners else {}
        self.complete = []
        self.young_bucket, self.old_bucket = FIRST_BUCKET, FIRST_BUCKET + 1
        self.open(RD_KAFKA_PRODUCER, settings, RD_KAFKA_EVENT_DR, event_fd)

    cdef object told(self, rd_kafka_event_t* event):
        if rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR:
            return self.delivery_report(event)
        return Client.told(self, event)

    cdef list delivery_report(self, rd_kafka_event_t* event):
        cdef list told = []
        cdef uint64_t now_ns = kl_now_ns()
        cdef int64_t token
        cdef ct_slot* slot
        cdef const rd_kafka_message_t* message = rd_kafka_event_message_next(event)
        while message != NULL:
            self.memory.held_bytes -= <int64_t>(message.len + message.key_len)
            token = self.token_of(message)
            if token == UNTRACKED_TOKEN:
                pass
            elif message.err != 0:
                told.append(undelivered(token, message))
            elif self.slots is None:
                told.append(Delivered(token, now_ns, message.partition))
            else:  # the normal case
                slot = ct_named(&self.slots.range, token)
                if slot != NULL and ct_advance(slot, token, CT_RECORDED, now_ns):
                    if ct_kind_of(ct_load_relaxed(&slot.place)) != CT_SINGLE:
                        told.append(Delivered(token, now_ns, message.partition))
            message = rd_kafka_event_message_next(event)
        return told

    cdef int64_t token_of(self, const rd_kafka_message_t* message):
        cdef int64_t named = <int64_t><Py_ssize_t>message._private
        cdef int64_t batch = named >> TOKEN_BITS
        self.outstanding[batch] -= 1
        if self.outstanding[batch] == 0:
            # A report tells the size of value and key. librdkafka does not tell the size of headers, and to add it up
            # would cost each record a tenth of a microsecond: headers count until all of the batch is reported.
            self.memory.held_bytes -= self.header_bytes[batch]
            self.header_bytes[batch] = 0
            if batch < FIRST_BUCKET:
                self.complete.append(batch)
        return named & TOKEN_MASK

    # Only the age of the oldest unbatched record is needed. Two buckets are enough to know it approximately: new
    # records are counted in the young bucket; when the old bucket is empty, the two change places.
    cdef int unbatched_bucket(self) noexcept:
        cdef int64_t now_ns = kl_now_ns()
        if (
            self.outstanding[self.young_bucket] != 0 and self.outstanding[self.old_bucket] == 0
            and now_ns - self.young_since_ns > SAME_AGE_NS
        ):
            self.young_bucket, self.old_bucket = self.old_bucket, self.young_bucket
            self.old_since_ns = self.young_since_ns
        if self.outstanding[self.young_bucket] == 0:
            self.young_since_ns = now_ns
        return self.young_bucket

    cpdef int64_t unbatched_since_ns(self):
        if self.outstanding[self.old_bucket] != 0:
            return self.old_since_ns
        return self.young_since_ns if self.outstanding[self.young_bucket] != 0 else NEVER_NS

    cpdef list acknowledged(self):
        cdef list complete = self.complete
        if complete:
            self.complete = []
        return complete

    cpdef send(
        self, str topic, bytes value, bytes key, list headers, int partition, int64_t token, int batch=0,
        int keyless_to=-1
    ):
        if topic is None or value is None or headers is None:
            raise TypeError("expected topic, value and headers, got None for one of them")
        if not 0 <= token <= TOKEN_MASK or not 0 <= batch < FIRST_BUCKET:
            raise ValueError(f"expected a token from 0 to below 2^{TOKEN_BITS} and a batch below {FIRST_BUCKET}, "
                             f"got {token} and {batch}")
        cdef rd_kafka_vu_t[7] fields
        cdef rd_kafka_error_t* error
        cdef rd_kafka_headers_t* record_headers
        cdef int64_t headers_bytes = 0
        if self.rk == NULL:
            return ERR_DESTROY, "closed"
        cdef kl_topic* opened = self.topic(topic)
        cdef int64_t number = batch if batch != 0 else self.unbatched_bucket()
        kl_topic_steer(opened, keyless_to)
        fields[0].vtype = RD_KAFKA_VTYPE_RKT
        fields[0].u.rkt = opened.handle
        fields[1].vtype = RD_KAFKA_VTYPE_PARTITION
        fields[1].u.i32 = partition
        fields[2].vtype = RD_KAFKA_VTYPE_VALUE
        fields[2].u.mem.ptr = <void*>PyBytes_AS_STRING(value)
        fields[2].u.mem.size = PyBytes_GET_SIZE(value)
        fields[3].vtype = RD_KAFKA_VTYPE_KEY
        fields[3].u.mem.ptr = <void*>PyBytes_AS_STRING(key) if key is not None else NULL
        fields[3].u.mem.size = PyBytes_GET_SIZE(key) if key is not None else 0
        fields[4].vtype = RD_KAFKA_VTYPE_MSGFLAGS
        fields[4].u.i = RD_KAFKA_MSG_F_COPY
        fields[5].vtype = RD_KAFKA_VTYPE_OPAQUE
        fields[5].u.ptr = <void*><Py_ssize_t>(token | number << TOKEN_BITS)
        record_headers = headers_of(headers, &headers_bytes)
        cdef int64_t size_bytes = headers_bytes + <int64_t>(fields[2].u.mem.size + fields[3].u.mem.size)
        if self.memory.held_bytes + size_bytes > self.memory.max_bytes:
            if record_headers != NULL:
                rd_kafka_headers_destroy(record_headers)
            return NO_ROOM
        fields[6].vtype = RD_KAFKA_VTYPE_HEADERS
        fields[6].u.headers = record_headers
        error = rd_kafka_produceva(self.rk, fields, 7 if record_headers != NULL else 6)
        if error == NULL:
            self.outstanding[number] += 1
            self.header_bytes[number] += headers_bytes
            self.memory.held_bytes += size_bytes
            return None
        if record_headers != NULL:
            rd_kafka_headers_destroy(record_headers)  # librdkafka does not free the headers of a refused record
        return refusal(error)

    def preload_topic(self, str topic not None):
        if self.rk != NULL:
            self.topic(topic)

    cpdef int partitions(self, str topic) except -1:
        return kl_topic_partitions(self.topic(topic)) if self.rk != NULL else 0

    cdef kl_topic* topic(self, str name) except NULL:
        cdef kl_topic* opened
        known = self.topics.get(name)
        if known is None:
            keyed = self.partitioners.get(name)
            opened = kl_topic_open(self.rk, name.encode(), PyBytes_AS_STRING(keyed) if keyed is not None else NULL)
            if opened == NULL:
                raise ValueError(f"topic {name!r}: librdkafka refuses this name")
            known = self.topics[name] = PyCapsule_New(opened, NULL, NULL)
        return <kl_topic*>PyCapsule_GetPointer(known, NULL)

    def waiting(self):
        return rd_kafka_outq_len(self.rk) if self.rk != NULL else 0

    def flush(self, int timeout_ms):
        if self.rk != NULL:
            with nogil:
                rd_kafka_flush(self.rk, timeout_ms)

    def purge(self):
        if self.rk != NULL:
            rd_kafka_purge(self.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING)

    def __dealloc__(self):
        self.shut()

    cdef void shut(self) noexcept:
        cdef dict topics = self.topics
        self.topics = {}
        if self.rk != NULL:
            for known in topics.values():
                rd_kafka_topic_destroy((<kl_topic*>PyCapsule_GetPointer(known, NULL)).handle)
            Client.shut(self)  # after this, librdkafka no longer calls the partitioner
            for known in topics.values():
                free(PyCapsule_GetPointer(known, NULL))


cdef object undelivered(int64_t token, const rd_kafka_message_t* message):
    # The broker's error text cannot be used: rd_kafka_message_produce_errstr reads freed memory. The record points into
    # the parsed response, which librdkafka frees as soon as the report is queued (rd_kafka_handle_Produce). The report
    # has a copy of the text, but the record does not point to it.
    cdef object text = text_of(rd_kafka_err2str(message.err))
    return Undelivered(token, message.err, rd_kafka_message_status(message), text, message.partition)


cdef rd_kafka_headers_t* headers_of(list headers, int64_t* total_bytes) except? NULL:
    cdef Py_ssize_t name_bytes = 0
    cdef const char* name_chars
    cdef str name
    cdef bytes value
    if PyList_GET_SIZE(headers) == 0:
        return NULL
    cdef rd_kafka_headers_t* made = rd_kafka_headers_new(PyList_GET_SIZE(headers))
    try:
        for name, value in headers:
            name_chars = PyUnicode_AsUTF8AndSize(name, &name_bytes)
            rd_kafka_header_add(made, name_chars, name_bytes, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            total_bytes[0] += name_bytes + PyBytes_GET_SIZE(value)
    except BaseException:
        rd_kafka_headers_destroy(made)
        raise
    return made


@cython.no_gc_clear
cdef class Consumer(Client):
    def __cinit__(self, list settings not None, str topic not None, str correlation_header not None, int reply_fd,
                  int event_fd):
        self.reply_topic = topic.encode()
        self.correlation_header = correlation_header.encode()
        self.open(RD_KAFKA_CONSUMER, settings, 0, event_fd)
        self.reply_queue = rd_kafka_queue_get_consumer(self.rk)
        rd_kafka_queue_io_event_enable(self.reply_queue, reply_fd, &ONE, sizeof(ONE))

    def replies(self):
        cdef (rd_kafka_message_t*)[REPLIES_AT_ONCE] messages
        cdef list taken = []
        cdef ssize_t i = 0
        if self.rk == NULL:
            return taken
        cdef ssize_t count = rd_kafka_consume_batch_queue(self.reply_queue, 0, messages, REPLIES_AT_ONCE)
        try:
            while i < count:
                if messages[i].err == 0:
                    taken.append(self.reply(messages[i]))
                    if 0 <= messages[i].partition < CT_PARTITIONS_MAX:
                        self.next_offsets[messages[i].partition] = messages[i].offset + 1
                else:
                    self.faults.append(
                        ClientError(
                            messages[i].err,
                            text_of(rd_kafka_err2name(messages[i].err)),
                            text_of(rd_kafka_message_errstr(messages[i])),
                            False,
                        )
                    )
                rd_kafka_message_destroy(messages[i])
                i += 1
        finally:
            while i < count:  # out of memory half-way
                rd_kafka_message_destroy(messages[i])
                i += 1
        return taken

    def next_offset(self, int partition):
        check_partition(partition)
        return self.next_offsets[partition]

    def set_next_offset(self, int partition, int64_t offset):
        check_partition(partition)
        self.next_offsets[partition] = offset

    cdef object reply(self, rd_kafka_message_t* message):
        cdef rd_kafka_headers_t* record_headers = NULL
        cdef const char* name
        cdef const void* value
        cdef size_t bytes
        cdef size_t at = 0
        cdef object unreadable = None
        cdef list headers = []
        cdef object made
        # The same rule as in plain.decode_reply: an id in the key wins.
        cdef object correlation_id = id_in(<const uint8_t*>message.key, message.key_len)
        if rd_kafka_message_headers(message, &record_headers) != 0:
            record_headers = NULL
        while record_headers != NULL and rd_kafka_header_get_all(record_headers, at, &name, &value, &bytes) == 0:
            at += 1
            if not is_named(name, PyBytes_AS_STRING(self.correlation_header)):
                headers.append((text_of(name), PyBytes_FromStringAndSize(<const char*>value, bytes)))
            elif correlation_id is None and bytes > 0:
                correlation_id = id_in(<const uint8_t*>value, bytes)
                if unreadable is None:
                    unreadable = PyBytes_FromStringAndSize(<const char*>value, bytes)
        if correlation_id is None:  # keep the invalid id, so that the reply is counted as malformed
            correlation_id = unreadable or PyBytes_FromStringAndSize(<const char*>message.key, message.key_len)
        # A named tuple filled in place: a third of the cost of calling Reply.
        made = tuple_to_fill(reply_type, 5)
        put_field(made, 0, correlation_id)
        put_field(made, 1, message.partition)
        put_field(made, 2, message.offset)
        put_field(made, 3, headers)
        put_field(made, 4, PyBytes_FromStringAndSize(<const char*>message.payload, message.len))
        return made

    def ask_offsets(self, partitions, int at, Py_ssize_t request, int timeout_ms):
        cdef char[WHY_BYTES] why
        cdef rd_kafka_topic_partition_list_t* asked = self.listed([(partition, at) for partition in partitions])
        cdef rd_kafka_AdminOptions_t* options = rd_kafka_AdminOptions_new(self.rk, RD_KAFKA_ADMIN_OP_ANY)
        rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, WHY_BYTES)
        rd_kafka_AdminOptions_set_opaque(options, <void*>request)
        rd_kafka_ListOffsets(self.rk, asked, options, self.main_queue)
        rd_kafka_AdminOptions_destroy(options)
        rd_kafka_topic_partition_list_destroy(asked)

    def assign(self, dict offsets not None):
        cdef rd_kafka_topic_partition_list_t* these = self.listed(offsets.items())
        cdef rd_kafka_error_t* error = rd_kafka_incremental_assign(self.rk, these)
        rd_kafka_topic_partition_list_destroy(these)
        return None if error == NULL else refusal(error)

    def unassign(self, partitions):
        cdef rd_kafka_topic_partition_list_t* these = self.listed([(partition, 0) for partition in partitions])
        cdef rd_kafka_error_t* error = rd_kafka_incremental_unassign(self.rk, these)
        rd_kafka_topic_partition_list_destroy(these)
        return None if error == NULL else refusal(error)

    cdef rd_kafka_topic_partition_list_t* listed(self, object offsets) except NULL:
        cdef list pairs = list(offsets)
        if self.rk == NULL:
            raise ValueError("the consumer is closed")
        cdef int32_t partition
        cdef int64_t offset
        cdef rd_kafka_topic_partition_list_t* made = rd_kafka_topic_partition_list_new(<int>len(pairs))
        try:
            for partition, offset in pairs:
                rd_kafka_topic_partition_list_add(made, self.reply_topic, partition).offset = offset
        except BaseException:
            rd_kafka_topic_partition_list_destroy(made)
            raise
        return made

    def __dealloc__(self):
        self.shut()

    cdef void unwatch(self) noexcept:
        Client.unwatch(self)
        if self.reply_queue != NULL:
            rd_kafka_queue_io_event_enable(self.reply_queue, -1, NULL, 0)

    cdef void shut(self) noexcept:
        self.unwatch()
        if self.reply_queue != NULL:
            rd_kafka_queue_destroy(self.reply_queue)
            self.reply_queue = NULL
        Client.shut(self)


cdef int check_partition(int partition) except -1:
    if partition < 0 or partition >= CT_PARTITIONS_MAX:
        raise ValueError(f"partition: expected 0..{CT_PARTITIONS_MAX - 1}, got {partition}")
    return 0


cdef inline bint is_named(const char* name, const char* lower_case) noexcept:
    """Compare two names, ignoring the case of ASCII letters only, whatever the locale."""
    cdef char letter
    while True:
        letter = name[0] | 0x20 if c"A" <= name[0] <= c"Z" else name[0]
        if letter != lower_case[0]:
            return False
        if letter == 0:
            return True
        name += 1
        lower_case += 1


cdef inline int put_field(object fields, int index, object value) except -1:
    Py_INCREF(value)   # PyTuple_SET_ITEM takes a reference over
    PyTuple_SET_ITEM(fields, index, value)
    return 0
