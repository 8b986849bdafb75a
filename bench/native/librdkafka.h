/* The few declarations of librdkafka's public, stable ABI that the benchmark's C programs use; the library itself is
 * the one inside the confluent-kafka wheel, which brings no header. Checked against librdkafka 2.16. */
#ifndef BENCH_LIBRDKAFKA_H
#define BENCH_LIBRDKAFKA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;

typedef struct {
    int err;
    rd_kafka_topic_t *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *_private;
} rd_kafka_message_t;

typedef struct {
    char *topic;
    int32_t partition;
    int64_t offset;
    void *metadata;
    size_t metadata_size;
    void *opaque;
    int err;
    void *_private;
} rd_kafka_topic_partition_t;

typedef struct {
    int cnt;
    int size;
    rd_kafka_topic_partition_t *elems;
} rd_kafka_topic_partition_list_t;

typedef struct {
    int32_t id;
    char *host;
    int port;
} rd_kafka_metadata_broker_t;

typedef struct {
    char *topic;
    int partition_cnt;
    void *partitions;
    int err;
} rd_kafka_metadata_topic_t;

typedef struct {
    int broker_cnt;
    rd_kafka_metadata_broker_t *brokers;
    int topic_cnt;
    rd_kafka_metadata_topic_t *topics;
    int32_t orig_broker_id;
    char *orig_broker_name;
} rd_kafka_metadata_t;

enum { RD_KAFKA_PRODUCER = 0, RD_KAFKA_CONSUMER = 1 };
enum { RD_KAFKA_CONF_OK = 0 };
enum { RD_KAFKA_PARTITION_UA = -1 };
enum { RD_KAFKA_MSG_F_COPY = 0x2, RD_KAFKA_MSG_F_BLOCK = 0x4 };
enum {
    RD_KAFKA_VTYPE_END = 0,
    RD_KAFKA_VTYPE_TOPIC = 1,
    RD_KAFKA_VTYPE_PARTITION = 3,
    RD_KAFKA_VTYPE_VALUE = 4,
    RD_KAFKA_VTYPE_KEY = 5,
    RD_KAFKA_VTYPE_MSGFLAGS = 7,
    RD_KAFKA_VTYPE_HEADERS = 10,
};

const char *rd_kafka_version_str(void);
const char *rd_kafka_err2str(int err);
rd_kafka_conf_t *rd_kafka_conf_new(void);
int rd_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, char *errstr, size_t errstr_size);
rd_kafka_t *rd_kafka_new(int type, rd_kafka_conf_t *conf, char *errstr, size_t errstr_size);
void rd_kafka_destroy(rd_kafka_t *rk);
int rd_kafka_poll(rd_kafka_t *rk, int timeout_ms);
int rd_kafka_poll_set_consumer(rd_kafka_t *rk);
int rd_kafka_flush(rd_kafka_t *rk, int timeout_ms);
int rd_kafka_outq_len(rd_kafka_t *rk);
int rd_kafka_assign(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *partitions);
int rd_kafka_consumer_close(rd_kafka_t *rk);
rd_kafka_message_t *rd_kafka_consumer_poll(rd_kafka_t *rk, int timeout_ms);
rd_kafka_queue_t *rd_kafka_queue_get_consumer(rd_kafka_t *rk);
ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *q, int timeout_ms, rd_kafka_message_t **messages, size_t size);
void rd_kafka_message_destroy(rd_kafka_message_t *message);
int rd_kafka_message_headers(const rd_kafka_message_t *message, rd_kafka_headers_t **headers);
int rd_kafka_header_get_all(const rd_kafka_headers_t *headers, size_t index, const char **name, const void **value,
                            size_t *size);
rd_kafka_headers_t *rd_kafka_headers_new(size_t initial);
void rd_kafka_headers_destroy(rd_kafka_headers_t *headers);
int rd_kafka_header_add(rd_kafka_headers_t *headers, const char *name, ssize_t name_size, const void *value,
                        ssize_t value_size);
int rd_kafka_producev(rd_kafka_t *rk, ...);
int rd_kafka_query_watermark_offsets(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *low, int64_t *high,
                                     int timeout_ms);
int rd_kafka_metadata(rd_kafka_t *rk, int all_topics, rd_kafka_topic_t *only, const rd_kafka_metadata_t **metadata,
                      int timeout_ms);
void rd_kafka_metadata_destroy(const rd_kafka_metadata_t *metadata);
rd_kafka_topic_partition_list_t *rd_kafka_topic_partition_list_new(int size);
rd_kafka_topic_partition_t *rd_kafka_topic_partition_list_add(rd_kafka_topic_partition_list_t *list, const char *topic,
                                                              int32_t partition);
void rd_kafka_topic_partition_list_destroy(rd_kafka_topic_partition_list_t *list);
rd_kafka_topic_t *rd_kafka_topic_new(rd_kafka_t *rk, const char *topic, void *conf);
void rd_kafka_topic_destroy(rd_kafka_topic_t *rkt);

#endif
