/* Races of the correlation table, run as threads over the very lines that the processes run.
 *
 *     slot_races SCENARIO ROUNDS
 *
 * Built by tests/table/test_table_races.py with and without ThreadSanitizer, which sees races between threads but not between
 * processes. A broken rule ends the program with exit code 1 and one line that names the rule.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "_ctable_range.h"

static _Atomic uint64_t broken;

/* The first thread that finds a rule broken tells it and ends the program; others wait for that end in silence. */
#define RULE(holds, ...)                                \
    do {                                                \
        if (!(holds)) {                                 \
            while (atomic_exchange(&broken, 1)) pause(); \
            printf("broken rule: " __VA_ARGS__);        \
            printf("\n");                               \
            fflush(stdout);                             \
            _exit(1);                                   \
        }                                               \
    } while (0)

static ct_view view;

static void make_table(uint32_t workers, uint32_t slots_per_process)
{
    size_t bytes = ct_layout_size(workers, slots_per_process);
    void *base = aligned_alloc(CT_PAGE_BYTES, (bytes + CT_PAGE_BYTES - 1) / CT_PAGE_BYTES * CT_PAGE_BYTES);
    memset(base, 0, bytes);
    ct_format(base, 1, workers, slots_per_process);
    ct_look_at(&view, base, workers, slots_per_process);
}

static void run_together(void *(*const bodies[])(void *), int count)
{
    pthread_t threads[8];
    for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, bodies[i], (void *)(intptr_t)i);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

/* ---- one_winner: everybody ends the same 64 live slots at once, each rival in an order of its own ------------------
 *
 * Legal outcomes for each slot:
 *   - a reply wins: one token; the other is a DUPLICATE; deadline, disconnect and reclaim end nothing.
 *   - deadline or disconnect wins: one live state; both replies are LATE; reclaim ends nothing.
 *   - reclaim wins: counted once as live; both replies are LATE; deadline and disconnect get -1.
 *   - sent and recorded succeed only before the end, and change nothing about who wins.
 * Afterwards the slot is RESTING, and a range opened anew has every slot exactly once.
 */
enum { SLOTS = 64, REPLY_1 = 0, REPLY_2, DEADLINE, DISCONNECT, PROGRESS, RECLAIM, RIVALS };
static int rounds;
static pthread_barrier_t gate;
static int64_t tokens[SLOTS];
static uint64_t tags[SLOTS];
static int64_t outcome[RIVALS][SLOTS];

static int64_t act(int rival, uint32_t slot)
{
    ct_slot *own = &view.slots[slot];
    ct_reclaimed sum = {0, 0};
    switch (rival) {
    case REPLY_1:
    case REPLY_2: return ct_resolve(own, slot, tags[slot]);
    case DEADLINE: return ct_finish(own, tokens[slot], CT_EXPIRED);
    case DISCONNECT: return ct_finish(own, tokens[slot], CT_CANCELLED);
    case PROGRESS: return ct_advance(own, tokens[slot], CT_SENT, 2) + ct_advance(own, tokens[slot], CT_RECORDED, 3);
    default: ct_reclaim_slot(own, &sum); return sum.live;
    }
}

static void *rival_body(void *argument)
{
    int rival = (int)(intptr_t)argument;
    for (int round = 0; round < rounds; round++) {
        pthread_barrier_wait(&gate);
        for (uint32_t i = 0; i < SLOTS; i++) {
            /* Neighbours in time, not in lockstep: half of the rivals go backwards, each starts elsewhere. */
            uint32_t slot = ((rival & 1 ? SLOTS - 1 - i : i) + (uint32_t)(rival * round)) % SLOTS;
            outcome[rival][slot] = act(rival, slot);
        }
        pthread_barrier_wait(&gate);
    }
    return NULL;
}

