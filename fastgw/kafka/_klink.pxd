# cython: language_level=3
"""Cython declarations: librdkafka's functions by purpose, then the classes. `noexcept nogil` code uses no Python."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t

from fastgw._ctable cimport CT_PARTITIONS_MAX, SlotRange

cdef extern from "_klink.h" nogil:
    ctypedef struct rd_kafka_t:
        pass
    ctypedef struct rd_kafka_conf_t:
        pass
    ctypedef struct rd_kafka_queue_t:
        pass
    ctypedef struct rd_kafka_topic_t:
        pass
    ctypedef struct rd_kafka_error_t:
        pass
    ctypedef struct rd_kafka_headers_t:
        pass
    ctypedef struct rd_kafka_event_t:
        pass
    ctypedef struct rd_kafka_AdminOptions_t:
        pass
    ctypedef struct rd_kafka_ListOffsetsResultInfo_t:
        pass
    ctypedef struct rd_kafka_message_t:
        int err
        int32_t partition
        void* payload
        size_t len
        void* key
        size_t key_len
        int64_t offset
        void* _private
    ctypedef struct rd_kafka_topic_partition_t:
        int32_t partition
        int64_t offset
        int err
    ctypedef struct rd_kafka_topic_partition_list_t:
        int cnt
        rd_kafka_topic_partition_t* elems
    ctypedef struct vu_mem "":
        void* ptr
        size_t size
    ctypedef union vu_value "":
        rd_kafka_topic_t* rkt
        int i
        int32_t i32
        vu_mem mem
        rd_kafka_headers_t* headers
        void* ptr
    ctypedef struct rd_kafka_vu_t:
        int vtype
        vu_value u
    cdef enum:
        RD_KAFKA_PRODUCER, RD_KAFKA_CONSUMER
        RD_KAFKA_VTYPE_RKT, RD_KAFKA_VTYPE_PARTITION, RD_KAFKA_VTYPE_VALUE, RD_KAFKA_VTYPE_KEY
        RD_KAFKA_VTYPE_OPAQUE, RD_KAFKA_VTYPE_MSGFLAGS, RD_KAFKA_VTYPE_HEADERS
        RD_KAFKA_MSG_F_COPY, RD_KAFKA_PURGE_F_QUEUE, RD_KAFKA_PURGE_F_INFLIGHT, RD_KAFKA_PURGE_F_NON_BLOCKING
        RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE
        RD_KAFKA_EVENT_DR, RD_KAFKA_EVENT_LOG, RD_KAFKA_EVENT_ERROR, RD_KAFKA_EVENT_STATS
        RD_KAFKA_EVENT_LISTOFFSETS_RESULT
        RD_KAFKA_ADMIN_OP_ANY
        RD_KAFKA_MSG_STATUS_NOT_PERSISTED, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, RD_KAFKA_MSG_STATUS_PERSISTED

    # ---- the library
    const char* kl_load(const char* path)  # NULL: loaded; else the name of what is missing
    uint64_t kl_now_ns()  # monotonic
    int rd_kafka_version "kl.rd_kafka_version"()
    const char* rd_kafka_version_str "kl.rd_kafka_version_str"()
    const char* rd_kafka_err2str "kl.rd_kafka_err2str"(int err)
    const char* rd_kafka_err2name "kl.rd_kafka_err2name"(int err)
    int rd_kafka_error_code "kl.rd_kafka_error_code"(const rd_kafka_error_t*)
    const char* rd_kafka_error_string "kl.rd_kafka_error_string"(const rd_kafka_error_t*)
    void rd_kafka_error_destroy "kl.rd_kafka_error_destroy"(rd_kafka_error_t*)

    # ---- clients; `destroy` waits for librdkafka's threads, so never call it on the loop
    rd_kafka_conf_t* rd_kafka_conf_new "kl.rd_kafka_conf_new"()
    void rd_kafka_conf_destroy "kl.rd_kafka_conf_destroy"(rd_kafka_conf_t*)
    int rd_kafka_conf_set "kl.rd_kafka_conf_set"(
        rd_kafka_conf_t*, const char* name, const char* value, char* why, size_t bytes)
    void rd_kafka_conf_set_events "kl.rd_kafka_conf_set_events"(rd_kafka_conf_t*, int events)
    rd_kafka_t* rd_kafka_new "kl.rd_kafka_new"(int type, rd_kafka_conf_t*, char* why, size_t bytes)  # owns the conf
    void rd_kafka_destroy_flags "kl.rd_kafka_destroy_flags"(rd_kafka_t*, int flags)
    int rd_kafka_fatal_error "kl.rd_kafka_fatal_error"(rd_kafka_t*, char* why, size_t bytes)

    # ---- queues and events
    rd_kafka_queue_t* rd_kafka_queue_get_main "kl.rd_kafka_queue_get_main"(rd_kafka_t*)
    rd_kafka_queue_t* rd_kafka_queue_get_consumer "kl.rd_kafka_queue_get_consumer"(rd_kafka_t*)
    void rd_kafka_queue_destroy "kl.rd_kafka_queue_destroy"(rd_kafka_queue_t*)
    void rd_kafka_queue_io_event_enable "kl.rd_kafka_queue_io_event_enable"(
        rd_kafka_queue_t*, int fd, const void* payload, size_t bytes)  # fd -1: stop
    int rd_kafka_set_log_queue "kl.rd_kafka_set_log_queue"(rd_kafka_t*, rd_kafka_queue_t*)
    rd_kafka_event_t* rd_kafka_queue_poll "kl.rd_kafka_queue_poll"(rd_kafka_queue_t*, int timeout_ms)
    int rd_kafka_event_type "kl.rd_kafka_event_type"(const rd_kafka_event_t*)
    void rd_kafka_event_destroy "kl.rd_kafka_event_destroy"(rd_kafka_event_t*)
    int rd_kafka_event_error "kl.rd_kafka_event_error"(rd_kafka_event_t*)
    const char* rd_kafka_event_error_string "kl.rd_kafka_event_error_string"(rd_kafka_event_t*)
    int rd_kafka_event_error_is_fatal "kl.rd_kafka_event_error_is_fatal"(rd_kafka_event_t*)
    void* rd_kafka_event_opaque "kl.rd_kafka_event_opaque"(rd_kafka_event_t*)
    int rd_kafka_event_log "kl.rd_kafka_event_log"(
        rd_kafka_event_t*, const char** facility, const char** text, int* level)
    const char* rd_kafka_event_stats "kl.rd_kafka_event_stats"(rd_kafka_event_t*)
    const rd_kafka_message_t* rd_kafka_event_message_next "kl.rd_kafka_event_message_next"(rd_kafka_event_t*)

    # ---- sending
    ctypedef struct kl_topic:
        rd_kafka_topic_t* handle
    kl_topic* kl_topic_open(rd_kafka_t*, const char* name, const char* keyed)
    void kl_topic_steer(kl_topic*, int32_t partition)
    int32_t kl_topic_partitions(kl_topic*)
    int kl_alarm_new()
    void kl_alarm_set(int fd, uint64_t at_ns)
    void rd_kafka_topic_destroy "kl.rd_kafka_topic_destroy"(rd_kafka_topic_t*)
    rd_kafka_headers_t* rd_kafka_headers_new "kl.rd_kafka_headers_new"(size_t room)
    void rd_kafka_headers_destroy "kl.rd_kafka_headers_destroy"(rd_kafka_headers_t*)
    int rd_kafka_header_add "kl.rd_kafka_header_add"(
        rd_kafka_headers_t*, const char* name, ssize_t name_bytes, const void* value, ssize_t value_bytes)
    rd_kafka_error_t* rd_kafka_produceva "kl.rd_kafka_produceva"(rd_kafka_t*, const rd_kafka_vu_t*, size_t count)
    int rd_kafka_message_status "kl.rd_kafka_message_status"(const rd_kafka_message_t*)
    int rd_kafka_outq_len "kl.rd_kafka_outq_len"(rd_kafka_t*)
    int rd_kafka_flush "kl.rd_kafka_flush"(rd_kafka_t*, int timeout_ms)
    int rd_kafka_purge "kl.rd_kafka_purge"(rd_kafka_t*, int flags)

    # ---- reading
    ssize_t rd_kafka_consume_batch_queue "kl.rd_kafka_consume_batch_queue"(
        rd_kafka_queue_t*, int timeout_ms, rd_kafka_message_t** messages, size_t room)
    void rd_kafka_message_destroy "kl.rd_kafka_message_destroy"(rd_kafka_message_t*)
    const char* rd_kafka_message_errstr "kl.rd_kafka_message_errstr"(const rd_kafka_message_t*)
    int rd_kafka_message_headers "kl.rd_kafka_message_headers"(const rd_kafka_message_t*, rd_kafka_headers_t**)
    size_t rd_kafka_header_cnt "kl.rd_kafka_header_cnt"(const rd_kafka_headers_t*)
    int rd_kafka_header_get_all "kl.rd_kafka_header_get_all"(
        const rd_kafka_headers_t*, size_t index, const char** name, const void** value, size_t* value_bytes)

    # ---- partitions
    rd_kafka_topic_partition_list_t* rd_kafka_topic_partition_list_new "kl.rd_kafka_topic_partition_list_new"(int room)
    rd_kafka_topic_partition_t* rd_kafka_topic_partition_list_add "kl.rd_kafka_topic_partition_list_add"(
        rd_kafka_topic_partition_list_t*, const char* topic, int32_t partition)
    void rd_kafka_topic_partition_list_destroy "kl.rd_kafka_topic_partition_list_destroy"(
        rd_kafka_topic_partition_list_t*)
    rd_kafka_error_t* rd_kafka_incremental_assign "kl.rd_kafka_incremental_assign"(
        rd_kafka_t*, const rd_kafka_topic_partition_list_t*)
    rd_kafka_error_t* rd_kafka_incremental_unassign "kl.rd_kafka_incremental_unassign"(
        rd_kafka_t*, const rd_kafka_topic_partition_list_t*)
    rd_kafka_AdminOptions_t* rd_kafka_AdminOptions_new "kl.rd_kafka_AdminOptions_new"(rd_kafka_t*, int for_api)
    void rd_kafka_AdminOptions_destroy "kl.rd_kafka_AdminOptions_destroy"(rd_kafka_AdminOptions_t*)
    int rd_kafka_AdminOptions_set_request_timeout "kl.rd_kafka_AdminOptions_set_request_timeout"(
        rd_kafka_AdminOptions_t*, int timeout_ms, char* why, size_t bytes)
    void rd_kafka_AdminOptions_set_opaque "kl.rd_kafka_AdminOptions_set_opaque"(rd_kafka_AdminOptions_t*, void*)
    void rd_kafka_ListOffsets "kl.rd_kafka_ListOffsets"(
        rd_kafka_t*, rd_kafka_topic_partition_list_t*, const rd_kafka_AdminOptions_t*, rd_kafka_queue_t*)
    const void* rd_kafka_event_ListOffsets_result "kl.rd_kafka_event_ListOffsets_result"(rd_kafka_event_t*)
    const rd_kafka_ListOffsetsResultInfo_t** rd_kafka_ListOffsets_result_infos "kl.rd_kafka_ListOffsets_result_infos"(
        const void* result, size_t* count)
    const rd_kafka_topic_partition_t* offsets_info_partition "kl.rd_kafka_ListOffsetsResultInfo_topic_partition"(
        const rd_kafka_ListOffsetsResultInfo_t*)

# The opaque pointer of a record. It comes back in `_private` of the delivery report:
#
#      63  62                52  51                                         0
#     +---+--------------------+---------------------------------------------+
#     | 0 | batch              | token                                       |
#     +---+--------------------+---------------------------------------------+
#
#     batch   1 .. LAST_BATCH    the number of the record's batch
#             FIRST_BUCKET, + 1  an unbatched record: one of the two buckets that track the age of the oldest one
#     token   0 .. 2^52 - 2      identifies the record for the caller: a token of the shared table
#             2^52 - 1           UNTRACKED
cdef enum:
    TOKEN_BITS = 52
    BATCH_BITS = 11
    BATCHES = 1 << BATCH_BITS
    FIRST_BUCKET = BATCHES - 2


cpdef set_alarm(int fd, uint64_t at_ns)
cpdef int64_t record_bytes(bytes value, bytes key, list headers) except -1


@cython.final
cdef class RecordMemory:
    cdef readonly int64_t max_bytes
    cdef public int64_t held_bytes


cdef class Client:
    cdef rd_kafka_t* rk
    cdef rd_kafka_queue_t* main_queue
    cdef list faults  # errors that the next call of `events` returns
    cdef int open(self, int type, list settings, int events, int event_fd) except -1
    cdef object told(self, rd_kafka_event_t* event)
    cdef void unwatch(self) noexcept
    cdef void shut(self) noexcept


@cython.final
cdef class Producer(Client):
    cdef SlotRange slots  # None: deliveries are returned as events
    cdef dict topics
    cdef dict partitioners  # topic -> librdkafka's name of the partitioner for records with a key; else the client's
    cdef list complete  # batches whose last delivery report has arrived since `acknowledged` was called
    cdef int32_t[BATCHES] outstanding  # batch or bucket -> records without a delivery report
    cdef int64_t[BATCHES] header_bytes  # batch or bucket -> bytes of the headers of its records, until all are reported
    cdef RecordMemory memory  # counts the records without a delivery report
    cdef int young_bucket  # new unbatched records are counted here
    cdef int old_bucket  # older unbatched records
    cdef int64_t young_since_ns, old_since_ns  # when the first record of a bucket that is not empty was sent
    cpdef send(self, str topic, bytes value, bytes key, list headers, int partition, int64_t token, int batch=*,
               int keyless_to=*)
    cpdef int partitions(self, str topic) except -1
    cpdef list acknowledged(self)
    cdef int unbatched_bucket(self) noexcept
    cpdef int64_t unbatched_since_ns(self)
    cdef list delivery_report(self, rd_kafka_event_t* event)
    cdef int64_t token_of(self, const rd_kafka_message_t* message)
    cdef kl_topic* topic(self, str name) except NULL


cdef class Consumer(Client):
    cdef rd_kafka_queue_t* reply_queue
    cdef bytes reply_topic
    cdef bytes correlation_header  # in lower case
    cdef int64_t[CT_PARTITIONS_MAX] next_offsets  # by partition
    cdef object reply(self, rd_kafka_message_t* message)
    cdef rd_kafka_topic_partition_list_t* listed(self, object offsets) except NULL
