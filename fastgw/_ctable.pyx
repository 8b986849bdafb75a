# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""The shared correlation table: the requests that wait for replies, in memory that all processes of a node share.

One memfd holds everything. There are no pointers, no payload and no locks: a process may be killed at any line, and
`reclaim` is all that is needed after it.

    header        magic, layout version, sizes, node, service draining, starts of each worker slot, and for each route
                  how long a request would wait for its service
    partition map version, and two copies of: partition count, owner (worker slot) of each partition
    positions     for each partition, up to which offset this node has handled its replies; the same for the topic of
                  streams
    processes     two for each worker slot: process = worker * 2 + generation % 2
                  identity (pid, worker, generation, flags), heartbeat, in flight, home, body bytes, gauges, and for
                  each partition the lowest offset that it reads
    counters      one block for each process: dispositions of replies, tallies, and for each route its endings and
                  three histograms
    slots         one range for each process

    a slot, one cache line
    byte 0        8     16          24          32       40           48         56
        +---------+-----+-----------+-----------+--------+------------+----------+------------------+
        | word    | tag | deadline  | claimed   | sent   | recorded   | tombstone| route, home, kind|
        +---------+-----+-----------+-----------+--------+------------+----------+------------------+
    word = sequence number of the slot (32) | ending (8) | state (8); tag = nonce, home and salt of the id (62 bits);
    tombstone = tag of the previous occupant (62) | how it ended (2: none, answered, otherwise); times in monotonic ns

States and transitions (`CT_NEXT` in _ctable.h has them as data; each claim adds 1 to the sequence number):

    FREE ──────┐         ┌──────────────────────────── abandoned, or repaired after a death ────────┐
               v         │                                                                          v
    RESTING ─> CLAIMING ─┴─> CLAIMED ─> SENT ─> RECORDED ─┬─> ANSWERED EXPIRED CANCELLED FAILED ─> RESTING
              (the live states, with STREAMING after any ─┘   RECLAIMED (the five endings)
               of them; each may be skipped or ended)

All transitions are compare-and-set on the word, so of reply, deadline, disconnect, drain and reclaim exactly one wins.
A slot keeps its ending until the next request is published. From the ending and the tombstone a reply for one of the
last two occupants gets its result: LATE (the request ended without it) or DUPLICATE (it was answered already). Any
other tag is FORGED.

Part                      is written by
    map                   only the agent
    waits                 only the agent
    store's gauges        only the store
    positions             the designated reader of the partition (core.reply_router); the agent before it writes a map
                          that gives the partition to this node; those of streams: the store, and the agent
    header                `format`, once
    draining flag         the supervisor
    starts                `register`
    identity              the process; the supervisor when that process is dead
    rest of its record    the process; `unregister` sets it to zero
    counters              the process (never reset: the next process of this range adds to them)
    word                  the process of the range; `reclaim` of the supervisor when that process is dead
    rest of a slot        only the process of the range

When a worker dies                           the shared memory has     reclaim changes it to
    before its claim is visible              FREE or RESTING           nothing to do
    between claim and publish                CLAIMING                  RESTING, counted as repaired; ending and
                                                                       tombstone stay correct
    published, sent, recorded                a live state              RECLAIMED, then RESTING; counted as live
    answered or ended, not released          an ending                 RESTING with that ending
    released                                 RESTING                   nothing to do
    while it writes a map (agent)            the old map               (the next writer writes the same copy again)
    while it handles replies                 its last positions        nothing to do: its successor starts there
    during a reclaim (supervisor)            any of the above          (the next reclaim continues)

