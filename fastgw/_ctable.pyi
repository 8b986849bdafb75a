"""The shared correlation table: types and promises. How it works stands at the top of _ctable.pyx.

`process` is the index of a slot range: worker * 2 + generation % 2. Times are monotonic nanoseconds of one clock
that is the same in all processes (CLOCK_MONOTONIC). An argument outside of its range raises ValueError and changes
nothing.
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
STATE_NAMES: Final[tuple[str, ...]]  # by state number

# The verdict of `resolve` on a reply that nobody waits for.
LATE: Final[int]  # -1: the request ended without it
DUPLICATE: Final[int]  # -2: the request has been answered already
FORGED: Final[int]  # -3: neither this request nor the one before it in this slot

LAYOUT_VERSION: Final[int]
WORKERS_MAX: Final[int]
SLOTS_MAX: Final[int]  # of all ranges together
PARTITIONS_MAX: Final[int]
ROUTES_MAX: Final[int]  # rows of counters
UNROUTED: Final[int]  # the last of them: requests without a route; a route's number is below it
ENDINGS_MAX: Final[int]
DISPOSITIONS_MAX: Final[int]
TALLIES_MAX: Final[int]
UNOWNED: Final[int]  # 0xFF in the partition map: no worker of this node
NOT_READING: Final[int]  # 2**64 - 1: the process does not read this partition
NO_CONSUMER: Final[int]  # -1, in place of a time that requests would wait: their service has no consumer

CLASSES: Final[int]  # of answers' statuses: 2xx, 3xx, 4xx, 5xx
GAUGES_MAX: Final[int]
PHASES: Final[int]
QUEUE_TO_ACK: Final[int]
ACK_TO_REPLY: Final[int]
TOTAL: Final[int]
BUCKETS: Final[tuple[int, ...]]  # upper bounds in ns, inclusive, of histograms; the last, 2**64 - 1, takes all the rest

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
    body_bytes: int  # of request bodies that are coming in

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

def layout_size(workers: int, slots_per_process: int) -> int:
    """Bytes of a table. ValueError when 2 * workers * slots_per_process is above SLOTS_MAX or workers above 255."""

def format(fd: int, node: int, workers: int, slots_per_process: int) -> None:
    """Writes the header into a fresh, zeroed file of layout_size() bytes. ValueError when it is not that."""

class Table:
    """The mapped segment, seen by one process; stays mapped while the table or a range of it is alive."""

    node: int
    workers: int
    processes: int
    slots_per_process: int
    def __init__(self, fd: int) -> None:
        """Maps the table; `fd` may be closed afterwards. ValueError on wrong magic, version or size."""

    # The service.
    def set_service_draining(self, draining: bool = True) -> None: ...
    def service_draining(self) -> bool: ...
    def worker_starts(self, worker: int) -> int:
        """How many processes were ever registered for this worker slot."""

    # That the agent lives; one writer: the agent.
    def agent_beats(self, now_ns: int) -> None: ...
    def agent_beat_ns(self) -> int:
        """When it did so last, monotonic; 0: none has."""

    # How long requests would wait for their services; one writer: the agent.
    def write_waits(self, waits_ns: dict[int, int], now_ns: int) -> None:
        """Replaces what is known: route -> ns or NO_CONSUMER; 0 for every route that is not named."""

    def waits_written_ns(self) -> int:
        """When that was done last, monotonic; 0: never."""

    def wait_ns(self, route: int) -> int:
        """NO_CONSUMER, or how long a request would wait for its service; 0: not at all, as far as is known."""

    # The partition map; one writer: the agent.
    def write_map(self, owners: Buffer) -> int:
        """Replaces the map; one byte a partition, a worker slot or UNOWNED. Returns the new version."""

    def map_version(self) -> int:
        """0: never written."""

    def read_map(self) -> tuple[int, bytes]:
        """(version, owners), both of the same moment."""

    def map_owner(self, partition: int) -> int:
        """Worker slot that owns the partition now, or UNOWNED (also when there is no such partition)."""

    # Process records; a process writes its own, the supervisor may write for a dead one.
    def register(self, process: int, pid: int, worker: int, generation: int) -> None:
        """A clean record: not ready, not draining, reads nothing. `generation` is 0..255, as in the id."""

    def unregister(self, process: int) -> None:
        """Nobody lives here any more; harmless when nobody did."""

    def set_ready(self, process: int, ready: bool) -> None:
        """ValueError when nobody is registered."""

    def set_draining(self, process: int) -> None:
        """ValueError when nobody is registered."""

    def heartbeat(
        self, process: int, now_ns: int, in_flight: int, home_partition: int, applied_map_version: int
    ) -> None:
        """`home_partition` -1: none."""

    def set_body_bytes(self, process: int, body_bytes: int) -> None: ...
    def set_gauge(self, process: int, index: int, value: int) -> None:
        """Replaces one of GAUGES_MAX free numbers, >= 0, of the process; `register` and `unregister` make them 0."""

    def gauge(self, process: int, index: int) -> int: ...
    def set_reads_from(self, process: int, partition: int, offset: int) -> None:
        """From now on this process sees every record of `partition` from `offset` on; NOT_READING: none."""

    def reads_from(self, process: int, partition: int) -> int: ...
    def process_info(self, process: int) -> ProcessInfo | None:
        """None: nobody is registered."""

    def find(self, worker: int, generation: int) -> int:
        """Index of the registered process with this worker slot and generation, else -1. Takes any numbers."""

    # Counters: added to and never reset; a process that takes over a range goes on where the last one ended.
    def count(self, process: int, route: int, ending_number: int) -> None: ...
    def count_disposition(self, process: int, disposition: int) -> None: ...
    def add_tally(self, process: int, index: int, n: int) -> None:
        """Adds n >= 0 to one of TALLIES_MAX free counters."""

    def endings(self, route: int) -> tuple[int, ...]:
        """By ending number, summed over processes. Answered requests are in here, whatever their class."""

    def answered(self, route: int) -> tuple[int, ...]:
        """Requests that their services have answered, by class of the status (CLASSES), summed over processes."""

    def histogram(self, route: int, phase: int) -> tuple[tuple[int, ...], int]:
        """(how many in each bucket, by BUCKETS, not cumulative; sum in ns), summed over processes."""

    def dispositions(self) -> tuple[int, ...]:
        """Of reply records, by number, summed over processes."""

    def tally(self, index: int) -> int:
        """Summed over processes."""

    # The whole table.
    def reclaim(self, process: int) -> tuple[int, int]:
        """For a dead process: unregisters it and leaves all its slots usable. May be called again.

        Returns:
            (live slots reclaimed, half-way claims repaired)
        """

    def waiting(self, limit: int) -> list[Waiting]:
        """The oldest `limit` live slots, oldest first. Looks at every slot that was ever used: for people."""

    def states(self, process: int) -> dict[int, int]:
        """How many slots are in each state; states without slots are left out."""

    def open_range(self, process: int) -> SlotRange:
        """ValueError when slots of the last owner have not been reclaimed."""

class SlotRange:
    """The claiming side of one process's slots: opened once by the process that owns it, used by one thread.

    A token names one occupancy of one slot; a stale one never does anything. `now_ns` must never go back.
    """

    process: int
    @property
    def in_flight(self) -> int:
        """Slots between claim and release."""

    def claim(self) -> int:
        """The slot that has rested longest, as index in the whole table (20 bits), or -1 when all are taken.

        Next comes `publish`, or `abandon` when the request does not come about.
        """

    def publish(self, slot: int, tag: int, route: int, home: int, deadline_ns: int, now_ns: int) -> int:
        """Makes the claimed slot live under `tag` (62 bits) and returns its token. ValueError when not claimed."""

    def abandon(self, slot: int) -> None:
        """Gives a claimed slot back unpublished. ValueError when not claimed."""

    def sent(self, token: int, now_ns: int) -> bool:
        """False: it has ended already, or was marked sent or recorded before."""

    def recorded(self, token: int, now_ns: int) -> bool:
        """False: it has ended already, or was marked recorded before."""

    def resolve(self, slot: int, tag: int) -> int:
        """A reply with this tag came: live -> ANSWERED. Returns the token, or LATE, DUPLICATE, FORGED."""

    def finish(self, token: int, state: int) -> int:
        """Live -> `state`, one of ANSWERED EXPIRED CANCELLED FAILED (else ValueError).

        Returns the live state it was in when this call ended it, -1 when something else had ended it.
        """

    def times(self, token: int) -> tuple[int, int, int, int]:
        """(claimed, sent, recorded, deadline) in ns, 0 = never; right until the slot is claimed anew (ValueError)."""

    def release(self, token: int) -> None:
        """The slot of an ended occupancy goes to rest, last in the queue. ValueError when not ended or stale."""

    def settle(self, token: int, ending_number: int, now_ns: int) -> int:
        """All that is left to do for an occupancy that was resolved: counts its ending and its phases, and releases it.

        Returns the ns from its acknowledgement to `now_ns`, -1 when it was never acknowledged. ValueError as `release`.
        """

    def settle_answered(self, token: int, status: int, now_ns: int) -> int:
        """The same for one that its service has answered; `status` (200..599) is counted by its class."""

    def expired(self, now_ns: int, limit: int) -> list[int]:
        """Tokens of live slots whose deadline is <= now_ns, `limit` at most; they are still live: finish them.

        One call looks at 4096 + limit slots at most; where that is not enough the next call goes on.
        Tokens that are not finished are reported again by the next call.
        """

    def live_before(self, ns: int) -> int:
        """How many live slots were claimed before `ns`."""
