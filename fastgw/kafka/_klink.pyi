"""librdkafka for one event loop: types and contracts. _klink.pyx explains how it works.

One thread makes all calls. Only `close` and `flush` wait. Call `load` first. A closed client does nothing and reports
nothing.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from fastgw._ctable import SlotRange
from fastgw.messages import Reply

UNTRACKED: Final[int]  # the token of a record whose delivery is not reported
OFFSET_BEGINNING: Final[int]
OFFSET_END: Final[int]
REPLIES_MAX: Final[int]  # the most replies that `replies` gives at once
LAST_BATCH: Final[int]  # batches have the numbers from 1 to this one
NO_ROOM: Final[tuple[int, str]]  # what `send` returns for a record that does not fit into the `RecordMemory`

# Status of a failed record.
NOT_PERSISTED: Final[int]  # never sent to a broker, or refused by it: it is in no log
POSSIBLY_PERSISTED: Final[int]  # sent to a broker that did not acknowledge it
PERSISTED: Final[int]  # in the broker's log despite the error

class Delivered(NamedTuple):
    """A record is in its topic."""

    token: int
    at_ns: int  # when the delivery report was processed, monotonic
    partition: int  # to which the record went

class Undelivered(NamedTuple):
    """A record has failed; librdkafka will not retry it."""

    token: int
    code: int  # rd_kafka_resp_err_t
    status: int  # NOT_PERSISTED, POSSIBLY_PERSISTED, PERSISTED
    text: str
    partition: int  # to which it should go; -1: none was chosen

class ClientError(NamedTuple):
    """An error of a client, or of a partition that is read. librdkafka keeps trying unless the error is `fatal`."""

    code: int
    name: str  # "_TRANSPORT", "TOPIC_AUTHORIZATION_FAILED"
    text: str
    fatal: bool

class LogLine(NamedTuple):
    """A line of librdkafka's own log."""

    level: int  # as syslog: 0 emergency ... 7 debug
    facility: str
    text: str

class Statistics(NamedTuple):
    """librdkafka's statistics (its STATISTICS.md), every `statistics.interval.ms`."""

    text: str  # JSON

class Offsets(NamedTuple):
    """The answer to `ask_offsets`. A partition may be missing in both `found` and `failed`."""

    request: int
    found: dict[int, int]  # partition -> offset
    failed: dict[int, str]  # partition -> reason
    text: str  # the error if the whole request failed, else empty

def load(path: str) -> tuple[int, str]:
    """Look up every function that is used here in a librdkafka that this process has already loaded.

    Returns:
        Its version as a number (2.16.0 is 0x021000 and one more byte) and as text.

    Raises:
        OSError: the library at `path` is not loaded, or lacks a function that the text names.
    """

def clear(fd: int) -> bool:
    """Reset an eventfd or an alarm. False: it was not set."""

def alarm() -> int:
    """A new timer: a descriptor that becomes readable at the time that `set_alarm` sets.

    Raises:
        OSError: the process has too many descriptors.
    """

def set_alarm(fd: int, at_ns: int) -> None:
    """Set the alarm's time (monotonic), replacing an earlier one."""

class RecordMemory:
    """Counts the records of several producers, from `Producer.send` until their delivery reports were processed."""

    max_bytes: int
    held_bytes: int  # their values, keys and headers; headers count until all records of their batch are reported

    def __init__(self, max_bytes: int = ...) -> None: ...

def record_bytes(value: bytes, key: bytes | None, headers: list[tuple[str, bytes]]) -> int:
    """The size of a record as `RecordMemory` counts it."""

class Client:
    """Base class of both clients. Settings are librdkafka properties as text; ValueError reports an invalid one."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def fatal(self) -> tuple[int, str] | None:
        """Code and text of the fatal error that this client has had; None: it has had none."""

    def mute(self) -> None:
        """Stop writing to the event descriptors."""

    def close(self) -> None:
        """Destroy the client. Waits for librdkafka's threads, without the GIL."""