static void judge(uint32_t slot)
{
    int64_t one = outcome[REPLY_1][slot], two = outcome[REPLY_2][slot];
    int replies = (one == tokens[slot]) + (two == tokens[slot]);
    int others = (outcome[DEADLINE][slot] >= 0) + (outcome[DISCONNECT][slot] >= 0) + (int)outcome[RECLAIM][slot];
    RULE(replies + others == 1, "exactly one winner, got %d replies and %d others", replies, others);
    int64_t verdict = replies ? CT_DUPLICATE : CT_LATE;
    RULE(one == tokens[slot] || one == verdict, "first reply: expected %d, got %d", (int)verdict, (int)one);
    RULE(two == tokens[slot] || two == verdict, "second reply: expected %d, got %d", (int)verdict, (int)two);
    RULE(ct_resolve(&view.slots[slot], slot, tags[slot]) == verdict, "a third reply gets the same verdict");
    RULE(ct_state_of(ct_load_acquire(&view.slots[slot].word)) == CT_RESTING, "reclaim leaves a slot resting");
}

static int64_t publish_one(ct_range *range, uint64_t tag)
{
    ct_request request = {.tag = tag, .deadline_ns = tag + 1000, .claimed_ns = tag, .place = ct_place(tag & 0xFFFF, 7)};
    int32_t slot = ct_range_claim(range);
    RULE(slot >= 0, "no slot is lost");
    return ct_range_publish(range, slot, &request, CT_SINGLE);
}

static void *owner_body(void *unused)
{
    (void)unused;
    uint64_t tag = 0;
    for (int round = 0; round < rounds; round++) {
        ct_range range;
        RULE(ct_range_open(&range, &view, 0) == 1, "a reclaimed range opens");
        for (int i = 0; i < SLOTS; i++) {
            int64_t token = publish_one(&range, ++tag);
            uint32_t slot = ct_token_slot(token);
            RULE(tokens[slot] != token, "a token is given once");
            tokens[slot] = token;
            tags[slot] = tag;
        }
        RULE(ct_range_claim(&range) == -1, "full is full");
        pthread_barrier_wait(&gate);
        pthread_barrier_wait(&gate);
        for (uint32_t slot = 0; slot < SLOTS; slot++) judge(slot);
        ct_range_close(&range);
    }
    return NULL;
}

static void one_winner(void)
{
    make_table(1, SLOTS);
    memset(tokens, -1, sizeof tokens);
    pthread_barrier_init(&gate, NULL, RIVALS + 1);
    void *(*const bodies[])(void *) = {rival_body, rival_body, rival_body, rival_body,
                                       rival_body, rival_body, owner_body};
    run_together(bodies, RIVALS + 1);
}

/* ---- recycle: one owner uses two slots over and over while replies for present and past occupants pour in ----------
 *
 * The tag is the generation of the slot, so that everybody can name an occupant. Legal outcomes of a reply for k:
 *   - a token: k was live and is answered by this reply; nobody else ends k.
 *   - DUPLICATE: another reply answered k. LATE: the deadline ended k.
 *   - FORGED: two later occupants have come since, so that neither slot nor tombstone remembers k.
 * The winner reads what the owner put beside the slot before publish (a plain word, so ThreadSanitizer checks that
 * publish and compare-and-set order it), and says so before the owner uses the slot again.
 * A watcher that lists what waits sees fields of one occupant only.
 */
enum { BUSY_SLOTS = 2, REPLIERS = 3, SAID_TOKEN = 1, SAID_DUPLICATE = 2, SAID_LATE = 4, ENDED_BY_OWNER = 8 };
static _Atomic uint64_t published[BUSY_SLOTS], taken[BUSY_SLOTS], finished;
static uint64_t beside[BUSY_SLOTS]; /* plain on purpose */
static uint8_t *said[REPLIERS + 1]; /* by thread, then slot * rounds + generation: merged when all is over */

static void note(int who, uint32_t slot, uint64_t generation, uint8_t what)
{
    said[who][slot * ((uint64_t)rounds + 1) + generation] |= what;
}

