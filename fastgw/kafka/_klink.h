/* The part of librdkafka that the native Kafka link uses: prototypes, declared by hand, and the loading of the library.
 *
 * The library is part of the confluent-kafka wheel. The wheel has no headers and its file name contains a hash, so
 * nothing can be linked. Instead `kl_load` asks the dynamic loader for the copy that confluent_kafka has already loaded
 * (never for a second one) and looks up every function below. librdkafka keeps its C ABI stable between versions:
 * functions, public structs, and the numbers of enums. This file relies on nothing else.
 */
#ifndef FASTGW_KLINK_H
#define FASTGW_KLINK_H

#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <time.h>

/* ---- types ---- */
typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_topic_conf_s rd_kafka_topic_conf_t;
typedef struct rd_kafka_error_s rd_kafka_error_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;
typedef struct rd_kafka_op_s rd_kafka_event_t;
typedef struct rd_kafka_AdminOptions_s rd_kafka_AdminOptions_t;
typedef struct rd_kafka_ListOffsetsResultInfo_s rd_kafka_ListOffsetsResultInfo_t;

typedef struct rd_kafka_message_s {
    int err;
    rd_kafka_topic_t *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *_private; /* for a sent record: its batch and its token, see _klink.pxd */
} rd_kafka_message_t;
_Static_assert(sizeof(rd_kafka_message_t) == 72 && offsetof(rd_kafka_message_t, _private) == 64, "ABI of a 64-bit Linux");

typedef struct rd_kafka_topic_partition_s {
    char *topic;
    int32_t partition;
    int64_t offset;
    void *metadata;
    size_t metadata_size;
    void *opaque;
    int err;
    void *_private;
} rd_kafka_topic_partition_t;
_Static_assert(sizeof(rd_kafka_topic_partition_t) == 64, "ABI of a 64-bit Linux");

typedef struct rd_kafka_topic_partition_list_s {
    int cnt;
    int size;
    rd_kafka_topic_partition_t *elems;
} rd_kafka_topic_partition_list_t;

typedef struct rd_kafka_vu_s {
    int vtype;
    union {
        const char *cstr;
        rd_kafka_topic_t *rkt;
        int i;
        int32_t i32;
        int64_t i64;
        struct { void *ptr; size_t size; } mem;
        struct { const char *name; const void *val; ssize_t size; } header;
        rd_kafka_headers_t *headers;
        void *ptr;
        char _pad[64];
    } u;
} rd_kafka_vu_t;
_Static_assert(sizeof(rd_kafka_vu_t) == 72 && offsetof(rd_kafka_vu_t, u) == 8, "ABI of a 64-bit Linux");

enum { /* rd_kafka_type_t, rd_kafka_vtype_t, flags, offsets and events: numbers of the ABI */
    RD_KAFKA_PRODUCER = 0,
    RD_KAFKA_CONSUMER = 1,

    RD_KAFKA_VTYPE_RKT = 2,
    RD_KAFKA_VTYPE_PARTITION = 3,
    RD_KAFKA_VTYPE_VALUE = 4,
    RD_KAFKA_VTYPE_KEY = 5,
    RD_KAFKA_VTYPE_OPAQUE = 6,
    RD_KAFKA_VTYPE_MSGFLAGS = 7,
    RD_KAFKA_VTYPE_HEADERS = 10,

    RD_KAFKA_MSG_F_COPY = 0x2,
    RD_KAFKA_PURGE_F_QUEUE = 0x1,
    RD_KAFKA_PURGE_F_INFLIGHT = 0x2,
    RD_KAFKA_PURGE_F_NON_BLOCKING = 0x4,
    RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE = 0x8,

    RD_KAFKA_EVENT_DR = 0x1,
    RD_KAFKA_EVENT_LOG = 0x4,
    RD_KAFKA_EVENT_ERROR = 0x8,
    RD_KAFKA_EVENT_STATS = 0x40,
    RD_KAFKA_EVENT_LISTOFFSETS_RESULT = 0x400000,

    RD_KAFKA_ADMIN_OP_ANY = 0,

    RD_KAFKA_MSG_STATUS_NOT_PERSISTED = 0,
    RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED = 1,
    RD_KAFKA_MSG_STATUS_PERSISTED = 2,
};

