/* Parks requests: one request on each of many connections, and then nothing, until SIGTERM.
 *
 *     park PORT PATH BODY_FILE COUNT
 *
 * Prints "sent" when every request is written. An answer is a mistake here (the topic has no reader) and is printed.
 */
#include <signal.h>
#include <sys/prctl.h>

#include "http.h"

static volatile sig_atomic_t stopping;

static void on_signal(int number) {
    (void)number;
    stopping = 1;
}

int main(int argc, char **argv) {
    if (argc != 5) DIE("usage: park PORT PATH BODY_FILE COUNT");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: it has to wake epoll_wait */
    sigaction(SIGTERM, &action, NULL);
    int port = atoi(argv[1]), count = atoi(argv[4]), epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    post_t post = make_post(argv[2], argv[3]);
    for (int i = 0; i < count && !stopping; i++) {
        int fd = connect_to(port);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (write(fd, post.bytes, post.size) != (ssize_t)post.size) DIE("write: %s", strerror(errno));
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
        if (i % 100 == 99) usleep(10000); /* 10,000 a second: a gateway's accept queue is finite */
    }
    puts("sent");
    fflush(stdout);
    while (!stopping) {
        struct epoll_event event;
        char bytes[200] = "";
        if (epoll_wait(epoll_fd, &event, 1, -1) != 1) continue;
        ssize_t size = read(event.data.fd, bytes, sizeof bytes - 1);
        fprintf(stderr, "park: unexpected %s: %.60s\n", size > 0 ? "answer" : "end of a connection", bytes);
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, event.data.fd, NULL);
    }
    return 0;
}
