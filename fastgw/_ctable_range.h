/* The claiming process's private records about its range of slots: the free slots and the deadlines.
 *
 * Everything here is private memory of one process and one thread, so there are no atomics. If the process dies, this
 * memory is lost, but no information is: ct_range_open() finds the free slots by their state words.
 *
 *   free ring       FIFO of free slots: a slot rests as long as possible, so that a late reply finds its tombstone
 *   deadline wheel  8192 buckets of 8.4 ms, one turn 68.7 s; a deadline further away stays for another turn
 *                   buckets ... | DUE (taken from buckets, not visited yet) | REPORTED (only during one sweep)
 *   age lists       for each kind, its slots in the order of their claim, oldest first
 *
 * A slot is in the ring; or in no list (CLAIMING); or in the wheel and an age list (from publish to release).
 */
#ifndef FASTGW_CTABLE_RANGE_H
#define FASTGW_CTABLE_RANGE_H

#include "_ctable.h"

enum {
    CT_TICK_SHIFT = 23,     /* 2^23 ns = 8.4 ms */
    CT_WHEEL_BUCKETS = 8192,
    /* One sweep visits at most so many slots besides those that it reports: about 0.1 ms. More slots can be in the way
     * only if their deadlines are whole turns apart. The next sweep continues where this one ended. */
    CT_SWEEP_VISITS = 4096,
};

typedef struct {
    uint32_t *next, *prev; /* circular; a node that is in no list is linked to itself */
} ct_links;

typedef struct {
    ct_slot *slots; /* the first slot of the range */
    ct_process *record;
    uint32_t first, count; /* global index of the first slot, and how many */
    uint32_t *ring;
    uint32_t ring_head, ring_count;
    ct_links wheel; /* nodes: slots, then buckets, then DUE, then REPORTED */
    ct_links age;   /* nodes: slots, then a head for each kind */
    uint64_t *deadline_ns, *claimed_ns; /* copies, so that a sweep does not touch the cache lines of slots */
    uint64_t next_tick;                 /* buckets of earlier ticks are empty */
    int64_t *tokens;                    /* the result of a sweep */
    void *memory;
} ct_range;

/* ---- lists ---- */
static inline void ct_unlink(ct_links links, uint32_t node)
{
    links.next[links.prev[node]] = links.next[node];
    links.prev[links.next[node]] = links.prev[node];
    links.next[node] = links.prev[node] = node;
}

static inline void ct_append(ct_links links, uint32_t head, uint32_t node)
{
    uint32_t last = links.prev[head];
    links.next[last] = node;
    links.prev[node] = last;
    links.next[node] = head;
    links.prev[head] = node;
}

/* Moves all of list `from` to the end of list `to`. */
static inline void ct_splice(ct_links links, uint32_t from, uint32_t to)
{
    uint32_t front = links.next[from], back = links.prev[from], last = links.prev[to];
    if (front == from) return;
    links.next[last] = front;
    links.prev[front] = last;
    links.next[back] = to;
    links.prev[to] = back;
    links.next[from] = links.prev[from] = from;
}

/* ---- free slots ---- */
static inline void ct_give_back(ct_range *range, uint32_t i)
{
    uint32_t tail = range->ring_head + range->ring_count++;
    range->ring[tail < range->count ? tail : tail - range->count] = i;
}

/* Index in the range, or -1 if no slot is free. */
static inline int32_t ct_take_free(ct_range *range)
{
    if (range->ring_count == 0) return -1;
    uint32_t i = range->ring[range->ring_head];
    range->ring_head = range->ring_head + 1 < range->count ? range->ring_head + 1 : 0;
    range->ring_count--;
    /* The slot unused for longest is the least likely to be in a cache: start fetching the next one now. */
    if (range->ring_count) __builtin_prefetch(&range->slots[range->ring[range->ring_head]], 1);
    return (int32_t)i;
}

/* ---- open and close ---- */
static inline void *ct_carve(char **at, size_t bytes)
{
    void *here = *at;
    *at += (bytes + 63) / 64 * 64;
    return here;
}

