/* A worker is killed at a named step of the table's code, and somebody else cleans up after it.
 *
 *     deaths at STEP      SIGKILL at that step, once; prints what reclaim found and the verdicts on replies afterwards
 *     deaths anywhere N   SIGKILL from outside after a random time, N times on one table
 *
 * Each step is a CT_STEP in the headers: the kill is compiled in here and nowhere else. The child is a process of its
 * own; the parent plays supervisor and next generation. A broken rule ends the program with exit code 1.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEPS(each)                                                                                                   \
    each(USED_WRITTEN) each(CLAIM_BEGUN) each(TOMBSTONE_WRITTEN) each(TAG_WRITTEN) each(FIELDS_WRITTEN)               \
    each(PUBLISHED) each(TIME_WRITTEN) each(AFTER_SENT) each(AFTER_RECORDED) each(AFTER_ANSWERED) each(AFTER_EXPIRED) \
    each(RESTED) each(SLOT_RECLAIMED) each(MAP_WORD_WRITTEN) each(MAP_WRITTEN)
#define AS_CONSTANT(step) step,
#define AS_NAME(step) #step,
enum { NOWHERE = 0, STEPS(AS_CONSTANT) };
static const char *const STEP_NAMES[] = {"NOWHERE", STEPS(AS_NAME)};

static int doomed_at, passes_left;
static void pass(int step)
{
    if (step == doomed_at && passes_left-- == 0) kill(getpid(), SIGKILL);
}
#define CT_STEP(step) pass(step)

#include "_ctable_range.h"

#define RULE(holds, ...)                         \
    do {                                         \
        if (!(holds)) {                          \
            printf("broken rule: " __VA_ARGS__); \
            printf("\n");                        \
            exit(1);                             \
        }                                        \
    } while (0)

enum { SLOTS = 4, OLD_ANSWERED = 100, OLD_EXPIRED = 200, DOOMED = 300 };
static ct_view view;

static void make_table(void)
{
    void *base = mmap(NULL, ct_layout_size(1, SLOTS), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    RULE(base != MAP_FAILED, "memory");
    ct_format(base, 1, 1, SLOTS);
    ct_look_at(&view, base, 1, SLOTS);
}

/* One request; `ending` 0: stays live. Returns its slot. */
static uint32_t live_once(ct_range *range, uint64_t tag, uint32_t ending)
{
    ct_request request = {.tag = tag, .deadline_ns = 1000, .claimed_ns = 10, .place = ct_place(1, 2)};
    int32_t slot = ct_range_claim(range);
    RULE(slot >= 0, "a slot is free");
    int64_t token = ct_range_publish(range, slot, &request, CT_SINGLE);
    ct_advance(&view.slots[slot], token, CT_SENT, 11);
    pass(AFTER_SENT);
    ct_advance(&view.slots[slot], token, CT_RECORDED, 12);
    pass(AFTER_RECORDED);
    if (ending == CT_ANSWERED) {
        RULE(ct_resolve(&view.slots[slot], (uint32_t)slot, tag) == token, "the reply finds it");
        pass(AFTER_ANSWERED);
    } else if (ending) {
        RULE(ct_finish(&view.slots[slot], token, ending) >= 0, "the deadline finds it");
        pass(AFTER_EXPIRED);
    }
    if (ending) RULE(ct_range_release(range, token), "an ended slot is released");
    return (uint32_t)slot;
}

/* The doomed life: each slot has two earlier occupants, one answered and then one expired; then one request that is
 * to be killed in slot 0. */
static void lead_a_life(int step)
{
    ct_range range;
    RULE(ct_range_open(&range, &view, 0) == 1, "a clean range opens");
    for (uint32_t i = 0; i < SLOTS; i++) RULE(live_once(&range, OLD_ANSWERED + i, CT_ANSWERED) == i, "first come first");
    for (uint32_t i = 0; i < SLOTS; i++) RULE(live_once(&range, OLD_EXPIRED + i, CT_EXPIRED) == i, "first come first");
    doomed_at = step;
    live_once(&range, DOOMED, step == AFTER_EXPIRED ? CT_EXPIRED : CT_ANSWERED);
}

static void rewrite_map(int step)
{
    uint8_t owners[CT_PARTITIONS_MAX];
    memset(owners, 0, sizeof owners);
    RULE(ct_map_write(view.map, owners, 16) == 1, "the first map is version 1");
    memset(owners, 0xFF, sizeof owners);
    doomed_at = step;
    passes_left = step == MAP_WORD_WRITTEN ? 100 : 0;
    ct_map_write(view.map, owners, 4096);
}

