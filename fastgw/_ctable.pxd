# cython: language_level=3
"""Cython declarations: the C functions with their error values, then the two classes."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "_ctable.h" nogil:
    ctypedef struct ct_u64:  # opaque: only the functions below access it, so the memory order stays in the header
        pass

    # ---- layout
    ctypedef struct ct_header:
        ct_u64 magic
        uint32_t layout_version
        uint32_t node
        uint32_t workers
        uint32_t slots_per_process
        uint64_t total_bytes
        ct_u64 draining
        ct_u64* worker_starts
        ct_u64 agent_beat_ns
        ct_u64 store_beat_ns
        ct_u64* store_gauges
        ct_u64 waits_written_ns
        ct_u64* waits_ns
    ctypedef struct ct_map:
        ct_u64 version
    ctypedef struct ct_positions:
        pass
    ctypedef struct ct_process:
        ct_u64 identity
        ct_u64 heartbeat_ns
        ct_u64 in_flight
        ct_u64 home_plus_1
        ct_u64 applied_map_version
        ct_u64 body_bytes
        ct_u64 used
        ct_u64* gauges
        ct_u64* not_reads_from
    ctypedef struct ct_histogram:
        ct_u64* buckets
        ct_u64 sum_ns
    ctypedef struct ct_route_counters:
        ct_u64* endings
        ct_u64* answered
        ct_histogram* phases
    ctypedef struct ct_counters:
        ct_u64* dispositions
        ct_u64* tallies
        ct_route_counters* routes
    ctypedef struct ct_slot:
        ct_u64 word
        ct_u64 deadline_ns
        ct_u64 claimed_ns
        ct_u64 sent_ns
        ct_u64 recorded_ns
        ct_u64 place
    ctypedef struct ct_view:
        ct_header* header
        ct_map* map
        ct_positions* positions
        ct_positions* stream_positions
        ct_process* processes
        ct_counters* counters
        ct_slot* slots
        uint32_t process_count
        uint32_t slots_per_process
    uint64_t ct_layout_size(uint32_t workers, uint32_t slots_per_process)  # 0: out of range
    void ct_look_at(ct_view* view, void* base, uint32_t workers, uint32_t slots_per_process)
    void ct_format(void* base, uint32_t node, uint32_t workers, uint32_t slots_per_process)

    # ---- words
    uint64_t ct_load_relaxed(const ct_u64* word)
    uint64_t ct_load_acquire(const ct_u64* word)
    void ct_store_relaxed(ct_u64* word, uint64_t value)
    void ct_store_release(ct_u64* word, uint64_t value)
    void ct_add_relaxed(ct_u64* word, uint64_t n)
    uint32_t ct_state_of(uint64_t word)
    bint ct_names(int64_t token, uint64_t word)

    # ---- steps of a slot; 0 or -1: another caller was faster, or the token is stale
    bint ct_advance(ct_slot* slot, int64_t token, uint32_t to, uint64_t now_ns)
    int ct_finish(ct_slot* slot, int64_t token, uint32_t ending)
    int64_t ct_resolve(ct_slot* slot, uint32_t index, uint64_t tag)
    bint ct_stream(ct_slot* slot, int64_t token)
    void ct_set_partition(ct_slot* slot, uint32_t partition)

    # ---- the word `place` of a slot
    uint64_t ct_place(uint32_t route, uint32_t home)
    uint64_t ct_place_of_kind(uint32_t route, uint32_t home, uint32_t kind)
    uint32_t ct_route_of(uint64_t place)
    uint32_t ct_home_of(uint64_t place)
    uint32_t ct_kind_of(uint64_t place)
    int32_t ct_partition_of(uint64_t place)  # -1: not known yet

    # ---- the rest of the segment
    ctypedef struct ct_reclaimed:
        uint32_t live
        uint32_t repaired
    ctypedef struct ct_waiting:
        uint64_t claimed_ns
        uint64_t sent_ns
        uint64_t recorded_ns
        uint64_t deadline_ns
        uint32_t slot
        uint32_t state
        uint32_t route
        uint32_t home
        uint32_t kind
    ct_reclaimed ct_reclaim(const ct_view* view, uint32_t process)
    uint32_t ct_used(const ct_view* view, uint32_t process)
    uint64_t ct_map_write(ct_map* map, const uint8_t* owners, uint32_t count)
    uint64_t ct_map_read(const ct_map* map, uint8_t* owners, uint32_t* count)
    uint32_t ct_map_owner(const ct_map* map, uint32_t partition)  # CT_UNOWNED: no worker of this node
    void ct_position_write(ct_positions* positions, uint32_t partition, uint16_t log, int64_t offset)
    int64_t ct_position_read(const ct_positions* positions, uint32_t partition, uint16_t log)  # -1: unknown
    void ct_register(const ct_view* view, uint32_t process, uint32_t pid, uint32_t worker, uint32_t generation)
    void ct_unregister(ct_process* process)
    bint ct_flag_process(ct_process* process, uint64_t set, uint64_t clear)  # False: no process is registered
    uint32_t ct_process_of(uint32_t worker, uint32_t generation)
    int ct_find(const ct_view* view, uint32_t worker, uint32_t generation)  # -1: not registered
    uint32_t ct_identity_pid(uint64_t identity)
    uint32_t ct_identity_worker(uint64_t identity)
    uint32_t ct_identity_generation(uint64_t identity)
    void ct_observe(ct_histogram* histogram, uint64_t duration_ns)
    uint32_t ct_oldest(const ct_view* view, ct_waiting* out, uint32_t limit)

    # ---- constants
    const uint64_t CT_MAGIC
    const uint64_t* CT_BOUND_NS
    cdef enum:
        CT_LAYOUT_VERSION, CT_WORKERS_MAX, CT_UNOWNED, CT_SLOTS_MAX, CT_TAG_BITS, CT_PARTITIONS_MAX, CT_ROUTES_MAX
        CT_UNROUTED, CT_ENDINGS_MAX, CT_DISPOSITIONS_MAX, CT_TALLIES_MAX, CT_PHASES, CT_BOUNDS, CT_NO_CONSUMER
        CT_QUEUE_TO_ACK, CT_ACK_TO_REPLY, CT_TOTAL
        CT_ENDING_ANSWERED, CT_CLASSES, CT_GAUGES_MAX, CT_STORE_GAUGES_MAX
        CT_FREE, CT_CLAIMING, CT_CLAIMED, CT_SENT, CT_RECORDED, CT_ANSWERED, CT_EXPIRED, CT_CANCELLED, CT_FAILED
        CT_RECLAIMED, CT_RESTING, CT_STREAMING, CT_STATES
        CT_LATE, CT_DUPLICATE, CT_FORGED, CT_ELSEWHERE
        CT_SINGLE, CT_KEPT, CT_STREAM, CT_KINDS_MAX, CT_TOPIC_SHIFT
        CT_REGISTERED, CT_READY, CT_DRAINING

cdef extern from "_ctable_range.h" nogil:
    ctypedef struct ct_request:
        uint64_t tag
        uint64_t deadline_ns
        uint64_t claimed_ns
        uint64_t place
    ctypedef struct ct_range:  # private memory of the claiming process
        uint32_t first
        uint32_t count
        int64_t* tokens
    int ct_range_open(ct_range* range, const ct_view* view, uint32_t process)  # 0: no memory, -1: not reclaimed
    void ct_range_close(ct_range* range)
    uint32_t ct_range_in_flight(const ct_range* range)
    ct_slot* ct_own(const ct_range* range, int64_t slot)       # NULL: not in this range
    ct_slot* ct_named(const ct_range* range, int64_t token)    # NULL: not in this range
    int32_t ct_range_claim(ct_range* range)                    # -1: full
    int64_t ct_range_publish(ct_range* range, int64_t slot, const ct_request* request, uint32_t kind)  # -1: not claimed
    bint ct_range_extend(ct_range* range, int64_t token, uint64_t deadline_ns)
    bint ct_range_abandon(ct_range* range, int64_t slot)
    bint ct_range_release(ct_range* range, int64_t token)
    uint32_t ct_range_expired(ct_range* range, uint64_t now_ns, uint32_t limit)
    uint32_t ct_range_live_before(const ct_range* range, uint64_t ns, uint32_t kinds)


cdef class Table:
    cdef void* base
    cdef uint64_t total_bytes
    cdef ct_view view
    cdef readonly uint32_t node, workers, processes, slots_per_process
    cdef ct_process* _process(self, int64_t process) except NULL
    cdef ct_counters* _counters(self, int64_t process) except NULL


cdef class SlotRange:
    cdef Table table  # keeps the mapping alive
    cdef ct_range range
    cdef readonly int process
    cdef int _give_back(self, int64_t token) except -1
    cpdef int32_t claim(self) noexcept
    cpdef int64_t publish(
        self, int64_t slot, uint64_t tag, uint16_t route, uint16_t home, uint64_t deadline_ns, uint64_t now_ns
    ) except -1
    cdef int64_t _publish(
        self, int64_t slot, uint64_t tag, uint64_t place, uint32_t kind, uint64_t deadline_ns, uint64_t now_ns
    ) except -1
    cpdef bint sent(self, int64_t token, uint64_t now_ns) noexcept
    cpdef bint recorded(self, int64_t token, uint64_t now_ns) noexcept
    cpdef int64_t resolve(self, int64_t slot, uint64_t tag) noexcept
    cpdef int64_t settle(self, int64_t token, int64_t ending_number, uint64_t now_ns) except -2
    cpdef int64_t settle_answered(self, int64_t token, int64_t status, uint64_t now_ns) except -2
    cdef int64_t _settle(self, int64_t token, int64_t ending_number, int64_t answer_class, uint64_t now_ns) except -2