static inline int ct_range_allocate(ct_range *range, uint32_t count)
{
    size_t wheel_nodes = (size_t)count + CT_WHEEL_BUCKETS + 2, age_nodes = (size_t)count + CT_KINDS_MAX;
    size_t bytes = (size_t)count * (3 * 8 + 4) + (wheel_nodes + age_nodes) * 2 * 4 + 8 * 64;
    char *at = range->memory = calloc(1, bytes);
    if (!at) return 0;
    range->deadline_ns = ct_carve(&at, (size_t)count * 8);
    range->claimed_ns = ct_carve(&at, (size_t)count * 8);
    range->tokens = ct_carve(&at, (size_t)count * 8);
    range->ring = ct_carve(&at, (size_t)count * 4);
    range->wheel.next = ct_carve(&at, wheel_nodes * 4);
    range->wheel.prev = ct_carve(&at, wheel_nodes * 4);
    range->age.next = ct_carve(&at, age_nodes * 4);
    range->age.prev = ct_carve(&at, age_nodes * 4);
    for (uint32_t i = 0; i < wheel_nodes; i++) range->wheel.next[i] = range->wheel.prev[i] = i;
    for (uint32_t i = 0; i < age_nodes; i++) range->age.next[i] = range->age.prev[i] = i;
    return 1;
}

static inline void ct_range_close(ct_range *range)
{
    free(range->memory);
    range->memory = NULL;
}

/* 1: open, all slots are free. 0: no memory. -1: slots of the last owner are not reclaimed yet. Slots that were never
 * used come first, so that slots of the last owner rest longer. */
static inline int ct_range_open(ct_range *range, const ct_view *view, uint32_t process)
{
    uint32_t used = ct_used(view, process);
    memset(range, 0, sizeof *range);
    range->count = view->slots_per_process;
    range->first = process * range->count;
    range->slots = view->slots + range->first;
    range->record = &view->processes[process];
    for (uint32_t i = 0; i < used; i++) {
        if (!ct_is(ct_load_acquire(&range->slots[i].word), CT_BIT(CT_FREE) | CT_BIT(CT_RESTING))) return -1;
    }
    if (!ct_range_allocate(range, range->count)) return 0;
    for (uint32_t i = used; i < range->count; i++) ct_give_back(range, i);
    for (uint32_t i = 0; i < used; i++) ct_give_back(range, i);
    return 1;
}

static inline uint32_t ct_range_in_flight(const ct_range *range) { return range->count - range->ring_count; }

/* The slot with this index in the whole table, or NULL if it is not in this range. */
static inline ct_slot *ct_own(const ct_range *range, int64_t slot)
{
    return slot >= range->first && slot < (int64_t)range->first + range->count ? &range->slots[slot - range->first]
                                                                               : NULL;
}

/* The slot that a token names, or NULL if it is not in this range. */
static inline ct_slot *ct_named(const ct_range *range, int64_t token)
{
    return token < 0 ? NULL : ct_own(range, ct_token_slot(token));
}

/* ---- claim, publish, release ---- */
static inline int32_t ct_range_claim(ct_range *range)
{
    int32_t i = ct_take_free(range);
    if (i < 0) return -1;
    /* Before the slot changes: a reclaim visits only the slots below `used`. */
    if ((uint32_t)i >= ct_load_relaxed(&range->record->used)) ct_store_release(&range->record->used, (uint64_t)i + 1);
    CT_STEP(USED_WRITTEN);
    if (!ct_begin(&range->slots[i])) return -1; /* cannot happen: no other process claims free slots of this range */
    return (int32_t)(range->first + i);
}

static inline void ct_await_deadline(ct_range *range, uint32_t i)
{
    uint64_t tick = range->deadline_ns[i] >> CT_TICK_SHIFT;
    if (tick < range->next_tick) tick = range->next_tick; /* the deadline has passed: the next sweep finds it here */
    ct_append(range->wheel, range->count + tick % CT_WHEEL_BUCKETS, i);
}

static inline int64_t ct_range_publish(ct_range *range, int64_t slot, const ct_request *request, uint32_t kind)
{
    ct_slot *own = ct_own(range, slot);
    int64_t token = own ? ct_publish(own, (uint32_t)slot, request) : -1;
    if (token < 0) return -1;
    uint32_t i = (uint32_t)slot - range->first;
    range->deadline_ns[i] = request->deadline_ns;
    range->claimed_ns[i] = request->claimed_ns;
    ct_await_deadline(range, i);
    ct_append(range->age, range->count + kind, i);
    return token;
}

/* Changes the deadline of a live slot. A later one costs nothing here: the sweep finds the slot in its old bucket and
 * moves it. 0: the slot has ended, or the token is stale. */
static inline int ct_range_extend(ct_range *range, int64_t token, uint64_t deadline_ns)
{
    ct_slot *own = ct_named(range, token);
    if (!own) return 0;
    uint64_t word = ct_load_acquire(&own->word);
    if (!ct_names(token, word) || !ct_is(word, CT_LIVE)) return 0;
    uint32_t i = ct_token_slot(token) - range->first;
    int is_earlier = deadline_ns < range->deadline_ns[i];
    range->deadline_ns[i] = deadline_ns;
    ct_store_release(&own->deadline_ns, deadline_ns);
    if (is_earlier) {
        ct_unlink(range->wheel, i);
        ct_await_deadline(range, i);
    }
    return 1;
}

