/* Open loop: requests start when the schedule says so, whether answers have come or not, and each latency counts from
 * the intended start. So a gateway that stalls pays for everybody who had to wait, as in real life.
 *
 *     openloop PORT PATH BODY_FILE CONNECTIONS RATE SETTLE_S SECONDS LATENCIES_FILE
 *
 * Arrivals are random (exponential gaps, the same for every run with the same rate). A request that finds no free
 * connection waits for one, and its clock runs. The first SETTLE_S seconds are sent but not recorded. Writes latencies
 * as 32-bit microseconds in the machine's byte order; prints one line of JSON.
 *
 * A connection that the server closes while nothing is asked on it is opened again when it is needed, as every client
 * does; one that it closes on a request is `broken`, and its request with it.
 *
 * An answer 503 is a refusal: counted by itself, and its latency goes into refused_p99_us and not into the file.
 *
 * `lag_p99_us` is how late the client itself was when a connection was free: when it is not small against the
 * latencies, the machine was too busy for the client and the figures say nothing.
 */
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>

#include "http.h"

enum { EVENTS = 256, PATIENCE_S = 8, READ_SIZE = 65536 };

typedef struct {
    int fd;
    int64_t intended_ns; /* 0: free */
    size_t sent;
    answer_t answer;
} connection_t;

typedef struct {
    int64_t *values;
    size_t count, room;
} list_t;

static post_t post;
static int port, epoll_fd;
static connection_t *connections, **idle;
static int idle_count;
static list_t waiting; /* intended starts of requests that found no free connection, oldest first */
static size_t waiting_first;
static list_t latencies, refusals, lags; /* microseconds */
static int64_t record_from_ns;
static long sent, answered, refused, bad_status, wrong_size, broken;

static void append(list_t *list, int64_t value) {
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 4096;
        list->values = realloc(list->values, list->room * sizeof *list->values);
    }
    list->values[list->count++] = value;
}

static void watch(connection_t *connection, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(epoll_fd, operation, connection->fd, &event);
}

static void open_connection(connection_t *connection) {
    connection->fd = connect_to(port);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
}

static void write_more(connection_t *connection) {
    ssize_t size = write(connection->fd, post.bytes + connection->sent, post.size - connection->sent);
    if (size > 0) connection->sent += (size_t)size;
    if (size < 0 && errno != EAGAIN) DIE("write: %s", strerror(errno));
    watch(connection, EPOLL_CTL_MOD, connection->sent < post.size ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void read_some(connection_t *connection);

static void begin(connection_t *connection, int64_t intended_ns) {
    if (connection->fd >= 0) read_some(connection); /* its end may be here unread: hundreds are closed together */
    if (connection->fd < 0) open_connection(connection);
    connection->intended_ns = intended_ns;
    ssize_t size = write(connection->fd, post.bytes, post.size);
    if (size < 0 && errno != EAGAIN) DIE("write: %s", strerror(errno));
    connection->sent = size > 0 ? (size_t)size : 0;
    if (connection->sent < post.size) watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    sent++;
}

static void end(connection_t *connection) {
    answered++;
    bool is_refusal = connection->answer.status == 503;
    if (is_refusal)
        refused++;
    else if (connection->answer.status != 200)
        bad_status++;
    else if (connection->answer.body_size != post.body_size)
        wrong_size++; /* it is an echo service */
    if (connection->intended_ns >= record_from_ns)
        append(is_refusal ? &refusals : &latencies, (now_ns() - connection->intended_ns) / 1000);
    connection->intended_ns = 0;
    if (waiting_first < waiting.count)
        begin(connection, waiting.values[waiting_first++]);
    else
        idle[idle_count++] = connection;
}

static void read_some(connection_t *connection) {
    static char bytes[READ_SIZE];
    ssize_t size = read(connection->fd, bytes, sizeof bytes);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        close(connection->fd);
        connection->fd = -1;
        if (connection->intended_ns != 0) broken++;
        return;
    }
    if (connection->intended_ns == 0) DIE("bytes on a connection that asked for nothing");
    if (take_bytes(&connection->answer, bytes, (size_t)size)) end(connection);
}

static void due(int64_t intended_ns) {
    if (idle_count == 0) {
        append(&waiting, intended_ns);
        return;
    }
    if (intended_ns >= record_from_ns) append(&lags, (now_ns() - intended_ns) / 1000);
    begin(idle[--idle_count], intended_ns);
}

static void handle_events(int64_t until_ns) {
    struct epoll_event events[EVENTS];
    int64_t left_ns = until_ns - now_ns();
    struct timespec timeout = {0};
    if (left_ns > 0) timeout = (struct timespec){left_ns / 1000000000, left_ns % 1000000000};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        connection_t *connection = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) write_more(connection);
        if (events[i].events & ~(uint32_t)EPOLLOUT) read_some(connection);
    }
}

static int64_t gap_ns(double rate) {
    return (int64_t)(-log(1.0 - drand48()) / rate * 1e9);
}

static void drive(double rate, int64_t end_ns) {
    int64_t next_ns = now_ns() + gap_ns(rate);
    while (next_ns < end_ns) {
        for (; next_ns < end_ns && next_ns <= now_ns(); next_ns += gap_ns(rate)) due(next_ns);
        handle_events(next_ns < end_ns ? next_ns : end_ns);
    }
    int64_t patience_ns = now_ns() + (int64_t)PATIENCE_S * 1000000000;
    while (answered + broken < sent + (long)(waiting.count - waiting_first) && now_ns() < patience_ns)
        handle_events(now_ns() + 100000000);
}

static int by_size(const void *left, const void *right) {
    int64_t difference = *(const int64_t *)left - *(const int64_t *)right;
    return difference < 0 ? -1 : difference > 0;
}

static int64_t percentile(list_t *list, double share) {
    if (list->count == 0) return 0;
    qsort(list->values, list->count, sizeof *list->values, by_size);
    return list->values[(size_t)(share * (double)(list->count - 1))];
}

static void open_connections(int count) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)count, sizeof *connections);
    idle = calloc((size_t)count, sizeof *idle);
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i]);
        idle[idle_count++] = &connections[i];
    }
}

static void save_latencies(const char *name) {
    FILE *file = fopen(name, "wb");
    if (file == NULL) DIE("%s: %s", name, strerror(errno));
    for (size_t i = 0; i < latencies.count; i++) {
        uint32_t us = (uint32_t)latencies.values[i];
        fwrite(&us, sizeof us, 1, file);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 9) DIE("usage: openloop PORT PATH BODY_FILE CONNECTIONS RATE SETTLE_S SECONDS LATENCIES_FILE");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* the default of 50 us would be in every latency */
    double rate = atof(argv[5]), settle_s = atof(argv[6]), seconds = atof(argv[7]);
    post = make_post(argv[2], argv[3]);
    port = atoi(argv[1]);
    open_connections(atoi(argv[4]));
    srand48((long)rate);
    record_from_ns = now_ns() + (int64_t)(settle_s * 1e9);
    drive(rate, record_from_ns + (int64_t)(seconds * 1e9));
    save_latencies(argv[8]);
    long unsent = (long)(waiting.count - waiting_first);
    printf("{\"sent\": %ld, \"answered\": %ld, \"refused\": %ld, \"bad_status\": %ld, \"lost\": %ld, \"broken\": %ld, "
           "\"wrong_size\": %ld, \"refused_p99_us\": %lld, \"lag_p99_us\": %lld}\n",
           sent, answered, refused, bad_status, sent - answered - broken + unsent, broken, wrong_size,
           (long long)percentile(&refusals, 0.99), (long long)percentile(&lags, 0.99));
    return 0;
}
