/* The shared correlation table: its layout, and every step that may change a slot.
 *
 * _ctable.pyx begins with the concept: a picture, the states, the writers, and what a death at each step leaves. This
 * file must be correct on every machine and under every interleaving. So it is plain C11 without Python, and the tests
 * compile it with threads under ThreadSanitizer, which cannot see races between processes.
 *
 * Rules of the file
 *   - Every shared word is a `ct_u64`; the name of the function that accesses it contains the memory order.
 *   - A slot's state word changes only in ct_move(), and only as CT_NEXT allows.
 *   - Writers write the fields first and the state word last. Readers read the state word first, and again at the end.
 */
#ifndef FASTGW_CTABLE_H
#define FASTGW_CTABLE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- limits: all of them are part of the layout, a change needs a new CT_LAYOUT_VERSION ---- */
enum {
    CT_LAYOUT_VERSION = 7,
    CT_WORKERS_MAX = 255,    /* a worker slot is a byte in the map, and 0xFF means no worker */
    CT_UNOWNED = 0xFF,
    CT_SLOT_BITS = 20,       /* as in the correlation id */
    CT_SLOTS_MAX = 1 << CT_SLOT_BITS,
    CT_TAG_BITS = 62,        /* the other two bits of a tombstone tell how that occupant ended */
    CT_TOPIC_SHIFT = 60,     /* the two highest bits of a tag name the topic of the reply; 0: the response topic */
    CT_KINDS_MAX = 8,
    CT_PARTITIONS_MAX = 4096,
    CT_POSITION_BITS = 48,   /* of a position; the other 16 bits name its log */
    CT_ROUTES_MAX = 2048,
    CT_UNROUTED = CT_ROUTES_MAX - 1, /* counters of requests without a route; no route has this number */
    CT_ENDINGS_MAX = 64,
    CT_DISPOSITIONS_MAX = 16, /* counters of how reply records were handled */
    CT_TALLIES_MAX = 32,      /* all other counters */
    CT_ENDING_ANSWERED = 0,  /* requests with this ending are counted by the status class of their answers */
    CT_CLASSES = 4,          /* 2xx, 3xx, 4xx, 5xx */
    CT_GAUGES_MAX = 8,
    CT_STORE_GAUGES_MAX = 32,
    CT_QUEUE_TO_ACK = 0, /* the phases of a request; each has a histogram */
    CT_ACK_TO_REPLY = 1,
    CT_TOTAL = 2,
    CT_PHASES = 3,
    CT_BOUNDS = 14,          /* finite histogram bounds; one more bucket is for values above them */
    CT_PAGE_BYTES = 4096,
    CT_NO_CONSUMER = -1,     /* a wait time: the request would wait forever, its service has no consumer */
};
#define CT_MAGIC UINT64_C(0x656c626174776766) /* "fgwtable" in little-endian memory */

/* ---- kill points: empty here; the tests kill the process at these steps ---- */
#ifndef CT_STEP
#define CT_STEP(step) ((void)0)
#endif

/* ---- atomics ---- */
typedef _Atomic uint64_t ct_u64;
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a locked atomic would not work between processes");
_Static_assert(sizeof(ct_u64) == 8, "an atomic word has eight bytes");