/* CLAIMING -> RESTING: the claimed slot gets no request. */
static inline int ct_range_abandon(ct_range *range, int64_t slot)
{
    ct_slot *own = ct_own(range, slot);
    if (!own) return 0;
    uint64_t word = ct_load_acquire(&own->word);
    if (!ct_is(word, CT_BIT(CT_CLAIMING)) || !ct_move(own, word, CT_RESTING)) return 0;
    ct_give_back(range, (uint32_t)slot - range->first);
    return 1;
}

static inline int ct_range_release(ct_range *range, int64_t token)
{
    ct_slot *own = ct_named(range, token);
    if (!own || !ct_rest(own, token)) return 0;
    uint32_t i = ct_token_slot(token) - range->first;
    ct_unlink(range->wheel, i);
    ct_unlink(range->age, i);
    ct_give_back(range, i);
    return 1;
}

/* ---- deadlines ---- */
enum ct_taken { CT_TAKEN_NONE = 0, CT_TAKEN_PAST = 1, CT_TAKEN_CURRENT = 2 };

/* Moves the next bucket that may contain due deadlines into DUE. The bucket of the current tick may also contain later
 * deadlines: it is moved, too, but the wheel does not advance past it. */
static inline enum ct_taken ct_take_bucket(ct_range *range, uint64_t tick_now)
{
    uint32_t due = range->count + CT_WHEEL_BUCKETS;
    for (; range->next_tick <= tick_now; range->next_tick++) {
        uint32_t bucket = range->count + range->next_tick % CT_WHEEL_BUCKETS;
        int filled = range->wheel.next[bucket] != bucket;
        if (filled) ct_splice(range->wheel, bucket, due);
        if (range->next_tick == tick_now) return filled ? CT_TAKEN_CURRENT : CT_TAKEN_NONE;
        if (filled) {
            range->next_tick++;
            return CT_TAKEN_PAST;
        }
    }
    return CT_TAKEN_NONE;
}

/* Writes up to `limit` tokens of live slots whose deadline is <= now to range->tokens; returns how many. These slots
 * stay in the wheel until they are released; the next sweep reports them again if they were not finished. */
static inline uint32_t ct_range_expired(ct_range *range, uint64_t now_ns, uint32_t limit)
{
    uint64_t tick_now = now_ns >> CT_TICK_SHIFT;
    uint32_t due = range->count + CT_WHEEL_BUCKETS, reported = due + 1, found = 0;
    enum ct_taken taken = CT_TAKEN_NONE;
    if (limit > range->count) limit = range->count;
    /* After a pause longer than a turn, visit every bucket only once. */
    if (tick_now > range->next_tick + CT_WHEEL_BUCKETS - 1) range->next_tick = tick_now - (CT_WHEEL_BUCKETS - 1);
    for (uint32_t visits = CT_SWEEP_VISITS + limit; visits && found < limit; visits--) {
        uint32_t i = range->wheel.next[due];
        if (i == due) {
            if (taken == CT_TAKEN_CURRENT) break;
            taken = ct_take_bucket(range, tick_now);
            if (taken == CT_TAKEN_NONE) break;
            continue;
        }
        ct_unlink(range->wheel, i);
        if (range->deadline_ns[i] > now_ns) {
            ct_await_deadline(range, i);
            continue;
        }
        uint64_t word = ct_load_acquire(&range->slots[i].word);
        if (!ct_is(word, CT_LIVE)) continue; /* it has ended and is about to be released */
        range->tokens[found++] = ct_token(word, range->first + i);
        ct_append(range->wheel, reported, i);
    }
    ct_splice(range->wheel, reported, due);
    return found;
}

/* How many live slots of these kinds (bits) were claimed before `ns`. Correct only if the times given to publish never
 * decrease. */
static inline uint32_t ct_range_live_before(const ct_range *range, uint64_t ns, uint32_t kinds)
{
    uint32_t live = 0;
    for (uint32_t kind = 0; kind < CT_KINDS_MAX; kind++) {
        if (!(kinds & CT_BIT(kind))) continue;
        uint32_t head = range->count + kind;
        for (uint32_t i = range->age.next[head]; i != head && range->claimed_ns[i] < ns; i = range->age.next[i])
            live += (uint32_t)ct_is(ct_load_acquire(&range->slots[i].word), CT_LIVE);
    }
    return live;
}

#endif