class Producer(Client):
    def __init__(
        self,
        settings: list[tuple[str, str]],
        slots: SlotRange | None,
        event_fd: int,
        partitioners: dict[str, str] | None = None,
        memory: RecordMemory | None = None,
    ) -> None:
        """
        Args:
            partitioners: topic -> librdkafka's name of the partitioner for records with a key; else the client's.
            memory: limits the records that wait, here and in other producers; None: no limit.
        """

    def events(self) -> list[Delivered | Undelivered | ClientError | LogLine | Statistics]:
        """All events since the last call; `event_fd` becomes readable when there are some.

        With `slots`, this call marks the slots of delivered records as recorded, and returns only those that are not of
        the kind SINGLE.
        """

    def preload_topic(self, topic: str) -> None:
        """Request a topic's metadata before the first record is sent to it."""

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
        partition: int,
        token: int,
        batch: int = 0,
        keyless_to: int = -1,
    ) -> tuple[int, str] | None:
        """Give a record to librdkafka, which copies it.

        Args:
            partition: -1: the partitioner chooses for a record with a key, `keyless_to` for a record without.
            token: identifies the record in later events: 0 or more and below 2^52 - 1, or UNTRACKED.
            batch: the number of its batch, up to LAST_BATCH; 0: it is unbatched.
            keyless_to: a number whose remainder by the partition count is the partition; -1: a random one per record.

        Returns:
            None; or code and text of the error, if librdkafka refused the record at once or there is no room for it
            (NO_ROOM).

        Raises:
            TypeError, ValueError: an argument has the wrong type, or the topic's name is invalid; nothing was sent.
        """

    def partitions(self, topic: str) -> int:
        """How many partitions a record without a key may go to, as of the last record sent; 0: not known yet."""

    def acknowledged(self) -> list[int]:
        """Batches whose last delivery report was processed by `events` since the last call."""

    def unbatched_since_ns(self) -> int:
        """When (monotonic) the oldest unbatched record without a delivery report was sent; 2^63 - 1 if there is none.

        This is approximate: while a record is stuck, records sent more than 100 ms after it share one time, that of the
        first of them.
        """

    def waiting(self) -> int:
        """The number of records without a delivery report, plus the events that `events` has not returned yet."""

    def flush(self, timeout_ms: int) -> None:
        """Send all records without lingering; wait for their delivery reports, or until the timeout."""

    def purge(self) -> None:
        """Give up all records. Each is reported as undelivered; one on its way to a broker as possibly persisted."""

class Consumer(Client):
    def __init__(
        self, settings: list[tuple[str, str]], topic: str, correlation_header: str, reply_fd: int, event_fd: int
    ) -> None: ...
    def events(self) -> list[ClientError | LogLine | Statistics | Offsets]:
        """All events since the last call; `event_fd` becomes readable when there are some."""

    def replies(self) -> list[Reply]:
        """The next fetched records, at most REPLIES_MAX; `reply_fd` becomes readable when there are new ones.

        Errors of partitions are returned by the next call of `events`.
        """

    def next_offset(self, partition: int) -> int:
        """The offset after the last record of this partition that `replies` has returned, or as it was set since."""

    def set_next_offset(self, partition: int, offset: int) -> None:
        """The next record of this partition will have this offset, or a later one. For partitions up to 4095."""

    def ask_offsets(self, partitions: Iterable[int], at: int, request: int, timeout_ms: int) -> None:
        """Ask for the offsets at OFFSET_BEGINNING or OFFSET_END. The answer is an event: `Offsets` with this `request`.

        Raises:
            ValueError: the consumer is closed.
        """

    def assign(self, offsets: dict[int, int]) -> tuple[int, str] | None:
        """Start reading these partitions from these offsets. Returns code and text if none of them could be added.

        Raises:
            ValueError: the consumer is closed.
        """

    def unassign(self, partitions: Collection[int]) -> tuple[int, str] | None:
        """Stop reading these partitions; their fetched records are dropped.

        Raises:
            ValueError: the consumer is closed.
        """