static inline uint64_t ct_load_relaxed(const ct_u64 *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline uint64_t ct_load_acquire(const ct_u64 *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline void ct_store_relaxed(ct_u64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline void ct_store_release(ct_u64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline void ct_add_relaxed(ct_u64 *p, uint64_t n) { atomic_fetch_add_explicit(p, n, memory_order_relaxed); }
static inline int ct_swap_acq_rel(ct_u64 *p, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(p, &expected, desired, memory_order_acq_rel, memory_order_acquire);
}

/* ---- layout ---- */
typedef struct {
    ct_u64 magic; /* stored last by ct_format */
    uint32_t layout_version;
    uint32_t node; /* a random number of the supervisor: tells this table from all earlier ones */
    uint32_t workers;
    uint32_t slots_per_process;
    uint64_t total_bytes;
    alignas(64) ct_u64 draining;
    alignas(64) ct_u64 worker_starts[CT_WORKERS_MAX + 1];
    alignas(64) ct_u64 agent_beat_ns; /* monotonic; 0: none yet */
    ct_u64 store_beat_ns;             /* monotonic; 0: none yet */
    ct_u64 store_gauges[CT_STORE_GAUGES_MAX]; /* current values of the store */
    ct_u64 waits_written_ns;          /* monotonic; 0: never */
    ct_u64 waits_ns[CT_ROUTES_MAX];   /* how long a request of this route would wait for its service; 0: not at all,
                                       * or not known; or CT_NO_CONSUMER */
} ct_header;

typedef struct {
    ct_u64 partition_count;
    alignas(64) ct_u64 owners[CT_PARTITIONS_MAX / 8]; /* one byte per partition, eight per word */
} ct_map_copy;

typedef struct {
    ct_u64 version; /* 0: never written; copy[version & 1] is the one to read */
    alignas(64) ct_map_copy copy[2];
} ct_map;

typedef struct { /* how far this node has handled the records of each partition of one topic */
    /* log 16 | next offset + 1: 48, so that untouched (zero) memory is an unknown position. One word, so that readers
     * never take an offset for one of another log. */
    alignas(64) ct_u64 words[CT_PARTITIONS_MAX];
} ct_positions;

typedef struct {
    ct_u64 identity; /* pid 32 | worker 8 | generation 8 | flags: one word, so that readers never mix two processes */
    ct_u64 heartbeat_ns;
    ct_u64 in_flight;
    ct_u64 home_plus_1; /* 0: no home partition */
    ct_u64 applied_map_version;
    ct_u64 body_bytes;  /* memory of request bodies that are being received */
    ct_u64 used;        /* all slots of the range that were ever claimed are below this; the rest is untouched memory */
    alignas(64) ct_u64 gauges[CT_GAUGES_MAX]; /* other current values of this process */
    /* The complement of the lowest offset that this process reads, so that untouched (zero) memory is NOT_READING. */
    alignas(64) ct_u64 not_reads_from[CT_PARTITIONS_MAX];
} ct_process;

typedef struct {
    ct_u64 buckets[CT_BOUNDS + 1];
    ct_u64 sum_ns;
} ct_histogram;

typedef struct { /* the counters of one route are adjacent: two routes in use touch two pages, not a thousand */
    ct_u64 endings[CT_ENDINGS_MAX];
    alignas(64) ct_u64 answered[CT_CLASSES]; /* requests with the ending "answered", by status class */
    ct_histogram phases[CT_PHASES];
} ct_route_counters;

typedef struct {
    alignas(64) ct_u64 dispositions[CT_DISPOSITIONS_MAX];
    ct_u64 tallies[CT_TALLIES_MAX];
    ct_route_counters routes[CT_ROUTES_MAX];
} ct_counters;

typedef struct {
    alignas(64) ct_u64 word; /* sequence 32 | unused 16 | ending 8 | state 8 */
    ct_u64 tag;
    ct_u64 deadline_ns;
    ct_u64 claimed_ns;
    ct_u64 sent_ns;
    ct_u64 recorded_ns;
    ct_u64 tombstone; /* tag of the previous occupant 62 | its ct_ended 2 */
    ct_u64 place;     /* unused 8 | partition of the request + 1 16 | kind 8 | home partition 16 | route 16 */
} ct_slot;

_Static_assert(sizeof(ct_slot) == 64, "a slot is one cache line");
_Static_assert(offsetof(ct_slot, tag) == 8 && offsetof(ct_slot, tombstone) == 48 && offsetof(ct_slot, place) == 56,
               "the picture in _ctable.pyx shows these offsets");
_Static_assert(sizeof(ct_histogram) == 128, "two cache lines");
_Static_assert(sizeof(ct_route_counters) % 64 == 0 && sizeof(ct_counters) % 64 == 0, "whole cache lines");
_Static_assert(sizeof(ct_header) % 64 == 0 && sizeof(ct_map) % 64 == 0 && sizeof(ct_positions) % 64 == 0
                   && sizeof(ct_process) % 64 == 0,
               "each section starts on a cache line");
_Static_assert(offsetof(ct_process, gauges) == 64 && offsetof(ct_process, not_reads_from) == 128,
               "the identity has a cache line of its own");

typedef struct { /* the addresses of the sections; private to a process */
    ct_header *header;
    ct_map *map;
    ct_positions *positions;         /* of the response topic */
    ct_positions *stream_positions;  /* of the topic of streams */
    ct_process *processes;
    ct_counters *counters;
    ct_slot *slots;
    uint32_t process_count;
    uint32_t slots_per_process;
} ct_view;

/* Two generations of a worker run at the same time during a reload: each has a record, counters and slots of its own. */
static inline uint32_t ct_processes_of(uint32_t workers) { return workers * 2; }
static inline uint32_t ct_process_of(uint32_t worker, uint32_t generation) { return worker * 2 + (generation & 1); }

static inline uint64_t ct_slots_offset(uint32_t workers)
{
    uint64_t bytes = sizeof(ct_header) + sizeof(ct_map) + 2 * sizeof(ct_positions)
                     + (uint64_t)ct_processes_of(workers) * (sizeof(ct_process) + sizeof(ct_counters));
    return (bytes + CT_PAGE_BYTES - 1) / CT_PAGE_BYTES * CT_PAGE_BYTES;
}

/* Bytes of a table. 0: a number is out of range. */
static inline uint64_t ct_layout_size(uint32_t workers, uint32_t slots_per_process)
{
    if (workers == 0 || workers > CT_WORKERS_MAX || slots_per_process == 0) return 0;
    if ((uint64_t)ct_processes_of(workers) * slots_per_process > CT_SLOTS_MAX) return 0;
    return ct_slots_offset(workers) + (uint64_t)ct_processes_of(workers) * slots_per_process * sizeof(ct_slot);
}

static inline void ct_look_at(ct_view *view, void *base, uint32_t workers, uint32_t slots_per_process)
{
    char *at = base;
    view->process_count = ct_processes_of(workers);
    view->slots_per_process = slots_per_process;
    view->header = (ct_header *)at;
    view->map = (ct_map *)(at += sizeof(ct_header));
    view->positions = (ct_positions *)(at += sizeof(ct_map));
    view->stream_positions = (ct_positions *)(at += sizeof(ct_positions));
    view->processes = (ct_process *)(at += sizeof(ct_positions));
    view->counters = (ct_counters *)(at += (size_t)view->process_count * sizeof(ct_process));
    view->slots = (ct_slot *)((char *)base + ct_slots_offset(workers));
}

/* `base`: new, zeroed memory of ct_layout_size() bytes. Zeros mean FREE slots, no map, no processes. */
static inline void ct_format(void *base, uint32_t node, uint32_t workers, uint32_t slots_per_process)
{
    ct_header *header = base;
    header->layout_version = CT_LAYOUT_VERSION;
    header->node = node;
    header->workers = workers;
    header->slots_per_process = slots_per_process;
    header->total_bytes = ct_layout_size(workers, slots_per_process);
    ct_store_release(&header->magic, CT_MAGIC);
}

/* ---- states of a slot, and the allowed transitions ---- */
enum ct_state {
    CT_FREE = 0, /* never used */
    CT_CLAIMING = 1,
    CT_CLAIMED = 2,
    CT_SENT = 3,
    CT_RECORDED = 4,
    CT_ANSWERED = 5,
    CT_EXPIRED = 6,
    CT_CANCELLED = 7,
    CT_FAILED = 8,
    CT_RECLAIMED = 9,
    CT_RESTING = 10,
    CT_STREAMING = 11, /* part of the answer has been sent */
    CT_STATES = 12,
};
#define CT_BIT(state) (1u << (state))
#define CT_LIVE (CT_BIT(CT_CLAIMED) | CT_BIT(CT_SENT) | CT_BIT(CT_RECORDED) | CT_BIT(CT_STREAMING))
#define CT_TERMINAL \
    (CT_BIT(CT_ANSWERED) | CT_BIT(CT_EXPIRED) | CT_BIT(CT_CANCELLED) | CT_BIT(CT_FAILED) | CT_BIT(CT_RECLAIMED))

static const uint16_t CT_NEXT[CT_STATES] = {
    [CT_FREE] = CT_BIT(CT_CLAIMING),
    [CT_CLAIMING] = CT_BIT(CT_CLAIMED) | CT_BIT(CT_RESTING), /* published | abandoned, or repaired after a death */
    [CT_CLAIMED] = CT_BIT(CT_SENT) | CT_BIT(CT_RECORDED) | CT_BIT(CT_STREAMING) | CT_TERMINAL,
    [CT_SENT] = CT_BIT(CT_RECORDED) | CT_BIT(CT_STREAMING) | CT_TERMINAL, /* a reply may come before the report */
    [CT_RECORDED] = CT_BIT(CT_STREAMING) | CT_TERMINAL,
    [CT_STREAMING] = CT_TERMINAL,
    [CT_ANSWERED] = CT_BIT(CT_RESTING),
    [CT_EXPIRED] = CT_BIT(CT_RESTING),
    [CT_CANCELLED] = CT_BIT(CT_RESTING),
    [CT_FAILED] = CT_BIT(CT_RESTING),
    [CT_RECLAIMED] = CT_BIT(CT_RESTING),
    [CT_RESTING] = CT_BIT(CT_CLAIMING),
};

static inline uint32_t ct_state_of(uint64_t word) { return word & 0xFF; }
static inline uint32_t ct_ending_of(uint64_t word) { return (word >> 8) & 0xFF; }
static inline uint32_t ct_sequence_of(uint64_t word) { return (uint32_t)(word >> 32); }
static inline int ct_is(uint64_t word, uint32_t states) { return (states >> ct_state_of(word)) & 1; }

/* A token identifies one occupancy of one slot: a later occupant has another sequence number. */
static inline int64_t ct_token(uint64_t word, uint32_t slot)
{
    return (int64_t)((uint64_t)ct_sequence_of(word) << CT_SLOT_BITS | slot);
}
static inline uint32_t ct_token_slot(int64_t token) { return (uint32_t)token & (CT_SLOTS_MAX - 1); }
static inline int ct_names(int64_t token, uint64_t word) { return (uint32_t)(token >> CT_SLOT_BITS) == word >> 32; }

static inline uint64_t ct_word_after(uint64_t word, uint32_t to)
{
    uint64_t sequence = word >> 32;
    uint64_t ending = ct_ending_of(word); /* how the last occupant ended; CLAIMING and RESTING keep it */
    if (to == CT_CLAIMING) sequence = (sequence + 1) & UINT32_MAX;
    if (to == CT_CLAIMED) ending = 0;
    if (CT_BIT(to) & CT_TERMINAL) ending = to;
    return sequence << 32 | ending << 8 | to;
}

/* The only function that changes a state word. 1: done; 0: not allowed, or another thread or process was faster. */
static inline int ct_move(ct_slot *slot, uint64_t word, uint32_t to)
{
    if (!(CT_NEXT[ct_state_of(word)] & CT_BIT(to))) return 0;
    return ct_swap_acq_rel(&slot->word, word, ct_word_after(word, to));
}

/* ---- the life of an occupancy ---- */
/* How the previous occupant ended, as stored in a tombstone. */
enum ct_ended { CT_ENDED_NONE = 0, CT_ENDED_ANSWERED = 1, CT_ENDED_OTHERWISE = 2 };
/* Why no request waits for a reply. */
enum ct_verdict { CT_LATE = -1, CT_DUPLICATE = -2, CT_FORGED = -3, CT_ELSEWHERE = -4 };
/* How a request is answered. Only a SINGLE request is answered by the one reply on the response topic. */
enum ct_kind { CT_SINGLE = 0, CT_KEPT = 1, CT_STREAM = 2 };

typedef struct {
    uint64_t tag, deadline_ns, claimed_ns;
    uint64_t place; /* see ct_place */
} ct_request;

static inline uint64_t ct_place(uint32_t route, uint32_t home) { return (uint64_t)home << 16 | route; }
static inline uint64_t ct_place_of_kind(uint32_t route, uint32_t home, uint32_t kind)
{
    return (uint64_t)kind << 32 | ct_place(route, home);
}
static inline uint32_t ct_route_of(uint64_t place) { return place & 0xFFFF; }
static inline uint32_t ct_home_of(uint64_t place) { return (place >> 16) & 0xFFFF; }
static inline uint32_t ct_kind_of(uint64_t place) { return (place >> 32) & (CT_KINDS_MAX - 1); }
static inline int32_t ct_partition_of(uint64_t place) { return (int32_t)((place >> 40) & 0xFFFF) - 1; }

/* 1: the slot is CLAIMING, and only this caller may use it. */
static inline int ct_begin(ct_slot *slot)
{
    uint64_t word = ct_load_acquire(&slot->word);
    if (!ct_move(slot, word, CT_CLAIMING)) return 0;
    CT_STEP(CLAIM_BEGUN);
    return 1;
}

/* CLAIMING -> CLAIMED. The tombstone is written before the tag, and both before the word: a reader that sees the new
 * tag also sees the tombstone of the previous occupant. Every store is a release. So a reader that still works on the
 * previous occupant and sees a field of the new one also sees that the word has changed. Returns the token, or -1 if
 * the slot was not CLAIMING. */
static inline int64_t ct_publish(ct_slot *slot, uint32_t index, const ct_request *request)
{
    uint64_t word = ct_load_acquire(&slot->word);
    if (!ct_is(word, CT_BIT(CT_CLAIMING))) return -1;
    uint32_t ending = ct_ending_of(word);
    if (ending) {
        uint64_t ended = ending == CT_ANSWERED ? CT_ENDED_ANSWERED : CT_ENDED_OTHERWISE;
        ct_store_release(&slot->tombstone, ct_load_relaxed(&slot->tag) << 2 | ended);
    }
    CT_STEP(TOMBSTONE_WRITTEN);
    ct_store_release(&slot->tag, request->tag);
    CT_STEP(TAG_WRITTEN);
    ct_store_release(&slot->deadline_ns, request->deadline_ns);
    ct_store_release(&slot->claimed_ns, request->claimed_ns);
    ct_store_release(&slot->sent_ns, 0);
    ct_store_release(&slot->recorded_ns, 0);
    ct_store_release(&slot->place, request->place);
    CT_STEP(FIELDS_WRITTEN);
    if (!ct_move(slot, word, CT_CLAIMED)) return -1;
    CT_STEP(PUBLISHED);
    return ct_token(word, index);
}

/* Live -> `to` (SENT or RECORDED); `now_ns` is stored. 0: too late, or the token is stale. */
static inline int ct_advance(ct_slot *slot, int64_t token, uint32_t to, uint64_t now_ns)
{
    uint64_t word = ct_load_acquire(&slot->word);
    if (!ct_names(token, word) || !(CT_NEXT[ct_state_of(word)] & CT_BIT(to))) return 0;
    ct_store_relaxed(to == CT_SENT ? &slot->sent_ns : &slot->recorded_ns, now_ns);
    CT_STEP(TIME_WRITTEN);
    return ct_move(slot, word, to);
}

/* Live -> STREAMING: the first part of the answer has come. 0: it was STREAMING already, it has ended, or the token is
 * stale. */
static inline int ct_stream(ct_slot *slot, int64_t token)
{
    for (;;) { /* repeats only if the slot advanced meanwhile, which can happen twice at most */
        uint64_t word = ct_load_acquire(&slot->word);
        if (!ct_names(token, word) || !(CT_NEXT[ct_state_of(word)] & CT_BIT(CT_STREAMING))) return 0;
        if (ct_move(slot, word, CT_STREAMING)) return 1;
    }
}

/* The partition of the request's record, once Kafka has told it. Only the owner of the slot writes. */
static inline void ct_set_partition(ct_slot *slot, uint32_t partition)
{
    uint64_t place = ct_load_relaxed(&slot->place) & ~(UINT64_C(0xFFFF) << 40);
    ct_store_release(&slot->place, place | (uint64_t)(partition + 1) << 40);
}

/* Live -> `ending`. Returns the live state that the slot had, or -1 if another caller has ended it. */
static inline int ct_finish(ct_slot *slot, int64_t token, uint32_t ending)
{
    for (;;) { /* repeats only if the slot advanced meanwhile, which can happen three times at most */
        uint64_t word = ct_load_acquire(&slot->word);
        if (!ct_names(token, word) || !ct_is(word, CT_LIVE)) return -1;
        if (ct_move(slot, word, ending)) return (int)ct_state_of(word);
    }
}

static inline int ct_verdict_by_ending(uint32_t answered) { return answered ? CT_DUPLICATE : CT_LATE; }

/* A reply with this tag arrived for this slot: live -> ANSWERED. Returns the token, or a ct_verdict.
 *
 * The reply is to occupant A. Its owner may end it meanwhile, and publish the next occupant B. What is read belongs
 * together if the word is still the same afterwards:
 *
 *     word         tag   what is said
 *     A, live      A     the token, if ct_move comes first; otherwise all is read again
 *     A, ended     A     the ending in the word
 *     B, CLAIMING  A     the ending in the word: it is that of A until B is CLAIMED
 *     B, any       B     the ending in the tombstone: that of A is written before the tag of B, and read after it
 *
 * Any other tag was never in this slot, or two occupants ago: CT_FORGED. */
static inline int64_t ct_resolve(ct_slot *slot, uint32_t index, uint64_t tag)
{
    for (;;) { /* repeats only if the slot changed meanwhile, so another thread or process made progress */
        uint64_t word = ct_load_acquire(&slot->word);
        uint64_t resident = ct_load_acquire(&slot->tag); /* tag first: ct_publish writes it after the tombstone */
        uint64_t tombstone = ct_load_acquire(&slot->tombstone);
        if (ct_is(word, CT_LIVE) && resident == tag) {
            if (ct_move(slot, word, CT_ANSWERED)) return ct_token(word, index);
            continue;
        }
        if (ct_load_relaxed(&slot->word) != word) continue;
        if (resident == tag && ct_ending_of(word)) return ct_verdict_by_ending(ct_ending_of(word) == CT_ANSWERED);
        uint32_t ended = tombstone & 3;
        if (ended && tombstone >> 2 == tag) return ct_verdict_by_ending(ended == CT_ENDED_ANSWERED);
        return CT_FORGED;
    }
}

/* Terminal -> RESTING. 0: the slot was not in a terminal state, or the token is stale. */
static inline int ct_rest(ct_slot *slot, int64_t token)
{
    uint64_t word = ct_load_acquire(&slot->word);
    if (!ct_names(token, word) || !ct_is(word, CT_TERMINAL)) return 0;
    if (!ct_move(slot, word, CT_RESTING)) return 0;
    CT_STEP(RESTED);
    return 1;
}

/* ---- after a death ---- */
typedef struct {
    uint32_t live, repaired;
} ct_reclaimed;

/* Makes the slot FREE or RESTING, whatever its dead owner was doing. A reply may still race for a live slot.
 * CLAIMING -> RESTING keeps the ending. If the tag is still that of the last occupant, this is its ending. If the new
 * tag was written already, only the dead process knew it, and the last occupant is in the tombstone. */
static inline void ct_reclaim_slot(ct_slot *slot, ct_reclaimed *sum)
{
    for (;;) { /* in each round this caller or another one changes the state; few transitions are left */
        uint64_t word = ct_load_acquire(&slot->word);
        if (ct_is(word, CT_BIT(CT_FREE) | CT_BIT(CT_RESTING))) return;
        if (ct_is(word, CT_LIVE)) sum->live += (uint32_t)ct_move(slot, word, CT_RECLAIMED);
        else {
            uint32_t repaired = ct_is(word, CT_BIT(CT_CLAIMING));
            if (ct_move(slot, word, CT_RESTING)) sum->repaired += repaired;
        }
        CT_STEP(SLOT_RECLAIMED);
    }
}

static inline uint32_t ct_used(const ct_view *view, uint32_t process)
{
    uint64_t used = ct_load_acquire(&view->processes[process].used);
    return used < view->slots_per_process ? (uint32_t)used : view->slots_per_process;
}

static inline ct_reclaimed ct_reclaim(const ct_view *view, uint32_t process)
{
    ct_reclaimed sum = {0, 0};
    ct_slot *slots = view->slots + (size_t)process * view->slots_per_process;
    for (uint32_t i = 0, used = ct_used(view, process); i < used; i++) ct_reclaim_slot(&slots[i], &sum);
    return sum;
}

/* ---- partition map: one writer, two copies, so that the old map stays intact if the writer dies at any line */
static inline uint64_t ct_map_write(ct_map *map, const uint8_t *owners, uint32_t count)
{
    uint64_t version = ct_load_acquire(&map->version) + 1;
    ct_map_copy *copy = &map->copy[version & 1];
    /* Each word is released: a reader of this copy that sees a new word also sees that the version has changed. */
    for (uint32_t word = 0; word < CT_PARTITIONS_MAX / 8; word++) {
        uint64_t eight = UINT64_MAX;
        for (uint32_t i = 0; i < 8 && word * 8 + i < count; i++) {
            eight &= ~(UINT64_C(0xFF) << (8 * i));
            eight |= (uint64_t)owners[word * 8 + i] << (8 * i);
        }
        ct_store_release(&copy->owners[word], eight);
        CT_STEP(MAP_WORD_WRITTEN);
    }
    ct_store_release(&copy->partition_count, count);
    CT_STEP(MAP_WRITTEN);
    ct_store_release(&map->version, version);
    return version;
}

/* Copies the current map into `owners` (CT_PARTITIONS_MAX bytes). Repeats only if a new map was written meanwhile. */
static inline uint64_t ct_map_read(const ct_map *map, uint8_t *owners, uint32_t *count)
{
    for (;;) {
        uint64_t version = ct_load_acquire(&map->version);
        const ct_map_copy *copy = &map->copy[version & 1];
        *count = (uint32_t)ct_load_acquire(&copy->partition_count);
        if (*count > CT_PARTITIONS_MAX) *count = CT_PARTITIONS_MAX;
        for (uint32_t i = 0; i < *count; i += 8) {
            uint64_t eight = ct_load_acquire(&copy->owners[i / 8]);
            for (uint32_t j = 0; j < 8; j++) owners[i + j] = (uint8_t)(eight >> (8 * j));
        }
        if (ct_load_acquire(&map->version) == version) return version;
    }
}

static inline uint32_t ct_map_owner(const ct_map *map, uint32_t partition)
{
    if (partition >= CT_PARTITIONS_MAX) return CT_UNOWNED;
    for (;;) {
        uint64_t version = ct_load_acquire(&map->version);
        if (version == 0) return CT_UNOWNED;
        uint64_t eight = ct_load_acquire(&map->copy[version & 1].owners[partition / 8]);
        if (ct_load_acquire(&map->version) == version) return (eight >> (8 * (partition % 8))) & 0xFF;
    }
}

/* ---- positions ---- */
#define CT_POSITION_MASK ((UINT64_C(1) << CT_POSITION_BITS) - 1)

/* `offset` -1: the position becomes unknown. So does an offset that has too many bits: 2^48 records are 8 years at a
 * million records a second on one partition. */
static inline void ct_position_write(ct_positions *positions, uint32_t partition, uint16_t log, int64_t offset)
{
    uint64_t next_plus_1 = (uint64_t)offset + 1;
    uint64_t word = next_plus_1 == 0 || next_plus_1 > CT_POSITION_MASK
                        ? 0
                        : (uint64_t)log << CT_POSITION_BITS | next_plus_1;
    ct_store_release(&positions->words[partition], word);
}

/* -1: unknown, or a position in another log. */
static inline int64_t ct_position_read(const ct_positions *positions, uint32_t partition, uint16_t log)
{
    uint64_t word = ct_load_acquire(&positions->words[partition]);
    return word >> CT_POSITION_BITS == log ? (int64_t)(word & CT_POSITION_MASK) - 1 : -1;
}

/* ---- process records ---- */
enum ct_flag { CT_REGISTERED = 1, CT_READY = 2, CT_DRAINING = 4 };

static inline uint64_t ct_identity(uint32_t pid, uint32_t worker, uint32_t generation)
{
    return (uint64_t)pid << 32 | (uint64_t)worker << 24 | (uint64_t)generation << 16 | CT_REGISTERED;
}
static inline uint32_t ct_identity_pid(uint64_t identity) { return (uint32_t)(identity >> 32); }
static inline uint32_t ct_identity_worker(uint64_t identity) { return (identity >> 24) & 0xFF; }
static inline uint32_t ct_identity_generation(uint64_t identity) { return (identity >> 16) & 0xFF; }

/* Sets and clears flags. 0: no process is registered in this record. */
static inline int ct_flag_process(ct_process *process, uint64_t set, uint64_t clear)
{
    for (;;) { /* two writers at most: the process itself and the supervisor */
        uint64_t identity = ct_load_acquire(&process->identity);
        if (!(identity & CT_REGISTERED)) return 0;
        if (ct_swap_acq_rel(&process->identity, identity, (identity & ~clear) | set)) return 1;
    }
}

static inline void ct_unregister(ct_process *process)
{
    ct_store_release(&process->identity, 0);
    for (uint32_t i = 0; i < CT_PARTITIONS_MAX; i++) { /* write only non-zero words: other pages stay untouched */
        if (ct_load_relaxed(&process->not_reads_from[i])) ct_store_relaxed(&process->not_reads_from[i], 0);
    }
    ct_store_relaxed(&process->heartbeat_ns, 0);
    ct_store_relaxed(&process->in_flight, 0);
    ct_store_relaxed(&process->home_plus_1, 0);
    ct_store_relaxed(&process->applied_map_version, 0);
    ct_store_relaxed(&process->body_bytes, 0);
    for (uint32_t i = 0; i < CT_GAUGES_MAX; i++) ct_store_relaxed(&process->gauges[i], 0);
}

static inline void ct_register(const ct_view *view, uint32_t process, uint32_t pid, uint32_t worker,
                               uint32_t generation)
{
    ct_unregister(&view->processes[process]);
    ct_add_relaxed(&view->header->worker_starts[worker], 1);
    ct_store_release(&view->processes[process].identity, ct_identity(pid, worker, generation));
}

/* The index of the registered process with this worker and generation, or -1. */
static inline int ct_find(const ct_view *view, uint32_t worker, uint32_t generation)
{
    uint32_t process = ct_process_of(worker, generation);
    if (process >= view->process_count) return -1;
    uint64_t identity = ct_load_acquire(&view->processes[process].identity);
    return (identity & CT_REGISTERED) && ct_identity_generation(identity) == generation ? (int)process : -1;
}

/* ---- counters ---- */
static const uint64_t CT_BOUND_NS[CT_BOUNDS] = {
    500000,    1000000,   2500000,    5000000,    10000000,   25000000,    50000000,
    100000000, 250000000, 500000000, 1000000000, 2500000000, 5000000000, 10000000000,
};

static inline void ct_observe(ct_histogram *histogram, uint64_t duration_ns)
{
    uint32_t bucket = 0;
    while (bucket < CT_BOUNDS && duration_ns > CT_BOUND_NS[bucket]) bucket++;
    ct_add_relaxed(&histogram->buckets[bucket], 1);
    ct_add_relaxed(&histogram->sum_ns, duration_ns);
}

/* ---- list of waiting requests ---- */
typedef struct {
    uint64_t claimed_ns, sent_ns, recorded_ns, deadline_ns;
    uint32_t slot, state, route, home, kind;
} ct_waiting;

/* 1: `out` is a consistent copy of a live slot. 0: not live, or it changed meanwhile, so it is not stuck. */
static inline int ct_snapshot(const ct_slot *slot, uint32_t index, ct_waiting *out)
{
    uint64_t word = ct_load_acquire(&slot->word);
    if (!ct_is(word, CT_LIVE)) return 0;
    uint64_t place = ct_load_acquire(&slot->place);
    out->claimed_ns = ct_load_acquire(&slot->claimed_ns);
    out->sent_ns = ct_load_acquire(&slot->sent_ns);
    out->recorded_ns = ct_load_acquire(&slot->recorded_ns);
    out->deadline_ns = ct_load_acquire(&slot->deadline_ns);
    out->slot = index;
    out->state = ct_state_of(word);
    out->route = ct_route_of(place);
    out->home = ct_home_of(place);
    out->kind = ct_kind_of(place);
    return ct_load_relaxed(&slot->word) == word;
}

static inline int ct_by_age(const void *left, const void *right)
{
    const ct_waiting *a = left, *b = right;
    if (a->claimed_ns != b->claimed_ns) return a->claimed_ns < b->claimed_ns ? -1 : 1;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

/* Puts `item` in place of the youngest, at the root of a heap with the youngest on top. */
static inline void ct_replace_youngest(ct_waiting *heap, uint32_t size, const ct_waiting *item)
{
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && ct_by_age(&heap[child + 1], &heap[child]) > 0) child++;
        if (ct_by_age(item, &heap[child]) >= 0) break;
        heap[at] = heap[child];
    }
    heap[at] = *item;
}

static inline void ct_push_youngest_up(ct_waiting *heap, uint32_t at)
{
    ct_waiting item = heap[at];
    for (uint32_t parent; at > 0 && ct_by_age(&item, &heap[parent = (at - 1) / 2]) > 0; at = parent)
        heap[at] = heap[parent];
    heap[at] = item;
}

/* Fills `out` with the oldest `limit` live slots of all processes, oldest first; returns how many. It reads every slot
 * that was ever used, so use it for /status and not on the request path. */
static inline uint32_t ct_oldest(const ct_view *view, ct_waiting *out, uint32_t limit)
{
    uint32_t found = 0;
    for (uint32_t process = 0; limit && process < view->process_count; process++) {
        uint32_t first = process * view->slots_per_process;
        for (uint32_t i = 0, used = ct_used(view, process); i < used; i++) {
            ct_waiting item;
            if (!ct_snapshot(&view->slots[first + i], first + i, &item)) continue;
            if (found < limit) {
                out[found] = item;
                ct_push_youngest_up(out, found++);
            } else if (ct_by_age(&item, &out[0]) < 0) ct_replace_youngest(out, found, &item);
        }
    }
    qsort(out, found, sizeof *out, ct_by_age);
    return found;
}

#endif
