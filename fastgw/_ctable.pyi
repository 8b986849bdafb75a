"""The shared correlation table: types and contracts. _ctable.pyx explains how it works.

`process` is the index of a slot range: worker * 2 + generation % 2. Times are nanoseconds of CLOCK_MONOTONIC, which is
the same in all processes. An argument out of range raises ValueError and changes nothing.
"""

from typing import Final, NamedTuple

from typing_extensions import Buffer

# States of a slot.
FREE: Final[int]
CLAIMING: Final[int]
CLAIMED: Final[int]  # live: published, not known to be sent
SENT: Final[int]  # live: handed to the Kafka client
RECORDED: Final[int]  # live: Kafka confirmed the record
ANSWERED: Final[int]  # ending
EXPIRED: Final[int]  # ending
CANCELLED: Final[int]  # ending
FAILED: Final[int]  # ending
RECLAIMED: Final[int]  # ending: its process died
RESTING: Final[int]
STREAMING: Final[int]  # live: part of the answer has been sent
STATE_NAMES: Final[tuple[str, ...]]  # by state number

# Results of `resolve` for a reply that no request waits for.
LATE: Final[int]  # -1: the request has ended without it
DUPLICATE: Final[int]  # -2: the request has been answered already
FORGED: Final[int]  # -3: neither this request nor the one before it in this slot
ELSEWHERE: Final[int]  # -4: the id names another topic than the response topic

# Kinds of requests: how they are answered.
SINGLE: Final[int]  # by one reply on the response topic
KEPT: Final[int]  # by one reply that the store keeps
STREAM: Final[int]  # by many records
KINDS_MAX: Final[int]

LAYOUT_VERSION: Final[int]
WORKERS_MAX: Final[int]
SLOTS_MAX: Final[int]  # of all ranges together
PARTITIONS_MAX: Final[int]
ROUTES_MAX: Final[int]  # rows of counters
UNROUTED: Final[int]  # the last row: requests without a route; all route numbers are below it
ENDINGS_MAX: Final[int]
DISPOSITIONS_MAX: Final[int]
TALLIES_MAX: Final[int]
UNOWNED: Final[int]  # 0xFF in the partition map: no worker of this node
NOT_READING: Final[int]  # 2**64 - 1: the process does not read this partition
UNKNOWN_POSITION: Final[int]  # -1: nobody has said how far the replies of this partition were handled
NO_CONSUMER: Final[int]  # -1, as a wait time: the service has no consumer

CLASSES: Final[int]  # of statuses: 2xx, 3xx, 4xx, 5xx
GAUGES_MAX: Final[int]
PHASES: Final[int]
QUEUE_TO_ACK: Final[int]
ACK_TO_REPLY: Final[int]
TOTAL: Final[int]
BUCKETS: Final[tuple[int, ...]]  # inclusive upper bounds of histogram buckets, in ns; the last is 2**64 - 1

class ProcessInfo(NamedTuple):
    process: int
    pid: int
    worker: int
    generation: int
    ready: bool
    draining: bool
    heartbeat_ns: int  # 0: none yet
    in_flight: int
    home: int  # home partition, -1: none
    applied_map_version: int
    body_bytes: int  # memory of request bodies that are being received

class Waiting(NamedTuple):
    slot: int
    process: int
    route: int
    home: int
    state: int
    claimed_ns: int
    sent_ns: int  # 0: not yet
    recorded_ns: int  # 0: not yet
    deadline_ns: int
    kind: int

def layout_size(workers: int, slots_per_process: int) -> int:
    """Bytes of a table. ValueError if 2 * workers * slots_per_process is above SLOTS_MAX, or workers above 255."""

def format(fd: int, node: int, workers: int, slots_per_process: int) -> None:
    """Write the header into a new, zeroed file of layout_size() bytes. ValueError if the file is not like this."""