The free ring, the deadline wheel and the age lists are private memory of the claiming process: see _ctable_range.h.
"""

from collections import namedtuple

cimport cython
from libc.errno cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport strerror


cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t bytes, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t bytes)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        long st_size
    int fstat(int fd, stat_t* out)

FREE, CLAIMING, CLAIMED, SENT, RECORDED = CT_FREE, CT_CLAIMING, CT_CLAIMED, CT_SENT, CT_RECORDED
ANSWERED, EXPIRED, CANCELLED, FAILED, RECLAIMED = CT_ANSWERED, CT_EXPIRED, CT_CANCELLED, CT_FAILED, CT_RECLAIMED
RESTING, STREAMING = CT_RESTING, CT_STREAMING
STATE_NAMES = (
    "free", "claiming", "claimed", "sent", "recorded",
    "answered", "expired", "cancelled", "failed", "reclaimed", "resting", "streaming",
)
SINGLE, KEPT, STREAM, KINDS_MAX = CT_SINGLE, CT_KEPT, CT_STREAM, CT_KINDS_MAX

LATE, DUPLICATE, FORGED, ELSEWHERE = CT_LATE, CT_DUPLICATE, CT_FORGED, CT_ELSEWHERE

LAYOUT_VERSION, WORKERS_MAX, SLOTS_MAX = CT_LAYOUT_VERSION, CT_WORKERS_MAX, CT_SLOTS_MAX
PARTITIONS_MAX, ROUTES_MAX, ENDINGS_MAX = CT_PARTITIONS_MAX, CT_ROUTES_MAX, CT_ENDINGS_MAX
DISPOSITIONS_MAX, TALLIES_MAX, UNOWNED, UNROUTED = CT_DISPOSITIONS_MAX, CT_TALLIES_MAX, CT_UNOWNED, CT_UNROUTED
NOT_READING = 2**64 - 1
UNKNOWN_POSITION = -1
NO_CONSUMER = CT_NO_CONSUMER

CLASSES, GAUGES_MAX = CT_CLASSES, CT_GAUGES_MAX
PHASES = CT_PHASES
QUEUE_TO_ACK, ACK_TO_REPLY, TOTAL = CT_QUEUE_TO_ACK, CT_ACK_TO_REPLY, CT_TOTAL
BUCKETS = (*[CT_BOUND_NS[i] for i in range(CT_BOUNDS)], 2**64 - 1)

ProcessInfo = namedtuple(
    "ProcessInfo",
    "process pid worker generation ready draining heartbeat_ns in_flight home applied_map_version "
    "body_bytes",
)
Waiting = namedtuple(
    "Waiting", "slot process route home state claimed_ns sent_ns recorded_ns deadline_ns kind"
)


def layout_size(workers, slots_per_process):
    cdef uint64_t total = 0
    if 0 < workers <= CT_WORKERS_MAX and 0 < slots_per_process <= CT_SLOTS_MAX:
        total = ct_layout_size(workers, slots_per_process)
    if total == 0:
        raise ValueError(
            f"expected 1..{CT_WORKERS_MAX} workers and 1 or more slots, 2 * workers * slots <= {CT_SLOTS_MAX}; "
            f"got {workers} workers with {slots_per_process} slots per process"
        )
    return total


def format(int fd, uint32_t node, workers, slots_per_process):
    cdef uint64_t total = layout_size(workers, slots_per_process)
    if file_bytes(fd) != total:
        raise ValueError(f"table to format: expected a file of {total} bytes, got {file_bytes(fd)}")
    cdef void* base = map_shared(fd, total)
    if ct_load_acquire(&(<ct_header*> base).magic) != 0:
        munmap(base, total)
        raise ValueError("table to format: expected fresh memory, got a table that is in use")
    ct_format(base, node, workers, slots_per_process)
    munmap(base, total)


cdef uint64_t file_bytes(int fd) except? 0:
    cdef stat_t info
    if fstat(fd, &info) != 0:
        raise OSError(errno, f"fd {fd}: {strerror(errno).decode()}")
    return <uint64_t> info.st_size


cdef void* map_shared(int fd, uint64_t total) except NULL:
    cdef void* base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if base == MAP_FAILED:
        raise OSError(errno, f"fd {fd}: {strerror(errno).decode()}")
    return base


cdef int check_header(const ct_header* header, uint64_t total) except -1:
    if ct_load_acquire(&header.magic) != CT_MAGIC:
        raise ValueError(f"table: expected magic {CT_MAGIC:#x}, got {ct_load_acquire(&header.magic):#x}")
    if header.layout_version != CT_LAYOUT_VERSION:
        raise ValueError(f"table: expected layout version {CT_LAYOUT_VERSION}, got {header.layout_version}")
    cdef uint64_t expected = ct_layout_size(header.workers, header.slots_per_process)
    if expected == 0 or header.total_bytes != expected or total != expected:
        raise ValueError(
            f"table: expected {expected} bytes for {header.workers} workers with {header.slots_per_process} slots per "
            f"process, got a header that says {header.total_bytes} and a file of {total}"
        )
    return 0


cdef class Table:
    """The table, mapped into one process."""

    def __cinit__(self, int fd):
        self.total_bytes = file_bytes(fd)
        if self.total_bytes < sizeof(ct_header):
            raise ValueError(f"table: expected at least {sizeof(ct_header)} bytes, got {self.total_bytes}")
        self.base = map_shared(fd, self.total_bytes)
        cdef ct_header* header = <ct_header*> self.base
        check_header(header, self.total_bytes)
        ct_look_at(&self.view, self.base, header.workers, header.slots_per_process)
        self.node = header.node
        self.workers = header.workers
        self.processes = self.view.process_count
        self.slots_per_process = header.slots_per_process

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.total_bytes)

    def __repr__(self):
        live = [self.process_info(process) for process in range(self.processes)]
        return (
            f"<Table node={self.node:06x} workers={self.workers} slots={self.slots_per_process} "
            f"map_version={self.map_version()} processes={sum(info is not None for info in live)}>"
        )

    cdef ct_process* _process(self, int64_t process) except NULL:
        if process < 0 or process >= self.view.process_count:
            raise ValueError(f"process: expected 0..{self.view.process_count - 1}, got {process}")
        return &self.view.processes[process]

    cdef ct_counters* _counters(self, int64_t process) except NULL:
        self._process(process)
        return &self.view.counters[process]

    # ---- the service

    def set_service_draining(self, draining=True):
        ct_store_release(&self.view.header.draining, 1 if draining else 0)

    def service_draining(self):
        return ct_load_acquire(&self.view.header.draining) != 0

    def worker_starts(self, int64_t worker):
        check_below("worker", worker, self.workers)
        return ct_load_relaxed(&self.view.header.worker_starts[worker])

    def agent_beats(self, uint64_t now_ns):
        ct_store_release(&self.view.header.agent_beat_ns, now_ns)

    def agent_beat_ns(self):
        return ct_load_acquire(&self.view.header.agent_beat_ns)

    def store_beats(self, uint64_t now_ns):
        ct_store_release(&self.view.header.store_beat_ns, now_ns)

    def store_beat_ns(self):
        return ct_load_acquire(&self.view.header.store_beat_ns)

    def set_store_gauge(self, int64_t index, uint64_t value):
        check_below("gauge", index, CT_STORE_GAUGES_MAX)
        ct_store_relaxed(&self.view.header.store_gauges[index], value)

    def store_gauge(self, int64_t index):
        check_below("gauge", index, CT_STORE_GAUGES_MAX)
        return ct_load_relaxed(&self.view.header.store_gauges[index])

    def write_waits(self, dict waits_ns not None, uint64_t now_ns):
        cdef ct_header* header = self.view.header
        cdef int route
        for route in range(CT_ROUTES_MAX):
            ct_store_relaxed(&header.waits_ns[route], <uint64_t> <int64_t> waits_ns.get(route, 0))
        ct_store_release(&header.waits_written_ns, now_ns)

    def waits_written_ns(self):
        return ct_load_acquire(&self.view.header.waits_written_ns)

    def wait_ns(self, int64_t route):
        check_below("route", route, CT_ROUTES_MAX)
        return <int64_t> ct_load_relaxed(&self.view.header.waits_ns[route])

    # ---- partition map

    def write_map(self, const uint8_t[::1] owners not None):
        cdef Py_ssize_t count = owners.shape[0]
        cdef Py_ssize_t i
        if not 0 < count <= CT_PARTITIONS_MAX:
            raise ValueError(f"partitions: expected 1..{CT_PARTITIONS_MAX}, got {count}")
        for i in range(count):
            if owners[i] >= self.workers and owners[i] != CT_UNOWNED:
                raise ValueError(
                    f"owner of partition {i}: expected a worker slot below {self.workers} or {CT_UNOWNED}, "
                    f"got {owners[i]}"
                )
        return ct_map_write(self.view.map, &owners[0], <uint32_t> count)

    def map_version(self):
        return ct_load_acquire(&self.view.map.version)

    def read_map(self):
        cdef uint8_t[CT_PARTITIONS_MAX] owners
        cdef uint32_t count = 0
        cdef uint64_t version = ct_map_read(self.view.map, owners, &count)
        return version, (<char*> owners)[:count]

    def map_owner(self, int64_t partition):
        if partition < 0 or partition >= CT_PARTITIONS_MAX:
            return UNOWNED
        return ct_map_owner(self.view.map, <uint32_t> partition)

    # ---- positions

    def set_handled_to(self, int64_t partition, int64_t log, int64_t offset):
        check_below("partition", partition, CT_PARTITIONS_MAX)
        check_below("log", log, 1 << 16)
        ct_position_write(self.view.positions, <uint32_t> partition, <uint16_t> log, offset if offset >= 0 else -1)

    def handled_to(self, int64_t partition, int64_t log):
        check_below("partition", partition, CT_PARTITIONS_MAX)
        check_below("log", log, 1 << 16)
        return ct_position_read(self.view.positions, <uint32_t> partition, <uint16_t> log)

    def set_streams_read_to(self, int64_t partition, int64_t log, int64_t offset):
        check_below("partition", partition, CT_PARTITIONS_MAX)
        check_below("log", log, 1 << 16)
        offset = offset if offset >= 0 else -1
        ct_position_write(self.view.stream_positions, <uint32_t> partition, <uint16_t> log, offset)

    def streams_read_to(self, int64_t partition, int64_t log):
        check_below("partition", partition, CT_PARTITIONS_MAX)
        check_below("log", log, 1 << 16)
        return ct_position_read(self.view.stream_positions, <uint32_t> partition, <uint16_t> log)

    # ---- process records

    def register(self, int64_t process, uint32_t pid, int64_t worker, int64_t generation):
        self._process(process)
        check_below("worker", worker, self.workers)
        check_below("generation", generation, 256)
        cdef uint32_t expected = ct_process_of(<uint32_t> worker, <uint32_t> generation)
        if process != expected:
            raise ValueError(f"process of worker {worker} generation {generation}: expected {expected}, got {process}")
        ct_register(&self.view, <uint32_t> process, pid, <uint32_t> worker, <uint32_t> generation)

    def unregister(self, int64_t process):
        ct_unregister(self._process(process))

    def set_ready(self, int64_t process, bint ready):
        flag(self._process(process), process, CT_READY if ready else 0, CT_READY)

    def set_draining(self, int64_t process):
        flag(self._process(process), process, CT_DRAINING, 0)

    def heartbeat(
        self, int64_t process, uint64_t now_ns, uint32_t in_flight, int home_partition, uint64_t applied_map_version
    ):
        cdef ct_process* record = self._process(process)
        if not -1 <= home_partition < CT_PARTITIONS_MAX:
            raise ValueError(f"home partition: expected -1..{CT_PARTITIONS_MAX - 1}, got {home_partition}")
        ct_store_relaxed(&record.in_flight, in_flight)
        ct_store_relaxed(&record.home_plus_1, home_partition + 1)
        ct_store_relaxed(&record.applied_map_version, applied_map_version)
        ct_store_release(&record.heartbeat_ns, now_ns)

    def set_body_bytes(self, int64_t process, uint64_t body_bytes):
        ct_store_relaxed(&self._process(process).body_bytes, body_bytes)

    def set_gauge(self, int64_t process, int64_t index, uint64_t value):
        cdef ct_process* record = self._process(process)
        check_below("gauge", index, CT_GAUGES_MAX)
        ct_store_relaxed(&record.gauges[index], value)

    def gauge(self, int64_t process, int64_t index):
        cdef ct_process* record = self._process(process)
        check_below("gauge", index, CT_GAUGES_MAX)
        return ct_load_relaxed(&record.gauges[index])

    def set_reads_from(self, int64_t process, int64_t partition, uint64_t offset):
        cdef ct_process* record = self._process(process)
        check_below("partition", partition, CT_PARTITIONS_MAX)
        ct_store_release(&record.not_reads_from[partition], ~offset)

    def reads_from(self, int64_t process, int64_t partition):
        cdef ct_process* record = self._process(process)
        check_below("partition", partition, CT_PARTITIONS_MAX)
        return ~ct_load_acquire(&record.not_reads_from[partition])

    def process_info(self, int64_t process):
        cdef ct_process* record = self._process(process)
        cdef uint64_t identity = ct_load_acquire(&record.identity)
        if not identity & CT_REGISTERED:
            return None
        return ProcessInfo(
            process, ct_identity_pid(identity), ct_identity_worker(identity), ct_identity_generation(identity),
            (identity & CT_READY) != 0, (identity & CT_DRAINING) != 0,
            ct_load_acquire(&record.heartbeat_ns), ct_load_relaxed(&record.in_flight),
            <int> ct_load_relaxed(&record.home_plus_1) - 1, ct_load_relaxed(&record.applied_map_version),
            ct_load_relaxed(&record.body_bytes),
        )

    def find(self, int64_t worker, int64_t generation):
        if worker < 0 or worker >= self.workers or generation < 0 or generation > 255:
            return -1
        return ct_find(&self.view, <uint32_t> worker, <uint32_t> generation)

    # ---- counters

    def count(self, int64_t process, int64_t route, int64_t ending_number):
        cdef ct_counters* counters = self._counters(process)
        check_below("route", route, CT_ROUTES_MAX)
        check_below("ending", ending_number, CT_ENDINGS_MAX)
        ct_add_relaxed(&counters.routes[route].endings[ending_number], 1)

    def count_answered(self, int64_t process, int64_t route, int64_t status):
        cdef ct_counters* counters = self._counters(process)
        check_below("route", route, CT_ROUTES_MAX)
        if not 200 <= status <= 599:
            raise ValueError(f"status: expected 200..599, got {status}")
        ct_add_relaxed(&counters.routes[route].answered[status // 100 - 2], 1)

    def count_disposition(self, int64_t process, int64_t disposition):
        cdef ct_counters* counters = self._counters(process)
        check_below("disposition", disposition, CT_DISPOSITIONS_MAX)
        ct_add_relaxed(&counters.dispositions[disposition], 1)

    def add_tally(self, int64_t process, int64_t index, uint64_t n):
        cdef ct_counters* counters = self._counters(process)
        check_below("tally", index, CT_TALLIES_MAX)
        ct_add_relaxed(&counters.tallies[index], n)

    def endings(self, int64_t route):
        cdef uint64_t[CT_ENDINGS_MAX] sums
        cdef uint32_t process
        cdef int i
        check_below("route", route, CT_ROUTES_MAX)
        for i in range(CT_ENDINGS_MAX):
            sums[i] = 0
        for process in range(self.view.process_count):
            for i in range(CT_ENDINGS_MAX):
                sums[i] += ct_load_relaxed(&self.view.counters[process].routes[route].endings[i])
            for i in range(CT_CLASSES):
                sums[CT_ENDING_ANSWERED] += ct_load_relaxed(&self.view.counters[process].routes[route].answered[i])
        return tuple([sums[i] for i in range(CT_ENDINGS_MAX)])

    def answered(self, int64_t route):
        cdef uint64_t[CT_CLASSES] sums
        cdef uint32_t process
        cdef int i
        check_below("route", route, CT_ROUTES_MAX)
        for i in range(CT_CLASSES):
            sums[i] = 0
        for process in range(self.view.process_count):
            for i in range(CT_CLASSES):
                sums[i] += ct_load_relaxed(&self.view.counters[process].routes[route].answered[i])
        return tuple([sums[i] for i in range(CT_CLASSES)])

    def histogram(self, int64_t route, int64_t phase):
        cdef uint64_t[CT_BOUNDS + 1] sums
        cdef uint64_t sum_ns = 0
        cdef uint32_t process
        cdef int i
        cdef ct_histogram* histogram
        check_below("route", route, CT_ROUTES_MAX)
        check_below("phase", phase, CT_PHASES)
        for i in range(CT_BOUNDS + 1):
            sums[i] = 0
        for process in range(self.view.process_count):
            histogram = &self.view.counters[process].routes[route].phases[phase]
            sum_ns += ct_load_relaxed(&histogram.sum_ns)
            for i in range(CT_BOUNDS + 1):
                sums[i] += ct_load_relaxed(&histogram.buckets[i])
        return tuple([sums[i] for i in range(CT_BOUNDS + 1)]), sum_ns

    def dispositions(self):
        cdef uint64_t[CT_DISPOSITIONS_MAX] sums
        cdef uint32_t process
        cdef int i
        for i in range(CT_DISPOSITIONS_MAX):
            sums[i] = 0
        for process in range(self.view.process_count):
            for i in range(CT_DISPOSITIONS_MAX):
                sums[i] += ct_load_relaxed(&self.view.counters[process].dispositions[i])
        return tuple([sums[i] for i in range(CT_DISPOSITIONS_MAX)])

    def tally(self, int64_t index):
        cdef uint64_t total = 0
        cdef uint32_t process
        check_below("tally", index, CT_TALLIES_MAX)
        for process in range(self.view.process_count):
            total += ct_load_relaxed(&self.view.counters[process].tallies[index])
        return total

    # ---- the whole table

    def reclaim(self, int64_t process):
        ct_unregister(self._process(process))
        cdef ct_reclaimed sum = ct_reclaim(&self.view, <uint32_t> process)
        return sum.live, sum.repaired

    def states(self, int64_t process):
        self._process(process)
        cdef uint32_t used = ct_used(&self.view, <uint32_t> process)
        cdef uint32_t[CT_STATES] sums
        cdef ct_slot* slots = self.view.slots + process * self.view.slots_per_process
        cdef int state
        cdef uint32_t i
        for state in range(CT_STATES):
            sums[state] = 0
        for i in range(used):
            sums[ct_state_of(ct_load_acquire(&slots[i].word)) % CT_STATES] += 1
        sums[CT_FREE] += self.view.slots_per_process - used
        return {state: sums[state] for state in range(CT_STATES) if sums[state]}

    def waiting(self, int64_t limit):
        cdef uint32_t room = <uint32_t> min(max(limit, 0), self.processes * self.slots_per_process)
        cdef ct_waiting* oldest = <ct_waiting*> malloc((room + 1) * sizeof(ct_waiting))
        if oldest == NULL:
            raise MemoryError()
        cdef uint32_t found
        with nogil:  # may read megabytes of slots
            found = ct_oldest(&self.view, oldest, room)
        try:
            return [
                Waiting(
                    oldest[i].slot, oldest[i].slot // self.view.slots_per_process, oldest[i].route, oldest[i].home,
                    oldest[i].state, oldest[i].claimed_ns, oldest[i].sent_ns, oldest[i].recorded_ns,
                    oldest[i].deadline_ns, oldest[i].kind,
                )
                for i in range(found)
            ]
        finally:
            free(oldest)

    def open_range(self, int64_t process):
        self._process(process)
        return SlotRange(self, process)


cdef inline int check_below(str name, int64_t value, int64_t limit) except -1:
    if value < 0 or value >= limit:
        raise ValueError(f"{name}: expected 0..{limit - 1}, got {value}")
    return 0


cdef int flag(ct_process* record, int64_t process, uint64_t set, uint64_t clear) except -1:
    if not ct_flag_process(record, set, clear):
        raise ValueError(f"process {process}: expected it to be registered, it is not")
    return 0


@cython.final
cdef class SlotRange:
    """Claims and releases the slots of one process: one owner, one thread."""

    def __cinit__(self, Table table not None, int process):
        self.table = table
        self.process = process
        cdef int opened = ct_range_open(&self.range, &table.view, <uint32_t> process)
        if opened == 0:
            raise MemoryError()
        if opened < 0:
            raise ValueError(
                f"range of process {process}: expected only free slots, got {table.states(process)}; reclaim it first"
            )

    def __dealloc__(self):
        ct_range_close(&self.range)

    def __repr__(self):
        states = {STATE_NAMES[state]: n for state, n in self.table.states(self.process).items()}
        return f"<SlotRange process={self.process} in_flight={self.in_flight} {states}>"

    @property
    def in_flight(self):
        return ct_range_in_flight(&self.range)

    cpdef int32_t claim(self) noexcept:
        return ct_range_claim(&self.range)

    cpdef int64_t publish(
        self, int64_t slot, uint64_t tag, uint16_t route, uint16_t home, uint64_t deadline_ns, uint64_t now_ns
    ) except -1:
        return self._publish(slot, tag, ct_place(route, home), CT_SINGLE, deadline_ns, now_ns)

    def publish_kind(
        self, int64_t slot, uint64_t tag, uint16_t route, uint16_t home, int64_t kind, uint64_t deadline_ns,
        uint64_t now_ns,
    ):
        check_below("kind", kind, CT_KINDS_MAX)
        cdef uint64_t place = ct_place_of_kind(route, home, <uint32_t> kind)
        return self._publish(slot, tag, place, <uint32_t> kind, deadline_ns, now_ns)

    cdef int64_t _publish(
        self, int64_t slot, uint64_t tag, uint64_t place, uint32_t kind, uint64_t deadline_ns, uint64_t now_ns
    ) except -1:
        cdef ct_request request
        if tag >> CT_TAG_BITS:
            raise ValueError(f"tag: expected {CT_TAG_BITS} bits, got {tag:#x}")
        request.tag = tag
        request.deadline_ns = deadline_ns
        request.claimed_ns = now_ns
        request.place = place
        cdef int64_t token = ct_range_publish(&self.range, slot, &request, kind)
        if token < 0:
            raise ValueError(f"publish of slot {slot}: expected a claimed slot of this range, {self._found(slot)}")
        return token

    def abandon(self, int64_t slot):
        if not ct_range_abandon(&self.range, slot):
            raise ValueError(f"abandon of slot {slot}: expected a claimed slot of this range, {self._found(slot)}")

    cpdef bint sent(self, int64_t token, uint64_t now_ns) noexcept:
        cdef ct_slot* slot = ct_named(&self.range, token)
        return slot != NULL and ct_advance(slot, token, CT_SENT, now_ns)

    cpdef bint recorded(self, int64_t token, uint64_t now_ns) noexcept:
        cdef ct_slot* slot = ct_named(&self.range, token)
        return slot != NULL and ct_advance(slot, token, CT_RECORDED, now_ns)

    def streaming(self, int64_t token):
        cdef ct_slot* slot = ct_named(&self.range, token)
        return slot != NULL and ct_stream(slot, token)

    def extend(self, int64_t token, uint64_t deadline_ns):
        return ct_range_extend(&self.range, token, deadline_ns)

    def set_partition(self, int64_t token, int64_t partition):
        cdef ct_slot* slot = ct_named(&self.range, token)
        check_below("partition", partition, 0xFFFF)
        if slot != NULL and ct_names(token, ct_load_acquire(&slot.word)):
            ct_set_partition(slot, <uint32_t> partition)

    def partition(self, int64_t token):
        cdef ct_slot* slot = ct_named(&self.range, token)
        if slot == NULL or not ct_names(token, ct_load_acquire(&slot.word)):
            return -1
        return ct_partition_of(ct_load_relaxed(&slot.place))

    cpdef int64_t resolve(self, int64_t slot, uint64_t tag) noexcept:
        if tag >> CT_TOPIC_SHIFT:
            return CT_ELSEWHERE
        cdef ct_slot* own = ct_own(&self.range, slot)
        return CT_FORGED if own == NULL else ct_resolve(own, <uint32_t> slot, tag)

    def resolve_elsewhere(self, int64_t slot, uint64_t tag):
        cdef ct_slot* own = ct_own(&self.range, slot)
        return CT_FORGED if own == NULL else ct_resolve(own, <uint32_t> slot, tag)

    def finish(self, int64_t token, int64_t state):
        cdef ct_slot* slot = ct_named(&self.range, token)
        if state not in (CT_ANSWERED, CT_EXPIRED, CT_CANCELLED, CT_FAILED):
            raise ValueError(f"finish: expected an ending, got state {state}")
        return -1 if slot == NULL else ct_finish(slot, token, <uint32_t> state)

    def times(self, int64_t token):
        cdef ct_slot* slot = ct_named(&self.range, token)
        if slot == NULL or not ct_names(token, ct_load_acquire(&slot.word)):
            raise ValueError(f"times of token {token:#x}: expected a token of this range that is not stale")
        return (
            ct_load_relaxed(&slot.claimed_ns), ct_load_relaxed(&slot.sent_ns),
            ct_load_relaxed(&slot.recorded_ns), ct_load_relaxed(&slot.deadline_ns),
        )

    cpdef int64_t settle(self, int64_t token, int64_t ending_number, uint64_t now_ns) except -2:
        check_below("ending", ending_number, CT_ENDINGS_MAX)
        return self._settle(token, ending_number, -1, now_ns)

    cpdef int64_t settle_answered(self, int64_t token, int64_t status, uint64_t now_ns) except -2:
        if not 200 <= status <= 599:
            raise ValueError(f"status: expected 200..599, got {status}")
        return self._settle(token, CT_ENDING_ANSWERED, status // 100 - 2, now_ns)

    cdef int64_t _settle(self, int64_t token, int64_t ending_number, int64_t answer_class, uint64_t now_ns) except -2:
        cdef ct_slot* slot = ct_named(&self.range, token)
        cdef ct_counters* counters = self.table._counters(self.process)
        if slot == NULL or not ct_names(token, ct_load_acquire(&slot.word)):
            raise ValueError(f"settle of token {token:#x}: expected a token of this range that is not stale")
        cdef ct_route_counters* route = &counters.routes[ct_route_of(ct_load_relaxed(&slot.place))]
        cdef uint64_t sent_ns = ct_load_relaxed(&slot.sent_ns)
        cdef uint64_t recorded_ns = ct_load_relaxed(&slot.recorded_ns)
        cdef uint64_t claimed_ns = ct_load_relaxed(&slot.claimed_ns)
        self._give_back(token)
        if answer_class >= 0:
            ct_add_relaxed(&route.answered[answer_class], 1)
        else:
            ct_add_relaxed(&route.endings[ending_number], 1)
        ct_observe(&route.phases[CT_TOTAL], now_ns - claimed_ns if now_ns > claimed_ns else 0)
        if recorded_ns == 0:
            return -1
        cdef uint64_t replied_ns = now_ns if now_ns > recorded_ns else recorded_ns
        ct_observe(&route.phases[CT_QUEUE_TO_ACK], recorded_ns - sent_ns if recorded_ns > sent_ns else 0)
        ct_observe(&route.phases[CT_ACK_TO_REPLY], replied_ns - recorded_ns)
        return replied_ns - recorded_ns

    def release(self, int64_t token):
        self._give_back(token)

    cdef int _give_back(self, int64_t token) except -1:
        if not ct_range_release(&self.range, token):
            found = self._found(token % CT_SLOTS_MAX)
            raise ValueError(f"release of token {token:#x}: expected an occupancy that has ended, {found}")
        return 0

    def expired(self, uint64_t now_ns, int64_t limit):
        cdef uint32_t bounded = <uint32_t> min(max(limit, 0), self.range.count)
        cdef uint32_t found = ct_range_expired(&self.range, now_ns, bounded)
        return [self.range.tokens[i] for i in range(found)]

    def live_before(self, uint64_t ns, uint32_t kinds=1 << CT_SINGLE):
        return ct_range_live_before(&self.range, ns, kinds)

    def _found(self, int64_t slot):
        cdef ct_slot* own = ct_own(&self.range, slot)
        if own == NULL:
            return f"got one outside of {self.range.first}..{self.range.first + self.range.count - 1}"
        word = ct_load_acquire(&own.word)
        return f"got state {STATE_NAMES[ct_state_of(word)]}, sequence number {word >> 32}"