static void *recycler_body(void *unused)
{
    (void)unused;
    ct_range range;
    RULE(ct_range_open(&range, &view, 0) == 1, "a fresh range opens");
    for (uint64_t turn = 0; turn < (uint64_t)rounds * BUSY_SLOTS; turn++) {
        uint64_t generation = turn / BUSY_SLOTS + 1;
        ct_request request = {generation, generation + 1000, generation, ct_place(generation & 0xFFFF, 7)};
        int32_t slot = ct_range_claim(&range);
        RULE(slot == (int32_t)(turn % BUSY_SLOTS), "slots are used in turn, so that each rests as long as it can");
        beside[slot] = generation;
        int64_t token = ct_range_publish(&range, slot, &request, CT_SINGLE);
        RULE(token >> CT_SLOT_BITS == (int64_t)generation, "the generation counts claims");
        atomic_store_explicit(&published[slot], generation, memory_order_relaxed); /* orders nothing: the table must */
        for (uint64_t patience = turn * 2654435761u % 6; patience; patience--) sched_yield();
        ct_advance(&view.slots[slot], token, CT_SENT, generation);
        int state = ct_finish(&view.slots[slot], token, CT_EXPIRED);
        if (state >= 0) note(REPLIERS, (uint32_t)slot, generation, ENDED_BY_OWNER);
        else
            while (atomic_load(&taken[slot]) != generation) sched_yield();
        RULE(ct_range_release(&range, token), "an ended slot can be released");
        RULE(!ct_range_release(&range, token), "but not twice");
    }
    ct_range_close(&range);
    atomic_store(&finished, 1);
    return NULL;
}

static void reply_once(int who, uint32_t slot, uint64_t generation)
{
    int64_t verdict = ct_resolve(&view.slots[slot], slot, generation);
    uint64_t now = ct_sequence_of(ct_load_acquire(&view.slots[slot].word));
    if (verdict >= 0) {
        RULE(verdict >> CT_SLOT_BITS == (int64_t)generation, "a reply ends its own request only");
        RULE(beside[slot] == generation, "what was written before publish is seen by the winner");
        note(who, slot, generation, SAID_TOKEN);
        atomic_store(&taken[slot], generation);
    } else if (verdict == CT_FORGED) {
        RULE(now >= generation + 2, "generation %d forgotten at %d: one too early", (int)generation, (int)now);
    } else note(who, slot, generation, verdict == CT_LATE ? SAID_LATE : SAID_DUPLICATE);
}

static void *replier_body(void *argument)
{
    int who = (int)(intptr_t)argument;
    for (uint64_t turn = (uint64_t)who; !atomic_load(&finished); turn++) {
        uint32_t slot = turn % BUSY_SLOTS;
        uint64_t newest = atomic_load_explicit(&published[slot], memory_order_relaxed), back = turn / BUSY_SLOTS % 4;
        if (newest > back) reply_once(who, slot, newest - back);
        if (turn % 16 == 0) sched_yield();
    }
    return NULL;
}

static void *watcher_body(void *unused)
{
    (void)unused;
    while (!atomic_load(&finished)) {
        ct_waiting waiting[BUSY_SLOTS];
        uint32_t count = ct_oldest(&view, waiting, BUSY_SLOTS);
        for (uint32_t i = 0; i < count; i++) {
            const ct_waiting *seen = &waiting[i];
            RULE(seen->deadline_ns == seen->claimed_ns + 1000, "a listed slot is one occupant: deadline");
            RULE(seen->route == (seen->claimed_ns & 0xFFFF) && seen->home == 7, "a listed slot is one occupant: route");
        }
        sched_yield();
    }
    return NULL;
}

static void judge_history(void)
{
    uint64_t replied = 0, size = BUSY_SLOTS * ((uint64_t)rounds + 1);
    for (uint64_t i = 0; i < size; i++) {
        int winners = 0, all = 0;
        for (int who = 0; who <= REPLIERS; who++) {
            winners += (said[who][i] & SAID_TOKEN) != 0;
            winners += (said[who][i] & ENDED_BY_OWNER) != 0;
            all |= said[who][i];
        }
        RULE(winners == (i % ((uint64_t)rounds + 1) ? 1 : 0), "each occupant ends once, got %d", winners);
        RULE(!(all & SAID_DUPLICATE) || (all & SAID_TOKEN), "duplicate only of an answered request");
        RULE(!(all & SAID_LATE) || (all & ENDED_BY_OWNER), "late only after another end");
        replied += (all & SAID_TOKEN) != 0;
    }
    printf("answered %d of %d\n", (int)replied, rounds * BUSY_SLOTS);
    RULE(replied > 0 && replied < (uint64_t)rounds * BUSY_SLOTS, "the race was one: both sides won some");
}