class Table:
    """The table, mapped into one process. It stays mapped as long as this object or one of its ranges exists."""

    node: int
    workers: int
    processes: int
    slots_per_process: int
    def __init__(self, fd: int) -> None:
        """Map the table; `fd` may be closed afterwards. ValueError on a wrong magic, version or size."""

    # The service.
    def set_service_draining(self, draining: bool = True) -> None: ...
    def service_draining(self) -> bool: ...
    def worker_starts(self, worker: int) -> int:
        """How many processes were ever registered for this worker slot."""

    # The agent's heartbeat; one writer: the agent.
    def agent_beats(self, now_ns: int) -> None: ...
    def agent_beat_ns(self) -> int:
        """Time of the last heartbeat, monotonic; 0: none yet."""

    # The store's heartbeat and figures; one writer: the store.
    def store_beats(self, now_ns: int) -> None: ...
    def store_beat_ns(self) -> int:
        """Time of the last heartbeat, monotonic; 0: none yet."""

    def set_store_gauge(self, index: int, value: int) -> None: ...
    def store_gauge(self, index: int) -> int: ...

    # How long requests would wait for their services; one writer: the agent.
    def write_waits(self, waits_ns: dict[int, int], now_ns: int) -> None:
        """Replace all wait times: route -> ns or NO_CONSUMER; routes that are not named get 0."""

    def waits_written_ns(self) -> int:
        """Time of the last `write_waits`, monotonic; 0: never."""

    def wait_ns(self, route: int) -> int:
        """NO_CONSUMER, or how long a request would wait for its service; 0: not at all, or not known."""

    # The partition map; one writer: the agent.
    def write_map(self, owners: Buffer) -> int:
        """Replace the map: for each partition one byte, a worker slot or UNOWNED. Returns the new version."""

    def map_version(self) -> int:
        """The version of the map; 0: it was never written."""

    def read_map(self) -> tuple[int, bytes]:
        """(version, owners), read consistently."""

    def map_owner(self, partition: int) -> int:
        """The worker slot that owns the partition now, or UNOWNED (also if there is no such partition)."""

    # Positions: how far this node has handled the replies of each partition. Written by the designated reader of the
    # partition, and by the agent before it gives the partition to this node.
    def set_handled_to(self, partition: int, log: int, offset: int) -> None:
        """The replies of `partition` below `offset` were handled. UNKNOWN_POSITION: nothing is known.

        Args:
            log: 16 bits that tell the log of this offset from others, see `table.log_of`.
            offset: at most 2**48 - 2; a larger one is unknown.
        """

    def handled_to(self, partition: int, log: int) -> int:
        """UNKNOWN_POSITION: nothing is known, or the offset is one of another log."""

    # The same for the topic of streams. Written by the store.
    def set_streams_read_to(self, partition: int, log: int, offset: int) -> None: ...
    def streams_read_to(self, partition: int, log: int) -> int: ...

    # Process records: a process writes its own; the supervisor may write the record of a dead process.
    def register(self, process: int, pid: int, worker: int, generation: int) -> None:
        """Begin a new record: not ready, not draining, reads nothing. `generation` is 0..255, as in the id."""

    def unregister(self, process: int) -> None:
        """Clear the record. Harmless if no process is registered."""

    def set_ready(self, process: int, ready: bool) -> None:
        """ValueError if no process is registered."""

    def set_draining(self, process: int) -> None:
        """ValueError if no process is registered."""

    def heartbeat(
        self, process: int, now_ns: int, in_flight: int, home_partition: int, applied_map_version: int
    ) -> None:
        """`home_partition` -1: none."""

    def set_body_bytes(self, process: int, body_bytes: int) -> None: ...
    def set_gauge(self, process: int, index: int, value: int) -> None:
        """Set one of the process's GAUGES_MAX gauges (>= 0). `register` and `unregister` reset them to 0."""

    def gauge(self, process: int, index: int) -> int: ...
    def set_reads_from(self, process: int, partition: int, offset: int) -> None:
        """From now on this process reads every record of `partition` from `offset` on; NOT_READING: none."""

    def reads_from(self, process: int, partition: int) -> int: ...
    def process_info(self, process: int) -> ProcessInfo | None:
        """The record of a process; None: no process is registered."""

    def find(self, worker: int, generation: int) -> int:
        """Index of the registered process with this worker slot and generation, else -1. Accepts any numbers."""

    # Counters are never reset: a new process of the same index adds to the values of the last one.
    def count(self, process: int, route: int, ending_number: int) -> None: ...
    def count_answered(self, process: int, route: int, status: int) -> None:
        """Count a request that has no slot and was answered with this status (200..599)."""

    def count_disposition(self, process: int, disposition: int) -> None: ...
    def add_tally(self, process: int, index: int, n: int) -> None:
        """Add n >= 0 to one of the TALLIES_MAX tallies."""

    def endings(self, route: int) -> tuple[int, ...]:
        """Counts by ending number, summed over processes. Answered requests of all status classes are included."""

    def answered(self, route: int) -> tuple[int, ...]:
        """Requests that services have answered, by status class (CLASSES), summed over processes."""

    def histogram(self, route: int, phase: int) -> tuple[tuple[int, ...], int]:
        """(counts by BUCKETS, not cumulative; sum in ns), summed over processes."""

    def dispositions(self) -> tuple[int, ...]:
        """Counts of reply records by disposition, summed over processes."""

    def tally(self, index: int) -> int:
        """The value of a tally, summed over processes."""

    # The whole table.
    def reclaim(self, process: int) -> tuple[int, int]:
        """Clean up after a dead process: unregister it and make all its slots usable. May be called again.

        Returns:
            (live slots reclaimed, unfinished claims repaired)
        """

    def waiting(self, limit: int) -> list[Waiting]:
        """The oldest `limit` live slots, oldest first. Slow: it reads every slot that was ever used."""

    def states(self, process: int) -> dict[int, int]:
        """The number of slots in each state; states without slots are left out."""

    def open_range(self, process: int) -> SlotRange:
        """ValueError if slots of the last owner have not been reclaimed."""

