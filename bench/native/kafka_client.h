/* What the benchmark's C programs share: settings that end the program when they are wrong, partition counts, and an
 * assignment of every partition of some topics from their present ends. */
#ifndef BENCH_KAFKA_CLIENT_H
#define BENCH_KAFKA_CLIENT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "librdkafka.h"

enum { KAFKA_TIMEOUT_MS = 10000 };

#define DIE(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

typedef struct {
    const char *name;
    const char *value;
} setting_t;

static inline rd_kafka_t *kafka_client(int type, const char *bootstrap, const setting_t *settings, size_t count) {
    char why[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, why, sizeof why) != RD_KAFKA_CONF_OK) DIE("%s", why);
    for (size_t i = 0; i < count; i++)
        if (rd_kafka_conf_set(conf, settings[i].name, settings[i].value, why, sizeof why) != RD_KAFKA_CONF_OK)
            DIE("%s", why);
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (rk == NULL) DIE("%s", why);
    return rk;
}

static inline int partition_count(rd_kafka_t *rk, const char *topic) {
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    const rd_kafka_metadata_t *metadata;
    int err = rd_kafka_metadata(rk, 0, rkt, &metadata, KAFKA_TIMEOUT_MS);
    if (err) DIE("metadata of %s: %s", topic, rd_kafka_err2str(err));
    int count = metadata->topics[0].partition_cnt;
    if (metadata->topics[0].err || count == 0) DIE("topic %s: %s", topic, rd_kafka_err2str(metadata->topics[0].err));
    rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_destroy(rkt);
    return count;
}

/* A topic that has just been made may have no leader for a moment. */
static inline int64_t end_of(rd_kafka_t *rk, const char *topic, int partition) {
    int64_t low, high;
    int err = 0;
    for (int tries = 0; tries < 50; tries++) {
        err = rd_kafka_query_watermark_offsets(rk, topic, partition, &low, &high, KAFKA_TIMEOUT_MS);
        if (!err) return high;
        usleep(100000);
    }
    DIE("end of %s [%d]: %s", topic, partition, rd_kafka_err2str(err));
}

/* From offsets that are read here, not from "the end": a client resolves that one later, after the first records. */
static inline void read_from_now_on(rd_kafka_t *rk, int topic_count, char **topics) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    for (int i = 0; i < topic_count; i++) {
        int partitions = partition_count(rk, topics[i]);
        for (int p = 0; p < partitions; p++) {
            rd_kafka_topic_partition_list_add(list, topics[i], p)->offset = end_of(rk, topics[i], p);
        }
    }
    int err = rd_kafka_assign(rk, list);
    if (err) DIE("assign: %s", rd_kafka_err2str(err));
    rd_kafka_topic_partition_list_destroy(list);
}

#endif