static void reclaim_and_die(int step)
{
    ct_range range;
    RULE(ct_range_open(&range, &view, 0) == 1, "a clean range opens");
    for (int i = 0; i < SLOTS; i++) live_once(&range, DOOMED + (uint64_t)i, 0);
    doomed_at = step;
    passes_left = 2; /* slot 0 is done, slot 1 is RECLAIMED and not yet RESTING */
    ct_reclaim(&view, 0);
}

static void in_a_child_that_dies(void (*body)(int), int argument)
{
    int status;
    pid_t child = fork();
    RULE(child >= 0, "fork");
    if (child == 0) {
        body(argument);
        _exit(0);
    }
    waitpid(child, &status, 0);
    RULE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child dies at its step, got status %d", status);
}

/* The next owner gets every slot exactly once, and can use each of them again and again. */
static void all_slots_are_usable(void)
{
    ct_range range;
    int seen[SLOTS] = {0};
    int32_t claimed[SLOTS];
    RULE(ct_range_open(&range, &view, 0) == 1, "a reclaimed range opens");
    for (int i = 0; i < SLOTS; i++) {
        claimed[i] = ct_range_claim(&range);
        RULE(claimed[i] >= 0 && seen[claimed[i]]++ == 0, "no slot is lost, none is given twice");
    }
    RULE(ct_range_claim(&range) == -1, "full is full");
    for (int i = 0; i < SLOTS; i++) RULE(ct_range_abandon(&range, claimed[i]), "a claim can be abandoned");
    for (uint64_t i = 0; i < 3 * SLOTS; i++) live_once(&range, 1000 + i, CT_ANSWERED);
    RULE(ct_range_in_flight(&range) == 0, "nothing is left over");
    ct_range_close(&range);
}

static void die_at(int step)
{
    int map_step = step == MAP_WORD_WRITTEN || step == MAP_WRITTEN;
    make_table();
    in_a_child_that_dies(map_step ? rewrite_map : step == SLOT_RECLAIMED ? reclaim_and_die : lead_a_life, step);
    if (map_step) {
        uint8_t owners[CT_PARTITIONS_MAX], next[2] = {0, 0};
        uint32_t count;
        uint64_t version = ct_map_read(view.map, owners, &count);
        printf("version=%d count=%d owner=%d ", (int)version, (int)count, (int)ct_map_owner(view.map, 15));
        version = ct_map_write(view.map, next, 2);
        printf("next=%d owner=%d\n", (int)version, (int)ct_map_owner(view.map, 2));
        return;
    }
    uint32_t before = ct_state_of(ct_load_acquire(&view.slots[0].word));
    ct_reclaimed sum = ct_reclaim(&view, 0), again = ct_reclaim(&view, 0);
    RULE(again.live == 0 && again.repaired == 0, "a second reclaim finds nothing");
    printf("state=%d live=%d repaired=%d answered=%d expired=%d doomed=%d\n", (int)before, (int)sum.live,
           (int)sum.repaired, (int)ct_resolve(&view.slots[0], 0, OLD_ANSWERED),
           (int)ct_resolve(&view.slots[0], 0, OLD_EXPIRED), (int)ct_resolve(&view.slots[0], 0, DOOMED));
    all_slots_are_usable();
}

static void live_until_killed(void)
{
    ct_range range;
    RULE(ct_range_open(&range, &view, 0) == 1, "a reclaimed range opens");
    for (uint64_t tag = 1;; tag++) live_once(&range, tag, tag % 2 ? CT_ANSWERED : CT_EXPIRED);
}

static void die_anywhere(int times)
{
    int live = 0, repaired = 0;
    unsigned chance = 1;
    make_table();
    for (int i = 0; i < times; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) live_until_killed();
        chance = chance * 1103515245u + 12345u;
        struct timespec moment = {0, 200000 + chance % 400000};
        nanosleep(&moment, NULL);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        RULE(WIFSIGNALED(status), "the child lives until it is killed, got status %d", status);
        ct_reclaimed sum = ct_reclaim(&view, 0);
        live += (int)sum.live;
        repaired += (int)sum.repaired;
        RULE(sum.live + sum.repaired <= 1, "one request at a time, so one slot at most is left over");
        all_slots_are_usable();
    }
    printf("killed=%d live=%d repaired=%d\n", times, live, repaired);
}

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a child must not print again what its parent had buffered */
    if (count == 3 && !strcmp(arguments[1], "anywhere")) {
        die_anywhere(atoi(arguments[2]));
        return 0;
    }
    for (size_t step = 1; count == 3 && step < sizeof STEP_NAMES / sizeof *STEP_NAMES; step++) {
        if (strcmp(arguments[2], STEP_NAMES[step])) continue;
        die_at((int)step);
        return 0;
    }
    printf("usage: deaths at STEP | deaths anywhere TIMES\n");
    return 2;
}