class SlotRange:
    """Claims and releases the slots of one process. The owning process opens it once and uses it on one thread.

    A token identifies one occupancy of one slot; a call with a stale token changes nothing. `now_ns` must not decrease.
    """

    process: int
    @property
    def in_flight(self) -> int:
        """The number of slots between claim and release."""

    def claim(self) -> int:
        """Claim the slot that has rested longest. Returns its index in the whole table (20 bits), or -1: none is free.

        The caller must then call `publish`, or `abandon` if there will be no request.
        """

    def publish(self, slot: int, tag: int, route: int, home: int, deadline_ns: int, now_ns: int) -> int:
        """Make the claimed slot live with `tag` (62 bits) and return its token. ValueError if it is not claimed.

        The request is of the kind SINGLE.
        """

    def publish_kind(self, slot: int, tag: int, route: int, home: int, kind: int, deadline_ns: int, now_ns: int) -> int:
        """Like `publish`, for a request of any kind. `home` is a partition of the topic that its id names."""

    def abandon(self, slot: int) -> None:
        """Give a claimed slot back without publishing it. ValueError if it is not claimed."""

    def sent(self, token: int, now_ns: int) -> bool:
        """Mark the slot as sent. False: it has ended, or was already marked as sent or recorded."""

    def recorded(self, token: int, now_ns: int) -> bool:
        """Mark the slot as recorded. False: it has ended, or was already marked as recorded."""

    def resolve(self, slot: int, tag: int) -> int:
        """A reply with this tag arrived on the response topic: live -> ANSWERED.

        Returns the token, or LATE, DUPLICATE, FORGED, or ELSEWHERE: the id names another topic, whose reader decides.
        """

    def resolve_elsewhere(self, slot: int, tag: int) -> int:
        """Like `resolve`, for a reply that was read from the topic that its id names; never ELSEWHERE."""

    def streaming(self, token: int) -> bool:
        """The first part of the answer has come: live -> STREAMING. False: it has ended, or is STREAMING already."""

    def extend(self, token: int, deadline_ns: int) -> bool:
        """Change the deadline of a live slot. False: it has ended."""

    def set_partition(self, token: int, partition: int) -> None:
        """Keep the partition to which the request's record went."""

    def partition(self, token: int) -> int:
        """The partition of the request's record; -1 while it is not known, or once the slot has been claimed again."""

    def finish(self, token: int, state: int) -> int:
        """Live -> `state`, one of ANSWERED, EXPIRED, CANCELLED, FAILED (else ValueError).

        Returns the live state that the slot had, or -1 if it had already ended.
        """

    def times(self, token: int) -> tuple[int, int, int, int]:
        """(claimed, sent, recorded, deadline) in ns, 0 = never. ValueError once the slot has been claimed again."""

    def release(self, token: int) -> None:
        """Put the slot of an ended occupancy at the end of the free slots. ValueError if not ended, or stale."""

    def settle(self, token: int, ending_number: int, now_ns: int) -> int:
        """Finish an occupancy after `resolve`: count its ending and its phases, and release it.

        Returns the ns from its acknowledgement to `now_ns`, -1 if it was never acknowledged. ValueError as `release`.
        """

    def settle_answered(self, token: int, status: int, now_ns: int) -> int:
        """Like `settle`, for a request that its service has answered; counts the class of `status` (200..599)."""

    def expired(self, now_ns: int, limit: int) -> list[int]:
        """Tokens of at most `limit` live slots whose deadline is <= now_ns. The slots stay live: call `finish`.

        One call visits at most 4096 + limit slots; the next call continues there. Slots that were not finished are
        reported again.
        """

    def live_before(self, ns: int, kinds: int = 1) -> int:
        """How many live slots of these kinds (bits, `1 << SINGLE`) were claimed before `ns`."""
