/* The little HTTP/1.1 that the benchmark's clients speak: one fixed POST, and answers with a Content-Length. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DIE(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

enum { HEAD_MAX = 8192 };

typedef struct {
    char *bytes;
    size_t size;
    size_t body_size;
} post_t;

/* Where an answer stands: its head is collected, its body only counted. */
typedef struct {
    char head[HEAD_MAX];
    size_t head_size;
    size_t body_size, body_left;
    bool in_body;
    int status;
} answer_t;

static inline int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline post_t make_post(const char *path, const char *body_file) {
    FILE *file = fopen(body_file, "rb");
    if (file == NULL) DIE("%s: %s", body_file, strerror(errno));
    fseek(file, 0, SEEK_END);
    size_t body_size = (size_t)ftell(file);
    rewind(file);
    post_t post = {.bytes = malloc(body_size + 1024), .body_size = body_size};
    int head = sprintf(post.bytes,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       path, body_size);
    if (fread(post.bytes + head, 1, body_size, file) != body_size) DIE("%s: cannot be read", body_file);
    fclose(file);
    post.size = (size_t)head + body_size;
    return post;
}

static inline int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) DIE("socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) DIE("connect to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static inline void read_head(answer_t *answer) {
    answer->head[answer->head_size] = 0;
    if (sscanf(answer->head, "HTTP/1.1 %d", &answer->status) != 1) DIE("no HTTP/1.1 answer: %.60s", answer->head);
    char *line = answer->head;
    answer->body_left = SIZE_MAX;
    while ((line = strstr(line, "\r\n")) != NULL) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0) answer->body_left = strtoull(line + 15, NULL, 10);
    }
    if (answer->body_left == SIZE_MAX) DIE("an answer without Content-Length: %.200s", answer->head);
    answer->body_size = answer->body_left;
    answer->in_body = true;
}

/* Takes bytes of one answer (nothing is pipelined). True when it is complete; the next one may begin then. */
static inline bool take_bytes(answer_t *answer, const char *bytes, size_t size) {
    while (size && !answer->in_body) {
        if (answer->head_size == HEAD_MAX - 1) DIE("an answer's head is longer than %d bytes", HEAD_MAX);
        answer->head[answer->head_size++] = *bytes++;
        size--;
        if (answer->head_size >= 4 && memcmp(answer->head + answer->head_size - 4, "\r\n\r\n", 4) == 0)
            read_head(answer);
    }
    if (!answer->in_body) return false;
    if (size > answer->body_left) DIE("more bytes than the answer's Content-Length");
    answer->body_left -= size;
    if (answer->body_left) return false;
    answer->in_body = false;
    answer->head_size = 0;
    return true;
}

#endif
