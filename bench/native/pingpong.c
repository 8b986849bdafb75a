/* Kafka alone: produces requests and reads the replies, with as many under way as a closed loop of that many
 * connections would have, in the gateway's batches. What no gateway on librdkafka can go below.
 *
 *     pingpong BOOTSTRAP REQUEST_TOPIC REPLY_TOPIC IN_FLIGHT BODY_BYTES SETTLE_S SECONDS
 *
 * Prints one line of JSON: requests answered and CPU microseconds (user + system, all threads) in SECONDS.
 */
#include <sys/prctl.h>

#include <signal.h>
#include <time.h>

#include "kafka_client.h"

enum { BATCH = 512, POLL_MS = 100, REPLY_PARTITION = 0 };

static const char *request_topic, *reply_topic;
static char *body;
static size_t body_size;
static uint64_t last_number;

static double clock_s(int which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* As many headers, of the same sizes, as fastgw's requests have. */
static void send_one(rd_kafka_t *producer) {
    char id[40], deadline[24];
    snprintf(id, sizeof id, "00000000-0000-8000-8000-%012llx", (unsigned long long)++last_number);
    snprintf(deadline, sizeof deadline, "%lld000", (long long)time(NULL));
    rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
    rd_kafka_header_add(headers, "correlation_id", -1, id, 36);
    rd_kafka_header_add(headers, "reply_partition", -1, "0", 1);
    rd_kafka_header_add(headers, "deadline", -1, deadline, -1);
    rd_kafka_header_add(headers, "http_method", -1, "POST", 4);
    rd_kafka_header_add(headers, "http_path", -1, "/orders", 7);
    rd_kafka_header_add(headers, "reply_to", -1, reply_topic, -1);
    rd_kafka_header_add(headers, "http_route", -1, "/orders", 7);
    rd_kafka_header_add(headers, "content-type", -1, "application/json", 16);
    int err = rd_kafka_producev(producer, RD_KAFKA_VTYPE_TOPIC, request_topic, RD_KAFKA_VTYPE_MSGFLAGS,
                                RD_KAFKA_MSG_F_COPY, RD_KAFKA_VTYPE_VALUE, body, body_size, RD_KAFKA_VTYPE_HEADERS,
                                headers, RD_KAFKA_VTYPE_END);
    if (err) DIE("produce: %s", rd_kafka_err2str(err));
}

static long answer_each(rd_kafka_t *producer, rd_kafka_message_t **messages, ssize_t count) {
    for (ssize_t i = 0; i < count; i++) {
        if (messages[i]->err) DIE("reply: %s", rd_kafka_err2str(messages[i]->err));
        rd_kafka_message_destroy(messages[i]);
        send_one(producer);
    }
    return count;
}

static long play_until(rd_kafka_t *producer, rd_kafka_t *consumer, double end_s) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer);
    rd_kafka_message_t *batch[BATCH];
    long answered = 0;
    while (clock_s(CLOCK_MONOTONIC) < end_s) {
        batch[0] = rd_kafka_consumer_poll(consumer, POLL_MS);
        rd_kafka_poll(producer, 0);
        if (batch[0] == NULL) continue;
        ssize_t more = rd_kafka_consume_batch_queue(queue, 0, batch + 1, BATCH - 1);
        answered += answer_each(producer, batch, 1 + (more > 0 ? more : 0));
    }
    return answered;
}

static void read_one_partition(rd_kafka_t *consumer) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, reply_topic, REPLY_PARTITION)->offset =
        end_of(consumer, reply_topic, REPLY_PARTITION);
    int err = rd_kafka_assign(consumer, list);
    if (err) DIE("assign: %s", rd_kafka_err2str(err));
    rd_kafka_topic_partition_list_destroy(list);
}

/* As fastgw's public link has them (fastgw/kafka/public_link.py). The native one makes its batches itself (batching.py): as large. */
static const setting_t PRODUCER[] = {
    {"linger.ms", "1"},
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"sticky.partitioning.linger.ms", "2"},
    {"queue.buffering.max.messages", "200000"},
    {"enable.metrics.push", "false"},
};
static const setting_t CONSUMER[] = {
    {"group.id", "bench-pingpong"}, /* required by librdkafka, never joined */
    {"enable.auto.commit", "false"},
    {"fetch.wait.max.ms", "100"},
    {"fetch.queue.backoff.ms", "5"},
    {"check.crcs", "false"},
    {"enable.metrics.push", "false"},
};
#define CLIENT(type, bootstrap, settings) \
    kafka_client(type, bootstrap, settings, sizeof settings / sizeof *settings)

int main(int argc, char **argv) {
    if (argc != 8) DIE("usage: pingpong BOOTSTRAP REQUEST_TOPIC REPLY_TOPIC IN_FLIGHT BODY_BYTES SETTLE_S SECONDS");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    request_topic = argv[2];
    reply_topic = argv[3];
    int in_flight = atoi(argv[4]);
    body_size = (size_t)atol(argv[5]);
    body = calloc(1, body_size);
    double settle_s = atof(argv[6]), seconds = atof(argv[7]);
    rd_kafka_t *producer = CLIENT(RD_KAFKA_PRODUCER, argv[1], PRODUCER);
    rd_kafka_t *consumer = CLIENT(RD_KAFKA_CONSUMER, argv[1], CONSUMER);
    rd_kafka_poll_set_consumer(consumer);
    read_one_partition(consumer);
    for (int i = 0; i < in_flight; i++) send_one(producer);
    play_until(producer, consumer, clock_s(CLOCK_MONOTONIC) + settle_s);
    double cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID), start_s = clock_s(CLOCK_MONOTONIC);
    long answered = play_until(producer, consumer, start_s + seconds);
    cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu_s;
    printf("{\"requests\": %ld, \"seconds\": %.3f, \"cpu_us\": %.0f}\n", answered,
           clock_s(CLOCK_MONOTONIC) - start_s, cpu_s * 1e6);
    rd_kafka_destroy(producer);
    rd_kafka_destroy(consumer);
    return 0;
}