#define KL_PARTITIONER                                                                                                 \
    (const rd_kafka_topic_t *topic, const void *key, size_t bytes, int32_t count, void *opaque, void *token)
typedef int32_t kl_partitioner KL_PARTITIONER;

/* ---- functions ---- */
#define KL_FUNCTIONS(F)                                                                                                \
    F(int, rd_kafka_version, (void))                                                                                   \
    F(const char *, rd_kafka_version_str, (void))                                                                      \
    F(const char *, rd_kafka_err2str, (int err))                                                                       \
    F(const char *, rd_kafka_err2name, (int err))                                                                      \
    F(int, rd_kafka_error_code, (const rd_kafka_error_t *error))                                                       \
    F(const char *, rd_kafka_error_string, (const rd_kafka_error_t *error))                                            \
    F(void, rd_kafka_error_destroy, (rd_kafka_error_t *error))                                                         \
    /* clients */                                                                                                      \
    F(rd_kafka_conf_t *, rd_kafka_conf_new, (void))                                                                    \
    F(void, rd_kafka_conf_destroy, (rd_kafka_conf_t *conf))                                                            \
    F(int, rd_kafka_conf_set, (rd_kafka_conf_t *conf, const char *name, const char *value, char *why, size_t bytes))   \
    F(void, rd_kafka_conf_set_events, (rd_kafka_conf_t *conf, int events))                                             \
    F(rd_kafka_t *, rd_kafka_new, (int type, rd_kafka_conf_t *conf, char *why, size_t bytes))                          \
    F(void, rd_kafka_destroy_flags, (rd_kafka_t *rk, int flags))                                                       \
    F(int, rd_kafka_fatal_error, (rd_kafka_t *rk, char *why, size_t bytes))                                            \
    /* queues and events */                                                                                            \
    F(rd_kafka_queue_t *, rd_kafka_queue_get_main, (rd_kafka_t *rk))                                                   \
    F(rd_kafka_queue_t *, rd_kafka_queue_get_consumer, (rd_kafka_t *rk))                                               \
    F(void, rd_kafka_queue_destroy, (rd_kafka_queue_t *queue))                                                         \
    F(void, rd_kafka_queue_io_event_enable, (rd_kafka_queue_t *queue, int fd, const void *payload, size_t bytes))      \
    F(int, rd_kafka_set_log_queue, (rd_kafka_t *rk, rd_kafka_queue_t *queue))                                          \
    F(rd_kafka_event_t *, rd_kafka_queue_poll, (rd_kafka_queue_t *queue, int timeout_ms))                              \
    F(int, rd_kafka_event_type, (const rd_kafka_event_t *event))                                                       \
    F(void, rd_kafka_event_destroy, (rd_kafka_event_t *event))                                                         \
    F(int, rd_kafka_event_error, (rd_kafka_event_t *event))                                                            \
    F(const char *, rd_kafka_event_error_string, (rd_kafka_event_t *event))                                            \
    F(int, rd_kafka_event_error_is_fatal, (rd_kafka_event_t *event))                                                   \
    F(void *, rd_kafka_event_opaque, (rd_kafka_event_t *event))                                                        \
    F(int, rd_kafka_event_log, (rd_kafka_event_t *event, const char **facility, const char **text, int *level))        \
    F(const char *, rd_kafka_event_stats, (rd_kafka_event_t *event))                                                   \
    F(const rd_kafka_message_t *, rd_kafka_event_message_next, (rd_kafka_event_t *event))                              \
    /* sending */                                                                                                      \
    F(rd_kafka_topic_t *, rd_kafka_topic_new, (rd_kafka_t *rk, const char *name, rd_kafka_topic_conf_t *conf))         \
    F(void, rd_kafka_topic_destroy, (rd_kafka_topic_t *topic))                                                         \
    F(rd_kafka_topic_conf_t *, rd_kafka_default_topic_conf_dup, (rd_kafka_t *rk))                                      \
    F(int, rd_kafka_topic_conf_get,                                                                                    \
      (const rd_kafka_topic_conf_t *conf, const char *name, char *value, size_t *bytes))                               \
    F(void, rd_kafka_topic_conf_set_opaque, (rd_kafka_topic_conf_t *conf, void *opaque))                               \
    F(void, rd_kafka_topic_conf_set_partitioner_cb, (rd_kafka_topic_conf_t *conf, kl_partitioner *partitioner))        \
    F(int32_t, rd_kafka_msg_partitioner_random, KL_PARTITIONER)                                                        \
    F(int32_t, rd_kafka_msg_partitioner_consistent_random, KL_PARTITIONER)                                             \
    F(int32_t, rd_kafka_msg_partitioner_murmur2_random, KL_PARTITIONER)                                                \
    F(int32_t, rd_kafka_msg_partitioner_fnv1a_random, KL_PARTITIONER)                                                  \
    F(rd_kafka_headers_t *, rd_kafka_headers_new, (size_t room))                                                       \
    F(void, rd_kafka_headers_destroy, (rd_kafka_headers_t *headers))                                                   \
    F(int, rd_kafka_header_add,                                                                                        \
      (rd_kafka_headers_t *headers, const char *name, ssize_t name_bytes, const void *value, ssize_t value_bytes))     \
    F(rd_kafka_error_t *, rd_kafka_produceva, (rd_kafka_t *rk, const rd_kafka_vu_t *fields, size_t count))             \
    F(int, rd_kafka_message_status, (const rd_kafka_message_t *message))                                               \
    F(int, rd_kafka_outq_len, (rd_kafka_t *rk))                                                                        \
    F(int, rd_kafka_flush, (rd_kafka_t *rk, int timeout_ms))                                                           \
    F(int, rd_kafka_purge, (rd_kafka_t *rk, int flags))                                                                \
    /* reading */                                                                                                      \
    F(ssize_t, rd_kafka_consume_batch_queue,                                                                           \
      (rd_kafka_queue_t *queue, int timeout_ms, rd_kafka_message_t **messages, size_t room))                           \
    F(void, rd_kafka_message_destroy, (rd_kafka_message_t *message))                                                   \
    F(const char *, rd_kafka_message_errstr, (const rd_kafka_message_t *message))                                      \
    F(int, rd_kafka_message_headers, (const rd_kafka_message_t *message, rd_kafka_headers_t **headers))                \
    F(size_t, rd_kafka_header_cnt, (const rd_kafka_headers_t *headers))                                                \
    F(int, rd_kafka_header_get_all,                                                                                    \
      (const rd_kafka_headers_t *headers, size_t index, const char **name, const void **value, size_t *value_bytes))   \
    /* partitions */                                                                                                   \
    F(rd_kafka_topic_partition_list_t *, rd_kafka_topic_partition_list_new, (int room))                                \
    F(rd_kafka_topic_partition_t *, rd_kafka_topic_partition_list_add,                                                 \
      (rd_kafka_topic_partition_list_t *list, const char *topic, int32_t partition))                                   \
    F(void, rd_kafka_topic_partition_list_destroy, (rd_kafka_topic_partition_list_t *list))                            \
    F(rd_kafka_error_t *, rd_kafka_incremental_assign, (rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list))  \
    F(rd_kafka_error_t *, rd_kafka_incremental_unassign, (rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list)) \
    F(rd_kafka_AdminOptions_t *, rd_kafka_AdminOptions_new, (rd_kafka_t *rk, int for_api))                             \
    F(void, rd_kafka_AdminOptions_destroy, (rd_kafka_AdminOptions_t *options))                                         \
    F(int, rd_kafka_AdminOptions_set_request_timeout,                                                                  \
      (rd_kafka_AdminOptions_t *options, int timeout_ms, char *why, size_t bytes))                                     \
    F(void, rd_kafka_AdminOptions_set_opaque, (rd_kafka_AdminOptions_t *options, void *opaque))                        \
    F(void, rd_kafka_ListOffsets,                                                                                      \
      (rd_kafka_t *rk, rd_kafka_topic_partition_list_t *asked, const rd_kafka_AdminOptions_t *options,                 \
       rd_kafka_queue_t *queue))                                                                                       \
    F(const void *, rd_kafka_event_ListOffsets_result, (rd_kafka_event_t *event))                                      \
    F(const rd_kafka_ListOffsetsResultInfo_t **, rd_kafka_ListOffsets_result_infos,                                    \
      (const void *result, size_t *count))                                                                             \
    F(const rd_kafka_topic_partition_t *, rd_kafka_ListOffsetsResultInfo_topic_partition,                              \
      (const rd_kafka_ListOffsetsResultInfo_t *info))

