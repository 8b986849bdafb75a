/* The service of every benchmark: answers each request record with its own value, in the dialect it was asked in.
 *
 *     echo BOOTSTRAP TOPIC... [--misroute PERCENT] [--ignore-partition] [--busy US]
 *
 * In C on the wheel's librdkafka, so that it costs little and the same for every gateway. No consumer group: it reads
 * every partition of its topics from their ends, prints "ready" when it does, and ends on SIGTERM or with its parent.
 *
 * Where a reply goes: to the partition that the request names; with none named, without a key, as a service does that
 * just produces to `reply_to` (librdkafka then fills one partition a batch). --ignore-partition hashes the correlation
 * id instead (murmur2); --misroute sends that share of the replies to another partition than the one asked for. --busy
 * makes it a service that can do no more than one request in so many microseconds.
 */
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <time.h>

#include "kafka_client.h"

enum { BATCH = 500, POLL_MS = 100, TOPICS_MAX = 64, TOPIC_LENGTH_MAX = 250 };

/* Header names of the dialects. Spring and NestJS share names, not bytes: four bytes big-endian or decimal text. */
typedef struct {
    const char *correlation_id;
    const char *reply_topic;
    const char *reply_partition; /* NULL: the dialect has none */
} dialect_t;

static const dialect_t DIALECTS[] = {
    {"correlation_id", "reply_to", "reply_partition"},                    /* fastgw, the Go and aiokafka peers, FastStream */
    {"kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition"},  /* Spring, NestJS */
    {"REPLY_CORRELATION_ID", "REPLY_TOPIC", "REPLY_PARTITION"},           /* SmallRye, Quarkus */
};
enum { DIALECT_COUNT = sizeof DIALECTS / sizeof *DIALECTS };

typedef struct {
    const dialect_t *dialect;
    const void *id;
    size_t id_size;
    char topic[TOPIC_LENGTH_MAX + 1];
    int32_t partition;
    bool partition_is_text;
} request_t;

static volatile sig_atomic_t stopping;
static int misroute_percent;
static bool ignore_partition;
static int64_t busy_ns, free_at_ns; /* what a request takes; until when the one before does */
static long unanswered;

static void on_signal(int number) {
    (void)number;
    stopping = 1;
}

static void take_partition(request_t *request, const unsigned char *value, size_t size) {
    if (size == 4 && value[0] == 0) {
        request->partition = (int32_t)value[0] << 24 | value[1] << 16 | value[2] << 8 | value[3];
        return;
    }
    request->partition_is_text = true;
    request->partition = 0;
    for (size_t i = 0; i < size; i++) request->partition = request->partition * 10 + (value[i] - '0');
}

static void take_header(request_t *request, const char *name, const void *value, size_t size) {
    for (int i = 0; i < DIALECT_COUNT; i++) {
        const dialect_t *dialect = &DIALECTS[i];
        if (strcmp(name, dialect->correlation_id) == 0) {
            request->dialect = dialect;
            request->id = value;
            request->id_size = size;
        } else if (strcmp(name, dialect->reply_topic) == 0 && size <= TOPIC_LENGTH_MAX) {
            memcpy(request->topic, value, size);
            request->topic[size] = 0;
        } else if (dialect->reply_partition != NULL && strcmp(name, dialect->reply_partition) == 0) {
            take_partition(request, value, size);
        } else {
            continue;
        }
        return;
    }
}

static bool understand(request_t *request, const rd_kafka_message_t *message) {
    rd_kafka_headers_t *headers;
    *request = (request_t){.partition = RD_KAFKA_PARTITION_UA};
    if (rd_kafka_message_headers(message, &headers)) return false;
    const char *name;
    const void *value;
    size_t size;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &size) == 0; i++)
        take_header(request, name, value, size);
    return request->dialect != NULL && request->topic[0] != 0;
}

/* Partition counts of reply topics, looked up once each: only misrouted replies need them. */
static int known_partition_count(rd_kafka_t *producer, const char *topic) {
    static struct {
        char topic[TOPIC_LENGTH_MAX + 1];
        int count;
    } known[TOPICS_MAX];
    int i = 0;
    for (; i < TOPICS_MAX && known[i].count; i++)
        if (strcmp(known[i].topic, topic) == 0) return known[i].count;
    if (i == TOPICS_MAX) DIE("more than %d reply topics", TOPICS_MAX);
    strcpy(known[i].topic, topic);
    return known[i].count = partition_count(producer, topic);
}

static int32_t another_partition(int32_t partition, int count) {
    if (count < 2 || partition < 0) DIE("--misroute needs requests that name one of several partitions");
    return (partition + 1 + rand() % (count - 1)) % count;
}