static void recycle(void)
{
    make_table(1, BUSY_SLOTS);
    for (int i = 0; i <= REPLIERS; i++) said[i] = calloc(BUSY_SLOTS, (size_t)rounds + 1);
    void *(*const bodies[])(void *) = {replier_body, replier_body, replier_body, recycler_body, watcher_body};
    run_together(bodies, 5);
    judge_history();
}

/* ---- map: one writer, readers that must see one whole map ----------------------------------------------------------
 *
 * Version v has 4096 - v % 100 partitions, all owned by worker v % 200. A reader sees exactly that, and never an older
 * version than it saw before.
 */
static void *map_writer_body(void *unused)
{
    (void)unused;
    uint8_t owners[CT_PARTITIONS_MAX];
    for (int v = 1; v <= rounds; v++) {
        memset(owners, v % 200, sizeof owners);
        RULE(ct_map_write(view.map, owners, (uint32_t)(CT_PARTITIONS_MAX - v % 100)) == (uint64_t)v, "versions count");
    }
    atomic_store(&finished, 1);
    return NULL;
}

static void *map_reader_body(void *unused)
{
    (void)unused;
    uint8_t owners[CT_PARTITIONS_MAX];
    uint64_t seen = 0;
    while (!atomic_load(&finished)) {
        uint32_t count;
        uint64_t version = ct_map_read(view.map, owners, &count);
        RULE(version >= seen, "versions do not go back");
        seen = version;
        if (version == 0) continue;
        RULE(count == CT_PARTITIONS_MAX - version % 100, "count and version belong together");
        for (uint32_t i = 0; i < count; i++) RULE(owners[i] == version % 200, "one map, not parts of two");
        uint32_t owner = ct_map_owner(view.map, 0);
        RULE(owner < 200, "an owner of some version, got %d", (int)owner);
    }
    return NULL;
}

static void map(void)
{
    make_table(1, 1);
    void *(*const bodies[])(void *) = {map_writer_body, map_reader_body};
    run_together(bodies, 2);
}

/* ---- records: a process says ready while the supervisor clears the record of the dead ------------------------------
 *
 * A flag never brings a cleared record back, and a reader sees pid and generation of one process.
 */
static void *registrar_body(void *unused)
{
    (void)unused;
    for (uint32_t i = 1; i <= (uint32_t)rounds; i++) {
        uint32_t generation = i * 2 % 256;
        ct_register(&view, 0, generation + 1000, 0, generation);
        if (i % 8 == 0) sched_yield();
        ct_unregister(&view.processes[0]);
        RULE(ct_load_acquire(&view.processes[0].identity) == 0, "a cleared record stays cleared");
    }
    atomic_store(&finished, 1);
    return NULL;
}

static void *flagger_body(void *unused)
{
    (void)unused;
    while (!atomic_load(&finished)) {
        ct_flag_process(&view.processes[0], CT_READY, 0);
        uint64_t identity = ct_load_acquire(&view.processes[0].identity);
        if (!identity) continue;
        RULE(identity & CT_REGISTERED, "a flag alone is no process");
        RULE(ct_identity_pid(identity) == ct_identity_generation(identity) + 1000, "pid and generation of one process");
        int found = ct_find(&view, 0, ct_identity_generation(identity));
        RULE(found == 0 || found == -1, "found where it belongs, or gone");
    }
    return NULL;
}

static void records(void)
{
    make_table(1, 1);
    void *(*const bodies[])(void *) = {registrar_body, flagger_body, flagger_body};
    run_together(bodies, 3);
    RULE(ct_load_relaxed(&view.header->worker_starts[0]) == (uint64_t)rounds, "every start is counted");
}

int main(int count, char **arguments)
{
    static const struct { const char *name; void (*run)(void); } scenarios[] = {
        {"one_winner", one_winner}, {"recycle", recycle}, {"map", map}, {"records", records},
    };
    if (count == 3) rounds = atoi(arguments[2]);
    for (size_t i = 0; rounds > 0 && i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(arguments[1], scenarios[i].name)) continue;
        scenarios[i].run();
        return 0;
    }
    printf("usage: slot_races SCENARIO ROUNDS\n");
    return 2;
}
