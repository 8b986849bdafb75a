/* What the shared table costs without Python: the loops of bench/questions/table.py that are C.
 *
 *     table cycles ROUNDS SLOTS RUNS    claim, publish, resolve, release
 *     table counts ROUNDS SLOTS RUNS    count an ending and observe a duration
 *
 * Prints nanoseconds a round, one line a run. The table is one of its own, of one worker.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#include "../../fastgw/_ctable_range.h"

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void need(int holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "table: expected %s\n", what);
    exit(1);
}

static void cycles(ct_range *range, uint64_t rounds)
{
    ct_request request = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        request.tag = i;
        int32_t slot = ct_range_claim(range);
        int64_t token = ct_range_publish(range, slot, &request);
        need(token >= 0 && ct_resolve(ct_own(range, slot), (uint32_t)slot, i) == token, "a reply that is answered");
        need(ct_range_release(range, token), "a slot that is released");
    }
}

static void counts(const ct_view *view, uint64_t rounds)
{
    ct_route_counters *counters = &view->counters[0].routes[CT_UNROUTED];
    for (uint64_t i = 0; i < rounds; i++) {
        ct_add_relaxed(&counters->endings[0], 1);
        ct_observe(&counters->phases[0], i);
    }
}

int main(int count, char **arguments)
{
    need(count == 5, "cycles or counts, ROUNDS, SLOTS, RUNS");
    int is_cycles = !strcmp(arguments[1], "cycles");
    uint64_t rounds = strtoull(arguments[2], NULL, 10);
    uint32_t slots = (uint32_t)strtoul(arguments[3], NULL, 10);
    size_t bytes = ct_layout_size(1, slots);
    need(rounds > 0 && bytes > 0, "at least one round, and slots that a table can have");

    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(base != MAP_FAILED, "memory");
    ct_view view;
    ct_range range;
    ct_format(base, 1, 1, slots);
    ct_look_at(&view, base, 1, slots);
    need(ct_range_open(&range, &view, 0) == 1, "a range that opens");
    for (int runs = atoi(arguments[4]); runs > 0; runs--) {
        uint64_t started_ns = now_ns();
        if (is_cycles) cycles(&range, rounds);
        else counts(&view, rounds);
        printf("%.2f\n", (double)(now_ns() - started_ns) / (double)rounds);
    }
    return 0;
}