static void reply(rd_kafka_t *producer, const request_t *request, const rd_kafka_message_t *message) {
    rd_kafka_headers_t *headers = rd_kafka_headers_new(2);
    rd_kafka_header_add(headers, request->dialect->correlation_id, -1, request->id, (ssize_t)request->id_size);
    if (request->dialect == &DIALECTS[1] && request->partition_is_text)
        rd_kafka_header_add(headers, "kafka_nest-is-disposed", -1, "\0", 1);
    int32_t partition = request->partition;
    bool keyed = partition != RD_KAFKA_PARTITION_UA;
    if (ignore_partition) {
        partition = RD_KAFKA_PARTITION_UA;
        keyed = true;
    }
    if (misroute_percent && rand() % 100 < misroute_percent)
        partition = another_partition(partition, known_partition_count(producer, request->topic));
    int err = rd_kafka_producev(
        producer, RD_KAFKA_VTYPE_TOPIC, request->topic, RD_KAFKA_VTYPE_PARTITION, partition, RD_KAFKA_VTYPE_MSGFLAGS,
        RD_KAFKA_MSG_F_COPY | RD_KAFKA_MSG_F_BLOCK, RD_KAFKA_VTYPE_KEY, keyed ? request->id : NULL,
        keyed ? request->id_size : (size_t)0, RD_KAFKA_VTYPE_VALUE, message->payload, message->len,
        RD_KAFKA_VTYPE_HEADERS, headers, RD_KAFKA_VTYPE_END);
    if (err) {
        rd_kafka_headers_destroy(headers);
        fprintf(stderr, "echo: reply to %s [%d]: %s\n", request->topic, partition, rd_kafka_err2str(err));
    }
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Takes its time, once for each request, and makes up for having slept too long. */
static void be_busy(void) {
    int64_t begun_ns = now_ns();
    free_at_ns = (free_at_ns > begun_ns - 10000000 ? free_at_ns : begun_ns) + busy_ns;
    struct timespec until = {free_at_ns / 1000000000, free_at_ns % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void handle(rd_kafka_t *producer, rd_kafka_message_t *message) {
    request_t request;
    if (busy_ns) be_busy();
    if (message->err)
        fprintf(stderr, "echo: %s\n", rd_kafka_err2str(message->err));
    else if (understand(&request, message))
        reply(producer, &request, message);
    else
        unanswered++;
    rd_kafka_message_destroy(message);
}

static void serve(rd_kafka_t *consumer, rd_kafka_t *producer) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer);
    rd_kafka_message_t *batch[BATCH];
    while (!stopping) {
        rd_kafka_message_t *first = rd_kafka_consumer_poll(consumer, POLL_MS);
        rd_kafka_poll(producer, 0);
        if (first == NULL) continue;
        handle(producer, first);
        ssize_t count = rd_kafka_consume_batch_queue(queue, 0, batch, BATCH);
        for (ssize_t i = 0; i < count; i++) handle(producer, batch[i]);
    }
    rd_kafka_flush(producer, KAFKA_TIMEOUT_MS);
    if (unanswered) fprintf(stderr, "echo: %ld records without a reply address\n", unanswered);
}

static const setting_t CONSUMER[] = {
    {"group.id", "bench-echo"}, /* required by librdkafka, never joined */
    {"enable.auto.commit", "false"},
    {"fetch.wait.max.ms", "100"},
    {"fetch.queue.backoff.ms", "5"},
    {"enable.metrics.push", "false"},
};
static const setting_t PRODUCER[] = {
    {"linger.ms", "1"},
    {"partitioner", "murmur2_random"},
    {"sticky.partitioning.linger.ms", "2"},
    {"enable.metrics.push", "false"},
};
#define CLIENT(type, bootstrap, settings) \
    kafka_client(type, bootstrap, settings, sizeof settings / sizeof *settings)

int main(int argc, char **argv) {
    char *topics[TOPICS_MAX];
    int topic_count = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--misroute") == 0 && i + 1 < argc)
            misroute_percent = atoi(argv[++i]);
        else if (strcmp(argv[i], "--ignore-partition") == 0)
            ignore_partition = true;
        else if (strcmp(argv[i], "--busy") == 0 && i + 1 < argc)
            busy_ns = atoll(argv[++i]) * 1000;
        else if (topic_count < TOPICS_MAX)
            topics[topic_count++] = argv[i];
    }
    if (topic_count == 0) DIE("usage: echo BOOTSTRAP TOPIC... [--misroute PERCENT] [--ignore-partition] [--busy US]");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGTERM, on_signal);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is for the benchmark, which then ends us in order */
    rd_kafka_t *consumer = CLIENT(RD_KAFKA_CONSUMER, argv[1], CONSUMER);
    rd_kafka_t *producer = CLIENT(RD_KAFKA_PRODUCER, argv[1], PRODUCER);
    rd_kafka_poll_set_consumer(consumer);
    read_from_now_on(consumer, topic_count, topics);
    puts("ready");
    fflush(stdout);
    serve(consumer, producer);
    rd_kafka_destroy(producer);
    rd_kafka_destroy(consumer);
    return 0;
}