#define KL_MEMBER(type, name, arguments) type(*name) arguments;
static struct { KL_FUNCTIONS(KL_MEMBER) } kl; /* filled once, by kl_load */

/* ISO C has no cast from an object pointer to a function pointer; POSIX guarantees this form for dlsym. */
#define KL_LOOK_UP(type, name, arguments)                                                                              \
    if (!(*(void **)&kl.name = dlsym(library, #name))) return #name;

/* NULL: all functions were found. Else the name of what is missing: the library (`path`) or the first function. */
static inline const char *kl_load(const char *path)
{
    /* NOLOAD: only the copy that confluent_kafka uses. Never closed: pointers into it are used until the end. */
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (!library) return path;
    KL_FUNCTIONS(KL_LOOK_UP)
    return NULL;
}

/* ---- partitions: the link chooses the partition of records without a key ---- */
typedef struct kl_topic {
    rd_kafka_topic_t *handle;
    kl_partitioner *keyed;      /* for records with a key; NULL: librdkafka's own choice, one partition without a key */
    _Atomic int32_t partitions; /* the partition count, as of the last record; 0: not known yet */
    _Atomic int32_t steered;    /* partition of the next record without a key; below 0: `keyed` chooses a random one */
} kl_topic;

/* Called by `rd_kafka_produceva` on the loop's thread, or by a librdkafka thread when a topic's metadata arrives. */
static inline int32_t kl_partition KL_PARTITIONER
{
    kl_topic *own = opaque;
    int32_t steered = atomic_load_explicit(&own->steered, memory_order_relaxed);
    atomic_store_explicit(&own->partitions, count, memory_order_relaxed);
    return key || steered < 0 ? own->keyed(topic, key, bytes, count, opaque, token) : steered % count;
}

/* librdkafka's partitioner of that name; NULL for partitioners that send all records without a key to one partition. */
static inline kl_partitioner *kl_partitioner_named(const char *name)
{
    if (!strcmp(name, "random")) return kl.rd_kafka_msg_partitioner_random;
    if (!strcmp(name, "consistent_random")) return kl.rd_kafka_msg_partitioner_consistent_random;
    if (!strcmp(name, "murmur2_random")) return kl.rd_kafka_msg_partitioner_murmur2_random;
    if (!strcmp(name, "fnv1a_random")) return kl.rd_kafka_msg_partitioner_fnv1a_random;
    return NULL;
}

/* `keyed`: librdkafka's name of a partitioner; NULL: the client's setting. Returns NULL when out of memory, or when
 * librdkafka refuses the topic name. */
static inline kl_topic *kl_topic_open(rd_kafka_t *rk, const char *name, const char *keyed)
{
    char partitioner[32] = "";
    size_t room = sizeof partitioner;
    kl_topic *own = calloc(1, sizeof *own);
    rd_kafka_topic_conf_t *conf = own ? kl.rd_kafka_default_topic_conf_dup(rk) : NULL;
    if (!conf) return free(own), NULL;
    kl.rd_kafka_topic_conf_get(conf, "partitioner", partitioner, &room);
    own->keyed = kl_partitioner_named(keyed ? keyed : partitioner);
    atomic_init(&own->partitions, own->keyed ? 0 : 1); /* NULL: all records without a key go to one partition */
    atomic_init(&own->steered, -1);
    if (own->keyed) {
        kl.rd_kafka_topic_conf_set_opaque(conf, own);
        kl.rd_kafka_topic_conf_set_partitioner_cb(conf, kl_partition);
    }
    own->handle = kl.rd_kafka_topic_new(rk, name, conf); /* owns `conf` from now on, even if it refuses the name */
    return own->handle ? own : (free(own), NULL);
}

static inline void kl_topic_steer(kl_topic *own, int32_t partition)
{
    atomic_store_explicit(&own->steered, partition, memory_order_relaxed);
}

static inline int32_t kl_topic_partitions(kl_topic *own)
{
    return atomic_load_explicit(&own->partitions, memory_order_relaxed);
}

/* ---- a timer that wakes the loop ---- */
static inline int kl_alarm_new(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }

static inline void kl_alarm_set(int fd, uint64_t at_ns)
{
    struct itimerspec at = {.it_value = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)}};
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* The same clock as the shared table uses: monotonic, nanoseconds. */
static inline uint64_t kl_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
